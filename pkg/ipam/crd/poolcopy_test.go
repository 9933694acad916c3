package crd

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
)

func aSnapshot() snapshot {
	return snapshot{
		Pools:      map[string]v1alpha1.IPPoolSpec{"a": {Ranges: []v1alpha1.PoolRange{{Range: "192.0.2.0/24"}}, Cooldown: "10s"}},
		Nodes:      map[string]labels.Set{"n1": {"rack": "a"}},
		Namespaces: map[string]labels.Set{"ns": {"team": "red"}},
	}
}

func TestCopyComesBack(t *testing.T) {
	dir := t.TempDir()
	c := openCopy(dir, slog.New(slog.DiscardHandler))
	if c.has() {
		t.Error("an empty folder has a copy")
	}
	sum, err := c.write(aSnapshot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	again := openCopy(dir, slog.New(slog.DiscardHandler))
	if diff := cmp.Diff(aSnapshot(), again.last()); diff != "" || !again.has() {
		t.Errorf("has %v (-written +read):\n%s", again.has(), diff)
	}
	// What says the same isn't written again.
	if err := os.Remove(filepath.Join(dir, copyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.write(aSnapshot(), sum); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, copyFile)); !os.IsNotExist(err) {
		t.Errorf("written again: %v", err)
	}
}

// TestDamagedCopyIsNone: every cut and every changed byte is noticed and told.
func TestDamagedCopyIsNone(t *testing.T) {
	whole, err := encodeSnapshot(aSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1
		for _, damaged := range [][]byte{whole[:i], changed} {
			if err := os.WriteFile(filepath.Join(dir, copyFile), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			if c := openCopy(dir, slog.New(slog.NewTextHandler(&log, nil))); c.has() || !strings.Contains(log.String(), "is ignored") {
				t.Fatalf("byte %d: has %v, log %q", i, c.has(), log.String())
			}
		}
	}
}

func TestCopyThatCantBeWrittenIsAnError(t *testing.T) {
	c := openCopy(filepath.Join(t.TempDir(), "missing"), slog.New(slog.DiscardHandler))
	if _, err := c.write(aSnapshot(), nil); err == nil {
		t.Error("no error")
	}
}
