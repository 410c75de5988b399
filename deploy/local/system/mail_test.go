package system

import (
	"context"
	"fmt"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
)

// TestMail sends mail through the whole system, to recipients of whom one is
// refused and one put off until the run's second attempt, which another executor
// may make.
func TestMail(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) { c.Mail = true })
	job := r.job("mail", "email_notification", rest.Object{
		"recipients": []string{"ann@example.com", "refused-once@example.com", "nobody@example.com", "bob@example.com"},
		"subject":    "{{ .JobName }}: {{ .Data.n }}", "body": "Attempt {{ .Attempt }}", "data": rest.Object{"n": 1_000_000},
	}, rest.Object{"retry_policy": rest.Object{"max_retries": 2, "retry_delay_seconds": 1}})
	e := ended(t, r.super, run(t, r.super, job), "failed")
	if len(e.Attempts) != 2 || value(e.Attempts[0].ErrorCode) != "recipients_deferred" || value(e.ErrorCode) != "recipients_refused" ||
		!strings.Contains(value(e.Error), "nobody@example.com (550 5.1.1 nobody lives here)") {
		t.Errorf("it ended like this: %s", show(e))
	}
	if e.Result["sent"] != 3.0 || e.Result["message"] != "Sent 3 of 4 emails: 1 refused, 0 put off" {
		t.Errorf("result %v", e.Result)
	}
	identities := map[string]bool{}
	var arrived []string
	for _, m := range letters(t, r.MailDir) {
		to := m.Get("Delivered-To")
		arrived = append(arrived, to)
		identities[m.Get("Message-Id")] = true
		if m.Get("Subject") != "mail: 1000000" || m.Get("To") != "<"+to+">" || m.Get("X-Almanac-Execution") != e.ID {
			t.Errorf("to %s: %v", to, m)
		}
	}
	if want := []string{"ann@example.com", "bob@example.com", "refused-once@example.com"}; !slices.Equal(arrived, want) || len(identities) != 3 {
		t.Errorf("arrived for %v, identities %v", arrived, identities)
	}

	// A server that is not there is a failure with its reason, and mail goes on
	// once it is.
	sink := r.Process(system.Mail)
	kill(t, sink.PID())
	good := r.job("good", "email_notification", rest.Object{"recipients": []string{"ann@example.com"}, "subject": "Good", "body": "Morning"},
		rest.Object{"retry_policy": rest.Object{"max_retries": 5, "retry_delay_seconds": 1}})
	e = ended(t, r.super, run(t, r.super, good), "success")
	for _, a := range e.Attempts[:len(e.Attempts)-1] {
		if value(a.ErrorCode) != "connection" {
			t.Errorf("attempt %d: %s", a.Number, value(a.Error))
		}
	}
	if got := letters(t, r.MailDir); len(got) != 4 || got[3].Get("Subject") != "Good" {
		t.Errorf("there are %d letters", len(got))
	}

	// Who wants to know of failures hears of one.
	alarm := r.job("alarm", "test_scheduler", rest.Object{"fail": true, "message": "Hello <you>"}, rest.Object{
		"retry_policy": rest.Object{"max_retries": 0}, "notifications": rest.Object{"on_success": []string{}, "on_failure": []string{"ops@example.com"}},
	})
	ended(t, r.super, run(t, r.super, alarm), "failed")
	within(t, soon, func(context.Context) error {
		got := letters(t, r.MailDir)
		if last := got[len(got)-1]; last.Get("Delivered-To") != "ops@example.com" || !strings.HasPrefix(last.Get("Subject"), "alarm: ") {
			return fmt.Errorf("the last letter is %v", last)
		}
		return nil
	})

	// What cannot be an address, or a subject, is refused when it is saved.
	for field, value := range map[string]any{"recipients": []string{"ann@example.com\r\nBcc: eve@example.com"}, "subject": "a\nb"} {
		params := rest.Object{"recipients": []string{"ann@example.com"}, "subject": "S", "body": "B"}
		params[field] = value
		_, err := r.super.CreateJob(t.Context(), rest.Object{
			"name": "bad " + field, "template_type": "email_notification", "parameters": params, "schedule": rest.Object{"type": "manual"},
		})
		if failure := refused(t, err, http.StatusBadRequest); !strings.Contains(failure.Error(), field) {
			t.Errorf("%s: %v", field, failure)
		}
	}
}

// letters returns the headers of all that was sent, in the order of arrival.
func letters(t *testing.T, dir string) []mail.Header {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	var all []mail.Header
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		message, err := mail.ReadMessage(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, message.Header)
	}
	return all
}
