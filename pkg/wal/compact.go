package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

const (
	snapshotName  = "snapshot"
	snapshotTemp  = "snapshot.tmp"
	snapshotMagic = "meta-snp"
)

// snapshot stands for all records up to a number.
type snapshot struct {
	data []byte
	upTo uint64
}

// Compact lets the snapshot stand for all records that were ordered before the
// call; the caller holds the lock under which it orders, and leaves the slice
// alone from now on. It returns when a new segment is there for the records
// that follow, without waiting for the disk; the snapshot is stored in the
// background, and until that is done (see Compacting) the former snapshot and
// all records count. When it can't be stored nothing is lost and the Log of
// the options is told. Errors: ErrFull and ErrCompacting, after which all is
// as before, ErrClosed, or that of a broken log.
func (l *Log) Compact(data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.compacting {
		return fmt.Errorf("log %s: %w", l.opts.Dir, ErrCompacting)
	}
	if l.active.first != l.next {
		s, err := newSegment(l.opts.Dir, l.next, l.opts.Reserve)
		if err != nil {
			return fmt.Errorf("log %s: new segment: %w", l.opts.Dir, err)
		}
		failpoint.Hit("wal.compact.created")
		l.old = append(l.old, l.active)
		l.active = s
	}
	l.compacting = true
	l.queue = append(l.queue, &Ticket{
		segment: l.active, first: l.next, done: make(chan struct{}),
		snapshot: &snapshot{data: data, upTo: l.next - 1},
	})
	l.wake.Signal()
	return nil
}

// store puts a snapshot in place and removes the segments that it stands for.
func (l *Log) store(s snapshot) {
	temp, err := writeSnapshot(l.opts.Dir, s)
	if err != nil {
		l.opts.Log.Warn("log: the snapshot can't be written; the log grows until a later one can", "folder", l.opts.Dir, "error", full(err))
		l.mu.Lock()
		l.compacting = false
		l.mu.Unlock()
		return
	}
	// From here on nobody would know which snapshot the disk has if a step
	// failed; what follows would be built on sand.
	err = os.Rename(temp, filepath.Join(l.opts.Dir, snapshotName))
	failpoint.Hit("wal.snapshot.renamed")
	if err == nil {
		err = l.dir.Sync()
	}
	failpoint.Hit("wal.snapshot.durable")
	l.mu.Lock()
	l.compacting = false
	old := l.old
	if err == nil {
		l.old = nil
	}
	l.mu.Unlock()
	if err != nil {
		l.fail(fmt.Errorf("log %s is broken, restart to read what the disk has: put the snapshot in place: %w", l.opts.Dir, err), nil)
		return
	}
	for _, segment := range old {
		if err := removeFile(segment.path); err != nil {
			l.opts.Log.Warn("log: a segment that isn't needed any more can't be removed; the next start does it", "error", err)
		}
		failpoint.Hit("wal.snapshot.removed")
	}
}

// writeSnapshot makes the file under its temporary name, synced, or leaves
// none.
func writeSnapshot(dir string, s snapshot) (temp string, err error) {
	temp = filepath.Join(dir, snapshotTemp)
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	failpoint.Hit("wal.snapshot.created")
	_, err = file.Write(fileHeader(snapshotMagic, s.upTo, crc32.Checksum(s.data, castagnoli())))
	if err == nil {
		_, err = file.Write(s.data)
	}
	failpoint.Hit("wal.snapshot.written")
	if err == nil {
		err = file.Sync()
	}
	failpoint.Hit("wal.snapshot.synced")
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, removeFile(temp))
	}
	return temp, nil
}

// readSnapshot is the snapshot on the disk; its data is nil if there is none.
func readSnapshot(dir string) (snapshot, error) {
	path := filepath.Join(dir, snapshotName)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return snapshot{}, nil
	}
	if err != nil {
		return snapshot{}, err
	}
	defer file.Close()
	raw, err := readSynced(file)
	if err != nil {
		return snapshot{}, fmt.Errorf("%s: %w", path, err)
	}
	upTo, sum, err := parseFileHeader(raw, snapshotMagic)
	if err == nil && crc32.Checksum(raw[headerSize:], castagnoli()) != sum {
		err = errors.New("the checksum doesn't fit")
	}
	if err != nil {
		return snapshot{}, corrupt(path, err)
	}
	return snapshot{data: raw[headerSize:], upTo: upTo}, nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
