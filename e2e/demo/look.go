package main

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/testnet"
)

// view is what the picture shows.
type view struct {
	hosts []hostView
}

// hostView is a box with a cable to the underlay.
type hostView struct {
	name  string
	nic   string
	cable string
	pods  []podView
	extra string
}

type podView struct {
	name       string
	interfaces []interfaceView
}

// interfaceView is an interface and what it is wired to.
type interfaceView struct {
	name, addresses, note, to string
}

// view asks the kernel who is wired to what.
func (w *world) view(s *stage) view {
	var v view
	for _, n := range w.hosts {
		h := hostView{name: n.Name, nic: nic + "  " + join(addresses(s, n.Host, nic)), cable: w.port(s, n.Host)}
		for _, p := range w.pods {
			if p.on == n {
				h.pods = append(h.pods, p.view(s))
			}
		}
		v.hosts = append(v.hosts, h)
	}
	return view{append(v.hosts, hostView{
		name:  w.router.Name,
		extra: "lo    " + join(addresses(s, w.router, "lo")) + "  (stands for the outside)",
		nic:   nic + "  " + join(addresses(s, w.router, nic)),
		cable: w.port(s, w.router),
	})}
}

// port is the bridge on the underlay into which the host's cable goes.
func (w *world) port(s *stage, host *testnet.Host) string {
	return behind(s, w.underlay.Host, host.Link(nic))
}

func (p *pod) view(s *stage) podView {
	names, err := p.sandbox.Interfaces()
	s.must(err)
	v := podView{name: p.name}
	for _, name := range names {
		link := p.sandbox.Link(name)
		v.interfaces = append(v.interfaces, interfaceView{
			name:      name,
			addresses: join(addresses(s, p.sandbox, name)),
			note:      defaultRoutes(s, p.sandbox, link),
			to:        behind(s, p.on.Host, link),
		})
	}
	return v
}

// behind says what a pod's interface is wired to in the host: the bridge at
// the other end of a veth pair, or the parent of a macvlan.
func behind(s *stage, host *testnet.Host, link netlink.Link) string {
	other, err := host.Netlink().LinkByIndex(link.Attrs().ParentIndex)
	s.must(err)
	if link.Type() != "veth" {
		return link.Type() + " on " + other.Attrs().Name
	}
	bridge, err := host.Netlink().LinkByIndex(other.Attrs().MasterIndex)
	s.must(err)
	return bridge.Type() + " " + bridge.Attrs().Name
}

// defaultRoutes says which default routes lead through the interface.
func defaultRoutes(s *stage, host *testnet.Host, link netlink.Link) string {
	note := ""
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := host.Netlink().RouteList(link, family)
		s.must(err)
		for _, route := range routes {
			if ones, _ := route.Dst.Mask.Size(); ones == 0 && route.Gw != nil {
				note = fmt.Sprintf("default via %s", route.Gw)
			}
		}
	}
	return note
}
