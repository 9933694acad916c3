package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeIPAM is the letter box of a node's agent: others ask it there to share
// its blocks. It has the node's name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=meta-cni,shortName=mnode
// +kubebuilder:printcolumn:name="Heartbeat",type=date,JSONPath=`.status.heartbeat`,description="When its agent wrote here last"
// +kubebuilder:printcolumn:name="Boot",type=string,JSONPath=`.status.boot`
// +kubebuilder:printcolumn:name="Log",type=string,JSONPath=`.status.log`
// +kubebuilder:printcolumn:name="Asked",type=string,JSONPath=`.spec.demote`,priority=1,description="Blocks that others want shared"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeIPAM struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NodeIPAMSpec `json:"spec,omitzero"`
	// +optional
	Status NodeIPAMStatus `json:"status,omitzero"`
}

// NodeIPAMList is a list of letter boxes.
//
// +kubebuilder:object:root=true
type NodeIPAMList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeIPAM `json:"items"`
}

// NodeIPAMSpec is written by other nodes.
type NodeIPAMSpec struct {
	// demote has, for each block (by its name) that this node is asked to share,
	// the node that asked.
	// +optional
	// +kubebuilder:validation:MaxProperties=1024
	// +kubebuilder:validation:XValidation:rule="self.all(block, block.size() <= 110 && block.contains('.'))",message="a key is the name of an IPBlock: default.10.0.0.64-26"
	Demote map[string]Requester `json:"demote,omitempty"`
}

// Requester is the name of a node, or of what else asks.
//
// +kubebuilder:validation:MaxLength=253
type Requester string

// NodeIPAMStatus is written by the node itself.
type NodeIPAMStatus struct {
	// uid of the Node object.
	// +optional
	UID string `json:"uid,omitempty"`

	// boot is the kernel's boot ID.
	// +optional
	Boot string `json:"boot,omitempty"`

	// log is the random name that the agent's log got when it was made.
	// +optional
	Log string `json:"log,omitempty"`

	// heartbeat is when the agent wrote here last, by the node's clock.
	// +optional
	Heartbeat *metav1.MicroTime `json:"heartbeat,omitempty"`
}
