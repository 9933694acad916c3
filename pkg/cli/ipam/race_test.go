package ipam

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// storyAPI serves the objects of a story.
func storyAPI(t *testing.T, story string) (*fakeAPI, string) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + story)
	if err != nil {
		t.Fatal(err)
	}
	return newFakeAPI(t, txtar.Parse(data).Files[0].Data)
}

const absentClaim = "/apis/meta-cni.io/v1alpha1/namespaces/meta-cni/ipclaims/default.10.0.0."

// on does something once, before a request is looked at.
func (f *fakeAPI) on(method, path string, do func()) {
	done := false
	f.before = func(m, p string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if m == method && p == path && !done {
			done = true
			do()
		}
	}
}

// TestCheckLooksTwice: what changes between the list and the second look is not
// told; what stays is.
func TestCheckLooksTwice(t *testing.T) {
	for name, c := range map[string]struct {
		claim, kind string
		change      func(*fakeAPI)
	}{
		"the claim changes": {"2", "pod-gone", func(f *fakeAPI) { f.put(f.objects[absentClaim+"2"]) }},
		"the claim goes":    {"2", "pod-gone", func(f *fakeAPI) { delete(f.objects, absentClaim+"2") }},
		"the block is shared": {"70", "stray", func(f *fakeAPI) {
			b := f.objects["/apis/meta-cni.io/v1alpha1/namespaces/meta-cni/ipblocks/default.10.0.0.64-26"]
			b.Object["spec"].(map[string]any)["mode"] = "Shared"
			f.put(b)
		}},
		"the pod's status comes": {"5", "pod-status", func(f *fakeAPI) {
			p := f.objects["/api/v1/namespaces/ns/pods/elsewhere"]
			p.SetAnnotations(map[string]string{"k8s.v1.cni.cncf.io/network-status": `[{"name":"x","interface":"net1","ips":["10.0.0.5"]}]`})
			f.put(p)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			api, kubeconfig := storyAPI(t, "check.txtar")
			line := fmt.Sprintf("IPClaim default.10.0.0.%s: ", c.claim)
			told := func() bool {
				for _, l := range strings.Split(metactl(t, kubeconfig, "check"), "\n") {
					if strings.Contains(l, line) && strings.HasSuffix(l, "("+c.kind+")") {
						return true
					}
				}
				return false
			}
			if !told() {
				t.Fatal("it isn't told when nothing changes")
			}
			api.on("GET", absentClaim+c.claim, func() { c.change(api) })
			if told() {
				t.Error("it is told although it changed")
			}
		})
	}
}

// TestDuplicateEndsMeanwhile: one of two pods goes.
func TestDuplicateEndsMeanwhile(t *testing.T) {
	api, kubeconfig := storyAPI(t, "check.txtar")
	api.on("GET", "/api/v1/namespaces/ns/pods/twin-a", func() { delete(api.objects, "/api/v1/namespaces/ns/pods/twin-b") })
	if got := metactl(t, kubeconfig, "check"); strings.Contains(got, "DUPLICATE") {
		t.Error(got)
	}
}

// TestReleaseLosesRaces: a claim that changed after the proof stays.
func TestReleaseLosesRaces(t *testing.T) {
	const path = absentClaim + "1"
	api, kubeconfig := storyAPI(t, "release.txtar")
	api.on("DELETE", path, func() { api.put(api.objects[path]) })
	if got := metactl(t, kubeconfig, "release 10.0.0.1 --space default"); !strings.Contains(got, "changed while it was looked at") || !strings.Contains(got, "exit code 1") {
		t.Error(got)
	}
	if api.objects[path] == nil {
		t.Fatal("it was deleted")
	}
	api.on("DELETE", path, func() { delete(api.objects, path) })
	if got := metactl(t, kubeconfig, "release 10.0.0.1 --space default"); !strings.Contains(got, "somebody else released it") || !strings.Contains(got, "exit code 0") {
		t.Error(got)
	}
}

// TestListGoesOn: where the first page's state is forgotten, each object comes
// once all the same.
func TestListGoesOn(t *testing.T) {
	api, kubeconfig := storyAPI(t, "check.txtar")
	want := metactl(t, kubeconfig, "check")
	api.expired = true
	if got := metactl(t, kubeconfig, "check"); got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
	if api.expired {
		t.Error("no list had a second page")
	}
}
