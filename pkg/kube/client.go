package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const (
	// DefaultTokenFile is the projected token of the pod's ServiceAccount.
	DefaultTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	// DefaultCAFile is the CA that Kubernetes mounts beside the token.
	DefaultCAFile = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"

	// dialTimeout leaves time for a second API server within liveTimeout.
	dialTimeout = 1500 * time.Millisecond
	// liveTimeout bounds one read on the path of an ADD.
	liveTimeout = 2 * time.Second

	defaultQPS   = 50
	defaultBurst = 100

	resourceNetworks = "network-attachment-definitions"
)

// Options says how to reach the API server. With all fields empty the client
// is configured as inside a pod.
type Options struct {
	// Kubeconfig is a path; it excludes TokenFile and CAFile.
	Kubeconfig string
	// APIServers are URLs (https://host:port) that are used instead of the
	// kubeconfig's server or of KUBERNETES_SERVICE_HOST, so that nothing depends
	// on kube-proxy: the first that answers is used until it fails.
	APIServers []string
	// TokenFile (DefaultTokenFile) is read again when it changes.
	TokenFile string
	// CAFile (DefaultCAFile) verifies the API server.
	CAFile string
	// UserAgent is what the audit log shows (meta-cnid).
	UserAgent string
	// NodeName is the host in the source of Events.
	NodeName string
	// QPS and Burst bound all requests together (50 and 100).
	QPS   float32
	Burst int
	// Log tells when the API server stops or begins to answer, and of a change
	// to another one; nil is silence.
	Log *slog.Logger
}

// Client talks to the API server with one connection pool and one rate limit.
type Client struct {
	nodeName string
	reach    *reach
	pods     metadata.Getter
	networks rest.Interface

	config *rest.Config
	http   *http.Client
}

// REST is what other clients of the same API server are made of, so that they
// share the connections and the rate limit. The configuration is a copy.
func (c *Client) REST() (*rest.Config, *http.Client) {
	return rest.CopyConfig(c.config), c.http
}

// NewClient makes a client; it reads files but doesn't connect.
func NewClient(o Options) (*Client, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config, err := restConfig(o)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	if err := applyServers(config, o.APIServers, o.Log); err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	reach := &reach{log: o.Log}
	config.Wrap(reach.wrap)
	config.UserAgent = orDefault(o.UserAgent, "meta-cnid")
	config.Dial = (&net.Dialer{
		Timeout: dialTimeout,
		// HTTP/2 connections have client-go's ping besides (30 s + 15 s).
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}).DialContext
	qps, burst := o.QPS, o.Burst
	if qps <= 0 {
		qps = defaultQPS
	}
	if burst <= 0 {
		burst = defaultBurst
	}
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(qps, burst)
	client, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	client.nodeName, client.reach = o.NodeName, reach
	return client, nil
}

func newClient(config *rest.Config) (*Client, error) {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	pods, err := metadata.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	// A scheme of its own: client-go's registers every API group and costs
	// tens of megabytes.
	scheme := runtime.NewScheme()
	if err := nadv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	nad := rest.CopyConfig(config)
	nad.APIPath = "/apis"
	nad.GroupVersion = &nadv1.SchemeGroupVersion
	nad.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	networks, err := rest.RESTClientForConfigAndClient(nad, httpClient)
	if err != nil {
		return nil, err
	}
	return &Client{
		config:   config,
		http:     httpClient,
		pods:     pods.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}),
		networks: networks,
	}, nil
}

// restConfig is the connection as the kubeconfig or the pod's environment has it.
func restConfig(o Options) (*rest.Config, error) {
	if o.Kubeconfig != "" {
		if o.TokenFile != "" || o.CAFile != "" {
			return nil, errors.New("a kubeconfig and a token or CA file are both set: keep one of the two")
		}
		return clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	}
	host := ""
	if len(o.APIServers) == 0 {
		name, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if name == "" || port == "" {
			return nil, errors.New("no API server: set apiServers or a kubeconfig, or run in a pod (KUBERNETES_SERVICE_HOST is empty)")
		}
		host = "https://" + net.JoinHostPort(name, port)
	}
	return &rest.Config{
		Host:            host,
		BearerTokenFile: existing(o.TokenFile, DefaultTokenFile),
		TLSClientConfig: rest.TLSClientConfig{CAFile: existing(o.CAFile, DefaultCAFile)},
	}, nil
}

// existing is the given path, or the default if there is such a file (a
// development API server on plain HTTP needs neither token nor CA).
func existing(given, byDefault string) string {
	if given != "" {
		return given
	}
	if _, err := os.Stat(byDefault); err != nil {
		return ""
	}
	return byDefault
}

func orDefault(s, byDefault string) string {
	if s == "" {
		return byDefault
	}
	return s
}

// getPod reads the pod's metadata from the API server (a quorum read).
func (c *Client) getPod(ctx context.Context, pod attach.Pod) (*metav1.PartialObjectMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	found, err := c.pods.Namespace(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("pod %s: %w: the API server doesn't know it", pod, ErrPodGone)
	case err != nil:
		return nil, fmt.Errorf("pod %s: %w", pod, explain(err, "get", "pods"))
	}
	trimPod(found)
	return found, nil
}

// getNetwork reads a network definition from the API server.
func (c *Client) getNetwork(ctx context.Context, ref attach.NetworkRef) (*nadv1.NetworkAttachmentDefinition, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	nad := &nadv1.NetworkAttachmentDefinition{}
	err := c.networks.Get().Namespace(ref.Namespace).Resource(resourceNetworks).Name(ref.Name).Do(ctx).Into(nad)
	switch {
	case isMissingCRD(err):
		return nil, fmt.Errorf("%w: %w", ErrNotFound, errNoCRD)
	case apierrors.IsNotFound(err):
		return nil, ErrNotFound
	case err != nil:
		return nil, explain(err, "get", resourceNetworks+".k8s.cni.cncf.io")
	}
	return nad, nil
}
