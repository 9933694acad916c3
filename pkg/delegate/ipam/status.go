package ipamdelegate

import (
	"context"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
)

// Status is code 50 while addresses can't be given out.
func (d *Delegate) Status(_ context.Context, call delegate.Call) error {
	err := d.opts.Allocator.Ready()
	if err == nil {
		return nil
	}
	head, headErr := netconf.ReadHead(call.Conf)
	if headErr != nil && head.Network == "" {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return failed(head.Network, types.NewError(types.ErrPluginNotAvailable, err.Error(), ""))
}
