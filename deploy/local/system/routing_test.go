package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// parallel is a job whose runs may overlap.
func parallel(more rest.Object) rest.Object {
	settings := rest.Object{"overlap_policy": "allow"}
	for key, value := range more {
		settings[key] = value
	}
	return settings
}

// TestRouting sends runs to the executors that they ask for, and none to one that
// is drained.
func TestRouting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := boot(t, func(c *system.Config) {
		c.Dir = dir
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
		c.Executor = map[string]any{"slots": 2}
		c.Each = map[string]map[string]any{
			"executor-1": {"labels": map[string]string{"zone": "eu", "disk": "large"}},
			"executor-2": {"labels": map[string]string{"zone": "us"}},
		}
	})
	europe := r.job("europe", "test_scheduler", nil, parallel(rest.Object{"executor_selector": rest.Object{"zone": "eu", "disk": "large"}}))
	america := r.job("america", "test_scheduler", nil, parallel(rest.Object{"executor_selector": rest.Object{"zone": "us"}}))
	anywhere := r.job("anywhere", "test_scheduler", nil, parallel(nil))

	t.Run("labels", func(t *testing.T) {
		hosts := map[string]string{}
		for range 6 {
			hosts[run(t, r.super, europe)] = "executor-1"
			hosts[run(t, r.super, america)] = "executor-2"
		}
		for id, host := range hosts {
			if e := ended(t, r.super, id, "success"); value(e.ExecutionHost) != host {
				t.Errorf("%s ran on %s instead of %s", e.JobName, value(e.ExecutionHost), host)
			}
		}
	})
	t.Run("drain", func(t *testing.T) { drainAndResume(t, r, europe, anywhere) })
	t.Run("nobody", func(t *testing.T) { nobodySatisfies(t, r, filepath.Join(dir, "run", "executor-2.json"), anywhere) })
}

// drainAndResume takes executor-1 out of service while it works, and back.
func drainAndResume(t *testing.T, r *rig, europe, anywhere rest.Job) {
	long := createJob(t, r.super, "long in europe", "test_scheduler", rest.Object{"duration_seconds": 2},
		rest.Object{"executor_selector": rest.Object{"zone": "eu"}})
	id := run(t, r.super, long)
	begun(t, r.super, id)
	busy := worker(t, r.super, "executor-1", func(w rest.Worker) bool { return w.Running == 1 })
	if busy.Version == "" || busy.Slots != 2 || busy.Load != 0.5 || busy.Status != "ready" || busy.Draining ||
		busy.Labels["zone"] != "eu" || busy.Labels["disk"] != "large" || !slices.Contains(busy.Templates, "test_scheduler") {
		t.Errorf("the workers tell %+v", busy)
	}
	if busy.ConnectedAt == nil || busy.LastBeatAt == nil || busy.LastBeatAt.Before(*busy.ConnectedAt) ||
		busy.LastBeatAgeSeconds == nil || *busy.LastBeatAgeSeconds < 0 || *busy.LastBeatAgeSeconds > 5 {
		t.Errorf("its times are %v, %v, %v", busy.ConnectedAt, busy.LastBeatAt, busy.LastBeatAgeSeconds)
	}

	admin, drain := r.Client(r.Users.Admin), rest.Workers+"/"+busy.ID+"/drain"
	if workers, err := admin.ListWorkers(t.Context()); err != nil || len(workers) != 2 {
		t.Errorf("an admin sees %+v, %v", workers, err)
	}
	refused(t, admin.Do(t.Context(), http.MethodPost, drain, nil, rest.Object{}, nil), http.StatusForbidden)
	refused(t, r.super.Do(t.Context(), http.MethodPost, rest.Workers+"/nobody/drain", nil, rest.Object{}, nil), http.StatusNotFound)
	var answer struct{ Worker rest.Worker }
	if err := r.super.Do(t.Context(), http.MethodPost, drain, nil, rest.Object{}, &answer); err != nil || answer.Worker.Status != "draining" {
		t.Fatalf("drain: %+v, %v", answer, err)
	}
	// It takes effect once the registry has told the executor.
	worker(t, r.super, "executor-1", func(w rest.Worker) bool { return w.Draining && w.Running <= 1 })
	waiting := createJob(t, r.super, "waits for europe", "test_scheduler", nil, rest.Object{"executor_selector": rest.Object{"zone": "eu"}})
	within(t, soon, func(context.Context) error {
		var hosts []string
		for range 4 {
			hosts = append(hosts, value(ended(t, r.super, run(t, r.super, anywhere), "success").ExecutionHost))
		}
		if slices.Contains(hosts, "executor-1") {
			return fmt.Errorf("the drained executor gets work: %v", hosts)
		}
		return nil
	})
	held := run(t, r.super, waiting)
	for range 8 {
		if e := ended(t, r.super, run(t, r.super, anywhere), "success"); value(e.ExecutionHost) != "executor-2" {
			t.Errorf("the drained executor got work: %s", show(e))
		}
	}
	if e := ended(t, r.super, id, "success"); len(e.Attempts) != 1 || value(e.ExecutionHost) != "executor-1" {
		t.Errorf("draining disturbed what ran: %s", show(e))
	}
	if e, _, err := r.super.Execution(t.Context(), held); err != nil || e.Status != "pending" {
		t.Errorf("what only the drained executor may run: %s, %v", show(e), err)
	}
	if err := r.super.Do(t.Context(), http.MethodPost, rest.Workers+"/"+busy.ID+"/resume", nil, rest.Object{}, &answer); err != nil || answer.Worker.Status != "ready" {
		t.Fatalf("resume: %+v, %v", answer, err)
	}
	for _, id := range []string{held, run(t, r.super, europe)} {
		if e := ended(t, r.super, id, "success"); value(e.ExecutionHost) != "executor-1" {
			t.Errorf("after it was resumed: %s", show(e))
		}
	}
}

// nobodySatisfies lets runs wait for an executor that does not exist, until it
// does.
func nobodySatisfies(t *testing.T, r *rig, executorFile string, anywhere rest.Job) {
	mars := createJob(t, r.super, "mars", "test_scheduler", nil, parallel(rest.Object{"executor_selector": rest.Object{"zone": "mars"}, "priority": 10}))
	var waiting []string
	for range 30 {
		waiting = append(waiting, run(t, r.super, mars))
	}
	for range 5 {
		id, begun := run(t, r.super, anywhere), time.Now()
		ended(t, r.super, id, "success")
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("behind runs that wait for nobody another took %v", took)
		}
	}
	for _, id := range waiting {
		if e, _, err := r.super.Execution(t.Context(), id); err != nil || e.Status != "pending" || len(e.Attempts) != 0 {
			t.Fatalf("no executor is on Mars, and yet: %s, %v", show(e), err)
		}
	}
	if err := r.super.Cancel(t.Context(), waiting[0]); err != nil {
		t.Fatal(err)
	}
	ended(t, r.super, waiting[0], "cancelled")

	settings := map[string]any{}
	content, err := os.ReadFile(executorFile)
	if err == nil {
		err = json.Unmarshal(content, &settings)
	}
	if err == nil {
		settings["labels"] = map[string]string{"zone": "mars"}
		content, err = json.Marshal(settings)
	}
	if err == nil {
		err = os.WriteFile(executorFile, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Process("executor-2").Signal(syscall.SIGTERM); err != nil { // it is started again
		t.Fatal(err)
	}
	for _, id := range waiting[1:] {
		if e := ended(t, r.super, id, "success"); value(e.ExecutionHost) != "executor-2" || len(e.Attempts) != 1 {
			t.Errorf("once there was one: %s", show(e))
		}
	}
}

// worker waits until the worker on the host is as the condition wants it.
func worker(t *testing.T, client *rest.Client, host string, condition func(rest.Worker) bool) rest.Worker {
	t.Helper()
	var found rest.Worker
	within(t, soon, func(ctx context.Context) error {
		workers, err := client.ListWorkers(ctx)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(workers, func(w rest.Worker) bool { return w.Host == host && condition(w) })
		if at < 0 {
			return fmt.Errorf("no worker is as wanted: %+v", workers)
		}
		found = workers[at]
		return nil
	})
	return found
}

// TestFairShares lets organisations with backlogs meet at one executor.
func TestFairShares(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Executors = 1
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
		c.Executor = map[string]any{"slots": 4}
	})
	// Its template has to be known before the jobs are made.
	executor := r.Process("executor-1")
	executor.Hold()
	if err := executor.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.down("executor-1")

	const backlog, few = 150, 20
	big := r.job("backlog", "test_scheduler", nil, parallel(rest.Object{"organisation": "big"}))
	for range backlog {
		run(t, r.super, big)
	}
	small := r.job("after the backlog", "test_scheduler", nil, parallel(rest.Object{"organisation": "small"}))
	urgent := r.job("urgent", "test_scheduler", nil, parallel(rest.Object{"organisation": "small", "priority": 5}))
	for range few {
		run(t, r.super, small)
	}
	for range few {
		run(t, r.super, urgent)
	}
	executor.Release()

	var all []rest.Execution
	for job, runs := range map[string]int{big.ID: backlog, small.ID: few, urgent.ID: few} {
		within(t, time.Minute, func(ctx context.Context) error {
			executions, err := r.super.ListExecutions(ctx, job)
			if err != nil {
				return err
			}
			for _, e := range executions {
				if e.Status != "success" || len(e.Attempts) != 1 {
					return fmt.Errorf("not yet: %s", show(e))
				}
			}
			if len(executions) != runs {
				t.Fatalf("%d executions instead of %d", len(executions), runs)
			}
			all = append(all, executions...)
			return nil
		})
	}
	slices.SortFunc(all, func(a, b rest.Execution) int { return a.StartedAt.Compare(*b.StartedAt) })
	last, bigs := map[string]int{}, 0 // position of the last of each job; those of the backlog before the last of the small ones
	for i, e := range all {
		last[e.JobID] = i
	}
	for _, e := range all[:max(last[small.ID], last[urgent.ID])] {
		if e.JobID == big.ID {
			bigs++
		}
	}
	// Both organisations have two slots each; runs take about the same time.
	if bigs > 3*few {
		t.Errorf("%d runs of the backlog went before the last of %d runs of another organisation", bigs, 2*few)
	}
	firstSmall := slices.IndexFunc(all, func(e rest.Execution) bool { return e.JobID == small.ID })
	early := 0
	for _, e := range all[firstSmall:] {
		if e.JobID == urgent.ID {
			early++
		}
	}
	t.Logf("%d runs of the backlog went before the last of the others, %d urgent ones after the first of those that are not", bigs, early)
	// As many as there are slots may be under way at once, in any order.
	if early > 4 {
		t.Errorf("%d of %d urgent runs came after one that is not", early, few)
	}
}
