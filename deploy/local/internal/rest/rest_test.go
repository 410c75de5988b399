package rest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// canned answers every request alike and keeps the last one.
type canned struct {
	status  int
	body    string
	request *http.Request
	sent    string
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	c.request, c.sent = r, string(text)
	w.WriteHeader(c.status)
	_, _ = io.WriteString(w, c.body)
}

func serve(t *testing.T, c *canned) *Client {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return &Client{Base: server.URL, Token: "secret"}
}

func TestRequests(t *testing.T) {
	c := &canned{status: http.StatusCreated, body: `{"job": {"id": "job_1", "version": 3}, "message": "Job created successfully"}`}
	client := serve(t, c)
	job, err := client.CreateJob(t.Context(), Object{"name": "a"})
	if err != nil || job.ID != "job_1" || job.Version != 3 {
		t.Errorf("%+v, %v", job, err)
	}
	if c.request.Method != http.MethodPost || c.request.URL.Path != Jobs || c.sent != `{"name":"a"}` ||
		c.request.Header.Get("Authorization") != "Bearer secret" || c.request.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s %s %v", c.request.Method, c.request.URL, c.sent, c.request.Header)
	}
	if err := client.Do(t.Context(), http.MethodPut, "/x", http.Header{"If-Match": {`"3"`}}, nil, nil); err != nil || c.request.Header.Get("If-Match") != `"3"` || c.sent != "" {
		t.Errorf("%v, %v, %q", err, c.request.Header, c.sent)
	}
	if err := client.Ready(t.Context()); err != nil || c.request.Header.Get("Authorization") != "" {
		t.Errorf("a probe carries no token: %v, %v", err, c.request.Header)
	}
}

func TestFailures(t *testing.T) {
	c := &canned{status: http.StatusBadRequest, body: `{"code": 3, "message": "name: is required", "details": [
		{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "name", "description": "is required"}]}]}`}
	client := serve(t, c)
	_, err := client.CreateJob(t.Context(), Object{})
	var failure *Error
	if !errors.As(err, &failure) || failure.Status != http.StatusBadRequest || failure.Code != 3 || failure.Message != "name: is required" || failure.Violations()["name"] != "is required" {
		t.Errorf("%+v", err)
	}
	c.status, c.body = http.StatusBadGateway, "<html>"
	if err := client.Cancel(t.Context(), "exec_1"); !errors.As(err, &failure) || failure.Status != http.StatusBadGateway || failure.Body != "<html>" || !strings.Contains(err.Error(), "502") {
		t.Errorf("%v", err)
	}
	c.status = http.StatusOK
	if _, err := client.ListJobs(t.Context()); err == nil || !strings.Contains(err.Error(), "<html>") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
	if err := client.Do(t.Context(), http.MethodPost, "/", nil, func() {}, nil); err == nil {
		t.Error("a body that is no JSON was sent")
	}
	if err := (&Client{Base: "http://127.0.0.1:1"}).Ready(t.Context()); err == nil {
		t.Error("nobody is ready")
	}
}

func TestOver(t *testing.T) {
	for status, want := range map[string]bool{"pending": false, "running": false, "retrying": false, "success": true, "unknown": true, "skipped": true} {
		if got := (Execution{Status: status}).Over(); got != want {
			t.Errorf("%s: %v", status, got)
		}
	}
}
