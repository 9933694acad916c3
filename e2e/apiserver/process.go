package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// process is a program that runs until it is killed, and no longer than we.
type process struct {
	name, log string
	cmd       *exec.Cmd
	done      chan struct{}
}

// startProcess appends the program's output to a file.
func startProcess(logPath, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Away from the terminal's signals, and dead when we are.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{name: filepath.Base(program), log: logPath, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal comes when the thread that started it ends.
		runtime.LockOSThread()
		defer close(p.done)
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", program, err)
			return
		}
		started <- nil
		_ = cmd.Wait() // how it ended stands in its log
	}()
	return p, <-started
}

func (p *process) kill() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(lastLines(text, 10))
}

// findPrograms builds Kubernetes if need be and says where it lies.
func findPrograms(ctx context.Context) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "make", "--silent", "--no-print-directory", "-C", filepath.Join(root, "e2e", "tools"), "apiserver", "print-apiserver-dir")
	// A make above us must not hand its own flags and job server down.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build kube-apiserver: %w\n%s%s", err, out, stderr.String())
	}
	lines := strings.Fields(string(out))
	if len(lines) == 0 {
		return "", errors.New("make print-apiserver-dir printed nothing")
	}
	return lines[len(lines)-1], nil
}

// Root is the folder of the sources, found above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "e2e", "tools", "Makefile")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("e2e/tools is not above the working directory")
}
