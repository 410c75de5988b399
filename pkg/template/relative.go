package template

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Relative is a length of time before an origin, such as "6 months ago".
type Relative struct {
	count int
	unit  string // singular
}

var relativeForm = regexp.MustCompile(`^([0-9]{1,9}) (minute|hour|day|week|month|year)s? ago$`)

// relativeLimits holds for each unit how many of it make about a century, the
// longest time that can be asked for.
var relativeLimits = map[string]int{
	"minute": 100 * 366 * 24 * 60,
	"hour":   100 * 366 * 24,
	"day":    100 * 366,
	"week":   100 * 53,
	"month":  100 * 12,
	"year":   100,
}

// ParseRelative reads "<n> <unit> ago", where n is a whole number from 1 and
// the unit is minutes, hours, days, weeks, months or years, or its singular. The
// longest time is about 100 years. The error's text says what is accepted.
func ParseRelative(s string) (Relative, error) {
	parts := relativeForm.FindStringSubmatch(s)
	if parts == nil {
		return Relative{}, fmt.Errorf("%q is not a relative time: write \"<n> <minutes|hours|days|weeks|months|years> ago\", such as \"6 months ago\"", shorten(s))
	}
	count, err := strconv.Atoi(parts[1])
	unit := parts[2]
	if limit := relativeLimits[unit]; err != nil || count < 1 || count > limit {
		return Relative{}, fmt.Errorf("%q is out of range: the number of %ss must be from 1 to %d", s, unit, limit)
	}
	return Relative{count: count, unit: unit}, nil
}

// String returns the form that ParseRelative reads.
func (r Relative) String() string {
	if r.count == 1 {
		return "1 " + r.unit + " ago"
	}
	return strconv.Itoa(r.count) + " " + r.unit + "s ago"
}

// Before returns the instant, in UTC, that lies r before the origin. Minutes
// and hours are elapsed time. Days and longer are taken from the calendar of the
// zone (nil means UTC) and keep the local time of day; a day that the month does
// not have becomes its last day. Where that local time does not exist or exists
// twice, because clocks were changed, it is the earlier of the two readings, so
// that a cut-off never falls later than what was asked for.
func (r Relative) Before(origin time.Time, zone *time.Location) time.Time {
	if zone == nil {
		zone = time.UTC
	}
	local := origin.In(zone)
	year, month, day := local.Date()
	switch r.unit {
	case "minute":
		return origin.Add(-time.Duration(r.count) * time.Minute).UTC()
	case "hour":
		return origin.Add(-time.Duration(r.count) * time.Hour).UTC()
	case "day":
		return earliest(year, month, day-r.count, local)
	case "week":
		return earliest(year, month, day-7*r.count, local)
	}
	months := year*12 + int(month) - 1
	if r.unit == "year" {
		months -= 12 * r.count
	} else {
		months -= r.count
	}
	year, month = months/12, time.Month(months%12+1)
	if last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day(); day > last {
		day = last
	}
	return earliest(year, month, day, local)
}

// earliest returns the first instant at which the clocks of local's zone show
// that date with local's time of day. In a gap it reads the time with the
// offset in force after the gap, which lies before the gap.
func earliest(year int, month time.Month, day int, local time.Time) time.Time {
	hour, minute, second := local.Clock()
	nano, zone := local.Nanosecond(), local.Location()
	want := time.Date(year, month, day, hour, minute, second, nano, time.UTC)
	t := time.Date(year, month, day, hour, minute, second, nano, zone)
	_, offset := t.Zone()
	if shown := t.UTC().Add(time.Duration(offset) * time.Second); shown.After(want) {
		// In a gap, pushed behind it: offset is the one after the gap.
		return want.Add(-time.Duration(offset) * time.Second)
	}
	// Shown twice: the earlier one has the larger offset in force before.
	if start, _ := t.ZoneBounds(); !start.IsZero() {
		_, before := start.Add(-1).Zone()
		if twin := want.Add(-time.Duration(before) * time.Second); before > offset && twin.Before(start) {
			return twin
		}
	}
	return t.UTC()
}

func shorten(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
