package builtin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	batchSize     = 1_000
	selectionTime = 5 * time.Second // to find a server
	commandTime   = 5 * time.Minute // of the server for one command; for a cursor, all its batches together
	farewellTime  = 2 * time.Second // to close connections
	sampleSize    = 1_000           // documents looked at for the type of a field

	defaultMaxDeletions = 100_000
	connectionParam     = "connection"
)

// cleanup is what both clean-up templates do: delete the documents of a
// collection that meet a condition, at most a number of them.
type cleanup struct {
	collection string
	condition  condition
	most       int64 // more matches than this and nothing is deleted
}

// Parameters that the clean-up templates share.
func maxDeletionsSchema() map[string]any {
	return map[string]any{
		"type":        "integer",
		"description": "The run fails, before deleting anything, when more documents than this match",
		"minimum":     1,
		"maximum":     10_000_000,
		"default":     defaultMaxDeletions,
	}
}

func dryRunSchema() map[string]any {
	return map[string]any{
		"type":        "boolean",
		"description": "Preview changes without deleting",
		"default":     true,
	}
}

func connectionSchema() map[string]any {
	return map[string]any{
		"type":        "string",
		"description": "Name of the database connection; needed only when the executor has several",
		"minLength":   1,
	}
}

func cleanupResultSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message", "records_processed", "records_deleted", "errors"},
		"properties": map[string]any{
			"message":           map[string]any{"type": "string", "description": "What was done, or would be in a real run"},
			"records_processed": map[string]any{"type": "integer", "description": "Documents that matched and were dealt with; in a dry run, all that match"},
			"records_deleted":   map[string]any{"type": "integer", "description": "Documents that were deleted; 0 in a dry run"},
			"errors":            map[string]any{"type": "integer", "description": "1 when the run ended early by an error"},
		},
	}
}

func maxDeletions(params map[string]any) int64 {
	if n, ok := whole(params["max_deletions"]); ok && n > 0 {
		return n
	}
	return defaultMaxDeletions
}

// run counts what the condition matches and, unless this is a dry run, deletes
// it. It returns what was done so far also beside an error. Only an explicit
// dryRun false deletes.
func (c cleanup) run(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := permitted(run, c.collection); err != nil {
		return nil, err
	}
	connection, err := run.Connection(connectionParam)
	if err != nil {
		return nil, err
	}
	dry := run.Params[template.DryRunParam] != false
	run.Report.Log("INFO", fmt.Sprintf("Starting cleanup of %s (%s)", c.collection, mode(dry)))
	db, err := connect(ctx, connection)
	if err != nil {
		return nil, err
	}
	defer db.close(ctx)

	total, err := c.count(ctx, db, run.Report)
	if err != nil {
		return nil, err
	}
	if dry {
		if total > c.most {
			run.Report.Log("WARN", fmt.Sprintf("A real run would fail: %d documents match and max_deletions is %d", total, c.most))
		}
		return outcome(fmt.Sprintf("Would delete %d records (dry run)", total), total, 0, 0), nil
	}
	if total > c.most {
		return outcome("Deleted nothing", 0, 0, 0), template.Fail(template.CodeLimit,
			"%d documents of %s match, more than max_deletions (%d): nothing was deleted; narrow the condition or raise max_deletions", total, c.collection, c.most)
	}
	processed, deleted, err := c.delete(ctx, db, total, run.Report)
	if err != nil {
		return outcome(fmt.Sprintf("Deleted %d of %d records, then failed", deleted, total), processed, deleted, 1), err
	}
	message := fmt.Sprintf("Deleted %d records", deleted)
	run.Report.Log("INFO", "Cleanup completed: "+message)
	return outcome(message, processed, deleted, 0), nil
}

func mode(dry bool) string {
	if dry {
		return "dry run"
	}
	return "deleting"
}

func outcome(message string, processed, deleted, failures int64) template.Result {
	return template.Result{"message": message, "records_processed": processed, "records_deleted": deleted, "errors": failures}
}

// permitted checks once more, where it matters, that the executor's
// configuration lets this template touch the collection.
func permitted(run *template.Run, collection string) error {
	if !slices.Contains(run.Allowed["collection"], collection) {
		return template.Fail(template.CodeForbidden, "this executor does not permit the template to touch the collection %q: allow it in the executor's configuration", collection)
	}
	return nil
}

// count returns how many documents match and warns of what looks like a mistake.
func (c cleanup) count(ctx context.Context, db *database, report template.Reporter) (int64, error) {
	for _, field := range c.condition.dates {
		db.warnOfText(ctx, c.collection, field, report)
	}
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	collection := db.Collection(c.collection)
	total, err := collection.CountDocuments(limited, c.condition.filter)
	if err != nil {
		return 0, db.failure(ctx, "count the matching documents", err)
	}
	report.Log("INFO", fmt.Sprintf("%d documents match", total))
	if total > 0 {
		all, err := collection.EstimatedDocumentCount(limited)
		if err != nil {
			return 0, db.failure(ctx, "count the documents", err)
		}
		if total >= all {
			report.Log("WARN", fmt.Sprintf("The condition matches every document of %s", c.collection))
		}
	}
	return total, nil
}

// warnOfText looks at some documents for a field that is compared with a date
// but holds text, which never matches. It only advises: a failure to look is
// reported as such and does not end the run.
func (db *database) warnOfText(ctx context.Context, collection, field string, report template.Reporter) {
	texts, err := db.holds(ctx, collection, field, "string")
	if err == nil && texts {
		var dates bool
		if dates, err = db.holds(ctx, collection, field, "date"); err == nil && dates {
			report.Log("WARN", fmt.Sprintf("Some documents of %s hold text in %s, not a date: comparing it with a time never matches those", collection, field))
		} else if err == nil {
			report.Log("WARN", fmt.Sprintf("The documents of %s hold text in %s, not dates: comparing it with a time matches nothing", collection, field))
		}
	}
	if err != nil {
		report.Log("DEBUG", fmt.Sprintf("Could not look at the type of %s: %v", field, db.failure(ctx, "read a sample", err)))
	}
}

// holds reports whether one of the first documents has that type in a field.
func (db *database) holds(ctx context.Context, collection, field, bsonType string) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var answer struct {
		Cursor struct {
			FirstBatch []bson.Raw `bson:"firstBatch"`
		} `bson:"cursor"`
	}
	err := db.RunCommand(limited, bson.D{
		{Key: "aggregate", Value: collection},
		{Key: "pipeline", Value: bson.A{
			bson.D{{Key: "$limit", Value: sampleSize}},
			bson.D{{Key: "$match", Value: bson.D{{Key: field, Value: bson.D{{Key: "$type", Value: bsonType}}}}}},
			bson.D{{Key: "$limit", Value: 1}},
		}},
		{Key: "cursor", Value: bson.D{{Key: "batchSize", Value: 1}}},
	}).Decode(&answer)
	return len(answer.Cursor.FirstBatch) > 0, err
}

// delete removes what matches in batches, each by the ids found and the same
// condition again: a document touched in between survives when it no longer
// meets it. One cursor finds the ids, so that a collection without a fitting
// index is read once, not once a batch.
func (c cleanup) delete(ctx context.Context, db *database, total int64, report template.Reporter) (processed, deleted int64, err error) {
	cursor, err := c.find(ctx, db)
	if err != nil {
		return 0, 0, db.failure(ctx, "find the matching documents", err)
	}
	defer func() {
		farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
		defer cancel()
		_ = cursor.Close(farewell) // the server ends it by itself when this fails
	}()
	for {
		ids, err := nextIDs(ctx, cursor)
		if err != nil {
			return processed, deleted, db.failure(ctx, "find the matching documents", err)
		}
		if len(ids) == 0 {
			return processed, deleted, nil
		}
		n, err := c.deleteBatch(ctx, db, ids)
		deleted += n
		if err != nil {
			return processed, deleted, db.failure(ctx, "delete a batch", err)
		}
		processed += int64(len(ids))
		report.Progress(processed, max(total, processed), fmt.Sprintf("Deleted %d of %d records", deleted, total))
	}
}

// find opens the cursor. It is a plain command because the driver's own Find
// sends no time limit to the server.
func (c cleanup) find(ctx context.Context, db *database) (*mongo.Cursor, error) {
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cursor, err := db.RunCommandCursor(limited, bson.D{
		{Key: "find", Value: c.collection},
		{Key: "filter", Value: c.condition.filter},
		{Key: "projection", Value: bson.D{{Key: "_id", Value: 1}}},
		{Key: "limit", Value: c.most},
		{Key: "batchSize", Value: int64(batchSize)},
	})
	if err != nil {
		return nil, err
	}
	cursor.SetBatchSize(batchSize)
	return cursor, nil
}

// nextIDs returns the ids of the next batch; none at the end.
func nextIDs(ctx context.Context, cursor *mongo.Cursor) (bson.A, error) {
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var ids bson.A
	for len(ids) < batchSize && cursor.Next(limited) {
		id, err := cursor.Current.LookupErr("_id")
		if err != nil {
			return nil, err
		}
		ids = append(ids, bson.RawValue{Type: id.Type, Value: slices.Clone(id.Value)})
	}
	return ids, cursor.Err()
}

func (c cleanup) deleteBatch(ctx context.Context, db *database, ids bson.A) (int64, error) {
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	result, err := db.Collection(c.collection).DeleteMany(limited, bson.D{{Key: "$and", Value: bson.A{
		bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		c.condition.filter,
	}}})
	if result == nil {
		return 0, err
	}
	return result.DeletedCount, err
}

// database is an open connection to one database.
type database struct {
	*mongo.Database
	connection template.Connection
}

// connect opens a connection and makes sure that a server answers.
func connect(ctx context.Context, connection template.Connection) (*database, error) {
	parsed, err := connstring.Parse(connection.URI)
	if err != nil {
		// The parser's error may quote the URI.
		return nil, template.Fail(template.CodeConnection, "connection %q: its URI is not a valid MongoDB URI: correct it in the executor's configuration", connection.Name)
	}
	databaseName := connection.Database
	if databaseName == "" {
		databaseName = parsed.Database
	}
	if databaseName == "" {
		return nil, template.Fail(template.CodeValidation, "connection %q names no database: add one in the executor's configuration", connection.Name)
	}
	client, err := mongo.Connect(options.Client().
		ApplyURI(connection.URI).
		SetAppName("almanac").
		SetServerSelectionTimeout(selectionTime).
		SetConnectTimeout(selectionTime).
		SetMaxPoolSize(2).
		SetWriteConcern(writeconcern.Majority())) // what is reported deleted stays deleted
	db := &database{connection: connection}
	if err != nil {
		return nil, template.Fail(template.CodeConnection, "connection %q: %s", connection.Name, connection.Redact(err.Error()))
	}
	db.Database = client.Database(databaseName)
	limited, cancel := context.WithTimeout(ctx, 2*selectionTime)
	defer cancel()
	if err := client.Ping(limited, nil); err != nil {
		db.close(ctx)
		if ctx.Err() != nil {
			return nil, template.AsError(ctx.Err())
		}
		return nil, template.Retryable(template.CodeConnection, "connection %q: no server answers: %s", connection.Name, connection.Redact(err.Error()))
	}
	return db, nil
}

// close lets go of the connection, also when ctx has ended.
func (db *database) close(ctx context.Context) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
	defer cancel()
	_ = db.Client().Disconnect(limited) // nothing is owed any more: the process ends them anyway
}

// failure says what an error of the driver means for the run. Doing completes
// "could not ...".
func (db *database) failure(ctx context.Context, doing string, err error) *template.Error {
	const maxTimeExpired, unauthorized = 50, 13
	says := func(retryable bool, code, remedy string) *template.Error {
		e := template.Fail(code, "could not %s: %s%s", doing, db.connection.Redact(err.Error()), remedy)
		e.Retryable = retryable
		return e
	}
	var answer mongo.ServerError
	answered := errors.As(err, &answer)
	switch {
	case ctx.Err() != nil:
		return template.AsError(fmt.Errorf("could not %s: %w", doing, ctx.Err()))
	case answered && answer.HasErrorCode(unauthorized):
		return says(false, template.CodeForbidden, fmt.Sprintf(" (connection %q needs the permission)", db.connection.Name))
	case answered && answer.HasErrorCode(maxTimeExpired), mongo.IsTimeout(err):
		return says(true, template.CodeTimeout, " (an index that fits the condition helps)")
	case mongo.IsNetworkError(err):
		return says(true, template.CodeConnection, "")
	case answered:
		return says(answer.HasErrorLabel("RetryableWriteError"), template.CodeDatabase, "")
	default:
		return says(true, template.CodeConnection, "")
	}
}
