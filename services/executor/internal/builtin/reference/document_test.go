package main

import (
	"context"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// letter has one of everything that the reference shows.
type letter struct{ descriptor template.Descriptor }

func (l letter) Descriptor() template.Descriptor { return l.descriptor }

func (letter) Schema() map[string]any {
	return map[string]any{"type": "object", "required": []any{"to"}, "properties": map[string]any{
		"to": map[string]any{
			"type": "array", "description": "Who gets | it", "minItems": 1, "maxItems": 5, "uniqueItems": true,
			"items": map[string]any{"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string", "description": "Of a person."}}},
		},
		"dryRun": map[string]any{"type": "boolean", "default": true, "description": "Send nothing"},
		"server": map[string]any{"type": "string", "description": "Mail server"},
		"copy":   map[string]any{"type": "string", "description": "Where a copy goes"},
		"layout": map[string]any{"type": "string", "description": "How it looks", "pattern": "^a|b$"},
		"size":   map[string]any{"type": []any{"integer", "string"}, "description": "How large", "minimum": 1, "exclusiveMaximum": 2.5, "enum": []any{1, "<big>"}},
		"tags":   map[string]any{"type": "array", "description": "Words", "items": map[string]any{"type": "string", "maxLength": 9}},
	}}
}

func (letter) ValidateParams(map[string]any) error { return nil }

func (letter) Execute(context.Context, *template.Run) (template.Result, error) { return nil, nil }

func (letter) SettingsSchema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{"layouts": map[string]any{
		"type": "object", "description": "By name", "additionalProperties": map[string]any{"type": "string", "description": "Text", "maxLength": 10},
	}}}
}

func (letter) ValidateSettings(map[string]any) error { return nil }

func (letter) ResultSchema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{"sent": map[string]any{"type": "integer", "description": "How many <n>"}}}
}

func (letter) Examples() []template.Example {
	return []template.Example{{Title: "Write to Ann", Params: map[string]any{"to": []any{map[string]any{"name": "Ann <a@b>"}}}}}
}

func newLetter() letter {
	return letter{template.Descriptor{
		Type: "letter", Version: 2, Name: "Letter", Description: "Write a letter", Category: "post", Icon: "✉", EstimatedDuration: "A day",
		ResourceUsage: "low", RiskLevel: "high", Destructive: true, MaxConcurrency: 3,
		Connections: map[string]string{"server": "smtp", "copy": "bucket"}, Implied: []string{"server"}, Restricted: []string{"layout"},
	}}
}

func TestDocument(t *testing.T) {
	compiled, err := template.Compile(newLetter())
	if err != nil {
		t.Fatal(err)
	}
	got, err := document([]*template.Compiled{compiled})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| [letter](#letter) | ✉ Letter | post | high | no | yes |\n",
		"## letter\n\nWrite a letter. Version 2; usually takes a day; needs low resources.\nIt is not idempotent",
		"It is destructive unless `dryRun` is true", "At most 3 runs go on at once",
		"| `dryRun` | boolean | `true` |  | Send nothing. |\n",
		"| `to` | array of object | required | items: at least 1; items: at most 5; none twice | Who gets \\| it. |\n| `to[].name` | string |  |  | Of a person. |\n",
		"| `server` | string |  |  | Mail server. Names a connection of kind `smtp`; may be left out where there is only one. |",
		"| `copy` | string |  |  | Where a copy goes. Names a connection of kind `bucket`. |",
		"| `layout` | string |  | matches `^a\\|b$` | How it looks. Restricted by the executors' configuration. |",
		"| `size` | integer or string |  | at least 1; less than 2.5; one of `1`, `\"<big>\"` | How large. |",
		"| `tags` | array of string |  | each: characters: at most 9 | Words. |",
		"### Settings\n", "| `layouts` | object |  |  | By name. |\n| `layouts.<name>` | string |  | characters: at most 10 | Text. |\n",
		"### Result\n\n| Name | Type | Description |\n|---|---|---|\n| `sent` | integer | How many \\<n>. |\n",
		"Write to Ann:\n\n```json\n{\n  \"to\": [\n    {\n      \"name\": \"Ann <a@b>\"\n    }\n  ]\n}\n```\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q in:\n%s", want, got)
		}
	}
}

// silent says nothing of its results.
type silent struct{ template.JobTemplate }

func TestUndocumentedTemplatesAreRefused(t *testing.T) {
	compiled, err := template.Compile(silent{newLetter()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := document([]*template.Compiled{compiled}); err == nil || !strings.Contains(err.Error(), "template letter: has no ResultSchema and Examples") {
		t.Errorf("got %v", err)
	}
}
