package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays the supervised process, and once a supervisor.
const roleVariable = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "obedient": // ends when asked
		fmt.Println("arguments", os.Args[1:])
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Println("ready")
		<-terminated
	case "stubborn": // ends when killed
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Println("ready")
		for range terminated {
			fmt.Println("no")
		}
	case "failing":
		fmt.Println("cannot")
		os.Exit(3)
	case "supervisor":
		p, err := Start(commandOf("obedient", os.Args[1]), func(Event) {})
		if err != nil {
			panic(err)
		}
		fmt.Println(p.PID())
		select {}
	}
}

func commandOf(role, dir string, args ...string) Command {
	return Command{
		Name: role,
		Path: os.Args[0],
		Args: func() []string { return args },
		Env:  append(os.Environ(), roleVariable+"="+role),
		Log:  filepath.Join(dir, role+".log"),
	}
}

// start supervises a process of that role; its events arrive in the channel.
func start(t *testing.T, command Command) (*Process, <-chan Event) {
	t.Helper()
	events := make(chan Event, 100)
	p, err := Start(command, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(10 * time.Second) })
	return p, events
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event came")
		return Event{}
	}
}

// logged waits until the log has the text.
func logged(t *testing.T, command Command, text string) {
	t.Helper()
	until(t, fmt.Sprintf("%q in the log", text), func() bool {
		content, err := os.ReadFile(command.Log)
		return err == nil && strings.Contains(string(content), text)
	})
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRestartsWhatDies(t *testing.T) {
	t.Parallel()
	command := commandOf("obedient", t.TempDir())
	lives := 0
	command.Args = func() []string { lives++; return []string{"life", strconv.Itoa(lives)} }
	p, events := start(t, command)

	born := next(t, events)
	if born.Name != "obedient" || born.PID == 0 || born.Ended || born.PID != p.PID() {
		t.Fatalf("first event %+v, pid %d", born, p.PID())
	}
	logged(t, command, "arguments [life 1]")
	killed := time.Now()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	died := next(t, events)
	if died.PID != born.PID || !died.Ended || died.Wanted || died.Err == nil {
		t.Errorf("its death: %+v", died)
	}
	again := next(t, events)
	if again.Ended || again.PID == born.PID || again.PID != p.PID() {
		t.Errorf("its next life: %+v, pid %d", again, p.PID())
	}
	if took := time.Since(killed); took < RestartDelay || took > RestartDelay+5*time.Second {
		t.Errorf("restarted after %v", took)
	}
	logged(t, command, "arguments [life 2]")
	if content, _ := os.ReadFile(command.Log); !strings.Contains(string(content), "arguments [life 1]") {
		t.Errorf("the log lost the first life: %s", content)
	}
}

func TestRestartsWhatEndsByItself(t *testing.T) {
	t.Parallel()
	_, events := start(t, commandOf("failing", t.TempDir()))
	for range 2 {
		if e := next(t, events); e.Ended {
			t.Fatalf("want a start, got %+v", e)
		}
		var exit *exec.ExitError
		if e := next(t, events); !e.Ended || e.Wanted || !errors.As(e.Err, &exit) || exit.ExitCode() != 3 {
			t.Fatalf("want exit status 3, got %+v", e)
		}
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	p, events := start(t, commandOf("obedient", t.TempDir()))
	next(t, events)
	if running, _ := p.Running(); !running {
		t.Error("does not run")
	}
	p.delay = 0 // safe: it is read after the death below
	p.Hold()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); !e.Ended || !e.Wanted {
		t.Errorf("an end while held is wanted: %+v", e)
	}
	if running, err := p.Running(); running || err == nil {
		t.Errorf("runs %v, exit %v", running, err)
	}
	if err := p.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to nobody: %v", err)
	}
	select {
	case e := <-events:
		t.Fatalf("while held: %+v", e)
	case <-time.After(100 * time.Millisecond):
	}
	p.Release()
	if e := next(t, events); e.Ended {
		t.Errorf("after the release: %+v", e)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	command := commandOf("obedient", t.TempDir())
	p, events := start(t, command)
	next(t, events)
	logged(t, command, "ready")
	if err := p.Stop(20 * time.Second); err != nil {
		t.Errorf("an obedient process: %v", err)
	}
	if e := next(t, events); !e.Ended || !e.Wanted || e.Err != nil {
		t.Errorf("its end: %+v", e)
	}
	if err := p.Stop(0); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
	if gone := syscall.Kill(p.PID(), 0); !errors.Is(gone, syscall.ESRCH) {
		t.Errorf("it is still there: %v", gone)
	}
}

func TestStopKillsTheStubborn(t *testing.T) {
	t.Parallel()
	command := commandOf("stubborn", t.TempDir())
	p, events := start(t, command)
	next(t, events)
	logged(t, command, "ready")
	if err := p.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "stubborn did not end within 50ms and was killed") {
		t.Errorf("got %v", err)
	}
	if e := next(t, events); !e.Ended || !e.Wanted {
		t.Errorf("its end: %+v", e)
	}
}

func TestStopWhileDown(t *testing.T) {
	t.Parallel()
	p, events := start(t, commandOf("failing", t.TempDir()))
	next(t, events)
	next(t, events) // waits to be started again
	stopped := time.Now()
	if err := p.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	if took := time.Since(stopped); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	missing := commandOf("obedient", t.TempDir())
	missing.Path = filepath.Join(t.TempDir(), "nothing")
	noLog := commandOf("obedient", filepath.Join(t.TempDir(), "missing"))
	for name, command := range map[string]Command{"no program": missing, "no folder for the log": noLog} {
		p, err := Start(command, func(e Event) { t.Errorf("%s: event %+v", name, e) })
		if p != nil || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "obedient") {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

func TestCannotStartAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.Symlink(os.Args[0], program); err != nil {
		t.Fatal(err)
	}
	command := commandOf("obedient", dir)
	command.Path = program
	p, events := start(t, command)
	next(t, events)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next(t, events)
	if e := next(t, events); !e.Ended || e.PID != 0 || !errors.Is(e.Err, os.ErrNotExist) {
		t.Errorf("without its program: %+v", e)
	}
	if err := os.Symlink(os.Args[0], program); err != nil {
		t.Fatal(err)
	}
	for e := next(t, events); e.Ended; e = next(t, events) {
		if !errors.Is(e.Err, os.ErrNotExist) {
			t.Errorf("got %+v", e)
		}
	}
}

// TestNobodyIsLeftBehind kills a supervisor in a way that it cannot notice.
func TestNobodyIsLeftBehind(t *testing.T) {
	t.Parallel()
	supervisor := exec.CommandContext(t.Context(), os.Args[0], t.TempDir())
	supervisor.Env = append(os.Environ(), roleVariable+"=supervisor")
	output, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(output, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the child does not run: %v", err)
	}
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = supervisor.Wait() // it was killed
	until(t, "the child's death", func() bool { return !alive(pid) })
}

// alive says whether a process runs; one that nobody has reaped yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}
