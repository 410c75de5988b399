// Package template is the SDK for job templates: pre-built, tested kinds of
// work that administrators instantiate with parameters.
//
// A template is pure description plus one function. It is announced by the
// executors that carry it, validated against its JSON schema at the registry
// and again at the executor, and run in a child process, one attempt at a time.
// It never reads the wall clock to decide what to do: everything relative is
// relative to Run.ScheduledFor, so that a retry does the same work.
package template

import (
	"context"
	"time"
)

// JobTemplate is one kind of job. Implementations hold no state between runs;
// every method may be called concurrently.
type JobTemplate interface {
	// Descriptor tells what the template is. It never changes within a process.
	Descriptor() Descriptor
	// Schema is the JSON Schema (draft 2020-12) of the parameters, with
	// descriptions, defaults and bounds. It must not depend on the executor's
	// configuration: see Descriptor.Restricted.
	//
	// Hints for forms are ignored by the validation: "x-form" at the top lists the
	// properties that a form shows first, in that order; "x-when" on a property, such
	// as {"source": "collection"}, names the values of others without which it has no
	// meaning; and the "format" of a property may be "condition" (a MongoDB query
	// condition) or "age" ("30 days").
	Schema() map[string]any
	// ValidateParams checks what the schema cannot say. The parameters have
	// already passed the schema. It returns nil or a *ParamsError.
	ValidateParams(params map[string]any) error
	// Execute does the work of one attempt and returns its result, which always
	// has a "message". On failure it returns an *Error (made by Fail or
	// Retryable) and may return what was done so far beside it. It returns soon
	// after ctx ends; a process that does not is killed.
	Execute(ctx context.Context, run *Run) (Result, error)
}

// Configurable is a template that executors' configurations adjust, beyond the
// connections and values that they permit: layouts, limits, networks. Settings
// hold no secrets; those belong into connections.
type Configurable interface {
	JobTemplate
	// SettingsSchema is the JSON Schema of the settings, with descriptions,
	// defaults and bounds. A template that is configured with nothing gets the
	// defaults alone.
	SettingsSchema() map[string]any
	// ValidateSettings checks what the schema cannot say. The settings have passed
	// the schema and have their defaults. It returns nil or a *ParamsError, which
	// keeps the executor from starting.
	ValidateSettings(settings map[string]any) error
}

// Restricting is a Configurable template whose settings say which values some of
// its parameters may have, such as the names of the layouts configured.
type Restricting interface {
	Configurable
	// Restrict returns the values by parameter; each is one of
	// Descriptor.Restricted. The settings are complete and valid.
	Restrict(settings map[string]any) map[string][]string
}

// Documented is a template that says what people need to know beyond its
// parameters. The reference is made from it.
type Documented interface {
	JobTemplate
	// ResultSchema is the JSON Schema of what a run returns, also beside an error,
	// with a description of each field.
	ResultSchema() map[string]any
	// Examples are parameters worth copying, the most ordinary first.
	Examples() []Example
}

// Example is one set of parameters, as a person would write it.
type Example struct {
	Title  string // what it does, e.g. "Export all users as CSV"
	Params map[string]any
}

// Descriptor is what an executor announces and the registry lists.
type Descriptor struct {
	Type              string // e.g. "database_cleanup": lower case, digits and underscores
	Version           int    // grows whenever the schema or the meaning changes
	Name              string
	Description       string
	Category          string // e.g. "maintenance"
	Icon              string // one emoji
	EstimatedDuration string // for people, e.g. "5-30 minutes"
	ResourceUsage     string // low, medium or high
	RiskLevel         string // low, medium or high
	// Idempotent says that a second attempt after an interrupted first one is
	// harmless. Others are never attempted again after an ambiguous end.
	Idempotent bool
	// Destructive says that a run whose dryRun parameter is not true destroys data.
	Destructive bool
	// MaxConcurrency is how many runs of the template may go on at once in the
	// whole fleet; 0 is no limit.
	MaxConcurrency int
	// Connections names the parameters that pick a connection, each with the kind
	// that it must have: {"connection": "mongodb", "destination": "bucket"}. Such
	// a parameter is a top-level string and restricted to the names that the
	// executor has for connections of that kind. One that the schema does not
	// require may be absent; the run gets no connection for it then.
	Connections map[string]string
	// Implied names the parameters of Connections that may be absent although the
	// run needs the connection: the executor's only one of that kind is meant.
	Implied []string
	// Restricted names the other top-level string parameters whose values the
	// executor's configuration allows ("collection"). The allowed values are
	// announced beside the schema and shown as its enum. Compile adds the
	// parameters of Connections.
	Restricted []string
}

// Run is one attempt, as given to Execute. All fields are read-only.
type Run struct {
	ExecutionID  string
	JobID        string
	JobName      string
	Organisation string
	TriggeredBy  string         // scheduler, manual, chain, notification, backfill
	Attempt      int            // from 1
	ScheduledFor time.Time      // nominal time of the run, UTC; the origin of relative times
	Zone         *time.Location // the job's zone, for calendar arithmetic
	Params       map[string]any // JSON values: string, float64, bool, nil, []any, map[string]any
	// Connections holds the connections that the parameters name, and those that
	// they imply, by name. Run.Connection finds the one for a parameter.
	Connections map[string]Connection
	// Allowed holds the values permitted for each restricted parameter.
	Allowed map[string][]string
	// Settings are what the executor's configuration says to this template, with
	// the defaults of its SettingsSchema filled in; nil unless it is Configurable.
	Settings map[string]any
	// Previous is what an earlier attempt of the same execution returned beside its
	// error, so that what it has done need not be done again. It is nil on the first
	// attempt, and when no attempt lived to return anything.
	Previous Result
	// Report receives logs and progress. Never nil.
	Report Reporter
}

// Reporter takes what a run says while it works. Safe for concurrent use; calls
// never block for long and never fail.
type Reporter interface {
	// Log adds a line. Level is DEBUG, INFO, WARN or ERROR.
	Log(level, message string)
	// Progress tells how far the run is. Total is 0 when unknown.
	Progress(done, total int64, message string)
}

// Result is what a run leaves behind: a JSON object that always has "message".
type Result map[string]any
