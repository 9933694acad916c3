package route

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// moveCases are the families that are moved together.
func moveCases() map[string][]Move {
	return map[string][]Move{
		"v4":   {move4()},
		"v6":   {move6()},
		"both": {move4(), move6()},
	}
}

func TestMoveAndUndo(t *testing.T) {
	for _, former := range formerCases() {
		for name, moves := range moveCases() {
			t.Run(former.name+"/move "+name, func(t *testing.T) {
				t.Parallel()
				p := newPod(t)
				former.make(p)
				p.wantVia(former.first)
				before := p.routes(unix.AF_UNSPEC)

				written := p.read(moves)
				if err := Apply(t.Context(), p.Handle, moves, written); err != nil {
					t.Fatalf("Apply: %v", err)
				}
				p.wantMoved(moves, former.first)
				if err := Apply(t.Context(), p.Handle, moves, written); err != nil {
					t.Fatalf("Apply again: %v", err)
				}
				p.wantMoved(moves, former.first)

				for range 2 {
					if err := Undo(t.Context(), p.Handle, moves, written); err != nil {
						t.Fatalf("Undo: %v", err)
					}
					if diff := cmp.Diff(before, p.routes(unix.AF_UNSPEC)); diff != "" {
						t.Fatalf("Undo leaves other routes: %s", diff)
					}
				}
				p.wantVia(former.first)
			})
		}
	}
}

func (p *pod) wantVia(want [2]string) {
	p.t.Helper()
	for i, far := range farAddresses() {
		if got := p.via(far); got != want[i] {
			p.t.Errorf("%s is answered by %q, want %q", far, got, want[i])
		}
	}
}

// wantMoved: b answers in the moved families, and ours is the only default
// route there.
func (p *pod) wantMoved(moves []Move, first [2]string) {
	p.t.Helper()
	want := first
	for _, move := range moves {
		want[0], want[1] = pick(move.Gateway.Is4(), "b", want[0]), pick(move.Gateway.Is6(), "b", want[1])
		routes := p.defaults(move.family())
		if len(routes) != 1 || !routes[0].isOurs(move, p.index(net1)) {
			p.t.Errorf("default routes after the move: %+v", routes)
		}
	}
	p.wantVia(want)
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// The process may end between any two steps of Apply, and then between any
// two of Undo.
func TestUndoAfterInterruption(t *testing.T) {
	for _, former := range formerCases() {
		for _, move := range []Move{move4(), move6()} {
			t.Run(fmt.Sprintf("%s/%s", former.name, move.Gateway), func(t *testing.T) {
				t.Parallel()
				p := newPod(t)
				former.make(p)
				before := p.routes(unix.AF_UNSPEC)
				written := p.read([]Move{move})
				for applied := 0; p.applySome(move, written, applied); applied++ {
					for undone := 0; p.undoSome(move, written, undone); undone++ {
						p.undo(move, written, before, fmt.Sprintf("%d steps of Apply, %d of Undo", applied, undone))
						p.applySome(move, written, applied)
					}
					p.undo(move, written, before, fmt.Sprintf("%d steps of Apply", applied))
				}
			})
		}
	}
}

// applySome makes the first n steps of Apply; false when there are fewer.
func (p *pod) applySome(move Move, former Former, n int) bool {
	p.t.Helper()
	steps, err := planApply(p.t.Context(), p.Handle, move, former)
	if err != nil {
		p.t.Fatal(err)
	}
	had := len(p.defaults(move.family())) > 0
	for i, s := range steps[:min(n, len(steps))] {
		if err := run(p.t.Context(), p.Handle, s); err != nil {
			p.t.Fatal(err)
		}
		if had && len(p.defaults(move.family())) == 0 {
			p.t.Errorf("no default route after step %d of Apply", i)
		}
	}
	return n <= len(steps)
}

func (p *pod) undoSome(move Move, former Former, n int) bool {
	p.t.Helper()
	steps, err := planUndo(p.t.Context(), p.Handle, move, former)
	if err != nil {
		p.t.Fatal(err)
	}
	for i, s := range steps[:min(n, len(steps))] {
		if err := run(p.t.Context(), p.Handle, s); err != nil {
			p.t.Fatal(err)
		}
		if len(former.Routes) > 0 && len(p.defaults(move.family())) == 0 {
			p.t.Errorf("no default route after step %d of Undo", i)
		}
	}
	return n <= len(steps)
}

func (p *pod) undo(move Move, former Former, want []string, after string) {
	p.t.Helper()
	if err := Undo(p.t.Context(), p.Handle, []Move{move}, former); err != nil {
		p.t.Fatalf("Undo after %s: %v", after, err)
	}
	if diff := cmp.Diff(want, p.routes(unix.AF_UNSPEC)); diff != "" {
		p.t.Fatalf("Undo after %s leaves other routes: %s", after, diff)
	}
}

// Interfaces go before their routes can be restored when a sandbox is torn
// down.
func TestUndoWithoutInterfaces(t *testing.T) {
	for _, former := range formerCases() {
		for _, gone := range [][]string{{net1}, {eth0}, {eth0, net1}} {
			t.Run(fmt.Sprintf("%s/%v", former.name, gone), func(t *testing.T) {
				t.Parallel()
				p := newPod(t)
				former.make(p)
				moves := []Move{move4(), move6()}
				written := p.read(moves)
				if err := Apply(t.Context(), p.Handle, moves, written); err != nil {
					t.Fatal(err)
				}
				for _, nic := range gone {
					if err := p.Netlink().LinkDel(p.Link(nic)); err != nil {
						t.Fatal(err)
					}
				}
				if err := Undo(t.Context(), p.Handle, moves, written); err != nil {
					t.Errorf("Undo: %v", err)
				}
				for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
					if slices.ContainsFunc(p.defaults(family), func(d Default) bool { return d.parsed().header.Protocol == Protocol }) {
						t.Error("our default route is left")
					}
				}
				if !slices.Contains(gone, eth0) && former.name == "both plain" {
					p.wantVia(former.first)
				}
			})
		}
	}
}

func BenchmarkMoveAndUndo(b *testing.B) {
	p := newPod(b)
	p.add(netlink.Route{Gw: addr("10.1.0.1"), Dst: prefix("0.0.0.0/0")})
	moves := []Move{move4()}
	for b.Loop() {
		former, err := Read(b.Context(), p.Handle, moves)
		if err != nil {
			b.Fatal(err)
		}
		if err := Apply(b.Context(), p.Handle, moves, former); err != nil {
			b.Fatal(err)
		}
		if err := Undo(b.Context(), p.Handle, moves, former); err != nil {
			b.Fatal(err)
		}
	}
}
