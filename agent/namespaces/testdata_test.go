package namespaces

// What kubectl 1.36 prints, with one namespace labelled, one labelled otherwise, and one not at all.
const (
	printedYAML = `apiVersion: v1
items:
- apiVersion: v1
  kind: Namespace
  metadata:
    creationTimestamp: "2026-03-01T12:00:00Z"
    labels:
      kubernetes.io/metadata.name: kube-system
    name: kube-system
    resourceVersion: "4"
    uid: 0c1c6a3f-4a7e-4d37-9d2a-0d9b2f3c4d01
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
- apiVersion: v1
  kind: Namespace
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Namespace","metadata":{"annotations":{},"labels":{},"name":"legacy"}}
    creationTimestamp: "2026-03-01T12:00:00Z"
    labels:
      kubernetes.io/metadata.name: legacy
      policy.sigstore.dev/include: "false"
    name: legacy
    resourceVersion: "5"
    uid: 0c1c6a3f-4a7e-4d37-9d2a-0d9b2f3c4d02
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
- apiVersion: v1
  kind: Namespace
  metadata:
    creationTimestamp: "2026-03-01T12:00:00Z"
    labels:
      kubernetes.io/metadata.name: shop
      policy.sigstore.dev/include: "true"
    name: shop
    resourceVersion: "6"
    uid: 0c1c6a3f-4a7e-4d37-9d2a-0d9b2f3c4d03
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
kind: List
metadata:
  resourceVersion: ""
`
	printedJSON = `{
    "apiVersion": "v1",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "labels": {
                    "kubernetes.io/metadata.name": "kube-system"
                },
                "name": "kube-system"
            },
            "spec": {
                "finalizers": [
                    "kubernetes"
                ]
            }
        },
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "annotations": {
                    "note": "\ud83d\ude00 \u003c\/"
                },
                "labels": {
                    "policy.sigstore.dev/include": "false"
                },
                "name": "legacy"
            }
        },
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "labels": {
                    "policy.sigstore.dev/include": "true"
                },
                "name": "shop"
            }
        }
    ],
    "kind": "List",
    "metadata": {
        "resourceVersion": ""
    }
}
`
	ofTheAPI = `{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[` +
		`{"metadata":{"name":"kube-system"}},{"metadata":{"name":"legacy","labels":{"a":"b"}}},` +
		`{"metadata":{"name":"shop","labels":{"policy.sigstore.dev/include":"true"}}}]}`
	documents = `# written by hand
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy, labels: {policy.sigstore.dev/include: "True"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {policy.sigstore.dev/include: "true"}}
---
`
)
