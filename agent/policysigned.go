package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// maxAnnotations is how many bytes all annotations of an object may have in Kubernetes.
const maxAnnotations = 256 << 10

func policySignedCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "signed FILE SIGNATUREFILE",
		Short: "Print a signed policy as the object to apply to a cluster",
		Long: `Print the ClusterImagePolicy or TrustRoot in FILE as an object for kubectl apply, which carries FILE's very bytes and
their signature, as cosign sign-blob wrote it to SIGNATUREFILE, in annotations. Nodes whose settings have
clusterPolicies.publicKey take the signed bytes and nothing else of the object: whoever changes it changes nothing of them.

FILE must hold one document, as strictly read as the agent reads it. With --key the signature is verified.
Exit status: 0 printed, 1 the document or its signature is faulty, 2 could not be read.`,
		Example: `  cosign sign-blob --key cosign.key --tlog-upload=false --output-signature release.sig release.yaml
  cosentry policy signed --key cosign.pub release.yaml release.sig | kubectl apply --server-side -f -`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			document, err := readSmall(args[0], policy.MaxFileSize)
			if err != nil {
				return err
			}
			signature, err := readSmall(args[1], maxAnnotations)
			if err != nil {
				return err
			}
			if key != "" {
				if err := verifyDocument(key, document, signature); err != nil {
					return faulty(cmd, fmt.Errorf("%s: %w", args[1], err))
				}
			}
			object, err := signedObject(args[0], document, signature)
			if err != nil {
				return faulty(cmd, err)
			}
			_, err = cmd.OutOrStdout().Write(object)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "PEM public key, or several, by which the signature must be")
	return cmd
}

// faulty says what is wrong with what was given.
func faulty(cmd *cobra.Command, err error) error {
	fmt.Fprintln(cmd.ErrOrStderr(), err)
	return exitError(exitRefused)
}

func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, most)
	}
	return data, nil
}

func verifyDocument(key string, document, signature []byte) error {
	pem, err := readSmall(key, 64<<10)
	if err != nil {
		return err
	}
	keys, err := cluster.ParseKeys(string(pem))
	if err != nil {
		return err
	}
	return sigstore.VerifyBlob(keys, document, signature)
}

// signedObject is the object that carries a document and its signature. Its own fields are the document's, for whoever
// looks at it with kubectl and for policy-controller.
func signedObject(file string, document, signature []byte) ([]byte, error) {
	found, err := policy.Parse(file, document)
	if err != nil {
		return nil, err
	}
	if n := len(found.Policies) + len(found.TrustRoots); n != 1 {
		return nil, fmt.Errorf("%s: it holds %d documents, and one object carries one: split it, and sign each", file, n)
	}
	text := base64.StdEncoding.EncodeToString(document)
	sign := string(bytes.TrimSpace(signature))
	if raw, err := base64.StdEncoding.DecodeString(sign); err != nil || len(raw) == 0 {
		return nil, errors.New("the signature is not the base64 that cosign sign-blob prints; a bundle is none")
	}
	if size := len(text) + len(sign) + len(cluster.DocumentAnnotation) + len(cluster.SignatureAnnotation); size > maxAnnotations {
		return nil, fmt.Errorf("%s: signed, it is %d bytes, and an object in Kubernetes carries at most %d in its annotations: put it on the nodes (policies.dir)", file, size, maxAnnotations)
	}
	var object yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(document)).Decode(&object); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := annotate(&object, cluster.DocumentAnnotation, text, cluster.SignatureAnnotation, sign); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&object), enc.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out.Bytes(), nil
}

// annotate puts annotations, names and values in turn, into the metadata of a document.
func annotate(document *yaml.Node, pairs ...string) error {
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return errors.New("it is no document that can be annotated: write it as a plain mapping")
	}
	if kind := member(document.Content[0], "kind"); kind == nil || kind.Value != cluster.KindPolicy && kind.Value != cluster.KindTrustRoot {
		return fmt.Errorf("it must be a %s or a %s, and no list of them: what a list is annotated with none of its items carries", cluster.KindPolicy, cluster.KindTrustRoot)
	}
	metadata := member(document.Content[0], "metadata")
	if metadata == nil || metadata.Kind != yaml.MappingNode {
		return errors.New("its metadata cannot be annotated: write them as a plain mapping")
	}
	annotations := member(metadata, "annotations")
	switch {
	case annotations == nil:
		annotations = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		metadata.Content = append(metadata.Content, text("annotations"), annotations)
	case annotations.Kind != yaml.MappingNode:
		return errors.New("metadata.annotations must be a plain mapping")
	}
	for i := 0; i < len(pairs); i += 2 {
		if member(annotations, pairs[i]) != nil {
			return fmt.Errorf("it has the annotation %s already: sign the document, and not the object that carries it", pairs[i])
		}
		annotations.Content = append(annotations.Content, text(pairs[i]), text(pairs[i+1]))
	}
	return nil
}

func member(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }
