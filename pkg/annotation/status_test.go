package annotation

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	eth0    = `{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1450,"sandbox":"/run/netns/a"}`
	net1    = `{"name":"net1","mac":"02:00:00:00:00:02","sandbox":"/run/netns/a"}`
	onHost  = `{"name":"veth1","mac":"02:00:00:00:00:03"}`
	v4Route = `{"dst":"0.0.0.0/0","gw":"192.0.2.1"}`
	v6Route = `{"dst":"::/0","gw":"2001:db8::1"}`
)

func result(interfaces, ips, routes string) string {
	return `{"cniVersion":"1.1.0","interfaces":[` + interfaces + `],"ips":[` + ips + `],"routes":[` + routes + `]}`
}

func TestStatusOfOneAttachment(t *testing.T) {
	entry := func(name string, change func(*nadv1.NetworkStatus)) nadv1.NetworkStatus {
		s := nadv1.NetworkStatus{Name: "n/a", Interface: name}
		switch name {
		case "eth0":
			s.Mac, s.Mtu = "02:00:00:00:00:01", 1450
		case "net1":
			s.Mac = "02:00:00:00:00:02"
		}
		change(&s)
		return s
	}
	for _, tc := range []struct {
		name, in string
		primary  bool
		want     []nadv1.NetworkStatus
	}{
		{
			"one interface has all addresses", result(eth0, `{"address":"192.0.2.7/24"},{"address":"2001:db8::7/64","interface":3}`, ""), false,
			[]nadv1.NetworkStatus{entry("eth0", func(s *nadv1.NetworkStatus) { s.IPs = []string{"192.0.2.7", "2001:db8::7"} })},
		},
		{
			"single without sandbox", result(onHost, `{"address":"192.0.2.7/24"}`, ""), false,
			[]nadv1.NetworkStatus{entry("", func(s *nadv1.NetworkStatus) { s.IPs = []string{"192.0.2.7"} })},
		},
		{
			"no interface", result("", "", ""), false,
			[]nadv1.NetworkStatus{entry("", func(*nadv1.NetworkStatus) {})},
		},
		{
			"no result", "", true,
			[]nadv1.NetworkStatus{entry("", func(s *nadv1.NetworkStatus) { s.Default = true })},
		},
		{
			"no sandbox excluded", result(onHost+","+eth0, `{"address":"192.0.2.7/24","interface":1}`, ""), false,
			[]nadv1.NetworkStatus{entry("eth0", func(s *nadv1.NetworkStatus) { s.IPs = []string{"192.0.2.7"} })},
		},
		{
			"several, none in the sandbox", result(onHost+","+onHost, "", ""), false,
			[]nadv1.NetworkStatus{entry("", func(*nadv1.NetworkStatus) {})},
		},
		{
			"default with gateway", result(onHost+","+eth0+","+net1, `{"address":"192.0.2.7/24","gateway":"192.0.2.1","interface":2}`, ""), true,
			[]nadv1.NetworkStatus{
				entry("eth0", func(*nadv1.NetworkStatus) {}),
				entry("net1", func(s *nadv1.NetworkStatus) { s.Default, s.IPs = true, []string{"192.0.2.7"} }),
			},
		},
		{
			"default without gateway is the first", result(onHost+","+eth0+","+net1, "", ""), true,
			[]nadv1.NetworkStatus{
				entry("eth0", func(s *nadv1.NetworkStatus) { s.Default = true }),
				entry("net1", func(*nadv1.NetworkStatus) {}),
			},
		},
		{
			"addresses without index go to the last sandbox interface", result(eth0+","+net1+","+onHost, `{"address":"192.0.2.7/24"},{"address":"192.0.2.8/24","interface":2},{"address":"192.0.2.9/24","interface":0}`, ""), false,
			[]nadv1.NetworkStatus{
				entry("eth0", func(s *nadv1.NetworkStatus) { s.IPs = []string{"192.0.2.9"} }),
				entry("net1", func(s *nadv1.NetworkStatus) { s.IPs = []string{"192.0.2.7"} }),
			},
		},
		{
			"multiple default routes", result(eth0, `{"address":"192.0.2.7/24"}`, v4Route+","+v6Route+`,{"dst":"10.0.0.0/8","gw":"192.0.2.2"}`), true,
			[]nadv1.NetworkStatus{entry("eth0", func(s *nadv1.NetworkStatus) {
				s.Default, s.IPs, s.Gateway = true, []string{"192.0.2.7"}, []string{"192.0.2.1", "2001:db8::1"}
			})},
		},
		{
			"each family's gateway at its carrier", result(onHost+","+eth0+","+net1, `{"address":"192.0.2.7/24","interface":1},{"address":"2001:db8::7/64","interface":2}`, v4Route+","+v6Route), true,
			[]nadv1.NetworkStatus{
				entry("eth0", func(s *nadv1.NetworkStatus) {
					s.Default, s.IPs, s.Gateway = true, []string{"192.0.2.7"}, []string{"192.0.2.1"}
				}),
				entry("net1", func(s *nadv1.NetworkStatus) { s.IPs, s.Gateway = []string{"2001:db8::7"}, []string{"2001:db8::1"} }),
			},
		},
		{
			"gateway outside every subnet", result(eth0+","+net1, `{"address":"192.0.2.7/32","gateway":"169.254.1.1","interface":1}`, `{"dst":"0.0.0.0/0","gw":"169.254.1.1"}`), false,
			[]nadv1.NetworkStatus{
				entry("eth0", func(*nadv1.NetworkStatus) {}),
				entry("net1", func(s *nadv1.NetworkStatus) { s.IPs, s.Gateway = []string{"192.0.2.7"}, []string{"169.254.1.1"} }),
			},
		},
		{
			"route without gateway takes the address's", result(eth0, `{"address":"192.0.2.7/24","gateway":"192.0.2.1"}`, `{"dst":"0.0.0.0/0"},{"dst":"::/0"}`), false,
			[]nadv1.NetworkStatus{entry("eth0", func(s *nadv1.NetworkStatus) { s.IPs, s.Gateway = []string{"192.0.2.7"}, []string{"192.0.2.1"} })},
		},
		{
			"gateway without route isn't listed", result(eth0, `{"address":"192.0.2.7/24","gateway":"192.0.2.1"}`, ""), true,
			[]nadv1.NetworkStatus{entry("eth0", func(s *nadv1.NetworkStatus) { s.Default, s.IPs = true, []string{"192.0.2.7"} })},
		},
		{
			"default route of another table", result(eth0, "", `{"dst":"0.0.0.0/0","gw":"192.0.2.1","table":100},{"dst":"0.0.0.0/1","gw":"192.0.2.1"}`), false,
			[]nadv1.NetworkStatus{entry("eth0", func(*nadv1.NetworkStatus) {})},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := &attach.Plan{Delegates: []attach.Delegate{{Network: "n/a", Primary: tc.primary}}}
			got, err := Status(plan, []attach.Attachment{{Result: json.RawMessage(tc.in)}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// After the default route has moved to net1, only net1 lists its gateway, and
// only in the family that moved.
func TestStatusAfterDefaultRouteMove(t *testing.T) {
	plan := &attach.Plan{Delegates: []attach.Delegate{{Network: "cbr0", Primary: true}, {Network: "n/a"}}}
	got, err := Status(plan, []attach.Attachment{
		{Delegate: 0, Result: json.RawMessage(result(eth0, `{"address":"10.1.0.7/24","gateway":"10.1.0.1","interface":0}`, v6Route))},
		{Delegate: 1, Result: json.RawMessage(result(net1, `{"address":"192.0.2.7/24","interface":0}`, v4Route))},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []nadv1.NetworkStatus{
		{Name: "cbr0", Interface: "eth0", Mac: "02:00:00:00:00:01", Mtu: 1450, Default: true, IPs: []string{"10.1.0.7"}, Gateway: []string{"2001:db8::1"}},
		{Name: "n/a", Interface: "net1", Mac: "02:00:00:00:00:02", IPs: []string{"192.0.2.7"}, Gateway: []string{"192.0.2.1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestStatusRefuses(t *testing.T) {
	plan := &attach.Plan{Delegates: []attach.Delegate{{Network: "n/a"}}}
	for name, tc := range map[string]struct {
		in   attach.Attachment
		want string
	}{
		"unknown delegate": {attach.Attachment{Delegate: 1}, "delegate 1, but the plan has 1"},
		"broken result":    {attach.Attachment{Result: json.RawMessage("{")}, "result of network n/a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Status(plan, []attach.Attachment{tc.in})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestEncodeStatus(t *testing.T) {
	got, err := EncodeStatus([]nadv1.NetworkStatus{
		{Name: "cbr0", Interface: "eth0", IPs: []string{"10.1.0.7"}, Mac: "02:00:00:00:00:01", Default: true, Gateway: []string{"10.1.0.1"}},
		{Name: "n/a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `[{
    "name": "cbr0",
    "interface": "eth0",
    "ips": [
        "10.1.0.7"
    ],
    "mac": "02:00:00:00:00:01",
    "default": true,
    "dns": {},
    "gateway": [
        "10.1.0.1"
    ]
},{
    "name": "n/a",
    "dns": {}
}]`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _ := EncodeStatus(nil); got != "[]" {
		t.Errorf("no status = %q", got)
	}
}

// FuzzStatus: whatever a delegate prints, the status can be made and encoded.
func FuzzStatus(f *testing.F) {
	f.Add(result(eth0+","+net1, `{"address":"192.0.2.7/24","interface":-1},{"address":"192.0.2.7/24"}`, v4Route))
	f.Add(`{"interfaces":[null,null],"ips":[null],"routes":[null]}`)
	plan := &attach.Plan{Delegates: []attach.Delegate{{Network: "n/a", Primary: true}}}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Status(plan, []attach.Attachment{{Result: json.RawMessage(in)}})
		if err != nil {
			return
		}
		if len(got) == 0 {
			t.Fatal("no entry for an attachment")
		}
		text, err := EncodeStatus(got)
		if err != nil || !json.Valid([]byte(text)) {
			t.Fatalf("error = %v, text = %s", err, text)
		}
	})
}
