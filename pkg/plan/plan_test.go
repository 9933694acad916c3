package plan

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meta-cni/meta-cni/pkg/annotation"
	"github.com/meta-cni/meta-cni/pkg/attach"
)

// addresses lets cmp compare them.
func addresses() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}) }

func nested(depth int) string {
	return `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"macvlan","x":` +
		strings.Repeat(`[`, depth) + strings.Repeat(`]`, depth) + `}]}`
}

// F66: nesting is bounded before a recursive decoder sees it. The list, its
// plugins and the plugin are three levels of their own.
func TestDepth(t *testing.T) {
	for depth, ok := range map[int]bool{maxDepth - 3: true, maxDepth - 2: false, 9_000: false, 10_000: false, 1_000_000: false} {
		_, err := Make(selecting(nested(depth)))
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "deeper than 64 levels") {
			t.Errorf("%d levels: %v", depth, err)
		}
	}
	// Brackets in a text are no nesting, and half a file is reported as such.
	if _, err := Make(selecting(`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"macvlan","x":"` + strings.Repeat(`[`, 100) + `"}]}`)); err != nil {
		t.Error(err)
	}
}

// selecting has one network of this configuration.
func selecting(config string) Input {
	ref := attach.NetworkRef{Namespace: "ns", Name: "a"}
	return Input{
		Key:        attach.Key{ContainerID: "c1", IfName: "eth0"},
		Primary:    attach.Primary{File: "10-primary.conf", Config: []byte(`{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"}]}`)},
		Selections: []attach.Selection{{Element: nadv1.NetworkSelectionElement{Namespace: "ns", Name: "a"}}},
		Networks:   map[attach.NetworkRef]attach.Network{ref: {Ref: ref, Config: []byte(config), Source: "test"}},
	}
}

// With interfaces that are asked for, the order of the selections decides the
// order of the delegates and nothing else.
func TestOrderOfSelections(t *testing.T) {
	archive := txtar.Parse([]byte(`-- primary --
{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"}]}
-- networks --
[{"name":"a","interface":"x1","mac":"02:00:00:00:00:01"},{"name":"b","interface":"x2","default-route":["192.0.2.1"]},
 {"name":"a","interface":"x3","cni-args":{"k":1}},{"name":"b","interface":"x4","default-route":["2001:db8::1"]}]
-- nad/ns/a --
{"cniVersion":"1.0.0","type":"macvlan","capabilities":{"mac":true}}
-- nad/ns/b --
{"cniVersion":"1.0.0","type":"ipvlan","args":{"cni":{"k":0}}}
`))
	in := input(t, archive)
	byName := func() map[string]attach.Delegate {
		p, err := Make(in)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]attach.Delegate{}
		for _, d := range p.Delegates {
			all[d.IfName] = d
		}
		for _, r := range p.DefaultRoutes {
			want := map[string]string{"192.0.2.1": "x2", "2001:db8::1": "x4"}[r.Gateway.String()]
			if got := p.Delegates[r.Delegate].IfName; got != want {
				t.Errorf("default route via %s is given to %s, not to %s", r.Gateway, got, want)
			}
		}
		return all
	}
	want := byName()
	for range 4 {
		in.Selections = append(in.Selections[1:], in.Selections[0])
		if diff := cmp.Diff(want, byName(), addresses()); diff != "" {
			t.Errorf("rotated (-want +got):\n%s", diff)
		}
	}
	slices.Reverse(in.Selections)
	if diff := cmp.Diff(want, byName(), addresses()); diff != "" {
		t.Errorf("reversed (-want +got):\n%s", diff)
	}
}

// Make changes nothing of its input: definitions come from a shared cache.
func TestInputIsNotChanged(t *testing.T) {
	in := selecting(`{"type":"macvlan","args":{"cni":{"k":0}}}`)
	in.Args = make([][2]string, 1, 8)
	in.Args[0] = [2]string{"K8S_POD_NAME", "pod"}
	in.RuntimeConfig = map[string]json.RawMessage{"dns": json.RawMessage(`{}`)}
	in.Selections[0].Element.MacRequest = "02:00:00:00:00:01"
	in.Selections[0].Element.CNIArgs = &map[string]any{"k": 1, "l": map[string]any{"m": 2}}
	before, err := json.Marshal(in.Selections)
	if err != nil {
		t.Fatal(err)
	}
	copied := in
	if _, err := Make(in); err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(in.Selections)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) || cmp.Diff(copied.Networks[in.Selections[0].Ref()].Config, []byte(`{"type":"macvlan","args":{"cni":{"k":0}}}`)) != "" {
		t.Errorf("the selections changed from %s to %s", before, after)
	}
	if got := in.Args[:2][1]; got != [2]string{} {
		t.Errorf("an argument was written behind the runtime's: %v", got)
	}
}

func TestPlanSurvivesJSON(t *testing.T) {
	in := selecting(`{"type":"macvlan","x":"ü<\u0000>"}`)
	in.Selections[0].Element.GatewayRequest = append(in.Selections[0].Element.GatewayRequest, []byte{192, 0, 2, 1})
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again attach.Plan
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, &again, addresses(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-made +read:\n%s", diff)
	}
}

// Whatever a network definition and an annotation hold: no panic, and a plan
// that is accepted is safe to run.
func FuzzMake(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"macvlan","ipam":{"type":"host-local"}}]}`, `a@x, a`},
		{`{"type":"macvlan"}`, `[{"name":"a","mac":"02:00:00:00:00:01","ips":["10.0.0.1/8"],"cni-args":{"k":[1,2.50]},"default-route":["10.0.0.2","::1"]}]`},
		{`{"Type":"x","type":"y","PLUGINS":[],"ipam":{"TYPE":"../x"}}`, `a`},
		{`{"cniVersions":["1.0.0"],"name":"b","plugins":[{"type":"x","args":{"cni":{"a":1e99}},"capabilities":{"mac":true}}]}`, `[{"name":"a","interface":"net2"},{"name":"a"}]`},
		{nested(100), `a`},
		{`null`, `a`},
		{`{"plugins":[null]}`, `a`},
		{"{\"name\":\"\\ud800\",\"type\":\"a\"}", "a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, config, networks string) {
		selections, err := annotation.Parse(networks, "ns", annotation.Limits{})
		if err != nil {
			return
		}
		in := selecting(config)
		definition := in.Networks[in.Selections[0].Ref()]
		in.Selections = selections
		for _, s := range selections {
			definition.Ref = s.Ref()
			in.Networks[s.Ref()] = definition
		}
		p, err := Make(in)
		if err != nil {
			return
		}
		if len(p.Delegates) != len(selections)+1 || len(p.DefaultRoutes) > 2 {
			t.Fatalf("%d delegates of %d selections, %d default routes", len(p.Delegates), len(selections), len(p.DefaultRoutes))
		}
		taken := map[string]bool{}
		for _, d := range p.Delegates {
			wantSafe(t, d)
			if taken[d.IfName] {
				t.Errorf("interface %q is given twice", d.IfName)
			}
			taken[d.IfName] = true
		}
	})
}

func wantSafe(t *testing.T, d attach.Delegate) {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(d.Conf)
	if err != nil {
		t.Fatalf("libcni can't read %q: %v", d.Conf, err)
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		t.Errorf("name %q: %v", list.Name, err)
	}
	if err := utils.ValidateInterfaceName(d.IfName); err != nil {
		t.Errorf("interface %q: %v", d.IfName, err)
	}
	for _, plugin := range list.Plugins {
		for _, kind := range []string{plugin.Network.Type, plugin.Network.IPAM.Type} {
			if strings.ContainsAny(kind, "/\x00 ") || kind == ".." || strings.HasPrefix(kind, "multus") || kind == "meta-cni" {
				t.Errorf("type %q is accepted", kind)
			}
		}
		if plugin.Network.Type == "" {
			t.Error("a plugin without type is accepted")
		}
	}
	for _, pair := range d.Args {
		if strings.ContainsAny(pair[0], ";=") || strings.ContainsAny(pair[1], ";\x00") {
			t.Errorf("argument %q=%q falls apart in CNI_ARGS", pair[0], pair[1])
		}
	}
}
