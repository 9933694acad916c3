package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out, ""); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if width(line) > 100 {
			t.Errorf("%d columns: %s", width(line), line)
		}
	}
}

// Whenever Ctrl-C comes, the demo says so and leaves nothing.
func TestInterruption(t *testing.T) {
	bin, err := node.Build(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"meta-cnid runs", "ADD in", "Traffic", "CHECK:", "DEL in"} {
		t.Run(when, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			ctx, cancel := context.WithCancel(t.Context())
			err := run(ctx, &trigger{text: when, do: cancel}, bin)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("run = %v, want context.Canceled", err)
			}
			if err := nothingLeft(); err != nil {
				t.Error(err)
			}
			left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
			if err != nil || len(left) > 0 {
				t.Errorf("files are left: %v (%v)", left, err)
			}
		})
	}
}

func TestDraw(t *testing.T) {
	got := draw(view{hosts: []hostView{
		{name: "a", nic: "eth0  192.0.2.1/24", cable: "bridge br0", pods: []podView{
			{name: "p", interfaces: []interfaceView{{name: "net1", addresses: "10.0.0.1/24", note: "default via 10.0.0.2", to: "macvlan on eth0"}}},
		}},
		{name: "b", nic: "eth0  192.0.2.2/24", cable: "bridge br0"},
		{name: "r", nic: "eth0  192.0.2.3/24", cable: "bridge br0", extra: "something"},
	}})
	want, err := os.ReadFile("testdata/picture.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("picture: %s\n%s", diff, got)
	}
}

// trigger does something when a text is written.
type trigger struct {
	text string
	do   func()
}

func (w *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.text)) {
		w.do()
	}
	return len(p), nil
}
