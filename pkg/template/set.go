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
	// Settings is the schema of the settings; nil when the template has none.
	Settings *Schema
}

// Compile checks a template's descriptor and schemas against each other and
// compiles the schemas. A destructive template must have a boolean dryRun that
// defaults to true, and restricted parameters must be top-level strings without
// an enum of their own. The parameters that name a connection become restricted
// in the compiled descriptor.
func Compile(t JobTemplate) (*Compiled, error) {
	d := t.Descriptor()
	if err := d.Validate(); err != nil {
		return nil, err
	}
	d.Restricted = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(d.Restricted), slices.Collect(maps.Keys(d.Connections))...))))
	schema, err := CompileSchema(t.Schema())
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", d.Type, err)
	}
	for _, name := range d.Implied {
		if schema.Requires(name) {
			return nil, fmt.Errorf("template %s: parameter %q is required by the schema, so it cannot be implied: drop one of the two", d.Type, name)
		}
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
	compiled := &Compiled{Template: t, Descriptor: d, Schema: schema}
	if configurable, ok := t.(Configurable); ok {
		if compiled.Settings, err = CompileSchema(configurable.SettingsSchema()); err != nil {
			return nil, fmt.Errorf("template %s: settings: %w", d.Type, err)
		}
	}
	return compiled, nil
}

// Configure checks the settings that an executor has for the template. It
// returns them with their defaults, and the values to which they restrict
// parameters; both are nil for a template that is not Configurable. The error is
// nil or a *ParamsError whose fields are those of the settings.
func (c *Compiled) Configure(settings map[string]any) (complete map[string]any, restricted map[string][]string, err error) {
	configurable, ok := c.Template.(Configurable)
	if !ok {
		if len(settings) > 0 {
			return nil, nil, BadParam("", "the template has no settings: remove them")
		}
		return nil, nil, nil
	}
	// First what was given, so that no default is blamed for it.
	if err := c.Settings.Validate(settings); err != nil {
		return nil, nil, err
	}
	complete = c.Settings.WithDefaults(settings)
	if err := configurable.ValidateSettings(complete); err != nil {
		return nil, nil, err
	}
	if restricting, ok := c.Template.(Restricting); ok {
		restricted = restricting.Restrict(complete)
	}
	for name := range restricted {
		if !slices.Contains(c.Descriptor.Restricted, name) {
			return nil, nil, BadParam("", "the template's settings restrict %q, which its descriptor does not list as restricted", name)
		}
	}
	return complete, restricted, nil
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
	for _, name := range slices.Sorted(maps.Keys(d.Connections)) {
		if name == "" || !typeForm.MatchString(d.Connections[name]) {
			bad("Connections must name a parameter and, in lower case, a kind of connection: %q: %q does not", shorten(name), shorten(d.Connections[name]))
		}
	}
	for _, name := range d.Implied {
		if _, ok := d.Connections[name]; !ok {
			bad("Implied must name parameters of Connections: %q is none", shorten(name))
		}
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
