package whereabouts

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Group and Version of Whereabouts' objects.
const (
	Group   = "whereabouts.cni.cncf.io"
	Version = "v1alpha1"
)

const (
	// markLabel and markValue tell our reservations from Whereabouts' own.
	markLabel = "app.kubernetes.io/managed-by"
	markValue = "meta-cni"
	// touchAnnotation is the resourceVersion that an update replaced: an update
	// that changes nothing else would give no new one.
	touchAnnotation = "meta-cni.io/touch"
)

// IPPool is all addresses that Whereabouts gave away of one range.
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              IPPoolSpec `json:"spec"`
}

// IPPoolSpec is the spec of an IPPool.
type IPPoolSpec struct {
	// Range is a CIDR; with node slices, that of one slice.
	Range string `json:"range"`
	// Allocations by their offset from the network's address, in decimal.
	Allocations map[string]Allocation `json:"allocations"`
}

// Allocation is who has an address.
type Allocation struct {
	// ID is the container's ID.
	ID string `json:"id"`
	// PodRef is namespace/name.
	PodRef string `json:"podref"`
	// IfName is empty in entries of old versions.
	IfName string `json:"ifname,omitempty"`
}

// Reservation is an OverlappingRangeIPReservation: its name is the address.
type Reservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ReservationSpec `json:"spec"`
}

// ReservationSpec is the spec of a Reservation.
type ReservationSpec struct {
	// ContainerID is written by us only.
	ContainerID string `json:"containerid"`
	PodRef      string `json:"podref"`
	IfName      string `json:"ifname,omitempty"`
}

// Marked says that the reservation is one of ours.
func (r Reservation) Marked() bool { return r.Labels[markLabel] == markValue }

func (r Reservation) version() ipam.Version {
	return ipam.Version{UID: string(r.UID), Resource: r.ResourceVersion}
}

// ofPod says that Whereabouts would take r for one of this owner.
func (r Reservation) ofPod(o ipam.Owner) bool {
	return r.Spec.PodRef == o.Pod() && (r.Spec.IfName == "" || o.IfName == ipam.Unknown || r.Spec.IfName == o.IfName)
}

// isOf says that r is marked and names this owner and no other.
func (r Reservation) isOf(o ipam.Owner) bool {
	return r.Marked() && r.Spec == specOf(o)
}

func specOf(o ipam.Owner) ReservationSpec {
	return ReservationSpec{ContainerID: o.ContainerID, PodRef: o.Pod(), IfName: o.IfName}
}

// claimedBy is r marked as ours, with this owner; to write it changes the
// resourceVersion in any case.
func (r Reservation) claimedBy(o ipam.Owner) Reservation {
	r.Labels = with(r.Labels, markLabel, markValue)
	if r.ResourceVersion != "" {
		r.Annotations = with(r.Annotations, touchAnnotation, r.ResourceVersion)
	}
	r.Spec = specOf(o)
	return r
}

func with(old map[string]string, key, value string) map[string]string {
	changed := map[string]string{}
	maps.Copy(changed, old)
	changed[key] = value
	return changed
}

// NodeSlicePool says which node has which slice of a range.
type NodeSlicePool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              NodeSlicePoolSpec   `json:"spec"`
	Status            NodeSlicePoolStatus `json:"status"`
}

// NodeSlicePoolSpec is the spec of a NodeSlicePool.
type NodeSlicePoolSpec struct {
	Range     string `json:"range"`
	SliceSize string `json:"sliceSize"`
}

// NodeSlicePoolStatus is the status of a NodeSlicePool.
type NodeSlicePoolStatus struct {
	Allocations []NodeSlice `json:"allocations"`
}

// NodeSlice is one slice; without a node it is free.
type NodeSlice struct {
	NodeName   string `json:"nodeName"`
	SliceRange string `json:"sliceRange"`
}
