package templatetest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// fake is a good template; each test spoils one thing.
type fake struct {
	descriptor func() template.Descriptor
	schema     func() map[string]any
	validate   func(map[string]any) error
	execute    func(context.Context, *template.Run) (template.Result, error)
	results    func() map[string]any
	examples   []template.Example
	settings   func() map[string]any
}

func (f *fake) Descriptor() template.Descriptor            { return f.descriptor() }
func (f *fake) Schema() map[string]any                     { return f.schema() }
func (f *fake) ValidateParams(params map[string]any) error { return f.validate(params) }
func (f *fake) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	return f.execute(ctx, run)
}

func (f *fake) ResultSchema() map[string]any          { return f.results() }
func (f *fake) Examples() []template.Example          { return f.examples }
func (f *fake) SettingsSchema() map[string]any        { return f.settings() }
func (f *fake) ValidateSettings(map[string]any) error { return nil }

func goodResults() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{
		"message": map[string]any{"type": "string", "description": "What was said"},
	}}
}

func goodSettings() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{
		"accent": map[string]any{"type": "string", "description": "How it is said", "default": "plain"},
	}}
}

// bare hides everything that a template need not have.
type bare struct{ template.JobTemplate }

func goodDescriptor() template.Descriptor {
	return template.Descriptor{
		Type: "greet", Version: 1, Name: "Greet", Description: "Says hello", Category: "tests", Icon: "👋", EstimatedDuration: "no time",
		ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
	}
}

func goodSchema() map[string]any {
	return map[string]any{
		"type": "object", "additionalProperties": false,
		"properties": map[string]any{
			"to":    map[string]any{"type": "string", "description": "Whom to greet", "default": "world"},
			"times": map[string]any{"type": "integer", "description": "How often", "minimum": 1},
		},
	}
}

func newFake() *fake {
	return &fake{
		results:    goodResults,
		settings:   goodSettings,
		examples:   []template.Example{{Title: "Greet the world", Params: map[string]any{}}},
		descriptor: goodDescriptor,
		schema:     goodSchema,
		validate: func(params map[string]any) error {
			if params["to"] == "nobody" {
				return template.BadParam("to", "must be somebody")
			}
			return nil
		},
		execute: func(ctx context.Context, run *template.Run) (template.Result, error) {
			if ctx.Err() != nil {
				return nil, template.AsError(ctx.Err())
			}
			run.Report.Log("INFO", "Hello, "+run.Params["to"].(string))
			run.Report.Progress(1, 1, "said")
			return template.Result{"message": "Hello"}, nil
		},
	}
}

func goodOptions() Options {
	return Options{
		Valid:   []map[string]any{{}, {"to": "you"}},
		Invalid: []Invalid{{map[string]any{"to": "nobody"}, "to"}, {map[string]any{"times": 0.0}, "times"}},
		Succeed: []map[string]any{{}},

		Settings:        []map[string]any{{"accent": "broad"}},
		InvalidSettings: []Invalid{{map[string]any{"accent": 1.0}, "accent"}},
	}
}

func TestGoodTemplatePasses(t *testing.T) {
	Run(t, newFake(), goodOptions())
}

func TestTemplatesMustBeDocumented(t *testing.T) {
	found := problems(bare{newFake()}, goodOptions())
	if len(found) != 1 || !strings.Contains(found[0], "no ResultSchema and Examples") {
		t.Errorf("got %q", found)
	}
}

func TestPrepareCompletesRuns(t *testing.T) {
	f, prepared := newFake(), 0
	options := goodOptions()
	options.Prepare = func(run *template.Run) {
		prepared++
		Connect(run, "to", "you", template.Connection{Kind: "mouth"})
	}
	f.execute = func(_ context.Context, run *template.Run) (template.Result, error) {
		if len(run.Allowed["to"]) != 1 || run.Connections["you"].Kind != "mouth" || run.Settings["accent"] != "plain" {
			return nil, errors.New("not prepared")
		}
		return template.Result{"message": "Hello"}, nil
	}
	Run(t, f, options)
	if prepared != len(options.Valid)+len(options.Succeed) {
		t.Errorf("prepared %d runs", prepared)
	}
}

func TestEachFaultIsFound(t *testing.T) {
	calls := 0
	for name, tc := range map[string]struct {
		spoil func(*fake, *Options)
		want  string
	}{
		"descriptor": {func(f *fake, _ *Options) {
			f.descriptor = func() template.Descriptor { d := goodDescriptor(); d.RiskLevel = "none"; return d }
		}, "RiskLevel must be low, medium or high"},
		"negative concurrency": {func(f *fake, _ *Options) {
			f.descriptor = func() template.Descriptor { d := goodDescriptor(); d.MaxConcurrency = -1; return d }
		}, "MaxConcurrency must be 0 for no limit"},
		"changing descriptor": {func(f *fake, _ *Options) {
			f.descriptor = func() template.Descriptor { d := goodDescriptor(); calls++; d.Version = calls; return d }
		}, "Descriptor changes from call to call"},
		"changing schema": {func(f *fake, _ *Options) {
			f.schema = func() map[string]any { s := goodSchema(); calls++; s["maxProperties"] = calls + 2; return s }
		}, "Schema changes from call to call"},
		"schema is no object": {func(f *fake, _ *Options) {
			f.schema = func() map[string]any { s := goodSchema(); delete(s, "type"); return s }
		}, `"type" must be "object"`},
		"open schema": {func(f *fake, _ *Options) {
			f.schema = func() map[string]any { s := goodSchema(); delete(s, "additionalProperties"); return s }
		}, "an unknown parameter is accepted"},
		"undescribed property": {func(f *fake, _ *Options) {
			f.schema = func() map[string]any {
				s := goodSchema()
				s["properties"].(map[string]any)["to"] = map[string]any{"type": "string", "default": "world"}
				return s
			}
		}, `property "to" has no description`},
		"no examples": {func(_ *fake, o *Options) { o.Invalid = nil }, "give at least one example of each"},
		"valid refused": {func(_ *fake, o *Options) {
			o.Valid = append(o.Valid, map[string]any{"to": "nobody"})
		}, `valid parameters {"to":"nobody"} are refused: to: must be somebody`},
		"default refused": {func(f *fake, _ *Options) {
			f.validate = func(params map[string]any) error {
				if params["to"] == "world" {
					return template.BadParam("to", "must be smaller")
				}
				return nil
			}
		}, "are refused once they have their defaults"},
		"invalid accepted": {func(f *fake, _ *Options) {
			f.validate = func(map[string]any) error { return nil }
		}, `invalid parameters {"to":"nobody"} are accepted`},
		"wrong error type": {func(f *fake, _ *Options) {
			f.validate = func(params map[string]any) error {
				if params["to"] == "nobody" {
					return errors.New("bad")
				}
				return nil
			}
		}, "not by a *ParamsError"},
		"wrong field": {func(_ *fake, o *Options) { o.Invalid[0].Field = "too" }, `does not name the field "too"`},
		"mutating validation": {func(f *fake, _ *Options) {
			f.validate = func(params map[string]any) error { params["times"] = 1.0; return nil }
		}, "ValidateParams changed the parameters"},
		"failing": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) {
				return nil, template.Fail("odd", "it is odd")
			}
		}, "failed: it is odd"},
		"mutating execution": {func(f *fake, _ *Options) {
			f.execute = func(_ context.Context, run *template.Run) (template.Result, error) {
				maps.DeleteFunc(run.Params, func(string, any) bool { return true })
				return template.Result{"message": "Hello"}, nil
			}
		}, "Execute changed the parameters"},
		"no message": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) { return template.Result{}, nil }
		}, "returned a result without a message"},
		"partial result without message": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) {
				return template.Result{"n": 1}, template.Fail("odd", "it is odd")
			}
		}, "returned a result without a message"},
		"result is no JSON": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) {
				return template.Result{"message": "x", "f": func() {}}, nil
			}
		}, "a result that is not JSON"},
		"plain error": {func(f *fake, _ *Options) {
			f.execute = func(ctx context.Context, _ *template.Run) (template.Result, error) {
				return template.Result{"message": "x"}, ctx.Err()
			}
		}, "not with an *Error"},
		"no result schema": {func(f *fake, _ *Options) {
			f.results = func() map[string]any { return map[string]any{"type": 1} }
		}, "ResultSchema: "},
		"undescribed result": {func(f *fake, _ *Options) {
			f.results = func() map[string]any {
				r := goodResults()
				r["properties"].(map[string]any)["n"] = map[string]any{}
				return r
			}
		}, `ResultSchema: property "n" has no description`},
		"result beside its schema": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) {
				return template.Result{"message": "x", "more": 1}, nil
			}
		}, "a result that its schema refuses: more: "},
		"no worked example": {func(f *fake, _ *Options) { f.examples = nil }, "Examples: give at least one"},
		"untitled example":  {func(f *fake, _ *Options) { f.examples[0].Title = "" }, "Examples: {} has no title"},
		"bad example": {func(f *fake, _ *Options) {
			f.examples[0].Params = map[string]any{"times": 0}
		}, `the example "Greet the world" is refused: times: `},
		"no settings tried":       {func(_ *fake, o *Options) { o.Settings = nil }, "at least one example of each, Settings and InvalidSettings"},
		"valid settings refused":  {func(_ *fake, o *Options) { o.Settings[0]["accent"] = 1.0 }, `valid settings {"accent":1} are refused`},
		"invalid settings pass":   {func(_ *fake, o *Options) { o.InvalidSettings[0].Params = nil }, "invalid settings null are accepted"},
		"wrong setting is blamed": {func(_ *fake, o *Options) { o.InvalidSettings[0].Field = "tone" }, `does not name the field "tone"`},
		"settings must be written": {func(f *fake, _ *Options) {
			f.settings = func() map[string]any { s := goodSettings(); s["required"] = []any{"accent"}; return s }
		}, "an executor that configures nothing is refused: accent: is required"},
		"odd code": {func(f *fake, _ *Options) {
			f.execute = func(context.Context, *template.Run) (template.Result, error) {
				return nil, template.Fail("Odd Code", "it is odd")
			}
		}, "not with an *Error that has a code"},
		"unknown level": {func(f *fake, _ *Options) {
			f.execute = func(_ context.Context, run *template.Run) (template.Result, error) {
				run.Report.Log("NOTICE", "x")
				return template.Result{"message": "x"}, nil
			}
		}, `unknown level "NOTICE"`},
	} {
		t.Run(name, func(t *testing.T) {
			f, options := newFake(), goodOptions()
			tc.spoil(f, &options)
			found := strings.Join(problems(f, options), "\n")
			if !strings.Contains(found, tc.want) {
				t.Errorf("got %q, want %q in it", found, tc.want)
			}
		})
	}
}

func TestDeafTemplateIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := newFake()
		good := f.execute
		f.execute = func(ctx context.Context, run *template.Run) (template.Result, error) {
			if ctx.Err() != nil {
				<-release
			}
			return good(ctx, run)
		}
		found := strings.Join(problems(f, goodOptions()), "\n")
		close(release)
		if !strings.Contains(found, "still runs 5s after its context ended") {
			t.Errorf("got %q", found)
		}
	})
}

func TestRecorder(t *testing.T) {
	run, recorder := NewRun(map[string]any{"to": "you"})
	if _, err := newFake().Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if lines := recorder.Lines(); len(lines) != 1 || lines[0] != "INFO Hello, you" {
		t.Errorf("lines: %q", lines)
	}
	if steps := recorder.Steps(); len(steps) != 1 || steps[0] != (Progress{1, 1, "said"}) {
		t.Errorf("steps: %v", steps)
	}
}
