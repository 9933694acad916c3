package route

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// userHZ is the unit of times in netlink (USER_HZ), 100 a second everywhere.
const userHZ = 100

// attrTypeMask takes the flags (nested, byte order) off an attribute's type.
const attrTypeMask = 0x3fff

// nullMetric marks the kernel's own "nothing matches" entry of IPv6.
const nullMetric = 0xffffffff

// Default is one default route as the kernel described it.
type Default struct {
	// Text is for people, in the words of iproute2.
	Text string `json:"text"`
	// Message is the kernel's RTM_NEWROUTE message (struct rtmsg and
	// attributes) without what can't be sent back to it: states and counters.
	Message []byte `json:"message"`
	// Devices are the indexes of the interfaces that it leads through.
	Devices []int `json:"devices,omitempty"`
	// Expires is the lifetime in seconds that was left when it was read, of a
	// route learned from a router's advertisement; 0 is for ever.
	Expires uint32 `json:"expires,omitempty"`
}

// hop is one next hop of a default route; gateway is invalid when there is
// none.
type hop struct {
	device  int
	gateway netip.Addr
}

// message is a netlink route message taken apart.
type message struct {
	header nl.RtMsg
	attrs  []attr
}

type attr struct {
	kind  uint16
	value []byte
}

func parseMessage(raw []byte) (message, error) {
	if len(raw) < unix.SizeofRtMsg {
		return message{}, fmt.Errorf("route message of %d bytes is too short", len(raw))
	}
	attrs, err := parseAttrs(raw[unix.SizeofRtMsg:])
	if err != nil {
		return message{}, fmt.Errorf("route message: %w", err)
	}
	header := nl.DeserializeRtMsg(bytes.Clone(raw[:unix.SizeofRtMsg]))
	return message{header: *header, attrs: attrs}, nil
}

// parseAttrs exists because the library's own panics on a length that is not
// a multiple of four at the very end.
func parseAttrs(raw []byte) ([]attr, error) {
	var attrs []attr
	for len(raw) > 0 {
		if len(raw) < unix.SizeofRtAttr {
			return nil, fmt.Errorf("%d bytes are left after the last attribute", len(raw))
		}
		size := int(nl.NativeEndian().Uint16(raw))
		if size < unix.SizeofRtAttr || size > len(raw) {
			return nil, fmt.Errorf("an attribute claims %d of %d bytes", size, len(raw))
		}
		attrs = append(attrs, attr{kind: nl.NativeEndian().Uint16(raw[2:]) & attrTypeMask, value: raw[unix.SizeofRtAttr:size]})
		raw = raw[min((size+3)&^3, len(raw)):]
	}
	return attrs, nil
}

func (m message) serialize() []byte {
	out := bytes.Clone(m.header.Serialize())
	for _, a := range m.attrs {
		out = append(out, nl.NewRtAttr(int(a.kind), a.value).Serialize()...)
	}
	return out
}

func (m message) get(kind uint16) []byte {
	for _, a := range m.attrs {
		if a.kind == kind {
			return a.value
		}
	}
	return nil
}

func (m message) number(kind uint16) uint32 {
	if v := m.get(kind); len(v) >= 4 {
		return nl.NativeEndian().Uint32(v)
	}
	return 0
}

// isDefault says whether this is a default route in the main table, not a
// cached copy and not the kernel's own null entry.
func (m message) isDefault() bool {
	table := uint32(m.header.Table)
	if v := m.number(unix.RTA_TABLE); v != 0 {
		table = v
	}
	return m.header.Dst_len == 0 && m.header.Src_len == 0 &&
		table == unix.RT_TABLE_MAIN &&
		m.header.Flags&unix.RTM_F_CLONED == 0 &&
		m.number(unix.RTA_PRIORITY) != nullMetric
}

// canonical keeps what describes the route and drops what describes its
// state, so that the same route always reads the same and can be sent back.
func (m message) canonical() message {
	out := message{header: m.header}
	out.header.Flags &= unix.RTNH_F_ONLINK
	for _, a := range m.attrs {
		switch {
		case m.get(netlink.RTA_NH_ID) != nil && isNextHop(a.kind):
			// The kernel shows what the next hop object holds, but takes only one.
		case a.kind == unix.RTA_MULTIPATH:
			out.attrs = append(out.attrs, attr{a.kind, withoutStates(a.value)})
		case isDescription(a.kind):
			out.attrs = append(out.attrs, a)
		}
	}
	return out
}

func isNextHop(kind uint16) bool {
	switch kind {
	case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
		return true
	}
	return false
}

func isDescription(kind uint16) bool {
	switch kind {
	case unix.RTA_PRIORITY, unix.RTA_PREFSRC, unix.RTA_METRICS, unix.RTA_FLOW, unix.RTA_PREF, netlink.RTA_NH_ID:
		return true
	}
	return isNextHop(kind)
}

// withoutStates clears dead, linkdown and offload in the next hops of a
// multipath route (struct rtnexthop: length, flags, hops, interface).
func withoutStates(value []byte) []byte {
	out := bytes.Clone(value)
	for rest := out; len(rest) >= unix.SizeofRtNexthop; {
		rest[2] &= unix.RTNH_F_ONLINK
		size := alignedHop(rest)
		if size == 0 {
			break
		}
		rest = rest[size:]
	}
	return out
}

// alignedHop is the number of bytes that the first next hop takes, or 0 when
// it is damaged.
func alignedHop(value []byte) int {
	size := int(nl.NativeEndian().Uint16(value))
	if size < unix.SizeofRtNexthop || size > len(value) {
		return 0
	}
	return min((size+3)&^3, len(value))
}

// hops lists the next hops, in order.
func (m message) hops() []hop {
	multi := m.get(unix.RTA_MULTIPATH)
	if multi == nil {
		return []hop{{device: int(m.number(unix.RTA_OIF)), gateway: address(m.get(unix.RTA_GATEWAY))}}
	}
	var hops []hop
	for len(multi) >= unix.SizeofRtNexthop {
		size := alignedHop(multi)
		if size == 0 {
			break
		}
		next := hop{device: int(nl.NativeEndian().Uint32(multi[4:]))}
		if attrs, err := parseAttrs(multi[unix.SizeofRtNexthop:size]); err == nil {
			next.gateway = address(message{attrs: attrs}.get(unix.RTA_GATEWAY))
		}
		hops = append(hops, next)
		multi = multi[size:]
	}
	return hops
}

func address(value []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(value)
	return addr
}

// newDefault keeps a route as the kernel described it; names are the
// interfaces' by index.
func newDefault(m message, names map[int]string) Default {
	d := Default{Message: m.canonical().serialize(), Text: describe(m, names)}
	for _, next := range m.hops() {
		if next.device != 0 {
			d.Devices = append(d.Devices, next.device)
		}
	}
	if info := m.get(unix.RTA_CACHEINFO); len(info) >= 12 {
		// struct rta_cacheinfo: clntref, lastuse, expires, ...
		if expires := int32(nl.NativeEndian().Uint32(info[8:])); expires > 0 {
			d.Expires = uint32(expires)/userHZ + 1
		}
	}
	return d
}

func describe(m message, names map[int]string) string {
	words := []string{"default"}
	for _, h := range m.hops() {
		if h.gateway.IsValid() {
			words = append(words, "via", h.gateway.String())
		}
		if name, known := names[h.device]; known {
			words = append(words, "dev", name)
		}
	}
	if m.header.Type != unix.RTN_UNICAST {
		words = append([]string{fmt.Sprintf("type %d", m.header.Type)}, words...)
	}
	words = append(words, fmt.Sprintf("proto %d metric %d", m.header.Protocol, m.number(unix.RTA_PRIORITY)))
	return strings.Join(words, " ")
}

// parsed is for routes that parseMessage made or accepted before.
func (d Default) parsed() message {
	m, err := parseMessage(d.Message)
	if err != nil {
		return message{}
	}
	return m
}

func (d Default) family() uint8  { return d.parsed().header.Family }
func (d Default) metric() uint32 { return d.parsed().number(unix.RTA_PRIORITY) }

// isOurs says whether Apply made this route for the move; device is the index
// of the move's interface.
func (d Default) isOurs(move Move, device int) bool {
	m := d.parsed()
	return m.header.Protocol == Protocol && slices.Contains(m.hops(), hop{device: device, gateway: move.Gateway})
}

// isIn says whether the route is among routes. The kernel joins IPv6 routes
// of one metric into one multipath route when it shows them, so there each
// next hop counts for itself.
func (d Default) isIn(routes []Default) bool {
	m := d.parsed()
	if m.header.Family != unix.AF_INET6 || m.get(netlink.RTA_NH_ID) != nil {
		return slices.ContainsFunc(routes, func(o Default) bool { return bytes.Equal(o.Message, d.Message) })
	}
	var present []hop
	for _, other := range routes {
		o := other.parsed()
		if o.header.Type == m.header.Type && other.metric() == d.metric() {
			present = append(present, o.hops()...)
		}
	}
	return !slices.ContainsFunc(m.hops(), func(h hop) bool { return !slices.Contains(present, h) })
}

// bestOf is the route that the kernel prefers: the lowest metric, the first of
// equals.
func bestOf(routes []Default) (Default, bool) {
	if len(routes) == 0 {
		return Default{}, false
	}
	return slices.MinFunc(routes, func(a, b Default) int { return int(int64(a.metric()) - int64(b.metric())) }), true
}

// ourMessage describes the route that Apply makes.
func ourMessage(move Move, device int, metric uint32) message {
	m := message{header: nl.RtMsg{RtMsg: unix.RtMsg{
		Family:   move.family(),
		Table:    unix.RT_TABLE_MAIN,
		Protocol: Protocol,
		Scope:    unix.RT_SCOPE_UNIVERSE,
		Type:     unix.RTN_UNICAST,
	}}}
	m.attrs = append(m.attrs, attr{unix.RTA_GATEWAY, move.Gateway.AsSlice()}, attr{unix.RTA_OIF, uint32Bytes(uint32(device))})
	if metric != 0 {
		m.attrs = append(m.attrs, attr{unix.RTA_PRIORITY, uint32Bytes(metric)})
	}
	return m
}

func uint32Bytes(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
