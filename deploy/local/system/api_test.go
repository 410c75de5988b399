package system

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// TestAPI tries on one system what asks little of its processes.
func TestAPI(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Standin = true
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
	})
	t.Run("roles", func(t *testing.T) { t.Parallel(); roles(t, r) })
	t.Run("bad input", func(t *testing.T) { t.Parallel(); badInput(t, r) })
	t.Run("idempotency key", func(t *testing.T) { t.Parallel(); idempotencyKey(t, r) })
	t.Run("overlap", func(t *testing.T) { t.Parallel(); overlap(t, r) })
	t.Run("retry", func(t *testing.T) { t.Parallel(); retry(t, r) })
	t.Run("ticket cleanup", func(t *testing.T) { t.Parallel(); ticketCleanup(t, r) })
}

func roles(t *testing.T, r *rig) {
	ctx := t.Context()
	admin, user, nobody, stranger := r.Client(r.Users.Admin), r.Client(r.Users.User), &rest.Client{Base: r.HTTP}, &rest.Client{Base: r.HTTP, Token: "alm_made-up"}
	harmless := createJob(t, r.super, "roles: harmless", "test_scheduler", nil, nil)
	deletes := createJob(t, r.super, "roles: deletes", "database_cleanup",
		rest.Object{"collection": "messages", "condition": rest.Object{"createdAt": rest.Object{"$lt": "20 years ago"}}, "dryRun": false}, nil)

	for _, path := range []string{rest.Jobs, rest.Jobs + "/" + harmless.ID, rest.Jobs + "/" + harmless.ID + "/executions", rest.Templates, rest.Templates + "/test_scheduler"} {
		refused(t, nobody.Do(ctx, http.MethodGet, path, nil, nil, nil), http.StatusUnauthorized)
		refused(t, stranger.Do(ctx, http.MethodGet, path, nil, nil, nil), http.StatusUnauthorized)
		refused(t, user.Do(ctx, http.MethodGet, path, nil, nil, nil), http.StatusForbidden)
		for name, client := range map[string]*rest.Client{"admin": admin, "super admin": r.super} {
			if err := client.Do(ctx, http.MethodGet, path, nil, nil, nil); err != nil {
				t.Errorf("%s: GET %s: %v", name, path, err)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/", "/openapi.json"} {
		if err := (&rest.Client{Base: r.HTTP}).Do(ctx, http.MethodGet, path, nil, nil, nil); err != nil {
			t.Errorf("without a token: GET %s: %v", path, err)
		}
	}
	for _, client := range []*rest.Client{admin, user} {
		refused(t, client.Do(ctx, http.MethodPost, rest.Jobs, nil, rest.Object{"name": "x", "template_type": "test_scheduler"}, nil), http.StatusForbidden)
		refused(t, client.Do(ctx, http.MethodPut, rest.Jobs+"/"+harmless.ID, nil, rest.Object{"enabled": false}, nil), http.StatusForbidden)
		refused(t, client.Do(ctx, http.MethodDelete, rest.Jobs+"/"+harmless.ID, nil, nil, nil), http.StatusForbidden)
	}
	refused(t, user.Do(ctx, http.MethodPost, rest.Jobs+"/"+harmless.ID+"/run", nil, nil, nil), http.StatusForbidden)

	if e := ended(t, admin, run(t, admin, harmless), "success"); value(e.TriggeredByUser) != "admin" || e.TriggeredBy != "manual" {
		t.Errorf("triggered by %s, %s", e.TriggeredBy, value(e.TriggeredByUser))
	}
	_, err := admin.RunJob(ctx, deletes.ID)
	refused(t, err, http.StatusForbidden)
	var dry struct {
		ExecutionID string `json:"execution_id"`
	}
	if err := admin.Do(ctx, http.MethodPost, rest.Jobs+"/"+deletes.ID+"/run", nil, rest.Object{"parameters": rest.Object{"dryRun": true}}, &dry); err != nil {
		t.Fatalf("an admin may try a destructive job: %v", err)
	}
	ended(t, admin, dry.ExecutionID, "success")
}

func badInput(t *testing.T, r *rig) {
	ctx := t.Context()
	good := func(change rest.Object) rest.Object {
		o := rest.Object{"name": "bad input", "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}}
		for key, value := range change {
			o[key] = value
		}
		return o
	}
	existing := createJob(t, r.super, "bad input: exists", "test_scheduler", nil, nil)
	before, err := r.super.ListJobs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		body   rest.Object
		status int
		field  string
	}{
		{"cron", good(rest.Object{"schedule": rest.Object{"cron": "61 * * * *"}}), 400, "schedule"},
		{"zone", good(rest.Object{"schedule": rest.Object{"type": "cron", "expression": "0 2 * * *", "timezone": "Mars/Olympus"}}), 400, "schedule.timezone"},
		{"two schedules", good(rest.Object{"schedule": rest.Object{"cron": "0 2 * * *", "interval_seconds": 60}}), 400, "schedule"},
		{"unknown field", good(rest.Object{"colour": "blue"}), 400, "colour"},
		{"unknown template", good(rest.Object{"template_type": "teleport"}), 400, "template_type"},
		{"parameters", good(rest.Object{"parameters": rest.Object{"duration_seconds": "long"}}), 400, "parameters"},
		{"collection", good(rest.Object{"template_type": "database_cleanup", "parameters": rest.Object{"collection": "accounts", "condition": rest.Object{"a": 1}}}), 400, "parameters"},
		{"duplicate name", good(rest.Object{"name": existing.Name}), 409, ""},
		{"oversized", good(rest.Object{"description": strings.Repeat("x", 2<<20)}), 413, ""},
	} {
		failure := refused(t, r.super.Do(ctx, http.MethodPost, rest.Jobs, nil, c.body, nil), c.status)
		if failure.Message == "" {
			t.Errorf("%s: no google.rpc.Status: %s", c.name, failure.Body)
		}
		named := c.field == ""
		for field := range failure.Violations() {
			named = named || strings.Contains(field, c.field)
		}
		if !named {
			t.Errorf("%s: no violation names %s: %s", c.name, c.field, failure.Body)
		}
	}
	refused(t, r.super.Do(ctx, http.MethodGet, rest.Jobs+"/job_none", nil, nil, nil), 404)
	refused(t, r.super.Do(ctx, http.MethodGet, rest.Executions+"/exec_none", nil, nil, nil), 404)
	refused(t, r.super.Do(ctx, http.MethodGet, rest.Jobs+"?limit=0", nil, nil, nil), 400)
	refused(t, r.super.Do(ctx, http.MethodPut, rest.Jobs+"/"+existing.ID, http.Header{"If-Match": {`"7"`}}, rest.Object{"enabled": false}, nil), 412)
	refused(t, r.super.Do(ctx, http.MethodPut, rest.Jobs+"/"+existing.ID, nil, rest.Object{"enabled": false, "version": 7}, nil), 412)

	after, err := r.super.ListJobs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range after {
		if job.Name == "bad input" || job.ID == existing.ID && (!job.Enabled || job.Version != existing.Version) {
			t.Errorf("refused, and yet: %+v", job)
		}
	}
	if len(after) < len(before) {
		t.Errorf("%d jobs became %d", len(before), len(after))
	}
}

func idempotencyKey(t *testing.T, r *rig) {
	ctx := t.Context()
	key := func(name string) http.Header { return http.Header{"Idempotency-Key": {name}} }
	var created [2]struct{ Job rest.Job }
	for i := range created {
		body := rest.Object{"name": "asked twice", "template_type": "test_scheduler", "schedule": rest.Object{"type": "manual"}}
		if err := r.super.Do(ctx, http.MethodPost, rest.Jobs, key("create"), body, &created[i]); err != nil {
			t.Fatalf("create, request %d: %v", i+1, err)
		}
	}
	if created[0].Job.ID != created[1].Job.ID {
		t.Errorf("two jobs: %s and %s", created[0].Job.ID, created[1].Job.ID)
	}
	job := created[0].Job
	var started [2]struct {
		ExecutionID string `json:"execution_id"`
	}
	for i := range started {
		if err := r.super.Do(ctx, http.MethodPost, rest.Jobs+"/"+job.ID+"/run", key("run"), nil, &started[i]); err != nil {
			t.Fatalf("run, request %d: %v", i+1, err)
		}
		ended(t, r.super, started[i].ExecutionID, "success")
	}
	if started[0] != started[1] {
		t.Errorf("two runs: %s and %s", started[0].ExecutionID, started[1].ExecutionID)
	}
	if executions, err := r.super.ListExecutions(ctx, job.ID); err != nil || len(executions) != 1 {
		t.Errorf("%d executions, %v", len(executions), err)
	}
}

func overlap(t *testing.T, r *rig) {
	job := createJob(t, r.super, "overlap", "test_scheduler", rest.Object{"duration_seconds": 60}, nil)
	id := run(t, r.super, job)
	begun(t, r.super, id)
	_, err := r.super.RunJob(t.Context(), job.ID)
	if failure := refused(t, err, http.StatusConflict); !strings.Contains(failure.Body, id) {
		t.Errorf("the answer does not name %s: %s", id, failure.Body)
	}
	if executions, err := r.super.ListExecutions(t.Context(), job.ID); err != nil || len(executions) != 1 {
		t.Errorf("%d executions, %v", len(executions), err)
	}
	if err := r.super.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ended(t, r.super, id, "cancelled")
	again := run(t, r.super, job) // the slot is free
	if err := r.super.Cancel(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	ended(t, r.super, again, "cancelled")

	allowed := createJob(t, r.super, "overlap allowed", "test_scheduler", rest.Object{"duration_seconds": 0.5}, rest.Object{"overlap_policy": "allow"})
	first, second := run(t, r.super, allowed), run(t, r.super, allowed)
	ended(t, r.super, first, "success")
	ended(t, r.super, second, "success")
}

func retry(t *testing.T, r *rig) {
	job := createJob(t, r.super, "retry", "test_scheduler", rest.Object{"fail": true},
		rest.Object{"retry_policy": rest.Object{"max_retries": 2, "retry_delay_seconds": 1}})
	e := ended(t, r.super, run(t, r.super, job), "failed")
	if len(e.Attempts) != 3 || value(e.Error) == "" {
		t.Fatalf("want three attempts: %s", show(e))
	}
	for i := 1; i < len(e.Attempts); i++ {
		wait := e.Attempts[i].StartedAt.Sub(*e.Attempts[i-1].CompletedAt)
		if wait < time.Second || wait > 5*time.Second {
			t.Errorf("attempt %d came after %v", i+1, wait)
		}
		if e.Attempts[i].Status != "failed" || e.Attempts[i].Number != i+1 {
			t.Errorf("attempt %d: %+v", i+1, e.Attempts[i])
		}
	}
}

func ticketCleanup(t *testing.T, r *rig) {
	dry := createJob(t, r.super, "tickets", "ticket_cleanup", rest.Object{"status": "closed", "older_than": "90 days"}, nil)
	processed := func(e rest.Execution) (processed, deleted float64) {
		processed, _ = e.Result["records_processed"].(float64)
		deleted, _ = e.Result["records_deleted"].(float64)
		return processed, deleted
	}
	found, deleted := processed(ended(t, r.super, run(t, r.super, dry), "success"))
	if deleted != 0 {
		t.Errorf("a dry run deleted %v", deleted)
	}
	if _, err := r.super.UpdateJob(t.Context(), dry.ID, rest.Object{"parameters": rest.Object{"status": "closed", "older_than": "90 days", "dryRun": false}}); err != nil {
		t.Fatal(err)
	}
	if _, deleted := processed(ended(t, r.super, run(t, r.super, dry), "success")); deleted != found {
		t.Errorf("found %v, deleted %v", found, deleted)
	}
}
