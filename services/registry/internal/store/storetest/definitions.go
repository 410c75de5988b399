package storetest

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var definitionTests = map[string]func(*suite){
	"a job comes back as it was": func(s *suite) {
		run := at(5)
		for _, change := range []func(*job.Job){
			func(*job.Job) {},
			func(j *job.Job) {
				j.Schedule = schedule.Spec{Type: schedule.Cron, Expression: "0 19 * * *", Timezone: "Europe/Berlin", DST: &schedule.DST{Gap: schedule.GapSkip, Overlap: schedule.OverlapTwice}}
			},
			func(j *job.Job) {
				j.Schedule = schedule.Spec{Type: schedule.Once, RunAt: &run}
				j.Priority, j.Selector = 0, nil
				j.Enabled, j.NextRunAt, j.Labels, j.Parameters, j.Notifications = false, time.Time{}, nil, nil, job.Notifications{}
			},
			func(j *job.Job) {
				j.Parameters = json.RawMessage(`{"$lt":"6 months ago","a.b":"\u003c","u":"ünï"}`)
				j.Description, j.Labels = "", map[string]string{}
				j.Organisation, j.Priority, j.Selector = "acme", job.MinPriority, map[string]string{"zone": "a.b", "gpu": "$x", "arch": "arm64"}
			},
		} {
			j := newJob(s.made + 1)
			change(j)
			got := s.create(change)
			s.same(got, j)
			s.same(s.job(j.ID), j)
		}
	},
	"create is repeatable": func(s *suite) {
		j := newJob(1)
		c := store.CreateJob{Job: j, Fingerprint: "f", Limit: 1, Audit: audit(j.ID, "job.create", at(0))}
		_, replayed, err := s.CreateJob(s.Context(), c)
		s.ok(err)
		s.same(replayed, false)
		stands := s.edit(j, func(j *job.Job) { j.Name = "renamed" })
		got, replayed, err := s.CreateJob(s.Context(), c)
		s.ok(err)
		s.same(replayed, true)
		s.same(got, stands)
		c.Fingerprint = "g"
		_, _, err = s.CreateJob(s.Context(), c)
		s.fails(err, job.ErrKeyReused)
		s.same(len(s.audits(j.ID)), 1)
	},
	"names are unique among live jobs": func(s *suite) {
		j := s.create()
		k := newJob(50)
		k.Name = j.Name
		_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: k, Audit: audit(k.ID, "job.create", at(0))})
		s.fails(err, job.ErrNameTaken)
		_, err = s.Job(s.Context(), k.ID)
		s.fails(err, job.ErrNotFound)
		other := s.create()
		after := other.Clone()
		after.Name, after.Version = j.Name, 2
		_, err = s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: other.NextRunAt, After: after, Audit: audit(other.ID, "job.update", at(0))})
		s.fails(err, job.ErrNameTaken)
		s.same(s.job(other.ID), other)
		s.same(len(s.audits("")), 0)
		_, err = s.DeleteJob(s.Context(), j.ID, 0, at(1), nil)
		s.ok(err)
		_, _, err = s.CreateJob(s.Context(), store.CreateJob{Job: k})
		s.ok(err)
		// And a name given up by an edit is free.
		s.edit(k, func(j *job.Job) { j.Name = "new" })
		s.edit(other, func(o *job.Job) { o.Name = j.Name })
	},
	"the limit counts live jobs": func(s *suite) {
		j := s.create()
		s.create(func(j *job.Job) { j.Enabled = false })
		k := newJob(50)
		_, _, err := s.CreateJob(s.Context(), store.CreateJob{Job: k, Limit: 2})
		var limit *job.LimitError
		if !errors.As(err, &limit) || limit.Limit != 2 {
			s.Fatalf("error %v", err)
		}
		_, err = s.Job(s.Context(), k.ID)
		s.fails(err, job.ErrNotFound)
		_, err = s.DeleteJob(s.Context(), j.ID, 0, at(1), nil)
		s.ok(err)
		_, _, err = s.CreateJob(s.Context(), store.CreateJob{Job: k, Limit: 2})
		s.ok(err)
	},
	"an edit needs the version and the time it was decided for": func(s *suite) {
		j := s.create()
		try := func(version int, next time.Time) (*job.Job, error) {
			after := s.job(j.ID)
			after.Description, after.Version = "edited", version+1
			return s.EditJob(s.Context(), store.EditJob{Version: version, NextRunAt: next, After: after, Audit: audit(j.ID, "job.update", at(0))})
		}
		s.done(fire(j, leased(j, 1)))
		_, err := try(1, start)
		s.fails(err, job.ErrConflict)
		_, err = try(2, at(1))
		s.fails(err, job.ErrVersion)
		_, err = try(1, time.Time{})
		s.fails(err, job.ErrConflict)
		s.same(s.job(j.ID).Version, 1)
		s.same(len(s.audits(j.ID)), 0)
		got, err := try(1, at(1))
		s.ok(err)
		s.same(got, s.job(j.ID))
		s.same(got.Version, 2)
		s.same(got.Description, "edited")
		_, err = s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: at(1), After: got, Audit: audit(j.ID, "job.update", at(0))})
		s.ok(err) // the same once more
		s.same(len(s.audits(j.ID)), 1)
		other := got.Clone()
		other.Description = "somebody else's"
		_, err = s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: at(1), After: other})
		s.fails(err, job.ErrVersion)
		missing := newJob(77)
		missing.Version = 2
		_, err = s.EditJob(s.Context(), store.EditJob{Version: 1, NextRunAt: start, After: missing})
		s.fails(err, job.ErrNotFound)
		_, err = s.DeleteJob(s.Context(), j.ID, 2, at(1), nil)
		s.ok(err)
		_, err = try(2, at(1))
		s.fails(err, job.ErrNotFound)
	},
	"delete leaves a tombstone and cancels what waits": func(s *suite) {
		j := s.create(allowOverlap)
		held := leased(j, 1)
		s.done(fire(j, held))
		var waits []*job.Execution
		for i, template := range []string{"noop", "other"} { // in queues of their own
			e := manual(j, []string{"a", "b"}[i], at(1))
			e.Frozen.TemplateType = template
			_, _, err := s.RunNow(s.Context(), store.RunNow{Execution: e, Now: at(1)})
			s.ok(err)
			waits = append(waits, e)
		}
		j = s.job(j.ID)
		retry := leased(j, 2)
		s.done(fire(j, retry))
		again := retry.End(job.Outcome{Status: job.Failed, Retryable: true, StartedAt: at(1), CompletedAt: at(1), Error: "no"}, at(1))
		s.done(change(retry, again))
		waits = append(waits, again)
		j = s.job(j.ID)
		running := leased(j, 3)
		s.done(fire(j, running))
		run := running.Start(at(2), at(2), nil)
		s.done(change(running, run))
		bystander, _ := s.fired()

		j = s.job(j.ID)
		_, err := s.DeleteJob(s.Context(), j.ID, 7, at(5), audit(j.ID, "job.delete", at(5)))
		s.fails(err, job.ErrVersion)
		was, err := s.DeleteJob(s.Context(), j.ID, 1, at(5), audit(j.ID, "job.delete", at(5)))
		s.ok(err)
		s.same(was, j)
		gone := s.job(j.ID)
		if !gone.Deleted || !gone.NextRunAt.IsZero() || gone.Name != j.Name {
			s.Fatalf("tombstone %s", show(gone))
		}
		s.stands(held)
		s.stands(run)
		for _, e := range waits {
			got := s.execution(e.ID)
			want := e.CancelledUnstarted(at(5))
			want.Reason = got.Reason
			s.same(got, want)
			if len(got.Reason) < 12 || got.Reason[:12] != job.ReasonJobDeleted+":" {
				s.Fatalf("reason %q", got.Reason)
			}
		}
		s.same(s.total(j.ID), 5)
		s.same(s.total(j.ID, job.Cancelled), 3)
		s.same(s.total(j.ID, job.Pending), 1)
		s.same(s.total(j.ID, job.Running), 1)
		s.same(s.total(bystander.ID, job.Pending), 1)
		_, err = s.DeleteJob(s.Context(), j.ID, 0, at(6), audit(j.ID, "job.delete", at(6)))
		s.fails(err, job.ErrNotFound)
		_, err = s.DeleteJob(s.Context(), "job_nobody", 0, at(6), nil)
		s.fails(err, job.ErrNotFound)
		s.same(len(s.audits(j.ID)), 1)
		// What goes on may end.
		s.done(change(run, ended(run, job.Success, at(6))))
		s.same(s.total(j.ID, job.Success), 1)
		_, err = s.Job(s.Context(), "job_nobody")
		s.fails(err, job.ErrNotFound)
	},
	"the last run is when the latest started": func(s *suite) {
		j, e := s.fired(allowOverlap)
		s.same(j.LastRunAt, time.Time{})
		run := e.Start(at(3).Add(7*time.Millisecond), at(3), nil)
		s.done(change(e, run))
		s.same(s.job(j.ID).LastRunAt, run.StartedAt)
		s.done(fire(j, skip(j, 1)))
		page, _ := s.jobs(store.JobFilter{Limit: 10})
		s.same(page, []*job.Job{s.job(j.ID)})
		s.same(page[0].LastRunAt, run.StartedAt)
	},
	"lists": func(s *suite) {
		var all []*job.Job
		for i := range 9 {
			all = append([]*job.Job{s.create(func(j *job.Job) {
				j.Enabled = i%2 == 0
				j.TemplateType = []string{"a", "b", "c"}[i%3]
			})}, all...)
		}
		_, err := s.DeleteJob(s.Context(), all[4].ID, 0, at(0), nil)
		s.ok(err)
		all = append(all[:4:4], all[5:]...)
		yes, no := true, false
		for _, f := range []store.JobFilter{
			{},
			{Enabled: &yes},
			{Enabled: &no},
			{TemplateTypes: []string{"a"}},
			{TemplateTypes: []string{"b", "a"}, Enabled: &yes},
			{TemplateTypes: []string{"unknown"}},
		} {
			var want []*job.Job
			for _, j := range all {
				if f.Enabled != nil && j.Enabled != *f.Enabled {
					continue
				}
				match := len(f.TemplateTypes) == 0
				for _, t := range f.TemplateTypes {
					match = match || t == j.TemplateType
				}
				if match {
					want = append(want, j)
				}
			}
			for _, size := range []int{s.scale(1, 5), 3, 100} {
				var got []*job.Job
				for f.Offset, f.Limit = 0, size; ; f.Offset += size {
					page, total := s.jobs(f)
					s.same(total, len(want))
					if len(page) == 0 {
						break
					}
					got = append(got, page...)
				}
				s.same(got, want)
			}
		}
	},
	"what is returned is the caller's": func(s *suite) {
		j := s.create()
		mine := s.job(j.ID)
		mine.Labels["team"] = "changed"
		mine.Selector["zone"] = "changed"
		mine.Name = "changed"
		s.same(s.job(j.ID), j)
	},
	"the definition is the present one": func(s *suite) {
		definition := func(id string, err error) *job.Job {
			got, failed := s.Definition(s.Context(), id)
			if err != nil {
				s.fails(failed, err)
			} else {
				s.ok(failed)
			}
			return got
		}
		definition("job_nobody", job.ErrNotFound)
		j := s.create()
		said := func() *job.Job {
			now := s.job(j.ID)
			now.NextRunAt, now.LastRunAt = time.Time{}, time.Time{}
			return now
		}
		s.same(definition(j.ID, nil), said())
		s.edit(j, func(j *job.Job) { j.Parameters = json.RawMessage(`{"edited":true}`) })
		for range 2 { // the second may be remembered
			s.same(definition(j.ID, nil), said())
		}
		other := s.create()
		e := leased(other, 1)
		s.done(fire(other, e))
		s.done(change(e, e.Start(at(1), at(1), nil)))
		s.same(definition(j.ID, nil), said())
		j = other
		s.same(definition(j.ID, nil), said())
		_, err := s.DeleteJob(s.Context(), j.ID, 0, at(2), nil)
		s.ok(err)
		definition(j.ID, job.ErrNotFound)
		s.reopen()
		definition(j.ID, job.ErrNotFound)
	},
	"templates": func(s *suite) {
		t := job.Template{
			Type: "b", Version: 2, Name: "B", Description: "<b>", Category: "c", Icon: "🧹", Schema: json.RawMessage(`{"type":"object"}`),
			EstimatedDuration: "5 minutes", ResourceUsage: "low", RiskLevel: "medium", Idempotent: true, Destructive: true, MaxConcurrency: 3,
		}
		a := job.Template{Type: "a", Version: 1, Schema: json.RawMessage(`{}`)}
		s.ok(s.PutTemplates(s.Context(), []job.Template{t, a}))
		old := t
		old.Version, old.Name = 1, "older"
		s.ok(s.PutTemplates(s.Context(), []job.Template{old}))
		ts, err := s.Templates(s.Context())
		s.ok(err)
		s.same(ts, []job.Template{a, t})
		t.Name = "the same version again"
		s.ok(s.PutTemplates(s.Context(), []job.Template{t}))
		t.Version, a.Version = 3, 4
		s.ok(s.PutTemplates(s.Context(), []job.Template{a, t}))
		ts, err = s.Templates(s.Context())
		s.ok(err)
		s.same(ts, []job.Template{a, t})
		s.ok(s.PutTemplates(s.Context(), nil))
	},
}
