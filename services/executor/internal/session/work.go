package session

import (
	"context"
	"sync"
)

// start begins the work of an attempt.
func (l *loop) start(a *attempt) {
	a.ctx, a.cancel = context.WithCancelCause(l.lasting)
	l.begun.put(a)
	l.runs.Go(l.labour)
}

// labour does work that has begun until there is none that nobody does. There is
// one for each attempt, so that none waits for another; when work takes no time,
// the first does that of many, with the stack that it has grown for one.
func (l *loop) labour() {
	for a := l.begun.take(); a != nil; a = l.begun.take() {
		result, isolation := l.config.Runner.Run(a.ctx, &a.run, &a.report)
		a.cancel(nil)
		l.inbox.put(event{attempt: a, end: true, at: l.config.Now(), result: result, isolation: isolation})
	}
}

// backlog is the attempts whose work has begun and that nobody does yet, the oldest
// first. It is safe for concurrent use.
type backlog struct {
	mu       sync.Mutex
	attempts []*attempt
	next     int // those before it are taken
}

func (b *backlog) put(a *attempt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempts = append(b.attempts, a)
}

// take returns the oldest, or nil.
func (b *backlog) take() *attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(b.attempts) {
		return nil
	}
	a := b.attempts[b.next]
	b.attempts[b.next] = nil
	if b.next++; b.next == len(b.attempts) {
		b.attempts, b.next = b.attempts[:0], 0
	}
	return a
}
