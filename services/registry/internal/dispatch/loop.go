package dispatch

import (
	"errors"
	"slices"
	"strings"
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
	maxReady      = 8192                     // waiting records of a queue held in memory
	maxBatch      = 1024                     // operations handed to the store at once
	urgentFlights = 2                        // batches of fires and leases under way, so that the store never waits for the loop
	maxFires      = urgentFlights * maxBatch // decided ahead of their batch
	maxYield      = 250 * time.Millisecond   // how long everything else waits for fires
	maxBackoff    = time.Second
	minBackoff    = 50 * time.Millisecond
	// seatPatience is how long a seat counts as taken that another registry's run,
	// or an ended one, was found to have.
	seatPatience = time.Second
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

	// fleet is nil where no other registry shares the store. share is what this
	// one looks after: nil for all.
	fleet   *membership
	share   *job.Share
	replica store.Replica // this registry, with its beat counter
	beatAt  time.Time     // when its next beat is due

	sessions map[string]*session
	queues   map[job.Queue]*queue
	tenants  []*tenant         // by organisation
	hungry   []*tenant         // scratch of assign
	turn     int64             // counts what assign hands out
	jobs     map[string]*item  // near-future jobs by id
	recs     map[string]*item  // waiting records in memory, by id
	held     map[string]*lease // leased records that are spoken of here, by id
	agenda   agenda
	seats    map[string]map[int]time.Time // of limited templates: until when a seat is taken for all that is known
	strays   map[Holding]bool             // leased over an open stream and unknown here, at the last settling
	// accepting holds the manual runs that are being inserted with a lease.
	accepting map[string]bool

	urgent []*write // fires and leases to submit, ahead of the rest
	other  []*write // beats, ends of sessions, logs
	dirty  []*lease // leased records that want a change

	flights  [2]int    // batches under way: of fires and leases, of everything else
	fires    int       // fires in urgent
	firing   int       // fires under way
	yielding time.Time // since when everything else waits for fires; zero while it does not
	failures int       // store failures in a row
	retryAt  time.Time // nothing is submitted before

	// passed holds the fire times that were recorded since the due jobs were last
	// asked for: the answer may still show them.
	passed map[string]time.Time

	loaded   bool // what is held was settled once
	polls    [numPolls]poll
	jobsFrom *job.Job // cursor of the due jobs, nil to begin
	lookups  []*lookup
	looking  map[string]*lookup // those that are not being read yet, by execution
	pasts    []*lease           // those whose job's run before is to be read
	lastSeen time.Time          // last successful look at the sessions
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
	draining   bool      // an administrator's wish, as last seen in the store
	streams    []*Stream // open ones
	held       []*lease
	report     *report // what it last said of its streams; nil before it said anything here
}

// report is what an executor said of all that it holds. What it says of a closed
// stream stays true: nothing arrives over it any more.
type report struct {
	open map[string]bool
	last int64
	held map[Holding]bool
}

// tenant is an organisation as far as it has anything to run.
type tenant struct {
	organisation string
	queues       []*queue // by Queue.Compare: the most urgent first
	running      int      // its leases, those that are being written included
	served       int64    // turn at which it last got something
}

// queue is the waiting records that are alike.
type queue struct {
	of       job.Queue
	tenant   *tenant
	carriers []*Stream // open streams whose executors may run them
	turn     int
	ready    []*item
	more     bool // the store has more that are due
	stored   bool // the store had waiting records of it when it was last asked
	used     bool // since then something was put in
	cursor   *job.Execution
	poll     poll
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
	sess    *session       // among whose held it is, nil for none
	at      int            // its place there
	st      *Stream        // the stream to talk over; nil while there is none
	number  int64          // on that stream; 0 when the executor named it itself
	counted bool           // among its tenant's running ones
	busy    bool           // a change is being written
	queued  bool           // in dirty
	started *Started
	outcome *job.Outcome
	gone    goneKind
	tail    []job.LogLine // the last lines of its log, where a notification may quote them
	before  *job.Status   // how the job's run before ended; nil while that is not known
	asking  bool          // it is being read
}

// write is one operation for the store and whom its answer concerns.
type write struct {
	op    store.Op
	fire  *item    // a fire of this job
	rec   *item    // a lease of this record
	queue *queue   // where the record of a fire or lease with a stream belongs
	st    *Stream  // the stream whose credit a fire or lease uses, or whose beat it is
	lease *lease   // a change of this leased record
	sess  *session // the end of this session
}

type poll struct {
	at    time.Time // when it is due
	busy  bool
	again bool // it was wanted anew while it was busy
}

const (
	pollReplicas = iota
	pollSessions
	pollJobs
	pollQueues
	pollOverdue
	pollSettle
	numPolls
)

// lookup reads one execution for messages about it that came unexpected.
type lookup struct {
	id   string
	then []func(*job.Execution) // nil: there is none
}

func newLoop(cfg Config) *loop {
	l := &loop{
		policy: cfg.Policy, ttl: cfg.SessionTTL, log: cfg.Log, replica: cfg.Replica,
		sessions: map[string]*session{}, queues: map[job.Queue]*queue{}, jobs: map[string]*item{},
		recs: map[string]*item{}, held: map[string]*lease{}, looking: map[string]*lookup{}, passed: map[string]time.Time{},
		seats: map[string]map[int]time.Time{}, strays: map[Holding]bool{}, accepting: map[string]bool{},
		progress: newProgressBoard(),
	}
	if cfg.Replica.ID != "" {
		l.fleet = newMembership(cfg.Replica.ID, cfg.SessionTTL)
	}
	return l
}

// step makes time pass: everything that is due by now is decided.
func (l *loop) step(now time.Time) {
	l.now = now
	if l.loaded {
		l.assign() // what waits goes before what becomes due
		l.fireDue()
		l.assign()
	}
}

// soon makes a poll due at once; one that is under way is repeated.
func (l *loop) soon(kind int) {
	p := &l.polls[kind]
	p.at, p.again = l.now, p.busy
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
	for _, q := range l.queues {
		if l.wantsWaiting(q) {
			earlier(q.poll.at)
		}
	}
	if len(l.lookups)+len(l.pasts) > 0 {
		earlier(l.now)
	}
	return at
}

// wantsPoll tells whether a poll may be made once its time has come.
func (l *loop) wantsPoll(kind int) bool {
	switch {
	case l.polls[kind].busy:
		return false
	case kind == pollReplicas:
		return l.fleet != nil
	case l.fleet != nil && l.fleet.live == nil:
		return false // nobody knows yet what this registry looks after
	case kind == pollSettle:
		return true
	case kind == pollJobs && len(l.jobs) >= maxLoaded:
		return false
	}
	return l.loaded
}

// wantsWaiting tells whether the store may be asked for more of a queue: it has
// some, somebody has credit for them, and memory runs low.
func (l *loop) wantsWaiting(q *queue) bool {
	return l.loaded && !q.poll.busy && len(q.ready) < pageSize && (q.more || q.stored && q.hasCredit())
}

// ---- jobs ----

// addJob takes a job into the near future, or forgets it if it is not.
func (l *loop) addJob(j *job.Job) {
	if !l.share.Has(j.ID) {
		return // another registry's
	}
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
		if q := l.queue(f.Execution.Frozen.Queue()); q.idle() && l.policy.MaxConcurrency(q.of.TemplateType) == 0 {
			if st := q.pick(); st != nil {
				f.Execution = f.Execution.Lease(l.use(q, st), 0, l.now)
				w.st, w.queue = st, q
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
		l.giveBack(w.queue, w.st)
	}
	switch {
	case a.SlotBy != "":
		l.fire(it, l.policy.overlapSkip(j, f, a.SlotBy, l.now))
	case a.Execution != nil:
		// Recorded before, by whomever; the job stands after it.
		switch e := a.Execution; {
		case e.Status.Ended():
		case !e.Leased():
			l.addWaiting(e)
		case l.held[e.ID] == nil:
			l.soon(pollSettle) // by whom, and does he know of it?
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
	if next.IsZero() || next.After(l.now.Add(horizon)) || !l.share.Has(it.job.ID) {
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

func (l *loop) queue(of job.Queue) *queue {
	q := l.queues[of]
	if q == nil {
		t := l.tenant(of.Organisation)
		q = &queue{of: of, tenant: t}
		for _, s := range l.sessionsByID() {
			for _, st := range s.streams {
				if st.carries(of) {
					q.carriers = append(q.carriers, st)
				}
			}
		}
		l.queues[of] = q
		i, _ := slices.BinarySearchFunc(t.queues, of, func(q *queue, of job.Queue) int { return q.of.Compare(of) })
		t.queues = slices.Insert(t.queues, i, q)
	}
	q.used = true
	return q
}

func (l *loop) tenant(organisation string) *tenant {
	i, ok := slices.BinarySearchFunc(l.tenants, organisation, func(t *tenant, o string) int { return strings.Compare(t.organisation, o) })
	if !ok {
		l.tenants = slices.Insert(l.tenants, i, &tenant{organisation: organisation})
	}
	return l.tenants[i]
}

// knowQueues takes in which queues the store has, and forgets those that nobody
// uses.
func (l *loop) knowQueues(stored []job.Queue) {
	for _, q := range l.queues {
		q.stored = false
	}
	for _, of := range stored {
		q := l.queue(of)
		q.stored = true
	}
	for of, q := range l.queues {
		if q.stored || q.used || q.more || q.poll.busy || len(q.ready) > 0 {
			q.used = false
			continue
		}
		delete(l.queues, of)
		q.tenant.queues = slices.DeleteFunc(q.tenant.queues, func(o *queue) bool { return o == q })
	}
	l.tenants = slices.DeleteFunc(l.tenants, func(t *tenant) bool { return len(t.queues) == 0 && t.running == 0 })
}

// idle tells whether nothing waits in the queue, so that a run may pass it by.
func (q *queue) idle() bool { return len(q.ready) == 0 && !q.more }

func (q *queue) hasCredit() bool {
	for _, st := range q.carriers {
		if st.takes() {
			return true
		}
	}
	return false
}

// pick returns the carrier whose turn it is among those with credit, or nil.
func (q *queue) pick() *Stream {
	for range q.carriers {
		q.turn++
		if st := q.carriers[q.turn%len(q.carriers)]; st.takes() {
			return st
		}
	}
	return nil
}

// takes tells whether the stream may be assigned something.
func (s *Stream) takes() bool { return s.free > 0 && !s.session.draining }

// carries tells whether the stream's executor may run what is in a queue.
func (s *Stream) carries(of job.Queue) bool {
	_, ok := slices.BinarySearch(s.templates, of.TemplateType)
	return ok && job.Selects(of.Selector, s.labels)
}

// use takes one credit for something of the queue, and names the holder of the
// lease that it is for.
func (l *loop) use(q *queue, s *Stream) job.Holder {
	s.free--
	s.number++
	l.turn++
	q.tenant.running++
	q.tenant.served = l.turn
	return job.Holder{Session: s.session.id, Stream: s.id, Number: s.number, Host: s.session.host}
}

// giveBack returns a credit whose assignment was never sent.
func (l *loop) giveBack(q *queue, s *Stream) {
	if s.open && !s.draining {
		s.free++
	}
	q.tenant.running--
}

// addWaiting takes a waiting record into memory if it is due soon and there is
// room; the store is asked for the others.
func (l *loop) addWaiting(e *job.Execution) {
	if l.held[e.ID] != nil || l.recs[e.ID] != nil || e.WakeAt.After(l.now.Add(horizon)) {
		return
	}
	q := l.queue(e.Frozen.Queue())
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
	q := l.queue(it.rec.Frozen.Queue())
	q.ready = append(q.ready, it)
}

// assign leases ready records to whoever has credit. Organisations share: whose
// runs take the fewest slots is next, so that one backlog does not starve another.
// Within an organisation the highest priority goes first, then what waits longest.
func (l *loop) assign() {
	hungry := l.hungry[:0]
	for _, t := range l.tenants {
		if slices.ContainsFunc(t.queues, func(q *queue) bool { return len(q.ready) > 0 }) {
			hungry = append(hungry, t)
		}
	}
	for len(hungry) > 0 {
		next := 0
		for i, t := range hungry {
			if u := hungry[next]; t.running < u.running || t.running == u.running && t.served < u.served {
				next = i
			}
		}
		if !l.assignNext(hungry[next]) {
			hungry = slices.Delete(hungry, next, next+1)
		}
	}
	l.hungry = hungry[:0]
}

// assignNext leases the tenant's next record, if there is one that somebody can
// run.
func (l *loop) assignNext(t *tenant) bool {
	var q *queue
	seat := 0
	for _, c := range t.queues {
		if q != nil && c.of.Priority < q.of.Priority {
			break
		}
		if len(c.ready) == 0 || q != nil && !c.ready[0].rec.WakeAt.Before(q.ready[0].rec.WakeAt) || !c.hasCredit() {
			continue
		}
		free, ok := l.freeSeat(c.of.TemplateType)
		if ok {
			q, seat = c, free
		}
	}
	if q == nil {
		return false
	}
	it, st := q.ready[0], q.pick()
	q.ready[0] = nil
	q.ready = q.ready[1:]
	if seat > 0 {
		l.takeSeat(q.of.TemplateType, seat, forever)
	}
	it.busy = true
	e := it.rec
	to := e.Lease(l.use(q, st), seat, l.now)
	l.urgent = append(l.urgent, &write{
		op: &store.Change{Status: e.Status, Token: e.Token, Uncancelled: true, To: to}, rec: it, st: st, queue: q,
	})
	return true
}

// ---- seats ----

// forever is until when a seat is taken that this registry gave away: until its
// lease is over.
var forever = time.Unix(1<<40, 0)

// freeSeat returns a seat of the template that nobody takes as far as is known
// here, 0 if it needs none. The store decides: no two records have the same one.
func (l *loop) freeSeat(templateType string) (seat int, ok bool) {
	limit := l.policy.MaxConcurrency(templateType)
	if limit == 0 {
		return 0, true
	}
	for seat = 1; seat <= limit; seat++ {
		if until, taken := l.seats[templateType][seat]; !taken || !until.After(l.now) {
			return seat, true
		}
	}
	return 0, false
}

func (l *loop) takeSeat(templateType string, seat int, until time.Time) {
	if l.seats[templateType] == nil {
		l.seats[templateType] = map[int]time.Time{}
	}
	l.seats[templateType][seat] = until
}

func (l *loop) freeSeatOf(e *job.Execution) {
	if e.Seat > 0 {
		delete(l.seats[e.Frozen.TemplateType], e.Seat)
	}
}

func (l *loop) leaseWritten(w *write, a store.Answer) {
	c := w.op.(*store.Change)
	if a.Outcome == store.Done {
		delete(l.recs, c.To.ID)
		l.leased(c.To, w.st)
		return
	}
	l.giveBack(w.queue, w.st)
	if a.SeatTaken {
		// By a run that another registry leased, or whose end is not known.
		l.takeSeat(c.To.Frozen.TemplateType, c.To.Seat, l.now.Add(seatPatience))
		w.rec.busy = false
		q := l.queue(w.queue.of)
		q.ready = slices.Insert(q.ready, 0, w.rec)
		return
	}
	delete(l.recs, c.To.ID)
	l.freeSeatOf(c.To)
	if e := a.Execution; e != nil && !e.Leased() && !e.Status.Ended() && !e.CancelRequested {
		l.addWaiting(e)
	}
}

// ---- manual runs ----

// reserve leases a manual run that is about to be inserted, if somebody is free
// and nobody waits before it; nil otherwise.
func (l *loop) reserve(e *job.Execution) (*job.Execution, *Stream) {
	if !l.loaded || l.accepting[e.ID] || l.held[e.ID] != nil || l.recs[e.ID] != nil {
		return nil, nil
	}
	q := l.queue(e.Frozen.Queue())
	if !q.idle() || l.policy.MaxConcurrency(q.of.TemplateType) > 0 {
		return nil, nil
	}
	st := q.pick()
	if st == nil {
		return nil, nil
	}
	l.accepting[e.ID] = true
	return e.Lease(l.use(q, st), 0, l.now), st
}

// accepted takes in what became of a manual run that was inserted with a lease.
func (l *loop) accepted(e *job.Execution, st *Stream, stored *job.Execution, err error) {
	q := l.queue(e.Frozen.Queue())
	if errors.Is(err, job.ErrUnavailable) {
		l.lookUp(e.ID, func(found *job.Execution) { // it may be there nevertheless
			delete(l.accepting, e.ID)
			if found != nil && found.Token == e.Token && found.Session == e.Session && found.Stream == e.Stream && found.Number == e.Number {
				l.leased(found, st)
				return
			}
			l.giveBack(q, st)
		})
		return
	}
	delete(l.accepting, e.ID)
	switch {
	case err != nil:
		l.giveBack(q, st)
	case stored.Session != e.Session || stored.Stream != e.Stream || stored.Number != e.Number:
		// Replayed: it was accepted before, and whoever did looks after it.
		l.giveBack(q, st)
		if !stored.Leased() && !stored.Status.Ended() {
			l.addWaiting(stored)
		}
	default:
		l.leased(e, st)
	}
}

// leased sends a durable lease to its holder.
func (l *loop) leased(e *job.Execution, st *Stream) {
	st.sent++
	ls := &lease{e: e, st: st, number: st.sent, counted: true}
	l.hold(ls)
	if !st.open {
		// Never sent, so nobody can hold it.
		ls.st, ls.gone = nil, handedBack
		l.want(ls)
		return
	}
	a := Assignment{
		Number: ls.number, ID: e.ID, Token: e.Token, JobID: e.JobID, JobName: e.Frozen.JobName,
		Organisation: e.Frozen.Organisation, TemplateType: e.Frozen.TemplateType, Trigger: e.Trigger,
		Attempt: e.Attempt(), ScheduledFor: e.ScheduledFor, Zone: e.Frozen.Zone, Parameters: e.Frozen.Parameters,
		Previous: e.Result, Timeout: e.Frozen.Timeout, AwaitGo: !e.Frozen.Idempotent,
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
	c := &store.Change{Status: e.Status, Token: e.Token, Uncancelled: waits, To: to}
	if to.Status.Ended() && notifies(to) {
		var before job.Status
		if ls.before != nil {
			before = *ls.before
		}
		if e.Status == job.Unknown {
			before = e.Status // of which they were told
		}
		c.Follow = l.policy.followUps(to, before, ls.tail, l.now)
	}
	return c
}

// wantsPast tells whether it must be known how the job's run before ended: a
// success after a failure is a recovery.
func (ls *lease) wantsPast() bool {
	return ls.outcome != nil && ls.outcome.Status == job.Success && ls.before == nil && notifies(ls.e) && len(ls.e.Frozen.Notifications.OnFailure) > 0
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
		if to.Seat == 0 {
			l.freeSeatOf(ls.e)
		} else {
			l.takeSeat(to.Frozen.TemplateType, to.Seat, to.WakeAt) // its process may still be there
		}
		if !to.Status.Ended() {
			l.addWaiting(to)
		}
		for _, f := range c.Follow {
			l.addWaiting(f)
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
	l.freeSeatOf(ls.e)
	if ls.outcome == nil && ls.gone == here {
		ls.tell(func(out *Outbound, h Holding) { out.Stale = append(out.Stale, h) })
	}
	if cur != nil && !cur.Leased() && !cur.Status.Ended() {
		l.addWaiting(cur)
	}
}

// hold keeps a lease, also among those of its session while that is known.
func (l *loop) hold(ls *lease) {
	l.held[ls.e.ID] = ls
	if s := l.sessions[ls.e.Session]; s != nil {
		ls.sess, ls.at = s, len(s.held)
		s.held = append(s.held, ls)
	}
}

// leave takes a lease from among those of its session.
func (ls *lease) leave() {
	if ls.sess == nil {
		return
	}
	held := ls.sess.held
	last := held[len(held)-1]
	held[ls.at], last.at = last, ls.at
	held[len(held)-1] = nil
	ls.sess.held, ls.sess = held[:len(held)-1], nil
}

// byID returns the leases in the order of their executions.
func byID(leases []*lease) []*lease {
	return slices.SortedFunc(slices.Values(leases), func(a, b *lease) int { return strings.Compare(a.e.ID, b.e.ID) })
}

// release forgets a lease that is over, and says so to its holder.
func (l *loop) release(ls *lease) {
	if l.held[ls.e.ID] == ls {
		delete(l.held, ls.e.ID)
		l.progress.forget(ls.e.ID)
	}
	ls.leave()
	if ls.counted {
		ls.counted = false
		l.tenant(ls.e.Frozen.Organisation).running--
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

// cancelRequested passes a cancellation on to the holder. One that was assigned
// by another registry has a stream here too.
func (l *loop) cancelRequested(e *job.Execution) {
	ls := l.held[e.ID]
	if ls == nil {
		if s := l.sessions[e.Session]; s != nil && len(s.streams) > 0 {
			s.streams[0].put(func(out *Outbound) { out.Cancel = append(out.Cancel, Holding{e.ID, e.Token}) })
		}
		return
	}
	if ls.e.Token != e.Token || ls.e.CancelRequested {
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
		if l.sessions[e.Session] != nil {
			l.hold(ls)
			ls.counted = true
			l.tenant(e.Frozen.Organisation).running++
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
