package route

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/testnet"
)

// The pod has eth0 to gateway a and net1 to gateway b. Both gateways own the
// same far addresses, and say who they are when asked there: so the answer
// shows which default route the kernel really uses.
type pod struct {
	*testnet.Host
	t    testing.TB
	a, b *testnet.Host
}

const (
	eth0 = "eth0"
	net1 = "net1"
)

func farAddresses() [2]netip.AddrPort {
	return [2]netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:7"), netip.MustParseAddrPort("[2001:db8:ff::1]:7")}
}

func newPod(t testing.TB) *pod {
	t.Helper()
	world := testnet.New(t)
	p := &pod{Host: world.Host("pod"), t: t, a: world.Host("a"), b: world.Host("b")}
	world.Cable(p.Host, eth0, p.a, "pod")
	world.Cable(p.Host, net1, p.b, "pod")
	p.a.Address("pod", "10.1.0.1/24", "10.1.0.3/24", "2001:db8:1::1/64", "2001:db8:1::3/64", "fe80::a/64")
	p.b.Address("pod", "10.2.0.1/24", "10.2.0.3/24", "2001:db8:2::1/64", "2001:db8:2::3/64", "fe80::b/64")
	p.a.Address("lo", "169.254.1.1/32")
	p.Address(eth0, "10.1.0.2/24", "2001:db8:1::2/64")
	p.Address(net1, "10.2.0.2/24", "2001:db8:2::2/64")
	for name, gateway := range map[string]*testnet.Host{"a": p.a, "b": p.b} {
		gateway.Address("lo", "203.0.113.1/32", "2001:db8:ff::1/128")
		for _, far := range farAddresses() {
			gateway.Answer(far, name)
		}
	}
	// Routes that are nobody's business: to elsewhere, and in another table.
	p.add(netlink.Route{Dst: prefix("198.51.100.0/24"), Gw: addr("10.1.0.1")})
	p.add(netlink.Route{Dst: prefix("2001:db8:77::/48"), Gw: addr("2001:db8:1::1")})
	p.add(netlink.Route{Dst: prefix("0.0.0.0/0"), Gw: addr("10.1.0.1"), Table: 100})
	p.add(netlink.Route{Dst: prefix("::/0"), Gw: addr("2001:db8:1::1"), Table: 100})
	return p
}

func prefix(text string) *net.IPNet { return must(netlink.ParseIPNet(text)) }

func addr(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// add appends a route; its device is given by name in the words of the test.
func (p *pod) add(route netlink.Route) {
	p.t.Helper()
	if err := p.Netlink().RouteAppend(&route); err != nil {
		p.t.Fatalf("add %v: %v", route, err)
	}
}

func (p *pod) index(nic string) int {
	p.t.Helper()
	return p.Link(nic).Attrs().Index
}

// via says which gateway answers through the default route, "" when there is
// no route.
func (p *pod) via(far netip.AddrPort) string {
	p.t.Helper()
	err := p.Do(func() error {
		conn, err := net.Dial("udp", far.String())
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return ""
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	answer, err := p.Ask(ctx, far)
	if err != nil {
		p.t.Errorf("%v", err)
	}
	return answer
}

// routes are all routes of the pod as texts, without what changes by itself:
// the kernel makes local and link-local routes in its own time.
func (p *pod) routes(family int) []string {
	p.t.Helper()
	all, err := p.Netlink().RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		p.t.Fatal(err)
	}
	var texts []string
	for _, route := range all {
		if route.Table == unix.RT_TABLE_LOCAL || route.Dst.IP.IsLinkLocalUnicast() {
			continue
		}
		route.CacheInfo = nil
		route.Expires = min(route.Expires, 1)
		texts = append(texts, string(must(json.Marshal(route))))
	}
	return texts
}

// defaults are the default routes of the main table.
func (p *pod) defaults(family uint8) []Default {
	p.t.Helper()
	routes, err := readDefaults(p.t.Context(), p.Handle, family)
	if err != nil {
		p.t.Fatal(err)
	}
	return routes
}

// read returns what Read does, after a way through a journal.
func (p *pod) read(moves []Move) Former {
	p.t.Helper()
	former, err := Read(p.t.Context(), p.Handle, moves)
	if err != nil {
		p.t.Fatal(err)
	}
	var written Former
	if err := json.Unmarshal(must(json.Marshal(former)), &written); err != nil {
		p.t.Fatal(err)
	}
	if diff := cmp.Diff(former, written); diff != "" {
		p.t.Fatalf("a way through JSON changes it: %s", diff)
	}
	return written
}

func move4() Move { return Move{IfName: net1, Gateway: netip.MustParseAddr("10.2.0.1")} }
func move6() Move { return Move{IfName: net1, Gateway: netip.MustParseAddr("2001:db8:2::1")} }

// formers are the default routes that a pod may have before a move.
type formers struct {
	name string
	// first says who answers before the move, by family.
	first [2]string
	make  func(p *pod)
}

func formerCases() []formers {
	return slices.Concat(formerCases4(), formerCases6())
}

func formerCases4() []formers {
	gw := func(p *pod, last string, metric int) netlink.Route {
		return netlink.Route{Gw: addr("10.1.0." + last), Dst: prefix("0.0.0.0/0"), Priority: metric}
	}
	return []formers{
		{"none", [2]string{}, func(*pod) {}},
		{"v4 plain", [2]string{"a"}, func(p *pod) { p.add(gw(p, "1", 0)) }},
		{"v4 metric", [2]string{"a"}, func(p *pod) { p.add(gw(p, "1", 100)) }},
		{"v4 two metrics", [2]string{"a"}, func(p *pod) {
			p.add(netlink.Route{Gw: addr("10.2.0.3"), Dst: prefix("0.0.0.0/0"), Priority: 200})
			p.add(gw(p, "1", 100))
		}},
		{"v4 three of one metric", [2]string{"a"}, func(p *pod) {
			p.add(gw(p, "1", 0))
			p.add(netlink.Route{Gw: addr("10.2.0.3"), Dst: prefix("0.0.0.0/0")})
			p.add(gw(p, "3", 0))
		}},
		{"v4 onlink, mtu, source", [2]string{"a"}, func(p *pod) {
			p.add(netlink.Route{
				Gw: addr("169.254.1.1"), Dst: prefix("0.0.0.0/0"), LinkIndex: p.index(eth0), Flags: int(netlink.FLAG_ONLINK),
				MTU: 1400, AdvMSS: 1300, Src: addr("10.1.0.2"), InitCwnd: 20, Protocol: unix.RTPROT_STATIC, Realm: 3,
			})
		}},
		{"v4 link scope", [2]string{"a"}, func(p *pod) {
			p.a.Sysctl("net/ipv4/conf/pod/proxy_arp", "1")
			p.add(netlink.Route{LinkIndex: p.index(eth0), Dst: prefix("0.0.0.0/0"), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL})
		}},
		{"v4 multipath", [2]string{"a"}, func(p *pod) {
			p.add(netlink.Route{Dst: prefix("0.0.0.0/0"), Priority: 7, MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: p.index(eth0), Gw: addr("10.1.0.1"), Hops: 3},
				{LinkIndex: p.index(eth0), Gw: addr("10.1.0.3"), Flags: int(netlink.FLAG_ONLINK)},
			}})
		}},
		{"v4 of the new interface", [2]string{"b"}, func(p *pod) {
			p.add(netlink.Route{Gw: addr("10.2.0.1"), Dst: prefix("0.0.0.0/0"), LinkIndex: p.index(net1)})
		}},
		{"v4 next hop object", [2]string{"a"}, func(p *pod) {
			nexthop := &netlink.Nexthop{ID: 5, OIF: uint32(p.index(eth0)), Gateway: addr("10.1.0.1")}
			if err := p.Netlink().NexthopAdd(nexthop); err != nil {
				p.t.Fatal(err)
			}
			p.add(netlink.Route{Dst: prefix("0.0.0.0/0"), NHID: 5, Family: unix.AF_INET})
		}},
		{"v4 blackhole behind, type of service", [2]string{"a"}, func(p *pod) {
			p.add(netlink.Route{Dst: prefix("0.0.0.0/0"), Type: unix.RTN_BLACKHOLE, Priority: 5000})
			p.add(gw(p, "1", 0))
			p.add(netlink.Route{Gw: addr("10.1.0.3"), Dst: prefix("0.0.0.0/0"), Tos: 0x10})
		}},
	}
}

func formerCases6() []formers {
	gw := func(last string, metric int) netlink.Route {
		return netlink.Route{Gw: addr("2001:db8:1::" + last), Dst: prefix("::/0"), Priority: metric}
	}
	return []formers{
		{"v6 plain", [2]string{"", "a"}, func(p *pod) { p.add(gw("1", 0)) }},
		{"both plain", [2]string{"a", "a"}, func(p *pod) {
			p.add(gw("1", 0))
			p.add(netlink.Route{Gw: addr("10.1.0.1"), Dst: prefix("0.0.0.0/0")})
		}},
		{"v6 lowest metric", [2]string{"", "a"}, func(p *pod) { p.add(gw("1", 1)) }},
		{"v6 lowest metric, multipath", [2]string{"", "a"}, func(p *pod) {
			p.add(netlink.Route{Dst: prefix("::/0"), Priority: 1, MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: p.index(eth0), Gw: addr("2001:db8:1::1"), Hops: 4}, {LinkIndex: p.index(eth0), Gw: addr("2001:db8:1::3")},
			}})
		}},
		{"v6 multipath and another", [2]string{"", "a"}, func(p *pod) {
			p.add(netlink.Route{Dst: prefix("::/0"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: p.index(eth0), Gw: addr("2001:db8:1::1")}, {LinkIndex: p.index(eth0), Gw: addr("2001:db8:1::3"), Hops: 1},
			}})
			p.add(netlink.Route{Gw: addr("2001:db8:2::3"), Dst: prefix("::/0"), Priority: 2000, MTU: 1400})
		}},
		{"v6 link-local gateway, learned", [2]string{"", "a"}, func(p *pod) {
			p.add(netlink.Route{Gw: addr("fe80::a"), LinkIndex: p.index(eth0), Dst: prefix("::/0"), Protocol: unix.RTPROT_RA, Expires: 900, Hoplimit: 64})
		}},
		{"v6 unreachable behind", [2]string{"", "a"}, func(p *pod) {
			p.add(gw("1", 0))
			p.add(netlink.Route{Dst: prefix("::/0"), Type: unix.RTN_UNREACHABLE, Priority: 5000, LinkIndex: p.index("lo")})
		}},
	}
}
