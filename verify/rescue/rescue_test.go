package rescue_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/rescue"
)

func TestAPanicIsAnError(t *testing.T) {
	var empty []byte
	long := map[string]int{}
	for name, c := range map[string]struct {
		panics func()
		want   string
	}{
		"of the runtime":      {func() { _ = empty[len(long)] }, "index out of range"},
		"with a credential":   {func() { panic("Bearer secret\n" + strings.Repeat("x", 1000)) }, "a string"},
		"with an error":       {func() { panic(errors.New("secret")) }, "a *errors.errorString"},
		"with nil, as before": {func() { panic(nil) }, "nil"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
			err := rescue.Do(log, "reading a manifest", func() error { c.panics(); return nil })
			if !errors.Is(err, rescue.ErrPanicked) || !strings.Contains(err.Error(), "reading a manifest panicked") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
			for _, text := range []string{err.Error(), out.String()} {
				if strings.Contains(text, "secret") {
					t.Errorf("the panic's value is shown: %s", text)
				}
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
				t.Errorf("%d bytes: %s", len(err.Error()), err)
			}
			if !strings.Contains(out.String(), "rescue_test.go") || !strings.Contains(out.String(), `"DEBUG"`) {
				t.Errorf("no stack in the log: %s", &out)
			}
		})
	}
}

func TestWithoutAPanicNothingChanges(t *testing.T) {
	want := errors.New("not found")
	for _, err := range []error{want, nil} {
		if got := rescue.Do(nil, "it", func() error { return err }); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if err := rescue.Do(nil, "it", func() error { panic(1) }); !errors.Is(err, rescue.ErrPanicked) {
		t.Errorf("without a log: %v", err)
	}
}
