package dir

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// few is how many addresses are looked up by name rather than in the list of
// the folder.
const few = 16

func isNotFound(err error) bool { return errors.Is(err, ipam.ErrNotFound) }
func isExists(err error) bool   { return errors.Is(err, ipam.ErrExists) }

// spacesWith are the spaces that have objects of a kind.
func (s *Store) spacesWith(folder string) ([]string, error) {
	return names(filepath.Join(s.dir, folder), "")
}

// names are the names in a folder that end so, without that end; none where
// there is no folder.
func names(folder, suffix string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var found []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), suffix); ok {
			found = append(found, name)
		}
	}
	return found, err
}

// blocks reads those blocks of a space that are wanted. Without a lock it may
// miss one that is being replaced, on some file systems.
func (s *Store) blocks(space string, want func(netip.Prefix) bool) ([]ipam.Block, error) {
	found, err := names(filepath.Join(s.dir, blockFolder, space), suffix)
	if err != nil {
		return nil, err
	}
	var blocks []ipam.Block
	for _, name := range found {
		prefix, err := iprange.ParseBlockName(name)
		if err != nil || !want(prefix) {
			continue // an editor's copy, for example
		}
		ref := ipam.BlockRef{Space: space, Prefix: prefix}
		p, err := s.blockPlace(ref)
		if err != nil {
			return nil, err
		}
		b, err := readBlock(p, ref)
		if err == nil {
			blocks = append(blocks, b)
		} else if !isNotFound(err) {
			return nil, err
		}
	}
	return blocks, nil
}

// taken are the addresses within a set that have a claim, by the names of the
// files alone.
func (s *Store) taken(space string, within iprange.Set) ([]netip.Addr, error) {
	folder := filepath.Join(s.dir, claimFolder, space)
	var taken []netip.Addr
	if within.Count().Cmp(iprange.From64(few)) <= 0 {
		for addr := range within.Addrs() {
			_, err := os.Lstat(filepath.Join(folder, iprange.Name(addr)+suffix))
			if err == nil {
				taken = append(taken, addr)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		return taken, nil
	}
	found, err := names(folder, suffix)
	for _, name := range found {
		if addr, err := iprange.ParseName(name); err == nil && within.Contains(addr) {
			taken = append(taken, addr)
		}
	}
	return taken, err
}

// claims reads those claims of a space that are within a set.
func (s *Store) claims(space string, within iprange.Set) ([]ipam.Claim, error) {
	addrs, err := s.taken(space, within)
	if err != nil {
		return nil, err
	}
	var claims []ipam.Claim
	for _, addr := range addrs {
		ref := ipam.ClaimRef{Space: space, Addr: addr}
		p, err := s.claimPlace(ref)
		if err != nil {
			return nil, err
		}
		c, err := readClaim(p, ref)
		if err == nil {
			claims = append(claims, c)
		} else if !isNotFound(err) {
			return nil, err
		}
	}
	return claims, nil
}

// everything is all addresses.
func everything() iprange.Set {
	return iprange.SetOf(
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
}

// NodeBlocks is ipam.Store's.
func (s *Store) NodeBlocks(ctx context.Context, node string) ([]ipam.Block, error) {
	return s.everyBlock(ctx, func(b ipam.Block) bool { return b.Owner.Name == node })
}

// everyBlock reads all spaces, each as it is at one moment.
func (s *Store) everyBlock(ctx context.Context, want func(ipam.Block) bool) ([]ipam.Block, error) {
	return every(ctx, s, blockFolder, func(space string) ([]ipam.Block, error) {
		return s.blocks(space, func(netip.Prefix) bool { return true })
	}, want)
}

// NodeClaims is ipam.Store's.
func (s *Store) NodeClaims(ctx context.Context, node string) ([]ipam.Claim, error) {
	return s.everyClaim(ctx, func(c ipam.Claim) bool { return c.Node.Name == node })
}

// KeptClaims is ipam.Store's.
func (s *Store) KeptClaims(ctx context.Context, keep ipam.Keeper) ([]ipam.Claim, error) {
	return s.everyClaim(ctx, func(c ipam.Claim) bool { return c.Keep == keep })
}

func (s *Store) everyClaim(ctx context.Context, want func(ipam.Claim) bool) ([]ipam.Claim, error) {
	return every(ctx, s, claimFolder, func(space string) ([]ipam.Claim, error) {
		return s.claims(space, everything())
	}, want)
}

// every reads the objects of all spaces, under the lock of each in turn.
func every[T any](ctx context.Context, s *Store, folder string, list func(space string) ([]T, error), want func(T) bool) ([]T, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	spaces, err := s.spacesWith(folder)
	if err != nil {
		return nil, err
	}
	var found []T
	for _, space := range spaces {
		all, err := locked(ctx, s, space, func() ([]T, error) { return list(space) })
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			if want(o) {
				found = append(found, o)
			}
		}
	}
	return found, nil
}

// locked reads under the lock of a space.
func locked[T any](ctx context.Context, s *Store, space string, list func() ([]T, error)) ([]T, error) {
	unlock, err := s.lock(ctx, space)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return list()
}

// SpaceBlocks is ipam.Store's.
func (s *Store) SpaceBlocks(ctx context.Context, space string, within iprange.Set) ([]ipam.Block, error) {
	if err := errors.Join(ctx.Err(), ipam.CheckSpaceName(space)); err != nil {
		return nil, err
	}
	return s.blocks(space, func(prefix netip.Prefix) bool {
		return within.Overlaps(iprange.SetOf(iprange.OfPrefix(prefix)))
	})
}

// SpaceClaims is ipam.Store's.
func (s *Store) SpaceClaims(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	if err := errors.Join(ctx.Err(), ipam.CheckSpaceName(space)); err != nil {
		return nil, err
	}
	return locked(ctx, s, space, func() ([]ipam.Claim, error) { return s.claims(space, within) })
}

// Taken is ipam.Store's. It looks at names only.
func (s *Store) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	if err := errors.Join(ctx.Err(), ipam.CheckSpaceName(space)); err != nil {
		return nil, err
	}
	addrs, err := s.taken(space, within)
	taken := map[netip.Addr]bool{}
	for _, addr := range addrs {
		taken[addr] = true
	}
	return taken, err
}

// Nodes is ipam.Store's: those that own blocks.
func (s *Store) Nodes(ctx context.Context) (int, error) {
	owners := map[string]bool{}
	blocks, err := s.everyBlock(ctx, func(b ipam.Block) bool { return b.Owner.Name != "" })
	for _, b := range blocks {
		owners[b.Owner.Name] = true
	}
	return max(1, len(owners)), err
}
