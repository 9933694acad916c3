package objects

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const twoObjects = `# a comment
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: a
  namespace: ns
  annotations:
    k8s.v1.cni.cncf.io/resourceName: example.com/nic
spec:
  config: '{"type":"bridge"}'
---
apiVersion: v1
kind: Pod
metadata:
  name: p
  namespace: ns
  uid: u
  annotations:
    k8s.v1.cni.cncf.io/networks: a
spec:
  containers: [{name: c, image: i}]
---
# nothing here
`

const listOfObjects = `apiVersion: v1
kind: List
items:
- apiVersion: k8s.cni.cncf.io/v1
  kind: NetworkAttachmentDefinition
  metadata: {name: a}
  spec: {config: "{}"}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: other}}
- {apiVersion: v1, kind: Pod, metadata: {name: p}}
`

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantConfig(t *testing.T, s *Store, ref attach.NetworkRef, want string) {
	t.Helper()
	got, err := s.Network(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Config) != want {
		t.Errorf("config = %s, want %s", got.Config, want)
	}
}

func TestNetwork(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", twoObjects)
	write(t, dir, "b.json", `{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition","metadata":{"name":"b"},"spec":{}}`)
	write(t, dir, "c.txt", "no objects")
	write(t, dir, ".d.yaml", "{broken")
	s := open(t, dir)
	got, err := s.Network(t.Context(), attach.NetworkRef{Namespace: "ns", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := attach.Network{
		Ref: attach.NetworkRef{Namespace: "ns", Name: "a"}, Config: []byte(`{"type":"bridge"}`), ResourceName: "example.com/nic",
		Source: "NetworkAttachmentDefinition ns/a (" + filepath.Join(dir, "a.yaml") + ")",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
	wantConfig(t, s, attach.NetworkRef{Namespace: "default", Name: "b"}, "")
	_, err = s.Network(t.Context(), attach.NetworkRef{Namespace: "ns", Name: "b"})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error = %v", err)
	}
}

func TestPodAnnotations(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", twoObjects)
	s := open(t, dir)
	want := map[string]string{"k8s.v1.cni.cncf.io/networks": "a"}
	for _, uid := range []string{"", "u"} {
		got, pod, err := s.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "p", UID: uid})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || pod.UID != "u" {
			t.Errorf("pod = %+v, annotations (-want +got):\n%s", pod, diff)
		}
	}
	_, _, err := s.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "p", UID: "x"})
	if !errors.Is(err, attach.ErrPodReplaced) || !strings.Contains(err.Error(), `expected pod UID "x" but got "u"`) {
		t.Errorf("error = %v", err)
	}
	got, pod, err := s.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "container", UID: "y"})
	if err != nil || len(got) != 0 || pod.UID != "y" {
		t.Errorf("unknown pod: %v, %+v, %v", got, pod, err)
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yml", listOfObjects)
	s := open(t, dir)
	wantConfig(t, s, attach.NetworkRef{Namespace: "default", Name: "a"}, "{}")
	if _, _, err := s.PodAnnotations(t.Context(), attach.Pod{Name: "p"}); err != nil {
		t.Error(err)
	}
}

// What is asked is answered from the files as they are now.
func TestFilesChange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	s := open(t, dir)
	a := attach.NetworkRef{Namespace: "ns", Name: "a"}
	if _, err := s.Network(t.Context(), a); !errors.Is(err, ErrNotFound) {
		t.Errorf("error = %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.yaml", twoObjects)
	wantConfig(t, s, a, `{"type":"bridge"}`)
	for _, kind := range []string{"ipvlan", "tuning", "bridge", "tuning"} { // same length, same tick of the clock
		write(t, dir, "a.yaml", strings.Replace(twoObjects, "bridge", kind, 1))
		wantConfig(t, s, a, `{"type":"`+kind+`"}`)
	}
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Network(t.Context(), a); !errors.Is(err, ErrNotFound) {
		t.Errorf("error = %v", err)
	}
}

// A broken file is named and doesn't hide the others; whatever might be in it
// isn't taken for absent.
func TestBrokenFile(t *testing.T) {
	nad := "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: b}\n"
	for name, tc := range map[string]struct{ text, want string }{
		"not YAML":     {"a: [", "document 1"},
		"half a file":  {"apiVersion: v1\nkind: Pod\nmetadata: {name: q}\n---\nkind", "document 2"},
		"no kind":      {"metadata: {name: q}", "it has no kind"},
		"no name":      {"kind: Pod", "has no name or occurs twice"},
		"twice":        {nad + "---\n" + nad, "has no name or occurs twice"},
		"unknown key":  {nad + "spec: {conf: x}\n", `unknown field "conf"`},
		"wrong type":   {nad + "spec: {config: {}}\n", "config"},
		"item of list": {"kind: List\nitems: [{kind: Pod}]", "item 1"},
		"too large":    {"#" + strings.Repeat("x", maxFile), "split it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a.yaml", tc.text)
			write(t, dir, "b.yaml", twoObjects)
			s := open(t, dir)
			wantConfig(t, s, attach.NetworkRef{Namespace: "ns", Name: "a"}, `{"type":"bridge"}`)
			if _, _, err := s.PodAnnotations(t.Context(), attach.Pod{Namespace: "ns", Name: "p"}); err != nil {
				t.Error(err)
			}
			_, err := s.Network(t.Context(), attach.NetworkRef{Namespace: "ns", Name: "b"})
			_, _, podErr := s.PodAnnotations(t.Context(), attach.Pod{Name: "q"})
			for _, err := range []error{err, podErr} {
				if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "a.yaml")) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error = %v, want one with %q", err, tc.want)
				}
			}
			write(t, dir, "a.yaml", nad)
			wantConfig(t, s, attach.NetworkRef{Namespace: "default", Name: "b"}, "")
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open("relative", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a relative folder was accepted")
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, filepath.Dir(file), "file", "")
	if _, err := Open(file, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file was accepted as a folder")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(twoObjects))
	f.Add([]byte(listOfObjects))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data)
		if err != nil {
			return
		}
		for ref := range c.networks {
			if ref.Name == "" || ref.Namespace == "" {
				t.Fatalf("a network without a name: %+v", ref)
			}
		}
		for key := range c.pods {
			if key.name == "" || key.namespace == "" {
				t.Fatalf("a pod without a name: %+v", key)
			}
		}
	})
}
