package sqlitestore

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// statuses gives each status its number in the database. Those above success
// are the ones of the index executions_other.
var statuses = []job.Status{
	job.Pending, job.Retrying, job.Running, job.Success,
	job.Failed, job.TimedOut, job.Cancelled, job.Skipped, job.Unknown,
}

const (
	success = 3
	skipped = 7
	unknown = 8
)

func statusNumber(s job.Status) (int64, error) {
	if i := slices.Index(statuses, s); i >= 0 {
		return int64(i), nil
	}
	return 0, fmt.Errorf("execution status %q is not known", s)
}

// counter is the column of job_state that counts records of the status.
func counter(status int64) string {
	if status < success {
		return "live"
	}
	return string(statuses[status])
}

// What the column queue holds for records that wait for no lease.
const (
	queueHeld  = 0
	queueOwing = 1
)

// state is what a Change writes, as it is kept: two states are the same if and
// only if they are equal.
type state struct {
	status, token             int64
	session, stream           string
	number                    int64
	host                      string
	ownAttempt                bool
	startedAt, completedAt    int64
	isolation, result, detail string
}

// detail holds what few records have.
type detail struct {
	Reason      string        `json:"reason,omitempty"`
	Error       string        `json:"error,omitempty"`
	ErrorCode   string        `json:"error_code,omitempty"`
	Attempts    []job.Attempt `json:"attempts,omitempty"`
	MissedFrom  *int64        `json:"missed_from,omitempty"`
	MissedUntil *int64        `json:"missed_until,omitempty"`
	MissedCount int64         `json:"missed_count,omitempty"`
}

func encodeState(e *job.Execution) (state, error) {
	status, err := statusNumber(e.Status)
	if err != nil {
		return state{}, err
	}
	s := state{
		status: status, token: e.Token, session: e.Session, stream: e.Stream, number: e.Number, host: e.Host,
		startedAt: millis(e.StartedAt), completedAt: millis(e.CompletedAt), result: string(e.Result),
	}
	if len(e.Isolation) > 0 {
		b, err := json.Marshal(e.Isolation)
		if err != nil {
			return state{}, fmt.Errorf("encode isolation: %w", err)
		}
		s.isolation = string(b)
	}
	attempts := e.Attempts
	if n := len(attempts); n > 0 && isOwn(&attempts[n-1], e, n) {
		s.ownAttempt, attempts = true, attempts[:n-1]
	}
	if e.Reason == "" && e.Error == "" && e.ErrorCode == "" && len(attempts) == 0 &&
		e.MissedFrom.IsZero() && e.MissedUntil.IsZero() && e.MissedCount == 0 {
		return s, nil
	}
	d := detail{
		Reason: e.Reason, Error: e.Error, ErrorCode: e.ErrorCode,
		MissedFrom: optionalMillis(e.MissedFrom), MissedUntil: optionalMillis(e.MissedUntil), MissedCount: e.MissedCount,
	}
	if len(attempts) > 0 {
		d.Attempts = slices.Clone(attempts)
		for i := range d.Attempts {
			a := &d.Attempts[i]
			a.StartedAt, a.CompletedAt = fromMillis(millis(a.StartedAt)), fromMillis(millis(a.CompletedAt))
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return state{}, fmt.Errorf("encode details: %w", err)
	}
	s.detail = string(b)
	return s, nil
}

// isOwn tells whether an attempt says only what the record says of itself.
func isOwn(a *job.Attempt, e *job.Execution, n int) bool {
	return a.Number == n && a.Status == e.Status && a.Error == e.Error && a.ErrorCode == e.ErrorCode && a.Host == e.Host &&
		millis(a.StartedAt) == millis(e.StartedAt) && millis(a.CompletedAt) == millis(e.CompletedAt)
}

func optionalMillis(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}

func (s *state) decode(e *job.Execution) error {
	if s.status < 0 || s.status >= int64(len(statuses)) {
		return fmt.Errorf("status number %d is not known", s.status)
	}
	e.Status, e.Token = statuses[s.status], s.token
	e.Session, e.Stream, e.Number, e.Host = s.session, s.stream, s.number, s.host
	e.StartedAt, e.CompletedAt = fromMillis(s.startedAt), fromMillis(s.completedAt)
	if s.result != "" {
		e.Result = json.RawMessage(s.result)
	}
	if s.isolation != "" {
		if err := json.Unmarshal([]byte(s.isolation), &e.Isolation); err != nil {
			return fmt.Errorf("decode isolation: %w", err)
		}
	}
	if s.detail != "" {
		var d detail
		if err := json.Unmarshal([]byte(s.detail), &d); err != nil {
			return fmt.Errorf("decode details: %w", err)
		}
		e.Reason, e.Error, e.ErrorCode, e.Attempts = d.Reason, d.Error, d.ErrorCode, d.Attempts
		for i := range e.Attempts {
			a := &e.Attempts[i]
			a.StartedAt, a.CompletedAt = fromMillis(millis(a.StartedAt)), fromMillis(millis(a.CompletedAt))
		}
		if d.MissedFrom != nil {
			e.MissedFrom = fromMillis(*d.MissedFrom)
		}
		if d.MissedUntil != nil {
			e.MissedUntil = fromMillis(*d.MissedUntil)
		}
		e.MissedCount = d.MissedCount
	}
	if s.ownAttempt {
		e.Attempts = append(e.Attempts, job.Attempt{
			Number: len(e.Attempts) + 1, Status: e.Status, StartedAt: e.StartedAt, CompletedAt: e.CompletedAt,
			Error: e.Error, ErrorCode: e.ErrorCode, Host: e.Host,
		})
	}
	return nil
}

// bindState binds what a Change writes to the 15 parameters from first on.
func bindState(s *sqlite.Stmt, first int, st *state, e *job.Execution) {
	bindLease(s, first, st, e)
	bindPast(s, first+9, st)
}

// bindLease binds who holds the record and who looks at it to the 9 parameters from
// first on: all that there is of one that never began.
func bindLease(s *sqlite.Stmt, first int, st *state, e *job.Execution) {
	s.BindInt64(first, st.status)
	s.BindInt64(first+1, st.token)
	bindOptional(s, first+2, st.session)
	bindOptional(s, first+3, st.stream)
	s.BindInt64(first+4, st.number)
	bindOptional(s, first+5, st.host)
	wake := millis(e.WakeAt)
	switch {
	case e.Status.Ended() && wake == none:
		s.BindNull(first + 6)
	case e.Status.Ended():
		s.BindInt64(first+6, queueOwing)
	case e.Leased() || e.Status == job.Running:
		s.BindInt64(first+6, queueHeld)
	default:
		s.BindText(first+6, e.Frozen.Queue().String())
	}
	bindInt(s, first+7, wake)
	if e.Exclusive {
		s.BindInt64(first+8, 1)
	} else {
		s.BindNull(first + 8)
	}
}

// bindPast binds what there is of one that began, or has more to say of itself, to
// the 6 parameters from first on.
func bindPast(s *sqlite.Stmt, first int, st *state) {
	s.BindBool(first, st.ownAttempt)
	bindInt(s, first+1, st.startedAt)
	bindInt(s, first+2, st.completedAt)
	bindOptional(s, first+3, st.isolation)
	bindOptional(s, first+4, st.result)
	bindOptional(s, first+5, st.detail)
}

// neverBegan tells whether bindLease binds all that there is.
func (s *state) neverBegan() bool {
	return !s.ownAttempt && s.startedAt == none && s.completedAt == none && s.isolation == "" && s.result == "" && s.detail == ""
}

// seatOf returns which seat the record takes as it is kept: no two records have
// the same one. Empty for none.
func seatOf(e *job.Execution) string {
	if e.Seat == 0 {
		return ""
	}
	return e.Frozen.TemplateType + "#" + strconv.Itoa(e.Seat)
}

const (
	leaseColumns = `status, token, session, stream, number, host, queue, wake_at, exclusive`
	pastColumns  = `own_attempt, started_at, completed_at, isolation, result, detail`
	stateColumns = leaseColumns + `, ` + pastColumns
)

// selectExecution reads whole records; what follows it narrows the choice. It
// joins nothing: SQLite compiles a join afresh for each use with new parameters,
// at ten times the cost of the query.
const selectExecution = `SELECT e.seq, e.job, e.at, e.cause, e.version, e.idempotent, e.frozen, e.triggered_by, e.created_at, e.cancel,
	e.status, e.token, e.session, e.stream, e.number, e.host, e.own_attempt, e.started_at, e.completed_at, e.isolation, e.result, e.detail,
	e.wake_at, e.exclusive, e.seat
	FROM executions e `

// record is an execution as it is kept.
type record struct {
	*job.Execution
	seq, job int64
	state    state
}

// executions reads the records that the query, appended to selectExecution,
// chooses.
func (d *data) executions(where string, a args) ([]record, error) {
	return d.shared(nil, math.MaxInt, where, a)
}

// shared reads the first records of the share that the query, appended to
// selectExecution, chooses.
func (d *data) shared(share *job.Share, limit int, where string, a args) (found []record, err error) {
	if limit <= 0 {
		return nil, nil
	}
	err = d.each(selectExecution+where, a, func(r row) error {
		if share != nil {
			if id, err := d.jobID(r.int(1)); err != nil || !share.Has(id) {
				return err
			}
		}
		rec, err := d.scan(r)
		if err != nil {
			return err
		}
		if found = append(found, rec); len(found) == limit {
			return errEnough
		}
		return nil
	})
	return found, err
}

// execution reads one record that is there.
func (d *data) execution(seq int64) (record, error) {
	found, err := d.executions(`WHERE e.seq = ?`, args{seq})
	if err != nil {
		return record{}, err
	}
	if len(found) == 0 {
		return record{}, fmt.Errorf("execution %d is not there", seq)
	}
	return found[0], nil
}

func plain(records []record) []*job.Execution {
	out := make([]*job.Execution, len(records))
	for i := range records {
		out[i] = records[i].Execution
	}
	return out
}

func (d *data) scan(r row) (record, error) {
	id, err := d.jobID(r.int(1))
	if err != nil {
		return record{}, err
	}
	rec := record{
		seq: r.int(0), job: r.int(1),
		state: state{
			status: r.int(10), token: r.int(11), session: r.text(12), stream: r.text(13), number: r.int(14), host: r.text(15),
			ownAttempt: r.bool(16), startedAt: r.millis(17), completedAt: r.millis(18),
			isolation: r.text(19), result: r.text(20), detail: r.text(21),
		},
		Execution: &job.Execution{
			JobID: id, JobVersion: int(r.int(4)), TriggeredByUser: r.text(7),
			ScheduledFor: r.time(2), CreatedAt: r.time(8), CancelRequested: !r.null(9), CancelReason: r.text(9), WakeAt: r.time(22), Exclusive: r.bool(23),
		},
	}
	e := rec.Execution
	if cause := r.text(3); cause == "" {
		e.Trigger, e.Key = job.TriggerScheduler, job.FireKey(e.ScheduledFor)
		e.ID = job.ExecutionID(e.JobID, e.Trigger, e.Key)
	} else {
		e.ID = "exec_" + strings.TrimPrefix(e.JobID, "job_") + "_" + cause
		var ok bool
		if _, e.Trigger, e.Key, ok = job.ParseExecutionID(e.ID); !ok {
			return record{}, fmt.Errorf("execution %d: cause %q is not known", rec.seq, cause)
		}
	}
	if err := rec.state.decode(e); err != nil {
		return record{}, fmt.Errorf("execution %s: %w", e.ID, err)
	}
	if seat := r.text(24); seat != "" {
		if e.Seat, err = strconv.Atoi(seat[strings.LastIndexByte(seat, '#')+1:]); err != nil {
			return record{}, fmt.Errorf("execution %s: seat %q is not known", e.ID, seat)
		}
	}
	if r.null(6) {
		def, err := d.version(rec.job, r.int(4))
		if err != nil {
			return record{}, fmt.Errorf("execution %s: %w", e.ID, err)
		}
		e.Frozen = def.Freeze(r.bool(5))
		return rec, nil
	}
	if err := json.Unmarshal(r.bytes(6), &e.Frozen); err != nil {
		return record{}, fmt.Errorf("execution %s: decode what it was frozen with: %w", e.ID, err)
	}
	if string(e.Frozen.Parameters) == "null" { // how JSON writes none
		e.Frozen.Parameters = nil
	}
	return rec, nil
}

// cause returns how the identity of (trigger, key) is kept, and the time that
// belongs to it for a scheduled run. ok is false when no record can have it.
func cause(trigger job.Trigger, key string) (text string, at int64, ok bool) {
	if trigger != job.TriggerScheduler {
		id := job.ExecutionID("", trigger, key)
		return strings.TrimPrefix(id, "exec__"), 0, key != ""
	}
	t, err := time.Parse("20060102T150405Z", key)
	if err != nil || job.FireKey(t) != key {
		return "", 0, false
	}
	return "", t.UnixMilli(), true
}

// place is where a record is kept.
type place struct {
	seq, job  int64
	exclusive bool // it may hold its job's slot
}

// locate finds a record by its id.
func (d *data) locate(id string) (p place, ok bool, err error) {
	jobID, trigger, key, ok := job.ParseExecutionID(id)
	if !ok {
		return place{}, false, nil
	}
	text, at, ok := cause(trigger, key)
	if !ok {
		return place{}, false, nil
	}
	if p.job, ok, err = d.jobKey(jobID); !ok || err != nil {
		return place{}, false, err
	}
	query, a := `SELECT seq, exclusive FROM executions WHERE job = ? AND at = ? AND cause = ''`, args{p.job, at}
	if text != "" {
		query, a = `SELECT seq, exclusive FROM executions WHERE job = ? AND cause = ? AND cause <> ''`, args{p.job, text}
	}
	ok, err = d.one(query, a, func(r row) { p.seq, p.exclusive = r.int(0), r.bool(1) })
	return p, ok, err
}

// sameFrozen tells whether a record need not keep what it was frozen with,
// because its job's version says the same.
func sameFrozen(a, b *job.Frozen) bool {
	return a.JobName == b.JobName && a.TemplateType == b.TemplateType && a.Organisation == b.Organisation &&
		a.Priority == b.Priority && a.Selector == b.Selector &&
		a.Timeout == b.Timeout && a.Retry == b.Retry && a.Zone == b.Zone && string(a.Parameters) == string(b.Parameters) &&
		sameStrings(a.Notifications.OnSuccess, b.Notifications.OnSuccess) && sameStrings(a.Notifications.OnFailure, b.Notifications.OnFailure)
}

// sameStrings also tells nil from empty.
func sameStrings(a, b []string) bool { return (a == nil) == (b == nil) && slices.Equal(a, b) }
