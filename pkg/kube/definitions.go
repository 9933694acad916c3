package kube

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

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

const (
	definitionsDir = "definitions"
	// definitionMagic begins each file; the checksum of the rest follows it.
	definitionMagic = "meta-cni definition v1 sha256:"
	// gather is how long changes are collected before they are written.
	gather = 500 * time.Millisecond
	// rewrite is the wait after a failed write (disk full, read-only).
	rewrite = 10 * time.Second
)

// definitions is the copy on disk of all network definitions: one checksummed
// file each, named by a hash. It is read only when the API server can't
// answer, so nothing of it stays in memory.
type definitions struct {
	stateDir string
	log      *slog.Logger

	mu    sync.Mutex
	dirty map[string]bool // keys namespace/name, to be written or removed
	wake  chan struct{}
}

func newDefinitions(stateDir string, log *slog.Logger) *definitions {
	return &definitions{stateDir: stateDir, log: log, dirty: map[string]bool{}, wake: make(chan struct{}, 1)}
}

func definitionFile(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// open opens the folder; nothing outside the state folder can be reached
// through it, whatever links somebody left there.
func (d *definitions) open() (*os.Root, error) {
	state, err := os.OpenRoot(d.stateDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = state.Close() }()
	if err := state.Mkdir(definitionsDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return state.OpenRoot(definitionsDir)
}

// load reads one definition; a damaged file counts as none and is logged.
func (d *definitions) load(ref attach.NetworkRef) (definition, bool) {
	if d.stateDir == "" {
		return definition{}, false
	}
	root, err := d.open()
	if err != nil {
		d.log.Warn("the copy of the network definitions can't be read", "error", err)
		return definition{}, false
	}
	defer func() { _ = root.Close() }()
	data, err := root.ReadFile(definitionFile(ref.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return definition{}, false
	}
	if err != nil {
		d.log.Warn("the copy of a network definition can't be read", "network", ref.String(), "error", err)
		return definition{}, false
	}
	found, err := decodeDefinition(data)
	if err == nil && found.ref() != ref {
		err = fmt.Errorf("it is of %s", found.ref())
	}
	if err != nil {
		d.log.Warn("the copy of a network definition is damaged and is ignored; it is written again when the API server answers", "network", ref.String(), "error", err)
		return definition{}, false
	}
	return found, true
}

func encodeDefinition(d definition) ([]byte, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(definitionMagic+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

func decodeDefinition(data []byte) (definition, error) {
	var d definition
	header, body, _ := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(header) != definitionMagic+hex.EncodeToString(sum[:]) {
		return d, errors.New("its checksum is wrong")
	}
	err := json.Unmarshal(body, &d)
	return d, err
}

// follow writes what the informer learns until ctx ends.
func (d *definitions) follow(ctx context.Context, f *feed) {
	if d.stateDir == "" {
		return
	}
	registration, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    d.mark,
		UpdateFunc: func(_, object any) { d.mark(object) },
		DeleteFunc: d.mark,
	})
	if err != nil {
		return // the informer has ended: ctx is done
	}
	synced, prune := registration.HasSyncedChecker().Done(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-synced:
			synced, prune = nil, true // once: a nil channel is never ready
		}
		if !pause(ctx, gather) {
			return
		}
		if err := d.flush(f, prune); err != nil {
			d.log.Warn("the network definitions can't be copied to disk; it is tried again", "folder", d.stateDir, "error", err)
			d.poke()
			if !pause(ctx, rewrite) {
				return
			}
			continue
		}
		prune = false
	}
}

// pause waits; false if ctx ends meanwhile.
func pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (d *definitions) mark(object any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return
	}
	d.mu.Lock()
	d.dirty[key] = true
	d.mu.Unlock()
	d.poke()
}

func (d *definitions) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// flush writes or removes what has changed; with prune it removes also what
// the API server doesn't know any more.
func (d *definitions) flush(f *feed, prune bool) error {
	d.mu.Lock()
	keys := d.dirty
	d.dirty = map[string]bool{}
	d.mu.Unlock()
	err := d.write(f, keys, prune)
	if err != nil {
		d.mu.Lock()
		for key := range keys {
			d.dirty[key] = true
		}
		d.mu.Unlock()
	}
	return err
}

func (d *definitions) write(f *feed, keys map[string]bool, prune bool) error {
	root, err := d.open()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	changed := false
	for key := range keys {
		object, exists, err := f.informer.GetStore().GetByKey(key)
		if err != nil {
			return err
		}
		var wrote bool
		if nad, ok := object.(*nadv1.NetworkAttachmentDefinition); exists && ok {
			wrote, err = save(root, key, definitionOf(nad))
		} else {
			wrote, err = remove(root, definitionFile(key))
		}
		if err != nil {
			return err
		}
		changed = changed || wrote
	}
	if prune {
		removed, err := removeOthers(root, f.informer.GetStore().ListKeys())
		if err != nil {
			return err
		}
		changed = changed || removed
	}
	if !changed {
		return nil
	}
	return syncDir(root)
}

// save replaces one file as a whole; false if it already says the same.
func save(root *os.Root, key string, d definition) (bool, error) {
	data, err := encodeDefinition(d)
	if err != nil {
		return false, err
	}
	name := definitionFile(key)
	if old, err := root.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	failpoint.Hit("kube-definition-before-write")
	if err := writeSynced(root, name+".tmp", data); err != nil {
		return false, err
	}
	failpoint.Hit("kube-definition-before-rename")
	if err := root.Rename(name+".tmp", name); err != nil {
		return false, err
	}
	failpoint.Hit("kube-definition-after-rename")
	return true, nil
}

func writeSynced(root *os.Root, name string, data []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

func remove(root *os.Root, name string) (bool, error) {
	failpoint.Hit("kube-definition-before-remove")
	err := root.Remove(name)
	failpoint.Hit("kube-definition-after-remove")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// removeOthers removes every file that isn't one of keys.
func removeOthers(root *os.Root, keys []string) (bool, error) {
	keep := map[string]bool{}
	for _, key := range keys {
		keep[definitionFile(key)] = true
	}
	dir, err := root.Open(".")
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	changed := false
	for _, name := range names {
		if keep[name] {
			continue
		}
		removed, err := remove(root, name)
		if err != nil {
			return changed, err
		}
		changed = changed || removed
	}
	return changed, nil
}

func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
