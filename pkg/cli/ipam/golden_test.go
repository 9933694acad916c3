package ipam

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meta-cni/meta-cni/pkg/cli"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// now is the time of all stories.
func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// metactl runs a command line as the program does and gives all that a person
// sees. What stands after < is what they type.
func metactl(t *testing.T, kubeconfig, line string) string {
	t.Helper()
	line, typed, _ := strings.Cut(line, " <")
	var seen bytes.Buffer
	streams := cli.Streams{In: strings.NewReader(strings.TrimSpace(typed) + "\n"), Out: &seen, Err: &seen}
	e := &env{
		Streams: streams, now: now,
		host: func() (string, error) { return "host-a", nil },
		boot: func() (string, error) { return "boot-now", nil },
	}
	args := append([]string{"ipam"}, strings.Fields(line)...)
	if kubeconfig != "" && !strings.Contains(line, "--kubeconfig") && !strings.Contains(line, "--dir") {
		args = append(args, "--kubeconfig", kubeconfig)
	}
	code := cli.Run(context.Background(), cli.Root("metactl", "v0", streams, newCommand(e)), args, &seen)
	fmt.Fprintf(&seen, "exit code %d\n", code)
	return seen.String()
}

// TestStories: each file has the objects of a cluster, and commands, in their
// order, with what they print.
func TestStories(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no stories", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			api, kubeconfig := newFakeAPI(t, archive.Files[0].Data)
			host := ""
			for i, f := range archive.Files[1:] {
				// What the API server doesn't serve, or to whom.
				if kind, ok := strings.CutPrefix(f.Name, "missing "); ok {
					api.missing = kind
					continue
				}
				if kind, ok := strings.CutPrefix(f.Name, "forbidden "); ok {
					api.forbidden = kind
					continue
				}
				host = strings.TrimPrefix(hostOf(t, kubeconfig), "http://")
				got := strings.ReplaceAll(metactl(t, kubeconfig, f.Name), host, "the.cluster")
				if *update {
					archive.Files[i+1].Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("metactl ipam %s (-want +got):\n%s", f.Name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// hostOf is the API server's address, which differs in each run.
func hostOf(t *testing.T, kubeconfig string) string {
	t.Helper()
	data, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), `server: "`)
	url, _, _ := strings.Cut(rest, `"`)
	return url
}

// TestHelp: the texts that explain the commands.
func TestHelp(t *testing.T) {
	const path = "testdata/help.golden"
	var all strings.Builder
	for _, verb := range []string{"", "show", "check", "release", "import-whereabouts"} {
		fmt.Fprintf(&all, "== metactl ipam %s\n%s", verb, metactl(t, "", verb+" --help"))
	}
	if *update {
		if err := os.WriteFile(path, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), all.String()); diff != "" {
		t.Errorf("help (-want +got):\n%s", diff)
	}
}
