package crd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ippool"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// PoolsOptions configures Pools.
type PoolsOptions struct {
	// Node is this node's name, for nodeSelectors.
	Node string
	// StateDir has the copy pools.json of what was known last; empty keeps none.
	StateDir string
	// Log must not be nil.
	Log *slog.Logger
}

// Pools is ipam.Pools on IPPools. It answers from watches, before they are in
// step from the copy of the last run, and without Run by reads. The labels of
// the node and of namespaces are followed once a pool selects them.
type Pools struct {
	rest rest.Interface
	o    PoolsOptions

	pools      *follow[v1alpha1.IPPoolSpec]
	node       *follow[labels.Set]
	namespaces *follow[labels.Set]
	getNode    getter
	getNS      getter

	notes notes
	disk  *poolCopy
}

// getter reads the metadata of one object from the API server.
type getter func(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error)

// NewPools makes Pools and reads the copy of the last run. config and
// httpClient are those of kube.Client.REST.
func NewPools(config *rest.Config, httpClient *http.Client, o PoolsOptions) (*Pools, error) {
	client, meta, err := clients(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("client of IPPools: %w", err)
	}
	p := &Pools{rest: client, o: o, notes: newNotes(), disk: openCopy(o.StateDir, o.Log)}
	p.pools = newFollow(poolSource(client), o.Log, func(o metav1.Object) (v1alpha1.IPPoolSpec, bool) {
		pool, ok := o.(*v1alpha1.IPPool)
		if !ok || pool.DeletionTimestamp != nil {
			return v1alpha1.IPPoolSpec{}, false // gives no address any more
		}
		return pool.Spec, true
	})
	nodes := schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	p.node, p.getNode = followLabels(meta, nodes, fields.OneTermEqualSelector("metadata.name", o.Node).String(), o.Log)
	p.namespaces, p.getNS = followLabels(meta, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "", o.Log)
	return p, nil
}

func poolSource(client rest.Interface) source {
	return source{
		what: kind(v1alpha1.ResourceIPPools), example: &v1alpha1.IPPool{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list := &v1alpha1.IPPoolList{}
			err := at(client.Get(), v1alpha1.ResourceIPPools).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list)
			return list, err
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return at(client.Get(), v1alpha1.ResourceIPPools).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
		},
	}
}

func followLabels(meta metadata.Interface, resource schema.GroupVersionResource, selector string, log *slog.Logger) (*follow[labels.Set], getter) {
	all := meta.Resource(resource)
	from := source{
		what: resource.Resource, example: &metav1.PartialObjectMetadata{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return all.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return all.Watch(ctx, o)
		},
	}
	keep := func(o metav1.Object) (labels.Set, bool) { return o.GetLabels(), true }
	get := func(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
		ctx, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		found, err := all.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", resource.Resource, name, kube.Explain(err, "get", resource.Resource))
		}
		return found, nil
	}
	return newFollow(from, log, keep), get
}

// Run follows the API server until ctx ends; whatever it does, it is tried
// again.
func (p *Pools) Run(ctx context.Context) {
	var wg sync.WaitGroup
	p.pools.begun()
	wg.Go(func() { p.pools.run(ctx) })
	wg.Go(func() { p.disk.follow(ctx, p) })
	wg.Go(func() { p.makeNoted(ctx) })
	p.followSelected(ctx, &wg)
	wg.Wait()
}

// followSelected begins to follow labels when a pool selects them first.
func (p *Pools) followSelected(ctx context.Context, wg *sync.WaitGroup) {
	node, namespaces := false, false
	for ctx.Err() == nil {
		bell := p.pools.changed()
		byNode, byNamespace := selected(p.pools.all())
		if byNode && !node {
			node = true
			p.node.begun()
			wg.Go(func() { p.node.run(ctx) })
		}
		if byNamespace && !namespaces {
			namespaces = true
			p.namespaces.begun()
			wg.Go(func() { p.namespaces.run(ctx) })
		}
		select {
		case <-bell:
		case <-ctx.Done():
		}
	}
}

// selected says whether any pool selects nodes, or namespaces.
func selected(pools map[string]v1alpha1.IPPoolSpec) (byNode, byNamespace bool) {
	for _, spec := range pools {
		byNode = byNode || spec.NodeSelector != nil
		byNamespace = byNamespace || spec.NamespaceSelector != nil
	}
	return byNode, byNamespace
}

// Ready is nil once the pools are known, be it from the copy of the last run.
func (p *Pools) Ready() error {
	if p.pools.inStep() || p.disk.has() {
		return nil
	}
	if err := p.pools.why(); err != nil {
		return err
	}
	return errors.New("IPPools: waiting for the API server's first list")
}

// Pool implements ipam.Pools. A pool that the watch doesn't know yet is looked
// for once at the API server: it may have been made just before the pod.
func (p *Pools) Pool(ctx context.Context, name, namespace string) (ipam.Pool, error) {
	spec, err := p.find(ctx, name)
	if err != nil {
		return ipam.Pool{}, err
	}
	pool, err := ippool.Of(name, spec)
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w", name, err)
	}
	reason, err := p.refuses(ctx, spec, namespace)
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w", name, err)
	}
	if reason != "" {
		return ipam.Pool{}, fmt.Errorf("IPPool %s: %w here: %s", name, ipam.ErrNoPool, reason)
	}
	return pool, nil
}

func (p *Pools) find(ctx context.Context, name string) (v1alpha1.IPPoolSpec, error) {
	known, inStep := p.known(ctx)
	if spec, ok := known[name]; ok {
		return spec, nil
	}
	found := &v1alpha1.IPPool{}
	read, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	err := at(p.rest.Get(), v1alpha1.ResourceIPPools).Name(name).Do(read).Into(found)
	switch {
	case err == nil && found.DeletionTimestamp == nil:
		return found.Spec, nil
	case err == nil:
		return v1alpha1.IPPoolSpec{}, fmt.Errorf("IPPool %s: %w: it is being deleted", name, ipam.ErrNoPool)
	case apierrors.IsNotFound(err) && !kube.IsMissingKind(err):
		return v1alpha1.IPPoolSpec{}, fmt.Errorf("IPPool %s: %w; there are: %s", name, ipam.ErrNoPool, names(known))
	case inStep:
		return v1alpha1.IPPoolSpec{}, fmt.Errorf("IPPool %s: %w when the API server was heard of last; there were: %s (%w)", name, ipam.ErrNoPool, names(known), kube.Explain(err, "get", kind(v1alpha1.ResourceIPPools)))
	}
	return v1alpha1.IPPoolSpec{}, fmt.Errorf("IPPool %s: %w", name, kube.Explain(err, "get", kind(v1alpha1.ResourceIPPools)))
}

func names(pools map[string]v1alpha1.IPPoolSpec) string {
	if len(pools) == 0 {
		return "none"
	}
	all := slices.Sorted(maps.Keys(pools))
	if len(all) > 10 {
		all = append(all[:10], fmt.Sprintf("and %d more", len(pools)-10))
	}
	return strings.Join(all, ", ")
}

// known are the pools of the watch if it is in step, else those of the copy;
// while Run doesn't run they are read if they can be.
func (p *Pools) known(ctx context.Context) (_ map[string]v1alpha1.IPPoolSpec, inStep bool) {
	if p.pools.settle(ctx, settleTime) {
		return p.pools.all(), true
	}
	if !p.pools.runs() {
		if read, err := p.list(ctx); err == nil {
			return read, true
		}
	}
	return p.disk.last().Pools, false
}

func (p *Pools) list(ctx context.Context) (map[string]v1alpha1.IPPoolSpec, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	all, err := p.pools.source.list(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	list, ok := all.(*v1alpha1.IPPoolList)
	if !ok {
		return nil, fmt.Errorf("the API server sent %T where IPPools belong", all)
	}
	pools := map[string]v1alpha1.IPPoolSpec{}
	for i := range list.Items {
		p.pools.put(pools, &list.Items[i])
	}
	return pools, nil
}

// Match implements ipam.Pools.
func (p *Pools) Match(ctx context.Context, namespace string) ([]ipam.Pool, error) {
	known, inStep := p.known(ctx)
	if !inStep && !p.disk.has() {
		return nil, fmt.Errorf("IPPools: %w", errors.Join(kube.ErrUnavailable, p.Ready()))
	}
	var pools []ipam.Pool
	for _, name := range slices.Sorted(maps.Keys(known)) {
		spec := known[name]
		if !spec.Default {
			continue
		}
		reason, err := p.refuses(ctx, spec, namespace)
		if err != nil {
			return nil, fmt.Errorf("IPPool %s: %w", name, err)
		}
		if reason != "" {
			continue
		}
		pool, err := ippool.Of(name, spec)
		if err != nil {
			return nil, fmt.Errorf("IPPool %s: %w", name, err)
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// refuses is why the pool is not for this node and namespace; empty if it is.
func (p *Pools) refuses(ctx context.Context, spec v1alpha1.IPPoolSpec, namespace string) (string, error) {
	for _, by := range []struct {
		what, name string
		selector   *metav1.LabelSelector
		from       *follow[labels.Set]
		get        getter
		copied     map[string]labels.Set
	}{
		{"node", p.o.Node, spec.NodeSelector, p.node, p.getNode, p.disk.last().Nodes},
		{"namespace", namespace, spec.NamespaceSelector, p.namespaces, p.getNS, p.disk.last().Namespaces},
	} {
		if by.selector == nil {
			continue
		}
		set, err := labelsOf(ctx, by.from, by.get, by.copied, by.name)
		if err != nil {
			return "", fmt.Errorf("%sSelector: %w", by.what, err)
		}
		fits, err := admits(by.selector, set)
		if err != nil {
			return "", fmt.Errorf("%sSelector: %w", by.what, err)
		}
		if !fits {
			return fmt.Sprintf("its %sSelector (%s) doesn't admit %s %s with the labels %s",
				by.what, metav1.FormatLabelSelector(by.selector), by.what, by.name, set), nil
		}
	}
	return "", nil
}

// labelsOf are an object's labels from the watch, else from the API server,
// else from the copy.
func labelsOf(ctx context.Context, from *follow[labels.Set], get getter, copied map[string]labels.Set, name string) (labels.Set, error) {
	if from.settle(ctx, settleTime) {
		if set, ok := from.get(name); ok {
			return set, nil
		}
	} else if set, ok := copied[name]; ok && from.fails() {
		return set, nil
	}
	found, err := get(ctx, name)
	if err != nil {
		return lastKnown(copied, name, from.inStep(), err)
	}
	return found.Labels, nil
}

// lastKnown are the labels of the copy, unless something newer is known.
func lastKnown(copied map[string]labels.Set, name string, outdated bool, err error) (labels.Set, error) {
	if set, ok := copied[name]; ok && !outdated {
		return set, nil
	}
	return nil, err
}
