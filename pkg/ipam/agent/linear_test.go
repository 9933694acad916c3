package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// use is one operation on one address of a history.
type use struct {
	addr    netip.Addr
	owner   string
	release bool
}

// ownership is a register for each address: free, or one owner's. An ADD takes
// a free one, a DEL frees it.
func ownership() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[netip.Addr][]porcupine.Operation{}
			for _, op := range history {
				a := op.Input.(use).addr
				parts[a] = append(parts[a], op)
			}
			var all [][]porcupine.Operation
			for _, part := range parts {
				all = append(all, part)
			}
			return all
		},
		Init: func() any { return "" },
		Step: func(state, input, _ any) (bool, any) {
			u := input.(use)
			if u.release {
				return state == u.owner, ""
			}
			return state == "", u.owner
		},
		Equal: func(a, b any) bool { return a == b },
	}
}

// history collects what concurrent clients did.
type history struct {
	mu    sync.Mutex
	begin time.Time
	ops   []porcupine.Operation
}

func (h *history) add(client int, call time.Time, u use) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{
		ClientId: client, Input: u, Call: call.Sub(h.begin).Nanoseconds(), Return: time.Since(h.begin).Nanoseconds(),
	})
}

// Clients on several nodes allocate and release at the same time, while the
// work in the background goes on and requests fail. What they saw could have
// happened one after the other: each address had one owner at a time.
func TestHistoriesAreLinearizable(t *testing.T) {
	clients, rounds := 24, 60
	if soakOps() > 0 {
		rounds = 2000
	}
	seed := simSeed()
	t.Logf("seed %d", seed)
	store := ipamtest.NewMemory()
	store.SetFaults(ipamtest.Random(seed, ipamtest.Chances{Lost: 0.01, Unanswered: 0.01, Late: 0.01}))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	begin := time.Now()
	var agents []*Agent
	var background sync.WaitGroup
	for i := range 4 {
		a, err := Open(&life{memory: &memory{}, step: func(string) error { return nil }}, (&memory{}).recovered(), Options{
			Store: store.As(fmt.Sprint("node", i)), Node: ipam.Node{Name: fmt.Sprint("node", i), Boot: fmt.Sprint("boot", i)},
			Alive: func(ipam.Owner, string) bool { return false },
			Clock: func() time.Duration { return 1000 * time.Since(begin) }, // cool-downs pass
			Alarm: func(a Alarm) { t.Errorf("alarm: %+v", a) },
		})
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, a)
		background.Go(func() { churn(ctx, a, store) })
	}
	h := &history{begin: time.Now()}
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() { client(t, h, agents[c%len(agents)], c, rounds, rand.New(rand.NewPCG(seed, uint64(c)))) })
	}
	group.Wait()
	stop()
	background.Wait()
	t.Logf("%d operations", len(h.ops))
	if len(h.ops) < rounds*clients/2 {
		t.Error("too few operations succeeded to say anything")
	}
	if result := porcupine.CheckOperationsTimeout(ownership(), h.ops, time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", result)
	}
}

// churn does the work of one node in the background, but for sweeping: the
// sandboxes of this test are known to live.
func churn(ctx context.Context, a *Agent, store *ipamtest.Memory) {
	for ctx.Err() == nil {
		for _, work := range []func(context.Context) error{a.Ahead, a.Cool, a.Answer, a.Resume, a.GiveBack, a.Scan, a.Mirror} {
			if err := work(ctx); err != nil && ctx.Err() != nil {
				return
			}
		}
		if len(store.Waiting()) > 8 {
			_ = store.ApplyLate(0) // its error is that of a request that nobody waits for
		}
		time.Sleep(time.Millisecond)
	}
}

// client adds and deletes sandboxes, some at a time.
func client(t *testing.T, h *history, a *Agent, id, rounds int, random *rand.Rand) {
	ranges := []string{"10.0.0.0/26", "10.0.0.0/25", "10.0.0.0/20", "10.0.1.0/28"}
	type held struct {
		key   ipam.Key
		addrs []netip.Addr
	}
	var mine []held
	for i := range rounds {
		name := fmt.Sprintf("c%d-%d", id, i)
		if len(mine) > 2 || len(mine) > 0 && random.IntN(2) == 0 {
			h1 := mine[0]
			mine = mine[1:]
			call := time.Now()
			if err := a.Release(t.Context(), h1.key); err != nil {
				t.Errorf("%s: %v", h1.key, err)
				return
			}
			for _, addr := range h1.addrs {
				h.add(id, call, use{addr, h1.key.ContainerID, true})
			}
		}
		r := request(t, name, ranges[random.IntN(len(ranges))])
		call := time.Now()
		got, err := a.Allocate(t.Context(), r)
		switch {
		case err == nil:
			for _, addr := range addrsOf(got) {
				h.add(id, call, use{addr, name, false})
			}
			mine = append(mine, held{r.Owner.Key, addrsOf(got)})
		case !errors.Is(err, ipam.ErrNotReady) && !errors.Is(err, ipam.ErrExhausted):
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

// The checker is worth nothing if it accepts a duplicate.
func TestDuplicateIsNotLinearizable(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	ops := []porcupine.Operation{
		{ClientId: 0, Input: use{a, "x", false}, Call: 0, Return: 1},
		{ClientId: 1, Input: use{a, "y", false}, Call: 2, Return: 3},
		{ClientId: 0, Input: use{a, "x", true}, Call: 4, Return: 5},
	}
	if porcupine.CheckOperations(ownership(), ops) {
		t.Error("two owners at a time were accepted")
	}
}
