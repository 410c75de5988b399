package system

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// once gives a schedule of one instant.
func once(at time.Time) rest.Object {
	return rest.Object{"schedule": rest.Object{"type": "once", "run_at": at.UTC().Format(time.RFC3339Nano)}}
}

// theOnly waits until the job has one execution and that is over. More would be
// too many.
func theOnly(t *testing.T, client *rest.Client, job rest.Job, status string) rest.Execution {
	t.Helper()
	var found []rest.Execution
	within(t, time.Minute, func(ctx context.Context) (err error) {
		if found, err = client.ListExecutions(ctx, job.ID); err != nil {
			return err
		}
		if len(found) == 0 || !found[0].Over() {
			return fmt.Errorf("%s has the executions %+v", job.Name, found)
		}
		return nil
	})
	if len(found) != 1 || found[0].Status != status {
		t.Fatalf("%s: want one execution, %s, but there are %+v", job.Name, status, found)
	}
	return found[0]
}

// TestRegistryDies kills the registry while one run is under way, and lets
// another become due before it is back.
func TestRegistryDies(t *testing.T) {
	t.Parallel()
	r := boot(t, nil)
	long := r.job("long", "test_scheduler", rest.Object{"duration_seconds": 3}, nil)
	id := run(t, r.super, long)
	first := begun(t, r.super, id)
	missed := r.job("due while it is down", "test_scheduler", nil, once(time.Now().Add(time.Second)))

	registry := r.Process(system.Registry)
	registry.Hold()
	kill(t, registry.PID())
	r.down(system.Registry)
	within(t, soon, func(context.Context) error { // until both have happened, in vain
		if remaining := time.Until(first.StartedAt.Add(4 * time.Second)); remaining > 0 {
			return fmt.Errorf("%v remain", remaining)
		}
		return nil
	})
	registry.Release()
	within(t, soon, r.Ready)
	back := time.Now()

	e := ended(t, r.super, id, "success")
	if len(e.Attempts) != 1 || !e.StartedAt.Equal(*first.StartedAt) {
		t.Errorf("the run was disturbed: %s", show(e))
	}
	theOnly(t, r.super, long, "success")
	if late := theOnly(t, r.super, missed, "success"); late.StartedAt.After(back.Add(6 * time.Second)) {
		t.Errorf("the other run started %v after the registry was back", late.StartedAt.Sub(back))
	}
}

// TestExecutorDies kills the executor under a run; the other goes on with it.
func TestExecutorDies(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	r := boot(t, func(c *system.Config) { c.Registry = map[string]any{"session_ttl": ttl.String()} })
	job := r.job("carried on", "test_scheduler", rest.Object{"duration_seconds": 3}, nil)
	id := run(t, r.super, job)
	victim := r.Process(value(begun(t, r.super, id).ExecutionHost))
	victim.Hold()
	killed := time.Now()
	kill(t, victim.PID())
	e := ended(t, r.super, id, "success")
	if len(e.Attempts) != 2 || value(e.Attempts[1].ExecutionHost) == victim.Name() || value(e.ExecutionHost) == victim.Name() {
		t.Fatalf("want a second attempt elsewhere: %s", show(e))
	}
	if took := e.Attempts[1].StartedAt.Sub(killed); took > ttl+time.Second {
		t.Errorf("the second attempt started %v after the death", took)
	}
	theOnly(t, r.super, job, "success")
}

// TestThreeLostSessions lets a run take its executor with it again and again.
func TestThreeLostSessions(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Executors = 1
		c.Registry = map[string]any{"session_ttl": "1s"}
	})
	job := r.job("poison", "test_scheduler", rest.Object{"duration_seconds": 600}, rest.Object{"retry_policy": rest.Object{"max_retries": 0}})
	id := run(t, r.super, job)
	for life := 1; life <= 3; life++ {
		execution(t, r.super, id, soon, func(e rest.Execution) bool {
			return e.Status == "running" && len(e.Attempts) == life
		})
		kill(t, r.Process("executor-1").PID())
	}
	if e := ended(t, r.super, id, "failed"); value(e.ErrorCode) != "executor_lost" {
		t.Errorf("it tells %s", show(e))
	}
}

// TestFrozenExecutor stops an executor for longer than its session lives. Its
// child works on, and its result comes when another attempt has taken over.
func TestFrozenExecutor(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) { c.Registry = map[string]any{"session_ttl": "2s"} })
	job := r.job("overtaken", "test_scheduler", rest.Object{"duration_seconds": 3}, nil)
	id := run(t, r.super, job)
	frozen := r.Process(value(begun(t, r.super, id).ExecutionHost))
	if err := frozen.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := execution(t, r.super, id, soon, func(e rest.Execution) bool { return len(e.Attempts) == 2 && e.Status == "running" })
	if value(second.ExecutionHost) == frozen.Name() {
		t.Fatalf("a frozen executor was given work: %s", show(second))
	}
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	e := ended(t, r.super, id, "success")
	if len(e.Attempts) != 2 || value(e.ExecutionHost) != value(second.ExecutionHost) || e.Attempts[1].Status != "success" || e.Attempts[0].Status == "success" {
		t.Errorf("the stale result counted: %s", show(e))
	}
	if ran := e.CompletedAt.Sub(*e.Attempts[1].StartedAt); ran < 3*time.Second {
		t.Errorf("the second attempt ended after %v", ran)
	}
	r.ready() // the frozen one is welcome again, under another session
	if after := theOnly(t, r.super, job, "success"); !after.CompletedAt.Equal(*e.CompletedAt) || after.Status != e.Status {
		t.Errorf("it ended twice: %s, then %s", show(e), show(after))
	}
}

// TestDrain asks an executor to end while it works.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := boot(t, nil)
	job := r.job("finished first", "test_scheduler", rest.Object{"duration_seconds": 2}, nil)
	id := run(t, r.super, job)
	first := begun(t, r.super, id)
	leaving := r.Process(value(first.ExecutionHost))
	leaving.Hold()
	if err := leaving.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		other := r.job(fmt.Sprintf("goes elsewhere %d", i), "test_scheduler", nil, nil)
		if e := ended(t, r.super, run(t, r.super, other), "success"); value(e.ExecutionHost) == leaving.Name() {
			t.Errorf("a draining executor was given work: %s", show(e))
		}
	}
	r.down(leaving.Name())
	if _, err := leaving.Running(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	e := ended(t, r.super, id, "success")
	if len(e.Attempts) != 1 || value(e.ExecutionHost) != leaving.Name() {
		t.Errorf("the run was not finished: %s", show(e))
	}

	// What does not finish within the grace is handed back, at no cost.
	stubborn := r.job("handed back", "test_scheduler", rest.Object{"duration_seconds": 8}, rest.Object{"retry_policy": rest.Object{"max_retries": 0}})
	leaving.Release()
	r.ready()
	id = run(t, r.super, stubborn)
	leaving = r.Process(value(begun(t, r.super, id).ExecutionHost))
	leaving.Hold()
	if err := leaving.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.down(leaving.Name())
	if e := ended(t, r.super, id, "success"); value(e.ExecutionHost) == leaving.Name() {
		t.Errorf("the run was not handed on: %s", show(e))
	}
}

// TestRestart stops everything in order and starts it again.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := boot(t, func(c *system.Config) { c.Dir = dir })
	job := r.job("remembered", "test_scheduler", nil, rest.Object{"schedule": rest.Object{"type": "interval", "interval_seconds": 3600}})
	before := ended(t, r.super, run(t, r.super, job), "success")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	next := boot(t, func(c *system.Config) { c.Dir = dir })
	if next.First || next.Users != r.Users {
		t.Error("other users")
	}
	jobs, err := next.super.ListJobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].ID != job.ID || !jobs[0].NextRunAt.Equal(*job.NextRunAt) {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
	after := theOnly(t, next.super, job, "success")
	if after.ID != before.ID || !after.CompletedAt.Equal(*before.CompletedAt) {
		t.Errorf("before %s, after %s", show(before), show(after))
	}
	ended(t, next.super, run(t, next.super, job), "success")
}

// TestLimits counts manual runs and jobs, across a restart.
func TestLimits(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Executors = 1
		c.Registry = map[string]any{"max_jobs": 3, "manual_runs_per_hour": 4}
	})
	job := r.job("limited", "test_scheduler", nil, nil)
	for i := range 4 {
		if i == 2 {
			kill(t, r.Process(system.Registry).PID())
			r.down(system.Registry)
			r.ready()
		}
		ended(t, r.super, run(t, r.super, job), "success")
	}
	_, err := r.super.RunJob(t.Context(), job.ID)
	refused(t, err, http.StatusTooManyRequests)
	if executions, err := r.super.ListExecutions(t.Context(), job.ID); err != nil || len(executions) != 4 {
		t.Errorf("%d executions, %v", len(executions), err)
	}
	admin := r.Client(r.Users.Admin)
	ended(t, admin, run(t, admin, job), "success") // the count is each user's own

	r.job("second", "test_scheduler", nil, nil)
	r.job("third", "test_scheduler", nil, nil)
	_, err = r.super.CreateJob(t.Context(), rest.Object{"name": "fourth", "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}})
	refused(t, err, http.StatusTooManyRequests)
}

// TestStoreOutOfReach holds SQLite's write lock, so that the registry cannot
// write: it must say so, and acknowledge nothing, until it can again.
func TestStoreOutOfReach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := boot(t, func(c *system.Config) { c.Dir, c.Executors = dir, 1 })
	job := r.job("before", "test_scheduler", nil, nil)

	release := holdStore(t, filepath.Join(dir, "registry", "store"))
	within(t, time.Minute, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := r.super.Ready(ctx); err == nil {
			return fmt.Errorf("the registry says that it is ready")
		}
		return nil
	})
	refused(t, r.super.Ready(t.Context()), http.StatusServiceUnavailable)
	_, err := r.super.CreateJob(t.Context(), rest.Object{"name": "in vain", "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}})
	refused(t, err, http.StatusServiceUnavailable)
	_, err = r.super.RunJob(t.Context(), job.ID)
	refused(t, err, http.StatusServiceUnavailable)

	release()
	r.ready()
	ended(t, r.super, run(t, r.super, job), "success")
	jobs, err := r.super.ListJobs(t.Context())
	if err != nil || len(jobs) != 1 {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
}

// holdStore takes the lock that SQLite's writers take in WAL mode: byte 120 of the
// -shm file.
func holdStore(t *testing.T, folder string) (release func()) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*-shm"))
	if err != nil || len(files) != 1 {
		t.Fatalf("want one -shm file in %s, got %v, %v", folder, files, err)
	}
	file, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: 120, Len: 1}
	within(t, soon, func(context.Context) error { return syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &lock) })
	return func() {
		if err := file.Close(); err != nil { // which releases the lock
			t.Error(err)
		}
	}
}
