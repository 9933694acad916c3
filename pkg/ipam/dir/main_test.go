package dir

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir)
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	ipamtest.Store(t, ipamtest.Opener{Fresh: func(t *testing.T) func(*testing.T) ipam.Store {
		dir := t.TempDir()
		return func(t *testing.T) ipam.Store { return open(t, dir) }
	}})
}

// TestNodeNames: whatever a node is called, what is asked of it is its own.
func TestNodeNames(t *testing.T) {
	s := open(t, t.TempDir())
	nodes := []string{"n1", "N1", "..", ".", "a/b", "a", "../spaces", "=", strings.Repeat("n", 253), strings.Repeat("n", 252) + "m", strings.Repeat("n", 300), "ä", "a b"}
	for n, node := range nodes {
		must(t, s.Ask(t.Context(), node, blockRef(n)))
	}
	for n, node := range nodes {
		got, err := s.Asked(t.Context(), node)
		if err != nil || len(got) != 1 || got[0] != blockRef(n) {
			t.Errorf("%q: %v %v", node, got, err)
		}
	}
	for folder, want := range map[string]int{".": 6, askFolder: len(nodes)} {
		entries, err := os.ReadDir(filepath.Join(s.dir, folder))
		if err != nil || len(entries) != want {
			t.Errorf("%s has %v, want %d folders (%v)", folder, entries, want, err)
		}
	}
	if err := s.Ask(t.Context(), "", blockRef(1)); err == nil {
		t.Error("a node without a name was asked")
	}
}

// TestFiles are what a person reads, and what another version of this package
// must read.
func TestFiles(t *testing.T) {
	s := open(t, t.TempDir())
	b, err := s.CreateBlock(t.Context(), ipam.Block{Ref: blockRef(1), Mode: ipam.Leased, Owner: ipam.Node{Name: "n1", Boot: "b", Log: "l"}})
	must(t, err)
	owner := ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "n"}, PodNamespace: "default", PodName: "web"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	_, err = s.Mirror(t.Context(), ipam.Usage{Ref: b.Ref, Version: b.Version, Bitmap: []byte{2}, At: at, Owners: []ipam.AddressOwner{{Addr: b.Ref.Prefix.Addr().Next(), Owner: owner, Since: at}}})
	must(t, err)
	b, err = s.GetBlock(t.Context(), b.Ref)
	must(t, err)
	_, err = s.UpdateBlock(t.Context(), b) // the usage stays
	must(t, err)
	_, err = s.CreateClaim(t.Context(), ipam.Claim{Ref: claimRef(1), State: ipam.Bound, Node: ipam.Node{Name: "n1", Boot: "b", Log: "l"}, Owner: owner, Pool: "default/a", Since: at})
	must(t, err)
	_, err = s.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto})
	must(t, err)
	for path, want := range map[string]string{
		"blocks/default/10.1.0.64-26.json": `{
  "format": 1,
  "name": "default.10.1.0.64-26",
  "uid": "UID",
  "version": 3,
  "mode": "Leased",
  "owner": {
    "name": "n1",
    "boot": "b",
    "log": "l"
  },
  "usage": {
    "bitmap": "Ag==",
    "owners": [
      {
        "address": "10.1.0.65",
        "owner": {
          "containerID": "c",
          "ifName": "net1",
          "network": "n",
          "podNamespace": "default",
          "podName": "web"
        },
        "since": "2026-01-02T03:04:05Z"
      }
    ],
    "at": "2026-01-02T03:04:05Z"
  }
}
`,
		"claims/default/10.0.0.1.json": `{
  "format": 1,
  "name": "default.10.0.0.1",
  "uid": "UID",
  "version": 1,
  "state": "Bound",
  "node": {
    "name": "n1",
    "boot": "b",
    "log": "l"
  },
  "owner": {
    "containerID": "c",
    "ifName": "net1",
    "network": "n",
    "podNamespace": "default",
    "podName": "web"
  },
  "pool": "default/a",
  "since": "2026-01-02T03:04:05Z"
}
`,
		"spaces/default.json": `{
  "format": 1,
  "name": "default",
  "uid": "UID",
  "version": 1,
  "space": {
    "name": "default",
    "grid": {
      "V4": 26,
      "V6": 122
    },
    "mode": "auto"
  }
}
`,
	} {
		data, err := os.ReadFile(filepath.Join(s.dir, path))
		must(t, err)
		got := regexp.MustCompile(`"uid": "[0-9a-f]{32}"`).ReplaceAllString(string(data), `"uid": "UID"`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}
