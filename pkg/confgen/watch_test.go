package confgen

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestChainedPluginsAreWatched(t *testing.T) {
	n := newNode(t, nil)
	n.put("10-k.conflist", `{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "ptp"}]}`)
	n.run().awaitPrimary("10-k.conflist")
	uses := func(plugin string) func() bool {
		return func() bool {
			got, err := n.gen.Primary()
			return err == nil && strings.Contains(string(got.Config), plugin)
		}
	}
	n.put("k/10-a.conf", `{"type": "tuning"}`)
	n.eventually("new sub-folder", uses("tuning"))
	n.put("k/10-a.conf", `{"type": "sbr"}`)
	n.eventually("changed plugin", uses("sbr"))
	must(t, os.RemoveAll(n.path("k")))
	n.put("k/10-a.conf", `{"type": "vrf"}`)
	n.eventually("sub-folder made again", uses("vrf"))
	n.put("k/20-b.conf", `{"type": "firewall"`)
	n.eventually("notice of the half-written one", func() bool { return len(n.told(PrimaryBroken)) == 1 })
	n.gen.look(time.Now())
	if !uses("vrf")() || uses("firewall")() {
		t.Error("a half-written plugin was taken")
	}
}

// After a restart nothing is written, so that no event of our own makes the
// generator look again and watch the sub-folder.
func TestChainedPluginsAreWatchedAfterRestart(t *testing.T) {
	n := newNode(t, func(o *Options) { o.RetryInterval = time.Minute })
	n.put("10-k.conflist", `{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "ptp"}]}`)
	n.put("k/10-a.conf", `{"type": "tuning"}`)
	must(t, n.generator(nil).Sync())
	n.run().awaitPrimary("10-k.conflist")
	n.eventually("the sub-folder is watched", func() bool { return watchedByKernel(t, n.path("k")) })
	n.put("k/10-a.conf", `{"type": "sbr"}`)
	n.eventually("changed plugin", func() bool {
		got, err := n.gen.Primary()
		return err == nil && strings.Contains(string(got.Config), "sbr")
	})
}

// watchedByKernel tells whether some inotify descriptor of this process watches
// a folder (proc_pid_fdinfo(5)).
func watchedByKernel(t *testing.T, dir string) bool {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(dir, &st))
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	must(t, err)
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err == nil && strings.Contains(string(text), fmt.Sprintf(" ino:%x ", st.Ino)) {
			return true // a descriptor that was closed meanwhile can't be read
		}
	}
	return false
}

// Without inotify the interval alone drives the looks.
func TestWithoutFileEvents(t *testing.T) {
	w := &watch{dir: t.TempDir(), log: slog.New(slog.DiscardHandler), seen: map[string]os.FileInfo{}}
	defer w.close()
	if w.ensure("") {
		t.Error("says that all is watched")
	}
	start := time.Now()
	w.next(context.Background(), 20*time.Millisecond)
	if took := time.Since(start); took < 20*time.Millisecond {
		t.Errorf("waited %s", took)
	}
}

func TestFolderAppearsLater(t *testing.T) {
	n := newNode(t, nil)
	must(t, os.Remove(n.dir))
	must(t, os.Remove(filepath.Dir(n.dir)))
	n.run().eventually("not ready", func() bool { return strings.Contains(n.gen.Ready().Error(), "no such file") })
	n.put("10-a.conf", confA)
	n.awaitPrimary("10-a.conf")
}

// TestLatency: a change is in use well before the next poll.
func TestLatency(t *testing.T) {
	n := newNode(t, func(o *Options) { o.RetryInterval, o.SlowInterval = time.Minute, time.Minute })
	n.put("10-a.conf", confA)
	n.run().awaitPrimary("10-a.conf")
	start := time.Now()
	n.put("10-a.conf", confB)
	n.eventually("changed", func() bool {
		got, err := n.gen.Primary()
		return err == nil && string(got.Config) == confB
	})
	took := time.Since(start)
	t.Logf("a changed primary was in use after %s", took)
	if took > 5*time.Second {
		t.Errorf("after %s only", took)
	}
}
