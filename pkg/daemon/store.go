package daemon

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// openStore opens where the IPAM's objects are. The bell rings when other nodes
// may have asked for a block; nil where nothing tells.
func (d *Daemon) openStore(ctx context.Context, cfg config.Daemon, client *kube.Client, a *addressing) (bell <-chan struct{}, err error) {
	if cfg.Mode == config.Standalone {
		return nil, d.openFolder(ctx, cfg, a)
	}
	return d.openCluster(cfg, client, a)
}

func (d *Daemon) openFolder(ctx context.Context, cfg config.Daemon, a *addressing) error {
	store, err := dir.Open(ctx, cfg.IPAM.Dir)
	if err != nil {
		return err
	}
	a.store, a.pools = store, &dir.Pools{Dir: cfg.IPAM.PoolsDir, Log: d.opts.Log}
	a.node = &nodeObject{name: cfg.NodeName, known: machineID()}
	return nil
}

func (d *Daemon) openCluster(cfg config.Daemon, client *kube.Client, a *addressing) (<-chan struct{}, error) {
	rest, http := client.REST()
	store, err := crd.New(rest, http, crd.Options{Node: cfg.NodeName, Log: d.opts.Log})
	if err != nil {
		return nil, err
	}
	pools, err := crd.NewPools(rest, http, crd.PoolsOptions{Node: cfg.NodeName, StateDir: cfg.StateDir, Log: d.opts.Log})
	if err != nil {
		return nil, err
	}
	reservations, err := whereabouts.NewClient(rest, http, cfg.IPAM.WhereaboutsNamespace)
	if err != nil {
		return nil, err
	}
	a.store, a.pools, a.claims = whereabouts.WithReservations(store, reservations), pools, client
	a.node = &nodeObject{name: cfg.NodeName, client: client, log: d.opts.Log, gone: errUnregistered}
	a.close, a.ensure = store.Close, store.EnsureNode
	bell := make(chan struct{}, 1)
	a.run = func(ctx context.Context, group *errgroup.Group) {
		group.Go(func() error { pools.Run(ctx); return nil })
		group.Go(func() error { store.Watch(ctx, cfg.NodeName, func() { ring(bell) }); return nil })
		if a.agent != nil {
			group.Go(func() error { a.node.follow(ctx, a.agent, store); return nil })
		}
	}
	return bell, nil
}

var errUnregistered = errors.New("the Node object of this node has not been read yet: the API server must answer once before addresses are given out")

// machineID tells machines of one name apart (machine-id(5)); without the file,
// nothing does.
func machineID() string {
	data, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// ring rings a bell that rings already once.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
