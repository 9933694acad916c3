package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A segment is a header and frames, all in units of 32 bytes, then zeros. A
// frame is what is written at once: a header, the records (length and bytes),
// the trailer, zeros to the next unit. Numbers are little-endian.
//
//	0 length of the records     16 all-zero sectors in the frame
//	4 number of records         20 CRC-32C of the records
//	8 number of the first       24 CRC-32C of bytes 0 to 24
//	                            28 mark
//
// The disk writes whole sectors, in any order, and the next frame is written
// only when this one is synced. So a frame that a crash cut short is the last
// one and has sectors that are still zero, or the file ends in it; everything
// else that is wrong is damage. The header never lies across two sectors, the
// mark and the trailer are the last bytes of header and frame and not zero,
// and zero sectors that belong to the records are counted.
const (
	unit       = 32
	sector     = 512
	headerSize = unit
	lengthSize = 4
	trailer    = 0xa5
	frameMark  = 0x4c41574d // MWAL
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// recordSize is what n bytes take in a frame.
func recordSize(n int) int64 { return int64(lengthSize + n) }

// frameSize is what records of so many bytes take in the file.
func frameSize(records int64) int64 {
	return (headerSize + records + 1 + unit - 1) / unit * unit
}

func appendRecord(buf, record []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(buf, uint32(len(record))), record...)
}

// seal makes a frame of buf, which is room for a header and then the records,
// for the given place in the file.
func seal(buf []byte, first uint64, count uint32, at int64) []byte {
	records := buf[headerSize:]
	length, sum := len(records), crc32.Checksum(records, castagnoli())
	frame := append(buf, trailer)
	frame = append(frame, make([]byte, frameSize(int64(length))-int64(len(frame)))...)
	h := frame[:headerSize]
	binary.LittleEndian.PutUint32(h[28:], frameMark)
	binary.LittleEndian.PutUint32(h[0:], uint32(length))
	binary.LittleEndian.PutUint32(h[4:], count)
	binary.LittleEndian.PutUint64(h[8:], first)
	binary.LittleEndian.PutUint32(h[16:], zeroSectors(frame, at))
	binary.LittleEndian.PutUint32(h[20:], sum)
	binary.LittleEndian.PutUint32(h[24:], crc32.Checksum(h[:24], castagnoli()))
	return frame
}

// zeroSectors counts the sectors, or parts of them, that are zero in data,
// which lies at the given place of the file.
func zeroSectors(data []byte, at int64) (n uint32) {
	for len(data) > 0 {
		part := data[:min(int64(len(data)), sector-at%sector)]
		if isZero(part) {
			n++
		}
		data, at = data[len(part):], at+int64(len(part))
	}
	return n
}

func isZero(data []byte) bool { return len(bytes.TrimLeft(data, "\x00")) == 0 }

type header struct {
	length, count, zeros, sum uint32
	first                     uint64
}

// parseHeader is false for what is no whole header.
func parseHeader(h []byte) (header, bool) {
	if len(h) < headerSize ||
		binary.LittleEndian.Uint32(h[28:]) != frameMark ||
		binary.LittleEndian.Uint32(h[24:]) != crc32.Checksum(h[:24], castagnoli()) {
		return header{}, false
	}
	return header{
		length: binary.LittleEndian.Uint32(h[0:]), count: binary.LittleEndian.Uint32(h[4:]),
		first: binary.LittleEndian.Uint64(h[8:]),
		zeros: binary.LittleEndian.Uint32(h[16:]), sum: binary.LittleEndian.Uint32(h[20:]),
	}, true
}

// content is what a segment's bytes say.
type content struct {
	records [][]byte // parts of the bytes that were read
	end     int64    // where the next frame goes
	torn    int      // bytes of an unfinished frame after end
}

// errTorn marks a frame that a crash explains.
var errTorn = errors.New("unfinished")

// parseFrames reads the frames of a segment from its first byte; the first
// record must have the given number. An error says what is damaged.
func parseFrames(data []byte, next uint64) (content, error) {
	c := content{end: headerSize}
	used := int64(len(bytes.TrimRight(data, "\x00")))
	for c.end < used {
		records, size, err := parseFrame(data, c.end, used, next+uint64(len(c.records)))
		if errors.Is(err, errTorn) {
			c.torn = int(used - c.end)
			return c, nothingAfter(data, c.end+size, next+uint64(len(c.records)))
		}
		if err != nil {
			return c, fmt.Errorf("byte %d: %w", c.end, err)
		}
		c.records = append(c.records, records...)
		c.end += size
	}
	return c, nil
}

// parseFrame reads the frame at that byte; used is where the zeros at the end
// of the file begin.
func parseFrame(data []byte, at, used int64, next uint64) (records [][]byte, size int64, err error) {
	h, ok := parseHeader(data[at:])
	if !ok {
		return nil, headerSize, headerDamage(data, at, used)
	}
	if h.first != next {
		return nil, 0, fmt.Errorf("record %d where %d is due", h.first, next)
	}
	size = frameSize(int64(h.length))
	frame := data[at:min(at+size, int64(len(data)))]
	body := frame[headerSize:]
	if int64(len(body)) < int64(h.length) {
		return nil, size, errTorn
	}
	body, rest := body[:h.length], body[h.length:]
	if crc32.Checksum(body, castagnoli()) == h.sum {
		if !isZero(rest) && (rest[0] != trailer || !isZero(rest[1:])) {
			return nil, 0, errors.New("what follows the record is not as written")
		}
		records, err = split(body, h.count)
		return records, size, err
	}
	if isZero(rest) || zeroSectors(frame, at) > h.zeros {
		return nil, size, errTorn
	}
	return nil, 0, fmt.Errorf("record %d: the checksum doesn't fit", next)
}

// headerDamage tells a header that was not written, or not to its end, from
// one that was changed.
func headerDamage(data []byte, at, used int64) error {
	missing := int64(len(data)) < at+headerSize || isZero(data[at:at+headerSize])
	if missing || used < at+headerSize {
		return errTorn
	}
	return errors.New("the header of a record is not as written")
}

// nothingAfter refuses a torn frame with a good one behind it: a later frame is
// written only when the earlier ones are synced.
func nothingAfter(data []byte, from int64, next uint64) error {
	for at := from; at < int64(len(data)); at += unit {
		if h, ok := parseHeader(data[at:]); ok && h.first >= next {
			return fmt.Errorf("byte %d: record %d is whole, but %d before it is not", at, h.first, next)
		}
	}
	return nil
}

// split takes the records of a frame apart.
func split(body []byte, count uint32) ([][]byte, error) {
	var records [][]byte
	for len(body) >= lengthSize {
		n := int64(binary.LittleEndian.Uint32(body))
		if body = body[lengthSize:]; int64(len(body)) < n {
			return nil, errors.New("a record is longer than its frame")
		}
		records = append(records, body[:n:n])
		body = body[n:]
	}
	if len(body) != 0 || len(records) != int(count) {
		return nil, fmt.Errorf("%d records where %d are due", len(records), count)
	}
	return records, nil
}
