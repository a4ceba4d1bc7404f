package sync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	gosync "sync"
	"testing"
)

// apiServer answers lists, watches and looks at definitions as the API server does, over HTTP. Real ones are asked by the
// tests of integration/cluster.
type apiServer struct {
	*httptest.Server
	t *testing.T

	mu       gosync.Mutex
	version  int
	objects  map[string]map[string]any // by collection and namespace/name
	events   []event
	more     chan struct{}  // closed at every event
	answers  map[string]int // status codes for a collection, in place of an answer
	padding  map[string]int // spaces before a list
	careless bool           // field selectors are not heeded
	asked    []string
}

type event struct {
	version          int
	collection, kind string
	object           map[string]any
}

const (
	policyPath    = "/apis/policy.sigstore.dev/v1beta1/clusterimagepolicies"
	oldPolicyPath = "/apis/policy.sigstore.dev/v1alpha1/clusterimagepolicies"
	rootPath      = "/apis/policy.sigstore.dev/v1alpha1/trustroots"
	namespacePath = "/api/v1/namespaces"
	secretPath    = "/api/v1/secrets"
	configMapPath = "/api/v1/configmaps"
	definitionAt  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
)

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{t: t, version: 1, objects: map[string]map[string]any{}, more: make(chan struct{}), answers: map[string]int{}, padding: map[string]int{}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(func() { a.CloseClientConnections(); a.Close() })
	for _, name := range []string{"clusterimagepolicies", "trustroots"} {
		a.put(definitionAt, "CustomResourceDefinition", map[string]any{"metadata": map[string]any{"name": name + "." + group}})
	}
	return a
}

func key(o map[string]any) string {
	m := o["metadata"].(map[string]any)
	namespace, _ := m["namespace"].(string)
	return namespace + "/" + m["name"].(string)
}

// put applies an object.
func (a *apiServer) put(collection, kind string, o map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o["kind"] = kind
	o["apiVersion"] = strings.TrimPrefix(strings.TrimPrefix(path.Dir(collection), "/apis/"), "/api/")
	if a.objects[collection] == nil {
		a.objects[collection] = map[string]any{}
	}
	what := "ADDED"
	if a.objects[collection][key(o)] != nil {
		what = "MODIFIED"
	}
	a.happened(collection, what, o)
	a.objects[collection][key(o)] = o
}

func (a *apiServer) remove(collection, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[collection][namespace+"/"+name].(map[string]any)
	delete(a.objects[collection], namespace+"/"+name)
	a.happened(collection, "DELETED", o)
}

func (a *apiServer) happened(collection, what string, o map[string]any) {
	a.version++
	o["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(a.version)
	copied, err := json.Marshal(o)
	if err != nil {
		a.t.Fatal(err)
	}
	var kept map[string]any
	if err := json.Unmarshal(copied, &kept); err != nil {
		a.t.Fatal(err)
	}
	a.events = append(a.events, event{a.version, collection, what, kept})
	close(a.more)
	a.more = make(chan struct{})
}

// bookmark tells the watches of collections that nothing changed.
func (a *apiServer) bookmark(collections ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range collections {
		a.happened(c, "BOOKMARK", map[string]any{"kind": "Bookmark", "apiVersion": "v1", "metadata": map[string]any{}})
	}
}

// answer has lists and new watches of a collection end in a status code; 0: not any more. Watches that are open end.
func (a *apiServer) answer(code int, collections ...string) {
	a.mu.Lock()
	for _, c := range collections {
		a.answers[c] = code
	}
	a.mu.Unlock()
	a.CloseClientConnections()
}

func (a *apiServer) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	collection, namespace := r.URL.Path, ""
	if parts := strings.Split(collection, "/"); len(parts) == 6 && parts[1] == "api" {
		collection, namespace = path.Join("/api/v1", parts[5]), parts[4]
	}
	name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	a.mu.Lock()
	a.asked = append(a.asked, r.Method+" "+r.URL.String())
	code, careless := a.answers[collection], a.careless
	a.mu.Unlock()
	selected := func(o map[string]any) bool {
		k := strings.SplitN(key(o), "/", 2)
		return careless || (namespace == "" || k[0] == namespace) && (name == "" || k[1] == name)
	}
	switch {
	case code != 0:
		a.fail(w, code)
	case path.Dir(collection) == definitionAt:
		a.mu.Lock()
		defer a.mu.Unlock()
		o := a.objects[definitionAt]["/"+path.Base(collection)]
		if o == nil {
			a.fail(w, http.StatusNotFound)
			return
		}
		a.write(w, o)
	case r.URL.Query().Get("watch") != "":
		a.watch(w, r, collection, selected)
	default:
		a.list(w, collection, selected)
	}
}

func (a *apiServer) fail(w http.ResponseWriter, code int) {
	reasons := map[int]string{404: "NotFound", 403: "Forbidden", 500: "InternalError"}
	w.WriteHeader(code)
	a.write(w, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reasons[code], "message": fmt.Sprint(code)})
}

func (a *apiServer) write(w http.ResponseWriter, o any) {
	data, err := json.Marshal(o)
	if err != nil {
		a.t.Error(err)
	}
	_, _ = w.Write(append(data, '\n'))
}

func (a *apiServer) list(w http.ResponseWriter, collection string, selected func(map[string]any) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = w.Write(bytes.Repeat([]byte(" "), a.padding[collection]))
	items := []any{}
	for _, o := range a.objects[collection] {
		if selected(o.(map[string]any)) {
			items = append(items, o)
		}
	}
	a.write(w, map[string]any{
		"kind": "List", "apiVersion": "v1", "items": items,
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(a.version)},
	})
}

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, collection string, selected func(map[string]any) bool) {
	since, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		a.t.Errorf("a watch from %q", r.URL.Query().Get("resourceVersion"))
	}
	w.WriteHeader(http.StatusOK)
	for {
		w.(http.Flusher).Flush()
		a.mu.Lock()
		more := a.more
		for _, e := range a.events {
			if e.version > since && e.collection == collection && (e.kind == "BOOKMARK" || selected(e.object)) {
				a.write(w, map[string]any{"type": e.kind, "object": e.object})
			}
		}
		since = a.version
		a.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}
