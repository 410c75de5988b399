package builtin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/egress"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// loopback are the settings that let tests reach servers of their own.
var loopback = map[string]any{allowNetworksSetting: []any{"127.0.0.0/8"}}

// received is one request as a receiver saw it.
type received struct {
	method, path string
	header       http.Header
	body         string
}

// receiver is an HTTP server that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []received
}

// newReceiver answers with handler, or with 200 and "ok" when that is nil.
func newReceiver(t *testing.T, handler http.HandlerFunc) *receiver {
	t.Helper()
	if handler == nil {
		handler = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	}
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.requests = append(r.requests, received{request.Method, request.URL.String(), request.Header.Clone(), string(body)})
		r.mu.Unlock()
		handler(w, request)
	}))
	t.Cleanup(r.Close)
	return r
}

// got returns the requests so far.
func (r *receiver) got() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// only returns the request that must be the only one.
func (r *receiver) only(t *testing.T) received {
	t.Helper()
	requests := r.got()
	if len(requests) != 1 {
		t.Fatalf("%d requests arrived, want 1: %+v", len(requests), requests)
	}
	return requests[0]
}

func newWebhookRun(params map[string]any) (*template.Run, *templatetest.Recorder) {
	run, recorder := templatetest.NewRun(params)
	run.Settings = loopback
	return run, recorder
}

// mustFail runs a template that must fail, and returns how.
func mustFail(t *testing.T, tmpl template.JobTemplate, run *template.Run) (template.Result, *template.Error) {
	t.Helper()
	result, err := tmpl.Execute(t.Context(), run)
	var failure *template.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got %v, %v", result, err)
	}
	return result, failure
}

func TestWebhookPassesTheSuite(t *testing.T) {
	server := newReceiver(t, nil)
	templatetest.Run(t, webhookTrigger{}, templatetest.Options{
		Valid: []map[string]any{
			{"url": "https://example.com/hook"},
			{"target": "ci", "method": "PUT", "body": []any{"{{.JobName}}", 1.0, nil, true}},
			{"url": "http://[::1]:8080/?a=b", "method": "GET", "expected_status": []any{"2xx", "404", "300-310"}},
			{"url": "https://example.com", "headers": map[string]any{"X-Team": "a", "x-author": "b", "Ce-Id": "c", "content-type": "application/cloudevents+json"}},
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{}, Field: "url"},
			{Params: map[string]any{"url": "https://example.com", "target": "ci"}, Field: "url"},
			{Params: map[string]any{"url": "ftp://example.com"}, Field: "url"},
			{Params: map[string]any{"url": "https://"}, Field: "url"},
			{Params: map[string]any{"url": "https://:443/"}, Field: "url"},
			{Params: map[string]any{"url": "https://example.com:port/"}, Field: "url"},
			{Params: map[string]any{"url": "https://user:password@example.com"}, Field: "url"},
			{Params: map[string]any{"url": "https://example.com/#top"}, Field: "url"},
			{Params: map[string]any{"url": "https://example.com/a b"}, Field: "url"},
			{Params: map[string]any{"target": "ci", "method": "TRACE"}, Field: "method"},
			{Params: map[string]any{"target": "ci", "method": "GET", "body": map[string]any{}}, Field: "body"},
			{Params: map[string]any{"target": "ci", "body": "text"}, Field: "body"},
			{Params: map[string]any{"target": "ci", "body": map[string]any{"a": []any{"b", "{{.JobName"}}}, Field: "body.a.1"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"Authorization": "Bearer x"}}, Field: "headers.Authorization"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-Api-Key": "x"}}, Field: "headers.X-Api-Key"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-Gitlab-Token": "x"}}, Field: "headers.X-Gitlab-Token"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"Cookie": "x"}}, Field: "headers.Cookie"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"Host": "x"}}, Field: "headers.Host"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"Transfer-Encoding": "x"}}, Field: "headers.Transfer-Encoding"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"x-forwarded-for": "x"}}, Field: "headers.x-forwarded-for"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-Almanac-Signature": "x"}}, Field: "headers.X-Almanac-Signature"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"Idempotency-Key": "x"}}, Field: "headers.Idempotency-Key"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-A:": "x"}}, Field: "headers.X-A:"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-A": "x\r\nX-B: y"}}, Field: "headers.X-A"},
			{Params: map[string]any{"target": "ci", "headers": map[string]any{"X-A": "1", "x-a": "2"}}, Field: "headers.x-a"},
			{Params: map[string]any{"target": "ci", "expected_status": []any{}}, Field: "expected_status"},
			{Params: map[string]any{"target": "ci", "expected_status": []any{"100"}}, Field: "expected_status.0"},
			{Params: map[string]any{"target": "ci", "expected_status": []any{"299-200"}}, Field: "expected_status"},
			{Params: map[string]any{"target": "ci", "timeout_seconds": 301.0}, Field: "timeout_seconds"},
			{Params: map[string]any{"target": "ci", "timeout_seconds": 0.0}, Field: "timeout_seconds"},
		},
		Succeed: []map[string]any{
			{"target": "ci"},
			{"url": server.URL, "signing": "ci", "body": map[string]any{"a": "{{.ExecutionID}}"}},
			{"url": server.URL, "method": "GET", "follow_redirects": true},
			{"url": "https://example.com/hook", "dryRun": true},
		},
		Prepare: func(run *template.Run) {
			run.Settings = loopback
			ci := template.Connection{Kind: template.KindWebhook, URI: server.URL + "/ci", Secret: "the-key"}
			templatetest.Connect(run, targetParam, "ci", ci)
			templatetest.Connect(run, signingParam, "ci", ci)
		},
		Settings: []map[string]any{{}, {allowNetworksSetting: []any{"10.0.0.0/8", "fd00::/8"}, allowPortsSetting: []any{443.0, 8443.0}}},
		InvalidSettings: []templatetest.Invalid{
			{Params: map[string]any{allowNetworksSetting: []any{"10.0.0.0/8", "10.0.0.1"}}, Field: allowNetworksSetting + ".1"},
			{Params: map[string]any{allowNetworksSetting: []any{"10.0.0.1/8"}}, Field: allowNetworksSetting + ".0"},
			{Params: map[string]any{allowNetworksSetting: []any{"::ffff:10.0.0.0/104"}}, Field: allowNetworksSetting + ".0"},
			{Params: map[string]any{allowPortsSetting: []any{0.0}}, Field: allowPortsSetting + ".0"},
		},
	})
}

// TestWebhookPortsFailClosed has settings that never passed their schema.
func TestWebhookPortsFailClosed(t *testing.T) {
	if _, err := egressPolicy(map[string]any{allowPortsSetting: []any{"443"}}); err == nil {
		t.Error("a port that cannot be read leaves all ports open")
	}
}

func TestWebhookSends(t *testing.T) {
	server := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "r-1")
		w.Header().Set("Set-Cookie", "secret=1")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"queued": true}`)
	})
	run, recorder := newWebhookRun(map[string]any{
		"url":     server.URL + "/hook?a=b",
		"method":  "PUT",
		"headers": map[string]any{"x-team": "platform"},
		"data":    map[string]any{"branch": "main", "n": 3.0, "tags": []any{"a<b", "c"}},
		"body": map[string]any{
			"job": "{{.JobName}} ({{.JobID}})", "execution": "{{.ExecutionID}}", "due": "{{.ScheduledFor}}",
			"day": `{{.ScheduledFor.Format "02.01.2006 15h"}}`, "branch": "{{upper .Data.branch}}", "all": "{{json .Data.tags}}",
			"as is": []any{1.5, true, nil, map[string]any{"n": "{{.Data.n}}"}},
		},
	})
	run.Zone = time.FixedZone("CEST", 2*3600)
	result, err := webhookTrigger{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	request := server.only(t)
	if request.method != "PUT" || request.path != "/hook?a=b" {
		t.Errorf("%s %s", request.method, request.path)
	}
	for name, want := range map[string]string{
		"X-Team": "platform", "Content-Type": "application/json", "User-Agent": "Almanac", idempotencyHeader: "exec_test",
		signatureHeader: "", timestampHeader: "", "Authorization": "", "Cookie": "",
	} {
		if got := request.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := `{"all":"[\"a<b\",\"c\"]","as is":[1.5,true,null,{"n":"3"}],"branch":"MAIN","day":"19.10.2025 04h",` +
		`"due":"2025-10-19T04:00:00+02:00","execution":"exec_test","job":"Test (job_test)"}`
	if request.body != want {
		t.Errorf("sent %s\nwant %s", request.body, want)
	}
	wantResult := template.Result{
		"message": server.URL + "/hook?a=b answered 201", "status": 201, "body": `{"queued": true}`, "body_truncated": false,
		"headers": map[string]any{"Content-Type": "text/plain; charset=utf-8", "X-Request-Id": "r-1"},
	}
	if !reflect.DeepEqual(result, wantResult) {
		t.Errorf("result %v\nwant   %v", result, wantResult)
	}
	if lines := recorder.Lines(); len(lines) != 2 || !strings.HasPrefix(lines[0], "INFO Sending PUT "+server.URL) || !strings.HasSuffix(lines[0], "unsigned") {
		t.Errorf("log: %q", lines)
	}
}

func TestWebhookWithoutBody(t *testing.T) {
	event := `{"data":{"a":1},"execution_id":"exec_test","job_id":"job_test","job_name":"Test","scheduled_for":"2025-10-19T02:00:00Z","triggered_by":"manual"}`
	for method, want := range map[string]string{"POST": event, "PUT": event, "PATCH": event, "DELETE": "", "GET": "", "HEAD": ""} {
		server := newReceiver(t, nil)
		run, _ := newWebhookRun(map[string]any{"url": server.URL, "method": method, "data": map[string]any{"a": 1.0}})
		if _, err := (webhookTrigger{}).Execute(t.Context(), run); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		if got := server.only(t); got.method != method || got.body != want || (got.header.Get("Content-Type") != "") != (want != "") {
			t.Errorf("%s: %+v", method, got)
		}
	}
}

// TestWebhookSignature checks as a receiver would, from the documentation alone.
func TestWebhookSignature(t *testing.T) {
	server := newReceiver(t, nil)
	address := server.URL + "/secret-path"
	for _, c := range []struct {
		name        string
		params      map[string]any
		target, key string
	}{
		{"the target's secret", map[string]any{"target": "ci"}, "target-key", "target-key"},
		{"a secret of its own", map[string]any{"target": "ci", "signing": "keys"}, "target-key", "signing-key"},
		{"an address in the parameters", map[string]any{"url": address, "signing": "keys"}, "target-key", "signing-key"},
		{"no body", map[string]any{"url": address, "signing": "keys", "method": "GET"}, "", "signing-key"},
	} {
		run, recorder := newWebhookRun(c.params)
		templatetest.Connect(run, targetParam, "ci", template.Connection{Kind: template.KindWebhook, URI: address, Secret: c.target})
		templatetest.Connect(run, signingParam, "keys", template.Connection{Kind: template.KindWebhook, Secret: "signing-key"})
		before := len(server.got())
		result, err := webhookTrigger{}.Execute(t.Context(), run)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		request := server.got()[before]
		timestamp := request.header.Get("X-Almanac-Timestamp")
		mac := hmac.New(sha256.New, []byte(c.key))
		fmt.Fprintf(mac, "%s.%s", timestamp, request.body)
		if want := "v1=" + hex.EncodeToString(mac.Sum(nil)); request.header.Get("X-Almanac-Signature") != want {
			t.Errorf("%s: %q, want %q", c.name, request.header.Get("X-Almanac-Signature"), want)
		}
		if at, err := strconv.ParseInt(timestamp, 10, 64); err != nil || at < 1_700_000_000 {
			t.Errorf("%s: timestamp %q", c.name, timestamp)
		}
		told := fmt.Sprint(result, recorder.Lines())
		if _, byTarget := c.params["target"]; byTarget && strings.Contains(told, "secret-path") || strings.Contains(told, "-key") {
			t.Errorf("%s: it tells a secret: %s", c.name, told)
		}
	}
}

// TestSignBody holds one signature against the value that another implementation
// gives (printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac the-key).
func TestSignBody(t *testing.T) {
	header := http.Header{}
	signBody(header, "the-key", []byte(`{"a":1}`), time.Unix(1_700_000_000, 999))
	want := http.Header{
		"X-Almanac-Timestamp": {"1700000000"},
		"X-Almanac-Signature": {"v1=6ee607f6bf04b608989645f9420fd209732286439902bd37ecedef72dc8cf103"},
	}
	if !reflect.DeepEqual(header, want) {
		t.Errorf("%v", header)
	}
}

func TestWebhookDryRun(t *testing.T) {
	server := newReceiver(t, nil)
	run, _ := newWebhookRun(map[string]any{
		"target": "ci", "dryRun": true, "headers": map[string]any{"X-A": "b"}, "body": map[string]any{"k": "{{.JobName}} s3cret"},
	})
	templatetest.Connect(run, targetParam, "ci", template.Connection{Kind: template.KindWebhook, URI: server.URL + "/T0/s3cret", Secret: "s3cret"})
	result, err := webhookTrigger{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	want := template.Result{
		"message": "Would send POST " + server.URL + " with 19 bytes (dry run)",
		"request": map[string]any{
			"method": "POST", "url": server.URL, "signed": true, "body": `{"k":"Test ***"}`,
			"headers": map[string]any{"X-A": "b", "Content-Type": "application/json", "User-Agent": "Almanac", idempotencyHeader: "exec_test"},
		},
	}
	if !reflect.DeepEqual(result, want) {
		t.Errorf("got  %v\nwant %v", result, want)
	}
	if n := len(server.got()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestWebhookConnections(t *testing.T) {
	server := newReceiver(t, nil)
	for _, c := range []struct {
		params     map[string]any
		connection template.Connection
		want       string
	}{
		{map[string]any{"target": "ci"}, template.Connection{Secret: "the-key"}, "the connection ci has no address to send to"},
		{map[string]any{"target": "ci"}, template.Connection{URI: "https://user:the-key@example.com"}, "no user and password"},
		{map[string]any{"target": "other"}, template.Connection{URI: server.URL}, `must be one of "ci"`},
		{map[string]any{"url": server.URL, "signing": "ci"}, template.Connection{URI: server.URL}, "the connection ci has no secret to sign with"},
		{map[string]any{"url": server.URL, "signing": "other"}, template.Connection{Secret: "the-key"}, `must be one of "ci"`},
	} {
		run, _ := newWebhookRun(c.params)
		c.connection.Kind = template.KindWebhook
		templatetest.Connect(run, targetParam, "ci", c.connection)
		templatetest.Connect(run, signingParam, "ci", c.connection)
		_, failure := mustFail(t, webhookTrigger{}, run)
		if failure.Code != template.CodeValidation || failure.Retryable || !strings.Contains(failure.Message, c.want) || strings.Contains(failure.Message, "the-key") {
			t.Errorf("%v: %+v", c.params, failure)
		}
	}
	if n := len(server.got()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestWebhookRefusesAddresses names what must not be reached in every way there is.
func TestWebhookRefusesAddresses(t *testing.T) {
	inside := newReceiver(t, nil)
	port := inside.URL[strings.LastIndexByte(inside.URL, ':'):]
	outside := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
	})
	t.Setenv("HTTP_PROXY", inside.URL) // must not be asked to connect in our place
	for _, c := range []struct {
		address string
		allow   []any
		ports   []any
	}{
		{address: inside.URL},
		{address: "http://localhost" + port},
		{address: "http://[::ffff:127.0.0.1]" + port},
		{address: "http://0.0.0.0" + port},
		{address: "http://[::1]" + port},
		{address: "http://169.254.169.254/latest/meta-data/"},
		{address: "http://[::ffff:169.254.169.254]/latest/meta-data/"},
		{address: "http://[fd00:ec2::254]/latest/meta-data/"},
		{address: "http://10.0.0.1/", allow: []any{"10.1.0.0/16", "127.0.0.0/8"}},
		{address: inside.URL, allow: []any{"127.0.0.0/8"}, ports: []any{443.0}},
		{address: outside.URL + "/?to=http://169.254.169.254/latest/meta-data/", allow: []any{"127.0.0.0/8"}},
		{address: outside.URL + "/?to=http://[fe80::1]/", allow: []any{"127.0.0.0/8"}},
	} {
		run, _ := newWebhookRun(map[string]any{"url": c.address, "follow_redirects": true})
		run.Settings = map[string]any{allowNetworksSetting: c.allow, allowPortsSetting: c.ports}
		result, failure := mustFail(t, webhookTrigger{}, run)
		if failure.Code != template.CodeForbidden || failure.Retryable || !strings.Contains(failure.Message, "are refused: ") ||
			!strings.Contains(failure.Message, "allow_networks") || result != nil {
			t.Errorf("%s: %v, %+v", c.address, result, failure)
		}
	}
	if n := len(inside.got()); n != 0 {
		t.Errorf("%d requests arrived inside", n)
	}
}

func TestWebhookRedirects(t *testing.T) {
	server := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			status, _ := strconv.Atoi(r.URL.Query().Get("status"))
			w.Header().Set("Location", to)
			w.WriteHeader(status)
		}
	})
	for _, c := range []struct {
		name, method, path string
		follow             bool
		status             int // of the answer
		requests           int
	}{
		{"not asked for", "GET", "/?status=302&to=/end", false, 302, 1},
		{"the same method", "GET", "/?status=302&to=/end", true, 200, 2},
		{"the body is kept", "POST", "/?status=307&to=/end", true, 200, 2},
		{"the body would be lost", "POST", "/?status=302&to=/end", true, 302, 1},
		{"credentials in the target", "GET", "/?status=302&to=http://user:password@127.0.0.1/", true, 302, 1},
		{"no HTTP", "GET", "/?status=302&to=file:///etc/passwd", true, 302, 1},
	} {
		before := len(server.got())
		run, _ := newWebhookRun(map[string]any{
			"url": server.URL + c.path, "method": c.method, "follow_redirects": c.follow, "signing": "keys",
			"expected_status": []any{"2xx", "3xx"},
		})
		templatetest.Connect(run, signingParam, "keys", template.Connection{Kind: template.KindWebhook, Secret: "the-key"})
		result, err := webhookTrigger{}.Execute(t.Context(), run)
		if err != nil || result["status"] != c.status {
			t.Errorf("%s: %v, %v", c.name, result, err)
		}
		requests := server.got()[before:]
		if len(requests) != c.requests {
			t.Errorf("%s: %d requests", c.name, len(requests))
		}
		if last := requests[len(requests)-1]; last.header.Get("Referer") != "" || last.header.Get(idempotencyHeader) != "exec_test" ||
			last.body != requests[0].body || last.header.Get(signatureHeader) != requests[0].header.Get(signatureHeader) {
			t.Errorf("%s: the last request was %+v", c.name, last)
		}
	}
	loop := newReceiver(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) })
	run, _ := newWebhookRun(map[string]any{"url": loop.URL, "method": "GET", "follow_redirects": true})
	_, failure := mustFail(t, webhookTrigger{}, run)
	if failure.Code != codeUnexpectedStatus || !strings.Contains(failure.Message, "answered 302 Found to /again") || len(loop.got()) != mostRedirects+1 {
		t.Errorf("%+v after %d requests", failure, len(loop.got()))
	}
}

func TestWebhookAnswers(t *testing.T) {
	for _, c := range []struct {
		status    int
		expected  []any
		header    string // Retry-After
		body      string
		code      string // "" for success
		retryable bool
		message   string
	}{
		{status: 204, code: ""},
		{status: 404, expected: []any{"200", "400-410"}, code: ""},
		{status: 503, expected: []any{"503"}, code: ""},
		{status: 200, expected: []any{"201"}, code: codeUnexpectedStatus, message: "answered 200 OK"},
		{status: 422, body: "  no such branch\n", code: codeUnexpectedStatus, message: "answered 422 Unprocessable Entity: no such branch"},
		{status: 401, body: strings.Repeat("é", 600), code: codeUnexpectedStatus, message: strings.Repeat("é", maxQuoted-1) + "…"},
		{status: 500, code: codeUnexpectedStatus, retryable: true, message: "answered 500 Internal Server Error"},
		{status: 501, code: codeUnexpectedStatus},
		{status: 502, code: codeUnexpectedStatus, retryable: true},
		{status: 522, code: codeUnexpectedStatus, retryable: true, message: "answered 522"},
		{status: 408, code: codeUnexpectedStatus, retryable: true},
		{status: 429, header: "120", code: codeRateLimited, retryable: true, message: "429 Too Many Requests, to be tried again after 120 s"},
		{status: 503, header: "3600", code: codeUnexpectedStatus, retryable: true, message: "after 3600 s"},
	} {
		server := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		params := map[string]any{"url": server.URL}
		if c.expected != nil {
			params["expected_status"] = c.expected
		}
		run, _ := newWebhookRun(params)
		result, err := webhookTrigger{}.Execute(t.Context(), run)
		failure := template.AsError(err)
		switch {
		case result["status"] != c.status:
			t.Errorf("%d: result %v", c.status, result)
		case c.code == "" && err != nil:
			t.Errorf("%d: %v", c.status, err)
		case c.code != "" && (failure == nil || failure.Code != c.code || failure.Retryable != c.retryable || !strings.Contains(failure.Message, c.message)):
			t.Errorf("%d: %+v", c.status, failure)
		}
		server.only(t)
	}
}

func TestWebhookKeepsTheBeginningOfAnAnswer(t *testing.T) {
	server := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", strings.Repeat("e", 5000))
		for range 64 {
			_, _ = w.Write([]byte(strings.Repeat("x", 16<<10)))
		}
	})
	run, _ := newWebhookRun(map[string]any{"url": server.URL})
	result, err := webhookTrigger{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := result["body"].(string)
	headers, _ := result["headers"].(map[string]any)
	etag, _ := headers["Etag"].(string)
	if len(body) != 64<<10 || result["body_truncated"] != true || len([]rune(etag)) != maxAnswerHeader {
		t.Errorf("%d bytes, %v, etag of %d", len(body), result["body_truncated"], len(etag))
	}
	binary := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{0xff, 'a', 0xc0}) })
	run, _ = newWebhookRun(map[string]any{"url": binary.URL})
	if result, err := (webhookTrigger{}).Execute(t.Context(), run); err != nil || result["body"] != "\uFFFDa\uFFFD" {
		t.Errorf("%q, %v", result["body"], err)
	}
}

func TestWebhookUnreachable(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler()) // its certificate is nobody's
	t.Cleanup(secure.Close)
	broken := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	})
	for _, c := range []struct {
		address   string
		retryable bool
		message   string
	}{
		{closed.URL, true, "connection refused"},
		{secure.URL, false, "certificate"},
		{broken.URL, true, "reading the answer"},
	} {
		run, _ := newWebhookRun(map[string]any{"url": c.address, "timeout_seconds": 20.0})
		result, failure := mustFail(t, webhookTrigger{}, run)
		if failure.Code != template.CodeConnection || failure.Retryable != c.retryable || !strings.Contains(failure.Message, c.message) || result != nil {
			t.Errorf("%s: %v, %+v", c.address, result, failure)
		}
	}
}

// TestWebhookTimeout has a server that never answers.
func TestWebhookTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run, _ := newWebhookRun(map[string]any{"url": "http://example.com", "timeout_seconds": 12.5})
		begun := time.Now()
		_, err := prepared(t, run).sendBy(t.Context(), silent{}, run.Report)
		failure := template.AsError(err)
		if failure == nil || failure.Code != template.CodeTimeout || !failure.Retryable || failure.Message != "http://example.com gave no full answer within 12.5s" {
			t.Errorf("%+v", failure)
		}
		if took := time.Since(begun); took != 12500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		// The run's own time counts as the run's.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = prepared(t, run).sendBy(ctx, silent{}, run.Report)
		if failure := template.AsError(err); failure == nil || failure.Code != template.CodeTimeout || failure.Message != "the run's time is over" {
			t.Errorf("%+v", failure)
		}
	})
}

// silent is a transport that never answers.
type silent struct{}

func (silent) RoundTrip(request *http.Request) (*http.Response, error) {
	<-request.Context().Done()
	return nil, request.Context().Err()
}

// prepared returns the request that a run would send.
func prepared(t *testing.T, run *template.Run) *httpRequest {
	t.Helper()
	w, err := parseWebhook(run.Params)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := w.request(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestWebhookIsCancelled cancels while a server thinks.
func TestWebhookIsCancelled(t *testing.T) {
	arrived := make(chan struct{})
	server := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	run, _ := newWebhookRun(map[string]any{"url": server.URL})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := webhookTrigger{}.Execute(ctx, run)
	if failure := template.AsError(err); failure == nil || failure.Code != template.CodeCancelled {
		t.Errorf("%+v", failure)
	}
}

// tries is a transport that answers as told, one entry for each try: a status,
// or an error.
type tries struct {
	answers []any
	after   string // Retry-After
	at      []time.Time
	bodies  []string
}

func (s *tries) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	s.at, s.bodies = append(s.at, time.Now()), append(s.bodies, string(body))
	answer := s.answers[min(len(s.at), len(s.answers))-1]
	if err, ok := answer.(error); ok {
		return nil, err
	}
	response := &http.Response{StatusCode: answer.(int), Status: strconv.Itoa(answer.(int)), Header: http.Header{}, Body: http.NoBody, Request: request}
	if s.after != "" {
		response.Header.Set("Retry-After", s.after)
	}
	return response, nil
}

func TestWebhookTriesAgain(t *testing.T) {
	unreachable := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		name    string
		answers []any
		after   string
		pauses  []time.Duration // between tries
		code    string
	}{
		{"not delivered at first", []any{unreachable, 200}, "", []time.Duration{firstPause}, ""},
		{"never delivered", []any{unreachable}, "", []time.Duration{firstPause, 2 * firstPause}, template.CodeConnection},
		{"no name server answers at first", []any{&net.DNSError{Err: "server misbehaving", IsTemporary: true}, 200}, "", []time.Duration{firstPause}, ""},
		{"no such host", []any{&net.DNSError{Err: "no such host", IsNotFound: true}, 200}, "", nil, template.CodeConnection},
		{"refused by the policy", []any{&net.OpError{Op: "dial", Err: &egress.RefusedError{Reason: "no"}}, 200}, "", nil, template.CodeForbidden},
		{"put off", []any{429, 503, 200}, "2", []time.Duration{2 * time.Second, 2 * time.Second}, ""},
		{"put off without saying until when", []any{503}, "", []time.Duration{firstPause, 2 * firstPause}, codeUnexpectedStatus},
		{"put off for long", []any{429, 200}, "6", nil, codeRateLimited},
		{"an error of the server", []any{500, 200}, "", nil, codeUnexpectedStatus},
		{"sent, but not answered", []any{io.ErrUnexpectedEOF, 200}, "", nil, template.CodeConnection},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := &tries{answers: c.answers, after: c.after}
			run, recorder := newWebhookRun(map[string]any{"url": "http://example.com"})
			_, err := prepared(t, run).sendBy(t.Context(), transport, run.Report)
			if failure := template.AsError(err); failure == nil && c.code != "" || failure != nil && failure.Code != c.code {
				t.Errorf("%s: %+v", c.name, failure)
			}
			var pauses []time.Duration
			for i := 1; i < len(transport.at); i++ {
				pauses = append(pauses, transport.at[i].Sub(transport.at[i-1]))
				if transport.bodies[i] != transport.bodies[0] || transport.bodies[i] == "" {
					t.Errorf("%s: bodies %q", c.name, transport.bodies)
				}
			}
			if !slices.Equal(pauses, c.pauses) {
				t.Errorf("%s: pauses %v, want %v", c.name, pauses, c.pauses)
			}
			if lines := recorder.Lines(); len(lines) != len(c.pauses) || len(lines) > 0 && !strings.HasPrefix(lines[0], "WARN Try 2 of 3, for the one before: ") {
				t.Errorf("%s: log %q", c.name, lines)
			}
		})
	}
}

// TestWebhookPauseEndsWithTheRun cancels between two tries.
func TestWebhookPauseEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		run, _ := newWebhookRun(map[string]any{"url": "http://example.com"})
		r := prepared(t, run)
		transport := &tries{answers: []any{503}, after: "5"}
		done := make(chan error, 1)
		go func() {
			_, err := r.sendBy(ctx, transport, run.Report)
			done <- err
		}()
		synctest.Wait() // it pauses
		cancel(nil)
		if failure := template.AsError(<-done); failure == nil || failure.Code != template.CodeCancelled || len(transport.at) != 1 {
			t.Errorf("%+v after %d tries", failure, len(transport.at))
		}
	})
}

func TestWebhookTemplatesThatFail(t *testing.T) {
	server := newReceiver(t, nil)
	for text, want := range map[string]string{
		"{{.Nope}}": "can't evaluate field Nope",
		`{{range .Data.many}}{{range $.Data.many}}{{range $.Data.many}}{{$.Data.text}}{{end}}{{end}}{{end}}`: "too long",
	} {
		many := make([]any, 200)
		run, _ := newWebhookRun(map[string]any{
			"url": server.URL, "body": map[string]any{"a": []any{text}},
			"data": map[string]any{"many": many, "text": strings.Repeat("x", 1000)},
		})
		_, failure := mustFail(t, webhookTrigger{}, run)
		if failure.Code != template.CodeValidation || !strings.HasPrefix(failure.Message, "body.a.0: ") || !strings.Contains(failure.Message, want) {
			t.Errorf("%s: %+v", text, failure)
		}
	}
	if n := len(server.got()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestWebhookBodyIsStable makes the same body again, whatever order maps have.
func TestWebhookBodyIsStable(t *testing.T) {
	body := map[string]any{}
	for i := range 50 {
		body[strconv.Itoa(i)] = "{{.ScheduledFor}}"
	}
	var first string
	for attempt := 1; attempt <= 5; attempt++ {
		run, _ := newWebhookRun(map[string]any{"url": "http://example.com", "body": body})
		run.Attempt = attempt
		r := prepared(t, run)
		if first == "" {
			first = string(r.body)
		}
		if string(r.body) != first || !json.Valid(r.body) {
			t.Fatalf("attempt %d: %s", attempt, r.body)
		}
	}
}
