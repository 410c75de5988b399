package dispatch

import (
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Policy holds what decisions depend on besides the job and the time.
type Policy struct {
	// MissedAfter is how late a run may be before it counts as missed.
	MissedAfter time.Duration
	// Idempotent tells whether a template's runs may be attempted again after an
	// ambiguous end. Safe for concurrent use.
	Idempotent func(templateType string) bool
	// MaxConcurrency is how many runs of a template there may be at once, 0 for
	// any number. Safe for concurrent use.
	MaxConcurrency func(templateType string) int
	// PublicURL is where people reach the registry, for links; empty for none.
	PublicURL string
}

// decideFire says what becomes of the job's next fire time, which must not be
// later than now: one record, a run or a skip, and the time the job advances to.
// Deciding again later covers what is left; each time is covered exactly once.
func (p Policy) decideFire(j *job.Job, s *schedule.Schedule, now time.Time) *store.Fire {
	at := j.NextRunAt
	missedBefore := now.Add(-p.MissedAfter) // times before this are missed
	if at.Before(missedBefore) {
		switch j.Missed {
		case job.MissedSkip:
			return p.skipMissed(j, s, missedBefore.Add(-time.Nanosecond), now)
		default: // run_once: the latest runs, the others are covered by a skip
			if last, n, ok := s.Last(at.Add(-time.Second), now); ok && n > 1 {
				return p.skipMissed(j, s, last.Add(-time.Second), now)
			}
		}
	}
	e := p.execution(j, now)
	e.Status, e.WakeAt = job.Pending, at
	e.Exclusive = j.Overlap == job.OverlapForbid
	next, _ := s.Next(at)
	return &store.Fire{Execution: e, Version: j.Version, FireAt: at, Next: next}
}

// skipMissed covers the fire times from the job's next one until the given time.
func (p Policy) skipMissed(j *job.Job, s *schedule.Schedule, until, now time.Time) *store.Fire {
	at := j.NextRunAt
	last, n, ok := s.Last(at.Add(-time.Second), until)
	if !ok || last.Before(at) {
		last, n = at, 1 // the zone's rules changed since the time was computed
	}
	e := p.skip(j, now, fmt.Sprintf("%s: more than %s late", job.ReasonMissed, p.MissedAfter))
	e.MissedFrom, e.MissedUntil, e.MissedCount = at, last, n
	next, _ := s.Next(last)
	return &store.Fire{Execution: e, Version: j.Version, FireAt: at, Next: next}
}

// overlapSkip is what becomes of a fire whose job's slot is held by another
// execution.
func (p Policy) overlapSkip(j *job.Job, f *store.Fire, by string, now time.Time) *store.Fire {
	e := p.skip(j, now, fmt.Sprintf("%s: execution %s was not over", job.ReasonOverlap, by))
	return &store.Fire{Execution: e, Version: f.Version, FireAt: f.FireAt, Next: f.Next}
}

func (p Policy) skip(j *job.Job, now time.Time, reason string) *job.Execution {
	e := p.execution(j, now)
	e.Status, e.Reason, e.CompletedAt = job.Skipped, reason, now
	return e
}

// execution is the record of the job's next fire time, without a state.
func (p Policy) execution(j *job.Job, now time.Time) *job.Execution {
	key := job.FireKey(j.NextRunAt)
	return &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerScheduler, key), JobID: j.ID, JobVersion: j.Version,
		Trigger: job.TriggerScheduler, Key: key, ScheduledFor: j.NextRunAt, CreatedAt: now,
		Frozen: j.Freeze(p.Idempotent(j.TemplateType)),
	}
}
