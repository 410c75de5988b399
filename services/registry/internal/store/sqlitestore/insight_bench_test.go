package sqlitestore

import (
	"fmt"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// measure repeats f and reports how long it takes, by the clock and on a processor.
func measure(b *testing.B, f func()) {
	used := cpu()
	for range b.N {
		f()
	}
	b.ReportMetric(float64((cpu()-used).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
}

// BenchmarkJobs lists pages of 10,000 jobs.
func BenchmarkJobs(b *testing.B) {
	s := benchStore(b)
	benchJobs(b, s, 10_000)
	if err := s.write(b.Context(), func(w *writer) error {
		_, err := w.exec(`UPDATE jobs SET search = name || char(10) || template || char(10) || 'sends what was asked for to those who asked, number ' || key,
			labels = '{"customer":"c' || (key % 100) || '","stage":"production","team":"t' || (key % 10) || '"}', updated_at = key * 7919 % 10007`, nil)
		if err == nil {
			_, err = w.exec(`UPDATE job_state SET last_end = iif(job % 10 = 0, 4, 3), last_end_at = 0`, nil)
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	value := "c7"
	for _, q := range []struct {
		name string
		f    store.JobFilter
		want int
	}{
		{"newest first", store.JobFilter{}, 10_000},
		{"two words that all have", store.JobFilter{Words: []string{"BENCH", "asked"}}, 10_000},
		{"two words that few have", store.JobFilter{Words: []string{"number", "999"}}, 29},
		{"a word that none has", store.JobFilter{Words: []string{"nowhere"}}, 0},
		{"by name, one label", store.JobFilter{Labels: []store.LabelTerm{{Key: "customer", Value: &value}}, Sort: store.JobSort{By: store.SortName}}, 100},
		{"by next run, failing, one label", store.JobFilter{
			Labels: []store.LabelTerm{{Key: "team"}}, States: []job.State{job.StateFailing}, Sort: store.JobSort{By: store.SortNextRun},
		}, 1000},
		{"by last edit, two words, one label, failing", store.JobFilter{
			Words: []string{"bench", "those"}, Labels: []store.LabelTerm{{Key: "stage"}}, States: []job.State{job.StateFailing}, Sort: store.JobSort{By: store.SortUpdated},
		}, 1000},
	} {
		b.Run(q.name, func(b *testing.B) {
			q.f.Limit = 100
			measure(b, func() {
				page, total, err := s.Jobs(b.Context(), q.f)
				if err != nil || total != q.want || len(page) != min(100, q.want) {
					b.Fatal(len(page), total, err)
				}
			})
		})
	}
}

// BenchmarkRollUp counts the ends of 10,000 jobs, one of each.
func BenchmarkRollUp(b *testing.B) {
	s := benchStore(b)
	jobs := benchJobs(b, s, 10_000)
	frozen := jobs[0].Freeze(true)
	longest, calls, used := time.Duration(0), 0, time.Duration(0)
	b.ResetTimer()
	for n := range b.N {
		b.StopTimer()
		at := benchStart.Add(time.Duration(n) * time.Minute)
		var ops []store.Op
		for _, j := range jobs {
			f := benchFire(j, frozen, at, job.Holder{Session: "sess_abcdefghijklmnop"})
			ops = append(ops, f, &store.Change{Status: job.Pending, Token: 1, To: f.Execution.End(job.Outcome{Status: job.Success, StartedAt: at, CompletedAt: at.Add(time.Second)}, at)})
		}
		for _, a := range s.Do(b.Context(), at, ops) {
			if a.Outcome != store.Done {
				b.Fatalf("%+v", a)
			}
		}
		b.StartTimer()
		before := cpu()
		for more := true; more; calls++ {
			began := b.Elapsed()
			var err error
			if more, err = s.RollUp(b.Context(), at); err != nil {
				b.Fatal(err)
			}
			longest = max(longest, b.Elapsed()-began)
		}
		used += cpu() - before
	}
	b.ReportMetric(float64(used.Nanoseconds())/1000/float64(b.N*len(jobs)), "cpu-us/end")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(calls), "ms/call")
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest")
}

// BenchmarkInsight asks about 100 jobs with a history of 400 days, of which
// 100,000 runs wait and 100,000 failed.
func BenchmarkInsight(b *testing.B) {
	s := benchStore(b)
	jobs := benchJobs(b, s, 100)
	queue := job.Queue{TemplateType: "noop", Organisation: job.DefaultOrganisation}
	const days = 400
	if err := s.write(b.Context(), func(w *writer) error {
		if _, err := w.exec(`WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < ?4)
			INSERT INTO rollups SELECT (?1 + i * ?2) - (?1 + i * ?2) % ?3, job, ?1 + i * ?2, 15, 1, 0, 0, 0, 0, 16, 16000, 2000 FROM n, (SELECT 0 AS job UNION ALL SELECT job FROM job_state)`,
			args{benchStart, step, block, days*96 - 1}); err != nil {
			return err
		}
		if _, err := w.exec(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
			INSERT INTO executions (job, at, cause, version, idempotent, created_at, status, token, own_attempt, started_at, completed_at, result)
			SELECT 1 + i % 100, ?1 + i * 1000, '', 1, 1, 0, 4, 1, 1, ?1 + i * 1000, ?1 + i * 1000, '{"message":"ok"}' FROM n`, args{benchStart}); err != nil {
			return err
		}
		_, err := w.exec(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
			INSERT INTO executions (job, at, cause, version, idempotent, created_at, status, token, queue, wake_at)
			SELECT 1 + i % 100, ?1 + i * 1000, 'm_' || i, 1, 1, 0, 0, 0, ?2, ?1 + i * 1000 FROM n`, args{benchStart, queue.String()})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	check := func(b *testing.B, got, want int, err error) {
		if err != nil || got != want {
			b.Fatalf("%d, not %d: %v", got, want, err)
		}
	}
	for _, q := range []struct {
		name string
		ask  func(b *testing.B)
	}{
		{"statistics of a day", func(b *testing.B) {
			found, err := s.Statistics(b.Context(), "", benchStart, benchStart.AddDate(0, 0, 1))
			check(b, len(found), 96, err)
		}},
		{"statistics of a job, 30 days", func(b *testing.B) {
			found, err := s.Statistics(b.Context(), ids[50], benchStart, benchStart.AddDate(0, 0, 30))
			check(b, len(found), 30*96, err)
		}},
		{fmt.Sprintf("statistics of a job, %d days", days), func(b *testing.B) {
			found, err := s.Statistics(b.Context(), ids[50], time.Time{}, benchStart.AddDate(9, 0, 0))
			check(b, len(found), days*96, err)
		}},
		{"latest 20 of 100 jobs", func(b *testing.B) {
			found, err := s.Recent(b.Context(), ids, 20)
			check(b, len(found), len(ids), err)
		}},
		{"live", func(b *testing.B) {
			_, total, err := s.Live(b.Context(), 0, 50)
			check(b, total, 100_000, err)
		}},
		{"failures", func(b *testing.B) {
			_, total, err := s.Failures(b.Context(), benchStart, 0, 50)
			check(b, total, 100_000, err)
		}},
		{"pulse", func(b *testing.B) {
			p, err := s.Pulse(b.Context(), benchStart)
			check(b, p.Waiting, 100_000, err)
		}},
	} {
		b.Run(q.name, func(b *testing.B) {
			measure(b, func() { q.ask(b) })
		})
	}
}
