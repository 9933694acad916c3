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

	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// stateRetry is between attempts to open a state folder that can't be used.
const stateRetry = 5 * time.Second

// state is the state folder, locked and read.
type state struct {
	lock    *Lock
	journal *journal.Journal
	damaged []journal.Damaged
}

func openState(ctx context.Context, cfg config.Daemon, log *slog.Logger) (*state, error) {
	lock, err := lockForDaemon(ctx, cfg.StateDir, func() {
		log.Warn("another meta-cnid uses the state folder: waiting for its end", "stateDir", cfg.StateDir)
	})
	if err != nil {
		return nil, err
	}
	j, damaged, err := openJournal(cfg, "", log)
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return &state{lock: lock, journal: j, damaged: damaged}, nil
}

// openJournal opens the journal of one container, or of all when it is empty.
func openJournal(cfg config.Daemon, container string, log *slog.Logger) (*journal.Journal, []journal.Damaged, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, fmt.Errorf("boot ID: %w", err)
	}
	return journal.Open(journal.Options{
		Dir:        filepath.Join(cfg.StateDir, "attachments"),
		Quarantine: filepath.Join(cfg.StateDir, "quarantine"),
		BootID:     strings.TrimSpace(string(boot)),
		Container:  container,
		Log:        log,
	})
}

// awaitState serves refusals that say why, until the state folder can be used:
// a read-only or full disk must show in STATUS and not as a process that ends
// again and again.
func awaitState(ctx context.Context, cfg config.Daemon, log *slog.Logger, cause error) (*state, error) {
	if ctx.Err() != nil {
		return nil, cause
	}
	log.Error("the state folder can't be used: every request is refused until it can", "stateDir", cfg.StateDir, "error", cause.Error())
	listener, err := wire.Listen(filepath.Join(cfg.RunDir, socketName))
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	reason := fmt.Errorf("meta-cnid can't use its state folder %s: %w", cfg.StateDir, cause)
	server := &wire.Server{Handler: refuse(reason), Log: log}
	live, stop := context.WithCancel(ctx)
	group, live := errgroup.WithContext(live)
	group.Go(func() error { return server.Serve(live, listener) })
	group.Go(func() error {
		return serveHealth(live, filepath.Join(cfg.RunDir, healthName), func() error { return reason }, log)
	})
	s, err := retryState(live, cfg, log)
	stop()
	return s, errors.Join(err, server.Shutdown(context.WithoutCancel(ctx)), group.Wait())
}

func retryState(ctx context.Context, cfg config.Daemon, log *slog.Logger) (*state, error) {
	ticker := time.NewTicker(stateRetry)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
		if s, err := openState(ctx, cfg, log); err == nil {
			return s, nil
		}
	}
}

// refuse answers everything with the reason: STATUS that no ADD can work, the
// rest that it shall be tried again.
func refuse(reason error) wire.Handler {
	return wire.HandlerFunc(func(_ context.Context, req *wire.Request, reply func(*wire.Reply) error) {
		code := wire.CodeTryAgainLater
		if req.Command == "STATUS" {
			code = wire.CodeNotAvailable
		}
		_ = reply(failure(nil, invalid(code, reason))) // a plugin that is gone needs no answer
	})
}
