package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// fakeCluster answers what it is told to.
type fakeCluster struct {
	nodes   map[string]Evidence
	keepers map[string]KeeperEvidence
	pods    map[string]bool
	// asked counts live questions; before runs at each.
	asked  int
	before func()
}

func (f *fakeCluster) Node(_ context.Context, n ipam.Node) Evidence {
	f.asked++
	e := f.nodes[n.Name]
	if f.before != nil {
		f.before()
	}
	return e
}

func (f *fakeCluster) Keeper(_ context.Context, k ipam.Keeper) KeeperEvidence {
	return f.keepers[k.Name]
}

func (f *fakeCluster) HasPod(namespace, name string) bool { return f.pods[namespace+"/"+name] }

// fakeObjects keeps spaces and pools, and makes blocks of the store's.
type fakeObjects struct {
	spaces map[string]*v1alpha1.AddressSpace
	pools  map[string]*v1alpha1.IPPool
	blocks []v1alpha1.IPBlock
	boxes  []v1alpha1.NodeIPAM
	serial int
	writes []string
}

func (f *fakeObjects) Spaces(context.Context) ([]v1alpha1.AddressSpace, error) {
	var all []v1alpha1.AddressSpace
	for _, name := range slices.Sorted(maps.Keys(f.spaces)) {
		all = append(all, *f.spaces[name].DeepCopy())
	}
	return all, nil
}

func (f *fakeObjects) Pools(context.Context) ([]v1alpha1.IPPool, error) {
	var all []v1alpha1.IPPool
	for _, name := range slices.Sorted(maps.Keys(f.pools)) {
		all = append(all, *f.pools[name].DeepCopy())
	}
	return all, nil
}

func (f *fakeObjects) Blocks(_ context.Context, space string) ([]v1alpha1.IPBlock, error) {
	return slices.DeleteFunc(slices.Clone(f.blocks), func(b v1alpha1.IPBlock) bool { return b.Spec.Space != space }), nil
}

func (f *fakeObjects) NodeIPAMs(context.Context) ([]v1alpha1.NodeIPAM, error) {
	return slices.Clone(f.boxes), nil
}

func (f *fakeObjects) DeleteNodeIPAM(_ context.Context, name string, _ ipam.Version) error {
	f.boxes = slices.DeleteFunc(f.boxes, func(b v1alpha1.NodeIPAM) bool { return b.Name == name })
	return nil
}

func (f *fakeObjects) object(resource, name string) metav1.Object {
	if resource == v1alpha1.ResourceIPPools {
		return f.pools[name]
	}
	return f.spaces[name]
}

func (f *fakeObjects) change(what, resource, name string, v ipam.Version, do func(metav1.Object) error) error {
	o := f.object(resource, name)
	if versionOf(o) != v {
		return ipam.ErrStale
	}
	f.serial++
	f.writes = append(f.writes, what+" "+name)
	o.SetResourceVersion(fmt.Sprint(f.serial))
	return do(o)
}

func (f *fakeObjects) SetStatus(_ context.Context, resource, name string, v ipam.Version, status any) error {
	return f.change("status", resource, name, v, func(o metav1.Object) error {
		data, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			return err
		}
		return json.Unmarshal(data, o)
	})
}

func (f *fakeObjects) SetFinalizers(_ context.Context, resource, name string, v ipam.Version, finalizers []string) error {
	return f.change("finalizers", resource, name, v, func(o metav1.Object) error {
		o.SetFinalizers(finalizers)
		return nil
	})
}

// bench is a controller on fakes, and a clock.
type bench struct {
	*Controller
	cluster *fakeCluster
	objects *fakeObjects
	store   *ipamtest.Memory
	clock   time.Time
	log     bytes.Buffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		cluster: &fakeCluster{nodes: map[string]Evidence{}, keepers: map[string]KeeperEvidence{}, pods: map[string]bool{}},
		objects: &fakeObjects{
			spaces: map[string]*v1alpha1.AddressSpace{"default": {ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "s"}}},
			pools:  map[string]*v1alpha1.IPPool{},
		},
		store: ipamtest.NewMemory(),
		clock: start,
	}
	b.Controller = New(Controller{Cluster: b.cluster, Objects: b.objects, Store: b.store, Log: slog.New(slog.NewTextHandler(&b.log, nil))}, Times{})
	b.now = func() time.Time { return b.clock }
	if _, err := b.store.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid()}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) pass(t *testing.T, later time.Duration) {
	t.Helper()
	b.clock = b.clock.Add(later)
	if err := b.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var blockRef = ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("10.0.0.0/26")}

func claimRef(addr string) ipam.ClaimRef {
	return ipam.ClaimRef{Space: "default", Addr: netip.MustParseAddr(addr)}
}

func (b *bench) block(t *testing.T, mode ipam.BlockMode, owner ipam.Node) ipam.Block {
	t.Helper()
	made, err := b.store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef, Mode: mode, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (b *bench) claim(t *testing.T, c ipam.Claim) ipam.Claim {
	t.Helper()
	made, err := b.store.CreateClaim(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func boundTo(n ipam.Node) ipam.Claim {
	return ipam.Claim{
		Ref: claimRef("10.0.0.70"), State: ipam.Bound, Node: n,
		Owner: ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "x"}, PodNamespace: "default", PodName: "p"},
	}
}

// TestMatrix runs every row of the GC matrix through whole passes.
func TestMatrix(t *testing.T) {
	for _, s := range situations() {
		b := newBench(t)
		b.block(t, ipam.Leased, s.of())
		b.claim(t, boundTo(s.of()))
		b.cluster.nodes["a"] = s.evidence()
		b.pass(t, 0)
		if s.api == "flaky" {
			b.cluster.nodes["a"] = Evidence{Err: errAPI}
			b.pass(t, s.wait)
			b.cluster.nodes["a"] = s.evidence()
			b.pass(t, 0)
		} else {
			b.pass(t, s.wait)
		}
		block, err := b.store.GetBlock(t.Context(), blockRef)
		if err != nil {
			t.Fatal(err)
		}
		claim, err := b.store.GetClaim(t.Context(), claimRef("10.0.0.70"))
		if err != nil {
			t.Fatal(err)
		}
		taken := block.Owner == ipam.Node{} && block.Suspect && block.Mode == ipam.Leased
		cooling := claim.State == ipam.Cooling && claim.Suspect && claim.Node == ipam.Node{}
		if taken != s.mayTake() || cooling != s.mayTake() {
			t.Errorf("%s: block %+v, claim %+v", s, block, claim)
		}
		if !s.mayTake() && (block.Suspect || block.Owner != s.of() || claim.State != ipam.Bound) {
			t.Errorf("%s: changed to %+v, %+v", s, block, claim)
		}
	}
}

func TestSharedBlocksStay(t *testing.T) {
	b := newBench(t)
	before := b.block(t, ipam.Shared, ipam.Node{})
	b.pass(t, 0)
	b.pass(t, 24*time.Hour)
	if after, err := b.store.GetBlock(t.Context(), blockRef); err != nil || after != before {
		t.Errorf("%+v, %v", after, err)
	}
}

// TestWhatHappensMeanwhileWins: between the evidence and the write the node
// comes back, in each way that it can.
func TestWhatHappensMeanwhileWins(t *testing.T) {
	for _, test := range []struct {
		name string
		act  func(t *testing.T, b *bench)
		want string
	}{
		{"its agent touches the block", func(t *testing.T, b *bench) {
			block, err := b.store.GetBlock(t.Context(), blockRef)
			if err != nil {
				t.Fatal(err)
			}
			block.Owner.UID = "uid-2"
			if _, err := b.store.UpdateBlock(t.Context(), block); err != nil {
				t.Fatal(err)
			}
		}, "uid-2"},
		{"the block is deleted", func(t *testing.T, b *bench) {
			block, err := b.store.GetBlock(t.Context(), blockRef)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.store.DeleteBlock(t.Context(), blockRef, block.Version); err != nil {
				t.Fatal(err)
			}
		}, "deleted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.block(t, ipam.Leased, nodeA)
			b.pass(t, 0)
			b.cluster.before = func() { b.cluster.before = nil; test.act(t, b) }
			b.pass(t, times.Gone)
			block, err := b.store.GetBlock(t.Context(), blockRef)
			if got := block.Owner.UID; err == nil && got != test.want || err != nil && test.want != "deleted" {
				t.Errorf("%+v, %v", block, err)
			}
		})
	}
}

// TestManyWritesAskAgain: evidence that is too old isn't acted upon.
func TestManyWritesAskAgain(t *testing.T) {
	b := newBench(t)
	for i := range 4 {
		c := boundTo(nodeA)
		c.Ref = claimRef(fmt.Sprintf("10.0.0.%d", 70+i))
		b.claim(t, c)
	}
	b.pass(t, 0)
	b.cluster.asked = 0
	// Every look at the clock costs time, as slow writes do.
	b.clock = b.clock.Add(times.Gone)
	b.now = func() time.Time { b.clock = b.clock.Add(fresh / 2); return b.clock }
	if err := b.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.cluster.asked < 2 {
		t.Errorf("the node was asked for %d times", b.cluster.asked)
	}
}

func TestCoolingClaimsAreDeleted(t *testing.T) {
	b := newBench(t)
	b.claim(t, boundTo(nodeA))
	b.pass(t, 0)
	b.pass(t, times.Gone)
	b.pass(t, time.Second)
	b.pass(t, times.Cooling-time.Minute)
	if _, err := b.store.GetClaim(t.Context(), claimRef("10.0.0.70")); err != nil {
		t.Fatal("deleted too early", err)
	}
	b.pass(t, time.Minute)
	if c, err := b.store.GetClaim(t.Context(), claimRef("10.0.0.70")); err == nil {
		t.Errorf("still there: %+v", c)
	}
}

func TestNodeIPAMsOfNodesThatAreGone(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"here", "gone", "new", "off"} {
		b.objects.boxes = append(b.objects.boxes, v1alpha1.NodeIPAM{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeIPAMStatus{UID: "uid-1"},
		})
	}
	b.cluster.nodes["here"] = Evidence{Node: &Node{UID: "uid-1"}}
	b.cluster.nodes["new"] = Evidence{Node: &Node{UID: "uid-2"}}
	b.cluster.nodes["off"] = Evidence{Node: &Node{UID: "uid-1", OutOfService: true}}
	b.pass(t, 0)
	if len(b.objects.boxes) != 4 {
		t.Errorf("deleted at once: %d are left", len(b.objects.boxes))
	}
	b.pass(t, times.Gone)
	var left []string
	for _, box := range b.objects.boxes {
		left = append(left, box.Name)
	}
	if diff := cmp.Diff([]string{"here", "new", "off"}, left); diff != "" {
		t.Errorf("NodeIPAMs (-want +got):\n%s", diff)
	}
}

func TestReports(t *testing.T) {
	b := newBench(t)
	b.cluster.nodes["a"] = Evidence{Node: &Node{Name: "a", UID: "uid-1"}}
	b.claim(t, boundTo(nodeA))
	b.pass(t, 0)
	b.pass(t, suspicious)
	b.pass(t, suspicious)
	if got := strings.Count(b.log.String(), "pod that doesn't exist"); got != 1 {
		t.Errorf("told %d times:\n%s", got, b.log.String())
	}
	b.cluster.pods["default/p"] = true
	b.pass(t, 0)
	if c, err := b.store.GetClaim(t.Context(), claimRef("10.0.0.70")); err != nil || c.State != ipam.Bound {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestCensus(t *testing.T) {
	b := newBench(t)
	b.objects.pools["p"] = &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"},
		Spec:       v1alpha1.IPPoolSpec{Ranges: []v1alpha1.PoolRange{{Range: "10.0.0.0/28", Gateway: "10.0.0.1"}}},
	}
	b.objects.pools["other"] = &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "other", UID: "o"},
		Spec:       v1alpha1.IPPoolSpec{AddressSpace: "notyet", Ranges: []v1alpha1.PoolRange{{Range: "fd00::/64"}}},
	}
	// Of the block, 10.0.0.2, .3 and .40 are in use; the last is not the pool's.
	b.objects.blocks = []v1alpha1.IPBlock{{
		Spec:   v1alpha1.IPBlockSpec{Space: "default", Prefix: "10.0.0.0/26", Mode: v1alpha1.BlockLeased, Owner: &v1alpha1.Node{Name: "a"}},
		Status: v1alpha1.IPBlockStatus{Used: []byte{0b1100, 0, 0, 0, 0, 1}},
	}}
	node := Evidence{Node: &Node{Name: "a", UID: "uid-1"}}
	b.cluster.nodes["a"] = node
	for addr, state := range map[string]ipam.ClaimState{"10.0.0.4": ipam.Bound, "10.0.0.5": ipam.Cooling, "10.0.0.6": ipam.Kept, "10.0.0.99": ipam.Bound} {
		c := boundTo(nodeA)
		c.Ref, c.State = claimRef(addr), state
		if state == ipam.Kept {
			c.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "p"}
		}
		b.claim(t, c)
	}
	b.cluster.keepers["p"] = KeeperEvidence{PodExists: true}
	b.pass(t, 0)
	b.pass(t, 0)
	got := b.objects.pools["p"].Status
	conditions := got.Conditions
	got.Conditions = nil
	want := v1alpha1.IPPoolStatus{Capacity: "13", Used: "4", Cooling: "1", Free: "8"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	if len(conditions) != 1 || conditions[0].Type != Exhausted || conditions[0].Reason != "Enough" {
		t.Errorf("%+v", conditions)
	}
	if got := b.objects.pools["other"].Status; got.Free != got.Capacity || got.Used != "0" || got.Capacity != "18446744073709551614" {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{v1alpha1.FinalizerInUse}, b.objects.pools["p"].Finalizers); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	space := b.objects.spaces["default"]
	if space.Status.Blocks != 1 || space.Status.Leased != 1 || space.Status.Claims != 4 || !slices.Contains(space.Finalizers, v1alpha1.FinalizerInUse) {
		t.Errorf("%+v", space)
	}
	// A pass that finds nothing new writes nothing.
	b.objects.writes = nil
	b.pass(t, 0)
	if len(b.objects.writes) > 0 {
		t.Errorf("written again: %v", b.objects.writes)
	}
	// A block of nobody is free, whatever its last node told.
	b.objects.blocks[0].Spec.Owner = nil
	b.pass(t, 0)
	if got := b.objects.pools["p"].Status; got.Used != "2" || got.Free != "10" {
		t.Errorf("a block was taken from its node: %+v", got)
	}
	// What isn't in use any more is let go.
	b.objects.blocks = nil
	for _, addr := range []string{"10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.99"} {
		c, err := b.store.GetClaim(t.Context(), claimRef(addr))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.DeleteClaim(t.Context(), c.Ref, c.Version); err != nil {
			t.Fatal(err)
		}
	}
	b.pass(t, 0)
	b.pass(t, 0)
	if len(b.objects.pools["p"].Finalizers)+len(b.objects.spaces["default"].Finalizers) > 0 {
		t.Errorf("%v, %v", b.objects.pools["p"].Finalizers, b.objects.spaces["default"].Finalizers)
	}
}

func TestExhausted(t *testing.T) {
	for _, test := range []struct {
		capacity, free uint64
		status         metav1.ConditionStatus
		reason         string
	}{
		{100, 100, metav1.ConditionFalse, "Enough"},
		{100, 11, metav1.ConditionFalse, "Enough"},
		{100, 10, metav1.ConditionFalse, "NearLimit"},
		{5, 1, metav1.ConditionFalse, "Enough"},
		{100, 0, metav1.ConditionTrue, "NoneFree"},
	} {
		got := exhausted(1, iprange.From64(test.capacity), iprange.From64(test.free))
		if got.Status != test.status || got.Reason != test.reason {
			t.Errorf("%d of %d: %+v", test.free, test.capacity, got)
		}
	}
}

func TestPause(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Second: 29 * time.Second, 10 * time.Second: 30 * time.Second, time.Minute: 3 * time.Minute} {
		if got := pause(30*time.Second, took); got != want {
			t.Errorf("after %s it pauses for %s, want %s", took, got, want)
		}
	}
}
