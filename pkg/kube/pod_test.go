package kube

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

const networksKey = "k8s.v1.cni.cncf.io/networks"

func pod(name, uid string) attach.Pod { return attach.Pod{Namespace: "ns", Name: name, UID: uid} }

func wantPod(t *testing.T, c *Cache, asked, want attach.Pod, networks string) {
	t.Helper()
	annotations, got, err := c.PodAnnotations(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	if annotations[networksKey] != networks {
		t.Errorf("networks = %q, want %q", annotations[networksKey], networks)
	}
}

func TestPodAnnotations(t *testing.T) {
	s := newAPIServer(t)
	s.put("pods", podObject("p", "u", object{networksKey: "a"}))
	s.put("pods", podObject("static", "api-uid", object{networksKey: "b", "kubernetes.io/config.mirror": "hash"}))
	elsewhere := podObject("elsewhere", "e", object{networksKey: "c"})
	elsewhere["spec"] = object{"nodeName": "n2"}
	s.put("pods", elsewhere)
	c := running(t, s, "")
	synced(t, c)
	wantPod(t, c, pod("p", "u"), pod("p", "u"), "a")
	wantPod(t, c, pod("p", ""), pod("p", "u"), "a")
	wantPod(t, c, pod("static", "hash"), pod("static", "hash"), "b")
	wantPod(t, c, pod("static", ""), pod("static", "hash"), "b")
	if n := s.count("GET /api/v1/namespaces/"); n != 0 {
		t.Errorf("%d reads for pods that the informer has", n)
	}
	if object := c.pods.get("ns", "elsewhere"); object != nil {
		t.Errorf("a pod of another node is kept: %v", object)
	}
	wantPod(t, c, pod("elsewhere", "e"), pod("elsewhere", "e"), "c")
}

// The informer lags: the answer comes as soon as the event does, with no read.
func TestPodAnnotationsInformerLags(t *testing.T) {
	s := newAPIServer(t)
	s.put("pods", podObject("p", "former", object{networksKey: "a"}))
	c := running(t, s, "")
	synced(t, c)
	s.update(func() { s.frozen = true })
	s.put("pods", podObject("p", "u", object{networksKey: "b"}))
	thaw := time.AfterFunc(100*time.Millisecond, func() { s.update(func() { s.frozen = false }) })
	defer thaw.Stop()
	wantPod(t, c, pod("p", "u"), pod("p", "u"), "b")
	if n := s.count("GET /api/v1/namespaces/"); n != 0 {
		t.Errorf("%d reads", n)
	}
}

// The informer hangs: one read decides.
func TestPodAnnotationsInformerHangs(t *testing.T) {
	s := newAPIServer(t)
	s.put("pods", podObject("p", "former", nil))
	c := running(t, s, "")
	synced(t, c)
	s.update(func() { s.frozen = true })
	s.put("pods", podObject("p", "u", object{networksKey: "b"}))
	wantPod(t, c, pod("p", "u"), pod("p", "u"), "b")
	if n := s.count("GET /api/v1/namespaces/"); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
}

func TestPodAnnotationsRefuses(t *testing.T) {
	s := newAPIServer(t)
	s.put("pods", podObject("p", "y", nil))
	c := running(t, s, "")
	synced(t, c)
	annotations, _, err := c.PodAnnotations(t.Context(), pod("p", "x"))
	wantError(t, err, ErrPodReplaced, `expected pod UID "x" but got "y" from Kube API`)
	if annotations != nil {
		t.Errorf("annotations = %v", annotations)
	}
	_, _, err = c.PodAnnotations(t.Context(), pod("vanished", "x"))
	wantError(t, err, ErrPodGone, "pod ns/vanished")
	s.refuseAll("pods", http.StatusForbidden)
	_, _, err = c.PodAnnotations(t.Context(), pod("vanished", "x"))
	wantError(t, err, ErrUnavailable, "not allowed to get pods")
	s.stop()
	defer s.restart()
	_, _, err = c.PodAnnotations(t.Context(), pod("vanished", "x"))
	wantError(t, err, ErrUnavailable, "pod ns/vanished")
	wantPod(t, c, pod("p", "y"), pod("p", "y"), "")
}

// With the API server known to be away nobody waits for the informer.
func TestPodAnnotationsServerAway(t *testing.T) {
	s := newAPIServer(t)
	c := running(t, s, "")
	synced(t, c)
	s.stop()
	defer s.restart()
	eventually(t, "the failure is noticed", func() bool { return c.client.reach.away() != nil })
	start := time.Now()
	_, _, err := c.PodAnnotations(t.Context(), pod("p", "u"))
	wantError(t, err, ErrUnavailable, "pod ns/p")
	if took := time.Since(start); took > podLag/2 {
		t.Errorf("the answer took %v", took)
	}
}

func TestPatchPodStatus(t *testing.T) {
	t.Run("invalid", func(t *testing.T) { testPatchPodStatus(t, newAPIServer(t)) })
	t.Run("conflict", func(t *testing.T) {
		s := newAPIServer(t)
		s.conflict = true
		testPatchPodStatus(t, s)
	})
}

func testPatchPodStatus(t *testing.T, s *apiServer) {
	t.Helper()
	client := newTestClient(t, s.url())
	s.put("pods", podObject("p", "u", object{"kept": "1"}))
	s.put("pods", podObject("static", "api-uid", object{"kubernetes.io/config.mirror": "hash"}))
	annotations := map[string]string{"k8s.v1.cni.cncf.io/network-status": "[]"}
	for _, p := range []attach.Pod{pod("p", "u"), pod("p", ""), pod("static", "hash"), pod("static", "")} {
		if err := client.PatchPodStatus(t.Context(), p, annotations); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	s.mu.Lock()
	got := s.objects["pods/ns/p"]["metadata"].(object)["annotations"]
	s.mu.Unlock()
	if diff := cmp.Diff(object{"kept": "1", "k8s.v1.cni.cncf.io/network-status": "[]"}, got); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if n := s.count("PATCH /api/v1/namespaces/ns/pods/p/status"); n != 2 {
		t.Errorf("%d patches of p, want 2", n)
	}
	wantError(t, client.PatchPodStatus(t.Context(), pod("p", "former"), nil), ErrPodGone, "its UID is u, not former")
}

func TestPatchPodStatusRefuses(t *testing.T) {
	s := newAPIServer(t)
	client := newTestClient(t, s.url())
	s.put("pods", podObject("p", "new", nil))
	wantError(t, client.PatchPodStatus(t.Context(), pod("vanished", "u"), nil), ErrPodGone, "pod ns/vanished")
	wantError(t, client.PatchPodStatus(t.Context(), pod("vanished", ""), nil), ErrPodGone, "pod ns/vanished")
	s.refuseAll("pods", http.StatusForbidden)
	wantError(t, client.PatchPodStatus(t.Context(), pod("p", "new"), nil), ErrUnavailable, "not allowed to patch pods/status")
	s.stop()
	defer s.restart()
	wantError(t, client.PatchPodStatus(t.Context(), pod("p", "new"), nil), ErrUnavailable, "patch pods/status")
}

func TestCreateEvent(t *testing.T) {
	s := newAPIServer(t)
	client := newTestClient(t, s.url())
	for _, tc := range []struct {
		name  string
		event Event
		path  string
		want  []string
	}{
		{
			"pod",
			Event{Pod: pod("p", "u"), Type: EventNormal, Reason: "AddedInterface", Message: "Add net1"},
			"POST /api/v1/namespaces/ns/events",
			[]string{`"involvedObject":{"kind":"Pod","namespace":"ns","name":"p","uid":"u","apiVersion":"v1"}`, `"reason":"AddedInterface"`, `"message":"Add net1"`, `"source":{"component":"meta-cni","host":"n1"}`, `"type":"Normal"`},
		},
		{
			"node",
			Event{Node: "n1", Type: EventWarning, Reason: "PrimaryMissing", Message: "m"},
			"POST /api/v1/namespaces/default/events",
			[]string{`"involvedObject":{"kind":"Node","name":"n1","uid":"n1","apiVersion":"v1"}`, `"type":"Warning"`},
		},
		{
			"long",
			Event{Pod: pod(strings.Repeat("p", 253), "u"), Reason: "R", Message: strings.Repeat("ä", 600)},
			"POST /api/v1/namespaces/ns/events",
			[]string{`"message":"` + strings.Repeat("ä", 512) + `"`, `"name":"` + strings.Repeat("p", 236) + "."},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := s.count(tc.path)
			if err := client.CreateEvent(t.Context(), tc.event); err != nil {
				t.Fatal(err)
			}
			if s.count(tc.path) != before+1 {
				t.Errorf("no %s", tc.path)
			}
			for _, want := range tc.want {
				if body := s.lastBody(); !strings.Contains(body, want) {
					t.Errorf("event = %s\nwant one with %s", body, want)
				}
			}
		})
	}
	s.refuseAll("events", http.StatusForbidden)
	wantError(t, client.CreateEvent(t.Context(), Event{Pod: pod("p", "u"), Reason: "R"}), ErrUnavailable, "not allowed to create events")
}
