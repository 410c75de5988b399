package job

import (
	"encoding/json"
	"slices"
	"time"
)

// The functions below are the only legal ways from one state to the next. Each
// takes a record and returns the changed copy; the caller writes it by one
// compare-and-set on the old (Status, Token).

// KillGrace is how long after its time-out a run may take to be gone for
// certain: the executor and the runner enforce time-outs by themselves.
const KillGrace = 15 * time.Second

// MaxLostSessions is how many executors a run may outlive before it fails.
const MaxLostSessions = 3

// Holder is who gets a lease.
type Holder struct {
	Session string
	Stream  string
	Number  int64
	Host    string
}

// Lease hands a waiting record to a holder, under a new token, and gives it the
// seat, 0 where its template needs none.
func (e *Execution) Lease(h Holder, seat int, now time.Time) *Execution {
	c := *e
	c.Seat = seat
	c.Token++
	c.Session, c.Stream, c.Number, c.Host = h.Session, h.Stream, h.Number, h.Host
	c.Reason = ""
	c.WakeAt = now.Add(e.Frozen.Timeout + KillGrace)
	return &c
}

// Start makes a leased record running: its attempt began at at.
func (e *Execution) Start(at, now time.Time, isolation []string) *Execution {
	c := *e
	c.Status, c.StartedAt, c.Isolation = Running, at, isolation
	c.WakeAt = now.Add(e.Frozen.Timeout + KillGrace)
	return &c
}

// Requeue gives a leased record that never started back to the waiting ones.
// It keeps its status, and a new token makes its old holder a stranger.
func (e *Execution) Requeue(now time.Time) *Execution {
	c := *e
	if c.Status == Running {
		c.Status = Pending
	}
	c.Token++
	c.Session, c.Stream, c.Number, c.Host = "", "", 0, ""
	c.StartedAt, c.Isolation = time.Time{}, nil
	c.WakeAt, c.Seat = now, 0
	return &c
}

// Outcome is what an executor reports of an attempt.
type Outcome struct {
	Status      Status // Success, Failed, TimedOut or Cancelled
	Crashed     bool   // the child ended without a result: Status is Failed
	StartedAt   time.Time
	CompletedAt time.Time
	Result      json.RawMessage
	Error       string
	ErrorCode   string
	Retryable   bool
	Isolation   []string
}

// End folds a reported outcome into a leased, running or unknown record: the
// record ends, or waits for another attempt.
func (e *Execution) End(o Outcome, now time.Time) *Execution {
	c := *e
	if !o.StartedAt.IsZero() {
		c.StartedAt = o.StartedAt
	}
	if len(o.Isolation) > 0 {
		c.Isolation = o.Isolation
	}
	c.Error, c.ErrorCode = o.Error, o.ErrorCode
	if o.Result != nil || o.Status == Success || len(e.Attempts) == 0 {
		c.Result = o.Result // else what an earlier attempt did stays done
	}
	status := o.Status
	if o.Crashed && !e.Frozen.Idempotent {
		// Nobody can tell how much of it happened.
		status = Unknown
	}
	if e.Status != Unknown && !e.CancelRequested && e.retries(o, status) {
		return c.retry(o, status, now)
	}
	return c.settle(status, o.CompletedAt)
}

// retries tells whether another attempt follows this outcome.
func (e *Execution) retries(o Outcome, status Status) bool {
	if status != Failed && status != TimedOut {
		return false
	}
	if e.Frozen.Idempotent {
		if status == Failed && !o.Retryable && !o.Crashed {
			return false
		}
	} else if status != Failed || !o.Retryable {
		return false
	}
	return e.failures() < e.Frozen.Retry.MaxRetries
}

func (e *Execution) failures() int {
	n := 0
	for i := range e.Attempts {
		if a := &e.Attempts[i]; a.ErrorCode != CodeExecutorLost {
			n++
		}
	}
	return n
}

func (e *Execution) lostSessions() int { return len(e.Attempts) - e.failures() }

func (e *Execution) withAttempt(status Status, completed time.Time) []Attempt {
	ended := e.Attempts
	if e.Status == Unknown && len(ended) > 0 {
		ended = ended[:len(ended)-1] // the late result replaces the unknown end
	}
	return append(slices.Clip(ended), Attempt{
		Number: len(ended) + 1, Status: status, StartedAt: e.StartedAt, CompletedAt: completed,
		Error: e.Error, ErrorCode: e.ErrorCode, Host: e.Host,
	})
}

func (e *Execution) retry(o Outcome, status Status, now time.Time) *Execution {
	c := *e
	c.Attempts = c.withAttempt(status, o.CompletedAt)
	c.Status, c.CompletedAt = Retrying, time.Time{}
	c.Token++
	c.Session, c.Stream, c.Number = "", "", 0
	c.WakeAt, c.Seat = now.Add(e.Frozen.Retry.Delay), 0
	return &c
}

// settle ends the record. The slot and the seat of an unknown one stay taken
// until its process is gone for certain.
func (e *Execution) settle(status Status, completed time.Time) *Execution {
	c := *e
	c.Attempts = c.withAttempt(status, completed)
	c.Status, c.CompletedAt = status, completed
	c.Session, c.Stream, c.Number = "", "", 0
	c.WakeAt, c.Exclusive, c.Seat = time.Time{}, false, 0
	if status == Unknown {
		c.keepUntilGone(e, completed)
	}
	return &c
}

// keepUntilGone lets an ended record keep what it held before, for as long as a
// process of it may be left.
func (e *Execution) keepUntilGone(before *Execution, now time.Time) {
	if before.Exclusive || before.Seat != 0 {
		e.Exclusive, e.Seat, e.WakeAt = before.Exclusive, before.Seat, before.goneBy(now)
	}
}

func (e *Execution) goneBy(now time.Time) time.Time {
	start := e.StartedAt
	if start.IsZero() {
		start = now
	}
	return start.Add(e.Frozen.Timeout + KillGrace)
}

// Lost is what becomes of a leased or running record whose holder is dead, or
// says that it does not hold it. Gone says that no process of it can be left,
// because its own, living executor says so.
func (e *Execution) Lost(now time.Time, gone bool) *Execution {
	if e.Status != Running {
		if e.CancelRequested {
			return e.CancelledUnstarted(now)
		}
		return e.Requeue(now)
	}
	c := *e
	c.Error, c.ErrorCode = "the executor "+e.Host+" was lost during the run", CodeExecutorLost
	switch {
	case e.CancelRequested:
		s := c.settle(Cancelled, now)
		s.ErrorCode = CodeCancelled
		if !gone {
			s.keepUntilGone(e, now)
		}
		return s
	case !e.Frozen.Idempotent:
		s := c.settle(Unknown, now)
		s.ErrorCode = CodeExecutorLost
		return s
	}
	if e.lostSessions()+1 >= MaxLostSessions {
		return c.settle(Failed, now)
	}
	attempts := c.withAttempt(Failed, now)
	r := e.Requeue(now)
	r.Attempts = attempts
	r.Reason = ReasonExecutorOut + ": " + c.Error + "; it is attempted again"
	return r
}

// Overdue ends a leased or running record that its living executor should have
// ended long ago.
func (e *Execution) Overdue(now time.Time) *Execution {
	if e.Status != Running {
		return e.Lost(now, true)
	}
	c := *e
	c.Error, c.ErrorCode = "the run did not end within its time-out of "+e.Frozen.Timeout.String(), CodeTimeout
	return c.settle(TimedOut, now)
}

// CancelledUnstarted ends a record that never started, or waits for its retry.
func (e *Execution) CancelledUnstarted(now time.Time) *Execution {
	c := *e
	c.Status, c.CompletedAt = Cancelled, now
	c.Error, c.ErrorCode = "cancelled before it started", CodeCancelled
	if len(e.Attempts) > 0 {
		c.Error = "cancelled while it waited for another attempt"
	}
	c.Token++
	c.Session, c.Stream, c.Number = "", "", 0
	c.WakeAt, c.Exclusive, c.Seat = time.Time{}, false, 0
	return &c
}

// Released gives up the slot and the seat of an ended record whose process is gone.
func (e *Execution) Released() *Execution {
	c := *e
	c.WakeAt, c.Exclusive, c.Seat = time.Time{}, false, 0
	return &c
}

// Resolved settles an unknown record as a person found it.
func (e *Execution) Resolved(status Status, reason string) *Execution {
	c := *e
	c.Status, c.Reason = status, "resolved: "+reason
	c.WakeAt, c.Exclusive, c.Seat = time.Time{}, false, 0
	if status == Success {
		c.Error, c.ErrorCode = "", ""
	}
	return &c
}
