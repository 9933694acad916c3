// Package publish sends to the API server what a pod's owner should see: the
// network-status annotation and Events. It queues, so that no ADD waits for
// the API, and sends again until the API answers; only bounded memory is used.
//
// It is not a client: API does the calls. Invariants: at most one patch of a
// pod is under way; the last value given for a pod is the last one sent.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// StatusAnnotation is where network-status is written (NPWG specification
// v1.3, section 5).
const StatusAnnotation = "k8s.v1.cni.cncf.io/network-status"

// Event types, as Kubernetes has them.
const (
	Normal  = "Normal"
	Warning = "Warning"
)

// ErrForgotten ends a Wait for a pod whose status will not be sent any more:
// it was forgotten, dropped for want of room, or the pod is gone.
var ErrForgotten = errors.New("the network-status is not sent any more")

// API does the calls to the API server.
type API interface {
	// PatchPodStatus sets annotations through the pod's status subresource, with
	// the UID as precondition.
	PatchPodStatus(ctx context.Context, pod attach.Pod, annotations map[string]string) error
	// CreateEvent writes one Event about the pod.
	CreateEvent(ctx context.Context, e Event) error
}

// Event is something that happened to a pod, in words for its owner.
type Event struct {
	Pod attach.Pod
	// Type is Normal or Warning.
	Type string
	// Reason is a CamelCase word, such as AddedInterface.
	Reason string
	// Message is one sentence.
	Message string
}

// Options make a Publisher.
type Options struct {
	// API is nil in standalone mode: everything is only logged.
	API API
	// Gone is the error (errors.Is) of API by which a pod with this UID doesn't
	// exist any more; what is queued for it is dropped. May be nil.
	Gone error
	Log  *slog.Logger
}

const (
	maxPods   = 10_000
	maxEvents = 1_000
	callTime  = 10 * time.Second
	// Events live an hour in the API server by default, so that is how long it
	// is tried to write one.
	eventAge = time.Hour
)

// Publisher queues and sends. Its methods may be called from any goroutine.
type Publisher struct {
	api      API
	log      *slog.Logger
	statuses *lane
	events   *lane
	repeats  *repeats
	number   atomic.Uint64
}

// New makes a Publisher; nothing is sent before Run or Flush.
func New(o Options) *Publisher {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{api: o.API, log: o.Log, repeats: newRepeats()}
	p.statuses = newLane(laneOptions{
		what: "network-status", max: maxPods, gone: o.Gone, log: o.Log,
		rate: rate.NewLimiter(20, 50), send: p.sendStatus,
	})
	p.events = newLane(laneOptions{
		what: "event", max: maxEvents, gone: o.Gone, log: o.Log, age: eventAge,
		rate: rate.NewLimiter(10, 50), send: p.sendEvent,
	})
	return p
}

// podKey is the UID, or the name of a pod of which no UID is known.
func podKey(pod attach.Pod) string {
	if pod.UID != "" {
		return pod.UID
	}
	return pod.String()
}

// Status queues the value of the network-status annotation; an earlier value
// for the same pod that has not been sent is replaced.
func (p *Publisher) Status(pod attach.Pod, value string) {
	switch {
	case p.api == nil:
		p.log.Info("network-status", "pod", pod.String(), "status", value)
	case pod.Name == "":
		p.log.Debug("network-status of a sandbox without a pod is not published")
	default:
		p.statuses.put(podKey(pod), task{pod: pod, status: value})
	}
}

// Forget drops what is queued for a pod, because of its DEL. Not for the DEL
// of an older sandbox of a pod that has a new one: both have the same UID.
func (p *Publisher) Forget(pod attach.Pod) {
	p.statuses.forget(podKey(pod))
}

// Wait returns nil when the last status of the pod has been sent (or none was
// queued), ErrForgotten when it won't be, or the context's error.
func (p *Publisher) Wait(ctx context.Context, pod attach.Pod) error {
	if err := p.statuses.wait(ctx, podKey(pod)); err != nil {
		return fmt.Errorf("publish the network-status of pod %s: %w", pod, err)
	}
	return nil
}

// Event queues an Event. The same one (pod, reason, message) is sent at most
// once a minute; the next that is sent says how many were left out.
func (p *Publisher) Event(e Event) {
	if p.api == nil {
		p.logEvent(e)
		return
	}
	if e.Pod.Name == "" {
		p.log.Debug("event of a sandbox without a pod is not published", "reason", e.Reason, "message", e.Message)
		return
	}
	more, ok := p.repeats.pass(e, time.Now())
	if !ok {
		return
	}
	if more > 0 {
		e.Message += fmt.Sprintf(" (and %d times more before)", more)
	}
	key := strconv.FormatUint(p.number.Add(1), 10)
	p.events.put(key, task{pod: e.Pod, event: &e})
}

func (p *Publisher) logEvent(e Event) {
	level := slog.LevelInfo
	if e.Type == Warning {
		level = slog.LevelWarn
	}
	p.log.Log(context.Background(), level, e.Message, "pod", e.Pod.String(), "reason", e.Reason)
}

// Pending counts what waits to be sent.
func (p *Publisher) Pending() (statuses, events int) {
	return p.statuses.size(), p.events.size()
}

// Run sends until the context ends, then returns nil; what is not sent stays
// queued for Flush.
func (p *Publisher) Run(ctx context.Context) error {
	if p.api == nil {
		<-ctx.Done()
		return nil
	}
	var group errgroup.Group
	group.Go(func() error { p.statuses.run(ctx); return nil })
	group.Go(func() error { p.events.run(ctx); return nil })
	return group.Wait()
}

// Flush tries everything that is queued once, without regard to rate and
// back-off, until the context ends. It is for the time after Run has ended; the
// error says how much is left.
func (p *Publisher) Flush(ctx context.Context) error {
	if p.api == nil {
		return nil
	}
	var group errgroup.Group
	group.Go(func() error { p.statuses.flush(ctx); return nil })
	group.Go(func() error { p.events.flush(ctx); return nil })
	_ = group.Wait() // the functions return no error; what is left is counted
	statuses, events := p.Pending()
	if statuses+events == 0 {
		return nil
	}
	return fmt.Errorf("publish: %d network-status and %d events could not be sent: %w",
		statuses, events, errors.Join(p.statuses.failure(), p.events.failure(), ctx.Err()))
}

func (p *Publisher) sendStatus(ctx context.Context, t task) error {
	return p.api.PatchPodStatus(ctx, t.pod, map[string]string{StatusAnnotation: t.status})
}

func (p *Publisher) sendEvent(ctx context.Context, t task) error {
	return p.api.CreateEvent(ctx, *t.event)
}
