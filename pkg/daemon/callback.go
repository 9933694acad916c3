package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// handleCallback answers a plugin that one of our delegates runs as its IPAM.
// It takes no sandbox's turn, because the request that holds it waits for this
// call, and it ends when that request ends.
func (d *Daemon) handleCallback(ctx context.Context, req *wire.Request, reply func(*wire.Reply) error) {
	result, err := d.callback(ctx, req)
	answer := &wire.Reply{Version: wire.ProtocolVersion, Result: result}
	if err != nil {
		answer = failure(nil, fmt.Errorf("%s: %w", req.Plugin, err))
	}
	if err := errors.Join(err, reply(answer)); err != nil {
		d.opts.Log.Error("callback", "plugin", req.Plugin, "command", req.Command, "containerID", req.ContainerID, "error", err.Error())
	}
}

func (d *Daemon) callback(ctx context.Context, req *wire.Request) (json.RawMessage, error) {
	plugin, ok := d.opts.Callbacks[req.Plugin]
	if !ok {
		return nil, invalid(wire.CodeInvalidConfig, errors.New("this daemon doesn't offer it: use another ipam.type, such as host-local"))
	}
	outer, ok := d.running.outer(req.ContainerID)
	if !ok {
		return nil, invalid(wire.CodeUnknownContainer, errors.New("no request is running for this sandbox: only a delegate of the daemon may call"))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(outer, func() { cancel(context.Cause(outer)) })()
	leave, err := d.callbacks.enter(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer leave()
	return callDelegate(ctx, plugin, req)
}

func callDelegate(ctx context.Context, plugin delegate.Delegate, req *wire.Request) (json.RawMessage, error) {
	call := delegate.Call{
		ContainerID: req.ContainerID, Netns: req.Netns, IfName: req.IfName,
		Args: req.Args, Path: req.Path, Conf: req.Config,
	}
	result, err := delegate.Run(ctx, plugin, req.Command, call)
	if err != nil || result == nil {
		return nil, err
	}
	return marshalFor(req.Config, result)
}

// marshalFor prints a result in the version of the caller's configuration.
func marshalFor(conf []byte, result types.Result) (json.RawMessage, error) {
	var caller types.PluginConf
	if err := json.Unmarshal(conf, &caller); err != nil {
		return nil, invalid(wire.CodeDecodingFailure, err)
	}
	converted, err := result.GetAsVersion(caller.CNIVersion)
	if err != nil {
		return nil, invalid(wire.CodeIncompatibleVersion, err)
	}
	return json.Marshal(converted)
}
