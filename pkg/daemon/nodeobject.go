package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/agent"
	"github.com/meta-cni/meta-cni/pkg/ipam/crd"
	"github.com/meta-cni/meta-cni/pkg/kube"
)

const (
	nodeEvery     = time.Minute
	nodeRetry     = 2 * time.Second
	heartbeatTime = 5 * time.Minute
)

// nodeObject follows this node's Node object: its deletion is the operator's
// word that the machine is off, so nothing more may be given out then.
type nodeObject struct {
	name   string
	client interface {
		NodeUID(ctx context.Context, name string) (string, error)
	}
	log *slog.Logger

	mu    sync.Mutex
	known string
	gone  error
	// unsure says that the object was gone or another, and that it isn't known
	// yet whether the node kept its blocks; look's alone.
	unsure bool
}

func (n *nodeObject) uid() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known
}

// mayAllocate is nil, or says why nothing may be given out.
func (n *nodeObject) mayAllocate() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// follow looks at the Node object until ctx ends. While the API server doesn't
// answer, what was known stays.
func (n *nodeObject) follow(ctx context.Context, a *agent.Agent, store *crd.Store) {
	var beaten time.Time
	for wait := time.Duration(0); waited(ctx, wait); {
		wait = nodeEvery
		beat := func(ipam.Node) error { return nil }
		due := time.Since(beaten) >= heartbeatTime
		if due {
			beat = func(node ipam.Node) error { return store.EnsureNode(ctx, node) }
		}
		err := n.look(ctx, a, beat)
		switch {
		case err == nil && due:
			beaten = time.Now()
		case err != nil && ctx.Err() == nil:
			n.log.Warn("the IPAM's node could not be registered; it is tried again", "error", err.Error())
			wait = nodeRetry
		}
	}
}

// waited waits; false when ctx ended first.
func waited(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// look reads the object once. The node is announced before addresses are given
// out: others must be able to ask it for a block.
func (n *nodeObject) look(ctx context.Context, a *agent.Agent, announce func(ipam.Node) error) error {
	uid, err := n.client.NodeUID(ctx, n.name)
	if errors.Is(err, kube.ErrNodeGone) {
		n.unsure = true
		n.set(a.Node().UID, fmt.Errorf("%w: node %s was deleted from the cluster: no address is given out here until it is registered again", ipam.ErrNotReady, n.name))
		return nil
	}
	if err != nil {
		return err
	}
	if before := a.Node().UID; before != "" && before != uid {
		n.unsure = true
		n.set(before, fmt.Errorf("%w: node %s was registered anew: no address is given out here until its blocks were read", ipam.ErrNotReady, n.name))
	}
	if err := a.Registered(uid); err != nil {
		return err
	}
	if n.unsure {
		if err := a.Revalidate(ctx); err != nil {
			return err
		}
		n.unsure = false
	}
	if err := announce(a.Node()); err != nil {
		return err
	}
	n.set(uid, nil)
	return nil
}

func (n *nodeObject) set(uid string, gone error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if gone != nil && n.gone == nil {
		n.log.Error("IPAM", "error", gone.Error())
	}
	n.known, n.gone = uid, gone
}
