// Package v1alpha1 is the group meta-cni.io/v1alpha1 as the API server keeps
// it: IPPool and AddressSpace (cluster-scoped), which people declare, and
// IPBlock, IPClaim and NodeIPAM (in Namespace), which are the machinery's own.
//
// These are the stored forms only: texts that a person reads in kubectl, the
// rules that the API server holds by itself, and the columns. What they mean
// is in pkg/ipam; ipam/crd turns the one into the other. The deep copies and
// deployments/crds are made of this by `make generate`.
//
// Invariant: whatever the rules here accept, ipam/crd can read, and an
// object's name is said once more in its spec. They need Kubernetes 1.31.
//
// +kubebuilder:object:generate=true
// +groupName=meta-cni.io
package v1alpha1
