package sqlitestore

import (
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
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
	due, err := s.DueJobs(b.Context(), nil, benchStart, nil, n) // as dispatch does
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
					f := benchFire(j, frozen, t, job.Holder{Session: "sess_abcdefghijklmnop", Stream: "stream_abcdefghijklmnop", Number: int64(n + i), Host: "executor-1"})
					fires[i] = f
					o := outcome
					o.StartedAt, o.CompletedAt = t.Add(time.Millisecond), t.Add(2*time.Millisecond)
					ends[i] = &store.Change{Status: job.Pending, Token: 1, To: f.Execution.End(o, t)}
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

// BenchmarkBurst fires 10,000 jobs that are due at one instant, as many at a time
// as dispatch does, two calls ahead.
func BenchmarkBurst(b *testing.B) {
	const batch = 1024
	s := benchStore(b)
	jobs := benchJobs(b, s, 10_000)
	frozen := jobs[0].Freeze(true)
	lease := job.Holder{Session: "sess_abcdefghijklmnop", Stream: "stream_abcdefghijklmnop", Host: "executor-1"}
	at, used := benchStart, time.Duration(0)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		var calls [][]store.Op
		var ends []store.Op
		for i, j := range jobs {
			f := benchFire(j, frozen, at, lease)
			if i%batch == 0 {
				calls = append(calls, nil)
			}
			calls[len(calls)-1] = append(calls[len(calls)-1], f)
			ends = append(ends, &store.Change{Status: job.Pending, Token: 1, To: f.Execution.End(job.Outcome{Status: job.Success}, at)})
		}
		runtime.GC()
		before := cpu()
		b.StartTimer()
		var wg sync.WaitGroup
		ahead := make(chan struct{}, 2)
		for _, ops := range calls {
			ahead <- struct{}{}
			wg.Go(func() {
				for _, a := range s.Do(b.Context(), at, ops) {
					if a.Outcome != store.Done {
						b.Errorf("%+v", a)
					}
				}
				<-ahead
			})
		}
		wg.Wait()
		b.StopTimer()
		used += cpu() - before
		for _, a := range s.Do(b.Context(), at, ends) {
			if a.Outcome != store.Done {
				b.Fatalf("%+v", a)
			}
		}
		at = at.Add(time.Minute)
		b.StartTimer()
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N*len(jobs)), "cpu-us/fire")
}

// BenchmarkRunNow reads a job and runs it by hand, as the API does, one after the
// other.
func BenchmarkRunNow(b *testing.B) {
	s := benchStore(b)
	jobs := benchJobs(b, s, 100)
	b.Run("read", func(b *testing.B) {
		used := cpu()
		for i := range b.N {
			if _, err := s.Job(b.Context(), jobs[i%len(jobs)].ID); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/job")
	})
	b.Run("write", func(b *testing.B) {
		used := cpu()
		for i := range b.N {
			j, key := jobs[i%len(jobs)], job.NewID("")
			id := job.ExecutionID(j.ID, job.TriggerManual, key)
			e := &job.Execution{
				ID: id, JobID: j.ID, JobVersion: 1, Trigger: job.TriggerManual, Key: key, TriggeredByUser: "bench",
				ScheduledFor: benchStart, CreatedAt: benchStart, Frozen: j.Freeze(true), Status: job.Pending, WakeAt: benchStart,
			}
			audit := &store.Audit{At: benchStart, User: "bench", Address: "127.0.0.1", Action: "job.run", Object: id, After: []byte(`{"status":"pending"}`)}
			if _, _, err := s.RunNow(b.Context(), store.RunNow{Execution: e, Now: benchStart, Audit: audit}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/run")
	})
}

// benchFire returns the leased fire of a job.
func benchFire(j *job.Job, frozen job.Frozen, at time.Time, h job.Holder) *store.Fire {
	key := job.FireKey(at)
	frozen.JobName = j.Name
	e := &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerScheduler, key), JobID: j.ID, JobVersion: 1, Trigger: job.TriggerScheduler, Key: key,
		ScheduledFor: at, CreatedAt: at, Frozen: frozen, Status: job.Pending, WakeAt: at, Exclusive: true,
	}
	return &store.Fire{Execution: e.Lease(h, 0, at), Version: 1, FireAt: at, Next: at.Add(time.Minute)}
}

// BenchmarkDueJobs reads 10,000 due jobs in pages of 1,000: after a start, when
// nothing is remembered, and later.
func BenchmarkDueJobs(b *testing.B) {
	s := benchStore(b)
	benchJobs(b, s, 10_000)
	for _, cold := range []bool{true, false} {
		b.Run(map[bool]string{true: "cold", false: "warm"}[cold], func(b *testing.B) {
			for range b.N {
				if cold {
					s.cache.mu.Lock()
					clear(s.cache.keys)
					clear(s.cache.ids)
					clear(s.cache.versions)
					s.cache.mu.Unlock()
				}
				n := 0
				for after := (*job.Job)(nil); ; {
					page, err := s.DueJobs(b.Context(), nil, benchStart, after, 1000)
					if err != nil {
						b.Fatal(err)
					}
					if len(page) == 0 {
						break
					}
					n, after = n+len(page), page[len(page)-1]
				}
				if n != 10_000 {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10000")
		})
	}
}

// BenchmarkExecutions reads pages of a job that has a million records: a
// hundred of them failed, the others succeeded.
func BenchmarkExecutions(b *testing.B) {
	s := benchStore(b)
	j := benchJobs(b, s, 1)[0]
	const rows = 1_000_000
	if err := s.write(b.Context(), func(w *writer) error {
		if _, err := w.exec(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO executions (job, at, cause, version, idempotent, created_at, status, token, own_attempt, started_at, completed_at, result)
			SELECT 1, ? + i * 60000, '', 1, 1, 0, iif(i % 10000 = 0, 4, 3), 1, 1, 0, 0, '{"message":"ok"}' FROM n`, args{rows, benchStart}); err != nil {
			return err
		}
		_, err := w.exec(`UPDATE job_state SET success = ?, failed = ?`, args{rows - rows/10000, rows / 10000})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	for _, q := range []struct {
		name string
		f    store.ExecutionFilter
		want int
	}{
		{"first page", store.ExecutionFilter{}, rows},
		{"page at 500,000", store.ExecutionFilter{Offset: rows / 2}, rows},
		{"first page of failed", store.ExecutionFilter{Statuses: []job.Status{job.Failed}}, rows / 10000},
		{"first page of success", store.ExecutionFilter{Statuses: []job.Status{job.Success}}, rows - rows/10000},
		{"first page of live", store.ExecutionFilter{Statuses: []job.Status{job.Pending, job.Running}}, 0},
	} {
		b.Run(q.name, func(b *testing.B) {
			q.f.JobID, q.f.Limit = j.ID, 50
			for range b.N {
				page, total, err := s.Executions(b.Context(), q.f)
				if err != nil || total != q.want || len(page) != min(50, q.want) {
					b.Fatal(len(page), total, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/page")
		})
	}
}
