package move

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Store is what moving needs of a store.
type Store interface {
	// Export returns all records of a kind, as they stand, in the ascending order
	// of their keys, byte by byte. A record that cannot be read ends it with an
	// error.
	Export(ctx context.Context, kind Kind) iter.Seq2[Record, error]
	// Import inserts those records that are not there, and returns how many. It
	// changes none that is. All are of one kind, the kinds before it in Kinds have
	// been imported, and audits come in their order. It may be repeated after it
	// was interrupted anywhere.
	Import(ctx context.Context, records []Record) (inserted int, err error)

	// Finish finishes all that processes that died left half done. Nobody else is
	// at work.
	Finish(ctx context.Context, now time.Time) error
	// Replicas returns the registries on the store; see [store.Fleet].
	Replicas(ctx context.Context) ([]store.Replica, error)
}

// Kind is a kind of record.
type Kind string

// The kinds, and the types of their records.
const (
	Templates  Kind = "templates"  // Template
	Users      Kind = "users"      // User
	Tokens     Kind = "tokens"     // Token
	Sessions   Kind = "sessions"   // Session
	Jobs       Kind = "jobs"       // Job
	Executions Kind = "executions" // Execution
	Quotas     Kind = "quotas"     // Quota
	Audits     Kind = "audits"     // Audit
)

// Kinds are all of them, in the order in which they are moved.
var Kinds = []Kind{Templates, Users, Tokens, Sessions, Jobs, Executions, Quotas, Audits}

// Record is something that every store keeps, in a form that is the same for
// all of them.
type Record interface {
	// Key is unique among the records of the kind.
	Key() string
}

// Template is what was announced of a template.
type Template struct{ job.Template }

// Key is the template's type.
func (t Template) Key() string { return t.Type }

// User is a person or a service.
type User struct{ store.User }

// Key is the user's name.
func (u User) Key() string { return u.Name }

// Token is an access token, expired or not.
type Token struct{ store.Token }

// Key is the token's hash.
func (t Token) Key() string { return t.Hash }

// Session is an executor process, so that what it has leased stays its own.
type Session struct {
	store.Session
	EndedAt time.Time // zero while it lives
}

// Key is the session's id.
func (s Session) Key() string { return s.ID }

// Job is a job or a tombstone, with LastRunAt and NextRunAt.
type Job struct {
	job.Job
	Fingerprint string // see store.CreateJob
}

// Key is the job's id.
func (j Job) Key() string { return j.ID }

// Execution is a record with its whole log.
type Execution struct {
	job.Execution
	Logs []LogChunk // by (Token, Number)
	// LastStartedAt is at least the latest StartedAt that the record was given, and
	// at most its job's LastRunAt. Not every store knows better, so it is not
	// compared.
	LastStartedAt time.Time `json:"-"`
}

// LogChunk is what one store.AppendLog kept.
type LogChunk struct {
	Token  int64
	Number int
	Lines  []job.LogLine
}

// Key puts together what belongs to one job.
func (e Execution) Key() string { return e.JobID + "\x00" + e.ID }

// Quota is which manual runs are counted for a user.
type Quota struct {
	User string
	Runs []ManualRun // by (At, Execution)
}

// ManualRun is a run that was counted.
type ManualRun struct {
	At        time.Time
	Execution string // id
}

// Sort puts the runs in their order.
func (q *Quota) Sort() {
	slices.SortFunc(q.Runs, func(a, b ManualRun) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Execution, b.Execution)) })
}

// Key is the user's name.
func (q Quota) Key() string { return q.User }

// Audit is an entry of the audit log.
type Audit struct {
	Number int // among those of its object, from 1
	store.Audit
}

// Key puts the entries in the order of their times.
func (a Audit) Key() string {
	return fmt.Sprintf("%020d\x00%s\x00%020d", a.At.UnixMilli(), a.Object, a.Number)
}
