package storetest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var fireTests = map[string]func(*suite){
	"records and advances": func(s *suite) {
		j := s.create()
		for i, e := range []*job.Execution{leased(j, 7), nil, nil} {
			j = s.job(j.ID)
			switch i {
			case 1:
				e = skip(j, 3)
			case 2:
				e = pending(j)
				e.Exclusive = false
			}
			f := fire(j, e)
			if i == 1 {
				f.Next = e.MissedUntil.Add(minute)
			}
			s.done(f)
			s.stands(e)
			want := *j
			want.NextRunAt = f.Next
			s.same(s.job(j.ID), &want)
		}
	},
	"may have no next time": func(s *suite) {
		j := s.create()
		f := fire(j, leased(j, 1))
		f.Next = time.Time{}
		s.done(f)
		if next := s.job(j.ID).NextRunAt; !next.IsZero() {
			s.Fatalf("next run at %s", next)
		}
		due, err := s.DueJobs(s.Context(), nil, at(1000), nil, 10)
		s.ok(err)
		s.same(len(due), 0)
	},
	"repeated is done": func(s *suite) {
		for i, record := range []func(*job.Job) *job.Execution{
			func(j *job.Job) *job.Execution { return leased(j, 1) },
			pending,
			func(j *job.Job) *job.Execution { return skip(j, 2) },
		} {
			j := s.create()
			f := fire(j, record(j))
			s.done(f)
			s.done(f)
			s.stands(f.Execution)
			if i == 0 { // also when it runs by now
				run := f.Execution.Start(at(0), at(0), nil)
				s.done(change(f.Execution, run))
				s.done(f)
				s.stands(run)
			}
			s.same(s.total(j.ID), 1)
			s.same(s.job(j.ID).NextRunAt, f.Next)
		}
	},
	"of another lease is lost to the record": func(s *suite) {
		j := s.create(allowOverlap)
		e := leased(j, 1)
		s.done(fire(j, e))
		for _, other := range []*job.Execution{leased(j, 2), pending(j), skip(j, 1)} {
			a := s.lost(fire(j, other))
			s.same(a.Execution, e)
		}
		s.stands(e)
		s.same(s.job(j.ID).NextRunAt, at(1))
		// What was taken back is not the same fire any more.
		s.done(change(e, e.Requeue(at(1))))
		s.same(s.lost(fire(j, e)).Execution, e.Requeue(at(1)))
	},
	"advances a job past the record it stands at": func(s *suite) {
		j := s.create(allowOverlap)
		e := leased(j, 1)
		s.done(fire(j, e))
		back := s.edit(s.job(j.ID), func(j *job.Job) { j.NextRunAt = start })
		s.same(s.lost(fire(back, leased(back, 2))).Execution, e)
		s.same(s.job(j.ID).NextRunAt, at(1))
		s.same(s.total(j.ID), 1)
		// And past all that a skip covers.
		j = s.job(j.ID)
		missed := skip(j, 5)
		f := fire(j, missed)
		f.Next = at(6)
		s.done(f)
		back = s.edit(s.job(j.ID), func(j *job.Job) { j.NextRunAt = at(1) })
		s.same(s.lost(fire(back, leased(back, 3))).Execution, missed)
		s.same(s.job(j.ID).NextRunAt, at(6))
		s.same(s.total(j.ID), 2)
		// The slot is as free as before.
		back = s.edit(s.job(j.ID), func(j *job.Job) { j.NextRunAt, j.Overlap = start, job.OverlapForbid })
		s.same(s.lost(fire(back, leased(back, 4))).Execution, e)
		j = s.job(j.ID)
		s.same(s.lost(fire(j, leased(j, 4))).Execution, missed)
		j = s.job(j.ID)
		s.same(j.NextRunAt, at(6))
		s.done(change(e, ended(e, job.Success, at(6))))
		s.done(fire(j, leased(j, 5)))
	},
	"is lost to the slot's holder": func(s *suite) {
		j, e := s.fired()
		a := s.lost(fire(j, leased(j, 2)))
		s.same(a.SlotBy, e.ID)
		s.same(s.job(j.ID).NextRunAt, at(1))
		s.same(s.total(j.ID), 1)
		// A skip needs no slot.
		over := skip(j, 1)
		over.Reason = job.ReasonOverlap + ": " + e.ID + " is not over"
		s.done(fire(j, over))
		// The end of the holder frees it.
		s.done(change(e, ended(e, job.Success, at(1))))
		j = s.job(j.ID)
		s.done(fire(j, leased(j, 3)))
	},
	"overlaps where that is allowed": func(s *suite) {
		j, _ := s.fired(allowOverlap)
		s.done(fire(j, leased(j, 2)))
		s.same(s.total(j.ID, job.Pending), 2)
	},
	"is lost to an edit": func(s *suite) {
		j := s.create()
		edited := s.edit(j, func(j *job.Job) { j.Description = "other" })
		a := s.lost(fire(j, leased(j, 1)))
		s.same(a.Job, edited)
		s.same(s.total(j.ID), 0)
		s.same(s.job(j.ID), edited)
	},
	"of another time is lost": func(s *suite) {
		j := s.create()
		moved := *j
		moved.NextRunAt = at(1)
		a := s.lost(fire(&moved, leased(&moved, 1)))
		s.same(a.Job, j)
		s.same(s.total(j.ID), 0)
	},
	"of a disabled or deleted or unknown job is lost": func(s *suite) {
		j := s.create()
		off := s.edit(j, func(j *job.Job) { j.Enabled, j.NextRunAt = false, time.Time{} })
		f := fire(j, leased(j, 1))
		f.Version, f.Execution.JobVersion = 2, 2
		s.same(s.lost(f).Job, off)
		_, err := s.DeleteJob(s.Context(), j.ID, 0, at(1), nil)
		s.ok(err)
		for _, j := range []*job.Job{j, newJob(99)} {
			a := s.lost(fire(j, leased(j, 1)))
			if a.Job != nil || a.Execution != nil || a.SlotBy != "" {
				s.Fatalf("lost to %s", show(a))
			}
			s.same(s.total(j.ID), 0)
		}
	},
	"freezes the job": func(s *suite) {
		j, e := s.fired()
		s.edit(j, func(j *job.Job) {
			j.Name, j.Parameters, j.Timeout, j.TemplateType = "renamed", json.RawMessage(`{}`), minute, "other"
			j.Organisation, j.Priority, j.Selector = "acme", -1, nil
		})
		s.stands(e)
		// What differs from the job is kept too.
		k := s.create()
		own := leased(k, 1)
		own.Frozen.Parameters = json.RawMessage(`{"own":[true]}`)
		own.Frozen.Priority, own.Frozen.Selector = job.MaxPriority, "a=b,c=d"
		s.done(fire(k, own))
		s.stands(own)
		l := s.create(func(j *job.Job) { j.Parameters = nil })
		none := leased(l, 1)
		none.Frozen.Idempotent, none.Frozen.Retry.MaxRetries = false, 9
		s.done(fire(l, none))
		s.stands(none)
	},
	"in one call each for itself, in order": func(s *suite) {
		a, b := s.create(), s.create()
		first := leased(a, 1)
		end := ended(first, job.Success, at(1))
		later := *a
		later.NextRunAt = at(1)
		answers := s.Do(s.Context(), start, []store.Op{
			fire(a, first), fire(&later, leased(&later, 2)), change(first, end), fire(&later, leased(&later, 3)),
			fire(b, pending(b)), &store.Beat{Session: "nobody", Count: 1},
		})
		got := []store.Outcome{}
		for _, a := range answers {
			got = append(got, a.Outcome)
		}
		s.same(got, []store.Outcome{store.Done, store.Lost, store.Done, store.Done, store.Done, store.Lost})
		s.same(answers[1].SlotBy, first.ID)
		s.stands(end)
		s.same(len(s.Do(s.Context(), start, nil)), 0)
	},
}

// edit changes a job as it stands.
func (s *suite) edit(j *job.Job, f func(*job.Job)) *job.Job {
	s.Helper()
	after := j.Clone()
	f(after)
	after.Version++
	stored, err := s.EditJob(s.Context(), store.EditJob{Version: j.Version, NextRunAt: j.NextRunAt, After: after})
	s.ok(err)
	s.same(stored, after)
	return stored
}

var changeTests = map[string]func(*suite){
	"writes all that may change": func(s *suite) {
		_, e := s.fired()
		run := e.Start(at(0).Add(5*time.Millisecond), at(0), []string{"rlimits"})
		s.done(change(e, run))
		s.stands(run)
		back := run.End(job.Outcome{Status: job.Failed, Retryable: true, StartedAt: at(0), CompletedAt: at(1), Error: "no luck", ErrorCode: "connection", Result: json.RawMessage(`{"n":1}`)}, at(1))
		s.same(back.Status, job.Retrying)
		s.done(change(run, back))
		s.stands(back)
		again := back.Lease(job.Holder{Session: "sess_2", Stream: "stream_2", Number: 9, Host: "executor-2"}, 0, at(2))
		s.done(change(back, again))
		s.stands(again)
		lost := again.Start(at(2), at(2), nil)
		s.done(change(again, lost))
		requeued := lost.Lost(at(3), false)
		s.done(change(lost, requeued))
		s.stands(requeued)
		last := requeued.Lease(holder(4), 0, at(3))
		s.done(change(requeued, last))
		end := ended(last, job.Success, at(4))
		s.same(len(end.Attempts), 3)
		s.done(change(last, end))
		s.stands(end)
		s.same(s.total(end.JobID, job.Success), 1)
		s.same(s.total(end.JobID), 1)
	},
	"each end": func(s *suite) {
		for _, status := range []job.Status{job.Success, job.Failed, job.TimedOut, job.Cancelled, job.Unknown} {
			j, e := s.fired()
			end := ended(e, status, at(1))
			s.same(end.Status, status)
			s.done(change(e, end))
			s.stands(end)
			s.same(s.total(j.ID, status), 1)
			s.same(s.total(j.ID, job.Pending, job.Running, job.Retrying), 0)
			a := s.do(fire(j, leased(j, 2)))
			if status == job.Unknown {
				// Its process may live: the slot is free later.
				s.same(a.SlotBy, e.ID)
				s.done(change(end, end.Released()))
				s.done(fire(j, leased(j, 2)))
				s.done(change(end, end.Released().Resolved(job.Success, "I looked")))
				s.stands(end.Released().Resolved(job.Success, "I looked"))
				s.same(s.total(j.ID, job.Unknown), 0)
				s.same(s.total(j.ID, job.Success), 1)
			} else {
				s.same(a.Outcome, store.Done)
			}
		}
	},
	"needs exactly its status and token": func(s *suite) {
		_, e := s.fired()
		for _, c := range []*store.Change{
			{Status: job.Running, Token: 1},
			{Status: job.Retrying, Token: 1},
			{Status: job.Success, Token: 1},
			{Status: job.Pending, Token: 0},
			{Status: job.Pending, Token: 2},
		} {
			c.To = ended(e, job.Success, at(1))
			s.same(s.lost(c).Execution, e)
			s.stands(e)
		}
		s.same(s.total(e.JobID), 1)
		s.same(s.total(e.JobID, job.Success), 0)
	},
	"repeated is done": func(s *suite) {
		_, e := s.fired()
		run := e.Start(at(0), at(0), nil)
		start := change(e, run)
		s.done(start)
		s.done(start)
		end := change(run, ended(run, job.Failed, at(1)))
		end.Audit = audit(e.ID, "execution.resolve", at(1))
		s.done(end)
		s.done(end)
		s.stands(end.To)
		s.same(s.total(e.JobID, job.Failed), 1)
		s.same(len(s.audits(e.ID)), 1)
		// The start came first; it does not stand any more.
		s.same(s.lost(start).Execution, end.To)
		// Another end is not a repetition, whatever it has in common.
		s.same(s.lost(change(run, ended(run, job.Failed, at(2)))).Execution, end.To)
		s.same(s.lost(change(run, ended(run, job.Success, at(1)))).Execution, end.To)
		s.stands(end.To)
	},
	"of no record is lost": func(s *suite) {
		j := s.create()
		for _, id := range []string{leased(j, 1).ID, "exec_nobody_s_20260301T120000Z", "exec_test0001_m_key", "nonsense", "exec_test0001_s_nonsense"} {
			e := leased(j, 1)
			e.ID = id
			c := change(e, ended(e, job.Success, at(1)))
			c.Audit = audit(id, "execution.resolve", at(1))
			if a := s.lost(c); a.Execution != nil {
				s.Fatalf("lost to %s", show(a.Execution))
			}
		}
		s.same(len(s.audits("")), 0)
	},
	"leaves identity, what is frozen and a cancellation": func(s *suite) {
		_, e := s.fired()
		_, err := s.RequestCancel(s.Context(), store.Cancel{ID: e.ID, Now: at(1)})
		s.ok(err)
		to := *ended(e, job.Cancelled, at(1))
		want := to
		want.CancelRequested = true
		to.Frozen.JobName, to.Frozen.Parameters, to.Frozen.Timeout = "other", json.RawMessage(`{}`), minute
		to.ScheduledFor, to.CreatedAt, to.TriggeredByUser, to.JobVersion = at(9), at(9), "bob", 9
		s.done(change(e, &to))
		s.stands(&want)
	},
	"only while no cancellation is requested": func(s *suite) {
		_, e := s.fired()
		back := change(e, e.Requeue(at(1)))
		back.Uncancelled = true
		_, err := s.RequestCancel(s.Context(), store.Cancel{ID: e.ID, Now: at(1)})
		s.ok(err)
		want := *e
		want.CancelRequested = true
		s.same(s.lost(back).Execution, &want)
		_, f := s.fired()
		back = change(f, f.Requeue(at(1)))
		back.Uncancelled = true
		s.done(back)
		s.stands(f.Requeue(at(1)))
	},
	"of a manual run": func(s *suite) {
		j := s.create()
		e, _, err := s.RunNow(s.Context(), store.RunNow{Execution: manual(j, "key_1", at(0)), Now: at(0)})
		s.ok(err)
		held := e.Lease(holder(1), 0, at(0))
		s.done(change(e, held))
		end := ended(held, job.Success, at(1))
		s.done(change(held, end))
		s.stands(end)
	},
}

// lease returns the operation that hands out a record with a seat.
func lease(e *job.Execution, n, seat int) *store.Change {
	return change(e, e.Lease(holder(n), seat, at(0)))
}

// waiting makes a job with n records that wait.
func (s *suite) waiting(n int, set ...func(*job.Job)) []*job.Execution {
	s.Helper()
	j := s.create(append(set, allowOverlap)...)
	records := make([]*job.Execution, n)
	for i := range records {
		records[i] = pending(j)
		f := fire(j, records[i])
		s.done(f)
		j.NextRunAt = f.Next
	}
	return records
}

// taken performs a change that must find its seat taken, and its record as from.
func (s *suite) taken(c *store.Change, from *job.Execution) {
	s.Helper()
	a := s.lost(c)
	s.same(a.SeatTaken, true)
	s.same(a.Execution, from)
	s.stands(from)
}

var seatTests = map[string]func(*suite){
	"are each taken once": func(s *suite) {
		w := s.waiting(4)
		first, second := lease(w[0], 1, 1), lease(w[1], 2, 2)
		s.done(first)
		s.stands(first.To)
		s.done(first) // the same once more
		s.taken(lease(w[1], 2, 1), w[1])
		s.done(second)
		s.taken(lease(w[2], 3, 2), w[2])
		s.same(s.total(w[0].JobID, job.Pending), 4)
		// What is lost for another reason does not say that it is for the seat.
		stale := lease(w[2], 3, 1)
		stale.Token = 5
		s.same(s.lost(stale).SeatTaken, false)
		_, err := s.RequestCancel(s.Context(), store.Cancel{ID: first.To.ID, Now: at(1)})
		s.ok(err)
		move := change(first.To, first.To.Start(at(0), at(0), nil))
		move.To.Seat, move.Uncancelled = 2, true
		s.same(s.lost(move).SeatTaken, false)
		// No seat at all is always free, and another template has its own.
		s.done(lease(w[3], 4, 0))
		s.done(lease(w[2], 3, 12))
		other := s.waiting(2, func(j *job.Job) { j.TemplateType = "noop2" })
		s.done(lease(other[0], 5, 1))
		s.taken(lease(other[1], 6, 1), other[1])
	},
	"are kept until the process is gone": func(s *suite) {
		w := s.waiting(9)
		next := 1
		free := func(want bool) {
			s.Helper()
			if !want {
				s.taken(lease(w[next], 7, 1), w[next])
				return
			}
			l := lease(w[next], 7, 1)
			s.done(l)
			w[next] = l.To
			next++
		}
		become := func(to *job.Execution) {
			s.Helper()
			s.done(change(w[next-1], to))
			s.stands(to)
			w[next-1] = to
		}
		l := lease(w[0], 1, 1)
		s.done(l)
		w[0] = l.To
		become(w[0].Start(at(1), at(1), nil))
		free(false)
		become(ended(w[0], job.Success, at(2)))
		free(true)
		become(w[1].Requeue(at(3)))
		free(true)
		retry := w[2].End(job.Outcome{Status: job.Failed, Retryable: true, StartedAt: at(1), CompletedAt: at(1), Error: "no"}, at(1))
		s.same(retry.Status, job.Retrying)
		become(retry)
		free(true)
		become(w[3].Start(at(1), at(1), nil))
		unknown := ended(w[3], job.Unknown, at(2))
		s.same(unknown.Seat, 1)
		end := change(w[3], unknown)
		become(unknown)
		free(false)
		s.reopen()
		free(false)
		become(unknown.Released())
		s.done(end) // the same once more
		s.stands(unknown.Released())
		free(true)
		// Nobody's seat goes by an end of another that has none.
		none := lease(w[5], 9, 0)
		s.done(none)
		s.done(change(none.To, ended(none.To, job.Success, at(3))))
		next = 6
		free(false)
		// A deleted job's run keeps its own.
		_, err := s.DeleteJob(s.Context(), w[0].JobID, 0, at(5), nil)
		s.ok(err)
		other := s.waiting(1)
		s.taken(lease(other[0], 1, 1), other[0])
		s.done(change(w[4], ended(w[4], job.TimedOut, at(6))))
		s.done(lease(other[0], 1, 1))
	},
}

var logTests = map[string]func(*suite){
	"in chunks": func(s *suite) {
		_, e := s.fired()
		line := func(n int) job.LogLine {
			return job.LogLine{At: at(n).Add(time.Millisecond), Level: "INFO", Message: fmt.Sprintf("line <%d>", n)}
		}
		chunk := func(token int64, number int, lines ...int) *store.AppendLog {
			a := &store.AppendLog{ID: e.ID, Token: token, Number: number}
			for _, n := range lines {
				a.Lines = append(a.Lines, line(n))
			}
			return a
		}
		s.done(chunk(2, 1, 8, 9)) // in any order
		s.done(chunk(1, 2, 3, 4, 5))
		s.done(chunk(1, 1, 0, 1, 2))
		s.done(chunk(1, 10, 6, 7))
		s.done(chunk(1, 3))
		s.done(chunk(1, 1, 99)) // a repetition changes nothing
		for offset := range 12 {
			for _, limit := range []int{0, 1, 3, 100} {
				lines, total, err := s.Logs(s.Context(), e.ID, offset, limit)
				s.ok(err)
				s.same(total, 10)
				s.same(len(lines), max(min(limit, 10-offset), 0))
				for i, l := range lines {
					s.same(l, line(offset+i))
				}
			}
		}
		s.lost(&store.AppendLog{ID: "exec_nobody_m_x", Token: 1, Number: 1})
		lines, total, err := s.Logs(s.Context(), "exec_nobody_m_x", 0, 10)
		s.ok(err)
		s.same(len(lines)+total, 0)
	},
}
