package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
)

// delegateArgs are the CNI_ARGS of one delegate: the runtime's, in its order,
// without the addresses that it meant for the primary and without our own
// key, and for a selection IP= and MAC= as Multus passes them, for plugins
// that read no capabilities.
func delegateArgs(caller [][2]string, s *attach.Selection) [][2]string {
	var out [][2]string
	ignore := false
	for _, pair := range caller {
		if pair[0] == config.NetworksArg || s != nil && (pair[0] == "IP" || pair[0] == "MAC") {
			continue
		}
		ignore = ignore || pair[0] == "IgnoreUnknown"
		out = append(out, pair)
	}
	if s == nil {
		return out
	}
	requests := [][2]string{
		{"IP", strings.Join(s.Element.IPRequest, ",")},
		{"MAC", s.Element.MacRequest},
	}
	for _, pair := range requests {
		if pair[1] == "" {
			continue
		}
		if !ignore {
			out, ignore = append([][2]string{{"IgnoreUnknown", "1"}}, out...), true
		}
		out = append(out, pair)
	}
	return out
}

// requested are the capability arguments that the selection's own keys stand
// for (NPWG multi-net-spec v1.3, 4.1.2.1; CNI conventions, "dynamic plugin
// specific fields").
func requested(s attach.Selection) (map[string]json.RawMessage, error) {
	e := s.Element
	values := map[string]any{}
	if len(e.IPRequest) > 0 {
		values["ips"] = e.IPRequest
	}
	if e.MacRequest != "" {
		values["mac"] = e.MacRequest
	}
	if e.InfinibandGUIDRequest != "" {
		values["infinibandGUID"] = e.InfinibandGUIDRequest
	}
	if len(e.PortMappingsRequest) > 0 {
		values["portMappings"] = e.PortMappingsRequest
	}
	if e.BandwidthRequest != nil {
		values["bandwidth"] = e.BandwidthRequest
	}
	if s.DeviceID != "" {
		values["deviceID"] = s.DeviceID
	}
	out := map[string]json.RawMessage{}
	for name, value := range values {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = raw
	}
	return out, nil
}

// defaultRoutes finds the selections that carry the default route, at most
// one a family. An empty list asks for nothing.
func defaultRoutes(selections []attach.Selection) ([]attach.DefaultRoute, error) {
	var routes []attach.DefaultRoute
	taken := map[bool]string{}
	for i, s := range selections {
		for _, ip := range s.Element.GatewayRequest {
			gateway, ok := netip.AddrFromSlice(ip)
			if !ok {
				return nil, fmt.Errorf("network %s: default-route: %v is not an IP address", s.Ref(), ip)
			}
			gateway = gateway.Unmap()
			if other, twice := taken[gateway.Is4()]; twice {
				return nil, fmt.Errorf("network %s: default-route: %s is a second gateway beside %s: a pod has one default route for each of IPv4 and IPv6 (no ECMP for default-route)", s.Ref(), gateway, other)
			}
			taken[gateway.Is4()] = fmt.Sprintf("%s of %s", gateway, s.Ref())
			routes = append(routes, attach.DefaultRoute{Delegate: i + 1, Gateway: gateway})
		}
	}
	return routes, nil
}
