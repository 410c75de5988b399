package builtin

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/xuri/excelize/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// historian is as much of a registry's REST API as a report reads.
type historian struct {
	jobs     []map[string]any
	runs     map[string][]map[string]any // by job, latest first
	requests []string
	answer   func(w http.ResponseWriter, r *http.Request) bool // nil, or true when it has answered
}

const historyToken = "alm_0123456789"

func (h *historian) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests = append(h.requests, r.URL.String())
	if h.answer != nil && h.answer(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+historyToken {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"code": 16, "message": "the token is not known"}`)
		return
	}
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	give := func(name string, list []map[string]any) {
		from := min((page-1)*limit, len(list))
		part := list[from:min(from+limit, len(list))]
		if part == nil {
			part = []map[string]any{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"total": len(list), name: part, "ignored": map[string]any{"a": []any{1}}})
	}
	if r.URL.Path == "/api/admin/scheduler-jobs" {
		give("jobs", h.jobs)
		return
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/api/admin/scheduler-jobs/")
	id, executions := strings.CutSuffix(id, "/executions")
	runs, known := h.runs[id]
	if !ok || !executions || !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	give("executions", runs)
}

// newHistorian serves a registry with two jobs of which one ran, and one that
// never did.
func newHistorian(t *testing.T) (*historian, template.Connection) {
	t.Helper()
	job := func(id, name, lastRun string) map[string]any {
		j := map[string]any{
			"id": id, "name": name, "template_type": "test_scheduler", "enabled": id != "job_c", "organisation": "default", "created_at": "2025-01-01T00:00:00Z",
			"last_run_at": nil, "next_run_at": nil,
		}
		if lastRun != "" {
			j["last_run_at"] = lastRun
		}
		return j
	}
	h := &historian{
		jobs: []map[string]any{job("job_a", "Clean <up>", "2025-10-18T23:00:00Z"), job("job_b", "Idle", "2025-10-01T00:00:00Z"), job("job_c", "Never", ""), job("job_d", "New", "")},
		runs: map[string][]map[string]any{"job_b": {}, "job_c": {}, "job_d": {}, notificationsJob: {historyRun("n1", "failed", "2025-10-18T12:00:00Z", 1)}},
	}
	h.jobs[3]["created_at"] = "2025-10-19T01:00:00Z" // after the day
	h.jobs[3]["organisation"] = "shop"
	// 240 runs on the 18th, every six minutes; and others around it.
	h.runs["job_a"] = []map[string]any{historyRun("later", "success", "2025-10-19T00:00:00Z", 99)}
	for i := 239; i >= 0; i-- {
		at := time.Date(2025, 10, 18, 0, 6*i, 0, 0, time.UTC).Format(time.RFC3339)
		status := "success"
		switch {
		case i%10 == 0:
			status = "failed"
		case i == 31:
			status = "skipped"
		case i == 32:
			status = "timed_out"
		case i == 33:
			status = "cancelled"
		case i == 239:
			status = "running"
		}
		h.runs["job_a"] = append(h.runs["job_a"], historyRun(fmt.Sprintf("exec_%03d", i), status, at, float64(i)))
	}
	h.runs["job_a"] = append(h.runs["job_a"], historyRun("earlier", "failed", "2025-10-17T23:59:59Z", 99))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return h, template.Connection{Kind: template.KindRegistry, URI: server.URL, Secret: historyToken}
}

func historyRun(id, status, at string, seconds float64) map[string]any {
	r := map[string]any{"id": id, "status": status, "scheduled_for": at, "duration_seconds": seconds, "error": nil, "error_code": nil, "reason": nil, "result": map[string]any{"message": "x"}}
	if status == "failed" {
		r["error"], r["error_code"] = "no route\nto host <b>", "connection"
	}
	if status == "skipped" {
		r["duration_seconds"] = nil
	}
	return r
}

// reportRun returns a run of report_generation with its defaults filled in.
func reportRun(t *testing.T, params map[string]any, connect func(*template.Run)) (*template.Run, *templatetest.Recorder) {
	t.Helper()
	compiled, err := template.Compile(reportGeneration{})
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.ValidateParams(params, nil); err != nil {
		t.Fatal(err)
	}
	run, recorder := templatetest.NewRun(compiled.Schema.WithDefaults(params))
	run.Settings, _, _ = compiled.Configure(nil)
	run.JobName = "Summary"
	connect(run)
	return run, recorder
}

func withParams(base map[string]any, more map[string]any) map[string]any {
	all := map[string]any{}
	for _, from := range []map[string]any{base, more} {
		for name, value := range from {
			if all[name] = value; value == nil {
				delete(all, name)
			}
		}
	}
	return all
}

var (
	historyReport    = map[string]any{"source": "history", "registry": "registry", "format": "html", "destination": "exports"}
	collectionReport = map[string]any{"source": "collection", "connection": "main", "collection": "tickets", "format": "xlsx", "destination": "exports"}
)

func TestReportGenerationPassesTheSuite(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "tickets", tickets()...)
	_, destination := newFolder(t)
	_, registry := newHistorian(t)
	office := openPostOffice(t, "127.0.0.1:0", nil)
	history := func(more map[string]any) map[string]any { return withParams(historyReport, more) }
	collection := func(more map[string]any) map[string]any { return withParams(collectionReport, more) }
	mailed := map[string]any{"mail": "mail", "recipients": []any{"ops@example.com"}}
	templatetest.Run(t, reportGeneration{}, templatetest.Options{
		Valid: []map[string]any{
			history(nil), collection(nil), history(mailed), history(map[string]any{"organisation": "shop", "period": "last_month", "top": 1}),
			collection(map[string]any{"group_by": "createdAt", "group_per": "month", "measure": "average", "field": "a.b"}),
		},
		Succeed: []map[string]any{
			history(nil), history(map[string]any{"format": "pdf"}), history(map[string]any{"format": "xlsx", "destination": nil, "mail": "mail", "recipients": []any{"ops@example.com"}}),
			collection(map[string]any{"group_by": "status"}), history(map[string]any{"dryRun": true}),
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"format": "html"}, Field: "source"},
			{Params: history(map[string]any{"format": "docx"}), Field: "format"},
			{Params: history(map[string]any{"registry": nil}), Field: "registry"},
			{Params: history(map[string]any{"collection": "tickets"}), Field: "collection"},
			{Params: history(map[string]any{"destination": nil}), Field: "destination"},
			{Params: history(map[string]any{"mail": "mail"}), Field: "recipients"},
			{Params: history(map[string]any{"recipients": []any{"ops@example.com"}}), Field: "mail"},
			{Params: history(map[string]any{"mail": "mail", "recipients": []any{"a@example.com\r\nBcc: x"}}), Field: "recipients.0"},
			{Params: history(map[string]any{"title": "a\nb"}), Field: "title"},
			{Params: history(map[string]any{"period": "the past"}), Field: "period"},
			{Params: history(map[string]any{"top": 0}), Field: "top"},
			{Params: history(map[string]any{"path": "../x"}), Field: "path"},
			{Params: collection(map[string]any{"collection": nil}), Field: "collection"},
			{Params: collection(map[string]any{"connection": nil}), Field: "connection"},
			{Params: collection(map[string]any{"registry": "registry"}), Field: "registry"},
			{Params: collection(map[string]any{"measure": "sum"}), Field: "field"},
			{Params: collection(map[string]any{"field": "amount"}), Field: "field"},
			{Params: collection(map[string]any{"group_per": "day"}), Field: "group_by"},
			{Params: collection(map[string]any{"group_by": "$a"}), Field: "group_by"},
			{Params: collection(map[string]any{"filter": map[string]any{"$where": "1"}}), Field: "filter.$where"},
		},
		Prepare: func(run *template.Run) {
			templatetest.Connect(run, connectionParam, "main", source)
			templatetest.Connect(run, registryParam, "registry", registry)
			templatetest.Connect(run, destinationParam, "exports", destination)
			templatetest.Connect(run, mailParam, "mail", office.connection())
			run.Allowed["collection"] = []string{"tickets"}
		},
		Settings:        []map[string]any{{}, {"max_records": 10, "recipient_domains": []any{"example.com"}}},
		InvalidSettings: []templatetest.Invalid{{Params: map[string]any{"max_records": 0}, Field: "max_records"}, {Params: map[string]any{"certificate_authorities": "x"}, Field: "certificate_authorities"}},
	})
}

// history makes a report on yesterday and returns it as the formats get it.
func historyOf(t *testing.T, registry template.Connection, params map[string]any) (*report, int64, error) {
	t.Helper()
	run, _ := reportRun(t, withParams(historyReport, params), func(run *template.Run) { templatetest.Connect(run, registryParam, "registry", registry) })
	o, err := reportOrderOf(run.Params, run)
	if err != nil {
		t.Fatal(err)
	}
	return o.gather(t.Context(), run)
}

func cellTexts(rows [][]cell) [][]string {
	out := make([][]string, len(rows))
	for i, row := range rows {
		for _, c := range row {
			out[i] = append(out[i], c.text)
		}
	}
	return out
}

func TestHistoryOfYesterday(t *testing.T) {
	h, registry := newHistorian(t)
	made, count, err := historyOf(t, registry, map[string]any{"top": 2.0})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{
		"Jobs": 4.0, "Runs": 240.0, "Succeeded": 212.0, "Failed": 25.0, "Success rate (%)": 89.4, "Skipped": 1.0, "Cancelled": 1.0, "Not over yet": 1.0,
		"Median duration (s)": 120.0, "95th percentile of durations (s)": 227.0, "Jobs without a run in the period": 2.0, "Jobs that never ran": 1.0,
		"Notifications that failed": 1.0,
	}; count != 240 || !reflect.DeepEqual(made.figures(), want) {
		t.Errorf("%d runs, figures\n%v\nwant\n%v", count, made.figures(), want)
	}
	if made.About != "2025-10-18 (UTC)" {
		t.Error(made.About)
	}
	for i, want := range [][][]string{
		{{"Clean <up>", "240", "212", "25", "89.4", "1", "120", "227"}},
		{
			{"Clean <up>", "2025-10-18 23:00:00", "failed", "connection: no route to host <b>", "exec_230"},
			{"Clean <up>", "2025-10-18 22:00:00", "failed", "connection: no route to host <b>", "exec_220"},
		},
		{{"Clean <up>", "2025-10-18 23:48:00", "238", "success", "exec_238"}, {"Clean <up>", "2025-10-18 23:42:00", "237", "success", "exec_237"}},
		{{"Never", "test_scheduler", "no", "never", "none"}, {"Idle", "test_scheduler", "yes", "2025-10-01 00:00:00", "none"}},
	} {
		if got := cellTexts(made.Tables[i].Rows); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", made.Tables[i].Title, got, want)
		}
	}
	drawn := made.Charts[0]
	if len(drawn.Labels) != 24 || drawn.Labels[3] != "03h" || drawn.Series[0].Values[3] != 6 || drawn.Series[1].Values[3] != 2 {
		t.Errorf("chart %+v", drawn)
	}
	if len(h.requests) != 1+2+1+1+1+1 { // jobs, two pages of the first, one of each other, and of the notifications
		t.Errorf("asked %q", h.requests)
	}
}

func TestHistoryOfOneOrganisation(t *testing.T) {
	_, registry := newHistorian(t)
	made, _, err := historyOf(t, registry, map[string]any{"organisation": "shop", "period": "last_7_days"})
	if err != nil {
		t.Fatal(err)
	}
	got := made.figures()
	if _, told := got["Notifications that failed"]; told || got["Jobs"] != 1.0 || got["Runs"] != 0.0 || got["Success rate (%)"] != "" || made.About != "2025-10-12 to 2025-10-18 (UTC)" {
		t.Errorf("%v on %s", got, made.About)
	}
	if rows := made.Tables[3].Rows; len(rows) != 0 { // it is younger than the period
		t.Errorf("without a run: %v", cellTexts(rows))
	}
}

func TestJobsBeyondTheFirstAreTakenTogether(t *testing.T) {
	h, _ := newChronicle(periodOf("yesterday", time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC), time.UTC), 1)
	at := time.Date(2025, 10, 18, 5, 0, 0, 0, time.UTC)
	for _, name := range []string{"a", "b", "c"} {
		of := record{name: name}
		seconds := float64(name[0] - 'a')
		h.add(&of, listedRun{Status: "success", ScheduledFor: at, Duration: &seconds})
		if name == "b" {
			h.add(&of, listedRun{Status: "unknown", ScheduledFor: at})
		}
		h.end(listedJob{Name: name}, of)
	}
	h.end(listedJob{Name: "x"}, record{name: "x"})
	h.end(listedJob{Name: "y"}, record{name: "y"})
	want := [][]string{{"b", "2", "1", "1", "50", "0", "1", "1"}, {"(others)", "2", "2", "0", "100", "0", "0", "2"}}
	if got := cellTexts(h.byJob().Rows); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	if got, want := cellTexts(h.without().Rows), [][]string{{"x", "", "no", "never", "none"}, {"and 1 more", "", "", "", ""}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestHistoryThatCannotBeRead(t *testing.T) {
	h, registry := newHistorian(t)
	says := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	attempt := func() error { _, _, err := historyOf(t, registry, nil); return err }
	for name, c := range map[string]struct {
		answer    func(http.ResponseWriter, *http.Request) bool
		code      string
		retryable bool
		says      string
	}{
		"a proxy":      {says(200, "<html>"), codeRegistry, false, "is no registry"},
		"another list": {says(200, `{"things": []}`), codeRegistry, false, "no such list"},
		"an object":    {says(200, `{"jobs": {}}`), codeRegistry, false, "no such list"},
		"other types":  {says(200, `{"jobs": [{"id": 5}]}`), codeRegistry, false, "is no registry"},
		"cut off":      {says(200, `{"jobs": [{"id": "a"`), template.CodeConnection, true, "unexpected EOF"},
		"overloaded":   {says(503, `{"message": "try again later"}`), codeRegistry, true, "503 Service Unavailable: try again later"},
		"bad request":  {says(400, `no `+historyToken), codeRegistry, false, "no ***"},
		"nothing":      {says(404, ""), codeRegistry, false, "is no registry"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://example.com/", http.StatusFound)
			return true
		}, codeRegistry, false, "302 Found"},
	} {
		h.answer = c.answer
		if told := failed(t, attempt(), c.code, c.retryable); !strings.Contains(told, c.says) {
			t.Errorf("%s: %s", name, told)
		}
	}
	h.answer = nil
	registry.Secret = "wrong_token"
	if told := failed(t, attempt(), template.CodeForbidden, false); !strings.Contains(told, "the token is not known") {
		t.Error(told)
	}
	registry.Secret = historyToken
	if _, _, err := historyOf(t, registry, map[string]any{"period": "last_7_days"}); err != nil {
		t.Error(err)
	}
	run, _ := reportRun(t, historyReport, func(run *template.Run) {
		templatetest.Connect(run, registryParam, "registry", registry)
		run.Settings["max_records"] = 100.0
	})
	_, err := reportGeneration{}.Execute(t.Context(), run)
	failed(t, err, template.CodeLimit, false)
	registry.URI = "http://127.0.0.1:1"
	failed(t, attempt(), template.CodeConnection, true)
}

func TestPeriods(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, at, from, to, about string
		steps                     int
	}{
		{"yesterday", "2025-10-19T02:00:00Z", "2025-10-18T00:00:00+02:00", "2025-10-19T00:00:00+02:00", "2025-10-18 (Europe/Berlin)", 24},
		{"yesterday", "2025-10-18T22:30:00Z", "2025-10-18T00:00:00+02:00", "2025-10-19T00:00:00+02:00", "2025-10-18 (Europe/Berlin)", 24},
		{"yesterday", "2025-10-27T02:00:00Z", "2025-10-26T00:00:00+02:00", "2025-10-27T00:00:00+01:00", "2025-10-26 (Europe/Berlin)", 25},
		{"yesterday", "2025-03-31T02:00:00Z", "2025-03-30T00:00:00+01:00", "2025-03-31T00:00:00+02:00", "2025-03-30 (Europe/Berlin)", 23},
		{"today", "2025-10-19T02:10:00Z", "2025-10-19T00:00:00+02:00", "2025-10-19T04:10:00+02:00", "2025-10-19 00:00 to 2025-10-19 04:10 (Europe/Berlin)", 5},
		{"last_24_hours", "2025-10-19T02:10:00Z", "2025-10-18T04:10:00+02:00", "2025-10-19T04:10:00+02:00", "2025-10-18 04:10 to 2025-10-19 04:10 (Europe/Berlin)", 24},
		{"last_7_days", "2025-10-29T02:00:00Z", "2025-10-22T00:00:00+02:00", "2025-10-29T00:00:00+01:00", "2025-10-22 to 2025-10-28 (Europe/Berlin)", 7},
		{"last_30_days", "2025-03-02T12:00:00Z", "2025-01-31T00:00:00+01:00", "2025-03-02T00:00:00+01:00", "2025-01-31 to 2025-03-01 (Europe/Berlin)", 30},
		{"last_month", "2025-01-31T12:00:00Z", "2024-12-01T00:00:00+01:00", "2025-01-01T00:00:00+01:00", "2024-12-01 to 2024-12-31 (Europe/Berlin)", 31},
		{"this_month", "2025-01-31T12:00:00Z", "2025-01-01T00:00:00+01:00", "2025-01-31T13:00:00+01:00", "2025-01-01 00:00 to 2025-01-31 13:00 (Europe/Berlin)", 31},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		p := periodOf(c.name, at, berlin)
		begins, names := p.steps()
		if p.from.Format(time.RFC3339) != c.from || p.to.Format(time.RFC3339) != c.to || p.String() != c.about || len(begins) != c.steps || len(names) != c.steps {
			t.Errorf("%s at %s: %v to %v, %q, %d steps", c.name, c.at, p.from, p.to, p, len(begins))
		}
	}
}

func tickets() []any {
	at := func(month time.Month, day int) bson.DateTime {
		return bson.NewDateTimeFromTime(time.Date(2025, month, day, 23, 30, 0, 0, time.UTC))
	}
	return []any{
		bson.D{{Key: "_id", Value: 1}, {Key: "status", Value: "open"}, {Key: "amount", Value: 10}, {Key: "createdAt", Value: at(10, 16)}},
		bson.D{{Key: "_id", Value: 2}, {Key: "status", Value: "resolved"}, {Key: "amount", Value: 2.5}, {Key: "createdAt", Value: at(10, 17)}},
		bson.D{{Key: "_id", Value: 3}, {Key: "status", Value: "open"}, {Key: "amount", Value: "a lot"}, {Key: "createdAt", Value: at(10, 17)}},
		bson.D{{Key: "_id", Value: 4}, {Key: "amount", Value: int64(-1)}, {Key: "createdAt", Value: "text"}},
		bson.D{{Key: "_id", Value: 5}, {Key: "status", Value: "open"}, {Key: "amount", Value: 5}, {Key: "createdAt", Value: at(9, 1)}},
	}
}

func TestReportOnACollection(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "tickets", tickets()...)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		params  map[string]any
		figures map[string]any
		rows    [][]string
		about   string
	}{
		"in all":       {map[string]any{}, map[string]any{"Documents": 5.0}, nil, "all documents of tickets"},
		"by value":     {map[string]any{"group_by": "status"}, map[string]any{"Documents": 5.0, "Groups": 3.0}, [][]string{{"open", "3"}, {"(none)", "1"}, {"resolved", "1"}}, "all documents of tickets"},
		"sum by value": {map[string]any{"group_by": "status", "measure": "sum", "field": "amount"}, map[string]any{"Documents": 5.0, "Documents with a number in amount": 4.0, "Sum of amount": 16.5, "Groups": 3.0}, [][]string{{"open", "3", "15"}, {"resolved", "1", "2.5"}, {"(none)", "1", "-1"}}, "all documents of tickets"},
		"average, the rest together": {
			map[string]any{"group_by": "status", "measure": "average", "field": "amount", "top": 1.0},
			map[string]any{"Documents": 5.0, "Documents with a number in amount": 4.0, "Average of amount": 4.125, "Groups": 3.0},
			[][]string{{"open", "3", "7.5"}, {"(others)", "2", "0.75"}},
			"all documents of tickets",
		},
		"minimum": {map[string]any{"measure": "minimum", "field": "amount"}, map[string]any{"Documents": 5.0, "Documents with a number in amount": 4.0, "Minimum of amount": -1.0}, nil, "all documents of tickets"},
		"maximum by day": {
			map[string]any{"group_by": "createdAt", "group_per": "day", "measure": "maximum", "field": "amount", "top": 3.0},
			map[string]any{"Documents": 5.0, "Documents with a number in amount": 4.0, "Maximum of amount": 10.0, "Groups": 4.0},
			[][]string{{"(none)", "1", "-1"}, {"2025-09-02", "1", "5"}, {"2025-10-17", "1", "10"}, {"2025-10-18", "2", "2.5"}},
			"all documents of tickets",
		},
		"by month in a period": {
			map[string]any{"group_by": "createdAt", "group_per": "month", "date_field": "createdAt", "period": "last_30_days", "filter": map[string]any{"status": "open"}},
			map[string]any{"Documents": 2.0, "Groups": 1.0},
			[][]string{{"2025-10", "2"}},
			"tickets with createdAt on 2025-09-19 to 2025-10-18 (Europe/Berlin)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			run, _ := reportRun(t, withParams(collectionReport, c.params), func(run *template.Run) {
				templatetest.Connect(run, connectionParam, "main", source)
				run.Allowed["collection"] = []string{"tickets"}
				run.Zone = berlin
			})
			o, err := reportOrderOf(run.Params, run)
			if err != nil {
				t.Fatal(err)
			}
			made, _, err := o.gather(t.Context(), run)
			if err != nil {
				t.Fatal(err)
			}
			var rows [][]string
			for _, one := range made.Tables {
				rows = cellTexts(one.Rows)
			}
			if !reflect.DeepEqual(made.figures(), c.figures) || !reflect.DeepEqual(rows, c.rows) || made.About != c.about {
				t.Errorf("figures %v, rows %q, on %s", made.figures(), rows, made.About)
			}
		})
	}
	run, _ := reportRun(t, collectionReport, func(run *template.Run) {
		templatetest.Connect(run, connectionParam, "main", source)
		run.Allowed["collection"] = []string{"tickets"}
		run.Settings["max_records"] = 4.0
	})
	_, err = reportGeneration{}.Execute(t.Context(), run)
	failed(t, err, template.CodeLimit, false)
	run.Allowed["collection"] = nil
	_, err = reportGeneration{}.Execute(t.Context(), run)
	failed(t, err, template.CodeForbidden, false)
}

func sampleReport() *report {
	return &report{
		Title: "Daily <summary>", About: "2025-10-18 (UTC)", Job: "Summary & more", ScheduledFor: "2025-10-19T02:00:00Z",
		Figures: []figure{{"Runs", wholeCell(240)}, {"Success rate (%)", numberCell(89.4)}, {"Median", cell{}}},
		Charts: []chart{
			{Title: "Runs", Upright: true, Labels: []string{"00h", "01h", "02h"}, Series: []series{{"succeeded", colorGood, []float64{3, 0, 5}}, {"failed", colorBad, []float64{1, 0, 2}}}},
			{Title: "By status", Labels: []string{"open </svg><script>", "Größe Ω Ж 😀"}, Series: []series{{"documents", colorPlain, []float64{12, -3}}}},
		},
		Tables: []table{
			{Title: "Failures: [all]", Columns: []string{"job", "count"}, Rows: [][]cell{{textCell("=cmd()<script>alert(1)</script>"), wholeCell(3)}, {textCell(strings.Repeat("long ", 60)), {}}}},
			{Title: "Idle", Columns: []string{"job"}, None: "Every job ran."},
		},
	}
}

func rendered(t *testing.T, r *report, format string) []byte {
	t.Helper()
	var out, again bytes.Buffer
	at := time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC)
	if err := errors.Join(r.render(format, at, &out), r.render(format, at, &again)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("the same report is another %s file the second time", format)
	}
	return out.Bytes()
}

func TestReportAsHTML(t *testing.T) {
	page := string(rendered(t, sampleReport(), "html"))
	for _, want := range []string{
		"<title>Daily &lt;summary&gt;, 2025-10-18 (UTC)</title>", "<dt>Success rate (%)</dt><dd>89.4</dd>", "<dt>Median</dt><dd>–</dd>", `<td class="number">3</td>`,
		"&lt;script&gt;alert(1)", "<p>Every job ran.</p>", "<title>02h: 2 failed</title>", "open &lt;/svg&gt;&lt;script&gt;", "default-src &#39;none&#39;", "Größe Ω Ж 😀",
	} {
		if !strings.Contains(page, want) && !strings.Contains(page, strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "http://") || strings.Contains(page, "https://") || strings.Contains(page, "ZgotmplZ") {
		t.Errorf("the page runs or loads something:\n%s", page)
	}
	// All that is opened is closed: an XML reader goes through once the declarations of HTML are gone.
	plain := strings.NewReplacer("<!DOCTYPE html>\n", "", `<meta charset="utf-8">`, "").Replace(page)
	for _, line := range strings.SplitAfter(page, "\n") {
		if strings.HasPrefix(line, "<meta") {
			plain = strings.Replace(plain, line, "", 1)
		}
	}
	decoder := xml.NewDecoder(strings.NewReader(plain))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, plain)
		}
	}
}

func TestReportAsPDF(t *testing.T) {
	document := sampleReport()
	for i := range 120 { // over several pages
		document.Tables[0].Rows = append(document.Tables[0].Rows, []cell{textCell(fmt.Sprint("row ", i)), wholeCell(int64(i))})
	}
	file := rendered(t, document, "pdf")
	if !bytes.HasPrefix(file, []byte("%PDF-")) || !bytes.HasSuffix(bytes.TrimSpace(file), []byte("%%EOF")) {
		t.Fatalf("no PDF: %.20q", file)
	}
	_, rest, _ := bytes.Cut(file, []byte("startxref\n"))
	at, err := strconv.Atoi(string(rest[:bytes.IndexByte(rest, '\n')]))
	if err != nil || !bytes.HasPrefix(file[at:], []byte("xref\n")) {
		t.Errorf("the table of contents is not where it is said to be: %d, %v", at, err)
	}
	if pages := bytes.Count(file, []byte("/Type /Page\n")); pages < 3 {
		t.Errorf("%d pages", pages)
	}
	if !bytes.Contains(file, []byte("D:20251019020000")) || len(file) > 200_000 {
		t.Errorf("%d bytes, or another date", len(file))
	}
}

func TestReportAsXLSX(t *testing.T) {
	content := rendered(t, sampleReport(), "xlsx")
	book, err := excelize.OpenReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	if got, want := book.GetSheetList(), []string{"Summary", "1 Runs", "2 By status", "3 Failures all", "4 Idle"}; !slices.Equal(got, want) {
		t.Errorf("sheets %q", got)
	}
	for sheet, want := range map[string][][]string{
		"1 Runs":         {{"", "succeeded", "failed"}, {"00h", "3", "1"}, {"01h", "0", "0"}, {"02h", "5", "2"}},
		"2 By status":    {{"", "documents"}, {"open </svg><script>", "12"}, {"Größe Ω Ж 😀", "-3"}},
		"3 Failures all": {{"job", "count"}, {"'=cmd()<script>alert(1)</script>", "3"}, {strings.Repeat("long ", 60)}},
	} {
		if got, err := book.GetRows(sheet); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q (%v)", sheet, got, err)
		}
	}
	if rate, err := book.GetCellValue("Summary", "B6"); err != nil || rate != "89.4" {
		t.Errorf("%q (%v)", rate, err)
	}
	checkPackage(t, content, "xl/charts/chart2.xml")
}

// checkPackage checks that every part of a workbook is XML, has a type, and leads
// only to parts that there are; and that there is one of that name.
func checkPackage(t *testing.T, content []byte, wanted string) {
	t.Helper()
	files, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	parts, typed := map[string]bool{}, map[string]bool{}
	for _, file := range files.File {
		parts[file.Name] = true
	}
	for _, file := range files.File {
		reader, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		for decoder := xml.NewDecoder(reader); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file.Name, err)
			}
			start, _ := token.(xml.StartElement)
			for _, attribute := range start.Attr {
				switch {
				case start.Name.Local == "Override" && attribute.Name.Local == "PartName":
					typed[strings.TrimPrefix(attribute.Value, "/")] = true
				case attribute.Name.Local == "Target":
					// Relative to the folder above _rels.
					if target := path.Join(path.Dir(path.Dir(file.Name)), attribute.Value); !parts[target] {
						t.Errorf("%s leads to %s, which is not there", file.Name, target)
					}
				}
			}
		}
		_ = reader.Close()
	}
	for name := range parts {
		if !typed[name] && !strings.HasSuffix(name, ".rels") && name != "[Content_Types].xml" {
			t.Errorf("%s has no type", name)
		}
	}
	for name := range typed {
		if !parts[name] {
			t.Errorf("%s has a type and is not there", name)
		}
	}
	if !parts[wanted] {
		t.Errorf("%s is not there", wanted)
	}
}

func TestReportAsText(t *testing.T) {
	got := sampleReport().text()
	for _, want := range []string{"Daily <summary>\n2025-10-18 (UTC)\n", "Success rate (%)  89.4\n", "Idle\nEvery job ran.\n", `Made by the job "Summary & more" for 2025-10-19T02:00:00Z.`} {
		if !strings.Contains(got, want) {
			t.Errorf("the text has no %q:\n%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if len([]rune(line)) > 80 {
			t.Errorf("too long: %q", line)
		}
	}
}

func TestCharts(t *testing.T) {
	for name, c := range map[string]chart{
		"empty":    {Series: []series{{"n", colorPlain, nil}}},
		"zeros":    {Upright: true, Labels: []string{"a", "b"}, Series: []series{{"n", colorPlain, []float64{0, 0}}}},
		"large":    {Labels: []string{"a", "b"}, Series: []series{{"n", colorPlain, []float64{1e15, 1}}}},
		"tiny":     {Upright: true, Labels: []string{"a"}, Series: []series{{"n", colorPlain, []float64{0.00012}}}},
		"negative": {Upright: true, Labels: []string{"a", "b"}, Series: []series{{"n", colorPlain, []float64{-5, 5}}, {"m", colorBad, []float64{-5, 5}}}},
		"many":     {Upright: true, Labels: make([]string, 400), Series: []series{{"n", colorPlain, make([]float64, 400)}}},
	} {
		for _, c.Upright = range []bool{true, false} {
			d := c.draw()
			for _, b := range d.Boxes {
				if !(b.X >= 0 && b.Y >= 0 && b.W >= 0 && b.H >= 0 && b.X+b.W <= d.Width+0.01 && b.Y+b.H <= d.Height+0.01) {
					t.Errorf("%s: %+v leaves %v x %v", name, b, d.Width, d.Height)
				}
			}
			if len(d.Lines) < 2 || len(d.Lines) > 12 {
				t.Errorf("%s: %d marks", name, len(d.Lines))
			}
		}
	}
	d := chart{Upright: true, Labels: []string{"a", "b"}, Series: []series{{"n", colorPlain, []float64{10, 5}}}}.draw()
	if len(d.Boxes) != 2 || d.Boxes[0].H != 2*d.Boxes[1].H || d.Boxes[0].Y+d.Boxes[0].H != d.Boxes[1].Y+d.Boxes[1].H {
		t.Errorf("the bars do not compare: %+v", d.Boxes)
	}
}

func TestReportGoesIntoABucketAndByMail(t *testing.T) {
	_, registry := newHistorian(t)
	folder, destination := newFolder(t)
	office := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		p.judge = func(to string, times int) error {
			if to == "later@example.com" && times == 1 {
				return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "try again later"}
			}
			return nil
		}
	})
	run, _ := reportRun(t, withParams(historyReport, map[string]any{
		"format": "pdf", "title": "Daily summary", "path": "reports/{date}.{ext}", "mail": "mail", "recipients": []any{"ops@example.com", "later@example.com"},
	}), func(run *template.Run) {
		templatetest.Connect(run, registryParam, "registry", registry)
		templatetest.Connect(run, destinationParam, "exports", destination)
		templatetest.Connect(run, mailParam, "mail", office.connection())
	})
	result, err := reportGeneration{}.Execute(t.Context(), run)
	failed(t, err, codeMailDeferred, true)
	if result["object"] != "reports/2025-10-19.pdf" || result["sent"] != 1 || result["records_processed"] != int64(240) {
		t.Errorf("result %v", result)
	}
	result, err = reportGeneration{}.Execute(t.Context(), again(t, run, result))
	if err != nil || result["sent"] != 2 || result["message"] != "Made a report on 240 records, put into reports/2025-10-19.pdf, mailed to 2 of 2" {
		t.Errorf("%v, %v", result, err)
	}
	if got, want := office.recipients(), []string{"ops@example.com", "later@example.com"}; !slices.Equal(got, want) {
		t.Errorf("mail went to %v", got)
	}
	stored, err := os.ReadFile(filepath.Join(folder, "reports/2025-10-19.pdf"))
	if err != nil {
		t.Fatal(err)
	}
	message, err := mail.ReadMessage(bytes.NewReader(office.letters()[0].raw))
	if err != nil {
		t.Fatal(err)
	}
	if got := message.Header.Get("Subject"); got != "Daily summary, 2025-10-18 (UTC)" {
		t.Error(got)
	}
	_, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for reader := multipart.NewReader(message.Body, params["boundary"]); ; {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part.FileName())
		if part.FileName() == "" {
			if !bytes.Contains(content, []byte("Success rate (%)")) {
				t.Errorf("the text is %s", content)
			}
			continue
		}
		attached, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\r", "", "\n", "").Replace(string(content)))
		if err != nil || !bytes.Equal(attached, stored) {
			t.Errorf("what is attached is not what is in the bucket: %d bytes, %d (%v)", len(attached), len(stored), err)
		}
	}
	if want := []string{"", "report.pdf"}; !slices.Equal(parts, want) {
		t.Errorf("parts %q", parts)
	}
	run.Settings[domainsSetting] = []any{"example.org"}
	_, err = reportGeneration{}.Execute(t.Context(), run)
	failed(t, err, template.CodeForbidden, false)
}
