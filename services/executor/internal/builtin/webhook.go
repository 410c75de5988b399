package builtin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// webhookTrigger makes one HTTP request.
type webhookTrigger struct{}

func (webhookTrigger) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "webhook_trigger",
		Version: 1,
		Name:    "Webhook Trigger",
		Description: "Make an HTTP request with a JSON body, signed on wish. It may arrive more than once, " +
			"always with the execution's id in the header Idempotency-Key, by which receivers know it",
		Category:          "integration",
		Icon:              "🪝",
		EstimatedDuration: "under 30 seconds",
		ResourceUsage:     "low",
		RiskLevel:         "medium",
		// By the Idempotency-Key a receiver knows what arrives again.
		Idempotent:  true,
		Connections: map[string]string{targetParam: template.KindWebhook, signingParam: template.KindWebhook},
	}
}

const (
	targetParam  = "target"
	signingParam = "signing"

	defaultTimeoutSeconds = 30
	maxTimeoutSeconds     = 300
	maxRequestBytes       = 1 << 20 // of a rendered body
	maxHeaders            = 30
	defaultExpected       = "2xx"
)

// Methods, and those that have a body.
var (
	webhookMethods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet, http.MethodHead}
	bodyMethods    = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
)

func (webhookTrigger) Schema() map[string]any {
	methods := make([]any, len(webhookMethods))
	for i, m := range webhookMethods {
		methods[i] = m
	}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{"method", "url", targetParam, "body", template.DryRunParam},
		"properties": map[string]any{
			"url": map[string]any{
				"type":        "string",
				"description": "Address to call, without credentials; either this or target is required",
				"pattern":     "^https?://[^\\s]+$",
				"maxLength":   2000,
				"examples":    []any{"https://ci.example.com/hooks/deploy"},
			},
			targetParam: map[string]any{
				"type":        "string",
				"description": "Connection that holds the address, in place of url: for addresses that are secret themselves. Its secret, if it has one, signs the request",
				"minLength":   1,
			},
			signingParam: map[string]any{
				"type": "string",
				"description": "Connection whose secret signs the request; none, and no secret of target, leaves it unsigned. " +
					"A signed request has X-Almanac-Timestamp, the seconds since 1970 at which it was signed, and X-Almanac-Signature: v1= and " +
					"the hexadecimal HMAC-SHA256, with the secret as key, of the timestamp, a full stop and the bytes of the body. " +
					"Receivers compute the same, compare in constant time, and refuse timestamps that are more than 5 minutes off",
				"minLength": 1,
			},
			"method": map[string]any{
				"type":        "string",
				"description": "Method of the request",
				"enum":        methods,
				"default":     http.MethodPost,
			},
			"headers": map[string]any{
				"type": "object",
				"description": "Further headers by name, such as {\"Accept\": \"text/plain\"}. Permitted are Accept, Accept-Language, Content-Language, Content-Type, If-Match, " +
					"If-None-Match, Prefer, Traceparent, Tracestate, User-Agent, and names that begin with X- or Ce- unless they hold credentials or concern the way here; " +
					"credentials belong into connections",
				"maxProperties": maxHeaders,
				"additionalProperties": map[string]any{
					"type": "string", "description": "Value of the header", "maxLength": 1000, "pattern": "^[\\x20-\\x7e]*$",
				},
				"examples": []any{map[string]any{"X-Team": "platform"}},
			},
			"body": map[string]any{
				"type": []any{"object", "array"},
				"description": "JSON to send with POST, PUT, PATCH or DELETE. Every text within is a Go template over {{.JobID}}, {{.JobName}}, {{.ExecutionID}}, {{.ScheduledFor}} " +
					"(RFC 3339, in the job's zone; {{.ScheduledFor.Format \"2006-01-02\"}} for other forms), {{.TriggeredBy}}, {{.Organisation}} and {{.Data}}, with the functions json, lower, upper and trim. " +
					"A missing key of the data is an error; {{with index .Data \"key\"}}{{.}}{{end}} asks for one that may be missing. POST, PUT and PATCH without it send job_id, job_name, execution_id, scheduled_for, triggered_by and data",
				"examples": []any{map[string]any{"ref": "main", "reason": "{{.JobName}} of {{.ScheduledFor}}"}},
			},
			"data": map[string]any{
				"type":        "object",
				"description": "Values for the body's templates, as {{.Data.name}}",
				"examples":    []any{map[string]any{"branch": "main"}},
			},
			"expected_status": map[string]any{
				"type":        "array",
				"description": `Statuses that mean success: such as "204", ranges such as "200-299", or classes such as "2xx"; any other fails the run`,
				"items":       map[string]any{"type": "string", "pattern": "^[2-5]([0-9]{2}(-[2-5][0-9]{2})?|xx)$"},
				"minItems":    1,
				"maxItems":    20,
				"default":     []any{defaultExpected},
			},
			"follow_redirects": map[string]any{
				"type":        "boolean",
				"description": "Whether up to 5 redirects are followed, each to a permitted address, none from https to http, and none that changes the method; one that is not followed is the answer",
				"default":     false,
			},
			"timeout_seconds": map[string]any{
				"type":        "number",
				"description": "What the whole exchange may take, in seconds, with the at most two repetitions of a request that could not be delivered or was put off (429, 503) for at most 5 seconds",
				"minimum":     1,
				"maximum":     maxTimeoutSeconds,
				"default":     defaultTimeoutSeconds,
			},
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Put the request together and show it, but send nothing",
				"default":     false,
			},
		},
	}
}

func (webhookTrigger) ResultSchema() map[string]any {
	texts := func(about string) map[string]any {
		return map[string]any{"type": "object", "description": about, "additionalProperties": map[string]any{"type": "string"}}
	}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message"},
		"properties": map[string]any{
			"message": map[string]any{"type": "string", "description": "What was answered, or would be sent"},
			"status":  map[string]any{"type": "integer", "description": "Status of the answer, also of one that was not expected"},
			"headers": texts("Headers of the answer: " + strings.Join(keptHeaders, ", ")),
			"body":    map[string]any{"type": "string", "description": "Body of the answer, at most 64 KiB of it"},
			"body_truncated": map[string]any{
				"type": "boolean", "description": "Whether the body of the answer went on",
			},
			"request": map[string]any{
				"type":                 "object",
				"description":          "In a dry run, what would be sent",
				"additionalProperties": false,
				"properties": map[string]any{
					"method":  map[string]any{"type": "string", "description": "Method"},
					"url":     map[string]any{"type": "string", "description": "Address; of a connection's only the host"},
					"headers": texts("Headers, but for the signature's"),
					"signed":  map[string]any{"type": "boolean", "description": "Whether it would be signed"},
					"body":    map[string]any{"type": "string", "description": "Body"},
				},
			},
		},
	}
}

func (webhookTrigger) Examples() []template.Example {
	return []template.Example{
		{Title: "Start a build with the address that a connection holds, signed with that connection's secret", Params: map[string]any{
			targetParam: "ci",
			"body":      map[string]any{"ref": "{{.Data.branch}}", "reason": "{{.JobName}}, due {{.ScheduledFor}}"},
			"data":      map[string]any{"branch": "main"},
		}},
		{Title: "Report each run to a public address, signed with a key of its own", Params: map[string]any{
			"url": "https://hooks.example.com/almanac", signingParam: "hooks",
		}},
		{Title: "Fail when a page does not answer with 200 within 5 seconds", Params: map[string]any{
			"url": "https://www.example.com/health", "method": "GET", "expected_status": []any{"200"}, "timeout_seconds": 5,
		}},
	}
}

func (webhookTrigger) SettingsSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			allowNetworksSetting: allowNetworksSchema(),
			allowPortsSetting:    allowPortsSchema(),
		},
	}
}

func (webhookTrigger) ValidateSettings(settings map[string]any) error {
	_, err := egressPolicy(settings)
	return err
}

func (webhookTrigger) ValidateParams(params map[string]any) error {
	_, err := parseWebhook(params)
	return err
}

// webhook is what the parameters of a webhookTrigger say.
type webhook struct {
	url      *url.URL // nil when a connection has it
	method   string
	headers  http.Header
	body     any // nil for none
	data     map[string]any
	expected statuses
	redirect int
	timeout  time.Duration
}

// parseWebhook reads parameters that have passed the schema. The error is nil or
// a *template.ParamsError.
func parseWebhook(params map[string]any) (webhook, error) {
	w := webhook{method: http.MethodPost, headers: http.Header{}, timeout: defaultTimeoutSeconds * time.Second}
	address, byURL := params["url"].(string)
	_, byTarget := params[targetParam].(string)
	switch {
	case byURL == byTarget:
		return w, template.BadParam("url", "or %s is required, and only one of them", targetParam)
	case byURL:
		var err error
		if w.url, err = parseAddress(address); err != nil {
			return w, template.BadParam("url", "%v", err)
		}
	}
	if method, ok := params["method"].(string); ok {
		w.method = method
	}
	given, _ := params["headers"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if why := headerRefused(name); why != "" {
			return w, template.BadParam("headers."+name, "%s", why)
		}
		if w.headers.Values(name) != nil {
			return w, template.BadParam("headers."+name, "is given twice: drop one of them")
		}
		value, _ := given[name].(string)
		w.headers.Set(name, value)
	}
	w.data, _ = params["data"].(map[string]any)
	if w.body = params["body"]; w.body != nil {
		if !slices.Contains(bodyMethods, w.method) {
			return w, template.BadParam("body", "cannot be sent with %s: remove it, or use one of %s", w.method, strings.Join(bodyMethods, ", "))
		}
		if err := eachText("body", w.body, func(text string) error {
			_, err := parseBodyText(text)
			return err
		}); err != nil {
			return w, err
		}
	}
	words := []string{defaultExpected}
	if given, ok := params["expected_status"].([]any); ok {
		words = nil
		for _, word := range given {
			text, _ := word.(string)
			words = append(words, text)
		}
	}
	var err error
	if w.expected, err = parseStatuses(words); err != nil {
		return w, template.BadParam("expected_status", "%v", err)
	}
	if follow, _ := params["follow_redirects"].(bool); follow {
		w.redirect = mostRedirects
	}
	if seconds, ok := params["timeout_seconds"].(float64); ok {
		w.timeout = time.Duration(seconds * float64(time.Second))
	}
	return w, nil
}

// parseAddress accepts the addresses that may be called. The error continues the
// sentence that begins with the field.
func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("must be an address such as https://host/path")
	case u.User != nil:
		return nil, errors.New("must have no user and password: they belong into a connection")
	case u.Fragment != "":
		return nil, errors.New("must have no #fragment: it would not be sent")
	}
	return u, nil
}

var (
	headerForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)
	// What parameters may set beside names that begin with X- or Ce-.
	headersPermitted = []string{
		"Accept", "Accept-Language", "Content-Language", "Content-Type", "If-Match", "If-None-Match", "Prefer", "Traceparent", "Tracestate", "User-Agent",
	}
	// Parts of names that hold credentials, which anybody who reads a job would see.
	headerCredentials = regexp.MustCompile(`(?i)((^|-)auth(-|$)|authoriz|authentic|token|secret|passw|credential|session|cookie|signature|apikey|accesskey|-key$)`)
	// What servers believe of proxies, and ours.
	headerReserved = regexp.MustCompile(`(?i)^(idempotency-key$|x-(almanac|forwarded|real-ip|client-ip|original|rewrite|http-method|method-override|proxy|envoy|aws-ec2-metadata|remote|cluster-client))`)
)

// headerRefused says why a header must not come from parameters, or "".
func headerRefused(name string) string {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !headerForm.MatchString(name):
		return "must be a header's name: letters, digits and -"
	case headerReserved.MatchString(name):
		return "is reserved: remove it"
	case headerCredentials.MatchString(name):
		return "looks like it holds a credential, which everybody who may read the job would see: use a connection"
	case slices.Contains(headersPermitted, canonical):
		return ""
	case strings.HasPrefix(canonical, "X-"), strings.HasPrefix(canonical, "Ce-"):
		return ""
	}
	return "is not permitted: use one of " + strings.Join(headersPermitted, ", ") + ", or a name that begins with X- or Ce-"
}

// eachText visits all texts within a JSON value; the error of one becomes a
// *template.ParamsError that names its place.
func eachText(field string, value any, visit func(string) error) error {
	switch value := value.(type) {
	case string:
		if err := visit(value); err != nil {
			return template.BadParam(field, "%v", err)
		}
	case []any:
		for i, inner := range value {
			if err := eachText(fmt.Sprintf("%s.%d", field, i), inner, visit); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := eachText(field+"."+key, value[key], visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// renderJSON returns a JSON value with its texts rendered, within a number of
// bytes for all texts together.
func renderJSON(ctx context.Context, field string, value any, v view, left *int) (any, error) {
	switch value := value.(type) {
	case string:
		text, err := renderBodyText(ctx, value, v, *left)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return nil, template.BadParam(field, "%v", err)
		}
		*left -= len(text)
		return text, nil
	case []any:
		out := make([]any, len(value))
		for i, inner := range value {
			var err error
			if out[i], err = renderJSON(ctx, fmt.Sprintf("%s.%d", field, i), inner, v, left); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			var err error
			if out[key], err = renderJSON(ctx, field+"."+key, value[key], v, left); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return value, nil
}

// content is the JSON to send, or nil.
func (w webhook) content(ctx context.Context, run *template.Run) (any, error) {
	switch {
	case w.body != nil:
		left := maxRequestBytes
		return renderJSON(ctx, "body", w.body, viewOf(run, w.data), &left)
	case w.method == http.MethodPost || w.method == http.MethodPut || w.method == http.MethodPatch:
		return map[string]any{
			"job_id": run.JobID, "job_name": run.JobName, "execution_id": run.ExecutionID,
			"scheduled_for": run.ScheduledFor.Format(time.RFC3339Nano), "triggered_by": run.TriggeredBy, "data": orEmpty(w.data),
		}, nil
	}
	return nil, nil
}

func orEmpty(data map[string]any) map[string]any {
	if data == nil {
		return map[string]any{}
	}
	return data
}

// request puts together what is to be sent, unsigned, and returns the key to sign
// it with, if any.
func (w webhook) request(ctx context.Context, run *template.Run) (r *httpRequest, key string, err error) {
	r = &httpRequest{
		method: w.method, url: w.url, header: w.headers.Clone(),
		redirects: w.redirect, expected: w.expected, timeout: w.timeout,
	}
	if r.policy, err = egressPolicy(run.Settings); err != nil {
		return nil, "", err
	}
	if w.url == nil {
		target, err := run.Connection(targetParam)
		if err != nil {
			return nil, "", err
		}
		if r.url, err = addressOf(target); err != nil {
			return nil, "", err
		}
		r.hidden, r.secrets, key = true, append(r.secrets, target), target.Secret
	}
	if _, ok := run.Params[signingParam].(string); ok {
		signing, err := run.Connection(signingParam)
		if err != nil {
			return nil, "", err
		}
		if signing.Secret == "" {
			return nil, "", template.Fail(template.CodeValidation, "%s: the connection %s has no secret to sign with: give it a secret_file", signingParam, signing.Name)
		}
		r.secrets, key = append(r.secrets, signing), signing.Secret
	}
	content, err := w.content(ctx, run)
	if err != nil {
		return nil, "", err
	}
	if content != nil {
		if err := r.setJSON(content); err != nil {
			return nil, "", err
		}
	}
	r.header.Set(idempotencyHeader, run.ExecutionID)
	return r, key, nil
}

// addressOf returns the address that a connection holds. Errors name the
// connection and not its address.
func addressOf(c template.Connection) (*url.URL, error) {
	if c.URI == "" {
		return nil, template.Fail(template.CodeValidation, "the connection %s has no address to send to: give it a uri", c.Name)
	}
	u, err := parseAddress(c.URI)
	if err != nil {
		return nil, template.Fail(template.CodeValidation, "the uri of the connection %s %v", c.Name, err)
	}
	return u, nil
}

// setJSON makes a value the body. Equal values make equal bodies.
func (r *httpRequest) setJSON(content any) error {
	text, err := jsonText(content)
	if err != nil {
		return template.Fail(template.CodeInternal, "the body is not JSON: %w", err)
	}
	r.body = []byte(text)
	if r.header.Get("Content-Type") == "" {
		r.header.Set("Content-Type", "application/json")
	}
	return nil
}

func (webhookTrigger) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	w, err := parseWebhook(run.Params)
	if err != nil {
		return nil, template.AsError(err)
	}
	r, key, err := w.request(ctx, run)
	if err != nil {
		return nil, template.AsError(err)
	}
	if r.header.Get("User-Agent") == "" {
		r.header.Set("User-Agent", userAgent)
	}
	if template.EffectiveDryRun(run.Params) {
		return template.Result{
			"message": fmt.Sprintf("Would send %s %s with %d bytes (dry run)", r.method, r.place(), len(r.body)),
			"request": r.shown(key != ""),
		}, nil
	}
	if key != "" {
		signBody(r.header, key, r.body, signingTime())
	}
	run.Report.Log("INFO", fmt.Sprintf("Sending %s %s with %d bytes, %s", r.method, r.place(), len(r.body), signedOrNot(key)))
	got, err := r.send(ctx, run.Report)
	if got == nil {
		return nil, err
	}
	result := template.Result{
		"message": fmt.Sprintf("%s answered %d", r.place(), got.status),
		"status":  got.status, "headers": got.header, "body": got.body, "body_truncated": got.truncated,
	}
	run.Report.Log("INFO", result["message"].(string))
	return result, err
}

const userAgent = "Almanac"

func signedOrNot(key string) string {
	if key == "" {
		return "unsigned"
	}
	return "signed"
}

// shown is the request for people, before it is signed.
func (r *httpRequest) shown(signed bool) map[string]any {
	headers := map[string]any{}
	for name := range r.header {
		headers[name] = r.redact(r.header.Get(name))
	}
	return map[string]any{
		"method": r.method, "url": r.place(), "headers": headers, "signed": signed, "body": r.redact(string(r.body)),
	}
}
