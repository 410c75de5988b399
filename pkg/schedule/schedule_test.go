package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

// anchor is a time for schedules that need none.
var anchor = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func compile(t testing.TB, spec schedule.Spec) *schedule.Schedule {
	t.Helper()
	s, err := schedule.Compile(spec, anchor)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// times formats fire times in the schedule's own zone.
func times(s *schedule.Schedule, occurrences []schedule.Occurrence) []string {
	var out []string
	for _, o := range occurrences {
		out = append(out, o.At.In(s.Location()).Format("2006-01-02 15:04:05 -0700"))
	}
	return out
}

func TestCalendar(t *testing.T) {
	for _, tc := range []struct {
		name, expr, after string
		want              []string
	}{
		{"strictly later", "0 19 * * *", "2026-05-01T19:00:00Z", []string{"2026-05-02 19:00:00"}},
		{"a moment before", "0 19 * * *", "2026-05-01T18:59:59.999999999Z", []string{"2026-05-01 19:00:00"}},
		{"a moment after", "0 19 * * *", "2026-05-01T19:00:00.000000001Z", []string{"2026-05-02 19:00:00"}},
		{"every minute", "* * * * *", "2026-12-31T23:58:30Z", []string{"2026-12-31 23:59:00", "2027-01-01 00:00:00"}},
		{"every second", "* * * * * *", "2026-12-31T23:59:58Z", []string{"2026-12-31 23:59:59", "2027-01-01 00:00:00"}},
		{"seconds", "15,45 * * * * *", "2026-01-01T00:00:20Z", []string{"2026-01-01 00:00:45", "2026-01-01 00:01:15"}},
		{"month lengths", "0 0 31 * *", "2026-01-31T00:00:00Z", []string{"2026-03-31 00:00:00", "2026-05-31 00:00:00", "2026-07-31 00:00:00"}},
		{"leap day", "0 0 29 2 *", "2026-01-01T00:00:00Z", []string{"2028-02-29 00:00:00", "2032-02-29 00:00:00"}},
		{"leap day across 2100", "0 0 29 2 *", "2096-03-01T00:00:00Z", []string{"2104-02-29 00:00:00"}},
		{"never", "0 0 30 2 *", "2026-01-01T00:00:00Z", nil},
		{"never, 31 of short months", "0 0 31 2,4,6,9,11 *", "2026-01-01T00:00:00Z", nil},
		{"day of month or weekday", "0 0 13 * FRI", "2026-02-28T00:00:00Z", []string{"2026-03-06 00:00:00", "2026-03-13 00:00:00", "2026-03-20 00:00:00", "2026-03-27 00:00:00", "2026-04-03 00:00:00", "2026-04-10 00:00:00", "2026-04-13 00:00:00"}},
		{"a star with a step restricts both", "0 0 */2 * MON", "2026-03-01T00:00:00Z", []string{"2026-03-09 00:00:00", "2026-03-23 00:00:00", "2026-04-13 00:00:00"}},
		{"a weekday star with a step", "0 0 1-7 * */7", "2026-03-01T00:00:00Z", []string{"2026-04-05 00:00:00", "2026-05-03 00:00:00"}},
		{"a range over all days is no star", "0 0 13 * 0-6", "2026-03-01T00:00:00Z", []string{"2026-03-02 00:00:00", "2026-03-03 00:00:00"}},
		{"weekdays", "0 9 * * MON-FRI", "2026-03-06T09:00:00Z", []string{"2026-03-09 09:00:00"}},
		{"year zero of Go", "@yearly", "0001-01-01T00:00:00Z", []string{"0002-01-01 00:00:00"}},
		{"end of time", "@yearly", "9998-06-01T00:00:00Z", []string{"9999-01-01 00:00:00"}},
		{"after the end of time", "@yearly", "9999-01-01T00:00:00Z", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := compile(t, schedule.Spec{Cron: tc.expr})
			var got []string
			for _, o := range s.Upcoming(at(t, tc.after), max(len(tc.want), 1)) {
				got = append(got, o.At.Format(time.DateTime))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %v\nwant %v", got, tc.want)
			}
		})
	}
}

func TestRarestDate(t *testing.T) {
	// A 29 February on a Sunday comes every 28 years, but across 2100 only after 40.
	s := compile(t, schedule.Spec{Cron: "0 0 29 2 */7"})
	want := []string{"2032-02-29", "2060-02-29", "2088-02-29", "2128-02-29"}
	var got []string
	for _, o := range s.Upcoming(anchor, 4) {
		got = append(got, o.At.Format(time.DateOnly))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestClockChanges(t *testing.T) {
	const (
		runAfter, skip = schedule.GapRunAfter, schedule.GapSkip
		once, twice    = schedule.OverlapOnce, schedule.OverlapTwice
	)
	for _, tc := range []struct {
		name, zone, expr, gap, overlap, after string
		want                                  []string
	}{
		{"gap: right after it", "America/New_York", "30 2 * * *", runAfter, once, "2026-03-07T12:00:00Z", []string{"2026-03-08 03:00:00 -0400", "2026-03-09 02:30:00 -0400"}},
		{"gap: dropped", "America/New_York", "30 2 * * *", skip, once, "2026-03-07T12:00:00Z", []string{"2026-03-09 02:30:00 -0400", "2026-03-10 02:30:00 -0400"}},
		{"gap: its first instant", "America/New_York", "0 2 * * *", runAfter, once, "2026-03-07T12:00:00Z", []string{"2026-03-08 03:00:00 -0400", "2026-03-09 02:00:00 -0400"}},
		{"gap: a weekly job loses no week", "America/New_York", "0 2 * * 0", runAfter, once, "2026-03-02T12:00:00Z", []string{"2026-03-08 03:00:00 -0400", "2026-03-15 02:00:00 -0400"}},
		{"gap: many become one", "Europe/Berlin", "*/5 2 * * *", runAfter, once, "2026-03-28T01:54:00Z", []string{"2026-03-28 02:55:00 +0100", "2026-03-29 03:00:00 +0200", "2026-03-30 02:00:00 +0200"}},
		{"gap: one with the regular run", "Europe/Berlin", "30 2,3 * * *", runAfter, once, "2026-03-29T00:00:00Z", []string{"2026-03-29 03:00:00 +0200", "2026-03-29 03:30:00 +0200"}},
		{"gap: the same instant as the regular run", "Europe/Berlin", "0 2,3 * * *", runAfter, once, "2026-03-29T00:00:00Z", []string{"2026-03-29 03:00:00 +0200", "2026-03-30 02:00:00 +0200"}},
		{"gap: its end is a regular time under skip", "Europe/Berlin", "0 2,3 * * *", skip, once, "2026-03-29T00:00:00Z", []string{"2026-03-29 03:00:00 +0200", "2026-03-30 02:00:00 +0200"}},
		{"gap: a rhythm goes on", "Europe/Berlin", "30 * * * *", runAfter, once, "2026-03-29T00:00:00Z", []string{"2026-03-29 01:30:00 +0100", "2026-03-29 03:30:00 +0200"}},
		{"gap: a rhythm with a step", "Europe/Berlin", "0 */2 * * *", runAfter, once, "2026-03-28T23:00:00Z", []string{"2026-03-29 04:00:00 +0200"}},
		{"overlap: the first only", "America/New_York", "30 1 * * *", runAfter, once, "2026-10-31T12:00:00Z", []string{"2026-11-01 01:30:00 -0400", "2026-11-02 01:30:00 -0500"}},
		{"overlap: both", "America/New_York", "30 1 * * *", runAfter, twice, "2026-10-31T12:00:00Z", []string{"2026-11-01 01:30:00 -0400", "2026-11-01 01:30:00 -0500", "2026-11-02 01:30:00 -0500"}},
		{"overlap: both of a yearly job", "America/New_York", "30 1 1 11 *", runAfter, twice, "2026-11-01T05:30:00Z", []string{"2026-11-01 01:30:00 -0500", "2027-11-01 01:30:00 -0400"}},
		{"overlap: from within it", "America/New_York", "30 1 * * *", runAfter, once, "2026-11-01T06:10:00Z", []string{"2026-11-02 01:30:00 -0500"}},
		{"overlap: a rhythm goes on", "Europe/Berlin", "30 * * * *", runAfter, once, "2026-10-24T23:45:00Z", []string{"2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100", "2026-10-25 03:30:00 +0100"}},
		{"overlap: all hours listed are no rhythm", "Europe/Berlin", "30 0-23 * * *", runAfter, once, "2026-10-24T23:45:00Z", []string{"2026-10-25 02:30:00 +0200", "2026-10-25 03:30:00 +0100"}},
		{"Cairo: midnight does not exist", "Africa/Cairo", "0 0 * * *", runAfter, once, "2026-04-22T22:00:00Z", []string{"2026-04-24 01:00:00 +0300", "2026-04-25 00:00:00 +0300"}},
		{"Cairo: midnight dropped", "Africa/Cairo", "@daily", skip, once, "2026-04-22T22:00:00Z", []string{"2026-04-25 00:00:00 +0300"}},
		{"Cairo: the last hour comes twice", "Africa/Cairo", "59 23 * * *", runAfter, once, "2026-10-29T12:00:00Z", []string{"2026-10-29 23:59:00 +0300", "2026-10-30 23:59:00 +0200"}},
		{"Lord Howe: half an hour missing", "Australia/Lord_Howe", "15 2 * * *", runAfter, once, "2026-10-03T12:00:00Z", []string{"2026-10-04 02:30:00 +1100", "2026-10-05 02:15:00 +1100"}},
		{"Lord Howe: half an hour twice", "Australia/Lord_Howe", "45 1 * * *", runAfter, twice, "2026-04-04T12:00:00Z", []string{"2026-04-05 01:45:00 +1100", "2026-04-05 01:45:00 +1030"}},
		{"Lord Howe: the half hour before is not repeated", "Australia/Lord_Howe", "15 1 * * *", runAfter, twice, "2026-04-04T12:00:00Z", []string{"2026-04-05 01:15:00 +1100", "2026-04-06 01:15:00 +1030"}},
		{"Apia: a day missing", "Pacific/Apia", "0 12 * * *", runAfter, once, "2011-12-29T00:00:00Z", []string{"2011-12-29 12:00:00 -1000", "2011-12-31 00:00:00 +1400", "2011-12-31 12:00:00 +1400"}},
		{"Apia: a day missing, midnight", "Pacific/Apia", "0 0 * * *", runAfter, once, "2011-12-29T00:00:00Z", []string{"2011-12-29 00:00:00 -1000", "2011-12-31 00:00:00 +1400", "2012-01-01 00:00:00 +1400"}},
		{"Apia: a day dropped", "Pacific/Apia", "0 12 * * *", skip, once, "2011-12-29T00:00:00Z", []string{"2011-12-29 12:00:00 -1000", "2011-12-31 12:00:00 +1400"}},
		{"Apia: a job of that day alone", "Pacific/Apia", "0 12 30 12 *", runAfter, once, "2011-01-01T00:00:00Z", []string{"2011-12-31 00:00:00 +1400", "2012-12-30 12:00:00 +1400"}},
		{"Kwajalein: a day twice", "Pacific/Kwajalein", "0 12 * * *", runAfter, once, "1969-09-29T12:00:00Z", []string{"1969-09-30 12:00:00 +1100", "1969-10-01 12:00:00 -1200"}},
		{"Troll: two hours missing", "Antarctica/Troll", "0,30 1-2 * * *", runAfter, once, "2026-03-28T12:00:00Z", []string{"2026-03-29 03:00:00 +0200", "2026-03-30 01:00:00 +0200"}},
		{"Troll: two hours twice", "Antarctica/Troll", "30 2 * * *", runAfter, twice, "2026-10-24T12:00:00Z", []string{"2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0000"}},
		{"Kathmandu: a quarter of an hour at midnight", "Asia/Kathmandu", "5 0 * * *", runAfter, once, "1985-12-31T00:00:00Z", []string{"1986-01-01 00:15:00 +0545", "1986-01-02 00:05:00 +0545"}},
		{"Monrovia: odd seconds", "Africa/Monrovia", "10 0 * * *", runAfter, once, "1972-01-06T12:00:00Z", []string{"1972-01-07 00:44:30 +0000", "1972-01-08 00:10:00 +0000"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := compile(t, schedule.Spec{Cron: tc.expr, Timezone: tc.zone, DST: &schedule.DST{Gap: tc.gap, Overlap: tc.overlap}})
			got := times(s, s.Upcoming(at(t, tc.after), len(tc.want)))
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %v\nwant %v", got, tc.want)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	for _, tc := range []struct{ name, zone, expr, overlap, after, want string }{
		{"ordinary day", "Europe/Berlin", "30 2 * * *", "", "2026-03-27T12:00:00Z", ""},
		{"gap", "Europe/Berlin", "30 2 * * *", "", "2026-03-28T12:00:00Z", "02:30 does not exist on this day in Europe/Berlin (clocks go forward); runs right after the gap"},
		{"gap, with seconds", "Europe/Berlin", "5 30 2 * * *", "", "2026-03-28T12:00:00Z", "02:30:05 does not exist on this day in Europe/Berlin (clocks go forward); runs right after the gap"},
		{"gap, several", "Europe/Berlin", "*/15 2 * * *", "", "2026-03-28T12:00:00Z", "4 times from 02:00 to 02:45 do not exist on this day in Europe/Berlin (clocks go forward); runs right after the gap"},
		{"gap, with the regular run", "Europe/Berlin", "0 2,3 * * *", "", "2026-03-28T12:00:00Z", "02:00 does not exist on this day in Europe/Berlin (clocks go forward); runs right after the gap, together with the regular run at 03:00"},
		{"gap of a day", "Pacific/Apia", "0 12 * * *", "", "2011-12-30T00:00:00Z", "12:00 does not exist on 2011-12-30 in Pacific/Apia (clocks go forward); runs right after the gap"},
		{"overlap, once", "Europe/Berlin", "30 2 * * *", "", "2026-10-24T12:00:00Z", "repeated hour: 02:30 comes twice on this day in Europe/Berlin (clocks go back); runs the first time only"},
		{"overlap, twice, first", "Europe/Berlin", "30 2 * * *", "twice", "2026-10-24T12:00:00Z", "repeated hour: 02:30 comes twice on this day in Europe/Berlin (clocks go back); this is the first time"},
		{"overlap, twice, second", "Europe/Berlin", "30 2 * * *", "twice", "2026-10-25T00:30:00Z", "repeated hour: 02:30 comes twice on this day in Europe/Berlin (clocks go back); this is the second time"},
		{"overlap, rhythm, second", "Europe/Berlin", "30 * * * *", "once", "2026-10-25T00:30:00Z", "repeated hour: 02:30 comes twice on this day in Europe/Berlin (clocks go back); this is the second time"},
		{"right after a gap that it had no time in", "Europe/Berlin", "0 3 * * *", "", "2026-03-28T12:00:00Z", ""},
		{"after the overlap", "Europe/Berlin", "0 3 * * *", "twice", "2026-10-24T12:00:00Z", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := compile(t, schedule.Spec{Cron: tc.expr, Timezone: tc.zone, DST: &schedule.DST{Overlap: tc.overlap}})
			got := s.Upcoming(at(t, tc.after), 1)
			if len(got) != 1 || got[0].Note != tc.want {
				t.Errorf("got  %v\nwant the note %q", got, tc.want)
			}
		})
	}
}

func TestInterval(t *testing.T) {
	created := at(t, "2026-05-01T10:00:30.7Z")
	start := at(t, "2026-05-02T00:00:00Z")
	for _, tc := range []struct {
		name  string
		spec  schedule.Spec
		after string
		want  []string
	}{
		{"first fire one interval after the anchor", schedule.Spec{IntervalSeconds: 60}, "2026-05-01T10:00:30.7Z", []string{"10:01:30", "10:02:30"}},
		{"asked from long before", schedule.Spec{IntervalSeconds: 60}, "1999-01-01T00:00:00Z", []string{"10:01:30", "10:02:30"}},
		{"asked at a fire time", schedule.Spec{IntervalSeconds: 60}, "2026-05-01T10:05:30Z", []string{"10:06:30"}},
		{"asked between", schedule.Spec{IntervalSeconds: 60}, "2026-05-01T10:05:31.2Z", []string{"10:06:30"}},
		{"asked just before", schedule.Spec{IntervalSeconds: 60}, "2026-05-01T10:05:29.9Z", []string{"10:05:30"}},
		{"first fire at the start", schedule.Spec{IntervalSeconds: 3600, Start: &start}, "2026-05-01T12:00:00Z", []string{"00:00:00", "01:00:00"}},
		{"strictly after the start", schedule.Spec{IntervalSeconds: 3600, Start: &start}, "2026-05-02T00:00:00Z", []string{"01:00:00"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := schedule.Compile(tc.spec, created)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range s.Upcoming(at(t, tc.after), len(tc.want)) {
				got = append(got, o.At.Format(time.TimeOnly))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestOnce(t *testing.T) {
	runAt := at(t, "2026-05-02T00:00:00Z")
	s := compile(t, schedule.Spec{RunAt: &runAt})
	if got, ok := s.Next(runAt.Add(-1)); !ok || got != runAt {
		t.Errorf("before its time: %v, %v", got, ok)
	}
	if got, ok := s.Next(runAt); ok {
		t.Errorf("at its time: %v, want none", got)
	}
	for _, tc := range []struct {
		name         string
		after, until time.Duration
		want         bool
	}{
		{"before", -time.Hour, -1, false},
		{"until its time", -1, 0, true},
		{"over it", -time.Hour, time.Hour, true},
		{"after it", 0, time.Hour, false},
	} {
		last, n, ok := s.Last(runAt.Add(tc.after), runAt.Add(tc.until))
		if ok != tc.want || ok && (last != runAt || n != 1) {
			t.Errorf("%s: %v, %d, %v", tc.name, last, n, ok)
		}
	}
	if got := s.Upcoming(runAt.AddDate(-1, 0, 0), 3); len(got) != 1 || got[0] != (schedule.Occurrence{At: runAt}) {
		t.Errorf("upcoming: %v", got)
	}
}

func TestManual(t *testing.T) {
	s := compile(t, schedule.Spec{Type: schedule.Manual})
	if got, ok := s.Next(anchor); ok {
		t.Errorf("got %v, want none", got)
	}
	if got, n, ok := s.Last(time.Time{}, anchor); ok || n != 0 {
		t.Errorf("got %v, %d, want none", got, n)
	}
	if got := s.Upcoming(anchor, 5); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
	if s.Location() != time.UTC {
		t.Errorf("got %v, want UTC", s.Location())
	}
}

func TestLast(t *testing.T) {
	for _, tc := range []struct {
		name         string
		spec         schedule.Spec
		after, until string
		want         string
		count        int64
	}{
		{"both ends", schedule.Spec{Cron: "0 * * * *"}, "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z", "2026-01-01T05:00:00Z", 5},
		{"ends between", schedule.Spec{Cron: "0 * * * *"}, "2025-12-31T23:59:59.5Z", "2026-01-01T04:59:59.9Z", "2026-01-01T04:00:00Z", 5},
		{"nothing between", schedule.Spec{Cron: "0 * * * *"}, "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z", "", 0},
		{"empty span", schedule.Spec{Cron: "* * * * * *"}, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "", 0},
		{"span turned round", schedule.Spec{Cron: "* * * * * *"}, "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "", 0},
		{"ten years of seconds", schedule.Spec{Cron: "* * * * * *", Timezone: "Europe/Berlin"}, "2016-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", (3650 + 3) * 86400},
		{"years of days, with a gap and an overlap each", schedule.Spec{Cron: "30 2 * * *", Timezone: "Europe/Berlin"}, "2016-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2025-12-31T01:30:00Z", 3653},
		{"leap days", schedule.Spec{Cron: "0 0 29 2 *"}, "1896-02-29T00:00:00Z", "2026-01-01T00:00:00Z", "2024-02-29T00:00:00Z", 31},
		{"all of time", schedule.Spec{Cron: "@yearly"}, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-01-01T00:00:00Z", 9998},
		{"never", schedule.Spec{Cron: "0 0 30 2 *"}, "1896-02-29T00:00:00Z", "2026-01-01T00:00:00Z", "", 0},
		{"interval", schedule.Spec{IntervalSeconds: 60}, "2026-01-01T00:00:00Z", "2026-01-01T00:10:59Z", "2026-01-01T00:10:00Z", 10},
		{"interval, from before its anchor", schedule.Spec{IntervalSeconds: 60}, "2000-01-01T00:00:00Z", "2026-01-01T00:10:59Z", "2026-01-01T00:10:00Z", 10},
		{"interval, before its first", schedule.Spec{IntervalSeconds: 60}, "2000-01-01T00:00:00Z", "2026-01-01T00:00:59Z", "", 0},
		{"interval, none between", schedule.Spec{IntervalSeconds: 60}, "2026-01-01T00:05:00Z", "2026-01-01T00:05:59Z", "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, n, ok := compile(t, tc.spec).Last(at(t, tc.after), at(t, tc.until))
			if n != tc.count || ok != (tc.want != "") || ok && !got.Equal(at(t, tc.want)) {
				t.Errorf("got %v, %d, %v; want %s, %d", got, n, ok, tc.want, tc.count)
			}
		})
	}
}

// TestProperties holds for every schedule, whatever it is: Next moves forward and
// gives UTC, Last counts what Next enumerates, Upcoming says what Next says.
func TestProperties(t *testing.T) {
	zones := []string{"UTC", "America/New_York", "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Troll", "Africa/Casablanca"}
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 300 {
		expr, _ := randomExpression(r, r.IntN(24))
		spec := schedule.Spec{Cron: expr, Timezone: zones[i%len(zones)], DST: &schedule.DST{
			Gap:     []string{"run_after", "skip"}[r.IntN(2)],
			Overlap: []string{"once", "twice"}[r.IntN(2)],
		}}
		if i%10 == 0 {
			spec = schedule.Spec{IntervalSeconds: 1 + r.Int64N(1e6)}
		}
		checkProperties(t, spec, time.Unix(r.Int64N(4e9), r.Int64N(1e9)))
	}
}

func checkProperties(t *testing.T, spec schedule.Spec, after time.Time) {
	t.Helper()
	s := compile(t, spec)
	name := fmt.Sprintf("%+v %v after %v", spec, spec.DST, after)
	upcoming := s.Upcoming(after, 40)
	previous := after
	for i, o := range upcoming {
		next, ok := s.Next(previous)
		if !ok || next != o.At {
			t.Fatalf("%s: Next says %v, %v; Upcoming %v", name, next, ok, o.At)
		}
		if !next.After(previous) || next.Nanosecond() != 0 || next.Location() != time.UTC {
			t.Fatalf("%s: Next(%v) = %v", name, previous, next)
		}
		if same, _ := s.Next(next.Add(-1)); same != next {
			t.Fatalf("%s: asked just before %v, Next says %v", name, next, same)
		}
		last, n, ok := s.Last(after, next)
		if !ok || last != next || n != int64(i+1) {
			t.Fatalf("%s: Last until %v says %v, %d, %v; want %d", name, next, last, n, ok, i+1)
		}
		if last, n, ok := s.Last(previous, next.Add(-1)); ok || n != 0 {
			t.Fatalf("%s: Last finds %v, %d between %v and %v", name, last, n, previous, next)
		}
		previous = next
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	for _, bm := range benchmarkSpecs {
		s := compile(t, bm.spec)
		after := anchor
		if n := testing.AllocsPerRun(100, func() { s.Next(after) }); n != 0 {
			t.Errorf("%s: Next allocates %v times", bm.name, n)
		}
	}
}
