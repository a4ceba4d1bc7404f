package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// agentPath is the package that cosentry is built of.
const agentPath = "github.com/cosentry/cosentry/agent"

// packed reads a cosentry that is built already, and what its build record says of it. A version that was set when it was linked is not
// in that record, and what the folder around it is by now says nothing of it: so it is called devel, whatever it is.
func packed(program, repository string) (about, []build, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return about{}, nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return about{}, nil, fmt.Errorf("reading the build record of %s: %w", program, err)
	}
	if info.Path != agentPath {
		return about{}, nil, fmt.Errorf("%s is a build of %q, not of %s", program, info.Path, agentPath)
	}
	said := map[string]string{}
	for _, s := range info.Settings {
		said[s.Key] = s.Value
	}
	a := about{repository: repository, version: unreleased, revision: said["vcs.revision"]}
	if len(a.revision) >= 12 {
		a.version += "-" + a.revision[:12]
	}
	if said["vcs.modified"] == "true" {
		a.version += modified
		a.revision += modified
	}
	if at := said["vcs.time"]; at != "" {
		if a.created, err = time.Parse(time.RFC3339, at); err != nil {
			return about{}, nil, fmt.Errorf("the time of the commit that %s is built of: %w", program, err)
		}
	}
	return a, []build{{platform: v1.Platform{OS: said["GOOS"], Architecture: said["GOARCH"]}, data: data}}, nil
}
