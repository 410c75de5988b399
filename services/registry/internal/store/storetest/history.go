package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var historyTests = map[string]func(*suite){
	"run now": func(s *suite) {
		j := s.create(func(j *job.Job) { j.Enabled, j.NextRunAt = false, time.Time{} })
		j.NextRunAt = start // for the helpers
		e := manual(j, "key_1", at(3).Add(123*time.Millisecond))
		e.Frozen.Parameters = json.RawMessage(`{"own":1}`)
		r := store.RunNow{Execution: e, Now: at(3), Audit: audit(e.ID, "execution.run", at(3))}
		got, replayed, err := s.RunNow(s.Context(), r)
		s.ok(err)
		s.same(replayed, false)
		s.same(got, e)
		s.stands(e)
		// Tried again, at a later time.
		later := *e
		later.ScheduledFor, later.CreatedAt, later.WakeAt = at(4), at(4), at(4)
		r.Execution, r.Now = &later, at(4)
		got, replayed, err = s.RunNow(s.Context(), r)
		s.ok(err)
		s.same(replayed, true)
		s.same(got, e)
		s.same(len(s.audits(e.ID)), 1)
		s.same(s.total(j.ID), 1)
		// Another one finds the slot taken, and leaves nothing.
		other := manual(j, "key_2", at(4))
		_, _, err = s.RunNow(s.Context(), store.RunNow{Execution: other, Now: at(4), PerHour: 1, Audit: audit(other.ID, "execution.run", at(4))})
		var held *job.SlotHeldError
		if !errors.As(err, &held) || held.By != e.ID {
			s.Fatalf("error %v", err)
		}
		_, err = s.Execution(s.Context(), other.ID)
		s.fails(err, job.ErrNotFound)
		s.same(len(s.audits("")), 1)
		// Without a slot it runs.
		other.Exclusive = false
		_, _, err = s.RunNow(s.Context(), store.RunNow{Execution: other, Now: at(4), PerHour: 1})
		s.ok(err)
		s.same(s.total(j.ID, job.Pending), 2)
	},
	"run now, leased at once": func(s *suite) {
		j := s.create()
		e := manual(j, "key_1", at(3).Add(123*time.Millisecond)).Lease(holder(1), 0, at(3))
		r := store.RunNow{Execution: e, Now: at(3), PerHour: 1, Audit: audit(e.ID, "execution.run", at(3))}
		for i := range 2 {
			got, replayed, err := s.RunNow(s.Context(), r)
			s.ok(err)
			s.same(replayed, i == 1)
			s.same(got, e)
		}
		s.stands(e)
		s.same(len(s.audits(e.ID)), 1)
		s.same(len(s.queues()), 0)
		held, err := s.Held(s.Context(), nil, nil, 10)
		s.ok(err)
		s.same(held, []*job.Execution{e})
		// It has the slot, counts against the quota, and ends like any other.
		s.same(s.lost(fire(j, leased(j, 2))).SlotBy, e.ID)
		free := manual(j, "key_2", at(3)).Lease(holder(3), 0, at(3))
		free.Exclusive = false
		_, _, err = s.RunNow(s.Context(), store.RunNow{Execution: free, Now: at(4), PerHour: 1})
		var limit *job.LimitError
		if !errors.As(err, &limit) {
			s.Fatalf("error %v", err)
		}
		run := e.Start(at(3), at(3), nil)
		s.done(change(e, run))
		s.done(change(run, ended(run, job.Success, at(4))))
		s.done(fire(j, leased(j, 2)))
		// Tried again after its end.
		got, replayed, err := s.RunNow(s.Context(), r)
		s.ok(err)
		s.same(replayed, true)
		s.same(got, ended(run, job.Success, at(4)))
	},
	"run now of no job": func(s *suite) {
		j := s.create()
		_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(newJob(99), "k", at(0)), Now: at(0)})
		s.fails(err, job.ErrNotFound)
		_, err = s.DeleteJob(s.Context(), j.ID, 0, at(0), nil)
		s.ok(err)
		_, _, err = s.RunNow(s.Context(), store.RunNow{Execution: manual(j, "k", at(0)), Now: at(0)})
		s.fails(err, job.ErrNotFound) // only the system's tombstones have runs
		s.same(s.total(j.ID), 0)
	},
	"a scheduled run finds the slot of a manual one taken": func(s *suite) {
		j := s.create()
		e, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(j, "k", at(0)), Now: at(0)})
		s.ok(err)
		s.same(s.lost(fire(j, leased(j, 1))).SlotBy, e.ID)
		_, err = s.RequestCancel(s.Context(), store.Cancel{ID: e.ID, Now: at(0)})
		s.ok(err)
		s.done(fire(j, leased(j, 1)))
	},
	"the quota of manual runs": func(s *suite) {
		j := s.create(allowOverlap)
		run := func(user, key string, now time.Time) error {
			e := manual(j, key, now)
			e.TriggeredByUser = user
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: e, PerHour: 3, Now: now, Audit: audit(e.ID, "execution.run", now)})
			return err
		}
		for i := range 3 {
			s.ok(run("ann", fmt.Sprint("k", i), at(10*i)))
			s.ok(run("ann", fmt.Sprint("k", i), at(10*i))) // counts once
		}
		for range 2 {
			err := run("ann", "k3", at(59))
			var limit *job.LimitError
			if !errors.As(err, &limit) || limit.Limit != 3 || !limit.Until.Equal(at(60)) {
				s.Fatalf("error %v: %s", err, show(limit))
			}
		}
		s.same(s.total(j.ID), 3)
		s.same(len(s.audits("")), 3)
		s.ok(run("bob", "b0", at(59)))
		s.ok(run("ann", "k2", at(59))) // stood already
		s.ok(run("ann", "k3", at(60)))
		var limit *job.LimitError
		if err := run("ann", "k4", at(69)); !errors.As(err, &limit) || !limit.Until.Equal(at(70)) {
			s.Fatalf("error %v", err)
		}
		s.ok(run("ann", "k4", at(70)))
		// Switched off.
		e := manual(j, "free", at(70))
		_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: e, Now: at(70)})
		s.ok(err)
	},
	"cancel": func(s *suite) {
		ctx := s.Context()
		// Waiting: over at once.
		j := s.create()
		e, _, err := s.RunNow(ctx, store.RunNow{Execution: manual(j, "k", at(0)), Now: at(0)})
		s.ok(err)
		got, err := s.RequestCancel(ctx, store.Cancel{ID: e.ID, Reason: "no need", Now: at(1), Audit: audit(e.ID, "execution.cancel", at(1))})
		s.ok(err)
		over := e.CancelledUnstarted(at(1))
		over.Reason = "no need"
		s.same(got, over)
		s.stands(got)
		s.same(s.total(j.ID, job.Cancelled), 1)
		_, err = s.RequestCancel(ctx, store.Cancel{ID: e.ID, Now: at(1), Audit: audit(e.ID, "execution.cancel", at(1))})
		s.fails(err, job.ErrEnded)
		s.same(len(s.audits(e.ID)), 1)
		// Waiting for a retry.
		_, held := s.fired()
		retry := held.End(job.Outcome{Status: job.Failed, Retryable: true, StartedAt: at(1), CompletedAt: at(1)}, at(1))
		s.done(change(held, retry))
		got, err = s.RequestCancel(ctx, store.Cancel{ID: retry.ID, Now: at(2)})
		s.ok(err)
		s.same(got, retry.CancelledUnstarted(at(2)))
		s.stands(got)
		// Leased, then running: marked, and again.
		_, held = s.fired()
		marked := *held
		marked.CancelRequested, marked.CancelReason = true, "it's 5"
		for range 2 {
			got, err = s.RequestCancel(ctx, store.Cancel{ID: held.ID, Reason: "it's 5", Now: at(1), Audit: audit(held.ID, "execution.cancel", at(1))})
			s.ok(err)
			s.same(got, &marked)
		}
		s.same(len(s.audits(held.ID)), 1)
		run := marked.Start(at(1), at(1), nil)
		s.done(change(&marked, run))
		s.stands(run)
		end := ended(run, job.Cancelled, at(2))
		s.done(change(run, end))
		s.stands(end)
		_, err = s.RequestCancel(ctx, store.Cancel{ID: held.ID, Now: at(3)})
		s.fails(err, job.ErrEnded)
		// Unknown counts as over.
		_, held = s.fired()
		s.done(change(held, ended(held, job.Unknown, at(1))))
		_, err = s.RequestCancel(ctx, store.Cancel{ID: held.ID, Now: at(3)})
		s.fails(err, job.ErrEnded)
		for _, id := range []string{"exec_nobody_m_k", "nonsense", "exec_test0001_s_nonsense", "exec_test0001_s_20260399T000000Z"} {
			_, err = s.RequestCancel(ctx, store.Cancel{ID: id, Now: at(0)})
			s.fails(err, job.ErrNotFound)
			_, err = s.Execution(ctx, id)
			s.fails(err, job.ErrNotFound)
		}
	},
	"pages and totals": func(s *suite) {
		j := s.create(allowOverlap)
		s.create()
		var all []*job.Execution
		ends := []job.Status{job.Success, job.Failed, job.TimedOut, job.Cancelled, job.Unknown}
		for i := range s.scale(40, 16) {
			j = s.job(j.ID)
			e := leased(j, i)
			switch i % 8 {
			case 0:
				e = skip(j, 1)
				s.done(fire(j, e))
			case 1:
				e = pending(j)
				s.done(fire(j, e))
			case 2:
				s.done(fire(j, e))
				run := e.Start(at(i), at(i), nil)
				s.done(change(e, run))
				e = run
			case 3:
				s.done(fire(j, e))
				again := e.End(job.Outcome{Status: job.Failed, Retryable: true, StartedAt: at(i), CompletedAt: at(i)}, at(i))
				s.done(change(e, again))
				e = again
			default:
				s.done(fire(j, e))
				end := ended(e, ends[i%len(ends)], at(i))
				s.done(change(e, end))
				e = end
			}
			all = append(all, e)
			if i%10 == 0 { // of the same millisecond
				m := manual(j, fmt.Sprint("k", i), j.NextRunAt)
				_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: m, Now: j.NextRunAt})
				s.ok(err)
				all = append(all, m)
			}
		}
		filters := [][]job.Status{nil, job.Statuses, {job.Success, job.Failed}, {job.Pending, job.Success}, {job.Running, job.Retrying}, {job.Pending, job.Running, job.Retrying}}
		for _, status := range job.Statuses {
			filters = append(filters, []job.Status{status})
		}
		for _, statuses := range filters {
			want := map[string]*job.Execution{}
			for _, e := range all {
				if len(statuses) == 0 || slices.Contains(statuses, e.Status) {
					want[e.ID] = e
				}
			}
			for _, size := range []int{s.scale(1, 4), 7, 500} {
				got := map[string]*job.Execution{}
				var last time.Time
				f := store.ExecutionFilter{JobID: j.ID, Statuses: statuses, Limit: size}
				for ; ; f.Offset += size {
					page, total, err := s.Executions(s.Context(), f)
					s.ok(err)
					s.same(total, len(want))
					if len(page) == 0 {
						break
					}
					for _, e := range page {
						if !last.IsZero() && e.ScheduledFor.After(last) {
							s.Fatalf("%s is out of order", e.ID)
						}
						last = e.ScheduledFor
						got[e.ID] = e
					}
				}
				sameRecords(s, got, want)
			}
		}
		page, total, err := s.Executions(s.Context(), store.ExecutionFilter{JobID: "job_nobody", Limit: 10})
		s.ok(err)
		s.same(len(page)+total, 0)
	},
	"the audit log": func(s *suite) {
		j, k := newJob(1), newJob(2)
		for _, j := range []*job.Job{j, k} {
			_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: j, Audit: audit(j.ID, "job.create", at(0))})
			s.ok(err)
		}
		after := j.Clone()
		after.Version = 2
		edited := audit(j.ID, "job.update", at(1).Add(5*time.Millisecond))
		edited.Before, edited.After = nil, nil
		_, err := s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: start, After: after, Audit: edited})
		s.ok(err)
		s.same(s.audits(j.ID), []store.AuditEntry{{ID: j.ID + "/2", Audit: *edited}, {ID: j.ID + "/1", Audit: *audit(j.ID, "job.create", at(0))}})
		all := s.audits("")
		s.same(len(all), 3)
		s.same(all[0].ID, j.ID+"/2")
		s.same(all[1].ID, k.ID+"/1")
		page, total, err := s.Audits(s.Context(), store.AuditFilter{Offset: 1, Limit: 1})
		s.ok(err)
		s.same(total, 3)
		s.same(page, all[1:2])
		page, total, err = s.Audits(s.Context(), store.AuditFilter{Object: "nobody", Limit: 10})
		s.ok(err)
		s.same(len(page)+total, 0)
	},
}

var accessTests = map[string]func(*suite){
	"users": func(s *suite) {
		u := store.User{Name: "ann", Role: "admin", PasswordHash: "$argon2id$", CreatedAt: at(0)}
		s.ok(s.AddUser(s.Context(), u, audit("ann", "user.create", at(0))))
		s.fails(s.AddUser(s.Context(), store.User{Name: "ann", Role: "user"}, audit("ann", "user.create", at(0))), job.ErrUserExists)
		got, err := s.UserByName(s.Context(), "ann")
		s.ok(err)
		s.same(got, u)
		s.same(len(s.audits("ann")), 1)
		_, err = s.UserByName(s.Context(), "bob")
		s.fails(err, job.ErrNotFound)
	},
	"tokens": func(s *suite) {
		ctx := s.Context()
		u := store.User{Name: "ann", Role: "admin", CreatedAt: at(0)}
		s.ok(s.AddUser(ctx, u, nil))
		tokens := []store.Token{
			{Hash: "aa", User: "ann", Kind: store.TokenPersonal, Name: "laptop", CreatedAt: at(0)},
			{Hash: "bb", User: "ann", Kind: store.TokenSession, CreatedAt: at(0), ExpiresAt: at(10)},
			{Hash: "cc", User: "ann", Kind: store.TokenLogin, CreatedAt: at(0), ExpiresAt: at(20)},
		}
		for _, t := range tokens {
			s.ok(s.AddToken(ctx, t, nil))
			s.ok(s.AddToken(ctx, t, nil))
			token, owner, err := s.TokenOwner(ctx, t.Hash)
			s.ok(err)
			s.same(token, t)
			s.same(owner, u)
		}
		_, _, err := s.TokenOwner(ctx, "dd")
		s.fails(err, job.ErrNotFound)
		s.ok(s.DeleteExpiredTokens(ctx, at(15)))
		_, _, err = s.TokenOwner(ctx, "bb")
		s.fails(err, job.ErrNotFound)
		for _, hash := range []string{"aa", "cc"} {
			_, _, err = s.TokenOwner(ctx, hash)
			s.ok(err)
		}
	},
}
