// Package daemon answers the plugin's requests: it puts them in order, reads
// what the pod asks for, has a plan made and walked, and replies.
//
// One sandbox's requests run one after the other; different sandboxes run side
// by side, ADD and DEL each in a lane of bounded width; STATUS waits for
// nobody; calls back from a running delegate have a lane of their own and take
// no sandbox's turn, since the sandbox is waiting for them.
//
// Invariant: a request ends with a reply, and whatever an ADD touched is in
// the journal before. A restarted daemon takes up from there alone.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/chain"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/publish"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// Definitions finds what pods ask for; *kube.Cache and *objects.Store are it.
type Definitions interface {
	// Network returns attach.ErrNetworkNotFound or attach.ErrUnavailable.
	Network(ctx context.Context, ref attach.NetworkRef) (attach.Network, error)
	// PodAnnotations returns the annotations and the pod with its UID, or
	// attach.ErrPodGone, attach.ErrPodReplaced or attach.ErrUnavailable.
	PodAnnotations(ctx context.Context, pod attach.Pod) (map[string]string, attach.Pod, error)
}

// Primary is the cluster network; *confgen.Generator is it.
type Primary interface {
	Primary() (attach.Primary, error)
	Ready() error
}

// Options of a Daemon.
type Options struct {
	Config      config.Daemon
	Definitions Definitions
	Primary     Primary
	Publisher   *publish.Publisher
	Journal     *journal.Journal
	Runner      *exec.Runner
	// Callbacks are the plugins that a running delegate may call back
	// (ipam.type), by name.
	Callbacks map[string]delegate.Delegate
	Log       *slog.Logger
}

// Daemon handles requests.
type Daemon struct {
	opts      Options
	chain     *chain.Chain
	order     *order
	adds      *lane
	dels      *lane
	callbacks *lane
	running   *running
	graves    *graves
	probe     probe
	// active are the requests that are being handled.
	active sync.WaitGroup
}

// maxWorkers bounds the default: each worker has a delegate of some MiB, and
// they share the memory limit of the daemon's pod.
const maxWorkers = 24

// New makes a Daemon.
func New(opts Options) *Daemon {
	workers := opts.Config.Workers
	if workers == 0 {
		workers = min(max(8, 4*runtime.NumCPU()), maxWorkers)
	}
	running := newRunning()
	return &Daemon{
		opts: opts,
		chain: chain.New(chain.Options{
			Runner:          opts.Runner,
			DelegateTimeout: opts.Config.DelegateTimeout.Duration,
			UndoBudget:      config.UndoBudget,
			Running:         running.begin,
			Log:             opts.Log,
		}),
		order:     newOrder(),
		adds:      newLane("ADD", workers),
		dels:      newLane("DEL", workers),
		callbacks: newLane("callback", 4*workers),
		running:   running,
		graves:    newGraves(opts.Config.Mode == config.Kubernetes),
	}
}

// Handle answers one request of the plugin; see wire.Handler.
func (d *Daemon) Handle(ctx context.Context, req *wire.Request, reply func(*wire.Reply) error) {
	d.active.Add(1)
	defer d.active.Done()
	start := time.Now()
	if req.Plugin != wire.PluginMeta {
		d.handleCallback(ctx, req, reply)
		return
	}
	r, err := d.parse(req)
	if err != nil {
		err = errors.Join(err, reply(failure(nil, err)))
		d.opts.Log.Error("request refused", "command", req.Command, "containerID", req.ContainerID, "error", err.Error())
		return
	}
	err = d.dispatch(ctx, r, reply)
	d.logRequest(r, start, err)
}

// dispatch runs the verb. The error is for the log; the reply has been sent.
func (d *Daemon) dispatch(ctx context.Context, r *request, reply func(*wire.Reply) error) error {
	var err error
	switch r.Command {
	case "ADD":
		return d.handleAdd(ctx, r, reply)
	case "DEL":
		err = d.del(ctx, r)
	case "CHECK":
		err = d.check(ctx, r)
	case "STATUS":
		err = d.status(ctx, r)
	case "GC":
		err = d.gc(ctx, r)
	default:
		err = invalid(wire.CodeInvalidEnvironment, errors.New("CNI_COMMAND "+r.Command+" is unknown"))
	}
	answer := success()
	if err != nil {
		answer = failure(r, err)
	}
	return errors.Join(err, reply(answer))
}

// logRequest writes the one line of a request.
func (d *Daemon) logRequest(r *request, start time.Time, err error) {
	phases := make([]any, 0, len(r.phases))
	for _, p := range r.phases {
		phases = append(phases, slog.Float64(p.name, milliseconds(p.took)))
	}
	attrs := []any{
		"command", r.Command, "pod", r.pod.String(), "containerID", r.ContainerID, "ifName", r.IfName,
		"networks", r.networks, "ms", milliseconds(time.Since(start)), slog.Group("phases", phases...),
	}
	if err != nil {
		d.opts.Log.Error("request", append(attrs, "outcome", "error", "code", code(err), "error", err.Error())...)
		return
	}
	level := slog.LevelInfo
	if r.Command == "STATUS" {
		level = slog.LevelDebug
	}
	d.opts.Log.Log(context.Background(), level, "request", append(attrs, "outcome", "ok")...)
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

func (d *Daemon) trip(r *request) chain.Trip {
	return chain.Trip{Trace: r.Trace, Path: r.path, Timing: r.timing}
}
