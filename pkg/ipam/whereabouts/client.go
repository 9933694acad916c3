package whereabouts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	ippools      = "ippools"
	reservations = "overlappingrangeipreservations"
	slicePools   = "nodeslicepools"

	// callTimeout bounds one request, a page of a list too.
	callTimeout = 10 * time.Second
	// pageSize of lists: an IPPool may have a megabyte.
	pageSize = 200
)

// Client reads Whereabouts' objects of one namespace from the API server, and
// is its ReservationAPI.
type Client struct {
	rest      rest.Interface
	namespace string
}

// NewClient uses the connection of config and httpClient; namespace is the one
// of Whereabouts' objects (kube-system, where nobody chose another).
func NewClient(config *rest.Config, httpClient *http.Client, namespace string) (*Client, error) {
	config = rest.CopyConfig(config)
	config.APIPath = "/apis"
	config.GroupVersion = &schema.GroupVersion{Group: Group, Version: Version}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("client of Whereabouts' objects: %w", err)
	}
	return &Client{rest: client, namespace: namespace}, nil
}

// Pools are all IPPools; none if the cluster doesn't know the kind.
func (c *Client) Pools(ctx context.Context) ([]IPPool, error) {
	return list[IPPool](ctx, c, ippools, "")
}

// Slices are all NodeSlicePools.
func (c *Client) Slices(ctx context.Context) ([]NodeSlicePool, error) {
	return list[NodeSlicePool](ctx, c, slicePools, "")
}

// Reservations are all reservations as they are now; List may be old.
func (c *Client) Reservations(ctx context.Context) ([]Reservation, error) {
	return list[Reservation](ctx, c, reservations, "")
}

// List implements ReservationAPI from the API server's cache.
func (c *Client) List(ctx context.Context) ([]Reservation, error) {
	return list[Reservation](ctx, c, reservations, "0")
}

func list[T any](ctx context.Context, c *Client, resource, version string) ([]T, error) {
	var all []T
	options := metav1.ListOptions{ResourceVersion: version}
	if version == "" {
		options.Limit = pageSize // from the cache there are no pages
	}
	for {
		var page struct {
			metav1.ListMeta `json:"metadata"`
			Items           []T `json:"items"`
		}
		data, err := raw(ctx, c.rest.Get().Namespace(c.namespace).Resource(resource).
			VersionedParams(&options, metav1.ParameterCodec))
		if apierrors.IsNotFound(err) {
			return nil, nil // no such kind: that part of Whereabouts isn't installed
		}
		if err == nil {
			err = json.Unmarshal(data, &page)
		}
		if err != nil {
			return nil, fmt.Errorf("list %s.%s in namespace %s: %w", resource, Group, c.namespace, err)
		}
		all = append(all, page.Items...)
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// Get implements ReservationAPI.
func (c *Client) Get(ctx context.Context, name string) (Reservation, error) {
	return c.one(ctx, c.rest.Get().Name(name), "get", name)
}

// Create implements ReservationAPI.
func (c *Client) Create(ctx context.Context, r Reservation) (Reservation, error) {
	body, err := c.body(r)
	if err != nil {
		return Reservation{}, err
	}
	return c.one(ctx, c.rest.Post().Body(body), "create", r.Name)
}

// Update implements ReservationAPI: the API server compares UID and
// resourceVersion.
func (c *Client) Update(ctx context.Context, r Reservation) (Reservation, error) {
	body, err := c.body(r)
	if err != nil {
		return Reservation{}, err
	}
	return c.one(ctx, c.rest.Put().Name(r.Name).Body(body), "update", r.Name)
}

// Delete implements ReservationAPI.
func (c *Client) Delete(ctx context.Context, name string, v ipam.Version) error {
	uid := types.UID(v.UID)
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:      metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &v.Resource},
	})
	if err != nil {
		return fmt.Errorf("delete reservation %s: %w", name, err)
	}
	_, err = raw(ctx, c.rest.Delete().Namespace(c.namespace).Resource(reservations).Name(name).
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body))
	return sorted(err, "delete", name)
}

func (c *Client) body(r Reservation) ([]byte, error) {
	r.TypeMeta = metav1.TypeMeta{APIVersion: Group + "/" + Version, Kind: "OverlappingRangeIPReservation"}
	r.Namespace = c.namespace
	r.ManagedFields = nil
	body, err := json.Marshal(r)
	return body, wrap(err, "reservation %s", r.Name)
}

func (c *Client) one(ctx context.Context, request *rest.Request, verb, name string) (Reservation, error) {
	data, err := raw(ctx, request.Namespace(c.namespace).Resource(reservations).
		SetHeader("Content-Type", runtime.ContentTypeJSON))
	if err != nil {
		return Reservation{}, sorted(err, verb, name)
	}
	var r Reservation
	return r, wrap(json.Unmarshal(data, &r), "%s reservation %s", verb, name)
}

// raw is the body, or the error with the reason that the body gives. A write
// that the client repeats by itself does no harm: whoever calls for it goes on
// from what is there.
func raw(ctx context.Context, request *rest.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result := request.Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// sorted is an answer of the API server as ipam.Store tells it. A missing kind
// is no missing object.
func sorted(err error, verb, name string) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
	case apierrors.IsNotFound(err):
		kind = ipam.ErrNotFound
	case apierrors.IsAlreadyExists(err):
		kind = ipam.ErrExists
	case apierrors.IsConflict(err):
		kind = ipam.ErrStale
	}
	if kind == nil {
		return fmt.Errorf("%s reservation %s: %w", verb, name, err)
	}
	return fmt.Errorf("%s reservation %s: %w: %w", verb, name, kind, err)
}
