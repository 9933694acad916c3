package dir

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// ErrNoFolder says that a folder has no addresses in it.
var ErrNoFolder = errors.New("there is no address folder")

// Look opens a folder that is there already, for people: it makes nothing and
// takes nothing away.
func Look(dir string) (*Store, error) {
	for _, folder := range []string{spaceFolder, blockFolder, claimFolder, lockFolder} {
		if _, err := os.Stat(filepath.Join(dir, folder)); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", dir, ErrNoFolder, err)
		}
	}
	return &Store{dir: dir}, nil
}

// Spaces are all spaces, by name.
func (s *Store) Spaces(ctx context.Context) ([]ipam.Space, error) {
	found, err := names(filepath.Join(s.dir, spaceFolder), suffix)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	slices.Sort(found)
	var spaces []ipam.Space
	for _, name := range found {
		if ipam.CheckSpaceName(name) != nil {
			continue // an editor's copy, for example
		}
		p, err := s.spacePlace(name)
		if err != nil {
			return nil, err
		}
		f, err := read[spaceFile](p)
		if err != nil {
			return nil, err
		}
		f.Space.Version = f.version()
		spaces = append(spaces, f.Space)
	}
	return spaces, nil
}

// Usage is what a block's node told of it last; without an At it told nothing.
func (s *Store) Usage(ctx context.Context, ref ipam.BlockRef) (ipam.Usage, error) {
	p, err := s.blockPlace(ref)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return ipam.Usage{}, err
	}
	f, err := read[blockFile](p)
	if err != nil {
		return ipam.Usage{}, err
	}
	u := ipam.Usage{Ref: ref, Version: f.version()}
	if f.Usage != nil {
		u.Bitmap, u.At = f.Usage.Bitmap, f.Usage.At
		for _, o := range f.Usage.Owners {
			u.Owners = append(u.Owners, ipam.AddressOwner(o))
		}
	}
	return u, nil
}

// All are the pools of the folder, by name, whatever their selectors say.
func (p Pools) All(ctx context.Context) ([]ipam.Pool, error) {
	found, err := p.read(ctx)
	if err != nil {
		return nil, err
	}
	var pools []ipam.Pool
	for _, name := range slices.Sorted(maps.Keys(found)) {
		pools = append(pools, found[name].pool)
	}
	return pools, nil
}
