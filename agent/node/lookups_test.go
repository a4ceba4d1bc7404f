package node

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// An answer that was asked for before an image changed, and arrives after it, is about the past.
func TestAnEventBetweenLookupAndPut(t *testing.T) {
	key := lookup{id: digest.FromString("x").String()}
	for name, change := range map[string]func(*lookups){
		"an event":             (*lookups).forget,
		"a stream that breaks": (*lookups).disable,
		"a new stream":         func(l *lookups) { l.disable(); l.enable() },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLookups()
			l.enable()
			generation := l.generation()
			change(l)
			l.put(key, Image{ID: key.id}, generation)
			l.on = true // without enable, which forgets
			if _, ok := l.get(key); ok {
				t.Error("an answer from before is remembered")
			}
		})
	}
	l := newLookups()
	generation := l.generation()
	l.enable()
	l.put(key, Image{ID: key.id}, generation)
	if _, ok := l.get(key); ok {
		t.Error("an answer from before the stream is remembered")
	}
	l.put(key, Image{ID: key.id}, l.generation())
	if _, ok := l.get(key); !ok {
		t.Error("nothing is ever remembered")
	}
}
