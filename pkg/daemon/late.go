package daemon

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	ipamdelegate "github.com/meta-cni/meta-cni/pkg/delegate/ipam"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// lateAddressing is the IPAM of a thin call: it is open for as long as one
// question of a plugin takes, since the log has room for one process at a time.
type lateAddressing struct {
	d      *Daemon
	cfg    config.Daemon
	client *kube.Client
}

func (l *lateAddressing) delegates() map[string]delegate.Delegate {
	all := map[string]delegate.Delegate{}
	for _, name := range ipamdelegate.Names() {
		all[name] = lateDelegate{l, name}
	}
	return all
}

// with opens the IPAM for one question. Without a daemon nobody follows the
// Node object, so it is read once.
func (l lateDelegate) with(ctx context.Context, ask func(delegate.Delegate) error) error {
	d := l.late.d
	opened := d.openAddresses(ctx, l.late.cfg, l.late.client)
	if a := opened; a.agent != nil && a.node.client != nil {
		if err := a.node.look(ctx, a.agent, a.announce(ctx)); err != nil {
			d.opts.Log.Warn("the Node object could not be read", "error", err.Error())
		}
	}
	err := ask(opened.delegates(d, l.late.cfg)[l.name])
	l.work(ctx, opened)
	return errors.Join(err, opened.end())
}

// work is a share of what a daemon does in the background.
func (l lateDelegate) work(ctx context.Context, opened *addressing) {
	a := opened.agent
	if a == nil {
		return
	}
	if err := a.Once(ctx); err != nil {
		l.late.d.opts.Log.Warn("work of the IPAM is left for a later call", "error", err.Error())
	}
}

// lateDelegate opens the IPAM and passes the call on.
type lateDelegate struct {
	late *lateAddressing
	name string
}

func (l lateDelegate) Add(ctx context.Context, call delegate.Call) (result types.Result, err error) {
	err = l.with(ctx, func(own delegate.Delegate) (err error) {
		result, err = own.Add(ctx, call)
		return err
	})
	return result, err
}

func (l lateDelegate) Check(ctx context.Context, call delegate.Call) error {
	return l.with(ctx, func(own delegate.Delegate) error { return own.Check(ctx, call) })
}

func (l lateDelegate) Del(ctx context.Context, call delegate.Call) error {
	return l.with(ctx, func(own delegate.Delegate) error { return own.Del(ctx, call) })
}

func (l lateDelegate) Status(ctx context.Context, call delegate.Call) error {
	return l.with(ctx, func(own delegate.Delegate) error { return own.Status(ctx, call) })
}

func (l lateDelegate) GC(ctx context.Context, call delegate.Call) error {
	return l.with(ctx, func(own delegate.Delegate) error { return own.GC(ctx, call) })
}
