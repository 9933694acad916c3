package confgen

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	confA = `{"cniVersion": "1.0.0", "name": "a", "type": "bridge", "capabilities": {"ips": true}}`
	confB = `{"cniVersion": "1.0.0", "name": "b", "type": "ptp", "capabilities": {"mac": true}}`
)

func chtimes(path string, to time.Time) error { return os.Chtimes(path, to, to) }

// node is a configuration folder with a generator that runs.
type node struct {
	t   testing.TB
	dir string
	gen *Generator

	mu      sync.Mutex
	notices []Notice
	log     bytes.Buffer
}

func newNode(t testing.TB, change func(*Options)) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "net.d")}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n.gen = n.generator(change)
	return n
}

// generator makes another one on the same folder, as a restart does.
func (n *node) generator(change func(*Options)) *Generator {
	o := Options{
		Dir: n.dir, Log: slog.New(slog.NewTextHandler(n, nil)), Notify: n.notify,
		RetryInterval: 50 * time.Millisecond, SlowInterval: time.Minute, Grace: time.Hour, Settle: time.Hour,
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

func (n *node) notify(x Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notices = append(n.notices, x)
}

func (n *node) told(reason string) (messages []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range n.notices {
		if x.Reason == reason {
			messages = append(messages, x.Message)
		}
	}
	return messages
}

func (n *node) run() *node {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.gen.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
		if n.t.Failed() {
			n.t.Logf("log:\n%s", n.log.String())
		}
	})
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) put(name, content string) { n.t.Helper(); put(n.t, n.path(name), content) }

func (n *node) remove(name string) {
	n.t.Helper()
	if err := os.Remove(n.path(name)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) rename(from, to string) {
	n.t.Helper()
	if err := os.Rename(n.path(from), n.path(to)); err != nil {
		n.t.Fatal(err)
	}
}

// eventually waits for a state of the folder that only Run brings about.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			conf, err := os.ReadFile(n.path(ConfName))
			n.t.Fatalf("never: %s; %s is %q (%v), ready: %v", what, ConfName, conf, err, n.gen.Ready())
		}
		time.Sleep(time.Millisecond)
	}
}

// inPlace tells whether our file is what the named primary makes it.
func (n *node) inPlace(primary string) bool {
	data, err := os.ReadFile(n.path(ConfName))
	return err == nil && bytes.Contains(data, []byte(`"primary": "`+primary+`"`)) && isWhole(n.path(ConfName))
}

func (n *node) awaitPrimary(primary string) {
	n.t.Helper()
	n.eventually("primary "+primary, func() bool { return n.inPlace(primary) })
	n.eventually("Primary() is "+primary, func() bool {
		got, err := n.gen.Primary()
		return err == nil && got.File == n.path(primary)
	})
}

func TestSync(t *testing.T) {
	n := newNode(t, nil)
	if err := n.gen.Ready(); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("before the first look: %v", err)
	}
	if err := n.gen.Sync(); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("empty folder: %v", err)
	}
	if entries, _ := os.ReadDir(n.dir); len(entries) != 0 {
		t.Errorf("wrote %v without a primary", entries)
	}
	n.put("10-a.conf", confA)
	if err := n.gen.Sync(); err != nil || !n.inPlace("10-a.conf") {
		t.Errorf("with a primary: %v", err)
	}
	got, err := n.gen.Primary()
	if err != nil || string(got.Config) != confA || got.File != n.path("10-a.conf") {
		t.Errorf("Primary: %v %v", got, err)
	}
	info, err := os.Stat(n.path(ConfName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v %v", info.Mode(), err)
	}
	if err := n.gen.Sync(); err != nil {
		t.Error(err)
	}
	if again, _ := os.Stat(n.path(ConfName)); !os.SameFile(info, again) || !again.ModTime().Equal(info.ModTime()) {
		t.Error("written again although nothing changed")
	}
}

func TestRestart(t *testing.T) {
	n := newNode(t, nil)
	n.put("20-a.conf", confA)
	if err := n.gen.Sync(); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(n.path(ConfName))
	n.put(tempPrefix+"123", `{"half`)
	n.put("10-junk.conf", `{"half`)
	again := n.generator(nil)
	if err := again.Sync(); err != nil {
		t.Errorf("a broken file that the run before had passed over too: %v", err)
	}
	if after, _ := os.Stat(n.path(ConfName)); !os.SameFile(before, after) {
		t.Error("written again although nothing changed")
	}
	if _, err := os.Stat(n.path(tempPrefix + "123")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftover temporary file: %v", err)
	}
	if p := again.own.fights; len(p.recent) != 0 {
		t.Errorf("a restart counts as a fight: %v", p)
	}
}

func TestFirstChoiceWaitsForHalfWritten(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Settle = 300 * time.Millisecond })
	n.put("10-a.conf", confA[:30])
	n.put("20-b.conf", confB)
	if err := n.gen.Sync(); err == nil || !strings.Contains(err.Error(), "10-a.conf: not a whole JSON object") {
		t.Errorf("half-written first file: %v", err)
	}
	n.run().awaitPrimary("20-b.conf")
	n.put("10-a.conf", confA)
	n.awaitPrimary("10-a.conf")
}

func TestPrimaryChanges(t *testing.T) {
	n := newNode(t, nil)
	n.put("20-a.conf", confA)
	n.run().awaitPrimary("20-a.conf")

	n.put("20-a.conf", confB) // in place, other capabilities
	n.eventually("mac instead of ips", func() bool {
		data, _ := os.ReadFile(n.path(ConfName))
		return bytes.Contains(data, []byte(`"mac"`)) && !bytes.Contains(data, []byte(`"ips"`))
	})
	n.put("10-a.conf", confA[:40]) // a better one arrives, half
	n.put("10-a.conf", confA)
	n.awaitPrimary("10-a.conf")
	n.rename("10-a.conf", "30-a.conf") // the next is taken at once, as runtimes do
	n.awaitPrimary("20-a.conf")
	n.remove("20-a.conf")
	n.awaitPrimary("30-a.conf")
	n.put("00-multus.conf", `{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim"}`)
	n.put("00-a.conf", confA) // sorts before ours
	n.awaitPrimary("00-a.conf")
	n.eventually("notice of the shadow", func() bool { return len(n.told(ConfShadowed)) == 1 })
	if err := n.gen.Ready(); err != nil {
		t.Error(err)
	}
}

func TestHalfWrittenPrimaryIsNotAccepted(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Grace = 200 * time.Millisecond })
	n.put("10-a.conf", confA)
	n.run().awaitPrimary("10-a.conf")
	before, _ := os.ReadFile(n.path(ConfName))
	n.put("10-a.conf", confB[:30])
	n.eventually("notice", func() bool { return len(n.told(PrimaryBroken)) == 1 })
	n.gen.look(time.Now().Add(time.Hour)) // far beyond the grace time: nothing may change
	got, err := n.gen.Primary()
	if err != nil || string(got.Config) != confA || n.gen.Ready() != nil {
		t.Errorf("last good isn't in use: %s %v, ready %v", got.Config, err, n.gen.Ready())
	}
	if after, _ := os.ReadFile(n.path(ConfName)); !bytes.Equal(before, after) {
		t.Errorf("our file changed to %s", after)
	}
	n.put("10-a.conf", confB)
	n.eventually("the whole one", func() bool {
		got, err := n.gen.Primary()
		return err == nil && string(got.Config) == confB
	})
}

func TestBrokenPrimaryGivesWayAfterGrace(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Grace = 200 * time.Millisecond })
	n.put("10-a.conf", confA)
	n.put("20-b.conf", confB)
	n.run().awaitPrimary("10-a.conf")
	start := time.Now()
	n.put("10-a.conf", "")
	n.awaitPrimary("20-b.conf")
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("another network was taken after %s already", took)
	}
}

func TestPrimaryGone(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Grace = 200 * time.Millisecond })
	n.put("10-a.conf", confA)
	n.run().awaitPrimary("10-a.conf")
	n.remove("10-a.conf")
	n.eventually("not ready", func() bool { return errors.Is(n.gen.Ready(), ErrNoPrimary) })
	n.eventually("notice", func() bool { return len(n.told(PrimaryGone)) == 1 })
	if !n.inPlace("10-a.conf") {
		t.Error("our file is gone too")
	}
	if got, err := n.gen.Primary(); err != nil || string(got.Config) != confA {
		t.Errorf("last good: %v %v", got, err)
	}
	n.put("10-a.conf", confA)
	n.eventually("ready", func() bool { return n.gen.Ready() == nil })
}

func TestPinned(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Pin = Pin{Network: "b"} })
	n.put("10-a.conf", confA)
	n.run().eventually("error names the pin", func() bool { return strings.Contains(n.gen.Ready().Error(), "network b") })
	n.put("20-b.conf", confB)
	n.awaitPrimary("20-b.conf")
	n.rename("20-b.conf", "05-b.conf")
	n.awaitPrimary("05-b.conf")
}

func TestNothingIsRemovedOnExit(t *testing.T) {
	n := newNode(t, nil)
	n.put("10-a.conf", confA)
	ctx, cancel := context.WithCancel(context.Background())
	must(t, n.gen.Sync())
	cancel()
	must(t, n.gen.Run(ctx))
	if !n.inPlace("10-a.conf") {
		t.Error("gone")
	}
}

func TestNeverBlocksOnAPipe(t *testing.T) {
	n := newNode(t, nil)
	must(t, syscall.Mkfifo(n.path("05-pipe.conf"), 0o600))
	must(t, os.Mkdir(n.path("06-dir.conf"), 0o700))
	must(t, os.Symlink("nowhere", n.path("07-dangling.conf")))
	n.put("08-huge.conf", strings.Repeat(" ", maxFile+1))
	n.put("10-a.conf", confA)
	c, err := Choose(mustRead(t, n.dir), Pin{})
	if err != nil || c.File != "10-a.conf" || len(c.Passed) != 2 {
		t.Errorf("%+v %v", c, err)
	}
}

func mustRead(t testing.TB, dir string) []File {
	t.Helper()
	files, err := readDir(dir)
	must(t, err)
	return files
}
