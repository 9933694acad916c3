package ipam

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// DefaultSpace is the space of ranges that name none.
const DefaultSpace = "default"

// maxLabel is the longest DNS label (RFC 1123).
const maxLabel = 63

// SpaceName is the space of a network_name and, where ranges may overlap with
// others of the same name (enable_overlapping_ranges: false), of the masked
// range. An empty network is DefaultSpace. What is no DNS label becomes one
// with a hash, so that different names stay different.
func SpaceName(network string, alone netip.Prefix) string {
	name := network
	if name == "" {
		name = DefaultSpace
	}
	if alone.IsValid() {
		name += "--" + strings.ReplaceAll(iprange.BlockName(alone.Masked()), ".", "-")
	}
	if isLabel(name) && (alone.IsValid() || !strings.Contains(name, "--")) {
		return name
	}
	// Two dashes are ours, so that nobody's name looks like a hashed one.
	sum := sha256.Sum256([]byte(network + "\x00" + alone.String()))
	return label(name) + "--" + hex.EncodeToString(sum[:6])
}

// label keeps what is fit for a DNS label of name, in at most 40 characters.
func label(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if alnum {
			b.WriteRune(c)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
		if b.Len() == 40 {
			break
		}
	}
	if trimmed := strings.Trim(b.String(), "-"); trimmed != "" {
		return trimmed
	}
	return "space"
}

func isLabel(name string) bool {
	if name == "" || len(name) > maxLabel || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// CheckSpaceName refuses what is no DNS label: it is part of objects' names.
func CheckSpaceName(name string) error {
	if !isLabel(name) {
		return fmt.Errorf("address space %q: write small letters, digits and - only, at most %d", name, maxLabel)
	}
	return nil
}

// ParseBlockRef is the reverse of BlockRef.String.
func ParseBlockRef(name string) (BlockRef, error) {
	space, rest, _ := strings.Cut(name, ".")
	if err := CheckSpaceName(space); err != nil {
		return BlockRef{}, fmt.Errorf("block %q: %w", name, err)
	}
	prefix, err := iprange.ParseBlockName(rest)
	return BlockRef{Space: space, Prefix: prefix}, err
}

// ParseClaimRef is the reverse of ClaimRef.String.
func ParseClaimRef(name string) (ClaimRef, error) {
	space, rest, _ := strings.Cut(name, ".")
	if err := CheckSpaceName(space); err != nil {
		return ClaimRef{}, fmt.Errorf("claim %q: %w", name, err)
	}
	addr, err := iprange.ParseName(rest)
	return ClaimRef{Space: space, Addr: addr}, err
}
