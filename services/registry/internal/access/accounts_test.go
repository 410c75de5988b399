package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	anyMethod  = "/almanac.v1.AuthService/GetSession"
	rootMethod = "/almanac.v1.UserService/ListUsers"
	address    = "10.0.0.1"
)

// who identifies the owner of a token.
func who(t *testing.T, g *Guard, token string) Identity {
	t.Helper()
	id, err := g.Check(t.Context(), anyMethod, "Bearer "+token)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func bad(g *Guard, t *testing.T, token string) bool {
	t.Helper()
	_, err := g.Check(t.Context(), anyMethod, "Bearer "+token)
	return errors.Is(err, ErrBadToken)
}

func TestKindsOfTokens(t *testing.T) {
	g, m, c := newGuard(t)
	login, err := g.LogIn(t.Context(), "ada", password, address)
	if err != nil {
		t.Fatal(err)
	}
	session, err := g.StartSession(t.Context(), "ada", password, address)
	if err != nil {
		t.Fatal(err)
	}
	made, personal, err := g.CreateToken(t.Context(), "ada", "script", time.Time{}, "ada", address)
	if err != nil {
		t.Fatal(err)
	}
	for kind, token := range map[string]string{store.TokenLogin: login.Token, store.TokenSession: session.Token, store.TokenPersonal: personal} {
		id := who(t, g, token)
		if id.Token.Kind != kind || id.Token.Hash != hashOf(token) || id.Token.User != "ada" {
			t.Errorf("%s: %+v", kind, id)
		}
		_, err := g.CheckSession(t.Context(), anyMethod, token)
		if want := kind != store.TokenSession; errors.Is(err, ErrBadToken) != want {
			t.Errorf("%s as a cookie: %v", kind, err)
		}
	}
	if _, err := g.CheckSession(t.Context(), anyMethod, executorToken); !errors.Is(err, ErrBadToken) {
		t.Errorf("the executors' token as a cookie: %v", err)
	}
	if _, err := g.CheckSession(t.Context(), lease, session.Token); !isDenied(err) {
		t.Errorf("a session where it may not be: %v", err)
	}
	if _, err := g.CheckSession(t.Context(), "/almanac.v1.AuthService/LogIn", "nonsense"); err != nil {
		t.Errorf("an old cookie where none is needed: %v", err)
	}
	if id := TokenID(made); len(id) != 16 || !strings.HasPrefix(made.Hash, id) {
		t.Errorf("id %q of %q", id, made.Hash)
	}
	if got := len(m.audits); got != 2 || m.audits[1].Action != "token.create" || m.audits[1].Object != "ada" ||
		string(m.audits[1].After) != fmt.Sprintf(`{"expires_at":null,"id":%q,"kind":"personal","name":"script"}`, TokenID(made)) {
		t.Errorf("audits %+v", m.audits)
	}
	c.add(12 * time.Hour)
	if !bad(g, t, session.Token) || !bad(g, t, login.Token) || bad(g, t, personal) {
		t.Error("after twelve hours only what was made to last is good")
	}
}

func isDenied(err error) bool {
	var denied *DeniedError
	return errors.As(err, &denied)
}

func TestRevoke(t *testing.T) {
	g, m, _ := newGuard(t)
	if _, err := g.AddUser(t.Context(), "bob", Admin, password, "root", "local"); err != nil {
		t.Fatal(err)
	}
	made, secret, err := g.CreateToken(t.Context(), "ada", "script", time.Time{}, "ada", address)
	if err != nil {
		t.Fatal(err)
	}
	ada := who(t, g, secret)
	if err := g.RevokeToken(t.Context(), Identity{User: "bob"}, TokenID(made), address); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("by another user: %v", err)
	}
	if err := g.RevokeToken(t.Context(), ada, "", address); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("no id: %v", err)
	}
	if err := g.RevokeToken(t.Context(), ada, TokenID(made), address); err != nil || !bad(g, t, secret) {
		t.Errorf("a revoked token is remembered, or %v", err)
	}
	if a := m.audits[len(m.audits)-1]; a.Action != "token.revoke" || a.User != "ada" || a.Address != address || a.After != nil || !strings.Contains(string(a.Before), "script") {
		t.Errorf("audit %+v", a)
	}
	session, err := g.StartSession(t.Context(), "ada", password, address)
	if err != nil {
		t.Fatal(err)
	}
	audits := len(m.audits)
	if err := g.EndSession(t.Context(), who(t, g, session.Token), address); err != nil || !bad(g, t, session.Token) || len(m.audits) != audits {
		t.Errorf("after a session's end: %v, %d audits more", err, len(m.audits)-audits)
	}
}

// What was read before a change must not be remembered after it.
func TestForgettingIsNotOvertaken(t *testing.T) {
	g, m, _ := newGuard(t)
	_, secret, err := g.CreateToken(t.Context(), "ada", "script", time.Time{}, "ada", address)
	if err != nil {
		t.Fatal(err)
	}
	m.reading = func() {
		m.reading = nil
		if err := g.RevokeToken(t.Context(), Identity{User: "ada"}, TokenID(store.Token{Hash: hashOf(secret)}), address); err != nil {
			t.Error(err)
		}
	}
	_, _ = g.Check(t.Context(), anyMethod, "Bearer "+secret) // it began before
	if !bad(g, t, secret) {
		t.Error("a revoked token was remembered by a request that had begun before")
	}
}

func TestPersonalTokensAreLimited(t *testing.T) {
	g, m, c := newGuard(t)
	for i := range mostTokens {
		if _, _, err := g.CreateToken(t.Context(), "ada", fmt.Sprint(i), c.Now().Add(time.Hour), "ada", address); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.LogIn(t.Context(), "ada", password, address); err != nil {
		t.Errorf("logins are of another kind: %v", err)
	}
	var limit *job.LimitError
	if _, _, err := g.CreateToken(t.Context(), "ada", "more", time.Time{}, "ada", address); !errors.As(err, &limit) || limit.Limit != mostTokens {
		t.Errorf("one more: %v", err)
	}
	c.add(time.Hour)
	if _, _, err := g.CreateToken(t.Context(), "ada", "more", time.Time{}, "ada", address); err != nil {
		t.Errorf("after the others expired: %v", err)
	}
	m.fail = job.ErrUnavailable
	if _, err := g.Tokens(t.Context(), "ada"); !errors.Is(err, job.ErrUnavailable) {
		t.Error(err)
	}
}

func TestChangePassword(t *testing.T) {
	g, m, c := newGuard(t)
	const next = "battery staple horse"
	here, err := g.StartSession(t.Context(), "ada", password, address)
	if err != nil {
		t.Fatal(err)
	}
	there, err := g.LogIn(t.Context(), "ada", password, address)
	if err != nil {
		t.Fatal(err)
	}
	_, personal, err := g.CreateToken(t.Context(), "ada", "script", time.Time{}, "ada", address)
	if err != nil {
		t.Fatal(err)
	}
	ada := who(t, g, here.Token)
	for _, wrong := range []struct {
		current, next string
		want          string
	}{{password, password, "differ"}, {password, "short", "12 to 1000"}, {"wrong", next, ErrWrongPassword.Error()}} {
		if err := g.ChangePassword(t.Context(), ada, wrong.current, wrong.next, address); err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("from %q to %q: %v", wrong.current, wrong.next, err)
		}
	}
	if bad(g, t, there.Token) {
		t.Error("a change that failed ended a session")
	}
	if err := g.ChangePassword(t.Context(), ada, password, next, address); err != nil {
		t.Fatal(err)
	}
	if bad(g, t, here.Token) || bad(g, t, personal) || !bad(g, t, there.Token) {
		t.Error("all sessions but this one end, and personal tokens stay")
	}
	a := m.audits[len(m.audits)-1]
	if a.Action != "user.update" || string(a.After) != `{"password":"changed","role":"super_admin","username":"ada"}` || string(a.Before) != `{"role":"super_admin","username":"ada"}` {
		t.Errorf("audit %s: %s -> %s", a.Action, a.Before, a.After)
	}
	if _, err := g.LogIn(t.Context(), "ada", password, address); !errors.Is(err, ErrBadLogin) {
		t.Errorf("the old password: %v", err)
	}
	for range freeForUser {
		_ = g.ChangePassword(t.Context(), ada, "wrong", password, address)
	}
	var slow *SlowDownError
	if err := g.ChangePassword(t.Context(), ada, next, password, address); !errors.As(err, &slow) {
		t.Errorf("after %d wrong ones: %v", freeForUser, err)
	}
	c.add(time.Minute)
	for _, fail := range []*error{&m.failWrite, &m.fail} {
		*fail = job.ErrUnavailable
		if err := g.ChangePassword(t.Context(), ada, next, password, address); !errors.Is(err, job.ErrUnavailable) {
			t.Errorf("in an outage: %v", err)
		}
		*fail = nil
	}
}

func TestUpdateUser(t *testing.T) {
	g, m, _ := newGuard(t)
	ada := Identity{User: "ada", Role: SuperAdmin}
	if _, err := g.AddUser(t.Context(), "bob", Admin, password, "ada", address); err != nil {
		t.Fatal(err)
	}
	session, err := g.StartSession(t.Context(), "bob", password, address)
	if err != nil {
		t.Fatal(err)
	}
	_, personal, err := g.CreateToken(t.Context(), "bob", "script", time.Time{}, "bob", address)
	if err != nil {
		t.Fatal(err)
	}
	role := func(r Role) Update { return Update{Role: &r} }
	secret := func(p string) Update { return Update{Password: &p} }
	for name, c := range map[string]struct {
		user   string
		update Update
		want   func(error) bool
	}{
		"nobody":         {"eve", role(User), func(err error) bool { return errors.Is(err, job.ErrNotFound) }},
		"a strange role": {"bob", role("root"), isField("role")},
		"a weak one":     {"bob", secret("short"), isField("password")},
		"one's own role": {"ada", role(User), func(err error) bool { return errors.Is(err, ErrOwnAccount) }},
		"one's own":      {"ada", secret("another good password"), isField("password")},
	} {
		if _, err := g.UpdateUser(t.Context(), ada, c.user, c.update, address); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A role holds at once, though the token was just looked up.
	if _, err := g.Check(t.Context(), rootMethod, "Bearer "+session.Token); !isDenied(err) {
		t.Error(err)
	}
	if u, err := g.UpdateUser(t.Context(), ada, "bob", role(SuperAdmin), address); err != nil || u.Role != "super_admin" {
		t.Error(u, err)
	}
	if id, err := g.Check(t.Context(), rootMethod, "Bearer "+session.Token); err != nil || id.Role != SuperAdmin {
		t.Errorf("after the change: %+v, %v", id, err)
	}
	if _, err := g.UpdateUser(t.Context(), ada, "bob", secret("another good password"), address); err != nil {
		t.Fatal(err)
	}
	if !bad(g, t, session.Token) || bad(g, t, personal) {
		t.Error("a new password ends sessions and nothing else")
	}
	if a := m.audits[len(m.audits)-1]; a.User != "ada" || a.Object != "bob" || string(a.After) != `{"password":"changed","role":"super_admin","username":"bob"}` {
		t.Errorf("audit %+v: %s", a, a.After)
	}

	users, err := g.Users(t.Context())
	if err != nil || len(users) != 2 || users[1].Name != "bob" {
		t.Error(users, err)
	}
	m.failWrite = job.ErrLastAdmin
	if _, err := g.UpdateUser(t.Context(), ada, "bob", role(User), address); !errors.Is(err, job.ErrLastAdmin) {
		t.Errorf("the last: %v", err)
	}
	if err := g.RemoveUser(t.Context(), ada, "bob", address); !errors.Is(err, job.ErrLastAdmin) {
		t.Errorf("the last: %v", err)
	}
}

func isField(name string) func(error) bool {
	return func(err error) bool {
		var field *FieldError
		return errors.As(err, &field) && field.Field == name && strings.HasPrefix(field.Error(), name+" ")
	}
}

func TestRemoveUser(t *testing.T) {
	g, m, _ := newGuard(t)
	ada := Identity{User: "ada", Role: SuperAdmin}
	if _, err := g.AddUser(t.Context(), "bob", Admin, password, "ada", address); err != nil {
		t.Fatal(err)
	}
	_, token, err := g.CreateToken(t.Context(), "bob", "script", time.Time{}, "bob", address)
	if err != nil || bad(g, t, token) {
		t.Fatal(err)
	}
	if err := g.RemoveUser(t.Context(), ada, "ada", address); !errors.Is(err, ErrOwnAccount) {
		t.Errorf("oneself: %v", err)
	}
	if err := g.RemoveUser(t.Context(), ada, "eve", address); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if err := g.RemoveUser(t.Context(), ada, "bob", address); err != nil || !bad(g, t, token) {
		t.Errorf("a removed user is remembered, or %v", err)
	}
	if a := m.audits[len(m.audits)-1]; a.Action != "user.remove" || a.Object != "bob" || a.After != nil || string(a.Before) != `{"role":"admin","username":"bob"}` {
		t.Errorf("audit %+v", a)
	}
	if left := slices.Collect(maps.Keys(m.users)); !slices.Equal(left, []string{"ada"}) {
		t.Errorf("left are %v", left)
	}
	m.fail = job.ErrUnavailable
	if _, err := g.Users(t.Context()); !errors.Is(err, job.ErrUnavailable) {
		t.Error(err)
	}
}
