package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// podLag is how long an informer may be behind the runtime: the pod object is
// older than its sandbox, but its watch event may come later.
const podLag = time.Second

// PodAnnotations is what the pod of this UID asks for: its annotations of the
// networking groups, and the pod with its UID filled in. It comes from the
// informer, waiting up to 1 s for one that lags, else from one read of the API
// server. Errors: ErrPodGone, ErrPodReplaced (another pod has the name now),
// ErrUnavailable.
func (c *Cache) PodAnnotations(ctx context.Context, pod attach.Pod) (map[string]string, attach.Pod, error) {
	found := c.cachedPod(ctx, pod)
	if found == nil {
		var err error
		if found, err = c.client.getPod(ctx, pod); err != nil {
			return nil, pod, err
		}
	}
	if !isPod(found, pod.UID) {
		return nil, pod, fmt.Errorf("pod %s: %w: expected pod UID %q but got %q from Kube API", pod, ErrPodReplaced, pod.UID, found.UID)
	}
	if pod.UID == "" {
		pod.UID = runtimeUID(found)
	}
	annotations := maps.Clone(found.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	return annotations, pod, nil
}

// cachedPod waits for the pod in the informer; nil if it doesn't have it.
func (c *Cache) cachedPod(ctx context.Context, pod attach.Pod) *metav1.PartialObjectMetadata {
	ctx, cancel := context.WithTimeout(ctx, podLag)
	defer cancel()
	var found *metav1.PartialObjectMetadata
	c.pods.wait(ctx, func() bool {
		object, ok := c.pods.get(pod.Namespace, pod.Name).(*metav1.PartialObjectMetadata)
		if ok && isPod(object, pod.UID) {
			found = object
		}
		return found != nil || c.pods.broken()
	})
	return found
}

// isPod says that the object is the runtime's pod; an old runtime gives no UID.
func isPod(object *metav1.PartialObjectMetadata, uid string) bool {
	return uid == "" || string(object.UID) == uid || isMirrorOf(object, uid)
}

// isMirrorOf says that the object is the API's picture of a static pod, whose
// UID at the runtime is the one that the kubelet made.
func isMirrorOf(object *metav1.PartialObjectMetadata, uid string) bool {
	return uid != "" && object.Annotations[corev1.MirrorPodAnnotationKey] == uid
}

// runtimeUID is the UID by which the runtime knows the pod.
func runtimeUID(object *metav1.PartialObjectMetadata) string {
	if mirrored := object.Annotations[corev1.MirrorPodAnnotationKey]; mirrored != "" {
		return mirrored
	}
	return string(object.UID)
}

// transformPod runs before an object is stored.
func transformPod(object any) (any, error) {
	pod, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, errors.New("the API server sent something else than a pod's metadata")
	}
	trimPod(pod)
	return pod, nil
}

// trimPod drops all that ADD doesn't need (60,000 whole pods are 1.8 GB,
// multus#1203).
func trimPod(pod *metav1.PartialObjectMetadata) {
	annotations := map[string]string{}
	for key, value := range pod.Annotations {
		if wantedAnnotation(key) {
			annotations[strings.Clone(key)] = strings.Clone(value)
		}
	}
	pod.ObjectMeta = metav1.ObjectMeta{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		DeletionTimestamp: pod.DeletionTimestamp, Annotations: annotations,
	}
}

func wantedAnnotation(key string) bool {
	group, name, _ := strings.Cut(key, "/")
	switch group {
	case "k8s.v1.cni.cncf.io", "v1.multus-cni.io", "meta-cni.io":
		return true
	case "kubernetes.io":
		return name == "config.mirror" || name == "config.hash" || name == "config.source"
	}
	return strings.HasSuffix(group, ".meta-cni.io")
}
