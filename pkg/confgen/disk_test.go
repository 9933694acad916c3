package confgen

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountSmall puts a tmpfs of 64 KiB on the node's folder until the test ends.
func mountSmall(t *testing.T, n *node) {
	t.Helper()
	if err := unix.Mount("confgen-test", n.dir, "tmpfs", 0, "size=64k"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to mount a tmpfs (CAP_SYS_ADMIN)")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(n.dir, unix.MNT_DETACH)) })
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
}

func TestDiskFull(t *testing.T) {
	n := newNode(t, nil)
	mountSmall(t, n)
	n.put("10-a.conf", confA)
	n.put("20-b.conf", confB)
	n.run().awaitPrimary("10-a.conf")
	before, err := os.ReadFile(n.path(ConfName))
	must(t, err)

	fill(t, n.path("filler"))
	n.remove("10-a.conf")
	fill(t, n.path("filler2"))
	n.eventually("notice", func() bool { return len(n.told(ConfWriteFailed)) > 0 })
	if text := n.told(ConfWriteFailed)[0]; !strings.Contains(text, "no space left") || !strings.Contains(text, n.path(ConfName)) {
		t.Errorf("notice: %s", text)
	}
	if after, err := os.ReadFile(n.path(ConfName)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the old file isn't whole: %q %v", after, err)
	}
	if temps, _ := filepath.Glob(n.path(tempPrefix + "*")); len(temps) != 0 {
		t.Errorf("left %v", temps)
	}
	if err := n.gen.Ready(); err != nil {
		t.Errorf("the old file does as well: %v", err)
	}
	n.remove("filler")
	n.awaitPrimary("20-b.conf")
}

func TestReadOnly(t *testing.T) {
	n := newNode(t, nil)
	mountSmall(t, n)
	n.put("10-a.conf", confA)
	must(t, unix.Mount("", n.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64k"))
	n.run()
	n.eventually("Ready says it", func() bool {
		err := n.gen.Ready()
		return err != nil && strings.Contains(err.Error(), "read-only file system") && strings.Contains(err.Error(), n.path(ConfName))
	})
	must(t, unix.Mount("", n.dir, "", unix.MS_REMOUNT, "size=64k"))
	n.awaitPrimary("10-a.conf")
	n.eventually("ready", func() bool { return n.gen.Ready() == nil })
	if got := n.told(ConfWriteFailed); len(got) != 1 {
		t.Errorf("told %d times: %v", len(got), got)
	}
}
