package annotation

import (
	"fmt"
	"net/netip"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	// DefaultMaxNetworks is the number of selections that a pod may have when
	// Limits doesn't say.
	DefaultMaxNetworks = 32
	// DefaultMaxBytes is the longest annotation when Limits doesn't say.
	DefaultMaxBytes = 64 << 10
	// maxDepth bounds the nesting of lists and objects.
	maxDepth = 64
)

// Limits bounds what a pod author may ask for; a zero field means its default.
type Limits struct {
	// MaxNetworks is the largest number of selections.
	MaxNetworks int
	// MaxBytes is the longest annotation in bytes.
	MaxBytes int
}

func (l Limits) withDefaults() Limits {
	if l.MaxNetworks <= 0 {
		l.MaxNetworks = DefaultMaxNetworks
	}
	if l.MaxBytes <= 0 {
		l.MaxBytes = DefaultMaxBytes
	}
	return l
}

// Parse reads the value of the networks annotation, in its JSON or its comma
// form, into validated selections. An element without a namespace is in
// podNamespace ("default" if that is empty too). A blank value selects
// nothing.
func Parse(value, podNamespace string, limits Limits) ([]attach.Selection, error) {
	limits = limits.withDefaults()
	if len(value) > limits.MaxBytes {
		return nil, fmt.Errorf("networks annotation: %d bytes: at most %d are accepted; shorten it or raise limits.maxAnnotationBytes", len(value), limits.MaxBytes)
	}
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	if podNamespace == "" {
		podNamespace = "default"
	}
	selections, err := parseForm(value, limits.MaxNetworks)
	if err != nil {
		return nil, fmt.Errorf("networks annotation: %w", err)
	}
	for i := range selections {
		if selections[i].Element.Namespace == "" {
			selections[i].Element.Namespace = podNamespace
		}
		if err := validateSelection(selections[i]); err != nil {
			return nil, fmt.Errorf("networks annotation: %s: %w", describe(i, selections[i].Element), err)
		}
	}
	if err := validateTogether(selections); err != nil {
		return nil, fmt.Errorf("networks annotation: %w", err)
	}
	return selections, nil
}

func parseForm(value string, maxNetworks int) ([]attach.Selection, error) {
	if strings.ContainsAny(value, "[{\"") {
		return parseJSON(value, maxNetworks)
	}
	return parseComma(value, maxNetworks)
}

func tooMany(n, limit int) error {
	return fmt.Errorf("%d networks: at most %d are accepted; select fewer or raise limits.maxNetworksPerPod", n, limit)
}

// parseComma reads [namespace/]name[@interface], comma-separated.
func parseComma(value string, maxNetworks int) ([]attach.Selection, error) {
	items := strings.Split(value, ",")
	if len(items) > maxNetworks {
		return nil, tooMany(len(items), maxNetworks)
	}
	out := make([]attach.Selection, 0, len(items))
	for i, item := range items {
		element, err := parseItem(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("element %d (%s): %w", i+1, quote(strings.TrimSpace(item)), err)
		}
		out = append(out, attach.Selection{Element: element})
	}
	return out, nil
}

func parseItem(item string) (nadv1.NetworkSelectionElement, error) {
	var e nadv1.NetworkSelectionElement
	name, ifName, hasIfName := strings.Cut(item, "@")
	namespace, rest, hasNamespace := strings.Cut(name, "/")
	if hasNamespace {
		name = rest
	}
	e.Namespace, e.Name, e.InterfaceRequest = strings.TrimSpace(namespace), strings.TrimSpace(name), strings.TrimSpace(ifName)
	if !hasNamespace {
		e.Namespace = ""
	}
	switch {
	case strings.Contains(name, "/"):
		return e, fmt.Errorf("more than one \"/\": write [namespace/]name[@interface]")
	case strings.Contains(ifName, "@"):
		return e, fmt.Errorf("more than one \"@\": write [namespace/]name[@interface]")
	case e.Name == "":
		return e, fmt.Errorf("the name is empty: write [namespace/]name[@interface] and no comma too many")
	case hasNamespace && e.Namespace == "":
		return e, fmt.Errorf("the namespace before \"/\" is empty: name it or leave \"/\" out")
	case hasIfName && e.InterfaceRequest == "":
		return e, fmt.Errorf("the interface after \"@\" is empty: name it or leave \"@\" out")
	}
	return e, nil
}

// validateTogether checks what one element alone can't break: interface names
// are unique, and at most one gateway a family carries the default route.
func validateTogether(selections []attach.Selection) error {
	interfaces := map[string]int{}
	gateways := map[bool]int{}
	for i, s := range selections {
		if name := s.Element.InterfaceRequest; name != "" {
			if first, taken := interfaces[name]; taken {
				return fmt.Errorf("%s: interface: %q is also asked for by element %d: use another name", describe(i, s.Element), name, first+1)
			}
			interfaces[name] = i
		}
		for _, ip := range s.Element.GatewayRequest {
			v4 := ip.To4() != nil
			if first, taken := gateways[v4]; taken {
				return fmt.Errorf("%s: default-route: %q: element %d already asks for the %s default route; only one gateway a family is possible (no ECMP)", describe(i, s.Element), ip, first+1, familyName(v4))
			}
			gateways[v4] = i
		}
	}
	return nil
}

func familyName(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}

// describe names an element as people count them and wrote it.
func describe(index int, e nadv1.NetworkSelectionElement) string {
	text := e.Name
	if e.Namespace != "" {
		text = e.Namespace + "/" + e.Name
	}
	if e.InterfaceRequest != "" {
		text += "@" + e.InterfaceRequest
	}
	return fmt.Sprintf("element %d (%s)", index+1, quote(text))
}

// quote prints a value from a pod author: escaped, and at most 64 characters.
func quote(s string) string {
	const limit = 64
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// usable says why an address can't be a host's or a gateway's, or nil.
func usable(a netip.Addr) error {
	switch {
	case a.Zone() != "":
		return fmt.Errorf("has a zone: leave %%%s out", a.Zone())
	case a.Is4In6():
		return fmt.Errorf("is an IPv4-mapped IPv6 address: write it as %s", a.Unmap())
	case a.IsUnspecified():
		return fmt.Errorf("is the unspecified address: name a host's address")
	case a.IsMulticast():
		return fmt.Errorf("is a multicast address: name a host's address")
	}
	return nil
}
