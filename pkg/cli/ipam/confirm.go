package ipam

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	// atOnce bounds the reads of a second look.
	atOnce = 8
	// secondLooks bounds how many findings are looked at twice.
	secondLooks = 1000
)

// confirm looks a second time at what was found about claims and pods, because
// lists of a moving cluster never fit together. What doesn't hold is dropped;
// beyond a thousand, findings are told after one look.
func (c *checker) confirm(ctx context.Context) error {
	holds := make([]bool, len(c.findings))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	looks := 0
	for i, f := range c.findings {
		if f.claim == nil && f.pods == nil || looks == secondLooks {
			holds[i] = true
			continue
		}
		looks++
		group.Go(func() error {
			var err error
			holds[i], err = c.again(ctx, f)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	i := -1
	c.findings = slices.DeleteFunc(c.findings, func(finding) bool {
		i++
		return !holds[i]
	})
	return nil
}

// again says whether a finding still holds.
func (c *checker) again(ctx context.Context, f finding) (bool, error) {
	if f.claim != nil {
		now, err := c.source.claim(ctx, f.claim.Ref)
		if errors.Is(err, ipam.ErrNotFound) || err == nil && now.Version != f.claim.Version {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	switch f.Kind {
	case kindPodGone, kindPodOther, kindPodDone, kindPodStatus:
		p, err := c.source.world().pod(ctx, f.claim.Owner.PodNamespace, f.claim.Owner.PodName)
		again, still := c.podFinding(*f.claim, p)
		return still && again.Kind == f.Kind, err
	case kindStray:
		ref := ipam.BlockRef{Space: f.claim.Ref.Space, Prefix: c.seen.grid(f.claim.Ref.Space).Block(f.claim.Ref.Addr)}
		b, err := c.source.block(ctx, ref)
		if errors.Is(err, ipam.ErrNotFound) {
			return true, nil
		}
		return b.Mode != ipam.Shared && !b.Owner.Same(f.claim.Node), err
	case kindDuplicate:
		return c.bothLive(ctx, f.pods)
	}
	return true, nil
}

// bothLive says that of the pods at least two are still there and have not
// finished.
func (c *checker) bothLive(ctx context.Context, pods []*pod) (bool, error) {
	live := 0
	for _, p := range pods {
		now, err := c.source.world().pod(ctx, p.namespace, p.name)
		if err != nil {
			return false, err
		}
		if now != nil && now.uid == p.uid && !now.finished {
			live++
		}
	}
	return live > 1, nil
}
