package job

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	now    = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	holder = Holder{Session: "s", Stream: "st", Number: 4, Host: "h"}
)

func waiting(idempotent bool, retries int) *Execution {
	return &Execution{
		ID: "exec_a_s_x", JobID: "job_a", Status: Pending, Exclusive: true, WakeAt: now,
		Frozen: Frozen{Timeout: time.Minute, Retry: RetryPolicy{MaxRetries: retries, Delay: 5 * time.Minute}, Idempotent: idempotent},
	}
}

func leased(idempotent bool, retries int) *Execution {
	return waiting(idempotent, retries).Lease(holder, 0, now)
}

func running(idempotent bool, retries int) *Execution {
	return leased(idempotent, retries).Start(now, now, []string{"process"})
}

func cancelling(e *Execution) *Execution {
	c := *e
	c.CancelRequested = true
	return &c
}

func ended(e *Execution, s Status) *Execution {
	return e.End(Outcome{Status: s, CompletedAt: now, StartedAt: now, Error: "why", ErrorCode: "code"}, now)
}

// Every transition, from every state that it may meet.
func TestTransitions(t *testing.T) {
	failed := Outcome{Status: Failed, CompletedAt: now, Error: "no", ErrorCode: "x"}
	again := failed
	again.Retryable = true
	crashed := failed
	crashed.Crashed = true
	timedOut := Outcome{Status: TimedOut, CompletedAt: now, Error: "late", ErrorCode: CodeTimeout}
	ok := Outcome{Status: Success, CompletedAt: now, StartedAt: now, Result: []byte(`{}`)}
	deadline := now.Add(time.Minute + KillGrace)

	for _, c := range []struct {
		name   string
		to     *Execution
		status Status
		token  int64
		leased bool
		slot   bool
		wake   time.Time
		code   string
	}{
		{"lease", leased(true, 0), Pending, 1, true, true, deadline, ""},
		{"start", running(true, 0), Running, 1, true, true, deadline, ""},
		{"requeue unstarted", leased(false, 0).Requeue(now), Pending, 2, false, true, now, ""},
		{"requeue running", running(true, 0).Requeue(now), Pending, 2, false, true, now, ""},

		{"success", running(true, 3).End(ok, now), Success, 1, false, false, time.Time{}, ""},
		{"success before its start was written", leased(true, 3).End(ok, now), Success, 1, false, false, time.Time{}, ""},
		{"retryable failure of idempotent", running(true, 3).End(again, now), Retrying, 2, false, true, now.Add(5 * time.Minute), "x"},
		{"retryable failure of not idempotent", running(false, 3).End(again, now), Retrying, 2, false, true, now.Add(5 * time.Minute), "x"},
		{"failure without retries left", running(true, 0).End(again, now), Failed, 1, false, false, time.Time{}, "x"},
		{"final failure", running(true, 3).End(failed, now), Failed, 1, false, false, time.Time{}, "x"},
		{"time-out of idempotent", running(true, 3).End(timedOut, now), Retrying, 2, false, true, now.Add(5 * time.Minute), CodeTimeout},
		{"time-out of not idempotent", running(false, 3).End(timedOut, now), TimedOut, 1, false, false, time.Time{}, CodeTimeout},
		{"crash of idempotent", running(true, 3).End(crashed, now), Retrying, 2, false, true, now.Add(5 * time.Minute), "x"},
		{"crash of not idempotent", running(false, 3).End(crashed, now), Unknown, 1, false, true, deadline, "x"},
		{"retryable failure of cancelled", cancelling(running(true, 3)).End(again, now), Failed, 1, false, false, time.Time{}, "x"},
		{"late result of unknown", running(false, 3).End(crashed, now).End(ok, now), Success, 1, false, false, time.Time{}, ""},
		{"late retryable failure of unknown", running(false, 3).End(crashed, now).End(again, now), Failed, 1, false, false, time.Time{}, "x"},

		{"lost unstarted", leased(false, 0).Lost(now, false), Pending, 2, false, true, now, ""},
		{"lost unstarted and cancelled", cancelling(leased(false, 0)).Lost(now, false), Cancelled, 2, false, false, time.Time{}, CodeCancelled},
		{"lost running idempotent", running(true, 0).Lost(now, false), Pending, 2, false, true, now, ""},
		{"lost running not idempotent", running(false, 3).Lost(now, false), Unknown, 1, false, true, deadline, CodeExecutorLost},
		{"lost running and cancelled, dead", cancelling(running(true, 0)).Lost(now, false), Cancelled, 1, false, true, deadline, CodeCancelled},
		{"lost running and cancelled, gone", cancelling(running(true, 0)).Lost(now, true), Cancelled, 1, false, false, time.Time{}, CodeCancelled},

		{"overdue running", running(true, 3).Overdue(now), TimedOut, 1, false, false, time.Time{}, CodeTimeout},
		{"overdue unstarted", leased(true, 3).Overdue(now), Pending, 2, false, true, now, ""},
		{"cancelled waiting", waiting(true, 3).CancelledUnstarted(now), Cancelled, 1, false, false, time.Time{}, CodeCancelled},
		{"released", running(false, 3).Lost(now, false).Released(), Unknown, 1, false, false, time.Time{}, CodeExecutorLost},
		{"resolved as success", running(false, 3).Lost(now, false).Resolved(Success, "seen"), Success, 1, false, false, time.Time{}, ""},
		{"resolved as failed", running(false, 3).Lost(now, false).Resolved(Failed, "seen"), Failed, 1, false, false, time.Time{}, CodeExecutorLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := c.to
			if e.Status != c.status || e.Token != c.token || e.Leased() != c.leased || e.Exclusive != c.slot || !e.WakeAt.Equal(c.wake) || e.ErrorCode != c.code {
				t.Errorf("got %s token %d leased %v slot %v wake %v code %q\nwant %s token %d leased %v slot %v wake %v code %q",
					e.Status, e.Token, e.Leased(), e.Exclusive, e.WakeAt, e.ErrorCode, c.status, c.token, c.leased, c.slot, c.wake, c.code)
			}
			if e.Status.Ended() && e.CompletedAt.IsZero() {
				t.Error("ended without a time")
			}
		})
	}
}

// What an attempt did stays known when a later one leaves no word.
func TestResultOutlivesAttemptsWithoutOne(t *testing.T) {
	some := Outcome{Status: Failed, Retryable: true, CompletedAt: now, Result: []byte(`{"message":"some"}`)}
	none := Outcome{Status: Failed, Crashed: true, CompletedAt: now}
	again := func(e *Execution) *Execution { return e.Lease(holder, 0, now).Start(now, now, nil) }
	first := running(true, 3).End(some, now)
	for name, e := range map[string]*Execution{
		"failed":  first,
		"crashed": again(first).End(none, now),
		"lost":    again(first).Lost(now, true),
		"late":    again(first).Overdue(now),
	} {
		if string(e.Result) != `{"message":"some"}` {
			t.Errorf("%s: the result is %s", name, e.Result)
		}
	}
	if e := again(first).End(Outcome{Status: Success, CompletedAt: now}, now); e.Result != nil {
		t.Errorf("a success has the result of a failure: %s", e.Result)
	}
	if e := running(true, 3).End(none, now); e.Result != nil {
		t.Errorf("the first attempt left %s", e.Result)
	}
}

// A seat is taken with the lease and kept as long as a process may be left.
func TestSeats(t *testing.T) {
	seated := func(idempotent, exclusive bool) *Execution {
		e := waiting(idempotent, 3)
		e.Exclusive = exclusive
		return e.Lease(holder, 7, now)
	}
	crashed := Outcome{Status: Failed, Crashed: true, StartedAt: now, CompletedAt: now}
	again := Outcome{Status: Failed, Retryable: true, CompletedAt: now}
	gone := now.Add(time.Minute + KillGrace)
	for _, exclusive := range []bool{false, true} {
		run := seated(true, exclusive).Start(now, now, nil)
		once := seated(false, exclusive).Start(now, now, nil)
		for _, c := range []struct {
			name string
			to   *Execution
			seat int
			wake time.Time
		}{
			{"lease", seated(true, exclusive), 7, gone},
			{"lease without one", waiting(true, 0).Lease(holder, 0, now), 0, gone},
			{"start", run, 7, gone},
			{"requeue", seated(true, exclusive).Requeue(now), 0, now},
			{"requeue running", run.Requeue(now), 0, now},
			{"success", ended(run, Success), 0, time.Time{}},
			{"retry", run.End(again, now), 0, now.Add(5 * time.Minute)},
			{"crash", once.End(crashed, now), 7, gone},
			{"late result after a crash", ended(once.End(crashed, now), Success), 0, time.Time{}},
			{"released after a crash", once.End(crashed, now).Released(), 0, time.Time{}},
			{"resolved after a crash", once.End(crashed, now).Resolved(Success, "seen"), 0, time.Time{}},
			{"lost unstarted", seated(false, exclusive).Lost(now, false), 0, now},
			{"lost idempotent", run.Lost(now, false), 0, now},
			{"lost not idempotent", once.Lost(now, false), 7, gone},
			{"lost and cancelled, dead", cancelling(run).Lost(now, false), 7, gone},
			{"lost and cancelled, gone", cancelling(run).Lost(now, true), 0, time.Time{}},
			{"overdue", run.Overdue(now), 0, time.Time{}},
			{"cancelled waiting", run.Requeue(now).CancelledUnstarted(now), 0, time.Time{}},
		} {
			if c.to.Seat != c.seat || !c.to.WakeAt.Equal(c.wake) || c.to.Status.Ended() && c.to.Exclusive != (exclusive && c.seat != 0) {
				t.Errorf("%s, exclusive %v: seat %d wake %v slot %v; want seat %d wake %v", c.name, exclusive, c.to.Seat, c.to.WakeAt, c.to.Exclusive, c.seat, c.wake)
			}
		}
	}
}

// A retry costs an attempt, a lost executor does not, and three of them end it.
func TestLostExecutorsCostNoRetryButNotForever(t *testing.T) {
	e := waiting(true, 1)
	for i := range MaxLostSessions - 1 {
		e = e.Lease(holder, 0, now).Start(now, now, nil).Lost(now, false)
		if e.Status != Pending || !e.WakeAt.Equal(now) {
			t.Fatalf("after loss %d: %s, wake %v", i+1, e.Status, e.WakeAt)
		}
	}
	retried := e.Lease(holder, 0, now).Start(now, now, nil).End(Outcome{Status: Failed, Retryable: true, CompletedAt: now}, now)
	if retried.Status != Retrying {
		t.Fatalf("a failure after losses is %s", retried.Status)
	}
	e = retried.Lease(holder, 0, now).Start(now, now, nil).Lost(now, false)
	if e.Status != Failed || e.ErrorCode != CodeExecutorLost {
		t.Fatalf("the third loss ends as %s %s", e.Status, e.ErrorCode)
	}
	if n := len(e.Attempts); n != 4 {
		t.Errorf("%d attempts kept, want 4", n)
	}
	for i, a := range e.Attempts {
		if a.Number != i+1 {
			t.Errorf("attempt %d has number %d", i+1, a.Number)
		}
	}
}

// A late result replaces the unknown end instead of adding an attempt.
func TestLateResultReplacesUnknownAttempt(t *testing.T) {
	e := ended(running(false, 0).Lost(now, false), Success)
	if len(e.Attempts) != 1 || e.Attempts[0].Status != Success {
		t.Errorf("attempts are %+v", e.Attempts)
	}
}

// Whatever happens, in any order: transitions never write to what they were
// given, tokens never shrink, a state never has the token of another state that
// could be leased, what ended never wakes without owing its slot or its seat, and
// a seat is had from the lease on, by nobody who waits.
func TestTransitionsKeepTheirInvariants(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		e := waiting(rng.IntN(2) == 0, rng.IntN(3))
		e.Exclusive = rng.IntN(2) == 0
		holders := map[string]string{}
		for range 30 {
			before := fmt.Sprintf("%+v", *e)
			next := step(rng, e)
			if after := fmt.Sprintf("%+v", *e); after != before {
				t.Fatalf("seed %d: a transition wrote to its input:\n%s\n%s", seed, before, after)
			}
			if next.Token < e.Token {
				t.Fatalf("seed %d: token fell from %d to %d", seed, e.Token, next.Token)
			}
			state := fmt.Sprintf("%s/%d", next.Status, next.Token)
			if held, ok := holders[state]; ok && held != next.Session && next.Status != Unknown {
				t.Fatalf("seed %d: %s names a record held by %q and by %q", seed, state, held, next.Session)
			}
			holders[state] = next.Session
			if next.Status.Ended() && !next.WakeAt.IsZero() && !next.Exclusive && next.Seat == 0 {
				t.Fatalf("seed %d: %s wakes at %v and owes nothing", seed, next.Status, next.WakeAt)
			}
			switch leased := !e.Leased() && next.Leased(); {
			case next.Seat != 0 && next.Seat != e.Seat && !leased:
				t.Fatalf("seed %d: seat %d appears in place of %d", seed, next.Seat, e.Seat)
			case next.Seat != 0 && !next.Leased() && !next.Status.Ended():
				t.Fatalf("seed %d: a %s record that nobody has holds a seat", seed, next.Status)
			case next.Seat == 0 && e.Seat != 0 && next.Leased():
				t.Fatalf("seed %d: a %s record lost its seat", seed, next.Status)
			case next.Seat != 0 && next.WakeAt.IsZero():
				t.Fatalf("seed %d: a %s record never gives up its seat", seed, next.Status)
			}
			if !next.Status.Ended() && next.WakeAt.IsZero() {
				t.Fatalf("seed %d: a %s record never wakes", seed, next.Status)
			}
			e = next
		}
	}
}

// step applies some transition that is legal for e.
func step(rng *rand.Rand, e *Execution) *Execution {
	outcomes := []Status{Success, Failed, TimedOut, Cancelled}
	switch {
	case e.Status.Final():
		return e
	case e.Status == Unknown:
		switch rng.IntN(3) {
		case 0:
			return ended(e, outcomes[rng.IntN(4)])
		case 1:
			return e.Resolved(Success, "seen")
		default:
			return e.Released()
		}
	case !e.Leased():
		if rng.IntN(8) == 0 {
			return e.CancelledUnstarted(now)
		}
		return e.Lease(holder, rng.IntN(3), now)
	case e.Status != Running && rng.IntN(2) == 0:
		return e.Start(now, now, nil)
	}
	switch rng.IntN(5) {
	case 0:
		return e.Lost(now, rng.IntN(2) == 0)
	case 1:
		return e.Overdue(now)
	case 2:
		return e.Requeue(now)
	default:
		return e.End(Outcome{
			Status: outcomes[rng.IntN(4)], CompletedAt: now, StartedAt: now,
			Retryable: rng.IntN(2) == 0, Crashed: rng.IntN(9) == 0, Error: "e",
		}, now)
	}
}

func TestExecutionIDsAreReadableAndReversible(t *testing.T) {
	for _, c := range []struct {
		job     string
		trigger Trigger
		key     string
		id      string
	}{
		{"job_abc", TriggerScheduler, FireKey(now), "exec_abc_s_20260302T120000Z"},
		{"job_abc", TriggerManual, "k_with_underscores", "exec_abc_m_k_with_underscores"},
	} {
		id := ExecutionID(c.job, c.trigger, c.key)
		if id != c.id {
			t.Errorf("id is %s, want %s", id, c.id)
		}
		j, tr, k, ok := ParseExecutionID(id)
		if !ok || j != c.job || tr != c.trigger || k != c.key {
			t.Errorf("%s parses to %s %s %s %v", id, j, tr, k, ok)
		}
	}
	for _, bad := range []string{"", "exec_", "job_a", "exec_a_s_", "exec__s_x", "exec_a_x_k", "exec_a"} {
		if _, _, _, ok := ParseExecutionID(bad); ok {
			t.Errorf("%q parses", bad)
		}
	}
}

func TestDerivedIDs(t *testing.T) {
	a, b := DerivedID("job_", "user", "key"), DerivedID("job_", "user", "key")
	if a != b {
		t.Errorf("%s and %s differ", a, b)
	}
	if c := DerivedID("job_", "userk", "ey"); c == a {
		t.Error("parts run into one another")
	}
	if a, b := NewID("job_"), NewID("job_"); a == b {
		t.Error("random ids repeat")
	}
}

func TestErrorsSaySomething(t *testing.T) {
	for _, err := range []error{&SlotHeldError{By: "exec_a"}, &LimitError{What: "jobs", Limit: 100}} {
		if err.Error() == "" {
			t.Errorf("%T is silent", err)
		}
	}
}

func TestCloneAndFreeze(t *testing.T) {
	j := &Job{ID: "job_a", Name: "a", Labels: map[string]string{"x": "1"}, TemplateType: "t", Timeout: time.Second}
	c := j.Clone()
	c.Labels["x"] = "2"
	if j.Labels["x"] != "1" {
		t.Error("a clone shares its labels")
	}
	f := j.Freeze(true)
	if f.Zone != "UTC" || !f.Idempotent || f.JobName != "a" || f.Timeout != time.Second {
		t.Errorf("froze %+v", f)
	}
	if _, err := j.Compile(); err == nil {
		t.Error("a job without a schedule compiles")
	}
}
