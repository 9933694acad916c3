package ipamdelegate

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	m.Run()
}

// Each testdata/*.txtar holds conf, perhaps args and flat, and what ADD prints
// as want/result, in the version of conf, or want/error. The declared pools
// are those of pools.json.
func TestResults(t *testing.T) {
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
			got := golden(t, archive)
			isWanted := func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") }
			if flag.Lookup("update").Value.String() == "true" {
				archive.Files = append(slices.DeleteFunc(archive.Files, isWanted), got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			i := slices.IndexFunc(archive.Files, isWanted)
			if i < 0 {
				t.Fatalf("nothing is wanted; got %s:\n%s", got.Name, got.Data)
			}
			if diff := cmp.Diff(archive.Files[i], got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func golden(t *testing.T, archive *txtar.Archive) txtar.File {
	t.Helper()
	b := newBench(t)
	data, err := os.ReadFile("testdata/pools.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &b.pools.all); err != nil {
		t.Fatal(err)
	}
	c := call("")
	for _, f := range archive.Files {
		switch f.Name {
		case "conf":
			c.Conf = f.Data
		case "args":
			c.Args = strings.TrimSpace(string(f.Data))
		case "flat":
			b.opts.Flat = func() ([]byte, error) { return f.Data, nil }
		}
	}
	result, err := b.Add(t.Context(), c)
	if known := (*types.Error)(nil); errors.As(err, &known) {
		return txtar.File{Name: "want/error", Data: fmt.Appendf(nil, "%d %s\n", known.Code, known.Msg)}
	}
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := result.PrintTo(&out); err != nil {
		t.Fatal(err)
	}
	return txtar.File{Name: "want/result", Data: []byte(out.String() + "\n")}
}
