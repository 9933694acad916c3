package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Cluster tells of Kubernetes' own objects. What speaks for a life may be of a
// cache; what speaks against it is read from the API server at the call.
type Cluster interface {
	// Node is the evidence about the node of that name and UID.
	Node(ctx context.Context, n ipam.Node) Evidence
	// Keeper is the evidence about whom an address is kept for.
	Keeper(ctx context.Context, k ipam.Keeper) KeeperEvidence
	// HasPod says whether a pod exists, for reports; it may be old.
	HasPod(namespace, name string) bool
}

// Objects are those of our API group that people look at.
type Objects interface {
	Spaces(ctx context.Context) ([]v1alpha1.AddressSpace, error)
	Pools(ctx context.Context) ([]v1alpha1.IPPool, error)
	// Blocks of a space, with what their nodes tell of them; they may be old.
	Blocks(ctx context.Context, space string) ([]v1alpha1.IPBlock, error)
	NodeIPAMs(ctx context.Context) ([]v1alpha1.NodeIPAM, error)
	// DeleteNodeIPAM is conditional as the next two are.
	DeleteNodeIPAM(ctx context.Context, name string, v ipam.Version) error
	// SetStatus and SetFinalizers are refused (ipam.ErrStale) for an object that
	// isn't the one of that version any more.
	SetStatus(ctx context.Context, resource, name string, v ipam.Version, status any) error
	SetFinalizers(ctx context.Context, resource, name string, v ipam.Version, finalizers []string) error
}

// fresh is how old a node's evidence may be when a write depends on it.
const fresh = 5 * time.Second

// Controller does the passes.
type Controller struct {
	Cluster Cluster
	Objects Objects
	// Store keeps claims' reservations where a space is beside Whereabouts.
	Store ipam.Store
	// Mender mends those; nil without Whereabouts.
	Mender *whereabouts.Mender
	Log    *slog.Logger

	collector *Collector
	reports   reports
	now       func() time.Time
}

// New makes a controller that has seen nothing yet.
func New(c Controller, t Times) *Controller {
	c.collector, c.reports, c.now = NewCollector(t), reports{}, time.Now
	return &c
}

// pass is one look at everything.
type pass struct {
	*Controller
	verdicts map[life]judged
	claims   map[ipam.ClaimRef]bool
	nodes    map[ipam.Node]bool
}

type judged struct {
	Verdict
	at time.Time
}

// Pass looks at everything once. An error about one object doesn't keep it from
// the others.
func (c *Controller) Pass(ctx context.Context) error {
	spaces, err := c.Objects.Spaces(ctx)
	if err != nil {
		return fmt.Errorf("list address spaces: %w", err)
	}
	pools, err := c.Objects.Pools(ctx)
	if err != nil {
		return fmt.Errorf("list pools: %w", err)
	}
	p := &pass{Controller: c, verdicts: map[life]judged{}, claims: map[ipam.ClaimRef]bool{}, nodes: map[ipam.Node]bool{}}
	var errs []error
	for i := range spaces {
		errs = append(errs, p.space(ctx, &spaces[i], pools))
	}
	errs = append(errs, c.idlePools(ctx, spaces, pools), p.letterBoxes(ctx))
	if err := errors.Join(errs...); err != nil {
		return err // what wasn't seen isn't forgotten
	}
	c.collector.Forget(p.claims, p.nodes)
	c.reports.forget(p.claims)
	return nil
}

func (p *pass) space(ctx context.Context, as *v1alpha1.AddressSpace, pools []v1alpha1.IPPool) error {
	blocks, err := p.Store.SpaceBlocks(ctx, as.Name, everything())
	if err != nil {
		return fmt.Errorf("list blocks of space %s: %w", as.Name, err)
	}
	claims, err := p.Store.SpaceClaims(ctx, as.Name, everything())
	if err != nil {
		return fmt.Errorf("list claims of space %s: %w", as.Name, err)
	}
	var errs []error
	for _, b := range blocks {
		errs = append(errs, p.block(ctx, b))
	}
	for _, c := range claims {
		p.claims[c.Ref] = true
		p.report(c)
		errs = append(errs, p.claim(ctx, c))
	}
	if as.Spec.Whereabouts && p.Mender != nil {
		errs = append(errs, p.mend(ctx, as.Name))
	}
	errs = append(errs, p.count(ctx, as, pools, claims))
	return errors.Join(errs...)
}

func everything() iprange.Set {
	return iprange.SetOf(
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
}

// verdict judges a node once a pass, and again where a write depends on it.
func (p *pass) verdict(ctx context.Context, n ipam.Node) Verdict {
	if n.Name == "" {
		return Verdict{}
	}
	p.nodes[n] = true
	if v, ok := p.verdicts[lifeOf(n)]; ok && (!v.Dead || p.now().Sub(v.at) < fresh) {
		return v.Verdict
	}
	v := p.collector.Node(p.now(), n, p.Cluster.Node(ctx, n))
	p.verdicts[lifeOf(n)] = judged{v, p.now()}
	return v
}

// block takes a block from a dead node. The list may be old: the block is read
// again after the verdict, and judged as it is then.
func (p *pass) block(ctx context.Context, b ipam.Block) error {
	if b.Mode != ipam.Leased || !p.verdict(ctx, b.Owner).Dead {
		return nil
	}
	live, err := p.Store.GetBlock(ctx, b.Ref)
	if errors.Is(err, ipam.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read block %s: %w", b.Ref, err)
	}
	if live.Owner != b.Owner {
		return nil // the next pass judges that one
	}
	owner := p.verdict(ctx, live.Owner)
	next, take := p.collector.Block(live, owner)
	if !take {
		return nil
	}
	if _, err := p.Store.UpdateBlock(ctx, next); err != nil {
		return unlessChanged(err, "take block %s from node %s", b.Ref, b.Owner.Name)
	}
	p.Log.Info("a block was taken from a dead node; the next node that takes it asks for each address on the wire", "block", b.Ref.String(), "node", b.Owner.Name, "reason", owner.Reason)
	return nil
}

// claim decides about a claim, and does it if the claim is still the same.
func (p *pass) claim(ctx context.Context, c ipam.Claim) error {
	var keeper KeeperEvidence
	if c.State == ipam.Kept {
		keeper = p.Cluster.Keeper(ctx, c.Keep)
	}
	action, next, reason := p.collector.Claim(p.now(), c, p.verdict(ctx, c.Node), keeper)
	if action == Leave {
		return nil
	}
	live, err := p.Store.GetClaim(ctx, c.Ref)
	if errors.Is(err, ipam.ErrNotFound) || err == nil && live.Version != c.Version {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read claim %s: %w", c.Ref, err)
	}
	if action == Delete {
		err = p.Store.DeleteClaim(ctx, c.Ref, c.Version)
	} else {
		next.Since = p.now()
		_, err = p.Store.UpdateClaim(ctx, next)
	}
	if err != nil {
		return unlessChanged(err, "%s claim %s (%s)", action, c.Ref, reason)
	}
	p.Log.Info("a claim of nobody who lives was changed", "claim", c.Ref.String(), "action", string(action), "was", string(c.State), "pod", c.Owner.Pod(), "reason", reason)
	return nil
}

// unlessChanged is nil for an object that changed meanwhile: whoever did that
// knows better.
func unlessChanged(err error, format string, args ...any) error {
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

func (p *pass) mend(ctx context.Context, space string) error {
	findings, err := p.Mender.Mend(ctx, space, p.now())
	for _, f := range findings {
		p.Log.Warn("an address has two owners", "space", space, "text", f.Text)
	}
	return err
}

// letterBoxes deletes the NodeIPAMs of nodes that are gone: they count as nodes
// when a range is shared out. The agent of one that lives makes it again.
func (p *pass) letterBoxes(ctx context.Context) error {
	boxes, err := p.Objects.NodeIPAMs(ctx)
	if err != nil {
		return fmt.Errorf("list NodeIPAMs: %w", err)
	}
	var errs []error
	for i := range boxes {
		box := &boxes[i]
		if !p.verdict(ctx, ipam.Node{Name: box.Name, UID: box.Status.UID, Boot: box.Status.Boot}).Absent {
			continue
		}
		if err := p.Objects.DeleteNodeIPAM(ctx, box.Name, versionOf(box)); err != nil {
			errs = append(errs, unlessChanged(err, "delete NodeIPAM %s", box.Name))
		}
	}
	return errors.Join(errs...)
}
