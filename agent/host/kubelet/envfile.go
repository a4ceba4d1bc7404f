package kubelet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// char is one byte of a command line and where it was written. A flag is found on the command line that systemd puts
// together, and has to be changed in the file that its value came from.
type char struct {
	c byte
	// in is the environment file, nil where the byte is the unit's own. lo and hi are what stands for it there.
	in     *envFile
	name   string // of the variable
	lo, hi int
}

func text(chars []char) string {
	var b strings.Builder
	for _, c := range chars {
		b.WriteByte(c.c)
	}
	return b.String()
}

// literal is text that is in no file that could be changed.
func literal(s string) []char {
	chars := make([]char, len(s))
	for i := range chars {
		chars[i].c = s[i]
	}
	return chars
}

// envFile is an environment file as systemd reads it.
type envFile struct {
	path string
	data []byte
	vars map[string][]char
}

// errContinued is about the one form that versions of systemd read differently.
var errContinued = errors.New("a comment ends in a backslash, which systemd before and after 254 reads differently")

// parseEnv follows systemd's own reader, state by state: quotes count only where a value begins or after another
// quoted part, a backslash joins lines, the last assignment of a name wins.
func parseEnv(path string, data []byte) (*envFile, error) {
	f := &envFile{path: path, data: data, vars: map[string][]char{}}
	s := scanner{data: data}
	for {
		s.skip(" \t\r\n")
		if s.at == len(data) {
			return f, nil
		}
		if data[s.at] == '#' || data[s.at] == ';' {
			if line := s.until("\n"); strings.HasSuffix(line, `\`) {
				return nil, fmt.Errorf("environment file %s: %w", path, errContinued)
			}
			continue
		}
		name := s.until("=\n")
		if s.at == len(data) || data[s.at] == '\n' {
			continue // no assignment: systemd skips the line
		}
		s.at++
		value, err := s.value()
		if err != nil {
			return nil, fmt.Errorf("environment file %s: the value of %s: %w", path, shown(name), err)
		}
		name = strings.TrimRight(name, " \t\r")
		for i := range value {
			value[i].in, value[i].name = f, name
		}
		f.vars[name] = value
	}
}

type scanner struct {
	data []byte
	at   int
}

func (s *scanner) skip(set string) {
	for s.at < len(s.data) && strings.IndexByte(set, s.data[s.at]) >= 0 {
		s.at++
	}
}

func (s *scanner) until(set string) string {
	start := s.at
	for s.at < len(s.data) && strings.IndexByte(set, s.data[s.at]) < 0 {
		s.at++
	}
	return string(s.data[start:s.at])
}

// value reads what stands behind the equals sign, to the end of the line or of what it continues on.
func (s *scanner) value() ([]char, error) {
	var out []char
	take := func(n int) {
		out = append(out, char{c: s.data[s.at+n-1], lo: s.at, hi: s.at + n})
		s.at += n
	}
	for {
		s.skip(" \t\r")
		if s.at == len(s.data) || s.data[s.at] == '\n' {
			return out, nil
		}
		switch quote := s.data[s.at]; quote {
		case '\'', '"':
			s.at++
			for s.at < len(s.data) && s.data[s.at] != quote {
				escaped := quote == '"' && s.data[s.at] == '\\' && s.at+1 < len(s.data)
				switch {
				case escaped && s.data[s.at+1] == '\n':
					s.at += 2
				case escaped && strings.IndexByte("\"\\`$", s.data[s.at+1]) >= 0:
					take(2)
				default:
					take(1)
				}
			}
			if s.at == len(s.data) {
				return nil, errors.New("a quote is not closed")
			}
			s.at++
		default:
			kept := len(out)
			for s.at < len(s.data) && s.data[s.at] != '\n' {
				switch {
				case s.data[s.at] != '\\':
					if take(1); strings.IndexByte(" \t\r", out[len(out)-1].c) < 0 {
						kept = len(out)
					}
				case s.at+1 == len(s.data):
					s.at++
				case s.data[s.at+1] == '\n':
					s.at += 2
				default:
					take(2)
					kept = len(out)
				}
			}
			return out[:kept], nil
		}
	}
}

// words splits a variable as systemd splits $NAME: at white space, quotes and backslashes honoured.
func words(value []char) ([][]char, error) {
	var out [][]char
	var word []char
	inWord, quote := false, byte(0)
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c.c == '\\' && quote != '\'' && i+1 < len(value):
			i++
			inWord, word = true, append(word, value[i])
		case quote != 0 && c.c == quote:
			quote = 0
		case quote == 0 && (c.c == '"' || c.c == '\''):
			inWord, quote = true, c.c
		case quote == 0 && strings.IndexByte(" \t\r\n", c.c) >= 0:
			if inWord {
				out = append(out, word)
			}
			inWord, word = false, nil
		default:
			inWord, word = true, append(word, c)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		out = append(out, word)
	}
	return out, nil
}

// setEnv replaces a value of text in an environment file, given as the characters that make it up. The result is
// read again and compared: the same variables, and in one of them this text alone is another.
func setEnv(value []char) func([]byte, string) ([]byte, error) {
	return func(data []byte, to string) ([]byte, error) {
		f := value[0].in
		now, err := parseEnv(f.path, data)
		if err != nil {
			return nil, err
		}
		name := value[0].name
		whole := now.vars[name]
		first := slices.IndexFunc(whole, func(c char) bool { return c.lo == value[0].lo })
		if first < 0 || first+len(value) > len(whole) || text(whole[first:first+len(value)]) != text(value) {
			return nil, fmt.Errorf("environment file %s changed while it was read", f.path)
		}
		after := splice(data, value[0].lo, value[len(value)-1].hi, to)
		then, err := parseEnv(f.path, after)
		if err != nil {
			return nil, err
		}
		want := text(whole[:first]) + to + text(whole[first+len(value):])
		same := len(then.vars) == len(now.vars) && text(then.vars[name]) == want
		for other, v := range now.vars {
			same = same && (other == name || text(then.vars[other]) == text(v))
		}
		if !same {
			return nil, fmt.Errorf("environment file %s: %s cannot be set by changing its value alone", f.path, shown(text(value)))
		}
		return after, nil
	}
}
