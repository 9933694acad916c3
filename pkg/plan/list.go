package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

// missingVersion is the cniVersion of a configuration that names none: every
// maintained plugin knows 0.4.0, and it is the first with CHECK and with
// prevResult on DEL. The specification demands the key; Multus' users often
// leave it out.
const missingVersion = "0.4.0"

// maxDepth bounds the nesting of a configuration; real ones stay below ten.
const maxDepth = 64

// list is a configuration list whose unknown keys and number formats are kept
// as written.
type list struct {
	raw     []byte
	name    string
	top     map[string]json.RawMessage
	plugins []map[string]json.RawMessage
	changed bool
}

// parseList reads a configuration or a configuration list; fallback is its
// name when it has none.
func parseList(data []byte, fallback string) (*list, error) {
	if err := checkDepth(data); err != nil {
		return nil, err
	}
	l := &list{raw: data}
	if err := json.Unmarshal(data, &l.top); err != nil {
		return nil, fmt.Errorf("configuration is not a JSON object: %w", plain(err))
	}
	if l.top == nil {
		return nil, fmt.Errorf("configuration is null: a CNI configuration is a JSON object with `type` or `plugins`")
	}
	if _, ok := l.top["plugins"]; !ok {
		l.wrap()
	} else if err := json.Unmarshal(l.top["plugins"], &l.plugins); err != nil {
		return nil, fmt.Errorf("plugins: %w", plain(err))
	}
	if err := l.complete(fallback); err != nil {
		return nil, err
	}
	return l, l.validate()
}

// checkDepth refuses deep nesting before a recursive decoder sees it. What else
// may be wrong with the data is for that decoder to say.
func checkDepth(data []byte) error {
	depth, d := 0, json.NewDecoder(bytes.NewReader(data))
	for token, err := d.Token(); err == nil; token, err = d.Token() {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return fmt.Errorf("configuration is nested deeper than %d levels: flatten it", maxDepth)
		}
	}
	return nil
}

// wrap makes a list of a single configuration (specification 1.1.0, section
// 1: a network configuration is always a list).
func (l *list) wrap() {
	l.plugins = []map[string]json.RawMessage{l.top}
	top := map[string]json.RawMessage{}
	for _, key := range []string{"name", "cniVersion", "cniVersions", "disableCheck", "disableGC"} {
		if value, ok := l.top[key]; ok {
			top[key] = value
		}
	}
	l.top, l.changed = top, true
}

func (l *list) complete(fallback string) error {
	version, err := l.text("cniVersion")
	if err != nil {
		return err
	}
	if _, ok := l.top["cniVersions"]; !ok && version == "" {
		if err := l.set("cniVersion", missingVersion); err != nil {
			return err
		}
	}
	// libcni reads the version only on CHECK and DEL, which would fail for ever.
	if _, _, _, err := cniversion.ParseVersion(version); version != "" && err != nil {
		return fmt.Errorf("cniVersion: %q is not of the form 1.0.0", version)
	}
	if l.name, err = l.text("name"); err != nil || l.name != "" {
		return err
	}
	if fallback == "" {
		return fmt.Errorf("name: the configuration has none")
	}
	l.name = fallback
	return l.set("name", fallback)
}

// text is the string under a key of the list, empty when it is missing.
func (l *list) text(key string) (string, error) {
	raw, ok := l.top[key]
	if !ok {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%s: %w", key, plain(err))
	}
	return s, nil
}

func (l *list) set(key, value string) error {
	raw, err := json.Marshal(value)
	l.top[key], l.changed = raw, true
	return err
}

func (l *list) validate() error {
	if err := utils.ValidateNetworkName(l.name); err != nil {
		return fmt.Errorf("name: %q: %s", l.name, err.Msg+" "+err.Details)
	}
	if len(l.plugins) == 0 {
		return fmt.Errorf("plugins: the list is empty")
	}
	for i, p := range l.plugins {
		if err := validatePlugin(p); err != nil {
			return fmt.Errorf("plugins[%d]: %w", i, err)
		}
	}
	conf, err := l.bytes()
	if err != nil {
		return err
	}
	_, err = libcni.NetworkConfFromBytes(conf)
	return err
}

func validatePlugin(p map[string]json.RawMessage) error {
	var plugin struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	whole, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(whole, &plugin); err != nil {
		return plain(err)
	}
	if err := validateType("type", plugin.Type); err != nil {
		return err
	}
	if plugin.IPAM.Type == "" {
		return nil
	}
	return validateType("ipam.type", plugin.IPAM.Type)
}

// validateType accepts a plugin's file name and nothing that could lead
// anywhere else (CVE-2021-20206), and refuses meta plugins, which would call
// themselves without end.
func validateType(key, name string) error {
	switch name {
	case "":
		return fmt.Errorf("%s: missing: it names the plugin's binary", key)
	case "meta-cni", "multus", "multus-shim":
		return fmt.Errorf("%s: %q is a meta plugin and can't be called by another: name the network that it would call", key, name)
	case ".", "..":
		return fmt.Errorf("%s: %q is not a plugin's name", key, name)
	}
	if len(name) > 255 {
		return fmt.Errorf("%s: a plugin's name has at most 255 characters", key)
	}
	for _, c := range name {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("%s: %q has the character %q: a plugin's name has letters, digits, - _ and . only", key, name, c)
		}
	}
	return nil
}

// mergeArgs sets args.cni of every plugin; the selection wins for each key.
func (l *list) mergeArgs(cniArgs map[string]any) error {
	for _, p := range l.plugins {
		var args map[string]json.RawMessage
		if err := unmarshalObject(p["args"], &args); err != nil {
			return fmt.Errorf("args: %w", plain(err))
		}
		var cni map[string]any
		if err := unmarshalObject(args["cni"], &cni); err != nil {
			return fmt.Errorf("args.cni: %w", plain(err))
		}
		maps.Copy(cni, cniArgs)
		merged, err := json.Marshal(cni)
		if err != nil {
			return err
		}
		args["cni"] = merged
		if p["args"], err = json.Marshal(args); err != nil {
			return err
		}
	}
	l.changed = true
	return nil
}

// unmarshalObject decodes an object that may be missing, keeping numbers as
// written.
func unmarshalObject[V any](raw json.RawMessage, into *map[string]V) error {
	*into = map[string]V{}
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

// declared keeps the capability arguments that some plugin of the list
// declares; libcni does the same for each plugin.
func (l *list) declared(args map[string]json.RawMessage) map[string]json.RawMessage {
	kept := map[string]json.RawMessage{}
	for _, p := range l.plugins {
		var capabilities map[string]bool
		if json.Unmarshal(p["capabilities"], &capabilities) != nil {
			continue
		}
		for name, on := range capabilities {
			if value, ok := args[name]; ok && on {
				kept[name] = value
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

func (l *list) bytes() ([]byte, error) {
	if !l.changed {
		return l.raw, nil
	}
	plugins, err := json.Marshal(l.plugins)
	if err != nil {
		return nil, err
	}
	top := maps.Clone(l.top)
	top["plugins"] = plugins
	return json.Marshal(top)
}

// plain says in words what a type error of encoding/json says in terms of Go.
func plain(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	want := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Bool: "true or false", reflect.Slice: "a list",
		reflect.Map: "an object", reflect.Struct: "an object",
	}[wrong.Type.Kind()]
	key := strings.TrimPrefix(wrong.Field, ".")
	if key != "" {
		key += ": "
	}
	return fmt.Errorf("%sis of type %s, must be %s", key, wrong.Value, want)
}
