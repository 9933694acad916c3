package daemon

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// order gives one sandbox's requests their order: first come, first served,
// one at a time. Requests of other sandboxes are not affected.
type order struct {
	mu   sync.Mutex
	keys map[string]*turn
}

// turn is a lock whose waiters are served in order and can give up.
type turn struct {
	lock  *semaphore.Weighted
	users int
}

func newOrder() *order { return &order{keys: map[string]*turn{}} }

// enter waits for the key's turn. leave must be called after a nil error.
func (o *order) enter(ctx context.Context, key string) (leave func(), err error) {
	t := o.turn(key)
	if err := t.lock.Acquire(ctx, 1); err != nil {
		o.drop(key, t)
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("an earlier request for the same sandbox is still running: %w", context.Cause(ctx)))
	}
	return o.leave(key, t), nil
}

// tryEnter is enter without waiting.
func (o *order) tryEnter(key string) (leave func(), ok bool) {
	t := o.turn(key)
	if !t.lock.TryAcquire(1) {
		o.drop(key, t)
		return nil, false
	}
	return o.leave(key, t), true
}

func (o *order) turn(key string) *turn {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.keys[key]
	if t == nil {
		t = &turn{lock: semaphore.NewWeighted(1)}
		o.keys[key] = t
	}
	t.users++
	return t
}

func (o *order) leave(key string, t *turn) func() {
	return func() {
		t.lock.Release(1)
		o.drop(key, t)
	}
}

func (o *order) drop(key string, t *turn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(o.keys, key)
	}
}

// lane bounds how many requests of one kind run at once. Waiters are served in
// their order; beyond a queue of maxQueue they are told to come back.
type lane struct {
	name    string
	slots   *semaphore.Weighted
	waiting atomic.Int64
}

const maxQueue = 1024

func newLane(name string, slots int) *lane {
	return &lane{name: name, slots: semaphore.NewWeighted(int64(slots))}
}

func (l *lane) enter(ctx context.Context) (leave func(), err error) {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxQueue {
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("%d %s requests are waiting already", maxQueue, l.name))
	}
	if err := l.slots.Acquire(ctx, 1); err != nil {
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("no %s could be started in time: %w", l.name, context.Cause(ctx)))
	}
	return func() { l.slots.Release(1) }, nil
}
