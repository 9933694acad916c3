// Package world runs a real Kubernetes cluster on one Linux machine, without
// containers or virtual machines around it: etcd, API server, controller
// manager and scheduler in one network namespace, and every node in a network
// and a mount namespace of its own with a real containerd and kubelet.
//
// A node has its own copy of each host path that a DaemonSet mounts (/etc,
// /opt, /var, /run), so that a manifest is installed on it as on any node.
//
// It is a test bed, not a product: root only, one world at a time on a
// machine, nothing reachable from outside but a loopback port. Everything it
// makes bears the name prefix mce2e and is gone after Close, and also after
// the process that made it was killed.
package world
