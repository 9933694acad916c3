package route

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestReadRefuses(t *testing.T) {
	on := func(nic, gateway string) Move { return Move{IfName: nic, Gateway: netip.MustParseAddr(gateway)} }
	tests := []struct {
		name  string
		moves []Move
		want  []string // parts of the message
		is    error
	}{
		{"gateway elsewhere", []Move{on(net1, "10.1.0.1")}, []string{"10.1.0.1", `"net1"`, "10.2.0.2/24"}, ErrUnreachable},
		{"v6 gateway elsewhere", []Move{on(net1, "2001:db8:1::1")}, []string{"2001:db8:1::1", `"net1"`, "2001:db8:2::2/64"}, ErrUnreachable},
		{"gateway behind the default route", []Move{on(eth0, "203.0.113.1")}, []string{"10.1.0.2/24"}, ErrUnreachable},
		{"gateway behind another gateway", []Move{on(eth0, "198.51.100.1")}, []string{"10.1.0.2/24"}, ErrUnreachable},
		{"no address of the family", []Move{on("lo", "10.1.0.1")}, []string{"lo"}, ErrUnreachable},
		{"own address", []Move{on(net1, "10.2.0.2")}, []string{"10.2.0.2", "itself"}, ErrUnreachable},
		{"no such interface", []Move{on("net9", "10.1.0.1")}, []string{`"net9"`, "does not exist"}, nil},
		{"interface is down", []Move{on("down", "10.3.0.1")}, []string{`"down"`, "is down"}, nil},
		{"no gateway", []Move{{IfName: net1}}, []string{"no address"}, nil},
		{"zero", []Move{on(net1, "0.0.0.0")}, []string{"no address"}, nil},
		{"mapped", []Move{on(net1, "::ffff:10.2.0.1")}, []string{"no address"}, nil},
		{"multicast", []Move{on(net1, "ff02::1")}, []string{"no address"}, nil},
		{"two of a family", []Move{move4(), on(eth0, "10.1.0.1")}, []string{"10.2.0.1", "10.1.0.1", "ECMP"}, nil},
		{"one of two is wrong", []Move{move6(), on(net1, "10.1.0.1")}, []string{"10.1.0.1"}, ErrUnreachable},
	}
	p := newPod(t)
	p.add(netlink.Route{Gw: addr("10.1.0.1"), Dst: prefix("0.0.0.0/0")})
	p.add(netlink.Route{Gw: addr("2001:db8:1::1"), Dst: prefix("::/0")})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "down"
	if err := p.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	p.Address("down", "10.3.0.2/24")
	before := p.routes(unix.AF_UNSPEC)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, readErr := Read(t.Context(), p.Handle, tt.moves)
			applyErr := Apply(t.Context(), p.Handle, tt.moves, Former{})
			for _, err := range []error{readErr, applyErr} {
				if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("error %v, want %v", err, tt.is)
				}
				for _, part := range tt.want {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not name %q", err, part)
					}
				}
			}
			if diff := cmp.Diff(before, p.routes(unix.AF_UNSPEC)); diff != "" {
				t.Errorf("a refused move changed routes: %s", diff)
			}
		})
	}
}

// A default route that Read did not see could not be restored.
func TestApplyRefusesWhatIsNotWrittenDown(t *testing.T) {
	p := newPod(t)
	former := p.read([]Move{move4()})
	p.add(netlink.Route{Gw: addr("10.1.0.1"), Dst: prefix("0.0.0.0/0")})
	before := p.routes(unix.AF_UNSPEC)
	if err := Apply(t.Context(), p.Handle, []Move{move4()}, former); err == nil || !strings.Contains(err.Error(), "10.1.0.1") {
		t.Errorf("Apply = %v, want an error that names the route", err)
	}
	if diff := cmp.Diff(before, p.routes(unix.AF_UNSPEC)); diff != "" {
		t.Errorf("it changed routes: %s", diff)
	}
}

func TestNothingHappensAfterTheDeadline(t *testing.T) {
	p := newPod(t)
	p.add(netlink.Route{Gw: addr("10.1.0.1"), Dst: prefix("0.0.0.0/0")})
	moves := []Move{move4()}
	former := p.read(moves)
	before := p.routes(unix.AF_UNSPEC)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, readErr := Read(ctx, p.Handle, moves)
	for what, err := range map[string]error{
		"Read": readErr, "Apply": Apply(ctx, p.Handle, moves, former), "Undo": Undo(ctx, p.Handle, moves, former), "Check": Check(ctx, p.Handle, moves),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", what, err)
		}
	}
	if diff := cmp.Diff(before, p.routes(unix.AF_UNSPEC)); diff != "" {
		t.Errorf("routes changed: %s", diff)
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(p *pod)
		want   string
	}{
		{"untouched", func(*pod) {}, ""},
		{"worse route added", func(p *pod) { p.add(netlink.Route{Gw: addr("2001:db8:1::1"), Dst: prefix("::/0")}) }, ""},
		{"ours removed", func(p *pod) {
			if err := p.Netlink().RouteDel(&netlink.Route{Gw: addr("10.2.0.1"), Dst: prefix("0.0.0.0/0")}); err != nil {
				p.t.Fatal(err)
			}
		}, "no default route"},
		{"better route added", func(p *pod) {
			p.add(netlink.Route{Gw: addr("2001:db8:1::1"), Dst: prefix("::/0"), Priority: 5})
		}, "default via 2001:db8:1::1 dev eth0"},
		{"interface removed", func(p *pod) {
			if err := p.Netlink().LinkDel(p.Link(net1)); err != nil {
				p.t.Fatal(err)
			}
		}, `interface "net1" does not exist`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			moves := []Move{move4(), move6()}
			if err := Apply(t.Context(), p.Handle, moves, p.read(moves)); err != nil {
				t.Fatal(err)
			}
			tt.change(p)
			err := Check(t.Context(), p.Handle, moves)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want %q", err, tt.want)
			}
		})
	}
}
