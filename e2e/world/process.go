package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// place is where a process runs: a cgroup by which it is found and ended, a
// network namespace, and, on a node, the mount namespace of the process Pid.
type place struct {
	cgroup string // below the prefix, like node1/daemons
	netns  string // path; "" = where we are
	mounts int    // pid whose mount namespace is entered; 0 = ours
}

// wrap puts the command into the place. Joining the cgroup comes first, so
// that not even the wrapper can be lost.
func (p place) wrap(argv []string) []string {
	join := "for f in"
	for _, dir := range cgroupDirs(p.cgroup) {
		join += " " + dir + "/cgroup.procs"
	}
	join += `; do echo $$ > "$f" || exit 125; done; exec "$@"`
	wrapped := []string{"/bin/sh", "-c", join, "place"}
	if p.netns != "" || p.mounts != 0 {
		wrapped = append(wrapped, "/usr/bin/nsenter")
	}
	if p.netns != "" {
		wrapped = append(wrapped, "--net="+p.netns)
	}
	if p.mounts != 0 {
		wrapped = append(wrapped, fmt.Sprintf("--mount=/proc/%d/ns/mnt", p.mounts))
	}
	return append(wrapped, argv...)
}

// command is like exec.CommandContext in a place, for commands that end.
func (p place) command(ctx context.Context, argv ...string) *exec.Cmd {
	argv = p.wrap(argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+nodePath)
	cmd.WaitDelay = time.Second // a child that keeps our pipe must not hold us
	return cmd
}

// run runs a command to its end and returns its standard output; an error
// carries what it wrote to both streams.
func (p place) run(ctx context.Context, argv ...string) (string, error) {
	cmd := p.command(ctx, argv...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// process is a program that runs until it is stopped.
type process struct {
	name string
	log  string // file
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended; then err is set
	err  error
}

// startProcess starts a program in a place and appends its output to a file.
func startProcess(p place, name, logPath string, argv ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := p.command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	proc := &process{name: name, log: logPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		proc.err = cmd.Wait()
		close(proc.done)
	}()
	return proc, nil
}

// alive returns an error when the process has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		tail, _ := Tail(p.log, 5) // best effort: it only explains
		return fmt.Errorf("%s: %w: %s", p.name, errors.Join(errEnded, p.err), tail)
	default:
		return nil
	}
}

// errEnded ends a wait at once: what is waited for can't come any more.
var errEnded = errors.New("ended by itself")

// stop sends the signal and waits for the end; after the grace it kills.
func (p *process) stop(sig syscall.Signal, grace time.Duration) error {
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// Tail returns the last lines of a file.
func Tail(path string, lines int) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	all := strings.SplitAfter(string(content), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], ""), nil
}
