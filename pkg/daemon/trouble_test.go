package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	delegateexec "github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

func (in *inside) must(t *testing.T, req *wire.Request) {
	t.Helper()
	if e := in.call(t.Context(), req); e != nil {
		t.Fatalf("%s %s/%s: %v", req.Command, req.ContainerID, req.IfName, e)
	}
}

func (in *inside) on(command, id, netns, ifName string) *wire.Request {
	req := in.request(command, id, netns)
	req.IfName = ifName
	return req
}

func (in *inside) gc(valid string) *wire.Request {
	req := in.on("GC", "", "", "")
	req.Config = []byte(`{"cniVersion":"1.1.0","name":"meta-cni","type":"meta-cni","cni.dev/valid-attachments":` + valid + `}`)
	return req
}

func (in *inside) network(t *testing.T, name, conf string) {
	t.Helper()
	quoted, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	object := fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: %s, namespace: default}\nspec: {config: %s}\n", name, quoted)
	if err := os.WriteFile(filepath.Join(in.dir, name+".yaml"), []byte(object), 0o600); err != nil {
		t.Fatal(err)
	}
}

func eth0(id string) attach.Key { return attach.Key{ContainerID: id, IfName: "eth0"} }

// TestTwoInterfacesOfOneContainer: podman adds each interface by itself. The
// sets don't touch each other, and both can be unfinished at a start.
func TestTwoInterfacesOfOneContainer(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	in.must(t, in.on("ADD", "c1", pod, "eth0"))
	in.must(t, in.on("DEL", "c1", pod, "eth1"))
	if in.memory.count() != 1 {
		t.Fatal("the DEL of an interface that was never added took the other one")
	}
	in.must(t, in.on("ADD", "c1", pod, "eth1"))
	in.memory.broken.Store(true)
	for _, name := range []string{"eth0", "eth1"} {
		if e := in.call(t.Context(), in.on("DEL", "c1", pod, name)); e == nil {
			t.Fatal("a broken DEL succeeded")
		}
	}
	in.memory.broken.Store(false)
	next := New(in.opts)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	next.Recover(ctx, nil)(ctx)
	if ctx.Err() != nil || in.memory.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("left: %d attachments, %d sets (%v)", in.memory.count(), len(in.opts.Journal.Sets()), ctx.Err())
	}
}

// TestGCTouchesNothingElse: GC removes sets by the journal alone; a set that
// is younger than the runtime's list may be, and a further network of the
// primary's name, stay.
func TestGCTouchesNothingElse(t *testing.T) {
	young := newInside(t, func(o *Options) { o.Config.Mode = config.Kubernetes })
	young.must(t, young.request("ADD", "c1", young.net.Netns("pod")))
	young.must(t, young.gc(`[]`))
	if young.memory.count() != 1 || len(young.opts.Journal.Sets()) != 1 {
		t.Errorf("a young set was touched: %d attachments, %d sets", young.memory.count(), len(young.opts.Journal.Sets()))
	}

	in := newInside(t, nil)
	in.network(t, "second", `{"cniVersion":"1.0.0","name":"m","type":"memory"}`)
	req := in.request("ADD", "c1", in.net.Netns("pod"))
	req.Args = "META_CNI_NETWORKS=second"
	in.must(t, req)
	in.must(t, in.gc(`[{"containerID":"c1","ifname":"eth0"}]`))
	if in.memory.count() != 2 {
		t.Errorf("%d attachments of a valid sandbox are left, want 2", in.memory.count())
	}
	in.must(t, in.gc(`[]`))
	if in.memory.count() != 0 {
		t.Errorf("%d attachments of an invalid sandbox are left", in.memory.count())
	}
}

// TestSpooledDelAndLaterLife: a DEL is done whatever the wall clock says, and
// never to a sandbox that was begun after it was spooled.
func TestSpooledDelAndLaterLife(t *testing.T) {
	in := newInside(t, nil)
	spool := wire.Spool{Dir: filepath.Join(in.dir, "spool")}
	pod := in.net.Netns("pod")
	spooled := func() wire.Entry {
		t.Helper()
		if err := spool.Put(in.request("DEL", "c1", pod)); err != nil {
			t.Fatal(err)
		}
		entries, err := spool.List()
		if err != nil || len(entries) != 1 {
			t.Fatalf("%v, %v", entries, err)
		}
		return entries[0]
	}
	in.must(t, in.request("ADD", "c1", pod))
	entry := spooled()
	entry.Time = entry.Time.Add(-time.Hour)
	in.doSpooled(t.Context(), spool, entry)
	if in.memory.count() != 0 {
		t.Error("the DEL was dropped because the clock was set back")
	}

	in.must(t, in.request("ADD", "c1", pod))
	entry = spooled()
	// The next life's ADD is in the turn before the spooled DEL.
	leave, err := in.order.enter(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	added := make(chan *wire.Error, 1)
	other := in.net.Netns("other")
	go func() { added <- in.call(t.Context(), in.request("ADD", "c1", other)) }()
	eventuallyWaiting(t, in.order, "c1", 2)
	done := make(chan struct{})
	go func() {
		in.doSpooled(t.Context(), spool, entry)
		close(done)
	}()
	eventuallyWaiting(t, in.order, "c1", 3)
	leave()
	if e := <-added; e != nil {
		t.Fatal(e)
	}
	<-done
	if in.memory.count() != 1 || len(in.opts.Journal.Sets()) != 1 {
		t.Errorf("the new life was removed by the DEL of the old one")
	}
	if left, err := spool.List(); err != nil || len(left) != 0 {
		t.Errorf("in the spool: %v, %v", left, err)
	}
}

// eventuallyWaiting waits until so many have or want a key's turn.
func eventuallyWaiting(t *testing.T, o *order, key string, users int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		now := 0
		if turn := o.keys[key]; turn != nil {
			now = turn.users
		}
		o.mu.Unlock()
		if now >= users {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d have or want the turn, want %d", now, users)
		}
	}
}

// callsBack is a delegate whose address comes from the daemon.
type callsBack struct {
	*memory
	d     *Daemon
	hangs bool
}

func (c *callsBack) ask(ctx context.Context, command string, call delegate.Call) error {
	_, err := c.d.callback(ctx, &wire.Request{
		Plugin: wire.PluginIPAM, Command: command, ContainerID: call.ContainerID, IfName: call.IfName, Config: call.Conf,
	})
	return err
}

func (c *callsBack) Add(ctx context.Context, call delegate.Call) (types.Result, error) {
	if err := c.ask(ctx, "ADD", call); err != nil {
		return nil, err
	}
	if c.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return c.memory.Add(ctx, call)
}

func (c *callsBack) Del(ctx context.Context, call delegate.Call) error {
	return errors.Join(c.ask(ctx, "DEL", call), c.memory.Del(ctx, call))
}

// TestCallbackInUndoAndRecovery: the address comes back also when the ADD's
// own time is over, and when a restarted daemon finishes.
func TestCallbackInUndoAndRecovery(t *testing.T) {
	ipam, own := newMemory(), &callsBack{memory: newMemory()}
	in := newInside(t, func(o *Options) {
		o.Callbacks = map[string]delegate.Delegate{wire.PluginIPAM: ipam}
		o.Runner = delegateexec.New(delegateexec.Options{
			CacheDir: filepath.Join(o.Config.StateDir, "libcni"), Log: o.Log, Builtins: map[string]delegate.Delegate{"memory": own},
		})
	})
	own.d = in.Daemon
	own.hangs = true
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if e := in.call(ctx, in.request("ADD", "c1", in.net.Netns("pod"))); e == nil {
		t.Fatal("the ADD succeeded")
	}
	if ipam.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("after the undo: %d addresses, %d sets", ipam.count(), len(in.opts.Journal.Sets()))
	}
	own.hangs = false
	in.must(t, in.request("ADD", "c2", in.net.Netns("pod2")))
	set, _ := in.opts.Journal.Get(eth0("c2"))
	if err := set.Delete("the daemon ended here"); err != nil {
		t.Fatal(err)
	}
	in.Recover(t.Context(), nil)(t.Context())
	if ipam.count() != 0 || len(in.opts.Journal.Sets()) != 0 {
		t.Errorf("after the recovery: %d addresses, %d sets", ipam.count(), len(in.opts.Journal.Sets()))
	}
}

// TestRepeatedAddWithoutReader: it doesn't undo what an earlier ADD did.
func TestRepeatedAddWithoutReader(t *testing.T) {
	in := newInside(t, nil)
	req := in.request("ADD", "c1", in.net.Netns("pod"))
	in.must(t, req)
	in.Handle(t.Context(), req, func(*wire.Reply) error { return wire.ErrPeerGone })
	if in.memory.count() != 1 || len(in.opts.Journal.Sets()) != 1 {
		t.Errorf("%d attachments, %d sets, want 1 and 1", in.memory.count(), len(in.opts.Journal.Sets()))
	}
}

// TestLateAdd: in a cluster, an ADD after the DEL of the same sandbox is
// refused, also when that DEL came first.
func TestLateAdd(t *testing.T) {
	in := newInside(t, func(o *Options) { o.Config.Mode = config.Kubernetes })
	pod := in.net.Netns("pod")
	in.must(t, in.request("DEL", "c1", pod))
	if e := in.call(t.Context(), in.request("ADD", "c1", pod)); e == nil || e.Code != wire.CodeUnknownContainer {
		t.Errorf("late ADD: %v, want code 3", e)
	}
	in.must(t, in.request("DEL", "c2", ""))
	if e := in.call(t.Context(), in.request("ADD", "c2", pod)); e == nil || e.Code != wire.CodeUnknownContainer {
		t.Errorf("late ADD after a DEL without a namespace: %v, want code 3", e)
	}
}

// TestRecoveredSetIsNoResult: an ADD asked again after damage is done anew.
func TestRecoveredSetIsNoResult(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	in.must(t, in.request("ADD", "c1", pod))
	file := filepath.Join(in.dir, "attachments", "c1@eth0.journal")
	if err := os.WriteFile(file, []byte("damage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := in.opts.Journal.Close(); err != nil {
		t.Fatal(err)
	}
	// A daemon that is killed right after it has opened the journal leaves the
	// file for the next one.
	for range 2 {
		j, damaged, err := openJournal(in.opts.Config, "", slog.New(slog.DiscardHandler))
		if err != nil || len(damaged) != 1 {
			t.Fatalf("damaged: %v, %v", damaged, err)
		}
		in.opts.Journal = j
		in.Daemon = New(in.opts)
	}
	_, damaged, err := openJournal(in.opts.Config, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	in.Recover(t.Context(), damaged)(t.Context())
	set, ok := in.opts.Journal.Get(eth0("c1"))
	if !ok || !set.State().Recovered || in.memory.count() != 1 {
		t.Fatalf("recovered: %v, %d attachments", ok, in.memory.count())
	}
	in.must(t, in.request("ADD", "c1", pod))
	set, ok = in.opts.Journal.Get(eth0("c1"))
	if !ok || set.State().Recovered || in.memory.count() != 1 {
		t.Errorf("after the ADD: known %v, %d attachments", ok, in.memory.count())
	}
	in.must(t, in.request("DEL", "c1", pod))
	if in.memory.count() != 0 {
		t.Errorf("%d attachments are left", in.memory.count())
	}
}

// TestSandboxWithoutDel: a namespace that was seen alive and has been gone for
// long enough is proof; one that was never seen is none.
func TestSandboxWithoutDel(t *testing.T) {
	in := newInside(t, nil)
	seen, unseen := in.net.Host("seen"), in.net.Host("unseen")
	in.must(t, in.request("ADD", "seen", seen.Path()))
	in.must(t, in.request("ADD", "unseen", unseen.Path()))
	unseen.Remove()
	s, now := newSweeper(in.Daemon), time.Now()
	s.sweep(t.Context(), now)
	seen.Remove()
	s.sweep(t.Context(), now.Add(time.Minute))
	if in.memory.count() != 2 {
		t.Fatal("removed at the first look")
	}
	s.sweep(t.Context(), now.Add(time.Minute+goneAfter))
	if _, ok := in.opts.Journal.Get(eth0("seen")); ok || in.memory.count() != 1 {
		t.Errorf("the sandbox that was seen to go: known %v, %d attachments", ok, in.memory.count())
	}
	if _, ok := in.opts.Journal.Get(eth0("unseen")); !ok {
		t.Error("a sandbox was removed without proof")
	}
}

// TestSweepPauses: what fails is tried less and less often.
func TestSweepPauses(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	in.must(t, in.request("ADD", "c1", pod))
	in.memory.broken.Store(true)
	if e := in.call(t.Context(), in.request("DEL", "c1", pod)); e == nil {
		t.Fatal("a broken DEL succeeded")
	}
	set, _ := in.opts.Journal.Get(eth0("c1"))
	s, now := newSweeper(in.Daemon), time.Now()
	for second := range 601 {
		s.sweep(t.Context(), now.Add(time.Duration(second)*time.Second))
	}
	// 1 by the DEL, then after 0, 10, 30, 70, 150, 310 and 610 s.
	if got := set.State().Steps[0].Failures; got != 7 {
		t.Errorf("%d failures in ten minutes, want 7", got)
	}
	in.memory.broken.Store(false)
	s.sweep(t.Context(), now.Add(time.Hour))
	if in.memory.count() != 0 || len(s.pauses) != 0 {
		t.Errorf("left: %d attachments, %d pauses", in.memory.count(), len(s.pauses))
	}
}

func TestLaneIsShared(t *testing.T) {
	l := newLane("ADD", 4)
	broken := &attach.Plan{Delegates: []attach.Delegate{{Primary: true}, {Network: "broken"}, {Network: "broken"}}}
	for range 2 {
		if _, err := l.enter(t.Context(), broken); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.enter(ctx, broken); code(err) != wire.CodeTryAgainLater {
		t.Errorf("a third of the same network: %v, want code 11", err)
	}
	for range 2 {
		leave, err := l.enter(t.Context(), &attach.Plan{Delegates: []attach.Delegate{{Primary: true}}})
		if err != nil {
			t.Fatal("a pod without that network waits:", err)
		}
		defer leave()
	}
}

// TestLaneHoldsNothingWhileItWaits: pods that wait for a network that hangs
// don't use up the shares of another one that they want too.
func TestLaneHoldsNothingWhileItWaits(t *testing.T) {
	l := newLane("ADD", 8)
	with := func(names ...string) *attach.Plan {
		p := &attach.Plan{Delegates: []attach.Delegate{{Primary: true}}}
		for _, name := range names {
			p.Delegates = append(p.Delegates, attach.Delegate{Network: name})
		}
		return p
	}
	for range 4 {
		if _, err := l.enter(t.Context(), with("b")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 4)
	for range 4 {
		go func() {
			_, err := l.enter(ctx, with("a", "b"))
			waiting <- err
		}()
	}
	eventuallyWaiting(t, l.share, "b", 8)
	leave, err := l.enter(t.Context(), with("a"))
	if err != nil {
		t.Fatal(err)
	}
	leave()
	cancel()
	for range 4 {
		if err := <-waiting; code(err) != wire.CodeTryAgainLater {
			t.Errorf("%v, want code 11", err)
		}
	}
	if len(l.share.keys) != 1 {
		t.Errorf("%d networks have shares taken, want b alone", len(l.share.keys))
	}
}

// TestDelOfUnknownStaysOutside: a path that is another sandbox's by now is not
// shown to the primary.
func TestDelOfUnknownStaysOutside(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	in.must(t, in.request("ADD", "new", pod))
	r, err := in.parse(in.request("DEL", "old", pod))
	if err != nil {
		t.Fatal(err)
	}
	if path, _ := in.openable(r); path != "" {
		t.Errorf("the DEL of an old sandbox is sent into the namespace of a new one")
	}
	r.ContainerID = "new"
	if path, _ := in.openable(r); path != pod {
		t.Errorf("path %q, want the sandbox's own", path)
	}
	r.spooled = &wire.Entry{BootID: "another boot"}
	if path, _ := in.openable(r); path != "" {
		t.Errorf("a path of another boot is used")
	}
}

// TestSpooledDelOfRecoveredSet: when the set was begun isn't known, so that
// the DEL is done.
func TestSpooledDelOfRecoveredSet(t *testing.T) {
	in := newInside(t, nil)
	pod := in.net.Netns("pod")
	in.must(t, in.request("ADD", "c1", pod))
	set, _ := in.opts.Journal.Get(eth0("c1"))
	state := set.State()
	entry := &wire.Entry{BootID: "another boot", Uptime: 1}
	if !in.laterLife(entry, set) {
		t.Error("a DEL of another boot would be done to a sandbox of this one")
	}
	if err := set.Remove(); err != nil {
		t.Fatal(err)
	}
	restored, err := in.opts.Journal.Restore(journal.Damaged{Key: set.Key()}, journal.Begin{Plan: state.Plan}, state.Attachments)
	if err != nil {
		t.Fatal(err)
	}
	if in.laterLife(entry, restored) {
		t.Error("the DEL of a recovered set would be dropped")
	}
}

// TestThinFolderOfAKilledCall: the next call removes it, and only it.
func TestThinFolderOfAKilledCall(t *testing.T) {
	dir := t.TempDir()
	const noProcess = 1 << 30 // above the kernel's PID_MAX_LIMIT
	for _, name := range []string{fmt.Sprintf("thin-%d-1", noProcess), fmt.Sprintf("thin-%d-2", os.Getpid()), "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	own, err := thinFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		filepath.Join(dir, fmt.Sprintf("thin-%d-1", noProcess)):   false,
		filepath.Join(dir, fmt.Sprintf("thin-%d-2", os.Getpid())): true,
		filepath.Join(dir, "other"):                               true,
		own:                                                       true,
	} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", name, err == nil, want)
		}
	}
}

func TestProbeDoesNotWait(t *testing.T) {
	var p probe
	full := errors.New("full")
	if err := p.ask(func() error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	release := make(chan struct{})
	start := time.Now()
	if err := p.ask(func() error { <-release; return nil }); !errors.Is(err, full) {
		t.Errorf("a slow disk: %v, want the last answer", err)
	}
	if err := p.ask(func() error { t.Error("a second probe began"); return nil }); !errors.Is(err, full) {
		t.Errorf("beside a slow probe: %v, want the last answer", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s", took)
	}
	close(release)
}
