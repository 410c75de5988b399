package dispatch

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Store is what dispatch needs of a store.
type Store interface {
	Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer
	Job(ctx context.Context, id string) (*job.Job, error)
	Execution(ctx context.Context, id string) (*job.Execution, error)
	store.Work
}

// ---- writes ----

// batch is what is handed to the store at once.
type batch struct {
	urgent  bool
	writes  []*write
	ops     []store.Op
	answers []store.Answer
}

// takeBatch returns the next batch of its kind, or nil. Fires and leases are
// handed over ahead of everything else, which waits a little while there are
// more fires than one batch holds: many times that fall due together start
// before the first of them are written as ended.
func (l *loop) takeBatch(urgent bool) *batch {
	if l.failures > 0 && l.now.Before(l.retryAt) {
		return nil
	}
	flights, queued, limit := &l.flights[0], &l.urgent, urgentFlights
	if !urgent {
		// One at a time: logs come before the end of their run, and beats before
		// the end of a session.
		flights, queued, limit = &l.flights[1], &l.other, 1
	}
	if *flights >= limit || !urgent && l.yields() {
		return nil
	}
	b := &batch{urgent: urgent}
	n := min(len(*queued), maxBatch)
	b.writes = append(b.writes, (*queued)[:n]...)
	*queued = append((*queued)[:0], (*queued)[n:]...)
	for _, w := range b.writes {
		if w.fire != nil {
			l.fires--
		}
	}
	if !urgent {
		n = 0
		for ; n < len(l.dirty) && len(b.writes) < 2*maxBatch; n++ {
			ls := l.dirty[n]
			ls.queued = false
			if c := l.change(ls); c != nil {
				ls.busy = true
				b.writes = append(b.writes, &write{op: c, lease: ls})
			}
		}
		l.dirty = append(l.dirty[:0], l.dirty[n:]...)
	}
	if len(b.writes) == 0 {
		return nil
	}
	b.ops = make([]store.Op, len(b.writes))
	for i, w := range b.writes {
		b.ops[i] = w.op
	}
	*flights++
	return b
}

// yields tells whether everything else waits for fires now.
func (l *loop) yields() bool {
	if l.fires == 0 {
		l.yielding = time.Time{}
		return false
	}
	if l.yielding.IsZero() {
		l.yielding = l.now
	}
	if l.now.Sub(l.yielding) < maxYield {
		return true
	}
	l.yielding = l.now // one batch passes
	return false
}

// written folds the answers of a batch back. What is not known to have happened
// is submitted again as it was, ahead of what has gathered since: every
// operation may be repeated.
func (l *loop) written(now time.Time, b *batch) {
	l.now = now
	flights, queued := &l.flights[0], &l.urgent
	if !b.urgent {
		flights, queued = &l.flights[1], &l.other
	}
	*flights--
	var again []*write
	var err error
	for i, w := range b.writes {
		a := b.answers[i]
		if a.Outcome == store.Unknown {
			again, err = append(again, w), a.Err
			if w.fire != nil {
				l.fires++
			}
			continue
		}
		switch {
		case w.fire != nil:
			l.fired(w, a)
		case w.rec != nil:
			l.leaseWritten(w, a)
		case w.lease != nil:
			l.changed(w, a)
		case w.sess != nil:
			l.sessionEnded(w.sess, a)
		case w.st != nil:
			l.beaten(w, a)
		}
	}
	if len(again) == 0 {
		l.failures = 0
		return
	}
	*queued = append(again, *queued...)
	l.backOff(err)
}

func (l *loop) backOff(err error) {
	if l.failures == 0 {
		l.log.Warn("the store failed; trying again", zap.Error(err))
	}
	wait := maxBackoff
	if l.failures < 5 {
		wait = min(wait, minBackoff<<l.failures)
	}
	l.failures++
	l.retryAt = l.now.Add(wait)
}

// beaten answers a heartbeat after its beat is durable.
func (l *loop) beaten(w *write, a store.Answer) {
	if a.Outcome == store.Lost {
		if s := l.sessions[w.st.session.id]; s != nil {
			l.endSession(s)
		}
		l.closeStream(w.st, ErrSessionEnded)
		return
	}
	w.st.put(func(out *Outbound) { out.Beat = true })
}

func (l *loop) sessionEnded(s *session, a store.Answer) {
	s.ending = false
	if a.Outcome == store.Done {
		l.endSession(s)
	}
}

// ---- reads ----

// read is one question to the store and its answer.
type read struct {
	kind      int // a poll kind, readWaiting or readExecution
	queue     *queue
	lookup    *lookup
	started   time.Time
	fromJob   *job.Job
	from      *job.Execution
	jobs      []*job.Job
	records   []*job.Execution
	sessions  []store.Session
	execution *job.Execution
	err       error
}

const (
	readWaiting = numPolls + iota
	readExecution
)

const maxLookups = 16 // read at once

// takeReads returns the questions that are due.
func (l *loop) takeReads() []*read {
	if l.failures > 0 && l.now.Before(l.retryAt) {
		return nil
	}
	var reads []*read
	for kind := range l.polls {
		p := &l.polls[kind]
		if p.at.After(l.now) || !l.wantsPoll(kind) {
			continue
		}
		p.busy = true
		if kind == pollJobs {
			clear(l.passed)
		}
		reads = append(reads, &read{kind: kind, started: l.now, fromJob: l.jobsFrom})
	}
	for _, q := range l.order {
		if q.poll.at.After(l.now) || !l.wantsWaiting(q) {
			continue
		}
		q.poll.busy = true
		reads = append(reads, &read{kind: readWaiting, queue: q, started: l.now, from: q.cursor})
	}
	n := 0
	for ; n < len(l.lookups) && n < maxLookups; n++ {
		reads = append(reads, &read{kind: readExecution, lookup: l.lookups[n], started: l.now})
	}
	l.lookups = append(l.lookups[:0], l.lookups[n:]...)
	return reads
}

// perform asks the store.
func (r *read) perform(ctx context.Context, s Store) {
	switch r.kind {
	case pollSessions:
		r.sessions, r.err = s.Sessions(ctx)
	case pollJobs:
		r.jobs, r.err = s.DueJobs(ctx, r.started.Add(horizon), r.fromJob, pageSize)
	case pollOverdue:
		r.records, r.err = s.Overdue(ctx, r.started, pageSize)
	case pollSettle:
		// The sessions are read after the leases: a session is durable before any
		// lease of it, so one that is missing then is dead.
		var last *job.Execution
		for {
			var page []*job.Execution
			if page, r.err = s.Held(ctx, last, pageSize); r.err != nil {
				return
			}
			r.records = append(r.records, page...)
			if len(page) < pageSize {
				break
			}
			last = page[len(page)-1]
		}
		r.sessions, r.err = s.Sessions(ctx)
	case readWaiting:
		r.records, r.err = s.Waiting(ctx, r.queue.templateType, r.started.Add(horizon), r.from, pageSize)
	case readExecution:
		r.execution, r.err = s.Execution(ctx, r.lookup.id)
		if errors.Is(r.err, job.ErrNotFound) {
			r.err = nil
		}
	}
}

// readDone folds an answer back.
func (l *loop) readDone(now time.Time, r *read) {
	l.now = now
	if r.kind < numPolls {
		l.polls[r.kind].busy = false
	}
	if r.queue != nil {
		r.queue.poll.busy = false
	}
	if r.err != nil {
		if r.lookup != nil {
			l.lookups = append(l.lookups, r.lookup)
		}
		l.backOff(r.err)
		return
	}
	switch r.kind {
	case pollSessions:
		l.polls[pollSessions].at = now.Add(min(l.ttl/10, maxSilence/2))
		l.sawSessions(r)
	case pollJobs:
		l.polls[pollJobs].at, l.jobsFrom = now.Add(pollEvery), nil
		for _, j := range r.jobs {
			l.addJob(j)
		}
		if len(r.jobs) == pageSize {
			l.polls[pollJobs].at, l.jobsFrom = now, r.jobs[pageSize-1]
		}
	case pollOverdue:
		l.polls[pollOverdue].at = now.Add(pollEvery)
		for _, e := range r.records {
			l.overdue(e)
		}
	case pollSettle:
		l.polls[pollSettle].at = now.Add(settleEvery)
		l.settleHeld(r)
	case readWaiting:
		q := r.queue
		q.poll.at, q.cursor, q.more = now.Add(pollEvery), nil, false
		if len(r.records) == pageSize {
			q.poll.at, q.more, q.cursor = now, true, r.records[pageSize-1]
		}
		for _, e := range r.records {
			l.addWaiting(e)
		}
	case readExecution:
		delete(l.looking, r.lookup.id)
		for _, then := range r.lookup.then {
			then(r.execution)
		}
	}
}

// sawSessions counts silence: only between looks that are close together, for
// otherwise it may have been this process, or the store, that was silent.
func (l *loop) sawSessions(r *read) {
	paused := l.lastSeen.IsZero() || l.now.Sub(l.lastSeen) > maxSilence
	l.lastSeen = l.now
	stored := make(map[string]bool, len(r.sessions))
	for _, seen := range r.sessions {
		stored[seen.ID] = true
		s := l.sessions[seen.ID]
		if s == nil {
			s = l.knowSession(seen)
		}
		if paused || seen.Count > s.count {
			s.count, s.lastChange = max(s.count, seen.Count), l.now
			continue
		}
		if !s.ending && l.now.Sub(s.lastChange) >= l.ttl {
			s.ending = true
			l.other = append(l.other, &write{op: &store.EndSession{Session: s.id, Count: s.count}, sess: s})
		}
	}
	for _, s := range l.sessionsByID() {
		if !stored[s.id] && s.opened.Before(r.started) {
			l.endSession(s)
		}
	}
}

func (l *loop) knowSession(seen store.Session) *session {
	s := &session{id: seen.ID, host: seen.Host, count: seen.Count, lastChange: l.now, opened: l.now, held: map[string]*lease{}}
	l.sessions[seen.ID] = s
	return s
}

// settleHeld compares what is leased with the sessions that live. The first
// time it also learns what is leased at all.
func (l *loop) settleHeld(r *read) {
	live := make(map[string]bool, len(r.sessions))
	for _, seen := range r.sessions {
		live[seen.ID] = true
		if !l.loaded && l.sessions[seen.ID] == nil {
			l.knowSession(seen)
		}
	}
	for _, e := range r.records {
		if l.held[e.ID] != nil {
			continue
		}
		switch s := l.sessions[e.Session]; {
		case !live[e.Session]:
			ls := &lease{e: e}
			l.held[e.ID] = ls
			l.lost(ls, dead)
		case !l.loaded && s != nil:
			ls := &lease{e: e}
			l.held[e.ID], s.held[e.ID] = ls, ls
		}
	}
	l.loaded = true
}

// overdue settles a record past its deadline, or frees the slot that an ended
// one still held.
func (l *loop) overdue(e *job.Execution) {
	if e.Status.Ended() {
		l.other = append(l.other, &write{op: &store.Change{Status: e.Status, Token: e.Token, To: e.Released()}})
		return
	}
	if ls := l.held[e.ID]; ls != nil && ls.e.Token == e.Token && !ls.e.WakeAt.After(l.now) {
		l.lost(ls, overdue)
	}
}
