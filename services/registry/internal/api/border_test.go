package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
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
)

// valid is a job that can be created; %s are more fields.
const valid = `{"name": "n", "template_type": "test_scheduler", "schedule": {"type": "manual"}%s}`

// Bad input of every kind gets its status and names the field, and nothing
// changes.
func TestBadInput(t *testing.T) {
	r := newRig(t)
	id := r.create("taken", "")
	post := func(more string) string { return fmt.Sprintf(valid, more) }
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	for name, c := range map[string]struct {
		method, path, body string
		headers            []header
		code               int
		reason             string
		field, said        string
	}{
		"malformed JSON":      {"POST", jobsPath, `{"name": `, nil, 400, "MALFORMED_REQUEST", "", "JSON"},
		"two objects":         {"POST", jobsPath, `{} {}`, nil, 400, "MALFORMED_REQUEST", "", "JSON"},
		"an array":            {"POST", jobsPath, `[]`, nil, 400, "MALFORMED_REQUEST", "", "object"},
		"null":                {"POST", jobsPath, `null`, nil, 400, "MALFORMED_REQUEST", "", "object"},
		"not UTF-8":           {"POST", jobsPath, "{\"name\": \"\xff\"}", nil, 400, "MALFORMED_REQUEST", "", "UTF-8"},
		"a repeated key":      {"POST", jobsPath, `{"name": "a", "name": "b"}`, nil, 400, "MALFORMED_REQUEST", "name", "twice"},
		"repeated inside":     {"POST", jobsPath, post(`, "parameters": {"condition": {"a": [{"b": 1, "b": 2}]}}`), nil, 400, "MALFORMED_REQUEST", "parameters.condition.a[0].b", "twice"},
		"two spellings":       {"POST", jobsPath, post(`, "templateType": "x"`), nil, 400, "INVALID_REQUEST", "templateType", "two spellings"},
		"too deep":            {"POST", jobsPath, post(`, "parameters": ` + deep), nil, 400, "MALFORMED_REQUEST", "parameters.a.a", "levels"},
		"too large":           {"POST", jobsPath, post(`, "description": "` + strings.Repeat("x", maxBody) + `"`), nil, 413, "REQUEST_TOO_LARGE", "", ""},
		"too large to run":    {"POST", jobsPath + "/" + id + "/run", `{"parameters": {"message": "` + strings.Repeat("x", maxBody) + `"}}`, nil, 413, "REQUEST_TOO_LARGE", "", ""},
		"form":                {"POST", jobsPath, `a=b`, []header{{"Content-Type", "application/x-www-form-urlencoded"}}, 415, "UNSUPPORTED_CONTENT_TYPE", "", ""},
		"no content type":     {"POST", jobsPath, `{}`, []header{{"Content-Type", ""}}, 415, "UNSUPPORTED_CONTENT_TYPE", "", ""},
		"latin-1":             {"POST", jobsPath, `{}`, []header{{"Content-Type", "application/json; charset=latin1"}}, 415, "UNSUPPORTED_CONTENT_TYPE", "", ""},
		"unknown field":       {"POST", jobsPath, post(`, "colour": "red"`), nil, 400, "INVALID_REQUEST", "colour", "not a known field"},
		"unknown inside":      {"POST", jobsPath, post(`, "retry_policy": {"tries": 3}`), nil, 400, "INVALID_REQUEST", "retry_policy.tries", "not a known field"},
		"unknown in PUT":      {"PUT", jobsPath + "/" + id, `{"dryRun": true}`, nil, 400, "INVALID_REQUEST", "dryRun", "not a known field"},
		"unknown in run":      {"POST", jobsPath + "/" + id + "/run", `{"message": "x"}`, nil, 400, "INVALID_REQUEST", "message", "not a known field"},
		"a word for a number": {"POST", jobsPath, post(`, "timeout_seconds": "soon"`), nil, 400, "INVALID_REQUEST", "timeout_seconds", "whole number"},
		"a fraction":          {"POST", jobsPath, post(`, "retry_policy": {"max_retries": 1.5}`), nil, 400, "INVALID_REQUEST", "retry_policy.max_retries", "whole number"},
		"a word for a switch": {"POST", jobsPath, post(`, "enabled": "yes"`), nil, 400, "INVALID_REQUEST", "enabled", "true or false"},
		"a number for a name": {"POST", jobsPath, post(`, "description": 5`), nil, 400, "INVALID_REQUEST", "description", "string"},
		"a list for a record": {"POST", jobsPath, post(`, "parameters": []`), nil, 400, "INVALID_REQUEST", "parameters", ""},
		"no time":             {"POST", jobsPath, post(`, "schedule": {"type": "once", "run_at": "noon"}`), nil, 400, "MALFORMED_REQUEST", "schedule", "twice"},
		"no time at all":      {"PUT", jobsPath + "/" + id, `{"schedule": {"type": "once", "run_at": "noon"}}`, nil, 400, "INVALID_REQUEST", "schedule.run_at", `such as "2030`},
		"no name":             {"POST", jobsPath, `{"template_type": "test_scheduler", "schedule": {"type": "manual"}}`, nil, 400, "INVALID_REQUEST", "name", "required"},
		"nothing":             {"POST", jobsPath, `{}`, nil, 400, "INVALID_REQUEST", "schedule", "required"},
		"an empty body":       {"POST", jobsPath, ``, nil, 400, "INVALID_REQUEST", "template_type", "required"},
		"a long name":         {"PUT", jobsPath + "/" + id, `{"name": "` + strings.Repeat("ä", 201) + `"}`, nil, 400, "INVALID_REQUEST", "name", "200"},
		"a taken name":        {"POST", jobsPath, `{"name": " taken ", "template_type": "test_scheduler", "schedule": {"type": "manual"}}`, nil, 409, "NAME_TAKEN", "name", "another job"},
		"unknown template":    {"PUT", jobsPath + "/" + id, `{"template_type": "unheard_of"}`, nil, 400, "INVALID_REQUEST", "template_type", `"unheard_of" is not known`},
		"malformed cron":      {"PUT", jobsPath + "/" + id, `{"schedule": {"type": "cron", "expression": "61 * * * *"}}`, nil, 400, "INVALID_REQUEST", "schedule.expression", "61"},
		"malformed cron, short": {
			"PUT", jobsPath + "/" + id, `{"schedule": {"cron": "0 25 * * *"}}`, nil, 400, "INVALID_REQUEST", "schedule.cron", "25",
		},
		"cron that never comes":    {"PUT", jobsPath + "/" + id, `{"schedule": {"cron": "0 0 30 2 *"}}`, nil, 400, "INVALID_REQUEST", "schedule.expression", "never"},
		"unknown zone":             {"PUT", jobsPath + "/" + id, `{"schedule": {"cron": "* * * * *", "timezone": "Europe/Atlantis"}}`, nil, 400, "INVALID_REQUEST", "schedule.timezone", ""},
		"two schedules":            {"PUT", jobsPath + "/" + id, `{"schedule": {"cron": "* * * * *", "interval_seconds": 5}}`, nil, 400, "INVALID_REQUEST", "schedule.interval_seconds", "one of the two"},
		"unknown schedule type":    {"PUT", jobsPath + "/" + id, `{"schedule": {"type": "weekly"}}`, nil, 400, "INVALID_REQUEST", "schedule.type", "must be one of cron, interval, once, manual"},
		"interval of 0":            {"PUT", jobsPath + "/" + id, `{"schedule": {"interval_seconds": 0}}`, nil, 400, "INVALID_REQUEST", "schedule.interval_seconds", "1"},
		"dst word":                 {"PUT", jobsPath + "/" + id, `{"schedule": {"cron": "* * * * *", "dst": {"gap": "jump"}}}`, nil, 400, "INVALID_REQUEST", "schedule.dst.gap", "run_after"},
		"once in the past":         {"PUT", jobsPath + "/" + id, `{"schedule": {"type": "once", "run_at": "2026-11-23T11:00:00Z"}}`, nil, 400, "INVALID_REQUEST", "schedule.run_at", "past"},
		"negative retries":         {"PUT", jobsPath + "/" + id, `{"retry_policy": {"max_retries": -1}}`, nil, 400, "INVALID_REQUEST", "retry_policy.max_retries", "greater than or equal to 0"},
		"no address":               {"PUT", jobsPath + "/" + id, `{"notifications": {"on_failure": ["a@example.com", "nobody"]}}`, nil, 400, "INVALID_REQUEST", "notifications.on_failure[1]", "mail address"},
		"no channel":               {"PUT", jobsPath + "/" + id, `{"notifications": {"on_success": ["channel:no such name"]}}`, nil, 400, "INVALID_REQUEST", "notifications.on_success[0]", "channel:name"},
		"policy word":              {"PUT", jobsPath + "/" + id, `{"overlap_policy": "maybe"}`, nil, 400, "INVALID_REQUEST", "overlap_policy", "must be one of forbid, allow"},
		"priority 11":              {"PUT", jobsPath + "/" + id, `{"priority": 11}`, nil, 400, "INVALID_REQUEST", "priority", "10"},
		"priority -11":             {"PUT", jobsPath + "/" + id, `{"priority": -11}`, nil, 400, "INVALID_REQUEST", "priority", "-10"},
		"a high priority":          {"PUT", jobsPath + "/" + id, `{"priority": "high"}`, nil, 400, "INVALID_REQUEST", "priority", "whole number"},
		"half a priority":          {"PUT", jobsPath + "/" + id, `{"priority": 0.5}`, nil, 400, "INVALID_REQUEST", "priority", "whole number"},
		"organisation in capitals": {"PUT", jobsPath + "/" + id, `{"organisation": "Shop"}`, nil, 400, "INVALID_REQUEST", "organisation", "lower-case"},
		"organisation with a bar":  {"PUT", jobsPath + "/" + id, `{"organisation": "a|b"}`, nil, 400, "INVALID_REQUEST", "organisation", "lower-case"},
		"a long organisation":      {"PUT", jobsPath + "/" + id, `{"organisation": "` + strings.Repeat("x", 64) + `"}`, nil, 400, "INVALID_REQUEST", "organisation", "at most 63"},
		"organisation line end":    {"PUT", jobsPath + "/" + id, `{"organisation": "shop\n"}`, nil, 400, "INVALID_REQUEST", "organisation", "lower-case"},
		"a comma in a label":       {"PUT", jobsPath + "/" + id, `{"executor_selector": {"zone": "a,b"}}`, nil, 400, "INVALID_REQUEST", "executor_selector.zone", "letter"},
		"an empty label":           {"PUT", jobsPath + "/" + id, `{"executor_selector": {"zone": ""}}`, nil, 400, "INVALID_REQUEST", "executor_selector.zone", "1 to 63"},
		"'=' in a label name":      {"PUT", jobsPath + "/" + id, `{"executor_selector": {"a=b": "c"}}`, nil, 400, "INVALID_REQUEST", "executor_selector", "\"a=b\""},
		"an empty label name":      {"PUT", jobsPath + "/" + id, `{"executor_selector": {"": "c"}}`, nil, 400, "INVALID_REQUEST", "executor_selector", "1 to 63"},
		"a long label":             {"PUT", jobsPath + "/" + id, `{"executor_selector": {"zone": "` + strings.Repeat("x", 64) + `"}}`, nil, 400, "INVALID_REQUEST", "executor_selector.zone", "1 to 63"},
		"a label that is null":     {"PUT", jobsPath + "/" + id, `{"executor_selector": {"zone": null}}`, nil, 400, "INVALID_REQUEST", "executor_selector.zone", ""},
		"a label that is a list":   {"PUT", jobsPath + "/" + id, `{"executor_selector": {"zone": ["eu"]}}`, nil, 400, "INVALID_REQUEST", "executor_selector.zone", "string"},
		"17 labels":                {"PUT", jobsPath + "/" + id, `{"executor_selector": {"k0": "v", "k1": "v", "k2": "v", "k3": "v", "k4": "v", "k5": "v", "k6": "v", "k7": "v", "k8": "v", "k9": "v", "k10": "v", "k11": "v", "k12": "v", "k13": "v", "k14": "v", "k15": "v", "k16": "v"}}`, nil, 400, "INVALID_REQUEST", "executor_selector: must be", "at most 16"},
		"parameter by schema": {
			"PUT", jobsPath + "/" + id, `{"template_type": "database_cleanup", "parameters": {"collection": "secrets", "condition": 5, "extra": 1}}`, nil,
			400, "INVALID_REQUEST", "parameters.collection", `must be one of "logs", "messages", "sessions", "users"`,
		},
		"parameters too large": {
			"POST", jobsPath, post(`, "parameters": {"message": "` + strings.Repeat("m", 300_000) + `"}`), nil, 400, "INVALID_REQUEST", "parameters: ", "must be at most 256 KiB",
		},
		"a number too long": {
			"POST", jobsPath, post(`, "parameters": {"condition": {"n": {"$in": [1.5e300, 12345678901234567]}}}`), nil,
			400, "INVALID_REQUEST", "parameters.condition.n.$in[1]", "9007199254740992",
		},
		"a number far too long": {"POST", jobsPath, post(`, "parameters": {"n": -123456789012345678901}`), nil, 400, "INVALID_REQUEST", "parameters.n", "9007199254740992"},
		"unknown query":         {"GET", jobsPath + "?order=name", ``, nil, 400, "INVALID_REQUEST", "order", "known are enabled, label"},
		"query with a body":     {"POST", jobsPath + "?name=x", post(``), nil, 400, "INVALID_REQUEST", "name", "has none"},
		"query beside an id":    {"GET", jobsPath + "/" + id + "?x=1", ``, nil, 400, "INVALID_REQUEST", "x", "has none"},
		"mask in the query":     {"PUT", jobsPath + "/" + id + "?update_mask=name", `{}`, nil, 400, "INVALID_REQUEST", "update_mask", "has none"},
		"malformed query":       {"GET", jobsPath + "?limit=%zz", ``, nil, 400, "MALFORMED_REQUEST", "", "query"},
		"limit 0":               {"GET", jobsPath + "?limit=0", ``, nil, 400, "INVALID_REQUEST", "limit", "1"},
		"limit 101":             {"GET", jobsPath + "?limit=101", ``, nil, 400, "INVALID_REQUEST", "limit", "100"},
		"page 0":                {"GET", jobsPath + "?page=0", ``, nil, 400, "INVALID_REQUEST", "page", "1"},
		"page of words":         {"GET", jobsPath + "?page=two", ``, nil, 400, "INVALID_REQUEST", "page", "whole number"},
		"page too far":          {"GET", jobsPath + "?page=2147483648", ``, nil, 400, "INVALID_REQUEST", "page", "whole number"},
		"page twice":            {"GET", jobsPath + "?page=1&page=2", ``, nil, 400, "INVALID_REQUEST", "page", "twice"},
		"enabled maybe":         {"GET", jobsPath + "?enabled=maybe", ``, nil, 400, "INVALID_REQUEST", "enabled", "true or false"},
		"query not UTF-8":       {"GET", jobsPath + "?template_type=%ff", ``, nil, 400, "INVALID_REQUEST", "template_type", "UTF-8"},
		"unknown status":        {"GET", jobsPath + "/" + id + "/executions?status=done", ``, nil, 400, "INVALID_REQUEST", "status[0]", "pending"},
		"executions limit":      {"GET", jobsPath + "/" + id + "/executions?limit=501", ``, nil, 400, "INVALID_REQUEST", "limit", "500"},
		"path not UTF-8":        {"GET", jobsPath + "/%ff", ``, nil, 400, "MALFORMED_REQUEST", "", "UTF-8"},
		"a long id":             {"GET", jobsPath + "/" + strings.Repeat("x", 101), ``, nil, 400, "INVALID_REQUEST", "id", "100"},
		"unknown job":           {"GET", jobsPath + "/job_unknown", ``, nil, 404, "NOT_FOUND", "", ""},
		"unknown job, PUT":      {"PUT", jobsPath + "/job_unknown", `{"name": "x"}`, nil, 404, "NOT_FOUND", "", ""},
		"its executions":        {"GET", jobsPath + "/job_unknown/executions", ``, nil, 404, "NOT_FOUND", "", ""},
		"unknown execution":     {"GET", executionsPath + "/exec_unknown", ``, nil, 404, "NOT_FOUND", "", ""},
		"its log":               {"GET", executionsPath + "/exec_unknown/logs", ``, nil, 404, "NOT_FOUND", "", ""},
		"its cancelling":        {"POST", executionsPath + "/exec_unknown/cancel", ``, nil, 404, "NOT_FOUND", "", ""},
		"nothing as a form":     {"POST", executionsPath + "/exec_unknown/cancel", ``, []header{{"Content-Type", "application/x-www-form-urlencoded"}}, 404, "NOT_FOUND", "", ""},
		"unknown worker":        {"POST", workersPath + "/unknown/drain", ``, nil, 404, "NOT_FOUND", "", "there is no worker unknown"},
		"unknown, resumed":      {"POST", workersPath + "/unknown/resume", ``, nil, 404, "NOT_FOUND", "", "there is no worker unknown"},
		"drain with a field":    {"POST", workersPath + "/unknown/drain", `{"grace": 5}`, nil, 400, "INVALID_REQUEST", "grace", "not a known field"},
		"a long worker":         {"POST", workersPath + "/" + strings.Repeat("x", 101) + "/drain", ``, nil, 400, "INVALID_REQUEST", "id", "100"},
		"worker by itself":      {"GET", workersPath + "/unknown", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"workers by query":      {"GET", workersPath + "?status=ready", ``, nil, 400, "INVALID_REQUEST", "status", "has none"},
		"its resolving":         {"POST", executionsPath + "/exec_unknown/resolve", `{"status": "failed", "reason": "x"}`, nil, 404, "NOT_FOUND", "", ""},
		"resolve to running":    {"POST", executionsPath + "/exec_unknown/resolve", `{"status": "running", "reason": "x"}`, nil, 400, "INVALID_REQUEST", "status", "success"},
		"template not there":    {"GET", "/api/admin/job-templates/unheard_of", ``, nil, 404, "NOT_FOUND", "", ""},
		"unknown route":         {"GET", "/api/admin/nothing", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"unknown at all":        {"GET", "/wp-login.php", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"a slash too many":      {"GET", jobsPath + "/", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"a slash within":        {"GET", jobsPath + "/a%2Fb", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"dots":                  {"GET", "/api/../etc/passwd", ``, nil, 404, "NO_SUCH_ROUTE", "", ""},
		"wrong method":          {"PATCH", jobsPath + "/" + id, `{}`, nil, 405, "METHOD_NOT_ALLOWED", "", ""},
		"wrong method, list":    {"DELETE", jobsPath, ``, nil, 405, "METHOD_NOT_ALLOWED", "", ""},
		"wrong method, page":    {"POST", "/healthz", ``, nil, 405, "METHOD_NOT_ALLOWED", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.as(access.SuperAdmin, c.method, c.path, c.body, c.headers...)
			if a.code != c.code || a.reason() != c.reason {
				t.Fatalf("%d %s, want %d %s: %s", a.code, a.reason(), c.code, c.reason, a.text)
			}
			message, _ := a.body["message"].(string)
			switch {
			case message == "" || a.header.Get("Content-Type") != "application/json":
				t.Errorf("answer %s of type %s", a.text, a.header.Get("Content-Type"))
			case c.field != "" && !slices.ContainsFunc(a.fields(), func(f string) bool { return strings.HasPrefix(f, c.field) && strings.Contains(f, c.said) }):
				t.Errorf("no violation of %s (%s) in %s", c.field, c.said, a.text)
			case c.field == "" && !strings.Contains(message, c.said):
				t.Errorf("message %q lacks %q", message, c.said)
			case c.code == 405 && a.header.Get("Allow") == "":
				t.Error("no Allow header")
			}
		})
	}
	got := r.root(http.StatusOK, http.MethodGet, jobsPath, "")
	if jobs := got.body["jobs"].([]any); len(jobs) != 1 || jobs[0].(map[string]any)["version"] != 1.0 {
		t.Errorf("something changed: %s", got.text)
	}
}

// Every route and every role: who may not is refused before anything is looked
// at, even the body.
func TestRoutesAndRoles(t *testing.T) {
	r := newRig(t)
	least := map[string]access.Role{
		"POST /api/auth/login":                                  "",
		"POST /api/auth/session":                                "",
		"GET /api/auth/session":                                 access.User,
		"DELETE /api/auth/session":                              access.User,
		"POST /api/auth/password":                               access.User,
		"GET /api/auth/tokens":                                  access.User,
		"POST /api/auth/tokens":                                 access.User,
		"DELETE /api/auth/tokens/{id}":                          access.User,
		"GET /api/admin/users":                                  access.SuperAdmin,
		"POST /api/admin/users":                                 access.SuperAdmin,
		"PUT /api/admin/users/{username}":                       access.SuperAdmin,
		"DELETE /api/admin/users/{username}":                    access.SuperAdmin,
		"POST /api/admin/scheduler-jobs/try":                    access.SuperAdmin,
		"GET /api/admin/job-executions":                         access.Admin,
		"GET /api/admin/job-executions/{execution_id}/events":   access.Admin,
		"GET /api/admin/overview":                               access.Admin,
		"GET /api/admin/statistics":                             access.Admin,
		"GET /api/admin/upcoming":                               access.Admin,
		"GET /api/admin/scheduler-jobs":                         access.Admin,
		"POST /api/admin/scheduler-jobs":                        access.SuperAdmin,
		"GET /api/admin/scheduler-jobs/{id}":                    access.Admin,
		"PUT /api/admin/scheduler-jobs/{id}":                    access.SuperAdmin,
		"DELETE /api/admin/scheduler-jobs/{id}":                 access.SuperAdmin,
		"POST /api/admin/scheduler-jobs/{id}/run":               access.Admin,
		"POST /api/admin/schedules/preview":                     access.Admin,
		"GET /api/admin/scheduler-jobs/{id}/executions":         access.Admin,
		"GET /api/admin/job-executions/{execution_id}":          access.Admin,
		"GET /api/admin/job-executions/{execution_id}/logs":     access.Admin,
		"POST /api/admin/job-executions/{execution_id}/cancel":  access.Admin,
		"POST /api/admin/job-executions/{execution_id}/resolve": access.SuperAdmin,
		"GET /api/admin/job-templates":                          access.Admin,
		"GET /api/admin/job-templates/{type}":                   access.Admin,
		"GET /api/admin/audit":                                  access.SuperAdmin,
		"GET /api/admin/workers":                                access.Admin,
		"POST /api/admin/workers/{id}/drain":                    access.SuperAdmin,
		"POST /api/admin/workers/{id}/resume":                   access.SuperAdmin,
		"GET /api/admin/registries":                             access.Admin,
	}
	all, err := routes()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(least) {
		t.Errorf("%d routes, %d in the table", len(all), len(least))
	}
	rank := func(role access.Role) int { return slices.Index(access.Roles, role) }
	for _, rt := range all {
		need, known := least[rt.httpMethod+" "+rt.pattern]
		if !known {
			t.Errorf("%s %s is not in the table", rt.httpMethod, rt.pattern)
		}
		path := variable.ReplaceAllString(rt.pattern, "x")
		for _, role := range append([]access.Role{""}, access.Roles...) {
			a := r.as(role, rt.httpMethod, path, "{malformed")
			if rt.rpc == almanacv1.AuthService_EndSession_FullMethodName && role != "" {
				r.give(role) // the one that was to end
			}
			switch {
			case need == "" || role != "" && rank(role) <= rank(need):
				if a.code == 401 || a.code == 403 {
					t.Errorf("%s %s as %q: %d %s", rt.httpMethod, path, role, a.code, a.text)
				}
			case role == "":
				if a.code != 401 || a.reason() != "TOKEN_MISSING" || a.header.Get("WWW-Authenticate") != `Bearer realm="almanac"` {
					t.Errorf("%s %s without a token: %d %s %v", rt.httpMethod, path, a.code, a.text, a.header)
				}
			default:
				if a.code != 403 || a.reason() != "FORBIDDEN" {
					t.Errorf("%s %s as %s: %d %s", rt.httpMethod, path, role, a.code, a.text)
				}
			}
		}
		if need == "" {
			continue
		}
		r.tokens["stranger"] = "alm_unknown"
		if a := r.as("stranger", rt.httpMethod, path, ""); a.code != 401 || !strings.Contains(a.header.Get("WWW-Authenticate"), "invalid_token") {
			t.Errorf("%s %s with an unknown token: %d %v", rt.httpMethod, path, a.code, a.header)
		}
		r.tokens["executor"] = executorSecret
		if a := r.as("executor", rt.httpMethod, path, ""); a.code != 403 {
			t.Errorf("%s %s as an executor: %d", rt.httpMethod, path, a.code)
		}
	}
}

// A method without a rule is denied, and there is none.
func TestEveryMethodHasARule(t *testing.T) {
	r := newRig(t)
	known := 0
	for service, info := range r.server.outside.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			root := access.Authorize(access.Identity{User: "x", Role: access.SuperAdmin}, name)
			executor := access.Authorize(access.Identity{Executor: true}, name)
			if root != nil && executor != nil {
				t.Errorf("nobody may call %s", name)
			}
			known++
		}
	}
	if known < 20 {
		t.Errorf("%d methods only", known)
	}
}

func TestTwoAuthorizations(t *testing.T) {
	r := newRig(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+jobsPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Authorization"] = []string{"Bearer " + r.tokens[access.User], "Bearer " + r.tokens[access.SuperAdmin]}
	if a := r.send(req); a.code != http.StatusUnauthorized {
		t.Errorf("%d %s", a.code, a.text)
	}
	req.Header["Authorization"] = []string{"Bearer \u00e4"}
	if a := r.send(req); a.code != http.StatusUnauthorized {
		t.Errorf("%d %s", a.code, a.text)
	}
}

// outage is a store that does not answer.
type outage struct{ Store }

var errOutage = fmt.Errorf("disk on fire: %w", job.ErrUnavailable)

func (outage) Ready(context.Context) error { return errOutage }

func (outage) Jobs(context.Context, store.JobFilter) ([]*job.Job, int, error) {
	return nil, 0, errOutage
}
func (outage) Job(context.Context, string) (*job.Job, error)        { return nil, errOutage }
func (outage) Definition(context.Context, string) (*job.Job, error) { return nil, errOutage }
func (outage) CreateJob(context.Context, store.CreateJob) (*job.Job, bool, error) {
	return nil, false, errOutage
}
func (outage) Execution(context.Context, string) (*job.Execution, error) { return nil, errOutage }
func (outage) Logs(context.Context, string, int, int) ([]job.LogLine, int, error) {
	return nil, 0, errOutage
}

func (outage) Executions(context.Context, store.ExecutionFilter) ([]*job.Execution, int, error) {
	return nil, 0, errOutage
}

func (outage) Audits(context.Context, store.AuditFilter) ([]store.AuditEntry, int, error) {
	return nil, 0, errOutage
}

func (outage) Sessions(context.Context) ([]store.Session, error) { return nil, errOutage }
func (outage) Replicas(context.Context) ([]store.Replica, error) { return nil, errOutage }

func TestStoreOutage(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Store = outage{c.Store} })
	for _, c := range []struct{ method, path, body string }{
		{"GET", jobsPath, ""},
		{"POST", jobsPath, fmt.Sprintf(valid, "")},
		{"GET", jobsPath + "/x", ""},
		{"PUT", jobsPath + "/x", `{"name": "y"}`},
		{"DELETE", jobsPath + "/x", ""},
		{"POST", jobsPath + "/x/run", ""},
		{"GET", jobsPath + "/x/executions", ""},
		{"GET", executionsPath + "/x", ""},
		{"GET", executionsPath + "/x/logs", ""},
		{"POST", executionsPath + "/x/cancel", ""},
		{"GET", "/api/admin/audit", ""},
		{"GET", workersPath, ""},
		{"POST", workersPath + "/x/drain", ""},
		{"POST", workersPath + "/x/resume", ""},
		{"GET", registriesPath, ""},
	} {
		for _, h := range []header{{}, {"Idempotency-Key", "k"}} {
			a := r.as(access.SuperAdmin, c.method, c.path, c.body, h)
			if a.code != 503 || a.header.Get("Retry-After") != "1" || a.reason() != "UNAVAILABLE" || strings.Contains(a.text, "fire") {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.code, a.text)
			}
		}
	}
	a := r.as("", http.MethodGet, "/readyz", "")
	if a.code != 503 || a.text != `{"ready":false,"reasons":["the store is not available"]}`+"\n" {
		t.Errorf("readiness: %d %s", a.code, a.text)
	}
}

// Whatever a body holds, the answer is one that was thought of.
func TestStrangeBodies(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxJobs = 0 })
	id := r.create("a job", "")
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{
		`{`, `}`, `[`, `]`, `:`, `,`, `"`, `"name"`, `"schedule"`, `"type"`, `"cron"`, `"parameters"`, `null`, `true`, `-1`, `1e400`, `0.5`, `""`, `"\ud800"`, `"\u0000"`,
		"\x00", "\xff", `"$lt"`, `"a.b"`, `"template_type"`, `"test_scheduler"`, `{"type": "manual"}`, `"labels"`, `"99999999999999999999"`, `[[[[`, `"once"`, `"run_at"`, `"2030-01-01T00:00:00Z"`,
		`"update_mask"`, `"job"`, `"@type"`, `"dst"`, `{}`, `[]`, `"notifications"`, `"on_success"`,
	}
	valids := []string{fmt.Sprintf(valid, ""), example, `{"parameters": {"message": "x"}}`, `{"version": 1}`, `{}`}
	targets := []struct{ method, path string }{
		{"POST", jobsPath},
		{"PUT", jobsPath + "/" + id},
		{"POST", jobsPath + "/" + id + "/run"},
		{"POST", "/api/admin/schedules/preview"},
		{"POST", "/api/auth/login"},
		{"POST", executionsPath + "/x/resolve"},
	}
	for i := range 600 {
		var b strings.Builder
		if i%3 > 0 { // something well-formed with a piece put in or cut out
			text := valids[random.IntN(len(valids))]
			at := random.IntN(len(text) + 1)
			b.WriteString(text[:at])
			b.WriteString(pieces[random.IntN(len(pieces))])
			b.WriteString(text[min(len(text), at+random.IntN(8)):])
		} else {
			for range random.IntN(12) {
				b.WriteString(pieces[random.IntN(len(pieces))])
			}
		}
		target := targets[i%len(targets)]
		a := r.as(access.SuperAdmin, target.method, target.path, b.String())
		if a.code >= 500 {
			t.Errorf("%s %s %q: %d %s", target.method, target.path, b.String(), a.code, a.text)
		}
	}
	r.root(http.StatusOK, http.MethodGet, jobsPath+"?limit=100", "")
}

func TestGRPC(t *testing.T) {
	r := newRig(t)
	root := almanacv1.NewJobServiceClient(r.dial(r.tokens[access.SuperAdmin]))
	ctx := t.Context()
	made, err := root.CreateJob(ctx, &almanacv1.CreateJobRequest{IdempotencyKey: "k", Job: &almanacv1.Job{
		Name: "a", TemplateType: "test_scheduler", Schedule: &almanacv1.Schedule{Cron: proto.String("0 19 * * *")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Without a mask, what is present is changed.
	changed, err := root.UpdateJob(ctx, &almanacv1.UpdateJobRequest{Id: made.Job.Id, Job: &almanacv1.Job{Description: "d", Version: 1}})
	if err != nil || changed.Job.Description != "d" || changed.Job.Version != 2 || changed.Job.Name != "a" {
		t.Errorf("update without a mask: %v, %v", changed, err)
	}
	for name, c := range map[string]struct {
		call func() error
		code codes.Code
		want string
	}{
		"unknown mask": {func() error {
			_, err := root.UpdateJob(ctx, &almanacv1.UpdateJobRequest{Id: made.Job.Id, Job: &almanacv1.Job{}, UpdateMask: mask("schedule.type")})
			return err
		}, codes.InvalidArgument, "update_mask"},
		"no job": {func() error {
			_, err := root.CreateJob(ctx, &almanacv1.CreateJobRequest{})
			return err
		}, codes.InvalidArgument, "body"},
		"stale": {func() error {
			_, err := root.UpdateJob(ctx, &almanacv1.UpdateJobRequest{Id: made.Job.Id, Job: &almanacv1.Job{Description: "e", Version: 1}})
			return err
		}, codes.FailedPrecondition, "changed by somebody else"},
		"too large": {func() error {
			_, err := root.CreateJob(ctx, &almanacv1.CreateJobRequest{Job: &almanacv1.Job{Description: strings.Repeat("x", 3<<20)}})
			return err
		}, codes.InvalidArgument, "bytes"},
		"no token": {func() error {
			_, err := almanacv1.NewJobServiceClient(r.dial("")).ListJobs(ctx, &almanacv1.ListJobsRequest{})
			return err
		}, codes.Unauthenticated, "token"},
		"executor": {func() error {
			_, err := almanacv1.NewJobServiceClient(r.dial(executorSecret)).ListJobs(ctx, &almanacv1.ListJobsRequest{})
			return err
		}, codes.PermissionDenied, "leasing"},
		"a time out of range": {func() error {
			_, err := root.PreviewSchedule(ctx, &almanacv1.PreviewScheduleRequest{Schedule: &almanacv1.Schedule{Type: proto.String("once"), RunAt: badTime()}})
			return err
		}, codes.InvalidArgument, "schedule.run_at"},
		"another time out of range": {func() error {
			_, err := root.PreviewSchedule(ctx, &almanacv1.PreviewScheduleRequest{Schedule: &almanacv1.Schedule{Type: proto.String("manual")}, After: badTime()})
			return err
		}, codes.InvalidArgument, "after"},
	} {
		if err := c.call(); status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s with %q", name, err, c.code, c.want)
		}
	}
}

// A handler's panic is answered and logged; the process goes on.
func TestPanicIsContained(t *testing.T) {
	r := newRig(t)
	id := r.create("a job", "")
	r.dispatcher.set(func(d *dispatcher) {
		d.settle = func(context.Context, *job.Job, time.Time) (*job.Job, error) { panic("a mistake") }
	})
	a := r.root(http.StatusInternalServerError, http.MethodPut, jobsPath+"/"+id, `{"description": "x"}`)
	if a.reason() != "INTERNAL" || strings.Contains(a.text, "mistake") {
		t.Errorf("answer %s", a.text)
	}
	r.root(http.StatusOK, http.MethodGet, jobsPath+"/"+id, "")
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
		http int
	}{
		{context.Canceled, codes.Canceled, 499},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, 504},
		{fmt.Errorf("%w: %w", job.ErrUnavailable, context.Canceled), codes.Canceled, 499},
		{dispatch.ErrStopped, codes.Unavailable, 503},
		{dispatch.ErrSessionEnded, codes.FailedPrecondition, 409},
		{errors.New("no idea"), codes.Internal, 500},
		{&job.LimitError{What: "jobs", Limit: 3}, codes.ResourceExhausted, 429},
	} {
		if p := explain(c.err, began); p.code != c.code || p.http != c.http || p.GRPCStatus().Code() != c.code {
			t.Errorf("%v: %v %d", c.err, p.code, p.http)
		}
	}
	p := explain(status.Error(codes.DataLoss, "gone"), began)
	if p.code != codes.DataLoss || p.message != "gone" {
		t.Errorf("a status of the library: %+v", p)
	}
	var many violations
	for i := range 100 {
		many.add(fmt.Sprint("f", i), "%s", strings.Repeat("ä", 2000))
	}
	if st := invalid(kindInvalid, many).GRPCStatus(); proto.Size(st.Proto()) > 64<<10 {
		t.Errorf("an answer of %d bytes", proto.Size(st.Proto()))
	}
}

func TestPages(t *testing.T) {
	r := newRig(t)
	home := r.as("", http.MethodGet, "/", "")
	if home.code != 200 || !strings.Contains(home.text, "/openapi.json") || !strings.HasPrefix(home.header.Get("Content-Type"), "text/html") {
		t.Errorf("home: %d %s", home.code, home.text)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
		if got := home.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if csp := home.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy: %q", csp)
	}
	if a := r.as("", http.MethodHead, "/healthz", ""); a.code != 200 || a.text != "" {
		t.Errorf("HEAD: %d %q", a.code, a.text)
	}
	if a := r.as(access.Admin, http.MethodHead, jobsPath, ""); a.code != 200 || a.text != "" {
		t.Errorf("HEAD of the list: %d %q", a.code, a.text)
	}
	if a := r.as("", http.MethodGet, "/healthz", ""); a.text != `{"status":"ok"}`+"\n" {
		t.Errorf("health %s", a.text)
	}
	if a := r.as("", http.MethodGet, "/readyz", ""); a.code != 200 || a.text != `{"ready":true,"reasons":[]}`+"\n" {
		t.Errorf("readiness %s", a.text)
	}
	r.dispatcher.set(func(d *dispatcher) { d.unready = errors.New("not yet") })
	if a := r.as("", http.MethodGet, "/readyz", ""); a.code != 503 || !strings.Contains(a.text, "the dispatcher is not ready") || strings.Contains(a.text, "not yet") {
		t.Errorf("readiness %d %s", a.code, a.text)
	}
	if a := r.as("", http.MethodGet, "/healthz", "", header{headerRequestID, "mine-1"}); a.header.Get(headerRequestID) != "mine-1" {
		t.Errorf("request id %q", a.header.Get(headerRequestID))
	}
	if a := r.as("", http.MethodGet, "/healthz", "", header{headerRequestID, "not mine!"}); a.header.Get(headerRequestID) == "not mine!" || a.header.Get(headerRequestID) == "" {
		t.Errorf("request id %q", a.header.Get(headerRequestID))
	}
}

func TestOpenAPI(t *testing.T) {
	r := newRig(t)
	a := r.as("", http.MethodGet, "/openapi.json", "")
	var doc struct {
		Swagger string
		Info    struct{ Title string }
		Paths   map[string]map[string]struct {
			Parameters []struct {
				Name, In string
				Required bool
			}
			Responses map[string]any
			Security  []any
			Produces  []string
		}
		SecurityDefinitions map[string]struct{ Type, In, Name string }
		Tags                []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(a.text), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Swagger != "2.0" || doc.Info.Title != "Almanac" || doc.SecurityDefinitions["bearer"].Name != "Authorization" {
		t.Errorf("document %+v", doc)
	}
	all, err := routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, rt := range all {
		if _, ok := doc.Paths[rt.pattern][strings.ToLower(rt.httpMethod)]; !ok {
			t.Errorf("%s %s is missing", rt.httpMethod, rt.pattern)
		}
	}
	put := doc.Paths[jobsPath+"/{id}"]["put"]
	var names []string
	for _, p := range put.Parameters {
		names = append(names, p.In+" "+p.Name)
	}
	if want := []string{"path id", "body job", "header If-Match"}; !slices.Equal(names, want) {
		t.Errorf("parameters of PUT: %v", names)
	}
	for path, required := range map[string]bool{
		jobsPath: true, jobsPath + "/{id}/run": false, executionsPath + "/{execution_id}/cancel": false, executionsPath + "/{execution_id}/resolve": true,
		workersPath + "/{id}/drain": false, workersPath + "/{id}/resume": false,
	} {
		for _, p := range doc.Paths[path]["post"].Parameters {
			if p.In == "body" && p.Required != required {
				t.Errorf("the body of POST %s: required is %t", path, p.Required)
			}
		}
	}
	for path, code := range map[string]string{jobsPath: "201", jobsPath + "/{id}/run": "202", jobsPath + "/try": "202", tokensPath: "201", usersPath: "201", sessionPath: "200"} {
		if responses := doc.Paths[path]["post"].Responses; responses[code] == nil || len(responses) != 2 {
			t.Errorf("POST %s answers %v", path, responses)
		}
	}
	for _, path := range []string{"/api/auth/login", sessionPath} {
		if login := doc.Paths[path]["post"]; login.Security == nil || len(login.Security) != 0 {
			t.Errorf("%s asks for %v", path, login.Security)
		}
	}
	if events := doc.Paths[executionsPath+"/{execution_id}/events"]["get"]; !slices.Equal(events.Produces, []string{"application/x-ndjson", "application/json"}) || events.Responses["200"] == nil {
		t.Errorf("events: %v", events)
	}
	for _, tag := range doc.Tags {
		if tag.Name == "LeaseService" {
			t.Error("the lease stream has no REST route")
		}
	}
}

func TestTemplates(t *testing.T) {
	r := newRig(t)
	list := r.as(access.Admin, http.MethodGet, "/api/admin/job-templates", "")
	all, _ := list.body["templates"].([]any)
	if len(all) != 2 || len(list.body) != 1 {
		t.Fatalf("templates %s", list.text)
	}
	one := r.as(access.Admin, http.MethodGet, "/api/admin/job-templates/database_cleanup", "")
	schema := parse(t, string(sampleTemplates()[0].Schema))
	schema["properties"].(map[string]any)["collection"].(map[string]any)["enum"] = []any{"logs", "messages", "sessions", "users"}
	want := map[string]any{
		"id": "database_cleanup", "name": "Database Cleanup", "description": "Remove old records from a database collection", "category": "maintenance",
		"icon": "🧹", "parameters_schema": schema, "estimated_duration": "5-30 minutes", "resource_usage": "low", "risk_level": "medium",
		"idempotent": true, "destructive": true, "version": 1.0, "available": true, "max_concurrency": 2.0,
	}
	if !reflect.DeepEqual(one.body, map[string]any{"template": want, "schema": schema}) {
		t.Errorf("template %s", one.text)
	}
	if !reflect.DeepEqual(all[0], want) {
		t.Errorf("listed %v", all[0])
	}
	r.templates.Withdraw("rig")
	gone := r.as(access.Admin, http.MethodGet, "/api/admin/job-templates/database_cleanup", "")
	if gone.body["template"].(map[string]any)["available"] != false {
		t.Errorf("without executors: %s", gone.text)
	}
	// Known, so that a job can be made, though nobody could run it now.
	r.create("for later", "")
	// So is one that only another registry was told of.
	const elsewhere = `"template_type": "elsewhere", "schedule": {"type": "manual"}`
	if a := r.root(http.StatusBadRequest, http.MethodPost, jobsPath, `{"name": "too early", `+elsewhere+`}`); !a.violates("template_type", "not known") {
		t.Errorf("before it was announced: %s", a.text)
	}
	other := sampleTemplates()[1].Template
	other.Type = "elsewhere"
	if err := r.store.PutTemplates(t.Context(), []job.Template{other}); err != nil {
		t.Fatal(err)
	}
	r.create("from elsewhere", elsewhere)
	r.root(http.StatusOK, http.MethodGet, "/api/admin/job-templates/elsewhere", "")
}

func TestLogIn(t *testing.T) {
	r := newRig(t)
	if _, err := r.guard.AddUser(t.Context(), "ada", access.Admin, "a long enough password", "test", "local"); err != nil {
		t.Fatal(err)
	}
	const path = "/api/auth/login"
	a := r.as("", http.MethodPost, path, `{"username": "ada", "password": "a long enough password"}`)
	token, _ := a.body["token"].(string)
	if a.code != 200 || a.body["username"] != "ada" || a.body["role"] != "admin" || a.body["expires_at"] != "2026-11-24T00:00:00Z" {
		t.Fatalf("login: %d %s", a.code, a.text)
	}
	r.tokens["ada"] = token
	if got := r.as("ada", http.MethodGet, jobsPath, ""); got.code != 200 {
		t.Errorf("with its token: %d", got.code)
	}
	wrong := r.as("", http.MethodPost, path, `{"username": "ada", "password": "wrong"}`)
	unknown := r.as("", http.MethodPost, path, `{"username": "nobody", "password": "wrong"}`)
	if wrong.code != 401 || wrong.reason() != "LOGIN_FAILED" || wrong.text == "" || !reflect.DeepEqual(wrong.body, unknown.body) {
		t.Errorf("wrong: %d %s; unknown: %d %s", wrong.code, wrong.text, unknown.code, unknown.text)
	}
	if a := r.as("", http.MethodPost, path, `{"username": "ada"}`); a.code != 400 || !a.violates("password", "at least 1") {
		t.Errorf("without a password: %s", a.text)
	}
	for range 4 {
		r.as("", http.MethodPost, path, `{"username": "ada", "password": "wrong"}`)
	}
	if a := r.as("", http.MethodPost, path, `{"username": "ada", "password": "wrong"}`); a.code != 429 || a.reason() != "TOO_MANY_ATTEMPTS" || a.header.Get("Retry-After") != "1" {
		t.Errorf("too often: %d %s", a.code, a.text)
	}
}
