package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
	"github.com/meta-cni/meta-cni/pkg/kube"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// nodeAPI is the API server's word on the Node object.
type nodeAPI struct {
	uid string
	err error
}

func (n *nodeAPI) NodeUID(context.Context, string) (string, error) { return n.uid, n.err }

// deafStore doesn't answer lists of blocks while it is deaf.
type deafStore struct {
	*ipamtest.Memory
	deaf bool
}

func (d *deafStore) NodeBlocks(ctx context.Context, node string) ([]ipam.Block, error) {
	if d.deaf {
		return nil, errors.New("no answer")
	}
	return d.Memory.NodeBlocks(ctx, node)
}

// TestANodeThatIsRegisteredAnew: what it had may have been given to another
// node, so that nothing is given out before its blocks were read.
func TestANodeThatIsRegisteredAnew(t *testing.T) {
	log, recovered, err := wal.Open(wal.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	api, store := &nodeAPI{uid: "uid-1"}, &deafStore{Memory: ipamtest.NewMemory()}
	n := &nodeObject{name: "a", client: api, log: slog.New(slog.DiscardHandler), gone: errUnregistered}
	a, err := agent.Open(agent.Disk{Log: log}, recovered, agent.Options{
		Store: store, Node: ipam.Node{Name: "a", Boot: "boot"}, MayAllocate: n.mayAllocate,
		Clock: func() time.Duration { return time.Hour },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	look := func() error { return n.look(t.Context(), a, func(ipam.Node) error { return nil }) }
	if err := errors.Join(look(), n.mayAllocate()); err != nil {
		t.Fatal(err)
	}
	block := ipam.BlockRef{Space: "default", Prefix: iprange.DefaultGrid().Block(netip.MustParseAddr("10.0.0.1"))}
	if _, err := store.Space(t.Context(), ipam.Space{Name: "default", Grid: iprange.DefaultGrid()}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.CreateBlock(t.Context(), ipam.Block{Ref: block, Mode: ipam.Leased, Owner: a.Node()}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		gone bool // seen
		uid  string
	}{{"it was seen to be gone", true, "uid-2"}, {"it wasn't", false, "uid-3"}} {
		t.Run(test.name, func(t *testing.T) {
			if test.gone {
				api.err = kube.ErrNodeGone
				if err := look(); err != nil || n.mayAllocate() == nil {
					t.Fatalf("%v, and it gives addresses out", err)
				}
			}
			api.uid, api.err, store.deaf = test.uid, nil, true
			for range 2 {
				if err := look(); err == nil || !errors.Is(n.mayAllocate(), ipam.ErrNotReady) {
					t.Fatalf("%v, and it gives addresses out: %v", err, n.mayAllocate())
				}
			}
			store.deaf = false
			if err := errors.Join(look(), n.mayAllocate()); err != nil {
				t.Fatal(err)
			}
			if b, err := store.GetBlock(t.Context(), block); err != nil || b.Owner.UID != test.uid {
				t.Errorf("the block says %+v, %v", b.Owner, err)
			}
		})
	}
}
