package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
)

// fleet runs n dispatchers on one store.
func fleet(t *testing.T, n int, test func(t *testing.T, rigs []*rig)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		st, err := sqlitestore.Open(t.Context(), folder, sqlitestore.Options{Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		rigs := make([]*rig, n)
		streams := map[string]int{}
		for i := range rigs {
			cfg := Config{Policy: simPolicy, SessionTTL: simTTL, Now: time.Now, Log: zap.NewNop()}
			if n > 1 {
				cfg.Replica = store.Replica{ID: fmt.Sprintf("registry-%d", i), Name: "test"}
			}
			r := &rig{t: t, store: st, silences: map[*Stream]func(){}, streams: streams}
			rigs[i] = r
			r.d = New(&failing{Store: st, rig: r}, cfg)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			if err := r.d.Ready(); !errors.Is(err, job.ErrUnavailable) {
				t.Errorf("ready before it runs: %v", err)
			}
			r.beats.Go(func() { ended <- r.d.Run(ctx) })
			r.stop = func() error {
				cancel()
				return <-ended
			}
			t.Cleanup(func() {
				cancel()
				for _, silence := range r.silences {
					silence()
				}
				r.beats.Wait()
			})
		}
		time.Sleep(time.Millisecond)
		if n > 1 {
			time.Sleep(4 * time.Second) // they get to know each other
		}
		for _, r := range rigs {
			if err := r.d.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
		}
		test(t, rigs)
	})
}

// manual makes a job that only people start, any number of times at once.
func (r *rig) manual(change func(j *job.Job)) *job.Job {
	return r.create(func(j *job.Job) {
		j.Schedule, j.Overlap = schedule.Spec{Type: schedule.Manual}, job.OverlapAllow
		j.NextRunAt = time.Now().Add(-time.Hour) // none, see below
		change(j)
		j.NextRunAt = time.Time{}
	})
}

func (r *rig) runNow(j *job.Job, key string) (*job.Execution, bool, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return r.d.RunNow(r.t.Context(), store.RunNow{Now: now, Execution: &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerManual, key), JobID: j.ID, JobVersion: j.Version, Trigger: job.TriggerManual, Key: key,
		TriggeredByUser: "somebody", ScheduledFor: now, CreatedAt: now, WakeAt: now, Frozen: j.Freeze(true), Status: job.Pending,
		Exclusive: j.Overlap == job.OverlapForbid,
	}})
}

func (r *rig) accept(j *job.Job, key string) *job.Execution {
	r.t.Helper()
	e, _, err := r.runNow(j, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// openAt opens the session's streams to all registries, as one executor has them.
func openAt(rigs []*rig, session string, credits int) []*Stream {
	var streams []*Stream
	var open []string
	for _, r := range rigs {
		h := r.hello(session)
		open = append(open, h.Stream)
		h.OpenStreams = slices.Clone(open)
		st, err := r.d.Open(r.t.Context(), h)
		if err != nil {
			r.t.Fatal(err)
		}
		r.send(st, &Inbound{Credits: credits})
		streams = append(streams, st)
	}
	for i, r := range rigs {
		ctx, cancel := context.WithCancel(context.Background())
		r.silences[streams[i]] = cancel
		all := Holdings{OpenStreams: open, LastStream: int64(r.streams[session])}
		r.beats.Go(func() {
			for streams[i].Receive(ctx, &Inbound{Heartbeat: &Heartbeat{LastNumber: -1, Holdings: all}}) == nil {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	return streams
}

// A run by hand is leased in the step that accepts it; one that finds nobody free
// waits.
func TestManualRunIsLeasedAsItIsAccepted(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		j := r.manual(func(*job.Job) {})
		time.Sleep(time.Second)
		e := r.accept(j, "one")
		if e.Session != "a" || e.Token != 1 || e.Status != job.Pending {
			t.Errorf("accepted as %+v", e)
		}
		a := r.assignment(st)
		if a.ID != e.ID || a.Token != e.Token {
			t.Errorf("assigned %+v", a)
		}
		if again, replayed, err := r.runNow(j, "one"); err != nil || !replayed || again.ID != e.ID {
			t.Errorf("repeated: %+v %v %v", again, replayed, err)
		}
		waits := r.accept(j, "two")
		if waits.Leased() {
			t.Errorf("leased without a credit: %+v", waits)
		}
		r.send(st, &Inbound{Results: []Result{success(a)}, Credits: 1})
		if b := r.assignment(st); b.ID != waits.ID {
			t.Errorf("then assigned %+v", b)
		}
	})
}

// An insertion that was reported as failed, and happened, is found and runs; so is
// one that happened late.
func TestInsertionWithoutAnAnswer(t *testing.T) {
	for _, late := range []time.Duration{0, 3 * time.Second} {
		dispatching(t, func(t *testing.T, r *rig) {
			st := r.open("a", 1)
			j := r.manual(func(*job.Job) {})
			r.accepts = func(ctx context.Context, run store.RunNow) (*job.Execution, bool, error) {
				r.beats.Go(func() {
					time.Sleep(late)
					if _, _, err := r.store.RunNow(context.WithoutCancel(ctx), run); err != nil {
						t.Error(err)
					}
				})
				if late == 0 {
					time.Sleep(time.Millisecond)
				}
				return nil, false, fmt.Errorf("no answer: %w", job.ErrUnavailable)
			}
			if _, _, err := r.runNow(j, "one"); err == nil {
				t.Error("accepted")
			}
			if a := r.assignment(st); a.JobID != j.ID {
				t.Errorf("assigned %+v", a)
			}
		})
	}
}

// One that never happened costs nobody a slot.
func TestInsertionThatFailed(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 1)
		j := r.manual(func(*job.Job) {})
		r.accepts = func(context.Context, store.RunNow) (*job.Execution, bool, error) {
			return nil, false, fmt.Errorf("no answer: %w", job.ErrUnavailable)
		}
		if _, _, err := r.runNow(j, "one"); err == nil {
			t.Error("accepted")
		}
		r.accepts = func(context.Context, store.RunNow) (*job.Execution, bool, error) { return nil, false, job.ErrNotFound }
		time.Sleep(time.Second)
		if _, _, err := r.runNow(j, "two"); err == nil {
			t.Error("accepted")
		}
		r.accepts = nil
		e := r.accept(j, "three")
		if a := r.assignment(st); a.ID != e.ID {
			t.Errorf("assigned %+v", a)
		}
	})
}

// The backlog of one organisation does not starve another, and within one the
// highest priority goes first.
func TestFairSharesAndPriority(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		big := r.manual(func(j *job.Job) { j.Organisation = "big" })
		urgent := r.manual(func(j *job.Job) { j.Organisation, j.Priority = "big", 5 })
		small := r.manual(func(j *job.Job) { j.Organisation = "small" })
		for n := range 40 {
			r.accept(big, fmt.Sprintf("n%d", n))
		}
		for n := range 6 {
			r.accept(urgent, fmt.Sprintf("n%d", n))
			r.accept(small, fmt.Sprintf("n%d", n))
		}
		st := r.open("a", 4)
		var order []string
		running := map[string]int{}
		for len(order) < 24 {
			out := r.next(st, func(o *Outbound) bool { return len(o.Assignments) > 0 })
			for _, a := range out.Assignments {
				order = append(order, a.JobID)
				running[a.Organisation]++
				r.send(st, &Inbound{Results: []Result{success(a)}, Credits: 1})
			}
		}
		count := func(j *job.Job, of []string) (n int) {
			for _, id := range of {
				if id == j.ID {
					n++
				}
			}
			return n
		}
		if n := count(small, order[:14]); n != 6 {
			t.Errorf("of the first 14 runs %d were the small organisation's 6: %v", n, order)
		}
		if n := count(urgent, order[:14]); n != 6 {
			t.Errorf("of the first 14 runs %d were the 6 urgent ones: %v", n, order)
		}
	})
}

// A selector that no executor satisfies holds up nobody.
func TestSelector(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		nobody := r.manual(func(j *job.Job) { j.Priority, j.Selector = 9, map[string]string{"gpu": "yes"} })
		anybody := r.manual(func(*job.Job) {})
		first, second := r.accept(nobody, "one"), r.accept(anybody, "one")
		plain := r.open("plain", 4)
		if a := r.assignment(plain); a.ID != second.ID {
			t.Errorf("assigned %+v", a)
		}
		h := r.hello("special")
		h.Labels = map[string]string{"gpu": "yes", "zone": "a"}
		special, err := r.d.Open(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		r.send(special, &Inbound{Credits: 1})
		if a := r.assignment(special); a.ID != first.ID {
			t.Errorf("assigned %+v", a)
		}
	})
}

// A worker that an administrator drains gets nothing more until it is resumed.
func TestDrainedWorker(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		st := r.open("a", 4)
		j := r.manual(func(*job.Job) {})
		set := func(drain bool) {
			if _, err := r.store.DrainSession(t.Context(), "a", drain, &store.Audit{At: time.Now(), Action: "worker.drain", Object: "a"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		set(true)
		e := r.accept(j, "one")
		time.Sleep(3 * time.Second)
		if e = r.execution(e.ID); e.Leased() {
			t.Errorf("leased to a drained worker: %+v", e)
		}
		set(false)
		if a := r.assignment(st); a.ID != e.ID {
			t.Errorf("assigned %+v", a)
		}
		sessions, err := r.store.Sessions(t.Context())
		if err != nil || len(sessions) != 1 || sessions[0].Slots != 8 || sessions[0].Version != "1" || len(sessions[0].Templates) != 2 {
			t.Errorf("the worker is known as %+v, %v", sessions, err)
		}
	})
}

// A template's own limit holds over all registries, and a seat that is free is
// used.
func TestSeats(t *testing.T) {
	fleet(t, 2, func(t *testing.T, rigs []*rig) {
		j := rigs[0].manual(func(j *job.Job) { j.TemplateType = limitedType })
		for i, r := range rigs {
			for n := range 4 {
				r.accept(j, fmt.Sprintf("n%d%d", i, n))
			}
		}
		type stream struct {
			r  *rig
			st *Stream
		}
		var streams []stream
		for i, r := range rigs {
			h := r.hello(fmt.Sprint("session", i))
			h.Templates = []string{limitedType}
			st, err := r.d.Open(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			r.send(st, &Inbound{Credits: 8})
			streams = append(streams, stream{r, st})
		}
		done := 0
		for round := range 60 {
			time.Sleep(time.Second)
			var running []stream
			var got []Assignment
			for i, s := range streams {
				s.r.send(s.st, &Inbound{Heartbeat: &Heartbeat{LastNumber: -1, Holdings: Holdings{
					OpenStreams: []string{"1"}, LastStream: int64(s.r.streams[fmt.Sprint("session", i)]),
				}}})
				for out := s.st.take(); out != nil; out = s.st.take() {
					for _, a := range out.Assignments {
						running, got = append(running, s), append(got, a)
					}
				}
			}
			held, err := rigs[0].store.Held(t.Context(), nil, nil, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(held) > limitOf {
				t.Fatalf("round %d: %d leased, the limit is %d", round, len(held), limitOf)
			}
			for i, a := range got {
				running[i].r.send(running[i].st, &Inbound{Results: []Result{success(a)}, Credits: 1})
				done++
			}
			if done == 8 {
				return
			}
		}
		t.Fatalf("only %d of 8 runs ended", done)
	})
}

// One registry is cut off from the store: the other takes over its jobs, and what
// it had leased over streams that are closed now.
func TestTakeOver(t *testing.T) {
	fleet(t, 2, func(t *testing.T, rigs []*rig) {
		one, two := rigs[0], rigs[1]
		// A job of each share, due every ten seconds.
		jobs := map[bool]*job.Job{}
		for len(jobs) < 2 {
			j := &job.Job{ID: job.NewID("job_")}
			jobs[shareOf("registry-0", []string{"registry-0", "registry-1"}).Has(j.ID)] = j
		}
		now := time.Now()
		for _, j := range jobs {
			id := j.ID
			*j = *one.create(func(j *job.Job) { j.ID = id })
		}
		streams := openAt(rigs, "a", 4)
		got := map[string]Assignment{}
		for i, r := range rigs {
			a := r.assignment(streams[i])
			got[a.JobID] = a
			if a.JobID != jobs[i == 0].ID {
				t.Errorf("registry %d fires %s", i, a.JobID)
			}
			r.send(streams[i], &Inbound{Results: []Result{success(a)}})
		}
		if len(got) != 2 || time.Since(now) > 12*time.Second {
			t.Fatalf("after %v: %v", time.Since(now), got)
		}
		// By hand at the first, for a job of the second's share; the stream breaks
		// before it arrives, and the first is gone.
		lost := one.accept(one.manual(func(j *job.Job) { j.ID = job.NewID("job_") }), "lost")
		if !lost.Leased() {
			t.Fatalf("accepted as %+v", lost)
		}
		one.silence(streams[0])
		one.fails.Store(true)
		two.silence(streams[1])
		cut := time.Now()
		report := Holdings{OpenStreams: []string{streams[1].id}, LastStream: 2}
		want := map[string]bool{jobs[true].ID: true, lost.JobID: true}
		for len(want) > 0 && time.Since(cut) < time.Minute {
			two.send(streams[1], &Inbound{Heartbeat: &Heartbeat{LastNumber: -1, Holdings: report}, Credits: 1})
			time.Sleep(time.Second)
			for out := streams[1].take(); out != nil; out = streams[1].take() {
				for _, a := range out.Assignments {
					late := time.Since(a.ScheduledFor)
					if a.JobID == jobs[true].ID && late > simTTL+2*time.Second {
						t.Errorf("%s starts %v after its time", a.ID, late)
					}
					delete(want, a.JobID)
					two.send(streams[1], &Inbound{Results: []Result{success(a)}})
				}
			}
		}
		if len(want) > 0 {
			t.Errorf("never taken over: %v", want)
		}
	})
}

// A cancellation at one registry reaches a run that another one leased.
func TestCancelAtAnotherRegistry(t *testing.T) {
	fleet(t, 2, func(t *testing.T, rigs []*rig) {
		streams := openAt(rigs, "a", 4)
		first := shareOf("registry-0", []string{"registry-0", "registry-1"})
		e := rigs[0].accept(rigs[0].manual(func(j *job.Job) {
			for !first.Has(j.ID) {
				j.ID = job.NewID("job_")
			}
		}), "one")
		a := rigs[0].assignment(streams[0])
		h := Holding{a.ID, a.Token}
		rigs[0].send(streams[0], &Inbound{Started: []Started{{Holding: h, At: time.Now()}}})
		time.Sleep(time.Second)
		cancelled, err := rigs[1].store.RequestCancel(t.Context(), store.Cancel{ID: e.ID, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		rigs[1].d.CancelRequested(cancelled)
		out := rigs[1].next(streams[1], func(o *Outbound) bool { return len(o.Cancel) > 0 })
		if out.Cancel[0] != h {
			t.Errorf("told to cancel %v", out.Cancel)
		}
		// The word of it may get lost with its registry: the one that looks after the
		// job repeats it when it settles.
		out = rigs[0].next(streams[0], func(o *Outbound) bool { return len(o.Cancel) > 0 })
		if out.Cancel[0] != h {
			t.Errorf("told to cancel %v", out.Cancel)
		}
		// Any registry may ask how far it is.
		rigs[1].send(streams[1], &Inbound{Progress: []Progress{{Holding: h, Done: 1, Total: 2}}})
		time.Sleep(time.Second)
		if p, ok := rigs[1].d.Progress(a.ID); !ok || p.Done != 1 {
			t.Errorf("progress is %+v %v", p, ok)
		}
		rigs[0].send(streams[0], &Inbound{Results: []Result{{Holding: h, Outcome: job.Outcome{Status: job.Cancelled, CompletedAt: time.Now()}}}})
		rigs[0].next(streams[0], func(o *Outbound) bool { return len(o.Acknowledged) > 0 })
		if e = rigs[0].execution(e.ID); e.Status != job.Cancelled {
			t.Errorf("it ended as %s", e.Status)
		}
		time.Sleep(2 * time.Minute)
		if _, ok := rigs[1].d.Progress(a.ID); ok {
			t.Error("progress outlives its run by minutes")
		}
	})
}

// A result may be reported to any registry, once its own is gone.
func TestResultOverAnotherStream(t *testing.T) {
	fleet(t, 2, func(t *testing.T, rigs []*rig) {
		streams := openAt(rigs, "a", 4)
		e := rigs[0].accept(rigs[0].manual(func(*job.Job) {}), "one")
		a := rigs[0].assignment(streams[0])
		rigs[0].silence(streams[0])
		streams[0].Close()
		rigs[1].send(streams[1], &Inbound{Results: []Result{success(a)}})
		rigs[1].next(streams[1], func(o *Outbound) bool { return len(o.Acknowledged) > 0 })
		if e = rigs[1].execution(e.ID); e.Status != job.Success || e.Token != a.Token {
			t.Errorf("it is %s under %d", e.Status, e.Token)
		}
	})
}
