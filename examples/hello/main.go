// Command hello is a runner with a template of one's own. An executor that is
// started with --runner=hello offers it to the registries.
package main

import (
	"context"
	"os"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

func main() { os.Exit(runner.Main(hello{})) }

// hello greets somebody in the run's log.
type hello struct{}

func (hello) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type: "hello", Version: 1, Name: "Hello", Description: "Greet somebody", Category: "example", Icon: "👋",
		EstimatedDuration: "under 1 second", ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
	}
}

func (hello) Schema() map[string]any {
	return object("name", map[string]any{"type": "string", "description": "Who is greeted", "minLength": 1, "maxLength": 100})
}

func (hello) ResultSchema() map[string]any {
	return object("message", map[string]any{"type": "string", "description": "The greeting"})
}

func object(property string, schema map[string]any) map[string]any {
	return map[string]any{
		"type": "object", "additionalProperties": false, "required": []any{property},
		"properties": map[string]any{property: schema},
	}
}

func (hello) Examples() []template.Example {
	return []template.Example{{Title: "Greet Ada", Params: map[string]any{"name": "Ada"}}}
}

// ValidateParams has nothing to add to the schema.
func (hello) ValidateParams(map[string]any) error { return nil }

func (hello) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	greeting := "Hello, " + run.Params["name"].(string) // the schema requires it
	run.Report.Log("INFO", greeting)
	return template.Result{"message": greeting}, nil
}
