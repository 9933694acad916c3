package testnet

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// Run runs a program in the host's network namespace and returns what it
// wrote to both outputs. It ends with the context.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Exec(cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(argv, " "), err, out.String())
	}
	return out.String(), nil
}

// Exec runs a prepared command in the host's network namespace. The program
// is killed when this process ends.
func (h *Host) Exec(cmd *exec.Cmd) error {
	dieWithParent(cmd)
	return h.Do(cmd.Run)
}

// Start begins a program in the host's network namespace. The channel gives
// its end, once. It is killed at the end of the test.
func (h *Host) Start(cmd *exec.Cmd) <-chan error {
	h.net.tb.Helper()
	dieWithParent(cmd)
	started, ended, gone := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		// The signal comes when the thread that started the program ends, so
		// the thread stays with it.
		ended <- h.Do(func() error {
			err := cmd.Start()
			started <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
	}()
	h.must("start "+cmd.Path, <-started)
	h.net.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	return ended
}

func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
