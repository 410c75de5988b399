package builtin

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// channelMessage posts a text to a channel: a chat's incoming webhook, or a
// receiver of one's own.
type channelMessage struct{}

func (channelMessage) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "channel_message",
		Version: 1,
		Name:    "Channel Message",
		Description: "Post a text to a channel: a Slack or Discord webhook, or a receiver of one's own, which gets " +
			`{"text", "data", "execution_id", "sent_at"} (sent_at is the time the run was due) with the headers and the signature of webhook_trigger`,
		Category:          "notification",
		Icon:              "💬",
		EstimatedDuration: "under 10 seconds",
		ResourceUsage:     "low",
		RiskLevel:         "low",
		// A text that arrives twice annoys; one that does not arrive harms.
		Idempotent:  true,
		Connections: map[string]string{channelParam: template.KindWebhook},
	}
}

const (
	channelParam = "channel"

	maxMessage        = 4000
	maxDiscordMessage = 2000
	channelTime       = 30 * time.Second
)

// Forms in which channels take messages.
const (
	formatGeneric = "generic"
	formatSlack   = "slack"
	formatDiscord = "discord"
)

func (channelMessage) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{channelParam, "text", template.DryRunParam},
		"required":             []any{channelParam, "text"},
		"properties": map[string]any{
			channelParam: map[string]any{
				"type":        "string",
				"description": "Connection that holds the channel's address",
				"minLength":   1,
			},
			"text": map[string]any{
				"type":        "string",
				"description": "What to post, as plain text; Discord takes 2000 characters, and gets the beginning of a longer one",
				"minLength":   1,
				"maxLength":   maxMessage,
				"examples":    []any{"The nightly backup failed"},
			},
			"data": map[string]any{
				"type":        "object",
				"description": "More about it for programs; Slack and Discord do not get it",
				"examples":    []any{map[string]any{"job_name": "nightly backup", "status": "failed"}},
			},
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Say what would be posted, but send nothing",
				"default":     false,
			},
		},
	}
}

func (channelMessage) ResultSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message"},
		"properties": map[string]any{
			"message": map[string]any{"type": "string", "description": "What was posted where, or would be"},
			"format":  map[string]any{"type": "string", "description": "Form of the message: generic, slack or discord"},
			"status":  map[string]any{"type": "integer", "description": "Status of the channel's answer"},
			"answer":  map[string]any{"type": "string", "description": "The channel's answer, at most 64 KiB of it"},
			"body":    map[string]any{"type": "string", "description": "In a dry run, what would be sent"},
		},
	}
}

func (channelMessage) Examples() []template.Example {
	return []template.Example{
		{Title: "Remind a team", Params: map[string]any{channelParam: "ops", "text": "The change window opens in ten minutes"}},
		{Title: "Tell a program more than people need to read", Params: map[string]any{
			channelParam: "alerts", "text": "nightly backup failed", "data": map[string]any{"job_name": "nightly backup", "status": "failed"},
		}},
	}
}

func (channelMessage) SettingsSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			"formats": map[string]any{
				"type":                 "object",
				"description":          `Form of the messages by connection, such as {"ops": "slack"}: slack, discord, or generic, which those not named have`,
				"additionalProperties": map[string]any{"type": "string", "description": "Form of this connection's messages", "enum": []any{formatGeneric, formatSlack, formatDiscord}},
				"maxProperties":        1000,
				"default":              map[string]any{},
			},
			allowNetworksSetting: allowNetworksSchema(),
			allowPortsSetting:    allowPortsSchema(),
		},
	}
}

func (channelMessage) ValidateSettings(settings map[string]any) error {
	_, err := egressPolicy(settings)
	return err
}

func (channelMessage) ValidateParams(params map[string]any) error {
	if text, _ := params["text"].(string); strings.TrimSpace(text) == "" {
		return template.BadParam("text", "must not be blank")
	}
	return nil
}

func (channelMessage) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	connection, err := run.Connection(channelParam)
	if err != nil {
		return nil, template.AsError(err)
	}
	r := &httpRequest{
		method: http.MethodPost, header: http.Header{}, hidden: true, secrets: []template.Connection{connection},
		expected: statuses{{200, 299}}, timeout: channelTime,
	}
	if r.policy, err = egressPolicy(run.Settings); err != nil {
		return nil, template.AsError(err)
	}
	if r.url, err = addressOf(connection); err != nil {
		return nil, template.AsError(err)
	}
	formats, _ := run.Settings["formats"].(map[string]any)
	format, ok := formats[connection.Name].(string)
	if !ok {
		format = formatGeneric
	}
	text, _ := run.Params["text"].(string)
	data, _ := run.Params["data"].(map[string]any)
	content, cut := channelContent(format, run, text, data)
	if cut {
		run.Report.Log("WARN", fmt.Sprintf("The text is longer than %s takes: only its beginning is posted", format))
	}
	if err := r.setJSON(content); err != nil {
		return nil, template.AsError(err)
	}
	if template.EffectiveDryRun(run.Params) {
		return template.Result{
			"message": fmt.Sprintf("Would post %d characters to %s (dry run)", len([]rune(text)), connection.Name),
			"format":  format, "body": r.redact(string(r.body)),
		}, nil
	}
	r.header.Set("User-Agent", userAgent)
	r.header.Set(idempotencyHeader, run.ExecutionID)
	if format == formatGeneric && connection.Secret != "" {
		signBody(r.header, connection.Secret, r.body, signingTime())
	}
	got, err := r.send(ctx, run.Report)
	if got == nil {
		return nil, err
	}
	result := template.Result{"format": format, "status": got.status, "answer": got.body}
	if err != nil {
		result["message"] = fmt.Sprintf("%s did not take the message: it answered %d", connection.Name, got.status)
		return result, err
	}
	result["message"] = fmt.Sprintf("Posted %d characters to %s", len([]rune(text)), connection.Name)
	run.Report.Log("INFO", result["message"].(string))
	return result, nil
}

// channelContent is what a channel is sent, and whether the text was cut.
func channelContent(format string, run *template.Run, text string, data map[string]any) (content map[string]any, cut bool) {
	switch format {
	case formatSlack:
		// The three characters by which a text would become a link or call people.
		return map[string]any{"text": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)}, false
	case formatDiscord:
		text, cut = cutUnits(text, maxDiscordMessage)
		// Nobody is called by what a job happens to say.
		return map[string]any{"content": text, "allowed_mentions": map[string]any{"parse": []any{}}}, cut
	}
	return map[string]any{
		"text": text, "data": orEmpty(data), "execution_id": run.ExecutionID, "sent_at": run.ScheduledFor.Format(time.RFC3339Nano),
	}, false
}

// cutUnits returns a text of at most so many UTF-16 units, the strictest way in
// which a limit of characters is meant.
func cutUnits(text string, most int) (string, bool) {
	if len(utf16.Encode([]rune(text))) <= most {
		return text, false
	}
	units, kept := 1, 0 // one for the ellipsis
	for i, r := range text {
		if units += utf16.RuneLen(r); units > most {
			break
		}
		kept = i + len(string(r))
	}
	return text[:kept] + "…", true
}
