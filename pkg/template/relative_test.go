package template_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

func TestParseRelative(t *testing.T) {
	for _, s := range []string{"1 minute ago", "90 minutes ago", "1 hours ago", "7 days ago", "2 weeks ago", "6 months ago", "1 year ago", "100 years ago", "52704000 minutes ago"} {
		r, err := template.ParseRelative(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if again, err := template.ParseRelative(r.String()); err != nil || again != r {
			t.Errorf("%q: String gives %q, which parses as %v, %v", s, r, again, err)
		}
	}
	for _, s := range []string{
		"", "ago", "6 months", "6 month before", "6 fortnights ago", "0 days ago", "-1 days ago", "1.5 days ago", "101 years ago", "999999999 minutes ago", "9999999999 days ago",
		" 6 months ago", "6  months ago", "6 Months ago", "six months ago", "6 months ago ", strings.Repeat("9", 10_000) + " days ago",
	} {
		r, err := template.ParseRelative(s)
		if err == nil {
			t.Errorf("%.40q was accepted as %v", s, r)
		} else if len(err.Error()) > 250 {
			t.Errorf("%.40q: the error has %d bytes", s, len(err.Error()))
		}
	}
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestBefore(t *testing.T) {
	for _, tc := range []struct{ relative, zone, origin, want string }{
		{"6 months ago", "UTC", "2025-10-16T02:00:00Z", "2025-04-16T02:00:00Z"},
		{"1 month ago", "UTC", "2025-03-31T10:00:00Z", "2025-02-28T10:00:00Z"},
		{"1 month ago", "UTC", "2024-03-31T10:00:00Z", "2024-02-29T10:00:00Z"},
		{"1 year ago", "UTC", "2024-02-29T10:00:00Z", "2023-02-28T10:00:00Z"},
		{"13 months ago", "UTC", "2025-01-31T00:00:00Z", "2023-12-31T00:00:00Z"},
		{"12 months ago", "UTC", "2025-12-05T00:00:00Z", "2024-12-05T00:00:00Z"},
		{"2 weeks ago", "UTC", "2025-01-05T00:00:00.123456789Z", "2024-12-22T00:00:00.123456789Z"},
		{"90 minutes ago", "Europe/Berlin", "2025-03-30T01:30:00Z", "2025-03-30T00:00:00Z"},
		{"25 hours ago", "Europe/Berlin", "2025-03-30T12:00:00Z", "2025-03-29T11:00:00Z"},
		// The day is the zone's: 23:30 UTC is the next morning in Berlin.
		{"1 month ago", "Europe/Berlin", "2025-03-30T22:30:00Z", "2025-02-27T23:30:00Z"},
		// A day across a change of clocks keeps the local time of day.
		{"1 day ago", "Europe/Berlin", "2025-03-30T10:00:00Z", "2025-03-29T11:00:00Z"},
		{"1 day ago", "America/New_York", "2025-11-02T17:00:00Z", "2025-11-01T16:00:00Z"},
		// 02:30 on 30 March does not exist in Berlin: read with summer time it is 00:30 UTC.
		{"1 day ago", "Europe/Berlin", "2025-03-31T00:30:00Z", "2025-03-30T00:30:00Z"},
		// 02:30 on 26 October exists twice: the first is in summer time.
		{"1 day ago", "Europe/Berlin", "2025-10-27T01:30:00Z", "2025-10-26T00:30:00Z"},
		{"1 day ago", "America/New_York", "2025-11-03T06:30:00Z", "2025-11-02T05:30:00Z"},
		// Lord Howe changes by half an hour; Troll by two hours; Cairo at midnight.
		{"1 day ago", "Australia/Lord_Howe", "2025-04-06T15:15:00Z", "2025-04-05T14:45:00Z"},
		{"1 day ago", "Africa/Cairo", "2025-04-25T21:30:00Z", "2025-04-24T21:30:00Z"},
		// 30 December 2011 did not happen in Apia: it never becomes the origin itself.
		{"1 day ago", "Pacific/Apia", "2011-12-30T22:00:00Z", "2011-12-29T22:00:00Z"},
	} {
		origin, err := time.Parse(time.RFC3339, tc.origin)
		if err != nil {
			t.Fatal(err)
		}
		r, err := template.ParseRelative(tc.relative)
		if err != nil {
			t.Fatal(err)
		}
		got := r.Before(origin, zone(t, tc.zone))
		if got.Format(time.RFC3339Nano) != tc.want {
			t.Errorf("%s before %s in %s: got %s, want %s", tc.relative, tc.origin, tc.zone, got.Format(time.RFC3339Nano), tc.want)
		}
	}
	r, _ := template.ParseRelative("3 days ago")
	origin := time.Date(2025, 1, 10, 0, 0, 0, 0, time.UTC)
	if got := r.Before(origin, nil); !got.Equal(time.Date(2025, 1, 7, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("without a zone: got %v", got)
	}
}

// TestBeforeProperties compares with a brute-force oracle: the local time of day
// is kept wherever it exists, the first of two readings is taken, and the result
// is always before the origin.
func TestBeforeProperties(t *testing.T) {
	zones := []*time.Location{zone(t, "America/New_York"), zone(t, "Europe/Berlin"), zone(t, "Africa/Cairo"), zone(t, "Australia/Lord_Howe"), zone(t, "Pacific/Apia"), zone(t, "Antarctica/Troll")}
	check := func(seconds uint32, count uint8, which uint8) bool {
		z := zones[int(which)%len(zones)]
		origin := time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seconds%(30*365*86400)) * time.Second)
		days := int(count) + 1
		text := fmt.Sprintf("%d days ago", days)
		r, err := template.ParseRelative(text)
		if err != nil {
			t.Log(err)
			return false
		}
		got := r.Before(origin, z)
		local := origin.In(z)
		want := time.Date(local.Year(), local.Month(), local.Day()-days, local.Hour(), local.Minute(), local.Second(), 0, time.UTC)
		var first time.Time
		for offset := -14 * 3600; offset <= 14*3600; offset += 900 {
			candidate := want.Add(-time.Duration(offset) * time.Second)
			if _, is := candidate.In(z).Zone(); is == offset && (first.IsZero() || candidate.Before(first)) {
				first = candidate
			}
		}
		switch {
		case !got.Before(origin):
			t.Logf("%s before %s in %s is %s", text, origin, z, got)
			return false
		case !first.IsZero() && !got.Equal(first):
			t.Logf("%s before %s in %s: got %s, oracle %s", text, origin, z, got, first)
			return false
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Error(err)
	}
}
