package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
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

// bench holds a state whose work is done by the test.
type bench struct {
	*state
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
	b.opened(b.now)
	first := b.frame(b.now)
	b.received(&almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{Registry: "r", SessionTtlMilliseconds: 5000}}, b.now)
	return first
}

func (b *bench) get(m *almanacv1.LeaseResponse) { b.received(m, b.now) }

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
	if first.GetHello().GetSession() != "session-0" || first.GetHello().GetStream() != "id-1" || first.GetCredits() != 4 {
		t.Fatalf("first frame %v", first)
	}
	b.assign("a", 1, idem)
	b.assign("b", 1, single)
	b.assign("c", 1, idem)
	b.end("c", success)
	if f := b.frame(b.now); f.GetCredits() != 0 || f.GetHello() != nil {
		t.Errorf("frame %v, want neither hello nor credits", f)
	}
	b.lost()
	second := b.connect()
	b.expect("held", names(second.GetHello().GetHeld()), []string{"a/1", "b/1", "c/1"})
	b.expect("closed streams", second.GetHello().GetClosedStreams(), []string{"id-1"})
	b.expect("results", results(second), []string{"c/1 success "})
	b.expect("started", started(second), []string{"a/1", "b/1"})
	if second.GetCredits() != 1 {
		t.Errorf("credits %d, want 1", second.GetCredits())
	}
	b.get(&almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("c", 1)}})
	if f := b.frame(b.now); f.GetCredits() != 1 {
		t.Errorf("credits %d after an acknowledgement, want 1", f.GetCredits())
	}
	b.lost()
	b.expect("closed streams after a welcome", b.connect().GetHello().GetClosedStreams(), []string{"id-2"})
}

func TestClosedStreamsUntilWelcome(t *testing.T) {
	b := newBench(t, 1)
	b.connect()
	for range 2 { // hello is sent, and no welcome comes
		b.lost()
		b.opened(b.now)
		b.frame(b.now)
	}
	b.lost()
	b.opened(b.now)
	b.lost() // this one was never said
	b.opened(b.now)
	b.expect("closed", b.frame(b.now).GetHello().GetClosedStreams(), []string{"id-1", "id-2", "id-3"})
}

func TestDeadSession(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("a", 1, idem)
	b.lost()
	b.died()
	first := b.connect()
	if hello := first.GetHello(); hello.GetSession() == "session-0" || len(hello.GetClosedStreams()) != 0 {
		t.Errorf("hello %v, want a new session without closed streams", hello)
	}
	b.expect("held", names(first.GetHello().GetHeld()), []string{"a/1"})
}

func TestHeartbeat(t *testing.T) {
	b := newBench(t, 2)
	b.connect()
	b.assign("a", 3, idem)
	b.frame(b.now)
	b.now = b.now.Add(999 * time.Millisecond)
	if b.tick(b.now); b.pending() {
		t.Error("a beat is due early")
	}
	b.now = b.now.Add(time.Millisecond)
	if b.tick(b.now); !b.pending() {
		t.Fatal("no beat is due")
	}
	beat := b.frame(b.now).GetHeartbeat()
	if beat.GetLastNumber() != 1 {
		t.Errorf("last number %d", beat.GetLastNumber())
	}
	b.expect("held", names(beat.GetHeld()), []string{"a/3"})
	if b.beatSent.IsZero() {
		t.Error("the beat is not awaited")
	}
	if b.get(&almanacv1.LeaseResponse{Beat: true}); !b.beatSent.IsZero() {
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
	f := b.frame(b.now)
	b.expect("handed back", names(f.GetHandedBack()), []string{"b/1"})
	b.expect("held", names(b.holdings()), []string{"a/6"})
	b.get(&almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease("a", 5)}}) // known
	b.end("a", success)
	b.expect("working after the death", b.working(), []string{"a/6"})
	if f = b.frame(b.now); len(f.GetResults()) != 0 || f.GetCredits() != 1 {
		t.Errorf("frame %v, want nothing of the stale token but its slot", f)
	}
	b.end("a", success)
	b.expect("results", results(b.frame(b.now)), []string{"a/6 success "})
}

func TestStale(t *testing.T) {
	for phase, prepare := range map[string]func(*bench){
		"waiting": func(b *bench) { b.assign("a", 1, single); b.frame(b.now) },
		"running": func(b *bench) { b.assign("a", 1, idem); b.frame(b.now) },
		"ended":   func(b *bench) { b.assign("a", 1, idem); b.end("a", success); b.frame(b.now) },
		"unsent":  func(b *bench) { b.assign("a", 1, idem); b.end("a", success) },
	} {
		t.Run(phase, func(t *testing.T) {
			b := newBench(t, 1)
			b.connect()
			prepare(b)
			b.get(&almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease("a", 1)}})
			if phase == "running" {
				if b.pending() {
					t.Errorf("frame %v before the work is gone", b.frame(b.now))
				}
				b.end("a", success)
			}
			f := b.frame(b.now)
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
		f := b.frame(b.now)
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
		r := b.frame(b.now).GetResults()[0]
		if took := r.GetCompletedAt().AsTime().Sub(r.GetStartedAt().AsTime()); took != 3500*time.Millisecond {
			t.Errorf("took %v, want 3.5s since Started", took)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.frame(b.now)
		b.now = b.now.Add(2501 * time.Millisecond)
		b.get(g)
		f := b.frame(b.now)
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
		b.frame(b.now)
		b.now = b.now.Add(time.Second)
		b.get(g)
		b.expect("handed back", names(b.frame(b.now).GetHandedBack()), []string{"a/1"})
	})
	t.Run("asked again after a reconnect", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		first := b.frame(b.now).GetStarted()[0].GetAt().AsTime()
		b.now = b.now.Add(2 * time.Second)
		b.lost()
		f := b.connect()
		b.expect("started", started(f), []string{"a/1"})
		if at := f.GetStarted()[0].GetAt().AsTime(); !at.Equal(first) {
			t.Errorf("started at %v, want the first %v", at, first)
		}
		b.now = b.now.Add(time.Second) // 3 s after the first
		b.get(g)
		b.expect("handed back", names(b.frame(b.now).GetHandedBack()), []string{"a/1"})
	})
	t.Run("given up by a late reconnect", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.frame(b.now)
		b.lost()
		b.now = b.now.Add(3 * time.Second)
		f := b.connect()
		if len(f.GetHello().GetHeld())+len(f.GetStarted())+len(f.GetHandedBack()) != 0 || f.GetCredits() != 1 {
			t.Errorf("frame %v, want nothing held", f)
		}
	})
}

func TestCancelledAttempt(t *testing.T) {
	stop := &almanacv1.LeaseResponse{Cancel: []*almanacv1.Lease{lease("a", 1)}}
	t.Run("waiting", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		b.assign("a", 1, single)
		b.frame(b.now)
		b.get(stop)
		b.expect("results", results(b.frame(b.now)), []string{"a/1 cancelled cancelled"})
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
		b.expect("results", results(b.frame(b.now)), []string{"a/1 cancelled cancelled"})
	})
	t.Run("unknown", func(t *testing.T) {
		b := newBench(t, 1)
		b.connect()
		if b.get(stop); b.pending() {
			t.Errorf("frame %v", b.frame(b.now))
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
	b.frame(b.now)
	b.get(&almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "once", Token: 1}}})
	b.get(&almanacv1.LeaseResponse{Drain: true})
	b.drain() // by a signal as well
	f := b.frame(b.now)
	if !f.GetDraining() || f.GetCredits() != 0 {
		t.Errorf("frame %v, want draining", f)
	}
	b.expect("handed back", names(f.GetHandedBack()), []string{"wait/1"})
	b.assign("late", 1, idem)
	b.expect("handed back", names(b.frame(b.now).GetHandedBack()), []string{"late/1"})
	b.end("quick", success)
	b.killAll(errDrained)
	b.end("run", nil)
	b.end("once", nil)
	f = b.frame(b.now)
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
		f := b.frame(b.now)
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
	first := b.frame(b.now).GetLogs()
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
	f := b.frame(b.now)
	if p := f.GetProgress(); len(p) != 1 || p[0].GetDone() != 4 || p[0].GetMessage() != "on \uFFFD the way" {
		t.Errorf("progress %v", p)
	}
	if b.pending() {
		t.Error("progress is sent twice")
	}
	a.report.Progress(9, 10, "")
	b.happened(b.inbox.take(nil), b.now)
	b.end("a", success)
	if p := b.frame(b.now).GetProgress(); len(p) != 0 {
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
			lines := b.frame(b.now).GetLogs()[0].GetLines()
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
	f := b.frame(b.now)
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
	if f := b.frame(b.now); len(f.GetResults())+len(f.GetHandedBack()) > 0 || b.used != 0 {
		t.Errorf("frame %v, want nothing said: the work did not end in order", f)
	}
}

func TestSessionConfigAnnounces(t *testing.T) {
	s, err := New(Config{
		Registry: "localhost:1", Now: func() time.Time { return time.Time{} }, Logger: zap.NewNop(), Slots: 1,
		Templates: []Template{{
			Descriptor: template.Descriptor{Type: "t", Version: 2, Name: "T", Idempotent: true, Destructive: true, Restricted: []string{"collection"}},
			Schema:     map[string]any{"type": "object"}, Allowed: map[string][]string{"collection": {"users"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := s.state.identity.GetTemplates()[0]
	if got.GetType() != "t" || got.GetVersion() != 2 || string(got.GetSchemaJson()) != `{"type":"object"}` || !got.GetDestructive() ||
		got.GetRestrictions()[0].GetParameter() != "collection" || !slices.Equal(got.GetRestrictions()[0].GetValues(), []string{"users"}) {
		t.Errorf("announced %v", got)
	}
	if s.Ready() == nil {
		t.Error("ready before it has run")
	}
	if _, err := New(Config{Now: func() time.Time { return time.Time{} }, Templates: []Template{{Schema: map[string]any{"x": func() {}}}}}); err == nil {
		t.Error("a schema that is no JSON was accepted")
	}
}

// TestRandomFaults drives a state through random work and faults and checks,
// against a small model of the registry, that nothing is lost, overlaps, or is
// promised twice.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &world{bench: newBench(t, 5), random: rand.New(rand.NewPCG(seed, 7)), executions: map[string]*modelled{}, ended: map[string]*almanacv1.Lease{}}
			for range 400 {
				w.step()
				w.check()
			}
			w.settle()
		})
	}
}

// modelled is an execution in the registry's eyes.
type modelled struct {
	token    int64
	template string
	leased   bool // under token
	done     bool // a result is durable
	wentFor  int64
	chunks   map[int64]int32 // by token: how many were received in order
}

// world is the registry's model and the two directions of a stream, each of
// which may lose what it holds when the stream breaks.
type world struct {
	*bench
	random     *rand.Rand
	executions map[string]*modelled
	next       int
	up         []*almanacv1.LeaseRequest
	down       []*almanacv1.LeaseResponse
	credits    int
	welcomed   bool
	ended      map[string]*almanacv1.Lease // whose work ended with a result
}

func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.random.IntN(300)) * time.Millisecond)
	w.tick(w.now)
	switch w.random.IntN(12) {
	case 0: // the stream breaks, or a new one opens
		if w.stream != "" && w.random.IntN(3) == 0 {
			w.cut()
		} else if w.stream == "" {
			w.opened(w.now)
			w.up, w.down, w.credits, w.welcomed = nil, nil, 0, false
		}
	case 1, 2, 3:
		if w.pending() {
			w.up = append(w.up, proto.CloneOf(w.frame(w.now)))
		}
	case 4, 5:
		if len(w.up) > 0 {
			f := w.up[0]
			w.up = w.up[1:]
			w.handle(f)
		}
	case 6, 7:
		if len(w.down) > 0 {
			f := w.down[0]
			w.down = w.down[1:]
			w.received(f, w.now)
		}
	case 8:
		w.lease()
	case 9:
		if len(w.work) > 0 {
			a := w.work[w.random.IntN(len(w.work))]
			result := success
			if w.killed[name(&a.lease)] != nil && w.random.IntN(2) == 0 {
				result = nil
			}
			if result != nil {
				w.ended[name(&a.lease)] = &a.lease
			}
			w.end(a.lease.ExecutionId, result)
		}
	case 10:
		if len(w.work) > 0 {
			w.happened([]event{{attempt: w.work[w.random.IntN(len(w.work))], line: &almanacv1.LogEntry{Message: "line"}}}, w.now)
		}
	case 11:
		w.interfere()
	}
}

func (w *world) cut() {
	w.lost()
	if w.random.IntN(5) == 0 {
		w.died()
	}
	w.up, w.down = nil, nil
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

// lease assigns a new execution, or one whose lease was given up.
func (w *world) lease() {
	if !w.welcomed || w.credits == 0 {
		return
	}
	key, e := w.pick()
	if e == nil || e.leased || e.done {
		w.next++
		key, e = fmt.Sprintf("e%d", w.next), &modelled{template: []string{idem, single}[w.random.IntN(2)], chunks: map[int64]int32{}}
		w.executions[key] = e
	}
	e.token++
	e.leased = true
	w.credits--
	w.down = append(w.down, &almanacv1.LeaseResponse{Assignments: []*almanacv1.Assignment{w.assignment(key, e.token, e.template)}})
}

// interfere cancels a run or declares its token stale.
func (w *world) interfere() {
	key, e := w.pick()
	if e == nil || !w.welcomed || !e.leased || e.done {
		return
	}
	if w.random.IntN(2) == 0 {
		w.down = append(w.down, &almanacv1.LeaseResponse{Cancel: []*almanacv1.Lease{lease(key, e.token)}})
		return
	}
	w.down = append(w.down, &almanacv1.LeaseResponse{Stale: []*almanacv1.Lease{lease(key, e.token)}})
	e.leased = false
}

// handle is what a registry does with a frame.
func (w *world) handle(f *almanacv1.LeaseRequest) {
	if hello := f.GetHello(); hello != nil {
		answer := &almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{SessionTtlMilliseconds: 5000}}
		w.welcomed = true
		held := map[string]bool{}
		for _, l := range hello.GetHeld() {
			held[name(l)] = true
			if e := w.executions[l.GetExecutionId()]; e.token != l.GetToken() || e.done || !e.leased {
				answer.Stale = append(answer.Stale, l)
			}
		}
		for key, e := range w.executions {
			e.leased = e.leased && held[name(lease(key, e.token))]
		}
		w.down = append(w.down, answer)
	}
	answer := &almanacv1.LeaseResponse{}
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
	w.credits += int(f.GetCredits())
	w.down = append(w.down, answer)
}

// check holds after every step.
func (w *world) check() {
	w.t.Helper()
	if w.used+w.granted > w.slots {
		w.t.Fatalf("%d slots used and %d granted of %d", w.used, w.granted, w.slots)
	}
	if w.used != len(w.attempts)+len(w.dying) {
		w.t.Fatalf("%d slots used for %d attempts and %d dying", w.used, len(w.attempts), len(w.dying))
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
	// A result that is current in the registry's eyes is kept until it is durable.
	for key, e := range w.executions {
		if a := w.attempts[key]; a != nil && a.phase == ended && a.result == nil {
			w.t.Fatalf("%s ended without a result", key)
		} else if a != nil && a.lease.Token == e.token && e.done && a.phase == running {
			w.t.Fatalf("%s is done at the registry and runs here", key)
		}
	}
	held := map[string]bool{}
	for _, l := range w.holdings() {
		held[name(l)] = true
	}
	for id, a := range w.ended {
		e := w.executions[a.GetExecutionId()]
		if e.token == a.GetToken() && e.leased && !e.done && !held[id] && w.killed[id] == nil {
			w.t.Fatalf("the result of %s was forgotten", id)
		}
	}
}

// settle lets everything calm down: all work ends, all frames arrive, and every
// lease must then be settled.
func (w *world) settle() {
	for round := range 50 {
		if w.stream == "" {
			w.opened(w.now)
			w.up, w.down, w.credits, w.welcomed = nil, nil, 0, false
		}
		for len(w.work) > 0 {
			w.end(w.work[0].lease.ExecutionId, success)
		}
		for w.pending() {
			w.up = append(w.up, proto.CloneOf(w.frame(w.now)))
		}
		for _, f := range w.up {
			w.handle(f)
		}
		w.up = nil
		for _, f := range w.down {
			w.received(f, w.now)
		}
		w.down = nil
		w.check()
		if round > 40 && w.pending() {
			w.t.Fatalf("never calm: %v", w.frame(w.now))
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
	if w.credits != w.slots {
		w.t.Errorf("credits %d at the end, want %d", w.credits, w.slots)
	}
}
