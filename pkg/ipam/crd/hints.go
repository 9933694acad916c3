package crd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	// hintAddrs is how large a range may be for its claims to be watched.
	hintAddrs = 4096
	// hintBlocks is how many blocks a watch names; beyond, it is of the space.
	hintBlocks = 64
	// maxHints is how many ranges are watched; the one that was asked for the
	// longest time ago gives way.
	maxHints = 32
	// hintSettle is how long the first list of a range may take: without it, a
	// node would try addresses blindly.
	hintSettle = 10 * time.Second
	// hintIdle is how long a watch lives that nobody asks.
	hintIdle = 10 * time.Minute
)

// hints are the watches of the claims of small ranges, begun when they are
// asked for. Only names are read, and only addresses are kept.
type hints struct {
	log *slog.Logger
	// grid and claims are the Store's, but for tests.
	grid   func(ctx context.Context, space string) (iprange.Grid, bool)
	claims func(selector string) source

	mu     sync.Mutex
	closed bool
	ranges map[string]*hint
	wg     sync.WaitGroup
}

// hint is one watch; used and idle belong to the hints' lock.
type hint struct {
	taken *follow[netip.Addr]
	stop  context.CancelFunc
	used  time.Time
	idle  *time.Timer
}

func newHints(s *Store, log *slog.Logger) *hints {
	return &hints{log: log, grid: s.grid, claims: s.claims, ranges: map[string]*hint{}}
}

// Taken implements ipam.Store. For a range of more than 4,096 addresses, and
// for the first moments of a watch, it knows nothing.
func (s *Store) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	if err := ipam.CheckSpaceName(space); err != nil {
		return nil, err
	}
	if within.IsEmpty() || within.Count().Cmp(iprange.From64(hintAddrs)) > 0 {
		return map[netip.Addr]bool{}, nil
	}
	taken := s.hints.of(ctx, space, within)
	if taken == nil || !taken.settle(ctx, hintSettle) {
		return map[netip.Addr]bool{}, ctx.Err()
	}
	found := map[netip.Addr]bool{}
	for _, addr := range taken.all() {
		found[addr] = true
	}
	return found, nil
}

// of is the watch of a range, begun if need be; nil when the store is closed.
func (h *hints) of(ctx context.Context, space string, within iprange.Set) *follow[netip.Addr] {
	key := space + " " + within.String()
	if known := h.use(key); known != nil {
		return known.taken
	}
	selector := h.selector(ctx, space, within)
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.ranges[key]; known != nil {
		return known.taken
	}
	if h.closed {
		return nil
	}
	if len(h.ranges) >= maxHints {
		h.drop(slices.MinFunc(slices.Collect(maps.Keys(h.ranges)), func(a, b string) int {
			return h.ranges[a].used.Compare(h.ranges[b].used)
		}))
	}
	return h.begin(key, space, selector, within).taken
}

func (h *hints) use(key string) *hint {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.ranges[key]
	if known != nil {
		known.used = time.Now()
	}
	return known
}

// selector names the range's blocks, so that other claims of a large space
// never come here.
func (h *hints) selector(ctx context.Context, space string, within iprange.Set) string {
	selector := v1alpha1.LabelSpace + "=" + space
	grid, known := h.grid(ctx, space)
	if !known || grid.Blocks(within).Count().Cmp(iprange.From64(hintBlocks)) > 0 {
		return selector
	}
	var names []string
	for block := range grid.Blocks(within).From(iprange.Uint128{}) {
		names = append(names, iprange.BlockName(block))
	}
	return fmt.Sprintf("%s,%s in (%s)", selector, v1alpha1.LabelBlock, strings.Join(names, ","))
}

func (h *hints) begin(key, space, selector string, within iprange.Set) *hint {
	ctx, stop := context.WithCancel(context.Background())
	one := &hint{
		taken: newFollow(h.claims(selector), h.log, func(o metav1.Object) (netip.Addr, bool) {
			ref, err := ipam.ParseClaimRef(o.GetName())
			return ref.Addr, err == nil && ref.Space == space && within.Contains(ref.Addr)
		}),
		stop: stop, used: time.Now(),
	}
	one.taken.begun()
	h.ranges[key] = one
	h.wg.Go(func() { one.taken.run(ctx) })
	one.idle = time.AfterFunc(hintIdle, func() { h.expire(key, one) })
	return one
}

// claims are the names of the claims that a selector selects.
func (s *Store) claims(selector string) source {
	claims := s.meta.Resource(v1alpha1.Resource(v1alpha1.ResourceIPClaims)).Namespace(v1alpha1.Namespace)
	return source{
		what: kind(v1alpha1.ResourceIPClaims), example: &metav1.PartialObjectMetadata{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return claims.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			return claims.Watch(ctx, o)
		},
	}
}

// expire ends a watch that nobody has asked for a while.
func (h *hints) expire(key string, one *hint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ranges[key] != one {
		return
	}
	if left := hintIdle - time.Since(one.used); left > 0 {
		one.idle.Reset(left)
		return
	}
	h.drop(key)
}

// drop ends a watch; the lock is held.
func (h *hints) drop(key string) {
	one := h.ranges[key]
	delete(h.ranges, key)
	one.idle.Stop()
	one.stop()
}

func (h *hints) close() {
	h.mu.Lock()
	h.closed = true
	for key := range h.ranges {
		h.drop(key)
	}
	h.mu.Unlock()
	h.wg.Wait()
}
