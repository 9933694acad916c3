package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

const lockName = "lock"

// Recovered is what an earlier process left.
type Recovered struct {
	// Snapshot is that of the last Compact which came to its end; nil if none.
	Snapshot []byte
	// Records came after the snapshot, in order.
	Records [][]byte
	// Torn is the bytes of an unfinished last write that were cut off.
	Torn int
}

// Open locks the folder, reads what is there and starts the writer. What it
// returns is on the disk. Errors: ErrInUse; ErrCorrupt if there is damage other
// than a torn tail, and nothing is changed then; ErrFull if a new log can't be
// begun.
func Open(o Options) (*Log, Recovered, error) {
	if o.Reserve <= 0 {
		o.Reserve = defaultReserve
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := secureDir(o.Dir); err != nil {
		return nil, Recovered{}, fmt.Errorf("log: %w", err)
	}
	l := &Log{opts: o, writer: make(chan struct{})}
	l.wake = sync.NewCond(&l.mu)
	r, err := l.recover()
	if err != nil {
		return nil, Recovered{}, errors.Join(fmt.Errorf("log: %w", err), l.abandon())
	}
	go l.run()
	return l, r, nil
}

// abandon gives up what a failed Open has.
func (l *Log) abandon() error {
	var errs []error
	for _, file := range []*os.File{l.dir, l.lock} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	if l.active != nil {
		errs = append(errs, l.active.close())
	}
	return errors.Join(errs...)
}

func (l *Log) recover() (Recovered, error) {
	var err error
	if l.lock, err = lockDir(l.opts.Dir); err != nil {
		return Recovered{}, err
	}
	if l.dir, err = os.Open(l.opts.Dir); err != nil {
		return Recovered{}, err
	}
	// What a killed process renamed or made must not vanish after it was read.
	if err := l.dir.Sync(); err != nil {
		return Recovered{}, err
	}
	snap, err := readSnapshot(l.opts.Dir)
	if err != nil {
		return Recovered{}, err
	}
	found, err := readSegments(l.opts.Dir, snap)
	if err != nil {
		return Recovered{}, err
	}
	for _, path := range append(found.leftover, filepath.Join(l.opts.Dir, snapshotTemp)) {
		if err := removeFile(path); err != nil {
			return Recovered{}, err
		}
		failpoint.Hit("wal.open.removed")
	}
	if err := l.adopt(found, snap.upTo+1); err != nil {
		return Recovered{}, err
	}
	return Recovered{Snapshot: snap.data, Records: found.records, Torn: found.torn}, nil
}

// adopt makes the last segment ready to be written to, or makes the first.
func (l *Log) adopt(found segments, first uint64) error {
	l.next = first + uint64(len(found.records))
	n := len(found.live)
	if n == 0 {
		s, err := newSegment(l.opts.Dir, first, l.opts.Reserve)
		if err != nil {
			return err
		}
		l.active = s
		failpoint.Hit("wal.open.created")
		return s.begin(l.dir)
	}
	l.old = found.live[:n-1]
	s := found.live[n-1]
	file, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.file, l.active = file, s
	if err := s.cut(found.torn); err != nil {
		return fmt.Errorf("%s: cut the torn tail off: %w", s.path, err)
	}
	return s.reallocate(l.opts.Reserve)
}

// cut overwrites a torn tail with zeros. The file keeps its room: on a full
// disk it would not get it back.
func (s *segment) cut(torn int) error {
	if torn == 0 {
		return nil
	}
	failpoint.Hit("wal.open.cut.before")
	if err := s.writeZeros(s.end, s.end+int64(torn)); err != nil {
		return err
	}
	failpoint.Hit("wal.open.cut.written")
	return s.file.Sync()
}

// reallocate takes room for the reserve again. A full disk is no error: DELs
// go on in the room that is left.
func (s *segment) reallocate(reserve int64) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.room = s.used
	for _, to := range []int64{max(info.Size(), s.used+reserve), info.Size()} {
		if err = full(s.allocate(to)); err == nil || !errors.Is(err, ErrFull) {
			return err
		}
	}
	return nil
}

// segments is what the folder has of them.
type segments struct {
	live     []*segment // without open files
	records  [][]byte
	torn     int
	leftover []string // paths of those that nobody needs
}

// readSegments reads the segments after a snapshot. Only the last one that was
// begun may have a torn tail.
func readSegments(dir string, snap snapshot) (segments, error) {
	var found segments
	firsts, err := listSegments(dir)
	if err != nil {
		return found, err
	}
	var contents [][]byte
	for _, first := range firsts {
		path := filepath.Join(dir, segmentName(first))
		if first <= snap.upTo {
			found.leftover = append(found.leftover, path)
			continue
		}
		data, err := readFile(path)
		if err != nil {
			return found, err
		}
		found.live = append(found.live, &segment{path: path, first: first})
		contents = append(contents, data)
	}
	// A segment is made before it is begun; nothing is in it until then.
	for n := len(contents); n > 0 && isZero(contents[n-1]); n-- {
		found.leftover = append(found.leftover, found.live[n-1].path)
		found.live, contents = found.live[:n-1], contents[:n-1]
	}
	if len(found.live) == 0 && snap.data != nil {
		return found, corrupt(filepath.Join(dir, segmentName(snap.upTo+1)), errors.New("it is missing, though there is a snapshot before it"))
	}
	for i, s := range found.live {
		if err := found.parse(s, contents[i], snap.upTo+1); err != nil {
			return found, corrupt(s.path, err)
		}
	}
	return found, nil
}

// parse adds the records of a segment; first is the number of the first record
// after the snapshot.
func (f *segments) parse(s *segment, data []byte, first uint64) error {
	number, _, err := parseFileHeader(data, segmentMagic)
	if err != nil {
		return err
	}
	due := first + uint64(len(f.records))
	if f.torn > 0 || number != s.first || number != due {
		return fmt.Errorf("it begins with record %d where %d is due", number, due)
	}
	c, err := parseFrames(data, due)
	if err != nil {
		return err
	}
	s.begun, s.end, s.used = true, c.end, c.end
	for _, record := range c.records {
		s.size += recordSize(len(record))
	}
	f.records = append(f.records, c.records...)
	f.torn = c.torn
	return nil
}

// listSegments are the numbers in the names, sorted.
func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, entry := range entries {
		if first, ok := parseSegmentName(entry.Name()); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := readSynced(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// lockDir takes the folder for this process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, full(err)
	}
	err = retry(func() error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another process holds %s; end it first (fuser %s shows it)", ErrInUse, path, path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// secureDir makes the folder and closes it to others.
func secureDir(dir string) error {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = syncDir(filepath.Dir(dir))
		}
	}
	if err != nil {
		return full(err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder (a link is refused)", dir)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("%s is open to others and can't be closed: %w", dir, err)
	}
	return nil
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// corrupt names the file and the remedy.
func corrupt(path string, err error) error {
	return fmt.Errorf("%w: %s: %w; restore the folder from a copy, or move it away to begin without what it held", ErrCorrupt, path, err)
}
