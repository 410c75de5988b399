// Package job is the registry's vocabulary: jobs, executions, their states and
// the legal transitions between them, and the errors that every room shares. It
// does no I/O and reads no clock.
package job

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

// Job is a template with parameters and a schedule. All times are UTC; a zero
// time means none.
type Job struct {
	ID            string
	Name          string
	Description   string
	TemplateType  string
	Parameters    json.RawMessage // a JSON object, defaults filled in
	Schedule      schedule.Spec   // canonical
	Enabled       bool
	Timeout       time.Duration // whole seconds
	Retry         RetryPolicy
	Notifications Notifications
	Labels        map[string]string
	Organisation  string
	Priority      int               // MinPriority..MaxPriority; the higher goes first within an organisation
	Selector      map[string]string // labels that an executor must have; empty for any
	Missed        string            // MissedRunOnce or MissedSkip
	Overlap       string            // OverlapForbid or OverlapAllow
	CreatedBy     string
	CreatedAt     time.Time // also the anchor of an interval
	UpdatedAt     time.Time // last edit
	LastRunAt     time.Time // when the latest run started; derived by the store, never written
	NextRunAt     time.Time // whole seconds; zero when disabled or when the schedule has no more times
	State         State     // kept by the store's RollUp, never written; only Job and Jobs know it
	Version       int       // grows with each edit, never with a run
	Deleted       bool      // a tombstone: only its history is left
}

// NotificationsID is the job that all notifications belong to: a tombstone from
// its birth, so it is in no list, counts toward no limit and never fires.
const NotificationsID = "job_notifications"

// TrialsID is the job that runs of jobs that are not saved belong to, a tombstone
// like that of the notifications.
const TrialsID = "job_trials"

// System tells whether the id is that of a job that is not anybody's.
func System(id string) bool { return id == NotificationsID || id == TrialsID }

// State says how a job's latest run ended, cancelled and skipped ones aside.
type State string

// The states of a job.
const (
	StateOK      State = "ok"      // success
	StateFailing State = "failing" // failed, timed out, or unknown
	StateNever   State = "never"   // there was none
)

// StateAfter is the state of a job whose latest run ended so; false for ends that
// leave it as it was.
func StateAfter(end Status) (State, bool) {
	switch end {
	case Success:
		return StateOK, true
	case Failed, TimedOut, Unknown:
		return StateFailing, true
	default:
		return "", false
	}
}

// RetryPolicy says how often a failed run is attempted again.
type RetryPolicy struct {
	MaxRetries int
	Delay      time.Duration // whole seconds
}

// ChannelPrefix marks a channel's name among those who are told; the others are
// mail addresses.
const ChannelPrefix = "channel:"

// Notifications names who is told how a run ended: mail addresses, and channels by
// their name after ChannelPrefix.
type Notifications struct {
	OnSuccess []string `json:"on_success"`
	OnFailure []string `json:"on_failure"`
}

// Policies for missed times and for overlapping runs.
const (
	MissedRunOnce = "run_once"
	MissedSkip    = "skip"
	OverlapForbid = "forbid"
	OverlapAllow  = "allow"
)

// Bounds of a priority. It is part of what names a queue, so there are few.
const (
	MinPriority = -10
	MaxPriority = 10
)

// DefaultOrganisation is the organisation of jobs that name none.
const DefaultOrganisation = "default"

// Clone returns a copy that shares nothing that is ever written to.
func (j *Job) Clone() *Job {
	c := *j
	c.Labels, c.Selector = maps.Clone(j.Labels), maps.Clone(j.Selector)
	return &c
}

// Compile compiles the job's schedule. It cannot fail for a job that was
// validated; the error is for records that were not.
func (j *Job) Compile() (*schedule.Schedule, error) {
	return schedule.Compile(j.Schedule, j.CreatedAt)
}

// Frozen is what a run takes from its job at the moment it is recorded. Later
// edits do not reach it.
type Frozen struct {
	JobName       string
	TemplateType  string
	Organisation  string
	Priority      int
	Selector      string          // canonical, see Selector
	Parameters    json.RawMessage // effective: overrides applied
	Timeout       time.Duration
	Retry         RetryPolicy
	Notifications Notifications
	Zone          string // IANA zone for calendar arithmetic
	Idempotent    bool   // as the template was announced at that moment
}

// Freeze takes from the job what a run needs. Idempotent is the template's.
func (j *Job) Freeze(idempotent bool) Frozen {
	zone := j.Schedule.Timezone
	if zone == "" {
		zone = "UTC"
	}
	return Frozen{
		JobName: j.Name, TemplateType: j.TemplateType, Organisation: j.Organisation, Priority: j.Priority, Selector: Selector(j.Selector), Parameters: j.Parameters,
		Timeout: j.Timeout, Retry: j.Retry, Notifications: j.Notifications, Zone: zone, Idempotent: idempotent,
	}
}

// Template is the stored metadata of one template: as last announced.
type Template struct {
	Type              string
	Version           int
	Name              string
	Description       string
	Category          string
	Icon              string
	Schema            json.RawMessage // JSON schema of the parameters, restrictions not merged
	EstimatedDuration string
	ResourceUsage     string
	RiskLevel         string
	Idempotent        bool
	Destructive       bool
	MaxConcurrency    int // runs at once in the whole fleet; 0 for no limit
}
