package daemon

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// running knows the walks over delegates that are under way, so that a call
// back is accepted only from one of them and ends with it. An undo walks under
// a context of its own, inside the request whose context may be dead.
type running struct {
	mu    sync.Mutex
	walks map[string][]*walk // by container, the latest last
}

type walk struct{ ctx context.Context } //nolint:containedctx // the life of a walk is what is kept here

func newRunning() *running { return &running{walks: map[string][]*walk{}} }

func (r *running) begin(ctx context.Context, containerID string) (done func()) {
	w := &walk{ctx}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.walks[containerID] = append(r.walks[containerID], w)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		rest := slices.DeleteFunc(r.walks[containerID], func(other *walk) bool { return other == w })
		if r.walks[containerID] = rest; len(rest) == 0 {
			delete(r.walks, containerID)
		}
	}
}

// outer is the context of the sandbox's latest walk.
func (r *running) outer(containerID string) (context.Context, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	walks := r.walks[containerID]
	if len(walks) == 0 {
		return nil, false
	}
	return walks[len(walks)-1].ctx, true
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

// holds says that an ADD for this sandbox comes too late. A sandbox that was
// deleted when its namespace was gone already is known by its ID alone.
func (g *graves) holds(key attach.Key, ns journal.Namespace) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, ok := g.buried[key]
	same := old.namespace == ns || old.namespace == journal.Namespace{}
	return ok && g.refuse && same && time.Now().Before(old.until)
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
