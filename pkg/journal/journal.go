// Package journal keeps what was begun for each attachment set on this node,
// one file a set, so that a daemon killed at any instruction knows after its
// restart what to finish and what to undo.
//
// A file is a list of checksummed lines that only grows: the plan first,
// written and synced before any delegate or the kernel is touched, then each
// step. Its room on the disk is reserved at the start, so that a full disk
// doesn't stop a DEL. A damaged file is never ignored: it moves to the
// quarantine folder and is reported with what could be saved of it.
//
// What the journal is not: a cache. Nothing in it is made up from elsewhere,
// and no two daemons may use one folder (package daemon holds the lock).
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// Format is the version of the file format.
const Format = 1

const (
	suffix     = ".journal"
	tempSuffix = ".tmp"
)

// ErrExists is returned by Begin for a key that has a file.
var ErrExists = errors.New("the attachment set already exists")

// Options of a journal.
type Options struct {
	// Dir holds the files, mode 0700.
	Dir string
	// Quarantine receives damaged files.
	Quarantine string
	// BootID of the running kernel.
	BootID string
	Log    *slog.Logger
}

// Journal is the set of files.
type Journal struct {
	opts Options
	root *os.Root

	probe sync.Mutex // one probe at a time

	mu         sync.Mutex
	sets       map[attach.Key]*Set
	generation uint64
}

// Damaged is a file that was put into quarantine when the journal was opened.
type Damaged struct {
	// Key from the file's name.
	Key attach.Key
	// Begin is the plan if it could be read, else nil.
	Begin *Begin
	// File is where the damaged file is now.
	File string
	// Err says what is wrong with it.
	Err error
}

// Open reads all files. Damaged ones have been moved to the quarantine.
func Open(opts Options) (*Journal, []Damaged, error) {
	for _, dir := range []string{opts.Dir, opts.Quarantine} {
		if err := secureDir(dir); err != nil {
			return nil, nil, err
		}
	}
	root, err := os.OpenRoot(opts.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{opts: opts, root: root, sets: map[attach.Key]*Set{}}
	damaged, err := j.load()
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	return j, damaged, nil
}

// Close releases the folder.
func (j *Journal) Close() error { return j.root.Close() }

func secureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("journal: %s is not a folder (a link is refused)", dir)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("journal: %s is open to others and can't be closed: %w", dir, err)
	}
	return nil
}

func (j *Journal) load() ([]Damaged, error) {
	entries, err := fs.ReadDir(j.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var damaged []Damaged
	for _, entry := range entries {
		if base, ok := strings.CutSuffix(entry.Name(), tempSuffix); ok && strings.HasSuffix(base, suffix) {
			if err := j.root.Remove(entry.Name()); err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
			continue
		}
		key, ok := parseName(entry.Name())
		if !ok {
			j.opts.Log.Warn("journal: a file that isn't the journal's was left alone", "file", filepath.Join(j.opts.Dir, entry.Name()))
			continue
		}
		if d := j.loadFile(entry.Name(), key); d != nil {
			if d.File, err = j.quarantine(entry.Name()); err != nil {
				return nil, err
			}
			damaged = append(damaged, *d)
		}
	}
	return damaged, nil
}

// loadFile takes one file into the index, or says what is wrong with it.
func (j *Journal) loadFile(name string, key attach.Key) *Damaged {
	data, err := j.root.ReadFile(name)
	if err != nil {
		return &Damaged{Key: key, Err: err}
	}
	records, end, err := decode(data)
	var state *State
	if err == nil {
		state, err = replay(records)
	}
	if err == nil && state.Plan.Key != key {
		err = fmt.Errorf("%w: it is about %s", ErrCorrupt, state.Plan.Key)
	}
	if err != nil {
		return &Damaged{Key: key, Begin: salvage(data), Err: err}
	}
	j.sets[key] = &Set{journal: j, key: key, name: name, state: *state, end: int64(end)}
	j.generation = max(j.generation, state.Generation)
	return nil
}

func (j *Journal) quarantine(name string) (string, error) {
	to := filepath.Join(j.opts.Quarantine, fmt.Sprintf("%s.%d", name, time.Now().UnixNano()))
	if err := os.Rename(filepath.Join(j.opts.Dir, name), to); err != nil {
		return "", fmt.Errorf("journal: quarantine: %w", err)
	}
	return to, errors.Join(syncDir(j.opts.Quarantine), syncDir(j.opts.Dir))
}

// Get returns the set of a key.
func (j *Journal) Get(key attach.Key) (*Set, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, ok := j.sets[key]
	return s, ok
}

// Sets returns all sets in no order.
func (j *Journal) Sets() []*Set {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make([]*Set, 0, len(j.sets))
	for _, s := range j.sets {
		all = append(all, s)
	}
	return all
}

// BootID is the boot in which this journal was opened.
func (j *Journal) BootID() string { return j.opts.BootID }

// Probe says in words why no set could be begun now: a full or read-only disk.
func (j *Journal) Probe() error {
	const name = "probe" + suffix + tempSuffix
	j.probe.Lock()
	defer j.probe.Unlock()
	file, err := j.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(reserve(file, reserveBase+2*reserveStep), file.Close(), j.root.Remove(name))
	}
	if err != nil {
		return fmt.Errorf("the journal in %s can't be written: %w", j.opts.Dir, err)
	}
	return nil
}

// Namespace identifies a network namespace: device and inode of its file.
type Namespace struct{ Dev, Inode uint64 }

// Begin writes the plan and syncs it. It returns ErrExists when the key has a
// set; what to do with that one is the caller's decision.
func (j *Journal) Begin(plan *attach.Plan, ns Namespace) (*Set, error) {
	return j.create(Begin{NetnsDev: ns.Dev, NetnsInode: ns.Inode, Plan: *plan})
}

// Restore writes a set anew that was recovered after damage, as committed with
// the given attachments: its pod may be running, so it waits for its DEL.
func (j *Journal) Restore(begin Begin, attachments []attach.Attachment) (*Set, error) {
	begin.Recovered = true
	s, err := j.create(begin)
	if err != nil {
		return nil, err
	}
	for i := range s.state.Steps {
		if err := s.append(record{Kind: KindProcess, Delegate: i}); err != nil {
			return nil, err
		}
	}
	return s, s.Commit(attachments)
}

func (j *Journal) create(begin Begin) (*Set, error) {
	key := begin.Plan.Key
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j.mu.Lock()
	if _, ok := j.sets[key]; ok {
		j.mu.Unlock()
		return nil, fmt.Errorf("journal: %s: %w", key, ErrExists)
	}
	j.generation = max(j.generation+1, uint64(time.Now().UnixMicro()))
	begin.Generation = j.generation
	s := &Set{journal: j, key: key, name: fileName(key), state: State{
		Begin: begin, Phase: Begun, Steps: make([]Step, len(begin.Plan.Delegates)),
	}}
	s.state.Format = Format
	if begin.BootID == "" {
		s.state.BootID = j.opts.BootID
	}
	j.sets[key] = s
	j.mu.Unlock()

	failpoint.Hit("journal.create.before")
	if err := s.create(); err != nil {
		j.forget(key)
		return nil, fmt.Errorf("journal: %s: %w", key, err)
	}
	failpoint.Hit("journal.create.after")
	return s, nil
}

func (j *Journal) forget(key attach.Key) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.sets, key)
}

// fileName holds the key itself, so that a file whose content is lost still
// says whose it was. '@' can't occur in a container ID.
func fileName(key attach.Key) string {
	return key.ContainerID + "@" + key.IfName + suffix
}

func parseName(name string) (attach.Key, bool) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return attach.Key{}, false
	}
	id, ifName, ok := strings.Cut(base, "@")
	key := attach.Key{ContainerID: id, IfName: ifName}
	return key, ok && key.Validate() == nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
