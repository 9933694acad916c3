package daemon_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// lanConf is a network whose addresses the daemon gives out.
func lanConf(plugin, ipam string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","type":"bridge","bridge":"br1","ipam":{"type":"%s",%s}}`, plugin, ipam)
}

const lanRange = `"range":"10.77.0.0/24","gateway":"10.77.0.1"`

// lanOf finds the address of a pod's net1 in its namespace.
func lanOf(tb testing.TB, pod *testnet.Host) netip.Addr {
	tb.Helper()
	out, err := pod.Run(tb.Context(), "ip", "-o", "-4", "address", "show", "net1")
	if err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	prefix, err := netip.ParsePrefix(strings.Fields(out)[3])
	if err != nil {
		tb.Fatal(err)
	}
	return prefix.Addr()
}

func TestAddressesOfTheDaemon(t *testing.T) {
	for _, plugin := range []string{"meta-ipam", "whereabouts"} {
		t.Run(plugin, func(t *testing.T) {
			b := newBed(t)
			b.Network("lan", lanConf(plugin, lanRange))
			b.Start()
			seen := map[netip.Addr]bool{}
			var all []node.Sandbox
			var pods []*testnet.Host
			for range 4 {
				s, pod := b.sandbox("lan")
				b.must(t, "ADD", s)
				addr := lanOf(t, pod)
				if seen[addr] || !netip.MustParsePrefix("10.77.0.0/24").Contains(addr) || plugin == "meta-ipam" && addr == netip.MustParseAddr("10.77.0.1") {
					t.Errorf("address %s of %v", addr, seen)
				}
				seen[addr] = true
				all, pods = append(all, s), append(pods, pod)
				if len(all) == 1 { // the bridge's MAC changes with its ports, and its CHECK minds
					b.must(t, "CHECK", s)
				}
			}
			if again := b.must(t, "ADD", all[0]); again.Err != nil {
				t.Error(again.Err)
			}
			for _, s := range all {
				b.must(t, "DEL", s)
			}
			b.clean(t, pods...)
		})
	}
}

// A daemon that is killed knows what it gave out: nobody gets it twice, and the
// DEL gives it back.
func TestAddressesSurviveTheDaemon(t *testing.T) {
	b := newBed(t)
	b.Network("lan", lanConf("meta-ipam", `"range":"10.77.0.0/29"`))
	b.Start()
	seen, pods := map[netip.Addr]node.Sandbox{}, map[netip.Addr]*testnet.Host{}
	for range 6 {
		s, pod := b.sandbox("lan")
		b.must(t, "ADD", s)
		addr := lanOf(t, pod)
		seen[addr], pods[addr] = s, pod
		b.Signal(syscall.SIGKILL)
		b.Start()
	}
	if len(seen) != 6 {
		t.Fatalf("6 pods have %d addresses", len(seen))
	}
	late, latePod := b.sandbox("lan")
	b.wantError(t, "ADD", late, 100, "10.77.0.0/29", "6 usable", `network "lan"`)
	wantLinks(t, latePod)
	for addr, s := range seen {
		b.must(t, "DEL", s)
		pods[addr].Remove()
		// The sandbox is gone, and nothing else is free: its address is taken
		// before it has cooled.
		b.must(t, "ADD", late)
		if got := lanOf(t, latePod); got != addr {
			t.Errorf("got %s, only %s was free", got, addr)
		}
		break
	}
}

// Two hosts that share the folder of addresses never give one out twice.
func TestAddressesOfTwoHosts(t *testing.T) {
	net := testnet.New(t)
	shared := filepath.Join(t.TempDir(), "addresses")
	var beds []*bed
	for _, name := range []string{"one", "two"} {
		n := node.New(t, net.Host(name), binaries, filepath.Join(t.TempDir(), name))
		n.Config(fmt.Sprintf("nodeName: %s\nipam: {dir: %s}\n", name, shared))
		n.Write("net.d/10-pods.conflist", primaryConf)
		n.Network("lan", lanConf("meta-ipam", `"range":"10.77.0.0/28"`))
		n.Start()
		beds = append(beds, &bed{Node: n, net: net})
	}
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var group sync.WaitGroup
	for i := range 14 {
		b := beds[i%2]
		pod := net.Host(fmt.Sprint("p", i))
		group.Go(func() {
			s := node.Sandbox{ContainerID: pod.Name, Netns: pod.Path(), Args: "IgnoreUnknown=1;META_CNI_NETWORKS=lan"}
			if reply := b.Plugin("ADD", s); reply.Err != nil {
				t.Errorf("%s: %v", pod.Name, reply.Err)
				return
			}
			addr := lanOf(t, pod)
			mu.Lock()
			defer mu.Unlock()
			if other := seen[addr]; other != "" {
				t.Errorf("%s and %s both have %s", other, pod.Name, addr)
			}
			seen[addr] = pod.Name
		})
	}
	group.Wait()
	if len(seen) != 14 {
		t.Errorf("14 pods have %d addresses", len(seen))
	}
}

// The wire is asked where the network says so: an address that a foreign
// station has is not given out.
func TestAddressInUseIsNotGivenOut(t *testing.T) {
	b := newBed(t)
	b.Network("lan", lanConf("meta-ipam", `"range":"10.77.0.0/29","probe":true`))
	b.Start()
	s, pod := b.sandbox("lan")
	b.must(t, "ADD", s)
	first := lanOf(t, pod)
	foreign, taken := b.net.Host("foreign"), first.Next()
	b.net.Cable(b.Host, "f0", foreign, "eth0")
	foreign.Address("eth0", taken.String()+"/29")
	if out, err := b.Run(t.Context(), "ip", "link", "set", "f0", "master", "br1", "up"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 3 {
		s, pod := b.sandbox("lan")
		b.must(t, "ADD", s)
		if got := lanOf(t, pod); got == taken {
			t.Errorf("%s is in use on the network", got)
		}
	}
}

// Thin calls have the same addresses, without a daemon.
func TestAddressesThin(t *testing.T) {
	b := newBed(t)
	b.Network("lan", lanConf("meta-ipam", `"range":"10.77.0.0/28"`))
	conf := []string{filepath.Join(string(binaries), "meta-cnid"), "conf", "--config", filepath.Join(b.Dir, "config.yaml")}
	if out, err := b.Run(t.Context(), conf...); err != nil {
		t.Fatalf("meta-cnid conf: %v\n%s", err, out)
	}
	seen := map[netip.Addr]bool{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		s, pod := b.sandbox("lan")
		group.Go(func() {
			if reply := b.Plugin("ADD", s); reply.Err != nil {
				t.Errorf("%s: %v %s", s.ContainerID, reply.Err, reply.Stderr)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[lanOf(t, pod)] = true
		})
	}
	group.Wait()
	if len(seen) != 8 {
		t.Errorf("8 pods have %d addresses", len(seen))
	}
}

// A log that can't be read refuses who needs an address, and nobody else.
func TestDamagedLogRefusesAddressesOnly(t *testing.T) {
	b := newBed(t)
	b.Network("lan", lanConf("meta-ipam", lanRange))
	b.Start()
	s, _ := b.sandbox("lan")
	b.must(t, "ADD", s)
	b.Signal(syscall.SIGTERM)
	damage(t, filepath.Join(b.Dir, "state", "ipam"))
	b.Start()
	plain, plainPod := b.sandbox("second")
	b.must(t, "ADD", plain)
	wantLinks(t, plainPod, "eth0", "net1")
	other, _ := b.sandbox("lan")
	b.wantError(t, "ADD", other, 11, "damaged", filepath.Join(b.Dir, "state", "ipam"))
	b.must(t, "DEL", plain)
}

// damage changes a byte in the middle of every file of a log.
func damage(tb testing.TB, dir string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		used := len(strings.TrimRight(string(data), "\x00"))
		if used < 100 {
			continue
		}
		data[used/2] ^= 0x40
		if err := os.WriteFile(file, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}
