package exec

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

const (
	outputLimit = 1 << 20
	stderrKept  = 1 << 10
	// termGrace is the time between SIGTERM and SIGKILL at the deadline.
	termGrace = 2 * time.Second
	// groupGrace is the time that killed processes have to disappear.
	groupGrace = time.Second
	// minGroupGrace is the same when there is no time left: the kernel needs a
	// moment to take a killed process away.
	minGroupGrace = 200 * time.Millisecond
	// EndRoom is what a call keeps of its time for ending a plugin.
	EndRoom = termGrace + groupGrace
	// busyTries bounds the attempts when the binary is being written (ETXTBSY).
	busyTries = 6
)

// withRoom is the time of a call's plugins, so that one that must be ended is
// gone at the deadline of ctx; room is how long ending may take.
func withRoom(ctx context.Context) (_ context.Context, room time.Duration, cancel context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, EndRoom, func() {}
	}
	room = max(0, min(EndRoom, time.Until(deadline)/2))
	ctx, cancel = context.WithDeadline(ctx, deadline.Add(-room))
	return ctx, room, cancel
}

// runProcess runs a binary; a busy one is tried again with a new process each
// time (multus#1213: an exec.Cmd can't be started twice).
func (d *dispatcher) runProcess(ctx context.Context, verb, path string, stdin []byte) ([]byte, error) {
	wait := 20 * time.Millisecond
	for try := 1; ; try++ {
		out, err := d.runOnce(ctx, verb, path, stdin)
		if !errors.Is(err, syscall.ETXTBSY) || try == busyTries {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 2
	}
}

func (d *dispatcher) runOnce(ctx context.Context, verb, path string, stdin []byte) ([]byte, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stdout := &limited{max: outputLimit, full: func() { stop(errTooMuchOutput) }}
	stderr := &tail{max: stderrKept}
	cmd := d.command(ctx, verb, path)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// For the kernel the parent is the thread, not the process (prctl(2),
	// PR_SET_PDEATHSIG): the thread must last as long as the plugin.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	failpoint.Hit("delegate.start.before")
	if err := cmd.Start(); err != nil {
		return nil, startError(path, err)
	}
	failpoint.Hit("delegate.start.after")
	reported := d.report(verb, cmd.Process.Pid)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if reported == nil {
			_, _ = in.Write(stdin)
		}
		_ = in.Close()
	}()
	failpoint.Hit("delegate.running")
	endGroup(cmd.Process.Pid)
	err = cmd.Wait()
	<-fed
	awaitGroup(cmd.Process.Pid, max(d.room/3, minGroupGrace))
	failpoint.Hit("delegate.done")
	if reported != nil {
		return nil, reported
	}
	if cause := context.Cause(ctx); cause != nil && (err != nil || errors.Is(cause, errTooMuchOutput)) {
		return nil, endedError(path, cause, stderr)
	}
	if err != nil {
		return nil, pluginError(path, err, stdout, stderr)
	}
	d.logStderr(path, stderr)
	return stdout.Bytes(), nil
}

// command is a plugin's process. When ctx ends, its group is asked to end, for
// two thirds of the room, or killed at once when there is none. A daemon that
// is killed takes it along.
func (d *dispatcher) command(ctx context.Context, verb, path string) *exec.Cmd {
	first := syscall.SIGTERM
	if d.room == 0 {
		first = syscall.SIGKILL
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = d.environ(verb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, first) }
	cmd.WaitDelay = max(d.room*2/3, time.Millisecond) // 0 would be for ever
	return cmd
}

// endGroup waits for the leader's end and then ends what it left of its group.
// The leader stays a zombie meanwhile, so that its number can't be given to
// another group.
func endGroup(leader int) {
	for unix.Waitid(unix.P_PID, leader, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		continue
	}
	_ = syscall.Kill(-leader, syscall.SIGKILL)
}

// awaitGroup waits until nothing of a killed group runs any more, so that the
// undo doesn't race with its last steps. A process that the kernel doesn't let
// go is not waited for longer than grace.
func awaitGroup(group int, grace time.Duration) {
	for end := time.Now().Add(grace); time.Now().Before(end); <-time.After(time.Millisecond) {
		over := errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) || !groupRuns(group)
		reap(group)
		if over {
			return
		}
	}
}

// reap takes the ended orphans of a group: in a container the daemon is
// process 1, which inherits them, and they would stay zombies for ever.
func reap(group int) {
	for {
		pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// report tells the journal of a process that changes something.
func (d *dispatcher) report(verb string, pid int) error {
	if verb != "ADD" && verb != "DEL" || d.call.Started == nil {
		return nil
	}
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	return d.call.Started(&journal.Process{Group: pid, StartTime: start})
}

// environ is the process's environment: the CNI variables, PATH, the trace
// context of the runtime's call and the way back to the daemon. The rest of
// the daemon's own environment is nobody's business (multus#1072).
func (d *dispatcher) environ(verb string) []string {
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	out := []string{"PATH=" + path, "CNI_COMMAND=" + verb}
	for key, value := range d.env {
		out = append(out, key+"="+value)
	}
	for key, value := range d.call.Trace {
		out = append(out, key+"="+value)
	}
	if d.runner.opts.Socket != "" {
		out = append(out, "META_CNI_SOCKET="+d.runner.opts.Socket)
	}
	return out
}

func (d *dispatcher) logStderr(path string, stderr *tail) {
	if text := stderr.String(); text != "" {
		d.runner.opts.Log.Debug("delegate wrote to stderr", "plugin", filepath.Base(path),
			"containerID", d.call.Plan.Key.ContainerID, "stderr", text)
	}
}

var errTooMuchOutput = fmt.Errorf("it wrote more than %d bytes", outputLimit)

// startError explains why a binary that was found can't run.
func startError(path string, err error) error {
	if !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("plugin %s: %w", path, err)
	}
	loader := interpreter(path)
	if loader == "" {
		return fmt.Errorf("plugin %s: %w", path, err)
	}
	return types.NewError(types.ErrInvalidNetworkConfig,
		fmt.Sprintf("plugin %s needs the loader %s, which isn't here", path, loader),
		"it is dynamically linked or a script: mount the node's /usr into the daemon's pod as deployments/meta-cni.yaml does, install a static build of it, or run meta-cnid on the host")
}

// interpreter is the loader that an ELF file asks for, or of a script.
func interpreter(path string) string {
	file, err := elf.Open(path)
	if err != nil {
		return scriptInterpreter(path)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return ""
		}
		return strings.TrimRight(string(name), "\x00")
	}
	return ""
}

// scriptInterpreter is the program in the first line of a script.
func scriptInterpreter(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 256))
	if err != nil {
		return ""
	}
	line, ok := strings.CutPrefix(string(head), "#!")
	if !ok {
		return ""
	}
	line, _, _ = strings.Cut(line, "\n")
	name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return name
}

func endedError(path string, cause error, stderr *tail) error {
	e := &types.Error{Code: types.ErrInternal, Msg: fmt.Sprintf("plugin %s was ended: %v", filepath.Base(path), cause)}
	if errors.Is(cause, context.DeadlineExceeded) {
		e.Code = types.ErrTryAgainLater
		e.Msg = fmt.Sprintf("plugin %s did not finish in time and was ended with its process group", filepath.Base(path))
	}
	e.Details = stderr.String()
	return e
}

// pluginError is the error that the plugin printed, code and all, or what can
// be said of one that printed none.
func pluginError(path string, err error, stdout *limited, stderr *tail) error {
	e := &types.Error{}
	if json.Unmarshal(stdout.Bytes(), e) == nil && (e.Msg != "" || e.Code != 0) {
		return e
	}
	e = &types.Error{Code: types.ErrInternal, Details: stderr.String()}
	e.Msg = fmt.Sprintf("plugin %s failed without an error message: %v", filepath.Base(path), err)
	return e
}

// limited is a buffer that reports when more than max bytes arrive and keeps
// none of the rest. It must not embed bytes.Buffer: io.Copy would prefer its
// ReadFrom, which knows no limit.
type limited struct {
	kept []byte
	over bool
	max  int
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.over || len(l.kept)+len(p) > l.max {
		l.over = true
		l.full()
		return len(p), nil
	}
	l.kept = append(l.kept, p...)
	return len(p), nil
}

func (l *limited) Bytes() []byte { return l.kept }

// tail keeps the last max bytes.
type tail struct {
	kept []byte
	max  int
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > t.max {
		t.kept = append([]byte(nil), t.kept[len(t.kept)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.kept)) }
