package deployments

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/config"
)

const manifest = "meta-cni.yaml"

var update = flag.Bool("update", false, "write the CRDs into the manifest; `make generate` does it")

// load decodes every document of the manifest; an unknown key or a duplicate
// one is an error, as it is for the API server.
func load(t *testing.T) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, nadv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	file, err := os.Open(manifest)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewDocumentDecoder(file)
	defer documents.Close()
	var objects []runtime.Object
	for buffer := make([]byte, 1<<20); ; {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("document %d: %v", len(objects)+1, err)
		}
		objects = append(objects, object)
	}
}

// named returns the one object of its type and name.
func named[T interface {
	runtime.Object
	metav1.Object
}](t *testing.T, name string) T {
	t.Helper()
	for _, object := range load(t) {
		if match, ok := object.(T); ok && match.GetName() == name {
			return match
		}
	}
	t.Fatalf("no %T with the name %s", *new(T), name)
	return *new(T)
}

// only returns the one object of its type.
func only[T runtime.Object](t *testing.T) T {
	t.Helper()
	var found []T
	for _, object := range load(t) {
		if match, ok := object.(T); ok {
			found = append(found, match)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T, want 1", len(found), *new(T))
	}
	return found[0]
}

func TestManifestKinds(t *testing.T) {
	var got []string
	for _, object := range load(t) {
		got = append(got, object.GetObjectKind().GroupVersionKind().Kind)
	}
	want := slices.Concat(
		[]string{"Namespace"},
		slices.Repeat([]string{"CustomResourceDefinition"}, 6),
		[]string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "DaemonSet"},
		[]string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Deployment"},
	)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

// TestConfigMap: the daemon can read its configuration, and the folders in it
// are those that the DaemonSet mounts.
func TestConfigMap(t *testing.T) {
	conf, err := config.ParseDaemon([]byte(only[*corev1.ConfigMap](t).Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	if conf.Mode != config.Kubernetes {
		t.Errorf("mode %q", conf.Mode)
	}
	mounts := only[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0].VolumeMounts
	for _, folder := range slices.Concat([]string{conf.ConfDir, conf.StateDir, conf.RunDir}, conf.NetworkDirs, conf.BinDirs) {
		if !slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool {
			return folder == m.MountPath || strings.HasPrefix(folder, m.MountPath+"/")
		}) {
			t.Errorf("%s is in the configuration, but not mounted", folder)
		}
	}
}

// TestCRDs: the names that kubectl and clients use.
func TestCRDs(t *testing.T) {
	short := map[string][]string{}
	for _, object := range load(t) {
		crd, ok := object.(*apiextensionsv1.CustomResourceDefinition)
		if !ok {
			continue
		}
		if crd.Name != crd.Spec.Names.Plural+"."+crd.Spec.Group {
			t.Errorf("name %q doesn't fit %s in %s", crd.Name, crd.Spec.Names.Plural, crd.Spec.Group)
		}
		short[crd.Spec.Names.Plural] = crd.Spec.Names.ShortNames
	}
	want := map[string][]string{
		"network-attachment-definitions": {"net-attach-def", "nad"},
		"addressspaces":                  {"mspace"},
		"ippools":                        {"mpool"},
		"ipblocks":                       {"mblock"},
		"ipclaims":                       {"mclaim"},
		"nodeipams":                      {"mnode"},
	}
	if diff := cmp.Diff(want, short); diff != "" {
		t.Errorf("short names (-want +got):\n%s", diff)
	}
}

// TestManifestHasTheCRDs: the manifest is complete, so that it is the one file
// to apply.
func TestManifestHasTheCRDs(t *testing.T) {
	files, err := filepath.Glob("crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in crds, %v", len(files), err)
	}
	var crds strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		crds.Write(text)
	}
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "# BEGIN crds\n", "# END crds\n"
	before, rest, _ := strings.Cut(string(text), begin)
	got, after, found := strings.Cut(rest, end)
	if !found {
		t.Fatalf("%s lacks the lines %q and %q", manifest, begin, end)
	}
	if *update {
		got = crds.String()
		if err := os.WriteFile(manifest, []byte(before+begin+got+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(crds.String(), got); diff != "" {
		t.Errorf("run `make generate` (-crds +manifest):\n%s", diff)
	}
}

// TestRights are all rights: more must be argued for here.
func TestRights(t *testing.T) {
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
		{APIGroups: []string{"k8s.cni.cncf.io"}, Resources: []string{"network-attachment-definitions"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"k8s.cni.cncf.io"}, Resources: []string{"ipamclaims"}, Verbs: []string{"get"}},
		{APIGroups: []string{"k8s.cni.cncf.io"}, Resources: []string{"ipamclaims/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ippools"}, Verbs: []string{"get", "list", "watch", "create"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"addressspaces"}, Verbs: []string{"get", "create"}},
		{APIGroups: []string{""}, Resources: []string{"nodes", "namespaces"}, Verbs: []string{"get", "list", "watch"}},
	}
	if diff := cmp.Diff(want, named[*rbacv1.ClusterRole](t, "meta-cnid").Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	role := named[*rbacv1.Role](t, "meta-cnid")
	inNamespace := []rbacv1.PolicyRule{
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ipblocks"}, Verbs: []string{"get", "list", "create", "update", "delete"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ipblocks/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ipclaims"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"nodeipams"}, Verbs: []string{"get", "list", "watch", "create", "patch"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"nodeipams/status"}, Verbs: []string{"patch"}},
	}
	if diff := cmp.Diff(inNamespace, role.Rules); diff != "" {
		t.Errorf("rules in the namespace (-want +got):\n%s", diff)
	}
	if role.Namespace != v1alpha1.Namespace {
		t.Errorf("the role is in namespace %q, the objects in %q", role.Namespace, v1alpha1.Namespace)
	}
	account := named[*corev1.ServiceAccount](t, "meta-cnid")
	subject := rbacv1.Subject{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}
	for _, subjects := range [][]rbacv1.Subject{named[*rbacv1.ClusterRoleBinding](t, "meta-cnid").Subjects, named[*rbacv1.RoleBinding](t, "meta-cnid").Subjects} {
		if diff := cmp.Diff([]rbacv1.Subject{subject}, subjects); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}
	}
	if got := only[*appsv1.DaemonSet](t).Spec.Template.Spec.ServiceAccountName; got != account.Name {
		t.Errorf("the DaemonSet runs as %q", got)
	}
}

// TestPrivileges: no container is privileged, and none has a capability that
// isn't named here.
func TestPrivileges(t *testing.T) {
	pod := only[*appsv1.DaemonSet](t).Spec.Template.Spec
	if pod.HostPID || pod.HostIPC || !pod.HostNetwork {
		t.Errorf("hostPID %v, hostIPC %v, hostNetwork %v", pod.HostPID, pod.HostIPC, pod.HostNetwork)
	}
	want := map[string][]corev1.Capability{
		"install":   {"DAC_OVERRIDE"},
		"meta-cnid": {"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "DAC_OVERRIDE"},
	}
	got := map[string][]corev1.Capability{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := c.SecurityContext
		if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
			t.Errorf("%s: %+v", c.Name, s)
		}
		if diff := cmp.Diff([]corev1.Capability{"ALL"}, s.Capabilities.Drop); diff != "" {
			t.Errorf("%s drops (-want +got):\n%s", c.Name, diff)
		}
		if len(c.Ports) > 0 {
			t.Errorf("%s listens on the node's network: %v", c.Name, c.Ports)
		}
		if c.Resources.Limits.Memory().IsZero() || !c.Resources.Limits.Cpu().IsZero() {
			t.Errorf("%s has the limits %v, want one of memory only", c.Name, c.Resources.Limits)
		}
		got[c.Name] = s.Capabilities.Add
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
}

// TestMounts: every path of the node lies at the same path in the container,
// every volume is used, and every mount has a volume.
func TestMounts(t *testing.T) {
	pod := only[*appsv1.DaemonSet](t).Spec.Template.Spec
	volumes := map[string]corev1.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
	}
	used := map[string]bool{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, m := range c.VolumeMounts {
			v, ok := volumes[m.Name]
			if !ok {
				t.Errorf("%s mounts %q, which is no volume", c.Name, m.Name)
			}
			if v.HostPath != nil && v.HostPath.Path != m.MountPath {
				t.Errorf("%s has the node's %s at %s", c.Name, v.HostPath.Path, m.MountPath)
			}
			used[m.Name] = true
		}
	}
	for name := range volumes {
		if !used[name] {
			t.Errorf("volume %q isn't mounted", name)
		}
	}
}

// TestPrograms: what the manifest calls lies where the image has it.
func TestPrograms(t *testing.T) {
	const daemon = "/opt/meta-cni/meta-cnid"
	c := only[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if diff := cmp.Diff([]string{daemon, "health"}, probe.Exec.Command[:2]); diff != "" {
			t.Errorf("probe (-want +got):\n%s", diff)
		}
	}
	for _, m := range c.VolumeMounts {
		if m.MountPath == "/opt" || strings.HasPrefix(daemon, m.MountPath+"/") {
			t.Errorf("the mount at %s hides the daemon's program", m.MountPath)
		}
	}
}
