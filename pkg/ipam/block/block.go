package block

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// MaxHostBits bounds a block to 256 addresses.
const MaxHostBits = 8

// MaxKey is the longest Key in bytes.
const MaxKey = 1024

// Errors of Assign and Release.
var (
	ErrTaken    = errors.New("the address is taken")
	ErrNotOwner = errors.New("the address belongs to another owner")
	ErrOutside  = errors.New("the address lies outside of the block")
	ErrKey      = errors.New("an owner's key has 1 to 1024 bytes")
)

// Key names the owner of an address. Only the same key can release it.
type Key string

// Tick is a time of the caller's monotonic clock, in units of its choice.
type Tick uint64

// Block is the state of one block. It is not safe for concurrent use.
type Block struct {
	prefix   netip.Prefix
	base     iprange.Range
	cooldown Tick
	owners   []Key // by ordinal; "" is free
	queue    []free
}

// free is an address in the queue.
type free struct {
	ordinal uint8
	cooled  Tick // from then on it may be used again
}

// New is a block with all its addresses free and cooled, lowest first. cooldown
// is how many ticks a released address rests. An error says that the prefix is
// none of a block.
func New(prefix netip.Prefix, cooldown Tick) (*Block, error) {
	if !prefix.IsValid() || prefix.Masked() != prefix || prefix.Addr().Is4In6() || hostBits(prefix) > MaxHostBits {
		return nil, fmt.Errorf("block %s: give a masked prefix of at most %d addresses", prefix, 1<<MaxHostBits)
	}
	b := &Block{
		prefix: prefix, base: iprange.OfPrefix(prefix), cooldown: cooldown,
		owners: make([]Key, 1<<hostBits(prefix)),
	}
	for i := range b.owners {
		b.queue = append(b.queue, free{ordinal: uint8(i)})
	}
	return b, nil
}

func hostBits(prefix netip.Prefix) int { return prefix.Addr().BitLen() - prefix.Bits() }

// Prefix is what the block covers.
func (b *Block) Prefix() netip.Prefix { return b.prefix }

// Oldest is the free address within the set that has been free the longest and
// is cooled at now; false when there is none.
func (b *Block) Oldest(within iprange.Set, now Tick) (netip.Addr, bool) {
	return b.first(within, func(f free) bool { return f.cooled <= now })
}

// OldestCooling is the free address within the set that has been free the
// longest, cooled or not. It is for a range that is otherwise full, and only
// when the network namespace of the address's last owner is gone.
func (b *Block) OldestCooling(within iprange.Set) (netip.Addr, bool) {
	return b.first(within, func(free) bool { return true })
}

// Lowest is the lowest free address within the set that is cooled at now;
// false when there is none.
func (b *Block) Lowest(within iprange.Set, now Tick) (netip.Addr, bool) {
	return b.LowestBut(within, now, func(netip.Addr) bool { return false })
}

// LowestBut is Lowest without the addresses that are skipped.
func (b *Block) LowestBut(within iprange.Set, now Tick, skip func(netip.Addr) bool) (netip.Addr, bool) {
	var lowest netip.Addr
	for _, f := range b.queue {
		addr := b.addr(f.ordinal)
		if f.cooled <= now && within.Contains(addr) && (!lowest.IsValid() || addr.Less(lowest)) && !skip(addr) {
			lowest = addr
		}
	}
	return lowest, lowest.IsValid()
}

// Next is the free address within the set that is cooled at now, isn't skipped
// and has been free the longest, with the end of its cool-down: over several
// blocks, the least of those is the one that has been free the longest. False
// when there is none.
func (b *Block) Next(within iprange.Set, now Tick, skip func(netip.Addr) bool) (netip.Addr, Tick, bool) {
	for _, f := range b.queue {
		if f.cooled > now {
			continue
		}
		if addr := b.addr(f.ordinal); within.Contains(addr) && !skip(addr) {
			return addr, f.cooled, true
		}
	}
	return netip.Addr{}, 0, false
}

// Free are the free addresses within the set, cooled or not, that which has
// been free the longest first.
func (b *Block) Free(within iprange.Set) []netip.Addr {
	var addrs []netip.Addr
	for _, f := range b.queue {
		if addr := b.addr(f.ordinal); within.Contains(addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// Cooling says whether the address is free and not cooled at now.
func (b *Block) Cooling(addr netip.Addr, now Tick) bool {
	ordinal, err := b.ordinal(addr)
	return err == nil && slices.ContainsFunc(b.queue, func(f free) bool { return f.ordinal == ordinal && f.cooled > now })
}

// Size is the number of addresses.
func (b *Block) Size() int { return len(b.owners) }

// Used is the number of addresses that have an owner.
func (b *Block) Used() int { return len(b.owners) - len(b.queue) }

// IsFull says whether every address has an owner.
func (b *Block) IsFull() bool { return len(b.queue) == 0 }

func (b *Block) first(within iprange.Set, usable func(free) bool) (netip.Addr, bool) {
	for _, f := range b.queue {
		if addr := b.addr(f.ordinal); usable(f) && within.Contains(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// Assign gives the address to key. To assign it to its owner again changes
// nothing; ErrTaken names another owner. It doesn't look at the cool-down.
func (b *Block) Assign(addr netip.Addr, key Key) error {
	ordinal, err := b.ordinal(addr)
	if err != nil {
		return err
	}
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("assign %s: %w", addr, ErrKey)
	}
	switch owner := b.owners[ordinal]; owner {
	case key:
		return nil
	case "":
		b.owners[ordinal] = key
		b.queue = slices.DeleteFunc(b.queue, func(f free) bool { return f.ordinal == ordinal })
		return nil
	default:
		return fmt.Errorf("assign %s to %q: %w by %q", addr, key, ErrTaken, owner)
	}
}

// Release takes the address from key at now and puts it at the end of the
// queue. A free address stays as it is, with its cool-down; ErrNotOwner names
// another owner.
func (b *Block) Release(addr netip.Addr, key Key, now Tick) error {
	return b.ReleaseFor(addr, key, now, b.cooldown)
}

// ReleaseFor is Release with another cool-down than the block's.
func (b *Block) ReleaseFor(addr netip.Addr, key Key, now, cooldown Tick) error {
	ordinal, err := b.ordinal(addr)
	if err != nil {
		return err
	}
	switch owner := b.owners[ordinal]; owner {
	case "":
		return nil
	case key:
		b.owners[ordinal] = ""
		b.queue = append(b.queue, free{ordinal, after(now, cooldown)})
		return nil
	default:
		return fmt.Errorf("release %s of %q: %w, %q", addr, key, ErrNotOwner, owner)
	}
}

// after is the end of a cool-down that begins at now.
func after(now, cooldown Tick) Tick {
	if end := now + cooldown; end >= now {
		return end
	}
	return ^Tick(0)
}

// Owner is who has the address; false when nobody does.
func (b *Block) Owner(addr netip.Addr) (Key, bool) {
	ordinal, err := b.ordinal(addr)
	if err != nil {
		return "", false
	}
	return b.owners[ordinal], b.owners[ordinal] != ""
}

// Addrs are the addresses of key, lowest first.
func (b *Block) Addrs(key Key) []netip.Addr {
	var addrs []netip.Addr
	for i, owner := range b.owners {
		if owner == key && key != "" {
			addrs = append(addrs, b.addr(uint8(i)))
		}
	}
	return addrs
}

// IsEmpty says whether no address has an owner. Only then a block is returned.
func (b *Block) IsEmpty() bool { return len(b.queue) == len(b.owners) }

// Counts are the numbers of addresses within a set at a time: Used + Cooling +
// Free are all of the block that are in the set.
type Counts struct{ Used, Cooling, Free int }

// Count counts the addresses within the set.
func (b *Block) Count(within iprange.Set, now Tick) Counts {
	var counts Counts
	for i, owner := range b.owners {
		if owner != "" && within.Contains(b.addr(uint8(i))) {
			counts.Used++
		}
	}
	for _, f := range b.queue {
		switch {
		case !within.Contains(b.addr(f.ordinal)):
		case f.cooled <= now:
			counts.Free++
		default:
			counts.Cooling++
		}
	}
	return counts
}

// Bitmap has a bit for each address, set when it has an owner: that of ordinal
// n is bit n%8 (the lowest is 0) of byte n/8.
func (b *Block) Bitmap() []byte {
	bitmap := make([]byte, (len(b.owners)+7)/8)
	for i, owner := range b.owners {
		if owner != "" {
			bitmap[i/8] |= 1 << (i % 8)
		}
	}
	return bitmap
}

func (b *Block) addr(ordinal uint8) netip.Addr {
	addr, _ := b.base.Nth(iprange.From64(uint64(ordinal)))
	return addr
}

func (b *Block) ordinal(addr netip.Addr) (uint8, error) {
	if !b.base.Contains(addr) {
		return 0, fmt.Errorf("%s in block %s: %w", addr, b.prefix, ErrOutside)
	}
	bytes := addr.AsSlice()
	mask := byte(len(b.owners) - 1)
	return bytes[len(bytes)-1] & mask, nil
}
