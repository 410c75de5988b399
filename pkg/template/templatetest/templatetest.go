// Package templatetest is the suite that every job template must pass.
package templatetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Options are the examples that the suite tries.
type Options struct {
	Valid   []map[string]any // accepted parameters; at least one
	Invalid []Invalid        // refused parameters; at least one, unless the template has no parameters
	// Succeed are valid parameters with which Execute succeeds; at least one.
	Succeed []map[string]any
	// Prepare completes each run before it is executed, with connections (see
	// Connect), allowed values and settings other than the defaults. Nil means that
	// runs need none.
	Prepare func(*template.Run)
	// Settings and InvalidSettings are examples of settings, accepted and refused;
	// at least one of each for a template that is Configurable.
	Settings        []map[string]any
	InvalidSettings []Invalid
}

// Invalid is an example of parameters, or settings, that must be refused.
type Invalid struct {
	Params map[string]any
	Field  string // path that the error must name
}

// Run checks a template, which must be template.Documented: the suite tries its
// examples, and holds the results against its result schema. It executes every
// Succeed example once, and every Valid one with a context that has ended.
func Run(t *testing.T, tmpl template.JobTemplate, options Options) {
	t.Helper()
	for _, problem := range problems(tmpl, options) {
		t.Error(problem)
	}
}

// patience is how long a template may take to notice that its context ended.
const patience = 5 * time.Second

var codeForm = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// suite gathers what is wrong with one template.
type suite struct {
	tmpl  template.JobTemplate
	opts  Options
	found []string

	results *template.Schema // nil when the template has none that compiles
}

func problems(tmpl template.JobTemplate, options Options) []string {
	s := &suite{tmpl: tmpl, opts: options}
	compiled, err := template.Compile(tmpl)
	if err != nil {
		s.bad("Compile: %v", err)
		return s.found
	}
	s.description()
	s.documentation(compiled)
	s.settings(compiled)
	s.parameters(compiled)
	s.execution(compiled)
	return s.found
}

func (s *suite) bad(format string, args ...any) {
	s.found = append(s.found, fmt.Sprintf(format, args...))
}

func (s *suite) description() {
	if first, second := s.tmpl.Descriptor(), s.tmpl.Descriptor(); !reflect.DeepEqual(first, second) {
		s.bad("Descriptor changes from call to call: %+v, then %+v", first, second)
	}
	s.schema("Schema", s.tmpl.Schema)
}

// schema checks what every schema of a template must have.
func (s *suite) schema(which string, get func() map[string]any) {
	schema := get()
	if !reflect.DeepEqual(schema, get()) {
		s.bad("%s changes from call to call", which)
	}
	if schema["type"] != "object" {
		s.bad(`%s: "type" must be "object" at the top level`, which)
	}
	if schema["additionalProperties"] != false {
		s.bad(`%s: "additionalProperties" must be false at the top level, so that a misspelt name is refused`, which)
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		property, _ := properties[name].(map[string]any)
		if about, _ := property["description"].(string); about == "" {
			s.bad("%s: property %q has no description", which, name)
		}
	}
}

func (s *suite) documentation(c *template.Compiled) {
	documented, ok := s.tmpl.(template.Documented)
	if !ok {
		s.bad("the template has no ResultSchema and Examples: people need them (see template.Documented)")
		return
	}
	s.schema("ResultSchema", documented.ResultSchema)
	var err error
	if s.results, err = template.CompileSchema(documented.ResultSchema()); err != nil {
		s.bad("ResultSchema: %v", err)
	}
	examples := documented.Examples()
	if len(examples) == 0 {
		s.bad("Examples: give at least one")
	}
	for _, example := range examples {
		if example.Title == "" {
			s.bad("Examples: %s has no title", text(example.Params))
		}
		if err := s.validate(c, example.Params); err != nil {
			s.bad("the example %q is refused: %v", example.Title, err)
		}
	}
}

func (s *suite) settings(c *template.Compiled) {
	configurable, ok := s.tmpl.(template.Configurable)
	if !ok {
		return
	}
	s.schema("SettingsSchema", configurable.SettingsSchema)
	if len(s.opts.Settings) == 0 || len(s.opts.InvalidSettings) == 0 {
		s.bad("Options: give at least one example of each, Settings and InvalidSettings")
	}
	if _, _, err := c.Configure(nil); err != nil {
		s.bad("an executor that configures nothing is refused: %v", err)
	}
	for _, settings := range s.opts.Settings {
		before := text(settings)
		if _, _, err := c.Configure(settings); err != nil {
			s.bad("valid settings %s are refused: %v", before, err)
		}
		if after := text(settings); after != before {
			s.bad("the settings were changed from %s to %s", before, after)
		}
	}
	for _, example := range s.opts.InvalidSettings {
		_, _, err := c.Configure(example.Params)
		s.refused("settings", example, err)
	}
}

// refused checks that an example was refused for the reason it names.
func (s *suite) refused(what string, example Invalid, err error) {
	var invalid *template.ParamsError
	switch {
	case err == nil:
		s.bad("invalid %s %s are accepted", what, text(example.Params))
	case !errors.As(err, &invalid):
		s.bad("%s %s are refused by a %T, not by a *ParamsError: %v", what, text(example.Params), err, err)
	case !slices.ContainsFunc(invalid.Fields, func(f template.FieldError) bool { return f.Field == example.Field && f.Message != "" }):
		s.bad("the error for %s does not name the field %q: %v", text(example.Params), example.Field, err)
	}
}

func (s *suite) parameters(c *template.Compiled) {
	properties, _ := s.tmpl.Schema()["properties"].(map[string]any)
	if len(s.opts.Valid) == 0 || len(s.opts.Succeed) == 0 || len(s.opts.Invalid) == 0 && len(properties) > 0 {
		s.bad("Options: give at least one example of each, Valid, Invalid and Succeed")
	}
	for _, params := range append(slices.Clone(s.opts.Valid), s.opts.Succeed...) {
		if err := s.validate(c, params); err != nil {
			s.bad("valid parameters %s are refused: %v", text(params), err)
		}
		if err := s.validate(c, c.Schema.WithDefaults(params)); err != nil {
			s.bad("parameters %s are refused once they have their defaults: %v", text(params), err)
		}
	}
	for _, example := range s.opts.Invalid {
		s.refused("parameters", example, s.validate(c, example.Params))
	}
	if err := s.validate(c, map[string]any{"no such parameter": true}); err == nil {
		s.bad("an unknown parameter is accepted")
	}
}

// validate validates, and looks whether that changed the parameters.
func (s *suite) validate(c *template.Compiled, params map[string]any) error {
	before := text(params)
	err := c.ValidateParams(params, nil)
	if after := text(params); after != before {
		s.bad("ValidateParams changed the parameters from %s to %s", before, after)
	}
	return err
}

// newRun returns a run with the default settings, prepared.
func (s *suite) newRun(c *template.Compiled, params map[string]any) (*template.Run, *Recorder) {
	run, recorder := NewRun(c.Schema.WithDefaults(params))
	run.Settings, run.Allowed, _ = c.Configure(nil) // that they are accepted has been seen
	if s.opts.Prepare != nil {
		s.opts.Prepare(run)
	}
	return run, recorder
}

func (s *suite) execution(c *template.Compiled) {
	for _, params := range s.opts.Succeed {
		run, recorder := s.newRun(c, params)
		before := text(run.Params)
		result, err := s.tmpl.Execute(context.Background(), run)
		if err != nil {
			s.bad("Execute with %s failed: %v", before, err)
		}
		if after := text(run.Params); after != before {
			s.bad("Execute changed the parameters from %s to %s", before, after)
		}
		s.result(before, result, err)
		for _, line := range recorder.Lines() {
			if level, _, _ := strings.Cut(line, " "); !slices.Contains([]string{"DEBUG", "INFO", "WARN", "ERROR"}, level) {
				s.bad("Execute with %s logged at the unknown level %q", before, level)
			}
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, params := range s.opts.Valid {
		run, _ := s.newRun(c, params)
		type outcome struct {
			result template.Result
			err    error
		}
		done := make(chan outcome, 1)
		go func() {
			result, err := s.tmpl.Execute(ended, run)
			done <- outcome{result, err}
		}()
		limit, stop := context.WithTimeout(context.Background(), patience)
		select {
		case o := <-done:
			s.result(text(params), o.result, o.err)
		case <-limit.Done():
			s.bad("Execute with %s still runs %v after its context ended", text(params), patience)
		}
		stop()
	}
}

// result checks what Execute returned.
func (s *suite) result(params string, result template.Result, err error) {
	if err == nil || result != nil {
		if message, _ := result["message"].(string); message == "" {
			s.bad("Execute with %s returned a result without a message: %v", params, result)
		}
	}
	if _, err := json.Marshal(result); err != nil {
		s.bad("Execute with %s returned a result that is not JSON: %v", params, err)
	} else if result != nil && s.results != nil {
		if err := s.results.Validate(result); err != nil {
			s.bad("Execute with %s returned a result that its schema refuses: %v", params, err)
		}
	}
	var failure *template.Error
	if err != nil && (!errors.As(err, &failure) || !codeForm.MatchString(failure.Code) || failure.Message == "") {
		s.bad("Execute with %s failed with %T (%v), not with an *Error that has a code and a message", params, err, err)
	}
}

func text(params map[string]any) string {
	encoded, err := json.Marshal(params)
	if err != nil {
		return fmt.Sprint(params)
	}
	return string(encoded)
}

// NewRun returns a first attempt at a fixed time (2025-10-19 02:00 UTC) with
// these parameters, and what it reports. It has no connections and nothing is
// allowed.
func NewRun(params map[string]any) (*template.Run, *Recorder) {
	recorder := &Recorder{}
	return &template.Run{
		ExecutionID:  "exec_test",
		JobID:        "job_test",
		JobName:      "Test",
		Organisation: "default",
		TriggeredBy:  "manual",
		Attempt:      1,
		ScheduledFor: time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC),
		Zone:         time.UTC,
		Params:       params,
		Report:       recorder,
	}, recorder
}

// Connect gives a run a connection under that name, permitted for the parameter.
func Connect(run *template.Run, param, name string, connection template.Connection) {
	if run.Connections == nil {
		run.Connections = map[string]template.Connection{}
	}
	if run.Allowed == nil {
		run.Allowed = map[string][]string{}
	}
	run.Connections[name] = connection
	run.Allowed[param] = append(run.Allowed[param], name)
}

// Recorder is a template.Reporter that keeps what it is told.
type Recorder struct {
	mu       sync.Mutex
	lines    []string
	progress []Progress
}

// Progress is one call of Reporter.Progress.
type Progress struct {
	Done, Total int64
	Message     string
}

// Log keeps a line as "LEVEL message".
func (r *Recorder) Log(level, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, level+" "+message)
}

// Progress keeps how far the run is.
func (r *Recorder) Progress(done, total int64, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = append(r.progress, Progress{done, total, message})
}

// Lines returns the lines logged so far, each as "LEVEL message".
func (r *Recorder) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// Steps returns the progress told so far.
func (r *Recorder) Steps() []Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.progress)
}
