package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// reserveBase and reserveStep are the bytes set aside beyond the plan, for all
// and for each delegate: results of ADD are mostly below 2 KiB, the records of
// a DEL below 200 bytes each.
const (
	reserveBase = 8 << 10
	reserveStep = 8 << 10
)

// Set is one file. Its methods may be called from several goroutines; the
// order of steps is the caller's.
type Set struct {
	journal *Journal
	key     attach.Key
	name    string

	mu    sync.Mutex
	state State
	end   int64
	file  *os.File
}

// State returns a copy of what is known.
func (s *Set) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

// PodUID is the pod's, without a copy of the state.
func (s *Set) PodUID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Plan.Pod.UID
}

// Key of the set.
func (s *Set) Key() attach.Key { return s.key }

// Process records, synced, that a process exists for a delegate's ADD. The
// delegate must not get its configuration before this returns. A nil process
// stands for a delegate inside the daemon.
func (s *Set) Process(delegate int, p *Process) error {
	return s.append(record{Kind: KindProcess, Delegate: delegate, Process: p})
}

// Added records a delegate's result. It is not synced: without it the delegate
// counts as touched, which asks for the same undo.
func (s *Set) Added(delegate int, result json.RawMessage) error {
	return s.write(record{Kind: KindAdded, Delegate: delegate, Result: result})
}

// Routes records, synced, the default routes before they are moved.
func (s *Set) Routes(former json.RawMessage) error {
	return s.append(record{Kind: KindRoutes, Routes: former})
}

// Commit records, synced, that the ADD is done.
func (s *Set) Commit(attachments []attach.Attachment) error {
	return s.append(record{Kind: KindCommit, Attachments: attachments})
}

// Delete records, synced, that the set is being removed.
func (s *Set) Delete(reason string) error {
	return s.append(record{Kind: KindDelete, Message: reason})
}

// Restored records that the default routes are as before.
func (s *Set) Restored() error { return s.write(record{Kind: KindRestored}) }

// Deleted records that a delegate's DEL succeeded. It is not synced: without
// it the DEL is repeated, which is harmless.
func (s *Set) Deleted(delegate int) error {
	return s.write(record{Kind: KindDeleted, Delegate: delegate})
}

// maxFailures bounds the records of one DEL that fails for ever.
const maxFailures = 16

// Failed records the error of a delegate's DEL, the first maxFailures times.
func (s *Set) Failed(delegate int, cause error) error {
	if state := s.State(); state.Steps[delegate].Failures >= maxFailures {
		return nil
	}
	return s.write(record{Kind: KindFailed, Delegate: delegate, Message: cause.Error(), Time: time.Now().UTC().Round(0)})
}

// Remove deletes the file: nothing of the set is left anywhere.
func (s *Set) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failpoint.Hit("journal.remove.before")
	if err := s.journal.root.Remove(s.name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("journal: %w", err)
	}
	failpoint.Hit("journal.remove.unlinked")
	s.journal.forget(s.key)
	err := errors.Join(s.closeFile(), syncDir(s.journal.opts.Dir))
	failpoint.Hit("journal.remove.synced")
	return err
}

// Release closes the file until the next step.
func (s *Set) Release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeFile()
}

func (s *Set) closeFile() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// create writes the plan to a new file, which gets its name only when it is
// whole and synced, so that a visible file without a plan is always damage. On
// failure no file is left.
func (s *Set) create(more []record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	line, err := encode(record{Kind: KindBegin, Begin: &s.state.Begin})
	if err != nil {
		return err
	}
	for _, r := range more {
		next, err := encode(r)
		if err != nil {
			return err
		}
		if err := s.state.apply(r); err != nil {
			return err
		}
		line = append(line, next...)
	}
	temp := s.name + tempSuffix
	file, err := s.journal.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	s.file = file
	room := int64(len(line)) + reserveBase + reserveStep*int64(len(s.state.Steps))
	if err := s.fill(line, room, temp); err != nil {
		return errors.Join(err, s.closeFile(), removeAny(s.journal.root, temp, s.name))
	}
	s.end = int64(len(line))
	return nil
}

func (s *Set) fill(line []byte, room int64, temp string) error {
	failpoint.Hit("journal.create.empty")
	if err := reserve(s.file, room); err != nil {
		return fmt.Errorf("no room for the journal: %w", err)
	}
	if _, err := s.file.WriteAt(line, 0); err != nil {
		return err
	}
	failpoint.Hit("journal.create.written")
	if err := s.file.Sync(); err != nil {
		return err
	}
	failpoint.Hit("journal.create.synced")
	if err := s.journal.root.Rename(temp, s.name); err != nil {
		return err
	}
	failpoint.Hit("journal.create.renamed")
	return syncDir(s.journal.opts.Dir)
}

// removeAny removes the names that exist.
func removeAny(root *os.Root, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// reserve sets room aside on the disk; a file system without fallocate(2) gets
// zeros written.
func reserve(file *os.File, room int64) error {
	err := unix.Fallocate(int(file.Fd()), 0, 0, room)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		_, err = file.WriteAt(make([]byte, room), 0)
	}
	return err
}

// append writes a record and syncs it.
func (s *Set) append(r record) error {
	if err := s.write(r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	if err := unix.Fdatasync(int(s.file.Fd())); err != nil {
		return fmt.Errorf("journal: %s: sync: %w", s.name, err)
	}
	failpoint.Hit("journal.append.synced")
	return nil
}

// write appends a record and folds it into the state. The state changes only
// when the bytes are in the file.
func (s *Set) write(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	line, err := encode(r)
	if err != nil {
		return fmt.Errorf("journal: %s: %w", s.name, err)
	}
	next := s.state.clone()
	if err := next.apply(r); err != nil {
		return fmt.Errorf("journal: %s: %w", s.name, err)
	}
	if err := s.openFile(); err != nil {
		return err
	}
	failpoint.Hit("journal.append.before")
	if _, err := s.file.WriteAt(line, s.end); err != nil {
		return fmt.Errorf("journal: %s: %w", s.name, err)
	}
	failpoint.Hit("journal.append.written")
	s.state = next
	s.end += int64(len(line))
	return nil
}

func (s *Set) openFile() error {
	if s.file != nil {
		return nil
	}
	file, err := s.journal.root.OpenFile(s.name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	s.file = file
	return nil
}
