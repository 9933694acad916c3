package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewClientRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for name, tc := range map[string]struct {
		in   Options
		want string
	}{
		"nothing":        {Options{}, "no API server: set apiServers or a kubeconfig"},
		"path":           {Options{APIServers: []string{"https://a/b"}}, `API server "https://a/b": write a URL without a path`},
		"scheme":         {Options{APIServers: []string{"a:6443"}}, `API server "a:6443"`},
		"both":           {Options{Kubeconfig: "/a", TokenFile: "/b"}, "keep one of the two"},
		"no kubeconfig":  {Options{Kubeconfig: "/nonexistent"}, "/nonexistent"},
		"missing token":  {Options{APIServers: []string{"https://a"}, TokenFile: "/nonexistent"}, "/nonexistent"},
		"missing CAFile": {Options{APIServers: []string{"https://a"}, CAFile: "/nonexistent"}, "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewClient(tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestKubeconfig(t *testing.T) {
	s := newAPIServer(t)
	s.put(resourceNetworks, networkObject("a", "1"))
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":"` + s.url() + `"}}],"users":[{"name":"u","user":{}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	wantNetwork(t, NewCache(client, CacheOptions{Log: discard()}), "a", "1")
}

// The first API server that answers is used, until it fails; a body is sent
// again whole.
func TestSeveralServers(t *testing.T) {
	one, two := newAPIServer(t), newAPIServer(t)
	for _, s := range []*apiServer{one, two} {
		s.put("pods", podObject("p", "u", nil))
	}
	client := newTestClient(t, one.url(), two.url())
	// A patch on a connection that has just died isn't sent again by itself.
	patch := func() {
		t.Helper()
		eventually(t, "a patch", func() bool {
			return client.PatchPodStatus(t.Context(), pod("p", "u"), map[string]string{"a": "b"}) == nil
		})
	}
	patches := func() []int { return []int{one.count("PATCH"), two.count("PATCH")} }
	patch()
	one.stop()
	patch()
	patch()
	if diff := cmp.Diff([]int{1, 2}, patches()); diff != "" {
		t.Errorf("patches (-want +got):\n%s", diff)
	}
	one.restart()
	two.stop()
	patch()
	if diff := cmp.Diff([]int{2, 2}, patches()); diff != "" {
		t.Errorf("patches (-want +got):\n%s", diff)
	}
	if body := one.lastBody(); body != `{"metadata":{"annotations":{"a":"b"},"uid":"u"}}` {
		t.Errorf("body = %s", body)
	}
	one.stop()
	err := client.PatchPodStatus(t.Context(), pod("p", "u"), nil)
	wantError(t, err, ErrUnavailable, "patch pods/status")
	one.restart()
	two.restart()
}

func FuzzDecodeDefinition(f *testing.F) {
	data, err := encodeDefinition(definition{Namespace: "n", Name: "a", Config: "{}"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, "{}")
	f.Fuzz(func(t *testing.T, data []byte, config string) {
		_, _ = decodeDefinition(data)
		want := definition{Namespace: "n", Name: "a", Config: strings.ToValidUTF8(config, ""), ResourceName: "r"}
		encoded, err := encodeDefinition(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeDefinition(encoded)
		if err != nil || got != want {
			t.Fatalf("error = %v, got %+v, want %+v", err, got, want)
		}
	})
}
