package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/local"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/mailsink"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/webhooks"
)

// samples runs the jobs that every local system has. They are told to run one
// after the other because restore wants what backup has written.
func (d *demo) samples(ctx context.Context) error {
	jobs, err := d.client.ListJobs(ctx)
	if err != nil {
		return err
	}
	byName := map[string]rest.Job{}
	for _, job := range jobs {
		byName[job.Name] = job
	}
	shown := map[string]bool{}
	for _, sample := range slices.Concat(local.FirstJobs(), local.SampleJobs()) {
		e, err := d.run(ctx, byName[fmt.Sprint(sample["name"])])
		if err != nil {
			return err
		}
		d.check(e.Status == "success", "%s succeeds", sample["template_type"])
		shown[fmt.Sprint(sample["template_type"])] = true
	}
	var offered struct{ Templates []struct{ ID string } }
	if err := d.client.Do(ctx, "GET", rest.Templates, nil, nil, &offered); err != nil {
		return err
	}
	var missing []string
	for _, template := range offered.Templates {
		if !shown[template.ID] {
			missing = append(missing, template.ID)
		}
	}
	d.check(len(missing) == 0, "these are samples of all %d templates; without one: %q", len(offered.Templates), missing)
	return nil
}

// export writes users as NDJSON that keeps the types, and compares each line with
// its document.
func (d *demo) export(ctx context.Context) error {
	e, err := d.once(ctx, "export users", "data_export", rest.Object{
		"collection": "users", "format": "ndjson", "extended_json": "canonical", "path": "demo/users.{ext}",
	}, nil)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(d.system.BucketDir, "demo", "users.ndjson"))
	if err != nil {
		return err
	}
	var read []bson.Raw
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		var document bson.Raw
		if err := bson.UnmarshalExtJSON(lines.Bytes(), true, &document); err != nil {
			return fmt.Errorf("line %d: %w", len(read)+1, err)
		}
		read = append(read, document)
	}
	users, err := d.documents(ctx, "users")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	d.check(len(users) > 0 && number(e, "records_processed") == len(users), "the run tells of all %d users", len(users))
	d.check(e.Result["sha256"] == hex.EncodeToString(sum[:]), "the file has the checksum that the run tells")
	d.check(len(users) > 0 && slices.EqualFunc(read, users, equal), "its %d lines, read again, equal the %d documents of the collection", len(read), len(users))
	return nil
}

// documents returns a whole collection in the order of its ids.
func (d *demo) documents(ctx context.Context, collection string) ([]bson.Raw, error) {
	client, err := mongo.Connect(options.Client().ApplyURI(d.system.MongoDB))
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Disconnect(context.WithoutCancel(ctx)) }() // it has been read from, no more
	cursor, err := client.Database(system.Database).Collection(collection).Find(ctx, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", collection, err)
	}
	var all []bson.Raw
	if err := cursor.All(ctx, &all); err != nil {
		return nil, fmt.Errorf("read %s: %w", collection, err)
	}
	return all, nil
}

func equal(a, b bson.Raw) bool { return bytes.Equal(a, b) }

// mail sends to two, of whom the server puts one off.
func (d *demo) mail(ctx context.Context) error {
	const ann, bob = "ann@example.com", mailsink.RefusedOnce + "-bob@example.com"
	e, err := d.once(ctx, "mail to two", "email_notification", rest.Object{
		"recipients": []string{ann, bob}, "subject": "{{ .JobName }}: {{ .Data.n }} orders", "body": "Good morning.", "data": rest.Object{"n": 12},
	}, rest.Object{"retry_policy": rest.Object{"max_retries": 2, "retry_delay_seconds": 1}})
	if err != nil {
		return err
	}
	d.check(e.Status == "success" && number(e, "sent") == 2, "the run succeeds, 2 messages are sent")
	d.check(len(e.Attempts) == 2 && strings.Contains(text(e.Attempts[0].Error), bob) && strings.Contains(text(e.Attempts[0].Error), "451 4.7.1 come back later"),
		"its first attempt has the server's own answer for the one, and nothing against the other")
	for _, to := range []string{ann, bob} {
		letters, err := d.letters(to)
		if err != nil {
			return err
		}
		d.check(len(letters) == 1 && letters[0].Header.Get("Subject") == "mail to two: 12 orders", "%s has got it, and only once", to)
	}
	return nil
}

// letters returns the mail that has arrived for an address, the oldest first.
func (d *demo) letters(to string) ([]*mail.Message, error) {
	files, err := filepath.Glob(filepath.Join(d.system.MailDir, "*"+mailsink.Suffix))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var found []*mail.Message
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		message, err := mail.ReadMessage(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if message.Header.Get("Delivered-To") == to {
			found = append(found, message)
		}
	}
	return found, nil
}

// webhooks sends one to the receiver, and one to a metadata service's address.
func (d *demo) webhooks(ctx context.Context) error {
	before, err := webhooks.Read(d.system.WebhookDir)
	if err != nil {
		return err
	}
	e, err := d.once(ctx, "webhook", "webhook_trigger", rest.Object{
		"target": system.Webhooks, "data": rest.Object{"branch": "main"}, "body": rest.Object{"ref": "{{.Data.branch}}", "by": "{{.JobName}}"},
	}, nil)
	if err != nil {
		return err
	}
	all, err := webhooks.Read(d.system.WebhookDir)
	if err != nil {
		return err
	}
	d.check(e.Status == "success" && len(all) == len(before)+1, "the receiver has got one")
	if len(all) == 0 {
		return errors.New("no webhook has arrived")
	}
	got := all[len(all)-1]
	d.check(got.Signature == webhooks.SignatureValid, "its signature is %s: %s", got.Signature, strings.Join(got.Headers["X-Almanac-Signature"], ""))
	var body map[string]string
	d.check(json.Unmarshal(got.Body, &body) == nil && body["ref"] == "main" && body["by"] == "webhook", "its body is expanded: %v", body)

	const metadata = "http://169.254.169.254/latest/meta-data/"
	e, err = d.once(ctx, "webhook to metadata", "webhook_trigger", rest.Object{"url": metadata}, nil)
	if err != nil {
		return err
	}
	d.check(e.Status == "failed" && text(e.ErrorCode) == "forbidden" && len(e.Attempts) == 1, "one to %s is refused, and not tried again", metadata)
	return nil
}

// backup loses sessions and gets them back.
func (d *demo) backup(ctx context.Context) error {
	before, err := d.documents(ctx, "sessions")
	if err != nil {
		return err
	}
	e, err := d.once(ctx, "back up sessions", "backup", rest.Object{"collections": []string{"sessions"}, "folder": "demo/backups"}, nil)
	if err != nil {
		return err
	}
	d.check(e.Status == "success" && e.Result["verified"] == true && number(e, "records_processed") == len(before), "the archive has all %d sessions, and was read again", len(before))
	archive, _ := e.Result["object"].(string)

	e, err = d.once(ctx, "delete sessions", "database_cleanup", rest.Object{
		"collection": "sessions", "condition": rest.Object{"lastActive": rest.Object{"$lt": "1 day ago"}}, "dryRun": false,
	}, nil)
	if err != nil {
		return err
	}
	left, err := d.documents(ctx, "sessions")
	if err != nil {
		return err
	}
	d.check(number(e, "records_deleted") > 0 && number(e, "records_deleted")+len(left) == len(before), "%d sessions are deleted, %d are left", number(e, "records_deleted"), len(left))

	const damaged = "demo/damaged.tar.gz"
	if err := d.damage(archive, damaged); err != nil {
		return err
	}
	e, err = d.once(ctx, "restore a damaged archive", "restore", rest.Object{"object": damaged, "dryRun": false}, nil)
	if err != nil {
		return err
	}
	now, err := d.documents(ctx, "sessions")
	if err != nil {
		return err
	}
	d.check(e.Status == "failed" && slices.EqualFunc(now, left, equal), "a damaged copy is refused, and touches nothing")

	e, err = d.once(ctx, "restore sessions", "restore", rest.Object{"object": archive, "dryRun": false}, nil)
	if err != nil {
		return err
	}
	after, err := d.documents(ctx, "sessions")
	if err != nil {
		return err
	}
	d.check(e.Status == "success" && number(e, "records_inserted") == len(before)-len(left), "%d are restored, %d stay as they are", number(e, "records_inserted"), number(e, "records_kept"))
	d.check(len(before) > 0 && slices.EqualFunc(after, before, equal), "the %d sessions equal those of before, byte by byte", len(after))
	return nil
}

// damage copies an object of the bucket with one bit turned.
func (d *demo) damage(from, to string) error {
	content, err := os.ReadFile(filepath.Join(d.system.BucketDir, filepath.FromSlash(from)))
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return fmt.Errorf("%s is empty", from)
	}
	content[len(content)/2] ^= 1
	return os.WriteFile(filepath.Join(d.system.BucketDir, filepath.FromSlash(to)), content, 0o644) //nolint:gosec // runs are another user's
}

// alerts lets a job fail and succeed again.
func (d *demo) alerts(ctx context.Context) error {
	const ops = "ops-alerts@example.com"
	job, err := d.job(ctx, "nightly import", "test_scheduler", rest.Object{"fail": true, "message": "The supplier's file is empty"}, rest.Object{
		"notifications": rest.Object{"on_success": []string{}, "on_failure": []string{ops, "channel:" + system.Webhooks}},
	})
	if err != nil {
		return err
	}
	for _, turn := range []struct {
		fail                bool
		status, event, says string
	}{{true, "failed", "failed", "the run failed"}, {false, "success", "recovered", "recovered, the run succeeded again"}} {
		if _, err := d.client.UpdateJob(ctx, job.ID, rest.Object{"parameters": rest.Object{"fail": turn.fail, "message": "The supplier's file is empty"}}); err != nil {
			return err
		}
		before, err := webhooks.Read(d.system.WebhookDir)
		if err != nil {
			return err
		}
		e, err := d.run(ctx, job)
		if err != nil {
			return err
		}
		told := func(e rest.Execution) bool {
			return len(e.Notifications) == 2 && !slices.ContainsFunc(e.Notifications, func(n rest.Notification) bool { return !(rest.Execution{Status: n.Status}).Over() })
		}
		if e, err = d.until(ctx, e.ID, told); err != nil {
			return fmt.Errorf("its notifications %+v: %w", e.Notifications, err)
		}
		good := e.Status == turn.status
		for _, n := range e.Notifications {
			d.say("  ...   GET %s/%s shows the notification %s: %s by %s: %s", rest.Executions, e.ID, n.ExecutionID, n.Event, n.TemplateType, n.Status)
			good = good && n.Event == turn.event && n.Status == "success"
		}
		d.check(good, "the run ends as %s, and shows its two notifications, both sent", turn.status)
		letters, err := d.letters(ops)
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			return fmt.Errorf("no mail for %s", ops)
		}
		last := letters[len(letters)-1]
		body, err := io.ReadAll(last.Body)
		if err != nil {
			return err
		}
		d.check(last.Header.Get("Subject") == "nightly import: "+turn.says && strings.Contains(string(body), e.ID) && strings.Contains(string(body), "Last log lines"),
			"%s gets the mail %q, with the run's last log lines", ops, last.Header.Get("Subject"))
		after, err := webhooks.Read(d.system.WebhookDir)
		if err != nil {
			return err
		}
		var posted struct {
			Text string
			Data struct{ Event string }
		}
		d.check(len(after) == len(before)+1 && after[len(after)-1].Signature == webhooks.SignatureValid &&
			json.Unmarshal(after[len(after)-1].Body, &posted) == nil && posted.Data.Event == turn.event, "the channel gets, signed: %q", posted.Text)
	}
	return nil
}

// unreachable takes the mail server away for a while.
func (d *demo) unreachable(ctx context.Context) error {
	server := d.system.Process(system.Mail)
	server.Hold()
	defer server.Release()
	if err := server.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := down(ctx, server); err != nil {
		return err
	}
	d.say("  ...   the mail server is gone")
	job, err := d.job(ctx, "mail to nowhere", "email_notification", rest.Object{"recipients": []string{"ann@example.com"}, "subject": "Hello", "body": "Hello"},
		rest.Object{"retry_policy": rest.Object{"max_retries": 1, "retry_delay_seconds": 1}})
	if err != nil {
		return err
	}
	other, err := d.job(ctx, "another job", "test_scheduler", rest.Object{}, nil)
	if err != nil {
		return err
	}
	id, err := d.client.RunJob(ctx, job.ID)
	if err != nil {
		return err
	}
	beside, err := d.run(ctx, other)
	if err != nil {
		return err
	}
	e, err := d.until(ctx, id, rest.Execution.Over)
	if err != nil {
		return err
	}
	d.tell(e)
	d.check(e.Status == "failed" && len(e.Attempts) == 2 && strings.Contains(text(e.Error), "connection refused"), "the run fails after its retry, and says why")
	d.check(beside.Status == "success" && len(beside.Attempts) == 1, "another job's run beside it succeeds")

	const nobody = "http://127.0.0.1:1/"
	e, err = d.once(ctx, "webhook to nobody", "webhook_trigger", rest.Object{"url": nobody, "timeout_seconds": 10},
		rest.Object{"retry_policy": rest.Object{"max_retries": 1, "retry_delay_seconds": 1}})
	if err != nil {
		return err
	}
	d.check(e.Status == "failed" && len(e.Attempts) == 2 && strings.Contains(text(e.Error), "connection refused"), "so does a webhook to %s", nobody)

	server.Release()
	d.say("  ...   the mail server may start again")
	if _, err := d.client.UpdateJob(ctx, job.ID, rest.Object{"retry_policy": rest.Object{"max_retries": 5, "retry_delay_seconds": 1}}); err != nil {
		return err
	}
	e, err = d.run(ctx, job)
	if err != nil {
		return err
	}
	d.check(e.Status == "success", "the same job succeeds once the server is back")
	return nil
}

// down waits until a process has ended.
func down(ctx context.Context, p interface{ Running() (bool, error) }) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if running, _ := p.Running(); !running {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// report asks for the summary, and opens it.
func (d *demo) report(ctx context.Context) error {
	const title, to = "Summary of the demo", "admin-summary@example.com"
	jobs, err := d.client.ListJobs(ctx)
	if err != nil {
		return err
	}
	failed := 0
	for _, job := range jobs {
		executions, err := d.client.ListExecutions(ctx, job.ID)
		if err != nil {
			return err
		}
		for _, e := range executions {
			if e.Status == "failed" {
				failed++
			}
		}
	}
	e, err := d.once(ctx, "summary", "report_generation", rest.Object{
		"source": "history", "registry": system.History, "title": title, "period": "last_24_hours", "top": 100, "format": "html",
		"destination": system.Bucket, "path": "demo/summary.{ext}", "mail": system.Mail, "recipients": []string{to},
	}, nil)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(d.system.BucketDir, "demo", "summary.html"))
	if err != nil {
		return err
	}
	cells, err := tableCells(content)
	if err != nil {
		return fmt.Errorf("open the report: %w", err)
	}
	d.check(bytes.Contains(content, []byte("<h1>"+title+"</h1>")), "the report opens: %d bytes of HTML, every element closed", len(content))
	missing := slices.DeleteFunc(slices.Clone(jobs), func(job rest.Job) bool { return cells[job.Name] })
	d.check(len(jobs) > 0 && len(missing) == 0, "its tables have all %d jobs; without a row: %d", len(jobs), len(missing))
	figures, _ := e.Result["figures"].(map[string]any)
	d.check(failed > 0 && figures["Failed"] == float64(failed), "it counts %v failed runs, as the lists of executions do: %d", figures["Failed"], failed)
	letters, err := d.letters(to)
	if err != nil {
		return err
	}
	if len(letters) != 1 {
		return fmt.Errorf("%d letters for %s instead of one", len(letters), to)
	}
	body, err := io.ReadAll(letters[0].Body)
	if err != nil {
		return err
	}
	d.check(e.Status == "success" && bytes.Contains(body, []byte(`filename="report.html"`)), "%s gets it by mail, attached", to)
	return nil
}

var meta = regexp.MustCompile(`<meta ([^>]*)>`)

// tableCells reads HTML as strictly as if it were XML, but for meta elements, which
// HTML does not close, and returns what the cells of its tables say.
func tableCells(page []byte) (map[string]bool, error) {
	decoder := xml.NewDecoder(bytes.NewReader(meta.ReplaceAll(page, []byte("<meta $1/>"))))
	decoder.Entity = xml.HTMLEntity
	cells := map[string]bool{}
	inside := false
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return cells, nil
		}
		if err != nil {
			return cells, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			inside = token.Name.Local == "td"
		case xml.EndElement:
			inside = false
		case xml.CharData:
			if inside {
				cells[string(token)] = true
			}
		}
	}
}
