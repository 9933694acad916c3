//go:build e2e

package ipam

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// pools follows the API server with the rights of a daemon until the test ends
// or stop is called.
func pools(t *testing.T, node, dir string) (_ *crd.Pools, stop func()) {
	t.Helper()
	config := server.As(apiserver.Daemon)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	p, err := crd.NewPools(config, client, crd.PoolsOptions{Node: node, StateDir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { p.Run(ctx) })
	stop = func() {
		cancel()
		run.Wait()
	}
	t.Cleanup(stop)
	return p, stop
}

// make creates an IPPool for the test.
func makePool(t *testing.T, name, spec string) {
	t.Helper()
	if _, err := objects(t, "IPPool").Create(t.Context(), object(t, "IPPool", name, spec), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := objects(t, "IPPool").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// labelled makes a Node or a Namespace.
func labelled(t *testing.T, kind, name string, labels map[string]string) {
	t.Helper()
	client, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	o.SetName(name)
	o.SetLabels(labels)
	resource := schema.GroupVersionResource{Version: "v1", Resource: strings.ToLower(kind) + "s"}
	if _, err := client.Resource(resource).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func namesOf(pools []ipam.Pool) []string {
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return names
}

// TestPool: what a person declares is what the machinery gets.
func TestPool(t *testing.T) {
	p, _ := pools(t, "n1", "")
	makePool(t, "whole", `{ranges: [{range: 192.0.2.0/24, start: 192.0.2.9, end: 192.0.2.20, exclude: [192.0.2.12/31], gateway: 192.0.2.1, excludeGateway: false, layer3: true, includeNetwork: true, includeBroadcast: true}, {range: "2001:db8::/64", gateway: "2001:db8::1"}],
		addressSpace: blue, newSpace: {mode: claims, grid: {v4: 28}, cooldown: 5s, maxBlocks: 2, whereabouts: true}, order: lowest, cooldown: 90s, sticky: true, probe: true,
		routes: [{dst: 0.0.0.0/0, gw: 192.0.2.1}, {dst: "2001:db8:1::/48"}], dns: {nameservers: [192.0.2.53], domain: a.example, search: [b], options: ["ndots:2"]}, definition: net}`)
	got, err := p.Pool(t.Context(), "whole", "default")
	if err != nil {
		t.Fatal(err)
	}
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	same(t, got, ipam.Pool{
		Name:  "whole",
		Space: ipam.Space{Name: "blue", Grid: iprange.Grid{V4: 28, V6: 122}, Mode: ipam.Claims, Cooldown: 5 * time.Second, MaxBlocks: 2, Whereabouts: true},
		Ranges: []ipam.PoolRange{
			{Spec: iprange.Spec{Range: "192.0.2.0/24", Start: "192.0.2.9", End: "192.0.2.20", Exclude: []string{"192.0.2.12/31"}, Gateways: []netip.Addr{four}, Layer3: true, IncludeNetwork: true, IncludeBroadcast: true}, Gateway: four},
			{Spec: iprange.Spec{Range: "2001:db8::/64", Gateways: []netip.Addr{six}, ExcludeGateway: true}, Gateway: six},
		},
		Order: ipam.Lowest, Cooldown: 90 * time.Second, Sticky: true, Probe: true,
		Routes:      []ipam.PoolRoute{{Dst: netip.MustParsePrefix("0.0.0.0/0"), GW: four}, {Dst: netip.MustParsePrefix("2001:db8:1::/48")}},
		Nameservers: []string{"192.0.2.53"}, Domain: "a.example", Search: []string{"b"}, Options: []string{"ndots:2"},
		Definition: "net",
	})
	makePool(t, "least", `ranges: [{range: 192.0.2.0/24}]`)
	got, err = p.Pool(t.Context(), "least", "default")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, ipam.Pool{
		Name: "least", Space: ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto},
		Ranges: []ipam.PoolRange{{Spec: iprange.Spec{Range: "192.0.2.0/24", ExcludeGateway: true}}},
	})
}

// TestPoolsWithoutRun: they are read.
func TestPoolsWithoutRun(t *testing.T) {
	makePool(t, "run-not", `{ranges: [{range: 192.0.2.0/24}], default: true}`)
	p, stop := pools(t, "n1", "")
	stop()
	got, err := p.Match(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	same(t, namesOf(got), []string{"run-not"})
}

// TestSelectors: who may use a pool, named and unnamed, and what the others are
// told.
func TestSelectors(t *testing.T) {
	labelled(t, "Node", "selected", map[string]string{"rack": "a"})
	labelled(t, "Node", "other", map[string]string{"rack": "b"})
	labelled(t, "Namespace", "red", map[string]string{"team": "red"})
	makePool(t, "sel-all", `{ranges: [{range: 192.0.2.0/24}], default: true}`)
	makePool(t, "sel-named", `{ranges: [{range: 192.0.2.0/24}]}`)
	makePool(t, "sel-rack", `{ranges: [{range: 192.0.2.0/24}], default: true, nodeSelector: {matchLabels: {rack: a}}}`)
	makePool(t, "sel-team", `{ranges: [{range: 192.0.2.0/24}], default: true, namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red, blue]}]}}`)
	here, _ := pools(t, "selected", "")
	there, _ := pools(t, "other", "")
	for _, tc := range []struct {
		pools     *crd.Pools
		namespace string
		want      []string
	}{
		{here, "red", []string{"sel-all", "sel-rack", "sel-team"}},
		{here, "default", []string{"sel-all", "sel-rack"}},
		{there, "red", []string{"sel-all", "sel-team"}},
		{there, "default", []string{"sel-all"}},
	} {
		got, err := tc.pools.Match(t.Context(), tc.namespace)
		if err != nil {
			t.Fatal(err)
		}
		same(t, namesOf(got), tc.want)
	}
	for name, want := range map[string]string{
		"sel-named": "", "sel-rack": "its nodeSelector (rack=a) doesn't admit node other with the labels rack=b",
		"sel-team": "its namespaceSelector (team in (blue,red)) doesn't admit namespace default", "sel-none": "no such pool; there are: sel-all, sel-named, sel-rack, sel-team",
	} {
		_, err := there.Pool(t.Context(), name, "default")
		check(t, err, want)
		if want != "" && !errors.Is(err, ipam.ErrNoPool) {
			t.Errorf("%v is no ErrNoPool", err)
		}
	}
	// A namespace that was made just now.
	labelled(t, "Namespace", "blue", map[string]string{"team": "blue"})
	if _, err := there.Pool(t.Context(), "sel-team", "blue"); err != nil {
		t.Error(err)
	}
}

// TestNote: a pool of a network definition is made once, and never over one
// that is there.
func TestNote(t *testing.T) {
	p, _ := pools(t, "n1", "")
	makePool(t, "declared", `ranges: [{range: 192.0.2.0/24}]`)
	definition := func(name string) ipam.Pool {
		return ipam.Pool{
			Name: name, Space: ipam.Space{Name: "noted", Grid: iprange.Grid{V4: 27, V6: 120}, Mode: ipam.Blocks},
			Ranges: []ipam.PoolRange{{
				Spec: iprange.Spec{
					Range: "010.000.0.7/24", Start: "10.0.0.010", Exclude: []string{"10.0.0.64/26", "010.0.0.9"},
					Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, ExcludeGateway: true,
				},
				Gateway: netip.MustParseAddr("10.0.0.1"),
			}},
			Order: ipam.Lowest, Definition: "Some_Net",
		}
	}
	for range 3 {
		p.Note(definition("declared"))
		p.Note(definition("Some_Net"))
	}
	name := ipam.SpaceName("Some_Net", netip.Prefix{})
	var got ipam.Pool
	eventually(t, "the pool is made", func() bool {
		var err error
		got, err = p.Pool(t.Context(), name, "default")
		return err == nil
	})
	want := definition(name)
	want.Ranges[0].Spec = iprange.Spec{
		Range: "10.0.0.7/24", Start: "10.0.0.10", Exclude: []string{"10.0.0.64/26", "10.0.0.9", "10.0.0.2"},
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, ExcludeGateway: true,
	}
	same(t, got, want)
	before, err := definition(name).Ranges[0].Spec.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	after, err := got.Ranges[0].Spec.Resolve()
	if err != nil || !after.Usable.Equal(before.Usable) {
		t.Errorf("usable %s, of the definition %s, %v", after.Usable, before.Usable, err)
	}
	declared, err := p.Pool(t.Context(), "declared", "default")
	if err != nil || declared.Definition != "" {
		t.Errorf("%+v, %v", declared, err)
	}
	calls, err := server.Calls()
	if err != nil {
		t.Fatal(err)
	}
	created := 0
	for _, c := range calls {
		if c.Verb == "create" && c.Resource == "ippools" && c.User == apiserver.Daemon {
			created++
		}
	}
	if created > 2 {
		t.Errorf("%d requests for two pools", created)
	}
}

// TestPoolsWithoutAPIServer: what was known last is known at a start without
// the API server, and changes come when it is back.
func TestPoolsWithoutAPIServer(t *testing.T) {
	labelled(t, "Node", "cut", map[string]string{"rack": "a"})
	labelled(t, "Namespace", "green", map[string]string{"team": "green"})
	makePool(t, "cut-rack", `{ranges: [{range: 192.0.2.0/24}], default: true, nodeSelector: {matchLabels: {rack: a}}, namespaceSelector: {matchLabels: {team: green}}}`)
	dir := t.TempDir()
	before, stop := pools(t, "cut", dir)
	if _, err := before.Pool(t.Context(), "cut-rack", "green"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pools.json")
	eventually(t, "the copy has pool and labels", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), `"cut":{"rack":"a"}`) && strings.Contains(string(text), `"team":"green"`)
	})
	stop()

	server.Stop()
	started := false
	t.Cleanup(func() {
		if !started {
			if err := server.Start(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	p, _ := pools(t, "cut", dir)
	begin := time.Now()
	if _, err := p.Pool(t.Context(), "cut-rack", "green"); err != nil {
		t.Error(err)
	}
	got, err := p.Match(t.Context(), "green")
	if err != nil {
		t.Error(err)
	}
	same(t, namesOf(got), []string{"cut-rack"})
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("it took %s", d)
	}
	_, err = p.Pool(t.Context(), "cut-other", "green")
	check(t, err, "not available now")
	if errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("nobody can know: %v", err)
	}
	blind, _ := pools(t, "cut", t.TempDir())
	_, err = blind.Match(t.Context(), "green")
	check(t, err, "not available now")

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	started = true
	makePool(t, "cut-new", `{ranges: [{range: 192.0.2.0/24}], default: true}`)
	eventually(t, "the new pool", func() bool {
		got, err := p.Match(t.Context(), "green")
		return err == nil && len(got) == 2
	})
}
