package testnet

import (
	"errors"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// switchBridge is the bridge in the namespace of a switch.
const switchBridge = "br0"

// Switch is an underlay: a learning Ethernet switch, which is a bridge in a
// namespace of its own.
type Switch struct {
	*Host
}

// Switch makes a switch without cables.
func (n *Net) Switch(name string) *Switch {
	n.tb.Helper()
	s := &Switch{Host: n.Host(name)}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = switchBridge
	s.must("add bridge", s.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	s.must("set bridge up", s.Netlink().LinkSetUp(s.Link(switchBridge)))
	return s
}

// Plug connects a host to the switch by the interface nic, with addresses
// such as "192.0.2.1/24".
func (s *Switch) Plug(h *Host, nic string, addresses ...string) {
	s.net.tb.Helper()
	port := "p-" + h.Name
	if len(port) > 15 {
		port = port[:15]
	}
	s.net.Cable(s.Host, port, h, nic)
	s.must("plug "+h.Name, s.Netlink().LinkSetMaster(s.Link(port), s.Link(switchBridge)))
	h.Address(nic, addresses...)
}

// Cable connects two hosts by a veth pair; both ends are up.
func (n *Net) Cable(a *Host, aName string, b *Host, bName string) {
	n.tb.Helper()
	other, err := os.Open(b.Path())
	b.must("open", err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	err = a.Netlink().LinkAdd(&netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(int(other.Fd())),
	})
	a.must("cable to "+b.Name, errors.Join(err, other.Close()))
	a.must("set up "+aName, a.Netlink().LinkSetUp(a.Link(aName)))
	b.must("set up "+bName, b.Netlink().LinkSetUp(b.Link(bName)))
}

// Address adds addresses such as "192.0.2.1/24" to an interface.
func (h *Host) Address(nic string, addresses ...string) {
	h.net.tb.Helper()
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		h.must("parse "+text, err)
		if addr.IP.To4() == nil {
			// Even without duplicate address detection an address can't be
			// used before the kernel's worker has had its turn.
			addr.Flags |= unix.IFA_F_NODAD
		}
		h.must("add "+text, h.Netlink().AddrAdd(h.Link(nic), addr))
	}
}

// Route adds a route to a prefix ("0.0.0.0/0" for the default) via a gateway.
func (h *Host) Route(prefix, gateway string) {
	h.net.tb.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	h.must("parse "+prefix, err)
	gw, err := netip.ParseAddr(gateway)
	h.must("parse "+gateway, err)
	h.must("add route to "+prefix, h.Netlink().RouteAdd(&netlink.Route{Dst: dst, Gw: gw.AsSlice()}))
}

// Forward makes the host a router for both address families.
func (h *Host) Forward() {
	h.net.tb.Helper()
	h.Sysctl("net/ipv4/ip_forward", "1")
	h.Sysctl("net/ipv6/conf/all/forwarding", "1")
}

// IsUp says whether the interface exists and is up.
func (h *Host) IsUp(nic string) bool {
	link, err := h.Netlink().LinkByName(nic)
	return err == nil && link.Attrs().RawFlags&unix.IFF_UP != 0
}
