//go:build e2e

package ipam

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	code := m.Run()
	if all := flag.Lookup("test.run").Value.String() == ""; code == 0 && all {
		code = compareRights(s)
	}
	return code
}

// compareRights: the daemons of all tests have used every right on our objects
// that the manifest gives them. One that nobody used is too much; one that
// lacked has failed a test.
func compareRights(s *apiserver.Server) int {
	calls, err := s.Calls()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	used := map[string]bool{}
	for _, c := range calls {
		if c.User == apiserver.Daemon && (c.Code < 300 || c.Code == 404) { // not there, but allowed
			used[c.Verb+" "+c.Resource] = true
		}
	}
	given, err := s.Rights(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if diff := cmp.Diff(given, slices.Sorted(maps.Keys(used))); diff != "" {
		fmt.Fprintf(os.Stderr, "FAIL: rights of deployments/meta-cni.yaml and what daemons used (-given +used):\n%s", diff)
		return 1
	}
	return 0
}
