package controller

import (
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// suspicious is how long a Bound claim may have no pod before it is told of.
const suspicious = 15 * time.Minute

// reports remembers which claims have no pod, and which were told of.
type reports map[ipam.ClaimRef]*orphan

type orphan struct {
	version ipam.Version
	since   time.Time
	told    bool
}

// report tells, once, of a claim that its node's agent should have released. It
// decides nothing: the agent looks at the sandbox.
func (p *pass) report(c ipam.Claim) {
	if c.State != ipam.Bound || c.Owner.PodName == "" || p.Cluster.HasPod(c.Owner.PodNamespace, c.Owner.PodName) {
		delete(p.reports, c.Ref)
		return
	}
	o := p.reports[c.Ref]
	if o == nil || o.version != c.Version {
		o = &orphan{version: c.Version, since: p.now()}
		p.reports[c.Ref] = o
	}
	if o.told || p.now().Sub(o.since) < suspicious {
		return
	}
	o.told = true
	p.Log.Warn("an address belongs to a pod that doesn't exist; does meta-cnid run on its node? It releases what has no sandbox",
		"claim", c.Ref.String(), "pod", c.Owner.Pod(), "node", c.Node.Name, "container", c.Owner.ContainerID, "imported", c.Node.Log == "")
}

func (r reports) forget(seen map[ipam.ClaimRef]bool) {
	for ref := range r {
		if !seen[ref] {
			delete(r, ref)
		}
	}
}
