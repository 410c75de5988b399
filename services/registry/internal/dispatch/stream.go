package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
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
	Session   string
	Stream    string // ordinal within the session, in decimal
	Host      string
	Version   string
	Labels    map[string]string
	Slots     int
	Templates []string  // types that this executor carries and that were accepted
	Held      []Holding // what belongs to this stream
	Holdings
}

// Holdings is what an executor says of all its streams. What it holds belongs to
// one of its open streams each: the one it came by or, once that is closed,
// another.
type Holdings struct {
	OpenStreams []string
	LastStream  int64     // ordinal of the latest
	Elsewhere   []Holding // what is held and belongs to other streams, or to none
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
	Credits    int // gained, or lost when negative
	Draining   bool
}

// Heartbeat says that the session lives, the highest assignment number received
// on this stream, and everything held.
type Heartbeat struct {
	LastNumber int64
	Held       []Holding // what belongs to this stream
	Holdings
	Running    int  // slots in use
	Stopping   bool // the process is about to end
	ReportOnly bool // another registry writes the beat
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
	Previous     json.RawMessage // result of an earlier attempt, or nil
	Timeout      time.Duration
	AwaitGo      bool
}

// size is what counts of it against maxFrameBytes.
func (a *Assignment) size() int { return len(a.Parameters) + len(a.Previous) }

// Frames to executors stay below these, so that one never outgrows a message.
const (
	maxFrameAssignments = 256
	maxFrameBytes       = 1 << 20
)

// Stream is an executor's stream as dispatch sees it. Receive and Next may be
// called concurrently with each other, each by one goroutine.
type Stream struct {
	d  *Dispatcher
	id string

	// Owned by the loop.
	session   *session
	templates []string
	labels    map[string]string
	free      int   // granted credits that are not used; below 0 while a withdrawal met an assignment
	number    int64 // of the last lease: (stream, number) tells one lease from another
	sent      int64 // number of the last assignment: they are sent in this order
	open      bool
	closedAt  time.Time
	draining  bool
	suspects  map[Holding]bool // held there, unknown here, at the last heartbeat

	mu    sync.Mutex
	out   Outbound      // gathered, not yet taken
	err   error         // why the stream ended
	ready chan struct{} // holds a token while there is something to take
}

// Receive hands a frame to the loop and waits while it is busy. The frame
// belongs to dispatch afterwards. It returns why the stream ended, if it did.
func (s *Stream) Receive(ctx context.Context, in *Inbound) error {
	if err := s.ended(); err != nil {
		return err
	}
	return s.d.post(ctx, func(l *loop) { l.inbound(s, in) })
}

// Next waits until there is something to send and takes it; an error says why
// the stream ends.
func (s *Stream) Next(ctx context.Context) (*Outbound, error) {
	for {
		if out := s.take(); out != nil {
			return out, nil
		}
		if err := s.ended(); err != nil {
			return nil, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close tells the loop that the transport is gone. What was leased over it
// stays leased until the executor says otherwise, or dies.
func (s *Stream) Close() {
	_ = s.d.post(context.Background(), func(l *loop) { l.closeStream(s, errClosed) })
}

var errClosed = errors.New("the stream was closed")

func (s *Stream) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// take removes what may be sent as one frame; nil when there is nothing.
func (s *Stream) take() *Outbound {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.out
	if len(out.Assignments) == 0 && len(out.Go) == 0 && len(out.Acknowledged) == 0 && len(out.Cancel) == 0 && len(out.Stale) == 0 && !out.Beat {
		return nil
	}
	s.out = Outbound{}
	n, size := 0, 0
	for n < len(out.Assignments) && n < maxFrameAssignments && (n == 0 || size+out.Assignments[n].size() < maxFrameBytes) {
		size += out.Assignments[n].size()
		n++
	}
	if n < len(out.Assignments) {
		// What speaks of assignments that are still to be sent must not overtake
		// them: only a cancellation can.
		s.out.Assignments = out.Assignments[n:]
		s.out.Cancel, out.Cancel = out.Cancel, nil
		s.signal()
	}
	out.Assignments = out.Assignments[:n:n]
	return &out
}

func (s *Stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// put adds to what is to be sent.
func (s *Stream) put(add func(out *Outbound)) {
	s.mu.Lock()
	if s.err == nil {
		add(&s.out)
	}
	s.mu.Unlock()
	s.signal()
}

// end makes Receive and Next return err.
func (s *Stream) end(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err, s.out = err, Outbound{}
	}
	s.mu.Unlock()
	s.signal()
}
