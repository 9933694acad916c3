package crd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

const (
	copyFile = "pools.json"
	// copyMagic begins the file; the checksum of the rest follows it.
	copyMagic = "meta-cni pools v1 sha256:"
	// gather is how long changes are collected before they are written.
	gather = 500 * time.Millisecond
	// rewrite is the wait after a failed write (disk full, read-only).
	rewrite = 10 * time.Second
)

// snapshot is what Pools knew: the pools, and the labels that they select by.
type snapshot struct {
	Pools      map[string]v1alpha1.IPPoolSpec `json:"pools"`
	Nodes      map[string]labels.Set          `json:"nodes,omitempty"`
	Namespaces map[string]labels.Set          `json:"namespaces,omitempty"`
}

// poolCopy is the copy on disk, for a start without the API server. It is in
// memory until the watch is in step.
type poolCopy struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	loaded *snapshot // nil: there is none, or it is not needed any more
}

// openCopy reads the copy; a damaged one counts as none and is logged.
func openCopy(dir string, log *slog.Logger) *poolCopy {
	c := &poolCopy{dir: dir, log: log}
	if dir == "" {
		return c
	}
	text, err := c.read()
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	var s snapshot
	if err == nil {
		s, err = decodeSnapshot(text)
	}
	if err != nil {
		log.Warn("the copy of the IPPools can't be read and is ignored; it is written again when the API server answers", "folder", dir, "error", err)
		return c
	}
	c.loaded = &s
	return c
}

func (c *poolCopy) has() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loaded != nil
}

func (c *poolCopy) last() snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded == nil {
		return snapshot{}
	}
	return *c.loaded
}

func (c *poolCopy) read() ([]byte, error) {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.ReadFile(copyFile)
}

func encodeSnapshot(s snapshot) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(copyMagic+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

func decodeSnapshot(text []byte) (snapshot, error) {
	var s snapshot
	header, body, _ := bytes.Cut(text, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(header) != copyMagic+hex.EncodeToString(sum[:]) {
		return s, fmt.Errorf("%s: its checksum is wrong", copyFile)
	}
	return s, json.Unmarshal(body, &s)
}

// follow writes what the watches learn until ctx ends.
func (c *poolCopy) follow(ctx context.Context, p *Pools) {
	var written []byte
	for ctx.Err() == nil {
		pools, node, namespaces := p.pools.changed(), p.node.changed(), p.namespaces.changed()
		wait := gather
		if now, ok := c.snapshot(p); ok {
			next, err := c.write(now, written)
			if err != nil {
				c.log.Warn("the IPPools can't be copied to disk; it is tried again", "folder", c.dir, "error", err)
				wait = rewrite
				pools = closed()
			}
			written = next
		}
		select {
		case <-pools:
		case <-node:
		case <-namespaces:
		case <-ctx.Done():
		}
		pause(ctx, wait)
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// snapshot is what is to be on disk; false while the pools aren't known. Labels
// that aren't known yet stay as they were.
func (c *poolCopy) snapshot(p *Pools) (snapshot, bool) {
	if !p.pools.inStep() {
		return snapshot{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := snapshot{Pools: p.pools.all()}
	byNode, byNamespace := selected(now.Pools)
	if byNode && p.node.inStep() {
		now.Nodes = p.node.all()
	} else if byNode && c.loaded != nil {
		now.Nodes = c.loaded.Nodes
	}
	if byNamespace && p.namespaces.inStep() {
		now.Namespaces = p.namespaces.all()
	} else if byNamespace && c.loaded != nil {
		now.Namespaces = c.loaded.Namespaces
	}
	if (!byNode || p.node.inStep()) && (!byNamespace || p.namespaces.inStep()) {
		c.loaded = nil
	}
	return now, true
}

// write replaces the file as a whole unless it says the same already, and
// returns what it says now.
func (c *poolCopy) write(s snapshot, before []byte) ([]byte, error) {
	text, err := encodeSnapshot(s)
	if err != nil || c.dir == "" {
		return before, err
	}
	sum := sha256.Sum256(text)
	if bytes.Equal(sum[:], before) {
		return before, nil
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return before, err
	}
	defer root.Close()
	failpoint.Hit("ipam-pools-before-write")
	if err := writeSynced(root, copyFile+".tmp", text); err != nil {
		return before, err
	}
	failpoint.Hit("ipam-pools-before-rename")
	if err := root.Rename(copyFile+".tmp", copyFile); err != nil {
		return before, err
	}
	failpoint.Hit("ipam-pools-after-rename")
	return sum[:], syncDir(root)
}

func writeSynced(root *os.Root, name string, text []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
