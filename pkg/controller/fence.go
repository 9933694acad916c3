package controller

import (
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Node is what counts of a Node object.
type Node struct {
	Name, UID string
	// Created by the API server's clock.
	Created time.Time
	// Boot is the kernel's boot ID as the kubelet told it; empty if it didn't.
	Boot string
	// OutOfService is the taint node.kubernetes.io/out-of-service on a node that
	// isn't Ready: a machine whose kubelet reports is not off, whatever a taint
	// says.
	OutOfService bool
}

// Pod is what counts of a Pod on a node.
type Pod struct {
	Namespace, Name string
	// Created by the API server's clock.
	Created time.Time
	// Stays says that the pod belongs to the node (of a DaemonSet, or the mirror
	// of a static one) and is not evicted by a taint.
	Stays bool
}

// Evidence is what the API server says of a node at this moment.
type Evidence struct {
	// Err says that it couldn't be asked; the rest is nothing then.
	Err error
	// Node of that name, nil if there is none.
	Node *Node
	// Pods reads those whose spec.nodeName it is; it is called where all else
	// speaks against the node. Nil means that there are none.
	Pods func() ([]Pod, error)
}

// condition is why a node may be dead.
type condition string

const (
	alive        condition = ""
	gone         condition = "its Node object is gone"
	replaced     condition = "another Node has its name"
	outOfService condition = "it is tainted out-of-service"
)

// life is one boot of one Node object that owns something.
type life struct{ name, uid, boot string }

func lifeOf(n ipam.Node) life { return life{n.Name, n.UID, n.Boot} }

// Verdict is what is known of a node.
type Verdict struct {
	// Dead says that what it had may be taken.
	Dead bool
	// Absent: it is dead, and no other Node has its name.
	Absent bool
	// Reason is for people; empty while nothing speaks against the node.
	Reason string
}

// fences remembers since when a condition is seen.
type fences map[life]fence

type fence struct {
	condition condition
	since     time.Time
}

// judge takes notice of evidence that was read at now (monotonic).
func (f fences) judge(times Times, now time.Time, of life, e Evidence) Verdict {
	if e.Err != nil {
		f.doubt(of)
		return Verdict{Reason: fmt.Sprintf("it isn't known whether it lives: %v", e.Err)}
	}
	c := e.condition(of)
	if c == alive {
		delete(f, of)
		return Verdict{}
	}
	seen, ok := f[of]
	// A UID that is gone never returns, so that both conditions are one.
	same := seen.condition == c || of.uid != "" && seen.condition != outOfService && c != outOfService
	if !ok || !same {
		seen.since = now
	}
	seen.condition = c
	f[of] = seen
	if wait := times.grace(c) - now.Sub(seen.since); wait > 0 {
		return Verdict{Reason: fmt.Sprintf("%s; wait %s", c, wait.Round(time.Second))}
	}
	p, err := e.remaining(c)
	if err != nil {
		return Verdict{Reason: fmt.Sprintf("%s, but it isn't known whether a pod of it exists: %v", c, err)}
	}
	if p != nil {
		return Verdict{Reason: fmt.Sprintf("%s, but pod %s/%s of it exists", c, p.Namespace, p.Name)}
	}
	return Verdict{Dead: true, Absent: c == gone, Reason: string(c)}
}

// doubt begins the wait anew for what may have been otherwise in between.
func (f fences) doubt(of life) {
	if of.uid == "" || f[of].condition == outOfService {
		delete(f, of)
	}
}

// condition is what speaks against a life. A Node that was deleted and made
// anew while the machine ran on has another UID and the same boot: its sandboxes
// may live, and its agent goes on with what it has.
func (e Evidence) condition(of life) condition {
	switch {
	case e.Node == nil:
		return gone
	case of.uid != "" && e.Node.UID != of.uid && (of.boot == "" || e.Node.Boot != of.boot):
		return replaced
	case e.Node.OutOfService:
		return outOfService
	}
	return alive
}

// remaining is a pod that may still run on the node that is meant. Creation
// times have whole seconds: of the pods that are as old as another Node of its
// name, only those that come with a Node are taken for that one's.
func (e Evidence) remaining(c condition) (*Pod, error) {
	if e.Pods == nil {
		return nil, nil
	}
	pods, err := e.Pods()
	for i, p := range pods {
		switch {
		case c == replaced && p.Created.After(e.Node.Created):
		case c == replaced && p.Stays && p.Created.Equal(e.Node.Created):
		case c == outOfService && p.Stays:
		default:
			return &pods[i], nil
		}
	}
	return nil, err
}
