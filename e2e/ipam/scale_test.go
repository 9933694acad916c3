//go:build e2e

package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/iprange"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// fleet is many nodes, each with a log on the disk, a connection and a rate
// limit of its own, as a daemon has them.
type fleet struct {
	t      *testing.T
	agents []*agent.Agent
	stores []*crd.Store
	granted
}

// granted finds duplicates.
type granted struct {
	mu   sync.Mutex
	have map[netip.Addr]string
}

func (g *granted) add(t *testing.T, addr netip.Addr, owner string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if other := g.have[addr]; other != "" {
		t.Errorf("DUPLICATE: %s was given to %s and %s", addr, other, owner)
	}
	g.have[addr] = owner
}

func newFleet(t *testing.T, name string, nodes int) *fleet {
	t.Helper()
	f := &fleet{t: t, granted: granted{have: map[netip.Addr]string{}}}
	ctx, stop := context.WithCancel(context.Background())
	var background sync.WaitGroup
	t.Cleanup(func() {
		stop()
		background.Wait()
		for i, a := range f.agents {
			f.stores[i].Close()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range nodes {
		node := ipam.Node{Name: fmt.Sprintf("%s-%d", name, i), UID: fmt.Sprintf("uid-%s-%d", name, i), Boot: fmt.Sprintf("boot-%d", i)}
		store := f.connect(node.Name)
		log, recovered, err := wal.Open(wal.Options{Dir: t.TempDir(), Reserve: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		bell := make(chan struct{}, 1)
		a, err := agent.Open(agent.Disk{Log: log}, recovered, agent.Options{
			Store: store, Node: node, Asked: bell, Log: slog.New(slog.DiscardHandler),
			Clock: func() time.Duration { return time.Since(begin) },
			Alive: func(ipam.Owner, string) bool { return false },
			Alarm: func(a agent.Alarm) { t.Errorf("alarm: %+v", a) },
		})
		if err != nil {
			t.Fatal(err)
		}
		f.agents, f.stores = append(f.agents, a), append(f.stores, store)
		background.Go(func() { a.Run(ctx) })
		background.Go(func() {
			store.Watch(ctx, node.Name, func() {
				select {
				case bell <- struct{}{}:
				default:
				}
			})
		})
	}
	f.register()
	return f
}

func (f *fleet) connect(node string) *crd.Store {
	f.t.Helper()
	config := rest.CopyConfig(server.Config)
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(50, 100)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		f.t.Fatal(err)
	}
	store, err := crd.New(config, client, crd.Options{Node: node, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	return store
}

func (f *fleet) register() {
	f.t.Helper()
	group, ctx := errgroup.WithContext(f.t.Context())
	group.SetLimit(16)
	for i, a := range f.agents {
		group.Go(func() error { return f.stores[i].EnsureNode(ctx, a.Node()) })
	}
	if err := group.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

func rangeIn(t *testing.T, space, cidr string) ipam.Range {
	t.Helper()
	w, err := iprange.Spec{Range: cidr}.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	return ipam.Range{
		Space: ipam.Space{Name: space, Grid: iprange.DefaultGrid(), Mode: ipam.Auto},
		Pool:  "pool-of-" + space, Text: cidr, Subnet: w.Subnet, Usable: w.Usable,
	}
}

func request(rg ipam.Range, container string) ipam.Request {
	return ipam.Request{
		Owner: ipam.Owner{
			Key:          ipam.Key{ContainerID: container, IfName: "net1", Network: rg.Space.Name},
			PodNamespace: "team-" + container[len(container)-1:], PodName: container, PodUID: "uid-" + container,
		},
		Wants: []ipam.Want{{Ranges: []ipam.Range{rg}}}, Order: ipam.FIFO,
	}
}

// addAll allocates for pods of each node at once; the answer is how long it
// took and the longest single one.
func (f *fleet) addAll(rg ipam.Range, pods int) (took, longest time.Duration) {
	f.t.Helper()
	var group sync.WaitGroup
	var worst atomic.Int64
	start := time.Now()
	for i, a := range f.agents {
		for p := range pods {
			group.Go(func() {
				r := request(rg, fmt.Sprintf("c-%d-%d", i, p))
				begin := time.Now()
				got, err := a.Allocate(f.t.Context(), r)
				if err != nil {
					f.t.Errorf("%s: %v", r.Owner.ContainerID, err)
					return
				}
				for d := int64(time.Since(begin)); ; {
					old := worst.Load()
					if d <= old || worst.CompareAndSwap(old, d) {
						break
					}
				}
				f.add(f.t, got[0].Prefix.Addr(), r.Owner.ContainerID)
			})
		}
	}
	group.Wait()
	return time.Since(start), time.Duration(worst.Load())
}

// writes counts what was written in a space, by kind.
type writes struct{ addresses, refused, mirror, node, reads int }

func (f *fleet) writes(space string) writes {
	f.t.Helper()
	calls, err := server.Calls()
	if err != nil {
		f.t.Fatal(err)
	}
	var w writes
	for _, c := range calls {
		isWrite := c.Verb == "create" || c.Verb == "update" || c.Verb == "patch" || c.Verb == "delete"
		ours := strings.HasPrefix(c.Name, space+".") || f.names(c)
		switch {
		case !ours:
		case !isWrite:
			w.reads++
		case c.Resource == "nodeipams" || c.Resource == "nodeipams/status":
			w.node++
		case strings.HasSuffix(c.Resource, "/status"):
			w.mirror++
		case c.Resource == "ipblocks" || c.Resource == "ipclaims":
			w.addresses++
			if c.Code >= 400 {
				w.refused++
			}
		}
	}
	return w
}

// names says whether a call is about one of the fleet's NodeIPAMs.
func (f *fleet) names(c apiserver.Call) bool {
	if !strings.HasPrefix(c.Resource, "nodeipams") {
		return false
	}
	for _, a := range f.agents {
		if a.Node().Name == c.Name {
			return true
		}
	}
	return false
}

func (f *fleet) report(what, space string, adds int, took, longest time.Duration) writes {
	f.t.Helper()
	w := f.writes(space)
	per := func(n int) float64 { return float64(n) / float64(adds) }
	f.t.Logf("%s: %d ADDs in %.2f s (%.0f/s, the longest %.2f s); writes an ADD: %.3f of blocks and claims (%d refused), %.3f mirror, %.3f NodeIPAM; %.3f reads by name",
		what, adds, took.Seconds(), float64(adds)/took.Seconds(), longest.Seconds(), per(w.addresses), w.refused, per(w.mirror), per(w.node), per(w.reads))
	return w
}

func (f *fleet) atMost(what string, got, limit float64) {
	f.t.Helper()
	if got > limit {
		f.t.Errorf("%s: %.3f, want at most %.3f", what, got, limit)
	}
}

// A large range: each node leases a block and allocates by itself.
func TestThousandPodsOnSlash16(t *testing.T) {
	const nodes, pods = 100, 10
	f := newFleet(t, "wide", nodes)
	took, longest := f.addAll(rangeIn(t, "wide", "10.10.0.0/16"), pods)
	f.mirrored()
	w := f.report("1,000 pods at once, 100 nodes, /16", "wide", nodes*pods, took, longest)
	f.atMost("seconds", took.Seconds(), 5)
	f.atMost("writes of blocks and claims an ADD", float64(w.addresses)/(nodes*pods), 0.15)
	f.atMost("mirror and NodeIPAM writes an ADD", float64(w.mirror+w.node)/(nodes*pods), 0.3)
	if len(f.have) != nodes*pods {
		t.Errorf("%d addresses, want %d", len(f.have), nodes*pods)
	}
}

func TestSixtyPodsANodeOnSlash16(t *testing.T) {
	const nodes, pods = 100, 60
	f := newFleet(t, "dense", nodes)
	took, longest := f.addAll(rangeIn(t, "dense", "10.10.0.0/16"), pods)
	f.mirrored()
	w := f.report("6,000 pods at once, 100 nodes, /16", "dense", nodes*pods, took, longest)
	f.atMost("writes of blocks and claims an ADD", float64(w.addresses)/(nodes*pods), 0.05)
	f.atMost("mirror and NodeIPAM writes an ADD", float64(w.mirror+w.node)/(nodes*pods), 0.3)
}

// mirrored has every node tell once how its blocks are used, as it does within
// ten seconds.
func (f *fleet) mirrored() {
	f.t.Helper()
	for _, a := range f.agents {
		if err := a.Mirror(f.t.Context()); err != nil {
			f.t.Error(err)
		}
	}
}

// A range in which just as many addresses are free as pods come: all are used
// before anybody hears that none is left.
func TestThousandPodsOnNearlyFullSlash20(t *testing.T) {
	const nodes, pods = 100, 10
	f := newFleet(t, "tight", nodes)
	rg := rangeIn(t, "tight", "10.20.0.0/20")
	f.fill(rg, int(rg.Usable.Count().Uint64())-nodes*pods)
	before := f.writes("tight")
	took, longest := f.addAll(rg, pods)
	w := f.report("1,000 pods at once, 100 nodes, the last 1,000 of a /20 (with what filled it)", "tight", nodes*pods, took, longest)
	f.atMost("seconds", took.Seconds(), 30)
	perAdd := float64(w.addresses-before.addresses) / (nodes * pods)
	t.Logf("%.3f writes an ADD without what filled it", perAdd)
	f.atMost("writes an ADD", perAdd, 2)
	_, err := f.agents[0].Allocate(t.Context(), request(rg, "one-too-many"))
	if !errors.Is(err, ipam.ErrExhausted) {
		t.Fatalf("the next one: %v", err)
	}
	for _, want := range []string{"pool-of-tight", "10.20.0.0/20", "4094 usable", "4094 claimed", "namespace old: 3094"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// fill claims addresses of a range for pods that were there before.
func (f *fleet) fill(rg ipam.Range, count int) {
	f.t.Helper()
	ctx := f.t.Context()
	config := rest.CopyConfig(server.Config)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		f.t.Fatal(err)
	}
	store, err := crd.New(config, client, crd.Options{Node: "filler", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	defer store.Close()
	space, err := store.Space(ctx, rg.Space)
	if err != nil {
		f.t.Fatal(err)
	}
	for block := range space.Grid.Blocks(rg.Usable).From(iprange.Uint128{}) {
		if _, err := store.CreateBlock(ctx, ipam.Block{Ref: ipam.BlockRef{Space: space.Name, Prefix: block}, Mode: ipam.Shared}); err != nil {
			f.t.Fatal(err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	n := 0
	for addr := range rg.Usable.Addrs() {
		if n++; n > count {
			break
		}
		group.Go(func() error {
			_, err := store.CreateClaim(ctx, ipam.Claim{
				Ref: ipam.ClaimRef{Space: space.Name, Addr: addr}, State: ipam.Bound, Node: ipam.Node{Name: "old", Boot: "b", Log: "l"},
				Owner: ipam.Owner{Key: ipam.Key{ContainerID: "old-" + addr.String(), IfName: "net1", Network: "n"}, PodNamespace: "old", PodName: "old"},
			})
			return err
		})
		f.add(f.t, addr, "old")
	}
	if err := group.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

// A small range that many nodes share: every address finds somebody, and is
// found again when it is free.
func TestSlash28SharedByFiftyNodes(t *testing.T) {
	const nodes, usable, rounds = 50, 14, 6
	f := newFleet(t, "tiny", nodes)
	rg := rangeIn(t, "tiny", "10.30.0.0/28")
	start, adds, served := time.Now(), 0, map[netip.Addr]int{}
	for round := range rounds {
		owners := f.scramble(rg, round, served)
		adds += nodes
		if len(owners) != usable {
			t.Fatalf("round %d: %d of %d addresses were given out", round, len(owners), usable)
		}
		for i, key := range owners {
			if err := f.agents[i].Release(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		f.cooled(rg)
	}
	took := time.Since(start)
	w := f.report(fmt.Sprintf("%d rounds of 50 ADDs at once on a /28", rounds), "tiny", adds, took, 0)
	f.atMost("seconds", took.Seconds(), 30)
	f.atMost("writes an ADD", float64(w.addresses)/float64(adds), 2)
	if len(served) != usable {
		t.Errorf("%d addresses were ever used", len(served))
	}
}

// cooled waits until all claims of the range say that they were released, as
// they do within a second.
func (f *fleet) cooled(rg ipam.Range) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		claims, err := f.stores[0].SpaceClaims(f.t.Context(), rg.Space.Name, rg.Usable)
		if err != nil {
			f.t.Fatal(err)
		}
		bound := 0
		for _, c := range claims {
			if c.State == ipam.Bound {
				bound++
			}
		}
		if bound == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%d claims are still bound after all were released", bound)
		}
	}
}

// scramble has all nodes ask at once; the answer is who got one, by node.
func (f *fleet) scramble(rg ipam.Range, round int, served map[netip.Addr]int) map[int]ipam.Key {
	f.t.Helper()
	var mu sync.Mutex
	owners, now := map[int]ipam.Key{}, map[netip.Addr]string{}
	var group sync.WaitGroup
	for i, a := range f.agents {
		group.Go(func() {
			r := request(rg, fmt.Sprintf("r%d-%d", round, i))
			got, err := a.Allocate(f.t.Context(), r)
			if errors.Is(err, ipam.ErrExhausted) {
				return
			}
			if err != nil {
				f.t.Errorf("%s: %v", r.Owner.ContainerID, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			addr := got[0].Prefix.Addr()
			if other := now[addr]; other != "" {
				f.t.Errorf("DUPLICATE: %s was given to %s and %s", addr, other, r.Owner.ContainerID)
			}
			now[addr] = r.Owner.ContainerID
			owners[i] = r.Owner.Key
			served[addr]++
		})
	}
	group.Wait()
	return owners
}
