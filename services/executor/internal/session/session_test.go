package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// fakeRegistry speaks lease.proto over memory. The test plays the registry's
// part on the streams that arrive.
type fakeRegistry struct {
	almanacv1.UnimplementedLeaseServiceServer
	listener *bufconn.Listener
	server   *grpc.Server
	arrivals chan *arrival
}

// arrival is one stream, seen from the registry.
type arrival struct {
	stream grpc.BidiStreamingServer[almanacv1.LeaseRequest, almanacv1.LeaseResponse]
	token  string
	end    chan error // ends the stream with this
	frames chan *almanacv1.LeaseRequest
}

func newFakeRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	options, err := rpc.ServerOptions(rpc.TLS{Plaintext: true})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRegistry{listener: bufconn.Listen(1 << 20), server: grpc.NewServer(options...), arrivals: make(chan *arrival, 16)}
	almanacv1.RegisterLeaseServiceServer(f.server, f)
	go func() { _ = f.server.Serve(f.listener) }()
	return f
}

func (f *fakeRegistry) Lease(stream grpc.BidiStreamingServer[almanacv1.LeaseRequest, almanacv1.LeaseResponse]) error {
	token, _ := rpc.BearerToken(stream.Context())
	a := &arrival{stream: stream, token: token, end: make(chan error, 1), frames: make(chan *almanacv1.LeaseRequest, 1000)}
	f.arrivals <- a
	go func() {
		defer close(a.frames)
		for {
			frame, err := stream.Recv()
			if err != nil {
				return
			}
			a.frames <- frame
		}
	}()
	select {
	case err := <-a.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// until returns the frames' parts merged, as soon as they satisfy the test.
func (a *arrival) until(t *testing.T, what string, enough func(*almanacv1.LeaseRequest) bool) *almanacv1.LeaseRequest {
	t.Helper()
	all := &almanacv1.LeaseRequest{}
	deadline := time.After(time.Minute)
	for {
		select {
		case frame, ok := <-a.frames:
			if !ok {
				t.Fatalf("the stream ended before %s; so far %v", what, all)
			}
			credits := all.GetCredits()
			proto.Merge(all, frame)
			all.Credits = credits + frame.GetCredits()
			if frame.GetHeartbeat() != nil {
				all.Heartbeat = frame.GetHeartbeat()
			}
			if enough(all) {
				return all
			}
		case <-deadline:
			t.Fatalf("no %s; so far %v", what, all)
		}
	}
}

func (a *arrival) send(t *testing.T, m *almanacv1.LeaseResponse) {
	t.Helper()
	if err := a.stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// welcome waits for the hello and answers it.
func (a *arrival) welcome(t *testing.T) *almanacv1.LeaseRequest {
	t.Helper()
	first := a.until(t, "hello", func(f *almanacv1.LeaseRequest) bool { return f.GetHello() != nil })
	a.send(t, &almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{Registry: "fake", SessionTtlMilliseconds: 5000}})
	return first
}

// hands is a Runner whose work ends when the test says so.
type hands struct {
	began chan *job
}

type job struct {
	ctx    context.Context
	run    *runner.Run
	report template.Reporter
	end    chan *runner.Result
}

func (h *hands) Run(ctx context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string) {
	j := &job{ctx: ctx, run: run, report: report, end: make(chan *runner.Result, 1)}
	h.began <- j
	select {
	case result := <-j.end:
		return result, []string{"process"}
	case <-ctx.Done():
		return nil, []string{"process"}
	}
}

// played is a running session with its neighbours.
type played struct {
	*Session
	registry   *fakeRegistry // the first one
	registries []*fakeRegistry
	hands      *hands
	logs       *observer.ObservedLogs
	drain      chan struct{}
	cancel     context.CancelFunc
	done       chan error

	mu     sync.Mutex
	names  map[string][]netip.Addr // by host; none is an error
	dials  map[string]int          // by address
	refuse error                   // while set, no connection is had
}

// at is the address of the i-th registry, from 0.
func at(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }

// resolve changes what a host's addresses are.
func (p *played) resolve(host string, addresses ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[host] = addresses
}

// dialled says how often an address was.
func (p *played) dialled(a netip.Addr) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials[net.JoinHostPort(a.String(), "9090")]
}

// play runs a session inside a synctest bubble, with three registries, of which
// it is told the first.
func play(t *testing.T, change func(*Config), test func(*testing.T, *played)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		p := &played{names: map[string][]netip.Addr{}, dials: map[string]int{}, hands: &hands{began: make(chan *job, 100)}, logs: logs, drain: make(chan struct{}), done: make(chan error, 1)}
		for i := range 3 {
			p.registries = append(p.registries, newFakeRegistry(t))
			p.names[at(i).String()] = []netip.Addr{at(i)}
		}
		p.registry = p.registries[0]
		config := Config{
			Registries: []string{"10.0.0.1:9090"}, TLS: rpc.TLS{Plaintext: true}, Token: rpc.Token("secret"), Host: "host-1", Version: "1",
			Templates: []Template{
				{Descriptor: template.Descriptor{Type: idem, Version: 1, Idempotent: true}, Schema: map[string]any{}, Isolation: []string{"process"}},
				{Descriptor: template.Descriptor{Type: single, Version: 1}, Schema: map[string]any{}},
			},
			Slots: 2, Runner: p.hands, LogLines: 100, LogBytes: 1 << 20, Grace: 30 * time.Second, SettleTime: 5 * time.Second,
			Logger: zap.New(core), Now: time.Now,
			After: func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop },
			Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				if len(p.names[host]) == 0 {
					return nil, errors.New("no such host")
				}
				return p.names[host], nil
			},
		}
		if change != nil {
			change(&config)
		}
		s, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		options, err := rpc.DialOptions(config.TLS, config.Token)
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.dials[address]++
			for i, registry := range p.registries {
				if p.refuse == nil && address == net.JoinHostPort(at(i).String(), "9090") {
					return registry.listener.DialContext(ctx)
				}
			}
			return nil, cmp.Or(p.refuse, errors.New("no route to "+address))
		}))
		s.dial = func(ctx context.Context, to place) (transport, error) { return dial(ctx, to, "", options) }
		p.Session = s
		ctx, cancel := context.WithCancel(t.Context())
		p.cancel = cancel
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p.done <- s.Run(ctx, p.drain)
		}()
		test(t, p)
		cancel()
		<-ended
		for _, registry := range p.registries {
			registry.server.Stop()
		}
	})
}

func assignment(number int64, execution string, token int64, templateType string) *almanacv1.Assignment {
	return &almanacv1.Assignment{
		Number: number, ExecutionId: execution, Token: token, JobId: "job_1", JobName: "Nightly", TemplateType: templateType, TriggeredBy: "scheduler",
		TimeoutSeconds: 60, AwaitGo: templateType == single, ParametersJson: []byte(`{"a":1}`), Attempt: 2, Organisation: "org", Timezone: "Europe/Berlin",
		PreviousResultJson: []byte(`{"message":"half"}`),
	}
}

func assigned(m ...*almanacv1.Assignment) *almanacv1.LeaseResponse {
	return &almanacv1.LeaseResponse{Assignments: m}
}

func hasResult(f *almanacv1.LeaseRequest) bool { return len(f.GetResults()) > 0 }

func TestRunFromAssignmentToAcknowledgement(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		if a.token != "secret" {
			t.Errorf("token %q", a.token)
		}
		first := a.welcome(t)
		if h := first.GetHello(); h.GetHost() != "host-1" || len(h.GetTemplates()) != 2 || h.GetSession() == "" || h.GetStream() == "" {
			t.Errorf("hello %v", h)
		}
		if first.GetCredits() != 2 {
			t.Errorf("credits %d", first.GetCredits())
		}
		a.send(t, assigned(assignment(1, "e", 7, idem)))
		j := <-p.hands.began
		if j.run.JobName != "Nightly" || j.run.Attempt != 2 || j.run.Organisation != "org" || string(j.run.Params) != `{"a":1}` || string(j.run.Previous) != `{"message":"half"}` || j.run.Timeout != time.Minute {
			t.Errorf("run %+v", j.run)
		}
		a.until(t, "started", func(f *almanacv1.LeaseRequest) bool { return len(f.GetStarted()) == 1 })
		j.report.Log("INFO", "half way")
		j.report.Progress(1, 2, "")
		a.until(t, "log and progress", func(f *almanacv1.LeaseRequest) bool { return len(f.GetLogs()) == 1 && len(f.GetProgress()) == 1 })
		j.end <- success
		f := a.until(t, "result", hasResult)
		if r := f.GetResults()[0]; r.GetToken() != 7 || r.GetStatus() != "success" || !slices.Equal(r.GetIsolation(), []string{"process"}) || f.GetCredits() != 0 {
			t.Errorf("frame %v", f)
		}
		a.send(t, &almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("e", 7)}})
		a.until(t, "credit", func(f *almanacv1.LeaseRequest) bool { return f.GetCredits() == 1 })
		if n := p.logs.FilterMessage("Job 'Nightly' started").FilterField(zap.String("job_id", "job_1")).
			FilterField(zap.String("template", idem)).FilterField(zap.String("triggered_by", "scheduler")).Len(); n != 1 {
			t.Errorf("%d lines about the start: %v", n, p.logs.All())
		}
	})
}

func TestFailureIsLogged(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		time.Sleep(3 * time.Second)
		j.end <- &runner.Result{Status: runner.StatusFailed, Error: "no luck", ErrorCode: "internal"}
		a.until(t, "result", hasResult)
		if n := p.logs.FilterMessage("Job 'Nightly' failed").FilterField(zap.String("job_id", "job_1")).
			FilterField(zap.String("error", "no luck")).FilterField(zap.Duration("duration", 3*time.Second)).Len(); n != 1 {
			t.Errorf("%d lines about the failure: %v", n, p.logs.All())
		}
	})
}

func TestBeatsEveryFifthOfTTL(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(4, "e", 1, idem)))
		for i := range 5 {
			before := time.Now()
			f := a.until(t, "beat", func(f *almanacv1.LeaseRequest) bool { return f.GetHeartbeat() != nil })
			if since := time.Since(before); since != time.Second {
				t.Errorf("beat %d after %v", i, since)
			}
			if f.GetHeartbeat().GetLastNumber() != 4 || len(f.GetHeartbeat().GetHeld()) != 1 {
				t.Errorf("beat %v", f.GetHeartbeat())
			}
		}
		synctest.Wait()
		if err := p.Ready(); err != nil {
			t.Errorf("not ready after 4 s of unconfirmed beats: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "heartbeats") {
			t.Errorf("ready: %v, want a complaint about unconfirmed beats", err)
		}
		a.send(t, &almanacv1.LeaseResponse{Beat: true})
		synctest.Wait()
		if err := p.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestReconnectResends(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		first := a.welcome(t)
		a.send(t, assigned(assignment(1, "ended", 1, idem), assignment(2, "running", 1, idem)))
		jobs := map[string]*job{}
		for range 2 {
			j := <-p.hands.began
			jobs[j.run.ExecutionID] = j
		}
		jobs["ended"].report.Log("INFO", "said")
		jobs["ended"].end <- success
		a.until(t, "result", hasResult)
		a.end <- status.Error(codes.Unavailable, "the registry restarts")
		b := <-p.registry.arrivals
		second := b.welcome(t)
		h := second.GetHello()
		if h.GetSession() != first.GetHello().GetSession() || h.GetStream() != "2" || !slices.Equal(h.GetHoldings().GetOpenStreams(), []string{"2"}) {
			t.Errorf("hello %v after %v", h, first.GetHello())
		}
		if !slices.Equal(names(h.GetHeld()), []string{"ended/1", "running/1"}) || !hasResult(second) || len(second.GetLogs()) != 1 || second.GetCredits() != 0 {
			t.Errorf("first frame %v", second)
		}
		jobs["running"].end <- success
		b.until(t, "result of what went on", hasResult)
	})
}

func TestDeadSessionBeginsAnother(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		first := a.welcome(t)
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		a.end <- status.Error(codes.FailedPrecondition, "the session was silent")
		b := <-p.registry.arrivals
		second := b.until(t, "hello", func(f *almanacv1.LeaseRequest) bool { return f.GetHello() != nil })
		if second.GetHello().GetSession() == first.GetHello().GetSession() || !slices.Equal(names(second.GetHello().GetHeld()), []string{"e/1"}) {
			t.Errorf("hello %v", second.GetHello())
		}
		b.send(t, &almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{}, Stale: []*almanacv1.Lease{lease("e", 1)}})
		<-j.ctx.Done()
		if errors.Is(context.Cause(j.ctx), runner.ErrCancelled) {
			t.Error("stale work was asked to stop instead of killed")
		}
		f := b.until(t, "credit", func(f *almanacv1.LeaseRequest) bool { return f.GetCredits() == 1 })
		if hasResult(f) {
			t.Errorf("frame %v speaks of stale work", f)
		}
	})
}

func TestGoAheadTooLate(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "late", 1, single), assignment(2, "soon", 1, single)))
		a.until(t, "started", func(f *almanacv1.LeaseRequest) bool { return len(f.GetStarted()) == 2 })
		time.Sleep(2 * time.Second)
		a.send(t, &almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "soon", Token: 1}}})
		if j := <-p.hands.began; j.run.ExecutionID != "soon" {
			t.Errorf("%s began", j.run.ExecutionID)
		}
		time.Sleep(time.Second)
		a.send(t, &almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "late", Token: 1}}})
		f := a.until(t, "hand-back", func(f *almanacv1.LeaseRequest) bool { return len(f.GetHandedBack()) > 0 })
		if !slices.Equal(names(f.GetHandedBack()), []string{"late/1"}) || len(p.hands.began) != 0 {
			t.Errorf("frame %v", f)
		}
	})
}

func TestCancelReportsCancelled(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		a.send(t, &almanacv1.LeaseResponse{Cancel: []*almanacv1.Lease{lease("e", 1)}})
		<-j.ctx.Done()
		if !errors.Is(context.Cause(j.ctx), runner.ErrCancelled) {
			t.Errorf("cause %v", context.Cause(j.ctx))
		}
		if f := a.until(t, "result", hasResult); f.GetResults()[0].GetStatus() != "cancelled" {
			t.Errorf("frame %v", f)
		}
		if p.logs.FilterMessage("Job 'Nightly' cancelled").Len() != 1 {
			t.Errorf("logs %v", p.logs.All())
		}
	})
}

func TestDrain(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "run", 1, idem), assignment(2, "wait", 1, single)))
		j := <-p.hands.began
		a.until(t, "started", func(f *almanacv1.LeaseRequest) bool { return len(f.GetStarted()) == 2 })
		close(p.drain)
		f := a.until(t, "draining", func(f *almanacv1.LeaseRequest) bool { return f.GetDraining() })
		if !slices.Equal(names(f.GetHandedBack()), []string{"wait/1"}) {
			t.Errorf("frame %v", f)
		}
		a.send(t, assigned(assignment(3, "more", 1, idem)))
		a.until(t, "hand-back", func(f *almanacv1.LeaseRequest) bool { return len(f.GetHandedBack()) == 1 })
		time.Sleep(10 * time.Second)
		j.end <- success
		a.until(t, "result", hasResult)
		synctest.Wait()
		if len(p.done) != 0 {
			t.Fatal("it left before the result was acknowledged")
		}
		a.send(t, &almanacv1.LeaseResponse{Acknowledged: []*almanacv1.Lease{lease("run", 1)}})
		for range a.frames { // until our side is closed
			continue
		}
		a.end <- nil
		if err := <-p.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestDrainKillsAfterGrace(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "again", 1, idem), assignment(2, "once", 1, single)))
		<-p.hands.began
		a.until(t, "started", func(f *almanacv1.LeaseRequest) bool { return len(f.GetStarted()) == 2 })
		a.send(t, &almanacv1.LeaseResponse{Go: []*almanacv1.Go{{ExecutionId: "once", Token: 1}}})
		<-p.hands.began
		began := time.Now()
		a.send(t, &almanacv1.LeaseResponse{Drain: true})
		f := a.until(t, "ends", func(f *almanacv1.LeaseRequest) bool { return hasResult(f) && len(f.GetHandedBack()) > 0 })
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("killed after %v", took)
		}
		if !slices.Equal(names(f.GetHandedBack()), []string{"again/1"}) || !slices.Equal(results(f), []string{"once/1 crashed drained"}) {
			t.Errorf("frame %v", f)
		}
		// Nothing is acknowledged: it leaves all the same.
		if err := <-p.done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(began); took != 35*time.Second {
			t.Errorf("left after %v", took)
		}
		if p.logs.FilterMessageSnippet("did not acknowledge").Len() != 1 {
			t.Errorf("logs %v", p.logs.All())
		}
		a.end <- nil
	})
}

func TestDrainWithoutConnection(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		p.mu.Lock()
		p.refuse = errors.New("nobody is there")
		p.mu.Unlock()
		synctest.Wait()
		close(p.drain)
		if err := <-p.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestEndOfContextKillsAtOnce(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		a.send(t, assigned(assignment(1, "e", 1, idem)))
		j := <-p.hands.began
		p.cancel()
		<-j.ctx.Done()
		if errors.Is(context.Cause(j.ctx), runner.ErrCancelled) {
			t.Error("the work was asked to stop instead of killed")
		}
		if err := <-p.done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		a.end <- nil
	})
}

func TestBackOff(t *testing.T) {
	refusal := errors.New("nobody is there")
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		p.mu.Lock()
		p.refuse = refusal
		clear(p.dials)
		p.mu.Unlock()
		a.end <- status.Error(codes.Unavailable, "gone")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		dials := p.dialled(at(0))
		p.mu.Lock()
		p.refuse = nil
		p.mu.Unlock()
		// 0.1, 0.2, 0.4, 0.8, 1.6 and then 2 s, each less up to half.
		if dials < 15 || dials > 40 {
			t.Errorf("%d dials in 30 s", dials)
		}
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "nobody is there") {
			t.Errorf("ready: %v, want the reason", err)
		}
		before := time.Now()
		b := <-p.registry.arrivals
		if waited := time.Since(before); waited > 2*time.Second {
			t.Errorf("back after %v", waited)
		}
		b.welcome(t)
		synctest.Wait()
		if err := p.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		if n := p.logs.FilterMessageSnippet("No connection").Len(); n != 2 {
			t.Errorf("%d complaints, want one for each reason: %v", n, p.logs.All())
		}
		before = time.Now()
		b.end <- status.Error(codes.Unavailable, "gone")
		<-p.registry.arrivals
		if waited := time.Since(before); waited > firstRetry {
			t.Errorf("back after %v, want the shortest delay again", waited)
		}
	})
}

func TestRefusedTemplateIsLogged(t *testing.T) {
	play(t, nil, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.until(t, "hello", func(f *almanacv1.LeaseRequest) bool { return f.GetHello() != nil })
		a.send(t, &almanacv1.LeaseResponse{Welcome: &almanacv1.Welcome{Refused: []*almanacv1.RefusedTemplate{{Type: idem, Reason: "another schema"}}}})
		synctest.Wait()
		if p.logs.FilterMessageSnippet("refuses a template").FilterField(zap.String("reason", "another schema")).Len() != 1 {
			t.Errorf("logs %v", p.logs.All())
		}
	})
}

// TestResultsGather: while the sender is not free, results wait and then go
// together.
func TestResultsGather(t *testing.T) {
	const n = 100
	play(t, func(c *Config) { c.Slots = n }, func(t *testing.T, p *played) {
		a := <-p.registry.arrivals
		a.welcome(t)
		var all []*almanacv1.Assignment
		for i := range int64(n) {
			all = append(all, assignment(i+1, fmt.Sprint("e", i), 1, idem))
		}
		a.send(t, assigned(all...))
		for range n {
			(<-p.hands.began).end <- success
		}
		f := a.until(t, "results", func(f *almanacv1.LeaseRequest) bool { return len(f.GetResults()) == n })
		if f.GetCredits() != 0 {
			t.Errorf("credits %d", f.GetCredits())
		}
	})
}

// BenchmarkSession is the loop against registries that acknowledge at once, over
// memory: with work that takes no time, with a template that does nothing, and
// with two registries that both have more work than there are slots.
func BenchmarkSession(b *testing.B) {
	t, err := template.Compile(nothing{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("instant", func(b *testing.B) { benchmarkSession(b, instant{}, 1) })
	b.Run("inside", func(b *testing.B) { benchmarkSession(b, inside{t}, 1) })
	b.Run("two registries", func(b *testing.B) { benchmarkSession(b, inside{t}, 2) })
}

func benchmarkSession(b *testing.B, work Runner, registries int) {
	options, err := rpc.ServerOptions(rpc.TLS{Plaintext: true})
	if err != nil {
		b.Fatal(err)
	}
	shared := &echoes{total: int64(b.N), done: make(chan struct{})}
	config := Config{
		TLS: rpc.TLS{Plaintext: true}, Host: "h", Templates: []Template{{Descriptor: template.Descriptor{Type: idem, Idempotent: true}, Quiet: true}},
		Slots: 4096, Runner: work, LogLines: 1, LogBytes: 1, Logger: zap.NewNop(), Now: time.Now,
		After: func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop },
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(host)}, nil
		},
	}
	listeners := map[string]*bufconn.Listener{}
	for i := range registries {
		address := net.JoinHostPort(at(i).String(), "9090")
		config.Registries = append(config.Registries, address)
		listeners[address] = bufconn.Listen(1 << 20)
		server := grpc.NewServer(options...)
		almanacv1.RegisterLeaseServiceServer(server, &echo{echoes: shared, name: strconv.Itoa(i)})
		go func() { _ = server.Serve(listeners[address]) }()
		defer server.Stop()
	}
	s, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	dialOptions, err := rpc.DialOptions(rpc.TLS{Plaintext: true}, nil)
	if err != nil {
		b.Fatal(err)
	}
	dialOptions = append(dialOptions, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return listeners[address].DialContext(ctx)
	}))
	s.dial = func(ctx context.Context, to place) (transport, error) { return dial(ctx, to, "", dialOptions) }
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	go func() { defer close(ended); _ = s.Run(ctx, nil) }()
	<-shared.done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "results/s")
	b.ReportMetric(float64(shared.back.Load())/float64(b.N), "back/result")
	cancel()
	<-ended
}

type instant struct{}

func (instant) Run(context.Context, *runner.Run, template.Reporter) (*runner.Result, []string) {
	return success, nil
}

// inside runs a template in this process.
type inside struct{ t *template.Compiled }

func (i inside) Run(ctx context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string) {
	return runner.Execute(ctx, i.t, run, report), nil
}

type nothing struct{}

func (nothing) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type: idem, Version: 1, Name: "Nothing", Description: "Does nothing", Category: "test", Icon: "⏱",
		EstimatedDuration: "no time", ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
	}
}

func (nothing) Schema() map[string]any { return map[string]any{"type": "object"} }

func (nothing) ValidateParams(map[string]any) error { return nil }

func (nothing) Execute(context.Context, *template.Run) (template.Result, error) {
	return template.Result{"message": "Nothing was done."}, nil
}

// echoes is what several registries know together.
type echoes struct {
	total       int64
	ended, back atomic.Int64
	done        chan struct{}
}

// echo assigns as much as it has credit for.
type echo struct {
	almanacv1.UnimplementedLeaseServiceServer
	*echoes
	name string
}

func (e *echo) Lease(stream grpc.BidiStreamingServer[almanacv1.LeaseRequest, almanacv1.LeaseResponse]) error {
	assigned, credits := int64(0), int32(0)
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := &almanacv1.LeaseResponse{}
		if f.GetHello() != nil {
			answer.Welcome = &almanacv1.Welcome{SessionTtlMilliseconds: 5000}
		}
		for _, r := range f.GetResults() {
			answer.Acknowledged = append(answer.Acknowledged, lease(r.GetExecutionId(), r.GetToken()))
		}
		n := int64(len(f.GetResults()))
		if ended := e.ended.Add(n); n > 0 && ended >= e.total && ended-n < e.total {
			close(e.done)
		}
		e.back.Add(int64(len(f.GetHandedBack())))
		for credits += f.GetCredits(); credits > 0 && e.ended.Load() < e.total; credits-- {
			assigned++
			answer.Assignments = append(answer.Assignments, assignment(assigned, fmt.Sprintf("exec_%s_%012d", e.name, assigned), 1, idem))
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}
