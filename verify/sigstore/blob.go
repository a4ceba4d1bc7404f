package sigstore

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// maxBlobSignature is the longest signature of a blob that is read, in bytes of base64. That of the longest RSA key
// which is taken has 1.4 KiB.
const maxBlobSignature = 4 << 10

// VerifyBlob says whether one of the keys signed the very bytes of blob, as `cosign sign-blob` does: signature is what it
// prints, base64 of the bare signature. nil means that one did; no keys sign nothing. A bundle is no such signature.
func VerifyBlob(keys []policy.PublicKey, blob, signature []byte) error {
	if len(keys) == 0 {
		return errors.New("there is no key that could have signed it")
	}
	signature = bytes.TrimSpace(signature)
	if len(signature) == 0 {
		return errors.New("the signature is empty")
	}
	if len(signature) > maxBlobSignature {
		return fmt.Errorf("the signature is longer than %d bytes", maxBlobSignature)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(string(signature))
	if err != nil {
		return errors.New("the signature is not the base64 that cosign sign-blob prints")
	}
	var wrong error
	for _, k := range keys {
		err := rescue.Do(nil, "verifying a document", func() error {
			v, err := verifierFor(k)
			if err != nil {
				return err
			}
			return v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(blob))
		})
		if err == nil {
			return nil
		}
		if wrong == nil {
			wrong = fmt.Errorf("no signature by key %s: the document, the signature or the key is another one", k.Fingerprint)
		}
	}
	return wrong
}
