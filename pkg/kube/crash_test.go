package kube

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// crashDir names the state folder to the process that is killed.
const crashDir = "META_CNI_TEST_STATE"

// TestKillWhileWriting kills a process at each step of writing and removing a
// copy: what is read afterwards is the old or the new definition, whole, and
// the next run clears up.
func TestKillWhileWriting(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "kube.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with failpoints: %v\n%s", err, out)
	}
	for _, name := range steps(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := newDefinitions(dir, discard())
			saveAll(t, d, definition{Namespace: "ns", Name: "a", Config: "1"}, definition{Namespace: "ns", Name: "b", Config: "1"})
			child := exec.Command(bin, "-test.run", "^TestWriteAndRemove$", "-test.v")
			child.Env = append(os.Environ(), crashDir+"="+dir, "META_CNI_FAILPOINT="+name)
			out, err := child.CombinedOutput()
			var ended *exec.ExitError
			if !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the step was not reached: %v\n%s", err, out)
			}
			if got, ok := d.load(ref("a")); !ok || got.Config != "1" && got.Config != "2" {
				t.Errorf("a = %+v, %v", got, ok)
			}
			if got, ok := d.load(ref("b")); ok && got.Config != "1" {
				t.Errorf("b = %+v", got)
			}
			writeAndRemove(t, d)
			if got := copies(t, dir); len(got) != 1 {
				t.Errorf("files = %q, want one", got)
			}
			if got, ok := d.load(ref("a")); !ok || got.Config != "2" {
				t.Errorf("a = %+v, %v", got, ok)
			}
		})
	}
}

// steps are the failpoints of this package, from the source.
func steps(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		for _, match := range regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`).FindAllStringSubmatch(read(t, path), -1) {
			names = append(names, match[1])
		}
	}
	if len(names) == 0 {
		t.Fatal("no failpoint in the source")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func saveAll(t *testing.T, d *definitions, all ...definition) {
	t.Helper()
	root, err := d.open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for _, one := range all {
		if _, err := save(root, one.ref().String(), one); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndRemove changes a and removes all others.
func writeAndRemove(t *testing.T, d *definitions) {
	t.Helper()
	saveAll(t, d, definition{Namespace: "ns", Name: "a", Config: "2"})
	root, err := d.open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if _, err := removeOthers(root, []string{attach.NetworkRef{Namespace: "ns", Name: "a"}.String()}); err != nil {
		t.Fatal(err)
	}
}

// TestWriteAndRemove is also the process that is killed.
func TestWriteAndRemove(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		dir = t.TempDir()
	}
	d := newDefinitions(dir, discard())
	saveAll(t, d, definition{Namespace: "ns", Name: "b", Config: "1"})
	writeAndRemove(t, d)
	if got := copies(t, dir); len(got) != 1 {
		t.Errorf("files = %q, want one", got)
	}
}
