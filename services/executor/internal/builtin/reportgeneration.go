package builtin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// reportGeneration makes a document with numbers, a chart and tables, of a
// collection or of the registry's own history.
type reportGeneration struct{}

const (
	onHistory    = "history"
	onCollection = "collection"

	formatHTML = "html"
	formatPDF  = "pdf"

	registryParam = "registry"
	mailParam     = "mail"

	maxGroups  = 10_000
	maxTop     = 500
	defaultTop = 20
)

func (reportGeneration) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "report_generation",
		Version: 1,
		Name:    "Report Generation",
		Description: "Make a report with numbers, a chart and tables as HTML, PDF or XLSX, put it into a bucket, send it by mail, or both. It is on the scheduler's own " +
			"history (success rate, durations, failures, slowest runs, jobs that never ran) or on a database collection, counted or summed up by a field, a day or a month",
		Category:          "reporting",
		Icon:              "📊",
		EstimatedDuration: "under 1 minute",
		ResourceUsage:     "medium",
		RiskLevel:         "low",
		Idempotent:        true, // a retry replaces the object, and mails only those whom the first did not reach
		Connections: map[string]string{
			connectionParam: template.KindMongoDB, registryParam: template.KindRegistry, destinationParam: template.KindBucket, mailParam: template.KindSMTP,
		},
		Restricted: []string{"collection"},
	}
}

func (reportGeneration) Schema() map[string]any {
	name := func(what string) map[string]any {
		return map[string]any{"type": "string", "description": what, "minLength": 1}
	}
	field := func(what string, example string) map[string]any {
		return map[string]any{"type": "string", "description": what, "minLength": 1, "maxLength": maxName, "examples": []any{example}}
	}
	of := func(source string, schema map[string]any) map[string]any {
		schema["x-when"] = map[string]any{"source": source}
		return schema
	}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"source", "format"},
		"x-form": []any{
			"source", registryParam, "organisation", connectionParam, "collection", "filter", "measure", "field", "group_by", "group_per", "date_field", "period",
			"format", "title", destinationParam, mailParam, "recipients", template.DryRunParam,
		},
		"properties": map[string]any{
			"source": map[string]any{
				"type":        "string",
				"description": "What the report is on: the history of all jobs, which needs registry, or a collection, which needs connection and collection",
				"enum":        []any{onHistory, onCollection},
			},
			"title": map[string]any{
				"type":        "string",
				"description": "Heading of the report and subject of the mail",
				"minLength":   1,
				"maxLength":   150,
				"pattern":     oneLineForm,
				"examples":    []any{"Daily summary"},
			},
			"period": map[string]any{
				"type": "string",
				"description": "Which time the report is on, seen from the scheduled time in the job's zone; days are whole ones. " +
					"Of a collection it chooses documents by date_field, and nothing without one",
				"enum":    periodNames(),
				"default": "yesterday",
			},
			"organisation": of(onHistory, map[string]any{
				"type":        "string",
				"description": "For the history: only the jobs of this organisation",
				"minLength":   1,
				"maxLength":   63,
				"examples":    []any{"shop"},
			}),
			"collection": of(onCollection, map[string]any{"type": "string", "description": "Collection name", "examples": []any{"users"}}),
			"filter":     of(onCollection, filterSchema("looked at")),
			"date_field": of(onCollection, field("Of a collection: the field that must lie in the period", "createdAt")),
			"group_by":   of(onCollection, field("Of a collection: the field whose values, days or months make the groups; without it there is one group", "status")),
			"group_per": of(onCollection, map[string]any{
				"type":        "string",
				"description": "Of a collection: whether each value of group_by is a group, or each day or month in the job's zone",
				"enum":        []any{perValue, perDay, perMonth},
				"default":     perValue,
			}),
			"measure": of(onCollection, map[string]any{
				"type":        "string",
				"description": "Of a collection: what is shown for each group",
				"enum":        []any{measureCount, measureSum, measureAverage, measureMinimum, measureMaximum},
				"default":     measureCount,
			}),
			"field": of(onCollection, field("Of a collection: the field that is summed up or averaged; numbers only", "amount")),
			"top": map[string]any{
				"type":        "integer",
				"description": "How many rows a table has at most; groups beyond are taken together",
				"minimum":     1,
				"maximum":     maxTop,
				"default":     defaultTop,
			},
			"format": map[string]any{
				"type":        "string",
				"description": "html is one page without anything to load, for screen and paper; pdf the same as a document; xlsx has each table, and each chart with its numbers, on a sheet",
				"enum":        []any{formatHTML, formatPDF, formatXLSX},
			},
			destinationParam: name("Name of the bucket to put the report into; without it there is none"),
			pathParam:        pathSchema(),
			mailParam:        name("Name of the mail server's connection that sends the report; without it no mail is sent"),
			"recipients": map[string]any{
				"type":        "array",
				"description": "Mail addresses that get the report, each by itself: the numbers as text, the report attached",
				"items":       mailAddressSchema("A mail address without a name"),
				"minItems":    1,
				"maxItems":    maxRecipients,
				"uniqueItems": true,
			},
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Work out the numbers and return them, but write and send nothing",
				"default":     false,
			},
			connectionParam: of(onCollection, name("Name of the database connection, for a report on a collection")),
			registryParam:   of(onHistory, name("Name of the registry's connection, for a report on the history")),
		},
	}
}

func (reportGeneration) SettingsSchema() map[string]any {
	mailSettings, _ := emailNotification{}.SettingsSchema()["properties"].(map[string]any)
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			"max_records": map[string]any{
				"type":        "integer",
				"description": "The most documents, or runs of jobs, that one report may look at",
				"minimum":     1,
				"maximum":     100_000_000,
				"default":     1_000_000,
			},
			domainsSetting:     mailSettings[domainsSetting],
			authoritiesSetting: mailSettings[authoritiesSetting],
		},
	}
}

func (reportGeneration) ValidateSettings(settings map[string]any) error {
	if authorities, _ := settings[authoritiesSetting].(string); authorities != "" {
		if _, err := trustedBeside(authorities); err != nil {
			return template.BadParam(authoritiesSetting, "%v", err)
		}
	}
	return nil
}

func (reportGeneration) ResultSchema() map[string]any {
	mailed, _ := emailNotification{}.ResultSchema()["properties"].(map[string]any)
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message", "records_processed"},
		"properties": map[string]any{
			"message":           map[string]any{"type": "string", "description": "What was made, and where it went"},
			"records_processed": map[string]any{"type": "integer", "description": "Documents, or runs of jobs, that the report is on"},
			"figures":           map[string]any{"type": "object", "description": "The numbers at the head of the report, by name"},
			"destination":       map[string]any{"type": "string", "description": "Name of the bucket, if there is one"},
			"object":            map[string]any{"type": "string", "description": "Name of the report in the bucket"},
			"bytes":             map[string]any{"type": "integer", "description": "Size of the report"},
			"sha256":            map[string]any{"type": "string", "description": "Checksum of the report, in hexadecimal"},
			"sent":              mailed["sent"],
			"recipients":        mailed["recipients"],
			"accepted":          mailed["accepted"],
			"refused":           mailed["refused"],
			"deferred":          mailed["deferred"],
		},
	}
}

func (reportGeneration) Examples() []template.Example {
	return []template.Example{
		{Title: "Send the administrators a summary of yesterday each morning", Params: map[string]any{
			"source": onHistory, registryParam: "registry", "title": "Daily summary", "format": formatHTML, mailParam: "mail", "recipients": []any{"ops@example.com"},
		}},
		{Title: "Keep a PDF on all runs of the last month", Params: map[string]any{
			"source": onHistory, registryParam: "registry", "period": "last_month", "format": formatPDF, destinationParam: "exports", pathParam: "reports/{year}-{month}.{ext}",
		}},
		{Title: "Count the tickets opened in the last 30 days by their status", Params: map[string]any{
			"source": onCollection, connectionParam: "main", "collection": "tickets", "period": "last_30_days", "date_field": "createdAt", "group_by": "status",
			"format": formatXLSX, destinationParam: "exports",
		}},
	}
}

func (reportGeneration) ValidateParams(params map[string]any) error {
	_, err := reportOrderOf(params, &template.Run{JobID: "job", JobName: "job", ExecutionID: "exec", ScheduledFor: time.Unix(0, 0)})
	return err
}

// reportOrder is what a run has to do.
type reportOrder struct {
	source, title, format string
	period                period
	organisation          string
	top                   int
	most                  int64 // documents or runs
	collection            collectionOrder
	object                string // "" without a destination
	mailed                bool
}

// reportOrderOf reads the parameters. The error is a *template.ParamsError.
func reportOrderOf(params map[string]any, run *template.Run) (*reportOrder, error) {
	text := func(name string) string { s, _ := params[name].(string); return s }
	o := &reportOrder{
		source: text("source"), title: text("title"), format: text("format"), organisation: text("organisation"), mailed: text(mailParam) != "",
		period: periodOf(cmp.Or(text("period"), "yesterday"), run.ScheduledFor, zoneOf(run)),
	}
	top, _ := whole(params["top"])
	o.top = cmp.Or(int(top), defaultTop)
	o.most, _ = whole(run.Settings["max_records"])
	needed, others := []string{registryParam}, []string{connectionParam, "collection", "filter", "date_field", "group_by", "field"}
	if o.source == onCollection {
		needed, others = []string{connectionParam, "collection"}, []string{registryParam, "organisation"}
	}
	for _, name := range needed {
		if text(name) == "" {
			return nil, template.BadParam(name, "is required for a report on the %s", o.source)
		}
	}
	for _, name := range others {
		if _, given := params[name]; given {
			return nil, template.BadParam(name, "is not for a report on the %s: drop it", o.source)
		}
	}
	_, recipients := params["recipients"]
	switch {
	case text(destinationParam) == "" && !o.mailed:
		return nil, template.BadParam(destinationParam, "or mail is required: say where the report goes")
	case o.mailed && !recipients:
		return nil, template.BadParam("recipients", "is required to send the report by mail")
	case !o.mailed && recipients:
		return nil, template.BadParam(mailParam, "is required to send the report by mail: name the connection")
	}
	object, err := objectPath(params, run, o.format)
	if err != nil {
		return nil, err
	}
	if text(destinationParam) != "" {
		o.object = object
	}
	if o.source == onHistory {
		o.title = cmp.Or(o.title, "Summary of all jobs")
		return o, nil
	}
	o.title = cmp.Or(o.title, "Report on "+text("collection"))
	o.collection, err = collectionOrderOf(params, run, o.period)
	return o, err
}

func (reportGeneration) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	o, err := reportOrderOf(run.Params, run)
	if err != nil {
		return nil, template.AsError(err)
	}
	made, count, err := o.gather(ctx, run)
	if err != nil {
		return nil, err
	}
	made.Title, made.Job = o.title, run.JobName
	made.ScheduledFor = run.ScheduledFor.In(zoneOf(run)).Format(time.RFC3339)
	result := template.Result{"message": fmt.Sprintf("Would make a report on %d records (dry run)", count), "records_processed": count, "figures": made.figures()}
	if template.EffectiveDryRun(run.Params) {
		return result, nil
	}
	var content bytes.Buffer
	if err := made.render(o.format, run.ScheduledFor, &content); err != nil {
		return nil, template.Fail(template.CodeInternal, "could not make the %s document: %w", o.format, err)
	}
	sum := sha256.Sum256(content.Bytes())
	result["bytes"], result["sha256"] = content.Len(), hex.EncodeToString(sum[:])
	result["message"] = fmt.Sprintf("Made a report on %d records", count)
	if o.object != "" {
		if err := o.publish(ctx, run, content.Bytes(), result); err != nil {
			return result, err
		}
	}
	if o.mailed {
		return result, o.mail(ctx, run, made, content.Bytes(), result)
	}
	return result, nil
}

// gather works the report out. It returns how many documents or runs it is on.
func (o *reportOrder) gather(ctx context.Context, run *template.Run) (*report, int64, error) {
	if o.source == onHistory {
		connection, err := run.Connection(registryParam)
		if err != nil {
			return nil, 0, err
		}
		return o.history(ctx, connection, run.Report)
	}
	if err := permitted(run, o.collection.collection); err != nil {
		return nil, 0, err
	}
	connection, err := run.Connection(connectionParam)
	if err != nil {
		return nil, 0, err
	}
	db, err := connect(ctx, connection)
	if err != nil {
		return nil, 0, err
	}
	defer db.close(ctx)
	return o.summarise(ctx, db, zoneOf(run), run.Report)
}

func (o *reportOrder) publish(ctx context.Context, run *template.Run, content []byte, result template.Result) error {
	connection, err := run.Connection(destinationParam)
	if err != nil {
		return err
	}
	into, err := openBucket(ctx, connection)
	if err != nil {
		return err
	}
	defer into.close()
	out, err := into.create(ctx, o.object, reportType(o.format))
	if err != nil {
		return err
	}
	defer out.abandon()
	if _, err := out.Write(content); err != nil {
		return into.failure(ctx, "write "+o.object, err)
	}
	if err := out.publish(); err != nil {
		return into.failure(ctx, "write "+o.object, err)
	}
	result["destination"], result["object"] = connection.Name, o.object
	result["message"] = fmt.Sprintf("%v, put into %s", result["message"], o.object)
	run.Report.Log("INFO", fmt.Sprintf("Put the report into %s in %s", o.object, connection.Name))
	return nil
}

// mail sends the report to those whom no earlier attempt has reached.
func (o *reportOrder) mail(ctx context.Context, run *template.Run, made *report, content []byte, result template.Result) error {
	connection, err := run.Connection(mailParam)
	if err != nil {
		return err
	}
	authorities, _ := run.Settings[authoritiesSetting].(string)
	server, failure := mailServerOf(connection, authorities)
	if failure != nil {
		return failure
	}
	m := mailingOf(run)
	if failure := m.permitted(run.Settings); failure != nil {
		return failure
	}
	m.draft = &mailDraft{
		subject: o.title + ", " + made.About, text: made.text(), from: server.from, execution: run.ExecutionID,
		attached: []mailAttachment{{name: "report." + o.format, kind: reportType(o.format), content: content}},
	}
	failure = m.deliver(ctx, server, run.Report)
	if failure == nil {
		failure = m.verdict()
	}
	for name, value := range m.result() {
		if name != "message" {
			result[name] = value
		}
	}
	result["message"] = fmt.Sprintf("%v, mailed to %d of %d", result["message"], len(m.accepted), len(m.recipients))
	if failure != nil {
		return failure
	}
	return nil
}

func reportType(format string) string {
	switch format {
	case formatPDF:
		return "application/pdf"
	case formatXLSX:
		return contentType(formatXLSX, compressNone)
	}
	return "text/html; charset=utf-8"
}
