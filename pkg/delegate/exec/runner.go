// Package exec runs the configuration list of one delegate through libcni:
// plugins that are binaries in processes of their own, plugins that are the
// daemon's own inside it.
//
// A process runs in its own process group, with a clean environment, an output
// limit and the deadline of its context; when it is over, whatever is left of
// its group is ended. On ADD it gets its configuration only after its process
// group has been reported, so that a daemon killed at any moment either never
// gave it work or knows what to end.
package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Options of a Runner.
type Options struct {
	// CacheDir is libcni's cache of results, ours alone. The journal is what
	// counts; the cache helps when a journal file is damaged.
	CacheDir string
	// Builtins are the plugin types that run inside the daemon.
	Builtins map[string]delegate.Delegate
	// Socket is the daemon's, for delegates that call back.
	Socket string
	Log    *slog.Logger
}

// Runner runs delegates.
type Runner struct{ opts Options }

// New makes a Runner.
func New(opts Options) *Runner { return &Runner{opts: opts} }

// Call says which delegate of which plan is meant.
type Call struct {
	Plan     *attach.Plan
	Delegate int
	// Netns is the namespace's path, empty when it is gone.
	Netns string
	// Previous is the result of ADD in CNI 1.1.0 for DEL and CHECK; may be nil.
	Previous json.RawMessage
	// Started is told of each process of an ADD before that gets its
	// configuration (nil for a plugin inside the daemon); its error stops the ADD.
	Started func(*journal.Process) error
	// Trace are the W3C trace context variables of the runtime's call.
	Trace map[string]string
}

func (c Call) delegate() attach.Delegate { return c.Plan.Delegates[c.Delegate] }

func (c Call) runtimeConf() *libcni.RuntimeConf {
	d := c.delegate()
	capabilities := make(map[string]any, len(d.Capabilities))
	for name, value := range d.Capabilities {
		capabilities[name] = value
	}
	return &libcni.RuntimeConf{
		ContainerID:    c.Plan.Key.ContainerID,
		NetNS:          c.Netns,
		IfName:         d.IfName,
		Args:           d.Args,
		CapabilityArgs: capabilities,
	}
}

// Add runs ADD and returns the result in CNI 1.1.0.
func (r *Runner) Add(ctx context.Context, c Call) (json.RawMessage, error) {
	list, err := libcni.NetworkConfFromBytes(c.delegate().Conf)
	if err != nil {
		return nil, err
	}
	if err := r.find(list, c); err != nil {
		return nil, err
	}
	result, err := r.cni(c).AddNetworkList(ctx, list, c.runtimeConf())
	if err != nil {
		return nil, err
	}
	return convert(result)
}

// convert brings a result to version 1.1.0. A plugin that printed nothing
// (allowed for one that adds no interface) has an empty result.
func convert(result types.Result) (json.RawMessage, error) {
	if result == nil {
		return json.RawMessage(`{"cniVersion":"1.1.0"}`), nil
	}
	latest, err := result.GetAsVersion(types100.ImplementedSpecVersion)
	if err != nil {
		return nil, fmt.Errorf("result of version %s: %w", result.Version(), err)
	}
	return json.Marshal(latest)
}

// Del runs DEL; nil means that nothing is left.
func (r *Runner) Del(ctx context.Context, c Call) error {
	list, err := libcni.NetworkConfFromBytes(c.delegate().Conf)
	if err != nil {
		return err
	}
	if err := r.primeCache(list, c); err != nil {
		return err
	}
	rt := c.runtimeConf()
	rt.Args = tolerant(rt.Args)
	return r.cni(c).DelNetworkList(ctx, list, rt)
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
	if err := r.primeCache(list, c); err != nil {
		return err
	}
	err = r.cni(c).CheckNetworkList(ctx, list, c.runtimeConf())
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return nil
	}
	return err
}

// Status asks the plugins of a configuration list whether they could ADD; a
// list older than CNI 1.1.0 can't be asked and passes.
func (r *Runner) Status(ctx context.Context, conf []byte, path []string) error {
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return err
	}
	return r.cni(Call{Plan: &attach.Plan{Path: path}}).GetStatusNetworkList(ctx, list)
}

// GC tells the plugins of a configuration list which attachments are valid.
func (r *Runner) GC(ctx context.Context, conf []byte, path []string, valid []types.GCAttachment) error {
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		return err
	}
	return r.cni(Call{Plan: &attach.Plan{Path: path}}).GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
}

func (r *Runner) cni(c Call) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(c.Plan.Path, r.opts.CacheDir, &dispatcher{runner: r, call: c})
}

// cached is libcni's cache entry (cniCacheV1).
type cached struct {
	Kind           string          `json:"kind"`
	ContainerID    string          `json:"containerId"`
	Config         []byte          `json:"config"`
	IfName         string          `json:"ifName"`
	NetworkName    string          `json:"networkName"`
	NetNS          string          `json:"netns,omitempty"`
	CniArgs        [][2]string     `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]any  `json:"capabilityArgs,omitempty"`
	Result         json.RawMessage `json:"result,omitempty"`
}

// primeCache makes libcni find the journal's result as prevResult.
func (r *Runner) primeCache(list *libcni.NetworkConfigList, c Call) error {
	if c.Previous == nil {
		return nil
	}
	rt := c.runtimeConf()
	entry, err := json.Marshal(cached{
		Kind: libcni.CNICacheV1, ContainerID: rt.ContainerID, Config: list.Bytes,
		IfName: rt.IfName, NetworkName: list.Name, NetNS: rt.NetNS,
		CniArgs: rt.Args, CapabilityArgs: rt.CapabilityArgs, Result: c.Previous,
	})
	if err != nil {
		return err
	}
	dir := filepath.Join(r.opts.CacheDir, "results")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("libcni cache: %w", err)
	}
	// A name that only differs in case of a damaged plan can't escape: all three
	// parts have been validated against separators.
	file := filepath.Join(dir, fmt.Sprintf("%s-%s-%s", list.Name, rt.ContainerID, rt.IfName))
	if err := os.WriteFile(file, entry, 0o600); err != nil {
		return fmt.Errorf("libcni cache: %w", err)
	}
	return nil
}
