// Package store says what the registry needs of a store: operations of a
// scheduler, each atomic by itself, never generic reading and writing.
//
// # Rules every store keeps
//
// The primary key is the law: an execution's id is made of (job, trigger, key),
// so that recording the same cause twice is a duplicate key and any process may
// try again after any crash.
//
// Every change of an execution is one compare-and-set on its (status, token).
// CancelRequested is written by RequestCancel alone, never by a Change.
//
// The store reads no clock: now is an argument. Times are kept to the
// millisecond, in UTC.
//
// # Answers
//
// An operation is Done, Lost (somebody else won; the answer carries what
// stands) or Unknown (an error: it may or may not have happened). Every
// operation may be repeated as it was: one that already happened answers Done
// again. An answer of Done or Lost is durable: it survives a loss of power.
// Of the other methods, those that say replayed, EditJob and the puts and adds
// without an error for it answer a repetition as they did at first. A repeated
// DeleteJob returns job.ErrNotFound, a repeated AddUser job.ErrUserExists, and
// RequestCancel, when it ended the record itself, job.ErrEnded.
//
// Methods are safe for concurrent use. Errors wrap the sentinels of package
// job; anything else wraps job.ErrUnavailable.
package store

import (
	"context"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// Store is everything. Callers declare the part they use.
type Store interface {
	// Do performs operations, each atomic by itself, in the order given, grouped
	// as the store likes. It returns one answer for each. A store that cannot
	// tell answers Unknown for those it cannot tell of.
	Do(ctx context.Context, now time.Time, ops []Op) []Answer

	Definitions
	History
	Insight
	Work
	Fleet
	Access

	// Ready returns nil when the store takes writes, else an error that wraps
	// job.ErrUnavailable and says why.
	Ready(ctx context.Context) error
	// Close ends the store after what was submitted is durable.
	Close() error
}

// Op is one operation for Do: *Fire, *Change, *Beat, *EndSession or *AppendLog.
type Op interface{ op() }

// Fire records the execution of the job's next fire time and advances the job,
// atomically. It takes effect only while the job is live and has exactly
// (Version, FireAt). Done: recorded now or by an earlier try of the very same
// Fire (same lease). Lost with SlotBy set: the job's slot is held by that
// execution. Lost with Execution set: a record of that id stands already; the
// job, whatever its version, was advanced past it (past MissedUntil if it is a
// skip) by its own schedule if it still stood at FireAt. Lost with neither: the
// job has changed; Job carries it as it stands, nil when it is deleted.
type Fire struct {
	Execution *job.Execution // scheduled for FireAt; pending, leased or skipped
	Version   int            // of the job
	FireAt    time.Time      // its NextRunAt
	Next      time.Time      // its NextRunAt afterwards; zero for none
}

// Change writes To over the record while it has exactly (Status, Token), and
// with Uncancelled only while no cancellation is requested. It writes neither
// identity nor frozen fields nor CancelRequested, and it can give up the slot
// but not take it. Done: written now, or To stands already (WakeAt and Exclusive
// may have moved on since). Lost: Execution carries what stands, nil when there
// is none.
type Change struct {
	Status      job.Status
	Token       int64
	Uncancelled bool
	To          *job.Execution
	Audit       *Audit // kept with the change when a person made it
	// Follow are executions that this change calls for, pending and unleased, of
	// trigger notification. They are inserted with it, each once: a store without
	// transactions freezes them into the record, and Mend inserts what a crash left.
	Follow []*job.Execution
}

// Beat proves that a session lives: its counter becomes Count if it is lower, and
// what it says of itself is kept with the time of the call. Lost: the session
// ended or never was.
type Beat struct {
	Session  string
	Count    int64
	Running  int  // slots in use
	Stopping bool // the process is about to end and takes no more work
}

// EndSession declares a session dead while its counter is exactly Count. Done
// also when it is gone already. Lost: it has beaten since.
type EndSession struct {
	Session string
	Count   int64
}

// AppendLog keeps a chunk of an attempt's log. Repeating (ID, Token, Number) is
// Done and changes nothing. Lost: there is no such execution.
type AppendLog struct {
	ID     string
	Token  int64
	Number int
	Lines  []job.LogLine
}

func (*Fire) op()       {}
func (*Change) op()     {}
func (*Beat) op()       {}
func (*EndSession) op() {}
func (*AppendLog) op()  {}

// Outcome is the kind of an answer.
type Outcome int

// The outcomes.
const (
	Unknown Outcome = iota
	Done
	Lost
)

// Answer is what became of one Op.
type Answer struct {
	Outcome   Outcome
	Execution *job.Execution // Lost: what stands
	Job       *job.Job       // Lost Fire: the job as it stands
	SlotBy    string         // Lost Fire: who holds the slot
	SeatTaken bool           // Lost Change: the seat it wanted is not free
	Err       error          // Unknown: why
}

// Audit is who did what, kept in the same atomic step as what was done.
type Audit struct {
	At      time.Time
	User    string
	Address string
	Action  string // job.create, ...
	Object  string // id of the job, execution, user
	Before  []byte // JSON or nil
	After   []byte // JSON or nil
}

// AuditEntry is a kept Audit. ID is the object and its audit number.
type AuditEntry struct {
	ID string
	Audit
}

// Definitions are the operations on jobs and templates.
type Definitions interface {
	// CreateJob inserts the job; one that is Deleted is a tombstone from its birth,
	// for executions that follow others. replayed: a job with this id and fingerprint
	// was there already and is returned. Errors: job.ErrNameTaken,
	// job.ErrKeyReused (same id, other fingerprint), *job.LimitError (limit > 0
	// and that many live jobs).
	CreateJob(ctx context.Context, c CreateJob) (stored *job.Job, replayed bool, err error)
	// EditJob replaces the job while it has exactly (Version, NextRunAt), the caller
	// having settled the fire times up to now.
	// After's version must be Version + 1. Errors: job.ErrNotFound,
	// job.ErrNameTaken, job.ErrVersion (another version), job.ErrConflict (the
	// version matches but NextRunAt moved: read and decide afresh). On an error
	// nothing happened.
	EditJob(ctx context.Context, e EditJob) (*job.Job, error)
	// DeleteJob makes a tombstone, frees the name, and cancels what waits
	// unleased. What is leased or running goes on. version 0 means any. Returns
	// the job as it was. Errors: job.ErrNotFound, job.ErrVersion.
	DeleteJob(ctx context.Context, id string, version int, now time.Time, a *Audit) (*job.Job, error)
	// Job returns a live job or, with Deleted set, a tombstone. Its LastRunAt, as
	// in Jobs and EditJob, is the latest StartedAt that any of its records was
	// given; elsewhere LastRunAt may be unset. Errors: job.ErrNotFound.
	Job(ctx context.Context, id string) (*job.Job, error)
	// Definition returns what a live job says, as it stands, without what changes
	// with its runs (NextRunAt, LastRunAt, State). It is shared: not to be written
	// to. Errors: job.ErrNotFound.
	Definition(ctx context.Context, id string) (*job.Job, error)
	// Jobs returns a page of the live jobs and how many match.
	Jobs(ctx context.Context, f JobFilter) (page []*job.Job, total int, err error)
	// PutTemplates inserts or replaces templates by type; a lower version than
	// the stored one changes nothing.
	PutTemplates(ctx context.Context, ts []job.Template) error
	// Templates returns all templates by type.
	Templates(ctx context.Context) ([]job.Template, error)
}

// CreateJob is a job to insert. Fingerprint identifies the request behind an
// idempotency key; empty without one.
type CreateJob struct {
	Job         *job.Job
	Fingerprint string
	Limit       int // of live jobs; 0 for none
	Audit       *Audit
}

// EditJob is an edit of a job.
type EditJob struct {
	Version   int
	NextRunAt time.Time
	After     *job.Job
	Audit     *Audit
}

// JobFilter selects jobs. Empty fields select all.
type JobFilter struct {
	TemplateTypes []string
	Enabled       *bool
	Words         []string    // each in the name, the description or the template's type, in any case (ASCII letters at least)
	Labels        []LabelTerm // all of them
	States        []job.State // as of the last RollUp
	Sort          JobSort
	Offset, Limit int
}

// LabelTerm selects jobs that have a label, with the value unless it is nil.
type LabelTerm struct {
	Key   string
	Value *string
}

// JobSort is an order of jobs; among equals, that of ids, in the same direction.
// Without anything set it is newest first: by SortCreated, Descending.
type JobSort struct {
	By         SortKey
	Descending bool
}

// SortKey is what jobs are sorted by.
type SortKey string

// The sort keys. Names are compared byte by byte. Jobs without a next run come
// last in both directions.
const (
	SortCreated SortKey = "created_at"
	SortName    SortKey = "name"
	SortNextRun SortKey = "next_run_at"
	SortUpdated SortKey = "updated_at"
)

// History is what is read about executions, and what people do to them.
type History interface {
	// RunNow inserts a pending manual execution, leased or not, and counts it
	// against the user's quota, once per execution id. replayed: it stood already and is
	// returned. Errors: job.ErrNotFound (no live job), *job.SlotHeldError,
	// *job.LimitError; they leave nothing behind.
	// Of the system's jobs (see job.System) it inserts runs too.
	RunNow(ctx context.Context, r RunNow) (stored *job.Execution, replayed bool, err error)
	// RequestCancel sets CancelRequested on a live record; on one that waits
	// unleased it ends the record as cancelled instead. Returns the record as
	// it stands then. Errors: job.ErrNotFound, job.ErrEnded. A repeated request
	// on a live record is no error.
	RequestCancel(ctx context.Context, c Cancel) (*job.Execution, error)
	// Execution returns one execution. Errors: job.ErrNotFound.
	Execution(ctx context.Context, id string) (*job.Execution, error)
	// Executions returns a page of a job's executions, latest ScheduledFor
	// first, and exactly how many match. An unknown job has none.
	Executions(ctx context.Context, f ExecutionFilter) (page []*job.Execution, total int, err error)
	// Logs returns a page of an execution's log lines in order (by token, chunk
	// number, line) and how many there are.
	Logs(ctx context.Context, id string, offset, limit int) (lines []job.LogLine, total int, err error)
	// Audits returns a page of the audit log, latest first, and how many match.
	Audits(ctx context.Context, f AuditFilter) (page []AuditEntry, total int, err error)
}

// AuditFilter selects audits. Empty fields select all.
type AuditFilter struct {
	Object, User, Action string // exact
	Offset, Limit        int
}

// Insight is what people ask about all jobs together. Nothing here counts history
// when it is asked: RollUp has counted before.
type Insight interface {
	// Recent returns the latest executions of each of the jobs, at most n, latest
	// ScheduledFor first. At most 100 jobs. Unknown jobs have none.
	Recent(ctx context.Context, jobIDs []string, n int) (map[string][]*job.Execution, error)
	// Live returns a page of the executions that are not over: those that somebody
	// has leased first, by an order that does not depend on what changes, then the
	// others by WakeAt; and how many there are.
	Live(ctx context.Context, offset, limit int) (page []*job.Execution, total int, err error)
	// Failures returns a page of the executions that failed, timed out or are
	// unknown, with CompletedAt >= since, latest end first, and how many there are.
	Failures(ctx context.Context, since time.Time, offset, limit int) (page []*job.Execution, total int, err error)
	// Pulse counts what there is at the moment.
	Pulse(ctx context.Context, now time.Time) (Pulse, error)
	// Statistics returns the roll-ups with from <= From < until, by From: of one job,
	// or of all but the system's (see job.System) when jobID is empty. Quarters of an
	// hour in which nothing ended are left out.
	Statistics(ctx context.Context, jobID string, from, until time.Time) ([]RollUp, error)
	// RollUp brings the roll-ups and the states of jobs up to date with what ended
	// before the call, as far as one short step of work goes; more tells that
	// another call has more to do. Whoever calls it, however often, also at the same
	// time, each end counts once: a record that is unknown counts as that until it is
	// resolved, and then as what it was found to be.
	RollUp(ctx context.Context, now time.Time) (more bool, err error)
}

// RollUpStep is the length of time that one RollUp counts, from a multiple of it
// in UTC. The zones of the world differ by multiples of it.
const RollUpStep = 15 * time.Minute

// RollUp counts the executions with CompletedAt in a step. A skip counts once,
// however many times it covers.
type RollUp struct {
	From    time.Time
	Counts  map[job.Status]int // the ended statuses; those without any may be missing
	Timed   int                // how many of them had started
	Total   time.Duration      // from StartedAt to CompletedAt, of these, none below 0; milliseconds
	Longest time.Duration      // of these, or of one that was found to have ended in another way
}

// Pulse is how much there is of what changes by the second.
type Pulse struct {
	Jobs, Enabled int
	Held          int       // executions that somebody has leased
	Waiting       int       // executions that nobody has leased and that are not over
	Due           int       // those of them with WakeAt <= now
	DueSince      time.Time // the earliest WakeAt of these; zero without any
}

// RunNow is a manual run to insert.
type RunNow struct {
	Execution *job.Execution // trigger manual, pending, due now, perhaps leased
	PerHour   int            // the user's quota in any 60 minutes; 0 for none
	Now       time.Time
	Audit     *Audit
}

// Cancel is a person's wish that an execution ends. The first one's reason is
// kept, as Reason of a record that it ends, else as CancelReason.
type Cancel struct {
	ID     string
	Reason string // may be empty
	Now    time.Time
	Audit  *Audit
}

// ExecutionFilter selects executions of one job.
type ExecutionFilter struct {
	JobID         string
	Statuses      []job.Status // empty for all
	Offset, Limit int
}

// Work is what dispatch reads. Where a method takes a cursor it returns records
// in the order given and at most limit of them, strictly after the cursor; pass
// the last one returned to go on, nil to begin. A share selects the records of its
// jobs; nil selects all.
type Work interface {
	// DueJobs returns live jobs with NextRunAt <= until, by (NextRunAt, ID or an
	// equally stable order). They share memory: Clone one before writing to it.
	DueJobs(ctx context.Context, share *job.Share, until time.Time, after *job.Job, limit int) ([]*job.Job, error)
	// Queues returns the queues that have a waiting record, due or not, in any
	// share; in no particular order.
	Queues(ctx context.Context) ([]job.Queue, error)
	// Waiting returns unleased pending and retrying records of the queue with
	// WakeAt <= until, by (WakeAt, id or an equally stable order).
	Waiting(ctx context.Context, q job.Queue, share *job.Share, until time.Time, after *job.Execution, limit int) ([]*job.Execution, error)
	// Held returns all records that somebody has leased, by an order that does not
	// depend on what changes.
	Held(ctx context.Context, share *job.Share, after *job.Execution, limit int) ([]*job.Execution, error)
	// Overdue returns leased, running and ended records with WakeAt <= now (no
	// waiting ones), by (WakeAt, stable order).
	Overdue(ctx context.Context, share *job.Share, now time.Time, limit int) ([]*job.Execution, error)
	// Find returns those of the executions that there are, in any order. At most
	// MaxFind ids.
	Find(ctx context.Context, ids []string) ([]*job.Execution, error)
	// Mend finishes what a process that died left half done in a store without
	// transactions: fires that were recorded but did not advance their job,
	// waiting records of deleted jobs, audit entries that were not copied out,
	// executions that follow others.
	// Whatever it does happens at most once, whoever else does it too.
	Mend(ctx context.Context, now time.Time) error
}

// MaxFind is how many ids Find takes.
const MaxFind = 1000

// Fleet is what is known of the processes that share the store.
type Fleet interface {
	// OpenSession inserts a live session, or does nothing if it lives already.
	// Errors: job.ErrConflict when it was declared dead.
	OpenSession(ctx context.Context, s Session, now time.Time) error
	// Sessions returns the live sessions with their beat counters, by id. Ended
	// ones are forgotten after a day.
	Sessions(ctx context.Context) ([]Session, error)
	// DrainSession sets whether the session gets any more work, and returns it as
	// it stands then. Repeating it is no error. Errors: job.ErrNotFound (no live
	// session).
	DrainSession(ctx context.Context, id string, drain bool, a *Audit) (Session, error)

	// BeatReplica inserts the replica, or raises its beat counter to Count if it
	// is lower, keeping the time of the call.
	BeatReplica(ctx context.Context, r Replica, now time.Time) error
	// Replicas returns the replicas that there are, by id.
	Replicas(ctx context.Context) ([]Replica, error)
	// DropReplica forgets a replica that ended, or that has been silent for long.
	// One that is gone already is no error.
	DropReplica(ctx context.Context, id string) error
}

// Session is an executor process. All but Count, Running, Stopping, LastBeatAt and
// Draining stay as the session was opened.
type Session struct {
	ID        string
	Host      string // name for people
	Version   string
	Labels    map[string]string
	Templates []string // types, sorted
	Slots     int      // runs at once
	OpenedAt  time.Time

	Count      int64 // beat counter
	Running    int   // slots in use, as said with the last beat
	Stopping   bool  // as said with the last beat
	LastBeatAt time.Time
	Draining   bool // an administrator's wish: it gets no more work
}

// Replica is a registry process.
type Replica struct {
	ID         string
	Name       string // for people
	Version    string
	OpenedAt   time.Time
	Count      int64 // beat counter
	LastBeatAt time.Time
}

// Access is what identities need.
type Access interface {
	// AddUser inserts a user. Errors: job.ErrUserExists.
	AddUser(ctx context.Context, u User, a *Audit) error
	// Users returns all users by name.
	Users(ctx context.Context) ([]User, error)
	// ChangeUser changes what is set and returns the user as it stands then.
	// Errors: job.ErrNotFound; job.ErrLastAdmin when no super admin would be left
	// (a store without transactions undoes the change when it finds so afterwards).
	// A change of nothing is not kept as an audit.
	ChangeUser(ctx context.Context, c ChangeUser) (User, error)
	// RemoveUser removes a user and the user's tokens. Errors: as of ChangeUser.
	RemoveUser(ctx context.Context, name string, a *Audit) error
	// UserByName returns a user. Errors: job.ErrNotFound.
	UserByName(ctx context.Context, name string) (User, error)
	// AddToken keeps a token's hash. Repeating it is no error, and keeps no audit.
	AddToken(ctx context.Context, t Token, a *Audit) error
	// Tokens returns a user's tokens, newest first.
	Tokens(ctx context.Context, user string) ([]Token, error)
	// DeleteTokens removes those of a user's tokens whose hashes are given; hashes
	// that are not there are no error, and without any there is no audit.
	DeleteTokens(ctx context.Context, user string, hashes []string, a *Audit) error
	// TokenOwner returns the token and its user. Errors: job.ErrNotFound.
	TokenOwner(ctx context.Context, hash string) (Token, User, error)
	// DeleteExpiredTokens removes tokens that expired before now.
	DeleteExpiredTokens(ctx context.Context, now time.Time) error
}

// User is a person or a service.
type User struct {
	Name         string
	Role         string // super_admin, admin or user
	PasswordHash string // argon2id in PHC form; empty for none
	CreatedAt    time.Time
}

// ChangeUser is a change of a user; nil leaves as it is.
type ChangeUser struct {
	Name         string
	Role         *string
	PasswordHash *string
	Audit        *Audit
}

// Kinds of tokens.
const (
	TokenLogin    = "login"    // exchanged for a password by a program; tokens of before there were kinds
	TokenSession  = "session"  // of a browser
	TokenPersonal = "personal" // made by its user
)

// Token is an opaque bearer token, known by its hash.
type Token struct {
	Hash      string // hex SHA-256
	User      string
	Kind      string
	Name      string // for people
	CreatedAt time.Time
	ExpiresAt time.Time // zero for never
}
