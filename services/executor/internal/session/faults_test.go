package session

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// TestRandomFaults drives a state through random work and faults on several
// streams and checks, against a small model of the registries, that nothing is
// lost, overlaps, or is promised twice, and that in the end every registry knows
// how many slots are free.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &world{bench: newBench(t, 5), random: rand.New(rand.NewPCG(seed, 7)), executions: map[string]*modelled{}, ended: map[string]*almanacv1.Lease{}}
			for range 600 {
				w.step()
				w.check()
			}
			w.settle()
		})
	}
}

// modelled is an execution in the eyes of the registries, which share a store.
type modelled struct {
	token    int64
	template string
	leased   bool // under token, to the session, over the stream as its number-th
	session  string
	stream   int64
	number   int64
	done     bool // a result is durable
	wentFor  int64
	chunks   map[int64]int32 // by token: how many were received in order
}

// pipe is a stream seen from its registry, and the two directions, each of which
// may lose what it holds when the stream breaks.
type pipe struct {
	st       *stream
	session  string
	up       []*almanacv1.LeaseRequest
	down     []*almanacv1.LeaseResponse
	credits  int
	number   int64
	welcomed bool
	broken   bool // and the registry has not noticed: it still reads, and leases into nothing
}

// world is the model of the registries.
type world struct {
	*bench
	random     *rand.Rand
	executions map[string]*modelled
	next       int
	pipes      []*pipe
	ended      map[string]*almanacv1.Lease // whose work ended with a result
}

func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.random.IntN(300)) * time.Millisecond)
	w.tick(w.now)
	p := w.anyPipe()
	switch action := w.random.IntN(13); {
	case action == 0 && len(w.streams) < 3:
		w.open()
	case action == 1 && p != nil && w.random.IntN(3) == 0:
		w.cut(p)
	case action == 2 && w.random.IntN(10) == 0:
		w.kill()
	case p == nil:
	case action < 5:
		if !p.broken && w.state.pending(p.st) {
			w.say(p)
		}
	case action < 7:
		if len(p.up) > 0 {
			f := p.up[0]
			p.up = p.up[1:]
			w.handle(p, f)
		}
	case action < 9:
		if len(p.down) > 0 {
			f := p.down[0]
			p.down = p.down[1:]
			w.received(p.st, f, w.now)
		}
	case action == 9:
		w.lease(p)
	case action == 10 && len(w.work) > 0:
		a := w.work[w.random.IntN(len(w.work))]
		result := success
		if w.killed[name(&a.lease)] != nil && w.random.IntN(2) == 0 {
			result = nil
		}
		if result != nil {
			w.ended[name(&a.lease)] = &a.lease
		}
		w.end(a.lease.ExecutionId, result)
	case action == 11 && len(w.work) > 0:
		w.happened([]event{{attempt: w.work[w.random.IntN(len(w.work))], line: &almanacv1.LogEntry{Message: "line"}}}, w.now)
	case action == 12:
		w.interfere(p)
	}
}

func (w *world) anyPipe() *pipe {
	if len(w.pipes) == 0 {
		return nil
	}
	return w.pipes[w.random.IntN(len(w.pipes))]
}

func (w *world) open() {
	w.pipes = append(w.pipes, &pipe{st: w.opened(), session: w.identity.GetSession()})
}

// cut breaks a stream. What is on its way is lost, or its registry has not
// noticed yet.
func (w *world) cut(p *pipe) {
	if !p.broken {
		w.state.lost(p.st)
	}
	p.broken = true
	if w.random.IntN(2) == 0 {
		w.pipes = slices.DeleteFunc(w.pipes, func(other *pipe) bool { return other == p })
	}
}

// kill is that a registry declares the session dead: its streams end everywhere,
// and some of its leases are taken back before the next hello.
func (w *world) kill() {
	w.died()
	w.pipes = nil
	for _, e := range w.executions {
		if w.random.IntN(2) == 0 {
			e.leased = false
		}
	}
}

// say puts a frame on its way.
func (w *world) say(p *pipe) {
	f := proto.CloneOf(w.state.frame(p.st, w.now))
	p.up = append(p.up, f)
	for _, said := range []struct {
		held     []*almanacv1.Lease
		holdings *almanacv1.Holdings
	}{{f.GetHello().GetHeld(), f.GetHello().GetHoldings()}, {f.GetHeartbeat().GetHeld(), f.GetHeartbeat().GetHoldings()}} {
		if said.holdings == nil {
			continue
		}
		all := []string{}
		for key, a := range w.attempts {
			all = append(all, name(lease(key, a.lease.Token)))
		}
		slices.Sort(all)
		w.expect("said to be held", names(slices.Concat(said.held, said.holdings.GetElsewhere())), all)
		if !slices.Contains(said.holdings.GetOpenStreams(), p.st.name()) || len(said.holdings.GetOpenStreams()) != len(w.streams) {
			w.t.Fatalf("open streams %v", said.holdings.GetOpenStreams())
		}
	}
}

// lease assigns a new execution, or one whose lease was given up.
func (w *world) lease(p *pipe) {
	if !p.welcomed || p.credits <= 0 {
		return
	}
	key, e := w.pick()
	if e == nil || e.leased || e.done {
		w.next++
		key, e = fmt.Sprintf("e%d", w.next), &modelled{template: []string{idem, single}[w.random.IntN(2)], chunks: map[int64]int32{}}
		w.executions[key] = e
	}
	e.token++
	p.credits--
	p.number++
	e.leased, e.session, e.stream, e.number = true, p.session, p.st.ordinal, p.number
	m := w.assignment(key, e.token, e.template)
	m.Number = p.number
	p.down = append(p.down, &almanacv1.LeaseResponse{Assignments: []*almanacv1.Assignment{m}})
}

// pick returns an execution at random, or nil.
func (w *world) pick() (string, *modelled) {
	keys := slices.Sorted(maps.Keys(w.executions))
	if len(keys) == 0 {
		return "", nil
	}
	key := keys[w.random.IntN(len(keys))]
	return key, w.executions[key]
}

// interfere cancels a run or declares its token stale, over any stream.
func (w *world) interfere(p *pipe) {
	key, e := w.pick()
	if e == nil || !p.welcomed || !e.leased || e.done {
		return
	}
	if w.random.IntN(2) == 0 {
		p.down = append(p.down, &almanacv1.LeaseResponse{Cancel: []*almanacv1.Lease{lease(key, e.token)}})
		return
	}
	p.down = append(p.down, &almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease(key, e.token)}})
	e.leased = false
}

// settled gives up the leases that are not held and never will be, and names the
// held that are stale.
func (w *world) settled(p *pipe, held []*almanacv1.Lease, h *almanacv1.Holdings, received int64) (stale []*almanacv1.Lease) {
	all := map[string]bool{}
	for _, l := range slices.Concat(held, h.GetElsewhere()) {
		all[name(l)] = true
		e := w.executions[l.GetExecutionId()]
		switch {
		case e.token != l.GetToken() || e.done || !e.leased:
			stale = append(stale, l)
		case e.session != p.session:
			e.session, e.stream, e.number = p.session, 0, 0
		}
	}
	for key, e := range w.executions {
		closed := e.stream <= h.GetLastStream() && !slices.Contains(h.GetOpenStreams(), fmt.Sprint(e.stream))
		if e.leased && !all[name(lease(key, e.token))] && (e.session != p.session || closed || e.stream == p.st.ordinal && e.number <= received) {
			e.leased = false
		}
	}
	return stale
}

// handle is what a registry does with a frame.
func (w *world) handle(p *pipe, f *almanacv1.LeaseRequest) {
	answer := &almanacv1.LeaseResponse{}
	if hello := f.GetHello(); hello != nil {
		answer.Welcome = &almanacv1.Welcome{SessionTtlMilliseconds: 5000}
		p.welcomed = true
		answer.Stale = w.settled(p, hello.GetHeld(), hello.GetHoldings(), 0)
	}
	for _, chunk := range f.GetLogs() {
		e := w.executions[chunk.GetExecutionId()]
		if chunk.GetNumber() > e.chunks[chunk.GetToken()] {
			w.t.Fatalf("chunk %d of %s came before %d", chunk.GetNumber(), chunk.GetExecutionId(), e.chunks[chunk.GetToken()])
		}
		e.chunks[chunk.GetToken()] = max(e.chunks[chunk.GetToken()], chunk.GetNumber()+1)
	}
	for _, s := range f.GetStarted() {
		e := w.executions[s.GetExecutionId()]
		if e.template == single && e.leased && e.token == s.GetToken() {
			e.wentFor = e.token
			answer.Go = append(answer.Go, &almanacv1.Go{ExecutionId: s.GetExecutionId(), Token: s.GetToken()})
		}
	}
	for _, r := range f.GetResults() {
		e := w.executions[r.GetExecutionId()]
		answer.Acknowledged = append(answer.Acknowledged, lease(r.GetExecutionId(), r.GetToken()))
		if e.token == r.GetToken() {
			e.done, e.leased = true, false
		}
	}
	for _, l := range f.GetHandedBack() {
		if e := w.executions[l.GetExecutionId()]; e.token == l.GetToken() {
			e.leased = false
		}
	}
	if beat := f.GetHeartbeat(); beat != nil {
		answer.Beat = !beat.GetReportOnly()
		answer.Stale = append(answer.Stale, w.settled(p, beat.GetHeld(), beat.GetHoldings(), beat.GetLastNumber())...)
	}
	p.credits += int(f.GetCredits())
	p.down = append(p.down, answer)
}

// check holds after every step.
func (w *world) check() {
	w.t.Helper()
	if w.used > w.slots || w.used != len(w.attempts)+len(w.dying) {
		w.t.Fatalf("%d of %d slots used for %d attempts and %d dying", w.used, w.slots, len(w.attempts), len(w.dying))
	}
	for _, p := range w.pipes {
		if p.broken {
			continue
		}
		known := p.credits
		for _, f := range p.up {
			known += int(f.GetCredits())
		}
		for _, f := range p.down {
			known += len(f.GetAssignments())
		}
		if known != p.st.granted {
			w.t.Fatalf("stream %s: the registry will know of %d free slots, and %d are granted", p.st.name(), known, p.st.granted)
		}
	}
	for key, a := range w.attempts {
		if a.home == nil && len(w.streams) > 0 || a.home != nil && a.home.closed {
			w.t.Fatalf("%s has no open home", key)
		}
	}
	alive := map[string]bool{}
	for _, a := range w.work {
		if alive[a.lease.ExecutionId] {
			w.t.Fatalf("two attempts of %s at work", a.lease.ExecutionId)
		}
		alive[a.lease.ExecutionId] = true
		if e := w.executions[a.lease.ExecutionId]; e.template == single && e.wentFor < a.lease.Token {
			w.t.Fatalf("%s began without a go-ahead", name(&a.lease))
		}
	}
	// A result that is current in the registries' eyes is kept until it is durable.
	for key, e := range w.executions {
		if a := w.attempts[key]; a != nil && a.phase == ended && a.result == nil {
			w.t.Fatalf("%s ended without a result", key)
		} else if a != nil && a.lease.Token == e.token && e.done && a.phase == running {
			w.t.Fatalf("%s is done at the registries and runs here", key)
		}
	}
	for id, a := range w.ended {
		e := w.executions[a.GetExecutionId()]
		if e.token == a.GetToken() && e.leased && !e.done && w.held(a.GetExecutionId(), a.GetToken()) == nil && w.killed[id] == nil {
			w.t.Fatalf("the result of %s was forgotten", id)
		}
	}
}

// settle lets everything calm down: all work ends, all frames arrive, and every
// lease must then be settled.
func (w *world) settle() {
	w.pipes = slices.DeleteFunc(w.pipes, func(p *pipe) bool { return p.broken })
	for len(w.streams) < 2 {
		w.open()
	}
	for range 50 {
		w.now = w.now.Add(200 * time.Millisecond)
		w.tick(w.now)
		for len(w.work) > 0 {
			w.end(w.work[0].lease.ExecutionId, success)
		}
		for _, p := range w.pipes {
			for w.state.pending(p.st) {
				w.say(p)
			}
			for _, f := range p.up {
				w.handle(p, f)
			}
			p.up = nil
			for _, f := range p.down {
				w.received(p.st, f, w.now)
			}
			p.down = nil
			w.check()
		}
	}
	if w.used != 0 {
		w.t.Fatalf("%d slots are still used: %v, dying %v", w.used, w.attempts, w.dying)
	}
	for key, e := range w.executions {
		if e.leased {
			w.t.Errorf("%s/%d is leased and nobody holds it", key, e.token)
		}
	}
	for _, p := range w.pipes {
		if w.state.pending(p.st) {
			w.t.Errorf("never calm: %v", w.state.frame(p.st, w.now))
		}
		if p.credits != w.slots {
			w.t.Errorf("credits %d at the end on stream %s, want %d", p.credits, p.st.name(), w.slots)
		}
	}
}
