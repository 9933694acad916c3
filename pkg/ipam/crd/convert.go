package crd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: kind}
}

func objectMeta(name string, v ipam.Version) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, UID: types.UID(v.UID), ResourceVersion: v.Resource}
}

func versionOf(o metav1.Object) ipam.Version {
	return ipam.Version{UID: string(o.GetUID()), Resource: o.GetResourceVersion()}
}

// checkBlock refuses what has no name of its own: it would be another's.
func checkBlock(ref ipam.BlockRef) error {
	if ref.Prefix.IsValid() {
		if parsed, err := ipam.ParseBlockRef(ref.String()); err == nil && parsed == ref {
			return nil
		}
	}
	return fmt.Errorf("%w: no IPBlock can be named after space %q and prefix %s: give a DNS label and a masked prefix", ipam.ErrInvalid, ref.Space, ref.Prefix)
}

func checkClaim(ref ipam.ClaimRef) error {
	if ref.Addr.IsValid() {
		if parsed, err := ipam.ParseClaimRef(ref.String()); err == nil && parsed == ref {
			return nil
		}
	}
	return fmt.Errorf("%w: no IPClaim can be named after space %q and address %s: give a DNS label and an address without a zone", ipam.ErrInvalid, ref.Space, ref.Addr)
}

// touch differs at each update, because each replaces another version.
func touch(replaced string) int64 {
	if n, err := strconv.ParseInt(replaced, 10, 64); err == nil || replaced == "" {
		return n
	}
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(replaced)) // it never fails
	return int64(sum.Sum64() >> 1)
}

// labelValue is the text where it may stand in a label, else a hash of it: a
// node's name may be longer than a label's value.
func labelValue(text string) string {
	if len(validation.IsValidLabelValue(text)) == 0 {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "h-" + hex.EncodeToString(sum[:16])
}

func keeperLabel(k ipam.Keeper) (string, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

func encodeDuration(d time.Duration) v1alpha1.Duration {
	if d == 0 {
		return ""
	}
	return v1alpha1.Duration(d.String())
}

func decodeDuration(text v1alpha1.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(string(text))
}

func encodeTime(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	return &metav1.MicroTime{Time: t.UTC()}
}

func decodeTime(t *metav1.MicroTime) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func encodeSpaceSpec(as ipam.Space) v1alpha1.AddressSpaceSpec {
	return v1alpha1.AddressSpaceSpec{
		Grid:     v1alpha1.Grid{V4: int32(as.Grid.V4), V6: int32(as.Grid.V6)},
		Mode:     string(as.Mode),
		Cooldown: encodeDuration(as.Cooldown), MaxBlocks: int32(as.MaxBlocks), Whereabouts: as.Whereabouts,
	}
}

func decodeSpaceSpec(name string, spec v1alpha1.AddressSpaceSpec) (ipam.Space, error) {
	cooldown, err := decodeDuration(spec.Cooldown)
	as := ipam.Space{
		Name: name, Grid: iprange.Grid{V4: int(spec.Grid.V4), V6: int(spec.Grid.V6)}, Mode: ipam.Mode(spec.Mode),
		Cooldown: cooldown, MaxBlocks: int(spec.MaxBlocks), Whereabouts: spec.Whereabouts,
	}
	if err == nil {
		err = as.Grid.Check()
	}
	if err != nil {
		return ipam.Space{}, fmt.Errorf("AddressSpace %s: %w", name, err)
	}
	return as, nil
}

func encodeSpace(as ipam.Space) *v1alpha1.AddressSpace {
	return &v1alpha1.AddressSpace{TypeMeta: typeMeta("AddressSpace"), ObjectMeta: objectMeta(as.Name, as.Version), Spec: encodeSpaceSpec(as)}
}

func decodeSpace(in *v1alpha1.AddressSpace) (ipam.Space, error) {
	as, err := decodeSpaceSpec(in.Name, in.Spec)
	as.Version = versionOf(in)
	return as, err
}

func encodeNode(n ipam.Node) *v1alpha1.Node {
	if n == (ipam.Node{}) {
		return nil
	}
	return &v1alpha1.Node{Name: n.Name, UID: n.UID, Boot: n.Boot, Log: n.Log}
}

func decodeNode(n *v1alpha1.Node) ipam.Node {
	if n == nil {
		return ipam.Node{}
	}
	return ipam.Node{Name: n.Name, UID: n.UID, Boot: n.Boot, Log: n.Log}
}

func encodeOwner(o ipam.Owner) v1alpha1.Owner {
	return v1alpha1.Owner{
		ContainerID: o.ContainerID, IfName: o.IfName, Network: o.Network,
		PodNamespace: o.PodNamespace, PodName: o.PodName, PodUID: o.PodUID,
	}
}

func decodeOwner(o *v1alpha1.Owner) ipam.Owner {
	if o == nil {
		return ipam.Owner{}
	}
	return ipam.Owner{
		Key:          ipam.Key{ContainerID: o.ContainerID, IfName: o.IfName, Network: o.Network},
		PodNamespace: o.PodNamespace, PodName: o.PodName, PodUID: o.PodUID,
	}
}

func encodeBlock(b ipam.Block) *v1alpha1.IPBlock {
	out := &v1alpha1.IPBlock{TypeMeta: typeMeta("IPBlock"), ObjectMeta: objectMeta(b.Ref.String(), b.Version)}
	out.Labels = map[string]string{v1alpha1.LabelSpace: b.Ref.Space}
	out.Spec = v1alpha1.IPBlockSpec{
		Space: b.Ref.Space, Prefix: b.Ref.Prefix.String(), Mode: v1alpha1.BlockMode(b.Mode),
		Owner: encodeNode(b.Owner), Suspect: b.Suspect, Touch: touch(b.Version.Resource),
	}
	if b.Owner.Name != "" {
		out.Labels[v1alpha1.LabelNode] = labelValue(b.Owner.Name)
	}
	return out
}

// decodeBlock takes the name, which decides; the rules of the API server hold
// that the spec says the same.
func decodeBlock(in *v1alpha1.IPBlock) (ipam.Block, error) {
	ref, err := ipam.ParseBlockRef(in.Name)
	if err != nil {
		return ipam.Block{}, fmt.Errorf("IPBlock %s: %w", in.Name, err)
	}
	mode := ipam.BlockMode(in.Spec.Mode)
	if mode != ipam.Leased && mode != ipam.Shared {
		return ipam.Block{}, fmt.Errorf("IPBlock %s: mode %q is neither %s nor %s: was it written by a newer version?", in.Name, mode, ipam.Leased, ipam.Shared)
	}
	return ipam.Block{Ref: ref, Mode: mode, Owner: decodeNode(in.Spec.Owner), Suspect: in.Spec.Suspect, Version: versionOf(in)}, nil
}

func encodeClaim(c ipam.Claim) *v1alpha1.IPClaim {
	out := &v1alpha1.IPClaim{TypeMeta: typeMeta("IPClaim"), ObjectMeta: objectMeta(c.Ref.String(), c.Version)}
	out.Labels = map[string]string{v1alpha1.LabelSpace: c.Ref.Space}
	out.Spec = v1alpha1.IPClaimSpec{
		Space: c.Ref.Space, Address: v1alpha1.IP(c.Ref.Addr.String()), State: v1alpha1.ClaimState(c.State),
		Node: encodeNode(c.Node), Pool: c.Pool, Suspect: c.Suspect, Since: encodeTime(c.Since), Touch: touch(c.Version.Resource),
	}
	if c.Owner != (ipam.Owner{}) {
		owner := encodeOwner(c.Owner)
		out.Spec.Owner = &owner
	}
	if c.Node.Name != "" {
		out.Labels[v1alpha1.LabelNode] = labelValue(c.Node.Name)
	}
	if !c.Keep.IsZero() {
		out.Spec.Keep = &v1alpha1.Keeper{
			Kind: string(c.Keep.Kind), Namespace: c.Keep.Namespace, Name: c.Keep.Name, UID: c.Keep.UID,
			Network: c.Keep.Network, IfName: c.Keep.IfName,
		}
		if label, err := keeperLabel(c.Keep); err == nil { // a Keeper is strings only
			out.Labels[v1alpha1.LabelKeeper] = label
		}
	}
	return out
}

func decodeClaim(in *v1alpha1.IPClaim) (ipam.Claim, error) {
	ref, err := ipam.ParseClaimRef(in.Name)
	if err != nil {
		return ipam.Claim{}, fmt.Errorf("IPClaim %s: %w", in.Name, err)
	}
	state := ipam.ClaimState(in.Spec.State)
	if state != ipam.Bound && state != ipam.Cooling && state != ipam.Kept {
		return ipam.Claim{}, fmt.Errorf("IPClaim %s: state %q is none of %s, %s, %s: was it written by a newer version?", in.Name, state, ipam.Bound, ipam.Cooling, ipam.Kept)
	}
	c := ipam.Claim{
		Ref: ref, State: state, Node: decodeNode(in.Spec.Node), Owner: decodeOwner(in.Spec.Owner),
		Pool: in.Spec.Pool, Suspect: in.Spec.Suspect, Since: decodeTime(in.Spec.Since), Version: versionOf(in),
	}
	if k := in.Spec.Keep; k != nil {
		c.Keep = ipam.Keeper{Kind: ipam.KeepKind(k.Kind), Namespace: k.Namespace, Name: k.Name, UID: k.UID, Network: k.Network, IfName: k.IfName}
	}
	return c, nil
}

func encodeUsage(u ipam.Usage) v1alpha1.IPBlockStatus {
	status := v1alpha1.IPBlockStatus{Used: u.Bitmap, ObservedAt: encodeTime(u.At)}
	for _, o := range u.Owners[:min(len(u.Owners), maxOwners)] {
		status.Owners = append(status.Owners, v1alpha1.AddressOwner{Address: addrText(o.Addr), Owner: encodeOwner(o.Owner), Since: encodeTime(o.Since)})
	}
	return status
}

func addrText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}
