package system

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// TestChildren looks at the processes in which runs take place. Its executor has
// one slot, so that its only child is the run's.
func TestChildren(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Executors = 1
		c.Executor = map[string]any{"slots": 1, "kill_grace": "1s"}
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
	})
	endless := r.job("endless", "test_scheduler", rest.Object{"duration_seconds": 600}, nil)

	t.Run("cancel", func(t *testing.T) {
		id := run(t, r.super, endless)
		child := childOf(t, r, id)
		asked := time.Now()
		if err := r.super.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		e := ended(t, r.super, id, "cancelled")
		gone(t, soon, child)
		if took := time.Since(asked); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		if value(e.ErrorCode) != "cancelled" {
			t.Errorf("error code %q", value(e.ErrorCode))
		}
		refused(t, r.super.Cancel(t.Context(), id), http.StatusConflict)
	})

	t.Run("time-out", func(t *testing.T) {
		hasty := createJob(t, r.super, "hasty", "test_scheduler", rest.Object{"duration_seconds": 600},
			rest.Object{"timeout_seconds": 1, "retry_policy": rest.Object{"max_retries": 0}})
		id := run(t, r.super, hasty)
		child := childOf(t, r, id)
		e := ended(t, r.super, id, "timed_out")
		gone(t, soon, child)
		if value(e.ErrorCode) != "timeout" || value(e.Error) == "" {
			t.Errorf("it tells %s", show(e))
		}
		if e.DurationSeconds == nil || *e.DurationSeconds < 1 || *e.DurationSeconds > 10 {
			t.Errorf("it took %v s", e.DurationSeconds)
		}
	})

	t.Run("crash", func(t *testing.T) {
		brittle := createJob(t, r.super, "brittle", "test_scheduler", rest.Object{"duration_seconds": 2},
			rest.Object{"retry_policy": rest.Object{"max_retries": 1, "retry_delay_seconds": 0}})
		id := run(t, r.super, brittle)
		kill(t, childOf(t, r, id))
		e := ended(t, r.super, id, "success")
		if len(e.Attempts) != 2 || value(e.Attempts[0].Error) == "" {
			t.Errorf("it tells %s", show(e))
		}
	})

	t.Run("end of the executor", func(t *testing.T) {
		id := run(t, r.super, endless)
		child := childOf(t, r, id)
		kill(t, r.Process("executor-1").PID())
		gone(t, soon, child)
		if err := r.super.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		ended(t, r.super, id, "cancelled")
	})
}

// childOf waits until the execution runs, and returns the process it runs in.
func childOf(t *testing.T, r *rig, id string) int {
	t.Helper()
	begun(t, r.super, id)
	child := 0
	within(t, soon, func(context.Context) error {
		children := childrenOf(t, r.Process("executor-1").PID())
		if len(children) != 1 || !alive(children[0]) {
			return fmt.Errorf("the executor has the children %v", children)
		}
		child = children[0]
		return nil
	})
	return child
}
