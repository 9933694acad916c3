package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
)

// The encoded form, all numbers as uvarint:
//
//	"MCB1"
//	length of the address (4 or 16), the address, bits of the prefix
//	cooldown
//	for each ordinal from 0: length of its owner's key (0: free), the key
//	for each free address, in the order of the queue: ordinal, 1 if cooling
//	CRC-32C of all this, 4 bytes, big endian
const (
	magic    = "MCB1"
	sumBytes = 4
)

// Encode is the block at now. Ticks mean nothing to the next process, so only
// which addresses are cooling is kept.
func (b *Block) Encode(now Tick) []byte {
	addr := b.prefix.Addr().AsSlice()
	out := append([]byte(magic), byte(len(addr)))
	out = append(out, addr...)
	out = binary.AppendUvarint(out, uint64(b.prefix.Bits()))
	out = binary.AppendUvarint(out, uint64(b.cooldown))
	for _, owner := range b.owners {
		out = binary.AppendUvarint(out, uint64(len(owner)))
		out = append(out, owner...)
	}
	for _, f := range b.queue {
		out = binary.AppendUvarint(out, uint64(f.ordinal))
		cooling := byte(0)
		if f.cooled > now && b.cooldown > 0 {
			cooling = 1
		}
		out = append(out, cooling)
	}
	return binary.BigEndian.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
}

// Decode is the reverse of Encode. What was cooling begins its cool-down anew
// at now, the time of the clock of this process. Damage of any kind is an
// error; nothing is guessed.
func Decode(data []byte, now Tick) (*Block, error) {
	if len(data) < len(magic)+sumBytes || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("block: %d bytes that are no encoded block; rebuild it from its object and the sandboxes", len(data))
	}
	body, sum := data[:len(data)-sumBytes], binary.BigEndian.Uint32(data[len(data)-sumBytes:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, fmt.Errorf("block: the checksum of %d bytes is wrong; rebuild it from its object and the sandboxes", len(data))
	}
	r := reader{rest: body[len(magic):]}
	addr, _ := netip.AddrFromSlice(r.bytes(r.number(16)))
	bits := r.number(128)
	cooldown := r.number(^uint64(0))
	if r.broken {
		return nil, errForm
	}
	b, err := New(netip.PrefixFrom(addr, int(bits)), Tick(cooldown))
	if err != nil {
		return nil, err
	}
	for i := range b.owners {
		b.owners[i] = Key(r.bytes(r.number(MaxKey)))
	}
	if !b.readQueue(&r, now) {
		return nil, errForm
	}
	return b, nil
}

var errForm = errors.New("block: the checksum is right but the form is not; was it written by another version?")

// readQueue replaces the queue; false unless it has each free address once and
// nothing is left after it.
func (b *Block) readQueue(r *reader, now Tick) bool {
	seen := slices.Clone(b.owners)
	b.queue = b.queue[:0]
	for range len(b.owners) - b.used() {
		ordinal := r.number(uint64(len(b.owners) - 1))
		cooling := r.number(1)
		if r.broken || seen[ordinal] != "" || cooling == 1 && b.cooldown == 0 {
			return false
		}
		seen[ordinal] = "queued"
		f := free{ordinal: uint8(ordinal)}
		if cooling == 1 {
			f.cooled = after(now, b.cooldown)
		}
		b.queue = append(b.queue, f)
	}
	return !r.broken && len(r.rest) == 0
}

func (b *Block) used() int {
	used := 0
	for _, owner := range b.owners {
		if owner != "" {
			used++
		}
	}
	return used
}

// reader takes numbers and bytes off the front; once broken it gives zeros.
type reader struct {
	rest   []byte
	broken bool
}

// number is the next uvarint, in its shortest form and at most highest.
func (r *reader) number(highest uint64) uint64 {
	value, n := binary.Uvarint(r.rest)
	if r.broken || n <= 0 || value > highest || len(binary.AppendUvarint(nil, value)) != n {
		r.broken = true
		return 0
	}
	r.rest = r.rest[n:]
	return value
}

func (r *reader) bytes(n uint64) []byte {
	if r.broken || uint64(len(r.rest)) < n {
		r.broken = true
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}
