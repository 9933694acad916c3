package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate"
	ipamdelegate "github.com/meta-cni/meta-cni/pkg/delegate/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/kube"
	wireprobe "github.com/meta-cni/meta-cni/pkg/probe"
	"github.com/meta-cni/meta-cni/pkg/publish"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// logDir is the folder of the IPAM's log below the state folder.
const logDir = "ipam"

// addressing is the address management of this node, or why there is none.
type addressing struct {
	agent  *agent.Agent
	broken error
	// again tries what was broken once more; nil if it would work now.
	again func(ctx context.Context) error
	// store and pools are where the objects are; run follows them.
	store ipam.Store
	pools ipam.Pools
	run   func(ctx context.Context, group *errgroup.Group)
	close func()
	// ensure announces this node to the others; nil where nobody else is.
	ensure func(context.Context, ipam.Node) error
	node   *nodeObject
	// claim tells of an IPAMClaim; nil where there are none.
	claims ipamClaims
	prober *wireprobe.Prober
}

// ipamClaims are persistent addresses; *kube.Client has them.
type ipamClaims interface {
	IPAMClaimUID(ctx context.Context, namespace, name string) (string, error)
	PatchIPAMClaimStatus(ctx context.Context, namespace, name, uid string, ips []string, pod string) error
}

// openAddresses opens the log and the store. A log that can't be used doesn't
// keep the daemon from serving pods that need no address of it: whoever does
// is refused with the reason.
func (d *Daemon) openAddresses(ctx context.Context, cfg config.Daemon, client *kube.Client) *addressing {
	a := &addressing{prober: wireprobe.New(wireprobe.DefaultTiming()), close: func() {}, run: func(context.Context, *errgroup.Group) {}}
	if err := d.openAgent(ctx, cfg, client, a); err != nil {
		a.broken = fmt.Errorf("%w: the IPAM of this node: %w", ipam.ErrNotReady, err)
		a.again = func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, brokenEvery)
			defer cancel()
			probe := &addressing{close: func() {}}
			return errors.Join(d.openAgent(ctx, cfg, client, probe), probe.end())
		}
		d.opts.Log.Error("no addresses can be given out by this node", "error", err.Error())
	}
	return a
}

func (d *Daemon) openAgent(ctx context.Context, cfg config.Daemon, client *kube.Client, a *addressing) error {
	bell, err := d.openStore(ctx, cfg, client, a)
	if err != nil {
		return err
	}
	log, recovered, err := openLog(ctx, wal.Options{Dir: filepath.Join(cfg.StateDir, logDir), Log: d.opts.Log})
	if err != nil {
		return err
	}
	a.agent, err = agent.Open(agent.Disk{Log: log}, recovered, agent.Options{
		Store: a.store, Node: ipam.Node{Name: cfg.NodeName, Boot: d.opts.Journal.BootID(), UID: a.node.uid()},
		Alive: d.sandboxMayLive, Alarm: d.alarm, Clock: uptime, Asked: bell,
		MayAllocate: a.node.mayAllocate, Log: d.opts.Log,
	})
	if err != nil {
		return errors.Join(err, log.Close())
	}
	if uid := a.agent.Node().UID; uid != "" {
		a.node.set(uid, nil) // known of an earlier run
	}
	return nil
}

// logRetry is between tries to open a log that another thin call has.
const logRetry = 5 * time.Millisecond

// openLog opens the log, and waits until ctx ends while another call has it: a
// daemon is alone, thin calls for several containers are not.
func openLog(ctx context.Context, o wal.Options) (*wal.Log, wal.Recovered, error) {
	for {
		log, recovered, err := wal.Open(o)
		if !errors.Is(err, wal.ErrInUse) || !waited(ctx, logRetry) {
			return log, recovered, err
		}
	}
}

// uptime is the clock of cool-downs: a restart doesn't set it back.
func uptime() time.Duration {
	now, err := journal.Uptime()
	if err != nil {
		return 0 // clock_gettime of a clock that the kernel has can't fail
	}
	return now
}

// delegates are the IPAM as plugins may call it back.
func (a *addressing) delegates(d *Daemon, cfg config.Daemon) map[string]delegate.Delegate {
	var allocator ipam.Allocator = refusing{a.broken}
	if a.agent != nil {
		allocator = announcing{a.agent, a.claims, d}
	}
	own := ipamdelegate.New(ipamdelegate.Options{
		Allocator: allocator, Pools: a.pools, Log: d.opts.Log,
		Flat:     func() ([]byte, error) { return os.ReadFile(cfg.IPAM.FlatFile) },
		Keep:     func(ctx context.Context, key ipam.Key) (ipam.Keeper, error) { return d.keeper(ctx, a.claims, key) },
		ProbeFor: func(netns, ifName string) func(context.Context, netip.Addr) error { return a.ask(d, netns, ifName) },
	})
	all := map[string]delegate.Delegate{}
	for _, name := range ipamdelegate.Names() {
		all[name] = own
	}
	return all
}

// ask makes the question on the wire. A network that can't be asked is not one
// that answers.
func (a *addressing) ask(d *Daemon, netns, ifName string) func(context.Context, netip.Addr) error {
	return func(ctx context.Context, addr netip.Addr) error {
		err := a.prober.Address(ctx, netns, ifName, addr)
		switch {
		case errors.Is(err, wireprobe.ErrInUse):
			return fmt.Errorf("%w: %w", ipam.ErrConflict, err)
		case errors.Is(err, wireprobe.ErrCannotAsk):
			d.opts.Log.Warn("nobody was asked whether an address is in use", "address", addr.String(), "error", err.Error())
			return nil
		}
		return err
	}
}

// alarm tells the pod's owner, or the log where there is no pod.
func (d *Daemon) alarm(a agent.Alarm) {
	d.opts.Log.Error("IPAM", "reason", a.Reason, "pod", a.Owner.Pod(), "message", a.Message)
	if a.Owner.PodUID == "" || d.opts.Publisher == nil {
		return
	}
	d.opts.Publisher.Event(publish.Event{
		Pod:  attach.Pod{Namespace: a.Owner.PodNamespace, Name: a.Owner.PodName, UID: a.Owner.PodUID},
		Type: publish.Warning, Reason: a.Reason, Message: a.Message,
	})
}

// start does the IPAM's work in the background until ctx ends.
func (a *addressing) start(ctx context.Context, group *errgroup.Group) {
	a.run(ctx, group)
	if a.agent == nil {
		group.Go(func() error { return a.watchBroken(ctx) })
		return
	}
	group.Go(func() error { a.agent.Run(ctx); return nil })
	group.Go(func() error { return a.watchLog(ctx) })
}

// brokenEvery is how often it is looked whether the log can still be used.
const brokenEvery = 5 * time.Second

// watchLog is an error when the log can't be used any more, which ends the
// daemon: each DEL would fail until it is started again and reads what the disk
// has of the log.
func (a *addressing) watchLog(ctx context.Context) error {
	for waited(ctx, brokenEvery) {
		if err := a.agent.Broken(); err != nil {
			return fmt.Errorf("the daemon ends, to be started anew: %w", err)
		}
	}
	return nil
}

// watchBroken is an error when what kept this node from giving addresses out is
// mended (a disk has room again), which ends the daemon: the next one gives
// them out, and takes them back.
func (a *addressing) watchBroken(ctx context.Context) error {
	for waited(ctx, brokenEvery) {
		if a.again(ctx) == nil {
			return fmt.Errorf("the daemon ends, to be started anew: this is mended: %w", a.broken)
		}
	}
	return nil
}

// end closes the log, after the last request.
func (a *addressing) end() error {
	a.close()
	if a.agent == nil {
		return nil
	}
	return a.agent.Close()
}

func (a *addressing) announce(ctx context.Context) func(ipam.Node) error {
	return func(n ipam.Node) error {
		if a.ensure == nil {
			return nil
		}
		return a.ensure(ctx, n)
	}
}

// refusing is the IPAM of a node whose log can't be used. A DEL is refused as
// well: what it would release is in that log.
type refusing struct{ reason error }

func (r refusing) Allocate(context.Context, ipam.Request) ([]ipam.Address, error) {
	return nil, r.reason
}
func (r refusing) Release(context.Context, ipam.Key) error                 { return r.reason }
func (r refusing) ReleaseAttachment(context.Context, string, string) error { return r.reason }
func (r refusing) Held(ipam.Key) []netip.Addr                              { return nil }
func (r refusing) Ready() error                                            { return r.reason }
