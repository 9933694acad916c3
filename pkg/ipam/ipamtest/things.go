package ipamtest

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

func node(name string) ipam.Node {
	return ipam.Node{Name: name, UID: "uid of " + name, Boot: "boot of " + name, Log: "log of " + name}
}

// block is the n-th IPv4 block of a space.
func block(space string, n int) ipam.BlockRef {
	addr := netip.AddrFrom4([4]byte{10, byte(n >> 10), byte(n >> 2), byte(n << 6)})
	return ipam.BlockRef{Space: space, Prefix: netip.PrefixFrom(addr, 26)}
}

// claim is the n-th IPv4 address of a space.
func claim(space string, n int) ipam.ClaimRef {
	return ipam.ClaimRef{Space: space, Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
}

func blockThings() things[ipam.Block] {
	at := func(space, prefix string) ipam.Block {
		p, _ := netip.ParsePrefix(prefix)
		return ipam.Block{Ref: ipam.BlockRef{Space: space, Prefix: p}, Mode: ipam.Shared}
	}
	mapped := at("default", "10.0.0.0/26")
	mapped.Ref.Prefix = netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 122)
	return things[ipam.Block]{
		kind: "block",
		sample: func(n int) ipam.Block {
			b := ipam.Block{Ref: block("default", n/3), Mode: ipam.Leased, Owner: node("n1")}
			switch n % 3 {
			case 1:
				b = ipam.Block{Ref: block("other", n/3), Mode: ipam.Shared, Suspect: true}
			case 2:
				addr := netip.MustParseAddr("2001:db8::").As16()
				addr[13] = byte(n)
				b.Ref.Prefix = netip.PrefixFrom(netip.AddrFrom16(addr), 122)
			}
			return b
		},
		changes: func(b ipam.Block) []ipam.Block {
			owned, suspect, shared := b, b, b
			owned.Mode, owned.Owner = ipam.Leased, ipam.Node{Name: strings.Repeat("n", 253), Boot: "b", Log: "l"}
			suspect.Mode, suspect.Owner, suspect.Suspect = ipam.Leased, node("n2"), true
			shared.Mode, shared.Owner, shared.Suspect = ipam.Shared, ipam.Node{}, false
			if b.Mode == ipam.Shared {
				return []ipam.Block{shared, b} // Shared is final; a store may hold that
			}
			return []ipam.Block{owned, suspect, shared}
		},
		bad: map[string]ipam.Block{
			"no space":                    at("", "10.0.0.0/26"),
			"a space with capitals":       at("Default", "10.0.0.0/26"),
			"a space with a dot":          at("a.b", "10.0.0.0/26"),
			"a space that climbs":         at("../a", "10.0.0.0/26"),
			"a space that is a path":      at("/tmp", "10.0.0.0/26"),
			"a space that is too long":    at(strings.Repeat("a", 64), "10.0.0.0/26"),
			"no prefix":                   at("default", ""),
			"a prefix with host bits":     at("default", "10.0.0.1/26"),
			"an IPv4 prefix told as IPv6": mapped,
		},
		get: func(ctx context.Context, s ipam.Store, of ipam.Block) (ipam.Block, error) {
			return s.GetBlock(ctx, of.Ref)
		},
		create: func(ctx context.Context, s ipam.Store, b ipam.Block) (ipam.Block, error) {
			return s.CreateBlock(ctx, b)
		},
		update: func(ctx context.Context, s ipam.Store, b ipam.Block) (ipam.Block, error) {
			return s.UpdateBlock(ctx, b)
		},
		remove: func(ctx context.Context, s ipam.Store, b ipam.Block, v ipam.Version) error {
			return s.DeleteBlock(ctx, b.Ref, v)
		},
		version: func(b *ipam.Block) *ipam.Version { return &b.Version },
		number:  func(b *ipam.Block) *string { return &b.Owner.Log },
	}
}

func claimThings() things[ipam.Claim] {
	at := func(space, addr string) ipam.Claim {
		a, _ := netip.ParseAddr(addr)
		return ipam.Claim{Ref: ipam.ClaimRef{Space: space, Addr: a}, State: ipam.Bound}
	}
	return things[ipam.Claim]{
		kind: "claim",
		sample: func(n int) ipam.Claim {
			c := fullClaim(claim("default", n/3))
			switch n % 3 {
			case 1:
				c = ipam.Claim{Ref: claim("other", n/3), State: ipam.Cooling, Node: node("n1")}
			case 2:
				addr := netip.MustParseAddr("2001:db8::").As16()
				addr[15] = byte(n)
				c.Ref.Addr = netip.AddrFrom16(addr)
			}
			return c
		},
		changes: claimChanges,
		bad: map[string]ipam.Claim{
			"no space":                       at("", "10.0.0.1"),
			"a space with capitals":          at("Default", "10.0.0.1"),
			"a space with a dot":             at("a.b", "10.0.0.1"),
			"a space that climbs":            at("../a", "10.0.0.1"),
			"a space that is a path":         at("/tmp", "10.0.0.1"),
			"a space that is too long":       at(strings.Repeat("a", 64), "10.0.0.1"),
			"no address":                     at("default", ""),
			"an address with a zone":         at("default", "fe80::1%eth0"),
			"an IPv4 address told as IPv6":   at("default", "::ffff:10.0.0.1"),
			"a zone that is a path to leave": {Ref: ipam.ClaimRef{Space: "default", Addr: netip.MustParseAddr("fe80::1").WithZone("/../../a")}, State: ipam.Bound},
		},
		get: func(ctx context.Context, s ipam.Store, of ipam.Claim) (ipam.Claim, error) {
			return s.GetClaim(ctx, of.Ref)
		},
		create: func(ctx context.Context, s ipam.Store, c ipam.Claim) (ipam.Claim, error) {
			return s.CreateClaim(ctx, c)
		},
		update: func(ctx context.Context, s ipam.Store, c ipam.Claim) (ipam.Claim, error) {
			return s.UpdateClaim(ctx, c)
		},
		remove: func(ctx context.Context, s ipam.Store, c ipam.Claim, v ipam.Version) error {
			return s.DeleteClaim(ctx, c.Ref, v)
		},
		version: func(c *ipam.Claim) *ipam.Version { return &c.Version },
		number:  func(c *ipam.Claim) *string { return &c.Owner.PodName },
	}
}

// fullClaim has every field.
func fullClaim(ref ipam.ClaimRef) ipam.Claim {
	return ipam.Claim{
		Ref: ref, State: ipam.Bound, Node: node("n1"),
		Owner: ipam.Owner{
			Key:          ipam.Key{ContainerID: strings.Repeat("0123456789abcdef", 4), IfName: "net1", Network: "a/network_with.anything"},
			PodNamespace: "default", PodName: strings.Repeat("p", 253), PodUID: "6a4a8f2e-3f0e-4a65-9d4f-0d9f9a3c8a11",
		},
		Keep:    keeper(ref.Addr.String()),
		Pool:    "namespace/a definition",
		Suspect: true,
		Since:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func keeper(name string) ipam.Keeper {
	return ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: name, UID: "uid", Network: "a/network_with.anything", IfName: "net1"}
}

// claimChanges are one for each field, and one with none but what it needs.
func claimChanges(c ipam.Claim) []ipam.Claim {
	full := fullClaim(c.Ref)
	full.Version = c.Version
	cooled, kept, imported, moved, since, anyone := full, full, full, full, full, full
	cooled.State, cooled.Owner, cooled.Keep, cooled.Suspect = ipam.Cooling, ipam.Owner{}, ipam.Keeper{}, false
	kept.State, kept.Owner, kept.Keep = ipam.Kept, ipam.Owner{}, ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: strings.Repeat("w", 253), Network: "n", IfName: "net1"}
	imported.Node = ipam.Node{Name: "n1"}
	moved.Node = ipam.Node{Name: strings.Repeat("n", 253), UID: "u", Boot: "b", Log: "l"}
	since.Since = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	anyone.Pool = ""
	bare := ipam.Claim{Ref: c.Ref, State: ipam.Cooling, Version: c.Version}
	return []ipam.Claim{cooled, kept, imported, moved, since, anyone, bare, full}
}
