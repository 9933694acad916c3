package confgen

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long events are collected before a look, so that a slow writer
// doesn't cause one a write.
const quiet = 5 * time.Millisecond

// watch tells when something in the configuration folder may have changed. It
// survives that the folder is removed, renamed or made again, because it
// watches the parent too and compares what is watched with what is there.
// Without inotify (limit reached) it never tells, and polling has to do.
type watch struct {
	dir   string
	log   *slog.Logger
	inner *fsnotify.Watcher
	seen  map[string]os.FileInfo
	told  string
}

func newWatch(dir string, log *slog.Logger) *watch {
	w := &watch{dir: dir, log: log, seen: map[string]os.FileInfo{}}
	inner, err := fsnotify.NewWatcher()
	if err != nil {
		w.complain("file events are not available; looking every second instead; hint: raise fs.inotify.max_user_instances", err)
		return w
	}
	w.inner = inner
	return w
}

func (w *watch) close() {
	if w.inner != nil {
		_ = w.inner.Close() // closing reports nothing that could be acted on
	}
}

// ensure watches the folder, its parent and, if it exists, the sub-folder; it
// reports whether all that is needed is watched.
func (w *watch) ensure(sub string) bool {
	if w.inner == nil {
		return false
	}
	complete := w.add(filepath.Dir(w.dir))
	complete = w.add(w.dir) && complete
	for path := range w.seen {
		if path != sub && path != w.dir && path != filepath.Dir(w.dir) {
			w.drop(path)
		}
	}
	if info, err := os.Stat(sub); sub != "" && err == nil && info.IsDir() {
		complete = w.add(sub) && complete
	}
	return complete
}

func (w *watch) add(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		w.drop(path)
		return false
	}
	old, ok := w.seen[path]
	if ok && os.SameFile(old, info) && slices.Contains(w.inner.WatchList(), path) {
		return true
	}
	w.drop(path)
	if err := w.inner.Add(path); err != nil {
		w.complain("a folder can't be watched; looking every second instead", err)
		return false
	}
	w.seen[path] = info
	return true
}

func (w *watch) drop(path string) {
	delete(w.seen, path)
	_ = w.inner.Remove(path) // not watched any more is what is wanted
}

func (w *watch) complain(text string, err error) {
	if w.told != err.Error() {
		w.told = err.Error()
		w.log.Warn(text, "dir", w.dir, "error", err)
	}
}

// next waits for a change, at most as long as given or until the context ends.
func (w *watch) next(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if w.inner != nil {
		events, errs = w.inner.Events, w.inner.Errors
	}
	hurried := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case e := <-events:
			if !w.concerns(e) || hurried {
				continue
			}
		case err := <-errs: // such as an overflow of the kernel's queue
			w.complain("file events may have been lost", err)
		}
		if !hurried {
			hurried = true
			timer.Reset(quiet)
		}
	}
}

// concerns leaves out our own temporary files and the parent's other entries.
func (w *watch) concerns(e fsnotify.Event) bool {
	if e.Name == w.dir {
		if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) || e.Has(fsnotify.Create) {
			w.drop(w.dir)
		}
		return true
	}
	if filepath.Dir(e.Name) == filepath.Dir(w.dir) {
		return false
	}
	return !strings.HasPrefix(filepath.Base(e.Name), tempPrefix)
}
