package daemon

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// running knows the requests that have delegates running, so that a call back
// is accepted only for one of them and ends with it.
type running struct {
	mu   sync.Mutex
	ctxs map[string]context.Context //nolint:containedctx // the life of a request is what is kept here
}

func newRunning() *running { return &running{ctxs: map[string]context.Context{}} }

func (r *running) begin(ctx context.Context, containerID string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctxs[containerID] = ctx
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ctxs, containerID)
	}
}

// outer is the context of the sandbox's running request.
func (r *running) outer(containerID string) (context.Context, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, ok := r.ctxs[containerID]
	return ctx, ok
}

// graveTime is how long a deleted sandbox is remembered.
const graveTime = time.Minute

// graves remember sandboxes that were just deleted, so that an ADD that comes
// late (kubelet gave up on it) isn't begun, and a DEL asked again is cheap. In
// standalone use the same container may be added again at once, so that only
// the second holds there.
type graves struct {
	refuse bool
	mu     sync.Mutex
	buried map[attach.Key]grave
}

type grave struct {
	namespace journal.Namespace
	until     time.Time
}

func newGraves(refuse bool) *graves {
	return &graves{refuse: refuse, buried: map[attach.Key]grave{}}
}

func (g *graves) bury(key attach.Key, ns journal.Namespace) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(g.buried, func(_ attach.Key, old grave) bool { return now.After(old.until) })
	g.buried[key] = grave{namespace: ns, until: now.Add(graveTime)}
}

// holds says that an ADD for this sandbox comes too late.
func (g *graves) holds(key attach.Key, ns journal.Namespace) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, ok := g.buried[key]
	return ok && g.refuse && old.namespace == ns && time.Now().Before(old.until)
}

// knows says that everything of this set is gone already.
func (g *graves) knows(key attach.Key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, ok := g.buried[key]
	return ok && time.Now().Before(old.until)
}

// open forgets a set that is being added again.
func (g *graves) open(key attach.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.buried, key)
}
