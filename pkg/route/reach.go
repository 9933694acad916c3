package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// ErrUnreachable says that a gateway is not on the network of the interface
// that should lead to it.
var ErrUnreachable = errors.New("gateway is not reachable on the interface")

// checkMoves refuses moves that can't work before anything is changed.
func checkMoves(ctx context.Context, h *netns.Handle, moves []Move) error {
	seen := map[uint8]Move{}
	for _, move := range moves {
		if !move.Gateway.IsValid() || move.Gateway.Is4In6() || move.Gateway.IsUnspecified() || move.Gateway.IsMulticast() {
			return fmt.Errorf("default route on %q: %q is no address of a gateway", move.IfName, move.Gateway)
		}
		if other, twice := seen[move.family()]; twice {
			return fmt.Errorf("%q and %q: a pod has one default route an address family (no ECMP)", other, move)
		}
		seen[move.family()] = move
		if err := checkMove(ctx, h, move); err != nil {
			return fmt.Errorf("%s: %w", move, err)
		}
	}
	return nil
}

func checkMove(ctx context.Context, h *netns.Handle, move Move) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	link, err := findLink(h, move.IfName)
	if err != nil {
		return err
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("interface %q is down: the network's plugin must set it up", move.IfName)
	}
	return checkOnLink(h, link, move)
}

func findLink(h *netns.Handle, name string) (netlink.Link, error) {
	link, err := h.Netlink().LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil, fmt.Errorf("interface %q does not exist in the pod: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for interface %q: %w", name, err)
	}
	return link, nil
}

// checkOnLink wants a route without gateway to the gateway on the interface.
// The kernel's own lookup does not do: asked for an interface, it takes any
// IPv4 address for on-link.
func checkOnLink(h *netns.Handle, link netlink.Link, move Move) error {
	family := int(move.family())
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, LinkIndex: link.Attrs().Index}
	routes, err := h.Netlink().RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("read routes of interface %q: %w", move.IfName, err)
	}
	addrs, err := h.Netlink().AddrList(link, family)
	if err != nil {
		return fmt.Errorf("read addresses of interface %q: %w", move.IfName, err)
	}
	var texts []string
	for _, addr := range addrs {
		if own, _ := netip.AddrFromSlice(addr.IP); own.Unmap() == move.Gateway {
			return fmt.Errorf("%w: %s is the address of %q itself", ErrUnreachable, move.Gateway, move.IfName)
		}
		texts = append(texts, addr.IPNet.String())
	}
	for _, route := range routes {
		if leadsTo(route, move.Gateway) {
			return nil
		}
	}
	if len(texts) == 0 {
		texts = []string{"none"}
	}
	return fmt.Errorf("%w: %s is not on a network of %q (its addresses: %s); name a gateway in one of these networks, or give the interface an address in the gateway's",
		ErrUnreachable, move.Gateway, move.IfName, strings.Join(texts, ", "))
}

func leadsTo(route netlink.Route, gateway netip.Addr) bool {
	if route.Type != unix.RTN_UNICAST || route.Gw != nil || route.Via != nil || len(route.MultiPath) > 0 || route.Dst == nil {
		return false
	}
	ones, _ := route.Dst.Mask.Size()
	return ones > 0 && route.Dst.Contains(gateway.AsSlice())
}

// linkNames are the names of all interfaces by index.
func linkNames(h *netns.Handle) (map[int]string, error) {
	links, err := h.Netlink().LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}

// deviceIndex is the index of the interface, or -1 when there is none.
func deviceIndex(names map[int]string, name string) int {
	for index, n := range names {
		if n == name {
			return index
		}
	}
	return -1
}
