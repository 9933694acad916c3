package ipam

import (
	"errors"
	"fmt"
	"strings"
)

// Key names one attachment to one network; a repeated ADD with the same key
// gets the same addresses, and a DEL releases all of them.
type Key struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	// Network is the `name` of the CNI configuration.
	Network string `json:"network"`
}

// String is containerID/ifName/network. Only the network may hold a slash, so
// it has one reading.
func (k Key) String() string { return k.ContainerID + "/" + k.IfName + "/" + k.Network }

// ParseKey is the reverse of String.
func ParseKey(text string) (Key, error) {
	parts := strings.SplitN(text, "/", 3)
	if len(parts) != 3 {
		return Key{}, fmt.Errorf("key %q: write containerID/ifName/network", text)
	}
	k := Key{ContainerID: parts[0], IfName: parts[1], Network: parts[2]}
	return k, k.Check()
}

// Unknown stands in an imported claim's key for an interface or a network that
// nobody could tell. No interface and no CNI network has that name.
const Unknown = "*"

// Covers says whether a DEL with the other key is meant for k: the same
// container, and the same interface and network unless k doesn't know.
func (k Key) Covers(other Key) bool {
	return k.ContainerID == other.ContainerID &&
		(k.IfName == Unknown || k.IfName == other.IfName) &&
		(k.Network == Unknown || k.Network == other.Network)
}

// Check refuses a key with an empty part.
func (k Key) Check() error {
	if k.ContainerID == "" || k.IfName == "" || k.Network == "" {
		return fmt.Errorf("%w: container ID %q, interface %q, network %q: none may be empty", ErrInvalid, k.ContainerID, k.IfName, k.Network)
	}
	return nil
}

// Owner is who has an address: the attachment, and the pod for people to read.
type Owner struct {
	Key
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`
}

// Pod is namespace/name, or "-" without a pod.
func (o Owner) Pod() string {
	if o.PodName == "" {
		return "-"
	}
	return o.PodNamespace + "/" + o.PodName
}

// Node is a machine in one boot with one log. What tells one life from another
// is Boot and Log; the name is what people call it.
type Node struct {
	// Name of the Node object, or of the host.
	Name string `json:"name"`
	// UID of the Node object; empty without Kubernetes.
	UID string `json:"uid,omitempty"`
	// Boot is the kernel's boot ID: with another one, no sandbox of before is
	// alive.
	Boot string `json:"boot"`
	// Log is the random name that the agent's log got when it was made: with
	// another one in the same boot, a log was lost while sandboxes may live.
	Log string `json:"log"`
}

// Same says whether both are the same life: what it made is in its log.
func (n Node) Same(other Node) bool { return n.Boot == other.Boot && n.Log == other.Log }

// KeepKind says what an address is kept for when its sandbox has gone.
type KeepKind string

const (
	// KeepNothing: the address is free after its cool-down.
	KeepNothing KeepKind = ""
	// KeepPod: the next pod of the same namespace and name gets it again.
	KeepPod KeepKind = "Pod"
	// KeepClaim: it belongs to an IPAMClaim (k8s.cni.cncf.io/v1alpha1) for as
	// long as that exists; several sandboxes may have it at once, as a virtual
	// machine does while it migrates.
	KeepClaim KeepKind = "IPAMClaim"
)

// Keeper is whom an address is kept for. The zero Keeper is nobody.
type Keeper struct {
	Kind      KeepKind `json:"kind,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name,omitempty"`
	// UID of the IPAMClaim; empty for a pod, whose next life has another one.
	UID string `json:"uid,omitempty"`
	// Network and IfName tell several addresses of one keeper apart.
	Network string `json:"network,omitempty"`
	IfName  string `json:"ifName,omitempty"`
}

// IsZero says that nobody keeps the address.
func (k Keeper) IsZero() bool { return k.Kind == KeepNothing }

// String is for messages: Pod default/web-0 (net1 of backend).
func (k Keeper) String() string {
	if k.IsZero() {
		return "nobody"
	}
	return fmt.Sprintf("%s %s/%s (%s of %s)", k.Kind, k.Namespace, k.Name, k.IfName, k.Network)
}

// Errors of the Allocator; tested with errors.Is. Their texts name pool, range
// and remedy.
var (
	// ErrExhausted: every usable address is held, or cooling while its sandbox
	// is still there.
	ErrExhausted = errors.New("no address left")
	// ErrTaken: the requested address has another owner.
	ErrTaken = errors.New("the address is taken")
	// ErrInvalid: the request can never succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrNotReady: it may work a moment later (CNI code 11).
	ErrNotReady = errors.New("not ready")
	// ErrConflict: a station answered for the address on the wire.
	ErrConflict = errors.New("the address is in use on the network")
)
