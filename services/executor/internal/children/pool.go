// Package children runs attempts in child processes: runner programs, each in a
// process group of its own, with an empty environment and an empty folder, that
// confine themselves before they see a parameter.
//
// A child serves one attempt at a time. When it ended in order the child is kept
// warm for the next attempt of the same template and organisation, with the same
// folders to write to; after a
// time-out, a cancellation, a crash, a panic, or enough runs, it is killed with
// everything that it has started.
package children

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// Error codes of attempts that ended without a word of the template's own.
const (
	CodeCrashed    = "child_crashed"     // the runner ended before the attempt did
	CodeNotStarted = "child_not_started" // there was no runner to begin the attempt
)

// Config is what a pool needs; all fields are required.
type Config struct {
	// Path is the runner program.
	Path string
	// Setup is how each child confines itself; its Dir is the pool's to choose.
	Setup runner.Setup
	// Size bounds the children, busy and warm; it is the number of attempts that
	// Run may be asked for at a time.
	Size int
	// MaxRuns is how many attempts one child may serve, Idle how long it is kept
	// without one.
	MaxRuns int
	Idle    time.Duration
	// KillGrace is how long an attempt that was asked to stop, or whose time is
	// over, may take to end by itself.
	KillGrace time.Duration
	Logger    *zap.Logger
	// After calls f in a goroutine of its own when d has passed, unless the
	// function it returns was called.
	After func(d time.Duration, f func()) (stop func() bool)
}

// Pool holds the children of one runner program. Its methods may be called
// concurrently.
type Pool struct {
	config Config
	ending sync.WaitGroup // children that are being killed for being idle or in the way

	mu     sync.Mutex
	closed bool
	busy   int
	warm   []*child // the longest idle first
}

// New prepares a pool; it starts no child yet. From then on the calling process
// inherits what its children leave behind, so that it can see them end.
func New(config Config) (*Pool, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("children: becoming the reaper of orphans: %w", err)
	}
	return &Pool{config: config}, nil
}

// Describe asks the runner program for its templates in the light of these
// settings, and for what keeps its runs apart. An error says that the program
// cannot be used, or that runs cannot get at a folder of the connections.
func (p *Pool) Describe(ctx context.Context, settings map[string]map[string]any, connections map[string]template.Connection,
) ([]runner.Description, []string, error) {
	c, err := p.start(ctx, folders(connections))
	if err != nil {
		return nil, nil, err
	}
	defer c.destroy()
	c.requests <- runner.Request{Describe: true, Settings: settings}
	select {
	case reply, ok := <-c.replies:
		if !ok || len(reply.Templates) == 0 {
			return nil, nil, fmt.Errorf("runner %s does not say which templates it has%s", p.config.Path, c.lastWords())
		}
		return reply.Templates, c.isolation, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("runner %s does not answer: %w", p.config.Path, context.Cause(ctx))
	}
}

// Run performs one attempt in a child. It returns when the attempt is over and,
// unless the child stays warm, nothing of the child is left. When ctx ends before
// the attempt does, the template is asked to stop if the cause is
// runner.ErrCancelled, and the child is killed at once otherwise; the result is
// nil when the attempt gave none. The strings name what kept it apart.
func (p *Pool) Run(ctx context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string) {
	overdue := make(chan struct{}, 1)
	if run.Timeout > 0 {
		// The runner's own time-out comes first, and lets it say what was done.
		defer p.config.After(run.Timeout+p.config.KillGrace, func() { overdue <- struct{}{} })()
	}
	c, err := p.take(ctx, run)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil
		}
		p.config.Logger.Error("A runner cannot be started", zap.Error(err))
		return &runner.Result{Status: runner.StatusFailed, Error: err.Error(), ErrorCode: CodeNotStarted, Retryable: true}, nil
	}
	result, reusable := p.attempt(ctx, c, run, report, overdue)
	p.giveBack(c, reusable)
	return result, c.isolation
}

// attempt performs one run and says whether the child may serve another.
func (p *Pool) attempt(ctx context.Context, c *child, run *runner.Run, report template.Reporter, overdue <-chan struct{}) (_ *runner.Result, reusable bool) {
	c.runs++
	c.printed.reset()
	c.requests <- runner.Request{Run: run}
	cancelled := ctx.Done()
	unheard := make(chan struct{}, 1)
	for {
		select {
		case reply, ok := <-c.replies:
			switch {
			case ok && reply.Log != nil:
				report.Log(reply.Log.Level, reply.Log.Message)
			case ok && reply.Progress != nil:
				report.Progress(reply.Progress.Done, reply.Progress.Total, reply.Progress.Message)
			case ok && reply.Result != nil:
				r := reply.Result
				orderly := r.Status == runner.StatusSuccess || r.Status == runner.StatusFailed && r.ErrorCode != runner.CodePanic
				return r, orderly && ctx.Err() == nil
			default:
				return c.crashed(report), false
			}
		case <-cancelled:
			if !errors.Is(context.Cause(ctx), runner.ErrCancelled) {
				return nil, false
			}
			cancelled = nil
			c.requests <- runner.Request{Cancel: true}
			defer p.config.After(p.config.KillGrace, func() { unheard <- struct{}{} })()
		case <-unheard:
			return nil, false
		case <-overdue:
			return &runner.Result{
				Status: runner.StatusTimedOut, ErrorCode: template.CodeTimeout,
				Error: fmt.Sprintf("The run took longer than %s and was killed.", run.Timeout),
			}, false
		}
	}
}

// Close kills the warm children and waits until they are gone. Attempts must
// have ended before.
func (p *Pool) Close() {
	p.mu.Lock()
	warm := p.warm
	p.warm, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range warm {
		c.destroy()
	}
	p.ending.Wait()
}

// take returns a warm child for the run, or a new one in place of the longest
// idle when there would be too many.
func (p *Pool) take(ctx context.Context, run *runner.Run) (*child, error) {
	writable := folders(run.Connections)
	k := key{run.Template, run.Organisation, strings.Join(writable, "\x00")}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errors.New("children: the pool is closed")
	}
	p.busy++
	for i, c := range slices.Backward(p.warm) {
		if c.key == k {
			p.warm = slices.Delete(p.warm, i, i+1)
			p.mu.Unlock()
			return c, nil
		}
	}
	if len(p.warm) > 0 && p.busy+len(p.warm) > p.config.Size {
		p.evict(0)
	}
	p.mu.Unlock()
	c, err := p.start(ctx, writable)
	if err != nil {
		p.mu.Lock()
		p.busy--
		p.mu.Unlock()
		return nil, err
	}
	c.key = k
	return c, nil
}

// folders returns the local folders among the connections, sorted, each once.
func folders(connections map[string]template.Connection) []string {
	found := map[string]bool{}
	for _, connection := range connections {
		if folder := connection.Folder(); folder != "" {
			found[folder] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// evict ends the i-th warm child without making its caller wait. It is called
// with the lock held.
func (p *Pool) evict(i int) {
	c := p.warm[i]
	p.warm = slices.Delete(p.warm, i, i+1)
	p.ending.Add(1)
	go func() {
		defer p.ending.Done()
		c.destroy()
	}()
}

// giveBack keeps a child warm, or ends it.
func (p *Pool) giveBack(c *child, reusable bool) {
	reusable = reusable && c.runs < p.config.MaxRuns && c.tidy() == nil
	if !reusable {
		c.destroy()
	}
	p.mu.Lock()
	p.busy--
	keep := reusable && !p.closed
	if keep {
		p.warm = append(p.warm, c)
		runs := c.runs
		p.config.After(p.config.Idle, func() { p.expire(c, runs) })
	}
	p.mu.Unlock()
	if reusable && !keep {
		c.destroy()
	}
}

// expire ends a child that is still idle after the same number of runs.
func (p *Pool) expire(c *child, runs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.warm, c); i >= 0 && c.runs == runs {
		p.evict(i)
	}
}
