//go:build failpoint

package confgen

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// crashChild is the process that is killed: one look at the folder.
func crashChild() {
	if err := New(Options{Dir: os.Getenv("CONFGEN_CRASH_DIR")}).Sync(); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

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

func crash(t *testing.T, dir, step string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CONFGEN_CRASH_DIR="+dir, failpoint.Env+"="+step)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("was to be killed at %s: %v %s", step, err, out)
	}
}

// TestKilledAtEachStep: killed anywhere, what is there is the old file, the
// new one or none; the next run makes it right and leaves nothing besides.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range hits(t) {
		for _, existing := range []bool{false, true} {
			n := newNode(t, nil)
			n.put("10-a.conf", confA)
			var before []byte
			if existing {
				must(t, n.gen.Sync())
				before, _ = os.ReadFile(n.path(ConfName))
				n.put("10-a.conf", confB)
			}
			n.put(tempPrefix+"old", "left by an earlier kill")
			crash(t, n.dir, step)
			data, err := os.ReadFile(n.path(ConfName))
			switch {
			case errors.Is(err, os.ErrNotExist) && !existing:
			case err != nil || !isOurs(data):
				t.Errorf("%s: %q %v", step, data, err)
			case existing && !bytes.Equal(data, before) && !bytes.Contains(data, []byte(`"mac"`)):
				t.Errorf("%s: neither old nor new: %s", step, data)
			}
			must(t, n.generator(nil).Sync())
			if data, _ := os.ReadFile(n.path(ConfName)); !isOurs(data) || bytes.Contains(data, []byte(`"mac"`)) != existing {
				t.Errorf("%s: after the restart: %s", step, data)
			}
			if entries, _ := os.ReadDir(n.dir); len(entries) != 2 {
				t.Errorf("%s: left %v", step, entries)
			}
		}
	}
}
