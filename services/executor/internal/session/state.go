package session

import (
	"errors"
	"slices"
	"strconv"
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

	streams []*stream // the open ones, in the order of their ordinals
	last    int64     // ordinal of the latest stream of this session
	ttl     time.Duration

	// One stream carries the session's heartbeats; over the others is only said
	// what is held.
	beater      *stream   // a welcomed one, or nil when there is none
	beatAt      time.Time // of the next round over all welcomed streams
	unconfirmed time.Time // since when no beat was confirmed although one was sent; zero when all are

	draining bool
}

// stream is what the session knows of one stream to a registry, and what waits
// for the next frames on it.
type stream struct {
	ordinal   int64
	closed    bool // nothing that it may still bring is acted on
	helloSent bool
	welcomed  bool

	lastNumber int64
	// granted is what the registry may still assign, as it knows it: the credits
	// sent less the assignments received. It is negative when credits were
	// withdrawn that had been used already.
	granted int

	beatDue      bool
	asked        time.Time // when the oldest beat was sent that it has not answered; zero when there is none
	drainingSaid bool

	// In order, of attempts whose home it is.
	starts  []*attempt
	chunks  []*almanacv1.LogChunk
	results []*attempt
	back    []*almanacv1.Lease
	// Of all attempts.
	progress map[*attempt]struct{}
}

// name is the ordinal as it is said.
func (st *stream) name() string { return strconv.FormatInt(st.ordinal, 10) }

// opened begins a stream. What has no home is at home there, and said again.
func (s *state) opened() *stream {
	s.last++
	st := &stream{ordinal: s.last, progress: map[*attempt]struct{}{}}
	s.streams = append(s.streams, st)
	for _, a := range s.attempts {
		if a.home == nil {
			st.adopt(a)
		}
		if a.phase == running && a.progress != nil {
			st.progress[a] = struct{}{}
		}
	}
	return st
}

// adopt makes the stream an attempt's home. All that nobody has acknowledged is
// said again.
func (st *stream) adopt(a *attempt) {
	a.home = st
	switch a.phase {
	case waiting, running:
		st.starts = append(st.starts, a)
	case ended:
		st.results = append(st.results, a)
	case blocked, over:
	}
	st.chunks = append(st.chunks, a.chunks...)
}

// lost ends a stream. What was at home there moves to another, and each registry
// is told at once.
func (s *state) lost(st *stream) {
	st.closed = true
	s.streams = slices.DeleteFunc(s.streams, func(other *stream) bool { return other == st })
	if s.beater == st {
		s.beater = s.welcomedAfter(st)
	}
	home := s.beater
	if home == nil && len(s.streams) > 0 {
		home = s.streams[0]
	}
	for _, a := range s.attempts {
		if a.home != st {
			continue
		}
		if a.home = nil; home != nil {
			home.adopt(a)
		}
	}
	for _, other := range s.streams {
		other.beatDue = other.welcomed
	}
	if s.beater == nil {
		s.unconfirmed = time.Time{}
	}
}

// welcomedAfter returns the welcomed stream that comes after one, in a circle,
// or nil when there is no other.
func (s *state) welcomedAfter(st *stream) *stream {
	var first *stream
	for _, other := range s.streams {
		switch {
		case !other.welcomed || other == st:
		case other.ordinal > st.ordinal:
			return other
		case first == nil:
			first = other
		}
	}
	return first
}

// died takes a new session id, for a registry has declared the old one dead. Its
// streams are closed.
func (s *state) died() {
	s.identity.Session = s.newID()
	for _, st := range s.streams {
		st.closed = true
	}
	s.streams, s.last = nil, 0
	s.beater, s.unconfirmed = nil, time.Time{}
	for _, a := range s.attempts {
		a.home = nil
	}
}

// received acts on one frame of an open stream. What a registry says of a lease
// counts over any stream.
func (s *state) received(st *stream, m *almanacv1.LeaseResponse, now time.Time) {
	if st.closed {
		return
	}
	if w := m.GetWelcome(); w != nil {
		st.welcomed = true
		if ms := w.GetSessionTtlMilliseconds(); ms > 0 {
			s.ttl = time.Duration(ms) * time.Millisecond
		}
		if s.beater == nil {
			s.beater, s.beatAt = st, now.Add(s.ttl/5)
		}
		s.logger.Info("Connected to a registry", zap.String("registry", w.GetRegistry()), zap.String("session", s.identity.GetSession()), zap.String("stream", st.name()))
		for _, refused := range w.GetRefused() {
			s.logger.Error("The registry refuses a template", zap.String("template", refused.GetType()), zap.String("reason", refused.GetReason()))
		}
	}
	for _, assignment := range m.GetAssignments() {
		s.assigned(st, assignment, now)
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
		st.asked, s.unconfirmed = time.Time{}, time.Time{}
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

func (s *state) assigned(st *stream, m *almanacv1.Assignment, now time.Time) {
	st.lastNumber = max(st.lastNumber, m.GetNumber())
	st.granted--
	if older := s.attempts[m.GetExecutionId()]; older != nil {
		if older.lease.Token >= m.GetToken() {
			return // held already, or overtaken
		}
		s.stale(older)
	}
	if s.draining || s.used >= s.slots {
		st.back = append(st.back, &almanacv1.Lease{ExecutionId: m.GetExecutionId(), Token: m.GetToken()})
		return
	}
	a := newAttempt(m, s.templates[m.GetTemplateType()], s.inbox, s.limits)
	a.home = st
	s.used++
	s.attempts[a.lease.ExecutionId] = a
	if s.dying[a.lease.ExecutionId] == nil {
		s.begin(a, now)
	}
}

// begin starts the work, or asks for the go-ahead.
func (s *state) begin(a *attempt, now time.Time) {
	a.startedNow(now, s.templates[a.run.Template].Isolation)
	if a.home != nil {
		a.home.starts = append(a.home.starts, a)
	}
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
	if a.home != nil {
		a.home.back = append(a.home.back, &a.lease)
	}
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
			if begun := a.addLine(e.line); begun != nil && a.home != nil {
				a.home.chunks = append(a.home.chunks, begun)
			}
		case e.progress != nil:
			a.progress = e.progress
			for _, st := range s.streams {
				st.progress[a] = struct{}{}
			}
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
	if a.home != nil {
		a.home.results = append(a.home.results, a)
	}
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

// tick makes beats due when their time has come, and has another stream carry
// them when the answer to one stays out.
func (s *state) tick(now time.Time) {
	if s.beater == nil {
		return
	}
	if !now.Before(s.beatAt) {
		s.beatAt = now.Add(s.ttl / 5)
		for _, st := range s.streams {
			st.beatDue = st.beatDue || st.welcomed
		}
	}
	if s.beater.asked.IsZero() || now.Before(s.answerBy()) {
		return
	}
	if other := s.welcomedAfter(s.beater); other != nil {
		s.beater.asked = time.Time{}
		s.beater = other
		other.beatDue = true
	}
}

// answerBy is when the answer to the oldest beat is overdue.
func (s *state) answerBy() time.Time { return s.beater.asked.Add(s.ttl / 2) }

// tickAt is when tick has something to do next; zero is never.
func (s *state) tickAt() time.Time {
	if s.beater == nil {
		return time.Time{}
	}
	if !s.beater.asked.IsZero() && s.welcomedAfter(s.beater) != nil {
		return earliest(s.beatAt, s.answerBy())
	}
	return s.beatAt
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// pending says whether there is anything to send over a stream.
func (s *state) pending(st *stream) bool {
	return !st.helloSent || st.beatDue ||
		len(st.starts) > 0 || len(st.chunks) > 0 || len(st.results) > 0 || len(st.progress) > 0 || len(st.back) > 0 ||
		s.draining != st.drainingSaid || s.credits(st) != 0
}

// credits are the free slots that a registry does not know of; negative are
// those that it believes to be free and that are not.
func (s *state) credits(st *stream) int {
	if s.draining {
		return 0 // to say so has withdrawn them all
	}
	return s.slots - s.used - st.granted
}

// frame takes what waits for a stream into one frame, and leaves what does not
// fit for the next. A result never overtakes the attempt's log.
func (s *state) frame(st *stream, now time.Time) *almanacv1.LeaseRequest {
	f := &almanacv1.LeaseRequest{}
	if !st.helloSent {
		st.helloSent = true
		f.Hello = &almanacv1.Hello{
			Session: s.identity.GetSession(), Stream: st.name(),
			Host: s.identity.GetHost(), Version: s.identity.GetVersion(), Labels: s.identity.GetLabels(),
			Templates: s.identity.GetTemplates(), Slots: int32(s.slots),
		}
		f.Hello.Held, f.Hello.Holdings = s.holdings(st)
	}
	size := 0
	for len(st.chunks) > 0 && size < frameBytes {
		chunk := st.chunks[0]
		st.chunks = st.chunks[1:]
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
	for a := range st.progress {
		if a.phase == running {
			f.Progress = append(f.Progress, a.progress)
		}
	}
	clear(st.progress)
	f.Started = make([]*almanacv1.Started, 0, len(st.starts))
	for _, a := range st.starts {
		if a.phase == over || a.phase == ended {
			continue // the result says when it began
		}
		if a.phase == waiting && !a.startSent {
			// The clock that the go-ahead is measured by, and the time-out's.
			a.startedNow(now, a.started.GetIsolation())
		}
		a.startSent = true
		f.Started = append(f.Started, &a.started)
	}
	clear(st.starts)
	st.starts = st.starts[:0]
	if len(st.chunks) == 0 && len(st.results) > 0 {
		f.Results = make([]*almanacv1.RunResult, 0, len(st.results))
		taken := 0
		for _, a := range st.results {
			if size >= frameBytes {
				break
			}
			taken++
			if a.phase == ended {
				f.Results = append(f.Results, a.result)
				size += len(a.result.GetResultJson()) + len(a.result.GetError()) + 64
			}
		}
		rest := copy(st.results, st.results[taken:])
		clear(st.results[rest:])
		st.results = st.results[:rest]
	}
	f.HandedBack, st.back = st.back, nil
	if st.beatDue {
		st.beatDue = false
		f.Heartbeat = &almanacv1.Heartbeat{
			LastNumber: st.lastNumber, Running: int32(s.used), Stopping: s.draining, ReportOnly: st != s.beater,
		}
		f.Heartbeat.Held, f.Heartbeat.Holdings = s.holdings(st)
		if st == s.beater {
			if st.asked.IsZero() {
				st.asked = now
			}
			if s.unconfirmed.IsZero() {
				s.unconfirmed = now
			}
		}
	}
	credits := s.credits(st)
	f.Credits = int32(credits)
	st.granted += credits
	f.Draining, st.drainingSaid = s.draining, s.draining
	return f
}

// holdings lists everything held: blocked, waiting, running, or ended and not
// acknowledged; first what belongs to the stream, then the rest beside what is
// to be said of all streams.
func (s *state) holdings(st *stream) ([]*almanacv1.Lease, *almanacv1.Holdings) {
	held := make([]*almanacv1.Lease, 0, len(s.attempts))
	all := &almanacv1.Holdings{LastStream: s.last, OpenStreams: make([]string, len(s.streams))}
	for i, open := range s.streams {
		all.OpenStreams[i] = open.name()
	}
	for _, a := range s.attempts {
		if a.home == st {
			held = append(held, &a.lease)
		} else {
			all.Elsewhere = append(all.Elsewhere, &a.lease)
		}
	}
	return held, all
}
