package confgen

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFindByName(t *testing.T) {
	const (
		conf = `{"cniVersion": "1.0.0", "name": "blue", "type": "bridge"}`
		list = `{"cniVersion": "1.0.0", "name": "blue", "plugins": [{"type": "ptp"}]}`
	)
	cases := []struct {
		name  string
		first map[string]string
		next  map[string]string
		want  string // file, or part of the error
		fails bool
	}{
		{name: "list-before-plugin", first: map[string]string{"10-a.conf": conf, "20-b.conflist": list}, want: "first/20-b.conflist"},
		{name: "lexical", first: map[string]string{"20-a.json": conf, "10-b.conf": conf}, want: "first/10-b.conf"},
		{name: "folders-in-order", first: map[string]string{"90.conf": conf}, next: map[string]string{"10.conflist": list}, want: "first/90.conf"},
		{name: "next-folder", first: map[string]string{"90.conf": strings.ReplaceAll(conf, "blue", "red")}, next: map[string]string{"10.conflist": list}, want: "next/10.conflist"},
		{name: "broken-hides-nothing", first: map[string]string{"10-a.conf": `{"name": "blu`, "20-b.conf": conf}, want: "first/20-b.conf"},
		{name: "broken-is-named", first: map[string]string{"10-a.conf": `{"name": "blu`}, want: "10-a.conf: not a whole JSON object", fails: true},
		{name: "missing-folder", want: `no network of this name: "blue"`, fails: true},
		{name: "never-ourselves", first: map[string]string{"10-a.conf": `{"cniVersion": "1.1.0", "name": "blue", "type": "meta-cni"}`}, want: "calls meta-cni itself", fails: true},
		{name: "never-multus", first: map[string]string{"10-a.conf": `{"cniVersion": "1.1.0", "name": "blue", "type": "multus"}`}, want: "belongs to Multus", fails: true},
		{name: "not-a-prefix", first: map[string]string{"10-a.conf": strings.ReplaceAll(conf, "blue", "blue2")}, want: "no network of this name", fails: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for dir, files := range map[string]map[string]string{"first": c.first, "next": c.next} {
				for name, content := range files {
					put(t, filepath.Join(root, dir, name), content)
				}
			}
			config, path, err := FindByName([]string{filepath.Join(root, "first"), filepath.Join(root, "next")}, "blue")
			if c.fails {
				if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want %q", err, c.want)
				}
				return
			}
			if err != nil || path != filepath.Join(root, c.want) || !strings.Contains(string(config), `"blue"`) {
				t.Fatalf("found %s (%s), error %v; want %s", path, config, err, c.want)
			}
		})
	}
}

func TestReadPrimary(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadPrimary(dir, Pin{}); !errors.Is(err, ErrNoPrimary) {
		t.Errorf("empty folder: %v", err)
	}
	put(t, filepath.Join(dir, "10-a.conf"), confA)
	got, err := ReadPrimary(dir, Pin{})
	if err != nil || got.File != filepath.Join(dir, "10-a.conf") || string(got.Config) != confA {
		t.Errorf("got %v %v", got, err)
	}
	half := filepath.Join(dir, "05-b.conf")
	put(t, half, confB[:20])
	if got, err := ReadPrimary(dir, Pin{}); err == nil || !strings.Contains(err.Error(), "may be half written") {
		t.Errorf("with a half-written file that sorts before: %v %v", got, err)
	}
	old := time.Now().Add(-time.Minute)
	if err := chtimes(half, old); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPrimary(dir, Pin{}); err != nil || filepath.Base(got.File) != "10-a.conf" {
		t.Errorf("with a broken file that nobody writes any more: %v %v", got, err)
	}
}
