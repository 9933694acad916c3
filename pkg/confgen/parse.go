package confgen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	extList   = ".conflist"
	extConf   = ".conf"
	extJSON   = ".json"
	maxPlugin = 128
)

// network is a whole and valid configuration.
type network struct {
	name         string
	types        []string
	capabilities map[string]bool
	config       []byte
}

// object is a JSON object with its keys as written: libcni reads lists case
// sensitively, which encoding/json does not do for structs.
type object map[string]json.RawMessage

// isCandidate tells whether runtimes would load a file of this name.
func isCandidate(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case extList, extConf, extJSON:
		return true
	default:
		return false
	}
}

// parse reads a file by the rule of runtimes: a .conflist is a list, .conf and
// .json hold a single plugin.
func parse(f File) (network, error) {
	if f.Err != nil {
		return network{}, f.Err
	}
	obj, err := decodeObject(f.Data)
	if err != nil {
		return network{}, err
	}
	if err := checkVersion(obj); err != nil {
		return network{}, err
	}
	name, err := obj.name()
	if err != nil {
		return network{}, err
	}
	n := network{name: name, capabilities: map[string]bool{}, config: f.Data}
	if filepath.Ext(f.Name) != extList {
		err = n.addSingle(obj)
	} else {
		err = n.addList(obj, f.Chained)
	}
	if err != nil {
		return network{}, err
	}
	if err := n.checkLoaded(f.Name); err != nil {
		return network{}, err
	}
	return n, nil
}

// checkLoaded asks libcni, by which it will be run; it must come to the same
// name and types.
func (n *network) checkLoaded(file string) error {
	var name string
	var plugins []*libcni.PluginConfig
	if filepath.Ext(file) == extList {
		list, err := libcni.NetworkConfFromBytes(n.config)
		if err != nil {
			return fmt.Errorf("libcni doesn't load it: %w", err)
		}
		name, plugins = list.Name, list.Plugins
	} else {
		plugin, err := libcni.NetworkPluginConfFromBytes(n.config)
		if err != nil {
			return fmt.Errorf("libcni doesn't load it: %w", err)
		}
		name, plugins = plugin.Network.Name, []*libcni.PluginConfig{plugin}
	}
	same := slices.EqualFunc(n.types, plugins, func(kind string, p *libcni.PluginConfig) bool { return kind == p.Network.Type })
	if name != n.name || !same {
		return fmt.Errorf("libcni reads name %q from it, not %q, or other types", name, n.name)
	}
	return nil
}

func decodeObject(data []byte) (object, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("the file is empty")
	}
	var obj object
	if err := json.Unmarshal(data, &obj); err != nil {
		return nil, fmt.Errorf("not a whole JSON object: %w", err)
	}
	if obj == nil {
		return nil, fmt.Errorf("not a JSON object")
	}
	return obj, obj.checkCase()
}

// checkCase refuses a second spelling of the keys that decide what runs: some
// readers, libcni among them, take "Type" for "type".
func (o object) checkCase() error {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		for _, known := range []string{"name", "type", "cniVersion", "cniVersions", "plugins", "capabilities", "loadOnlyInlinedPlugins"} {
			if key != known && strings.EqualFold(key, known) {
				return fmt.Errorf("key %q must be written %q", key, known)
			}
		}
	}
	return nil
}

func (o object) text(key string) (string, error) {
	raw, ok := o[key]
	if !ok {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%q must be a string, not %.40s", key, raw)
	}
	return s, nil
}

func (o object) name() (string, error) {
	name, err := o.text("name")
	if err != nil {
		return "", err
	}
	if err := utils.ValidateNetworkName(name); err != nil {
		return "", fmt.Errorf("\"name\": %s %s", err.Msg, err.Details)
	}
	return name, nil
}

// checkVersion accepts a configuration with at least one version that libcni
// knows; without any it is 0.1.0, as libcni has it.
func checkVersion(o object) error {
	one, err := o.text("cniVersion")
	if err != nil {
		return err
	}
	var all []string
	if raw, ok := o["cniVersions"]; ok {
		if err := json.Unmarshal(raw, &all); err != nil {
			return fmt.Errorf("\"cniVersions\" must be a list of strings, not %.40s", raw)
		}
	}
	if one != "" {
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil
	}
	known := version.All.SupportedVersions()
	for _, v := range all {
		if slices.Contains(known, v) {
			return nil
		}
	}
	return fmt.Errorf("cniVersion %s is unknown: use one of %s", strings.Join(all, ", "), strings.Join(known, ", "))
}

func (n *network) addSingle(obj object) error {
	if _, ok := obj["type"]; !ok && obj["plugins"] != nil {
		return fmt.Errorf("holds a list of plugins: runtimes read it only from a file that ends in %s", extList)
	}
	return n.addPlugin(obj)
}

func (n *network) addList(obj object, chained []File) error {
	onlyInlined, err := obj.flag("loadOnlyInlinedPlugins")
	if err != nil {
		return err
	}
	for _, key := range []string{"disableCheck", "disableGC"} {
		if _, err := obj.flag(key); err != nil {
			return err
		}
	}
	plugins, err := obj.plugins()
	if err != nil {
		return err
	}
	if !onlyInlined && len(chained) > 0 {
		for _, f := range chained {
			if f.Err != nil {
				return fmt.Errorf("%s: %w", f.Name, f.Err)
			}
			if _, err := decodeObject(f.Data); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			plugins = append(plugins, f.Data)
		}
		if n.config, err = inline(obj, plugins); err != nil {
			return err
		}
	}
	if len(plugins) == 0 {
		return fmt.Errorf("\"plugins\" is missing")
	}
	return n.addPlugins(plugins)
}

// plugins are those in the list itself; the key may be missing when the
// sub-folder has some.
func (o object) plugins() ([]json.RawMessage, error) {
	raw, ok := o["plugins"]
	if !ok {
		return nil, nil
	}
	var plugins []json.RawMessage
	if err := json.Unmarshal(raw, &plugins); err != nil {
		return nil, fmt.Errorf("\"plugins\" must be a list, not %.40s", raw)
	}
	if len(plugins) == 0 {
		return nil, fmt.Errorf("\"plugins\" is empty")
	}
	return plugins, nil
}

func (n *network) addPlugins(plugins []json.RawMessage) error {
	for i, raw := range plugins {
		plugin, err := decodeObject(raw)
		if err != nil {
			return fmt.Errorf("plugin %d: %w", i+1, err)
		}
		if err := n.addPlugin(plugin); err != nil {
			return fmt.Errorf("plugin %d: %w", i+1, err)
		}
	}
	return nil
}

func (n *network) addPlugin(plugin object) error {
	kind, err := plugin.text("type")
	if err != nil {
		return err
	}
	if kind == "" {
		return fmt.Errorf("\"type\" is missing")
	}
	if err := utils.ValidateNetworkName(kind); err != nil || len(kind) > maxPlugin {
		return fmt.Errorf("\"type\": %.140q is not a plugin's name", kind)
	}
	n.types = append(n.types, kind)
	raw, ok := plugin["capabilities"]
	if !ok {
		return nil
	}
	var declared map[string]bool
	if err := json.Unmarshal(raw, &declared); err != nil {
		return fmt.Errorf("\"capabilities\" must map names to true or false, not %.40s", raw)
	}
	for name, on := range declared {
		if on {
			n.capabilities[name] = true
		}
	}
	return nil
}

// flag reads a boolean as libcni does, which also takes the strings "true"
// and "false".
func (o object) flag(key string) (bool, error) {
	raw, ok := o[key]
	if !ok {
		return false, nil
	}
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("%q must be true or false, not %.40s", key, raw)
	}
}

// inline puts the plugins of the sub-folder into the list itself, so that the
// bytes alone say what runs; every other key and number stays as written.
func inline(obj object, plugins []json.RawMessage) ([]byte, error) {
	whole := make(map[string]any, len(obj)+1)
	for key, raw := range obj {
		whole[key] = raw
	}
	whole["plugins"] = plugins
	whole["loadOnlyInlinedPlugins"] = true
	return encode(whole)
}

// encode prints JSON with sorted keys, two spaces and a newline at the end.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("not a whole JSON object: %w", err)
	}
	return buf.Bytes(), nil
}
