package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Serve answers the requests that come from in until it ends, which is no
// error, or ctx does. When in ends during a run, the run is cancelled and waited
// for, and an error is returned. A run that exceeds its processor time is not
// waited for: the process should end. Serve needs in to itself and keeps a read on it
// pending; close it to be rid of that.
func Serve(ctx context.Context, in io.Reader, out io.Writer, set *template.Set) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{set: set, out: out, requests: make(chan Request), overCPU: make(chan os.Signal, 1)}
	signal.Notify(s.overCPU, syscall.SIGXCPU)
	defer signal.Stop(s.overCPU)
	ended := make(chan error, 1)
	go func() { ended <- s.read(ctx, bufio.NewReader(in)) }()
	for {
		select {
		case request := <-s.requests:
			if err := s.answer(ctx, request, ended); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// server is one conversation. Serve's goroutine owns it; only send is called by
// others, too.
type server struct {
	set      *template.Set
	requests chan Request
	cpu      int64 // seconds permitted to each run; 0 is no limit
	overCPU  chan os.Signal

	writing sync.Mutex
	out     io.Writer
}

// read passes requests on until the executor is gone.
func (s *server) read(ctx context.Context, in io.Reader) error {
	for {
		var request Request
		if err := ReadFrame(in, &request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		select {
		case s.requests <- request:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *server) send(reply Reply) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return WriteFrame(s.out, reply)
}

func (s *server) answer(ctx context.Context, request Request, ended <-chan error) error {
	switch {
	case request.Setup != nil:
		isolation, err := confine(*request.Setup)
		if err != nil {
			return err
		}
		s.cpu = request.Setup.CPUSeconds
		return s.send(Reply{Hello: &Hello{Isolation: isolation}})
	case request.Describe:
		described := []Description{}
		for _, t := range s.set.List() {
			described = append(described, Describe(t, request.Settings[t.Descriptor.Type]))
		}
		return s.send(Reply{Templates: described})
	case request.Run != nil:
		return s.run(ctx, request.Run, ended)
	case request.Cancel:
		return nil // its run has just ended
	}
	return errors.New("request: none of setup, describe, run and cancel is set")
}

// Describe says what a template is when it has these settings.
func Describe(t *template.Compiled, settings map[string]any) Description {
	d := Description{Descriptor: t.Descriptor, Schema: t.Template.Schema()}
	var err error
	if d.Settings, d.Restricted, err = t.Configure(settings); err != nil {
		var bad *template.ParamsError
		if !errors.As(err, &bad) {
			bad = template.BadParam("", "%v", err)
		}
		d.BadSettings = bad.Fields
	}
	return d
}

// run performs one attempt while it listens for its cancellation.
func (s *server) run(ctx context.Context, run *Run, ended <-chan error) error {
	t, ok := s.set.Get(run.Template)
	if !ok {
		return s.send(Reply{Result: unknownTemplate(run.Template)})
	}
	if err := allowCPU(s.cpu); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	report := &reporter{send: s.send}
	done := make(chan *Result, 1)
	go func() { done <- Execute(ctx, t, run, report) }()
	for {
		select {
		case result := <-done:
			report.close()
			return s.send(Reply{Result: result})
		case request := <-s.requests:
			if request.Cancel {
				cancel()
				continue
			}
			cancel()
			<-done
			return errors.New("request: only cancel is permitted during a run")
		case <-s.overCPU:
			// Whatever burns the time would not listen: the process has to end.
			return fmt.Errorf("the run has used more than %d seconds of processor time", s.cpu)
		case err := <-ended:
			cancel()
			<-done
			return fmt.Errorf("the executor is gone during a run: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
}

// reporter sends what a template says, until its run is over: a goroutine that
// the template left behind must not speak into the next run.
type reporter struct {
	send func(Reply) error

	mu     sync.Mutex
	closed bool
}

// Log sends a line. Messages beyond 16 KiB are cut.
func (r *reporter) Log(level, message string) {
	switch level {
	case "DEBUG", "INFO", "WARN", "ERROR":
	default:
		level = "INFO"
	}
	if len(message) > maxLineBytes {
		message = message[:maxLineBytes] + " ..."
	}
	r.say(Reply{Log: &Line{Level: level, Message: message}})
}

// Progress sends how far the run is.
func (r *reporter) Progress(done, total int64, message string) {
	if len(message) > maxLineBytes {
		message = message[:maxLineBytes] + " ..."
	}
	r.say(Reply{Progress: &Progress{Done: done, Total: total, Message: message}})
}

// say drops the error of a broken pipe: Serve meets it as the end of its input.
func (r *reporter) say(reply Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		_ = r.send(reply)
	}
}

func (r *reporter) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

const maxLineBytes = 16 << 10
