package kube

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// CacheOptions configures a Cache.
type CacheOptions struct {
	// NodeName selects the pods; it must not be empty if Run is called.
	NodeName string
	// StateDir holds the folder `definitions`; empty keeps no copy on disk.
	StateDir string
	// Log must not be nil.
	Log *slog.Logger
}

// Cache answers from informers, from the copy of the last run, or by one read
// of the API server. It works without Run too (one-shot mode), always by reads.
type Cache struct {
	client   *Client
	nodeName string
	log      *slog.Logger
	pods     *feed
	networks *feed
	disk     *definitions
}

// NewCache makes a cache; nothing is read from the API server before Run.
func NewCache(client *Client, o CacheOptions) *Cache {
	c := &Cache{client: client, nodeName: o.NodeName, log: o.Log, disk: newDefinitions(o.StateDir, o.Log)}
	c.pods = newFeed("pods", o.Log, client.reach, &metav1.PartialObjectMetadata{}, transformPod, c.listPods, c.watchPods)
	c.networks = newFeed(resourceNetworks, o.Log, client.reach, &nadv1.NetworkAttachmentDefinition{}, transformNetwork, client.listNetworks, client.watchNetworks)
	return c
}

// Run follows the API server until ctx ends. It returns an error only for a
// missing node name; whatever the API server does, it is tried again.
func (c *Cache) Run(ctx context.Context) error {
	if c.nodeName == "" {
		return errors.New("the node's name is empty: set nodeName or the environment variable NODE_NAME, or every node would keep every pod")
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.pods.run(ctx) })
	wg.Go(func() { c.networks.run(ctx) })
	wg.Go(func() { c.disk.follow(ctx, c.networks) })
	wg.Wait()
	return nil
}

// Synced says that pods and network definitions have been listed once.
func (c *Cache) Synced() bool { return c.pods.synced() && c.networks.synced() }

// Ready is nil when Synced, else the reasons in words.
func (c *Cache) Ready() error { return errors.Join(c.pods.ready(), c.networks.ready()) }

func (c *Cache) listPods(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	return c.client.pods.List(ctx, c.onNode(o))
}

func (c *Cache) watchPods(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return c.client.pods.Watch(ctx, c.onNode(o))
}

func (c *Cache) onNode(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.nodeName).String()
	return o
}

func (c *Client) listNetworks(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list := &nadv1.NetworkAttachmentDefinitionList{}
	err := c.networks.Get().Resource(resourceNetworks).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list)
	return list, err
}

func (c *Client) watchNetworks(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return c.networks.Get().Resource(resourceNetworks).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
}
