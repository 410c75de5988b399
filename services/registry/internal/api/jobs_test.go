package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

// The specification's own example of a job.
const example = `{
  "name": "Weekly User Data Cleanup",
  "description": "Remove inactive users older than 6 months",
  "template_type": "database_cleanup",
  "parameters": {
    "collection": "users",
    "condition": {"lastActive": {"$lt": "6 months ago"}},
    "dryRun": false
  },
  "schedule": {"type": "cron", "expression": "0 2 * * 0", "timezone": "UTC"},
  "enabled": true,
  "timeout_seconds": 3600,
  "retry_policy": {"max_retries": 3, "retry_delay_seconds": 300},
  "notifications": {"on_success": ["admin@example.com"], "on_failure": ["admin@example.com", "ops@example.com"]}
}`

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

func TestSpecificationExample(t *testing.T) {
	r := newRig(t)
	made := r.root(http.StatusCreated, http.MethodPost, jobsPath, example)
	if made.body["message"] != "Job created successfully" || len(made.body) != 2 {
		t.Errorf("answer %s", made.text)
	}
	got := made.job(t)
	id, _ := got["id"].(string)
	want := parse(t, example)
	for key, value := range map[string]any{
		"id": id, "created_by": "a_super_admin", "created_at": "2026-11-23T12:00:00Z", "updated_at": "2026-11-23T12:00:00Z",
		"last_run_at": nil, "next_run_at": "2026-11-29T02:00:00Z", "version": 1.0,
		"labels": map[string]any{}, "organisation": "default", "missed_policy": "run_once", "overlap_policy": "forbid",
		"priority": 0.0, "executor_selector": map[string]any{}, "state": "never", "recent_runs": []any{},
	} {
		want[key] = value
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("created\n%v\nwant\n%v", got, want)
	}
	if !strings.HasPrefix(id, "job_") || made.header.Get("ETag") != `"1"` || made.header.Get("Location") != jobsPath+"/"+id {
		t.Errorf("id %q, headers %v", id, made.header)
	}
	read := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "")
	if !reflect.DeepEqual(read.job(t), want) || len(read.body) != 1 || read.header.Get("ETag") != `"1"` {
		t.Errorf("read %s", read.text)
	}
	list := r.root(http.StatusOK, http.MethodGet, jobsPath+"?template_type=database_cleanup&enabled=true&page=1&limit=20", "")
	if !reflect.DeepEqual(list.body, map[string]any{"jobs": []any{want}, "total": 1.0, "page": 1.0, "pages": 1.0}) {
		t.Errorf("list %s", list.text)
	}
	if len(r.dispatcher.changed) != 1 || r.dispatcher.changed[0].ID != id {
		t.Errorf("the dispatcher was told of %v", r.dispatcher.changed)
	}
	gone := r.root(http.StatusOK, http.MethodDelete, jobsPath+"/"+id, "")
	if !reflect.DeepEqual(gone.body, map[string]any{"message": "Job deleted"}) {
		t.Errorf("delete %s", gone.text)
	}
	r.root(http.StatusNotFound, http.MethodGet, jobsPath+"/"+id, "")
	r.root(http.StatusNotFound, http.MethodDelete, jobsPath+"/"+id, "")
	r.root(http.StatusCreated, http.MethodPost, jobsPath, example) // the name is free again
}

func TestDefaults(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		body string
		want string
	}{
		"idempotent template": {
			`{"name": " trimmed ", "template_type": "database_cleanup", "parameters": {"collection": "logs", "condition": {"a": 1}}, "schedule": {"cron": "0 19 * * *"}}`,
			`{"name": "trimmed", "description": "", "enabled": true, "timeout_seconds": 3600, "retry_policy": {"max_retries": 3, "retry_delay_seconds": 300},
			"parameters": {"collection": "logs", "condition": {"a": 1}, "dryRun": true},
			"notifications": {"on_success": [], "on_failure": []}, "schedule": {"type": "cron", "expression": "0 19 * * *", "timezone": "UTC"}, "next_run_at": "2026-11-23T19:00:00Z"}`,
		},
		"other template": {
			`{"name": "b", "template_type": "test_scheduler", "schedule": {"interval_seconds": 60}}`,
			`{"retry_policy": {"max_retries": 0, "retry_delay_seconds": 300}, "parameters": {}, "schedule": {"type": "interval", "interval_seconds": 60}, "next_run_at": "2026-11-23T12:01:00Z"}`,
		},
		"half a policy": {
			`{"name": "c", "template_type": "test_scheduler", "schedule": {"type": "manual"}, "retry_policy": {"retry_delay_seconds": 5}, "missed_policy": "skip", "overlap_policy": "allow"}`,
			`{"retry_policy": {"max_retries": 0, "retry_delay_seconds": 5}, "schedule": {"type": "manual"}, "next_run_at": null, "missed_policy": "skip", "overlap_policy": "allow"}`,
		},
		"dst given": {
			`{"name": "d", "template_type": "test_scheduler", "schedule": {"type": "cron", "expression": "30 2 * * *", "timezone": "Europe/Berlin", "dst": {"gap": "skip"}}, "labels": {"team": "ops"}}`,
			`{"schedule": {"type": "cron", "expression": "30 2 * * *", "timezone": "Europe/Berlin", "dst": {"gap": "skip", "overlap": "once"}}, "labels": {"team": "ops"}}`,
		},
		"dst as by default": {
			`{"name": "e", "template_type": "test_scheduler", "schedule": {"cron": "30 2 * * *", "dst": {"gap": "run_after", "overlap": "once"}}}`,
			`{"schedule": {"type": "cron", "expression": "30 2 * * *", "timezone": "UTC", "dst": {"gap": "run_after", "overlap": "once"}}}`,
		},
		"once": {
			`{"name": "f", "template_type": "test_scheduler", "schedule": {"type": "once", "run_at": "2027-01-01T01:00:00+01:00"}}`,
			`{"schedule": {"type": "once", "run_at": "2027-01-01T00:00:00Z"}, "next_run_at": "2027-01-01T00:00:00Z"}`,
		},
		"interval with a start": {
			`{"name": "g", "template_type": "test_scheduler", "schedule": {"interval_seconds": 3600, "start": "2026-11-23T10:30:00Z"}}`,
			`{"schedule": {"type": "interval", "interval_seconds": 3600, "start": "2026-11-23T10:30:00Z"}, "next_run_at": "2026-11-23T12:30:00Z"}`,
		},
		"disabled": {
			`{"name": "h", "template_type": "test_scheduler", "schedule": {"interval_seconds": 60}, "enabled": false}`,
			`{"enabled": false, "next_run_at": null}`,
		},
		"read-only fields are ignored, null is the default": {
			`{"name": "i", "template_type": "test_scheduler", "schedule": {"type": "manual"}, "id": "job_x", "created_by": "me", "created_at": "2020-01-01T00:00:00Z",
			"version": 7, "organisation": null, "priority": null, "executor_selector": null, "next_run_at": "2020-01-01T00:00:00Z", "enabled": null, "timeout_seconds": null, "retry_policy": null, "labels": null, "parameters": null}`,
			`{"created_by": "a_super_admin", "version": 1, "organisation": "default", "created_at": "2026-11-23T12:00:00Z", "next_run_at": null, "enabled": true, "timeout_seconds": 3600,
			"priority": 0, "executor_selector": {}}`,
		},
		"routing": {
			`{"name": "j", "template_type": "test_scheduler", "schedule": {"type": "manual"}, "organisation": "4-shops", "priority": -10,
			"executor_selector": {"zone": "eu/west-1", "example.com/Disk_Kind": "SSD.2"}}`,
			`{"organisation": "4-shops", "priority": -10, "executor_selector": {"zone": "eu/west-1", "example.com/Disk_Kind": "SSD.2"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.root(http.StatusCreated, http.MethodPost, jobsPath, c.body).job(t)
			for key, value := range parse(t, c.want) {
				if !reflect.DeepEqual(got[key], value) {
					t.Errorf("%s is %v, want %v", key, got[key], value)
				}
			}
			if got["id"] == "job_x" {
				t.Error("the id was taken from the request")
			}
		})
	}
}

func TestListing(t *testing.T) {
	r := newRig(t)
	for i := range 25 {
		r.create(fmt.Sprintf("job %02d", i), fmt.Sprintf(`"template_type": "test_scheduler", "schedule": {"type": "manual"}, "enabled": %v`, i%5 > 0))
		r.advance(time.Second)
	}
	for _, c := range []struct {
		query                    string
		count, total, page, size float64
		first                    string
	}{
		{"", 20, 25, 1, 2, "job 24"},
		{"?page=2", 5, 25, 2, 2, "job 04"},
		{"?page=3", 0, 25, 3, 2, ""},
		{"?page=2147483647&limit=100", 0, 25, 2147483647, 1, ""},
		{"?limit=10&page=3", 5, 25, 3, 3, "job 04"},
		{"?enabled=false", 5, 5, 1, 1, "job 20"},
		{"?template_type=unheard_of", 0, 0, 1, 0, ""},
		{"?template_type=unheard_of&template_type=test_scheduler&limit=100", 25, 25, 1, 1, "job 24"},
	} {
		a := r.root(http.StatusOK, http.MethodGet, jobsPath+c.query, "")
		jobs, _ := a.body["jobs"].([]any)
		if float64(len(jobs)) != c.count || a.body["total"] != c.total || a.body["page"] != c.page || a.body["pages"] != c.size {
			t.Errorf("%s: %d jobs, total %v, page %v of %v", c.query, len(jobs), a.body["total"], a.body["page"], a.body["pages"])
		}
		if len(jobs) > 0 && jobs[0].(map[string]any)["name"] != c.first {
			t.Errorf("%s begins with %v", c.query, jobs[0])
		}
	}
}

// end lets an execution run for so long, and end so.
func (r *rig) end(id string, how job.Status, took time.Duration) {
	r.t.Helper()
	r.start(id)
	r.advance(took)
	r.change(id, func(e *job.Execution) *job.Execution {
		return e.End(job.Outcome{Status: how, CompletedAt: r.Now()}, r.Now())
	})
	r.count()
}

func TestFinding(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ManualRunsPerHour = 0 })
	const once = `"schedule": {"type": "once", "run_at": "2026-12-%02dT00:00:00Z"}`
	weekly := r.create("Weekly clean-up", `"template_type": "database_cleanup", "parameters": {"collection": "logs", "condition": {"a": 1}}, "labels": {"team": "ops"}, `+fmt.Sprintf(once, 3))
	r.advance(time.Second)
	report := r.create("report", `"template_type": "test_scheduler", "description": "what 100% of users cost, weekly", "labels": {"team": "ops", "query": "a=b"}, `+fmt.Sprintf(once, 1))
	r.advance(time.Second)
	idle := r.create("Idle", `"template_type": "test_scheduler", "labels": {"team": "shop"}, "schedule": {"type": "manual"}`)
	r.advance(time.Second)
	r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+weekly, `{"description": "d"}`)
	r.end(r.run(weekly), job.Success, 5*time.Second)
	r.end(r.run(report), job.Success, time.Second)
	r.end(r.run(report), job.Failed, 2*time.Second)
	live := r.run(report)
	for query, want := range map[string][]string{
		"":                                 {idle, report, weekly},
		"sort=created_at":                  {weekly, report, idle},
		"sort=name":                        {idle, weekly, report}, // byte by byte
		"sort=-name":                       {report, weekly, idle},
		"sort=next_run_at":                 {report, weekly, idle},
		"sort=-next_run_at":                {weekly, report, idle},
		"sort=-updated_at":                 {weekly, idle, report},
		"search=weekly":                    {report, weekly},
		"search=++weekly+CLEAN":            {weekly},
		"search=100%25":                    {report},
		"search=database_":                 {weekly},
		"search=weekly+nothing":            nil,
		"label=team":                       {idle, report, weekly},
		"label=team%3Dops":                 {report, weekly},
		"label=team%3Dops&label=query":     {report},
		"label=query%3Da%3Db":              {report},
		"label=query%3Da":                  nil,
		"label=team%3D":                    nil,
		"state=ok":                         {weekly},
		"state=failing":                    {report},
		"state=never&state=ok":             {idle, weekly},
		"state=ok&search=report":           nil,
		"search=weekly&sort=name&limit=1":  {weekly},
		"search=weekly&limit=1&page=2":     {weekly},
		"label=team%3Dops&enabled=true":    {report, weekly},
		"template_type=database_cleanup":   {weekly},
		"sort=name&runs=2&state=failing":   {report},
		"search=" + strings.Repeat("x", 9): nil,
	} {
		a := r.root(http.StatusOK, http.MethodGet, jobsPath+"?"+query, "")
		var got []string
		jobs, _ := a.body["jobs"].([]any)
		for _, j := range jobs {
			got = append(got, fmt.Sprint(j.(map[string]any)["id"]))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s finds %v, want %v", query, got, want)
		}
	}

	// Latest runs, as many as asked for; a live one has no duration yet.
	a := r.root(http.StatusOK, http.MethodGet, jobsPath+"?runs=2&sort=name", "")
	jobs, _ := a.body["jobs"].([]any)
	of := func(i int) []any { return jobs[i].(map[string]any)["recent_runs"].([]any) }
	runs := of(2)
	if len(of(0)) != 0 || len(of(1)) != 1 || len(runs) != 2 {
		t.Fatalf("runs %v, %v and %v", of(0), of(1), runs)
	}
	first, second := runs[0].(map[string]any), runs[1].(map[string]any)
	if first["id"] != live || first["status"] != "pending" || first["duration_seconds"] != nil || first["scheduled_for"] == nil ||
		second["status"] != "failed" || second["duration_seconds"] != 2.0 {
		t.Errorf("runs %v", runs)
	}
	// The state is part of a job wherever one is shown.
	if got := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+report, "").job(t); got["state"] != "failing" || len(got["recent_runs"].([]any)) != 0 {
		t.Errorf("read %v", got)
	}
	if got := r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+report, `{"description": "other"}`).job(t)["state"]; got != "failing" {
		t.Errorf("changed, it is %v", got)
	}
	for query, field := range map[string]string{
		"sort=duration": "sort", "state=broken": "state[0]", "state=ok&state=bad": "state[1]", "runs=31": "runs", "runs=-1": "runs", "runs=few": "runs",
		"label=": "label[0]", "label=" + strings.Repeat("x", 321): "label[0]", "search=" + strings.Repeat("x", 201): "search", "sort=name&sort=name": "sort",
	} {
		if a := r.root(http.StatusBadRequest, http.MethodGet, jobsPath+"?"+query, ""); !a.violates(field, "") {
			t.Errorf("%s: %s", query, a.text)
		}
	}
}

// system creates the system's jobs, as the start of a registry does.
func (r *rig) system() {
	r.t.Helper()
	for _, j := range dispatch.SystemJobs(r.Now()) {
		if _, _, err := r.store.CreateJob(r.t.Context(), store.CreateJob{Job: j}); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestTry(t *testing.T) {
	r := newRig(t)
	r.system()
	mail := templates.Announcement{Template: job.Template{
		Type: "send_mail", Version: 1, Name: "Mail", Description: "Sends", Category: "test", Icon: "M", EstimatedDuration: "seconds", ResourceUsage: "low", RiskLevel: "low", Idempotent: true,
		Schema: json.RawMessage(`{"type": "object", "additionalProperties": false, "required": ["subject"], "properties": {"subject": {"type": "string"}, "dryRun": {"type": "boolean"}}}`),
	}}
	if _, refused, err := r.templates.Announce(t.Context(), "mailer", []templates.Announcement{mail}); err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	taken := r.create("taken", "")
	const tryPath = jobsPath + "/try"
	for name, c := range map[string]struct {
		body string
		dry  bool
		want string
	}{
		"destructive": {
			`{"name": "taken", "template_type": "database_cleanup", "parameters": {"collection": "logs", "condition": {"a": 1}, "dryRun": false}, "organisation": "shop", "priority": 3,
			"schedule": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}, "timeout_seconds": 60, "executor_selector": {"zone": "eu"}, "overlap_policy": "forbid",
			"retry_policy": {"max_retries": 5}, "notifications": {"on_failure": ["a@example.com"]}}`,
			true, `{"job_name": "taken", "parameters": {"collection": "logs", "condition": {"a": 1}, "dryRun": true}, "organisation": "shop", "priority": 3, "executor_selector": {"zone": "eu"}}`,
		},
		"harmless on request": {
			`{"template_type": "send_mail", "parameters": {"subject": "s"}}`, true,
			`{"job_name": "trial", "parameters": {"subject": "s", "dryRun": true}, "organisation": "default", "priority": 0, "executor_selector": {}}`,
		},
		"harmless": {`{"name": "  ", "template_type": "test_scheduler", "parameters": {"message": "m"}}`, false, `{"job_name": "trial", "parameters": {"message": "m"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.root(http.StatusAccepted, http.MethodPost, tryPath, c.body)
			id, _ := a.body["execution_id"].(string)
			if a.body["dry_run"] != c.dry || a.body["message"] != "Trial started" || a.header.Get("Location") != executionsPath+"/"+id {
				t.Errorf("answer %s, headers %v", a.text, a.header)
			}
			got := r.execution(id)
			for key, value := range parse(t, c.want) {
				if !reflect.DeepEqual(got[key], value) {
					t.Errorf("%s is %v, want %v", key, got[key], value)
				}
			}
			if got["job_id"] != job.TrialsID || got["status"] != "pending" || got["triggered_by"] != "manual" || got["triggered_by_user"] != "a_super_admin" || got["job_version"] != 1.0 {
				t.Errorf("execution %v", got)
			}
			e, err := r.store.Execution(t.Context(), id)
			if err != nil || e.Frozen.Retry.MaxRetries != 0 || len(e.Frozen.Notifications.OnFailure) != 0 || e.Exclusive {
				t.Errorf("%+v, %v", e, err)
			}
			of := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object="+id, "").body["entries"].([]any)
			if len(of) != 1 || of[0].(map[string]any)["action"] != "job.try" {
				t.Errorf("audit %v", of)
			}
		})
	}
	e, err := r.store.Execution(t.Context(), r.trial(`{"template_type": "test_scheduler", "timeout_seconds": 60, "schedule": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}}`))
	if err != nil || e.Frozen.Timeout != time.Minute || e.Frozen.Zone != "Europe/Berlin" || e.Frozen.Idempotent {
		t.Errorf("%+v, %v", e, err)
	}
	// It leaves no job, and nothing of the job of the same name.
	if a := r.root(http.StatusOK, http.MethodGet, jobsPath, ""); a.body["total"] != 1.0 {
		t.Errorf("jobs %s", a.text)
	}
	if a := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+taken+"/executions", ""); a.body["total"] != 0.0 {
		t.Errorf("executions of the job: %s", a.text)
	}
	for body, field := range map[string]string{
		`{}`: "template_type", `{"template_type": "unheard_of"}`: "template_type", `{"template_type": "test_scheduler", "parameters": {"message": 5}}`: "parameters.message",
		`{"template_type": "database_cleanup", "parameters": {"collection": "logs", "condition": {}, "dryRun": "no"}}`: "parameters.dryRun",
		`{"template_type": "database_cleanup", "parameters": {"condition": {}}}`:                                       "parameters.collection",
		`{"template_type": "test_scheduler", "schedule": {"cron": "x"}}`:                                               "schedule.cron",
		`{"template_type": "test_scheduler", "organisation": "?"}`:                                                     "organisation",
		`{"template_type": "test_scheduler", "timeout_seconds": 0}`:                                                    "timeout_seconds",
		`{"template_type": "test_scheduler", "colour": "red"}`:                                                         "colour",
	} {
		if a := r.root(http.StatusBadRequest, http.MethodPost, tryPath, body); !a.violates(field, "") {
			t.Errorf("%s: %s", body, a.text)
		}
	}
	if a := r.as(access.Admin, http.MethodPost, tryPath, `{"template_type": "test_scheduler"}`); a.code != http.StatusForbidden {
		t.Errorf("as admin: %d", a.code)
	}
	// A trial is a manual run: it counts as one, and is looked after like one.
	r.end(r.trial(`{"template_type": "test_scheduler"}`), job.Failed, time.Second)
	if a := r.root(http.StatusOK, http.MethodGet, statisticsPath, ""); a.body["totals"].(map[string]any)["failed"] != 0.0 {
		t.Errorf("trials are among the statistics: %s", a.text)
	}
	cancelled := r.trial(`{"template_type": "test_scheduler"}`)
	r.root(http.StatusOK, http.MethodPost, executionsPath+"/"+cancelled+"/cancel", "")
	if got := r.execution(cancelled)["status"]; got != "cancelled" {
		t.Errorf("cancelled, it is %v", got)
	}
	for range 4 {
		r.trial(`{"template_type": "test_scheduler"}`)
	}
	if a := r.root(http.StatusTooManyRequests, http.MethodPost, tryPath, `{"template_type": "test_scheduler"}`); a.reason() != "LIMIT_REACHED" {
		t.Errorf("the eleventh: %s", a.text)
	}
}

// trial tries a job and returns the execution's id.
func (r *rig) trial(body string) string {
	r.t.Helper()
	id, _ := r.root(http.StatusAccepted, http.MethodPost, jobsPath+"/try", body).body["execution_id"].(string)
	return id
}

func TestTryOverGRPC(t *testing.T) {
	r := newRig(t)
	r.system()
	c := almanacv1.NewJobServiceClient(r.dial(r.tokens[access.SuperAdmin]))
	got, err := c.TryJob(t.Context(), &almanacv1.TryJobRequest{Job: &almanacv1.Job{TemplateType: "test_scheduler"}})
	if err != nil || got.DryRun || got.ExecutionId == "" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.TryJob(t.Context(), &almanacv1.TryJobRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("nothing to try: %v", err)
	}
	list, err := c.ListJobs(t.Context(), &almanacv1.ListJobsRequest{Sort: "name", State: []string{"never"}, Runs: proto.Int32(1)})
	if err != nil || list.Total != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestUpdate(t *testing.T) {
	const original = `"template_type": "database_cleanup", "description": "d", "parameters": {"collection": "logs", "condition": {"a": 1}, "dryRun": false},
		"schedule": {"interval_seconds": 60}, "enabled": true, "timeout_seconds": 5, "retry_policy": {"max_retries": 1, "retry_delay_seconds": 2},
		"notifications": {"on_success": ["a@example.com"]}, "labels": {"k": "v"}, "missed_policy": "skip", "overlap_policy": "allow",
		"organisation": "shop", "priority": 3, "executor_selector": {"zone": "eu", "disk": "ssd"}`
	for name, c := range map[string]struct {
		body    string
		want    string
		version float64
	}{
		"nothing":             {`{}`, `{}`, 1},
		"empty body":          {``, `{}`, 1},
		"the same again":      {`{"description": "d", "labels": {"k": "v"}, "priority": 3, "executor_selector": {"disk": "ssd", "zone": "eu"}, "schedule": {"type": "interval", "interval_seconds": 60}}`, `{}`, 1},
		"priority 0":          {`{"priority": 0}`, `{"priority": 0}`, 2},
		"another selector":    {`{"executor_selector": {"zone": "us"}}`, `{"executor_selector": {"zone": "us"}}`, 2},
		"any executor":        {`{"executor_selector": {}}`, `{"executor_selector": {}}`, 2},
		"organisation":        {`{"organisation": "bank"}`, `{"organisation": "bank", "next_run_at": "2026-11-23T12:01:00Z"}`, 2},
		"one field":           {`{"description": "e"}`, `{"description": "e", "next_run_at": "2026-11-23T12:01:00Z"}`, 2},
		"camel case too":      {`{"timeoutSeconds": 9}`, `{"timeout_seconds": 9}`, 2},
		"zero values":         {`{"enabled": false, "description": ""}`, `{"enabled": false, "description": "", "next_run_at": null}`, 2},
		"nested is replaced":  {`{"retry_policy": {"max_retries": 7}}`, `{"retry_policy": {"max_retries": 7, "retry_delay_seconds": 300}}`, 2},
		"parameters replaced": {`{"parameters": {"collection": "users", "condition": {"b": 2}}}`, `{"parameters": {"collection": "users", "condition": {"b": 2}, "dryRun": true}}`, 2},
		"another template": {
			`{"template_type": "test_scheduler", "parameters": {"message": "m"}}`,
			`{"template_type": "test_scheduler", "parameters": {"message": "m"}, "retry_policy": {"max_retries": 1, "retry_delay_seconds": 2}}`, 2,
		},
		"schedule": {`{"schedule": {"cron": "0 19 * * *"}}`, `{"schedule": {"type": "cron", "expression": "0 19 * * *", "timezone": "UTC"}, "next_run_at": "2026-11-23T19:00:00Z"}`, 2},
		"null resets": {
			`{"description": null, "enabled": null, "timeout_seconds": null, "retry_policy": null, "notifications": null, "labels": null, "missed_policy": null, "overlap_policy": null, "version": null, "id": null,
			"organisation": null, "priority": null, "executor_selector": null}`,
			`{"description": "", "enabled": true, "timeout_seconds": 3600, "retry_policy": {"max_retries": 3, "retry_delay_seconds": 300},
			"notifications": {"on_success": [], "on_failure": []}, "labels": {}, "missed_policy": "run_once", "overlap_policy": "forbid",
			"organisation": "default", "priority": 0, "executor_selector": {}}`, 2,
		},
		"read-only ignored": {`{"id": "job_x", "created_by": "me", "created_at": "2020-01-01T00:00:00Z", "next_run_at": null, "last_run_at": "2020-01-01T00:00:00Z"}`, `{}`, 1},
		"right version":     {`{"version": 1, "name": "renamed"}`, `{"name": "renamed"}`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			id := r.create("a job", original)
			before := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "").job(t)
			r.advance(10 * time.Second)
			a := r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+id, c.body)
			if a.body["message"] != "Job updated" || a.header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(c.version)) {
				t.Errorf("answer %s, %v", a.text, a.header)
			}
			want := before
			for key, value := range parse(t, c.want) {
				want[key] = value
			}
			want["version"] = c.version
			if c.version > 1 {
				want["updated_at"] = "2026-11-23T12:00:10Z"
			}
			if got := a.job(t); !reflect.DeepEqual(got, want) {
				t.Errorf("updated\n%v\nwant\n%v", got, want)
			}
			if got := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "").job(t); !reflect.DeepEqual(got, want) {
				t.Errorf("stored\n%v\nwant\n%v", got, want)
			}
		})
	}
}

func TestUpdateRefused(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	r.create("taken", "")
	before := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "").text
	for body, c := range map[string]struct {
		code        int
		reason      string
		field, said string
	}{
		`{"name": null}`:                        {400, "INVALID_REQUEST", "name", "required"},
		`{"name": "  "}`:                        {400, "INVALID_REQUEST", "name", "required"},
		`{"name": "a\nb"}`:                      {400, "INVALID_REQUEST", "name", "control"},
		`{"name": "taken"}`:                     {409, "NAME_TAKEN", "name", "another job"},
		`{"schedule": null}`:                    {400, "INVALID_REQUEST", "schedule", "required"},
		`{"template_type": null}`:               {400, "INVALID_REQUEST", "template_type", "required"},
		`{"template_type": "database_cleanup"}`: {400, "INVALID_REQUEST", "parameters.condition", "required"},
		`{"version": 2, "name": "x"}`:           {412, "VERSION_MISMATCH", "", ""},
		`{"version": 0}`:                        {412, "VERSION_MISMATCH", "", ""},
	} {
		a := r.root(c.code, http.MethodPut, jobsPath+"/"+id, body)
		if a.reason() != c.reason || c.field != "" && !a.violates(c.field, c.said) {
			t.Errorf("%s: %s", body, a.text)
		}
	}
	if after := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "").text; parse(t, after)["job"].(map[string]any)["version"] != 1.0 {
		t.Errorf("it changed: %s, was %s", after, before)
	}
}

func TestIfMatch(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	for i, c := range []struct {
		tag  string
		code int
	}{
		{`"1"`, 200},
		{`"1"`, 412},
		{`W/"2"`, 200},
		{`*`, 200},
		{`"7", "4"`, 200},
		{`"7","8"`, 412},
		{`5`, 400},
		{`"five"`, 400},
		{`"5`, 400},
		{`"5",`, 400},
		{"\"5\"\u00e4", 400},
	} {
		a := r.root(c.code, http.MethodPut, jobsPath+"/"+id, fmt.Sprintf(`{"description": "edit %d"}`, i), header{"If-Match", c.tag})
		switch {
		case c.code == 400 && !a.violates("If-Match", ""):
			t.Errorf("%s: %s", c.tag, a.text)
		case c.code == 412 && a.reason() != "VERSION_MISMATCH":
			t.Errorf("%s: %s", c.tag, a.text)
		}
	}
	r.root(412, http.MethodPost, jobsPath+"/"+id+"/run", "", header{"If-Match", `"1"`})
	r.root(412, http.MethodDelete, jobsPath+"/"+id, "", header{"If-Match", `"1"`})
	r.root(400, http.MethodDelete, jobsPath+"/"+id, "", header{"If-Match", `no`})
	r.root(200, http.MethodDelete, jobsPath+"/"+id, "", header{"If-Match", `"5"`})
}

// An edit covers what is past before it decides, and a run that moves the job in
// between makes it decide again.
func TestUpdateSettles(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"interval_seconds": 60}`)
	r.advance(90 * time.Second)
	settled := 0
	r.dispatcher.set(func(d *dispatcher) {
		d.settle = func(_ context.Context, j *job.Job, now time.Time) (*job.Job, error) {
			settled++
			next := j.Clone()
			if settled < 3 { // as if a run were recorded after each of the first reads
				next.NextRunAt = j.NextRunAt.Add(time.Hour)
				return next, nil
			}
			if !j.NextRunAt.Before(now) {
				t.Errorf("settles at %s a job that is next at %s", now, j.NextRunAt)
			}
			return next, nil
		}
	})
	r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+id, `{"description": "x"}`)
	if settled != 3 {
		t.Errorf("settled %d times", settled)
	}
	settled = -100
	a := r.root(http.StatusConflict, http.MethodPut, jobsPath+"/"+id, `{"description": "y"}`)
	if a.reason() != "CHANGED_CONCURRENTLY" || a.header.Get("Retry-After") != "1" {
		t.Errorf("never settled: %s", a.text)
	}
	r.dispatcher.set(func(d *dispatcher) {
		d.settle = func(context.Context, *job.Job, time.Time) (*job.Job, error) {
			return nil, fmt.Errorf("disk: %w", job.ErrUnavailable)
		}
	})
	r.root(http.StatusServiceUnavailable, http.MethodPut, jobsPath+"/"+id, `{"description": "z"}`)
}

func TestIdempotentCreate(t *testing.T) {
	r := newRig(t)
	key := header{"Idempotency-Key", "once only"}
	const body = `{"name": "a", "template_type": "test_scheduler", "schedule": {"type": "once", "run_at": "2026-11-23T12:01:00Z"}}`
	first := r.root(http.StatusCreated, http.MethodPost, jobsPath, body, key)
	r.advance(time.Hour) // the time has passed: a new request would be refused
	again := r.root(http.StatusCreated, http.MethodPost, jobsPath, body, key)
	if !reflect.DeepEqual(first.body, again.body) {
		t.Errorf("first %s, then %s", first.text, again.text)
	}
	if a := r.root(http.StatusConflict, http.MethodPost, jobsPath, strings.Replace(body, `"a"`, `"b"`, 1), key); a.reason() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another request: %s", a.text)
	}
	if len(r.dispatcher.changed) != 1 {
		t.Errorf("the dispatcher was told %d times", len(r.dispatcher.changed))
	}
	for _, bad := range []string{"\u00e4", strings.Repeat("x", 201)} {
		if a := r.root(http.StatusBadRequest, http.MethodPost, jobsPath, body, header{"Idempotency-Key", bad}); !a.violates("Idempotency-Key", "printable") {
			t.Errorf("%q: %s", bad, a.text)
		}
	}
	if total := r.root(http.StatusOK, http.MethodGet, jobsPath, "").body["total"]; total != 1.0 {
		t.Errorf("%v jobs", total)
	}
}

func TestRun(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", `"template_type": "test_scheduler", "parameters": {"message": "m", "duration_seconds": 1}, "schedule": {"interval_seconds": 60}, "enabled": false,
		"organisation": "shop", "priority": 7, "executor_selector": {"zone": "eu", "disk": "ssd"}`)
	key := header{"Idempotency-Key", "k"}
	a := r.root(http.StatusAccepted, http.MethodPost, jobsPath+"/"+id+"/run", `{"parameters": {"message": "other"}}`, key)
	execution, _ := a.body["execution_id"].(string)
	if a.body["message"] != "Job started" || len(a.body) != 2 || a.header.Get("Location") != executionsPath+"/"+execution {
		t.Errorf("answer %s %v", a.text, a.header)
	}
	again := r.root(http.StatusAccepted, http.MethodPost, jobsPath+"/"+id+"/run", `{"parameters": {"message": "other"}}`, key)
	if again.body["execution_id"] != execution || len(r.dispatcher.runs) != 1 {
		t.Errorf("repeated: %s, %d told", again.text, len(r.dispatcher.runs))
	}
	if a := r.root(http.StatusConflict, http.MethodPost, jobsPath+"/"+id+"/run", `{"parameters": {"message": "third"}}`, key); a.reason() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another run under the key: %s", a.text)
	}
	got := r.root(http.StatusOK, http.MethodGet, executionsPath+"/"+execution, "").body
	want := map[string]any{"logs": []any{}, "execution": map[string]any{
		"id": execution, "job_id": id, "job_name": "a job", "template_type": "test_scheduler", "status": "pending",
		"scheduled_for": "2026-11-23T12:00:00Z", "started_at": nil, "completed_at": nil, "duration_seconds": nil, "result": nil, "error": nil,
		"error_code": nil, "attempts": []any{}, "triggered_by": "manual", "triggered_by_user": "a_super_admin", "execution_host": nil,
		"isolation": []any{}, "parameters": map[string]any{"message": "other", "duration_seconds": 1.0}, "job_version": 1.0,
		"cancel_requested": false, "reason": nil, "organisation": "shop", "priority": 7.0, "executor_selector": map[string]any{"disk": "ssd", "zone": "eu"}, "missed_from": nil, "missed_until": nil, "missed_count": nil,
		"next_attempt_at": "2026-11-23T12:00:00Z", "progress": nil, "notifications": []any{},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("execution\n%v\nwant\n%v", got, want)
	}
	busy := r.root(http.StatusConflict, http.MethodPost, jobsPath+"/"+id+"/run", "")
	if busy.reason() != "EXECUTION_IN_PROGRESS" || !strings.Contains(busy.text, execution) || busy.detail("ErrorInfo")["metadata"].(map[string]any)["execution_id"] != execution {
		t.Errorf("a second run: %s", busy.text)
	}
	if a := r.root(http.StatusBadRequest, http.MethodPost, jobsPath+"/"+id+"/run", `{"parameters": {"duration_seconds": -1, "nonsense": 1}}`); !a.violates("parameters.duration_seconds", "at least 0") ||
		!a.violates("parameters.nonsense", "not a known parameter") {
		t.Errorf("bad overrides: %s", a.text)
	}
	r.root(http.StatusNotFound, http.MethodPost, jobsPath+"/job_unknown/run", "")
}

func TestRunLimits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ManualRunsPerHour, c.MaxJobs = 2, 2 })
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "overlap_policy": "allow"`)
	r.run(id)
	r.advance(10 * time.Minute)
	r.run(id)
	a := r.root(http.StatusTooManyRequests, http.MethodPost, jobsPath+"/"+id+"/run", "")
	if a.reason() != "LIMIT_REACHED" || a.header.Get("Retry-After") != "3000" || a.detail("QuotaFailure") == nil || a.detail("RetryInfo")["retry_delay"] != "3000s" {
		t.Errorf("third run: %s, Retry-After %s", a.text, a.header.Get("Retry-After"))
	}
	if other := r.as(access.Admin, http.MethodPost, jobsPath+"/"+id+"/run", ""); other.code != http.StatusAccepted {
		t.Errorf("somebody else: %s", other.text)
	}
	r.create("second", "")
	full := r.root(http.StatusTooManyRequests, http.MethodPost, jobsPath, `{"name": "third", "template_type": "test_scheduler", "schedule": {"type": "manual"}}`)
	if full.reason() != "LIMIT_REACHED" || full.header.Get("Retry-After") == "" || !strings.Contains(full.text, "2 jobs") {
		t.Errorf("third job: %s", full.text)
	}
}

func TestRunRoles(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ManualRunsPerHour = 0 })
	const cleanup = `"template_type": "database_cleanup", "parameters": {"collection": "logs", "condition": {"a": 1}, "dryRun": %v}, "schedule": {"type": "manual"}, "overlap_policy": "allow"`
	wet, dry := r.create("wet", fmt.Sprintf(cleanup, false)), r.create("dry", fmt.Sprintf(cleanup, true))
	harmless := r.create("harmless", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "overlap_policy": "allow"`)
	for _, c := range []struct {
		name, id, body string
		admin, root    int
	}{
		{"wet", wet, ``, 403, 202},
		{"wet made dry", wet, `{"parameters": {"dryRun": true}}`, 202, 202},
		{"wet made dry elsewhere", wet, `{"parameters": {"dryRun": true, "collection": "users"}}`, 403, 202},
		{"dry", dry, ``, 202, 202},
		{"dry, said again", dry, `{"parameters": {"dryRun": true}}`, 202, 202},
		{"dry made wet", dry, `{"parameters": {"dryRun": false}}`, 403, 202},
		{"dry elsewhere", dry, `{"parameters": {"collection": "users"}}`, 403, 202},
		{"dry, back to its default", dry, `{"parameters": {"dryRun": null}}`, 403, 400},
		{"harmless", harmless, `{"parameters": {"message": "x"}}`, 202, 202},
	} {
		for role, want := range map[access.Role]int{access.User: 403, access.Admin: c.admin, access.SuperAdmin: c.root} {
			if a := r.as(role, http.MethodPost, jobsPath+"/"+c.id+"/run", c.body); a.code != want {
				t.Errorf("%s as %s: %d, want %d: %s", c.name, role, a.code, want, a.text)
			}
		}
	}
}

func TestPreview(t *testing.T) {
	r := newRig(t)
	const path = "/api/admin/schedules/preview"
	got := r.root(http.StatusOK, http.MethodPost, path, `{"schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, "after": "2026-03-27T12:00:00Z", "count": 3}`).body
	if want := parse(t, `{"type": "cron", "expression": "30 2 * * *", "timezone": "Europe/Berlin"}`); !reflect.DeepEqual(got["schedule"], want) {
		t.Errorf("schedule %v", got["schedule"])
	}
	occurrences, _ := got["occurrences"].([]any)
	if len(occurrences) != 3 {
		t.Fatalf("occurrences %v", occurrences)
	}
	var locals, notes []string
	for _, o := range occurrences {
		m, _ := o.(map[string]any)
		locals, notes = append(locals, fmt.Sprint(m["local"])), append(notes, fmt.Sprint(m["note"]))
	}
	if want := []string{"2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}; !slices.Equal(locals, want) {
		t.Errorf("local times %v", locals)
	}
	if notes[0] != "" || !strings.Contains(notes[1], "02:30") || notes[2] != "" {
		t.Errorf("notes %q", notes)
	}
	now := r.root(http.StatusOK, http.MethodPost, path, `{"schedule": {"interval_seconds": 60}}`).body["occurrences"].([]any)
	if len(now) != 10 || now[0].(map[string]any)["at"] != "2026-11-23T12:01:00Z" {
		t.Errorf("from now on: %v", now)
	}
	for body, field := range map[string]string{
		`{}`: "schedule", `{"schedule": {"type": "cron"}}`: "schedule.expression", `{"schedule": {"type": "cron", "expression": "x"}}`: "schedule.expression",
		`{"schedule": {"cron": "* * * * *"}, "count": 101}`: "count", `{"schedule": {}}`: "schedule.type",
	} {
		if a := r.root(http.StatusBadRequest, http.MethodPost, path, body); !a.violates(field, "") {
			t.Errorf("%s: %s", body, a.text)
		}
	}
}

func TestMutationsAreAudited(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+id, `{"description": "new"}`, header{"X-Forwarded-For", "6.6.6.6"}, header{"Almanac-Client-Address", "6.6.6.6"})
	r.root(http.StatusOK, http.MethodPut, jobsPath+"/"+id, `{}`) // nothing changes, so nothing is kept
	execution := r.run(id)
	r.root(http.StatusOK, http.MethodPost, executionsPath+"/"+execution+"/cancel", "")
	r.root(http.StatusOK, http.MethodDelete, jobsPath+"/"+id, "")
	all := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?limit=5", "").body
	entries, _ := all["entries"].([]any)
	if all["total"] != 8.0 || len(entries) != 5 { // three users before
		t.Fatalf("%v entries, %d shown", all["total"], len(entries))
	}
	var actions []string
	for _, e := range entries {
		m, _ := e.(map[string]any)
		actions = append(actions, fmt.Sprint(m["action"]))
		if m["user"] != "a_super_admin" || m["address"] != "127.0.0.1" || m["at"] != "2026-11-23T12:00:00Z" {
			t.Errorf("entry %v", m)
		}
	}
	if want := []string{"job.delete", "execution.cancel", "job.run", "job.update", "job.create"}; !slices.Equal(actions, want) {
		t.Errorf("actions %v", actions)
	}
	asked, _ := entries[2].(map[string]any)
	if run, _ := asked["after"].(map[string]any); asked["before"] != nil || run["id"] != execution || run["job_id"] != id || run["job_name"] != "a job" ||
		run["job_version"] != 2.0 || run["scheduled_for"] != "2026-11-23T12:00:00Z" || run["organisation"] != "default" {
		t.Errorf("run %v", asked)
	}
	created, _ := entries[4].(map[string]any)
	updated, _ := entries[3].(map[string]any)
	deleted, _ := entries[0].(map[string]any)
	kept, _ := created["after"].(map[string]any)
	for _, of := range []string{"state", "recent_runs"} { // runs are no part of what was changed
		if _, there := kept[of]; there || kept["name"] != "a job" {
			t.Errorf("kept %v", kept)
		}
	}
	if created["before"] != nil || !reflect.DeepEqual(created["after"], updated["before"]) || updated["after"].(map[string]any)["description"] != "new" ||
		deleted["after"] != nil || !reflect.DeepEqual(deleted["before"], updated["after"]) {
		t.Errorf("sides: %v\n%v\n%v", created, updated, deleted)
	}
	of := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object="+id, "").body
	if of["total"] != 3.0 {
		t.Errorf("of the job: %v", of["total"])
	}
}
