package confgen

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// runtimeWatcher reloads as containerd's watcher of the folder does: Create
// and Chmod are ignored, any other event makes it read the folder.
type runtimeWatcher struct {
	t     *testing.T
	dir   string
	inner *fsnotify.Watcher
	// markers counts the files that settle made to find the end of the events.
	markers int
}

func newRuntimeWatcher(t *testing.T, dir string) *runtimeWatcher {
	t.Helper()
	inner, err := fsnotify.NewWatcher()
	must(t, err)
	must(t, inner.Add(dir))
	t.Cleanup(func() { must(t, inner.Close()) })
	return &runtimeWatcher{t: t, dir: dir, inner: inner}
}

// settle handles the events up to a marker that the test makes itself, and
// returns what the runtime has loaded last.
func (w *runtimeWatcher) settle(loaded string) string {
	w.t.Helper()
	w.markers++
	marker := filepath.Join(w.dir, fmt.Sprintf("marker%d", w.markers))
	must(w.t, os.WriteFile(marker, nil, 0o600))
	for e := range w.inner.Events {
		if e.Name == marker {
			break
		}
		if e.Op == fsnotify.Create || e.Op == fsnotify.Chmod {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(w.dir, ConfName)); err == nil {
			loaded = string(data)
		} else {
			loaded = ""
		}
	}
	return loaded
}

func TestRuntimeLoadsEachWrite(t *testing.T) {
	n := newNode(t, nil)
	n.put("10-a.conf", confA)
	w := newRuntimeWatcher(t, n.dir)
	loaded := ""
	for i, content := range []string{confA, confB, confA} {
		must(t, os.WriteFile(n.path("10-a.conf"), []byte(content), 0o600))
		loaded = w.settle(loaded)
		must(t, n.gen.Sync())
		want, err := os.ReadFile(n.path(ConfName))
		must(t, err)
		if loaded = w.settle(loaded); loaded != string(want) {
			t.Errorf("write %d: the runtime has %q, the file is %q", i, loaded, want)
		}
	}
	n.remove(ConfName)
	loaded = w.settle(loaded)
	must(t, n.gen.Sync())
	if loaded = w.settle(loaded); loaded == "" {
		t.Error("the runtime didn't load the file that was put back")
	}
}

// The emulation itself must be able to see the fault: a file that is renamed
// in from another folder is not loaded (F35).
func TestRuntimeMissesRenameFromElsewhere(t *testing.T) {
	n := newNode(t, nil)
	w := newRuntimeWatcher(t, n.dir)
	other := filepath.Join(filepath.Dir(n.dir), "temp")
	must(t, os.WriteFile(other, []byte(confA), 0o600))
	must(t, os.Rename(other, n.path(ConfName)))
	if loaded := w.settle(""); loaded != "" {
		t.Errorf("loaded %q", loaded)
	}
}
