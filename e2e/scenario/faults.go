package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/e2e/world"
)

func faultCommands() map[string]command {
	return map[string]command{
		"kill-daemon":     {usage: "NODE", min: 1, run: killDaemon},
		"replace-daemon":  {usage: "NODE", min: 1, run: replaceDaemon},
		"freeze-daemon":   {usage: "NODE", min: 1, run: freezeDaemon},
		"thaw-daemon":     {usage: "NODE", min: 1, run: thawDaemon},
		"daemon-ready":    {usage: "NODE...", min: 1, run: daemonReady},
		"daemon-log":      {usage: "NODE REGEXP", min: 2, run: daemonLog},
		"cut-api":         {usage: "NODE", min: 1, run: cutAPI},
		"heal-api":        {usage: "NODE", min: 1, run: healAPI},
		"stop-apiserver":  {run: stopAPIServer},
		"start-apiserver": {run: startAPIServer},
		"hold":            {usage: "NODE ADD|DEL", min: 2, run: hold},
		"held":            {usage: "NODE ADD|DEL", min: 2, run: held},
		"release":         {usage: "NODE ADD|DEL", min: 2, run: release},
	}
}

func cutAPI(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error { return c.world.CutAPI(ctx, n) })
}

func healAPI(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error { return c.world.HealAPI(ctx, n) })
}

func stopAPIServer(_ context.Context, c *call) error {
	c.apiDown = true
	return c.world.StopAPIServer()
}

func startAPIServer(ctx context.Context, c *call) error {
	if err := c.world.StartAPIServer(ctx); err != nil {
		return err
	}
	c.apiDown = false
	return nil
}

// daemonPid finds the daemon among the processes of the node.
func (st *story) daemonPid(n *world.Node) (int, error) {
	pids, err := n.Pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		// A process that ended meanwhile has no name: not the one.
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(comm)) == st.daemon.Process {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process %q runs on %s", st.daemon.Process, n.Name)
}

// killDaemon kills the daemon with SIGKILL; its kubelet starts it again.
func killDaemon(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		return world.Eventually(ctx, patience, func(context.Context) error {
			pid, err := c.daemonPid(n)
			if err != nil {
				return err
			}
			c.killed[n.Name] = pid
			return syscall.Kill(pid, syscall.SIGKILL)
		})
	})
}

// freezeDaemon stops the daemon as it stands: it takes connections, but never
// answers.
func freezeDaemon(_ context.Context, c *call) error { return c.signalDaemon(syscall.SIGSTOP) }

func thawDaemon(_ context.Context, c *call) error { return c.signalDaemon(syscall.SIGCONT) }

func (c *call) signalDaemon(signal syscall.Signal) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		pid, err := c.daemonPid(n)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, signal)
	})
}

// replaceDaemon deletes the daemon's pod, as an upgrade does: it ends in its
// own time and the DaemonSet makes another.
func replaceDaemon(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		pid, err := c.daemonPid(n)
		if err != nil {
			return err
		}
		c.killed[n.Name] = pid
		return c.world.Client().CoreV1().Pods(c.daemon.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
			metav1.ListOptions{LabelSelector: c.daemon.Selector, FieldSelector: "spec.nodeName=" + n.Name})
	})
}

// daemonReady waits until a daemon other than a killed one runs and, while
// the API server is up, its pod is ready.
func daemonReady(ctx context.Context, c *call) error {
	return c.eachNode(c.args, func(n *world.Node) error {
		return world.Eventually(ctx, patience, func(ctx context.Context) error {
			pid, err := c.daemonPid(n)
			if err != nil {
				return err
			}
			if c.killed[n.Name] == pid {
				return fmt.Errorf("the daemon on %s is being killed", n.Name)
			}
			if c.apiDown {
				return nil
			}
			return c.daemonPodReady(ctx, n, pid)
		})
	})
}

// daemonPodReady compares the container too: for a moment after a kill the
// API server still shows the old one as ready.
func (st *story) daemonPodReady(ctx context.Context, n *world.Node, pid int) error {
	pods, err := st.world.Client().CoreV1().Pods(st.daemon.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: st.daemon.Selector, FieldSelector: "spec.nodeName=" + n.Name,
	})
	if err != nil {
		return err
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if ready(&pod) && runsIn(&pod, string(cgroup)) {
			return nil
		}
	}
	return fmt.Errorf("the daemon's pod on %s is not ready", n.Name)
}

func runsIn(pod *corev1.Pod, cgroup string) bool {
	for _, container := range pod.Status.ContainerStatuses {
		_, id, found := strings.Cut(container.ContainerID, "://")
		if found && id != "" && strings.Contains(cgroup, id) {
			return true
		}
	}
	return false
}

// daemonLog waits for a line of the daemon's log that matches, of any daemon
// that ran on the node since the story began.
func daemonLog(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		return world.Eventually(ctx, patience, func(context.Context) error {
			lines, err := daemonLines(c.daemon.Namespace, n, c.began)
			if err != nil {
				return err
			}
			return match(c.args[1], strings.Join(lines, "\n"), "the daemon's log on "+n.Name)
		})
	})
}

// The test plugins (plugins/*.sh) look into this folder of their node.
const gateDir = "/var/lib/cni/e2e"

// hold makes the plugin e2e-gate wait in its next command of that kind.
func hold(_ context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		err := os.Remove(n.Path(gateDir + "/held-" + c.args[1]))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return n.WriteFile(gateDir+"/hold-"+c.args[1], nil)
	})
}

// held waits until the plugin e2e-gate is waiting.
func held(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		return world.Eventually(ctx, patience, func(context.Context) error {
			if _, err := os.Stat(n.Path(gateDir + "/held-" + c.args[1])); err != nil {
				return fmt.Errorf("no e2e-gate waits in %s on %s: %w", c.args[1], n.Name, err)
			}
			return nil
		})
	})
}

func release(_ context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		return os.Remove(n.Path(gateDir + "/hold-" + c.args[1]))
	})
}

// releaseAll takes away every hold and every record of the test plugins.
func releaseAll(n *world.Node) error { return os.RemoveAll(n.Path(gateDir)) }
