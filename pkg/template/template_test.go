package template_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// sample is a template whose description each test may spoil.
type sample struct {
	descriptor template.Descriptor
	schema     map[string]any
}

func (s sample) Descriptor() template.Descriptor { return s.descriptor }
func (s sample) Schema() map[string]any          { return s.schema }

func (s sample) ValidateParams(params map[string]any) error {
	if params["table"] == "refused" {
		return template.BadParam("table", "is refused")
	}
	return nil
}

func (s sample) Execute(context.Context, *template.Run) (template.Result, error) {
	return template.Result{"message": "done"}, nil
}

func newSample() sample {
	return sample{
		descriptor: template.Descriptor{
			Type: "sample", Version: 1, Name: "Sample", Description: "Does nothing.", Category: "tests", Icon: "🧪", EstimatedDuration: "no time",
			ResourceUsage: "low", RiskLevel: "low", Destructive: true, Restricted: []string{"table"},
		},
		schema: map[string]any{"type": "object", "properties": map[string]any{
			"table":  map[string]any{"type": "string"},
			"dryRun": map[string]any{"type": "boolean", "default": true},
		}},
	}
}

func TestCompileRefusesIncompleteTemplates(t *testing.T) {
	if _, err := template.Compile(newSample()); err != nil {
		t.Fatalf("a complete template is refused: %v", err)
	}
	properties := func(s *sample) map[string]any { return s.schema["properties"].(map[string]any) }
	for name, tc := range map[string]struct {
		spoil func(*sample)
		want  string
	}{
		"type":            {func(s *sample) { s.descriptor.Type = "Sample" }, "Type must be"},
		"version":         {func(s *sample) { s.descriptor.Version = 0 }, "Version must be"},
		"name":            {func(s *sample) { s.descriptor.Name = "" }, "Name must have"},
		"description":     {func(s *sample) { s.descriptor.Description = strings.Repeat("x", 1001) }, "Description must have"},
		"category":        {func(s *sample) { s.descriptor.Category = " x" }, "Category must have"},
		"icon":            {func(s *sample) { s.descriptor.Icon = "" }, "Icon must have"},
		"duration":        {func(s *sample) { s.descriptor.EstimatedDuration = "" }, "EstimatedDuration must have"},
		"resource usage":  {func(s *sample) { s.descriptor.ResourceUsage = "huge" }, "ResourceUsage must be"},
		"risk":            {func(s *sample) { s.descriptor.RiskLevel = "" }, "RiskLevel must be"},
		"connection kind": {func(s *sample) { s.descriptor.Connections = map[string]string{"table": "Mongo DB"} }, `"table": "Mongo DB" does not`},
		"connection, unknown": {
			func(s *sample) { s.descriptor.Connections = map[string]string{"to": "bucket"} }, `restricted parameter "to" must be a top-level string`,
		},
		"implied, no connection": {func(s *sample) { s.descriptor.Implied = []string{"table"} }, `"table" is none`},
		"implied, required": {func(s *sample) {
			s.descriptor.Connections, s.descriptor.Implied = map[string]string{"table": "bucket"}, []string{"table"}
			s.schema["required"] = []any{"table"}
		}, `"table" is required by the schema, so it cannot be implied`},
		"restricted twice": {func(s *sample) { s.descriptor.Restricted = []string{"table", "table"} }, "Restricted must name"},
		"restricted, unknown": {
			func(s *sample) { s.descriptor.Restricted = []string{"tables"} }, `restricted parameter "tables" must be a top-level string`,
		},
		"restricted, with enum": {
			func(s *sample) { properties(s)["table"] = map[string]any{"type": "string", "enum": []any{"x"}} }, "must have no enum",
		},
		"no dryRun":            {func(s *sample) { delete(properties(s), "dryRun") }, `boolean "dryRun" with default true`},
		"dryRun false":         {func(s *sample) { properties(s)["dryRun"].(map[string]any)["default"] = false }, `boolean "dryRun" with default true`},
		"schema not compiling": {func(s *sample) { s.schema["type"] = "objekt" }, "template sample: parameters schema:"},
	} {
		s := newSample()
		tc.spoil(&s)
		if _, err := template.Compile(s); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.want)
		}
	}
}

func TestCompiledValidateParams(t *testing.T) {
	c, err := template.Compile(newSample())
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string][]string{"table": {"users", "logs", "refused"}}
	for _, tc := range []struct {
		params  map[string]any
		allowed map[string][]string
		want    string
	}{
		{map[string]any{"table": "users"}, allowed, ""},
		{map[string]any{}, allowed, ""},
		{map[string]any{"table": "other"}, nil, ""},
		{map[string]any{"table": "other"}, allowed, `table: must be one of "logs", "refused", "users"`},
		{map[string]any{"table": "other"}, map[string][]string{}, "table: has no permitted value: the executors' configuration must allow one first"},
		{map[string]any{"table": "refused"}, allowed, "table: is refused"},
		{map[string]any{"table": 1.0}, allowed, "table: must be a string, but is a number"},
	} {
		got := ""
		if err := c.ValidateParams(tc.params, tc.allowed); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%v with %v: got %q, want %q", tc.params, tc.allowed, got, tc.want)
		}
	}
}

func TestSet(t *testing.T) {
	other := newSample()
	other.descriptor.Type = "another"
	set, err := template.NewSet(newSample(), other)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, c := range set.List() {
		types = append(types, c.Descriptor.Type)
	}
	if !reflect.DeepEqual(types, []string{"another", "sample"}) {
		t.Errorf("List gives %v", types)
	}
	if c, ok := set.Get("sample"); !ok || c.Descriptor.Type != "sample" {
		t.Errorf("Get gives %v, %v", c, ok)
	}
	if _, ok := set.Get("missing"); ok {
		t.Error("Get finds what is not there")
	}
	if _, err := template.NewSet(other, newSample(), other); err == nil || !strings.Contains(err.Error(), "template another is given twice") {
		t.Errorf("a duplicate: got %v", err)
	}
	bad := newSample()
	bad.descriptor.Version = 0
	if _, err := template.NewSet(bad); err == nil {
		t.Error("an invalid descriptor was accepted")
	}
}

func TestMergeRestricted(t *testing.T) {
	schema := object(t, everything)
	merged := template.MergeRestricted(schema, map[string][]string{"name": {"b", "a", "b"}, "collection": nil, "missing": {"x"}})
	properties := merged["properties"].(map[string]any)
	if got := properties["name"].(map[string]any)["enum"]; !reflect.DeepEqual(got, []any{"a", "b"}) {
		t.Errorf("enum of name: %v", got)
	}
	if got := properties["collection"].(map[string]any)["enum"]; !reflect.DeepEqual(got, []any{}) {
		t.Errorf("enum of collection: %v", got)
	}
	if _, ok := properties["missing"]; ok {
		t.Error("a property was invented")
	}
	if !reflect.DeepEqual(schema, object(t, everything)) {
		t.Error("the argument was changed")
	}
	if _, err := template.CompileSchema(merged); err != nil {
		t.Errorf("the merged schema does not compile: %v", err)
	}
	if got := template.MergeRestricted(map[string]any{"type": "object"}, map[string][]string{"a": {"b"}}); !reflect.DeepEqual(got, map[string]any{"type": "object"}) {
		t.Errorf("a schema without properties became %v", got)
	}
}

func TestDestructiveUnlessDryRunIsTrue(t *testing.T) {
	for _, tc := range []struct {
		destructive bool
		params      map[string]any
		want        bool
	}{
		{true, map[string]any{"dryRun": true}, false},
		{true, map[string]any{"dryRun": false}, true},
		{true, map[string]any{}, true},
		{true, map[string]any{"dryRun": "true"}, true},
		{true, nil, true},
		{false, map[string]any{"dryRun": false}, false},
	} {
		if got := template.IsDestructiveRun(template.Descriptor{Destructive: tc.destructive}, tc.params); got != tc.want {
			t.Errorf("destructive %v, %v: got %v", tc.destructive, tc.params, got)
		}
	}
}

func TestAsError(t *testing.T) {
	own := template.Retryable("busy", "server busy: %w", io.EOF)
	for _, tc := range []struct {
		err       error
		code      string
		message   string
		retryable bool
	}{
		{own, "busy", "server busy: EOF", true},
		{fmt.Errorf("outer: %w", own), "busy", "server busy: EOF", true},
		{template.Fail(template.CodeLimit, "more than %d", 5), "limit", "more than 5", false},
		{template.BadParam("a.b", "is odd"), "validation", "a.b: is odd", false},
		{fmt.Errorf("find: %w", context.Canceled), "cancelled", "the run was cancelled: find", false},
		{context.DeadlineExceeded, "timeout", "the run's time is over", true},
		{io.ErrUnexpectedEOF, "internal", "unexpected EOF", false},
	} {
		got := template.AsError(tc.err)
		if got.Code != tc.code || got.Error() != tc.message || got.Retryable != tc.retryable {
			t.Errorf("%v: got %+v", tc.err, got)
		}
	}
	if template.AsError(nil) != nil {
		t.Error("nil became an error")
	}
	if !errors.Is(own, io.EOF) {
		t.Error("the cause is lost")
	}
}

// tuned is a sample that has settings.
type tuned struct{ sample }

func (tuned) SettingsSchema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{
		"tables": map[string]any{"type": "array", "items": map[string]any{"type": "string"}, "default": []any{"users"}},
		"rows":   map[string]any{"type": "integer", "minimum": 1},
	}}
}

func (tuned) ValidateSettings(settings map[string]any) error {
	if settings["rows"] == 13.0 {
		return template.BadParam("rows", "must not be 13")
	}
	return nil
}

func (tuned) Restrict(settings map[string]any) map[string][]string {
	var tables []string
	for _, name := range settings["tables"].([]any) {
		tables = append(tables, name.(string))
	}
	return map[string][]string{"table": tables}
}

func TestConfigure(t *testing.T) {
	c, err := template.Compile(tuned{newSample()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		settings map[string]any
		rows     any
		tables   []string
		want     string
	}{
		{nil, nil, []string{"users"}, ""},
		{map[string]any{"rows": 5.0, "tables": []any{"a", "b"}}, 5.0, []string{"a", "b"}, ""},
		{map[string]any{"rows": 0.0}, nil, nil, "rows: must be at least 1"},
		{map[string]any{"rows": 13.0}, nil, nil, "rows: must not be 13"},
		{map[string]any{"row": 1.0}, nil, nil, "row: is not a known parameter: remove it; known are rows, tables"},
	} {
		complete, restricted, err := c.Configure(tc.settings)
		if got := fmt.Sprint(err); err != nil && got != tc.want || err == nil && tc.want != "" {
			t.Errorf("%v: %v, want %q", tc.settings, err, tc.want)
		}
		if complete["rows"] != tc.rows || !reflect.DeepEqual(restricted["table"], tc.tables) {
			t.Errorf("%v: got %v, restricted to %v", tc.settings, complete, restricted)
		}
	}
	other := newSample()
	if complete, restricted, err := compileOf(t, other).Configure(nil); complete != nil || restricted != nil || err != nil {
		t.Errorf("a template without settings: %v, %v, %v", complete, restricted, err)
	}
	if _, _, err := compileOf(t, other).Configure(map[string]any{"rows": 1}); err == nil || !strings.Contains(err.Error(), "has no settings") {
		t.Errorf("settings for a template that has none: %v", err)
	}
	other.descriptor.Restricted = nil
	if _, _, err := compileOf(t, tuned{other}).Configure(nil); err == nil || !strings.Contains(err.Error(), `restrict "table", which its descriptor does not list`) {
		t.Errorf("settings that restrict what is not restricted: %v", err)
	}
}

type mistuned struct{ tuned }

func (mistuned) SettingsSchema() map[string]any { return map[string]any{"type": "objekt"} }

func TestCompileRefusesBadSettingsSchema(t *testing.T) {
	if _, err := template.Compile(mistuned{tuned{newSample()}}); err == nil || !strings.Contains(err.Error(), "template sample: settings:") {
		t.Errorf("Compile: %v", err)
	}
}

func compileOf(t *testing.T, tmpl template.JobTemplate) *template.Compiled {
	t.Helper()
	c, err := template.Compile(tmpl)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConnectionParametersAreRestricted(t *testing.T) {
	s := newSample()
	s.descriptor.Connections = map[string]string{"table": "bucket", "copy": "bucket"}
	s.schema["properties"].(map[string]any)["copy"] = map[string]any{"type": "string"}
	c := compileOf(t, s)
	if want := []string{"copy", "table"}; !reflect.DeepEqual(c.Descriptor.Restricted, want) {
		t.Errorf("restricted %v, want %v", c.Descriptor.Restricted, want)
	}
	if want := []string{"table"}; !reflect.DeepEqual(s.Descriptor().Restricted, want) {
		t.Errorf("the template's own descriptor became %v", s.Descriptor().Restricted)
	}
	if err := c.ValidateParams(map[string]any{"copy": "elsewhere"}, map[string][]string{"copy": {"archive"}}); err == nil || err.Error() != `copy: must be one of "archive"` {
		t.Errorf("ValidateParams: %v", err)
	}
}
