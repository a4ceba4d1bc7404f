package canary

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// repositoryName is what all canaries' repositories begin with.
const repositoryName = "cosentry-canary"

// registry has one image and is read-only: whoever is on the node can ask it, and nobody can put a signature there. It
// speaks as much of the OCI distribution specification as pulling and looking for signatures takes.
type registry struct {
	image  *image
	addr   string
	server *http.Server
	done   chan struct{}
	once   sync.Once
	// layerRead is set once somebody has asked for the layer.
	layerRead atomic.Bool
}

// serve starts a registry on a free port of 127.0.0.1, where runtimes speak plain http without being told to.
func serve(i *image) (*registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registry{image: i, addr: l.Addr().String(), done: make(chan struct{})}
	r.server = &http.Server{
		Handler:           r,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l) // ends when it is closed
	}()
	return r, nil
}

// close ends it at once, whoever is reading.
func (r *registry) close() {
	r.once.Do(func() { _ = r.server.Close() })
	<-r.done
}

func (r *registry) path() string       { return repositoryName + "/" + r.image.name }
func (r *registry) repository() string { return r.addr + "/" + r.path() }

// ref names the image by its digest: what is resolved by whom is not what a canary is about.
func (r *registry) ref() string { return r.repository() + "@" + r.image.digest }

// ServeHTTP answers what is read of a registry. There are no signatures, and a referrers API that says so.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.Error(w, "this registry is read-only", http.StatusMethodNotAllowed)
		return
	}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, req)
		return
	}
	what, ref, _ := strings.Cut(strings.TrimPrefix(rest, r.path()+"/"), "/")
	switch {
	case rest == "":
		fmt.Fprint(w, "{}")
	case !strings.HasPrefix(rest, r.path()+"/"):
		notFound(w, "NAME_UNKNOWN")
	case what == "manifests" && ref == r.image.digest:
		w.Header().Set("Docker-Content-Digest", r.image.digest)
		content(w, req, "application/vnd.oci.image.manifest.v1+json", r.image.manifest)
	case what == "blobs" && r.image.blobs[ref] != nil:
		if ref == r.image.layer && req.Method == http.MethodGet {
			r.layerRead.Store(true)
		}
		w.Header().Set("Docker-Content-Digest", ref)
		content(w, req, "application/octet-stream", r.image.blobs[ref])
	case what == "referrers":
		content(w, req, "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	default:
		notFound(w, "MANIFEST_UNKNOWN")
	}
}

func content(w http.ResponseWriter, req *http.Request, mediaType string, data []byte) {
	w.Header().Set("Content-Type", mediaType)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
}

func notFound(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"there is one image here, and nobody has signed it"}]}`, code)
}
