package api

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
)

const (
	sessionPath  = "/api/auth/session"
	passwordPath = "/api/auth/password"
	tokensPath   = "/api/auth/tokens"
	adasPassword = "correct horse battery"
)

// ada adds a user of that name with a password.
func (r *rig) ada(role access.Role) {
	r.t.Helper()
	if _, err := r.guard.AddUser(r.t.Context(), "ada", role, adasPassword, "test", "local"); err != nil {
		r.t.Fatal(err)
	}
}

// browser is a client that has a cookie.
type browser struct {
	*rig
	cookie string
}

// logIn starts a session of ada's.
func (r *rig) logIn(password string) (*browser, answer) {
	r.t.Helper()
	a := r.as("", http.MethodPost, sessionPath, fmt.Sprintf(`{"username": "ada", "password": %q}`, password))
	if a.code != http.StatusOK {
		return nil, a
	}
	cookies := a.header.Values("Set-Cookie")
	if len(cookies) != 1 {
		r.t.Fatalf("cookies %q", cookies)
	}
	pair, _, _ := strings.Cut(cookies[0], ";")
	return &browser{r, pair}, a
}

func (b *browser) do(method, path, body string, headers ...header) answer {
	b.t.Helper()
	return b.as("", method, path, body, append(headers, header{"Cookie", b.cookie})...)
}

func (b *browser) expect(code int, method, path, body string, headers ...header) answer {
	b.t.Helper()
	a := b.do(method, path, body, headers...)
	if a.code != code {
		b.t.Fatalf("%s %s %s: %d, want %d: %s", method, path, body, a.code, code, a.text)
	}
	return a
}

func TestSession(t *testing.T) {
	r := newRig(t)
	r.ada(access.Admin)
	b, started := r.logIn(adasPassword)
	name, token, _ := strings.Cut(b.cookie, "=")
	if name != "almanac_session" || !strings.HasPrefix(token, "alm_") {
		t.Fatalf("cookie %q", b.cookie)
	}
	if got, want := started.header.Get("Set-Cookie"), b.cookie+"; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"; got != want {
		t.Errorf("cookie %q, want %q", got, want)
	}
	if len(started.body) != 3 || started.body["username"] != "ada" || started.body["role"] != "admin" || started.body["expires_at"] != "2026-11-24T00:00:00Z" {
		t.Errorf("answer %s", started.text)
	}
	for name, values := range started.header {
		if name != "Set-Cookie" && strings.Contains(fmt.Sprint(values), token) {
			t.Errorf("the token is in %s too", name)
		}
	}

	got := b.expect(http.StatusOK, http.MethodGet, sessionPath, "")
	want := `{"username": "ada", "role": "admin", "expires_at": "2026-11-24T00:00:00Z", "manual_runs_per_hour": 10, "max_jobs": 100, "version": "1.2.3"}`
	if fmt.Sprint(got.body) != fmt.Sprint(parse(t, want)) {
		t.Errorf("session %s", got.text)
	}
	b.expect(http.StatusOK, http.MethodGet, jobsPath, "")
	b.expect(http.StatusForbidden, http.MethodPost, jobsPath, fmt.Sprintf(valid, ""))
	if a := r.as(access.SuperAdmin, http.MethodGet, sessionPath, ""); a.body["username"] != "a_super_admin" || a.body["expires_at"] != nil {
		t.Errorf("by a token that never expires: %s", a.text)
	}

	// Authorization goes before the cookie.
	if a := r.as(access.User, http.MethodGet, sessionPath, "", header{"Cookie", b.cookie}); a.body["username"] != "a_user" {
		t.Errorf("with both: %s", a.text)
	}

	ended := b.expect(http.StatusOK, http.MethodDelete, sessionPath, "")
	if ended.body["message"] != "Logged out" || ended.header.Get("Set-Cookie") != "almanac_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict" {
		t.Errorf("ended %s %q", ended.text, ended.header.Get("Set-Cookie"))
	}
	after := b.do(http.MethodGet, sessionPath, "")
	if after.code != 401 || after.reason() != "TOKEN_INVALID" || !strings.HasPrefix(after.header.Get("Set-Cookie"), "almanac_session=; Path=/; Max-Age=0;") ||
		!strings.HasPrefix(after.header.Get("WWW-Authenticate"), "Bearer ") { // Basic would make browsers ask
		t.Errorf("after its end: %d %s %v", after.code, after.text, after.header)
	}
	if a := r.as("", http.MethodGet, sessionPath, ""); a.code != 401 || a.reason() != "TOKEN_MISSING" || a.header.Get("Set-Cookie") != "" {
		t.Errorf("without a cookie: %d %s", a.code, a.text)
	}
}

func TestSessionExpires(t *testing.T) {
	r := newRig(t)
	r.ada(access.Admin)
	b, _ := r.logIn(adasPassword)
	r.advance(12*time.Hour - time.Second)
	b.expect(http.StatusOK, http.MethodGet, sessionPath, "")
	r.advance(time.Second)
	if a := b.expect(http.StatusUnauthorized, http.MethodGet, sessionPath, ""); a.header.Get("Set-Cookie") == "" {
		t.Error("the cookie is not taken back")
	}
	// An old cookie is in nobody's way.
	if a := b.do(http.MethodPost, sessionPath, fmt.Sprintf(`{"username": "ada", "password": %q}`, adasPassword)); a.code != 200 {
		t.Errorf("logging in again: %d %s", a.code, a.text)
	}
}

// A page of another site can make a browser send a request with its cookie, but
// not one that does anything.
func TestOtherSitesCannotUseTheCookie(t *testing.T) {
	r := newRig(t)
	r.ada(access.SuperAdmin)
	b, _ := r.logIn(adasPassword)
	body := fmt.Sprintf(valid, "")
	for _, foreign := range []header{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"}, // a neighbour below the same domain
		{"Origin", "https://evil.example.com"},
		{"Origin", "null"},
	} {
		for _, c := range []struct{ method, path, body string }{
			{"POST", jobsPath, body},
			{"PUT", jobsPath + "/x", "{}"},
			{"DELETE", jobsPath + "/x", ""},
			{"DELETE", sessionPath, ""},
			{"POST", tokensPath, `{"name": "x"}`},
		} {
			if a := b.do(c.method, c.path, c.body, foreign); a.code != 403 || a.reason() != "CROSS_SITE" {
				t.Errorf("%s %s with %v: %d %s", c.method, c.path, foreign, a.code, a.text)
			}
		}
		// Nor can it log somebody in as somebody else.
		if a := r.as("", http.MethodPost, sessionPath, `{"username": "ada", "password": "correct horse battery"}`, foreign); a.code != 403 || a.header.Get("Set-Cookie") != "" {
			t.Errorf("a session with %v: %d", foreign, a.code)
		}
		// A token that somebody put there on purpose is good from anywhere.
		if a := r.as(access.SuperAdmin, http.MethodPost, "/api/admin/schedules/preview", `{"schedule": {"cron": "0 2 * * *"}}`, foreign); a.code != 200 {
			t.Errorf("by token with %v: %d %s", foreign, a.code, a.text)
		}
		b.expect(http.StatusOK, http.MethodGet, jobsPath, "", foreign)
	}
	b.expect(http.StatusCreated, http.MethodPost, jobsPath, body, header{"Sec-Fetch-Site", "same-origin"}, header{"Origin", r.url})
}

// Only a session's token is good as a cookie.
func TestOtherTokensAreNoCookies(t *testing.T) {
	r := newRig(t)
	r.ada(access.Admin)
	login := r.as("", http.MethodPost, "/api/auth/login", fmt.Sprintf(`{"username": "ada", "password": %q}`, adasPassword))
	for name, token := range map[string]string{"executor": executorSecret, "personal": r.tokens[access.SuperAdmin], "login": fmt.Sprint(login.body["token"]), "none": "x"} {
		b := &browser{r, "almanac_session=" + token}
		if a := b.do(http.MethodGet, sessionPath, ""); a.code != 401 || a.header.Get("Set-Cookie") == "" {
			t.Errorf("%s: %d %s", name, a.code, a.text)
		}
	}
}

// Where browsers reach the registry by TLS, its cookie is for this host and for
// TLS only.
func TestSecureCookie(t *testing.T) {
	r := newRig(t, func(c *Config) { c.PublicURL = "https://almanac.example.com" })
	r.ada(access.Admin)
	b, a := r.logIn(adasPassword)
	if got, want := a.header.Get("Set-Cookie"), b.cookie+"; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict"; got != want || !strings.HasPrefix(got, "__Host-almanac_session=alm_") {
		t.Errorf("behind a proxy: %q", got)
	}
	b.expect(http.StatusOK, http.MethodGet, sessionPath, "")

	cert, key := selfSigned(t)
	own := newRig(t, func(c *Config) { c.TLS = rpc.TLS{CertFile: cert, KeyFile: key} })
	own.ada(access.Admin)
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Post(strings.Replace(own.url, "http:", "https:", 1)+sessionPath, "application/json",
		strings.NewReader(fmt.Sprintf(`{"username": "ada", "password": %q}`, adasPassword)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Set-Cookie"); res.StatusCode != http.StatusOK || !strings.HasPrefix(got, "__Host-almanac_session=alm_") || !strings.HasSuffix(got, "; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict") {
		t.Errorf("by its own TLS: %d %q", res.StatusCode, got)
	}
}

// selfSigned makes a certificate for this machine.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Over gRPC the token is in a header, and no cookie means anything.
func TestSessionOverGRPC(t *testing.T) {
	r := newRig(t)
	r.ada(access.Admin)
	var got metadata.MD
	in, err := almanacv1.NewAuthServiceClient(r.dial("")).StartSession(t.Context(), &almanacv1.StartSessionRequest{Username: "ada", Password: adasPassword}, grpc.Header(&got))
	if err != nil || in.Username != "ada" {
		t.Fatal(in, err)
	}
	token := got.Get("almanac-session")
	if len(token) != 1 {
		t.Fatalf("header %v", got)
	}
	auth := almanacv1.NewAuthServiceClient(r.dial(token[0]))
	if s, err := auth.GetSession(t.Context(), &almanacv1.GetSessionRequest{}); err != nil || s.Username != "ada" || s.Version != "1.2.3" {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := auth.EndSession(t.Context(), &almanacv1.EndSessionRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := auth.GetSession(t.Context(), &almanacv1.GetSessionRequest{}); err == nil {
		t.Error("the token is good after its end")
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "cookie", "almanac_session="+token[0], "grpcgateway-cookie", "almanac_session="+token[0])
	if _, err := almanacv1.NewAuthServiceClient(r.dial("")).GetSession(ctx, &almanacv1.GetSessionRequest{}); err == nil {
		t.Error("a cookie is good over gRPC")
	}
}

func TestChangePassword(t *testing.T) {
	r := newRig(t)
	r.ada(access.User)
	here, _ := r.logIn(adasPassword)
	there, _ := r.logIn(adasPassword)
	r.tokens["login"] = fmt.Sprint(r.as("", http.MethodPost, "/api/auth/login", fmt.Sprintf(`{"username": "ada", "password": %q}`, adasPassword)).body["token"])
	r.tokens["personal"] = fmt.Sprint(here.expect(http.StatusCreated, http.MethodPost, tokensPath, `{"name": "script"}`).body["secret"])
	const next = "an even longer password"
	body := func(current, next string) string {
		return fmt.Sprintf(`{"current_password": %q, "new_password": %q}`, current, next)
	}
	for name, c := range map[string]struct{ current, next, field, reason string }{
		"wrong":     {"wrong", next, "current_password", "WRONG_PASSWORD"},
		"too short": {adasPassword, "short", "new_password", "INVALID_REQUEST"},
		"the same":  {adasPassword, adasPassword, "new_password", "INVALID_REQUEST"},
		"none":      {adasPassword, "", "new_password", "INVALID_REQUEST"},
	} {
		if a := here.do(http.MethodPost, passwordPath, body(c.current, c.next)); a.code != 400 || !a.violates(c.field, "") || a.reason() != c.reason {
			t.Errorf("%s: %d %s", name, a.code, a.text)
		}
	}
	there.expect(http.StatusOK, http.MethodGet, sessionPath, "")
	here.expect(http.StatusOK, http.MethodPost, passwordPath, body(adasPassword, next))
	here.expect(http.StatusOK, http.MethodGet, sessionPath, "")
	there.expect(http.StatusUnauthorized, http.MethodGet, sessionPath, "")
	if a := r.as("login", http.MethodGet, sessionPath, ""); a.code != 401 {
		t.Errorf("another login: %d", a.code)
	}
	if a := r.as("personal", http.MethodGet, sessionPath, ""); a.code != 200 {
		t.Errorf("a personal token: %d", a.code)
	}
	if _, a := r.logIn(adasPassword); a.code != 401 {
		t.Errorf("with the old password: %d", a.code)
	}
	if _, a := r.logIn(next); a.code != 200 {
		t.Errorf("with the new one: %d", a.code)
	}
	log := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object=ada&action=user.update", "")
	entries, _ := log.body["entries"].([]any)
	if len(entries) != 1 || entries[0].(map[string]any)["user"] != "ada" || strings.Contains(log.text, next) || strings.Contains(log.text, "argon2") {
		t.Errorf("audit %s", log.text)
	}
	// Guessing the current one is as slow as guessing at the door.
	for range 5 {
		here.do(http.MethodPost, passwordPath, body("wrong", next+"!"))
	}
	if a := here.do(http.MethodPost, passwordPath, body("wrong", next+"!")); a.code != 429 || a.reason() != "TOO_MANY_ATTEMPTS" {
		t.Errorf("too often: %d %s", a.code, a.text)
	}
}

func TestTokens(t *testing.T) {
	r := newRig(t)
	r.ada(access.Admin)
	b, _ := r.logIn(adasPassword)
	r.advance(time.Second)
	made := b.expect(http.StatusCreated, http.MethodPost, tokensPath, `{"name": "backup script"}`)
	token, _ := made.body["token"].(map[string]any)
	id := fmt.Sprint(token["id"])
	want := map[string]any{"id": id, "name": "backup script", "kind": "personal", "created_at": "2026-11-23T12:00:01Z", "expires_at": "2027-02-21T12:00:01Z", "current": false}
	if fmt.Sprint(token) != fmt.Sprint(want) || len(id) != 16 {
		t.Errorf("token %v", token)
	}
	secret := fmt.Sprint(made.body["secret"])
	r.tokens["script"] = secret
	if a := r.as("script", http.MethodGet, sessionPath, ""); a.body["username"] != "ada" || a.body["role"] != "admin" || a.body["expires_at"] != "2027-02-21T12:00:01Z" {
		t.Errorf("with it: %s", a.text)
	}
	r.advance(time.Second)
	if a := b.expect(http.StatusCreated, http.MethodPost, tokensPath, `{"name": "for ever", "expires_in_days": 0}`); a.body["token"].(map[string]any)["expires_at"] != nil {
		t.Errorf("for ever: %s", a.text)
	}
	b.expect(http.StatusCreated, http.MethodPost, tokensPath, `{"name": "for a day", "expires_in_days": 1}`)
	list := func(role access.Role) string {
		t.Helper()
		var out []string
		all, _ := r.as(role, http.MethodGet, tokensPath, "").body["tokens"].([]any)
		for _, m := range all {
			m, _ := m.(map[string]any)
			out = append(out, fmt.Sprintf("%v %v %v", m["kind"], m["name"], m["current"]))
		}
		return strings.Join(out, "; ")
	}
	if got := list("script"); !strings.Contains(got, "personal for a day false") || !strings.HasSuffix(got, "personal backup script true; session session false") {
		t.Errorf("tokens %q", got)
	}
	r.advance(25 * time.Hour)
	if got, want := list("script"), "personal for ever false; personal backup script true"; got != want {
		t.Errorf("a day later: %q", got)
	}
	for name, c := range map[string]struct{ body, field string }{
		"no name":      {`{}`, "name"},
		"negative":     {`{"name": "x", "expires_in_days": -1}`, "expires_in_days"},
		"too long":     {`{"name": "x", "expires_in_days": 3651}`, "expires_in_days"},
		"a wordy name": {`{"name": "` + strings.Repeat("x", 101) + `"}`, "name"},
	} {
		if a := r.as("script", http.MethodPost, tokensPath, c.body); a.code != 400 || !a.violates(c.field, "") {
			t.Errorf("%s: %d %s", name, a.code, a.text)
		}
	}

	// Others' tokens are as unknown as those that never were.
	for _, role := range []access.Role{access.SuperAdmin, access.User} {
		if a := r.as(role, http.MethodDelete, tokensPath+"/"+id, ""); a.code != 404 {
			t.Errorf("revoked by %s: %d %s", role, a.code, a.text)
		}
	}
	if a := r.as("script", http.MethodDelete, tokensPath+"/"+id, ""); a.code != 200 || a.body["message"] != "Token revoked" {
		t.Fatalf("%d %s", a.code, a.text)
	}
	if a := r.as("script", http.MethodGet, sessionPath, ""); a.code != 401 {
		t.Errorf("a revoked token: %d", a.code)
	}
	log := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?user=ada", "")
	if entries, _ := log.body["entries"].([]any); len(entries) != 4 || entries[0].(map[string]any)["action"] != "token.revoke" ||
		entries[0].(map[string]any)["before"].(map[string]any)["name"] != "backup script" || strings.Contains(log.text, "alm_") {
		t.Errorf("audit %s", log.text)
	}
	if a := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?action=token.create&user=ada", ""); a.body["total"] != 3.0 {
		t.Errorf("what was made: %s", a.text)
	}
}

func TestTokensAreLimited(t *testing.T) {
	r := newRig(t)
	for range 49 { // and the one that the rig gave
		r.root(http.StatusCreated, http.MethodPost, tokensPath, `{"name": "one more"}`)
	}
	if a := r.root(http.StatusTooManyRequests, http.MethodPost, tokensPath, `{"name": "one too many"}`); a.reason() != "LIMIT_REACHED" || !strings.Contains(a.text, "50 personal tokens") {
		t.Errorf("%s", a.text)
	}
}
