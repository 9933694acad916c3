package crd

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/meta-cni/meta-cni/pkg/kube"
)

// settleTime is how long a reader waits, after the start of a follow, for the
// API server's first answer.
const settleTime = 2 * time.Second

// source is a list of the API server and its changes.
type source struct {
	// what is followed, such as ippools.meta-cni.io, and an example of it.
	what    string
	example runtime.Object
	list    func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error)
	watch   func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// follow is in step with a source and keeps of each object, by its name, only
// what keep makes of it. Its methods are those of a reflector's store besides.
type follow[V any] struct {
	source source
	log    *slog.Logger
	keep   func(metav1.Object) (V, bool)

	mu      sync.Mutex
	bell    chan struct{} // closed and replaced at each change
	objects map[string]V
	synced  bool
	running bool
	started time.Time
	failure error // of the last attempt, explained; nil when it worked
}

func newFollow[V any](from source, log *slog.Logger, keep func(metav1.Object) (V, bool)) *follow[V] {
	return &follow[V]{source: from, log: log, keep: keep, bell: make(chan struct{}), objects: map[string]V{}}
}

// begun says that run is about to be called, so that settle waits already.
func (f *follow[V]) begun() {
	f.change(func() { f.running, f.started = true, time.Now() })
}

// run follows until ctx ends; a failure is tried again with a back-off.
func (f *follow[V]) run(ctx context.Context) {
	f.begun()
	defer f.change(func() { f.running = false })
	silence := logr.Discard() // failures are noted here, once
	from := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			objects, err := f.source.list(ctx, o)
			f.note(ctx, err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := f.source.watch(ctx, o)
			if o.SendInitialEvents == nil || !apierrors.IsInvalid(err) {
				// An API server too old for streamed lists says Invalid, and a
				// plain list follows.
				f.note(ctx, err)
			}
			return w, err
		},
	}
	reflector := cache.NewReflectorWithOptions(from, f.source.example, f, cache.ReflectorOptions{Logger: &silence, Name: f.source.what})
	reflector.RunWithContext(klog.NewContext(ctx, silence))
}

// note keeps the outcome of an attempt and logs a change of it.
func (f *follow[V]) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	err = kube.Explain(err, "list and watch", f.source.what)
	var before error
	f.change(func() { before, f.failure = f.failure, err })
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		f.log.Warn("the API server can't be followed; it is tried again", "what", f.source.what, "error", err)
	case err == nil && before != nil:
		f.log.Info("the API server is followed again", "what", f.source.what)
	}
}

func (f *follow[V]) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.bell)
	f.bell = make(chan struct{})
}

// changed is closed at the next change of anything.
func (f *follow[V]) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bell
}

// settle waits, in the first moments of a run (limit), until the first list is
// there or an attempt has failed. It says whether the first list is there.
func (f *follow[V]) settle(ctx context.Context, limit time.Duration) bool {
	f.mu.Lock()
	ctx, cancel := context.WithDeadline(ctx, f.started.Add(limit))
	f.mu.Unlock()
	defer cancel()
	for {
		f.mu.Lock()
		bell, synced, hopeless := f.bell, f.synced, !f.running || f.failure != nil
		f.mu.Unlock()
		if synced || hopeless {
			return synced
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return f.inStep()
		}
	}
}

func (f *follow[V]) inStep() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

func (f *follow[V]) runs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

// why is what keeps it from being in step.
func (f *follow[V]) why() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

// fails says that the last attempt did.
func (f *follow[V]) fails() bool { return f.why() != nil }

func (f *follow[V]) get(name string) (V, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, ok := f.objects[name]
	return value, ok
}

func (f *follow[V]) all() map[string]V {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.objects)
}

// Add implements cache.ReflectorStore.
func (f *follow[V]) Add(o any) error { return f.Update(o) }

// Update implements cache.ReflectorStore.
func (f *follow[V]) Update(o any) error {
	accessor, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	f.change(func() { f.put(f.objects, accessor) })
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *follow[V]) Delete(o any) error {
	accessor, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	f.change(func() { delete(f.objects, accessor.GetName()) })
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *follow[V]) Replace(list []any, _ string) error {
	objects := make(map[string]V, len(list))
	for _, o := range list {
		accessor, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		f.put(objects, accessor)
	}
	f.change(func() { f.objects, f.synced = objects, true })
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *follow[V]) Resync() error { return nil }

// Transformer implements cache.TransformingStore: a streamed list is gathered
// in memory first, without what nobody reads.
func (f *follow[V]) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if accessor, err := meta.Accessor(o); err == nil {
			accessor.SetManagedFields(nil)
			accessor.SetAnnotations(nil)
		}
		return o, nil
	}
}

func (f *follow[V]) put(objects map[string]V, o metav1.Object) {
	if value, ok := f.keep(o); ok {
		objects[o.GetName()] = value
	} else {
		delete(objects, o.GetName())
	}
}
