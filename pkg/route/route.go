// Package route moves a pod's default route to another of its interfaces, and
// back: IPv4 and IPv6 each for itself, and never through a moment without a
// default route where there was one.
//
// It works in three steps, because the caller must write down what was there
// before anything changes: Read gives the former default routes as plain data,
// Apply moves, Undo restores. Undo works from every state in which Apply or
// Undo itself can have been interrupted, and does nothing when nothing is left
// to do.
//
// Invariant: besides the former default routes, which are kept word for word
// in the kernel's own form, only routes with Protocol are changed. Routes to
// anywhere else, other tables and the other address family stay as they are.
package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// Protocol is the route protocol (rtm_protocol) of the default routes that
// Apply makes; by it they are recognised as ours.
const Protocol = 91

// Move says that the pod's default route of the gateway's address family goes
// through Gateway on the interface IfName.
type Move struct {
	IfName  string     `json:"ifName"`
	Gateway netip.Addr `json:"gateway"`
}

// String is the route in the words of iproute2.
func (m Move) String() string {
	return fmt.Sprintf("default via %s dev %s", m.Gateway, m.IfName)
}

func (m Move) family() uint8 {
	if m.Gateway.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Former are the default routes that a pod had before a move, of the moved
// address families only, in the kernel's order.
type Former struct {
	Routes []Default `json:"routes,omitempty"`
}

func (f Former) of(family uint8) []Default {
	return slices.DeleteFunc(slices.Clone(f.Routes), func(d Default) bool { return d.family() != family })
}

// validate refuses what Read can't have written.
func (f Former) validate() error {
	for i, route := range f.Routes {
		m, err := parseMessage(route.Message)
		known := m.header.Family == unix.AF_INET || m.header.Family == unix.AF_INET6
		if err == nil && (!known || !m.isDefault()) {
			err = errors.New("it is no default route")
		}
		if err != nil {
			return fmt.Errorf("former default route %d (%q): %w", i, route.Text, err)
		}
	}
	return nil
}

// Read checks that the moves are possible and returns the default routes that
// they will replace. It changes nothing. The caller keeps the answer where a
// crash can't take it before it calls Apply.
func Read(ctx context.Context, h *netns.Handle, moves []Move) (Former, error) {
	if err := checkMoves(ctx, h, moves); err != nil {
		return Former{}, err
	}
	var former Former
	for _, move := range moves {
		routes, err := readDefaults(ctx, h, move.family())
		if err != nil {
			return Former{}, fmt.Errorf("%s: %w", move, err)
		}
		former.Routes = append(former.Routes, routes...)
	}
	return former, nil
}

// Apply makes each move: first the new default route takes the place of the
// former best one, then the others are removed. former is what Read returned.
// After an error, or an end in the middle, Undo restores.
func Apply(ctx context.Context, h *netns.Handle, moves []Move, former Former) error {
	if err := errors.Join(former.validate(), checkMoves(ctx, h, moves)); err != nil {
		return err
	}
	for _, move := range moves {
		steps, err := planApply(ctx, h, move, former)
		if err != nil {
			return fmt.Errorf("%s: %w", move, err)
		}
		if err := runApply(ctx, h, steps); err != nil {
			return fmt.Errorf("%s: %w", move, err)
		}
	}
	return Check(ctx, h, moves)
}

// Check says whether the pod's default routes are still as Apply made them:
// ours is the one that the kernel uses. Routers' advertisements may add others
// that are used only when ours is gone.
func Check(ctx context.Context, h *netns.Handle, moves []Move) error {
	for _, move := range moves {
		link, err := findLink(h, move.IfName)
		if err != nil {
			return fmt.Errorf("%s: %w", move, err)
		}
		routes, err := readDefaults(ctx, h, move.family())
		if err != nil {
			return fmt.Errorf("%s: %w", move, err)
		}
		best, found := bestOf(routes)
		if !found {
			return fmt.Errorf("%s: the pod has no default route of this address family", move)
		}
		if !best.isOurs(move, link.Attrs().Index) {
			return fmt.Errorf("%s: the pod uses %q instead", move, best.Text)
		}
	}
	return nil
}

// Undo restores the former default routes and removes ours. A former route
// through an interface that no longer exists is left out: nothing can go
// there. All that can be restored is, also when a part fails.
func Undo(ctx context.Context, h *netns.Handle, moves []Move, former Former) error {
	if err := former.validate(); err != nil {
		return err
	}
	var errs []error
	for _, move := range moves {
		steps, err := planUndo(ctx, h, move, former)
		if err == nil {
			err = runUndo(ctx, h, steps)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore what was before %q: %w", move, err))
		}
	}
	return errors.Join(errs...)
}
