package bench

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i+1) * time.Millisecond
	}
	for _, c := range []struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{hundred[:1], 0.5, time.Millisecond},
		{hundred[:1], 1, time.Millisecond},
		{hundred, 0.5, 50 * time.Millisecond},
		{hundred, 0.99, 99 * time.Millisecond},
		{hundred, 1, 100 * time.Millisecond},
	} {
		if got := quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %v of %d: %v, want %v", c.q, len(c.of), got, c.want)
		}
	}
	if got := spread(hundred); got != "p50 50.0 ms, p99 99.0 ms, max 100.0 ms" {
		t.Error(got)
	}
}

func TestSummarise(t *testing.T) {
	due := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	run := func(late, took time.Duration) *almanacv1.Execution {
		return &almanacv1.Execution{
			ScheduledFor: timestamppb.New(due), StartedAt: timestamppb.New(due.Add(late)), CompletedAt: timestamppb.New(due.Add(late + took)),
		}
	}
	o := summarise([]*almanacv1.Execution{run(30, 5), run(10, 7), run(20, 40)})
	if !o.started.Equal(due.Add(10)) || !o.ended.Equal(due.Add(60)) || o.lateness[0] != 10 || o.lateness[2] != 30 || o.duration[2] != 40 {
		t.Errorf("%+v", o)
	}
}

// TestOver: only a success at the first attempt may be counted.
func TestOver(t *testing.T) {
	once := []*almanacv1.Attempt{{}}
	for _, c := range []struct {
		status   string
		attempts []*almanacv1.Attempt
		counts   bool
		bad      bool
	}{
		{"pending", nil, false, false},
		{"running", once, false, false},
		{"success", once, true, false},
		{"success", []*almanacv1.Attempt{{}, {}}, false, true},
		{"retrying", once, false, true},
		{"failed", once, false, true},
		{"skipped", nil, false, true},
		{"unknown", once, false, true},
	} {
		e := &almanacv1.Execution{Id: "exec_1", Status: c.status, Attempts: c.attempts, Error: wrapperspb.String("why")}
		got, err := over(e)
		if (got != nil) != c.counts || (err != nil) != c.bad {
			t.Errorf("%s after %d attempts: %v, %v", c.status, len(c.attempts), got, err)
		}
	}
}

func TestEach(t *testing.T) {
	const n = 3*atOnce + 7
	var seen [n]atomic.Int32
	if err := each(t.Context(), n, func(_ context.Context, i int) error { seen[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range seen {
		if got := seen[i].Load(); got != 1 {
			t.Errorf("%d was done %d times", i, got)
		}
	}
	broken := errors.New("broken")
	if err := each(t.Context(), n, func(_ context.Context, i int) error {
		if i == 5 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := each(t.Context(), 0, func(context.Context, int) error { return broken }); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}

func TestUntil(t *testing.T) {
	asked := 0
	if err := until(t.Context(), time.Minute, time.Millisecond, func(context.Context) error {
		if asked++; asked < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || asked != 3 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	never := errors.New("never")
	if err := until(t.Context(), time.Millisecond, time.Millisecond, func(context.Context) error { return never }); !errors.Is(err, never) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestDescribeMachine(t *testing.T) {
	var out strings.Builder
	if err := describeMachine(t.TempDir(), &out); err != nil || !strings.Contains(out.String(), " cores, ") {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := describeMachine("/nowhere/at/all", &out); err == nil {
		t.Error("measured a disk that is not there")
	}
}
