package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/testnet"
	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// pod is one pod, and the runtime that cares for it.
type pod struct {
	name string
	on   *node.Node
	bin  node.Binaries
	// networks is the annotation k8s.v1.cni.cncf.io/networks.
	networks string
	sandbox  *testnet.Host
}

// announce writes the pod into the host's folder of objects.
func (p *pod) announce() {
	p.on.Write("objects/pod-"+p.name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: default
  annotations:
    k8s.v1.cni.cncf.io/networks: '%s'
`, p.name, p.networks))
}

// add attaches the pod and prints what the runtime was told.
func (p *pod) add(s *stage) {
	begin := time.Now()
	var result *types100.Result
	p.call(s, "ADD", func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		answer, err := cni.AddNetworkList(ctx, list, rt)
		if err == nil {
			result, err = types100.GetResult(answer)
		}
		return err
	})
	took := time.Since(begin).Round(time.Millisecond)
	if len(result.IPs) == 0 {
		s.Fatalf("pod %s: the result has no address: %v", p.name, result)
	}
	s.Logf("%-4s on %s  networks: %s", p.name, p.on.Name, p.networks)
	s.Logf("     ADD in %v: the runtime is told %s", took, result.IPs[0].Address.IP)
}

// check asks meta-cni whether everything is still as ADD left it.
func (p *pod) check(s *stage) {
	p.call(s, "CHECK", func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.CheckNetworkList(ctx, list, rt)
	})
	s.Logf("%-4s CHECK: all interfaces, addresses and routes are as promised", p.name)
}

func (p *pod) remove(s *stage) {
	begin := time.Now()
	p.call(s, "DEL", func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, list, rt)
	})
	s.Logf("%-4s DEL in %v", p.name, time.Since(begin).Round(time.Millisecond))
}

type verb func(context.Context, *libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error

// call does what a runtime does: it takes the first configuration of the
// folder, which is 00-meta.conf, and runs the plugin that it names in the
// host's network namespace.
func (p *pod) call(s *stage, name string, do verb) {
	files, err := libcni.ConfFiles(filepath.Join(p.on.Dir, "net.d"), []string{".conf", ".conflist", ".json"})
	s.must(err)
	if len(files) == 0 || filepath.Base(files[0]) != "00-meta.conf" {
		s.Fatalf("%s: the first CNI configuration is not 00-meta.conf: %v", p.on.Name, files)
	}
	data, err := os.ReadFile(files[0])
	s.must(err)
	conf, err := libcni.NetworkPluginConfFromBytes(data)
	s.must(err)
	list, err := libcni.ConfListFromConf(conf) //nolint:staticcheck // so do containerd and CRI-O with a .conf file
	s.must(err)

	path := []string{p.on.Plugins, string(p.bin)}
	cni := libcni.NewCNIConfigWithCacheDir(path, filepath.Join(p.on.Dir, "runtime"), nil)
	if err := p.on.Do(func() error { return do(s.ctx, cni, list, p.runtimeConf()) }); err != nil {
		s.Fatalf("pod %s: %s: %w\n%s", p.name, name, err, p.on.Log())
	}
}

func (p *pod) runtimeConf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: "demo-" + p.name,
		NetNS:       p.sandbox.Path(),
		IfName:      "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_NAME", p.name},
			{"K8S_POD_INFRA_CONTAINER_ID", "demo-" + p.name},
		},
	}
}

// address is the pod's first address of a family on an interface.
func (p *pod) address(s *stage, ifName string, v6 bool) netip.Addr {
	for _, prefix := range addresses(s, p.sandbox, ifName) {
		if prefix.Addr().Is6() == v6 {
			return prefix.Addr()
		}
	}
	s.Fatalf("pod %s has no such address on %s", p.name, ifName)
	return netip.Addr{}
}

// addresses are those of an interface that others can reach.
func addresses(s *stage, host *testnet.Host, ifName string) []netip.Prefix {
	addrs, err := host.Netlink().AddrList(host.Link(ifName), 0)
	s.must(err)
	var prefixes []netip.Prefix
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.IPNet.String())
		s.must(err)
		if !prefix.Addr().IsLinkLocalUnicast() && !prefix.Addr().IsLoopback() {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

func join(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, " ")
}
