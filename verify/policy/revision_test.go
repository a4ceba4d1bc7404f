package policy

import (
	"crypto"
	"crypto/sha256"
	"reflect"
	"regexp"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// everyField are documents, made by hand, in which everything is set that can be, each change of which must change the
// revision: a verdict is cached by it.
func everyField(t *testing.T) Documents {
	parsed := mustParse(t, keyPolicy(t, "p", "**", "P-256"))[0]
	key := parsed.Authorities[0].Key.PublicKeys[0]
	rule := func() *Rule { return &Rule{Type: "cue", Text: "a: 1"} }
	ref := func() *Reference { return &Reference{Namespace: "n", Name: "s", Key: "k"} }
	keyless := func(k Keyless) Authority {
		k.Identities = []Identity{{Issuer: "i", Subject: "s"}, {IssuerRegExp: regexp.MustCompile("i"), SubjectRegExp: regexp.MustCompile("s")}}
		k.URL, k.TrustRoot = "https://f.example", "r"
		return Authority{Name: "keyless", Keyless: &k, Log: &Log{URL: "https://l.example", TrustRoot: "l"}, Timestamp: &Timestamp{TrustRoot: "t"}}
	}
	data := keyless(Keyless{CA: &Certificates{PEM: "pem"}})
	data.Attestations = []Attestation{
		{Name: "a", PredicateType: "vuln", Rule: rule()},
		{Name: "b", PredicateType: "link", Rule: &Rule{Type: "rego", Remote: &Remote{URL: "https://u.example", SHA256: hex64("a")}}},
	}
	data.Source = &Source{Repository: "ghcr.io/a/b", TagPrefix: "v", PullSecrets: []string{"s", "t"}}
	authority := CertificateAuthority{Organization: "o", CommonName: "c", URI: "https://ca.example", CertChain: []byte("chain"), ValidFrom: time.Unix(1, 0), ValidUntil: time.Unix(2, 0)}
	log := LogInstance{BaseURL: "https://l.example", HashAlgorithm: "sha256", PublicKey: []byte("key")}
	return Documents{
		Policies: []*Policy{
			{
				Name: "p", Globs: parsed.Globs, Rule: &Rule{Type: "cue", ConfigMap: ref()},
				Match: []Match{{Group: "g", Version: "v", Resource: "pods", Labels: labels.SelectorFromSet(labels.Set{"a": "b"})}},
				Authorities: []Authority{
					{Name: "data", Key: &Key{PublicKeys: []PublicKey{key}, Hash: crypto.SHA256}, Format: LegacyFormat},
					{Name: "secret", Key: &Key{Secret: ref(), Hash: crypto.SHA256}},
					{Name: "kms", Key: &Key{KMS: "hashivault://k", Hash: crypto.SHA256}},
					data,
					keyless(Keyless{CA: &Certificates{Secret: ref()}}),
					{Name: "static", Static: &Static{Message: "m"}},
				},
			},
		},
		TrustRoots: []*TrustRoot{
			{Name: "keys", Keys: &SigstoreKeys{
				CertificateAuthorities: []CertificateAuthority{authority}, TimestampAuthorities: []CertificateAuthority{authority},
				TLogs: []LogInstance{log}, CTLogs: []LogInstance{log},
			}},
			{Name: "repository", Repository: &TUFRepository{Root: []byte("r"), MirrorFS: []byte("m"), Targets: "t", Target: "f"}},
			{Name: "remote", Remote: &TUFRemote{Root: []byte("r"), Mirror: "https://m.example", Targets: "t", Target: "f"}},
			{Name: "json", JSON: []byte("{}")},
		},
	}
}

func hex64(digit string) string {
	s := ""
	for range 64 {
		s += digit
	}
	return s
}

// Every field is found by walking over the documents, so that none can be added and be forgotten in the revision.
func TestRevisionChangesWithEveryFieldThereIs(t *testing.T) {
	start := revision(setOfAll(everyField(t)))
	if again := revision(setOfAll(everyField(t))); again != start {
		t.Fatal("the same documents have two revisions")
	}
	count, seen := 0, map[string]string{start: "nothing"}
	for n := 0; ; n++ {
		all, w := everyField(t), walk{stop: n}
		w.visit(reflect.ValueOf(&all).Elem(), "")
		if w.path == "" {
			break
		}
		count++
		got := revision(setOfAll(all))
		if twin, ok := seen[got]; ok {
			t.Errorf("changing %s gives the revision of changing %s", w.path, twin)
		}
		seen[got] = w.path
	}
	if count < 150 {
		t.Errorf("only %d changes were tried", count)
	}
}

func setOfAll(d Documents) *Set { return &Set{policies: d.Policies, trustRoots: d.TrustRoots} }

// walk changes the field with the number stop.
type walk struct {
	seen, stop int
	path       string
}

func (w *walk) turn(path string) bool {
	if w.path == "" && w.seen == w.stop {
		w.path = path
	}
	w.seen++
	return w.path == path
}

func (w *walk) visit(v reflect.Value, path string) {
	if w.path != "" {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case **regexp.Regexp:
		if *x == nil {
			if w.turn(path + " set") {
				*x = regexp.MustCompile("other")
			}
		} else if w.turn(path) {
			*x = regexp.MustCompile((*x).String() + "x")
		}
		return
	case *labels.Selector:
		for _, other := range []labels.Selector{nil, labels.Nothing(), labels.Everything()} {
			if w.turn(path) {
				*x = other
				return
			}
			path += "'"
		}
		return
	case *time.Time:
		if w.turn(path) {
			*x = x.Add(time.Nanosecond)
		}
		return
	case *Glob:
		if w.turn(path) {
			*x = Glob{written: "other"}
		}
		return
	case *PublicKey:
		sum := sha256.Sum256([]byte("other"))
		if w.turn(path + ".Fingerprint") {
			x.Fingerprint = string(sum[:])
		} else if w.turn(path + ".Hash") {
			x.Hash = crypto.SHA512
		} else if w.turn(path + ".HashWritten") {
			x.HashWritten = !x.HashWritten
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			// Where it was read is not what it means.
			if field := v.Type().Field(i); (field.Name != "Source" || field.Type.Kind() != reflect.String) && field.Type != reflect.TypeFor[fieldLines]() {
				w.visit(v.Field(i), path+"."+field.Name)
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			if w.turn(path + " set") {
				v.Set(reflect.New(v.Type().Elem()))
			}
			return
		}
		w.visit(v.Elem(), path)
		if t := v.Type().Elem(); t == reflect.TypeFor[Policy]() || t == reflect.TypeFor[TrustRoot]() {
			return // a set holds none that is nil
		}
		if w.turn(path + " removed") {
			v.SetZero()
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			if w.turn(path) {
				v.SetBytes(append([]byte("x"), v.Bytes()...))
			}
			return
		}
		for i := range v.Len() {
			w.visit(v.Index(i), index(path, i))
		}
		if v.Len() > 0 && w.turn(path+" repeated") {
			v.Set(reflect.Append(v, v.Index(0)))
		} else if v.Len() > 0 && w.turn(path+" shortened") {
			v.Set(v.Slice(0, v.Len()-1))
		}
	case reflect.String:
		if w.turn(path) {
			v.SetString(v.String() + "x")
		}
	case reflect.Bool:
		if w.turn(path) {
			v.SetBool(!v.Bool())
		}
	case reflect.Int:
		if w.turn(path) {
			v.SetInt(v.Int() + 1)
		}
	case reflect.Uint:
		if w.turn(path) {
			v.SetUint(v.Uint() + 1)
		}
	default:
		w.path = "a field of a kind that this test does not know: " + path
	}
}

// Text that moves from one field into the next is another meaning.
func TestRevisionKeepsFieldsApart(t *testing.T) {
	set := func(a, b string) string {
		d := everyField(t)
		d.Policies[0].Authorities[3].Keyless.Identities[0] = Identity{Issuer: a, Subject: b}
		return revision(setOfAll(d))
	}
	if set("ab", "c") == set("a", "bc") {
		t.Error("issuer and subject run into each other")
	}
}

func TestNewSetRefusesHalfDocuments(t *testing.T) {
	if _, err := NewSet(everyField(t)); err != nil {
		t.Fatalf("unspoilt: %v", err)
	}
	for rule, spoil := range map[string]func(d *Documents){
		"key without any":                 func(d *Documents) { d.Policies[0].Authorities[0].Key = &Key{Hash: crypto.SHA256} },
		"key with two sources":            func(d *Documents) { d.Policies[0].Authorities[0].Key.KMS = "hashivault://k" },
		"secret without hash":             func(d *Documents) { d.Policies[0].Authorities[1].Key.Hash = 0 },
		"secret that leads elsewhere":     func(d *Documents) { d.Policies[0].Authorities[1].Key.Secret.Name = "../x" },
		"secret without namespace":        func(d *Documents) { d.Policies[0].Authorities[1].Key.Secret.Namespace = "" },
		"secret with an impossible key":   func(d *Documents) { d.Policies[0].Authorities[1].Key.Secret.Key = "../x" },
		"key and keyless":                 func(d *Documents) { d.Policies[0].Authorities[0].Keyless = d.Policies[0].Authorities[3].Keyless },
		"no identities":                   func(d *Documents) { d.Policies[0].Authorities[3].Keyless.Identities = nil },
		"identity for everybody":          func(d *Documents) { d.Policies[0].Authorities[3].Keyless.Identities[0] = Identity{} },
		"identity without subject":        func(d *Documents) { d.Policies[0].Authorities[3].Keyless.Identities[0].Subject = "" },
		"identity with two issuers":       func(d *Documents) { d.Policies[0].Authorities[3].Keyless.Identities[1].Issuer = "x" },
		"empty ca-cert":                   func(d *Documents) { d.Policies[0].Authorities[3].Keyless.CA = &Certificates{} },
		"ca-cert twice":                   func(d *Documents) { d.Policies[0].Authorities[4].Keyless.CA.PEM = "x" },
		"ca-cert that leads elsewhere":    func(d *Documents) { d.Policies[0].Authorities[4].Keyless.CA.Secret.Name = ".." },
		"attestation without type":        func(d *Documents) { d.Policies[0].Authorities[3].Attestations[0].PredicateType = "" },
		"attestation without name":        func(d *Documents) { d.Policies[0].Authorities[3].Attestations[0].Name = "" },
		"attestation with an empty rule":  func(d *Documents) { d.Policies[0].Authorities[3].Attestations[0].Rule = &Rule{} },
		"remote without sum":              func(d *Documents) { d.Policies[0].Authorities[3].Attestations[1].Rule.Remote.SHA256 = "" },
		"pull secret without name":        func(d *Documents) { d.Policies[0].Authorities[3].Source.PullSecrets[0] = "" },
		"static with attestations":        func(d *Documents) { d.Policies[0].Authorities[5].Attestations = []Attestation{{}} },
		"static with ctlog":               func(d *Documents) { d.Policies[0].Authorities[5].Log = &Log{} },
		"static with source":              func(d *Documents) { d.Policies[0].Authorities[5].Source = &Source{} },
		"static with timestamp":           func(d *Documents) { d.Policies[0].Authorities[5].Timestamp = &Timestamp{} },
		"rule without text":               func(d *Documents) { d.Policies[0].Rule = &Rule{Type: "cue"} },
		"rule of unknown type":            func(d *Documents) { d.Policies[0].Rule.Type = "x" },
		"rule with two texts":             func(d *Documents) { d.Policies[0].Rule.Text = "a: 1" },
		"rule from a ConfigMap elsewhere": func(d *Documents) { d.Policies[0].Rule.ConfigMap.Namespace = ".." },
		"TrustRoot: nil":                  func(d *Documents) { d.TrustRoots = append(d.TrustRoots, nil) },
		"TrustRoot: no name":              func(d *Documents) { d.TrustRoots[0].Name = "" },
		"TrustRoot: nothing":              func(d *Documents) { d.TrustRoots[0].Keys = nil },
		"TrustRoot: two":                  func(d *Documents) { d.TrustRoots[0].JSON = []byte("{}") },
		"TrustRoot: no authority":         func(d *Documents) { d.TrustRoots[0].Keys = &SigstoreKeys{} },
		"TrustRoot: no root":              func(d *Documents) { d.TrustRoots[1].Repository.Root = nil },
		"TrustRoot: no mirror":            func(d *Documents) { d.TrustRoots[2].Remote.Mirror = "" },
		"TrustRoot: too many":             func(d *Documents) { d.TrustRoots = make([]*TrustRoot, MaxTrustRoots+1) },
	} {
		d := everyField(t)
		spoil(&d)
		if s, err := NewSet(d); err == nil || s != nil {
			t.Errorf("%s: accepted", rule)
		}
	}
}
