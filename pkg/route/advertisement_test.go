package route

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Routers advertise themselves at any time, before a move or after it.
func TestRouterAdvertisements(t *testing.T) {
	far := farAddresses()[1]
	moves := []Move{move6()}

	t.Run("before the move", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		p.advertise()
		p.wantVia([2]string{"", "a"})
		former := p.read(moves)
		if len(former.Routes) != 1 || former.Routes[0].Expires == 0 {
			t.Fatalf("Read = %+v, want one route that expires", former)
		}
		if err := Apply(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatal(err)
		}
		p.wantMoved(moves, [2]string{})
		p.advertise()
		p.wantStays(far)
		if err := Undo(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatal(err)
		}
		p.wantVia([2]string{"", "a"})
	})

	t.Run("between Read and Apply", func(t *testing.T) {
		t.Parallel()
		p := newPod(t)
		former := p.read(moves)
		p.advertise()
		if err := Apply(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatal(err)
		}
		p.wantStays(far)
		if err := Undo(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatal(err)
		}
		p.wantVia([2]string{"", "a"})
	})
}

// wantStays: the traffic goes to b every time, not only by chance.
func (p *pod) wantStays(far netip.AddrPort) {
	p.t.Helper()
	if err := Check(p.t.Context(), p.Handle, []Move{move6()}); err != nil {
		p.t.Error(err)
	}
	ours, _ := bestOf(p.defaults(unix.AF_INET6))
	for _, route := range p.defaults(unix.AF_INET6) {
		if route.parsed().header.Protocol != Protocol && route.metric() <= ours.metric() {
			p.t.Errorf("%q competes with ours", route.Text)
		}
	}
	for range 20 {
		if got := p.via(far); got != "b" {
			p.t.Fatalf("answered by %q", got)
		}
	}
}

// advertise lets gateway a say that it is a router, until the pod has heard.
func (p *pod) advertise() {
	p.t.Helper()
	// Else its neighbour advertisements say that it is no router after all.
	p.a.Sysctl("net/ipv6/conf/all/forwarding", "1")
	heard := func() bool {
		return slices.ContainsFunc(p.defaults(unix.AF_INET6), func(d Default) bool {
			return d.parsed().header.Protocol == unix.RTPROT_RA
		})
	}
	for deadline := time.Now().Add(10 * time.Second); !heard(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatal("the pod takes no router advertisement")
		}
		if err := p.a.Do(func() error { return sendAdvertisement(p.a.Link("pod").Attrs().Index) }); err != nil {
			p.t.Fatal(err)
		}
	}
}

// sendAdvertisement sends an ICMPv6 router advertisement (RFC 4861, 4.2) with
// a lifetime of 1800 s to all nodes.
func sendAdvertisement(device int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	message := make([]byte, 16)
	message[0], message[4], message[6], message[7] = 134, 64, 1800>>8, 1800&0xff
	allNodes := netip.MustParseAddr("ff02::1").As16()
	return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: allNodes, ZoneId: uint32(device)})
}
