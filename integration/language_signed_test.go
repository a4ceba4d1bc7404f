package integration

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// keys are those that the command generated and imported, but for Ed25519, which it is not
// used with (see signEd25519).
func (l *language) keys() map[string]signer {
	l.t.Helper()
	keys := map[string]signer{"release": l.key("release"), "second": l.key("second")}
	for kind, key := range otherKeys(l.t) {
		keys[kind] = l.imported(kind, key)
		if key, ok := key.(ed25519.PrivateKey); ok {
			l.ed25519 = key
		}
	}
	return keys
}

// signAll has everything signed that policies are to judge, each image in one way.
func (l *language) signAll(keys map[string]signer) {
	l.t.Helper()
	sign := func(repository string, by signer, h how, flags ...string) {
		l.t.Helper()
		l.ready(repository, func(image name.Digest) { l.sign(image, by, h, flags...) })
	}
	l.ready("unsigned", func(name.Digest) {})
	for suffix, h := range map[string]how{"": {}, "-bundle": {bundle: true}} {
		logged, stamped := h, h
		logged.log, stamped.stamp = true, true
		sign("signed/keyless"+suffix, l.keyless(releaser), logged)
		sign("signed/stamped-keyless"+suffix, l.keyless(releaser), stamped)
		sign("signed/release"+suffix, keys["release"], h)
		l.ready("signed/strange"+suffix, func(image name.Digest) { l.stranger.sign(image, l.stranger.keyless(releaser), logged) })
	}
	sign("signed/workflow", l.keyless(workflow), how{log: true})
	sign("signed/unproved-keyless", l.keyless(releaser), how{})
	unlogged := l.keyless(releaser)
	unlogged.sign[1] = l.sigstore.WithoutSCT()
	unlogged.verify = append(unlogged.verify, "--insecure-ignore-sct=true")
	sign("signed/unlogged-certificate", unlogged, how{log: true}, "--insecure-skip-verify=true")

	sign("signed/release-logged", keys["release"], how{log: true})
	sign("signed/release-stamped", keys["release"], how{stamp: true})
	sign("signed/release-forgot-proof", keys["release"], how{log: true})
	l.forgetProof("signed/release-forgot-proof")
	l.ready("signed/twice", func(image name.Digest) {
		l.sign(image, keys["release"], how{})
		l.sign(image, keys["second"], how{})
	})

	sign("signed/rsa-2048", keys["rsa-2048"], how{})
	sign("signed/rsa-4096-bundle", keys["rsa-4096"], how{bundle: true})
	sign("signed/ecdsa-p384", keys["ecdsa-p384"], how{})
	sign("signed/ecdsa-p384-bundle", keys["ecdsa-p384"], how{bundle: true})
	sign("signed/ecdsa-p521", keys["ecdsa-p521"], how{})
	l.ready("signed/ed25519", func(image name.Digest) { l.signEd25519(image, keys["ed25519"]) })
}

// forgetProof takes the log's proofs away from a classic signature: the log still has it.
func (l *language) forgetProof(repository string) {
	l.t.Helper()
	tag := strings.Replace(l.signed[repository].DigestStr(), ":", "-", 1) + ".sig"
	must(l.t, l.Registry.Replace(repository, tag, func(manifest []byte) ([]byte, error) {
		var m map[string]any
		if err := json.Unmarshal(manifest, &m); err != nil {
			return nil, err
		}
		annotations := m["layers"].([]any)[0].(map[string]any)["annotations"].(map[string]any)
		if _, ok := annotations["dev.sigstore.cosign/bundle"]; !ok {
			return nil, fmt.Errorf("the signature has no proof to forget: %v", annotations)
		}
		delete(annotations, "dev.sigstore.cosign/bundle")
		return json.Marshal(m)
	}))
}

// signEd25519 signs what the command says is to be signed, and has it attach the signature: by itself it signs with
// Ed25519ph, which its own verify does not take.
func (l *language) signEd25519(image name.Digest, by signer) {
	l.t.Helper()
	payload := l.do("generate", image.String())
	signature := ed25519.Sign(l.ed25519, []byte(payload))
	for file, content := range map[string][]byte{
		"ed25519.payload": []byte(payload), "ed25519.signature": []byte(base64.StdEncoding.EncodeToString(signature)),
	} {
		must(l.t, os.WriteFile(filepath.Join(l.cosign.Dir, file), content, 0o600))
	}
	l.do("attach", "signature", "--payload", "ed25519.payload", "--signature", "ed25519.signature", image.String())
	l.do(append(append([]string{"verify"}, by.verify...), "--insecure-ignore-tlog=true", image.String())...)
}

// attestAll has the same attested in different ways.
func (l *language) attestAll(release signer) {
	l.t.Helper()
	l.ready("attested/key", func(image name.Digest) {
		for predicateType, predicate := range predicates {
			l.attest(image, release, how{}, predicateType, predicate)
		}
	})
	l.ready("attested/keyless-bundle", func(image name.Digest) {
		for predicateType, predicate := range predicates {
			l.attest(image, l.keyless(releaser), how{bundle: true, log: true}, predicateType, predicate)
		}
	})
	l.ready("attested/workflow", func(image name.Digest) {
		l.attest(image, l.keyless(workflow), how{log: true}, "slsaprovenance1", predicates["slsaprovenance1"])
	})
	l.ready("attested/spdx", func(image name.Digest) {
		// A text as predicate cannot be had in a bundle: cosign writes one and refuses it.
		l.attest(image, release, how{}, "spdx", "SPDXVersion: SPDX-2.3\nPackageName: busybox\n")
	})
	l.ready("attested/key-bundle", func(image name.Digest) {
		l.attest(image, release, how{bundle: true}, "spdxjson", predicates["spdxjson"])
	})
}

// signElsewhere keeps signatures in another registry, which asks who reads.
func (l *language) signElsewhere(release signer, private *harness.Registry) {
	l.t.Helper()
	here := l.cosign
	defer func() { l.cosign = here }()
	l.cosign = here.With("COSIGN_REPOSITORY="+private.Addr+"/signatures", "DOCKER_CONFIG="+l.cosign.Dir)
	must(l.t, os.WriteFile(filepath.Join(l.cosign.Dir, "config.json"), []byte(dockerConfig(private)), 0o600))
	for _, repository := range []string{"kept-elsewhere", "kept-elsewhere-and-never-read"} {
		l.ready(repository, func(image name.Digest) { l.sign(image, release, how{}) })
	}
	l.ready("kept-under-a-prefix", func(image name.Digest) {
		l.do("sign", "--key", "release.key", "--tlog-upload=false", "--attachment-tag-prefix", "prod-", image.String())
		l.do("verify", "--key", "release.pub", "--insecure-ignore-tlog=true", "--attachment-tag-prefix", "prod-", image.String())
	})
}

// signAtVault signs with a key that never leaves its service.
func (l *language) signAtVault(vault *sigstore.Vault) {
	l.t.Helper()
	here := l.cosign
	defer func() { l.cosign = here }()
	l.cosign = here.With(vault.Environment()...)
	uri := "hashivault://release"
	l.do("generate-key-pair", "--kms", uri)
	by := signer{sign: []string{"--key", uri}, verify: []string{"--key", "cosign.pub"}}
	l.ready("signed/vault", func(image name.Digest) { l.sign(image, by, how{}) })
	l.ready("signed/vault-bundle", func(image name.Digest) { l.sign(image, by, how{bundle: true}) })
}

// dockerConfig is a docker config file, or a pull secret's content, for a registry.
func dockerConfig(r *harness.Registry) string {
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.Addr, base64.StdEncoding.EncodeToString([]byte(r.Username+":"+r.Password)))
}
