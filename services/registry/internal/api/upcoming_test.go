package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
)

const previewPath = "/api/admin/schedules/preview"

func (r *rig) upcoming(query string) []any {
	r.t.Helper()
	a := r.as(access.Admin, http.MethodGet, upcomingPath+query, "")
	list, ok := a.body["upcoming"].([]any)
	if a.code != http.StatusOK || !ok {
		r.t.Fatalf("%s: %d %s", query, a.code, a.text)
	}
	return list
}

func TestUpcoming(t *testing.T) {
	r := newRig(t)
	if list := r.upcoming(""); len(list) != 0 {
		t.Errorf("without jobs: %v", list)
	}
	hourly := r.create("hourly", `"template_type": "test_scheduler", "schedule": {"cron": "0 * * * *"}`)
	berlin := r.create("berlin", `"template_type": "test_scheduler", "schedule": {"cron": "30 14 * * *", "timezone": "Europe/Berlin"}`)
	once := r.create("once", `"template_type": "test_scheduler", "schedule": {"type": "once", "run_at": "2026-11-23T12:10:00Z"}`)
	manual := r.create("manual", "")
	off := r.create("off", `"template_type": "test_scheduler", "schedule": {"interval_seconds": 60}, "enabled": false`)
	brief := func(list []any) (out []string) {
		for _, u := range list {
			m, _ := u.(map[string]any)
			out = append(out, fmt.Sprint(m["job_name"], " ", m["local"]))
		}
		return out
	}
	want := []string{"once 2026-11-23T12:10:00Z", "hourly 2026-11-23T13:00:00Z", "berlin 2026-11-23T14:30:00+01:00", "hourly 2026-11-23T14:00:00Z"}
	if got := brief(r.upcoming("?limit=4")); !slices.Equal(got, want) {
		t.Errorf("all: %q, want %q", got, want)
	}
	if got := r.upcoming(""); len(got) != 20 {
		t.Errorf("%d without a limit", len(got))
	}
	wantOne := parse(t, `{"job_id": "`+berlin+`", "job_name": "berlin", "template_type": "test_scheduler", "at": "2026-11-23T13:30:00Z",
		"local": "2026-11-23T14:30:00+01:00", "timezone": "Europe/Berlin", "note": ""}`)
	if got := r.upcoming("?job_id=" + berlin + "&limit=2"); len(got) != 2 || !reflect.DeepEqual(got[0], any(wantOne)) {
		t.Errorf("one job: %v", got)
	}
	if got := brief(r.upcoming("?job_id=" + once)); !slices.Equal(got, want[:1]) {
		t.Errorf("once: %q", got)
	}
	for _, id := range []string{manual, off} {
		if got := r.upcoming("?job_id=" + id); len(got) != 0 {
			t.Errorf("%s: %v", id, got)
		}
	}
	// A late job counts from the time that it is late for, and then from now.
	r.advance(150 * time.Minute)
	if got := brief(r.upcoming("?job_id=" + hourly + "&limit=3")); !slices.Equal(got, []string{"hourly 2026-11-23T13:00:00Z", "hourly 2026-11-23T15:00:00Z", "hourly 2026-11-23T16:00:00Z"}) {
		t.Errorf("late: %q", got)
	}
	r.root(http.StatusOK, http.MethodDelete, jobsPath+"/"+once, "")
	r.root(http.StatusNotFound, http.MethodGet, upcomingPath+"?job_id="+once, "")
	r.root(http.StatusNotFound, http.MethodGet, upcomingPath+"?job_id=job_unknown", "")
	for query, field := range map[string]string{"?limit=0": "limit", "?limit=201": "limit", "?limit=x": "limit", "?page=1": "page"} {
		if a := r.root(http.StatusBadRequest, http.MethodGet, upcomingPath+query, ""); !a.violates(field, "") {
			t.Errorf("%s: %s", query, a.text)
		}
	}
}

// A note tells what the clocks do, as in a preview.
func TestUpcomingNotes(t *testing.T) {
	r := newRig(t)
	r.advance(time.Date(2027, 3, 27, 12, 0, 0, 0, time.UTC).Sub(began))
	r.create("nightly", `"template_type": "test_scheduler", "schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}`)
	got := r.upcoming("?limit=2")
	first, _ := got[0].(map[string]any)
	second, _ := got[1].(map[string]any)
	if first["local"] != "2027-03-28T03:00:00+02:00" || first["note"] == "" || second["note"] != "" {
		t.Errorf("%v", got)
	}
}

// randomSchedules are jobs of all kinds, as they stand at some moment.
func randomSchedules(t *testing.T, rng *rand.Rand, n int, now time.Time) []*job.Job {
	t.Helper()
	var jobs []*job.Job
	for i := range n {
		start := now.Add(time.Duration(rng.IntN(7200)-3600) * time.Second).Truncate(time.Second)
		spec := []schedule.Spec{
			{Type: schedule.Interval, IntervalSeconds: 1 + rng.Int64N(600), Start: &start},
			{Type: schedule.Cron, Expression: fmt.Sprintf("%d * * * *", rng.IntN(60)), Timezone: "Asia/Kolkata"},
			{Type: schedule.Cron, Expression: "*/20 * * * * *"},
			{Type: schedule.Once, RunAt: &start},
			{Type: schedule.Cron, Expression: fmt.Sprintf("%d 12 * * *", rng.IntN(60)), Timezone: "Europe/Berlin"},
		}[rng.IntN(5)]
		j := benchJob(i, spec)
		sched, err := j.Compile()
		if err != nil {
			t.Fatal(err)
		}
		var ok bool
		if j.NextRunAt, ok = sched.Next(now); ok {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b *job.Job) int { return a.NextRunAt.Compare(b.NextRunAt) })
	return jobs
}

// Merging takes the first jobs only, one fire time after another, and finds what
// sorting all fire times of all jobs finds.
func TestMergeFindsTheFirst(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 2))
		now := began.Add(time.Duration(rng.IntN(1<<20)) * time.Second)
		jobs, limit := randomSchedules(t, rng, 1+rng.IntN(40), now), 1+rng.IntN(30)
		var want []string
		for _, j := range jobs {
			sched, err := j.Compile()
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range sched.Upcoming(now, limit) {
				want = append(want, o.At.Format(time.RFC3339)+" "+j.Name)
			}
		}
		slices.Sort(want)
		want = want[:min(len(want), limit)]
		merged, err := merge(jobs[:min(len(jobs), limit)], now, limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range merged {
			got = append(got, m.next.At.Format(time.RFC3339)+" "+m.job.Name)
		}
		// Of those at the very last moment, others may stand for the ones left out.
		at := func(list []string) (times []string) {
			for _, s := range list {
				times = append(times, s[:20])
			}
			return times
		}
		if !slices.Equal(at(got), at(want)) {
			t.Fatalf("seed %d:\n%q\nwant\n%q", seed, got, want)
		}
	}
}

func TestNeighbours(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"g", "c", "e", "a", "f", "d", "b"} {
		r.create(name, `"template_type": "test_scheduler", "schedule": {"cron": "30 13 * * *"}`)
	}
	own := r.create("own", `"template_type": "test_scheduler", "schedule": {"cron": "30 13 * * *"}`)
	r.create("off", `"template_type": "test_scheduler", "schedule": {"cron": "30 13 * * *"}, "enabled": false`)
	r.create("busy", `"template_type": "test_scheduler", "schedule": {"interval_seconds": 1}`)
	r.create("other zone", `"template_type": "test_scheduler", "schedule": {"cron": "30 14 24 11 *", "timezone": "Europe/Berlin"}`)
	preview := func(body string) (out []string) {
		t.Helper()
		list, _ := r.as(access.Admin, http.MethodPost, previewPath, body).body["occurrences"].([]any)
		for _, o := range list {
			m, _ := o.(map[string]any)
			out = append(out, fmt.Sprint(m["neighbour_count"], " ", m["neighbours"]))
		}
		return out
	}
	if got, want := preview(`{"schedule": {"cron": "30 13 * * *"}, "neighbours": true, "job_id": "`+own+`", "count": 2}`), []string{"8 [a b busy c d]", "9 [a b busy c d]"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := preview(`{"schedule": {"cron": "31 13 * * *"}, "neighbours": true, "count": 1}`), []string{"1 [busy]"}; !slices.Equal(got, want) {
		t.Errorf("a minute later: %q, want %q", got, want)
	}
	// Two times in one minute have the same neighbours.
	if got, want := preview(`{"schedule": {"cron": "0,30 30 13 24 11 *"}, "neighbours": true, "count": 2}`), []string{"10 [a b busy c d]", "10 [a b busy c d]"}; !slices.Equal(got, want) {
		t.Errorf("twice a minute: %q, want %q", got, want)
	}
	if got, want := preview(`{"schedule": {"cron": "30 13 * * *"}, "count": 1}`), []string{"0 []"}; !slices.Equal(got, want) {
		t.Errorf("not asked for: %q, want %q", got, want)
	}
	if got := preview(`{"schedule": {"type": "manual"}, "neighbours": true}`); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
	r.root(http.StatusNotFound, http.MethodPost, previewPath, `{"schedule": {"cron": "30 13 * * *"}, "job_id": "job_unknown"}`)
}

// A preview for a job that is there counts its intervals from its creation, as the
// edit will.
func TestPreviewOfAJob(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"interval_seconds": 60}`)
	r.advance(10*time.Minute + 7*time.Second)
	const asked = `{"schedule": {"interval_seconds": 3600}, "count": 1, "job_id": %q}`
	for body, want := range map[string]string{fmt.Sprintf(asked, id): "2026-11-23T13:00:00Z", fmt.Sprintf(asked, ""): "2026-11-23T13:10:07Z"} {
		list := r.root(http.StatusOK, http.MethodPost, previewPath, body).body["occurrences"].([]any)
		if got := list[0].(map[string]any)["at"]; got != want {
			t.Errorf("%s: %v, want %s", body, got, want)
		}
	}
	got := r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+id, `{"schedule": {"interval_seconds": 3600}}`).job(t)["next_run_at"]
	if got != "2026-11-23T13:00:00Z" {
		t.Errorf("the edit gives %v", got)
	}
}

// Arithmetic finds the neighbours that listing every fire time finds.
func TestNeighboursByEnumeration(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		jobs := randomSchedules(t, rng, 30, began)
		mine, err := schedule.Compile(schedule.Spec{Type: schedule.Interval, IntervalSeconds: 1 + rng.Int64N(900)}, began)
		if err != nil {
			t.Fatal(err)
		}
		occurrences := mine.Upcoming(began, 20)
		near, err := neighboursOf(t.Context(), occurrences, jobs)
		if err != nil {
			t.Fatal(err)
		}
		last := occurrences[len(occurrences)-1].At.Add(time.Minute)
		want := map[time.Time]map[string]bool{}
		for _, j := range jobs {
			sched, err := j.Compile()
			if err != nil {
				t.Fatal(err)
			}
			for at, ok := sched.Next(began.Add(-time.Second)); ok && at.Before(last); at, ok = sched.Next(at) {
				minute := at.Truncate(time.Minute)
				if want[minute] == nil {
					want[minute] = map[string]bool{}
				}
				want[minute][j.Name] = true
			}
		}
		for minute, n := range near {
			if n.count != len(want[minute]) || len(n.names) != min(n.count, neighbourNames) || !slices.IsSorted(n.names) {
				t.Errorf("seed %d, %v: %+v, want %v", seed, minute, n, want[minute])
			}
			for _, name := range n.names {
				if !want[minute][name] {
					t.Errorf("seed %d, %v: %s is no neighbour", seed, minute, name)
				}
			}
		}
	}
}

// Who no longer waits is not worked for.
func TestNeighboursEndWithTheRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	occurrences := []schedule.Occurrence{{At: began}}
	if _, err := neighboursOf(ctx, occurrences, []*job.Job{benchJob(1, schedule.Spec{Type: schedule.Manual})}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := neighboursOf(t.Context(), occurrences, []*job.Job{benchJob(1, schedule.Spec{})}); err == nil {
		t.Error("a schedule that does not compile is passed over")
	}
	if _, err := merge([]*job.Job{benchJob(1, schedule.Spec{})}, began, 1); err == nil {
		t.Error("a schedule that does not compile is passed over")
	}
}

// BenchmarkPreviewNeighbours previews ten times among many other jobs, in the
// store and in several zones.
func BenchmarkPreviewNeighbours(b *testing.B) {
	for _, jobs := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(jobs), func(b *testing.B) {
			s, err := sqlitestore.Open(b.Context(), filepath.Join(b.TempDir(), "data"), sqlitestore.Options{Log: zap.NewNop()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"}
			for i := range jobs {
				j := benchJob(i, schedule.Spec{Type: schedule.Cron, Expression: fmt.Sprintf("%d */%d * * *", i%60, 1+i%6), Timezone: zones[i%len(zones)]})
				if i%4 == 0 {
					j = benchJob(i, schedule.Spec{Type: schedule.Interval, IntervalSeconds: int64(30 + i)})
				}
				if j.NextRunAt, err = next(j, began); err != nil {
					b.Fatal(err)
				}
				if _, _, err := s.CreateJob(b.Context(), store.CreateJob{Job: j}); err != nil {
					b.Fatal(err)
				}
			}
			service := &jobService{rooms: &rooms{Config: Config{Store: s, Now: func() time.Time { return began }}}}
			req := &almanacv1.PreviewScheduleRequest{
				Schedule: &almanacv1.Schedule{Cron: proto.String("0 2 * * *"), Timezone: proto.String("Europe/Berlin")}, Neighbours: true,
			}
			defer reportCPU(b)()
			for b.Loop() {
				got, err := service.PreviewSchedule(b.Context(), req)
				if err != nil || len(got.Occurrences) != 10 || got.Occurrences[0].NeighbourCount == 0 {
					b.Fatal(got, err)
				}
			}
		})
	}
}
