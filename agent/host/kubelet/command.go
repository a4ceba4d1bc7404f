package kubelet

import (
	"fmt"
	"path"
	"strings"
)

// The flags that matter.
const (
	runtimeFlag   = "container-runtime-endpoint"
	imageFlag     = "image-service-endpoint"
	configFlag    = "config"
	configDirFlag = "config-dir"
)

// command is a command line, each byte with its origin.
type command struct {
	words [][]char
	// origin says in words what a byte without a file is part of.
	origin string
}

// expand puts kubelet's command line together as systemd does: from the unit's ExecStart with the variables of
// Environment= and of its environment files, of which the later win.
func expand(t tree, f Facts) (command, error) {
	vars := map[string][]char{}
	for _, assignment := range f.Environment {
		if name, value, ok := strings.Cut(assignment, "="); ok {
			vars[name] = literal(value)
		}
	}
	for _, p := range f.EnvironmentFiles {
		p, optional := strings.CutPrefix(p, "-")
		if strings.ContainsAny(p, "*?[") {
			return command{}, fmt.Errorf("%w: unit %s has a pattern for an environment file, %s; name its files one by one", ErrByHand, f.Unit, shown(p))
		}
		read, err := t.read(p)
		if optional && absent(err) {
			continue
		}
		if err != nil {
			return command{}, fmt.Errorf("%w: unit %s: %w", ErrByHand, f.Unit, err)
		}
		env, err := parseEnv(p, read)
		if err != nil {
			return command{}, fmt.Errorf("%w: %w", ErrByHand, err)
		}
		for name, value := range env.vars {
			vars[name] = value
		}
	}
	c := command{origin: "unit " + f.Unit}
	for _, argument := range f.Exec[1:] {
		expanded, err := expandWord(argument, vars)
		if err != nil {
			return command{}, fmt.Errorf("%w: unit %s: %w", ErrByHand, f.Unit, err)
		}
		c.words = append(c.words, expanded...)
	}
	return c, nil
}

// expandWord replaces variables: $NAME as a word of its own becomes as many words as it has, ${NAME} stays within its
// word, $$ is a dollar.
func expandWord(argument string, vars map[string][]char) ([][]char, error) {
	if name, ok := strings.CutPrefix(argument, "$"); ok && name != "" && name[0] != '{' && name[0] != '$' {
		out, err := words(vars[name])
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", shown(name), err)
		}
		return out, nil
	}
	var word []char
	for rest := argument; rest != ""; {
		switch end := strings.IndexByte(rest, '}'); {
		case strings.HasPrefix(rest, "$$"):
			word, rest = append(word, char{c: '$'}), rest[2:]
		case strings.HasPrefix(rest, "${") && end > 0:
			word, rest = append(word, vars[rest[2:end]]...), rest[end+1:]
		default:
			word, rest = append(word, char{c: rest[0]}), rest[1:]
		}
	}
	return [][]char{word}, nil
}

// running is the command line of the process itself, which no file can be changed for.
func running(args []string) command {
	c := command{origin: "the running kubelet's command line"}
	for _, a := range args[1:] {
		c.words = append(c.words, literal(a))
	}
	return c
}

// flag finds a flag's value. Of several the last one counts; underscores are hyphens to kubelet.
func (c command) flag(name string) (value []char, ok bool) {
	for i, word := range c.words {
		given, inline := text(word), false
		if given == "--" {
			break
		}
		given, isFlag := strings.CutPrefix(given, "--")
		if !isFlag {
			continue
		}
		given, _, inline = strings.Cut(given, "=")
		if strings.ReplaceAll(given, "_", "-") != name {
			continue
		}
		switch {
		case inline:
			value, ok = word[len("--")+len(given)+len("="):], true
		case i+1 < len(c.words):
			value, ok = c.words[i+1], true
		default:
			value, ok = nil, true
		}
	}
	return value, ok
}

// source says where a flag that sets an endpoint can be changed.
func (c command) source(name string) (source, bool) {
	value, ok := c.flag(name)
	if !ok {
		return source{}, false
	}
	s := source{value: text(value), words: fmt.Sprintf("flag --%s of %s", name, c.origin)}
	s.hand = fmt.Sprintf("set --%s={to} where kubelet's command line is written (systemctl cat kubelet shows it), run "+
		"systemctl daemon-reload, and run this again", name)
	if len(value) == 0 || value[0].in == nil {
		return s, true
	}
	for i, v := range value {
		if v.in != value[0].in || v.name != value[0].name || i > 0 && v.lo != value[i-1].hi {
			return s, true // put together from several places
		}
	}
	s.words = fmt.Sprintf("flag --%s in %s of %s", name, value[0].name, value[0].in.path)
	s.path, s.set = value[0].in.path, setEnv(value)
	return s, true
}

// known says whether the program of a command line is kubelet itself. A script in its place may add anything.
func known(program string) bool { return path.Base(program) == "kubelet" }
