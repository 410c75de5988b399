package dispatch

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Bounds and paces of the loop.
const (
	horizon       = 2 * time.Second // how far ahead the near future reaches
	pollEvery     = time.Second     // how often the store is asked for what is due
	settleEvery   = 10 * time.Second
	pageSize      = 4096
	maxLoaded     = 32768                    // jobs of the near future held in memory
	maxReady      = 8192                     // waiting records of a template held in memory
	maxBatch      = 1024                     // operations handed to the store at once
	urgentFlights = 2                        // batches of fires and leases under way, so that the store never waits for the loop
	maxFires      = urgentFlights * maxBatch // decided ahead of their batch
	maxYield      = 250 * time.Millisecond   // how long everything else waits for fires
	maxBackoff    = time.Second
	minBackoff    = 50 * time.Millisecond
	// maxSilence is the longest pause between two looks at the sessions that
	// still lets silence count against them.
	maxSilence = time.Second
)

// loop is the state of dispatch. One goroutine owns it; it does no I/O and
// reads no clock: whoever drives it passes the time, performs the writes and
// reads that it asks for, and hands the answers back.
type loop struct {
	policy Policy
	ttl    time.Duration
	log    *zap.Logger
	now    time.Time // of the step that is under way

	sessions map[string]*session
	queues   map[string]*queue // by template type
	order    []*queue          // the same, by type
	jobs     map[string]*item  // near-future jobs by id
	recs     map[string]*item  // waiting records in memory, by id
	held     map[string]*lease // leased records by id
	agenda   agenda

	urgent []*write // fires and leases to submit, ahead of the rest
	other  []*write // beats, ends of sessions, logs
	dirty  []*lease // leased records that want a change

	flights  [2]int    // batches under way: of fires and leases, of everything else
	fires    int       // fires in urgent
	yielding time.Time // since when everything else waits for fires; zero while it does not
	failures int       // store failures in a row
	retryAt  time.Time // nothing is submitted before

	// passed holds the fire times that were recorded since the due jobs were last
	// asked for: the answer may still show them.
	passed map[string]time.Time

	loaded   bool // what is held was read once
	polls    [numPolls]poll
	jobsFrom *job.Job // cursor of the due jobs, nil to begin
	lookups  []*lookup
	looking  map[string]*lookup
	lastSeen time.Time // last successful look at the sessions
	progress *progressBoard
}

// session is an executor process.
type session struct {
	id         string
	host       string
	count      int64     // beat counter as last seen in the store
	beats      int64     // highest counter submitted
	lastChange time.Time // when count was last seen to change
	opened     time.Time
	ending     bool
	streams    []*Stream // open ones
	held       map[string]*lease
}

// queue is the waiting records of one template.
type queue struct {
	templateType string
	carriers     []*Stream // open streams whose executors carry the template
	turn         int
	ready        []*item
	more         bool // the store has more that are due
	cursor       *job.Execution
	poll         poll
}

// item is something of the near future: a job, or a waiting record.
type item struct {
	gen   uint32
	job   *job.Job
	sched *schedule.Schedule
	rec   *job.Execution
	newer *job.Job // the job as somebody told while it was busy
	busy  bool     // a fire or a lease of it is being written
}

type goneKind int

const (
	here       goneKind = iota
	handedBack          // its executor says that it will not run it, and that nothing of it is left
	notHeld             // its living executor does not hold it
	dead                // its session ended
	overdue             // it should have ended long ago
)

// lease is a leased or running record and what is known about it beyond what is
// durable.
type lease struct {
	e       *job.Execution // as durable
	st      *Stream        // the stream to talk over; nil while there is none
	number  int64          // on that stream; 0 when the executor named it itself
	busy    bool           // a change is being written
	queued  bool           // in dirty
	started *Started
	outcome *job.Outcome
	gone    goneKind
}

// write is one operation for the store and whom its answer concerns.
type write struct {
	op    store.Op
	fire  *item    // a fire of this job
	rec   *item    // a lease of this record
	st    *Stream  // the stream whose credit a fire or lease uses, or whose beat it is
	lease *lease   // a change of this leased record
	sess  *session // the end of this session
}

type poll struct {
	at   time.Time // when it is due
	busy bool
}

const (
	pollSessions = iota
	pollJobs
	pollOverdue
	pollSettle
	numPolls
)

// lookup reads one execution for messages about it that came unexpected.
type lookup struct {
	id   string
	then []func(*job.Execution) // nil: there is none
}

func newLoop(p Policy, ttl time.Duration, log *zap.Logger) *loop {
	return &loop{
		policy: p, ttl: ttl, log: log,
		sessions: map[string]*session{}, queues: map[string]*queue{}, jobs: map[string]*item{},
		recs: map[string]*item{}, held: map[string]*lease{}, looking: map[string]*lookup{}, passed: map[string]time.Time{},
		progress: newProgressBoard(),
	}
}

// step makes time pass: everything that is due by now is decided.
func (l *loop) step(now time.Time) {
	l.now = now
	if l.loaded {
		l.fireDue()
		l.assign()
	}
}

// wakeAt is when step must be called next if nothing else happens.
func (l *loop) wakeAt() time.Time {
	at := l.now.Add(pollEvery)
	earlier := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if e, ok := l.agenda.next(); ok && l.loaded && l.fires < maxFires {
		earlier(time.UnixMilli(e.at))
	}
	if l.failures > 0 && l.now.Before(l.retryAt) {
		earlier(l.retryAt)
		return at // nothing is submitted or asked before
	}
	for kind := range l.polls {
		if l.wantsPoll(kind) {
			earlier(l.polls[kind].at)
		}
	}
	for _, q := range l.order {
		if l.wantsWaiting(q) {
			earlier(q.poll.at)
		}
	}
	if len(l.lookups) > 0 {
		earlier(l.now)
	}
	return at
}

// wantsPoll tells whether a poll may be made once its time has come.
func (l *loop) wantsPoll(kind int) bool {
	return !l.polls[kind].busy && (l.loaded || kind == pollSettle) && (kind != pollJobs || len(l.jobs) < maxLoaded)
}

// wantsWaiting tells whether the store may be asked for more of a template's
// waiting records: somebody has credit for them and memory runs low.
func (l *loop) wantsWaiting(q *queue) bool {
	return l.loaded && !q.poll.busy && len(q.ready) < pageSize && (q.more || q.hasCredit())
}

// ---- jobs ----

// addJob takes a job into the near future, or forgets it if it is not.
func (l *loop) addJob(j *job.Job) {
	if at, ok := l.passed[j.ID]; ok && !j.NextRunAt.IsZero() && !j.NextRunAt.After(at) {
		return // read before its fire was written
	}
	it := l.jobs[j.ID]
	if it != nil && it.busy {
		it.newer = j // looked at when its fire is answered
		return
	}
	if it != nil && it.job.Version == j.Version && it.job.NextRunAt.Equal(j.NextRunAt) {
		return
	}
	if it != nil && (j.Version < it.job.Version || j.Version == it.job.Version && j.NextRunAt.Before(it.job.NextRunAt) && !j.NextRunAt.IsZero()) {
		return // an old read
	}
	if j.Deleted || !j.Enabled || j.NextRunAt.IsZero() || j.NextRunAt.After(l.now.Add(horizon)) {
		l.dropJob(j.ID)
		return
	}
	if it == nil {
		it = &item{}
		l.jobs[j.ID] = it
	}
	if it.job == nil || it.job.Version != j.Version {
		sched, err := j.Compile()
		if err != nil {
			l.log.Error("job has a schedule that does not compile", zap.String("job_id", j.ID), zap.Error(err))
			delete(l.jobs, j.ID)
			return
		}
		it.sched = sched
	}
	it.job = j
	it.gen++
	l.agenda.push(entry{at: j.NextRunAt.UnixMilli(), gen: it.gen, item: it})
}

func (l *loop) dropJob(id string) {
	if it := l.jobs[id]; it != nil {
		it.gen++
		delete(l.jobs, id)
	}
}

func (l *loop) fireDue() {
	limit := l.now.UnixMilli()
	for l.fires < maxFires {
		e, ok := l.agenda.next()
		if !ok || e.at > limit {
			return
		}
		l.agenda.pop()
		it := e.item
		it.gen++
		if it.job == nil {
			l.makeReady(it)
			continue
		}
		f := l.policy.decideFire(it.job, it.sched, l.now)
		l.fire(it, f)
	}
}

// fire submits a fire, with a lease in the same step if somebody is free and
// nobody waits before it.
func (l *loop) fire(it *item, f *store.Fire) {
	w := &write{op: f, fire: it}
	if f.Execution.Status == job.Pending {
		if q := l.queue(it.job.TemplateType); len(q.ready) == 0 && !q.more {
			if st := q.pick(); st != nil {
				f.Execution = f.Execution.Lease(st.use(), l.now)
				w.st = st
			}
		}
	}
	it.busy = true
	l.fires++
	l.urgent = append(l.urgent, w)
}

func (l *loop) fired(w *write, a store.Answer) {
	it, f := w.fire, w.op.(*store.Fire)
	it.busy = false
	j := it.job
	if newer := it.newer; newer != nil {
		it.newer = nil
		defer l.addJob(newer)
	}
	if a.Outcome == store.Done {
		l.passed[j.ID] = f.FireAt
		e := f.Execution
		switch {
		case w.st != nil:
			l.leased(e, w.st)
		case e.Status == job.Pending:
			l.addWaiting(e)
		}
		l.advance(it, f.Next)
		return
	}
	if w.st != nil {
		w.st.giveBack()
	}
	switch {
	case a.SlotBy != "":
		l.fire(it, l.policy.overlapSkip(j, f, a.SlotBy, l.now))
	case a.Execution != nil:
		// Recorded before, by whomever; the job stands after it.
		if w := a.Execution; !w.Leased() && !w.Status.Ended() {
			l.addWaiting(w)
		}
		l.dropJob(j.ID)
		l.polls[pollJobs].at = l.now
	case a.Job != nil:
		delete(l.jobs, j.ID)
		l.addJob(a.Job)
	default:
		l.dropJob(j.ID)
	}
}

func (l *loop) advance(it *item, next time.Time) {
	if next.IsZero() || next.After(l.now.Add(horizon)) {
		l.dropJob(it.job.ID)
		return
	}
	j := *it.job
	j.NextRunAt = next
	it.job = &j
	it.gen++
	l.agenda.push(entry{at: next.UnixMilli(), gen: it.gen, item: it})
}

// ---- waiting records ----

func (l *loop) queue(templateType string) *queue {
	q := l.queues[templateType]
	if q == nil {
		q = &queue{templateType: templateType}
		l.queues[templateType] = q
		i, _ := slices.BinarySearchFunc(l.order, templateType, func(q *queue, t string) int { return cmp.Compare(q.templateType, t) })
		l.order = slices.Insert(l.order, i, q)
	}
	return q
}

func (q *queue) hasCredit() bool {
	for _, st := range q.carriers {
		if st.free > 0 {
			return true
		}
	}
	return false
}

// pick returns the carrier whose turn it is among those with credit, or nil.
func (q *queue) pick() *Stream {
	for range q.carriers {
		q.turn++
		if st := q.carriers[q.turn%len(q.carriers)]; st.free > 0 {
			return st
		}
	}
	return nil
}

// use takes one credit and names the holder of the lease it is for.
func (s *Stream) use() job.Holder {
	s.free--
	s.number++
	return job.Holder{Session: s.session.id, Stream: s.id, Number: s.number, Host: s.session.host}
}

// giveBack returns a credit whose assignment was never sent.
func (s *Stream) giveBack() {
	if s.open && !s.draining {
		s.free++
	}
}

// addWaiting takes a waiting record into memory if it is due soon and there is
// room; the store is asked for the others.
func (l *loop) addWaiting(e *job.Execution) {
	if l.held[e.ID] != nil || l.recs[e.ID] != nil || e.WakeAt.After(l.now.Add(horizon)) {
		return
	}
	q := l.queue(e.Frozen.TemplateType)
	if len(q.ready) >= maxReady {
		q.more = true
		return
	}
	it := &item{rec: e}
	l.recs[e.ID] = it
	if e.WakeAt.After(l.now) {
		l.agenda.push(entry{at: e.WakeAt.UnixMilli(), item: it})
		return
	}
	l.makeReady(it)
}

func (l *loop) makeReady(it *item) {
	q := l.queue(it.rec.Frozen.TemplateType)
	q.ready = append(q.ready, it)
}

// assign leases ready records to whoever has credit.
func (l *loop) assign() {
	for _, q := range l.order {
		n := 0
		for ; n < len(q.ready); n++ {
			st := q.pick()
			if st == nil {
				break
			}
			it := q.ready[n]
			it.busy = true
			e := it.rec
			to := e.Lease(st.use(), l.now)
			l.urgent = append(l.urgent, &write{
				op: &store.Change{Status: e.Status, Token: e.Token, Uncancelled: true, To: to}, rec: it, st: st,
			})
		}
		if n == len(q.ready) {
			q.ready = q.ready[:0]
		} else if n > 0 {
			q.ready = append(q.ready[:0], q.ready[n:]...)
		}
	}
}

func (l *loop) leaseWritten(w *write, a store.Answer) {
	c := w.op.(*store.Change)
	delete(l.recs, c.To.ID)
	if a.Outcome == store.Done {
		l.leased(c.To, w.st)
		return
	}
	w.st.giveBack()
	if e := a.Execution; e != nil && !e.Leased() && !e.Status.Ended() && !e.CancelRequested {
		l.addWaiting(e)
	}
}

// leased sends a durable lease to its holder.
func (l *loop) leased(e *job.Execution, st *Stream) {
	st.sent++
	ls := &lease{e: e, st: st, number: st.sent}
	l.held[e.ID] = ls
	if !st.open {
		// Never sent, so nobody can hold it.
		ls.st, ls.gone = nil, handedBack
		if s := l.sessions[e.Session]; s != nil {
			s.held[e.ID] = ls
		}
		l.want(ls)
		return
	}
	st.session.held[e.ID] = ls
	a := Assignment{
		Number: ls.number, ID: e.ID, Token: e.Token, JobID: e.JobID, JobName: e.Frozen.JobName,
		Organisation: e.Frozen.Organisation, TemplateType: e.Frozen.TemplateType, Trigger: e.Trigger,
		Attempt: e.Attempt(), ScheduledFor: e.ScheduledFor, Zone: e.Frozen.Zone, Parameters: e.Frozen.Parameters,
		Timeout: e.Frozen.Timeout, AwaitGo: !e.Frozen.Idempotent,
	}
	st.put(func(out *Outbound) { out.Assignments = append(out.Assignments, a) })
}

// ---- leased records ----

// want queues a leased record for the change that its lease now calls for.
func (l *loop) want(ls *lease) {
	if ls.busy || ls.queued {
		return
	}
	ls.queued = true
	l.dirty = append(l.dirty, ls)
}

// change is what the record should become; nil when it may stay.
func (l *loop) change(ls *lease) *store.Change {
	e := ls.e
	var to *job.Execution
	switch {
	case ls.outcome != nil:
		to = e.End(*ls.outcome, l.now)
	case ls.gone == handedBack && e.CancelRequested:
		to = e.CancelledUnstarted(l.now)
	case ls.gone == handedBack:
		to = e.Requeue(l.now)
	case ls.gone == notHeld:
		to = e.Lost(l.now, true)
	case ls.gone == dead:
		to = e.Lost(l.now, false)
	case ls.gone == overdue:
		to = e.Overdue(l.now)
	case ls.started != nil && e.Status != job.Running:
		to = e.Start(ls.started.At, l.now, ls.started.Isolation)
	default:
		return nil
	}
	waits := !to.Status.Ended() && to.Status != job.Running
	return &store.Change{Status: e.Status, Token: e.Token, Uncancelled: waits, To: to}
}

func (l *loop) changed(w *write, a store.Answer) {
	ls, c := w.lease, w.op.(*store.Change)
	ls.busy = false
	if a.Outcome == store.Done {
		to := c.To
		cancel := ls.e.CancelRequested
		to.CancelRequested = to.CancelRequested || cancel
		if to.Status == job.Running {
			ls.e = to
			if ls.started != nil && !to.Frozen.Idempotent && ls.outcome == nil && ls.gone == here {
				l.sendGo(ls)
			}
			if l.change(ls) != nil {
				l.want(ls)
			}
			return
		}
		l.release(ls)
		if !to.Status.Ended() {
			l.addWaiting(to)
		}
		return
	}
	cur := a.Execution
	if cur != nil && cur.Token == ls.e.Token && !cur.Status.Final() && (cur.Leased() || cur.Status == job.Unknown && ls.outcome != nil) {
		// The same lease, in another state than believed: decide afresh.
		ls.e = cur
		if l.change(ls) != nil {
			l.want(ls)
		}
		return
	}
	l.release(ls)
	if ls.outcome == nil && ls.gone == here {
		ls.tell(func(out *Outbound, h Holding) { out.Stale = append(out.Stale, h) })
	}
	if cur != nil && !cur.Leased() && !cur.Status.Ended() {
		l.addWaiting(cur)
	}
}

// release forgets a lease that is over, and says so to its holder.
func (l *loop) release(ls *lease) {
	if l.held[ls.e.ID] == ls {
		delete(l.held, ls.e.ID)
		if s := l.sessions[ls.e.Session]; s != nil {
			delete(s.held, ls.e.ID)
		}
		l.progress.forget(ls.e.ID)
	}
	switch {
	case ls.outcome != nil:
		ls.tell(func(out *Outbound, h Holding) { out.Acknowledged = append(out.Acknowledged, h) })
	case ls.gone == overdue:
		ls.tell(func(out *Outbound, h Holding) { out.Stale = append(out.Stale, h) })
	}
}

func (ls *lease) tell(add func(*Outbound, Holding)) {
	if ls.st != nil {
		ls.st.put(func(out *Outbound) { add(out, Holding{ls.e.ID, ls.e.Token}) })
	}
}

func (l *loop) sendGo(ls *lease) {
	ls.tell(func(out *Outbound, h Holding) { out.Go = append(out.Go, h) })
}

func (l *loop) sendCancel(ls *lease) {
	ls.tell(func(out *Outbound, h Holding) { out.Cancel = append(out.Cancel, h) })
}

// cancelRequested passes a cancellation on to the holder.
func (l *loop) cancelRequested(e *job.Execution) {
	ls := l.held[e.ID]
	if ls == nil || ls.e.Token != e.Token || ls.e.CancelRequested {
		return
	}
	c := *ls.e
	c.CancelRequested = true
	ls.e = &c
	l.sendCancel(ls)
}

// unexpected reads the record of a message about something that is not held
// here, adopts it if its token is the message's, and passes it on; else nil.
func (l *loop) unexpected(st *Stream, h Holding, then func(*lease)) {
	l.lookUp(h.ID, func(e *job.Execution) {
		if ls := l.held[h.ID]; ls != nil { // adopted meanwhile
			if ls.e.Token != h.Token {
				ls = nil
			}
			then(ls)
			return
		}
		if e == nil || e.Token != h.Token || !e.Leased() && e.Status != job.Unknown {
			then(nil)
			return
		}
		ls := &lease{e: e, st: st}
		if s := l.sessions[e.Session]; s != nil {
			l.held[e.ID] = ls
			s.held[e.ID] = ls
		}
		then(ls)
	})
}

func (l *loop) lookUp(id string, then func(*job.Execution)) {
	if lk := l.looking[id]; lk != nil {
		lk.then = append(lk.then, then)
		return
	}
	lk := &lookup{id: id, then: []func(*job.Execution){then}}
	l.looking[id] = lk
	l.lookups = append(l.lookups, lk)
}
