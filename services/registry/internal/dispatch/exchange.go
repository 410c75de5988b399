package dispatch

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Store is what dispatch needs of a store.
type Store interface {
	Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer
	Job(ctx context.Context, id string) (*job.Job, error)
	RunNow(ctx context.Context, r store.RunNow) (*job.Execution, bool, error)
	Executions(ctx context.Context, f store.ExecutionFilter) ([]*job.Execution, int, error)
	store.Work
	OpenSession(ctx context.Context, s store.Session, now time.Time) error
	Sessions(ctx context.Context) ([]store.Session, error)
	BeatReplica(ctx context.Context, r store.Replica, now time.Time) error
	Replicas(ctx context.Context) ([]store.Replica, error)
	DropReplica(ctx context.Context, id string) error
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
// before the first of them are written as ended. The last of them are on their way
// to the store then, which would write the rest beside them.
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
			l.firing++
		}
	}
	if !urgent {
		n = 0
		for ; n < len(l.dirty) && len(b.writes) < 2*maxBatch; n++ {
			ls := l.dirty[n]
			ls.queued = false
			if ls.wantsPast() {
				if !ls.asking {
					ls.asking = true
					l.pasts = append(l.pasts, ls)
				}
				continue // wanted again with the answer
			}
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
	if l.fires == 0 && l.firing < maxBatch {
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
		if w.fire != nil {
			l.firing--
		}
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
	kind     int    // a poll kind, readWaiting, readRecords or readPast
	lease    *lease // whose job's past is read
	share    *job.Share
	queue    *queue
	lookups  []*lookup
	started  time.Time
	fromJob  *job.Job
	from     *job.Execution
	beat     *store.Replica // to be written before the replicas are read
	drop     []string       // replicas to forget
	jobs     []*job.Job
	queues   []job.Queue
	records  []*job.Execution
	sessions []store.Session
	replicas []store.Replica
	err      error
}

const (
	readWaiting = numPolls + iota
	readRecords
	readPast
)

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
		p.busy, p.again = true, false
		r := &read{kind: kind, share: l.share, started: l.now, fromJob: l.jobsFrom}
		switch kind {
		case pollJobs:
			clear(l.passed)
		case pollReplicas:
			r.drop = l.fleet.forgettable(l.now)
			if !l.beatAt.After(l.now) {
				l.replica.Count++
				beat := l.replica
				r.beat = &beat
			}
		}
		reads = append(reads, r)
	}
	for _, t := range l.tenants {
		for _, q := range t.queues {
			if q.poll.at.After(l.now) || !l.wantsWaiting(q) {
				continue
			}
			q.poll.busy = true
			reads = append(reads, &read{kind: readWaiting, share: l.share, queue: q, started: l.now, from: q.cursor})
		}
	}
	for len(l.lookups) > 0 {
		n := min(len(l.lookups), store.MaxFind)
		for _, lk := range l.lookups[:n] {
			delete(l.looking, lk.id) // whoever asks from now on wants a later answer
		}
		reads = append(reads, &read{kind: readRecords, lookups: slices.Clone(l.lookups[:n]), started: l.now})
		l.lookups = append(l.lookups[:0], l.lookups[n:]...)
	}
	n := min(len(l.pasts), maxPasts)
	for _, ls := range l.pasts[:n] {
		reads = append(reads, &read{kind: readPast, lease: ls, started: l.now})
	}
	l.pasts = append(l.pasts[:0], l.pasts[n:]...)
	return reads
}

// maxPasts is how many pasts are read at once.
const maxPasts = 16

// past returns how the latest of the records ended that is not the execution
// itself; they are the latest two, with an outcome.
func past(records []*job.Execution, id string) job.Status {
	for _, e := range records {
		if e.ID != id {
			return e.Status
		}
	}
	return ""
}

// perform asks the store.
func (r *read) perform(ctx context.Context, s Store) {
	switch r.kind {
	case pollReplicas:
		if r.beat != nil {
			if r.err = s.BeatReplica(ctx, *r.beat, r.started); r.err != nil {
				return
			}
		}
		for _, id := range r.drop {
			if r.err = s.DropReplica(ctx, id); r.err != nil {
				return
			}
		}
		r.replicas, r.err = s.Replicas(ctx)
	case pollSessions:
		r.sessions, r.err = s.Sessions(ctx)
	case pollQueues:
		r.queues, r.err = s.Queues(ctx)
	case pollJobs:
		r.jobs, r.err = s.DueJobs(ctx, r.share, r.started.Add(horizon), r.fromJob, pageSize)
	case pollOverdue:
		r.records, r.err = s.Overdue(ctx, r.share, r.started, pageSize)
	case pollSettle:
		if r.err = s.Mend(ctx, r.started); r.err != nil {
			return
		}
		// The sessions are read after the leases: a session is durable before any
		// lease of it, so one that is missing then is dead.
		var last *job.Execution
		for {
			var page []*job.Execution
			if page, r.err = s.Held(ctx, r.share, last, pageSize); r.err != nil {
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
		r.records, r.err = s.Waiting(ctx, r.queue.of, r.share, r.started.Add(horizon), r.from, pageSize)
	case readRecords:
		ids := make([]string, len(r.lookups))
		for i, lk := range r.lookups {
			ids[i] = lk.id
		}
		r.records, r.err = s.Find(ctx, ids)
	case readPast:
		r.records, _, r.err = s.Executions(ctx, store.ExecutionFilter{
			JobID: r.lease.e.JobID, Statuses: []job.Status{job.Success, job.Failed, job.TimedOut, job.Unknown}, Limit: 2,
		})
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
		l.lookups = append(l.lookups, r.lookups...) // asked again as they are: nobody joins them
		if r.lease != nil {
			l.pasts = append(l.pasts, r.lease)
		}
		l.backOff(r.err)
		return
	}
	switch r.kind {
	case pollReplicas:
		l.polls[pollReplicas].at = now.Add(lookEvery(l.ttl))
		if r.beat != nil {
			l.beatAt = r.started.Add(beatEvery(l.ttl))
		}
		if l.fleet.saw(r.replicas, now) {
			l.fleetChanged()
		}
	case pollQueues:
		l.polls[pollQueues].at = now.Add(pollEvery)
		l.knowQueues(r.queues)
	case pollSessions:
		l.polls[pollSessions].at = now.Add(lookEvery(l.ttl))
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
	case readRecords:
		found := make(map[string]*job.Execution, len(r.records))
		for _, e := range r.records {
			found[e.ID] = e
		}
		for _, lk := range r.lookups {
			for _, then := range lk.then {
				then(found[lk.id])
			}
		}
	}
	if r.kind == readPast {
		before := past(r.records, r.lease.e.ID)
		r.lease.before, r.lease.asking = &before, false
		l.want(r.lease)
	}
	if r.kind < numPolls && l.polls[r.kind].again {
		l.polls[r.kind].at, l.polls[r.kind].again = now, false
	}
}

// fleetChanged deals the jobs out anew.
func (l *loop) fleetChanged() {
	l.share = shareOf(l.fleet.self, l.fleet.live)
	l.log.Info("the fleet has changed", zap.Int("registries", len(l.fleet.live)), zap.Int("share", l.share.Size()), zap.Int("of", job.Buckets))
	for id, it := range l.jobs {
		if !it.busy && !l.share.Has(id) {
			l.dropJob(id)
		}
	}
	l.jobsFrom = nil
	for _, kind := range []int{pollJobs, pollQueues, pollOverdue, pollSettle} {
		l.soon(kind)
	}
	for _, q := range l.queues {
		q.poll.at = l.now
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
		s.draining = seen.Draining
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
	s := &session{id: seen.ID, host: seen.Host, count: seen.Count, lastChange: l.now, opened: l.now}
	l.sessions[seen.ID] = s
	return s
}

// settleHeld compares what is leased, in the share, with the sessions that live
// and with what they say they hold. It is how anything is taken back whose lease
// is not spoken of here: of another registry that died, of an earlier process.
func (l *loop) settleHeld(r *read) {
	live := make(map[string]bool, len(r.sessions))
	for _, seen := range r.sessions {
		live[seen.ID] = true
		if l.sessions[seen.ID] == nil {
			l.knowSession(seen)
		}
	}
	strays := map[Holding]bool{}
	for _, e := range r.records {
		s := l.sessions[e.Session]
		h := Holding{e.ID, e.Token}
		switch {
		case l.held[e.ID] != nil:
			if e.CancelRequested {
				l.cancelRequested(e)
			}
		case !live[e.Session]:
			l.takeBack(e, dead)
		case s.report != nil && s.report.closed(e.Stream) && !s.report.held[h]:
			l.takeBack(e, notHeld)
		case l.strayed(s, e):
			strays[h] = true
			if l.strays[h] {
				l.takeBack(e, notHeld)
			}
		case e.CancelRequested:
			l.cancelRequested(e)
		}
	}
	l.strays = strays
	l.loaded = true
	for _, ls := range l.held {
		// Its executor speaks of it with another registry, or is about to be
		// declared dead.
		if ls.st != nil && !ls.st.open && l.now.Sub(ls.st.closedAt) > l.ttl {
			l.forget(ls)
		}
	}
	l.progress.forgetBefore(l.now.Add(-time.Minute), func(id string) bool { return l.held[id] != nil })
}

// takeBack settles a lease that is not spoken of here.
func (l *loop) takeBack(e *job.Execution, how goneKind) {
	ls := &lease{e: e}
	l.held[e.ID] = ls
	l.lost(ls, how)
}

// strayed tells whether a record is leased over a stream that is open here and yet
// unknown: its insertion was reported as failed. Twice in a row means for good.
func (l *loop) strayed(s *session, e *job.Execution) bool {
	if it := l.jobs[e.JobID]; it != nil && it.busy || l.recs[e.ID] != nil || l.accepting[e.ID] {
		return false // its answer is on its way
	}
	return slices.ContainsFunc(s.streams, func(st *Stream) bool { return st.id == e.Stream })
}

// overdue settles a record past its deadline, or frees the slot that an ended
// one still held.
func (l *loop) overdue(e *job.Execution) {
	if e.Status.Ended() {
		l.other = append(l.other, &write{op: &store.Change{Status: e.Status, Token: e.Token, To: e.Released()}})
		return
	}
	switch ls := l.held[e.ID]; {
	case ls == nil:
		l.takeBack(e, overdue)
	case ls.e.Token == e.Token && !ls.e.WakeAt.After(l.now):
		l.lost(ls, overdue)
	}
}
