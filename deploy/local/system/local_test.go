package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
)

// status is what local.json says.
type status struct {
	HTTP       string          `json:"http"`
	GRPC       string          `json:"grpc"`
	Registries []endpoint      `json:"registries"`
	MongoDBURI string          `json:"mongodb_uri"`
	WebhookURL string          `json:"webhook_url"`
	WebhookDir string          `json:"webhook_dir"`
	MailDir    string          `json:"mail_dir"`
	BucketDir  string          `json:"bucket_dir"`
	Users      map[string]user `json:"users"`
	Processes  map[string]int  `json:"processes"`
}

type endpoint struct{ Name, HTTP, GRPC string }

type user struct{ Username, Password, Token string }

// command is a running `almanac-local run`.
type command struct {
	t    *testing.T
	dir  string // data folder
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when it has ended
	err  error         // how, once done is closed
}

// output collects what a process prints; safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// localRun starts `almanac-local run` from the folder of binaries.
func localRun(t *testing.T, bin, dir string, settings ...string) *command {
	t.Helper()
	// Runs are another user's when we are root, and pass through to the bucket.
	for folder := filepath.Dir(dir); strings.HasPrefix(folder, filepath.Clean(os.TempDir())+"/"); folder = filepath.Dir(folder) {
		if err := os.Chmod(folder, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	c := &command{t: t, dir: dir, out: new(output), done: make(chan struct{})}
	c.cmd = exec.Command(filepath.Join(bin, "almanac-local"), "run")
	c.cmd.Env = append(os.Environ(), "ALMANAC_DATA_DIR="+dir, "ALMANAC_HTTP_ADDR=127.0.0.1:0", "ALMANAC_GRPC_ADDR=127.0.0.1:0")
	c.cmd.Env = append(c.cmd.Env, settings...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // its children die with it; most tests have ended it already
		<-c.done
		if t.Failed() {
			t.Logf("almanac-local run:\n%s", c.out)
			showLogs(t, filepath.Join(dir, "logs"))
		}
	})
	return c
}

// status returns what local.json says now.
func (c *command) status() (status, error) {
	var s status
	content, err := os.ReadFile(filepath.Join(c.dir, "local.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(content, &s)
}

// up waits until everything is ready.
func (c *command) up() status {
	c.t.Helper()
	var s status
	within(c.t, time.Minute, func(context.Context) (err error) {
		select {
		case <-c.done:
			c.t.Fatalf("it ended: %v", c.err)
		default:
		}
		s, err = c.status()
		return err
	})
	return s
}

// end waits until it has ended and returns how.
func (c *command) end(limit time.Duration) error {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(limit):
		c.t.Fatalf("it did not end within %v", limit)
	}
	return c.err
}

func (s status) client(role string) *rest.Client {
	return &rest.Client{Base: s.HTTP, Token: s.Users[role].Token}
}

// TestLocalRun is the life of a local system: its first start, the death of a
// process, the end, and the next start.
func TestLocalRun(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	first := localRun(t, bin, dir)
	s := first.up()
	printed := first.out.String()
	for _, want := range []string{s.HTTP, s.GRPC, "curl -H 'Authorization: Bearer " + s.Users["super_admin"].Token, s.Users["super_admin"].Password, s.Users["admin"].Password, s.Users["user"].Password} {
		if want == "" || !strings.Contains(printed, want) {
			t.Errorf("it does not print %q:\n%s", want, printed)
		}
	}
	passable := os.FileMode(0o700)
	if os.Getuid() == 0 { // runs are another user's, on their way to the bucket
		passable = 0o711
	}
	for path, want := range map[string]os.FileMode{dir: passable, filepath.Join(dir, "local.json"): 0o600, filepath.Join(dir, "registry", "executor-token"): 0o600, filepath.Join(dir, "registry"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	for _, name := range []string{"registry-1", "executor-1", "executor-2", "standin", "mail", "webhooks"} {
		if pid := s.Processes[name]; pid == 0 || !alive(pid) {
			t.Errorf("%s has the process id %d", name, pid)
		}
	}
	if len(s.Registries) != 1 || s.Registries[0] != (endpoint{"registry-1", s.HTTP, s.GRPC}) {
		t.Errorf("local.json: %+v", s)
	}
	if len(s.Processes) != 6 || !strings.HasPrefix(s.HTTP, "http://127.0.0.1:") || !strings.HasPrefix(s.MongoDBURI, "mongodb://") {
		t.Errorf("local.json: %+v", s)
	}
	for role, user := range s.Users { // the passwords are good, too
		var answer struct{ Role string }
		err := (&rest.Client{Base: s.HTTP}).Do(t.Context(), "POST", "/api/auth/login", nil, rest.Object{"username": user.Username, "password": user.Password}, &answer)
		if err != nil || answer.Role != role {
			t.Errorf("log in as %s: %+v, %v", role, answer, err)
		}
	}
	if info, err := os.Stat(s.MailDir); err != nil || !info.IsDir() || filepath.Dir(s.MailDir) != dir {
		t.Errorf("mail_dir: %q, %v", s.MailDir, err)
	}
	if info, err := os.Stat(s.BucketDir); err != nil || !info.IsDir() || filepath.Dir(s.BucketDir) != dir {
		t.Errorf("bucket_dir: %q, %v", s.BucketDir, err)
	}
	jobs := theFirstJobs(t, s)

	second := localRun(t, bin, dir)
	if err := second.end(soon); err == nil || !strings.Contains(second.out.String(), "another local system uses this data folder") {
		t.Errorf("a second run in the same folder: %v\n%s", err, second.out)
	}
	if now, err := first.status(); err != nil || now.HTTP != s.HTTP {
		t.Errorf("after it: %+v, %v", now, err)
	}

	for name, pid := range s.Processes {
		kill(t, pid)
		within(t, soon, func(ctx context.Context) error {
			now, err := first.status()
			if err != nil {
				return err
			}
			if now.Processes[name] == pid || !alive(now.Processes[name]) {
				return fmt.Errorf("%s was not started again: %+v", name, now.Processes)
			}
			if now.HTTP != s.HTTP || now.GRPC != s.GRPC || now.MongoDBURI != s.MongoDBURI || now.WebhookURL != s.WebhookURL {
				t.Fatalf("other addresses: %+v", now)
			}
			return s.client("super_admin").Ready(ctx)
		})
		if !strings.Contains(first.out.String(), name+": signal: killed") {
			t.Errorf("the death of %s was not told:\n%s", name, first.out)
		}
	}
	s = first.up()
	asked := time.Now()
	if err := first.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := first.end(soon); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
	for name, pid := range s.Processes {
		if alive(pid) {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := first.status(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("local.json is still there: %v", err)
	}

	// A folder of the version before there were samples gets them now, and one that
	// a start had created before it was interrupted is not created again.
	if err := os.Remove(filepath.Join(dir, "registry", "sample-jobs-created")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "registry", "reports-token")); err != nil {
		t.Fatal(err)
	}
	third := localRun(t, bin, dir, "ALMANAC_EXECUTORS=1")
	again := third.up()
	if len(again.Processes) != 5 || again.Users["admin"] != s.Users["admin"] {
		t.Errorf("the next start: %+v", again)
	}
	for name, job := range theFirstJobs(t, again) {
		if job.ID != jobs[name].ID {
			t.Errorf("%s was made again", name)
		}
	}
	// Even an end that it cannot notice leaves nobody behind.
	if err := third.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range again.Processes {
		gone(t, soon, pid)
	}
}

// TestLocalRunOnMongoDB starts registries on MongoDB in a folder that has the data
// of SQLite already, and once more.
func TestLocalRunOnMongoDB(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	stop := func(c *command) {
		t.Helper()
		if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := c.end(soon); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	one := localRun(t, bin, dir, "ALMANAC_EXECUTORS=1")
	s := one.up()
	onSQLite := theFirstJobs(t, s)
	stop(one)

	settings := []string{"ALMANAC_STORE=mongodb", "ALMANAC_REPLICAS=3", "ALMANAC_EXECUTORS=1"}
	many := localRun(t, bin, dir, settings...)
	first := many.up()
	for _, name := range []string{"registry-1", "registry-2", "registry-3", "executor-1", "standin", "store", "mail", "webhooks"} {
		if pid := first.Processes[name]; pid == 0 || !alive(pid) {
			t.Errorf("%s has the process id %d", name, pid)
		}
	}
	if len(first.Processes) != 8 || len(first.Registries) != 3 || first.Registries[0].HTTP != first.HTTP || first.Registries[0].GRPC != first.GRPC {
		t.Errorf("local.json: %+v", first)
	}
	if first.Users["super_admin"] == s.Users["super_admin"] {
		t.Error("the users of another store")
	}
	jobs := map[string]rest.Job{}
	for i, registry := range first.Registries {
		if registry.Name != fmt.Sprintf("registry-%d", i+1) || !strings.Contains(many.out.String(), registry.HTTP) || !strings.Contains(many.out.String(), registry.GRPC) {
			t.Errorf("%+v is not told:\n%s", registry, many.out)
		}
		at := first
		at.HTTP = registry.HTTP
		jobs = theFirstJobs(t, at)
	}
	for name, job := range jobs {
		if job.ID == onSQLite[name].ID {
			t.Errorf("%s is the job of another store", name)
		}
	}
	deleted := jobs["data_cleanup"]
	if err := first.client("super_admin").Do(t.Context(), "DELETE", rest.Jobs+"/"+deleted.ID, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	stop(many)

	again := localRun(t, bin, dir, settings...)
	second := again.up()
	listed, err := second.client("super_admin").ListJobs(t.Context())
	if err != nil || len(listed) != 9 || second.Users["admin"] != first.Users["admin"] {
		t.Errorf("the next start: %+v, jobs %+v, %v", second, listed, err)
	}
	for _, job := range listed {
		if job.ID != jobs[job.Name].ID {
			t.Errorf("%s was made again", job.Name)
		}
	}
	stop(again)
}

// theFirstJobs checks the jobs of a new local system: the three that there were
// always, and a sample of each other template.
func theFirstJobs(t *testing.T, s status) map[string]rest.Job {
	t.Helper()
	listed, err := s.client("admin").ListJobs(t.Context())
	if err != nil || len(listed) != 10 {
		t.Fatalf("jobs %+v, %v", listed, err)
	}
	jobs := map[string]rest.Job{}
	templates := map[string]bool{}
	for _, job := range listed {
		jobs[job.Name] = job
		templates[job.TemplateType] = true
	}
	if len(templates) != 10 {
		t.Errorf("they are of the templates %v", templates)
	}
	for name, want := range map[string]struct{ template, schedule, parameters string }{
		"test_scheduler": {"test_scheduler", `"interval_seconds":60`, ``},
		"data_cleanup":   {"database_cleanup", `"interval_seconds":3600`, `"condition":{"createdAt":{"$lt":"90 days ago"}},"dryRun":false`},
		"auto_delete_resolved_tickets": {
			"ticket_cleanup", `"expression":"0 19 * * *","timezone":"UTC"`, `"older_than":"30 days","status":"resolved"`,
		},
	} {
		job := jobs[name]
		schedule, _ := json.Marshal(job.Schedule)
		parameters, _ := json.Marshal(job.Parameters)
		if job.TemplateType != want.template || !job.Enabled || !strings.Contains(string(schedule), want.schedule) || !strings.Contains(string(parameters), want.parameters) {
			t.Errorf("%s: %+v", name, job)
		}
	}
	return jobs
}

// TestLocalRunRefuses is not parallel for the sake of copied.
func TestLocalRunRefuses(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for setting, want := range map[string]string{
		"ALMANAC_HTTP_ADDR=" + address: address + " is taken by another program: end it, or choose another address, such as ALMANAC_HTTP_ADDR=",
		"ALMANAC_GRPC_ADDR=" + address: "ALMANAC_GRPC_ADDR=127.0.0.1:0",
		"ALMANAC_EXECUTORS=many":       `"many"`,
		"ALMANAC_EXECUTORS=0":          "at least 1",
		"ALMANAC_REPLICAS=none":        `"none"`,
		"ALMANAC_REPLICAS=0":           "at least 1",
		"ALMANAC_REPLICAS=2":           "cannot share SQLite",
		"ALMANAC_STORE=postgres":       "choose sqlite or mongodb",
		"ALMANAC_DATA_DIR=/dev/null/x": "data folder",
	} {
		c := localRun(t, bin, t.TempDir(), setting)
		if err := c.end(soon); err == nil || !strings.Contains(c.out.String(), want) {
			t.Errorf("%s: %v\n%s", setting, err, c.out)
		}
	}
	incomplete := localRun(t, copied(t, bin), t.TempDir())
	if err := incomplete.end(soon); err == nil || !strings.Contains(incomplete.out.String(), "make build") {
		t.Errorf("without the other binaries: %v\n%s", err, incomplete.out)
	}
}

// copied returns a folder with a copy of almanac-local, which takes its own
// folder for that of the other binaries, and with links to those named. Tests that
// use it are not parallel: a process that another one forks at the wrong moment
// would keep the copy open for writing, and it could not be run.
func copied(t *testing.T, bin string, others ...string) string {
	t.Helper()
	folder := t.TempDir()
	from, err := os.Open(filepath.Join(bin, "almanac-local"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(folder, "almanac-local"), os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range others {
		if err := os.Symlink(filepath.Join(bin, name), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}
