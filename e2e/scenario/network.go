package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"

	"github.com/meta-cni/meta-cni/e2e/world"
)

// statusAnnotation is where the daemon writes what a pod has got.
const statusAnnotation = "k8s.v1.cni.cncf.io/network-status"

func networkCommands() map[string]command {
	return map[string]command{
		"ifaces":  {usage: "POD INTERFACE...", min: 2, run: wantIfaces},
		"addr":    {usage: "POD INTERFACE [VARIABLE]", min: 2, run: storeAddr},
		"ping":    {usage: "POD ADDRESS|POD:INTERFACE [INTERFACE]", min: 2, run: ping},
		"no-ping": {usage: "POD ADDRESS|POD:INTERFACE [INTERFACE]", min: 2, run: noPing},
		"fetch":   {usage: "POD ADDRESS PORT REGEXP", min: 4, run: fetch},
		"status":  {usage: "POD TEMPLATE REGEXP", min: 3, run: networkStatus},
	}
}

// wantIfaces fails unless the pod has exactly these interfaces beside lo.
func wantIfaces(ctx context.Context, c *call) error {
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		out, err := c.world.PodExec(ctx, c.namespace, c.args[0], "ls", "/sys/class/net")
		if err != nil {
			return err
		}
		got := slices.DeleteFunc(strings.Fields(out), func(name string) bool { return name == "lo" })
		want := slices.Clone(c.args[1:])
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("pod %s has the interfaces %v, want %v", c.args[0], got, want)
		}
		return nil
	})
}

// podAddr returns the first global address of a pod's interface, IPv4 first.
func (st *story) podAddr(ctx context.Context, pod, iface string) (netip.Addr, error) {
	out, err := st.world.PodExec(ctx, st.namespace, pod, "ip", "-o", "addr", "show", "dev", iface, "scope", "global")
	if err != nil {
		return netip.Addr{}, err
	}
	var addrs []netip.Addr
	fields := strings.Fields(out)
	for i, field := range fields {
		if i > 0 && (fields[i-1] == "inet" || fields[i-1] == "inet6") {
			prefix, err := netip.ParsePrefix(field)
			if err != nil {
				return netip.Addr{}, err
			}
			addrs = append(addrs, prefix.Addr())
		}
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("pod %s has no address on %s", pod, iface)
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int { return a.Compare(b) })
	return addrs[0], nil
}

// storeAddr puts an address into a variable, POD_INTERFACE if none is named.
func storeAddr(ctx context.Context, c *call) error {
	addr, err := c.podAddr(ctx, c.args[0], c.args[1])
	if err != nil {
		return err
	}
	variable := c.args[0] + "_" + c.args[1]
	if len(c.args) > 2 {
		variable = c.args[2]
	}
	c.ts.Setenv(variable, addr.String())
	fmt.Fprintln(c.stdout, addr)
	return nil
}

func (c *call) target(ctx context.Context) (string, error) {
	if _, err := netip.ParseAddr(c.args[1]); err == nil {
		return c.args[1], nil
	}
	pod, iface, found := strings.Cut(c.args[1], ":")
	if !found {
		return "", fmt.Errorf("%q is neither an address nor POD:INTERFACE", c.args[1])
	}
	addr, err := c.podAddr(ctx, pod, iface)
	return addr.String(), err
}

func (c *call) pingOnce(ctx context.Context, count, target string) error {
	argv := []string{"ping", "-c", count, "-W", "1"}
	if len(c.args) > 2 {
		argv = append(argv, "-I", c.args[2])
	}
	out, err := c.world.PodExec(ctx, c.namespace, c.args[0], append(argv, target)...)
	if err != nil {
		return err
	}
	if !strings.Contains(out, " bytes from ") {
		return fmt.Errorf("no answer from %s: %s", target, out)
	}
	return nil
}

func ping(ctx context.Context, c *call) error {
	target, err := c.target(ctx)
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience/3, func(ctx context.Context) error { return c.pingOnce(ctx, "1", target) })
}

// noPing wants three packets in a row lost.
func noPing(ctx context.Context, c *call) error {
	target, err := c.target(ctx)
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience/3, func(ctx context.Context) error {
		if c.pingOnce(ctx, "3", target) == nil {
			return fmt.Errorf("pod %s reaches %s", c.args[0], target)
		}
		return nil
	})
}

// fetch waits until a TCP port, reached from the pod, sends a matching text.
func fetch(ctx context.Context, c *call) error {
	return world.Eventually(ctx, patience/3, func(ctx context.Context) error {
		out, err := c.world.PodExec(ctx, c.namespace, c.args[0], "sh", "-c", `nc -w 2 "$0" "$1" </dev/null`, c.args[1], c.args[2])
		if err != nil {
			return err
		}
		return match(c.args[3], out, c.args[1]+":"+c.args[2])
	})
}

// networkStatus renders a Go template over the pod's network-status
// annotation (a list of maps) and matches the result.
func networkStatus(ctx context.Context, c *call) error {
	render, err := template.New("status").Option("missingkey=zero").Parse(c.args[1])
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience, func(ctx context.Context) error {
		pod, err := c.getPod(ctx, c.args[0])
		if err != nil {
			return err
		}
		annotation := pod.Annotations[statusAnnotation]
		if annotation == "" {
			return errors.New("the pod has no network-status annotation yet")
		}
		var status []map[string]any
		if err := json.Unmarshal([]byte(annotation), &status); err != nil {
			return fmt.Errorf("network-status: %w: %s", err, annotation)
		}
		var out strings.Builder
		if err := render.Execute(&out, status); err != nil {
			return fmt.Errorf("%w: %s", err, annotation)
		}
		return match(c.args[2], out.String(), "network-status")
	})
}
