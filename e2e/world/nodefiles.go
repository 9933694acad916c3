package world

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/uuid"
)

// containerdConfig has the runtime's own defaults but for what this machine
// lacks: restrict_oom_score_adj because runc fails where CAP_SYS_RESOURCE is
// missing, and a sandbox image that needs no registry.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "/usr/sbin/runc"
  SystemdCgroup = false
`

// kubeletConfig leaves kubelet's timing alone; the rest is what a node without
// a systemd of its own needs. %s is the root cgroup.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %s
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
enforceNodeAllocatable: []
evictionHard: {imagefs.available: 0%%, memory.available: 1Mi, nodefs.available: 0%%, nodefs.inodesFree: 0%%}
failCgroupV1: false
failSwapOn: false
featureGates: {KubeletCrashLoopBackOffMax: true}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
resolvConf: /etc/resolv.conf
staticPodPath: /etc/kubernetes/manifests
fileCheckFrequency: 1s
volumePluginDir: /var/lib/kubelet/volume-plugins
`

// writeEtc makes the node's /etc from the machine's, and adds what configures
// the node.
func (n *Node) writeEtc(primary func(*Node) (string, string)) error {
	etc := filepath.Join(n.root(), "etc")
	if err := copyEtc(etc); err != nil {
		return fmt.Errorf("copy /etc: %w", err)
	}
	ca, err := os.ReadFile(n.world.pki.file("ca.crt"))
	if err != nil {
		return err
	}
	files := map[string]string{
		"hostname":                n.Name + "\n",
		"hosts":                   "127.0.0.1 localhost\n" + n.Addr + " " + n.Name + "\n",
		"machine-id":              fmt.Sprintf("%x\n", randomBytes(16)),
		"resolv.conf":             "",
		"containerd/config.toml":  containerdConfig,
		"kubernetes/kubelet.yaml": fmt.Sprintf(kubeletConfig, "/"+filepath.Join(prefix, n.podCgroup())),
		"kubernetes/ca.crt":       string(ca),
	}
	if primary != nil {
		name, content := primary(n)
		files[filepath.Join("cni/net.d", name)] = content
	}
	for name, content := range files {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"cni/net.d", "kubernetes/manifests"} {
		if err := os.MkdirAll(filepath.Join(etc, dir), 0o755); err != nil {
			return err
		}
	}
	return n.world.pki.writeKubeconfig(filepath.Join(etc, "kubernetes/kubelet.kubeconfig"), userNode(n.Name),
		"https://"+net.JoinHostPort(controlAddr, APIPort))
}

// copyEtc copies what programs from /usr look for in /etc, and nothing that
// would make one node know of another installation.
func copyEtc(etc string) error {
	for _, name := range []string{
		"passwd", "group", "nsswitch.conf", "protocols", "services", "ld.so.cache", "ld.so.conf",
		"ld.so.conf.d", "alternatives", "iproute2", "ssl",
	} {
		from, to := filepath.Join("/etc", name), filepath.Join(etc, name)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := os.CopyFS(to, os.DirFS(from)); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := errors.Join(os.MkdirAll(etc, 0o755), os.WriteFile(to, content, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// writeFakeProc writes the files that node_init.sh lays over /proc: values
// that a kubelet wants and would else set for the whole machine, and a boot
// ID of the node's own.
func (n *Node) writeFakeProc() error {
	n.bootID = string(uuid.NewUUID())
	for name, content := range map[string]string{
		"sys/vm/overcommit_memory":      "1",
		"sys/vm/panic_on_oom":           "0",
		"sys/kernel/panic":              "10",
		"sys/kernel/panic_on_oops":      "1",
		"sys/kernel/keys/root_maxkeys":  "1000000",
		"sys/kernel/keys/root_maxbytes": "25000000",
		"sys/kernel/random/boot_id":     n.bootID,
	} {
		path := filepath.Join(n.root(), "fake-proc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// BridgePrimary is the plainest primary network: the reference bridge plugin
// with host-local addresses from the node's pod subnet, and portmap.
func BridgePrimary(n *Node) (name, content string) {
	return "10-bridge.conflist", fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "podnet",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, n.PodSubnet)
}

// FlannelPrimary is the configuration that flanneld's CNI plugin hands on to
// bridge on a node with the subnet of this one, as one conflist.
func FlannelPrimary(n *Node) (name, content string) {
	return "10-flannel.conflist", fmt.Sprintf(`{
  "cniVersion": "0.3.1",
  "name": "cbr0",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "mtu": 1450, "hairpinMode": true, "ipMasq": false, "isGateway": true, "isDefaultGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "10.244.0.0/16"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, n.PodSubnet)
}
