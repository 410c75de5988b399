package mongostore

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// execution is a record as it is kept.
type execution struct {
	ID              string         `bson:"_id"`
	JobID           string         `bson:"job_id"`
	JobVersion      int            `bson:"job_version"`
	TriggeredBy     string         `bson:"triggered_by"`
	Key             string         `bson:"key"`
	TriggeredByUser string         `bson:"triggered_by_user,omitempty"`
	ScheduledFor    bson.DateTime  `bson:"scheduled_for"`
	CreatedAt       bson.DateTime  `bson:"created_at"`
	Bucket          int            `bson:"bucket"`
	Frozen          frozen         `bson:",inline"`
	State           state          `bson:",inline"`
	CancelRequested bool           `bson:"cancel_requested,omitempty"`
	CancelReason    string         `bson:"cancel_reason,omitempty"`
	LastStartedAt   *bson.DateTime `bson:"last_started_at,omitempty"` // the latest of all that it was given
	ExclusiveKey    string         `bson:"exclusive_key,omitempty"`   // the job's id while it holds the slot
	// Settled is the server's logical time of the write that ended the record, or
	// corrected how it had ended. Corrected tells of the ends before.
	Settled     *bson.Timestamp `bson:"settled,omitempty"`
	Corrected   []correction    `bson:"corrected,omitempty"`
	Unconfirmed *unconfirmed    `bson:"unconfirmed,omitempty"`
	Owing       string          `bson:"owing,omitempty"` // the id of the first that is owed
	Owed        []*execution    `bson:"owed,omitempty"`  // executions that follow it and may not be inserted yet
	Audits      int             `bson:"audits,omitempty"`
	Audit       *pendingAudit   `bson:"audit,omitempty"`
}

// unconfirmed says for which advance of its job a record stands. Until that has
// happened, nothing may rely on the record; see the package documentation.
type unconfirmed struct {
	JobID   string         `bson:"job_id"`
	Version int            `bson:"version"`
	FireAt  bson.DateTime  `bson:"fire_at"`
	Next    *bson.DateTime `bson:"next,omitempty"`
	Claimed bool           `bson:"claimed,omitempty"` // somebody is about to advance the job for it
}

type frozen struct {
	JobName        string        `bson:"job_name"`
	TemplateType   string        `bson:"template_type"`
	Organisation   string        `bson:"organisation"`
	Priority       int           `bson:"priority"`
	Selector       string        `bson:"selector"`
	Parameters     any           `bson:"parameters"`
	ParametersJSON string        `bson:"parameters_json,omitempty"`
	Timeout        int64         `bson:"timeout_seconds"`
	Retry          retryPolicy   `bson:"retry_policy"`
	Notifications  notifications `bson:"notifications"`
	Timezone       string        `bson:"timezone"`
	Idempotent     bool          `bson:"idempotent"`
}

type retryPolicy struct {
	MaxRetries int   `bson:"max_retries"`
	Delay      int64 `bson:"retry_delay_seconds"`
}

type notifications struct {
	OnSuccess []string `bson:"on_success"`
	OnFailure []string `bson:"on_failure"`
}

// state is what a Change writes. The fields without omitempty are always there,
// null when empty.
type state struct {
	Status      string         `bson:"status"`
	Reason      string         `bson:"reason,omitempty"`
	Token       int64          `bson:"token"`
	Session     string         `bson:"session,omitempty"`
	Stream      string         `bson:"stream,omitempty"`
	Number      int64          `bson:"number,omitempty"`
	Host        *string        `bson:"execution_host"`
	Attempts    []attempt      `bson:"attempts,omitempty"`
	StartedAt   *bson.DateTime `bson:"started_at"`
	CompletedAt *bson.DateTime `bson:"completed_at"`
	Duration    *float64       `bson:"duration_seconds"` // of the last attempt
	Isolation   []string       `bson:"isolation,omitempty"`
	Result      any            `bson:"result"`
	ResultJSON  string         `bson:"result_json,omitempty"`
	Error       *string        `bson:"error"`
	ErrorCode   string         `bson:"error_code,omitempty"`
	MissedFrom  *bson.DateTime `bson:"missed_from,omitempty"`
	MissedUntil *bson.DateTime `bson:"missed_until,omitempty"`
	MissedCount int64          `bson:"missed_count,omitempty"`
	WakeAt      *bson.DateTime `bson:"wake_at,omitempty"`
	Seat        int            `bson:"seat,omitempty"`

	// Made of the above, for the indexes.
	SeatKey    string `bson:"seat_key,omitempty"`    // unique
	Queue      string `bson:"queue,omitempty"`       // where it waits
	WakeOrder  string `bson:"wake_order,omitempty"`  // of one that waits: its place in the queue
	AlarmOrder string `bson:"alarm_order,omitempty"` // of one that does not wait but wants to be looked at
	Held       string `bson:"held,omitempty"`        // its id while it is leased
	// FailedOrder is of one that failed, timed out or is unknown: its place among
	// these.
	FailedOrder string `bson:"failed_order,omitempty"`
}

// optional are the fields of a state that are absent when empty.
var optional = optionalFields(reflect.TypeFor[state]())

type attempt struct {
	Number      int            `bson:"number"`
	Status      string         `bson:"status"`
	StartedAt   *bson.DateTime `bson:"started_at"`
	CompletedAt *bson.DateTime `bson:"completed_at"`
	Error       string         `bson:"error,omitempty"`
	ErrorCode   string         `bson:"error_code,omitempty"`
	Host        string         `bson:"host,omitempty"`
}

func date(t time.Time) bson.DateTime { return bson.DateTime(t.UnixMilli()) }

// maybeDate is nil for the zero time.
func maybeDate(t time.Time) *bson.DateTime {
	if t.IsZero() {
		return nil
	}
	d := date(t)
	return &d
}

func fromDate(d *bson.DateTime) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.Time().UTC()
}

func maybeText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func fromText(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// order sorts by time, then by id.
func order(t time.Time, id string) string {
	ms := int64(0)
	if !t.IsZero() {
		ms = max(t.UnixMilli(), 0)
	}
	return fmt.Sprintf("%015d|%s", ms, id)
}

// upTo is greater than the order of every record with a time until t.
func upTo(t time.Time) string { return order(t.Truncate(time.Millisecond).Add(time.Millisecond), "") }

func waits(e *job.Execution) bool {
	return !e.Leased() && (e.Status == job.Pending || e.Status == job.Retrying)
}

// failed tells whether an end wants a person's attention.
func failed(s job.Status) bool { return s == job.Failed || s == job.TimedOut || s == job.Unknown }

func toState(e *job.Execution) state {
	result := toObject(e.Result)
	s := state{
		Status: string(e.Status), Reason: e.Reason, Token: e.Token, Session: e.Session, Stream: e.Stream, Number: e.Number, Host: maybeText(e.Host),
		StartedAt: maybeDate(e.StartedAt), CompletedAt: maybeDate(e.CompletedAt), Isolation: e.Isolation,
		Result: result.document, ResultJSON: result.text, Error: maybeText(e.Error), ErrorCode: e.ErrorCode,
		MissedFrom: maybeDate(e.MissedFrom), MissedUntil: maybeDate(e.MissedUntil), MissedCount: e.MissedCount,
		WakeAt: maybeDate(e.WakeAt), Seat: e.Seat,
	}
	for _, a := range e.Attempts {
		s.Attempts = append(s.Attempts, attempt{
			Number: a.Number, Status: string(a.Status), StartedAt: maybeDate(a.StartedAt), CompletedAt: maybeDate(a.CompletedAt),
			Error: a.Error, ErrorCode: a.ErrorCode, Host: a.Host,
		})
	}
	if s.StartedAt != nil && s.CompletedAt != nil {
		seconds := float64(*s.CompletedAt-*s.StartedAt) / 1000
		s.Duration = &seconds
	}
	if e.Seat != 0 {
		s.SeatKey = seatKey(e)
	}
	switch {
	case waits(e):
		s.Queue, s.WakeOrder = e.Frozen.Queue().String(), order(e.WakeAt, e.ID)
	case !e.WakeAt.IsZero():
		s.AlarmOrder = order(e.WakeAt, e.ID)
	}
	if e.Leased() {
		s.Held = e.ID
	}
	if failed(e.Status) {
		s.FailedOrder = order(e.CompletedAt, e.ID)
	}
	return s
}

func seatKey(e *job.Execution) string {
	return fmt.Sprintf("%s#%d", e.Frozen.TemplateType, e.Seat)
}

func (s *state) decode(e *job.Execution) error {
	result, err := object{s.Result, s.ResultJSON}.json()
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	e.Status, e.Reason, e.Token, e.Session, e.Stream, e.Number, e.Host = job.Status(s.Status), s.Reason, s.Token, s.Session, s.Stream, s.Number, fromText(s.Host)
	e.StartedAt, e.CompletedAt, e.Isolation = fromDate(s.StartedAt), fromDate(s.CompletedAt), s.Isolation
	e.Result, e.Error, e.ErrorCode = result, fromText(s.Error), s.ErrorCode
	e.MissedFrom, e.MissedUntil, e.MissedCount = fromDate(s.MissedFrom), fromDate(s.MissedUntil), s.MissedCount
	e.WakeAt, e.Seat = fromDate(s.WakeAt), s.Seat
	e.Attempts = nil
	for _, a := range s.Attempts {
		e.Attempts = append(e.Attempts, job.Attempt{
			Number: a.Number, Status: job.Status(a.Status), StartedAt: fromDate(a.StartedAt), CompletedAt: fromDate(a.CompletedAt),
			Error: a.Error, ErrorCode: a.ErrorCode, Host: a.Host,
		})
	}
	return nil
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func toFrozen(f *job.Frozen) frozen {
	parameters := toObject(f.Parameters)
	return frozen{
		JobName: f.JobName, TemplateType: f.TemplateType, Organisation: f.Organisation, Priority: f.Priority, Selector: f.Selector,
		Parameters: parameters.document, ParametersJSON: parameters.text, Timeout: seconds(f.Timeout),
		Retry: retryPolicy{f.Retry.MaxRetries, seconds(f.Retry.Delay)}, Notifications: notifications(f.Notifications),
		Timezone: f.Zone, Idempotent: f.Idempotent,
	}
}

func (f *frozen) decode() (job.Frozen, error) {
	parameters, err := object{f.Parameters, f.ParametersJSON}.json()
	if err != nil {
		return job.Frozen{}, fmt.Errorf("parameters: %w", err)
	}
	return job.Frozen{
		JobName: f.JobName, TemplateType: f.TemplateType, Organisation: f.Organisation, Priority: f.Priority, Selector: f.Selector,
		Parameters: parameters, Timeout: time.Duration(f.Timeout) * time.Second,
		Retry:         job.RetryPolicy{MaxRetries: f.Retry.MaxRetries, Delay: time.Duration(f.Retry.Delay) * time.Second},
		Notifications: job.Notifications(f.Notifications), Zone: f.Timezone, Idempotent: f.Idempotent,
	}, nil
}

func toExecution(e *job.Execution) *execution {
	d := &execution{
		ID: e.ID, JobID: e.JobID, JobVersion: e.JobVersion, TriggeredBy: string(e.Trigger), Key: e.Key, TriggeredByUser: e.TriggeredByUser,
		ScheduledFor: date(e.ScheduledFor), CreatedAt: date(e.CreatedAt), Bucket: job.Bucket(e.JobID),
		Frozen: toFrozen(&e.Frozen), State: toState(e), CancelRequested: e.CancelRequested, CancelReason: e.CancelReason,
		LastStartedAt: maybeDate(e.StartedAt),
	}
	if e.Exclusive {
		d.ExclusiveKey = e.JobID
	}
	return d
}

func (d *execution) decode() (*job.Execution, error) {
	e := &job.Execution{
		ID: d.ID, JobID: d.JobID, JobVersion: d.JobVersion, Trigger: job.Trigger(d.TriggeredBy), Key: d.Key, TriggeredByUser: d.TriggeredByUser,
		ScheduledFor: fromDate(&d.ScheduledFor), CreatedAt: fromDate(&d.CreatedAt),
		CancelRequested: d.CancelRequested, CancelReason: d.CancelReason, Exclusive: d.ExclusiveKey != "",
	}
	var err error
	if e.Frozen, err = d.Frozen.decode(); err == nil {
		err = d.State.decode(e)
	}
	if err != nil {
		return nil, fmt.Errorf("execution %s: %w", d.ID, err)
	}
	return e, nil
}

// kept is a record as it will be read back after it was written.
func kept(e *job.Execution) (*job.Execution, error) { return toExecution(e).decode() }

// sameState tells whether two records say the same in all that a Change writes,
// but for what may have moved on since.
func sameState(a, b *job.Execution) bool {
	return reflect.DeepEqual(written(a), written(b))
}

func written(e *job.Execution) job.Execution {
	return job.Execution{
		Status: e.Status, Reason: e.Reason, Token: e.Token, Session: e.Session, Stream: e.Stream, Number: e.Number, Host: e.Host,
		Attempts: e.Attempts, StartedAt: e.StartedAt, CompletedAt: e.CompletedAt, Isolation: append([]string(nil), e.Isolation...),
		Result: append(json.RawMessage(nil), e.Result...), Error: e.Error, ErrorCode: e.ErrorCode,
		MissedFrom: e.MissedFrom, MissedUntil: e.MissedUntil, MissedCount: e.MissedCount,
	}
}
