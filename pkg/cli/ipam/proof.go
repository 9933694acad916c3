package ipam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// prove gives the reasons why nobody uses a claim's address, or refuses. What
// it reads is as it is now; what it can't read is no proof.
func (e *env) prove(ctx context.Context, s source, c ipam.Claim) (proof []string, refusal error) {
	if c.State == ipam.Cooling && !c.Suspect {
		return []string{"its owner has released it; it only rested"}, nil
	}
	w := s.world()
	if w == nil {
		return e.proveByBoot(c)
	}
	if c.State == ipam.Kept {
		why, _, err := goneKeeper(ctx, w, c.Keep)
		switch {
		case err != nil:
			return nil, fmt.Errorf("its keeper can't be asked: %w", err)
		case why == "":
			return nil, fmt.Errorf("it is kept for %s, which needs it", c.Keep)
		}
		proof = append(proof, why)
		if !c.Suspect {
			return proof, nil
		}
	}
	if c.Node.Name == "" {
		return nil, errors.New("a dead node had it, and the claim names none: meta-cni-controller deletes it when it has cooled down")
	}
	why, err := podGone(ctx, w, c.Owner)
	if err != nil {
		return nil, err
	}
	proof = append(proof, why...)
	one, err := nodeGone(ctx, w, c.Node, e.now())
	return append(proof, one), err
}

// proveByBoot is for a host without Kubernetes.
func (e *env) proveByBoot(c ipam.Claim) ([]string, error) {
	host, err := e.host()
	if err != nil {
		return nil, err
	}
	boot, err := e.boot()
	switch {
	case err != nil:
		return nil, err
	case c.Node.Name != host:
		return nil, fmt.Errorf("it belongs to host %q, and only there one can see whether that was booted since: run this on it", c.Node.Name)
	case c.Node.Boot == "" || c.Node.Boot == boot:
		return nil, fmt.Errorf("host %s was not booted since, so its sandbox (container %s) may live: remove the container", host, c.Owner.ContainerID)
	}
	return []string{fmt.Sprintf("host %s was booted since: it was given in boot %s, now it is %s", host, c.Node.Boot, boot)}, nil
}

// podGone is why an owner's pod is gone; an owner without a pod has nothing to
// prove.
func podGone(ctx context.Context, w world, o ipam.Owner) ([]string, error) {
	if o.PodName == "" {
		return nil, nil
	}
	p, err := w.pod(ctx, o.PodNamespace, o.PodName)
	switch {
	case err != nil:
		return nil, fmt.Errorf("pod %s can't be asked for: %w", o.Pod(), err)
	case p == nil:
		return []string{"pod " + o.Pod() + " doesn't exist"}, nil
	case o.PodUID != "" && p.uid != o.PodUID:
		return []string{fmt.Sprintf("pod %s has UID %s, the owner had %s", o.Pod(), p.uid, o.PodUID)}, nil
	}
	return nil, fmt.Errorf("pod %s exists: delete it, and its node releases the address", o.Pod())
}

// nodeGone is why no sandbox of a node's life can be alive: the node doesn't
// exist, or everybody who knows says that it is in another boot. The clock can
// only refuse: a node that was cut off and deleted a moment ago still runs.
func nodeGone(ctx context.Context, w world, n ipam.Node, now time.Time) (string, error) {
	have, err := w.node(ctx, n.Name)
	if err != nil {
		return "", fmt.Errorf("node %s can't be asked for: %w", n.Name, err)
	}
	b, err := w.box(ctx, n.Name)
	if err != nil {
		return "", fmt.Errorf("NodeIPAM %s can't be asked for: %w", n.Name, err)
	}
	if have == nil {
		if b != nil && now.Sub(b.heartbeat) < gone && (n.Boot == "" || b.boot == n.Boot) {
			return "", fmt.Errorf("node %s doesn't exist any more, but its agent was heard of %s ago: its sandboxes may run for a while; wait %s", n.Name, ago(now, b.heartbeat), (gone - now.Sub(b.heartbeat)).Round(time.Second))
		}
		return "node " + n.Name + " doesn't exist", nil
	}
	known := ""
	for _, boot := range []string{have.boot, boxBoot(b)} {
		switch boot {
		case "":
		case n.Boot:
			return "", fmt.Errorf("node %s exists and was not booted since, so the sandbox (and its interface) may live: its agent releases the address when it is gone; see the log of meta-cnid there", n.Name)
		default:
			known = boot
		}
	}
	if known == "" || n.Boot == "" {
		return "", fmt.Errorf("node %s exists, and it isn't known whether it was booted since (claim: boot %q)", n.Name, n.Boot)
	}
	return fmt.Sprintf("node %s was booted since: it was given in boot %s, now it is %s", n.Name, n.Boot, known), nil
}

func boxBoot(b *box) string {
	if b == nil {
		return ""
	}
	return b.boot
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
