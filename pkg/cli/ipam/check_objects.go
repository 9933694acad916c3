package ipam

import (
	"fmt"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// block looks at one block.
func (c *checker) block(b block) {
	object := "IPBlock " + b.Ref.String()
	if as, ok := c.seen.spaces[b.Ref.Space]; ok && as.Grid.Block(b.Ref.Prefix.Addr()) != b.Ref.Prefix {
		c.found(finding{
			Level: wrong, Kind: kindGrid, Object: object, Text: fmt.Sprintf("space %s has blocks of /%d and /%d", as.Name, as.Grid.V4, as.Grid.V6),
			Why: "the prefix is none of the grid's, so two nodes may have its addresses by two names",
			Do:  "find out who made it; if no pod has an address of it, delete it",
		})
	}
	if b.Mode != ipam.Leased {
		return
	}
	for _, o := range b.usage.Owners {
		c.places.owned(b.Ref.Space, o.Addr, o.Owner)
	}
	if why := c.missing(b.Owner); why != "" {
		l := c.lose(b.Owner, why)
		l.blocks = append(l.blocks, b.Ref.String())
		return
	}
	if why := c.before(b.Owner); why != "" {
		c.found(finding{
			Level: suspicious, Kind: kindRebooted, Object: object, Text: "it is leased by an earlier life of node " + b.Owner.Name, Why: why,
			Do: "its agent gives it back or takes it over within minutes of its start; if it stays, see the log of meta-cnid there",
		})
	}
	if b.Suspect {
		text, do := "node "+b.Owner.Name+" leases it now", "nothing: each address is asked for on the wire before its first use"
		if b.Owner.Name == "" {
			text, do = "no node leases it now", "nothing: the next node that needs a block there takes it, and asks for each address on the wire first"
		}
		c.found(finding{Level: note, Kind: kindSuspect, Object: object, Text: text, Why: "it was taken from a node that is believed dead", Do: do})
	}
}

// claim looks at one claim as it comes by.
func (c *checker) claim(cl ipam.Claim) {
	c.looked.Claims++
	c.places.claimed(cl)
	object := "IPClaim " + cl.Ref.String()
	age := c.now.Sub(cl.Since)
	switch cl.State {
	case ipam.Kept:
		c.kept = append(c.kept, cl)
		return
	case ipam.Cooling:
		if !cl.Since.IsZero() && age > coolingLong {
			c.found(finding{
				Level: suspicious, Kind: kindCooling, Object: object, Text: "it cools down since " + stamp(c.now, cl.Since),
				Why: "the longest sensible cool-down is over", claim: &cl,
				Do: c.coolingDo(cl),
			})
		}
		return
	}
	ref := ipam.BlockRef{Space: cl.Ref.Space, Prefix: c.seen.grid(cl.Ref.Space).Block(cl.Ref.Addr)}
	if !cl.Since.IsZero() && age < young {
		return
	}
	if b, ok := c.seen.blocks[ref]; !ok || b.Mode != ipam.Shared {
		c.boundIn[ref] = append(c.boundIn[ref], cl)
	}
	if why := c.missing(cl.Node); why != "" {
		l := c.lose(cl.Node, why)
		l.claims = append(l.claims, cl.Ref.String())
		return
	}
	for _, f := range c.claimFindings(cl) {
		f.Object, f.claim = object, &cl
		c.found(f)
	}
}

func (c *checker) coolingDo(cl ipam.Claim) string {
	if cl.Node.Name == "" {
		return "see whether meta-cni-controller runs: it deletes claims of no node; or metactl ipam release " + cl.Ref.Addr.String() + " --space " + cl.Ref.Space
	}
	return "see the log of meta-cnid on node " + cl.Node.Name + ": it deletes what has cooled down"
}

// claimFindings are about a claim in use whose node is there.
func (c *checker) claimFindings(cl ipam.Claim) []finding {
	var all []finding
	if cl.Node.Name == "" {
		all = append(all, finding{
			Level: wrong, Kind: kindNoNode, Text: "it is in use and belongs to no node: nobody releases it", Why: "its spec has no node",
			Do: "if no such pod runs: " + releaseLine(cl.Ref) + " --force",
		})
	}
	if cl.Node.Name != "" && cl.Node.Log == "" && c.now.Sub(cl.Since) > silence {
		all = append(all, finding{
			Level: suspicious, Kind: kindImported, Text: fmt.Sprintf("it was imported, and the agent of node %s hasn't taken it over", cl.Node.Name),
			Why: "its node has no log, imported " + stamp(c.now, cl.Since),
			Do:  "see whether meta-cnid runs on that node: it takes imported claims over when it starts and at its scans",
		})
	}
	if why := c.before(cl.Node); why != "" {
		all = append(all, finding{
			Level: suspicious, Kind: kindRebooted, Text: "it belongs to an earlier life of node " + cl.Node.Name, Why: why,
			Do: "its agent releases it within minutes of its start; if it stays, see the log of meta-cnid there, or " + releaseLine(cl.Ref),
		})
		return all
	}
	if f, ok := c.podFinding(cl, c.pods[cl.Owner.PodNamespace+"/"+cl.Owner.PodName]); ok && c.pods != nil {
		all = append(all, f)
	}
	return all
}

func releaseLine(ref ipam.ClaimRef) string {
	return fmt.Sprintf("metactl ipam release %s --space %s", ref.Addr, ref.Space)
}

// podFinding compares a claim with its pod, nil if there is none. What it finds
// is never certain: a sandbox may outlive its pod, and a pod be in the making.
func (c *checker) podFinding(cl ipam.Claim, p *pod) (finding, bool) {
	o := cl.Owner
	if o.PodName == "" {
		return finding{}, false
	}
	agent := fmt.Sprintf("the agent of node %s releases it at its second look if the sandbox is gone; if it stays for more than ten minutes, see whether meta-cnid runs there", cl.Node.Name)
	f := finding{Level: suspicious, Text: "it is held for " + claimOwner(cl), Do: agent}
	switch {
	case p == nil:
		f.Kind, f.Why = kindPodGone, "there is no pod "+o.Pod()
	case o.PodUID != "" && p.uid != o.PodUID:
		f.Kind, f.Why = kindPodOther, fmt.Sprintf("pod %s has UID %s, the claim names %s", o.Pod(), p.uid, o.PodUID)
	case p.finished:
		f.Kind, f.Why = kindPodDone, "pod "+o.Pod()+" has finished"
		f.Do = "delete the pod when it is needed no more: its sandbox goes then, if not before"
	case p.status && !p.has(cl.Ref.Addr):
		f.Kind, f.Why = kindPodStatus, fmt.Sprintf("the network-status of pod %s has %s", o.Pod(), addressList(p))
		f.Do = "look into the pod: kubectl -n " + o.PodNamespace + " exec " + o.PodName + " -- ip address; if it lacks the address, delete the pod"
	default:
		return finding{}, false
	}
	return f, true
}

func addressList(p *pod) string {
	if len(p.addresses) == 0 {
		return "no address"
	}
	var texts []string
	for _, a := range p.addresses {
		texts = append(texts, a.addr.String())
	}
	return some(texts)
}

// strays are claims in use where their space has no Shared block. While a node
// shares a block, its own claims stand in a Leased one for a moment.
func (c *checker) strays() {
	for ref, claims := range c.boundIn {
		b, exists := c.seen.blocks[ref]
		for _, cl := range claims {
			why := fmt.Sprintf("block %s doesn't exist, so any node may lease it", ref)
			if exists {
				why = fmt.Sprintf("block %s is leased by node %s", ref, b.Owner.Name)
				if b.Owner.Same(cl.Node) {
					continue // it is being shared
				}
			}
			c.found(finding{
				Level: wrong, Kind: kindStray, Object: "IPClaim " + cl.Ref.String(), claim: &cl,
				Text: "it holds its address for " + claimOwner(cl) + ", but doesn't protect it", Why: why,
				Do: "was a block deleted by hand? Delete the pod; until it is gone, its address may be given to another one",
			})
		}
	}
}

// checkPools looks at ranges and how full they are.
func (c *checker) checkPools() {
	for i, p := range c.seen.pools {
		object := "IPPool " + p.Name
		if p.bad != nil {
			c.found(finding{Level: wrong, Kind: kindPool, Object: object, Text: "no pod can get an address of it", Why: p.bad.Error(), Do: "kubectl edit ippool " + p.Name})
			continue
		}
		for _, f := range p.families {
			c.fullness(p, f, object)
		}
		for _, other := range c.seen.pools[i+1:] {
			if other.Space.Name != p.Space.Name || other.bad != nil || p.Definition != "" && p.Definition == other.Definition {
				continue
			}
			if both := p.usable.Intersect(other.usable); !both.IsEmpty() {
				c.found(finding{
					Level: note, Kind: kindOverlap, Object: object, Text: fmt.Sprintf("it shares %s addresses with pool %s", short(both.Count()), other.Name),
					Why: fmt.Sprintf("both have %s in space %s", both, p.Space.Name),
					Do:  "nothing if that is meant: no address is given away twice; but pods of one pool may use up the other",
				})
			}
		}
	}
}

func (c *checker) fullness(p *poolCount, f *familyCount, object string) {
	usable, free := f.usable.Count(), f.free()
	const huge = 1 << 60 // nobody uses that up, and ten times that is a number
	if usable.Hi > 0 || usable.Lo > huge || free.Lo*10 >= usable.Lo {
		return
	}
	do := "widen the pool (kubectl edit ippool " + p.Name + ") or delete pods"
	if p.Definition != "" {
		do = "widen the range in network definition " + p.Definition + ", or delete pods"
	}
	c.found(finding{
		Level: wrong, Kind: kindFull, Object: object,
		Text: fmt.Sprintf("%s of %s IPv%d addresses are free", free, usable, f.family),
		Why:  fmt.Sprintf("%d are used, %d cool down, %d are kept", f.leased+f.claims.bound, f.claims.cooling, f.claims.kept), Do: do,
	})
}
