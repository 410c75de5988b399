package session

import (
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// Why an attempt's work is killed at once.
var (
	errStale   = errors.New("the lease is stale")
	errDrained = errors.New("the executor's time to finish is over")
	errEnded   = errors.New("the executor ends")
)

// codeDrained is the error code of a run that may not be repeated and was killed
// at the end of a drain.
const codeDrained = "drained"

// frameBytes is about how much goes into one frame, well below what a message
// may hold.
const frameBytes = 1 << 20

// firstTTL is assumed until the registry has said its own.
const firstTTL = 5 * time.Second

// state is everything the session knows, and what it decides. It does no I/O and
// reads no clock; it starts work by start, which must not block, and ends it by
// an attempt's cancel.
type state struct {
	identity  *almanacv1.Hello // of the next hello, save for what changes
	templates map[string]Template
	slots     int
	limits    limits
	inbox     *inbox
	logger    *zap.Logger
	start     func(*attempt)
	newID     func() string

	attempts map[string]*attempt // what is held, by execution: never two tokens of one
	dying    map[string]*attempt // stale work that is being killed, by execution
	used     int                 // slots taken by both

	// Of the session with the registry.
	stream     string   // the live one, or ""
	closed     []string // earlier ones that no welcome has confirmed yet
	helloSent  bool
	welcomed   bool
	ttl        time.Duration
	lastNumber int64
	granted    int // credits that the registry has not used on this stream
	beatAt     time.Time
	beatDue    bool
	beatSent   time.Time // the oldest beat not yet confirmed; zero when all are

	draining     bool
	drainingSaid bool

	// What waits for the next frames, in order.
	starts   []*attempt
	chunks   []*almanacv1.LogChunk
	results  []*attempt
	progress []*attempt
	back     []*almanacv1.Lease
}

// opened begins a stream: everything held is said again.
func (s *state) opened(now time.Time) {
	s.stream = s.newID()
	s.helloSent, s.welcomed, s.drainingSaid = false, false, false
	s.lastNumber, s.granted = 0, 0
	s.beatDue, s.beatSent = false, time.Time{}
	s.starts, s.chunks, s.results, s.back = nil, nil, nil, nil // progress is kept: the latest is as good as ever
	for _, a := range s.attempts {
		if a.phase == waiting && s.tooLate(a, now) {
			s.handBack(a)
			continue
		}
		switch a.phase {
		case waiting, running:
			s.starts = append(s.starts, a)
		case ended:
			s.results = append(s.results, a)
		case blocked, over:
		}
		s.chunks = append(s.chunks, a.chunks...)
	}
	// What was handed back just now is simply not among the held.
	s.back = nil
}

// lost ends a stream: nothing that it may still bring is acted on.
func (s *state) lost() {
	if s.helloSent {
		s.closed = append(s.closed, s.stream)
	}
	s.stream, s.welcomed = "", false
}

// died takes a new session id: the registry has declared the old one dead.
func (s *state) died() {
	s.identity.Session = s.newID()
	s.closed = nil // they belonged to the dead one, whose leases are settled with it
}

// received acts on one frame of the live stream.
func (s *state) received(m *almanacv1.LeaseResponse, now time.Time) {
	if w := m.GetWelcome(); w != nil {
		s.welcomed, s.closed = true, nil
		if ms := w.GetSessionTtlMilliseconds(); ms > 0 {
			s.ttl = time.Duration(ms) * time.Millisecond
		}
		s.beatAt = now.Add(s.ttl / 5)
		s.logger.Info("Connected to the registry", zap.String("registry", w.GetRegistry()), zap.String("session", s.identity.GetSession()))
		for _, refused := range w.GetRefused() {
			s.logger.Error("The registry refuses a template", zap.String("template", refused.GetType()), zap.String("reason", refused.GetReason()))
		}
	}
	for _, assignment := range m.GetAssignments() {
		s.assigned(assignment, now)
	}
	for _, g := range m.GetGo() {
		if a := s.held(g.GetExecutionId(), g.GetToken()); a != nil && a.phase == waiting {
			s.goAhead(a, now)
		}
	}
	for _, lease := range m.GetAcknowledged() {
		if a := s.held(lease.GetExecutionId(), lease.GetToken()); a != nil && a.phase == ended {
			s.release(a)
		}
	}
	for _, lease := range m.GetCancel() {
		if a := s.held(lease.GetExecutionId(), lease.GetToken()); a != nil {
			s.cancelled(a, now)
		}
	}
	for _, lease := range m.GetStale() {
		if a := s.held(lease.GetExecutionId(), lease.GetToken()); a != nil {
			s.stale(a)
		}
	}
	if m.GetBeat() {
		s.beatSent = time.Time{}
	}
	if m.GetDrain() {
		s.drain()
	}
}

// held returns the attempt under that very token, or nil.
func (s *state) held(execution string, token int64) *attempt {
	a := s.attempts[execution]
	if a == nil || a.lease.Token != token {
		return nil
	}
	return a
}

func (s *state) assigned(m *almanacv1.Assignment, now time.Time) {
	s.lastNumber = max(s.lastNumber, m.GetNumber())
	s.granted = max(s.granted-1, 0)
	if older := s.attempts[m.GetExecutionId()]; older != nil {
		if older.lease.Token >= m.GetToken() {
			return // held already, or overtaken
		}
		s.stale(older)
	}
	if s.draining || s.used >= s.slots {
		s.back = append(s.back, &almanacv1.Lease{ExecutionId: m.GetExecutionId(), Token: m.GetToken()})
		return
	}
	a := newAttempt(m, s.templates[m.GetTemplateType()], s.inbox, s.limits)
	s.used++
	s.attempts[a.lease.ExecutionId] = a
	if s.dying[a.lease.ExecutionId] == nil {
		s.begin(a, now)
	}
}

// begin starts the work, or asks for the go-ahead.
func (s *state) begin(a *attempt, now time.Time) {
	a.startedNow(now, s.templates[a.run.Template].Isolation)
	s.starts = append(s.starts, a)
	if a.awaitGo {
		a.phase = waiting
		return
	}
	s.work(a, a.timeout)
}

// goAhead starts the work unless that is too late to be safe. The attempt's
// time-out counts from its Started, as it does at the registry.
func (s *state) goAhead(a *attempt, now time.Time) {
	left := a.timeout - elapsed(a.began, now)
	if s.tooLate(a, now) || a.timeout > 0 && left <= 0 {
		s.handBack(a)
		return
	}
	if a.timeout == 0 {
		left = 0
	}
	s.work(a, left)
}

// tooLate says whether a go-ahead for a waiting attempt could come from before
// its session was given up.
func (s *state) tooLate(a *attempt, now time.Time) bool {
	return a.startSent && elapsed(a.began, now) > s.ttl/2
}

// elapsed is the longer of what the monotonic and the wall clock say: the first
// stands still while a machine is suspended.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

func (s *state) work(a *attempt, timeout time.Duration) {
	a.phase, a.alive = running, true
	a.run.Timeout = timeout
	if log := s.logger.Check(a.level(zap.InfoLevel), "Job '"+a.run.JobName+"' started"); log != nil {
		log.Write(zap.String("job_id", a.run.JobID), zap.String("template", a.run.Template), zap.String("triggered_by", a.run.TriggeredBy),
			zap.String("execution_id", a.run.ExecutionID), zap.Int("attempt", a.run.Attempt))
	}
	s.start(a)
}

func (s *state) cancelled(a *attempt, now time.Time) {
	switch a.phase {
	case blocked, waiting:
		s.finish(a, &runner.Result{Status: runner.StatusCancelled, Error: "The run was cancelled before it began.", ErrorCode: template.CodeCancelled}, nil, now)
	case running:
		a.end(runner.ErrCancelled)
	case ended, over:
	}
}

// stale forgets a lease; its slot is free when its work is gone.
func (s *state) stale(a *attempt) {
	if !a.alive {
		s.release(a)
		return
	}
	delete(s.attempts, a.lease.ExecutionId)
	s.dying[a.lease.ExecutionId] = a // no other is: its successor would not have begun
	a.phase = over
	a.end(errStale)
}

// handBack returns a lease whose work never began, or may begin again.
func (s *state) handBack(a *attempt) {
	s.back = append(s.back, &a.lease)
	s.release(a)
}

// release forgets an attempt of whose work nothing is left, and frees its slot.
func (s *state) release(a *attempt) {
	delete(s.attempts, a.lease.ExecutionId)
	a.phase = over
	s.used--
}

// happened takes in what attempts have done.
func (s *state) happened(events []event, now time.Time) {
	for i := range events {
		e := &events[i]
		a := e.attempt
		switch {
		case e.end:
			s.gone(a, e, now)
		case a.phase != running:
		case e.line != nil:
			if begun := a.addLine(e.line); begun != nil {
				s.chunks = append(s.chunks, begun)
			}
		case e.progress != nil:
			if a.progress == nil {
				s.progress = append(s.progress, a)
			}
			a.progress = e.progress
		}
	}
}

// gone takes in that nothing of an attempt's work is left.
func (s *state) gone(a *attempt, e *event, now time.Time) {
	a.alive = false
	if a.phase == over {
		delete(s.dying, a.lease.ExecutionId)
		s.used--
		if next := s.attempts[a.lease.ExecutionId]; next != nil && next.phase == blocked {
			s.begin(next, now)
		}
		return
	}
	result := e.result
	switch {
	case result != nil:
	case errors.Is(a.why, errDrained) && a.idempotent:
		s.handBack(a)
		return
	case errors.Is(a.why, errDrained):
		result = &runner.Result{Status: runner.StatusCrashed, Error: "The executor was shut down and its time to finish was over.", ErrorCode: codeDrained}
	case errors.Is(a.why, runner.ErrCancelled):
		result = &runner.Result{Status: runner.StatusCancelled, Error: "The run was cancelled.", ErrorCode: template.CodeCancelled}
	default:
		s.release(a) // the process ends; the registry finds the session silent
		return
	}
	s.finish(a, result, e.isolation, e.at)
}

// finish keeps a result until it is acknowledged.
func (s *state) finish(a *attempt, r *runner.Result, isolation []string, at time.Time) {
	if len(r.Result) > runner.MaxResultBytes {
		r = &runner.Result{Status: runner.StatusFailed, Error: "The result is larger than is permitted.", ErrorCode: template.CodeLimit}
	}
	a.phase = ended
	a.result = &almanacv1.RunResult{
		ExecutionId: a.lease.ExecutionId, Token: a.lease.Token,
		Status: r.Status, CompletedAt: timestamppb.New(at), ResultJson: r.Result,
		Error: text(r.Error), ErrorCode: text(r.ErrorCode), Retryable: r.Retryable, Isolation: isolation,
	}
	if !a.began.IsZero() {
		a.result.StartedAt = &a.startedAt
	}
	s.results = append(s.results, a)
	level, how := zap.WarnLevel, "failed"
	switch r.Status {
	case runner.StatusSuccess:
		return
	case runner.StatusCancelled:
		level, how = zap.InfoLevel, "cancelled"
	}
	if log := s.logger.Check(a.level(level), "Job '"+a.run.JobName+"' "+how); log != nil {
		log.Write(zap.String("job_id", a.run.JobID), zap.String("error", a.result.GetError()), zap.Duration("duration", a.duration(at)),
			zap.String("execution_id", a.run.ExecutionID), zap.String("status", r.Status), zap.String("error_code", a.result.GetErrorCode()))
	}
}

// drain stops the taking of work and hands back what has not begun.
func (s *state) drain() {
	if s.draining {
		return
	}
	s.draining = true
	s.granted = 0
	for _, a := range s.attempts {
		if a.phase == blocked || a.phase == waiting {
			s.handBack(a)
		}
	}
}

// killAll ends what still runs.
func (s *state) killAll(cause error) {
	for _, a := range s.attempts {
		if a.alive {
			a.end(cause)
		}
	}
}

// busy says whether any work goes on.
func (s *state) busy() bool {
	for _, a := range s.attempts {
		if a.alive {
			return true
		}
	}
	return len(s.dying) > 0
}

// tick makes a beat due when its time has come.
func (s *state) tick(now time.Time) {
	if s.welcomed && !now.Before(s.beatAt) {
		s.beatDue = true
		s.beatAt = now.Add(s.ttl / 5)
	}
}

// pending says whether there is anything to send.
func (s *state) pending() bool {
	return s.stream != "" && (!s.helloSent || s.beatDue ||
		len(s.starts) > 0 || len(s.chunks) > 0 || len(s.results) > 0 || len(s.progress) > 0 || len(s.back) > 0 ||
		s.draining != s.drainingSaid || s.credits() > 0)
}

// credits are the free slots that the registry does not know of.
func (s *state) credits() int {
	if s.draining {
		return 0
	}
	return s.slots - s.used - s.granted
}

// frame takes what waits into one frame, and leaves what does not fit for the
// next. A result never overtakes the attempt's log.
func (s *state) frame(now time.Time) *almanacv1.LeaseRequest {
	f := &almanacv1.LeaseRequest{}
	if !s.helloSent {
		s.helloSent = true
		f.Hello = &almanacv1.Hello{
			Session: s.identity.GetSession(), Stream: s.stream, ClosedStreams: append([]string(nil), s.closed...),
			Host: s.identity.GetHost(), Version: s.identity.GetVersion(), Labels: s.identity.GetLabels(),
			Templates: s.identity.GetTemplates(), Held: s.holdings(),
		}
	}
	size := 0
	for len(s.chunks) > 0 && size < frameBytes {
		chunk := s.chunks[0]
		s.chunks = s.chunks[1:]
		if a := s.held(chunk.GetExecutionId(), chunk.GetToken()); a != nil {
			if a.open == chunk {
				a.open = nil
			}
			f.Logs = append(f.Logs, chunk)
			for _, line := range chunk.GetLines() {
				size += len(line.GetMessage()) + lineOverhead
			}
		}
	}
	for _, a := range s.progress {
		if a.phase == running {
			f.Progress = append(f.Progress, a.progress)
		}
		a.progress = nil
	}
	s.progress = s.progress[:0]
	f.Started = make([]*almanacv1.Started, 0, len(s.starts))
	for _, a := range s.starts {
		if a.phase == over {
			continue
		}
		if a.phase == waiting && !a.startSent {
			// The clock that the go-ahead is measured by, and the time-out's.
			a.startedNow(now, a.started.GetIsolation())
		}
		a.startSent = true
		f.Started = append(f.Started, &a.started)
	}
	clear(s.starts)
	s.starts = s.starts[:0]
	if len(s.chunks) == 0 && len(s.results) > 0 {
		f.Results = make([]*almanacv1.RunResult, 0, len(s.results))
		taken := 0
		for _, a := range s.results {
			if size >= frameBytes {
				break
			}
			taken++
			if a.phase == ended {
				f.Results = append(f.Results, a.result)
				size += len(a.result.GetResultJson()) + len(a.result.GetError()) + 64
			}
		}
		rest := copy(s.results, s.results[taken:])
		clear(s.results[rest:])
		s.results = s.results[:rest]
	}
	f.HandedBack, s.back = s.back, nil
	if s.beatDue {
		s.beatDue = false
		f.Heartbeat = &almanacv1.Heartbeat{LastNumber: s.lastNumber, Held: s.holdings()}
		if s.beatSent.IsZero() {
			s.beatSent = now
		}
	}
	if credits := s.credits(); credits > 0 {
		f.Credits = int32(credits)
		s.granted += credits
	}
	f.Draining, s.drainingSaid = s.draining, s.draining
	return f
}

// holdings lists everything held: blocked, waiting, running, or ended and not
// acknowledged.
func (s *state) holdings() []*almanacv1.Lease {
	held := make([]*almanacv1.Lease, 0, len(s.attempts))
	for _, a := range s.attempts {
		held = append(held, &a.lease)
	}
	return held
}
