package rules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Rules that would run for hours, were they not written to end once the test is through. Both are sound to Check.
const (
	runawayRego = `
package sigstore
isCompliant {
	count([1 | a := numbers.range(1, 120)[_]; b := numbers.range(1, 120)[_]; a + b < 0]) == 0
}`
	runawayCUE = `
import "list"
n: list.Range(0, 100, 1)
c: len([for a in n for b in n if a+b < 0 {1}])`
)

// until waits for a condition that other goroutines bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for a minute: %s", what)
		}
	}
}

func (t *turns) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.late) == 0 && len(t.slots) == 0 && len(t.large) == 0
}

func TestARunawayRuleIsGivenUpAndNotBegunAgain(t *testing.T) {
	for kind, text := range map[string]string{Rego: runawayRego, CUE: runawayCUE} {
		t.Run(kind, func(t *testing.T) {
			if err := Check(kind, text); err != nil {
				t.Fatal(err)
			}
			turns := newTurns(4, time.Millisecond)
			_, err := turns.evaluate(t.Context(), "x", kind, text, []byte(`{}`))
			if err == nil || !strings.Contains(err.Error(), "given up") {
				t.Fatalf("%v", err)
			}
			var refused *Refused
			if errors.As(err, &refused) {
				t.Error("taken for the rule's own no")
			}
			if _, err := turns.evaluate(t.Context(), "x", kind, text, []byte(`{}`)); !errors.Is(err, errBusy) {
				t.Errorf("begun again: %v", err)
			}
			until(t, "the rule ends", turns.idle)
		})
	}
}

// asked is an evaluation of the tests' own, which ends when it is told to.
type asked struct {
	end  chan struct{}
	done chan error
}

func (a *asked) run(ctx context.Context, t *turns, q question) {
	a.end, a.done = make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		_, err := t.take(ctx, q, func() (string, error) {
			close(begun)
			<-a.end
			return "late", nil
		})
		a.done <- err
	}()
	<-begun
}

func distinct(rule, input int) question {
	return ask(CUE, fmt.Sprint(rule), []byte(fmt.Sprint(input)))
}

var errAnswer = errors.New("an answer")

func answers(t *turns, q question) error {
	_, err := t.take(context.Background(), q, func() (string, error) { return "", errAnswer })
	return err
}

func TestEvaluationsGivenUpAreBounded(t *testing.T) {
	turns := newTurns(4, time.Hour)
	var under [4]asked
	ctx, cancel := context.WithCancel(t.Context())
	giveUp := func(i int, q question) {
		under[i].run(ctx, turns, q)
		cancel()
		if err := <-under[i].done; !errors.Is(err, context.Canceled) {
			t.Fatalf("given up with %v", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
	}
	giveUp(0, distinct(1, 1))
	if err := answers(turns, distinct(1, 1)); !errors.Is(err, errBusy) {
		t.Errorf("the same question was begun again: %v", err)
	}
	if err := answers(turns, distinct(1, 2)); err != errAnswer {
		t.Errorf("the same rule about another input: %v", err)
	}
	giveUp(1, distinct(1, 2))
	if err := answers(turns, distinct(1, 3)); !errors.Is(err, errBusy) {
		t.Errorf("a third evaluation of one rule was begun: %v", err)
	}
	if err := answers(turns, distinct(2, 1)); err != errAnswer {
		t.Errorf("another rule: %v", err)
	}
	giveUp(2, distinct(2, 1))
	giveUp(3, distinct(3, 1))
	if err := answers(turns, distinct(4, 1)); !errors.Is(err, errBusy) {
		t.Errorf("a fifth evaluation was begun: %v", err)
	}
	for i := range under {
		close(under[i].end)
	}
	until(t, "all end", turns.idle)
	if err := answers(turns, distinct(1, 1)); err != errAnswer {
		t.Errorf("after all have ended: %v", err)
	}
	cancel()
}

func TestOneLargeInputAtATime(t *testing.T) {
	turns := newTurns(4, time.Hour)
	large := func(n string) question {
		return ask(CUE, n, []byte(strings.Repeat(",", largeInput)))
	}
	if !large("1").large || distinct(1, 1).large {
		t.Fatal("what is large?")
	}
	var first asked
	ctx, cancel := context.WithCancel(t.Context())
	first.run(ctx, turns, large("1"))
	if err := answers(turns, distinct(1, 1)); err != errAnswer {
		t.Errorf("a small input beside it: %v", err)
	}
	waiting, stop := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() {
		_, err := turns.take(waiting, large("2"), func() (string, error) { return "", errAnswer })
		stopped <- err
	}()
	stop()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("a second large input was begun: %v", err)
	}
	cancel()
	<-first.done
	if err := answers(turns, large("3")); !errors.Is(err, errBusy) {
		t.Errorf("a large input after one that does not end: %v", err)
	}
	close(first.end)
	until(t, "it ends", turns.idle)
	if err := answers(turns, large("3")); err != errAnswer {
		t.Errorf("after it has ended: %v", err)
	}
}

func TestWaitingForATurnEnds(t *testing.T) {
	turns := newTurns(1, 10*time.Millisecond)
	turns.slots <- struct{}{}
	if err := answers(turns, distinct(1, 1)); !errors.Is(err, errBusy) {
		t.Errorf("%v", err)
	}
	<-turns.slots
	if err := answers(turns, distinct(1, 1)); err != errAnswer {
		t.Errorf("%v", err)
	}
}

func TestAPanicGivesTheTurnBack(t *testing.T) {
	turns := newTurns(1, time.Hour)
	text := "package sigstore\nisCompliant[r] { r := \"no object\" }"
	for range 3 {
		if _, err := turns.evaluate(t.Context(), "x", Rego, text, []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Fatalf("%v", err)
		}
	}
	until(t, "the turn is back", turns.idle)
}
