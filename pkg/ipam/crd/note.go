package crd

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

const (
	// maxNotes bounds what waits for the API server; a pool that is in use is
	// noted again.
	maxNotes = 1024
	// noteAgain is when a pool that was noted is looked at again: somebody may
	// have deleted it.
	noteAgain = 10 * time.Minute
	// noteRetry is the wait when the API server doesn't answer.
	noteRetry = 10 * time.Second
)

// notes are the pools of network definitions that have yet to be made.
type notes struct {
	mu   sync.Mutex
	todo map[string]ipam.Pool
	done map[string]time.Time
	wake chan struct{}
}

func newNotes() notes {
	return notes{todo: map[string]ipam.Pool{}, done: map[string]time.Time{}, wake: make(chan struct{}, 1)}
}

// Note implements ipam.Pools: the IPPool is created while Run runs, unless one
// of that name is there, whoever made it.
func (p *Pools) Note(pool ipam.Pool) {
	name := poolName(pool.Name)
	if _, there := p.pools.get(name); there {
		return
	}
	n := &p.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, waits := n.todo[name]; waits || len(n.todo) >= maxNotes || time.Since(n.done[name]) < noteAgain {
		return
	}
	n.todo[name] = pool
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// poolName is fit to be an object's name.
func poolName(name string) string {
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	return ipam.SpaceName(name, netip.Prefix{})
}

// makeNoted creates the pools that were noted until ctx ends.
func (p *Pools) makeNoted(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-p.notes.wake:
		case <-ctx.Done():
			return
		}
		for !p.makeAll(ctx) {
			if !pause(ctx, noteRetry) {
				return
			}
		}
	}
}

// makeAll is false if some have to be tried again.
func (p *Pools) makeAll(ctx context.Context) bool {
	n := &p.notes
	n.mu.Lock()
	todo := maps.Clone(n.todo)
	n.mu.Unlock()
	complete := true
	for name, pool := range todo {
		if err := p.make(ctx, name, pool); err != nil && again(err) {
			complete = false
			continue
		}
		n.mu.Lock()
		delete(n.todo, name)
		maps.DeleteFunc(n.done, func(_ string, at time.Time) bool { return time.Since(at) >= noteAgain })
		n.done[name] = time.Now()
		n.mu.Unlock()
	}
	return complete
}

func (p *Pools) make(ctx context.Context, name string, pool ipam.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := at(p.rest.Post(), v1alpha1.ResourceIPPools).Body(encodePool(name, pool)).Do(ctx).Error()
	switch {
	case err == nil:
		p.o.Log.Info("an IPPool was made of a network definition", "pool", name, "definition", pool.Definition)
	case apierrors.IsAlreadyExists(err):
		return nil
	case !again(err):
		p.o.Log.Warn("no IPPool can be made of a network definition; its addresses work all the same, but kubectl doesn't show the pool",
			"pool", name, "definition", pool.Definition, "error", kube.Explain(err, "create", kind(v1alpha1.ResourceIPPools)))
	}
	return err
}

// again says that the API server may accept the same a moment later.
func again(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}
