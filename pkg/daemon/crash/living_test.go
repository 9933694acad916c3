package crash

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// living says which sandbox has an address.
type living map[netip.Addr]string

// enter takes the addresses of a sandbox's further networks in, the IPv4 ones
// first. None may be there already.
func (l living) enter(t *testing.T, s node.Sandbox, pod *testnet.Host) []netip.Addr {
	t.Helper()
	var found []netip.Addr
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, name := range []string{"net1", "net2"} {
			found = append(found, addressesOf(t, pod, name, family)...)
		}
	}
	for _, addr := range found {
		if other := l[addr]; other != "" {
			t.Errorf("%s and %s both have %s", other, s.ContainerID, addr)
		}
		l[addr] = s.ContainerID
	}
	if len(found) == 0 {
		t.Fatalf("%s has no address", s.ContainerID)
	}
	return found
}

func addressesOf(t *testing.T, pod *testnet.Host, name string, family int) []netip.Addr {
	t.Helper()
	link, err := pod.Netlink().LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := pod.Netlink().AddrList(link, family)
	if err != nil {
		t.Fatal(err)
	}
	var found []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == unix.RT_SCOPE_UNIVERSE {
			found = append(found, addr.Unmap())
		}
	}
	return found
}

// leave takes a sandbox out.
func (l living) leave(s node.Sandbox) {
	maps.DeleteFunc(l, func(_ netip.Addr, id string) bool { return id == s.ContainerID })
}

// small are the addresses of the small network.
func (l living) small() []netip.Addr {
	return slices.SortedFunc(func(yield func(netip.Addr) bool) {
		for addr := range l {
			if smallRange().Contains(addr) && !yield(addr) {
				return
			}
		}
	}, netip.Addr.Compare)
}

func smallRange() netip.Prefix { return netip.MustParsePrefix("10.77.0.0/29") }

// fill adds pods until so many have an address of the small network.
func (b *bed) fill(t *testing.T, all living, pods int) {
	t.Helper()
	before := b.selects
	b.selects = `[{"name":"small"}]`
	defer func() { b.selects = before }()
	var group sync.WaitGroup
	sandboxes := map[*testnet.Host]node.Sandbox{}
	for range pods - len(all.small()) {
		s, pod := b.sandbox()
		sandboxes[pod] = s
		group.Go(func() {
			if reply := b.Plugin("ADD", s); reply.Err != nil {
				t.Errorf("the range isn't full and has no address: %v\n%s", reply.Err, b.tail())
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for pod, s := range sandboxes {
		all.enter(t, s, pod)
	}
}

// delOne deletes one pod of several, and its namespace then; nil if that went
// before.
func (b *bed) delOne(t *testing.T, s node.Sandbox, pod *testnet.Host) {
	t.Helper()
	if reply := b.Plugin("DEL", s); reply.Err != nil {
		t.Errorf("DEL: %v\n%s", reply.Err, b.tail())
	}
	b.awaitNothingOf(t, s)
	if pod == nil {
		return
	}
	links, err := pod.Interfaces()
	if err != nil || len(links) > 0 {
		t.Errorf("left in the pod: %v, %v", links, err)
	}
	pod.Remove()
}

// awaitNothingOf waits until the node has nothing of a sandbox; what was spooled
// is done then.
func (b *bed) awaitNothingOf(t *testing.T, s node.Sandbox) {
	t.Helper()
	of := func(left string) bool {
		return strings.Contains(left, s.ContainerID+"@") || strings.Contains(left, "/spool/")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := b.Left("cni0", "br1")
		if !slices.ContainsFunc(left, of) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left of %s on the node: %v\n%s", s.ContainerID, left, b.tail())
		}
	}
}

// claims are all that the node has.
func (b *bed) claims(t *testing.T) []ipam.Claim {
	t.Helper()
	store, err := dir.Look(b.addresses())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := store.NodeClaims(t.Context(), "node")
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func (b *bed) addresses() string { return filepath.Join(b.Dir, "state", "addresses") }

// awaitFree waits until all claims are those of the living: what rests is
// deleted in the end.
func (b *bed) awaitFree(t *testing.T, all living) {
	t.Helper()
	b.awaitClaims(t, "those of the living", func(claims []ipam.Claim) bool {
		return !slices.ContainsFunc(claims, func(c ipam.Claim) bool { return all[c.Ref.Addr] != c.Owner.ContainerID })
	})
}

// awaitClaims waits for a condition of the claims.
func (b *bed) awaitClaims(t *testing.T, what string, ok func([]ipam.Claim) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		claims := b.claims(t)
		if ok(claims) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("claims aren't %s: %+v\n%s", what, claims, b.tail())
		}
	}
}

// released asserts that a deleted sandbox holds nothing, neither by a claim nor
// by the log, and that those who live have what they were given. It ends the
// daemon.
func (b *bed) released(t *testing.T, s node.Sandbox, all living) {
	t.Helper()
	var bound []netip.Addr
	b.awaitClaims(t, "bound to the living only", func(claims []ipam.Claim) bool {
		bound = nil
		for _, c := range claims {
			if c.State != ipam.Bound {
				continue
			}
			bound = append(bound, c.Ref.Addr)
			if all[c.Ref.Addr] != c.Owner.ContainerID {
				return false
			}
		}
		return true
	})
	slices.SortFunc(bound, netip.Addr.Compare)
	if diff := cmp.Diff(all.small(), bound, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("claims (-addresses of pods +claims):\n%s", diff)
	}
	b.Signal(os.Interrupt)
	held := b.logged(t)
	for _, key := range []ipam.Key{
		{ContainerID: s.ContainerID, IfName: "net1", Network: "small"},
		{ContainerID: s.ContainerID, IfName: "net2", Network: "large"},
		{ContainerID: s.ContainerID, IfName: "net1", Network: "kept"},
	} {
		if addrs := held(key); len(addrs) > 0 {
			t.Errorf("%s was deleted, and the log has %v for it", key, addrs)
		}
	}
	for addr, id := range all {
		if !slices.Contains(held(ipam.Key{ContainerID: id, IfName: "net1", Network: "small"}), addr) {
			t.Errorf("%s has %s, and the log doesn't", id, addr)
		}
	}
}

// logged reads the log as the next daemon would.
func (b *bed) logged(t *testing.T) func(ipam.Key) []netip.Addr {
	t.Helper()
	log, recovered, err := wal.Open(wal.Options{Dir: filepath.Join(b.Dir, "state", "ipam")})
	if err != nil {
		t.Fatal(err)
	}
	store, err := dir.Open(t.Context(), b.addresses())
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.Open(agent.Disk{Log: log}, recovered, agent.Options{
		Store: store, Node: ipam.Node{Name: "node", Boot: bootID(t)}, Clock: func() time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a.Held
}

func bootID(t *testing.T) string {
	t.Helper()
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(id))
}

// tail is the end of the daemon's log.
func (b *bed) tail() string {
	lines := strings.Split(strings.TrimSpace(b.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
