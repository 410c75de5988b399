package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// pages reads everything in pages of the size.
func pages[T any](s *suite, size int, read func(after *T, limit int) ([]*T, error)) []*T {
	s.Helper()
	var all []*T
	var after *T
	for {
		page, err := read(after, size)
		s.ok(err)
		if len(page) > size {
			s.Fatalf("%d of at most %d", len(page), size)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1]
	}
}

// set indexes what is read by its id, and fails on what comes twice.
func set[T any](s *suite, all []*T, id func(*T) string) map[string]*T {
	s.Helper()
	m := map[string]*T{}
	for _, v := range all {
		if m[id(v)] != nil {
			s.Fatalf("%s comes twice", id(v))
		}
		m[id(v)] = v
	}
	return m
}

func executionID(e *job.Execution) string { return e.ID }

var workTests = map[string]func(*suite){
	"due jobs": func(s *suite) {
		want := map[string]*job.Job{}
		for i := range 30 {
			j := s.create(func(j *job.Job) { j.NextRunAt = at(i % 4) })
			if i%4 < 3 {
				want[j.ID] = j
			}
		}
		s.create(func(j *job.Job) { j.Enabled, j.NextRunAt = false, time.Time{} })
		gone := s.create()
		_, err := s.DeleteJob(s.Context(), gone.ID, 0, at(0), nil)
		s.ok(err)
		for _, size := range []int{1, 4, 100} {
			all := pages(s, size, func(after *job.Job, limit int) ([]*job.Job, error) {
				return s.DueJobs(s.Context(), nil, at(2), after, limit)
			})
			for i, j := range all {
				if i > 0 && j.NextRunAt.Before(all[i-1].NextRunAt) {
					s.Fatalf("%s is out of order", j.ID)
				}
			}
			sameRecords(s, set(s, all, func(j *job.Job) string { return j.ID }), want)
		}
		early, err := s.DueJobs(s.Context(), nil, start.Add(-time.Millisecond), nil, 10)
		s.ok(err)
		s.same(len(early), 0)
	},
	"waiting, held, overdue": func(s *suite) {
		waiting, held, overdue := map[string]*job.Execution{}, map[string]*job.Execution{}, map[string]*job.Execution{}
		for i := range 40 {
			j := s.create()
			e := pending(j)
			switch i % 8 {
			case 0, 1: // due at several times
				e.WakeAt = at(i % 3)
				s.done(fire(j, e))
				waiting[e.ID] = e
			case 2: // not yet due
				e.WakeAt = at(100)
				s.done(fire(j, e))
			case 3: // of another template
				e.Frozen.TemplateType = "other"
				s.done(fire(j, e))
			case 4: // leased
				e = leased(j, i)
				s.done(fire(j, e))
				held[e.ID] = e
			case 5: // running past its deadline
				e = leased(j, i)
				s.done(fire(j, e))
				run := e.Start(at(0), at(0), nil)
				run.WakeAt = at(i % 5)
				s.done(change(e, run))
				held[e.ID], overdue[e.ID] = run, run
			case 6: // over, but it keeps its slot
				e = leased(j, i)
				s.done(fire(j, e))
				end := ended(e, job.Unknown, at(1))
				end.WakeAt = at(2)
				s.done(change(e, end))
				overdue[e.ID] = end
			case 7: // settled
				e = leased(j, i)
				s.done(fire(j, e))
				s.done(change(e, ended(e, job.Success, at(1))))
			}
		}
		for _, size := range []int{1, 3, 100} {
			all := pages(s, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
				return s.Waiting(s.Context(), queueOf("noop"), nil, at(5), after, limit)
			})
			for i, e := range all {
				if i > 0 && e.WakeAt.Before(all[i-1].WakeAt) {
					s.Fatalf("%s is out of order", e.ID)
				}
			}
			sameRecords(s, set(s, all, executionID), waiting)
			all = pages(s, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
				return s.Held(s.Context(), nil, after, limit)
			})
			sameRecords(s, set(s, all, executionID), held)
		}
		all, err := s.Overdue(s.Context(), nil, at(5), 100)
		s.ok(err)
		sameRecords(s, set(s, all, executionID), overdue)
		for i, e := range all {
			if i > 0 && e.WakeAt.Before(all[i-1].WakeAt) {
				s.Fatalf("%s is out of order", e.ID)
			}
		}
		few, err := s.Overdue(s.Context(), nil, at(5), 3)
		s.ok(err)
		s.same(few, all[:3])
		none, err := s.Waiting(s.Context(), queueOf("unknown"), nil, at(5), nil, 10)
		s.ok(err)
		s.same(len(none), 0)
	},
}

// race calls f from n goroutines at once and returns how many returned true.
func race(n int, f func(i int) bool) int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	ready, won := make(chan struct{}), 0
	for i := range n {
		wg.Go(func() {
			<-ready
			if f(i) {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	close(ready)
	wg.Wait()
	return won
}

var raceTests = map[string]func(*suite){
	"fires of one job": func(s *suite) {
		j := s.create()
		for range 10 {
			j = s.job(j.ID)
			won := race(16, func(i int) bool {
				return s.Do(s.Context(), start, []store.Op{fire(j, leased(j, i))})[0].Outcome == store.Done
			})
			s.same(won, 1)
			e := s.execution(pending(j).ID)
			s.done(change(e, ended(e, job.Success, at(1))))
		}
		s.same(s.total(j.ID, job.Success), 10)
	},
	"changes of one record": func(s *suite) {
		j := s.create()
		for round := range 10 {
			j = s.job(j.ID)
			e := leased(j, 1)
			s.done(fire(j, e))
			won := race(16, func(i int) bool {
				to := ended(e, job.Success, at(1).Add(time.Duration(i)*time.Millisecond))
				return s.Do(s.Context(), start, []store.Op{change(e, to)})[0].Outcome == store.Done
			})
			s.same(won, 1)
			s.same(s.total(j.ID, job.Success), round+1)
		}
	},
	"leases of one record": func(s *suite) {
		j := s.create()
		e := pending(j)
		s.done(fire(j, e))
		won := race(16, func(i int) bool {
			return s.Do(s.Context(), start, []store.Op{change(e, e.Lease(holder(i), 0, at(0)))})[0].Outcome == store.Done
		})
		s.same(won, 1)
		s.same(s.execution(e.ID).Token, int64(1))
	},
	"edits of one job": func(s *suite) {
		j := s.create()
		won := race(16, func(i int) bool {
			after := j.Clone()
			after.Version, after.Description = 2, fmt.Sprint("by ", i)
			_, err := s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: j.NextRunAt, After: after})
			return err == nil
		})
		s.same(won, 1)
		s.same(s.job(j.ID).Version, 2)
	},
	"jobs of one name, within the limit": func(s *suite) {
		won := race(16, func(i int) bool {
			j := newJob(i)
			j.Name = "the same"
			_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: j})
			return err == nil
		})
		s.same(won, 1)
		won = race(16, func(i int) bool {
			_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: newJob(100 + i), Limit: 5})
			return err == nil
		})
		s.same(won, 4)
	},
	"manual runs, within the quota and the slot": func(s *suite) {
		j, k := s.create(), s.create(allowOverlap)
		won := race(16, func(i int) bool {
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(j, fmt.Sprint("k", i), at(0)), Now: at(0)})
			return err == nil
		})
		s.same(won, 1)
		won = race(16, func(i int) bool {
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(k, fmt.Sprint("k", i), at(0)), Now: at(0), PerHour: 5})
			return err == nil
		})
		s.same(won, 5)
		s.same(s.total(k.ID), 5)
	},
	"a beat and an end": func(s *suite) {
		for i := range 20 {
			session := fmt.Sprint("sess_", i)
			s.ok(s.OpenSession(s.Context(), store.Session{ID: session, Host: "h"}, at(0)))
			won := race(2, func(i int) bool {
				op := store.Op(&store.Beat{Session: session, Count: 1})
				if i == 1 {
					op = &store.EndSession{Session: session}
				}
				return s.Do(s.Context(), start, []store.Op{op})[0].Outcome == store.Done
			})
			s.same(won, 1)
		}
	},
	"many writers of many jobs": func(s *suite) {
		const writers, rounds = 8, 30
		jobs := make([]*job.Job, writers)
		for i := range jobs {
			jobs[i] = s.create()
		}
		won := race(writers, func(i int) bool {
			j := *jobs[i]
			for n := range rounds {
				e := leased(&j, n)
				end := ended(e, job.Success, j.NextRunAt)
				lines := []job.LogLine{{At: j.NextRunAt, Level: "INFO", Message: "x"}}
				for _, a := range s.Do(s.Context(), start, []store.Op{
					fire(&j, e), &store.AppendLog{ID: e.ID, Token: 1, Number: 1, Lines: lines}, change(e, end),
				}) {
					if a.Outcome != store.Done {
						s.Errorf("%d: %s", n, show(a))
						return false
					}
				}
				if _, err := s.Execution(s.Context(), e.ID); err != nil { // a writer reads what it wrote
					s.Error(err)
					return false
				}
				j.NextRunAt = j.NextRunAt.Add(minute)
			}
			return true
		})
		s.same(won, writers)
		for _, j := range jobs {
			s.same(s.total(j.ID), rounds)
			s.same(s.total(j.ID, job.Success), rounds)
			s.same(s.job(j.ID).NextRunAt, at(rounds))
		}
	},
}

var lifeTests = map[string]func(*suite){
	"what is written is there after a close": func(s *suite) {
		j, e := s.fired()
		run := e.Start(at(0), at(0), []string{"rlimits"})
		s.done(change(e, run))
		m, _, err := s.RunNow(s.Context(), store.RunNow{Execution: func() *job.Execution { m := manual(j, "k", at(0)); m.Exclusive = false; return m }(), Now: at(0), PerHour: 1})
		s.ok(err)
		s.done(&store.AppendLog{ID: e.ID, Token: 1, Number: 1, Lines: []job.LogLine{{At: at(0), Level: "INFO", Message: "x"}}})
		s.ok(s.OpenSession(s.Context(), store.Session{ID: "sess_1", Host: "h"}, at(0)))
		j = s.job(j.ID)
		s.reopen()
		s.ok(s.Ready(s.Context()))
		s.same(s.job(j.ID), j)
		s.stands(run)
		s.stands(m)
		s.same(s.total(j.ID), 2)
		// And it goes on.
		s.same(s.lost(fire(j, leased(j, 2))).SlotBy, run.ID)
		s.done(&store.Beat{Session: "sess_1", Count: 1})
		s.done(change(run, ended(run, job.Success, at(1))))
		s.done(fire(j, leased(j, 2)))
		_, total, err := s.Logs(s.Context(), e.ID, 0, 10)
		s.ok(err)
		s.same(total, 1)
	},
	"a closed store says so": func(s *suite) {
		j := s.create()
		s.ok(s.Close())
		s.fails(s.Ready(s.Context()), job.ErrUnavailable)
		for _, a := range s.Do(s.Context(), start, []store.Op{fire(j, leased(j, 1)), fire(j, leased(j, 2))}) {
			s.same(a.Outcome, store.Unknown)
			s.fails(a.Err, job.ErrUnavailable)
		}
		_, err := s.Job(s.Context(), j.ID)
		s.fails(err, job.ErrUnavailable)
		_, _, err = s.CreateJob(s.Context(), store.CreateJob{Job: newJob(9)})
		s.fails(err, job.ErrUnavailable)
		s.Store = s.open()
		s.same(s.job(j.ID), j)
	},
	"a context that is over": func(s *suite) {
		j := s.create()
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		a := s.Do(ctx, start, []store.Op{fire(j, leased(j, 1))})
		s.same(a[0].Outcome, store.Unknown)
		s.fails(a[0].Err, context.Canceled)
		_, err := s.Job(ctx, j.ID)
		s.fails(err, job.ErrUnavailable)
		_, err = s.RequestCancel(ctx, store.Cancel{ID: pending(j).ID, Now: at(0)})
		s.fails(err, job.ErrUnavailable)
		s.ok(s.Ready(s.Context()))
		s.do(fire(j, leased(j, 1)))
	},
}
