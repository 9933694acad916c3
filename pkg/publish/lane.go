package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	parallel     = 8
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 30 * time.Second
	tellDropped  = time.Minute
)

// task is one thing to send: a status or an event.
type task struct {
	pod    attach.Pod
	status string
	event  *Event
}

// entry is a task in a lane.
type entry struct {
	task
	number   uint64 // order of arrival
	version  int    // grows when the task is replaced
	born     time.Time
	due      time.Time
	attempts int
	busy     bool // a call is under way
	flushed  uint64
	// forgotten marks a busy entry that nobody wants any more: it stays until
	// its call is over, so that a newer task of the same key can't overtake it.
	forgotten bool
	outcome   *outcome
}

// outcome is what waiters hear of.
type outcome struct {
	done chan struct{}
	err  error // once done is closed
}

func newOutcome() *outcome { return &outcome{done: make(chan struct{})} }

type laneOptions struct {
	what string
	max  int
	// age is how long a task is tried; 0 means for ever.
	age  time.Duration
	gone error
	log  *slog.Logger
	rate *rate.Limiter
	send func(context.Context, task) error
}

// lane is a bounded queue of tasks by key that are sent at a limited rate and
// again after a failure.
type lane struct {
	laneOptions
	wake chan struct{}
	free chan struct{} // one token for each call under way

	flushing sync.Mutex // one flush at a time

	mu      sync.Mutex
	entries map[string]*entry
	number  uint64
	flushes uint64
	last    error // of the last failed call; nil after a success
	outage  bool  // a failure was logged, and no recovery since
	dropped int
	told    time.Time
}

func newLane(o laneOptions) *lane {
	return &lane{
		laneOptions: o,
		wake:        make(chan struct{}, 1),
		free:        make(chan struct{}, parallel),
		entries:     map[string]*entry{},
	}
}

func (l *lane) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

func (l *lane) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// put queues a task, or replaces the one of the same key.
func (l *lane) put(key string, t task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if e := l.entries[key]; e != nil {
		e.task, e.due, e.attempts, e.flushed = t, now, 0, 0
		e.version++
		if e.forgotten {
			e.forgotten, e.outcome = false, newOutcome()
		}
		l.nudge()
		return
	}
	if len(l.entries) >= l.max {
		l.dropOldest(now)
	}
	l.number++
	l.entries[key] = &entry{task: t, number: l.number, born: now, due: now, outcome: newOutcome()}
	l.nudge()
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) dropOldest(now time.Time) {
	oldest := ""
	for key, e := range l.entries {
		if e.busy {
			continue
		}
		if oldest == "" || e.number < l.entries[oldest].number {
			oldest = key
		}
	}
	l.drop(oldest, now, "too many are waiting for the API server")
}

// drop gives an entry up for want of room or time, and tells it at most once
// a minute.
func (l *lane) drop(key string, now time.Time, why string) {
	l.finish(key, ErrForgotten)
	l.dropped++
	if !l.told.IsZero() && now.Sub(l.told) < tellDropped {
		return
	}
	l.log.Warn("dropped what could not be published", "what", l.what, "why", why, "dropped", l.dropped, "error", l.last)
	l.told, l.dropped = now, 0
}

// finish takes an entry out and frees who waits for it.
func (l *lane) finish(key string, err error) {
	e := l.entries[key]
	if e == nil || e.forgotten {
		return
	}
	e.outcome.err = err
	close(e.outcome.done)
	if e.busy {
		e.forgotten = true
		return
	}
	delete(l.entries, key)
}

func (l *lane) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finish(key, ErrForgotten)
}

func (l *lane) wait(ctx context.Context, key string) error {
	l.mu.Lock()
	e := l.entries[key]
	if e == nil || e.forgotten {
		l.mu.Unlock()
		return nil
	}
	o := e.outcome
	l.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		if err := l.failure(); err != nil {
			return fmt.Errorf("%w; the last try failed: %w", ctx.Err(), err)
		}
		return ctx.Err()
	}
}

// run sends what is due until the context ends, and ends the calls under way.
func (l *lane) run(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for l.awaitDue(ctx) && l.rate.Wait(ctx) == nil && l.acquire(ctx) {
		l.mu.Lock()
		key, e := l.next(func(e *entry) bool { return !e.due.After(time.Now()) })
		l.mu.Unlock()
		if e == nil { // forgotten meanwhile
			<-l.free
			continue
		}
		calls.Go(func() { l.call(ctx, key, e) })
	}
}

func (l *lane) acquire(ctx context.Context) bool {
	select {
	case l.free <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitDue returns true as soon as an entry is due, false when the context has
// ended.
func (l *lane) awaitDue(ctx context.Context) bool {
	for {
		timer := time.NewTimer(l.untilDue())
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-l.wake:
			timer.Stop()
		case <-timer.C:
			return true
		}
	}
}

// untilDue is how long until an entry is due; an hour when there is none.
func (l *lane) untilDue() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := time.Hour
	now := time.Now()
	for _, e := range l.entries {
		if !e.busy {
			wait = min(wait, e.due.Sub(now))
		}
	}
	return wait
}

// next marks the entry that is due first, among those that want accepts, as
// busy and returns it.
func (l *lane) next(want func(*entry) bool) (key string, first *entry) {
	for k, e := range l.entries {
		if e.busy || !want(e) {
			continue
		}
		if first == nil || e.due.Before(first.due) || e.due.Equal(first.due) && e.number < first.number {
			key, first = k, e
		}
	}
	if first != nil {
		first.busy = true
	}
	return key, first
}

// call sends an entry that is marked busy, and gives the token back.
func (l *lane) call(ctx context.Context, key string, e *entry) {
	l.mu.Lock()
	t, version := e.task, e.version
	l.mu.Unlock()
	callCtx, cancel := context.WithTimeout(ctx, callTime)
	err := l.send(callCtx, t)
	cancel()
	<-l.free
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.nudge()
	e.busy = false
	if e.forgotten {
		delete(l.entries, key)
		return
	}
	switch {
	case err == nil:
		l.recovered()
		if e.version == version {
			l.finish(key, nil)
		}
	case l.gone != nil && errors.Is(err, l.gone):
		l.log.Debug("not published: the pod is gone", "what", l.what, "pod", t.pod.String())
		l.finish(key, ErrForgotten)
	case ctx.Err() != nil:
		// The daemon stops; the entry stays for Flush.
	default:
		l.retry(key, e, version, err)
	}
}

func (l *lane) recovered() {
	if l.outage {
		l.log.Info("publishing works again", "what", l.what, "waiting", len(l.entries)-1)
	}
	l.last, l.outage = nil, false
}

// retry sets the time of the next try. A failure is logged when it is the
// first after a success, and when an entry stays behind.
func (l *lane) retry(key string, e *entry, version int, err error) {
	now := time.Now()
	if e.attempts == 0 && !l.outage || e.attempts == 8 {
		l.outage = true
		l.log.Warn("publishing failed and is tried again", "what", l.what, "pod", e.pod.String(), "attempts", e.attempts+1,
			"waiting", len(l.entries), "error", err)
	}
	l.last = err
	if e.version != version {
		return // a newer value is due at once
	}
	if l.age > 0 && now.Sub(e.born) > l.age {
		l.drop(key, now, "tried for "+l.age.String())
		return
	}
	e.due = now.Add(backoff(e.attempts))
	e.attempts++
}

// backoff doubles from 100 ms to 30 s, with half of it random, so that the
// nodes don't come back in step after an outage.
func backoff(attempts int) time.Duration {
	d := min(firstBackoff<<min(attempts, 10), maxBackoff)
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, keeps no secret
}

// flush tries every entry once, at once, and waits for the calls under way,
// those that Run began too.
func (l *lane) flush(ctx context.Context) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	l.flushes++
	round := l.flushes
	l.mu.Unlock()
	l.flushRound(ctx, round)
	l.awaitIdle(ctx)
	l.flushRound(ctx, round)
}

// flushRound sends until every entry has been tried in this round; a value
// that is replaced meanwhile is tried again.
func (l *lane) flushRound(ctx context.Context, round uint64) {
	for more := true; more; {
		more = false
		var calls sync.WaitGroup
		for l.acquire(ctx) {
			key, e := l.nextFlush(round)
			if e == nil {
				<-l.free
				break
			}
			more = true
			calls.Go(func() { l.call(ctx, key, e) })
		}
		calls.Wait()
	}
}

func (l *lane) nextFlush(round uint64) (string, *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key, e := l.next(func(e *entry) bool { return e.flushed < round })
	if e != nil {
		e.flushed = round
	}
	return key, e
}

// awaitIdle waits until no call is under way.
func (l *lane) awaitIdle(ctx context.Context) {
	tokens := 0
	for tokens < parallel && l.acquire(ctx) {
		tokens++
	}
	for range tokens {
		<-l.free
	}
}
