//go:build e2e

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/controller"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
)

// user is the controller's, with the rights of the manifest.
const user = "system:serviceaccount:meta-cni:" + controller.Name

var server *apiserver.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	s, err := apiserver.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := errors.Join(s.Install(ctx), installWhereabouts(ctx, s)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = s
	return m.Run()
}

// installWhereabouts makes its kind, as it is in the field, and our rights on it.
func installWhereabouts(ctx context.Context, s *apiserver.Server) error {
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		return err
	}
	root, err := apiserver.Root()
	if err != nil {
		return err
	}
	texts := []string{whereaboutsCRD}
	for _, path := range []string{filepath.Join(root, "deployments", "whereabouts.yaml")} {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		texts = append(texts, strings.Split(string(data), "\n---\n")...)
	}
	for _, text := range texts {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
			return err
		}
		plural := strings.ToLower(object.GetKind()) + "s"
		resource := client.Resource(object.GroupVersionKind().GroupVersion().WithResource(plural))
		var place dynamic.ResourceInterface = resource
		if object.GetNamespace() != "" {
			place = resource.Namespace(object.GetNamespace())
		}
		if _, err := place.Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return eventually(ctx, func() error {
		_, err := client.Resource(schema.GroupVersionResource{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Resource: "overlappingrangeipreservations"}).
			Namespace("kube-system").List(ctx, metav1.ListOptions{})
		return err
	})
}

const whereaboutsCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: overlappingrangeipreservations.whereabouts.cni.cncf.io}
spec:
  group: whereabouts.cni.cncf.io
  scope: Namespaced
  names: {plural: overlappingrangeipreservations, singular: overlappingrangeipreservation, kind: OverlappingRangeIPReservation, listKind: OverlappingRangeIPReservationList}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [podref]
              properties:
                containerid: {type: string}
                ifname: {type: string}
                podref: {type: string}
`

// eventually waits until do has no error, for at most 30 s.
func eventually(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

func wait(t *testing.T, do func() error) {
	t.Helper()
	if err := eventually(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

func log(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func httpClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// agents is a store with the rights of a daemon.
func agents(t *testing.T) *crd.Store {
	t.Helper()
	config := server.As(apiserver.Daemon)
	store, err := crd.New(config, httpClient(t, config), crd.Options{Node: "test", Log: log(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func admin(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// quick are times in which a test can wait.
var quick = controller.Times{Gone: 2 * time.Second, OutOfService: time.Second, Cooling: 2 * time.Second, Twice: time.Second, PodAbsent: 2 * time.Second}

// start runs a controller until the test ends or stop is called; stop gives its
// error.
func start(t *testing.T, identity string) (stop func() error) {
	t.Helper()
	config := server.As(user)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- controller.Run(ctx, controller.Options{
			Config: config, HTTP: httpClient(t, config), Identity: identity, Period: 200 * time.Millisecond,
			Times: quick, WhereaboutsNamespace: "kube-system", Log: log(t).With("controller", identity),
		})
	}()
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func gone(err error) error {
	switch {
	case err == nil:
		return errors.New("it is still there")
	case errors.Is(err, ipam.ErrNotFound) || apierrors.IsNotFound(err):
		return nil
	}
	return err
}
