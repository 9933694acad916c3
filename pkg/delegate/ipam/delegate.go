package ipamdelegate

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
)

// Names are the plugin types that the delegate answers to.
func Names() []string { return []string{netconf.Meta, netconf.Whereabouts} }

// Options are the delegate's parts; the functions may be nil.
type Options struct {
	Allocator ipam.Allocator
	// Pools finds declared pools; nil where there are none.
	Pools ipam.Pools
	// Flat is the content of Whereabouts' flat file, which is read for each ADD
	// and CHECK of type whereabouts. fs.ErrNotExist says that there is none.
	Flat func() ([]byte, error)
	// Log gets the notes on configurations, each once.
	Log *slog.Logger
	// Conflict is told when a station on the wire answered for an address that
	// was about to be given to owner. It must not block.
	Conflict func(owner ipam.Owner, addr netip.Addr, err error)
	// Keep says whom the addresses of an attachment are kept for, beside the
	// stickiness of its configuration. Network and IfName are filled in if they
	// are empty. An error fails ADD with code 11.
	Keep func(ctx context.Context, key ipam.Key) (ipam.Keeper, error)
	// ProbeFor makes the question for an address on the wire of an interface,
	// see ipam.Request.Probe; nil if it can't be asked there.
	ProbeFor func(netns, ifName string) func(ctx context.Context, addr netip.Addr) error
}

// Delegate is the IPAM plugin. It is safe for concurrent use.
type Delegate struct {
	opts  Options
	notes notes
}

var _ delegate.Delegate = (*Delegate)(nil)

// New makes the delegate of its parts.
func New(opts Options) *Delegate { return &Delegate{opts: opts} }
