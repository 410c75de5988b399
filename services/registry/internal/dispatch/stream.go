package dispatch

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// ErrSessionEnded ends a stream whose session was declared dead: the executor
// comes back under a new one.
var ErrSessionEnded = errors.New("the session was declared dead")

// ErrStopped ends the streams of a registry that shuts down.
var ErrStopped = errors.New("the registry is shutting down")

// Holding names one right to run: an execution under its fencing token.
type Holding struct {
	ID    string
	Token int64
}

// Hello opens a stream.
type Hello struct {
	Session       string
	Stream        string
	Host          string
	ClosedStreams []string
	Templates     []string // types that this executor carries and that were accepted
	Held          []Holding
}

// Inbound is one frame from an executor; its parts are handled in the order of
// the fields.
type Inbound struct {
	Logs       []*store.AppendLog
	Progress   []Progress
	Started    []Started
	Results    []Result
	HandedBack []Holding
	Heartbeat  *Heartbeat
	Credits    int
	Draining   bool
}

// Heartbeat says that the session lives, the highest assignment number received
// on this stream, and everything held.
type Heartbeat struct {
	LastNumber int64
	Held       []Holding
}

// Started says that an attempt began or, where it awaits a Go, that it would.
type Started struct {
	Holding
	At        time.Time
	Isolation []string
}

// Result is how an attempt ended.
type Result struct {
	Holding
	job.Outcome
}

// Progress is how far a running attempt says it is. Total is 0 when unknown.
type Progress struct {
	Holding
	Done    int64
	Total   int64
	Message string
}

// Outbound is one frame to an executor.
type Outbound struct {
	Assignments  []Assignment
	Go           []Holding
	Acknowledged []Holding
	Cancel       []Holding
	Stale        []Holding
	Beat         bool
}

// Assignment leases one attempt.
type Assignment struct {
	Number       int64
	ID           string
	Token        int64
	JobID        string
	JobName      string
	Organisation string
	TemplateType string
	Trigger      job.Trigger
	Attempt      int
	ScheduledFor time.Time
	Zone         string
	Parameters   json.RawMessage
	Timeout      time.Duration
	AwaitGo      bool
}
