package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// table is a small store in memory.
type table struct {
	mu     sync.Mutex
	next   int
	spaces map[string]ipam.Space
	blocks map[ipam.BlockRef]ipam.Block
	claims map[ipam.ClaimRef]ipam.Claim
	asked  map[string]map[ipam.BlockRef]bool
	calls  map[string]int
	nodes  map[string]bool
}

func newTable() *table {
	return &table{spaces: map[string]ipam.Space{}, blocks: map[ipam.BlockRef]ipam.Block{}, claims: map[ipam.ClaimRef]ipam.Claim{}, asked: map[string]map[ipam.BlockRef]bool{}, calls: map[string]int{}, nodes: map[string]bool{}}
}
func (s *table) Calls() map[string]int { s.mu.Lock(); defer s.mu.Unlock(); return maps.Clone(s.calls) }
func (s *table) version() ipam.Version {
	s.next++
	return ipam.Version{UID: fmt.Sprint("u", s.next), Resource: fmt.Sprint(s.next)}
}
func (s *table) lock(op string) func() { s.mu.Lock(); s.calls[op]++; return s.mu.Unlock }
func (s *table) Space(_ context.Context, as ipam.Space) (ipam.Space, error) {
	defer s.lock("Space")()
	if sp, ok := s.spaces[as.Name]; ok {
		return sp, nil
	}
	as.Version = s.version()
	s.spaces[as.Name] = as
	return as, nil
}
func get[K comparable, V any](m map[K]V, k K) (V, error) {
	v, ok := m[k]
	if !ok {
		return v, ipam.ErrNotFound
	}
	return v, nil
}
func (s *table) GetBlock(_ context.Context, r ipam.BlockRef) (ipam.Block, error) {
	defer s.lock("GetBlock")()
	return get(s.blocks, r)
}
func (s *table) CreateBlock(_ context.Context, b ipam.Block) (ipam.Block, error) {
	defer s.lock("CreateBlock")()
	if _, ok := s.blocks[b.Ref]; ok {
		return ipam.Block{}, ipam.ErrExists
	}
	b.Version = s.version()
	s.blocks[b.Ref] = b
	return b, nil
}
func (s *table) UpdateBlock(_ context.Context, b ipam.Block) (ipam.Block, error) {
	defer s.lock("UpdateBlock")()
	old, ok := s.blocks[b.Ref]
	if !ok {
		return ipam.Block{}, ipam.ErrNotFound
	}
	if old.Version != b.Version {
		return ipam.Block{}, ipam.ErrStale
	}
	b.Version.Resource = s.version().Resource
	s.blocks[b.Ref] = b
	return b, nil
}
func (s *table) DeleteBlock(_ context.Context, r ipam.BlockRef, v ipam.Version) error {
	defer s.lock("DeleteBlock")()
	old, ok := s.blocks[r]
	if !ok {
		return ipam.ErrNotFound
	}
	if old.Version != v {
		return ipam.ErrStale
	}
	delete(s.blocks, r)
	return nil
}
func (s *table) GetClaim(_ context.Context, r ipam.ClaimRef) (ipam.Claim, error) {
	defer s.lock("GetClaim")()
	return get(s.claims, r)
}
func (s *table) CreateClaim(_ context.Context, c ipam.Claim) (ipam.Claim, error) {
	defer s.lock("CreateClaim")()
	if _, ok := s.claims[c.Ref]; ok {
		return ipam.Claim{}, ipam.ErrExists
	}
	c.Version = s.version()
	s.claims[c.Ref] = c
	return c, nil
}
func (s *table) UpdateClaim(_ context.Context, c ipam.Claim) (ipam.Claim, error) {
	defer s.lock("UpdateClaim")()
	old, ok := s.claims[c.Ref]
	if !ok {
		return ipam.Claim{}, ipam.ErrNotFound
	}
	if old.Version != c.Version {
		return ipam.Claim{}, ipam.ErrStale
	}
	c.Version.Resource = s.version().Resource
	s.claims[c.Ref] = c
	return c, nil
}
func (s *table) DeleteClaim(_ context.Context, r ipam.ClaimRef, v ipam.Version) error {
	defer s.lock("DeleteClaim")()
	old, ok := s.claims[r]
	if !ok {
		return ipam.ErrNotFound
	}
	if old.Version != v {
		return ipam.ErrStale
	}
	delete(s.claims, r)
	return nil
}
func (s *table) NodeBlocks(_ context.Context, node string) (out []ipam.Block, _ error) {
	defer s.lock("NodeBlocks")()
	for _, b := range s.blocks {
		if b.Owner.Name == node {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *table) NodeClaims(_ context.Context, node string) (out []ipam.Claim, _ error) {
	defer s.lock("NodeClaims")()
	for _, b := range s.claims {
		if b.Node.Name == node {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *table) KeptClaims(_ context.Context, keep ipam.Keeper) (out []ipam.Claim, _ error) {
	defer s.lock("KeptClaims")()
	for _, b := range s.claims {
		if b.Keep == keep {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *table) SpaceBlocks(_ context.Context, space string, within iprange.Set) (out []ipam.Block, _ error) {
	defer s.lock("SpaceBlocks")()
	for _, b := range s.blocks {
		if b.Ref.Space == space && within.Overlaps(iprange.SetOf(iprange.OfPrefix(b.Ref.Prefix))) {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *table) SpaceClaims(_ context.Context, space string, within iprange.Set) (out []ipam.Claim, _ error) {
	defer s.lock("SpaceClaims")()
	for _, b := range s.claims {
		if b.Ref.Space == space && within.Contains(b.Ref.Addr) {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *table) Taken(_ context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	defer s.lock("Taken")()
	out := map[netip.Addr]bool{}
	for _, b := range s.claims {
		if b.Ref.Space == space && within.Contains(b.Ref.Addr) {
			out[b.Ref.Addr] = true
		}
	}
	return out, nil
}
func (s *table) Nodes(context.Context) (int, error) {
	defer s.lock("Nodes")()
	return len(s.nodes), nil
}
func (s *table) Ask(_ context.Context, node string, r ipam.BlockRef) error {
	defer s.lock("Ask")()
	if s.asked[node] == nil {
		s.asked[node] = map[ipam.BlockRef]bool{}
	}
	s.asked[node][r] = true
	return nil
}
func (s *table) Asked(_ context.Context, node string) (out []ipam.BlockRef, _ error) {
	defer s.lock("Asked")()
	for r := range s.asked[node] {
		out = append(out, r)
	}
	return out, nil
}
func (s *table) Answered(_ context.Context, node string, refs []ipam.BlockRef) error {
	defer s.lock("Answered")()
	for _, r := range refs {
		delete(s.asked[node], r)
	}
	return nil
}
func (s *table) Mirror(_ context.Context, u ipam.Usage) (ipam.Version, error) {
	defer s.lock("Mirror")()
	b, ok := s.blocks[u.Ref]
	if !ok || b.Version.UID != u.Version.UID {
		return ipam.Version{}, ipam.ErrNotFound
	}
	b.Version.Resource = s.version().Resource
	s.blocks[u.Ref] = b
	return b.Version, nil
}
