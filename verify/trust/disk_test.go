package trust

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

// A disk that cannot be written is no reason not to use a key, and one to say so for as long as it lasts: the next restart
// without network would refuse everything.
func TestWhatIsNotKeptOnDiskIsUsedAndTold(t *testing.T) {
	key, _ := newKey(t)
	services.Vault.Put("unkept", key)
	url := rulesServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, aRule) })
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	remote := &policy.TrustRoot{Name: "corp", Source: "roots.yaml:1", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve(), Target: "trusted_root.json"}}
	kms, rule := kmsPolicy(t, services.Vault.URI("unkept")), remotePolicy(t, url, sha(aRule))
	rule.Policies()[0].Name = "p1"
	all := with(t, policy.Documents{Policies: append(kms.Policies(), rule.Policies()...), TrustRoots: []*policy.TrustRoot{remote}})
	names := map[string]string{KindKMS: services.Vault.URI("unkept"), KindRemote: url, KindRoot: "corp"}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cache := range map[string]string{"a file": file, "in a file": filepath.Join(file, "trust")} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, t.TempDir(), cache)
			n.Resolve(all)
			if strings.Contains(n.log.String(), "is fetched again") {
				t.Errorf("the log tells of what was never kept: %s", n.log)
			}
			n.FetchNow(t.Context(), all)
			n.FetchNow(t.Context(), all)
			n.Resolve(all)
			for kind, name := range names {
				if st := n.find(t, kind, name); !st.OK || !strings.HasPrefix(st.Disk, "is not kept on disk") || !strings.Contains(st.Disk, "not a ") {
					t.Errorf("state is %+v", st)
				}
			}
			if c := strings.Count(n.log.String(), "the disk does not follow"); c != len(names) {
				t.Errorf("logged %d times: %s", c, n.log)
			}
		})
	}

	// Once it can be written, all is kept and nothing is said any more.
	cache := filepath.Join(t.TempDir(), "trust")
	if err := os.WriteFile(cache, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, t.TempDir(), cache)
	n.Resolve(all)
	n.start(t)
	every := func(is func(State) bool) func() bool {
		return func() bool {
			n.Resolve(all)
			for kind, name := range names {
				if st := n.find(t, kind, name); !st.OK || !is(st) {
					return false
				}
			}
			return true
		}
	}
	until(t, "it is told", every(func(s State) bool { return s.Disk != "" }))
	if err := os.Remove(cache); err != nil {
		t.Fatal(err)
	}
	n.later(27 * time.Hour)
	until(t, "it is told no more", every(func(s State) bool { return s.Disk == "" }))
	again := newNode(t, n.dir, cache)
	again.Resolve(all)
	for kind, name := range names {
		if st := again.find(t, kind, name); !st.OK {
			t.Errorf("after a restart: %+v", st)
		}
	}
}
