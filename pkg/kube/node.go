package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

// ErrNodeGone says that the API server certainly has no Node of that name.
var ErrNodeGone = errors.New("the Node object doesn't exist")

// ErrNoIPAMClaim says that the API server certainly has no such IPAMClaim.
var ErrNoIPAMClaim = errors.New("the IPAMClaim doesn't exist")

// objects gives the metadata of objects of any kind.
func (c *Client) objects(of schema.GroupVersionResource) (metadata.Getter, error) {
	client, err := metadata.NewForConfigAndClient(c.REST())
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return client.Resource(of), nil
}

// NodeUID is the UID of the Node of that name, by a quorum read. Errors:
// ErrNodeGone, ErrUnavailable.
func (c *Client) NodeUID(ctx context.Context, name string) (string, error) {
	nodes, err := c.objects(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	node, err := nodes.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("node %s: %w", name, ErrNodeGone)
	case err != nil:
		return "", fmt.Errorf("node %s: %w", name, explain(err, "get", "nodes"))
	}
	return string(node.UID), nil
}

// ipamClaims are the persistent addresses of the Network Plumbing Working
// Group (multi-net-spec v1.3, 8.2).
func ipamClaims() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Resource: "ipamclaims"}
}

// IPAMClaimUID is the UID of an IPAMClaim, by a quorum read. Errors:
// ErrNoIPAMClaim, ErrUnavailable.
func (c *Client) IPAMClaimUID(ctx context.Context, namespace, name string) (string, error) {
	claims, err := c.objects(ipamClaims())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	claim, err := claims.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("IPAMClaim %s/%s: %w", namespace, name, ErrNoIPAMClaim)
	case err != nil:
		return "", fmt.Errorf("IPAMClaim %s/%s: %w", namespace, name, explain(err, "get", "ipamclaims.k8s.cni.cncf.io"))
	}
	return string(claim.UID), nil
}

// PatchIPAMClaimStatus tells in an IPAMClaim of that UID which addresses it has
// (CIDR) and which pod uses them.
func (c *Client) PatchIPAMClaimStatus(ctx context.Context, namespace, name, uid string, ips []string, pod string) error {
	claims, err := c.objects(ipamClaims())
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid},
		"status":   map[string]any{"ips": ips, "ownerPod": map[string]any{"name": pod}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	if _, err := claims.Namespace(namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("status of IPAMClaim %s/%s: %w", namespace, name, explain(err, "patch", "ipamclaims/status"))
	}
	return nil
}
