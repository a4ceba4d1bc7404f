package canary

import (
	"strconv"
	"strings"

	"github.com/cosentry/cosentry/agent/audit"
)

// podName is the pod that a canary claims to be for, where it claims one. Its UID is the canary's own name.
const podName = "cosentry-canary"

// Is reports whether a record tells of the pull of a canary, so that what is proved by one is not taken for what went wrong on the node.
//
// Whoever can create pods can choose an image's name. So the form is the exact one, all of the record is looked at, and a pull that
// kubelet makes for a pod is none: kubelet always says which, and its UID is not an image's name. Only who may use the CRI
// socket, which is root, can have a pull pass for a canary. Nothing of a canary is ever created or mounted.
func Is(rec audit.Record) bool {
	name, digest, ok := parse(rec.Image)
	if !ok || rec.Action != audit.ActionPull || rec.Container != "" {
		return false
	}
	if rec.Digest != "" && rec.Digest != digest {
		return false
	}
	p := rec.Pod
	return p == audit.Pod{} || p == audit.Pod{Namespace: p.Namespace, Name: podName, UID: name}
}

// parse takes a canary's reference apart.
func parse(image string) (name, digest string, ok bool) {
	if !ours.MatchString(image) {
		return "", "", false
	}
	repository, digest, ok := strings.Cut(image, "@")
	if !ok {
		return "", "", false // canaries have no tags
	}
	host, name, _ := strings.Cut(repository, "/"+repositoryName+"/")
	port, err := strconv.ParseUint(strings.TrimPrefix(host, "127.0.0.1:"), 10, 16)
	return name, digest, err == nil && port > 0
}
