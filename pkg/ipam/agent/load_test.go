package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// An ADD that a held block serves asks nothing of the store, also when the next
// block is due and nobody knows how many nodes there are.
func TestADDFromHeldBlockWaitsForNoStore(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c0", "10.0.0.0/16")
	m.start() // what was known of nodes is lost
	c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
		t.Errorf("%s of %s", call.Op, call.Name)
		return ipamtest.Lost, nil
	})
	for i := range 55 {
		m.add(fmt.Sprint("d", i), "10.0.0.0/16")
	}
}

// A node with nothing to do leaves the store alone, and hears of requests by
// its bell.
func TestIdleAgentAsksLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		bell := make(chan struct{}, 1)
		c.bell = bell
		m := c.node("a")
		addr := m.add("c0", "10.0.0.0/16")[0]
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			m.Run(ctx)
		}()
		time.Sleep(20 * time.Second) // the first scan and mirror
		c.store.ResetCounts()
		time.Sleep(time.Hour)
		want := map[ipamtest.Op]int{ipamtest.OpAsked: 60, ipamtest.OpNodeBlocks: 12, ipamtest.OpNodeClaims: 12, ipamtest.OpSpace: 12}
		if diff := cmp.Diff(want, c.store.Counts()); diff != "" {
			t.Errorf("calls in an hour (-want +got):\n%s", diff)
		}
		ref := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: rangeOf(t, "10.0.0.0/16").Space.Grid.Block(addr)}
		if err := c.store.Ask(ctx, "a", ref); err != nil {
			t.Error(err)
		}
		bell <- struct{}{}
		time.Sleep(time.Second)
		if b, err := c.store.GetBlock(ctx, ref); err != nil || b.Mode != ipam.Shared {
			t.Errorf("a second after the bell: %+v, %v", b, err)
		}
		stop()
		<-ended
	})
}

// A node that doesn't share its blocks isn't asked over and over by the pods
// that wait for it.
func TestDeafNodeIsPolledRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.node("deaf").add("c0", "10.0.0.0/24")
		held := c.nodes["deaf"].add("c1", "10.0.0.0/24")[0]
		c.store.ResetCounts()
		_, err := c.node("b").Allocate(t.Context(), exact(t, "x", held.String(), "10.0.0.0/24"))
		if !errors.Is(err, ipam.ErrNotReady) {
			t.Error(err)
		}
		if n := c.store.Counts()[ipamtest.OpGetBlock]; n > 25 {
			t.Errorf("its block was read %d times in %s", n, shareWait)
		}
	})
}
