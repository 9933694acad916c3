//go:build e2e

package metactl

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/cli"
	cliipam "github.com/meta-cni/meta-cni/pkg/cli/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
)

// operator has the rights of testdata/operator.yaml, viewer those to look.
const operator, viewer, nobody = "operator", "viewer", "nobody"

var (
	server *apiserver.Server
	// uninstalled is what metactl said before our objects were installed.
	uninstalled string
	core        kubernetes.Interface
	objects     dynamic.Interface
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	var err error
	if server, err = apiserver.Start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if all := flag.Lookup("test.run").Value.String() == ""; code == 0 && all {
		if err := compareRights(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			return 1
		}
	}
	return code
}

// compareRights: viewer and operator have used every right on our objects that
// testdata/operator.yaml gives them; one that lacked has failed a test.
func compareRights(ctx context.Context) error {
	calls, err := server.Calls()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range calls {
		if (c.User == operator || c.User == viewer) && c.Code < 300 {
			used[c.Verb+" "+c.Resource] = true
		}
	}
	given := map[string]bool{}
	for _, name := range []string{"meta-cni-view", "meta-cni-repair"} {
		role, err := core.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if slices.Contains(rule.APIGroups, "meta-cni.io") {
						given[verb+" "+resource] = true
					}
				}
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(used))); diff != "" {
		return fmt.Errorf("rights of testdata/operator.yaml and what was used (-given +used):\n%s", diff)
	}
	return nil
}

// prepare installs our objects, Whereabouts' kinds, and who may do what.
func prepare(ctx context.Context) error {
	var err error
	if core, err = kubernetes.NewForConfig(server.Config); err != nil {
		return err
	}
	if objects, err = dynamic.NewForConfig(server.Config); err != nil {
		return err
	}
	uninstalled = metactl("", "ipam", "show")
	if err := server.Install(ctx); err != nil {
		return err
	}
	if err := apply(ctx, "testdata/whereabouts-crds.yaml"); err != nil {
		return err
	}
	if err := apply(ctx, "testdata/operator.yaml"); err != nil {
		return err
	}
	for user, roles := range map[string][]string{operator: {"meta-cni-view", "meta-cni-repair"}, viewer: {"meta-cni-view"}} {
		for _, role := range roles {
			_, err := core.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: user + "-" + role},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
			}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
		}
	}
	_, err = core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps"}}, metav1.CreateOptions{})
	return errors.Join(err, awaitServed(ctx))
}

// apply creates the objects of a file.
func apply(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		o := &unstructured.Unstructured{}
		if err == nil {
			err = yaml.Unmarshal(document, &o.Object)
		}
		if err != nil {
			return err
		}
		kind := o.GroupVersionKind().GroupVersion().WithResource(strings.ToLower(o.GetKind()) + "s")
		if _, err := objects.Resource(kind).Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

func whereaboutsKind(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Resource: plural}
}

// awaitServed waits until Whereabouts' kinds can be listed.
func awaitServed(ctx context.Context) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var errs error
		for _, plural := range []string{"ippools", "overlappingrangeipreservations", "nodeslicepools"} {
			_, err := objects.Resource(whereaboutsKind(plural)).List(ctx, metav1.ListOptions{})
			errs = errors.Join(errs, err)
		}
		if errs == nil || time.Now().After(end) {
			return errs
		}
	}
}

// metactl runs a command line in the name of a user (the administrator without
// one), and gives what a person sees, with the exit code at its end.
func metactl(user string, args ...string) string {
	dir, err := os.MkdirTemp("", "metactl-")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder that stays harms nobody
	kubeconfig := filepath.Join(dir, "kubeconfig")
	as := ""
	if user != "" {
		as = ", as: " + user
	}
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "%s", certificate-authority: "%s"}}], users: [{name: u, user: {token: "%s"%s}}]}`,
		server.Config.Host, server.Config.CAFile, server.Config.BearerToken, as)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		return err.Error()
	}
	var seen bytes.Buffer
	streams := cli.Streams{In: strings.NewReader(""), Out: &seen, Err: &seen}
	root := cli.Root("metactl", "v0", streams, cliipam.Command(streams))
	code := cli.Run(context.Background(), root, append(args, "--kubeconfig", kubeconfig), &seen)
	return fmt.Sprintf("%sexit code %d\n", seen.String(), code)
}

// says runs metactl as the operator and fails unless each text is in what it
// prints.
func says(t *testing.T, line string, texts ...string) string {
	t.Helper()
	return saysTo(t, operator, line, texts...)
}

func saysTo(t *testing.T, user, line string, texts ...string) string {
	t.Helper()
	got := metactl(user, strings.Fields(line)...)
	for _, text := range texts {
		if !strings.Contains(got, text) {
			t.Errorf("%s: metactl %s doesn't say %q but\n%s", user, line, text, got)
		}
	}
	return got
}

// open is a store of the node that makes what the tests look at.
func open(t *testing.T) *crd.Store {
	t.Helper()
	client, err := rest.HTTPClientFor(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	store, err := crd.New(server.Config, client, crd.Options{Node: "n1", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// newNode makes a Node with a boot ID and its agent's letter box, and gives
// what the node is to the IPAM.
func newNode(t *testing.T, store *crd.Store, name string) ipam.Node {
	t.Helper()
	made := must(core.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	n := ipam.Node{Name: name, UID: string(made.UID), Boot: "boot-" + name, Log: "log-" + name}
	boot(t, store, n)
	t.Cleanup(func() { removeNode(t, name) })
	return n
}

// boot says in which boot the node is.
func boot(t *testing.T, store *crd.Store, n ipam.Node) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"status": {"nodeInfo": {"bootID": %q}}}`, n.Boot)
	must(core.CoreV1().Nodes().Patch(t.Context(), n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"))(t)
	if err := store.EnsureNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func removeNode(t *testing.T, name string) {
	t.Helper()
	ctx := context.Background()
	_ = core.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}) // the test may have done it
	_ = objects.Resource(schema.GroupVersionResource{Group: "meta-cni.io", Version: "v1alpha1", Resource: "nodeipams"}).Namespace("meta-cni").Delete(ctx, name, metav1.DeleteOptions{})
}

// newPod makes a running pod on a node, with addresses on net1 of network
// apps/lan.
func newPod(t *testing.T, name, node string, addrs ...string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "apps"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	if len(addrs) > 0 {
		pod.Annotations = map[string]string{"k8s.v1.cni.cncf.io/network-status": fmt.Sprintf(`[{"name": "apps/lan", "interface": "net1", "ips": ["%s"]}]`, strings.Join(addrs, `", "`))}
	}
	made := must(core.CoreV1().Pods("apps").Create(t.Context(), pod, metav1.CreateOptions{}))(t)
	made.Status.Phase = corev1.PodRunning
	made = must(core.CoreV1().Pods("apps").UpdateStatus(t.Context(), made, metav1.UpdateOptions{}))(t)
	t.Cleanup(func() { removePod(t, name) })
	return made
}

// removePod removes it at once, as a kubelet does when its sandbox is gone.
func removePod(t *testing.T, name string) {
	t.Helper()
	var now int64
	_ = core.CoreV1().Pods("apps").Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // the test may have done it
}

// wipe removes all objects of our group.
func wipe(t *testing.T) {
	t.Helper()
	for _, plural := range []string{"ipclaims", "ipblocks", "nodeipams"} {
		kind := schema.GroupVersionResource{Group: "meta-cni.io", Version: "v1alpha1", Resource: plural}
		if err := objects.Resource(kind).Namespace("meta-cni").DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
	}
	for _, plural := range []string{"addressspaces", "ippools"} {
		kind := schema.GroupVersionResource{Group: "meta-cni.io", Version: "v1alpha1", Resource: plural}
		if err := objects.Resource(kind).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
	}
}
