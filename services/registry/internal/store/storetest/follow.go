package storetest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// tombstone is a job that was never anything else.
func (s *suite) tombstone() *job.Job {
	return s.create(func(j *job.Job) {
		j.ID, j.Name, j.Deleted, j.Enabled, j.NextRunAt = job.NotificationsID, "job 1", true, false, time.Time{}
	})
}

// follower is the n-th execution that the end of e calls for.
func follower(of *job.Job, e *job.Execution, n int) *job.Execution {
	f := pending(of)
	f.Trigger, f.Key = job.TriggerNotification, fmt.Sprintf("%s.failed.%d", e.ID, n)
	f.ID = job.ExecutionID(of.ID, f.Trigger, f.Key)
	f.ScheduledFor, f.CreatedAt, f.WakeAt, f.Exclusive = at(5), at(5), at(5), false
	f.Frozen.JobName, f.Frozen.Parameters = "told", json.RawMessage(`{"recipients":["a@example.com"],"data":{"$odd.key":[1,{"x":null}]}}`)
	return f
}

var followTests = map[string]func(*suite){
	"a job may be a tombstone from its birth": func(s *suite) {
		s.create() // of the same name
		system := s.tombstone()
		again, replayed, err := s.CreateJob(s.Context(), store.CreateJob{Job: system})
		s.ok(err)
		s.same(replayed, true)
		s.same(again.Deleted, true)
		page, total, err := s.Jobs(s.Context(), store.JobFilter{Limit: 10})
		s.ok(err)
		s.same([]int{len(page), total}, []int{1, 1})
		// It counts toward no limit.
		other := newJob(7)
		_, _, err = s.CreateJob(s.Context(), store.CreateJob{Job: other, Limit: 2})
		s.ok(err)
	},
	"come with the change that calls for them": func(s *suite) {
		system := s.tombstone()
		_, e := s.fired()
		end := ended(e, job.Failed, at(5))
		first, second := follower(system, e, 0), follower(system, e, 1)
		c := change(e, end)
		c.Follow = []*job.Execution{first, second}
		s.done(c)
		s.done(c) // also when it is repeated
		s.stands(end)
		s.stands(first)
		s.stands(second)
		s.same(s.total(system.ID), 2)
		found, err := s.Waiting(s.Context(), first.Frozen.Queue(), nil, at(10), nil, 10)
		s.ok(err)
		s.same(len(found), 2)
		// They are executions like any other.
		run := found[0].Lease(holder(9), 0, at(6))
		s.done(change(found[0], run))
		s.done(change(run, ended(run, job.Success, at(7))))
		s.same(s.total(system.ID, job.Success), 1)
		// Mending brings none back, nor any twice.
		s.ok(s.Mend(s.Context(), at(20)))
		s.done(c)
		s.same(s.total(system.ID), 2)
		s.same(s.execution(found[0].ID).Status, job.Success)
	},
	"do not come with a change that is lost": func(s *suite) {
		system := s.tombstone()
		_, e := s.fired()
		c := change(e, ended(e, job.Failed, at(5)))
		c.Token++
		c.Follow = []*job.Execution{follower(system, e, 0)}
		s.lost(c)
		s.same(s.total(system.ID), 0)
	},
	"come with each of two ends": func(s *suite) {
		system := s.tombstone()
		_, e := s.fired(allowOverlap)
		unknown := ended(e, job.Unknown, at(5))
		c := change(e, unknown)
		c.Follow = []*job.Execution{follower(system, e, 0)}
		s.done(c)
		late := ended(unknown, job.Success, at(6))
		c = change(unknown, late)
		c.Follow = []*job.Execution{follower(system, e, 1)}
		s.done(c)
		s.same(s.total(system.ID), 2)
		s.same(s.execution(e.ID).Status, job.Success)
	},
}
