package runner

import (
	"context"
	"encoding/json"
	"errors"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // jobs have zones, and a confined runner cannot rely on the machine's

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// stackLines is how much of a panicking template's stack goes to its log.
const stackLines = 30

// Execute performs one attempt in the calling process: it checks the parameters
// again, applies the time-out, and turns whatever the template does, a panic
// included, into a Result. It returns when the template does.
func Execute(ctx context.Context, t *template.Compiled, run *Run, report template.Reporter) *Result {
	zone, err := loadZone(run.Timezone)
	if err != nil {
		return failed(template.Fail(template.CodeValidation, "timezone %q is not known here: %w", run.Timezone, err))
	}
	if run.Timeout > 0 {
		limited := &limitedContext{parent: ctx, deadline: time.Now().Add(run.Timeout)} //nolint:forbidigo // as context.WithTimeout would
		defer limited.end()
		ctx = limited
	}
	got, err := guarded(t, report, func() (template.Result, error) {
		params, err := t.ParseParams(run.Params, run.Allowed)
		if err != nil {
			return nil, err
		}
		var previous template.Result
		if len(run.Previous) > 0 {
			if err := json.Unmarshal(run.Previous, &previous); err != nil {
				return nil, template.Fail(template.CodeInternal, "the result of the previous attempt is no JSON object: %w", err)
			}
		}
		return t.Template.Execute(ctx, &template.Run{
			ExecutionID: run.ExecutionID, JobID: run.JobID, JobName: run.JobName, Organisation: run.Organisation,
			TriggeredBy: run.TriggeredBy, Attempt: run.Attempt, ScheduledFor: run.ScheduledFor.UTC(), Zone: zone,
			Params: params, Connections: run.Connections, Allowed: run.Allowed, Settings: run.Settings,
			Previous: previous, Report: report,
		})
	})
	return ending(ctx, got, err)
}

// limitedContext is context.WithDeadline, made when somebody first wants to know of
// its end: a run that takes no time never does, and a timer costs more than the
// rest of it. It is safe for concurrent use.
type limitedContext struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	made   context.Context // nil until then
	cancel context.CancelFunc
}

func (c *limitedContext) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithDeadline(c.parent, c.deadline)
	}
	return c.made
}

// end lets go of the timer. Who asks for the first time afterwards hears what the
// parent says, which ends with the attempt.
func (c *limitedContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = c.parent, func() {}
	}
	c.cancel()
}

func (c *limitedContext) Deadline() (time.Time, bool) { return c.context().Deadline() }
func (c *limitedContext) Done() <-chan struct{}       { return c.context().Done() }
func (c *limitedContext) Err() error                  { return c.context().Err() }
func (c *limitedContext) Value(key any) any           { return c.context().Value(key) }

// zones keeps what loadZone has read: reading one takes longer than a short run
// does otherwise. Registries let only one name through for each zone there is.
var zones sync.Map // string -> *time.Location

func loadZone(name string) (*time.Location, error) {
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, err
	}
	zones.Store(name, zone)
	return zone, nil
}

// guarded turns a panic into an error and the first lines of its stack into the
// run's log.
func guarded(t *template.Compiled, report template.Reporter, do func() (template.Result, error)) (got template.Result, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			lines := strings.SplitN(string(debug.Stack()), "\n", stackLines+1)
			for _, line := range lines[:min(len(lines), stackLines)] {
				report.Log("ERROR", strings.ReplaceAll(line, "\t", "    "))
			}
			got, err = nil, template.Fail(CodePanic, "template %s panicked: %v", t.Descriptor.Type, cause)
		}
	}()
	return do()
}

// ending says what the answer of a template means. A failure after the context
// ended is put down to that end; what was done so far stays.
func ending(ctx context.Context, got template.Result, err error) *Result {
	result := &Result{Status: StatusSuccess}
	if err != nil {
		result = failed(template.AsError(err))
	}
	if err != nil && result.ErrorCode != CodePanic {
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			result.Status, result.ErrorCode = StatusTimedOut, template.CodeTimeout
		case ctx.Err() != nil:
			result.Status, result.ErrorCode = StatusCancelled, template.CodeCancelled
		}
	}
	if got == nil {
		return result
	}
	text, err := json.Marshal(got)
	switch {
	case err != nil:
		return failed(template.Fail(template.CodeInternal, "the template's result is not JSON: %w", err))
	case len(text) > MaxResultBytes:
		return failed(template.Fail(template.CodeLimit, "the template's result is %d KiB of JSON: at most %d are permitted", len(text)>>10, MaxResultBytes>>10))
	}
	result.Result = text
	return result
}

func failed(err *template.Error) *Result {
	return &Result{Status: StatusFailed, Error: err.Message, ErrorCode: err.Code, Retryable: err.Retryable}
}

// unknownTemplate is the result of a run whose template is not here.
func unknownTemplate(templateType string) *Result {
	return failed(template.Fail(template.CodeValidation, "template %q is not in this runner", templateType))
}
