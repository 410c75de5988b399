package mongostore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// The collections. They may share a database with an application, which has its
// own users and sessions.
const (
	jobsName       = "dynamic_jobs"
	executionsName = "job_executions"
	templatesName  = "job_templates"
	logsName       = "job_logs"
	auditsName     = "job_audit_log"
	quotasName     = "job_manual_runs"
	sessionsName   = "job_sessions"
	replicasName   = "job_replicas"
	usersName      = "job_users"
	tokensName     = "job_tokens"
	rollUpsName    = "job_rollups"
	metaName       = "job_store"
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
	// The same by name, and by the last edit.
	{collection: jobsName, name: "list_by_name", keys: []string{"counted", "name", "_id"}},
	{collection: jobsName, name: "list_by_edit", keys: []string{"counted", "updated_at", "_id"}},
	// DueJobs; Jobs by their next runs.
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
	// Mend: records with executions that follow them and may not be there.
	{collection: executionsName, name: "owing", keys: []string{"owing"}, sparse: true},
	// Executions: a page of a job's history, and its total.
	{collection: executionsName, name: "history", keys: []string{"job_id", "-scheduled_for", "-_id"}},
	// The same by status; what of a deleted job still waits.
	{collection: executionsName, name: "history_by_status", keys: []string{"job_id", "status", "-scheduled_for", "-_id"}},
	// A job's last run.
	{collection: executionsName, name: "last_start", keys: []string{"job_id", "-last_started_at"}},
	// RollUp: what settled since.
	{collection: executionsName, name: "settled", keys: []string{"settled"}, sparse: true},
	// Failures, in order.
	{collection: executionsName, name: "failures", keys: []string{"failed_order"}, sparse: true},
	// Live and Pulse: what waits, in order.
	{collection: executionsName, name: "waiting", keys: []string{"wake_order"}, sparse: true},

	// RollUp: what is to be folded.
	{collection: rollUpsName, name: "open", keys: []string{"open_from"}, sparse: true},
	// Statistics.
	{collection: rollUpsName, name: "job", keys: []string{"job_id", "from"}},
	// Logs, in order.
	{collection: logsName, name: "chunks", keys: []string{"execution_id", "token", "number"}},
	// Audits: a page of all, and of one object.
	{collection: auditsName, name: "latest", keys: []string{"-at", "-object", "-n"}},
	{collection: auditsName, name: "object", keys: []string{"object", "-n"}},
	// The same of one user, and of one action.
	{collection: auditsName, name: "user", keys: []string{"user", "-at", "-object", "-n"}},
	{collection: auditsName, name: "action", keys: []string{"action", "-at", "-object", "-n"}},
	// No audit is copied out twice.
	{collection: auditsName, name: "source", keys: []string{"source"}, unique: true, sparse: true},
	// Tokens.
	{collection: tokensName, name: "user", keys: []string{"user", "-created_at", "-_id"}},
	// Mend: users who were removed, or of whose tokens some were, and who may not
	// be gone.
	{collection: usersName, name: "owes", keys: []string{"owes"}, sparse: true},
	// DeleteExpiredTokens.
	{collection: tokensName, name: "expires", keys: []string{"expires_at"}, sparse: true},
	// OpenSession: what is forgotten.
	{collection: sessionsName, name: "ended", keys: []string{"ended_at"}, sparse: true},

	// Mend: audits that were not copied out.
	{collection: jobsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: executionsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: sessionsName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: usersName, name: "audit", keys: []string{"audit.n"}, sparse: true},
	{collection: tokensName, name: "audit", keys: []string{"audit.n"}, sparse: true},
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

// builtIndex is an index as the server tells of it.
type builtIndex struct {
	Name   string `bson:"name"`
	Keys   bson.D `bson:"key"`
	Unique bool   `bson:"unique"`
}

// is tells whether an index does what i does. Whether it is sparse is not asked:
// not every server tells.
func (p builtIndex) is(i index) bool {
	want := i.document()
	if len(p.Keys) != len(want) || p.Unique != i.unique {
		return false
	}
	for n, k := range want {
		// Servers give directions as numbers of several types.
		if p.Keys[n].Key != k.Key || fmt.Sprint(p.Keys[n].Value) != fmt.Sprint(k.Value) {
			return false
		}
	}
	return true
}

// makeIndexes makes those that are not there. Several processes may do so at
// the same time: one whose command fails looks whether another was faster.
func makeIndexes(ctx context.Context, db *mongo.Database) error {
	var failed error
	for range tries {
		missing, err := missingIndexes(ctx, db)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return nil
		}
		failed = nil
		for name, models := range missing {
			if _, err := db.Collection(name).Indexes().CreateMany(ctx, models); err != nil {
				failed = fmt.Errorf("make the indexes of %s.%s: %w", db.Name(), name, err)
			}
		}
		if c, ok := errors.AsType[mongo.ServerError](failed); ok && c.HasErrorCode(unauthorized) {
			return failed
		}
	}
	return failed
}

// missingIndexes returns the indexes that are not there, by collection. One that
// is there but not as it is wanted is an error.
func missingIndexes(ctx context.Context, db *mongo.Database) (map[string][]mongo.IndexModel, error) {
	there := map[string][]builtIndex{}
	missing := map[string][]mongo.IndexModel{}
	for _, i := range indexes {
		have, known := there[i.collection]
		if !known {
			var err error
			if have, err = listIndexes(ctx, db.Collection(i.collection)); err != nil {
				return nil, err
			}
			there[i.collection] = have
		}
		switch at := slices.IndexFunc(have, func(p builtIndex) bool { return p.Name == i.name }); {
		case at < 0:
			missing[i.collection] = append(missing[i.collection], i.model())
		case !have[at].is(i):
			return nil, fmt.Errorf("the index %s of %s.%s is not as this program needs it: drop it; the registry makes its own at the next start",
				i.name, db.Name(), i.collection)
		}
	}
	return missing, nil
}

func listIndexes(ctx context.Context, c *mongo.Collection) ([]builtIndex, error) {
	cursor, err := c.Indexes().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the indexes of %s: %w", c.Name(), err)
	}
	var all []builtIndex
	if err := cursor.All(ctx, &all); err != nil {
		return nil, fmt.Errorf("list the indexes of %s: %w", c.Name(), err)
	}
	return all, nil
}
