package evidence

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/limits"
)

func TestFromDockerConfig(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	entry := func(user string) string { return fmt.Sprintf(`{"username":%q,"password":"p"}`, user) }
	for _, c := range []struct {
		name, raw, repository string
		users                 []string
	}{
		{"the new shape", `{"auths":{"registry.example":{"auth":"` + basic + `"}}}`, "registry.example/app", []string{"ann"}},
		{"the old shape", `{"registry.example":{"auth":"` + basic + `"}}`, "registry.example/app", []string{"ann"}},
		{"the old shape, with others' settings", `{"credsStore":"x","https://registry.example/v1/":` + entry("bob") + `,"n":[1]}`, "registry.example/app", []string{"bob"}},
		{"docker hub by another name", `{"auths":{"https://index.docker.io/v1/":` + entry("bob") + `}}`, "docker.io/library/app", []string{"bob"}},
		{"the most specific first", `{"auths":{"registry.example":` + entry("all") + `,"registry.example/team":` + entry("team") + `}}`, "registry.example/team/app", []string{"team", "all"}},
		{"another path", `{"auths":{"registry.example/team":` + entry("team") + `}}`, "registry.example/team-of-others/app", nil},
		{"another host", `{"auths":{"registry.example":` + entry("bob") + `}}`, "registry.example.evil/app", nil},
		{"a glob for one name of the host", `{"auths":{"*.registry.example":` + entry("bob") + `}}`, "a.b.registry.example/app", nil},
		{"no entries", `{"auths":{}}`, "registry.example/app", nil},
		{"an empty secret", `{}`, "registry.example/app", nil},
		{"an entry with nothing in it", `{"auths":{"registry.example":{}}}`, "registry.example/app", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := FromDockerConfig([]byte(c.raw), c.repository)
			if err != nil {
				t.Fatal(err)
			}
			var users []string
			for _, one := range found {
				users = append(users, one.Username)
			}
			if fmt.Sprint(users) != fmt.Sprint(c.users) {
				t.Errorf("%q, want %q", users, c.users)
			}
		})
	}
}

func TestPullSecretsThatAreNone(t *testing.T) {
	var many strings.Builder
	for i := range limits.Credentials.Max() + 1 {
		fmt.Fprintf(&many, `"registry.example%s":{"username":"u"},`, strings.Repeat("/a", int(i)))
	}
	for name, raw := range map[string]string{
		"nothing":             "",
		"null":                "null",
		"a list":              "[]",
		"text":                "topsecret",
		"auths of no shape":   `{"auths":"topsecret"}`,
		"too large":           `{"auths":{"a":{"auth":"` + strings.Repeat("topsecret", maxDockerConfig/8) + `"}}}`,
		"too many elements":   `{"auths":{` + strings.Repeat(`"a":{},`, int(limits.Elements.Max())) + `"topsecret":{}}}`,
		"too many that match": `{"auths":{` + many.String() + `"x":{}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			found, err := FromDockerConfig([]byte(raw), "registry.example"+strings.Repeat("/a", 40))
			if err == nil || found != nil {
				t.Errorf("%v, %v", found, err)
			}
			if err != nil && strings.Contains(err.Error(), "topsecret") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := FromDockerConfig([]byte(`{}`), "app"); err == nil {
		t.Error("a name that is no repository's canonical one")
	}
}

func FuzzFromDockerConfig(f *testing.F) {
	for _, seed := range []string{`{"auths":{"registry.example":{"auth":"YTpi"}}}`, `{"registry.example/x":{"username":"a"}}`, `{"auths":null}`, `{"http://[::1":{"auth":"YTpi"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := FromDockerConfig(raw, "registry.example/team/app")
		if err != nil && found != nil {
			t.Error("credentials beside an error")
		}
		var exceeded *limits.Exceeded
		if n := int64(len(found)); n > limits.Credentials.Max() || errors.As(err, &exceeded) && n > 0 {
			t.Errorf("%d credentials", n)
		}
		for _, c := range found {
			if c.IsZero() {
				t.Error("credentials that are none")
			}
		}
	})
}
