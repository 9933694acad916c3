//go:build e2e

package ipam

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
)

// server is one for all tests of the package; each works in address spaces of
// its own.
var server *apiserver.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	s, err := apiserver.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := s.Install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = s
	return m.Run()
}
