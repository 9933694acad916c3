//go:build e2e

package metactl

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func TestNotInstalled(t *testing.T) {
	for _, text := range []string{"kubectl apply -f deployments/meta-cni.yaml", "exit code 1"} {
		if !strings.Contains(uninstalled, text) {
			t.Errorf("metactl doesn't say %q but\n%s", text, uninstalled)
		}
	}
}

// world is a space with a leased block, a shared one, and pods.
type world struct {
	store  *crd.Store
	n1, n2 ipam.Node
}

func newWorld(t *testing.T) world {
	t.Helper()
	t.Cleanup(func() { wipe(t) })
	store := open(t)
	w := world{store, newNode(t, store, "n1"), newNode(t, store, "n2")}
	pool(t, "lan", `{ranges: [{range: 10.0.0.0/24, gateway: 10.0.0.1}, {range: "2001:db8::/64"}]}`)
	must(store.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto}))(t)
	must(store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef("10.0.0.0/26"), Mode: ipam.Shared}))(t)
	leased := must(store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef("10.0.0.64/26"), Mode: ipam.Leased, Owner: w.n1}))(t)
	pod := newPod(t, "block", "n1", "10.0.0.65")
	must(store.Mirror(t.Context(), ipam.Usage{
		Ref: leased.Ref, Bitmap: []byte{2}, At: time.Now(), Version: leased.Version,
		Owners: []ipam.AddressOwner{{Addr: netip.MustParseAddr("10.0.0.65"), Owner: owner("block", string(pod.UID)), Since: time.Now()}},
	}))(t)
	return w
}

func pool(t *testing.T, name, spec string) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "meta-cni.io/v1alpha1", "kind": "IPPool"}}
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	o.SetName(name)
	o.Object["spec"] = fields
	kind := schema.GroupVersionResource{Group: "meta-cni.io", Version: "v1alpha1", Resource: "ippools"}
	must(objects.Resource(kind).Create(t.Context(), o, metav1.CreateOptions{}))(t)
}

func blockRef(prefix string) ipam.BlockRef {
	return ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix(prefix)}
}

func owner(pod, uid string) ipam.Owner {
	return ipam.Owner{Key: ipam.Key{ContainerID: "c-" + pod, IfName: "net1", Network: "lan"}, PodNamespace: "apps", PodName: pod, PodUID: uid}
}

// claim makes a claim of a pod, an hour ago.
func (w world) claim(t *testing.T, addr string, n ipam.Node, pod, uid string) ipam.Claim {
	t.Helper()
	return must(w.store.CreateClaim(t.Context(), ipam.Claim{
		Ref: ipam.ClaimRef{Space: "default", Addr: netip.MustParseAddr(addr)}, State: ipam.Bound, Node: n,
		Owner: owner(pod, uid), Since: time.Now().Add(-time.Hour), Pool: "lan",
	}))(t)
}

func (w world) has(t *testing.T, c ipam.Claim) bool {
	t.Helper()
	_, err := w.store.GetClaim(t.Context(), c.Ref)
	if err != nil && !errors.Is(err, ipam.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestShow(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, "web", "n1", "10.0.0.5", "2001:db8::5")
	w.claim(t, "10.0.0.5", w.n1, "web", string(pod.UID))
	must(w.store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef("2001:db8::/122"), Mode: ipam.Shared}))(t)
	w.claim(t, "2001:db8::5", w.n1, "web", string(pod.UID))

	for _, user := range []string{operator, viewer} {
		saysTo(t, user, "ipam show", "lan   default  10.0.0.0/24", "~2^64", "10.0.0.64/26    Leased  1/64", "10.0.0.0/26     Shared  1/64", "exit code 0")
		saysTo(t, user, "ipam show 10.0.0.5", "pod apps/web has it, net1 of network lan", "Bound since", "n1 (boot boot-n1)", "c-web", "exit code 0")
		saysTo(t, user, "ipam show 2001:db8::5", "default.20010db8000000000000000000000005", "pod apps/web", "exit code 0")
		saysTo(t, user, "ipam show 10.0.0.65", "pod apps/block has it", "as that told at", "exit code 0")
		saysTo(t, user, "ipam show 10.0.0.66", "in a leased block of node n1, not in its list of", "exit code 0")
		saysTo(t, user, "ipam show 10.0.0.6", "10.0.0.6 in space default: free", "exit code 0")
		saysTo(t, user, "ipam show 10.0.0.1 -o json", `"state": "Reserved"`, "exit code 0")
		saysTo(t, user, "ipam show 192.0.2.1", "in no pool", "exit code 0")
	}
	says(t, "ipam show --node n1", "10.0.0.64/26", "n1    2")
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	web := newPod(t, "web", "n1", "10.0.0.5")
	w.claim(t, "10.0.0.5", w.n1, "web", string(web.UID))
	other := newPod(t, "other", "n2", "10.0.0.6")
	c := w.claim(t, "10.0.0.6", w.n2, "other", string(other.UID))
	saysTo(t, viewer, "ipam check", "0 findings; looked at 1 spaces, 1 pools, 2 blocks, 2 claims, 2 nodes, 3 pods", "exit code 0")

	t.Run("two pods have one address", func(t *testing.T) {
		newPod(t, "twin", "n2", "10.0.0.65")
		got := saysTo(t, viewer, "ipam check", "DUPLICATE address 10.0.0.65 of space default: pods apps/block (node n1) and apps/twin (node n2)", "delete pod twin", "exit code 1")
		if !strings.HasPrefix(got, "DUPLICATE") {
			t.Errorf("it isn't told first:\n%s", got)
		}
	})
	t.Run("a pod is gone", func(t *testing.T) {
		removePod(t, "other")
		saysTo(t, viewer, "ipam check", "SUSPICIOUS IPClaim default.10.0.0.6", "(pod-gone)", "exit code 1")
		newPod(t, "other", "n2", "10.0.0.6")
		saysTo(t, viewer, "ipam check", "(pod-replaced)", "exit code 1")
	})
	t.Run("a node was booted", func(t *testing.T) {
		again := w.n2
		again.Boot = "boot-again"
		boot(t, w.store, again)
		saysTo(t, viewer, "ipam check", "it belongs to an earlier life of node n2 (rebooted)", "NodeIPAM n2 says boot boot-again", "exit code 1")
	})
	t.Run("a node is gone", func(t *testing.T) {
		newPod(t, "stays", "n2")
		must(w.store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef("10.0.0.128/26"), Mode: ipam.Leased, Owner: w.n2}))(t)
		if err := core.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		saysTo(t, viewer, "ipam check", "WRONG node n2: is believed dead and has 1 blocks and 1 claims in use: default.10.0.0.128-26, default.10.0.0.6 (node-gone)", "now 1 do: apps/stays", "exit code 1")
		saysTo(t, viewer, "ipam check --ignore node-gone", "0 findings", "exit code 0")
	})
	t.Run("a claim without a block", func(t *testing.T) {
		must(w.store.UpdateClaim(t.Context(), withNode(c, w.n1)))(t)
		b := must(w.store.GetBlock(t.Context(), blockRef("10.0.0.0/26")))(t)
		if err := w.store.DeleteBlock(t.Context(), b.Ref, b.Version); err != nil {
			t.Fatal(err)
		}
		saysTo(t, viewer, "ipam check", "WRONG IPClaim default.10.0.0.5", "(stray)", "exit code 1")
	})
	t.Run("nobody may look", func(t *testing.T) {
		saysTo(t, nobody, "ipam check", "you lack a right", `User "nobody" cannot list resource`, "exit code 2")
	})
}

func withNode(c ipam.Claim, n ipam.Node) ipam.Claim {
	c.Node = n
	return c
}

func TestRelease(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, "web", "n1", "10.0.0.5")
	c := w.claim(t, "10.0.0.5", w.n1, "web", string(pod.UID))

	says(t, "ipam release 10.0.0.5", "pod apps/web exists", "exit code 1")
	removePod(t, "web")
	says(t, "ipam release 10.0.0.5", "node n1 exists and was not booted since", "exit code 1")
	if !w.has(t, c) {
		t.Fatal("it was released without proof")
	}
	again := w.n1
	again.Boot = "boot-again"
	boot(t, w.store, again)
	saysTo(t, viewer, "ipam release 10.0.0.5", "you lack a right", "cannot delete", "exit code 1")
	says(t, "ipam release 10.0.0.5", "is deleted; the address is free", "because node n1 was booted since", "exit code 0")
	if w.has(t, c) {
		t.Error("it is still there")
	}
	says(t, "ipam release 10.0.0.5", "nobody has it", "exit code 0")

	c = w.claim(t, "10.0.0.7", w.n2, "away", "uid")
	if err := core.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says(t, "ipam release 10.0.0.7", "its agent was heard of", "exit code 1")
	says(t, "ipam release 10.0.0.7 --force", "was not written again", "exit code 1")
	if !w.has(t, c) {
		t.Fatal("it was released without an answer")
	}
	says(t, "ipam release 10.0.0.7 --force --yes", "because forced although node n2 doesn't exist any more", "exit code 0")
	if w.has(t, c) {
		t.Error("it is still there")
	}
	says(t, "ipam release 10.0.0.65 --force --yes", "leased by node n1: only that node can release it (pod apps/block had it", "exit code 1")
}

// TestReleaseKept: an address that is kept for a StatefulSet's pod.
func TestReleaseKept(t *testing.T) {
	w := newWorld(t)
	kept := must(w.store.CreateClaim(t.Context(), ipam.Claim{
		Ref: ipam.ClaimRef{Space: "default", Addr: netip.MustParseAddr("10.0.0.9")}, State: ipam.Kept, Node: w.n1,
		Owner: owner("db-0", "uid"), Since: time.Now().Add(-time.Hour),
		Keep: ipam.Keeper{Kind: ipam.KeepPod, Namespace: "apps", Name: "db-0", Network: "lan", IfName: "net1"},
	}))(t)
	sets := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	set := &unstructured.Unstructured{}
	text := `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: apps}, spec: {replicas: 1, serviceName: db, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: none}]}}}}`
	if err := yaml.Unmarshal([]byte(text), &set.Object); err != nil {
		t.Fatal(err)
	}
	must(objects.Resource(sets).Namespace("apps").Create(t.Context(), set, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = objects.Resource(sets).Namespace("apps").Delete(context.Background(), "db", metav1.DeleteOptions{}) // the test may have done it
	})
	says(t, "ipam check", "0 findings", "exit code 0")
	says(t, "ipam release 10.0.0.9", "it is kept for Pod apps/db-0 (net1 of lan), which needs it", "exit code 1")
	if err := objects.Resource(sets).Namespace("apps").Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says(t, "ipam check", "(kept)", "exit code 1")
	says(t, "ipam release 10.0.0.9", "neither a pod apps/db-0 nor a StatefulSet db", "exit code 0")
	if w.has(t, kept) {
		t.Error("it is still there")
	}
}
