package confgen

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

// FuzzChoose: what is accepted is what libcni loads under the same name, its
// inlined form means the same, and our file made from it is whole.
func FuzzChoose(f *testing.F) {
	f.Add("10-a.conf", []byte(confA), []byte(``))
	f.Add("10-a.conflist", []byte(`{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "ptp", "x": 1.0e3}]}`), []byte(`{"type": "sbr"}`))
	f.Add("10-a.json", []byte(`{"name": "k", "type": "x", "capabilities": {"a<b": true}}`), []byte(`{`))
	f.Add("10-a.conflist", []byte(`{"cniVersions": ["9.9.9", "0.4.0"], "name": "k", "loadOnlyInlinedPlugins": "TRUE", "plugins": [{"type": "ptp"}]}`), []byte(`null`))
	f.Add("10-a.json", []byte(`{"name": "k", "type": "x", "Type": "meta-cni"}`), []byte(``))
	f.Add("10-a.conf", []byte(`{"name": "k", "NAME": "l", "type": "x"}`), []byte(``))
	f.Fuzz(func(t *testing.T, name string, data, chained []byte) {
		file := File{Name: name, Data: data}
		if filepath.Ext(name) == extList && len(chained) > 0 {
			file.Chained = []File{{Name: "k/10.conf", Data: chained}}
		}
		c, err := Choose([]File{file}, Pin{})
		if err != nil {
			return
		}
		loaded := loadByLibcni(t, name, c)
		if loaded.Name != c.Network || len(loaded.Plugins) == 0 {
			t.Errorf("libcni loads %q with %d plugins, we %q", loaded.Name, len(loaded.Plugins), c.Network)
		}
		for _, p := range loaded.Plugins {
			if meta([]string{p.Network.Type}) != "" {
				t.Errorf("a meta plugin is below us: %s", c.Config)
			}
		}
		again, err := Choose([]File{{Name: name, Data: c.Config}}, Pin{})
		if err != nil || cmp.Diff(c, again) != "" {
			t.Errorf("the chosen configuration read again: %v %s", err, cmp.Diff(c, again))
		}
		conf, err := Generate(c, Settings{})
		if err != nil {
			t.Fatal(err)
		}
		var ours struct{ Capabilities map[string]bool }
		if err := json.Unmarshal(conf, &ours); err != nil || !isOurs(conf) || !bytes.HasSuffix(conf, []byte("}\n")) {
			t.Errorf("not whole: %s", conf)
		}
		for _, capability := range c.Capabilities {
			if !ours.Capabilities[capability] {
				t.Errorf("capability %q is missing in %s", capability, conf)
			}
		}
	})
}

func loadByLibcni(t *testing.T, name string, c Choice) *libcni.NetworkConfigList {
	t.Helper()
	if filepath.Ext(name) == extList {
		list, err := libcni.NetworkConfFromBytes(c.Config)
		if err != nil {
			t.Fatalf("libcni refuses %q: %v", c.Config, err)
		}
		return list
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(c.Config)
	if err != nil {
		t.Fatalf("libcni refuses %q: %v", c.Config, err)
	}
	return &libcni.NetworkConfigList{Name: plugin.Network.Name, Plugins: []*libcni.PluginConfig{plugin}}
}
