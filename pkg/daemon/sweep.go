package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/netns"
)

const (
	// staleAfter is how long the runtime has, after a reboot, to DEL the
	// sandboxes of the boot before; then they are removed without it. None of
	// them can be alive.
	staleAfter = 5 * time.Minute
	// goneAfter is how long the namespace of an attachment set must be gone
	// before the set is removed without a DEL: the runtime's own DEL, which may
	// come after the namespace went, has this time.
	goneAfter = 3 * time.Minute
	// A removal that fails is tried again after firstPause, then twice as long
	// each time, up to lastPause.
	firstPause = 10 * time.Second
	lastPause  = 5 * time.Minute
)

// sweeper removes what no request will: the rest of a failed undo or DEL,
// sandboxes of an earlier boot, and sandboxes whose namespace went without a
// DEL. Nothing else is proof that a sandbox is dead.
type sweeper struct {
	d     *Daemon
	start time.Time

	mu     sync.Mutex
	sights map[attach.Key]*sight
	pauses map[attach.Key]pause
}

// sight is what was seen of a set's namespace.
type sight struct {
	// folder is the file system that held the namespace's file when it was seen
	// alive: if it is another one now, what we see is not the node's.
	folder uint64
	gone   time.Time
}

type pause struct {
	until time.Time
	next  time.Duration
}

func newSweeper(d *Daemon) *sweeper {
	return &sweeper{d: d, start: time.Now(), sights: map[attach.Key]*sight{}, pauses: map[attach.Key]pause{}}
}

// Sweep works until ctx ends.
func (d *Daemon) Sweep(ctx context.Context, every time.Duration) {
	s := newSweeper(d)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.sweep(ctx, now)
		}
	}
}

func (s *sweeper) sweep(ctx context.Context, now time.Time) {
	known := map[attach.Key]bool{}
	var work []func(context.Context)
	for _, set := range s.d.opts.Journal.Sets() {
		known[set.Key()] = true
		state := set.State()
		if s.due(set.Key(), &state, now) {
			work = append(work, func(ctx context.Context) { s.remove(ctx, set, state.Phase, now) })
		}
	}
	inParallel(ctx, work, 8)
	s.forget(known)
}

// due says whether a set is to be removed now.
func (s *sweeper) due(key attach.Key, state *journal.State, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.pauses[key].until) {
		return false
	}
	switch {
	case state.Phase != journal.Committed:
		return true // unless its turn is taken: then somebody works on it
	case state.BootID != s.d.opts.Journal.BootID():
		return now.Sub(s.start) > staleAfter
	default:
		return s.look(key, state, now)
	}
}

// look follows a committed set's namespace; true when it was seen alive and
// has been gone for goneAfter.
func (s *sweeper) look(key attach.Key, state *journal.State, now time.Time) bool {
	folder, err := fileSystem(filepath.Dir(state.Plan.Netns))
	if err != nil {
		return false
	}
	seen := s.sights[key]
	if alive(state) {
		s.sights[key] = &sight{folder: folder}
		return false
	}
	if seen == nil || seen.folder != folder {
		return false
	}
	if seen.gone.IsZero() {
		seen.gone = now
	}
	return now.Sub(seen.gone) >= goneAfter
}

// alive is false only when the set's own namespace certainly isn't at its
// path: a plain file there may be a mount that we have lost sight of.
func alive(state *journal.State) bool {
	h, err := netns.Open(state.Plan.Netns)
	if err != nil {
		return !errors.Is(err, netns.ErrGone)
	}
	id := h.ID()
	_ = h.Close()
	return id.Dev == state.NetnsDev && id.Inode == state.NetnsInode
}

func fileSystem(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("no device number")
	}
	return st.Dev, nil
}

// remove removes a set in its sandbox's turn, unless a request has it or has
// changed it since it was looked at.
func (s *sweeper) remove(ctx context.Context, set *journal.Set, phase journal.Phase, now time.Time) {
	leave, ok := s.d.order.tryEnter(set.Key().ContainerID)
	if !ok {
		return
	}
	defer leave()
	if current, ok := s.d.opts.Journal.Get(set.Key()); !ok || current != set || set.State().Phase != phase {
		return
	}
	s.d.forget(set)
	err := s.d.finish(ctx, set)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.pauses, set.Key())
		return
	}
	p := s.pauses[set.Key()]
	p.next = min(max(2*p.next, firstPause), lastPause)
	p.until = now.Add(p.next)
	s.pauses[set.Key()] = p
}

// forget drops what is kept of sets that are gone.
func (s *sweeper) forget(known map[attach.Key]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.sights {
		if !known[key] {
			delete(s.sights, key)
		}
	}
	for key := range s.pauses {
		if !known[key] {
			delete(s.pauses, key)
		}
	}
}
