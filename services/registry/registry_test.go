package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load puts a configuration together as `registry serve` does.
func load(args []string, environment map[string]string) (Config, error) {
	var c Config
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.bind(flags)
	c.bindStore(flags)
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	err := fill(flags, settings(), func(name string) (string, bool) { v, ok := environment[name]; return v, ok })
	return c, err
}

func TestPrecedence(t *testing.T) {
	file := write(t, "registry.yaml", "max_jobs: 3\nmanual_runs_per_hour: 4\nsession_ttl: 7s\nplaintext: true\nname: file\n")
	c, err := load([]string{"--config", file, "--name", "flag"}, map[string]string{"ALMANAC_NAME": "environment", "ALMANAC_MAX_JOBS": "5", "ALMANAC_UNHEARD": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "flag" || c.MaxJobs != 5 || c.ManualRunsPerHour != 4 || c.SessionTTL != 7*time.Second || !c.Plaintext || c.HTTPAddr != "127.0.0.1:8080" {
		t.Errorf("configuration %+v", c)
	}
	if err := c.validate(); err != nil {
		t.Error(err)
	}
	byEnvironment, err := load(nil, map[string]string{"ALMANAC_CONFIG": write(t, "registry.json", `{"max_jobs": 9}`)})
	if err != nil || byEnvironment.MaxJobs != 9 {
		t.Errorf("a file named by the environment: %+v, %v", byEnvironment, err)
	}
}

func TestBadSettings(t *testing.T) {
	for name, c := range map[string]struct {
		file        string
		environment map[string]string
		want        []string
	}{
		"unknown":     {"max_job: 3\nhttp-addr: x\n", nil, []string{"max_job: there is no such setting", "http-addr: there is no such setting"}},
		"nested":      {"max_jobs: {a: 1}\n", nil, []string{"max_jobs: must be a single value"}},
		"not a YAML":  {"max_jobs: [\n", nil, []string{"yaml"}},
		"wrong value": {"session_ttl: soon\n", map[string]string{"ALMANAC_MAX_JOBS": "many"}, []string{"session_ttl", "soon", "ALMANAC_MAX_JOBS", "many"}},
	} {
		_, err := load([]string{"--config", write(t, "c.yaml", c.file)}, c.environment)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	if _, err := load([]string{"--config", "/nowhere/c.yaml"}, nil); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestValidation(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no port":           {[]string{"--http-addr", "localhost"}, "http_addr"},
		"everywhere":        {[]string{"--http-addr", ":8080"}, "http_addr: :8080 can be reached from other machines"},
		"another machine":   {[]string{"--grpc-addr", "10.0.0.1:9090"}, "grpc_addr"},
		"asked for":         {[]string{"--grpc-addr", "10.0.0.1:9090", "--plaintext"}, ""},
		"with TLS":          {[]string{"--grpc-addr", "10.0.0.1:9090", "--tls-cert-file", "c", "--tls-key-file", "k"}, ""},
		"half of TLS":       {[]string{"--tls-cert-file", "c"}, "tls_cert_file"},
		"this machine":      {[]string{"--http-addr", "[::1]:0", "--grpc-addr", "localhost:0"}, ""},
		"another store":     {[]string{"--store", "mysql:x"}, "store"},
		"no folder":         {[]string{"--store", "sqlite:"}, "store"},
		"negative jobs":     {[]string{"--max-jobs", "-1"}, "max_jobs"},
		"negative runs":     {[]string{"--manual-runs-per-hour", "-1"}, "manual_runs_per_hour"},
		"no limits":         {[]string{"--max-jobs", "0", "--manual-runs-per-hour", "0"}, ""},
		"hasty":             {[]string{"--session-ttl", "1ms"}, "session_ttl"},
		"patient":           {[]string{"--missed-after", "48h"}, "missed_after"},
		"nothing specified": {nil, ""},
	} {
		cfg, err := load(c.args, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// run executes the command line and returns its output.
func run(t *testing.T, ctx context.Context, input string, args ...string) (string, error) { //nolint:revive // t comes first in tests
	t.Helper()
	var out bytes.Buffer
	cmd := Command()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(input))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestUserCommands(t *testing.T) {
	ctx, at := t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "data")
	const password = "a long enough password"
	if out, err := run(t, ctx, password+"\n", "user", "add", "--store", at, "--role", "admin", "ada"); err != nil || out != "" {
		t.Fatalf("user add: %q, %v", out, err)
	}
	for name, c := range map[string]struct {
		input string
		args  []string
		want  string
	}{
		"again":          {password, []string{"user", "add", "--store", at, "--role", "admin", "ada"}, "exists"},
		"no role":        {password, []string{"user", "add", "--store", at, "bob"}, "role"},
		"unknown role":   {password, []string{"user", "add", "--store", at, "--role", "king", "bob"}, "king"},
		"no name":        {password, []string{"user", "add", "--store", at, "--role", "admin"}, "arg"},
		"no password":    {"", []string{"user", "add", "--store", at, "--role", "admin", "bob"}, "password"},
		"short password": {"secret\n", []string{"user", "add", "--store", at, "--role", "admin", "bob"}, "password"},
		"nobody's token": {"", []string{"token", "create", "--store", at, "--user", "bob"}, "bob"},
		"expired token":  {"", []string{"token", "create", "--store", at, "--user", "ada", "--expires", "-1h"}, "--expires"},
		"no user":        {"", []string{"token", "create", "--store", at}, "user"},
		"bad store":      {"", []string{"token", "create", "--store", "x", "--user", "ada"}, "store"},
		"bad log":        {"", []string{"token", "create", "--store", at, "--user", "ada", "--log-level", "loud"}, "log level"},
		"bad file":       {"", []string{"token", "create", "--config", "/nowhere", "--user", "ada"}, "/nowhere"},
		"unknown":        {"", []string{"user", "remove"}, "unknown"},
	} {
		out, err := run(t, ctx, c.input, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	first, err := run(t, ctx, "", "token", "create", "--store", at, "--user", "ada")
	if err != nil || !strings.HasPrefix(first, "alm_") || strings.Count(first, "\n") != 1 {
		t.Errorf("token create: %q, %v", first, err)
	}
	second, err := run(t, ctx, "", "token", "create", "--store", at, "--user", "ada", "--expires", "720h")
	if err != nil || first == second {
		t.Errorf("another: %q, %v", second, err)
	}
	if out, err := run(t, ctx, "", "version"); err != nil || !strings.HasPrefix(out, "registry ") {
		t.Errorf("version: %q, %v", out, err)
	}
}

// The whole service, from its command line: ready, used, stopped, and there
// again with what it knew.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	at := "sqlite:" + filepath.Join(dir, "data")
	secret := write(t, "token", "a-credential-for-all-executors\n")
	if _, err := run(t, t.Context(), "a long enough password\n", "user", "add", "--store", at, "--role", "super_admin", "root"); err != nil {
		t.Fatal(err)
	}
	token, err := run(t, t.Context(), "", "token", "create", "--store", at, "--user", "root")
	if err != nil {
		t.Fatal(err)
	}
	for round, want := range []string{`"total":2`, `"total":2`} { // one user and one token were added
		ctx, cancel := context.WithCancel(t.Context())
		ready := filepath.Join(dir, "ready")
		cfg, err := load([]string{
			"--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0", "--store", at, "--executor-token-file", secret, "--ready-file", ready, "--log-level", "error",
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		addresses, ended := make(chan Addresses, 1), make(chan error, 1)
		cfg.Ready = func(a Addresses) { addresses <- a }
		go func() { ended <- Run(ctx, cfg) }()
		var where Addresses
		select {
		case where = <-addresses:
		case err := <-ended:
			t.Fatal(err)
		}
		var told Addresses
		content, err := os.ReadFile(ready)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(content, &told); err != nil || told != where || strings.HasSuffix(where.HTTP, ":0") {
			t.Errorf("ready file %s, called with %+v", content, where)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+where.HTTP+"/api/admin/audit", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(strings.ReplaceAll(string(text), " ", ""), want) {
			t.Errorf("round %d: %s %s", round, res.Status, text)
		}
		// Its folder is taken: a second one is refused.
		if round == 0 {
			if err := Run(ctx, cfg); err == nil {
				t.Error("two registries on one folder")
			}
		}
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("round %d ended with %v", round, err)
		}
	}
}

func TestServeRefuses(t *testing.T) {
	at := "sqlite:" + t.TempDir()
	base := []string{"serve", "--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0", "--store", at, "--log-level", "error"}
	taken := write(t, "file", "x")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"setting":       {[]string{"--max-jobs", "-1"}, "max_jobs"},
		"file":          {[]string{"--config", "/nowhere"}, "/nowhere"},
		"no token":      {[]string{"--executor-token-file", "/nowhere"}, "executor_token_file"},
		"short token":   {[]string{"--executor-token-file", write(t, "token", "short")}, "at least 20"},
		"log":           {[]string{"--log-format", "xml"}, "log format"},
		"store":         {[]string{"--store", "sqlite:" + taken + "/below"}, "store"},
		"certificate":   {[]string{"--tls-cert-file", taken, "--tls-key-file", taken}, "tls"},
		"http address":  {[]string{"--http-addr", "127.0.0.1:99999"}, "http_addr"},
		"grpc address":  {[]string{"--grpc-addr", "127.0.0.1:99999"}, "grpc_addr"},
		"ready file":    {[]string{"--ready-file", "/nowhere/at/all"}, "ready_file"},
		"an argument":   {[]string{"now"}, "now"},
		"unknown flags": {[]string{"--colour"}, "colour"},
	} {
		if _, err := run(t, t.Context(), "", append(base, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// backlog is a store with so many steps of counting to do.
type backlog struct {
	store.Insight
	steps int
	err   error
}

func (b *backlog) RollUp(context.Context, time.Time) (more bool, err error) {
	b.steps--
	return b.steps > 0, b.err
}

func TestRollUpGoesOnForSomeSteps(t *testing.T) {
	for name, c := range map[string]struct {
		steps, left int
		err         error
	}{
		"nothing":  {1, 0, nil},
		"some":     {7, 0, nil},
		"too many": {mostRollUps + 5, 5, nil},
		"trouble":  {7, 6, job.ErrUnavailable},
	} {
		b := &backlog{steps: c.steps, err: c.err}
		if err := rollUp(t.Context(), b); !errors.Is(err, c.err) || b.steps != c.left {
			t.Errorf("%s: %d steps left, %v", name, b.steps, err)
		}
	}
}
