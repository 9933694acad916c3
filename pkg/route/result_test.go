package route

import (
	"encoding/json"
	"net/netip"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

const (
	primaryResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],
		"ips":[{"interface":0,"address":"10.1.0.2/24","gateway":"10.1.0.1"}],
		"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"},{"dst":"10.0.0.0/8","gw":"10.1.0.1"},{"dst":"::/0","gw":"2001:db8:1::1"},{"dst":"0.0.0.0/0","table":100}],
		"dns":{"nameservers":["10.96.0.10"]}}`
	secondResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":"/run/netns/x"}],
		"ips":[{"interface":0,"address":"10.2.0.2/24"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.0.2.0/24","gw":"10.2.0.9"}]}`
)

func TestEditResults(t *testing.T) {
	tests := []struct {
		name  string
		moves []Move
		index []int
		want  [2][]string
	}{
		{"nothing moved", nil, nil, [2][]string{
			{"0.0.0.0/0 10.1.0.1", "10.0.0.0/8 10.1.0.1", "::/0 2001:db8:1::1", "0.0.0.0/0 <nil>"}, {"0.0.0.0/0 <nil>", "192.0.2.0/24 10.2.0.9"},
		}},
		{"v4", []Move{move4()}, []int{1}, [2][]string{
			{"10.0.0.0/8 10.1.0.1", "::/0 2001:db8:1::1", "0.0.0.0/0 <nil>"}, {"192.0.2.0/24 10.2.0.9", "0.0.0.0/0 10.2.0.1"},
		}},
		{"v6", []Move{move6()}, []int{1}, [2][]string{
			{"0.0.0.0/0 10.1.0.1", "10.0.0.0/8 10.1.0.1", "0.0.0.0/0 <nil>"}, {"0.0.0.0/0 <nil>", "192.0.2.0/24 10.2.0.9", "::/0 2001:db8:2::1"},
		}},
		{"each to another", []Move{move4(), move6()}, []int{1, 0}, [2][]string{
			{"10.0.0.0/8 10.1.0.1", "0.0.0.0/0 <nil>", "::/0 2001:db8:2::1"}, {"192.0.2.0/24 10.2.0.9", "0.0.0.0/0 10.2.0.1"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := []*types100.Result{result(t, primaryResult), result(t, secondResult), nil}
			edited, err := EditResults(tt.moves, in, tt.index)
			if err != nil {
				t.Fatal(err)
			}
			if edited[2] != nil {
				t.Errorf("the missing result became %v", edited[2])
			}
			for i, want := range tt.want {
				if diff := cmp.Diff(want, routeTexts(edited[i])); diff != "" {
					t.Errorf("routes of result %d: %s", i, diff)
				}
			}
			if diff := cmp.Diff([]*types100.Result{result(t, primaryResult), result(t, secondResult), nil}, in); diff != "" {
				t.Errorf("the given results changed: %s", diff)
			}
			edited[0].Routes = in[0].Routes
			if diff := cmp.Diff(in[0], edited[0]); diff != "" {
				t.Errorf("more than routes changed: %s", diff)
			}
		})
	}
}

func TestEditResultsRefuses(t *testing.T) {
	results := []*types100.Result{result(t, primaryResult), nil}
	for name, index := range map[string][]int{"no result": {1}, "out of range": {2}, "negative": {-1}, "none": {}} {
		if _, err := EditResults([]Move{move4()}, results, index); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The reference plugins' CHECK looks each route of the former result up in the
// kernel.
func TestEditedResultsPassTheReferenceCheck(t *testing.T) {
	p := newPod(t)
	p.add(netlink.Route{Gw: netip.MustParseAddr("10.1.0.1").AsSlice(), Dst: prefix("0.0.0.0/0")})
	p.add(netlink.Route{Gw: netip.MustParseAddr("2001:db8:1::1").AsSlice(), Dst: prefix("::/0")})
	primary := result(t, `{"cniVersion":"1.1.0","routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"},{"dst":"::/0","gw":"2001:db8:1::1"},{"dst":"198.51.100.0/24","gw":"10.1.0.1"}]}`)
	second := result(t, `{"cniVersion":"1.1.0"}`)
	for name, moves := range moveCases() {
		former := p.read(moves)
		if err := Apply(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		index := []int{1, 1}[:len(moves)]
		edited, err := EditResults(moves, []*types100.Result{primary, second}, index)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, r := range edited {
			if err := p.Do(func() error { return ip.ValidateExpectedRoute(r.Routes) }); err != nil {
				t.Errorf("%s: CHECK of result %d: %v", name, i, err)
			}
		}
		if err := Undo(t.Context(), p.Handle, moves, former); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func result(t *testing.T, text string) *types100.Result {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func routeTexts(r *types100.Result) []string {
	var texts []string
	for _, route := range r.Routes {
		texts = append(texts, route.Dst.String()+" "+route.GW.String())
	}
	return texts
}
