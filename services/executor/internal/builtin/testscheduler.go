package builtin

import (
	"context"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// testScheduler shows that jobs run: it logs a message, and as many more lines as
// it is told to, takes the time it is told to, and fails when it is told to.
type testScheduler struct{}

func (testScheduler) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:              "test_scheduler",
		Version:           2,
		Name:              "Test Scheduler",
		Description:       "Log a message to show that the scheduler works; touches no data",
		Category:          "diagnostics",
		Icon:              "🧪",
		EstimatedDuration: "under 1 second, or as long as asked for",
		ResourceUsage:     "low",
		RiskLevel:         "low",
		Idempotent:        true,
	}
}

const (
	defaultMessage = "The scheduler works"
	maxDuration    = 24 * time.Hour
	maxLogLines    = 1_000_000
)

func (testScheduler) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{"message", "duration_seconds", "fail"},
		"properties": map[string]any{
			"message": map[string]any{
				"type":        "string",
				"description": "What to log",
				"minLength":   1,
				"maxLength":   1000,
				"default":     defaultMessage,
			},
			"duration_seconds": map[string]any{
				"type":        "number",
				"description": "How long the run takes, in seconds",
				"minimum":     0,
				"maximum":     maxDuration.Seconds(),
				"default":     0,
			},
			"log_lines": map[string]any{
				"type":        "integer",
				"description": "How many lines to log besides, to try out long logs; executors keep as many as they are set to",
				"minimum":     0,
				"maximum":     maxLogLines,
				"default":     0,
			},
			"fail": map[string]any{
				"type":        "boolean",
				"description": "Whether the run ends as a failure, to try out retries and notifications",
				"default":     false,
			},
		},
	}
}

func (testScheduler) ResultSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message"},
		"properties": map[string]any{
			"message": map[string]any{"type": "string", "description": "The message that was logged"},
		},
	}
}

func (testScheduler) Examples() []template.Example {
	return []template.Example{
		{Title: "Log the default message", Params: map[string]any{}},
		{Title: "Take ten seconds, then fail", Params: map[string]any{"message": "A rehearsal", "duration_seconds": 10, "fail": true}},
	}
}

func (testScheduler) ValidateParams(map[string]any) error { return nil }

func (testScheduler) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	message, ok := run.Params["message"].(string)
	if !ok {
		message = defaultMessage
	}
	run.Report.Log("INFO", message)
	lines, _ := run.Params["log_lines"].(float64)
	for i := range int(lines) {
		if i%1000 == 0 && ctx.Err() != nil {
			return nil, template.AsError(ctx.Err())
		}
		// Each level has its share, so that filters have something to filter.
		run.Report.Log([...]string{"DEBUG", "INFO", "INFO", "INFO", "WARN", "INFO", "INFO", "INFO", "INFO", "ERROR"}[i%10], fmt.Sprintf("Line %d of %d", i+1, int(lines)))
	}
	seconds, _ := run.Params["duration_seconds"].(float64)
	for done, total := time.Duration(0), time.Duration(seconds*float64(time.Second)); done < total; {
		step := min(time.Second, total-done)
		if err := wait(ctx, step); err != nil {
			return nil, template.AsError(err)
		}
		done += step
		run.Report.Progress(int64(done/time.Millisecond), int64(total/time.Millisecond), "Waiting")
	}
	if fail, _ := run.Params["fail"].(bool); fail {
		return nil, template.Retryable("requested", "The run failed because its parameter fail is true")
	}
	return template.Result{"message": message}, nil
}
