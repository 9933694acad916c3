package dir

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const fullPool = `
# The storage network.
apiVersion: meta-cni.io/v1alpha1
kind: IPPool
metadata: {name: full}
spec:
  ranges:
  - {range: 192.0.2.0/24, start: 192.0.2.10, end: 192.0.2.99, exclude: [192.0.2.20-192.0.2.29], gateway: 192.0.2.1}
  - {range: "2001:db8::/64", gateway: "2001:db8::1", excludeGateway: false, layer3: true}
  addressSpace: storage
  newSpace: {grid: {v4: 28}, mode: claims, cooldown: 90s, maxBlocks: 3}
  order: lowest
  cooldown: 10m
  sticky: true
  probe: true
  routes: [{dst: 198.51.100.0/24}, {dst: "2001:db8:1::/48", gw: "2001:db8::2"}]
  dns: {nameservers: [192.0.2.53], domain: example.org, search: [a], options: [ndots:2]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: full}
`

const selected = `
apiVersion: meta-cni.io/v1alpha1
kind: IPPool
metadata: {name: NAME}
spec:
  ranges: [{range: 10.0.0.0/24}]
  default: true
  nodeSelector: {matchLabels: {rack: NODE}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
`

func pool(name, node, namespace string) string {
	return strings.NewReplacer("NAME:", "NAME:", "NAMESPACE", namespace, "NAME", name, "NODE", node).Replace(selected)
}

func newPools(t *testing.T, files map[string]string) Pools {
	t.Helper()
	p := Pools{Dir: t.TempDir(), Labels: map[string]string{"rack": "r1"}, Log: slog.New(slog.DiscardHandler)}
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(p.Dir, name), []byte(text), 0o600))
	}
	return p
}

func compare() []cmp.Option {
	return []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
}

func TestPool(t *testing.T) {
	p := newPools(t, map[string]string{"a.yaml": fullPool, "README.md": "no YAML: {"})
	got, err := p.Pool(t.Context(), "full", "default")
	must(t, err)
	gateway := netip.MustParseAddr("192.0.2.1")
	gateway6 := netip.MustParseAddr("2001:db8::1")
	want := ipam.Pool{
		Name:  "full",
		Space: ipam.Space{Name: "storage", Grid: iprange.Grid{V4: 28, V6: 122}, Mode: ipam.Claims, Cooldown: 90 * time.Second, MaxBlocks: 3},
		Ranges: []ipam.PoolRange{
			{Spec: iprange.Spec{Range: "192.0.2.0/24", Start: "192.0.2.10", End: "192.0.2.99", Exclude: []string{"192.0.2.20-192.0.2.29"}, Gateways: []netip.Addr{gateway}, ExcludeGateway: true}, Gateway: gateway},
			{Spec: iprange.Spec{Range: "2001:db8::/64", Gateways: []netip.Addr{gateway6}, Layer3: true}, Gateway: gateway6},
		},
		Order: ipam.Lowest, Cooldown: 10 * time.Minute, Sticky: true, Probe: true,
		Routes:      []ipam.PoolRoute{{Dst: netip.MustParsePrefix("198.51.100.0/24")}, {Dst: netip.MustParsePrefix("2001:db8:1::/48"), GW: netip.MustParseAddr("2001:db8::2")}},
		Nameservers: []string{"192.0.2.53"}, Domain: "example.org", Search: []string{"a"}, Options: []string{"ndots:2"},
	}
	if diff := cmp.Diff(want, got, compare()...); diff != "" {
		t.Error(diff)
	}
	if _, err := p.Pool(t.Context(), "other", "default"); !errors.Is(err, ipam.ErrNoPool) || !strings.Contains(err.Error(), `"full"`) {
		t.Errorf("an unknown pool: %v", err)
	}
	must(t, os.Remove(filepath.Join(p.Dir, "a.yaml")))
	if _, err := p.Pool(t.Context(), "full", "default"); !errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("after the file has gone: %v", err)
	}
	p.Dir += "/missing"
	if got, err := p.Match(t.Context(), "default"); err != nil || len(got) != 0 {
		t.Errorf("a missing folder: %v %v", got, err)
	}
}

func TestPoolSelectors(t *testing.T) {
	p := newPools(t, map[string]string{
		"b.yaml": pool("b", "r1", "default"), "a.yml": pool("a", "r1", "default"),
		"c.json": pool("c", "r2", "default"), "d.yaml": pool("d", "r1", "other"), "full.yaml": fullPool,
	})
	got, err := p.Match(t.Context(), "default")
	must(t, err)
	var names []string
	for _, pool := range got {
		names = append(names, pool.Name)
	}
	if diff := cmp.Diff([]string{"a", "b"}, names); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"c": "nodeSelector", "d": "namespaceSelector"} {
		if _, err := p.Pool(t.Context(), name, "default"); !errors.Is(err, ipam.ErrNoPool) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, err := p.Pool(t.Context(), "d", "other")
	must(t, err)
	if diff := cmp.Diff(ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto}, plain.Space); diff != "" {
		t.Error(diff)
	}
}

// TestWrongSelector: a pool that can't be judged isn't one that is not for this
// node, beside which another would do.
func TestWrongSelector(t *testing.T) {
	p := newPools(t, map[string]string{"a.yaml": `
apiVersion: meta-cni.io/v1alpha1
kind: IPPool
metadata: {name: a}
spec: {ranges: [{range: 192.0.2.0/24}], nodeSelector: {matchExpressions: [{key: zone, operator: Near}]}}
`})
	if _, err := p.Pool(t.Context(), "a", "default"); err == nil || errors.Is(err, ipam.ErrNoPool) || !strings.Contains(err.Error(), "Near") {
		t.Error(err)
	}
}

// TestWrongPools names the file and what is wrong in it.
func TestWrongPools(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"no YAML", "spec:", "spec: {", "yaml"},
		{"an unknown key", "sticky: true", "stiky: true", "stiky"},
		{"an order", "order: lowest", "order: highest", "highest"},
		{"a mode", "mode: claims", "mode: free", "free"},
		{"a grid", "v4: 28", "v4: 33", "33"},
		{"a space", "addressSpace: storage", "addressSpace: St", "St"},
		{"a range", "192.0.2.0/24", "192.0.2.0/33", "192.0.2.0/33"},
		{"an exclusion", "192.0.2.20-192.0.2.29", "nonsense", "nonsense"},
		{"a gateway", "gateway: 192.0.2.1}", "gateway: gw}", "gw"},
		{"a route", "198.51.100.0/24", "198.51.100.0/44", "198.51.100.0/44"},
		{"a duration", "cooldown: 10m", "cooldown: 10", "cooldown"},
		{"a negative duration", "cooldown: 90s", "cooldown: -90s", "negative"},
		{"no name", "{name: full}", "{}", "no name"},
		{"twice", "apiVersion: v1\nkind: ConfigMap", "apiVersion: meta-cni.io/v1alpha1\nkind: IPPool", "twice"},
	} {
		text := strings.Replace(fullPool, c.old, c.new, 1)
		if text == fullPool {
			t.Fatalf("%s: nothing was changed", c.name)
		}
		p := newPools(t, map[string]string{"a.yaml": text})
		_, err := p.Pool(t.Context(), "full", "default")
		if err == nil || !strings.Contains(err.Error(), filepath.Join(p.Dir, "a.yaml")) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
