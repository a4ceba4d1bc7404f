package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/tuf"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

func prove(t *testing.T, l *rekor, e *evidence.Evidence, keys ...[]byte) *evidence.Evidence {
	t.Helper()
	proved, err := evidence.NewLogs(evidence.LogsOptions{}).Prove(testContext(t), l.srv.URL, keys, e)
	if err != nil || proved.Incomplete != nil {
		t.Fatalf("%v, %v", err, proved.Incomplete)
	}
	return proved
}

// clone is e by another hand, to see whether e was changed.
func clone(t *testing.T, e *evidence.Evidence) *evidence.Evidence {
	t.Helper()
	var c evidence.Evidence
	if err := json.Unmarshal(mustJSON(t, e), &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestProofsFromTheLogAreTakenByTheVerifiers: cosign's for the classic form, sigstore-go's for bundles.
func TestProofsFromTheLogAreTakenByTheVerifiers(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	before := clone(t, e)
	l.upload(e, key)
	proved := prove(t, l, e, publicPEM(t, newKey(t)), publicPEM(t, key))
	if diff := cmp.Diff(before, clone(t, e)); diff != "" {
		t.Errorf("the evidence that was given has changed: %s", diff)
	}

	verifier, err := signature.LoadVerifier(&key.PublicKey, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	logKeys := cosign.NewTrustedTransparencyLogPubKeys()
	if err := logKeys.AddTransparencyLogPubKey(publicPEM(t, l.key), tuf.Active); err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(subject.String())
	if err != nil {
		t.Fatal(err)
	}
	check := func(of *evidence.Evidence) (offline bool, err error) {
		s := of.Signatures[0]
		var options []static.Option
		if text := s.Annotations["dev.sigstore.cosign/bundle"]; text != "" {
			var b cosignbundle.RekorBundle
			if err := json.Unmarshal([]byte(text), &b); err != nil {
				return false, err
			}
			options = append(options, static.WithBundle(&b))
		}
		sig, err := static.NewSignature(s.Payload, s.Base64Signature, options...)
		if err != nil {
			return false, err
		}
		return cosign.VerifyImageSignature(testContext(t), sig, hash, &cosign.CheckOpts{
			SigVerifier: verifier, RekorPubKeys: &logKeys, Offline: true, ClaimVerifier: cosign.SimpleClaimVerifier,
		})
	}
	if ok, err := check(e); err == nil && ok {
		t.Fatal("the signature is taken without proof: the test proves nothing")
	}
	if ok, err := check(proved); err != nil || !ok {
		t.Errorf("cosign does not take the proof: %v, %v", ok, err)
	}
	var attestation struct{ Payload struct{ Body string } }
	if err := json.Unmarshal([]byte(proved.Attestations[0].Annotations["dev.sigstore.cosign/bundle"]), &attestation); err != nil || attestation.Payload.Body == "" {
		t.Errorf("no proof beside the attestation: %v", err)
	}
	if proved.Attestations[0].Annotations["predicateType"] != "x" {
		t.Error("an annotation was lost")
	}
	if err := l.verifyBundle(proved.Bundles[0].Raw, key); err != nil {
		t.Errorf("sigstore-go does not take the proof: %v", err)
	}
	if err := l.verifyBundle(e.Bundles[0].Raw, key); err == nil {
		t.Error("the bundle is taken without proof: the test proves nothing")
	}
}

func (l *rekor) verifyBundle(raw []byte, key *ecdsa.PrivateKey) error {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(raw); err != nil {
		return err
	}
	verifier, err := signature.LoadVerifier(&key.PublicKey, crypto.SHA256)
	if err != nil {
		return err
	}
	keyed := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	id, err := hex.DecodeString(l.id)
	if err != nil {
		return err
	}
	logs, err := root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, nil, map[string]*root.TransparencyLog{
		l.id: {ID: id, PublicKey: &l.key.PublicKey, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Unix(1, 0)},
	})
	if err != nil {
		return err
	}
	v, err := sgverify.NewVerifier(root.TrustedMaterialCollection{keyed, logs}, sgverify.WithTransparencyLog(1), sgverify.WithIntegratedTimestamps(1))
	if err != nil {
		return err
	}
	want, err := hex.DecodeString(subject.Encoded())
	if err != nil {
		return err
	}
	_, err = v.Verify(&b, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", want), sgverify.WithKey()))
	return err
}

// TestTheLogLearnsHashesOnly: the names of private images, and who asks about what key, are not the log's business.
func TestTheLogLearnsHashesOnly(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	prove(t, l, e, publicPEM(t, key))
	if len(l.seen) != 1 {
		t.Fatalf("%d requests for three things", len(l.seen))
	}
	var names []string
	if err := json.Unmarshal(l.seen[0]["entryUUIDs"], &names); err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, other := range []string{"entries", "logIndexes"} {
		if text := l.seen[0][other]; text != nil && string(text) != "null" {
			t.Errorf("%s: %s", other, text)
		}
	}
}

func TestNothingIsAskedAboutWhatNoKeyHasMade(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	e.Signatures = append(e.Signatures, evidence.Signature{Payload: []byte("x"), Base64Signature: "%"}, evidence.Signature{})
	e.Bundles = append(e.Bundles, evidence.Bundle{Raw: []byte("no bundle")}, evidence.Bundle{Raw: []byte(`{}`)})
	e.Attestations = append(e.Attestations, evidence.Signature{Payload: []byte(`{"payload":"","signatures":[]}`)}, evidence.Signature{Payload: []byte("no envelope")})
	prove(t, l, e, publicPEM(t, newKey(t)), []byte("no key"))
	if len(l.seen) != 0 {
		t.Errorf("asked: %s", l.seen)
	}
}

func TestWhatHasProofIsNotAskedAbout(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	l.upload(e, key)
	proved := prove(t, l, e, publicPEM(t, key))
	asked := len(l.seen)
	if again := prove(t, l, proved, publicPEM(t, key)); len(l.seen) != asked || cmp.Diff(proved, again) != "" {
		t.Error("asked again about what has proof")
	}
}

func TestALogThatHasNoEntryIsNoError(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	if diff := cmp.Diff(e, prove(t, l, e, publicPEM(t, key))); diff != "" {
		t.Errorf("%s", diff)
	}
}

// TestEntriesForSomethingElseAreDropped: a log that answers with a proof of another signature.
func TestEntriesForSomethingElseAreDropped(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e, other := evidenceOf(t, key), evidenceOf(t, key)
	l.upload(other, key)
	l.mu.Lock()
	answer := []map[string]any{}
	for name, entry := range l.entries {
		answer = append(answer, map[string]any{name: entry})
	}
	l.mu.Unlock()
	l.answers(http.StatusOK, string(mustJSON(t, answer)))
	if diff := cmp.Diff(e, prove(t, l, e, publicPEM(t, key))); diff != "" {
		t.Errorf("%s", diff)
	}
}

// TestEntriesThatLackSomethingAreDropped, and panic nobody.
func TestEntriesThatLackSomethingAreDropped(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := evidenceOf(t, key)
	l.upload(e, key)
	l.mu.Lock()
	var whole []map[string]any
	for name, entry := range l.entries {
		var m map[string]any
		if err := json.Unmarshal(mustJSON(t, entry), &m); err != nil {
			t.Fatal(err)
		}
		whole = append(whole, map[string]any{name: m})
	}
	l.mu.Unlock()
	for _, path := range []string{
		"body", "integratedTime", "logID", "logIndex", "verification", "verification.signedEntryTimestamp", "verification.inclusionProof",
		"verification.inclusionProof.checkpoint", "verification.inclusionProof.logIndex", "verification.inclusionProof.rootHash", "verification.inclusionProof.treeSize",
	} {
		for _, with := range []string{"nothing", "null"} {
			t.Run(path+" is "+with, func(t *testing.T) {
				var answer []map[string]any
				if err := json.Unmarshal(mustJSON(t, whole), &answer); err != nil {
					t.Fatal(err)
				}
				for _, byName := range answer {
					for _, entry := range byName {
						at := entry.(map[string]any)
						parts := strings.Split(path, ".")
						for _, part := range parts[:len(parts)-1] {
							at = at[part].(map[string]any)
						}
						if delete(at, parts[len(parts)-1]); with == "null" {
							at[parts[len(parts)-1]] = nil
						}
					}
				}
				l.answers(http.StatusOK, string(mustJSON(t, answer)))
				if diff := cmp.Diff(e, prove(t, l, e, publicPEM(t, key))); diff != "" {
					t.Errorf("%s", diff)
				}
			})
		}
	}
}

func TestALogThatCannotAnswerIsUnavailable(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"500":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"401":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"404":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"not JSON":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"another JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"a":1}`)) },
		"an end too early": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("["))
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		},
		"too many elements": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("[" + strings.Repeat("{},", int(limits.Elements.Max())) + "{}]"))
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then does the server see that the client has gone
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, key := newRekor(t), newKey(t)
			e := evidenceOf(t, key)
			l.meddle = func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true }
			timeout := limits.RequestTimeout
			if name == "silence" {
				timeout = 50 * time.Millisecond
			}
			var codes []int
			logs := evidence.NewLogs(evidence.LogsOptions{RequestTimeout: timeout, Observe: func(_, _ string, code int, _ time.Duration, _ error) { codes = append(codes, code) }})
			proved, err := logs.Prove(testContext(t), l.srv.URL, [][]byte{publicPEM(t, key)}, e)
			if !errors.Is(err, evidence.ErrUnavailable) || !errors.Is(proved.Incomplete, evidence.ErrUnavailable) {
				t.Errorf("%v, incomplete: %v", err, proved.Incomplete)
			}
			proved.Incomplete = nil
			if diff := cmp.Diff(e, proved); diff != "" {
				t.Errorf("%s", diff)
			}
			if len(codes) != 1 {
				t.Errorf("observed: %v", codes)
			}
		})
	}
}

func TestALogIsAskedByHTTPSOrOnLoopback(t *testing.T) {
	key := newKey(t)
	for _, u := range []string{"http://rekor.example", "http://127.0.0.1.example", "ftp://127.0.0.1", "rekor.example", "", "https://", "mailto:x", "http://10.0.0.1", "file:///etc/passwd", "%"} {
		_, err := evidence.NewLogs(evidence.LogsOptions{}).Prove(testContext(t), u, [][]byte{publicPEM(t, key)}, evidenceOf(t, key))
		if !errors.Is(err, evidence.ErrUnavailable) || !strings.Contains(err.Error(), "address") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

// TestALogIsNotAskedWithoutEnd: many signatures, each with keys of the policy that made it.
func TestALogIsNotAskedWithoutEnd(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	e := &evidence.Evidence{Digest: subject}
	for range limits.LogEntries.Max()/2 + 1 {
		e.Attestations = append(e.Attestations, evidence.Signature{Payload: attested(t, key)})
	}
	_, err := evidence.NewLogs(evidence.LogsOptions{}).Prove(testContext(t), l.srv.URL, [][]byte{publicPEM(t, key)}, e)
	var exceeded *limits.Exceeded
	if !errors.As(err, &exceeded) || exceeded.Bound != limits.LogEntries || !errors.Is(err, evidence.ErrUnavailable) || len(l.seen) != 0 {
		t.Errorf("%v, %d requests", err, len(l.seen))
	}
	e.Attestations = e.Attestations[1:]
	if _, err = evidence.NewLogs(evidence.LogsOptions{}).Prove(testContext(t), l.srv.URL, [][]byte{publicPEM(t, key)}, e); err != nil {
		t.Error(err)
	}
	for _, query := range l.seen {
		var names []string
		if err := json.Unmarshal(query["entryUUIDs"], &names); err != nil || len(names) > 10 {
			t.Errorf("%d entries in one request: Rekor takes ten", len(names))
		}
	}
}
