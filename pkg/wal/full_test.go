package wal

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onSmallDisk runs the test in a process with mounts of its own, where a folder
// is a file system with one MiB.
func onSmallDisk(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	if dir := os.Getenv("WAL_SMALL_DISK"); dir != "" {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
		test(t, filepath.Join(dir, "log"))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "WAL_SMALL_DISK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
}

// fill takes all room of the disk and returns what gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(filepath.Dir(dir), "filler")
	file, err := os.Create(path)
	must(t, err)
	for {
		if _, err := file.Write(make([]byte, 4096)); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	must(t, file.Close())
	return func() { must(t, os.Remove(path)) }
}

// until appends until the log says that it is full.
func until(t *testing.T, add func([]byte) (*Ticket, error), all *[]string) int {
	t.Helper()
	for n := 0; ; n++ {
		record := strings.Repeat("r", 300)
		ticket, err := add([]byte(record))
		if errors.Is(err, ErrFull) {
			if !strings.Contains(err.Error(), "free space") {
				t.Errorf("no remedy: %v", err)
			}
			return n
		}
		must(t, err)
		*all = append(*all, record)
		must(t, ticket.Wait())
	}
}

func TestFullDisk(t *testing.T) {
	onSmallDisk(t, func(t *testing.T, dir string) {
		o := Options{Dir: dir, Reserve: 128 << 10}
		var all []string
		l, _ := open(t, o)
		empty := fill(t, dir)
		until(t, l.Append, &all)
		if err := l.Compact([]byte("snap")); !errors.Is(err, ErrFull) {
			t.Errorf("Compact: %v", err)
		}
		// After a restart, too, the reserve is there.
		for range 2 {
			if n := until(t, l.Append, &all); n != 0 {
				t.Errorf("%d records fitted into the full log", n)
			}
			ticket, err := l.AppendReserved([]byte("release"))
			must(t, err)
			must(t, ticket.Wait())
			all = append(all, "release")
			must(t, l.Close())
			l, _ = open(t, o)
		}
		if n := until(t, l.AppendReserved, &all); n < 128<<10/400 {
			t.Errorf("%d records fitted into the reserve", n)
		}
		if l.Broken() != nil || l.Compacting() {
			t.Errorf("broken %v, compacting %v", l.Broken(), l.Compacting())
		}
		must(t, l.Close())
		if diff := cmp.Diff(state{Records: all}, reopen(t, o)); diff != "" {
			t.Errorf("on the full disk: %s", diff)
		}
		l, _ = open(t, o)
		empty()
		put(t, l, "room again")
		compact(t, l, "snap")
		must(t, l.Close())
		if diff := cmp.Diff(state{Snapshot: "snap"}, reopen(t, o)); diff != "" {
			t.Errorf("with room: %s", diff)
		}
	})
}

// TestNoRoomForSnapshot: it is given up; all records stay, and a later one
// stands for them.
func TestNoRoomForSnapshot(t *testing.T) {
	onSmallDisk(t, func(t *testing.T, dir string) {
		o := Options{Dir: dir, Reserve: 4096}
		l, _ := open(t, o)
		put(t, l, "a")
		compact(t, l, "small")
		put(t, l, "b")
		size := l.Size()
		compact(t, l, strings.Repeat("large", 1<<20))
		if l.Size() != size || l.Compacting() || l.Broken() != nil {
			t.Errorf("size %d, compacting %v, broken %v", l.Size(), l.Compacting(), l.Broken())
		}
		put(t, l, "c")
		want := state{Snapshot: "small", Records: []string{"b", "c"}}
		must(t, l.Close())
		if diff := cmp.Diff(want, reopen(t, o)); diff != "" {
			t.Error(diff)
		}
		l, _ = open(t, o)
		compact(t, l, "small again")
		must(t, l.Close())
		if diff := cmp.Diff([]string{"0000000000000004.log", "lock", "snapshot"}, files(t, dir)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNoRoomToBegin(t *testing.T) {
	onSmallDisk(t, func(t *testing.T, dir string) {
		empty := fill(t, dir)
		if _, _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrFull) {
			t.Errorf("Open: %v", err)
		}
		empty()
		l, _ := open(t, Options{Dir: dir, Reserve: 1 << 16})
		put(t, l, "a")
	})
}

// TestFailedWrite: the log is broken for good, and says so to all.
func TestFailedWrite(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	l, _ := open(t, o)
	put(t, l, "a")
	must(t, l.active.file.Close()) // the next write fails
	ticket, err := l.Append([]byte("b"))
	must(t, err)
	err = ticket.Wait()
	if err == nil || l.Broken() == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("Wait: %v; Broken: %v", err, l.Broken())
	}
	if _, again := l.AppendReserved([]byte("c")); !errors.Is(again, err) {
		t.Errorf("Append: %v", again)
	}
	if again := l.Compact(nil); !errors.Is(again, err) {
		t.Errorf("Compact: %v", again)
	}
	if again := l.Close(); !errors.Is(again, err) {
		t.Errorf("Close: %v", again)
	}
	if got := reopen(t, o); !cmp.Equal(got, state{Records: []string{"a"}}) {
		t.Errorf("after the restart: %v", got)
	}
}
