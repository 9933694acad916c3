package crash

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/iprange"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// The small network claims its IPv4 addresses one by one, of which there are
// smallAddrs, and leases a block of IPv6 beside them; the large one leases a
// block. What is kept of the large one must be shared first.
const (
	smallConf = `{"cniVersion":"1.0.0","name":"small","type":"bridge","bridge":"br1","ipam":{"type":"meta-ipam",
  "cooldown":"1s","ipRanges":[{"range":"10.77.0.0/29"},{"range":"fd77::/64"}]}}`
	largeConf = `{"cniVersion":"1.0.0","name":"large","type":"bridge","bridge":"br1","ipam":{"type":"meta-ipam","range":"10.66.0.0/16"}}`
	keptConf  = `{"cniVersion":"1.0.0","name":"kept","type":"bridge","bridge":"br1","capabilities":{"ips":true},
  "ipam":{"type":"meta-ipam","range":"10.66.0.0/16","sticky":true}}`
	smallAddrs = 6
)

// cooldown is how long addresses rest: each play waits for it.
const cooldown = time.Second

// withoutSpace is a node with these networks. Its first ADD makes the address
// space, with the cool-down that is usual.
func withoutSpace(t *testing.T, bin node.Binaries) *bed {
	t.Helper()
	b := newBed(t, bin)
	b.Config("nodeName: node\n")
	b.Network("small", smallConf)
	b.Network("large", largeConf)
	b.Network("kept", keptConf)
	b.selects, b.links = `[{"name":"small"},{"name":"large"}]`, []string{"eth0", "net1", "net2"}
	return b
}

// resting is a node whose claims say that they cool before they are deleted:
// that is looked at each second.
func resting(t *testing.T, bin node.Binaries) *bed {
	t.Helper()
	b := withSpace(t, bin)
	b.Network("small", strings.Replace(smallConf, `"1s"`, `"2500ms"`, 1))
	return b
}

// withSpace is such a node that has the address space already.
func withSpace(t *testing.T, bin node.Binaries) *bed {
	t.Helper()
	b := withoutSpace(t, bin)
	store, err := dir.Open(t.Context(), b.addresses())
	if err != nil {
		t.Fatal(err)
	}
	space := ipam.Space{Name: ipam.DefaultSpace, Grid: iprange.DefaultGrid(), Mode: ipam.Auto, Cooldown: cooldown}
	if _, err := store.Space(t.Context(), space); err != nil {
		t.Fatal(err)
	}
	return b
}

// addressesAdd kills an ADD that needs addresses. Whether it is asked again or
// not, all that it got is free after its DEL, and nobody else has it before.
func (b *bed) addressesAdd(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.sandbox()
	b.armed(failpoint)
	reply := b.Plugin("ADD", s)
	killed = b.died()
	b.start()
	stands := reply.Err == nil
	switch {
	case stands:
		b.whole(t, pod)
	case !killed:
		t.Fatalf("ADD failed without a kill: %v\n%s", reply.Err, b.tail())
	default:
		b.awaitCleanOrWhole(t, pod)
		if stands = asksAgain(failpoint); stands {
			b.retry(t, s, pod)
		}
	}
	all := living{}
	if stands {
		all.enter(t, s, pod)
		b.fill(t, all, smallAddrs-1) // the killed try's may rest while the sandbox is there
		all.leave(s)
	}
	b.delOne(t, s, pod)
	b.awaitFree(t, all)
	b.fill(t, all, smallAddrs)
	b.released(t, s, all)
	return killed
}

// addressesDel kills a DEL that gives addresses back, or the daemon when it
// gives up their claims afterwards.
func (b *bed) addressesDel(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.added(t)
	b.armed(failpoint)
	if reply := b.Plugin("DEL", s); reply.Err != nil && !b.died() {
		t.Fatalf("DEL failed without a kill: %v\n%s", reply.Err, b.tail())
	}
	b.await(t, pod, func(links, left []string) bool { return b.Ended() || len(links) == 0 && len(left) == 0 })
	if !b.Ended() {
		pod.Remove()
		b.awaitClaims(t, "given up", func(claims []ipam.Claim) bool { return b.Ended() || len(claims) == 0 })
		pod = nil
	}
	b.Signal(os.Interrupt)
	b.traced = b.Log()
	killed = strings.Contains(b.traced, "failpoint hit: ")
	b.start()
	b.delOne(t, s, pod)
	all := living{}
	b.awaitFree(t, all)
	b.fill(t, all, smallAddrs)
	b.released(t, s, all)
	return killed
}

// addressesShare kills an ADD that wants a certain address to keep, in a block
// that this node leases and another pod has an address of: the block is shared
// for it, and the other pod's address gets a claim.
func (b *bed) addressesShare(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	b.selects, b.links = `[{"name":"large"}]`, []string{"eth0", "net1"}
	all := living{}
	first, firstPod := b.added(t)
	wanted := all.enter(t, first, firstPod)[0].Next()
	b.selects = fmt.Sprintf(`[{"name":"kept","ips":["%s/16"]}]`, wanted)
	s, pod := b.sandbox()
	b.armed(failpoint)
	reply := b.Plugin("ADD", s)
	killed = b.died()
	b.start()
	if reply.Err != nil {
		if !killed {
			t.Fatalf("ADD failed without a kill: %v\n%s", reply.Err, b.tail())
		}
		b.retry(t, s, pod)
	}
	if got := all.enter(t, s, pod); got[0] != wanted {
		t.Errorf("the pod has %v, it asked for %s", got, wanted)
	}
	claims := b.claims(t)
	for addr, id := range all {
		if !slices.ContainsFunc(claims, func(c ipam.Claim) bool { return c.Ref.Addr == addr && c.Owner.ContainerID == id }) {
			t.Errorf("%s of %s has no claim in the block that is shared now: %+v", addr, id, claims)
		}
	}
	b.selects = `[{"name":"large"}]`
	third, thirdPod := b.sandbox()
	b.retry(t, third, thirdPod)
	all.enter(t, third, thirdPod)
	clear(all)
	b.delOne(t, first, firstPod)
	b.delOne(t, s, pod)
	b.delOne(t, third, thirdPod)
	b.released(t, s, all)
	return killed
}
