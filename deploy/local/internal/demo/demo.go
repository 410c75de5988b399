// Package demo shows what the shipped templates and notifications do, on a local
// system of its own: it asks the REST API as a person would, tells line by line
// what comes of it, and looks at the database, the mail and the files itself.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/local"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/supervise"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// ErrChecks means that something was not as it should be.
var ErrChecks = errors.New("the demo has found faults")

// How long things may take, on a machine that is busy.
const (
	runWithin  = time.Minute
	stepWithin = 2 * time.Minute
	pollEvery  = 100 * time.Millisecond
)

// Run starts a system from the binaries in bin, in a temporary folder, shows
// everything, and stops it. The folder is removed unless a check fails. Errors:
// ErrChecks, ctx's own when it ends early, and whatever keeps the system from
// starting.
func Run(ctx context.Context, bin string, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "almanac-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d := &demo{out: out, begun: time.Now()}
	defer func() {
		if errors.Is(err, ErrChecks) {
			d.say("All that the system wrote is kept in %s.", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	d.say("Starting a system of its own in %s ...", dir)
	s, err := system.Start(ctx, system.Config{
		Bin: bin, Dir: dir, Executors: 2, Standin: true, Mail: true, Webhooks: true, Bucket: true,
		Registry: map[string]any{"manual_runs_per_hour": 0}, // more than a person would in an hour
		Event:    func(supervise.Event) {},
	})
	if err != nil {
		return err
	}
	defer func() {
		d.say("Stopping ...")
		err = errors.Join(err, s.Stop())
	}()
	if err := local.CreateJobs(ctx, s); err != nil {
		return err
	}
	d.system, d.client = s, s.Client(s.Users.SuperAdmin)
	d.say("It runs: the API at %s, sample data in %s, mail in %s, webhooks in %s, the bucket is %s.",
		s.HTTP, s.MongoDB, s.MailDir, s.WebhookDir, s.BucketDir)
	for _, step := range steps {
		d.say("")
		d.say("== %s", step.title)
		if err := d.step(ctx, step.show); err != nil {
			return err
		}
	}
	d.say("")
	took := time.Since(d.begun).Round(time.Second)
	if d.failed > 0 {
		d.say("%d of %d checks failed, in %v.", d.failed, d.checks, took)
		return ErrChecks
	}
	d.say("%d checks, all good, in %v.", d.checks, took)
	return nil
}

// steps are what is shown, in this order.
var steps = []struct {
	title string
	show  func(*demo, context.Context) error
}{
	{"A sample job of each template", (*demo).samples},
	{"Export users, and read the file again", (*demo).export},
	{"Mail to two recipients, one of whom is put off at first", (*demo).mail},
	{"Webhooks: a signed one, and one to where none may go", (*demo).webhooks},
	{"Back up, delete, restore, compare", (*demo).backup},
	{"A failing job alerts, and its recovery is told, too", (*demo).alerts},
	{"A mail server and a host that cannot be reached", (*demo).unreachable},
	{"The summary of all that", (*demo).report},
}

// demo is one showing; one goroutine owns it.
type demo struct {
	out            io.Writer
	begun          time.Time
	system         *system.System
	client         *rest.Client
	checks, failed int
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// check counts, and tells what was looked at.
func (d *demo) check(good bool, format string, args ...any) {
	d.checks++
	mark := "ok  "
	if !good {
		d.failed++
		mark = "FAIL"
	}
	d.say("  %s  %s", mark, fmt.Sprintf(format, args...))
}

// step shows one thing. What keeps it from going on is a failed check, and the next
// step is shown; only the end of ctx is an error.
func (d *demo) step(ctx context.Context, show func(*demo, context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	if err := show(d, limited); err != nil && ctx.Err() == nil {
		d.check(false, "it could not go on: %v", err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the demo was ended early: %w", ctx.Err())
	}
	return nil
}

// job creates a job that runs when it is told to. More is laid over its definition.
func (d *demo) job(ctx context.Context, name, template string, parameters, more rest.Object) (rest.Job, error) {
	definition := rest.Object{
		"name": name, "template_type": template, "parameters": parameters, "schedule": rest.Object{"type": "manual"},
		"retry_policy": rest.Object{"max_retries": 0},
	}
	for key, value := range more {
		definition[key] = value
	}
	job, err := d.client.CreateJob(ctx, definition)
	if err != nil {
		return job, fmt.Errorf("create the job %s: %w", name, err)
	}
	return job, nil
}

// run runs a job now, waits for the end, and tells of it.
func (d *demo) run(ctx context.Context, job rest.Job) (rest.Execution, error) {
	id, err := d.client.RunJob(ctx, job.ID)
	if err != nil {
		return rest.Execution{}, fmt.Errorf("run %s: %w", job.Name, err)
	}
	e, err := d.until(ctx, id, rest.Execution.Over)
	if err == nil {
		d.tell(e)
	}
	return e, err
}

// once creates a job and runs it.
func (d *demo) once(ctx context.Context, name, template string, parameters, more rest.Object) (rest.Execution, error) {
	job, err := d.job(ctx, name, template, parameters, more)
	if err != nil {
		return rest.Execution{}, err
	}
	return d.run(ctx, job)
}

// until waits until an execution is as wanted.
func (d *demo) until(ctx context.Context, id string, wanted func(rest.Execution) bool) (rest.Execution, error) {
	ctx, cancel := context.WithTimeout(ctx, runWithin)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		e, _, err := d.client.Execution(ctx, id)
		if err == nil && wanted(e) {
			return e, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return e, fmt.Errorf("the execution %s is %s: %w", id, e.Status, errors.Join(ctx.Err(), err))
		}
	}
}

// tell says how an execution ended, and its attempts if they were several.
func (d *demo) tell(e rest.Execution) {
	if len(e.Attempts) > 1 {
		for _, a := range e.Attempts {
			d.say("  ...   %s, attempt %d on %s: %s %s", e.JobName, a.Number, text(a.ExecutionHost), a.Status, text(a.Error))
		}
	}
	words, _ := e.Result["message"].(string)
	if e.Error != nil {
		words = text(e.ErrorCode) + ": " + *e.Error
	}
	d.say("  ran   %s (%s): %s. %s", e.JobName, e.ID, e.Status, strings.TrimSpace(words))
}

// number returns a number of an execution's result, -1 when there is none.
func number(e rest.Execution, name string) int {
	n, ok := e.Result[name].(float64)
	if !ok {
		return -1
	}
	return int(n)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
