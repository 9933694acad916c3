package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	// maxConfig bounds spec.config of a network definition.
	maxConfig = 64 << 10
	// resourceNameKey is the annotation that binds a definition to a device plugin.
	resourceNameKey = "k8s.v1.cni.cncf.io/resourceName"
	// settleTime is how long a definition waits, after the daemon's start, for
	// the first answer of the API server.
	settleTime = 2 * time.Second
)

// Network is the definition that ref names; Config is empty if it has none of
// its own. While the informer is in step it answers; a definition that it
// lacks is looked for once at the API server, because the informer may lag
// behind one that was made just before the pod. Before the informer has
// synced, the copy of the last run answers if the API server can't. Errors:
// ErrNotFound (certain), ErrUnavailable (try again).
func (c *Cache) Network(ctx context.Context, ref attach.NetworkRef) (attach.Network, error) {
	found, err := c.findNetwork(ctx, ref)
	if err != nil {
		return attach.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", ref, err)
	}
	if len(found.Config) > maxConfig {
		return attach.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: spec.config has %d bytes: at most %d are accepted", ref, len(found.Config), maxConfig)
	}
	return found.network(), nil
}

func (c *Cache) findNetwork(ctx context.Context, ref attach.NetworkRef) (definition, error) {
	// An old copy isn't used while the API server is about to answer.
	c.networks.settle(ctx)
	if nad, ok := c.networks.get(ref.Namespace, ref.Name).(*nadv1.NetworkAttachmentDefinition); ok {
		return definitionOf(nad), nil
	}
	if !c.networks.synced() && c.networks.silent() {
		if copied, ok := c.disk.load(ref); ok {
			return copied, nil
		}
	}
	nad, err := c.client.getNetwork(ctx, ref)
	if err == nil {
		return definitionOf(nad), nil
	}
	if errors.Is(err, ErrUnavailable) && !answered(err) && !c.networks.synced() {
		if copied, ok := c.disk.load(ref); ok {
			return copied, nil
		}
	}
	return definition{}, err
}

// definition is what is kept of a NetworkAttachmentDefinition, in memory's
// and disk's common form.
type definition struct {
	Namespace    string `json:"namespace"`
	Name         string `json:"name"`
	Config       string `json:"config"`
	ResourceName string `json:"resourceName,omitempty"`
}

func definitionOf(nad *nadv1.NetworkAttachmentDefinition) definition {
	return definition{
		Namespace: nad.Namespace, Name: nad.Name,
		Config: nad.Spec.Config, ResourceName: nad.Annotations[resourceNameKey],
	}
}

func (d definition) ref() attach.NetworkRef {
	return attach.NetworkRef{Namespace: d.Namespace, Name: d.Name}
}

func (d definition) network() attach.Network {
	return attach.Network{
		Ref: d.ref(), Config: []byte(d.Config), ResourceName: d.ResourceName,
		Source: "NetworkAttachmentDefinition " + d.ref().String(),
	}
}

// transformNetwork runs before a definition is stored.
func transformNetwork(object any) (any, error) {
	nad, ok := object.(*nadv1.NetworkAttachmentDefinition)
	if !ok {
		return nil, errors.New("the API server sent something else than a NetworkAttachmentDefinition")
	}
	var annotations map[string]string
	if name, ok := nad.Annotations[resourceNameKey]; ok {
		annotations = map[string]string{resourceNameKey: name}
	}
	nad.ObjectMeta = metav1.ObjectMeta{
		Namespace: nad.Namespace, Name: nad.Name, UID: nad.UID,
		ResourceVersion: nad.ResourceVersion, Annotations: annotations,
	}
	return nad, nil
}
