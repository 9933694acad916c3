package kube

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// object is one API object as JSON has it.
type object = map[string]any

// apiServer is a small API server over real HTTP: lists, watches (streamed
// lists too), reads, merge patches and creations of pods, network definitions
// and events, and the failures that the tests inject.
type apiServer struct {
	t    *testing.T
	http *httptest.Server
	addr string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	version  int
	objects  map[string]object // by resource/namespace/name
	history  []change
	requests []string
	bodies   []string
	down     bool           // about to stop: every request ends at once
	frozen   bool           // watches send nothing
	conflict bool           // another UID is a conflict, not invalid
	old      bool           // no streamed lists
	cut      int            // generation of watches; a raise ends all older
	oldest   int            // watches from before are 410 Gone
	refuse   map[string]int // resource → status of each request
}

type change struct {
	version  int
	kind     string
	resource string
	object   object
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{t: t, changed: make(chan struct{}), objects: map[string]object{}, refuse: map[string]int{}, version: 1}
	s.start("127.0.0.1:0")
	t.Cleanup(s.stop)
	return s
}

func (s *apiServer) start(addr string) {
	var listener net.Listener
	var err error
	for deadline := time.Now().Add(10 * time.Second); ; {
		if listener, err = net.Listen("tcp", addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
	s.addr = listener.Addr().String()
	s.http = httptest.NewUnstartedServer(s)
	_ = s.http.Listener.Close()
	s.http.Listener = listener
	s.http.Start()
}

// stop refuses connections from now on; restart brings it back at its address.
func (s *apiServer) stop() {
	// Close waits for requests, so none may begin to wait meanwhile.
	s.update(func() { s.down = true })
	s.http.CloseClientConnections()
	s.http.Close()
}

func (s *apiServer) restart() {
	s.update(func() { s.down = false })
	s.start(s.addr)
}

func (s *apiServer) url() string { return "http://" + s.addr }

func (s *apiServer) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func key(resource, namespace, name string) string { return resource + "/" + namespace + "/" + name }

func (s *apiServer) put(resource string, o object) {
	s.update(func() {
		meta := o["metadata"].(object)
		k := key(resource, meta["namespace"].(string), meta["name"].(string))
		kind := "ADDED"
		if _, exists := s.objects[k]; exists {
			kind = "MODIFIED"
		}
		s.version++
		meta["resourceVersion"] = strconv.Itoa(s.version)
		s.objects[k] = o
		s.history = append(s.history, change{s.version, kind, resource, o})
	})
}

func (s *apiServer) remove(resource, namespace, name string) {
	s.update(func() {
		k := key(resource, namespace, name)
		o := maps.Clone(s.objects[k])
		delete(s.objects, k)
		s.version++
		s.history = append(s.history, change{s.version, "DELETED", resource, o})
	})
}

func (s *apiServer) count(substring string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if strings.Contains(r, substring) {
			n++
		}
	}
	return n
}

func (s *apiServer) lastBody() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bodies[len(s.bodies)-1]
}

// ServeHTTP understands /api/v1 and /apis/k8s.cni.cncf.io/v1 paths.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/k8s.cni.cncf.io/v1/"), "/api/v1/")
	parts := strings.Split(path, "/")
	namespace, name, subresource := "", "", ""
	if parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource := parts[0]
	if len(parts) > 1 {
		name = parts[1]
	}
	if len(parts) > 2 {
		subresource = parts[2]
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.String())
	s.bodies = append(s.bodies, string(body))
	refuse := s.refuse[resource]
	s.mu.Unlock()
	if resource == "pods" && !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		s.t.Errorf("%s %s asks for whole pods", r.Method, r.URL)
	}
	switch {
	case refuse == http.StatusNotFound:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "404 page not found\n")
	case refuse == http.StatusRequestTimeout:
		s.hang(r)
	case refuse != 0:
		status(w, refuse, "refused by the test")
	case r.Method == http.MethodPost:
		reply(w, http.StatusCreated, json.RawMessage(body))
	case r.Method == http.MethodPatch && subresource == "status":
		s.patch(w, key(resource, namespace, name), body)
	case r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1":
		s.watch(w, r, resource)
	case name != "":
		s.get(w, resource, key(resource, namespace, name))
	default:
		s.list(w, r, resource)
	}
}

// hang answers when the client has given up or the server stops.
func (s *apiServer) hang(r *http.Request) {
	for {
		s.mu.Lock()
		changed, down := s.changed, s.down
		s.mu.Unlock()
		if down {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func status(w http.ResponseWriter, code int, message string) {
	reasons := map[int]string{403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError"}
	reply(w, code, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reasons[code], "message": message})
}

func (s *apiServer) get(w http.ResponseWriter, resource, k string) {
	s.mu.Lock()
	o, ok := s.objects[k]
	s.mu.Unlock()
	if !ok {
		status(w, http.StatusNotFound, k+" not found")
		return
	}
	reply(w, http.StatusOK, shape(resource, o))
}

// shape is the object as the client asked for it.
func shape(resource string, o object) object {
	if resource == "pods" {
		return object{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
	}
	return o
}

func (s *apiServer) patch(w http.ResponseWriter, k string, body []byte) {
	var patch struct {
		Metadata struct {
			UID         string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(body, &patch); err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	o, ok := s.objects[k]
	s.mu.Unlock()
	switch {
	case !ok:
		status(w, http.StatusNotFound, k)
	case o["metadata"].(object)["uid"] != patch.Metadata.UID && s.conflict:
		status(w, http.StatusConflict, "Precondition failed: UID")
	case o["metadata"].(object)["uid"] != patch.Metadata.UID:
		reply(w, http.StatusUnprocessableEntity, object{
			"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid",
			"message": "metadata.uid: field is immutable",
			"details": object{"causes": []object{{"reason": "FieldValueInvalid", "field": "metadata.uid"}}},
		})
	default:
		meta := maps.Clone(o["metadata"].(object))
		annotations := maps.Clone(meta["annotations"].(object))
		for key, value := range patch.Metadata.Annotations {
			annotations[key] = value
		}
		meta["annotations"] = annotations
		changed := maps.Clone(o)
		changed["metadata"] = meta
		resource, _, _ := strings.Cut(k, "/")
		s.put(resource, changed)
		reply(w, http.StatusOK, shape(resource, changed))
	}
}

// selected are the objects of a resource that the field selector lets through.
func selected(r *http.Request, o object) bool {
	_, node, ok := strings.Cut(r.URL.Query().Get("fieldSelector"), "spec.nodeName=")
	if !ok {
		return true
	}
	spec, _ := o["spec"].(object)
	return spec["nodeName"] == node
}

func (s *apiServer) snapshot(r *http.Request, resource string) ([]object, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []object{}
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(k, resource+"/") && selected(r, s.objects[k]) {
			items = append(items, shape(resource, s.objects[k]))
		}
	}
	return items, s.version
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, resource string) {
	items, version := s.snapshot(r, resource)
	list := object{"kind": "NetworkAttachmentDefinitionList", "apiVersion": "k8s.cni.cncf.io/v1"}
	if resource == "pods" {
		list = object{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
	}
	list["metadata"] = object{"resourceVersion": strconv.Itoa(version)}
	list["items"] = items
	reply(w, http.StatusOK, list)
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string) {
	q := r.URL.Query()
	s.mu.Lock()
	generation, old, oldest := s.cut, s.old, s.oldest
	s.mu.Unlock()
	streamed := q.Get("sendInitialEvents") == "true"
	if streamed && old {
		status(w, http.StatusUnprocessableEntity, "sendInitialEvents is forbidden")
		return
	}
	since, _ := strconv.Atoi(q.Get("resourceVersion"))
	if !streamed && since < oldest {
		status(w, http.StatusGone, "too old resource version")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	send := func(kind string, o object) { _ = json.NewEncoder(w).Encode(object{"type": kind, "object": o}) }
	if streamed {
		items, version := s.snapshot(r, resource)
		for _, o := range items {
			send("ADDED", o)
		}
		send("BOOKMARK", bookmark(resource, version))
		since = version
	}
	s.follow(w, r, resource, since, generation, send)
}

func bookmark(resource string, version int) object {
	o := object{"kind": "NetworkAttachmentDefinition", "apiVersion": "k8s.cni.cncf.io/v1"}
	o["metadata"] = object{"resourceVersion": strconv.Itoa(version), "annotations": object{"k8s.io/initial-events-end": "true"}}
	return shape(resource, o)
}

func (s *apiServer) follow(w http.ResponseWriter, r *http.Request, resource string, since, generation int, send func(string, object)) {
	for {
		w.(http.Flusher).Flush()
		s.mu.Lock()
		changed, cut, down, news := s.changed, s.cut, s.down, []change{}
		for _, c := range s.history {
			if c.version > since && c.resource == resource && !s.frozen && selected(r, c.object) {
				news = append(news, c)
			}
		}
		s.mu.Unlock()
		if cut != generation || down {
			return
		}
		for _, c := range news {
			send(c.kind, shape(resource, c.object))
			since = c.version
		}
		if len(news) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func podObject(name, uid string, annotations object) object {
	if annotations == nil {
		annotations = object{}
	}
	return object{
		"kind": "Pod", "apiVersion": "v1",
		"metadata": object{"namespace": "ns", "name": name, "uid": uid, "annotations": annotations},
		"spec":     object{"nodeName": "n1"},
	}
}

func networkObject(name, config string) object {
	return object{
		"kind": "NetworkAttachmentDefinition", "apiVersion": "k8s.cni.cncf.io/v1",
		"metadata": object{
			"namespace": "ns", "name": name, "uid": "uid-" + name,
			"annotations": object{
				"k8s.v1.cni.cncf.io/resourceName":                  "example.com/nic",
				"kubectl.kubernetes.io/last-applied-configuration": "long",
			},
			"managedFields": []object{{"manager": "kubectl"}},
		},
		"spec": object{"config": config},
	}
}

// discard is a logger for tests that don't look at the log.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// refuseAll makes each request for the resource end in the status (0: serve).
func (s *apiServer) refuseAll(resource string, code int) {
	s.update(func() { s.refuse[resource] = code })
}
