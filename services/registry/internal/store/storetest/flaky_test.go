package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// recorder answers Done and keeps what reaches it.
type recorder struct {
	store.Store
	reached []store.Op
}

func (r *recorder) Do(_ context.Context, _ time.Time, ops []store.Op) []store.Answer {
	r.reached = append(r.reached, ops...)
	return slices.Repeat([]store.Answer{{Outcome: store.Done}}, len(ops))
}

func TestFlakyFollowsItsSeed(t *testing.T) {
	run := func(seed uint64) (r *recorder, outcomes []store.Outcome) {
		r = &recorder{}
		f := Flaky(r, seed)
		for n := range 100 {
			ops := make([]store.Op, n%4)
			for i := range ops {
				ops[i] = &store.Beat{Count: int64(n)}
			}
			for _, a := range f.Do(t.Context(), start, ops) {
				if (a.Outcome == store.Unknown) != errors.Is(a.Err, job.ErrUnavailable) {
					t.Fatalf("%+v", a)
				}
				outcomes = append(outcomes, a.Outcome)
			}
		}
		return r, outcomes
	}
	first, outcomes := run(1)
	again, same := run(1)
	if !slices.Equal(outcomes, same) || len(first.reached) != len(again.reached) {
		t.Error("the same seed has another outcome")
	}
	if _, other := run(2); slices.Equal(outcomes, other) {
		t.Error("another seed has the same outcome")
	}
	unknown := 0
	for _, o := range outcomes {
		if o == store.Unknown {
			unknown++
		}
	}
	missing := len(outcomes) - len(first.reached)
	if missing < 5 || unknown-missing < 5 || unknown > len(outcomes)/2 {
		t.Errorf("of %d, %d unknown, %d not performed", len(outcomes), unknown, missing)
	}
}
