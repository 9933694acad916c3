package annotation

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	cnitypes "github.com/containernetworking/cni/pkg/types"
	cni100 "github.com/containernetworking/cni/pkg/types/100"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// mainTable is RT_TABLE_MAIN: a default route in another table isn't the pod's.
const mainTable = 254

// Status says what each attachment gave to the pod: one entry for each
// interface in the sandbox, by the multi-interface algorithm of Multus, with
// two differences: `gateway` stands only at the interface that carries the
// default route of its family, and an attachment without an interface has one
// entry with its name (NPWG multi-net-spec v1.3, 5.1).
func Status(plan *attach.Plan, attachments []attach.Attachment) ([]nadv1.NetworkStatus, error) {
	var out []nadv1.NetworkStatus
	for _, a := range attachments {
		if a.Delegate < 0 || a.Delegate >= len(plan.Delegates) {
			return nil, fmt.Errorf("network-status: attachment of delegate %d, but the plan has %d", a.Delegate, len(plan.Delegates))
		}
		delegate := plan.Delegates[a.Delegate]
		result := &cni100.Result{}
		if len(a.Result) > 0 {
			if err := json.Unmarshal(a.Result, result); err != nil {
				return nil, fmt.Errorf("network-status: result of network %s: %w", delegate.Network, err)
			}
		}
		// A delegate may print nulls; positions of interfaces must stay.
		result.IPs = slices.DeleteFunc(result.IPs, func(ip *cni100.IPConfig) bool { return ip == nil })
		out = append(out, statusOf(delegate.Network, delegate.Primary, result)...)
	}
	return out, nil
}

// EncodeStatus writes the value of the network-status annotation: a JSON list,
// indented by 4 spaces as Multus does.
func EncodeStatus(statuses []nadv1.NetworkStatus) (string, error) {
	parts := make([]string, 0, len(statuses))
	for _, s := range statuses {
		data, err := json.MarshalIndent(s, "", "    ")
		if err != nil {
			return "", fmt.Errorf("network-status of %s: %w", s.Name, err)
		}
		parts = append(parts, string(data))
	}
	return "[" + strings.Join(parts, ",") + "]", nil
}

// statusOf is the status of one attachment.
func statusOf(network string, primary bool, result *cni100.Result) []nadv1.NetworkStatus {
	inside := sandboxInterfaces(result)
	if len(result.Interfaces) <= 1 || len(inside) == 0 {
		return []nadv1.NetworkStatus{singleStatus(network, primary, result, inside)}
	}
	byDefault := -1
	if primary {
		byDefault = defaultInterface(result, inside)
	}
	out := make([]nadv1.NetworkStatus, 0, len(inside))
	position := map[int]int{}
	for _, index := range inside {
		position[index] = len(out)
		status := describeInterface(network, result, index)
		status.Default = index == byDefault
		out = append(out, status)
	}
	for _, ip := range result.IPs {
		at, known := len(out)-1, true
		if ip.Interface != nil {
			at, known = position[*ip.Interface], slices.Contains(inside, *ip.Interface)
		}
		if known {
			out[at].IPs = append(out[at].IPs, ip.Address.IP.String())
		}
	}
	for _, gateway := range defaultGateways(result) {
		at := position[carrier(result, inside, gateway)]
		out[at].Gateway = append(out[at].Gateway, gateway.String())
	}
	return out
}

// singleStatus has all addresses, and the interface if there is one.
func singleStatus(network string, primary bool, result *cni100.Result, inside []int) nadv1.NetworkStatus {
	status := nadv1.NetworkStatus{Name: network, DNS: dnsOf(result.DNS)}
	if len(inside) > 0 {
		status = describeInterface(network, result, inside[len(inside)-1])
	}
	status.Default = primary
	for _, ip := range result.IPs {
		status.IPs = append(status.IPs, ip.Address.IP.String())
	}
	for _, gateway := range defaultGateways(result) {
		status.Gateway = append(status.Gateway, gateway.String())
	}
	return status
}

func describeInterface(network string, result *cni100.Result, index int) nadv1.NetworkStatus {
	i := result.Interfaces[index]
	return nadv1.NetworkStatus{Name: network, Interface: i.Name, Mac: i.Mac, Mtu: i.Mtu, DNS: dnsOf(result.DNS)}
}

// sandboxInterfaces are the indexes of the interfaces inside the sandbox.
func sandboxInterfaces(result *cni100.Result) []int {
	var inside []int
	for index, i := range result.Interfaces {
		if i != nil && i.Sandbox != "" {
			inside = append(inside, index)
		}
	}
	return inside
}

// defaultInterface is the interface of the cluster network that is marked as
// default: the owner of the first address with a gateway, else the first.
func defaultInterface(result *cni100.Result, inside []int) int {
	for _, ip := range result.IPs {
		if ip.Gateway != nil && ip.Interface != nil {
			if slices.Contains(inside, *ip.Interface) {
				return *ip.Interface
			}
			break
		}
	}
	return inside[0]
}

// defaultGateways are the gateways of the default routes in the main table. A
// route without one uses the gateway of the family's first address that has
// one, as the reference plugins do (plugins, ipam.ConfigureIface).
func defaultGateways(result *cni100.Result) []net.IP {
	var out []net.IP
	for _, route := range result.Routes {
		if !isDefault(route) {
			continue
		}
		gateway := route.GW
		if gateway == nil {
			gateway = addressGateway(result, route.Dst.IP.To4() != nil)
		}
		if gateway != nil && !slices.ContainsFunc(out, gateway.Equal) {
			out = append(out, gateway)
		}
	}
	return out
}

func isDefault(route *cnitypes.Route) bool {
	if route == nil || route.Table != nil && *route.Table != 0 && *route.Table != mainTable {
		return false
	}
	ones, _ := route.Dst.Mask.Size()
	return route.Dst.IP != nil && route.Dst.IP.IsUnspecified() && ones == 0
}

func addressGateway(result *cni100.Result, v4 bool) net.IP {
	for _, ip := range result.IPs {
		if ip.Gateway != nil && (ip.Gateway.To4() != nil) == v4 {
			return ip.Gateway
		}
	}
	return nil
}

// carrier is the interface that a default route by this gateway leaves
// through. A CNI route names no interface: it is the one whose subnet holds
// the gateway, else the owner of the address that names it, else the first.
func carrier(result *cni100.Result, inside []int, gateway net.IP) int {
	owns := func(match func(*cni100.IPConfig) bool) int {
		for _, ip := range result.IPs {
			if ip.Interface != nil && slices.Contains(inside, *ip.Interface) && match(ip) {
				return *ip.Interface
			}
		}
		return -1
	}
	if i := owns(func(ip *cni100.IPConfig) bool { return ip.Address.Contains(gateway) }); i >= 0 {
		return i
	}
	if i := owns(func(ip *cni100.IPConfig) bool { return ip.Gateway.Equal(gateway) }); i >= 0 {
		return i
	}
	return inside[0]
}

func dnsOf(dns cnitypes.DNS) nadv1.DNS {
	return nadv1.DNS{Nameservers: dns.Nameservers, Domain: dns.Domain, Search: dns.Search, Options: dns.Options}
}
