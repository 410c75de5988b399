// Package storetest is the suite that every [store.Store] passes: each sentence
// of the contract, properties against a model in memory, races, and all of the
// properties once more with answers that get lost.
package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Opener returns a function that opens one store, at first empty. Called again,
// after the store was closed, it opens the same data.
type Opener func(t *testing.T) (open func() store.Store)

// Run runs the suite. Every test has a store of its own.
func Run(t *testing.T, opener Opener) { run(t, opener, false) }

// RunSmall runs the suite with fewer records and rounds, for a store whose
// answers take long.
func RunSmall(t *testing.T, opener Opener) { run(t, opener, true) }

func run(t *testing.T, opener Opener, small bool) {
	for _, group := range []struct {
		name  string
		tests map[string]func(*suite)
	}{
		{"Fire", fireTests},
		{"Change", changeTests},
		{"Seats", seatTests},
		{"Follow", followTests},
		{"Fleet", fleetTests},
		{"Logs", logTests},
		{"Definitions", definitionTests},
		{"History", historyTests},
		{"Work", workTests},
		{"Access", accessTests},
		{"Insight", insightTests},
		{"Search", searchTests},
		{"Users", userTests},
		{"Races", raceTests},
		{"Life", lifeTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for name, test := range group.tests {
				t.Run(name, func(t *testing.T) { test(begin(t, opener(t), small)) })
			}
		})
	}
	t.Run("Model", func(t *testing.T) { runModel(t, opener, small, false) })
	t.Run("ModelWithLostAnswers", func(t *testing.T) { runModel(t, opener, small, true) })
	t.Run("LostAnswers", func(t *testing.T) { runLossy(t, opener, small) })
}

// suite is a store under test.
type suite struct {
	*testing.T
	store.Store
	open  func() store.Store
	small bool
	made  int // jobs
}

// scale returns how many there are of something: few for a slow store.
func (s *suite) scale(full, few int) int {
	if s.small {
		return few
	}
	return full
}

func begin(t *testing.T, open func() store.Store, small bool) *suite {
	t.Helper()
	s := &suite{T: t, Store: open(), open: open, small: small}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// reopen closes the store and opens its data again.
func (s *suite) reopen() {
	s.Helper()
	s.ok(s.Close())
	s.Store = s.open()
}

// start is when the tests begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const minute = time.Minute

// at returns the time n minutes after start.
func at(n int) time.Time { return start.Add(time.Duration(n) * minute) }

// newJob returns a job that is due every minute, from start on.
func newJob(n int) *job.Job {
	return &job.Job{
		ID: fmt.Sprintf("job_test%04d", n), Name: fmt.Sprintf("job %d", n), Description: "a <b>job</b> & more", TemplateType: "noop",
		Parameters: json.RawMessage(`{"deep":{"n":12345678901234567890,"s":"<&>"},"list":[1,2]}`),
		Schedule:   schedule.Spec{Type: schedule.Interval, IntervalSeconds: 60},
		Enabled:    true, Timeout: 10 * minute, Retry: job.RetryPolicy{MaxRetries: 2, Delay: 5 * time.Second},
		Notifications: job.Notifications{OnSuccess: []string{}, OnFailure: []string{"ops@example.com"}},
		Labels:        map[string]string{"team": "a"}, Organisation: job.DefaultOrganisation, Priority: 3, Selector: map[string]string{"zone": "north"},
		Missed: job.MissedRunOnce, Overlap: job.OverlapForbid, CreatedBy: "ann",
		CreatedAt: start.Add(-minute).Add(time.Duration(n) * time.Millisecond), UpdatedAt: start.Add(-minute), NextRunAt: start, Version: 1,
	}
}

// create makes a job, changed by the functions, and returns it as it stands.
func (s *suite) create(change ...func(*job.Job)) *job.Job {
	s.Helper()
	s.made++
	j := newJob(s.made)
	for _, f := range change {
		f(j)
	}
	stored, replayed, err := s.CreateJob(s.Context(), store.CreateJob{Job: j})
	s.ok(err)
	if replayed {
		s.Fatalf("job %s was there already", j.ID)
	}
	return stored
}

func allowOverlap(j *job.Job) { j.Overlap = job.OverlapAllow }

// queueOf returns the queue of newJob's runs, as they would be of the template.
func queueOf(template string) job.Queue {
	return job.Queue{Organisation: job.DefaultOrganisation, TemplateType: template, Priority: 3, Selector: "zone=north"}
}

// pending returns the execution of the job's next fire time.
func pending(j *job.Job) *job.Execution {
	t := j.NextRunAt
	return &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerScheduler, job.FireKey(t)), JobID: j.ID, JobVersion: j.Version,
		Trigger: job.TriggerScheduler, Key: job.FireKey(t), ScheduledFor: t, CreatedAt: t.Add(3 * time.Millisecond), Frozen: j.Freeze(true),
		Status: job.Pending, WakeAt: t, Exclusive: j.Overlap == job.OverlapForbid,
	}
}

func holder(n int) job.Holder {
	return job.Holder{Session: "sess_1", Stream: "stream_1", Number: int64(n), Host: "executor-1"}
}

// leased returns the same, leased.
func leased(j *job.Job, n int) *job.Execution { return pending(j).Lease(holder(n), 0, j.NextRunAt) }

// skip returns a record that says that count fire times were missed.
func skip(j *job.Job, count int) *job.Execution {
	e := pending(j)
	e.Status, e.Reason, e.Exclusive, e.WakeAt, e.CompletedAt = job.Skipped, job.ReasonMissed+": the registry was down", false, time.Time{}, e.CreatedAt
	e.MissedFrom, e.MissedUntil, e.MissedCount = j.NextRunAt, j.NextRunAt.Add(time.Duration(count-1)*minute), int64(count)
	return e
}

// manual returns a run that a person asked for.
func manual(j *job.Job, key string, now time.Time) *job.Execution {
	e := pending(j)
	e.ID, e.Trigger, e.Key = job.ExecutionID(j.ID, job.TriggerManual, key), job.TriggerManual, key
	e.ScheduledFor, e.CreatedAt, e.WakeAt, e.TriggeredByUser = now, now, now, "ann"
	return e
}

// fire returns the operation that records e and advances the job by a minute.
func fire(j *job.Job, e *job.Execution) *store.Fire {
	return &store.Fire{Execution: e, Version: j.Version, FireAt: j.NextRunAt, Next: j.NextRunAt.Add(minute)}
}

// change returns the operation that turns from into to.
func change(from, to *job.Execution) *store.Change {
	return &store.Change{Status: from.Status, Token: from.Token, To: to}
}

// ended returns a held record as it ends with the status at t.
func ended(e *job.Execution, status job.Status, t time.Time) *job.Execution {
	o := job.Outcome{Status: status, StartedAt: t.Add(-time.Second), CompletedAt: t, Isolation: []string{"rlimits", "landlock"}}
	last := *e
	last.Frozen.Retry.MaxRetries = 0 // so that nothing follows
	switch status {
	case job.Success:
		o.Result = json.RawMessage(`{"message":"ok"}`)
	case job.Unknown:
		last.Frozen.Idempotent = false
		o.Status, o.Crashed, o.ErrorCode = job.Failed, true, job.CodeCrashed
	default:
		o.Error, o.ErrorCode = "it broke", "validation"
	}
	end := last.End(o, t)
	end.Frozen = e.Frozen
	return end
}

// do performs one operation.
func (s *suite) do(op store.Op) store.Answer {
	s.Helper()
	answers := s.Do(s.Context(), start, []store.Op{op})
	if len(answers) != 1 {
		s.Fatalf("%d answers to one operation", len(answers))
	}
	if answers[0].Outcome == store.Unknown {
		s.Fatalf("unknown: %v", answers[0].Err)
	}
	return answers[0]
}

// done performs an operation that must be done.
func (s *suite) done(op store.Op) {
	s.Helper()
	if a := s.do(op); a.Outcome != store.Done {
		s.Fatalf("%T is lost: %s", op, show(a))
	}
}

// lost performs an operation that must be lost.
func (s *suite) lost(op store.Op) store.Answer {
	s.Helper()
	a := s.do(op)
	if a.Outcome != store.Lost {
		s.Fatalf("%T is done", op)
	}
	return a
}

// fired creates a job and fires it, leased.
func (s *suite) fired(change ...func(*job.Job)) (*job.Job, *job.Execution) {
	s.Helper()
	j := s.create(change...)
	e := leased(j, 1)
	s.done(fire(j, e))
	return s.job(j.ID), e
}

// job returns the job without its state, which only Job and Jobs tell.
func (s *suite) job(id string) *job.Job {
	s.Helper()
	j, err := s.Job(s.Context(), id)
	s.ok(err)
	j.State = ""
	return j
}

// jobs returns a page of the list, likewise without the states.
func (s *suite) jobs(f store.JobFilter) (page []*job.Job, total int) {
	s.Helper()
	page, total, err := s.Jobs(s.Context(), f)
	s.ok(err)
	for _, j := range page {
		j.State = ""
	}
	return page, total
}

func (s *suite) execution(id string) *job.Execution {
	s.Helper()
	e, err := s.Execution(s.Context(), id)
	s.ok(err)
	return e
}

// stands fails unless the record is e.
func (s *suite) stands(e *job.Execution) {
	s.Helper()
	s.same(s.execution(e.ID), e)
}

func (s *suite) total(jobID string, statuses ...job.Status) int {
	s.Helper()
	_, n, err := s.Executions(s.Context(), store.ExecutionFilter{JobID: jobID, Statuses: statuses, Limit: 1})
	s.ok(err)
	return n
}

func (s *suite) audits(object string) []store.AuditEntry {
	s.Helper()
	page, total, err := s.Audits(s.Context(), store.AuditFilter{Object: object, Limit: 100})
	s.ok(err)
	if len(page) != total {
		s.Fatalf("%d audits of %d", len(page), total)
	}
	return page
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) fails(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error %v; want %v", err, want)
	}
}

// same fails unless both are the same, to the last field.
func (s *suite) same(got, want any) {
	s.Helper()
	if !reflect.DeepEqual(got, want) {
		s.Fatalf("\n got %.4000s\nwant %.4000s", show(got), show(want))
	}
}

// sameRecords is same for many, and names the first that differs.
func sameRecords[T any](s *suite, got, want map[string]*T) {
	s.Helper()
	for id, v := range want {
		if got[id] == nil {
			s.Fatalf("%s is missing of %d", id, len(want))
		}
		s.same(got[id], v)
	}
	s.same(len(got), len(want))
}

// show writes a value with its raw JSON and times readable.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%+v", v)
	}
	return string(b)
}

func audit(object, action string, t time.Time) *store.Audit {
	return &store.Audit{
		At: t, User: "ann", Address: "192.0.2.1", Action: action, Object: object,
		Before: []byte(`{"a":1}`), After: []byte(`{"a":2}`),
	}
}
