package deployments

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// other is a user to whom some installers give the CNI folders.
const other = 1000

// cage runs a program as the manifest's container does: /proc/sys read-only,
// no new privileges, and the capabilities that the manifest adds but one.
const cage = `#!/bin/sh
exec unshare --mount --propagation private /bin/sh -c '
	mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys &&
	exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all%s %s "$@"' cage "$@"
`

// foreign is a plugin as others write them: it calls a program of the node
// that opens a raw socket.
const foreign = `#!/bin/sh
if [ "$CNI_COMMAND" = ADD ] && ! said=$(iptables-legacy -w -n -L 2>&1); then
	echo "{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"iptables-legacy: $(echo "$said" | head -n 1 | tr -d '\"')\"}"
	exit 1
fi
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0"}'
exit 0
`

// network needs links, addresses, a namespace to enter, a writable /proc/sys
// and a raw socket.
const network = `{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
	{"type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "dataDir": "$DIR/leases", "subnet": "10.90.20.0/24"}},
	{"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
	{"type": "foreign"}]}`

// capabilities returns the manifest's capabilities by container.
func capabilities(t *testing.T) map[string][]corev1.Capability {
	t.Helper()
	pod := only[*appsv1.DaemonSet](t).Spec.Template.Spec
	caps := map[string][]corev1.Capability{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		caps[c.Name] = c.SecurityContext.Capabilities.Add
	}
	return caps
}

// caged makes a folder like real in which meta-cnid runs in the cage.
func caged(t *testing.T, real string, caps []corev1.Capability, without corev1.Capability) node.Binaries {
	t.Helper()
	dir := t.TempDir()
	if err := os.Link(filepath.Join(real, "meta-cni"), filepath.Join(dir, "meta-cni")); err != nil {
		t.Fatal(err)
	}
	var added strings.Builder
	for _, c := range caps {
		if c != without {
			added.WriteString(",+" + strings.ToLower(string(c)))
		}
	}
	script(t, filepath.Join(dir, "meta-cnid"), fmt.Sprintf(cage, &added, filepath.Join(real, "meta-cnid")))
	script(t, filepath.Join(dir, "foreign"), foreign)
	return node.Binaries(dir)
}

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// build compiles the programs once for all cases.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: takes capabilities away from a daemon in a network namespace")
	}
	if err := exec.CommandContext(t.Context(), "unshare", "--net", "iptables-legacy", "-w", "-n", "-L").Run(); err != nil {
		t.Skipf("needs iptables-legacy and a kernel with its tables: %v", err)
	}
	bin, err := node.Build(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return string(bin)
}

// TestDaemonNeedsEachCapability: with the manifest's capabilities a pod gets
// its network; without any one of them something fails, and says so.
func TestDaemonNeedsEachCapability(t *testing.T) {
	bin, caps := build(t), capabilities(t)["meta-cnid"]
	// What fails without it, in the reply or in the daemon's log.
	want := map[corev1.Capability]string{
		"":             "",
		"NET_ADMIN":    "operation not permitted",
		"NET_RAW":      "iptables-legacy: iptables",
		"SYS_ADMIN":    "the container needs CAP_SYS_ADMIN",
		"DAC_OVERRIDE": "permission denied",
	}
	for _, without := range append([]corev1.Capability{""}, caps...) {
		text, known := want[without]
		if !known {
			t.Errorf("capability %s: say here what fails without it", without)
			continue
		}
		t.Run("without "+string(without), func(t *testing.T) {
			n := testnet.New(t)
			host, sandbox := n.Host("host"), n.Netns("pod")
			programs := caged(t, bin, caps, without)
			worker := node.New(t, host, programs, t.TempDir())
			worker.Write("net.d/10-cluster.conflist", network)
			if err := os.Chown(filepath.Join(worker.Dir, "net.d"), other, other); err != nil {
				t.Fatal(err)
			}
			got := attempt(t, worker, programs, sandbox)
			if text == "" && got != "" || !strings.Contains(got, text) {
				t.Errorf("got %q, want %q\n%s", got, text, worker.Log())
			}
		})
	}
}

// attempt starts the daemon, adds and removes a pod, and returns what went
// wrong first: a reply of the plugin, or the log of a daemon that doesn't get
// ready. It is empty if nothing did.
func attempt(t *testing.T, worker *node.Node, programs node.Binaries, sandbox string) string {
	t.Helper()
	log, err := os.Create(filepath.Join(worker.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command(filepath.Join(string(programs), "meta-cnid"), "run", "--config", filepath.Join(worker.Dir, "config.yaml"))
	daemon.Stderr = log
	ended := worker.Host.Start(daemon)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if worker.Plugin("STATUS", node.Sandbox{}).Err == nil {
			break
		}
		select {
		case <-ended:
			return worker.Log()
		case <-time.After(pause):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemon neither gets ready nor ends\n%s", worker.Log())
		}
		if text := worker.Log(); strings.Contains(text, "permission denied") {
			return text
		}
	}
	pod := node.Sandbox{ContainerID: "c1", Netns: sandbox}
	added := worker.Plugin("ADD", pod)
	if removed := worker.Plugin("DEL", pod); added.Err == nil {
		added.Err = removed.Err
	}
	if added.Err != nil {
		return added.Err.Error()
	}
	return ""
}

// TestInstallerNeedsItsCapability: it can write into a plugin folder that
// belongs to another user, and can't without.
func TestInstallerNeedsItsCapability(t *testing.T) {
	bin, caps := build(t), capabilities(t)["install"]
	if len(caps) != 1 {
		t.Fatalf("capabilities %v, the test knows one", caps)
	}
	for _, without := range []corev1.Capability{"", caps[0]} {
		dir := t.TempDir()
		if err := os.Chown(dir, other, other); err != nil {
			t.Fatal(err)
		}
		programs := caged(t, bin, caps, without)
		out, err := exec.CommandContext(t.Context(), filepath.Join(string(programs), "meta-cnid"),
			"install", "--from", bin, "--to", dir).CombinedOutput()
		if without == "" && err != nil || without != "" && !strings.Contains(string(out), "permission denied") {
			t.Errorf("without %q: %v\n%s", without, err, out)
		}
	}
}

// pause between two looks at a daemon that should become ready.
const pause = 20 * time.Millisecond
