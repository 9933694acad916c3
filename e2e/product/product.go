// Package product installs meta-cni on a world as a user does on a cluster:
// by its image and its manifest, from the sources of this repository.
package product

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/scenario"
	"github.com/meta-cni/meta-cni/e2e/world"
)

// Daemon says how the installed daemon is found.
func Daemon() scenario.Daemon {
	return scenario.Daemon{Namespace: "meta-cni", Selector: "app.kubernetes.io/name=meta-cni", Process: "meta-cnid"}
}

// Install builds the image, brings it to the nodes, applies the manifest and
// waits until a daemon is ready on every node. repository is the root folder
// of the sources. Only the API server's address is set in the manifest, which
// is each cluster's own.
func Install(ctx context.Context, w *world.World, repository string) error {
	if err := importImage(ctx, w, repository); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(repository, "deployments", "meta-cni.yaml"))
	if err != nil {
		return err
	}
	unset, set := []byte("apiServers: []"), []byte(`apiServers: ["https://`+world.PodAPIAddr+":"+world.APIPort+`"]`)
	if bytes.Count(manifest, unset) != 1 {
		return fmt.Errorf("deployments/meta-cni.yaml: want %q in it once, to set the API server's address", unset)
	}
	manifest = bytes.Replace(manifest, unset, set, 1)
	args := []byte("args: [run]")
	if bytes.Count(manifest, args) != 1 {
		return fmt.Errorf("deployments/meta-cni.yaml: want %q in it once, to tell the controller the API server's address", args)
	}
	manifest = bytes.Replace(manifest, args, []byte(`args: [run, "--api-servers=https://`+world.PodAPIAddr+":"+world.APIPort+`"]`), 1)
	if err := scenario.Apply(ctx, w, "default", manifest); err != nil {
		return err
	}
	if err := waitDaemonSets(ctx, w); err != nil {
		return errors.Join(fmt.Errorf("install meta-cni: %w", err), errors.New(scenario.DaemonLogs(w, Daemon())))
	}
	return nil
}

func importImage(ctx context.Context, w *world.World, repository string) (err error) {
	dir, err := os.MkdirTemp("", "meta-cni-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	archive := filepath.Join(dir, "image.tar")
	build := exec.CommandContext(ctx, "go", "run", "./images/build", "-o", archive)
	build.Dir = repository
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the image: %w\n%s", err, out)
	}
	return w.ImportImage(ctx, archive)
}

func waitDaemonSets(ctx context.Context, w *world.World) error {
	return world.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		sets, err := w.Client().AppsV1().DaemonSets(Daemon().Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(sets.Items) == 0 {
			return fmt.Errorf("the manifest has no DaemonSet in namespace %s", Daemon().Namespace)
		}
		for _, set := range sets.Items {
			if int(set.Status.NumberReady) != len(w.Nodes) {
				return fmt.Errorf("DaemonSet %s: %d of %d pods are ready", set.Name, set.Status.NumberReady, len(w.Nodes))
			}
		}
		return nil
	})
}
