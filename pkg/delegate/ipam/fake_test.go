package ipamdelegate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// allocator gives the lowest address away, and fails when it is told to.
type allocator struct {
	held     map[ipam.Key][]netip.Addr
	requests []ipam.Request
	calls    []string
	err      error // of every call but Ready
	ready    error
}

func (a *allocator) Allocate(ctx context.Context, req ipam.Request) ([]ipam.Address, error) {
	a.requests = append(a.requests, req)
	if a.err != nil {
		return nil, a.err
	}
	var granted []ipam.Address
	for _, w := range req.Wants {
		got, ok := a.one(w)
		if !ok {
			return nil, fmt.Errorf("range %s: %w", w.Ranges[0].Text, ipam.ErrExhausted)
		}
		if req.Probe != nil {
			if err := req.Probe(ctx, got.Prefix.Addr()); err != nil {
				return nil, err
			}
		}
		a.held[req.Owner.Key] = append(a.held[req.Owner.Key], got.Prefix.Addr())
		granted = append(granted, got)
	}
	return granted, nil
}

func (a *allocator) one(w ipam.Want) (ipam.Address, bool) {
	for _, r := range w.Ranges {
		addrs := r.Usable.Addrs()
		if w.Addr.IsValid() {
			addrs = slices.Values([]netip.Addr{w.Addr})
		}
		for addr := range addrs {
			if a.isHeld(addr) {
				continue
			}
			bits := addr.BitLen()
			if r.Subnet.IsValid() {
				bits = r.Subnet.Bits()
			}
			return ipam.Address{Prefix: netip.PrefixFrom(addr, bits), Range: r}, true
		}
	}
	return ipam.Address{}, false
}

func (a *allocator) isHeld(addr netip.Addr) bool {
	for _, addrs := range a.held {
		if slices.Contains(addrs, addr) {
			return true
		}
	}
	return false
}

func (a *allocator) Release(_ context.Context, key ipam.Key) error {
	a.calls = append(a.calls, "release "+key.String())
	delete(a.held, key)
	return a.err
}

func (a *allocator) ReleaseAttachment(_ context.Context, containerID, ifName string) error {
	a.calls = append(a.calls, "release all of "+containerID+"/"+ifName)
	return a.err
}

func (a *allocator) Held(key ipam.Key) []netip.Addr { return a.held[key] }

func (a *allocator) Ready() error { return a.ready }

// pools are declared pools by name; those of zone-x are for others.
type pools struct {
	all   []ipam.Pool
	noted []ipam.Pool
	err   error
}

func (p *pools) Pool(_ context.Context, name, namespace string) (ipam.Pool, error) {
	if p.err != nil {
		return ipam.Pool{}, p.err
	}
	i := slices.IndexFunc(p.all, func(p ipam.Pool) bool { return p.Name == name })
	if i < 0 {
		return ipam.Pool{}, fmt.Errorf("IPPool %s for namespace %q: %w", name, namespace, ipam.ErrNoPool)
	}
	return p.all[i], nil
}

func (p *pools) Match(context.Context, string) ([]ipam.Pool, error) { return p.all, p.err }

func (p *pools) Note(pool ipam.Pool) { p.noted = append(p.noted, pool) }

// bench is a delegate with its parts.
type bench struct {
	*testing.T
	*Delegate
	alloc *allocator
	pools *pools
	log   *bytes.Buffer
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, alloc: &allocator{held: map[ipam.Key][]netip.Addr{}}, pools: &pools{}, log: &bytes.Buffer{}}
	b.Delegate = New(Options{Allocator: b.alloc, Pools: b.pools, Log: slog.New(slog.NewTextHandler(b.log, nil))})
	return b
}

func call(conf string) delegate.Call {
	return delegate.Call{ContainerID: "c1", IfName: "net1", Netns: "/run/netns/x", Args: "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0", Conf: []byte(conf)}
}

func conf(section string) string {
	return `{"cniVersion":"1.0.0","name":"backend","type":"macvlan","ipam":` + section + `}`
}

const plain = `{"type":"meta-ipam","range":"10.0.0.0/24"}`

func key() ipam.Key { return ipam.Key{ContainerID: "c1", IfName: "net1", Network: "backend"} }

func wantError(t *testing.T, err error, code uint, part string) {
	t.Helper()
	got := (*types.Error)(nil)
	if !errors.As(err, &got) || got.Code != code || !strings.Contains(got.Msg, part) {
		t.Errorf("error %#v, want code %d and %q", err, code, part)
	}
}
