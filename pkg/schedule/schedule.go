package schedule

import (
	"fmt"
	"time"
)

// The fire times lie between the years 1 and 9999, the range of RFC 3339.
const (
	minUnix = -62135596800
	maxUnix = 253402300799
)

// Schedule is a compiled [Spec]. It is immutable and safe for concurrent use.
type Schedule struct {
	typ   Type
	base  int64 // interval: first fire time; once: the only one
	step  int64 // interval: seconds
	cal   *calendar
	zone  *zone
	every bool // a repeated local time counts each time
	after bool // times lost in a gap run after it
}

// Compile prepares a spec, canonical or not, for questions. The anchor, cut to
// the second, is the origin of an interval without a start: its first fire time is
// one interval after the anchor. The other types ignore it. The error is that of
// [Canonical].
func Compile(spec Spec, anchor time.Time) (*Schedule, error) {
	spec, cal, z, err := canonical(spec)
	if err != nil {
		return nil, err
	}
	s := &Schedule{typ: spec.Type, zone: utc}
	switch spec.Type {
	case Cron:
		s.cal, s.zone = cal, z
		s.every = s.cal.rhythm || spec.DST.Overlap == OverlapTwice
		s.after = !s.cal.rhythm && spec.DST.Gap == GapRunAfter
	case Interval:
		s.step = spec.IntervalSeconds
		s.base = anchor.Unix() + s.step
		if spec.Start != nil {
			s.base = spec.Start.Unix()
		}
	case Once:
		s.base = spec.RunAt.Unix()
	case Manual:
	}
	return s, nil
}

// Location returns the zone that a cron expression is read in; UTC for the other
// types.
func (s *Schedule) Location() *time.Location { return s.zone.loc }

// Next returns the first fire time strictly later than after, in UTC; false if
// there is none, as for a manual schedule, one that ran once, or 30 February.
func (s *Schedule) Next(after time.Time) (time.Time, bool) {
	unix, ok := s.nextUnix(max(after.Unix()+1, minUnix))
	if !ok || unix > maxUnix {
		return time.Time{}, false
	}
	return time.Unix(unix, 0).UTC(), true
}

// nextUnix returns the first fire time at or after from.
func (s *Schedule) nextUnix(from int64) (int64, bool) {
	switch s.typ {
	case Cron:
		return s.nextCron(from)
	case Interval:
		if from <= s.base {
			return s.base, true
		}
		return s.base + (from-s.base+s.step-1)/s.step*s.step, true
	case Once:
		return s.base, from <= s.base
	default:
		return 0, false
	}
}

func (s *Schedule) nextCron(from int64) (int64, bool) {
	for from <= maxUnix {
		seg, local, gap := s.enter(from)
		if gap {
			return from, true
		}
		match, ok := s.cal.next(local)
		if !ok {
			return 0, false
		}
		if match < seg.end+seg.offset {
			return match - seg.offset, true
		}
		// Nothing in the rest of this segment. Nor in those that end well before
		// the match, unless the clock is about to go back to times before local.
		if seg.end-from > reach {
			from = max(seg.end, match-seg.offset-reach)
		} else {
			from = seg.end
		}
	}
	return 0, false
}

// enter looks at the moment from: the segment that it lies in, and the first local
// time, at or after from, that can count in it. gap says that times just jumped
// over are to be made up for at from.
func (s *Schedule) enter(from int64) (seg segment, local int64, gap bool) {
	seg = s.zone.at(from)
	local = from + seg.offset
	if s.cal.rhythm || from-seg.start > reach {
		return seg, local, false
	}
	reached := s.zone.reached(seg)
	if s.after && from == seg.start && reached < local {
		match, ok := s.cal.next(reached)
		gap = ok && match < local
	}
	if !s.every {
		local = max(local, reached)
	}
	return seg, local, gap
}

// Last returns the latest fire time in (after, until], in UTC, and how many fire
// times that span holds; ok is false if it holds none. The cost grows with the
// months and clock changes between the two, not with the number of fire times.
func (s *Schedule) Last(after, until time.Time) (t time.Time, n int64, ok bool) {
	from, to := max(after.Unix()+1, minUnix), min(until.Unix(), maxUnix)
	if from > to {
		return time.Time{}, 0, false
	}
	var last int64
	switch s.typ {
	case Cron:
		last, n = s.lastCron(from, to)
	case Interval:
		if to >= s.base {
			k := (to - s.base) / s.step
			last, n = s.base+k*s.step, k+1
			if from > s.base {
				n -= (from - s.base + s.step - 1) / s.step
			}
		}
	case Once:
		if from <= s.base && s.base <= to {
			last, n = s.base, 1
		}
	case Manual:
	}
	if n == 0 {
		return time.Time{}, 0, false
	}
	return time.Unix(last, 0).UTC(), n, true
}

// lastCron returns the last fire time in [from, to], if any, and their number.
func (s *Schedule) lastCron(from, to int64) (last, n int64) {
	for from <= to {
		seg, local, gap := s.enter(from)
		if gap && !s.cal.matches(local) {
			last, n = from, n+1
		}
		stop := min(seg.end, to+1)
		if k := s.cal.count(local, stop+seg.offset); k > 0 {
			match := s.cal.previous(stop + seg.offset - 1)
			last, n = match-seg.offset, n+k
		}
		from = stop
	}
	return last, n
}

// Occurrence is a fire time, for people to look at.
type Occurrence struct {
	At time.Time // UTC
	// Note says in a sentence what the change of the clocks does to this fire
	// time; it is empty on ordinary days.
	Note string
}

// Upcoming returns the next n fire times after after, fewer if there are no more.
func (s *Schedule) Upcoming(after time.Time, n int) []Occurrence {
	var out []Occurrence
	for len(out) < n {
		at, ok := s.Next(after)
		if !ok {
			break
		}
		out = append(out, Occurrence{At: at, Note: s.note(at.Unix())})
		after = at
	}
	return out
}

// note explains a fire time that the change of the clocks affects.
func (s *Schedule) note(unix int64) string {
	if s.typ != Cron {
		return ""
	}
	seg, local, gap := s.enter(unix)
	if gap {
		return s.gapNote(s.zone.reached(seg), local)
	}
	local = unix + seg.offset
	before, after := s.zone.alsoShows(unix, local)
	if before+after == 0 {
		return ""
	}
	text := fmt.Sprintf("repeated hour: %s comes twice on this day in %s (clocks go back); ", clock(local), s.zone.loc)
	switch {
	case !s.every:
		return text + "runs the first time only"
	case before == 0:
		return text + "this is the first time"
	default:
		return text + "this is the second time"
	}
}

// gapNote explains a run at local that makes up for the times since from.
func (s *Schedule) gapNote(from, local int64) string {
	first, _ := s.cal.next(from)
	day := "this day"
	if date := time.Unix(first, 0).UTC().Format(time.DateOnly); date != time.Unix(local, 0).UTC().Format(time.DateOnly) {
		day = date
	}
	what := clock(first) + " does"
	if n := s.cal.count(from, local); n > 1 {
		last := s.cal.previous(local - 1)
		what = fmt.Sprintf("%d times from %s to %s do", n, clock(first), clock(last))
	}
	text := fmt.Sprintf("%s not exist on %s in %s (clocks go forward); runs right after the gap", what, day, s.zone.loc)
	if s.cal.matches(local) {
		text += ", together with the regular run at " + clock(local)
	}
	return text
}

// clock formats a local time of day, with seconds only where there are any.
func clock(local int64) string {
	t := time.Unix(local, 0).UTC()
	if t.Second() == 0 {
		return t.Format("15:04")
	}
	return t.Format(time.TimeOnly)
}
