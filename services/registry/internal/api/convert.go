package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// asJSON is how messages look in REST and in the audit log: the protocol's own
// field names, and nothing left out.
var asJSON = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}

func auditJSON(m proto.Message) ([]byte, error) {
	text, err := asJSON.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("describe for the audit log: %w", err)
	}
	if _, ok := m.(*almanacv1.Job); ok { // how its runs went is no part of what people changed
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(text, &fields); err != nil {
			return nil, fmt.Errorf("describe for the audit log: %w", err)
		}
		delete(fields, "state")
		delete(fields, "recent_runs")
		if text, err = json.Marshal(fields); err != nil {
			return nil, fmt.Errorf("describe for the audit log: %w", err)
		}
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil { // protojson varies its spaces
		return nil, fmt.Errorf("describe for the audit log: %w", err)
	}
	return out.Bytes(), nil
}

// timestamp is nil for the zero time, which becomes null.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// moment reads a time that a request may leave out.
func moment(field string, given *timestamppb.Timestamp, otherwise time.Time) (time.Time, error) {
	if given == nil {
		return otherwise, nil
	}
	if err := given.CheckValid(); err != nil || given.AsTime().Year() < 1970 {
		return time.Time{}, invalid(kindInvalid, violations{{field, "must lie between the years 1970 and 9999"}})
	}
	return given.AsTime(), nil
}

func text(s string) *wrapperspb.StringValue {
	if s == "" {
		return nil
	}
	return wrapperspb.String(s)
}

// seconds is nil unless both ends are known.
func seconds(from, to time.Time) *wrapperspb.DoubleValue {
	if from.IsZero() || to.IsZero() {
		return nil
	}
	return wrapperspb.Double(max(to.Sub(from), 0).Seconds())
}

// freeForm reads a stored JSON object; nil stays nil, which becomes null.
func freeForm(raw json.RawMessage) (*structpb.Struct, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	s := &structpb.Struct{}
	if err := protojson.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("a stored object is not readable: %w", err)
	}
	return s, nil
}

func jobMessage(j *job.Job) (*almanacv1.Job, error) {
	parameters, err := freeForm(j.Parameters)
	if err != nil {
		return nil, fmt.Errorf("parameters of %s: %w", j.ID, err)
	}
	return &almanacv1.Job{
		Id: j.ID, Name: j.Name, Description: j.Description, TemplateType: j.TemplateType,
		Parameters: parameters, Schedule: scheduleMessage(j.Schedule), Enabled: proto.Bool(j.Enabled),
		TimeoutSeconds: proto.Int32(int32(j.Timeout / time.Second)),
		RetryPolicy: &almanacv1.RetryPolicy{
			MaxRetries: proto.Int32(int32(j.Retry.MaxRetries)), RetryDelaySeconds: proto.Int32(int32(j.Retry.Delay / time.Second)),
		},
		Notifications: &almanacv1.Notifications{OnSuccess: j.Notifications.OnSuccess, OnFailure: j.Notifications.OnFailure},
		CreatedBy:     j.CreatedBy, CreatedAt: timestamp(j.CreatedAt), UpdatedAt: timestamp(j.UpdatedAt),
		LastRunAt: timestamp(j.LastRunAt), NextRunAt: timestamp(j.NextRunAt),
		Version: int32(j.Version), Labels: j.Labels, Organisation: j.Organisation,
		MissedPolicy: j.Missed, OverlapPolicy: j.Overlap, Priority: proto.Int32(int32(j.Priority)), ExecutorSelector: j.Selector,
		State: string(cmp.Or(j.State, job.StateNever)),
	}, nil
}

func runSummary(e *job.Execution) *almanacv1.RunSummary {
	return &almanacv1.RunSummary{
		Id: e.ID, Status: string(e.Status), ScheduledFor: timestamp(e.ScheduledFor), DurationSeconds: seconds(e.StartedAt, e.CompletedAt),
	}
}

// scheduleMessage shows what belongs to the schedule's type and nothing else.
func scheduleMessage(s schedule.Spec) *almanacv1.Schedule {
	out := &almanacv1.Schedule{Type: proto.String(string(s.Type))}
	if s.Expression != "" {
		out.Expression = proto.String(s.Expression)
	}
	if s.Timezone != "" {
		out.Timezone = proto.String(s.Timezone)
	}
	if s.IntervalSeconds != 0 {
		out.IntervalSeconds = proto.Int32(int32(s.IntervalSeconds))
	}
	if s.Start != nil {
		out.Start = timestamppb.New(*s.Start)
	}
	if s.RunAt != nil {
		out.RunAt = timestamppb.New(*s.RunAt)
	}
	if s.DST != nil {
		out.Dst = &almanacv1.DST{Gap: proto.String(s.DST.Gap), Overlap: proto.String(s.DST.Overlap)}
	}
	return out
}

func scheduleSpec(in *almanacv1.Schedule) (schedule.Spec, violations) {
	var bad violations
	out := schedule.Spec{
		Type: schedule.Type(in.GetType()), Expression: in.GetExpression(), Timezone: in.GetTimezone(),
		IntervalSeconds: int64(in.GetIntervalSeconds()), Cron: in.GetCron(),
	}
	at := func(field string, t *timestamppb.Timestamp) *time.Time {
		if t == nil {
			return nil
		}
		if err := t.CheckValid(); err != nil {
			bad.add("schedule."+field, "must lie between the years 1970 and 9999")
		}
		when := t.AsTime()
		return &when
	}
	out.Start, out.RunAt = at("start", in.Start), at("run_at", in.RunAt)
	if in.Dst != nil {
		out.DST = &schedule.DST{Gap: in.Dst.GetGap(), Overlap: in.Dst.GetOverlap()}
	}
	return out, bad
}

func executionMessage(e *job.Execution, progress func(string) (dispatch.Progress, bool)) (*almanacv1.Execution, error) {
	parameters, err := freeForm(e.Frozen.Parameters)
	if err != nil {
		return nil, fmt.Errorf("parameters of %s: %w", e.ID, err)
	}
	result, err := freeForm(e.Result)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", e.ID, err)
	}
	out := &almanacv1.Execution{
		Id: e.ID, JobId: e.JobID, JobName: e.Frozen.JobName, TemplateType: e.Frozen.TemplateType, Status: string(e.Status),
		ScheduledFor: timestamp(e.ScheduledFor), StartedAt: timestamp(e.StartedAt), CompletedAt: timestamp(e.CompletedAt),
		DurationSeconds: seconds(e.StartedAt, e.CompletedAt), Result: result, Error: text(e.Error), ErrorCode: text(e.ErrorCode),
		TriggeredBy: string(e.Trigger), TriggeredByUser: text(e.TriggeredByUser), ExecutionHost: text(e.Host), Isolation: e.Isolation,
		Parameters: parameters, JobVersion: int32(e.JobVersion), CancelRequested: e.CancelRequested, Reason: text(cmp.Or(e.Reason, e.CancelReason)),
		MissedFrom: timestamp(e.MissedFrom), MissedUntil: timestamp(e.MissedUntil),
		Organisation: e.Frozen.Organisation, Priority: int32(e.Frozen.Priority), ExecutorSelector: selectorLabels(e.Frozen.Selector),
	}
	if e.MissedCount > 0 {
		out.MissedCount = wrapperspb.Int32(int32(min(e.MissedCount, 1<<31-1)))
	}
	for _, a := range e.Attempts {
		out.Attempts = append(out.Attempts, &almanacv1.Attempt{
			Number: int32(a.Number), Status: string(a.Status), StartedAt: timestamp(a.StartedAt), CompletedAt: timestamp(a.CompletedAt),
			DurationSeconds: seconds(a.StartedAt, a.CompletedAt), Error: text(a.Error), ErrorCode: text(a.ErrorCode), ExecutionHost: text(a.Host),
		})
	}
	switch {
	case e.Status == job.Running:
		out.Attempts = append(out.Attempts, &almanacv1.Attempt{
			Number: int32(e.Attempt()), Status: string(job.Running), StartedAt: timestamp(e.StartedAt), ExecutionHost: text(e.Host),
		})
		if p, ok := progress(e.ID); ok && p.Token == e.Token {
			out.Progress = &almanacv1.Progress{Done: float64(p.Done), Total: float64(p.Total), Message: p.Message}
		}
	case !e.Status.Ended() && !e.Leased():
		out.NextAttemptAt = timestamp(e.WakeAt)
	}
	return out, nil
}

// selectorLabels takes a canonical selector apart.
func selectorLabels(selector string) map[string]string {
	labels := map[string]string{}
	for pair := range strings.SplitSeq(selector, ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			labels[key] = value
		}
	}
	return labels
}

func logLines(lines []job.LogLine) []*almanacv1.LogLine {
	out := make([]*almanacv1.LogLine, len(lines))
	for i, l := range lines {
		out[i] = &almanacv1.LogLine{Timestamp: timestamp(l.At), Level: l.Level, Message: l.Message}
	}
	return out
}
