package session

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
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
	// Registries are host:port addresses. A host with several addresses is as
	// many registries.
	Registries []string
	// Lookup returns the addresses of a host; an address is its own.
	Lookup    func(ctx context.Context, host string) ([]netip.Addr, error)
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

// Session is one executor's session with the registries.
type Session struct {
	config  Config
	targets []target
	state   state
	inbox   *inbox
	dial    func(ctx context.Context, to place) (transport, error)
	runs    sync.WaitGroup

	health atomic.Pointer[string] // why it is not ready, or nil
}

// New prepares a session. It fails when a registry is not host:port, the
// transport's files cannot be read, or a schema is no JSON.
func New(config Config) (*Session, error) {
	s := &Session{config: config, inbox: newInbox(config.Now)}
	for _, registry := range config.Registries {
		host, port, err := net.SplitHostPort(registry)
		if err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
		s.targets = append(s.targets, target{registry: registry, host: host, port: port})
	}
	options, err := rpc.DialOptions(config.TLS, config.Token)
	if err != nil {
		return nil, err
	}
	s.dial = func(ctx context.Context, to place) (transport, error) {
		return dial(ctx, to, config.TLS.ServerName, options)
	}
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
		attempts: make(map[string]*attempt, config.Slots), dying: map[string]*attempt{},
	}
	s.unready(notReached)
	return s, nil
}

const notReached = "no registry has been reached yet"

func announce(t Template) (*almanacv1.TemplateAnnouncement, error) {
	schema, err := json.Marshal(t.Schema)
	if err != nil {
		return nil, fmt.Errorf("template %s: schema: %w", t.Descriptor.Type, err)
	}
	d := t.Descriptor
	announcement := &almanacv1.TemplateAnnouncement{
		Type: d.Type, Version: int32(d.Version), Name: d.Name, Description: d.Description, Category: d.Category, Icon: d.Icon,
		SchemaJson: schema, EstimatedDuration: d.EstimatedDuration, ResourceUsage: d.ResourceUsage, RiskLevel: d.RiskLevel,
		Idempotent: d.Idempotent, Destructive: d.Destructive, MaxConcurrency: int32(d.MaxConcurrency),
	}
	for _, parameter := range d.Restricted {
		announcement.Restrictions = append(announcement.Restrictions, &almanacv1.Restriction{Parameter: parameter, Values: t.Allowed[parameter]})
	}
	return announcement, nil
}

// Ready returns nil while at least one registry knows this session and confirms its
// heartbeats, and otherwise an error that says what is missing.
func (s *Session) Ready() error {
	if why := s.health.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

func (s *Session) unready(why string) { s.health.Store(&why) }

// Run keeps the session until it has drained, which begins when drain is closed
// or a registry asks for it, or until ctx ends, which kills all work at once.
// It returns nil after a drain and the context's cause otherwise. By then no work
// is left. Run may be called once.
func (s *Session) Run(ctx context.Context, drain <-chan struct{}) error {
	defer s.runs.Wait()
	l := &loop{
		Session: s, ctx: ctx, lasting: context.WithoutCancel(ctx), alarm: alarm{after: s.config.After, rang: make(chan struct{}, 1)},
		trouble: notReached, looked: make(chan found), opened: make(chan opening), news: make(chan news),
	}
	for _, t := range s.targets {
		l.lookups = append(l.lookups, &lookup{target: t})
	}
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
		case answer := <-l.looked:
			l.learn(answer, s.config.Now())
		case opened := <-l.opened:
			l.arrived(opened, s.config.Now())
		case n := <-l.news:
			l.heard(n, s.config.Now())
		}
	}
}

// loop is what Run's goroutine has beside the state: where registries are, the
// streams to them, and time.
type loop struct {
	*Session
	ctx   context.Context // that of Run, which the loop does not outlive
	alarm alarm
	spare []event

	lasting context.Context // of work: it ends by its attempt's cancel only
	begun   backlog

	lookups []*lookup
	looked  chan found

	peers     []*peer
	trouble   string // why there is no stream, as far as it is known
	opened    chan opening
	news      chan news
	finishing bool // nothing is left to say: the streams are being closed

	killAt, leaveAt time.Time // of a drain; zero before it
	killed          bool
}

// peer is an address where a registry is, or was.
type peer struct {
	place
	gone       bool // its name has this address no more: it is not dialled again
	link       *link
	connecting context.CancelFunc
	failures   int // to connect, in a row
	retryAt    time.Time
	said       string // the last complaint, so that it is not repeated
}

// idle says whether the peer has no stream and is not getting one.
func (p *peer) idle() bool { return p.link == nil && p.connecting == nil }

type opening struct {
	peer      *peer
	transport transport
	cancel    context.CancelFunc
	err       error
}

// step does what is due. It returns true when the session has drained.
func (l *loop) step(now time.Time) bool {
	st := &l.state
	if st.draining && l.drained(now) {
		return true
	}
	for _, p := range l.peers {
		if p.link != nil && !p.link.stream.welcomed && !now.Before(p.link.welcomeBy) {
			l.broke(p, errors.New("the registry does not answer the hello"), now)
		}
	}
	wake := earliest(earliest(l.killAt, l.leaveAt), st.tickAt())
	for _, k := range l.lookups {
		switch {
		case k.cancel != nil:
		case now.Before(k.at):
			wake = earliest(wake, k.at)
		default:
			l.look(k)
		}
	}
	l.peers = slices.DeleteFunc(l.peers, func(p *peer) bool { return p.gone && p.idle() })
	for _, p := range l.peers {
		switch {
		case p.idle() && !l.finishing && !now.Before(p.retryAt):
			l.connect(p)
		case p.idle() && l.finishing:
		case p.idle():
			wake = earliest(wake, p.retryAt)
		case p.link == nil:
		default:
			if !p.link.stream.welcomed {
				wake = earliest(wake, p.link.welcomeBy)
			}
			if !p.link.sending && !l.finishing && st.pending(p.link.stream) {
				p.link.sending = true
				p.link.out <- st.frame(p.link.stream, now)
			}
		}
	}
	switch {
	case st.beater == nil:
		l.unready(l.trouble)
	case !st.unconfirmed.IsZero() && now.Sub(st.unconfirmed) > st.ttl:
		l.unready("the registries do not confirm heartbeats")
	case st.draining:
		l.unready("the executor drains")
	default:
		l.health.Store(nil)
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
	if len(st.streams) == 0 {
		return len(st.attempts) == 0
	}
	if l.finishing || len(st.attempts) > 0 {
		return false
	}
	for _, p := range l.peers {
		if p.link != nil && (p.link.sending || st.pending(p.link.stream)) {
			return false
		}
	}
	// A registry answers the end of our side with the end of its own, when all
	// that was sent has arrived.
	l.finishing = true
	for _, p := range l.peers {
		if p.link != nil {
			close(p.link.out)
		}
	}
	return false
}

// connect opens a stream without waiting for it.
func (l *loop) connect(p *peer) {
	ctx, cancel := context.WithCancel(l.ctx)
	p.connecting = cancel
	go func() {
		t, err := l.dial(ctx, p.place)
		l.opened <- opening{peer: p, transport: t, cancel: cancel, err: err}
	}()
}

// patience is how long a registry may take to answer a hello.
const patience = 10 * time.Second

func (l *loop) arrived(o opening, now time.Time) {
	o.peer.connecting = nil
	if o.err != nil {
		o.cancel()
		l.retry(o.peer, o.err, now)
		return
	}
	if l.finishing {
		o.cancel()
		o.transport.Close()
		return
	}
	o.peer.link = newLink(o.peer, o.transport, o.cancel, l.news)
	o.peer.link.stream, o.peer.link.welcomeBy = l.state.opened(), now.Add(patience)
}

// heard takes in what a link has to tell.
func (l *loop) heard(n news, now time.Time) {
	p := n.peer
	switch {
	case n.err != nil:
		l.broke(p, n.err, now)
	case n.frame == nil:
		p.link.sending = false
	default:
		l.state.received(p.link.stream, n.frame, now)
		if len(n.frame.GetAssignments()) > 0 {
			// Runs that take no time are over before anything is said of them: then
			// the result says it all.
			runtime.Gosched()
		}
		if n.frame.GetWelcome() != nil {
			p.failures, p.said = 0, ""
		}
	}
}

// broke ends a stream. What its goroutines still wanted to tell is never heard.
func (l *loop) broke(p *peer, err error, now time.Time) {
	l.state.lost(p.link.stream)
	p.link.close()
	p.link = nil
	if l.finishing {
		return
	}
	for _, k := range l.lookups {
		k.at = now // a registry that moved is found at its new address
	}
	l.retry(p, err, now)
	if status.Code(err) != codes.FailedPrecondition {
		return
	}
	l.trouble = "a registry declared the session dead"
	l.config.Logger.Warn("A registry declared this session dead; beginning another", zap.String("registry", p.address), zap.Error(err))
	l.state.died()
	for _, other := range l.peers {
		if other.link != nil {
			other.link.close()
			other.link = nil
		}
	}
}

// Delays between attempts to connect.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// retry plans the next attempt to connect: doubling delays, half of each random,
// so that a fleet does not come back in step.
func (l *loop) retry(p *peer, err error, now time.Time) {
	delay := min(firstRetry<<min(p.failures, 10), lastRetry)
	p.failures++
	p.retryAt = now.Add(delay/2 + mathrand.N(delay/2)) //nolint:gosec // only spreads the attempts
	why := "no connection to the registry at " + p.address + ": " + err.Error()
	if why != p.said {
		p.said = why
		l.config.Logger.Warn("No connection to a registry; trying again", zap.String("registry", p.registry), zap.String("address", p.address), zap.Error(err))
	}
	l.trouble = why
}

// close ends the streams and waits for all that belongs to them.
func (l *loop) close() {
	l.unready("the executor has ended")
	l.alarm.clear()
	looking := 0
	for _, k := range l.lookups {
		if k.cancel != nil {
			k.cancel()
			looking++
		}
	}
	for range looking {
		<-l.looked
	}
	connecting := 0
	for _, p := range l.peers {
		if p.connecting != nil {
			p.connecting()
			connecting++
		}
		if p.link != nil {
			p.link.close()
		}
	}
	for range connecting {
		if o := <-l.opened; o.err == nil {
			o.transport.Close()
		}
	}
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
