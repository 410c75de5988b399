package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/almanac-scheduler/almanac/pkg/rpc"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

const (
	jobsPath       = "/api/admin/scheduler-jobs"
	executionsPath = "/api/admin/job-executions"
	workersPath    = "/api/admin/workers"
	registriesPath = "/api/admin/registries"
	executorSecret = "a-credential-for-all-executors"
)

// began is when the tests' clock starts: a Monday.
var began = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// rig is a server on real listeners, over a real store, with a dispatcher that
// only remembers what it is told.
type rig struct {
	t          *testing.T
	server     *Server
	store      *sqlitestore.Store
	guard      *access.Guard
	templates  *templates.Catalogue
	dispatcher *dispatcher
	url        string
	grpcAddr   string
	tokens     map[access.Role]string
	stop       func() error   // ends Serve and returns what it said
	ticks      chan time.Time // of everything that waits for its next look
	unwatched  chan struct{}  // gets one for everything that stops waiting

	mu  sync.Mutex
	now time.Time
}

func (r *rig) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, now: began, ticks: make(chan time.Time), unwatched: make(chan struct{}, 1000), dispatcher: &dispatcher{}, tokens: map[access.Role]string{}}
	var err error
	if r.store, err = sqlitestore.Open(t.Context(), t.TempDir(), sqlitestore.Options{Log: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	if r.guard, err = access.New(r.store, executorSecret, r.Now); err != nil {
		t.Fatal(err)
	}
	for _, role := range access.Roles {
		u := store.User{Name: "a_" + string(role), Role: string(role), CreatedAt: began}
		if err := r.store.AddUser(t.Context(), u, &store.Audit{At: began, Action: "user.add", Object: u.Name}); err != nil {
			t.Fatal(err)
		}
		r.give(role)
	}
	r.dispatcher.store = r.store
	r.templates = templates.New(r.store, zap.NewNop())
	if _, refused, err := r.templates.Announce(t.Context(), "rig", sampleTemplates()); err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	cfg := Config{
		Store: r.store, Dispatcher: r.dispatcher, Templates: r.templates, Guard: r.guard, Name: "registry-1",
		SessionTTL: 5 * time.Second, MaxJobs: 100, ManualRunsPerHour: 10, TLS: rpc.TLS{Plaintext: true}, Now: r.Now, Log: zap.NewNop(), Version: "1.2.3",
		Every:      func(time.Duration) (<-chan time.Time, func()) { return r.ticks, func() { r.unwatched <- struct{}{} } },
		OpenStream: func(context.Context, dispatch.Hello) (LeaseStream, error) { return nil, dispatch.ErrStopped },
	}
	for _, c := range change {
		c(&cfg)
	}
	if r.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	rest, grpcListener := listen(t), listen(t)
	r.url, r.grpcAddr = "http://"+rest.Addr().String(), grpcListener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.server.Serve(ctx, rest, grpcListener) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// give gives the user of a role a token that never expires.
func (r *rig) give(role access.Role) {
	r.t.Helper()
	r.tokens[role] = "alm_of_a_" + string(role)
	sum := sha256.Sum256([]byte(r.tokens[role]))
	token := store.Token{Hash: hex.EncodeToString(sum[:]), User: "a_" + string(role), Kind: store.TokenPersonal, Name: "test", CreatedAt: began}
	if err := r.store.AddToken(r.t.Context(), token, nil); err != nil {
		r.t.Fatal(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func sampleTemplates() []templates.Announcement {
	return []templates.Announcement{
		{
			Template: job.Template{
				Type: "database_cleanup", Version: 1, Name: "Database Cleanup", Description: "Remove old records from a database collection",
				Category: "maintenance", Icon: "🧹", EstimatedDuration: "5-30 minutes", ResourceUsage: "low", RiskLevel: "medium",
				Idempotent: true, Destructive: true, MaxConcurrency: 2,
				Schema: json.RawMessage(`{"type": "object", "additionalProperties": false, "required": ["collection", "condition"], "properties": {
					"collection": {"type": "string", "description": "Collection name"},
					"condition": {"type": "object", "description": "MongoDB query condition"},
					"dryRun": {"type": "boolean", "description": "Preview changes without deleting", "default": true}}}`),
			},
			Restrictions: map[string][]string{"collection": {"users", "logs", "sessions", "messages"}},
		},
		{Template: job.Template{
			Type: "test_scheduler", Version: 1, Name: "Test", Description: "Does nothing much", Category: "test", Icon: "🧪",
			EstimatedDuration: "seconds", ResourceUsage: "low", RiskLevel: "low", Idempotent: false,
			Schema: json.RawMessage(`{"type": "object", "additionalProperties": false, "properties": {
				"message": {"type": "string"}, "duration_seconds": {"type": "number", "minimum": 0}}}`),
		}},
	}
}

// dispatcher remembers what it was told. settle and progress, when set, answer;
// runs go to the store, unleased.
type dispatcher struct {
	store     Store
	mu        sync.Mutex
	changed   []*job.Job
	runs      []store.RunNow
	cancelled []*job.Execution
	progress  map[string]dispatch.Progress
	settle    func(context.Context, *job.Job, time.Time) (*job.Job, error)
	unready   error
}

func (d *dispatcher) JobChanged(j *job.Job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = append(d.changed, j)
}

func (d *dispatcher) RunNow(ctx context.Context, run store.RunNow) (*job.Execution, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs = append(d.runs, run)
	return d.store.RunNow(ctx, run)
}

func (d *dispatcher) CancelRequested(e *job.Execution) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cancelled = append(d.cancelled, e)
}

func (d *dispatcher) Progress(id string) (dispatch.Progress, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.progress[id]
	return p, ok
}

func (d *dispatcher) Settle(ctx context.Context, j *job.Job, now time.Time) (*job.Job, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settle == nil {
		return j, nil
	}
	return d.settle(ctx, j, now)
}

func (d *dispatcher) Ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unready
}

func (d *dispatcher) set(f func(*dispatcher)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// answer is what REST said.
type answer struct {
	code   int
	header http.Header
	text   string
	body   map[string]any
}

// reason is the word in a refusal's ErrorInfo.
func (a answer) reason() string {
	s, _ := a.detail("ErrorInfo")["reason"].(string)
	return s
}

func (a answer) detail(name string) map[string]any {
	details, _ := a.body["details"].([]any)
	for _, d := range details {
		if m, _ := d.(map[string]any); strings.HasSuffix(fmt.Sprint(m["@type"]), "."+name) {
			return m
		}
	}
	return nil
}

// fields are the violations, each as "field: description".
func (a answer) fields() []string {
	var out []string
	all, _ := a.detail("BadRequest")["field_violations"].([]any)
	for _, v := range all {
		m, _ := v.(map[string]any)
		field, _ := m["field"].(string)
		out = append(out, fmt.Sprintf("%s: %v", field, m["description"]))
	}
	return out
}

// violates tells whether a field is named, with a text that contains said.
func (a answer) violates(field, said string) bool {
	return slices.ContainsFunc(a.fields(), func(f string) bool {
		return strings.HasPrefix(f, field+": ") && strings.Contains(f, said)
	})
}

func (a answer) job(t *testing.T) map[string]any {
	t.Helper()
	j, ok := a.body["job"].(map[string]any)
	if !ok {
		t.Fatalf("%d %s: no job", a.code, a.text)
	}
	return j
}

type header struct{ name, value string }

// as sends a request with the token of a role ("" for none) and a body, if any,
// as JSON.
func (r *rig) as(role access.Role, method, path, body string, headers ...header) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if role != "" {
		req.Header.Set("Authorization", "Bearer "+r.tokens[role])
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		req.Header[http.CanonicalHeaderKey(h.name)] = []string{h.value}
		if h.value == "" {
			req.Header.Del(h.name)
		}
	}
	return r.send(req)
}

func (r *rig) send(req *http.Request) answer {
	r.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{code: res.StatusCode, header: res.Header, text: string(text)}
	if bytes.HasPrefix(text, []byte("{")) {
		if err := json.Unmarshal(text, &a.body); err != nil {
			r.t.Fatalf("%s %s: %v in %s", req.Method, req.URL, err, text)
		}
	}
	return a
}

// root sends as super admin and expects a status.
func (r *rig) root(want int, method, path, body string, headers ...header) answer {
	r.t.Helper()
	a := r.as(access.SuperAdmin, method, path, body, headers...)
	if a.code != want {
		r.t.Fatalf("%s %s %s: %d, want %d: %s", method, path, body, a.code, want, a.text)
	}
	return a
}

// create makes a job from a name and more fields and returns its id.
func (r *rig) create(name, more string) string {
	r.t.Helper()
	if more == "" {
		more = `"template_type": "test_scheduler", "schedule": {"type": "manual"}`
	}
	a := r.root(http.StatusCreated, http.MethodPost, jobsPath, fmt.Sprintf(`{"name": %q, %s}`, name, more))
	id, _ := a.job(r.t)["id"].(string)
	return id
}

// run starts a job and returns its execution's id.
func (r *rig) run(id string) string {
	r.t.Helper()
	a := r.root(http.StatusAccepted, http.MethodPost, jobsPath+"/"+id+"/run", "")
	execution, _ := a.body["execution_id"].(string)
	return execution
}

// change writes the next state of an execution, as dispatch would.
func (r *rig) change(id string, next func(*job.Execution) *job.Execution) *job.Execution {
	r.t.Helper()
	e, err := r.store.Execution(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	to := next(e)
	a := r.store.Do(r.t.Context(), r.Now(), []store.Op{&store.Change{Status: e.Status, Token: e.Token, To: to}})[0]
	if a.Outcome != store.Done {
		r.t.Fatalf("change of %s: %+v", id, a)
	}
	return to
}

func (r *rig) dial(token string) *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(r.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), desc, cc, method, opts...)
		}))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}
