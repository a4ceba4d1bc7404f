package policy

import (
	"crypto"
	"crypto/dsa" //lint:ignore SA1019 to show that it is refused
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/signature"
)

func TestKeysAccepted(t *testing.T) {
	for _, kind := range []string{"P-256", "P-384", "P-521", "RSA 2048", "RSA 3072", "RSA 4096", "Ed25519"} {
		for _, hash := range []crypto.Hash{crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			keys, err := ParsePublicKeys([]byte(publicPEM(t, kind)), hash, false)
			if strings.HasPrefix(kind, "RSA") && hash == crypto.SHA224 {
				// sigstore's RSA verifier does not take it: better known at load
				// than when every image is refused.
				if err == nil || !strings.Contains(err.Error(), "cannot be used with SHA-224") {
					t.Errorf("%s with %s: got %v", kind, hash, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s with %s: %v", kind, hash, err)
				continue
			}
			want := testKeys()[kind].Public()
			if len(keys) != 1 || keys[0].Hash != hash || !want.(interface{ Equal(crypto.PublicKey) bool }).Equal(keys[0].Key) {
				t.Errorf("%s with %s: got %+v", kind, hash, keys)
			}
		}
	}
}

// What is loaded must verify what the private key signs with the same hash, and
// nothing of another key: the whole point of reading it.
func TestLoadedKeyVerifies(t *testing.T) {
	for _, kind := range []string{"P-256", "P-384", "P-521", "RSA 2048", "Ed25519"} {
		keys, err := ParsePublicKeys([]byte(publicPEM(t, kind)), crypto.SHA384, false)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := signature.LoadSigner(testKeys()[kind], crypto.SHA384)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.SignMessage(strings.NewReader("payload"))
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := signature.LoadVerifier(keys[0].Key, keys[0].Hash)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.VerifySignature(strings.NewReader(string(sig)), strings.NewReader("payload")); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if err := verifier.VerifySignature(strings.NewReader(string(sig)), strings.NewReader("other")); err == nil {
			t.Errorf("%s: verifies another payload", kind)
		}
	}
}

func TestFingerprintIsOfTheSubjectPublicKeyInfo(t *testing.T) {
	key := testKeys()["RSA 2048"].Public().(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	want := "SHA256:" + hex.EncodeToString(sum[:])
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(key)}))
	for form, data := range map[string]string{"PKIX": publicPEM(t, "RSA 2048"), "PKCS #1": pkcs1} {
		keys, err := ParsePublicKeys([]byte(data), crypto.SHA256, false)
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if keys[0].Fingerprint != want {
			t.Errorf("%s: fingerprint %s, want %s", form, keys[0].Fingerprint, want)
		}
	}
}

func TestSeveralKeysInOnePEM(t *testing.T) {
	a, b := publicPEM(t, "P-256"), publicPEM(t, "Ed25519")
	single := func(data string) string {
		keys, err := ParsePublicKeys([]byte(data), crypto.SHA256, false)
		if err != nil {
			t.Fatal(err)
		}
		return keys[0].Fingerprint
	}
	for form, data := range map[string]string{
		"one after the other": a + b, "blank lines": "\n\n" + a + "\n \n" + b + "\n\n",
		"carriage returns": strings.ReplaceAll(a+b, "\n", "\r\n"), "no last line end": strings.TrimSpace(a + b),
	} {
		keys, err := ParsePublicKeys([]byte(data), crypto.SHA256, false)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		var got []string
		for _, k := range keys {
			got = append(got, k.Fingerprint)
		}
		if diff := cmp.Diff([]string{single(a), single(b)}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", form, diff)
		}
	}
}

func TestKeysRefused(t *testing.T) {
	good := publicPEM(t, "P-256")
	private, err := x509.MarshalPKCS8PrivateKey(testKeys()["P-256"])
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := testKeys()["RSA 2048"].Public().(*rsa.PublicKey)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	der, _ := pem.Decode([]byte(good))
	for rule, c := range map[string]struct{ data, want string }{
		"P-224":                            {publicPEM(t, "P-224"), "curve P-224 is not accepted"},
		"RSA 1024":                         {publicPEM(t, "RSA 1024"), "RSA key of 1024 bits"},
		"RSA 8192":                         {pemOf(t, &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8191), big.NewInt(1)), E: 65537}), "RSA key of 8192 bits"},
		"RSA with exponent 1":              {pemOf(t, &rsa.PublicKey{N: rsaKey.N, E: 1}), "exponent 1 is not accepted"},
		"RSA with an even exponent":        {pemOf(t, &rsa.PublicKey{N: rsaKey.N, E: 65536}), "exponent 65536 is not accepted"},
		"DSA":                              {dsaPEM(t), "a key of type *dsa.PublicKey is not accepted"},
		"X25519 signs nothing":             {pemOf(t, x25519.PublicKey()), "is not accepted"},
		"a private key":                    {encode("PRIVATE KEY", private), "PRIVATE key, remove it"},
		"an EC private key":                {encode("EC PRIVATE KEY", private), "PRIVATE key, remove it"},
		"cosign's private key":             {encode("ENCRYPTED SIGSTORE PRIVATE KEY", private), "PRIVATE key, remove it"},
		"a private key after a good one":   {good + encode("PRIVATE KEY", private), "PEM block 2: this is a PRIVATE key"},
		"a certificate":                    {encode("CERTIFICATE", private), "this is a certificate"},
		"another kind of block":            {encode("SSH KEY", private), `"SSH KEY" is no kind`},
		"trailing bytes in the DER":        {encode("PUBLIC KEY", append(der.Bytes, 0)), "not a public key"},
		"garbage in the DER":               {encode("PUBLIC KEY", []byte("garbage")), "not a public key"},
		"no DER":                           {encode("PUBLIC KEY", nil), "not a public key"},
		"prose before":                     {"our key\n" + good, `"our key\n-----BEGIN`},
		"prose after":                      {good + "trailing", `"trailing" is not part of a PEM block`},
		"prose between":                    {good + "x\n" + good, "is not part of a PEM block"},
		"a damaged block before a good":    {strings.Replace(good, "-----END", "----END", 1) + good, "PEM block 1 is damaged"},
		"a damaged block after a good":     {good + strings.Replace(good, "-----END", "----END", 1), "PEM block 2 is damaged"},
		"bad base64 before a good block":   {strings.Replace(good, "\nM", "\n!", 1) + good, "PEM block 1 is damaged"},
		"a bad key after a good":           {good + publicPEM(t, "P-224"), "PEM block 2: the curve P-224"},
		"no PEM":                           {"ssh-ed25519 AAAA", "is not part of a PEM block"},
		"nothing":                          {"", "holds no key"},
		"blank":                            {" \n\t\n", "holds no key"},
		"too many":                         {strings.Repeat(good, MaxKeys+1), "more than 64 keys"},
		"too long":                         {strings.Repeat(" ", maxKeyData+1), "at most"},
		"a point that is not on the curve": {offCurve(t), "not a public key"},
	} {
		t.Run(rule, func(t *testing.T) {
			keys, err := ParsePublicKeys([]byte(c.data), crypto.SHA256, false)
			if err == nil || keys != nil {
				t.Fatalf("accepted: %d keys", len(keys))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1024 {
				t.Errorf("error is not escaped and cut: %q", err)
			}
		})
	}
}

// dsaPEM is a key that openssl dsaparam -genkey would make, of 1024 bits.
func dsaPEM(t *testing.T) string {
	t.Helper()
	var k dsa.PrivateKey
	if err := dsa.GenerateParameters(&k.Parameters, rand.Reader, dsa.L1024N160); err != nil {
		t.Fatal(err)
	}
	if err := dsa.GenerateKey(&k, rand.Reader); err != nil {
		t.Fatal(err)
	}
	params, err := asn1.Marshal(struct{ P, Q, G *big.Int }{k.P, k.Q, k.G})
	if err != nil {
		t.Fatal(err)
	}
	public, err := asn1.Marshal(k.Y)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, Parameters: asn1.RawValue{FullBytes: params}},
		asn1.BitString{Bytes: public, BitLength: 8 * len(public)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func offCurve(t *testing.T) string {
	t.Helper()
	b, _ := pem.Decode([]byte(publicPEM(t, "P-256")))
	b.Bytes[len(b.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(b))
}

func TestHashAlgorithm(t *testing.T) {
	for s, want := range map[string]crypto.Hash{
		"": crypto.SHA256, "sha224": crypto.SHA224, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
		"SHA512": crypto.SHA512, " sha384\n": crypto.SHA384,
	} {
		if got, err := parseHash(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"sha1", "md5", "sha-256", "sha256 sha512", "none"} {
		if _, err := parseHash(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}
