package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

const (
	aRule     = "predicateType: \"https://cosign.sigstore.dev/attestation/vuln/v1\"\n"
	brokenCUE = "a: {"
)

func configMapPolicy(t *testing.T) *policy.Set {
	t.Helper()
	return set(t, `  - key:
      kms: hashivault://unused
    attestations:
    - name: vuln
      predicateType: vuln
      policy:
        type: cue
        configMapRef:
          name: rules
          key: vuln.cue`)
}

func TestRuleInAConfigMap(t *testing.T) {
	n, s := fresh(t), configMapPolicy(t)
	_, err := n.Resolve(s).Rule(ruleOf(s))
	mustFail(t, err, ErrMissing, "configmap cosign-system/rules/vuln.cue")

	n.write(t, "configmaps/cosign-system/rules/vuln.cue", aRule)
	good := n.Resolve(s)
	if text, err := good.Rule(ruleOf(s)); err != nil || text != aRule {
		t.Errorf("got %q, error %v", text, err)
	}
	if st := n.find(t, KindConfigMap, "cosign-system/rules/vuln.cue"); !st.OK {
		t.Errorf("state is %+v", st)
	}

	n.write(t, "configmaps/cosign-system/rules/vuln.cue", brokenCUE)
	broken := n.Resolve(s)
	text, err := broken.Rule(ruleOf(s))
	mustFail(t, err, ErrInvalid, "as a cue rule")
	if text != "" || broken.Revision() == good.Revision() {
		t.Errorf("a rule that does not compile is given as %q, or has no revision of its own", text)
	}
	if st := n.find(t, KindConfigMap, "cosign-system/rules/vuln.cue"); st.OK || st.Error == "" {
		t.Errorf("state is %+v", st)
	}
}

// rulesServer serves rules over https with a certificate that the environment trusts.
func rulesServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	config, err := services.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// remotePolicy has one remote rule. The parser takes https alone; what is under it must hold for itself.
func remotePolicy(t *testing.T, url, sum string) *policy.Set {
	t.Helper()
	s := configMapPolicy(t)
	r := ruleOf(s)
	r.ConfigMap, r.Remote = nil, &policy.Remote{URL: url, SHA256: sum}
	return s
}

func TestRemoteRuleIsFetchedOnceAndKept(t *testing.T) {
	var asked atomic.Int32
	url := rulesServer(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, aRule)
	})
	n, s := fresh(t), remotePolicy(t, url, sha(aRule))
	_, err := n.Resolve(s).Rule(ruleOf(s))
	mustFail(t, err, ErrUnavailable, notFetchedYet)
	stop := n.start(t)
	has := func(n *node) func() bool {
		return func() bool {
			text, err := n.Resolve(s).Rule(ruleOf(s))
			return err == nil && text == aRule
		}
	}
	until(t, "the rule is there", has(n))
	n.later(1000 * time.Hour)
	stop()
	again := newNode(t, n.dir, n.cache)
	if !has(again)() {
		t.Error("it is not there after a restart")
	}
	again.FetchNow(t.Context(), s)
	if asked.Load() != 1 {
		t.Errorf("asked for %d times", asked.Load())
	}

	file := filepath.Join(n.cache, rulesFolder, fileName(sha(aRule)))
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := newNode(t, n.dir, n.cache).Resolve(s).Rule(ruleOf(s))
	if mustFail(t, err, ErrUnavailable, notFetchedYet); text != "" {
		t.Errorf("a kept rule that was changed is given: %q", text)
	}
}

func TestRemoteRulesThatAreNotTaken(t *testing.T) {
	large := strings.Repeat(" ", int(limits.RemoteRule.Max())+1)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, aRule) }))
	t.Cleanup(plain.Close)
	url := rulesServer(t, func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{"/to-http": plain.URL, "/to-metadata": "https://169.254.169.254/latest", "/to-itself": "/to-itself", "/to-file": "file:///etc/passwd"}
		switch {
		case to[r.URL.Path] != "":
			http.Redirect(w, r, to[r.URL.Path], http.StatusFound)
		case r.URL.Path == "/large":
			fmt.Fprint(w, large)
		case r.URL.Path == "/broken":
			fmt.Fprint(w, brokenCUE)
		case r.URL.Path == "/gone":
			http.Error(w, aRule, http.StatusGone)
		default:
			fmt.Fprint(w, aRule)
		}
	})
	self := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, aRule) }))
	self.Config.ErrorLog = log.New(io.Discard, "", 0)
	self.StartTLS()
	t.Cleanup(self.Close)
	for name, tt := range map[string]struct {
		url, sum string
		class    error
		words    string
	}{
		"another hash":                    {url, sha("x"), ErrUnavailable, "not the policy's"},
		"plain http":                      {plain.URL, sha(aRule), ErrUnavailable, "only https"},
		"led to plain http":               {url + "/to-http", sha(aRule), ErrUnavailable, "only https"},
		"led to a file":                   {url + "/to-file", sha(aRule), ErrUnavailable, "only https"},
		"led to the cloud's metadata":     {url + "/to-metadata", sha(aRule), ErrUnavailable, "link-local"},
		"the cloud's metadata":            {"https://169.254.169.254/latest", sha(aRule), ErrUnavailable, "link-local"},
		"the same, spelt as IPv6":         {"https://[::ffff:169.254.169.254]/", sha(aRule), ErrUnavailable, "link-local"},
		"led on and on":                   {url + "/to-itself", sha(aRule), ErrUnavailable, "redirects"},
		"too large":                       {url + "/large", sha(large), ErrUnavailable, "bound"},
		"an error page that has the hash": {url + "/gone", sha(aRule), ErrUnavailable, "410"},
		"of a server that nobody vouches": {self.URL, sha(aRule), ErrUnavailable, "certificate"},
		"that does not compile":           {url + "/broken", sha(brokenCUE), ErrInvalid, "as a cue rule"},
		"no URL":                          {"https://%zz", sha(aRule), ErrUnavailable, "not a URL"},
		"a host that nobody has":          {"https://127.0.0.1:1/", sha(aRule), ErrUnavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			n, s := fresh(t), remotePolicy(t, tt.url, tt.sum)
			n.FetchNow(t.Context(), s)
			text, err := n.Resolve(s).Rule(ruleOf(s))
			if text != "" {
				t.Errorf("got %q", text)
			}
			mustFail(t, err, tt.class, tt.words)
			if st := n.find(t, KindRemote, tt.url); st.OK || st.Error == "" {
				t.Errorf("state is %+v", st)
			}
			if tt.class == ErrUnavailable {
				if files, err := os.ReadDir(filepath.Join(n.cache, rulesFolder)); err == nil && len(files) > 0 {
					t.Errorf("kept on disk: %v", files)
				}
			}
		})
	}
}

// A name that resolves to a link-local address does not slip past.
func TestLinkLocalAddressesAreNotDialled(t *testing.T) {
	for _, addr := range []string{"169.254.169.254:443", "[fe80::1%eth0]:443", "[fd00:ec2::254]:443", "[64:ff9b::a9fe:a9fe]:443", "100.100.100.200:443", "nonsense"} {
		if err := notLocalToLink("tcp", addr, nil); err == nil {
			t.Errorf("%s is dialled", addr)
		}
	}
	for _, addr := range []string{"127.0.0.1:443", "[2001:db8::1]:443", net.JoinHostPort("10.0.0.1", "443")} {
		if err := notLocalToLink("tcp", addr, nil); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestRemoteRuleThatCouldNotBeHadIsTriedAgain(t *testing.T) {
	var up atomic.Bool
	url := rulesServer(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, aRule)
	})
	var seen atomic.Int32
	n := fresh(t, func(o *Options) { o.Observe = func(_, _ string, err error) { seen.Add(1) } })
	s := remotePolicy(t, url, sha(aRule))
	n.Resolve(s)
	n.start(t)
	until(t, "it has failed", func() bool { return n.find(t, KindRemote, url).Error == "the server answers 503" })
	up.Store(true)
	n.later(time.Minute)
	until(t, "it is there", func() bool { _, err := n.Resolve(s).Rule(ruleOf(s)); return err == nil })
	if seen.Load() < 2 {
		t.Errorf("observed %d tries", seen.Load())
	}
}
