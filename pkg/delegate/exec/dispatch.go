package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
)

// builtinPrefix marks the "path" of a plugin inside the daemon; no real path
// starts with it.
const builtinPrefix = "builtin:"

// dispatcher runs the plugins of one call.
type dispatcher struct {
	runner *Runner
	call   Call
	// env are the CNI variables but the command.
	env map[string]string
	// room is how long the end of a process may take after its context's.
	room time.Duration
}

// find finds a plugin: an own type inside the daemon, else a binary that is
// safe to run as root.
func (d *dispatcher) find(plugin string) (string, error) {
	paths := d.call.path()
	if _, ok := d.runner.opts.Builtins[plugin]; ok {
		return builtinPrefix + plugin, nil
	}
	if plugin == "" || plugin == "." || plugin == ".." || plugin != filepath.Base(plugin) {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("plugin type %q is not a file name", plugin), "")
	}
	for _, dir := range paths {
		path := filepath.Join(dir, plugin)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = safeBinary(path, info)
		}
		if err != nil {
			return "", types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
		}
		return path, nil
	}
	if len(paths) == 0 {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("plugin %q not found: CNI_PATH names no folder", plugin), "")
	}
	return "", types.NewError(types.ErrInvalidNetworkConfig,
		fmt.Sprintf("plugin %q not found in %s", plugin, strings.Join(paths, ", ")),
		"install the plugin's binary in one of these folders on this node")
}

// findAll looks for all plugins of a list before the first of them runs: a DEL
// goes through the list in reverse, so one that is missing would keep what the
// others left.
func (d *dispatcher) findAll(list *libcni.NetworkConfigList) error {
	for _, plugin := range list.Plugins {
		if _, err := d.find(plugin.Network.Type); err != nil {
			return err
		}
	}
	return nil
}

// safeBinary refuses what somebody other than root could have written.
func safeBinary(path string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("plugin %s is not a regular file", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("plugin %s is not executable: chmod 0755 it", path)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("plugin %s can be written by anybody and would run as root: chmod 0755 it", path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return nil
	case int(st.Uid) != 0 && int(st.Uid) != os.Getuid():
		return fmt.Errorf("plugin %s belongs to user %d and would run as root: chown it to root", path, st.Uid)
	case st.Gid != 0 && info.Mode().Perm()&0o020 != 0:
		return fmt.Errorf("plugin %s can be written by group %d and would run as root: chmod 0755 it", path, st.Gid)
	}
	return nil
}

// run runs one verb of one plugin. Nothing is begun after the end of ctx.
func (d *dispatcher) run(ctx context.Context, verb, plugin string, stdin []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("plugin %s was not begun: %w", plugin, context.Cause(ctx))
	}
	path, err := d.find(plugin)
	if err != nil {
		return nil, err
	}
	if name, ok := strings.CutPrefix(path, builtinPrefix); ok {
		return d.runBuiltin(ctx, verb, name, stdin)
	}
	return d.runProcess(ctx, verb, path, stdin)
}

func (d *dispatcher) runBuiltin(ctx context.Context, verb, name string, stdin []byte) ([]byte, error) {
	plugin, env := d.runner.opts.Builtins[name], d.env
	call := delegate.Call{
		ContainerID: env["CNI_CONTAINERID"], Netns: env["CNI_NETNS"], IfName: env["CNI_IFNAME"],
		Args: env["CNI_ARGS"], Path: env["CNI_PATH"], Conf: stdin,
	}
	if verb == "ADD" && d.call.Started != nil {
		if err := d.call.Started(nil); err != nil {
			return nil, err
		}
	}
	result, err := delegate.Run(ctx, plugin, verb, call)
	if err != nil || result == nil {
		return nil, err
	}
	var out strings.Builder
	err = result.PrintTo(&out)
	return []byte(out.String()), err
}
