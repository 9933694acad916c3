package whereabouts

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Definition is a NetworkAttachmentDefinition. It says what an IPPool doesn't:
// the CNI network's name and whether ranges may overlap.
type Definition struct {
	Namespace, Name string
	// Config is its spec.config.
	Config []byte
}

func (d Definition) ref() string { return d.Namespace + "/" + d.Name }

// network is what one plugin of a definition tells of Whereabouts.
type network struct {
	definition string
	// cni is the `name` of the CNI configuration.
	cni string
	// name is the network_name.
	name    string
	subnets []netip.Prefix
	overlap bool
	sliced  bool
}

// space is where the addresses of a subnet belong.
func (n network) space(subnet netip.Prefix) string {
	if n.overlap {
		subnet = netip.Prefix{}
	}
	return ipam.SpaceName(n.name, subnet)
}

// covers is the range of the network that a pool's subnet is, or is a slice of.
func (n network) covers(subnet netip.Prefix, sliced bool) (netip.Prefix, bool) {
	for _, own := range n.subnets {
		if n.sliced == sliced && (own == subnet || sliced && own.Bits() <= subnet.Bits() && own.Contains(subnet.Addr())) {
			return own, true
		}
	}
	return netip.Prefix{}, false
}

// keys are those of Whereabouts' ipam section that decide where an address is
// kept.
type keys struct {
	Type        string `json:"type"`
	Range       string `json:"range"`
	NetworkName string `json:"network_name"`
	SliceSize   string `json:"node_slice_size"`
	Overlap     *bool  `json:"enable_overlapping_ranges"`
	IPRanges    []struct {
		Range string `json:"range"`
	} `json:"ipRanges"`
}

// fill takes from the flat file what k doesn't say, as Whereabouts does. It
// never takes enable_overlapping_ranges from there.
func (k keys) fill(flat keys) keys {
	if k.Range == "" {
		k.Range = flat.Range
	}
	if k.NetworkName == "" {
		k.NetworkName = flat.NetworkName
	}
	if k.SliceSize == "" {
		k.SliceSize = flat.SliceSize
	}
	if len(k.IPRanges) == 0 {
		k.IPRanges = flat.IPRanges
	}
	return k
}

func parseFlat(data []byte) (keys, error) {
	var flat keys
	if len(data) == 0 {
		return flat, nil
	}
	if err := json.Unmarshal(data, &flat); err != nil {
		return keys{}, fmt.Errorf("the file whereabouts.conf can't be read: %w", err)
	}
	return flat, nil
}

// networks are those of a definition that Whereabouts serves; none is no
// error.
func (d Definition) networks(flat keys) ([]network, error) {
	type plugin struct {
		IPAM keys `json:"ipam"`
	}
	var conf struct {
		plugin
		Name    string   `json:"name"`
		Plugins []plugin `json:"plugins"`
	}
	if len(d.Config) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(d.Config, &conf); err != nil {
		return nil, fmt.Errorf("its config can't be read: %w", err)
	}
	if conf.Name == "" {
		conf.Name = d.Name
	}
	var found []network
	for _, p := range append(conf.Plugins, conf.plugin) {
		if p.IPAM.Type != "whereabouts" {
			continue
		}
		k := p.IPAM.fill(flat)
		n := network{definition: d.ref(), cni: conf.Name, name: k.NetworkName, sliced: k.SliceSize != ""}
		n.overlap = k.Overlap == nil || *k.Overlap
		if err := n.addRanges(k); err != nil {
			return nil, err
		}
		found = append(found, n)
	}
	return found, nil
}

func (n *network) addRanges(k keys) error {
	texts := make([]string, 0, 1+len(k.IPRanges))
	if k.Range != "" {
		texts = append(texts, k.Range)
	}
	for _, r := range k.IPRanges {
		texts = append(texts, r.Range)
	}
	for _, text := range texts {
		subnet, err := subnetOf(text)
		if err != nil {
			return fmt.Errorf("its range %q can't be read: %w", text, err)
		}
		n.subnets = append(n.subnets, subnet)
	}
	return nil
}
