package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// An ask is an empty file: its name says all, and to make it twice is to make
// it once.

// nodeFolder is where what is asked of a node is. A name that can't be a
// folder's becomes a hash; no other name has an equals sign.
func (s *Store) nodeFolder(node string) (string, error) {
	if node == "" {
		return "", errors.New("a node without a name can't be asked")
	}
	name := node
	if len(name) > 200 || name[0] == '.' || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		sum := sha256.Sum256([]byte(node))
		name = "=" + hex.EncodeToString(sum[:])
	}
	return filepath.Join(s.dir, askFolder, name), nil
}

// Ask is ipam.Store's.
func (s *Store) Ask(ctx context.Context, node string, ref ipam.BlockRef) error {
	folder, err := s.nodeFolder(node)
	if err != nil {
		return err
	}
	p, err := s.blockPlace(ref)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if err := makeDir(folder); err != nil {
		return fmt.Errorf("ask %s for %s: %w", node, ref, err)
	}
	failpoint.Hit("dir.ask.before")
	f, err := os.OpenFile(filepath.Join(folder, p.name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w", node, ref, room(err))
	}
	failpoint.Hit("dir.ask.made")
	return errors.Join(f.Close(), syncDir(folder))
}

// Asked is ipam.Store's.
func (s *Store) Asked(ctx context.Context, node string) ([]ipam.BlockRef, error) {
	folder, err := s.nodeFolder(node)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	found, err := names(folder, "")
	var refs []ipam.BlockRef
	for _, name := range found {
		if ref, err := ipam.ParseBlockRef(name); err == nil {
			refs = append(refs, ref)
		}
	}
	return refs, err
}

// Answered is ipam.Store's.
func (s *Store) Answered(ctx context.Context, node string, refs []ipam.BlockRef) error {
	folder, err := s.nodeFolder(node)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	for _, ref := range refs {
		p, err := s.blockPlace(ref)
		if err != nil {
			return err
		}
		failpoint.Hit("dir.answered.before")
		if err := os.Remove(filepath.Join(folder, p.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("answer for %s: %w", ref, err)
		}
	}
	if err := syncDir(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
