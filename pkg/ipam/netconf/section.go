package netconf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// section is the key "ipam" of a configuration, and the whole of the flat file.
type section struct {
	Type string `json:"type"`
	// The keys of one range, here that of the key "range". Its gateway is also
	// that of the other ranges, the last three are switches for all of them.
	rangeSection
	IPRanges           []rangeSection  `json:"ipRanges"`
	IPRangesAllocation string          `json:"ipRangesAllocation"`
	PickAddresses      []string        `json:"pick_addresses"`
	ExcludeGateway     *bool           `json:"exclude_gateway"`
	Routes             []*types.Route  `json:"routes"`
	DNS                types.DNS       `json:"dns"`
	Addresses          []fixedSection  `json:"addresses"`
	OverlappingRanges  *bool           `json:"enable_overlapping_ranges"`
	NetworkName        string          `json:"network_name"`
	NodeSliceSize      string          `json:"node_slice_size"`
	Name               json.RawMessage `json:"name"` // Whereabouts overwrites it

	// Keys of meta-ipam.
	Pool     string   `json:"pool"`
	Pools    []string `json:"pools"`
	Order    string   `json:"order"`
	Cooldown string   `json:"cooldown"`
	Probe    bool     `json:"probe"`
	Sticky   bool     `json:"sticky"`
	Mode     string   `json:"mode"`
	Grid     struct {
		V4 int `json:"v4"`
		V6 int `json:"v6"`
	} `json:"grid"`
}

// rangeSection is one range.
type rangeSection struct {
	Range            string   `json:"range"`
	RangeStart       string   `json:"range_start"`
	RangeEnd         string   `json:"range_end"`
	Exclude          []string `json:"exclude"`
	Gateway          string   `json:"gateway"`
	EnableL3         bool     `json:"enable_l3"`
	IncludeNetwork   bool     `json:"include_network_address"`
	IncludeBroadcast bool     `json:"include_broadcast_address"`
}

// fixedSection is one element of "addresses".
type fixedSection struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
}

// namesAddresses says whether the section says where addresses come from.
func (s object) namesAddresses() bool {
	return slices.ContainsFunc([]string{"range", "ipRanges", "pool", "pools"}, s.has)
}

// object is a JSON object whose known keys have their own spelling: like
// encoding/json, Whereabouts takes them in capital letters too.
type object map[string]json.RawMessage

func readObject(data []byte, known []string) (object, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	o := object{}
	for _, key := range slices.Sorted(maps.Keys(raw)) { // of several spellings, the one in small letters is last
		name := key
		if i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, key) }); i >= 0 {
			name = known[i]
		}
		o[name] = raw[key]
	}
	return o, nil
}

// readSection reads the value of "ipam" or the flat file.
func readSection(data []byte) (object, error) {
	known := slices.AppendSeq(fieldsOf(reflect.TypeFor[section]()), maps.Keys(deadKeys()))
	return readObject(data, known)
}

// has says whether the key has a value that isn't null, false, 0 or empty.
func (s object) has(key string) bool {
	var value any
	if err := json.Unmarshal(s[key], &value); err != nil {
		return false // absent
	}
	switch v := value.(type) {
	case nil:
		return false
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	default:
		return !reflect.ValueOf(v).IsZero()
	}
}

// decode reads the object of that name into a section; an error names the key.
func (s object) decode(name string) (section, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return section{}, fmt.Errorf("%s: %w", name, err)
	}
	var sec section
	if err := json.Unmarshal(data, &sec); err != nil {
		return section{}, plainError(name, err)
	}
	for i, r := range sec.Routes {
		if r == nil || r.Dst.IP == nil {
			return section{}, fmt.Errorf("%s.routes[%d]: dst is missing; write one like 0.0.0.0/0", name, i)
		}
	}
	return sec, nil
}

// plainError says in words of JSON what is wrong with an object of that name.
func plainError(name string, err error) error {
	wrong := (*json.UnmarshalTypeError)(nil)
	if !errors.As(err, &wrong) || wrong.Field == "" {
		return fmt.Errorf("%s: %w", cmp.Or(name, "configuration"), err)
	}
	field := strings.ReplaceAll(wrong.Field, "rangeSection.", "")
	if name != "" {
		field = name + "." + field
	}
	return fmt.Errorf("%s: a %s stands where a %s belongs", field, wrong.Value, kindOf(wrong.Type))
}

// kindOf is the type in the words of JSON.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "boolean"
	default:
		return t.Kind().String()
	}
}

// fieldsOf are the keys of a section's type.
func fieldsOf(t reflect.Type) []string {
	var keys []string
	for f := range t.Fields() {
		if f.Anonymous {
			keys = append(keys, fieldsOf(f.Type)...)
			continue
		}
		keys = append(keys, strings.TrimSuffix(f.Tag.Get("json"), ",omitempty"))
	}
	return keys
}

// deadKeys steered the machinery of Whereabouts and steer nothing here; with
// the reason.
func deadKeys() map[string]string {
	const (
		leader  = "no leader is elected for an allocation"
		store   = "addresses are kept in meta-cni's own objects"
		logging = "it is logged where the node's daemon logs"
	)
	return map[string]string{
		"leader_lease_duration":      leader,
		"leader_renew_deadline":      leader,
		"leader_retry_period":        leader,
		"optimistic_ipam":            leader,
		"sleep_for_race":             "it was for tests of Whereabouts",
		"kubernetes":                 "the node's daemon has its own access to the cluster",
		"datastore":                  store,
		"etcd_host":                  store,
		"etcd_username":              store,
		"etcd_password":              store,
		"etcd_key_file":              store,
		"etcd_cert_file":             store,
		"etcd_ca_cert_file":          store,
		"log_file":                   logging,
		"log_level":                  logging,
		"reconciler_cron_expression": "addresses of sandboxes that are gone are released without a schedule",
		"configuration_path":         "the node's daemon is told where the flat file is",
		"singleIP":                   "a range of one address needs no key",
	}
}

// noteRangeKeys notes the keys that are for ranges of the configuration's own,
// if it has none.
func (c *Config) noteRangeKeys() {
	if len(c.ranges) > 0 {
		return
	}
	for _, key := range []string{
		"gateway", "exclude_gateway", "enable_l3", "include_network_address", "include_broadcast_address", "ipRangesAllocation",
		"enable_overlapping_ranges", "network_name", "node_slice_size", "mode", "grid",
	} {
		if slices.Contains(c.written, key) {
			c.note("ipam.%s has no effect: it is for ranges, and ipam has none", key)
		}
	}
}

// strange are the notes on keys that do nothing.
func (s object) strange() []string {
	dead, known := deadKeys(), fieldsOf(reflect.TypeFor[section]())
	var notes []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if reason, ok := dead[key]; ok && s.has(key) {
			notes = append(notes, fmt.Sprintf("ipam.%s has no effect: %s", key, reason))
		} else if !ok && !slices.Contains(known, key) {
			notes = append(notes, fmt.Sprintf("ipam.%s has no effect: the key is unknown", key))
		}
	}
	return append(notes, s.strangeInRanges()...)
}

func (s object) strangeInRanges() []string {
	var ranges []json.RawMessage
	if json.Unmarshal(s["ipRanges"], &ranges) != nil {
		return nil // absent, or decode will say so
	}
	known := fieldsOf(reflect.TypeFor[rangeSection]())
	var notes []string
	for i, data := range ranges {
		entry, err := readObject(data, known)
		if err != nil {
			return nil // decode will say so
		}
		for _, key := range slices.Sorted(maps.Keys(entry)) {
			if !slices.Contains(known, key) {
				notes = append(notes, fmt.Sprintf("ipam.ipRanges[%d].%s has no effect: the key is unknown", i, key))
			}
		}
	}
	return notes
}
