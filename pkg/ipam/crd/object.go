package crd

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ippool"
)

// ErrMisnamed says that an object's name and its spec name two things; the name
// decides, and is what the value given with it says.
var ErrMisnamed = errors.New("its name and its spec disagree")

// SpaceOf reads an AddressSpace, for those who list objects by themselves.
func SpaceOf(in *v1alpha1.AddressSpace) (ipam.Space, error) { return decodeSpace(in) }

// PoolOf reads an IPPool; selectors are left out. With an error it has the
// name, the space's name, and whatever else could be read.
func PoolOf(in *v1alpha1.IPPool) (ipam.Pool, error) {
	pool, err := ippool.Of(in.Name, in.Spec)
	if err != nil {
		pool.Space.Name = cmp.Or(in.Spec.AddressSpace, ipam.DefaultSpace)
	}
	return pool, err
}

// ClaimOf reads an IPClaim. With ErrMisnamed the claim is good all the same.
func ClaimOf(in *v1alpha1.IPClaim) (ipam.Claim, error) {
	c, err := decodeClaim(in)
	if err == nil && (in.Spec.Space != c.Ref.Space || string(in.Spec.Address) != c.Ref.Addr.String()) {
		err = fmt.Errorf("IPClaim %s: %w: the spec says %s in space %s", in.Name, ErrMisnamed, in.Spec.Address, in.Spec.Space)
	}
	return c, err
}

// BlockOf reads an IPBlock and what its node told of it. With ErrMisnamed both
// are good all the same; owners that can't be read are left out.
func BlockOf(in *v1alpha1.IPBlock) (ipam.Block, ipam.Usage, error) {
	b, err := decodeBlock(in)
	if err == nil && (in.Spec.Space != b.Ref.Space || in.Spec.Prefix != b.Ref.Prefix.String()) {
		err = fmt.Errorf("IPBlock %s: %w: the spec says %s in space %s", in.Name, ErrMisnamed, in.Spec.Prefix, in.Spec.Space)
	}
	u := ipam.Usage{Ref: b.Ref, Bitmap: in.Status.Used, At: decodeTime(in.Status.ObservedAt), Version: b.Version}
	for i := range in.Status.Owners {
		told := &in.Status.Owners[i]
		if addr, err := netip.ParseAddr(told.Address); err == nil {
			u.Owners = append(u.Owners, ipam.AddressOwner{Addr: addr, Owner: decodeOwner(&told.Owner), Since: decodeTime(told.Since)})
		}
	}
	return b, u, err
}
