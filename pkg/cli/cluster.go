package cli

import (
	"fmt"
	"net/http"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// qps and burst are those of a person's tool that reads many objects: the API
// server's own fairness holds beside them.
const qps, burst = 200, 400

// Cluster says which cluster is meant.
type Cluster struct{ Kubeconfig, Context string }

// Flags adds the flags of kubectl's names.
func (c *Cluster) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig `file`; else $KUBECONFIG, ~/.kube/config, or the pod's own account")
	flags.StringVar(&c.Context, "context", "", "`name` of a context in the kubeconfig")
}

// Connect is how clients reach the cluster; nothing is sent yet.
func (c *Cluster) Connect() (*rest.Config, *http.Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("no cluster is named: give --kubeconfig FILE (and --context NAME), or set KUBECONFIG: %w", err)
	}
	config.UserAgent = "metactl"
	config.QPS, config.Burst = qps, burst
	// Warnings of the API server are for people who write objects.
	config.WarningHandler = rest.NoWarnings{}
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // errors are of a kind there
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return config, client, nil
}
