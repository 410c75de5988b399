package dispatch

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func TestFollowUps(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	p := simPolicy
	p.PublicURL = "https://almanac.example.com/"
	both := job.Notifications{OnSuccess: []string{"a@example.com"}, OnFailure: []string{"a@example.com", "b@example.com", "channel:ops"}}
	for name, c := range map[string]struct {
		trigger job.Trigger
		n       job.Notifications
		status  job.Status
		before  job.Status
		want    []string // event, template and who is told
	}{
		"nobody":                       {job.TriggerScheduler, job.Notifications{}, job.Failed, "", nil},
		"a success":                    {job.TriggerScheduler, both, job.Success, job.Success, []string{"succeeded email_notification a@example.com"}},
		"the first success":            {job.TriggerScheduler, both, job.Success, "", []string{"succeeded email_notification a@example.com"}},
		"a failure":                    {job.TriggerManual, both, job.Failed, job.Success, []string{"failed email_notification a@example.com,b@example.com", "failed channel_message ops"}},
		"a time-out":                   {job.TriggerScheduler, both, job.TimedOut, "", []string{"failed email_notification a@example.com,b@example.com", "failed channel_message ops"}},
		"an end that is not known":     {job.TriggerScheduler, both, job.Unknown, "", []string{"failed email_notification a@example.com,b@example.com", "failed channel_message ops"}},
		"a recovery":                   {job.TriggerScheduler, both, job.Success, job.TimedOut, []string{"succeeded email_notification a@example.com", "recovered email_notification b@example.com", "recovered channel_message ops"}},
		"a cancelled run":              {job.TriggerScheduler, both, job.Cancelled, "", nil},
		"a retry":                      {job.TriggerScheduler, both, job.Retrying, "", nil},
		"a notification tells nobody":  {job.TriggerNotification, both, job.Failed, "", nil},
		"a channel alone, of failures": {job.TriggerScheduler, job.Notifications{OnFailure: []string{"channel:x"}}, job.Failed, "", []string{"failed channel_message x"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &job.Execution{
				ID: "exec_x_s_20261123T110000Z", JobID: "job_x", Trigger: c.trigger, ScheduledFor: at.Add(-time.Hour), StartedAt: at.Add(-time.Minute), CompletedAt: at,
				Status: c.status, Error: "the disk is full {{ .Data }}", ErrorCode: "disk",
				Frozen: job.Frozen{JobName: "Clean up", Organisation: "shop", Priority: 3, Zone: "Europe/Berlin", Notifications: c.n},
			}
			ids := map[string]bool{}
			for _, id := range NotificationIDs(e) {
				ids[id] = true
			}
			tail := []job.LogLine{{At: at, Level: "ERROR", Message: "no space left"}}
			var got []string
			for _, f := range p.followUps(e, c.before, tail, at) {
				var params struct {
					Recipients []string
					Channel    string
					Subject    string
					Body, Text string
					Data       map[string]any
				}
				if err := json.Unmarshal(f.Frozen.Parameters, &params); err != nil {
					t.Fatal(err)
				}
				got = append(got, NotificationEvent(f.Key)+" "+f.Frozen.TemplateType+" "+strings.Join(params.Recipients, ",")+params.Channel)
				if params.Data["job_name"] != "Clean up" || params.Data["status"] != string(c.status) || params.Data["duration_seconds"] != 60.0 ||
					params.Data["link"] != "https://almanac.example.com/runs/"+e.ID || len(params.Data["logs"].([]any)) != 1 {
					t.Errorf("it says %v", params.Data)
				}
				if strings.Contains(params.Subject+params.Body, "disk is full") {
					t.Errorf("what a run says is part of a template: %s %s", params.Subject, params.Body)
				}
				if params.Channel != "" && !strings.Contains(params.Text, "Clean up: ") {
					t.Errorf("the channel is told %q", params.Text)
				}
				if !ids[f.ID] || f.JobID != job.NotificationsID || f.Trigger != job.TriggerNotification || f.Status != job.Pending ||
					f.Frozen.Organisation != "shop" || f.Frozen.Priority != 3 || f.Exclusive || !f.WakeAt.Equal(at) || f.Frozen.Retry.MaxRetries == 0 {
					t.Errorf("follows %+v", f)
				}
				if id, trigger, key, ok := job.ParseExecutionID(f.ID); !ok || id != f.JobID || trigger != f.Trigger || key != f.Key {
					t.Errorf("%s is %s %s %s", f.ID, id, trigger, key)
				}
			}
			if strings.Join(got, "; ") != strings.Join(c.want, "; ") {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	if event := NotificationEvent("odd"); event != "" {
		t.Errorf("an odd key is about %q", event)
	}
}

// system creates the system's jobs, as the start of a registry does.
func (r *rig) system() {
	r.t.Helper()
	for _, j := range SystemJobs(time.Now()) {
		if _, _, err := r.store.CreateJob(r.t.Context(), store.CreateJob{Job: j}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A failure is told with the last lines of the log, the success after it as a
// recovery, the one after that to nobody.
func TestNotificationsFollowARun(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		r.system()
		h := r.hello("a")
		h.Templates = []string{idempotentType, mailTemplate}
		st, err := r.d.Open(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		r.send(st, &Inbound{Credits: 8})
		r.beat(st)
		j := r.manual(func(j *job.Job) { j.Notifications.OnFailure = []string{"ops@example.com"} })
		end := func(key string, status job.Status) {
			r.accept(j, key)
			a := r.assignment(st)
			if a.JobID != j.ID {
				t.Fatalf("assigned %+v", a)
			}
			o := job.Outcome{Status: status, StartedAt: time.Now(), CompletedAt: time.Now(), Error: "no luck", ErrorCode: "luck"}
			if status == job.Success {
				o = success(a).Outcome
			}
			var lines []job.LogLine
			for range tailLines + 5 {
				lines = append(lines, job.LogLine{At: time.Now(), Level: "INFO", Message: "a line"})
			}
			r.send(st, &Inbound{Logs: []*store.AppendLog{{ID: a.ID, Token: a.Token, Lines: lines}}, Results: []Result{{Holding{a.ID, a.Token}, o}}})
		}
		notified := func(event string, logs int) {
			t.Helper()
			a := r.assignment(st)
			if a.JobID != job.NotificationsID || a.TemplateType != mailTemplate || NotificationEvent(a.ID) != event {
				t.Fatalf("assigned %+v, want a notification that it %s", a, event)
			}
			var params struct{ Data struct{ Logs []any } }
			if err := json.Unmarshal(a.Parameters, &params); err != nil || len(params.Data.Logs) != logs {
				t.Errorf("it quotes %d lines, %v", len(params.Data.Logs), err)
			}
			r.send(st, &Inbound{Results: []Result{success(a)}})
		}
		end("one", job.Failed)
		notified(eventFailed, tailLines)
		end("two", job.Success)
		notified(eventRecovered, tailLines)
		end("three", job.Success)
		time.Sleep(time.Minute)
		synctest.Wait()
		page, total, err := r.store.Executions(t.Context(), store.ExecutionFilter{JobID: job.NotificationsID, Limit: 10})
		if err != nil || total != 2 || page[0].Status != job.Success {
			t.Errorf("%d notifications, %v: %+v", total, err, page)
		}
	})
}

// A trial belongs to a job that is never loaded: it is leased all the same, at
// once where somebody is free and else later, and its end is told to nobody.
func TestTrials(t *testing.T) {
	dispatching(t, func(t *testing.T, r *rig) {
		r.system()
		trials := SystemJobs(time.Now())[1]
		trials.TemplateType = idempotentType // of the job that is tried
		if early := r.accept(trials, "early"); early.Leased() {
			t.Errorf("leased to nobody: %+v", early)
		}
		st := r.open("a", 8)
		r.beat(st)
		for _, key := range []string{"early", "late"} {
			if key == "late" && !r.accept(trials, key).Leased() {
				t.Error("somebody is free, and it waits")
			}
			a := r.assignment(st)
			if a.JobID != job.TrialsID || a.Attempt != 1 {
				t.Fatalf("assigned %+v", a)
			}
			r.send(st, &Inbound{Results: []Result{{Holding{a.ID, a.Token}, job.Outcome{Status: job.Failed, CompletedAt: time.Now(), Error: "no luck", Retryable: true}}}})
			synctest.Wait()
			if e := r.execution(a.ID); e.Status != job.Failed || len(NotificationIDs(e)) != 0 {
				t.Errorf("ended as %+v", e)
			}
		}
		if _, total, err := r.store.Executions(t.Context(), store.ExecutionFilter{JobID: job.NotificationsID, Limit: 1}); err != nil || total != 0 {
			t.Errorf("%d notifications, %v", total, err)
		}
	})
}
