package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Config configures a Dispatcher. All fields without a remark are required.
type Config struct {
	Policy
	SessionTTL time.Duration // silence after which an executor, or a registry, counts as dead
	// Replica is this registry where others may share the store; with an empty ID
	// it is the only one.
	Replica store.Replica
	Now     func() time.Time
	Log     *zap.Logger
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
	l := newLoop(cfg)
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
	if l.fleet != nil { // the others need not wait for its silence
		ctx, cancel := context.WithTimeout(io, d.cfg.SessionTTL)
		defer cancel()
		if err := d.store.DropReplica(ctx, l.fleet.self); err != nil {
			return fmt.Errorf("leave the fleet: %w", err)
		}
	}
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

// runnable tells of a new waiting record.
func (d *Dispatcher) runnable(e *job.Execution) { d.hint(func(l *loop) { l.addWaiting(e) }) }

// RunNow is store.RunNow, and leases the run in the same step where an executor is
// free: whichever registry accepts a run starts it. A run that has to wait is
// taken up by the registry whose share it is in, at the latest.
func (d *Dispatcher) RunNow(ctx context.Context, r store.RunNow) (stored *job.Execution, replayed bool, err error) {
	var lease *job.Execution
	var st *Stream
	reserved := make(chan struct{})
	if err := d.post(ctx, func(l *loop) { lease, st = l.reserve(r.Execution); close(reserved) }); err == nil {
		select {
		case <-reserved:
		case <-d.done: // Run has returned: nothing writes to them any more
		}
	}
	if lease == nil {
		stored, replayed, err = d.store.RunNow(ctx, r)
		if err == nil && !replayed {
			d.runnable(stored)
		}
		return stored, replayed, err
	}
	r.Execution = lease
	stored, replayed, err = d.store.RunNow(ctx, r)
	_ = d.post(context.WithoutCancel(ctx), func(l *loop) { l.accepted(lease, st, stored, err) })
	return stored, replayed, err
}

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
	now := d.cfg.Now()
	opened := store.Session{
		ID: h.Session, Host: h.Host, Version: h.Version, Labels: h.Labels, Templates: h.Templates, Slots: h.Slots,
		OpenedAt: now, LastBeatAt: now,
	}
	if err := d.store.OpenSession(ctx, opened, now); err != nil {
		if errors.Is(err, job.ErrConflict) {
			return nil, ErrSessionEnded
		}
		return nil, fmt.Errorf("open session %s: %w", h.Session, err)
	}
	st := &Stream{d: d, id: h.Stream, ready: make(chan struct{}, 1)}
	known := make(chan struct{})
	if err := d.post(ctx, func(l *loop) { l.openStream(st, h); close(known) }); err != nil {
		return nil, err
	}
	select {
	case <-known:
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
				d.runnable(e)
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
	by map[string]heard
}

type heard struct {
	Progress
	at time.Time
}

func newProgressBoard() *progressBoard { return &progressBoard{by: map[string]heard{}} }

func (b *progressBoard) put(p Progress, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.by[p.ID] = heard{p, now}
}

func (b *progressBoard) get(id string) (Progress, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.by[id]
	return p.Progress, ok
}

// forgetBefore drops what was said before a time, unless keep wants it: nobody
// says when a run ends that another registry looks after.
func (b *progressBoard) forgetBefore(t time.Time, keep func(id string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.by, func(id string, p heard) bool { return p.at.Before(t) && !keep(id) })
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
