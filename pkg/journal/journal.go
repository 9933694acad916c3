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

	"golang.org/x/sys/unix"

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
	// Container limits the journal to the sets of one container; empty means
	// all. Other processes may use the folder for other containers then.
	Container string
	Log       *slog.Logger
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

// Damaged is a file whose content is not what was written. It stays where it
// is until Restore or Quarantine is called for it, so that a daemon that is
// killed in between finds it again.
type Damaged struct {
	// Key from the file's name.
	Key attach.Key
	// Begin is the plan if it could be read, else nil.
	Begin *Begin
	// Err says what is wrong with it.
	Err error
}

// Open reads all files. Damaged ones are not in the index.
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
		name := entry.Name()
		key, whole := parseName(strings.TrimSuffix(name, tempSuffix))
		switch {
		case !whole && !strings.HasSuffix(name, suffix+tempSuffix):
			j.opts.Log.Warn("journal: a file that isn't the journal's was left alone", "file", filepath.Join(j.opts.Dir, name))
		case j.opts.Container != "" && key.ContainerID != j.opts.Container:
		case strings.HasSuffix(name, tempSuffix):
			if err := j.root.Remove(name); err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
		default:
			d, err := j.loadFile(name, key)
			if err != nil {
				return nil, err
			}
			damaged = append(damaged, d...)
		}
	}
	return damaged, nil
}

// loadFile takes one file into the index, or says what is wrong with it. A
// file that can't be read for want of resources is an error: it isn't damaged.
func (j *Journal) loadFile(name string, key attach.Key) ([]Damaged, error) {
	data, err := j.root.ReadFile(name)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err != nil {
		return []Damaged{{Key: key, Err: err}}, nil //nolint:nilerr // the damage is the value
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
		return []Damaged{{Key: key, Begin: salvage(data), Err: err}}, nil //nolint:nilerr // as above
	}
	j.sets[key] = &Set{journal: j, key: key, name: name, state: *state, end: int64(end)}
	j.generation = max(j.generation, state.Generation)
	return nil, nil
}

// Quarantine moves a damaged file out of the way and returns its new path.
func (j *Journal) Quarantine(d Damaged) (string, error) {
	to, err := j.keepCopy(d)
	if err == nil {
		err = errors.Join(j.root.Remove(fileName(d.Key)), syncDir(j.opts.Dir))
	}
	if err != nil {
		return "", fmt.Errorf("journal: quarantine: %w", err)
	}
	return to, nil
}

// keepCopy gives a damaged file a second name in the quarantine folder.
func (j *Journal) keepCopy(d Damaged) (string, error) {
	name := fileName(d.Key)
	to := filepath.Join(j.opts.Quarantine, fmt.Sprintf("%s.%d", name, time.Now().UnixNano()))
	if err := os.Link(filepath.Join(j.opts.Dir, name), to); err != nil {
		return "", err
	}
	return to, syncDir(j.opts.Quarantine)
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
	name := fmt.Sprintf("probe@%d%s%s", os.Getpid(), suffix, tempSuffix)
	j.probe.Lock()
	defer j.probe.Unlock()
	file, err := j.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(reserve(file, reserveBase+2*reserveStep), file.Close(), removeAny(j.root, name))
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
	return j.create(Begin{NetnsDev: ns.Dev, NetnsInode: ns.Inode, Plan: *plan}, nil)
}

// Restore puts a recovered set in place of a damaged file, of which a copy
// goes to the quarantine. The set is committed with the given attachments: its
// pod may be running, so it waits for its DEL. The file appears whole or not
// at all.
func (j *Journal) Restore(d Damaged, begin Begin, attachments []attach.Attachment) (*Set, error) {
	if _, err := j.keepCopy(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journal: quarantine: %w", err)
	}
	begin.Recovered = true
	var more []record
	for i := range begin.Plan.Delegates {
		more = append(more, record{Kind: KindProcess, Delegate: i})
	}
	s, err := j.create(begin, append(more, record{Kind: KindCommit, Attachments: attachments}))
	if err != nil {
		return nil, err
	}
	return s, s.Release()
}

func (j *Journal) create(begin Begin, more []record) (*Set, error) {
	key := begin.Plan.Key
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	s, err := j.reserve(begin)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("journal.create.before")
	if err := s.create(more); err != nil {
		j.forget(key)
		return nil, fmt.Errorf("journal: %s: %w", key, err)
	}
	failpoint.Hit("journal.create.after")
	return s, nil
}

// reserve takes the key for a new set.
func (j *Journal) reserve(begin Begin) (*Set, error) {
	uptime, err := Uptime()
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	key := begin.Plan.Key
	if _, ok := j.sets[key]; ok {
		return nil, fmt.Errorf("journal: %s: %w", key, ErrExists)
	}
	j.generation = max(j.generation+1, uint64(time.Now().UnixMicro()))
	begin.Format, begin.Generation = Format, j.generation
	if begin.BootID == "" {
		begin.BootID, begin.Uptime = j.opts.BootID, uptime
	}
	s := &Set{journal: j, key: key, name: fileName(key), state: State{
		Begin: begin, Phase: Begun, Steps: make([]Step, len(begin.Plan.Delegates)),
	}}
	j.sets[key] = s
	return s, nil
}

// Uptime is the time since the machine's boot, suspend included
// (CLOCK_BOOTTIME): unlike the wall clock it never goes back.
func Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("clock_gettime: %w", err)
	}
	return time.Duration(ts.Nano()), nil
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
