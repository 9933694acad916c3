package world

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the name of everything that a world makes outside its own
// folder: network namespaces, cgroups, temporary folders.
const prefix = "mce2e"

// lockPath keeps worlds apart: they share names and addresses on purpose, so
// that what a killed one left is recognised.
const lockPath = "/run/" + prefix + ".lock"

//go:embed sweep.sh
var sweepScript string

// janitor is a child process that sweeps the world away when its standard
// input closes: on close, or because this process died. It holds the lock
// until it is through.
type janitor struct {
	cmd   *exec.Cmd
	stdin io.Closer
	err   bytes.Buffer
}

// startJanitor waits for the lock, sweeps what an earlier world left, and
// leaves a janitor for this one.
func startJanitor(ctx context.Context, log *slog.Logger) (*janitor, error) {
	lock, err := takeLock(ctx, log)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the janitor has its own descriptor of the same lock
	if out, err := exec.CommandContext(ctx, "/bin/sh", "-c", sweepScript, "sweep", prefix).CombinedOutput(); err != nil || len(out) > 0 {
		return nil, fmt.Errorf("sweep what an earlier world left: %w: %s", err, out)
	}
	j := &janitor{cmd: exec.Command("/bin/sh", "-c", sweepScript, "sweep", prefix, "wait")}
	j.cmd.Stderr = &j.err
	j.cmd.ExtraFiles = []*os.File{lock}
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // survives Ctrl-C
	if j.stdin, err = j.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := j.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start janitor: %w", err)
	}
	return j, nil
}

func (j *janitor) close() error {
	err := errors.Join(j.stdin.Close(), j.cmd.Wait())
	if j.err.Len() > 0 {
		err = errors.Join(err, errors.New(j.err.String()))
	}
	if err != nil {
		return fmt.Errorf("remove world: %w", err)
	}
	return nil
}

func takeLock(ctx context.Context, log *slog.Logger) (*os.File, error) {
	lock, err := os.OpenFile(lockPath, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	said := false
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", lockPath, err), lock.Close())
		}
		if !said {
			log.Info("another world is running on this machine, waiting for its end", "lock", lockPath)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: another world is running: %w", lockPath, ctx.Err()), lock.Close())
		case <-time.After(time.Second):
		}
	}
}
