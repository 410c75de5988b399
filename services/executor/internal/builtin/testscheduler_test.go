package builtin

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

func TestTestSchedulerPassesTheSuite(t *testing.T) {
	templatetest.Run(t, testScheduler{}, templatetest.Options{
		Valid: []map[string]any{{}, {"message": "Hello", "duration_seconds": 86400.0, "fail": true}},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"message": ""}, Field: "message"},
			{Params: map[string]any{"duration_seconds": -1.0}, Field: "duration_seconds"},
			{Params: map[string]any{"duration_seconds": 86401.0}, Field: "duration_seconds"},
			{Params: map[string]any{"log_lines": 1_000_001.0}, Field: "log_lines"},
			{Params: map[string]any{"fail": "yes"}, Field: "fail"},
		},
		Succeed: []map[string]any{{}, {"message": "Hello", "duration_seconds": 0.001}},
	})
}

func TestTestSchedulerTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run, recorder := templatetest.NewRun(map[string]any{"message": "Hello", "duration_seconds": 2.5})
		start := time.Now()
		result, err := testScheduler{}.Execute(t.Context(), run)
		if err != nil || result["message"] != "Hello" {
			t.Errorf("got %v, %v", result, err)
		}
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if want := []templatetest.Progress{{Done: 1000, Total: 2500, Message: "Waiting"}, {Done: 2000, Total: 2500, Message: "Waiting"}, {Done: 2500, Total: 2500, Message: "Waiting"}}; !slices.Equal(recorder.Steps(), want) {
			t.Errorf("progress: %v", recorder.Steps())
		}
		if want := []string{"INFO Hello"}; !slices.Equal(recorder.Lines(), want) {
			t.Errorf("log: %q", recorder.Lines())
		}
	})
}

func TestTestSchedulerLogsAsManyLinesAsAskedFor(t *testing.T) {
	run, recorder := templatetest.NewRun(map[string]any{"message": "Hello", "log_lines": 5.0})
	if _, err := (testScheduler{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	want := []string{"INFO Hello", "DEBUG Line 1 of 5", "INFO Line 2 of 5", "INFO Line 3 of 5", "INFO Line 4 of 5", "WARN Line 5 of 5"}
	if !slices.Equal(recorder.Lines(), want) {
		t.Errorf("log: %q", recorder.Lines())
	}

	ended, cancel := context.WithCancel(t.Context())
	run, recorder = templatetest.NewRun(map[string]any{"log_lines": 100_000.0})
	run.Report = &cancelling{Reporter: run.Report, after: 1500, cancel: cancel}
	if _, err := (testScheduler{}).Execute(ended, run); err == nil || len(recorder.Lines()) > 3000 {
		t.Errorf("cancelled after 1,500 lines it ended with %v after %d", err, len(recorder.Lines()))
	}
}

// cancelling ends a run's context after some lines.
type cancelling struct {
	template.Reporter
	after  int
	cancel func()
}

func (c *cancelling) Log(level, message string) {
	if c.after--; c.after == 0 {
		c.cancel()
	}
	c.Reporter.Log(level, message)
}

func TestTestSchedulerEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		run, recorder := templatetest.NewRun(map[string]any{"duration_seconds": 3600.0})
		result, err := testScheduler{}.Execute(ctx, run)
		if failure := template.AsError(err); failure == nil || failure.Code != template.CodeTimeout || result != nil {
			t.Errorf("got %v, %+v", result, failure)
		}
		if want := []string{"INFO " + defaultMessage}; !slices.Equal(recorder.Lines(), want) {
			t.Errorf("log: %q", recorder.Lines())
		}
	})
}

func TestTestSchedulerFailsOnRequest(t *testing.T) {
	run, _ := templatetest.NewRun(map[string]any{"fail": true})
	result, err := testScheduler{}.Execute(t.Context(), run)
	failure := template.AsError(err)
	if failure == nil || failure.Code != "requested" || !failure.Retryable || result != nil {
		t.Errorf("got %v, %+v", result, failure)
	}
}
