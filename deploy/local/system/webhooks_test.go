package system

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/almanac-scheduler/almanac/deploy/local/internal/rest"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/system"
	"github.com/almanac-scheduler/almanac/deploy/local/internal/webhooks"
)

// TestWebhooks sends to the receiver of the local system, from confined children.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	r := boot(t, func(c *system.Config) {
		c.Executors = 1
		c.Webhooks = true
		c.Registry = map[string]any{"manual_runs_per_hour": 0}
	})
	seen := 0
	// arrived returns what was received since it was asked last.
	arrived := func() []webhooks.Request {
		t.Helper()
		all, err := webhooks.Read(r.WebhookDir)
		if err != nil {
			t.Fatal(err)
		}
		fresh := all[seen:]
		seen = len(all)
		return fresh
	}
	send := func(name, template string, params, more rest.Object, status string) rest.Execution {
		t.Helper()
		return ended(t, r.super, run(t, r.super, createJob(t, r.super, name, template, params, more)), status)
	}

	e := send("signed", "webhook_trigger", rest.Object{
		"target": "webhooks", "data": rest.Object{"branch": "main"},
		"body": rest.Object{"ref": "{{.Data.branch}}", "by": "{{.JobName}}", "execution": "{{.ExecutionID}}"},
	}, nil, "success")
	got := arrived()
	if len(got) != 1 || got[0].Signature != webhooks.SignatureValid || got[0].Path != "/channel" || got[0].Headers["Idempotency-Key"][0] != e.ID {
		t.Fatalf("arrived: %+v", got)
	}
	if body := decoded(t, got[0].Body); !reflect.DeepEqual(body, map[string]any{"ref": "main", "by": "signed", "execution": e.ID}) {
		t.Errorf("body %v", body)
	}
	if e.Result["status"] != 200.0 || strings.Contains(show(e), "/channel") {
		t.Errorf("it tells %s", show(e))
	}

	e = send("told a channel", "channel_message", rest.Object{"channel": "webhooks", "text": "The backup failed", "data": rest.Object{"n": 1}}, nil, "success")
	got = arrived()
	if len(got) != 1 || got[0].Signature != webhooks.SignatureValid {
		t.Fatalf("arrived: %+v", got)
	}
	body, _ := decoded(t, got[0].Body).(map[string]any)
	delete(body, "sent_at")
	if !reflect.DeepEqual(body, map[string]any{"text": "The backup failed", "data": map[string]any{"n": 1.0}, "execution_id": e.ID}) {
		t.Errorf("body %v", body)
	}

	// What fails for the moment is attempted again by the scheduler, under one key.
	at := r.WebhookURL()
	e = send("fails once", "webhook_trigger", rest.Object{"url": at + "/fail-once"}, rest.Object{"retry_policy": rest.Object{"max_retries": 1, "retry_delay_seconds": 0}}, "success")
	got = arrived()
	if len(e.Attempts) != 2 || len(got) != 2 || got[0].Status != http.StatusInternalServerError || got[1].Status != http.StatusOK ||
		got[0].Headers["Idempotency-Key"][0] != got[1].Headers["Idempotency-Key"][0] || string(got[0].Body) != string(got[1].Body) {
		t.Errorf("%s, arrived: %+v", show(e), got)
	}
	e = send("is refused for good", "webhook_trigger", rest.Object{"url": at + "/status/422"}, rest.Object{"retry_policy": rest.Object{"max_retries": 3, "retry_delay_seconds": 0}}, "failed")
	if len(e.Attempts) != 1 || value(e.ErrorCode) != "unexpected_status" || !strings.Contains(value(e.Error), "422 Unprocessable Entity") || e.Result["status"] != 422.0 || len(arrived()) != 1 {
		t.Errorf("it tells %s", show(e))
	}

	// Metadata services are out of reach, also by a redirect.
	for name, params := range map[string]rest.Object{
		"metadata":            {"url": "http://169.254.169.254/latest/meta-data/"},
		"metadata, mapped":    {"url": "http://[::ffff:a9fe:a9fe]/latest/meta-data/"},
		"metadata, from here": {"url": at + "/redirect?to=http://169.254.169.254/latest/meta-data/", "follow_redirects": true},
	} {
		e = send(name, "webhook_trigger", params, nil, "failed")
		if len(e.Attempts) != 1 || value(e.ErrorCode) != "forbidden" || !strings.Contains(value(e.Error), "169.254.169.254") {
			t.Errorf("%s: it tells %s", name, show(e))
		}
	}
	if got := arrived(); len(got) != 1 || got[0].Status != http.StatusTemporaryRedirect {
		t.Errorf("arrived: %+v", got)
	}

	e = send("tried", "webhook_trigger", rest.Object{"target": "webhooks", "dryRun": true}, nil, "success")
	if request, _ := e.Result["request"].(map[string]any); request["signed"] != true || len(arrived()) != 0 {
		t.Errorf("it tells %s", show(e))
	}
}

func decoded(t *testing.T, text []byte) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return value
}
