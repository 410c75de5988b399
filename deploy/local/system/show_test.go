package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
)

// TestShow does what a first user of a fresh clone is promised, step by step, on
// a local system as `make run` starts it.
func TestShow(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	bin = copied(t, bin, "registry", "executor", "runner", "standin")
	local := localRun(t, bin, filepath.Join(t.TempDir(), "data"))
	s := local.up()
	client := s.client("super_admin")
	t.Logf("the local system is up: REST at %s, processes %v", s.HTTP, s.Processes)

	minutely := createJob(t, client, "every minute", "test_scheduler", nil, rest.Object{"schedule": rest.Object{"type": "cron", "expression": "* * * * *"}})
	t.Logf("a job on a one-minute cron is made, due at %s", minutely.NextRunAt.Format(time.RFC3339))
	old := rest.Object{"lastActive": rest.Object{"$lt": "6 months ago"}}
	cleanup := createJob(t, client, "old sessions", "database_cleanup", rest.Object{"collection": "sessions", "condition": old, "dryRun": true}, nil)
	t.Logf("a database_cleanup job on sessions is made, with dryRun true")

	dry := ended(t, client, run(t, client, cleanup), "success")
	count, _ := dry.Result["records_processed"].(float64)
	if count == 0 || number(dry, "records_deleted") != 0 {
		t.Fatalf("the dry run: %s", show(dry))
	}
	t.Logf("its run finds %v sessions and deletes none: %v", count, dry.Result)

	if _, err := client.UpdateJob(t.Context(), cleanup.ID, rest.Object{"parameters": rest.Object{"collection": "sessions", "condition": old, "dryRun": false}}); err != nil {
		t.Fatal(err)
	}
	deleting := ended(t, client, run(t, client, cleanup), "success")
	if number(deleting, "records_deleted") != count {
		t.Fatalf("the real run: %s", show(deleting))
	}
	t.Logf("dryRun is set to false by PUT; the next run deletes as many: %v", deleting.Result)
	empty := ended(t, client, run(t, client, cleanup), "success")
	if number(empty, "records_deleted") != 0 {
		t.Fatalf("the run after it: %s", show(empty))
	}
	t.Logf("and the one after it none: %v", empty.Result)

	var fired rest.Execution
	within(t, 75*time.Second, func(ctx context.Context) error {
		executions, err := client.ListExecutions(ctx, minutely.ID)
		if err != nil {
			return err
		}
		if len(executions) == 0 || !executions[0].Over() {
			return fmt.Errorf("the job on the cron has not run: %+v", executions)
		}
		fired = executions[0]
		return nil
	})
	if late := fired.StartedAt.Sub(*fired.ScheduledFor); fired.TriggeredBy != "scheduler" || fired.Status != "success" ||
		!fired.ScheduledFor.Equal(fired.ScheduledFor.Truncate(time.Minute)) || late < 0 || late > time.Second {
		t.Fatalf("the run of the cron: %s, for %v, at %v", show(fired), fired.ScheduledFor, fired.StartedAt)
	}
	t.Logf("the one-minute cron fired by itself for %s (at %s), and its executions list shows it", fired.ScheduledFor.Format(time.TimeOnly), fired.StartedAt.Format("15:04:05.000"))

	surviving := createJob(t, client, "survives the registry", "test_scheduler", rest.Object{"duration_seconds": 4}, nil)
	id := run(t, client, surviving)
	begun(t, client, id)
	kill(t, s.Processes["registry-1"])
	t.Logf("kill -9 of the registry during a run")
	e := execution(t, client, id, time.Minute, rest.Execution.Over)
	if e.Status != "success" || len(e.Attempts) != 1 {
		t.Fatalf("the run: %s", show(e))
	}
	theOnly(t, client, surviving, "success")
	t.Logf("it was started again, and the run's result is there, once: %v", e.Result)

	const ttl = 5 * time.Second // the usual one
	within(t, soon, func(ctx context.Context) error { return client.Ready(ctx) })
	carried := createJob(t, client, "survives an executor", "test_scheduler", rest.Object{"duration_seconds": 4}, nil)
	id = run(t, client, carried)
	victim := value(begun(t, client, id).ExecutionHost)
	if s, err = local.status(); err != nil {
		t.Fatal(err)
	}
	// Without its program it cannot be started again: it is the other's turn.
	if err := os.Remove(filepath.Join(bin, "executor")); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	kill(t, s.Processes[victim])
	t.Logf("kill -9 of %s during a run", victim)
	e = ended(t, client, id, "success")
	if len(e.Attempts) != 2 || value(e.Attempts[1].ExecutionHost) == victim {
		t.Fatalf("want a second attempt by the other: %s", show(e))
	}
	took := e.Attempts[1].StartedAt.Sub(killed)
	if took > ttl+time.Second {
		t.Fatalf("the second attempt began %v after the kill", took)
	}
	theOnly(t, client, carried, "success")
	t.Logf("%s attempted it again %v after the kill (TTL %v + 1 s are allowed): %s", value(e.Attempts[1].ExecutionHost), took, ttl, show(e))
}

func number(e rest.Execution, name string) float64 {
	n, ok := e.Result[name].(float64)
	if !ok {
		return -1
	}
	return n
}
