package route

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/netns"
)

// defaultMetric6 is what IPv6 routes have that name none, and what the kernel
// gives to those from routers' advertisements.
const defaultMetric6 = 1024

type operation int

const (
	// replace puts the route in the place of the first of the same metric, or
	// beside the others when there is none. The kernel does it at once.
	replace operation = iota
	// add puts the route behind those of the same metric.
	add
	// remove takes exactly this route away.
	remove
)

// step is one change of the kernel's table; steps can end between any two.
type step struct {
	do    operation
	route Default
}

// planApply decides the steps of one move from what there is now.
func planApply(ctx context.Context, h *netns.Handle, move Move, former Former) ([]step, error) {
	link, err := findLink(h, move.IfName)
	if err != nil {
		return nil, err
	}
	current, err := readDefaults(ctx, h, move.family())
	if err != nil {
		return nil, err
	}
	device := link.Attrs().Index
	before := former.of(move.family())
	if err := refuseUnknown(current, before, move, device); err != nil {
		return nil, err
	}
	ours := newDefault(ourMessage(move, device, ourMetric(move, before)), map[int]string{device: move.IfName})
	return applySteps(ours, before, current), nil
}

// applySteps: ours first, then the former ones backwards, so that those which
// are left always stand in their first order and Undo only appends.
func applySteps(ours Default, before, current []Default) []step {
	var steps []step
	if !ours.isIn(current) {
		steps = append(steps, step{replace, ours})
	}
	for _, route := range slices.Backward(before) {
		if !sameRoute(route, ours) {
			steps = append(steps, step{remove, route})
		}
	}
	return steps
}

func sameRoute(a, b Default) bool {
	return a.isIn([]Default{b}) && a.parsed().header.Protocol == b.parsed().header.Protocol
}

// refuseUnknown: what Read did not see could not be restored. Routes from
// advertisements come at any time, and come again by themselves.
func refuseUnknown(current, before []Default, move Move, device int) error {
	for _, route := range current {
		learned := route.parsed().header.Protocol == unix.RTPROT_RA
		if !route.isIn(before) && !route.isOurs(move, device) && !learned {
			return fmt.Errorf("the pod got another default route (%s) since they were read: something else in the pod changes routes", route.Text)
		}
	}
	return nil
}

// ourMetric is the former best one's metric. For IPv6 it is one better:
// routers' advertisements may bring default routes of that metric at any time,
// and the kernel would spread the traffic over them and ours.
func ourMetric(move Move, before []Default) uint32 {
	best, found := bestOf(before)
	switch {
	case move.Gateway.Is4() && found:
		return best.metric()
	case move.Gateway.Is4():
		return 0
	case found:
		return max(best.metric()-1, 1)
	default:
		return defaultMetric6 - 1
	}
}

// planUndo decides the steps back from what there is now.
func planUndo(ctx context.Context, h *netns.Handle, move Move, former Former) ([]step, error) {
	names, err := linkNames(h)
	if err != nil {
		return nil, err
	}
	current, err := readDefaults(ctx, h, move.family())
	if err != nil {
		return nil, err
	}
	before := slices.DeleteFunc(former.of(move.family()), func(d Default) bool {
		return slices.ContainsFunc(d.Devices, func(device int) bool {
			_, exists := names[device]
			return !exists
		})
	})
	return undoSteps(move, before, current, deviceIndex(names, move.IfName)), nil
}

// undoSteps: when a former route stood where ours is, they change places at
// once; the others are appended, and ours goes last.
func undoSteps(move Move, before, current []Default, device int) []step {
	var steps []step
	ours := slices.IndexFunc(current, func(d Default) bool { return d.isOurs(move, device) && !keeps(before, d) })
	ousted := false
	for _, route := range before {
		switch {
		case route.isIn(current):
		case ours >= 0 && !ousted && takesPlaceOf(route, current[ours]):
			steps = append(steps, step{replace, route})
			ousted = true
		default:
			steps = append(steps, step{add, route})
		}
	}
	if ours >= 0 && !ousted {
		steps = append(steps, step{remove, current[ours]})
	}
	return steps
}

// keeps says whether d was there before the move already.
func keeps(before []Default, d Default) bool {
	return slices.ContainsFunc(before, func(b Default) bool { return sameRoute(b, d) })
}

// takesPlaceOf says whether the kernel regards the two as the same entry when
// one is to replace the other: same metric and same type of service.
func takesPlaceOf(route, ours Default) bool {
	return route.metric() == ours.metric() && route.parsed().header.Tos == ours.parsed().header.Tos
}

func runApply(ctx context.Context, h *netns.Handle, steps []step) error {
	for _, s := range steps {
		failpoint.Hit("route-apply-before-step")
		if err := run(ctx, h, s); err != nil {
			return err
		}
		failpoint.Hit("route-apply-after-step")
	}
	return nil
}

// runUndo tries all steps. Ours is only removed when all others are restored:
// it is better than none, and goes away with its interface.
func runUndo(ctx context.Context, h *netns.Handle, steps []step) error {
	var errs []error
	for _, s := range steps {
		if s.do == remove && len(errs) > 0 {
			break
		}
		failpoint.Hit("route-undo-before-step")
		if err := run(ctx, h, s); err != nil {
			errs = append(errs, err)
		}
		failpoint.Hit("route-undo-after-step")
	}
	return errors.Join(errs...)
}

// run makes one change; that it was made before already is no error.
func run(ctx context.Context, h *netns.Handle, s step) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("change default routes: %w", err)
	}
	kind, flags := unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE
	verb, done := "add", unix.EEXIST
	switch s.do {
	case replace:
		flags |= unix.NLM_F_REPLACE
		verb = "put in place"
	case add:
		flags |= unix.NLM_F_APPEND
	case remove:
		kind, flags = unix.RTM_DELROUTE, unix.NLM_F_ACK
		verb, done = "remove", unix.ESRCH
	}
	req := h.Request(kind, flags)
	req.AddRawData(sendable(s))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, done) {
		return fmt.Errorf("%s route %q: %w", verb, s.route.Text, err)
	}
	return nil
}

func sendable(s step) []byte {
	m := s.route.parsed()
	if s.do != remove && s.route.Expires != 0 {
		m.attrs = append(m.attrs, attr{unix.RTA_EXPIRES, uint32Bytes(s.route.Expires)})
	}
	return m.serialize()
}
