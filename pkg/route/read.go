package route

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meta-cni/meta-cni/pkg/netns"
)

// readAttempts bounds how often the table is read while it changes.
const readAttempts = 10

// readDefaults reads the main table's default routes of one family. It
// believes what it has read twice: a dump of many routes comes in parts, and
// for IPv6 the kernel starts over when routes change in between, so that some
// come twice or not at all, without a word (NLM_F_DUMP_INTR is not set).
func readDefaults(ctx context.Context, h *netns.Handle, family uint8) ([]Default, error) {
	names, err := linkNames(h)
	if err != nil {
		return nil, err
	}
	var last []Default
	for attempt := range readAttempts {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read default routes: %w", err)
		}
		routes, err := dumpDefaults(h, family, names)
		if err != nil {
			return nil, fmt.Errorf("read default routes: %w", err)
		}
		if attempt > 0 && slices.EqualFunc(last, routes, sameMessage) && !hasTwice(routes) {
			return routes, nil
		}
		last = routes
	}
	return nil, fmt.Errorf("read default routes: they changed during each of %d reads: %w", readAttempts, netlink.ErrDumpInterrupted)
}

func sameMessage(a, b Default) bool { return bytes.Equal(a.Message, b.Message) }

// hasTwice says whether a route comes twice, which no table has.
func hasTwice(routes []Default) bool {
	for i, route := range routes {
		if slices.ContainsFunc(routes[:i], func(d Default) bool { return sameMessage(d, route) }) {
			return true
		}
	}
	return false
}

// dumpDefaults reads once; names are the interfaces' by index. A dump that the
// kernel calls interrupted is repeated, and an error in the end.
func dumpDefaults(h *netns.Handle, family uint8, names map[int]string) ([]Default, error) {
	req := h.Request(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN}})
	dump, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return nil, err
	}
	var routes []Default
	for _, raw := range dump {
		m, err := parseMessage(raw)
		if err != nil {
			return nil, err
		}
		if m.header.Family == family && m.isDefault() {
			routes = append(routes, newDefault(m, names))
		}
	}
	return routes, nil
}
