package deployments

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/controller"
)

// TestControllerRights are all rights: more must be argued for here.
func TestControllerRights(t *testing.T) {
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"statefulsets"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"k8s.cni.cncf.io"}, Resources: []string{"ipamclaims"}, Verbs: []string{"get"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ippools", "addressspaces"}, Verbs: []string{"get", "list", "patch"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ippools/status", "addressspaces/status"}, Verbs: []string{"patch"}},
	}
	if diff := cmp.Diff(want, named[*rbacv1.ClusterRole](t, controller.Name).Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	inNamespace := []rbacv1.PolicyRule{
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ipblocks"}, Verbs: []string{"get", "list", "update"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"ipclaims"}, Verbs: []string{"get", "list", "update", "delete"}},
		{APIGroups: []string{"meta-cni.io"}, Resources: []string{"nodeipams"}, Verbs: []string{"get", "list", "delete"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{controller.Name}, Verbs: []string{"get", "update"}},
	}
	if diff := cmp.Diff(inNamespace, named[*rbacv1.Role](t, controller.Name).Rules); diff != "" {
		t.Errorf("rules in the namespace (-want +got):\n%s", diff)
	}
	account := named[*corev1.ServiceAccount](t, controller.Name)
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
	for _, subjects := range [][]rbacv1.Subject{
		named[*rbacv1.ClusterRoleBinding](t, controller.Name).Subjects, named[*rbacv1.RoleBinding](t, controller.Name).Subjects,
	} {
		if diff := cmp.Diff(subject, subjects); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}
	}
}

// TestController: a pod with no right on its node, that calls what the image
// has.
func TestController(t *testing.T) {
	deployment := only[*appsv1.Deployment](t)
	pod := deployment.Spec.Template.Spec
	if *deployment.Spec.Replicas != 2 || pod.ServiceAccountName != controller.Name || pod.PriorityClassName != "system-cluster-critical" {
		t.Errorf("%d replicas, account %s, priority %s", *deployment.Spec.Replicas, pod.ServiceAccountName, pod.PriorityClassName)
	}
	if !pod.HostNetwork { // it has to work where the cluster network doesn't
		t.Error("it needs the cluster network")
	}
	if pod.HostPID || pod.HostIPC || len(pod.Volumes) > 0 || !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser == 0 {
		t.Errorf("%+v", pod)
	}
	c := pod.Containers[0]
	if diff := cmp.Diff([]string{"/opt/meta-cni/meta-cni-controller", "run"}, append(c.Command, c.Args...)); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	soft, err := resource.ParseQuantity(strings.TrimSuffix(c.Env[0].Value, "B"))
	if err != nil || c.Env[0].Name != "GOMEMLIMIT" || soft.Cmp(*c.Resources.Limits.Memory()) >= 0 {
		t.Errorf("%+v with limit %s: %v", c.Env, c.Resources.Limits.Memory(), err)
	}
	s := c.SecurityContext
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Add) > 0 {
		t.Errorf("%+v", s)
	}
	if diff := cmp.Diff([]corev1.Capability{"ALL"}, s.Capabilities.Drop); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
	if c.Image != only[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0].Image {
		t.Errorf("another image: %s", c.Image)
	}
	for key, value := range deployment.Spec.Selector.MatchLabels {
		if only[*appsv1.DaemonSet](t).Spec.Template.Labels[key] == value {
			t.Errorf("the Deployment selects the DaemonSet's pods by %s=%s", key, value)
		}
	}
}

// TestWhereaboutsRights: both programs get them, in one namespace, for one
// kind.
func TestWhereaboutsRights(t *testing.T) {
	data, err := os.ReadFile("whereabouts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.Role
	var binding rbacv1.RoleBinding
	documents := strings.SplitN(string(data), "\n---\n", 2)
	for i, into := range []any{&role, &binding} {
		if err := yaml.UnmarshalStrict([]byte(documents[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	want := []rbacv1.PolicyRule{{
		APIGroups: []string{"whereabouts.cni.cncf.io"}, Resources: []string{"overlappingrangeipreservations"},
		Verbs: []string{"get", "list", "create", "update", "delete"},
	}}
	if diff := cmp.Diff(want, role.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if role.Namespace != binding.Namespace || binding.RoleRef.Name != role.Name || binding.RoleRef.Kind != "Role" {
		t.Errorf("%s/%s is bound by %+v in %s", role.Namespace, role.Name, binding.RoleRef, binding.Namespace)
	}
	var subjects []string
	for _, s := range binding.Subjects {
		subjects = append(subjects, named[*corev1.ServiceAccount](t, s.Name).Namespace+"/"+s.Name)
	}
	if diff := cmp.Diff([]string{"meta-cni/meta-cnid", "meta-cni/meta-cni-controller"}, subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
}
