package agent

import (
	"errors"
	"slices"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/wal"
)

var errDead = errors.New("the process was killed")

// memory is a log without a disk. What was appended is durable at once; a
// process that was killed can append nothing more.
type memory struct {
	mu       sync.Mutex
	snapshot []byte
	records  [][]byte
	size     int64
	full     bool
	broken   error
}

type done struct{}

func (done) Wait() error { return nil }

func (m *memory) recovered() wal.Recovered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return wal.Recovered{Snapshot: slices.Clone(m.snapshot), Records: slices.Clone(m.records)}
}

// life is one process's use of the log.
type life struct {
	*memory
	// step is called before and after each record; an error kills.
	step func(op string) error
	dead error
}

func (l *life) append(record []byte, reserved bool) (Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return nil, l.dead
	}
	if l.broken != nil {
		return nil, l.broken
	}
	if l.full && !reserved {
		return nil, wal.ErrFull
	}
	if err := l.step("log.before"); err != nil {
		l.dead = err
		return nil, err
	}
	l.records = append(l.records, slices.Clone(record))
	l.size += int64(len(record))
	if err := l.step("log.after"); err != nil {
		l.dead = err
		return nil, err
	}
	return done{}, nil
}

func (l *life) Append(record []byte) (Ticket, error)         { return l.append(record, false) }
func (l *life) AppendReserved(record []byte) (Ticket, error) { return l.append(record, true) }

func (l *life) Compact(snapshot []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead != nil {
		return l.dead
	}
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
