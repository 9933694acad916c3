package main

import (
	"fmt"
	"path/filepath"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

const (
	// nic is a host's interface on the underlay.
	nic = "eth0"
	// gateway is the router's address on the macvlan network; outside is what
	// only it can reach.
	gateway = "10.80.0.254"
	outside = "203.0.113.1"
)

// world is all that the demo builds.
type world struct {
	underlay *testnet.Switch
	router   *testnet.Host
	hosts    []*node.Node
	pods     []*pod
	// addresses is the folder that says who has which address of lan; the hosts
	// share it, as nodes share the API server.
	addresses string
}

func build(s *stage, bin node.Binaries, dir string) *world {
	net := testnet.New(s)
	w := &world{underlay: net.Switch("underlay"), router: net.Host("router"), addresses: filepath.Join(dir, "addresses")}
	w.underlay.Plug(w.router, nic, gateway+"/24", "fd00:80::fe/64")
	w.router.Address("lo", outside+"/32")
	for i, name := range []string{"host-a", "host-b"} {
		host := net.Host(name)
		w.underlay.Plug(host, nic, fmt.Sprintf("192.0.2.%d/24", i+1))
		n := node.New(s, host, bin, filepath.Join(dir, name))
		n.Config(fmt.Sprintf("nodeName: %s\nipam: {dir: %s}\n", name, w.addresses))
		configure(n, i+1)
		n.Start()
		s.Logf("%s: meta-cnid runs as process %d and wrote 00-meta.conf", name, n.Pid())
		w.hosts = append(w.hosts, n)
	}
	w.pods = []*pod{
		{name: "web", on: w.hosts[0], networks: "lan, backend"},
		{name: "db", on: w.hosts[0], networks: "backend@net2"},
		{name: "app", on: w.hosts[1], networks: fmt.Sprintf(`[{"name": "lan", "default-route": [%q]}, {"name": "backend"}]`, gateway)},
	}
	for _, p := range w.pods {
		p.bin = bin
		p.sandbox = net.Host(p.name)
		p.announce()
	}
	return w
}

// configure gives a host its primary network and its network definitions: the
// same files as in a cluster. number keeps the addresses of the networks apart
// that end at the host; those of lan are one range for all.
func configure(n *node.Node, number int) {
	n.Write("net.d/10-primary.conflist", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "primary",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true,
    "ipam": {"type": "host-local", "dataDir": "$DIR/leases", "ranges": [[{"subnet": "10.88.%d.0/24"}]]}
  }]
}`, number))
	n.Network("lan", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "type": "macvlan", "master": %q, "mode": "bridge",
  "ipam": {"type": "meta-ipam", "network_name": "lan", "mode": "claims", "ipRanges": [
    {"range": "10.80.0.0/24", "range_start": "10.80.0.10", "exclude": [%q]},
    {"range": "fd00:80::/120", "range_start": "fd00:80::10", "exclude": ["fd00:80::fe"]}
  ]}
}`, nic, gateway))
	// A bridge with an address keeps its MAC address, which CHECK compares; one
	// without takes that of a port.
	n.Network("backend", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "type": "bridge", "bridge": "backend", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "$DIR/leases", "ranges": [[{"subnet": "10.89.%d.0/24"}]]}
}`, number))
}

// empty proves that the DELs left nothing on the hosts but what the reference
// plugins keep: a bridge without ports.
func (w *world) empty(s *stage) {
	for _, p := range w.pods {
		left, err := p.sandbox.Interfaces()
		s.must(err)
		if len(left) > 0 {
			s.Fatalf("pod %s still has %v", p.name, left)
		}
	}
	for _, n := range w.hosts {
		if left := n.Left(nic, "cni0", "backend"); len(left) > 0 {
			s.Fatalf("%s still has %v", n.Name, left)
		}
		s.Logf("%s: no interface, no lease, no journal entry is left", n.Name)
	}
}
