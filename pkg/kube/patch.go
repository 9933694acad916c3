package kube

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// PatchPodStatus sets annotations by one merge patch of the pod's status
// subresource (which needs no right to change the pod itself), with the pod's
// UID as precondition: ErrPodGone if the pod is gone or replaced. A static
// pod's mirror is found by its annotation. ErrUnavailable may be tried again.
func (c *Client) PatchPodStatus(ctx context.Context, pod attach.Pod, annotations map[string]string) error {
	uid := pod.UID
	if uid == "" {
		current, err := c.getPod(ctx, pod)
		if err != nil {
			return fmt.Errorf("patch status: %w", err)
		}
		uid = string(current.UID)
	}
	err := c.patchPodStatus(ctx, pod, uid, annotations)
	if isOtherUID(err) {
		// Another pod of this name: gone, unless it is the mirror of ours.
		current, getErr := c.getPod(ctx, pod)
		if getErr != nil {
			return fmt.Errorf("patch status: %w", getErr)
		}
		if !isMirrorOf(current, pod.UID) {
			return fmt.Errorf("patch status: pod %s: %w: its UID is %s, not %s", pod, ErrPodGone, current.UID, uid)
		}
		err = c.patchPodStatus(ctx, pod, string(current.UID), annotations)
	}
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err) || isOtherUID(err):
		return fmt.Errorf("patch status: pod %s: %w", pod, ErrPodGone)
	}
	return fmt.Errorf("pod %s: %w", pod, explain(err, "patch", "pods/status"))
}

func (c *Client) patchPodStatus(ctx context.Context, pod attach.Pod, uid string, annotations map[string]string) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = c.pods.Namespace(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}
