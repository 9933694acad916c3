package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// countEvery is how long a count of the nodes is good for.
const countEvery = 3 * time.Minute

// Nodes implements ipam.Store: the NodeIPAMs, counted every three minutes. One
// object is read; the API server says how many are left.
func (s *Store) Nodes(ctx context.Context) (int, error) {
	s.mu.Lock()
	nodes, fresh := s.nodes, time.Since(s.counted) < countEvery
	s.mu.Unlock()
	if nodes > 0 && fresh {
		return nodes, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := s.meta.Resource(v1alpha1.Resource(v1alpha1.ResourceNodeIPAMs)).Namespace(v1alpha1.Namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil && nodes > 0 {
		return nodes, nil // a hint: an old one is better than none
	}
	if err != nil {
		return 0, listed(err, v1alpha1.ResourceNodeIPAMs)
	}
	count := len(list.Items)
	if list.RemainingItemCount != nil {
		count += int(*list.RemainingItemCount)
	}
	count = max(count, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes, s.counted = count, time.Now()
	return count, nil
}

// EnsureNode makes this node's NodeIPAM if it isn't there, and says in it who
// the node is and that it lives. Call it at the start, before other nodes can
// have a reason to ask, and every few minutes.
func (s *Store) EnsureNode(ctx context.Context, n ipam.Node) error {
	status := v1alpha1.NodeIPAMStatus{UID: n.UID, Boot: n.Boot, Log: n.Log, Heartbeat: encodeTime(time.Now())}
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fmt.Errorf("NodeIPAM %s: %w", n.Name, err)
	}
	err = s.get(ctx, v1alpha1.ResourceNodeIPAMs, n.Name, metav1.GetOptions{ResourceVersion: "0"}, &v1alpha1.NodeIPAM{})
	if errors.Is(err, ipam.ErrNotFound) {
		box := &v1alpha1.NodeIPAM{TypeMeta: typeMeta("NodeIPAM"), ObjectMeta: objectMeta(n.Name, ipam.Version{})}
		err = s.create(ctx, v1alpha1.ResourceNodeIPAMs, box, &v1alpha1.NodeIPAM{})
	}
	if err != nil && !errors.Is(err, ipam.ErrExists) {
		return err
	}
	return s.patchNode(ctx, n.Name, body, "status")
}

// Ask implements ipam.Store by a patch of one key, so that nobody's request
// takes another's away. ErrNotFound: there is no such node (any more).
func (s *Store) Ask(ctx context.Context, node string, ref ipam.BlockRef) error {
	requester := s.node
	if requester == "" {
		requester = "-"
	}
	return s.patchDemote(ctx, node, map[string]any{ref.String(): requester})
}

// Answered implements ipam.Store.
func (s *Store) Answered(ctx context.Context, node string, refs []ipam.BlockRef) error {
	if len(refs) == 0 {
		return nil
	}
	gone := map[string]any{}
	for _, ref := range refs {
		gone[ref.String()] = nil
	}
	err := s.patchDemote(ctx, node, gone)
	if errors.Is(err, ipam.ErrNotFound) {
		return nil // no list, so nothing is in it
	}
	return err
}

func (s *Store) patchDemote(ctx context.Context, node string, demote map[string]any) error {
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"demote": demote}})
	if err != nil {
		return fmt.Errorf("NodeIPAM %s: %w", node, err)
	}
	return s.patchNode(ctx, node, body)
}

// patchNode may be repeated: it says what is to be there in the end.
func (s *Store) patchNode(ctx context.Context, node string, body []byte, subresource ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.meta.Resource(v1alpha1.Resource(v1alpha1.ResourceNodeIPAMs)).Namespace(v1alpha1.Namespace).
		Patch(ctx, node, types.MergePatchType, body, metav1.PatchOptions{}, subresource...)
	resource := strings.Join(append([]string{v1alpha1.ResourceNodeIPAMs}, subresource...), "/")
	return sorted(err, "patch", resource, node)
}

// Asked implements ipam.Store.
func (s *Store) Asked(ctx context.Context, node string) ([]ipam.BlockRef, error) {
	box := &v1alpha1.NodeIPAM{}
	err := s.get(ctx, v1alpha1.ResourceNodeIPAMs, node, metav1.GetOptions{}, box)
	if errors.Is(err, ipam.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var refs []ipam.BlockRef
	for name := range box.Spec.Demote {
		ref, err := ipam.ParseBlockRef(name)
		if err != nil {
			s.tellJunk(fmt.Errorf("NodeIPAM %s: demote: %w", node, err))
			continue
		}
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b ipam.BlockRef) int { return strings.Compare(a.String(), b.String()) })
	return refs, nil
}

// letters is what tells one list of requests from another: who writes to the
// status doesn't change the generation.
type letters struct {
	uid        types.UID
	generation int64
}

// Watch calls back when the requests to this node may have changed, and once
// they are known first, until ctx ends. The calls come one after the other. A
// broken watch is begun again.
func (s *Store) Watch(ctx context.Context, node string, changed func()) {
	boxes := s.meta.Resource(v1alpha1.Resource(v1alpha1.ResourceNodeIPAMs)).Namespace(v1alpha1.Namespace)
	selector := fields.OneTermEqualSelector("metadata.name", node).String()
	own := newFollow(source{
		what: kind(v1alpha1.ResourceNodeIPAMs), example: &metav1.PartialObjectMetadata{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return boxes.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return boxes.Watch(ctx, o)
		},
	}, s.log, func(o metav1.Object) (letters, bool) { return letters{o.GetUID(), o.GetGeneration()}, true })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		own.run(ctx)
	}()
	var before letters
	for first := true; ctx.Err() == nil; {
		bell := own.changed()
		if now, there := own.get(node); there && (first || now != before) {
			first, before = false, now
			changed()
		}
		select {
		case <-bell:
		case <-ctx.Done():
		}
	}
	<-ended
}
