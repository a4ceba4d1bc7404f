package harness

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Intercept sees every request of a registry before it is answered, and
// answers itself or calls next. Hostile registries are made of it.
type Intercept func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Registry is an OCI registry in process, over plain http on loopback.
type Registry struct {
	// Addr is host:port, the first part of its images' names.
	Addr string
	// Username and Password, if set, are asked for with HTTP basic authentication.
	Username, Password string

	store  http.Handler
	server *http.Server

	mu        sync.Mutex
	intercept Intercept
	requests  []string
}

// NewRegistry makes a registry that is not started yet. Referrers says whether
// it has the OCI 1.1 referrers API; without it clients use the fallback tag.
func NewRegistry(addr string, referrers bool) *Registry {
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	return &Registry{Addr: addr, store: registry.New(registry.WithReferrersSupport(referrers), quiet)}
}

// Start listens. A registry that was stopped comes back with its content.
func (r *Registry) Start() error {
	listener, err := net.Listen("tcp", r.Addr)
	if err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	server := r.server
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("registry %s: %v", r.Addr, err)
		}
	}()
	return nil
}

// Stop closes the listener and every connection.
func (r *Registry) Stop() { _ = r.server.Close() }

// SetIntercept puts i before all further requests; nil removes it.
func (r *Registry) SetIntercept(i Intercept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = i
}

// Requests returns what was asked since the last call, as "METHOD /path?query".
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := r.requests
	r.requests = nil
	return requests
}

// ServeHTTP implements [http.Handler].
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.RequestURI())
	intercept := r.intercept
	r.mu.Unlock()
	if !r.authorized(req) {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return
	}
	if intercept != nil {
		intercept(w, req, r.store)
		return
	}
	r.store.ServeHTTP(w, req)
}

func (r *Registry) authorized(req *http.Request) bool {
	if r.Username == "" {
		return true
	}
	user, password, _ := req.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(r.Username+":"+r.Password)) == 1
}

// Manifest returns the bytes and media type stored for a digest or tag of repo.
func (r *Registry) Manifest(repo, reference string) (data []byte, mediaType string, err error) {
	w := httptest.NewRecorder()
	r.store.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/"+repo+"/manifests/"+reference, nil))
	if w.Code != http.StatusOK {
		return nil, "", fmt.Errorf("reading %s:%s from the registry: %d %s", repo, reference, w.Code, w.Body)
	}
	return w.Body.Bytes(), w.Header().Get("Content-Type"), nil
}

// Retag lets tag name the manifest with that digest, as whoever can write to
// the repository may do at any moment. It is no request of a client's.
func (r *Registry) Retag(repo, tag string, digest v1.Hash) error {
	data, mediaType, err := r.Manifest(repo, digest.String())
	if err != nil {
		return err
	}
	return r.put(repo, tag, mediaType, data)
}

// Copy gives repository to everything that repository from holds about the image with that digest: it and its tags, and
// what is signed and attested about it, in every form. It is no request of a client's.
func (r *Registry) Copy(from, to, digest string) error {
	manifests := map[string]string{digest: digest} // what it is put under, to what it is read by
	var tags struct{ Tags []string }
	if err := r.stored("/v2/"+from+"/tags/list", &tags); err != nil {
		return err
	}
	for _, tag := range tags.Tags {
		manifests[tag] = tag
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := r.stored("/v2/"+from+"/referrers/"+digest, &index); err != nil {
		return err
	}
	for _, m := range index.Manifests {
		manifests[m.Digest] = m.Digest
	}
	for name := range manifests {
		data, mediaType, err := r.Manifest(from, name)
		if err != nil {
			return err
		}
		if err := r.put(to, name, mediaType, data); err != nil {
			return err
		}
	}
	return nil
}

// stored reads a JSON answer of the registry's.
func (r *Registry) stored(path string, into any) error {
	w := httptest.NewRecorder()
	r.store.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		return fmt.Errorf("reading %s from the registry: %d %s", path, w.Code, w.Body)
	}
	return json.Unmarshal(w.Body.Bytes(), into)
}

func (r *Registry) put(repo, reference, mediaType string, data []byte) error {
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repo+"/manifests/"+reference, bytes.NewReader(data))
	req.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	if r.store.ServeHTTP(w, req); w.Code != http.StatusCreated {
		return fmt.Errorf("writing %s:%s: %d %s", repo, reference, w.Code, w.Body)
	}
	return nil
}

// Replace puts other bytes in the place of the manifest that a tag names, as whoever can write to the repository may do.
func (r *Registry) Replace(repo, tag string, change func([]byte) ([]byte, error)) error {
	data, mediaType, err := r.Manifest(repo, tag)
	if err != nil {
		return err
	}
	if data, err = change(data); err != nil {
		return fmt.Errorf("changing %s:%s: %w", repo, tag, err)
	}
	return r.put(repo, tag, mediaType, data)
}

// Ref parses path:tag or path@digest as an image of this registry.
func (r *Registry) Ref(path string) (name.Reference, error) {
	return name.ParseReference(r.Addr+"/"+path, name.Insecure)
}
