package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// binaries are built once for all tests of this package.
var binaries node.Binaries

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "meta-cni-test-")
	if err == nil {
		binaries, err = node.Build(contextBackground(), dir, "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const (
	primaryConf = `{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR/leases",
  "ranges":[[{"subnet":"10.88.0.0/23"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`
	secondConf = `{"cniVersion":"1.0.0","type":"bridge","bridge":"br1","isGateway":true,
  "ipam":{"type":"host-local","dataDir":"$DIR/leases","ranges":[[{"subnet":"10.99.0.0/23"}]]}}`
)

// bed is a node with a primary and a second network.
type bed struct {
	*node.Node
	net  *testnet.Net
	pods int
}

func newBed(tb testing.TB) *bed {
	tb.Helper()
	net := testnet.New(tb)
	n := node.New(tb, net.Host("node"), binaries, tb.TempDir())
	n.Write("net.d/10-pods.conflist", primaryConf)
	n.Network("second", secondConf)
	return &bed{Node: n, net: net}
}

// sandbox is a new pod that selects networks in the comma form.
func (b *bed) sandbox(networks string) (node.Sandbox, *testnet.Host) {
	b.pods++
	pod := b.net.Host(fmt.Sprintf("pod%d", b.pods))
	s := node.Sandbox{ContainerID: fmt.Sprintf("c%d", b.pods), Netns: pod.Path(), Args: "IgnoreUnknown=1"}
	if networks != "" {
		s.Args += ";META_CNI_NETWORKS=" + networks
	}
	return s, pod
}

func (b *bed) must(tb testing.TB, command string, s node.Sandbox) node.Reply {
	tb.Helper()
	reply := b.Plugin(command, s)
	if reply.Err != nil {
		tb.Fatalf("%s %s: %v\n%s", command, s.ContainerID, reply.Err, b.Log())
	}
	return reply
}

func (b *bed) wantError(tb testing.TB, command string, s node.Sandbox, code uint, words ...string) {
	tb.Helper()
	reply := b.Plugin(command, s)
	if reply.Err == nil {
		tb.Fatalf("%s %s succeeded, want code %d", command, s.ContainerID, code)
	}
	if reply.Code() != code {
		tb.Errorf("%s: code %d, want %d: %v", command, reply.Code(), code, reply.Err)
	}
	for _, word := range words {
		if !strings.Contains(reply.Err.Error(), word) {
			tb.Errorf("%s: the message lacks %q: %v", command, word, reply.Err)
		}
	}
}

// clean asserts that nothing of any pod is left on the node or in the pod.
func (b *bed) clean(tb testing.TB, pods ...*testnet.Host) {
	tb.Helper()
	if left := b.left(); len(left) > 0 {
		tb.Errorf("left: %v\n%s", left, b.Log())
	}
	for _, pod := range pods {
		wantLinks(tb, pod)
	}
}

func (b *bed) left() []string { return b.Left("cni0", "br1") }

func wantLinks(tb testing.TB, pod *testnet.Host, want ...string) {
	tb.Helper()
	links, err := pod.Interfaces()
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(links)
	if diff := cmp.Diff(want, links, cmp.Transformer("nil", func(s []string) string { return strings.Join(s, " ") })); diff != "" {
		tb.Errorf("interfaces of %s (-want +got):\n%s", pod.Name, diff)
	}
}

// eventually waits for a condition; it is for what the daemon does by itself.
func eventually(tb testing.TB, what string, limit time.Duration, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// script installs a plugin that is a shell script.
func (b *bed) script(tb testing.TB, name, body string) {
	tb.Helper()
	dir := filepath.Join(b.Dir, "plugins")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	text := "#!/bin/sh\n" + strings.ReplaceAll(body, "$DIR", b.Dir)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil { //nolint:gosec // a plugin is executable
		tb.Fatal(err)
	}
	b.addBinDir(tb)
}

// addBinDir makes the daemon look for plugins in the folder of scripts too.
func (b *bed) addBinDir(tb testing.TB) {
	tb.Helper()
	dir := filepath.Join(b.Dir, "plugins")
	conf := filepath.Join(b.Dir, "config.yaml")
	data, err := os.ReadFile(conf)
	if err != nil {
		tb.Fatal(err)
	}
	data = []byte(strings.Replace(string(data), "binDirs: [", "binDirs: ["+dir+", ", 1))
	if err := os.WriteFile(conf, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}
