package confgen

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// Each testdata/*.txtar holds a configuration folder under net.d/, perhaps
// settings.json ({"pin":…,"settings":…}), and what is expected: 00-meta.conf
// and the primary's bytes, or the error.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := runGolden(t, archive)
			if update() {
				writeGolden(t, path, archive, got)
				return
			}
			if diff := cmp.Diff(golden(archive), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func isWanted(name string) bool { return strings.HasPrefix(name, "want/") }

func golden(archive *txtar.Archive) map[string]string {
	want := map[string]string{}
	for _, f := range archive.Files {
		if isWanted(f.Name) {
			want[f.Name] = string(f.Data)
		}
	}
	return want
}

func runGolden(t *testing.T, archive *txtar.Archive) map[string]string {
	t.Helper()
	dir := t.TempDir()
	var in struct {
		Pin      Pin
		Settings Settings
	}
	for _, f := range archive.Files {
		if f.Name == "settings.json" {
			if err := json.Unmarshal(f.Data, &in); err != nil {
				t.Fatal(err)
			}
		}
		if name, ok := strings.CutPrefix(f.Name, "net.d/"); ok {
			put(t, filepath.Join(dir, name), string(f.Data))
		}
	}
	files, err := readDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Choose(files, in.Pin)
	if err != nil {
		return map[string]string{"want/error": err.Error() + "\n"}
	}
	slices.Reverse(files)
	if again, err := Choose(files, in.Pin); err != nil || cmp.Diff(c, again) != "" {
		t.Errorf("the order of files matters: %v %s", err, cmp.Diff(c, again))
	}
	conf, err := Generate(c, in.Settings)
	if err != nil {
		return map[string]string{"want/error": err.Error() + "\n"}
	}
	got := map[string]string{"want/" + ConfName: string(conf), "want/primary": c.Network + " " + c.File + "\n"}
	if len(c.Passed) > 0 {
		got["want/passed"] = strings.ReplaceAll(joinPassed(c.Passed), "; ", "\n") + "\n"
	}
	if src, _ := os.ReadFile(filepath.Join(dir, c.File)); string(src) != string(c.Config) {
		got["want/config"] = string(c.Config)
	}
	return got
}

func writeGolden(t *testing.T, path string, archive *txtar.Archive, got map[string]string) {
	t.Helper()
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return isWanted(f.Name) })
	names := make([]string, 0, len(got))
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if err := os.WriteFile(path, txtar.Format(archive), 0o600); err != nil {
		t.Fatal(err)
	}
}

// put writes a file in place, as a careless installer does.
func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
