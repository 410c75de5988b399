package mongostore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func minutes(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }

var made atomic.Int64

// create makes a job that is due every minute from noon on.
func create(t *testing.T, s *Store, change ...func(*job.Job)) *job.Job {
	t.Helper()
	n := made.Add(1)
	j := &job.Job{
		ID: fmt.Sprintf("job_m%04d", n), Name: fmt.Sprintf("job %d", n), TemplateType: "noop", Parameters: []byte(`{"n":1}`),
		Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 60}, Enabled: true, Timeout: time.Minute,
		Organisation: job.DefaultOrganisation, Missed: job.MissedRunOnce, Overlap: job.OverlapForbid, CreatedBy: "ann",
		CreatedAt: minutes(-1), UpdatedAt: minutes(-1), NextRunAt: noon, Version: 1,
	}
	for _, f := range change {
		f(j)
	}
	stored, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: j})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// fireOf is the fire of the job's next time, leased by the session.
func fireOf(j *job.Job, session string) *store.Fire {
	at := j.NextRunAt
	e := &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerScheduler, job.FireKey(at)), JobID: j.ID, JobVersion: j.Version,
		Trigger: job.TriggerScheduler, Key: job.FireKey(at), ScheduledFor: at, CreatedAt: at, Frozen: j.Freeze(true),
		Status: job.Pending, WakeAt: at, Exclusive: j.Overlap == job.OverlapForbid,
	}
	if session != "" {
		e = e.Lease(job.Holder{Session: session, Stream: "stream_" + session, Number: 1, Host: session}, 0, at)
	}
	return &store.Fire{Execution: e, Version: j.Version, FireAt: at, Next: at.Add(time.Minute)}
}

func skipOf(j *job.Job) *store.Fire {
	f := fireOf(j, "")
	e := f.Execution
	e.Status, e.Reason, e.Exclusive, e.WakeAt, e.CompletedAt = job.Skipped, job.ReasonMissed, false, time.Time{}, e.CreatedAt
	e.MissedFrom, e.MissedUntil, e.MissedCount = f.FireAt, f.FireAt, 1
	return f
}

// perform does one operation, as often as its answer is unknown.
func perform(ctx context.Context, t *testing.T, s *Store, op store.Op) store.Answer {
	t.Helper()
	for range 10 {
		if a := s.Do(ctx, noon, []store.Op{op})[0]; a.Outcome != store.Unknown {
			return a
		}
	}
	t.Fatalf("%T stays unknown", op)
	return store.Answer{}
}

// hooks lets something happen before the nth command of a store is sent.
type hooks struct {
	armed  bool
	before int // number, from 0, of the command
	act    func()
	sent   int
}

func (h *hooks) tune(o *options.ClientOptions) {
	// Events are delivered before the command is sent, by who sends it.
	o.SetMonitor(&event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		if !h.armed || e.CommandName == "hello" || e.CommandName == "ping" || e.CommandName == "endSessions" {
			return
		}
		n := h.sent
		h.sent++
		if n == h.before && h.act != nil {
			h.armed = false
			h.act()
			h.armed = true
		}
	}})
}

// arm lets act happen before the nth command from now on.
func (h *hooks) arm(n int, act func()) { h.armed, h.before, h.act, h.sent = true, n, act, 0 }

func (h *hooks) disarm() (sent int) {
	h.armed = false
	return h.sent
}

// rival is what somebody else does while a fire is under way.
type rival struct {
	name   string
	act    func(r *race)
	looked bool // somebody looks for work before each command of it
}

// race is a fire with what comes in between.
type race struct {
	*testing.T
	a, b, c *Store // the firer, the rival, and who looks in while the rival is at work
	j       *job.Job
	edited  bool // the rival's edit or deletion was done for exactly the fire's time
	deleted bool
	cancel  func() // the firer dies
	died    bool
	won     store.Answer // of the rival's own fire
}

func (r *race) edit(change func(*job.Job)) {
	after := r.j.Clone()
	change(after)
	after.Version++
	_, err := r.b.EditJob(r.Context(), store.EditJob{Version: r.j.Version, NextRunAt: r.j.NextRunAt, After: after})
	switch {
	case err == nil:
		r.edited = true
	case !errors.Is(err, job.ErrConflict):
		r.Error(err)
	}
}

func (r *race) die() {
	r.died = true
	r.cancel()
}

var rivals = []rival{
	{"fires too", func(r *race) { r.won = perform(r.Context(), r.T, r.b, fireOf(r.j, "bob")) }, true},
	{"edits the description", func(r *race) { r.edit(func(j *job.Job) { j.Description = "other" }) }, true},
	{"pauses the job", func(r *race) { r.edit(func(j *job.Job) { j.Enabled, j.NextRunAt = false, time.Time{} }) }, false},
	{"moves the job", func(r *race) { r.edit(func(j *job.Job) { j.NextRunAt = minutes(5) }) }, false},
	{"deletes the job", func(r *race) {
		was, err := r.b.DeleteJob(r.Context(), r.j.ID, 0, noon, nil)
		if err != nil {
			r.Error(err)
			return
		}
		r.deleted, r.edited = true, was.NextRunAt.Equal(noon)
	}, true},
	{"looks for work", func(r *race) { r.look(r.b) }, false},
	{"takes over from the dead", func(r *race) { r.die(); r.look(r.b); r.won = perform(r.Context(), r.T, r.b, fireOf(r.j, "bob")) }, true},
	{"edits after a death", func(r *race) { r.die(); r.edit(func(j *job.Job) { j.Description = "other" }) }, false},
	{"deletes after a death", func(r *race) {
		r.die()
		was, err := r.b.DeleteJob(r.Context(), r.j.ID, 0, noon, nil)
		if err != nil {
			r.Error(err)
			return
		}
		r.deleted, r.edited = true, was.NextRunAt.Equal(noon)
	}, false},
	{"mends after a death", func(r *race) {
		r.die()
		if err := r.b.Mend(r.Context(), noon.Add(time.Hour)); err != nil {
			r.Error(err)
		}
	}, false},
}

// look reads what dispatch reads.
func (r *race) look(s *Store) {
	if _, err := s.Held(r.Context(), nil, nil, 100); err != nil {
		r.Error(err)
	}
	if _, err := s.Waiting(r.Context(), (&job.Frozen{TemplateType: "noop", Organisation: job.DefaultOrganisation}).Queue(), nil, minutes(9), nil, 100); err != nil {
		r.Error(err)
	}
}

// TestFireInterleavings lets every rival act before every command of a fire, and
// somebody look for work before every command of the rival.
func TestFireInterleavings(t *testing.T) {
	server, stays := standintest.URI(t)
	kinds := map[string]func(*job.Job) *store.Fire{
		"run":  func(j *job.Job) *store.Fire { return fireOf(j, "ann") },
		"skip": skipOf,
	}
	for kind, fire := range kinds {
		for _, rival := range rivals {
			t.Run(kind+"/"+rival.name, func(t *testing.T) {
				uri := newDatabase(t, server)
				if stays {
					t.Cleanup(func() { drop(t, uri) })
				}
				var ha, hb hooks
				a, b, c := begin(t, uri, ha.tune), begin(t, uri, hb.tune), begin(t, uri, nil)
				cases := 0
				for before := 0; ; before++ {
					more := false
					for inner := -1; ; inner++ {
						r := &race{T: t, a: a, b: b, c: c, j: create(t, c)}
						f := fire(r.j)
						ctx, cancel := context.WithCancel(t.Context())
						r.cancel = cancel
						acted, innerMore := false, false
						ha.arm(before, func() {
							acted = true
							if inner >= 0 {
								hb.arm(inner, func() { innerMore = true; r.look(c) })
							}
							rival.act(r)
							hb.disarm()
						})
						answer := a.Do(ctx, noon, []store.Op{f})[0]
						ha.disarm()
						cancel()
						r.verdict(fmt.Sprintf("before command %d, with a look before %d of the rival", before, inner), f, answer)
						cases++
						more = more || acted
						if kind == "skip" || !rival.looked || inner >= 0 && !innerMore || !acted || t.Failed() {
							break
						}
					}
					if !more || t.Failed() {
						break
					}
				}
				t.Logf("%d interleavings", cases)
			})
		}
	}
}

// TestChangesAroundAFire is the other way round: before every command of an edit
// or a deletion somebody fires, and dies or not, and somebody looks for work.
func TestChangesAroundAFire(t *testing.T) {
	server, stays := standintest.URI(t)
	uri := newDatabase(t, server)
	if stays {
		t.Cleanup(func() { drop(t, uri) })
	}
	var ha, hb hooks
	a, b, c := begin(t, uri, ha.tune), begin(t, uri, hb.tune), begin(t, uri, nil)
	for _, change := range rivals[1:5] {
		for _, dies := range []int{1, 2} { // between the insert and the advance, or never

			for before := 0; ; before++ {
				r := &race{T: t, a: a, b: b, c: c, j: create(t, c)}
				at := fmt.Sprintf("%s, a fire before its command %d that dies before %d", change.name, before, dies)
				f := fireOf(r.j, "ann")
				var answer store.Answer
				acted := false
				hb.arm(before, func() {
					acted = true
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					r.cancel = cancel
					ha.arm(dies, r.die)
					answer = a.Do(ctx, noon, []store.Op{f})[0]
					ha.disarm()
				})
				change.act(r)
				hb.disarm()
				if acted {
					// What is impossible is found and removed by whoever looks.
					r.edited = false // the fire was over before the change was
					r.afterwards(at, f, answer)
				}
				if !acted || t.Failed() {
					break
				}
			}
		}
	}
}

// TestManyEdits edits a job more often than it keeps what its versions fired.
func TestManyEdits(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	j := create(t, s)
	f := fireOf(j, "ann")
	if a := perform(t.Context(), t, s, f); a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	for range firedVersions + 3 {
		stands, err := s.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		after := stands.Clone()
		after.Version++
		if j, err = s.EditJob(t.Context(), store.EditJob{Version: stands.Version, NextRunAt: stands.NextRunAt, After: after}); err != nil {
			t.Fatal(err)
		}
		if a := perform(t.Context(), t, s, skipOf(j)); a.Outcome != store.Done { // each version has something to keep
			t.Fatalf("%+v", a)
		}
	}
	held, err := s.Held(t.Context(), nil, nil, 10)
	if err != nil || len(held) != 1 || held[0].ID != f.Execution.ID {
		t.Errorf("held: %v (%v)", held, err)
	}
	d, err := s.definedJob(t.Context(), j.ID)
	if err != nil || len(d.Fired) != firedVersions {
		t.Errorf("it keeps %v (%v)", d.Fired, err)
	}
}

// afterwards judges a change around a fire: whatever the fire left is either
// covered by it, or the job's new definition fires in its place.
func (r *race) afterwards(at string, f *store.Fire, a store.Answer) {
	r.Helper()
	ctx, id := r.Context(), f.Execution.ID
	held, err := r.c.Held(ctx, nil, nil, 1000)
	if err != nil {
		r.Errorf("%s: %v", at, err)
	}
	works := false
	for _, e := range held {
		works = works || e.ID == id
	}
	j, err := r.c.Job(ctx, r.j.ID)
	if err != nil {
		r.Errorf("%s: %v", at, err)
		return
	}
	raw, err := r.c.definedJob(ctx, r.j.ID)
	if err != nil {
		r.Errorf("%s: %v", at, err)
		return
	}
	passed := raw.passed(f.Version, date(f.FireAt))
	if works != passed {
		r.Errorf("%s: handed out: %v; the job was advanced for it: %v", at, works, passed)
	}
	if a.Outcome == store.Done && !passed {
		r.Errorf("%s: it was told that it fired", at)
	}
	if !passed && !j.Deleted && j.NextRunAt.Equal(noon) {
		if own := perform(ctx, r.T, r.c, fireOf(j, "cleo")); own.Outcome != store.Done {
			r.Errorf("%s: the next fire is lost to %+v", at, own)
		}
	}
}

// verdict judges what has come of it: the fire's time is covered exactly once,
// and everybody was told the truth.
func (r *race) verdict(at string, f *store.Fire, a store.Answer) {
	r.Helper()
	ctx, id := r.Context(), f.Execution.ID
	if a.Outcome == store.Unknown {
		if !r.died {
			r.Errorf("%s: unknown: %v", at, a.Err)
			return
		}
	} else if r.edited && a.Outcome == store.Done {
		r.Errorf("%s: it fired, although the job was changed while it stood at this time", at)
	}
	// What is left is cleared away, and the job's owner goes on with it.
	if r.died {
		if err := r.c.Mend(ctx, noon.Add(time.Hour)); err != nil {
			r.Errorf("%s: %v", at, err)
		}
	}
	j, err := r.c.Job(ctx, r.j.ID)
	if err != nil {
		r.Errorf("%s: %v", at, err)
		return
	}
	stood := !j.Deleted && j.NextRunAt.Equal(noon)
	if stood {
		if _, err := r.c.Execution(ctx, id); !errors.Is(err, job.ErrNotFound) {
			r.Errorf("%s: the job stands at a time that has a record (%v)", at, err)
		}
		if own := perform(ctx, r.T, r.c, fireOf(j, "cleo")); own.Outcome != store.Done {
			r.Errorf("%s: the next fire is lost to %+v", at, own)
		}
	}
	e, err := r.c.Execution(ctx, id)
	covered := err == nil
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		r.Errorf("%s: %v", at, err)
	}
	_, total, err := r.c.Executions(ctx, store.ExecutionFilter{JobID: j.ID, Limit: 10})
	if err != nil {
		r.Errorf("%s: %v", at, err)
	}
	given := r.edited && !stood // the change took the time away
	switch {
	case given && covered:
		r.Errorf("%s: %s is there, although the change took its time away", at, e.ID)
	case !given && !covered:
		r.Errorf("%s: the time is not covered", at)
	case covered && total != 1, !covered && total != 0:
		r.Errorf("%s: %d records", at, total)
	}
	if a.Outcome == store.Done && (!covered || e.Session != f.Execution.Session) {
		r.Errorf("%s: it was told that it fired, but %+v stands", at, e)
	}
	if r.won.Outcome == store.Done && (!covered || e.Session != "bob") {
		r.Errorf("%s: the rival was told that it fired, but %+v stands", at, e)
	}
	if a.Outcome == store.Done && r.won.Outcome == store.Done {
		r.Errorf("%s: both fired", at)
	}
	// The slot is free unless the record has it.
	if !j.Deleted {
		_, _, err = r.c.RunNow(ctx, store.RunNow{Execution: manualOf(j), Now: noon})
		if held := (*job.SlotHeldError)(nil); errors.As(err, &held) != (covered && e.Exclusive) {
			r.Errorf("%s: a run by hand: %v", at, err)
		}
	}
}

func manualOf(j *job.Job) *job.Execution {
	e := *fireOf(&job.Job{ID: j.ID, Version: j.Version, NextRunAt: noon, TemplateType: j.TemplateType, Organisation: j.Organisation, Timeout: time.Minute}, "").Execution
	e.Key = "byhand"
	e.ID, e.Trigger, e.TriggeredByUser, e.Exclusive = job.ExecutionID(j.ID, job.TriggerManual, e.Key), job.TriggerManual, "ann", true
	return &e
}
