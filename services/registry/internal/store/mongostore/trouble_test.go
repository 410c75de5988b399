package mongostore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// calls are all methods of a store, each with something to do for the job.
func calls(s *Store, j *job.Job, n int) map[string]func(ctx context.Context) error {
	first := fireOf(j, "ann")
	e := first.Execution
	do := func(op store.Op) func(ctx context.Context) error {
		return func(ctx context.Context) error { return s.Do(ctx, noon, []store.Op{op})[0].Err }
	}
	session := fmt.Sprint("sess_", n)
	by := manualOf(j)
	by.Exclusive, by.Key = false, fmt.Sprint("c", n)
	by.ID = job.ExecutionID(j.ID, job.TriggerManual, by.Key)
	another := &job.Job{ID: fmt.Sprintf("job_t%d", n), Name: fmt.Sprint("t", n), Timeout: time.Minute, CreatedAt: noon, Version: 1}
	after := j.Clone()
	after.Version++
	role := "user"
	return map[string]func(ctx context.Context) error{
		"fire":   do(first),
		"change": do(&store.Change{Status: e.Status, Token: e.Token, To: e.Start(noon, noon, nil), Audit: auditOf(e.ID, "x")}),
		"log":    do(&store.AppendLog{ID: e.ID, Token: 1, Number: 1, Lines: []job.LogLine{{At: noon, Message: "x"}}}),
		"beat":   do(&store.Beat{Session: session, Count: 1}),
		"end":    do(&store.EndSession{Session: "nobody", Count: 1}),
		"create": func(ctx context.Context) error {
			_, _, err := s.CreateJob(ctx, store.CreateJob{Job: another, Limit: 1000, Audit: auditOf(another.ID, "x")})
			return err
		},
		"edit": func(ctx context.Context) error {
			_, err := s.EditJob(ctx, store.EditJob{Version: j.Version, NextRunAt: j.NextRunAt, After: after, Audit: auditOf(j.ID, "x")})
			return err
		},
		"delete": func(ctx context.Context) error {
			_, err := s.DeleteJob(ctx, j.ID, 0, noon, auditOf(j.ID, "x"))
			return err
		},
		"job":  func(ctx context.Context) error { _, err := s.Job(ctx, j.ID); return err },
		"jobs": func(ctx context.Context) error { _, _, err := s.Jobs(ctx, store.JobFilter{Limit: 5}); return err },
		"put": func(ctx context.Context) error {
			return s.PutTemplates(ctx, []job.Template{{Type: session, Version: 1}})
		},
		"templates": func(ctx context.Context) error { _, err := s.Templates(ctx); return err },
		"run": func(ctx context.Context) error {
			_, _, err := s.RunNow(ctx, store.RunNow{Execution: by, Now: noon, PerHour: 1000, Audit: auditOf(by.ID, "x")})
			return err
		},
		"cancel": func(ctx context.Context) error {
			_, err := s.RequestCancel(ctx, store.Cancel{ID: e.ID, Now: noon, Audit: auditOf(e.ID, "x")})
			return err
		},
		"execution": func(ctx context.Context) error { _, err := s.Execution(ctx, e.ID); return err },
		"executions": func(ctx context.Context) error {
			_, _, err := s.Executions(ctx, store.ExecutionFilter{JobID: j.ID, Limit: 5})
			return err
		},
		"logs":   func(ctx context.Context) error { _, _, err := s.Logs(ctx, e.ID, 0, 5); return err },
		"audits": func(ctx context.Context) error { _, _, err := s.Audits(ctx, store.AuditFilter{Limit: 5}); return err },
		"due":    func(ctx context.Context) error { _, err := s.DueJobs(ctx, nil, minutes(9), nil, 5); return err },
		"queues": func(ctx context.Context) error { _, err := s.Queues(ctx); return err },
		"waiting": func(ctx context.Context) error {
			_, err := s.Waiting(ctx, e.Frozen.Queue(), nil, minutes(9), nil, 5)
			return err
		},
		"held":     func(ctx context.Context) error { _, err := s.Held(ctx, nil, nil, 5); return err },
		"overdue":  func(ctx context.Context) error { _, err := s.Overdue(ctx, nil, minutes(9), 5); return err },
		"find":     func(ctx context.Context) error { _, err := s.Find(ctx, []string{e.ID}); return err },
		"mend":     func(ctx context.Context) error { return s.Mend(ctx, minutes(60)) },
		"open":     func(ctx context.Context) error { return s.OpenSession(ctx, store.Session{ID: session}, noon) },
		"sessions": func(ctx context.Context) error { _, err := s.Sessions(ctx); return err },
		"drain": func(ctx context.Context) error {
			_, err := s.DrainSession(ctx, session, true, auditOf(session, "x"))
			return err
		},
		"replica":  func(ctx context.Context) error { return s.BeatReplica(ctx, store.Replica{ID: session, Count: 1}, noon) },
		"replicas": func(ctx context.Context) error { _, err := s.Replicas(ctx); return err },
		"drop":     func(ctx context.Context) error { return s.DropReplica(ctx, session) },
		"user": func(ctx context.Context) error {
			return s.AddUser(ctx, store.User{Name: session}, auditOf(session, "x"))
		},
		"by name": func(ctx context.Context) error { _, err := s.UserByName(ctx, session); return err },
		"token": func(ctx context.Context) error {
			return s.AddToken(ctx, store.Token{Hash: session, User: session}, auditOf(session, "x"))
		},
		"users": func(ctx context.Context) error { _, err := s.Users(ctx); return err },
		"change user": func(ctx context.Context) error {
			_, err := s.ChangeUser(ctx, store.ChangeUser{Name: session, Role: &role, Audit: auditOf(session, "x")})
			return err
		},
		"remove user": func(ctx context.Context) error { return s.RemoveUser(ctx, session, auditOf(session, "x")) },
		"tokens":      func(ctx context.Context) error { _, err := s.Tokens(ctx, session); return err },
		"delete tokens": func(ctx context.Context) error {
			return s.DeleteTokens(ctx, session, []string{session}, auditOf(session, "x"))
		},
		"recent":     func(ctx context.Context) error { _, err := s.Recent(ctx, []string{j.ID}, 5); return err },
		"live":       func(ctx context.Context) error { _, _, err := s.Live(ctx, 0, 5); return err },
		"failures":   func(ctx context.Context) error { _, _, err := s.Failures(ctx, noon, 0, 5); return err },
		"pulse":      func(ctx context.Context) error { _, err := s.Pulse(ctx, minutes(9)); return err },
		"statistics": func(ctx context.Context) error { _, err := s.Statistics(ctx, "", noon, minutes(60)); return err },
		"roll up":    func(ctx context.Context) error { _, err := s.RollUp(ctx, minutes(60)); return err },
		"owner":      func(ctx context.Context) error { _, _, err := s.TokenOwner(ctx, session); return err },
		"expired":    func(ctx context.Context) error { return s.DeleteExpiredTokens(ctx, noon) },
		"ready":      s.Ready,
	}
}

// TestEveryCallSaysWhenTheStoreFails refuses the nth command of every call: it
// says that the store is not available, or had no need of that command.
func TestEveryCallSaysWhenTheStoreFails(t *testing.T) {
	standin := standintest.Start(t)
	s := begin(t, newDatabase(t, standin.URI), nil)
	said := map[string]bool{}
	for n := range 9 {
		j := create(t, s)
		if n%2 == 0 { // as found, and half done
			d := toExecution(fireOf(j, "ann").Execution)
			d.Unconfirmed = &unconfirmed{JobID: j.ID, Version: 1, FireAt: date(noon), Next: maybeDate(minutes(1))}
			if _, err := insert(t.Context(), s.executions, d); err != nil {
				t.Fatal(err)
			}
		}
		for name, call := range calls(s, j, n) {
			fault := standin.Inject(t, standintest.Fault{Command: "any", Database: s.meta.Database().Name(), Action: standintest.Refuse, Code: 1, Skip: n})
			err := call(t.Context())
			met := fault.Fired(t) > 0
			fault.Remove(t)
			switch {
			case err != nil && errors.Is(err, job.ErrUnavailable):
				said[name] = true
				if !met {
					t.Errorf("%s, command %d: %v, but nothing was refused", name, n, err)
				}
			case n == 0:
				t.Errorf("%s: its first command was refused, and it says %v", name, err)
			}
		}
	}
	for name := range calls(s, create(t, s), 99) {
		if !said[name] {
			t.Errorf("%s never failed", name)
		}
	}
}

func TestEveryCallAfterTheEnd(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	s := begin(t, uri, nil)
	j := create(t, s)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(s, j, 0) {
		if err := call(over); !errors.Is(err, job.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s in a context that is over: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(s, j, 0) {
		if err := call(t.Context()); !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if !s.Shared() {
		t.Error("it is not shared")
	}
}

// TestDocumentsThatSomebodySpoilt says which one it is.
func TestDocumentsThatSomebodySpoilt(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	j := create(t, s)
	f := fireOf(j, "")
	if a := perform(t.Context(), t, s, f); a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	id := f.Execution.ID
	no := bson.D{{Key: "at", Value: bson.DateTime(0)}}
	for field, names := range map[string]string{"parameters": id, "result": id} {
		if _, err := update(t.Context(), s.executions, byID(id), set(bson.E{Key: field, Value: no})); err != nil {
			t.Fatal(err)
		}
		for name, call := range map[string]func() error{
			"execution": func() error { _, err := s.Execution(t.Context(), id); return err },
			"executions": func() error {
				_, _, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Limit: 1})
				return err
			},
			"find":   func() error { _, err := s.Find(t.Context(), []string{id}); return err },
			"recent": func() error { _, err := s.Recent(t.Context(), []string{j.ID}, 1); return err },
			"live":   func() error { _, _, err := s.Live(t.Context(), 0, 1); return err },
			"waiting": func() error {
				_, err := s.Waiting(t.Context(), f.Execution.Frozen.Queue(), nil, noon, nil, 1)
				return err
			},
			"change": func() error {
				return s.Do(t.Context(), noon, []store.Op{&store.Change{Status: job.Failed, Token: 7, To: f.Execution}})[0].Err
			},
			"fire":   func() error { return s.Do(t.Context(), noon, []store.Op{f})[0].Err },
			"delete": func() error { return s.cancelWaiting(t.Context(), j.ID, noon) },
		} {
			if err := call(); err == nil || !strings.Contains(err.Error(), names) || !strings.Contains(err.Error(), field) {
				t.Errorf("%s with its %s spoilt: %v", name, field, err)
			}
		}
		if _, err := update(t.Context(), s.executions, byID(id), set(bson.E{Key: field, Value: nil})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := update(t.Context(), s.jobs, byID(j.ID), set(bson.E{Key: "parameters", Value: no})); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"job":  func() error { _, err := s.Job(t.Context(), j.ID); return err },
		"jobs": func() error { _, _, err := s.Jobs(t.Context(), store.JobFilter{Limit: 1}); return err },
		"due":  func() error { _, err := s.DueJobs(t.Context(), nil, minutes(9), nil, 1); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), j.ID) {
			t.Errorf("%s with its parameters spoilt: %v", name, err)
		}
	}
	if err := s.PutTemplates(t.Context(), []job.Template{{Type: "x", Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := update(t.Context(), s.templates, byID("x"), set(bson.E{Key: "parameters_schema", Value: no})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Templates(t.Context()); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("templates: %v", err)
	}
}

// TestWrongCalls are mistakes of the program: nothing happens.
func TestWrongCalls(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	j := create(t, s)
	other := fireOf(j, "ann")
	other.FireAt = minutes(1)
	ended := skipOf(j)
	ended.Execution.Status = job.Success
	for name, err := range map[string]error{
		"a fire of another time":   s.Do(t.Context(), noon, []store.Op{other})[0].Err,
		"a fire that is over":      s.Do(t.Context(), noon, []store.Op{ended})[0].Err,
		"no operation":             s.Do(t.Context(), noon, []store.Op{nil})[0].Err,
		"a scheduled run by hand":  second(s.RunNow(t.Context(), store.RunNow{Execution: fireOf(j, "").Execution, Now: noon})),
		"an edit that skips a one": third(s.EditJob(t.Context(), store.EditJob{Version: 1, NextRunAt: noon, After: j})),
	} {
		if !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if stands, err := s.Job(t.Context(), j.ID); err != nil || !stands.NextRunAt.Equal(noon) || stands.Version != 1 {
		t.Errorf("%+v %v", stands, err)
	}
}

func second[A, B any](_ A, _ B, err error) error { return err }
func third[A any](_ A, err error) error          { return err }

// TestSeatsOfNewRuns has runs that are born with a seat find it taken.
func TestSeatsOfNewRuns(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	seated := func(f *store.Fire) *store.Fire {
		f.Execution.Seat = 1
		return f
	}
	a, b := create(t, s), create(t, s)
	if x := perform(t.Context(), t, s, seated(fireOf(a, "ann"))); x.Outcome != store.Done {
		t.Fatalf("%+v", x)
	}
	if x := perform(t.Context(), t, s, seated(fireOf(b, "bob"))); x.Outcome != store.Lost || !x.SeatTaken {
		t.Errorf("%+v", x)
	}
	m := manualOf(b)
	m.Seat = 1
	if _, _, err := s.RunNow(t.Context(), store.RunNow{Execution: m, Now: noon}); !errors.Is(err, job.ErrConflict) {
		t.Error(err)
	}
	if stands, err := s.Job(t.Context(), b.ID); err != nil || !stands.NextRunAt.Equal(noon) {
		t.Errorf("%+v %v", stands, err)
	}
	if _, total, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: b.ID, Limit: 1}); err != nil || total != 0 {
		t.Errorf("%d records (%v)", total, err)
	}
}

// TestRunByHandMeets lets the job be deleted, or its slot be taken, before each
// command of a run by hand.
func TestRunByHandMeets(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	a, b := begin(t, uri, h.tune), begin(t, uri, nil)
	for name, rival := range map[string]func(j *job.Job){
		"a deletion": func(j *job.Job) {
			if _, err := b.DeleteJob(t.Context(), j.ID, 0, noon, nil); err != nil {
				t.Error(err)
			}
		},
		"a fire": func(j *job.Job) { perform(t.Context(), t, b, fireOf(j, "bob")) },
	} {
		for before := 0; ; before++ {
			j := create(t, b)
			at := fmt.Sprintf("%s before command %d", name, before)
			e := manualOf(j)
			e.TriggeredByUser = j.ID // whose quota is their own
			acted := false
			h.arm(before, func() { acted = true; rival(j) })
			_, _, err := a.RunNow(t.Context(), store.RunNow{Execution: e, Now: noon, PerHour: 1, Audit: auditOf(e.ID, "execution.run")})
			h.disarm()
			d, readErr := one[execution](t.Context(), b.executions, byID(e.ID))
			q, quotaErr := one[quota](t.Context(), b.quotas, byID(j.ID))
			if readErr != nil || quotaErr != nil {
				t.Fatal(readErr, quotaErr)
			}
			held := (*job.SlotHeldError)(nil)
			switch {
			case err == nil && d == nil:
				t.Errorf("%s: it runs, but is not there", at)
			case err != nil && !errors.Is(err, job.ErrNotFound) && !errors.As(err, &held):
				t.Errorf("%s: %v", at, err)
			case err != nil && d != nil:
				t.Errorf("%s: %v, but it is there", at, err)
			}
			if counted := q != nil && len(q.Runs) > 0; counted != (err == nil) {
				t.Errorf("%s: %v, counted: %v", at, err, counted)
			}
			if d != nil { // and not forgotten, if its job is gone
				if err := b.Mend(t.Context(), minutes(1)); err != nil {
					t.Fatal(err)
				}
				stands, err := b.Job(t.Context(), j.ID)
				if err != nil {
					t.Fatal(err)
				}
				now, err := b.Execution(t.Context(), e.ID)
				if err != nil || stands.Deleted && !now.Status.Ended() {
					t.Errorf("%s: it waits for a job that is gone (%v)", at, err)
				}
			}
			if !acted {
				break
			}
		}
	}
}

// TestEarlyFireLeftBehind has somebody die who fired early.
func TestEarlyFireLeftBehind(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	a, b := begin(t, uri, h.tune), begin(t, uri, nil)
	j := create(t, b, func(j *job.Job) { j.Overlap = job.OverlapAllow })
	early := j.Clone()
	early.NextRunAt = minutes(1)
	f := fireOf(early, "ann")
	ctx, cancel := context.WithCancel(t.Context())
	h.arm(1, cancel)
	a.Do(ctx, noon, []store.Op{f})
	h.disarm()
	if d, err := one[execution](t.Context(), b.executions, byID(f.Execution.ID)); err != nil || d == nil {
		t.Fatalf("%v %v", d, err)
	}
	if held, err := b.Held(t.Context(), nil, nil, 5); err != nil || len(held) != 0 {
		t.Errorf("it is handed out: %v (%v)", held, err)
	}
	if _, err := b.Execution(t.Context(), f.Execution.ID); !errors.Is(err, job.ErrNotFound) {
		t.Error(err)
	}
	if x := perform(t.Context(), t, b, fireOf(early, "bob")); x.Outcome != store.Lost || x.Job == nil {
		t.Errorf("somebody else's: %+v", x)
	}
	if x := perform(t.Context(), t, a, f); x.Outcome != store.Lost || x.Job == nil {
		t.Errorf("its own, again: %+v", x)
	}
	if d, err := one[execution](t.Context(), b.executions, byID(f.Execution.ID)); err != nil || d != nil {
		t.Errorf("it is left: %v %v", d, err)
	}
}
