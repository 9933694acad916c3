package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
)

// Name is that of the program, of its Lease and of its field manager.
const Name = "meta-cni-controller"

// Timing of the Lease, as Kubernetes' own controllers have it.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Options of Run.
type Options struct {
	// Config and HTTP are the connection to the API server.
	Config *rest.Config
	HTTP   *http.Client
	// Identity in the Lease, of this process alone.
	Identity string
	// Period between two passes; 30 s if it is zero.
	Period time.Duration
	Times  Times
	// WhereaboutsNamespace has the reservations of Whereabouts.
	WhereaboutsNamespace string
	Log                  *slog.Logger
}

// errLost says that another one leads now.
var errLost = errors.New("another controller took the lease over: start again")

// Run waits until it is the leader, then makes passes until ctx ends (nil) or
// the lease is lost (an error: end the process, so that nothing that was seen
// before counts any more).
func Run(ctx context.Context, o Options) error {
	client, err := kubernetes.NewForConfigAndClient(o.Config, o.HTTP)
	if err != nil {
		return fmt.Errorf("kubernetes client: %w", err)
	}
	led, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var leading sync.Mutex // held while it leads
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: Name,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: Name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				leading.Lock()
				defer leading.Unlock()
				if err := lead(ctx, client, o); err != nil {
					cancel(err)
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(led)
	failed := context.Cause(led)
	leading.Lock() // until the last pass has ended
	defer leading.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil
	case failed != nil:
		return failed
	}
	return errLost
}

// lead makes passes until ctx ends; an error says that it can't begin.
func lead(ctx context.Context, client kubernetes.Interface, o Options) error {
	meta, err := metadata.NewForConfigAndClient(o.Config, o.HTTP)
	if err != nil {
		return fmt.Errorf("client of metadata: %w", err)
	}
	cluster, err := NewKubernetes(client, meta)
	if err != nil {
		return fmt.Errorf("caches: %w", err)
	}
	c, closeStore, err := assemble(o, cluster)
	if err != nil {
		return err
	}
	defer closeStore()
	var caches sync.WaitGroup
	defer caches.Wait()
	caches.Go(func() { cluster.Run(ctx) })
	o.Log.Info("this controller leads", "identity", o.Identity)
	if !cluster.Synced(ctx) {
		return nil
	}
	c.every(ctx, o.period())
	return nil
}

// assemble makes the controller on the API server.
func assemble(o Options, cluster Cluster) (*Controller, func(), error) {
	objects, err := NewAPI(o.Config, o.HTTP)
	if err != nil {
		return nil, nil, fmt.Errorf("client of pools: %w", err)
	}
	reservations, err := whereabouts.NewClient(o.Config, o.HTTP, o.WhereaboutsNamespace)
	if err != nil {
		return nil, nil, err
	}
	store, err := crd.New(o.Config, o.HTTP, crd.Options{Node: Name, Log: o.Log})
	if err != nil {
		return nil, nil, err
	}
	return New(Controller{
		Cluster: cluster, Objects: objects,
		Store:  whereabouts.WithReservations(store, reservations),
		Mender: &whereabouts.Mender{Store: store, API: reservations},
		Log:    o.Log,
	}, o.Times), store.Close, nil
}

func (o Options) period() time.Duration {
	if o.Period <= 0 {
		return 30 * time.Second
	}
	return o.Period
}

// every makes a pass now and again and again, and tells of trouble when it
// begins or changes.
func (c *Controller) every(ctx context.Context, period time.Duration) {
	told := ""
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begun := time.Now()
		err := c.Pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && told != "":
			c.Log.Info("a whole pass was made again")
			told = ""
		case err != nil && err.Error() != told:
			c.Log.Warn("a pass met trouble; what it concerns stays as it is", "error", err)
			told = err.Error()
		}
		timer.Reset(pause(period, time.Since(begun)))
	}
}

// pause is the wait after a pass: until the period is over, and in a cluster in
// which a pass takes long, at least three times as long, so that nobody's API
// server is read through without end.
func pause(period, took time.Duration) time.Duration { return max(period-took, 3*took) }
