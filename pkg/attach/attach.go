// Package attach holds the nouns of one attachment set: the sandbox that a
// runtime names, the pod in it, what the pod selects, the plan that is made
// of it and the attachment that each delegate leaves behind.
//
// It holds values only: no I/O, no clock, no logging. Everything in a Plan can
// be written to disk and read back without loss, because DEL and CHECK work
// from the written plan alone.
package attach

import (
	"encoding/json"
	"fmt"
	"net/netip"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

// Key names one attachment set on a node: what one ADD of the runtime makes
// and one DEL removes. A runtime that calls the plugin for several interfaces
// of one container (podman) makes several sets.
type Key struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String is the form for logs and messages: containerID/ifname.
func (k Key) String() string { return k.ContainerID + "/" + k.IfName }

// Pod is the pod as the runtime or the API names it; all fields are empty for
// a sandbox without a pod (cnitool, podman without pod names).
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// String is namespace/name, or "-" for a sandbox without a pod.
func (p Pod) String() string {
	if p.Name == "" {
		return "-"
	}
	return p.Namespace + "/" + p.Name
}

// Selection is one element of the pod's networks annotation, after parsing
// and validation (NPWG multi-net-spec v1.3, 4.1.2).
type Selection struct {
	// Element is the published API type; Namespace is always filled in.
	Element nadv1.NetworkSelectionElement `json:"element"`
	// DeviceID is the `deviceID` key, which the published type lacks.
	DeviceID string `json:"deviceID,omitempty"`
}

// Ref is the network definition that the selection names.
func (s Selection) Ref() NetworkRef {
	return NetworkRef{Namespace: s.Element.Namespace, Name: s.Element.Name}
}

// NetworkRef names a network definition.
type NetworkRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is namespace/name.
func (r NetworkRef) String() string { return r.Namespace + "/" + r.Name }

// Network is a network definition whose configuration has been found: inline
// in the NetworkAttachmentDefinition, or by its name in the configuration
// folder.
type Network struct {
	Ref NetworkRef `json:"ref"`
	// Config is the CNI configuration or configuration list as written.
	Config []byte `json:"config"`
	// Source says where Config was read, for messages: "NetworkAttachmentDefinition
	// ns/name" or a file's path.
	Source string `json:"source"`
	// ResourceName is the k8s.v1.cni.cncf.io/resourceName annotation.
	ResourceName string `json:"resourceName,omitempty"`
}

// Primary is the cluster network's configuration as chosen at the time of ADD.
type Primary struct {
	// File is the path it was read from.
	File string
	// Config is the configuration or configuration list as written.
	Config []byte
}

// Plan is everything that an ADD will do, decided before the first system
// call, and everything that DEL, CHECK and undo need to know.
type Plan struct {
	Key   Key    `json:"key"`
	Netns string `json:"netns"`
	Pod   Pod    `json:"pod"`
	// Path are the folders that hold the delegates' binaries, in order.
	Path []string `json:"path"`
	// CallerVersion is the CNI version in which the runtime wants the result.
	CallerVersion string `json:"callerVersion"`
	// Delegates in the order of ADD; the first is the primary.
	Delegates []Delegate `json:"delegates"`
	// DefaultRoutes has at most one entry a family.
	DefaultRoutes []DefaultRoute `json:"defaultRoutes,omitempty"`
}

// Delegate is one network of the plan: one configuration list to be run for
// one interface.
type Delegate struct {
	// Network is the name for people and for network-status: namespace/name of
	// the network definition, or the primary's configuration name.
	Network string `json:"network"`
	// Conf is a CNI configuration list, byte for byte what ADD used.
	Conf []byte `json:"conf"`
	// IfName is the interface in the sandbox.
	IfName string `json:"ifName"`
	// Args are the CNI_ARGS pairs in order.
	Args [][2]string `json:"args,omitempty"`
	// Capabilities are the runtime's and the selection's capability arguments
	// that at least one plugin of Conf declares; libcni filters them for each
	// plugin.
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"`
	// Primary marks the cluster network.
	Primary bool `json:"primary,omitempty"`
	// Selection is what the pod asked for; nil for the primary.
	Selection *Selection `json:"selection,omitempty"`
}

// DefaultRoute is the wish of one selection to carry the pod's default route
// in one address family.
type DefaultRoute struct {
	// Delegate indexes Plan.Delegates.
	Delegate int        `json:"delegate"`
	Gateway  netip.Addr `json:"gateway"`
}

// Attachment is what one delegate's ADD left behind.
type Attachment struct {
	// Delegate indexes Plan.Delegates.
	Delegate int `json:"delegate"`
	// Result is the CNI result in version 1.1.0, after any move of the default
	// route.
	Result json.RawMessage `json:"result"`
}

// MaxContainerID is the longest container ID that is accepted: the ID is part
// of a file name (limit 255 bytes) together with the interface name.
const MaxContainerID = 200

// Validate checks the two halves of a key by the rules of the CNI
// specification (section 3, parameters) and of the kernel (IFNAMSIZ), so that
// they can be part of a file name.
func (k Key) Validate() error {
	if err := validateContainerID(k.ContainerID); err != nil {
		return err
	}
	return ValidateIfName(k.IfName)
}

func validateContainerID(id string) error {
	if id == "" {
		return fmt.Errorf("container ID is empty: the runtime must set CNI_CONTAINERID")
	}
	if len(id) > MaxContainerID {
		return fmt.Errorf("container ID of %d characters: at most %d are accepted", len(id), MaxContainerID)
	}
	for i, c := range id {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("container ID %q has an invalid character %q at %d: letters, digits, and after the first also _ . - are allowed", id, c, i)
		}
	}
	return nil
}

// ValidateIfName checks an interface name: 1–15 printable ASCII characters but
// '/', ':', '%' and white space, and not "." or "..". The kernel
// (dev_valid_name) and libcni allow a little more, each something else.
func ValidateIfName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("interface name is empty")
	case len(name) > 15:
		return fmt.Errorf("interface name %q has %d characters: the kernel allows 15", name, len(name))
	case name == "." || name == "..":
		return fmt.Errorf("interface name %q is not allowed", name)
	}
	for _, c := range []byte(name) {
		if c == '/' || c == ':' || c == '%' || c <= ' ' || c >= 0x7f {
			return fmt.Errorf("interface name %q has an invalid character %q", name, c)
		}
	}
	return nil
}
