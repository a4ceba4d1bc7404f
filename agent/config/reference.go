package config

import (
	"fmt"
	"iter"
	"reflect"
	"strings"
)

// Reference is docs/settings.md: every setting with its default and meaning, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	d := Default()
	d.Node = "the host name"
	for name, value := range settings(d) {
		fmt.Fprintf(&b, "| `%s` | `%v` | %s |\n", name, value, described[name])
	}
	b.WriteString(referenceTail)
	return b.String()
}

// settings are the names of all settings with their values in c, in order.
func settings(c Config) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) { walk("", reflect.ValueOf(c), yield) }
}

func walk(prefix string, v reflect.Value, yield func(string, any) bool) bool {
	for i := range v.NumField() {
		name, f := prefix+v.Type().Field(i).Tag.Get("yaml"), v.Field(i)
		if _, leaf := f.Interface().(fmt.Stringer); f.Kind() == reflect.Struct && !leaf {
			if !walk(name+".", f, yield) {
				return false
			}
			continue
		}
		if !yield(name, f.Interface()) {
			return false
		}
	}
	return true
}

const smallest = "apiVersion: " + APIVersion + "\nkind: " + Kind + "\n"

const referenceHead = `# Settings

cosentry reads one YAML document, by default from ` + "`/etc/cosentry/config.yaml`" + `. Reading is strict: an unknown or
repeated key, a wrong type and a value out of bounds are errors with line or field, and nothing of such a file is in force;
` + "`cosentry config check`" + ` tells before. Durations are written ` + "`30s`, `5m`, `1h`" + `; sizes are bytes, or
` + "`512Ki`, `64Mi`, `1Gi`" + `. Settings are read at start; policies are read again whenever they change.

The service keeps a copy of the settings with which it started well, for root alone, in ` + "`" + StateDir + "/" + keptDir + "`" + `. If it finds
the file faulty or gone at a later start, it goes on with the copy, so that kubelet keeps its runtime: what held before holds, and
nothing that was changed since then, be it stricter or weaker. It says so in its log, in ` + "`cosentry status`" + ` and ` + "`doctor`" + `, in
` + "`systemctl status`" + `, in the audit log and with ` + "`cosentry_settings_broken`" + `. Mend the file and restart the service. A file that was removed
does not bring the built-in defaults back, which would leave out what the settings add to them; a file with nothing but the two
lines below does. An agent that never started well on the node does not start with faulty settings, and one that is run by hand keeps no copy.

This page is made from the code by ` + "`go test ./agent/config -update`" + ` and checked by the same test.

| setting | default | meaning |
|---|---|---|
`

const referenceTail = `
The smallest file says what it is and nothing else:

` + "```yaml\n" + smallest + "```\n" + `
A first week on a node that runs containerd:

` + "```yaml\n" + smallest + `mode: observe            # record what would be refused, refuse nothing
policies:
  dir: /etc/cosentry/policies
  noMatch: deny
` + "```\n"

var described = map[string]string{
	"apiVersion":                 "Required, as written.",
	"kind":                       "Required, as written.",
	"mode":                       "`enforce` refuses what policy refuses. `observe` records it and lets it through.",
	"node":                       "This node's name in audit records.",
	"listen":                     "The socket that kubelet is pointed at. Made with mode 0660 for root, unless systemd hands one over. Keep the runtime's name in the file name: kubelet picks its way of collecting stats by the suffix `crio.sock`.",
	"runtime.endpoint":           "The runtime's own socket. `unix://` in front is taken off.",
	"runtime.type":               "`containerd`: images are looked up in its image store. `cri`: CRI's ImageStatus is all there is, and what it does not say is refused. `auto`: ask the runtime for its name.",
	"runtime.namespace":          "The containerd namespace of CRI's images.",
	"runtime.unknownMethods":     "CRI methods that this build does not know: `refuse` answers Unimplemented, as an older runtime would; `forward` passes them on unjudged. `RestorePod` is never passed on.",
	"policies.dir":               "Folder of ClusterImagePolicy files (`.yaml`, `.yml`, `.json`; not its subfolders). Read again when it changes, on SIGHUP, and every minute.",
	"policies.noMatch":           "What happens to an image that no policy matches: `deny`, `warn` (let through, recorded as a warning) or `allow`.",
	"clusterPolicies.dir":        "Folder in which `cosentry sync` puts the cluster's ClusterImagePolicies and TrustRoots, `/var/lib/cosentry/cluster` as it is installed. They only add to the node's own: an image must pass `policies.dir` and `policies.noMatch`, and then the cluster's policies that match it. Empty: the cluster has no say.",
	"clusterPolicies.publicKey":  "PEM public keys. Set: of the cluster's documents only those count that one of these keys signed (`cosentry policy signed`), Secrets and ConfigMaps of the cluster do not count, and what the documents refer to is what `trust.dir` and `trust.roots` hold on the node. Empty: the cluster's documents need no signature.",
	"namespaces.enforce":         "For which namespaces' pods images are judged. `all`; a list of namespace names, in which `*` stands for any run of characters (`[prod, \"team-*\"]`); or `labelled`: those that have policy-controller's label `policy.sigstore.dev/include=true` in `namespaces.file`. Labels that come from the cluster (a file in `clusterPolicies.dir`) say only where the cluster's policies hold; the node's own hold everywhere then. A pod whose namespace the request does not tell is judged in any case.",
	"namespaces.exempt":          "List of namespace names as above whose pods' images are not judged, whatever `namespaces.enforce` says: whoever may create pods there can run anything on this node. Their pulls are still resolved and made by digest, lest a tag be moved under another namespace's containers: a registry that cosentry cannot reach fails them too. Paths and checkpoints are refused everywhere.",
	"namespaces.file":            "What `kubectl get namespaces -o yaml` (or `-o json`) prints, for `labelled`; at most 8 MiB. Replace it by a rename. It, its folder and those above must be root's, and nobody else's to write: otherwise it frees no namespace of the node's own policies. Read again when it changes, on SIGHUP, and every minute. A namespace that is not in it is judged; without the file all are. While it cannot be read, what it last said holds. One that others than root can write has to be JSON, as `cosentry sync` writes it at `current/namespaces.yaml` in `clusterPolicies.dir`.",
	"sandbox.image":              "The image of which the runtime makes the sandboxes of pods (\"pause\"), as its own settings name it. Empty: the runtime is asked. It is judged at start, when it or the policies change, and every minute, under this name, as of no pod and no namespace.",
	"sandbox.refuse":             "`true`: no pod starts (RunPodSandbox is refused) in a namespace that is enforced while that image is not accepted, and one that is not on the node is judged and pulled by digest before the runtime would pull it. `false`: an image that is not accepted is only told of, in log, metric, status and audit log.",
	"trust.dir":                  "Folder of what policies refer to by name: `secrets/<namespace>/<name>/<key>` and `configmaps/<namespace>/<name>/<key>`.",
	"trust.cacheDir":             "Folder, made with mode 0700, in which what was fetched is kept for when its server is away: public keys of key management services, remote rules, trust roots. What is signed or bound by a hash is checked again when it is read.",
	"trust.refresh":              "How often trust roots are fetched again: 1m to 168h. Keys of key management services are asked for as often, and at least every hour. What could not be had is tried again within 5 minutes, what is kept within about an hour, and a root before it ends. SIGHUP (`systemctl reload`) has all of it asked for at once.",
	"trust.updatePublicGood":     "Keep the trust root of sigstore's public-good instance up to date from its TUF repository, where some policy asks for it. `false`: the one built in is used until it expires.",
	"trust.roots":                "List of `{name: …, file: …}`: trusted_root.json files, which `trustRootRef` names like TrustRoot documents.",
	"verification.createTimeout": "How long judging all images of a CreateContainer together may take, those that are mounted included: 100ms to 1m50s, below kubelet's 2 minutes. Mode `observe` judges as well and may delay a call by as much.",
	"verification.pullTimeout":   "How long judging a PullImage may take, the pull itself not counted: 100ms to 10m. Mode `observe` may delay a pull by as much.",
	"cache.size":                 "Verdicts kept in memory, 1 to 1048576; the one used longest ago goes first.",
	"cache.allowTTL":             "How long an allow is kept: 1s to 168h. Verdicts also end with the policies under which they were reached.",
	"cache.denyTTL":              "How long a refusal or a warning is kept: 1s to 1h. So long may it take until a new signature counts.",
	"registry.hostsDir":          "containerd's `config_path`: folders of `<host>/hosts.toml`, several separated by `:`. Signatures are fetched through the same mirrors, with the same CAs and client certificates, as the image. Empty: none.",
	"registry.dockerConfig":      "The node's docker config file, used after the credentials in the request. May be missing. Empty: none. Credential helpers are not run.",
	"evidence.dir":               "Folder in which signatures that were accepted are kept, one OCI image layout an image, for when a registry is away or wants credentials that came only with the pull. They are judged again at every use. Empty: none are kept.",
	"evidence.size":              "Images whose signatures are kept, 1 to 65536; a few KiB each as a rule, at most 1 MiB, or 16 MiB where attestations are asked for, and 1 GiB in all.",
	"audit.dir":                  "Folder of the audit log, made with mode 0700.",
	"audit.maxFileSize":          "Size at which a new audit file is begun, at least 64Ki.",
	"audit.maxFiles":             "Audit files kept, the current one included: 2 to 1000. The oldest is removed at rotation.",
	"audit.required":             "`true`: a call whose record cannot be written (disk full) is refused. `false`: it goes on, the record goes to the agent's log and waits in memory (1024 records) for the disk, and a metric counts it.",
	"http.address":               "Loopback address of `/metrics`, `/healthz`, `/readyz` and `/status`, for Prometheus and people. Empty: not served there. Anyone on the node can connect, and take the address while the agent is down: cosentry's own commands ask on `agent.sock` beside `listen`, which is for root alone.",
	"log.format":                 "`json` or `text`, on standard error.",
	"log.level":                  "`debug`, `info`, `warn` or `error`.",
}
