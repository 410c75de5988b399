package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// half returns the share of every other one of the jobs.
func half(ids []string) *job.Share {
	var buckets []int
	for i, id := range ids {
		if i%2 == 0 {
			buckets = append(buckets, job.Bucket(id))
		}
	}
	return job.NewShare(buckets...)
}

// every is the share of all buckets.
func every() *job.Share {
	buckets := make([]int, job.Buckets)
	for i := range buckets {
		buckets[i] = i
	}
	return job.NewShare(buckets...)
}

// of returns the records that the share has.
func of(share *job.Share, all map[string]*job.Execution) map[string]*job.Execution {
	chosen := map[string]*job.Execution{}
	for id, e := range all {
		if share.Has(e.JobID) {
			chosen[id] = e
		}
	}
	return chosen
}

// inOrder fails when a record wakes before the one ahead of it.
func (s *suite) inOrder(all []*job.Execution) {
	s.Helper()
	for i, e := range all {
		if i > 0 && e.WakeAt.Before(all[i-1].WakeAt) {
			s.Fatalf("%s is out of order", e.ID)
		}
	}
}

// queues returns all queues in order, and fails on one that comes twice.
func (s *suite) queues() []job.Queue {
	s.Helper()
	found, err := s.Queues(s.Context())
	s.ok(err)
	all := append([]job.Queue(nil), found...)
	slices.SortFunc(all, job.Queue.Compare)
	for i := range all {
		if i > 0 && all[i] == all[i-1] {
			s.Fatalf("%s comes twice", all[i])
		}
	}
	return all
}

var workTests = map[string]func(*suite){
	"due jobs": func(s *suite) {
		due := map[string]*job.Job{}
		var ids []string
		for i := range s.scale(30, 12) {
			j := s.create(func(j *job.Job) { j.NextRunAt = at(i % 4) })
			if i%4 < 3 {
				due[j.ID] = j
			}
			ids = append(ids, j.ID)
		}
		s.create(func(j *job.Job) { j.Enabled, j.NextRunAt = false, time.Time{} })
		gone := s.create()
		_, err := s.DeleteJob(s.Context(), gone.ID, 0, at(0), nil)
		s.ok(err)
		for _, share := range []*job.Share{nil, half(ids), every(), job.NewShare()} {
			want := map[string]*job.Job{}
			for id, j := range due {
				if share.Has(id) {
					want[id] = j
				}
			}
			for _, size := range []int{s.scale(1, 2), 4, 100} {
				all := pages(s, size, func(after *job.Job, limit int) ([]*job.Job, error) {
					return s.DueJobs(s.Context(), share, at(2), after, limit)
				})
				for i, j := range all {
					if i > 0 && j.NextRunAt.Before(all[i-1].NextRunAt) {
						s.Fatalf("%s is out of order", j.ID)
					}
				}
				if size < len(want) {
					first, err := s.DueJobs(s.Context(), share, at(2), nil, size)
					s.ok(err)
					s.same(len(first), size) // the limit counts what the share has
				}
				sameRecords(s, set(s, all, func(j *job.Job) string { return j.ID }), want)
			}
		}
		early, err := s.DueJobs(s.Context(), nil, start.Add(-time.Millisecond), nil, 10)
		s.ok(err)
		s.same(len(early), 0)
	},
	"waiting, held, overdue": func(s *suite) {
		waiting, held, overdue := map[string]*job.Execution{}, map[string]*job.Execution{}, map[string]*job.Execution{}
		var ids []string
		for i := range s.scale(64, 32) {
			j := s.create()
			e := pending(j)
			switch i / 2 % 8 { // two jobs of each kind, one of them in half of them
			case 0, 1: // due at several times
				e.WakeAt = at(i % 3)
				s.done(fire(j, e))
				waiting[e.ID] = e
			case 2: // not yet due
				e.WakeAt = at(100)
				s.done(fire(j, e))
			case 3: // in another queue
				switch i / 16 % 4 {
				case 0:
					e.Frozen.TemplateType = "other"
				case 1:
					e.Frozen.Priority--
				case 2:
					e.Frozen.Selector = ""
				default:
					e.Frozen.Organisation = "acme"
				}
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
			ids = append(ids, j.ID)
		}
		for _, share := range []*job.Share{nil, half(ids), every(), job.NewShare()} {
			for _, size := range []int{s.scale(1, 2), 3, 100} {
				all := pages(s, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
					return s.Waiting(s.Context(), queueOf("noop"), share, at(5), after, limit)
				})
				s.inOrder(all)
				sameRecords(s, set(s, all, executionID), of(share, waiting))
				all = pages(s, size, func(after *job.Execution, limit int) ([]*job.Execution, error) {
					return s.Held(s.Context(), share, after, limit)
				})
				sameRecords(s, set(s, all, executionID), of(share, held))
			}
			all, err := s.Overdue(s.Context(), share, at(5), 100)
			s.ok(err)
			sameRecords(s, set(s, all, executionID), of(share, overdue))
			s.inOrder(all)
			few, err := s.Overdue(s.Context(), share, at(5), 3)
			s.ok(err)
			s.same(len(few), min(3, len(all)))
			for i := range few {
				s.same(few[i], all[i])
			}
		}
		none, err := s.Waiting(s.Context(), queueOf("unknown"), nil, at(5), nil, 10)
		s.ok(err)
		s.same(len(none), 0)
	},
	"queues": func(s *suite) {
		s.same(len(s.queues()), 0)
		want := []job.Queue{
			{Organisation: "acme", TemplateType: "noop", Priority: 10, Selector: "gpu=yes,zone=north"},
			{Organisation: "acme", TemplateType: "noop"},
			{Organisation: "acme", TemplateType: "noop", Selector: "zone=north"},
			{Organisation: "acme", TemplateType: "noop", Priority: -10},
			{Organisation: "default", TemplateType: "a.b-c"},
			{Organisation: "default", TemplateType: "noop"},
		}
		records := make([][]*job.Execution, len(want))
		for i, q := range want {
			j := s.create(allowOverlap, func(j *job.Job) {
				j.Organisation, j.TemplateType, j.Priority, j.Selector = q.Organisation, q.TemplateType, q.Priority, map[string]string{}
				for pair := range strings.SplitSeq(q.Selector, ",") {
					if k, v, ok := strings.Cut(pair, "="); ok {
						j.Selector[k] = v
					}
				}
			})
			for n := range 2 {
				e := pending(j)
				if n == 1 {
					e.WakeAt = at(1000) // not due for long
				}
				s.same(e.Frozen.Queue(), q)
				f := fire(j, e)
				s.done(f)
				j.NextRunAt = f.Next
				records[i] = append(records[i], e)
			}
			s.done(fire(j, leased(j, 1)))
		}
		s.same(s.queues(), want)
		for i, q := range want {
			got, err := s.Waiting(s.Context(), q, nil, at(2000), nil, 10)
			s.ok(err)
			s.same(got, records[i])
		}
		// One is left when its last record is leased, ended or deleted.
		for n := range 2 {
			s.same(len(s.queues()), len(want))
			e := records[0][n]
			s.done(change(e, e.Lease(holder(1), 0, at(0))))
		}
		for n := range 2 {
			s.same(s.queues(), want[1:])
			_, err := s.RequestCancel(s.Context(), store.Cancel{ID: records[1][n].ID, Now: at(1)})
			s.ok(err)
		}
		s.same(s.queues(), want[2:])
		_, err := s.DeleteJob(s.Context(), records[2][0].JobID, 0, at(1), nil)
		s.ok(err)
		s.same(s.queues(), want[3:])
		// And it is there again when one comes back.
		e := s.execution(records[0][0].ID)
		s.done(change(e, e.Requeue(at(1))))
		s.same(s.queues(), append(want[:1:1], want[3:]...))
	},
	"find": func(s *suite) {
		want := map[string]*job.Execution{}
		ids := []string{"exec_nobody_m_x", "nonsense", "exec_test0001_s_nonsense", ""}
		for i := range 6 {
			j, e := s.fired()
			switch i {
			case 0: // not asked for
				continue
			case 1:
				end := ended(e, job.Failed, at(1))
				s.done(change(e, end))
				e = end
			case 2:
				run := e.Start(at(0), at(0), nil)
				s.done(change(e, run))
				e = run
			case 3:
				m := manual(j, "k", at(0))
				m.Exclusive = false
				_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: m, Now: at(0)})
				s.ok(err)
				e = m
			case 4:
				_, err := s.RequestCancel(s.Context(), store.Cancel{ID: e.ID, Reason: "why not", Now: at(1)})
				s.ok(err)
				e.CancelRequested, e.CancelReason = true, "why not"
			case 5:
				_, err := s.DeleteJob(s.Context(), j.ID, 0, at(1), nil)
				s.ok(err)
			}
			want[e.ID] = e
			ids = append(ids, e.ID)
		}
		got, err := s.Find(s.Context(), ids)
		s.ok(err)
		sameRecords(s, set(s, got, executionID), want)
		for len(ids) < store.MaxFind {
			ids = append(ids, fmt.Sprintf("exec_nobody_m_%d", len(ids)))
		}
		got, err = s.Find(s.Context(), ids)
		s.ok(err)
		sameRecords(s, set(s, got, executionID), want)
		none, err := s.Find(s.Context(), nil)
		s.ok(err)
		s.same(len(none), 0)
	},
	"mending changes nothing that is whole": func(s *suite) {
		w := s.waiting(2)
		l := lease(w[0], 1, 1)
		s.done(l)
		j, e := s.fired()
		for range 2 {
			s.ok(s.Mend(s.Context(), at(60)))
		}
		s.stands(l.To)
		s.stands(w[1])
		s.stands(e)
		s.same(s.job(j.ID), j)
		s.same(s.queues(), []job.Queue{queueOf("noop")})
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
	"definitions that are read while they are edited": func(s *suite) {
		j := s.create()
		id := j.ID               // j belongs to the editor below
		var version atomic.Int64 // of the last edit that was answered
		version.Store(1)
		edits := s.scale(100, 10)
		race(4, func(i int) bool {
			for int(version.Load()) <= edits {
				if i == 0 {
					j = s.edit(j, func(j *job.Job) { j.Description = fmt.Sprint("edit ", j.Version) })
					version.Store(int64(j.Version))
					continue
				}
				least := version.Load()
				got, err := s.Definition(s.Context(), id)
				if err != nil || got.Version < int(least) {
					s.Errorf("after version %d was answered: %v, %v", least, got, err)
					return false
				}
			}
			return true
		})
		s.same(s.job(j.ID).Version, edits+1)
	},
	"fires of one job": func(s *suite) {
		j := s.create()
		rounds := s.scale(10, 3)
		for range rounds {
			j = s.job(j.ID)
			won := race(s.scale(16, 6), func(i int) bool {
				return s.Do(s.Context(), start, []store.Op{fire(j, leased(j, i))})[0].Outcome == store.Done
			})
			s.same(won, 1)
			e := s.execution(pending(j).ID)
			s.done(change(e, ended(e, job.Success, at(1))))
		}
		s.same(s.total(j.ID, job.Success), rounds)
	},
	"changes of one record": func(s *suite) {
		j := s.create()
		for round := range s.scale(10, 3) {
			j = s.job(j.ID)
			e := leased(j, 1)
			s.done(fire(j, e))
			won := race(s.scale(16, 6), func(i int) bool {
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
		won := race(s.scale(16, 8), func(i int) bool {
			return s.Do(s.Context(), start, []store.Op{change(e, e.Lease(holder(i), 0, at(0)))})[0].Outcome == store.Done
		})
		s.same(won, 1)
		s.same(s.execution(e.ID).Token, int64(1))
	},
	"leases with few seats": func(s *suite) {
		const seats = 2
		w := s.waiting(s.scale(12, 6))
		for range 3 {
			answers := make([]store.Answer, len(w))
			leases := make([]*store.Change, len(w))
			won := race(len(w), func(i int) bool {
				leases[i] = lease(w[i], i, 1+i%seats)
				answers[i] = s.Do(s.Context(), start, []store.Op{leases[i]})[0]
				return answers[i].Outcome == store.Done
			})
			s.same(won, seats)
			for i, a := range answers {
				if a.Outcome != store.Done {
					s.same(a.Outcome, store.Lost)
					s.same(a.SeatTaken, true)
					continue
				}
				s.stands(leases[i].To)
				w[i] = leases[i].To.Requeue(at(1))
				s.done(change(leases[i].To, w[i]))
			}
		}
	},
	"edits of one job": func(s *suite) {
		j := s.create()
		won := race(s.scale(16, 8), func(i int) bool {
			after := j.Clone()
			after.Version, after.Description = 2, fmt.Sprint("by ", i)
			_, err := s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: j.NextRunAt, After: after})
			return err == nil
		})
		s.same(won, 1)
		s.same(s.job(j.ID).Version, 2)
	},
	"jobs of one name, within the limit": func(s *suite) {
		won := race(s.scale(16, 8), func(i int) bool {
			j := newJob(i)
			j.Name = "the same"
			_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: j})
			return err == nil
		})
		s.same(won, 1)
		won = race(s.scale(16, 8), func(i int) bool {
			_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: newJob(100 + i), Limit: 5})
			return err == nil
		})
		s.same(won, 4)
	},
	"manual runs, within the quota and the slot": func(s *suite) {
		j, k := s.create(), s.create(allowOverlap)
		won := race(s.scale(16, 8), func(i int) bool {
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(j, fmt.Sprint("k", i), at(0)), Now: at(0)})
			return err == nil
		})
		s.same(won, 1)
		won = race(s.scale(16, 8), func(i int) bool {
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(k, fmt.Sprint("k", i), at(0)), Now: at(0), PerHour: 5})
			return err == nil
		})
		s.same(won, 5)
		s.same(s.total(k.ID), 5)
	},
	"a beat and an end": func(s *suite) {
		for i := range s.scale(20, 4) {
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
		writers, rounds := s.scale(8, 4), s.scale(30, 4)
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
		seated := lease(s.waiting(1)[0], 1, 4)
		s.done(seated)
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
		s.stands(seated.To)
		s.same(s.queues(), []job.Queue{m.Frozen.Queue()})
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
