// Package apiserver is a real kube-apiserver with its etcd on this machine's
// loopback, for tests of what talks to one: no nodes, no controllers, no
// rights needed. It starts in about three seconds and is seen by nobody else.
//
// It isn't the cluster of e2e/world. Its invariant: when Close returns, or the
// test's process dies, nothing of it is left but what it was told to keep.
package apiserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
)

const (
	token = "admin-of-a-test"
	// policy keeps the requests for our group, without their bodies.
	policy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    resources:
      - group: meta-cni.io
  - level: None
`
	readyTimeout = time.Minute
	pollEvery    = 20 * time.Millisecond
)

// Server is an API server and its etcd.
type Server struct {
	// Config has all rights and no limit of its own.
	Config *rest.Config
	// AuditLog is a file with a line for each request for our group; see Calls.
	AuditLog string
	// Dir has everything, logs too.
	Dir string

	programs        string
	port, etcdPort  int
	etcd, apiServer *process
}

// Start starts a server with nothing in it. Where the programs are missing
// they are built first, which takes minutes.
func Start(ctx context.Context) (_ *Server, err error) {
	programs, err := findPrograms(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "meta-cni-apiserver-")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, AuditLog: filepath.Join(dir, "audit.log"), programs: programs}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.writeFiles(); err != nil {
		return nil, err
	}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.startEtcd(ctx); err != nil {
		return nil, err
	}
	s.Config = &rest.Config{
		Host: "https://" + s.addr(), BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: s.path("apiserver.crt")},
	}
	return s, s.Start(ctx)
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Server) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *Server) writeFiles() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.path("accounts.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(s.path("tokens.csv"), []byte(token+",admin,admin,system:masters\n"), 0o600),
		os.WriteFile(s.path("policy.yaml"), []byte(policy), 0o600),
	)
}

func (s *Server) startEtcd(ctx context.Context) error {
	var err error
	if s.etcdPort, err = freePort(); err != nil {
		return err
	}
	peer, err := freePort()
	if err != nil {
		return err
	}
	client, peers := "http://127.0.0.1:"+strconv.Itoa(s.etcdPort), "http://127.0.0.1:"+strconv.Itoa(peer)
	s.etcd, err = startProcess(s.path("etcd.log"), "/usr/bin/etcd",
		"--data-dir="+s.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers,
	)
	if err != nil {
		return err
	}
	return s.await(ctx, s.etcd, client+"/health", http.DefaultClient)
}

// Start starts the API server again after Stop, at the same address, and waits
// until it is ready.
func (s *Server) Start(ctx context.Context) error {
	var err error
	s.apiServer, err = startProcess(s.path("kube-apiserver.log"), filepath.Join(s.programs, "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:"+strconv.Itoa(s.etcdPort),
		"--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(s.port), "--cert-dir="+s.Dir,
		"--token-auth-file="+s.path("tokens.csv"), "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+s.path("accounts.key"), "--service-account-signing-key-file="+s.path("accounts.key"),
		"--service-cluster-ip-range=10.96.0.0/24",
		"--audit-policy-file="+s.path("policy.yaml"), "--audit-log-path="+s.AuditLog, "--audit-log-mode=blocking",
		"--profiling=false",
	)
	if err != nil {
		return err
	}
	// The certificate is made by the API server itself.
	if err := s.until(ctx, s.apiServer, func() error { _, err := os.Stat(s.path("apiserver.key")); return err }); err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return s.await(ctx, s.apiServer, s.Config.Host+"/readyz", client)
}

// Stop kills the API server, as a crash does; etcd stays.
func (s *Server) Stop() { s.apiServer.kill() }

// Close ends everything and removes the folder.
func (s *Server) Close() error {
	s.apiServer.kill()
	s.etcd.kill()
	return os.RemoveAll(s.Dir)
}

// await waits until the URL answers 200.
func (s *Server) await(ctx context.Context, p *process, url string, client *http.Client) error {
	return s.until(ctx, p, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	})
}

func (s *Server) until(ctx context.Context, p *process, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended by itself: %w\n%s", p.name, err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w\n%s", p.name, ctx.Err(), err, p.tail())
		case <-tick.C:
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	addr, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("%s is no TCP address", listener.Addr())
	}
	return addr.Port, nil
}

// lastLines is the end of a text, for messages.
func lastLines(text []byte, lines int) []byte {
	all := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines-1):], nil)
}
