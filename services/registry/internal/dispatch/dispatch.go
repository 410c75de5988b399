package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Config configures a Dispatcher. All fields are required.
type Config struct {
	Policy
	SessionTTL time.Duration // silence after which an executor counts as dead
	Now        func() time.Time
	Log        *zap.Logger
}

// Dispatcher drives the loop: it owns its goroutine, its timer, and the
// goroutines that talk to the store. Its methods may be called concurrently.
type Dispatcher struct {
	store  Store
	cfg    Config
	events chan func(*loop)
	done   chan struct{} // closed when Run has returned
	loaded atomic.Bool
	failed atomic.Bool

	loop     *loop // owned by Run
	progress *progressBoard
}

// New returns a Dispatcher that does nothing until Run.
func New(s Store, cfg Config) *Dispatcher {
	l := newLoop(cfg.Policy, cfg.SessionTTL, cfg.Log)
	return &Dispatcher{
		store: s, cfg: cfg, events: make(chan func(*loop), 1024), done: make(chan struct{}),
		loop: l, progress: l.progress,
	}
}

// Run dispatches until ctx ends. It returns after everything that it handed to
// the store was answered; what is leased stays leased.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer close(d.done)
	l := d.loop
	io := context.WithoutCancel(ctx) // what was begun is finished
	var writers, readers sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()

	post := func(f func(*loop)) {
		select {
		case d.events <- f:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		select {
		case f := <-d.events:
			l.now = d.cfg.Now()
			f(l)
			for range len(d.events) { // everything that has gathered
				(<-d.events)(l)
			}
		case <-timer.C:
		case <-ctx.Done():
		}
		l.step(d.cfg.Now())
		for _, urgent := range []bool{true, false} {
			for b := l.takeBatch(urgent); b != nil; b = l.takeBatch(urgent) {
				writers.Go(func() {
					b.answers = d.store.Do(io, d.cfg.Now(), b.ops)
					post(func(l *loop) { l.written(d.cfg.Now(), b) })
				})
			}
		}
		for _, r := range l.takeReads() {
			readers.Go(func() {
				r.perform(ctx, d.store)
				post(func(l *loop) { l.readDone(d.cfg.Now(), r) })
			})
		}
		d.loaded.Store(l.loaded)
		d.failed.Store(l.failures > 0)
		timer.Reset(l.wakeAt().Sub(l.now))
	}
	for _, s := range l.sessionsByID() {
		for _, st := range slices.Clone(s.streams) {
			l.closeStream(st, ErrStopped)
		}
	}
	writers.Wait()
	readers.Wait()
	return nil
}

// post hands f to the loop; it waits while the loop is busy.
func (d *Dispatcher) post(ctx context.Context, f func(*loop)) error {
	select {
	case d.events <- f:
		return nil
	case <-d.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hint hands f to the loop unless it is busy: the store says the same a moment
// later.
func (d *Dispatcher) hint(f func(*loop)) {
	select {
	case d.events <- f:
	default:
	}
}

// Ready returns nil when what is leased is known and the store answers.
func (d *Dispatcher) Ready() error {
	switch {
	case !d.loaded.Load():
		return fmt.Errorf("dispatch has not read what is leased yet: %w", job.ErrUnavailable)
	case d.failed.Load():
		return fmt.Errorf("dispatch cannot write: %w", job.ErrUnavailable)
	}
	return nil
}

// JobChanged tells of a job that was created, edited or deleted.
func (d *Dispatcher) JobChanged(j *job.Job) { d.hint(func(l *loop) { l.addJob(j) }) }

// Runnable tells of a new waiting record.
func (d *Dispatcher) Runnable(e *job.Execution) { d.hint(func(l *loop) { l.addWaiting(e) }) }

// CancelRequested tells of a cancellation of a leased or running record, as the
// store answered it. Unlike the other hints it is not dropped: only a reconnect
// would repeat it.
func (d *Dispatcher) CancelRequested(e *job.Execution) {
	_ = d.post(context.Background(), func(l *loop) { l.cancelRequested(e) })
}

// Open registers an executor's stream. Errors: ErrSessionEnded, ErrStopped, or
// one that wraps job.ErrUnavailable.
func (d *Dispatcher) Open(ctx context.Context, h Hello) (*Stream, error) {
	if !d.loaded.Load() {
		return nil, fmt.Errorf("dispatch has not read what is leased yet: %w", job.ErrUnavailable)
	}
	if err := d.store.OpenSession(ctx, store.Session{ID: h.Session, Host: h.Host}, d.cfg.Now()); err != nil {
		if errors.Is(err, job.ErrConflict) {
			return nil, ErrSessionEnded
		}
		return nil, fmt.Errorf("open session %s: %w", h.Session, err)
	}
	st := &Stream{d: d, id: h.Stream, ready: make(chan struct{}, 1)}
	opened := make(chan struct{})
	if err := d.post(ctx, func(l *loop) { l.openStream(st, h); close(opened) }); err != nil {
		return nil, err
	}
	select {
	case <-opened:
		return st, nil
	case <-d.done:
		return nil, ErrStopped
	}
}

// Settle covers each fire time of the job up to now with one record, as the
// loop would, and returns the job as it then stands, with a NextRunAt later than
// now. Call it before an edit. Errors wrap job.ErrNotFound when the job is
// deleted meanwhile, or job.ErrUnavailable.
func (d *Dispatcher) Settle(ctx context.Context, j *job.Job, now time.Time) (*job.Job, error) {
	for !j.NextRunAt.IsZero() && !j.NextRunAt.After(now) {
		sched, err := j.Compile()
		if err != nil {
			return nil, fmt.Errorf("compile the schedule of %s: %w", j.ID, err)
		}
		f := d.cfg.decideFire(j, sched, now)
		a := d.store.Do(ctx, now, []store.Op{f})[0]
		if a.Outcome == store.Lost && a.SlotBy != "" {
			f = d.cfg.overlapSkip(j, f, a.SlotBy, now)
			a = d.store.Do(ctx, now, []store.Op{f})[0]
		}
		switch {
		case a.Outcome == store.Unknown:
			return nil, fmt.Errorf("settle the fire times of %s: %w", j.ID, a.Err)
		case a.Outcome == store.Done:
			if e := f.Execution; e.Status == job.Pending {
				d.Runnable(e)
			}
			next := *j
			next.NextRunAt = f.Next
			j = &next
		case a.Job != nil:
			j = a.Job
		case a.Execution != nil:
			if j, err = d.store.Job(ctx, j.ID); err != nil {
				return nil, fmt.Errorf("read %s again: %w", f.Execution.JobID, err)
			}
		case a.SlotBy == "":
			return nil, fmt.Errorf("job %s: %w", j.ID, job.ErrNotFound)
		}
	}
	return j, nil
}

// Progress returns how far a running execution said it is.
func (d *Dispatcher) Progress(executionID string) (Progress, bool) {
	return d.progress.get(executionID)
}

// progressBoard is what running executions last said of themselves. The loop
// writes it, anybody reads it; it is not durable.
type progressBoard struct {
	mu sync.Mutex
	by map[string]Progress
}

func newProgressBoard() *progressBoard { return &progressBoard{by: map[string]Progress{}} }

func (b *progressBoard) put(p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.by[p.ID] = p
}

func (b *progressBoard) get(id string) (Progress, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.by[id]
	return p, ok
}

func (b *progressBoard) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.by, id)
}

func (l *loop) sessionsByID() []*session {
	all := make([]*session, 0, len(l.sessions))
	for _, s := range l.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.id, b.id) })
	return all
}
