package examples

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/meta-cni/meta-cni/pkg/annotation"
	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/objects"
	"github.com/meta-cni/meta-cni/pkg/plan"
)

// load decodes every document of a file; an unknown key is an error, as it is
// for the API server.
func load(t *testing.T, path string) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, nadv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewDocumentDecoder(file)
	defer documents.Close()
	var loaded []runtime.Object
	for buffer := make([]byte, 1<<20); ; {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return loaded
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%s, document %d: %v", path, len(loaded)+1, err)
		}
		loaded = append(loaded, object)
	}
}

// planned plans the pod's ADD with the network definitions of the folder:
// everything that can be wrong with an example before a plugin runs is an error
// here.
func planned(t *testing.T, dir string, pod *corev1.Pod) *attach.Plan {
	t.Helper()
	store, err := objects.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	selections, err := annotation.Parse(pod.Annotations[nadv1.NetworkAttachmentAnnot], pod.Namespace, annotation.Limits{})
	if err != nil {
		t.Fatalf("pod %s: %v", pod.Name, err)
	}
	networks := map[attach.NetworkRef]attach.Network{}
	for _, s := range selections {
		if networks[s.Ref()], err = store.Network(t.Context(), s.Ref()); err != nil {
			t.Fatal(err)
		}
	}
	made, err := plan.Make(plan.Input{
		Key:        attach.Key{ContainerID: "example", IfName: "eth0"},
		Primary:    attach.Primary{File: "10-machines.conflist", Config: readFile(t, "standalone/10-machines.conflist")},
		Selections: selections,
		Networks:   networks,
	})
	if err != nil {
		t.Fatalf("pod %s: %v", pod.Name, err)
	}
	return made
}

// interfaces are the interfaces and networks of a plan.
func interfaces(made *attach.Plan) []string {
	var lines []string
	for i, d := range made.Delegates {
		line := d.IfName + " " + d.Network
		for _, name := range []string{"ips", "mac", "deviceID"} {
			if value, ok := d.Capabilities[name]; ok {
				line += " " + name + "=" + string(value)
			}
		}
		for _, r := range made.DefaultRoutes {
			if r.Delegate == i {
				line += " default via " + r.Gateway.String()
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// podOf is a pod's example: the object, or the first pod that it makes.
func podOf(object runtime.Object) *corev1.Pod {
	switch object := object.(type) {
	case *corev1.Pod:
		return object
	case *appsv1.StatefulSet:
		pod := &corev1.Pod{ObjectMeta: object.Spec.Template.ObjectMeta, Spec: object.Spec.Template.Spec}
		pod.Namespace, pod.Name = object.Namespace, object.Name+"-0"
		return pod
	default:
		return nil
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %v", pattern, paths, err)
	}
	return paths
}

// TestPods: what each example's pod would get. A new file needs its line.
func TestPods(t *testing.T) {
	want := map[string][]string{
		"two-networks":  {"eth0 machines", "net1 default/backend", "net2 default/lan"},
		"dual-stack":    {"eth0 machines", "storage0 default/storage"},
		"default-route": {"eth0 machines", "net1 default/uplink default via 10.90.3.1"},
		"static-address": {
			"eth0 machines",
			`net1 default/machines ips=["192.0.2.10/24"] mac="02:00:5e:00:53:01"`,
		},
		"sriov": {"eth0 machines", `net1 default/fast ips=["198.51.100.7/24"] deviceID="0000:3b:02.1"`},
		"web":   {"eth0 machines", "net1 default/backend", "net2 default/lan"},

		"ipam-range":       {"eth0 machines", "net1 default/lan-range"},
		"ipam-dual-stack":  {"eth0 machines", "net1 default/lan-dual"},
		"ipam-whereabouts": {"eth0 machines", "net1 default/whereabouts-lan"},
		"ipam-pool":        {"eth0 machines", "net1 default/shop-lan"},
		"store-0":          {"eth0 machines", "net1 default/store-lan"},
	}
	got := map[string][]string{}
	for _, path := range append(glob(t, "*.yaml"), "standalone/objects/pods.yaml") {
		for _, object := range load(t, path) {
			if pod := podOf(object); pod != nil {
				got[pod.Name] = interfaces(planned(t, folderOf(t, path), pod))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
}

// folderOf is a folder with the objects of an example: a file of this folder
// is one for itself, the standalone ones belong together.
func folderOf(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	paths := []string{path}
	if strings.HasPrefix(path, "standalone/") {
		paths = glob(t, "standalone/objects/*.yaml")
	}
	for _, p := range paths {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(p)), readFile(t, p), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestDaemonConfigurations: the daemon accepts each of them.
func TestDaemonConfigurations(t *testing.T) {
	want := map[string]config.PrimaryPin{
		"primary-flannel.yaml":      {File: "10-flannel.conflist"},
		"primary-calico.yaml":       {Network: "k8s-pod-network"},
		"standalone/meta-cnid.yaml": {File: "10-machines.conflist"},
	}
	got := map[string]config.PrimaryPin{}
	for path := range want {
		data := readFile(t, path)
		if strings.HasPrefix(path, "primary-") {
			conf, ok := load(t, path)[0].(*corev1.ConfigMap)
			if !ok || conf.Name != "meta-cnid" || conf.Namespace != "meta-cni" {
				t.Fatalf("%s doesn't hold the daemon's ConfigMap", path)
			}
			data = []byte(conf.Data["config.yaml"])
		}
		parsed, err := config.ParseDaemon(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		got[path] = parsed.Primary
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("primaries (-want +got):\n%s", diff)
	}
}

// TestNoneForgotten: each YAML file is a pod's example or a configuration.
func TestNoneForgotten(t *testing.T) {
	for _, path := range glob(t, "*.yaml") {
		pods := 0
		for _, object := range load(t, path) {
			if podOf(object) != nil {
				pods++
			}
		}
		if pods != 1 && !strings.HasPrefix(path, "primary-") {
			t.Errorf("%s holds %d pods, want one", path, pods)
		}
	}
}
