package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	for name, tc := range map[string]struct {
		in, want, err string
		stream        bool
	}{
		"passes": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`,
			want: "ok  \tp\t0.1s\n1 passed, 0 failed, 0 skipped\n",
		},
		"fails": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: no\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: "    a_test.go:3: no\nFAIL\tp\t0.1s\n0 passed, 1 failed, 0 skipped\n",
			err:  "1 tests failed, 1 packages",
		},
		"skips": {
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: needs root\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"q"}
`,
			want: "0 passed, 0 failed, 1 skipped\np TestA: needs root\n",
		},
		"does not build": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"# p\na.go:1: bad\n"}
{"ImportPath":"p","Action":"build-fail"}
`,
			want: "# p\na.go:1: bad\n0 passed, 0 failed, 0 skipped\n",
			err:  "1 packages or builds failed",
		},
		"dies in a test": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"killed\n"}
`,
			want: "0 passed, 0 failed, 0 skipped\nkilled\n",
			err:  "1 tests without an outcome",
		},
		"not an event": {in: "go: no such module\n", want: "go: no such module\n0 passed, 0 failed, 0 skipped\n", err: "failed"},
		"stream": {
			stream: true,
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
`,
			want: "=== RUN   TestA\n1 passed, 0 failed, 0 skipped\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			skips := filepath.Join(t.TempDir(), "skipped")
			err := run(strings.NewReader(tc.in), &out, skips, tc.stream, false)
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error = %v, want %q", err, tc.err)
			}
			got := out.String()
			if strings.Contains(tc.want, "needs root") {
				var summary strings.Builder
				if err := run(nil, &summary, skips, false, true); err != nil {
					t.Fatal(err)
				}
				got += strings.TrimLeft(strings.TrimPrefix(summary.String(), "\nSkipped, and why:\n"), " ")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSummaryWithoutSkips(t *testing.T) {
	var out strings.Builder
	if err := run(nil, &out, filepath.Join(t.TempDir(), "none"), false, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("\nNo test was skipped.\n", out.String()); diff != "" {
		t.Error(diff)
	}
}
