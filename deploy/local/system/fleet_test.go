package system

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// fleet starts two registries and two executors on a MongoDB store, which is a
// stand-in: it answers one question at a time, so tests ask it little.
func fleet(t *testing.T, change func(*system.Config)) *rig {
	t.Helper()
	return boot(t, func(c *system.Config) {
		c.Store, c.Replicas = system.MongoDB, 2
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
		if change != nil {
			change(c)
		}
	})
}

// each gives an interval schedule. Runs may overlap, so that one that is late
// makes none be skipped.
func each(interval time.Duration) rest.Object {
	return parallel(rest.Object{"schedule": rest.Object{"type": "interval", "interval_seconds": int(interval.Seconds())}})
}

// covered waits until a job on an interval has ended its runs for all fire times
// up to the last one, and checks that its executions list has each of them exactly
// once, from the first on, with nothing between, as one of the statuses. Runs that
// were asked for are left out.
func covered(t *testing.T, client *rest.Client, job rest.Job, interval time.Duration, last time.Time, statuses ...string) []rest.Execution {
	t.Helper()
	var found []rest.Execution
	await(t, time.Minute, time.Second, func(ctx context.Context) error {
		all, err := client.ListExecutions(ctx, job.ID)
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(all, func(e rest.Execution) bool { return e.TriggeredBy != "scheduler" || e.ScheduledFor.After(last) })
		slices.SortFunc(found, func(a, b rest.Execution) int { return a.ScheduledFor.Compare(*b.ScheduledFor) })
		if len(found) == 0 || !found[len(found)-1].ScheduledFor.Add(interval).After(last) {
			return fmt.Errorf("%s has no record of its last fire times: %d executions", job.Name, len(found))
		}
		for _, e := range found {
			if !e.Over() {
				return fmt.Errorf("%s has not ended: %s", job.Name, show(e))
			}
		}
		return nil
	})
	want := *job.NextRunAt
	for _, e := range found {
		if !e.ScheduledFor.Equal(want) {
			t.Errorf("%s: %s is for %v, where %v comes next", job.Name, show(e), e.ScheduledFor, want)
		}
		if !slices.Contains(statuses, e.Status) {
			t.Errorf("%s at %v: %s", job.Name, e.ScheduledFor, show(e))
		}
		want = e.ScheduledFor.Add(interval)
	}
	return found
}

// TestFleet has two registries do the work of one.
func TestFleet(t *testing.T) {
	t.Parallel()
	r := fleet(t, nil)
	clients := []*rest.Client{r.Registries[0].Client(r.Users.SuperAdmin), r.Registries[1].Client(r.Users.SuperAdmin)}
	t.Run("any registry", func(t *testing.T) { anyRegistry(t, r, clients) })
	t.Run("cancel elsewhere", func(t *testing.T) { cancelElsewhere(t, clients) })
	t.Run("drain elsewhere", func(t *testing.T) { drainElsewhere(t, clients) })
	t.Run("rolling restart", func(t *testing.T) { rollingRestart(t, r, clients) })
}

func anyRegistry(t *testing.T, r *rig, clients []*rest.Client) {
	ctx := t.Context()
	job := createJob(t, clients[0], "anywhere", "test_scheduler", nil, nil)
	if changed, err := clients[1].UpdateJob(ctx, job.ID, rest.Object{"description": "changed at the other", "version": job.Version}); err != nil || changed.Version != job.Version+1 {
		t.Errorf("an edit at the other registry: %+v, %v", changed, err)
	}
	_, err := clients[0].UpdateJob(ctx, job.ID, rest.Object{"description": "too late", "version": job.Version})
	refused(t, err, http.StatusPreconditionFailed)
	_, err = clients[1].CreateJob(ctx, rest.Object{"name": job.Name, "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}})
	refused(t, err, http.StatusConflict)
	for i, client := range clients {
		id := run(t, client, job)
		ended(t, client, id, "success")
		if e, logs, err := clients[1-i].Execution(ctx, id); err != nil || e.Status != "success" || len(logs) == 0 {
			t.Errorf("at the other registry: %s, %d lines, %v", show(e), len(logs), err)
		}
		if executions, err := client.ListExecutions(ctx, job.ID); err != nil || len(executions) != i+1 {
			t.Errorf("%s lists %d executions, %v", r.Registries[i].Name, len(executions), err)
		}
		for _, name := range []string{"executor-1", "executor-2"} {
			worker(t, client, name, func(w rest.Worker) bool { return w.Status == "ready" && w.Slots > 0 })
		}
		var listed struct{ Registries []struct{ Name string } }
		if err := client.Do(ctx, http.MethodGet, rest.Registries, nil, nil, &listed); err != nil || len(listed.Registries) != 2 ||
			listed.Registries[0].Name != r.Registries[0].Name || listed.Registries[1].Name != r.Registries[1].Name {
			t.Errorf("the registries are %+v, %v", listed, err)
		}
	}
	// The key of a request that was answered by one holds at the other.
	key := http.Header{"Idempotency-Key": {"once in the fleet"}}
	var ids [2]struct {
		ExecutionID string `json:"execution_id"`
	}
	for i, client := range clients {
		if err := client.Do(ctx, http.MethodPost, rest.Jobs+"/"+job.ID+"/run", key, nil, &ids[i]); err != nil {
			t.Fatal(err)
		}
		ended(t, client, ids[i].ExecutionID, "success")
	}
	if ids[0] != ids[1] {
		t.Errorf("one request became two runs: %v", ids)
	}
}

// cancelElsewhere cancels runs at the registry that did not lease them.
func cancelElsewhere(t *testing.T, clients []*rest.Client) {
	for i, client := range clients {
		job := createJob(t, client, "cancelled elsewhere "+strconv.Itoa(i), "test_scheduler", rest.Object{"duration_seconds": 600}, nil)
		id := run(t, client, job)
		begun(t, client, id)
		if err := clients[1-i].Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if e := ended(t, client, id, "cancelled"); value(e.ErrorCode) != "cancelled" {
			t.Errorf("it tells %s", show(e))
		}
	}
}

// drainElsewhere drains an executor at one registry, and asks the other for runs.
func drainElsewhere(t *testing.T, clients []*rest.Client) {
	job := createJob(t, clients[0], "not on the drained one", "test_scheduler", nil, nil)
	drained := worker(t, clients[1], "executor-1", func(w rest.Worker) bool { return w.Status == "ready" })
	if err := clients[1].Do(t.Context(), http.MethodPost, rest.Workers+"/"+drained.ID+"/drain", nil, rest.Object{}, nil); err != nil {
		t.Fatal(err)
	}
	worker(t, clients[0], "executor-1", func(w rest.Worker) bool { return w.Status == "draining" })
	await(t, soon, 100*time.Millisecond, func(context.Context) error { // until it was told
		for range 4 {
			if e := ended(t, clients[0], run(t, clients[0], job), "success"); value(e.ExecutionHost) != "executor-2" {
				return fmt.Errorf("the drained executor gets work: %s", show(e))
			}
		}
		return nil
	})
	for range 6 {
		if e := ended(t, clients[0], run(t, clients[0], job), "success"); value(e.ExecutionHost) != "executor-2" {
			t.Errorf("the drained executor got work: %s", show(e))
		}
	}
	if err := clients[0].Do(t.Context(), http.MethodPost, rest.Workers+"/"+drained.ID+"/resume", nil, rest.Object{}, nil); err != nil {
		t.Fatal(err)
	}
	await(t, soon, 100*time.Millisecond, func(context.Context) error {
		if e := ended(t, clients[1], run(t, clients[1], job), "success"); value(e.ExecutionHost) != "executor-1" {
			return fmt.Errorf("the resumed executor gets no work: %s", show(e))
		}
		return nil
	})
}

// asker asks one run after the other of a fleet, at whatever registry answers,
// each under a key of its own.
type asker struct {
	clients []*rest.Client
	job     rest.Job
	ids     map[string]string // of the executions, by key
	failure error
}

// ask goes on until ctx ends. A request that was begun is repeated until it was
// acknowledged.
func (a *asker) ask(ctx context.Context, pause time.Duration) {
	a.ids = map[string]string{}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	lasting := context.WithoutCancel(ctx)
	for turn := 0; ctx.Err() == nil; turn++ {
		key := a.job.ID + "-" + strconv.Itoa(turn)
		for try := 0; ; try++ {
			<-ticker.C
			var answer struct {
				ExecutionID string `json:"execution_id"`
			}
			limited, cancel := context.WithTimeout(lasting, 10*time.Second)
			err := a.clients[(turn+try)%len(a.clients)].Do(limited, http.MethodPost, rest.Jobs+"/"+a.job.ID+"/run",
				http.Header{"Idempotency-Key": {key}}, nil, &answer)
			cancel()
			if err == nil {
				a.ids[key] = answer.ExecutionID
				break
			}
			if !unavailable(err) || try == 100 {
				a.failure = fmt.Errorf("request %s, try %d: %w", key, try+1, err)
				return
			}
		}
	}
}

// unavailable says whether an error is what a registry answers that is gone, is
// about to go, or waits for its store in vain: nothing was acknowledged.
func unavailable(err error) bool {
	var refusal *rest.Error
	if errors.As(err, &refusal) {
		return refusal.Status == http.StatusServiceUnavailable || refusal.Status == http.StatusGatewayTimeout
	}
	return err != nil
}

// rollingRestart replaces one registry after the other while jobs fall due and
// runs are asked for.
func rollingRestart(t *testing.T, r *rig, clients []*rest.Client) {
	const interval = 4 * time.Second
	var scheduled []rest.Job
	for i := range 4 {
		scheduled = append(scheduled, createJob(t, clients[i%2], fmt.Sprintf("scheduled %d", i), "test_scheduler", rest.Object{"duration_seconds": 1}, each(interval)))
	}
	asking, stop := context.WithCancel(t.Context())
	defer stop()
	load := &asker{clients: clients, job: createJob(t, clients[0], "asked for", "test_scheduler", nil, parallel(nil))}
	var group sync.WaitGroup
	group.Go(func() { load.ask(asking, 700*time.Millisecond) })
	until(t, time.Now().Add(2*interval))
	for _, registry := range r.Registries {
		replace(t, r, registry.Name)
		until(t, time.Now().Add(interval)) // so that the next one goes after work was shared out anew
	}
	stop()
	group.Wait()
	if load.failure != nil {
		t.Fatal(load.failure)
	}
	last := time.Now()
	for _, job := range scheduled {
		for _, e := range covered(t, clients[0], job, interval, last, "success") {
			if len(e.Attempts) != 1 {
				t.Errorf("%s was disturbed at %v: %s", job.Name, e.ScheduledFor, show(e))
			}
		}
	}
	var asked []rest.Execution
	await(t, time.Minute, time.Second, func(ctx context.Context) (err error) {
		asked, err = clients[1].ListExecutions(ctx, load.job.ID)
		if at := slices.IndexFunc(asked, func(e rest.Execution) bool { return !e.Over() }); at >= 0 && err == nil {
			return fmt.Errorf("not yet: %s", show(asked[at]))
		}
		return err
	})
	if len(asked) != len(load.ids) || len(asked) < 10 {
		t.Errorf("%d runs were asked for, and there are %d", len(load.ids), len(asked))
	}
	acknowledged := map[string]bool{}
	for _, id := range load.ids {
		acknowledged[id] = true
	}
	for _, e := range asked {
		if !acknowledged[e.ID] || e.Status != "success" || len(e.Attempts) != 1 {
			t.Errorf("acknowledged: %v, %s", acknowledged[e.ID], show(e))
		}
	}
	for _, job := range scheduled {
		if _, err := clients[0].UpdateJob(t.Context(), job.ID, rest.Object{"enabled": false}); err != nil {
			t.Error(err)
		}
	}
}

// replace asks a process to end, and waits until its successor and all the others
// work.
func replace(t *testing.T, r *rig, name string) {
	t.Helper()
	p := r.Process(name)
	before := p.PID()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	within(t, soon, func(ctx context.Context) error {
		if running, err := p.Running(); !running || p.PID() == before {
			return fmt.Errorf("%s has yet to be replaced (%w)", name, err)
		}
		return r.Ready(ctx)
	})
}

// TestStoreFails takes the store away, first as one that hangs, then as one that
// is gone.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	const interval = 4 * time.Second
	r := fleet(t, nil)
	ctx := t.Context()
	clients := []*rest.Client{r.Registries[0].Client(r.Users.SuperAdmin), r.Registries[1].Client(r.Users.SuperAdmin)}
	var scheduled []rest.Job
	for i := range 4 {
		scheduled = append(scheduled, createJob(t, clients[0], fmt.Sprintf("scheduled %d", i), "test_scheduler", nil, each(interval)))
	}
	asked := createJob(t, clients[0], "asked for", "test_scheduler", nil, parallel(nil))
	ended(t, clients[0], run(t, clients[0], asked), "success")
	store := r.Process(system.Keeper)

	for _, outage := range []struct {
		name       string
		begin, end func()
	}{
		{
			"it hangs",
			func() { signal(t, store, syscall.SIGSTOP) },
			func() { signal(t, store, syscall.SIGCONT) },
		},
		{
			"it is gone",
			func() { store.Hold(); kill(t, store.PID()); r.down(system.Keeper) },
			func() { store.Release() },
		},
	} {
		outage.begin()
		for _, client := range clients {
			within(t, soon, func(ctx context.Context) error {
				if err := client.Ready(ctx); err == nil {
					return fmt.Errorf("%s: a registry says that it is ready", outage.name)
				}
				return nil
			})
			refused(t, client.Ready(ctx), http.StatusServiceUnavailable)
		}
		// Nothing is acknowledged, and what is asked for again afterwards is done once.
		key := http.Header{"Idempotency-Key": {"asked during: " + outage.name}}
		name := "made during: " + outage.name
		create := func(client *rest.Client) error {
			return client.Do(ctx, http.MethodPost, rest.Jobs, key, rest.Object{"name": name, "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}}, nil)
		}
		start := func(client *rest.Client) error {
			return client.Do(ctx, http.MethodPost, rest.Jobs+"/"+asked.ID+"/run", key, nil, nil)
		}
		var group sync.WaitGroup
		var answers [4]error
		for i, client := range clients {
			group.Go(func() { answers[2*i] = create(client) })
			group.Go(func() { answers[2*i+1] = start(client) })
		}
		group.Wait()
		for _, err := range answers {
			if !unavailable(err) {
				t.Errorf("while %s: %v", outage.name, err)
			}
		}
		outage.end()
		r.ready()
		for _, client := range clients {
			if err := errors.Join(create(client), start(client)); err != nil {
				t.Errorf("after %s: %v", outage.name, err)
			}
		}
	}
	until(t, time.Now().Add(interval))
	last := time.Now()
	for _, job := range scheduled {
		covered(t, clients[0], job, interval, last, "success")
	}
	var runs []rest.Execution
	await(t, time.Minute, time.Second, func(ctx context.Context) (err error) {
		runs, err = clients[1].ListExecutions(ctx, asked.ID)
		if at := slices.IndexFunc(runs, func(e rest.Execution) bool { return e.Status != "success" }); at >= 0 && err == nil {
			return fmt.Errorf("not yet: %s", show(runs[at]))
		}
		return err
	})
	if len(runs) != 3 {
		t.Errorf("asked for 3 runs, there are %d", len(runs))
	}
	jobs, err := clients[0].ListJobs(ctx)
	if err != nil || len(jobs) != len(scheduled)+1+2 {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
}

func signal(t *testing.T, p interface{ Signal(os.Signal) error }, what os.Signal) {
	t.Helper()
	if err := p.Signal(what); err != nil {
		t.Fatal(err)
	}
}
