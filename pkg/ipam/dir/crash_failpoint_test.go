//go:build failpoint

package dir

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/ipam"
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

// killedAt runs every kind of write until the step, and returns what was said.
func killedAt(t *testing.T, dir, step string) (said string, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childWork+"=each", failpoint.Env+"="+step)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return stdout.String(), true
	}
	if err != nil {
		t.Fatalf("%s: %v %s", step, err, stderr.String())
	}
	return stdout.String(), false
}

// TestKilledAtEachStep: what was answered holds, what wasn't is there or not,
// whole; nothing is left over, and the next process does all the rest.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range hits(t) {
		kills := 0
		for _, nth := range []string{":1", ":2", ":3"} {
			dir := t.TempDir()
			said, killed := killedAt(t, dir, step+nth)
			if killed {
				kills++
			}
			s := open(t, dir)
			if left := leftovers(t, dir); len(left) > 0 {
				t.Errorf("%s: left %v", step+nth, left)
			}
			b, err := s.GetBlock(t.Context(), blockRef(1))
			last := said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]
			whole := err == nil && (b.Mode == ipam.Leased && b.Owner.Name == "n1" || b.Mode == ipam.Shared && b.Owner.Name == "")
			switch {
			case err != nil && !errors.Is(err, ipam.ErrNotFound), err == nil && !whole:
				t.Errorf("%s: %+v %v", step+nth, b, err)
			case last == "created\n" && err != nil, last == "updated\n" && b.Mode != ipam.Shared, last == "asked\n" && b.Mode != ipam.Shared:
				t.Errorf("%s: said %q, but %+v %v", step+nth, last, b, err)
			case last == "deleted\n" && err == nil:
				t.Errorf("%s: said %q, but %+v", step+nth, last, b)
			}
			if said, killed = killedAt(t, dir, ""); killed || !strings.HasSuffix(said, "deleted\n") {
				t.Errorf("%s: the next process: %q", step+nth, said)
			}
		}
		if kills == 0 {
			t.Errorf("nothing was killed at %s", step)
		}
	}
}
