package netconf

import (
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Result is the CNI result of what was granted for the plan's Wants, in their
// order, in version 1.1.0. Like that of host-local it has no interfaces, and
// its addresses belong to none: the plugin that asked knows which.
func (p Plan) Result(granted []ipam.Address) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: *p.DNS.Copy()}
	for _, a := range granted {
		r.IPs = append(r.IPs, ipConfig(a.Prefix, a.Range.Gateway))
	}
	for _, f := range p.Fixed {
		r.IPs = append(r.IPs, ipConfig(f.Prefix, f.Gateway))
	}
	for _, route := range p.Routes {
		r.Routes = append(r.Routes, route.Copy())
	}
	for _, pool := range p.Pools {
		served := servedBy(granted, pool.Name)
		r.Routes = append(r.Routes, poolRoutes(pool, served)...)
		if len(served) > 0 && r.DNS.IsEmpty() {
			r.DNS = types.DNS{Nameservers: pool.Nameservers, Domain: pool.Domain, Search: pool.Search, Options: pool.Options}
		}
	}
	return r
}

func servedBy(granted []ipam.Address, pool string) []ipam.Address {
	return slices.DeleteFunc(slices.Clone(granted), func(a ipam.Address) bool { return a.Range.Pool != pool })
}

// poolRoutes are the pool's routes of the families that it served; one without
// a gateway goes by that of the address's range.
func poolRoutes(pool ipam.Pool, served []ipam.Address) []*types.Route {
	var routes []*types.Route
	for _, route := range pool.Routes {
		i := slices.IndexFunc(served, func(a ipam.Address) bool {
			return a.Prefix.Addr().BitLen() == route.Dst.Addr().BitLen()
		})
		if i < 0 {
			continue
		}
		gateway := route.GW
		if !gateway.IsValid() {
			gateway = served[i].Range.Gateway
		}
		routes = append(routes, &types.Route{Dst: ipNet(route.Dst), GW: netIP(gateway)})
	}
	return routes
}

func ipConfig(prefix netip.Prefix, gateway netip.Addr) *types100.IPConfig {
	return &types100.IPConfig{Address: ipNet(prefix), Gateway: netIP(gateway)}
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// netIP is nil for the zero address, as the types of CNI have it.
func netIP(addr netip.Addr) net.IP {
	if !addr.IsValid() {
		return nil
	}
	return addr.AsSlice()
}

// asPoolRoute is a route of a configuration in a pool's words; false if those
// don't suffice.
func asPoolRoute(r *types.Route) (ipam.PoolRoute, bool) {
	dst, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	if !ok {
		return ipam.PoolRoute{}, false
	}
	gateway, _ := netip.AddrFromSlice(r.GW)
	return ipam.PoolRoute{Dst: netip.PrefixFrom(dst.Unmap(), bits), GW: gateway.Unmap()}, true
}
