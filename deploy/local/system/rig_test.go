// Package system tests the whole system from outside: the real binaries as real
// processes, SQLite on a real disk, gRPC and HTTP over loopback. What the tests
// do to it is what happens to it in a bad week.
package system

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait more than they compute, so more of them run at a time
	// than there are cores, unless somebody asked for a number.
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", "6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// binaries is the folder with the programs to test: ALMANAC_BIN, or what `make
// build` made.
func binaries() (string, error) {
	folder := os.Getenv("ALMANAC_BIN")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "bin")
	}
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"registry", "executor", "runner", "standin", "almanac-local", "hello"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			return "", fmt.Errorf("%w: build the binaries first (make build), or name their folder in ALMANAC_BIN", err)
		}
	}
	return folder, nil
}

// rig is a running system under test.
type rig struct {
	*system.System
	t     *testing.T
	super *rest.Client
}

// boot starts a system for the test, which stops it at its end. The defaults are
// two executors and no stand-in; change may change them.
func boot(t *testing.T, change func(*system.Config)) *rig {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	config := system.Config{Bin: bin, Dir: t.TempDir(), Executors: 2}
	if change != nil {
		change(&config)
	}
	s, err := system.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			showLogs(t, filepath.Join(config.Dir, "logs"))
		}
	})
	return &rig{System: s, t: t, super: s.Client(s.Users.SuperAdmin)}
}

// showLogs adds the ends of the processes' logs to a failed test.
func showLogs(t *testing.T, folder string) {
	files, _ := filepath.Glob(filepath.Join(folder, "*.log"))
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		const most = 3000
		t.Logf("%s:\n%s", filepath.Base(file), content[max(0, len(content)-most):])
	}
}

// within waits until the condition returns nil, and looks often.
func within(t *testing.T, limit time.Duration, condition func(ctx context.Context) error) {
	t.Helper()
	await(t, limit, 20*time.Millisecond, condition)
}

// await waits until the condition returns nil. It is the only place where tests
// wait.
func await(t *testing.T, limit, pause time.Duration, condition func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		why := condition(ctx)
		if why == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("after %v: %v", limit, why)
		}
	}
}

// until waits for a point in time.
func until(t *testing.T, at time.Time) {
	t.Helper()
	await(t, time.Until(at)+soon, 50*time.Millisecond, func(context.Context) error {
		if remaining := time.Until(at); remaining > 0 {
			return fmt.Errorf("%v remain", remaining)
		}
		return nil
	})
}

// soon is how long something may take that takes no time worth telling, on a
// machine that is busy with other tests.
const soon = 20 * time.Second

// job creates a job and returns it; a manual schedule unless one is given.
func (r *rig) job(name string, template string, parameters, more rest.Object) rest.Job {
	r.t.Helper()
	return createJob(r.t, r.super, name, template, parameters, more)
}

func createJob(t *testing.T, client *rest.Client, name, template string, parameters, more rest.Object) rest.Job {
	t.Helper()
	definition := rest.Object{
		"name": name, "template_type": template, "parameters": parameters,
		"schedule": rest.Object{"type": "manual"},
	}
	for key, value := range more {
		definition[key] = value
	}
	job, err := client.CreateJob(t.Context(), definition)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return job
}

// run starts a run of the job now.
func run(t *testing.T, client *rest.Client, job rest.Job) string {
	t.Helper()
	id, err := client.RunJob(t.Context(), job.ID)
	if err != nil {
		t.Fatalf("run %s: %v", job.Name, err)
	}
	return id
}

// execution waits until the execution is as the condition wants it.
func execution(t *testing.T, client *rest.Client, id string, limit time.Duration, condition func(rest.Execution) bool) rest.Execution {
	t.Helper()
	var latest rest.Execution
	within(t, limit, func(ctx context.Context) (err error) {
		if latest, _, err = client.Execution(ctx, id); err != nil {
			return err
		}
		if !condition(latest) {
			return fmt.Errorf("execution %s is not as wanted: %+v", id, latest)
		}
		return nil
	})
	return latest
}

// begun waits until the execution runs, and returns it.
func begun(t *testing.T, client *rest.Client, id string) rest.Execution {
	t.Helper()
	return execution(t, client, id, soon, func(e rest.Execution) bool { return e.Status == "running" && e.ExecutionHost != nil })
}

// ended waits until the execution is over, and fails unless its status is as wanted.
func ended(t *testing.T, client *rest.Client, id, status string) rest.Execution {
	t.Helper()
	e := execution(t, client, id, time.Minute, rest.Execution.Over)
	if e.Status != status {
		t.Fatalf("execution %s ended as %s instead of %s: %s", id, e.Status, status, show(e))
	}
	return e
}

// show tells what is of interest of an execution.
func show(e rest.Execution) string {
	text := fmt.Sprintf("%s %s result %v", e.ID, e.Status, e.Result)
	for _, one := range []*string{e.Error, e.ErrorCode, e.Reason} {
		if one != nil {
			text += "; " + *one
		}
	}
	for _, a := range e.Attempts {
		text += fmt.Sprintf("; attempt %d %s on %s", a.Number, a.Status, value(a.ExecutionHost))
	}
	return text
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// refused checks that an error is an answer of that status, and returns it.
func refused(t *testing.T, err error, status int) rest.Error {
	t.Helper()
	var failure *rest.Error
	if !errors.As(err, &failure) || failure.Status != status {
		t.Errorf("want status %d, got %v", status, err)
		return rest.Error{}
	}
	return *failure
}

// kill ends a process as a crash would.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill -9 %d: %v", pid, err)
	}
}

// down waits until a process that was killed or stopped for good has ended.
func (r *rig) down(name string) {
	r.t.Helper()
	within(r.t, soon, func(context.Context) error {
		if running, _ := r.Process(name).Running(); running {
			return fmt.Errorf("%s still runs", name)
		}
		return nil
	})
}

// ready waits until every process works.
func (r *rig) ready() {
	r.t.Helper()
	within(r.t, soon, r.Ready)
}

// alive says whether a process runs; one that nobody has reaped yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state, _ := afterName(string(stat))
	return state != "Z" && state != "X"
}

// afterName returns the state and the parent in a line of /proc/PID/stat.
func afterName(stat string) (state string, parent int) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// childrenOf returns the processes that the process has started.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if _, parent := afterName(string(content)); parent == pid {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children = append(children, child)
		}
	}
	return children
}

// gone waits until none of the processes runs.
func gone(t *testing.T, limit time.Duration, pids ...int) {
	t.Helper()
	within(t, limit, func(context.Context) error {
		for _, pid := range pids {
			if alive(pid) {
				return fmt.Errorf("process %d still runs", pid)
			}
		}
		return nil
	})
}
