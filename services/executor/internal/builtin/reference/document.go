package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const preamble = `# Job templates

<!-- Made by make generate from what the templates say of themselves: change them, not this file. -->

What each shipped kind of job does, what it takes and what it leaves behind. A parameter with a default may be left
out. A parameter that names a **connection** takes one of the names that the executors' configuration has for
connections of that kind; a **restricted** one takes a value that their configuration permits. GET
/api/admin/job-templates shows the names and values permitted at the moment. **Settings** are given to an executor, in
its configuration file under ` + "`templates: {<template>: {...}}`" + `; a text among them may be written as ` + "`{file: /path}`" + `.

| Template | Name | Category | Risk | Idempotent | Destructive |
|---|---|---|---|---|---|
`

// document renders the templates as Markdown.
func document(templates []*template.Compiled) (string, error) {
	out := &strings.Builder{}
	out.WriteString(preamble)
	for _, t := range templates {
		d := t.Descriptor
		fmt.Fprintf(out, "| [%s](#%s) | %s %s | %s | %s | %s | %s |\n",
			d.Type, d.Type, cell(d.Icon), cell(d.Name), cell(d.Category), d.RiskLevel, yesNo(d.Idempotent), yesNo(d.Destructive))
	}
	for _, t := range templates {
		if err := section(out, t); err != nil {
			return "", fmt.Errorf("template %s: %w", t.Descriptor.Type, err)
		}
	}
	return out.String(), nil
}

func section(out *strings.Builder, t *template.Compiled) error {
	d := t.Descriptor
	documented, ok := t.Template.(template.Documented)
	if !ok {
		return errors.New("has no ResultSchema and Examples (see template.Documented)")
	}
	fmt.Fprintf(out, "\n## %s\n\n%s. Version %d; usually takes %s; needs %s resources.\n", d.Type, strings.TrimSuffix(d.Description, "."), d.Version,
		lowerFirst(d.EstimatedDuration), lowerFirst(d.ResourceUsage))
	if d.Idempotent {
		out.WriteString("It is idempotent: a run that was interrupted is simply attempted again.\n")
	} else {
		out.WriteString("It is not idempotent: a run whose end is unknown is not attempted again by itself.\n")
	}
	if d.Destructive {
		fmt.Fprintf(out, "It is destructive unless `%s` is true, which is the default.\n", template.DryRunParam)
	}
	if d.MaxConcurrency > 0 {
		fmt.Fprintf(out, "At most %d runs go on at once, on all executors together.\n", d.MaxConcurrency)
	}
	out.WriteString("\n### Parameters\n\n")
	table(out, t.Template.Schema(), func(name, about string) string {
		switch kind, isConnection := d.Connections[name]; {
		case isConnection && slices.Contains(d.Implied, name):
			return fmt.Sprintf("%s Names a connection of kind `%s`; may be left out where there is only one.", about, kind)
		case isConnection:
			return fmt.Sprintf("%s Names a connection of kind `%s`.", about, kind)
		case slices.Contains(d.Restricted, name):
			return about + " Restricted by the executors' configuration."
		}
		return about
	})
	if configurable, ok := t.Template.(template.Configurable); ok {
		out.WriteString("\n### Settings\n\n")
		table(out, configurable.SettingsSchema(), nil)
	}
	out.WriteString("\n### Result\n\n")
	results(out, documented.ResultSchema())
	out.WriteString("\n### Examples\n")
	for _, example := range documented.Examples() {
		var params strings.Builder
		encoder := json.NewEncoder(&params)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(example.Params); err != nil {
			return fmt.Errorf("example %q: %w", example.Title, err)
		}
		fmt.Fprintf(out, "\n%s:\n\n```json\n%s```\n", strings.TrimSuffix(example.Title, "."), params.String())
	}
	return nil
}

// table renders the properties of an object's schema. What further can be said
// of one comes from more, unless that is nil.
func table(out *strings.Builder, schema map[string]any, more func(name, about string) string) {
	rows := &strings.Builder{}
	walk("", plain(schema), func(path string, property map[string]any, required bool) {
		about := sentence(property["description"])
		if more != nil {
			about = strings.TrimSpace(more(path, about))
		}
		fallback := ""
		if value, ok := property["default"]; ok {
			fallback = "`" + code(value) + "`"
		} else if required {
			fallback = "required"
		}
		fmt.Fprintf(rows, "| `%s` | %s | %s | %s | %s |\n", path, kind(property), cell(fallback), cell(strings.Join(bounds(property), "; ")), prose(about))
	})
	if rows.Len() == 0 {
		out.WriteString("None.\n")
		return
	}
	out.WriteString("| Name | Type | Default | Bounds | Description |\n|---|---|---|---|---|\n" + rows.String())
}

// results renders the schema of a result, for which only names and meanings
// matter.
func results(out *strings.Builder, schema map[string]any) {
	out.WriteString("| Name | Type | Description |\n|---|---|---|\n")
	walk("", plain(schema), func(path string, property map[string]any, _ bool) {
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", path, kind(property), prose(sentence(property["description"])))
	})
}

// plain makes of a schema what its JSON says, whatever Go types it was written in.
func plain(schema map[string]any) map[string]any {
	var decoded map[string]any
	text, err := json.Marshal(schema)
	if err != nil || json.Unmarshal(text, &decoded) != nil {
		return nil // Compile would have refused it
	}
	return decoded
}

// walk visits the properties of an object, each followed by those within it. The
// values of a free-form object stand under <name>, the items of an array under [].
func walk(prefix string, schema map[string]any, visit func(path string, property map[string]any, required bool)) {
	required, _ := schema["required"].([]any)
	within := func(path string, property map[string]any, required bool) {
		visit(path, property, required)
		walk(path+".", property, visit)
		if items, ok := property["items"].(map[string]any); ok {
			walk(path+"[].", items, visit)
		}
	}
	inner, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(inner)) {
		property, _ := inner[name].(map[string]any)
		within(prefix+name, property, slices.Contains(required, any(name)))
	}
	if values, ok := schema["additionalProperties"].(map[string]any); ok {
		within(prefix+"<name>", values, false)
	}
}

// kind tells a property's type in words.
func kind(property map[string]any) string {
	switch of := property["type"].(type) {
	case string:
		items, ok := property["items"].(map[string]any)
		if of == "array" && ok {
			return "array of " + kind(items)
		}
		return of
	case []any:
		var names []string
		for _, name := range of {
			names = append(names, fmt.Sprint(name))
		}
		return strings.Join(names, " or ")
	}
	return "any"
}

// bounds tells what a property's values must keep to.
func bounds(property map[string]any) []string {
	var found []string
	for _, bound := range []struct{ keyword, form string }{
		{"minimum", "at least %s"},
		{"exclusiveMinimum", "more than %s"},
		{"maximum", "at most %s"},
		{"exclusiveMaximum", "less than %s"},
		{"multipleOf", "a multiple of %s"},
		{"minLength", "characters: at least %s"},
		{"maxLength", "characters: at most %s"},
		{"pattern", "matches `%s`"},
		{"minItems", "items: at least %s"},
		{"maxItems", "items: at most %s"},
		{"minProperties", "entries: at least %s"},
		{"maxProperties", "entries: at most %s"},
	} {
		if value, ok := property[bound.keyword]; ok {
			text, isText := value.(string)
			if !isText {
				text = code(value)
			}
			found = append(found, fmt.Sprintf(bound.form, text))
		}
	}
	if values, ok := property["enum"].([]any); ok {
		words := make([]string, len(values))
		for i, value := range values {
			words[i] = "`" + code(value) + "`"
		}
		found = append(found, "one of "+strings.Join(words, ", "))
	}
	if property["uniqueItems"] == true {
		found = append(found, "none twice")
	}
	if items, ok := property["items"].(map[string]any); ok {
		for _, bound := range bounds(items) {
			found = append(found, "each: "+bound)
		}
	}
	return found
}

// code writes a value as JSON.
func code(value any) string {
	if n, ok := value.(float64); ok && n == float64(int64(n)) {
		return fmt.Sprint(int64(n))
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return fmt.Sprint(value)
	}
	return strings.TrimSpace(out.String())
}

// cell makes text fit into a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}

// prose is a cell of text in which nothing is markup.
func prose(text string) string {
	return strings.NewReplacer("<", `\<`, "*", `\*`).Replace(cell(text))
}

func sentence(about any) string {
	text, _ := about.(string)
	if text != "" && !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func lowerFirst(text string) string {
	if text == "" {
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}
