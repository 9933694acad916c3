package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

// listTimeout bounds one list.
const listTimeout = 60 * time.Second

// API is Objects on the API server.
type API struct{ rest rest.Interface }

// NewAPI uses the connection of config and httpClient.
func NewAPI(config *rest.Config, httpClient *http.Client) (*API, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	version := v1alpha1.GroupVersion()
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &version
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	return &API{client}, err
}

// Spaces implements Objects.
func (a *API) Spaces(ctx context.Context) ([]v1alpha1.AddressSpace, error) {
	list := &v1alpha1.AddressSpaceList{}
	err := a.list(ctx, v1alpha1.ResourceAddressSpaces, metav1.ListOptions{}, list)
	return list.Items, err
}

// Pools implements Objects.
func (a *API) Pools(ctx context.Context) ([]v1alpha1.IPPool, error) {
	list := &v1alpha1.IPPoolList{}
	err := a.list(ctx, v1alpha1.ResourceIPPools, metav1.ListOptions{}, list)
	return list.Items, err
}

// Blocks implements Objects.
func (a *API) Blocks(ctx context.Context, space string) ([]v1alpha1.IPBlock, error) {
	list := &v1alpha1.IPBlockList{}
	o := metav1.ListOptions{ResourceVersion: "0", LabelSelector: labels.Set{v1alpha1.LabelSpace: space}.String()}
	err := a.list(ctx, v1alpha1.ResourceIPBlocks, o, list)
	return list.Items, err
}

// NodeIPAMs implements Objects.
func (a *API) NodeIPAMs(ctx context.Context) ([]v1alpha1.NodeIPAM, error) {
	list := &v1alpha1.NodeIPAMList{}
	err := a.list(ctx, v1alpha1.ResourceNodeIPAMs, metav1.ListOptions{ResourceVersion: "0"}, list)
	return list.Items, err
}

// DeleteNodeIPAM implements Objects.
func (a *API) DeleteNodeIPAM(ctx context.Context, name string, v ipam.Version) error {
	uid := types.UID(v.UID)
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:      metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &v.Resource},
	})
	if err != nil {
		return fmt.Errorf("delete NodeIPAM %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request := a.at(a.rest.Delete(), v1alpha1.ResourceNodeIPAMs).Name(name)
	err = request.SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx).Error()
	return answered(err, "delete", v1alpha1.ResourceNodeIPAMs, name)
}

func (a *API) list(ctx context.Context, resource string, o metav1.ListOptions, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	err := a.at(a.rest.Get(), resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(into)
	return kube.Explain(err, "list", resource+"."+v1alpha1.Group)
}

func (a *API) at(r *rest.Request, resource string) *rest.Request {
	inNamespace := resource == v1alpha1.ResourceIPBlocks || resource == v1alpha1.ResourceNodeIPAMs
	return r.NamespaceIfScoped(v1alpha1.Namespace, inNamespace).Resource(resource)
}

// SetStatus implements Objects.
func (a *API) SetStatus(ctx context.Context, resource, name string, v ipam.Version, status any) error {
	return a.patch(ctx, resource, name, map[string]any{"metadata": precondition(v), "status": status}, "status")
}

// SetFinalizers implements Objects.
func (a *API) SetFinalizers(ctx context.Context, resource, name string, v ipam.Version, finalizers []string) error {
	meta := precondition(v)
	meta["finalizers"] = finalizers
	return a.patch(ctx, resource, name, map[string]any{"metadata": meta})
}

func precondition(v ipam.Version) map[string]any {
	return map[string]any{"uid": v.UID, "resourceVersion": v.Resource}
}

func (a *API) patch(ctx context.Context, resource, name string, change any, subresource ...string) error {
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("patch %s %s: %w", resource, name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = a.at(a.rest.Patch(types.MergePatchType), resource).Name(name).SubResource(subresource...).Body(body).Do(ctx).Error()
	return answered(err, "patch", resource, name)
}

// answered is what a write comes to, as ipam.Store tells it.
func answered(err error, verb, resource, name string) error {
	switch {
	case kube.IsMissingKind(err):
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s %s: %w", resource, name, ipam.ErrNotFound)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s %s: %w", resource, name, ipam.ErrStale)
	}
	return kube.Explain(err, verb, resource+"."+v1alpha1.Group)
}
