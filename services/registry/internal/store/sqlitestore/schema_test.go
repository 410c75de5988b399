package sqlitestore

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// openOld makes a folder as the program with the schema version left it, filled
// by the function.
func openOld(t *testing.T, version int, fill func(c *conn)) (folder string) {
	t.Helper()
	folder = t.TempDir()
	path := filepath.Join(folder, databaseName)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openConn(path, "journal_mode = WAL")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range migrations[:version] {
		if err := sqlitex.ExecuteScript(c.Conn, script, nil); err != nil {
			t.Fatal(err)
		}
	}
	fill(c)
	if err := sqlitex.ExecuteTransient(c.Conn, fmt.Sprintf("PRAGMA user_version = %d", version), nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestFolderOfTheFirstSchemaOpens(t *testing.T) {
	j := testJob(1)
	j.Organisation, j.Overlap = "acme", job.OverlapAllow
	j.Name, j.Description, j.Labels, j.UpdatedAt = "Über job", "What it DOES", map[string]string{"team": "a"}, start.Add(123*time.Millisecond)
	ms := func(n int) int64 { return start.Add(time.Duration(n) * time.Minute).UnixMilli() }
	folder := openOld(t, 1, func(c *conn) {
		definition, err := encodeDefinition(j)
		if err != nil {
			t.Fatal(err)
		}
		do := func(query string, a ...any) {
			t.Helper()
			if _, err := c.exec(query, a); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		do(`INSERT INTO jobs (key, id, name, template, enabled, created_at, fingerprint) VALUES (1, ?, ?, 'noop', 1, ?, '')`, j.ID, j.Name, j.CreatedAt)
		do(`INSERT INTO job_versions (job, version, definition) VALUES (1, 1, ?)`, definition)
		do(`INSERT INTO job_state (job, version, next_run_at, live, success, unknown, skipped) VALUES (1, 1, ?, 4, 1, 1, 2000)`, ms(9))
		record := func(at, status int, frozen, session any, queue, wake any) {
			t.Helper()
			do(`INSERT INTO executions (job, at, cause, version, idempotent, frozen, created_at, status, token, session, number, queue, wake_at)
				VALUES (1, ?, '', 1, 1, nullif(?, ''), ?, ?, 1, nullif(?, ''), 0, nullif(?, ''), ?)`, ms(at), frozen, ms(at), status, session, queue, wake)
		}
		record(1, 0, "", "", "noop", ms(1)) // pending
		own := `{"JobName":"job 1","TemplateType":"other","Organisation":"beta","Parameters":null,"Timeout":60000000000,` +
			`"Retry":{"MaxRetries":0,"Delay":0},"Notifications":{"on_success":null,"on_failure":null},"Zone":"UTC","Idempotent":true}`
		record(2, 1, own, "", "other", ms(2)) // retrying, frozen with something of its own
		record(3, 0, "", "sess_1", 0, ms(3))  // leased
		record(4, 2, "", "sess_1", 0, ms(4))  // running
		record(5, 8, "", "", 1, ms(5))        // unknown, owing
		record(6, 3, "", "", "", int64(none)) // success
		do(`UPDATE executions SET started_at = at + 1000, completed_at = at + 3000 WHERE status = 3`)
		do(`UPDATE executions SET completed_at = at + 900000 WHERE status = 8`)
		do(`INSERT INTO users (name, role, password_hash, created_at) VALUES ('ann', 'admin', '', 0)`)
		do(`INSERT INTO tokens (hash, user, name, created_at) VALUES ('aa', 'ann', 'cli', 0)`)
		for n := range 2000 { // more than one row of the queue
			do(`INSERT INTO executions (job, at, cause, version, idempotent, created_at, status, token, number, completed_at) VALUES (1, ?, '', 1, 1, 0, 7, 0, 0, ?)`, ms(-n-100), ms(-n-100))
		}
		do(`INSERT INTO sessions (id, host, count) VALUES ('sess_1', 'executor-1', 7)`)
	})
	for range 2 { // converted, and as it is then
		s := openAt(t, folder)
		got, err := s.Job(t.Context(), j.ID)
		if err != nil || got.Priority != 0 || got.Selector != nil || got.Organisation != "acme" {
			t.Errorf("job %+v, %v", got, err)
		}
		queues, err := s.Queues(t.Context())
		want := map[job.Queue]int{{TemplateType: "noop", Organisation: "acme"}: 1, {TemplateType: "other", Organisation: "beta"}: 2}
		if err != nil || len(queues) != len(want) {
			t.Fatalf("queues %v, %v", queues, err)
		}
		for q, minute := range want {
			page, err := s.Waiting(t.Context(), q, nil, start.Add(time.Hour), nil, 10)
			if err != nil || len(page) != 1 || !page[0].ScheduledFor.Equal(time.UnixMilli(ms(minute))) || page[0].Frozen.Queue() != q {
				t.Errorf("%s: %+v, %v", q, page, err)
			}
		}
		held, err := s.Held(t.Context(), nil, nil, 10)
		if err != nil || len(held) != 2 || held[0].Seat != 0 {
			t.Errorf("held %v, %v", held, err)
		}
		overdue, err := s.Overdue(t.Context(), nil, start.Add(time.Hour), 10)
		if err != nil || len(overdue) != 3 {
			t.Errorf("overdue %v, %v", overdue, err)
		}
		live, err := s.Sessions(t.Context())
		if err != nil || len(live) != 1 || live[0].ID != "sess_1" || live[0].Host != "executor-1" || live[0].Count != 7 || live[0].Draining || !live[0].OpenedAt.IsZero() {
			t.Errorf("sessions %+v, %v", live, err)
		}
		word, team := []string{"ÜBER", "does"}, "a"
		for _, f := range []store.JobFilter{
			{Words: word, Labels: []store.LabelTerm{{Key: "team", Value: &team}}},
			{Sort: store.JobSort{By: store.SortUpdated}},
		} {
			f.Limit = 10
			if _, total, err := s.Jobs(t.Context(), f); err != nil || total != 1 {
				t.Errorf("%d jobs, %v", total, err)
			}
		}
		tokens, err := s.Tokens(t.Context(), "ann")
		if err != nil || len(tokens) != 1 || tokens[0].Kind != store.TokenLogin || tokens[0].Name != "cli" {
			t.Errorf("tokens %+v, %v", tokens, err)
		}
		failed, total, err := s.Failures(t.Context(), start, 0, 10)
		if err != nil || total != 1 || len(failed) != 1 || failed[0].Status != job.Unknown {
			t.Errorf("%d failures, %v", total, err)
		}
		rollUp(t, s) // what had ended before is counted once
		got, err = s.Job(t.Context(), j.ID)
		if err != nil || got.State != job.StateFailing {
			t.Errorf("state %q, %v", got.State, err)
		}
		steps, err := s.Statistics(t.Context(), "", start, start.Add(time.Hour))
		counted := []store.RollUp{
			{From: start, Counts: map[job.Status]int{job.Success: 1}, Timed: 1, Total: 2 * time.Second, Longest: 2 * time.Second},
			{From: start.Add(store.RollUpStep), Counts: map[job.Status]int{job.Unknown: 1}},
		}
		if err != nil || !reflect.DeepEqual(steps, counted) {
			t.Errorf("roll-ups %+v, %v", steps, err)
		}
		skips := 0
		steps, err = s.Statistics(t.Context(), j.ID, time.Time{}, start)
		for _, u := range steps {
			skips += u.Counts[job.Skipped]
		}
		if err != nil || skips != 2000 {
			t.Errorf("%d skips, %v", skips, err)
		}
		if err := s.read(t.Context(), func(d *data) error {
			at, err := d.number(`SELECT updated_at FROM jobs`, nil)
			if at != start.UnixMilli()+123 {
				t.Errorf("edited at %d", at)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// And it goes on.
	s := openAt(t, folder)
	closeAfter(t, s)
	page, err := s.Waiting(t.Context(), job.Queue{TemplateType: "other", Organisation: "beta"}, nil, start.Add(time.Hour), nil, 10)
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	e := page[0]
	leased := e.Lease(job.Holder{Session: "sess_1", Number: 1}, 2, start)
	back := leased.Requeue(start)
	for _, c := range []*store.Change{
		{Status: e.Status, Token: e.Token, To: leased},
		{Status: leased.Status, Token: leased.Token, To: back},
		{Status: back.Status, Token: back.Token, To: back.Lease(job.Holder{Session: "sess_1", Number: 2}, 1, start)},
	} {
		if a := s.Do(t.Context(), start, []store.Op{c, &store.Beat{Session: "sess_1", Count: 8, Running: 1}}); a[0].Outcome != store.Done || a[1].Outcome != store.Done {
			t.Fatalf("%+v", a)
		}
	}
	consistent(t, s)
}
