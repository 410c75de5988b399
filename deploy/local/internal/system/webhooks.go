package system

import (
	"context"
	"crypto/rand"
	"os"
)

// startWebhooks starts the receiver of webhooks, and waits until it listens. The
// key of signatures is a new one.
func (s *System) startWebhooks(ctx context.Context) error {
	if err := os.WriteFile(s.webhookSecret(), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	s.WebhookDir = s.path("webhooks")
	return s.startSink(ctx, Webhooks, httpOf(Webhooks), "webhook-receiver", "--dir", s.WebhookDir, "--secret-file", s.webhookSecret())
}

func (s *System) webhookSecret() string { return s.path("run", "webhook_secret") }

// WebhookURL is where the receiver of webhooks listens, such as
// http://127.0.0.1:4711.
func (s *System) WebhookURL() string { return "http://" + s.current(httpOf(Webhooks)) }

// webhookConnection leads to the receiver, as an executor is configured.
func (s *System) webhookConnection() map[string]any {
	return map[string]any{"kind": "webhook", "uri": s.WebhookURL() + "/channel", "secret_file": s.webhookSecret()}
}

// webhookSettings let webhooks go to this machine, which executors refuse
// otherwise.
func webhookSettings() map[string]any {
	here := map[string]any{"allow_networks": []string{"127.0.0.0/8"}}
	return map[string]any{"channel_message": here, "webhook_trigger": here}
}
