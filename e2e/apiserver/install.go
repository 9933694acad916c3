package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Daemon is the user that a daemon is, with the rights of the manifest.
const Daemon = "system:serviceaccount:meta-cni:meta-cnid"

// Install creates what deployments/meta-cni.yaml has for the API server itself:
// the namespace, the CustomResourceDefinitions and the rights. It waits until
// our objects are served.
func (s *Server) Install(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(root, "deployments", "meta-cni.yaml"))
	if err != nil {
		return err
	}
	defer file.Close()
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		return err
	}
	for documents := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		object := &unstructured.Unstructured{}
		if err := documents.Decode(&object.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.install(ctx, client, object); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

func (s *Server) install(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured) error {
	plural, wanted := map[string]string{
		"Namespace": "namespaces", "ServiceAccount": "serviceaccounts", "CustomResourceDefinition": "customresourcedefinitions",
		"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Role": "roles", "RoleBinding": "rolebindings",
	}[object.GetKind()]
	if !wanted {
		return nil
	}
	resource := client.Resource(object.GroupVersionKind().GroupVersion().WithResource(plural))
	var place dynamic.ResourceInterface = resource
	if object.GetNamespace() != "" {
		place = resource.Namespace(object.GetNamespace())
	}
	if _, err := place.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	if object.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	return s.until(ctx, s.apiServer, func() error {
		found, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, &crd); err != nil {
			return err
		}
		return served(ctx, client, crd)
	})
}

// served says whether a kind can be listed: a moment after it is established.
func served(ctx context.Context, client dynamic.Interface, crd apiextensionsv1.CustomResourceDefinition) error {
	for _, condition := range crd.Status.Conditions {
		if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
			kind := schema.GroupVersionResource{Group: crd.Spec.Group, Version: crd.Spec.Versions[0].Name, Resource: crd.Spec.Names.Plural}
			_, err := client.Resource(kind).List(ctx, metav1.ListOptions{Limit: 1})
			return err
		}
	}
	return errors.New("not established")
}

// Rights are those on our group that the manifest gives, as "verb resource", in
// order.
func (s *Server) Rights(ctx context.Context) ([]string, error) {
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		return nil, err
	}
	rbac := rbacv1.SchemeGroupVersion
	cluster, err := client.Resource(rbac.WithResource("clusterroles")).Get(ctx, "meta-cnid", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	inside, err := client.Resource(rbac.WithResource("roles")).Namespace("meta-cni").Get(ctx, "meta-cnid", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var rights []string
	for _, object := range []*unstructured.Unstructured{cluster, inside} {
		var role rbacv1.Role
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &role); err != nil {
			return nil, err
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if slices.Contains(rule.APIGroups, "meta-cni.io") {
						rights = append(rights, verb+" "+resource)
					}
				}
			}
		}
	}
	slices.Sort(rights)
	return rights, nil
}

// As is Config in the name of another user, who has only the rights that RBAC
// gives.
func (s *Server) As(user string) *rest.Config {
	config := rest.CopyConfig(s.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	return config
}
