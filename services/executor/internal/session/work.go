package session

import (
	"context"
	"sync"
)

// start begins the work of an attempt.
func (l *loop) start(a *attempt) {
	w := &work{attempt: a}
	w.ctx, w.cancel = context.WithCancelCause(l.lasting)
	a.cancel = w.cancel
	l.begun.put(w)
	l.runs.Go(l.labour)
}

// labour does work that has begun until there is none that nobody does. There is
// one for each attempt, so that none waits for another; when work takes no time,
// the first does that of many, with the stack that it has grown for one.
func (l *loop) labour() {
	for w := l.begun.take(); w != nil; w = l.begun.take() {
		result, isolation := l.config.Runner.Run(w.ctx, &w.run, &w.report)
		w.cancel(nil)
		l.inbox.put(event{attempt: w.attempt, end: true, at: l.config.Now(), result: result, isolation: isolation})
	}
}

// work is that of an attempt, until somebody does it.
type work struct {
	*attempt
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// backlog is work that nobody does yet, the oldest first. It is safe for concurrent
// use.
type backlog struct {
	mu   sync.Mutex
	work []*work
	next int // those before it are taken
}

func (b *backlog) put(w *work) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.work = append(b.work, w)
}

// take returns the oldest, or nil.
func (b *backlog) take() *work {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(b.work) {
		return nil
	}
	w := b.work[b.next]
	b.work[b.next] = nil
	if b.next++; b.next == len(b.work) {
		b.work, b.next = b.work[:0], 0
	}
	return w
}
