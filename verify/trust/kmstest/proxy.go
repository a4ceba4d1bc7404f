package kmstest

import (
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// proxy is an HTTP proxy that leads the hosts of clouds to the stand-ins and refuses all others, so that no test reaches
// the world.
type proxy struct {
	addr   string
	routes map[string]string // from a host, or the end of one that begins with a dot

	mu      sync.Mutex
	refused []string
}

func (s *Services) startProxy() error {
	l, err := listen()
	if err != nil {
		return err
	}
	azure, google := s.Azure.conns.Addr().String(), s.Google.conns.Addr().String()
	s.proxy = &proxy{addr: l.Addr().String(), routes: map[string]string{
		"cloudkms.googleapis.com:443":   google,
		".vault.azure.net:443":          azure,
		"login.microsoftonline.com:443": azure,
		"login.microsoft.com:443":       azure,
	}}
	server := &http.Server{Handler: s.proxy, ReadHeaderTimeout: time.Minute, ErrorLog: quiet()}
	s.close = append(s.close, func() { _ = server.Close(); l.closeAll(true) })
	go func() { _ = server.Serve(l) }()
	return nil
}

func (p *proxy) route(host string) (string, bool) {
	for name, to := range p.routes {
		if host == name || strings.HasPrefix(name, ".") && strings.HasSuffix(host, name) {
			return to, true
		}
	}
	return "", false
}

func (p *proxy) refusedHosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, ok := p.route(r.Host)
	if r.Method != http.MethodConnect || !ok {
		p.mu.Lock()
		p.refused = append(p.refused, r.Host)
		p.mu.Unlock()
		http.Error(w, "this proxy does not go there", http.StatusForbidden)
		return
	}
	there, err := net.Dial("tcp", to)
	if err != nil {
		http.Error(w, "nobody there", http.StatusBadGateway)
		return
	}
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(there, here)
		_ = there.Close()
	}()
	_, _ = io.Copy(here, there)
	_ = here.Close()
	_ = there.Close()
}

// quiet is a log for servers whose clients go away on purpose.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
