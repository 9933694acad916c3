package daemon_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// TestFullDiskOfTheAddresses: an ADD that needs an address fails, says where
// room is missing and may be tried again; a DEL works, and all does once there
// is room.
func TestFullDiskOfTheAddresses(t *testing.T) {
	for _, test := range []struct{ folder, size string }{
		{"ipam", "1200k"},     // the log, which keeps a MiB for DELs
		{"addresses", "256k"}, // the folder of claims
	} {
		t.Run(test.folder, func(t *testing.T) {
			b := newBed(t)
			b.Network("lan", lanConf("meta-ipam", `"range":"10.77.0.0/28"`)) // small: each address is a claim
			folder := filepath.Join(b.Dir, "state", test.folder)
			smallDisk(t, folder, test.size)
			b.Start()
			s, pod := b.sandbox("lan")
			b.must(t, "ADD", s)
			makeRoom := fillDisk(t, folder)
			other, otherPod := b.addUntilRefused(t, "lan", folder, "no space left on device", "free space")
			plain, plainPod := b.sandbox("")
			b.must(t, "ADD", plain)
			b.must(t, "DEL", plain)
			b.must(t, "DEL", s)
			wantLinks(t, pod)
			wantLinks(t, plainPod)
			makeRoom()
			b.must(t, "ADD", other)
			wantLinks(t, otherPod, "eth0", "net1")
			b.must(t, "DEL", other)
			wantLinks(t, otherPod)
		})
	}
}

// addUntilRefused adds pods until one is refused with code 11 and the words: a
// full disk may have a rest of room in files that are there. Nothing is left of
// the refused one, and the others are deleted while the disk is full.
func (b *bed) addUntilRefused(tb testing.TB, network string, words ...string) (node.Sandbox, *testnet.Host) {
	tb.Helper()
	for range 12 {
		s, pod := b.sandbox(network)
		reply := b.Plugin("ADD", s)
		if reply.Err != nil {
			b.wantError(tb, "ADD", s, 11, words...)
			wantLinks(tb, pod)
			return s, pod
		}
		b.must(tb, "DEL", s)
		wantLinks(tb, pod)
	}
	tb.Fatal("twelve ADDs worked on a full disk")
	return node.Sandbox{}, nil
}

// TestFullDiskAtTheStart: where the log can't be begun, pods that need no
// address are served. The daemon ends when there is room, and the next one
// gives addresses out.
func TestFullDiskAtTheStart(t *testing.T) {
	b := newBed(t)
	b.Network("lan", lanConf("meta-ipam", lanRange))
	folder := filepath.Join(b.Dir, "state", "ipam")
	smallDisk(t, folder, "1200k")
	makeRoom := fillDisk(t, folder)
	b.Start()
	s, pod := b.sandbox("lan")
	b.wantError(t, "ADD", s, 11, folder, "no space left on device", "free space")
	wantLinks(t, pod)
	plain, plainPod := b.sandbox("")
	b.must(t, "ADD", plain)
	b.must(t, "DEL", plain)
	wantLinks(t, plainPod)
	makeRoom()
	b.AwaitEnd(20 * time.Second)
	b.Start()
	b.must(t, "ADD", s)
	b.must(t, "DEL", s)
	b.clean(t, pod, plainPod)
}

// smallDisk makes a folder that is a file system of its own.
func smallDisk(tb testing.TB, dir, size string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fillDisk takes all room of a folder's disk and returns what gives it back.
func fillDisk(tb testing.TB, dir string) (makeRoom func()) {
	tb.Helper()
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 4<<20), 0o600) // as much as there is room for
	return func() {
		if err := os.Remove(ballast); err != nil {
			tb.Fatal(err)
		}
	}
}
