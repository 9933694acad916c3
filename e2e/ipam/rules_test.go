//go:build e2e

package ipam

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
)

// objects is the client for one kind.
func objects(t *testing.T, kind string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	resource, namespaced := map[string]string{
		"IPPool": v1alpha1.ResourceIPPools, "AddressSpace": v1alpha1.ResourceAddressSpaces, "IPBlock": v1alpha1.ResourceIPBlocks,
		"IPClaim": v1alpha1.ResourceIPClaims, "NodeIPAM": v1alpha1.ResourceNodeIPAMs,
	}[kind], kind != "IPPool" && kind != "AddressSpace"
	all := client.Resource(v1alpha1.Resource(resource))
	if namespaced {
		return all.Namespace(v1alpha1.Namespace)
	}
	return all
}

// object is one of our group with the spec in YAML.
func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{}}
	var parsed map[string]any
	if err := yaml.Unmarshal([]byte(spec), &parsed); err != nil {
		t.Fatal(err)
	}
	if parsed != nil {
		o.Object["spec"] = parsed
	}
	o.SetAPIVersion(v1alpha1.GroupVersion().String())
	o.SetKind(kind)
	o.SetName(name)
	return o
}

// check compares what the API server says with the text that must be in it;
// no text is a success.
func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error = %v\nwant one with %q", err, want)
	}
}

// TestCreationRules: what the API server refuses, and that it says why.
func TestCreationRules(t *testing.T) {
	for _, tc := range []struct{ what, kind, name, spec, want string }{
		{"least", "IPPool", "a", `ranges: [{range: 192.0.2.0/24}]`, ""},
		{"all", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24, start: 192.0.2.9, end: 192.0.2.20, exclude: [192.0.2.10, 192.0.2.12/31, 192.0.2.14-192.0.2.15], gateway: 192.0.2.1, excludeGateway: false, layer3: true}, {range: "2001:db8::/64", gateway: "2001:db8::1"}], addressSpace: blue, order: lowest, cooldown: 1h30m0.5s, sticky: true, probe: true, routes: [{dst: 0.0.0.0/0, gw: 192.0.2.1}, {dst: "2001:db8:1::/48"}], dns: {nameservers: [192.0.2.53], domain: a.example, search: [b], options: ["ndots:2"]}, default: true, nodeSelector: {matchLabels: {a: b}}, namespaceSelector: {matchExpressions: [{key: a, operator: Exists}]}, newSpace: {mode: claims, grid: {v4: 28}}, definition: ns/net}`, ""},
		{"window", "IPPool", "a", `ranges: [{range: 192.0.2.10-192.0.2.20/24}]`, ""},
		{"pair", "IPPool", "a", `ranges: [{range: "2001:db8::1-2001:db8::9"}]`, ""},
		{"host bits", "IPPool", "a", `ranges: [{range: 192.0.2.225/28}]`, ""},
		{"no range", "IPPool", "a", `ranges: []`, "should have at least 1 items"},
		{"ranges missing", "IPPool", "a", `default: true`, "spec.ranges: Required"},
		{"bad range", "IPPool", "a", `ranges: [{range: 192.0.2.300/24}]`, "write a CIDR (192.0.2.0/24), first-last/prefix"},
		{"leading zeros", "IPPool", "a", `ranges: [{range: 192.0.02.0/24}]`, "write a CIDR (192.0.2.0/24)"},
		{"address as range", "IPPool", "a", `ranges: [{range: 192.0.2.1}]`, "write a CIDR (192.0.2.0/24)"},
		{"three ends", "IPPool", "a", `ranges: [{range: 192.0.2.1-192.0.2.2-192.0.2.3}]`, "write a CIDR (192.0.2.0/24)"},
		{"gateway", "IPPool", "a", `ranges: [{range: 192.0.2.0/24, gateway: 192.0.2.1/24}]`, "write one IP address such as 192.0.2.7"},
		{"spelling", "IPPool", "a", `ranges: [{range: "2001:db8::/64", gateway: "2001:DB8:0::1"}]`, "IPv6 in small letters and as short as can be"},
		{"exclude", "IPPool", "a", `ranges: [{range: 192.0.2.0/24, exclude: [192.0.2.1-]}]`, "first-last (192.0.2.10-192.0.2.20)"},
		{"negative cooldown", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24}], cooldown: -1s}`, "it can't be negative"},
		{"number as cooldown", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24}], cooldown: "60"}`, "write a duration such as 30s, 10m or 1h30m"},
		{"order", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24}], order: first}`, `supported values: "fifo", "lowest", "random"`},
		{"space's name", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24}], addressSpace: a.b}`, "an AddressSpace's name has small letters"},
		{"route", "IPPool", "a", `{ranges: [{range: 192.0.2.0/24}], routes: [{dst: 10.0.0.0}]}`, "write a CIDR such as 192.0.2.0/24"},

		{"nothing said", "AddressSpace", "a", ``, ""},
		{"everything said", "AddressSpace", "a", `{grid: {v4: 28, v6: 120}, mode: blocks, cooldown: 0s, maxBlocks: 3, whereabouts: true}`, ""},
		{"dot in the name", "AddressSpace", "a.b", ``, "the name is part of the names of blocks and claims"},
		{"long name", "AddressSpace", strings.Repeat("a", 64), ``, "at most 63"},
		{"grid", "AddressSpace", "a", `{grid: {v4: 33}}`, "should be less than or equal to 32"},
		{"mode", "AddressSpace", "a", `{mode: none}`, `supported values: "auto", "blocks", "claims"`},

		{"leased", "IPBlock", "s.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Leased, owner: {name: n1, boot: b, log: l}}`, ""},
		{"shared", "IPBlock", "s.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Shared, suspect: true}`, ""},
		{"leased by nobody", "IPBlock", "s.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Leased}`, "a Leased block has an owner"},
		{"shared by one", "IPBlock", "s.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Shared, owner: {name: n1}}`, "a Shared block has no owner"},
		{"nameless owner", "IPBlock", "s.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Leased, owner: {boot: b}}`, "spec.owner.name: Required"},
		{"other name", "IPBlock", "s.10.0.0.64-27", `{space: s, prefix: 10.0.0.64/26, mode: Shared}`, "a block is named after its space and prefix: s.10.0.0.64-26"},
		{"other space", "IPBlock", "t.10.0.0.64-26", `{space: s, prefix: 10.0.0.64/26, mode: Shared}`, "a block is named after its space and prefix: s.10.0.0.64-26"},
		{"host bits of a block", "IPBlock", "s.10.0.0.65-26", `{space: s, prefix: 10.0.0.65/26, mode: Shared}`, "write the block as CIDR in its one spelling"},
		{"IPv6", "IPBlock", "s.20010db8000000000000000000000040-122", `{space: s, prefix: "2001:db8::40/122", mode: Shared}`, ""},
		{"IPv6, no zeros", "IPBlock", "s.0001000200030004000500060007ffc0-122", `{space: s, prefix: "1:2:3:4:5:6:7:ffc0/122", mode: Shared}`, ""},
		{"IPv6, zeros first", "IPBlock", "s.00000000000000000000000000010000-122", `{space: s, prefix: "::1:0/122", mode: Shared}`, ""},
		{"IPv6, zeros last", "IPBlock", "s.20010db8000000000000000000000000-122", `{space: s, prefix: "2001:db8::/122", mode: Shared}`, ""},
		{"IPv6, only zeros", "IPBlock", "s.00000000000000000000000000000000-122", `{space: s, prefix: "::/122", mode: Shared}`, ""},
		{"IPv6, other name", "IPBlock", "s.20010db8000000000000000000000080-122", `{space: s, prefix: "2001:db8::40/122", mode: Shared}`, "an IPv6 address as 32 hex digits"},
		{"IPv6, other length", "IPBlock", "s.20010db8000000000000000000000040-123", `{space: s, prefix: "2001:db8::40/122", mode: Shared}`, "an IPv6 address as 32 hex digits"},
		{"IPv6, two spellings", "IPBlock", "s.20010db8000000000000000000000040-122", `{space: s, prefix: "2001:db8:0::40/122", mode: Shared}`, "in its one spelling"},

		{"bound", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Bound, node: {name: n1}, owner: {containerID: c, ifName: net1}}`, ""},
		{"cooling", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Cooling, since: "2026-01-02T03:04:05.678901Z"}`, ""},
		{"kept", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Kept, keep: {kind: Pod, namespace: a, name: b}}`, ""},
		{"bound to nobody", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Bound}`, "a Bound claim has an owner: containerID and ifName"},
		{"bound to no interface", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Bound, owner: {containerID: c}}`, "a Bound claim has an owner: containerID and ifName"},
		{"kept for nobody", "IPClaim", "s.10.0.0.65", `{space: s, address: 10.0.0.65, state: Kept}`, "a Kept claim says for whom"},
		{"other claim's name", "IPClaim", "s.10.0.0.66", `{space: s, address: 10.0.0.65, state: Cooling}`, "a claim is named after its space and address: s.10.0.0.65"},
		{"no address", "IPClaim", "s.10.0.0.650", `{space: s, address: 10.0.0.650, state: Cooling}`, "write one IP address"},
		{"IPv6 claim", "IPClaim", "s.20010db8000000000000000000000041", `{space: s, address: "2001:db8::41", state: Cooling}`, ""},
		{"IPv6 claim's other name", "IPClaim", "s.20010db8000000000000000000000042", `{space: s, address: "2001:db8::41", state: Cooling}`, "IPv6 as 32 hex digits"},
		{"IPv4 in IPv6", "IPClaim", "s.00000000000000000000ffff0a000041", `{space: s, address: "::ffff:10.0.0.65", state: Cooling}`, "write one IP address"},

		{"letter box", "NodeIPAM", "n1", `{demote: {s.10.0.0.64-26: n2}}`, ""},
		{"no block", "NodeIPAM", "n1", `{demote: {nonsense: n2}}`, "a key is the name of an IPBlock"},
	} {
		t.Run(tc.kind+"/"+tc.what, func(t *testing.T) {
			_, err := objects(t, tc.kind).Create(t.Context(), object(t, tc.kind, tc.name, tc.spec), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			check(t, err, tc.want)
		})
	}
}

// TestChangeRules: what can't change.
func TestChangeRules(t *testing.T) {
	for _, tc := range []struct{ what, kind, name, before, after, want string }{
		{"grid", "AddressSpace", "grid", `{grid: {v4: 26}}`, `{grid: {v4: 27}}`, "the grid decides the blocks' names and can't change"},
		{"grid taken away", "AddressSpace", "grid-away", `{grid: {v4: 28}}`, `{mode: claims}`, "the grid decides the blocks' names and can't change"},
		{"mode", "AddressSpace", "mode", `{mode: claims}`, `{mode: blocks, cooldown: 10s}`, ""},
		{"pool's space", "IPPool", "moves", `{ranges: [{range: 192.0.2.0/24}], addressSpace: a}`, `{ranges: [{range: 192.0.2.0/24}], addressSpace: b}`, "a pool stays in its address space"},
		{"pool grows", "IPPool", "grows", `{ranges: [{range: 192.0.2.0/24}]}`, `{ranges: [{range: 192.0.2.0/23}]}`, ""},
		{"demotion", "IPBlock", "c.10.0.0.0-26", `{space: c, prefix: 10.0.0.0/26, mode: Leased, owner: {name: n1}}`, `{space: c, prefix: 10.0.0.0/26, mode: Shared}`, ""},
		{"back to leased", "IPBlock", "c.10.0.1.0-26", `{space: c, prefix: 10.0.1.0/26, mode: Shared}`, `{space: c, prefix: 10.0.1.0/26, mode: Leased, owner: {name: n1}}`, "Shared is final"},
		{"other prefix", "IPBlock", "c.10.0.2.0-26", `{space: c, prefix: 10.0.2.0/26, mode: Shared}`, `{space: c, prefix: 10.0.3.0/26, mode: Shared}`, "a block keeps its prefix"},
		{"other address", "IPClaim", "c.10.0.4.1", `{space: c, address: 10.0.4.1, state: Cooling}`, `{space: c, address: 10.0.4.2, state: Cooling}`, "a claim keeps its address"},
		{"released", "IPClaim", "c.10.0.4.3", `{space: c, address: 10.0.4.3, state: Bound, owner: {containerID: c, ifName: i}}`, `{space: c, address: 10.0.4.3, state: Cooling}`, ""},
	} {
		t.Run(tc.kind+"/"+tc.what, func(t *testing.T) {
			client := objects(t, tc.kind)
			made, err := client.Create(t.Context(), object(t, tc.kind, tc.name, tc.before), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			changed := object(t, tc.kind, tc.name, tc.after)
			changed.SetResourceVersion(made.GetResourceVersion())
			_, err = client.Update(t.Context(), changed, metav1.UpdateOptions{})
			check(t, err, tc.want)
		})
	}
}
