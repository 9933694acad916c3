package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPBlock is one block of an address space's grid. Leased: its node alone
// allocates in it. Shared: each address is an IPClaim, for ever. A block
// without an object is free.
//
// It is the machinery's: who deletes or changes one by hand lets two pods have
// the same address.
//
// The name is space.block: default.10.0.0.64-26; an IPv6 block's address is 32
// hex digits.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=meta-cni,shortName=mblock
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.owner.name`,description="The node that leases it"
// +kubebuilder:printcolumn:name="Seen",type=date,JSONPath=`.status.observedAt`,description="When its node told last who has which address"
// +kubebuilder:printcolumn:name="Suspect",type=boolean,JSONPath=`.spec.suspect`,priority=1
// +kubebuilder:printcolumn:name="Boot",type=string,JSONPath=`.spec.owner.boot`,priority=1
// +kubebuilder:printcolumn:name="Log",type=string,JSONPath=`.spec.owner.log`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.spec.prefix.contains(':') || self.metadata.name == self.spec.space + '.' + self.spec.prefix.replace('/', '-')",messageExpression="'a block is named after its space and prefix: ' + self.spec.space + '.' + self.spec.prefix.replace('/', '-')",message="a block is named after its space and prefix: default.10.0.0.64-26"
// +kubebuilder:validation:XValidation:rule="!self.spec.prefix.contains(':') || self.metadata.name.split('.').size() == 2 && self.metadata.name.startsWith(self.spec.space + '.') && [self.metadata.name.split('.')[1]].all(h, h.size() > 33 && h.charAt(32) == '-' && [h.substring(0, 4) + ':' + h.substring(4, 8) + ':' + h.substring(8, 12) + ':' + h.substring(12, 16) + ':' + h.substring(16, 20) + ':' + h.substring(20, 24) + ':' + h.substring(24, 28) + ':' + h.substring(28, 32) + '/' + h.substring(33)].all(c, isCIDR(c) && string(cidr(c)) == self.spec.prefix))",message="a block is named after its space and prefix, an IPv6 address as 32 hex digits: default.20010db8000000000000000000000040-122"
type IPBlock struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IPBlockSpec `json:"spec"`
	// +optional
	Status IPBlockStatus `json:"status,omitzero"`
}

// IPBlockList is a list of blocks.
//
// +kubebuilder:object:root=true
type IPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPBlock `json:"items"`
}

// BlockMode is the state of a block.
//
// +kubebuilder:validation:Enum=Leased;Shared
type BlockMode string

const (
	// BlockLeased is ipam.Leased.
	BlockLeased BlockMode = "Leased"
	// BlockShared is ipam.Shared.
	BlockShared BlockMode = "Shared"
)

// IPBlockSpec says who has the block.
//
// +kubebuilder:validation:XValidation:rule="!(oldSelf.mode == 'Shared' && self.mode == 'Leased')",message="Shared is final: others may hold claims in this block that are not visible yet; lease another block"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Leased' || has(self.owner) || has(self.suspect) && self.suspect",message="a Leased block has an owner, the node that allocates in it; it has none only after it was taken from a dead node, and is suspect then"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Shared' || !has(self.owner)",message="a Shared block has no owner: its addresses are claims"
type IPBlockSpec struct {
	// space is the AddressSpace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block stays in its space: it is part of its name"
	Space string `json:"space"`

	// prefix is the block, as the space's grid cuts it.
	// +required
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && string(cidr(self).masked()) == self",message="write the block as CIDR in its one spelling, without host bits: 10.0.0.64/26, 2001:db8::40/122"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block keeps its prefix: it is part of its name"
	Prefix string `json:"prefix"`

	// mode is Leased or Shared.
	// +required
	Mode BlockMode `json:"mode"`

	// owner of a Leased block; none when it was taken from a dead node and waits
	// for another one.
	// +optional
	Owner *Node `json:"owner,omitempty"`

	// suspect: a node that is believed dead had the block, so each address is
	// asked for on the wire before its first use.
	// +optional
	Suspect bool `json:"suspect,omitempty"`

	// touch differs at each update, so that every update gives a new
	// resourceVersion: it is the one that the update replaced.
	// +optional
	Touch int64 `json:"touch,omitempty"`
}

// Node is a machine in one boot with one log of its agent.
type Node struct {
	// name of the Node object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// uid of the Node object.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	UID string `json:"uid,omitempty"`

	// boot is the kernel's boot ID.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Boot string `json:"boot,omitempty"`

	// log is the random name that the agent's log got when it was made.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Log string `json:"log,omitempty"`
}

// IPBlockStatus is what the node tells of a Leased block, for people: nothing
// is decided by it.
type IPBlockStatus struct {
	// used has one bit for each address, the lowest first (bit 0 of byte 0).
	// +optional
	// +kubebuilder:validation:MaxLength=10924
	Used []byte `json:"used,omitempty"`

	// owners has a line for each address in use, the first 1024 of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Owners []AddressOwner `json:"owners,omitempty"`

	// observedAt is when it was true, by the node's clock.
	// +optional
	ObservedAt *metav1.MicroTime `json:"observedAt,omitempty"`
}

// AddressOwner says who has one address of a block.
type AddressOwner struct {
	// +required
	// +kubebuilder:validation:MaxLength=39
	Address string `json:"address"`

	Owner `json:",inline"`

	// since is when it was given, by the node's clock.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
}

// Owner is the attachment that has an address, and its pod.
type Owner struct {
	// containerID of the sandbox.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	ContainerID string `json:"containerID,omitempty"`

	// ifName is the interface in the sandbox.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	IfName string `json:"ifName,omitempty"`

	// network is the `name` of the CNI configuration.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Network string `json:"network,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxLength=63
	PodNamespace string `json:"podNamespace,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxLength=253
	PodName string `json:"podName,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxLength=64
	PodUID string `json:"podUID,omitempty"`
}
