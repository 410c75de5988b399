package mongostore

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// definedJob is a job as it is kept. One that is provisional is not a job yet.
type definedJob struct {
	ID         string     `bson:"_id"`
	Definition definition `bson:",inline"`

	CreatedBy string         `bson:"created_by"`
	CreatedAt bson.DateTime  `bson:"created_at"`
	NextRunAt *bson.DateTime `bson:"next_run_at,omitempty"`
	Version   int            `bson:"version"`
	Bucket    int            `bson:"bucket"`

	// Fired tells for a version, named "v" and its number, the last fire time that
	// the job was advanced past while it had it.
	Fired       map[string]bson.DateTime `bson:"fired,omitempty"`
	Fingerprint string                   `bson:"fingerprint,omitempty"`
	State       job.State                `bson:"state,omitempty"`       // with state_at and state_round, written by RollUp alone; none for never
	Counted     bool                     `bson:"counted,omitempty"`     // live or provisional
	Provisional *bson.DateTime           `bson:"provisional,omitempty"` // since when
	DeletedAt   *bson.DateTime           `bson:"deleted_at,omitempty"`
	Owes        bool                     `bson:"owes,omitempty"` // a tombstone whose waiting records may not all be cancelled
	Audits      int                      `bson:"audits,omitempty"`
	Audit       *pendingAudit            `bson:"audit,omitempty"`
}

// definition is what an edit replaces.
type definition struct {
	Name           string         `bson:"name"`
	NameKey        string         `bson:"name_key,omitempty"` // unique: only live jobs have it
	Description    string         `bson:"description"`
	TemplateType   string         `bson:"template_type"`
	Parameters     any            `bson:"parameters"`
	ParametersJSON string         `bson:"parameters_json,omitempty"`
	Schedule       scheduleSpec   `bson:"schedule"`
	Enabled        bool           `bson:"enabled"`
	Timeout        int64          `bson:"timeout_seconds"`
	Retry          retryPolicy    `bson:"retry_policy"`
	Notifications  notifications  `bson:"notifications"`
	Labels         any            `bson:"labels"`
	Organisation   string         `bson:"organisation"`
	Priority       int            `bson:"priority"`
	Selector       any            `bson:"selector"`
	Missed         string         `bson:"missed_policy"`
	Overlap        string         `bson:"overlap_policy"`
	UpdatedAt      *bson.DateTime `bson:"updated_at"`
}

var optionalDefinition = optionalFields(reflect.TypeFor[definition]())

type scheduleSpec struct {
	Type            string         `bson:"type"`
	Expression      string         `bson:"expression,omitempty"`
	Timezone        string         `bson:"timezone,omitempty"`
	IntervalSeconds int64          `bson:"interval_seconds,omitempty"`
	Start           *bson.DateTime `bson:"start,omitempty"`
	RunAt           *bson.DateTime `bson:"run_at,omitempty"`
	DST             *dst           `bson:"dst,omitempty"`
}

type dst struct {
	Gap     string `bson:"gap,omitempty"`
	Overlap string `bson:"overlap,omitempty"`
}

// optionalFields lists the fields that are absent when empty.
func optionalFields(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if name, ok := strings.CutSuffix(f.Tag.Get("bson"), ",omitempty"); ok {
			names = append(names, name)
		}
	}
	return names
}

// firedKey is the name of a version among those that fired.
func firedKey(version int) string { return fmt.Sprintf("v%d", version) }

// firedVersions is how many versions keep what they fired last.
const firedVersions = 8

// passed tells whether the job, while it had the version, was advanced past the
// fire time. Once it is true it stays so.
func (d *definedJob) passed(version int, at bson.DateTime) bool {
	last, ok := d.Fired[firedKey(version)]
	return ok && last >= at
}

func (d *definedJob) live() bool { return d.DeletedAt == nil && d.Provisional == nil }

// stands tells whether a live job has exactly the version and the next time.
func (d *definedJob) stands(version int, at bson.DateTime) bool {
	return d.live() && d.Version == version && d.NextRunAt != nil && *d.NextRunAt == at
}

func toDefinition(j *job.Job) definition {
	parameters := toObject(j.Parameters)
	s := j.Schedule
	d := definition{
		Name: j.Name, NameKey: j.Name, Description: j.Description, TemplateType: j.TemplateType,
		Parameters: parameters.document, ParametersJSON: parameters.text,
		Schedule: scheduleSpec{
			Type: string(s.Type), Expression: s.Expression, Timezone: s.Timezone, IntervalSeconds: s.IntervalSeconds,
			Start: optionalDate(s.Start), RunAt: optionalDate(s.RunAt),
		},
		Enabled: j.Enabled, Timeout: seconds(j.Timeout), Retry: retryPolicy{j.Retry.MaxRetries, seconds(j.Retry.Delay)},
		Notifications: notifications(j.Notifications), Labels: toLabels(j.Labels), Organisation: j.Organisation, Priority: j.Priority,
		Selector: toLabels(j.Selector), Missed: j.Missed, Overlap: j.Overlap, UpdatedAt: maybeDate(j.UpdatedAt),
	}
	if s.DST != nil {
		d.Schedule.DST = &dst{s.DST.Gap, s.DST.Overlap}
	}
	return d
}

func optionalDate(t *time.Time) *bson.DateTime {
	if t == nil {
		return nil
	}
	d := date(*t)
	return &d
}

func optionalTime(d *bson.DateTime) *time.Time {
	if d == nil {
		return nil
	}
	t := fromDate(d)
	return &t
}

func toJob(j *job.Job) *definedJob {
	d := &definedJob{
		ID: j.ID, Definition: toDefinition(j), CreatedBy: j.CreatedBy, CreatedAt: date(j.CreatedAt), NextRunAt: maybeDate(j.NextRunAt),
		Version: j.Version, Bucket: job.Bucket(j.ID), Counted: true,
	}
	if j.Deleted {
		since := date(j.UpdatedAt) // when exactly is not known
		d.Definition.NameKey, d.Counted, d.DeletedAt = "", false, &since
	}
	return d
}

// decode returns the job without its last run and its state.
func (d *definedJob) decode() (*job.Job, error) {
	def := &d.Definition
	parameters, err := object{def.Parameters, def.ParametersJSON}.json()
	if err != nil {
		return nil, fmt.Errorf("job %s: parameters: %w", d.ID, err)
	}
	s := def.Schedule
	j := &job.Job{
		ID: d.ID, Name: def.Name, Description: def.Description, TemplateType: def.TemplateType, Parameters: parameters,
		Schedule: schedule.Spec{
			Type: schedule.Type(s.Type), Expression: s.Expression, Timezone: s.Timezone, IntervalSeconds: s.IntervalSeconds,
			Start: optionalTime(s.Start), RunAt: optionalTime(s.RunAt),
		},
		Enabled: def.Enabled, Timeout: time.Duration(def.Timeout) * time.Second,
		Retry:         job.RetryPolicy{MaxRetries: def.Retry.MaxRetries, Delay: time.Duration(def.Retry.Delay) * time.Second},
		Notifications: job.Notifications(def.Notifications), Labels: fromLabels(def.Labels), Organisation: def.Organisation,
		Priority: def.Priority, Selector: fromLabels(def.Selector), Missed: def.Missed, Overlap: def.Overlap,
		CreatedBy: d.CreatedBy, CreatedAt: fromDate(&d.CreatedAt), UpdatedAt: fromDate(def.UpdatedAt), NextRunAt: fromDate(d.NextRunAt),
		Version: d.Version, Deleted: d.DeletedAt != nil,
	}
	if s.DST != nil {
		j.Schedule.DST = &schedule.DST{Gap: s.DST.Gap, Overlap: s.DST.Overlap}
	}
	return j, nil
}
