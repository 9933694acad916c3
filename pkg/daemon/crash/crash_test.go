// Package crash kills the real daemon at every step that the source marks as a
// failpoint and shows what a runtime sees then. The list of steps is read from
// the source, so a new one can't be forgotten.
package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// failpoints are the literals of all calls of failpoint.Hit in the packages
// that the daemon is made of.
func failpoints(t *testing.T) []string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, top := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			found, err := failpointsIn(path)
			names = append(names, found...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func failpointsIn(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || fun.Sel.Name != "Hit" {
			return true
		}
		if pkg, ok := fun.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
			return true
		}
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			err = fmt.Errorf("%s: the name of a failpoint must be a literal", path)
			return false
		}
		name, unquoteErr := strconv.Unquote(literal.Value)
		err = unquoteErr
		names = append(names, name)
		return true
	})
	return names, err
}

const (
	primaryConf = `{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR/leases",
  "ranges":[[{"subnet":"10.88.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"tuning","sysctl":{"net.ipv4.conf.eth0.arp_filter":"1"}}]}`
	secondConf = `{"cniVersion":"1.0.0","type":"bridge","bridge":"br1","isGateway":true,
  "ipam":{"type":"host-local","dataDir":"$DIR/leases","ranges":[[{"subnet":"10.99.0.0/24"}]]}}`
	selection = `[{"name":"second","default-route":["10.99.0.1"]}]`
)

// bed is one node, and how often it was used.
type bed struct {
	*node.Node
	net  *testnet.Net
	runs int
	// traced is the log of the last daemon that ran with a failpoint set.
	traced string
}

func newBed(t *testing.T, bin node.Binaries) *bed {
	t.Helper()
	net := testnet.New(t)
	n := node.New(t, net.Host("node"), bin, t.TempDir())
	n.Write("net.d/10-pods.conflist", primaryConf)
	n.Network("second", secondConf)
	n.Network("broken", `{"cniVersion":"1.0.0","type":"no-such-plugin"}`)
	return &bed{Node: n, net: net}
}

func (b *bed) sandbox() (node.Sandbox, *testnet.Host) {
	b.runs++
	pod := b.net.Host(fmt.Sprintf("pod%d", b.runs))
	return node.Sandbox{
		ContainerID: fmt.Sprintf("container%d", b.runs), Netns: pod.Path(), Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod",
		Capabilities: map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"k8s.v1.cni.cncf.io/networks": selection}},
	}, pod
}

// clean asserts that nothing is left of a sandbox.
func (b *bed) clean(t *testing.T, pod *testnet.Host) {
	t.Helper()
	if left := b.Left("cni0", "br1"); len(left) > 0 {
		t.Errorf("left on the node: %v", left)
	}
	links, err := pod.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) > 0 {
		t.Errorf("left in the pod: %v", links)
	}
}

// awaitClean waits until a restarted daemon has finished what was begun.
func (b *bed) awaitClean(t *testing.T, pod *testnet.Host) {
	t.Helper()
	b.await(t, pod, func(links, left []string) bool { return len(links) == 0 && len(left) == 0 })
}

// awaitCleanOrWhole is for an ADD whose answer was lost: when it had been
// committed it stands until its DEL, else it is undone without being asked.
func (b *bed) awaitCleanOrWhole(t *testing.T, pod *testnet.Host) {
	t.Helper()
	b.await(t, pod, func(links, left []string) bool {
		committed := slices.ContainsFunc(left, func(s string) bool { return strings.HasSuffix(s, "@eth0.journal") }) && len(links) == 2
		return committed || len(links) == 0 && len(left) == 0
	})
}

func (b *bed) await(t *testing.T, pod *testnet.Host, done func(links, left []string) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		links, err := pod.Interfaces()
		if err == nil && done(links, b.Left("cni0", "br1")) {
			return
		}
	}
	b.clean(t, pod)
}

// whole asserts that an ADD's result is in place.
func (b *bed) whole(t *testing.T, pod *testnet.Host) {
	t.Helper()
	links, err := pod.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(links)
	if diff := cmp.Diff([]string{"eth0", "net1"}, links); diff != "" {
		t.Errorf("interfaces in the pod (-want +got):\n%s", diff)
	}
}

// TestKillAtEachStep plays each scene once to see which steps it passes and how
// often, and then again for every step and every time, with a kill there: the
// daemon is started again and what a runtime may count on is asserted.
func TestKillAtEachStep(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	bin, err := node.Build(ctx, t.TempDir(), "failpoint")
	if err != nil {
		t.Fatal(err)
	}
	names := failpoints(t)
	if len(names) < 20 {
		t.Fatalf("only %d failpoints found in the source: %v", len(names), names)
	}
	b := newBed(t, bin)
	hits := map[string]int{}
	for scene, play := range map[string]func(*testing.T, string) bool{
		"start": b.start00Meta, "add": b.add, "undo": b.undo, "del": b.del, "spool": b.spool,
	} {
		play(t, "trace")
		for name, times := range b.passed() {
			t.Run(scene+"/"+name, func(t *testing.T) {
				for n := 1; n <= times; n++ {
					if play(t, fmt.Sprintf("%s:%d", name, n)) {
						hits[name]++
					}
				}
			})
		}
	}
	report(t, names, hits)
}

// passed counts the steps in the log of a traced daemon.
func (b *bed) passed() map[string]int {
	times := map[string]int{}
	for line := range strings.Lines(b.traced) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "failpoint passed: "); ok {
			times[name]++
		}
	}
	return times
}

// report says which steps were reached, and fails for one that never was.
func report(t *testing.T, names []string, hits map[string]int) {
	t.Helper()
	total := 0
	for _, name := range names {
		total += hits[name]
		if hits[name] == 0 && !elsewhere(name) {
			t.Errorf("failpoint %s was never reached by ADD, DEL or the start: is it dead?", name)
		}
	}
	t.Logf("%d kills at %d failpoints", total, len(names))
}

// elsewhere are steps that this test's ADD and DEL don't pass; the tests of
// their own packages do.
func elsewhere(name string) bool {
	return slices.ContainsFunc([]string{"kube-", "install-", "wal.", "dir.", "ipam-pools-", "reservation-", "whereabouts-"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// start00Meta kills a daemon that has to write 00-meta.conf and to clear away
// what a killed one left of it: the file is absent or whole at every moment.
func (b *bed) start00Meta(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	conf := filepath.Join(b.Dir, "net.d", "00-meta.conf")
	b.Write("net.d/.00-meta.conf.tmp-1", "{")
	if err := os.Remove(conf); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	b.armed(failpoint)
	killed = b.Ended()
	b.traced = b.Log()
	if data, err := os.ReadFile(conf); err == nil && !json.Valid(data) {
		t.Errorf("00-meta.conf is not whole: %q", data)
	}
	if killed {
		b.start()
	}
	if left, err := filepath.Glob(filepath.Join(b.Dir, "net.d", ".*")); err != nil || len(left) > 0 {
		t.Errorf("left in the configuration folder: %v, %v", left, err)
	}
	b.Signal(os.Interrupt)
	return killed
}

// add kills an ADD: without an answer it is undone without being asked, or
// stands whole until its DEL; its retry works, and its DEL frees everything.
func (b *bed) add(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.sandbox()
	b.armed(failpoint)
	reply := b.Plugin("ADD", s)
	killed = b.died()
	b.start()
	switch {
	case reply.Err == nil:
		b.whole(t, pod)
	case !killed:
		t.Fatalf("ADD failed without a kill: %v\n%s", reply.Err, b.Log())
	default:
		b.awaitCleanOrWhole(t, pod)
		if b.runs%2 == 0 {
			b.retry(t, s, pod)
		}
	}
	b.mustDel(t, s, pod)
	b.Signal(os.Interrupt)
	pod.Remove()
	return killed
}

// undo kills an ADD whose third network can't be attached.
func (b *bed) undo(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.sandbox()
	s.Capabilities = map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{
		"k8s.v1.cni.cncf.io/networks": `[{"name":"second","default-route":["10.99.0.1"]},{"name":"broken"}]`,
	}}
	b.armed(failpoint)
	if reply := b.Plugin("ADD", s); reply.Err == nil {
		t.Errorf("ADD with a broken network succeeded")
	}
	killed = b.died()
	if !killed {
		b.clean(t, pod)
	}
	b.start()
	b.awaitClean(t, pod)
	b.Signal(os.Interrupt)
	pod.Remove()
	return killed
}

// del kills a DEL; the plugin spools it then or the runtime asks again, and
// either way the set is gone in the end.
func (b *bed) del(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.added(t)
	b.armed(failpoint)
	reply := b.Plugin("DEL", s)
	killed = b.died()
	if reply.Err != nil && !killed {
		t.Fatalf("DEL failed without a kill: %v\n%s", reply.Err, b.Log())
	}
	b.start()
	b.mustDel(t, s, pod)
	b.Signal(os.Interrupt)
	b.clean(t, pod)
	pod.Remove()
	return killed
}

// spool kills a daemon that works off a DEL which found no daemon.
func (b *bed) spool(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	s, pod := b.added(t)
	if reply := b.Plugin("DEL", s); reply.Err != nil {
		t.Fatalf("DEL without a daemon: %v", reply.Err)
	}
	b.armed(failpoint)
	b.await(t, pod, func(_, left []string) bool { return len(left) == 0 || b.Ended() })
	killed = b.Ended()
	b.traced = b.Log()
	if killed {
		b.start()
	}
	b.awaitClean(t, pod)
	b.Signal(os.Interrupt)
	pod.Remove()
	return killed
}

// added is a sandbox with its networks; the daemon has ended.
func (b *bed) added(t *testing.T) (node.Sandbox, *testnet.Host) {
	t.Helper()
	s, pod := b.sandbox()
	b.start()
	if reply := b.Plugin("ADD", s); reply.Err != nil {
		t.Fatalf("ADD: %v\n%s", reply.Err, b.Log())
	}
	b.Signal(os.Interrupt)
	return s, pod
}

// armed starts the daemon with a failpoint.
func (b *bed) armed(failpoint string) { b.start("META_CNI_FAILPOINT=" + failpoint) }

// died says whether the daemon was killed by its failpoint, also after it had
// answered: it waits for the mark of the failpoint or for the request's line in
// the log, one of which is the last thing. If it lives, it is ended now.
func (b *bed) died() bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		log := b.Log()
		b.traced = log
		if strings.Contains(log, "failpoint hit: ") {
			b.AwaitEnd(5 * time.Second)
			return true
		}
		if strings.Contains(log, `"msg":"request"`) {
			b.Signal(os.Kill)
			return false
		}
	}
	b.Signal(os.Kill)
	return false
}

// retry is the runtime's second ADD with the same ID.
func (b *bed) retry(t *testing.T, s node.Sandbox, pod *testnet.Host) {
	t.Helper()
	if reply := b.Plugin("ADD", s); reply.Err != nil {
		t.Errorf("ADD asked again: %v\n%s", reply.Err, b.Log())
	}
	b.whole(t, pod)
}

func (b *bed) mustDel(t *testing.T, s node.Sandbox, pod *testnet.Host) {
	t.Helper()
	if reply := b.Plugin("DEL", s); reply.Err != nil {
		t.Errorf("DEL: %v\n%s", reply.Err, b.Log())
	}
	b.awaitClean(t, pod)
}

// start starts the daemon with an empty log.
func (b *bed) start(env ...string) {
	_ = os.Truncate(filepath.Join(b.Dir, "log"), 0)
	b.Start(env...)
}
