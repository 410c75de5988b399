package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const usersPath = "/api/admin/users"

func TestUsers(t *testing.T) {
	r := newRig(t)
	made := r.root(http.StatusCreated, http.MethodPost, usersPath, `{"username": "ada", "role": "admin", "password": "correct horse battery"}`)
	want := map[string]any{"username": "ada", "role": "admin", "created_at": "2026-11-23T12:00:00Z", "has_password": true}
	if made.body["message"] != "User added" || fmt.Sprint(made.body["user"]) != fmt.Sprint(want) {
		t.Errorf("made %s", made.text)
	}
	list, _ := r.root(http.StatusOK, http.MethodGet, usersPath, "").body["users"].([]any)
	if len(list) != 4 || fmt.Sprint(list[3]) != fmt.Sprint(want) || list[0].(map[string]any)["has_password"] != false {
		t.Errorf("users %v", list)
	}
	for name, c := range map[string]struct {
		method, path, body, field, reason string
		code                              int
	}{
		"taken":         {"POST", "", `{"username": "ada", "role": "admin", "password": "correct horse battery"}`, "username", "USER_EXISTS", 409},
		"two words":     {"POST", "", `{"username": "a b", "role": "admin", "password": "correct horse battery"}`, "username", "INVALID_REQUEST", 400},
		"no role":       {"POST", "", `{"username": "bob", "password": "correct horse battery"}`, "role", "INVALID_REQUEST", 400},
		"unknown role":  {"POST", "", `{"username": "bob", "role": "root", "password": "correct horse battery"}`, "role", "INVALID_REQUEST", 400},
		"weak":          {"POST", "", `{"username": "bob", "role": "admin", "password": "short"}`, "password", "INVALID_REQUEST", 400},
		"no password":   {"POST", "", `{"username": "bob", "role": "admin"}`, "password", "INVALID_REQUEST", 400},
		"nothing":       {"PUT", "/ada", `{}`, "", "INVALID_REQUEST", 400},
		"weak, changed": {"PUT", "/ada", `{"password": "short"}`, "password", "INVALID_REQUEST", 400},
		"role, changed": {"PUT", "/ada", `{"role": "root"}`, "role", "INVALID_REQUEST", 400},
		"unknown":       {"PUT", "/bob", `{"role": "user"}`, "", "NOT_FOUND", 404},
		"gone":          {"DELETE", "/bob", ``, "", "NOT_FOUND", 404},
		"oneself":       {"PUT", "/a_super_admin", `{"role": "admin"}`, "", "OWN_ACCOUNT", 409},
		"oneself, gone": {"DELETE", "/a_super_admin", ``, "", "OWN_ACCOUNT", 409},
		"own password":  {"PUT", "/a_super_admin", `{"password": "correct horse battery"}`, "password", "INVALID_REQUEST", 400},
	} {
		a := r.as(access.SuperAdmin, c.method, usersPath+c.path, c.body)
		if a.code != c.code || a.reason() != c.reason || c.field != "" && !a.violates(c.field, "") {
			t.Errorf("%s: %d %s", name, a.code, a.text)
		}
	}

	// What holds for a user changes at once.
	b, _ := r.logIn(adasPassword)
	b.expect(http.StatusOK, http.MethodGet, jobsPath, "")
	if a := r.root(http.StatusOK, http.MethodPut, usersPath+"/ada", `{"role": "user"}`); a.body["message"] != "User updated" || a.body["user"].(map[string]any)["role"] != "user" {
		t.Errorf("changed %s", a.text)
	}
	b.expect(http.StatusForbidden, http.MethodGet, jobsPath, "")
	r.root(http.StatusOK, http.MethodPut, usersPath+"/ada", `{"role": "admin", "password": "a password that is new"}`)
	b.expect(http.StatusUnauthorized, http.MethodGet, jobsPath, "")
	if _, a := r.logIn(adasPassword); a.code != 401 {
		t.Errorf("with the old password: %d", a.code)
	}
	b, _ = r.logIn("a password that is new")
	b.expect(http.StatusOK, http.MethodGet, jobsPath, "")
	// One's own role as it is changes nothing.
	r.root(http.StatusOK, http.MethodPut, usersPath+"/a_super_admin", `{"role": "super_admin"}`)
	if a := r.root(http.StatusOK, http.MethodDelete, usersPath+"/ada", ""); a.body["message"] != "User removed" {
		t.Errorf("removed %s", a.text)
	}
	b.expect(http.StatusUnauthorized, http.MethodGet, jobsPath, "")

	log := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object=ada", "")
	entries, _ := log.body["entries"].([]any)
	var got []string
	for _, e := range entries {
		e, _ := e.(map[string]any)
		before, _ := e["before"].(map[string]any)
		after, _ := e["after"].(map[string]any)
		got = append(got, fmt.Sprintf("%v by %v: %v %v -> %v %v", e["action"], e["user"], before["role"], before["password"], after["role"], after["password"]))
	}
	wantLog := []string{
		"user.remove by a_super_admin: admin <nil> -> <nil> <nil>",
		"user.update by a_super_admin: user <nil> -> admin changed",
		"user.update by a_super_admin: admin <nil> -> user <nil>",
		"user.add by a_super_admin: <nil> <nil> -> admin <nil>",
	}
	if fmt.Sprint(got) != fmt.Sprint(wantLog) || strings.Contains(log.text, "argon2") {
		t.Errorf("audit:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(wantLog, "\n"))
	}
}

// Two super admins who take each other's role at once leave one.
func TestLastSuperAdmin(t *testing.T) {
	r := newRig(t)
	p := explain(fmt.Errorf("change user ada: %w", job.ErrLastAdmin), began)
	if p.kind != kindLastAdmin || p.http != 409 || !strings.Contains(p.message, "make somebody else one first") {
		t.Errorf("%+v", p)
	}
	// Through the API nobody can try it on themselves, so: one who was removed
	// a moment ago and is still remembered.
	if _, err := r.store.ChangeUser(t.Context(), store.ChangeUser{Name: "a_admin", Role: ptr("super_admin")}); err != nil {
		t.Fatal(err)
	}
	r.as(access.Admin, http.MethodGet, usersPath, "")
	if _, err := r.store.ChangeUser(t.Context(), store.ChangeUser{Name: "a_admin", Role: ptr("user")}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, body string }{{"PUT", `{"role": "user"}`}, {"DELETE", ""}} {
		if a := r.as(access.Admin, c.method, usersPath+"/a_super_admin", c.body); a.code != 409 || a.reason() != "LAST_ADMIN" {
			t.Errorf("%s: %d %s", c.method, a.code, a.text)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// silent is a store that knows who somebody is and nothing else.
type silent struct{ access.Store }

func (silent) AddUser(context.Context, store.User, *store.Audit) error { return errOutage }

func (silent) Users(context.Context) ([]store.User, error) { return nil, errOutage }

func (silent) UserByName(context.Context, string) (store.User, error) { return store.User{}, errOutage }

func (silent) Tokens(context.Context, string) ([]store.Token, error) { return nil, errOutage }

func (silent) DeleteTokens(context.Context, string, []string, *store.Audit) error { return errOutage }

func TestOutageOfUsersAndTokens(t *testing.T) {
	r := newRig(t, func(c *Config) {
		guard, err := access.New(silent{c.Store.(access.Store)}, executorSecret, c.Now)
		if err != nil {
			t.Fatal(err)
		}
		c.Guard = guard
	})
	for _, c := range []struct{ method, path, body string }{
		{"POST", sessionPath, `{"username": "ada", "password": "x"}`},
		{"DELETE", sessionPath, ""},
		{"POST", passwordPath, `{"current_password": "x", "new_password": "correct horse battery"}`},
		{"GET", tokensPath, ""},
		{"POST", tokensPath, `{"name": "x"}`},
		{"DELETE", tokensPath + "/x", ""},
		{"GET", usersPath, ""},
		{"POST", usersPath, `{"username": "bob", "role": "user", "password": "correct horse battery"}`},
		{"PUT", usersPath + "/bob", `{"role": "user"}`},
		{"DELETE", usersPath + "/bob", ""},
	} {
		a := r.as(access.SuperAdmin, c.method, c.path, c.body)
		if a.code != 503 || a.header.Get("Retry-After") != "1" || a.reason() != "UNAVAILABLE" || strings.Contains(a.text, "fire") {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.code, a.text)
		}
	}
}
