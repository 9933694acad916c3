// Package plan decides everything about an ADD before the first system call:
// which configurations run in which order on which interfaces, with which
// arguments and capabilities, and which of them carries the default route.
//
// It is pure: the same input gives the same plan, and every mistake that can
// be seen in the input is an error here, before anything has been touched.
// A plan's configurations are configuration lists whose plugin types are
// names, never paths.
package plan

import (
	"encoding/json"
	"fmt"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
)

// Input is what an ADD knows once the runtime, the pod and the network
// definitions have been read.
type Input struct {
	Key           attach.Key
	Netns         string
	Pod           attach.Pod
	Path          []string
	Args          [][2]string
	CallerVersion string
	// RuntimeConfig are the runtime's capability arguments.
	RuntimeConfig map[string]json.RawMessage
	Primary       attach.Primary
	Selections    []attach.Selection
	// Networks holds the definition of every selection.
	Networks map[attach.NetworkRef]attach.Network
}

// Make makes the plan. Errors name the network and the key at fault.
func Make(in Input) (*attach.Plan, error) {
	if err := in.Key.Validate(); err != nil {
		return nil, err
	}
	p := &attach.Plan{
		Key: in.Key, Netns: in.Netns, Pod: in.Pod,
		Path: in.Path, CallerVersion: in.CallerVersion,
	}
	primary, err := primaryDelegate(in)
	if err != nil {
		return nil, fmt.Errorf("primary network %s: %w", in.Primary.File, err)
	}
	p.Delegates = append(p.Delegates, primary)
	names, err := ifNames(in.Key.IfName, in.Selections)
	if err != nil {
		return nil, err
	}
	for i, s := range in.Selections {
		d, err := selectedDelegate(in, s, names[i])
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", s.Ref(), err)
		}
		p.Delegates = append(p.Delegates, d)
	}
	p.DefaultRoutes, err = defaultRoutes(in.Selections)
	return p, err
}

func primaryDelegate(in Input) (attach.Delegate, error) {
	list, err := parseList(in.Primary.Config, "")
	if err != nil {
		return attach.Delegate{}, err
	}
	conf, err := list.bytes()
	if err != nil {
		return attach.Delegate{}, err
	}
	return attach.Delegate{
		Network:      list.name,
		Conf:         conf,
		IfName:       in.Key.IfName,
		Args:         delegateArgs(in.Args, nil),
		Capabilities: list.declared(in.RuntimeConfig),
		Primary:      true,
	}, nil
}

func selectedDelegate(in Input, s attach.Selection, ifName string) (attach.Delegate, error) {
	network, ok := in.Networks[s.Ref()]
	if !ok {
		return attach.Delegate{}, fmt.Errorf("no network definition was found")
	}
	list, err := parseList(network.Config, network.Ref.Name)
	if err != nil {
		return attach.Delegate{}, fmt.Errorf("%s: %w", network.Source, err)
	}
	if s.Element.CNIArgs != nil {
		if err := list.mergeArgs(*s.Element.CNIArgs); err != nil {
			return attach.Delegate{}, fmt.Errorf("%s: cni-args: %w", network.Source, err)
		}
	}
	conf, err := list.bytes()
	if err != nil {
		return attach.Delegate{}, err
	}
	capabilities, err := requested(s)
	if err != nil {
		return attach.Delegate{}, err
	}
	for _, name := range podCapabilities() {
		if value, ok := in.RuntimeConfig[name]; ok {
			capabilities[name] = value
		}
	}
	return attach.Delegate{
		Network:      s.Ref().String(),
		Conf:         conf,
		IfName:       ifName,
		Args:         delegateArgs(in.Args, &s),
		Capabilities: list.declared(capabilities),
		Selection:    &s,
	}, nil
}

// podCapabilities are the runtime's capability arguments that describe the
// pod and not its primary interface, so that every network may have them. All
// others (host ports, bandwidth, addresses) are meant for the cluster network
// alone (NPWG multi-net-spec v1.3, 7.5).
func podCapabilities() []string {
	return []string{"cgroupPath", "aliases", "dns", config.PodAnnotationsCapability}
}

// ifNames gives each selection the interface that it asks for, else net<n> by
// its place in the list, counted from one.
func ifNames(primary string, selections []attach.Selection) ([]string, error) {
	owner := map[string]string{primary: "the primary network"}
	names := make([]string, len(selections))
	for i, s := range selections {
		name := s.Element.InterfaceRequest
		if name == "" {
			name = fmt.Sprintf("net%d", i+1)
		}
		if err := attach.ValidateIfName(name); err != nil {
			return nil, fmt.Errorf("network %s: %w", s.Ref(), err)
		}
		if other, taken := owner[name]; taken {
			return nil, fmt.Errorf("network %s: interface %q is already the one of %s: give one of them another `interface`", s.Ref(), name, other)
		}
		owner[name] = fmt.Sprintf("element %d (%s)", i+1, s.Ref())
		names[i] = name
	}
	return names, nil
}
