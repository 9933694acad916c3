package ipamdelegate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meta-cni/meta-cni/pkg/delegate"
)

// Check says whether the attachment still holds the addresses of its
// prevResult. It reads memory only: neither pools nor the store are asked.
// Codes: 3 when nothing is held, 7 when something else than in the prevResult
// is.
func (d *Delegate) Check(_ context.Context, call delegate.Call) error {
	head, config, err := d.parse(call)
	if err != nil {
		return failed(head.Network, err)
	}
	key := config.Owner.Key
	held := d.opts.Allocator.Held(key)
	if len(held) == 0 && config.Allocates() {
		return failed(head.Network, types.NewError(types.ErrUnknownContainer, fmt.Sprintf("no address is held for %s/%s; add it again", key.ContainerID, key.IfName), ""))
	}
	result, err := previous(call.Conf)
	if err != nil {
		return failed(head.Network, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult: %v", err), ""))
	}
	var lost []string
	for _, addr := range result {
		if !slices.Contains(held, addr) && !config.Untracked(addr) {
			lost = append(lost, addr.String())
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return failed(head.Network, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%s of the prevResult: not held for %s/%s, which holds %s",
		strings.Join(lost, ", "), key.ContainerID, key.IfName, join(held)), ""))
}

// previous are the addresses of the prevResult; none without one.
func previous(conf []byte) ([]netip.Addr, error) {
	var plugin types.PluginConf
	if err := json.Unmarshal(conf, &plugin); err != nil {
		return nil, err
	}
	if err := version.ParsePrevResult(&plugin); err != nil || plugin.PrevResult == nil {
		return nil, err
	}
	result, err := types100.NewResultFromResult(plugin.PrevResult)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("an element of ips has no address")
		}
		addrs = append(addrs, addr.Unmap())
	}
	return addrs, nil
}

func join(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "none"
	}
	texts := make([]string, len(addrs))
	for i, addr := range addrs {
		texts[i] = addr.String()
	}
	return strings.Join(texts, ", ")
}
