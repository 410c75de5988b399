package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/executor/internal/builtin"
)

// program is the real runner, built once.
var program string

func TestMain(m *testing.M) {
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func build(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "executor-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "runner")
	command := exec.CommandContext(context.Background(), "go", "build", "-o", program, "./cmd/runner")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building the runner: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// registry leases what the test gives it, and acknowledges what comes back.
type registry struct {
	almanacv1.UnimplementedLeaseServiceServer
	assign  []*almanacv1.Assignment
	hello   chan *almanacv1.Hello
	results chan *almanacv1.RunResult
	logs    chan *almanacv1.LogEntry
}

func (r *registry) Lease(stream grpc.BidiStreamingServer[almanacv1.LeaseRequest, almanacv1.LeaseResponse]) error {
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &almanacv1.LeaseResponse{Beat: frame.GetHeartbeat() != nil}
		if frame.GetHello() != nil {
			r.hello <- frame.GetHello()
			answer.Welcome = &almanacv1.Welcome{Registry: "test", SessionTtlMilliseconds: 5000}
			answer.Assignments = r.assign
		}
		for _, chunk := range frame.GetLogs() {
			for _, line := range chunk.GetLines() {
				r.logs <- line
			}
		}
		for _, result := range frame.GetResults() {
			r.results <- result
			answer.Acknowledged = append(answer.Acknowledged, &almanacv1.Lease{ExecutionId: result.GetExecutionId(), Token: result.GetToken()})
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// serve starts a registry and returns its address.
func (r *registry) serve(t *testing.T) string {
	t.Helper()
	r.hello, r.results, r.logs = make(chan *almanacv1.Hello, 10), make(chan *almanacv1.RunResult, 10), make(chan *almanacv1.LogEntry, 1000)
	options, err := rpc.ServerOptions(rpc.TLS{Plaintext: true})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	almanacv1.RegisterLeaseServiceServer(server, r)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func assignment(number int64, templateType, params string) *almanacv1.Assignment {
	return &almanacv1.Assignment{
		Number: number, ExecutionId: fmt.Sprint("e", number), Token: 1, JobId: "job_1", JobName: "A job", TemplateType: templateType,
		TriggeredBy: "manual", Attempt: 1, Timezone: "UTC", ParametersJson: []byte(params), TimeoutSeconds: 60,
	}
}

func configured(t *testing.T, address string) Config {
	t.Helper()
	config := Defaults()
	config.Registries, config.TokenFile, config.Plaintext = []string{address}, write(t, "token", "secret"), true
	config.Runner, config.BenchNoop, config.LogLevel = program, true, "error"
	config.HealthAddr = "127.0.0.1:0"
	return config
}

// TestExecutor runs the whole executor, with the real runner, against a
// registry in this process.
func TestExecutor(t *testing.T) {
	r := &registry{assign: []*almanacv1.Assignment{
		assignment(1, "test_scheduler", `{"message":"hello from afar"}`),
		assignment(2, "noop", `{}`),
		assignment(3, "unheard_of", `{}`),
		assignment(4, "test_scheduler", `{"unknown":true}`),
	}}
	drain := make(chan struct{})
	config := configured(t, r.serve(t))
	config.Drain = drain
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), config) }()

	hello := <-r.hello
	var offered []string
	for _, announcement := range hello.GetTemplates() {
		offered = append(offered, announcement.GetType())
	}
	if !slices.Equal(offered, []string{"noop", "report_generation", "test_scheduler", "webhook_trigger"}) {
		t.Errorf("offered %v, but want what requires no connection", offered)
	}
	got := map[string]*almanacv1.RunResult{}
	for range 4 {
		result := <-r.results
		got[result.GetExecutionId()] = result
	}
	for id, want := range map[string]string{"e1": "success ", "e2": "success ", "e3": "failed validation", "e4": "failed validation"} {
		if status := got[id].GetStatus() + " " + got[id].GetErrorCode(); status != want {
			t.Errorf("%s: %s (%s), want %s", id, status, got[id].GetError(), want)
		}
	}
	if !slices.Contains(got["e1"].GetIsolation(), "process") || len(got["e2"].GetIsolation()) != 0 {
		t.Errorf("isolation %v and %v", got["e1"].GetIsolation(), got["e2"].GetIsolation())
	}
	close(drain)
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"config":     {func(c *Config) { c.Slots = 0 }, "slots"},
		"log format": {func(c *Config) { c.LogFormat = "xml" }, "log format"},
		"connection": {func(c *Config) {
			c.Connections = map[string]Connection{"main": {Kind: "mongodb", URIFile: "/nonexistent"}}
		}, "connections.main.uri_file"},
		"runner":         {func(c *Config) { c.Runner = "/nonexistent/runner" }, "/nonexistent/runner"},
		"in process":     {func(c *Config) { c.InProcess = []string{"unheard_of"} }, `in_process: "unheard_of"`},
		"destroyer":      {func(c *Config) { c.InProcess = []string{"database_cleanup"} }, "only run in a child"},
		"allow template": {func(c *Config) { c.Allow = map[string]map[string][]string{"nothing": {}} }, "allow.nothing"},
		"folder": {func(c *Config) {
			c.Connections = map[string]Connection{"exports": {Kind: "bucket", URI: "file:///proc/self"}}
		}, "/proc/self"},
		"CA file":          {func(c *Config) { c.Plaintext, c.CAFile = false, "/nonexistent" }, "CA file"},
		"settings of none": {func(c *Config) { c.Templates = map[string]map[string]any{"nothing": {}} }, "templates.nothing: the runner has no such template"},
		"settings file": {func(c *Config) {
			c.Templates = map[string]map[string]any{"test_scheduler": {"text": map[string]any{"file": "/nonexistent"}}}
		}, "templates.test_scheduler.text.file: open"},
		"settings": {func(c *Config) { c.Templates = map[string]map[string]any{"test_scheduler": {"a": 1}} }, "templates.test_scheduler: the template has no settings"},
		"health":   {func(c *Config) { c.HealthAddr = "256.0.0.1:1" }, "health_addr"},
		"allow parameter": {func(c *Config) {
			c.Connections = map[string]Connection{"main": {Kind: "mongodb", URI: "mongodb://x"}}
			c.Allow = map[string]map[string][]string{"ticket_cleanup": {"status": {"x"}}}
		}, "allow.ticket_cleanup.status: only connection"},
	} {
		t.Run(name, func(t *testing.T) {
			config := configured(t, "127.0.0.1:1")
			c.change(&config)
			if err := Run(t.Context(), config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run: %v, want %q", err, c.want)
			}
		})
	}
}

func compiledSet(t *testing.T) *template.Set {
	t.Helper()
	set, err := template.NewSet(builtin.Templates()...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func described(t *testing.T) []runner.Description {
	t.Helper()
	var all []runner.Description
	for _, c := range compiledSet(t).List() {
		all = append(all, runner.Describe(c, nil))
	}
	return all
}

func TestOffer(t *testing.T) {
	config := Config{Allow: map[string]map[string][]string{
		"database_cleanup": {"collection": {"users", "logs"}, "connection": {"main"}},
		"ticket_cleanup":   {"collection": {"tickets"}},
	}}
	connections := map[string]template.Connection{
		"main": {Kind: "mongodb", URI: "1"}, "second": {Kind: "mongodb", URI: "2"}, "mail": {Kind: "smtp", URI: "3"},
	}
	inside := map[string]*template.Compiled{}
	offered, err := offer(config, connections, described(t), []string{"process"}, inside, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	cleanup := offered["database_cleanup"]
	if !slices.Equal(cleanup.Allowed["collection"], []string{"logs", "users"}) || !slices.Equal(cleanup.Allowed["connection"], []string{"main"}) {
		t.Errorf("allowed %v", cleanup.Allowed)
	}
	for params, want := range map[string]string{`{}`: "1", `{"connection":"main"}`: "1", `{"connection":"second"}`: "", `{"connection":"mail"}`: "", `{"connection":1}`: "1", `[`: "1"} {
		if got := cleanup.chosen([]byte(params)); got["main"].URI != want || len(got) != len(want) {
			t.Errorf("%s: connections %v, want the permitted one of the kind", params, got)
		}
	}
	tickets := offered["ticket_cleanup"]
	if !slices.Equal(tickets.Allowed["collection"], []string{"tickets"}) {
		t.Errorf("its one collection is permitted, but not told to the template: %v", tickets.Allowed)
	}
	if !slices.Equal(tickets.Allowed["connection"], []string{"main", "second"}) || len(tickets.chosen(nil)) != 0 || tickets.chosen([]byte(`{"connection":"second"}`))["second"].URI != "2" {
		t.Errorf("tickets: allowed %v, connections %v without a name", tickets.Allowed, tickets.chosen(nil))
	}
	offered, err = offer(Config{}, connections, described(t), nil, inside, zap.NewNop())
	if _, there := offered["database_cleanup"]; err != nil || there {
		t.Errorf("database_cleanup is offered without a collection: %v", err)
	}
	if _, err = offer(Config{}, nil, described(t)[:1], nil, inside, zap.NewNop()); err == nil {
		t.Error("an executor that can do nothing was accepted")
	}
}

func TestInsideIsKilledOrCancelled(t *testing.T) {
	set, err := template.NewSet(builtin.Templates()...)
	if err != nil {
		t.Fatal(err)
	}
	inside, ok := set.Get("test_scheduler")
	if !ok {
		t.Fatal("no test_scheduler")
	}
	r := &router{offered: map[string]offering{"test_scheduler": {inside: inside}}}
	for cause, want := range map[error]string{runner.ErrCancelled: "cancelled", errors.New("stale"): "none"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		result, _ := r.Run(ctx, &runner.Run{Template: "test_scheduler", Params: []byte(`{"duration_seconds":60}`)}, silent{})
		got := "none"
		if result != nil {
			got = result.Status
		}
		if got != want {
			t.Errorf("%v: result %s, want %s", cause, got, want)
		}
	}
}

type silent struct{}

func (silent) Log(string, string)            {}
func (silent) Progress(int64, int64, string) {}

func TestHealth(t *testing.T) {
	var trouble error
	core, logs := observer.New(zap.InfoLevel)
	stop, err := serveHealth(t.Context(), "127.0.0.1:0", func() error { return trouble }, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	address, _ := logs.All()[0].ContextMap()["address"].(string)
	get := func(path string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(body)))
	}
	if got := get("/healthz"); got != "200 ok" {
		t.Errorf("healthz: %s", got)
	}
	if got := get("/readyz"); got != "200 ok" {
		t.Errorf("readyz: %s", got)
	}
	trouble = errors.New("no registry")
	if got := get("/readyz"); got != "503 no registry" {
		t.Errorf("readyz: %s", got)
	}
	if got := get("/healthz"); got != "200 ok" {
		t.Errorf("healthz: %s", got)
	}
}

// TestSignals: a command connects to two registries; SIGTERM drains it, and it
// ends in order.
func TestSignals(t *testing.T) {
	r, other := &registry{}, &registry{}
	config := configured(t, r.serve(t))
	command := Command()
	command.SetArgs([]string{
		"--registry", config.Registries[0], "--registry", other.serve(t), "--label", "zone=a", "--label=disk=ssd/2", "--token-file", config.TokenFile, "--plaintext", "--runner", program, "--log-level", "error", "--bench-noop", "--bench-noop-max-concurrency=3",
	})
	done := make(chan error, 1)
	go func() { done <- command.ExecuteContext(t.Context()) }()
	hello := <-r.hello
	if again := <-other.hello; again.GetSession() != hello.GetSession() || again.GetStream() == hello.GetStream() {
		t.Errorf("hello %v at one registry and %v at the other", hello, again)
	}
	if labels := hello.GetLabels(); !maps.Equal(labels, map[string]string{"zone": "a", "disk": "ssd/2"}) {
		t.Errorf("labels %v", labels)
	}
	if limit := hello.GetTemplates()[0].GetMaxConcurrency(); limit != 3 {
		t.Errorf("%s may run %d times at once", hello.GetTemplates()[0].GetType(), limit)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the command: %v", err)
	}
}
