//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/scenario"
	"github.com/meta-cni/meta-cni/e2e/world"
)

func productDaemon() scenario.Daemon {
	return scenario.Daemon{Namespace: "meta-cni", Selector: "app.kubernetes.io/name=meta-cni", Process: "meta-cnid"}
}

// installProduct does what a user does: the image is built and brought to the
// nodes, the manifest is applied. Only the API server's address is set, which
// is this cluster's own.
func installProduct(ctx context.Context, w *world.World) error {
	archive := filepath.Join(os.TempDir(), fmt.Sprintf("meta-cni-image-%d.tar", os.Getpid()))
	defer os.Remove(archive)
	build := exec.CommandContext(ctx, "go", "run", "./images/build", "-o", archive)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the image: %w\n%s", err, out)
	}
	if err := w.ImportImage(ctx, archive); err != nil {
		return err
	}
	manifest, err := os.ReadFile("../deployments/meta-cni.yaml")
	if err != nil {
		return err
	}
	unset, set := []byte("apiServers: []"), []byte(`apiServers: ["https://`+world.PodAPIAddr+":"+world.APIPort+`"]`)
	if bytes.Count(manifest, unset) != 1 {
		return fmt.Errorf("deployments/meta-cni.yaml: want %q in it once, to set the API server's address", unset)
	}
	manifest = bytes.Replace(manifest, unset, set, 1)
	if err := scenario.Apply(ctx, w, "default", manifest); err != nil {
		return err
	}
	return waitDaemonSets(ctx, w)
}

func waitDaemonSets(ctx context.Context, w *world.World) error {
	return world.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		sets, err := w.Client().AppsV1().DaemonSets(productDaemon().Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(sets.Items) == 0 {
			return fmt.Errorf("the manifest has no DaemonSet in namespace %s", productDaemon().Namespace)
		}
		for _, set := range sets.Items {
			if int(set.Status.NumberReady) != len(w.Nodes) {
				return fmt.Errorf("DaemonSet %s: %d of %d pods are ready", set.Name, set.Status.NumberReady, len(w.Nodes))
			}
		}
		return nil
	})
}
