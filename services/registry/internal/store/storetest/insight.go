package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// rollUp counts all that ended before now.
func (s *suite) rollUp(now time.Time) {
	s.Helper()
	for range 1000 {
		more, err := s.RollUp(s.Context(), now)
		s.ok(err)
		if !more {
			return
		}
	}
	s.Fatal("there is more to roll up for ever")
}

// tallied returns what the roll-ups of the executions are, by job, and of all but
// the system's under the empty id.
func tallied(all []*job.Execution) map[string][]store.RollUp {
	steps := map[string]map[time.Time]store.RollUp{"": {}}
	for _, e := range all {
		if !e.Status.Ended() || e.CompletedAt.IsZero() {
			continue
		}
		ids := []string{e.JobID, ""}
		if job.System(e.JobID) {
			ids = ids[:1]
		}
		for _, id := range ids {
			if steps[id] == nil {
				steps[id] = map[time.Time]store.RollUp{}
			}
			from := e.CompletedAt.Truncate(store.RollUpStep)
			u, ok := steps[id][from]
			if !ok {
				u = store.RollUp{From: from, Counts: map[job.Status]int{}}
			}
			u.Counts[e.Status]++
			if !e.StartedAt.IsZero() {
				took := max(e.CompletedAt.Truncate(time.Millisecond).Sub(e.StartedAt.Truncate(time.Millisecond)), 0)
				u.Timed, u.Total, u.Longest = u.Timed+1, u.Total+took, max(u.Longest, took)
			}
			steps[id][from] = u
		}
	}
	rollUps := map[string][]store.RollUp{}
	for id, of := range steps {
		rollUps[id] = []store.RollUp{}
		for _, u := range of {
			rollUps[id] = append(rollUps[id], u)
		}
		slices.SortFunc(rollUps[id], func(a, b store.RollUp) int { return a.From.Compare(b.From) })
	}
	return rollUps
}

// statistics returns all roll-ups of a job, with nothing that may be missing.
func (s *suite) statistics(jobID string) []store.RollUp {
	s.Helper()
	found, err := s.Statistics(s.Context(), jobID, start.AddDate(0, 0, -2), start.AddDate(0, 0, 2))
	s.ok(err)
	return trimmed(found)
}

func trimmed(found []store.RollUp) []store.RollUp {
	all := []store.RollUp{}
	for _, u := range found {
		counts := map[job.Status]int{}
		for status, n := range u.Counts {
			if n != 0 {
				counts[status] = n
			}
		}
		u.Counts = counts
		all = append(all, u)
	}
	return all
}

// counts fails unless the roll-ups are those of the executions. What Longest is
// after a correction is left to the store.
func (s *suite) counts(longest bool, all ...*job.Execution) {
	s.Helper()
	want := tallied(all)
	for id, steps := range want {
		got := s.statistics(id)
		for i := range got {
			if !longest && i < len(steps) && got[i].Longest > steps[i].Longest {
				got[i].Longest = steps[i].Longest
			}
		}
		s.same(got, steps)
	}
}

// doneAt performs an operation at the time, which must be done.
func (s *suite) doneAt(now time.Time, op store.Op) {
	s.Helper()
	s.same(s.doAt(now, op), store.Done)
}

// took is the end of a held record that started so long before.
func took(e *job.Execution, status job.Status, t time.Time, long time.Duration) *job.Execution {
	end := ended(e, status, t)
	end.StartedAt = t.Add(-long)
	end.Attempts = slices.Clone(end.Attempts)
	end.Attempts[len(end.Attempts)-1].StartedAt = end.StartedAt
	return end
}

// state returns the state of a job, which the list tells alike.
func (s *suite) state(id string) job.State {
	s.Helper()
	j, err := s.Job(s.Context(), id)
	s.ok(err)
	if j.Deleted {
		return j.State
	}
	page, _, err := s.Jobs(s.Context(), store.JobFilter{States: []job.State{j.State}, Limit: 100})
	s.ok(err)
	for _, l := range page {
		s.same(l.State, j.State)
		if l.ID == id {
			return j.State
		}
	}
	s.Fatalf("%s is %s, and not among those that are", id, j.State)
	return ""
}

var insightTests = map[string]func(*suite){
	"each end counts once, as what it was": func(s *suite) {
		var all []*job.Execution
		finish := func(e, end *job.Execution) *job.Execution {
			s.Helper()
			s.doneAt(end.CompletedAt, change(e, end))
			all = append(all, end)
			return end
		}
		// Of one job, as each there is.
		j := s.create(allowOverlap)
		for i, status := range []job.Status{job.Success, job.Success, job.Failed, job.TimedOut, job.Cancelled} {
			j = s.job(j.ID)
			e := leased(j, i)
			s.done(fire(j, e))
			finish(e, took(e, status, at(1+i*7), time.Duration(100+i)*time.Second))
		}
		// One whose times two clocks have told.
		j = s.job(j.ID)
		e := leased(j, 9)
		s.done(fire(j, e))
		finish(e, took(e, job.Success, at(31), -minute))
		// Skipped.
		j = s.job(j.ID)
		missed := skip(j, 3)
		f := fire(j, missed)
		f.Next = missed.MissedUntil.Add(minute)
		s.doneAt(missed.CompletedAt, f)
		s.doneAt(missed.CompletedAt, f) // repeated
		all = append(all, missed)
		// Cancelled while they waited.
		w := manual(j, "a", at(32))
		w.Exclusive = false
		_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: w, Now: at(32)})
		s.ok(err)
		w, err = s.RequestCancel(s.Context(), store.Cancel{ID: w.ID, Now: at(33)})
		s.ok(err)
		all = append(all, w)
		w = manual(j, "b", at(33))
		w.Exclusive = false
		_, _, err = s.RunNow(s.Context(), store.RunNow{Execution: w, Now: at(33)})
		s.ok(err)
		_, err = s.DeleteJob(s.Context(), j.ID, 0, at(34), nil)
		s.ok(err)
		all = append(all, s.execution(w.ID))
		// Unknown, of two other jobs; they give up what they kept.
		var unknown []*job.Execution
		for i := range 2 {
			k := s.create(func(k *job.Job) { k.NextRunAt = at(34) })
			e := leased(k, 20+i)
			s.doneAt(at(34), fire(k, e))
			end := finish(e, took(e, job.Unknown, at(35), minute))
			s.doneAt(at(36), change(end, end.Released()))
			unknown = append(unknown, end.Released())
		}
		// What is not over does not count.
		k := s.create()
		s.done(fire(k, leased(k, 30)))

		s.reopen()
		for range 2 { // also when it is all counted
			s.rollUp(at(37))
			s.counts(true, all...)
		}
		s.same(s.state(unknown[0].JobID), job.StateFailing)

		// A person finds out what became of one, a late result tells of the other.
		resolved := unknown[0].Resolved(job.Failed, "I looked")
		s.doneAt(at(120), change(unknown[0], resolved))
		s.doneAt(at(120), change(unknown[0], resolved)) // repeated
		late := took(unknown[1], job.Success, at(27), time.Second)
		s.doneAt(at(121), change(unknown[1], late))
		all = append(all[:len(all)-2], resolved, late)
		s.rollUp(at(122))
		s.counts(false, all...)
		s.same(s.state(resolved.JobID), job.StateFailing)
		s.same(s.state(late.JobID), job.StateOK)
	},
	"an end that is told late counts when it was": func(s *suite) {
		j, e := s.fired(allowOverlap)
		first := ended(e, job.Success, at(40))
		s.doneAt(at(40), change(e, first))
		s.rollUp(at(60))
		s.counts(true, first)
		j = s.job(j.ID)
		e = leased(j, 2)
		s.doneAt(at(50), fire(j, e))
		late := ended(e, job.Failed, at(50))
		s.doneAt(at(60), change(e, late))
		j = s.job(j.ID)
		e = leased(j, 3)
		s.doneAt(at(50), fire(j, e))
		s.rollUp(at(61))
		s.same(s.state(j.ID), job.StateFailing)
		later := ended(e, job.Success, at(39)) // before what was counted: the state stays
		s.doneAt(at(61), change(e, later))
		s.rollUp(at(61))
		s.counts(true, first, late, later)
		s.same(s.state(j.ID), job.StateFailing)
	},
	"whoever counts, and however often, each end counts once": func(s *suite) {
		j := s.create(allowOverlap)
		var mu sync.Mutex
		var all []*job.Execution
		counters, rounds := s.scale(4, 2), s.scale(40, 6)
		race(1+counters, func(i int) bool {
			if i > 0 {
				for range rounds {
					if _, err := s.RollUp(s.Context(), at(1000)); err != nil {
						s.Error(err)
					}
				}
				return true
			}
			next := *j
			for n := range rounds {
				e := leased(&next, n)
				end := ended(e, []job.Status{job.Success, job.Failed}[n%2], at(1000-n))
				for _, a := range s.Do(s.Context(), at(1000), []store.Op{fire(&next, e), change(e, end)}) {
					if a.Outcome != store.Done {
						s.Errorf("%s", show(a))
					}
				}
				next.NextRunAt = next.NextRunAt.Add(minute)
				mu.Lock()
				all = append(all, end)
				mu.Unlock()
			}
			return true
		})
		s.rollUp(at(1001))
		s.counts(true, all...)
	},
	"also when answers are lost": func(s *suite) {
		plain := s.Store
		flaky := Flaky(plain, 7)
		j := s.create(allowOverlap)
		var all []*job.Execution
		lost := 0
		for n := range s.scale(30, 8) {
			j = s.job(j.ID)
			e := leased(j, n)
			end := ended(e, job.Success, at(n*5))
			for _, op := range []store.Op{fire(j, e), change(e, end)} {
				for flaky.Do(s.Context(), at(n*5), []store.Op{op})[0].Outcome != store.Done {
					lost++
				}
			}
			all = append(all, end)
			if _, err := flaky.RollUp(s.Context(), at(n*5)); err != nil {
				s.fails(err, job.ErrUnavailable)
				lost++
			}
		}
		if lost == 0 {
			s.Fatal("no answer was lost")
		}
		s.rollUp(at(1000))
		s.counts(true, all...)
	},
	"statistics of a time": func(s *suite) {
		j := s.create(allowOverlap)
		quarter := store.RollUpStep
		for i, t := range []time.Time{at(0), at(15).Add(-time.Millisecond), at(15), at(75)} {
			j = s.job(j.ID)
			e := leased(j, i)
			s.done(fire(j, e))
			s.doneAt(t, change(e, ended(e, job.Success, t)))
		}
		s.rollUp(at(76))
		for _, c := range []struct {
			from, until time.Time
			want        []int // quarters of an hour after start
		}{
			{at(0), at(90), []int{0, 1, 5}},
			{at(0), at(75), []int{0, 1}},
			{at(0), at(75).Add(time.Millisecond), []int{0, 1, 5}},
			{at(0).Add(time.Millisecond), at(90), []int{1, 5}},
			{at(15), at(30), []int{1}},
			{at(30), at(60), nil},
			{at(90), at(0), nil},
			{at(90), at(200), nil},
			{time.Time{}, at(1_000_000), []int{0, 1, 5}},
		} {
			for _, id := range []string{j.ID, ""} {
				found, err := s.Statistics(s.Context(), id, c.from, c.until)
				s.ok(err)
				var got []int
				for _, u := range found {
					got = append(got, int(u.From.Sub(start)/quarter))
				}
				s.same(got, c.want)
			}
		}
		for _, id := range []string{"job_nobody", s.create().ID} {
			found, err := s.Statistics(s.Context(), id, at(0), at(90))
			s.ok(err)
			s.same(len(found), 0)
		}
	},
	"the system's jobs are not among all": func(s *suite) {
		_, e := s.fired()
		own := ended(e, job.Failed, at(1))
		s.doneAt(at(1), change(e, own))
		all := []*job.Execution{own}
		for i, id := range []string{job.NotificationsID, job.TrialsID} {
			system := s.create(func(j *job.Job) {
				j.ID, j.Deleted, j.Enabled, j.NextRunAt = id, true, false, time.Time{}
			})
			system.NextRunAt = start // for the helpers
			run := manual(system, fmt.Sprint("k", i), at(1)).Lease(holder(i), 0, at(1))
			run.Exclusive = false
			stored, replayed, err := s.RunNow(s.Context(), store.RunNow{Execution: run, Now: at(1), PerHour: 3})
			s.ok(err)
			s.same(replayed, false)
			s.same(stored, run)
			end := ended(run, job.Success, at(2))
			s.doneAt(at(2), change(run, end))
			all = append(all, end)
		}
		s.rollUp(at(3))
		s.counts(true, all...)
		s.same(len(s.statistics("")), 1)
		s.same(s.statistics("")[0].Counts, map[job.Status]int{job.Failed: 1})
	},
	"the state of a job is how its latest run ended": func(s *suite) {
		j := s.create(allowOverlap)
		n := 0
		finish := func(status job.Status, t time.Time) (end *job.Execution) {
			s.Helper()
			n++
			j = s.job(j.ID)
			e := leased(j, n)
			s.doneAt(at(n), fire(j, e))
			end = ended(e, status, t)
			s.doneAt(t, change(e, end))
			return end
		}
		is := func(want job.State) {
			s.Helper()
			s.rollUp(at(500))
			s.same(s.state(j.ID), want)
		}
		is(job.StateNever)
		finish(job.Cancelled, at(100))
		is(job.StateNever)
		finish(job.Failed, at(101))
		is(job.StateFailing)
		finish(job.Success, at(102))
		is(job.StateOK)
		finish(job.TimedOut, at(103))
		finish(job.Cancelled, at(104))
		is(job.StateFailing)
		finish(job.Success, at(105))
		j = s.job(j.ID)
		s.doneAt(at(105), fire(j, skip(j, 1)))
		is(job.StateOK)
		// An edit leaves it.
		s.edit(s.job(j.ID), func(j *job.Job) { j.Description = "edited" })
		s.reopen()
		is(job.StateOK)
		// It ended before the registry said that nobody knows how.
		unknown := finish(job.Unknown, at(120))
		is(job.StateFailing)
		late := ended(unknown, job.Success, at(119))
		s.doneAt(at(500), change(unknown, late))
		is(job.StateOK)
		// It turns out to have been cancelled: what was before counts.
		unknown = finish(job.Unknown, at(121))
		is(job.StateFailing)
		s.doneAt(at(500), change(unknown, ended(unknown, job.Cancelled, at(121))))
		is(job.StateOK)
		_, err := s.DeleteJob(s.Context(), j.ID, 0, at(501), nil)
		s.ok(err)
		is(job.StateOK)
	},
	"latest runs": func(s *suite) {
		first, second, none := s.create(allowOverlap), s.create(allowOverlap), s.create()
		want := map[string][]*job.Execution{}
		for n := range 5 {
			for _, id := range []string{first.ID, second.ID} {
				if id == second.ID && n > 1 {
					continue
				}
				j := s.job(id)
				e := leased(j, n)
				s.done(fire(j, e))
				if n == 1 {
					end := ended(e, job.Failed, at(n))
					s.done(change(e, end))
					e = end
				}
				want[id] = append([]*job.Execution{e}, want[id]...)
			}
		}
		for _, n := range []int{0, 1, 3, 100} {
			got, err := s.Recent(s.Context(), []string{first.ID, "job_nobody", none.ID, second.ID}, n)
			s.ok(err)
			for _, id := range []string{first.ID, second.ID} {
				s.same(append([]*job.Execution{}, got[id]...), append([]*job.Execution{}, want[id][:min(n, len(want[id]))]...))
			}
			s.same(len(got["job_nobody"])+len(got[none.ID]), 0)
		}
		got, err := s.Recent(s.Context(), nil, 10)
		s.ok(err)
		s.same(len(got), 0)
		_, err = s.Recent(s.Context(), make([]string, 101), 10)
		s.fails(err, job.ErrUnavailable)
	},
	"what lives, and how much": func(s *suite) {
		pulse := func(now time.Time) store.Pulse {
			s.Helper()
			p, err := s.Pulse(s.Context(), now)
			s.ok(err)
			return p
		}
		s.same(pulse(at(0)), store.Pulse{})
		page, total, err := s.Live(s.Context(), 0, 10)
		s.ok(err)
		s.same(len(page)+total, 0)

		var held, waiting []*job.Execution
		for i, wake := range []int{5, 2, 9, 2, 7} {
			j := s.create(func(j *job.Job) {
				j.Enabled = i > 0
				j.TemplateType = []string{"noop", "other"}[i%2] // in queues of their own
			})
			e := pending(j)
			e.WakeAt = at(wake).Add(time.Duration(i) * time.Second)
			s.done(fire(j, e))
			waiting = append(waiting, e)
			j = s.create()
			l := leased(j, i)
			s.done(fire(j, l))
			if i%2 == 1 {
				run := l.Start(at(0), at(0), nil)
				s.done(change(l, run))
				l = run
			}
			held = append(held, l)
			_, e = s.fired() // over
			s.done(change(e, ended(e, job.Unknown, at(1))))
		}
		gone := s.create()
		_, err = s.DeleteJob(s.Context(), gone.ID, 0, at(0), nil)
		s.ok(err)
		slices.SortFunc(waiting, func(a, b *job.Execution) int { return a.WakeAt.Compare(b.WakeAt) })
		for _, size := range []int{1, 3, 4, 100} {
			if size == 1 && s.small {
				continue
			}
			var got []*job.Execution
			for {
				page, total, err := s.Live(s.Context(), len(got), size)
				s.ok(err)
				s.same(total, 10)
				if len(page) > size {
					s.Fatalf("%d of at most %d", len(page), size)
				}
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
			}
			s.same(len(got), 10)
			set(s, got, executionID)
			for _, e := range got[:5] {
				if !e.Leased() {
					s.Fatalf("%s stands among those that somebody has leased", e.ID)
				}
			}
			for i, e := range got[5:] {
				s.same(e, waiting[i])
			}
			sameRecords(s, set(s, got[:5], executionID), set(s, held, executionID))
		}
		want := store.Pulse{Jobs: 15, Enabled: 14, Held: 5, Waiting: 5}
		s.same(pulse(at(1)), want)
		want.Due, want.DueSince = 2, waiting[0].WakeAt
		s.same(pulse(at(3)), want)
		want.Due = 3
		s.same(pulse(waiting[2].WakeAt), want) // due at this very instant
		want.Due = 5
		s.same(pulse(at(100)), want)
	},
	"failures": func(s *suite) {
		var want []*job.Execution // latest first
		for i, status := range []job.Status{job.Failed, job.Success, job.TimedOut, job.Cancelled, job.Unknown, job.Failed, job.Unknown} {
			_, e := s.fired()
			end := ended(e, status, at(10+i))
			s.doneAt(at(10+i), change(e, end))
			switch {
			case i == 6: // it was none
				s.doneAt(at(20), change(end, ended(end, job.Success, at(16))))
			case status != job.Success && status != job.Cancelled:
				want = append([]*job.Execution{end}, want...)
			}
		}
		resolved := want[1].Resolved(job.Failed, "I looked") // the unknown one
		s.doneAt(at(20), change(want[1], resolved))
		want[1] = resolved
		for _, c := range []struct {
			since time.Time
			n     int
		}{{time.Time{}, 4}, {at(10), 4}, {at(10).Add(time.Millisecond), 3}, {at(15), 1}, {at(16), 0}} {
			for _, size := range []int{1, 3, 100} {
				var got []*job.Execution
				for {
					page, total, err := s.Failures(s.Context(), c.since, len(got), size)
					s.ok(err)
					s.same(total, c.n)
					if len(page) == 0 {
						break
					}
					got = append(got, page...)
				}
				s.same(append([]*job.Execution{}, got...), want[:c.n])
			}
		}
	},
}

// search lists the names of the jobs that a filter chooses, in its order, and
// fails unless all sizes of pages give the same.
func (s *suite) search(f store.JobFilter) []string {
	s.Helper()
	names := func(size int) (all []string) {
		s.Helper()
		all = []string{}
		for f.Offset, f.Limit = 0, size; ; f.Offset += size {
			page, total, err := s.Jobs(s.Context(), f)
			s.ok(err)
			if len(page) == 0 {
				s.same(len(all), total)
				return all
			}
			for _, j := range page {
				all = append(all, j.Name)
			}
		}
	}
	all := names(100)
	s.same(names(3), all)
	return all
}

func label(key string, value ...string) store.LabelTerm {
	if len(value) == 0 {
		return store.LabelTerm{Key: key}
	}
	return store.LabelTerm{Key: key, Value: &value[0]}
}

var searchTests = map[string]func(*suite){
	"words": func(s *suite) {
		for _, j := range []struct{ name, description, template string }{
			{"Nightly clean-up", "Removes what is OLD", "database_cleanup"},
			{"Weekly report", "for the 100% club", "email_notification"},
			{"a_b", "under\\score", "noop"},
			{"aXb", "", "noop"},
		} {
			s.create(func(n *job.Job) { n.Name, n.Description, n.TemplateType = j.name, j.description, j.template })
		}
		all := s.search(store.JobFilter{})
		s.same(all, []string{"aXb", "a_b", "Weekly report", "Nightly clean-up"})
		for words, want := range map[string][]string{
			"nightly": all[3:], "NIGHTLY": all[3:], "old": all[3:], "Cleanup": all[3:], "clean": all[3:], "clean-": all[3:],
			"noop": all[:2], "a_b": all[1:2], "axb": all[:1], "100%": all[2:3], "%": all[2:3], "_": all[1:], "\\": all[1:2],
			".": {}, "a.b": {}, "nothing": {}, "(": {}, "nightlyremoves": {},
		} {
			if got := s.search(store.JobFilter{Words: []string{words}}); !slices.Equal(got, want) {
				s.Errorf("%q finds %q, want %q", words, got, want)
			}
		}
		s.same(s.search(store.JobFilter{Words: []string{"REPORT", "email", "club"}}), all[2:3])
		s.same(s.search(store.JobFilter{Words: []string{"report", "noop"}}), []string{})
		yes := true
		s.same(s.search(store.JobFilter{Words: []string{"a"}, TemplateTypes: []string{"noop"}, Enabled: &yes}), all[:2])
		// An edit changes what is found; what is deleted is not found.
		page, _ := s.jobs(store.JobFilter{Words: []string{"nightly"}, Limit: 1})
		s.edit(page[0], func(j *job.Job) { j.Description = "keeps all" })
		s.same(s.search(store.JobFilter{Words: []string{"old"}}), []string{})
		s.same(s.search(store.JobFilter{Words: []string{"keeps"}}), all[3:])
		_, err := s.DeleteJob(s.Context(), page[0].ID, 0, at(0), nil)
		s.ok(err)
		s.same(s.search(store.JobFilter{Words: []string{"keeps"}}), []string{})
	},
	"labels": func(s *suite) {
		for i, labels := range []map[string]string{
			nil, {}, {"team": "a"}, {"team": "b", "stage": "a"}, {"a.b": "$x", "note": `","team":"a`}, {`x"team`: "a", "a": "", "teams": "a"},
		} {
			s.create(func(j *job.Job) { j.Name, j.Labels = fmt.Sprint("n", i), labels })
		}
		byName := store.JobSort{By: store.SortName}
		for i, c := range []struct {
			terms []store.LabelTerm
			want  []string
		}{
			{[]store.LabelTerm{label("team")}, []string{"n2", "n3"}},
			{[]store.LabelTerm{label("team", "a")}, []string{"n2"}},
			{[]store.LabelTerm{label("team", "A")}, []string{}},
			{[]store.LabelTerm{label("team", "b"), label("stage")}, []string{"n3"}},
			{[]store.LabelTerm{label("team", "a"), label("stage")}, []string{}},
			{[]store.LabelTerm{label("a.b")}, []string{"n4"}},
			{[]store.LabelTerm{label("a.b", "$x")}, []string{"n4"}},
			{[]store.LabelTerm{label("a", "")}, []string{"n5"}},
			{[]store.LabelTerm{label("tea")}, []string{}},
			{[]store.LabelTerm{label(`x"team`, "a")}, []string{"n5"}},
		} {
			if got := s.search(store.JobFilter{Labels: c.terms, Sort: byName}); !slices.Equal(got, c.want) {
				s.Errorf("%d: found %q, want %q", i, got, c.want)
			}
		}
		page, _ := s.jobs(store.JobFilter{Labels: []store.LabelTerm{label("stage")}, Limit: 1})
		s.edit(page[0], func(j *job.Job) { j.Labels = map[string]string{"stage": "c"} })
		s.same(s.search(store.JobFilter{Labels: []store.LabelTerm{label("team")}}), []string{"n2"})
		s.same(s.search(store.JobFilter{Labels: []store.LabelTerm{label("stage", "c")}}), []string{"n3"})
	},
	"states": func(s *suite) {
		for i, status := range []job.Status{job.Success, job.Failed, job.Unknown, job.Cancelled, ""} {
			j := s.create(func(j *job.Job) { j.Name = fmt.Sprint("n", i) })
			if status == "" {
				continue
			}
			e := leased(j, 1)
			s.done(fire(j, e))
			s.doneAt(at(1), change(e, ended(e, status, at(1))))
		}
		s.rollUp(at(2))
		for _, c := range []struct {
			states []job.State
			want   []string
		}{
			{nil, []string{"n4", "n3", "n2", "n1", "n0"}},
			{[]job.State{job.StateOK}, []string{"n0"}},
			{[]job.State{job.StateFailing}, []string{"n2", "n1"}},
			{[]job.State{job.StateNever}, []string{"n4", "n3"}},
			{[]job.State{job.StateNever, job.StateOK}, []string{"n4", "n3", "n0"}},
			{[]job.State{job.StateNever, job.StateOK, job.StateFailing}, []string{"n4", "n3", "n2", "n1", "n0"}},
		} {
			s.same(s.search(store.JobFilter{States: c.states}), c.want)
		}
		s.same(s.search(store.JobFilter{States: []job.State{job.StateFailing}, Words: []string{"N1"}, Labels: []store.LabelTerm{label("team")}}), []string{"n1"})
	},
	"sorted": func(s *suite) {
		for i, c := range []struct {
			name             string
			created, updated int
			next             int // none when negative
		}{
			{name: "b", created: 1, updated: 9, next: 3},
			{name: "B", created: 1, updated: 8, next: -1},
			{name: "a", created: 0, updated: 9, next: 3},
			{name: "ab", created: 5, updated: 1, next: 1},
			{name: "é", created: 4, updated: 2, next: -1},
		} {
			s.create(func(j *job.Job) {
				j.Name, j.CreatedAt, j.UpdatedAt = c.name, at(c.created), at(c.updated)
				j.ID = fmt.Sprintf("job_sort%d", 9-i) // against the order of creation
				if j.NextRunAt = at(c.next); c.next < 0 {
					j.Enabled, j.NextRunAt = false, time.Time{}
				}
			})
		}
		for _, c := range []struct {
			sort store.JobSort
			want []string
		}{
			{store.JobSort{}, []string{"ab", "é", "b", "B", "a"}},
			{store.JobSort{By: store.SortCreated, Descending: true}, []string{"ab", "é", "b", "B", "a"}},
			{store.JobSort{By: store.SortCreated}, []string{"a", "B", "b", "é", "ab"}},
			{store.JobSort{By: store.SortName}, []string{"B", "a", "ab", "b", "é"}},
			{store.JobSort{By: store.SortName, Descending: true}, []string{"é", "b", "ab", "a", "B"}},
			{store.JobSort{By: store.SortUpdated}, []string{"ab", "é", "B", "a", "b"}},
			{store.JobSort{By: store.SortUpdated, Descending: true}, []string{"b", "a", "B", "é", "ab"}},
			{store.JobSort{By: store.SortNextRun}, []string{"ab", "a", "b", "é", "B"}},
			{store.JobSort{By: store.SortNextRun, Descending: true}, []string{"b", "a", "ab", "B", "é"}},
		} {
			if got := s.search(store.JobFilter{Sort: c.sort}); !slices.Equal(got, c.want) {
				s.Errorf("%+v: %q, want %q", c.sort, got, c.want)
			}
		}
		yes := true
		s.same(s.search(store.JobFilter{Sort: store.JobSort{By: store.SortNextRun}, Enabled: &yes}), []string{"ab", "a", "b"})
		// A run moves it, an edit as well.
		j := s.job("job_sort6") // ab
		s.done(fire(j, leased(j, 1)))
		s.edit(s.job("job_sort6"), func(j *job.Job) { j.UpdatedAt = at(20) })
		s.same(s.search(store.JobFilter{Sort: store.JobSort{By: store.SortNextRun}})[0], "ab") // at(2), still the first
		s.same(s.search(store.JobFilter{Sort: store.JobSort{By: store.SortUpdated}})[4], "ab")
		_, _, err := s.Jobs(s.Context(), store.JobFilter{Sort: store.JobSort{By: "nonsense"}, Limit: 10})
		s.fails(err, job.ErrUnavailable)
		_, _, err = s.Jobs(s.Context(), store.JobFilter{States: []job.State{"nonsense"}, Limit: 10})
		s.fails(err, job.ErrUnavailable)
	},
}

// user returns a user as it is added.
func user(name, role string) store.User {
	return store.User{Name: name, Role: role, PasswordHash: "hash of " + name, CreatedAt: at(0)}
}

var userTests = map[string]func(*suite){
	"are listed, changed and removed": func(s *suite) {
		ctx := s.Context()
		all, err := s.Users(ctx)
		s.ok(err)
		s.same(len(all), 0)
		zoe, ann, bob := user("zoe", "super_admin"), user("ann", "admin"), user("bob", "user")
		for _, u := range []store.User{zoe, ann, bob} {
			s.ok(s.AddUser(ctx, u, nil))
		}
		users := func(want ...store.User) {
			s.Helper()
			got, err := s.Users(ctx)
			s.ok(err)
			s.same(got, want)
		}
		users(ann, bob, zoe)
		for i, c := range []struct{ role, hash string }{{"user", ""}, {"", "new"}, {"admin", "newer"}, {"admin", "newer"}, {"", ""}} {
			change := store.ChangeUser{Name: "ann", Audit: audit("ann", "user.update", at(i))}
			if c.role != "" {
				change.Role, ann.Role = &c.role, c.role
			}
			if c.hash != "" {
				change.PasswordHash, ann.PasswordHash = &c.hash, c.hash
			}
			got, err := s.ChangeUser(ctx, change)
			s.ok(err)
			s.same(got, ann)
			users(ann, bob, zoe)
		}
		s.same(len(s.audits("ann")), 3) // of what changed something

		s.ok(s.AddToken(ctx, store.Token{Hash: "aa", User: "ann", Kind: store.TokenPersonal, CreatedAt: at(0)}, nil))
		s.ok(s.AddToken(ctx, store.Token{Hash: "bb", User: "bob", Kind: store.TokenPersonal, CreatedAt: at(0)}, nil))
		s.ok(s.RemoveUser(ctx, "ann", audit("ann", "user.delete", at(5))))
		users(bob, zoe)
		s.same(len(s.audits("ann")), 4)
		_, _, err = s.TokenOwner(ctx, "aa")
		s.fails(err, job.ErrNotFound)
		_, _, err = s.TokenOwner(ctx, "bb")
		s.ok(err)
		s.fails(s.RemoveUser(ctx, "ann", audit("ann", "user.delete", at(5))), job.ErrNotFound)
		role := "admin"
		_, err = s.ChangeUser(ctx, store.ChangeUser{Name: "ann", Role: &role, Audit: audit("ann", "user.update", at(5))})
		s.fails(err, job.ErrNotFound)
		s.same(len(s.audits("ann")), 4)
		// One of the name is another one.
		again := user("ann", "user")
		s.ok(s.AddUser(ctx, again, nil))
		tokens, err := s.Tokens(ctx, "ann")
		s.ok(err)
		s.same(len(tokens), 0)
		users(again, bob, zoe)
	},
	"a super admin stays": func(s *suite) {
		ctx := s.Context()
		role, hash := "admin", "new"
		// Without any, there is none to lose.
		s.ok(s.AddUser(ctx, user("eve", "admin"), nil))
		_, err := s.ChangeUser(ctx, store.ChangeUser{Name: "eve", PasswordHash: &hash})
		s.ok(err)
		first := user("ann", "super_admin")
		s.ok(s.AddUser(ctx, first, nil))
		_, err = s.ChangeUser(ctx, store.ChangeUser{Name: "ann", Role: &role, PasswordHash: &hash, Audit: audit("ann", "user.update", at(1))})
		s.fails(err, job.ErrLastAdmin)
		s.fails(s.RemoveUser(ctx, "ann", audit("ann", "user.delete", at(1))), job.ErrLastAdmin)
		got, err := s.UserByName(ctx, "ann")
		s.ok(err)
		s.same(got, first)
		s.same(len(s.audits("ann")), 0)
		got, err = s.ChangeUser(ctx, store.ChangeUser{Name: "ann", Role: &first.Role, PasswordHash: &hash})
		s.ok(err)
		s.same(got.PasswordHash, hash)
		// With another one it may go.
		s.ok(s.AddUser(ctx, user("bob", "super_admin"), nil))
		_, err = s.ChangeUser(ctx, store.ChangeUser{Name: "ann", Role: &role})
		s.ok(err)
		s.fails(s.RemoveUser(ctx, "bob", nil), job.ErrLastAdmin)
	},
	"of several super admins who leave at once, one stays": func(s *suite) {
		ctx := s.Context()
		for round := range s.scale(10, 3) {
			names := []string{fmt.Sprint("a", round), fmt.Sprint("b", round), fmt.Sprint("c", round)}
			for _, name := range names {
				s.ok(s.AddUser(ctx, user(name, "super_admin"), nil))
			}
			if round == 0 {
				s.ok(s.AddUser(ctx, user("eve", "user"), nil))
			}
			role := "user"
			race(len(names), func(i int) bool {
				var err error
				if i == 0 {
					err = s.RemoveUser(ctx, names[i], nil)
				} else {
					_, err = s.ChangeUser(ctx, store.ChangeUser{Name: names[i], Role: &role})
				}
				if err != nil && !errors.Is(err, job.ErrLastAdmin) {
					s.Error(err)
				}
				return err == nil
			})
			all, err := s.Users(ctx)
			s.ok(err)
			left := 0
			for _, u := range all {
				if u.Role == "super_admin" {
					left++
				}
			}
			if left == 0 {
				s.Fatal("no super admin is left")
			}
		}
	},
	"have tokens": func(s *suite) {
		ctx := s.Context()
		for _, name := range []string{"ann", "bob"} {
			s.ok(s.AddUser(ctx, user(name, "admin"), nil))
		}
		old := store.Token{Hash: "cc", User: "ann", Kind: store.TokenLogin, CreatedAt: at(0)}
		mid := store.Token{Hash: "aa", User: "ann", Kind: store.TokenSession, CreatedAt: at(1), ExpiresAt: at(9)}
		young := store.Token{Hash: "bb", User: "ann", Kind: store.TokenPersonal, Name: "laptop", CreatedAt: at(2)}
		for _, t := range []store.Token{mid, old, young, {Hash: "dd", User: "bob", Kind: store.TokenPersonal, CreatedAt: at(1)}} {
			for range 2 {
				s.ok(s.AddToken(ctx, t, audit(t.User, "token.create", at(2))))
			}
		}
		tokens := func(user string, want ...store.Token) {
			s.Helper()
			got, err := s.Tokens(ctx, user)
			s.ok(err)
			s.same(append([]store.Token{}, got...), append([]store.Token{}, want...))
		}
		tokens("ann", young, mid, old)
		tokens("nobody")
		s.same(len(s.audits("ann")), 3)
		// Only the user's own, and those that there are.
		for range 2 {
			s.ok(s.DeleteTokens(ctx, "ann", []string{"aa", "dd", "zz", "cc"}, audit("ann", "token.delete", at(3))))
		}
		tokens("ann", young)
		s.same(len(s.audits("ann")), 4)
		_, _, err := s.TokenOwner(ctx, "dd")
		s.ok(err)
		s.ok(s.DeleteTokens(ctx, "ann", nil, audit("ann", "token.delete", at(3))))
		s.same(len(s.audits("ann")), 4)
		s.reopen()
		tokens("ann", young)
	},
	"are found in the audit log": func(s *suite) {
		ctx := s.Context()
		for i, c := range []struct{ user, action, object string }{
			{"ann", "user.create", "x"}, {"bob", "user.create", "y"}, {"ann", "user.update", "x"}, {"ann", "user.create", "z"},
		} {
			a := audit(c.object, c.action, at(i))
			a.User = c.user
			s.ok(s.AddUser(ctx, user(fmt.Sprint("u", i), "user"), a))
		}
		for _, c := range []struct {
			f    store.AuditFilter
			want []string // latest first
		}{
			{store.AuditFilter{}, []string{"z/1", "x/2", "y/1", "x/1"}},
			{store.AuditFilter{User: "ann"}, []string{"z/1", "x/2", "x/1"}},
			{store.AuditFilter{Action: "user.create"}, []string{"z/1", "y/1", "x/1"}},
			{store.AuditFilter{User: "ann", Action: "user.create"}, []string{"z/1", "x/1"}},
			{store.AuditFilter{User: "ann", Action: "user.create", Object: "x"}, []string{"x/1"}},
			{store.AuditFilter{User: "an"}, nil},
			{store.AuditFilter{Action: "user"}, nil},
		} {
			for _, size := range []int{1, 100} {
				var got []string
				for c.f.Offset, c.f.Limit = 0, size; ; c.f.Offset += size {
					page, total, err := s.Audits(ctx, c.f)
					s.ok(err)
					s.same(total, len(c.want))
					if len(page) == 0 {
						break
					}
					for _, a := range page {
						got = append(got, a.ID)
					}
				}
				s.same(got, c.want)
			}
		}
	},
}
