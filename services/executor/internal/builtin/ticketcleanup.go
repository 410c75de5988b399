package builtin

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// ticketCleanup deletes tickets that were settled long ago.
type ticketCleanup struct{}

func (ticketCleanup) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:              "ticket_cleanup",
		Version:           1,
		Name:              "Ticket Cleanup",
		Description:       "Remove tickets that were resolved long ago",
		Category:          "maintenance",
		Icon:              "🎫",
		EstimatedDuration: "1-10 minutes",
		ResourceUsage:     "low",
		RiskLevel:         "medium",
		Idempotent:        true,
		Destructive:       true,
		Connections:       map[string]string{connectionParam: template.KindMongoDB},
		Implied:           []string{connectionParam},
	}
}

const (
	ticketCollection = "tickets"
	defaultStatus    = "resolved"
	defaultAge       = "30 days"
)

func (ticketCleanup) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{"status", "older_than", template.DryRunParam},
		"properties": map[string]any{
			"status": map[string]any{
				"type":        "string",
				"description": "Status of the tickets to remove",
				"enum":        []any{"resolved", "closed"},
				"default":     defaultStatus,
			},
			"older_than": map[string]any{
				"type":        "string",
				"format":      "age",
				"description": `How long ago the tickets were resolved at least, such as "30 days" or "1 year"`,
				"pattern":     "^[0-9]{1,9} (minute|hour|day|week|month|year)s?$",
				"default":     defaultAge,
			},
			template.DryRunParam: dryRunSchema(),
			"max_deletions":      maxDeletionsSchema(),
			connectionParam:      connectionSchema(),
		},
	}
}

func (ticketCleanup) ResultSchema() map[string]any { return cleanupResultSchema() }

func (ticketCleanup) Examples() []template.Example {
	return []template.Example{
		{Title: "Count the tickets that were resolved more than 30 days ago, and delete nothing", Params: map[string]any{}},
		{Title: "Delete tickets closed more than a year ago", Params: map[string]any{
			"status": "closed", "older_than": "1 year", template.DryRunParam: false,
		}},
	}
}

func (ticketCleanup) ValidateParams(params map[string]any) error {
	_, err := age(params)
	return err
}

func (ticketCleanup) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	older, err := age(run.Params)
	if err != nil {
		return nil, template.AsError(err)
	}
	status, ok := run.Params["status"].(string)
	if !ok {
		status = defaultStatus
	}
	return cleanup{
		collection: ticketCollection,
		condition:  ticketCondition(status, older.Before(run.ScheduledFor, run.Zone)),
		most:       maxDeletions(run.Params),
	}.run(ctx, run)
}

func ticketCondition(status string, before time.Time) condition {
	return condition{
		filter: bson.D{
			{Key: "resolvedAt", Value: bson.D{{Key: "$lt", Value: bson.NewDateTimeFromTime(before)}}},
			{Key: "status", Value: bson.D{{Key: "$eq", Value: status}}},
		},
		dates: []string{"resolvedAt"},
	}
}

func age(params map[string]any) (template.Relative, error) {
	text, ok := params["older_than"].(string)
	if !ok {
		text = defaultAge
	}
	older, err := template.ParseRelative(text + " ago")
	if err != nil {
		return template.Relative{}, template.BadParam("older_than", `must be "<n> <minutes|hours|days|weeks|months|years>" of at most 100 years, such as %q`, defaultAge)
	}
	return older, nil
}
