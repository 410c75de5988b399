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
