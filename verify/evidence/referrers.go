package evidence

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/cosentry/cosentry/verify/limits"
)

// referrersAPI is what is known of a host's referrers API. It saves one request; it never decides that there is
// nothing: before that is said, the way that was left out is asked as well. What is known is forgotten with the
// set of hosts, after ten minutes at the latest, and at any answer that does not fit.
type referrersAPI int

const (
	apiUnknown referrersAPI = iota
	apiPresent
	apiAbsent
)

func (ep *endpoint) learnReferrers(known referrersAPI) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.referrers = known
}

// ways are those in which a host may be asked for bundles.
type ways struct{ api, tag bool }

// possible says which ways the host's capabilities allow, as containerd reads them.
func (ep *endpoint) possible() ways {
	if !ep.Capabilities.Has(docker.HostCapabilityPull) {
		return ways{}
	}
	api := ep.Capabilities.Has(docker.HostCapabilityReferrers)
	return ways{api: api, tag: api || ep.Capabilities.Has(docker.HostCapabilityResolve)}
}

// preferred says which ways to ask first, by what is known of the host.
func (ep *endpoint) preferred() ways {
	w := ep.possible()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	switch {
	case ep.referrers == apiPresent && w.api:
		w.tag = false
	case ep.referrers == apiAbsent && w.tag:
		w.api = false
	}
	return w
}

// without gives the ways that are in w and not in asked.
func (w ways) without(asked ways) ways {
	return ways{api: w.api && !asked.api, tag: w.tag && !asked.tag}
}

// listByAPI asks the referrers API, page by page. absent says that the host has none.
func (g *gathering) listByAPI(ctx context.Context, ep *endpoint) (list []descriptor, absent bool, err error) {
	u := ep.url(g.repo.path, "referrers", g.subject.String())
	for page := int64(1); ; page++ {
		if err := limits.ReferrerPages.Check(page); err != nil {
			return nil, false, fmt.Errorf("referrers of %s at %s: %w", g.subject, ep.Host, err)
		}
		a, q, err := g.ask(ctx, ep, "referrers", http.MethodGet, u, indexType, limits.Manifest)
		if err != nil {
			ep.learnReferrers(apiUnknown)
			return nil, false, err
		}
		// Some registries that have the API say 404 for a repository they do not have. Anybody who may start a pod
		// can name such a one, and must not teach us that the API is gone.
		if page == 1 && hasNoReferrersAPI(a.code) {
			if !bytes.Contains(a.body, []byte("NAME_UNKNOWN")) {
				ep.learnReferrers(apiAbsent)
			}
			return nil, true, nil
		}
		if err := a.err(q); err != nil {
			ep.learnReferrers(apiUnknown)
			return nil, false, err
		}
		entries, err := parseReferrers(a.body)
		if err != nil {
			ep.learnReferrers(apiUnknown)
			return nil, false, fmt.Errorf("%s: %w", q, err)
		}
		list = append(list, entries...)
		if err := limits.Referrers.Check(int64(len(list))); err != nil {
			return nil, false, fmt.Errorf("%s: %w", q, err)
		}
		next, err := nextPage(u, a.header)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", q, err)
		}
		if next == nil {
			ep.learnReferrers(apiPresent)
			return list, false, nil
		}
		u = next
	}
}

// hasNoReferrersAPI tells by the codes with which registries older than the API answer for a path they do not know.
func hasNoReferrersAPI(code int) bool {
	switch code {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// nextPage reads the Link header. A next page is on the same host: anywhere else it would be a redirect that escapes
// the rules for redirects.
func nextPage(current *url.URL, header http.Header) (*url.URL, error) {
	for _, value := range header.Values("Link") {
		for _, link := range strings.Split(value, ",") {
			target, params, ok := strings.Cut(strings.TrimSpace(link), ">")
			if !ok || !strings.HasPrefix(target, "<") || !isNext(params) {
				continue
			}
			next, err := current.Parse(target[1:])
			if err != nil {
				return nil, fmt.Errorf("%w: the link to the next page is no URL", ErrMismatch)
			}
			if next.Host != current.Host || next.User != nil {
				return nil, fmt.Errorf("%w: the link to the next page leads elsewhere", ErrMismatch)
			}
			next.Scheme = current.Scheme
			query := next.Query()
			if ns := current.Query().Get("ns"); ns != "" {
				query.Set("ns", ns)
			}
			next.RawQuery = query.Encode()
			return next, nil
		}
	}
	return nil, nil
}

func isNext(params string) bool {
	for _, param := range strings.Split(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next") {
			return true
		}
	}
	return false
}

// listByTag asks for the index under the fallback tag.
func (g *gathering) listByTag(ctx context.Context, ep *endpoint) ([]descriptor, error) {
	raw, err := g.tagged(ctx, ep, "referrers tag", fallbackTag(g.subject))
	if err != nil {
		return nil, err
	}
	list, err := parseReferrers(raw)
	if err == nil {
		err = limits.Referrers.Check(int64(len(list)))
	}
	if err != nil {
		return nil, fmt.Errorf("referrers tag of %s at %s: %w", g.subject, ep.Host, err)
	}
	return list, nil
}
