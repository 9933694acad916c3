package probe

import (
	"context"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// turn is one interface of one namespace.
type turn struct {
	ns     netns.ID
	ifName string
}

// turns let one call at a time work on an interface: another would find it up,
// and lose it when the first puts it down again.
type turns struct {
	mu    sync.Mutex
	taken map[turn]*place
}

// place has one token; waiting counts those who have it or want it.
type place struct {
	token   chan struct{}
	waiting int
}

// enter waits for the turn. leave must be called when it was given.
func (t *turns) enter(ctx context.Context, at turn) (leave func(), err error) {
	t.mu.Lock()
	p := t.taken[at]
	if p == nil {
		p = &place{token: make(chan struct{}, 1)}
		t.taken[at] = p
	}
	p.waiting++
	t.mu.Unlock()
	select {
	case p.token <- struct{}{}:
		return func() { <-p.token; t.forget(at, p) }, nil
	case <-ctx.Done():
		t.forget(at, p)
		return nil, context.Cause(ctx)
	}
}

func (t *turns) forget(at turn, p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.waiting--
	if p.waiting == 0 {
		delete(t.taken, at)
	}
}
