package builtin

import (
	"time"
)

// period is a stretch of time that a report is on: from included, to excluded.
type period struct {
	name     string
	from, to time.Time
	zone     *time.Location
}

// periods are those that a report can be on, seen from an instant in its zone.
var periods = []struct {
	name string
	of   func(at, midnight time.Time) (from, to time.Time)
}{
	{"yesterday", func(_, midnight time.Time) (time.Time, time.Time) { return days(midnight, -1), midnight }},
	{"today", func(at, midnight time.Time) (time.Time, time.Time) { return midnight, at }},
	{"last_24_hours", func(at, _ time.Time) (time.Time, time.Time) { return at.Add(-24 * time.Hour), at }},
	{"last_7_days", func(_, midnight time.Time) (time.Time, time.Time) { return days(midnight, -7), midnight }},
	{"last_30_days", func(_, midnight time.Time) (time.Time, time.Time) { return days(midnight, -30), midnight }},
	{"this_month", func(at, midnight time.Time) (time.Time, time.Time) { return monthOf(midnight, 0), at }},
	{"last_month", func(_, midnight time.Time) (time.Time, time.Time) { return monthOf(midnight, -1), monthOf(midnight, 0) }},
}

func periodNames() []any {
	names := make([]any, len(periods))
	for i, p := range periods {
		names[i] = p.name
	}
	return names
}

// days returns the midnight so many days away.
func days(midnight time.Time, n int) time.Time {
	year, month, day := midnight.Date()
	return time.Date(year, month, day+n, 0, 0, 0, 0, midnight.Location())
}

// monthOf returns the beginning of the month so many months away.
func monthOf(midnight time.Time, n int) time.Time {
	return time.Date(midnight.Year(), midnight.Month()+time.Month(n), 1, 0, 0, 0, 0, midnight.Location())
}

// periodOf returns the period of that name as seen from an instant; yesterday for
// a name that is not known, which schemas do not let through.
func periodOf(name string, at time.Time, zone *time.Location) period {
	local := at.In(zone)
	year, month, day := local.Date()
	midnight := time.Date(year, month, day, 0, 0, 0, 0, zone)
	chosen := periods[0]
	for _, p := range periods {
		if p.name == name {
			chosen = p
		}
	}
	from, to := chosen.of(local, midnight)
	return period{name: chosen.name, from: from, to: to, zone: zone}
}

// String tells the days, or the times where it does not begin and end with one.
func (p period) String() string {
	const minutes = "2006-01-02 15:04"
	zone := " (" + p.zone.String() + ")"
	last := days(p.to, -1)
	switch {
	case !p.from.Equal(days(p.from, 0)) || !p.to.Equal(days(p.to, 0)):
		return p.from.Format(minutes) + " to " + p.to.Format(minutes) + zone
	case p.from.Equal(last):
		return p.from.Format(time.DateOnly) + zone
	}
	return p.from.Format(time.DateOnly) + " to " + last.Format(time.DateOnly) + zone
}

// steps divides the period for a chart: into hours when it has no more than two
// days, into days otherwise. It returns where each begins, and their names.
func (p period) steps() (begins []time.Time, names []string) {
	hourly := p.to.Sub(p.from) <= 48*time.Hour
	for at := p.from; at.Before(p.to); {
		begins = append(begins, at)
		if hourly {
			names = append(names, at.Format("15h"))
			at = at.Add(time.Hour)
		} else {
			names = append(names, at.Format("01-02"))
			at = days(at, 1)
		}
	}
	return begins, names
}
