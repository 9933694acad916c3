package whereabouts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// answer is what the API server says to one request.
type answer struct {
	request string
	code    int
	body    string
}

// server answers in order, and gives what was sent as bodies.
func server(t *testing.T, answers ...answer) (*Client, *[]string) {
	t.Helper()
	var bodies []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, string(body))
		if len(answers) == 0 {
			t.Errorf("one request too many: %s %s", r.Method, r.URL)
			return
		}
		next := answers[0]
		answers = answers[1:]
		if diff := cmp.Diff(next.request, r.Method+" "+r.URL.String()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(next.code)
		fmt.Fprint(w, next.body)
	}))
	t.Cleanup(s.Close)
	client, err := NewClient(&rest.Config{Host: s.URL}, s.Client(), "kube-system")
	if err != nil {
		t.Fatal(err)
	}
	return client, &bodies
}

const base = "/apis/whereabouts.cni.cncf.io/v1alpha1/namespaces/kube-system/"

func status(reason string, code int) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
}

func TestClientLists(t *testing.T) {
	client, _ := server(
		t,
		answer{"GET " + base + "ippools?limit=200", 200, `{"metadata":{"continue":"next"},"items":[{"metadata":{"name":"a"},"spec":{"range":"10.0.0.0/24","allocations":{"5":{"id":"c","podref":"a/b","ifname":"net1"}}}}]}`},
		answer{"GET " + base + "ippools?continue=next&limit=200", 200, `{"metadata":{},"items":[{"metadata":{"name":"b"}}]}`},
		answer{"GET " + base + "overlappingrangeipreservations?resourceVersion=0", 200, `{"metadata":{},"items":[{"metadata":{"name":"10.0.0.5"},"spec":{"podref":"a/b"}}]}`},
		answer{"GET " + base + "nodeslicepools?limit=200", 404, "404 page not found"},
	)
	pools, err := client.Pools(t.Context())
	if err != nil || len(pools) != 2 || pools[0].Spec.Allocations["5"].PodRef != "a/b" {
		t.Errorf("%+v, %v", pools, err)
	}
	reservations, err := client.List(t.Context())
	if err != nil || len(reservations) != 1 || reservations[0].Spec.PodRef != "a/b" {
		t.Errorf("%+v, %v", reservations, err)
	}
	if slices, err := client.Slices(t.Context()); err != nil || len(slices) != 0 {
		t.Errorf("%+v, %v", slices, err)
	}
}

func TestClientWrites(t *testing.T) {
	client, bodies := server(
		t,
		answer{"POST " + base + "overlappingrangeipreservations", 201, `{"metadata":{"name":"10.0.0.5","uid":"u","resourceVersion":"7"},"spec":{"podref":"a/b"}}`},
		answer{"PUT " + base + "overlappingrangeipreservations/10.0.0.5", 200, `{"metadata":{"name":"10.0.0.5","uid":"u","resourceVersion":"8"}}`},
		answer{"DELETE " + base + "overlappingrangeipreservations/10.0.0.5", 200, `{"kind":"Status","apiVersion":"v1","status":"Success"}`},
	)
	owner := ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "x"}, PodNamespace: "a", PodName: "b"}
	made, err := client.Create(t.Context(), newReservation("10.0.0.5", owner))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = client.Update(t.Context(), made.claimedBy(owner)); err != nil {
		t.Fatal(err)
	}
	if err = client.Delete(t.Context(), "10.0.0.5", made.version()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"kind":"OverlappingRangeIPReservation","apiVersion":"whereabouts.cni.cncf.io/v1alpha1","metadata":{"name":"10.0.0.5","namespace":"kube-system","labels":{"app.kubernetes.io/managed-by":"meta-cni"}},"spec":{"containerid":"c","podref":"a/b","ifname":"net1"}}`,
		`{"kind":"OverlappingRangeIPReservation","apiVersion":"whereabouts.cni.cncf.io/v1alpha1","metadata":{"name":"10.0.0.5","namespace":"kube-system","uid":"u","resourceVersion":"7","labels":{"app.kubernetes.io/managed-by":"meta-cni"},"annotations":{"meta-cni.io/touch":"7"}},"spec":{"containerid":"c","podref":"a/b","ifname":"net1"}}`,
		`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u","resourceVersion":"7"}}`,
	}
	for i, body := range *bodies {
		var got, expected any
		if err := errors.Join(json.Unmarshal([]byte(body), &got), json.Unmarshal([]byte(want[i]), &expected)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(expected, got); diff != "" {
			t.Errorf("body %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestClientErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		code int
		body string
		want error
	}{
		{"no object", 404, status("NotFound", 404), ipam.ErrNotFound},
		{"it exists", 409, status("AlreadyExists", 409), ipam.ErrExists},
		{"it changed", 409, status("Conflict", 409), ipam.ErrStale},
		{"no such kind", 404, "404 page not found", nil},
		{"forbidden", 403, status("Forbidden", 403), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, _ := server(t, answer{"GET " + base + "overlappingrangeipreservations/10.0.0.5", test.code, test.body})
			_, err := client.Get(t.Context(), "10.0.0.5")
			if err == nil {
				t.Fatal("no error")
			}
			for _, kind := range []error{ipam.ErrNotFound, ipam.ErrExists, ipam.ErrStale} {
				if got := errors.Is(err, kind); got != errors.Is(test.want, kind) {
					t.Errorf("%v is %v: %v", err, kind, got)
				}
			}
		})
	}
}
