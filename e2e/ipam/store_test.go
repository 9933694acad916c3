//go:build e2e

package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// open is a store with the rights of a daemon.
func open(t *testing.T) *crd.Store {
	t.Helper()
	config := server.As(apiserver.Daemon)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	store, err := crd.New(config, client, crd.Options{Node: "n1", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// space is one of the test's own.
func space(t *testing.T, store *crd.Store, suffix string) ipam.Space {
	t.Helper()
	name := ipam.SpaceName(strings.ToLower(t.Name())+suffix, netip.Prefix{})
	as, err := store.Space(t.Context(), ipam.Space{Name: name, Grid: iprange.DefaultGrid(), Mode: ipam.Auto})
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func node(name string) ipam.Node {
	return ipam.Node{Name: name, UID: "uid-" + name, Boot: "boot-" + name, Log: "log-" + name}
}

func claim(space, addr string) ipam.Claim {
	return ipam.Claim{
		Ref: ipam.ClaimRef{Space: space, Addr: netip.MustParseAddr(addr)}, State: ipam.Bound, Node: node("n1"),
		Owner: ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "lan"}, PodNamespace: "ns", PodName: "p", PodUID: "u"},
		Keep:  ipam.Keeper{Kind: ipam.KeepPod, Namespace: "ns", Name: "p", Network: "lan", IfName: "net1"},
		Pool:  "pool", Suspect: true, Since: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
	}
}

func set(t *testing.T, text string) iprange.Set {
	t.Helper()
	s, err := iprange.ParseSet(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

var noVersion = cmp.Options{
	cmpopts.IgnoreTypes(ipam.Version{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func same[T any](t *testing.T, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, noVersion); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSpace(t *testing.T) {
	store := open(t)
	want := ipam.Space{
		Name: "testspace-whole", Grid: iprange.Grid{V4: 28, V6: 124}, Mode: ipam.Claims,
		Cooldown: 90 * time.Second, MaxBlocks: 3, Whereabouts: true,
	}
	made, err := store.Space(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	same(t, made, want)
	again, err := store.Space(t.Context(), ipam.Space{Name: want.Name, Grid: iprange.DefaultGrid(), Mode: ipam.Blocks})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, again); diff != "" {
		t.Errorf("the space that is there doesn't win (-made +again):\n%s", diff)
	}
}

func TestSpaceMadeByManyIsOne(t *testing.T) {
	store := open(t)
	var wg sync.WaitGroup
	made := make([]ipam.Space, 8)
	for i := range made {
		wg.Go(func() {
			var err error
			made[i], err = store.Space(t.Context(), ipam.Space{Name: "testspace-race", Grid: iprange.Grid{V4: 24 + i, V6: 122}, Mode: ipam.Auto})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, as := range made {
		if diff := cmp.Diff(made[0], as); diff != "" {
			t.Errorf("two spaces (-one +other):\n%s", diff)
		}
	}
}

func TestBlockLife(t *testing.T) {
	store := open(t)
	for _, prefix := range []string{"10.0.0.64/26", "2001:db8::40/122"} {
		ref := ipam.BlockRef{Space: space(t, store, "").Name, Prefix: netip.MustParsePrefix(prefix)}
		_, err := store.GetBlock(t.Context(), ref)
		is(t, err, ipam.ErrNotFound)
		want := ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: node("n1"), Suspect: true}
		made, err := store.CreateBlock(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		same(t, made, want)
		_, err = store.CreateBlock(t.Context(), ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: node("n2")})
		is(t, err, ipam.ErrExists)

		touched, err := store.UpdateBlock(t.Context(), made)
		if err != nil {
			t.Fatal(err)
		}
		if touched.Version.UID != made.Version.UID || touched.Version.Resource == made.Version.Resource {
			t.Errorf("a touch left %+v for %+v", touched.Version, made.Version)
		}
		_, err = store.UpdateBlock(t.Context(), made)
		is(t, err, ipam.ErrStale)
		other := touched
		other.Version.UID = "other"
		_, err = store.UpdateBlock(t.Context(), other)
		is(t, err, ipam.ErrStale)
		is(t, store.DeleteBlock(t.Context(), ref, made.Version), ipam.ErrStale)
		is(t, store.DeleteBlock(t.Context(), ref, ipam.Version{UID: "other", Resource: touched.Version.Resource}), ipam.ErrStale)
		is(t, store.DeleteBlock(t.Context(), ref, ipam.Version{}), ipam.ErrStale)
		got, err := store.GetBlock(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(touched, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("read again (-updated +read):\n%s", diff)
		}
		if err := store.DeleteBlock(t.Context(), ref, touched.Version); err != nil {
			t.Fatal(err)
		}
		is(t, store.DeleteBlock(t.Context(), ref, touched.Version), ipam.ErrNotFound)
		_, err = store.UpdateBlock(t.Context(), touched)
		if !errors.Is(err, ipam.ErrStale) && !errors.Is(err, ipam.ErrNotFound) {
			t.Errorf("update of what is gone: %v", err)
		}
	}
}

func TestSharedIsFinal(t *testing.T) {
	store := open(t)
	ref := ipam.BlockRef{Space: space(t, store, "").Name, Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	made, err := store.CreateBlock(t.Context(), ipam.Block{Ref: ref, Mode: ipam.Shared})
	if err != nil {
		t.Fatal(err)
	}
	made.Mode, made.Owner = ipam.Leased, node("n1")
	_, err = store.UpdateBlock(t.Context(), made)
	check(t, err, "Shared is final")
}

func TestClaimLife(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	for _, addr := range []string{"10.0.0.65", "2001:db8::41"} {
		want := claim(as.Name, addr)
		made, err := store.CreateClaim(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		same(t, made, want)
		_, err = store.CreateClaim(t.Context(), want)
		is(t, err, ipam.ErrExists)
		made.State, made.Owner, made.Node, made.Keep = ipam.Cooling, ipam.Owner{}, ipam.Node{}, ipam.Keeper{}
		cooling, err := store.UpdateClaim(t.Context(), made)
		if err != nil {
			t.Fatal(err)
		}
		same(t, cooling, made)
		_, err = store.UpdateClaim(t.Context(), made)
		is(t, err, ipam.ErrStale)
		is(t, store.DeleteClaim(t.Context(), want.Ref, made.Version), ipam.ErrStale)
		if err := store.DeleteClaim(t.Context(), want.Ref, cooling.Version); err != nil {
			t.Fatal(err)
		}
		is(t, store.DeleteClaim(t.Context(), want.Ref, cooling.Version), ipam.ErrNotFound)
	}
}

// TestOneWins: of many who want the same name, and of many who change the same
// version, one does.
func TestOneWins(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	const many = 20
	contest := func(lost error, try func(i int) error) {
		t.Helper()
		errs := make([]error, many)
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() { errs[i] = try(i) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, lost) {
				t.Errorf("lost with %v, want %v", err, lost)
			}
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	}
	contest(ipam.ErrExists, func(int) error {
		_, err := store.CreateClaim(t.Context(), claim(as.Name, "10.0.0.1"))
		return err
	})
	now, err := store.GetClaim(t.Context(), claim(as.Name, "10.0.0.1").Ref)
	if err != nil {
		t.Fatal(err)
	}
	contest(ipam.ErrStale, func(i int) error {
		next := now
		next.Pool = fmt.Sprint(i)
		_, err := store.UpdateClaim(t.Context(), next)
		return err
	})
}

// TestNodeLists: a list of a node's objects has what its own store wrote last,
// and nothing of a node with a similar name.
func TestNodeLists(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	long := strings.Repeat("a-very-long-name-of-a-node.", 5) + "example"
	for i, name := range []string{"list-n1", "list-n2", long} {
		block := ipam.Block{Ref: ipam.BlockRef{Space: as.Name, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 26)}, Mode: ipam.Leased, Owner: node(name)}
		if _, err := store.CreateBlock(t.Context(), block); err != nil {
			t.Fatal(err)
		}
		c := claim(as.Name, fmt.Sprintf("10.%d.1.1", i))
		c.Node = node(name)
		if _, err := store.CreateClaim(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		blocks, err := store.NodeBlocks(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		same(t, blocks, []ipam.Block{block})
		claims, err := store.NodeClaims(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		same(t, claims, []ipam.Claim{c})
	}
	none, err := store.NodeBlocks(t.Context(), "list-n")
	if err != nil || len(none) > 0 {
		t.Errorf("%v, %v", none, err)
	}
}

// TestKeptClaims: they are found by value, whatever their state and node.
func TestKeptClaims(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	mine := claim(as.Name, "10.0.0.1")
	mine.Keep.Name = "kept-test"
	mine.State = ipam.Kept
	other := claim(as.Name, "10.0.0.2")
	other.Keep = mine.Keep
	other.Keep.IfName = "net2"
	nobodys := claim(as.Name, "10.0.0.3")
	nobodys.Keep = ipam.Keeper{}
	for _, c := range []ipam.Claim{mine, other, nobodys} {
		if _, err := store.CreateClaim(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	got, err := store.KeptClaims(t.Context(), mine.Keep)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, []ipam.Claim{mine})
}

func TestSpaceLists(t *testing.T) {
	store := open(t)
	as, beside := space(t, store, ""), space(t, store, "-beside")
	var want []string
	for i := range 20 {
		addr := fmt.Sprintf("10.0.%d.5", i)
		for _, name := range []string{as.Name, beside.Name} {
			if _, err := store.CreateClaim(t.Context(), claim(name, addr)); err != nil {
				t.Fatal(err)
			}
			prefix := netip.PrefixFrom(netip.MustParseAddr(addr), 26).Masked()
			if _, err := store.CreateBlock(t.Context(), ipam.Block{Ref: ipam.BlockRef{Space: name, Prefix: prefix}, Mode: ipam.Shared}); err != nil {
				t.Fatal(err)
			}
		}
		if i < 10 {
			want = append(want, addr)
		}
	}
	claims, err := store.SpaceClaims(t.Context(), as.Name, set(t, "10.0.0.0-10.0.9.255"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range claims {
		if c.Ref.Space != as.Name {
			t.Errorf("claim %s is of another space", c.Ref)
		}
		got = append(got, c.Ref.Addr.String())
	}
	slices.Sort(got)
	same(t, got, want)
	for text, want := range map[string]int{
		"10.0.0.0/24": 1, "10.0.0.63": 1, "10.0.0.64": 0, "10.0.0.5-10.0.1.10": 2, "10.0.0.0/8": 20, "10.0.5.0-10.255.255.255": 15,
	} {
		blocks, err := store.SpaceBlocks(t.Context(), as.Name, set(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if len(blocks) != want {
			t.Errorf("%s meets %d blocks, want %d: %v", text, len(blocks), want, blocks)
		}
	}
}

// TestPages: more claims than a page has are listed completely.
func TestPages(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	const many = 1100
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; n < many; n += 8 {
				if _, err := store.CreateClaim(t.Context(), claim(as.Name, netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}).String())); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	start := time.Now()
	claims, err := store.SpaceClaims(t.Context(), as.Name, set(t, "10.0.0.0/8"))
	if err != nil || len(claims) != many {
		t.Errorf("%d claims, %v", len(claims), err)
	}
	t.Logf("%d claims, consistent: %s", many, time.Since(start))
	start = time.Now()
	mine, err := store.NodeClaims(t.Context(), "n1")
	if err != nil || len(mine) < many {
		t.Errorf("%d claims of the node, %v", len(mine), err)
	}
	t.Logf("%d claims, from the cache: %s", len(mine), time.Since(start))
}

// TestTaken: the hint has the claims of the range, follows changes, and costs
// no request while it is followed.
func TestTaken(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	within := set(t, "10.0.0.1-10.0.0.14")
	for _, addr := range []string{"10.0.0.3", "10.0.0.40", "10.0.1.3"} {
		if _, err := store.CreateClaim(t.Context(), claim(as.Name, addr)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "10.0.0.3 alone", func() bool {
		taken, err := store.Taken(t.Context(), as.Name, within)
		return err == nil && len(taken) == 1 && taken[netip.MustParseAddr("10.0.0.3")]
	})
	made, err := store.CreateClaim(t.Context(), claim(as.Name, "10.0.0.4"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "two", func() bool {
		taken, err := store.Taken(t.Context(), as.Name, within)
		return err == nil && len(taken) == 2
	})
	if err := store.DeleteClaim(t.Context(), made.Ref, made.Version); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one again", func() bool {
		taken, err := store.Taken(t.Context(), as.Name, within)
		return err == nil && len(taken) == 1
	})
	if taken, err := store.Taken(t.Context(), as.Name, set(t, "10.0.0.0/8")); err != nil || len(taken) > 0 {
		t.Errorf("a large range has the hint %v, %v", taken, err)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
	}
}

// TestAsk: requests of many nodes meet in one list, are told of, and are taken
// away one by one.
func TestAsk(t *testing.T) {
	store := open(t)
	const name = "ask-n1"
	refs := make([]ipam.BlockRef, 10)
	for i := range refs {
		refs[i] = ipam.BlockRef{Space: "s", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 26)}
	}
	is(t, store.Ask(t.Context(), name, refs[0]), ipam.ErrNotFound)
	if none, err := store.Asked(t.Context(), name); err != nil || len(none) > 0 {
		t.Errorf("%v, %v", none, err)
	}
	for range 2 { // once more is a heartbeat
		if err := store.EnsureNode(t.Context(), node(name)); err != nil {
			t.Fatal(err)
		}
	}
	calls := make(chan struct{}, 1000)
	go store.Watch(t.Context(), name, func() { calls <- struct{}{} })
	<-calls

	var wg sync.WaitGroup
	for _, ref := range refs {
		wg.Go(func() {
			if err := store.Ask(t.Context(), name, ref); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-calls
	asked, err := store.Asked(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	same(t, asked, refs)
	if err := store.Answered(t.Context(), name, append(asked[:9:9], ipam.BlockRef{Space: "s", Prefix: netip.MustParsePrefix("10.99.0.0/26")})); err != nil {
		t.Fatal(err)
	}
	left, err := store.Asked(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	same(t, left, refs[9:])
	nodes, err := store.Nodes(t.Context())
	if err != nil || nodes < 1 {
		t.Errorf("%d nodes, %v", nodes, err)
	}
}

// TestWatchIsQuietAboutHeartbeats: what the node writes itself doesn't wake it.
func TestWatchIsQuietAboutHeartbeats(t *testing.T) {
	store := open(t)
	const name = "quiet-n1"
	if err := store.EnsureNode(t.Context(), node(name)); err != nil {
		t.Fatal(err)
	}
	calls := make(chan struct{}, 1000)
	go store.Watch(t.Context(), name, func() { calls <- struct{}{} })
	<-calls
	for range 3 {
		if err := store.EnsureNode(t.Context(), node(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Ask(t.Context(), name, ipam.BlockRef{Space: "s", Prefix: netip.MustParsePrefix("10.0.0.0/26")}); err != nil {
		t.Fatal(err)
	}
	<-calls // of the request; heartbeats came before it on the same watch
	if n := len(calls); n > 0 {
		t.Errorf("%d calls more", n)
	}
}

func TestMirror(t *testing.T) {
	store := open(t)
	ref := ipam.BlockRef{Space: space(t, store, "").Name, Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	usage := ipam.Usage{
		Ref: ref, Bitmap: []byte{1, 0, 0, 0, 0, 0, 0, 128}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Owners:  []ipam.AddressOwner{{Addr: netip.MustParseAddr("10.0.0.0"), Owner: claim("s", "10.0.0.0").Owner, Since: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC)}},
		Version: ipam.Version{UID: "none"},
	}
	_, err := store.Mirror(t.Context(), usage)
	is(t, err, ipam.ErrNotFound)
	made, err := store.CreateBlock(t.Context(), ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: node("n1")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Mirror(t.Context(), usage)
	is(t, err, ipam.ErrStale)
	usage.Version = made.Version
	version, err := store.Mirror(t.Context(), usage)
	if err != nil {
		t.Fatal(err)
	}
	now, err := store.GetBlock(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if now.Version != version || version == made.Version {
		t.Errorf("mirrored as %+v, read %+v, before %+v", version, now.Version, made.Version)
	}
	status := func() map[string]any {
		t.Helper()
		seen, err := objects(t, "IPBlock").Get(t.Context(), ref.String(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		status, _ := seen.Object["status"].(map[string]any)
		return status
	}
	same(t, status(), map[string]any{
		"used": "AQAAAAAAAIA=", "observedAt": "2026-01-02T03:04:05.000000Z",
		"owners": []any{map[string]any{
			"address": "10.0.0.0", "containerID": "c", "ifName": "net1", "network": "lan",
			"podNamespace": "ns", "podName": "p", "podUID": "u", "since": "2026-01-02T03:04:04.000000Z",
		}},
	})
	// What isn't there any more is taken away.
	if _, err := store.Mirror(t.Context(), ipam.Usage{Ref: ref, Bitmap: []byte{0}, At: usage.At, Version: version}); err != nil {
		t.Fatal(err)
	}
	same(t, status(), map[string]any{"used": "AA==", "observedAt": "2026-01-02T03:04:05.000000Z"})
}

// TestLabels are those by which people and controllers list.
func TestLabels(t *testing.T) {
	store := open(t)
	as := space(t, store, "")
	c := claim(as.Name, "10.0.0.65")
	c.Keep = ipam.Keeper{}
	if _, err := store.CreateClaim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	seen, err := objects(t, "IPClaim").Get(t.Context(), c.Ref.String(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, seen.GetLabels(), map[string]string{
		v1alpha1.LabelSpace: as.Name, v1alpha1.LabelNode: "n1", v1alpha1.LabelBlock: "10.0.0.64-26",
	})
}
