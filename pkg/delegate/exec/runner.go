// Package exec runs the configuration list of one delegate: plugins that are
// binaries in processes of their own, plugins that are the daemon's own inside
// it. It walks the list itself, with libcni's parsing: libcni's own walks keep
// state on disk behind the journal's back, and need that to be writable.
//
// A process runs in its own process group, with a clean environment, an output
// limit and the deadline of its context; when it is over, whatever is left of
// its group is ended. On ADD and DEL it gets its configuration only after its
// process group has been reported, so that a daemon killed at any moment either
// never gave it work or knows what to end.
package exec

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Options of a Runner.
type Options struct {
	// CacheDir remembers what was added, ours alone. The journal is what
	// counts; the cache helps when a journal file is damaged, and no call fails
	// because it can't be read or written.
	CacheDir string
	// Builtins are the plugin types that run inside the daemon.
	Builtins map[string]delegate.Delegate
	// Socket is the daemon's, for delegates that call back.
	Socket string
	Log    *slog.Logger
}

// Runner runs delegates. Each call is over when the deadline of its context
// comes: plugins are asked to end up to EndRoom before it.
type Runner struct{ opts Options }

// New makes a Runner.
func New(opts Options) *Runner {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{opts: opts}
}

// Call says which delegate of which plan is meant.
type Call struct {
	Plan     *attach.Plan
	Delegate int
	// Netns is the namespace's path, empty when it is gone.
	Netns string
	// Previous is the result of ADD in CNI 1.1.0 for DEL and CHECK; may be nil.
	Previous json.RawMessage
	// FurtherPath are folders that are searched for plugins after the plan's:
	// the plugins may have moved since ADD.
	FurtherPath []string
	// Started is told of each process of an ADD or DEL before that gets its
	// configuration, and of a plugin inside the daemon (nil) before its ADD; its
	// error stops the call. It may be nil.
	Started func(*journal.Process) error
	// Trace are the W3C trace context variables of the runtime's call.
	Trace map[string]string
}

func (c Call) delegate() attach.Delegate { return c.Plan.Delegates[c.Delegate] }

// path are the folders to search, each once.
func (c Call) path() []string {
	var path []string
	for _, dir := range slices.Concat(c.Plan.Path, c.FurtherPath) {
		if dir != "" && !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return path
}

// walker makes the dispatcher of one call within ctx; the returned context is
// the plugins'.
func (r *Runner) walker(ctx context.Context, c Call) (*dispatcher, context.Context, context.CancelFunc) {
	d := c.delegate()
	ctx, room, cancel := withRoom(ctx)
	return &dispatcher{runner: r, call: c, room: room, env: map[string]string{
		"CNI_CONTAINERID": c.Plan.Key.ContainerID, "CNI_NETNS": c.Netns, "CNI_IFNAME": d.IfName,
		"CNI_ARGS": arguments(d.Args), "CNI_PATH": strings.Join(c.path(), ":"),
	}}, ctx, cancel
}

func arguments(pairs [][2]string) string {
	args := make([]string, len(pairs))
	for i, pair := range pairs {
		args[i] = pair[0] + "=" + pair[1]
	}
	return strings.Join(args, ";")
}

// Add runs ADD and returns the result in CNI 1.1.0.
func (r *Runner) Add(ctx context.Context, c Call) (json.RawMessage, error) {
	list, err := libcni.NetworkConfFromBytes(c.delegate().Conf)
	if err != nil {
		return nil, err
	}
	d, ctx, cancel := r.walker(ctx, c)
	defer cancel()
	if err := validate(list, c); err != nil {
		return nil, err
	}
	if err := d.findAll(list); err != nil {
		return nil, err
	}
	var result types.Result
	for _, plugin := range list.Plugins {
		if result, err = d.add(ctx, list, plugin, result); err != nil {
			return nil, fmt.Errorf("plugin type=%q failed (add): %w", plugin.Network.Type, err)
		}
	}
	converted, err := convert(result)
	if err != nil {
		return nil, err
	}
	if err := r.remember(list, c, converted); err != nil {
		r.opts.Log.Warn("the result of an ADD is in the journal only", "set", c.Plan.Key.String(),
			"network", c.delegate().Network, "error", err.Error())
	}
	return converted, nil
}

func (d *dispatcher) add(ctx context.Context, list *libcni.NetworkConfigList, plugin *libcni.PluginConfig, previous types.Result) (types.Result, error) {
	conf, err := configuration(list, plugin, d.call, previous)
	if err != nil {
		return nil, err
	}
	out, err := d.run(ctx, "ADD", plugin.Network.Type, conf)
	if err != nil {
		return nil, err
	}
	return parseResult(list, out, previous)
}

// Del runs DEL; nil means that nothing is left.
func (r *Runner) Del(ctx context.Context, c Call) error {
	list, err := libcni.NetworkConfFromBytes(c.delegate().Conf)
	if err != nil {
		return err
	}
	d, ctx, cancel := r.walker(ctx, c)
	defer cancel()
	d.env["CNI_ARGS"] = arguments(tolerant(c.delegate().Args))
	previous, err := r.previous(list, c)
	if err != nil {
		r.opts.Log.Warn("DEL goes without the result of the ADD", "set", c.Plan.Key.String(),
			"network", c.delegate().Network, "error", err.Error())
	}
	for _, plugin := range slices.Backward(list.Plugins) {
		conf, err := configuration(list, plugin, c, previous)
		if err == nil {
			_, err = d.run(ctx, "DEL", plugin.Network.Type, conf)
		}
		if err != nil {
			return fmt.Errorf("plugin type=%q failed (delete): %w", plugin.Network.Type, err)
		}
	}
	if err := r.forget(c); err != nil {
		r.opts.Log.Warn("the result of an ADD that is undone could not be removed", "set", c.Plan.Key.String(),
			"network", c.delegate().Network, "error", err.Error())
	}
	return nil
}

// tolerant makes plugins ignore arguments that they don't know: one that
// refused them on ADD must not refuse its undo for the same reason.
func tolerant(args [][2]string) [][2]string {
	for _, pair := range args {
		if pair[0] == "IgnoreUnknown" {
			return args
		}
	}
	return append([][2]string{{"IgnoreUnknown", "1"}}, args...)
}

// Check runs CHECK. A delegate whose version or configuration has no CHECK
// passes.
func (r *Runner) Check(ctx context.Context, c Call) error {
	list, err := libcni.NetworkConfFromBytes(c.delegate().Conf)
	if err != nil {
		return err
	}
	asked, err := atLeast(list, "0.4.0")
	if err != nil || !asked || list.DisableCheck {
		return err
	}
	d, ctx, cancel := r.walker(ctx, c)
	defer cancel()
	previous, err := r.previous(list, c)
	if err != nil {
		return err
	}
	for _, plugin := range list.Plugins {
		conf, err := configuration(list, plugin, c, previous)
		if err == nil {
			_, err = d.run(ctx, "CHECK", plugin.Network.Type, conf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
