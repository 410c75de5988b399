package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Type is the kind of a schedule, in the word used on the wire.
type Type string

// The types of schedules.
const (
	Cron     Type = "cron"     // a cron expression in a time zone
	Interval Type = "interval" // a fixed number of seconds from an anchor
	Once     Type = "once"     // a single instant
	Manual   Type = "manual"   // only when somebody asks
)

// The words of [DST]. The first of each pair is the default.
const (
	GapRunAfter  = "run_after" // a time that does not exist runs right after the gap
	GapSkip      = "skip"      // a time that does not exist is dropped
	OverlapOnce  = "once"      // a time that comes twice runs the first time only
	OverlapTwice = "twice"     // a time that comes twice runs both times
)

const (
	maxExpression = 256 // bytes
	// maxInterval keeps a typing error from becoming a job that never runs.
	maxInterval = 10 * 365 * 24 * 60 * 60 // seconds: ten years
)

// DST says what a cron schedule does when the clocks change.
type DST struct {
	Gap     string `json:"gap,omitempty"`     // run_after (default) or skip
	Overlap string `json:"overlap,omitempty"` // once (default) or twice
}

// Spec describes a schedule as it is stored and returned. Only the fields of its
// type may be set; [Canonical] fills in the rest.
type Spec struct {
	Type Type `json:"type"`
	// Expression is the cron expression, as its author typed it.
	Expression string `json:"expression,omitempty"`
	// Timezone is the IANA name of the zone that a cron expression is read in.
	Timezone string `json:"timezone,omitempty"`
	// IntervalSeconds is the distance between two fire times of an interval.
	IntervalSeconds int64 `json:"interval_seconds,omitempty"`
	// Start is the first fire time of an interval. Without it the first fire
	// time is one interval after the anchor given to [Compile].
	Start *time.Time `json:"start,omitempty"`
	// RunAt is the only fire time of a schedule of type once.
	RunAt *time.Time `json:"run_at,omitempty"`
	// DST applies to cron only.
	DST *DST `json:"dst,omitempty"`
	// Cron is accepted in place of Type and Expression, and moved there by
	// [Canonical]; it is never stored.
	Cron string `json:"cron,omitempty"`
}

// FieldError is a field of a [Spec] that cannot be used, and what to do about it.
type FieldError struct {
	Field   string // the JSON name within the spec, such as "expression" or "dst.gap"
	Message string // a clause that follows the field's name
}

// Error returns the field's name and the message.
func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// problems gathers field errors, so that a caller learns of all at once.
type problems []error

func (p *problems) add(field, format string, args ...any) {
	*p = append(*p, &FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Canonical checks spec and returns its full form: the type named, the shorthands
// resolved, defaults filled in, times in UTC and cut to whole seconds. It leaves a
// canonical spec as it is, shares no memory with its argument, and does not look
// at the present: an instant in the past is valid.
//
// The error is an [errors.Join] of one [*FieldError] for each field at fault.
func Canonical(spec Spec) (Spec, error) {
	out, _, _, err := canonical(spec)
	return out, err
}

// canonical also returns what a cron schedule is compiled from.
func canonical(spec Spec) (out Spec, cal *calendar, z *zone, err error) {
	p := new(problems)
	spec, source := expand(spec, p)
	if len(*p) > 0 { // the type is in doubt, so nothing else can be judged
		return Spec{}, nil, nil, errors.Join(*p...)
	}
	refuseForeign(spec, source, p)

	out.Type = spec.Type
	switch spec.Type {
	case Cron:
		out.Expression, out.Timezone = spec.Expression, spec.Timezone
		if out.Timezone == "" {
			out.Timezone = "UTC"
		}
		if z, err = loadZone(out.Timezone); err != nil {
			p.add("timezone", "%s", err)
		}
		if out.Expression == "" {
			p.add(source, `is required for a cron schedule, for example "0 19 * * *"`)
		} else if cal, err = parseCron(out.Expression); err != nil {
			p.add(source, "%s", err)
		}
		out.DST = canonicalDST(spec.DST, p)
	case Interval:
		out.IntervalSeconds = spec.IntervalSeconds
		if s := spec.IntervalSeconds; s == 0 {
			p.add("interval_seconds", "is required for a schedule of type interval, for example 3600")
		} else if s < 1 || s > maxInterval {
			p.add("interval_seconds", "must be from 1 to %d (ten years), not %d", maxInterval, s)
		}
		out.Start = canonicalTime("start", spec.Start, p)
	case Once:
		if spec.RunAt == nil {
			p.add("run_at", `is required for a schedule of type once, for example "2030-01-31T08:00:00Z"`)
		}
		out.RunAt = canonicalTime("run_at", spec.RunAt, p)
	case Manual:
	}
	if len(*p) > 0 {
		return Spec{}, nil, nil, errors.Join(*p...)
	}
	return out, cal, z, nil
}

// expand resolves the short forms: the cron field, a missing type, a zone in front
// of the expression, @every. It also returns the name of the field that the
// expression came from, for later messages.
func expand(spec Spec, p *problems) (_ Spec, source string) {
	source = "expression"
	if spec.Cron != "" {
		source = "cron"
		if spec.Expression != "" {
			p.add("cron", "is short for expression; give one of the two")
			return spec, source
		}
		spec.Expression, spec.Cron = spec.Cron, ""
	}
	if spec.Expression != "" && spec.IntervalSeconds != 0 {
		p.add("interval_seconds", "cannot be combined with a cron expression; give one of the two")
		return spec, source
	}
	if len(spec.Expression) > maxExpression {
		p.add(source, "is %d bytes long; at most %d are allowed", len(spec.Expression), maxExpression)
		return spec, source
	}

	switch spec.Type {
	case Cron, Interval, Once, Manual:
	case "":
		switch {
		case spec.Expression != "":
			spec.Type = Cron
		case spec.IntervalSeconds != 0:
			spec.Type = Interval
		case spec.RunAt != nil:
			spec.Type = Once
		default:
			p.add("type", "is required: cron, interval, once or manual")
			return spec, source
		}
	default:
		p.add("type", "%q is not known; use cron, interval, once or manual", string(spec.Type))
		return spec, source
	}

	if spec.Type == Cron {
		expandExpression(&spec, source, p)
	}
	return spec, source
}

// expandExpression moves a zone in front of the expression to the timezone, and
// turns @every into an interval.
func expandExpression(spec *Spec, source string, p *problems) {
	words := strings.Fields(spec.Expression)
	if len(words) > 0 {
		prefix, zone, found := strings.Cut(words[0], "=")
		if found && (prefix == "CRON_TZ" || prefix == "TZ") {
			if zone == "" {
				p.add(source, "has no time zone after %s=; write for example %s=Europe/Berlin", prefix, prefix)
				return
			}
			if spec.Timezone != "" && spec.Timezone != zone {
				p.add("timezone", "is %q but the expression says %q; give one of the two", spec.Timezone, words[0])
				return
			}
			spec.Timezone = zone
			words = words[1:]
		}
	}
	spec.Expression = strings.Join(words, " ")

	if len(words) == 0 || !strings.EqualFold(words[0], "@every") {
		return
	}
	every, err := time.ParseDuration(strings.Join(words[1:], " "))
	if err != nil || every%time.Second != 0 {
		p.add(source, "needs a duration of whole seconds after @every, for example @every 1h30m")
		return
	}
	if every < time.Second || every > maxInterval*time.Second {
		p.add(source, "must ask for 1s to %ds (ten years) after @every", maxInterval)
		return
	}
	spec.Type, spec.Expression, spec.IntervalSeconds = Interval, "", int64(every/time.Second)
}

// refuseForeign reports the fields that do not belong to the spec's type.
func refuseForeign(spec Spec, source string, p *problems) {
	for _, f := range []struct {
		name  string
		given bool
		owner Type
	}{
		{source, spec.Expression != "", Cron},
		{"timezone", spec.Timezone != "", Cron},
		{"dst", spec.DST != nil, Cron},
		{"interval_seconds", spec.IntervalSeconds != 0, Interval},
		{"start", spec.Start != nil, Interval},
		{"run_at", spec.RunAt != nil, Once},
	} {
		if f.given && f.owner != spec.Type {
			p.add(f.name, "belongs to schedules of type %s; this one is of type %s", f.owner, spec.Type)
		}
	}
}

func canonicalDST(dst *DST, p *problems) *DST {
	out := DST{Gap: GapRunAfter, Overlap: OverlapOnce}
	if dst == nil {
		return &out
	}
	if dst.Gap != "" {
		out.Gap = dst.Gap
	}
	if dst.Overlap != "" {
		out.Overlap = dst.Overlap
	}
	if out.Gap != GapRunAfter && out.Gap != GapSkip {
		p.add("dst.gap", "%q is not known; use %s or %s", out.Gap, GapRunAfter, GapSkip)
	}
	if out.Overlap != OverlapOnce && out.Overlap != OverlapTwice {
		p.add("dst.overlap", "%q is not known; use %s or %s", out.Overlap, OverlapOnce, OverlapTwice)
	}
	return &out
}

func canonicalTime(field string, t *time.Time, p *problems) *time.Time {
	if t == nil {
		return nil
	}
	out := t.UTC().Truncate(time.Second)
	if y := out.Year(); y < 1970 || y > 9999 {
		p.add(field, "must lie between the years 1970 and 9999")
	}
	return &out
}
