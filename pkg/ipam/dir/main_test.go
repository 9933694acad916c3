package dir

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir)
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	ipamtest.Store(t, ipamtest.Opener{Fresh: func(t *testing.T) func(*testing.T) ipam.Store {
		dir := t.TempDir()
		return func(t *testing.T) ipam.Store { return open(t, dir) }
	}})
}
