package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// format is the version of the files.
const format = 1

const (
	segmentSuffix = ".log"
	segmentMagic  = "meta-wal"
)

// segment is one file of records.
type segment struct {
	file *os.File
	path string
	// first is the number of its first record.
	first uint64

	// Under the log's lock: allocated bytes, those that are set aside for what
	// was ordered, and the bytes of the records.
	room, used, size int64

	// The writer's: where the next frame goes, and whether the header is on the
	// disk.
	end   int64
	begun bool
}

func segmentName(first uint64) string { return fmt.Sprintf("%016x%s", first, segmentSuffix) }

// parseSegmentName is the reverse of segmentName.
func parseSegmentName(name string) (first uint64, ok bool) {
	digits, isSegment := strings.CutSuffix(name, segmentSuffix)
	first, err := strconv.ParseUint(digits, 16, 64)
	return first, isSegment && err == nil && segmentName(first) == name
}

// newSegment makes a file with room for the reserve, or leaves none.
func newSegment(dir string, first uint64, reserve int64) (*segment, error) {
	path := filepath.Join(dir, segmentName(first))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, full(err)
	}
	s := &segment{file: file, path: path, first: first, used: headerSize, end: headerSize}
	if err := s.grow(headerSize + reserve); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path))
	}
	return s, nil
}

// ensure sets need bytes aside beside the reserve; with dip they may be of the
// reserve where the disk is full.
func (s *segment) ensure(need, reserve int64, dip bool) error {
	if s.used+need+reserve <= s.room {
		return nil
	}
	err := s.grow(s.used + need + reserve)
	if dip && s.used+need <= s.room {
		return nil // that is what the reserve is for
	}
	return err
}

// grow allocates the file up to that byte, and more ahead where there is room.
func (s *segment) grow(to int64) error {
	if s.allocate(to+growStep) == nil {
		return nil
	}
	if err := s.allocate(to); err != nil {
		return fmt.Errorf("%s: allocate %d bytes: %w", s.path, to, full(err))
	}
	return nil
}

// allocate makes sure that the file has blocks up to that byte. A file system
// without fallocate(2) gets zeros written.
func (s *segment) allocate(to int64) error {
	err := retry(func() error { return unix.Fallocate(int(s.file.Fd()), 0, 0, to) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = s.writeZeros(s.room, to)
	}
	if err == nil {
		s.room = to
	}
	return err
}

func (s *segment) writeZeros(from, to int64) error {
	zeros := make([]byte, min(max(to-from, 0), 1<<20))
	for from < to {
		n, err := s.file.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// begin writes the header and makes the file durable in its folder.
func (s *segment) begin(dir *os.File) error {
	if _, err := s.file.WriteAt(fileHeader(segmentMagic, s.first, 0), 0); err != nil {
		return err
	}
	if err := errors.Join(s.file.Sync(), dir.Sync()); err != nil {
		return err
	}
	s.begun = true
	return nil
}

func (s *segment) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// fileHeader is the first unit of a file: what it is, the format, a record's
// number, the checksum of what follows (0 for a segment, which goes on), and
// the header's own.
func fileHeader(magic string, number uint64, sum uint32) []byte {
	h := make([]byte, headerSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[8:], format)
	binary.LittleEndian.PutUint64(h[12:], number)
	binary.LittleEndian.PutUint32(h[20:], sum)
	binary.LittleEndian.PutUint32(h[24:], frameMark)
	binary.LittleEndian.PutUint32(h[28:], crc32.Checksum(h[:28], castagnoli()))
	return h
}

// parseFileHeader is the reverse of fileHeader.
func parseFileHeader(data []byte, magic string) (number uint64, sum uint32, err error) {
	if len(data) < headerSize || binary.LittleEndian.Uint32(data[28:]) != crc32.Checksum(data[:28], castagnoli()) {
		return 0, 0, errors.New("its header is not as written")
	}
	if string(data[:8]) != magic {
		return 0, 0, fmt.Errorf("it begins with %q, not %q", data[:8], magic)
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != format {
		return 0, 0, fmt.Errorf("it has format %d; this version reads %d", v, format)
	}
	return binary.LittleEndian.Uint64(data[12:]), binary.LittleEndian.Uint32(data[20:]), nil
}

// readSynced reads what the disk has: a process that was killed may have left
// pages unwritten, and a page whose writing failed looks written. So they are
// synced first, and then dropped from memory.
func readSynced(file *os.File) ([]byte, error) {
	if err := file.Sync(); err != nil {
		return nil, err
	}
	err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	n, err := file.ReadAt(data, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}

// full makes ErrFull of what the kernel says about room.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w; free space on its disk", ErrFull, err)
	}
	return err
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
