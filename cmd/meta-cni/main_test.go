package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// builtEnv names the folder of the programs that TestMain builds.
const builtEnv = "META_CNI_TEST_BUILT"

// TestMain is also the program that stands for meta-cnid in thin mode.
func TestMain(m *testing.M) {
	if how := os.Getenv("META_CNI_TEST_ONESHOT"); how != "" {
		os.Exit(fakeOneshot(how))
	}
	dir, err := os.MkdirTemp("", "meta-cni-built")
	if err == nil {
		err = errors.Join(build(dir), os.Setenv(builtEnv, dir))
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build makes meta-cni with its other names as links, and an empty main to
// compare with.
func build(dir string) error {
	empty := filepath.Join(dir, "empty.go")
	err := errors.Join(
		os.Chmod(dir, 0o755), // run by other users too
		os.WriteFile(empty, []byte("package main\nfunc main() {}\n"), 0o600),
	)
	for program, source := range map[string]string{"meta-cni": ".", "empty": empty} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, program), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, failed := cmd.CombinedOutput(); failed != nil {
			err = errors.Join(err, fmt.Errorf("go build %s: %w: %s", source, failed, out))
		}
	}
	for _, name := range []string{wire.PluginRouted, wire.PluginVXLAN, wire.PluginIPAM, wire.PluginWhereabouts, "other"} {
		err = errors.Join(err, os.Symlink("meta-cni", filepath.Join(dir, name)))
	}
	return err
}

func program(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(os.Getenv(builtEnv), name)
}

// world is a socket and a state folder of a test's own.
type world struct {
	dir, socket, stateDir string
}

func newWorld(t testing.TB) world {
	t.Helper()
	dir, err := os.MkdirTemp("", "meta-cni") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return world{dir: dir, socket: filepath.Join(dir, "run", "s"), stateDir: filepath.Join(dir, "state")}
}

// conf is a network configuration for this world with further keys.
func (w world) conf(t testing.TB, more map[string]any) string {
	t.Helper()
	all := map[string]any{"cniVersion": "1.1.0", "name": "meta-cni", "type": "meta-cni", "socket": w.socket, "stateDir": w.stateDir}
	for k, v := range more {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w world) spooled(t testing.TB) []wire.Entry {
	t.Helper()
	entries, err := wire.Spool{Dir: filepath.Join(w.stateDir, "spool")}.List()
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs a server until the test ends, and returns its log.
func (w world) serve(t testing.TB, handler wire.HandlerFunc) *lockedBuffer {
	t.Helper()
	l, err := wire.Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	log := new(lockedBuffer)
	s := &wire.Server{Handler: handler, Log: slog.New(slog.NewTextHandler(log, nil))}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	return log
}

// echo answers with the request as it came.
func echo(_ context.Context, req *wire.Request, reply func(*wire.Reply) error) {
	text, err := json.Marshal(req)
	if err != nil {
		panic(err)
	}
	_ = reply(&wire.Reply{Result: text})
}

// call is one run of the program.
type call struct {
	name  string // of the program; meta-cni when empty
	env   map[string]string
	stdin string
}

// env is what a runtime sets, with changes; an empty value unsets.
func env(command string, changes ...string) map[string]string {
	e := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/a",
		"CNI_IFNAME": "eth0", "CNI_ARGS": "IgnoreUnknown=1", "CNI_PATH": "/opt/cni/bin",
	}
	for _, change := range changes {
		k, v, _ := strings.Cut(change, "=")
		e[k] = v
	}
	return e
}

func (c call) cmd(t testing.TB) *exec.Cmd {
	t.Helper()
	name := c.name
	if name == "" {
		name = wire.PluginMeta
	}
	cmd := exec.Command(program(t, name))
	cmd.Stdin = strings.NewReader(c.stdin)
	for k, v := range c.env {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	return cmd
}

// outcome is what a run printed and how long it took.
type outcome struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

func (c call) run(t testing.TB) outcome {
	t.Helper()
	return runCmd(t, c.cmd(t))
}

func runCmd(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(begin)}
}

// wantError checks that o is one CNI error and nothing else, and returns it.
func (o outcome) wantError(t testing.TB, code uint, texts ...string) wire.Error {
	t.Helper()
	return wantError(t, o.stdout, o.code, code, texts...)
}

func wantError(t testing.TB, stdout string, exit int, code uint, texts ...string) wire.Error {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	var e wire.Error
	if err := d.Decode(&e); err != nil || d.More() {
		t.Fatalf("standard output is not one CNI error: %v: %q", err, stdout)
	}
	if exit != 1 || e.Code != code || e.CNIVersion == "" {
		t.Errorf("exit %d, %+v: want exit 1, code %d, a cniVersion", exit, e, code)
	}
	for _, text := range texts {
		if !strings.Contains(e.Msg+"\n"+e.Details, text) {
			t.Errorf("%q is not in %q, %q", text, e.Msg, e.Details)
		}
	}
	return e
}

func (o outcome) wantOK(t testing.TB, stdout string) {
	t.Helper()
	if o.code != 0 || o.stdout != stdout || o.stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q: want 0, %q, nothing", o.code, o.stdout, o.stderr, stdout)
	}
}
