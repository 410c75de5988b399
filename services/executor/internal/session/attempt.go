package session

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

type phase int

const (
	blocked phase = iota
	waiting
	running
	ended
	over
)

// attempt is one lease and all that belongs to it. The session's goroutine owns
// it, save for what the reporter guards.
type attempt struct {
	lease      almanacv1.Lease
	home       *stream // over which it is reported; nil while there is none
	run        runner.Run
	awaitGo    bool
	idempotent bool
	quiet      bool // its log lines about itself are for debugging only
	timeout    time.Duration

	phase     phase
	alive     bool            // its work goes on, or is being killed
	ctx       context.Context // of its work; it and cancel are set before that begins
	cancel    context.CancelCauseFunc
	why       error     // the cause given to cancel, or nil
	began     time.Time // when the attempt's clock started: work begun, or Started first sent
	startSent bool

	started   almanacv1.Started
	startedAt timestamppb.Timestamp
	result    *almanacv1.RunResult

	chunks   []*almanacv1.LogChunk // all, in order, until the result is acknowledged
	open     *almanacv1.LogChunk   // the last one while it was never sent
	openSize int
	progress *almanacv1.RunProgress // the latest, or nil

	report reporter
}

func newAttempt(m *almanacv1.Assignment, t Template, inbox *inbox, limits limits) *attempt {
	a := &attempt{
		run: runner.Run{
			Template: m.GetTemplateType(), ExecutionID: m.GetExecutionId(), JobID: m.GetJobId(), JobName: m.GetJobName(),
			Organisation: m.GetOrganisation(), TriggeredBy: m.GetTriggeredBy(), Attempt: int(m.GetAttempt()),
			ScheduledFor: m.GetScheduledFor().AsTime(), Timezone: m.GetTimezone(), Params: m.GetParametersJson(),
			Previous: m.GetPreviousResultJson(),
		},
		awaitGo:    m.GetAwaitGo(),
		idempotent: t.Descriptor.Idempotent,
		quiet:      t.Quiet,
		timeout:    time.Duration(m.GetTimeoutSeconds()) * time.Second,
	}
	a.lease.ExecutionId, a.lease.Token = m.GetExecutionId(), m.GetToken()
	a.report = reporter{attempt: a, inbox: inbox, limits: limits}
	return a
}

// startedNow fills in what is said of the start.
func (a *attempt) startedNow(now time.Time, isolation []string) {
	a.began = now
	a.startedAt.Seconds, a.startedAt.Nanos = now.Unix(), int32(now.Nanosecond())
	a.started.ExecutionId, a.started.Token = a.lease.ExecutionId, a.lease.Token
	a.started.At, a.started.Isolation = &a.startedAt, isolation
}

// end cancels the work; the first reason stands.
func (a *attempt) end(why error) {
	if a.why == nil {
		a.why = why
		a.cancel(why)
	}
}

// level is that of a line about an attempt, unless it is a quiet one.
func (a *attempt) level(usual zapcore.Level) zapcore.Level {
	if a.quiet {
		return zap.DebugLevel
	}
	return usual
}

// duration is how long the attempt took, 0 when it never began.
func (a *attempt) duration(at time.Time) time.Duration {
	if a.began.IsZero() {
		return 0
	}
	return at.Sub(a.began)
}

// Bounds of one chunk of a log; several go into a frame.
const (
	chunkLines = 500
	chunkBytes = 128 << 10
)

// addLine puts a line into the chunk that was not sent yet, or begins another,
// which it returns.
func (a *attempt) addLine(line *almanacv1.LogEntry) (begun *almanacv1.LogChunk) {
	if a.open == nil || len(a.open.Lines) >= chunkLines || a.openSize+len(line.Message) > chunkBytes {
		begun = &almanacv1.LogChunk{ExecutionId: a.lease.ExecutionId, Token: a.lease.Token, Number: int32(len(a.chunks))}
		a.chunks = append(a.chunks, begun)
		a.open, a.openSize = begun, 0
	}
	a.open.Lines = append(a.open.Lines, line)
	a.openSize += len(line.Message) + lineOverhead
	return begun
}

// lineOverhead is about what a line costs on the wire beside its message.
const lineOverhead = 32

// event is something that an attempt's work has done: a line, progress, or its
// end.
type event struct {
	attempt   *attempt
	line      *almanacv1.LogEntry
	progress  *almanacv1.RunProgress
	end       bool
	at        time.Time
	result    *runner.Result // of the end; nil when it was killed
	isolation []string
}

// inbox brings events to the session's goroutine without ever blocking those
// who bring them.
type inbox struct {
	now  func() time.Time
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	events []event
}

func newInbox(now func() time.Time) *inbox {
	return &inbox{now: now, wake: make(chan struct{}, 1)}
}

func (b *inbox) put(e event) {
	b.mu.Lock()
	first := len(b.events) == 0
	b.events = append(b.events, e)
	b.mu.Unlock()
	if first {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what has gathered, and uses the slice it is given for the next.
func (b *inbox) take(spare []event) []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = spare[:0]
	return events
}

// limits bound what one attempt may say.
type limits struct{ lines, bytes int }

// maxText bounds a line of a log and an error, in bytes.
const maxText = 16 << 10

// reporter takes what a template says. Lines beyond the limits are dropped, and
// one line says so.
type reporter struct {
	attempt *attempt
	inbox   *inbox
	limits  limits

	mu           sync.Mutex
	lines, bytes int
	cut          bool
}

// Log adds a line to the attempt's log, stamped with the executor's clock.
func (r *reporter) Log(level, message string) {
	message = text(message)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return
	}
	if r.lines++; r.lines > r.limits.lines || r.bytes+len(message) > r.limits.bytes {
		r.cut = true
		level, message = "WARN", fmt.Sprintf("The log is cut here: a run may write %d lines and %d KiB.", r.limits.lines, r.limits.bytes>>10)
	}
	r.bytes += len(message)
	// Inside the lock, so that lines arrive in the order of their times.
	r.inbox.put(event{attempt: r.attempt, line: &almanacv1.LogEntry{At: timestamppb.New(r.inbox.now()), Level: text(level), Message: message}})
}

// Progress replaces what was said before and not yet sent.
func (r *reporter) Progress(done, total int64, message string) {
	r.inbox.put(event{attempt: r.attempt, progress: &almanacv1.RunProgress{
		ExecutionId: r.attempt.lease.ExecutionId, Token: r.attempt.lease.Token, Done: done, Total: total, Message: text(message),
	}})
}

// text makes what a template said fit for the wire, which takes valid UTF-8 only
// and refuses the whole frame otherwise.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + " ..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
