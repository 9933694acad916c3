package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// Group is the API group.
	Group = "meta-cni.io"
	// Version of the group.
	Version = "v1alpha1"
	// Namespace has every IPBlock, IPClaim and NodeIPAM. Those in another one
	// are nobody's.
	Namespace = "meta-cni"
)

// Names of the resources in URLs and in RBAC rules.
const (
	ResourceIPPools       = "ippools"
	ResourceAddressSpaces = "addressspaces"
	ResourceIPBlocks      = "ipblocks"
	ResourceIPClaims      = "ipclaims"
	ResourceNodeIPAMs     = "nodeipams"
)

// Labels by which objects are listed. A value is a hint: what it stands for is
// in the spec. A name that is too long for a label is a hash there.
const (
	// LabelSpace is the address space of a block or claim.
	LabelSpace = Group + "/space"
	// LabelNode is the name of the owner's node.
	LabelNode = Group + "/node"
	// LabelBlock is the block that a claim's address lies in, as in the block's
	// name.
	LabelBlock = Group + "/block"
	// LabelKeeper is a hash of whom a claim is kept for.
	LabelKeeper = Group + "/keeper"
)

// FinalizerInUse keeps an AddressSpace that has blocks or claims, and an IPPool
// whose addresses are in use, until they are free. The controller sets and
// removes it.
const FinalizerInUse = Group + "/in-use"

// GroupVersion is meta-cni.io/v1alpha1.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: Version}
}

// Resource is the resource of that name in this group and version.
func Resource(name string) schema.GroupVersionResource {
	return GroupVersion().WithResource(name)
}

// AddToScheme adds the types of the group.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion(),
		&IPPool{}, &IPPoolList{},
		&AddressSpace{}, &AddressSpaceList{},
		&IPBlock{}, &IPBlockList{},
		&IPClaim{}, &IPClaimList{},
		&NodeIPAM{}, &NodeIPAMList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion())
	return nil
}
