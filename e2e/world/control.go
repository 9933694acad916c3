package world

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// controlPlane are the processes of the cluster that belong to no node.
type controlPlane struct {
	etcd, apiServer, controllers, scheduler *process
}

const controlCgroup = "control"

func (w *World) startControlPlane(ctx context.Context) error {
	if err := makeCgroup(controlCgroup); err != nil {
		return err
	}
	if err := w.startEtcd(); err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	if err := w.StartAPIServer(ctx); err != nil {
		return err
	}
	return errors.Join(w.startControllers(), w.startScheduler())
}

func (w *World) startIn(name string, argv ...string) (*process, error) {
	p := place{cgroup: controlCgroup, netns: filepath.Join(netnsDir, controlNetns)}
	return startProcess(p, name, filepath.Join(w.LogDir, name+".log"), argv...)
}

func (w *World) startEtcd() error {
	var err error
	w.control.etcd, err = w.startIn("etcd", "/usr/bin/etcd",
		"--data-dir="+w.path("control", "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
	)
	return err
}

// connect prepares the ways to the API server: forwarder, kubeconfigs, clients.
func (w *World) connect() error {
	var err error
	if w.forward, err = startForwarder(); err != nil {
		return err
	}
	w.Kubeconfig = w.path("kubeconfig")
	inside := "https://" + controlAddr + ":" + APIPort
	for path, to := range map[string]struct{ user, server string }{
		w.Kubeconfig:                         {userAdmin, "https://" + w.forward.addr()},
		w.pki.file("controllers.kubeconfig"): {userControllerManager, inside},
		w.pki.file("scheduler.kubeconfig"):   {userScheduler, inside},
	} {
		if err := w.pki.writeKubeconfig(path, to.user, to.server); err != nil {
			return err
		}
	}
	if w.Config, err = clientcmd.BuildConfigFromFlags("", w.Kubeconfig); err != nil {
		return err
	}
	w.Config.QPS, w.Config.Burst = 200, 400 // the tests poll; their own limit would only slow them
	if w.client, err = kubernetes.NewForConfig(w.Config); err != nil {
		return err
	}
	w.dynamic, err = dynamic.NewForConfig(w.Config)
	return err
}

// StartAPIServer starts the API server and waits until it is ready.
func (w *World) StartAPIServer(ctx context.Context) error {
	proc, err := w.startIn("kube-apiserver", filepath.Join(w.bins.kubernetes, "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port="+APIPort, "--advertise-address="+controlAddr,
		"--tls-cert-file="+w.pki.file("apiserver.crt"), "--tls-private-key-file="+w.pki.file("apiserver.key"),
		"--client-ca-file="+w.pki.file("ca.crt"),
		"--token-auth-file="+w.pki.file("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+w.pki.file("service-accounts.key"),
		"--service-account-signing-key-file="+w.pki.file("service-accounts.key"),
		"--service-cluster-ip-range="+serviceCIDR,
		"--allow-privileged=true",
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+w.pki.file("kubelet-client.crt"), "--kubelet-client-key="+w.pki.file("kubelet-client.key"),
		"--profiling=false",
	)
	if err != nil {
		return err
	}
	w.control.apiServer = proc
	return Eventually(ctx, time.Minute, func(ctx context.Context) error {
		if err := proc.alive(); err != nil {
			return err
		}
		if _, err := w.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return fmt.Errorf("API server not ready: %w", err)
		}
		return nil
	})
}

// StopAPIServer kills the API server, as a crash does.
func (w *World) StopAPIServer() error {
	return w.control.apiServer.stop(syscall.SIGKILL, 0)
}

func (w *World) startControllers() error {
	var err error
	w.control.controllers, err = w.startIn("kube-controller-manager", filepath.Join(w.bins.kubernetes, "kube-controller-manager"),
		"--kubeconfig="+w.pki.file("controllers.kubeconfig"),
		"--bind-address=127.0.0.1", "--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+w.pki.file("service-accounts.key"),
		"--root-ca-file="+w.pki.file("ca.crt"),
		"--profiling=false",
	)
	return err
}

func (w *World) startScheduler() error {
	var err error
	w.control.scheduler, err = w.startIn("kube-scheduler", filepath.Join(w.bins.kubernetes, "kube-scheduler"),
		"--kubeconfig="+w.pki.file("scheduler.kubeconfig"),
		"--bind-address=127.0.0.1", "--leader-elect=false",
		"--profiling=false",
	)
	return err
}

// Kubectl returns the path of a kubectl of the cluster's version.
func (w *World) Kubectl() string { return filepath.Join(w.bins.kubernetes, "kubectl") }
