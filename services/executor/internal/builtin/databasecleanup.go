package builtin

import (
	"context"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// databaseCleanup deletes what meets a condition from a permitted collection.
type databaseCleanup struct{}

func (databaseCleanup) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:              "database_cleanup",
		Version:           1,
		Name:              "Database Cleanup",
		Description:       "Remove old records from a database collection",
		Category:          "maintenance",
		Icon:              "🧹",
		EstimatedDuration: "5-30 minutes",
		ResourceUsage:     "low",
		RiskLevel:         "medium",
		Idempotent:        true,
		Destructive:       true,
		Connections:       map[string]string{connectionParam: template.KindMongoDB},
		Implied:           []string{connectionParam},
		Restricted:        []string{"collection"},
	}
}

func (databaseCleanup) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"collection", "condition"},
		"x-form":               []any{"collection", "condition", template.DryRunParam},
		"properties": map[string]any{
			"collection": map[string]any{
				"type":        "string",
				"description": "Collection name",
			},
			"condition": map[string]any{
				"type":          "object",
				"format":        conditionFormat,
				"minProperties": 1,
				"description":   `MongoDB query condition, such as {"lastActive": {"$lt": "6 months ago"}}`,
			},
			template.DryRunParam: dryRunSchema(),
			"max_deletions":      maxDeletionsSchema(),
			connectionParam:      connectionSchema(),
		},
	}
}

func (databaseCleanup) ResultSchema() map[string]any { return cleanupResultSchema() }

func (databaseCleanup) Examples() []template.Example {
	return []template.Example{
		{Title: "Count the users who have not been active for half a year, and delete nothing", Params: map[string]any{
			"collection": "users", "condition": map[string]any{"lastActive": map[string]any{"$lt": "6 months ago"}},
		}},
		{Title: "Delete log entries older than 90 days, but never more than 50,000 at a time", Params: map[string]any{
			"collection": "logs", "condition": map[string]any{"createdAt": map[string]any{"$lt": "90 days ago"}},
			template.DryRunParam: false, "max_deletions": 50_000,
		}},
	}
}

func (databaseCleanup) ValidateParams(params map[string]any) error {
	// When the run is due does not matter to whether the condition is well formed.
	_, err := cleanupOf(params, time.Unix(0, 0), time.UTC)
	return err
}

func (databaseCleanup) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	c, err := cleanupOf(run.Params, run.ScheduledFor, run.Zone)
	if err != nil {
		return nil, template.AsError(err)
	}
	return c.run(ctx, run)
}

func cleanupOf(params map[string]any, origin time.Time, zone *time.Location) (cleanup, error) {
	collection, _ := params["collection"].(string)
	raw, _ := params["condition"].(map[string]any)
	parsed, err := parseCondition(raw, origin, zone)
	if err != nil {
		return cleanup{}, err
	}
	return cleanup{collection: collection, condition: parsed, most: maxDeletions(params)}, nil
}
