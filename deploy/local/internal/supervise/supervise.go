// Package supervise keeps processes running: one that ends by itself is started
// again a moment later, and none outlives its supervisor, however that ends.
package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// RestartDelay is the time between the end of a process and its next start.
const RestartDelay = time.Second

// Command says what to run.
type Command struct {
	// Name is for people and for the events.
	Name string
	// Path is the program.
	Path string
	// Args gives the arguments, without the program's name. It is called before
	// every start, so that a restarted server can be given its former address.
	Args func() []string
	// Env is the whole environment.
	Env []string
	// Log is the file that gets the process's output, appended.
	Log string
}

// Event is a start or an end of a supervised process.
type Event struct {
	// Name is the command's.
	Name string
	// PID of the process that started or ended; 0 when it could not be started.
	PID int
	// Ended says that it is an end.
	Ended bool
	// Err tells how it ended (nil for exit status 0) or why it could not start.
	Err error
	// Wanted says that the end was asked for, by Stop or by Hold.
	Wanted bool
}

// Process is a supervised process. Safe for concurrent use.
type Process struct {
	command Command
	events  func(Event)
	delay   time.Duration
	wake    chan struct{} // has room for one: hold or stopping changed
	done    chan struct{} // closed when run returns

	mu       sync.Mutex
	process  *os.Process // nil while none runs
	pid      int         // of the latest that ran
	lastExit error
	held     bool
	stopping bool
}

// Start starts the process and supervises it until Stop. Events are reported
// one after the other, from a goroutine of the process, which waits for each
// call to return. The error says why the first start failed; then nothing is
// supervised.
func Start(command Command, events func(Event)) (*Process, error) {
	p := &Process{
		command: command,
		events:  events,
		delay:   RestartDelay,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// run owns the process. It keeps its thread for itself because Linux delivers
// Pdeathsig when the thread that started the child ends.
func (p *Process) run(started chan<- error) {
	defer close(p.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	for first := true; ; first = false {
		cmd, err := p.start()
		if first {
			started <- err
			if err != nil {
				return
			}
		}
		if err != nil {
			p.events(Event{Name: p.command.Name, Ended: true, Err: err})
		} else {
			p.events(Event{Name: p.command.Name, PID: cmd.Process.Pid})
			err = cmd.Wait()
			p.events(Event{Name: p.command.Name, PID: cmd.Process.Pid, Ended: true, Err: err, Wanted: p.ended(err)})
		}
		if !p.pause() {
			return
		}
	}
}

func (p *Process) start() (*exec.Cmd, error) {
	log, err := os.OpenFile(p.command.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", p.command.Name, err)
	}
	defer log.Close()                                        // the child has its own
	cmd := exec.Command(p.command.Path, p.command.Args()...) //nolint:noctx // ends by Stop, which asks before it kills
	cmd.Env = append([]string{}, p.command.Env...)           // never nil, which would mean the supervisor's own
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a Ctrl-C is for the supervisor, which ends them in order
		Pdeathsig: syscall.SIGKILL,
	}

	// Under the lock, so that Stop finds either no process or one to signal.
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return nil, fmt.Errorf("start %s: it is being stopped", p.command.Name)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.command.Name, err)
	}
	p.process, p.pid = cmd.Process, cmd.Process.Pid
	return cmd, nil
}

// ended notes the end of the process and says whether it was asked for.
func (p *Process) ended(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process, p.lastExit = nil, err
	return p.stopping || p.held
}

// pause waits until the process is to be started again; false means never.
func (p *Process) pause() bool {
	timer := time.NewTimer(p.delay)
	defer timer.Stop()
	due := false
	for {
		p.mu.Lock()
		held, stopping := p.held, p.stopping
		p.mu.Unlock()
		if stopping {
			return false
		}
		if due && !held {
			return true
		}
		select {
		case <-timer.C:
			due = true
		case <-p.wake:
		}
	}
}

// Name returns the command's name.
func (p *Process) Name() string { return p.command.Name }

// PID returns the id of the process that runs, or of the latest that ran.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Running reports whether the process runs; if not, how it ended last (nil
// for exit status 0).
func (p *Process) Running() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process != nil, p.lastExit
}

// Signal sends a signal to the process; os.ErrProcessDone when none runs.
func (p *Process) Signal(signal os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return os.ErrProcessDone
	}
	return p.process.Signal(signal)
}

// Hold lets the process stay down once it has ended, until Release.
func (p *Process) Hold() { p.set(func() { p.held = true }) }

// Release undoes Hold.
func (p *Process) Release() { p.set(func() { p.held = false }) }

func (p *Process) set(change func()) {
	p.mu.Lock()
	change()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already, and looks again
	}
}

// Stop asks the process to end (SIGTERM), kills it after the grace, and returns
// when it has ended and is no longer supervised. It says so when it had to kill.
// It may be called again.
func (p *Process) Stop(grace time.Duration) error {
	p.set(func() { p.stopping = true })
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.command.Name, err)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	// A stopped (SIGSTOP) process dies of it, too.
	switch err := p.Signal(syscall.SIGKILL); {
	case errors.Is(err, os.ErrProcessDone):
		<-p.done
		return nil
	case err != nil:
		return fmt.Errorf("kill %s: %w", p.command.Name, err)
	}
	<-p.done
	return fmt.Errorf("%s did not end within %v and was killed", p.command.Name, grace)
}
