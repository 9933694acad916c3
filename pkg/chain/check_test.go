package chain

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/testnet"
)

func TestCheck(t *testing.T) {
	r := newRig(t)
	set := r.added(3, "/run/netns/x", journal.Namespace{})
	if err := r.Chain.Check(t.Context(), set, Trip{}); err != nil {
		t.Fatal(err)
	}
	r.wantAsked("CHECK 0", "CHECK 1", "CHECK 2")
	for _, c := range r.calls {
		if string(c.Previous) != string(result(c.Delegate)) || c.Netns != "/run/netns/x" {
			t.Errorf("call %+v", c)
		}
	}
	r.forget()
	r.faults["CHECK 1"] = fails
	err := r.Chain.Check(t.Context(), set, Trip{})
	if want := "network ns/n1: interface if1: injected"; !errors.Is(err, errFault) || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	r.wantAsked("CHECK 0", "CHECK 1")
	if state := set.State(); state.Phase != journal.Committed {
		t.Errorf("CHECK changed the phase to %s", state.Phase)
	}
}

// Another pod's namespace is not looked at: CNI error 3.
func TestCheckOfLostNamespace(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, w *testnet.Net, path string)
		lost   bool
	}{
		{"unchanged", func(*testing.T, *testnet.Net, string) {}, false},
		{"another namespace", func(t *testing.T, w *testnet.Net, path string) { link(t, w.Netns("other"), path) }, true},
		{"removed", func(t *testing.T, _ *testnet.Net, path string) { must(t, os.Remove(path)) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := testnet.New(t)
			pod := w.Host("pod")
			path := filepath.Join(t.TempDir(), "netns")
			link(t, pod.Path(), path)
			r := newRig(t)
			set := r.added(1, path, journal.Namespace(pod.ID()))
			tt.change(t, w, path)
			err := r.Chain.Check(t.Context(), set, Trip{})
			if !tt.lost {
				must(t, err)
				r.wantAsked("CHECK 0")
				return
			}
			var e *types.Error
			if !errors.As(err, &e) || e.Code != types.ErrUnknownContainer {
				t.Errorf("error %v, want code 3", err)
			}
			r.wantAsked()
		})
	}
}

// DEL and CHECK look for plugins in the request's folders too; ADD doesn't.
func TestFurtherPath(t *testing.T) {
	r := newRig(t)
	trip := Trip{Path: []string{"/moved/here"}}
	set := r.begin(1, "", journal.Namespace{})
	_, err := r.Chain.Add(t.Context(), r.j, set, trip)
	must(t, err)
	must(t, r.Chain.Check(t.Context(), set, trip))
	must(t, r.Chain.Del(t.Context(), r.j, set, "DEL", trip))
	for i, want := range [][]string{nil, trip.Path, trip.Path} {
		if diff := cmp.Diff(want, r.calls[i].FurtherPath); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r.asked[i], diff)
		}
	}
}
