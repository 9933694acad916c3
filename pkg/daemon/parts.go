package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/confgen"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/kube"
	"github.com/meta-cni/meta-cni/pkg/objects"
	"github.com/meta-cni/meta-cni/pkg/publish"
)

// parts are what a daemon needs besides itself, by its mode.
type parts struct {
	definitions Definitions
	publisher   *publish.Publisher
	conf        *confgen.Generator
	// cache and client are nil in standalone mode.
	cache  *kube.Cache
	client *kube.Client
	log    *slog.Logger
}

func assemble(cfg config.Daemon, log *slog.Logger) (*parts, error) {
	p := &parts{log: log}
	notify := func(confgen.Notice) {}
	if cfg.Mode == config.Standalone {
		store, err := objects.Open(cfg.ObjectsDir, log)
		if err != nil {
			return nil, err
		}
		p.definitions, p.publisher = store, publish.New(publish.Options{Log: log})
	} else {
		client, err := newClient(cfg, log)
		if err != nil {
			return nil, err
		}
		p.useKubernetes(client, cfg)
		notify = nodeNotice(client, cfg.NodeName, log)
	}
	p.conf = confgen.New(confgen.Options{
		Dir: cfg.ConfDir, Settings: confSettings(cfg), Log: log, Notify: notify,
		Pin: confgen.Pin{File: cfg.Primary.File, Network: cfg.Primary.Network},
	})
	return p, nil
}

func newClient(cfg config.Daemon, log *slog.Logger) (*kube.Client, error) {
	return kube.NewClient(kube.Options{
		Kubeconfig: cfg.Kubernetes.Kubeconfig, APIServers: cfg.Kubernetes.APIServers,
		NodeName: cfg.NodeName, Log: log,
	})
}

func (p *parts) useKubernetes(client *kube.Client, cfg config.Daemon) {
	p.client = client
	p.cache = kube.NewCache(client, kube.CacheOptions{NodeName: cfg.NodeName, StateDir: cfg.StateDir, Log: p.log})
	p.definitions = p.cache
	p.publisher = publish.New(publish.Options{API: clusterAPI{client}, Gone: attach.ErrPodGone, Log: p.log})
}

// clusterAPI gives the publisher the client's calls.
type clusterAPI struct{ *kube.Client }

func (a clusterAPI) CreateEvent(ctx context.Context, e publish.Event) error {
	err := a.Client.CreateEvent(ctx, kube.Event{Pod: e.Pod, Type: e.Type, Reason: e.Reason, Message: e.Message})
	if final(err) {
		return fmt.Errorf("%w: %w", attach.ErrPodGone, err)
	}
	return err
}

// final says that an Event will never be written: its namespace is gone or
// going, or the API server refuses its content.
func final(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// nodeNotice makes what the configuration generator has to say an Event of the
// node. It doesn't wait for the API server.
func nodeNotice(client *kube.Client, node string, log *slog.Logger) func(confgen.Notice) {
	return func(n confgen.Notice) {
		event := kube.Event{Node: node, Type: kube.EventNormal, Reason: n.Reason, Message: n.Message}
		if n.Warning {
			event.Type = kube.EventWarning
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := client.CreateEvent(ctx, event); err != nil {
				log.Warn("an Event of the node was not written", "reason", n.Reason, "error", err.Error())
			}
		}()
	}
}

// start runs the parts until ctx ends.
func (p *parts) start(ctx context.Context, group *errgroup.Group, d *Daemon) {
	group.Go(func() error { return p.conf.Run(ctx) })
	group.Go(func() error { return p.publisher.Run(ctx) })
	if p.cache == nil {
		return
	}
	group.Go(func() error { return p.cache.Run(ctx) })
	group.Go(func() error { d.republish(ctx, p.cache); return nil })
}

// republish writes the network-status of pods that were attached by a former
// daemon and don't have it yet.
func (d *Daemon) republish(ctx context.Context, cache *kube.Cache) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for !cache.Synced() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
	for _, set := range d.latest() {
		if err := d.republishOne(ctx, cache, set); err != nil {
			d.opts.Log.Warn("network-status was not looked at", "set", set.Key().String(), "error", err.Error())
		}
	}
}

// latest is the newest committed set of each pod: after a reboot the journal
// may still hold the pod's former sandbox.
func (d *Daemon) latest() map[string]*journal.Set {
	newest := map[string]uint64{}
	sets := map[string]*journal.Set{}
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		uid := state.Plan.Pod.UID
		if uid == "" || state.Phase != journal.Committed || state.BootID != d.opts.Journal.BootID() || state.Generation < newest[uid] {
			continue
		}
		newest[uid], sets[uid] = state.Generation, set
	}
	return sets
}

func (d *Daemon) republishOne(ctx context.Context, cache *kube.Cache, set *journal.Set) error {
	state := set.State()
	annotations, _, err := cache.PodAnnotations(ctx, state.Plan.Pod)
	if err != nil {
		return err
	}
	// Only now: the set may have gone meanwhile.
	if now, ok := d.opts.Journal.Get(set.Key()); !ok || now != set {
		return nil
	}
	value, err := statusValue(&state)
	if err != nil {
		return err
	}
	if annotations[nadv1.NetworkStatusAnnot] != value {
		d.opts.Publisher.Status(state.Plan.Pod, value)
	}
	return nil
}
