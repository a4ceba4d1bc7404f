package sync

import (
	"context"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/cosentry/cosentry/verify/limits"
)

// The rate of requests to the API server. All but the first minute has next to none.
const (
	requestsPerSecond = 20
	requestsAtOnce    = 50
)

// API is how the API server is asked. The two packages of client-go are those that do not bring its types and its
// discovery along: every cosentry process would have them in memory.
type API struct {
	Objects  dynamic.Interface
	Metadata metadata.Interface
}

// NewAPI makes clients. Answers beyond their bound are errors.
func NewAPI(c *rest.Config, userAgent string) (API, error) {
	c = rest.CopyConfig(c)
	c.UserAgent, c.QPS, c.Burst = userAgent, requestsPerSecond, requestsAtOnce
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	objects, err := dynamic.NewForConfig(c)
	if err != nil {
		return API{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	meta, err := metadata.NewForConfig(c)
	if err != nil {
		return API{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	return API{objects, meta}, nil
}

// bounded ends answers that are too large. Those of a watch have no end, and their client bounds each event.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil || resp.Body == nil || r.URL.Query().Get("watch") == "true" {
		return resp, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{limits.APIAnswer.Reader(resp.Body), resp.Body}
	return resp, nil
}

// calls are one way to list and watch something.
type calls struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// only says which objects are meant, should the API server give others; nil: all.
	only func(namespace, name string) bool
}

// wanted is what is listed: all objects of a resource, or those of one name, in one namespace or in all.
type wanted struct {
	versions        []schema.GroupVersionResource // the first that there is
	namespace, name string
}

func allOf(group, resource string, versions ...string) wanted {
	var w wanted
	for _, v := range versions {
		w.versions = append(w.versions, schema.GroupVersionResource{Group: group, Version: v, Resource: resource})
	}
	return w
}

// of asks for whole objects. They are always asked for as they are now, and not as some API server's cache remembers
// them: after a restart of sync a policy that has just been applied would be gone for a while.
func (a API) of(w wanted) (ways []calls) {
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		if w.name != "" {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", w.name).String()
		}
		return o
	}
	for _, v := range w.versions {
		r := a.Objects.Resource(v).Namespace(w.namespace)
		ways = append(ways, calls{
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o = narrow(o)
				o.ResourceVersion, o.ResourceVersionMatch = "", ""
				return r.List(ctx, o)
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return r.Watch(ctx, narrow(o))
			},
			only: func(namespace, name string) bool {
				return (w.namespace == "" || namespace == w.namespace) && (w.name == "" || name == w.name)
			},
		})
	}
	return ways
}

// namesOf asks for names and labels alone.
func (a API) namesOf(v schema.GroupVersionResource) []calls {
	r := a.Metadata.Resource(v)
	return []calls{{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) },
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return r.Watch(ctx, o)
		},
	}}
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// defined says why the definition of a resource is not one whose objects were deleted by themselves; nil: it is.
func (a API) defined(ctx context.Context, resource string) error {
	d, err := a.Metadata.Resource(definitions).Get(ctx, resource+"."+group, metav1.GetOptions{})
	switch {
	case err != nil:
		return fmt.Errorf("looking at the definition of %s: %w", resource, err)
	case d.DeletionTimestamp != nil:
		return fmt.Errorf("the definition of %s is being deleted", resource)
	}
	return nil
}
