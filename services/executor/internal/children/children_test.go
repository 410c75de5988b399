package children

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// program is the test runner, built once: statically, as real ones are.
var program string

func TestMain(m *testing.M) {
	if path, ok := os.LookupEnv("CHILDREN_TEST_EXECUTOR"); ok {
		os.Exit(executor(path))
	}
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func build(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "children-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "runner")
	command := exec.CommandContext(context.Background(), "go", "build", "-o", program, "./testdata/runner")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building the test runner: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// executor plays a process with a child that has a child of its own, until it is
// killed. It prints the process ids of both.
func executor(path string) int {
	pool, err := New(Config{
		Path: path, Setup: runner.Setup{OpenFiles: 64}, Size: 1, MaxRuns: 10, Idle: idle, KillGrace: killGrace, Logger: zap.NewNop(), After: newTimers().after,
	})
	if err != nil {
		return 1
	}
	pool.Run(context.Background(), request("fork", 0), printer{})
	return 0
}

type printer struct{}

func (printer) Log(_, message string)         { fmt.Println(message) }
func (printer) Progress(int64, int64, string) {}

// TestExecutorKilled: when the executor dies without a word, nothing of its
// runs survives it.
func TestExecutorKilled(t *testing.T) {
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), "CHILDREN_TEST_EXECUTOR="+program)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var pids [2]int
	for i := range pids {
		if _, err := fmt.Fscan(out, &pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	var handles []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		handles = append(handles, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil {
		t.Error("the executor ended in order")
	}
	for i := range handles {
		for {
			n, err := unix.Poll(handles[i:i+1], 10_000)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n != 1 {
				t.Errorf("process %d lives on: %v", pids[i], err)
				_ = unix.Kill(pids[i], unix.SIGKILL)
			}
			break
		}
	}
}

// timers stand in for the clock: they fire when the test says so.
type timers struct {
	mu  sync.Mutex
	set []*timer
	new chan time.Duration
}

type timer struct {
	d       time.Duration
	f       func()
	stopped bool
}

func newTimers() *timers { return &timers{new: make(chan time.Duration, 100)} }

func (ts *timers) after(d time.Duration, f func()) func() bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := &timer{d: d, f: f}
	ts.set = append(ts.set, t)
	ts.new <- d
	return func() bool {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		was := !t.stopped
		t.stopped = true
		return was
	}
}

// fire lets every timer of that duration go off that was not stopped.
func (ts *timers) fire(d time.Duration) (fired int) {
	ts.mu.Lock()
	var due []func()
	for _, t := range ts.set {
		if t.d == d && !t.stopped {
			t.stopped = true
			due = append(due, t.f)
		}
	}
	ts.mu.Unlock()
	for _, f := range due {
		f()
	}
	return len(due)
}

const (
	killGrace = 3 * time.Second
	idle      = time.Minute
)

func newPool(t *testing.T, change func(*Config)) (*Pool, *timers) {
	t.Helper()
	clock := newTimers()
	config := Config{
		Path: program, Setup: runner.Setup{MemoryBytes: 128 << 20, CPUSeconds: 1, OpenFiles: 64, UID: 65534, GID: 65534},
		Size: 4, MaxRuns: 3, Idle: idle, KillGrace: killGrace, Logger: zap.NewNop(), After: clock.after,
	}
	if change != nil {
		change(&config)
	}
	pool, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, clock
}

// notes is a reporter that keeps what it hears.
type notes struct {
	mu       sync.Mutex
	lines    []string
	progress []string
	heard    chan string
}

func newNotes() *notes { return &notes{heard: make(chan string, 10)} }

func (n *notes) Log(level, message string) {
	n.mu.Lock()
	n.lines = append(n.lines, level+" "+message)
	n.mu.Unlock()
	select {
	case n.heard <- message:
	default:
	}
}

func (n *notes) Progress(done, total int64, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.progress = append(n.progress, fmt.Sprintf("%d of %d: %s", done, total, message))
}

func request(do string, n int) *runner.Run {
	return &runner.Run{
		Template: "odd", ExecutionID: "exec_1", JobID: "job_1", JobName: "Odd", TriggeredBy: "manual", Attempt: 1,
		Params: json.RawMessage(fmt.Sprintf(`{"do":%q,"n":%d}`, do, n)),
	}
}

type answer struct {
	Message     string
	Pid, Runs   int
	Environ     []string
	Args        []string
	UID         int
	Connections map[string]template.Connection
	Settings    map[string]any
	Memory      int64
	Files       int64
	Dir         string
	Entries     int
	Own         bool
	Outside     bool
	Passwd      bool
	Hosts       bool
	Stdin, Fds  string
}

func run(t *testing.T, p *Pool, r *runner.Run) answer {
	t.Helper()
	result, _ := p.Run(t.Context(), r, newNotes())
	if result == nil || result.Status != runner.StatusSuccess {
		t.Fatalf("result %+v, want success", result)
	}
	var a answer
	if err := json.Unmarshal(result.Result, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// alive says whether a process exists that is not merely unburied.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	return fields[1] != "Z"
}

func TestDescribe(t *testing.T) {
	pool, _ := newPool(t, nil)
	described, isolation, err := pool.Describe(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(described) != 1 || described[0].Descriptor.Type != "odd" || described[0].Schema["type"] != "object" {
		t.Errorf("described %+v", described)
	}
	if !slices.Contains(isolation, "process") || !slices.Contains(isolation, "rlimits") {
		t.Errorf("isolation %v", isolation)
	}
}

func TestUnusableProgram(t *testing.T) {
	for name, path := range map[string]string{"missing": "/nonexistent/runner", "silent": "/bin/true"} {
		t.Run(name, func(t *testing.T) {
			pool, _ := newPool(t, func(c *Config) { c.Path = path })
			if _, _, err := pool.Describe(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Describe: %v, want an error that names %s", err, path)
			}
			result, _ := pool.Run(t.Context(), request("nothing", 0), newNotes())
			if result == nil || result.Status != runner.StatusFailed || result.ErrorCode != CodeNotStarted || !result.Retryable {
				t.Errorf("result %+v, want a retryable failure: the run never began", result)
			}
		})
	}
}

func TestChildIsConfined(t *testing.T) {
	t.Setenv("ALMANAC_SECRET", "of the executor")
	pool, _ := newPool(t, nil)
	_, isolation, err := pool.Describe(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := request("look", 0)
	r.Connections = map[string]template.Connection{"main": {Kind: "mongodb", URI: "mongodb://user:hush@db"}}
	a := run(t, pool, r)
	if len(a.Args) != 1 || strings.Contains(strings.Join(a.Environ, " "), "SECRET") || strings.Contains(strings.Join(a.Environ, " "), "hush") {
		t.Errorf("args %v, environment %v", a.Args, a.Environ)
	}
	if a.Connections["main"].URI != "mongodb://user:hush@db" {
		t.Errorf("connections %v, want the one of the run", a.Connections)
	}
	if a.Memory != 128<<20 || a.Files != 64 {
		t.Errorf("memory limit %d, files %d", a.Memory, a.Files)
	}
	if a.Entries != 0 || !a.Own || !strings.Contains(a.Dir, "almanac-run-") {
		t.Errorf("folder %s with %d entries, writable: %v; want an empty one of its own", a.Dir, a.Entries, a.Own)
	}
	if slices.Contains(isolation, "landlock") && (a.Outside || a.Passwd || !a.Hosts) {
		t.Errorf("under Landlock: writes outside %v, reads passwd %v, reads hosts %v", a.Outside, a.Passwd, a.Hosts)
	}
	if os.Getuid() == 0 && (a.UID != 65534 || !slices.Contains(isolation, "user")) {
		t.Errorf("uid %d with isolation %v", a.UID, isolation)
	}
	next := run(t, pool, request("look", 0))
	if next.Pid != 0 && next.Pid != a.Pid {
		t.Errorf("another child")
	}
	if len(next.Connections) != 0 || next.Entries != 0 {
		t.Errorf("the next run sees %v and %d files of the one before", next.Connections, next.Entries)
	}
}

// TestFolders: a child may write to the folders of its run's connections, and is
// not kept for a run with others.
func TestFolders(t *testing.T) {
	pool, _ := newPool(t, nil)
	above := t.TempDir()
	// The folder that holds it is for its owner alone.
	if err := os.Chmod(filepath.Dir(above), 0o755); err != nil {
		t.Fatal(err)
	}
	connection := map[string]template.Connection{}
	for _, name := range []string{"one", "two"} {
		folder := filepath.Join(above, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := errors.Join(os.Chown(folder, -1, 65534), os.Chmod(folder, 0o770)); err != nil {
				t.Fatal(err)
			}
		}
		connection[name] = template.Connection{Kind: template.KindBucket, URI: "file://" + folder}
	}
	_, isolation, err := pool.Describe(t.Context(), nil, connection)
	if err != nil {
		t.Fatal(err)
	}
	request := request("store", 0)
	var pids []int
	for _, names := range [][]string{{"one"}, {"one"}, {"one", "two"}, {}} {
		request.Connections = map[string]template.Connection{}
		for _, name := range names {
			request.Connections[name] = connection[name]
		}
		result, _ := pool.Run(t.Context(), request, newNotes())
		var got struct{ Stored, Outside, Pid int }
		if result == nil || json.Unmarshal(result.Result, &got) != nil || got.Stored != len(names) {
			t.Errorf("%v: result %+v", names, result)
		}
		if slices.Contains(isolation, "landlock") && got.Outside != 0 {
			t.Errorf("%v: the folder above can be read", names)
		}
		pids = append(pids, got.Pid)
	}
	if pids[1] != pids[0] || pids[2] == pids[0] || pids[3] == pids[0] || pids[3] == pids[2] {
		t.Errorf("children %v: want the second run in the child of the first, and no other so", pids)
	}
	for _, name := range []string{"one", "two"} {
		if content, err := os.ReadFile(filepath.Join(above, name, "whole", "x")); string(content) != "x" {
			t.Errorf("%s: content %q, %v", name, content, err)
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chmod(filepath.Dir(above), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := pool.Describe(t.Context(), nil, connection); err == nil || !strings.Contains(err.Error(), filepath.Join(above, "one")+": user 65534 cannot read and write there") {
			t.Errorf("Describe with a folder that cannot be entered: %v", err)
		}
	}
}

func TestSettingsReachTheRunner(t *testing.T) {
	pool, _ := newPool(t, nil)
	for given, want := range map[any]string{5: `{"oddity":5}`, nil: `{"oddity":3}`, "five": "oddity: must be a whole number, but is a string"} {
		settings := map[string]map[string]any{}
		if given != nil {
			settings["odd"] = map[string]any{"oddity": given}
		}
		described, _, err := pool.Describe(t.Context(), settings, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(described[0].Settings)
		if bad := described[0].BadSettings; len(bad) > 0 {
			got = []byte(bad[0].Field + ": " + bad[0].Message)
		}
		if string(got) != want || err != nil {
			t.Errorf("%v: got %s, %v, want %s", given, got, err, want)
		}
	}
	r := request("look", 0)
	r.Settings = map[string]any{"oddity": 7.0}
	if a := run(t, pool, r); a.Settings["oddity"] != 7.0 {
		t.Errorf("the run saw settings %v", a.Settings)
	}
}

func TestWarmChildren(t *testing.T) {
	pool, clock := newPool(t, func(c *Config) { c.Size = 2 })
	first := run(t, pool, request("nothing", 0))
	second := run(t, pool, request("nothing", 0))
	if second.Pid != first.Pid || second.Runs != 2 {
		t.Errorf("second run in %d (run %d), want the warm %d", second.Pid, second.Runs, first.Pid)
	}
	other := request("nothing", 0)
	other.Organisation = "another"
	if a := run(t, pool, other); a.Pid == first.Pid {
		t.Error("two organisations shared a child")
	}
	if third := run(t, pool, request("nothing", 0)); third.Pid != first.Pid {
		t.Error("the warm child was not kept beside the other organisation's")
	}
	if alive(first.Pid) {
		t.Error("the child lives after its most runs")
	}
	fourth := run(t, pool, request("nothing", 0))
	if fourth.Pid == first.Pid || fourth.Runs != 1 {
		t.Errorf("fourth run in %d (run %d), want a new child", fourth.Pid, fourth.Runs)
	}
	// A third key needs room: the longest idle goes.
	other.Organisation = "yet another"
	fifth := run(t, pool, other)
	pool.ending.Wait()
	if pool.mu.Lock(); len(pool.warm) != 2 {
		t.Errorf("%d warm children, want 2", len(pool.warm))
	}
	pool.mu.Unlock()
	if clock.fire(idle) == 0 {
		t.Fatal("no idle timer")
	}
	pool.ending.Wait()
	if alive(fourth.Pid) || alive(fifth.Pid) {
		t.Error("idle children live on")
	}
}

func TestIdleTimerOfAnEarlierRun(t *testing.T) {
	pool, clock := newPool(t, nil)
	first := run(t, pool, request("nothing", 0))
	clock.mu.Lock()
	stale := clock.set[len(clock.set)-1].f
	clock.mu.Unlock()
	run(t, pool, request("nothing", 0))
	stale()
	pool.ending.Wait()
	if third := run(t, pool, request("nothing", 0)); third.Pid != first.Pid {
		t.Error("a timer of an earlier idle time ended a child that has run since")
	}
}

func TestEndings(t *testing.T) {
	for name, c := range map[string]struct {
		do     string
		n      int
		want   runner.Result
		logs   string
		reused bool
	}{
		"failure":  {do: "fail", want: runner.Result{Status: "failed", Error: "nobody answers", ErrorCode: "connection", Retryable: true}, reused: true},
		"invalid":  {do: "", want: runner.Result{Status: "failed", Error: "n: must be", ErrorCode: "validation"}, reused: true},
		"exit":     {do: "exit", want: runner.Result{Status: "crashed", Error: "(exit status 3): I have had enough", ErrorCode: CodeCrashed}, logs: "ERROR I have had enough"},
		"panic":    {do: "panic", want: runner.Result{Status: "failed", Error: "out of sorts", ErrorCode: "panic"}, logs: "ERROR "},
		"memory":   {do: "eat", n: 500, want: runner.Result{Status: "crashed", Error: "memory", ErrorCode: CodeCrashed}, logs: "ERROR "},
		"CPU":      {do: "burn", n: 60, want: runner.Result{Status: "crashed", Error: "processor time", ErrorCode: CodeCrashed}, logs: "ERROR "},
		"printing": {do: "print", want: runner.Result{Status: "success"}, reused: true},
	} {
		t.Run(name, func(t *testing.T) {
			pool, _ := newPool(t, nil)
			before := run(t, pool, request("nothing", 0))
			r := request(c.do, c.n)
			if c.do == "" {
				r.Params = json.RawMessage(`{"do":"nothing","n":"many"}`)
			}
			report := newNotes()
			result, isolation := pool.Run(t.Context(), r, report)
			if result == nil || result.Status != c.want.Status || result.ErrorCode != c.want.ErrorCode ||
				result.Retryable != c.want.Retryable || !strings.Contains(result.Error, c.want.Error) {
				t.Errorf("result %+v, want %+v", result, c.want)
			}
			if !strings.Contains(strings.Join(report.lines, "\n"), c.logs) {
				t.Errorf("logged %q, want %q", report.lines, c.logs)
			}
			if !slices.Contains(isolation, "process") {
				t.Errorf("isolation %v", isolation)
			}
			if alive(before.Pid) != c.reused {
				t.Errorf("child alive: %v, want %v", alive(before.Pid), c.reused)
			}
		})
	}
}

func TestLogsAndProgress(t *testing.T) {
	pool, _ := newPool(t, nil)
	report := newNotes()
	if result, _ := pool.Run(t.Context(), request("log", 1000), report); result.Status != runner.StatusSuccess {
		t.Fatalf("result %+v", result)
	}
	if len(report.lines) != 1000 || report.lines[999] != "INFO line 999" {
		t.Errorf("%d lines", len(report.lines))
	}
	if !slices.Equal(report.progress, []string{"1000 of 1000: all"}) {
		t.Errorf("progress %v", report.progress)
	}
}

// TestTimeout: the runner ends the run itself; a template that does not listen
// is killed later, with all it has started.
func TestTimeout(t *testing.T) {
	t.Run("heeded", func(t *testing.T) {
		pool, clock := newPool(t, nil)
		r := request("wait", 0)
		r.Timeout = 20 * time.Millisecond
		result, _ := pool.Run(t.Context(), r, newNotes())
		if result == nil || result.Status != runner.StatusTimedOut || result.ErrorCode != "timeout" || string(result.Result) != `{"message":"half"}` {
			t.Errorf("result %+v, want timed_out with what was done", result)
		}
		if clock.fire(r.Timeout+killGrace) != 0 {
			t.Error("the timer was left running")
		}
	})
	t.Run("ignored", func(t *testing.T) {
		pool, clock := newPool(t, nil)
		r := request("fork", 0)
		r.Timeout = time.Hour
		report := newNotes()
		var result *runner.Result
		done := make(chan struct{})
		go func() { defer close(done); result, _ = pool.Run(t.Context(), r, report) }()
		<-report.heard // its own process id
		grandchild, err := strconv.Atoi(<-report.heard)
		if err != nil || !alive(grandchild) {
			t.Fatalf("no grandchild: %v", err)
		}
		if clock.fire(time.Hour+killGrace) != 1 {
			t.Fatal("no timer for the time-out")
		}
		<-done
		if result == nil || result.Status != runner.StatusTimedOut || result.ErrorCode != "timeout" || result.Retryable {
			t.Errorf("result %+v, want timed_out", result)
		}
		if alive(grandchild) {
			t.Error("the grandchild lives")
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(grandchild)); err == nil {
			t.Error("the grandchild was not buried")
		}
	})
}

func TestCancel(t *testing.T) {
	t.Run("heeded", func(t *testing.T) {
		pool, _ := newPool(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		report := newNotes()
		go func() { <-report.heard; cancel(runner.ErrCancelled) }()
		result, _ := pool.Run(ctx, request("wait", 0), report)
		if result == nil || result.Status != runner.StatusCancelled || string(result.Result) != `{"message":"half"}` {
			t.Errorf("result %+v, want cancelled with what was done", result)
		}
		if len(pool.warm) != 0 {
			t.Error("a cancelled child was kept")
		}
	})
	t.Run("ignored", func(t *testing.T) {
		pool, clock := newPool(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		report := newNotes()
		go func() {
			<-report.heard
			cancel(runner.ErrCancelled)
			for d := range clock.new {
				if d == killGrace {
					break
				}
			}
			clock.fire(killGrace)
		}()
		if result, _ := pool.Run(ctx, request("hang", 0), report); result != nil {
			t.Errorf("result %+v, want none", result)
		}
	})
	t.Run("at once", func(t *testing.T) {
		pool, _ := newPool(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		report := newNotes()
		go func() { <-report.heard; cancel(errors.New("stale")) }()
		if result, _ := pool.Run(ctx, request("wait", 0), report); result != nil {
			t.Errorf("result %+v, want none: there was no time for one", result)
		}
	})
	t.Run("before it began", func(t *testing.T) {
		pool, _ := newPool(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(runner.ErrCancelled)
		result, _ := pool.Run(ctx, request("wait", 0), newNotes())
		if result != nil && result.Status != runner.StatusCancelled {
			t.Errorf("result %+v, want none or cancelled", result)
		}
	})
}

// TestKilledChild: whoever kills a runner, the attempt ends as crashed.
func TestKilledChild(t *testing.T) {
	pool, _ := newPool(t, nil)
	pid := run(t, pool, request("nothing", 0)).Pid
	report := newNotes()
	go func() { <-report.heard; _ = syscall.Kill(pid, syscall.SIGKILL) }()
	result, _ := pool.Run(t.Context(), request("wait", 0), report)
	if result == nil || result.Status != runner.StatusCrashed || !strings.Contains(result.Error, "signal: killed") {
		t.Errorf("result %+v, want crashed", result)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	pool, _ := newPool(t, nil)
	a := run(t, pool, request("look", 0))
	pid := run(t, pool, request("nothing", 0)).Pid
	pool.Close()
	if alive(pid) {
		t.Error("a warm child lives")
	}
	if _, err := os.Stat(a.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
	if result, _ := pool.Run(t.Context(), request("nothing", 0), newNotes()); result == nil || result.ErrorCode != CodeNotStarted {
		t.Errorf("result %+v of a closed pool", result)
	}
}

// TestManyAtOnce stresses taking and giving back.
func TestManyAtOnce(t *testing.T) {
	pool, _ := newPool(t, nil)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 5 {
				r := request("nothing", 0)
				r.Organisation = strconv.Itoa((i + j) % 3)
				if result, _ := pool.Run(t.Context(), r, newNotes()); result == nil || result.Status != runner.StatusSuccess {
					t.Errorf("result %+v", result)
				}
			}
		})
	}
	all.Wait()
	pool.ending.Wait()
	if pool.busy != 0 || len(pool.warm) > 4 {
		t.Errorf("busy %d, warm %d", pool.busy, len(pool.warm))
	}
}

func BenchmarkWarmChild(b *testing.B) {
	benchmark(b, 1<<30)
}

func BenchmarkNewChild(b *testing.B) {
	benchmark(b, 1)
}

func benchmark(b *testing.B, runs int) {
	pool, err := New(Config{
		Path: program, Setup: runner.Setup{MemoryBytes: 512 << 20, CPUSeconds: 300, OpenFiles: 256, UID: 65534, GID: 65534},
		Size: 1, MaxRuns: runs, Idle: idle, KillGrace: killGrace, Logger: zap.NewNop(), After: newIdleTimers(),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	r := request("nothing", 0)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		if result, _ := pool.Run(b.Context(), r, newNotes()); result == nil || result.Status != runner.StatusSuccess {
			b.Fatalf("result %+v", result)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// newIdleTimers never fire.
func newIdleTimers() func(time.Duration, func()) func() bool {
	return func(time.Duration, func()) func() bool { return func() bool { return true } }
}
