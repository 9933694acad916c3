package ipam

import (
	"context"
	"errors"
	"log/slog"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// folder is a source on a host without Kubernetes.
type folder struct {
	store    *dir.Store
	path     string
	poolsDir string
}

func openFolder(path, poolsDir string) (*folder, error) {
	store, err := dir.Look(path)
	return &folder{store, path, poolsDir}, err
}

func (f *folder) name() string { return "folder " + f.path }
func (f *folder) close()       {}
func (f *folder) world() world { return nil }

func (f *folder) spaces(ctx context.Context) ([]ipam.Space, error) { return f.store.Spaces(ctx) }

func (f *folder) pools(ctx context.Context) ([]pool, error) {
	declared, err := dir.Pools{Dir: f.poolsDir, Log: slog.New(slog.DiscardHandler)}.All(ctx)
	var all []pool
	for _, p := range declared {
		all = append(all, poolOf(p, nil))
	}
	return all, err
}

// inSpaces does something for the space, or for each without one. A damaged
// file is told of and spoils its own space only.
func (f *folder) inSpaces(ctx context.Context, space string, odd func(error), do func(space string) error) error {
	names := []string{space}
	if space == "" {
		spaces, err := f.store.Spaces(ctx)
		if err != nil {
			return err
		}
		names = nil
		for _, as := range spaces {
			names = append(names, as.Name)
		}
	}
	for _, name := range names {
		err := do(name)
		if errors.Is(err, dir.ErrCorrupt) {
			odd(err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) eachBlock(ctx context.Context, space string, each func(block), odd func(error)) error {
	return f.inSpaces(ctx, space, odd, func(space string) error {
		blocks, err := f.store.SpaceBlocks(ctx, space, everything())
		if err != nil {
			return err
		}
		for _, b := range blocks {
			usage, err := f.store.Usage(ctx, b.Ref)
			if errors.Is(err, ipam.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			each(block{b, usage})
		}
		return nil
	})
}

func (f *folder) eachClaim(ctx context.Context, space string, each func(ipam.Claim), odd func(error)) error {
	return f.inSpaces(ctx, space, odd, func(space string) error {
		claims, err := f.store.SpaceClaims(ctx, space, everything())
		for _, c := range claims {
			each(c)
		}
		return err
	})
}

func (f *folder) block(ctx context.Context, ref ipam.BlockRef) (block, error) {
	b, err := f.store.GetBlock(ctx, ref)
	if err != nil {
		return block{}, err
	}
	usage, err := f.store.Usage(ctx, ref)
	return block{b, usage}, err
}

func (f *folder) claim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error) {
	return f.store.GetClaim(ctx, ref)
}

func (f *folder) deleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	return f.store.DeleteClaim(ctx, ref, v)
}

// everything is all addresses.
func everything() iprange.Set {
	all, err := iprange.ParseList([]string{"0.0.0.0/0", "::/0"})
	if err != nil {
		return iprange.Set{} // both can be read
	}
	return all
}
