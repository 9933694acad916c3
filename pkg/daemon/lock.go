package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is the right to use a state folder. The kernel takes it back when the
// process ends, however it ends. `daemon.lock` is held alone by a daemon and
// shared by thin requests, so that these see at once that a daemon is there;
// `lock` is shared by thin requests for one container and held alone by one
// for all (GC); `locks/N` orders those for one container.
type Lock struct{ files []*os.File }

// lockFiles is the number of files for containers: their names come from a
// hash, so that they don't become more with each container.
const lockFiles = 64

// errDaemon says that a daemon holds the state folder.
var errDaemon = errors.New("a meta-cnid daemon uses this state folder: take \"mode\": \"thin\" out of the configuration, or stop the daemon")

// lockForDaemon waits until no other process uses the state folder. waiting is
// called once when it has to wait.
func lockForDaemon(ctx context.Context, stateDir string, waiting func()) (*Lock, error) {
	l := &Lock{}
	return l, l.take(ctx, stateDir, "daemon.lock", unix.LOCK_EX, waiting)
}

// lockForThin waits until no other thin request works on the container, or on
// any if it is empty. A daemon doesn't let go, so it is an error at once.
func lockForThin(ctx context.Context, stateDir, container string) (*Lock, error) {
	l, err := noDaemon(ctx, stateDir)
	if err != nil {
		return nil, err
	}
	if container == "" {
		err = l.take(ctx, stateDir, "lock", unix.LOCK_EX, func() {})
	} else if err = l.take(ctx, stateDir, "lock", unix.LOCK_SH, func() {}); err == nil {
		name := strconv.Itoa(int(crc32.ChecksumIEEE([]byte(container)) % lockFiles))
		err = l.take(ctx, filepath.Join(stateDir, "locks"), name, unix.LOCK_EX, func() {})
	}
	if err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return l, nil
}

// noDaemon sees to it that no daemon starts while the lock is held.
func noDaemon(ctx context.Context, stateDir string) (*Lock, error) {
	l := &Lock{}
	now, cancel := context.WithCancelCause(ctx)
	cancel(errDaemon)
	return l, l.take(now, stateDir, "daemon.lock", unix.LOCK_SH, func() {})
}

func (l *Lock) take(ctx context.Context, stateDir, name string, how int, waiting func()) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	path := filepath.Join(stateDir, name)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := flock(ctx, file, how, waiting); err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	l.files = append(l.files, file)
	return nil
}

// flock tries at least once; a wait ends with ctx.
func flock(ctx context.Context, file *os.File, how int, waiting func()) error {
	for told := false; ; told = true {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if !told {
			waiting()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Release gives the lock back.
func (l *Lock) Release() error {
	errs := make([]error, 0, len(l.files))
	for _, file := range l.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
