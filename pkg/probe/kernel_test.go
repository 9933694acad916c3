package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
	"github.com/meta-cni/meta-cni/pkg/testnet"
)

// ifName is the interface of the sandbox in all tests.
const ifName = "net1"

// free are addresses that nobody has, used those of the other pod.
func free() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99")}
}

func used() []netip.Addr { return []netip.Addr{addr4(), addr6()} }

// world is a switch with another pod that has the used addresses, and a pod
// whose interface is as the plugins leave it: there, down, without addresses.
type world struct {
	t          *testing.T
	net        *testnet.Net
	wire       *testnet.Switch
	pod, other *testnet.Host
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	t.Parallel() // they wait most of the time
	w := &world{t: t, net: testnet.New(t)}
	w.wire = w.net.Switch("switch")
	w.other = w.net.Host("other")
	w.wire.Plug(w.other, "eth0", addr4().String()+"/24", addr6().String()+"/64")
	w.pod = w.net.Host("pod")
	w.wire.Plug(w.pod, ifName)
	w.down(w.pod)
	return w
}

func (w *world) down(h *testnet.Host) {
	w.t.Helper()
	if err := h.Netlink().LinkSetDown(h.Link(ifName)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(h *testnet.Host, addr netip.Addr) error {
	return New(DefaultTiming()).Address(w.t.Context(), h.Path(), ifName, addr)
}

// found is all of an interface that a probe could change.
type found struct {
	Up        bool
	Addresses string
	Routes    int
	IPv6Off   string
}

func (w *world) look(h *testnet.Host) found {
	w.t.Helper()
	link := h.Link(ifName)
	f := found{Up: link.Attrs().RawFlags&unix.IFF_UP != 0}
	addrs, err := h.Netlink().AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range addrs {
		f.Addresses += a.IPNet.String() + " "
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.Netlink().RouteList(link, family)
		if err != nil {
			w.t.Fatal(err)
		}
		f.Routes += len(routes)
	}
	f.IPv6Off = read(w.t, h, "/proc/sys/net/ipv6/conf/"+ifName+"/disable_ipv6")
	return f
}

// settled waits for what the kernel does by itself with a link that is up: it
// adds an address of the link's own.
func (w *world) settled(h *testnet.Host) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		addrs, err := h.Netlink().AddrList(h.Link(ifName), unix.AF_INET6)
		if err != nil || time.Now().After(deadline) {
			w.t.Fatalf("addresses %v: %v", addrs, err)
		}
		tentative := slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		if len(addrs) == 3 && !tentative {
			return
		}
	}
}

func read(t *testing.T, h *testnet.Host, path string) string {
	t.Helper()
	var b []byte
	if err := h.Do(func() (err error) { b, err = os.ReadFile(path); return err }); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unchanged gives a function that compares with what is now.
func (w *world) unchanged(h *testnet.Host) func() {
	before := w.look(h)
	return func() {
		w.t.Helper()
		if diff := cmp.Diff(before, w.look(h)); diff != "" {
			w.t.Errorf("the interface is not as it was (-want +got):\n%s", diff)
		}
	}
}

func mac(h *testnet.Host, nic string) net.HardwareAddr { return h.Link(nic).Attrs().HardwareAddr }

func wantConflict(t *testing.T, err error, want Conflict) {
	t.Helper()
	var c *Conflict
	if !errors.As(err, &c) || !errors.Is(err, ErrInUse) || errors.Is(err, ErrCannotAsk) {
		t.Fatalf("got %v, want a conflict", err)
	}
	if c.Addr != want.Addr || c.MAC.String() != want.MAC.String() || c.IfName != ifName || c.Asks != want.Asks {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, word := range []string{want.Addr.String(), want.MAC.String(), ifName} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q doesn't name %s", err, word)
		}
	}
}

func TestAnotherPodHasTheAddress(t *testing.T) {
	w := newWorld(t)
	for _, addr := range used() {
		t.Run(addr.String(), func(t *testing.T) {
			compare := w.unchanged(w.pod)
			wantConflict(t, w.ask(w.pod, addr), Conflict{Addr: addr, MAC: mac(w.other, "eth0")})
			compare()
		})
	}
	t.Run("mapped", func(t *testing.T) {
		mapped := netip.AddrFrom16(addr4().As16())
		wantConflict(t, w.ask(w.pod, mapped), Conflict{Addr: addr4(), MAC: mac(w.other, "eth0")})
	})
}

func TestNobodyHasTheAddress(t *testing.T) {
	w := newWorld(t)
	for _, addr := range free() {
		t.Run(addr.String(), func(t *testing.T) {
			compare := w.unchanged(w.pod)
			begin := time.Now()
			if err := w.ask(w.pod, addr); err != nil {
				t.Fatal(err)
			}
			timing := DefaultTiming()
			if took := time.Since(begin); took < 2*timing.Between+timing.Last {
				t.Errorf("asked for %s only", took)
			}
			compare()
		})
	}
}

// A link that is up is asked on as it is, and keeps what it has.
func TestLinkThatIsUp(t *testing.T) {
	w := newWorld(t)
	if err := w.pod.Netlink().LinkSetUp(w.pod.Link(ifName)); err != nil {
		t.Fatal(err)
	}
	w.pod.Address(ifName, "192.0.2.20/24", "2001:db8::20/64", "fe80::20/64")
	w.settled(w.pod)
	for i := range used() {
		compare := w.unchanged(w.pod)
		wantConflict(t, w.ask(w.pod, used()[i]), Conflict{Addr: used()[i], MAC: mac(w.other, "eth0")})
		if err := w.ask(w.pod, free()[i]); err != nil {
			t.Error(err)
		}
		compare()
	}
}

// A router advertises a prefix all the time; the pod's interface would form an
// address of it if the kernel could hear.
func TestNoAutoconfiguration(t *testing.T) {
	w := newWorld(t)
	w.pod.Sysctl("net/ipv6/conf/"+ifName+"/accept_ra", "2")
	compare := w.unchanged(w.pod)
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sending.Go(func() {
		for ctx.Err() == nil {
			send(t, w.other, "eth0", unix.ETH_P_IPV6, groupMAC(allNodes()), routerAdvertisement())
			time.Sleep(20 * time.Millisecond)
		}
	})
	seen := make(chan string, 1)
	go func() { seen <- addressesUntil(ctx, w.pod) }()
	err := w.ask(w.pod, free()[1])
	cancel()
	sending.Wait()
	if err != nil {
		t.Error(err)
	}
	if got := <-seen; got != "" {
		t.Errorf("while it was asked, the interface had %s", got)
	}
	compare()
	// Without the probe it would: else this test shows nothing.
	if err := w.pod.Netlink().LinkSetUp(w.pod.Link(ifName)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { seen <- addressesUntil(ctx, w.pod) }()
	for ctx.Err() == nil {
		send(t, w.other, "eth0", unix.ETH_P_IPV6, groupMAC(allNodes()), routerAdvertisement())
		select {
		case got := <-seen:
			if got == "" {
				t.Error("the router isn't heard")
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// addressesUntil are the IPv6 addresses of the interface as soon as it has one,
// or nothing when the context ends.
func addressesUntil(ctx context.Context, h *testnet.Host) string {
	for ctx.Err() == nil {
		link, err := h.Netlink().LinkByName(ifName)
		if err != nil {
			return err.Error()
		}
		addrs, err := h.Netlink().AddrList(link, unix.AF_INET6)
		if err != nil || len(addrs) > 0 {
			return fmt.Sprint(addrs, err)
		}
		time.Sleep(time.Millisecond)
	}
	return ""
}

// routerAdvertisement is for 2001:db8:1::/64, by fe80::1.
func routerAdvertisement() []byte {
	prefix := append([]byte{3, 4, 64, 0xc0, 0, 0, 0xe, 0x10, 0, 0, 0xe, 0x10, 0, 0, 0, 0}, netip.MustParseAddr("2001:db8:1::").AsSlice()...)
	b := ndMessage(advertisement, netip.MustParseAddr("fe80::1"), allNodes(), netip.IPv6Unspecified(), nil)
	b = append(b[:ip6Len], append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, prefix...)...)
	b[5] = byte(len(b) - ip6Len)
	return sealed(b)
}

// send puts a frame on the wire; payload is what comes after the Ethernet
// header.
func send(t *testing.T, h *testnet.Host, nic string, protocol uint16, to net.HardwareAddr, payload []byte) {
	t.Helper()
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		dst := unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: h.Link(nic).Attrs().Index, Halen: 6}
		copy(dst.Addr[:], to)
		return errors.Join(unix.Sendto(fd, payload, 0, &dst), unix.Close(fd))
	})
	if err != nil {
		t.Error(err)
	}
}

// Two that ask at the same time never both get it.
func TestTwoProbersAtOnce(t *testing.T) {
	w := newWorld(t)
	second := w.net.Host("second")
	w.wire.Plug(second, ifName)
	w.down(second)
	host := w.net.Host("host")
	w.wire.Plug(host, "eth0")
	// Long enough for the other to begin, however busy the machine is.
	p := New(Timing{Probes: 10, Between: 100 * time.Millisecond, Jitter: 50 * time.Millisecond, Last: 300 * time.Millisecond, Carrier: time.Second})
	for name, pods := range map[string][]*testnet.Host{
		"veth":    {w.pod, second},
		"macvlan": {w.macvlan(host, "third"), w.macvlan(host, "fourth")},
	} {
		for _, addr := range free() {
			t.Run(name+" "+addr.String(), func(t *testing.T) {
				var errs [2]error
				var group sync.WaitGroup
				for i, pod := range pods {
					group.Go(func() { errs[i] = p.Address(t.Context(), pod.Path(), ifName, addr) })
				}
				group.Wait()
				if errs[0] == nil && errs[1] == nil {
					t.Fatal("both believe that it is free")
				}
				for i, err := range errs {
					if err != nil {
						wantConflict(t, err, Conflict{Addr: addr, MAC: mac(pods[1-i], ifName), Asks: true})
					}
				}
			})
		}
	}
}

func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	host := w.net.Host("host")
	w.wire.Plug(host, "eth0")
	first, second := w.macvlan(host, "first"), w.macvlan(host, "second")
	if err := first.Netlink().LinkSetUp(first.Link(ifName)); err != nil {
		t.Fatal(err)
	}
	beside := []string{"192.0.2.30", "2001:db8::30"}
	first.Address(ifName, beside[0]+"/24", beside[1]+"/64")
	for i, addr := range used() {
		t.Run(addr.String(), func(t *testing.T) {
			compare := w.unchanged(second)
			wantConflict(t, w.ask(second, addr), Conflict{Addr: addr, MAC: mac(w.other, "eth0")})
			sibling := netip.MustParseAddr(beside[i])
			wantConflict(t, w.ask(second, sibling), Conflict{Addr: sibling, MAC: mac(first, ifName)})
			if err := w.ask(second, free()[i]); err != nil {
				t.Error(err)
			}
			compare()
		})
	}
}

func (w *world) macvlan(host *testnet.Host, name string) *testnet.Host {
	w.t.Helper()
	pod := w.net.Host(name)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = ifName, host.Link("eth0").Attrs().Index
	w.add(host, &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	file, err := os.Open(pod.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	err = host.Netlink().LinkSetNsFd(host.Link(ifName), int(file.Fd()))
	if err := errors.Join(err, file.Close()); err != nil {
		w.t.Fatal(err)
	}
	return pod
}

func (w *world) add(h *testnet.Host, link netlink.Link) {
	w.t.Helper()
	if err := h.Netlink().LinkAdd(link); err != nil {
		w.t.Fatal(err)
	}
}

func TestCannotAsk(t *testing.T) {
	w := newWorld(t)
	alone := func(name string) *testnet.Host {
		h := w.net.Host(name)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = ifName
		w.add(h, &netlink.Veth{LinkAttrs: attrs, PeerName: "peer"})
		return h
	}
	mute := alone("mute")
	if err := mute.Netlink().LinkSetARPOff(mute.Link(ifName)); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path, ifName, says string
		addr                     netip.Addr
	}{
		{"no interface", w.net.Netns("empty"), ifName, "find it", addr4()},
		{"no name", w.pod.Path(), "", "find it", addr4()},
		{"path for a name", w.pod.Path(), "../all", "find it", addr4()},
		{"no namespace", "/run/netns/there-is-none", ifName, netns.ErrGone.Error(), addr4()},
		{"the host", "/proc/self/ns/net", ifName, netns.ErrHost.Error(), addr4()},
		{"no address", w.pod.Path(), ifName, "single station", netip.Addr{}},
		{"group", w.pod.Path(), ifName, "single station", allNodes()},
		{"zone", w.pod.Path(), ifName, "single station", netip.MustParseAddr("fe80::1%eth0")},
		{"no ARP", mute.Path(), ifName, "NOARP", addr4()},
		{"no Ethernet", w.pod.Path(), "lo", "no Ethernet", addr4()},
		{"no carrier", alone("alone").Path(), ifName, "no carrier", addr4()},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			begin := time.Now()
			err := New(DefaultTiming()).Address(t.Context(), tc.path, tc.ifName, tc.addr)
			if !errors.Is(err, ErrCannotAsk) || errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %v: …%s…", err, ErrCannotAsk, tc.says)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestCheckEthernet(t *testing.T) {
	ether := netlink.LinkAttrs{EncapType: "ether", HardwareAddr: testMAC()}
	infiniband := netlink.LinkAttrs{EncapType: "infiniband", HardwareAddr: make(net.HardwareAddr, 20)}
	for link, want := range map[netlink.Link]string{
		&netlink.Macvlan{LinkAttrs: ether}:     "",
		&netlink.IPVlan{LinkAttrs: ether}:      "ipvlan",
		&netlink.Device{LinkAttrs: infiniband}: "no Ethernet (infiniband)",
	} {
		err := checkEthernet(link)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", link.Type(), err, want)
		}
	}
}

func TestNoCarrierIsPutBack(t *testing.T) {
	w := newWorld(t)
	if err := w.wire.Netlink().LinkSetDown(w.wire.Link("p-pod")); err != nil {
		t.Fatal(err)
	}
	compare := w.unchanged(w.pod)
	if err := w.ask(w.pod, addr4()); !errors.Is(err, ErrCannotAsk) {
		t.Errorf("got %v", err)
	}
	compare()
}

// The link would lose its IPv6 address by going down again.
func TestDownWithAddress(t *testing.T) {
	w := newWorld(t)
	w.pod.Address(ifName, "2001:db8::20/64")
	compare := w.unchanged(w.pod)
	if err := w.ask(w.pod, addr6()); !errors.Is(err, ErrCannotAsk) || !strings.Contains(err.Error(), "2001:db8::20/64") {
		t.Errorf("got %v", err)
	}
	compare()
}

func TestIPv6WasOff(t *testing.T) {
	w := newWorld(t)
	host := w.net.Host("host")
	w.wire.Plug(host, "eth0")
	for _, pod := range []*testnet.Host{w.pod, w.macvlan(host, "second")} {
		pod.Sysctl("net/ipv6/conf/"+ifName+"/disable_ipv6", "1")
		compare := w.unchanged(pod)
		wantConflict(t, w.ask(pod, addr6()), Conflict{Addr: addr6(), MAC: mac(w.other, "eth0")})
		compare()
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	// No time limit of its own ends these.
	timing := Timing{Probes: 1, Last: time.Hour, Carrier: time.Hour}
	whenUp := func(context.Context) {
		for !w.pod.IsUp(ifName) {
			time.Sleep(time.Millisecond)
		}
	}
	reason := errors.New("the pod was deleted")
	cases := []struct {
		name   string
		before func()
		when   func(context.Context)
	}{
		{"while it waits for an answer", func() {}, whenUp},
		{"before it begins", func() {}, func(context.Context) {}},
		{"while it waits for the carrier", func() {
			if err := w.wire.Netlink().LinkSetDown(w.wire.Link("p-pod")); err != nil {
				t.Fatal(err)
			}
		}, whenUp},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.before()
			compare := w.unchanged(w.pod)
			ctx, cancel := context.WithCancelCause(t.Context())
			if tc.name == "before it begins" {
				cancel(reason)
			}
			done := make(chan error, 1)
			go func() { done <- New(timing).Address(ctx, w.pod.Path(), ifName, free()[0]) }()
			if ctx.Err() == nil {
				tc.when(ctx)
			}
			cancel(reason)
			err := <-done
			if !errors.Is(err, reason) || errors.Is(err, ErrCannotAsk) || errors.Is(err, ErrInUse) {
				t.Errorf("got %v", err)
			}
			compare()
		})
	}
}

// Nothing of this says that somebody has the address.
func TestNoiseIsIgnored(t *testing.T) {
	w := newWorld(t)
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	noise := func(addr netip.Addr) (protocol uint16, to net.HardwareAddr, frames [][]byte) {
		own := mac(w.pod, ifName)
		if addr.Is4() {
			reply := arpMessage(arpReply, mac(w.other, "eth0"), addr, netip.IPv4Unspecified())
			return unix.ETH_P_ARP, broadcast, [][]byte{
				reply[:20], patch(reply, 1, 6), patch(reply, 4, 0), patch(reply, 5, 255),
				{0},
				make([]byte, 1400), arpProbe(own, addr), arpMessage(arpReply, own, addr, addr),
				arpMessage(arpReply, mac(w.other, "eth0"), addr4(), addr),
			}
		}
		advert := ndMessage(advertisement, addr, allNodes(), addr, targetMAC(mac(w.other, "eth0")))
		return unix.ETH_P_IPV6, groupMAC(allNodes()), [][]byte{
			advert[:50], patch(advert, 5, 255), patch(advert, 5, 0), patch(advert, 7, 64), patch(advert, ip6Len+3, 0),
			{0x60},
			make([]byte, 1400), sealed(patch(advert, ip6Len+ndLen+1, 9)),
			ndMessage(advertisement, addr, allNodes(), addr, targetMAC(own)),
			ndMessage(advertisement, addr6(), allNodes(), addr6(), nil),
		}
	}
	for _, addr := range free() {
		t.Run(addr.String(), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var sending sync.WaitGroup
			sending.Go(func() {
				protocol, to, frames := noise(addr)
				for ctx.Err() == nil {
					for _, b := range frames {
						send(t, w.other, "eth0", protocol, to, b)
					}
					time.Sleep(time.Millisecond)
				}
			})
			err := w.ask(w.pod, addr)
			cancel()
			sending.Wait()
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// The answer of a station in another VLAN comes with a tag.
func TestOtherVLAN(t *testing.T) {
	w := newWorld(t)
	for _, addr := range free() {
		t.Run(addr.String(), func(t *testing.T) {
			protocol, to := uint16(unix.ETH_P_ARP), net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			message := arpMessage(arpReply, mac(w.other, "eth0"), addr, netip.IPv4Unspecified())
			if addr.Is6() {
				protocol, to = unix.ETH_P_IPV6, groupMAC(allNodes())
				message = ndMessage(advertisement, addr, allNodes(), addr, nil)
			}
			tagged := append([]byte{0, 7, byte(protocol >> 8), byte(protocol)}, message...)
			ctx, cancel := context.WithCancel(t.Context())
			var sending sync.WaitGroup
			sending.Go(func() {
				for ctx.Err() == nil {
					send(t, w.other, "eth0", unix.ETH_P_8021Q, to, tagged)
					time.Sleep(5 * time.Millisecond)
				}
			})
			err := w.ask(w.pod, addr)
			cancel()
			sending.Wait()
			if err != nil {
				t.Error(err)
			}
			// The same without the tag is heard.
			done := make(chan error, 1)
			go func() { done <- w.ask(w.pod, addr) }()
			for {
				send(t, w.other, "eth0", protocol, to, message)
				select {
				case err := <-done:
					wantConflict(t, err, Conflict{Addr: addr, MAC: mac(w.other, "eth0")})
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
}

// What happens to the link meanwhile ends the call and is told.
func TestLinkChangesMeanwhile(t *testing.T) {
	timing := Timing{Probes: 1, Last: time.Hour, Carrier: time.Second}
	cases := map[string]func(*world) error{
		"goes down":  func(w *world) error { return w.pod.Netlink().LinkSetDown(w.pod.Link(ifName)) },
		"is deleted": func(w *world) error { return w.pod.Netlink().LinkDel(w.pod.Link(ifName)) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			done := make(chan error, 1)
			go func() { done <- New(timing).Address(t.Context(), w.pod.Path(), ifName, free()[0]) }()
			for !listening(t, w.pod) {
				time.Sleep(time.Millisecond)
			}
			if err := change(w); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, ErrCannotAsk) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// listening says whether a packet socket is bound in the namespace.
func listening(t *testing.T, h *testnet.Host) bool {
	t.Helper()
	return strings.Contains(read(t, h, "/proc/thread-self/net/packet"), " 0806 ")
}

// Calls for one interface come one after the other, each finds it down.
func TestSameInterfaceTwice(t *testing.T) {
	w := newWorld(t)
	compare := w.unchanged(w.pod)
	timing := Timing{Probes: 2, Between: 50 * time.Millisecond, Last: 100 * time.Millisecond, Carrier: time.Second}
	p, begin := New(timing), time.Now()
	var group sync.WaitGroup
	for _, addr := range append(free(), free()...) {
		group.Go(func() {
			if err := p.Address(t.Context(), w.pod.Path(), ifName, addr); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if took := time.Since(begin); took < 4*(timing.Between+timing.Last) {
		t.Errorf("four took %s: they were not one after the other", took)
	}
	compare()
	if len(p.turns.taken) != 0 {
		t.Errorf("%d turns are not given back", len(p.turns.taken))
	}
}

// Who waits for a turn may give up.
func TestTurns(t *testing.T) {
	ts := turns{taken: map[turn]*place{}}
	leave, err := ts.enter(t.Context(), turn{ifName: "a"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ts.enter(t.Context(), turn{ifName: "b"})
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ts.enter(ctx, turn{ifName: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leave()
	if len(ts.taken) != 0 {
		t.Errorf("left: %v", ts.taken)
	}
}

func TestPauses(t *testing.T) {
	timing := DefaultTiming()
	var least, most time.Duration
	for range 1000 {
		var sum time.Duration
		for n := range timing.Probes + 1 {
			sum += timing.pause(n)
		}
		most = max(most, sum)
		if least == 0 {
			least = sum
		}
		least = min(least, sum)
	}
	if least < 500*time.Millisecond || most+timing.Carrier > time.Second || least == most {
		t.Errorf("it takes %s to %s", least, most)
	}
}
