package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// order gives one sandbox's requests their order: first come, first served,
// one at a time. Requests of other sandboxes are not affected.
type order struct {
	// width is how many may have one key's turn at once.
	width int64
	mu    sync.Mutex
	keys  map[string]*turn
}

// turn is a lock whose waiters are served in order and can give up.
type turn struct {
	lock  *semaphore.Weighted
	users int
}

func newOrder() *order { return &order{width: 1, keys: map[string]*turn{}} }

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
		t = &turn{lock: semaphore.NewWeighted(o.width)}
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
// their order; beyond a queue of maxQueue they are told to come back. One
// further network has at most half of the lane, so that a network that hangs
// doesn't hold up pods without it.
type lane struct {
	name    string
	slots   *semaphore.Weighted
	share   *order
	waiting atomic.Int64
}

const maxQueue = 1024

func newLane(name string, slots int) *lane {
	share := newOrder()
	share.width = int64(max(1, slots/2))
	return &lane{name: name, slots: semaphore.NewWeighted(int64(slots)), share: share}
}

// enter waits for a place; leave must be called after a nil error. plan is nil
// for a request that runs no delegate of its own.
func (l *lane) enter(ctx context.Context, plan *attach.Plan) (leave func(), err error) {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxQueue {
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("%d %s requests are waiting already", maxQueue, l.name))
	}
	shares, err := l.enterAll(ctx, furtherNetworks(plan))
	if err != nil {
		return nil, err
	}
	if err := l.slots.Acquire(ctx, 1); err != nil {
		shares()
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("no %s could be started in time: %w", l.name, context.Cause(ctx)))
	}
	return func() {
		l.slots.Release(1)
		shares()
	}, nil
}

// enterAll takes a share of each network. It waits for one while it holds no
// other, so that a network that hangs doesn't use up the shares of another.
func (l *lane) enterAll(ctx context.Context, networks []string) (leave func(), err error) {
	first := ""
	for {
		var leaves []func()
		leave := func() {
			for _, f := range leaves {
				f()
			}
		}
		if first != "" {
			out, err := l.share.enter(ctx, first)
			if err != nil {
				return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("network %s is busy: no %s could be started in time: %w", first, l.name, context.Cause(ctx)))
			}
			leaves = append(leaves, out)
		}
		busy := ""
		for _, network := range networks {
			if network == first {
				continue
			}
			out, ok := l.share.tryEnter(network)
			if !ok {
				busy = network
				break
			}
			leaves = append(leaves, out)
		}
		if busy == "" {
			return leave, nil
		}
		leave()
		first = busy
	}
}

// furtherNetworks are the networks beside the primary, each once.
func furtherNetworks(plan *attach.Plan) []string {
	if plan == nil {
		return nil
	}
	var names []string
	for _, d := range plan.Delegates {
		if !d.Primary {
			names = append(names, d.Network)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
