package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// cluster is some nodes on one store, with a clock that the test moves.
type cluster struct {
	t     testing.TB
	store *ipamtest.Memory
	now   time.Duration
	nodes map[string]*machine
	bell  chan struct{} // Options.Asked of new machines
}

// machine is one node: its log survives, its agent may be started anew.
type machine struct {
	*Agent
	c      *cluster
	name   string
	boot   int
	uids   int // of its Node object
	disk   *memory
	deadMu sync.Mutex
	dead   map[string]bool // sandboxes whose namespace is gone
	alarms []Alarm
}

func (m *machine) uid() string { return fmt.Sprintf("uid-%s-%d", m.name, m.uids) }

// bury says whether a sandbox's namespace is gone.
func (m *machine) bury(container string, dead bool) {
	m.deadMu.Lock()
	defer m.deadMu.Unlock()
	m.dead[container] = dead
}

func (m *machine) isDead(container string) bool {
	m.deadMu.Lock()
	defer m.deadMu.Unlock()
	return m.dead[container]
}

func newCluster(t testing.TB) *cluster {
	return &cluster{t: t, store: ipamtest.NewMemory(), now: time.Hour, nodes: map[string]*machine{}}
}

// node is the node of that name, started if need be.
func (c *cluster) node(name string) *machine {
	c.t.Helper()
	m := c.nodes[name]
	if m == nil {
		m = &machine{c: c, name: name, disk: &memory{}, dead: map[string]bool{}}
		c.nodes[name] = m
		m.start()
	}
	return m
}

// start starts the agent on its log, as after a kill.
func (m *machine) start() {
	m.c.t.Helper()
	m.startOn(m.c.store, func(string) error { return nil })
}

func (m *machine) startOn(store ipam.Store, step func(string) error) {
	m.c.t.Helper()
	log := &life{memory: m.disk, step: step}
	a, err := Open(log, m.disk.recovered(), Options{
		Store: store,
		Node:  ipam.Node{Name: m.name, UID: m.uid(), Boot: fmt.Sprintf("%s-boot-%d", m.name, m.boot)},
		Alive: func(o ipam.Owner, _ string) bool { return !m.isDead(o.ContainerID) },
		Alarm: func(a Alarm) { m.alarms = append(m.alarms, a) },
		Clock: func() time.Duration { return m.c.now }, Asked: m.c.bell,
	})
	if err != nil {
		m.c.t.Fatal(err)
	}
	m.Agent = a
}

// reboot loses all sandboxes and starts the agent in a new boot.
func (m *machine) reboot() {
	m.boot++
	m.start()
}

// rangeOf is a range of a space, as written: a CIDR, or space:CIDR.
func rangeOf(t testing.TB, text string) ipam.Range {
	t.Helper()
	space, cidr, named := strings.Cut(text, "|")
	if !named {
		space, cidr = ipam.DefaultSpace, text
	}
	w, err := iprange.Spec{Range: cidr}.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	return ipam.Range{
		Space: ipam.Space{Name: space, Grid: iprange.DefaultGrid(), Mode: ipam.Auto},
		Pool:  "test", Text: cidr, Subnet: w.Subnet, Usable: w.Usable,
	}
}

func request(t testing.TB, container string, ranges ...string) ipam.Request {
	t.Helper()
	r := ipam.Request{
		Owner: ipam.Owner{
			Key:          ipam.Key{ContainerID: container, IfName: "net1", Network: "lan"},
			PodNamespace: "default", PodName: "pod-" + container, PodUID: "pod-uid-" + container,
		},
		Netns: "/run/netns/" + container, Order: ipam.FIFO,
	}
	for _, text := range ranges {
		r.Wants = append(r.Wants, ipam.Want{Ranges: []ipam.Range{rangeOf(t, text)}})
	}
	return r
}

// add allocates and must succeed.
func (m *machine) add(container string, ranges ...string) []netip.Addr {
	m.c.t.Helper()
	return m.ask(request(m.c.t, container, ranges...))
}

func (m *machine) ask(r ipam.Request) []netip.Addr {
	m.c.t.Helper()
	got, err := m.Allocate(m.c.ctx(), r)
	if err != nil {
		m.c.t.Fatalf("%s: ADD %s: %v", m.name, r.Owner.ContainerID, err)
	}
	addrs := make([]netip.Addr, len(got))
	for i, a := range got {
		addrs[i] = a.Prefix.Addr()
	}
	return addrs
}

func (m *machine) del(container string) {
	m.c.t.Helper()
	if err := m.Release(m.c.ctx(), request(m.c.t, container).Owner.Key); err != nil {
		m.c.t.Fatalf("%s: DEL %s: %v", m.name, container, err)
	}
	m.dead[container] = true
}

func (c *cluster) ctx() context.Context {
	return c.t.(interface{ Context() context.Context }).Context()
}

// settle does the work in the background of all nodes, rounds times, a second
// apart.
func (c *cluster) settle(rounds int) {
	c.t.Helper()
	for range rounds {
		c.now += time.Second
		for _, m := range c.nodes {
			for _, work := range []func(context.Context) error{m.Scan, m.Ahead, m.Cool, m.Answer, m.Tidy, m.Mirror} {
				if err := work(c.ctx()); err != nil {
					c.t.Fatalf("%s: %v", m.name, err)
				}
			}
		}
	}
}
