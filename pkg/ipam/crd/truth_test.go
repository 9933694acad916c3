package crd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// script is an API server that gives prepared answers, one a request, and the
// last one for ever.
type script struct {
	mu      sync.Mutex
	answers []answer
	seen    []string
}

type answer struct {
	code int
	body string
	// header such as "Retry-After: 0".
	header string
	// cut ends the connection in the middle of the answer.
	cut bool
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path+" "+string(body))
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		w.Header().Set(name, value)
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(a.code)
	if a.cut {
		_, _ = io.WriteString(w, a.body[:len(a.body)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, a.body)
}

// scripted is a store on a script, whose spaces are known.
func scripted(t *testing.T, answers ...answer) (*Store, *script) {
	t.Helper()
	s := &script{answers: answers}
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	store, err := New(&rest.Config{Host: server.URL, QPS: -1}, server.Client(), Options{Node: "n1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	store.grids["s"] = iprange.DefaultGrid()
	return store, s
}

func status(reason, more string) string {
	return `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"because","reason":"` + reason + `"` + more + `}`
}

const made = `{"apiVersion":"meta-cni.io/v1alpha1","kind":"IPClaim","metadata":{"name":"s.10.0.0.1","uid":"u","resourceVersion":"8"},"spec":{"space":"s","address":"10.0.0.1","state":"Cooling"}}`

func ref() ipam.ClaimRef { return ipam.ClaimRef{Space: "s", Addr: netip.MustParseAddr("10.0.0.1")} }

// TestTruth: a write is told as done, refused or unknown as it is; what is
// unknown is never tried again behind the caller's back.
func TestTruth(t *testing.T) {
	retry := "Retry-After: 0"
	busy := answer{code: 429, body: status("TooManyRequests", `,"code":429`), header: "Retry-After: 1"}
	for _, tc := range []struct {
		name    string
		answers []answer
		// want by verb; nil is success, errUnknown any error that tells nothing.
		create, update, remove error
		requests               int
	}{
		{"done", []answer{{code: 200, body: made}}, nil, nil, nil, 1},
		{"exists", []answer{{code: 409, body: status("AlreadyExists", "")}}, ipam.ErrExists, ipam.ErrExists, ipam.ErrExists, 1},
		{"conflict", []answer{{code: 409, body: status("Conflict", "")}}, errUnknown, ipam.ErrStale, ipam.ErrStale, 1},
		{"not found", []answer{{code: 404, body: status("NotFound", "")}}, errUnknown, ipam.ErrNotFound, ipam.ErrNotFound, 1},
		{"no such kind", []answer{{code: 404, body: "404 page not found", header: "Content-Type: text/plain"}}, errUnknown, errUnknown, errUnknown, 1},
		{"invalid", []answer{{code: 422, body: status("Invalid", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"forbidden", []answer{{code: 403, body: status("Forbidden", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"too late for the server", []answer{{code: 504, body: status("Timeout", `,"details":{"retryAfterSeconds":1}`), header: retry}, {code: 409, body: status("AlreadyExists", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"etcd's time-out, then a conflict", []answer{{code: 500, body: status("ServerTimeout", `,"details":{"retryAfterSeconds":1}`), header: retry}, {code: 409, body: status("Conflict", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"unavailable, then a conflict", []answer{{code: 503, body: status("ServiceUnavailable", ""), header: retry}, {code: 409, body: status("Conflict", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"cut off", []answer{{code: 200, body: made, cut: true}, {code: 409, body: status("Conflict", "")}}, errUnknown, errUnknown, errUnknown, 1},
		{"busy, then done", []answer{busy, {code: 200, body: made}}, nil, nil, nil, 2},
	} {
		for verb, want := range map[string]error{"create": tc.create, "update": tc.update, "delete": tc.remove} {
			t.Run(tc.name+"/"+verb, func(t *testing.T) {
				t.Parallel()
				store, script := scripted(t, tc.answers...)
				err := write(t.Context(), store, verb)
				if !tells(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
				if len(script.seen) != tc.requests {
					t.Errorf("%d requests, want %d: %q", len(script.seen), tc.requests, script.seen)
				}
			})
		}
	}
}

var errUnknown = errors.New("nobody knows")

func tells(err, want error) bool {
	if want == nil {
		return err == nil
	}
	for _, known := range []error{ipam.ErrExists, ipam.ErrNotFound, ipam.ErrStale} {
		if errors.Is(err, known) != errors.Is(want, known) {
			return false
		}
	}
	return err != nil
}

func write(ctx context.Context, s *Store, verb string) error {
	version := ipam.Version{UID: "u", Resource: "7"}
	var err error
	switch verb {
	case "create":
		_, err = s.CreateClaim(ctx, ipam.Claim{Ref: ref(), State: ipam.Cooling})
	case "update":
		_, err = s.UpdateClaim(ctx, ipam.Claim{Ref: ref(), State: ipam.Cooling, Version: version})
	default:
		err = s.DeleteClaim(ctx, ref(), version)
	}
	return err
}

// TestBusyEnds: an API server that stays too busy is not asked for ever.
func TestBusyEnds(t *testing.T) {
	store, script := scripted(t, answer{code: 429, body: status("TooManyRequests", `,"code":429`), header: "Retry-After: 1"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for {
			script.mu.Lock()
			n := len(script.seen)
			script.mu.Unlock()
			if n >= 2 || ctx.Err() != nil {
				return
			}
		}
	}()
	if err := write(ctx, store, "create"); !tells(err, errUnknown) {
		t.Errorf("error %v", err)
	}
}

// TestPreconditions: what a write says about the version that it is meant for.
func TestPreconditions(t *testing.T) {
	store, script := scripted(t, answer{code: 200, body: made})
	for _, verb := range []string{"update", "delete"} {
		if err := write(t.Context(), store, verb); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range [][]string{
		{`PUT /apis/meta-cni.io/v1alpha1/namespaces/meta-cni/ipclaims/s.10.0.0.1 `, `"uid":"u"`, `"resourceVersion":"7"`, `"touch":7`},
		{`DELETE /apis/meta-cni.io/v1alpha1/namespaces/meta-cni/ipclaims/s.10.0.0.1 `, `"preconditions":{"uid":"u","resourceVersion":"7"}`},
	} {
		for _, text := range want {
			if !strings.Contains(script.seen[i], text) {
				t.Errorf("%s\nlacks %s", script.seen[i], text)
			}
		}
	}
	// Without a version nothing is asked: the API server would not compare.
	for _, v := range []ipam.Version{{}, {UID: "u"}, {Resource: "7"}, {UID: "u", Resource: "0"}} {
		if err := store.DeleteClaim(t.Context(), ref(), v); !errors.Is(err, ipam.ErrStale) {
			t.Errorf("%+v: %v", v, err)
		}
		if _, err := store.UpdateClaim(t.Context(), ipam.Claim{Ref: ref(), Version: v}); !errors.Is(err, ipam.ErrStale) {
			t.Errorf("%+v: %v", v, err)
		}
	}
	if len(script.seen) != 2 {
		t.Errorf("%q", script.seen)
	}
}

// TestListOfAnotherTime: an API server whose etcd was restored counts from a
// lower version; the list is asked for anew without a bound.
func TestListOfAnotherTime(t *testing.T) {
	tooLarge := status("Timeout", `,"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1}`)
	store, script := scripted(t, answer{code: 504, body: tooLarge, header: "Retry-After: 0"}, answer{code: 504, body: tooLarge, header: "Retry-After: 0"},
		answer{code: 200, body: `{"items":[` + strings.Replace(made, `"spec":{`, `"spec":{"node":{"name":"n1"},`, 1) + `]}`})
	store.seen.note("ipclaims", "99")
	claims, err := store.NodeClaims(t.Context(), "n1")
	if err != nil || len(claims) != 1 {
		t.Errorf("%v, %v: %q", claims, err, script.seen)
	}
}

// TestExpiredPages: a list whose state was thrown away between two pages
// begins anew, without what it had.
func TestExpiredPages(t *testing.T) {
	one := `{"metadata":{"continue":"next"},"items":[` + made + `]}`
	store, script := scripted(t, answer{code: 200, body: one}, answer{code: 410, body: status("Expired", `,"code":410`)}, answer{code: 200, body: `{"items":[` + made + `]}`})
	all, err := iprange.ParseSet("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := store.SpaceClaims(t.Context(), "s", all)
	if err != nil || len(claims) != 1 {
		t.Errorf("%d claims, %v: %q", len(claims), err, script.seen)
	}
}
