package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

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
		st.reportDaemon(&b, n)
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
			strings.Join(st.complaints(ctx, &pod), "\n")+"\n"+pod.Annotations[statusAnnotation]+"\n", nil)
	}
}

func phase(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return string(pod.Status.Phase) + ", being deleted"
	}
	return string(pod.Status.Phase)
}

// reportDaemon shows what the daemon wrote since the story began.
func (st *story) reportDaemon(b *strings.Builder, n *world.Node) {
	if st.daemon.Namespace == "" {
		return
	}
	lines, err := daemonLines(st.daemon.Namespace, n, st.began)
	lines = lines[max(0, len(lines)-reportLines):]
	section(b, n.Name+" daemon", strings.Join(lines, "\n")+"\n", err)
}

// DaemonLogs returns what the daemons of all nodes wrote last.
func DaemonLogs(w *world.World, daemon Daemon) string {
	var b strings.Builder
	st := &story{world: w, daemon: daemon}
	for _, n := range w.Nodes {
		st.reportDaemon(&b, n)
	}
	return b.String()
}

// daemonLines reads the logs of the daemon's containers from the node's disk:
// they are there also when the API server is not. Each line begins with its
// time, which is taken off.
func daemonLines(namespace string, n *world.Node, since time.Time) ([]string, error) {
	logs, err := filepath.Glob(n.Path("/var/log/pods/" + namespace + "_*/*/*.log"))
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, log := range logs {
		content, err := os.ReadFile(log)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			stamp, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if err == nil && !at.Before(since) {
				lines = append(lines, strings.TrimPrefix(text, "stderr F "))
			}
		}
	}
	return lines, nil
}
