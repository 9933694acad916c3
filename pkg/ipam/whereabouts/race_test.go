package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// A run lets agents of ours and callers of Whereabouts go on at once, one API
// call at a time, in an order that its seed decides. Any call of ours may be
// lost before or after it was applied, or be applied much later; any caller may
// be killed between two calls, and goes on with what it had in its log.
type run struct {
	*world
	t      *testing.T
	rand   *rand.Rand
	clock  time.Time
	events chan event
	wait   []*caller
	late   []func() error
	faults bool
	// addresses there are; lateness is how long late calls are late.
	addresses, lateness int
	// live are the users of addresses, of either system.
	live  map[netip.Addr]string
	trail []string
	count map[string]int

	pool        map[netip.Addr]string // Whereabouts' IPPool
	poolVersion int
	pods        map[string]bool // those of ours that exist, as namespace/name
}

// caller is a process that makes API calls.
type caller struct {
	name   string
	what   string
	rank   int
	do     func() error
	since  time.Time
	result chan outcome
	main   func(ctx context.Context)
	whereabouts
}

// whereabouts is what a caller of Whereabouts remembers.
type whereabouts struct{ isWhereabouts bool }

type outcome struct {
	err    error
	killed bool
}

type event struct {
	caller *caller
	ended  bool
	killed bool
}

type callerKey struct{}

const (
	tick = 2 * time.Second
	// patience is when a client gives a request up.
	patience = 30 * time.Second
)

func newRun(t *testing.T, seed uint64, faults bool) *run {
	r := &run{
		world: newWorld(), t: t, rand: rand.New(rand.NewPCG(seed, 1)), clock: time.Unix(0, 0), events: make(chan event),
		faults: faults, live: map[netip.Addr]string{}, count: map[string]int{}, pool: map[netip.Addr]string{}, pods: map[string]bool{},
	}
	r.addresses, r.lateness = 1+r.rand.IntN(3), 4<<r.rand.IntN(4)
	r.gate = r.pass
	r.spaces[ipam.DefaultSpace] = ipam.Space{Name: ipam.DefaultSpace, Mode: ipam.Claims, Whereabouts: true}
	return r
}

// pass is the gate: it waits until the run lets the call happen.
func (r *run) pass(ctx context.Context, what string, do func() error) error {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		return do()
	}
	c.what, c.do, c.since = what, do, r.clock
	r.events <- event{caller: c}
	out := <-c.result
	if out.killed {
		runtime.Goexit()
	}
	return out.err
}

func (r *run) start(c *caller) {
	c.result, c.rank = make(chan outcome), r.rand.Int()
	go func() {
		killed := true
		defer func() { r.events <- event{caller: c, ended: true, killed: killed} }()
		c.main(context.WithValue(context.Background(), callerKey{}, c))
		killed = false
	}()
	r.next()
}

// next waits until the caller that runs makes a call or ends; one that was
// killed starts again.
func (r *run) next() {
	e := <-r.events
	switch {
	case e.killed:
		r.start(e.caller)
	case !e.ended:
		r.wait = append(r.wait, e.caller)
	}
}

func (r *run) play(callers ...*caller) {
	for _, c := range callers {
		r.start(c)
	}
	for len(r.wait) > 0 || len(r.late) > 0 {
		if r.faults { // else nothing bounds how long a request takes
			r.clock = r.clock.Add(tick)
		}
		if n := len(r.late); n > 0 && (len(r.wait) == 0 || r.rand.IntN(r.lateness) == 0) {
			i := r.rand.IntN(n)
			do := r.late[i]
			r.late = append(r.late[:i], r.late[i+1:]...)
			r.note("late: %v", do())
			continue
		}
		i := r.choose()
		c := r.wait[i]
		r.wait = append(r.wait[:i], r.wait[i+1:]...)
		out := r.decide(c)
		c.result <- out
		r.next()
	}
}

// choose takes mostly the caller of the highest rank, so that others stand still
// for long between two calls; ranks change now and then.
func (r *run) choose() int {
	if r.rand.IntN(12) == 0 {
		r.wait[r.rand.IntN(len(r.wait))].rank = r.rand.Int()
	}
	best := r.rand.IntN(len(r.wait))
	if r.rand.IntN(6) == 0 {
		return best
	}
	for i, c := range r.wait {
		if c.rank > r.wait[best].rank {
			best = i
		}
	}
	return best
}

func (r *run) decide(c *caller) outcome {
	chance := r.rand.IntN(40)
	patient := r.clock.Sub(c.since) < patience
	if c.isWhereabouts || !r.faults {
		chance, patient = 40, true
	}
	var out outcome
	switch {
	case patient && chance >= 6:
		out.err = c.do()
	case chance == 0: // killed before
		out.killed = true
	case chance == 1: // killed after
		out.err, out.killed = c.do(), true
	case chance == 2 || !patient && chance%2 == 0: // applied later
		r.late = append(r.late, c.do)
		out.err = errLost
	case chance == 3: // lost before
		out.err = errLost
	case chance == 4:
		r.late = append(r.late, c.do)
		out.killed = true
	default: // applied, and the answer lost
		if err := c.do(); err != nil {
			r.note("hidden: %v", err)
		}
		out.err = errLost
	}
	r.note("%s: %s: %v killed=%v", c.name, c.what, out.err, out.killed)
	return out
}

func (r *run) note(format string, args ...any) {
	r.trail = append(r.trail, fmt.Sprintf(format, args...))
}

// use begins a life with the address; the run fails if another has it.
func (r *run) use(addr netip.Addr, who string) {
	if other, taken := r.live[addr]; taken {
		r.note("DUPLICATE %s: %s and %s", addr, other, who)
		r.count["duplicate"]++
	}
	r.live[addr] = who
	r.note("%s uses %s", who, addr)
}

func (r *run) drop(addr netip.Addr, who string) {
	if r.live[addr] == who {
		delete(r.live, addr)
	}
	r.note("%s leaves %s", who, addr)
}

// agent is a node of ours: it has one sandbox at a time.
type agent struct {
	*run
	name  string
	store ipam.Store
	// What its log has: rounds made, the sandbox begun, whether it is in use.
	round  int
	begun  *ipam.Claim
	inUse  bool
	rounds int
}

func (a *agent) main(ctx context.Context) {
	for a.round < a.rounds {
		if a.begun == nil {
			c := claim(fmt.Sprintf("10.0.0.%d", 1+a.rand.IntN(a.addresses)), a.name, a.round)
			c.Node.Name = a.name
			a.begun = &c
			a.pods[c.Owner.Pod()] = true
		}
		if !a.inUse && a.rand.IntN(8) > 0 { // else it gives up
			a.add(ctx)
		}
		a.del(ctx)
		a.pods[a.begun.Owner.Pod()] = false
		a.begun = nil
		a.round++
	}
}

func (a *agent) add(ctx context.Context) {
	for range 3 {
		_, err := a.store.CreateClaim(ctx, *a.begun)
		if errors.Is(err, ipam.ErrExists) {
			a.count["exists"]++
			err = a.adopt(ctx)
		}
		if err == nil {
			a.inUse = true
			a.use(a.begun.Ref.Addr, a.begun.Owner.ContainerID)
			a.count["ours"]++
			return
		}
		if !errors.Is(err, errLost) {
			return
		}
	}
}

// adopt takes over a claim that is mine or cooling.
func (a *agent) adopt(ctx context.Context) error {
	found, err := a.store.GetClaim(ctx, a.begun.Ref)
	if err != nil {
		return err
	}
	if found.State != ipam.Cooling && found.Owner.Key != a.begun.Owner.Key {
		return ipam.ErrExists
	}
	if found.State == ipam.Cooling {
		a.count["cooling"]++
	}
	mine := *a.begun
	mine.Version = found.Version
	_, err = a.store.UpdateClaim(ctx, mine)
	return err
}

// del may be killed and begins again; it ends when no claim is the sandbox's.
func (a *agent) del(ctx context.Context) {
	if a.inUse {
		a.drop(a.begun.Ref.Addr, a.begun.Owner.ContainerID)
		a.inUse = false
	}
	for {
		found, err := a.store.GetClaim(ctx, a.begun.Ref)
		if errors.Is(err, ipam.ErrNotFound) || err == nil && found.Owner.Key != a.begun.Owner.Key {
			return
		}
		if err == nil && found.State == ipam.Bound && a.rand.IntN(2) == 0 {
			found.State = ipam.Cooling
			_, err = a.store.UpdateClaim(ctx, found)
			if err == nil && a.rand.IntN(2) == 0 {
				return // it is deleted by someone later, or taken over
			}
			continue
		}
		if err == nil {
			err = a.store.DeleteClaim(ctx, found.Ref, found.Version)
		}
		if err == nil || errors.Is(err, ipam.ErrNotFound) {
			return
		}
	}
}

// caller of Whereabouts: its ADD and DEL as they are, but without the DEL that
// follows a lost race and deletes the winner's reservation.
func (r *run) whereaboutsPod(pod string, rounds int) *caller {
	c := &caller{name: "whereabouts " + pod, whereabouts: whereabouts{true}}
	c.main = func(ctx context.Context) {
		for i := range rounds {
			addr, ok := r.whereaboutsAdd(ctx, "default/"+pod)
			if !ok {
				continue
			}
			r.use(addr, fmt.Sprintf("whereabouts %s-%d", pod, i))
			r.count["whereabouts"]++
			_ = r.pass(ctx, "run", func() error { return nil })
			r.drop(addr, fmt.Sprintf("whereabouts %s-%d", pod, i))
			r.whereaboutsDel(ctx, addr)
		}
	}
	return c
}

func (r *run) whereaboutsAdd(ctx context.Context, podRef string) (netip.Addr, bool) {
	api := fakeAPI{r.world}
	others := map[netip.Addr]bool{}
	for range 6 {
		var version int
		var addr netip.Addr
		_ = r.pass(ctx, "GET pool", func() error {
			version, addr = r.poolVersion, r.lowestFree(podRef, others)
			return nil
		})
		if !addr.IsValid() {
			return addr, false
		}
		reservation, err := api.Get(ctx, ReservationName("", addr))
		if err == nil && reservation.Spec.PodRef != podRef {
			others[addr] = true
			continue
		}
		patch := r.pass(ctx, "PATCH pool", func() error {
			if r.poolVersion != version {
				return ipam.ErrStale
			}
			r.poolVersion++
			r.pool[addr] = podRef
			return nil
		})
		if patch != nil {
			continue
		}
		if err == nil { // its own
			return addr, true
		}
		var fresh Reservation
		fresh.Name, fresh.Spec = ReservationName("", addr), ReservationSpec{PodRef: podRef, IfName: "net1"}
		if _, err := api.Create(ctx, fresh); err != nil {
			r.count["lost race"]++
			_ = r.pass(ctx, "clean pool", func() error {
				r.poolVersion++
				delete(r.pool, addr)
				return nil
			})
			return netip.Addr{}, false
		}
		return addr, true
	}
	return netip.Addr{}, false
}

func (r *run) lowestFree(podRef string, others map[netip.Addr]bool) netip.Addr {
	addrs := []netip.Addr{ref("10.0.0.1").Addr, ref("10.0.0.2").Addr, ref("10.0.0.3").Addr}[:r.addresses]
	for _, addr := range addrs {
		if r.pool[addr] == podRef {
			return addr
		}
	}
	for _, addr := range addrs {
		if _, taken := r.pool[addr]; !taken && !others[addr] {
			return addr
		}
	}
	return netip.Addr{}
}

func (r *run) whereaboutsDel(ctx context.Context, addr netip.Addr) {
	_ = r.pass(ctx, "PATCH pool", func() error {
		r.poolVersion++
		delete(r.pool, addr)
		return nil
	})
	_ = r.pass(ctx, "DELETE reservation", func() error {
		delete(r.reservations, ReservationName("", addr))
		return nil
	})
}

// reconciler is Whereabouts': it deletes reservations whose pod is gone. (The
// real one also deletes those of pods that came in the meantime.)
func (r *run) reconciler(rounds int) *caller {
	c := &caller{name: "reconciler", whereabouts: whereabouts{true}}
	c.main = func(ctx context.Context) {
		for range rounds {
			_ = r.pass(ctx, "reconcile", func() error {
				for name, reservation := range r.reservations {
					if exists, ours := r.pods[reservation.Spec.PodRef]; ours && !exists {
						delete(r.reservations, name)
						r.count["reconciled"]++
					}
				}
				return nil
			})
		}
	}
	return c
}

// mender is the controller's loop.
func (r *run) mender(rounds int) *caller {
	m := &Mender{Store: fakeStore{world: r.world}, API: fakeAPI{r.world}}
	c := &caller{name: "mender"}
	c.main = func(ctx context.Context) {
		for range rounds {
			if _, err := m.Mend(ctx, ipam.DefaultSpace, r.clock); err != nil && !errors.Is(err, errLost) {
				r.note("mender: %v", err)
				r.count["mend error"]++
			}
		}
	}
	return c
}

func (r *run) agents(n, rounds int) []*caller {
	var callers []*caller
	for i := range n {
		a := &agent{run: r, name: fmt.Sprintf("p%d", i), rounds: rounds}
		a.store = WithReservations(fakeStore{world: r.world}, fakeAPI{r.world})
		callers = append(callers, &caller{name: a.name, main: a.main})
	}
	return callers
}

// settled reports what is wrong when nothing is under way any more.
func (r *run) settled() error {
	m := &Mender{Store: fakeStore{world: r.world}, API: fakeAPI{r.world}}
	for _, later := range []time.Duration{0, LeftOver} {
		if _, err := m.Mend(context.Background(), ipam.DefaultSpace, r.clock.Add(later)); err != nil {
			return err
		}
	}
	for name, reservation := range r.reservations {
		addr, _ := parseReservation("", name)
		if _, ok := r.claims[ref(addr.String())]; !ok && reservation.Marked() {
			return fmt.Errorf("reservation %s is left over", name)
		}
	}
	for claimRef, c := range r.claims {
		if c.State == ipam.Bound && !r.reservations[ReservationName("", claimRef.Addr)].Marked() {
			return fmt.Errorf("claim %s is Bound to %s without a reservation", claimRef, c.Owner.ContainerID)
		}
	}
	return nil
}

func TestNoAddressIsGivenAwayTwice(t *testing.T) {
	const halves = 2
	for half := range uint64(halves) {
		t.Run(fmt.Sprint(half), func(t *testing.T) {
			t.Parallel()
			race(t, half, halves)
		})
	}
}

func race(t *testing.T, first, step uint64) {
	total := map[string]int{}
	for seed := first; seed < 10_000; seed += step {
		r := newRun(t, seed, seed%4 != 0)
		callers := r.agents(3, 3)
		callers = append(callers, r.whereaboutsPod("w0", 3), r.whereaboutsPod("w1", 3), r.mender(6), r.reconciler(3))
		r.play(callers...)
		err := r.settled()
		if r.count["duplicate"] > 0 || r.count["mend error"] > 0 || err != nil {
			for _, line := range r.trail {
				t.Log(line)
			}
			t.Fatalf("seed %d: %v, %v", seed, r.count, err)
		}
		for what, n := range r.count {
			total[what] += n
		}
	}
	for _, what := range []string{"ours", "whereabouts", "exists", "cooling", "lost race", "reconciled"} {
		if total[what] < 300 {
			t.Errorf("only %d times %q: the test doesn't see what it should", total[what], what)
		}
	}
	t.Log(total)
}
