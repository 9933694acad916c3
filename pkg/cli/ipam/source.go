package ipam

import (
	"context"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// source is where the IPAM's objects are.
type source interface {
	// name is for messages.
	name() string
	spaces(ctx context.Context) ([]ipam.Space, error)
	pools(ctx context.Context) ([]pool, error)
	// eachBlock and eachClaim give those of a space, or all without one. What
	// can't be read goes to odd.
	eachBlock(ctx context.Context, space string, each func(block), odd func(error)) error
	eachClaim(ctx context.Context, space string, each func(ipam.Claim), odd func(error)) error
	// block and claim are as they are now; ipam.ErrNotFound.
	block(ctx context.Context, ref ipam.BlockRef) (block, error)
	claim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error)
	deleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error
	// world is the cluster around the objects, nil without one.
	world() world
	close()
}

// world is what a cluster says of nodes, pods and keepers.
type world interface {
	nodes(ctx context.Context) (map[string]node, error)
	boxes(ctx context.Context) (map[string]box, error)
	eachPod(ctx context.Context, each func(pod)) error

	// Those below are as they are now; nil without an error says that there is
	// none.
	node(ctx context.Context, name string) (*node, error)
	box(ctx context.Context, name string) (*box, error)
	pod(ctx context.Context, namespace, name string) (*pod, error)
	statefulSet(ctx context.Context, namespace, name string) (*statefulSet, error)
	ipamClaim(ctx context.Context, namespace, name string) (uid string, err error)
}

// block is a block and what its node told of it.
type block struct {
	ipam.Block
	usage ipam.Usage
}

// pool is a pool and the addresses that it comes to.
type pool struct {
	ipam.Pool
	// usable may be given away; spanned are the subnets around.
	usable, spanned iprange.Set
	bad             error
}

// poolOf resolves the ranges; those that can't be read make the pool bad.
func poolOf(p ipam.Pool, err error) pool {
	out := pool{Pool: p, bad: err}
	for _, r := range p.Ranges {
		window, err := r.Spec.Resolve()
		if err != nil {
			out.bad = err
			continue
		}
		out.usable = out.usable.Union(window.Usable)
		out.spanned = out.spanned.Union(window.Usable)
		if window.Subnet.IsValid() {
			out.spanned = out.spanned.Union(iprange.SetOf(iprange.OfPrefix(window.Subnet)))
		}
	}
	return out
}

// node is what counts of a Node object.
type node struct {
	name, uid, boot string
	outOfService    bool
}

// box is what counts of a NodeIPAM.
type box struct {
	name, uid, boot, log string
	heartbeat            time.Time
}

// pod is what counts of a Pod object.
type pod struct {
	namespace, name, uid, node string
	finished                   bool
	// claims is the annotation that may name IPAMClaims, empty if it names none.
	claims string
	// status says that there is a network-status that can be read.
	status    bool
	addresses []podAddress
}

func (p *pod) ref() string { return p.namespace + "/" + p.name }

// podAddress is one address of a pod's network-status.
type podAddress struct {
	ifName, network string
	addr            netip.Addr
}

func (p *pod) has(addr netip.Addr) bool {
	for _, a := range p.addresses {
		if a.addr == addr {
			return true
		}
	}
	return false
}

// statefulSet is what counts of one: the ordinals that it is to have.
type statefulSet struct{ first, replicas int }
