package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options says how large a world is and what lies on its nodes at first.
type Options struct {
	// Nodes is the number of nodes, 1 to 9; 0 means 2.
	Nodes int
	// Primary gives the file name and the content of a node's CNI
	// configuration in /etc/cni/net.d. Nil leaves the folder empty: nodes are
	// then not ready until something else writes one.
	Primary func(*Node) (name, content string)
	// LogDir receives the log file of every process and is kept by Close.
	// Empty means a folder that goes with the world.
	LogDir string
	// ToolsDir is the folder e2e/tools with the Makefile that builds the
	// binaries. Empty means: looked for from the working directory upwards.
	ToolsDir string
	// Log gets one line for each phase of starting and stopping.
	Log *slog.Logger
}

// World is a running cluster.
type World struct {
	// Nodes are the machines of the cluster, in the order of their names.
	Nodes []*Node
	// Kubeconfig is the path of a kubeconfig with cluster-admin rights, for
	// use from the machine that runs the world.
	Kubeconfig string
	// Config is the same as client-go reads it.
	Config *rest.Config
	// LogDir holds one log file for each process of the world.
	LogDir string

	base    string
	log     *slog.Logger
	bins    binaries
	pki     *pki
	janitor *janitor
	forward *forwarder
	control controlPlane
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

// Start makes a world and returns when its API server answers and, if
// Options.Primary is given, all nodes are Ready. After an error nothing is
// left behind.
func Start(ctx context.Context, opts Options) (*World, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start world: must be root (network and mount namespaces are made); run the test as root")
	}
	if opts.Nodes == 0 {
		opts.Nodes = 2
	}
	if opts.Nodes < 1 || opts.Nodes > maxNodes {
		return nil, fmt.Errorf("start world: %d nodes wanted, 1 to %d can be had", opts.Nodes, maxNodes)
	}
	w := &World{log: opts.Log}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if err := w.start(ctx, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("start world: %w", err), w.Close())
	}
	return w, nil
}

func (w *World) start(ctx context.Context, opts Options) error {
	phases := []struct {
		name string
		run  func(context.Context, Options) error
	}{
		{"binaries", w.findBinaries},
		{"folders", w.makeFolders},
		{"underlay", w.makeUnderlay},
		{"control plane and containerd", w.startMachines},
		{"nodes ready", w.startKubelets},
	}
	begin := time.Now()
	for _, p := range phases {
		since := time.Now()
		if err := p.run(ctx, opts); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		w.log.Info("world phase done", "phase", p.name, "took", time.Since(since).Round(time.Millisecond))
	}
	w.log.Info("world is up", "took", time.Since(begin).Round(time.Millisecond), "kubeconfig", w.Kubeconfig)
	return nil
}

func (w *World) findBinaries(ctx context.Context, opts Options) error {
	var err error
	w.bins, err = findBinaries(ctx, opts.ToolsDir)
	return err
}

func (w *World) makeFolders(ctx context.Context, opts Options) error {
	var err error
	if w.janitor, err = startJanitor(ctx, w.log); err != nil {
		return err
	}
	if w.base, err = os.MkdirTemp("", prefix+"-"); err != nil {
		return err
	}
	if w.LogDir = opts.LogDir; w.LogDir == "" {
		w.LogDir = filepath.Join(w.base, "logs")
	}
	if w.LogDir, err = filepath.Abs(w.LogDir); err != nil {
		return err
	}
	for _, dir := range []string{w.LogDir, w.path("control"), w.path("pki")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if w.pki, err = writePKI(w.path("pki"), opts.Nodes); err != nil {
		return err
	}
	return writeArchive(w.path("images.tar"), baseImages())
}

// startMachines starts the control plane and, beside it, the nodes up to
// containerd with its images: they need nothing of each other.
func (w *World) startMachines(ctx context.Context, opts Options) error {
	for i := 1; i <= opts.Nodes; i++ {
		w.Nodes = append(w.Nodes, newNode(w, i))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.startControlPlane(ctx) })
	for _, n := range w.Nodes {
		group.Go(func() error {
			if err := n.install(opts.Primary); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			return n.boot(ctx)
		})
	}
	return group.Wait()
}

func (w *World) startKubelets(ctx context.Context, opts Options) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range w.Nodes {
		group.Go(func() error {
			if err := n.register(ctx); err != nil {
				return err
			}
			if err := n.startKubelet(); err != nil {
				return err
			}
			if opts.Primary == nil {
				return nil
			}
			return n.WaitReady(ctx)
		})
	}
	return group.Wait()
}

// Client returns a typed client with cluster-admin rights.
func (w *World) Client() kubernetes.Interface { return w.client }

// Dynamic returns an untyped client with cluster-admin rights.
func (w *World) Dynamic() dynamic.Interface { return w.dynamic }

// Node returns the node of that name.
func (w *World) Node(name string) (*Node, error) {
	for _, n := range w.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %q in this world", name)
}

// Close ends every process of the world and removes all that it made; only
// Options.LogDir stays. It may be called twice.
func (w *World) Close() error {
	var errs []error
	if w.forward != nil {
		errs = append(errs, w.forward.close())
		w.forward = nil
	}
	if w.janitor != nil {
		errs = append(errs, w.janitor.close())
		w.janitor = nil
	}
	return errors.Join(errs...)
}

func (w *World) path(elem ...string) string {
	return filepath.Join(append([]string{w.base}, elem...)...)
}
