package exec

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Status asks the plugins of a configuration list whether they could ADD; a
// list older than CNI 1.1.0 can't be asked and passes. It returns when ctx
// ends, with its cause, whatever the plugin does; that is ended meanwhile.
func (r *Runner) Status(ctx context.Context, conf []byte, path []string) error {
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return err
	}
	if asked, err := atLeast(list, "1.1.0"); err != nil || !asked {
		return err
	}
	answer := make(chan error, 1)
	go func() { answer <- r.nodeCall(path).status(ctx, list) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("STATUS of network %s: no answer in time: %w", list.Name, context.Cause(ctx))
	}
}

// nodeCall dispatches what is about no container. It has no room for ending:
// a plugin that only looks is killed at once.
func (r *Runner) nodeCall(path []string) *dispatcher {
	return &dispatcher{runner: r, call: Call{Plan: &attach.Plan{Path: path}}, env: map[string]string{
		"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_ARGS": "", "CNI_PATH": strings.Join(path, ":"),
	}}
}

func (d *dispatcher) status(ctx context.Context, list *libcni.NetworkConfigList) error {
	for _, plugin := range list.Plugins {
		conf, err := configuration(list, plugin, d.call, nil)
		if err == nil {
			_, err = d.run(ctx, "STATUS", plugin.Network.Type, conf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// GC tells the plugins of a configuration list which attachments are valid;
// one that fails doesn't stop the others. It touches nothing else: which
// attachments stand is known to the journal alone. A list older than CNI 1.1.0
// or with disableGC isn't asked.
func (r *Runner) GC(ctx context.Context, conf []byte, path []string, valid []types.GCAttachment) error {
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return err
	}
	if asked, err := atLeast(list, "1.1.0"); err != nil || !asked || list.DisableGC {
		return err
	}
	if valid == nil {
		valid = []types.GCAttachment{}
	}
	d := r.nodeCall(path)
	ctx, room, cancel := withRoom(ctx)
	defer cancel()
	d.room = room
	var errs []error
	for _, plugin := range list.Plugins {
		if err := d.gc(ctx, list, plugin, valid); err != nil {
			errs = append(errs, fmt.Errorf("plugin type=%q failed (GC): %w", plugin.Network.Type, err))
		}
	}
	return errors.Join(errs...)
}

func (d *dispatcher) gc(ctx context.Context, list *libcni.NetworkConfigList, plugin *libcni.PluginConfig, valid []types.GCAttachment) error {
	conf, err := libcni.InjectConf(plugin, map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion,
		"cni.dev/valid-attachments": valid,
		"cni.dev/attachments":       valid, // the name in an early text of the specification (cni#1101)
	})
	if err != nil {
		return err
	}
	_, err = d.run(ctx, "GC", plugin.Network.Type, conf.Bytes)
	return err
}
