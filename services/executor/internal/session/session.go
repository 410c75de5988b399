package session

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// Runner does the work of attempts. Run performs one and returns when nothing of
// it is left. When ctx ends before the work does, Run asks the work to stop if
// the cause is runner.ErrCancelled, and kills it at once otherwise; it returns a
// nil result when there was none any more. The strings name what kept the
// attempt apart. Run is called concurrently.
type Runner interface {
	Run(ctx context.Context, run *runner.Run, report template.Reporter) (*runner.Result, []string)
}

// Template is what the session announces, and knows, of one template.
type Template struct {
	Descriptor template.Descriptor
	Schema     map[string]any
	// Allowed holds the values permitted for each restricted parameter.
	Allowed map[string][]string
	// Isolation is what is expected to keep its runs apart.
	Isolation []string
	// Quiet keeps the starts and failures of its runs out of the usual log.
	Quiet bool
}

// Config is what a session needs. All fields without a remark are required.
type Config struct {
	Registry  string // host:port
	TLS       rpc.TLS
	Token     func() (string, error) // nil sends none
	Host      string                 // name for people
	Version   string
	Labels    map[string]string // may be nil
	Templates []Template
	Slots     int
	Runner    Runner
	// LogLines and LogBytes bound what one run may log.
	LogLines, LogBytes int
	// Grace is how long running work may go on after a drain began. SettleTime
	// is how much longer the session waits for acknowledgements.
	Grace, SettleTime time.Duration
	Logger            *zap.Logger
	// Now is the clock, with its monotonic reading. After calls f in a goroutine
	// of its own when d has passed, unless the function it returns was called.
	Now   func() time.Time
	After func(d time.Duration, f func()) (stop func() bool)
}

// Session is one executor's session with a registry.
type Session struct {
	config Config
	state  state
	inbox  *inbox
	dial   func(ctx context.Context) (stream, error)
	runs   sync.WaitGroup

	health atomic.Pointer[string] // why it is not ready, or nil
}

// New prepares a session. It fails when the transport's files cannot be read or
// a schema is no JSON.
func New(config Config) (*Session, error) {
	options, err := rpc.DialOptions(config.TLS, config.Token)
	if err != nil {
		return nil, err
	}
	s := &Session{config: config, inbox: newInbox(config.Now)}
	s.dial = func(ctx context.Context) (stream, error) { return dial(ctx, config.Registry, options) }
	hello := &almanacv1.Hello{Session: rand.Text(), Host: config.Host, Version: config.Version, Labels: config.Labels}
	templates := make(map[string]Template, len(config.Templates))
	for _, t := range config.Templates {
		announcement, err := announce(t)
		if err != nil {
			return nil, err
		}
		hello.Templates = append(hello.Templates, announcement)
		templates[t.Descriptor.Type] = t
	}
	s.state = state{
		identity: hello, templates: templates, slots: config.Slots,
		limits: limits{lines: config.LogLines, bytes: config.LogBytes},
		inbox:  s.inbox, logger: config.Logger, newID: rand.Text, ttl: firstTTL,
		attempts: map[string]*attempt{}, dying: map[string]*attempt{},
	}
	s.unready("the registry has not been reached yet")
	return s, nil
}

func announce(t Template) (*almanacv1.TemplateAnnouncement, error) {
	schema, err := json.Marshal(t.Schema)
	if err != nil {
		return nil, fmt.Errorf("template %s: schema: %w", t.Descriptor.Type, err)
	}
	d := t.Descriptor
	announcement := &almanacv1.TemplateAnnouncement{
		Type: d.Type, Version: int32(d.Version), Name: d.Name, Description: d.Description, Category: d.Category, Icon: d.Icon,
		SchemaJson: schema, EstimatedDuration: d.EstimatedDuration, ResourceUsage: d.ResourceUsage, RiskLevel: d.RiskLevel,
		Idempotent: d.Idempotent, Destructive: d.Destructive,
	}
	for _, parameter := range d.Restricted {
		announcement.Restrictions = append(announcement.Restrictions, &almanacv1.Restriction{Parameter: parameter, Values: t.Allowed[parameter]})
	}
	return announcement, nil
}

// Ready returns nil while a registry knows this session and confirms its
// heartbeats, and otherwise an error that says what is missing.
func (s *Session) Ready() error {
	if why := s.health.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

func (s *Session) unready(why string) { s.health.Store(&why) }

// Run keeps the session until it has drained, which begins when drain is closed
// or the registry asks for it, or until ctx ends, which kills all work at once.
// It returns nil after a drain and the context's cause otherwise. By then no work
// is left. Run may be called once.
func (s *Session) Run(ctx context.Context, drain <-chan struct{}) error {
	defer s.runs.Wait()
	l := &loop{Session: s, ctx: ctx, opened: make(chan opening), alarm: alarm{after: s.config.After, rang: make(chan struct{}, 1)}}
	s.state.start = l.start
	defer l.close()
	for {
		now := s.config.Now()
		l.spare = s.inbox.take(l.spare)
		s.state.happened(l.spare, now)
		clear(l.spare)
		s.state.tick(now)
		if l.step(now) {
			return nil
		}
		select {
		case <-ctx.Done():
			s.state.killAll(errEnded)
			return context.Cause(ctx)
		case <-drain:
			drain = nil
			s.state.drain()
		case <-s.inbox.wake:
		case <-l.alarm.rang:
		case opened := <-l.opened:
			l.arrived(opened, s.config.Now())
		case frame := <-l.link.frames:
			s.state.received(frame, s.config.Now())
			if frame.GetWelcome() != nil {
				l.failures, l.said = 0, ""
			}
		case <-l.link.sent:
			l.sending = false
		case err := <-l.link.ended:
			l.broke(err, s.config.Now())
		}
	}
}

// loop is what Run's goroutine has beside the state: the stream, and time.
type loop struct {
	*Session
	ctx   context.Context // that of Run, which the loop does not outlive
	alarm alarm
	spare []event

	opened     chan opening
	link       link // the zero link while there is no stream
	connecting context.CancelFunc
	sending    bool // the sender has a frame that it has not sent yet
	finishing  bool // nothing is left to say: the stream is being closed
	failures   int  // to connect, in a row
	retryAt    time.Time
	said       string // the last complaint, so that it is not repeated

	killAt, leaveAt time.Time // of a drain; zero before it
	killed          bool
}

type opening struct {
	stream stream
	cancel context.CancelFunc
	err    error
}

// step does what is due. It returns true when the session has drained.
func (l *loop) step(now time.Time) bool {
	st := &l.state
	if st.draining {
		if l.drained(now) {
			return true
		}
	}
	if l.link.frames == nil && l.connecting == nil && !now.Before(l.retryAt) {
		l.connect()
	}
	if l.link.frames != nil && !l.sending && !l.finishing && st.pending() {
		l.sending = true
		l.link.out <- st.frame(now)
	}
	switch {
	case !st.welcomed:
		// broke and Run's beginning have said why.
	case !st.beatSent.IsZero() && now.Sub(st.beatSent) > st.ttl:
		l.unready("the registry does not confirm heartbeats")
	case st.draining:
		l.unready("the executor drains")
	default:
		l.health.Store(nil)
	}
	wake := earliest(l.killAt, l.leaveAt)
	if l.link.frames == nil && l.connecting == nil {
		wake = earliest(wake, l.retryAt)
	}
	if st.welcomed {
		wake = earliest(wake, st.beatAt)
	}
	l.alarm.set(now, wake)
	return false
}

// drained carries a drain on, and says when it is complete.
func (l *loop) drained(now time.Time) bool {
	st := &l.state
	if l.killAt.IsZero() && !l.killed {
		l.killAt = now.Add(l.config.Grace)
		l.config.Logger.Info("Draining: no more work is taken", zap.Duration("grace", l.config.Grace), zap.Int("held", len(st.attempts)))
	}
	if !l.killed && !now.Before(l.killAt) {
		l.killed, l.killAt = true, time.Time{}
		st.killAll(errDrained)
	}
	if st.busy() {
		return false
	}
	if l.leaveAt.IsZero() {
		l.leaveAt = now.Add(l.config.SettleTime)
	}
	if !now.Before(l.leaveAt) {
		if len(st.attempts) > 0 {
			l.config.Logger.Error("Leaving with results that the registry did not acknowledge", zap.Int("results", len(st.attempts)))
		}
		return true
	}
	if len(st.attempts) > 0 || st.pending() || l.sending {
		return false
	}
	if l.link.frames == nil {
		return true
	}
	if !l.finishing {
		// The registry answers the end of our side with the end of its own, when
		// all that was sent has arrived.
		l.finishing = true
		close(l.link.out)
	}
	return false
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// start begins the work of an attempt.
func (l *loop) start(a *attempt) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(l.ctx))
	a.cancel = cancel
	l.runs.Add(1)
	go func() {
		defer l.runs.Done()
		deepen()
		result, isolation := l.config.Runner.Run(ctx, &a.run, &a.report)
		cancel(nil)
		l.inbox.put(event{attempt: a, end: true, at: l.config.Now(), result: result, isolation: isolation})
	}()
}

// deepen gives its goroutine at once the stack that a run inside this process
// needs. It would grow in steps otherwise, each moving all frames of the run, which
// takes about as long as a short run does.
//
//go:noinline
func deepen() {
	var room [6 << 10]byte
	runtime.KeepAlive(&room)
}

// connect opens a stream without waiting for it.
func (l *loop) connect() {
	ctx, cancel := context.WithCancel(l.ctx)
	l.connecting = cancel
	go func() {
		s, err := l.dial(ctx)
		l.opened <- opening{stream: s, cancel: cancel, err: err}
	}()
}

func (l *loop) arrived(o opening, now time.Time) {
	l.connecting = nil
	if o.err != nil {
		o.cancel()
		l.retry(o.err, now)
		return
	}
	l.state.opened(now)
	l.sending = false
	l.link = newLink(o.stream, o.cancel)
}

// broke takes in the end of the stream.
func (l *loop) broke(err error, now time.Time) {
	l.link.close()
	l.link = link{}
	l.state.lost()
	if l.finishing && errors.Is(err, io.EOF) {
		l.leaveAt = now
		return
	}
	l.finishing = false
	if status.Code(err) == codes.FailedPrecondition {
		l.config.Logger.Warn("The registry declared this session dead; beginning another", zap.Error(err))
		l.state.died()
	}
	l.retry(err, now)
}

// Delays between attempts to connect.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// retry plans the next attempt to connect: doubling delays, half of each random,
// so that a fleet does not come back in step.
func (l *loop) retry(err error, now time.Time) {
	delay := min(firstRetry<<min(l.failures, 10), lastRetry)
	l.failures++
	l.retryAt = now.Add(delay/2 + mathrand.N(delay/2)) //nolint:gosec // only spreads the attempts
	why := "no connection to the registry: " + err.Error()
	if why != l.said {
		l.said = why
		l.config.Logger.Warn("No connection to the registry; trying again", zap.String("registry", l.config.Registry), zap.Error(err))
	}
	l.unready(why)
}

// close ends the stream and waits for all that belongs to it.
func (l *loop) close() {
	l.unready("the executor has ended")
	l.alarm.clear()
	if l.connecting != nil {
		l.connecting()
		if o := <-l.opened; o.err == nil {
			o.stream.Close()
		}
	}
	if l.link.frames != nil {
		l.link.close()
	}
}

// stream is what a session needs of a gRPC stream.
type stream interface {
	Send(*almanacv1.LeaseRequest) error
	Recv() (*almanacv1.LeaseResponse, error)
	CloseSend() error
	// Close lets go of the connection below.
	Close()
}

// connection is a stream with a connection of its own, so that the delay between
// two attempts is the session's alone to decide, and names are resolved anew.
type connection struct {
	grpc.BidiStreamingClient[almanacv1.LeaseRequest, almanacv1.LeaseResponse]
	conn *grpc.ClientConn
}

// Close ends the connection.
func (c connection) Close() { c.conn.Close() }

func dial(ctx context.Context, registry string, options []grpc.DialOption) (stream, error) {
	conn, err := grpc.NewClient(registry, options...)
	if err != nil {
		return nil, err
	}
	lease, err := almanacv1.NewLeaseServiceClient(conn).Lease(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return connection{lease, conn}, nil
}

// link is a live stream with the two goroutines that serve it.
type link struct {
	out    chan *almanacv1.LeaseRequest // capacity 1; its end closes our side
	sent   chan struct{}                // the frame given to out was sent
	frames chan *almanacv1.LeaseResponse
	ended  chan error // once
	close  func()
}

func newLink(s stream, cancel context.CancelFunc) link {
	l := link{
		out: make(chan *almanacv1.LeaseRequest, 1), sent: make(chan struct{}, 1),
		frames: make(chan *almanacv1.LeaseResponse), ended: make(chan error, 1),
	}
	gone := make(chan struct{})
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		for {
			select {
			case frame, ok := <-l.out:
				if !ok {
					_ = s.CloseSend() // Recv says how the stream ends
					return
				}
				if s.Send(frame) != nil {
					return // Recv has the reason
				}
				l.sent <- struct{}{}
			case <-gone:
				return
			}
		}
	}()
	go func() {
		defer both.Done()
		for {
			frame, err := s.Recv()
			if err != nil {
				l.ended <- err
				return
			}
			select {
			case l.frames <- frame:
			case <-gone:
				return
			}
		}
	}()
	l.close = func() {
		close(gone)
		cancel()
		both.Wait()
		s.Close()
	}
	return l
}

// alarm wakes the loop at one time at most.
type alarm struct {
	after func(time.Duration, func()) func() bool
	rang  chan struct{} // capacity 1
	at    time.Time
	stop  func() bool
}

// set replaces the time; zero is never.
func (a *alarm) set(now, at time.Time) {
	if at.Equal(a.at) && now.Before(at) || at.IsZero() && a.at.IsZero() {
		return
	}
	a.clear()
	if at.IsZero() {
		return
	}
	a.at = at
	a.stop = a.after(max(at.Sub(now), 0), func() {
		select {
		case a.rang <- struct{}{}:
		default:
		}
	})
}

func (a *alarm) clear() {
	if a.stop != nil {
		a.stop()
	}
	a.at, a.stop = time.Time{}, nil
}
