//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/scenario"
	"github.com/meta-cni/meta-cni/e2e/world"
)

// smoke is the life of one pod on every node, in plain Go: it shows that the
// bed works, and how long each step takes, without the scenario engine.
func smoke(t *testing.T, w *world.World) {
	t.Run("leftovers are noticed", func(t *testing.T) { noticeLeftovers(t, w.Nodes[0]) })
	for _, n := range w.Nodes {
		t.Run(n.Name, func(t *testing.T) {
			before, err := scenario.LookAt(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			since := time.Now()
			makeSmokePod(t, w, n)
			t.Logf("pod Running after %s", time.Since(since).Round(time.Millisecond))

			since = time.Now()
			out, err := w.PodExec(t.Context(), "default", "smoke-"+n.Name, "ip", "-o", "addr", "show", "dev", "eth0")
			if err != nil {
				t.Fatal(err)
			}
			if subnet := strings.TrimSuffix(n.PodSubnet, "0/24"); !strings.Contains(out, subnet) {
				t.Errorf("eth0 of the pod has no address of %s: %s", n.PodSubnet, out)
			}
			t.Logf("exec took %s", time.Since(since).Round(time.Millisecond))

			since = time.Now()
			deleteSmokePod(t, w, n)
			err = world.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
				return scenario.Leftovers(ctx, n, before)
			})
			if err != nil {
				t.Error(err)
			}
			t.Logf("pod gone without leftovers after %s", time.Since(since).Round(time.Millisecond))
		})
	}
}

func makeSmokePod(t *testing.T, w *world.World, n *world.Node) {
	t.Helper()
	pod := scenario.NewPod("smoke-"+n.Name, n.Name)
	pods := w.Client().CoreV1().Pods("default")
	err := world.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		_, err := pods.Create(ctx, pod, metav1.CreateOptions{}) // the default ServiceAccount may be missing yet
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = world.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		got, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod is %s", got.Status.Phase)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func deleteSmokePod(t *testing.T, w *world.World, n *world.Node) {
	t.Helper()
	err := w.Client().CoreV1().Pods("default").Delete(t.Context(), "smoke-"+n.Name, metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// noticeLeftovers shows that the check at the end of every story can fail.
func noticeLeftovers(t *testing.T, n *world.Node) {
	before, err := scenario.LookAt(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, leave, remove, want string }{
		{"link", "ip link add left type veth peer name left2", "ip link del left", "link left2"},
		{"network namespace", "ip netns add left", "ip netns del left", "network namespace /run/netns/left"},
		{"lease", "mkdir -p /var/lib/cni/networks/left && touch /var/lib/cni/networks/left/192.0.2.1", "rm -r /var/lib/cni/networks/left", "lease /var/lib/cni/networks/left/192.0.2.1"},
		{"journal", "mkdir -p /var/lib/meta-cni/attachments && touch /var/lib/meta-cni/attachments/left", "rm /var/lib/meta-cni/attachments/left", "journal /var/lib/meta-cni/attachments/left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := n.Exec(t.Context(), "sh", "-c", c.leave); err != nil {
				t.Fatal(err)
			}
			if err := scenario.Leftovers(t.Context(), n, before); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
			if _, err := n.Exec(t.Context(), "sh", "-c", c.remove); err != nil {
				t.Fatal(err)
			}
			if err := scenario.Leftovers(t.Context(), n, before); err != nil {
				t.Errorf("after its removal: %v", err)
			}
		})
	}
}
