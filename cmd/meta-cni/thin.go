package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// daemonName is the program that does the work of thin mode.
const daemonName = "meta-cnid"

// endWait is how long a oneshot that is past its budget has after SIGTERM.
const endWait = 5 * time.Second

// askOneshot runs "meta-cnid oneshot" with the request on its standard input
// and the reply on its standard output. Its failure is never put on the spool:
// no daemon would work it off.
func (p plugin) askOneshot(req *wire.Request, c conf) (*wire.Reply, *wire.Error) {
	code, budget, grace := wire.CodeTryAgainLater, p.budgets.add, endWait
	switch req.Command {
	case "STATUS":
		// It undoes nothing, so that its end needs little of the time.
		code, budget, grace = wire.CodeNotAvailable, p.budgets.status*3/4, p.budgets.status/8
	case "DEL":
		budget = p.budgets.del
	}
	binary, err := findDaemon(c.DaemonBinary, ownFolder(), req.Path)
	if err != nil {
		return nil, &wire.Error{Code: code, Msg: req.Command + ` in mode "thin": ` + err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	reply, err := oneshot(ctx, binary, req, grace)
	if err != nil {
		return nil, &wire.Error{
			Code:    code,
			Msg:     fmt.Sprintf(`%s in mode "thin": %s oneshot: %v`, req.Command, binary, err),
			Details: "its own messages are on standard error, in the runtime's log",
		}
	}
	return reply, nil
}

// oneshot runs the program. It is told (SIGTERM) when ctx ends and also when
// this process is killed, so that it undoes what it began, and has grace for
// that.
func oneshot(ctx context.Context, binary string, req *wire.Request, grace time.Duration) (*wire.Reply, error) {
	var stdin bytes.Buffer
	if err := wire.WriteFrame(&stdin, req); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "oneshot")
	cmd.Stdin = &stdin
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread() // the parent of Pdeathsig is the thread (prctl(2))
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// A process that it left behind may hold its standard output open.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, func() { _ = stdout.Close() }) })()
	reply := new(wire.Reply)
	read := wire.ReadFrame(stdout, reply)
	ended := cmd.Wait()
	switch {
	case read == nil: // the answer counts, whatever the exit code is
		return reply, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("did not answer in time: %w", ctx.Err())
	}
	return nil, errors.Join(fmt.Errorf("no answer on its standard output: %w", read), ended)
}

// findDaemon is the program named in the configuration, else the first of that
// name in the plugin's own folder, the folders of CNI_PATH, and /usr.
func findDaemon(named, own, cniPath string) (string, error) {
	if named != "" {
		if !filepath.IsAbs(named) {
			return "", fmt.Errorf("daemonBinary %q must be an absolute path", named)
		}
		return named, trusted(named)
	}
	folders := append([]string{own}, filepath.SplitList(cniPath)...)
	folders = append(folders, "/usr/local/bin", "/usr/bin")
	for _, folder := range folders {
		if !filepath.IsAbs(folder) {
			continue
		}
		path := filepath.Join(folder, daemonName)
		err := trusted(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return path, err
	}
	return "", fmt.Errorf(`%s is not in %s: install it there, or name it by "daemonBinary" in the network configuration`,
		daemonName, strings.Join(folders, ", "))
}

// trusted refuses a program that others than root or this user can change.
func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s: not an executable file (%s)", path, info.Mode())
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: must be owned by root and writable by its owner only, not uid %d, %s", path, st.Uid, info.Mode())
	}
	return nil
}

// ownFolder is where this program is, links resolved.
func ownFolder() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(path)
}
