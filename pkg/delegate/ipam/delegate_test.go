package ipamdelegate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code uint
	}{
		{ipam.ErrInvalid, 7},
		{ipam.ErrNotReady, 11},
		{ipam.ErrExhausted, 100},
		{ipam.ErrTaken, 101},
		{ipam.ErrConflict, 102},
		{context.DeadlineExceeded, 11},
		{context.Canceled, 11},
		{errors.New("disk full"), 999},
	} {
		b := newBench(t)
		b.alloc.err = fmt.Errorf("range 10.0.0.0/24: 254 usable: %w", tc.err)
		_, err := b.Add(t.Context(), call(conf(plain)))
		wantError(t, err, tc.code, `network "backend": range 10.0.0.0/24: 254 usable: `+tc.err.Error())
		wantError(t, b.Del(t.Context(), call(conf(plain))), tc.code, `network "backend": `)
	}
}

func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		conf string
		code uint
		msg  string
	}{
		"no JSON":        {"{", 7, `network "": not a JSON object`},
		"version":        {`{"cniVersion":"9.0.0","name":"backend","ipam":` + plain + `}`, 1, `network "backend": cniVersion "9.0.0"`},
		"range":          {conf(`{"type":"meta-ipam","range":"x"}`), 7, `network "backend": ipam.range: range "x"`},
		"no such pool":   {conf(`{"type":"meta-ipam","pools":["a","b"]}`), 7, `IPPool b for namespace "shop": no such pool`},
		"no pool admits": {conf(`{"type":"meta-ipam"}`), 7, `no IPPool admits this node`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, err := b.Add(t.Context(), call(tc.conf))
			wantError(t, err, tc.code, tc.msg)
			if len(b.alloc.requests) > 0 {
				t.Error("the allocator was asked")
			}
		})
	}
}

func TestPoolsNotReady(t *testing.T) {
	b := newBench(t)
	b.pools.err = errors.New("not synced")
	for _, section := range []string{`{"type":"meta-ipam"}`, `{"type":"meta-ipam","pool":"a"}`} {
		_, err := b.Add(t.Context(), call(conf(section)))
		wantError(t, err, 11, "IPPools: not synced")
	}
	if _, err := b.Add(t.Context(), call(conf(plain))); err != nil {
		t.Errorf("a network with ranges needs no pools: %v", err)
	}
	b.opts.Pools = nil
	_, err := b.Add(t.Context(), call(conf(`{"type":"meta-ipam","pool":"a"}`)))
	wantError(t, err, 7, `["a"]: this node has no store of pools`)
	if _, err := b.Add(t.Context(), call(conf(plain))); err != nil {
		t.Errorf("without pools: %v", err)
	}
}

func TestDefinitionsAreNoted(t *testing.T) {
	b := newBench(t)
	b.alloc.err = ipam.ErrExhausted // also then
	_, err := b.Add(t.Context(), call(conf(plain)))
	wantError(t, err, CodeExhausted, "")
	if len(b.pools.noted) != 1 || b.pools.noted[0].Definition != "backend" {
		t.Errorf("noted %+v", b.pools.noted)
	}
}

// A pool that is not for this node is left out while another is there.
func TestOneOfTwoPools(t *testing.T) {
	b := newBench(t)
	b.pools.all = []ipam.Pool{{Name: "zone-b", Ranges: []ipam.PoolRange{{Spec: iprange.Spec{Range: "10.2.0.0/28"}}}}}
	c := call(conf(`{"type":"meta-ipam","pools":["zone-a","zone-b"]}`))
	for range 2 {
		if _, err := b.Add(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(b.log.String(), "IPPool zone-a for namespace"); n != 1 {
		t.Errorf("noted %d times:\n%s", n, b.log)
	}
}

func TestNotesOnce(t *testing.T) {
	b := newBench(t)
	add := func(network string) {
		t.Helper()
		c := call(fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"ipam":{"type":"whereabouts","range":"10.0.0.0/24","log_level":"debug"}}`, network))
		if _, err := b.Add(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, network := range []string{"a", "a", "b", "a"} {
		add(network)
	}
	if n := strings.Count(b.log.String(), "ipam.log_level has no effect"); n != 2 {
		t.Errorf("%d notes, want one a network:\n%s", n, b.log)
	}
	for i := range maxNotes + 5 {
		b.notes.isNew("x", fmt.Sprint(i))
	}
	if len(b.notes.seen) > maxNotes {
		t.Errorf("%d notes are remembered", len(b.notes.seen))
	}
}

func TestFlatFile(t *testing.T) {
	b := newBench(t)
	read := 0
	var data string
	var failure error
	b.opts.Flat = func() ([]byte, error) { read++; return []byte(data), failure }
	whereabouts := call(conf(`{"type":"whereabouts","range":"10.0.0.0/24"}`))

	data = `{"gateway":"10.0.0.1"}`
	if _, err := b.Add(t.Context(), whereabouts); err != nil {
		t.Fatal(err)
	}
	if got := b.alloc.requests[0].Wants[0].Ranges[0].Gateway; got != addr("10.0.0.1") {
		t.Errorf("gateway %s, want the file's", got)
	}
	data, failure = "", fs.ErrNotExist
	if _, err := b.Add(t.Context(), whereabouts); err != nil {
		t.Errorf("without the file: %v", err)
	}
	failure = errors.New("permission denied")
	_, err := b.Add(t.Context(), whereabouts)
	wantError(t, err, types.ErrIOFailure, `network "backend": flat file of Whereabouts: permission denied`)
	read = 0
	if _, err := b.Add(t.Context(), call(conf(plain))); err != nil || read > 0 {
		t.Errorf("type meta-ipam: %v, the file was read %d times", err, read)
	}
}

func TestKeep(t *testing.T) {
	b := newBench(t)
	sticky := call(conf(`{"type":"meta-ipam","range":"10.0.0.0/24","sticky":true}`))
	claim := ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "shop", Name: "vm", UID: "u"}
	keeper := ipam.Keeper{}
	var failure error
	b.opts.Keep = func(_ context.Context, k ipam.Key) (ipam.Keeper, error) {
		if k != key() {
			t.Errorf("asked about %s", k)
		}
		return keeper, failure
	}
	add := func() ipam.Keeper {
		t.Helper()
		if _, err := b.Add(t.Context(), sticky); err != nil {
			t.Fatal(err)
		}
		return b.alloc.requests[len(b.alloc.requests)-1].Keep
	}
	want := ipam.Keeper{Kind: ipam.KeepPod, Namespace: "shop", Name: "web-0", Network: "backend", IfName: "net1"}
	if diff := cmp.Diff(want, add()); diff != "" {
		t.Errorf("stickiness (-want +got):\n%s", diff)
	}
	keeper = claim
	want = claim
	want.Network, want.IfName = "backend", "net1"
	if diff := cmp.Diff(want, add()); diff != "" {
		t.Errorf("a claim goes before stickiness (-want +got):\n%s", diff)
	}
	failure = errors.New("no answer")
	_, err := b.Add(t.Context(), sticky)
	wantError(t, err, 11, "whom the addresses are kept for: no answer")
}

func TestProbe(t *testing.T) {
	b := newBench(t)
	answer := fmt.Errorf("02:00:00:00:00:01 answered: %w", ipam.ErrConflict)
	var told []string
	b.opts.ProbeFor = func(netns, ifName string) func(context.Context, netip.Addr) error {
		return func(_ context.Context, a netip.Addr) error {
			told = append(told, "asked "+netns+" "+ifName+" "+a.String())
			return answer
		}
	}
	b.opts.Conflict = func(o ipam.Owner, a netip.Addr, err error) {
		told = append(told, o.Pod()+" "+a.String()+": "+err.Error())
	}
	_, err := b.Add(t.Context(), call(conf(plain)))
	wantError(t, err, CodeConflict, "02:00:00:00:00:01 answered")
	answer = nil
	if _, err := b.Add(t.Context(), call(conf(plain))); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"asked /run/netns/x net1 10.0.0.1", "shop/web-0 10.0.0.1: 02:00:00:00:00:01 answered: the address is in use on the network",
		"asked /run/netns/x net1 10.0.0.1",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	c := call(conf(plain))
	c.Netns = ""
	if _, err := b.Add(t.Context(), c); err != nil || b.alloc.requests[2].Probe != nil {
		t.Errorf("without a namespace nothing can be asked: %v", err)
	}
}

func TestDel(t *testing.T) {
	for name, tc := range map[string]struct{ conf, want string }{
		"whole":       {conf(plain), "release c1/net1/backend"},
		"other type":  {conf(`{"type":"host-local"}`), "release c1/net1/backend"},
		"broken ipam": {conf(`5`), "release c1/net1/backend"},
		"bad version": {`{"cniVersion":9,"name":"backend"}`, "release c1/net1/backend"},
		"bad name":    {`{"name":9}`, "release all of c1/net1"},
		"no name":     {`{}`, "release all of c1/net1"},
		"no JSON":     {`{"name":"backend"`, "release all of c1/net1"},
		"nothing":     {``, "release all of c1/net1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := b.Del(t.Context(), call(tc.conf)); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{tc.want}, b.alloc.calls); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			b.alloc.err = ipam.ErrNotReady
			wantError(t, b.Del(t.Context(), call(tc.conf)), 11, "not ready")
		})
	}
	c := call(conf(plain))
	c.ContainerID = ""
	wantError(t, newBench(t).Del(t.Context(), c), types.ErrInvalidEnvironmentVariables, "neither may be empty")
}

func TestCheck(t *testing.T) {
	withPrev := func(section string, ips ...string) string {
		var list []string
		for _, ip := range ips {
			list = append(list, fmt.Sprintf(`{"address":%q}`, ip))
		}
		return strings.TrimSuffix(conf(section), "}") + `,"prevResult":{"cniVersion":"1.0.0","ips":[` + strings.Join(list, ",") + `]}}`
	}
	fixed := `{"type":"whereabouts","range":"10.0.0.0/24","addresses":[{"address":"10.9.0.5/24"}]}`
	for name, tc := range map[string]struct {
		conf, args string
		held       []netip.Addr
		code       uint
		msg        string
	}{
		"as it was":        {conf: withPrev(plain, "10.0.0.5/24"), held: []netip.Addr{addr("10.0.0.5")}},
		"both families":    {conf: withPrev(plain, "2001:db8::5/64", "10.0.0.5/24"), held: []netip.Addr{addr("10.0.0.5"), addr("2001:db8::5")}},
		"without previous": {conf: conf(plain), held: []netip.Addr{addr("10.0.0.5")}},
		"nothing held":     {conf: withPrev(plain, "10.0.0.5/24"), code: 3, msg: `network "backend": no address is held for c1/net1`},
		"another held": {
			conf: withPrev(plain, "10.0.0.5/24", "10.0.0.6/24"), held: []netip.Addr{addr("10.0.0.6")}, code: 7,
			msg: `network "backend": 10.0.0.5 of the prevResult: not held for c1/net1, which holds 10.0.0.6`,
		},
		"a fixed one":      {conf: withPrev(fixed, "10.0.0.5/24", "10.9.0.5/24"), held: []netip.Addr{addr("10.0.0.5")}},
		"fixed ones alone": {conf: withPrev(`{"type":"whereabouts","addresses":[{"address":"10.9.0.5/24"}]}`, "10.9.0.5/24")},
		"untracked":        {conf: withPrev(fixed, "10.0.0.5/24", "10.7.0.5/24"), args: "IP=10.7.0.5/24", held: []netip.Addr{addr("10.0.0.5")}},
		"asked for, lost":  {conf: withPrev(fixed, "10.0.0.5/24"), args: "IP=10.0.0.5/24", held: []netip.Addr{addr("10.0.0.6")}, code: 7, msg: "10.0.0.5"},
		"broken":           {conf: conf(`{"type":"meta-ipam","range":"x"}`), code: 7, msg: "ipam.range"},
		"bad previous":     {conf: withPrev(plain, "x"), held: []netip.Addr{addr("10.0.0.5")}, code: 7, msg: "prevResult"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if tc.held != nil {
				b.alloc.held[key()] = tc.held
			}
			c := call(tc.conf)
			c.Args = tc.args
			err := b.Check(t.Context(), c)
			if tc.code != 0 {
				wantError(t, err, tc.code, tc.msg)
			} else if err != nil {
				t.Error(err)
			}
			if len(b.alloc.requests)+len(b.alloc.calls) > 0 {
				t.Error("CHECK changed something")
			}
		})
	}
}

func TestStatusAndGC(t *testing.T) {
	b := newBench(t)
	if err := b.Status(t.Context(), call(conf(plain))); err != nil {
		t.Error(err)
	}
	b.alloc.ready = errors.New("the log is being replayed")
	wantError(t, b.Status(t.Context(), call(conf(plain))), 50, `network "backend": the log is being replayed`)
	wantError(t, b.Status(t.Context(), call("{")), 50, "the log is being replayed")
	b.alloc.held[key()] = []netip.Addr{addr("10.0.0.5")}
	if err := b.GC(t.Context(), call(conf(plain))); err != nil || len(b.alloc.calls) > 0 {
		t.Errorf("GC: %v, %v", err, b.alloc.calls)
	}
}
