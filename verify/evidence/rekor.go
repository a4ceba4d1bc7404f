package evidence

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// LogsOptions are options of a Logs.
type LogsOptions struct {
	// RequestTimeout bounds one request, its body included. Default: limits.RequestTimeout.
	RequestTimeout time.Duration
	// UserAgent is sent to logs. Default: cosentry.
	UserAgent string
	// RootCAs are the certificates by which a log's own is checked. Default: the system's.
	RootCAs *x509.CertPool
	// Observe is told of each exchange with a log, as [Options.Observe] is of registries. The operation is "log".
	Observe func(host, operation string, code int, d time.Duration, err error)
	// Log is given the stack of a panic, at debug level. Default: nowhere.
	Log *slog.Logger
}

// Logs asks transparency logs for what came without proof of having been logged. It speaks the part of Rekor's API
// (version 1) that finds entries: POST <url>/api/v1/log/entries/retrieve.
//
// What is asked for are hashes. The entry for a signature is made here, by Rekor's own code, from the signature, what
// it signs, and the key or certificate that it is by; its hash is its name in the log. So a log learns nothing of a
// private image, a signature that no key at hand has made is not asked about, and what a log answers is about the very
// signature or it is dropped. It is still foreign: whether the log's signatures on it are good is for others to judge.
//
// A log is spoken to by https; by plain http only on loopback. Redirects are not followed. It is safe for concurrent use.
type Logs struct {
	o      LogsOptions
	client *http.Client
}

// NewLogs makes a Logs. It asks nobody anything.
func NewLogs(o LogsOptions) *Logs {
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = limits.RequestTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = "cosentry"
	}
	if o.Observe == nil {
		o.Observe = func(string, string, int, time.Duration, error) {}
	}
	o.Observe = bounded(o.Observe)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Logs{o: o, client: &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    o.RequestTimeout,
			DisableCompression:     true, // bounds count what comes
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 256 << 10,
		},
		// The answer to a question that was sent elsewhere is another one's.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Prove asks the log at url about the signatures, attestations and bundles of e that carry no log entry, and gives e
// with the entries that it has put beside them: as the annotation dev.sigstore.cosign/bundle in the classic form, as an
// entry of the verification material in a bundle. publicKeys, in PEM, are those that a signature may be by; where a
// certificate came with it that is tried first. e itself is not changed.
//
// That a log has no entry is no error. An error says what could not be asked, and is always [ErrUnavailable]; the
// evidence beside it holds the proofs that could be had, and tells of the rest in Incomplete.
func (l *Logs) Prove(ctx context.Context, logURL string, publicKeys [][]byte, e *Evidence) (*Evidence, error) {
	proved := *e
	proved.Signatures = slices.Clone(e.Signatures)
	proved.Attestations = slices.Clone(e.Attestations)
	proved.Bundles = slices.Clone(e.Bundles)
	err := rescue.Do(l.o.Log, "asking a transparency log", func() error {
		return l.prove(ctx, logURL, publicKeys, &proved)
	})
	if err != nil {
		if !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		err = fmt.Errorf("asking the transparency log %s about %s: %w", escape(logURL), e.Digest, err)
		proved.Incomplete = incomplete(e.Digest, e.Incomplete, err)
	}
	return &proved, err
}

func (l *Logs) prove(ctx context.Context, logURL string, publicKeys [][]byte, e *Evidence) error {
	u, err := searchURL(logURL)
	if err != nil {
		return err
	}
	asking, err := unproved(ctx, publicKeys, e)
	if err != nil {
		return err
	}
	var hashes []leafHash
	for _, p := range asking {
		hashes = append(hashes, p.entries...)
	}
	if err := limits.LogEntries.Check(int64(len(hashes))); err != nil {
		return err
	}
	budget := &budget{material: limits.Material}
	found := map[leafHash][]models.LogEntryAnon{}
	var failed error
	for chunk := range slices.Chunk(hashes, maxSearch) {
		if err := l.search(ctx, u, chunk, budget, found); err != nil {
			failed = join(failed, err)
			break // a log that fails is left alone
		}
	}
	for _, p := range asking {
		p.put(found)
	}
	return failed
}

// maxSearch is for how many entries Rekor may be asked at once.
const maxSearch = 10

// searchURL is where a log is asked.
func searchURL(logURL string) (*url.URL, error) {
	u, err := url.Parse(logURL)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, errors.New("its address is no URL of a host")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return nil, errors.New("its address is neither https nor on loopback")
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).JoinPath("api/v1/log/entries/retrieve"), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// search asks for some entries and sorts those that come into found. What was not asked for is dropped.
func (l *Logs) search(ctx context.Context, u *url.URL, hashes []leafHash, budget *budget, found map[leafHash][]models.LogEntryAnon) error {
	query := models.SearchLogQuery{}
	for _, h := range hashes {
		query.EntryUUIDs = append(query.EntryUUIDs, h.String())
	}
	body, err := l.post(ctx, u, marshal(query), budget)
	if err != nil {
		return err
	}
	var answer []models.LogEntry
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: POST %s%s: not a list of log entries: %s", ErrUnavailable, u.Host, u.Path, clean(err))
	}
	for _, byName := range answer {
		for _, entry := range byName {
			h, ok := leafHashOf(entry)
			if ok && slices.Contains(hashes, h) && isWhole(entry) {
				found[h] = append(found[h], entry)
			}
		}
	}
	return nil
}

func (l *Logs) post(ctx context.Context, u *url.URL, body []byte, budget *budget) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	defer cancel()
	what := "POST " + u.Host + u.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %s", ErrUnavailable, what, clean(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", l.o.UserAgent)
	start := time.Now()
	code := 0
	defer func() { l.o.Observe(u.Host, "log", code, time.Since(start), err) }()
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, transportError(err, what)
	}
	defer func() { _ = resp.Body.Close() }()
	if code = resp.StatusCode; code != http.StatusOK {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		return nil, fmt.Errorf("%w: %s: status %d", ErrUnavailable, what, code)
	}
	answer, err = budget.readAll(resp.Body, limits.LogAnswer)
	if err != nil {
		return nil, transportError(err, what)
	}
	return answer, nil
}
