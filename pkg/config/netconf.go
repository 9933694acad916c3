package config

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Default folders, shared by daemon and plugin.
const (
	DefaultConfDir  = "/etc/cni/net.d"
	DefaultStateDir = "/var/lib/meta-cni"
	DefaultRunDir   = "/run/meta-cni"
)

// NetConf is the configuration that the runtime hands to the plugin: the
// content of 00-meta.conf with runtimeConfig filled in by the runtime.
type NetConf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	// Mode is empty, or "thin" to run without a daemon.
	Mode string `json:"mode,omitempty"`
	// Primary is the file name in ConfDir of the cluster network; it decides
	// in thin mode, else the daemon does.
	Primary string `json:"primary,omitempty"`
	// Socket is the daemon's; unused in thin mode.
	Socket string `json:"socket,omitempty"`
	// StateDir, ConfDir, NetworkDirs, ObjectsDir, NodeName and Kubeconfig stand
	// for the daemon's keys of the same names in thin mode, and IPAMDir for
	// ipam.dir.
	StateDir    string   `json:"stateDir,omitempty"`
	ConfDir     string   `json:"confDir,omitempty"`
	NetworkDirs []string `json:"networkDirs,omitempty"`
	ObjectsDir  string   `json:"objectsDir,omitempty"`
	NodeName    string   `json:"nodeName,omitempty"`
	IPAMDir     string   `json:"ipamDir,omitempty"`
	Kubeconfig  string   `json:"kubeconfig,omitempty"`
	// RuntimeConfig holds the capability arguments of the runtime.
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig,omitempty"`
}

// Thin is the value of NetConf.Mode that asks for no daemon.
const Thin = "thin"

// PodAnnotationsCapability is the capability by which containerd and CRI-O
// hand the pod's annotations to the plugin.
const PodAnnotationsCapability = "io.kubernetes.cri.pod-annotations"

// NetworksArg is the key in CNI_ARGS by which a caller without pods (cnitool,
// podman, nerdctl) selects networks, in the comma form of the annotation. It
// is not passed on to delegates.
const NetworksArg = "META_CNI_NETWORKS"

// ParseNetConf reads the plugin's standard input.
func ParseNetConf(data []byte) (NetConf, error) {
	var c NetConf
	if err := json.Unmarshal(data, &c); err != nil {
		return NetConf{}, fmt.Errorf("network configuration on standard input: %w", err)
	}
	if c.CNIVersion == "" {
		c.CNIVersion = "0.1.0"
	}
	if c.Mode != "" && c.Mode != Thin {
		return NetConf{}, fmt.Errorf("mode: %q is unknown: leave it out, or use %q", c.Mode, Thin)
	}
	if c.Primary != "" && c.Primary != filepath.Base(c.Primary) {
		return NetConf{}, fmt.Errorf("primary: %q must be a file name in confDir, without a folder", c.Primary)
	}
	return c, nil
}

// PodAnnotations returns the annotations that the runtime handed over; ok is
// false when it handed over none.
func (c NetConf) PodAnnotations() (annotations map[string]string, ok bool, err error) {
	raw, ok := c.RuntimeConfig[PodAnnotationsCapability]
	if !ok {
		return nil, false, nil
	}
	if err := json.Unmarshal(raw, &annotations); err != nil {
		return nil, false, fmt.Errorf("runtimeConfig %q: %w", PodAnnotationsCapability, err)
	}
	return annotations, true, nil
}

// ParseArgs splits CNI_ARGS ("K=V;K=V", CNI specification 1.1.0 section 3)
// into pairs in their order.
func ParseArgs(args string) ([][2]string, error) {
	if args == "" {
		return nil, nil
	}
	var pairs [][2]string
	for part := range strings.SplitSeq(args, ";") {
		if part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("CNI_ARGS: %q is not of the form KEY=VALUE", part)
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}

// PodFromArgs is the pod that the runtime names in CNI_ARGS.
func PodFromArgs(args [][2]string) attach.Pod {
	var pod attach.Pod
	for _, pair := range args {
		switch pair[0] {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = pair[1]
		case "K8S_POD_NAME":
			pod.Name = pair[1]
		case "K8S_POD_UID":
			pod.UID = pair[1]
		}
	}
	return pod
}
