package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The underlay is three switches: bridges in the control plane's network
// namespace, each with a veth to every node. Nothing of it lies in the network
// namespace of the machine, and nothing leads out of it.
const (
	maxNodes = 9

	// controlAddr is where kubelets reach the API server.
	controlAddr = "172.18.0.1"
	// PodAPIAddr is a second address of the API server, for what runs in
	// host-network pods: CutAPI closes this way alone, so that the kubelet
	// of the same node goes on.
	PodAPIAddr = "172.18.0.2"
	// APIPort is the API server's port on both addresses.
	APIPort = "6443"

	serviceCIDR    = "10.96.0.0/16"
	serviceAPIAddr = "10.96.0.1"

	netnsDir     = "/run/netns"
	controlNetns = prefix + "-control"
	switchName   = "underlay"

	// LANBridge is a bridge that every node has from the start, with eth2 in
	// it: what an operator prepares for a bridge network across nodes.
	LANBridge = "br-lan"
)

// cable is an interface of every node and the switch at its other end. eth0
// is the node's own network; eth1 and eth2 have no addresses: eth1 is for
// macvlan and the like, eth2 lies in LANBridge.
type cable struct{ iface, toSwitch string }

func cables() []cable {
	return []cable{{"eth0", switchName}, {"eth1", "fast"}, {"eth2", "lan"}}
}

// port is the switch's end of a node's cable.
func (c cable) port(node string) string { return node + "-" + c.iface }

func nodeName(i int) string   { return fmt.Sprintf("node%d", i) }
func nodeAddr(i int) string   { return fmt.Sprintf("172.18.0.%d", 10+i) }
func nodeAddr6(i int) string  { return fmt.Sprintf("fd00:18::%d", 10+i) }
func podSubnet(i int) string  { return fmt.Sprintf("10.244.%d.0/24", i) }
func podGateway(i int) string { return fmt.Sprintf("10.244.%d.1", i) }

func (w *World) makeUnderlay(ctx context.Context, _ Options) error {
	in := "-n " + controlNetns + " "
	steps := []string{"netns add " + controlNetns, in + "link set lo up"}
	for _, c := range cables() {
		steps = append(steps, in+"link add "+c.toSwitch+" type bridge forward_delay 0", in+"link set "+c.toSwitch+" up")
	}
	return ipAll(ctx, append(steps,
		in+"addr add "+controlAddr+"/24 dev "+switchName,
		in+"addr add "+PodAPIAddr+"/24 dev "+switchName,
		in+"addr add fd00:18::1/64 dev "+switchName+" nodad",
	)...)
}

// plug makes the node's network namespace and connects it: cables, an address
// on eth0, and a route to every other node's pods.
func (n *Node) plug(ctx context.Context) error {
	in := "-n " + n.netns + " "
	steps := []string{"netns add " + n.netns, in + "link set lo up"}
	for _, c := range cables() {
		steps = append(steps,
			in+"link add "+c.iface+" type veth peer name "+c.port(n.Name)+" netns "+controlNetns,
			"-n "+controlNetns+" link set "+c.port(n.Name)+" master "+c.toSwitch+" up",
			in+"link set "+c.iface+" up")
	}
	steps = append(steps,
		in+"link add "+LANBridge+" type bridge forward_delay 0",
		in+"link set "+LANBridge+" up",
		in+"link set eth2 master "+LANBridge,
		in+"addr add "+n.Addr+"/24 dev eth0",
		in+"addr add "+n.Addr6+"/64 dev eth0 nodad",
		in+"route add default via "+controlAddr,
		in+"-6 route add default via fd00:18::1",
	)
	for _, other := range n.world.Nodes {
		if other != n {
			steps = append(steps, in+"route add "+other.PodSubnet+" via "+other.Addr)
		}
	}
	if err := ipAll(ctx, steps...); err != nil {
		return err
	}
	_, err := place{cgroup: n.daemonCgroup(), netns: n.NetnsPath}.run(ctx, "/bin/sh", "-c",
		"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	return err
}

// unplug removes the node's network namespace and waits until its cables are
// gone: the kernel takes them down in its own time, and their names are needed
// again.
func (n *Node) unplug(ctx context.Context) error {
	if err := ipAll(ctx, "netns delete "+n.netns); err != nil {
		return err
	}
	return Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		for _, c := range cables() {
			if ipAll(ctx, "-n "+controlNetns+" link show "+c.port(n.Name)) == nil {
				return fmt.Errorf("%s of %s is still plugged in", c.iface, n.Name)
			}
		}
		return nil
	})
}

// ipAll runs ip once for each line and stops at the first failure.
func ipAll(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

// dialIn connects from inside a network namespace. The thread that enters it
// is not given back to the scheduler but ends with its goroutine.
func dialIn(ctx context.Context, netns, addr string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		runtime.LockOSThread()
		if err := enterNetns(filepath.Join(netnsDir, netns)); err != nil {
			answers <- answer{nil, err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
		answers <- answer{conn, err}
	}()
	a := <-answers
	return a.conn, a.err
}

// enterNetns moves the calling thread.
func enterNetns(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
}
