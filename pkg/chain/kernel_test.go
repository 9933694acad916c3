package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

func TestReferencePlugins(t *testing.T) {
	w := newWorld(t)
	set := w.begin()
	attachments, err := w.add(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"eth0", "net1", "net2"}, w.links(w.pod)); diff != "" || len(attachments) != 3 {
		t.Errorf("interfaces of the pod (-want +got):\n%s", diff)
	}
	if got := w.via(); got != [2]string{"a", "a"} {
		t.Errorf("default routes lead to %v", got)
	}
	must(t, w.pod.Ping(t.Context(), netip.MustParseAddr("10.2.0.1")))
	if err := w.check(set); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	must(t, w.pod.Netlink().LinkDel(w.pod.Link("net2")))
	if err := w.check(set); err == nil {
		t.Error("CHECK passes although net2 is gone")
	}
	if err := w.del(set); err != nil {
		t.Fatal(err)
	}
	w.wantEmptyPod()
	w.wantNothing()
}

// F37: wherever an ADD fails, before or after the plugin did its work, the
// kernel, the leases, the cache and the journal are as before.
func TestFailureAtEachPositionLeavesNothing(t *testing.T) {
	for at := range 3 {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, after its work: %v", at, after), func(t *testing.T) {
				w := newWorld(t)
				hooks := w.hooks.before
				if after {
					hooks = w.hooks.after
				}
				hooks[fmt.Sprintf("ADD %d", at)] = func() error { return errFault }
				if _, err := w.add(t.Context(), w.begin()); !errors.Is(err, errFault) {
					t.Fatalf("error %v", err)
				}
				w.wantEmptyPod()
				w.wantNothing()
			})
		}
	}
}

// A plugin of a list fails itself, after another of the list has succeeded.
func TestFailureInsideAList(t *testing.T) {
	const (
		onAdd  = `[ $CNI_COMMAND != ADD ]`
		always = `echo '{"code":7,"msg":"broken"}'; exit 1`
	)
	tests := []struct {
		name, plugin string
		want         []string
		left         []int
	}{
		{"missing", "", []string{`plugin "extra" not found in`}, nil},
		{"fails on ADD", onAdd, []string{"plugin extra failed without an error message: exit status 1"}, nil},
		{"fails always", always, []string{"broken"}, []int{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			p, bin := w.plan(), t.TempDir()
			p.Path = append(p.Path, bin)
			if tt.plugin != "" {
				must(t, os.WriteFile(bin+"/extra", []byte("#!/bin/sh\ncat >/dev/null\n"+tt.plugin+"\n"), 0o755))
			}
			p.Delegates[2].Conf = append(bytes.TrimSuffix(p.Delegates[2].Conf, []byte("]}")), `,{"type":"extra"}]}`...)
			set, err := w.j.Begin(p, journal.Namespace(w.pod.ID()))
			must(t, err)
			_, err = w.add(t.Context(), set)
			wantText(t, err, append(tt.want, `network ns/c: interface net2: `)...)
			if tt.left == nil {
				w.wantEmptyPod()
				w.wantNothing()
				return
			}
			// libcni's DEL of a list ends at the first that fails.
			if state := set.State(); state.Phase != journal.Deleting || !slices.Equal(state.Pending(), tt.left) {
				t.Errorf("journal: %s, pending %v", state.Phase, state.Pending())
			}
			if diff := cmp.Diff([]string{"net2"}, w.links(w.pod)); diff != "" {
				t.Errorf("interfaces of the pod (-want +got):\n%s", diff)
			}
			must(t, os.WriteFile(bin+"/extra.new", []byte("#!/bin/sh\ncat >/dev/null\n"), 0o755))
			must(t, os.Rename(bin+"/extra.new", bin+"/extra"))
			must(t, w.del(set))
			w.wantEmptyPod()
			w.wantNothing()
		})
	}
}

// F38: the namespace goes away in mid-ADD. Addresses are free again.
func TestNamespaceVanishesInAdd(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			hooks := map[string]map[string]func() error{"before": w.hooks.before, "after": w.hooks.after}[when]
			hooks["ADD 1"] = func() error { w.pod.Remove(); return nil }
			if _, err := w.add(t.Context(), w.begin()); err == nil {
				t.Fatal("no error")
			}
			w.wantNothing()
		})
	}
}

// The namespace goes away between ADD and DEL.
func TestDelWithoutNamespace(t *testing.T) {
	w := newWorld(t)
	set := w.begin("10.2.0.1")
	if _, err := w.add(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	w.pod.Remove()
	if err := w.del(set); err != nil {
		t.Fatal(err)
	}
	w.wantNothing()
}

// The caller goes away while a plugin has just done its work.
func TestCallerGoesAwayInAdd(t *testing.T) {
	w := newWorld(t)
	gone := errors.New("the caller is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	w.hooks.after["ADD 1"] = func() error { cancel(gone); return nil }
	if _, err := w.add(ctx, w.begin("10.2.0.1")); !errors.Is(err, gone) {
		t.Fatalf("error %v", err)
	}
	w.wantEmptyPod()
	w.wantNothing()
}

func TestDefaultRouteMoves(t *testing.T) {
	tests := []struct {
		name     string
		gateways []string
		via      [2]string
		routes   [3][]string
	}{
		{"v4", []string{"10.2.0.1"}, [2]string{"b", "a"}, [3][]string{{"::/0 2001:db8:1::1"}, {"0.0.0.0/0 10.2.0.1"}, nil}},
		{"v6", []string{"2001:db8:2::1"}, [2]string{"a", "b"}, [3][]string{{"0.0.0.0/0 10.1.0.1"}, {"::/0 2001:db8:2::1"}, nil}},
		{"both", []string{"2001:db8:2::1", "10.2.0.1"}, [2]string{"b", "b"}, [3][]string{nil, {"::/0 2001:db8:2::1", "0.0.0.0/0 10.2.0.1"}, nil}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			set := w.begin(tt.gateways...)
			var between [2]string
			w.hooks.after["ADD 2"] = func() error { between = w.via(); return nil }
			attachments, err := w.add(t.Context(), set)
			if err != nil {
				t.Fatal(err)
			}
			if between != [2]string{"a", "a"} {
				t.Errorf("before the move traffic went to %v", between)
			}
			if got := w.via(); got != tt.via {
				t.Errorf("traffic goes to %v, want %v", got, tt.via)
			}
			if diff := cmp.Diff(tt.routes, routesOf(t, attachments)); diff != "" {
				t.Errorf("routes in the results (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(attachments, set.State().Attachments); diff != "" {
				t.Errorf("journal (-returned +written):\n%s", diff)
			}
			if err := w.check(set); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			w.wantCheckSeesOtherRoute(set, tt.gateways[0])
			must(t, w.del(set))
			w.wantEmptyPod()
			w.wantNothing()
		})
	}
}

// wantCheckSeesOtherRoute takes the moved default route away: plugins may not
// look at it, the chain does.
func (w *world) wantCheckSeesOtherRoute(set *journal.Set, gateway string) {
	w.Helper()
	size := net.IPv4len
	if netip.MustParseAddr(gateway).Is6() {
		size = net.IPv6len
	}
	must(w, w.pod.Netlink().RouteDel(&netlink.Route{
		Dst: &net.IPNet{IP: make(net.IP, size), Mask: make(net.IPMask, size)}, Gw: net.ParseIP(gateway),
	}))
	if err := w.check(set); err == nil {
		w.Error("CHECK passes although the default route is gone")
	}
	if err := w.node.Do(func() error { return checkDefaults(w.Context(), ptr(set.State())) }); err == nil {
		w.Error("the chain's own CHECK passes")
	}
}

func ptr[T any](v T) *T { return &v }

// routesOf are the routes of each result.
func routesOf(t *testing.T, attachments []attach.Attachment) [3][]string {
	t.Helper()
	var routes [3][]string
	for i, a := range attachments {
		var result types100.Result
		must(t, json.Unmarshal(a.Result, &result))
		for _, r := range result.Routes {
			text := r.Dst.String()
			if r.GW != nil {
				text += " " + r.GW.String()
			}
			routes[i] = append(routes[i], text)
		}
	}
	return routes
}

// A failure after the move: the former routes are back before the first
// delegate is undone, so that a delegate whose undo fails leaves the truth.
func TestDefaultRouteIsRestored(t *testing.T) {
	w := newWorld(t)
	set := w.begin("10.2.0.1", "2001:db8:2::1")
	var moved, restored [2]string
	w.hooks.before["DEL 2"] = func() error { restored = w.via(); return nil }
	err := w.node.Do(func() error {
		if _, err := w.addAll(t.Context(), set, Trip{}); err != nil {
			return err
		}
		moved = w.via()
		return w.undo(t.Context(), w.j, set, Trip{}, errFault)
	})
	if !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	if moved != [2]string{"b", "b"} || restored != [2]string{"a", "a"} {
		t.Errorf("traffic after the move %v, after the undo %v", moved, restored)
	}
	w.wantEmptyPod()
	w.wantNothing()
}

// The same by a daemon that was killed after the move and knows only the file.
func TestDefaultRouteIsRestoredAfterRestart(t *testing.T) {
	w := newWorld(t)
	set := w.begin("10.2.0.1")
	must(t, w.node.Do(func() error { _, err := w.addAll(t.Context(), set, Trip{}); return err }))
	must(t, w.j.Close())
	again, damaged, err := journal.Open(journal.Options{Dir: w.dir + "/attachments", Quarantine: w.dir + "/quarantine", BootID: "boot-1", Log: w.opts.Log})
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	defer again.Close()
	w.j = again
	set, _ = again.Get(key())
	var restored [2]string
	w.hooks.before["DEL 2"] = func() error { restored = w.via(); return nil }
	must(t, w.del(set))
	if restored != [2]string{"a", "a"} {
		t.Errorf("traffic after the undo %v", restored)
	}
	w.wantEmptyPod()
	w.wantNothing()
}

// A gateway that can't be reached fails the ADD before a route changes.
func TestDefaultRouteToNowhere(t *testing.T) {
	w := newWorld(t)
	var before [2]string
	w.hooks.before["DEL 2"] = func() error { before = w.via(); return nil }
	_, err := w.add(t.Context(), w.begin("10.2.0.1", "2001:db8:99::1"))
	wantText(t, err, "default-route: ", "2001:db8:99::1", `"net1"`)
	if before != [2]string{"a", "a"} {
		t.Errorf("routes had changed: traffic went to %v", before)
	}
	w.wantEmptyPod()
	w.wantNothing()
}

// A DEL that fails for one delegate keeps the rest's addresses free and can be
// finished later, with the interfaces long gone.
func TestDelIsFinishedLater(t *testing.T) {
	w := newWorld(t)
	set := w.begin("10.2.0.1")
	_, err := w.add(t.Context(), set)
	must(t, err)
	w.hooks.before["DEL 1"] = func() error { return errFault }
	if err := w.del(set); !errors.Is(err, errFault) {
		t.Fatalf("error %v", err)
	}
	if diff := cmp.Diff([]string{"net1"}, w.links(w.pod)); diff != "" {
		t.Errorf("interfaces of the pod (-want +got):\n%s", diff)
	}
	if left := w.files("leases/*/*", "last_reserved_ip", "lock"); len(left) != 2 {
		t.Errorf("leases: %v, want the two of ns/b", left)
	}
	delete(w.hooks.before, "DEL 1")
	w.pod.Remove()
	must(t, w.del(set))
	w.wantNothing()
}
