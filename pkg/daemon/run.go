package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
	// drainTime is what running requests have after SIGTERM; the pod's grace
	// period is 30 s.
	drainTime = 25 * time.Second
	// flushTime is for the last Events and annotations.
	flushTime = 2 * time.Second
)

// Run is the daemon's life: it returns after ctx has ended and what was
// running is finished.
func Run(ctx context.Context, cfg config.Daemon, log *slog.Logger) error {
	lock, err := lockForDaemon(ctx, cfg.StateDir, func() {
		log.Warn("another meta-cnid uses the state folder: waiting for its end", "stateDir", cfg.StateDir)
	})
	if err != nil {
		return err
	}
	j, damaged, err := openJournal(cfg, log)
	if err != nil {
		return errors.Join(err, lock.Release())
	}
	err = run(ctx, cfg, log, j, damaged)
	return errors.Join(err, j.Close(), lock.Release())
}

// run serves until ctx ends. The parts that requests need outlive the server.
func run(ctx context.Context, cfg config.Daemon, log *slog.Logger, j *journal.Journal, damaged []journal.Damaged) error {
	parts, err := assemble(cfg, log)
	if err != nil {
		return err
	}
	if err := parts.conf.Sync(); err != nil {
		log.Error("no configuration for the runtime yet", "error", err.Error())
	}
	d := New(Options{
		Config: cfg, Definitions: parts.definitions, Primary: parts.conf, Publisher: parts.publisher,
		Journal: j, Runner: newRunner(cfg, log, filepath.Join(cfg.RunDir, socketName)), Log: log,
	})
	finish := d.Recover(ctx, damaged)
	listener, err := wire.Listen(filepath.Join(cfg.RunDir, socketName))
	if err != nil {
		return err
	}
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, live := errgroup.WithContext(live)
	group.Go(func() error { finish(live); return nil })
	parts.start(live, group, d)
	group.Go(func() error { return d.serveHealth(live, filepath.Join(cfg.RunDir, healthName)) })
	group.Go(func() error {
		d.WorkSpool(live, wire.Spool{Dir: filepath.Join(cfg.StateDir, "spool")}, retryEvery)
		return nil
	})
	group.Go(func() error { d.Sweep(live, retryEvery); return nil })
	server := &wire.Server{Handler: d, Log: log}
	group.Go(func() error { return server.Serve(live, listener) })
	log.Info("ready", "socket", filepath.Join(cfg.RunDir, socketName), "sets", len(j.Sets()), "damaged", len(damaged))
	select {
	case <-ctx.Done():
	case <-live.Done():
	}
	drain(ctx, server, parts, log)
	stop()
	return group.Wait()
}

// drain finishes what runs: requests first, then what they published.
func drain(ctx context.Context, server *wire.Server, p *parts, log *slog.Logger) {
	ctx = context.WithoutCancel(ctx)
	requests, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := server.Shutdown(requests); err != nil {
		log.Warn("requests were cut short by the end of the daemon", "error", err.Error())
	}
	flush, cancelFlush := context.WithTimeout(ctx, flushTime)
	defer cancelFlush()
	if err := p.publisher.Flush(flush); err != nil {
		log.Warn("some annotations or Events were not written before the end", "error", err.Error())
	}
}

func openJournal(cfg config.Daemon, log *slog.Logger) (*journal.Journal, []journal.Damaged, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, fmt.Errorf("boot ID: %w", err)
	}
	return journal.Open(journal.Options{
		Dir:        filepath.Join(cfg.StateDir, "attachments"),
		Quarantine: filepath.Join(cfg.StateDir, "quarantine"),
		BootID:     strings.TrimSpace(string(boot)),
		Log:        log,
	})
}

func newRunner(cfg config.Daemon, log *slog.Logger, socket string) *exec.Runner {
	return exec.New(exec.Options{CacheDir: filepath.Join(cfg.StateDir, "libcni"), Socket: socket, Log: log})
}

// WriteThinConf writes 00-meta.conf once, for use without a daemon: nobody
// keeps it, so it is written again after the primary network has changed.
func WriteThinConf(cfg config.Daemon, log *slog.Logger) error {
	s := confSettings(cfg)
	s.Mode, s.Socket = config.Thin, ""
	s.Kubeconfig = cfg.Kubernetes.Kubeconfig
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
