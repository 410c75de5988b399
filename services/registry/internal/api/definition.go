package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/pkg/template"
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/templates"
)

// What a job has when nothing is said.
const (
	defaultTimeout    = time.Hour
	defaultRetries    = 3 // of an idempotent template; 0 of others
	defaultRetryDelay = 300 * time.Second
)

// writable are the fields of a job that people set.
var writable = []string{
	"name", "description", "template_type", "parameters", "schedule", "enabled", "timeout_seconds", "retry_policy",
	"notifications", "labels", "organisation", "priority", "executor_selector", "missed_policy", "overlap_policy",
}

// The forms of words that name queues and choose executors: free of what separates
// them there.
var (
	organisationForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	selectorForm     = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,63}$`)
)

func everything() map[string]bool {
	set := map[string]bool{}
	for _, name := range writable {
		set[name] = true
	}
	return set
}

// define writes the named fields of in over the job, each in its canonical form,
// or resets them to their defaults where in has nothing. What the fields are
// checked against that depends on others (parameters on the template) is checked
// when either is named. entry is the template that the job has afterwards, nil
// when there is none. The job is of no use when there are violations.
func define(j *job.Job, in *almanacv1.Job, set map[string]bool, entry *templates.Entry, now time.Time) violations {
	var bad violations
	if set["name"] {
		j.Name = strings.TrimSpace(in.GetName())
		switch {
		case j.Name == "":
			bad.add("name", "is required: give the job a name that no other has")
		case strings.ContainsFunc(j.Name, unicode.IsControl):
			bad.add("name", "must not contain control characters such as line ends")
		}
	}
	if set["description"] {
		j.Description = in.GetDescription()
	}
	if set["template_type"] {
		j.TemplateType = in.GetTemplateType()
	}
	if set["template_type"] || set["parameters"] {
		switch {
		case j.TemplateType == "":
			bad.add("template_type", "is required: name one of the templates")
		case entry == nil:
			bad.add("template_type", "%q is not known: no executor has announced such a template", j.TemplateType)
		default:
			given := j.Parameters
			if set["parameters"] {
				given = nil
			}
			var err error
			if j.Parameters, err = parameters(entry, given, in.GetParameters(), &bad); err != nil {
				bad.add("parameters", "cannot be used: %v", err)
			}
		}
	}
	if set["schedule"] {
		defineSchedule(j, in.GetSchedule(), now, &bad)
	}
	if set["enabled"] {
		j.Enabled = in.Enabled == nil || *in.Enabled
	}
	if set["timeout_seconds"] {
		j.Timeout = defaultTimeout
		if in.TimeoutSeconds != nil {
			j.Timeout = time.Duration(*in.TimeoutSeconds) * time.Second
		}
	}
	if set["retry_policy"] {
		j.Retry = job.RetryPolicy{Delay: defaultRetryDelay}
		if entry != nil && entry.Idempotent {
			j.Retry.MaxRetries = defaultRetries
		}
		if p := in.GetRetryPolicy(); p != nil && p.MaxRetries != nil {
			j.Retry.MaxRetries = int(*p.MaxRetries)
		}
		if p := in.GetRetryPolicy(); p != nil && p.RetryDelaySeconds != nil {
			j.Retry.Delay = time.Duration(*p.RetryDelaySeconds) * time.Second
		}
	}
	if set["notifications"] {
		j.Notifications = job.Notifications{OnSuccess: in.GetNotifications().GetOnSuccess(), OnFailure: in.GetNotifications().GetOnFailure()}
	}
	if set["labels"] {
		j.Labels = in.GetLabels()
	}
	if set["organisation"] {
		j.Organisation = orElse(in.GetOrganisation(), job.DefaultOrganisation)
		if !organisationForm.MatchString(j.Organisation) {
			bad.add("organisation", `must be of lower-case letters, digits and "-", at most 63, and not begin with "-"`)
		}
	}
	if set["priority"] {
		j.Priority = int(in.GetPriority())
	}
	if set["executor_selector"] {
		j.Selector = in.GetExecutorSelector()
		for _, key := range slices.Sorted(maps.Keys(j.Selector)) {
			const form = "must have 1 to 63 characters, each a letter, a digit or one of . _ / -"
			if !selectorForm.MatchString(key) {
				bad.add("executor_selector", "has the label %q, whose name %s", key, form)
			} else if !selectorForm.MatchString(j.Selector[key]) {
				bad.add(join("executor_selector", key), form)
			}
		}
	}
	if set["missed_policy"] {
		j.Missed = orElse(in.GetMissedPolicy(), job.MissedRunOnce)
	}
	if set["overlap_policy"] {
		j.Overlap = orElse(in.GetOverlapPolicy(), job.OverlapForbid)
	}
	return bad
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// parameters fills in the template's defaults and checks the outcome. Fields of
// overrides replace those of given, a JSON object or nothing.
func parameters(entry *templates.Entry, given json.RawMessage, overrides *structpb.Struct, bad *violations) (json.RawMessage, error) {
	merged, err := effective(given, overrides)
	if err != nil {
		return nil, err
	}
	merged = entry.Params.WithDefaults(merged)
	if err := entry.Params.Validate(merged); err != nil {
		var wrong *template.ParamsError
		if !errors.As(err, &wrong) {
			return nil, fmt.Errorf("check the parameters: %w", err)
		}
		for _, f := range wrong.Fields {
			field := "parameters"
			if f.Field != "" { // else they are at fault as a whole
				field = join(field, f.Field)
			}
			bad.add(field, "%s", f.Message)
		}
	}
	return json.Marshal(merged)
}

func effective(given json.RawMessage, overrides *structpb.Struct) (map[string]any, error) {
	merged := map[string]any{}
	if len(given) > 0 {
		if err := json.Unmarshal(given, &merged); err != nil {
			return nil, fmt.Errorf("read the stored parameters: %w", err)
		}
	}
	for name, value := range overrides.GetFields() {
		merged[name] = value.AsInterface()
	}
	return merged, nil
}

func defineSchedule(j *job.Job, in *almanacv1.Schedule, now time.Time, bad *violations) {
	if in == nil {
		bad.add("schedule", `is required: for example {"type": "cron", "expression": "0 19 * * *"}, or {"type": "manual"} to run on request only`)
		return
	}
	spec, compiled, wrong := compile(in, j.CreatedAt)
	*bad = append(*bad, wrong...)
	if len(wrong) > 0 {
		return
	}
	j.Schedule = spec
	if spec.Type == schedule.Manual {
		return
	}
	if _, ok := compiled.Next(now); ok {
		return
	}
	if spec.Type == schedule.Once {
		bad.add("schedule.run_at", "is in the past: give a time that is still to come")
	} else {
		bad.add("schedule.expression", "never comes: there is no such day")
	}
}

// compile brings a schedule into its full form, with dst only where it was given.
func compile(in *almanacv1.Schedule, anchor time.Time) (schedule.Spec, *schedule.Schedule, violations) {
	given, bad := scheduleSpec(in)
	if len(bad) > 0 {
		return schedule.Spec{}, nil, bad
	}
	spec, err := schedule.Canonical(given)
	if err != nil {
		return schedule.Spec{}, nil, scheduleViolations(err)
	}
	if given.DST == nil {
		spec.DST = nil
	}
	compiled, err := schedule.Compile(spec, anchor)
	if err != nil {
		return schedule.Spec{}, nil, scheduleViolations(err)
	}
	return spec, compiled, nil
}

func scheduleViolations(err error) violations {
	var bad violations
	all := []error{err}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		all = several.Unwrap()
	}
	for _, e := range all {
		var f *schedule.FieldError
		if errors.As(e, &f) {
			bad.add("schedule."+f.Field, "%s", f.Message)
		} else {
			bad.add("schedule", "cannot be used: %v", e)
		}
	}
	return bad
}

// next computes the first fire time later than now; zero for none.
func next(j *job.Job, now time.Time) (time.Time, error) {
	if !j.Enabled {
		return time.Time{}, nil
	}
	compiled, err := j.Compile()
	if err != nil {
		return time.Time{}, fmt.Errorf("compile the schedule: %w", err)
	}
	at, ok := compiled.Next(now)
	if !ok {
		return time.Time{}, nil
	}
	return at, nil
}

// asked names the fields that an update is about: those of the mask or, without
// one, those that are present.
func asked(req *almanacv1.UpdateJobRequest) (set map[string]bool, version bool, err error) {
	paths := req.GetUpdateMask().GetPaths()
	if req.GetUpdateMask() == nil {
		req.GetJob().ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			paths = append(paths, string(f.Name()))
			return true
		})
	}
	fields := req.GetJob().ProtoReflect().Descriptor().Fields()
	known := everything()
	set = map[string]bool{}
	var bad violations
	for _, p := range paths {
		switch {
		case fields.ByName(protoreflect.Name(p)) == nil:
			bad.add("update_mask", "names %q, which is no field of a job: name top-level fields only", p)
		case p == "version":
			version = true
		case known[p]: // the others are read-only, and ignored
			set[p] = true
		}
	}
	return set, version, bad.err()
}

// sameDefinition tells whether nothing that people set differs.
func sameDefinition(a, b *job.Job) bool {
	x, y := a.Clone(), b.Clone()
	for _, j := range []*job.Job{x, y} {
		j.UpdatedAt, j.NextRunAt, j.LastRunAt, j.Version = time.Time{}, time.Time{}, time.Time{}, 0
		j.Schedule = schedule.Spec{}
		if len(j.Labels) == 0 {
			j.Labels = nil
		}
		if len(j.Selector) == 0 {
			j.Selector = nil
		}
		j.Notifications = job.Notifications{
			OnSuccess: append([]string(nil), j.Notifications.OnSuccess...), OnFailure: append([]string(nil), j.Notifications.OnFailure...),
		}
	}
	return sameSchedule(a.Schedule, b.Schedule) && reflect.DeepEqual(x, y)
}

func sameSchedule(a, b schedule.Spec) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
