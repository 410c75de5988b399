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
	limitedType    = "limited" // idempotent, limitOf runs at once
	limitOf        = 2
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
	regs      []*simRegistry // nil while one is down
	lives     int            // of registries so far
	execs     []*simExec
	jobs      []*simJob
	runs      []*simRun
	exclusive map[string]bool       // executions that were recorded with their job's slot
	cancelled map[string]int64      // the token under which a cancellation was accepted
	wrong     map[Holding]time.Time // what should not last, and since when it does
	selectors map[string]string     // of jobs
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

// simRegistry is one life of a registry process.
type simRegistry struct {
	s             *sim
	no            int
	life          int
	d             *Dispatcher
	l             *loop
	dead          bool
	from          time.Time // when it had read what is leased, or woke from its last stop
	stop          time.Time // until then the process is stopped
	before, until time.Time // the stretch before the last stop
	wake          time.Time
}

func (s *sim) startRegistry(no int) {
	s.lives++
	s.logf("registry %d starts its life %d", no, s.lives)
	cfg := Config{Policy: simPolicy, SessionTTL: simTTL, Now: func() time.Time { return s.now }, Log: zap.NewNop()}
	if len(s.regs) > 1 {
		cfg.Replica = store.Replica{ID: fmt.Sprintf("registry-%d-%d", no, s.lives), Name: "sim", OpenedAt: s.now}
	}
	d := New(s.store, cfg)
	d.events = make(chan func(*loop), 1<<16)
	r := &simRegistry{s: s, no: no, life: s.lives, d: d, l: d.loop}
	s.regs[no] = r
	s.after(0, r.pump)
}

// someRegistry returns one that is up, or nil.
func (s *sim) someRegistry() *simRegistry { return s.regs[s.rng.IntN(len(s.regs))] }

var simPolicy = Policy{
	MissedAfter: time.Minute,
	Idempotent:  func(t string) bool { return t != onceOnlyType },
	MaxConcurrency: func(t string) int {
		if t == limitedType {
			return limitOf
		}
		return 0
	},
}

func (s *sim) crashRegistry(r *simRegistry) {
	if r == nil {
		return
	}
	s.logf("registry %d crashes", r.no)
	r.dead = true
	for _, x := range s.execs {
		if k := x.links[r.no]; k != nil {
			k.cut()
		}
	}
	s.regs[r.no] = nil
	s.after(s.ms(pick(s.rng, 500, 8_000, 100_000)), func() { s.startRegistry(r.no) })
}

// leave is the orderly end of a registry.
func (s *sim) leave(r *simRegistry) {
	if r == nil || r.l.fleet == nil {
		return
	}
	if err := s.store.DropReplica(context.Background(), r.l.fleet.self); err != nil {
		s.fatalf("leave: %v", err)
	}
	s.crashRegistry(r)
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
				b.answers = s.do(r, b.ops)
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
		if k := x.links[r.no]; k != nil && k.reg == r {
			k.flush()
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
func (s *sim) do(r *simRegistry, ops []store.Op) []store.Answer {
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
		if o, ok := ops[i].(*store.EndSession); ok && a.Outcome == store.Done {
			s.checkSilence(r, o.Session)
		}
		if o, ok := ops[i].(*store.Beat); ok && a.Outcome == store.Done {
			s.beaten(o.Session)
		}
		if f, ok := ops[i].(*store.Fire); ok {
			if a.Outcome == store.Done {
				s.exclusive[f.Execution.ID] = f.Execution.Exclusive
			}
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
	s        *sim
	no       int
	session  string
	zone     string             // its label
	links    map[int]*simLink   // by registry
	streams  int                // ordinal of the latest
	held     map[string]*simRun // by execution id
	slots    int
	stopped  time.Time // until then the process is stopped
	apart    time.Time // until then the network does not carry it
	since    time.Time // since when it is awake and connected everywhere
	beatOver int       // the registry that is asked to write its beats
	beatSent time.Time // the oldest that was not answered
	count    int64     // its beat counter in the store
	beaten   time.Time // when that last grew
	brokeAt  time.Time // when it grew after a long silence
}

// simRun is one attempt as its executor sees it.
type simRun struct {
	Assignment
	x       *simExec
	home    *simLink
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
	offered  int // credits sent, less the assignments received
	flushing bool
}

func (s *sim) startExec(no int) {
	x := &simExec{
		s: s, no: no, session: fmt.Sprintf("session-%d-%d", no, s.nonce), zone: string(rune('a' + no%2)), links: map[int]*simLink{},
		held: map[string]*simRun{}, slots: 3 + s.rng.IntN(4), since: s.now,
	}
	s.nonce++
	s.logf("executor %d starts as %s with %d slots", no, x.session, x.slots)
	s.execs[no] = x
	for reg := range s.regs {
		s.after(s.ms(300), func() { x.connect(reg) })
	}
	s.after(s.ms(1000), x.beat)
}

func (x *simExec) alive() bool { return x.s.execs[x.no] == x }

// awake waits while the executor is stopped.
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

func (x *simExec) connect(no int) {
	x.awake(func() {
		s := x.s
		if x.links[no] != nil {
			return
		}
		reg := s.regs[no]
		if reg == nil || !reg.l.loaded || x.apart.After(s.now) || s.chance(10) {
			s.after(100*time.Millisecond+s.ms(400), func() { x.connect(no) })
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
		x.streams++
		k := &simLink{x: x, reg: reg, id: strconv.Itoa(x.streams)}
		k.st = &Stream{d: reg.d, id: k.id, ready: make(chan struct{}, 1)}
		x.links[no], x.since = k, s.now
		for _, r := range x.held {
			if r.home == nil {
				r.home = k
			}
		}
		h := Hello{
			Session: x.session, Stream: k.id, Host: fmt.Sprintf("exec-%d", x.no), Labels: map[string]string{"zone": x.zone},
			Templates: []string{idempotentType, limitedType, onceOnlyType, mailTemplate, channelTemplate},
		}
		h.Held, h.Holdings = x.holdings(k)
		s.logf("executor %d opens %s/%s to registry %d holding %v", x.no, x.session, k.id, no, h.Held)
		k.up(func(l *loop) { l.openStream(k.st, h) })
		x.sayAgain(k)
		x.grant()
	})
}

// sayAgain repeats what may not have arrived of the attempts at home on a stream.
func (x *simExec) sayAgain(k *simLink) {
	for _, id := range sortedKeys(x.held) {
		switch r := x.held[id]; {
		case r.home != k:
		case r.state == "ended":
			k.send(&Inbound{Results: []Result{*r.result}})
		case r.state == "running" || !r.askedAt.IsZero():
			x.sendStarted(r)
		}
	}
}

func (x *simExec) newSession() {
	s := x.s
	s.nonce++
	for _, r := range x.held {
		r.zombie = true
	}
	x.session = fmt.Sprintf("session-%d-%d", x.no, s.nonce)
	x.streams, x.count, x.beatSent = 0, 0, time.Time{}
	s.logf("executor %d takes a new session %s", x.no, x.session)
	for no := range s.regs {
		if k := x.links[no]; k != nil {
			k.cutBy(false)
		}
		s.after(s.ms(50), func() { x.connect(no) })
	}
}

// holdings lists what is at home on the stream, and everything else.
func (x *simExec) holdings(k *simLink) ([]Holding, Holdings) {
	var here []Holding
	all := Holdings{LastStream: int64(x.streams)}
	for _, id := range sortedKeys(x.held) {
		h := Holding{id, x.held[id].Token}
		if x.held[id].home == k {
			here = append(here, h)
		} else {
			all.Elsewhere = append(all.Elsewhere, h)
		}
	}
	for no := range x.s.regs {
		if l := x.links[no]; l != nil {
			all.OpenStreams = append(all.OpenStreams, l.id)
		}
	}
	return here, all
}

// grant offers the free slots on every stream.
func (x *simExec) grant() {
	free := x.slots - len(x.held)
	for no := range x.s.regs {
		if k := x.links[no]; k != nil && k.offered != free {
			in := &Inbound{Credits: free - k.offered}
			k.offered = free
			k.send(in)
		}
	}
}

func (k *simLink) send(in *Inbound) {
	if k != nil {
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
		s.after(s.ms(20), func() {
			k.x.awake(func() {
				ended := errors.Is(err, ErrSessionEnded)
				if k.x.links[k.reg.no] == k {
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
	s := x.s
	reg := k.reg
	if x.links[reg.no] == k {
		delete(x.links, reg.no)
	}
	var home *simLink
	for no := range s.regs {
		if other := x.links[no]; other != nil {
			home = other
		}
	}
	for _, r := range x.held {
		if r.home == k {
			r.home = home
		}
	}
	if home != nil && reconnect {
		x.awake(func() {
			if !home.broken {
				x.sayAgain(home)
			}
		})
	}
	s.after(s.ms(pick(s.rng, 50, 50, 15_000)), func() { reg.event(func(l *loop) { l.closeStream(k.st, errClosed) }) })
	if reconnect && x.alive() {
		s.after(100*time.Millisecond+s.ms(400), func() { x.connect(reg.no) })
	}
}

func (k *simLink) deliver(out *Outbound) {
	x := k.x
	if k.broken {
		return
	}
	if out.Beat {
		x.beatSent = time.Time{}
	}
	for _, a := range out.Assignments {
		k.last = max(k.last, a.Number)
		k.offered--
		x.assigned(k, a)
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

func (x *simExec) assigned(k *simLink, a Assignment) {
	s := x.s
	if selector := s.selectors[a.JobID]; !job.Selects(selector, map[string]string{"zone": x.zone}) {
		s.fatalf("executor %d in zone %s was assigned %s, which wants %s", x.no, x.zone, a.ID, selector)
	}
	if old := x.held[a.ID]; old != nil {
		if old.Token > a.Token {
			return // overtaken
		}
		if old.Token == a.Token {
			s.fatalf("executor %d was assigned %s/%d twice", x.no, a.ID, a.Token)
		}
		old.kill()
		delete(x.held, a.ID)
	}
	if len(x.held) >= x.slots {
		s.logf("executor %d is full and hands back %s/%d", x.no, a.ID, a.Token)
		k.send(&Inbound{HandedBack: []Holding{{a.ID, a.Token}}})
		return
	}
	s.nonce++
	r := &simRun{Assignment: a, x: x, home: k, nonce: s.nonce, state: "waiting"}
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
	r.home.send(&Inbound{Started: []Started{{Holding: Holding{r.ID, r.Token}, At: r.askedAt}}})
}

func (x *simExec) handBack(r *simRun) {
	r.state = "gone"
	delete(x.held, r.ID)
	r.home.send(&Inbound{HandedBack: []Holding{{r.ID, r.Token}}})
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
	r.home.send(&Inbound{
		Logs:    []*store.AppendLog{{ID: r.ID, Token: r.Token, Lines: []job.LogLine{{At: s.now, Level: "INFO", Message: "simulated"}}}},
		Results: []Result{*r.result},
	})
}

// beat says on every stream what is held, and asks one registry to write the
// beat; another, when it does not answer.
func (x *simExec) beat() {
	x.awake(func() {
		s := x.s
		if x.links[x.beatOver] == nil || !x.beatSent.IsZero() && s.now.Sub(x.beatSent) > simTTL/2 {
			for n := range s.regs {
				if no := (x.beatOver + 1 + n) % len(s.regs); x.links[no] != nil {
					x.beatOver, x.beatSent = no, time.Time{}
					break
				}
			}
		}
		for no := range s.regs {
			k := x.links[no]
			if k == nil {
				continue
			}
			h := &Heartbeat{LastNumber: k.last, Running: len(x.held), ReportOnly: no != x.beatOver}
			h.Held, h.Holdings = x.holdings(k)
			if !h.ReportOnly && x.beatSent.IsZero() {
				x.beatSent = s.now
			}
			k.send(&Inbound{Heartbeat: h})
		}
		s.after(time.Second, x.beat)
	})
}

// beaten takes in that a beat was written.
func (s *sim) beaten(session string) {
	for _, x := range s.execs {
		if x.session != session {
			continue
		}
		all, err := s.store.Sessions(context.Background())
		if err != nil {
			s.fatalf("sessions: %v", err)
		}
		for _, seen := range all {
			if seen.ID == session && seen.Count > x.count {
				if s.now.Sub(x.beaten) >= simTTL-time.Second {
					x.brokeAt = s.now
				}
				x.count, x.beaten = seen.Count, s.now
			}
		}
	}
}

func (x *simExec) crash() {
	s := x.s
	s.logf("executor %d crashes", x.no)
	for _, r := range x.held {
		r.kill()
	}
	s.execs[x.no] = &simExec{s: s, no: x.no, held: map[string]*simRun{}}
	for no := range s.regs {
		if k := x.links[no]; k != nil {
			k.cutBy(false)
		}
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
		TemplateType: pick(s.rng, idempotentType, idempotentType, onceOnlyType, onceOnlyType, limitedType), Parameters: json.RawMessage(`{}`), Schedule: s.simSchedule(),
		Enabled: s.rng.IntN(6) > 0, Timeout: time.Duration(2+s.rng.IntN(20)) * time.Second,
		Retry:        job.RetryPolicy{MaxRetries: s.rng.IntN(3), Delay: time.Duration(s.rng.IntN(15)) * time.Second},
		Missed:       pick(s.rng, job.MissedRunOnce, job.MissedSkip),
		Overlap:      pick(s.rng, job.OverlapForbid, job.OverlapAllow),
		Organisation: pick(s.rng, "one", "one", "two"), Priority: s.rng.IntN(3), CreatedAt: s.now.Truncate(time.Millisecond), UpdatedAt: s.now, Version: 1,
	}
	if s.rng.IntN(3) == 0 {
		j.Notifications = job.Notifications{OnSuccess: []string{"all@example.com"}, OnFailure: []string{"ops@example.com", "channel:ops"}}
	}
	if s.rng.IntN(4) == 0 {
		j.Selector = map[string]string{"zone": pick(s.rng, "a", "b")}
	}
	s.selectors[j.ID] = job.Selector(j.Selector)
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
	if r := s.someRegistry(); r != nil && s.rng.IntN(2) == 0 {
		r.d.JobChanged(j)
		r.pump()
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
	if r := s.someRegistry(); r != nil {
		return r.d
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
	if r := s.someRegistry(); r != nil && s.rng.IntN(2) == 0 {
		r.d.JobChanged(after)
		r.pump()
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
	r := s.someRegistry()
	var lease *job.Execution
	var st *Stream
	if r != nil && !r.stop.After(s.now) && s.rng.IntN(3) > 0 {
		if lease, st = r.l.reserve(e); lease != nil {
			e = lease
		}
	}
	s.after(s.ms(10), func() {
		if r != nil && r.dead && s.rng.IntN(2) == 0 {
			return // died before it was written
		}
		var stored *job.Execution
		err := fmt.Errorf("simulated: %w", job.ErrUnavailable)
		if !s.chance(5) {
			stored, _, err = s.store.RunNow(context.Background(), store.RunNow{Execution: e, Now: s.now})
			var held *job.SlotHeldError
			switch {
			case errors.As(err, &held), errors.Is(err, job.ErrNotFound):
			case err != nil:
				s.fatalf("run now: %v", err)
			default:
				s.exclusive[e.ID] = e.Exclusive
				s.logf("run now %s as %s/%d", e.ID, e.Status, e.Token)
				if s.chance(5) {
					err = fmt.Errorf("simulated: %w", job.ErrUnavailable)
				}
			}
		}
		if lease != nil {
			s.after(s.ms(10), func() { r.event(func(l *loop) { l.accepted(lease, st, stored, err) }) })
		} else if r != nil && err == nil && s.rng.IntN(2) == 0 {
			r.d.runnable(stored)
			r.pump()
		}
	})
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
		if r := s.someRegistry(); r != nil {
			r.d.CancelRequested(e)
			r.pump()
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
		k := x.links[s.rng.IntN(len(s.regs))]
		if k == nil {
			break
		}
		if len(s.regs) > 1 && s.rng.IntN(2) == 0 {
			s.logf("the link of executor %d to registry %d breaks", x.no, k.reg.no)
			k.cut()
			break
		}
		x.apart = s.now.Add(s.ms(pick(s.rng, 1, 3_000, 20_000)))
		s.logf("the links of executor %d break", x.no)
		for no := range s.regs {
			if k := x.links[no]; k != nil {
				k.cut()
			}
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
		if r := s.someRegistry(); r != nil && !r.stop.After(s.now) {
			d := s.ms(pick(s.rng, 400, 30_000))
			s.logf("registry %d stops for %v", r.no, d)
			r.stop = s.now.Add(d)
			if d > maxSilence/2 { // a shorter one may pass unnoticed
				r.before, r.until = r.from, s.now
				r.from = r.stop
			}
		}
	case n < 98:
		s.leave(s.someRegistry())
	default:
		s.crashRegistry(s.someRegistry())
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
		execs: make([]*simExec, 3), regs: make([]*simRegistry, 1+seed%3), exclusive: map[string]bool{}, seed: seed, selectors: map[string]string{},
		cancelled: map[string]int64{}, wrong: map[Holding]time.Time{},
	}
	if trace {
		s.trace = &strings.Builder{}
	}
	for _, system := range SystemJobs(begin) {
		if _, _, err := st.CreateJob(t.Context(), store.CreateJob{Job: system}); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		s.createJob()
	}
	for no := range s.regs {
		s.startRegistry(no)
	}
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

// checkSilence: a session is declared dead only by a registry that was there all
// the time and saw no beat of it for the TTL.
func (s *sim) checkSilence(r *simRegistry, session string) {
	for _, x := range s.execs {
		if x.session != session {
			continue
		}
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
}

// probe looks once a second for what should not last: a lease that its
// connected executor does not hold, and a cancelled run that it goes on with.
func (s *sim) probe() {
	lasts := 8 * time.Second
	if len(s.regs) > 1 {
		lasts = 3 * settleEvery // what one registry leased and another has to settle
	}
	wrong := map[Holding]time.Time{}
	held, err := s.store.Held(context.Background(), nil, nil, 10_000)
	if err != nil {
		s.fatalf("held: %v", err)
	}
	up := !slices.ContainsFunc(s.regs, func(r *simRegistry) bool { return r == nil || s.now.Sub(r.from) < lasts })
	for _, e := range held {
		for _, x := range s.execs {
			if !up || x.session != e.Session || len(x.links) < len(s.regs) || s.now.Sub(x.since) < lasts {
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
	s.checkNotifications(nonces)
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

// checkNotifications: everybody is told of each end once, and nobody of anything
// else; and the telling ends.
func (s *sim) checkNotifications(nonces map[int]*simRun) {
	wanted, allowed := map[string]bool{}, map[string]bool{}
	for _, m := range s.jobs {
		for _, e := range s.records(m) {
			for _, id := range NotificationIDs(e) {
				allowed[id] = true
			}
			var before job.Status
			if e.Status == job.Success || failure(e.Status) {
				for _, f := range simPolicy.followUps(e, before, nil, s.now) {
					wanted[f.ID] = true
				}
			}
		}
	}
	if len(wanted) < 5 {
		s.fatalf("only %d notifications were called for: the simulation shows nothing of them", len(wanted))
	}
	for _, e := range s.records(&simJob{id: job.NotificationsID}) {
		if !allowed[e.ID] {
			s.fatalf("nobody asked for %s", e.ID)
		}
		delete(wanted, e.ID)
		s.checkRecord(e, nonces)
	}
	for id := range wanted {
		s.fatalf("%s was never sent", id)
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
	s.checkLimit()
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

// checkLimit: a template's own limit holds, save for workers that were cut off.
func (s *sim) checkLimit() {
	var runs []*simRun
	for _, r := range s.runs {
		if r.TemplateType == limitedType && !r.cutOff() && r.over.After(r.began) {
			runs = append(runs, r)
		}
	}
	for _, r := range runs {
		n := 0
		for _, o := range runs {
			if !o.began.After(r.began) && o.over.After(r.began) {
				n++
			}
		}
		if n > limitOf {
			s.fatalf("%d runs of a template that is limited to %d at %v", n, limitOf, r.began)
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
