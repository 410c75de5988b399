package sqlitestore

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var benchStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func benchStore(b *testing.B) *Store {
	s, err := Open(b.Context(), b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// benchJobs creates jobs that are due every minute from benchStart on.
func benchJobs(b *testing.B, s *Store, n int) []*job.Job {
	jobs := make([]*job.Job, n)
	if err := s.write(b.Context(), func(w *writer) error {
		w.defining = true
		for i := range jobs {
			j := &job.Job{
				ID: fmt.Sprintf("job_bench%011d", i), Name: fmt.Sprintf("bench %d", i), TemplateType: "noop",
				Parameters: json.RawMessage(`{"message":"hello"}`), Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 60},
				Enabled: true, Timeout: time.Hour, Organisation: job.DefaultOrganisation, Missed: job.MissedRunOnce, Overlap: job.OverlapForbid,
				CreatedBy: "bench", CreatedAt: benchStart.Add(-time.Minute), UpdatedAt: benchStart, NextRunAt: benchStart, Version: 1,
			}
			text, err := encodeDefinition(j)
			if err != nil {
				return err
			}
			if _, err := w.exec(`INSERT INTO jobs (id, name, template, enabled, created_at, fingerprint) VALUES (?, ?, ?, 1, ?, '')`,
				args{j.ID, j.Name, j.TemplateType, j.CreatedAt}); err != nil {
				return err
			}
			key := w.LastInsertRowID()
			if _, err := w.exec(`INSERT INTO job_state (job, version, next_run_at) VALUES (?, 1, ?)`, args{key, j.NextRunAt}); err != nil {
				return err
			}
			if err := w.keepVersion(key, 1, text); err != nil {
				return err
			}
			jobs[i] = j
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	due, err := s.DueJobs(b.Context(), benchStart, nil, n) // as dispatch does
	if err != nil || len(due) != n {
		b.Fatal(len(due), err)
	}
	return jobs
}

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkFireAndFinish fires with a lease and finishes, one execution per
// iteration, in batches.
func BenchmarkFireAndFinish(b *testing.B) {
	for _, batch := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			s := benchStore(b)
			jobs := benchJobs(b, s, 10_000)
			frozen := jobs[0].Freeze(true)
			outcome := job.Outcome{Status: job.Success, Result: json.RawMessage(`{"message":"ok"}`)}
			at := make([]time.Time, len(jobs))
			for i := range at {
				at[i] = benchStart
			}
			check := func(answers []store.Answer) {
				for _, a := range answers {
					if a.Outcome != store.Done {
						b.Fatalf("%+v", a)
					}
				}
			}
			b.ResetTimer()
			used := cpu()
			for n := 0; n < b.N; {
				m := min(batch, b.N-n)
				fires, ends := make([]store.Op, m), make([]store.Op, m)
				for i := range m {
					k := (n + i) % len(jobs)
					j, t := jobs[k], at[k]
					at[k] = t.Add(time.Minute)
					key := job.FireKey(t)
					f := frozen
					f.JobName = j.Name
					e := &job.Execution{
						ID: job.ExecutionID(j.ID, job.TriggerScheduler, key), JobID: j.ID, JobVersion: 1, Trigger: job.TriggerScheduler, Key: key,
						ScheduledFor: t, CreatedAt: t, Frozen: f, Status: job.Pending, WakeAt: t, Exclusive: true,
					}
					e = e.Lease(job.Holder{Session: "sess_abcdefghijklmnop", Stream: "stream_abcdefghijklmnop", Number: int64(n + i), Host: "executor-1"}, t)
					fires[i] = &store.Fire{Execution: e, Version: 1, FireAt: t, Next: at[k]}
					o := outcome
					o.StartedAt, o.CompletedAt = t.Add(time.Millisecond), t.Add(2*time.Millisecond)
					ends[i] = &store.Change{Status: job.Pending, Token: 1, To: e.End(o, t)}
				}
				check(s.Do(b.Context(), benchStart, fires))
				check(s.Do(b.Context(), benchStart, ends))
				n += m
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
			b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/pair")
		})
	}
}
