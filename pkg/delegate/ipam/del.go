package ipamdelegate

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
)

// Del releases the attachment's addresses. Of the configuration it needs the
// network's name alone; without it, it releases whatever the interface of the
// sandbox holds, since the DEL of a configuration that was broken meanwhile
// comes only once. To release nothing is a success.
func (d *Delegate) Del(ctx context.Context, call delegate.Call) error {
	if call.ContainerID == "" || call.IfName == "" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_CONTAINERID %q, CNI_IFNAME %q: neither may be empty", call.ContainerID, call.IfName), "")
	}
	head, err := netconf.ReadHead(call.Conf)
	if head.Network != "" {
		key := ipam.Key{ContainerID: call.ContainerID, IfName: call.IfName, Network: head.Network}
		return failed(head.Network, d.opts.Allocator.Release(ctx, key))
	}
	d.opts.Log.Warn("DEL with a configuration that can't be read; all that the interface holds is released",
		"container", call.ContainerID, "interface", call.IfName, "error", err)
	return failed(head.Network, d.opts.Allocator.ReleaseAttachment(ctx, call.ContainerID, call.IfName))
}
