package annotation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// parseJSON reads a list of objects.
func parseJSON(value string, maxNetworks int) ([]attach.Selection, error) {
	if err := checkDepth(value); err != nil {
		return nil, err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(value), &elements); err != nil {
		return nil, fmt.Errorf("not a JSON list of objects (%w): write [{\"name\": \"net1\"}] or the comma form net1,ns/net2@if0", err)
	}
	if len(elements) > maxNetworks {
		return nil, tooMany(len(elements), maxNetworks)
	}
	out := make([]attach.Selection, 0, len(elements))
	for i, raw := range elements {
		s, err := parseElement(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", describe(i, s.Element), err)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// checkDepth refuses deep nesting before a recursive decoder sees it.
func checkDepth(value string) error {
	depth, inString, escaped := 0, false, false
	for i := range len(value) {
		switch c := value[i]; {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return fmt.Errorf("JSON is nested deeper than %d levels: flatten it", maxDepth)
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return nil
}

// canonicalKey is the specification's spelling of a key, or "" for one that
// isn't known. As with encoding/json, and so with Multus, case doesn't matter.
func canonicalKey(key string) string {
	for _, known := range []string{
		"name", "namespace", "interface", "ips", "mac", "infiniband-guid", "cni-args",
		"portMappings", "bandwidth", "default-route", "deviceID", "ipam-claim-reference",
	} {
		if strings.EqualFold(key, known) {
			return known
		}
	}
	if strings.EqualFold(key, "interfaceRequest") {
		return "interface"
	}
	return ""
}

// parseElement decodes one object. On error the selection holds what was read
// so far, for the message.
func parseElement(raw json.RawMessage) (attach.Selection, error) {
	var s attach.Selection
	fields, err := objectFields(raw)
	if err != nil {
		return s, err
	}
	// The name comes first so that a message about another key can show it.
	for _, key := range []string{"name", "namespace", "interface"} {
		if value, ok := fields[key]; ok {
			delete(fields, key)
			if err := setField(&s, key, value); err != nil {
				return s, fieldError(key, value, err)
			}
		}
	}
	for _, key := range []string{
		"ips", "mac", "infiniband-guid", "cni-args", "portMappings",
		"bandwidth", "default-route", "deviceID", "ipam-claim-reference",
	} {
		if value, ok := fields[key]; ok {
			if err := setField(&s, key, value); err != nil {
				return s, fieldError(key, value, err)
			}
		}
	}
	return s, nil
}

func fieldError(key string, value json.RawMessage, err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		err = fmt.Errorf("is a %s where %s is expected", wrong.Value, wrong.Type)
	}
	return fmt.Errorf("%s: %s: %w", key, quote(string(value)), err)
}

// objectFields splits an object into its known fields; unknown ones and nulls
// are left out, and a key that occurs twice is an error.
func objectFields(raw json.RawMessage) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("%s is not an object: write {\"name\": \"net1\"}", quote(string(raw)))
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		written, _ := token.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		key := canonicalKey(written)
		if key == "" {
			continue
		}
		if _, twice := fields[key]; twice {
			return nil, fmt.Errorf("%s: the key occurs twice: keep one", key)
		}
		fields[key] = value
	}
	for key, value := range fields {
		if string(value) == "null" {
			delete(fields, key)
		}
	}
	return fields, nil
}

func setField(s *attach.Selection, key string, value json.RawMessage) error {
	e := &s.Element
	switch key {
	case "name":
		return json.Unmarshal(value, &e.Name)
	case "namespace":
		return json.Unmarshal(value, &e.Namespace)
	case "interface":
		return json.Unmarshal(value, &e.InterfaceRequest)
	case "deviceID":
		return json.Unmarshal(value, &s.DeviceID)
	case "ipam-claim-reference":
		return json.Unmarshal(value, &e.IPAMClaimReference)
	case "ips":
		return setIPs(e, value)
	case "mac":
		return setHardwareAddr(&e.MacRequest, value, 6)
	case "infiniband-guid":
		return setHardwareAddr(&e.InfinibandGUIDRequest, value, 8)
	case "cni-args":
		return setCNIArgs(e, value)
	case "portMappings":
		return setPortMappings(e, value)
	case "bandwidth":
		return setBandwidth(e, value)
	case "default-route":
		return setGateways(e, value)
	}
	return nil
}

func setIPs(e *nadv1.NetworkSelectionElement, value json.RawMessage) error {
	var texts []string
	if err := json.Unmarshal(value, &texts); err != nil {
		return err
	}
	for _, text := range texts {
		ip, err := canonicalIP(text)
		if err != nil {
			return err
		}
		e.IPRequest = append(e.IPRequest, ip)
	}
	return nil
}

// canonicalIP accepts an address or an address with its prefix length.
func canonicalIP(text string) (string, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		if err := usable(prefix.Addr()); err != nil {
			return "", fmt.Errorf("%s %w", quote(text), err)
		}
		return prefix.String(), nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return "", fmt.Errorf("%s is neither an IP address nor a CIDR: write 192.0.2.7 or 192.0.2.7/24", quote(text))
	}
	if err := usable(addr); err != nil {
		return "", fmt.Errorf("%s %w", quote(text), err)
	}
	return addr.String(), nil
}

func setHardwareAddr(to *string, value json.RawMessage, size int) error {
	var text string
	if err := json.Unmarshal(value, &text); err != nil || text == "" {
		return err
	}
	addr, err := net.ParseMAC(text)
	if err != nil || len(addr) != size {
		return fmt.Errorf("is not an address of %d bytes: write them as hex with colons", size)
	}
	if size == 6 && addr[0]&1 == 1 {
		return errors.New("is a multicast address: the lowest bit of the first byte must be 0")
	}
	if bytes.Equal(addr, make([]byte, size)) {
		return errors.New("is all zero: name a real address or leave the key out")
	}
	*to = addr.String()
	return nil
}

func setCNIArgs(e *nadv1.NetworkSelectionElement, value json.RawMessage) error {
	// Numbers stay as written: a large integer must reach the plugin whole.
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	var args map[string]any
	if err := dec.Decode(&args); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(args) > 0 {
		e.CNIArgs = &args
	}
	return nil
}

func setPortMappings(e *nadv1.NetworkSelectionElement, value json.RawMessage) error {
	var entries []nadv1.PortMapEntry
	if err := json.Unmarshal(value, &entries); err != nil {
		return err
	}
	for i := range entries {
		entry := &entries[i]
		if err := checkPortMapping(entry); err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
		e.PortMappingsRequest = append(e.PortMappingsRequest, entry)
	}
	return nil
}

func checkPortMapping(entry *nadv1.PortMapEntry) error {
	for key, port := range map[string]int{"hostPort": entry.HostPort, "containerPort": entry.ContainerPort} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%s %d is out of range: 1 to 65535", key, port)
		}
	}
	entry.Protocol = strings.ToLower(entry.Protocol)
	switch entry.Protocol {
	case "":
		entry.Protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return fmt.Errorf("protocol %s is unknown: tcp, udp or sctp", quote(entry.Protocol))
	}
	if entry.HostIP == "" {
		return nil
	}
	addr, err := netip.ParseAddr(entry.HostIP)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return fmt.Errorf("hostIP %s is not an IP address: write it as 192.0.2.7 or leave it out", quote(entry.HostIP))
	}
	entry.HostIP = addr.String()
	return nil
}

func setBandwidth(e *nadv1.NetworkSelectionElement, value json.RawMessage) error {
	var b nadv1.BandwidthEntry
	if err := json.Unmarshal(value, &b); err != nil {
		return err
	}
	switch {
	case b.IngressRate < 0 || b.IngressBurst < 0 || b.EgressRate < 0 || b.EgressBurst < 0:
		return errors.New("has a negative number: rates are bits a second, bursts are bits, from 0")
	case b.IngressBurst > 0 && b.IngressRate == 0:
		return errors.New("ingressBurst needs ingressRate: set both")
	case b.EgressBurst > 0 && b.EgressRate == 0:
		return errors.New("egressBurst needs egressRate: set both")
	case b != nadv1.BandwidthEntry{}:
		e.BandwidthRequest = &b
	}
	return nil
}

// setGateways reads `default-route`. An empty list asks for nothing: in Multus
// it removes every default route, which nobody can want (multus#1552).
func setGateways(e *nadv1.NetworkSelectionElement, value json.RawMessage) error {
	var texts []string
	if err := json.Unmarshal(value, &texts); err != nil {
		return err
	}
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%s is not an IP address: name the gateway as 192.0.2.1", quote(text))
		}
		if err := usable(addr); err != nil {
			return fmt.Errorf("%s %w", quote(text), err)
		}
		e.GatewayRequest = append(e.GatewayRequest, net.ParseIP(addr.String()))
	}
	return nil
}
