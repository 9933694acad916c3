// Package crash kills the real daemon at every step that the source marks as a
// failpoint and shows what a runtime sees then. The list of steps is read from
// the source, so a new one can't be forgotten.
package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

const (
	primaryConf = `{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR/leases",
  "ranges":[[{"subnet":"10.88.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"tuning","sysctl":{"net.ipv4.conf.eth0.arp_filter":"1"}}]}`
	secondConf = `{"cniVersion":"1.0.0","type":"bridge","bridge":"br1","isGateway":true,
  "ipam":{"type":"host-local","dataDir":"$DIR/leases","ranges":[[{"subnet":"10.99.0.0/24"}]]}}`
	selection = `[{"name":"second","default-route":["10.99.0.1"]}]`
)

// bed is one node and its pods.
type bed struct {
	*node.Node
	net  *testnet.Net
	pods int
	// traced is the log of the last daemon that ran with a failpoint set.
	traced string
	// selects is what a pod's annotation says, links what it has then.
	selects string
	links   []string
}

func newBed(t *testing.T, bin node.Binaries) *bed {
	t.Helper()
	net := testnet.New(t)
	n := node.New(t, net.Host("node"), bin, t.TempDir())
	n.Write("net.d/10-pods.conflist", primaryConf)
	n.Network("second", secondConf)
	n.Network("broken", `{"cniVersion":"1.0.0","type":"no-such-plugin"}`)
	return &bed{Node: n, net: net, selects: selection, links: []string{"eth0", "net1"}}
}

func (b *bed) sandbox() (node.Sandbox, *testnet.Host) {
	b.pods++
	pod := b.net.Host(fmt.Sprintf("pod%d", b.pods))
	return node.Sandbox{
		ContainerID: fmt.Sprintf("container%d", b.pods), Netns: pod.Path(), Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod",
		Capabilities: map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"k8s.v1.cni.cncf.io/networks": b.selects}},
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
		committed := slices.ContainsFunc(left, func(s string) bool { return strings.HasSuffix(s, "@eth0.journal") }) && len(links) == len(b.links)
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
	if diff := cmp.Diff(b.links, links); diff != "" {
		t.Errorf("interfaces in the pod (-want +got):\n%s", diff)
	}
}

// scene is what is killed, each time on a node of its own.
type scene struct {
	name string
	bed  func(*testing.T, node.Binaries) *bed
	// play does it with a failpoint set and says whether that killed the daemon.
	play func(b *bed, t *testing.T, failpoint string) (killed bool)
	// kills chooses of the steps that a traced play passes before the daemon is
	// ready and in all.
	kills func(start, all steps) []kill
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
	hits := steps{}
	for _, s := range []scene{
		{"start", newBed, (*bed).start00Meta, everyStep},
		{"add", newBed, (*bed).add, afterStart},
		{"undo", newBed, (*bed).undo, afterStart},
		{"del", newBed, (*bed).del, afterStart},
		{"spool", newBed, (*bed).spool, everyStepOfRequests},
		{"addresses-space", withoutSpace, (*bed).addressesAdd, firstOfStore},
		{"addresses-add", withSpace, (*bed).addressesAdd, addressesThinned},
		{"addresses-del", resting, (*bed).addressesDel, addressesThinned},
		{"addresses-share", withSpace, (*bed).addressesShare, ofAddresses},
	} {
		t.Run(s.name, func(t *testing.T) { s.killAll(t, bin, hits) })
	}
	report(t, names, hits)
}

// playsAtOnce is more than there are processors: most of a play is waiting.
const playsAtOnce = 4

func (s scene) killAll(t *testing.T, bin node.Binaries, hits steps) {
	t.Helper()
	traced := s.bed(t, bin)
	s.play(traced, t, "trace")
	slots := make(chan struct{}, playsAtOnce)
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, k := range s.kills(traced.passed()) {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			t.Run(k.String(), func(t *testing.T) {
				if s.play(s.bed(t, bin), t, k.String()) {
					mu.Lock()
					defer mu.Unlock()
					hits[k.step]++
				}
			})
		})
	}
	group.Wait()
}

// start00Meta kills a daemon that has to write 00-meta.conf and to clear away
// what a killed one left of it: the file is absent or whole at every moment.
func (b *bed) start00Meta(t *testing.T, failpoint string) (killed bool) {
	t.Helper()
	conf := filepath.Join(b.Dir, "net.d", "00-meta.conf")
	b.Write("net.d/.00-meta.conf.tmp-1", "{")
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
		if asksAgain(failpoint) {
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

// asksAgain says that the runtime tries a killed ADD again: after each second
// kill.
func asksAgain(failpoint string) bool {
	n := failpoint[len(failpoint)-1] - '0'
	return n%2 == 0
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
