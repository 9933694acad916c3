package world

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// PodExec runs a command in a pod's first container by way of API server and
// kubelet, as kubectl exec does, and returns its standard output. An error
// carries both streams.
func (w *World) PodExec(ctx context.Context, namespace, pod string, argv ...string) (string, error) {
	request := w.client.CoreV1().RESTClient().Get().
		Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(w.Config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return stdout.String(), fmt.Errorf("in pod %s/%s: %s: %w: %s%s", namespace, pod, strings.Join(argv, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}
