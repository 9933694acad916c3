package kube

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// feed is one informer with its health, and a bell that rings at every change
// of either, so that readers wait without polling.
type feed struct {
	what     string
	log      *slog.Logger
	reach    *reach
	informer cache.SharedIndexInformer

	mu      sync.Mutex
	bell    chan struct{}
	running bool
	started time.Time // of the last run
	failure error     // of the last attempt to list or watch, explained; nil when it worked
}

func newFeed(what string, log *slog.Logger, reach *reach, example runtime.Object, transform cache.TransformFunc, list cache.ListWithContextFunc, watchFunc cache.WatchFuncWithContext) *feed {
	f := &feed{what: what, log: log, reach: reach, bell: make(chan struct{})}
	reach.onChange(f.ring)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			objects, err := list(ctx, o)
			f.note(ctx, err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := watchFunc(ctx, o)
			if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) {
				// An API server too old for streamed lists says Invalid, and a
				// plain list follows.
				f.note(ctx, err)
			}
			return w, err
		},
	}
	f.informer = cache.NewSharedIndexInformerWithOptions(lw, example, cache.SharedIndexInformerOptions{ObjectDescription: what})
	// These fail only on an informer that has been started.
	_ = f.informer.SetTransform(transform)
	_ = f.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		// A failure to begin has been noted already; this one is of a stream.
		if !f.failing() && !errors.Is(err, io.EOF) && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			f.note(ctx, err)
		}
	})
	_, _ = f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { f.ring() },
		UpdateFunc: func(any, any) { f.ring() },
		DeleteFunc: func(any) { f.ring() },
	})
	return f
}

// run keeps the informer going until ctx ends.
func (f *feed) run(ctx context.Context) {
	f.setRunning(true)
	defer f.setRunning(false)
	// The feed logs failures itself, once; the reflector would repeat them.
	ctx = klog.NewContext(ctx, logr.Discard())
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-f.informer.HasSyncedChecker().Done():
			f.log.Info("in step with the API server", "what", f.what, "objects", len(f.informer.GetStore().ListKeys()))
			f.ring()
		case <-ctx.Done():
		}
	})
	f.informer.RunWithContext(ctx)
	wg.Wait()
}

func (f *feed) setRunning(running bool) {
	f.mu.Lock()
	f.running = running
	if running {
		f.started = time.Now()
	}
	f.mu.Unlock()
	f.ring()
}

// note keeps the outcome of an attempt and logs a change of it.
func (f *feed) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	var unanswered *url.Error
	told := errors.As(err, &unanswered) // by reach, once for all feeds
	err = explain(err, "list and watch", f.what)
	f.mu.Lock()
	before := f.failure
	f.failure = err
	f.mu.Unlock()
	switch {
	case err != nil && !told && (before == nil || before.Error() != err.Error()):
		f.log.Warn("the API server can't be followed; it is tried again", "what", f.what, "error", err)
	case err == nil && before != nil:
		f.log.Info("the API server is followed again", "what", f.what)
	}
	if err != nil {
		f.ring()
	}
}

func (f *feed) ring() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.bell)
	f.bell = make(chan struct{})
}

// wait returns when done says so or ctx ends; done is asked again at each
// change.
func (f *feed) wait(ctx context.Context, done func() bool) {
	for {
		f.mu.Lock()
		bell := f.bell
		f.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return
		}
	}
}

// synced says that the informer has had a whole list.
func (f *feed) synced() bool { return f.informer.HasSynced() }

// broken says that waiting doesn't help: the informer doesn't run, its last
// attempt failed, or the API server doesn't answer.
func (f *feed) broken() bool {
	if f.reach.away() != nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.running || f.failure != nil
}

func (f *feed) failing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure != nil
}

// silent says that the API server hasn't answered what the informer asked.
func (f *feed) silent() bool {
	away := f.reach.away() != nil
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running && (away || f.failure == nil || !answered(f.failure))
}

// settle waits, in the first moments of a run, until the informer has synced
// or has failed.
func (f *feed) settle(ctx context.Context) {
	f.mu.Lock()
	ctx, cancel := context.WithDeadline(ctx, f.started.Add(settleTime))
	f.mu.Unlock()
	defer cancel()
	f.wait(ctx, func() bool { return f.synced() || f.broken() })
}

// ready is why the feed can't be relied on yet, in words.
func (f *feed) ready() error {
	if f.synced() {
		return nil
	}
	away := f.reach.away()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.running:
		return errors.New(f.what + ": not started")
	case f.failure != nil:
		return f.failure
	case away != nil:
		return explain(away, "list and watch", f.what)
	}
	return errors.New(f.what + ": waiting for the API server's first list")
}

// get is the stored object, or nil.
func (f *feed) get(namespace, name string) any {
	object, exists, err := f.informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !exists {
		return nil
	}
	return object
}
