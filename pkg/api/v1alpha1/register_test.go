package v1alpha1

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// TestDefinitions: the names and scopes in the generated files are those that
// clients use, and every kind is in the scheme.
func TestDefinitions(t *testing.T) {
	files, err := filepath.Glob("../../../deployments/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	scopes := map[string]apiextensionsv1.ResourceScope{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			t.Fatal(err)
		}
		scopes[crd.Spec.Names.Plural] = crd.Spec.Scope
		if crd.Spec.Group != Group || len(crd.Spec.Versions) != 1 || crd.Spec.Versions[0].Name != Version {
			t.Errorf("%s: group %s, versions %+v", file, crd.Spec.Group, crd.Spec.Versions)
		}
		if !slices.Contains(crd.Spec.Names.Categories, "meta-cni") {
			t.Errorf("%s isn't in `kubectl get meta-cni`", file)
		}
		for _, kind := range []string{crd.Spec.Names.Kind, crd.Spec.Names.ListKind} {
			if !scheme.Recognizes(GroupVersion().WithKind(kind)) {
				t.Errorf("the scheme lacks %s", kind)
			}
		}
	}
	want := map[string]apiextensionsv1.ResourceScope{
		ResourceIPPools: apiextensionsv1.ClusterScoped, ResourceAddressSpaces: apiextensionsv1.ClusterScoped,
		ResourceIPBlocks: apiextensionsv1.NamespaceScoped, ResourceIPClaims: apiextensionsv1.NamespaceScoped, ResourceNodeIPAMs: apiextensionsv1.NamespaceScoped,
	}
	if diff := cmp.Diff(want, scopes); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
}
