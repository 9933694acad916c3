//go:build e2e

package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func makeNode(t *testing.T, name string) ipam.Node {
	t.Helper()
	node, err := admin(t).CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := ipam.Node{Name: name, UID: string(node.UID), Boot: "boot-" + name, Log: "log-" + name}
	if err := agents(t).EnsureNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

func deleteNode(t *testing.T, name string) {
	t.Helper()
	if err := admin(t).CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// makePod is a pod on a node, with nobody who runs or ends it.
func makePod(t *testing.T, name, node string) (remove func()) {
	t.Helper()
	pods := admin(t).CoreV1().Pods("default")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		now := int64(0)
		if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
	}
}

type holdings struct {
	block ipam.BlockRef
	claim ipam.ClaimRef
}

// give makes a leased block and a claim for a node, in a space of its own.
func give(t *testing.T, n ipam.Node, keep ipam.Keeper) holdings {
	t.Helper()
	store := agents(t)
	space := ipam.SpaceName(n.Name, netip.Prefix{})
	if _, err := store.Space(t.Context(), ipam.Space{Name: space, Grid: iprange.DefaultGrid()}); err != nil {
		t.Fatal(err)
	}
	h := holdings{
		block: ipam.BlockRef{Space: space, Prefix: netip.MustParsePrefix("10.0.0.0/26")},
		claim: ipam.ClaimRef{Space: space, Addr: netip.MustParseAddr("10.0.0.70")},
	}
	if _, err := store.CreateBlock(t.Context(), ipam.Block{Ref: h.block, Mode: ipam.Leased, Owner: n}); err != nil {
		t.Fatal(err)
	}
	c := ipam.Claim{
		Ref: h.claim, State: ipam.Bound, Node: n, Keep: keep,
		Owner: ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "x"}, PodNamespace: "default", PodName: "p"},
	}
	if _, err := store.CreateClaim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return h
}

// held says whether the node has still both.
func (h holdings) held(t *testing.T, n ipam.Node) bool {
	t.Helper()
	store := agents(t)
	block, err := store.GetBlock(t.Context(), h.block)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := store.GetClaim(t.Context(), h.claim)
	if err != nil {
		t.Fatal(err)
	}
	return block.Owner == n && !block.Suspect && claim.Node == n && claim.State == ipam.Bound
}

// keeps fails if the node loses anything for three times the grace.
func (h holdings) keeps(t *testing.T, n ipam.Node, why string) {
	t.Helper()
	for end := time.Now().Add(3 * quick.Gone); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if !h.held(t, n) {
			t.Fatalf("%s: it lost its block or claim", why)
		}
	}
}

func (h holdings) isTaken(t *testing.T) {
	t.Helper()
	store := agents(t)
	wait(t, func() error {
		b, err := store.GetBlock(t.Context(), h.block)
		if err == nil && (b.Owner != ipam.Node{} || !b.Suspect || b.Mode != ipam.Leased) {
			err = fmt.Errorf("block %+v", b)
		}
		return err
	})
}

func TestANodeThatIsGone(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "goes")
	removePod := makePod(t, "on-goes", n.Name)
	h := give(t, n, ipam.Keeper{})
	h.keeps(t, n, "it is there")
	deleteNode(t, n.Name)
	h.keeps(t, n, "a pod of it exists")
	removePod()
	h.isTaken(t)
	store := agents(t)
	wait(t, func() error { _, err := store.GetClaim(t.Context(), h.claim); return gone(err) })
	wait(t, func() error { return gone(store.Ask(t.Context(), n.Name, h.block)) })

	// Any agent takes the block.
	other := makeNode(t, "takes")
	b, err := store.GetBlock(t.Context(), h.block)
	if err != nil {
		t.Fatal(err)
	}
	b.Owner = other
	if _, err := store.UpdateBlock(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestANodeThatIsReplaced(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "again")
	h := give(t, n, ipam.Keeper{})
	deleteNode(t, n.Name)
	makeNode(t, n.Name)
	time.Sleep(1100 * time.Millisecond) // creation times have whole seconds
	makePod(t, "on-again", n.Name)
	h.isTaken(t)
}

func TestANodeOutOfService(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "off")
	h := give(t, n, ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "sticky-0", Network: "x", IfName: "net1"})
	makeSet(t, "sticky", 1)
	nodes := admin(t).CoreV1().Nodes()
	node, err := nodes.Get(t.Context(), n.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}
	if node, err = nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.keeps(t, n, "it is unreachable")
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.isTaken(t)
	store := agents(t)
	is := func(state ipam.ClaimState) error {
		c, err := store.GetClaim(t.Context(), h.claim)
		if err == nil && (c.State != state || !c.Suspect || c.Node != ipam.Node{}) {
			err = fmt.Errorf("claim %+v, want %s", c, state)
		}
		return err
	}
	// Its address is kept while the StatefulSet has the ordinal.
	wait(t, func() error { return is(ipam.Kept) })
	time.Sleep(3 * quick.Twice)
	if err := is(ipam.Kept); err != nil {
		t.Fatal(err)
	}
	makeSet(t, "sticky", 0)
	wait(t, func() error { return is(ipam.Cooling) })
	wait(t, func() error { _, err := store.GetClaim(t.Context(), h.claim); return gone(err) })
}

// makeSet makes a StatefulSet or sets its replicas.
func makeSet(t *testing.T, name string, replicas int32) {
	t.Helper()
	sets := admin(t).AppsV1().StatefulSets("default")
	if found, err := sets.Get(t.Context(), name, metav1.GetOptions{}); err == nil {
		found.Spec.Replicas = &replicas
		if _, err := sets.Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	labels := map[string]string{"app": name}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
	if _, err := sets.Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownIsKept: the kind IPAMClaim isn't served here, so nothing is known.
func TestUnknownIsKept(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "vm")
	h := give(t, n, ipam.Keeper{})
	store := agents(t)
	c, err := store.GetClaim(t.Context(), h.claim)
	if err != nil {
		t.Fatal(err)
	}
	c.State, c.Keep = ipam.Kept, ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u", Network: "x", IfName: "net1"}
	if c, err = store.UpdateClaim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * quick.Twice)
	if now, err := store.GetClaim(t.Context(), h.claim); err != nil || now.Version != c.Version {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestCountsAndFinalizers(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "counted")
	h := give(t, n, ipam.Keeper{})
	client, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	pools := client.Resource(v1alpha1.Resource(v1alpha1.ResourceIPPools))
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "meta-cni.io/v1alpha1", "kind": "IPPool", "metadata": map[string]any{"name": "counted"},
		"spec": map[string]any{"addressSpace": h.block.Space, "ranges": []any{map[string]any{"range": "10.0.0.0/24", "gateway": "10.0.0.1"}}},
	}}
	if _, err := pools.Create(t.Context(), pool, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	store := agents(t)
	block, err := store.GetBlock(t.Context(), h.block)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Mirror(t.Context(), ipam.Usage{Ref: h.block, Bitmap: []byte{0b1100, 0, 0, 0, 0, 0, 0, 0}, At: time.Now(), Version: block.Version}); err != nil {
		t.Fatal(err)
	}
	status := func(o *unstructured.Unstructured, key string) any {
		value, _, _ := unstructured.NestedFieldNoCopy(o.Object, "status", key)
		return value
	}
	wait(t, func() error {
		got, err := pools.Get(t.Context(), "counted", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if status(got, "capacity") != "253" || status(got, "used") != "3" || status(got, "free") != "250" || !slices.Contains(got.GetFinalizers(), v1alpha1.FinalizerInUse) {
			return fmt.Errorf("%v", got.Object)
		}
		return nil
	})
	spaces := client.Resource(v1alpha1.Resource(v1alpha1.ResourceAddressSpaces))
	wait(t, func() error {
		got, err := spaces.Get(t.Context(), h.block.Space, metav1.GetOptions{})
		if err == nil && (status(got, "leased") != int64(1) || status(got, "claims") != int64(1) || !slices.Contains(got.GetFinalizers(), v1alpha1.FinalizerInUse)) {
			err = fmt.Errorf("%v", got.Object)
		}
		return err
	})
	// A pool that is in use goes when it isn't any more.
	if err := pools.Delete(t.Context(), "counted", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if _, err := pools.Get(t.Context(), "counted", metav1.GetOptions{}); err != nil {
		t.Fatalf("a pool in use was deleted: %v", err)
	}
	c, err := store.GetClaim(t.Context(), h.claim)
	if err != nil {
		t.Fatal(err)
	}
	if block, err = store.GetBlock(t.Context(), h.block); err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteClaim(t.Context(), h.claim, c.Version); err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteBlock(t.Context(), h.block, block.Version); err != nil {
		t.Fatal(err)
	}
	wait(t, func() error { _, err := pools.Get(t.Context(), "counted", metav1.GetOptions{}); return gone(err) })
	if err := spaces.Delete(t.Context(), h.block.Space, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, func() error { _, err := spaces.Get(t.Context(), h.block.Space, metav1.GetOptions{}); return gone(err) })
}

// TestTheNextLeads: the second one works when the first one has ended, and
// waits anew.
func TestTheNextLeads(t *testing.T) {
	stopFirst := start(t, "first")
	n := makeNode(t, "two")
	h := give(t, n, ipam.Keeper{})
	leases := admin(t).CoordinationV1().Leases(v1alpha1.Namespace)
	leads := func(name string) func() error {
		return func() error {
			lease, err := leases.Get(t.Context(), "meta-cni-controller", metav1.GetOptions{})
			if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != name) {
				err = fmt.Errorf("%v leads", lease.Spec.HolderIdentity)
			}
			return err
		}
	}
	wait(t, leads("first"))
	start(t, "second")
	deleteNode(t, n.Name)
	if err := stopFirst(); err != nil {
		t.Fatal(err)
	}
	wait(t, leads("second"))
	if !h.held(t, n) {
		t.Error("the new leader didn't wait")
	}
	h.isTaken(t)
}
