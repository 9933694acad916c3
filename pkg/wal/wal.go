// Package wal is a synced write-ahead log with snapshots, for one process at a
// time: records go in one by one, and come back in order after a crash.
//
// It knows nothing of what a record means, and reads only when it is opened.
// Its invariants: a record whose Wait returned nil comes back until a snapshot
// that stands for it is on the disk; what comes back is a prefix of what was
// ordered; damage that no interrupted write explains is an error and never a
// shorter log; and a failed write or sync is never tried again, since nobody
// knows what the disk has of it then.
package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Errors; tested with errors.Is. Their texts name the folder and the remedy.
var (
	// ErrCorrupt: the files are not what was written, and no crash explains it.
	ErrCorrupt = errors.New("the log is damaged")
	// ErrFull: no room on the disk. Nothing was ordered; the log stays usable.
	ErrFull = errors.New("no room for the log")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("the log is closed")
	// ErrInUse: another process, or another Log of this one, has the folder.
	ErrInUse = errors.New("the log is in use")
	// ErrCompacting: Compact was called while a snapshot was being written.
	ErrCompacting = errors.New("a snapshot is being written already")
)

const (
	// defaultReserve is Options.Reserve where nothing is said.
	defaultReserve = 1 << 20
	// growStep is how many bytes are allocated ahead of need.
	growStep = 1 << 20
	// maxBatch bounds the bytes that are written at once; a longer record goes
	// alone.
	maxBatch = 1 << 20
	// MaxRecord is the longest record, in bytes.
	MaxRecord = 16 << 20
)

// Options of a log.
type Options struct {
	// Dir holds the files, mode 0700; it is made if missing. It is on a local
	// disk: the lock is flock(2), and allocated room must stay allocated.
	Dir string
	// Reserve is how many bytes stay allocated for AppendReserved; 0 means 1 MiB.
	Reserve int64
	// Log gets what nobody waits for: a snapshot that could not be written.
	Log *slog.Logger
	// NoSync leaves fdatasync out, for benchmarks: records survive the end of
	// the process, not that of the machine.
	NoSync bool
}

// Log is an open log. It is safe for concurrent use.
type Log struct {
	opts Options
	dir  *os.File // for fsync
	lock *os.File

	mu    sync.Mutex
	wake  *sync.Cond // the queue or closed changed
	queue []*Ticket  // what the writer has to do, in order
	next  uint64     // the next record's number; the first is 1
	// active is where records are ordered, old what came before it since the
	// last snapshot.
	active     *segment
	old        []*segment
	broken     error
	closed     bool
	compacting bool

	writer     chan struct{} // closed when the writer has ended
	background sync.WaitGroup
	closing    sync.Once
	closeErr   error
}

// Ticket stands for the records that are written together.
type Ticket struct {
	segment *segment
	first   uint64 // number of the first record
	count   uint32
	buf     []byte // room for the header, then the records
	cost    int64  // what is set aside for them in the segment
	// snapshot, when not nil, is to be stored after the switch to the segment.
	snapshot *snapshot

	done chan struct{} // closed when err is final
	err  error
}

// Append orders a record: records come back in the order of the calls. It does
// not wait for the disk. On an error (ErrFull, ErrClosed, a broken log, a
// record longer than MaxRecord) nothing was ordered.
func (l *Log) Append(record []byte) (*Ticket, error) { return l.order(record, false) }

// AppendReserved is Append that may use the reserve: for releases, so that a
// full disk doesn't stop them.
func (l *Log) AppendReserved(record []byte) (*Ticket, error) { return l.order(record, true) }

func (l *Log) order(record []byte, dip bool) (*Ticket, error) {
	if len(record) > MaxRecord {
		return nil, fmt.Errorf("log %s: a record of %d bytes: at most %d fit", l.opts.Dir, len(record), MaxRecord)
	}
	cost := frameSize(recordSize(len(record)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	if err := l.active.ensure(cost, l.opts.Reserve, dip); err != nil {
		return nil, fmt.Errorf("log %s: %w", l.opts.Dir, err)
	}
	t := l.open(len(record))
	t.buf = appendRecord(t.buf, record)
	t.count++
	t.cost += cost
	l.next++
	l.active.used += cost
	l.active.size += recordSize(len(record))
	l.wake.Signal()
	return t, nil
}

// open is the last ticket of the queue if n more bytes may join it, else a new
// one.
func (l *Log) open(n int) *Ticket {
	if k := len(l.queue); k > 0 {
		t := l.queue[k-1]
		if t.segment == l.active && t.snapshot == nil && len(t.buf)+n < maxBatch {
			return t
		}
	}
	t := &Ticket{segment: l.active, first: l.next, buf: make([]byte, headerSize, headerSize+max(256, n+64)), done: make(chan struct{})}
	l.queue = append(l.queue, t)
	return t
}

// usable is nil, or why nothing can be ordered.
func (l *Log) usable() error {
	if l.broken != nil {
		return l.broken
	}
	if l.closed {
		return fmt.Errorf("%w: %s", ErrClosed, l.opts.Dir)
	}
	return nil
}

// Wait returns nil when the record is on the disk. When the write or the sync
// fails the log is broken for good: this and all later calls return the error,
// and whether the record comes back is not known.
func (t *Ticket) Wait() error {
	<-t.done
	return t.err
}

// Size is the bytes of the records since the last snapshot on the disk.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := l.active.size
	for _, s := range l.old {
		size += s.size
	}
	return size
}

// Compacting says whether a snapshot is being written.
func (l *Log) Compacting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.compacting
}

// Broken is nil, or the error that ended the log's use.
func (l *Log) Broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// Close writes what was ordered, awaits a snapshot under way and gives the
// folder up. Its error is that of the broken log.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.wake.Signal()
		l.mu.Unlock()
		<-l.writer
		l.background.Wait()
		errs := []error{l.Broken(), l.active.close()}
		for _, s := range l.old {
			errs = append(errs, s.close())
		}
		l.closeErr = errors.Join(append(errs, l.dir.Close(), l.lock.Close())...)
	})
	return l.closeErr
}
