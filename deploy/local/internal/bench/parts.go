package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// collectWithin bounds the wait for runs that are due.
const collectWithin = 5 * time.Minute

// backlogRun measures how fast runs are worked off that became due while there
// was no executor.
func (b *bench) backlogRun(ctx context.Context, runs int) error {
	return b.with(ctx, b.noop(), func(ctx context.Context) error {
		// It has announced its template and may go, for now.
		executor := b.system.Process("executor-1")
		executor.Hold()
		if err := executor.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if err := until(ctx, 10*time.Second, 5*time.Millisecond, func(context.Context) error {
			if running, _ := executor.Running(); running {
				return errors.New("the executor does not end")
			}
			return nil
		}); err != nil {
			return err
		}
		jobs, err := b.createManual(ctx, min(runs, 1000))
		if err != nil {
			return err
		}
		ids := make([]string, runs)
		asking := time.Now()
		if err := each(ctx, runs, func(ctx context.Context, i int) error {
			answer, err := b.jobs.RunJob(ctx, &almanacv1.RunJobRequest{Id: jobs[i%len(jobs)]})
			ids[i] = answer.GetExecutionId()
			return err
		}); err != nil {
			return err
		}
		b.tell("runs accepted over gRPC", "%.0f/s", float64(runs)/time.Since(asking).Seconds())
		begun := time.Now()
		executor.Release()
		// The last ones first: while something is missing little is asked, for
		// asking slows down what is measured.
		for i := runs - 1; i >= max(0, runs-sample); i-- {
			if _, err := b.awaitEnd(ctx, ids[i], 50*time.Millisecond); err != nil {
				return err
			}
		}
		recorded := time.Now()
		all := make([][]*almanacv1.Execution, len(jobs))
		if err := each(ctx, len(jobs), func(ctx context.Context, i int) (err error) {
			all[i], err = b.ended(ctx, jobs[i], (runs-i+len(jobs)-1)/len(jobs))
			return err
		}); err != nil {
			return err
		}
		o := summarise(slices.Concat(all...))
		b.tell("first start to last end", "%.0f executions/s (%.2f s)", float64(runs)/o.ended.Sub(o.started).Seconds(), o.ended.Sub(o.started).Seconds())
		b.tell("executor's start to all recorded", "%.0f executions/s (%.2f s)", float64(runs)/recorded.Sub(begun).Seconds(), recorded.Sub(begun).Seconds())
		b.tell("records read back", "%d, each a success at its only attempt", len(o.lateness))
		return nil
	})
}

// createManual makes jobs that run when they are told to, also beside one
// another.
func (b *bench) createManual(ctx context.Context, jobs int) ([]string, error) {
	kind := "manual"
	return b.create(ctx, jobs, func(i int) *almanacv1.Job {
		return &almanacv1.Job{
			Name: fmt.Sprintf("bench-%06d", i), TemplateType: "noop", OverlapPolicy: "allow", Schedule: &almanacv1.Schedule{Type: &kind},
		}
	})
}

// awaitEnd waits until the execution is over, asking every so often, and returns it.
func (b *bench) awaitEnd(ctx context.Context, id string, every time.Duration) (ended *almanacv1.Execution, err error) {
	err = until(ctx, collectWithin, every, func(ctx context.Context) error {
		answer, err := b.executions.GetExecution(ctx, &almanacv1.GetExecutionRequest{ExecutionId: id})
		if err != nil {
			return err
		}
		ended, err = over(answer.GetExecution())
		if err == nil && ended == nil {
			err = fmt.Errorf("execution %s is not over", id)
		}
		return err
	})
	return ended, err
}

// ended returns all executions of a job, and fails unless there are exactly so
// many and each is over.
func (b *bench) ended(ctx context.Context, job string, want int) ([]*almanacv1.Execution, error) {
	var all []*almanacv1.Execution
	limit := int32(500)
	for page := int32(1); ; page++ {
		answer, err := b.executions.ListExecutions(ctx, &almanacv1.ListExecutionsRequest{Id: job, Page: &page, Limit: &limit})
		if err != nil {
			return nil, err
		}
		for _, e := range answer.GetExecutions() {
			ended, err := over(e)
			if err == nil && ended == nil {
				err = fmt.Errorf("execution %s is still %s", e.GetId(), e.GetStatus())
			}
			if err != nil {
				return nil, err
			}
			all = append(all, ended)
		}
		if len(answer.GetExecutions()) < int(limit) {
			break
		}
	}
	if len(all) != want {
		return nil, fmt.Errorf("job %s has %d executions instead of %d", job, len(all), want)
	}
	return all, nil
}

// burst measures how late runs start that are due at one instant.
func (b *bench) burst(ctx context.Context, jobs int) error {
	return b.with(ctx, b.noop(), func(ctx context.Context) error {
		ids, due, err := b.createDue(ctx, "noop", jobs)
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
		o, err := b.collect(ctx, ids, collectWithin)
		if err != nil {
			return err
		}
		b.tell("lateness of the starts", "%s", spread(o.lateness))
		b.tell("all ended after", "%.3f s", o.ended.Sub(due).Seconds())
		b.tell("all recorded after", "%.3f s at most, seen through the API", o.recorded.Sub(due).Seconds())
		b.tell("records read back", "%d, each a success at its only attempt", len(o.lateness))
		return nil
	})
}

// steady measures how late runs start that become due evenly, as runs by hand do:
// schedules know whole seconds only.
func (b *bench) steady(ctx context.Context, rate int) error {
	return b.with(ctx, b.noop(), func(ctx context.Context) error {
		const different = 100
		jobs, err := b.createManual(ctx, different)
		if err != nil {
			return err
		}
		ids := make([]string, rate*b.config.Seconds)
		begin := time.Now()
		if err := each(ctx, len(ids), func(ctx context.Context, i int) error {
			if err := sleep(ctx, time.Until(begin.Add(time.Duration(i)*time.Second/time.Duration(rate)))); err != nil {
				return err
			}
			answer, err := b.jobs.RunJob(ctx, &almanacv1.RunJobRequest{Id: jobs[i%different]})
			ids[i] = answer.GetExecutionId()
			return err
		}); err != nil {
			return err
		}
		took := time.Since(begin)
		found := make([]*almanacv1.Execution, len(ids))
		if err := each(ctx, len(ids), func(ctx context.Context, i int) error {
			var err error
			found[i], err = b.awaitEnd(ctx, ids[i], 5*time.Millisecond)
			return err
		}); err != nil {
			return err
		}
		o := summarise(found)
		b.tell("asked for", "%.0f/s", float64(len(ids))/took.Seconds())
		b.tell("lateness of the starts", "%s", spread(o.lateness))
		b.tell("records read back", "%d, each a success at its only attempt", len(o.lateness))
		return nil
	})
}

// eachSecond measures how late runs start where as many are due each second, all
// on the second.
func (b *bench) eachSecond(ctx context.Context, jobs int) error {
	return b.with(ctx, b.noop(), func(ctx context.Context) error {
		begin := time.Now().Truncate(time.Second).Add(4*time.Second + time.Duration(b.patience*float64(jobs))*2*time.Millisecond).Truncate(time.Second)
		interval, every := "interval", int32(1)
		ids, err := b.create(ctx, jobs, func(i int) *almanacv1.Job {
			return &almanacv1.Job{
				Name: fmt.Sprintf("bench-%06d", i), TemplateType: "noop",
				Schedule: &almanacv1.Schedule{Type: &interval, IntervalSeconds: &every, Start: timestamppb.New(begin)},
			}
		})
		if err != nil {
			return err
		}
		if !time.Now().Before(begin) {
			return errTooSlow
		}
		length := time.Duration(b.config.Seconds) * time.Second
		from := begin.Add(time.Second) // the first second warms up
		to := from.Add(length)
		if err := sleep(ctx, time.Until(to.Add(2*time.Second))); err != nil {
			return err
		}
		all := make([][]*almanacv1.Execution, jobs)
		err = each(ctx, jobs, func(ctx context.Context, i int) (err error) {
			all[i], err = b.between(ctx, ids[i], from, to)
			return err
		})
		if err != nil {
			return err
		}
		o := summarise(slices.Concat(all...))
		b.tell("lateness of the starts", "%s", spread(o.lateness))
		b.tell("records read back", "%d in %d s, each a success at its only attempt", len(o.lateness), b.config.Seconds)
		return nil
	})
}

// between returns a job's executions that were due in [from, to), one for each
// second, and fails when there is another number.
func (b *bench) between(ctx context.Context, job string, from, to time.Time) ([]*almanacv1.Execution, error) {
	limit := int32(500)
	answer, err := b.executions.ListExecutions(ctx, &almanacv1.ListExecutionsRequest{Id: job, Limit: &limit})
	if err != nil {
		return nil, err
	}
	var found []*almanacv1.Execution
	due := map[time.Time]bool{}
	for _, e := range answer.GetExecutions() {
		at := e.GetScheduledFor().AsTime()
		if at.Before(from) || !at.Before(to) {
			continue
		}
		ended, err := over(e)
		if err != nil {
			return nil, err
		}
		if ended == nil {
			return nil, fmt.Errorf("execution %s is still %s", e.GetId(), e.GetStatus())
		}
		found, due[at] = append(found, ended), true
	}
	if want := int(to.Sub(from) / time.Second); len(found) != want || len(due) != want {
		return nil, fmt.Errorf("job %s ran %d times at %d instants instead of %d", job, len(found), len(due), want)
	}
	return found, nil
}

// children measures runs in child processes.
func (b *bench) children(ctx context.Context, jobs int) error {
	return b.with(ctx, nil, func(ctx context.Context) error {
		ids, due, err := b.createDue(ctx, "test_scheduler", jobs)
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
		o, err := b.collect(ctx, ids, collectWithin)
		if err != nil {
			return err
		}
		b.tell("first start to last end", "%.0f runs/s (%.2f s)", float64(jobs)/o.ended.Sub(o.started).Seconds(), o.ended.Sub(o.started).Seconds())
		b.tell("start to end of a run", "%s", spread(o.duration))
		b.tell("records read back", "%d, each a success at its only attempt", len(o.duration))
		return nil
	})
}

// runNow measures the time from asking for a run over REST to the first line that
// the template writes in its child process.
func (b *bench) runNow(ctx context.Context, runs int) error {
	return b.with(ctx, nil, func(ctx context.Context) error {
		client := b.system.Client(b.system.Users.SuperAdmin)
		job, err := client.CreateJob(ctx, map[string]any{
			"name": "run-now", "template_type": "test_scheduler", "schedule": map[string]any{"type": "manual"},
		})
		if err != nil {
			return err
		}
		answered, first := make([]time.Duration, runs), make([]time.Duration, runs)
		for i := range runs {
			asked := time.Now()
			id, err := client.RunJob(ctx, job.ID)
			if err != nil {
				return err
			}
			answered[i] = time.Since(asked)
			if err := until(ctx, 30*time.Second, 5*time.Millisecond, func(ctx context.Context) error {
				execution, logs, err := client.Execution(ctx, id)
				if err != nil {
					return err
				}
				if execution.Status != "success" || len(logs) == 0 {
					return fmt.Errorf("execution %s: status %s, %d lines", id, execution.Status, len(logs))
				}
				first[i] = logs[0].Timestamp.Sub(asked)
				return nil
			}); err != nil {
				return err
			}
		}
		slices.Sort(answered)
		slices.Sort(first)
		b.tell("request to answer", "%s", spread(answered))
		b.tell("request to the template's first line", "%s", spread(first))
		return nil
	})
}

// until asks every so often until the condition returns nil.
func until(ctx context.Context, within, every time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		why := condition(ctx)
		if why == nil {
			return nil
		}
		if err := sleep(ctx, every); err != nil {
			return fmt.Errorf("%w (%w)", why, err)
		}
	}
}
