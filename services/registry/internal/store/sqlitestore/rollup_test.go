package sqlitestore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func TestEndsAreReadAsTheyWereWritten(t *testing.T) {
	for _, e := range []end{{1, success, 0, none}, {1 << 40, unknown, 1_767_225_600_123, 0}, {7, skipped, 5, 1 << 50}, {3, 0, none, none}} {
		for _, was := range []end{{0, 0, none, none}, {e.job, unknown, 12, 3}, {e.job, success, 12, none}} {
			line := string(e.appendTo(nil))
			if was.job != 0 {
				line += " " + string(was.appendTo(nil))
			}
			gotIs, gotWas, err := parseEnds(line)
			if err != nil || gotIs != e || gotWas != was {
				t.Errorf("%q: %v, %v, %v; want %v, %v", line, gotIs, gotWas, err, e, was)
			}
		}
	}
	for _, line := range []string{"", "1 3 4", "1 3 4 5 6", "1 3 4 5 1 8 2 3 4", "1 x 4 5", "1 9 4 5", "1 2 4 5", "1 - 4 5"} {
		if is, was, err := parseEnds(line); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", line)) {
			t.Errorf("%q: %v, %v, %v", line, is, was, err)
		}
	}
}

// Each call takes some of the ends, so that the others' writes wait for it but
// shortly.
func TestRollUpGoesInSteps(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	const runs = 3 * maxRollUp
	var ops []store.Op
	at := start
	for range runs {
		f := fireAt(j, at)
		ops = append(ops, f, finish(f.Execution, at))
		at = at.Add(time.Minute)
	}
	for _, a := range s.Do(t.Context(), at, ops) {
		if a.Outcome != store.Done {
			t.Fatalf("%+v", a)
		}
	}
	counted := func() (n int) {
		steps, err := s.Statistics(t.Context(), "", start, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range steps {
			n += u.Counts[job.Success]
		}
		return n
	}
	calls, before := 0, 0
	for more := true; more; calls++ {
		var err error
		if more, err = s.RollUp(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		n := counted() - before
		if n == 0 || n > maxRollUp+endsTogether || more != (before+n < runs) {
			t.Fatalf("a call counted %d after %d of %d, more: %v", n, before, runs, more)
		}
		before += n
	}
	if calls < 2 || before != runs {
		t.Errorf("%d calls counted %d", calls, before)
	}
	consistent(t, s)
}

// What nobody can read is told, and nothing of it is half counted.
func TestRollUpTellsWhatItCannotRead(t *testing.T) {
	s := openNew(t)
	j := createJob(t, s, 1)
	f := fireAt(j, start)
	for _, a := range s.Do(t.Context(), start, []store.Op{f, finish(f.Execution, start)}) {
		if a.Outcome != store.Done {
			t.Fatalf("%+v", a)
		}
	}
	do := func(query string) {
		t.Helper()
		if err := s.write(t.Context(), func(w *writer) error { _, err := w.exec(query, nil); return err }); err != nil {
			t.Fatal(err)
		}
	}
	for line, says := range map[string]string{"nonsense": "nonsense", "99 3 0 0": "job 99 is not there"} {
		do(`INSERT INTO ended (ends) VALUES ('` + line + `')`)
		if _, err := s.RollUp(t.Context(), start); !errors.Is(err, job.ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v", line, err)
		}
		do(`DELETE FROM ended WHERE ends = '` + line + `'`)
	}
	if steps, err := s.Statistics(t.Context(), "", start, start.Add(time.Hour)); err != nil || len(steps) != 0 {
		t.Fatalf("%v, %v", steps, err)
	}
	consistent(t, s)
}

func TestPlansUseTheirIndexes(t *testing.T) {
	s := openNew(t)
	for _, c := range []struct{ query, index string }{
		{`SELECT count(*) FROM executions e ` + whereFailed, "executions_failures"},
		{selectExecution + whereFailed + latestFailed, "executions_failures"},
		{countHeld, "executions_live"},
		{selectFirst, "executions_live"},
		{`SELECT key FROM jobs WHERE deleted = 0 ORDER BY created_at DESC, id DESC`, "jobs_newest"},
		{`SELECT key FROM jobs WHERE deleted = 0 ORDER BY name, id`, "jobs_name"},
		{`SELECT hash FROM tokens ` + newestOfUser, "tokens_user"},
		{`SELECT count(*) FROM audits WHERE user = ?`, "audits_user"},
		{`SELECT seq FROM audits WHERE action = ? ORDER BY seq DESC`, "audits_action"},
	} {
		if err := s.read(t.Context(), func(d *data) error {
			var plan string
			if err := d.each(`EXPLAIN QUERY PLAN `+c.query, nil, func(r row) error {
				plan += r.text(3) + "\n"
				return nil
			}); err != nil {
				return err
			}
			if !strings.Contains(plan, c.index) || strings.Contains(plan, "TEMP B-TREE") {
				t.Errorf("%s:\n%s", c.query, plan)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}
