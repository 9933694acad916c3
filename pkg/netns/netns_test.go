package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
	"github.com/meta-cni/meta-cni/pkg/testnet"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	pipe := filepath.Join(dir, "pipe")
	toHost := filepath.Join(dir, "to-host")
	toSelf := filepath.Join(dir, "to-self")
	dangling := filepath.Join(dir, "dangling")
	loop := filepath.Join(dir, "loop")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, unix.Mkfifo(pipe, 0o600))
	must(t, os.Symlink("/proc/1/ns/net", toHost))
	must(t, os.Symlink("/proc/self/ns/net", toSelf))
	must(t, os.Symlink("nowhere", dangling))
	must(t, os.Symlink("loop", loop))

	// Where this process may not look into process 1, it can't get in either.
	host := netns.ErrHost
	if _, err := os.Stat("/proc/1/ns/net"); errors.Is(err, fs.ErrPermission) {
		host = fs.ErrPermission
	}

	tests := []struct {
		name, path string
		want       error
	}{
		{"nothing there", filepath.Join(dir, "none"), netns.ErrGone},
		{"no such folder", filepath.Join(dir, "none", "x"), netns.ErrGone},
		{"below a file", filepath.Join(file, "x"), netns.ErrGone},
		{"dangling symlink", dangling, netns.ErrGone},
		{"process that does not exist", "/proc/4194305/ns/net", netns.ErrGone},
		{"symlink loop", loop, unix.ELOOP},
		{"empty path", "", netns.ErrNotNamespace},
		{"relative path", "run/netns/x", netns.ErrNotNamespace},
		{"plain file", file, netns.ErrNotNamespace},
		{"folder", dir, netns.ErrNotNamespace},
		{"pipe", pipe, netns.ErrNotNamespace},
		{"device", "/dev/null", netns.ErrNotNamespace},
		{"mount namespace", "/proc/self/ns/mnt", netns.ErrNotNamespace},
		{"our own namespace", "/proc/self/ns/net", netns.ErrHost},
		{"the host's namespace", "/proc/1/ns/net", host},
		{"symlink to the host's namespace", toHost, host},
		{"symlink to our own namespace", toSelf, netns.ErrHost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := netns.Open(tt.path)
			if !errors.Is(err, tt.want) || h != nil {
				t.Errorf("Open(%q) = %v, %v, want error %v", tt.path, h, err, tt.want)
			}
			if _, err := netns.Interfaces(tt.path); !errors.Is(err, tt.want) {
				t.Errorf("Interfaces(%q) = %v, want error %v", tt.path, err, tt.want)
			}
		})
	}
}

// Runtimes name /var/run/netns/x, where /var/run is a symlink to /run.
func TestOpenFollowsSymlinks(t *testing.T) {
	pod := testnet.New(t).Host("pod")
	link := filepath.Join(t.TempDir(), "run")
	must(t, os.Symlink(filepath.Dir(pod.Path()), link))

	h := open(t, filepath.Join(link, filepath.Base(pod.Path())))
	if h.ID() != pod.ID() {
		t.Errorf("ID = %v, want %v", h.ID(), pod.ID())
	}
}

func TestInterfaces(t *testing.T) {
	world := testnet.New(t)
	a, b := world.Host("a"), world.Host("b")
	if names, err := netns.Interfaces(a.Path()); err != nil || names != nil {
		t.Errorf("Interfaces of an empty namespace = %v, %v", names, err)
	}
	world.Cable(a, "eth0", b, "eth0")
	world.Cable(a, "net1", b, "net1")
	names, err := netns.Interfaces(a.Path())
	if diff := cmp.Diff([]string{"eth0", "net1"}, names); err != nil || diff != "" {
		t.Errorf("Interfaces: %v, diff %s", err, diff)
	}
}

// The file stays when its namespace is unmounted from it, and a namespace
// stays usable through a handle when its file is removed.
func TestVanishedNamespace(t *testing.T) {
	world := testnet.New(t)
	pod := world.Host("pod")
	h := open(t, pod.Path())
	must(t, unix.Unmount(pod.Path(), unix.MNT_DETACH))
	if _, err := netns.Open(pod.Path()); !errors.Is(err, netns.ErrNotNamespace) {
		t.Errorf("Open of the file left = %v, want ErrNotNamespace", err)
	}
	must(t, os.Remove(pod.Path()))
	if _, err := netns.Open(pod.Path()); !errors.Is(err, netns.ErrGone) {
		t.Errorf("Open = %v, want ErrGone", err)
	}
	if names, err := h.Interfaces(); err != nil || names != nil {
		t.Errorf("Interfaces through the open handle = %v, %v", names, err)
	}
}

func TestDoRunsInsideAndLeavesNoThread(t *testing.T) {
	pod := testnet.New(t).Host("pod")
	h := open(t, pod.Path())
	inside := fmt.Sprintf("net:[%d]", h.ID().Inode)
	outside, err := os.Readlink("/proc/self/ns/net")
	must(t, err)

	failure := errors.New("failure of the function")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := h.Do(func() error {
				if got, err := os.Readlink("/proc/thread-self/ns/net"); got != inside {
					t.Errorf("inside Do: %s (%v), want %s", got, err, inside)
				}
				if unix.Gettid() == unix.Getpid() {
					t.Error("Do uses the main thread")
				}
				runtime.Gosched()
				return failure
			})
			if !errors.Is(err, failure) {
				t.Errorf("Do = %v, want the function's error", err)
			}
		})
	}
	wg.Wait()
	if err := h.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do of a function that ends its goroutine = nil")
	}

	// A thread that is given up needs a moment to end.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		strays := threadsNotIn(t, outside)
		if len(strays) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads outside %s: %v", outside, strays)
		}
	}
}

func threadsNotIn(t *testing.T, namespace string) []string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	must(t, err)
	return slices.DeleteFunc(threads, func(thread string) bool {
		got, err := os.Readlink(thread)
		return err != nil || got == namespace
	})
}

// While links come and go a dump may be interrupted; a list must be whole or
// an error.
func TestInterfacesWhileLinksChange(t *testing.T) {
	world := testnet.New(t)
	pod := world.Host("pod")
	bridge := func(name string) *netlink.Bridge {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return &netlink.Bridge{LinkAttrs: attrs}
	}
	for i := range 60 {
		must(t, pod.Netlink().LinkAdd(bridge(fmt.Sprintf("stay%d", i))))
	}
	churn := open(t, pod.Path())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = churn.Netlink().LinkAdd(bridge("flap"))
				_ = churn.Netlink().LinkDel(bridge("flap"))
			}
		}
	}()
	for range 100 {
		names, err := netns.Interfaces(pod.Path())
		if err == nil && len(names) < 60 {
			t.Errorf("a list of %d interfaces, 60 are always there", len(names))
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Errorf("Interfaces: %v", err)
		}
	}
	close(stop)
	<-stopped
}

func BenchmarkOpen(b *testing.B) {
	pod := testnet.New(b).Host("pod")
	for b.Loop() {
		h, err := netns.Open(pod.Path())
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func open(t *testing.T, path string) *netns.Handle {
	t.Helper()
	h, err := netns.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
