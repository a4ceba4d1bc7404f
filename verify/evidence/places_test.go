package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

func ofRegistry(name string) Question { return Question{Repository: name + "/app"} }

// full says whether a question has to wait.
func full(t *testing.T, p *Places, q ...Question) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	leave, err := p.Enter(ctx, q...)
	leave()
	leave()
	if err != nil && (!errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "too many other images")) {
		t.Errorf("%v", err)
	}
	return err != nil
}

func enter(t *testing.T, p *Places, q ...Question) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	leave, err := p.Enter(ctx, q...)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// TestOneRegistryDoesNotTakeAllPlaces: one author's images at a registry that never answers.
func TestOneRegistryDoesNotTakeAllPlaces(t *testing.T) {
	p := NewPlaces()
	var leave []func()
	for range limits.RegistryQuestions.Max() {
		leave = append(leave, enter(t, p, ofRegistry("slow.example")))
	}
	if !full(t, p, ofRegistry("slow.example")) {
		t.Error("one registry has more than its share")
	}
	// Those who wait for it take nothing from the others.
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			if _, err := p.Enter(ctx, ofRegistry("slow.example")); err == nil {
				t.Error("a place where there was none")
			}
		})
	}
	for i := range limits.Questions.Max() - limits.RegistryQuestions.Max() {
		leave = append(leave, enter(t, p, ofRegistry(fmt.Sprint("other", i))))
	}
	if !full(t, p, ofRegistry("one.more.example")) {
		t.Error("more places than there are")
	}
	cancel()
	waiting.Wait()
	for _, l := range leave {
		l()
	}
	enter(t, p, ofRegistry("slow.example"))()
	if len(p.registries) != 0 {
		t.Errorf("not all was given back: %v", p.registries)
	}
}

// TestAttestationsTakeThePlacesOfWhatTheyMayHold: all questions at once hold no more than without any.
func TestAttestationsTakeThePlacesOfWhatTheyMayHold(t *testing.T) {
	p := NewPlaces()
	n := int64(0)
	for ; n < 100; n++ {
		q := ofRegistry(fmt.Sprint("r", n))
		q.Attestations = true
		if full(t, p, q) {
			break
		}
		enter(t, p, q)
	}
	if n*limits.AttestedMaterial.Max() > limits.Questions.Max()*limits.Material.Max() || n == 0 {
		t.Errorf("%d questions with attestations at once", n)
	}
}

func TestWhoWantsMoreThanThereIsIsAlone(t *testing.T) {
	p := NewPlaces()
	var many []Question
	for i := range 40 {
		many = append(many, Question{Repository: fmt.Sprintf("r%d.example/app", i%2), Attestations: true})
	}
	leave := enter(t, p, many...)
	if !full(t, p, ofRegistry("other.example")) {
		t.Error("not alone")
	}
	leave()
	enter(t, p, many...)()
}

// TestNoTwoWaitForEachOther: two images, each with signatures at the other's registry.
func TestNoTwoWaitForEachOther(t *testing.T) {
	p := NewPlaces()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			q := []Question{ofRegistry("a.example"), ofRegistry("b.example")}
			if i%2 == 0 {
				q[0], q[1] = q[1], q[0]
			}
			for j := range q {
				q[j].Attestations = i%3 == 0
			}
			enter(t, p, q...)()
		})
	}
	all.Wait()
}
