package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// A question on the wire that fails is no answer: the address stays usable.
func TestFailedProbeIsNoConflict(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "c1", "10.0.0.0/16")
	var asked netip.Addr
	r.ProbeAll, r.Probe = true, func(_ context.Context, a netip.Addr) error {
		asked = a
		return errors.New("the namespace is gone")
	}
	if _, err := m.Allocate(t.Context(), r); err == nil {
		t.Fatal("no error")
	}
	if got := m.add("c2", "10.0.0.0/16")[0]; got != asked {
		t.Errorf("got %s, while %s is free and lower in the queue", got, asked)
	}
}

// The claim of an address in use was deleted by hand: it is made again, unless
// another has the address by now; then somebody must know.
func TestVanishedClaims(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	m.ask(exact(t, "c2", "10.0.0.6", "10.0.0.0/28"))
	for _, address := range []string{"10.0.0.5", "10.0.0.6"} {
		gone := c.claim(address)
		if err := c.store.DeleteClaim(t.Context(), gone.Ref, gone.Version); err != nil {
			t.Fatal(err)
		}
	}
	c.node("b").ask(exact(t, "thief", "10.0.0.6", "10.0.0.0/28"))
	if err := m.Scan(t.Context()); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("the scan: %v", err)
	}
	if got := c.claim("10.0.0.5"); got.Owner.ContainerID != "c1" || got.State != ipam.Bound {
		t.Errorf("10.0.0.5: %+v", got)
	}
	if len(m.alarms) != 1 || m.alarms[0].Reason != "DuplicateAddress" || m.alarms[0].Owner.ContainerID != "c2" {
		t.Errorf("alarms: %+v", m.alarms)
	}
}

// On a full disk an ADD fails after its claim was made: what it made is given
// up all the same, without a DEL.
func TestFullDiskLeavesNoClaim(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c0", "10.0.0.0/28")
	c.during(ipamtest.OpCreateClaim, 1, func() { m.disk.full = true })
	if _, err := m.Allocate(t.Context(), request(t, "c1", "10.0.0.0/28")); !errors.Is(err, ipam.ErrNotReady) {
		t.Fatal(err)
	}
	m.dead["c1"] = true
	c.now += 2 * ipam.DefaultCooldown
	for range 3 {
		if err := m.Cool(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if claims, err := c.store.NodeClaims(t.Context(), "a"); err != nil || len(claims) != 1 {
		t.Errorf("claims: %+v, %v", claims, err)
	}
}

// A restart from a snapshot neither shortens a cool-down nor gives a block back
// in which addresses still cool.
func TestCooldownsSurviveSnapshots(t *testing.T) {
	const long = time.Hour
	c := newCluster(t)
	m := c.node("a")
	for i, cidr := range []string{"10.0.0.0/16", "10.9.0.0/28"} {
		r := request(t, fmt.Sprint("c", i), cidr)
		r.Cooldown = long
		m.ask(r)
		m.del(fmt.Sprint("c", i))
	}
	before := c.now
	shorten(t, m)
	m.start()
	for _, k := range m.state.cooling {
		if k.due != before+long {
			t.Errorf("due at %s, not %s", k.due, before+long)
		}
	}
	for _, b := range m.state.blocks {
		if !m.resting(b) {
			t.Errorf("nothing seems to rest in %s", b.ref)
		}
	}
}

// shorten shortens the log of a machine.
func shorten(t *testing.T, m *machine) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := m.state.encode(m.c.now)
	if err == nil {
		err = m.log.Compact(data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A sandbox that was seen dead once and got its DEL is not remembered.
func TestSightsAreForgotten(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	for range 2 {
		m.add("c1", "10.0.0.0/16")
		m.dead["c1"] = true
		if err := m.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.del("c1")
		m.dead["c1"] = false
		c.now += 2 * deadAfter
		if err := m.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(m.sights) != 0 {
			t.Errorf("still remembered: %v", m.sights)
		}
	}
}

// shy is a log that can't be compacted.
type shy struct {
	Log
	tries int
	size  int64
}

func (s *shy) Compact([]byte) error { s.tries++; return errors.New("no room") }
func (s *shy) Size() int64          { return s.size }

func TestCompactionThatFailsIsNotTriedAtEachRecord(t *testing.T) {
	m := newCluster(t).node("a")
	log := &shy{Log: m.log, size: compactAt}
	m.log = log
	for range 1000 {
		log.size += 256
		if err := m.write(entry{Op: opDrop, Key: &ipam.Key{}}); err != nil {
			t.Fatal(err)
		}
	}
	if log.tries < 2 || log.tries > 6 {
		t.Errorf("%d tries in 256 KiB of records", log.tries)
	}
}

// A DEL waits for the adoption that is under way of what it is to release.
func TestDELDuringAdoption(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "x", "10.0.0.9", "10.0.0.0/28"))
	owner := request(t, "old").Owner
	owner.IfName, owner.Network = ipam.Unknown, ipam.Unknown
	for _, address := range []string{"10.0.0.5", "10.0.0.6"} {
		ref := ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: addr(address)}
		if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: owner}); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	c.during(ipamtest.OpUpdateClaim, 2, func() { // the second claim is being adopted
		go func() { ended <- m.Release(t.Context(), request(t, "old").Owner.Key) }()
		for m.waiting(owner.Key) < 2 && len(ended) == 0 {
			time.Sleep(time.Millisecond)
		}
	})
	if err := m.Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if held := m.Held(owner.Key); held != nil {
		t.Errorf("held after the DEL: %v", held)
	}
}

// waiting is how many calls have or await the turn of a key.
func (m *machine) waiting(key ipam.Key) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.turns[key]; t != nil {
		return t.waiting
	}
	return 0
}
