package criproxy

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The two services that exist on the socket. The runtime's own socket may carry
// others (containerd serves its whole API beside the CRI): none is reachable
// from here, or one could create containers past the gate.
const (
	runtimeService = "runtime.v1.RuntimeService"
	imageService   = "runtime.v1.ImageService"
)

// kind says what the proxy does with a method.
type kind int

const (
	unary kind = iota + 1
	serverStream
	gated
	// refused methods are answered as by a runtime that is older than they are.
	refused
)

// method is one that the proxy knows, or was told to forward unknown.
type method struct {
	full  string // as on the wire: /service/method
	kind  kind
	label string // the name to count it under; never the client's own text
}

// methodTable holds the methods of the vendored cri-api by their exact name on
// the wire. It is read from the descriptors, so that an update of cri-api is all
// it takes to forward a new method, and none can be forgotten.
type methodTable struct {
	known          map[string]method
	forwardUnknown bool
}

// gatedMethods names the methods that need a Gate's word. They are compared
// without regard to case or service where unknown methods are forwarded: no
// spelling of these may reach the runtime unjudged.
var gatedMethods = map[string]bool{"pullimage": true, "createcontainer": true, sandboxMethod: true}

// sandboxMethod is gated where that is asked for, and forwarded as it is elsewhere. No other spelling of it is.
const sandboxMethod = "runpodsandbox"

// refusedMethods create containers without CreateContainer being called.
// RestorePod starts processes from an archive or an image that nobody signed
// for, so that forwarding it would be a way around the gate.
var refusedMethods = map[string]bool{"restorepod": true}

func newMethodTable(forwardUnknown, gateSandboxes bool) (*methodTable, error) {
	t := &methodTable{known: map[string]method{}, forwardUnknown: forwardUnknown}
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		sd := services.Get(i)
		name := string(sd.FullName())
		if name != runtimeService && name != imageService {
			return nil, fmt.Errorf("cri-api has a service %s that this proxy was not made for", name)
		}
		for j := range sd.Methods().Len() {
			md := sd.Methods().Get(j)
			if md.IsStreamingClient() {
				return nil, fmt.Errorf("cri-api method %s streams from the client, which this proxy cannot forward", md.FullName())
			}
			m := method{full: "/" + name + "/" + string(md.Name()), kind: unary}
			m.label = m.full
			lower := strings.ToLower(string(md.Name()))
			switch {
			case refusedMethods[lower]:
				m.kind = refused
			case lower == sandboxMethod && !gateSandboxes:
			case gatedMethods[lower]:
				m.kind = gated
			case md.IsStreamingServer():
				m.kind = serverStream
			}
			t.known[m.full] = m
		}
	}
	return t, nil
}

// lookup finds a method by the name on the wire. The error is a gRPC status, in
// the words of a server that does not have the method.
//
// Only exact names are found: a doubled slash, another case, a trailing slash or
// the v1alpha2 package is a different method, whatever a runtime's router
// might make of it.
func (t *methodTable) lookup(full string) (method, error) {
	m, ok := t.known[full]
	if ok && m.kind != refused {
		return m, nil
	}
	service, name := split(full)
	if service != runtimeService && service != imageService {
		return method{}, status.Errorf(codes.Unimplemented, "unknown service %.256s", service)
	}
	if !t.forwardUnknown || !forwardable(name) {
		return method{}, status.Errorf(codes.Unimplemented, "unknown method %.256s for service %s", name, service)
	}
	// Whether an unknown method streams cannot be known. One request and any
	// number of responses covers every form that the CRI has ever had.
	return method{full: full, kind: serverStream, label: "/" + service + "/unknown"}, nil
}

// forwardable says whether an unknown method of a known service may go to the
// runtime where the owner of the node asked for that.
func forwardable(name string) bool {
	lower := strings.ToLower(name)
	if name == "" || gatedMethods[lower] || refusedMethods[lower] {
		return false
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// split cuts a method's full name as a grpc-go server does: at the last slash,
// less one leading slash.
func split(full string) (service, name string) {
	full = strings.TrimPrefix(full, "/")
	i := strings.LastIndexByte(full, '/')
	if i < 0 {
		return full, ""
	}
	return full[:i], full[i+1:]
}
