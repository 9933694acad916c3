package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPClaim is one address of a Shared block: who has it, or for whom it rests.
// An address without an object is free.
//
// It is the machinery's: who deletes or changes one by hand lets two pods have
// the same address.
//
// The name is space.address: default.10.0.0.65; an IPv6 address is 32 hex
// digits.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,categories=meta-cni,shortName=mclaim
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.owner.podNamespace`,description="The pod's"
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.owner.podName`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.owner.ifName`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node.name`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.spec.since`,description="When the state began"
// +kubebuilder:printcolumn:name="Kept for",type=string,JSONPath=`.spec.keep.name`,priority=1
// +kubebuilder:printcolumn:name="Container",type=string,JSONPath=`.spec.owner.containerID`,priority=1
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.owner.network`,priority=1
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`,priority=1
// +kubebuilder:validation:XValidation:rule="self.spec.address.contains(':') || self.metadata.name == self.spec.space + '.' + self.spec.address",messageExpression="'a claim is named after its space and address: ' + self.spec.space + '.' + self.spec.address",message="a claim is named after its space and address: default.10.0.0.65"
// +kubebuilder:validation:XValidation:rule="!self.spec.address.contains(':') || self.metadata.name.split('.').size() == 2 && self.metadata.name.startsWith(self.spec.space + '.') && [self.metadata.name.split('.')[1]].all(h, h.size() == 32 && [h.substring(0, 4) + ':' + h.substring(4, 8) + ':' + h.substring(8, 12) + ':' + h.substring(12, 16) + ':' + h.substring(16, 20) + ':' + h.substring(20, 24) + ':' + h.substring(24, 28) + ':' + h.substring(28, 32)].all(a, isIP(a) && string(ip(a)) == self.spec.address))",message="a claim is named after its space and address, IPv6 as 32 hex digits: default.20010db8000000000000000000000041"
type IPClaim struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IPClaimSpec `json:"spec"`
}

// IPClaimList is a list of claims.
//
// +kubebuilder:object:root=true
type IPClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPClaim `json:"items"`
}

// ClaimState is what a claim is at present.
//
// +kubebuilder:validation:Enum=Bound;Cooling;Kept
type ClaimState string

// IPClaimSpec says who has the address. It has no status: whatever changes it
// is a decision, and is made by an update of this very version.
//
// +kubebuilder:validation:XValidation:rule="self.state != 'Bound' || has(self.owner) && has(self.owner.containerID) && self.owner.containerID.size() > 0 && has(self.owner.ifName) && self.owner.ifName.size() > 0",message="a Bound claim has an owner: containerID and ifName say which sandbox and interface hold the address"
// +kubebuilder:validation:XValidation:rule="self.state != 'Kept' || has(self.keep)",message="a Kept claim says for whom: keep"
type IPClaimSpec struct {
	// space is the AddressSpace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a claim stays in its space: it is part of its name"
	Space string `json:"space"`

	// address is the one that is claimed.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a claim keeps its address: it is its name; make another claim"
	Address IP `json:"address"`

	// state is Bound (a sandbox has the address), Cooling (it rests and may be
	// taken over if nothing else is free) or Kept (only its keeper may have it).
	// +required
	State ClaimState `json:"state"`

	// node that the owner runs on, or ran on last.
	// +optional
	Node *Node `json:"node,omitempty"`

	// owner has the address, or had it last.
	// +optional
	Owner *Owner `json:"owner,omitempty"`

	// keep is whom the address is kept for when its sandbox has gone.
	// +optional
	Keep *Keeper `json:"keep,omitempty"`

	// pool that it came of, for people.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Pool string `json:"pool,omitempty"`

	// suspect: a node that is believed dead had the address, so it is asked for
	// on the wire before it is used again.
	// +optional
	Suspect bool `json:"suspect,omitempty"`

	// since is when the state began, by its writer's clock.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`

	// touch differs at each update, so that every update gives a new
	// resourceVersion: it is the one that the update replaced.
	// +optional
	Touch int64 `json:"touch,omitempty"`
}

// Keeper is whom an address is kept for.
type Keeper struct {
	// kind is Pod (the next pod of that name) or IPAMClaim.
	// +required
	// +kubebuilder:validation:Enum=Pod;IPAMClaim
	Kind string `json:"kind"`

	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// uid of the IPAMClaim.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`

	// network and ifName tell several addresses of one keeper apart.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Network string `json:"network,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxLength=64
	IfName string `json:"ifName,omitempty"`
}
