package daemon_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

func contextBackground() context.Context { return context.Background() }

func TestPodWithThreeNetworks(t *testing.T) {
	b := newBed(t)
	b.Start()
	s, pod := b.sandbox("second,second@extra0")
	first := b.must(t, "ADD", s)
	wantLinks(t, pod, "eth0", "extra0", "net1")
	result, err := first.Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(result.IPs) != 1 || !strings.HasPrefix(result.IPs[0].Address.String(), "10.88.") {
		t.Errorf("result isn't the primary's: %v", result.IPs)
	}
	again := b.must(t, "ADD", s)
	if diff := cmp.Diff(string(first.Stdout), string(again.Stdout)); diff != "" {
		t.Errorf("the same ADD again gave another result (-first +again):\n%s", diff)
	}
	b.must(t, "CHECK", s)
	b.must(t, "DEL", s)
	b.must(t, "DEL", s)
	b.clean(t, pod)
	b.wantError(t, "CHECK", s, 3, "has no attachments")
}

func TestResultInEachVersion(t *testing.T) {
	b := newBed(t)
	b.Start()
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		s, _ := b.sandbox("second")
		s.Extra = map[string]any{"cniVersion": version}
		reply := b.must(t, "ADD", s)
		if want := fmt.Sprintf(`"cniVersion":%q`, version); !strings.Contains(string(reply.Stdout), want) {
			t.Errorf("result lacks %s: %s", want, reply.Stdout)
		}
		b.must(t, "DEL", s)
	}
}

// TestRefused: each mistake is an error that names it, before anything was
// touched.
func TestRefused(t *testing.T) {
	b := newBed(t)
	b.Network("traversal", `{"cniVersion":"1.0.0","type":"../../bin/sh"}`)
	b.Network("meta", `{"cniVersion":"1.0.0","type":"multus"}`)
	b.Network("fails", `{"cniVersion":"1.0.0","type":"fails"}`)
	b.Network("missing", `{"cniVersion":"1.0.0","type":"no-such-plugin"}`)
	b.script(t, "fails", `cat >/dev/null; test "$CNI_COMMAND" = ADD || exit 0; echo '{"code":120,"msg":"no carrier"}'; exit 1`)
	b.Start()
	for name, tc := range map[string]struct {
		networks string
		code     uint
		words    []string
	}{
		"typo":            {"secnod", 7, []string{"default/secnod", "not found"}},
		"traversal":       {"traversal", 7, []string{"default/traversal", "../../bin/sh"}},
		"meta in meta":    {"meta", 7, []string{"multus"}},
		"annotation":      {"a/b/c", 7, []string{"a/b/c"}},
		"double name":     {"second@x,second@x", 7, []string{"x"}},
		"primary's name":  {"second@eth0", 7, []string{"eth0", "primary"}},
		"missing plugin":  {"second,missing", 7, []string{"default/missing", "no-such-plugin"}},
		"second of three": {"second,fails,second", 120, []string{"default/fails", "no carrier"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, pod := b.sandbox(tc.networks)
			b.wantError(t, "ADD", s, tc.code, tc.words...)
			b.clean(t, pod)
		})
	}
}

func TestNamespaceIsRefused(t *testing.T) {
	b := newBed(t)
	b.Start()
	file := filepath.Join(b.Dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path string
		code uint
	}{
		"absent": {"/run/netns/no-such", 3},
		"file":   {file, 4},
		"host":   {"/proc/1/ns/net", 4},
	} {
		t.Run(name, func(t *testing.T) {
			b.wantError(t, "ADD", node.Sandbox{ContainerID: "c", Netns: tc.path}, tc.code)
			b.clean(t)
		})
	}
}

func TestInterfaceExists(t *testing.T) {
	b := newBed(t)
	b.Start()
	s, pod := b.sandbox("second")
	peer := b.net.Host("peer")
	b.net.Cable(pod, "net1", peer, "x")
	b.wantError(t, "ADD", s, 4, `interface "net1" exists`)
	wantLinks(t, pod, "net1")
	b.clean(t)
}

func TestNetworkFromFile(t *testing.T) {
	b := newBed(t)
	b.Write("net.d/90-by-name.conf", strings.Replace(secondConf, `"type"`, `"name":"by-name","type"`, 1))
	b.Network("by-name", "")
	b.Start()
	s, pod := b.sandbox("by-name")
	b.must(t, "ADD", s)
	wantLinks(t, pod, "eth0", "net1")
	b.must(t, "DEL", s)
	b.clean(t, pod)
}

// TestPrimaryReplaced: a running pod's DEL uses what it was added with, and
// the next ADD uses the new primary, with no restart.
func TestPrimaryReplaced(t *testing.T) {
	b := newBed(t)
	b.Start()
	old, oldPod := b.sandbox("")
	b.must(t, "ADD", old)
	b.Write("net.d/10-pods.conflist", strings.NewReplacer("cni0", "br1", "10.88.", "10.77.", `"pods"`, `"other"`).Replace(primaryConf))
	var pods []*testnet.Host
	eventually(t, "an ADD uses the new primary", 5*time.Second, func() bool {
		s, pod := b.sandbox("")
		pods = append(pods, pod)
		result, err := b.must(t, "ADD", s).Result()
		if err != nil {
			t.Fatal(err)
		}
		b.must(t, "DEL", s)
		return strings.HasPrefix(result.IPs[0].Address.IP.String(), "10.77.")
	})
	b.must(t, "CHECK", old)
	b.must(t, "DEL", old)
	b.clean(t, append(pods, oldPod)...)
}

func TestStatusAndPrimary(t *testing.T) {
	b := newBed(t)
	b.Start()
	reply := b.must(t, "STATUS", node.Sandbox{})
	if reply.Took > 100*time.Millisecond {
		t.Errorf("STATUS took %s, the budget is 100 ms", reply.Took)
	}
	if out, err := b.Run(t.Context(), filepath.Join(string(binaries), "meta-cnid"), "health", "--ready", "--config", filepath.Join(b.Dir, "config.yaml")); err != nil {
		t.Errorf("health: %v %s", err, out)
	}
	b.Signal(syscall.SIGTERM)
	b.wantError(t, "STATUS", node.Sandbox{}, 50, "meta-cni.sock")
	if _, err := os.Stat(filepath.Join(b.Dir, "net.d", "00-meta.conf")); err != nil {
		t.Errorf("the configuration is gone with the daemon: %v", err)
	}
}

// TestGC removes what the runtime doesn't name and leaves the rest.
func TestGC(t *testing.T) {
	b := newBed(t)
	b.Start()
	lost, lostPod := b.sandbox("second")
	kept, keptPod := b.sandbox("second")
	b.must(t, "ADD", lost)
	b.must(t, "ADD", kept)
	b.wantError(t, "GC", node.Sandbox{}, 6, "valid-attachments")
	valid := []map[string]string{{"containerID": kept.ContainerID, "ifname": "eth0"}}
	b.must(t, "GC", node.Sandbox{Extra: map[string]any{"cni.dev/valid-attachments": valid}})
	wantLinks(t, lostPod)
	wantLinks(t, keptPod, "eth0", "net1")
	b.must(t, "CHECK", kept)
	b.must(t, "DEL", kept)
	b.clean(t, lostPod, keptPod)
}

// TestDelWhileDown: the plugin spools the DEL, and the daemon does it at its
// start.
func TestDelWhileDown(t *testing.T) {
	b := newBed(t)
	b.Start()
	s, pod := b.sandbox("second")
	b.must(t, "ADD", s)
	b.Signal(os.Kill)
	other, _ := b.sandbox("")
	b.wantError(t, "ADD", other, 11, "meta-cni.sock")
	b.must(t, "DEL", s)
	b.Start()
	eventually(t, "the spooled DEL is done", 5*time.Second, func() bool { return len(b.left()) == 0 })
	b.clean(t, pod)
}

// TestRebootedNode: namespaces are gone, the journal is not; the runtime's
// DELs free what is on the disk.
func TestNamespaceGone(t *testing.T) {
	b := newBed(t)
	b.Start()
	s, pod := b.sandbox("second")
	b.must(t, "ADD", s)
	pod.Remove()
	s.Netns = ""
	b.must(t, "DEL", s)
	eventually(t, "the kernel removes the veths of the namespace", 5*time.Second, func() bool { return len(b.left()) == 0 })
}

// TestDelOfUnknownAsksThePrimary: an attachment that the journal doesn't know
// is removed by the primary network before DEL is a success.
func TestDelOfUnknownAsksThePrimary(t *testing.T) {
	b := newBed(t)
	b.Start()
	s, pod := b.sandbox("")
	b.must(t, "ADD", s)
	b.Signal(os.Kill)
	for _, dir := range []string{"attachments", "libcni"} {
		if err := os.RemoveAll(filepath.Join(b.Dir, "state", dir)); err != nil {
			t.Fatal(err)
		}
	}
	b.Start()
	b.must(t, "DEL", s)
	b.clean(t, pod)
}

// TestDamagedJournal: a damaged file of a running pod is recovered, from its
// own plan or from the cache of results, and its DEL frees everything.
func TestDamagedJournal(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a step":  func(b []byte) []byte { return append(b[:len(b)-9], "garbage!\n"...) },
		"plan":    func(b []byte) []byte { b[20] ^= 1; return b },
		"empty":   func([]byte) []byte { return nil },
		"garbage": func([]byte) []byte { return []byte("\x00\x01\x02\n\n") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.Start()
			s, pod := b.sandbox("second")
			b.must(t, "ADD", s)
			b.Signal(os.Kill)
			file := filepath.Join(b.Dir, "state", "attachments", "c1@eth0.journal")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage([]byte(strings.TrimRight(string(data), "\x00"))), 0o600); err != nil {
				t.Fatal(err)
			}
			b.Start()
			wantLinks(t, pod, "eth0", "net1")
			if kept, err := filepath.Glob(filepath.Join(b.Dir, "state", "quarantine", "*")); err != nil || len(kept) != 1 {
				t.Errorf("in quarantine: %v, %v", kept, err)
			}
			b.must(t, "CHECK", s)
			b.must(t, "DEL", s)
			b.clean(t, pod)
		})
	}
}

// TestDelThatFails: every other network is removed all the same, the runtime
// is told, and a later try finishes the rest.
func TestDelThatFails(t *testing.T) {
	b := newBed(t)
	b.script(t, "stubborn", `cat >/dev/null
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.0.0"}';;
DEL) test -e $DIR/give-way || { echo '{"code":121,"msg":"device is busy"}'; exit 1; };;
esac`)
	b.Network("stubborn", `{"cniVersion":"1.0.0","type":"stubborn"}`)
	b.Start()
	s, pod := b.sandbox("stubborn,second")
	b.must(t, "ADD", s)
	b.wantError(t, "DEL", s, 121, "default/stubborn", "device is busy", "tried again")
	wantLinks(t, pod)
	b.Signal(os.Kill)
	b.Start()
	b.wantError(t, "DEL", s, 121, "default/stubborn")
	if err := os.WriteFile(filepath.Join(b.Dir, "give-way"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.must(t, "DEL", s)
	b.clean(t, pod)
}

// TestPluginKilled: when the runtime gives up on an ADD, it is undone at once.
func TestPluginKilled(t *testing.T) {
	b := newBed(t)
	b.script(t, "slow", `cat >/dev/null; test "$CNI_COMMAND" = ADD || exit 0; echo $$ > $DIR/started; sleep 60`)
	b.Network("slow", `{"cniVersion":"1.0.0","type":"slow"}`)
	b.Start()
	s, pod := b.sandbox("second,slow")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.PluginContext(ctx, "ADD", s) }()
	eventually(t, "the slow delegate runs", 5*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(b.Dir, "started"))
		return err == nil
	})
	cancel()
	<-done
	eventually(t, "the ADD is undone", 5*time.Second, func() bool { return len(b.left()) == 0 })
	b.clean(t, pod)
}

// TestStopFinishesWhatRuns: SIGTERM waits for a running ADD.
func TestStopFinishesWhatRuns(t *testing.T) {
	b := newBed(t)
	b.script(t, "wait", `cat >/dev/null; test "$CNI_COMMAND" = ADD || exit 0; touch $DIR/started; while ! test -e $DIR/go; do sleep 0.02; done; echo '{"cniVersion":"1.0.0"}'`)
	b.Network("wait", `{"cniVersion":"1.0.0","type":"wait"}`)
	b.Start()
	s, pod := b.sandbox("second,wait")
	done := make(chan node.Reply, 1)
	go func() { done <- b.Plugin("ADD", s) }()
	eventually(t, "the delegate runs", 5*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(b.Dir, "started"))
		return err == nil
	})
	if err := syscall.Kill(b.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.Dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if reply := <-done; reply.Err != nil {
		t.Errorf("the running ADD failed: %v", reply.Err)
	}
	b.AwaitEnd(5 * time.Second)
	wantLinks(t, pod, "eth0", "net1")
	b.Start()
	b.must(t, "DEL", s)
	b.clean(t, pod)
}

// TestStartWithoutAPIServer: the daemon is ready within 3 s when the API
// server can't be reached, and a pod that needs no definition gets its network.
func TestStartWithoutAPIServer(t *testing.T) {
	b := newBed(t)
	b.Write("kubeconfig", `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
 clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}]}`)
	b.Write("config.yaml", fmt.Sprintf("confDir: $DIR/net.d\nstateDir: $DIR/state\nrunDir: $DIR/run\nnodeName: n1\nbinDirs: [%s]\nkubernetes: {kubeconfig: $DIR/kubeconfig}\n", b.Plugins))
	start := time.Now()
	b.Start()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("ready after %s, the budget is 3 s", took)
	}
	s, pod := b.sandbox("")
	s.Args += ";K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u1"
	annotations := map[string]string{}
	s.Capabilities = map[string]any{"io.kubernetes.cri.pod-annotations": annotations}
	b.must(t, "ADD", s)
	wantLinks(t, pod, "eth0")
	b.must(t, "DEL", s)
	annotations["k8s.v1.cni.cncf.io/networks"] = "never-seen"
	s.ContainerID = "c2"
	begin := time.Now()
	b.wantError(t, "ADD", s, 11, "ns/pod", "never-seen")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the error came after %s, the budget is 10 s", took)
	}
	s.ContainerID, s.Capabilities = "c1", map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{}}
	b.wantError(t, "ADD", s, 3, "late ADD")
	b.clean(t, pod)
}

// TestThin runs the same chain without a daemon.
func TestThin(t *testing.T) {
	b := newBed(t)
	b.Start()
	thin := map[string]any{
		"mode": "thin", "stateDir": b.Dir + "/state", "confDir": b.Dir + "/net.d", "objectsDir": b.Dir + "/objects",
	}
	s, pod := b.sandbox("second")
	s.Extra = thin
	b.wantError(t, "ADD", s, 11, "daemon uses this state folder")
	conf := []string{filepath.Join(string(binaries), "meta-cnid"), "conf", "--config", filepath.Join(b.Dir, "config.yaml")}
	if out, err := b.Run(t.Context(), conf...); err == nil || !strings.Contains(out, "daemon uses this state folder") {
		t.Errorf("meta-cnid conf beside a daemon: %v\n%s", err, out)
	}
	b.Signal(syscall.SIGTERM)
	if out, err := b.Run(t.Context(), conf...); err != nil {
		t.Fatalf("meta-cnid conf: %v\n%s", err, out)
	}
	s.Extra = nil
	b.must(t, "ADD", s)
	wantLinks(t, pod, "eth0", "net1")
	b.must(t, "CHECK", s)
	b.must(t, "STATUS", node.Sandbox{})
	b.must(t, "DEL", s)
	b.clean(t, pod)
	typo, typoPod := b.sandbox("typo")
	typo.Extra = thin
	b.wantError(t, "ADD", typo, 7, "default/typo")
	b.clean(t, typoPod)
}

// TestHundredPods: 100 ADDs, 10 at a time, then 100 DELs, twice: no error, and
// the second time the daemon needs no more files, and no more memory to speak
// of, than after the first.
func TestHundredPods(t *testing.T) {
	b := newBed(t)
	b.Start()
	sandboxes := make([]node.Sandbox, 100)
	for i := range sandboxes {
		sandboxes[i], _ = b.sandbox("second")
	}
	b.all(t, "ADD", sandboxes)
	b.all(t, "DEL", sandboxes)
	files, memory := b.openFiles(t), b.residentKiB(t)
	b.all(t, "ADD", sandboxes)
	b.all(t, "CHECK", sandboxes[:10])
	b.all(t, "DEL", sandboxes)
	eventually(t, "the daemon closes its files", 5*time.Second, func() bool { return b.openFiles(t) <= files })
	if grown := b.residentKiB(t) - memory; grown > 8<<10 {
		t.Errorf("the second hundred pods left %d KiB in the daemon", grown)
	}
	b.clean(t)
}

func (b *bed) all(tb testing.TB, command string, sandboxes []node.Sandbox) {
	tb.Helper()
	slots := make(chan struct{}, 10)
	var group sync.WaitGroup
	for _, s := range sandboxes {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if reply := b.Plugin(command, s); reply.Err != nil {
				tb.Errorf("%s %s: %v", command, s.ContainerID, reply.Err)
			}
		})
	}
	group.Wait()
}

func (b *bed) openFiles(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.Pid()))
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// TestFullDisk: an ADD fails before anything is touched, STATUS says why, and
// a DEL still works.
func TestFullDisk(t *testing.T) {
	b := newBed(t)
	state := filepath.Join(b.Dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	b.Start()
	s, pod := b.sandbox("second")
	b.must(t, "ADD", s)
	ballast := filepath.Join(state, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600)
	other, otherPod := b.sandbox("second")
	b.wantError(t, "ADD", other, 5, "no space left on device")
	wantLinks(t, otherPod)
	b.wantError(t, "STATUS", node.Sandbox{}, 50, "no space left on device")
	b.must(t, "DEL", s)
	b.clean(t, pod, otherPod)
}

// TestStrangerOnTheSocket: only root is served.
func TestStrangerOnTheSocket(t *testing.T) {
	b := newBed(t)
	b.Start()
	info, err := os.Stat(filepath.Join(b.Dir, "run", "meta-cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %o, want 600", info.Mode().Perm())
	}
	conn, err := net.Dial("unix", filepath.Join(b.Dir, "run", "meta-cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	b.must(t, "STATUS", node.Sandbox{})
}
