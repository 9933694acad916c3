package agent

import (
	"errors"
	"slices"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/wal"
)

var errDead = errors.New("the process was killed")

// done is a record that is kept.
type done struct{}

func (done) Wait() error { return nil }

// memory is the disk of a log: what is in it survives the process.
type memory struct {
	mu       sync.Mutex
	snapshot []byte
	records  [][]byte
	size     int64
	full     bool
	broken   error
}

func (m *memory) recovered() wal.Recovered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return wal.Recovered{Snapshot: slices.Clone(m.snapshot), Records: slices.Clone(m.records)}
}

// life is one process's use of the log. What it ordered is on the disk when
// somebody has waited for it; of the rest, a process that is killed leaves what
// torn says.
type life struct {
	*memory
	// step is called before and after each record; an error kills.
	step func(op string) error
	// wait is called, without a lock, before a record is waited for.
	wait func()
	torn func(n int) int
	dead error

	pending [][]byte
	ordered int
	synced  int
}

// promise is a record on its way to the disk.
type promise struct {
	life *life
	n    int
}

func (p promise) Wait() error {
	if p.life.wait != nil {
		p.life.wait()
	}
	return p.life.sync(p.n)
}

// sync puts the first n records of this life on the disk.
func (l *life) sync(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n <= l.synced {
		return nil
	}
	if err := l.alive("log.sync"); err != nil {
		return err
	}
	l.store(n - l.synced)
	return l.alive("log.synced")
}

func (l *life) store(n int) {
	l.records = append(l.records, l.pending[:n]...)
	l.pending = l.pending[n:]
	l.synced += n
}

// alive is nil, or why this process is no more.
func (l *life) alive(op string) error {
	if l.dead == nil {
		l.dead = l.step(op)
		if l.dead != nil && l.torn != nil {
			l.store(l.torn(len(l.pending)))
		}
	}
	return l.dead
}

func (l *life) append(record []byte, reserved bool) (Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	if l.full && !reserved {
		return nil, wal.ErrFull
	}
	if err := l.alive("log.before"); err != nil {
		return nil, err
	}
	l.pending = append(l.pending, slices.Clone(record))
	l.ordered++
	l.size += int64(len(record))
	if err := l.alive("log.after"); err != nil {
		return nil, err
	}
	return promise{l, l.ordered}, nil
}

func (l *life) Append(record []byte) (Ticket, error)         { return l.append(record, false) }
func (l *life) AppendReserved(record []byte) (Ticket, error) { return l.append(record, true) }

func (l *life) Compact(snapshot []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.alive("log.compact"); err != nil {
		return err
	}
	l.store(len(l.pending))
	l.memory.snapshot, l.records, l.size = slices.Clone(snapshot), nil, 0
	return nil
}

func (l *life) Compacting() bool { return false }

func (l *life) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

func (l *life) Broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return l.dead
	}
	return l.broken
}

func (l *life) Close() error { return nil }
