package ipamtest_test

import (
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

func TestMemory(t *testing.T) {
	ipamtest.Store(t, ipamtest.Opener{Fresh: func(*testing.T) func(*testing.T) ipam.Store {
		m := ipamtest.NewMemory()
		return func(*testing.T) ipam.Store { return m.As("") }
	}})
}
