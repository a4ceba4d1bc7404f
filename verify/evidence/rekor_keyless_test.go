package evidence_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorclient "github.com/sigstore/rekor/pkg/client"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cosentry/cosentry/verify/evidence"
)

func certificate(t *testing.T, public any, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestKeylessSignaturesAreAskedAboutByTheirCertificate, without any key from a policy.
func TestKeylessSignaturesAreAskedAboutByTheirCertificate(t *testing.T) {
	l, key := newRekor(t), newKey(t)
	text := certificate(t, &key.PublicKey, key)
	e := evidenceOf(t, key)
	for _, s := range []*evidence.Signature{&e.Signatures[0], &e.Attestations[0]} {
		s.Annotations["dev.sigstore.cosign/certificate"] = string(text)
	}
	block, _ := pem.Decode(text)
	var b protobundle.Bundle
	if err := protojson.Unmarshal(e.Bundles[0].Raw, &b); err != nil {
		t.Fatal(err)
	}
	b.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: block.Bytes}}
	raw, err := protojson.Marshal(&b)
	if err != nil {
		t.Fatal(err)
	}
	e.Bundles[0].Raw = raw

	client, err := rekorclient.GetRekorClient(l.srv.URL, rekorclient.WithRetryCount(0))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	sum.Write(e.Signatures[0].Payload)
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Base64Signature)
	if err == nil {
		_, err = cosign.TLogUpload(testContext(t), client, sig, sum, text)
	}
	if err == nil {
		_, err = cosign.TLogUploadDSSEEnvelope(testContext(t), client, e.Attestations[0].Payload, text)
	}
	inside := b.GetDsseEnvelope()
	if err == nil {
		_, err = cosign.TLogUploadDSSEEnvelope(testContext(t), client, mustJSON(t, inside), text)
	}
	if err != nil {
		t.Fatal(err)
	}
	proved := prove(t, l, e)
	if proved.Signatures[0].Annotations["dev.sigstore.cosign/bundle"] == "" || proved.Attestations[0].Annotations["dev.sigstore.cosign/bundle"] == "" {
		t.Error("no proof beside a keyless signature or attestation")
	}
	var again protobundle.Bundle
	if err := protojson.Unmarshal(proved.Bundles[0].Raw, &again); err != nil || len(again.GetVerificationMaterial().GetTlogEntries()) != 1 {
		t.Errorf("no proof in a keyless bundle: %v", err)
	}
}
