// Package local is the one-command local run: a whole system in one folder, with
// sample data and users of its own, for trying Almanac out and for developing it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/supervise"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// Config says where and how the local system runs.
type Config struct {
	// Bin is the folder with the binaries, Dir the data folder.
	Bin, Dir string
	// HTTPAddr and GRPCAddr are the first registry's addresses; port 0 picks one.
	HTTPAddr, GRPCAddr string
	// Store is system.SQLite or system.MongoDB; MongoDBURI names a server for the
	// latter, instead of a stand-in.
	Store, MongoDBURI string
	// Replicas is how many registries are started.
	Replicas int
	// Executors is how many executors are started.
	Executors int
	// Unlimited lifts the limits on jobs, manual runs and lines of a log, for tests
	// and for trying out what is large.
	Unlimited bool
}

// Run starts the local system, tells out what a person needs to know, keeps it
// running until ctx ends, and stops it within 10 s. Errors: system.ErrInUse, and
// whatever keeps it from starting.
func Run(ctx context.Context, config Config, out io.Writer) (err error) {
	if config.Executors < 1 {
		return fmt.Errorf("%d executors cannot run anything: ask for at least 1 (--executors or ALMANAC_EXECUTORS)", config.Executors)
	}
	unlock, err := system.Lock(config.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	tell := &teller{out: out}
	// A killed predecessor could not remove it.
	if err := removeStatus(config.Dir); err != nil {
		return err
	}
	tell.say("Starting ...")
	changed := make(chan struct{}, 1)
	logs := filepath.Join(config.Dir, "logs")
	var registry, executor map[string]any
	if config.Unlimited {
		registry = map[string]any{"max_jobs": 0, "manual_runs_per_hour": 0}
		executor = map[string]any{"log_lines": 1_000_000, "log_kb": 64 << 10}
	}
	s, err := system.Start(ctx, system.Config{
		Bin: config.Bin, Dir: config.Dir, HTTPAddr: config.HTTPAddr, GRPCAddr: config.GRPCAddr,
		Store: config.Store, MongoDBURI: config.MongoDBURI, Replicas: config.Replicas,
		Executors: config.Executors, Standin: true, Mail: true, Webhooks: true, Bucket: true,
		Registry: registry, Executor: executor,
		Event: func(e supervise.Event) {
			if e.Ended && !e.Wanted {
				tell.died(e, filepath.Join(logs, e.Name+".log"))
			}
			select {
			case changed <- struct{}{}:
			default: // the loop below has yet to look, and will see this too
			}
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to end while it started
		}
		return err
	}
	defer func() {
		tell.say("Stopping ...")
		err = errors.Join(err, removeStatus(config.Dir), s.Stop())
		tell.say("Stopped. The next run goes on with the same jobs and history.")
	}()
	if err := CreateJobs(ctx, s); err != nil {
		if ctx.Err() != nil {
			return nil // told to end while it started
		}
		return err
	}
	if err := writeStatus(config.Dir, s); err != nil {
		return err
	}
	tell.welcome(s, config)
	for {
		select {
		case <-changed:
			if err := writeStatus(config.Dir, s); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// CreateJobs creates the jobs that the scheduler had before it was dynamic and a
// sample of each other template, each kind once in the life of a store: who
// deletes one has deleted it.
func CreateJobs(ctx context.Context, s *system.System) error {
	return errors.Join(
		createOnce(ctx, s, "first-jobs-created", FirstJobs()),
		createOnce(ctx, s, "sample-jobs-created", SampleJobs()),
	)
}

// createOnce creates jobs unless the file marks that it was done.
func createOnce(ctx context.Context, s *system.System, file string, jobs []rest.Object) error {
	mark := filepath.Join(s.Folder(), file)
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	client := s.Client(s.Users.SuperAdmin)
	for _, job := range jobs {
		_, err := client.CreateJob(ctx, job)
		var failure *rest.Error
		if errors.As(err, &failure) && failure.Status == http.StatusConflict {
			continue // a first start that was interrupted had come so far
		}
		if err != nil {
			return fmt.Errorf("create the job %s: %w", job["name"], err)
		}
	}
	return os.WriteFile(mark, nil, 0o600)
}

// FirstJobs returns the jobs of a new local system, as the API takes them.
func FirstJobs() []rest.Object {
	return []rest.Object{
		{
			"name":          "test_scheduler",
			"description":   "Shows once a minute that the scheduler works",
			"template_type": "test_scheduler",
			"schedule":      rest.Object{"interval_seconds": 60},
		},
		{
			"name":          "data_cleanup",
			"description":   "Removes logs older than 90 days, every hour",
			"template_type": "database_cleanup",
			"parameters": rest.Object{
				"collection": "logs",
				"condition":  rest.Object{"createdAt": rest.Object{"$lt": "90 days ago"}},
				"dryRun":     false,
			},
			"schedule": rest.Object{"interval_seconds": 3600},
		},
		{
			"name":          "auto_delete_resolved_tickets",
			"description":   "Removes tickets that were resolved more than 30 days ago, daily at 19:00 UTC",
			"template_type": "ticket_cleanup",
			"parameters":    rest.Object{"status": "resolved", "older_than": "30 days", "dryRun": false},
			"schedule":      rest.Object{"type": "cron", "expression": "0 19 * * *", "timezone": "UTC"},
		},
	}
}

// SampleJobs returns one job of each template that FirstJobs leaves out. They run
// when somebody says so, in this order if need be, and destroy nothing; only the
// summary comes by itself, daily.
func SampleJobs() []rest.Object {
	manual := rest.Object{"type": "manual"}
	return []rest.Object{
		{
			"name":          "sample_export",
			"description":   "Writes the active users as a table into the bucket",
			"template_type": "data_export",
			"parameters": rest.Object{
				"collection": "users", "filter": rest.Object{"active": true}, "fields": []string{"_id", "name", "email", "lastActive"},
				"format": "csv", "path": "exports/users-{date}.{ext}",
			},
			"schedule": manual,
		},
		{
			"name":          "sample_backup",
			"description":   "Backs up users and tickets into the bucket, and keeps the last three archives",
			"template_type": "backup",
			"parameters":    rest.Object{"collections": []string{"users", "tickets"}, "folder": "backups/sample", "keep_last": 3},
			"schedule":      manual,
		},
		{
			"name":          "sample_restore",
			"description":   "Verifies the latest archive of sample_backup and tells what restoring it beside the data would do",
			"template_type": "restore",
			"parameters":    rest.Object{"prefix": "backups/sample/", "suffix": "_restored", "dryRun": true},
			"schedule":      manual,
		},
		{
			"name":          "sample_mail",
			"description":   "Sends a mail, which the local mail server keeps",
			"template_type": "email_notification",
			"parameters": rest.Object{
				"recipients": []string{"ops@example.com"},
				"subject":    "{{ .JobName }} of {{ .ScheduledFor.Format \"2 January\" }}",
				"body":       "Good morning,\n\nthere are {{ .Data.count }} things to do.\n",
				"data":       rest.Object{"count": 3},
			},
			"schedule": manual,
		},
		{
			"name":          "sample_webhook",
			"description":   "Sends a signed webhook, which the local receiver keeps",
			"template_type": "webhook_trigger",
			"parameters": rest.Object{
				"target": system.Webhooks, "body": rest.Object{"ref": "{{.Data.branch}}", "reason": "{{.JobName}}"}, "data": rest.Object{"branch": "main"},
			},
			"schedule": manual,
		},
		{
			"name":          "sample_channel",
			"description":   "Posts a text to the local receiver as if it were a channel",
			"template_type": "channel_message",
			"parameters":    rest.Object{"channel": system.Webhooks, "text": "The change window opens in ten minutes"},
			"schedule":      manual,
		},
		{
			"name":          "daily_summary",
			"description":   "Sends a summary of yesterday's runs each morning, and keeps it in the bucket",
			"template_type": "report_generation",
			"parameters": rest.Object{
				"source": "history", "registry": system.History, "title": "Daily summary", "period": "yesterday", "format": "html",
				"destination": system.Bucket, "path": "reports/{date}.{ext}", "mail": system.Mail, "recipients": []string{"admin@example.com"},
			},
			"schedule": rest.Object{"type": "cron", "expression": "0 6 * * *", "timezone": "UTC"},
		},
	}
}

// teller writes for a person; its methods may be called concurrently.
type teller struct {
	mu  sync.Mutex
	out io.Writer
}

func (t *teller) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, format+"\n", args...)
}

func (t *teller) died(e supervise.Event, log string) {
	how := "ended by itself"
	if e.Err != nil {
		how = e.Err.Error()
	}
	t.say("%s: %s; it is started again in %v (its output: %s)", e.Name, how, supervise.RestartDelay, log)
}

func (t *teller) welcome(s *system.System, config Config) {
	var registries strings.Builder
	for _, r := range s.Registries {
		fmt.Fprintf(&registries, "  API        %s  (document: /openapi.json; %s)\n  gRPC       %s\n", r.HTTP, r.Name, r.GRPC)
	}
	store := "SQLite"
	switch {
	case config.Store == system.MongoDB && config.MongoDBURI != "":
		store = "MongoDB, the server that ALMANAC_MONGODB_URI names"
	case config.Store == system.MongoDB:
		store = "MongoDB, a stand-in that shows what it does but not how fast (ALMANAC_MONGODB_URI names a real server)"
	}
	t.say(`
Almanac runs.

%s  store      %s
  MongoDB    %s  (a stand-in with sample data in database %q)
  mail       %s  (each message that a job sends is kept there, and goes nowhere)
  webhooks   %s  (each webhook to %s is kept there)
  bucket     %s  (exports, backups and reports are written there)
  data       %s  (logs/ has the output of each process, local.json addresses and tokens)

  user         password
  %-12s %s
  %-12s %s
  %-12s %s

Try it:

  curl -H 'Authorization: Bearer %s' %s%s

Ctrl-C stops it; the next run goes on with the same jobs and history.
`, registries.String(), store, s.MongoDB, system.Database, s.MailDir, s.WebhookDir, s.WebhookURL(), s.BucketDir, config.Dir,
		s.Users.SuperAdmin.Username, s.Users.SuperAdmin.Password,
		s.Users.Admin.Username, s.Users.Admin.Password,
		s.Users.User.Username, s.Users.User.Password,
		s.Users.SuperAdmin.Token, s.HTTP, rest.Jobs)
}
