package job

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Status is the state of an execution.
type Status string

// The states. Pending and retrying records may be leased; a leased one stays
// pending or retrying until its start is durable.
const (
	Pending   Status = "pending"
	Running   Status = "running"
	Retrying  Status = "retrying"
	Success   Status = "success"
	Failed    Status = "failed"
	TimedOut  Status = "timed_out"
	Cancelled Status = "cancelled"
	Skipped   Status = "skipped"
	Unknown   Status = "unknown"
)

// Statuses lists all states.
var Statuses = []Status{Pending, Running, Retrying, Success, Failed, TimedOut, Cancelled, Skipped, Unknown}

// Ended tells whether no attempt will follow. Unknown counts as ended, though a
// late result or a person may still resolve it.
func (s Status) Ended() bool { return s != Pending && s != Running && s != Retrying }

// Final tells whether the state can never change.
func (s Status) Final() bool { return s.Ended() && s != Unknown }

// Trigger says what caused an execution.
type Trigger string

// The triggers.
const (
	TriggerScheduler Trigger = "scheduler"
	TriggerManual    Trigger = "manual"
	// TriggerNotification tells somebody how another execution ended.
	TriggerNotification Trigger = "notification"
)

// Words for error_code and for the reason of a skip or an end.
const (
	CodeTimeout      = "timeout"
	CodeCancelled    = "cancelled"
	CodeExecutorLost = "executor_lost"
	CodeCrashed      = "child_crashed"

	ReasonMissed      = "missed"
	ReasonOverlap     = "overlap"
	ReasonJobDeleted  = "job_deleted"
	ReasonExecutorOut = "executor_lost"
)

// Execution is one covered fire time or one manual run. The zero time means
// none. An Execution is a value: whoever changes one copies it first.
type Execution struct {
	ID              string
	JobID           string
	JobVersion      int
	Trigger         Trigger
	Key             string // what makes the id unique within (job, trigger)
	TriggeredByUser string
	ScheduledFor    time.Time // nominal fire time, or the acceptance of a manual run (milliseconds)
	CreatedAt       time.Time
	Frozen          Frozen

	Status Status
	Reason string // sentence beginning with one of the Reason words and a colon, or empty
	// Token is the fencing token: it grows whenever the record is leased or
	// taken back, so (Status, Token) names one state and an old holder's words
	// never match.
	Token   int64
	Session string // holder of the lease; empty when not leased
	Stream  string // the holder's stream and the assignment's number on it
	Number  int64
	Host    string // name of the holder, kept after the end

	Attempts    []Attempt // those that ended, oldest first
	StartedAt   time.Time // of the running or last attempt
	CompletedAt time.Time
	Isolation   []string
	Result      json.RawMessage // JSON object or nil
	Error       string
	ErrorCode   string

	// CancelRequested is set by a cancellation and by nothing else; no change
	// writes it, and every change back to pending or retrying requires it unset.
	CancelRequested bool
	CancelReason    string // what was said with it
	// WakeAt is when the record wants to be looked at: when it is due, past its
	// deadline, or owes its slot. Zero when settled.
	WakeAt time.Time
	// Exclusive says that the record holds its job's only slot.
	Exclusive bool
	// Seat, from 1, is which of its template's MaxConcurrency seats the record
	// takes, from its lease until its process is known to be gone; 0 for none.
	// No two records of a template have the same one.
	Seat int

	MissedFrom  time.Time // first and last fire time that a skip covers
	MissedUntil time.Time
	MissedCount int64
}

// Attempt is one try that ended.
type Attempt struct {
	Number      int       `json:"number"`
	Status      Status    `json:"status"`
	StartedAt   time.Time `json:"started_at"`
	CompletedAt time.Time `json:"completed_at"`
	Error       string    `json:"error,omitempty"`
	ErrorCode   string    `json:"error_code,omitempty"`
	Host        string    `json:"host,omitempty"`
}

// Leased tells whether somebody holds the record.
func (e *Execution) Leased() bool { return e.Session != "" }

// Attempt is the number, from 1, of the running or next attempt.
func (e *Execution) Attempt() int { return len(e.Attempts) + 1 }

// LogLine is one line that a run wrote.
type LogLine struct {
	At      time.Time `json:"timestamp"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a random id with the prefix, such as "job_".
func NewID(prefix string) string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + idEncoding.EncodeToString(b[:])
}

// DerivedID returns the id that the same parts always give: an idempotency key
// turned into a primary key.
func DerivedID(prefix string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return prefix + idEncoding.EncodeToString(h.Sum(nil)[:15])
}

const fireKeyLayout = "20060102T150405Z"

// FireKey is the key of the scheduled execution for a nominal fire time.
func FireKey(t time.Time) string { return t.UTC().Format(fireKeyLayout) }

// ExecutionID is the primary key of (job, trigger, key): inserting the same
// cause twice is a duplicate key, in any process and after any crash.
func ExecutionID(jobID string, trigger Trigger, key string) string {
	return "exec_" + strings.TrimPrefix(jobID, "job_") + "_" + triggerLetter(trigger) + "_" + key
}

// ParseExecutionID takes an id apart; ok is false when it is not one.
func ParseExecutionID(id string) (jobID string, trigger Trigger, key string, ok bool) {
	rest, ok := strings.CutPrefix(id, "exec_")
	if !ok {
		return "", "", "", false
	}
	parts := strings.SplitN(rest, "_", 3)
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return "", "", "", false
	}
	switch parts[1] {
	case "s":
		trigger = TriggerScheduler
	case "m":
		trigger = TriggerManual
	case "n":
		trigger = TriggerNotification
	default:
		return "", "", "", false
	}
	return "job_" + parts[0], trigger, parts[2], true
}

func triggerLetter(t Trigger) string {
	switch t {
	case TriggerManual:
		return "m"
	case TriggerNotification:
		return "n"
	default:
		return "s"
	}
}
