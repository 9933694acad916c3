//go:build failpoint

package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// hits lists the steps from the source, so that none can be forgotten.
func hits(t *testing.T) (names []string) {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	must(t, err)
	for _, path := range sources {
		data, err := os.ReadFile(path)
		must(t, err)
		for _, m := range regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`).FindAllSubmatch(data, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) == 0 {
		t.Fatal("no failpoints found")
	}
	return names
}

// history is what the killed processes said.
type history struct {
	ordered []string
	synced  int
}

// work runs the child until it is killed at the step, or to its end; killed
// says which.
func (h *history) work(t *testing.T, dir, step string) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WAL_CHILD_DIR="+dir, "WAL_CHILD_WORK=1", failpoint.Env+"="+step)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	for line := range strings.Lines(stdout.String()) {
		var n int
		if word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); word == "ordered" {
			h.ordered = append(h.ordered, rest)
		} else if _, err := fmt.Sscanf(line, "synced %d", &n); err == nil {
			h.synced = n
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%s: %v %s", step, err, stderr.String())
	}
	return false
}

// check opens the log and compares; there may be so many files then.
func (h *history) check(t *testing.T, dir, step string, most int) {
	t.Helper()
	l, r, err := Open(Options{Dir: dir, Reserve: 8192})
	if err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	must(t, l.Close())
	got := append(strings.Fields(string(r.Snapshot)), stateOf(r).Records...)
	if len(got) < h.synced || len(got) > len(h.ordered) {
		t.Fatalf("%s: %d records came back; %d were synced, %d ordered", step, len(got), h.synced, len(h.ordered))
	}
	for i, record := range got {
		if record != h.ordered[i] {
			t.Fatalf("%s: record %d is %q, not %q", step, i, record, h.ordered[i])
		}
	}
	h.ordered, h.synced = h.ordered[:len(got)], len(got)
	if names := files(t, dir); len(names) > most || slices.Contains(names, snapshotTemp) {
		t.Errorf("%s: left %v", step, names)
	}
}

// TestKilledAtEachStep: killed anywhere, the first time and later, what comes
// back is a prefix of what was ordered with all that was synced.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range hits(t) {
		kills := 0
		for _, nth := range []string{":1", ":2", ":3", ":17"} {
			var h history
			dir := t.TempDir()
			h.work(t, dir, "") // something is there
			if strings.HasPrefix(step, "wal.open.") {
				litter(t, dir)
			}
			if step == "wal.open.created" {
				h, dir = history{}, t.TempDir()
			}
			if h.work(t, dir, step+nth) {
				kills++
			}
			h.check(t, dir, step+nth, 4) // a segment may wait for the next snapshot
			h.work(t, dir, "")
			h.check(t, dir, step+nth, 3)
		}
		if kills == 0 {
			t.Errorf("nothing was killed at %s", step)
		}
	}
}

// litter is what earlier kills may have left: a torn write, a segment that was
// not begun, one that a snapshot stands for, half a snapshot.
func litter(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	must(t, err)
	last := names[len(names)-1]
	data, err := os.ReadFile(last)
	must(t, err)
	at := len(bytes.TrimRight(data, "\x00"))
	at = (at + unit - 1) / unit * unit
	first, _ := parseSegmentName(filepath.Base(last))
	c, err := parseFrames(data, first)
	must(t, err)
	torn := seal(appendRecord(make([]byte, headerSize), bytes.Repeat([]byte("t"), 900)), first+uint64(len(c.records)), 1, int64(at))
	copy(data[at:], torn[:600])
	must(t, os.WriteFile(last, data, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, segmentName(1<<40)), make([]byte, 9000), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, segmentName(1)), []byte("old"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, snapshotTemp), []byte("half"), 0o600))
}
