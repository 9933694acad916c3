package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPPool is a set of address ranges that pods get their addresses from. A pod
// uses it by name, or without a name where `default` is set and the selectors
// fit.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=meta-cni,shortName=mpool
// +kubebuilder:printcolumn:name="Range",type=string,JSONPath=`.spec.ranges[0].range`,description="The first range"
// +kubebuilder:printcolumn:name="Capacity",type=string,JSONPath=`.status.capacity`,description="Addresses that may be given away"
// +kubebuilder:printcolumn:name="Used",type=string,JSONPath=`.status.used`
// +kubebuilder:printcolumn:name="Cooling",type=string,JSONPath=`.status.cooling`,description="Released, resting before the next use"
// +kubebuilder:printcolumn:name="Free",type=string,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Space",type=string,JSONPath=`.spec.addressSpace`
// +kubebuilder:printcolumn:name="Default",type=boolean,JSONPath=`.spec.default`,priority=1
// +kubebuilder:printcolumn:name="Definition",type=string,JSONPath=`.spec.definition`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IPPoolSpec `json:"spec"`
	// +optional
	Status IPPoolStatus `json:"status,omitzero"`
}

// IPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}

// IPPoolSpec says which addresses, for whom and how.
type IPPoolSpec struct {
	// ranges are tried in order within a family; a pod gets one address of each
	// family that there is.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Ranges []PoolRange `json:"ranges"`

	// addressSpace is the AddressSpace in which an address has one owner. Pools
	// of one space may overlap; pools of two spaces know nothing of each other.
	// It is made if it isn't there.
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="an AddressSpace's name has small letters, digits and - only, at most 63"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a pool stays in its address space, where its addresses are counted; make another pool in the other space"
	AddressSpace string `json:"addressSpace,omitempty"`

	// newSpace are the settings of the AddressSpace if this pool is the first
	// to use it; a space that is there keeps its own.
	// +optional
	NewSpace *AddressSpaceSpec `json:"newSpace,omitempty"`

	// default lets pods use the pool without naming it.
	// +optional
	Default bool `json:"default,omitempty"`

	// nodeSelector: only on nodes with these labels; without it on all.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// namespaceSelector: only for pods of namespaces with these labels; without
	// it for all.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// order says which of several free addresses is next: fifo (free the
	// longest; the default), lowest or random.
	// +optional
	Order Order `json:"order,omitempty"`

	// cooldown is how long a released address rests, such as 60s. Without it,
	// or 0s, that of the address space.
	// +optional
	Cooldown Duration `json:"cooldown,omitempty"`

	// sticky keeps addresses for the next pod of the same name, as StatefulSets
	// want it.
	// +optional
	Sticky bool `json:"sticky,omitempty"`

	// probe asks for an address on the wire (ARP, neighbour discovery) before it
	// is given to a pod.
	// +optional
	Probe bool `json:"probe,omitempty"`

	// routes of every pod of the pool.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	Routes []Route `json:"routes,omitempty"`

	// dns is handed to the runtime.
	// +optional
	DNS *DNS `json:"dns,omitempty"`

	// definition is the network definition (namespace/name) that the pool came
	// of; empty for one that a person declared. The definition decides then:
	// to change this pool changes nothing.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Definition string `json:"definition,omitempty"`
}

// PoolRange is one range of addresses.
type PoolRange struct {
	// range is a CIDR (192.0.2.0/24), a window in a subnet
	// (192.0.2.10-192.0.2.20/24), or first-last without a subnet, where every
	// address is usable.
	// +required
	// +kubebuilder:validation:MinLength=4
	// +kubebuilder:validation:MaxLength=83
	// +kubebuilder:validation:XValidation:rule="self.contains('-') ? isIP(self.substring(0, self.indexOf('-'))) && (isIP(self.substring(self.indexOf('-') + 1)) || isCIDR(self.substring(self.indexOf('-') + 1))) : isCIDR(self)",message="write a CIDR (192.0.2.0/24), first-last/prefix (192.0.2.10-192.0.2.20/24) or first-last (192.0.2.10-192.0.2.20)"
	Range string `json:"range"`

	// start is the first address that may be given away.
	// +optional
	Start IP `json:"start,omitempty"`

	// end is the last address that may be given away.
	// +optional
	End IP `json:"end,omitempty"`

	// exclude are addresses that are never given away: single ones, CIDRs,
	// first-last.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	Exclude []RangeText `json:"exclude,omitempty"`

	// gateway of the subnet.
	// +optional
	Gateway IP `json:"gateway,omitempty"`

	// excludeGateway: the gateway is never given to a pod.
	// +optional
	// +kubebuilder:default=true
	ExcludeGateway *bool `json:"excludeGateway,omitempty"`

	// layer3 makes the first and the last address of the subnet usable.
	// +optional
	Layer3 bool `json:"layer3,omitempty"`

	// includeNetwork makes the first address of the subnet usable.
	// +optional
	IncludeNetwork bool `json:"includeNetwork,omitempty"`

	// includeBroadcast makes the last address of the subnet usable.
	// +optional
	IncludeBroadcast bool `json:"includeBroadcast,omitempty"`
}

// Order says which of several free addresses is next.
//
// +kubebuilder:validation:Enum=fifo;lowest;random
type Order string

// Route is one route of a pod.
type Route struct {
	// dst is where it leads to.
	// +required
	Dst CIDR `json:"dst"`

	// gw is the next hop; without it the gateway of the address's range.
	// +optional
	GW IP `json:"gw,omitempty"`
}

// DNS is the resolver's configuration.
type DNS struct {
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Nameservers []IP `json:"nameservers,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Domain string `json:"domain,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Search []string `json:"search,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Options []string `json:"options,omitempty"`
}

// IPPoolStatus counts in decimal text, since IPv6 is larger than any number
// here.
type IPPoolStatus struct {
	// capacity is how many addresses may be given away.
	// +optional
	Capacity string `json:"capacity,omitempty"`
	// used addresses have a sandbox.
	// +optional
	Used string `json:"used,omitempty"`
	// cooling addresses were released and rest.
	// +optional
	Cooling string `json:"cooling,omitempty"`
	// free addresses may be given away now.
	// +optional
	Free string `json:"free,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
