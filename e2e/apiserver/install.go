package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

// InstallCRDs creates the CustomResourceDefinitions of deployments/crds and the
// namespace meta-cni, and waits until they are served.
func (s *Server) InstallCRDs(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "deployments", "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("deployments/crds has no file"))
	}
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		return err
	}
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "meta-cni"},
	}}
	namespaces := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	if _, err := namespaces.Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	for _, file := range files {
		if err := s.installCRD(ctx, client, file); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

func (s *Server) installCRD(ctx context.Context, client dynamic.Interface, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &object.Object); err != nil {
		return err
	}
	crds := client.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if _, err := crds.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	return s.until(ctx, s.apiServer, func() error {
		found, err := crds.Get(ctx, object.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, &crd); err != nil {
			return err
		}
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				// It is served a moment after it says so.
				_, err := client.Resource(schema.GroupVersionResource{Group: crd.Spec.Group, Version: crd.Spec.Versions[0].Name, Resource: crd.Spec.Names.Plural}).
					List(ctx, metav1.ListOptions{Limit: 1})
				return err
			}
		}
		return errors.New("not established")
	})
}

// As is Config in the name of another user, who has only the rights that RBAC
// gives.
func (s *Server) As(user string) *rest.Config {
	config := rest.CopyConfig(s.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	return config
}
