package controller

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

var (
	start = time.Unix(1_000_000, 0)
	times = Times{}.withDefaults()

	errAPI = errors.New("no answer")
	nodeA  = ipam.Node{Name: "a", UID: "uid-1", Boot: "boot", Log: "log"}
)

// situation is one row of the GC matrix.
type situation struct {
	node  string // present, absent, recreated, registered (anew in the same boot), tainted
	pods  string // none, one, newer, equal (as old as the Node), daemonset, unknown
	api   string // ok, error, flaky (an error in between)
	owner string // known (with UID) or imported (without)
	wait  time.Duration
}

func (s situation) String() string {
	return fmt.Sprintf("node %s, pods %s, api %s, owner %s, after %s", s.node, s.pods, s.api, s.owner, s.wait)
}

func (s situation) evidence() Evidence {
	if s.api == "error" {
		return Evidence{Err: errAPI}
	}
	var e Evidence
	switch s.node {
	case "present":
		e.Node = &Node{Name: "a", UID: "uid-1", Created: start}
	case "recreated":
		e.Node = &Node{Name: "a", UID: "uid-2", Boot: "boot-2", Created: start}
	case "registered":
		e.Node = &Node{Name: "a", UID: "uid-2", Boot: "boot", Created: start}
	case "tainted":
		e.Node = &Node{Name: "a", UID: "uid-1", Created: start, OutOfService: true}
	}
	pod := Pod{Namespace: "default", Name: "p", Created: start.Add(-time.Second)}
	switch s.pods {
	case "none":
		return e
	case "newer":
		pod.Created = start.Add(time.Second)
	case "equal":
		pod.Created = start
	case "daemonset":
		pod.Stays = true
	case "unknown":
		e.Pods = func() ([]Pod, error) { return nil, errAPI }
		return e
	}
	e.Pods = func() ([]Pod, error) { return []Pod{pod}, nil }
	return e
}

func (s situation) of() ipam.Node {
	if s.owner == "imported" {
		return ipam.Node{Name: "a"}
	}
	return nodeA
}

// mayTake is the table itself: the rows in which what a node had may be taken.
func (s situation) mayTake() bool {
	if s.api == "error" {
		return false
	}
	enough := s.wait >= times.Gone
	switch s.node {
	case "absent":
		// Without a UID an error may hide that the node came and went.
		return enough && s.pods == "none" && (s.api == "ok" || s.owner == "known")
	case "recreated":
		// With a Node come pods of its own in the same second, but no others.
		return enough && s.owner == "known" && (s.pods == "none" || s.pods == "newer")
	case "tainted":
		return s.wait >= times.OutOfService && s.api == "ok" && (s.pods == "none" || s.pods == "daemonset")
	}
	return false
}

func situations() []situation {
	var all []situation
	for _, node := range []string{"present", "absent", "recreated", "registered", "tainted"} {
		for _, pods := range []string{"none", "one", "newer", "equal", "daemonset", "unknown"} {
			for _, api := range []string{"ok", "error", "flaky"} {
				for _, owner := range []string{"known", "imported"} {
					for _, wait := range []time.Duration{0, times.OutOfService - 1, times.OutOfService, times.Gone - 1, times.Gone} {
						all = append(all, situation{node, pods, api, owner, wait})
					}
				}
			}
		}
	}
	return all
}

func TestFence(t *testing.T) {
	allowed := 0
	for _, s := range situations() {
		c := NewCollector(Times{})
		c.Node(start, s.of(), s.evidence())
		if s.api == "flaky" {
			c.Node(start.Add(s.wait), s.of(), Evidence{Err: errAPI})
		}
		got := c.Node(start.Add(s.wait), s.of(), s.evidence())
		if got.Dead != s.mayTake() {
			t.Errorf("%s: %+v", s, got)
		}
		if got.Dead {
			allowed++
		}
		// A new leader waits anew.
		if again := NewCollector(Times{}).Node(start.Add(s.wait), s.of(), s.evidence()); again.Dead {
			t.Errorf("%s: a new leader doesn't wait", s)
		}
	}
	if allowed == 0 {
		t.Error("nothing is ever taken")
	}
}

// TestPodsAreReadLast: to read a node's pods may be to read all of the cluster.
func TestPodsAreReadLast(t *testing.T) {
	asked := 0
	e := Evidence{Pods: func() ([]Pod, error) { asked++; return nil, nil }}
	c := NewCollector(Times{})
	c.Node(start, nodeA, e)
	c.Node(start.Add(times.Gone-1), nodeA, e)
	if asked != 0 {
		t.Errorf("read %d times while it waits", asked)
	}
	if v := c.Node(start.Add(times.Gone), nodeA, e); !v.Dead || asked != 1 {
		t.Errorf("%+v, read %d times", v, asked)
	}
}

// TestAPodOfTheNode: a DaemonSet's pod is there as soon as the Node.
func TestAPodOfTheNode(t *testing.T) {
	for _, test := range []struct {
		name string
		pod  Pod
		dead bool
	}{
		{"in the second of the Node", Pod{Created: start, Stays: true}, true},
		{"before it", Pod{Created: start.Add(-time.Second), Stays: true}, false},
		{"another in the second of the Node", Pod{Created: start}, false},
	} {
		e := Evidence{
			Node: &Node{Name: "a", UID: "uid-2", Created: start},
			Pods: func() ([]Pod, error) { return []Pod{test.pod}, nil },
		}
		c := NewCollector(Times{})
		c.Node(start, nodeA, e)
		if v := c.Node(start.Add(times.Gone), nodeA, e); v.Dead != test.dead {
			t.Errorf("%s: %+v", test.name, v)
		}
	}
}

// TestOffIsNotReady: a taint on a machine whose kubelet reports is a mistake.
func TestOffIsNotReady(t *testing.T) {
	for _, test := range []struct {
		name  string
		taint string
		ready corev1.ConditionStatus
		want  bool
	}{
		{"off", corev1.TaintNodeOutOfService, corev1.ConditionUnknown, true},
		{"not ready", corev1.TaintNodeOutOfService, corev1.ConditionFalse, true},
		{"never ready", corev1.TaintNodeOutOfService, "", true},
		{"runs", corev1.TaintNodeOutOfService, corev1.ConditionTrue, false},
		{"unreachable", corev1.TaintNodeUnreachable, corev1.ConditionUnknown, false},
	} {
		node := &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: test.taint}}}}
		node.Status.NodeInfo.BootID = "boot"
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}}
		if test.ready != "" {
			node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: test.ready})
		}
		if _, err := trim(node); err != nil {
			t.Fatal(err)
		}
		if got := nodeOf(node); got.OutOfService != test.want || got.Boot != "boot" {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

func TestFenceForgets(t *testing.T) {
	absent, present := Evidence{}, Evidence{Node: &Node{Name: "a", UID: "uid-1"}}
	tainted := Evidence{Node: &Node{Name: "a", UID: "uid-1", OutOfService: true}}
	other := Evidence{Node: &Node{Name: "a", UID: "uid-2"}}
	again := Evidence{Node: &Node{Name: "a", UID: "uid-2", Boot: "boot"}}
	for _, test := range []struct {
		name   string
		of     ipam.Node
		before Evidence
		middle Evidence
		last   Evidence
		dead   bool
	}{
		{"absent all the time", nodeA, absent, absent, absent, true},
		{"absent, then another", nodeA, absent, other, other, true},
		{"another, then absent", nodeA, other, other, absent, true},
		{"it was registered again in the same boot", nodeA, absent, again, absent, false},
		{"the taint was away", nodeA, tainted, present, tainted, false},
		{"tainted, then absent: another condition", nodeA, tainted, tainted, absent, false},
		{"without a UID it was back", ipam.Node{Name: "a"}, absent, present, absent, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewCollector(Times{})
			c.Node(start, test.of, test.before)
			c.Node(start.Add(times.Gone/2), test.of, test.middle)
			if got := c.Node(start.Add(times.Gone), test.of, test.last); got.Dead != test.dead {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestKeeper(t *testing.T) {
	sts := ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-2"}
	bare := ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-abc"}
	vm := ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u1"}
	for _, test := range []struct {
		name string
		of   ipam.Keeper
		e    KeeperEvidence
		wait time.Duration // negative: kept
	}{
		{"the pod exists", sts, KeeperEvidence{PodExists: true}, -1},
		{"enough replicas", sts, KeeperEvidence{Set: &StatefulSet{Replicas: 3}}, -1},
		{"fewer replicas", sts, KeeperEvidence{Set: &StatefulSet{Replicas: 2}}, times.Twice},
		{"fewer replicas, but the pod is still there", sts, KeeperEvidence{PodExists: true, Set: &StatefulSet{Replicas: 2}}, -1},
		{"ordinals begin later", sts, KeeperEvidence{Set: &StatefulSet{First: 3, Replicas: 9}}, times.Twice},
		{"ordinals begin earlier", sts, KeeperEvidence{Set: &StatefulSet{First: 1, Replicas: 2}}, -1},
		{"no StatefulSet", sts, KeeperEvidence{}, times.Twice},
		{"a bare pod", bare, KeeperEvidence{}, times.PodAbsent},
		{"a bare pod that exists", bare, KeeperEvidence{PodExists: true}, -1},
		{"the IPAMClaim exists", vm, KeeperEvidence{ClaimUID: "u1"}, -1},
		{"another of its name", vm, KeeperEvidence{ClaimUID: "u2"}, times.Twice},
		{"no IPAMClaim", vm, KeeperEvidence{}, times.Twice},
		{"no IPAMClaim, but a pod names it", vm, KeeperEvidence{ClaimUser: "virt-launcher"}, -1},
		{"no answer", vm, KeeperEvidence{Err: errAPI}, -1},
		{"no answer about a pod", sts, KeeperEvidence{Err: errAPI}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			reason, wait := times.Keeper(test.of, test.e)
			if (reason == "") != (test.wait < 0) || reason != "" && wait != test.wait {
				t.Errorf("%q, %s", reason, wait)
			}
			c := NewCollector(Times{})
			claim := ipam.Claim{State: ipam.Kept, Keep: test.of, Version: ipam.Version{UID: "u", Resource: "1"}}
			for _, after := range []time.Duration{0, wait - 1, wait} {
				action, next, _ := c.Claim(start.Add(after), claim, Verdict{}, test.e)
				if free := test.wait >= 0 && after == wait; (action == Update) != free {
					t.Errorf("after %s: %q", after, action)
				} else if free && (next.State != ipam.Cooling || !next.Keep.IsZero()) {
					t.Errorf("becomes %+v", next)
				}
			}
		})
	}
}

func TestOrdinalOf(t *testing.T) {
	for name, want := range map[string]string{"web-0": "web 0", "a-b-12": "a-b 12", "web": "", "web-": "", "-1": "", "web-01": "", "web-x": "", "web--1": "web- 1"} {
		got := ""
		if set, ordinal, ok := ordinalOf(name); ok {
			got = fmt.Sprintf("%s %d", set, ordinal)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestClaim(t *testing.T) {
	keep := ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-0"}
	dead := Verdict{Dead: true, Reason: "its Node object is gone"}
	for _, test := range []struct {
		name   string
		claim  ipam.Claim
		node   Verdict
		after  time.Duration
		action Action
		state  ipam.ClaimState
	}{
		{"Bound, the node lives", ipam.Claim{State: ipam.Bound, Node: nodeA}, Verdict{}, 24 * time.Hour, Leave, ""},
		{"Bound, the node is dead", ipam.Claim{State: ipam.Bound, Node: nodeA}, dead, 0, Update, ipam.Cooling},
		{"Bound and sticky, the node is dead", ipam.Claim{State: ipam.Bound, Node: nodeA, Keep: keep}, dead, 0, Update, ipam.Kept},
		{"Bound to no node", ipam.Claim{State: ipam.Bound}, Verdict{}, 24 * time.Hour, Leave, ""},
		{"Cooling, the node lives", ipam.Claim{State: ipam.Cooling, Node: nodeA}, Verdict{}, 24 * time.Hour, Leave, ""},
		{"Cooling, the node is dead", ipam.Claim{State: ipam.Cooling, Node: nodeA}, dead, 0, Update, ipam.Cooling},
		{"Cooling without a node, young", ipam.Claim{State: ipam.Cooling}, Verdict{}, times.Cooling - 1, Leave, ""},
		{"Cooling without a node, old", ipam.Claim{State: ipam.Cooling}, Verdict{}, times.Cooling, Delete, ""},
		{"Kept, the node is dead", ipam.Claim{State: ipam.Kept, Node: nodeA, Keep: keep}, dead, 0, Leave, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewCollector(Times{})
			keeper := KeeperEvidence{PodExists: true}
			c.Claim(start, test.claim, test.node, keeper)
			action, next, _ := c.Claim(start.Add(test.after), test.claim, test.node, keeper)
			if action != test.action || next.State != test.state {
				t.Errorf("%q, %+v", action, next)
			}
			if action == Update && (next.Node != ipam.Node{} || !next.Suspect) {
				t.Errorf("not suspect, or it has a node: %+v", next)
			}
		})
	}
	t.Run("a change begins the wait anew", func(t *testing.T) {
		c := NewCollector(Times{})
		claim := ipam.Claim{State: ipam.Cooling, Version: ipam.Version{UID: "u", Resource: "1"}}
		c.Claim(start, claim, Verdict{}, KeeperEvidence{})
		claim.Version.Resource = "2"
		if action, _, _ := c.Claim(start.Add(times.Cooling), claim, Verdict{}, KeeperEvidence{}); action != Leave {
			t.Errorf("%q", action)
		}
	})
}
