package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const lease = "/almanac.v1.LeaseService/Lease"

// memory is a store of users and tokens. fail, when set, is every answer to a
// question and to what adds; failWrite that to what changes. reading is called
// between a look at a token and its answer.
type memory struct {
	mu        sync.Mutex
	users     map[string]store.User
	tokens    map[string]store.Token
	audits    []store.Audit
	reads     int
	reading   func()
	fail      error
	failWrite error
}

func (m *memory) AddUser(_ context.Context, u store.User, a *store.Audit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.users[u.Name]; ok {
		return job.ErrUserExists
	}
	m.users[u.Name] = u
	m.record(a)
	return m.fail
}

func (m *memory) record(a *store.Audit) {
	if a != nil {
		m.audits = append(m.audits, *a)
	}
}

func (m *memory) Users(context.Context) ([]store.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.users), func(a, b store.User) int { return strings.Compare(a.Name, b.Name) }), m.fail
}

func (m *memory) UserByName(_ context.Context, name string) (store.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, ok := m.users[name]
	if m.fail == nil && !ok {
		return u, job.ErrNotFound
	}
	return u, m.fail
}

func (m *memory) ChangeUser(_ context.Context, c store.ChangeUser) (store.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, ok := m.users[c.Name]
	if !ok {
		return u, job.ErrNotFound
	}
	if c.Role != nil {
		u.Role = *c.Role
	}
	if c.PasswordHash != nil {
		u.PasswordHash = *c.PasswordHash
	}
	m.users[c.Name] = u
	m.record(c.Audit)
	return u, m.failWrite
}

func (m *memory) RemoveUser(_ context.Context, name string, a *store.Audit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.users, name)
	maps.DeleteFunc(m.tokens, func(_ string, t store.Token) bool { return t.User == name })
	m.record(a)
	return m.failWrite
}

func (m *memory) AddToken(_ context.Context, t store.Token, a *store.Audit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[t.Hash] = t
	m.record(a)
	return cmp.Or(m.fail, m.failWrite)
}

func (m *memory) Tokens(_ context.Context, user string) ([]store.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Token
	for _, t := range m.tokens {
		if t.User == user {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b store.Token) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.Hash, b.Hash))
	})
	return out, m.fail
}

func (m *memory) DeleteTokens(_ context.Context, user string, hashes []string, a *store.Audit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.tokens, func(hash string, t store.Token) bool { return t.User == user && slices.Contains(hashes, hash) })
	m.record(a)
	return m.failWrite
}

func (m *memory) TokenOwner(_ context.Context, hash string) (store.Token, store.User, error) {
	t, u, err := m.owner(hash)
	if m.reading != nil {
		m.reading()
	}
	return t, u, err
}

func (m *memory) owner(hash string) (store.Token, store.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	t, ok := m.tokens[hash]
	if m.fail == nil && !ok {
		return t, store.User{}, job.ErrNotFound
	}
	return t, m.users[t.User], m.fail
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const (
	password      = "correct horse battery"
	executorToken = "executors-share-this-one"
)

func newGuard(t *testing.T) (*Guard, *memory, *clock) {
	t.Helper()
	m := &memory{users: map[string]store.User{}, tokens: map[string]store.Token{}}
	c := &clock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	g, err := New(m, executorToken, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.AddUser(t.Context(), "ada", SuperAdmin, password, "root", "local"); err != nil {
		t.Fatal(err)
	}
	return g, m, c
}

func TestAddUserKeepsNoPassword(t *testing.T) {
	g, m, _ := newGuard(t)
	u := m.users["ada"]
	if !strings.HasPrefix(u.PasswordHash, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(u.PasswordHash, password) {
		t.Errorf("kept %q", u.PasswordHash)
	}
	a := m.audits[0]
	if a.Action != "user.add" || a.Object != "ada" || a.User != "root" || a.Address != "local" || string(a.After) != `{"role":"super_admin","username":"ada"}` {
		t.Errorf("audit %+v, after %s", a, a.After)
	}
	for _, c := range []struct {
		name     string
		role     Role
		password string
		want     string
	}{
		{"ada", Admin, password, "exists"},
		{"", Admin, password, "username"},
		{"two words", Admin, password, "username"},
		{"bob", "root", password, "role"},
		{"bob", Admin, "short", "password"},
		{"bob", Admin, strings.Repeat("x", mostPassword+1), "password"},
	} {
		if _, err := g.AddUser(t.Context(), c.name, c.role, c.password, "root", "local"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("AddUser(%q, %q): %v, want one about the %s", c.name, c.role, err, c.want)
		}
	}
}

func TestTokens(t *testing.T) {
	g, m, c := newGuard(t)
	ctx := t.Context()
	_, token, err := g.CreateToken(ctx, "ada", "test", c.Now().Add(time.Hour), "ada", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(token, "alm_") || len(token) != 4+52 {
		t.Errorf("token %q", token)
	}
	for hash := range m.tokens {
		if len(hash) != 64 || strings.Contains(hash, token) {
			t.Errorf("kept %q of the token", hash)
		}
	}
	const method = "/almanac.v1.JobService/CreateJob"
	id, err := g.Check(ctx, method, "Bearer "+token)
	if err != nil || id.User != "ada" || id.Role != SuperAdmin || id.Executor {
		t.Fatalf("Check: %+v, %v", id, err)
	}
	if _, err := g.Check(ctx, method, "bearer  "+token); err != nil {
		t.Errorf("a scheme in lower case: %v", err)
	}
	if m.reads != 1 {
		t.Errorf("the store was asked %d times within the cache's time", m.reads)
	}
	c.add(cacheFor)
	if _, err := g.Check(ctx, method, "Bearer "+token); err != nil || m.reads != 2 {
		t.Errorf("after the cache's time: %v, %d reads", err, m.reads)
	}
	for _, header := range []string{"", "Bearer", "Bearer ", "Basic " + token, token} {
		if _, err := g.Check(ctx, method, header); !errors.Is(err, ErrNoToken) {
			t.Errorf("%q: %v", header, err)
		}
	}
	for _, header := range []string{"Bearer nonsense", "Bearer alm_unknown", "Bearer " + token + "x"} {
		if _, err := g.Check(ctx, method, header); !errors.Is(err, ErrBadToken) {
			t.Errorf("%q: %v", header, err)
		}
	}
	c.add(time.Hour)
	if _, err := g.Check(ctx, method, "Bearer "+token); !errors.Is(err, ErrBadToken) {
		t.Errorf("expired: %v", err)
	}
	if _, _, err := g.CreateToken(ctx, "nobody", "test", time.Time{}, "x", "y"); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("a token for nobody: %v", err)
	}
}

// A token that expires while it is remembered is refused at that moment.
func TestCacheEndsWithTheToken(t *testing.T) {
	g, _, c := newGuard(t)
	_, token, err := g.CreateToken(t.Context(), "ada", "test", c.Now().Add(time.Second), "ada", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	const method = "/almanac.v1.JobService/ListJobs"
	if _, err := g.Check(t.Context(), method, "Bearer "+token); err != nil {
		t.Fatal(err)
	}
	c.add(time.Second)
	if _, err := g.Check(t.Context(), method, "Bearer "+token); !errors.Is(err, ErrBadToken) {
		t.Errorf("expired in the cache: %v", err)
	}
}

func TestUnavailableStoreIsNotABadToken(t *testing.T) {
	g, m, _ := newGuard(t)
	m.fail = fmt.Errorf("disk: %w", job.ErrUnavailable)
	if _, err := g.Check(t.Context(), "/almanac.v1.JobService/ListJobs", "Bearer alm_x"); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("Check: %v", err)
	}
	if _, err := g.LogIn(t.Context(), "ada", password, "10.0.0.1"); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("LogIn: %v", err)
	}
	if _, _, err := g.CreateToken(t.Context(), "ada", "test", time.Time{}, "x", "y"); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("CreateToken: %v", err)
	}
	if _, err := g.AddUser(t.Context(), "bob", User, password, "", ""); !errors.Is(err, job.ErrUnavailable) {
		t.Errorf("AddUser: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	g, _, c := newGuard(t)
	for i := range cacheMost {
		g.cache[fmt.Sprint(i)] = cached{until: c.Now().Add(time.Hour)}
	}
	_, token, err := g.CreateToken(t.Context(), "ada", "test", time.Time{}, "ada", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Check(t.Context(), "/almanac.v1.JobService/ListJobs", "Bearer "+token); err != nil {
		t.Fatal(err)
	}
	if len(g.cache) != 1 {
		t.Errorf("%d tokens remembered", len(g.cache))
	}
}

func TestExecutorsAndUsersAreApart(t *testing.T) {
	g, m, clk := newGuard(t)
	ctx := t.Context()
	id, err := g.Check(ctx, lease, "Bearer "+executorToken)
	if err != nil || !id.Executor {
		t.Fatalf("an executor: %+v, %v", id, err)
	}
	var denied *DeniedError
	for method := range rules {
		if method == lease || Public(method) {
			continue
		}
		if _, err := g.Check(ctx, method, "Bearer "+executorToken); !errors.As(err, &denied) {
			t.Errorf("an executor at %s: %v", method, err)
		}
	}
	_, token, err := g.CreateToken(ctx, "ada", "test", time.Time{}, "ada", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Check(ctx, lease, "Bearer "+token); !errors.As(err, &denied) {
		t.Errorf("a super admin at the lease stream: %v", err)
	}
	none, err := New(m, "", clk.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Check(ctx, lease, "Bearer "); !errors.Is(err, ErrNoToken) {
		t.Errorf("an empty token where executors have none: %v", err)
	}
	if _, err := none.Check(ctx, lease, "Bearer "+executorToken); !errors.Is(err, ErrBadToken) {
		t.Errorf("an executor where they have no token: %v", err)
	}
}

func TestAuthorize(t *testing.T) {
	// What each role may call; the rest is denied.
	public := []string{
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List",
		"/almanac.v1.AuthService/LogIn", "/almanac.v1.AuthService/StartSession",
	}
	user := append([]string{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		"/almanac.v1.AuthService/GetSession", "/almanac.v1.AuthService/EndSession", "/almanac.v1.AuthService/ChangePassword",
		"/almanac.v1.AuthService/ListTokens", "/almanac.v1.AuthService/CreateToken", "/almanac.v1.AuthService/RevokeToken",
	}, public...)
	admin := append([]string{
		"/almanac.v1.JobService/ListJobs", "/almanac.v1.JobService/GetJob", "/almanac.v1.JobService/RunJob", "/almanac.v1.JobService/PreviewSchedule",
		"/almanac.v1.TemplateService/ListTemplates", "/almanac.v1.TemplateService/GetTemplate", "/almanac.v1.ExecutionService/ListExecutions",
		"/almanac.v1.ExecutionService/GetExecution", "/almanac.v1.ExecutionService/ListLogs", "/almanac.v1.ExecutionService/CancelExecution",
		"/almanac.v1.ExecutionService/ListActivity", "/almanac.v1.ExecutionService/WatchExecution",
		"/almanac.v1.WorkerService/ListWorkers", "/almanac.v1.WorkerService/ListRegistries",
		"/almanac.v1.StatisticsService/GetOverview", "/almanac.v1.StatisticsService/GetStatistics", "/almanac.v1.StatisticsService/ListUpcoming",
	}, user...)
	superAdmin := append([]string{
		"/almanac.v1.JobService/CreateJob", "/almanac.v1.JobService/UpdateJob", "/almanac.v1.JobService/DeleteJob", "/almanac.v1.JobService/TryJob",
		"/almanac.v1.ExecutionService/ResolveExecution", "/almanac.v1.AuditService/ListAudit",
		"/almanac.v1.WorkerService/DrainWorker", "/almanac.v1.WorkerService/ResumeWorker",
		"/almanac.v1.UserService/ListUsers", "/almanac.v1.UserService/AddUser", "/almanac.v1.UserService/UpdateUser", "/almanac.v1.UserService/RemoveUser",
	}, admin...)
	for method := range rules {
		if method != lease && !slices.Contains(superAdmin, method) {
			t.Errorf("%s has a rule and is not in this table", method)
		}
	}
	for _, c := range []struct {
		role Role
		may  []string
	}{{"", public}, {"intruder", public}, {User, user}, {Admin, admin}, {SuperAdmin, superAdmin}} {
		for _, method := range append([]string{lease, "/almanac.v1.JobService/Unheard", "/other.Service/Do", ""}, superAdmin...) {
			want := false
			for _, m := range c.may {
				want = want || m == method
			}
			if err := Authorize(Identity{User: "x", Role: c.role}, method); (err == nil) != want {
				t.Errorf("role %q at %q: %v", c.role, method, err)
			}
		}
	}
}

func TestMayRun(t *testing.T) {
	const dry = "dryRun"
	for _, c := range []struct {
		name       string
		run        Run
		admin, all bool
	}{
		{"harmless template", Run{Overrides: []string{"message"}}, true, true},
		{"destructive template, dry", Run{DestructiveTemplate: true}, true, true},
		{"destructive run", Run{DestructiveTemplate: true, Destructive: true}, false, true},
		{"made dry by override", Run{DestructiveTemplate: true, Overrides: []string{dry}}, true, true},
		{"dry, but elsewhere", Run{DestructiveTemplate: true, Overrides: []string{dry, "collection"}}, false, true},
		{"elsewhere", Run{DestructiveTemplate: true, Overrides: []string{"collection"}}, false, true},
		{"made wet by override", Run{DestructiveTemplate: true, Destructive: true, Overrides: []string{dry}}, false, true},
	} {
		c.run.DryRunParam = dry
		if err := (Identity{Role: Admin}).MayRun(c.run); (err == nil) != c.admin {
			t.Errorf("%s, admin: %v", c.name, err)
		}
		if err := (Identity{Role: SuperAdmin}).MayRun(c.run); (err == nil) != c.all {
			t.Errorf("%s, super admin: %v", c.name, err)
		}
	}
}

func TestMayCancel(t *testing.T) {
	for _, c := range []struct {
		id   Identity
		by   string
		want bool
	}{
		{Identity{User: "ada", Role: Admin}, "ada", true},
		{Identity{User: "ada", Role: Admin}, "bob", false},
		{Identity{User: "ada", Role: Admin}, "", false},
		{Identity{Role: Admin}, "", false},
		{Identity{User: "root", Role: SuperAdmin}, "", true},
	} {
		if err := c.id.MayCancel(c.by); (err == nil) != c.want {
			t.Errorf("%+v cancels a run of %q: %v", c.id, c.by, err)
		}
	}
}

func TestLogIn(t *testing.T) {
	g, m, c := newGuard(t)
	ctx := t.Context()
	in, err := g.LogIn(ctx, "ada", password, "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if in.User != "ada" || in.Role != SuperAdmin || !in.ExpiresAt.Equal(c.Now().Add(12*time.Hour)) {
		t.Errorf("login %+v", in)
	}
	if _, err := g.Check(ctx, "/almanac.v1.JobService/ListJobs", "Bearer "+in.Token); err != nil {
		t.Errorf("its token: %v", err)
	}
	m.users["robot"] = store.User{Name: "robot", Role: "admin"} // no password: tokens only
	for _, c := range []struct{ name, password string }{{"ada", "wrong"}, {"nobody", password}, {"robot", ""}, {"robot", password}} {
		if _, err := g.LogIn(ctx, c.name, c.password, "10.0.0.2"); !errors.Is(err, ErrBadLogin) {
			t.Errorf("%s with %q: %v", c.name, c.password, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for range cap(g.hashers) {
		g.hashers <- struct{}{}
	}
	if _, err := g.LogIn(ended, "ada", password, "10.0.0.3"); !errors.Is(err, context.Canceled) {
		t.Errorf("while all hashers are busy: %v", err)
	}
}

func TestLogInSlowsDown(t *testing.T) {
	g, _, c := newGuard(t)
	ctx := t.Context()
	for i := range freeForUser {
		if _, err := g.LogIn(ctx, "ada", "wrong", fmt.Sprintf("10.0.0.%d", i)); !errors.Is(err, ErrBadLogin) {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	var slow *SlowDownError
	if _, err := g.LogIn(ctx, "ada", password, "10.1.0.1"); !errors.As(err, &slow) || slow.Wait != time.Second {
		t.Fatalf("after %d failures: %v", freeForUser, err)
	}
	if got := slow.Error(); !strings.Contains(got, "1 s") {
		t.Errorf("it says %q", got)
	}
	c.add(slow.Wait)
	if _, err := g.LogIn(ctx, "ada", password, "10.1.0.1"); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	if _, err := g.LogIn(ctx, "ada", "wrong", "10.1.0.1"); !errors.Is(err, ErrBadLogin) {
		t.Errorf("a success forgets the failures: %v", err)
	}
}

func TestSlowdown(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := newSlowdown()
	for i := range freeForAddress {
		if wait := s.attempt(fmt.Sprint("user", i), "10.0.0.1", now); wait != 0 {
			t.Fatalf("attempt %d waits %s", i, wait)
		}
	}
	var waits []time.Duration
	for range 12 {
		wait := s.attempt("somebody", "10.0.0.1", now)
		waits = append(waits, wait)
		now = now.Add(wait)
		if again := s.attempt(fmt.Sprint("user", now), "10.0.0.1", now); again != 0 {
			t.Fatalf("after the wait: %s more", again)
		}
	}
	for i, want := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300} {
		if waits[i] != time.Duration(want)*time.Second {
			t.Errorf("wait %d of an address is %s, want %d s", i, waits[i], want)
		}
	}
	s.succeeded("somebody", "10.0.0.1")
	if wait := s.attempt("somebody", "10.0.0.1", now); wait != 0 {
		t.Errorf("after a success: %s", wait)
	}
	now = now.Add(forgetAfter)
	if wait := s.attempt("somebody", "10.0.0.1", now); wait != 0 || s.tries[try{address: "10.0.0.1"}].failures != 1 {
		t.Errorf("after quiet: %s, %+v", wait, s.tries[try{address: "10.0.0.1"}])
	}
	// A user's wait is bounded sooner: strangers bring it about.
	for i := range 40 {
		wait := s.attempt("victim", fmt.Sprint("10.2.0.", i), now)
		if wait > mostForUser {
			t.Fatalf("a user waits %s", wait)
		}
		now = now.Add(wait)
	}
}

func TestSlowdownIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := newSlowdown()
	for i := range slowdownMost {
		s.attempt(fmt.Sprint("u", i), fmt.Sprint("a", i), now)
	}
	if len(s.tries) > slowdownMost+1 {
		t.Errorf("%d remembered", len(s.tries))
	}
	s.attempt("late", "late", now.Add(forgetAfter))
	if len(s.tries) > 3 {
		t.Errorf("%d remembered after all grew old", len(s.tries))
	}
}
