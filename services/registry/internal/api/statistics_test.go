package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
)

const (
	overviewPath   = "/api/admin/overview"
	statisticsPath = "/api/admin/statistics"
	upcomingPath   = "/api/admin/upcoming"
)

// past is a run that ended some time, after so long.
func past(jobID string, number int, end job.Status, at time.Time, took time.Duration) move.Record {
	key := job.FireKey(time.Unix(int64(number), 0))
	e := job.Execution{
		ID: job.ExecutionID(jobID, job.TriggerScheduler, key), JobID: jobID, JobVersion: 1, Trigger: job.TriggerScheduler, Key: key,
		ScheduledFor: time.Unix(int64(number), 0).UTC(), CreatedAt: at, Frozen: job.Frozen{JobName: "a job", TemplateType: "test_scheduler", Organisation: "default", Zone: "UTC"},
		Status: end, CompletedAt: at,
	}
	if end != job.Skipped && end != job.Cancelled {
		e.StartedAt = at.Add(-took)
	}
	return move.Execution{Execution: e}
}

// keep puts records into the store and counts them, as the registry does now and
// then.
func (r *rig) keep(records ...move.Record) {
	r.t.Helper()
	if n, err := r.store.Import(r.t.Context(), records); err != nil || n != len(records) {
		r.t.Fatalf("kept %d of %d: %v", n, len(records), err)
	}
	r.count()
}

func (r *rig) count() {
	r.t.Helper()
	for more := true; more; {
		var err error
		if more, err = r.store.RollUp(r.t.Context(), r.Now()); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestOverview(t *testing.T) {
	r := newRig(t)
	want := parse(t, `{"at": "2026-11-23T12:00:00Z", "jobs": 0, "enabled_jobs": 0, "running": 0, "waiting": 0, "backlog": 0, "backlog_since": null,
		"workers": 0, "slots": 0, "slots_used": 0, "workers_draining": 0}`)
	expect := func(change string) {
		t.Helper()
		for key, value := range parse(t, change) {
			want[key] = value
		}
		if a := r.as(access.Admin, http.MethodGet, overviewPath, ""); !reflect.DeepEqual(a.body, want) {
			t.Errorf("%s\nwant %v", a.text, want)
		}
	}
	expect(`{}`)
	r.create("on request", "")
	id := r.create("off", `"template_type": "test_scheduler", "schedule": {"interval_seconds": 60}, "enabled": false, "overlap_policy": "allow"`)
	first := r.run(id)
	r.run(id)
	expect(`{"jobs": 2, "enabled_jobs": 1, "waiting": 2, "backlog": 2, "backlog_since": "2026-11-23T12:00:00Z"}`)
	r.start(first) // which connects an executor
	for _, s := range []store.Session{{ID: "w1", Host: "a", Slots: 4}, {ID: "w2", Host: "b", Slots: 8}, {ID: "w3", Host: "c", Slots: 2}} {
		r.connect(s)
	}
	r.beat(store.Beat{Session: "w1", Count: 1, Running: 3})
	r.beat(store.Beat{Session: "w2", Count: 1, Running: 1, Stopping: true})
	r.root(http.StatusOK, http.MethodPost, workersPath+"/w3/drain", "")
	expect(`{"running": 1, "waiting": 1, "backlog": 1, "workers": 4, "slots": 14, "slots_used": 4, "workers_draining": 2}`)
}

func TestStatistics(t *testing.T) {
	r := newRig(t)
	id, other := r.create("a job", ""), r.create("another", "")
	r.keep(
		past(id, 1, job.Success, began.Add(-3*time.Hour), 10*time.Second),
		past(id, 2, job.Success, began.Add(-3*time.Hour+time.Minute), 20*time.Second),
		past(id, 3, job.Failed, began.Add(-2*time.Hour-time.Millisecond), 90*time.Second),
		past(id, 4, job.Skipped, began.Add(-time.Hour), 0),
		past(id, 5, job.Cancelled, began.Add(-time.Hour), 0),
		past(id, 6, job.TimedOut, began.Add(-30*24*time.Hour), 4*time.Second),
		past(other, 1, job.Unknown, began.Add(-time.Hour), 6*time.Second),
	)
	const none = `{"success": 0, "failed": 0, "timed_out": 0, "cancelled": 0, "skipped": 0, "unknown": 0}`
	step := func(from, counts string, mean, longest float64) map[string]any {
		c := parse(t, none)
		for key, value := range parse(t, counts) {
			c[key] = value
		}
		return map[string]any{"from": from, "counts": c, "mean_seconds": mean, "longest_seconds": longest}
	}
	a := r.as(access.Admin, http.MethodGet, statisticsPath+"?job_id="+id+"&from=2026-11-23T09:07:00Z&until=2026-11-23T11:30:00Z", "")
	want := parse(t, `{"from": "2026-11-23T09:00:00Z", "until": "2026-11-23T11:30:00Z", "step_seconds": 3600, "success_rate": 0.6666666666666666, "mean_seconds": 40, "longest_seconds": 90,
		"totals": {"success": 2, "failed": 1, "timed_out": 0, "cancelled": 1, "skipped": 1, "unknown": 0}}`)
	want["steps"] = []any{
		step("2026-11-23T09:00:00Z", `{"success": 2, "failed": 1}`, 40, 90),
		step("2026-11-23T10:00:00Z", `{}`, 0, 0),
		step("2026-11-23T11:00:00Z", `{"cancelled": 1, "skipped": 1}`, 0, 0),
	}
	if !reflect.DeepEqual(a.body, want) {
		t.Errorf("%s\nwant %v", a.text, want)
	}
	// Of all jobs, within a day and within a month.
	a = r.root(http.StatusOK, http.MethodGet, statisticsPath, "")
	if steps := a.body["steps"].([]any); len(steps) != 24 || a.body["from"] != "2026-11-22T12:00:00Z" || a.body["until"] != "2026-11-23T12:00:00Z" || a.body["success_rate"] != 0.5 {
		t.Errorf("%d steps from %v to %v, success rate %v", len(steps), a.body["from"], a.body["until"], a.body["success_rate"])
	}
	a = r.root(http.StatusOK, http.MethodGet, statisticsPath+"?from=2026-10-24T12:00:00Z&step_seconds=86400", "")
	if steps := a.body["steps"].([]any); len(steps) != 30 || a.body["totals"].(map[string]any)["timed_out"] != 1.0 || a.body["longest_seconds"] != 90.0 {
		t.Errorf("%s", a.text)
	}
	// Without any run, there is no rate. A deleted job keeps its own.
	r.root(http.StatusOK, http.MethodDelete, jobsPath+"/"+other, "")
	if a := r.root(http.StatusOK, http.MethodGet, statisticsPath+"?job_id="+other, ""); a.body["success_rate"] != 0.0 {
		t.Errorf("of a deleted job: %s", a.text)
	}
	if a := r.root(http.StatusOK, http.MethodGet, statisticsPath+"?from=2026-11-01T00:00:00Z&until=2026-11-02T00:00:00Z", ""); a.body["success_rate"] != nil {
		t.Errorf("without a run: %s", a.text)
	}
	r.root(http.StatusNotFound, http.MethodGet, statisticsPath+"?job_id=job_unknown", "")
	for query, field := range map[string]string{
		"from=yesterday": "from",
		"from=2026-11-23T13:00:00%2B01:00&until=tomorrow":      "until",
		"from=2026-11-23T13:00:00+01:00":                       "from", // a space
		"from=2026-11-23T12:00:00Z":                            "until",
		"from=2020-01-01T00:00:00Z":                            "from",
		"from=1969-12-31T00:00:00Z&until=1970-01-01T00:00:00Z": "from",
		"step_seconds=899":                                     "step_seconds",
		"step_seconds=1000":                                    "step_seconds",
		"step_seconds=900&from=2026-10-24T12:00:00Z":           "step_seconds",
		"step_seconds=a":                                       "step_seconds",
		"jobs=all":                                             "jobs",
	} {
		if a := r.root(http.StatusBadRequest, http.MethodGet, statisticsPath+"?"+query, ""); !a.violates(field, "") {
			t.Errorf("%s: %s", query, a.text)
		}
	}
}

func TestStatisticsOverGRPC(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	r.keep(past(id, 1, job.Success, began.Add(-time.Minute), time.Second))
	c := almanacv1.NewStatisticsServiceClient(r.dial(r.tokens[access.Admin]))
	got, err := c.GetStatistics(t.Context(), &almanacv1.GetStatisticsRequest{JobId: id})
	if err != nil || got.GetSuccessRate() != 1 || len(got.Steps) != 24 || got.Totals.Success != 1 {
		t.Errorf("%v, %v", got, err)
	}
	for field, req := range map[string]*almanacv1.GetStatisticsRequest{
		"from": {From: badTime()}, "until": {Until: badTime()}, "step_seconds": {StepSeconds: proto.Int32(901)},
	} {
		if _, err := c.GetStatistics(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("bad %s: %v", field, err)
		}
	}
	if o, err := c.GetOverview(t.Context(), &almanacv1.GetOverviewRequest{}); err != nil || o.Jobs != 1 {
		t.Errorf("%v, %v", o, err)
	}
	if u, err := c.ListUpcoming(t.Context(), &almanacv1.ListUpcomingRequest{}); err != nil || len(u.Upcoming) != 0 {
		t.Errorf("%v, %v", u, err)
	}
}

// Whatever the span and the roll-ups, the steps lie in it without a gap, and add
// up to the whole.
func TestStepsAddUp(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		until := began.Add(time.Duration(rng.Int64N(int64(100 * time.Hour))))
		length := time.Duration(1 + rng.Int64N(int64(20*24*time.Hour)))
		sp, err := spanOf(&almanacv1.GetStatisticsRequest{
			From: timestamppb.New(until.Add(-length)), Until: timestamppb.New(until), StepSeconds: proto.Int32(900 * (1 + rng.Int32N(100))),
		}, began)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if n := sp.steps(); sp.from.Add(time.Duration(n)*sp.step).Before(until) || !sp.from.Add(time.Duration(n-1)*sp.step).Before(until) {
			t.Fatalf("seed %d: %d steps of %v from %v to %v", seed, n, sp.step, sp.from, until)
		}
		var rollups []store.RollUp
		for at := sp.from; at.Before(until); at = at.Add(store.RollUpStep) {
			if rng.IntN(3) > 0 {
				rollups = append(rollups, store.RollUp{
					From: at, Counts: map[job.Status]int{job.Success: rng.IntN(5), job.Failed: rng.IntN(2)}, Timed: rng.IntN(7),
					Total: time.Duration(rng.Int64N(int64(time.Hour))), Longest: time.Duration(rng.Int64N(int64(time.Hour))),
				})
			}
		}
		steps, all := sp.fold(rollups)
		var sum tally
		for _, s := range steps {
			sum.add(store.RollUp{Counts: s.counts, Timed: s.timed, Total: s.total, Longest: s.longest})
		}
		if !proto.Equal(sum.message(), all.message()) || sum.mean() != all.mean() || sum.longest != all.longest {
			t.Fatalf("seed %d: the steps give %+v, all together %+v", seed, sum, all)
		}
	}
}

// BenchmarkStatistics asks for 30 days by the hour, of one job and of all, after a
// million runs of 100 jobs.
func BenchmarkStatistics(b *testing.B) {
	const jobs, runs, days = 100, 1_000_000, 30
	s, err := sqlitestore.Open(b.Context(), filepath.Join(b.TempDir(), "data"), sqlitestore.Options{Log: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	for i := range jobs {
		if _, _, err := s.CreateJob(b.Context(), store.CreateJob{Job: benchJob(i, schedule.Spec{Type: schedule.Manual})}); err != nil {
			b.Fatal(err)
		}
	}
	ends := []job.Status{job.Success, job.Success, job.Success, job.Success, job.Success, job.Success, job.Success, job.Failed, job.TimedOut, job.Skipped}
	records := make([]move.Record, 0, 2000)
	for i := range runs {
		at := began.Add(-time.Duration(i) * (days * 24 * time.Hour / runs))
		records = append(records, past(fmt.Sprintf("job_%03d", i%jobs), i, ends[i%len(ends)], at, time.Duration(i%5000)*time.Millisecond))
		if len(records) == cap(records) {
			if _, err := s.Import(b.Context(), records); err != nil {
				b.Fatal(err)
			}
			records = records[:0]
		}
	}
	for more := true; more; {
		if more, err = s.RollUp(b.Context(), began); err != nil {
			b.Fatal(err)
		}
	}
	service := &statisticsService{rooms: &rooms{Config: Config{Store: s, Now: func() time.Time { return began }}}}
	for name, id := range map[string]string{"one job": "job_042", "all jobs": ""} {
		b.Run(name, func(b *testing.B) {
			defer reportCPU(b)()
			for b.Loop() {
				got, err := service.GetStatistics(b.Context(), &almanacv1.GetStatisticsRequest{JobId: id, From: timestamppb.New(began.Add(-days * 24 * time.Hour))})
				if err != nil || len(got.Steps) != days*24 || id == "" && got.Totals.Success < runs/2 {
					b.Fatal(len(got.GetSteps()), got.GetTotals(), err)
				}
			}
		})
	}
}

// reportCPU tells, once its answer is called, what an operation cost this process:
// on a busy machine that says more than the time it took.
func reportCPU(b *testing.B) (done func()) {
	b.Helper()
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := spent()
	return func() { b.ReportMetric(float64((spent()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op") }
}

func benchJob(i int, spec schedule.Spec) *job.Job {
	return &job.Job{
		ID: fmt.Sprintf("job_%03d", i), Name: fmt.Sprintf("job %03d", i), TemplateType: "test_scheduler", Parameters: []byte(`{}`), Schedule: spec,
		Enabled: true, Timeout: time.Hour, Missed: job.MissedRunOnce, Overlap: job.OverlapForbid, Organisation: job.DefaultOrganisation,
		CreatedAt: began, UpdatedAt: began, Version: 1,
	}
}

// mute is a store that answers nothing about all jobs together.
type mute struct{ Store }

func (mute) Recent(context.Context, []string, int) (map[string][]*job.Execution, error) {
	return nil, errOutage
}

func (mute) Live(context.Context, int, int) ([]*job.Execution, int, error) { return nil, 0, errOutage }

func (mute) Failures(context.Context, time.Time, int, int) ([]*job.Execution, int, error) {
	return nil, 0, errOutage
}

func (mute) Pulse(context.Context, time.Time) (store.Pulse, error) { return store.Pulse{}, errOutage }

func (mute) Statistics(context.Context, string, time.Time, time.Time) ([]store.RollUp, error) {
	return nil, errOutage
}

func (mute) DueJobs(context.Context, *job.Share, time.Time, *job.Job, int) ([]*job.Job, error) {
	return nil, errOutage
}

func TestInsightOutage(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Store = mute{c.Store} })
	r.create("a job", "")
	const neighbours = `{"schedule": {"cron": "* * * * *"}, "neighbours": true}`
	for _, c := range []struct{ method, path, body string }{
		{http.MethodGet, overviewPath, ""},
		{http.MethodGet, statisticsPath, ""},
		{http.MethodGet, upcomingPath, ""},
		{http.MethodGet, executionsPath, ""},
		{http.MethodGet, executionsPath + "?state=failed", ""},
		{http.MethodGet, jobsPath + "?runs=3", ""},
		{http.MethodPost, previewPath, neighbours},
	} {
		if a := r.as(access.Admin, c.method, c.path, c.body); a.code != http.StatusServiceUnavailable || a.reason() != "UNAVAILABLE" {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.code, a.text)
		}
	}
	r.root(http.StatusOK, http.MethodGet, jobsPath, "") // without runs
}
