package dir

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	spaceFolder = "spaces"
	blockFolder = "blocks"
	claimFolder = "claims"
	askFolder   = "asks"
	lockFolder  = "locks"
	tempFolder  = "tmp"

	suffix = ".json"
)

// Store is an ipam.Store on a folder.
type Store struct {
	dir   string
	turns sync.Map // space → chan struct{}: whose turn it is in this process
}

var _ ipam.Store = (*Store)(nil)

// Open makes the folder (mode 0700) if it isn't there, and removes what killed
// processes left. The context bounds the wait for processes that write now.
func Open(ctx context.Context, dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := makeRoot(dir); err != nil {
		return nil, fmt.Errorf("IPAM folder: %w", err)
	}
	for _, folder := range []string{spaceFolder, blockFolder, claimFolder, askFolder, lockFolder, tempFolder} {
		if err := makeDir(filepath.Join(dir, folder)); err != nil {
			return nil, fmt.Errorf("IPAM folder: %w", err)
		}
	}
	if err := s.clean(ctx); err != nil {
		return nil, fmt.Errorf("IPAM folder: remove temporary files: %w", err)
	}
	return s, nil
}

func (s *Store) spacePlace(name string) (place, error) {
	return place{name, name, filepath.Join(s.dir, spaceFolder, name+suffix)}, ipam.CheckSpaceName(name)
}

func (s *Store) blockPlace(ref ipam.BlockRef) (place, error) {
	name := ref.String()
	if back, err := ipam.ParseBlockRef(name); err != nil || back != ref {
		return place{}, fmt.Errorf("no block can have space %q and prefix %s (%w)", ref.Space, ref.Prefix, err)
	}
	return place{ref.Space, name, filepath.Join(s.dir, blockFolder, ref.Space, iprange.BlockName(ref.Prefix)+suffix)}, nil
}

func (s *Store) claimPlace(ref ipam.ClaimRef) (place, error) {
	name := ref.String()
	if back, err := ipam.ParseClaimRef(name); err != nil || back != ref {
		return place{}, fmt.Errorf("no claim can have space %q and address %s (%w)", ref.Space, ref.Addr, err)
	}
	return place{ref.Space, name, filepath.Join(s.dir, claimFolder, ref.Space, iprange.Name(ref.Addr)+suffix)}, nil
}

// Space is ipam.Store's.
func (s *Store) Space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	p, err := s.spacePlace(as.Name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return ipam.Space{}, err
	}
	f, err := read[spaceFile](p)
	if isNotFound(err) {
		if err := as.Grid.Check(); err != nil {
			return ipam.Space{}, fmt.Errorf("address space %s: %w", as.Name, err)
		}
		as.Version = ipam.Version{}
		_, err = s.create(ctx, p, func(head file) object { return spaceFile{head, as} })
		if err == nil || isExists(err) {
			f, err = read[spaceFile](p)
		}
	}
	if err != nil {
		return ipam.Space{}, err
	}
	f.Space.Version = f.version()
	return f.Space, nil
}

// GetBlock is ipam.Store's.
func (s *Store) GetBlock(ctx context.Context, ref ipam.BlockRef) (ipam.Block, error) {
	p, err := s.blockPlace(ref)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return ipam.Block{}, err
	}
	return readBlock(p, ref)
}

func readBlock(p place, ref ipam.BlockRef) (ipam.Block, error) {
	f, err := read[blockFile](p)
	if err != nil {
		return ipam.Block{}, err
	}
	return f.block(ref), nil
}

// CreateBlock is ipam.Store's.
func (s *Store) CreateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	p, err := s.blockPlace(b.Ref)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return ipam.Block{}, err
	}
	head, err := s.create(ctx, p, func(head file) object { return fileOfBlock(head, b, nil) })
	if err != nil {
		return ipam.Block{}, err
	}
	b.Version = head.version()
	return b, nil
}

// UpdateBlock is ipam.Store's.
func (s *Store) UpdateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	p, err := s.blockPlace(b.Ref)
	if err != nil {
		return ipam.Block{}, err
	}
	head, err := change(ctx, s, p, func() (blockFile, error) {
		f, err := readVersion[blockFile](p, b.Version)
		return fileOfBlock(f.next(), b, f.Usage), err
	})
	if err != nil {
		return ipam.Block{}, err
	}
	b.Version = head.version()
	return b, nil
}

// change replaces a file under the lock by what next makes of it.
func change[F object](ctx context.Context, s *Store, p place, next func() (F, error)) (file, error) {
	if err := ctx.Err(); err != nil {
		return file{}, err
	}
	unlock, err := s.lock(ctx, p.space)
	if err != nil {
		return file{}, err
	}
	defer unlock()
	f, err := next()
	if err != nil {
		return file{}, err
	}
	return f.head(), s.replace(p, f)
}

// deleteVersion removes a file under the lock if it is that version.
func deleteVersion[F object](ctx context.Context, s *Store, p place, v ipam.Version) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, p.space)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := readVersion[F](p, v); err != nil {
		return err
	}
	return s.remove(p)
}

// DeleteBlock is ipam.Store's.
func (s *Store) DeleteBlock(ctx context.Context, ref ipam.BlockRef, v ipam.Version) error {
	p, err := s.blockPlace(ref)
	if err != nil {
		return err
	}
	return deleteVersion[blockFile](ctx, s, p, v)
}

// Mirror is ipam.Store's.
func (s *Store) Mirror(ctx context.Context, u ipam.Usage) (ipam.Version, error) {
	p, err := s.blockPlace(u.Ref)
	if err != nil {
		return ipam.Version{}, err
	}
	head, err := change(ctx, s, p, func() (blockFile, error) {
		f, err := read[blockFile](p)
		if err == nil && f.UID != u.Version.UID {
			err = fmt.Errorf("%s: %w", p.name, ipam.ErrStale)
		}
		return fileOfBlock(f.next(), f.block(u.Ref), fileOfUsage(u)), err
	})
	if err != nil {
		return ipam.Version{}, err
	}
	return head.version(), nil
}

// GetClaim is ipam.Store's.
func (s *Store) GetClaim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error) {
	p, err := s.claimPlace(ref)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return ipam.Claim{}, err
	}
	return readClaim(p, ref)
}

func readClaim(p place, ref ipam.ClaimRef) (ipam.Claim, error) {
	f, err := read[claimFile](p)
	if err != nil {
		return ipam.Claim{}, err
	}
	return f.claim(ref), nil
}

// CreateClaim is ipam.Store's.
func (s *Store) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	p, err := s.claimPlace(c.Ref)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return ipam.Claim{}, err
	}
	head, err := s.create(ctx, p, func(head file) object { return fileOfClaim(head, c) })
	if err != nil {
		return ipam.Claim{}, err
	}
	c.Version = head.version()
	return c, nil
}

// UpdateClaim is ipam.Store's.
func (s *Store) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	p, err := s.claimPlace(c.Ref)
	if err != nil {
		return ipam.Claim{}, err
	}
	head, err := change(ctx, s, p, func() (claimFile, error) {
		f, err := readVersion[claimFile](p, c.Version)
		return fileOfClaim(f.next(), c), err
	})
	if err != nil {
		return ipam.Claim{}, err
	}
	c.Version = head.version()
	return c, nil
}

// DeleteClaim is ipam.Store's.
func (s *Store) DeleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	p, err := s.claimPlace(ref)
	if err != nil {
		return err
	}
	return deleteVersion[claimFile](ctx, s, p, v)
}
