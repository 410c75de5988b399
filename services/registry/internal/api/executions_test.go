package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

func badTime() *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: 1 << 60} }

// start leases and starts an execution, as an executor would.
func (r *rig) start(id string) *job.Execution {
	r.t.Helper()
	if err := r.store.OpenSession(r.t.Context(), store.Session{ID: "session", Host: "server-01"}, r.Now()); err != nil {
		r.t.Fatal(err)
	}
	r.change(id, func(e *job.Execution) *job.Execution {
		return e.Lease(job.Holder{Session: "session", Stream: "stream", Number: 1, Host: "server-01"}, 0, r.Now())
	})
	return r.change(id, func(e *job.Execution) *job.Execution { return e.Start(r.Now(), r.Now(), []string{"process"}) })
}

func (r *rig) execution(id string) map[string]any {
	r.t.Helper()
	e, _ := r.root(http.StatusOK, http.MethodGet, executionsPath+"/"+id, "").body["execution"].(map[string]any)
	return e
}

func TestExecutionLife(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "retry_policy": {"max_retries": 1, "retry_delay_seconds": 30}`)
	execution := r.run(id)
	running := r.start(execution)
	r.dispatcher.set(func(d *dispatcher) {
		d.progress = map[string]dispatch.Progress{execution: {Holding: dispatch.Holding{ID: execution, Token: running.Token}, Done: 5, Total: 10, Message: "half"}}
	})
	expect := func(want string) {
		t.Helper()
		got := r.execution(execution)
		for key, value := range parse(t, want) {
			if !reflect.DeepEqual(got[key], value) {
				t.Errorf("%s is %v, want %v", key, got[key], value)
			}
		}
	}
	expect(`{"status": "running", "started_at": "2026-11-23T12:00:00Z", "completed_at": null, "duration_seconds": null, "execution_host": "server-01", "isolation": ["process"],
		"progress": {"done": 5, "total": 10, "message": "half"}, "next_attempt_at": null,
		"attempts": [{"number": 1, "status": "running", "started_at": "2026-11-23T12:00:00Z", "completed_at": null, "duration_seconds": null, "error": null, "error_code": null, "execution_host": "server-01"}]}`)
	if got := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "").job(t)["last_run_at"]; got != "2026-11-23T12:00:00Z" {
		t.Errorf("last_run_at %v", got)
	}

	r.advance(1500 * time.Millisecond)
	r.change(execution, func(e *job.Execution) *job.Execution {
		return e.End(job.Outcome{Status: job.Failed, CompletedAt: r.Now(), Error: "no luck", ErrorCode: "connection", Retryable: true}, r.Now())
	})
	const first = `{"number": 1, "status": "failed", "started_at": "2026-11-23T12:00:00Z", "completed_at": "2026-11-23T12:00:01.500Z", "duration_seconds": 1.5,
		"error": "no luck", "error_code": "connection", "execution_host": "server-01"}`
	expect(`{"status": "retrying", "error": "no luck", "error_code": "connection", "progress": null, "next_attempt_at": "2026-11-23T12:00:31.500Z", "attempts": [` + first + `]}`)

	r.advance(30 * time.Second)
	r.start(execution)
	r.advance(330 * time.Second)
	r.change(execution, func(e *job.Execution) *job.Execution {
		return e.End(job.Outcome{Status: job.Success, CompletedAt: r.Now(), Result: json.RawMessage(`{"message": "done", "records_processed": 1523}`)}, r.Now())
	})
	expect(`{"status": "success", "started_at": "2026-11-23T12:00:31.500Z", "completed_at": "2026-11-23T12:06:01.500Z", "duration_seconds": 330,
		"result": {"message": "done", "records_processed": 1523}, "error": null, "error_code": null, "progress": null, "next_attempt_at": null, "cancel_requested": false}`)
	if attempts := r.execution(execution)["attempts"].([]any); len(attempts) != 2 || !reflect.DeepEqual(attempts[0], any(parse(t, first))) {
		t.Errorf("attempts %v", attempts)
	}

	// Lists: exact status, several statuses, exact totals.
	for query, total := range map[string]float64{"": 1, "?status=success": 1, "?status=failed": 0, "?status=failed&status=success&limit=1": 1, "?page=2": 1} {
		a := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id+"/executions"+query, "")
		if a.body["total"] != total || len(a.body) != 2 {
			t.Errorf("%s: %s", query, a.text)
		}
	}
	r.root(http.StatusOK, http.MethodDelete, jobsPath+"/"+id, "")
	if a := r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id+"/executions", ""); a.body["total"] != 1.0 {
		t.Errorf("history of a deleted job: %s", a.text)
	}
}

func TestActivity(t *testing.T) {
	r := newRig(t)
	r.system()
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "overlap_policy": "allow"`)
	show := func(query string) (ids []string, total any) {
		t.Helper()
		a := r.as(access.Admin, http.MethodGet, executionsPath+query, "")
		list, _ := a.body["executions"].([]any)
		for _, e := range list {
			ids = append(ids, fmt.Sprint(e.(map[string]any)["id"]))
		}
		return ids, a.body["total"]
	}
	if ids, total := show(""); len(ids) != 0 || total != 0.0 {
		t.Errorf("at rest: %v, %v", ids, total)
	}
	waiting := r.run(id)
	r.advance(time.Second)
	later := r.run(id)
	running := r.start(r.trial(`{"template_type": "test_scheduler"}`))
	r.dispatcher.set(func(d *dispatcher) {
		d.progress = map[string]dispatch.Progress{running.ID: {Holding: dispatch.Holding{ID: running.ID, Token: running.Token}, Done: 1, Total: 4}}
	})
	if ids, total := show("?state=live"); !slices.Equal(ids, []string{running.ID, waiting, later}) || total != 3.0 {
		t.Errorf("live: %v, %v", ids, total)
	}
	if ids, total := show("?limit=1&page=2"); !slices.Equal(ids, []string{waiting}) || total != 3.0 {
		t.Errorf("the second: %v, %v", ids, total)
	}
	list := r.root(http.StatusOK, http.MethodGet, executionsPath, "").body["executions"].([]any)
	if got := list[0].(map[string]any)["progress"]; !reflect.DeepEqual(got, any(parse(t, `{"done": 1, "total": 4, "message": ""}`))) {
		t.Errorf("progress %v", got)
	}
	failed, timedOut, fine := r.run(id), r.run(id), r.run(id)
	r.end(failed, job.Failed, time.Second)
	r.end(timedOut, job.TimedOut, time.Hour)
	r.end(fine, job.Success, time.Second)
	if ids, total := show("?state=failed"); !slices.Equal(ids, []string{timedOut, failed}) || total != 2.0 {
		t.Errorf("failed: %v, %v", ids, total)
	}
	if ids, _ := show("?state=failed&since=2026-11-23T13:00:00Z"); !slices.Equal(ids, []string{timedOut}) {
		t.Errorf("failed of late: %v", ids)
	}
	r.advance(24 * time.Hour)
	if ids, total := show("?state=failed"); len(ids) != 0 || total != 0.0 {
		t.Errorf("failed within a day: %v, %v", ids, total)
	}
	for query, field := range map[string]string{"state=ended": "state", "since=noon": "since", "since=1969-12-31T00:00:00Z": "since", "limit=501": "limit", "page=0": "page"} {
		if a := r.root(http.StatusBadRequest, http.MethodGet, executionsPath+"?"+query, ""); !a.violates(field, "") {
			t.Errorf("%s: %s", query, a.text)
		}
	}
	c := almanacv1.NewExecutionServiceClient(r.dial(r.tokens[access.Admin]))
	if got, err := c.ListActivity(t.Context(), &almanacv1.ListActivityRequest{Since: badTime()}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.ListActivity(t.Context(), &almanacv1.ListActivityRequest{State: "failed", Since: timestamppb.New(began)}); err != nil || got.Total != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// Who was told of an end is part of the answer for one execution.
func TestNotifiedExecution(t *testing.T) {
	r := newRig(t)
	r.system()
	id := r.run(r.create("a job", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "notifications": {"on_failure": ["a@example.com", "channel:ops"]}`))
	if got := r.execution(id)["notifications"]; !reflect.DeepEqual(got, []any{}) {
		t.Errorf("before the end: %v", got)
	}
	e := r.start(id)
	failed := e.End(job.Outcome{Status: job.Failed, CompletedAt: r.Now(), Error: "no luck"}, r.Now())
	change := &store.Change{Status: e.Status, Token: e.Token, To: failed}
	var want []any
	for i, template := range []string{"email_notification", "channel_message"} {
		// The mail's key ends in 0, that of each channel's message in its place among those who are told.
		key := fmt.Sprintf("%s.failed.%d", id, i)
		follow := &job.Execution{
			ID: job.ExecutionID(job.NotificationsID, job.TriggerNotification, key), JobID: job.NotificationsID, JobVersion: 1, Trigger: job.TriggerNotification,
			Key: key, ScheduledFor: r.Now(), CreatedAt: r.Now(), WakeAt: r.Now(), Status: job.Pending, Frozen: job.Frozen{JobName: "n", TemplateType: template, Organisation: "default"},
		}
		change.Follow = append(change.Follow, follow)
		want = append(want, map[string]any{"execution_id": follow.ID, "event": "failed", "template_type": template, "status": "pending", "error": nil})
	}
	if a := r.store.Do(t.Context(), r.Now(), []store.Op{change})[0]; a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	if got := r.execution(id)["notifications"]; !reflect.DeepEqual(got, want) {
		t.Errorf("told\n%v\nwant\n%v", got, want)
	}
}

func TestSkippedExecution(t *testing.T) {
	at := began
	e := &job.Execution{
		ID: "exec_x_s_y", JobID: "job_x", Trigger: job.TriggerScheduler, ScheduledFor: at, CompletedAt: at, Status: job.Skipped, Reason: "missed: late",
		MissedFrom: at, MissedUntil: at.Add(time.Hour), MissedCount: 1 << 40,
	}
	m, err := executionMessage(e, (&dispatcher{}).Progress)
	if err != nil {
		t.Fatal(err)
	}
	if m.MissedCount.GetValue() != 1<<31-1 || !m.MissedUntil.AsTime().Equal(at.Add(time.Hour)) || m.TriggeredByUser != nil || m.Reason.GetValue() != "missed: late" {
		t.Errorf("skip %v", m)
	}
	e.Result = json.RawMessage("{")
	if _, err := executionMessage(e, (&dispatcher{}).Progress); err == nil {
		t.Error("an unreadable result is shown")
	}
	e.Frozen.Parameters = json.RawMessage("{")
	if _, err := executionMessage(e, (&dispatcher{}).Progress); err == nil {
		t.Error("unreadable parameters are shown")
	}
}

func TestLogs(t *testing.T) {
	r := newRig(t)
	execution := r.run(r.create("a job", ""))
	token := r.start(execution).Token
	for chunk := range 11 {
		lines := make([]job.LogLine, 100)
		for i := range lines {
			lines[i] = job.LogLine{At: began, Level: "INFO", Message: fmt.Sprint("line ", chunk*100+i)}
		}
		a := r.store.Do(t.Context(), r.Now(), []store.Op{&store.AppendLog{ID: execution, Token: token, Number: chunk, Lines: lines}})[0]
		if a.Outcome != store.Done {
			t.Fatal(a)
		}
	}
	logs, _ := r.root(http.StatusOK, http.MethodGet, executionsPath+"/"+execution, "").body["logs"].([]any)
	if len(logs) != firstLogs || !reflect.DeepEqual(logs[999], any(parse(t, `{"timestamp": "2026-11-23T12:00:00Z", "level": "INFO", "message": "line 999"}`))) {
		t.Errorf("%d lines, the last %v", len(logs), logs[len(logs)-1])
	}
	rest := r.root(http.StatusOK, http.MethodGet, executionsPath+"/"+execution+"/logs?page=2", "").body
	if more, _ := rest["logs"].([]any); len(more) != 100 || rest["total"] != 1100.0 {
		t.Errorf("the rest: %d of %v", len(more), rest["total"])
	}
	if a := r.root(http.StatusBadRequest, http.MethodGet, executionsPath+"/"+execution+"/logs?limit=1001", ""); !a.violates("limit", "1000") {
		t.Errorf("too many: %s", a.text)
	}
}

func TestCancel(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", `"template_type": "test_scheduler", "schedule": {"type": "manual"}, "overlap_policy": "allow"`)
	cancel := func(role access.Role, execution string) answer {
		return r.as(role, http.MethodPost, executionsPath+"/"+execution+"/cancel", `{"reason": "no more"}`)
	}
	waiting := r.run(id)
	if a := cancel(access.Admin, waiting); a.code != 403 {
		t.Errorf("somebody else's: %d %s", a.code, a.text)
	}
	a := cancel(access.SuperAdmin, waiting)
	if a.code != 200 || a.body["message"] != "Execution cancelled" || a.body["execution"].(map[string]any)["status"] != "cancelled" || a.body["execution"].(map[string]any)["reason"] != "no more" {
		t.Errorf("waiting: %d %s", a.code, a.text)
	}
	if a := cancel(access.SuperAdmin, waiting); a.code != 409 || a.reason() != "EXECUTION_ENDED" {
		t.Errorf("again: %d %s", a.code, a.text)
	}
	own := r.as(access.Admin, http.MethodPost, jobsPath+"/"+id+"/run", "")
	execution, _ := own.body["execution_id"].(string)
	r.start(execution)
	a = cancel(access.Admin, execution)
	if a.code != 200 || a.body["message"] != "Execution is being cancelled" || a.body["execution"].(map[string]any)["cancel_requested"] != true || a.body["execution"].(map[string]any)["reason"] != "no more" {
		t.Errorf("running: %d %s", a.code, a.text)
	}
	if len(r.dispatcher.cancelled) != 1 || r.dispatcher.cancelled[0].ID != execution {
		t.Errorf("the dispatcher was told of %v", r.dispatcher.cancelled)
	}
	if a := cancel(access.Admin, execution); a.code != 200 {
		t.Errorf("running, again: %d %s", a.code, a.text)
	}
	log := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object="+waiting, "").body["entries"].([]any)
	entry, _ := log[0].(map[string]any)
	if after, _ := entry["after"].(map[string]any); entry["action"] != "execution.cancel" || after["reason"] != "no more" || after["cancel_requested"] != true {
		t.Errorf("audit %v", entry)
	}
}

func TestResolve(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	execution := r.run(id)
	resolve := func(role access.Role) answer {
		return r.as(role, http.MethodPost, executionsPath+"/"+execution+"/resolve", `{"status": "success", "reason": "seen in the database"}`)
	}
	if a := resolve(access.SuperAdmin); a.code != 409 || a.reason() != "EXECUTION_ENDED" {
		t.Errorf("not unknown: %d %s", a.code, a.text)
	}
	r.start(execution)
	r.change(execution, func(e *job.Execution) *job.Execution { return e.Lost(r.Now(), false) })
	if got := r.execution(execution)["status"]; got != "unknown" {
		t.Fatalf("status %v", got)
	}
	if a := resolve(access.Admin); a.code != 403 {
		t.Errorf("admin: %d", a.code)
	}
	a := resolve(access.SuperAdmin)
	resolved, _ := a.body["execution"].(map[string]any)
	if a.code != 200 || a.body["message"] != "Execution resolved" || resolved["status"] != "success" || resolved["reason"] != "resolved: seen in the database" || resolved["error"] != nil {
		t.Errorf("resolved: %d %s", a.code, a.text)
	}
	r.run(id) // the slot is free
	if a := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object="+execution, ""); a.body["total"] != 2.0 {
		t.Errorf("audit %s", a.text)
	}
}
