package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.uber.org/goleak"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	delegateexec "github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/objects"
	"github.com/meta-cni/meta-cni/pkg/publish"
	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// memory is a delegate that only remembers what it holds.
type memory struct {
	mu     sync.Mutex
	held   map[string]bool
	broken atomic.Bool
	delay  time.Duration
}

func newMemory() *memory { return &memory{held: map[string]bool{}} }

func (m *memory) Add(ctx context.Context, call delegate.Call) (types.Result, error) {
	select {
	case <-time.After(m.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[call.ContainerID+"/"+call.IfName] = true
	return &types100.Result{CNIVersion: "1.0.0"}, nil
}

func (m *memory) Del(_ context.Context, call delegate.Call) error {
	if m.broken.Load() {
		return errors.New("broken")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, call.ContainerID+"/"+call.IfName)
	return nil
}

func (m *memory) Check(context.Context, delegate.Call) error  { return nil }
func (m *memory) Status(context.Context, delegate.Call) error { return nil }
func (m *memory) GC(context.Context, delegate.Call) error     { return nil }

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

// inside is a daemon in this process whose only network is a memory.
type inside struct {
	*Daemon
	dir    string
	memory *memory
	net    *testnet.Net
}

func newInside(t *testing.T, change func(*Options)) *inside {
	t.Helper()
	in := &inside{dir: t.TempDir(), memory: newMemory(), net: testnet.New(t)}
	cfg, err := config.ParseDaemon([]byte("mode: standalone\nworkers: 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	store, err := objects.Open(in.dir, log)
	if err != nil {
		t.Fatal(err)
	}
	cfg.StateDir = in.dir
	j, _, err := openJournal(cfg, "", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	opts := Options{
		Config: cfg, Definitions: store, Publisher: publish.New(publish.Options{Log: log}), Journal: j, Log: log,
		Primary: fixed{primary: attach.Primary{File: "10-memory.conf", Config: []byte(`{"cniVersion":"1.0.0","name":"m","type":"memory"}`)}},
		Runner: delegateexec.New(delegateexec.Options{
			CacheDir: filepath.Join(in.dir, "libcni"), Log: log, Socket: filepath.Join(in.dir, "run", "s.sock"),
			Builtins: map[string]delegate.Delegate{"memory": in.memory},
		}),
	}
	if change != nil {
		change(&opts)
	}
	in.Daemon = New(opts)
	return in
}

func (in *inside) request(command, id, netns string) *wire.Request {
	return &wire.Request{
		Version: wire.ProtocolVersion, Plugin: wire.PluginMeta, Command: command, ContainerID: id,
		Netns: netns, IfName: "eth0", Config: []byte(`{"cniVersion":"1.1.0","name":"meta-cni","type":"meta-cni"}`),
	}
}

func (in *inside) call(ctx context.Context, req *wire.Request) *wire.Error {
	var answer *wire.Reply
	in.Handle(ctx, req, func(r *wire.Reply) error {
		answer = r
		return nil
	})
	return answer.Error
}

// TestNobodyTookTheResult: an ADD whose reply can't be delivered is undone.
func TestNobodyTookTheResult(t *testing.T) {
	in := newInside(t, nil)
	in.Handle(t.Context(), in.request("ADD", "c1", in.net.Netns("pod")), func(*wire.Reply) error { return wire.ErrPeerGone })
	if in.memory.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("left: %d attachments, %d sets", in.memory.count(), len(in.opts.Journal.Sets()))
	}
}

// TestSweepFinishes: what an undo left is tried again until it is gone, and
// sandboxes of an earlier boot are removed only when the runtime had its time.
func TestSweepFinishes(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	if e := in.call(t.Context(), in.request("ADD", "c1", pod)); e != nil {
		t.Fatal(e)
	}
	in.memory.broken.Store(true)
	if e := in.call(t.Context(), in.request("DEL", "c1", pod)); e == nil {
		t.Fatal("a broken DEL succeeded")
	}
	newSweeper(in.Daemon).sweep(t.Context(), time.Now())
	if len(in.opts.Journal.Sets()) != 1 {
		t.Error("a failed DEL was forgotten")
	}
	in.memory.broken.Store(false)
	newSweeper(in.Daemon).sweep(t.Context(), time.Now())
	if in.memory.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("left: %d attachments, %d sets", in.memory.count(), len(in.opts.Journal.Sets()))
	}
}

func TestSweepOfAnEarlierBoot(t *testing.T) {
	in := newInside(t, nil)
	if e := in.call(t.Context(), in.request("ADD", "c1", in.net.Netns("pod"))); e != nil {
		t.Fatal(e)
	}
	set, _ := in.opts.Journal.Get(attach.Key{ContainerID: "c1", IfName: "eth0"})
	state := set.State()
	begin := state.Begin
	begin.BootID = "the boot before"
	if err := set.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.opts.Journal.Restore(journal.Damaged{Key: set.Key()}, begin, state.Attachments); err != nil {
		t.Fatal(err)
	}
	s, now := newSweeper(in.Daemon), time.Now()
	s.sweep(t.Context(), now)
	if in.memory.count() != 1 {
		t.Error("removed before the runtime had its time")
	}
	s.sweep(t.Context(), now.Add(staleAfter+time.Second))
	if in.memory.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("left: %d attachments, %d sets", in.memory.count(), len(in.opts.Journal.Sets()))
	}
}

// TestManyRequestsLeaveNothing: no goroutine outlives its request.
func TestManyRequestsLeaveNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	in := newInside(t, nil)
	pods := make([]string, 10)
	for i := range pods {
		pods[i] = in.net.Netns(fmt.Sprintf("pod%d", i))
	}
	var group sync.WaitGroup
	for i, pod := range pods {
		group.Go(func() {
			for range 10 {
				for _, command := range []string{"ADD", "ADD", "CHECK", "DEL", "DEL"} {
					if e := in.call(t.Context(), in.request(command, fmt.Sprintf("c%d", i), pod)); e != nil {
						t.Errorf("%s: %v", command, e)
					}
				}
			}
		})
	}
	group.Wait()
	if in.memory.count() != 0 || len(in.opts.Journal.Sets()) != 0 || len(in.order.keys) != 0 || len(in.running.walks) != 0 {
		t.Errorf("left: %d attachments, %d sets, %d turns, %d running", in.memory.count(), len(in.opts.Journal.Sets()), len(in.order.keys), len(in.running.walks))
	}
	goleak.VerifyNone(t, ignore)
}

// TestCallbacksDontWaitForWorkers: as many ADDs as there are workers, and
// more, whose delegate calls the daemon back for its addresses, all finish:
// the call back takes neither a worker nor the sandbox's turn.
func TestCallbacksDontWaitForWorkers(t *testing.T) {
	ipam := newMemory()
	ipam.delay = 20 * time.Millisecond
	in := newInside(t, func(o *Options) {
		o.Callbacks = map[string]delegate.Delegate{wire.PluginIPAM: ipam}
		o.Primary = fixed{primary: attach.Primary{Config: []byte(`{"cniVersion":"1.0.0","name":"n","type":"asks-back","ipam":{"type":"meta-ipam"}}`)}}
	})
	bin := buildPlugin(t)
	script := "#!/bin/sh\nexec " + filepath.Join(bin, "meta-ipam") + "\n"
	if err := os.WriteFile(filepath.Join(bin, "asks-back"), []byte(script), 0o755); err != nil { //nolint:gosec // a plugin is executable
		t.Fatal(err)
	}
	listener, err := wire.Listen(filepath.Join(in.dir, "run", "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &wire.Server{Handler: in.Daemon, Log: in.opts.Log}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	in.flood(t, ipam, bin)
	stop()
	if err := errors.Join(<-served, server.Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
}

// flood sends twelve ADDs at once to a daemon with two workers.
func (in *inside) flood(t *testing.T, ipam *memory, bin string) {
	t.Helper()
	const pods = 12
	var group sync.WaitGroup
	for i := range pods {
		pod := in.net.Netns(fmt.Sprintf("pod%d", i))
		group.Go(func() {
			req := in.request("ADD", fmt.Sprintf("c%d", i), pod)
			req.Path = bin
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if e := in.call(ctx, req); e != nil {
				t.Errorf("ADD %d: %v", i, e)
			}
		})
	}
	group.Wait()
	if ipam.count() != pods {
		t.Errorf("%d addresses are held, want %d", ipam.count(), pods)
	}
	stray := in.request("ADD", "nobody", "")
	stray.Plugin = wire.PluginIPAM
	if e := in.call(t.Context(), stray); e == nil || e.Code != wire.CodeUnknownContainer || !strings.Contains(e.Msg, "no request is running") {
		t.Errorf("a call back for a sandbox without a request: %v", e)
	}
}

// buildPlugin is a folder with the plugin under its name as an IPAM.
func buildPlugin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "meta-cni"), "github.com/meta-cni/meta-cni/cmd/meta-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink("meta-cni", filepath.Join(dir, "meta-ipam")); err != nil {
		t.Fatal(err)
	}
	return dir
}
