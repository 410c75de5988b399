package template

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Compiled is a template whose description has been checked and whose schema is
// compiled. It is immutable and safe for concurrent use.
type Compiled struct {
	Template   JobTemplate
	Descriptor Descriptor
	Schema     *Schema
}

// Compile checks a template's descriptor and schema against each other and
// compiles the schema. A destructive template must have a boolean dryRun that
// defaults to true, and restricted parameters must be top-level strings without
// an enum of their own.
func Compile(t JobTemplate) (*Compiled, error) {
	d := t.Descriptor()
	if err := d.Validate(); err != nil {
		return nil, err
	}
	schema, err := CompileSchema(t.Schema())
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", d.Type, err)
	}
	for _, name := range d.Restricted {
		property := schema.property([]string{name})
		if property["type"] != "string" {
			return nil, fmt.Errorf("template %s: restricted parameter %q must be a top-level string in the schema", d.Type, name)
		}
		if _, ok := property["enum"]; ok {
			return nil, fmt.Errorf("template %s: restricted parameter %q must have no enum in the schema: executors' configurations provide it", d.Type, name)
		}
	}
	if dry := schema.property([]string{DryRunParam}); d.Destructive && (dry["type"] != "boolean" || dry["default"] != true) {
		return nil, fmt.Errorf("template %s: it is destructive, so the schema must have a boolean %q with default true", d.Type, DryRunParam)
	}
	return &Compiled{Template: t, Descriptor: d, Schema: schema}, nil
}

// ValidateParams checks parameters against the schema, then against the allowed
// values of the restricted parameters, then by the template's own ValidateParams.
// A nil allowed leaves the restricted parameters unchecked. It returns nil or a
// *ParamsError.
func (c *Compiled) ValidateParams(params map[string]any, allowed map[string][]string) error {
	if err := c.Schema.Validate(params); err != nil {
		return err
	}
	return c.check(params, allowed)
}

// ParseParams decodes the JSON text of parameters and checks them as
// ValidateParams does. The error is nil or a *ParamsError.
func (c *Compiled) ParseParams(text []byte, allowed map[string][]string) (map[string]any, error) {
	params, err := c.Schema.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := c.check(params, allowed); err != nil {
		return nil, err
	}
	return params, nil
}

// check is what ValidateParams does after the schema.
func (c *Compiled) check(params map[string]any, allowed map[string][]string) error {
	if allowed != nil {
		for _, name := range c.Descriptor.Restricted {
			value, present := params[name].(string)
			if present && !slices.Contains(allowed[name], value) {
				return BadParam(name, "%s", oneOf(allowed[name]))
			}
		}
	}
	return c.Template.ValidateParams(params)
}

func oneOf(values []string) string {
	if len(values) == 0 {
		return "has no permitted value: the executors' configuration must allow one first"
	}
	quoted := make([]string, len(values))
	for i, v := range slices.Sorted(slices.Values(values)) {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	return "must be one of " + strings.Join(quoted, ", ")
}

var (
	typeForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	levels   = []string{"low", "medium", "high"}
)

// Validate reports everything that is missing or wrong in a descriptor.
func (d Descriptor) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("template %q: "+format, append([]any{shorten(d.Type)}, args...)...))
	}
	if !typeForm.MatchString(d.Type) {
		bad("Type must be lower-case letters, digits and underscores, begin with a letter and have at most 63 characters")
	}
	if d.Version < 1 {
		bad("Version must be at least 1")
	}
	for _, text := range []struct {
		name, value string
		most        int
	}{
		{"Name", d.Name, 100},
		{"Description", d.Description, 1000},
		{"Category", d.Category, 100},
		{"Icon", d.Icon, 16},
		{"EstimatedDuration", d.EstimatedDuration, 100},
	} {
		if n := utf8.RuneCountInString(text.value); n == 0 || n > text.most || strings.TrimSpace(text.value) != text.value {
			bad("%s must have 1 to %d characters and no space around them", text.name, text.most)
		}
	}
	if !slices.Contains(levels, d.ResourceUsage) {
		bad("ResourceUsage must be low, medium or high")
	}
	if !slices.Contains(levels, d.RiskLevel) {
		bad("RiskLevel must be low, medium or high")
	}
	if d.ConnectionKind != "" && !typeForm.MatchString(d.ConnectionKind) {
		bad("ConnectionKind must be a lower-case word or empty")
	}
	if d.MaxConcurrency < 0 {
		bad("MaxConcurrency must be 0 for no limit, or at least 1")
	}
	for i, name := range d.Restricted {
		if name == "" || slices.Contains(d.Restricted[:i], name) {
			bad("Restricted must name each parameter once")
		}
	}
	return errors.Join(errs...)
}

// Set is a fixed collection of templates, safe for concurrent use.
type Set struct {
	byType map[string]*Compiled
}

// NewSet compiles the templates. It refuses one that Compile refuses and two of
// the same type.
func NewSet(templates ...JobTemplate) (*Set, error) {
	set := &Set{byType: make(map[string]*Compiled, len(templates))}
	for _, t := range templates {
		c, err := Compile(t)
		if err != nil {
			return nil, err
		}
		if _, ok := set.byType[c.Descriptor.Type]; ok {
			return nil, fmt.Errorf("template %s is given twice", c.Descriptor.Type)
		}
		set.byType[c.Descriptor.Type] = c
	}
	return set, nil
}

// Get returns the template of that type, or false.
func (s *Set) Get(templateType string) (*Compiled, bool) {
	c, ok := s.byType[templateType]
	return c, ok
}

// List returns the templates ordered by type.
func (s *Set) List() []*Compiled {
	all := make([]*Compiled, 0, len(s.byType))
	for _, name := range slices.Sorted(maps.Keys(s.byType)) {
		all = append(all, s.byType[name])
	}
	return all
}
