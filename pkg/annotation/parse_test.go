package annotation

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

func element(namespace, name, ifName string) attach.Selection {
	return attach.Selection{Element: nadv1.NetworkSelectionElement{Namespace: namespace, Name: name, InterfaceRequest: ifName}}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []attach.Selection
	}{
		{"nothing", "", nil},
		{"blank", " \n", nil},
		{"empty list", "[]", nil},
		{"net1", "net1", []attach.Selection{element("pod-ns", "net1", "")}},
		{"default/net1", "default/net1", []attach.Selection{element("default", "net1", "")}},
		{"net1@my_interface", "net1@my_interface", []attach.Selection{element("pod-ns", "net1", "my_interface")}},
		{"default/net1@my_interface", "default/net1@my_interface", []attach.Selection{element("default", "net1", "my_interface")}},
		{"spaces", " a , b/c@d\n,e", []attach.Selection{element("pod-ns", "a", ""), element("b", "c", "d"), element("pod-ns", "e", "")}},
		{"one network twice", "a,a", []attach.Selection{element("pod-ns", "a", ""), element("pod-ns", "a", "")}},
		{"dotted name", "a.b", []attach.Selection{element("pod-ns", "a.b", "")}},
		{"json", `[{"name":"a"},{"name":"b","namespace":"n","interface":"x1"}]`, []attach.Selection{element("pod-ns", "a", ""), element("n", "b", "x1")}},
		{"alias", `[{"name":"a","interfaceRequest":"x1"}]`, []attach.Selection{element("pod-ns", "a", "x1")}},
		{"case of keys", `[{"Name":"a","NameSpace":"n"}]`, []attach.Selection{element("n", "a", "")}},
		{"unknown keys", `[{"name":"a","example.com/x":{"y":[1]},"foo":null}]`, []attach.Selection{element("pod-ns", "a", "")}},
		{"nulls and empties", `[{"name":"a","ips":null,"mac":"","cni-args":{},"portMappings":[],"bandwidth":{},"default-route":[],"deviceID":null}]`, []attach.Selection{element("pod-ns", "a", "")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.in, "pod-ns", Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("selections (-want +got):\n%s", diff)
			}
		})
	}
}

const everyField = `[{"name":"a","namespace":"n","interface":"x1","ips":["192.0.2.7/24","2001:DB8::7"],
	"mac":"02-00-00-00-00-0A","infiniband-guid":"02:00:00:00:00:00:00:0B",
	"cni-args":{"big":12345678901234567890,"s":["x"]},
	"portMappings":[{"hostPort":80,"containerPort":8080},{"hostPort":1,"containerPort":65535,"protocol":"SCTP","hostIP":"2001:DB8::1"}],
	"bandwidth":{"ingressRate":1,"ingressBurst":2,"egressRate":3,"egressBurst":4},
	"default-route":["192.0.2.1","2001:db8::1"],"deviceID":"0000:03:02.1"},
	{"name":"b","ipam-claim-reference":"claim.b"}]`

func TestParseEveryField(t *testing.T) {
	got, err := Parse(everyField, "p", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	args := map[string]any{"big": json.Number("12345678901234567890"), "s": []any{"x"}}
	want := []attach.Selection{{
		Element: nadv1.NetworkSelectionElement{
			Name: "a", Namespace: "n", InterfaceRequest: "x1",
			IPRequest:  []string{"192.0.2.7/24", "2001:db8::7"},
			MacRequest: "02:00:00:00:00:0a", InfinibandGUIDRequest: "02:00:00:00:00:00:00:0b",
			CNIArgs: &args,
			PortMappingsRequest: []*nadv1.PortMapEntry{
				{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"},
				{HostPort: 1, ContainerPort: 65535, Protocol: "sctp", HostIP: "2001:db8::1"},
			},
			BandwidthRequest: &nadv1.BandwidthEntry{IngressRate: 1, IngressBurst: 2, EgressRate: 3, EgressBurst: 4},
			GatewayRequest:   []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
		},
		DeviceID: "0000:03:02.1",
	}, {
		Element: nadv1.NetworkSelectionElement{Name: "b", Namespace: "p", IPAMClaimReference: "claim.b"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("selections (-want +got):\n%s", diff)
	}
	again, err := Parse(Format(got), "other", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("Parse of Format (-want +got):\n%s", diff)
	}
}

// A selection is written to the journal and read back; nothing may be lost.
func TestSelectionSurvivesJSON(t *testing.T) {
	want, err := Parse(`[{"name":"a","default-route":["192.0.2.1"],"ips":["192.0.2.7"]}]`, "p", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got []attach.Selection
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	one := func(fields string) string { return `[{"name":"ok"},{"name":"net1",` + fields + `}]` }
	for _, tc := range []struct{ name, in, want string }{
		{"two slashes", "ok,a/b/c", `element 2 ("a/b/c"): more than one "/"`},
		{"two ats", "a@b@c", `element 1 ("a@b@c"): more than one "@"`},
		{"space in name", "a b", `name: "a b" is not the name of an object`},
		{"space in interface", "a@b c", `interface: interface name "b c" has an invalid character ' '`},
		{"long interface", "net1@my_interface_too", `the kernel allows 15`},
		{"upper case", "Net1", `name: "Net1"`},
		{"empty item", "a,", `element 2 (""): the name is empty`},
		{"empty namespace", "/a", `the namespace before "/" is empty`},
		{"empty interface", "a@", `the interface after "@" is empty`},
		{"path", "../a", `namespace: ".." is not a namespace's name`},
		{"dots", "a..b", `name: "a..b"`},
		{"template", "a@net%d", `interface name "net%d" has an invalid character`},
		{"loopback", "a@lo", `"lo" is taken by the kernel`},
		{"broken json", "[{", "not a JSON list of objects"},
		{"object", `{"name":"a"}`, `not a JSON list of objects`},
		{"string element", `["a"]`, `element 1 (""): "\"a\"" is not an object: write {"name": "net1"}`},
		{"null element", `[null]`, `is not an object`},
		{"no name", `[{"namespace":"a"}]`, `element 1 ("a/"): name: is missing`},
		{"key twice", `[{"name":"a","Name":"b"}]`, `name: the key occurs twice`},
		{"alias twice", one(`"interface":"a","interfaceRequest":"b"`), `interface: the key occurs twice`},
		{"wrong type", one(`"ips":"192.0.2.1"`), `element 2 ("net1"): ips: "\"192.0.2.1\"": is a string where []string is expected`},
		{"ip", one(`"ips":["192.0.2"]`), `"192.0.2" is neither an IP address nor a CIDR`},
		{"ip unspecified", one(`"ips":["0.0.0.0/0"]`), `unspecified`},
		{"ip zone", one(`"ips":["fe80::1%eth0"]`), `has a zone`},
		{"ip mapped", one(`"ips":["::ffff:192.0.2.1"]`), `write it as 192.0.2.1`},
		{"ip list for CNI_ARGS", one(`"ips":["192.0.2.1;K8S_POD_NAME=x"]`), `neither an IP address`},
		{"mac length", one(`"mac":"02:00:00:00:00:00:00:01"`), `mac: "\"02:00:00:00:00:00:00:01\"": is not an address of 6 bytes`},
		{"mac multicast", one(`"mac":"01:00:00:00:00:01"`), `multicast`},
		{"mac zero", one(`"mac":"00:00:00:00:00:00"`), `all zero`},
		{"guid length", one(`"infiniband-guid":"02:00:00:00:00:01"`), `infiniband-guid: "\"02:00:00:00:00:01\"": is not an address of 8 bytes`},
		{"host port", one(`"portMappings":[{"hostPort":0,"containerPort":1}]`), `portMappings: "[{\"hostPort\":0,\"containerPort\":1}]": entry 1: hostPort 0 is out of range: 1 to 65535`},
		{"container port", one(`"portMappings":[{"hostPort":1,"containerPort":65536}]`), `containerPort 65536`},
		{"protocol", one(`"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]`), `protocol "icmp" is unknown: tcp, udp or sctp`},
		{"host ip", one(`"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]`), `hostIP "x"`},
		{"ingress burst", one(`"bandwidth":{"ingressBurst":1}`), `ingressBurst needs ingressRate`},
		{"egress burst", one(`"bandwidth":{"egressBurst":1}`), `egressBurst needs egressRate`},
		{"negative", one(`"bandwidth":{"egressRate":-1}`), `negative`},
		{"gateway", one(`"default-route":["x"]`), `default-route: "[\"x\"]": "x" is not an IP address`},
		{"two gateways", one(`"default-route":["192.0.2.1","192.0.2.2"]`), `element 2 already asks for the IPv4 default route`},
		{"two selections with gateways", `[{"name":"a","default-route":["2001:db8::1"]},{"name":"b","default-route":["2001:db8::2"]}]`, `element 2 ("pod-ns/b"): default-route: "2001:db8::2": element 1 already asks for the IPv6 default route`},
		{"interface twice", `[{"name":"a","interface":"x"},{"name":"b","interface":"x"}]`, `element 2 ("pod-ns/b@x"): interface: "x" is also asked for by element 1`},
		{"claim and ips", one(`"ips":["192.0.2.1"],"ipam-claim-reference":"c"`), `ipam-claim-reference: can't stand beside ips`},
		{"claim name", one(`"ipam-claim-reference":"../c"`), `ipam-claim-reference: "../c"`},
		{"device", one(`"deviceID":"../../etc"`), `deviceID: "../../etc" is not a device`},
		{"too many", strings.Repeat("a,", 32) + "a", `33 networks: at most 32`},
		{"too many in JSON", "[" + strings.Repeat("0,", 32) + "0]", `33 networks: at most 32`},
		{"too long", strings.Repeat(" ", 64<<10+1), `65537 bytes: at most 65536`},
		{"too deep", strings.Repeat("[", 10000), `nested deeper than 64`},
		{"too deep in cni-args", one(`"cni-args":` + strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70)), `nested deeper than 64`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.in, "pod-ns", Limits{})
			if err == nil {
				t.Fatalf("accepted: %+v", got)
			}
			if !strings.HasPrefix(err.Error(), "networks annotation: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v\nwant one with %s", err, tc.want)
			}
		})
	}
}

func TestFromArgs(t *testing.T) {
	args := [][2]string{{"IgnoreUnknown", "1"}, {ArgsKey, "a"}, {ArgsKey, "a,b@x"}}
	if value, ok := FromArgs(args); !ok || value != "a,b@x" {
		t.Errorf("value = %q, ok = %v", value, ok)
	}
	if value, ok := FromArgs(args[:1]); ok || value != "" {
		t.Errorf("value = %q, ok = %v", value, ok)
	}
}

// FuzzParse holds the two promises of the package: what is accepted is safe,
// and Parse of Format gives it back.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a", "n/a@x1, b", everyField, `[{"name":"a","cni-args":{"x":1e400,"y":null}}]`, `[{"name":"a","deviceID":"mlx5_0"}]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in, "p", Limits{})
		if err != nil {
			return
		}
		for _, s := range got {
			requireSafe(t, s)
		}
		again, err := Parse(Format(got), "q", Limits{MaxBytes: 16 << 20})
		if err != nil {
			t.Fatalf("Format made what Parse refuses: %v", err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func requireSafe(t *testing.T, s attach.Selection) {
	e := s.Element
	for _, text := range []string{e.Name, e.Namespace, e.InterfaceRequest, e.MacRequest, e.InfinibandGUIDRequest, e.IPAMClaimReference, s.DeviceID, strings.Join(e.IPRequest, "")} {
		if strings.ContainsAny(text, ";\\\x00 \n\t%$`'\"*") {
			t.Fatalf("unsafe text %q in %+v", text, s)
		}
	}
	for _, text := range []string{e.Name, e.Namespace, e.InterfaceRequest, s.DeviceID} {
		if strings.Contains(text, "/") || text == "." || text == ".." {
			t.Fatalf("a path separator in %q", text)
		}
	}
}
