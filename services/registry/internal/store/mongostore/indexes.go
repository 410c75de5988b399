package mongostore

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	jobsName       = "dynamic_jobs"
	executionsName = "job_executions"
	logsName       = "job_logs"
	auditsName     = "audit_log"
	sessionsName   = "sessions"
	usersName      = "users"
	tokensName     = "tokens"
)

// index is an index that the store makes at its start.
type index struct {
	collection, name string
	keys             []string // a name after "-" descends
	unique, sparse   bool
}

// indexes are all there are, each with what it serves. Sparse ones hold only the
// documents that have the field, which is what keeps them small: a settled
// record is in those of the history alone.
var indexes = []index{
	// No two live jobs have one name.
	{collection: jobsName, name: "name", keys: []string{"name_key"}, unique: true, sparse: true},
	// Jobs: a page, newest first, and the number of live jobs for the limit.
	{collection: jobsName, name: "list", keys: []string{"counted", "-created_at", "-_id"}},
	// DueJobs.
	{collection: jobsName, name: "due", keys: []string{"next_run_at", "_id"}},
	// Mend: tombstones that have something left to cancel.
	{collection: jobsName, name: "owes", keys: []string{"owes"}, sparse: true},
	// Mend and the limit: jobs that are not yet.
	{collection: jobsName, name: "provisional", keys: []string{"provisional"}, sparse: true},

	// No two records hold a job's slot; who holds it.
	{collection: executionsName, name: "slot", keys: []string{"exclusive_key"}, unique: true, sparse: true},
	// No two records of a template have a seat.
	{collection: executionsName, name: "seat", keys: []string{"seat_key"}, unique: true, sparse: true},
	// Waiting, in order; Queues.
	{collection: executionsName, name: "queue", keys: []string{"queue", "wake_order"}, sparse: true},
	// Overdue, in order.
	{collection: executionsName, name: "alarm", keys: []string{"alarm_order"}, sparse: true},
	// Held, in order.
	{collection: executionsName, name: "held", keys: []string{"held"}, sparse: true},
	// EditJob, DeleteJob and Mend: records whose fire may be half done.
	{collection: executionsName, name: "unconfirmed", keys: []string{"unconfirmed.job_id"}, sparse: true},
	// Executions: a page of a job's history, and its total.
	{collection: executionsName, name: "history", keys: []string{"job_id", "-scheduled_for", "-_id"}},
	// The same by status; what of a deleted job still waits.
	{collection: executionsName, name: "history_by_status", keys: []string{"job_id", "status", "-scheduled_for", "-_id"}},
	// A job's last run.
	{collection: executionsName, name: "last_start", keys: []string{"job_id", "-last_started_at"}},

	// Logs, in order.
	{collection: logsName, name: "chunks", keys: []string{"execution_id", "token", "number"}},
	// Audits: a page of all, and of one object.
	{collection: auditsName, name: "latest", keys: []string{"-at", "-object", "-n"}},
	{collection: auditsName, name: "object", keys: []string{"object", "-n"}},
	// DeleteExpiredTokens.
	{collection: tokensName, name: "expires", keys: []string{"expires_at"}, sparse: true},
	// OpenSession: what is forgotten.
	{collection: sessionsName, name: "ended", keys: []string{"ended_at"}, sparse: true},

	// Mend: audits that were not copied out.
	{collection: jobsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: executionsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: sessionsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: usersName, name: "audit", keys: []string{"audit.n"}, sparse: true},
}

func (i index) document() bson.D {
	var d bson.D
	for _, k := range i.keys {
		direction := 1
		if k[0] == '-' {
			k, direction = k[1:], -1
		}
		d = append(d, bson.E{Key: k, Value: direction})
	}
	return d
}

func (i index) model() mongo.IndexModel {
	o := options.Index().SetName(i.name)
	if i.unique {
		o.SetUnique(true)
	}
	if i.sparse {
		o.SetSparse(true)
	}
	return mongo.IndexModel{Keys: i.document(), Options: o}
}

// Codes of the server for an index of that name, or of those keys, that is not
// the same.
const (
	indexOptionsConflict  = 85
	indexKeySpecsConflict = 86
)

// makeIndexes makes those that are not there.
func makeIndexes(ctx context.Context, db *mongo.Database) error {
	models := map[string][]mongo.IndexModel{}
	var names []string
	for _, i := range indexes {
		if models[i.collection] == nil {
			names = append(names, i.collection)
		}
		models[i.collection] = append(models[i.collection], i.model())
	}
	for _, name := range names {
		_, err := db.Collection(name).Indexes().CreateMany(ctx, models[name])
		if c, ok := errors.AsType[mongo.CommandError](err); ok && (c.HasErrorCode(indexOptionsConflict) || c.HasErrorCode(indexKeySpecsConflict)) {
			return fmt.Errorf("the collection %s.%s has an index that is not as this program needs it: drop it, the registry makes its own at the next start: %w", db.Name(), name, err)
		}
		if err != nil {
			return fmt.Errorf("make the indexes of %s.%s: %w", db.Name(), name, err)
		}
	}
	return nil
}
