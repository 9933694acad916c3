package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func all(prefix netip.Prefix) iprange.Set { return iprange.SetOf(iprange.OfPrefix(prefix)) }

func TestNewRefuses(t *testing.T) {
	for _, text := range []string{"10.0.0.1/26", "10.0.0.0/23", "2001:db8::/64", "::ffff:10.0.0.0/122"} {
		if _, err := New(netip.MustParsePrefix(text), 1); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
	if _, err := New(netip.Prefix{}, 1); err == nil {
		t.Error("the zero prefix is accepted")
	}
}

func TestOneBlock(t *testing.T) {
	prefix := netip.MustParsePrefix("10.0.0.4/30")
	b, err := New(prefix, 60)
	if err != nil {
		t.Fatal(err)
	}
	within := iprange.SetOf(iprange.Single(netip.MustParseAddr("10.0.0.5")), iprange.Single(netip.MustParseAddr("10.0.0.6")))
	five, six := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	check := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	oldest := func(now Tick) string { addr, _ := b.Oldest(within, now); return addr.String() }
	lowest := func(now Tick) string { addr, _ := b.Lowest(within, now); return addr.String() }
	check("the first", oldest(0), "10.0.0.5")
	for addr, key := range map[netip.Addr]Key{five: "a", six: "b"} {
		if err := b.Assign(addr, key); err != nil {
			t.Fatal(err)
		}
	}
	check("full", oldest(0), "invalid IP")
	check("bitmap", b.Bitmap(), []byte{0b0110})
	check("again by its owner", b.Assign(five, "a"), error(nil))
	if err := b.Assign(five, "b"); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("another's: %v", err)
	}
	if err := b.Release(five, "b", 100); !errors.Is(err, ErrNotOwner) {
		t.Errorf("release of another's: %v", err)
	}
	check("still owned", b.Addrs("a"), []netip.Addr{five})
	check("release", b.Release(six, "b", 100), error(nil))
	check("release", b.Release(five, "a", 110), error(nil))
	check("release again, later", b.Release(six, "b", 150), error(nil))
	check("both cooling", oldest(159), "invalid IP")
	check("cooling", b.Count(within, 159), Counts{Cooling: 2})
	forced, _ := b.OldestCooling(within)
	check("forced", forced, six)
	check("one cooled", b.Count(within, 160), Counts{Cooling: 1, Free: 1})
	check("the longest free first", oldest(200), "10.0.0.6")
	check("or the lowest", lowest(200), "10.0.0.5")
	check("outside of the set", b.Count(all(prefix), 200), Counts{Free: 4})
	check("no owner", b.Addrs(""), []netip.Addr(nil))
	check("empty", b.IsEmpty(), true)
	check("prefix", b.Prefix().String(), "10.0.0.4/30")
}

func TestWrongCalls(t *testing.T) {
	b, err := New(netip.MustParsePrefix("2001:db8::40/122"), ^Tick(0))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"2001:db8::3f", "2001:db8::80", "10.0.0.1"} {
		addr := netip.MustParseAddr(text)
		if err := b.Assign(addr, "a"); !errors.Is(err, ErrOutside) {
			t.Errorf("assign %s: %v", addr, err)
		}
		if err := b.Release(addr, "a", 0); !errors.Is(err, ErrOutside) {
			t.Errorf("release %s: %v", addr, err)
		}
		if owner, ok := b.Owner(addr); ok {
			t.Errorf("%s belongs to %s", addr, owner)
		}
	}
	addr := netip.MustParseAddr("2001:db8::41")
	for _, key := range []Key{"", Key(strings.Repeat("x", MaxKey+1))} {
		if err := b.Assign(addr, key); !errors.Is(err, ErrKey) {
			t.Errorf("key of %d bytes: %v", len(key), err)
		}
	}
	if err := errors.Join(b.Assign(addr, "a"), b.Release(addr, "a", 5)); err != nil {
		t.Fatal(err)
	}
	if got := b.Count(all(b.Prefix()), ^Tick(0)-1); got != (Counts{Cooling: 1, Free: 63}) {
		t.Errorf("a cool-down without end: %+v", got)
	}
}

// naive is the same by the simplest means.
type naive struct {
	owner    map[netip.Addr]Key
	order    []netip.Addr // free, in the order in which they became so
	cooled   map[netip.Addr]Tick
	cooldown Tick
}

func (n *naive) pick(within iprange.Set, now Tick) (netip.Addr, bool) {
	for _, addr := range n.order {
		if within.Contains(addr) && n.cooled[addr] <= now {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (n *naive) count(within iprange.Set, now Tick) Counts {
	var counts Counts
	for addr := range n.owner {
		if within.Contains(addr) {
			counts.Used++
		}
	}
	for _, addr := range n.order {
		switch {
		case within.Contains(addr) && n.cooled[addr] <= now:
			counts.Free++
		case within.Contains(addr):
			counts.Cooling++
		}
	}
	return counts
}

func TestAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.248/29", "2001:db8::f8/125", "10.0.0.7/32"}).Draw(t, "prefix"))
		cooldown := Tick(rapid.Uint64Range(0, 5).Draw(t, "cooldown"))
		b, err := New(prefix, cooldown)
		if err != nil {
			t.Fatal(err)
		}
		n := &naive{map[netip.Addr]Key{}, slices.Collect(all(prefix).Addrs()), map[netip.Addr]Tick{}, cooldown}
		every := slices.Clone(n.order)
		within := iprange.SetOf()
		for _, addr := range rapid.SliceOf(rapid.SampledFrom(every)).Draw(t, "within") {
			within = within.Union(iprange.SetOf(iprange.Single(addr)))
		}
		now := Tick(0)
		key := rapid.Map(rapid.IntRange(0, 3), func(i int) Key { return Key(fmt.Sprint("owner-", i)) })
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) { now += Tick(rapid.Uint64Range(1, 3).Draw(t, "ticks")) },
			"assign": func(t *rapid.T) {
				addr, owner := rapid.SampledFrom(every).Draw(t, "addr"), key.Draw(t, "key")
				err := b.Assign(addr, owner)
				had, taken := n.owner[addr]
				if errors.Is(err, ErrTaken) != (taken && had != owner) {
					t.Fatalf("assign %s to %s of %q: %v", addr, owner, had, err)
				}
				if !taken {
					n.owner[addr] = owner
					n.order = slices.DeleteFunc(n.order, func(a netip.Addr) bool { return a == addr })
				}
			},
			"release": func(t *rapid.T) {
				addr, owner := rapid.SampledFrom(every).Draw(t, "addr"), key.Draw(t, "key")
				err := b.Release(addr, owner, now)
				had, taken := n.owner[addr]
				if errors.Is(err, ErrNotOwner) != (taken && had != owner) {
					t.Fatalf("release %s of %s by %s: %v", addr, had, owner, err)
				}
				if taken && had == owner {
					delete(n.owner, addr)
					n.order, n.cooled[addr] = append(n.order, addr), now+cooldown
				}
			},
			"restart": func(t *rapid.T) {
				data := b.Encode(now)
				if b, err = Decode(data, now); err != nil {
					t.Fatal(err)
				}
				for _, addr := range n.order {
					if n.cooled[addr] > now {
						n.cooled[addr] = now + cooldown
					}
				}
				if again := b.Encode(now); !bytes.Equal(again, data) {
					t.Fatalf("%x decoded and encoded is %x", data, again)
				}
			},
			"": func(t *rapid.T) { compare(t, b, n, within, now, every) },
		})
	})
}

func compare(t *rapid.T, b *Block, n *naive, within iprange.Set, now Tick, every []netip.Addr) {
	for name, pair := range map[string][2]any{
		"count":  {b.Count(within, now), n.count(within, now)},
		"empty":  {b.IsEmpty(), len(n.owner) == 0},
		"lowest": {first(b.Lowest(within, now)), lowestOf(n, within, now)},
		"oldest": {first(b.Oldest(within, now)), first(n.pick(within, now))},
		"forced": {first(b.OldestCooling(within)), first(n.pick(within, ^Tick(0)))},
	} {
		if pair[0] != pair[1] {
			t.Fatalf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	bitmap := b.Bitmap()
	for i, addr := range every {
		owner, ok := b.Owner(addr)
		want, wantOK := n.owner[addr]
		if owner != want || ok != wantOK || bitmap[i/8]>>(i%8)&1 == 1 != wantOK {
			t.Fatalf("%s belongs to %q, want %q; bitmap %x", addr, owner, want, bitmap)
		}
		if ok && !slices.Contains(b.Addrs(owner), addr) {
			t.Fatalf("%s has %v, without %s", owner, b.Addrs(owner), addr)
		}
	}
}

func first(addr netip.Addr, _ bool) netip.Addr { return addr }

func lowestOf(n *naive, within iprange.Set, now Tick) netip.Addr {
	sorted := &naive{order: slices.Clone(n.order), cooled: n.cooled}
	slices.SortFunc(sorted.order, netip.Addr.Compare)
	return first(sorted.pick(within, now))
}

// sealed has the checksum that fits its body.
func sealed(body []byte) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(body), crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// Any single byte changed, and any shorter data, is an error.
func TestDamageIsFound(t *testing.T) {
	b, err := New(netip.MustParsePrefix("10.0.0.0/29"), 60)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Assign(netip.MustParseAddr("10.0.0.3"), "pod/eth1"); err != nil {
		t.Fatal(err)
	}
	data := b.Encode(0)
	for i := range data {
		if _, err := Decode(data[:i], 0); err == nil {
			t.Errorf("the first %d bytes are accepted", i)
		}
		for bit := range 8 {
			damaged := slices.Clone(data)
			damaged[i] ^= 1 << bit
			if _, err := Decode(damaged, 0); err == nil {
				t.Errorf("bit %d of byte %d changed is accepted", bit, i)
			}
		}
	}
	body := data[:len(data)-sumBytes]
	for name, wrong := range map[string][]byte{
		"more behind":       append(slices.Clone(body), 0),
		"queue cut":         body[:len(body)-1],
		"one address twice": append(slices.Clone(body[:len(body)-2]), body[len(body)-4:len(body)-2]...),
		"a taken one free":  append(slices.Clone(body[:len(body)-2]), 3, 0),
		"cut in the prefix": body[:7],
	} {
		if _, err := Decode(sealed(wrong), 0); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// What Decode accepts, Encode writes again.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{"10.0.0.0/29", "2001:db8::/127", "10.0.0.1/32"} {
		b, err := New(netip.MustParsePrefix(text), 60)
		if err != nil {
			f.Fatal(err)
		}
		addr := b.Prefix().Addr()
		f.Add(b.Encode(0)[:len(b.Encode(0))-sumBytes])
		if err := errors.Join(b.Assign(addr, "a"), b.Release(addr, "a", 0), b.Assign(addr, "b")); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Encode(0)[:len(b.Encode(0))-sumBytes])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		data := sealed(body)
		b, err := Decode(data, 0)
		if err != nil {
			return
		}
		if again := b.Encode(0); !bytes.Equal(again, data) {
			t.Errorf("%x decoded and encoded is %x", data, again)
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	prefix := netip.MustParsePrefix("10.0.0.0/26")
	within := all(prefix)
	block, err := New(prefix, 0)
	if err != nil {
		b.Fatal(err)
	}
	for now := Tick(0); b.Loop(); now++ {
		addr, ok := block.Oldest(within, now)
		if !ok {
			b.Fatal("full")
		}
		if err := errors.Join(block.Assign(addr, "container/net1/network"), block.Release(addr, "container/net1/network", now)); err != nil {
			b.Fatal(err)
		}
	}
}
