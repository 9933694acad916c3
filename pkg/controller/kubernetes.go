package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	// callTimeout bounds one live read.
	callTimeout = 10 * time.Second
	// podsTimeout bounds the list of a node's pods.
	podsTimeout = 30 * time.Second
	// networksAnnotation is where a pod names its IPAMClaims
	// (ipam-claim-reference, multi-net-spec v1.3 section 4.1.2.1.11).
	networksAnnotation = "k8s.v1.cni.cncf.io/networks"
	// defaultNetworkAnnotation may name one for the cluster network.
	defaultNetworkAnnotation = "v1.multus-cni.io/default-network"
	// pageSize of live lists.
	pageSize = 500
)

// Kubernetes is a Cluster with caches of nodes, pods and StatefulSets.
type Kubernetes struct {
	client kubernetes.Interface
	meta   metadata.Interface
	nodes  cache.SharedIndexInformer
	pods   cache.SharedIndexInformer
	sets   cache.SharedIndexInformer
}

// NewKubernetes makes the caches; Run fills them.
func NewKubernetes(client kubernetes.Interface, meta metadata.Interface) (*Kubernetes, error) {
	k := &Kubernetes{client: client, meta: meta}
	k.nodes = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.Everything()), &corev1.Node{}, 0, nil)
	k.sets = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(client.AppsV1().RESTClient(), "statefulsets", "", fields.Everything()), &appsv1.StatefulSet{}, 0, nil)
	k.pods = cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return k.podMeta("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return k.podMeta("").Watch(ctx, o)
		},
	}, &metav1.PartialObjectMetadata{}, 0, nil)
	for _, set := range []error{k.nodes.SetTransform(trim), k.sets.SetTransform(trim), k.pods.SetTransform(trim)} {
		if set != nil {
			return nil, set
		}
	}
	return k, nil
}

func (k *Kubernetes) podMeta(namespace string) metadata.ResourceInterface {
	return k.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(namespace)
}

// trim keeps what is looked at, of thousands of objects.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Node:
		o.ObjectMeta = trimMeta(o.ObjectMeta)
		o.Spec, o.Status = corev1.NodeSpec{Taints: o.Spec.Taints}, corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: o.Status.NodeInfo.BootID},
			Conditions: slices.DeleteFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type != corev1.NodeReady }),
		}
	case *appsv1.StatefulSet:
		o.ObjectMeta = trimMeta(o.ObjectMeta)
		o.Spec, o.Status = appsv1.StatefulSetSpec{Replicas: o.Spec.Replicas, Ordinals: o.Spec.Ordinals}, appsv1.StatefulSetStatus{}
	case *metav1.PartialObjectMetadata:
		o.ObjectMeta = trimMeta(o.ObjectMeta)
	}
	return object, nil
}

func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp}
}

// Run keeps the caches until ctx ends.
func (k *Kubernetes) Run(ctx context.Context) {
	done := make(chan struct{})
	informers := []cache.SharedIndexInformer{k.nodes, k.pods, k.sets}
	for _, informer := range informers {
		go func() {
			informer.RunWithContext(ctx)
			done <- struct{}{}
		}()
	}
	for range informers {
		<-done
	}
}

// Synced waits until the caches have everything; false when ctx ends first.
func (k *Kubernetes) Synced(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), k.nodes.HasSynced, k.pods.HasSynced, k.sets.HasSynced)
}

// HasPod implements Cluster.
func (k *Kubernetes) HasPod(namespace, name string) bool {
	_, ok := cached[*metav1.PartialObjectMetadata](k.pods, namespace+"/"+name)
	return ok
}

func cached[T any](informer cache.SharedIndexInformer, key string) (T, bool) {
	object, exists, err := informer.GetStore().GetByKey(key)
	found, ok := object.(T)
	return found, ok && exists && err == nil
}

// Node implements Cluster.
func (k *Kubernetes) Node(ctx context.Context, n ipam.Node) Evidence {
	if node, ok := cached[*corev1.Node](k.nodes, n.Name); ok {
		e := Evidence{Node: nodeOf(node)}
		if e.condition(lifeOf(n)) == alive {
			return e
		}
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var e Evidence
	node, err := k.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		e.Node = nodeOf(node)
	case !apierrors.IsNotFound(err):
		return Evidence{Err: fmt.Errorf("read node %s: %w", n.Name, err)}
	}
	if e.condition(lifeOf(n)) != alive {
		e.Pods = sync.OnceValues(func() ([]Pod, error) { return k.podsOf(outer, n.Name) })
	}
	return e
}

// podsOf are the pods of a node as they are now. Where an etcd can't serve that
// from the API server's cache, all pods of the cluster are read for it.
func (k *Kubernetes) podsOf(ctx context.Context, node string) ([]Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	var pods []Pod
	err := k.eachPod(ctx, "", metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()},
		func(p *metav1.PartialObjectMetadata) {
			owner := metav1.GetControllerOf(p)
			pods = append(pods, Pod{
				Namespace: p.Namespace, Name: p.Name, Created: p.CreationTimestamp.Time,
				Stays: owner != nil && (owner.Kind == "DaemonSet" || owner.Kind == "Node"),
			})
		})
	return pods, err
}

func nodeOf(node *corev1.Node) *Node {
	tainted := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return &Node{
		Name: node.Name, UID: string(node.UID), Created: node.CreationTimestamp.Time, Boot: node.Status.NodeInfo.BootID,
		OutOfService: tainted && !ready,
	}
}

// eachPod lists pods as they are now.
func (k *Kubernetes) eachPod(ctx context.Context, namespace string, o metav1.ListOptions, each func(*metav1.PartialObjectMetadata)) error {
	o.Limit = pageSize
	for {
		list, err := k.podMeta(namespace).List(ctx, o)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// Keeper implements Cluster.
func (k *Kubernetes) Keeper(ctx context.Context, of ipam.Keeper) KeeperEvidence {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if of.Kind == ipam.KeepClaim {
		return k.claimKeeper(ctx, of)
	}
	if k.HasPod(of.Namespace, of.Name) {
		return KeeperEvidence{PodExists: true}
	}
	name, ordinal, isOrdinal := ordinalOf(of.Name)
	if set, ok := cached[*appsv1.StatefulSet](k.sets, of.Namespace+"/"+name); ok && isOrdinal {
		if s := setOf(set); ordinal >= s.First && ordinal < s.First+s.Replicas {
			return KeeperEvidence{Set: s}
		}
	}
	var e KeeperEvidence
	_, err := k.podMeta(of.Namespace).Get(ctx, of.Name, metav1.GetOptions{})
	if e.PodExists = err == nil; err != nil && !apierrors.IsNotFound(err) {
		return KeeperEvidence{Err: fmt.Errorf("read pod %s/%s: %w", of.Namespace, of.Name, err)}
	}
	if e.PodExists || !isOrdinal {
		return e
	}
	set, err := k.client.AppsV1().StatefulSets(of.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		e.Set = setOf(set)
	case !apierrors.IsNotFound(err):
		e.Err = fmt.Errorf("read StatefulSet %s/%s: %w", of.Namespace, name, err)
	}
	return e
}

func setOf(set *appsv1.StatefulSet) *StatefulSet {
	s := &StatefulSet{Replicas: 1}
	if set.Spec.Replicas != nil {
		s.Replicas = int(*set.Spec.Replicas)
	}
	if set.Spec.Ordinals != nil {
		s.First = int(set.Spec.Ordinals.Start)
	}
	return s
}

// claimKeeper reads an IPAMClaim and, if that UID is gone, looks for a pod that
// names it. Where the kind isn't served, nothing is known.
func (k *Kubernetes) claimKeeper(ctx context.Context, of ipam.Keeper) KeeperEvidence {
	var e KeeperEvidence
	claims := k.meta.Resource(schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Resource: "ipamclaims"})
	found, err := claims.Namespace(of.Namespace).Get(ctx, of.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		e.ClaimUID = string(found.UID)
	case !apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return KeeperEvidence{Err: fmt.Errorf("read IPAMClaim %s/%s: %w", of.Namespace, of.Name, err)}
	}
	if e.ClaimUID == of.UID {
		return e
	}
	e.Err = k.eachPod(ctx, of.Namespace, metav1.ListOptions{}, func(p *metav1.PartialObjectMetadata) {
		text := p.Annotations[networksAnnotation] + p.Annotations[defaultNetworkAnnotation]
		if strings.Contains(text, `"`+of.Name+`"`) {
			e.ClaimUser = p.Name
		}
	})
	return e
}
