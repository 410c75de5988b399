package sqlitestore

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

// childFolder names the folder that a child process writes to until it is
// killed.
const childFolder = "ALMANAC_TEST_STORE"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		if err := writeForever(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		folder := t.TempDir()
		return func() store.Store { return openAt(t, folder) }
	})
}

func openAt(t *testing.T, folder string) *Store {
	t.Helper()
	s, err := Open(t.Context(), folder, Options{Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openNew(t *testing.T) *Store {
	t.Helper()
	s := openAt(t, t.TempDir())
	closeAfter(t, s)
	return s
}

func closeAfter(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testJob(n int) *job.Job {
	return &job.Job{
		ID: fmt.Sprintf("job_%d", n), Name: fmt.Sprint("job ", n), TemplateType: "noop", Enabled: true, Timeout: time.Minute,
		Schedule: schedule.Spec{Type: schedule.Interval, IntervalSeconds: 60}, Overlap: job.OverlapForbid,
		CreatedAt: start.Add(-time.Minute), NextRunAt: start, Version: 1,
	}
}

func createJob(t *testing.T, s *Store, n int) *job.Job {
	t.Helper()
	j, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: testJob(n)})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// fireAt returns the leased fire of the job for the time.
func fireAt(j *job.Job, t time.Time) *store.Fire {
	key := job.FireKey(t)
	e := &job.Execution{
		ID: job.ExecutionID(j.ID, job.TriggerScheduler, key), JobID: j.ID, JobVersion: 1, Trigger: job.TriggerScheduler, Key: key,
		ScheduledFor: t, CreatedAt: t, Frozen: j.Freeze(true), Status: job.Pending, Exclusive: true,
	}
	e = e.Lease(job.Holder{Session: "sess_1", Stream: "stream_1", Number: 1, Host: "executor-1"}, 0, t)
	return &store.Fire{Execution: e, Version: 1, FireAt: t, Next: t.Add(time.Minute)}
}

func finish(e *job.Execution, t time.Time) *store.Change {
	return &store.Change{
		Status: e.Status, Token: e.Token,
		To: e.End(job.Outcome{Status: job.Success, StartedAt: t, CompletedAt: t, Result: []byte(`{"message":"ok"}`)}, t),
	}
}

const childWriters = 4

// writeForever fires and finishes, and prints what was acknowledged.
func writeForever(folder string) error {
	s, err := Open(context.Background(), folder, Options{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range childWriters {
		wg.Go(func() {
			j := testJob(i)
			if _, _, err := s.CreateJob(context.Background(), store.CreateJob{Job: j}); err != nil {
				return
			}
			for t := start; ; t = t.Add(time.Minute) {
				f := fireAt(j, t)
				for _, op := range []store.Op{f, finish(f.Execution, t)} {
					if s.Do(context.Background(), t, []store.Op{op})[0].Outcome != store.Done {
						return
					}
					mu.Lock()
					_, err := fmt.Printf("%T %s\n", op, f.Execution.ID)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return errors.New("a writer ended")
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	for _, after := range []int{1, 50, 1000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			folder := t.TempDir()
			child := exec.CommandContext(t.Context(), os.Args[0])
			child.Env = append(os.Environ(), childFolder+"="+folder)
			child.Stderr = os.Stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			acknowledged := map[string]job.Status{}
			lines := bufio.NewScanner(out)
			for n := 0; lines.Scan(); n++ {
				if n == after {
					if err := child.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
				kind, id, ok := strings.Cut(lines.Text(), " ")
				switch {
				case !ok: // torn by the kill
				case kind == "*store.Change":
					acknowledged[id] = job.Success
				case acknowledged[id] == "":
					acknowledged[id] = job.Pending
				}
			}
			if err := child.Wait(); err == nil || len(acknowledged) == 0 {
				t.Fatalf("the child ended with %v after %d", err, len(acknowledged))
			}

			s := openAt(t, folder)
			closeAfter(t, s)
			var begun [childWriters]bool
			for id, status := range acknowledged {
				e, err := s.Execution(t.Context(), id)
				if err != nil {
					t.Fatalf("%s: %v", id, err)
				}
				for i := range begun {
					begun[i] = begun[i] || e.JobID == fmt.Sprint("job_", i)
				}
				if status == job.Success && e.Status != job.Success {
					t.Fatalf("%s is %s", id, e.Status)
				}
			}
			consistent(t, s)
			for i := range childWriters { // each goes on where it was
				j, err := s.Job(t.Context(), fmt.Sprint("job_", i))
				if errors.Is(err, job.ErrNotFound) && !begun[i] {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				_, total, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Limit: 1})
				if err != nil || !j.NextRunAt.Equal(start.Add(time.Duration(total)*time.Minute)) {
					t.Fatalf("%d records, next %s: %v", total, j.NextRunAt, err)
				}
			}
		})
	}
}

// rollUp counts all that has ended.
func rollUp(t *testing.T, s *Store) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = s.RollUp(t.Context(), start); err != nil {
			t.Fatal(err)
		}
	}
}

// consistent checks what is kept twice.
func consistent(t *testing.T, s *Store) {
	t.Helper()
	rollUp(t, s)
	if err := s.read(t.Context(), func(d *data) error {
		var ok string
		if _, err := d.one(`PRAGMA integrity_check`, nil, func(r row) { ok = r.text(0) }); err != nil || ok != "ok" {
			t.Errorf("integrity: %s, %v", ok, err)
		}
		for name, query := range map[string]string{
			"counts": `SELECT count(*) FROM job_state s WHERE (s.live, s.success, s.failed, s.timed_out, s.cancelled, s.skipped, s.unknown) IS NOT
				(SELECT coalesce(sum(status < 3), 0), coalesce(sum(status = 3), 0), coalesce(sum(status = 4), 0), coalesce(sum(status = 5), 0),
				coalesce(sum(status = 6), 0), coalesce(sum(status = 7), 0), coalesce(sum(status = 8), 0) FROM executions WHERE job = s.job)`,
			"slots": `SELECT count(*) FROM job_state s WHERE s.slot IS NOT (SELECT seq FROM executions WHERE job = s.job AND exclusive = 1)`,
			// What waits has a queue, what has none is over.
			"queues": `SELECT count(*) FROM executions WHERE (typeof(queue) = 'text') <> (status < 2 AND session IS NULL) OR queue IS NULL AND (status < 3 OR seat IS NOT NULL)`,
			"roll-ups": `WITH ends AS (SELECT completed_at - completed_at % 21600000 AS block, job, completed_at - completed_at % 900000 AS bucket, status, max(completed_at - started_at, 0) AS took
				FROM executions WHERE status > 2 AND completed_at IS NOT NULL), twice AS (SELECT * FROM ends UNION ALL SELECT block, 0, bucket, status, took FROM ends)
				SELECT count(*) FROM (SELECT block, job, bucket, sum(status = 3), sum(status = 4), sum(status = 5), sum(status = 6), sum(status = 7), sum(status = 8),
				count(took), coalesce(sum(took), 0), coalesce(max(took), 0) FROM twice GROUP BY job, bucket EXCEPT SELECT * FROM rollups)`,
			"queued ends":     `SELECT count(*) FROM ended`,
			"exclusive twice": `SELECT count(*) FROM (SELECT 1 FROM executions WHERE exclusive = 1 GROUP BY job HAVING count(*) > 1)`,
		} {
			n, err := d.number(query, nil)
			if err != nil || n != 0 {
				t.Errorf("%s: %d jobs are wrong, %v", name, n, err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "deep", "data")
	s := openAt(t, folder)
	_, err := Open(t.Context(), folder, Options{})
	if err == nil || !strings.Contains(err.Error(), "another process has the data folder "+folder+" open") {
		t.Fatalf("error %v", err)
	}
	createJob(t, s, 1)
	for name, want := range map[string]os.FileMode{"": 0o700 | os.ModeDir, databaseName: 0o600, databaseName + "-wal": 0o600, lockName: 0o600} {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%q has mode %v; want %v (%v)", name, info.Mode(), want, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("closed twice: %v", err)
	}
	if err := openAt(t, folder).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	garbage := t.TempDir()
	for _, path := range []string{file, filepath.Join(garbage, databaseName)} {
		if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newer := t.TempDir()
	s := openAt(t, newer)
	if err := s.write(t.Context(), func(w *writer) error {
		_, err := w.exec(`PRAGMA user_version = 99`, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx          context.Context
		folder, says string
	}{
		{t.Context(), file, "make the data folder"},
		{t.Context(), garbage, "not a database"},
		{t.Context(), newer, "schema version 99"},
		{over, t.TempDir(), "canceled"},
	} {
		for range 2 { // the lock is given back
			if _, err := Open(c.ctx, c.folder, Options{}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v; want %q", err, c.says)
			}
		}
	}
}

// limitPages makes the database full at its present size; 0 takes that back.
func limitPages(t *testing.T, s *Store, full bool) {
	t.Helper()
	if err := s.write(t.Context(), func(w *writer) error {
		limit := "4294967294"
		if full {
			limit = "1" // SQLite takes the present size instead
		}
		_, err := w.one(`PRAGMA max_page_count = `+limit, nil, func(row) {})
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDiskFull(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	limitPages(t, s, true)
	at, full := start, false
	for range 10_000 { // fill the room within the pages
		f := fireAt(j, at)
		a := s.Do(t.Context(), at, []store.Op{f, finish(f.Execution, at), &store.AppendLog{ID: f.Execution.ID, Lines: []job.LogLine{{Message: strings.Repeat("x", 1000)}}}})
		if full = a[0].Outcome == store.Unknown; full {
			for _, a := range a {
				if a.Outcome != store.Unknown || !errors.Is(a.Err, job.ErrUnavailable) {
					t.Fatalf("%+v", a)
				}
			}
			break
		}
		at = at.Add(time.Minute)
	}
	if !full {
		t.Fatal("it is never full")
	}
	big := testJob(2)
	big.Description = strings.Repeat("x", 10_000)
	if _, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: big}); !errors.Is(err, job.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	if trouble == nil {
		t.Fatal("the store does not know that it is in trouble")
	}
	// What was acknowledged can be read meanwhile.
	if _, total, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Limit: 1}); err != nil || start.Add(time.Duration(total)*time.Minute) != at {
		t.Fatalf("%d records, %v", total, err)
	}
	limitPages(t, s, false)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := fireAt(j, at)
	for _, a := range s.Do(t.Context(), at, []store.Op{f, finish(f.Execution, at)}) {
		if a.Outcome != store.Done {
			t.Fatalf("%+v", a)
		}
	}
	consistent(t, s)
}

func TestReadyTriesAfresh(t *testing.T) {
	s := openNew(t)
	s.mu.Lock()
	s.trouble = errDisk
	s.mu.Unlock()
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	ts, err := s.Templates(t.Context())
	if err != nil || len(ts) != 0 {
		t.Fatalf("the attempt left %v, %v", ts, err)
	}
	// While somebody else holds the database, it says so, and soon.
	other, err := s.outside()
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, other)
	if _, err := other.exec(`BEGIN IMMEDIATE`, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	j := testJob(1)
	if _, _, err := s.CreateJob(ctx, store.CreateJob{Job: j}); !errors.Is(err, job.ErrUnavailable) || ctx.Err() != nil {
		t.Fatalf("error %v", err)
	}
	if a := s.Do(ctx, start, []store.Op{fireAt(j, start)}); a[0].Outcome != store.Unknown || ctx.Err() != nil {
		t.Fatalf("answers %+v", a)
	}
	if err := s.Ready(ctx); !errors.Is(err, job.ErrUnavailable) || ctx.Err() != nil {
		t.Fatalf("error %v", err)
	}
	if _, err := other.exec(`ROLLBACK`, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var errDisk = errors.New("the disk is full")

func TestOneBadOperationSpoilsOnlyItself(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	good := fireAt(j, start)
	wrongTime := fireAt(j, start)
	wrongTime.FireAt = start.Add(time.Second)
	ended := fireAt(j, start)
	ended.Execution = finish(good.Execution, start).To
	seated := fireAt(j, start.Add(time.Minute))
	seated.Execution.Seat = 1
	unversioned := fireAt(j, start.Add(time.Minute))
	unversioned.Execution.JobVersion, unversioned.Execution.Exclusive = 7, false
	nonsense := &store.Change{Status: "nonsense", To: good.Execution}
	toNonsense := finish(good.Execution, start)
	to := *toNonsense.To
	to.Status = "nonsense"
	toNonsense.To = &to
	ops := []store.Op{good, wrongTime, nonsense, ended, toNonsense, seated, unversioned, nil, finish(good.Execution, start)}
	for i, a := range s.Do(t.Context(), start, ops) {
		want := store.Unknown
		if i == 0 || i == len(ops)-1 {
			want = store.Done
		}
		if a.Outcome != want || (want == store.Unknown) != errors.Is(a.Err, job.ErrUnavailable) {
			t.Errorf("%d: %+v", i, a)
		}
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	j, err := s.Job(t.Context(), j.ID)
	if err != nil || !j.NextRunAt.Equal(start.Add(time.Minute)) {
		t.Fatalf("%+v, %v", j, err)
	}
	consistent(t, s)

	bad := testJob(3)
	bad.Parameters = []byte(`{`)
	if _, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: bad}); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	bad.Version = 2
	if _, err := s.EditJob(t.Context(), store.EditJob{Version: 1, After: bad}); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if _, err := s.EditJob(t.Context(), store.EditJob{Version: 2, After: bad}); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if err := s.PutTemplates(t.Context(), []job.Template{{Type: "a", Schema: []byte(`{`)}}); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	for _, e := range []*job.Execution{good.Execution, ended.Execution, &to, seated.Execution} {
		run := *e
		if e != good.Execution {
			run.Trigger, run.Key = job.TriggerManual, "k"
			run.ID = job.ExecutionID(j.ID, run.Trigger, run.Key)
		}
		if _, _, err := s.RunNow(t.Context(), store.RunNow{Execution: &run, Now: start}); !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("%s: error %v", run.ID, err)
		}
	}
}

// outside opens a connection that the store does not know of, as a backup does.
func (s *Store) outside() (*conn, error) {
	path := strings.TrimSuffix(s.lock.Name(), lockName) + databaseName
	c, err := openConn(path)
	return c, err
}

func TestQueue(t *testing.T) {
	q := queue{wake: make(chan struct{}, 1)}
	add := func(n int, urgent bool) {
		t.Helper()
		if !q.put(&task{ops: make([]store.Op, n)}, urgent) {
			t.Fatal("refused")
		}
	}
	sizes := func(batch []part) (s string) {
		for _, p := range batch {
			s += fmt.Sprintf(" %d:%d-%d", len(p.ops), p.from, p.to)
		}
		return s
	}
	expect := func(want string) {
		t.Helper()
		batch, over := q.take(nil)
		if got := sizes(batch); got != want || over {
			t.Fatalf("took%s; want%s (%v)", got, want, over)
		}
	}
	expect("")
	add(10, false)
	add(20, false)
	add(3, true)
	expect(" 3:0-3 10:0-10 20:0-20") // urgent first, each in its order
	expect("")
	add(10_000, true)
	expect(" 10000:0-4096")
	add(1500, false)
	expect(" 10000:4096-7168 1500:0-1024") // the others are not starved
	expect(" 10000:7168-10000 1500:1024-1500")
	expect("")
	add(5000, false)
	add(5, true)
	expect(" 5:0-5 5000:0-4091")
	q.close()
	if q.put(&task{}, true) {
		t.Fatal("taken after the end")
	}
	expect(" 5000:4091-5000")
	if batch, over := q.take(nil); len(batch) != 0 || !over {
		t.Fatal("not over")
	}
}

func TestUrgent(t *testing.T) {
	e := fireAt(testJob(1), start).Execution
	waiting := e.Requeue(start)
	for i, c := range []struct {
		op   store.Op
		want bool
	}{
		{&store.Fire{}, true},
		{&store.Change{Status: waiting.Status, Token: waiting.Token, To: waiting.Lease(job.Holder{Session: "s"}, 0, start)}, true},
		{&store.Change{Status: e.Status, Token: e.Token, To: e.Start(start, start, nil)}, false},
		{finish(e, start), false},
		{&store.Change{Status: e.Status, Token: e.Token, To: waiting}, false},
		{&store.Beat{}, false},
	} {
		if got := urgent([]store.Op{&store.Beat{}, c.op}); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

func TestManyOperationsInOneCall(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	var ops []store.Op
	for at := start; len(ops) < 2*maxBatch+100; at = at.Add(time.Minute) {
		f := fireAt(j, at)
		ops = append(ops, f, finish(f.Execution, at))
	}
	for i, a := range s.Do(t.Context(), start, ops) {
		if a.Outcome != store.Done {
			t.Fatalf("%d: %+v", i, a)
		}
	}
	consistent(t, s)
}

func TestLogIsKeptShort(t *testing.T) {
	s, err := open(t.Context(), t.TempDir(), Options{Log: zaptest.NewLogger(t)}, pacing{passiveAfter: 64, walLimit: 256})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, s)
	jobs := make([]*job.Job, 100)
	for i := range jobs {
		jobs[i] = createJob(t, s, i)
	}
	wal := strings.TrimSuffix(s.lock.Name(), lockName) + databaseName + "-wal"
	var longest int64
	for round := range 50 {
		at := start.Add(time.Duration(round) * time.Minute)
		var ops []store.Op
		for _, j := range jobs {
			f := fireAt(j, at)
			ops = append(ops, f, finish(f.Execution, at))
		}
		for _, a := range s.Do(t.Context(), at, ops) {
			if a.Outcome != store.Done {
				t.Fatalf("%+v", a)
			}
		}
		info, err := os.Stat(wal)
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, info.Size())
	}
	// A round writes some 60 pages; without checkpoints there would be 3,000.
	if longest > 2000*pageSize {
		t.Errorf("the log grew to %d pages", longest/pageSize)
	}
	consistent(t, s)
}

// Operations that are committed together share pages: no checkpoint comes for
// each thousand of them.
func TestCheckpointsCountPages(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	at := start
	for range 5 {
		var ops []store.Op
		for range s.pace.passiveAfter / 4 {
			f := fireAt(j, at)
			ops = append(ops, f, finish(f.Execution, at))
			at = at.Add(time.Minute)
		}
		for _, a := range s.Do(t.Context(), at, ops) {
			if a.Outcome != store.Done {
				t.Fatalf("%+v", a)
			}
		}
	}
	other, err := s.outside()
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, other)
	var length, moved int64
	if _, err := other.one(`PRAGMA wal_checkpoint(NOOP)`, nil, func(r row) { length, moved = r.int(1), r.int(2) }); err != nil {
		t.Fatal(err)
	}
	if moved != 0 || length == 0 || length > int64(s.pace.passiveAfter) {
		t.Errorf("%d of %d pages were moved", moved, length)
	}
}

func TestContextEndsWhileWaiting(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	resume := make(chan struct{})
	s.pause <- resume // the writer waits from now on
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan []store.Answer)
	go func() { answers <- s.Do(ctx, start, []store.Op{fireAt(j, start)}) }()
	<-s.queue.wake // it is queued
	cancel()
	if a := <-answers; a[0].Outcome != store.Unknown || !errors.Is(a[0].Err, context.Canceled) {
		t.Fatalf("%+v", a)
	}
	s.queue.signal()
	close(resume)
	// It happened all the same, or happens now.
	if a := s.Do(t.Context(), start, []store.Op{fireAt(j, start)}); a[0].Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
}

func TestReadsEndWithTheirContext(t *testing.T) {
	s := openNew(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.read(ctx, func(d *data) error {
		return d.each(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n`, nil, func(r row) error {
			if r.int(0) == 1000 {
				cancel()
			}
			return nil
		})
	})
	if !errors.Is(err, job.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	// All connections busy.
	var busy []*data
	for range readers {
		busy = append(busy, <-s.reads)
	}
	if _, err := s.Templates(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	for _, d := range busy {
		s.reads <- d
	}
	for range 2 * readers {
		if _, err := s.Templates(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.read(t.Context(), func(d *data) error {
		_, err := d.exec(`DELETE FROM jobs`, nil)
		return err
	}); !errors.Is(err, job.ErrUnavailable) {
		t.Fatalf("a reader may write: %v", err)
	}
}

func TestCloseWhileWriting(t *testing.T) {
	s := openAt(t, t.TempDir())
	j := createJob(t, s, 1)
	var wg sync.WaitGroup
	began := make(chan struct{}, 8)
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				a := s.Do(context.Background(), start, []store.Op{fireAt(j, start), &store.Beat{Session: "nobody"}})
				if a[0].Outcome == store.Unknown {
					if !errors.Is(a[0].Err, errClosed) || a[1].Outcome != store.Unknown {
						t.Errorf("%+v", a)
					}
					return
				}
				if a[0].Outcome != store.Done {
					t.Errorf("%+v", a)
				}
				if i == 0 {
					began <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-began
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := s.Ready(t.Context()); !errors.Is(err, job.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range maxKeys + 10 {
		c.learnKey(fmt.Sprint(i), int64(i))
	}
	for i := range 200 {
		c.learnVersion(versionKey{int64(i), 1}, &job.Job{}, 1<<20)
	}
	if len(c.keys) != 10 || len(c.ids) != 10 || c.size > maxDefinition || len(c.versions) > 64 {
		t.Errorf("%d keys, %d ids, %d versions of %d bytes", len(c.keys), len(c.ids), len(c.versions), c.size)
	}
}

func TestFindRefusesTooMany(t *testing.T) {
	s := openNew(t)
	if _, err := s.Find(t.Context(), make([]string, store.MaxFind+1)); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

// Fires of one call share statements. Whatever some of them meet, each is answered
// and leaves what it does alone.
func TestFiresTogetherAreAsOneByOne(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 1))
		together, alone := openNew(t), openNew(t)
		both := func(do func(s *Store) error) {
			t.Helper()
			for _, s := range []*Store{together, alone} {
				if err := do(s); err != nil {
					t.Fatal(err)
				}
			}
		}
		var jobs []*job.Job
		for n := range 50 {
			j := testJob(n)
			if rng.IntN(2) == 0 {
				j.Overlap = job.OverlapAllow
			}
			jobs = append(jobs, j)
			both(func(s *Store) error { _, _, err := s.CreateJob(t.Context(), store.CreateJob{Job: j}); return err })
		}
		for round := range 4 {
			now := start.Add(time.Duration(round) * time.Minute)
			for _, j := range jobs {
				back, deleted, edited := rng.IntN(10) == 0, rng.IntN(40) == 0, rng.IntN(20) == 0
				both(func(s *Store) error {
					have, err := s.Job(t.Context(), j.ID)
					switch {
					case err != nil || have.Deleted:
						return err
					case deleted:
						_, err = s.DeleteJob(t.Context(), j.ID, 0, now, nil)
					case edited || back:
						after := have.Clone()
						after.Version++
						if back && round > 0 { // to a time that is recorded already
							after.NextRunAt = now.Add(-time.Minute)
						}
						_, err = s.EditJob(t.Context(), store.EditJob{Version: have.Version, NextRunAt: have.NextRunAt, After: after})
					}
					return err
				})
			}
			var ops []store.Op
			for range 90 {
				j := jobs[rng.IntN(len(jobs))]
				have, err := alone.Job(t.Context(), j.ID)
				if err != nil {
					t.Fatal(err)
				}
				at := have.NextRunAt
				if at.IsZero() {
					at = now
				}
				f := fireAt(j, at)
				f.Version, f.Execution.JobVersion, f.Execution.Exclusive = have.Version, have.Version, j.Overlap == job.OverlapForbid
				switch rng.IntN(8) {
				case 0:
					f.Execution.Session = "sess_2"
				case 1:
					f.Execution.Status, f.Execution.Session, f.Execution.Exclusive, f.Execution.WakeAt = job.Skipped, "", false, time.Time{}
				case 2:
					f.Version++
				}
				ops = append(ops, f)
				if rng.IntN(4) == 0 && f.Execution.Status == job.Pending {
					ops = append(ops, finish(f.Execution, at))
				}
			}
			answers := together.Do(t.Context(), now, ops)
			for i, op := range ops {
				want := alone.Do(t.Context(), now, []store.Op{op})[0]
				if got := answers[i]; !errors.Is(got.Err, want.Err) || !reflect.DeepEqual([]any{got.Outcome, got.Execution, got.Job, got.SlotBy}, []any{want.Outcome, want.Execution, want.Job, want.SlotBy}) {
					t.Fatalf("seed %d, round %d, %d:\n got %+v\nwant %+v", seed, round, i, answers[i], want)
				}
				seen[fmt.Sprintf("%T %d job %v record %v slot %v", op, want.Outcome, want.Job != nil, want.Execution != nil, want.SlotBy != "")]++
			}
		}
		for _, j := range jobs {
			var states []string
			both(func(s *Store) error {
				have, err := s.Job(t.Context(), j.ID)
				if err != nil {
					return err
				}
				page, total, err := s.Executions(t.Context(), store.ExecutionFilter{JobID: j.ID, Limit: 500})
				text, jerr := json.Marshal([]any{have, page, total})
				states = append(states, string(text))
				return errors.Join(err, jerr)
			})
			if states[0] != states[1] {
				t.Fatalf("seed %d:\n got %s\nwant %s", seed, states[0], states[1])
			}
		}
		consistent(t, together)
	}
	for _, kind := range []string{
		"*store.Fire 1 job false record false slot false", "*store.Fire 2 job true record false slot false", "*store.Fire 2 job false record false slot false",
		"*store.Fire 2 job false record true slot false", "*store.Fire 2 job false record false slot true", "*store.Change 1 job false record false slot false",
	} {
		if seen[kind] < 5 {
			t.Errorf("%q was seen %d times of %v", kind, seen[kind], seen)
		}
	}
}
