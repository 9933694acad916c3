package wal

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// run is the writer: one write and one sync for all records that wait.
func (l *Log) run() {
	defer close(l.writer)
	for {
		t := l.take()
		if t == nil {
			return
		}
		size, err := l.write(t)
		if err != nil {
			l.fail(fmt.Errorf("log %s is broken, restart to read what the disk has: %w", l.opts.Dir, err), t)
			return
		}
		l.mu.Lock()
		t.segment.used -= t.cost - size
		l.mu.Unlock()
		close(t.done)
	}
}

// take awaits the next ticket; nil when the log is closed and all is written,
// or when it is broken.
func (l *Log) take() *Ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed && l.broken == nil {
		l.wake.Wait()
	}
	if len(l.queue) == 0 || l.broken != nil {
		return nil
	}
	t := l.queue[0]
	l.queue = l.queue[1:]
	return t
}

// write makes a ticket durable and returns the bytes that it took.
func (l *Log) write(t *Ticket) (int64, error) {
	if t.snapshot != nil {
		return 0, l.switchTo(t)
	}
	s := t.segment
	frame := seal(t.buf, t.first, t.count, s.end)
	failpoint.Hit("wal.append.before")
	if _, err := s.file.WriteAt(frame, s.end); err != nil {
		return 0, err
	}
	failpoint.Hit("wal.append.written")
	if !l.opts.NoSync {
		if err := retry(func() error { return unix.Fdatasync(int(s.file.Fd())) }); err != nil {
			return 0, fmt.Errorf("sync %s: %w", s.path, err)
		}
	}
	failpoint.Hit("wal.append.synced")
	t.buf = nil
	s.end += int64(len(frame))
	return int64(len(frame)), nil
}

// switchTo ends the former segment, all of which is synced, begins that of the
// ticket, and stores the ticket's snapshot in the background.
func (l *Log) switchTo(t *Ticket) error {
	if !t.segment.begun {
		failpoint.Hit("wal.switch.before")
		if err := t.segment.begin(l.dir); err != nil {
			return fmt.Errorf("begin %s: %w", t.segment.path, err)
		}
		failpoint.Hit("wal.switch.begun")
		l.mu.Lock()
		former := l.old[len(l.old)-1]
		l.mu.Unlock()
		if err := former.close(); err != nil {
			return fmt.Errorf("close %s: %w", former.path, err)
		}
	}
	l.background.Go(func() { l.store(*t.snapshot) })
	return nil
}

// fail breaks the log for good; nil is no ticket.
func (l *Log) fail(err error, t *Ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = err
	}
	failed := l.queue
	if t != nil {
		failed = append([]*Ticket{t}, failed...)
	}
	l.queue = nil
	for _, t := range failed {
		t.err = l.broken
		l.compacting = l.compacting && t.snapshot == nil
		close(t.done)
	}
	l.wake.Signal()
}
