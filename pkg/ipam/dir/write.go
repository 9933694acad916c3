package dir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// place is where an object's file is, and whose lock guards it.
type place struct{ space, name, path string }

// create makes a file with a new UID; ErrExists where there is one.
func (s *Store) create(ctx context.Context, p place, o func(head file) object) (file, error) {
	head := file{Format: format, Name: p.name, UID: newUID(), Version: 1}
	unlock, err := s.lock(ctx, p.space)
	if err != nil {
		return file{}, err
	}
	defer unlock()
	// The link below decides; this spares the writing of what would lose.
	if _, err := os.Lstat(p.path); err == nil {
		return file{}, fmt.Errorf("%s: %w", p.name, ipam.ErrExists)
	}
	temp, err := s.writeTemp(p, o(head))
	if err != nil {
		return file{}, err
	}
	failpoint.Hit("dir.create.synced")
	err = link(temp, p.path)
	failpoint.Hit("dir.create.linked")
	err = errors.Join(err, os.Remove(temp))
	if errors.Is(err, fs.ErrExist) {
		return file{}, fmt.Errorf("%s: %w", p.name, ipam.ErrExists)
	}
	if err != nil {
		return file{}, fmt.Errorf("create %s: %w", p.path, err)
	}
	failpoint.Hit("dir.create.removed")
	if err := syncDir(filepath.Dir(p.path)); err != nil {
		return file{}, err
	}
	failpoint.Hit("dir.create.durable")
	return head, nil
}

// link gives a file its name; the folder is made if it isn't there.
func link(temp, path string) error {
	err := os.Link(temp, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	return os.Link(temp, path)
}

// replace puts another content in place of a file's; the caller has the lock.
func (s *Store) replace(p place, o object) error {
	temp, err := s.writeTemp(p, o)
	if err != nil {
		return err
	}
	failpoint.Hit("dir.update.synced")
	if err := os.Rename(temp, p.path); err != nil {
		return errors.Join(fmt.Errorf("update %s: %w", p.path, err), os.Remove(temp))
	}
	failpoint.Hit("dir.update.renamed")
	if err := syncDir(filepath.Dir(p.path)); err != nil {
		return err
	}
	failpoint.Hit("dir.update.durable")
	return nil
}

// remove takes a file away; the caller has the lock.
func (s *Store) remove(p place) error {
	failpoint.Hit("dir.delete.before")
	if err := os.Remove(p.path); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	failpoint.Hit("dir.delete.removed")
	if err := syncDir(filepath.Dir(p.path)); err != nil {
		return err
	}
	failpoint.Hit("dir.delete.durable")
	return nil
}

// writeTemp writes an object under a temporary name, synced, or leaves none.
func (s *Store) writeTemp(p place, o object) (string, error) {
	data, err := encode(o)
	if err != nil {
		return "", err
	}
	temp := filepath.Join(s.dir, tempFolder, p.space+"."+rand.Text())
	failpoint.Hit("dir.temp.before")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", room(fmt.Errorf("write %s: %w", p.path, err))
	}
	failpoint.Hit("dir.temp.created")
	_, err = f.Write(data)
	failpoint.Hit("dir.temp.written")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", room(errors.Join(fmt.Errorf("write %s: %w", p.path, err), os.Remove(temp)))
	}
	return temp, nil
}

// read is the content of a file; ErrNotFound if there is none.
func read[F object](p place) (F, error) {
	data, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		var none F
		return none, fmt.Errorf("%s: %w", p.name, ipam.ErrNotFound)
	}
	if err != nil {
		var none F
		return none, err
	}
	f, err := decode[F](data, p.name)
	if err != nil {
		return f, fmt.Errorf("%w: %s: %w; restore it from a copy, or remove it once no sandbox has an address that it stands for", ErrCorrupt, p.path, err)
	}
	return f, nil
}

// readVersion is read for a write that is meant for one version only.
func readVersion[F object](p place, v ipam.Version) (F, error) {
	f, err := read[F](p)
	if err == nil && f.head().version() != v {
		err = fmt.Errorf("%s: %w", p.name, ipam.ErrStale)
	}
	return f, err
}

// room names the remedy of a full disk.
func room(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w; free space on its disk", err)
	}
	return err
}

// newUID is 128 random bits.
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// makeRoot makes the folder of the store, or refuses one that others may write
// to: who can make a file here can take any address.
func makeRoot(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return room(err)
		}
		return syncDir(filepath.Dir(path))
	}
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written to by others (mode %#o): chmod it to 0700", path, info.Mode().Perm())
	}
	return err
}

// makeDir makes a folder and syncs the one it is in.
func makeDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return room(err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
