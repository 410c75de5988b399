// Package bench measures a registry and an executor that run as processes of
// their own, talk gRPC over loopback, and keep full records in SQLite with
// synchronous=FULL. Every figure comes from the records, read back through the
// API: a run that is missing, double or failed is an error, not a statistic.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// Slots is how many no-op runs an executor takes at a time: its credits should
// cover what is expected at once.
const Slots = 16_384

// Config says what to measure.
type Config struct {
	// Bin is the folder with the binaries.
	Bin string
	// Dir is where data folders are made, and removed again.
	Dir string
	// Only names the parts to measure; all when empty.
	Only []string
	// Jobs replaces each part's number of jobs (of runs, for run-now) unless it
	// is 0.
	Jobs int
	// Seconds is the length of the steady parts, Slots the number of no-op runs
	// that the executor takes at a time.
	Seconds, Slots int
}

// part is one thing to measure.
type part struct {
	name  string
	jobs  int
	about string
	run   func(b *bench, ctx context.Context, jobs int) error
}

var parts = []part{
	{"backlog", 200_000, "no-op runs of 1,000 jobs that are due when the executor connects", (*bench).backlogRun},
	{"burst", 10_000, "no-op jobs due at one instant", (*bench).burst},
	{"steady", 1_000, "no-op runs a second, asked for one by one over gRPC", (*bench).steady},
	{"each-second", 1_000, "no-op jobs with an interval of a second, all due on the second", (*bench).eachSecond},
	{"children", 2_000, "test_scheduler jobs due at one instant, run in warm child processes", (*bench).children},
	{"run-now", 300, "runs asked for over REST, one after the other", (*bench).runNow},
}

// Parts returns the names of what can be measured.
func Parts() []string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return names
}

// errTooSlow means that the machine made jobs more slowly than it had promised:
// some would have been due before the last was made.
var errTooSlow = errors.New("the jobs were not made before they were due")

// bench measures one part.
type bench struct {
	config Config
	out    io.Writer
	// patience is how much longer than expected the making of jobs may take.
	patience float64

	system     *system.System
	connection *grpc.ClientConn
	jobs       almanacv1.JobServiceClient
	executions almanacv1.ExecutionServiceClient
}

// Run measures and prints what it finds. Errors name what could not be measured,
// or a record that is not as it must be.
func Run(ctx context.Context, config Config, out io.Writer) error {
	for _, name := range config.Only {
		if !slices.Contains(Parts(), name) {
			return fmt.Errorf("--only: there is no part %q, but %s", name, strings.Join(Parts(), ", "))
		}
	}
	if config.Jobs < 0 || config.Seconds < 1 || config.Slots < 1 {
		return errors.New("--jobs, --seconds and --slots must be positive")
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return err
	}
	if err := describeMachine(config.Dir, out); err != nil {
		return err
	}
	for _, p := range parts {
		if len(config.Only) > 0 && !slices.Contains(config.Only, p.name) {
			continue
		}
		jobs := p.jobs
		if config.Jobs > 0 {
			jobs = config.Jobs
		}
		fmt.Fprintf(out, "\n%s: %d %s\n", p.name, jobs, p.about)
		b := &bench{config: config, out: out, patience: 1.5}
		err := p.run(b, ctx, jobs)
		for ; errors.Is(err, errTooSlow) && b.patience < 8; err = p.run(b, ctx, jobs) {
			b.patience *= 2
			fmt.Fprintf(out, "  once more: %v\n", err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// tell prints one figure.
func (b *bench) tell(name, format string, args ...any) {
	fmt.Fprintf(b.out, "  %-34s %s\n", name, fmt.Sprintf(format, args...))
}

// with starts a system for one measurement and stops it afterwards.
func (b *bench) with(ctx context.Context, executor map[string]any, measure func(ctx context.Context) error) (err error) {
	dir, err := os.MkdirTemp(b.config.Dir, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.system, err = system.Start(ctx, system.Config{
		Bin: b.config.Bin, Dir: dir, Executors: 1,
		// The access log of each request would be measured, too.
		Registry: map[string]any{"max_jobs": 0, "manual_runs_per_hour": 0, "log_level": "warn"},
		Executor: executor,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.system.Stop()) }()
	options, err := rpc.DialOptions(rpc.TLS{Plaintext: true}, rpc.Token(b.system.Users.SuperAdmin.Token))
	if err != nil {
		return err
	}
	if b.connection, err = grpc.NewClient(b.system.GRPC, options...); err != nil {
		return err
	}
	defer b.connection.Close()
	b.jobs = almanacv1.NewJobServiceClient(b.connection)
	b.executions = almanacv1.NewExecutionServiceClient(b.connection)
	return measure(ctx)
}

// noop is the executor's configuration for runs inside it.
func (b *bench) noop() map[string]any {
	return map[string]any{"bench_noop": true, "slots": b.config.Slots}
}

// atOnce is how many requests are under way at a time.
const atOnce = 256

// create makes the jobs and returns their ids.
func (b *bench) create(ctx context.Context, jobs int, job func(i int) *almanacv1.Job) ([]string, error) {
	ids := make([]string, jobs)
	err := each(ctx, jobs, func(ctx context.Context, i int) error {
		answer, err := b.jobs.CreateJob(ctx, &almanacv1.CreateJobRequest{Job: job(i)})
		ids[i] = answer.GetJob().GetId()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create a job: %w", err)
	}
	return ids, nil
}

// each calls f for 0 to n-1, some at a time, until one fails.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for worker := range min(atOnce, n) {
		group.Go(func() error {
			for i := worker; i < n; i += atOnce {
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// once is a job that runs at one instant.
func once(name, template string, at time.Time) *almanacv1.Job {
	kind := "once"
	return &almanacv1.Job{
		Name: name, TemplateType: template,
		Schedule: &almanacv1.Schedule{Type: &kind, RunAt: timestamppb.New(at)},
	}
}

// createDue makes jobs of the template that are due at one instant, which lies
// somewhat after the last was made, and returns it with their ids. How fast jobs
// can be made is found out first; errTooSlow when that was not true for long.
func (b *bench) createDue(ctx context.Context, template string, jobs int) ([]string, time.Time, error) {
	const margin = 3 * time.Second
	trial := min(jobs, 1000)
	kind := "manual"
	begun := time.Now()
	if _, err := b.create(ctx, trial, func(i int) *almanacv1.Job {
		return &almanacv1.Job{Name: fmt.Sprintf("trial-%06d", i), TemplateType: template, Schedule: &almanacv1.Schedule{Type: &kind}}
	}); err != nil {
		return nil, time.Time{}, err
	}
	expected := time.Duration(float64(time.Since(begun)) / float64(trial) * float64(jobs) * b.patience)
	begun = time.Now()
	due := begun.Add(expected + margin).Truncate(time.Second)
	ids, err := b.create(ctx, jobs, func(i int) *almanacv1.Job { return once(fmt.Sprintf("bench-%06d", i), template, due) })
	took := time.Since(begun)
	if !time.Now().Before(due) { // whatever the error, this is its reason
		return nil, time.Time{}, fmt.Errorf("%w: %d in %v instead of %v", errTooSlow, jobs, took, expected)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	b.tell("jobs created over gRPC", "%.0f/s", float64(jobs)/took.Seconds())
	return ids, due, nil
}

// outcome is what the records of some runs say.
type outcome struct {
	lateness []time.Duration // from scheduled_for to started_at
	duration []time.Duration // from started_at to completed_at
	started  time.Time       // of the first
	ended    time.Time       // of the last
	// recorded is when the last of them was seen to be recorded, or ended when
	// all were when they were looked at.
	recorded time.Time
}

// collect reads the records of jobs that run once, waiting for those that are not
// there yet.
func (b *bench) collect(ctx context.Context, ids []string, within time.Duration) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// The last job first, then all from the end: while something is missing
	// little is asked, for asking slows down what is measured.
	found := make([]*almanacv1.Execution, len(ids))
	var waited time.Time
	i := len(ids) - 1
	for ; i >= 0; i-- {
		missing := false
		for found[i] == nil {
			execution, err := b.only(ctx, ids[i])
			if err != nil {
				return outcome{}, err
			}
			if execution == nil {
				missing = true
				if err := sleep(ctx, 20*time.Millisecond); err != nil {
					return outcome{}, fmt.Errorf("job %s has not run: %w", ids[i], err)
				}
			}
			found[i] = execution
		}
		if missing {
			waited = time.Now()
		} else if i < len(ids)-sample {
			break
		}
	}
	if err := each(ctx, max(i, 0), func(ctx context.Context, i int) error {
		for found[i] == nil {
			var err error
			if found[i], err = b.only(ctx, ids[i]); err != nil {
				return err
			}
			if found[i] == nil {
				if err := sleep(ctx, 5*time.Millisecond); err != nil {
					return fmt.Errorf("job %s has not run: %w", ids[i], err)
				}
			}
		}
		return nil
	}); err != nil {
		return outcome{}, err
	}
	o := summarise(found)
	o.recorded = o.ended
	if waited.After(o.recorded) {
		o.recorded = waited
	}
	return o, nil
}

// sample is how many runs must have ended, without being waited for, before the
// rest is believed to have ended as well and is read in bulk.
const sample = 20

// only returns the one execution of a job, nil while it is not over. More than
// one is an error, and so is one that did not succeed at the first attempt.
func (b *bench) only(ctx context.Context, job string) (*almanacv1.Execution, error) {
	answer, err := b.executions.ListExecutions(ctx, &almanacv1.ListExecutionsRequest{Id: job})
	if err != nil {
		return nil, fmt.Errorf("executions of %s: %w", job, err)
	}
	switch len(answer.GetExecutions()) {
	case 0:
		return nil, nil //nolint:nilnil // not yet there is no error
	case 1:
		return over(answer.GetExecutions()[0])
	default:
		return nil, fmt.Errorf("job %s has %d executions instead of 1", job, len(answer.GetExecutions()))
	}
}

// over returns the execution when it has succeeded and nil while it may yet.
func over(e *almanacv1.Execution) (*almanacv1.Execution, error) {
	switch e.GetStatus() {
	case "pending", "running":
		return nil, nil //nolint:nilnil // not yet over is no error
	case "success":
		if len(e.GetAttempts()) == 1 {
			return e, nil
		}
	}
	return nil, fmt.Errorf("execution %s: status %s, %d attempts, error %q", e.GetId(), e.GetStatus(), len(e.GetAttempts()), e.GetError().GetValue())
}

func summarise(executions []*almanacv1.Execution) outcome {
	o := outcome{}
	for _, e := range executions {
		started, ended := e.GetStartedAt().AsTime(), e.GetCompletedAt().AsTime()
		o.lateness = append(o.lateness, started.Sub(e.GetScheduledFor().AsTime()))
		o.duration = append(o.duration, ended.Sub(started))
		if o.started.IsZero() || started.Before(o.started) {
			o.started = started
		}
		if ended.After(o.ended) {
			o.ended = ended
		}
	}
	slices.Sort(o.lateness)
	slices.Sort(o.duration)
	return o
}

// quantile returns the least of the sorted durations that the share q of them does
// not exceed, 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// spread names p50, p99 and the greatest in milliseconds.
func spread(sorted []time.Duration) string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, max %.1f ms",
		milliseconds(quantile(sorted, 0.5)), milliseconds(quantile(sorted, 0.99)), milliseconds(quantile(sorted, 1)))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// describeMachine prints what the figures depend on.
func describeMachine(dir string, out io.Writer) error {
	model := "unknown"
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(content)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	syncs, err := syncTimes(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d cores, %s, %s, %s; write and fsync of 4 KiB: p50 %.2f ms, p99 %.2f ms\n",
		runtime.NumCPU(), model, runtime.GOOS+"/"+runtime.GOARCH, runtime.Version(), milliseconds(quantile(syncs, 0.5)), milliseconds(quantile(syncs, 0.99)))
	return nil
}

// syncTimes are the sorted times that it takes to append 4 KiB durably in the folder.
func syncTimes(dir string) (_ []time.Duration, err error) {
	file, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	const times = 200
	page := make([]byte, 4096)
	took := make([]time.Duration, times)
	for i := range took {
		begun := time.Now()
		if _, err := file.Write(page); err != nil {
			return nil, err
		}
		if err := file.Sync(); err != nil {
			return nil, err
		}
		took[i] = time.Since(begun)
	}
	slices.Sort(took)
	return took, nil
}
