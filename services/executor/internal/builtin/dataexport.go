package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	maxFields       = 200
	sampleDocuments = 5
	sampleBytes     = 16 << 10
	progressEvery   = 5_000 // documents
)

// dataExport writes the documents of a collection into a file in a bucket.
type dataExport struct{}

func (dataExport) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:              "data_export",
		Version:           1,
		Name:              "Data Export",
		Description:       "Write the documents of a database collection into a CSV, NDJSON or XLSX file in a bucket",
		Category:          "data",
		Icon:              "📤",
		EstimatedDuration: "1 minute for a million documents",
		ResourceUsage:     "medium",
		RiskLevel:         "low",
		Idempotent:        true, // the object's name follows from the scheduled time
		Connections:       map[string]string{connectionParam: template.KindMongoDB, destinationParam: template.KindBucket},
		Implied:           []string{connectionParam, destinationParam},
		Restricted:        []string{"collection"},
	}
}

func (dataExport) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{"collection", "filter", "format", "fields", destinationParam, template.DryRunParam},
		"required":             []any{"collection", "format"},
		"properties": map[string]any{
			"collection": map[string]any{
				"type":        "string",
				"description": "Collection name",
				"examples":    []any{"users"},
			},
			"filter": filterSchema("exported"),
			"fields": map[string]any{
				"type": "array",
				"description": "Fields to export, in this order; those of embedded documents with dots. Without it all are exported; " +
					"a table then has a column for each field that any document has, for which the collection is read twice",
				"minItems":    1,
				"maxItems":    maxFields,
				"uniqueItems": true,
				// Not as a list of lists: not every store can keep one.
				"items": map[string]any{"type": "string", "minLength": 1, "maxLength": maxName, "examples": []any{"_id", "name", "address.city"}},
			},
			"limit": map[string]any{
				"type":        "integer",
				"description": "Export at most this many documents, the first in the order of their ids; without it, all",
				"minimum":     1,
				"maximum":     1_000_000_000,
				"examples":    []any{1000},
			},
			"format": map[string]any{
				"type": "string",
				"description": "csv and xlsx are tables: dates in RFC 3339 (UTC), ids in hexadecimal, documents and lists as JSON, and texts that begin like a formula " +
					"(with =, +, -, @, tab or line break) behind an apostrophe. ndjson has one document a line and can be read back",
				"enum": []any{formatCSV, formatNDJSON, formatXLSX},
			},
			"extended_json": map[string]any{
				"type":        "string",
				"description": "For ndjson: relaxed has plain numbers and readable dates; canonical keeps the exact type of every number",
				"enum":        []any{"relaxed", "canonical"},
				"default":     "relaxed",
			},
			"compression": map[string]any{
				"type":        "string",
				"description": "How the file is compressed; xlsx is by itself",
				"enum":        []any{compressNone, compressGzip, compressZstd},
				"default":     compressNone,
			},
			destinationParam: destinationSchema("to export into"),
			pathParam:        pathSchema(),
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Count the documents and show the first, but write nothing",
				"default":     false,
			},
			connectionParam: connectionSchema(),
		},
	}
}

// filterSchema is that of the parameter that chooses documents. What completes
// "Which documents are ...".
func filterSchema(what string) map[string]any {
	return map[string]any{
		"type":        "object",
		"format":      conditionFormat,
		"description": "Which documents are " + what + `: a MongoDB query condition, such as {"lastActive": {"$gte": "30 days ago"}}; without it, all`,
		"examples":    []any{map[string]any{"lastActive": map[string]any{"$gte": "30 days ago"}}},
	}
}

func (dataExport) SettingsSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			"max_documents": map[string]any{
				"type":        "integer",
				"description": "The most documents that one export may have",
				"minimum":     1,
				"maximum":     1_000_000_000,
				"default":     10_000_000,
			},
			"max_bytes": map[string]any{
				"type":        "integer",
				"description": "The largest file that one export may write, in bytes as stored",
				"minimum":     1,
				"maximum":     70_000_000_000,
				"default":     10_000_000_000,
			},
		},
	}
}

func (dataExport) ValidateSettings(map[string]any) error { return nil }

func (dataExport) ResultSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message", "records_processed"},
		"properties": map[string]any{
			"message":           map[string]any{"type": "string", "description": "What was exported, or would be in a real run"},
			"records_processed": map[string]any{"type": "integer", "description": "Documents in the file; in a dry run, all that would be"},
			"destination":       map[string]any{"type": "string", "description": "Name of the bucket"},
			"object":            map[string]any{"type": "string", "description": "Name of the file in the bucket"},
			"bytes":             map[string]any{"type": "integer", "description": "Size of the file as stored; not in a dry run"},
			"sha256":            map[string]any{"type": "string", "description": "Checksum of the file as stored, in hexadecimal; not in a dry run"},
			"columns":           map[string]any{"type": "integer", "description": "Columns of the table, for csv and xlsx; in a dry run without fields, those of the first documents"},
			"documents_with_new_fields": map[string]any{
				"type": "integer", "description": "Documents that got a field while the export went on, which has no column; name the fields to avoid that",
			},
			"cells_cut": map[string]any{"type": "integer", "description": "Texts that were cut because a spreadsheet's cell takes no more than 32767 characters"},
			"sample": map[string]any{
				"type": "array", "description": "In a dry run: the first lines of the file; those of an xlsx are shown as csv", "items": map[string]any{"type": "string"},
			},
		},
	}
}

func (dataExport) Examples() []template.Example {
	return []template.Example{
		{Title: "Export all users as one compressed file that can be read back", Params: map[string]any{
			"collection": "users", "format": formatNDJSON, "compression": compressGzip, pathParam: "users/{date}.{ext}",
		}},
		{Title: "A spreadsheet of the tickets resolved in the last month", Params: map[string]any{
			"collection": "tickets", "format": formatXLSX,
			"filter": map[string]any{"status": "resolved", "resolvedAt": map[string]any{"$gte": "1 month ago"}},
			"fields": []any{"_id", "subject", "resolvedAt"},
		}},
		{Title: "Show what a table of the last active users would look like", Params: map[string]any{
			"collection": "users", "format": formatCSV, "filter": map[string]any{"lastActive": map[string]any{"$gte": "7 days ago"}}, template.DryRunParam: true,
		}},
	}
}

func (dataExport) ValidateParams(params map[string]any) error {
	_, err := exportOf(params, &template.Run{JobID: "job", JobName: "job", ExecutionID: "exec", ScheduledFor: time.Unix(0, 0)})
	return err
}

// export is what a run has to do.
type export struct {
	collection  string
	filter      condition
	fields      []string
	limit       int64 // 0 is none
	format      string
	canonical   bool
	compression string
	object      string

	maxDocuments, maxBytes int64
}

// exportOf reads the parameters. The error is a *template.ParamsError.
func exportOf(params map[string]any, run *template.Run) (*export, error) {
	text := func(name string) string { s, _ := params[name].(string); return s }
	e := &export{collection: text("collection"), format: text("format"), compression: text("compression"), canonical: text("extended_json") == "canonical"}
	e.limit, _ = whole(params["limit"])
	e.maxDocuments, _ = whole(run.Settings["max_documents"])
	e.maxBytes, _ = whole(run.Settings["max_bytes"])
	if e.format == formatXLSX && e.compression != "" && e.compression != compressNone {
		return nil, template.BadParam("compression", "must be none for xlsx, which is compressed by itself")
	}
	if e.canonical && e.format != formatNDJSON {
		return nil, template.BadParam("extended_json", "is for the format ndjson only: drop it")
	}
	var err error
	raw, _ := params["filter"].(map[string]any)
	if e.filter, err = parseFilter("filter", raw, run.ScheduledFor, run.Zone); err != nil {
		return nil, err
	}
	fields, _ := params["fields"].([]any)
	for i, field := range fields {
		name, _ := field.(string)
		if problem := badName(name); problem != "" {
			return nil, template.BadParam(fmt.Sprintf("fields.%d", i), "is not a field's path: %s", problem)
		}
		e.fields = append(e.fields, name)
	}
	if e.object, err = objectPath(params, run, extension(e.format, e.compression)); err != nil {
		return nil, err
	}
	return e, nil
}

func (dataExport) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	e, err := exportOf(run.Params, run)
	if err != nil {
		return nil, template.AsError(err)
	}
	if err := permitted(run, e.collection); err != nil {
		return nil, err
	}
	source, err := run.Connection(connectionParam)
	if err != nil {
		return nil, err
	}
	destination, err := run.Connection(destinationParam)
	if err != nil {
		return nil, err
	}
	into, err := openBucket(ctx, destination)
	if err != nil {
		return nil, err
	}
	defer into.close()
	db, err := connect(ctx, source)
	if err != nil {
		return nil, err
	}
	defer db.close(ctx)
	for _, field := range e.filter.dates {
		db.warnOfText(ctx, e.collection, field, run.Report)
	}
	total, err := db.total(ctx, e.collection, e.filter, run.Report)
	if err != nil {
		return nil, err
	}
	if e.limit > 0 {
		total = min(total, e.limit)
	}
	if total > e.maxDocuments {
		return nil, template.Fail(template.CodeLimit, "%d documents would be exported, more than the %d that this executor permits: narrow the filter or give a limit", total, e.maxDocuments)
	}
	if template.EffectiveDryRun(run.Params) {
		return e.preview(ctx, db, into, total, run.Report)
	}
	return e.write(ctx, db, into, total, run.Report)
}

// query returns what to read. One document more than permitted is asked for, to
// see that there are too many.
func (e *export) query() query {
	most := e.maxDocuments + 1
	if e.limit > 0 {
		most = min(most, e.limit)
	}
	return query{collection: e.collection, filter: e.filter.filter, projection: projection(e.fields), sort: bson.D{{Key: "_id", Value: 1}}, limit: most}
}

// columns finds the columns of a table; there are none for the other format.
func (e *export) columns(ctx context.Context, db *database, q query, total int64, report template.Reporter) (*columns, error) {
	found := columnsOf(e.fields)
	if e.format == formatNDJSON || len(e.fields) > 0 {
		return &found, nil
	}
	report.Log("INFO", "Looking for the fields that the documents have")
	found.discover(bson.Raw{5, 0, 0, 0, 0}) //nolint:errcheck // the empty document
	err := db.each(ctx, q, func(document bson.Raw, n int64) error {
		if n%progressEvery == 0 {
			report.Progress(n, max(2*total, n), fmt.Sprintf("Looked at %d documents", n))
		}
		return found.discover(document)
	})
	return &found, err
}

// write exports the documents. Nothing appears in the bucket unless all of it
// succeeds.
func (e *export) write(ctx context.Context, db *database, into *bucket, total int64, report template.Reporter) (template.Result, error) {
	q := e.query()
	wanted, err := e.columns(ctx, db, q, total, report)
	if err != nil {
		return nil, err
	}
	out, err := into.create(ctx, e.object, contentType(e.format, e.compression))
	if err != nil {
		return nil, err
	}
	defer out.abandon()
	report.Log("INFO", fmt.Sprintf("Exporting %s to %s in %s", e.collection, e.object, into.connection.Name))
	packed, err := compressor(e.compression, out)
	if err != nil {
		return nil, template.Fail(template.CodeInternal, "could not begin the file: %w", err)
	}
	written, err := newRows(e.format, e.canonical, wanted, packed)
	if err != nil {
		return nil, e.failure(err)
	}
	var count int64
	err = db.each(ctx, q, func(document bson.Raw, n int64) error {
		if n > e.maxDocuments {
			return template.Fail(template.CodeLimit, "more than %d documents would be exported, which this executor does not permit: narrow the filter or give a limit", e.maxDocuments)
		}
		if err := written.write(document); err != nil {
			return err
		}
		if out.bytes > e.maxBytes {
			return e.tooLarge()
		}
		if count = n; n%progressEvery == 0 {
			report.Progress(n, max(total, n), fmt.Sprintf("Exported %d of %d documents", n, max(total, n)))
		}
		return nil
	})
	if err == nil {
		err = errors.Join(written.close(), packed.Close())
	}
	if err == nil && out.bytes > e.maxBytes {
		err = e.tooLarge()
	}
	if err == nil {
		err = out.publish()
	}
	if err != nil {
		return template.Result{"message": fmt.Sprintf("Published nothing: failed after %d of %d documents", count, max(total, count)), "records_processed": int64(0)}, e.failure(err)
	}
	report.Progress(count, count, fmt.Sprintf("Exported %d documents", count))
	result := e.result(fmt.Sprintf("Exported %d documents to %s", count, e.object), count, into, wanted)
	result["bytes"], result["sha256"] = out.bytes, out.checksum()
	noted := written.remarks()
	if noted.missed > 0 {
		result["documents_with_new_fields"] = noted.missed
		report.Log("WARN", fmt.Sprintf("%d documents have fields without a column, which came up while the export went on: name the fields to export", noted.missed))
	}
	if noted.cut > 0 {
		result["cells_cut"] = noted.cut
		report.Log("WARN", fmt.Sprintf("%d texts were cut to the %d characters that a spreadsheet's cell takes", noted.cut, maxCellText))
	}
	report.Log("INFO", fmt.Sprintf("Export completed: %d documents, %d bytes", count, out.bytes))
	return result, nil
}

func (e *export) tooLarge() *template.Error {
	return template.Fail(template.CodeLimit, "the file would have more than the %d bytes that this executor permits: narrow the filter, name fewer fields, or compress it", e.maxBytes)
}

// preview counts and shows the beginning.
func (e *export) preview(ctx context.Context, db *database, into *bucket, total int64, report template.Reporter) (template.Result, error) {
	q := e.query()
	q.limit = min(q.limit, sampleDocuments)
	wanted, err := e.columns(ctx, db, q, min(total, sampleDocuments), report)
	if err != nil {
		return nil, err
	}
	format := e.format
	if format == formatXLSX {
		format = formatCSV
	}
	var text bytes.Buffer
	written, err := newRows(format, e.canonical, wanted, &text)
	if err != nil {
		return nil, e.failure(err)
	}
	if err := db.each(ctx, q, func(document bson.Raw, _ int64) error { return written.write(document) }); err != nil {
		return nil, e.failure(err)
	}
	if err := written.close(); err != nil {
		return nil, e.failure(err)
	}
	sample, left := []any{}, sampleBytes
	for line := range bytes.Lines(text.Bytes()) {
		if line = bytes.TrimSuffix(line, []byte("\n")); len(line) > left {
			line = append(bytes.ToValidUTF8(line[:left:left], nil), " ..."...)
		}
		sample = append(sample, string(line))
		if left -= len(line); left <= 0 {
			break
		}
	}
	result := e.result(fmt.Sprintf("Would export %d documents to %s (dry run)", total, e.object), total, into, wanted)
	result["sample"] = sample
	report.Log("INFO", fmt.Sprint(result["message"]))
	return result, nil
}

func (e *export) result(message string, count int64, into *bucket, wanted *columns) template.Result {
	result := template.Result{"message": message, "records_processed": count, "destination": into.connection.Name, "object": e.object}
	if e.format != formatNDJSON {
		result["columns"] = len(wanted.names)
	}
	return result
}

// failure keeps what the database and the bucket said. What is left comes from
// the file's own making.
func (e *export) failure(err error) *template.Error {
	var known *template.Error
	if errors.As(err, &known) {
		return known
	}
	return template.Fail(template.CodeInternal, "could not make the %s file: %w", e.format, err)
}

// query is what to read of a collection.
type query struct {
	collection       string
	filter           bson.D
	projection, sort bson.D // nil for none
	limit            int64  // 0 for none
}

// each calls do with every document that a query finds, and with its number from
// 1. The document is only good until do returns. An error of do is returned as it
// is, any other one as a *template.Error. The server's work is limited by ctx
// alone, so that an export may take as long as its job permits.
func (db *database) each(ctx context.Context, q query, do func(document bson.Raw, n int64) error) error {
	const doing = "read the documents"
	command := bson.D{{Key: "find", Value: q.collection}, {Key: "filter", Value: q.filter}, {Key: "batchSize", Value: int64(batchSize)}}
	if q.projection != nil {
		command = append(command, bson.E{Key: "projection", Value: q.projection})
	}
	if q.sort != nil {
		command = append(command, bson.E{Key: "sort", Value: q.sort})
	}
	if q.limit > 0 {
		command = append(command, bson.E{Key: "limit", Value: q.limit})
	}
	// A plain command, because the driver's own Find sends no time limit to the
	// server.
	cursor, err := db.RunCommandCursor(ctx, command)
	if err != nil {
		return db.failure(ctx, doing, err)
	}
	defer func() {
		farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
		defer cancel()
		_ = cursor.Close(farewell) // the server ends it by itself when this fails
	}()
	cursor.SetBatchSize(batchSize)
	var n int64
	for cursor.Next(ctx) {
		n++
		if err := do(cursor.Current, n); err != nil {
			return err
		}
	}
	if err := cursor.Err(); err != nil {
		return db.failure(ctx, doing, err)
	}
	return nil
}

// total counts what a filter matches, for people to see how far a run is. When
// the server takes too long for that, it is 0: not known.
func (db *database) total(ctx context.Context, collection string, filter condition, report template.Reporter) (int64, error) {
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var total int64
	var err error
	if len(filter.filter) == 0 {
		total, err = db.Collection(collection).EstimatedDocumentCount(limited)
	} else {
		total, err = db.Collection(collection).CountDocuments(limited, filter.filter)
	}
	switch {
	case err == nil:
		report.Log("INFO", fmt.Sprintf("%d documents match", total))
		return total, nil
	case ctx.Err() == nil && mongo.IsTimeout(err):
		report.Log("WARN", "Counting the documents takes too long, so how far the run is will not be known: an index that fits the filter helps")
		return 0, nil
	}
	return 0, db.failure(ctx, "count the matching documents", err)
}
