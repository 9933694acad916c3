package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	// EventNormal tells of something that went as asked for.
	EventNormal = corev1.EventTypeNormal
	// EventWarning tells of something that a person should look at.
	EventWarning = corev1.EventTypeWarning

	component = "meta-cni"
	// maxMessage is the limit of events.k8s.io for its note.
	maxMessage = 1024
)

// Event is one message at a pod or, if Node is set, at a node.
type Event struct {
	// Pod that the event is about; with its UID `kubectl describe` shows it.
	Pod attach.Pod
	// Node that the event is about, instead of Pod.
	Node string
	// Type is EventNormal or EventWarning.
	Type string
	// Reason is one word in CamelCase.
	Reason string
	// Message is cut after 1024 bytes.
	Message string
}

// CreateEvent writes a core/v1 Event from component meta-cni. It isn't
// repeated or rate-limited here.
func (c *Client) CreateEvent(ctx context.Context, e Event) error {
	now := time.Now()
	event := corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		InvolvedObject: e.object(),
		Type:           e.Type,
		Reason:         e.Reason,
		Message:        cut(e.Message, maxMessage),
		Source:         corev1.EventSource{Component: component, Host: c.nodeName},
		FirstTimestamp: metav1.NewTime(now),
		LastTimestamp:  metav1.NewTime(now),
		Count:          1,
	}
	namespace := event.InvolvedObject.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // events about nodes live there
	}
	suffix := "." + strconv.FormatInt(now.UnixNano(), 16)
	event.Namespace = namespace
	event.Name = strings.TrimRight(cut(event.InvolvedObject.Name, 253-len(suffix)), "-.") + suffix
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("event %s: %w", e.Reason, err)
	}
	err = c.networks.Post().AbsPath("/api/v1/namespaces", namespace, "events").
		SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("event %s for %s %s: %w", e.Reason, event.InvolvedObject.Kind, event.InvolvedObject.Name, explain(err, "create", "events"))
	}
	return nil
}

func (e Event) object() corev1.ObjectReference {
	if e.Node != "" {
		// The kubelet uses the name as UID in its events about nodes, and
		// kubectl looks for that.
		return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: types.UID(e.Node)}
	}
	return corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod",
		Namespace: e.Pod.Namespace, Name: e.Pod.Name, UID: types.UID(e.Pod.UID),
	}
}

// cut shortens s to at most limit bytes without splitting a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}
