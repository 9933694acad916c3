//go:build failpoint

// Package failpoint marks the steps at which a test may end the process as
// kill -9 would; this build has them armed.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the fatal step: "name" or "name:n"; "trace" kills nowhere and
// writes a line for each step that is passed.
const Env = "META_CNI_FAILPOINT"

// Mark begins the line on standard error that the process writes last, Trace
// the line for a step that is passed.
const (
	Mark  = "failpoint hit: "
	Trace = "failpoint passed: "
)

type counter struct{ hits atomic.Int64 }

var seen counter //nolint:gochecknoglobals // process-wide by nature, and only in the test build

// Hit ends the process by SIGKILL when the named step is the one in the
// environment and has been passed as often as asked for.
func Hit(name string) {
	want, nth, counted := strings.Cut(os.Getenv(Env), ":")
	if want == "trace" {
		_, _ = os.Stderr.WriteString(Trace + name + "\n")
	}
	if want != name {
		return
	}
	n := int64(1)
	if counted {
		parsed, err := strconv.ParseInt(nth, 10, 64)
		if err != nil {
			panic("META_CNI_FAILPOINT: " + err.Error())
		}
		n = parsed
	}
	if seen.hits.Add(1) != n {
		return
	}
	_, _ = os.Stderr.WriteString(Mark + name + "\n")
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
