package confgen

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRepair(t *testing.T) {
	attacks := []struct {
		name string
		do   func(*node)
	}{
		{"removed", func(n *node) { n.remove(ConfName) }},
		{"renamed", func(n *node) { n.rename(ConfName, ConfName+".cilium_bak") }},
		{"truncated", func(n *node) { n.put(ConfName, "") }},
		{"half", func(n *node) { n.put(ConfName, `{"cniVersion"`) }},
		{"edited", func(n *node) { n.put(ConfName, strings.ReplaceAll(confA, "bridge", "meta-cni")) }},
		{"mode", func(n *node) { must(n.t, os.Chmod(n.path(ConfName), 0o644)) }},
		{"symlink", func(n *node) { must(n.t, os.Symlink("10-a.conf", n.path("x"))); n.rename("x", ConfName) }},
		{"pipe", func(n *node) { must(n.t, syscall.Mkfifo(n.path("x"), 0o600)); n.rename("x", ConfName) }},
		{"folder", func(n *node) { removeFolder(n.t, n.dir); n.put("10-a.conf", confA) }},
		{"folder-later", func(n *node) {
			removeFolder(n.t, n.dir)
			n.eventually("noticed", func() bool { return n.gen.Ready() != nil })
			n.put("10-a.conf", confA)
		}},
		{"folder-moved", func(n *node) {
			must(n.t, os.RemoveAll(n.dir+".old"))
			must(n.t, os.Rename(n.dir, n.dir+".old"))
			n.put("10-a.conf", confA)
		}},
		{"folder-empty", func(n *node) { removeFolder(n.t, n.dir); must(n.t, os.Mkdir(n.dir, 0o700)) }},
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			// Long intervals: file events alone must do it.
			n := newNode(t, func(o *Options) { o.RetryInterval = time.Minute })
			n.put("10-a.conf", confA)
			n.run().awaitPrimary("10-a.conf")
			want, err := os.ReadFile(n.path(ConfName))
			must(t, err)
			for range 2 {
				a.do(n)
				n.eventually("repaired", func() bool {
					info, err := os.Lstat(n.path(ConfName))
					if err != nil || info.Mode() != 0o600 {
						return false
					}
					got, err := os.ReadFile(n.path(ConfName))
					return err == nil && bytes.Equal(got, want)
				})
				n.eventually("ready", func() bool { return n.gen.Ready() == nil })
			}
		})
	}
}

// removeFolder tries again when the generator puts its file back in between.
func removeFolder(t testing.TB, dir string) {
	t.Helper()
	var err error
	for range 100 {
		if err = os.RemoveAll(dir); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFightBacksOff(t *testing.T) {
	n := newNode(t, nil)
	n.put("10-a.conf", confA)
	n.run().awaitPrimary("10-a.conf")
	for range fightLimit {
		n.rename(ConfName, ConfName+".cilium_bak")
		n.awaitPrimary("10-a.conf")
	}
	n.eventually("notice", func() bool { return len(n.told(ConfFight)) == 1 })
	if text := n.told(ConfFight)[0]; !strings.Contains(text, "cni.exclusive=false") || !strings.Contains(text, ConfName+".cilium_bak") {
		t.Errorf("notice: %s", text)
	}
	n.rename(ConfName, ConfName+".cilium_bak")
	start := time.Now()
	n.eventually("Ready says it", func() bool {
		err := n.gen.Ready()
		return err != nil && strings.Contains(err.Error(), "something else changes")
	})
	n.awaitPrimary("10-a.conf")
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("put back after %s already", took)
	}
	n.eventually("ready", func() bool { return n.gen.Ready() == nil })
}

func TestFightTimes(t *testing.T) {
	var f fights
	now := time.Now()
	var waits []time.Duration
	for range 9 {
		f.add(now)
		waits = append(waits, f.wait(now))
	}
	s := time.Second
	if want := []time.Duration{0, 0, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}; !slices.Equal(want, waits) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if f.add(now.Add(fightWindow + fightMax)); f.wait(now.Add(fightWindow+fightMax)) != 0 {
		t.Error("an old fight counts")
	}
}
