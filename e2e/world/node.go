package world

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodePath is the PATH of every process on a node.
const nodePath = containerdDir + ":" + kubernetesDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Where the built programs lie on a node.
const (
	containerdDir = "/opt/e2e/containerd"
	kubernetesDir = "/opt/e2e/kubernetes"
)

//go:embed node_init.sh
var nodeInitScript string

// Node is one machine of the cluster.
type Node struct {
	Name      string
	Addr      string // IPv4 address on the underlay
	Addr6     string // IPv6 address on the underlay
	PodSubnet string // IPv4 CIDR for the pods of this node, in spec.podCIDR too
	NetnsPath string // network namespace, as seen from the machine

	gateway string
	netns   string
	world   *World
	boots   int
	bootID  string

	init, containerd, kubelet *process
}

func newNode(w *World, i int) *Node {
	netns := prefix + "-" + nodeName(i)
	return &Node{
		Name: nodeName(i), Addr: nodeAddr(i), Addr6: nodeAddr6(i), PodSubnet: podSubnet(i),
		gateway: podGateway(i), netns: netns, NetnsPath: filepath.Join(netnsDir, netns), world: w,
	}
}

func (n *Node) cgroup() string       { return n.Name }
func (n *Node) daemonCgroup() string { return n.Name + "/daemons" }
func (n *Node) podCgroup() string    { return n.Name + "/pods" }
func (n *Node) root() string         { return n.world.path("nodes", n.Name) }

// place is where the node's processes run.
func (n *Node) place() place {
	return place{cgroup: n.daemonCgroup(), netns: n.NetnsPath, mounts: n.init.cmd.Process.Pid}
}

// Path returns a path of the node as seen from the machine. It holds until
// the next reboot of the node.
func (n *Node) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.init.cmd.Process.Pid), path)
}

// Exec runs a command on the node and returns its standard output; an error
// carries both streams.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	out, err := n.place().run(ctx, argv...)
	if err != nil {
		return out, fmt.Errorf("on %s: %w", n.Name, err)
	}
	return out, nil
}

// WriteFile writes a file on the node in place, with its folders.
func (n *Node) WriteFile(path string, content []byte) error {
	path = n.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// install fills the node's root folder: what a machine has before its first
// boot.
func (n *Node) install(primary func(*Node) (string, string)) error {
	root := n.root()
	for _, dir := range []string{
		".old-root", "usr", "proc", "sys", "dev", "run", "tmp", "root", "home", "srv", "mnt",
		"fake-proc", "var/lib/cni", "var/lib/containerd", "var/lib/kubelet", "var/log", "var/tmp",
		containerdDir, kubernetesDir, "opt/cni/bin",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(n.varLog(), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../run", filepath.Join(root, "var/run")); err != nil {
		return err
	}
	if err := linkTopFolders(root); err != nil {
		return err
	}
	if err := n.writeEtc(primary); err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(root, "opt/cni/bin"), os.DirFS(n.world.bins.plugins))
}

// linkTopFolders repeats /bin, /lib and the like, which are links into /usr.
func linkTopFolders(root string) error {
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		target, err := os.Readlink("/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("/%s must be a link into /usr (merged /usr): %w", name, err)
		}
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

// boot makes the node's namespaces and starts containerd with the base images.
func (n *Node) boot(ctx context.Context) error {
	for _, group := range []string{n.daemonCgroup(), n.podCgroup()} {
		if err := makeCgroup(group); err != nil {
			return err
		}
	}
	if err := n.plug(ctx); err != nil {
		return err
	}
	if err := n.writeFakeProc(); err != nil {
		return err
	}
	if err := n.startInit(ctx); err != nil {
		return err
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	if n.boots++; n.boots > 1 {
		return nil // images survive a reboot
	}
	return n.importImage(ctx, n.world.path("images.tar"))
}

// log returns the file of a process's output.
func (n *Node) log(name string) string {
	return filepath.Join(n.world.LogDir, n.Name+"-"+name+".log")
}

// varLog returns the folder that the node has as /var/log: with the logs of
// its containers it lies beside the others, and is kept with them.
func (n *Node) varLog() string { return filepath.Join(n.world.LogDir, n.Name+"-var-log") }

func (n *Node) startInit(ctx context.Context) error {
	ready := filepath.Join(n.root(), ".ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	n.init, err = startProcess(place{cgroup: n.daemonCgroup(), netns: n.NetnsPath}, n.Name+" init", n.log("init"),
		"/usr/bin/unshare", "--mount", "--propagation", "private",
		"/bin/sh", "-c", nodeInitScript, "node-init", n.root(), "/.ready", n.varLog(),
		n.world.bins.containerd+"="+containerdDir, n.world.bins.kubernetes+"="+kubernetesDir)
	if err != nil {
		return err
	}
	return Eventually(ctx, 10*time.Second, func(context.Context) error {
		if err := n.init.alive(); err != nil {
			return err
		}
		_, err := os.Stat(ready)
		return err
	})
}

func (n *Node) startContainerd(ctx context.Context) error {
	var err error
	n.containerd, err = startProcess(n.place(), n.Name+" containerd", n.log("containerd"),
		containerdDir+"/containerd", "--config=/etc/containerd/config.toml")
	if err != nil {
		return err
	}
	return Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		if err := n.containerd.alive(); err != nil {
			return err
		}
		_, err := n.Exec(ctx, "ctr", "version")
		return err
	})
}

func (n *Node) startKubelet() error {
	var err error
	n.kubelet, err = startProcess(n.place(), n.Name+" kubelet", n.log("kubelet"),
		kubernetesDir+"/kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override="+n.Name, "--node-ip="+n.Addr,
		"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki")
	return err
}

// register makes the Node object before its kubelet does, with the pod subnet
// that the underlay routes to it.
func (n *Node) register(ctx context.Context) error {
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name},
		Spec:       corev1.NodeSpec{PodCIDR: n.PodSubnet, PodCIDRs: []string{n.PodSubnet}},
	}
	_, err := n.world.client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// WaitReady waits until the API server shows the node as Ready since its last
// boot and open for pods: the controller manager has taken its taints away.
func (n *Node) WaitReady(ctx context.Context) error {
	return Eventually(ctx, 90*time.Second, func(ctx context.Context) error {
		if err := errors.Join(n.kubelet.alive(), n.containerd.alive()); err != nil {
			return err
		}
		object, err := n.world.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if object.Status.NodeInfo.BootID != n.bootID {
			return fmt.Errorf("the kubelet of %s has not reported since its boot", n.Name)
		}
		for _, c := range object.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return fmt.Errorf("%s is not ready: %s", n.Name, c.Message)
			}
		}
		if len(object.Spec.Taints) > 0 {
			return fmt.Errorf("%s is not open for pods: taints %v", n.Name, object.Spec.Taints)
		}
		return nil
	})
}

// RestartContainerd ends containerd and starts it again; pods go on running.
func (n *Node) RestartContainerd(ctx context.Context) error {
	if err := n.containerd.stop(syscall.SIGTERM, 10*time.Second); err != nil {
		return err
	}
	return n.startContainerd(ctx)
}

// FreezeContainerd stops containerd as it stands: callers wait for answers.
func (n *Node) FreezeContainerd() error { return n.containerd.cmd.Process.Signal(syscall.SIGSTOP) }

// ThawContainerd lets a frozen containerd go on.
func (n *Node) ThawContainerd() error { return n.containerd.cmd.Process.Signal(syscall.SIGCONT) }

// RestartKubelet ends the kubelet and starts it again; pods go on running.
func (n *Node) RestartKubelet() error {
	if err := n.kubelet.stop(syscall.SIGTERM, 10*time.Second); err != nil {
		return err
	}
	return n.startKubelet()
}

// Reboot does to the node what pulling its plug does: all its processes, its
// network namespaces with every link in them and its /run are gone, its disk
// stays, and its boot ID is new. It returns when the kubelet is started again.
func (n *Node) Reboot(ctx context.Context) error {
	if err := killCgroup(ctx, n.cgroup()); err != nil {
		return fmt.Errorf("reboot %s: %w", n.Name, err)
	}
	for _, p := range []*process{n.init, n.containerd, n.kubelet} {
		<-p.done
	}
	if err := n.unplug(ctx); err != nil {
		return fmt.Errorf("reboot %s: %w", n.Name, err)
	}
	if err := n.boot(ctx); err != nil {
		return fmt.Errorf("reboot %s: %w", n.Name, err)
	}
	return n.startKubelet()
}

// Logs returns the last lines of one of the node's logs: containerd or kubelet.
func (n *Node) Logs(name string, lines int) (string, error) {
	return Tail(n.log(name), lines)
}

// Pids lists all processes of the node: daemons, runtime and pods.
func (n *Node) Pids() ([]int, error) { return cgroupPids(n.cgroup()) }

// Shell returns the command line that opens a shell on the node.
func (n *Node) Shell() string {
	return fmt.Sprintf("nsenter --net=%s --mount=/proc/%d/ns/mnt env PATH=%s sh", n.NetnsPath, n.init.cmd.Process.Pid, nodePath)
}
