package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// soakOps is the number of operations of a long run, from META_CNI_SOAK; 0 is
// the short one.
func soakOps() int {
	n, _ := strconv.Atoi(os.Getenv("META_CNI_SOAK")) // not a number: the short run
	return n
}

// simSeed is the first seed: META_CNI_SEED, else the time in a long run.
func simSeed() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("META_CNI_SEED"), 10, 64); err == nil {
		return n
	}
	if soakOps() > 0 {
		return uint64(time.Now().UnixNano()) / 1e6
	}
	return 1
}

// sim is some nodes with faults, and an oracle that knows who has what.
type sim struct {
	*cluster
	chaos *chaos
	names []string
	// live are the sandboxes whose ADD was answered, by node and container.
	live map[string]*sandbox
	// asked are sandboxes whose ADD failed and that get their DEL.
	failed []*sandbox
	// holders finds who has an address.
	holders map[ipam.ClaimRef]string
	next    int
	granted int
	// nodeHint is how many nodes the store speaks of.
	nodeHint int
	last     []string
}

type sandbox struct {
	node, container string
	req             ipam.Request
	addrs           []netip.Addr
}

func newSim(t *testing.T, seed uint64, nodes, nodeHint int) *sim {
	s := &sim{
		cluster: newCluster(t), chaos: &chaos{Rand: rand.New(rand.NewPCG(seed, 7))},
		nodeHint: nodeHint,
		live:     map[string]*sandbox{}, holders: map[ipam.ClaimRef]string{},
	}
	for i := range nodes {
		name := fmt.Sprint("node", i)
		s.names = append(s.names, name)
		s.nodes[name] = &machine{c: s.cluster, name: name, disk: &memory{}, dead: map[string]bool{}}
		s.restart(s.nodes[name])
	}
	return s
}

// restart starts a machine's agent with a way to the store of its own.
func (s *sim) restart(m *machine) {
	s.t.Helper()
	for {
		f := &faulty{Store: s.store, chaos: s.chaos, node: m.name, others: s.answerOf, nodes: s.nodeHint}
		log := &life{memory: m.disk, step: func(string) error { return s.chaos.step(m.name) }}
		a, err := Open(log, m.disk.recovered(), Options{
			Store: f,
			Node:  ipam.Node{Name: m.name, UID: "uid-" + m.name, Boot: fmt.Sprintf("%s-boot-%d", m.name, m.boot)},
			Alive: func(o ipam.Owner, _ string) bool { return !m.dead[o.ContainerID] },
			Clock: func() time.Duration { return s.now },
			Alarm: func(a Alarm) { s.t.Errorf("alarm: %+v\n%v", a, s.last) },
		})
		if errors.Is(err, errDead) {
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		m.Agent = a
		return
	}
}

// answerOf lets a node that was asked for a block answer, mostly.
func (s *sim) answerOf(node string) {
	if m := s.nodes[node]; m != nil && s.chaos.IntN(4) > 0 {
		s.revive(m, m.Answer(s.t.Context()))
	}
}

// revive restarts a machine that was killed.
func (s *sim) revive(m *machine, err error) {
	if m.log.Broken() != nil || errors.Is(err, errDead) {
		s.restart(m)
	}
}

func (s *sim) machine() *machine { return s.nodes[s.names[s.chaos.IntN(len(s.names))]] }

func (s *sim) note(format string, args ...any) {
	if s.last = append(s.last, fmt.Sprintf(format, args...)); len(s.last) > 60 {
		s.last = s.last[1:]
	}
}

// step does one thing that may happen.
func (s *sim) step() {
	s.now += time.Duration(s.chaos.IntN(300)) * time.Millisecond
	switch n := s.chaos.IntN(1000); {
	case n < 300:
		s.addOne()
	case n < 560:
		s.delOne()
	case n < 600:
		s.repeat()
	case n < 900:
		s.workOne()
	case n < 930:
		s.chaos.killed, s.chaos.in = s.machine().name, s.chaos.IntN(12)
	case n < 935:
		s.reboot(s.machine())
	case n < 960:
		s.replayOne(s.machine())
	case n < 985:
		s.lateOne()
	default:
		s.now += time.Duration(s.chaos.IntN(120)) * time.Second
	}
}

// what is asked for: small and large ranges that overlap, both families, the
// very address, kept addresses.
func (s *sim) request() ipam.Request {
	s.next++
	ranges := [][]string{
		{"10.0.0.0/28"},
		{"10.0.0.0/26"},
		{"10.0.0.0/20"},
		{"10.0.0.0/24", "2001:db8::/64"},
		{"10.0.1.0/25", "10.0.1.0/25"},
		{"2001:db8::/64"},
		{"other|10.0.0.0/27"},
		{"10.0.0.0/29", "10.0.8.0/22"},
	}
	r := request(s.t, fmt.Sprint("c", s.next), ranges[s.chaos.IntN(len(ranges))]...)
	r.Order = []ipam.Order{ipam.FIFO, ipam.Lowest, ipam.Random}[s.chaos.IntN(3)]
	switch s.chaos.IntN(12) {
	case 0:
		set := r.Wants[0].Ranges[0].Usable
		r.Wants[0].Addr, _ = set.Nth(iprange.From64(s.chaos.Uint64N(min(set.Count().Uint64(), 300))))
	case 1:
		r.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: fmt.Sprint("web-", s.chaos.IntN(4)), Network: "lan", IfName: "net1"}
	}
	return r
}

func (s *sim) addOne() {
	m := s.machine()
	b := &sandbox{node: m.name, req: s.request()}
	b.container = b.req.Owner.ContainerID
	s.add(m, b)
}

func (s *sim) add(m *machine, b *sandbox) {
	boot := m.boot
	got, err := m.Allocate(s.t.Context(), b.req)
	s.note("%s ADD %s %s: %v %v", m.name, b.container, b.req.Wants[0].Ranges[0].Text, addrsOf(got), err)
	s.revive(m, err)
	if err != nil {
		s.failed = append(s.failed, b)
		return
	}
	if m.boot != boot {
		return
	}
	b.addrs = addrsOf(got)
	for i, a := range b.addrs {
		ref := ipam.ClaimRef{Space: b.req.Wants[i].Ranges[0].Space.Name, Addr: a}
		if other := s.holders[ref]; other != "" {
			s.t.Fatalf("DUPLICATE: %s was given to %s and has %s\n%s", ref, b.container, other, lines(s.last))
		}
		if w := b.req.Wants[i]; !w.Ranges[0].Usable.Contains(a) || w.Addr.IsValid() && w.Addr != a {
			s.t.Fatalf("%s is not what %s asked for: %+v", a, b.container, w)
		}
		s.holders[ref] = b.container
	}
	s.granted++
	s.live[b.container] = b
}

func addrsOf(got []ipam.Address) []netip.Addr {
	addrs := make([]netip.Addr, len(got))
	for i, a := range got {
		addrs[i] = a.Prefix.Addr()
	}
	return addrs
}

func lines(all []string) string {
	var b bytes.Buffer
	for _, l := range all {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// pick is a live sandbox, the same for the same seed.
func (s *sim) pick() *sandbox {
	if len(s.live) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(s.live))
	return s.live[keys[s.chaos.IntN(len(keys))]]
}

// forget is the moment at which the runtime takes a sandbox away.
func (s *sim) forget(b *sandbox) {
	for i, a := range b.addrs {
		delete(s.holders, ipam.ClaimRef{Space: b.req.Wants[i].Ranges[0].Space.Name, Addr: a})
	}
	delete(s.live, b.container)
}

func (s *sim) delOne() {
	var b *sandbox
	if len(s.failed) > 0 && s.chaos.IntN(2) == 0 {
		b = s.failed[0]
		s.failed = s.failed[1:]
	} else if b = s.pick(); b == nil {
		return
	}
	m := s.nodes[b.node]
	s.forget(b)
	m.dead[b.container] = s.chaos.IntN(3) > 0 // its namespace goes before or after
	err := m.Release(s.t.Context(), b.req.Owner.Key)
	s.note("%s DEL %s: %v", m.name, b.container, err)
	m.dead[b.container] = true
	s.revive(m, err)
	if err != nil {
		s.failed = append(s.failed, b)
	}
}

// repeat is an ADD again: it must get the same.
func (s *sim) repeat() {
	b := s.pick()
	if b == nil {
		return
	}
	m := s.nodes[b.node]
	got, err := m.Allocate(s.t.Context(), b.req)
	s.revive(m, err)
	if err == nil && !slices.Equal(addrsOf(got), b.addrs) {
		s.t.Fatalf("%s had %v and gets %v now\n%s", b.container, b.addrs, addrsOf(got), lines(s.last))
	}
}

func (s *sim) workOne() {
	m := s.machine()
	works := []struct {
		name string
		do   func(context.Context) error
	}{
		{"ahead", m.Ahead},
		{"cool", m.Cool},
		{"answer", m.Answer},
		{"resume", m.Resume},
		{"give back", m.GiveBack},
		{"sweep", m.Sweep},
		{"scan", m.Scan},
		{"mirror", m.Mirror},
	}
	w := works[s.chaos.IntN(len(works))]
	err := w.do(s.t.Context())
	s.note("%s %s: %v", m.name, w.name, err)
	s.revive(m, err)
}

func (s *sim) reboot(m *machine) {
	s.note("%s reboots", m.name)
	for _, b := range slices.Collect(maps.Values(s.live)) {
		if b.node == m.name {
			s.forget(b)
			m.dead[b.container] = true
		}
	}
	s.failed = slices.DeleteFunc(s.failed, func(b *sandbox) bool { return b.node == m.name && s.chaos.IntN(2) == 0 })
	m.boot++
	s.restart(m)
}

// replayOne restarts an agent that was not killed: what it reads from its log
// is what it was.
func (s *sim) replayOne(m *machine) {
	m.mu.Lock()
	for key := range m.state.intents { // they are dropped at a start
		delete(m.state.intents, key)
	}
	before, err := m.state.encode(s.now)
	m.mu.Unlock()
	if err != nil {
		s.t.Fatal(err)
	}
	again, err := replay(m.disk.recovered(), m.Node().Boot)
	if err != nil {
		s.t.Fatal(err)
	}
	clear(again.intents)
	after, err := again.encode(s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	if !bytes.Equal(unversioned(before), unversioned(after)) {
		s.t.Fatalf("replayed (-was +is):\n%s\n%s", cmp.Diff(parsed(s.t, before), parsed(s.t, after), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})), lines(s.last))
	}
	if len(m.disk.records) > 60 {
		m.mu.Lock()
		data, err := m.state.encode(s.now)
		if err == nil {
			err = m.log.Compact(data)
		}
		m.mu.Unlock()
		if err != nil {
			s.revive(m, err)
			return
		}
	}
	s.restart(m)
}

func parsed(t testing.TB, data []byte) (s snapshot) {
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// unversioned leaves out what is not in the log: newer resourceVersions.
func unversioned(data []byte) []byte {
	return regexp.MustCompile(`"version":\{[^}]*\}`).ReplaceAll(data, nil)
}

// lateOne lets a request arrive, or get lost for good.
func (s *sim) lateOne() {
	if len(s.chaos.late) == 0 {
		return
	}
	i := s.chaos.IntN(len(s.chaos.late))
	do := s.chaos.late[i]
	s.chaos.late = slices.Delete(s.chaos.late, i, i+1)
	if s.chaos.IntN(3) > 0 {
		do()
		s.note("a late request arrives")
	}
}

// protected holds I2: each live address is covered.
func (s *sim) protected() {
	s.t.Helper()
	for _, b := range s.live {
		node := s.nodes[b.node].Node()
		for i, a := range b.addrs {
			sp := b.req.Wants[i].Ranges[0].Space
			block, err := s.store.GetBlock(s.t.Context(), ipam.BlockRef{Space: sp.Name, Prefix: sp.Grid.Block(a)})
			if err == nil && block.Mode == ipam.Leased && block.Owner.Same(node) {
				continue
			}
			c, err := s.store.GetClaim(s.t.Context(), ipam.ClaimRef{Space: sp.Name, Addr: a})
			if err != nil || c.Owner.Key != b.req.Owner.Key {
				s.t.Fatalf("UNPROTECTED: %s of %s on %s: block %+v, claim %+v %v\n%s", a, b.container, b.node, block, c, err, lines(s.last))
			}
		}
	}
}

// finish ends all faults and sandboxes; then nothing may be left.
func (s *sim) finish() {
	s.t.Helper()
	s.chaos.odds, s.chaos.killed = 0, ""
	for _, do := range s.chaos.late {
		do()
	}
	s.chaos.late = nil
	for len(s.live)+len(s.failed) > 0 {
		s.delOne()
	}
	for range 8 {
		s.now += 2 * time.Minute
		s.settle(2)
	}
	blocks, claims := s.store.All()
	for _, c := range claims {
		if c.State != ipam.Kept {
			s.t.Errorf("LEAKED claim: %+v", c)
		}
	}
	leased := map[string]int{}
	for _, b := range blocks {
		if b.Mode == ipam.Leased {
			leased[b.Owner.Name+" "+b.Ref.Space]++
		}
	}
	for _, m := range s.nodes {
		if n := len(m.state.records) + len(m.state.intents) + len(m.state.cooling) + len(m.reserved); n > 0 {
			s.t.Errorf("%s still has %d records", m.name, n)
		}
		for ref, b := range m.state.blocks {
			if !b.block.IsEmpty() {
				s.t.Errorf("%s: block %s isn't empty", m.name, ref)
			}
		}
	}
	s.t.Logf("%d granted; leased blocks left: %v; shared for ever: %d", s.granted, leased, len(blocks)-sum(leased))
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestSimulation(t *testing.T) {
	ops, rounds := 4000, 16
	if n := soakOps(); n > 0 {
		ops, rounds = 20_000, n/20_000
	}
	seed := simSeed()
	for round := range rounds {
		seed := seed + uint64(round)
		ok := t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, seed, 2+int(seed%4), 1+int(seed%3))
				s.chaos.odds = []int{0, 8, 20, 60}[seed/4%4]
				for i := range ops {
					s.step()
					if i%50 == 0 {
						s.protected()
					}
				}
				s.finish()
			})
		})
		if !ok {
			t.Fatalf("seed %d", seed)
		}
	}
}
