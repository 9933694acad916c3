package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/confgen"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

const (
	socketName = "meta-cni.sock"
	healthName = "health.sock"
	// retryEvery is between looks at the spool and at unfinished work.
	retryEvery = 10 * time.Second
	// After SIGTERM running requests have drainTime to finish; those that
	// haven't are cancelled and have abortTime for their undo. Both fit into the
	// pod's grace period (deployments/meta-cni.yaml).
	drainTime = 25 * time.Second
	abortTime = config.UndoBudget + 2*time.Second
	// flushTime is for the last Events and annotations.
	flushTime = 2 * time.Second
)

// Run is the daemon's life: it returns after ctx has ended and what was
// running is finished or undone.
func Run(ctx context.Context, cfg config.Daemon, log *slog.Logger) error {
	s, err := openState(ctx, cfg, log)
	if err != nil {
		s, err = awaitState(ctx, cfg, log, err)
	}
	if ctx.Err() != nil && s == nil {
		return nil // told to end while it waited
	}
	if err != nil {
		return err
	}
	err = run(ctx, cfg, log, s)
	return errors.Join(err, s.journal.Close(), s.lock.Release())
}

// run serves until ctx ends. The socket is there before the runtime is told of
// us, and the parts that requests need outlive the server.
func run(ctx context.Context, cfg config.Daemon, log *slog.Logger, s *state) error {
	parts, err := assemble(cfg, log)
	if err != nil {
		return err
	}
	socket := filepath.Join(cfg.RunDir, socketName)
	d := New(Options{
		Config: cfg, Definitions: parts.definitions, Primary: parts.conf, Publisher: parts.publisher,
		Journal: s.journal, Runner: newRunner(cfg, log, socket), Log: log,
	})
	ipam := d.openAddresses(ctx, cfg, parts.client)
	d.opts.Callbacks = ipam.delegates(d, cfg)
	finish := d.Recover(ctx, s.damaged)
	listener, err := wire.Listen(socket)
	if err != nil {
		return errors.Join(err, ipam.end())
	}
	if err := parts.conf.Sync(); err != nil {
		log.Error("no configuration for the runtime yet", "error", err.Error())
	}
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, live := errgroup.WithContext(live)
	server := &wire.Server{Handler: d, Log: log}
	group.Go(func() error { return server.Serve(live, listener) })
	group.Go(func() error { return serveHealth(live, filepath.Join(cfg.RunDir, healthName), d.ready, log) })
	parts.start(live, group, d)
	ipam.start(live, group)
	work, halt := context.WithCancel(ctx)
	defer halt()
	d.background(work, group, finish)
	log.Info("ready", "socket", socket, "sets", len(s.journal.Sets()), "damaged", len(s.damaged))
	select {
	case <-ctx.Done():
	case <-live.Done():
	}
	halt() // one of the parts may have failed, with ctx still running
	d.drain(ctx, server, parts)
	stop()
	return errors.Join(group.Wait(), ipam.end())
}

// background starts the work that nobody asks for. It begins nothing new once
// ctx has ended.
func (d *Daemon) background(ctx context.Context, group *errgroup.Group, finish func(context.Context)) {
	group.Go(func() error { finish(ctx); return nil })
	group.Go(func() error {
		d.WorkSpool(ctx, wire.Spool{Dir: filepath.Join(d.opts.Config.StateDir, "spool")}, retryEvery)
		return nil
	})
	group.Go(func() error { d.Sweep(ctx, retryEvery); return nil })
}

// drain finishes what runs: requests first, then what they published. What
// doesn't end in time is cancelled, undone, and in the end its delegates are
// ended, so that none acts after us.
func (d *Daemon) drain(ctx context.Context, server *wire.Server, p *parts) {
	ctx = context.WithoutCancel(ctx)
	requests, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := server.Shutdown(requests); err != nil {
		d.opts.Log.Warn("requests are cut short by the end of the daemon", "error", err.Error())
		d.awaitIdle(abortTime)
	}
	d.endDelegates(ctx)
	flush, cancelFlush := context.WithTimeout(ctx, flushTime)
	defer cancelFlush()
	if err := p.publisher.Flush(flush); err != nil {
		d.opts.Log.Warn("some annotations or Events were not written before the end", "error", err.Error())
	}
}

// awaitIdle waits for the requests that were cancelled, at most for limit.
func (d *Daemon) awaitIdle(limit time.Duration) {
	idle := make(chan struct{})
	go func() {
		d.active.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(limit):
		d.opts.Log.Error("requests are still not done: what they began is in the journal, the next daemon undoes it")
	}
}

// endDelegates ends the processes of delegates that are still running.
func (d *Daemon) endDelegates(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		if state.Phase == journal.Committed {
			continue
		}
		for _, step := range state.Steps {
			for _, p := range step.Processes {
				if err := exec.EndLeftover(ctx, set.Key().ContainerID, p); err != nil {
					d.opts.Log.Error("a delegate could not be ended", "set", set.Key().String(), "error", err.Error())
				}
			}
		}
	}
}

func newRunner(cfg config.Daemon, log *slog.Logger, socket string) *exec.Runner {
	return exec.New(exec.Options{CacheDir: filepath.Join(cfg.StateDir, "libcni"), Socket: socket, Log: log})
}

// WriteThinConf writes 00-meta.conf once, for use without a daemon: nobody
// keeps it, so it is written again after the primary network has changed. It is
// an error while a daemon runs, which would put its own back.
func WriteThinConf(ctx context.Context, cfg config.Daemon, log *slog.Logger) error {
	lock, err := noDaemon(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	return errors.Join(writeThinConf(cfg, log), lock.Release())
}

func writeThinConf(cfg config.Daemon, log *slog.Logger) error {
	s := confSettings(cfg)
	s.Mode, s.Socket = config.Thin, ""
	s.Kubeconfig, s.NodeName = cfg.Kubernetes.Kubeconfig, cfg.NodeName
	if cfg.IPAM.Dir != filepath.Join(cfg.StateDir, "addresses") {
		s.IPAMDir = cfg.IPAM.Dir
	}
	if cfg.ConfDir != config.DefaultConfDir {
		s.ConfDir = cfg.ConfDir
	}
	if cfg.Mode == config.Standalone {
		s.ObjectsDir = cfg.ObjectsDir
	}
	if len(cfg.NetworkDirs) != 1 || cfg.NetworkDirs[0] != cfg.ConfDir {
		s.NetworkDirs = cfg.NetworkDirs
	}
	generator := confgen.New(confgen.Options{
		Dir: cfg.ConfDir, Settings: s, Log: log,
		Pin: confgen.Pin{File: cfg.Primary.File, Network: cfg.Primary.Network},
	})
	if err := generator.Sync(); err != nil {
		return err
	}
	return generator.Ready()
}

// confSettings say what 00-meta.conf must hold besides the primary's
// capabilities for the plugin to find this daemon.
func confSettings(cfg config.Daemon) confgen.Settings {
	s := confgen.Settings{CNIVersion: cfg.CNIVersion}
	if cfg.RunDir != config.DefaultRunDir {
		s.Socket = filepath.Join(cfg.RunDir, socketName)
	}
	if cfg.StateDir != config.DefaultStateDir {
		s.StateDir = cfg.StateDir
	}
	return s
}
