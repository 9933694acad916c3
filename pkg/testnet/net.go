// Package testnet builds hosts, pods and switches out of network namespaces,
// for tests on the real kernel and for the demo. It is never part of the
// product.
//
// Nothing is made in the machine's own network namespace. Every namespace is
// a file in /run/netns whose name carries the process that made it; all are
// removed at the end of the test, also after a failure, and New removes what
// killed runs have left behind.
package testnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

const (
	dir    = "/run/netns"
	prefix = "mcni-"
)

// TB is the part of testing.TB that is needed, so that the demo can use the
// package too.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Net is one test's world.
type Net struct {
	tb   TB
	name string
}

// Host is a network namespace: a host or a pod.
type Host struct {
	*netns.Handle
	// Name is what the test calls it.
	Name string
	net  *Net
}

// New begins a world that ends with the test. It needs root.
func New(tb TB) *Net {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatalf("network namespaces can only be made by root: run the test with sudo")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatalf("%v", err)
	}
	if err := sweep(); err != nil {
		tb.Fatalf("remove what killed runs left behind: %v", err)
	}
	started, err := startTime(os.Getpid())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return &Net{tb: tb, name: fmt.Sprintf("%s%d-%s-%s-", prefix, os.Getpid(), started, rand.Text()[:6])}
}

// Host makes a network namespace with lo up. IPv6 addresses in it can be used
// at once: duplicate address detection is off.
func (n *Net) Host(name string) *Host {
	n.tb.Helper()
	path := filepath.Join(dir, n.name+name)
	n.tb.Cleanup(func() {
		if err := remove(path); err != nil {
			n.tb.Logf("testnet: %v", err)
		}
	})
	if err := create(path); err != nil {
		n.tb.Fatalf("make network namespace %s: %v", name, err)
	}
	handle, err := netns.Open(path)
	if err != nil {
		n.tb.Fatalf("%v", err)
	}
	n.tb.Cleanup(func() { _ = handle.Close() })
	h := &Host{Handle: handle, Name: name, net: n}
	h.Sysctl("net/ipv6/conf/all/accept_dad", "0")
	h.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	h.must("set lo up", h.Netlink().LinkSetUp(h.Link("lo")))
	return h
}

// Netns makes an empty sandbox and returns its path.
func (n *Net) Netns(name string) string {
	n.tb.Helper()
	return n.Host(name).Path()
}

// Remove ends the namespace before the test does.
func (h *Host) Remove() {
	h.net.tb.Helper()
	h.must("close", h.Close())
	h.must("remove", remove(h.Path()))
}

// Link returns the interface, which must exist.
func (h *Host) Link(name string) netlink.Link {
	h.net.tb.Helper()
	link, err := h.Netlink().LinkByName(name)
	h.must("find interface "+name, err)
	return link
}

// Sysctl sets a kernel parameter under net/ in the host.
func (h *Host) Sysctl(key, value string) {
	h.net.tb.Helper()
	h.must("set "+key, h.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
	}))
}

func (h *Host) must(what string, err error) {
	h.net.tb.Helper()
	if err != nil {
		h.net.tb.Fatalf("%s: %s: %v", h.Name, what, err)
	}
}

// create binds a new network namespace to path.
func create(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go bindOnLostThread(path, done)
	return <-done
}

// bindOnLostThread gives the thread up with its goroutine, because it is in
// the new namespace; the main thread can't be given up.
func bindOnLostThread(path string, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		inner := make(chan error, 1)
		go bindOnLostThread(path, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		done <- fmt.Errorf("unshare: %w", err)
		return
	}
	done <- unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
}

// remove unbinds the namespace, which ends it when nobody is inside; that it
// is gone already is no error.
func remove(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes the namespaces of processes that no longer exist.
func sweep() error {
	paths, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		fields := strings.SplitN(strings.TrimPrefix(filepath.Base(path), prefix), "-", 3)
		pid, err := strconv.Atoi(fields[0])
		if err != nil || len(fields) < 3 {
			continue
		}
		if started, err := startTime(pid); err == nil && started == fields[1] {
			continue
		}
		errs = append(errs, remove(path))
	}
	return errors.Join(errs...)
}

// startTime is when a process began, in clock ticks since boot: with it a
// number that is used again is not taken for the same process.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field, the name, may hold blanks and parentheses.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return fields[19], nil
}
