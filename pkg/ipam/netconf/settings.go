package netconf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/block"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// The longest blocks have 256 addresses; see block.MaxHostBits.
const (
	minV4 = 32 - block.MaxHostBits
	minV6 = 128 - block.MaxHostBits
)

// readSettings checks the keys that are neither addresses nor dead.
func (c *Config) readSettings(Input) error {
	sec := &c.section
	s := settings{
		order: ipam.Order(sec.Order), mode: ipam.Mode(sec.Mode), grid: iprange.DefaultGrid(),
		// Whereabouts gives the gateway's address away unless it is told not to;
		// definitions that live with it keep the addresses they have.
		exclude: c.Type == Meta,
	}
	if sec.ExcludeGateway != nil {
		s.exclude = *sec.ExcludeGateway
	}
	switch s.order {
	case "", ipam.FIFO, ipam.Lowest, ipam.Random:
	default:
		return fmt.Errorf("ipam.order: %q is unknown; write %s, %s or %s", sec.Order, ipam.FIFO, ipam.Lowest, ipam.Random)
	}
	switch s.mode {
	case "", ipam.Auto, ipam.Blocks, ipam.Claims:
	default:
		return fmt.Errorf("ipam.mode: %q is unknown; write %s, %s or %s", sec.Mode, ipam.Auto, ipam.Blocks, ipam.Claims)
	}
	switch sec.IPRangesAllocation {
	case "", "all", "first_available":
	default:
		return fmt.Errorf("ipam.ipRangesAllocation: %q is unknown; write all or first_available", sec.IPRangesAllocation)
	}
	var err error
	if s.cooldown, err = cooldown(sec.Cooldown); err != nil {
		return err
	}
	if s.picked, err = iprange.ParseList(sec.PickAddresses); err != nil {
		return fmt.Errorf("ipam.pick_addresses: %w", err)
	}
	c.settings = s
	return c.readGrid()
}

// cooldown reads a duration; 0s is the space's own, as in an IPPool.
func cooldown(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("ipam.cooldown: %q is no duration; write one like 90s or 10m", text)
	}
	return d, nil
}

// readGrid reads grid and node_slice_size, which is a grid in other words.
func (c *Config) readGrid() error {
	s, given := &c.settings, c.section.Grid
	if given.V4 != 0 {
		s.grid.V4 = given.V4
	}
	if given.V6 != 0 {
		s.grid.V6 = given.V6
	}
	if s.grid.V4 < minV4 || s.grid.V4 > 32 || s.grid.V6 < minV6 || s.grid.V6 > 128 {
		return fmt.Errorf("ipam.grid: blocks of /%d and /%d: write %d to 32 for v4, %d to 128 for v6", s.grid.V4, s.grid.V6, minV4, minV6)
	}
	return nil
}

// slice applies node_slice_size: a node's slice becomes the size of a block, of
// which a node takes as many as it needs. family is that of the first range.
func (c *Config) slice(family int) error {
	text := c.section.NodeSliceSize
	if text == "" {
		return nil
	}
	bits, err := strconv.Atoi(strings.TrimPrefix(text, "/"))
	if err != nil || bits < 1 || bits > 128 {
		return fmt.Errorf("ipam.node_slice_size: %q is no length of a prefix; write one like /26", text)
	}
	if c.settings.mode == "" {
		c.settings.mode = ipam.Blocks
	}
	size, least := &c.settings.grid.V4, minV4
	if bits > 32 || family == 128 {
		size, least = &c.settings.grid.V6, minV6
	}
	*size = max(bits, least)
	if bits < least {
		c.note("ipam.node_slice_size %s is more than a block may have: a node takes as many blocks of /%d as it needs", text, least)
	}
	return nil
}

// alone is the range of a space of its own, or zero.
func (c *Config) alone(spec iprange.Spec, window iprange.Window) netip.Prefix {
	if c.section.OverlappingRanges == nil || *c.section.OverlappingRanges {
		return netip.Prefix{}
	}
	if window.Subnet.IsValid() {
		return window.Subnet
	}
	// first-last: what is excluded doesn't make it another space.
	r, err := iprange.Parse(spec.Range)
	if err != nil {
		return netip.Prefix{} // the window was made of it
	}
	return around(r)
}

// space is the address space of a range.
func (c *Config) space(alone netip.Prefix) ipam.Space {
	mode := c.settings.mode
	if mode == "" {
		mode = ipam.Auto
	}
	return ipam.Space{Name: ipam.SpaceName(c.section.NetworkName, alone), Grid: c.settings.grid, Mode: mode}
}

// around is the longest prefix that has all of the range.
func around(r iprange.Range) netip.Prefix {
	prefix := netip.PrefixFrom(r.First(), r.First().BitLen())
	for !prefix.Contains(r.Last()) {
		prefix = netip.PrefixFrom(r.First(), prefix.Bits()-1)
	}
	return prefix.Masked()
}

func (c *Config) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}
