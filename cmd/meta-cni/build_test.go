package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// maxSize is the bar for the stripped program, in bytes.
const maxSize = 3_000_000

func TestProgramIsSmallAndStatic(t *testing.T) {
	path := program(t, "meta-cni")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > maxSize {
		t.Errorf("%d bytes, at most %d: see what was imported", info.Size(), maxSize)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil || len(libraries) > 0 {
		t.Error("needs", libraries, err)
	}
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("needs a dynamic linker")
		}
	}
}

func TestProgramImportsTheStandardLibraryOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"github.com/meta-cni/meta-cni/pkg/wire", "github.com/meta-cni/meta-cni/cmd/meta-cni"}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("imports %v, want %v", got, want)
	}
}

// BenchmarkRoundTrip runs the program against an idle daemon and, in turn, an
// empty Go program: the difference is what the plugin costs.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b)
	w.serve(b, echo)
	c := call{env: env("ADD"), stdin: w.conf(b, map[string]any{"runtimeConfig": strings.Repeat("x", 2048)})}
	empty := filepath.Join(filepath.Dir(program(b, "meta-cni")), "empty")
	var plugin, nothing []time.Duration
	for b.Loop() {
		o := c.run(b)
		if o.code != 0 {
			b.Fatal(o.stdout)
		}
		plugin = append(plugin, o.took)
		cmd := c.cmd(b)
		cmd.Path = empty
		nothing = append(nothing, runCmd(b, cmd).took)
	}
	p, n := median(plugin), median(nothing)
	b.ReportMetric(float64(p.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(n.Microseconds())/1000, "empty-p50-ms")
	b.ReportMetric(float64(p)/float64(n), "x-empty")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
