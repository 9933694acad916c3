package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// placements are the addresses of live pods, by what their network-status
// says. That names a network, not an address space: which space an address is
// in is told by the claim or the block that names the same pod and interface,
// and from one pod of a network to the others.
type placements struct {
	byAddr map[netip.Addr][]*placement
	// learned are the spaces of networks.
	learned map[string]map[string]bool
	// keepers are the IPAMClaims that addresses belong to: a virtual machine has
	// one in two pods while it migrates.
	keepers map[ipam.ClaimRef]string
}

// placement is an address of a pod.
type placement struct {
	pod    *pod
	at     podAddress
	spaces []string
	// holder says that a claim or a block names the pod.
	holder string
}

func placePods(pods map[string]*pod) placements {
	p := placements{byAddr: map[netip.Addr][]*placement{}, learned: map[string]map[string]bool{}, keepers: map[ipam.ClaimRef]string{}}
	for _, one := range pods {
		if one.finished {
			continue
		}
		for _, a := range one.addresses {
			p.byAddr[a.addr] = append(p.byAddr[a.addr], &placement{pod: one, at: a})
		}
	}
	return p
}

// claimed notes a claim.
func (p placements) claimed(c ipam.Claim) {
	if c.State == ipam.Cooling || len(p.byAddr[c.Ref.Addr]) == 0 {
		return
	}
	if c.Keep.Kind == ipam.KeepClaim {
		p.keepers[c.Ref] = c.Keep.Name
	}
	if c.State == ipam.Bound {
		p.owned(c.Ref.Space, c.Ref.Addr, c.Owner)
	}
}

// owned notes that an owner has an address of a space.
func (p placements) owned(space string, addr netip.Addr, o ipam.Owner) {
	for _, pl := range p.byAddr[addr] {
		if pl.pod.namespace != o.PodNamespace || pl.pod.name != o.PodName || o.IfName != ipam.Unknown && pl.at.ifName != o.IfName {
			continue
		}
		pl.spaces, pl.holder = append(pl.spaces, space), "the IPAM's objects name it as the owner"
		p.learn(pl.at.network, space)
	}
}

func (p placements) learn(network, space string) {
	if p.learned[network] == nil {
		p.learned[network] = map[string]bool{}
	}
	p.learned[network][space] = true
}

// spacesOf are the spaces that a placement is in, as far as that can be known.
func (p placements) spacesOf(pl *placement, pools []*poolCount) []string {
	if len(pl.spaces) > 0 {
		return pl.spaces
	}
	var spaces []string
	for space := range p.learned[pl.at.network] {
		has := func(pool *poolCount) bool { return pool.Space.Name == space && pool.usable.Contains(pl.at.addr) }
		if len(p.learned[pl.at.network]) == 1 || slices.ContainsFunc(pools, has) {
			spaces = append(spaces, space)
		}
	}
	if len(spaces) > 1 {
		return nil
	}
	return spaces
}

// duplicates finds the addresses that two live pods have in one space.
func (c *checker) duplicates() {
	if c.places.byAddr == nil {
		return
	}
	for _, p := range c.seen.pools {
		if p.Definition != "" {
			c.places.learn(p.Definition, p.Space.Name)
		}
	}
	for addr, all := range c.places.byAddr {
		if len(all) < 2 {
			continue
		}
		bySpace := map[string][]*placement{}
		for _, pl := range all {
			for _, space := range c.places.spacesOf(pl, c.seen.pools) {
				if !slices.ContainsFunc(bySpace[space], func(other *placement) bool { return other.pod == pl.pod }) {
					bySpace[space] = append(bySpace[space], pl)
				}
			}
		}
		for _, space := range slices.Sorted(maps.Keys(bySpace)) {
			if len(bySpace[space]) > 1 {
				c.duplicate(ipam.ClaimRef{Space: space, Addr: addr}, bySpace[space])
			}
		}
	}
}

// duplicate tells of pods with one address, unless it is a virtual machine that
// migrates.
func (c *checker) duplicate(ref ipam.ClaimRef, all []*placement) {
	keeper, isKept := c.places.keepers[ref]
	if isKept && !slices.ContainsFunc(all, func(pl *placement) bool { return !strings.Contains(pl.pod.claims, `"`+keeper+`"`) }) {
		return
	}
	slices.SortFunc(all, func(a, b *placement) int { return cmp.Compare(a.pod.ref(), b.pod.ref()) })
	f := finding{Level: duplicate, Kind: kindDuplicate, Object: fmt.Sprintf("address %s of space %s", ref.Addr, ref.Space)}
	var names, whys, others []string
	for _, pl := range all {
		names = append(names, fmt.Sprintf("%s (node %s)", pl.pod.ref(), pl.pod.node))
		why := fmt.Sprintf("the network-status of %s has it on %s of network %s", pl.pod.ref(), pl.at.ifName, pl.at.network)
		if pl.holder != "" {
			why += ", and " + pl.holder
		} else {
			others = append(others, fmt.Sprintf("kubectl -n %s delete pod %s", pl.pod.namespace, pl.pod.name))
		}
		whys = append(whys, why)
		f.pods = append(f.pods, pl.pod)
	}
	f.Text = "pods " + strings.Join(names, " and ") + " have it at once"
	f.Why = strings.Join(whys, "; ")
	f.Do = "restart the pod that the IPAM doesn't name as the owner"
	if len(others) == len(all) || len(others) == 0 {
		f.Do = "restart all of them but one"
	} else {
		f.Do += ": " + strings.Join(others, "; ")
	}
	f.Do += ". This must never happen: save the objects and the logs of both nodes and report it"
	c.found(f)
}
