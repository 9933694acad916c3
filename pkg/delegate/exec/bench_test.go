package exec

import (
	"fmt"
	osexec "os/exec"
	"strings"
	"testing"
	"time"
)

// BenchmarkRun compares a trivial plugin run by the Runner with the same
// process run by os/exec alone; the ratio is what the Runner costs.
func BenchmarkRun(b *testing.B) {
	w := newBench(b, nil)
	writeScript(b, w.path("trivial"), `read -r conf; echo '{"cniVersion":"1.0.0"}'`)
	call := w.call(list("1.0.0", `"type":"trivial"`))
	plain := func() error {
		cmd := osexec.Command(w.path("trivial"))
		cmd.Stdin = strings.NewReader(list("1.0.0", `"type":"trivial"`) + "\n")
		out, err := cmd.Output()
		if err == nil && len(out) == 0 {
			err = fmt.Errorf("no output")
		}
		return err
	}
	run := func() error { _, err := w.Add(b.Context(), call); return err }
	var took [2]time.Duration
	for b.Loop() {
		for i, f := range []func() error{plain, run} {
			start := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(took[0].Microseconds())/float64(b.N), "plain-µs/op")
	b.ReportMetric(float64(took[1].Microseconds())/float64(b.N), "runner-µs/op")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}
