package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	// young claims may be older than the list of pods that they are compared
	// with, so they are left alone.
	young = time.Minute
	// silence is three heartbeats of an agent.
	silence = 15 * time.Minute
	// coolingLong is far beyond every sensible cool-down.
	coolingLong = time.Hour
	// gone is how long the controller waits after a Node object is gone before
	// it takes what the node had.
	gone = 11 * time.Minute
)

// checker compares. It keeps pods, nodes and blocks, and of the claims only
// those that something is wrong with.
type checker struct {
	source source
	now    time.Time
	ignore []string
	// host and hostBoot are this machine's, without a cluster.
	host, hostBoot string

	seen  *seen
	nodes map[string]node
	boxes map[string]box
	pods  map[string]*pod
	// places are the addresses of pods, by what their network-status says.
	places placements
	lost   map[string]*lostNode
	kept   []ipam.Claim
	// boundIn are the claims in use in blocks that aren't Shared.
	boundIn map[ipam.BlockRef][]ipam.Claim

	findings []finding
	looked   looked
}

// lostNode collects what a node has that doesn't exist (any more).
type lostNode struct {
	name           string
	why            loss
	blocks, claims []string
}

// loss is why a node is believed dead; empty if it isn't.
type loss string

const (
	lossGone  loss = "no Node has that name"
	lossTaint loss = "it is tainted " + corev1.TaintNodeOutOfService
)

// do is what to do about a lost node, with its pods.
func (l loss) do(pods string) string {
	switch l {
	case lossGone:
		return fmt.Sprintf("wait: the controller takes all of it %s after it saw that, once no pod names the node%s; if it stays, see whether meta-cni-controller runs", gone, pods)
	case lossTaint:
		return fmt.Sprintf("wait: the controller takes all of it a minute after it saw that, once only pods of DaemonSets name the node%s; if it stays, see whether meta-cni-controller runs", pods)
	}
	return fmt.Sprintf("wait: a node that registered anew says so itself within minutes; if it is another machine, the controller takes all of it %s after it saw that, once no pod older than the Node names it%s", gone, pods)
}

// found enters a finding, unless it is to be ignored.
func (c *checker) found(f finding) {
	if !slices.Contains(c.ignore, string(f.Kind)) {
		c.findings = append(c.findings, f)
	}
}

// look looks at everything. Its error is what could not be looked at.
func (c *checker) look(ctx context.Context) error {
	c.lost, c.boundIn = map[string]*lostNode{}, map[ipam.BlockRef][]ipam.Claim{}
	worldErr := c.readWorld(ctx)
	c.seen = newSeen(filter{})
	if err := c.seen.survey(ctx, c.source, c.claim); err != nil {
		return errors.Join(err, worldErr)
	}
	c.looked.Spaces, c.looked.Pools, c.looked.Blocks = len(c.seen.spaces), len(c.seen.pools), len(c.seen.blocks)
	for _, err := range c.seen.odd {
		c.found(finding{
			Level: wrong, Kind: kindUnreadable, Object: "object", Text: err.Error(), Why: "it was read just now",
			Do: "whoever wrote it (a newer version? a person?) must write it right; nobody takes its address meanwhile",
		})
	}
	refs := slices.SortedFunc(maps.Keys(c.seen.blocks), func(a, b ipam.BlockRef) int { return cmp.Compare(a.String(), b.String()) })
	for _, ref := range refs {
		c.block(c.seen.blocks[ref])
	}
	c.strays()
	c.silentNodes()
	c.lostNodes()
	c.checkPools()
	c.duplicates()
	keptErr := c.keepers(ctx)
	confirmErr := c.confirm(ctx)
	sortFindings(c.findings)
	return errors.Join(worldErr, keptErr, confirmErr)
}

// readWorld reads nodes and pods. What can't be read stays nil and isn't
// compared with.
func (c *checker) readWorld(ctx context.Context) error {
	w := c.source.world()
	if w == nil {
		return nil
	}
	nodes, nodesErr := w.nodes(ctx)
	if nodesErr == nil {
		c.nodes = nodes
	}
	boxes, boxesErr := w.boxes(ctx)
	if boxesErr == nil {
		c.boxes = boxes
	}
	pods := map[string]*pod{}
	podsErr := w.eachPod(ctx, func(p pod) { pods[p.ref()] = &p })
	if podsErr == nil {
		c.pods = pods
		c.places = placePods(pods)
	}
	c.looked.Nodes, c.looked.Pods = len(c.nodes), len(c.pods)
	return errors.Join(nodesErr, boxesErr, podsErr)
}

// lose notes that a node doesn't exist as the owner of something.
func (c *checker) lose(n ipam.Node, why loss) *lostNode {
	key := n.Name + " " + n.UID
	if c.lost[key] == nil {
		c.lost[key] = &lostNode{name: n.Name, why: why}
	}
	return c.lost[key]
}

// missing says why a node isn't there, by its name and UID; empty if it is, or
// if nobody knows.
func (c *checker) missing(n ipam.Node) loss {
	if c.nodes == nil || n.Name == "" {
		return ""
	}
	have, ok := c.nodes[n.Name]
	switch {
	case !ok:
		return lossGone
	case n.UID != "" && n.UID != have.uid:
		return loss(fmt.Sprintf("the Node of that name has UID %s, what it had was made under %s", have.uid, n.UID))
	case have.outOfService:
		return lossTaint
	}
	return ""
}

// before says why something of the node is of an earlier life of it; empty if
// it isn't, or if nobody knows.
func (c *checker) before(n ipam.Node) string {
	if n.Log == "" {
		return "" // imported
	}
	if c.source.world() == nil {
		if n.Name == c.host && n.Boot != c.hostBoot {
			return fmt.Sprintf("it was made in boot %s, and this host is in boot %s", n.Boot, c.hostBoot)
		}
		return ""
	}
	b, ok := c.boxes[n.Name]
	switch {
	case !ok || b.boot == "":
		return ""
	case b.boot != n.Boot:
		return fmt.Sprintf("it was made in boot %s, and NodeIPAM %s says boot %s", n.Boot, b.name, b.boot)
	case b.log != n.Log:
		return fmt.Sprintf("it was made by log %s, and NodeIPAM %s says log %s: the node's state folder was lost", n.Log, b.name, b.log)
	}
	return ""
}

func (c *checker) lostNodes() {
	for _, key := range slices.Sorted(maps.Keys(c.lost)) {
		l := c.lost[key]
		slices.Sort(l.blocks)
		slices.Sort(l.claims)
		text := fmt.Sprintf("is believed dead and has %d blocks and %d claims in use", len(l.blocks), len(l.claims))
		if names := append(slices.Clone(l.blocks), l.claims...); len(names) > 0 {
			text += ": " + some(names)
		}
		c.found(finding{
			Level: wrong, Kind: kindNodeGone, Object: "node " + l.name, Text: text,
			Why: string(l.why), Do: l.why.do(c.remaining(l.name)),
		})
	}
}

// remaining are the pods that keep the controller from taking what a node had.
func (c *checker) remaining(node string) string {
	var names []string
	for _, p := range c.pods {
		if p.node == node {
			names = append(names, p.ref())
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf(" (now %d do: %s)", len(names), some(names))
}

// silentNodes are those whose agent wasn't heard of for long.
func (c *checker) silentNodes() {
	for _, name := range slices.Sorted(maps.Keys(c.boxes)) {
		b := c.boxes[name]
		if _, exists := c.nodes[name]; c.nodes != nil && !exists {
			c.lose(ipam.Node{Name: name, UID: b.uid}, lossGone)
			continue
		}
		if b.heartbeat.IsZero() || c.now.Sub(b.heartbeat) < silence {
			continue
		}
		c.found(finding{
			Level: suspicious, Kind: kindSilent, Object: "node " + name, Text: "its agent was heard of last " + stamp(c.now, b.heartbeat),
			Why: "NodeIPAM " + name + " has no newer heartbeat; an agent writes one every five minutes",
			Do:  fmt.Sprintf("see whether meta-cnid runs there: kubectl -n meta-cni get pods -o wide --field-selector spec.nodeName=%s", name),
		})
	}
}
