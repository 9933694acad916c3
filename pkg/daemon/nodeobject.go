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
func (n *nodeObject) follow(ctx context.Context, a *agent.Agent, store *crd.Store) error {
	beaten := time.Time{}
	for wait := time.Duration(0); ; wait = nodeEvery {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		beat := func(node ipam.Node) error { return nil }
		if time.Since(beaten) >= heartbeatTime {
			beat = func(node ipam.Node) error { return store.EnsureNode(ctx, node) }
		}
		err := n.look(ctx, a, beat)
		if err == nil && time.Since(beaten) >= heartbeatTime {
			beaten = time.Now()
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the IPAM's node could not be registered; it is tried again", "error", err.Error())
			timer = time.NewTimer(nodeRetry)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			wait = 0
		}
	}
}

// look reads the object once. The node is announced before addresses are given
// out: others must be able to ask it for a block.
func (n *nodeObject) look(ctx context.Context, a *agent.Agent, announce func(ipam.Node) error) error {
	uid, err := n.client.NodeUID(ctx, n.name)
	if errors.Is(err, kube.ErrNodeGone) {
		n.set(a.Node().UID, fmt.Errorf("%w: node %s was deleted from the cluster: no address is given out here until it is registered again", ipam.ErrNotReady, n.name))
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.Registered(uid); err != nil {
		return err
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
