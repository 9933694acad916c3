package examples

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// TestAddresses: what each pod of the IPAM's examples would ask for, of which
// addresses, and what the daemon's log would say.
func TestAddresses(t *testing.T) {
	want := map[string][]string{
		"ipam-range": {
			"lan-range: 192.0.2.100-192.0.2.109,192.0.2.111-192.0.2.127,192.0.2.144-192.0.2.199 via 192.0.2.1, fifo, kept for nobody",
		},
		"ipam-dual-stack": {
			"lan-dual: 198.51.100.2-198.51.100.254 via 198.51.100.1, fifo, kept for nobody",
			"lan-dual: 2001:db8:100::2-2001:db8:100:0:ffff:ffff:ffff:fffe via 2001:db8:100::1, fifo, kept for nobody",
		},
		"ipam-whereabouts": {
			"whereabouts-lan: 192.0.2.225-192.0.2.227,192.0.2.232-192.0.2.238 via 192.0.2.238, lowest, kept for nobody",
			"ipam.datastore has no effect: addresses are kept in meta-cni's own objects",
			"ipam.kubernetes has no effect: the node's daemon has its own access to the cluster",
			"ipam.leader_lease_duration has no effect: no leader is elected for an allocation",
			"ipam.log_file has no effect: it is logged where the node's daemon logs",
			"ipam.log_level has no effect: it is logged where the node's daemon logs",
		},
		"ipam-pool": {
			"shop: 10.90.20.10-10.90.23.254 via 10.90.20.1, fifo, kept for nobody",
			"shop: 2001:db8:20::2-2001:db8:20:0:ffff:ffff:ffff:fffe via 2001:db8:20::1, fifo, kept for nobody",
		},
		"store-0": {
			"store-lan: 198.51.100.128/27 via 198.51.100.1, fifo, kept for Pod default/store-0 (net1 of store-lan)",
		},
	}
	got := map[string][]string{}
	for _, path := range glob(t, "ipam-*.yaml") {
		objects := load(t, path)
		for _, object := range objects {
			if pod := podOf(object); pod != nil {
				got[pod.Name] = addresses(t, planned(t, folderOf(t, path), pod), pod, objects)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

// addresses plans the allocations of the selected networks, with the pools
// among the objects.
func addresses(t *testing.T, made *attach.Plan, pod *corev1.Pod, objects []runtime.Object) []string {
	t.Helper()
	var lines []string
	for _, d := range made.Delegates[1:] {
		config, err := netconf.Parse(netconf.Input{
			Conf: pluginConf(t, d.Conf), ContainerID: "example", IfName: d.IfName,
			Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod.Name,
		})
		if err != nil {
			t.Fatalf("pod %s: network %s: %v", pod.Name, d.Network, err)
		}
		p, err := config.Plan(poolsOf(t, config.PoolNames, objects))
		if err != nil {
			t.Fatalf("pod %s: network %s: %v", pod.Name, d.Network, err)
		}
		for _, w := range p.Request.Wants {
			for _, r := range w.Ranges {
				lines = append(lines, fmt.Sprintf("%s: %s via %s, %s, kept for %s", r.Pool, r.Usable, r.Gateway, p.Request.Order, p.Request.Keep))
			}
		}
		lines = append(lines, p.Notes...)
	}
	return lines
}

// pluginConf is what the one plugin of a list has on its standard input.
func pluginConf(t *testing.T, list []byte) []byte {
	t.Helper()
	var conf struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(list, &conf); err != nil || len(conf.Plugins) != 1 {
		t.Fatalf("%s: %d plugins, %v", list, len(conf.Plugins), err)
	}
	plugin := conf.Plugins[0]
	plugin["name"], plugin["cniVersion"] = conf.Name, conf.CNIVersion
	data, err := json.Marshal(plugin)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// poolsOf are the named pools among the objects; each must be there.
func poolsOf(t *testing.T, names []string, objects []runtime.Object) []ipam.Pool {
	t.Helper()
	var pools []ipam.Pool
	for _, object := range objects {
		declared, ok := object.(*v1alpha1.IPPool)
		if !ok || !slices.Contains(names, declared.Name) {
			continue
		}
		pool := ipam.Pool{Name: declared.Name, Space: ipam.Space{Name: ipam.DefaultSpace, Grid: iprange.DefaultGrid()}}
		for _, r := range declared.Spec.Ranges {
			spec := iprange.Spec{Range: r.Range, ExcludeGateway: true}
			for _, text := range r.Exclude {
				spec.Exclude = append(spec.Exclude, string(text))
			}
			pool.Ranges = append(pool.Ranges, ipam.PoolRange{Spec: spec, Gateway: netip.MustParseAddr(string(r.Gateway))})
		}
		pools = append(pools, pool)
	}
	if len(pools) != len(names) {
		t.Fatalf("of the pools %q, %d are in the file", names, len(pools))
	}
	return pools
}
