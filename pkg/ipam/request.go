package ipam

import (
	"context"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Order says which of several free addresses is next.
type Order string

const (
	// FIFO is the address that has been free the longest.
	FIFO Order = "fifo"
	// Lowest is the lowest free address, as Whereabouts does it.
	Lowest Order = "lowest"
	// Random is any.
	Random Order = "random"
)

// Range is one range of addresses that a request may be served from: a filter
// on a space.
type Range struct {
	// Space is made with these settings if it isn't there; one that is there
	// keeps its own.
	Space Space `json:"space"`
	// Pool is what people call it: the IPPool or the network definition.
	Pool string `json:"pool,omitempty"`
	// Text is the range as written, for messages.
	Text string `json:"text"`
	// Subnet gives the address its prefix length; zero means the address alone.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Usable are the addresses that may be given away.
	Usable iprange.Set `json:"-"`
	// Gateway is copied to the result; zero means none.
	Gateway netip.Addr `json:"gateway,omitzero"`
}

// Want is one address that is asked for.
type Want struct {
	// Ranges are tried in order; the first that has an address serves.
	Ranges []Range
	// Addr is the very address that is wanted, or zero for any.
	Addr netip.Addr
}

// Request asks for one address for each Want, all or none.
type Request struct {
	Owner Owner
	// Netns is the path of the sandbox's network namespace.
	Netns string
	Wants []Want
	Order Order
	// Cooldown is how long a released address rests; zero means the space's.
	Cooldown time.Duration
	// Keep is whom the addresses are kept for after the sandbox.
	Keep Keeper
	// Probe asks the wire for an address before it is used; nil where the wire
	// can't be asked. It returns ErrConflict if a station answers: the address
	// then rests and another is taken, unless it was the wanted one.
	Probe func(ctx context.Context, addr netip.Addr) error
	// ProbeAll asks for each address; else only for those that a node had which
	// is believed dead.
	ProbeAll bool
}

// Address is one granted address.
type Address struct {
	// Prefix is the address with its subnet's length.
	Prefix netip.Prefix `json:"prefix"`
	// Range is the one that served.
	Range Range `json:"range"`
}

// Allocator hands out addresses. It is safe for concurrent use; calls with the
// same key wait for each other.
type Allocator interface {
	// Allocate grants an address for each Want, in their order, or an error and
	// nothing. What it returned is durable. Errors: ErrExhausted, ErrTaken,
	// ErrInvalid, ErrNotReady, ErrConflict, or the context's.
	Allocate(ctx context.Context, req Request) ([]Address, error)
	// Release gives all addresses of a key back. It needs no store, and an
	// unknown key is a success.
	Release(ctx context.Context, key Key) error
	// ReleaseAttachment gives all addresses of a sandbox's interface back,
	// whatever the network: for a DEL whose configuration names none. It needs
	// no store, and what is unknown is a success.
	ReleaseAttachment(ctx context.Context, containerID, ifName string) error
	// Held are the addresses of a key; none is no error.
	Held(key Key) []netip.Addr
	// Ready is nil, or says in words why Allocate can't work.
	Ready() error
}
