package move_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/mongostore"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

// openMongoDB opens a database.
func openMongoDB(t *testing.T, uri string) *mongostore.Store {
	t.Helper()
	s, err := mongostore.Open(t.Context(), mongostore.Options{URI: uri, AllowStandalone: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// From SQLite to MongoDB, to another one and back, and on from each.
func TestMovesBetweenDatabases(t *testing.T) {
	server, isReal := standintest.URI(t)
	database := func(t *testing.T, name string) *mongostore.Store {
		t.Helper()
		return openMongoDB(t, standintest.Database(t, server, isReal, name))
	}
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			first, back := open(t), open(t)
			there, too := database(t, fmt.Sprint("there", seed)), database(t, fmt.Sprint("too", seed))
			filled := storetest.Fill(t, first, seed, 80)
			copied, all := mustRun(t, first, there)
			if copied != all {
				t.Errorf("copied %d of %d to an empty store", copied, all)
			}
			if again, _ := mustRun(t, first, there); again != 0 {
				t.Errorf("copied %d the second time", again)
			}
			mustRun(t, there, too)
			mustRun(t, too, back)
			filled.In(t, there, first)
			filled.In(t, back, first)
			if seed == 0 {
				filled.GoOn(t, there, 20)
			} else {
				filled.GoOn(t, back, 20)
			}
		})
	}
}

// However often the server fails, in the end all is there, once.
func TestMovesThroughFailures(t *testing.T) {
	server := standintest.Start(t)
	from := open(t)
	filled := storetest.Fill(t, from, 3, 60)
	for _, action := range []standintest.Action{standintest.CutBefore, standintest.CutAfter} {
		t.Run(string(action), func(t *testing.T) {
			to := openMongoDB(t, server.URI+string(action))
			tries := 0
			for n := 0; ; n++ { // the n-th insert of each try fails
				fault := server.Inject(t, standintest.Fault{Command: "insert", Action: action, Skip: n, Count: 1})
				_, err := run(t, from, to)
				fired := fault.Fired(t)
				fault.Remove(t)
				if fired == 0 && err != nil {
					t.Fatal(err)
				}
				if err == nil {
					break
				}
				tries++
			}
			if tries < 3 {
				t.Errorf("only %d tries failed", tries)
			}
			filled.In(t, to, from)
		})
	}
}

// What a registry had begun when it died is finished and moves along.
func TestHalfDoneWorkIsFinished(t *testing.T) {
	server := standintest.Start(t)
	from, to, filler := openMongoDB(t, server.URI+"from"), open(t), open(t)
	storetest.Fill(t, filler, 1, 100)
	mustRun(t, filler, from)
	j := &job.Job{
		ID: "job_halfdone", Name: "half done", TemplateType: "noop", Parameters: json.RawMessage(`{}`),
		Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 60}, Enabled: true, Timeout: time.Minute, Organisation: job.DefaultOrganisation,
		Missed: job.MissedSkip, Overlap: job.OverlapAllow, CreatedBy: "ann", CreatedAt: now, UpdatedAt: now, NextRunAt: now.Add(time.Minute), Version: 1,
	}
	if _, _, err := from.CreateJob(t.Context(), store.CreateJob{Job: j}); err != nil {
		t.Fatal(err)
	}

	// A fire that was recorded, but whose job could not be advanced.
	e := &job.Execution{
		JobID: j.ID, JobVersion: j.Version, Trigger: job.TriggerScheduler, Key: job.FireKey(j.NextRunAt), ScheduledFor: j.NextRunAt, CreatedAt: j.NextRunAt,
		Frozen: j.Freeze(true), Status: job.Pending, WakeAt: j.NextRunAt,
	}
	e.ID = job.ExecutionID(e.JobID, e.Trigger, e.Key)
	next := j.NextRunAt.Add(time.Minute)
	cut := server.Inject(t, standintest.Fault{Command: "update", Collection: "dynamic_jobs", Action: standintest.CutBefore})
	answer := from.Do(t.Context(), now, []store.Op{&store.Fire{Execution: e, Version: j.Version, FireAt: j.NextRunAt, Next: next}})[0]
	if answer.Outcome != store.Unknown {
		t.Fatalf("%+v", answer)
	}
	// A job that was not admitted yet, under a limit.
	c := *j.Clone()
	c.ID, c.Name = "job_provisional", "provisional"
	if _, _, err := from.CreateJob(t.Context(), store.CreateJob{Job: &c, Limit: 100}); err == nil {
		t.Fatal("it was created")
	}
	cut.Remove(t)
	// A job that was deleted, but whose waiting run could not be cancelled.
	gone := *j.Clone()
	gone.ID, gone.Name = "job_gone", "gone"
	if _, _, err := from.CreateJob(t.Context(), store.CreateJob{Job: &gone}); err != nil {
		t.Fatal(err)
	}
	waiting := *e
	waiting.JobID, waiting.Trigger, waiting.Key = gone.ID, job.TriggerManual, "k"
	waiting.ID = job.ExecutionID(waiting.JobID, waiting.Trigger, waiting.Key)
	if _, _, err := from.RunNow(t.Context(), store.RunNow{Execution: &waiting, Now: now}); err != nil {
		t.Fatal(err)
	}
	cut = server.Inject(t, standintest.Fault{Command: "update", Collection: "job_executions", Action: standintest.CutBefore})
	if _, err := from.DeleteJob(t.Context(), gone.ID, 0, now, nil); err != nil {
		t.Fatal(err)
	}
	if cut.Fired(t) == 0 {
		t.Fatal("the waiting run was cancelled at once")
	}
	cut.Remove(t)
	// An audit that was not copied out.
	cut = server.Inject(t, standintest.Fault{Command: "insert", Collection: "job_audit_log", Action: standintest.CutBefore})
	if err := from.AddUser(t.Context(), store.User{Name: "late", Role: "admin", CreatedAt: now}, &store.Audit{At: now, User: "ann", Action: "user.create", Object: "late"}); err != nil {
		t.Fatal(err)
	}
	if cut.Fired(t) == 0 {
		t.Fatal("the audit was copied out at once")
	}
	cut.Remove(t)

	mustRun(t, from, to)
	if stands, err := to.Execution(t.Context(), e.ID); err != nil || stands.Status != job.Pending {
		t.Errorf("the run: %+v, %v", stands, err)
	}
	if stands, err := to.Execution(t.Context(), waiting.ID); err != nil || stands.Status != job.Cancelled {
		t.Errorf("the run of the deleted job: %+v, %v", stands, err)
	}
	if stands, err := to.Job(t.Context(), j.ID); err != nil || !stands.NextRunAt.Equal(next) {
		t.Errorf("its job: %+v, %v; want next %v", stands, err, next)
	}
	if stands, err := to.Job(t.Context(), c.ID); err == nil {
		t.Errorf("a job that nobody was told of is there: %+v", stands)
	}
	if _, n, err := to.Audits(t.Context(), store.AuditFilter{Object: "late", Limit: 1}); err != nil || n != 1 {
		t.Errorf("%d audits, %v; want 1", n, err)
	}
}

// Who wants no more of an export may leave it; what is not known is an error.
func TestExportEndsWhereItIsTold(t *testing.T) {
	server := standintest.Start(t)
	filler, s := open(t), openMongoDB(t, server.URI+"app")
	storetest.Fill(t, filler, 1, 60)
	mustRun(t, filler, s)
	for _, side := range []move.Store{filler, s} {
		for _, kind := range move.Kinds {
			n := 0
			for _, err := range side.Export(t.Context(), kind) {
				if err != nil {
					t.Error(err)
				}
				n++
				break
			}
			if n != 1 {
				t.Errorf("%T: %d %s", side, n, kind)
			}
		}
		for r, err := range side.Export(t.Context(), "surprises") {
			if err == nil {
				t.Errorf("%T: a record %v of a kind that is not known", side, r)
			}
		}
		if _, err := side.Import(t.Context(), []move.Record{surprise{}}); err == nil {
			t.Errorf("%T: imported a record of a type that is not known", side)
		}
	}
}

type surprise struct{}

func (surprise) Key() string { return "?" }
