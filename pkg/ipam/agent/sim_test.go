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
	"strings"
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
	// failed are sandboxes whose ADD failed and that get their DEL.
	failed []*sandbox
	// holders finds who has an address.
	holders map[ipam.ClaimRef]string
	next    int
	granted int
	// nodeHint is how many nodes the store speaks of.
	nodeHint int
	last     []string
	procs    map[string]*process
	// ghosts are addresses of sandboxes on nodes that were given up for dead:
	// the wire is asked before another gets one.
	ghosts map[ipam.ClaimRef]bool
}

type sandbox struct {
	node, container string
	req             ipam.Request
	addrs           []netip.Addr
	// key is that of its claim where it was imported, life whose log has it.
	key      ipam.Key
	life     ipam.Node
	imported bool
}

// holder is who has the addresses of a sandbox: those of an IPAMClaim are common
// to all of its sandboxes.
func (b *sandbox) holder() string {
	if b.req.Keep.Kind == ipam.KeepClaim {
		return b.req.Keep.String()
	}
	return b.container
}

func (b *sandbox) refs() []ipam.ClaimRef {
	refs := make([]ipam.ClaimRef, len(b.addrs))
	for i, a := range b.addrs {
		refs[i] = ipam.ClaimRef{Space: b.req.Wants[i].Ranges[0].Space.Name, Addr: a}
	}
	return refs
}

func newSim(t *testing.T, seed uint64, nodes, nodeHint int) *sim {
	s := &sim{
		cluster: newCluster(t), chaos: &chaos{Rand: rand.New(rand.NewPCG(seed, 7))},
		nodeHint: nodeHint,
		live:     map[string]*sandbox{}, holders: map[ipam.ClaimRef]string{},
		procs: map[string]*process{}, ghosts: map[ipam.ClaimRef]bool{},
	}
	for i := range nodes {
		name := fmt.Sprint("node", i)
		s.names = append(s.names, name)
		s.nodes[name] = &machine{c: s.cluster, name: name, disk: &memory{}, dead: map[string]bool{}}
		s.restart(s.nodes[name])
	}
	return s
}

// restart starts a machine's agent with a way to the store of its own; the one
// before is dead.
func (s *sim) restart(m *machine) {
	s.t.Helper()
	if old := s.procs[m.name]; old != nil {
		s.chaos.mu.Lock()
		old.dead = true
		s.chaos.mu.Unlock()
		_, _ = m.log.Append(nil) // it notices, and leaves on the disk what it leaves
	}
	for {
		p := &process{node: m.name}
		f := &faulty{Store: s.store, chaos: s.chaos, proc: p, others: s.answerOf, meanwhile: s.meanwhile, nodes: s.nodeHint}
		log := &life{
			memory: m.disk,
			step:   func(string) error { return s.chaos.step(p) },
			torn:   func(n int) int { return s.chaos.IntN(n + 1) },
		}
		s.procs[m.name] = p
		a, err := Open(log, m.disk.recovered(), Options{
			Store: f,
			Node:  ipam.Node{Name: m.name, UID: m.uid(), Boot: fmt.Sprintf("%s-boot-%d", m.name, m.boot)},
			Alive: func(o ipam.Owner, _ string) bool { return !m.isDead(o.ContainerID) },
			Clock: func() time.Duration { return s.now },
			Alarm: s.alarm,
		})
		if errors.Is(err, errDead) {
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		m.Agent, log.wait = a, s.meanwhile
		return
	}
}

// alarm is none where somebody else's address is met; all others are a defect.
func (s *sim) alarm(a Alarm) {
	if a.Reason != "AddressInUse" && (a.Reason != "DuplicateAddress" || !strings.Contains(a.Message, "Whereabouts")) {
		s.t.Errorf("alarm: %+v\n%s", a, lines(s.last))
	}
}

// meanwhile is what happens in the middle of a request, or while a record is on
// its way to the disk.
func (s *sim) meanwhile() {
	s.chaos.mu.Lock()
	if s.chaos.inside || s.chaos.odds == 0 || s.chaos.Rand.IntN(15) > 0 {
		s.chaos.mu.Unlock()
		return
	}
	s.chaos.inside = true
	s.chaos.mu.Unlock()
	s.note("meanwhile:")
	switch n := s.chaos.IntN(100); {
	case n < 30:
		s.addOne()
	case n < 50:
		s.delOne()
	case n < 60:
		s.repeat()
	case n < 90:
		s.workOne()
	case n < 93:
		s.reboot(s.machine())
	case n < 95:
		s.restart(s.machine())
	default:
		s.lateOne()
	}
	s.note("that was it")
	s.chaos.mu.Lock()
	s.chaos.inside = false
	s.chaos.mu.Unlock()
}

// bounded is for a call that waits in vain for the one in whose middle it is.
func (s *sim) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.t.Context(), 30*time.Second)
}

// answerOf lets a node that was asked for a block answer, mostly.
func (s *sim) answerOf(node string) {
	if m := s.nodes[node]; m != nil && s.chaos.IntN(4) > 0 {
		ctx, cancel := s.bounded()
		defer cancel()
		a := m.Agent
		s.revive(m, a, a.Answer(ctx))
	}
}

// revive restarts a machine whose agent was killed; false if nobody has heard
// what it answered.
func (s *sim) revive(m *machine, a *Agent, err error) bool {
	if m.Agent != a {
		return false
	}
	if a.log.Broken() != nil || errors.Is(err, errDead) {
		s.restart(m)
		return false
	}
	return true
}

func (s *sim) machine() *machine { return s.nodes[s.names[s.chaos.IntN(len(s.names))]] }

func (s *sim) note(format string, args ...any) {
	if s.last = append(s.last, fmt.Sprintf(format, args...)); len(s.last) > 200 {
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
	case n < 936:
		s.loseLog(s.machine())
	case n < 937:
		s.fence(s.machine())
	case n < 939:
		s.rename(s.machine())
	case n < 944:
		s.importOne()
	case n < 950:
		s.endKeeper()
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
		r.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: fmt.Sprint("vm-", s.chaos.IntN(4)), UID: "u", Network: "lan", IfName: "net1"}
	case 2:
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
	ctx, cancel := s.bounded()
	defer cancel()
	b.key = b.req.Owner.Key
	b.req.Probe = func(_ context.Context, a netip.Addr) error {
		if s.chaos.odds > 0 && s.chaos.IntN(50) == 0 {
			return ipam.ErrConflict
		}
		for _, w := range b.req.Wants {
			delete(s.ghosts, ipam.ClaimRef{Space: w.Ranges[0].Space.Name, Addr: a})
		}
		return nil
	}
	a := m.Agent
	b.life = a.Node()
	got, err := a.Allocate(ctx, b.req)
	s.note("%s ADD %s %s: %v %v", m.name, b.container, b.req.Wants[0].Ranges[0].Text, addrsOf(got), err)
	if heard := s.revive(m, a, err); err != nil || !heard {
		s.failed = append(s.failed, b)
		return
	}
	b.addrs = addrsOf(got)
	s.granted++
	s.live[b.container] = b
	for i, ref := range b.refs() {
		s.hold(b, ref)
		if w := b.req.Wants[i]; !w.Ranges[0].Usable.Contains(ref.Addr) || w.Addr.IsValid() && w.Addr != ref.Addr {
			s.t.Fatalf("%s is not what %s asked for: %+v", ref, b.container, w)
		}
		if s.ghosts[ref] {
			s.t.Fatalf("%s was given to %s, and nobody asked whether a sandbox of a dead node still has it\n%s", ref, b.container, lines(s.last))
		}
	}
}

// hold notes who has an address; nobody else may.
func (s *sim) hold(b *sandbox, ref ipam.ClaimRef) {
	s.t.Helper()
	if other := s.holders[ref]; other != "" && (other != b.holder() || b.req.Keep.Kind != ipam.KeepClaim) {
		s.t.Fatalf("DUPLICATE: %s was given to %s and %s has it\n%s", ref, b.container, other, lines(s.last))
	}
	s.holders[ref] = b.holder()
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
	delete(s.live, b.container)
	for _, ref := range b.refs() {
		shared := false
		for _, other := range s.live {
			shared = shared || slices.Contains(other.refs(), ref)
		}
		if !shared {
			delete(s.holders, ref)
		}
	}
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
	m.bury(b.container, s.chaos.IntN(3) > 0) // its namespace goes before or after
	ctx, cancel := s.bounded()
	defer cancel()
	a := m.Agent
	err := a.Release(ctx, b.req.Owner.Key)
	s.note("%s DEL %s: %v", m.name, b.container, err)
	m.bury(b.container, true)
	if heard := s.revive(m, a, err); err != nil || !heard {
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
	if b.imported || !b.life.Same(m.Node()) {
		return // nobody knows of it
	}
	ctx, cancel := s.bounded()
	defer cancel()
	a := m.Agent
	got, err := a.Allocate(ctx, b.req)
	s.note("%s ADD %s again: %v %v", m.name, b.container, addrsOf(got), err)
	switch heard := s.revive(m, a, err); {
	case s.live[b.container] != b || !heard: // a DEL or the end came in between
	case err == nil && !slices.Equal(addrsOf(got), b.addrs):
		s.t.Fatalf("%s had %v and gets %v now\n%s", b.container, b.addrs, addrsOf(got), lines(s.last))
	case err != nil && b.req.Keep.Kind == ipam.KeepClaim:
		s.forget(b) // the runtime ends it
		s.failed = append(s.failed, b)
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
	ctx, cancel := s.bounded()
	defer cancel()
	a, w := m.Agent, works[s.chaos.IntN(len(works))]
	err := w.do(ctx)
	s.note("%s %s: %v", m.name, w.name, err)
	s.revive(m, a, err)
}

func (s *sim) reboot(m *machine) {
	s.note("%s reboots", m.name)
	s.off(m)
	m.boot++
	s.restart(m)
}

// off ends all sandboxes of a machine.
func (s *sim) off(m *machine) {
	for _, b := range slices.Collect(maps.Values(s.live)) {
		if b.node == m.name {
			s.forget(b)
			m.bury(b.container, true)
		}
	}
	s.failed = slices.DeleteFunc(s.failed, func(b *sandbox) bool { return b.node == m.name && s.chaos.IntN(2) == 0 })
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
			s.revive(m, m.Agent, err)
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
		for i, a := range b.addrs {
			sp := b.req.Wants[i].Ranges[0].Space
			block, err := s.store.GetBlock(s.t.Context(), ipam.BlockRef{Space: sp.Name, Prefix: sp.Grid.Block(a)})
			if err == nil && block.Mode == ipam.Leased && block.Owner.Same(b.life) {
				continue
			}
			c, err := s.store.GetClaim(s.t.Context(), ipam.ClaimRef{Space: sp.Name, Addr: a})
			own := c.Owner.Key == b.key && c.State == ipam.Bound
			if b.req.Keep.Kind == ipam.KeepClaim {
				own = c.Keep == b.req.Keep && c.State != ipam.Cooling
			}
			if err != nil || !own {
				s.t.Fatalf("UNPROTECTED: %s of %s on %s: block %+v, claim %+v %v\n%s", a, b.container, b.node, block, c, err, lines(s.last))
			}
		}
	}
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
