package evidence_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorclient "github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cosentry/cosentry/verify/evidence"
)

// signed is a signature over subject, without any proof.
func signed(t *testing.T, key *ecdsa.PrivateKey) evidence.Signature {
	t.Helper()
	image, err := name.NewDigest("registry.example/app@" + subject.String())
	if err != nil {
		t.Fatal(err)
	}
	text, err := payload.Cosign{Image: image}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(text)
	sig, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString(sig)
	return evidence.Signature{
		Payload: text, Base64Signature: b64, Source: digest.FromBytes(text),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": b64},
	}
}

// attested is an envelope around a statement about subject.
func attested(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	return wrapped(t, key, fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","predicate":{},"subject":[{"name":"","digest":{"sha256":%q}}]}`, subject.Encoded()))
}

// wrapped is an envelope around any statement.
func wrapped(t *testing.T, key *ecdsa.PrivateKey, statement string) []byte {
	t.Helper()
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dsse.WrapSigner(signer, "application/vnd.in-toto+json").SignMessage(strings.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

// bundled puts an envelope into a bundle that says nothing but which key it is by.
func bundled(t *testing.T, envelope []byte) []byte {
	t.Helper()
	var e struct {
		Payload     []byte
		PayloadType string
		Signatures  []struct{ Sig []byte }
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "x"}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: e.Payload, PayloadType: e.PayloadType, Signatures: []*protodsse.Signature{{Sig: e.Signatures[0].Sig}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func evidenceOf(t *testing.T, key *ecdsa.PrivateKey) *evidence.Evidence {
	t.Helper()
	envelope := attested(t, key)
	return &evidence.Evidence{
		Repository: "registry.example/app", Digest: subject,
		Signatures:   []evidence.Signature{signed(t, key)},
		Attestations: []evidence.Signature{{Payload: envelope, Annotations: map[string]string{"predicateType": "x"}, Source: digest.FromBytes(envelope)}},
		Bundles:      []evidence.Bundle{{Raw: bundled(t, attested(t, key))}},
	}
}

// upload logs all of e, as cosign does.
func (l *rekor) upload(e *evidence.Evidence, key *ecdsa.PrivateKey) {
	l.t.Helper()
	client, err := rekorclient.GetRekorClient(l.srv.URL, rekorclient.WithRetryCount(0))
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, public := context.Background(), publicPEM(l.t, key)
	for _, s := range e.Signatures {
		sum := sha256.New()
		sum.Write(s.Payload)
		sig, err := base64.StdEncoding.DecodeString(s.Base64Signature)
		if err == nil {
			_, err = cosign.TLogUpload(ctx, client, sig, sum, public)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
	for _, a := range e.Attestations {
		if _, err := cosign.TLogUploadInTotoAttestation(ctx, client, a.Payload, public); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, b := range e.Bundles {
		var parsed bundle.Bundle
		if err := parsed.UnmarshalJSON(b.Raw); err != nil {
			l.t.Fatal(err)
		}
		inside := parsed.GetDsseEnvelope()
		envelope := mustJSON(l.t, map[string]any{"payload": inside.Payload, "payloadType": inside.PayloadType, "signatures": []any{map[string]any{"sig": inside.Signatures[0].Sig}}})
		// json.Marshal sorts the members of a map: here as sigstore-go's own writing of an envelope has them.
		if _, err := cosign.TLogUploadDSSEEnvelope(ctx, client, envelope, public); err != nil {
			l.t.Fatal(err)
		}
	}
}
