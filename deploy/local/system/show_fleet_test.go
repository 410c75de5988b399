package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
)

// TestShowFleet does what is promised of a fleet, on a local system as `make run
// REPLICAS=2 EXECUTORS=2 STORE=mongodb` starts it: registries and executors may die
// at any time, and every fire time has its one run all the same. With -short it is
// smaller.
func TestShowFleet(t *testing.T) {
	jobs, interval, down := 50, 10*time.Second, 10*time.Second
	if testing.Short() {
		jobs, interval, down = 20, 5*time.Second, 7*time.Second
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	programs := []string{"registry", "executor", "runner", "standin"}
	copies := copied(t, bin, programs...)
	local := localRun(t, copies, filepath.Join(t.TempDir(), "data"), "ALMANAC_STORE=mongodb", "ALMANAC_REPLICAS=2", "ALMANAC_EXECUTORS=2")
	s := local.up()
	if len(s.Registries) != 2 {
		t.Fatalf("local.json: %+v", s)
	}
	clients := make([]*rest.Client, len(s.Registries))
	for i, registry := range s.Registries {
		clients[i] = &rest.Client{Base: registry.HTTP, Token: s.Users["super_admin"].Token}
	}
	t.Logf("the local system is up on MongoDB's wire protocol: %v, processes %v", s.Registries, s.Processes)

	scheduled := make([]rest.Job, jobs)
	for i := range scheduled {
		scheduled[i] = createJob(t, clients[i%2], fmt.Sprintf("every %v, %d", interval, i), "test_scheduler", rest.Object{"duration_seconds": 1}, each(interval))
	}
	first := *scheduled[0].NextRunAt
	t.Logf("%d jobs with an interval of %v are made, half of them at each registry", jobs, interval)
	until(t, first.Add(interval))

	// A process whose program is gone stays down until it is back.
	outage := func(name, program string) {
		now, err := local.status()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(copies, program)); err != nil {
			t.Fatal(err)
		}
		if program == "executor" { // while it runs something, which takes a second
			log := filepath.Join(local.dir, "logs", name+".log")
			before := begunIn(t, log)
			within(t, soon, func(context.Context) error {
				if begunIn(t, log) == before {
					return fmt.Errorf("%s begins nothing", name)
				}
				return nil
			})
		}
		kill(t, now.Processes[name])
		t.Logf("kill -9 of %s", name)
		until(t, time.Now().Add(down))
		if err := os.Symlink(filepath.Join(bin, program), filepath.Join(copies, program)); err != nil {
			t.Fatal(err)
		}
		await(t, soon, 100*time.Millisecond, func(ctx context.Context) error {
			after, err := local.status()
			if err != nil {
				return err
			}
			if pid := after.Processes[name]; pid == now.Processes[name] || !alive(pid) {
				return fmt.Errorf("%s has not been started again", name)
			}
			for _, client := range clients {
				if err := client.Ready(ctx); err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("%s is started again after %v", name, down)
		until(t, time.Now().Add(interval))
	}
	outage("registry-2", "registry")
	outage("executor-1", "executor")

	last := time.Now()
	runs, again, worst := 0, 0, time.Duration(0)
	for i, job := range scheduled {
		for _, e := range covered(t, clients[i%2], job, interval, last, "success") {
			runs++
			if len(e.Attempts) > 1 {
				again++
			}
			if late := e.Attempts[0].StartedAt.Sub(*e.ScheduledFor); late > worst {
				worst = late
			}
		}
	}
	if t.Failed() {
		return
	}
	t.Logf("the executions lists have each of the %d fire times in %v exactly once, each a success; "+
		"%d of them by another attempt, because executor-1 died under the first; the latest first attempt began %v late",
		runs, last.Sub(first).Round(time.Second), again, worst.Round(time.Millisecond))
	if again == 0 {
		t.Error("the executor was killed while it ran something, and yet nothing was attempted again")
	}
}

// begunIn counts the runs that an executor's log tells the beginning of.
func begunIn(t *testing.T, log string) int {
	t.Helper()
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(content), "' started\"")
}
