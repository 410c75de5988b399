package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// bench holds a state whose work is done by the test. Its own methods are about
// the stream that was opened last.
type bench struct {
	*state
	st     *stream
	t      *testing.T
	now    time.Time
	number int64
	ids    int
	work   []*attempt       // begun, in order
	killed map[string]error // by lease: why its work was ended
}

const (
	idem   = "idem"   // an idempotent template
	single = "single" // one that is not
)

func newBench(t *testing.T, slots int) *bench {
	b := &bench{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), killed: map[string]error{}}
	inbox := newInbox(func() time.Time { return b.now })
	b.state = &state{
		identity:  &almanacv1.Hello{Session: "session-0", Host: "here"},
		templates: map[string]Template{idem: {Descriptor: template.Descriptor{Idempotent: true}, Isolation: []string{"process"}}, single: {}},
		slots:     slots, limits: limits{lines: 1000, bytes: 1 << 20}, inbox: inbox, logger: zap.NewNop(), ttl: firstTTL,
		attempts: map[string]*attempt{}, dying: map[string]*attempt{},
	}
	b.newID = func() string { b.ids++; return fmt.Sprintf("id-%d", b.ids) }
	b.start = func(a *attempt) {
		b.work = append(b.work, a)
		a.cancel = func(why error) { b.killed[name(&a.lease)] = why }
	}
	return b
}

func name(l *almanacv1.Lease) string { return fmt.Sprintf("%s/%d", l.GetExecutionId(), l.GetToken()) }

func names(leases []*almanacv1.Lease) []string {
	all := []string{}
	for _, l := range leases {
		all = append(all, name(l))
	}
	slices.Sort(all)
	return all
}

func lease(execution string, token int64) *almanacv1.Lease {
	return &almanacv1.Lease{ExecutionId: execution, Token: token}
}

func (b *bench) assignment(execution string, token int64, templateType string) *almanacv1.Assignment {
	b.number++
	return &almanacv1.Assignment{
		Number: b.number, ExecutionId: execution, Token: token, JobId: "job_1", JobName: "A job", TemplateType: templateType,
		TimeoutSeconds: 60, AwaitGo: templateType == single, ParametersJson: []byte("{}"),
	}
}

// connect opens a stream, and returns the first frame.
func (b *bench) connect() *almanacv1.LeaseRequest {
	b.t.Helper()
	b.st = b.opened()
	first := b.frame()
	b.get(&almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{Registry: "r", SessionTtlMilliseconds: 5000}})
	return first
}

func (b *bench) get(m *almanacv1.LeaseResponse) { b.received(b.st, m, b.now) }
func (b *bench) frame() *almanacv1.LeaseRequest { return b.state.frame(b.st, b.now) }
func (b *bench) pending() bool                  { return b.state.pending(b.st) }
func (b *bench) lost()                          { b.state.lost(b.st) }

func (b *bench) assign(execution string, token int64, templateType string) {
	b.get(&almanacv1.LeaseResponse{Assignments: []*almanacv1.Assignment{b.assignment(execution, token, templateType)}})
}

// end lets the latest work of an execution come to an end.
func (b *bench) end(execution string, result *runner.Result) {
	b.t.Helper()
	for i, a := range slices.Backward(b.work) {
		if a.lease.ExecutionId == execution {
			b.work = slices.Delete(b.work, i, i+1)
			b.happened([]event{{attempt: a, end: true, at: b.now, result: result, isolation: []string{"process"}}}, b.now)
			return
		}
	}
	b.t.Fatalf("no work for %s is under way", execution)
}

var success = &runner.Result{Status: runner.StatusSuccess, Result: json.RawMessage(`{"message":"done"}`)}

func (b *bench) working() []string {
	all := []string{}
	for _, a := range b.work {
		all = append(all, name(&a.lease))
	}
	slices.Sort(all)
	return all
}

func (b *bench) expect(what string, got, want []string) {
	b.t.Helper()
	if !slices.Equal(got, want) {
		b.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func results(f *almanacv1.LeaseRequest) []string {
	all := []string{}
	for _, r := range f.GetResults() {
		all = append(all, fmt.Sprintf("%s/%d %s %s", r.GetExecutionId(), r.GetToken(), r.GetStatus(), r.GetErrorCode()))
	}
	slices.Sort(all)
	return all
}

func started(f *almanacv1.LeaseRequest) []string {
	all := []string{}
	for _, s := range f.GetStarted() {
		all = append(all, fmt.Sprintf("%s/%d", s.GetExecutionId(), s.GetToken()))
	}
	slices.Sort(all)
	return all
}

func TestHelloSaysWhatIsHeld(t *testing.T) {
	b := newBench(t, 4)
	first := b.connect()
	if h := first.GetHello(); h.GetSession() != "session-0" || h.GetStream() != "1" || h.GetSlots() != 4 || first.GetCredits() != 4 {
		t.Fatalf("first frame %v", first)
	}
	b.assign("a", 1, idem)
	b.assign("b", 1, single)
	b.assign("c", 1, idem)
	b.end("c", success)
	if f := b.frame(); f.GetCredits() != 0 || f.GetHello() != nil {
		t.Errorf("frame %v, want neither hello nor credits", f)
	}
	b.lost()
	second := b.connect()
	h := second.GetHello()
	b.expect("held", names(h.GetHeld()), []string{"a/1", "b/1", "c/1"})
	b.expect("elsewhere", names(h.GetHoldings().GetElsewhere()), []string{})
	b.expect("open streams", h.GetHoldings().GetOpenStreams(), []string{"2"})
	if h.GetStream() != "2" || h.GetHoldings().GetLastStream() != 2 {
		t.Errorf("hello %v, want the second stream", h)
	}
	b.expect("results", results(second), []string{"c/1 success "})
	b.expect("started", started(second), []string{"a/1", "b/1"})
	if second.GetCredits() != 1 {
		t.Errorf("credits %d, want 1", second.GetCredits())
	}
	b.get(&almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("c", 1)}})
	if f := b.frame(); f.GetCredits() != 1 {
		t.Errorf("credits %d after an acknowledgement, want 1", f.GetCredits())
	}
}

func TestDeadSession(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	old := b.st
	b.connect()
	b.assign("a", 1, idem)
	b.lost()
	b.died()
	if !old.closed || len(b.streams) != 0 || b.beater != nil {
		t.Errorf("streams of the dead session are left: %v", b.streams)
	}
	hello := b.connect().GetHello()
	if hello.GetSession() == "session-0" || hello.GetStream() != "1" || hello.GetHoldings().GetLastStream() != 1 {
		t.Errorf("hello %v, want a new session with a first stream", hello)
	}
	b.expect("open streams", hello.GetHoldings().GetOpenStreams(), []string{"1"})
	b.expect("held", names(hello.GetHeld()), []string{"a/1"})
	b.received(old, &almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease("a", 1)}}, b.now)
	if len(b.killed) != 0 {
		t.Error("what a closed stream brought was acted on")
	}
}

func TestWorkMovesWhenItsStreamCloses(t *testing.T) {
	b := newBench(t, 4)
	b.connect()
	other := b.st
	b.connect()
	b.assign("run", 1, idem)
	b.assign("wait", 1, single)
	b.assign("end", 1, idem)
	b.happened([]event{{attempt: b.work[0], line: &almanacv1.LogEntry{Message: "one"}}}, b.now)
	b.end("end", success)
	asked := b.frame().GetStarted()[1].GetAt().AsTime()
	lost := b.st
	b.lost()
	b.received(lost, &almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("end", 1)}}, b.now)
	b.st = other
	f := b.frame()
	b.expect("results", results(f), []string{"end/1 success "})
	b.expect("started", started(f), []string{"run/1", "wait/1"})
	if len(f.GetLogs()) != 1 || len(f.GetHandedBack()) != 0 {
		t.Errorf("frame %v, want the log said again", f)
	}
	for _, s := range f.GetStarted() {
		if s.GetExecutionId() == "wait" && !s.GetAt().AsTime().Equal(asked) {
			t.Errorf("started at %v, want the first %v", s.GetAt().AsTime(), asked)
		}
	}
	beat := f.GetHeartbeat()
	b.expect("held", names(beat.GetHeld()), []string{"end/1", "run/1", "wait/1"})
	b.expect("open streams", beat.GetHoldings().GetOpenStreams(), []string{"1"})
	if beat.GetHoldings().GetLastStream() != 2 || beat.GetReportOnly() || beat.GetRunning() != 3 {
		t.Errorf("beat %v", beat)
	}
	b.now = b.now.Add(time.Second)
	b.get(&almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "wait", Token: 1}}, Acknowledged: []*almanacv1.Lease{lease("end", 1)}})
	b.expect("working", b.working(), []string{"run/1", "wait/1"})

	// With no stream left it has no home; the next stream is one.
	b.lost()
	b.end("run", success)
	b.happened([]event{{attempt: b.work[0], line: &almanacv1.LogEntry{Message: "alone"}}}, b.now)
	f = b.connect()
	b.expect("held", names(f.GetHello().GetHeld()), []string{"run/1", "wait/1"})
	b.expect("results", results(f), []string{"run/1 success "})
	if len(f.GetLogs()) != 2 {
		t.Errorf("logs %v", f.GetLogs())
	}
}

func TestWhatIsSaidOfOtherStreams(t *testing.T) {
	b := newBench(t, 4)
	b.connect()
	one := b.st
	b.assign("a", 1, idem)
	hello := b.connect().GetHello()
	b.expect("held", names(hello.GetHeld()), []string{})
	b.expect("elsewhere", names(hello.GetHoldings().GetElsewhere()), []string{"a/1"})
	b.expect("open streams", hello.GetHoldings().GetOpenStreams(), []string{"1", "2"})
	b.assign("b", 1, idem)
	b.now = b.now.Add(time.Second)
	b.tick(b.now)
	beat := b.frame().GetHeartbeat()
	b.expect("held", names(beat.GetHeld()), []string{"b/1"})
	b.expect("elsewhere", names(beat.GetHoldings().GetElsewhere()), []string{"a/1"})
	if !beat.GetReportOnly() {
		t.Error("two streams carry the beats")
	}
	b.st = one
	beat = b.frame().GetHeartbeat()
	b.expect("held", names(beat.GetHeld()), []string{"a/1"})
	b.expect("elsewhere", names(beat.GetHoldings().GetElsewhere()), []string{"b/1"})
	if beat.GetReportOnly() || beat.GetLastNumber() != 1 {
		t.Errorf("beat %v", beat)
	}
}

// TestAnyRegistryMaySpeak: what is said of a lease counts over any stream.
func TestAnyRegistryMaySpeak(t *testing.T) {
	b := newBench(t, 5)
	b.connect()
	for _, execution := range []string{"ack", "cancel", "stale"} {
		b.assign(execution, 1, idem)
	}
	b.assign("go", 1, single)
	b.end("ack", success)
	b.frame()
	first := b.st
	b.connect()
	b.get(&almanacv1.LeaseResponse{
		Acknowledged: []*almanacv1.Lease{lease("ack", 1)}, Cancel: []*almanacv1.Lease{lease("cancel", 1)},
		Stale: []*almanacv1.Lease{lease("stale", 1), lease("cancel", 2)}, Go: []*almanacv1.Go{{ExecutionId: "go", Token: 1}},
	})
	b.expect("working", b.working(), []string{"cancel/1", "go/1", "stale/1"})
	if !errors.Is(b.killed["cancel/1"], runner.ErrCancelled) || !errors.Is(b.killed["stale/1"], errStale) || b.attempts["ack"] != nil {
		t.Errorf("killed %v, held %v", b.killed, b.attempts)
	}
	b.end("cancel", nil)
	if f := b.frame(); len(f.GetResults()) != 0 {
		t.Errorf("frame %v: it is reported over the stream that it was assigned over", f)
	}
	b.st = first
	b.expect("results", results(b.frame()), []string{"cancel/1 cancelled cancelled"})
}

func TestCreditsOnEachStream(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	one := b.st
	if f := b.connect(); f.GetCredits() != 2 {
		t.Fatalf("credits %d on the second stream, want all free slots", f.GetCredits())
	}
	two := b.st
	credits := func(st *stream) int32 { return b.state.frame(st, b.now).GetCredits() }
	b.assign("a", 1, idem)
	if c1, c2 := credits(one), credits(two); c1 != -1 || c2 != 0 {
		t.Errorf("credits %d and %d, want one withdrawn from the other", c1, c2)
	}
	// Both registries fill the last slot at once, and the first one still uses
	// what was withdrawn.
	b.assign("b", 1, idem)
	b.st = one
	b.assign("c", 1, idem)
	b.assign("d", 1, idem)
	f := b.frame()
	b.expect("handed back", names(f.GetHandedBack()), []string{"c/1", "d/1"})
	if f.GetCredits() != 1 || one.granted != 0 {
		t.Errorf("credits %d, want the one that it used and had lost", f.GetCredits())
	}
	if c := credits(two); c != 0 || two.granted != 0 {
		t.Errorf("credits %d on the second stream, want none", c)
	}
	b.end("a", success)
	b.get(&almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("a", 1)}})
	if c1, c2 := credits(one), credits(two); c1 != 1 || c2 != 1 {
		t.Errorf("credits %d and %d, want the slot on both", c1, c2)
	}
}

func TestBeatsMoveToAnotherStream(t *testing.T) {
	b := newBench(t, 2)
	var all []*stream
	for range 3 {
		b.connect()
		all = append(all, b.st)
	}
	silent := b.opened() // not welcomed: it carries none
	reports := func() (said []string) {
		for i, st := range append(all, silent) {
			switch beat := b.state.frame(st, b.now).GetHeartbeat(); {
			case beat.GetReportOnly():
				said = append(said, fmt.Sprint(i, " report"))
			case beat != nil:
				said = append(said, fmt.Sprint(i, " beat"))
			}
		}
		return said
	}
	forward := func(d time.Duration) { b.now = b.now.Add(d); b.tick(b.now) }
	forward(time.Second)
	b.expect("first beats", reports(), []string{"0 beat", "1 report", "2 report"})
	if at := b.tickAt(); !at.Equal(b.now.Add(time.Second)) {
		t.Errorf("next tick at %v, want with the next beats", at)
	}
	forward(time.Second)
	reports()
	forward(time.Second)
	reports()
	if at := b.tickAt(); !at.Equal(b.now.Add(500 * time.Millisecond)) {
		t.Errorf("next tick at %v, want when the answer is overdue", at)
	}
	forward(500 * time.Millisecond)
	b.expect("half a TTL after the unanswered", reports(), []string{"1 beat"})
	b.received(all[0], &almanacv1.LeaseResponse{Beat: true}, b.now)
	if !b.unconfirmed.IsZero() || all[1].asked.IsZero() {
		t.Error("a late answer confirms the session, and does not answer for the other stream")
	}
	b.state.lost(all[1])
	b.expect("at once after its stream broke", reports(), []string{"0 report", "2 beat"})
	b.state.lost(all[2])
	b.expect("at once after another broke", reports(), []string{"0 beat"})
	forward(5 * time.Second)
	b.expect("the only one", reports(), []string{"0 beat"})
	b.state.lost(all[0])
	forward(5 * time.Second)
	b.expect("none", reports(), nil)
	if at := b.tickAt(); !at.IsZero() {
		t.Errorf("next tick at %v, want never", at)
	}
}

func TestHeartbeat(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("a", 3, idem)
	b.frame()
	b.now = b.now.Add(999 * time.Millisecond)
	if b.tick(b.now); b.pending() {
		t.Error("a beat is due early")
	}
	b.now = b.now.Add(time.Millisecond)
	if b.tick(b.now); !b.pending() {
		t.Fatal("no beat is due")
	}
	beat := b.frame().GetHeartbeat()
	if beat.GetLastNumber() != 1 {
		t.Errorf("last number %d", beat.GetLastNumber())
	}
	b.expect("held", names(beat.GetHeld()), []string{"a/3"})
	if b.unconfirmed.IsZero() {
		t.Error("the beat is not awaited")
	}
	if b.get(&almanacv1.LeaseResponse{Beat: true}); !b.unconfirmed.IsZero() {
		t.Error("the beat is still awaited")
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("a", 5, idem)
	b.assign("a", 5, idem) // told twice
	b.assign("a", 4, idem) // overtaken
	b.expect("working", b.working(), []string{"a/5"})
	b.assign("a", 6, idem)
	if !errors.Is(b.killed["a/5"], errStale) {
		t.Errorf("the older token was ended by %v", b.killed["a/5"])
	}
	b.expect("working beside the dying", b.working(), []string{"a/5"})
	b.assign("b", 1, idem) // no slot is free: the dying one still has its own
	f := b.frame()
	b.expect("handed back", names(f.GetHandedBack()), []string{"b/1"})
	held, _ := b.holdings(b.st)
	b.expect("held", names(held), []string{"a/6"})
	b.get(&almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease("a", 5)}}) // known
	b.end("a", success)
	b.expect("working after the death", b.working(), []string{"a/6"})
	if f = b.frame(); len(f.GetResults()) != 0 || f.GetCredits() != 1 {
		t.Errorf("frame %v, want nothing of the stale token but its slot", f)
	}
	b.end("a", success)
	b.expect("results", results(b.frame()), []string{"a/6 success "})
}

func TestStale(t *testing.T) {
	for phase, prepare := range map[string]func(*bench){
		"waiting": func(b *bench) { b.assign("a", 1, single); b.frame() },
		"running": func(b *bench) { b.assign("a", 1, idem); b.frame() },
		"ended":   func(b *bench) { b.assign("a", 1, idem); b.end("a", success); b.frame() },
		"unsent":  func(b *bench) { b.assign("a", 1, idem); b.end("a", success) },
	} {
		t.Run(phase, func(t *testing.T) {
			b := newBench(t, 1)
			b.connect()
			prepare(b)
			b.get(&almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease("a", 1)}})
			if phase == "running" {
				if b.pending() {
					t.Errorf("frame %v before the work is gone", b.frame())
				}
				b.end("a", success)
			}
			f := b.frame()
			if f.GetCredits() != 1 || len(f.GetResults())+len(f.GetHandedBack()) > 0 {
				t.Errorf("frame %v, want the slot and nothing else", f)
			}
			if b.used != 0 || len(b.attempts)+len(b.dying) != 0 {
				t.Errorf("%d slots used", b.used)
			}
		})
	}
}

func TestGoAhead(t *testing.T) {
	g := &almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "a", Token: 1}}}
	t.Run("in time", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.now = b.now.Add(time.Minute) // the sender was busy: the clock starts at sending
		f := b.frame()
		if at := f.GetStarted()[0].GetAt().AsTime(); !at.Equal(b.now) {
			t.Errorf("started at %v, want %v", at, b.now)
		}
		if len(b.work) != 0 {
			t.Fatal("it began without a go-ahead")
		}
		b.now = b.now.Add(2500 * time.Millisecond)
		b.get(g)
		b.expect("working", b.working(), []string{"a/1"})
		if timeout := b.work[0].run.Timeout; timeout != 57500*time.Millisecond {
			t.Errorf("time-out %v, want what is left since Started", timeout)
		}
		b.get(g) // told twice
		b.expect("working", b.working(), []string{"a/1"})
		b.now = b.now.Add(time.Second)
		b.end("a", success)
		r := b.frame().GetResults()[0]
		if took := r.GetCompletedAt().AsTime().Sub(r.GetStartedAt().AsTime()); took != 3500*time.Millisecond {
			t.Errorf("took %v, want 3.5s since Started", took)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.frame()
		b.now = b.now.Add(2501 * time.Millisecond)
		b.get(g)
		f := b.frame()
		b.expect("handed back", names(f.GetHandedBack()), []string{"a/1"})
		if len(b.work) != 0 || f.GetCredits() != 1 {
			t.Errorf("working %v, credits %d", b.working(), f.GetCredits())
		}
	})
	t.Run("after the time-out", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		m := b.assignment("a", 1, single)
		m.TimeoutSeconds = 1
		b.get(&almanacv1.LeaseResponse{Assignments: []*almanacv1.Assignment{m}})
		b.frame()
		b.now = b.now.Add(time.Second)
		b.get(g)
		b.expect("handed back", names(b.frame().GetHandedBack()), []string{"a/1"})
	})
	t.Run("asked again after a reconnect", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		first := b.frame().GetStarted()[0].GetAt().AsTime()
		b.now = b.now.Add(2 * time.Second)
		b.lost()
		f := b.connect()
		b.expect("started", started(f), []string{"a/1"})
		if at := f.GetStarted()[0].GetAt().AsTime(); !at.Equal(first) {
			t.Errorf("started at %v, want the first %v", at, first)
		}
		b.now = b.now.Add(time.Second) // 3 s after the first
		b.get(g)
		b.expect("handed back", names(b.frame().GetHandedBack()), []string{"a/1"})
	})
}

func TestCancelledAttempt(t *testing.T) {
	stop := &almanacv1.LeaseResponse{Cancel: []*almanacv1.Lease{lease("a", 1)}}
	t.Run("waiting", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.frame()
		b.get(stop)
		b.expect("results", results(b.frame()), []string{"a/1 cancelled cancelled"})
		b.get(&almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "a", Token: 1}}})
		b.expect("working", b.working(), []string{})
	})
	t.Run("running", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, idem)
		b.get(stop)
		if !errors.Is(b.killed["a/1"], runner.ErrCancelled) {
			t.Errorf("ended by %v", b.killed["a/1"])
		}
		b.end("a", nil)
		b.get(stop)
		b.expect("results", results(b.frame()), []string{"a/1 cancelled cancelled"})
	})
	t.Run("unknown", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		if b.get(stop); b.pending() {
			t.Errorf("frame %v", b.frame())
		}
	})
}

func TestDrainedState(t *testing.T) {
	b := newBench(t, 6)
	b.connect()
	b.assign("wait", 1, single)
	b.assign("run", 1, idem)
	b.assign("once", 1, single)
	b.assign("quick", 1, idem)
	b.frame()
	b.get(&almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "once", Token: 1}}})
	b.get(&almanacv1.LeaseResponse{Drain: true})
	b.drain() // by a signal as well
	f := b.frame()
	if !f.GetDraining() || f.GetCredits() != 0 {
		t.Errorf("frame %v, want draining", f)
	}
	b.expect("handed back", names(f.GetHandedBack()), []string{"wait/1"})
	b.assign("late", 1, idem)
	b.expect("handed back", names(b.frame().GetHandedBack()), []string{"late/1"})
	b.end("quick", success)
	b.killAll(errDrained)
	b.end("run", nil)
	b.end("once", nil)
	f = b.frame()
	b.expect("handed back", names(f.GetHandedBack()), []string{"run/1"})
	b.expect("results", results(f), []string{"once/1 crashed drained", "quick/1 success "})
	if b.busy() || f.GetCredits() != 0 {
		t.Errorf("busy %v, credits %d", b.busy(), f.GetCredits())
	}
	b.lost()
	f = b.connect()
	if !f.GetDraining() || f.GetCredits() != 0 {
		t.Errorf("frame %v of the next stream, want draining said again", f)
	}
}

func TestLogsPrecedeResults(t *testing.T) {
	b := newBench(t, 1)
	b.connect()
	b.assign("a", 1, idem)
	a := b.work[0]
	line := strings.Repeat("x", 10<<10)
	for range 200 { // 2 MB: more than a frame
		b.happened([]event{{attempt: a, line: &almanacv1.LogEntry{Message: line}}}, b.now)
	}
	b.end("a", success)
	var chunks []*almanacv1.LogChunk
	for i := 0; b.pending(); i++ {
		f := b.frame()
		if size := proto.Size(f); size > 2*frameBytes {
			t.Errorf("a frame of %d bytes", size)
		}
		chunks = append(chunks, f.GetLogs()...)
		if len(f.GetResults()) > 0 && b.pending() {
			t.Error("the result overtook the log")
		}
	}
	count := 0
	for i, chunk := range chunks {
		if int(chunk.GetNumber()) != i {
			t.Errorf("chunk %d has number %d", i, chunk.GetNumber())
		}
		count += len(chunk.GetLines())
	}
	if count != 200 || len(chunks) < 2 {
		t.Errorf("%d lines in %d chunks", count, len(chunks))
	}
}

func TestSentChunksDoNotChange(t *testing.T) {
	b := newBench(t, 1)
	b.connect()
	b.assign("a", 1, idem)
	a := b.work[0]
	say := func(s string) {
		b.happened([]event{{attempt: a, line: &almanacv1.LogEntry{Message: s}}}, b.now)
	}
	say("one")
	say("two")
	first := b.frame().GetLogs()
	say("three")
	b.lost()
	say("four")
	again := b.connect().GetLogs()
	if len(first) != 1 || len(again) != 2 || len(again[0].GetLines()) != 2 || len(again[1].GetLines()) != 2 || again[1].GetNumber() != 1 {
		t.Errorf("first %v, again %v", first, again)
	}
}

func TestProgressIsTheLatest(t *testing.T) {
	b := newBench(t, 1)
	b.connect()
	b.assign("a", 1, idem)
	a := b.work[0]
	for i := range int64(5) {
		a.report.Progress(i, 10, "on \xff the way")
	}
	b.happened(b.inbox.take(nil), b.now)
	f := b.frame()
	if p := f.GetProgress(); len(p) != 1 || p[0].GetDone() != 4 || p[0].GetMessage() != "on \uFFFD the way" {
		t.Errorf("progress %v", p)
	}
	if b.pending() {
		t.Error("progress is sent twice")
	}
	if p := b.connect().GetProgress(); len(p) != 1 || p[0].GetDone() != 4 {
		t.Errorf("progress %v on the next stream, want the latest", p)
	}
	a.report.Progress(9, 10, "")
	b.happened(b.inbox.take(nil), b.now)
	b.end("a", success)
	if p := b.frame().GetProgress(); len(p) != 0 {
		t.Errorf("progress %v of what has ended", p)
	}
}

func TestLogIsCut(t *testing.T) {
	for what, l := range map[string]limits{"lines": {lines: 3, bytes: 1 << 20}, "bytes": {lines: 100, bytes: 12}} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, 1)
			b.limits = l
			b.connect()
			b.assign("a", 1, idem)
			for range 10 {
				b.work[0].report.Log("INFO", "abc\xff")
			}
			b.happened(b.inbox.take(nil), b.now)
			lines := b.frame().GetLogs()[0].GetLines()
			if len(lines) > 4 || lines[0].GetMessage() != "abc\uFFFD" || !lines[0].GetAt().AsTime().Equal(b.now) {
				t.Errorf("lines %v", lines)
			}
			if last := lines[len(lines)-1]; last.GetLevel() != "WARN" || !strings.Contains(last.GetMessage(), "cut") {
				t.Errorf("last line %v, want one that says so", last)
			}
		})
	}
}

func TestUnfitTexts(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("a", 1, idem)
	b.assign("b", 1, idem)
	b.end("a", &runner.Result{Status: runner.StatusFailed, Error: "bad \xff" + strings.Repeat("x", 100_000), ErrorCode: "internal"})
	b.end("b", &runner.Result{Status: runner.StatusSuccess, Result: make([]byte, runner.MaxResultBytes+1)})
	f := b.frame()
	if _, err := proto.Marshal(f); err != nil || proto.Size(f) > 50_000 {
		t.Errorf("a frame of %d bytes: %v", proto.Size(f), err)
	}
	b.expect("results", results(f), []string{"a/1 failed internal", "b/1 failed limit"})
}

func TestProcessEnds(t *testing.T) {
	b := newBench(t, 1)
	b.connect()
	b.assign("a", 1, idem)
	b.killAll(errEnded)
	b.end("a", nil)
	if f := b.frame(); len(f.GetResults())+len(f.GetHandedBack()) > 0 || b.used != 0 {
		t.Errorf("frame %v, want nothing said: the work did not end in order", f)
	}
}

func TestSessionConfigAnnounces(t *testing.T) {
	s, err := New(Config{
		Registries: []string{"localhost:1"}, Now: func() time.Time { return time.Time{} }, Logger: zap.NewNop(), Slots: 1,
		Templates: []Template{{
			Descriptor: template.Descriptor{Type: "t", Version: 2, Name: "T", Idempotent: true, Destructive: true, MaxConcurrency: 3, Restricted: []string{"collection"}},
			Schema:     map[string]any{"type": "object"}, Allowed: map[string][]string{"collection": {"users"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := s.state.identity.GetTemplates()[0]
	if got.GetType() != "t" || got.GetVersion() != 2 || string(got.GetSchemaJson()) != `{"type":"object"}` || !got.GetDestructive() || got.GetMaxConcurrency() != 3 ||
		got.GetRestrictions()[0].GetParameter() != "collection" || !slices.Equal(got.GetRestrictions()[0].GetValues(), []string{"users"}) {
		t.Errorf("announced %v", got)
	}
	if s.Ready() == nil {
		t.Error("ready before it has run")
	}
	if _, err := New(Config{Now: func() time.Time { return time.Time{} }, Templates: []Template{{Schema: map[string]any{"x": func() {}}}}}); err == nil {
		t.Error("a schema that is no JSON was accepted")
	}
	if _, err := New(Config{Registries: []string{"nowhere"}}); err == nil {
		t.Error("a registry without a port was accepted")
	}
}

// TestEndedBeforeItsStartWasSaid: the result says when the run began, so its start
// is not said beside it.
func TestEndedBeforeItsStartWasSaid(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("quick", 1, idem)
	b.assign("slow", 1, idem)
	b.end("quick", success)
	f := b.frame()
	b.expect("started", started(f), []string{"slow/1"})
	b.expect("results", results(f), []string{"quick/1 success "})
	if at := f.GetResults()[0].GetStartedAt().AsTime(); !at.Equal(b.now) {
		t.Errorf("the result says that it began at %v", at)
	}
}
