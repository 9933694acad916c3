package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

func TestDaemonAbsent(t *testing.T) {
	for _, test := range []struct {
		command   string
		code      uint
		from, end time.Duration
	}{
		{"ADD", 11, 4 * time.Second, 6 * time.Second},
		{"CHECK", 11, 4 * time.Second, 6 * time.Second},
		{"GC", 11, 4 * time.Second, 6 * time.Second},
		{"STATUS", 50, 0, time.Second},
	} {
		t.Run(test.command, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := call{env: env(test.command), stdin: w.conf(t, nil)}.run(t)
			o.wantError(t, test.code, "not running on this node", w.socket, "systemctl", "kubectl -n meta-cni get pods -o wide", "log of meta-cnid")
			if o.took < test.from || o.took > test.end {
				t.Errorf("took %s, want %s to %s", o.took, test.from, test.end)
			}
		})
	}
}

func TestDaemonThatComesBackIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	stdout, wait := begin(t, call{env: env("ADD"), stdin: w.conf(t, nil)})
	w.endsUntaken(t)
	w.serve(t, echo)
	if code := wait(); code != 0 || !strings.Contains(stdout.String(), `"command":"ADD"`) {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

// endsUntaken is a daemon that ends before it takes the one request that comes:
// after it, the program has certainly met an absent daemon.
func (w world) endsUntaken(t *testing.T) {
	t.Helper()
	l, err := wire.Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Close(), l.Close(), os.Remove(w.socket)); err != nil {
		t.Fatal(err)
	}
}

// begin starts the program; the function waits for its end.
func begin(t *testing.T, c call) (*strings.Builder, func() int) {
	t.Helper()
	cmd, stdout := c.cmd(t), new(strings.Builder)
	cmd.Stdout = stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return stdout, func() int { _ = cmd.Wait(); return cmd.ProcessState.ExitCode() }
}

func TestDelWithoutDaemonIsSpooled(t *testing.T) {
	for _, test := range []struct{ name, program, stdin string }{
		{"as runtimes do", wire.PluginMeta, `{"cniVersion":"1.1.0"}`},
		{"old version", wire.PluginMeta, `{"cniVersion":"0.2.0"}`},
		{"wrong type in the configuration", wire.PluginMeta, `{"name":5}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			stdin := strings.Replace(test.stdin, "{", `{"socket":"`+w.socket+`","stateDir":"`+w.stateDir+`",`, 1)
			o := call{name: test.program, env: env("DEL", "CNI_NETNS", "BAGGAGE=k=v"), stdin: stdin}.run(t)
			o.wantOK(t, "")
			if o.took > 3*time.Second {
				t.Error("took", o.took)
			}
			entries := w.spooled(t)
			if len(entries) != 1 {
				t.Fatal(entries)
			}
			want := &wire.Request{
				Version: 1, Plugin: test.program, Command: "DEL", ContainerID: "c1", IfName: "eth0", Args: "IgnoreUnknown=1",
				Path: "/opt/cni/bin", Trace: map[string]string{"BAGGAGE": "k=v"}, Config: []byte(stdin),
			}
			if diff := cmp.Diff(want, entries[0].Request); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What cannot be decoded names no folder; the daemon's own are used then.
func TestDelReachesTheDaemonWhateverItsConfiguration(t *testing.T) {
	w := newWorld(t)
	w.serve(t, echo)
	for _, test := range []struct {
		name, stdin string
		carried     bool
	}{
		{"none", "", true},
		{"broken", "{\xff", true},
		{"huge", strings.Repeat("x", 5<<20), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := call{env: env("DEL", "META_CNI_SOCKET="+w.socket), stdin: test.stdin}.run(t)
			var got wire.Request
			if err := json.Unmarshal([]byte(o.stdout), &got); err != nil || o.code != 0 {
				t.Fatalf("exit %d: %v: %q", o.code, err, o.stdout)
			}
			if carried := string(got.Config) == test.stdin; carried != test.carried || got.ContainerID != "c1" {
				t.Errorf("carried %v, %+v", carried, got)
			}
		})
	}
}

// inMountNamespace runs the call after script, which may mount in "$1".
func inMountNamespace(t *testing.T, c call, script, dir string) outcome {
	t.Helper()
	cmd := c.cmd(t)
	path := cmd.Path
	cmd.Path = "/bin/sh"
	cmd.Args = []string{"sh", "-ec", "mount --make-rprivate /\n" + script + "\nexec \"$2\"", "sh", dir, path}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	return runCmd(t, cmd)
}

func TestDelThatCannotBeSpooledFails(t *testing.T) {
	for _, test := range []struct{ name, script, errno string }{
		{"disk full", `mount -t tmpfs -o size=16k tmpfs "$1"; mkdir -m 700 "$1/spool"; head -c 65536 /dev/zero >"$1/x" 2>/dev/null || true`, "no space left on device"},
		{"no inode left", `mount -t tmpfs -o nr_inodes=2 tmpfs "$1"; mkdir -m 700 "$1/spool"`, "no space left on device"},
		{"read-only", `mkdir -m 700 "$1/spool"; mount -t tmpfs -o ro tmpfs "$1"`, "read-only file system"},
		{"a file in its place", `echo >"$1/spool"`, "not a directory"},
		{"a link in its place", `mkdir "$1/e"; ln -s e "$1/spool"`, "must be a folder of uid 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if err := os.Mkdir(w.stateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			o := inMountNamespace(t, call{env: env("DEL"), stdin: w.conf(t, nil)}, test.script, w.stateDir)
			e := o.wantError(t, 11, "cannot be kept", filepath.Join(w.stateDir, "spool"), test.errno, "not running")
			if o.took > 4*time.Second {
				t.Error("took", o.took)
			}
			if !strings.Contains(e.Msg, test.errno) {
				t.Errorf("the message alone does not say why: %q", e.Msg)
			}
		})
	}
}

// The daemon's journal repeats the DEL of a delegate that called back.
func TestDelThatCalledBackIsNotSpooled(t *testing.T) {
	for _, name := range []string{wire.PluginIPAM, wire.PluginWhereabouts, wire.PluginRouted, wire.PluginVXLAN} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := call{name: name, env: env("DEL", "META_CNI_SOCKET="+w.socket), stdin: w.conf(t, nil)}.run(t)
			o.wantError(t, 11, "not running", w.socket)
			if entries := w.spooled(t); len(entries) > 0 {
				t.Error(entries)
			}
		})
	}
}

// quick is a call in this process with short budgets.
func quick(command, stdin string) plugin {
	e := env(command)
	return plugin{
		argv0:  "/opt/cni/bin/meta-cni",
		getenv: func(name string) string { return e[name] },
		stdin:  strings.NewReader(stdin),
		budgets: budgets{
			taken: 300 * time.Millisecond, takenDel: 200 * time.Millisecond,
			add: 600 * time.Millisecond, del: 500 * time.Millisecond, status: 200 * time.Millisecond,
		},
	}
}

func TestDaemonThatHangs(t *testing.T) {
	takes := func(t *testing.T, w world) {
		w.serve(t, func(ctx context.Context, _ *wire.Request, _ func(*wire.Reply) error) { <-ctx.Done() })
	}
	stopped := func(t *testing.T, w world) { // its socket connects, nobody accepts
		l, err := wire.Listen(w.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	for _, test := range []struct {
		name, command string
		daemon        func(*testing.T, world)
		code          uint // 0: spooled
		from          time.Duration
	}{
		{"taken ADD", "ADD", takes, 11, 600 * time.Millisecond},
		{"taken CHECK", "CHECK", takes, 11, 600 * time.Millisecond},
		{"taken STATUS", "STATUS", takes, 50, 200 * time.Millisecond},
		{"taken DEL", "DEL", takes, 0, 500 * time.Millisecond},
		{"ADD not taken", "ADD", stopped, 11, 300 * time.Millisecond},
		{"STATUS not taken", "STATUS", stopped, 50, 200 * time.Millisecond},
		{"DEL not taken", "DEL", stopped, 0, 200 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.daemon(t, w)
			begin := time.Now()
			out := quick(test.command, w.conf(t, nil)).run()
			if took := time.Since(begin); took < test.from || took > test.from+2*time.Second {
				t.Error("took", took)
			}
			if test.code == 0 {
				if out.code != 0 || len(out.text) > 0 || len(w.spooled(t)) != 1 {
					t.Errorf("exit %d, %s, %v", out.code, out.text, w.spooled(t))
				}
				return
			}
			wantError(t, string(out.text), out.code, test.code, "in time", w.socket)
		})
	}
}

func TestDaemonThatEndsMeanwhile(t *testing.T) {
	for _, command := range []string{"ADD", "DEL"} {
		t.Run(command, func(t *testing.T) {
			w := newWorld(t)
			l, err := wire.Listen(w.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = wire.ReadFrame(c, new(wire.Request))
				_, _ = c.Write(make([]byte, 4))
				_ = c.Close()
			}()
			out := quick(command, w.conf(t, nil)).run()
			if command == "DEL" {
				if out.code != 0 || len(w.spooled(t)) != 1 {
					t.Errorf("exit %d: %s", out.code, out.text)
				}
				return
			}
			wantError(t, string(out.text), out.code, 11, "ended before it answered")
		})
	}
}

func TestDefaultBudgetsFitTheRuntimes(t *testing.T) {
	b := defaultBudgets()
	if b.taken > 5*time.Second || b.takenDel > b.taken || b.del > 40*time.Second || b.add < 105*time.Second || b.add > 110*time.Second || b.status > 2*time.Second {
		t.Errorf("%+v", b)
	}
}

// The runtime gives up by killing the plugin; the daemon must hear of it.
func TestKilledPluginCancelsTheDaemonsWork(t *testing.T) {
	w := newWorld(t)
	begun, causes := make(chan struct{}), make(chan error, 1)
	w.serve(t, func(ctx context.Context, _ *wire.Request, reply func(*wire.Reply) error) {
		close(begun)
		<-ctx.Done()
		causes <- errors.Join(context.Cause(ctx), reply(&wire.Reply{}))
	})
	cmd := call{env: env("ADD"), stdin: w.conf(t, nil)}.cmd(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := <-causes; !errors.Is(err, wire.ErrPeerGone) {
		t.Error(err)
	}
}

func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	return cmd
}

func TestOtherUsersAreRefused(t *testing.T) {
	t.Run("by the socket's mode", func(t *testing.T) {
		w := newWorld(t)
		w.serve(t, echo)
		o := runCmd(t, asNobody(call{env: env("ADD"), stdin: w.conf(t, nil)}.cmd(t)))
		o.wantError(t, 11, "does not permit", w.socket, "uid 65534")
		if o.took > time.Second {
			t.Error("waited for what does not change:", o.took)
		}
	})
	t.Run("by the peer's credentials", func(t *testing.T) {
		w := newWorld(t)
		log := w.serve(t, func(context.Context, *wire.Request, func(*wire.Reply) error) { panic("served") })
		for path, mode := range map[string]os.FileMode{w.dir: 0o755, filepath.Dir(w.socket): 0o755, w.socket: 0o666} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		o := runCmd(t, asNobody(call{env: env("STATUS"), stdin: w.conf(t, nil)}.cmd(t)))
		o.wantError(t, 50, "uid 65534")
		if !strings.Contains(log.String(), "uid=65534") {
			t.Error("not in the log:", log)
		}
	})
	t.Run("DEL is an error then", func(t *testing.T) {
		w := newWorld(t)
		w.serve(t, echo)
		o := runCmd(t, asNobody(call{env: env("DEL"), stdin: w.conf(t, nil)}.cmd(t)))
		o.wantError(t, 11, "does not permit", "permission denied", "spool")
	})
}

func TestResultThatCannotBePrintedIsNone(t *testing.T) {
	if code := write(failingWriter{}, output{text: []byte("{}")}); code != 1 {
		t.Error(code)
	}
	if code := write(io.Discard, output{code: 1}); code != 1 {
		t.Error(code)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }
