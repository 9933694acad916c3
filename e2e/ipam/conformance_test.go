//go:build e2e

package ipam

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// TestStore is the suite of all stores, on the real API server with the rights
// of a daemon.
func TestStore(t *testing.T) {
	ipamtest.Store(t, ipamtest.Opener{Fresh: func(t *testing.T) func(*testing.T) ipam.Store {
		wipe(t)
		for _, name := range []string{"n1", "n2", "n3"} {
			if err := open(t).EnsureNode(t.Context(), node(name)); err != nil {
				t.Fatal(err)
			}
		}
		return func(t *testing.T) ipam.Store { return open(t) }
	}})
	wipe(t)
}

// wipe removes all objects of our group.
func wipe(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"IPClaim", "IPBlock", "AddressSpace", "IPPool", "NodeIPAM"} {
		client := objects(t, kind)
		if err := client.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
