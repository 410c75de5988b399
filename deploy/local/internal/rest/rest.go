// Package rest is a small client of the registry's REST API, as a person with
// curl would use it: nothing but net/http and JSON.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Client talks to one registry as one user. Safe for concurrent use.
type Client struct {
	// Base is the registry's address, such as http://127.0.0.1:8080.
	Base string
	// Token is sent as a bearer credential unless it is empty.
	Token string
}

// Error is an answer that tells of a failure.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code and Message are those of the google.rpc.Status in the body, if it is one.
	Code    int
	Message string
	// Details are its details, as JSON objects.
	Details []map[string]any
	// Body is the whole body.
	Body string
}

// Error gives the status and the body.
func (e *Error) Error() string { return fmt.Sprintf("HTTP %d: %s", e.Status, e.Body) }

// Violations returns the violated fields and what is said of each.
func (e *Error) Violations() map[string]string {
	violations := map[string]string{}
	for _, detail := range e.Details {
		listed, _ := detail["fieldViolations"].([]any)
		if listed == nil {
			listed, _ = detail["field_violations"].([]any)
		}
		for _, one := range listed {
			violation, _ := one.(map[string]any)
			field, _ := violation["field"].(string)
			description, _ := violation["description"].(string)
			violations[field] = description
		}
	}
	return violations
}

// Object is a JSON object.
type Object = map[string]any

// Job is what the API shows of a job.
type Job struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	TemplateType string     `json:"template_type"`
	Parameters   Object     `json:"parameters"`
	Schedule     Object     `json:"schedule"`
	Enabled      bool       `json:"enabled"`
	LastRunAt    *time.Time `json:"last_run_at"`
	NextRunAt    *time.Time `json:"next_run_at"`
	Version      int        `json:"version"`
}

// Execution is what the API shows of an execution.
type Execution struct {
	ID              string     `json:"id"`
	JobID           string     `json:"job_id"`
	JobName         string     `json:"job_name"`
	Status          string     `json:"status"`
	ScheduledFor    *time.Time `json:"scheduled_for"`
	StartedAt       *time.Time `json:"started_at"`
	CompletedAt     *time.Time `json:"completed_at"`
	DurationSeconds *float64   `json:"duration_seconds"`
	Result          Object     `json:"result"`
	Error           *string    `json:"error"`
	ErrorCode       *string    `json:"error_code"`
	Attempts        []Attempt  `json:"attempts"`
	TriggeredBy     string     `json:"triggered_by"`
	TriggeredByUser *string    `json:"triggered_by_user"`
	ExecutionHost   *string    `json:"execution_host"`
	Reason          *string    `json:"reason"`
	// Notifications are there where one execution is asked for, not in lists.
	Notifications []Notification `json:"notifications"`
}

// Notification is an execution that tells somebody of another one's end.
type Notification struct {
	ExecutionID  string  `json:"execution_id"`
	Event        string  `json:"event"`
	TemplateType string  `json:"template_type"`
	Status       string  `json:"status"`
	Error        *string `json:"error"`
}

// Over says whether the execution has reached its end.
func (e Execution) Over() bool {
	switch e.Status {
	case "pending", "running", "retrying":
		return false
	default:
		return true
	}
}

// Attempt is one try at an execution.
type Attempt struct {
	Number        int        `json:"number"`
	Status        string     `json:"status"`
	StartedAt     *time.Time `json:"started_at"`
	CompletedAt   *time.Time `json:"completed_at"`
	Error         *string    `json:"error"`
	ErrorCode     *string    `json:"error_code"`
	ExecutionHost *string    `json:"execution_host"`
}

// LogLine is a line that a run wrote.
type LogLine struct {
	Timestamp time.Time `json:"timestamp"`
	Level     string    `json:"level"`
	Message   string    `json:"message"`
}

// Worker is what the API shows of an executor.
type Worker struct {
	ID                 string            `json:"id"`
	Host               string            `json:"host"`
	Version            string            `json:"version"`
	Labels             map[string]string `json:"labels"`
	Templates          []string          `json:"templates"`
	Slots              int               `json:"slots"`
	Running            int               `json:"running"`
	Load               float64           `json:"load"`
	Status             string            `json:"status"`
	Draining           bool              `json:"draining"`
	ConnectedAt        *time.Time        `json:"connected_at"`
	LastBeatAt         *time.Time        `json:"last_beat_at"`
	LastBeatAgeSeconds *float64          `json:"last_beat_age_seconds"`
}

// Do sends a request with body as JSON (nil sends none) and decodes the answer,
// if there is a place for it. The answer's status is an *Error unless it is 2xx.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, body, answer any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.Base+path, content)
	if err != nil {
		return err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode/100 != 2 {
		failure := &Error{Status: response.StatusCode, Body: string(text)}
		_ = json.Unmarshal(text, failure) // a body of another form is kept as text
		return failure
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: answer %q: %w", method, path, text, err)
	}
	return nil
}

// Paths: the specification's, then ours.
const (
	Jobs       = "/api/admin/scheduler-jobs"
	Templates  = "/api/admin/job-templates"
	Executions = "/api/admin/job-executions"

	Workers    = "/api/admin/workers"
	Registries = "/api/admin/registries"
)

// CreateJob creates a job.
func (c *Client) CreateJob(ctx context.Context, job Object) (Job, error) {
	var answer struct{ Job Job }
	err := c.Do(ctx, http.MethodPost, Jobs, nil, job, &answer)
	return answer.Job, err
}

// UpdateJob changes what is in changes.
func (c *Client) UpdateJob(ctx context.Context, id string, changes Object) (Job, error) {
	var answer struct{ Job Job }
	err := c.Do(ctx, http.MethodPut, Jobs+"/"+id, nil, changes, &answer)
	return answer.Job, err
}

// ListJobs returns the first hundred jobs.
func (c *Client) ListJobs(ctx context.Context) ([]Job, error) {
	var answer struct{ Jobs []Job }
	err := c.Do(ctx, http.MethodGet, Jobs+"?limit=100", nil, nil, &answer)
	return answer.Jobs, err
}

// RunJob starts a run now and returns the execution's id.
func (c *Client) RunJob(ctx context.Context, id string) (string, error) {
	var answer struct {
		ExecutionID string `json:"execution_id"`
	}
	err := c.Do(ctx, http.MethodPost, Jobs+"/"+id+"/run", nil, nil, &answer)
	return answer.ExecutionID, err
}

// Execution returns an execution and its log.
func (c *Client) Execution(ctx context.Context, id string) (Execution, []LogLine, error) {
	var answer struct {
		Execution Execution
		Logs      []LogLine
	}
	err := c.Do(ctx, http.MethodGet, Executions+"/"+id, nil, nil, &answer)
	return answer.Execution, answer.Logs, err
}

// ListExecutions returns the latest 500 executions of a job, latest first.
func (c *Client) ListExecutions(ctx context.Context, job string) ([]Execution, error) {
	var answer struct{ Executions []Execution }
	err := c.Do(ctx, http.MethodGet, Jobs+"/"+job+"/executions?limit=500", nil, nil, &answer)
	return answer.Executions, err
}

// Cancel cancels an execution.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.Do(ctx, http.MethodPost, Executions+"/"+id+"/cancel", nil, Object{}, nil)
}

// ListWorkers returns the executors that live.
func (c *Client) ListWorkers(ctx context.Context) ([]Worker, error) {
	var answer struct{ Workers []Worker }
	err := c.Do(ctx, http.MethodGet, Workers, nil, nil, &answer)
	return answer.Workers, err
}

// Ready returns nil when the registry says that it works.
func (c *Client) Ready(ctx context.Context) error {
	return (&Client{Base: c.Base}).Do(ctx, http.MethodGet, "/readyz", nil, nil, nil)
}
