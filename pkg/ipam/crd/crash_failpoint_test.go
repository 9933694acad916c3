//go:build failpoint

package crd

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

const crashDir = "META_CNI_TEST_POOLS"

// TestWriteOnce is what the killed process does.
func TestWriteOnce(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return // it is a step of TestKilledAtEachStep
	}
	if _, err := openCopy(dir, slog.New(slog.DiscardHandler)).write(after(), nil); err != nil {
		t.Fatal(err)
	}
}

func after() snapshot {
	s := aSnapshot()
	s.Pools["b"] = v1alpha1.IPPoolSpec{Ranges: []v1alpha1.PoolRange{{Range: "198.51.100.0/24"}}}
	return s
}

// TestKilledAtEachStep: killed anywhere, the copy is the old or the new one,
// whole, and the next write leaves nothing besides.
func TestKilledAtEachStep(t *testing.T) {
	source, err := os.ReadFile("poolcopy.go")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`).FindAllStringSubmatch(string(source), -1)
	if len(steps) == 0 {
		t.Fatal("no failpoints found")
	}
	for _, step := range steps {
		t.Run(step[1], func(t *testing.T) {
			dir := t.TempDir()
			discard := slog.New(slog.DiscardHandler)
			if _, err := openCopy(dir, discard).write(aSnapshot(), nil); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0], "-test.run=^TestWriteOnce$")
			child.Env = append(os.Environ(), crashDir+"="+dir, failpoint.Env+"="+step[1])
			out, err := child.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("was to be killed: %v %s", err, out)
			}
			left := openCopy(dir, discard)
			if got := left.last(); !cmp.Equal(got, aSnapshot()) && !cmp.Equal(got, after()) {
				t.Errorf("neither old nor new: %+v", got)
			}
			if _, err := left.write(after(), nil); err != nil {
				t.Fatal(err)
			}
			if got := openCopy(dir, discard).last(); !cmp.Equal(got, after()) {
				t.Errorf("after the next write: %+v", got)
			}
			if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 {
				t.Errorf("left %q", files)
			}
		})
	}
}
