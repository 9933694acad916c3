package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestClient(t *testing.T, servers ...string) *Client {
	t.Helper()
	client, err := NewClient(Options{APIServers: servers, NodeName: "n1", Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// running is a cache that follows the server until the test ends.
func running(t *testing.T, s *apiServer, stateDir string) *Cache {
	t.Helper()
	c := NewCache(newTestClient(t, s.url()), CacheOptions{NodeName: "n1", StateDir: stateDir, Log: discard()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

// eventually fails the test unless the condition comes true within 20 s.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func synced(t *testing.T, c *Cache) {
	t.Helper()
	eventually(t, "the cache is in step", c.Synced)
}

func ref(name string) attach.NetworkRef { return attach.NetworkRef{Namespace: "ns", Name: name} }

func wantNetwork(t *testing.T, c *Cache, name, config string) {
	t.Helper()
	got, err := c.Network(t.Context(), ref(name))
	if err != nil {
		t.Fatal(err)
	}
	want := attach.Network{Ref: ref(name), Config: []byte(config), Source: "NetworkAttachmentDefinition ns/" + name, ResourceName: "example.com/nic"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

func wantError(t *testing.T, err, is error, text string) {
	t.Helper()
	if !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
		t.Fatalf("error = %v\nwant %v with %q", err, is, text)
	}
}

func TestNetworkFollowsTheServer(t *testing.T) {
	for name, old := range map[string]bool{"streamed list": false, "plain list": true} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.old = old
			s.put(resourceNetworks, networkObject("a", "1"))
			c := running(t, s, "")
			synced(t, c)
			wantNetwork(t, c, "a", "1")
			if n := s.count("GET /apis/k8s.cni.cncf.io/v1/namespaces/"); n != 0 {
				t.Errorf("%d reads for a definition that the informer has", n)
			}
			s.put(resourceNetworks, networkObject("a", "2"))
			eventually(t, "the change arrives", func() bool {
				got, err := c.Network(t.Context(), ref("a"))
				return err == nil && string(got.Config) == "2"
			})
			s.remove(resourceNetworks, "ns", "a")
			eventually(t, "the removal arrives", func() bool {
				_, err := c.Network(t.Context(), ref("a"))
				return errors.Is(err, ErrNotFound)
			})
		})
	}
}

func TestNetworkKeepsNoBallast(t *testing.T) {
	s := newAPIServer(t)
	s.put(resourceNetworks, networkObject("a", "1"))
	s.put("pods", podObject("p", "u", object{"k8s.v1.cni.cncf.io/networks": "a", "other": "x", "kubernetes.io/config.source": "api"}))
	c := running(t, s, "")
	synced(t, c)
	nad, _ := c.networks.get("ns", "a").(interface{ GetAnnotations() map[string]string })
	if diff := cmp.Diff(map[string]string{resourceNameKey: "example.com/nic"}, nad.GetAnnotations()); diff != "" {
		t.Errorf("definition's annotations (-want +got):\n%s", diff)
	}
	got, _, err := c.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "p", UID: "u"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"k8s.v1.cni.cncf.io/networks": "a", "kubernetes.io/config.source": "api"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pod's annotations (-want +got):\n%s", diff)
	}
}

// A definition made just before the pod may not have reached the informer.
func TestNetworkAheadOfInformer(t *testing.T) {
	s := newAPIServer(t)
	c := running(t, s, "")
	synced(t, c)
	s.update(func() { s.frozen = true })
	s.put(resourceNetworks, networkObject("a", "1"))
	wantNetwork(t, c, "a", "1")
	_, err := c.Network(t.Context(), ref("typo"))
	wantError(t, err, ErrNotFound, "NetworkAttachmentDefinition ns/typo")
}

func TestNetworkTooLarge(t *testing.T) {
	s := newAPIServer(t)
	s.put(resourceNetworks, networkObject("a", strings.Repeat("x", maxConfig+1)))
	c := running(t, s, "")
	synced(t, c)
	if _, err := c.Network(t.Context(), ref("a")); err == nil || !strings.Contains(err.Error(), "at most 65536") {
		t.Errorf("error = %v", err)
	}
}

// F01, F02: with the API server away the informer answers, and what it never
// saw is "try again", not "doesn't exist".
func TestNetworkServerAway(t *testing.T) {
	s := newAPIServer(t)
	s.put(resourceNetworks, networkObject("a", "1"))
	c := running(t, s, "")
	synced(t, c)
	s.stop()
	defer s.restart()
	wantNetwork(t, c, "a", "1")
	_, err := c.Network(t.Context(), ref("b"))
	wantError(t, err, ErrUnavailable, "NetworkAttachmentDefinition ns/b")
	if errors.Is(err, ErrNotFound) {
		t.Errorf("%v says that it doesn't exist", err)
	}
}

func copies(t *testing.T, stateDir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(stateDir, definitionsDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// The daemon restarts while the API server is away: the copy on disk answers,
// at once; when the server is back, so does it.
func TestNetworkRestartServerAway(t *testing.T) {
	s := newAPIServer(t)
	dir := t.TempDir()
	for i := range 3 {
		s.put(resourceNetworks, networkObject(fmt.Sprintf("a%d", i), "1"))
	}
	t.Run("before", func(t *testing.T) {
		c := running(t, s, dir)
		synced(t, c)
		eventually(t, "three copies", func() bool { return len(copies(t, dir)) == 3 })
		s.put(resourceNetworks, networkObject("a0", "2"))
		s.remove(resourceNetworks, "ns", "a2")
		eventually(t, "two copies", func() bool { return len(copies(t, dir)) == 2 })
	})
	s.stop()
	start := time.Now()
	c := running(t, s, dir)
	wantNetwork(t, c, "a0", "2")
	_, err := c.Network(t.Context(), ref("a2"))
	wantError(t, err, ErrUnavailable, "ns/a2")
	if took := time.Since(start); took > time.Second {
		t.Errorf("answers took %v", took)
	}
	eventually(t, "the reason", func() bool {
		err := c.Ready()
		return err != nil && strings.Contains(err.Error(), "connection refused")
	})
	s.put(resourceNetworks, networkObject("a0", "3"))
	s.restart()
	synced(t, c)
	wantNetwork(t, c, "a0", "3")
	if err := c.Ready(); err != nil {
		t.Errorf("Ready = %v", err)
	}
}

// F66, F69: a damaged copy, a foreign one and a link are no definitions.
func TestDamagedCopy(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"empty":     func(t *testing.T, path string) { write(t, path, "") },
		"truncated": func(t *testing.T, path string) { write(t, path, read(t, path)[:70]) },
		"changed":   func(t *testing.T, path string) { write(t, path, strings.Replace(read(t, path), `"1"`, `"2"`, 1)) },
		"another's": func(t *testing.T, path string) {
			data, err := encodeDefinition(definition{Namespace: "ns", Name: "other", Config: "1"})
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(data))
		},
		"link": func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "x")
			if err := errors.Join(os.Rename(path, target), os.Symlink(target, path)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newAPIServer(t), t.TempDir()
			s.put(resourceNetworks, networkObject("a", "1"))
			t.Run("before", func(t *testing.T) {
				synced(t, running(t, s, dir))
				eventually(t, "the copy", func() bool { return len(copies(t, dir)) == 1 })
			})
			path := copies(t, dir)[0]
			damage(t, path)
			s.stop()
			c := running(t, s, dir)
			_, err := c.Network(t.Context(), ref("a"))
			wantError(t, err, ErrUnavailable, "ns/a")
			s.restart()
			synced(t, c)
			eventually(t, "the copy is written again", func() bool {
				data, err := os.ReadFile(path)
				found, bad := decodeDefinition(data)
				return err == nil && bad == nil && found.Config == "1"
			})
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// F10: without the CustomResourceDefinition the reason is told, and the
// informer follows when it is installed.
func TestDefinitionNotServed(t *testing.T) {
	s := newAPIServer(t)
	s.refuseAll(resourceNetworks, http.StatusNotFound)
	c := running(t, s, t.TempDir())
	_, err := c.Network(t.Context(), ref("a"))
	wantError(t, err, ErrNotFound, "install that CustomResourceDefinition")
	eventually(t, "the reason", func() bool {
		err := c.Ready()
		return err != nil && strings.Contains(err.Error(), "install that CustomResourceDefinition")
	})
	s.refuseAll(resourceNetworks, 0)
	s.put(resourceNetworks, networkObject("a", "1"))
	synced(t, c)
	wantNetwork(t, c, "a", "1")
}

// F07: a missing right is named, and an old copy doesn't hide it.
func TestNetworkForbidden(t *testing.T) {
	s, dir := newAPIServer(t), t.TempDir()
	s.put(resourceNetworks, networkObject("a", "1"))
	t.Run("before", func(t *testing.T) {
		synced(t, running(t, s, dir))
		eventually(t, "the copy", func() bool { return len(copies(t, dir)) == 1 })
	})
	s.refuseAll(resourceNetworks, http.StatusForbidden)
	c := running(t, s, dir)
	_, err := c.Network(t.Context(), ref("a"))
	wantError(t, err, ErrUnavailable, "not allowed to get network-attachment-definitions.k8s.cni.cncf.io")
	s.refuseAll(resourceNetworks, 0)
	synced(t, c)
	wantNetwork(t, c, "a", "1")
}

// F06, and a server that fails inside: the copy answers.
func TestNetworkServerBroken(t *testing.T) {
	for _, code := range []int{http.StatusInternalServerError, http.StatusRequestTimeout} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			s, dir := newAPIServer(t), t.TempDir()
			s.put(resourceNetworks, networkObject("a", "1"))
			t.Run("before", func(t *testing.T) {
				synced(t, running(t, s, dir))
				eventually(t, "the copy", func() bool { return len(copies(t, dir)) == 1 })
			})
			s.refuseAll(resourceNetworks, code)
			c := running(t, s, dir)
			start := time.Now()
			wantNetwork(t, c, "a", "1")
			if took := time.Since(start); took > settleTime+liveTimeout+time.Second {
				t.Errorf("the answer took %v", took)
			}
			start = time.Now()
			wantNetwork(t, c, "a", "1")
			if took := time.Since(start); took > time.Second {
				t.Errorf("the second answer took %v", took)
			}
		})
	}
}

// Watches end, time out, and forget: nothing is lost.
func TestWatchIsCut(t *testing.T) {
	for name, old := range map[string]bool{"streamed list": false, "plain list": true} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.old = old
			s.put(resourceNetworks, networkObject("a", "1"))
			c := running(t, s, "")
			synced(t, c)
			s.update(func() { s.frozen = true })
			s.put(resourceNetworks, networkObject("a", "2"))
			s.update(func() { s.frozen, s.oldest, s.cut = false, s.version+1, s.cut+1 }) // the next watch is 410 Gone
			eventually(t, "the change arrives", func() bool {
				got, err := c.Network(t.Context(), ref("a"))
				return err == nil && string(got.Config) == "2"
			})
		})
	}
}

// One-shot mode: no informer, only reads.
func TestCacheWithoutRun(t *testing.T) {
	s := newAPIServer(t)
	s.put(resourceNetworks, networkObject("a", "1"))
	s.put("pods", podObject("p", "u", nil))
	c := NewCache(newTestClient(t, s.url()), CacheOptions{Log: discard()})
	start := time.Now()
	wantNetwork(t, c, "a", "1")
	if _, _, err := c.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "p", UID: "u"}); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("answers took %v", took)
	}
	if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "not started") {
		t.Errorf("Ready = %v", err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "NODE_NAME") {
		t.Errorf("Run without a node = %v", err)
	}
}
