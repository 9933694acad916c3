package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// ask is an address that the call asks for by name.
type ask struct {
	addr   netip.Addr
	bits   int    // of the CIDR; -1 for a plain address
	source string // the key, for messages
	// open says that the definition lets pods have addresses that its ranges
	// keep back.
	open bool
}

// maxAsked bounds what a pod's author may write; no pod has so many ranges.
const maxAsked = 64

// permission is what the definition's author can do about a refusal.
const permission = `to give it to those who ask, write "capabilities": {"ips": true} into the definition`

const argIP = "CNI_ARGS IP" // Whereabouts adds these beside the ranges' addresses

// readFixed reads `addresses`.
func (c *Config) readFixed() error {
	for i, entry := range c.section.Addresses {
		prefix, err := iprange.ParsePrefix(entry.Address)
		if err != nil {
			return fmt.Errorf("ipam.addresses[%d]: %w", i, err)
		}
		f := Fixed{Prefix: prefix}
		if entry.Gateway != "" {
			if f.Gateway, err = iprange.ParseAddr(entry.Gateway); err != nil {
				return fmt.Errorf("ipam.addresses[%d].gateway: %w", i, err)
			}
		}
		c.fixed = append(c.fixed, f)
	}
	return nil
}

// fixedSet are the addresses that the result has anyway.
func (c *Config) fixedSet() iprange.Set {
	ranges := make([]iprange.Range, len(c.fixed))
	for i, f := range c.fixed {
		ranges[i] = iprange.Single(f.Prefix.Addr())
	}
	return iprange.SetOf(ranges...)
}

// readAsked reads runtimeConfig.ips, args.cni.ips, and IP and GATEWAY of
// CNI_ARGS. The same address in two of them is one. The author of a pod writes
// args.cni, and IP as Multus passes it, whatever the definition says; a runtime
// passes runtimeConfig.ips only where it declares the capability. What it keeps
// back by exclude, range_start and range_end takes that permission.
func (c *Config) readAsked(conf []byte, args [][2]string) error {
	var raw struct {
		Capabilities  map[string]bool `json:"capabilities"`
		RuntimeConfig struct {
			IPs []string `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs []string `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
	}
	if err := json.Unmarshal(conf, &raw); err != nil {
		return plainError("", err)
	}
	ips, gateways := listArg(args, "IP"), listArg(args, "GATEWAY")
	open := raw.Capabilities["ips"]
	for _, from := range []struct {
		source string
		texts  []string
		open   bool
	}{{"runtimeConfig.ips", raw.RuntimeConfig.IPs, true}, {"args.cni.ips", raw.Args.CNI.IPs, open}, {argIP, ips, open}} {
		for _, text := range from.texts {
			if err := c.ask(ask{bits: -1, source: from.source, open: from.open}, text); err != nil {
				return fmt.Errorf("%s: %w", from.source, err)
			}
		}
	}
	for _, text := range gateways {
		addr, err := iprange.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("CNI_ARGS GATEWAY: %w", err)
		}
		c.gateways = append(c.gateways, addr)
		for i, f := range c.fixed {
			if f.Prefix.Contains(addr) {
				c.fixed[i].Gateway = addr
			}
		}
	}
	return nil
}

func (c *Config) ask(a ask, text string) error {
	if strings.Contains(text, "/") {
		prefix, err := iprange.ParsePrefix(text)
		if err != nil {
			return err
		}
		a.addr, a.bits = prefix.Addr(), prefix.Bits()
	} else {
		addr, err := iprange.ParseAddr(text)
		if err != nil {
			return err
		}
		a.addr = addr
	}
	if c.fixedSet().Contains(a.addr) {
		return fmt.Errorf("%s is in ipam.addresses already; ask for another", a.addr)
	}
	if slices.ContainsFunc(c.asked, func(b ask) bool { return b.addr == a.addr }) {
		return nil
	}
	if len(c.asked) == maxAsked {
		return fmt.Errorf("more than %d addresses are asked for", maxAsked)
	}
	c.asked = append(c.asked, a)
	return nil
}

// listArg is the comma list of a key of CNI_ARGS.
func listArg(args [][2]string, key string) []string {
	var list []string
	for _, pair := range args {
		if pair[0] != key {
			continue
		}
		for item := range strings.SplitSeq(pair[1], ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
	}
	return list
}

// offer becomes a Want.
type offer struct {
	from []candidate
	ask  *ask // the very address that it must give
}

func (o offer) usable(addr netip.Addr) bool {
	return slices.ContainsFunc(o.from, func(c candidate) bool { return c.takes(addr) && c.Usable.Contains(addr) })
}

func (o offer) takes(addr netip.Addr) bool {
	return slices.ContainsFunc(o.from, func(c candidate) bool { return c.takes(addr) })
}

// place gives each address that is asked for an offer that takes it, if there
// is any way to do so: with two windows in one subnet, the first come must not
// take the only offer of the next. What no offer takes is returned.
func place(asked []ask, offers []offer) (left []ask) {
	owner := make([]int, len(offers)) // index into asked, -1 for none
	for i := range owner {
		owner[i] = -1
	}
	var settle func(a int, tried []bool) bool
	settle = func(a int, tried []bool) bool {
		addr := asked[a].addr
		for _, fits := range []func(offer) bool{
			func(o offer) bool { return o.usable(addr) }, // before one that only may
			func(o offer) bool { return asked[a].open && o.takes(addr) },
		} {
			for i := range offers {
				if tried[i] || !fits(offers[i]) {
					continue
				}
				tried[i] = true
				if owner[i] < 0 || settle(owner[i], tried) {
					owner[i] = a
					return true
				}
			}
		}
		return false
	}
	for a := range asked {
		if !settle(a, make([]bool, len(offers))) {
			left = append(left, asked[a])
		}
	}
	for i, a := range owner {
		if a >= 0 {
			offers[i].ask = &asked[a]
		}
	}
	return left
}

// unplaced says what is wrong with an address that no offer takes.
func unplaced(a ask, offers []offer) error {
	var texts []string
	for _, o := range offers {
		for _, c := range o.from {
			if c.takes(a.addr) && !a.open && !o.usable(a.addr) {
				return fmt.Errorf("%s: %s: %s keeps it back from pods (exclude, bounds or pick_addresses); %s", a.source, a.addr, c.Text, permission)
			}
			if c.takes(a.addr) {
				return fmt.Errorf("%s: %s: each range gives one address, and another of %s is asked for", a.source, a.addr, c.Text)
			}
			if c.Subnet.IsValid() && c.Subnet.Contains(a.addr) {
				return fmt.Errorf("%s: %s is the network, broadcast or gateway address of %s; ask for another", a.source, a.addr, c.Subnet)
			}
			texts = append(texts, c.Text)
		}
	}
	if len(texts) == 0 {
		texts = []string{"none"}
	}
	return fmt.Errorf("%s: %s is in no range of the network: %s", a.source, a.addr, strings.Join(texts, ", "))
}

// Allocates says whether an ADD allocates anything: not if all addresses are
// fixed.
func (c Config) Allocates() bool { return c.Match || len(c.ranges) > 0 || len(c.PoolNames) > 0 }

// Untracked says whether the result may have addr without an allocation.
func (c Config) Untracked(addr netip.Addr) bool {
	if c.fixedSet().Contains(addr) {
		return true
	}
	inRange := slices.ContainsFunc(c.ranges, func(r candidate) bool { return r.takes(addr) })
	return c.Type == Whereabouts && !inRange && slices.ContainsFunc(c.asked, func(a ask) bool {
		return a.addr == addr && a.source == argIP
	})
}
