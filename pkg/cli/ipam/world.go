package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	nodesPath = "/api/v1/nodes"
	podsPath  = "/api/v1/pods"
	// claimReference is the key by which a pod names an IPAMClaim (multi-net-spec
	// v1.3, 4.1.2.1.11).
	claimReference = "ipam-claim-reference"
	// defaultNetworkAnnotation may name one for the cluster network.
	defaultNetworkAnnotation = "v1.multus-cni.io/default-network"
)

// meta, nodeItem, podItem, boxItem and setItem are what is decoded of an object:
// a tenth of it.
type meta struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Annotations map[string]string `json:"annotations"`
}

type nodeItem struct {
	Metadata struct {
		Name string `json:"name"`
		UID  string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		Taints []corev1.Taint `json:"taints"`
	} `json:"spec"`
	Status struct {
		NodeInfo struct {
			BootID string `json:"bootID"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

func (n *nodeItem) node() node {
	return node{
		name: n.Metadata.Name, uid: n.Metadata.UID, boot: n.Status.NodeInfo.BootID,
		outOfService: slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }),
	}
}

type podItem struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase corev1.PodPhase `json:"phase"`
	} `json:"status"`
}

func (p *podItem) pod() pod {
	m := p.Metadata
	out := pod{
		namespace: m.Namespace, name: m.Name, uid: m.UID, node: p.Spec.NodeName,
		finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	if text := m.Annotations[nadv1.NetworkAttachmentAnnot] + m.Annotations[defaultNetworkAnnotation]; strings.Contains(text, claimReference) {
		out.claims = text
	}
	var statuses []nadv1.NetworkStatus
	text, has := m.Annotations[nadv1.NetworkStatusAnnot]
	out.status = has && json.Unmarshal([]byte(text), &statuses) == nil
	for _, s := range statuses {
		for _, ip := range s.IPs {
			if addr, ok := statusAddr(ip); ok {
				out.addresses = append(out.addresses, podAddress{strings.Clone(s.Interface), strings.Clone(s.Name), addr})
			}
		}
	}
	return out
}

// statusAddr reads an address as network-status has it; some write a CIDR.
func statusAddr(text string) (netip.Addr, bool) {
	if prefix, err := iprange.ParsePrefix(text); err == nil {
		return prefix.Addr().Unmap(), true
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

func boxOf(in *v1alpha1.NodeIPAM) box {
	b := box{name: in.Name, uid: in.Status.UID, boot: in.Status.Boot, log: in.Status.Log}
	if in.Status.Heartbeat != nil {
		b.heartbeat = in.Status.Heartbeat.Time
	}
	return b
}

// whole lists what is worth nothing if a part of it is missing.
func whole[T any](ctx context.Context, c *cluster, path string, each func(*T)) error {
	var bad error
	err := list(ctx, c, path, "", each, func(err error) { bad = errors.Join(bad, err) })
	return errors.Join(err, asked(bad, "read", path))
}

func (c *cluster) nodes(ctx context.Context) (map[string]node, error) {
	all := map[string]node{}
	err := whole(ctx, c, nodesPath, func(in *nodeItem) { all[in.Metadata.Name] = in.node() })
	return all, err
}

func (c *cluster) boxes(ctx context.Context) (map[string]box, error) {
	all := map[string]box{}
	err := whole(ctx, c, ours(v1alpha1.ResourceNodeIPAMs), func(in *v1alpha1.NodeIPAM) { all[in.Name] = boxOf(in) })
	return all, err
}

func (c *cluster) eachPod(ctx context.Context, each func(pod)) error {
	return whole(ctx, c, podsPath, func(in *podItem) { each(in.pod()) })
}

func (c *cluster) node(ctx context.Context, name string) (*node, error) {
	in, ok, err := get[nodeItem](ctx, c, nodesPath, name)
	if err != nil || !ok {
		return nil, err
	}
	n := in.node()
	return &n, nil
}

func (c *cluster) box(ctx context.Context, name string) (*box, error) {
	in, ok, err := get[v1alpha1.NodeIPAM](ctx, c, ours(v1alpha1.ResourceNodeIPAMs), name)
	if err != nil || !ok {
		return nil, err
	}
	b := boxOf(&in)
	return &b, nil
}

func (c *cluster) pod(ctx context.Context, namespace, name string) (*pod, error) {
	in, ok, err := get[podItem](ctx, c, "/api/v1/namespaces/"+namespace+"/pods", name)
	if err != nil || !ok {
		return nil, err
	}
	p := in.pod()
	return &p, nil
}

type setItem struct {
	Spec struct {
		Replicas *int `json:"replicas"`
		Ordinals *struct {
			Start int `json:"start"`
		} `json:"ordinals"`
	} `json:"spec"`
}

func (c *cluster) statefulSet(ctx context.Context, namespace, name string) (*statefulSet, error) {
	in, ok, err := get[setItem](ctx, c, "/apis/apps/v1/namespaces/"+namespace+"/statefulsets", name)
	if err != nil || !ok {
		return nil, err
	}
	set := &statefulSet{replicas: 1}
	if in.Spec.Replicas != nil {
		set.replicas = *in.Spec.Replicas
	}
	if in.Spec.Ordinals != nil {
		set.first = in.Spec.Ordinals.Start
	}
	return set, nil
}

// ipamClaim is the UID of an IPAMClaim, empty if there is none.
func (c *cluster) ipamClaim(ctx context.Context, namespace, name string) (string, error) {
	in, _, err := get[struct {
		Metadata meta `json:"metadata"`
	}](ctx, c, "/apis/k8s.cni.cncf.io/v1alpha1/namespaces/"+namespace+"/ipamclaims", name)
	return in.Metadata.UID, err
}
