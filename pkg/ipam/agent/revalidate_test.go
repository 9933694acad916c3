package agent

import (
	"context"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// oldList is a store whose list of a node's blocks is as it was before.
type oldList struct {
	ipam.Store
	blocks []ipam.Block
}

func (o oldList) NodeBlocks(context.Context, string) ([]ipam.Block, error) { return o.blocks, nil }

// TestRevalidate: the Node object was deleted, the controller took the block,
// another node has it by now; then the kubelet registered the node again. The
// list may be so old that it shows the block still.
func TestRevalidate(t *testing.T) {
	for _, test := range []struct {
		name string
		old  bool
	}{{"the list has it no more", false}, {"the list is old", true}} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			m := c.node("a")
			m.add("c1", "10.0.0.0/16")
			before, err := c.store.NodeBlocks(t.Context(), "a")
			if err != nil || len(before) == 0 {
				t.Fatal(before, err)
			}
			m.del("c1")
			if test.old {
				m.opts.Store = oldList{c.store, before}
			}
			for _, b := range before {
				taken := b
				taken.Owner = ipam.Node{Name: "b", UID: "uid-b", Boot: "b-boot", Log: "b-log"}
				if _, err := c.store.UpdateBlock(t.Context(), taken); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Registered("uid-a-2"); err != nil {
				t.Fatal(err)
			}
			if err := m.Revalidate(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, b := range before {
				if got := m.add("c2", "10.0.0.0/16")[0]; b.Ref.Prefix.Contains(got) {
					t.Fatalf("%s is of block %s, which another node has", got, b.Ref)
				}
			}
		})
	}
}
