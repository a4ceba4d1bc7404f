package config

// Sandbox is about the image of which the runtime makes the sandboxes of pods.
type Sandbox struct {
	// Image is its name; empty: the runtime is asked.
	Image string `yaml:"image"`
	// Refuse refuses RunPodSandbox where that image is not accepted.
	Refuse bool `yaml:"refuse"`
}

// maxImageName is longer than any reference that a runtime takes.
const maxImageName = 1024

func (s Sandbox) validate(fault faulter) {
	if len(s.Image) > maxImageName {
		fault("sandbox.image", "%.64q… is longer than any image name", s.Image)
	}
}
