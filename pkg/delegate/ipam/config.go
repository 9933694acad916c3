package ipamdelegate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
)

// parse reads the call; the head is there, as far as it was read, also next to
// an error.
func (d *Delegate) parse(call delegate.Call) (netconf.Head, netconf.Config, error) {
	head, err := netconf.ReadHead(call.Conf)
	if err != nil {
		return head, netconf.Config{}, err
	}
	if !slices.Contains(version.All.SupportedVersions(), head.CNIVersion) {
		text := fmt.Sprintf("cniVersion %q is not among %v", head.CNIVersion, version.All.SupportedVersions())
		return head, netconf.Config{}, types.NewError(types.ErrIncompatibleCNIVersion, text, "")
	}
	in := netconf.Input{Conf: call.Conf, Args: call.Args, ContainerID: call.ContainerID, IfName: call.IfName, Netns: call.Netns}
	if head.Type == netconf.Whereabouts && d.opts.Flat != nil {
		in.Flat, err = d.opts.Flat()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return head, netconf.Config{}, types.NewError(types.ErrIOFailure, fmt.Sprintf("flat file of Whereabouts: %v", err), "")
		}
	}
	config, err := netconf.Parse(in)
	return head, config, err
}

// pools are the declared pools that the configuration means. One that isn't
// there, or isn't for this node and namespace, is left out as long as another
// is: so a definition names a pool for each zone.
func (d *Delegate) pools(ctx context.Context, config netconf.Config) ([]ipam.Pool, error) {
	namespace := config.Owner.PodNamespace
	if d.opts.Pools == nil {
		return nil, missing(config.PoolNames)
	}
	if config.Match {
		return d.opts.Pools.Match(ctx, namespace)
	}
	var (
		found []ipam.Pool
		errs  []error
	)
	for _, name := range config.PoolNames {
		pool, err := d.opts.Pools.Pool(ctx, name, namespace)
		switch {
		case err == nil:
			found = append(found, pool)
		case errors.Is(err, ipam.ErrNoPool):
			errs = append(errs, err)
		default:
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, errors.Join(errs...)
	}
	for _, err := range errs {
		d.note(config.Network, fmt.Sprintf("ipam.pools: %v", err))
	}
	return found, nil
}

// missing is the error of a node without declared pools.
func missing(names []string) error {
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %q: this node has no store of pools; give ranges", ipam.ErrNoPool, names)
}

// note logs what a configuration says in vain, once.
func (d *Delegate) note(network, text string) {
	if d.notes.isNew(network, text) {
		d.opts.Log.Warn("network definition", "network", network, "note", text)
	}
}

// maxNotes bounds the memory of what was logged; beyond it, notes may be logged
// again.
const maxNotes = 4096

// notes remembers what was logged.
type notes struct {
	mu   sync.Mutex
	seen map[[2]string]bool
}

func (n *notes) isNew(network, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{network, text}
	if n.seen[key] {
		return false
	}
	if n.seen == nil || len(n.seen) >= maxNotes {
		n.seen = map[[2]string]bool{}
	}
	n.seen[key] = true
	return true
}
