package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
)

const (
	// callTimeout bounds one request, a page of a list too.
	callTimeout = 30 * time.Second
	// pageSize of lists.
	pageSize = 500
)

// cluster is a source on Kubernetes.
type cluster struct {
	rest  rest.Interface
	store *crd.Store
	where string

	config *rest.Config
	http   *http.Client
}

func newCluster(config *rest.Config, client *http.Client, options crd.Options) (*cluster, error) {
	store, err := crd.New(config, client, options)
	if err != nil {
		return nil, err
	}
	plain := rest.CopyConfig(config)
	plain.GroupVersion = &schema.GroupVersion{Version: "v1"}
	restClient, err := rest.RESTClientForConfigAndClient(plain, client)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &cluster{rest: restClient, store: store, where: "cluster " + config.Host, config: config, http: client}, nil
}

func (c *cluster) name() string { return c.where }
func (c *cluster) close()       { c.store.Close() }
func (c *cluster) world() world { return c }

// ours is the path of one of our resources.
func ours(resource string) string {
	path := "/apis/" + v1alpha1.Group + "/" + v1alpha1.Version
	if resource != v1alpha1.ResourceIPPools && resource != v1alpha1.ResourceAddressSpaces {
		path += "/namespaces/" + v1alpha1.Namespace
	}
	return path + "/" + resource
}

// asked names what a request was for, in its error.
func asked(err error, verb, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, what, err)
}

// get reads one object as it is now; false if there is none of that name.
func get[T any](ctx context.Context, c *cluster, path, name string) (T, bool, error) {
	var into T
	if wrong := content.IsPathSegmentName(name); len(wrong) > 0 || name == "" {
		return into, false, fmt.Errorf("%q is no name of an object in %s: %v", name, path, wrong)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result := c.rest.Get().AbsPath(path, name).Do(ctx)
	err := result.Error()
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return into, false, nil
	}
	if err != nil {
		return into, false, asked(err, "read", path+"/"+name)
	}
	data, err := result.Raw()
	if err == nil {
		err = json.Unmarshal(data, &into)
	}
	return into, err == nil, asked(err, "read", path+"/"+name)
}

// list gives one object after the other, page by page; what can't be read goes
// to odd. Where the API server has forgotten the state of the first page, it
// goes on with the present one.
func list[T any](ctx context.Context, c *cluster, path, selector string, each func(*T), odd func(error)) error {
	next := ""
	for {
		meta, err := page(ctx, c, path, selector, next, each, odd)
		var status apierrors.APIStatus
		if apierrors.IsResourceExpired(err) && errors.As(err, &status) && status.Status().Continue != "" {
			next = status.Status().Continue
			continue
		}
		if err != nil {
			return asked(err, "list", path)
		}
		if next = meta.Continue; next == "" {
			return nil
		}
	}
}

func page[T any](ctx context.Context, c *cluster, path, selector, next string, each func(*T), odd func(error)) (metav1.ListMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request := c.rest.Get().AbsPath(path).Param("limit", strconv.Itoa(pageSize))
	if selector != "" {
		request.Param("labelSelector", selector)
	}
	if next != "" {
		request.Param("continue", next)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return metav1.ListMeta{}, err
	}
	defer body.Close()
	return decodeList(body, each, odd)
}

// decodeList decodes item by item, so that a page is never in memory as a
// whole.
func decodeList[T any](body io.Reader, each func(*T), odd func(error)) (metav1.ListMeta, error) {
	var meta metav1.ListMeta
	d := json.NewDecoder(body)
	if err := expect(d, json.Delim('{')); err != nil {
		return meta, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return meta, err
		}
		switch key {
		case "metadata":
			err = d.Decode(&meta)
		case "items":
			err = decodeItems(d, each, odd)
		default:
			err = d.Decode(&json.RawMessage{})
		}
		if err != nil {
			return meta, err
		}
	}
	return meta, expect(d, json.Delim('}'))
}

func decodeItems[T any](d *json.Decoder, each func(*T), odd func(error)) error {
	if token, err := d.Token(); token == nil || err != nil {
		return err // null
	}
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		item := new(T)
		if err := json.Unmarshal(raw, item); err != nil {
			odd(unreadable(raw, err))
			continue
		}
		each(item)
	}
	return expect(d, json.Delim(']'))
}

// unreadable names the object that isn't as it should be.
func unreadable(raw []byte, err error) error {
	var object struct {
		Metadata struct{ Name, Namespace string } `json:"metadata"`
	}
	if nameErr := json.Unmarshal(raw, &object); nameErr != nil {
		return err
	}
	return fmt.Errorf("object %s %s: %w", object.Metadata.Namespace, object.Metadata.Name, err)
}

func expect(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if err == nil && token != want {
		err = fmt.Errorf("%v stands where %v belongs: is that an API server?", token, want)
	}
	return err
}

func selectSpace(space string) string {
	if space == "" {
		return ""
	}
	return v1alpha1.LabelSpace + "=" + space
}

func (c *cluster) spaces(ctx context.Context) ([]ipam.Space, error) {
	var all []ipam.Space
	var bad error
	err := whole(ctx, c, ours(v1alpha1.ResourceAddressSpaces), func(in *v1alpha1.AddressSpace) {
		as, err := crd.SpaceOf(in)
		if err != nil {
			bad = errors.Join(bad, err)
			return
		}
		all = append(all, as)
	})
	return all, errors.Join(err, bad)
}

func (c *cluster) pools(ctx context.Context) ([]pool, error) {
	var all []pool
	err := whole(ctx, c, ours(v1alpha1.ResourceIPPools), func(in *v1alpha1.IPPool) {
		all = append(all, poolOf(crd.PoolOf(in)))
	})
	return all, err
}

func (c *cluster) eachBlock(ctx context.Context, space string, each func(block), odd func(error)) error {
	return list(ctx, c, ours(v1alpha1.ResourceIPBlocks), selectSpace(space), func(in *v1alpha1.IPBlock) {
		b, u, err := crd.BlockOf(in)
		if err != nil {
			odd(err)
		}
		if (err == nil || errors.Is(err, crd.ErrMisnamed)) && (space == "" || space == b.Ref.Space) {
			each(block{b, u})
		}
	}, odd)
}

func (c *cluster) eachClaim(ctx context.Context, space string, each func(ipam.Claim), odd func(error)) error {
	return list(ctx, c, ours(v1alpha1.ResourceIPClaims), selectSpace(space), func(in *v1alpha1.IPClaim) {
		claim, err := crd.ClaimOf(in)
		if err != nil {
			odd(err)
		}
		if (err == nil || errors.Is(err, crd.ErrMisnamed)) && (space == "" || space == claim.Ref.Space) {
			each(claim)
		}
	}, odd)
}

func (c *cluster) block(ctx context.Context, ref ipam.BlockRef) (block, error) {
	in, ok, err := get[v1alpha1.IPBlock](ctx, c, ours(v1alpha1.ResourceIPBlocks), ref.String())
	switch {
	case err != nil:
		return block{}, err
	case !ok:
		return block{}, fmt.Errorf("IPBlock %s: %w", ref, ipam.ErrNotFound)
	}
	b, u, err := crd.BlockOf(&in)
	return block{b, u}, err
}

func (c *cluster) claim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error) {
	return c.store.GetClaim(ctx, ref)
}

func (c *cluster) deleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	return c.store.DeleteClaim(ctx, ref, v)
}
