package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// The plugin types, as in "ipam": {"type": …}.
const (
	Meta        = "meta-ipam"
	Whereabouts = "whereabouts"
)

// Input is one call of the plugin.
type Input struct {
	// Conf is the standard input: the configuration of the plugin that called,
	// with the key "ipam".
	Conf []byte
	// Args is CNI_ARGS.
	Args string
	// Flat is Whereabouts' flat file, empty if there is none. It is for type
	// whereabouts only.
	Flat                       []byte
	ContainerID, IfName, Netns string
}

// Head is what every verb has to know of a configuration.
type Head struct {
	// Network is the `name`.
	Network string
	// CNIVersion is "0.1.0" where the configuration has none.
	CNIVersion string
	// Type is Meta or Whereabouts.
	Type string
}

// ReadHead reads the head of a configuration. Next to an error it gives what
// could be read: a DEL needs no more than the network.
func ReadHead(conf []byte) (Head, error) {
	var raw struct {
		Name, CNIVersion, IPAM json.RawMessage
	}
	if err := json.Unmarshal(conf, &raw); err != nil {
		return Head{}, refuse("not a JSON object: %w", err)
	}
	var (
		head Head
		kind struct{ Type string }
		errs []error
	)
	read := func(key string, data json.RawMessage, into any) {
		if data == nil {
			return
		}
		if err := json.Unmarshal(data, into); err != nil {
			errs = append(errs, refuse("%s: %w", key, err))
		}
	}
	read("name", raw.Name, &head.Network)
	read("cniVersion", raw.CNIVersion, &head.CNIVersion)
	read("ipam", raw.IPAM, &kind)
	head.Type = kind.Type
	if head.CNIVersion == "" {
		head.CNIVersion = "0.1.0"
	}
	if head.Network == "" {
		errs = append(errs, refuse("name: the configuration has none"))
	}
	if head.Type != Meta && head.Type != Whereabouts {
		errs = append(errs, refuse("ipam.type: %q is neither %s nor %s", head.Type, Meta, Whereabouts))
	}
	return head, errors.Join(errs...)
}

// Config is a configuration that was read and checked, but for the pools that
// it names.
type Config struct {
	Head
	// PoolNames are the declared pools that it names, in their order.
	PoolNames []string
	// Match says that every pool that fits the node and the pod's namespace is
	// meant.
	Match bool
	// Owner is the attachment and, with its UID, the pod of CNI_ARGS.
	Owner ipam.Owner

	netns    string
	section  section
	written  []string // keys of "ipam"
	settings settings
	ranges   []candidate
	fixed    []Fixed
	asked    []ask
	gateways []netip.Addr // of CNI_ARGS
	notes    []string
}

// settings are the own keys, checked.
type settings struct {
	order    ipam.Order
	cooldown time.Duration
	mode     ipam.Mode
	grid     iprange.Grid
	exclude  bool        // gateways are not given away
	picked   iprange.Set // pick_addresses
}

// Fixed is an address that the result has without an allocation: an element of
// "addresses", or one of CNI_ARGS IP= that is in no range.
type Fixed struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// Parse reads one call. Errors wrap ipam.ErrInvalid.
func Parse(in Input) (Config, error) {
	head, err := ReadHead(in.Conf)
	if err != nil {
		return Config{}, err
	}
	c := Config{Head: head, netns: in.Netns}
	for _, step := range []func(Input) error{c.readSection, c.readCall, c.readSettings, c.readSources, c.limitOldVersions} {
		if err := step(in); err != nil {
			return Config{}, refuse("%w", err)
		}
	}
	return c, nil
}

// readSection reads the key "ipam" and the flat file.
func (c *Config) readSection(in Input) error {
	var raw struct{ IPAM json.RawMessage }
	if err := json.Unmarshal(in.Conf, &raw); err != nil {
		return err
	}
	inline, err := readSection(raw.IPAM)
	if err != nil {
		return fmt.Errorf("ipam: %w", err)
	}
	c.notes = inline.strange()
	c.written = slices.DeleteFunc(slices.Sorted(maps.Keys(inline)), func(key string) bool { return !inline.has(key) })
	if len(in.Flat) > 0 && c.Type == Whereabouts {
		flat, err := readSection(in.Flat)
		if err != nil {
			return fmt.Errorf("flat file: %w", err)
		}
		if _, err := flat.decode("flat file"); err != nil {
			return err
		}
		c.notes = append(c.notes, inline.merge(flat)...)
	}
	c.section, err = inline.decode("ipam")
	return err
}

// readCall reads who calls and which addresses the call asks for.
func (c *Config) readCall(in Input) error {
	args, err := config.ParseArgs(in.Args)
	if err != nil {
		return err
	}
	pod := config.PodFromArgs(args)
	c.Owner = ipam.Owner{
		Key:          ipam.Key{ContainerID: in.ContainerID, IfName: in.IfName, Network: c.Network},
		PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: pod.UID,
	}
	if err := c.Owner.Check(); err != nil {
		return err
	}
	if err := c.readFixed(); err != nil {
		return err
	}
	return c.readAsked(in.Conf, args)
}

// readSources resolves the ranges, or names the pools.
func (c *Config) readSources(Input) error {
	sec := &c.section
	c.PoolNames = sec.Pools
	if sec.Pool != "" {
		c.PoolNames = append([]string{sec.Pool}, sec.Pools...)
	}
	if slices.Contains(c.PoolNames, "") {
		return errors.New("ipam.pools: a name is empty")
	}
	if err := c.readRanges(); err != nil {
		return err
	}
	c.noteRangeKeys()
	switch {
	case len(c.ranges) > 0 && len(c.PoolNames) > 0:
		return errors.New("ipam: both ranges and pools are given; keep one of them")
	case len(c.ranges) > 0 || len(c.PoolNames) > 0:
	case c.Type == Meta:
		c.Match = true
	case len(c.fixed) == 0:
		return errors.New("ipam: there is neither range nor ipRanges nor addresses; give one")
	}
	return nil
}

// limitOldVersions: results before CNI 0.3.0 have one address a family; like
// Whereabouts, it counts those that were named.
func (c *Config) limitOldVersions(Input) error {
	count := c.fixedCount()
	for _, a := range c.asked {
		count[a.addr.BitLen()]++
	}
	if c.oldVersion() && (count[32] > 1 || count[128] > 1) {
		return fmt.Errorf("cniVersion %s has no more than one address a family; write 0.3.1 or later", c.CNIVersion)
	}
	return nil
}

func (c *Config) oldVersion() bool { return c.CNIVersion == "0.1.0" || c.CNIVersion == "0.2.0" }

// fixedCount counts the fixed addresses by the length of their family.
func (c *Config) fixedCount() map[int]int {
	count := map[int]int{}
	for _, f := range c.fixed {
		count[f.Prefix.Addr().BitLen()]++
	}
	return count
}

// refusal is an error that wraps ipam.ErrInvalid without its words.
type refusal struct{ error }

func (r refusal) Unwrap() []error { return []error{ipam.ErrInvalid, r.error} }

func refuse(format string, args ...any) error {
	return refusal{fmt.Errorf(format, args...)}
}
