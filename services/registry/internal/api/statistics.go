package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Bounds of what one answer of GetStatistics covers.
const (
	statisticsSpan  = 24 * time.Hour // when nothing is said
	statisticsStep  = time.Hour      // when nothing is said
	statisticsMost  = 400 * 24 * time.Hour
	statisticsSteps = 2000
)

type statisticsService struct {
	almanacv1.UnimplementedStatisticsServiceServer
	*rooms
}

// GetOverview implements the RPC of that name.
func (s *statisticsService) GetOverview(ctx context.Context, _ *almanacv1.GetOverviewRequest) (*almanacv1.GetOverviewResponse, error) {
	now := s.Now()
	pulse, err := s.Store.Pulse(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("count what there is: %w", err)
	}
	sessions, err := s.Store.Sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	out := &almanacv1.GetOverviewResponse{
		At: timestamp(now), Jobs: int32(pulse.Jobs), EnabledJobs: int32(pulse.Enabled), Running: int32(pulse.Held),
		Waiting: int32(pulse.Waiting), Backlog: int32(pulse.Due), BacklogSince: timestamp(pulse.DueSince), Workers: int32(len(sessions)),
	}
	for _, w := range sessions {
		out.Slots += int32(w.Slots)
		out.SlotsUsed += int32(w.Running)
		if w.Draining || w.Stopping {
			out.WorkersDraining++
		}
	}
	return out, nil
}

// GetStatistics implements the RPC of that name.
func (s *statisticsService) GetStatistics(ctx context.Context, req *almanacv1.GetStatisticsRequest) (*almanacv1.GetStatisticsResponse, error) {
	span, err := spanOf(req, s.Now())
	if err != nil {
		return nil, err
	}
	if req.JobId != "" {
		if _, err := s.Store.Job(ctx, req.JobId); err != nil { // a deleted one is one
			return nil, noSuch("job", req.JobId, err)
		}
	}
	rollups, err := s.Store.Statistics(ctx, req.JobId, span.from, span.until)
	if err != nil {
		return nil, fmt.Errorf("read the statistics: %w", err)
	}
	steps, all := span.fold(rollups)
	out := &almanacv1.GetStatisticsResponse{
		From: timestamp(span.from), Until: timestamp(span.until), StepSeconds: int32(span.step / time.Second), Totals: all.message(),
		MeanSeconds: all.mean(), LongestSeconds: all.longest.Seconds(), SuccessRate: all.successRate(),
	}
	for i := range steps {
		out.Steps = append(out.Steps, &almanacv1.StatisticsStep{
			From: timestamp(span.from.Add(time.Duration(i) * span.step)), Counts: steps[i].message(),
			MeanSeconds: steps[i].mean(), LongestSeconds: steps[i].longest.Seconds(),
		})
	}
	return out, nil
}

// span is the time that statistics are about.
type span struct {
	from, until time.Time // from is a multiple of a roll-up's step
	step        time.Duration
}

// spanOf reads the time that a request is about and checks its bounds.
func spanOf(req *almanacv1.GetStatisticsRequest, now time.Time) (span, error) {
	until, errUntil := moment("until", req.Until, now.UTC())
	from, errFrom := moment("from", req.From, until.Add(-statisticsSpan))
	if err := errors.Join(errUntil, errFrom); err != nil {
		return span{}, err
	}
	sp := span{from: from.Truncate(store.RollUpStep), until: until, step: statisticsStep}
	var bad violations
	if req.StepSeconds != nil {
		sp.step = time.Duration(*req.StepSeconds) * time.Second
	}
	switch {
	case !until.After(from):
		bad.add("until", "must be later than from")
	case until.Sub(from) > statisticsMost:
		bad.add("from", "must be at most 400 days before until: ask for less")
	case sp.step%store.RollUpStep != 0:
		bad.add("step_seconds", "must be a multiple of 900, such as 3600")
	case sp.steps() > statisticsSteps:
		bad.add("step_seconds", "is too short for so long a time: it gives %d steps, and there may be %d", sp.steps(), statisticsSteps)
	}
	return sp, bad.err()
}

// steps is how many steps the span has; the last may reach beyond its end.
func (sp span) steps() int {
	return int((sp.until.Sub(sp.from) + sp.step - 1) / sp.step)
}

// fold adds up roll-ups by step, and all together.
func (sp span) fold(rollups []store.RollUp) (steps []tally, all tally) {
	steps = make([]tally, sp.steps())
	for _, r := range rollups {
		steps[r.From.Sub(sp.from)/sp.step].add(r)
		all.add(r)
	}
	return steps, all
}

// tally is several roll-ups in one.
type tally struct {
	counts         map[job.Status]int
	timed          int
	total, longest time.Duration
}

func (t *tally) add(r store.RollUp) {
	if t.counts == nil {
		t.counts = make(map[job.Status]int, len(r.Counts))
	}
	for status, n := range r.Counts {
		t.counts[status] += n
	}
	t.timed += r.Timed
	t.total += r.Total
	t.longest = max(t.longest, r.Longest)
}

// mean is the mean duration in seconds of those that started, 0 without any.
func (t *tally) mean() float64 {
	if t.timed == 0 {
		return 0
	}
	return t.total.Seconds() / float64(t.timed)
}

// successRate is nil where nothing ended that could have succeeded.
func (t *tally) successRate() *float64 {
	ended := t.counts[job.Success] + t.counts[job.Failed] + t.counts[job.TimedOut] + t.counts[job.Unknown]
	if ended == 0 {
		return nil
	}
	rate := float64(t.counts[job.Success]) / float64(ended)
	return &rate
}

func (t *tally) message() *almanacv1.Counts {
	return &almanacv1.Counts{
		Success: int32(t.counts[job.Success]), Failed: int32(t.counts[job.Failed]), TimedOut: int32(t.counts[job.TimedOut]),
		Cancelled: int32(t.counts[job.Cancelled]), Skipped: int32(t.counts[job.Skipped]), Unknown: int32(t.counts[job.Unknown]),
	}
}
