package mongostore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var farAway = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// rollUpAll counts until there is no more.
func rollUpAll(t *testing.T, s *Store) (steps int) {
	t.Helper()
	for steps = 1; steps < 100; steps++ {
		more, err := s.RollUp(t.Context(), noon)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return steps
		}
	}
	t.Fatal("there is always more")
	return 0
}

// countedRight compares the roll-ups of all jobs with their records.
func countedRight(t *testing.T, s *Store, label string) {
	t.Helper()
	compareRollUps(t, s, label)
	if _, err := s.fold(t.Context(), farAway); err != nil {
		t.Fatal(err)
	}
	compareRollUps(t, s, label+", folded")
}

func compareRollUps(t *testing.T, s *Store, label string) {
	t.Helper()
	all, err := many[end](t.Context(), s.executions, bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[rollUpKey]*store.RollUp{}
	jobs := map[string]bool{"": true}
	for _, e := range all {
		jobs[e.JobID] = true
		if !e.Status.Ended() {
			continue
		}
		for _, k := range keysOf(e.JobID, *e.CompletedAt) {
			r := want[k]
			if r == nil {
				r = &store.RollUp{From: fromDate(e.CompletedAt).Truncate(store.RollUpStep), Counts: map[job.Status]int{}}
				want[k] = r
			}
			r.Counts[e.Status]++
			if e.StartedAt != nil {
				took := max(fromDate(e.CompletedAt).Sub(fromDate(e.StartedAt)), 0)
				r.Timed++
				r.Total += took
				r.Longest = max(r.Longest, took)
			}
		}
	}
	got := map[rollUpKey]*store.RollUp{}
	for id := range jobs {
		found, err := s.Statistics(t.Context(), id, time.Time{}, farAway)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range found {
			if i > 0 && !found[i-1].From.Before(r.From) {
				t.Errorf("%s: the roll-ups of %q are not in order", label, id)
			}
			got[rollUpKey{id, r.From.Unix() / 900}] = &r
		}
	}
	if !reflect.DeepEqual(got, want) {
		for k := range want {
			if !reflect.DeepEqual(got[k], want[k]) {
				t.Errorf("%s: %v: counted %+v, there are %+v", label, k, got[k], want[k])
			}
		}
		t.Fatalf("%s: %d roll-ups, want %d", label, len(got), len(want))
	}
}

// history writes records as if they had settled at times of the test's choice.
type history struct {
	*testing.T
	s *Store
	n int
}

// ended inserts a record of the job that ended so at the minute, and settled so
// many seconds after some time.
func (h *history) ended(jobID string, status job.Status, minute, second int) string {
	h.Helper()
	h.n++
	completed := minutes(minute).Add(7 * time.Millisecond)
	e := &job.Execution{
		ID: job.ExecutionID(jobID, job.TriggerManual, fmt.Sprintf("%04d", h.n)), JobID: jobID, Trigger: job.TriggerManual, ScheduledFor: minutes(minute).Add(time.Duration(h.n) * time.Millisecond),
		CreatedAt: noon, Status: status, StartedAt: completed.Add(-time.Duration(h.n) * time.Second), CompletedAt: completed,
	}
	d := toExecution(e)
	d.Settled = &bson.Timestamp{T: uint32(1_000_000 + second), I: uint32(h.n)}
	if fresh, err := insert(h.Context(), h.s.executions, d); err != nil || !fresh {
		h.Fatal(fresh, err)
	}
	return e.ID
}

// corrected lets a record have ended otherwise.
func (h *history) corrected(id string, status job.Status, minute, second int) {
	h.Helper()
	d, err := one[execution](h.Context(), h.s.executions, byID(id))
	if err != nil || d == nil {
		h.Fatal(d, err)
	}
	h.n++
	u := set(bson.E{Key: "status", Value: string(status)}, bson.E{Key: "completed_at", Value: date(minutes(minute))},
		bson.E{Key: "settled", Value: bson.Timestamp{T: uint32(1_000_000 + second), I: uint32(h.n)}})
	u = append(u, bson.E{Key: "$push", Value: bson.D{{Key: "corrected", Value: correction{*d.Settled, *d.State.CompletedAt}}}})
	if _, err := update(h.Context(), h.s.executions, byID(id), u); err != nil {
		h.Fatal(err)
	}
}

func (h *history) state(id string, want job.State) {
	h.Helper()
	if j, err := h.s.Job(h.Context(), id); err != nil || j.State != want {
		h.Errorf("job %s is %s, want %s (%v)", id, j.State, want, err)
	}
}

// TestRollUpSteps counts a long history in small steps, and then what comes to it
// in any order.
func TestRollUpSteps(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	s.rollUpAtOnce = 4
	a, b := create(t, s), create(t, s)
	h := &history{t, s, 0}
	if steps := rollUpAll(t, s); steps != 1 {
		t.Errorf("%d steps for nothing", steps)
	}
	h.state(a.ID, job.StateNever)
	lost := ""
	for i := range 10 { // more in a slice than a step takes, and less
		h.ended(a.ID, job.Success, i, i*7)
		h.ended(b.ID, job.Failed, i*10, i*40)
		lost = h.ended(a.ID, job.Unknown, 20+i, 200+i)
		h.ended(job.NotificationsID, job.Success, i, 600+i)
	}
	h.ended(a.ID, job.Skipped, 50, 400)
	h.ended(b.ID, job.Cancelled, 95, 401)
	if steps := rollUpAll(t, s); steps < 4 {
		t.Errorf("only %d steps", steps)
	}
	countedRight(t, s, "a history")
	h.state(a.ID, job.StateFailing)
	h.state(b.ID, job.StateFailing)

	// One that was under way appears behind those that were counted.
	h.ended(a.ID, job.TimedOut, 3, 608)
	rollUpAll(t, s)
	countedRight(t, s, "a late appearance")

	// A run ends long after it was complete.
	h.ended(b.ID, job.Success, -600, 5000)
	rollUpAll(t, s)
	countedRight(t, s, "a late result")
	h.state(b.ID, job.StateFailing)

	// One that was under way appears behind a slice that was begun.
	h.ended(a.ID, job.TimedOut, 3, 4999)
	rollUpAll(t, s)
	countedRight(t, s, "a late appearance, a slice before")

	// What was unknown turns out to have ended otherwise, at another time.
	h.corrected(lost, job.Success, -30, 6000)
	rollUpAll(t, s)
	countedRight(t, s, "a correction")
	h.state(a.ID, job.StateFailing) // other runs are still unknown
	h.corrected(lost, job.Failed, 45, 6001)
	h.corrected(lost, job.Cancelled, 46, 6002)
	rollUpAll(t, s)
	countedRight(t, s, "more corrections")
	late := h.ended(b.ID, job.Unknown, 300, 7000)
	rollUpAll(t, s)
	h.corrected(late, job.Success, 299, 7001)
	rollUpAll(t, s)
	h.state(b.ID, job.StateOK)
	only := create(t, s)
	single := h.ended(only.ID, job.Unknown, 1, 8000)
	rollUpAll(t, s)
	h.state(only.ID, job.StateFailing)
	h.corrected(single, job.Cancelled, 1, 8100)
	rollUpAll(t, s)
	h.state(only.ID, job.StateNever)
	countedRight(t, s, "at last")
}

// TestRollUpIsIdle looks for writes when nothing has ended.
func TestRollUpIsIdle(t *testing.T) {
	var seen commands
	s := begin(t, newDatabase(t, standintest.Start(t).URI), seen.tune)
	h := &history{t, s, 0}
	h.ended("job_x", job.Success, 1, 59)
	h.ended("job_x", job.Success, 1, 61)
	rollUpAll(t, s)
	seen.take()
	rollUpAll(t, s)
	for _, c := range seen.take() {
		if c.name == "update" || c.name == "insert" {
			t.Errorf("it sent %s to %s", c.name, c.collection)
		}
	}
}

// TestRollUpOfAnOldDatabase counts what ended before there were roll-ups.
func TestRollUpOfAnOldDatabase(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	s.rollUpAtOnce = 3
	j := create(t, s)
	h := &history{t, s, 0}
	lost := ""
	for i := range 5 {
		h.ended(j.ID, job.Success, i, 0)
		lost = h.ended(j.ID, job.Failed, 40*i, 0)
		if a := perform(t.Context(), t, s, fireOf(create(t, s), "ann")); a.Outcome != store.Done {
			t.Fatalf("%+v", a)
		}
	}
	if _, err := s.executions.UpdateMany(t.Context(), bson.D{}, changes(nil, bson.D{{Key: "settled", Value: ""}, {Key: "failed_order", Value: ""}})); err != nil {
		t.Fatal(err)
	}
	// One of them is found to have ended otherwise, before anybody counts.
	e, err := s.Execution(t.Context(), lost)
	if err != nil {
		t.Fatal(err)
	}
	to := *e
	to.Status = job.TimedOut
	if a := perform(t.Context(), t, s, &store.Change{Status: e.Status, Token: e.Token, To: &to}); a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	if steps := rollUpAll(t, s); steps < 5 {
		t.Errorf("only %d steps", steps)
	}
	countedRight(t, s, "old records")
	page, total, err := s.Failures(t.Context(), minutes(40), 0, 2)
	if err != nil || total != 4 || len(page) != 2 || !page[0].CompletedAt.After(page[1].CompletedAt) {
		t.Errorf("%d failures, the first of them %v (%v)", total, page, err)
	}
}

// TestRollUpsThatAreOvertaken has a step of which everybody thinks that it died
// go on, from any of its commands, after others have counted more.
func TestRollUpsThatAreOvertaken(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	slow, s := begin(t, uri, h.tune), begin(t, uri, nil)
	past := &history{t, s, 0}
	j := create(t, s)
	for n := 0; ; n++ {
		second := n * 10_000
		lost := past.ended(j.ID, job.Unknown, n, second)
		past.ended(j.ID, job.Success, n, second+1)
		overtaken := false
		h.arm(n, func() {
			overtaken = true
			forgetStep(t, s)
			past.corrected(lost, job.Success, n+20, second+4000)
			past.ended(j.ID, job.Failed, n, second+2) // it appears late
			rollUpAll(t, s)
			past.ended(j.ID, job.Failed, n+40, second+8000)
			rollUpAll(t, s)
		})
		more, err := slow.RollUp(t.Context(), minutes(600))
		h.disarm()
		if err != nil || overtaken && more {
			t.Errorf("before command %d: more %v, %v", n, more, err)
		}
		rollUpAll(t, s)
		countedRight(t, s, fmt.Sprintf("overtaken before command %d", n))
		past.state(j.ID, job.StateFailing)
		if !overtaken {
			if n < 7 {
				t.Errorf("a step has only %d commands", n)
			}
			return
		}
	}
}

// TestAnEarlierStepThatReadLater writes first what a later one, which read before
// it, writes over; then it may not say that all was counted.
func TestAnEarlierStepThatReadLater(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var ha, hb hooks
	a, b, s := begin(t, uri, ha.tune), begin(t, uri, hb.tune), begin(t, uri, nil)
	past := &history{t, s, 0}
	j := create(t, s)
	past.ended(j.ID, job.Success, 1, 1)
	rollUpAll(t, s)
	past.ended(j.ID, job.Success, 2, 2)

	// What a step sends: two reads, its number, a read, and three writes.
	const reads, writes, finishes = 3, 4, 6
	stop := func(reached chan<- int, n int, next chan struct{}) {
		reached <- n
		<-next
	}
	reached, goA, goB := make(chan int), make(chan struct{}), make(chan struct{})
	ha.arm(reads, func() {
		stop(reached, reads, goA)
		ha.before, ha.act = finishes, func() { stop(reached, finishes, goA) }
	})
	hb.arm(writes, func() { stop(reached, writes, goB) })
	var earlier, later sync.WaitGroup
	step := func(s *Store, over *sync.WaitGroup) {
		over.Go(func() {
			if more, err := s.RollUp(t.Context(), noon); more || err != nil {
				t.Error(more, err)
			}
		})
	}
	step(a, &earlier)
	<-reached // before it reads
	forgetStep(t, s)
	step(b, &later)
	<-reached // it has read
	past.ended(j.ID, job.Failed, 3, 3)
	goA <- struct{}{}
	<-reached // it has written what the other has not read
	goB <- struct{}{}
	later.Wait()
	goA <- struct{}{}
	earlier.Wait()
	rollUpAll(t, s)
	countedRight(t, s, "an earlier step that read later")
}

// forgetStep takes off the mark of a step that is at work.
func forgetStep(t *testing.T, s *Store) {
	t.Helper()
	if _, err := update(t.Context(), s.meta, byID(rollUpID), unset("at_work")); err != nil {
		t.Error(err)
	}
}

// TestRollUpsThatDie has steps end before any of their commands.
func TestRollUpsThatDie(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	dying, s := begin(t, uri, h.tune), begin(t, uri, nil)
	past := &history{t, s, 0}
	for n := 0; ; n++ {
		lost := past.ended("job_x", job.Unknown, n, n*100)
		rollUpAll(t, s)
		past.ended("job_x", job.Success, n, n*100+50)
		past.corrected(lost, job.Unknown, n+20, n*100+51)
		ctx, die := context.WithCancel(t.Context())
		died := false
		h.arm(n, func() { died = true; die() })
		_, err := dying.RollUp(ctx, minutes(30))
		h.disarm()
		die()
		if died && err != nil && !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("before command %d: %v", n, err)
		}
		rollUpAll(t, s)
		countedRight(t, s, fmt.Sprintf("dead before command %d", n))
		if !died {
			return
		}
	}
}

// TestRollUpAfterADeath waits for a step that will never be over, and goes on.
func TestRollUpAfterADeath(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	rollUpAll(t, s)
	if _, err := update(t.Context(), s.meta, byID(rollUpID), set(bson.E{Key: "at_work", Value: true})); err != nil {
		t.Fatal(err)
	}
	(&history{t, s, 0}).ended("job_x", job.Success, 1, 1)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.RollUp(short, farAway); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it did not wait: %v", err)
	}
	rollUpAll(t, s)
	countedRight(t, s, "after a death")
	if p, err := s.progress(t.Context()); err != nil || p.AtWork {
		t.Errorf("%+v (%v)", p, err)
	}
}

// TestRollUpsAtOnce counts while runs end and are resolved.
func TestRollUpsAtOnce(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	a, b := begin(t, uri, nil), begin(t, uri, nil)
	done := make(chan struct{})
	var working, counting sync.WaitGroup
	for i, s := range []*Store{a, b} {
		counting.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, err := s.RollUp(t.Context(), noon); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
		j := create(t, s, func(j *job.Job) { j.Overlap = job.OverlapAllow })
		working.Go(func() {
			for n := range 10 {
				f := fireOf(j, "ann")
				f.Execution.Frozen.Idempotent = false
				run := f.Execution.Start(noon, noon, nil)
				lost := run.Lost(minutes(n), true)
				ops := []store.Op{f, &store.Change{Status: job.Pending, Token: 1, To: run}, &store.Change{Status: job.Running, Token: 1, To: lost}}
				if n%2 == i {
					ops = append(ops, &store.Change{Status: job.Unknown, Token: lost.Token, To: lost.Resolved(job.Success, "seen")})
				}
				for _, answer := range s.Do(t.Context(), noon, ops) {
					if answer.Outcome != store.Done {
						t.Errorf("%+v", answer)
					}
				}
				j.NextRunAt = j.NextRunAt.Add(time.Minute)
			}
		})
	}
	working.Wait()
	close(done)
	counting.Wait()
	rollUpAll(t, a)
	countedRight(t, a, "at once")
	settled, err := a.executions.CountDocuments(t.Context(), bson.D{present("settled")})
	if err != nil || settled != 20 {
		t.Errorf("%d settled (%v)", settled, err)
	}
}

// TestWhatMovesIsCounted takes records in, also such as ended before what was
// counted already.
func TestWhatMovesIsCounted(t *testing.T) {
	server := standintest.Start(t)
	from, to := begin(t, newDatabase(t, server.URI), nil), begin(t, newDatabase(t, server.URI), nil)
	h := &history{t, from, 0}
	j := create(t, from)
	for i := range 4 {
		h.ended(j.ID, job.Success, 100-i, i)
		h.ended(j.ID, job.Failed, i, i)
	}
	for _, user := range []string{"ann", "bob"} {
		addUser(t, from, user, "admin")
		addToken(t, from, "token of "+user, user)
	}
	// Whoever removed her died after the first write.
	if _, err := update(t.Context(), from.users, byID("bob"), set(bson.E{Key: "removed", Value: true}, bson.E{Key: "owes", Value: true})); err != nil {
		t.Fatal(err)
	}
	if err := from.Finish(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	for _, kind := range move.Kinds {
		for r, err := range from.Export(t.Context(), kind) {
			if err != nil {
				t.Fatal(err)
			}
			if n, err := to.Import(t.Context(), []move.Record{r}); err != nil || n != 1 {
				t.Fatalf("%s %s: %d imported, %v", kind, r.Key(), n, err)
			}
			if kind == move.Executions {
				rollUpAll(t, to)
			}
		}
	}
	if n, err := to.executions.CountDocuments(t.Context(), bson.D{present("settled")}); err != nil || n != 8 {
		t.Errorf("%d records have moved (%v)", n, err)
	}
	countedRight(t, to, "moved")
	(&history{t, to, 0}).state(j.ID, job.StateOK)
	if got := standsOf(t, to, "bob"); got.there {
		t.Errorf("who was removed is there: %+v", got)
	}
	if token, _, err := to.TokenOwner(t.Context(), "token of ann"); err != nil || token.Kind != store.TokenPersonal {
		t.Errorf("%+v (%v)", token, err)
	}
	if got := auditsOf(t, to, "bob"); got["user.create"] != 1 || got["token.create"] != 1 {
		t.Errorf("audits: %v", got)
	}
}
