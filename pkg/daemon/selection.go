package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/meta-cni/meta-cni/pkg/annotation"
	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/confgen"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/plan"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// plan reads the pod's selections and their definitions and decides what will
// be done.
func (d *Daemon) plan(ctx context.Context, r *request) (*attach.Plan, error) {
	start := time.Now()
	primary, err := d.opts.Primary.Primary()
	if err != nil {
		return nil, invalid(wire.CodeTryAgainLater, err)
	}
	selections, err := d.selections(ctx, r)
	if err != nil {
		return nil, err
	}
	r.since("selections", start)
	start = time.Now()
	networks, err := d.networks(ctx, selections)
	if err != nil {
		return nil, err
	}
	p, err := plan.Make(plan.Input{
		Key: r.key, Netns: r.Netns, Pod: r.pod, Path: r.path, Args: r.args,
		CallerVersion: r.conf.CNIVersion, RuntimeConfig: r.conf.RuntimeConfig,
		Primary: primary, Selections: selections, Networks: networks,
	})
	if err != nil {
		return nil, invalid(wire.CodeInvalidConfig, err)
	}
	for _, delegate := range p.Delegates {
		r.networks = append(r.networks, delegate.Network)
	}
	r.since("plan", start)
	return p, nil
}

// selections are what the pod asks for: by the runtime's capability, else by
// CNI_ARGS, else by the pod itself.
func (d *Daemon) selections(ctx context.Context, r *request) ([]attach.Selection, error) {
	value, err := d.selectionValue(ctx, r)
	if err != nil || value == "" {
		return nil, err
	}
	namespace := r.pod.Namespace
	if namespace == "" {
		namespace = "default"
	}
	limits := d.opts.Config.Limits
	selections, err := annotation.Parse(value, namespace, annotation.Limits{
		MaxNetworks: limits.MaxNetworksPerPod, MaxBytes: limits.MaxAnnotationBytes,
	})
	if err != nil {
		return nil, invalid(wire.CodeInvalidConfig, err)
	}
	return selections, nil
}

func (d *Daemon) selectionValue(ctx context.Context, r *request) (string, error) {
	annotations, ok, err := r.conf.PodAnnotations()
	if err != nil {
		return "", invalid(wire.CodeDecodingFailure, err)
	}
	if ok {
		return annotations[nadv1.NetworkAttachmentAnnot], refuseDefaultNetwork(annotations)
	}
	if value, ok := annotation.FromArgs(r.args); ok {
		return value, nil
	}
	if r.pod.Name == "" {
		return "", nil
	}
	annotations, pod, err := d.opts.Definitions.PodAnnotations(ctx, r.pod)
	if errors.Is(err, attach.ErrPodGone) && d.opts.Config.Mode == config.Standalone {
		return "", nil
	}
	if err != nil {
		return "", podError(err)
	}
	r.pod = pod
	return annotations[nadv1.NetworkAttachmentAnnot], refuseDefaultNetwork(annotations)
}

// defaultNetwork is Multus' annotation for another cluster network.
const defaultNetwork = "v1.multus-cni.io/default-network"

// refuseDefaultNetwork refuses what would otherwise give the pod another
// network than it asks for without a word.
func refuseDefaultNetwork(annotations map[string]string) error {
	if value := annotations[defaultNetwork]; value != "" {
		return invalid(wire.CodeInvalidConfig, fmt.Errorf("annotation %s: %q: choosing another cluster network for one pod is not supported yet: take the annotation out and ask for the network beside the cluster's", defaultNetwork, value))
	}
	return nil
}

func podError(err error) error {
	if errors.Is(err, attach.ErrPodGone) || errors.Is(err, attach.ErrPodReplaced) {
		return invalid(wire.CodeUnknownContainer, err)
	}
	return err
}

// networks finds the definition of each selection.
func (d *Daemon) networks(ctx context.Context, selections []attach.Selection) (map[attach.NetworkRef]attach.Network, error) {
	networks := make(map[attach.NetworkRef]attach.Network, len(selections))
	for _, s := range selections {
		ref := s.Ref()
		if _, ok := networks[ref]; ok {
			continue
		}
		network, err := d.opts.Definitions.Network(ctx, ref)
		if err == nil && len(network.Config) == 0 {
			network, err = d.fromFile(network)
		}
		if err != nil {
			return nil, networkError(ref, err)
		}
		networks[ref] = network
	}
	return networks, nil
}

// fromFile finds the configuration of a definition that has none by its name
// in the configuration folders (NPWG multi-net-spec v1.3, 3.3).
func (d *Daemon) fromFile(network attach.Network) (attach.Network, error) {
	conf, path, err := confgen.FindByName(d.opts.Config.NetworkDirs, network.Ref.Name)
	if err != nil {
		return network, err
	}
	network.Config, network.Source = conf, path
	return network, nil
}

func networkError(ref attach.NetworkRef, err error) error {
	err = fmt.Errorf("network %s: %w", ref, err)
	if errors.Is(err, attach.ErrUnavailable) {
		return invalid(wire.CodeTryAgainLater, err)
	}
	return invalid(wire.CodeInvalidConfig, err)
}
