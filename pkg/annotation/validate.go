package annotation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	maxLabel     = 63  // RFC 1123 label
	maxSubdomain = 253 // name of a Kubernetes object
)

// validateSelection checks the names of one selection and the rules between
// its keys; addresses and numbers were checked when they were read.
func validateSelection(s attach.Selection) error {
	e := s.Element
	if err := validateName("name", e.Name); err != nil {
		return err
	}
	if len(e.Namespace) > maxLabel || !isLabel(e.Namespace) {
		return fmt.Errorf("namespace: %s is not a namespace's name: lower-case letters, digits and \"-\", at most %d", quote(e.Namespace), maxLabel)
	}
	if e.InterfaceRequest != "" {
		if err := validateInterface(e.InterfaceRequest); err != nil {
			return fmt.Errorf("interface: %w", err)
		}
	}
	if s.DeviceID != "" {
		if err := validateDeviceID(s.DeviceID); err != nil {
			return err
		}
	}
	if e.IPAMClaimReference == "" {
		return nil
	}
	if len(e.IPRequest) > 0 {
		return errors.New("ipam-claim-reference: can't stand beside ips: the claim decides the addresses, so keep one of the two")
	}
	return validateName("ipam-claim-reference", e.IPAMClaimReference)
}

// validateName accepts what Kubernetes accepts as the name of an object.
func validateName(key, name string) error {
	if name == "" {
		return fmt.Errorf("%s: is missing: every element needs it", key)
	}
	if len(name) <= maxSubdomain && allLabels(name) {
		return nil
	}
	return fmt.Errorf("%s: %s is not the name of an object: lower-case letters, digits, \"-\" and \".\", at most %d, each part beginning and ending with a letter or digit", key, quote(name), maxSubdomain)
}

func allLabels(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel is [a-z0-9]([-a-z0-9]*[a-z0-9])?.
func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != ""
}

// validateInterface takes of the kernel's names those that mean only
// themselves: "%" is a template for a number (dev_alloc_name), "*" and "+" are
// wildcards of nft and iptables, a leading "-" looks like an option, "all" and
// "default" are folders of /proc/sys/net, "lo" exists in every sandbox.
func validateInterface(name string) error {
	if err := attach.ValidateIfName(name); err != nil {
		return err
	}
	if name == "lo" || name == "all" || name == "default" {
		return fmt.Errorf("%q is taken by the kernel: use another name", name)
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(rune(c)) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return fmt.Errorf("%q has an invalid character at %d: use letters, digits, \"_\" and, after the first, \".\" and \"-\"", name, i)
		}
	}
	return nil
}

func isAlnum(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// validateDeviceID bounds what becomes part of a file name (device-info) and
// of a delegate's configuration.
func validateDeviceID(id string) error {
	bad := strings.IndexFunc(id, func(c rune) bool {
		return !isAlnum(c) && !strings.ContainsRune("._:@+-", c)
	})
	if bad < 0 && len(id) <= maxSubdomain && isAlnum(rune(id[0])) {
		return nil
	}
	return fmt.Errorf("deviceID: %s is not a device: letters, digits and . _ : @ + -, beginning with a letter or digit, at most %d", quote(id), maxSubdomain)
}
