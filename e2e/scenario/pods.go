package scenario

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/world"
)

func podCommands() map[string]command {
	return map[string]command{
		"pod":       {usage: "NAME NODE [NETWORKS]", min: 2, run: makePod},
		"pods":      {usage: "PREFIX NUMBER NODE [NETWORKS]", min: 3, run: makePods},
		"pods-up":   {usage: "NUMBER", min: 1, run: allPodsUp},
		"pods-gone": {run: allPodsGone},
		"pod-seen":  {usage: "NAME...", min: 1, run: podsSeen},
		"pod-up":    {usage: "NAME...", min: 1, run: podsUp},
		"pod-gone":  {usage: "NAME...", min: 1, run: podsGone},
		"pod-stuck": {usage: "NAME REGEXP", min: 2, run: podStuck},
		"pod-exec":  {usage: "NAME COMMAND...", min: 2, negate: true, run: podExec},
		"event":     {usage: "POD REASON REGEXP", min: 3, run: podEvent},
	}
}

// NewPod returns a pod that stays: busybox on the node, ended at once by a
// TERM signal.
func NewPod(name, node string) *corev1.Pod {
	grace := int64(2)
	noToken := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken:  &noToken,
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: "main", Image: "localhost/busybox:1", ImagePullPolicy: corev1.PullNever,
				Command: []string{"sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"},
			}},
		},
	}
}

// makePod creates a pod that stays, with the networks annotation if one is
// given.
func makePod(ctx context.Context, c *call) error {
	return c.createPod(ctx, c.args[0], c.args[1], c.args[2:])
}

func (st *story) createPod(ctx context.Context, name, node string, networks []string) error {
	if _, err := st.world.Node(node); err != nil {
		return err
	}
	pod := NewPod(name, node)
	if len(networks) > 0 {
		pod.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": networks[0]}
	}
	_, err := st.world.Client().CoreV1().Pods(st.namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// makePods creates many pods alike, PREFIX-1 and so on.
func makePods(ctx context.Context, c *call) error {
	number, err := strconv.Atoi(c.args[1])
	if err != nil {
		return err
	}
	for i := 1; i <= number; i++ {
		if err := c.createPod(ctx, fmt.Sprintf("%s-%d", c.args[0], i), c.args[2], c.args[3:]); err != nil {
			return err
		}
	}
	return nil
}

// allPodsUp waits until the story has so many pods and all are ready.
func allPodsUp(ctx context.Context, c *call) error {
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		pods, err := c.world.Client().CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		up := 0
		for _, pod := range pods.Items {
			if ready(&pod) {
				up++
			}
		}
		if want := c.args[0]; strconv.Itoa(up) != want {
			return fmt.Errorf("%d of %d pods are up, want %s", up, len(pods.Items), want)
		}
		return nil
	})
}

// allPodsGone deletes all pods of the story and waits for their end.
func allPodsGone(ctx context.Context, c *call) error { return c.deletePods(ctx) }

// podsSeen waits until the node's kubelet has the pod and has begun to run it.
func podsSeen(ctx context.Context, c *call) error {
	for _, name := range c.args {
		err := world.Eventually(ctx, patience, func(ctx context.Context) error {
			pod, err := c.getPod(ctx, name)
			if err == nil && pod.Status.StartTime == nil {
				return fmt.Errorf("the kubelet of %s has not seen pod %s", pod.Spec.NodeName, name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// podsUp waits until the pods are ready and a command runs in each of them:
// after a fault the API server may still show what was before.
func podsUp(ctx context.Context, c *call) error {
	for _, name := range c.args {
		err := world.Eventually(ctx, patience, func(ctx context.Context) error {
			pod, err := c.getPod(ctx, name)
			if err != nil {
				return err
			}
			if ready(pod) {
				_, err := c.world.PodExec(ctx, c.namespace, name, "true")
				return err
			}
			return fmt.Errorf("pod %s is not up: %s\n%s", name, pod.Status.Phase, strings.Join(c.complaints(ctx, pod), "\n"))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (st *story) getPod(ctx context.Context, name string) (*corev1.Pod, error) {
	return st.world.Client().CoreV1().Pods(st.namespace).Get(ctx, name, metav1.GetOptions{})
}

func ready(pod *corev1.Pod) bool {
	if pod.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func podsGone(ctx context.Context, c *call) error {
	for _, name := range c.args {
		err := world.Eventually(ctx, patience, func(ctx context.Context) error {
			_, err := c.getPod(ctx, name)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(fmt.Errorf("pod %s is still there", name), err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// podStuck waits until the pod, not being ready, shows a complaint that
// matches: in its status or in one of its events.
func podStuck(ctx context.Context, c *call) error {
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		pod, err := c.getPod(ctx, c.args[0])
		if err != nil {
			return err
		}
		if ready(pod) {
			return fmt.Errorf("pod %s is up", c.args[0])
		}
		return match(c.args[1], strings.Join(c.complaints(ctx, pod), "\n"), "what pod "+c.args[0]+" complains of")
	})
}

// complaints are the pod's messages: conditions, waiting containers, events.
func (st *story) complaints(ctx context.Context, pod *corev1.Pod) []string {
	var all []string
	for _, condition := range pod.Status.Conditions {
		if condition.Message != "" {
			all = append(all, condition.Message)
		}
	}
	for _, container := range pod.Status.ContainerStatuses {
		if w := container.State.Waiting; w != nil {
			all = append(all, w.Reason+": "+w.Message)
		}
	}
	events, err := st.events(ctx, pod.Name)
	if err != nil {
		return append(all, "events can't be read: "+err.Error())
	}
	for _, e := range events {
		all = append(all, e.Reason+": "+e.Message)
	}
	return all
}

func (st *story) events(ctx context.Context, pod string) ([]corev1.Event, error) {
	list, err := st.world.Client().CoreV1().Events(st.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func podEvent(ctx context.Context, c *call) error {
	pod, reason, pattern := c.args[0], c.args[1], c.args[2]
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		events, err := c.events(ctx, pod)
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events {
			seen = append(seen, e.Reason+": "+e.Message)
			if e.Reason == reason && match(pattern, e.Message, "event") == nil {
				return nil
			}
		}
		return fmt.Errorf("pod %s has no event %s that matches %q; seen:\n%s", pod, reason, pattern, strings.Join(seen, "\n"))
	})
}

func podExec(ctx context.Context, c *call) error {
	out, err := c.world.PodExec(ctx, c.namespace, c.args[0], c.args[1:]...)
	fmt.Fprint(c.stdout, out)
	return err
}
