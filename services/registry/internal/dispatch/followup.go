package dispatch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// The templates that notifications run. An executor carries them like any other.
const (
	mailTemplate    = "email_notification"
	channelTemplate = "channel_message"
)

// How a notification is attempted: often enough to outlive a restart of a mail
// server.
const (
	notifyTimeout = 5 * time.Minute
	notifyRetries = 5
	notifyDelay   = time.Minute
)

// tailLines is how many of a run's last log lines a notification quotes.
const tailLines = 20

// What a notification is about.
const (
	eventSucceeded = "succeeded"
	eventFailed    = "failed"
	eventRecovered = "recovered" // succeeded, after the run before had failed
)

var events = []string{eventSucceeded, eventFailed, eventRecovered}

// failure tells whether a status counts as one for those who are told. A run that
// somebody cancelled, or that was skipped, does not.
func failure(s job.Status) bool {
	return s == job.Failed || s == job.TimedOut || s == job.Unknown
}

// notifies tells whether anybody wants to know how the execution ends.
func notifies(e *job.Execution) bool {
	n := &e.Frozen.Notifications
	return e.Trigger != job.TriggerNotification && len(n.OnSuccess)+len(n.OnFailure) > 0
}

// told is whom an event concerns. Who hears of every success is not told of a
// recovery too.
func told(n *job.Notifications, event string) []string {
	switch event {
	case eventSucceeded:
		return n.OnSuccess
	case eventFailed:
		return n.OnFailure
	default:
		return slices.DeleteFunc(slices.Clone(n.OnFailure), func(to string) bool { return slices.Contains(n.OnSuccess, to) })
	}
}

// SystemJobs are the jobs that notifications and trials belong to, as they are
// created once in each store.
func SystemJobs(now time.Time) []*job.Job {
	now = now.UTC().Truncate(time.Millisecond)
	system := func(id, name, description, templateType string) *job.Job {
		return &job.Job{
			ID: id, Name: name, Description: description, TemplateType: templateType,
			Parameters: json.RawMessage(`{}`), Schedule: schedule.Spec{Type: schedule.Manual}, Timeout: notifyTimeout,
			Missed: job.MissedRunOnce, Overlap: job.OverlapAllow, Organisation: job.DefaultOrganisation,
			CreatedAt: now, UpdatedAt: now, Version: 1, Deleted: true,
		}
	}
	return []*job.Job{
		system(job.NotificationsID, "Notifications", "Tells people how runs ended", mailTemplate),
		system(job.TrialsID, "Trials", "Runs of jobs that are not saved", ""),
	}
}

// followUps are the executions that the end of a run calls for: one mail to all
// addresses, and one message to each channel. before is how the job's run before
// ended, empty if there was none. Notifications notify nobody.
func (p Policy) followUps(e *job.Execution, before job.Status, tail []job.LogLine, now time.Time) []*job.Execution {
	if !notifies(e) || !e.Status.Ended() {
		return nil
	}
	var follow []*job.Execution
	about := func(event string) {
		follow = append(follow, p.notifications(e, event, tail, now)...)
	}
	switch {
	case failure(e.Status):
		about(eventFailed)
	case e.Status == job.Success:
		about(eventSucceeded)
		if failure(before) {
			about(eventRecovered)
		}
	}
	return follow
}

func (p Policy) notifications(e *job.Execution, event string, tail []job.LogLine, now time.Time) []*job.Execution {
	var addresses, channels []string
	for _, to := range told(&e.Frozen.Notifications, event) {
		if name, ok := strings.CutPrefix(to, job.ChannelPrefix); ok {
			channels = append(channels, name)
		} else {
			addresses = append(addresses, to)
		}
	}
	data := p.facts(e, event, tail)
	subject := fmt.Sprintf("%s: %s", e.Frozen.JobName, headline[event])
	var follow []*job.Execution
	if len(addresses) > 0 {
		follow = append(follow, p.notification(e, event, 0, mailTemplate, map[string]any{
			"recipients": addresses, "subject": "{{ .Data.job_name }}: {{ .Data.headline }}", "body": mailText, "data": data,
		}, now))
	}
	for i, name := range channels {
		follow = append(follow, p.notification(e, event, i+1, channelTemplate, map[string]any{
			"channel": name, "text": channelText(e, subject, p.link(e)), "data": data,
		}, now))
	}
	return follow
}

var headline = map[string]string{
	eventSucceeded: "the run succeeded", eventFailed: "the run failed", eventRecovered: "recovered, the run succeeded again",
}

func (p Policy) notification(e *job.Execution, event string, ordinal int, templateType string, params map[string]any, now time.Time) *job.Execution {
	text, err := json.Marshal(params)
	if err != nil {
		text = []byte(`{}`) // strings, numbers and what was JSON: it cannot fail
	}
	key := notificationKey(e.ID, event, ordinal)
	return &job.Execution{
		ID: job.ExecutionID(job.NotificationsID, job.TriggerNotification, key), JobID: job.NotificationsID, JobVersion: 1,
		Trigger: job.TriggerNotification, Key: key, ScheduledFor: now, CreatedAt: now, WakeAt: now, Status: job.Pending,
		Frozen: job.Frozen{
			JobName: "Notification: " + e.Frozen.JobName, TemplateType: templateType, Organisation: e.Frozen.Organisation,
			Priority: e.Frozen.Priority, Parameters: text, Timeout: notifyTimeout,
			Retry: job.RetryPolicy{MaxRetries: notifyRetries, Delay: notifyDelay}, Zone: e.Frozen.Zone,
			Idempotent: p.Idempotent(templateType),
		},
	}
}

func notificationKey(parent, event string, ordinal int) string {
	return parent + "." + event + "." + strconv.Itoa(ordinal)
}

// NotificationEvent is what a notification with that key is about.
func NotificationEvent(key string) string {
	parts := strings.Split(key, ".")
	if len(parts) < 3 {
		return ""
	}
	return parts[len(parts)-2]
}

// NotificationIDs are the ids of the notifications that the execution may have
// called for.
func NotificationIDs(e *job.Execution) []string {
	if !notifies(e) {
		return nil
	}
	var ids []string
	for _, event := range events {
		for i := range len(told(&e.Frozen.Notifications, event)) + 1 {
			ids = append(ids, job.ExecutionID(job.NotificationsID, job.TriggerNotification, notificationKey(e.ID, event, i)))
		}
	}
	return ids
}

// facts are what a notification may say of the run.
func (p Policy) facts(e *job.Execution, event string, tail []job.LogLine) map[string]any {
	lines := make([]map[string]string, len(tail))
	for i, l := range tail {
		lines[i] = map[string]string{"timestamp": instant(l.At), "level": l.Level, "message": l.Message}
	}
	data := map[string]any{
		"event": event, "headline": headline[event], "job_id": e.JobID, "job_name": e.Frozen.JobName, "execution_id": e.ID,
		"template_type": e.Frozen.TemplateType, "organisation": e.Frozen.Organisation, "status": string(e.Status),
		"triggered_by": string(e.Trigger), "triggered_by_user": e.TriggeredByUser, "attempts": len(e.Attempts),
		"scheduled_for": instant(e.ScheduledFor), "started_at": instant(e.StartedAt), "completed_at": instant(e.CompletedAt),
		"execution_host": e.Host, "error": e.Error, "error_code": e.ErrorCode, "reason": e.Reason, "logs": lines, "link": p.link(e),
	}
	if !e.StartedAt.IsZero() && !e.CompletedAt.IsZero() {
		data["duration_seconds"] = e.CompletedAt.Sub(e.StartedAt).Seconds()
	}
	return data
}

// link is the console's page about the run, or nothing.
func (p Policy) link(e *job.Execution) string {
	if p.PublicURL == "" {
		return ""
	}
	return strings.TrimSuffix(p.PublicURL, "/") + "/runs/" + e.ID
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// mailText is a Go template over the facts.
const mailText = `{{ .Data.job_name }}: {{ .Data.headline }}.

Status:    {{ .Data.status }}{{ if .Data.error_code }} ({{ .Data.error_code }}){{ end }}
{{ if .Data.error }}Error:     {{ .Data.error }}
{{ end }}{{ if .Data.reason }}Reason:    {{ .Data.reason }}
{{ end }}Template:  {{ .Data.template_type }}
Scheduled: {{ .Data.scheduled_for }}
{{ if .Data.started_at }}Started:   {{ .Data.started_at }}
{{ end }}Ended:     {{ .Data.completed_at }}
Attempts:  {{ .Data.attempts }}
{{ if .Data.execution_host }}Executor:  {{ .Data.execution_host }}
{{ end }}Execution: {{ .Data.execution_id }}
{{ if .Data.link }}
{{ .Data.link }}
{{ end }}{{ if .Data.logs }}
Last log lines:
{{ range .Data.logs }}{{ .timestamp }} {{ .level }} {{ .message }}
{{ end }}{{ end }}`

func channelText(e *job.Execution, subject, link string) string {
	text := subject
	if e.Error != "" {
		text += "\n" + e.Error
	}
	if link != "" {
		text += "\n" + link
	}
	return text
}
