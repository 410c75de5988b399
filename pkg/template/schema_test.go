package template_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

func mustCompile(t testing.TB, schema string) *template.Schema {
	t.Helper()
	compiled, err := template.CompileSchema(object(t, schema))
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func object(t testing.TB, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

const everything = `{
	"type": "object",
	"additionalProperties": false,
	"required": ["collection"],
	"properties": {
		"collection": {"type": "string", "description": "Collection name.", "enum": ["users", "logs"]},
		"count":      {"type": "integer", "minimum": 1, "maximum": 10, "multipleOf": 1, "default": 3},
		"ratio":      {"type": "number", "exclusiveMinimum": 0.5, "exclusiveMaximum": 2},
		"even":       {"type": "integer", "multipleOf": 2},
		"name":       {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]*$"},
		"tags":       {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": true, "items": {"type": "object", "properties": {"k": {"type": "string", "default": "v"}}}},
		"map":        {"type": "object", "minProperties": 1, "maxProperties": 2},
		"nested":     {"type": "object", "additionalProperties": false, "required": ["deep"], "properties": {"deep": {"type": ["string", "null"]}, "with": {"type": "boolean", "default": true}}},
		"either":     {"description": "A word or a number.", "anyOf": [{"type": "string"}, {"type": "number"}]},
		"fixed":      {"const": "x"},
		"never":      {"not": {"type": "string"}},
		"none":       {"type": "string", "enum": []}
	}
}`

func TestValidateNamesFieldAndRemedy(t *testing.T) {
	schema := mustCompile(t, everything)
	for _, tc := range []struct{ params, field, message string }{
		{`{}`, "collection", "is required: give a string (Collection name)"},
		{`{"collection": "x"}`, "collection", `must be one of "users", "logs"`},
		{`{"collection": 7}`, "collection", "must be a string, but is a number"},
		{`{"collection": "users", "colour": 1}`, "colour", "is not a known parameter: remove it; known are collection, count,"},
		{`{"collection": "users", "count": 0}`, "count", "must be at least 1"},
		{`{"collection": "users", "count": 11}`, "count", "must be at most 10"},
		{`{"collection": "users", "count": 1.5}`, "count", "must be a whole number, but is a number"},
		{`{"collection": "users", "ratio": 0.5}`, "ratio", "must be greater than 0.5"},
		{`{"collection": "users", "ratio": 2}`, "ratio", "must be less than 2"},
		{`{"collection": "users", "even": 3}`, "even", "must be a multiple of 2"},
		{`{"collection": "users", "name": "a"}`, "name", "must have at least 2 characters, but has 1"},
		{`{"collection": "users", "name": "abcde"}`, "name", "must have at most 4 characters, but has 5"},
		{`{"collection": "users", "name": "AB"}`, "name", "must match the pattern ^[a-z]*$: give a string"},
		{`{"collection": "users", "tags": []}`, "tags", "must have at least 1 items, but has 0"},
		{`{"collection": "users", "tags": [{}, {"k": "a"}, {"k": "b"}]}`, "tags", "must have at most 2 items, but has 3"},
		{`{"collection": "users", "tags": [{}, {}]}`, "tags", "must not repeat an item: items 1 and 2 are equal"},
		{`{"collection": "users", "tags": [{"k": 1}]}`, "tags.0.k", "must be a string, but is a number"},
		{`{"collection": "users", "map": {}}`, "map", "must have at least 1 entries, but has 0"},
		{`{"collection": "users", "map": {"a":1,"b":1,"c":1}}`, "map", "must have at most 2 entries, but has 3"},
		{`{"collection": "users", "nested": {}}`, "nested.deep", "is required: give a value"},
		{`{"collection": "users", "nested": {"deep": 1}}`, "nested.deep", "must be null or a string, but is a number"},
		{`{"collection": "users", "nested": {"deep": null, "x": 1}}`, "nested.x", "is not a known parameter: remove it; known are deep, with"},
		{`{"collection": "users", "either": true}`, "either", "permitted forms: give a value (A word or a number)"},
		{`{"collection": "users", "fixed": "y"}`, "fixed", `must be "x"`},
		{`{"collection": "users", "never": "y"}`, "never", "does not satisfy the schema: give a value"},
		{`{"collection": "users", "none": "y"}`, "none", "has no permitted value"},
	} {
		err := schema.Validate(object(t, tc.params))
		var invalid *template.ParamsError
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 {
			t.Errorf("%s: got %v, want one field error", tc.params, err)
			continue
		}
		if got := invalid.Fields[0]; got.Field != tc.field || !strings.Contains(got.Message, tc.message) {
			t.Errorf("%s:\n got %+v\nwant %s: %s", tc.params, got, tc.field, tc.message)
		}
	}
	if err := schema.Validate(object(t, `{"collection": "logs", "count": 2, "either": 1, "nested": {"deep": null}}`)); err != nil {
		t.Errorf("valid parameters refused: %v", err)
	}
}

func TestValidateListsEveryFieldInOrder(t *testing.T) {
	err := mustCompile(t, everything).Validate(object(t, `{"ratio": 9, "count": 99, "zzz": 1}`))
	want := "collection: is required: give a string (Collection name); count: must be at most 10; ratio: must be less than 2; zzz: is not a known parameter"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s...", err, want)
	}
	many := map[string]any{}
	for i := range 50 {
		many[strings.Repeat("x", i+1)] = true
	}
	var invalid *template.ParamsError
	if err := mustCompile(t, everything).Validate(many); !errors.As(err, &invalid) || len(invalid.Fields) != 20 {
		t.Errorf("50 faults: got %d field errors, want 20", len(invalid.Fields))
	}
}

func TestValidateRefusesWhatIsNotBoundedJSON(t *testing.T) {
	schema := mustCompile(t, `{"type": "object"}`)
	cyclic := map[string]any{}
	cyclic["self"] = cyclic
	deep := map[string]any{}
	for range 40 {
		deep = map[string]any{"a": []any{deep}}
	}
	for name, params := range map[string]map[string]any{
		"function": {"f": func() {}},
		"cyclic":   cyclic,
		"deep":     deep,
		"large":    {"text": strings.Repeat("x", 300<<10)},
		"number":   {"n": json.Number("1e999999999")},
	} {
		var invalid *template.ParamsError
		if err := schema.Validate(params); !errors.As(err, &invalid) || !strings.HasPrefix(err.Error(), "parameters: must be ") {
			t.Errorf("%s: got %v, want a *ParamsError about the parameters as a whole", name, err)
		}
	}
	if err := schema.Validate(nil); err != nil {
		t.Errorf("nil parameters are an empty object, got %v", err)
	}
}

func TestParse(t *testing.T) {
	schema := mustCompile(t, everything)
	deep := strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33)
	for name, tc := range map[string]struct{ text, want string }{
		"array":    {`[1]`, "parameters: must be a plain JSON object"},
		"cut off":  {`{"collection": "users"`, "parameters: must be a plain JSON object"},
		"two":      {`{} {}`, "parameters: must be a plain JSON object"},
		"number":   {`{"count": 1e999}`, "parameters: must be a plain JSON object"},
		"large":    {`{"name": "` + strings.Repeat("x", 256<<10) + `"}`, "parameters: must be at most 256 KiB of JSON, but is 257 KiB"},
		"deep":     {deep, "parameters: must be nested at most 32 levels deep"},
		"schema":   {`{"collection": "other"}`, `collection: must be one of "users", "logs"`},
		"required": {`null`, "collection: is required"},
	} {
		params, err := schema.Parse([]byte(tc.text))
		var invalid *template.ParamsError
		if !errors.As(err, &invalid) || !strings.HasPrefix(err.Error(), tc.want) || params != nil {
			t.Errorf("%s: got %v, %v, want %s...", name, params, err, tc.want)
		}
	}
	const text = `{"collection": "logs", "count": 2, "nested": {"deep": null}}`
	if params, err := schema.Parse([]byte(text)); err != nil || !reflect.DeepEqual(params, object(t, text)) {
		t.Errorf("got %v, %v", params, err)
	}
	free := mustCompile(t, `{"type": "object"}`)
	for _, text := range []string{"", "null", "{}"} {
		if params, err := free.Parse([]byte(text)); err != nil || params == nil || len(params) != 0 {
			t.Errorf("%q: got %v, %v, want an empty object", text, params, err)
		}
	}
}

func TestWithDefaults(t *testing.T) {
	schema := mustCompile(t, everything)
	params := object(t, `{"collection": "users", "nested": {"deep": null}, "tags": [{}, {"k": "own"}, 7]}`)
	before := object(t, `{"collection": "users", "nested": {"deep": null}, "tags": [{}, {"k": "own"}, 7]}`)
	got := schema.WithDefaults(params)
	want := object(t, `{"collection": "users", "count": 3, "nested": {"deep": null, "with": true}, "tags": [{"k": "v"}, {"k": "own"}, 7]}`)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if !reflect.DeepEqual(params, before) {
		t.Errorf("the argument was changed to %v", params)
	}
	if got := schema.WithDefaults(nil); !reflect.DeepEqual(got, map[string]any{"count": 3.0}) {
		t.Errorf("nil parameters: got %v", got)
	}
	if got := schema.WithDefaults(map[string]any{"count": nil}); got["count"] != nil {
		t.Errorf("an explicit null was replaced: %v", got)
	}
	listed := mustCompile(t, `{"properties": {"to": {"default": [{"a": 1}]}}}`)
	first := listed.WithDefaults(nil)
	first["to"].([]any)[0].(map[string]any)["a"] = "changed"
	if second := listed.WithDefaults(nil); !reflect.DeepEqual(second, object(t, `{"to": [{"a": 1}]}`)) {
		t.Errorf("defaults are shared between results: %v", second)
	}
}

func TestCompileSchemaRefusesWhatIsUnsafe(t *testing.T) {
	deep := `{"type": "object"}`
	for range 40 {
		deep = `{"not": ` + deep + `}`
	}
	for _, tc := range []struct{ name, schema, want string }{
		{"remote reference", `{"$ref": "https://example.com/x.json"}`, "$ref is not accepted"},
		{"file reference", `{"properties": {"a": {"$ref": "file:///etc/passwd"}}}`, "$ref is not accepted"},
		{"local reference", `{"allOf": [{"$ref": "#"}, {"$ref": "#"}]}`, "$ref is not accepted"},
		{"own identity", `{"$id": "https://example.com/x.json"}`, "$id is not accepted"},
		{"unknown dialect", `{"$schema": "https://example.com/dialect"}`, "is not loaded: a schema must be self-contained"},
		{"wrong keyword value", `{"type": "text"}`, "type"},
		{"bad pattern", `{"pattern": "("}`, "regex"},
		{"explosive pattern", `{"pattern": "((a{1000}){1000}){1000}"}`, "regex"},
		{"too deep", deep, "at most 32 levels"},
		{"too large", `{"description": "` + strings.Repeat("x", 300<<10) + `"}`, "at most 256 KiB"},
	} {
		if _, err := template.CompileSchema(object(t, tc.schema)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.want)
		}
	}
	if _, err := template.CompileSchema(map[string]any{"const": make(chan int)}); err == nil {
		t.Error("a schema that is not JSON was accepted")
	}
}

func FuzzCompileSchema(f *testing.F) {
	f.Add(everything, `{"collection": "users"}`)
	f.Add(`{"type": ["object"], "minimum": 1e308, "multipleOf": 1e-300, "if": {"maxLength": 1e30}, "prefixItems": [true]}`, `{"a": [1, "x", null]}`)
	f.Add(`{"patternProperties": {"^a": false}, "propertyNames": {"maxLength": 0}, "dependentRequired": {"a": ["b"]}, "contains": {}, "unevaluatedProperties": false}`, `{"a": {}}`)
	f.Add(`{"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": true, "minimum": 1}`, `{"id": 1}`)
	f.Fuzz(func(t *testing.T, schemaText, paramsText string) {
		var schema, params map[string]any
		if json.Unmarshal([]byte(schemaText), &schema) != nil || json.Unmarshal([]byte(paramsText), &params) != nil {
			return
		}
		compiled, err := template.CompileSchema(schema)
		if err != nil {
			return
		}
		var invalid *template.ParamsError
		if err := compiled.Validate(params); err != nil && (!errors.As(err, &invalid) || len(invalid.Fields) == 0) {
			t.Errorf("Validate returned %T (%v), want a *ParamsError with fields", err, err)
		}
		if encoded, err := json.Marshal(params); err == nil {
			if _, parsed := compiled.Parse(encoded); (parsed == nil) != (compiled.Validate(params) == nil) {
				t.Errorf("Parse says %v of %s, but Validate does not", parsed, encoded)
			}
		}
		once := compiled.WithDefaults(params)
		if twice := compiled.WithDefaults(once); len(once) != len(twice) {
			t.Errorf("defaults are not settled after one pass: %v, then %v", once, twice)
		}
	})
}
