package ipam

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Pool is an IPPool: ranges that people declare, or that a network definition
// brought into being.
type Pool struct {
	Name  string
	Space Space
	// Ranges are tried in order within a family; a request gets one address of
	// each family that there is.
	Ranges   []PoolRange
	Order    Order
	Cooldown time.Duration
	// Sticky keeps addresses for the next pod of the same name.
	Sticky bool
	// Probe asks for an address on the wire before it is used.
	Probe  bool
	Routes []PoolRoute
	// Nameservers, Domain, Search and Options are the result's DNS.
	Nameservers []string
	Domain      string
	Search      []string
	Options     []string
	// Definition is the network definition that the pool came of; empty for a
	// declared one.
	Definition string
}

// PoolRange is one range of a pool.
type PoolRange struct {
	Spec iprange.Spec
	// Gateway of the results; zero means none.
	Gateway netip.Addr
}

// PoolRoute is a route of the results; without a gateway it goes by that of
// the address's range.
type PoolRoute struct {
	Dst netip.Prefix
	GW  netip.Addr
}

// ErrNoPool says that there is no pool of that name, or none that fits.
var ErrNoPool = errors.New("no such pool")

// Pools finds declared pools for this node.
type Pools interface {
	// Pool is the pool of that name if its selectors admit this node and the
	// namespace; else ErrNoPool in words.
	Pool(ctx context.Context, name, namespace string) (Pool, error)
	// Match are the pools whose selectors admit this node and the namespace,
	// and that may be used without being named, by name.
	Match(ctx context.Context, namespace string) ([]Pool, error)
	// Note makes a pool of a network definition known to people; it returns at
	// once and is done when it can be.
	Note(p Pool)
}
