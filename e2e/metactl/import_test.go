//go:build e2e

package metactl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// make creates an object of a YAML text for the test.
func makeObject(t *testing.T, kind schema.GroupVersionResource, text string) {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	must(objects.Resource(kind).Namespace(o.GetNamespace()).Create(t.Context(), o, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		if err := objects.Resource(kind).Namespace(o.GetNamespace()).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// versions are all objects that an import may make or change, with their
// resourceVersions.
func versions(t *testing.T, namespace string) []string {
	t.Helper()
	var all []string
	ours := func(plural string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "meta-cni.io", Version: "v1alpha1", Resource: plural}
	}
	for kind, inside := range map[schema.GroupVersionResource]string{
		ours("ipclaims"): "meta-cni", ours("ipblocks"): "meta-cni", ours("addressspaces"): "",
		whereaboutsKind("ippools"): namespace, whereaboutsKind("overlappingrangeipreservations"): namespace, whereaboutsKind("nodeslicepools"): namespace,
	} {
		list := must(objects.Resource(kind).Namespace(inside).List(t.Context(), metav1.ListOptions{}))(t)
		for _, o := range list.Items {
			all = append(all, fmt.Sprintf("%s %s %s", kind.GroupResource(), o.GetName(), o.GetResourceVersion()))
		}
	}
	slices.Sort(all)
	return all
}

func installWhereabouts(t *testing.T, namespace, network string) {
	t.Helper()
	_, err := core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && namespace != "kube-system" {
		t.Fatal(err)
	}
	lead, key := "", ""
	if network != "" {
		lead, key = network+"-", fmt.Sprintf(`"network_name": %q, `, network)
	}
	api := "apiVersion: whereabouts.cni.cncf.io/v1alpha1\n"
	makeObject(t, whereaboutsKind("ippools"), api+fmt.Sprintf(`kind: IPPool
metadata: {name: %s198.51.100.0-24, namespace: %s}
spec: {range: 198.51.100.0/24, allocations: {"1": {id: c1, podref: apps/one, ifname: net1}, "2": {id: c2, podref: apps/two, ifname: net1}, "9": {id: c9, podref: apps/gone, ifname: net1}}}`, lead, namespace))
	makeObject(t, whereaboutsKind("ippools"), api+fmt.Sprintf(`kind: IPPool
metadata: {name: %s2001-db8-1---64, namespace: %s}
spec: {range: "2001:db8:1::/64", allocations: {"1": {id: c1, podref: apps/one, ifname: net1}}}`, lead, namespace))
	for name, pod := range map[string]string{"198.51.100.1": "one", "198.51.100.2": "two", "198.51.100.9": "gone", "2001-db8-1--1": "one"} {
		makeObject(t, whereaboutsKind("overlappingrangeipreservations"), api+fmt.Sprintf(`kind: OverlappingRangeIPReservation
metadata: {name: %s%s, namespace: %s}
spec: {podref: apps/%s, ifname: net1}`, lead, name, namespace, pod))
	}
	nads := schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}
	makeObject(t, nads, fmt.Sprintf(`apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: apps}
spec: {config: '{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "ipam": {"type": "whereabouts", %s"ipRanges": [{"range": "198.51.100.0/24"}, {"range": "2001:db8:1::/64"}]}}'}`, key))
}

func TestImport(t *testing.T) {
	t.Cleanup(func() { wipe(t) })
	store := open(t)
	newNode(t, store, "n1")
	newNode(t, store, "n2")
	newPod(t, "one", "n1", "198.51.100.1", "2001:db8:1::1")
	newPod(t, "two", "n2", "198.51.100.2")
	installWhereabouts(t, "kube-system", "")

	before := versions(t, "kube-system")
	says(t, "ipam import-whereabouts", "claim default.198.51.100.1: create Bound, pod apps/one, net1 of lan, container c1, node n1, from apps/lan",
		"claim default.198.51.100.9: create Cooling", "4 of 4 claims are to be made; nothing was changed", "exit code 0")
	saysTo(t, viewer, "ipam import-whereabouts", "you lack a right", "exit code 1")
	if diff := cmp.Diff(before, versions(t, "kube-system")); diff != "" {
		t.Errorf("the dry run changed something (-before +after):\n%s", diff)
	}
	says(t, "ipam import-whereabouts --apply", "made 2 blocks and 4 claims; 0 claims were there before", "--whereabouts", "exit code 0")
	after := versions(t, "kube-system")
	for range 3 {
		says(t, "ipam import-whereabouts --apply", "made 0 blocks and 0 claims; 4 claims were there before", "exit code 0")
	}
	says(t, "ipam import-whereabouts --apply -o json", `"applied": true`, `"claims": []`, "exit code 0")
	if diff := cmp.Diff(after, versions(t, "kube-system")); diff != "" {
		t.Errorf("a repeated import changed something (-before +after):\n%s", diff)
	}
	says(t, "ipam show 198.51.100.1", "pod apps/one has it, net1 of network lan", "imported; its agent hasn't taken it over yet", "exit code 0")
	says(t, "ipam show 2001:db8:1::1", "pod apps/one has it", "exit code 0")
	says(t, "ipam check", "0 findings; looked at 1 spaces, 0 pools, 2 blocks, 4 claims", "exit code 0")
	says(t, "ipam release 198.51.100.1", "pod apps/one exists", "exit code 1")
}

// TestImportLeased: a node has leased the block that addresses are imported
// into; it is asked to share it.
func TestImportLeased(t *testing.T) {
	t.Cleanup(func() { wipe(t) })
	store := open(t)
	n1 := newNode(t, store, "n1")
	newPod(t, "one", "n1", "198.51.100.1", "2001:db8:1::1")
	installWhereabouts(t, "kube-system", "")
	must(store.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto}))(t)
	leased := must(store.CreateBlock(t.Context(), ipam.Block{Ref: blockRef("198.51.100.0/26"), Mode: ipam.Leased, Owner: n1}))(t)

	says(t, "ipam import-whereabouts --apply --wait 1s", "ask node n1 to share it", "is still leased by node n1: is meta-cnid running there?", "exit code 1")
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var agent sync.WaitGroup
	agent.Go(func() { shareWhenAsked(ctx, t, store, leased) })
	says(t, "ipam import-whereabouts --apply", "exit code 0")
	agent.Wait()
	says(t, "ipam import-whereabouts --apply", "made 0 blocks and 0 claims; 4 claims were there before", "exit code 0")
}

// shareWhenAsked is what a node's agent does.
func shareWhenAsked(ctx context.Context, t *testing.T, store *crd.Store, b ipam.Block) {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		asked, err := store.Asked(ctx, b.Owner.Name)
		if err == nil && slices.Contains(asked, b.Ref) {
			b.Mode, b.Owner = ipam.Shared, ipam.Node{}
			if _, err := store.UpdateBlock(ctx, b); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Error("nobody asked for the block")
}

// TestImportBeside: Whereabouts goes on; its reservations of imported claims
// are marked, once.
func TestImportBeside(t *testing.T) {
	t.Cleanup(func() { wipe(t) })
	store := open(t)
	newNode(t, store, "n1")
	newPod(t, "one", "n1", "198.51.100.1", "2001:db8:1::1")
	newPod(t, "two", "n1", "198.51.100.2")
	const namespace = "wb"
	installWhereabouts(t, namespace, "blue")

	before := versions(t, namespace)
	says(t, "ipam import-whereabouts --namespace wb --side-by-side --skip-leaked", "3 of 3 claims are to be made", "deployments/whereabouts.yaml", "exit code 0")
	if diff := cmp.Diff(before, versions(t, namespace)); diff != "" {
		t.Errorf("the dry run changed something (-before +after):\n%s", diff)
	}
	says(t, "ipam import-whereabouts --namespace wb --side-by-side --apply --skip-leaked", "space blue: ensure (mode claims, blocks /26 and /122, beside Whereabouts)", "made 2 blocks and 3 claims", "exit code 0")
	marked := 0
	list := must(objects.Resource(whereaboutsKind("overlappingrangeipreservations")).Namespace(namespace).List(t.Context(), metav1.ListOptions{}))(t)
	for _, r := range list.Items {
		if r.GetLabels()["app.kubernetes.io/managed-by"] == "meta-cni" {
			marked++
		}
	}
	if marked != 3 {
		t.Errorf("%d reservations are marked as ours, want those of 3 claims", marked)
	}
	after := versions(t, namespace)
	says(t, "ipam import-whereabouts --namespace wb --side-by-side --apply --skip-leaked", "made 0 blocks and 0 claims; 3 claims were there before", "exit code 0")
	if diff := cmp.Diff(after, versions(t, namespace)); diff != "" {
		t.Errorf("a repeated import changed something (-before +after):\n%s", diff)
	}
	if got := says(t, "ipam show", "blue"); !strings.Contains(got, "beside Whereabouts") {
		t.Error(got)
	}
}
