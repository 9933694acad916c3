//go:build e2e

package e2e

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/e2e/product"
	"github.com/meta-cni/meta-cni/e2e/scenario"
	"github.com/meta-cni/meta-cni/e2e/world"
)

// TestCluster starts one world and tests everything on it: first the bed
// itself with a plain bridge as its CNI, then the product installed over it.
func TestCluster(t *testing.T) {
	w := startWorld(t)
	t.Run("smoke", func(t *testing.T) { smoke(t, w) })
	t.Run("bed", func(t *testing.T) {
		scenario.Suite{World: w, Files: stories(t, "bed-")}.Run(t)
	})
	t.Run("product", func(t *testing.T) {
		if err := product.Install(t.Context(), w, ".."); err != nil {
			t.Fatal(err)
		}
		scenario.Suite{World: w, Files: stories(t, ""), Daemon: product.Daemon()}.Run(t)
	})
}

func startWorld(t *testing.T) *world.World {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// Building the binaries on a fresh machine takes minutes.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	w, err := world.Start(ctx, world.Options{
		Primary: world.BridgePrimary,
		LogDir:  os.Getenv("META_CNI_E2E_LOGS"),
		Log:     log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := scenario.InstallTestPlugins(w); err != nil {
		t.Fatal(err)
	}
	return w
}

// stories returns the files whose names begin with the area; with none given,
// all but those of the bed.
func stories(t *testing.T, area string) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/" + area + "*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if area != "" {
		return all
	}
	var files []string
	for _, file := range all {
		if !strings.HasPrefix(filepath.Base(file), "bed-") {
			files = append(files, file)
		}
	}
	return files
}
