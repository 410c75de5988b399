package dispatch

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func everyTenSeconds(missed string) *job.Job {
	return &job.Job{
		ID: "job_a", Name: "a", TemplateType: idempotentType, Parameters: json.RawMessage(`{"x":1}`), Version: 7,
		Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 10}, Enabled: true, CreatedAt: noon.Add(-time.Hour),
		Missed: missed, Overlap: job.OverlapForbid, NextRunAt: noon, Timeout: time.Minute,
	}
}

func TestDecideFire(t *testing.T) {
	for _, c := range []struct {
		name        string
		missed      string
		late        time.Duration
		status      job.Status
		from, until time.Duration // relative to noon, of a skip
		count       int64
		next        time.Duration
	}{
		{"on time", job.MissedRunOnce, 0, job.Pending, 0, 0, 0, 10 * time.Second},
		{"a minute late is not missed", job.MissedSkip, time.Minute, job.Pending, 0, 0, 0, 10 * time.Second},
		{"run_once covers all but the latest", job.MissedRunOnce, 61 * time.Second, job.Skipped, 0, 50 * time.Second, 6, 60 * time.Second},
		{"run_once after an hour", job.MissedRunOnce, time.Hour, job.Skipped, 0, 59*time.Minute + 50*time.Second, 360, time.Hour},
		{"skip covers what is missed", job.MissedSkip, 61 * time.Second, job.Skipped, 0, 0, 1, 10 * time.Second},
		{"skip spares the last minute", job.MissedSkip, 125 * time.Second, job.Skipped, 0, 60 * time.Second, 7, 70 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := everyTenSeconds(c.missed)
			sched, err := j.Compile()
			if err != nil {
				t.Fatal(err)
			}
			now := noon.Add(c.late)
			f := simPolicy.decideFire(j, sched, now)
			e := f.Execution
			if f.Version != 7 || !f.FireAt.Equal(noon) || !f.Next.Equal(noon.Add(c.next)) {
				t.Errorf("fires version %d at %v, next %v", f.Version, f.FireAt, f.Next)
			}
			if e.Status != c.status || e.ID != "exec_a_s_20260302T120000Z" || !e.ScheduledFor.Equal(noon) {
				t.Errorf("records %s as %s for %v", e.ID, e.Status, e.ScheduledFor)
			}
			if !e.Frozen.Idempotent || string(e.Frozen.Parameters) != `{"x":1}` || e.JobVersion != 7 {
				t.Errorf("froze %+v of version %d", e.Frozen, e.JobVersion)
			}
			if c.status == job.Pending {
				if !e.Exclusive || !e.WakeAt.Equal(noon) || e.MissedCount != 0 {
					t.Errorf("pending record is %+v", e)
				}
				return
			}
			if e.Exclusive || !e.WakeAt.IsZero() || !e.CompletedAt.Equal(now) || !strings.HasPrefix(e.Reason, job.ReasonMissed+": ") {
				t.Errorf("skip record is %+v", e)
			}
			if !e.MissedFrom.Equal(noon.Add(c.from)) || !e.MissedUntil.Equal(noon.Add(c.until)) || e.MissedCount != c.count {
				t.Errorf("skips %v to %v, %d times", e.MissedFrom, e.MissedUntil, e.MissedCount)
			}
		})
	}
}

// A single missed time runs under run_once, however late it is.
func TestDecideFireRunsTheOnlyMissedTime(t *testing.T) {
	j := everyTenSeconds(job.MissedRunOnce)
	j.Schedule = schedule.Spec{Type: schedule.Once, RunAt: &noon}
	sched, err := j.Compile()
	if err != nil {
		t.Fatal(err)
	}
	f := simPolicy.decideFire(j, sched, noon.Add(100*time.Hour))
	if f.Execution.Status != job.Pending || !f.Next.IsZero() {
		t.Errorf("records %s, next %v", f.Execution.Status, f.Next)
	}
	j.Missed = job.MissedSkip
	f = simPolicy.decideFire(j, sched, noon.Add(100*time.Hour))
	if e := f.Execution; e.Status != job.Skipped || e.MissedCount != 1 || !f.Next.IsZero() {
		t.Errorf("records %s of %d, next %v", e.Status, e.MissedCount, f.Next)
	}
}

// However often and however late the loop decides, each time is covered by
// exactly one record.
func TestDecideFireCoversEachTimeOnce(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		j := everyTenSeconds(pick(rng, job.MissedRunOnce, job.MissedSkip))
		j.Schedule = pick(rng,
			schedule.Spec{Type: schedule.Interval, IntervalSeconds: int64(1 + rng.IntN(100))},
			schedule.Spec{Type: schedule.Cron, Expression: "*/7 * * * * *", Timezone: "UTC"},
			schedule.Spec{Type: schedule.Cron, Expression: "3,30 */2 * * *", Timezone: "America/New_York"},
		)
		sched, err := j.Compile()
		if err != nil {
			t.Fatal(err)
		}
		first, _ := sched.Next(noon)
		j.NextRunAt = first
		covered := map[int64]int{}
		now := first
		for range 40 {
			now = now.Add(time.Duration(rng.IntN(pick(rng, 5, 100, 20_000))) * time.Second)
			for !j.NextRunAt.After(now) {
				f := simPolicy.decideFire(j, sched, now)
				from, until := f.FireAt, f.FireAt
				if e := f.Execution; e.MissedCount > 0 {
					from, until = e.MissedFrom, e.MissedUntil
				}
				n := int64(0)
				for at, _ := sched.Next(from.Add(-time.Second)); !at.After(until); at, _ = sched.Next(at) {
					covered[at.Unix()]++
					n++
				}
				if e := f.Execution; e.MissedCount > 0 && n != e.MissedCount {
					t.Fatalf("seed %d: a skip of %d times says %d", seed, n, e.MissedCount)
				}
				j.NextRunAt = f.Next
			}
		}
		for at := first; !at.After(now); at, _ = sched.Next(at) {
			if covered[at.Unix()] != 1 {
				t.Fatalf("seed %d: %v is covered %d times", seed, at, covered[at.Unix()])
			}
			delete(covered, at.Unix())
		}
		if len(covered) > 0 {
			t.Fatalf("seed %d: records for times that were not due: %v", seed, covered)
		}
	}
}

func TestAgendaPopsInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a agenda
	live := 0
	for range 5000 {
		it := &item{}
		a.push(entry{at: int64(rng.IntN(1000)), item: it})
		live++
		if rng.IntN(4) == 0 {
			it.gen++ // deleted
			live--
		}
	}
	last := int64(-1)
	for {
		e, ok := a.next()
		if !ok {
			break
		}
		a.pop()
		if e.at < last {
			t.Fatalf("%d after %d", e.at, last)
		}
		last = e.at
		live--
	}
	if live != 0 {
		t.Errorf("%d entries lost", live)
	}
}
