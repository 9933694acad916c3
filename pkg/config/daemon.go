// Package config turns what an operator or a runtime wrote into values: the
// daemon's YAML file, the configuration that the runtime hands to the plugin
// on standard input, and CNI_ARGS. It is pure: bytes in, values or an error
// that names the key, the value and the remedy out. Defaults are filled in
// here and nowhere else.
package config

import (
	"fmt"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Mode says where pods and network definitions come from.
type Mode string

const (
	// Kubernetes reads them from the API server.
	Kubernetes Mode = "kubernetes"
	// Standalone reads them from a folder of YAML files.
	Standalone Mode = "standalone"
)

// Daemon is the daemon's configuration file (YAML, unknown keys refused).
type Daemon struct {
	// Mode is kubernetes (default) or standalone.
	Mode Mode `json:"mode,omitempty"`
	// NodeName is the Kubernetes node; by default the environment variable
	// NODE_NAME, then the host's name.
	NodeName string `json:"nodeName,omitempty"`
	// ConfDir is the runtime's CNI configuration folder (/etc/cni/net.d).
	ConfDir string `json:"confDir,omitempty"`
	// NetworkDirs are searched for the configuration of a network definition
	// that has none of its own; by default ConfDir.
	NetworkDirs []string `json:"networkDirs,omitempty"`
	// BinDirs are searched for plugins after the runtime's CNI_PATH
	// (/opt/cni/bin).
	BinDirs []string `json:"binDirs,omitempty"`
	// StateDir holds what must survive a reboot (/var/lib/meta-cni).
	StateDir string `json:"stateDir,omitempty"`
	// RunDir holds the sockets (/run/meta-cni).
	RunDir string `json:"runDir,omitempty"`
	// ObjectsDir is the folder of YAML in standalone mode
	// (/etc/meta-cni/objects).
	ObjectsDir string `json:"objectsDir,omitempty"`
	// CNIVersion of the generated 00-meta.conf: 1.1.0 (default) or 1.0.0.
	CNIVersion string `json:"cniVersion,omitempty"`
	// Primary pins the cluster network.
	Primary PrimaryPin `json:"primary,omitempty"`
	// Kubernetes says how to reach the API server.
	Kubernetes KubernetesClient `json:"kubernetes,omitempty"`
	// IPAM is the address management.
	IPAM IPAM `json:"ipam,omitempty"`
	// Limits bound what a pod may ask for.
	Limits Limits `json:"limits,omitempty"`
	// Workers is the number of ADDs that run at once, and as many DELs;
	// 0 means four a processor, at least 8 and at most 24.
	Workers int `json:"workers,omitempty"`
	// DelegateTimeout bounds one delegate (30s).
	DelegateTimeout metav1.Duration `json:"delegateTimeout,omitempty"`
	// PublishBeforeReply makes ADD wait, for at most a second, until the
	// network-status annotation is written. It never fails an ADD.
	PublishBeforeReply bool `json:"publishBeforeReply,omitempty"`
	// LogLevel is debug, info (default), warn or error.
	LogLevel string `json:"logLevel,omitempty"`
}

// PrimaryPin names the cluster network; empty means the first configuration
// in lexical order that isn't meta-cni's own.
type PrimaryPin struct {
	// File is a file name in ConfDir.
	File string `json:"file,omitempty"`
	// Network is the `name` of a configuration in ConfDir.
	Network string `json:"network,omitempty"`
}

// KubernetesClient says how to reach the API server.
type KubernetesClient struct {
	// APIServers are URLs tried in order; by default the in-cluster address.
	APIServers []string `json:"apiServers,omitempty"`
	// Kubeconfig is a file for use outside a pod.
	Kubeconfig string `json:"kubeconfig,omitempty"`
}

// IPAM configures the address management (ipam.type meta-ipam).
type IPAM struct {
	// Dir holds the address spaces, blocks and claims in standalone mode
	// (stateDir/addresses). Hosts that share ranges share it.
	Dir string `json:"dir,omitempty"`
	// PoolsDir holds IPPools as YAML in standalone mode (objectsDir).
	PoolsDir string `json:"poolsDir,omitempty"`
	// FlatFile is Whereabouts' file of settings common to all definitions, for
	// ipam.type whereabouts (confDir/whereabouts.d/whereabouts.conf).
	FlatFile string `json:"flatFile,omitempty"`
	// WhereaboutsNamespace has the objects of a Whereabouts that allocates in
	// the same ranges (kube-system).
	WhereaboutsNamespace string `json:"whereaboutsNamespace,omitempty"`
}

// Limits bound what a pod may ask for.
type Limits struct {
	// MaxNetworksPerPod bounds the selections of one pod (32).
	MaxNetworksPerPod int `json:"maxNetworksPerPod,omitempty"`
	// MaxAnnotationBytes bounds the networks annotation (65536).
	MaxAnnotationBytes int `json:"maxAnnotationBytes,omitempty"`
}

// The budgets of one request (seconds are wall clock).
const (
	// AddBudget is the whole ADD; UndoBudget of it is kept for the undo.
	AddBudget  = 100 * time.Second
	UndoBudget = 20 * time.Second
	// DelBudget is the whole DEL; the plugin spools the DEL after it.
	DelBudget = 38 * time.Second
	// CheckBudget is the whole CHECK with external delegates.
	CheckBudget = 30 * time.Second
)

// ParseDaemon reads the daemon's file and fills in the defaults.
func ParseDaemon(data []byte) (Daemon, error) {
	var d Daemon
	if err := yaml.UnmarshalStrict(data, &d); err != nil {
		return Daemon{}, fmt.Errorf("daemon configuration: %w", err)
	}
	d.setDefaults()
	if err := d.validate(); err != nil {
		return Daemon{}, fmt.Errorf("daemon configuration: %w", err)
	}
	return d, nil
}

func (d *Daemon) setDefaults() {
	setString(&d.ConfDir, DefaultConfDir)
	setString(&d.StateDir, DefaultStateDir)
	setString(&d.RunDir, DefaultRunDir)
	setString(&d.ObjectsDir, "/etc/meta-cni/objects")
	setString(&d.IPAM.Dir, filepath.Join(d.StateDir, "addresses"))
	setString(&d.IPAM.PoolsDir, d.ObjectsDir)
	setString(&d.IPAM.WhereaboutsNamespace, "kube-system")
	setString(&d.IPAM.FlatFile, filepath.Join(d.ConfDir, "whereabouts.d", "whereabouts.conf"))
	setString(&d.CNIVersion, "1.1.0")
	setString(&d.LogLevel, "info")
	if d.Mode == "" {
		d.Mode = Kubernetes
	}
	if len(d.NetworkDirs) == 0 {
		d.NetworkDirs = []string{d.ConfDir}
	}
	if len(d.BinDirs) == 0 {
		d.BinDirs = []string{"/opt/cni/bin"}
	}
	if d.Limits.MaxNetworksPerPod == 0 {
		d.Limits.MaxNetworksPerPod = 32
	}
	if d.Limits.MaxAnnotationBytes == 0 {
		d.Limits.MaxAnnotationBytes = 64 << 10
	}
	if d.DelegateTimeout.Duration == 0 {
		d.DelegateTimeout.Duration = 30 * time.Second
	}
}

func setString(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func (d *Daemon) validate() error {
	for _, dir := range []struct{ key, path string }{
		{"confDir", d.ConfDir},
		{"stateDir", d.StateDir},
		{"runDir", d.RunDir},
		{"objectsDir", d.ObjectsDir},
		{"ipam.dir", d.IPAM.Dir},
		{"ipam.poolsDir", d.IPAM.PoolsDir},
		{"ipam.flatFile", d.IPAM.FlatFile},
	} {
		if !filepath.IsAbs(dir.path) {
			return fmt.Errorf("%s: %q must be an absolute path", dir.key, dir.path)
		}
	}
	if d.Mode != Kubernetes && d.Mode != Standalone {
		return fmt.Errorf("mode: %q is unknown: use kubernetes or standalone", d.Mode)
	}
	if d.CNIVersion != "1.1.0" && d.CNIVersion != "1.0.0" {
		return fmt.Errorf("cniVersion: %q: use 1.1.0, or 1.0.0 for a runtime that knows no STATUS", d.CNIVersion)
	}
	if d.Primary.File != "" && d.Primary.Network != "" {
		return fmt.Errorf("primary: file %q and network %q are both set: pin the primary by one of them", d.Primary.File, d.Primary.Network)
	}
	if d.Primary.File != filepath.Base(d.Primary.File) && d.Primary.File != "" {
		return fmt.Errorf("primary.file: %q must be a file name in confDir, without a folder", d.Primary.File)
	}
	return d.validateNumbers()
}

func (d *Daemon) validateNumbers() error {
	if d.Workers < 0 || d.Workers > 1024 {
		return fmt.Errorf("workers: %d is out of range 0–1024", d.Workers)
	}
	if n := d.Limits.MaxNetworksPerPod; n < 1 || n > 1000 {
		return fmt.Errorf("limits.maxNetworksPerPod: %d is out of range 1–1000", n)
	}
	if n := d.Limits.MaxAnnotationBytes; n < 1 || n > 256<<10 {
		return fmt.Errorf("limits.maxAnnotationBytes: %d is out of range 1–262144 (the API server's limit)", n)
	}
	if t := d.DelegateTimeout.Duration; t < time.Second || t > AddBudget-UndoBudget {
		return fmt.Errorf("delegateTimeout: %s is out of range 1s–%s", t, AddBudget-UndoBudget)
	}
	switch d.LogLevel {
	case "debug", "info", "warn", "error":
		return nil
	default:
		return fmt.Errorf("logLevel: %q is unknown: use debug, info, warn or error", d.LogLevel)
	}
}
