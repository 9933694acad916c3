package ipam

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// hostFolder is the address folder of host-a, whose boot is boot-now, with the
// folder of its pools.
func hostFolder(t *testing.T) (addresses, pools string) {
	t.Helper()
	addresses, pools = filepath.Join(t.TempDir(), "addresses"), t.TempDir()
	pool := `{apiVersion: meta-cni.io/v1alpha1, kind: IPPool, metadata: {name: lan}, spec: {ranges: [{range: 10.0.0.0/24}]}}`
	if err := os.WriteFile(filepath.Join(pools, "lan.yaml"), []byte(pool), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := dir.Open(t.Context(), addresses)
	if err != nil {
		t.Fatal(err)
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(store.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid(), Mode: ipam.Auto}))
	now, before := ipam.Node{Name: "host-a", Boot: "boot-now", Log: "log"}, ipam.Node{Name: "host-a", Boot: "boot-before", Log: "log"}
	leased := ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("10.0.0.64/26")}
	b, err := store.CreateBlock(t.Context(), ipam.Block{Ref: leased, Mode: ipam.Leased, Owner: now})
	must(b, err)
	owner := ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "eth0", Network: "lan"}}
	must(store.Mirror(t.Context(), ipam.Usage{
		Ref: leased, Bitmap: []byte{2}, At: time.Date(2026, 3, 1, 11, 59, 0, 0, time.UTC), Version: b.Version,
		Owners: []ipam.AddressOwner{{Addr: netip.MustParseAddr("10.0.0.65"), Owner: owner}},
	}))
	must(store.CreateBlock(t.Context(), ipam.Block{Ref: ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("10.0.0.0/26")}, Mode: ipam.Shared}))
	for addr, node := range map[string]ipam.Node{"10.0.0.1": now, "10.0.0.2": before, "10.0.0.3": {Name: "host-b", Boot: "boot-b", Log: "l"}} {
		must(store.CreateClaim(t.Context(), ipam.Claim{
			Ref: ipam.ClaimRef{Space: "default", Addr: netip.MustParseAddr(addr)}, State: ipam.Bound, Node: node, Owner: owner,
			Since: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
		}))
	}
	return addresses, pools
}

func TestFolder(t *testing.T) {
	addresses, pools := hostFolder(t)
	at := " --dir " + addresses + " --pools " + pools
	for _, c := range []struct{ line, want string }{
		{"show", `POOLS
NAME  SPACE    RANGES       USABLE  USED  COOLING  KEPT  FREE  DEFINITION
lan   default  10.0.0.0/24  254     4     0        0     250   -

ADDRESS SPACES
NAME     MODE  GRID      COOLDOWN  LEASED  SHARED  BOUND  COOLING  KEPT  NOTE
default  auto  /26,/122  1m0s      1       1       3      0        0     -

BLOCKS
NODE    SPACE    BLOCK         MODE    USED  COOLING  KEPT  TOLD     NOTE
-       default  10.0.0.0/26   Shared  3/64  0        0     -        -
host-a  default  10.0.0.64/26  Leased  1/64  0        0     60s ago  -

exit code 0
`},
		{"show 10.0.0.65", `10.0.0.65 in space default: pod - has it, eth0 of network lan, on node host-a as that told at 11:59:00Z
  since      unknown
  pod        -
  interface  eth0 of network lan
  container  c
  block      default.10.0.0.64-26, Leased by node host-a (boot boot-now), 1 of 64 used, told 2026-03-01 11:59:00Z (60s ago)
  pool       lan
exit code 0
`},
		{"check", `SUSPICIOUS IPClaim default.10.0.0.2: it belongs to an earlier life of node host-a (rebooted)
  why: it was made in boot boot-before, and this host is in boot boot-now
  do:  its agent releases it within minutes of its start; if it stays, see the log of meta-cnid there, or metactl ipam release 10.0.0.2 --space default
1 findings; looked at 1 spaces, 1 pools, 2 blocks, 3 claims, 0 nodes, 0 pods
exit code 1
`},
		{"release 10.0.0.1", `metactl: claim default.10.0.0.1 is not released: host host-a was not booted since, so its sandbox (container c) may live: remove the container. If you know that its sandbox is gone, add --force (see --help for what that may break)
exit code 1
`},
		{"release 10.0.0.3", `metactl: claim default.10.0.0.3 is not released: it belongs to host "host-b", and only there one can see whether that was booted since: run this on it. If you know that its sandbox is gone, add --force (see --help for what that may break)
exit code 1
`},
		{"release 10.0.0.2", `10.0.0.2: claim default.10.0.0.2 (Bound, pod -, eth0 of network lan, container c, on node host-a, UID <uid>) is deleted; the address is free
  because host host-a was booted since: it was given in boot boot-before, now it is boot-now
exit code 0
`},
		{"show 10.0.0.2", `10.0.0.2 in space default: free
  block  default.10.0.0.0-26, Shared
  pool   lan
exit code 0
`},
		{"check", `0 findings; looked at 1 spaces, 1 pools, 2 blocks, 2 claims, 0 nodes, 0 pods
exit code 0
`},
		{"import-whereabouts", "metactl: Whereabouts' objects are in a cluster: leave --dir out\nexit code 1\n"},
	} {
		if diff := cmp.Diff(c.want, withoutUID(metactl(t, "", c.line+at))); diff != "" {
			t.Errorf("metactl ipam %s (-want +got):\n%s", c.line, diff)
		}
	}
}

// withoutUID takes the random part out of a text.
func withoutUID(text string) string {
	before, rest, ok := strings.Cut(text, "UID ")
	if !ok {
		return text
	}
	_, after, _ := strings.Cut(rest, ")")
	return before + "UID <uid>)" + after
}

// TestDamagedFile: one file that can't be read is told of, and is no address
// that nobody has.
func TestDamagedFile(t *testing.T) {
	addresses, pools := hostFolder(t)
	if err := os.WriteFile(filepath.Join(addresses, "claims", "default", "10.0.0.1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := " --dir " + addresses + " --pools " + pools
	for line, want := range map[string]string{
		"check":            "(unreadable)",
		"show":             "can't be read:",
		"show 10.0.0.1":    "damaged",
		"release 10.0.0.1": "damaged",
	} {
		if got := metactl(t, "", line+at); !strings.Contains(got, want) {
			t.Errorf("metactl ipam %s: want %q in\n%s", line, want, got)
		}
	}
}
