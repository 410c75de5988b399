package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/pkg/template"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

// Headers that gRPC clients may send as metadata, like REST clients.
const (
	headerIdempotencyKey = "idempotency-key"
	headerIfMatch        = "if-match"
)

// editTries is how often an edit is decided afresh when its job moves meanwhile.
const editTries = 5

type jobService struct {
	almanacv1.UnimplementedJobServiceServer
	*rooms
}

// ListJobs implements the RPC of that name.
func (s *jobService) ListJobs(ctx context.Context, req *almanacv1.ListJobsRequest) (*almanacv1.ListJobsResponse, error) {
	page, limit, offset := paging(req.Page, req.Limit, 20)
	filter := jobFilter(req)
	filter.Offset, filter.Limit = offset, limit
	jobs, total, err := s.Store.Jobs(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	var recent map[string][]*job.Execution
	if n := int(req.GetRuns()); n > 0 && len(jobs) > 0 {
		ids := make([]string, len(jobs))
		for i, j := range jobs {
			ids[i] = j.ID
		}
		if recent, err = s.Store.Recent(ctx, ids, n); err != nil {
			return nil, fmt.Errorf("read the latest runs: %w", err)
		}
	}
	out := &almanacv1.ListJobsResponse{Total: int32(total), Page: int32(page), Pages: int32((total + limit - 1) / limit)}
	for _, j := range jobs {
		m, err := jobMessage(j)
		if err != nil {
			return nil, err
		}
		for _, e := range recent[j.ID] {
			m.RecentRuns = append(m.RecentRuns, runSummary(e))
		}
		out.Jobs = append(out.Jobs, m)
	}
	return out, nil
}

// jobFilter is what a request selects, and in which order: newest first unless it
// says otherwise.
func jobFilter(req *almanacv1.ListJobsRequest) store.JobFilter {
	f := store.JobFilter{
		TemplateTypes: req.TemplateType, Enabled: req.Enabled, Words: strings.Fields(req.Search),
		Sort: store.JobSort{By: store.SortCreated, Descending: true},
	}
	for _, label := range req.Label {
		key, value, valued := strings.Cut(label, "=")
		term := store.LabelTerm{Key: key}
		if valued {
			term.Value = &value
		}
		f.Labels = append(f.Labels, term)
	}
	for _, state := range req.State {
		f.States = append(f.States, job.State(state))
	}
	if req.Sort != "" {
		by, descending := strings.CutPrefix(req.Sort, "-")
		f.Sort = store.JobSort{By: store.SortKey(by), Descending: descending}
	}
	return f
}

// paging turns a page from 1 into an offset.
func paging(page, limit *int32, fallback int) (number, size, offset int) {
	number, size = 1, fallback
	if page != nil {
		number = int(*page)
	}
	if limit != nil {
		size = int(*limit)
	}
	return number, size, (number - 1) * size
}

// CreateJob implements the RPC of that name.
func (s *jobService) CreateJob(ctx context.Context, req *almanacv1.CreateJobRequest) (*almanacv1.CreateJobResponse, error) {
	key, err := idempotencyKey(ctx, req.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	now, who := s.Now(), callerOf(ctx)
	at := now.UTC().Truncate(time.Millisecond)
	create := store.CreateJob{Limit: s.MaxJobs, Job: &job.Job{
		ID: job.NewID("job_"), CreatedBy: who.User, CreatedAt: at, UpdatedAt: at, Version: 1,
	}}
	state, repeated := job.StateNever, false
	if key != "" {
		create.Job.ID = job.DerivedID("job_", who.User, "create", key)
		if create.Fingerprint, err = fingerprint(req.Job); err != nil {
			return nil, err
		}
		// What was accepted once is not judged again: a time that was to come
		// may have passed since, a template gone.
		earlier, err := s.Store.Job(ctx, create.Job.ID)
		if err != nil && !errors.Is(err, job.ErrNotFound) {
			return nil, fmt.Errorf("look for an earlier try: %w", err)
		}
		if repeated = err == nil; repeated {
			state = earlier.State
		}
	}
	if !repeated {
		entry, err := s.Templates.Find(ctx, req.Job.GetTemplateType())
		if err != nil {
			return nil, err
		}
		if err := define(create.Job, req.Job, everything(), entry, now).err(); err != nil {
			return nil, err
		}
		if create.Job.NextRunAt, err = next(create.Job, now); err != nil {
			return nil, err
		}
	}
	after, err := jobMessage(create.Job)
	if err != nil {
		return nil, err
	}
	if create.Audit, err = audit(ctx, now, "job.create", create.Job.ID, nil, after); err != nil {
		return nil, err
	}
	stored, replayed, err := s.Store.CreateJob(ctx, create)
	if err != nil {
		return nil, fmt.Errorf("create job: %w", err)
	}
	if !replayed {
		s.Dispatcher.JobChanged(stored)
	}
	stored = stored.Clone()
	stored.State = state // which the store tells of a job that it reads only
	m, err := jobMessage(stored)
	if err != nil {
		return nil, err
	}
	return &almanacv1.CreateJobResponse{Job: m, Message: "Job created successfully"}, nil
}

// fingerprint identifies what a request asks for.
func fingerprint(m proto.Message) (string, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("fingerprint the request: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// GetJob implements the RPC of that name.
func (s *jobService) GetJob(ctx context.Context, req *almanacv1.GetJobRequest) (*almanacv1.GetJobResponse, error) {
	j, err := s.live(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	m, err := jobMessage(j)
	if err != nil {
		return nil, err
	}
	return &almanacv1.GetJobResponse{Job: m}, nil
}

// live returns a job that is not deleted.
func (s *jobService) live(ctx context.Context, id string) (*job.Job, error) {
	j, err := s.Store.Job(ctx, id)
	if err == nil && j.Deleted {
		err = job.ErrNotFound
	}
	return j, noSuch("job", id, err)
}

// noSuch names what was not found; other errors get their context.
func noSuch(what, id string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, job.ErrNotFound):
		return fail(kindNotFound, "there is no %s %s", what, id)
	default:
		return fmt.Errorf("read %s %s: %w", what, id, err)
	}
}

// UpdateJob implements the RPC of that name.
func (s *jobService) UpdateJob(ctx context.Context, req *almanacv1.UpdateJobRequest) (*almanacv1.UpdateJobResponse, error) {
	set, versioned, err := asked(req)
	if err != nil {
		return nil, err
	}
	match, err := ifMatch(ctx)
	if err != nil {
		return nil, err
	}
	wanted := func(version int) bool {
		return match.allows(version) && (!versioned || version == int(req.Job.Version))
	}
	for try := 1; ; try++ {
		j, err := s.edit(ctx, req.Id, req.Job, set, wanted)
		if errors.Is(err, job.ErrConflict) && try < editTries {
			continue // a run was recorded between reading and writing
		}
		if errors.Is(err, job.ErrVersion) && try < editTries && match.any() && !versioned {
			continue // somebody else's edit: ours is wanted on top of any
		}
		if err != nil {
			return nil, noSuch("job", req.Id, err)
		}
		m, err := jobMessage(j)
		if err != nil {
			return nil, err
		}
		return &almanacv1.UpdateJobResponse{Job: m, Message: "Job updated"}, nil
	}
}

// edit decides and writes an edit once.
func (s *jobService) edit(ctx context.Context, id string, in *almanacv1.Job, set map[string]bool, wanted func(int) bool) (*job.Job, error) {
	now := s.Now()
	before, err := s.live(ctx, id)
	if err != nil {
		return nil, err
	}
	if !wanted(before.Version) {
		return nil, job.ErrVersion
	}
	after := before.Clone()
	if set["template_type"] {
		after.TemplateType = in.GetTemplateType()
	}
	entry, err := s.Templates.Find(ctx, after.TemplateType)
	if err != nil {
		return nil, err
	}
	if err := define(after, in, set, entry, now).err(); err != nil {
		return nil, err
	}
	if sameDefinition(before, after) {
		return before, nil
	}
	// The times up to now are past: they are covered as the job stood.
	settled, err := s.Dispatcher.Settle(ctx, before, now)
	if err != nil {
		return nil, fmt.Errorf("settle the job: %w", err)
	}
	if settled.Version != before.Version {
		return nil, job.ErrConflict // edited meanwhile: decide afresh
	}
	after.NextRunAt = settled.NextRunAt
	if !sameSchedule(before.Schedule, after.Schedule) || before.Enabled != after.Enabled {
		if after.NextRunAt, err = next(after, now); err != nil {
			return nil, err
		}
	}
	after.Version = before.Version + 1
	after.UpdatedAt = now.UTC().Truncate(time.Millisecond)
	beforeMessage, err := jobMessage(before)
	if err != nil {
		return nil, err
	}
	afterMessage, err := jobMessage(after)
	if err != nil {
		return nil, err
	}
	a, err := audit(ctx, now, "job.update", id, beforeMessage, afterMessage)
	if err != nil {
		return nil, err
	}
	stored, err := s.Store.EditJob(ctx, store.EditJob{Version: before.Version, NextRunAt: settled.NextRunAt, After: after, Audit: a})
	if err != nil {
		return nil, fmt.Errorf("edit job: %w", err)
	}
	s.Dispatcher.JobChanged(stored)
	stored = stored.Clone()
	stored.State = before.State // which the store tells of a job that it reads only
	return stored, nil
}

// DeleteJob implements the RPC of that name.
func (s *jobService) DeleteJob(ctx context.Context, req *almanacv1.DeleteJobRequest) (*almanacv1.DeleteJobResponse, error) {
	match, err := ifMatch(ctx)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		err := s.remove(ctx, req.Id, match)
		if errors.Is(err, job.ErrVersion) && try < editTries && match.any() {
			continue // edited meanwhile: it is unwanted all the same
		}
		if err != nil {
			return nil, noSuch("job", req.Id, err)
		}
		return &almanacv1.DeleteJobResponse{Message: "Job deleted"}, nil
	}
}

func (s *jobService) remove(ctx context.Context, id string, match precondition) error {
	now := s.Now()
	before, err := s.live(ctx, id)
	if err != nil {
		return err
	}
	if !match.allows(before.Version) {
		return job.ErrVersion
	}
	m, err := jobMessage(before)
	if err != nil {
		return err
	}
	a, err := audit(ctx, now, "job.delete", id, m, nil)
	if err != nil {
		return err
	}
	if _, err := s.Store.DeleteJob(ctx, id, before.Version, now, a); err != nil {
		return fmt.Errorf("delete job: %w", err)
	}
	gone := before.Clone()
	gone.Deleted, gone.NextRunAt = true, time.Time{}
	s.Dispatcher.JobChanged(gone)
	return nil
}

// RunJob implements the RPC of that name.
func (s *jobService) RunJob(ctx context.Context, req *almanacv1.RunJobRequest) (*almanacv1.RunJobResponse, error) {
	key, err := idempotencyKey(ctx, req.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	match, err := ifMatch(ctx)
	if err != nil {
		return nil, err
	}
	now, who := s.Now(), callerOf(ctx)
	unique := job.NewID("")
	if key != "" {
		unique = job.DerivedID("", who.User, "run", req.Id, key)
	}
	id := job.ExecutionID(req.Id, job.TriggerManual, unique)
	started := &almanacv1.RunJobResponse{ExecutionId: id, Message: "Job started"}
	if key != "" {
		earlier, err := s.Store.Execution(ctx, id)
		if err == nil {
			return started, sameRun(earlier, req)
		}
		if !errors.Is(err, job.ErrNotFound) {
			return nil, fmt.Errorf("look for an earlier try: %w", err)
		}
	}

	j, err := s.Store.Definition(ctx, req.Id)
	if err != nil {
		return nil, noSuch("job", req.Id, err)
	}
	if !match.allows(j.Version) {
		return nil, job.ErrVersion
	}
	j, err = s.overridden(ctx, j, req)
	if err != nil {
		return nil, err
	}
	at := now.UTC().Truncate(time.Millisecond)
	e := &job.Execution{
		ID: id, JobID: j.ID, JobVersion: j.Version, Trigger: job.TriggerManual, Key: unique, TriggeredByUser: who.User,
		ScheduledFor: at, CreatedAt: at, WakeAt: at, Frozen: j.Freeze(s.Templates.Idempotent(j.TemplateType)),
		Status: job.Pending, Exclusive: j.Overlap == job.OverlapForbid,
	}
	a, err := auditRun(ctx, now, "job.run", e)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.Dispatcher.RunNow(ctx, store.RunNow{Execution: e, PerHour: s.ManualRunsPerHour, Now: now, Audit: a}); err != nil {
		return nil, noSuch("job", req.Id, err)
	}
	return started, nil
}

// overridden returns the job as this run sees it, if the caller may run it so.
func (s *jobService) overridden(ctx context.Context, j *job.Job, req *almanacv1.RunJobRequest) (*job.Job, error) {
	entry, err := s.Templates.Find(ctx, j.TemplateType)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		return nil, invalid(kindInvalid, violations{{"template_type", fmt.Sprintf("%q is not known: no executor has announced such a template", j.TemplateType)}})
	}
	out := j.Clone()
	names := slices.Sorted(maps.Keys(req.GetParameters().GetFields()))
	var bad violations
	if len(names) > 0 {
		// Checked against today's schema; without overrides the executor's check is enough.
		if out.Parameters, err = parameters(entry, j.Parameters, req.Parameters, &bad); err != nil {
			return nil, fmt.Errorf("override the parameters: %w", err)
		}
	}
	params, err := effective(out.Parameters, nil)
	if err != nil {
		return nil, err
	}
	d := template.Descriptor{Type: entry.Type, Destructive: entry.Destructive}
	err = callerOf(ctx).MayRun(access.Run{
		DestructiveTemplate: entry.Destructive, Destructive: template.IsDestructiveRun(d, params),
		Overrides: names, DryRunParam: template.DryRunParam,
	})
	if err != nil {
		return nil, err
	}
	return out, bad.err()
}

// sameRun refuses a key that was used for other overrides.
func sameRun(earlier *job.Execution, req *almanacv1.RunJobRequest) error {
	was, err := effective(earlier.Frozen.Parameters, nil)
	if err != nil {
		return err
	}
	for name, value := range req.GetParameters().GetFields() {
		if !reflect.DeepEqual(was[name], value.AsInterface()) {
			return job.ErrKeyReused
		}
	}
	return nil
}

// TryJob implements the RPC of that name.
func (s *jobService) TryJob(ctx context.Context, req *almanacv1.TryJobRequest) (*almanacv1.TryJobResponse, error) {
	now, who := s.Now(), callerOf(ctx)
	at := now.UTC().Truncate(time.Millisecond)
	in, _ := proto.Clone(req.Job).(*almanacv1.Job)
	if strings.TrimSpace(in.Name) == "" {
		in.Name = "trial"
	}
	if in.Schedule == nil {
		in.Schedule = &almanacv1.Schedule{Type: proto.String(string(schedule.Manual))}
	}
	entry, err := s.Templates.Find(ctx, in.TemplateType)
	if err != nil {
		return nil, err
	}
	j := &job.Job{CreatedAt: at}
	if err := define(j, in, everything(), entry, now).err(); err != nil {
		return nil, err
	}
	dry := canDryRun(entry)
	if dry {
		var bad violations
		harmless := &structpb.Struct{Fields: map[string]*structpb.Value{template.DryRunParam: structpb.NewBoolValue(true)}}
		if j.Parameters, err = parameters(entry, j.Parameters, harmless, &bad); err != nil {
			return nil, fmt.Errorf("make it a dry run: %w", err)
		}
		if err := bad.err(); err != nil {
			return nil, err
		}
	}
	key := job.NewID("")
	e := &job.Execution{
		ID: job.ExecutionID(job.TrialsID, job.TriggerManual, key), JobID: job.TrialsID, JobVersion: 1, Trigger: job.TriggerManual, Key: key, TriggeredByUser: who.User,
		ScheduledFor: at, CreatedAt: at, WakeAt: at, Frozen: j.Freeze(entry.Idempotent), Status: job.Pending,
	}
	e.Frozen.Retry, e.Frozen.Notifications = job.RetryPolicy{}, job.Notifications{}
	a, err := auditRun(ctx, now, "job.try", e)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.Dispatcher.RunNow(ctx, store.RunNow{Execution: e, PerHour: s.ManualRunsPerHour, Now: now, Audit: a}); err != nil {
		return nil, fmt.Errorf("try the job: %w", err)
	}
	return &almanacv1.TryJobResponse{ExecutionId: e.ID, Message: "Trial started", DryRun: dry}, nil
}

// canDryRun tells whether a run of the template can be made harmless: wherever it
// can destroy data, and of others where they offer it.
func canDryRun(entry *templates.Entry) bool {
	properties, _ := entry.Shown["properties"].(map[string]any)
	dryRun, _ := properties[template.DryRunParam].(map[string]any)
	return entry.Destructive || dryRun["type"] == "boolean"
}

// auditOf says who did what, but not yet what changed.
func auditOf(ctx context.Context, now time.Time, action, object string) *store.Audit {
	who := callerOf(ctx)
	return &store.Audit{At: now.UTC().Truncate(time.Millisecond), User: who.User, Address: who.address, Action: action, Object: object}
}

// askedRun is what the audit log keeps of a run that somebody asked for: what was
// decided then, by the names that an execution has in the API. It is written with
// each such run, where the whole message would cost more than inserting the record.
type askedRun struct {
	ID               string            `json:"id"`
	JobID            string            `json:"job_id"`
	JobName          string            `json:"job_name"`
	JobVersion       int               `json:"job_version"`
	TemplateType     string            `json:"template_type"`
	Parameters       json.RawMessage   `json:"parameters,omitempty"`
	ScheduledFor     time.Time         `json:"scheduled_for"`
	Organisation     string            `json:"organisation"`
	Priority         int               `json:"priority"`
	ExecutorSelector map[string]string `json:"executor_selector"`
}

// auditRun describes a run that the caller asked for.
func auditRun(ctx context.Context, now time.Time, action string, e *job.Execution) (*store.Audit, error) {
	a := auditOf(ctx, now, action, e.ID)
	var err error
	a.After, err = json.Marshal(askedRun{
		ID: e.ID, JobID: e.JobID, JobName: e.Frozen.JobName, JobVersion: e.JobVersion, TemplateType: e.Frozen.TemplateType, Parameters: e.Frozen.Parameters,
		ScheduledFor: e.ScheduledFor, Organisation: e.Frozen.Organisation, Priority: e.Frozen.Priority, ExecutorSelector: selectorLabels(e.Frozen.Selector),
	})
	if err != nil {
		return nil, fmt.Errorf("describe for the audit log: %w", err)
	}
	return a, nil
}

// audit describes a mutation by the caller; before and after may be nil.
func audit(ctx context.Context, now time.Time, action, object string, before, after proto.Message) (*store.Audit, error) {
	a := auditOf(ctx, now, action, object)
	for _, side := range []struct {
		of proto.Message
		to *[]byte
	}{{before, &a.Before}, {after, &a.After}} {
		if side.of == nil {
			continue
		}
		var err error
		if *side.to, err = auditJSON(side.of); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// idempotencyKey takes the key of the request or, in its absence, of the header.
func idempotencyKey(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	values := metadata.ValueFromIncomingContext(ctx, headerIdempotencyKey)
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || values[0] == "" || len(values[0]) > 200:
		return "", invalid(kindInvalid, violations{{"Idempotency-Key", "must be given once, with 1 to 200 printable ASCII characters"}})
	}
	return values[0], nil
}

// precondition is what If-Match asks for; the zero value asks for nothing.
type precondition struct {
	versions []int // any of these; empty for any
}

func (p precondition) any() bool { return len(p.versions) == 0 }

func (p precondition) allows(version int) bool {
	return p.any() || slices.Contains(p.versions, version)
}

// ifMatch reads the header of that name: *, or a list of quoted versions. A weak
// tag counts as a strong one, because proxies that compress answers weaken them
// and the version is exact all the same.
func ifMatch(ctx context.Context) (precondition, error) {
	var p precondition
	for _, header := range metadata.ValueFromIncomingContext(ctx, headerIfMatch) {
		if strings.TrimSpace(header) == "*" {
			return precondition{}, nil
		}
		for tag := range strings.SplitSeq(header, ",") {
			quoted, err := strconv.Unquote(strings.TrimPrefix(strings.TrimSpace(tag), "W/"))
			var version int
			if err == nil {
				version, err = strconv.Atoi(quoted)
			}
			if err != nil {
				return p, invalid(kindInvalid, violations{{"If-Match", `must be * or the quoted version of a job, such as "3", as its ETag header shows it`}})
			}
			p.versions = append(p.versions, version)
		}
	}
	return p, nil
}
