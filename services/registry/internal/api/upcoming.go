package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// Bounds of what is looked through for neighbours.
const (
	mostNeighbours = 10_000 // jobs that are compared with a schedule
	neighbourPage  = 1000   // of them read at once
	neighbourNames = 5      // told of one minute
)

// endOfTime is later than any fire time.
var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// PreviewSchedule implements the RPC of that name.
func (s *jobService) PreviewSchedule(ctx context.Context, req *almanacv1.PreviewScheduleRequest) (*almanacv1.PreviewScheduleResponse, error) {
	count := 10
	if req.Count != nil {
		count = int(*req.Count)
	}
	after, err := moment("after", req.After, s.Now())
	if err != nil {
		return nil, err
	}
	anchor := after
	if req.JobId != "" {
		j, err := s.live(ctx, req.JobId)
		if err != nil {
			return nil, err
		}
		anchor = j.CreatedAt
	}
	spec, compiled, bad := compile(req.Schedule, anchor)
	if err := bad.err(); err != nil {
		return nil, err
	}
	occurrences := compiled.Upcoming(after, count)
	var near map[time.Time]neighbours
	if req.Neighbours && len(occurrences) > 0 {
		others, err := s.scheduled(ctx, req.JobId)
		if err != nil {
			return nil, err
		}
		if near, err = neighboursOf(ctx, occurrences, others); err != nil {
			return nil, err
		}
	}
	out := &almanacv1.PreviewScheduleResponse{Schedule: scheduleMessage(spec)}
	for _, o := range occurrences {
		n := near[o.At.Truncate(time.Minute)]
		out.Occurrences = append(out.Occurrences, &almanacv1.Occurrence{
			At: timestamp(o.At), Local: local(compiled, o.At), Note: o.Note, Neighbours: n.names, NeighbourCount: int32(n.count),
		})
	}
	return out, nil
}

// local is an instant in a schedule's zone.
func local(s *schedule.Schedule, at time.Time) string {
	return at.In(s.Location()).Format(time.RFC3339)
}

// scheduled returns the jobs that are due some time, but one.
func (s *jobService) scheduled(ctx context.Context, except string) ([]*job.Job, error) {
	var all []*job.Job
	for len(all) < mostNeighbours {
		var cursor *job.Job
		if len(all) > 0 {
			cursor = all[len(all)-1]
		}
		page, err := s.Store.DueJobs(ctx, nil, endOfTime, cursor, neighbourPage)
		if err != nil {
			return nil, fmt.Errorf("read the other jobs: %w", err)
		}
		all = append(all, page...)
		if len(page) < neighbourPage {
			break
		}
	}
	return slices.DeleteFunc(all, func(j *job.Job) bool { return j.ID == except }), nil
}

// neighbours are the jobs that are due in one minute.
type neighbours struct {
	names []string // the first of them by name
	count int
}

// neighboursOf tells of each minute with an occurrence which of the jobs have a
// fire time in it too. It ends early with the context's error.
func neighboursOf(ctx context.Context, occurrences []schedule.Occurrence, jobs []*job.Job) (map[time.Time]neighbours, error) {
	minutes := make([]time.Time, len(occurrences))
	for i, o := range occurrences {
		minutes[i] = o.At.Truncate(time.Minute)
	}
	minutes = slices.Compact(minutes) // they ascend
	found := make([]neighbours, len(minutes))
	jobs = slices.Clone(jobs)
	slices.SortFunc(jobs, func(a, b *job.Job) int { return strings.Compare(a.Name, b.Name) })
	for _, j := range jobs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look for neighbours: %w", err)
		}
		sched, err := j.Compile()
		if err != nil {
			return nil, fmt.Errorf("compile the schedule of %s: %w", j.ID, err)
		}
		var at time.Time
		for i, minute := range minutes {
			if at.Before(minute) {
				var ok bool
				if at, ok = sched.Next(minute.Add(-time.Second)); !ok {
					break
				}
			}
			if at.Before(minute.Add(time.Minute)) {
				n := &found[i]
				if n.count++; len(n.names) < neighbourNames {
					n.names = append(n.names, j.Name)
				}
			}
		}
	}
	near := make(map[time.Time]neighbours, len(minutes))
	for i, minute := range minutes {
		near[minute] = found[i]
	}
	return near, nil
}

// ListUpcoming implements the RPC of that name.
func (s *statisticsService) ListUpcoming(ctx context.Context, req *almanacv1.ListUpcomingRequest) (*almanacv1.ListUpcomingResponse, error) {
	now, limit := s.Now(), 20
	if req.Limit != nil {
		limit = int(*req.Limit)
	}
	var due []*job.Job
	if req.JobId != "" {
		j, err := s.Store.Job(ctx, req.JobId)
		if err == nil && j.Deleted {
			err = job.ErrNotFound
		}
		if err != nil {
			return nil, noSuch("job", req.JobId, err)
		}
		if !j.NextRunAt.IsZero() {
			due = append(due, j)
		}
	} else {
		// Each of the first fire times is of one of as many jobs that are due first.
		var err error
		if due, err = s.Store.DueJobs(ctx, nil, endOfTime, nil, limit); err != nil {
			return nil, fmt.Errorf("read the next jobs: %w", err)
		}
	}
	merged, err := merge(due, now, limit)
	if err != nil {
		return nil, err
	}
	out := &almanacv1.ListUpcomingResponse{}
	for _, f := range merged {
		out.Upcoming = append(out.Upcoming, &almanacv1.Upcoming{
			JobId: f.job.ID, JobName: f.job.Name, TemplateType: f.job.TemplateType, At: timestamp(f.next.At),
			Local: local(f.sched, f.next.At), Timezone: f.sched.Location().String(), Note: f.next.Note,
		})
	}
	return out, nil
}

// coming is a job with a fire time to come.
type coming struct {
	job   *job.Job
	sched *schedule.Schedule
	next  schedule.Occurrence
}

// merge returns the next fire times of jobs that are due some time, at most limit,
// earliest first. A job that is late by now has its NextRunAt and then times to come.
func merge(due []*job.Job, now time.Time, limit int) ([]coming, error) {
	var fronts, out []coming
	for _, j := range due {
		sched, err := j.Compile()
		if err != nil {
			return nil, fmt.Errorf("compile the schedule of %s: %w", j.ID, err)
		}
		first := schedule.Occurrence{At: j.NextRunAt}
		if o := sched.Upcoming(j.NextRunAt.Add(-time.Second), 1); len(o) > 0 && o[0].At.Equal(j.NextRunAt) {
			first = o[0]
		}
		fronts = append(fronts, coming{j, sched, first})
	}
	for len(out) < limit && len(fronts) > 0 {
		at := 0
		for i := range fronts {
			if c := fronts[i].next.At.Compare(fronts[at].next.At); cmp.Or(c, strings.Compare(fronts[i].job.Name, fronts[at].job.Name)) < 0 {
				at = i
			}
		}
		out = append(out, fronts[at])
		after := fronts[at].next.At
		if after.Before(now) {
			after = now
		}
		if o := fronts[at].sched.Upcoming(after, 1); len(o) > 0 {
			fronts[at].next = o[0]
		} else {
			fronts = slices.Delete(fronts, at, at+1)
		}
	}
	return out, nil
}
