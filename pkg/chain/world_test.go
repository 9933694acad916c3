package chain

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/vishvananda/netlink"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/plan"
	"github.com/meta-cni/meta-cni/pkg/testnet"
)

// world is a node with the bridges br-a and br-b, each with a gateway behind
// it that answers for the far addresses with its own name, and a pod:
//
//	pod ── eth0 ─ br-a ─ gateway "a" (10.1.0.1, 2001:db8:1::1)
//	    ── net1 ─ br-b ─ gateway "b" (10.2.0.1, 2001:db8:2::1)
//
// The reference plugins run in the node's namespace.
type world struct {
	testing.TB
	*Chain
	node, pod *testnet.Host
	dir       string
	j         *journal.Journal
	hooks     *hooked
	// before are the node's interfaces without pods.
	before []string
}

// hooked is the real Runner with a hook before and after each call, by "VERB
// index"; an error of a hook is the call's.
type hooked struct {
	*exec.Runner
	before, after map[string]func() error
}

func (h *hooked) around(verb string, c exec.Call, do func() error) error {
	name := fmt.Sprintf("%s %d", verb, c.Delegate)
	if hook := h.before[name]; hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if hook := h.after[name]; hook != nil {
		return hook()
	}
	return nil
}

func (h *hooked) Add(ctx context.Context, c exec.Call) (result json.RawMessage, err error) {
	err = h.around("ADD", c, func() (err error) { result, err = h.Runner.Add(ctx, c); return err })
	return result, err
}

func (h *hooked) Check(ctx context.Context, c exec.Call) error {
	return h.around("CHECK", c, func() error { return h.Runner.Check(ctx, c) })
}

func (h *hooked) Del(ctx context.Context, c exec.Call) error {
	return h.around("DEL", c, func() error { return h.Runner.Del(ctx, c) })
}

func farAddresses() [2]netip.AddrPort {
	return [2]netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:7"), netip.MustParseAddrPort("[2001:db8:ff::1]:7")}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	n := testnet.New(t)
	w := &world{TB: t, node: n.Host("node"), pod: n.Host("pod"), dir: t.TempDir()}
	for i, name := range []string{"a", "b"} {
		gateway := n.Host(name)
		w.bridge("br-" + name)
		n.Cable(w.node, "to-"+name, gateway, "node")
		must(t, w.node.Netlink().LinkSetMaster(w.node.Link("to-"+name), w.node.Link("br-"+name)))
		gateway.Address("node", fmt.Sprintf("10.%d.0.1/24", i+1), fmt.Sprintf("2001:db8:%d::1/64", i+1))
		gateway.Address("lo", "203.0.113.1/32", "2001:db8:ff::1/128")
		for _, far := range farAddresses() {
			gateway.Answer(far, name)
		}
	}
	w.before = w.links(w.node)
	w.hooks = &hooked{
		Runner: exec.New(exec.Options{CacheDir: filepath.Join(w.dir, "cache"), Log: slog.New(slog.DiscardHandler)}),
		before: map[string]func() error{}, after: map[string]func() error{},
	}
	w.Chain = New(Options{Runner: w.hooks, DelegateTimeout: 30 * time.Second, UndoBudget: 20 * time.Second, Log: slog.New(slog.DiscardHandler)})
	j, _, err := journal.Open(journal.Options{Dir: filepath.Join(w.dir, "attachments"), Quarantine: filepath.Join(w.dir, "quarantine"), BootID: "boot-1", Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { _ = j.Close() })
	w.j = j
	return w
}

// bridge adds one with an address of its own: otherwise it changes with the
// ports, and the CHECK of the bridge plugin fails.
func (w *world) bridge(name string) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, net.HardwareAddr{2, 0, 0, 0, 0, name[len(name)-1]}
	must(w, w.node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	must(w, w.node.Netlink().LinkSetUp(w.node.Link(name)))
}

func (w *world) links(h *testnet.Host) []string {
	w.Helper()
	names, err := h.Interfaces()
	must(w, err)
	slices.Sort(names)
	return names
}

// conf is a list of bridge with host-local addresses and tuning; net is 1 for
// a, 2 for b. Its result has default routes of both families.
func (w *world) conf(name, bridge string, net int) []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,"plugins":[
		{"type":"bridge","bridge":%q,"ipam":{"type":"host-local","dataDir":%q,
			"ranges":[[{"subnet":"10.%d.0.0/24","rangeStart":"10.%d.0.10"}],[{"subnet":"2001:db8:%d::/64","rangeStart":"2001:db8:%d::10"}]],
			"routes":[{"dst":"0.0.0.0/0","gw":"10.%d.0.1"},{"dst":"::/0","gw":"2001:db8:%d::1"}]}},
		{"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}]}`,
		name, bridge, filepath.Join(w.dir, "leases"), net, net, net, net, net, net)
}

// secondary is conf for a further network, without default routes of its own.
func (w *world) secondary(name, bridge string, net int) []byte {
	before, rest, _ := strings.Cut(string(w.conf(name, bridge, net)), `"routes":[`)
	_, after, _ := strings.Cut(rest, `]`)
	return []byte(before + `"routes":[]` + after)
}

// plan has the primary on br-a, ns/b on br-b with the wished default routes,
// and ns/c on br-b too.
func (w *world) plan(gateways ...string) *attach.Plan {
	w.Helper()
	selection := func(name string) attach.Selection {
		return attach.Selection{Element: nadv1.NetworkSelectionElement{Namespace: "ns", Name: name}}
	}
	b, c := selection("b"), selection("c")
	for _, gateway := range gateways {
		b.Element.GatewayRequest = append(b.Element.GatewayRequest, net.ParseIP(gateway))
	}
	p, err := plan.Make(plan.Input{
		Key: key(), Netns: w.pod.Path(), Path: []string{testnet.PluginDir(w)}, CallerVersion: "1.1.0",
		Primary:    attach.Primary{File: "10-a.conflist", Config: w.conf("a", "br-a", 1)},
		Selections: []attach.Selection{b, c},
		Networks: map[attach.NetworkRef]attach.Network{
			b.Ref(): {Ref: b.Ref(), Config: w.secondary("b", "br-b", 2)},
			c.Ref(): {Ref: c.Ref(), Config: w.secondary("c", "br-b", 2)},
		},
	})
	must(w, err)
	return p
}

func (w *world) begin(gateways ...string) *journal.Set {
	w.Helper()
	set, err := w.j.Begin(w.plan(gateways...), journal.Namespace(w.pod.ID()))
	must(w, err)
	return set
}

// add, check and del run on a thread in the node's namespace, from which the
// plugins are started.
func (w *world) add(ctx context.Context, set *journal.Set) (attachments []attach.Attachment, err error) {
	err = w.node.Do(func() (err error) { attachments, err = w.Chain.Add(ctx, w.j, set, Trip{}); return err })
	return attachments, err
}

func (w *world) check(set *journal.Set) error {
	return w.node.Do(func() error { return w.Chain.Check(w.Context(), set, Trip{}) })
}

func (w *world) del(set *journal.Set) error {
	return w.node.Do(func() error { return w.Chain.Del(w.Context(), w.j, set, "DEL", Trip{}) })
}

// wantNothing looks in every place where an ADD leaves something. The kernel
// takes the interfaces of a removed namespace a little later.
func (w *world) wantNothing() {
	w.Helper()
	for end := time.Now().Add(10 * time.Second); len(w.links(w.node)) > len(w.before) && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	if diff := cmp.Diff(w.before, w.links(w.node)); diff != "" {
		w.Errorf("interfaces of the node (-before +now):\n%s", diff)
	}
	if left := w.files("leases/*/*", "last_reserved_ip", "lock"); left != nil {
		w.Errorf("leases are left: %v", left)
	}
	if left := w.files("cache/*/*/*"); left != nil {
		w.Errorf("libcni's cache holds %v", left)
	}
	if left := slices.Concat(w.files("attachments/*"), w.files("quarantine/*")); left != nil {
		w.Errorf("the journal holds %v", left)
	}
}

func (w *world) wantEmptyPod() {
	w.Helper()
	if left := w.links(w.pod); left != nil {
		w.Errorf("interfaces of the pod: %v", left)
	}
}

// files are those of a pattern whose names don't begin with one of but.
func (w *world) files(pattern string, but ...string) []string {
	w.Helper()
	paths, err := filepath.Glob(filepath.Join(w.dir, pattern))
	must(w, err)
	var left []string
	for _, path := range paths {
		info, err := os.Stat(path)
		must(w, err)
		if !slices.ContainsFunc(but, func(b string) bool { return strings.HasPrefix(info.Name(), b) }) && !info.IsDir() {
			left = append(left, path)
		}
	}
	return left
}

// via says which gateway the pod's traffic to the far addresses takes.
func (w *world) via() [2]string {
	w.Helper()
	var answers [2]string
	for i, far := range farAddresses() {
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		answer, err := w.pod.Ask(ctx, far)
		cancel()
		if err != nil {
			w.Errorf("%v", err)
		}
		answers[i] = answer
	}
	return answers
}
