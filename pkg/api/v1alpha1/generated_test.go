package v1alpha1

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write generated.sum anew; `make generate` does it after the generator has run")

// TestGenerated: neither the types nor what was generated of them has changed
// since `make generate`. It needs no generator: generated.sum has the sums of
// both. `make lint` runs the generator and compares.
func TestGenerated(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.go", "../../../deployments/crds/*.yaml", "../../../e2e/tools/codegen/go.mod"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		files = append(files, found...)
	}
	var sums strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(text), file)
	}
	if *update {
		if err := os.WriteFile("generated.sum", []byte(sums.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("generated.sum")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), sums.String()); diff != "" {
		t.Errorf("run `make generate` (-last generated +now):\n%s", diff)
	}
}
