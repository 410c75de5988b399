package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// rig is a running dispatcher on a real store, under fake time. Several may share
// a store.
type rig struct {
	t       *testing.T
	store   store.Store
	d       *Dispatcher
	fails   atomic.Bool // the store answers nothing
	accepts func(ctx context.Context, r store.RunNow) (*job.Execution, bool, error)
	stop    func() error

	beats    sync.WaitGroup
	silences map[*Stream]func()
	streams  map[string]int // ordinal of the last one, by session
}

// failing is a store whose writes can be made to fail.
type failing struct {
	store.Store
	rig *rig
}

func (f *failing) RunNow(ctx context.Context, r store.RunNow) (*job.Execution, bool, error) {
	if f.rig.accepts != nil {
		return f.rig.accepts(ctx, r)
	}
	return f.Store.RunNow(ctx, r)
}

func (f *failing) BeatReplica(ctx context.Context, r store.Replica, now time.Time) error {
	if f.rig.fails.Load() {
		return job.ErrUnavailable
	}
	return f.Store.BeatReplica(ctx, r, now)
}

func (f *failing) Sessions(ctx context.Context) ([]store.Session, error) {
	if f.rig.fails.Load() {
		return nil, job.ErrUnavailable
	}
	return f.Store.Sessions(ctx)
}

func (f *failing) Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer {
	if f.rig.fails.Load() {
		answers := make([]store.Answer, len(ops))
		for i := range answers {
			answers[i].Err = job.ErrUnavailable
		}
		return answers
	}
	return f.Store.Do(ctx, now, ops)
}

func dispatching(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	fleet(t, 1, func(t *testing.T, rigs []*rig) { test(t, rigs[0]) })
}

func (r *rig) create(change func(j *job.Job)) *job.Job {
	r.t.Helper()
	now := time.Now()
	j := &job.Job{
		ID: job.NewID("job_"), Name: job.NewID("name "), TemplateType: idempotentType, Parameters: json.RawMessage(`{}`),
		Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 10}, Enabled: true, Timeout: time.Minute,
		Missed: job.MissedRunOnce, Overlap: job.OverlapForbid, Organisation: job.DefaultOrganisation, CreatedAt: now, UpdatedAt: now, Version: 1,
	}
	change(j)
	sched, err := j.Compile()
	if err != nil {
		r.t.Fatal(err)
	}
	if j.NextRunAt.IsZero() {
		j.NextRunAt, _ = sched.Next(now)
	}
	if _, _, err := r.store.CreateJob(r.t.Context(), store.CreateJob{Job: j}); err != nil {
		r.t.Fatal(err)
	}
	r.d.JobChanged(j)
	return j
}

func (r *rig) open(session string, credits int, held ...Holding) *Stream {
	r.t.Helper()
	st, err := r.d.Open(r.t.Context(), r.hello(session, held...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(st, &Inbound{Credits: credits})
	r.beat(st)
	return st
}

// hello is that of the session's next stream, its only one from then on.
func (r *rig) hello(session string, held ...Holding) Hello {
	r.streams[session]++
	h := Hello{
		Session: session, Stream: strconv.Itoa(r.streams[session]), Host: "host-" + session, Version: "1", Slots: 8,
		Templates: []string{idempotentType, onceOnlyType}, Held: held,
	}
	h.OpenStreams, h.LastStream = []string{h.Stream}, int64(r.streams[session])
	return h
}

func (r *rig) send(st *Stream, in *Inbound) {
	r.t.Helper()
	if err := st.Receive(r.t.Context(), in); err != nil {
		r.t.Fatal(err)
	}
}

// assignment waits for the next frame with an assignment.
func (r *rig) assignment(st *Stream) Assignment {
	r.t.Helper()
	out := r.next(st, func(o *Outbound) bool { return len(o.Assignments) > 0 })
	return out.Assignments[0]
}

func (r *rig) next(st *Stream, wanted func(*Outbound) bool) *Outbound {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	for {
		out, err := st.Next(ctx)
		if err != nil {
			r.t.Fatalf("next frame: %v", err)
		}
		if wanted(out) {
			return out
		}
	}
}

func (r *rig) execution(id string) *job.Execution {
	r.t.Helper()
	synctest.Wait()
	e, err := r.store.Execution(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// beat sends heartbeats that say nothing of what is held, until silence.
func (r *rig) beat(st *Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	r.silences[st] = cancel
	r.beats.Go(func() {
		last, _ := strconv.ParseInt(st.id, 10, 64)
		all := Holdings{OpenStreams: []string{st.id}, LastStream: last}
		for st.Receive(ctx, &Inbound{Heartbeat: &Heartbeat{LastNumber: -1, Holdings: all}}) == nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
}

// silence lets an executor die.
func (r *rig) silence(st *Stream) { r.silences[st]() }

func success(a Assignment) Result {
	return Result{Holding: Holding{a.ID, a.Token}, Outcome: job.Outcome{
		Status: job.Success, StartedAt: time.Now(), CompletedAt: time.Now(), Result: json.RawMessage(`{"message":"done"}`),
	}}
}

func TestRunOnTime(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 4)
		j := r.create(func(*job.Job) {})
		a := r.assignment(st)
		if late := time.Since(j.NextRunAt); late < 0 || late > 100*time.Millisecond {
			t.Errorf("assigned %v after its time", late)
		}
		if a.JobID != j.ID || a.Attempt != 1 || a.AwaitGo || a.Trigger != job.TriggerScheduler || !a.ScheduledFor.Equal(j.NextRunAt) {
			t.Errorf("assigned %+v", a)
		}
		h := Holding{a.ID, a.Token}
		r.send(st, &Inbound{
			Started:  []Started{{Holding: h, At: time.Now(), Isolation: []string{"process"}}},
			Progress: []Progress{{Holding: h, Done: 3, Total: 7, Message: "on its way"}},
		})
		time.Sleep(50 * time.Millisecond)
		if e := r.execution(a.ID); e.Status != job.Running || e.Host != "host-a" || len(e.Isolation) != 1 {
			t.Errorf("after started it is %+v", e)
		}
		if p, ok := r.d.Progress(a.ID); !ok || p.Done != 3 || p.Total != 7 {
			t.Errorf("progress is %+v %v", p, ok)
		}
		r.send(st, &Inbound{
			Logs:    []*store.AppendLog{{ID: a.ID, Token: a.Token, Lines: []job.LogLine{{At: time.Now(), Level: "INFO", Message: "hello"}}}},
			Results: []Result{success(a)},
		})
		out := r.next(st, func(o *Outbound) bool { return len(o.Acknowledged) > 0 })
		if out.Acknowledged[0] != h {
			t.Errorf("acknowledged %v", out.Acknowledged)
		}
		if e := r.execution(a.ID); e.Status != job.Success || string(e.Result) != `{"message":"done"}` || len(e.Attempts) != 1 {
			t.Errorf("ended as %+v", e)
		}
		if _, n, err := r.store.Logs(t.Context(), a.ID, 0, 10); err != nil || n != 1 {
			t.Errorf("%d log lines, %v", n, err)
		}
		if _, ok := r.d.Progress(a.ID); ok {
			t.Error("progress outlives its run")
		}
		// Said again after a lost acknowledgement: acknowledged again, once more recorded not.
		r.send(st, &Inbound{Results: []Result{success(a)}})
		r.next(st, func(o *Outbound) bool { return len(o.Acknowledged) > 0 })
	})
}

func TestOverlapIsSkippedWithItsReason(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 4)
		j := r.create(func(*job.Job) {})
		a := r.assignment(st)
		r.send(st, &Inbound{Started: []Started{{Holding: Holding{a.ID, a.Token}, At: time.Now()}}})
		time.Sleep(11 * time.Second)
		second := r.execution(job.ExecutionID(j.ID, job.TriggerScheduler, job.FireKey(j.NextRunAt.Add(10*time.Second))))
		if second.Status != job.Skipped || !strings.HasPrefix(second.Reason, "overlap: ") || !strings.Contains(second.Reason, a.ID) {
			t.Errorf("the second run is %s: %s", second.Status, second.Reason)
		}
	})
}

// A dead executor's run is attempted by the other within the TTL and a second.
func TestDeadExecutorIsReplaced(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		one := r.open("one", 1)
		r.create(func(j *job.Job) {
			j.Schedule.IntervalSeconds = 3600
			j.NextRunAt = time.Now().Add(time.Second).Truncate(time.Second)
		})
		a := r.assignment(one)
		r.send(one, &Inbound{Started: []Started{{Holding: Holding{a.ID, a.Token}, At: time.Now()}}})
		r.silence(one)
		died := time.Now()
		two := r.open("two", 1)
		b := r.assignment(two)
		if took := time.Since(died); took > simTTL+time.Second {
			t.Errorf("attempted again after %v", took)
		}
		if b.ID != a.ID || b.Token <= a.Token || b.Attempt != 2 {
			t.Errorf("second attempt is %+v", b)
		}
		if _, err := one.Next(t.Context()); !errors.Is(err, ErrSessionEnded) {
			t.Errorf("the dead session's stream ends with %v", err)
		}
		// Its late words do not count, and it must take a new session.
		if err := one.Receive(t.Context(), &Inbound{Results: []Result{success(a)}}); !errors.Is(err, ErrSessionEnded) {
			t.Errorf("received from the dead: %v", err)
		}
		if _, err := r.d.Open(t.Context(), r.hello("one")); !errors.Is(err, ErrSessionEnded) {
			t.Errorf("a dead session comes back: %v", err)
		}
		again := r.open("one-b", 1, Holding{a.ID, a.Token})
		out := r.next(again, func(o *Outbound) bool { return len(o.Stale) > 0 })
		if out.Stale[0] != (Holding{a.ID, a.Token}) {
			t.Errorf("stale is %v", out.Stale)
		}
	})
}

// What is not idempotent becomes unknown when its executor dies; its late result
// resolves it.
func TestLateResultResolvesUnknown(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		one := r.open("one", 1)
		r.create(func(j *job.Job) {
			j.TemplateType, j.Schedule.IntervalSeconds = onceOnlyType, 3600
			j.NextRunAt = time.Now().Add(time.Second).Truncate(time.Second)
		})
		a := r.assignment(one)
		h := Holding{a.ID, a.Token}
		if !a.AwaitGo {
			t.Error("starts without a go-ahead")
		}
		r.send(one, &Inbound{Started: []Started{{Holding: h, At: time.Now()}}})
		r.next(one, func(o *Outbound) bool { return len(o.Go) == 1 && o.Go[0] == h })
		if e := r.execution(a.ID); e.Status != job.Running {
			t.Errorf("go-ahead while it is %s", e.Status)
		}
		r.silence(one)
		time.Sleep(simTTL + time.Second)
		if e := r.execution(a.ID); e.Status != job.Unknown || !e.Exclusive {
			t.Errorf("after its executor's death it is %s, slot %v", e.Status, e.Exclusive)
		}
		back := r.open("one-b", 1, h)
		r.send(back, &Inbound{Results: []Result{success(a)}})
		r.next(back, func(o *Outbound) bool { return len(o.Acknowledged) == 1 })
		if e := r.execution(a.ID); e.Status != job.Success || e.Exclusive || len(e.Attempts) != 1 {
			t.Errorf("resolved as %s, slot %v, attempts %v", e.Status, e.Exclusive, e.Attempts)
		}
	})
}

// An unknown end gives its slot up after its time-out and a grace.
func TestUnknownReleasesItsSlot(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		one := r.open("one", 1)
		r.create(func(j *job.Job) {
			j.TemplateType, j.Schedule.IntervalSeconds = onceOnlyType, 3600
			j.NextRunAt = time.Now().Add(time.Second).Truncate(time.Second)
		})
		a := r.assignment(one)
		r.send(one, &Inbound{Started: []Started{{Holding: Holding{a.ID, a.Token}, At: time.Now()}}})
		r.silence(one)
		time.Sleep(time.Minute)
		if e := r.execution(a.ID); !e.Exclusive {
			t.Error("the slot is free before the process is gone for certain")
		}
		time.Sleep(job.KillGrace + 2*time.Second)
		if e := r.execution(a.ID); e.Exclusive || e.Status != job.Unknown || !e.WakeAt.IsZero() {
			t.Errorf("it is %s, slot %v, wake %v", e.Status, e.Exclusive, e.WakeAt)
		}
	})
}

func TestOverdueRunIsEnded(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		r.create(func(j *job.Job) {
			j.Schedule.IntervalSeconds = 3600
			j.NextRunAt = time.Now().Add(time.Second).Truncate(time.Second)
		})
		a := r.assignment(st)
		h := Holding{a.ID, a.Token}
		r.send(st, &Inbound{Started: []Started{{Holding: h, At: time.Now()}}})
		out := r.next(st, func(o *Outbound) bool { return len(o.Stale) > 0 })
		if e := r.execution(a.ID); out.Stale[0] != h || e.Status != job.TimedOut || e.ErrorCode != job.CodeTimeout {
			t.Errorf("it is %s %s, stale %v", e.Status, e.ErrorCode, out.Stale)
		}
	})
}

func TestCancelReachesTheHolder(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		r.create(func(*job.Job) {})
		a := r.assignment(st)
		h := Holding{a.ID, a.Token}
		r.send(st, &Inbound{Started: []Started{{Holding: h, At: time.Now()}}})
		time.Sleep(50 * time.Millisecond)
		e, err := r.store.RequestCancel(t.Context(), store.Cancel{ID: a.ID, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		r.d.CancelRequested(e)
		r.next(st, func(o *Outbound) bool { return len(o.Cancel) == 1 && o.Cancel[0] == h })
		// The stream may have broken before it arrived: the next one says it again.
		r.silence(st)
		st.Close()
		st = r.open("a", 1, h)
		r.next(st, func(o *Outbound) bool { return len(o.Cancel) == 1 && o.Cancel[0] == h })
		// A failure that would be retried is not, once cancelled.
		r.send(st, &Inbound{Results: []Result{{Holding: h, Outcome: job.Outcome{Status: job.Failed, Retryable: true, CompletedAt: time.Now(), Error: "x"}}}})
		r.next(st, func(o *Outbound) bool { return len(o.Acknowledged) == 1 })
		if e := r.execution(a.ID); !e.Status.Final() {
			t.Errorf("it is %s", e.Status)
		}
	})
}

// Another attempt is told what the one before has done.
func TestRetryKnowsWhatWasDone(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		r.create(func(j *job.Job) { j.Retry = job.RetryPolicy{MaxRetries: 1, Delay: time.Second} })
		a := r.assignment(st)
		if a.Previous != nil {
			t.Errorf("the first attempt is told %s", a.Previous)
		}
		r.send(st, &Inbound{Results: []Result{{Holding: Holding{a.ID, a.Token}, Outcome: job.Outcome{
			Status: job.Failed, Retryable: true, CompletedAt: time.Now(), Result: json.RawMessage(`{"message":"half"}`),
		}}}, Credits: 1})
		if b := r.assignment(st); b.ID != a.ID || b.Attempt != 2 || string(b.Previous) != `{"message":"half"}` {
			t.Errorf("assigned %+v", b)
		}
	})
}

// What is handed back, or not held, goes to somebody else at once.
func TestHandedBackAndForgottenAreLeasedAgain(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		one := r.open("one", 2)
		r.create(func(j *job.Job) { j.Overlap = job.OverlapAllow })
		a := r.assignment(one)
		two := r.open("two", 2)
		r.send(one, &Inbound{HandedBack: []Holding{{a.ID, a.Token}}, Draining: true})
		b := r.assignment(two)
		if b.ID != a.ID || b.Attempt != 1 {
			t.Errorf("handed back %s, assigned %s attempt %d", a.ID, b.ID, b.Attempt)
		}
		// It says that it received the assignment, and does not hold it.
		r.send(two, &Inbound{Heartbeat: &Heartbeat{LastNumber: b.Number}})
		c := r.assignment(two)
		if c.ID != a.ID || c.Token <= b.Token || c.Number <= b.Number {
			t.Errorf("forgotten %+v, assigned %+v", b, c)
		}
	})
}

// A stream that breaks keeps its leases; the next one says what is still held.
func TestReconnectKeepsWhatIsHeld(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 2)
		r.create(func(j *job.Job) { j.Overlap, j.Schedule.IntervalSeconds = job.OverlapAllow, 1 })
		a, b := r.assignment(st), r.assignment(st)
		r.silence(st)
		st.Close()
		if _, err := st.Next(t.Context()); err == nil {
			t.Error("a closed stream goes on")
		}
		again, err := r.d.Open(t.Context(), r.hello("a", Holding{a.ID, a.Token}))
		if err != nil {
			t.Fatal(err)
		}
		r.send(again, &Inbound{Credits: 1})
		c := r.assignment(again)
		if c.ID != b.ID || c.Token <= b.Token {
			t.Errorf("not held was %+v, assigned is %+v", b, c)
		}
		r.send(again, &Inbound{Results: []Result{success(a)}})
		r.next(again, func(o *Outbound) bool { return len(o.Acknowledged) == 1 })
		if e := r.execution(a.ID); e.Status != job.Success || e.Token != a.Token {
			t.Errorf("it is %s under %d", e.Status, e.Token)
		}
	})
}

func TestSettleBeforeAnEdit(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		now := time.Now().Truncate(time.Second)
		j := r.create(func(j *job.Job) {
			j.CreatedAt, j.NextRunAt = now.Add(-time.Hour), now.Add(-90*time.Second)
			j.Schedule.IntervalSeconds = 30
		})
		// Nobody carries the template, so the first run stays pending and holds the slot.
		settled, err := r.d.Settle(t.Context(), j, now)
		if err != nil {
			t.Fatal(err)
		}
		if !settled.NextRunAt.After(now) {
			t.Errorf("settled to %v", settled.NextRunAt)
		}
		page, total, err := r.store.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Limit: 10})
		if err != nil || total != 2 {
			t.Fatalf("%d records, %v", total, err)
		}
		if page[0].Status != job.Pending || page[1].Status != job.Skipped || page[1].MissedCount != 3 {
			t.Errorf("records are %s, and %s of %d", page[0].Status, page[1].Status, page[1].MissedCount)
		}
		later := now.Add(45 * time.Second) // the slot is held
		if settled, err = r.d.Settle(t.Context(), settled, later); err != nil || !settled.NextRunAt.After(later) {
			t.Fatalf("settled to %v, %v", settled, err)
		}
		if _, err := r.store.DeleteJob(t.Context(), j.ID, 0, later, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.d.Settle(t.Context(), settled, later.Add(time.Hour)); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("settling a deleted job: %v", err)
		}
		r.fails.Store(true)
		if _, err := r.d.Settle(t.Context(), settled, later.Add(time.Hour)); !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("settling without a store: %v", err)
		}
		r.fails.Store(false)
	})
}

// A store that fails makes the registry say so; it recovers by itself, and a run
// that was due meanwhile is neither lost nor doubled.
func TestStoreFailsAndRecovers(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		j := r.create(func(*job.Job) {})
		r.fails.Store(true)
		time.Sleep(15 * time.Second)
		if err := r.d.Ready(); !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("ready without a store: %v", err)
		}
		r.fails.Store(false)
		a := r.assignment(st)
		if !a.ScheduledFor.Equal(j.NextRunAt) {
			t.Errorf("assigned %v, due was %v", a.ScheduledFor, j.NextRunAt)
		}
		if err := r.d.Ready(); err != nil {
			t.Errorf("not ready again: %v", err)
		}
	})
}

func TestStopEndsEverything(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		if err := r.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if _, err := st.Next(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("next: %v", err)
		}
		if err := st.Receive(t.Context(), &Inbound{}); !errors.Is(err, ErrStopped) {
			t.Errorf("receive: %v", err)
		}
		if _, err := r.d.Open(t.Context(), Hello{Session: "b", Stream: "s"}); !errors.Is(err, ErrStopped) {
			t.Errorf("open: %v", err)
		}
		st.Close()
		r.d.JobChanged(&job.Job{})
		r.d.CancelRequested(&job.Execution{})
	})
}

// One frame never outgrows a message, and nothing is lost or overtaken.
func TestFramesAreBounded(t *testing.T) {
	s := &Stream{ready: make(chan struct{}, 1)}
	big := make(json.RawMessage, maxFrameBytes/2)
	s.put(func(out *Outbound) {
		for i := range 600 {
			out.Assignments = append(out.Assignments, Assignment{Number: int64(i)})
		}
		for i := range 5 {
			out.Assignments = append(out.Assignments, Assignment{Number: int64(600 + i), Parameters: big[:len(big)/2], Previous: big[len(big)/2:]})
		}
		out.Cancel = []Holding{{"last", 1}}
	})
	next := int64(0)
	for {
		out := s.take()
		if out == nil {
			break
		}
		size := 0
		for _, a := range out.Assignments {
			if a.Number != next {
				t.Fatalf("assignment %d after %d", a.Number, next-1)
			}
			next++
			size += len(a.Parameters) + len(a.Previous)
		}
		if len(out.Assignments) > maxFrameAssignments || size > maxFrameBytes {
			t.Fatalf("a frame of %d assignments and %d bytes", len(out.Assignments), size)
		}
		if len(out.Cancel) > 0 && next != 605 {
			t.Fatalf("a cancellation overtakes assignments: %d were sent", next)
		}
	}
	if next != 605 {
		t.Errorf("%d assignments sent", next)
	}
}

// TestEverythingElseWaitsForABurst: until the last full batch of fires is in the
// store, but no longer than that is fair.
func TestEverythingElseWaitsForABurst(t *testing.T) {
	l := newLoop(Config{Log: zap.NewNop()})
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	l.now = now
	fire := func(n int) {
		for range n {
			j := &job.Job{ID: job.NewID("job_")}
			l.fire(&item{job: j}, &store.Fire{Execution: &job.Execution{JobID: j.ID, Status: job.Skipped}})
		}
	}
	var underWay []*batch
	hand := func() {
		for b := l.takeBatch(true); b != nil; b = l.takeBatch(true) {
			underWay = append(underWay, b)
		}
	}
	answer := func() {
		b := underWay[0]
		underWay = underWay[1:]
		b.answers = make([]store.Answer, len(b.ops))
		for i := range b.answers {
			b.answers[i].Outcome = store.Lost // nothing follows
		}
		l.written(now, b)
		hand()
	}
	passes := func(want bool) {
		t.Helper()
		l.other = append(l.other, &write{op: &store.Beat{}, st: &Stream{ready: make(chan struct{}, 1)}})
		b := l.takeBatch(false)
		if (b != nil) != want {
			t.Fatalf("passes %v with %d fires waiting and %d under way", !want, l.fires, l.firing)
		}
		if b != nil {
			b.answers = []store.Answer{}
			for range b.ops {
				b.answers = append(b.answers, store.Answer{Outcome: store.Done})
			}
			l.written(now, b)
		}
	}
	passes(true)
	fire(2*maxBatch + maxBatch/2)
	passes(false) // they wait
	hand()
	passes(false) // two batches are under way, the rest waits
	answer()
	passes(false) // a batch and a half are under way
	answer()
	passes(true) // half a batch: other fires are as few at any time
	answer()

	fire(2 * maxBatch)
	hand()
	passes(false)
	now = now.Add(maxYield)
	l.now = now
	passes(true)
	passes(false) // for another while
	answer()
	answer()
	if l.firing != 0 || l.fires != 0 {
		t.Errorf("%d waiting and %d under way at the end", l.fires, l.firing)
	}
}
