package scenario

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/meta-cni/meta-cni/e2e/world"
)

func objectCommands() map[string]command {
	return map[string]command{
		"apply":   {usage: "FILE...", min: 1, run: applyFiles},
		"delete":  {usage: "KIND NAME [--force]", min: 2, run: deleteObject},
		"field":   {usage: "KIND NAME TEMPLATE REGEXP", min: 4, run: objectField},
		"objects": {usage: "KIND SELECTOR NUMBER", min: 3, run: countObjects},
	}
}

// applyFiles applies YAML files into the story's namespace. ${NAME} in a file
// is the story's environment variable of that name.
func applyFiles(ctx context.Context, c *call) error {
	for _, name := range c.args {
		content := variable().ReplaceAllStringFunc(c.ts.ReadFile(name), func(ref string) string {
			return c.ts.Getenv(strings.Trim(ref, "${}"))
		})
		if err := Apply(ctx, c.world, c.namespace, []byte(content)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func variable() *regexp.Regexp { return regexp.MustCompile(`\$\{[A-Z0-9_]+\}`) }

// Apply applies every document of a YAML stream on the server side; objects
// without a namespace go to the given one. A custom resource may stand behind
// its definition in the same stream.
func Apply(ctx context.Context, w *world.World, namespace string, stream []byte) error {
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := applyObject(ctx, w, namespace, object); err != nil {
			return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

func applyObject(ctx context.Context, w *world.World, namespace string, object *unstructured.Unstructured) error {
	client, err := clientFor(ctx, w, namespace, object)
	if err != nil {
		return err
	}
	_, err = client.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "e2e", Force: true})
	return err
}

// clientFor waits for the object's kind to be served, for a definition applied
// a moment before.
func clientFor(ctx context.Context, w *world.World, namespace string, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	var mapping *meta.RESTMapping
	err := world.Eventually(ctx, patience, func(context.Context) error {
		var err error
		mapping, err = mapper(w).RESTMapping(kind.GroupKind(), kind.Version)
		return err
	})
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return w.Dynamic().Resource(mapping.Resource), nil
	}
	if object.GetNamespace() != "" {
		namespace = object.GetNamespace()
	}
	return w.Dynamic().Resource(mapping.Resource).Namespace(namespace), nil
}

func mapper(w *world.World) meta.ResettableRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(w.Client().Discovery()))
}

func deleteObject(ctx context.Context, c *call) error {
	kind, name := c.args[0], c.args[1]
	options := metav1.DeleteOptions{}
	if len(c.args) > 2 {
		if c.args[2] != "--force" {
			return fmt.Errorf("unknown option %q", c.args[2])
		}
		now := int64(0)
		options.GracePeriodSeconds = &now
	}
	resource, err := resourceOf(c.world, kind)
	if err != nil {
		return err
	}
	return c.world.Dynamic().Resource(resource).Namespace(c.namespace).Delete(ctx, name, options)
}

// resourceOf finds a kind by its name as for kubectl.
func resourceOf(w *world.World, kind string) (schema.GroupVersionResource, error) {
	expand := restmapper.NewShortcutExpander(mapper(w), w.Client().Discovery(), nil)
	return expand.ResourceFor(schema.GroupVersionResource{Resource: strings.ToLower(kind)})
}

// objectField renders a Go template over an object without a namespace and
// matches the result.
func objectField(ctx context.Context, c *call) error {
	resource, err := resourceOf(c.world, c.args[0])
	if err != nil {
		return err
	}
	render, err := template.New("field").Option("missingkey=zero").Parse(c.args[2])
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		object, err := c.world.Dynamic().Resource(resource).Get(ctx, c.args[1], metav1.GetOptions{})
		if err != nil {
			return err
		}
		var out strings.Builder
		if err := render.Execute(&out, object.Object); err != nil {
			return err
		}
		return match(c.args[3], out.String(), c.args[0]+" "+c.args[1])
	})
}

// countObjects waits until so many objects of a kind, in any namespace, have
// the labels.
func countObjects(ctx context.Context, c *call) error {
	resource, err := resourceOf(c.world, c.args[0])
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		list, err := c.world.Dynamic().Resource(resource).List(ctx, metav1.ListOptions{LabelSelector: c.args[1]})
		if err != nil {
			return err
		}
		if want := c.args[2]; strconv.Itoa(len(list.Items)) != want {
			names := make([]string, len(list.Items))
			for i, item := range list.Items {
				names[i] = item.GetName()
			}
			return fmt.Errorf("%d %s with %s, want %s: %s", len(names), c.args[0], c.args[1], want, strings.Join(names, " "))
		}
		return nil
	})
}
