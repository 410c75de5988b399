package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Bounds of what CompileSchema and Validate accept, in bytes of JSON and levels
// of nesting.
const (
	maxSchemaBytes = 256 << 10
	maxParamsBytes = 256 << 10
	maxDepth       = 32
	maxFieldErrors = 20
)

// Schema is the compiled JSON Schema of a template's parameters. It is
// immutable and safe for concurrent use.
type Schema struct {
	plain    map[string]any // as decoded from JSON: only float64 for numbers
	compiled *jsonschema.Schema
}

// CompileSchema compiles a JSON Schema (draft 2020-12) of any origin. It
// refuses one that is larger than 256 KiB, deeper than 32 levels, or that refers
// to schemas elsewhere: a schema must be self-contained, without $ref, because
// references can make validation arbitrarily expensive. The argument is copied.
func CompileSchema(schema map[string]any) (*Schema, error) {
	plain, err := plainJSON(schema, maxSchemaBytes)
	if err != nil {
		return nil, fmt.Errorf("parameters schema: %w", err)
	}
	if err := selfContained(plain); err != nil {
		return nil, fmt.Errorf("parameters schema: %w", err)
	}
	const name = "parameters.json"
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(name, plain); err != nil {
		return nil, fmt.Errorf("parameters schema: %w", err)
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("parameters schema: %w", err)
	}
	return &Schema{plain: plain, compiled: compiled}, nil
}

// noLoader keeps the compiler from reading anything beside the schema given.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%q is not loaded: a schema must be self-contained", url)
}

// selfContained refuses every keyword by which a schema refers to another place
// or gives itself another identity.
func selfContained(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			switch key {
			case "$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor":
				return fmt.Errorf("%s is not accepted: write the schema out in full", key)
			}
			if err := selfContained(inner); err != nil {
				return err
			}
		}
	case []any:
		for _, inner := range v {
			if err := selfContained(inner); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate checks parameters and returns nil or a *ParamsError that names every
// offending field (at most 20) with a remedy. The parameters are not changed.
func (s *Schema) Validate(params map[string]any) error {
	plain, err := plainJSON(params, maxParamsBytes)
	if err != nil {
		return BadParam("", "%v", err)
	}
	return s.check(plain)
}

// Parse decodes the JSON text of parameters and checks them as Validate does.
// No text and null stand for no parameters. The error is nil or a *ParamsError.
func (s *Schema) Parse(text []byte) (map[string]any, error) {
	plain, err := parseJSON(text, maxParamsBytes)
	if err != nil {
		return nil, BadParam("", "%v", err)
	}
	if err := s.check(plain); err != nil {
		return nil, err
	}
	return plain, nil
}

// check validates what parseJSON returned.
func (s *Schema) check(plain map[string]any) error {
	err := s.compiled.Validate(plain)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return BadParam("", "%v", err)
	}
	var fields []FieldError
	s.collect(invalid, &fields)
	slices.SortStableFunc(fields, func(a, b FieldError) int { return strings.Compare(a.Field, b.Field) })
	fields = slices.Compact(fields)
	if len(fields) > maxFieldErrors {
		fields = fields[:maxFieldErrors]
	}
	return &ParamsError{Fields: fields}
}

// collect turns the tree of validation errors into field errors. It does not
// descend into the branches of anyOf and oneOf, whose complaints contradict one
// another.
func (s *Schema) collect(e *jsonschema.ValidationError, fields *[]FieldError) {
	field := strings.Join(e.InstanceLocation, ".")
	add := func(name, format string, args ...any) {
		path := field
		if name != "" && path != "" {
			path += "."
		}
		*fields = append(*fields, FieldError{Field: path + name, Message: fmt.Sprintf(format, args...)})
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			add(name, "is required: %s", s.remedy(append(slices.Clone(e.InstanceLocation), name)))
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			add(name, "is not a known parameter: remove it%s", s.known(e.InstanceLocation))
		}
	case *kind.Enum:
		if len(k.Want) == 0 {
			add("", "has no permitted value: the executors' configuration must allow one first")
		} else {
			add("", "must be one of %s", list(k.Want))
		}
	case *kind.Const:
		add("", "must be %s", list([]any{k.Want}))
	case *kind.Type:
		add("", "must be %s, but is %s", strings.Join(articles(k.Want), " or "), article(k.Got))
	case *kind.Minimum:
		add("", "must be at least %s", number(k.Want))
	case *kind.Maximum:
		add("", "must be at most %s", number(k.Want))
	case *kind.ExclusiveMinimum:
		add("", "must be greater than %s", number(k.Want))
	case *kind.ExclusiveMaximum:
		add("", "must be less than %s", number(k.Want))
	case *kind.MultipleOf:
		add("", "must be a multiple of %s", number(k.Want))
	case *kind.MinLength:
		add("", "must have at least %d characters, but has %d", k.Want, k.Got)
	case *kind.MaxLength:
		add("", "must have at most %d characters, but has %d", k.Want, k.Got)
	case *kind.Pattern:
		add("", "must match the pattern %s: %s", k.Want, s.remedy(e.InstanceLocation))
	case *kind.MinItems:
		add("", "must have at least %d items, but has %d", k.Want, k.Got)
	case *kind.MaxItems:
		add("", "must have at most %d items, but has %d", k.Want, k.Got)
	case *kind.UniqueItems:
		add("", "must not repeat an item: items %d and %d are equal", k.Duplicates[0]+1, k.Duplicates[1]+1)
	case *kind.MinProperties:
		add("", "must have at least %d entries, but has %d", k.Want, k.Got)
	case *kind.MaxProperties:
		add("", "must have at most %d entries, but has %d", k.Want, k.Got)
	case *kind.AnyOf, *kind.OneOf:
		add("", "has none, or more than one, of the permitted forms: %s", s.remedy(e.InstanceLocation))
	default:
		if len(e.Causes) == 0 {
			add("", "does not satisfy the schema: %s", s.remedy(e.InstanceLocation))
		}
		for _, cause := range e.Causes {
			s.collect(cause, fields)
		}
	}
}

// property returns the schema of the value at that path as far as "properties"
// leads there, or nil.
func (s *Schema) property(path []string) map[string]any {
	at := s.plain
	for _, name := range path {
		properties, _ := at["properties"].(map[string]any)
		at, _ = properties[name].(map[string]any)
	}
	return at
}

// Requires reports whether the schema requires that top-level property in every
// case.
func (s *Schema) Requires(name string) bool {
	required, _ := s.plain["required"].([]any)
	return slices.Contains(required, any(name))
}

func (s *Schema) remedy(path []string) string {
	at := s.property(path)
	said := "give a value"
	if kind, ok := at["type"].(string); ok {
		said = "give " + article(kind)
	}
	if about, ok := at["description"].(string); ok && about != "" {
		said += " (" + strings.TrimSuffix(about, ".") + ")"
	}
	return said
}

func (s *Schema) known(path []string) string {
	properties, _ := s.property(path)["properties"].(map[string]any)
	if len(properties) == 0 {
		return ""
	}
	return "; known are " + strings.Join(slices.Sorted(maps.Keys(properties)), ", ")
}

// WithDefaults returns a deep copy of the parameters in which properties that
// are absent have the schema's default, at every depth that "properties" and
// "items" reach. A null is present and is kept.
func (s *Schema) WithDefaults(params map[string]any) map[string]any {
	filled, _ := withDefaults(s.plain, deepCopy(params)).(map[string]any)
	if filled == nil {
		filled, _ = withDefaults(s.plain, map[string]any{}).(map[string]any)
	}
	return filled
}

func withDefaults(schema map[string]any, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return nil
		}
		properties, _ := schema["properties"].(map[string]any)
		for name, p := range properties {
			property, ok := p.(map[string]any)
			if !ok {
				continue
			}
			if present, ok := v[name]; ok {
				v[name] = withDefaults(property, present)
			} else if value, ok := property["default"]; ok {
				v[name] = deepCopy(value)
			}
		}
	case []any:
		if items, ok := schema["items"].(map[string]any); ok {
			for i := range v {
				v[i] = withDefaults(items, v[i])
			}
		}
	}
	return v
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for key, inner := range v {
			out[key] = deepCopy(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = deepCopy(inner)
		}
		return out
	}
	return v
}

// plainJSON returns a deep copy holding only what encoding/json decodes to, so
// that numbers are bounded float64 and nothing below has to expect other types.
func plainJSON(v map[string]any, maxBytes int) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("must be plain JSON: %w", err)
	}
	return parseJSON(text, maxBytes)
}

// parseJSON decodes an object within the bounds; an empty one from null and from
// nothing at all.
func parseJSON(text []byte, maxBytes int) (map[string]any, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("must be at most %d KiB of JSON, but is %d KiB", maxBytes>>10, (len(text)+1023)>>10)
	}
	plain := map[string]any{}
	if len(text) == 0 || string(text) == "{}" {
		return plain, nil
	}
	if err := json.Unmarshal(text, &plain); err != nil {
		return nil, fmt.Errorf("must be a plain JSON object: %w", err)
	}
	if plain == nil {
		return map[string]any{}, nil
	}
	if !shallow(plain, maxDepth) {
		return nil, fmt.Errorf("must be nested at most %d levels deep", maxDepth)
	}
	return plain, nil
}

func shallow(v any, depth int) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			if depth == 0 || !shallow(inner, depth-1) {
				return false
			}
		}
	case []any:
		for _, inner := range v {
			if depth == 0 || !shallow(inner, depth-1) {
				return false
			}
		}
	}
	return true
}

func list(values []any) string {
	parts := make([]string, len(values))
	for i, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte(fmt.Sprint(v))
		}
		parts[i] = string(text)
	}
	return strings.Join(parts, ", ")
}

func number(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func articles(kinds []string) []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = article(k)
	}
	return out
}

func article(kind string) string {
	switch kind {
	case "integer":
		return "a whole number"
	case "number", "string", "boolean":
		return "a " + kind
	case "object", "array":
		return "an " + kind
	}
	return kind
}
