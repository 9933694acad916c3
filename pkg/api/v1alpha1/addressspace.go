package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressSpace is where an address has one owner: one for each network_name,
// and `default`. It is cut into a fixed grid of blocks.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=meta-cni,shortName=mspace
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Grid4",type=integer,JSONPath=`.spec.grid.v4`,description="Length of an IPv4 block's prefix"
// +kubebuilder:printcolumn:name="Grid6",type=integer,JSONPath=`.spec.grid.v6`,description="Length of an IPv6 block's prefix"
// +kubebuilder:printcolumn:name="Leased",type=integer,JSONPath=`.status.leased`,description="Blocks that one node has to itself"
// +kubebuilder:printcolumn:name="Shared",type=integer,JSONPath=`.status.shared`,description="Blocks of single claims"
// +kubebuilder:printcolumn:name="Claims",type=integer,JSONPath=`.status.claims`
// +kubebuilder:printcolumn:name="Whereabouts",type=boolean,JSONPath=`.spec.whereabouts`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the name is part of the names of blocks and claims: small letters, digits and - only, at most 63"
type AddressSpace struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	// +kubebuilder:default={}
	Spec AddressSpaceSpec `json:"spec,omitzero"`
	// +optional
	Status AddressSpaceStatus `json:"status,omitzero"`
}

// AddressSpaceList is a list of address spaces.
//
// +kubebuilder:object:root=true
type AddressSpaceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressSpace `json:"items"`
}

// AddressSpaceSpec says how the addresses of a space are given out.
type AddressSpaceSpec struct {
	// grid is fixed: it decides the blocks' names.
	// +optional
	// +kubebuilder:default={}
	Grid Grid `json:"grid,omitzero"`

	// mode is auto (a node leases blocks where a range has at least four for
	// each node, and claims single addresses elsewhere; the default), blocks or
	// claims.
	// +optional
	// +kubebuilder:validation:Enum=auto;blocks;claims
	Mode string `json:"mode,omitempty"`

	// cooldown is how long a released address rests; 60s without it.
	// +optional
	Cooldown Duration `json:"cooldown,omitempty"`

	// maxBlocks bounds the blocks that one node leases; 0 means no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	MaxBlocks int32 `json:"maxBlocks,omitempty"`

	// whereabouts says that Whereabouts allocates in the same ranges at the
	// same time: each claim has a reservation of its kind beside it, and no
	// block is leased.
	// +optional
	Whereabouts bool `json:"whereabouts,omitempty"`
}

// Grid is the size of blocks.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the grid decides the blocks' names and can't change; make another AddressSpace and move the pools there"
type Grid struct {
	// v4 is the length of an IPv4 block's prefix.
	// +optional
	// +kubebuilder:default=26
	// +kubebuilder:validation:Minimum=24
	// +kubebuilder:validation:Maximum=32
	V4 int32 `json:"v4,omitempty"`

	// v6 is the length of an IPv6 block's prefix.
	// +optional
	// +kubebuilder:default=122
	// +kubebuilder:validation:Minimum=120
	// +kubebuilder:validation:Maximum=128
	V6 int32 `json:"v6,omitempty"`
}

// AddressSpaceStatus is what the controller counted last.
type AddressSpaceStatus struct {
	// blocks is how many there are, leased and shared.
	// +optional
	Blocks int64 `json:"blocks"`
	// leased blocks have a node each.
	// +optional
	Leased int64 `json:"leased"`
	// shared blocks have claims.
	// +optional
	Shared int64 `json:"shared"`
	// claims in any state.
	// +optional
	Claims int64 `json:"claims"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
