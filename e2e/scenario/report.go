package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/world"
)

// reportLines is how much of each log a failed story shows.
const reportLines = 40

// report tells what an operator would look at after a failure: the story's
// pods and their events, the daemon's log, and the ends of kubelet's and
// containerd's logs. What can't be had is said, never an error.
func (st *story) report(ctx context.Context) string {
	var b strings.Builder
	fmt.Fprintf(&b, "what lies around after the failure (namespace %s, whole logs in %s)\n", st.namespace, st.world.LogDir)
	st.reportPods(ctx, &b)
	for _, n := range st.world.Nodes {
		reportDaemon(&b, st.daemon.Namespace, n)
		for _, name := range []string{"kubelet", "containerd"} {
			tail, err := n.Logs(name, reportLines)
			section(&b, n.Name+" "+name, tail, err)
		}
		links, err := n.Exec(ctx, "ip", "-br", "addr")
		section(&b, n.Name+" links", links, err)
	}
	return b.String()
}

func section(b *strings.Builder, title, content string, err error) {
	fmt.Fprintf(b, "--- %s\n%s", title, content)
	if err != nil {
		fmt.Fprintf(b, "(can't be had: %v)\n", err)
	}
}

func (st *story) reportPods(ctx context.Context, b *strings.Builder) {
	pods, err := st.world.Client().CoreV1().Pods(st.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		section(b, "pods", "", err)
		return
	}
	for _, pod := range pods.Items {
		section(b, fmt.Sprintf("pod %s on %s: %s", pod.Name, pod.Spec.NodeName, phase(&pod)),
			strings.Join(st.complaints(ctx, &pod), "\n")+"\n", nil)
	}
}

func phase(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return string(pod.Status.Phase) + ", being deleted"
	}
	return string(pod.Status.Phase)
}

// reportDaemon reads the container logs from the node's disk: they are there
// also when the API server is not.
func reportDaemon(b *strings.Builder, namespace string, n *world.Node) {
	if namespace == "" {
		return
	}
	logs, err := filepath.Glob(n.Path("/var/log/pods/" + namespace + "_*/*/*.log"))
	if err != nil {
		section(b, n.Name+" daemon", "", err)
	}
	for _, log := range logs {
		tail, err := world.Tail(log, reportLines)
		section(b, n.Name+" "+filepath.Join(filepath.Base(filepath.Dir(log)), filepath.Base(log)), tail, err)
	}
}
