package mongostore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func auditOf(object, action string) *store.Audit {
	return &store.Audit{At: noon, User: "ann", Address: "192.0.2.1", Action: action, Object: object, After: []byte(`{"a":1}`)}
}

// again repeats a call until its answer is known.
func again(t *testing.T, call func() error) error {
	t.Helper()
	for range 10 {
		if err := call(); !errors.Is(err, job.ErrUnavailable) {
			return err
		}
	}
	t.Fatal("it stays unknown")
	return nil
}

// lifeOfARun does what people and registries do, each until it is known, and
// checks that all of it happened once.
func lifeOfARun(t *testing.T, s *Store, label string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", label, err)
		}
	}
	n := made.Add(1)
	j := &job.Job{
		ID: fmt.Sprintf("job_f%04d", n), Name: fmt.Sprintf("fault %d", n), TemplateType: "noop", Enabled: true, Timeout: time.Minute,
		Organisation: job.DefaultOrganisation, Overlap: job.OverlapForbid, CreatedAt: noon, NextRunAt: noon, Version: 1,
	}
	j.Schedule.Type, j.Schedule.IntervalSeconds = "interval", 60
	must(again(t, func() error {
		_, _, err := s.CreateJob(ctx, store.CreateJob{Job: j, Fingerprint: "f", Limit: 1000, Audit: auditOf(j.ID, "job.create")})
		return err
	}))
	after := j.Clone()
	after.Description, after.Version = "edited", 2
	must(again(t, func() error {
		_, err := s.EditJob(ctx, store.EditJob{Version: 1, NextRunAt: noon, After: after, Audit: auditOf(j.ID, "job.update")})
		return err
	}))
	f := fireOf(after, "ann")
	if a := perform(ctx, t, s, f); a.Outcome != store.Done {
		t.Fatalf("%s: fire: %+v", label, a)
	}
	run := f.Execution.Start(noon, noon, nil)
	for _, c := range []*store.Change{
		{Status: job.Pending, Token: 1, To: run},
		{Status: job.Running, Token: 1, To: run.End(job.Outcome{Status: job.Success, StartedAt: noon, CompletedAt: minutes(1)}, minutes(1)), Audit: auditOf(run.ID, "execution.change")},
	} {
		if a := perform(ctx, t, s, c); a.Outcome != store.Done {
			t.Fatalf("%s: change: %+v", label, a)
		}
	}
	m := manualOf(after)
	must(again(t, func() error {
		_, _, err := s.RunNow(ctx, store.RunNow{Execution: m, Now: noon, PerHour: 1000, Audit: auditOf(m.ID, "execution.run")})
		return err
	}))
	if err := again(t, func() error {
		_, err := s.RequestCancel(ctx, store.Cancel{ID: m.ID, Now: noon, Audit: auditOf(m.ID, "execution.cancel")})
		return err
	}); err != nil && !errors.Is(err, job.ErrEnded) {
		t.Fatalf("%s: %v", label, err)
	}
	if err := again(t, func() error {
		_, err := s.DeleteJob(ctx, j.ID, 2, noon, auditOf(j.ID, "job.delete"))
		return err
	}); err != nil && !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("%s: %v", label, err)
	}
	must(again(t, func() error { return s.Mend(ctx, noon.Add(time.Hour)) }))
	for object, want := range map[string][]string{
		j.ID:   {"job.delete", "job.update", "job.create"},
		run.ID: {"execution.change"},
		m.ID:   {"execution.cancel", "execution.run"},
	} {
		var page []store.AuditEntry
		must(again(t, func() (err error) {
			page, _, err = s.Audits(ctx, store.AuditFilter{Object: object, Limit: 10})
			return err
		}))
		var got []string
		for _, a := range page {
			got = append(got, a.Action)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: audits of %s: %v, want %v", label, object, got, want)
		}
	}
	var total int
	must(again(t, func() (err error) {
		_, total, err = s.Executions(ctx, store.ExecutionFilter{JobID: j.ID, Limit: 10})
		return err
	}))
	if total != 2 {
		t.Errorf("%s: %d records", label, total)
	}
	quota, err := one[quota](ctx, s.quotas, byID("ann"))
	if err != nil || quota == nil {
		t.Fatalf("%s: quota: %v", label, err)
	}
	times := 0
	for _, q := range quota.Runs {
		if q.Execution == m.ID {
			times++
		}
	}
	if times != 1 {
		t.Errorf("%s: the run was counted %d times", label, times)
	}
	for what, filter := range map[string]bson.D{
		"slots":               {{Key: "exclusive_key", Value: j.ID}},
		"unconfirmed records": {{Key: "unconfirmed.job_id", Value: j.ID}},
		"pending audits":      {{Key: "job_id", Value: j.ID}, {Key: "audit.n", Value: bson.D{{Key: "$gt", Value: 0}}}},
	} {
		if n, err := s.executions.CountDocuments(ctx, filter); err != nil || n != 0 {
			t.Errorf("%s: %d %s are left (%v)", label, n, what, err)
		}
	}
}

// TestFaults loses the answer to each insert and each update in turn. The driver
// takes half a second to find its server again, so two go at a time.
func TestFaults(t *testing.T) {
	standin := standintest.Start(t)
	s := begin(t, newDatabase(t, standin.URI), nil)
	for skip := 0; ; skip++ {
		inserts := standin.Inject(t, standintest.Fault{Command: "insert", Action: standintest.CutAfter, Skip: skip, Count: 1})
		updates := standin.Inject(t, standintest.Fault{Command: "update", Action: standintest.CutAfter, Skip: skip, Count: 1})
		lifeOfARun(t, s, fmt.Sprintf("insert and update %d", skip))
		met := inserts.Fired(t) + updates.Fired(t)
		standin.Clear(t)
		if met == 0 || t.Failed() {
			if skip < 12 {
				t.Errorf("only %d commands were ever sent", skip)
			}
			break
		}
	}
}

// TestOtherFaults refuses some commands, and does not let others through.
func TestOtherFaults(t *testing.T) {
	standin := standintest.Start(t)
	s := begin(t, newDatabase(t, standin.URI), nil)
	for i, action := range []standintest.Fault{
		{Action: standintest.CutBefore}, {Action: standintest.Refuse, Code: standintest.PrimarySteppedDown}, {Action: standintest.Refuse, Code: standintest.ShutdownInProgress},
	} {
		var set []*standintest.Injected
		for n, name := range []string{"insert", "update", "find"} {
			fault := action
			fault.Command, fault.Skip, fault.Count = name, 2*i+n, 1
			if name == "find" {
				fault.Count = 2 // the driver itself tries a read twice
			}
			set = append(set, standin.Inject(t, fault))
		}
		lifeOfARun(t, s, fmt.Sprintf("%s %d", action.Action, action.Code))
		for _, f := range set {
			if f.Fired(t) == 0 {
				t.Errorf("%s: a fault met nothing", action.Action)
			}
		}
		standin.Clear(t)
	}
}

// TestLateAnswers gives up on an answer that takes too long, and finds what
// happened when it asks again.
func TestLateAnswers(t *testing.T) {
	standin := standintest.Start(t)
	s := begin(t, newDatabase(t, standin.URI), nil)
	j := create(t, s)
	slow := standin.Inject(t, standintest.Fault{Command: "insert", Action: standintest.DelayAfter, DelayMS: 20_000})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	f := fireOf(j, "ann")
	end := &store.Change{Status: job.Pending, Token: 1, To: f.Execution.Start(noon, noon, nil)}
	for i, a := range s.Do(ctx, noon, []store.Op{f, end}) {
		if a.Outcome != store.Unknown || !errors.Is(a.Err, job.ErrUnavailable) {
			t.Errorf("operation %d: %+v", i, a)
		}
	}
	slow.Remove(t)
	for i, a := range s.Do(t.Context(), noon, []store.Op{f, end}) {
		if a.Outcome != store.Done {
			t.Errorf("operation %d: %+v", i, a)
		}
	}
}

func TestReady(t *testing.T) {
	standin := standintest.Start(t)
	s := begin(t, newDatabase(t, standin.URI), nil)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := standin.Inject(t, standintest.Fault{Command: "update", Action: standintest.Refuse, Code: standintest.PrimarySteppedDown})
	if err := s.Ready(t.Context()); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("it reads but does not write, and says %v", err)
	}
	refused.Remove(t)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("it works again, and says %v", err)
	}
}

// TestWhatTheDeadLeave has Mend finish what processes left that died at any
// command.
func TestWhatTheDeadLeave(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	dying, s := begin(t, uri, h.tune), begin(t, uri, nil)
	// dies performs the call, which ends before its nth command; it tells whether
	// there was one.
	dies := func(n int, call func(ctx context.Context)) bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		died := false
		h.arm(n, func() { died = true; cancel() })
		call(ctx)
		h.disarm()
		return died
	}
	mend := func(at time.Time) {
		t.Helper()
		if err := s.Mend(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("deletions", func(t *testing.T) {
		for n := 0; ; n++ {
			j := create(t, s, func(j *job.Job) { j.Overlap = job.OverlapAllow })
			for i := range 2 {
				e := *manualOf(j)
				e.Exclusive, e.Key = false, fmt.Sprint("k", i)
				e.ID = job.ExecutionID(j.ID, job.TriggerManual, e.Key)
				if _, _, err := s.RunNow(t.Context(), store.RunNow{Execution: &e, Now: noon}); err != nil {
					t.Fatal(err)
				}
			}
			died := dies(n, func(ctx context.Context) { _, _ = dying.DeleteJob(ctx, j.ID, 0, noon, auditOf(j.ID, "job.delete")) })
			mend(minutes(60))
			mend(minutes(120))
			stands, err := s.Job(t.Context(), j.ID)
			if err != nil {
				t.Fatal(err)
			}
			_, cancelled, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Statuses: []job.Status{job.Cancelled}, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			_, audits, err := s.Audits(t.Context(), store.AuditFilter{Object: j.ID, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if all := stands.Deleted && cancelled == 2 && audits == 1; !all && (stands.Deleted || cancelled+audits > 0) {
				t.Errorf("before command %d: deleted %v, %d cancelled, %d audits", n, stands.Deleted, cancelled, audits)
			} else if !died && !all {
				t.Error("it was not deleted")
			}
			if !died {
				break
			}
		}
		if n, err := s.jobs.CountDocuments(t.Context(), bson.D{{Key: "owes", Value: true}}); err != nil || n != 0 {
			t.Errorf("%d tombstones still owe (%v)", n, err)
		}
	})
	t.Run("creations", func(t *testing.T) {
		for n := 0; ; n++ {
			id := fmt.Sprintf("job_dead%d", n)
			j := &job.Job{ID: id, Name: id, TemplateType: "noop", Timeout: time.Minute, CreatedAt: noon, Version: 1}
			j.Schedule.Type = "manual"
			died := dies(n, func(ctx context.Context) {
				_, _, _ = dying.CreateJob(ctx, store.CreateJob{Job: j, Limit: 1000, Audit: auditOf(id, "job.create")})
			})
			mend(minutes(60))
			_, err := s.Job(t.Context(), id)
			_, audits, auditErr := s.Audits(t.Context(), store.AuditFilter{Object: id, Limit: 1})
			if auditErr != nil || (err == nil) != (audits == 1) {
				t.Errorf("before command %d: %v, %d audits (%v)", n, err, audits, auditErr)
			}
			raw, err := s.definedJob(t.Context(), id)
			if err != nil || raw != nil && raw.Provisional != nil {
				t.Errorf("before command %d: it is neither here nor there (%v)", n, err)
			}
			if !died {
				break
			}
		}
	})
	t.Run("runs by hand", func(t *testing.T) {
		j := create(t, s, func(j *job.Job) { j.Overlap = job.OverlapAllow })
		run := func(ctx context.Context, s *Store, key string, now time.Time) error {
			e := *manualOf(j)
			e.Exclusive, e.Key, e.TriggeredByUser = false, key, "dora"
			e.ID = job.ExecutionID(j.ID, job.TriggerManual, key)
			_, _, err := s.RunNow(ctx, store.RunNow{Execution: &e, Now: now, PerHour: 1, Audit: auditOf(e.ID, "execution.run")})
			return err
		}
		for n := 0; ; n++ {
			at := noon.Add(time.Duration(2*n) * time.Hour)
			died := dies(n, func(ctx context.Context) { _ = run(ctx, dying, fmt.Sprint("d", n), at) })
			mend(at)
			id := job.ExecutionID(j.ID, job.TriggerManual, fmt.Sprint("d", n))
			_, err := s.Execution(t.Context(), id)
			_, audits, auditErr := s.Audits(t.Context(), store.AuditFilter{Object: id, Limit: 1})
			if auditErr != nil || (err == nil) != (audits == 1) {
				t.Errorf("before command %d: %v, %d audits (%v)", n, err, audits, auditErr)
			}
			// Two minutes later what was not recorded does not count.
			next := run(t.Context(), s, fmt.Sprint("e", n), at.Add(2*time.Minute))
			if limit := (*job.LimitError)(nil); errors.As(next, &limit) != (err == nil) {
				t.Errorf("before command %d: %v, and then %v", n, err, next)
			}
			if !died {
				break
			}
		}
	})
}

// TestEarlyFire lets a job come to stand at the time of a fire that was sent
// before, between all the commands of that fire.
func TestEarlyFire(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	a, b := begin(t, uri, h.tune), begin(t, uri, nil)
	for before := 0; ; before++ {
		j := create(t, b, func(j *job.Job) { j.Overlap = job.OverlapAllow })
		early := j.Clone()
		early.NextRunAt = minutes(1)
		var rival store.Answer
		acted := false
		h.arm(before, func() {
			acted = true
			if x := perform(t.Context(), t, b, fireOf(j, "bob")); x.Outcome != store.Done {
				t.Errorf("before command %d: the fire in time: %+v", before, x)
			}
			if _, err := b.Held(t.Context(), nil, nil, 10); err != nil {
				t.Error(err)
			}
			rival = perform(t.Context(), t, b, fireOf(early, "bob"))
		})
		answer := perform(t.Context(), t, a, fireOf(early, "ann"))
		h.disarm()
		if !acted {
			if answer.Outcome != store.Lost || answer.Job == nil || !answer.Job.NextRunAt.Equal(noon) {
				t.Errorf("alone: %+v", answer)
			}
			if _, err := b.Execution(t.Context(), fireOf(early, "").Execution.ID); !errors.Is(err, job.ErrNotFound) {
				t.Errorf("alone: %v", err)
			}
			return
		}
		e, err := b.Execution(t.Context(), fireOf(early, "").Execution.ID)
		if err != nil {
			t.Errorf("before command %d: the time is not covered: %v", before, err)
			continue
		}
		if (answer.Outcome == store.Done) != (e.Session == "ann") || (rival.Outcome == store.Done) != (e.Session == "bob") {
			t.Errorf("before command %d: %s has it; %+v and %+v", before, e.Session, answer, rival)
		}
	}
}

// TestCrowdAtTheLimit has more jobs come at once than there is room for.
func TestCrowdAtTheLimit(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	s := begin(t, uri, func(o *options.ClientOptions) { o.SetMaxPoolSize(16) })
	const room, crowd = 3, 8
	results := make(chan error, crowd)
	for i := range crowd {
		go func() {
			id := fmt.Sprintf("job_crowd%d", i)
			j := &job.Job{ID: id, Name: id, TemplateType: "noop", Timeout: time.Minute, CreatedAt: noon, Version: 1}
			j.Schedule.Type = "manual"
			_, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: j, Limit: room})
			results <- err
		}()
	}
	won := 0
	for range crowd {
		err := <-results
		if limit := (*job.LimitError)(nil); err == nil {
			won++
		} else if !errors.As(err, &limit) {
			t.Error(err)
		}
	}
	_, total, err := s.Jobs(t.Context(), store.JobFilter{Limit: 1})
	if err != nil || won != room || total != room {
		t.Errorf("%d were told so, %d are there (%v)", won, total, err)
	}
}
