package dispatch

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
)

// The simulation drives the real loop, its real decisions and the real SQLite
// store under a virtual clock. Streams, executors and administrators are
// simulated; a seed decides every delay, order, loss, crash and pause. After the
// storm it lets everything settle and checks the promises against what a plain
// model expects. One seed is one history: it replays exactly.
//
//	make simulate SEEDS=500                        seeds 1 to 500
//	ALMANAC_SIM_SEED=17 make simulate              seed 17 with its trace

func TestSimulation(t *testing.T) {
	if s := os.Getenv("ALMANAC_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("ALMANAC_SIM_SEED: %v", err)
		}
		simulate(t, seed, true)
		return
	}
	seeds := uint64(10)
	if s := os.Getenv("ALMANAC_SIM_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("ALMANAC_SIM_SEEDS: %v", err)
		}
		seeds = n
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			simulate(t, seed, false)
		})
	}
}

// Lengths of a history.
const (
	simStorm  = 5 * time.Minute
	simSettle = 8 * time.Minute // more than any time-out, retry delay and pause, and a backlog
	simTTL    = 5 * time.Second
)

const (
	idempotentType = "idempotent"
	onceOnlyType   = "once_only"
)

type sim struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	now   time.Time
	begin time.Time
	calm  bool // no more faults
	seq   int
	queue simQueue
	trace *strings.Builder

	store     store.Store
	reg       *simRegistry // nil while it is down
	regNo     int
	execs     []*simExec
	jobs      []*simJob
	runs      []*simRun
	exclusive map[string]bool       // executions that were recorded with their job's slot
	cancelled map[string]int64      // the token under which a cancellation was accepted
	wrong     map[Holding]time.Time // what should not last, and since when it does
	nonce     int
}

type simEvent struct {
	at  time.Time
	seq int
	do  func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.seq, do})
}

func (s *sim) ms(limit int) time.Duration {
	return time.Duration(s.rng.IntN(limit)+1) * time.Millisecond
}

func (s *sim) chance(percent float64) bool { return !s.calm && s.rng.Float64()*100 < percent }

func (s *sim) logf(format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "%9.3f  %s\n", s.now.Sub(s.begin).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	if s.trace != nil {
		s.t.Log("trace:\n" + s.trace.String())
	} else {
		s.t.Logf("ALMANAC_SIM_SEED=%d make simulate replays it with its trace", s.seed)
	}
	s.t.Fatalf(format, args...)
}

// ---- the registry ----

// simRegistry is one life of the registry process.
type simRegistry struct {
	s             *sim
	d             *Dispatcher
	l             *loop
	dead          bool
	from          time.Time // when it had read what is leased, or woke from its last stop
	stop          time.Time // until then the process is stopped
	before, until time.Time // the stretch before the last stop
	wake          time.Time
	up            map[*Stream]*simLink
}

func (s *sim) startRegistry() {
	s.regNo++
	s.logf("registry %d starts", s.regNo)
	d := New(s.store, Config{Policy: simPolicy, SessionTTL: simTTL, Now: func() time.Time { return s.now }, Log: zap.NewNop()})
	d.events = make(chan func(*loop), 1<<16)
	s.reg = &simRegistry{s: s, d: d, l: d.loop, up: map[*Stream]*simLink{}}
	r := s.reg
	s.after(0, r.pump)
}

var simPolicy = Policy{
	MissedAfter: time.Minute,
	Idempotent:  func(t string) bool { return t == idempotentType },
}

func (s *sim) crashRegistry() {
	if s.reg == nil {
		return
	}
	s.logf("registry %d crashes", s.regNo)
	s.reg.dead = true
	for _, x := range s.execs {
		if x.link != nil {
			x.link.cut()
		}
	}
	s.reg = nil
	s.after(s.ms(pick(s.rng, 500, 8_000, 100_000)), s.startRegistry)
}

// stopped puts off what a stopped process would do.
func (r *simRegistry) stopped(do func()) bool {
	d := r.stop.Sub(r.s.now)
	if d > 0 {
		r.s.after(d, do)
	}
	return d > 0
}

// event is one turn of the loop.
func (r *simRegistry) event(f func(*loop)) {
	if r.dead || r.stopped(func() { r.event(f) }) {
		return
	}
	r.l.now = r.s.now
	f(r.l)
	r.pump()
}

func (r *simRegistry) pump() {
	if r.dead || r.stopped(r.pump) {
		return
	}
	s, l := r.s, r.l
	for len(r.d.events) > 0 {
		l.now = s.now
		(<-r.d.events)(l)
	}
	l.step(s.now)
	for _, urgent := range []bool{true, false} {
		for b := l.takeBatch(urgent); b != nil; b = l.takeBatch(urgent) {
			s.after(s.ms(10), func() {
				if r.dead && s.rng.IntN(2) == 0 {
					return // died before it was written
				}
				b.answers = s.do(b.ops)
				s.after(s.ms(10), func() { r.event(func(l *loop) { l.written(s.now, b) }) })
			})
		}
	}
	for _, rd := range l.takeReads() {
		s.after(s.ms(5), func() {
			rd.perform(context.Background(), s.store)
			if s.chance(1) {
				rd.err = errors.New("simulated read failure")
			}
			s.after(s.ms(20), func() { r.event(func(l *loop) { l.readDone(s.now, rd) }) })
		})
	}
	for _, x := range s.execs {
		if x.link != nil && x.link.reg == r {
			x.link.flush()
		}
	}
	r.d.loaded.Store(l.loaded)
	if r.from.IsZero() && l.loaded {
		r.from = s.now
	}
	if at := l.wakeAt(); at.After(s.now) && (r.wake.IsZero() || !r.wake.After(s.now) || at.Before(r.wake)) {
		r.wake = at
		s.after(at.Sub(s.now), func() {
			r.pump()
		})
	}
}

// do performs operations on the store, losing some, and the answers of others.
func (s *sim) do(ops []store.Op) []store.Answer {
	const none, notWritten, notAnswered = 0, 1, 2
	fault := none
	switch {
	case s.chance(2):
		fault = notWritten
	case s.chance(2):
		fault = notAnswered
	}
	unknown := make([]store.Answer, len(ops))
	for i := range unknown {
		unknown[i].Err = errors.New("simulated store failure")
	}
	if fault == notWritten {
		return unknown
	}
	answers := s.store.Do(context.Background(), s.now, ops)
	for i, a := range answers {
		if a.Outcome == store.Unknown {
			s.fatalf("store failed: %v", a.Err)
		}
		if c, ok := ops[i].(*store.Change); ok && s.trace != nil {
			s.logf("  change %s %s/%d -> %s/%d: %v", c.To.ID, c.Status, c.Token, c.To.Status, c.To.Token, a.Outcome == store.Done)
		}
		if f, ok := ops[i].(*store.Fire); ok {
			s.exclusive[f.Execution.ID] = s.exclusive[f.Execution.ID] || f.Execution.Exclusive
			s.logf("  fire %s v%d as %s/%d: %v slot=%s", f.Execution.ID, f.Version, f.Execution.Status, f.Execution.Token, a.Outcome == store.Done, a.SlotBy)
		}
	}
	if fault == notAnswered {
		return unknown
	}
	return answers
}

// ---- executors ----

type simExec struct {
	s       *sim
	no      int
	session string
	link    *simLink
	closed  []string
	held    map[string]*simRun // by execution id
	slots   int
	granted int       // credits given on this link and not used
	stopped time.Time // until then the process is stopped
	apart   time.Time // until then the network does not carry it
	since   time.Time // since when it is awake and connected
	beaten  time.Time // when a beat of it last arrived
	brokeAt time.Time // when one arrived after a long silence
}

// simRun is one attempt as its executor sees it.
type simRun struct {
	Assignment
	x       *simExec
	nonce   int
	state   string // waiting, running, ended, gone
	began   time.Time
	over    time.Time
	result  *Result
	zombie  bool // its session was declared dead while it ran
	askedAt time.Time
}

// simLink is one stream. Frames arrive in order, each after some delay.
type simLink struct {
	x        *simExec
	reg      *simRegistry
	st       *Stream
	id       string
	broken   bool
	upAt     time.Time // when the last frame on its way arrives
	downAt   time.Time
	last     int64
	flushing bool
}

func (s *sim) startExec(no int) {
	x := &simExec{s: s, no: no, session: fmt.Sprintf("session-%d-%d", no, s.nonce), held: map[string]*simRun{}, slots: 3 + s.rng.IntN(4)}
	s.nonce++
	s.logf("executor %d starts as %s with %d slots", no, x.session, x.slots)
	s.execs[no] = x
	s.after(s.ms(300), x.connect)
	s.after(s.ms(1000), x.beat)
}

func (x *simExec) alive() bool { return x.s.execs[x.no] == x }

// defer_ waits while the executor is stopped.
func (x *simExec) awake(do func()) {
	if !x.alive() {
		return
	}
	if d := x.stopped.Sub(x.s.now); d > 0 {
		x.s.after(d, func() { x.awake(do) })
		return
	}
	do()
}

func (x *simExec) connect() {
	x.awake(func() {
		s := x.s
		if x.link != nil {
			return
		}
		if s.reg == nil || !s.reg.l.loaded || x.apart.After(s.now) || s.chance(10) {
			s.after(100*time.Millisecond+s.ms(400), x.connect)
			return
		}
		err := s.store.OpenSession(context.Background(), store.Session{ID: x.session, Host: fmt.Sprintf("exec-%d", x.no)}, s.now)
		if errors.Is(err, job.ErrConflict) {
			x.newSession()
			return
		}
		if err != nil {
			s.fatalf("open session: %v", err)
		}
		s.nonce++
		k := &simLink{x: x, reg: s.reg, id: fmt.Sprintf("stream-%d", s.nonce)}
		k.st = &Stream{d: s.reg.d, id: k.id, ready: make(chan struct{}, 1)}
		x.link, x.granted, x.since = k, 0, s.now
		h := Hello{
			Session: x.session, Stream: k.id, Host: fmt.Sprintf("exec-%d", x.no), ClosedStreams: slices.Clone(x.closed),
			Templates: []string{idempotentType, onceOnlyType}, Held: x.holdings(),
		}
		s.logf("executor %d opens %s holding %v", x.no, k.id, h.Held)
		k.up(func(l *loop) { l.openStream(k.st, h) })
		for _, id := range sortedKeys(x.held) {
			if r := x.held[id]; r.state == "ended" {
				x.send(&Inbound{Results: []Result{*r.result}})
			} else if r.state == "running" || !r.askedAt.IsZero() {
				x.sendStarted(r)
			}
		}
		x.grant()
	})
}

func (x *simExec) newSession() {
	s := x.s
	s.nonce++
	for _, r := range x.held {
		r.zombie = true
	}
	x.session = fmt.Sprintf("session-%d-%d", x.no, s.nonce)
	x.closed = nil
	s.logf("executor %d takes a new session %s", x.no, x.session)
	s.after(s.ms(50), x.connect)
}

func (x *simExec) holdings() []Holding {
	var h []Holding
	for _, id := range sortedKeys(x.held) {
		h = append(h, Holding{id, x.held[id].Token})
	}
	return h
}

// grant gives credits for the free slots.
func (x *simExec) grant() {
	if n := x.slots - len(x.held) - x.granted; n > 0 {
		x.granted += n
		x.send(&Inbound{Credits: n})
	}
}

func (x *simExec) send(in *Inbound) {
	if k := x.link; k != nil {
		k.up(func(l *loop) { l.inbound(k.st, in) })
	}
}

// up carries something to the registry, in order.
func (k *simLink) up(f func(*loop)) {
	s := k.x.s
	at := s.now.Add(s.ms(20))
	if at.Before(k.upAt) {
		at = k.upAt
	}
	k.upAt = at
	s.after(at.Sub(s.now), func() {
		if !k.broken {
			k.reg.event(f)
		}
	})
}

// flush carries what the registry has gathered to the executor, in order.
func (k *simLink) flush() {
	s := k.x.s
	if k.broken {
		return
	}
	for {
		out := k.st.take()
		if out == nil {
			break
		}
		at := s.now.Add(s.ms(20))
		if at.Before(k.downAt) {
			at = k.downAt
		}
		k.downAt = at
		s.after(at.Sub(s.now), func() { k.x.awake(func() { k.deliver(out) }) })
	}
	if err := k.st.ended(); err != nil && !k.flushing {
		k.flushing = true
		if errors.Is(err, ErrSessionEnded) {
			s.checkSilence(k)
		}
		s.after(s.ms(20), func() {
			k.x.awake(func() {
				ended := errors.Is(err, ErrSessionEnded)
				if k.x.link == k {
					k.cutBy(!ended)
					if ended {
						k.x.newSession()
					}
				}
			})
		})
	}
}

// cut breaks the transport: frames on their way are lost.
func (k *simLink) cut() { k.cutBy(true) }

func (k *simLink) cutBy(reconnect bool) {
	if k.broken {
		return
	}
	k.broken = true
	x := k.x
	x.closed = append(x.closed, k.id)
	if x.link == k {
		x.link = nil
	}
	s := x.s
	reg := k.reg
	s.after(s.ms(pick(s.rng, 50, 50, 15_000)), func() { reg.event(func(l *loop) { l.closeStream(k.st, errClosed) }) })
	if reconnect && x.alive() {
		s.after(100*time.Millisecond+s.ms(400), x.connect)
	}
}

func (k *simLink) deliver(out *Outbound) {
	x := k.x
	if k.broken || x.link != k {
		return
	}
	for _, a := range out.Assignments {
		k.last = max(k.last, a.Number)
		x.granted--
		if x.granted < 0 {
			x.s.fatalf("executor %d was assigned more than it granted", x.no)
		}
		x.assigned(a)
	}
	for _, h := range out.Go {
		if r := x.held[h.ID]; r != nil && r.Token == h.Token && r.state == "waiting" {
			if x.s.now.Sub(r.askedAt) > simTTL/2 {
				x.handBack(r)
				continue
			}
			x.run(r)
		}
	}
	for _, h := range out.Acknowledged {
		x.s.checkAcknowledged(h)
		if r := x.held[h.ID]; r != nil && r.Token == h.Token {
			delete(x.held, h.ID)
		}
	}
	for _, h := range out.Cancel {
		if r := x.held[h.ID]; r != nil && r.Token == h.Token && r.state != "ended" {
			x.finish(r, job.Cancelled)
		}
	}
	for _, h := range out.Stale {
		if r := x.held[h.ID]; r != nil && r.Token == h.Token {
			x.s.logf("executor %d drops stale %v", x.no, h)
			r.kill()
			delete(x.held, h.ID)
		}
	}
	x.grant()
}

func (x *simExec) assigned(a Assignment) {
	s := x.s
	if old := x.held[a.ID]; old != nil {
		if old.Token >= a.Token {
			s.fatalf("executor %d was assigned %s/%d beside %d", x.no, a.ID, a.Token, old.Token)
		}
		old.kill()
	}
	s.nonce++
	r := &simRun{Assignment: a, x: x, nonce: s.nonce, state: "waiting"}
	s.logf("executor %d gets %s/%d", x.no, a.ID, a.Token)
	x.held[a.ID] = r
	if s.chance(3) {
		x.handBack(r)
		return
	}
	r.askedAt = s.now
	if !a.AwaitGo {
		x.run(r)
	}
	x.sendStarted(r)
}

func (x *simExec) sendStarted(r *simRun) {
	r.askedAt = x.s.now
	x.send(&Inbound{Started: []Started{{Holding: Holding{r.ID, r.Token}, At: r.askedAt}}})
}

func (x *simExec) handBack(r *simRun) {
	r.state = "gone"
	delete(x.held, r.ID)
	x.send(&Inbound{HandedBack: []Holding{{r.ID, r.Token}}})
	x.grant()
}

// run starts the process of an attempt; it ends by itself, or by its time-out,
// even while its executor is stopped.
func (x *simExec) run(r *simRun) {
	s := x.s
	s.checkStart(r)
	r.state, r.began = "running", s.now
	s.runs = append(s.runs, r)
	s.logf("executor %d starts %s/%d", x.no, r.ID, r.Token)
	takes := s.ms(pick(s.rng, 30, 2_000, 20_000))
	status := job.Success
	if s.chance(15) {
		status = job.Failed
	}
	if takes > r.Timeout {
		takes, status = r.Timeout, job.TimedOut
	}
	s.after(takes, func() {
		if r.state != "running" {
			return
		}
		r.state, r.over = "ending", s.now
		x.awake(func() {
			if r.state == "ending" {
				x.finish(r, status)
			}
		})
	})
}

func (r *simRun) kill() {
	if r.state == "running" {
		r.over = r.x.s.now
	}
	r.state = "gone"
}

func (x *simExec) finish(r *simRun, status job.Status) {
	s := x.s
	if r.state == "running" {
		r.over = s.now
	}
	r.state = "ended"
	o := job.Outcome{Status: status, CompletedAt: s.now, StartedAt: r.began, Isolation: []string{"simulated"}}
	switch status {
	case job.Success:
		o.Result = fmt.Appendf(nil, `{"message":"done","nonce":%d}`, r.nonce)
	case job.Failed:
		o.Error, o.ErrorCode, o.Retryable = "simulated failure", "simulated", s.rng.IntN(3) > 0
		o.Crashed = s.chance(20)
	default:
		o.Error, o.ErrorCode = string(status), string(status)
	}
	r.result = &Result{Holding: Holding{r.ID, r.Token}, Outcome: o}
	s.logf("executor %d ends %s/%d as %s", x.no, r.ID, r.Token, status)
	x.send(&Inbound{
		Logs:    []*store.AppendLog{{ID: r.ID, Token: r.Token, Lines: []job.LogLine{{At: s.now, Level: "INFO", Message: "simulated"}}}},
		Results: []Result{*r.result},
	})
}

func (x *simExec) beat() {
	x.awake(func() {
		if k := x.link; k != nil {
			in := &Inbound{Heartbeat: &Heartbeat{LastNumber: k.last, Held: x.holdings()}}
			k.up(func(l *loop) {
				if k.st.open {
					if now := x.s.now; now.Sub(x.beaten) >= simTTL-time.Second {
						x.brokeAt = now
					}
					x.beaten = x.s.now
				}
				l.inbound(k.st, in)
			})
		}
		x.s.after(time.Second, x.beat)
	})
}

func (x *simExec) crash() {
	s := x.s
	s.logf("executor %d crashes", x.no)
	for _, r := range x.held {
		r.kill()
	}
	s.execs[x.no] = &simExec{s: s, no: x.no, held: map[string]*simRun{}}
	if x.link != nil {
		x.link.cutBy(false)
	}
	s.after(s.ms(pick(s.rng, 500, 10_000)), func() { s.startExec(x.no) })
}

// ---- administrators ----

// simJob is a job and what the model expects of it.
type simJob struct {
	id      string
	periods []simPeriod
	deleted time.Time
}

// simPeriod is a stretch in which each time of the schedule is to be covered.
type simPeriod struct {
	sched *schedule.Schedule
	after time.Time // exclusive
	until time.Time // inclusive; zero: still going on
}

func (s *sim) simSchedule() schedule.Spec {
	specs := []schedule.Spec{
		{Type: schedule.Interval, IntervalSeconds: int64(1 + s.rng.IntN(4))},
		{Type: schedule.Interval, IntervalSeconds: int64(2 + s.rng.IntN(6))},
		{Type: schedule.Interval, IntervalSeconds: int64(2 + s.rng.IntN(6))},
		{Type: schedule.Interval, IntervalSeconds: int64(1 + s.rng.IntN(4))},
		{Type: schedule.Interval, IntervalSeconds: int64(5 + s.rng.IntN(40))},
		{Type: schedule.Cron, Expression: "*/7 * * * * *", Timezone: "UTC"},
		{Type: schedule.Cron, Expression: "* * * * *", Timezone: "Europe/Berlin"},
		{Type: schedule.Manual},
	}
	at := s.now.Add(s.ms(120_000)).Truncate(time.Second)
	specs = append(specs, schedule.Spec{Type: schedule.Once, RunAt: &at})
	spec, err := schedule.Canonical(specs[s.rng.IntN(len(specs))])
	if err != nil {
		s.fatalf("schedule: %v", err)
	}
	return spec
}

func (s *sim) createJob() {
	j := &job.Job{
		ID: fmt.Sprintf("job_sim%d", len(s.jobs)), Name: fmt.Sprintf("job %d", len(s.jobs)),
		TemplateType: pick(s.rng, idempotentType, onceOnlyType), Parameters: json.RawMessage(`{}`), Schedule: s.simSchedule(),
		Enabled: s.rng.IntN(6) > 0, Timeout: time.Duration(2+s.rng.IntN(20)) * time.Second,
		Retry:        job.RetryPolicy{MaxRetries: s.rng.IntN(3), Delay: time.Duration(s.rng.IntN(15)) * time.Second},
		Missed:       pick(s.rng, job.MissedRunOnce, job.MissedSkip),
		Overlap:      pick(s.rng, job.OverlapForbid, job.OverlapAllow),
		Organisation: job.DefaultOrganisation, CreatedAt: s.now.Truncate(time.Millisecond), UpdatedAt: s.now, Version: 1,
	}
	sched, err := j.Compile()
	if err != nil {
		s.fatalf("compile: %v", err)
	}
	if j.Enabled {
		j.NextRunAt, _ = sched.Next(s.now)
	}
	if _, _, err := s.store.CreateJob(context.Background(), store.CreateJob{Job: j}); err != nil {
		s.fatalf("create job: %v", err)
	}
	s.logf("created %s %+v next %v", j.ID, j.Schedule, j.NextRunAt)
	m := &simJob{id: j.ID}
	if j.Enabled {
		m.periods = append(m.periods, simPeriod{sched: sched, after: s.now})
	}
	s.jobs = append(s.jobs, m)
	if s.reg != nil && s.rng.IntN(2) == 0 {
		s.reg.d.JobChanged(j)
		s.reg.pump()
	}
}

// settled reads a job and settles its fire times, as the API does before an
// edit.
func (s *sim) settled(m *simJob) *job.Job {
	j, err := s.store.Job(context.Background(), m.id)
	if err != nil {
		s.fatalf("read job: %v", err)
	}
	d := s.settler()
	if j, err = d.Settle(context.Background(), j, s.now); err != nil {
		s.fatalf("settle: %v", err)
	}
	return j
}

func (s *sim) settler() *Dispatcher {
	if s.reg != nil {
		return s.reg.d
	}
	return New(s.store, Config{Policy: simPolicy, SessionTTL: simTTL, Now: func() time.Time { return s.now }, Log: zap.NewNop()})
}

func (s *sim) editJob(m *simJob) {
	if !m.deleted.IsZero() {
		return
	}
	j := s.settled(m)
	after := j.Clone()
	after.Version++
	after.UpdatedAt = s.now
	again := false
	switch s.rng.IntN(4) {
	case 0:
		after.Description = fmt.Sprintf("edited at %v", s.now)
	case 1:
		after.Schedule, again = s.simSchedule(), true
	case 2:
		after.Enabled, again = !j.Enabled, true
	case 3:
		after.Overlap = pick(s.rng, job.OverlapForbid, job.OverlapAllow)
		after.Timeout = time.Duration(2+s.rng.IntN(20)) * time.Second
	}
	sched, err := after.Compile()
	if err != nil {
		s.fatalf("compile: %v", err)
	}
	if again {
		after.NextRunAt = time.Time{}
		if after.Enabled {
			after.NextRunAt, _ = sched.Next(s.now)
		}
	}
	_, err = s.store.EditJob(context.Background(), store.EditJob{Version: j.Version, NextRunAt: j.NextRunAt, After: after})
	if err != nil {
		s.fatalf("edit: %v", err)
	}
	s.logf("edited %s to v%d enabled=%v %+v next %v", m.id, after.Version, after.Enabled, after.Schedule, after.NextRunAt)
	if again {
		if n := len(m.periods); n > 0 && m.periods[n-1].until.IsZero() {
			m.periods[n-1].until = s.now
		}
		if after.Enabled {
			m.periods = append(m.periods, simPeriod{sched: sched, after: s.now})
		}
	}
	if s.reg != nil && s.rng.IntN(2) == 0 {
		s.reg.d.JobChanged(after)
		s.reg.pump()
	}
}

// pause disables a job for good.
func (s *sim) pause(m *simJob) {
	if !m.deleted.IsZero() {
		return
	}
	j := s.settled(m)
	after := j.Clone()
	after.Version++
	after.Enabled, after.NextRunAt = false, time.Time{}
	if _, err := s.store.EditJob(context.Background(), store.EditJob{Version: j.Version, NextRunAt: j.NextRunAt, After: after}); err != nil {
		s.fatalf("pause: %v", err)
	}
	if n := len(m.periods); n > 0 && m.periods[n-1].until.IsZero() {
		m.periods[n-1].until = s.now
	}
}

func (s *sim) deleteJob(m *simJob) {
	if !m.deleted.IsZero() {
		return
	}
	s.settled(m)
	if _, err := s.store.DeleteJob(context.Background(), m.id, 0, s.now, nil); err != nil {
		s.fatalf("delete: %v", err)
	}
	s.logf("deleted %s", m.id)
	m.deleted = s.now
	if n := len(m.periods); n > 0 && m.periods[n-1].until.IsZero() {
		m.periods[n-1].until = s.now
	}
}

func (s *sim) runNow(m *simJob) {
	if !m.deleted.IsZero() {
		return
	}
	j, err := s.store.Job(context.Background(), m.id)
	if err != nil {
		s.fatalf("read job: %v", err)
	}
	s.nonce++
	key := fmt.Sprintf("n%d", s.nonce)
	e := &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerManual, key), JobID: j.ID, JobVersion: j.Version, Trigger: job.TriggerManual, Key: key,
		TriggeredByUser: "sim", ScheduledFor: s.now, CreatedAt: s.now, Frozen: j.Freeze(simPolicy.Idempotent(j.TemplateType)),
		Status: job.Pending, WakeAt: s.now, Exclusive: j.Overlap == job.OverlapForbid,
	}
	e, _, err = s.store.RunNow(context.Background(), store.RunNow{Execution: e, Now: s.now})
	var held *job.SlotHeldError
	if errors.As(err, &held) {
		return
	}
	if err != nil {
		s.fatalf("run now: %v", err)
	}
	s.exclusive[e.ID] = e.Exclusive
	s.logf("run now %s", e.ID)
	if s.reg != nil && s.rng.IntN(2) == 0 {
		s.reg.d.Runnable(e)
		s.reg.pump()
	}
}

func (s *sim) cancel(m *simJob) {
	page, _, err := s.store.Executions(context.Background(), store.ExecutionFilter{
		JobID: m.id, Statuses: []job.Status{job.Pending, job.Running, job.Retrying}, Limit: 5,
	})
	if err != nil {
		s.fatalf("executions: %v", err)
	}
	if len(page) == 0 {
		return
	}
	e, err := s.store.RequestCancel(context.Background(), store.Cancel{ID: page[0].ID, Now: s.now})
	if err != nil {
		s.fatalf("cancel: %v", err)
	}
	s.logf("cancel %s: now %s", e.ID, e.Status)
	if _, ok := s.cancelled[e.ID]; !ok {
		s.cancelled[e.ID] = e.Token
	}
	if e.Status.Ended() {
		return
	}
	s.after(s.ms(pick(s.rng, 1, 3_000)), func() { // the store knows before the loop does
		if s.reg != nil {
			s.reg.d.CancelRequested(e)
			s.reg.pump()
		}
	})
}

// ---- the storm ----

func (s *sim) mischief() {
	if s.calm {
		return
	}
	m := s.jobs[s.rng.IntN(len(s.jobs))]
	x := s.execs[s.rng.IntN(len(s.execs))]
	switch n := s.rng.IntN(100); {
	case n < 14:
		s.editJob(m)
	case n < 26:
		s.runNow(m)
	case n < 40:
		s.cancel(m)
	case n < 42 && len(s.jobs) > 3:
		s.deleteJob(m)
	case n < 45:
		s.createJob()
	case n < 60:
		if x.link != nil {
			x.apart = s.now.Add(s.ms(pick(s.rng, 1, 3_000, 20_000)))
			s.logf("link of executor %d breaks", x.no)
			x.link.cut()
		}
	case n < 80:
		if x.session != "" && !x.stopped.After(s.now) {
			d := s.ms(pick(s.rng, 2_000, 9_000, 30_000))
			s.logf("executor %d stops for %v", x.no, d)
			x.stopped = s.now.Add(d)
			x.since = x.stopped
		}
	case n < 92:
		if x.session != "" {
			x.crash()
		}
	case n < 96:
		if r := s.reg; r != nil && !r.stop.After(s.now) {
			d := s.ms(pick(s.rng, 400, 30_000))
			s.logf("registry %d stops for %v", s.regNo, d)
			r.stop = s.now.Add(d)
			if d > maxSilence/2 { // a shorter one may pass unnoticed
				r.before, r.until = r.from, s.now
				r.from = r.stop
			}
		}
	default:
		s.crashRegistry()
	}
	s.after(s.ms(2_400), s.mischief)
}

func simulate(t *testing.T, seed uint64, trace bool) {
	st, err := sqlitestore.Open(t.Context(), t.TempDir(), sqlitestore.Options{Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	begin := time.Date(2026, 3, 29, 0, 57, 0, 0, time.UTC)
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, seed)), now: begin, begin: begin, store: st,
		execs: make([]*simExec, 3), exclusive: map[string]bool{}, seed: seed,
		cancelled: map[string]int64{}, wrong: map[Holding]time.Time{},
	}
	if trace {
		s.trace = &strings.Builder{}
	}
	for range 8 {
		s.createJob()
	}
	s.startRegistry()
	for no := range s.execs {
		s.startExec(no)
	}
	s.after(2*time.Second, s.mischief)
	s.after(time.Second, s.probe)
	s.run(begin.Add(simStorm))
	s.calm = true
	s.logf("the storm is over")
	// The jobs go on for a while, then stop, so that a backlog can drain.
	s.after(45*time.Second, func() {
		for _, m := range s.jobs {
			s.pause(m)
		}
	})
	s.run(begin.Add(simStorm + simSettle))
	if trace {
		t.Log("trace:\n" + s.trace.String())
	}
	s.check()
}

func (s *sim) run(until time.Time) {
	for s.queue.Len() > 0 && !s.queue[0].at.After(until) {
		e := heap.Pop(&s.queue).(simEvent)
		if e.at.After(s.now) {
			s.now = e.at
		}
		e.do()
	}
	s.now = until
}

// ---- the promises ----

// checkAcknowledged: what is acknowledged is durable, or no longer counts.
func (s *sim) checkAcknowledged(h Holding) {
	e, err := s.store.Execution(context.Background(), h.ID)
	if err != nil {
		s.fatalf("acknowledged %v cannot be read: %v", h, err)
	}
	if e.Token == h.Token && !e.Status.Ended() {
		s.fatalf("acknowledged %v is %s in the store", h, e.Status)
	}
}

// checkStart: what is not idempotent starts only after its start is durable.
func (s *sim) checkStart(r *simRun) {
	e, err := s.store.Execution(context.Background(), r.ID)
	if err != nil {
		s.fatalf("started %s cannot be read: %v", r.ID, err)
	}
	if r.AwaitGo && e.Token == r.Token && e.Status != job.Running && !e.Status.Ended() {
		s.fatalf("%s/%d starts while the store says %s", r.ID, r.Token, e.Status)
	}
	if token, ok := s.cancelled[r.ID]; ok && r.Token > token {
		s.fatalf("%s was cancelled under token %d and starts under %d", r.ID, token, r.Token)
	}
}

// checkSilence: a session is declared dead only if a registry that was there all
// the time heard nothing of it for the TTL.
func (s *sim) checkSilence(k *simLink) {
	r, x := k.reg, k.x
	heardNothing := func(from, until time.Time) bool {
		if x.beaten.After(from) && s.now.Sub(x.brokeAt) > 2*time.Second {
			from = x.beaten
		}
		return until.Sub(from) >= simTTL-maxSilence
	}
	if !heardNothing(r.before, r.until) && !heardNothing(r.from, s.now) {
		s.fatalf("executor %d was declared dead %v after its last beat, by a registry that is up for %v", x.no, s.now.Sub(x.beaten), s.now.Sub(r.from))
	}
}

// probe looks once a second for what should not last: a lease that its
// connected executor does not hold, and a cancelled run that it goes on with.
func (s *sim) probe() {
	const lasts = 8 * time.Second
	wrong := map[Holding]time.Time{}
	held, err := s.store.Held(context.Background(), nil, 10_000)
	if err != nil {
		s.fatalf("held: %v", err)
	}
	for _, e := range held {
		for _, x := range s.execs {
			if s.reg == nil || s.now.Sub(s.reg.from) < lasts || x.session != e.Session || x.link == nil || x.link.reg != s.reg || s.now.Sub(x.since) < lasts {
				continue
			}
			h := Holding{e.ID, e.Token}
			r := x.held[e.ID]
			if r != nil && r.Token == e.Token && (!e.CancelRequested || r.state == "ended") {
				continue
			}
			wrong[h] = s.now
			if since, ok := s.wrong[h]; ok {
				wrong[h] = since
			}
			if s.now.Sub(wrong[h]) > lasts {
				s.fatalf("%v is %s at executor %d (cancel requested: %v), which has been doing %+v since %v ago",
					h, e.Status, x.no, e.CancelRequested, r, s.now.Sub(wrong[h]))
			}
		}
	}
	s.wrong = wrong
	s.after(time.Second, s.probe)
}

func (s *sim) check() {
	nonces := map[int]*simRun{}
	for _, r := range s.runs {
		nonces[r.nonce] = r
	}
	total := 0
	for _, m := range s.jobs {
		records := s.records(m)
		total += len(records)
		s.checkCoverage(m, records)
		for _, e := range records {
			s.checkRecord(e, nonces)
		}
	}
	s.checkProcesses()
	if total < 50 || len(s.runs) < 30 {
		s.fatalf("only %d records and %d runs: the simulation shows nothing", total, len(s.runs))
	}
}

func (s *sim) records(m *simJob) []*job.Execution {
	var all []*job.Execution
	for {
		page, total, err := s.store.Executions(context.Background(), store.ExecutionFilter{JobID: m.id, Offset: len(all), Limit: 500})
		if err != nil {
			s.fatalf("executions: %v", err)
		}
		all = append(all, page...)
		if len(page) == 0 || len(all) == total {
			if len(all) != total {
				s.fatalf("%s: %d records, total says %d", m.id, len(all), total)
			}
			return all
		}
	}
}

// checkCoverage: every fire time of an enabled job is covered by exactly one
// record, and nothing else is recorded.
func (s *sim) checkCoverage(m *simJob, records []*job.Execution) {
	expected := map[int64]int{}
	for _, p := range m.periods {
		until := p.until
		if until.IsZero() {
			until = s.now.Add(-2 * time.Second) // later ones may be under way
		}
		for at, ok := p.sched.Next(p.after); ok && !at.After(until); at, ok = p.sched.Next(at) {
			expected[at.Unix()] = 0
		}
	}
	for _, e := range records {
		if e.Trigger != job.TriggerScheduler {
			continue
		}
		from, to, n := e.ScheduledFor, e.ScheduledFor, int64(0)
		if e.MissedCount > 0 {
			from, to = e.MissedFrom, e.MissedUntil
		}
		for at := from.Unix(); at <= to.Unix(); at++ {
			if _, ok := expected[at]; ok {
				expected[at]++
				n++
			} else if e.MissedCount == 0 && !e.ScheduledFor.After(s.now.Add(-2*time.Second)) {
				s.fatalf("%s: %s was never due", m.id, e.ID)
			}
		}
		if e.MissedCount > 0 && n != e.MissedCount {
			s.fatalf("%s: %s covers %d times and says %d", m.id, e.ID, n, e.MissedCount)
		}
	}
	for at, n := range expected {
		if n != 1 {
			s.fatalf("%s: %v is covered by %d records", m.id, time.Unix(at, 0).UTC(), n)
		}
	}
}

// checkRecord: nothing is stuck, and a result is the one reported under the
// record's own token.
func (s *sim) checkRecord(e *job.Execution, nonces map[int]*simRun) {
	old := s.now.Sub(e.CreatedAt) > 3*time.Minute
	if !e.Status.Ended() && old {
		s.fatalf("%s is stuck as %s (token %d, session %q, wake %v)", e.ID, e.Status, e.Token, e.Session, e.WakeAt)
	}
	if e.Status.Ended() && (e.Exclusive || !e.WakeAt.IsZero()) && old {
		s.fatalf("%s ended as %s and still holds its slot (wake %v)", e.ID, e.Status, e.WakeAt)
	}
	if e.Status.Ended() && e.CompletedAt.IsZero() {
		s.fatalf("%s ended as %s without a time", e.ID, e.Status)
	}
	if e.Status.Ended() && e.Status != job.Success && e.Reason == "" && e.Error == "" {
		s.fatalf("%s ended as %s without a reason", e.ID, e.Status)
	}
	if e.Status != job.Success {
		return
	}
	var result struct{ Nonce int }
	if err := json.Unmarshal(e.Result, &result); err != nil {
		s.fatalf("%s: result %q: %v", e.ID, e.Result, err)
	}
	if r := nonces[result.Nonce]; r == nil || r.ID != e.ID || r.Token != e.Token {
		s.fatalf("%s (token %d) has the result of %+v", e.ID, e.Token, r)
	}
}

// checkProcesses: no token runs twice; attempts of what is not idempotent never
// overlap, nor do runs of a job that forbids it, but for workers that were cut
// off (their session was declared dead) and run something idempotent.
func (s *sim) checkProcesses() {
	seen := map[Holding]bool{}
	byJob := map[string][]*simRun{}
	for _, r := range s.runs {
		h := Holding{r.ID, r.Token}
		if seen[h] {
			s.fatalf("%v was started twice", h)
		}
		seen[h] = true
		if r.over.IsZero() {
			r.over = s.now
		}
		byJob[r.JobID] = append(byJob[r.JobID], r)
	}
	for _, m := range s.jobs {
		runs := byJob[m.id]
		slices.SortFunc(runs, func(a, b *simRun) int { return a.began.Compare(b.began) })
		for i, a := range runs {
			for _, b := range runs[i+1:] {
				if !b.began.Before(a.over) {
					continue
				}
				if a.ID != b.ID && s.exclusive[a.ID] && s.exclusive[b.ID] && (a.AwaitGo || !a.cutOff() && !b.zombie) {
					s.fatalf("%s and %s ran at once, and their job forbids overlap", a.ID, b.ID)
				}
				if a.ID == b.ID && a.AwaitGo {
					s.fatalf("%s, not idempotent, ran under tokens %d and %d at once", a.ID, a.Token, b.Token)
				}
				if a.ID == b.ID && !a.cutOff() && !b.zombie {
					s.fatalf("%s ran under tokens %d and %d at once, and nobody was cut off", a.ID, a.Token, b.Token)
				}
			}
		}
	}
}

// cutOff tells whether the run's executor was silent for so long, or handed the
// run's session to another, that a successor was due.
func (r *simRun) cutOff() bool { return r.zombie || r.over.Sub(r.began) >= simTTL/2 }

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
