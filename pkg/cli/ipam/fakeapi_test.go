package ipam

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// fakePage is how many objects a page has at most, so that every list of a
// test has several.
const fakePage = 2

// fakeAPI is an API server that has what a YAML file says, and no rules: those
// are tested on a real one.
type fakeAPI struct {
	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured // by path
	serial  int
	// missing kinds are not served, forbidden ones are refused.
	missing, forbidden string
	// expired says that the state of a list's first page is forgotten, once.
	expired bool
	// before is called with each request.
	before func(method, path string)
}

// plurals of kinds, where adding an s doesn't do.
func plural(kind string) string {
	switch kind {
	case "NetworkAttachmentDefinition":
		return "network-attachment-definitions"
	}
	return strings.ToLower(kind) + "s"
}

func pathOf(o *unstructured.Unstructured) string {
	path := "/apis/" + o.GetAPIVersion()
	if o.GetAPIVersion() == "v1" {
		path = "/api/v1"
	}
	if o.GetNamespace() != "" {
		path += "/namespaces/" + o.GetNamespace()
	}
	return path + "/" + plural(o.GetKind()) + "/" + o.GetName()
}

// newFakeAPI serves the objects of a YAML file until the test ends, and gives
// the path of a kubeconfig.
func newFakeAPI(t *testing.T, objects []byte) (*fakeAPI, string) {
	t.Helper()
	api := &fakeAPI{objects: map[string]*unstructured.Unstructured{}}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(objects)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		o := &unstructured.Unstructured{}
		if err == nil {
			err = yaml.Unmarshal(document, &o.Object)
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.GetKind() != "" {
			api.put(o)
		}
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "%s"}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return api, path
}

// put gives an object a UID, unless it has one, and a version.
func (f *fakeAPI) put(o *unstructured.Unstructured) {
	f.serial++
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprint("uid-", f.serial)))
	}
	o.SetResourceVersion(strconv.Itoa(f.serial))
	f.objects[pathOf(o)] = o
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.before != nil {
		f.before(r.Method, r.URL.Path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.missing != "" && strings.Contains(r.URL.Path, f.missing):
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	case f.forbidden != "" && strings.HasSuffix(r.URL.Path, f.forbidden):
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden, `User "ann" cannot list resource "`+f.forbidden+`"`)
		return
	}
	o, exists := f.objects[r.URL.Path]
	switch r.Method {
	case http.MethodPost:
		f.create(w, r)
	case http.MethodGet:
		if exists {
			answer(w, o)
			return
		}
		f.list(w, r)
	case http.MethodDelete:
		f.remove(w, r, o)
	default:
		fail(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r.Method)
	}
}

func (f *fakeAPI) create(w http.ResponseWriter, r *http.Request) {
	o := &unstructured.Unstructured{}
	if err := json.NewDecoder(r.Body).Decode(&o.Object); err != nil {
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	if _, rest, ok := strings.Cut(r.URL.Path, "/namespaces/"); ok {
		namespace, _, _ := strings.Cut(rest, "/")
		o.SetNamespace(namespace)
	}
	if f.objects[pathOf(o)] != nil {
		fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, o.GetName())
		return
	}
	f.put(o)
	answer(w, o)
}

func (f *fakeAPI) remove(w http.ResponseWriter, r *http.Request, o *unstructured.Unstructured) {
	var options metav1.DeleteOptions
	err := json.NewDecoder(r.Body).Decode(&options)
	switch p := options.Preconditions; {
	case err != nil:
		fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	case o == nil:
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
	case p == nil || *p.UID != o.GetUID() || *p.ResourceVersion != o.GetResourceVersion():
		fail(w, http.StatusConflict, metav1.StatusReasonConflict, "preconditions")
	default:
		delete(f.objects, r.URL.Path)
		answer(w, o)
	}
}

// list gives a page of a kind, or says that there is no such object.
func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	last := parts[len(parts)-1]
	if !slices.ContainsFunc([]string{"nodes", "pods", "statefulsets", "network-attachment-definitions", "ippools", "addressspaces", "ipblocks", "ipclaims", "nodeipams", "overlappingrangeipreservations", "nodeslicepools"}, func(p string) bool { return p == last }) {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, last+" not found")
		return
	}
	prefix, namespaced := r.URL.Path, strings.Contains(r.URL.Path, "/namespaces/")
	if !namespaced {
		prefix = strings.TrimSuffix(r.URL.Path, "/"+last)
	}
	var paths []string
	for path, o := range f.objects {
		inside := strings.HasPrefix(path, prefix+"/") && strings.Contains(path, "/"+last+"/")
		key, value, wanted := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
		if inside && (!wanted || o.GetLabels()[key] == value) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	after, fresh := strings.CutPrefix(r.URL.Query().Get("continue"), "fresh:")
	if after != "" && f.expired && !fresh {
		f.expired = false
		expire(w, "fresh:"+after)
		return
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return p <= after })
	page := unstructured.UnstructuredList{Object: map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": strconv.Itoa(f.serial)}}}
	if len(paths) > fakePage && r.URL.Query().Get("limit") != "" {
		paths = paths[:fakePage]
		page.SetContinue(paths[fakePage-1])
	}
	items := []any{}
	for _, path := range paths {
		items = append(items, f.objects[path].Object)
	}
	page.Object["items"] = items
	answer(w, page.Object)
}

// expire is what an API server says whose history was compacted.
func expire(w http.ResponseWriter, next string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusGone)
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, ListMeta: metav1.ListMeta{Continue: next},
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Message: "too old", Code: http.StatusGone,
	}
	if err := json.NewEncoder(w).Encode(status); err != nil {
		panic(err)
	}
}

func answer(w http.ResponseWriter, value any) {
	if o, ok := value.(*unstructured.Unstructured); ok {
		value = o.Object
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		panic(err)
	}
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	status := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Message: message, Code: int32(code)}
	if err := json.NewEncoder(w).Encode(status); err != nil {
		panic(err)
	}
}
