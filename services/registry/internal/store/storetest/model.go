package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// model is the contract in memory, as simply as it can be said.
type model struct {
	jobs         map[string]*job.Job
	fingerprints map[string]string
	executions   map[string]*job.Execution
	runs         []time.Time // of the only user
	audits       map[string]int
	lastRuns     map[string]time.Time
}

func newModel() *model {
	return &model{
		jobs: map[string]*job.Job{}, fingerprints: map[string]string{}, executions: map[string]*job.Execution{}, audits: map[string]int{},
		lastRuns: map[string]time.Time{},
	}
}

func (m *model) live(id string) *job.Job {
	if j := m.jobs[id]; j != nil && !j.Deleted {
		return j
	}
	return nil
}

func (m *model) holder(jobID string) string {
	for _, e := range m.executions {
		if e.JobID == jobID && e.Exclusive {
			return e.ID
		}
	}
	return ""
}

// mutable keeps of a record what a Change writes and the comparison of a
// repetition looks at.
func mutable(e *job.Execution) job.Execution {
	return job.Execution{
		Status: e.Status, Reason: e.Reason, Token: e.Token, Session: e.Session, Stream: e.Stream, Number: e.Number, Host: e.Host,
		Attempts: e.Attempts, StartedAt: e.StartedAt, CompletedAt: e.CompletedAt, Isolation: e.Isolation,
		Result: e.Result, Error: e.Error, ErrorCode: e.ErrorCode, MissedFrom: e.MissedFrom, MissedUntil: e.MissedUntil, MissedCount: e.MissedCount,
	}
}

func (m *model) fire(f *store.Fire) store.Answer {
	e := f.Execution
	j := m.live(e.JobID)
	if have := m.executions[e.ID]; have != nil {
		if j != nil && j.NextRunAt.Equal(f.FireAt) {
			covered := f.FireAt
			if have.MissedUntil.After(covered) {
				covered = have.MissedUntil
			}
			compiled, _ := j.Compile()
			j.NextRunAt, _ = compiled.Next(covered)
		}
		same := reflect.DeepEqual(mutable(have), mutable(e))
		if e.Leased() {
			same = have.Session == e.Session && have.Stream == e.Stream && have.Number == e.Number && have.Token == e.Token
		}
		if same {
			return store.Answer{Outcome: store.Done}
		}
		return store.Answer{Outcome: store.Lost, Execution: have}
	}
	switch {
	case j == nil:
		return store.Answer{Outcome: store.Lost}
	case j.Version != f.Version || !j.NextRunAt.Equal(f.FireAt):
		return store.Answer{Outcome: store.Lost, Job: j}
	case e.Exclusive && m.holder(j.ID) != "":
		return store.Answer{Outcome: store.Lost, SlotBy: m.holder(j.ID)}
	}
	j.NextRunAt = f.Next
	m.executions[e.ID] = e
	return store.Answer{Outcome: store.Done}
}

func (m *model) change(c *store.Change) store.Answer {
	have := m.executions[c.To.ID]
	if have == nil {
		return store.Answer{Outcome: store.Lost}
	}
	if have.Status == c.Status && have.Token == c.Token && (!c.Uncancelled || !have.CancelRequested) {
		if m.seatTaken(c.To) {
			return store.Answer{Outcome: store.Lost, Execution: have, SeatTaken: true}
		}
		to := mutable(c.To)
		to.ID, to.JobID, to.JobVersion, to.Trigger, to.Key, to.TriggeredByUser = have.ID, have.JobID, have.JobVersion, have.Trigger, have.Key, have.TriggeredByUser
		to.ScheduledFor, to.CreatedAt, to.Frozen, to.CancelRequested = have.ScheduledFor, have.CreatedAt, have.Frozen, have.CancelRequested
		to.WakeAt, to.Exclusive, to.Seat = c.To.WakeAt, c.To.Exclusive && have.Exclusive, c.To.Seat
		m.executions[have.ID] = &to
		if to.StartedAt.After(m.lastRuns[to.JobID]) {
			m.lastRuns[to.JobID] = to.StartedAt
		}
		if c.Audit != nil {
			m.audits[c.Audit.Object]++
		}
		return store.Answer{Outcome: store.Done}
	}
	if reflect.DeepEqual(mutable(have), mutable(c.To)) {
		return store.Answer{Outcome: store.Done}
	}
	return store.Answer{Outcome: store.Lost, Execution: have}
}

// seatTaken tells whether another record has the seat.
func (m *model) seatTaken(e *job.Execution) bool {
	for _, other := range m.executions {
		if e.Seat != 0 && other.Seat == e.Seat && other.ID != e.ID && other.Frozen.TemplateType == e.Frozen.TemplateType {
			return true
		}
	}
	return false
}

func (m *model) taken(name, by string) bool {
	for _, j := range m.jobs {
		if !j.Deleted && j.Name == name && j.ID != by {
			return true
		}
	}
	return false
}

func (m *model) create(c store.CreateJob) (replayed bool, err error) {
	if fingerprint, known := m.fingerprints[c.Job.ID]; known {
		if fingerprint != c.Fingerprint {
			return false, job.ErrKeyReused
		}
		return true, nil
	}
	if m.taken(c.Job.Name, "") {
		return false, job.ErrNameTaken
	}
	m.jobs[c.Job.ID], m.fingerprints[c.Job.ID] = c.Job.Clone(), c.Fingerprint
	m.audits[c.Job.ID]++
	return false, nil
}

func (m *model) edit(e store.EditJob) error {
	j := m.live(e.After.ID)
	switch {
	case j == nil:
		return job.ErrNotFound
	case j.Version != e.Version:
		return job.ErrVersion
	case !j.NextRunAt.Equal(e.NextRunAt):
		return job.ErrConflict
	case m.taken(e.After.Name, j.ID):
		return job.ErrNameTaken
	}
	m.jobs[j.ID] = e.After.Clone()
	m.audits[j.ID]++
	return nil
}

func (m *model) delete(id string, version int, now time.Time) error {
	j := m.live(id)
	switch {
	case j == nil:
		return job.ErrNotFound
	case version != 0 && version != j.Version:
		return job.ErrVersion
	}
	j.Deleted, j.NextRunAt = true, time.Time{}
	for _, e := range m.executions {
		if e.JobID == id && waits(e) {
			gone := e.CancelledUnstarted(now)
			gone.Reason = job.ReasonJobDeleted
			m.executions[e.ID] = gone
		}
	}
	m.audits[id]++
	return nil
}

func waits(e *job.Execution) bool {
	return !e.Leased() && (e.Status == job.Pending || e.Status == job.Retrying)
}

const perHour = 5

func (m *model) runNow(e *job.Execution, now time.Time) (replayed bool, err error) {
	if m.executions[e.ID] != nil {
		return true, nil
	}
	j := m.live(e.JobID)
	if j == nil {
		return false, job.ErrNotFound
	}
	if by := m.holder(j.ID); e.Exclusive && by != "" {
		return false, &job.SlotHeldError{By: by}
	}
	recent := 0
	for _, t := range m.runs {
		if t.After(now.Add(-time.Hour)) {
			recent++
		}
	}
	if recent >= perHour {
		return false, &job.LimitError{What: "manual runs an hour", Limit: perHour, Until: m.runs[len(m.runs)-perHour].Add(time.Hour)}
	}
	m.runs = append(m.runs, now)
	m.executions[e.ID] = e
	return false, nil
}

func (m *model) cancel(id string, now time.Time) error {
	e := m.executions[id]
	switch {
	case e == nil:
		return job.ErrNotFound
	case e.Status.Ended():
		return job.ErrEnded
	case waits(e):
		m.executions[id] = e.CancelledUnstarted(now)
	default:
		c := *e
		c.CancelRequested = true
		m.executions[id] = &c
	}
	return nil
}

// runModel compares random sequences of operations with the model.
func runModel(t *testing.T, opener Opener, small, lossy bool) {
	seeds, steps, often := 6, 300, 50 // how often all is compared
	if small {
		seeds, steps, often = 2, 90, 45
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w := &walk{
				suite: begin(t, opener(t), small), m: newModel(), now: start,
				random: rand.New(rand.NewPCG(seed, 1)), //nolint:gosec // reproducible on purpose
			}
			if lossy {
				w.Store, w.lossy = Flaky(w.Store, seed), true
			}
			for n := range steps {
				w.now = w.now.Add(time.Duration(w.random.IntN(60_000)) * time.Millisecond)
				w.step()
				if n%often == often-1 {
					w.compare()
				}
				if t.Failed() {
					t.Fatalf("seed %d, step %d", seed, n)
				}
			}
		})
	}
}

// walk is one random sequence.
type walk struct {
	*suite
	m      *model
	random *rand.Rand
	now    time.Time
	lossy  bool
	past   []store.Op // performed before, to be repeated
	keys   int
}

func pick[T any](w *walk, from []T) T { return from[w.random.IntN(len(from))] }

func (w *walk) chance(percent int) bool { return w.random.IntN(100) < percent }

// step performs one operation, on the store and on the model.
func (w *walk) step() {
	w.Helper()
	id := fmt.Sprintf("job_walk%d", w.random.IntN(6))
	switch n := w.random.IntN(100); {
	case n < 5:
		w.createJob(id)
	case n < 12:
		w.editJob(id)
	case n < 14:
		w.deleteJob(id)
	case n < 45:
		w.fireJob(id)
	case n < 85:
		w.changeOne()
	case n < 92:
		w.runJob(id)
	default:
		w.cancelOne()
	}
}

// until performs a write until its answer is known, and tells whether an answer
// was lost before.
func (w *walk) until(perform func() error) (retried bool, err error) {
	w.Helper()
	for {
		err := perform()
		if !errors.Is(err, job.ErrUnavailable) {
			return retried, err
		}
		if !w.lossy {
			w.Fatal(err)
		}
		retried = true
	}
}

func (w *walk) agree(got, want error) {
	w.Helper()
	var held, wantHeld *job.SlotHeldError
	var limit, wantLimit *job.LimitError
	switch {
	case errors.As(got, &held) && errors.As(want, &wantHeld):
		w.same(held, wantHeld)
	case errors.As(got, &limit) && errors.As(want, &wantLimit):
		w.same(limit, wantLimit)
	case !errors.Is(got, want):
		w.Fatalf("error %v; want %v", got, want)
	}
}

func (w *walk) createJob(id string) {
	j := newJob(0)
	w.keys++
	j.ID, j.Name, j.CreatedAt = id, fmt.Sprint("name ", w.random.IntN(7)), j.CreatedAt.Add(time.Duration(w.keys)*time.Millisecond)
	if w.chance(30) { // a new one in place of one that may be deleted
		j.ID = fmt.Sprintf("job_walk%d", 6+w.random.IntN(6))
	}
	if w.chance(40) {
		j.Overlap = job.OverlapAllow
	}
	w.route(j)
	c := store.CreateJob{Job: j, Fingerprint: pick(w, []string{"", "f"}), Audit: audit(j.ID, "job.create", w.now)}
	wantReplayed, want := w.m.create(c)
	var stored *job.Job
	var replayed bool
	retried, err := w.until(func() (err error) {
		stored, replayed, err = w.CreateJob(w.Context(), c)
		return err
	})
	w.agree(err, want)
	if err != nil {
		return
	}
	if replayed != wantReplayed && !retried {
		w.Fatalf("replayed: %v", replayed)
	}
	w.sameJob(stored, w.m.jobs[j.ID])
}

// route says anew where the job's runs wait.
func (w *walk) route(j *job.Job) {
	j.TemplateType, j.Organisation, j.Priority = pick(w, []string{"noop", "other"}), pick(w, []string{job.DefaultOrganisation, "acme"}), w.random.IntN(3)-1
	j.Selector = pick(w, []map[string]string{nil, {"zone": "north"}})
}

func (w *walk) editJob(id string) {
	j := w.m.jobs[id]
	if j == nil {
		j = newJob(0)
		j.ID = id
	}
	after := j.Clone()
	e := store.EditJob{Version: j.Version, NextRunAt: j.NextRunAt, After: after, Audit: audit(id, "job.update", w.now)}
	after.LastRunAt = time.Time{}
	after.Deleted = false
	w.keys++
	after.UpdatedAt = w.now.Add(time.Duration(w.keys) * time.Microsecond).Truncate(time.Millisecond)
	after.Description = fmt.Sprint("edit ", w.keys)
	after.Name = fmt.Sprint("name ", w.random.IntN(9))
	after.Enabled = w.chance(85)
	after.NextRunAt = time.Time{}
	if after.Enabled { // back and forth
		after.NextRunAt = at(w.random.IntN(30))
	}
	if w.chance(20) {
		w.route(after)
	}
	if w.chance(10) {
		after.Overlap = pick(w, []string{job.OverlapAllow, job.OverlapForbid})
	}
	if w.chance(10) {
		e.Version++
	}
	if w.chance(10) {
		e.NextRunAt = at(100)
	}
	after.Version = e.Version + 1
	want := w.m.edit(e)
	var stored *job.Job
	_, err := w.until(func() (err error) {
		stored, err = w.EditJob(w.Context(), e)
		return err
	})
	w.agree(err, want)
	if err == nil {
		w.sameJob(stored, after)
	}
}

func (w *walk) deleteJob(id string) {
	version := 0
	if j := w.m.jobs[id]; j != nil && w.chance(50) {
		version = j.Version + w.random.IntN(2)
	}
	var was *job.Job
	if j := w.m.jobs[id]; j != nil {
		was = j.Clone()
	}
	want := w.m.delete(id, version, w.now)
	var got *job.Job
	retried, err := w.until(func() (err error) {
		got, err = w.DeleteJob(w.Context(), id, version, w.now, audit(id, "job.delete", w.now))
		return err
	})
	if retried && want == nil && errors.Is(err, job.ErrNotFound) {
		return
	}
	w.agree(err, want)
	if err == nil {
		was.LastRunAt = got.LastRunAt // that of before; compare sees to it
		w.same(got, was)
	}
}

func (w *walk) fireJob(id string) {
	if w.chance(10) && len(w.past) > 0 {
		w.perform(pick(w, w.past))
		return
	}
	j := w.m.jobs[id]
	if j == nil {
		j = newJob(0)
		j.ID = id
	}
	j = j.Clone()
	if j.NextRunAt.IsZero() || w.chance(10) {
		j.NextRunAt = at(w.random.IntN(30))
	}
	f := fire(j, nil)
	switch w.random.IntN(5) {
	case 0:
		count := 1 + w.random.IntN(3)
		f.Execution = skip(j, count)
		f.Next = f.Execution.MissedUntil.Add(minute)
	case 1:
		f.Execution = pending(j)
		f.Execution.Frozen.Parameters = []byte(`{"own":true}`)
		f.Execution.Frozen.Priority = pick(w, []int{0, 7})
	default:
		w.keys++
		f.Execution = leased(j, w.keys)
		f.Execution.Frozen.Idempotent = w.chance(70)
	}
	if w.chance(5) && j.Version > 1 {
		f.Version--
		f.Execution.JobVersion--
	}
	if w.chance(5) {
		f.Next = time.Time{}
	}
	w.perform(f)
}

// transition returns a legal next state of a record, nil when it has none.
func (w *walk) transition(e *job.Execution) *job.Execution {
	w.keys++
	held := job.Holder{Session: fmt.Sprint("sess_", w.random.IntN(3)), Stream: "stream_1", Number: int64(w.keys), Host: "executor-1"}
	outcome := job.Outcome{
		Status: pick(w, []job.Status{job.Success, job.Success, job.Failed, job.TimedOut, job.Cancelled}), StartedAt: w.now.Truncate(time.Millisecond), CompletedAt: w.now.Truncate(time.Millisecond),
		Isolation: pick(w, [][]string{nil, {"rlimits"}}), Retryable: w.chance(50),
	}
	if outcome.Status == job.Success {
		outcome.Result = []byte(`{"message":"ok"}`)
	} else {
		outcome.Error, outcome.ErrorCode, outcome.Crashed = "it broke", "validation", outcome.Status == job.Failed && w.chance(20)
	}
	switch {
	case waits(e):
		if w.chance(10) {
			return e.CancelledUnstarted(w.now)
		}
		return e.Lease(held, pick(w, []int{0, 0, 1, 2}), w.now)
	case e.Status == job.Pending || e.Status == job.Retrying:
		switch w.random.IntN(4) {
		case 0:
			return e.Lost(w.now, true)
		case 1:
			return e.End(outcome, w.now)
		default:
			return e.Start(w.now, w.now, []string{"landlock"})
		}
	case e.Status == job.Running:
		switch w.random.IntN(6) {
		case 0:
			return e.Lost(w.now, w.chance(50))
		case 1:
			return e.Overdue(w.now)
		default:
			return e.End(outcome, w.now)
		}
	case e.Exclusive || e.Seat != 0:
		return e.Released()
	case e.Status == job.Unknown:
		return e.Resolved(pick(w, []job.Status{job.Success, job.Failed}), "seen")
	default:
		return nil
	}
}

// some returns a random record, rather one that is not settled.
func (w *walk) some() *job.Execution {
	if len(w.m.executions) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(w.m.executions))
	var e *job.Execution
	for range 5 {
		if e = w.m.executions[pick(w, ids)]; !e.WakeAt.IsZero() {
			break
		}
	}
	return e
}

func (w *walk) changeOne() {
	e := w.some()
	if e == nil {
		return
	}
	if w.chance(10) && len(w.past) > 0 {
		w.perform(pick(w, w.past))
		return
	}
	to := w.transition(e)
	if to == nil {
		return
	}
	c := change(e, to)
	c.Uncancelled = !to.Status.Ended() && !to.Leased()
	if w.chance(5) {
		c.Token--
	}
	if w.chance(5) {
		c.Status = pick(w, job.Statuses)
	}
	if w.chance(10) {
		c.Audit = audit(e.ID, "execution.change", w.now)
	}
	w.perform(c)
}

// perform does a Fire or a Change and compares the answers.
func (w *walk) perform(op store.Op) {
	w.Helper()
	var want store.Answer
	switch op := op.(type) {
	case *store.Fire:
		want = w.m.fire(op)
	case *store.Change:
		want = w.m.change(op)
	}
	var got store.Answer
	if _, err := w.until(func() error {
		got = w.Do(w.Context(), w.now, []store.Op{op})[0]
		return got.Err
	}); err != nil {
		w.Fatal(err)
	}
	w.past = append(w.past, op)
	switch {
	case got.Outcome != want.Outcome || got.SlotBy != want.SlotBy || got.SeatTaken != want.SeatTaken:
		w.Fatalf("%T %s\n got %s\nwant %s", op, show(op), show(got), show(want))
	case want.Job != nil:
		w.sameJob(got.Job, want.Job)
	case got.Job != nil:
		w.Fatalf("job %s", show(got.Job))
	case want.Execution != nil:
		w.sameExecution(got.Execution, want.Execution)
	case got.Execution != nil:
		w.Fatalf("execution %s", show(got.Execution))
	}
}

func (w *walk) runJob(id string) {
	j := w.m.jobs[id]
	if j == nil {
		j = newJob(0)
		j.ID = id
	}
	w.keys++
	e := manual(j, fmt.Sprint("k", w.random.IntN(200)), w.now.Truncate(time.Second).Add(time.Duration(1+w.keys%900)*time.Millisecond))
	now := w.now.Truncate(time.Millisecond)
	if w.chance(30) {
		e = e.Lease(holder(w.keys), 0, w.now)
	}
	wantReplayed, want := w.m.runNow(e, now)
	var stored *job.Execution
	var replayed bool
	retried, err := w.until(func() (err error) {
		stored, replayed, err = w.RunNow(w.Context(), store.RunNow{Execution: e, PerHour: perHour, Now: now})
		return err
	})
	w.agree(err, want)
	if err != nil {
		return
	}
	if replayed != wantReplayed && !retried {
		w.Fatalf("replayed: %v", replayed)
	}
	w.sameExecution(stored, w.m.executions[e.ID])
}

func (w *walk) cancelOne() {
	e := w.some()
	if e == nil {
		return
	}
	want := w.m.cancel(e.ID, w.now)
	var stands *job.Execution
	retried, err := w.until(func() (err error) {
		stands, err = w.RequestCancel(w.Context(), store.Cancel{ID: e.ID, Now: w.now})
		return err
	})
	if retried && want == nil && errors.Is(err, job.ErrEnded) {
		return
	}
	w.agree(err, want)
	if err == nil {
		w.sameExecution(stands, w.m.executions[e.ID])
	}
}

// sameJob compares jobs without the last run, which compare looks at.
func (w *walk) sameJob(got, want *job.Job) {
	w.Helper()
	a, b := *got, *want
	a.LastRunAt, b.LastRunAt = time.Time{}, time.Time{}
	w.same(&a, &b)
}

// sameExecution compares records, to the millisecond and without the words of a
// reason.
func (w *walk) sameExecution(got, want *job.Execution) {
	w.Helper()
	a, b := wordless(got), wordless(want)
	w.same(a, b)
}

func wordless(e *job.Execution) *job.Execution {
	c := *e
	if len(c.Reason) > len(job.ReasonJobDeleted) && c.Reason[:len(job.ReasonJobDeleted)] == job.ReasonJobDeleted {
		c.Reason = job.ReasonJobDeleted
	}
	return &c
}

// compare compares all that the store and the model hold.
func (w *walk) compare() {
	w.Helper()
	for id, j := range w.m.jobs {
		got := w.job(id)
		w.sameJob(got, j)
		counts := map[job.Status]int{}
		for _, e := range w.m.executions {
			if e.JobID != id {
				continue
			}
			counts[e.Status]++
		}
		w.same(got.LastRunAt, w.m.lastRuns[id])
		sum := 0
		for _, status := range job.Statuses {
			if n := w.total(id, status); n != counts[status] {
				w.Fatalf("%d records of %s are %s; want %d", n, id, status, counts[status])
			}
			sum += counts[status]
		}
		w.same(w.total(id), sum)
		w.same(len(w.audits(id)), w.m.audits[id])
	}
	for _, e := range w.m.executions {
		w.sameExecution(w.execution(e.ID), e)
		w.same(len(w.audits(e.ID)), w.m.audits[e.ID])
	}
	w.compareWork()
	w.compareInsight()
}

// compareInsight compares what is counted, and what of all jobs is chosen.
func (w *walk) compareInsight() {
	w.Helper()
	for more := true; more; {
		_, err := w.until(func() (err error) {
			more, err = w.RollUp(w.Context(), w.now)
			return err
		})
		w.ok(err)
	}
	all := slices.Collect(maps.Values(w.m.executions))
	w.counts(false, all...)
	live, failed := map[string]*job.Execution{}, map[string]*job.Execution{}
	pulse := store.Pulse{}
	for id, e := range w.m.executions {
		if !e.Status.Ended() {
			live[id] = e
		}
		if state, _ := job.StateAfter(e.Status); state == job.StateFailing {
			failed[id] = e
		}
		switch {
		case e.Leased():
			pulse.Held++
		case waits(e):
			pulse.Waiting++
			if wake := e.WakeAt.Truncate(time.Millisecond); !wake.After(w.now) {
				if pulse.Due++; pulse.DueSince.IsZero() || wake.Before(pulse.DueSince) {
					pulse.DueSince = wake
				}
			}
		}
	}
	for id, j := range w.m.jobs {
		if !j.Deleted {
			if pulse.Jobs++; j.Enabled {
				pulse.Enabled++
			}
		}
		w.compareState(id)
	}
	got, err := w.Pulse(w.Context(), w.now)
	w.ok(err)
	w.same(got, pulse)
	compare := func(want map[string]*job.Execution, read func(offset, limit int) ([]*job.Execution, int, error)) {
		w.Helper()
		var found []*job.Execution
		for {
			page, total, err := read(len(found), 40)
			w.ok(err)
			w.same(total, len(want))
			if len(page) == 0 {
				break
			}
			found = append(found, page...)
		}
		for id, e := range set(w.suite, found, executionID) {
			if want[id] == nil {
				w.Fatalf("%s is not to be there", show(e))
			}
			w.sameExecution(e, want[id])
		}
		w.same(len(found), len(want))
	}
	compare(live, func(offset, limit int) ([]*job.Execution, int, error) { return w.Live(w.Context(), offset, limit) })
	compare(failed, func(offset, limit int) ([]*job.Execution, int, error) {
		return w.Failures(w.Context(), time.Time{}, offset, limit)
	})
}

// compareState compares a job's state, unless two runs ended at once in two ways.
func (w *walk) compareState(id string) {
	w.Helper()
	want, latest, twice := job.StateNever, time.Time{}, false
	for _, e := range w.m.executions {
		state, tells := job.StateAfter(e.Status)
		if e.JobID != id || !tells {
			continue
		}
		at := e.CompletedAt.Truncate(time.Millisecond)
		switch {
		case at.After(latest):
			want, latest, twice = state, at, false
		case at.Equal(latest) && state != want:
			twice = true
		}
	}
	j, err := w.Job(w.Context(), id)
	w.ok(err)
	if !twice && j.State != want {
		w.Fatalf("%s is %s, want %s", id, j.State, want)
	}
}

// compareWork compares what dispatch reads, of all jobs or of a share of them.
func (w *walk) compareWork() {
	w.Helper()
	var share *job.Share
	if w.chance(50) {
		share = half(slices.Sorted(maps.Keys(w.m.jobs)))
	}
	compareSets := func(name string, got []*job.Execution, choose func(*job.Execution) bool) {
		w.Helper()
		found := set(w.suite, got, executionID)
		n := 0
		for id, e := range w.m.executions {
			if share.Has(e.JobID) && choose(e) {
				if n++; found[id] == nil {
					w.Fatalf("%s lacks %s", name, show(e))
				}
			}
		}
		w.same(len(found), n)
	}
	size := 1 + w.random.IntN(20)
	waiting := map[job.Queue]bool{}
	for _, e := range w.m.executions {
		if waits(e) {
			waiting[e.Frozen.Queue()] = true
		}
	}
	queues := slices.SortedFunc(maps.Keys(waiting), job.Queue.Compare)
	w.same(w.queues(), queues)
	for _, q := range queues {
		compareSets(q.String(), pages(w.suite, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
			return w.Waiting(w.Context(), q, share, w.now, after, limit)
		}), func(e *job.Execution) bool { return waits(e) && e.Frozen.Queue() == q && !e.WakeAt.After(w.now) })
	}
	compareSets("held", pages(w.suite, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
		return w.Held(w.Context(), share, after, limit)
	}), (*job.Execution).Leased)
	overdue, err := w.Overdue(w.Context(), share, w.now, 1000)
	w.ok(err)
	compareSets("overdue", overdue, func(e *job.Execution) bool {
		return !waits(e) && !e.WakeAt.IsZero() && !e.WakeAt.After(w.now)
	})
	due := set(w.suite, pages(w.suite, size, func(after *job.Job, limit int) ([]*job.Job, error) {
		return w.DueJobs(w.Context(), share, at(15), after, limit)
	}), func(j *job.Job) string { return j.ID })
	n := 0
	for id, j := range w.m.jobs {
		if share.Has(id) && !j.Deleted && !j.NextRunAt.IsZero() && !j.NextRunAt.After(at(15)) {
			n++
			w.sameJob(due[id], j)
		}
	}
	w.same(len(due), n)
}
