package crd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// busyTries is how often a write is sent while the API server is too busy to
// look at it.
const busyTries = 5

// object is one of ours.
type object interface {
	runtime.Object
	metav1.Object
}

// clusterScoped says that no namespace belongs into the URL.
func clusterScoped(resource string) bool {
	return resource == v1alpha1.ResourceIPPools || resource == v1alpha1.ResourceAddressSpaces
}

// at is the request with the resource's place.
func at(r *rest.Request, resource string) *rest.Request {
	return r.NamespaceIfScoped(v1alpha1.Namespace, !clusterScoped(resource)).Resource(resource)
}

func (s *Store) get(ctx context.Context, resource, name string, o metav1.GetOptions, into object) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := at(s.rest.Get(), resource).Name(name).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(into)
	return sorted(err, "get", resource, name)
}

func (s *Store) create(ctx context.Context, resource string, o, into object) error {
	err := s.write(ctx, func(ctx context.Context) rest.Result {
		return at(s.rest.Post(), resource).Body(o).MaxRetries(0).Do(ctx)
	}, into)
	if apierrors.IsNotFound(err) && !kube.IsMissingKind(err) {
		return fmt.Errorf("create %s %s: namespace %s is missing: apply deployments/meta-cni.yaml: %w", kind(resource), o.GetName(), v1alpha1.Namespace, err)
	}
	s.seen.note(resource, into.GetResourceVersion())
	return sorted(err, "create", resource, o.GetName())
}

// update replaces the object of o's UID and resourceVersion.
func (s *Store) update(ctx context.Context, resource string, o, into object) error {
	if isNone(versionOf(o)) {
		return fmt.Errorf("update %s %s: %w: no UID and resourceVersion are given", kind(resource), o.GetName(), ipam.ErrStale)
	}
	err := s.write(ctx, func(ctx context.Context) rest.Result {
		return at(s.rest.Put(), resource).Name(o.GetName()).Body(o).MaxRetries(0).Do(ctx)
	}, into)
	s.seen.note(resource, into.GetResourceVersion())
	return sorted(err, "update", resource, o.GetName())
}

func (s *Store) delete(ctx context.Context, resource, name string, v ipam.Version) error {
	if isNone(v) {
		return fmt.Errorf("delete %s %s: %w: no UID and resourceVersion are given", kind(resource), name, ipam.ErrStale)
	}
	uid := types.UID(v.UID)
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:      metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &v.Resource},
	})
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", kind(resource), name, err)
	}
	err = s.write(ctx, func(ctx context.Context) rest.Result {
		return at(s.rest.Delete(), resource).Name(name).MaxRetries(0).
			SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx)
	}, nil)
	return sorted(err, "delete", resource, name)
}

// isNone says that no object has that version, or any has: the API server
// doesn't compare what isn't given, and 0 isn't given to it.
func isNone(v ipam.Version) bool { return v.UID == "" || v.Resource == "" || v.Resource == "0" }

// write sends once, and again only where the API server says that it was too
// busy to look at the request: that answer comes before anything is done.
func (s *Store) write(ctx context.Context, send func(context.Context) rest.Result, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for try := 1; ; try++ {
		result := send(ctx)
		err := result.Error()
		if err == nil && into != nil {
			err = result.Into(into)
		}
		if !apierrors.IsTooManyRequests(err) || try == busyTries {
			return err
		}
		seconds, _ := apierrors.SuggestsClientDelay(err)
		if !pause(ctx, time.Duration(max(seconds, 1))*time.Second) {
			return err
		}
	}
}

// pause waits; false if ctx ends meanwhile.
func pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func kind(resource string) string { return resource + "." + v1alpha1.Group }

// sorted is an answer of the API server as ipam.Store tells it.
func sorted(err error, verb, resource, name string) error {
	var known error
	switch {
	case err == nil:
		return nil
	case kube.IsMissingKind(err):
	case apierrors.IsNotFound(err):
		known = ipam.ErrNotFound
	case apierrors.IsAlreadyExists(err):
		known = ipam.ErrExists
	case apierrors.IsConflict(err) && verb != "create":
		known = ipam.ErrStale
	}
	if known != nil {
		return fmt.Errorf("%s %s %s: %w: %w", verb, kind(resource), name, known, err)
	}
	return fmt.Errorf("%s: %w", name, kube.Explain(err, verb, kind(resource)))
}

// seen is the newest resourceVersion of each resource that this store has
// written, so that a list from the API server's cache has what we wrote.
type seen struct {
	mu     sync.Mutex
	newest map[string]uint64
}

func (s *seen) note(resource, version string) {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return // nothing was written
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		s.newest = map[string]uint64{}
	}
	s.newest[resource] = max(s.newest[resource], n)
}

// forget is for an etcd that was restored from a backup and counts from there.
func (s *seen) forget(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.newest, resource)
}

// atLeast are the options of a list from the cache.
func (s *seen) atLeast(resource string) metav1.ListOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.newest[resource]; n > 0 {
		return metav1.ListOptions{ResourceVersion: strconv.FormatUint(n, 10), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	}
	return metav1.ListOptions{ResourceVersion: "0"}
}
