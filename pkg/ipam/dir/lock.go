package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// lock takes the lock of a space for this caller alone, among all processes.
// The kernel gives it back when the process ends.
func (s *Store) lock(ctx context.Context, space string) (unlock func(), err error) {
	// Callers of this process wait here, where waiting costs no thread.
	turn, _ := s.turns.LoadOrStore(space, make(chan struct{}, 1))
	mine, ok := turn.(chan struct{})
	if !ok {
		return nil, fmt.Errorf("lock of space %s is a %T", space, turn)
	}
	select {
	case mine <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the lock of space %s: %w", space, ctx.Err())
	}
	f, err := s.flock(ctx, space)
	if err != nil {
		<-mine
		return nil, err
	}
	return func() {
		// Closing alone would not do while a child of a fork has the file.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
		<-mine
	}, nil
}

// flock waits for the other processes.
func (s *Store) flock(ctx context.Context, space string) (*os.File, error) {
	path := filepath.Join(s.dir, lockFolder, space)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, room(err)
	}
	got := make(chan error, 1)
	go func() { got <- flock(f) }()
	select {
	case err = <-got:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		return f, nil
	case <-ctx.Done():
		go func() {
			if err := <-got; err == nil { // who asked has gone
				_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
			}
			_ = f.Close()
		}()
		return nil, fmt.Errorf("another process holds %s (fuser shows it): %w", path, ctx.Err())
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// clean removes what killed processes left in the folder for temporary files.
// Under a space's lock nobody is writing there.
func (s *Store) clean(ctx context.Context) error {
	left, err := s.leftovers()
	for space, paths := range left {
		unlock, lockErr := s.lock(ctx, space)
		if lockErr != nil {
			return lockErr
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				unlock()
				return err
			}
		}
		unlock()
	}
	return err
}

// leftovers are the temporary files of each space. A file of another name is
// nobody's business here.
func (s *Store) leftovers() (map[string][]string, error) {
	folder := filepath.Join(s.dir, tempFolder)
	entries, err := os.ReadDir(folder)
	left := map[string][]string{}
	for _, entry := range entries {
		space, _, ok := strings.Cut(entry.Name(), ".")
		if ok && ipam.CheckSpaceName(space) == nil {
			left[space] = append(left[space], filepath.Join(folder, entry.Name()))
		}
	}
	return left, err
}
