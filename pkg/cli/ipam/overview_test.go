package ipam

import (
	"net/netip"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// TestBlockOfNobody: what a dead node told last of a block that was taken from
// it is over.
func TestBlockOfNobody(t *testing.T) {
	b := block{Block: ipam.Block{
		Ref: ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("10.0.0.0/26")}, Mode: ipam.Leased, Owner: ipam.Node{Name: "a"},
	}, usage: ipam.Usage{Bitmap: []byte{0b1100}}}
	if n := usedCount(b); n != 2 {
		t.Errorf("%d are used on node a", n)
	}
	b.Owner = ipam.Node{}
	if n := usedCount(b); n != 0 {
		t.Errorf("%d are used by nobody", n)
	}
}
