package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

// The oracle walks through real time second by second, looks at the local clock as
// the standard library shows it, and decides by the rules in the words of doc.go.
// It shares nothing with the package: it never sees an expression, only the sets of
// values that the generator made the expression from.

// walk is what the local clock shows during some days of real time.
type walk struct {
	zone    string
	start   int64   // unix time of shows[0]
	shows   []local // one for each second
	compare int64   // unix time from which on answers are compared; before it the walk only warms up
}

type local struct {
	serial                                 int64 // order on the calendar: seconds since 1970 as though in UTC
	month, day, weekday, hour, minute, sec int8
}

func localAt(t time.Time) local {
	y, mo, d := t.Date()
	h, m, s := t.Clock()
	return local{
		time.Date(y, mo, d, h, m, s, 0, time.UTC).Unix(),
		int8(mo), int8(d), int8(t.Weekday()), int8(h), int8(m), int8(s),
	}
}

func newWalk(t *testing.T, name string, from time.Time, days int) walk {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	w := walk{zone: name, start: from.Unix(), compare: from.AddDate(0, 0, 2).Unix()}
	for i := range days * 86400 {
		w.shows = append(w.shows, localAt(time.Unix(w.start+int64(i), 0).In(loc)))
	}
	return w
}

// changes reports whether the clock jumps during the time that is compared.
func (w walk) changes() bool {
	for i := int(w.compare - w.start); i < len(w.shows); i++ {
		if w.shows[i].serial != w.shows[i-1].serial+1 {
			return true
		}
	}
	return false
}

// sets are the values of the six fields, by index second, minute, hour,
// day of month, month, weekday.
type sets struct {
	values [6][60]bool
	star   [6]bool // the field is written with a star in front
}

func (s *sets) matches(l local) bool {
	if !s.values[0][l.sec] || !s.values[1][l.minute] || !s.values[2][l.hour] || !s.values[4][l.month] {
		return false
	}
	if s.star[3] || s.star[5] {
		return s.values[3][l.day] && s.values[5][l.weekday]
	}
	return s.values[3][l.day] || s.values[5][l.weekday]
}

// matching says for each second of the walk whether the clock shows a time of s.
func (w walk) matching(s *sets) []bool {
	out := make([]bool, len(w.shows))
	for i, l := range w.shows {
		out[i] = s.matches(l)
	}
	return out
}

// fires lists the fire times from w.compare to the end of the walk.
func (w walk) fires(s *sets, matching []bool, dst schedule.DST) []int64 {
	var out []int64
	reached := w.shows[0].serial - 1 // the latest local time shown so far
	for i, l := range w.shows {
		fire := matching[i]
		if !s.star[2] {
			if l.serial <= reached && dst.Overlap != "twice" {
				fire = false
			}
			if dst.Gap != "skip" {
				for lost := reached + 1; lost < l.serial && !fire; lost++ {
					fire = s.matches(localAt(time.Unix(lost, 0).UTC()))
				}
			}
		}
		reached = max(reached, l.serial)
		if unix := w.start + int64(i); fire && unix >= w.compare {
			out = append(out, unix)
		}
	}
	return out
}

var bounds = [6][2]int{{0, 59}, {0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}}

// randomExpression makes an expression and the sets that it means. The hours are
// drawn near hour, where something happens, more often than not.
func randomExpression(r *rand.Rand, hour int) (string, *sets) {
	var s sets
	var words []string
	for f := range 6 {
		words = append(words, randomField(r, f, hour, &s))
	}
	if words[0] == "0" && r.IntN(2) == 0 {
		words = words[1:]
	}
	return strings.Join(words, " "), &s
}

func randomField(r *rand.Rand, f, hour int, s *sets) string {
	low, high := bounds[f][0], bounds[f][1]
	set := func(from, to, step int) {
		for v := from; v <= to; v += step {
			s.values[f][v] = true
		}
	}
	dice := r.IntN(10)
	switch {
	case f == 0 && dice < 6: // most expressions run on the full minute
		set(0, 0, 1)
		return "0"
	case f >= 3 && dice < 6:
		s.star[f] = true
		set(low, high, 1)
		return []string{"*", "?"}[r.IntN(2)]
	case f < 3 && dice < 2:
		s.star[f] = true
		set(low, high, 1)
		return "*"
	case dice == 2 || dice == 6:
		step := 2 + r.IntN((high-low)/2)
		s.star[f] = true
		set(low, high, step)
		return "*/" + strconv.Itoa(step)
	case dice == 7:
		from := low + r.IntN(high-low-1)
		to := from + 2 + r.IntN(high-from-1)
		set(from, to, 2)
		return fmt.Sprintf("%d-%d/2", from, to)
	}
	var list []string
	for range 1 + r.IntN(3) {
		v := low + r.IntN(high-low+1)
		switch {
		case f == 2 && r.IntN(3) > 0:
			v = (hour + r.IntN(4) + 22) % 24
		case f == 1 && r.IntN(2) == 0:
			v = r.IntN(4) * 15
		}
		set(v, v, 1)
		text := strconv.Itoa(v)
		switch {
		case f == 5 && v == 0 && r.IntN(2) == 0:
			text = "7"
		case f == 5 && r.IntN(2) == 0:
			text = time.Weekday(v).String()[:3]
		case f == 4 && r.IntN(2) == 0:
			text = strings.ToUpper(time.Month(v).String()[:3])
		}
		list = append(list, text)
	}
	return strings.Join(list, ",")
}

var oracleTransitions = []struct {
	zone string
	at   string // the UTC instant of a change, or nearly
}{
	{"America/New_York", "2026-03-08T07:00:00Z"},
	{"America/New_York", "2026-11-01T06:00:00Z"},
	{"America/New_York", "1883-11-18T17:00:00Z"}, // local mean time ends: 3 min 58 s back
	{"Europe/Berlin", "2026-03-29T01:00:00Z"},
	{"Europe/Berlin", "2026-10-25T01:00:00Z"},
	{"Europe/Berlin", "1945-05-24T00:00:00Z"}, // double summer time begins
	{"Europe/Berlin", "2150-03-29T01:00:00Z"}, // by the rule, beyond the table
	{"Europe/Amsterdam", "1937-05-21T22:00:00Z"},
	{"Europe/Dublin", "2026-03-29T01:00:00Z"}, // negative daylight saving
	{"Africa/Cairo", "2026-04-23T22:00:00Z"},  // midnight does not exist
	{"Africa/Cairo", "2026-10-29T21:00:00Z"},  // 23:00 to midnight comes twice
	{"Africa/Casablanca", "2026-02-15T02:00:00Z"},
	{"Africa/Monrovia", "1972-01-07T00:44:30Z"}, // 44 min 30 s forward
	{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
	{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"},
	{"Pacific/Apia", "2011-12-30T10:00:00Z"},      // a day left out
	{"Pacific/Kwajalein", "1969-10-01T00:00:00Z"}, // a day repeated
	{"America/Metlakatla", "1867-10-19T00:00:00Z"},
	{"Asia/Manila", "1844-12-31T00:00:00Z"},
	{"Antarctica/Troll", "2026-03-29T01:00:00Z"}, // two hours
	{"Antarctica/Troll", "2026-10-25T01:00:00Z"},
	{"Asia/Kathmandu", "1985-12-31T18:30:00Z"}, // 15 minutes forward at midnight
	{"Asia/Pyongyang", "2018-05-04T15:00:00Z"},
	{"America/Caracas", "2016-05-01T07:00:00Z"},
	{"America/St_Johns", "2006-10-29T02:31:00Z"}, // one minute past midnight
	{"America/Havana", "2026-03-08T05:00:00Z"},
	{"America/Sao_Paulo", "2018-11-04T03:00:00Z"},
	{"Asia/Gaza", "2026-03-28T00:00:00Z"},
	{"Asia/Tehran", "2022-03-21T20:30:00Z"},
	{"Pacific/Chatham", "2026-09-26T14:00:00Z"},
}

// quietTimes are times without a change at which a mistake would be easy.
var quietTimes = []struct{ zone, at string }{
	{"UTC", "2024-02-28T00:00:00Z"},
	{"Europe/Berlin", "2052-12-31T00:00:00Z"}, // the end of a leap year, where a rule holds
	{"America/New_York", "2096-12-31T00:00:00Z"},
	{"Asia/Kolkata", "2027-06-30T00:00:00Z"},
	{"Europe/Berlin", "2099-12-31T00:00:00Z"},
	{"America/New_York", "2104-12-31T00:00:00Z"},
}

func TestAgainstOracle(t *testing.T) {
	for _, tr := range oracleTransitions {
		againstOracle(t, tr.zone, tr.at, true)
	}
	for _, q := range quietTimes {
		againstOracle(t, q.zone, q.at, false)
	}
}

func againstOracle(t *testing.T, zone, when string, changes bool) {
	t.Run(zone+"/"+when[:10], func(t *testing.T) {
		t.Parallel()
		moment := at(t, when)
		w := newWalk(t, zone, moment.AddDate(0, 0, -3), 5)
		if w.changes() != changes {
			t.Fatalf("a change of the clocks within the walk: %v, want %v", !changes, changes)
		}
		r := rand.New(rand.NewPCG(uint64(moment.Unix()), 1))
		hour := int(w.shows[3*86400].hour)
		total := 0
		for range 12 {
			expr, s := randomExpression(r, hour)
			matching := w.matching(s)
			for _, gap := range []string{"run_after", "skip"} {
				for _, overlap := range []string{"once", "twice"} {
					dst := schedule.DST{Gap: gap, Overlap: overlap}
					total += compare(t, r, w, expr, w.fires(s, matching, dst), dst)
				}
			}
		}
		if total == 0 {
			t.Error("no expression ever fired: nothing was compared")
		}
	})
}

// compare checks one expression over a walk and returns how often it fired.
func compare(t *testing.T, r *rand.Rand, w walk, expr string, want []int64, dst schedule.DST) int {
	t.Helper()
	c, err := schedule.Compile(schedule.Spec{Cron: expr, Timezone: w.zone, DST: &dst}, time.Time{})
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	end := w.start + int64(len(w.shows)) - 1

	var got []int64
	for at := time.Unix(w.compare-1, 0); len(got) <= len(want); {
		next, ok := c.Next(at)
		if !ok || next.Unix() > end {
			break
		}
		got = append(got, next.Unix())
		at = next
	}
	if i := firstDifference(got, want); i >= 0 {
		t.Errorf("%q in %s, gap %s, overlap %s: fire time %d is %s, want %s", expr, w.zone, dst.Gap, dst.Overlap,
			i, describe(got, i), describe(want, i))
		return len(want)
	}

	for range 40 {
		after := w.compare - 1 + r.Int64N(end-w.compare)
		until := after + r.Int64N(end-after+1)
		i, _ := slices.BinarySearch(want, after+1)
		j, _ := slices.BinarySearch(want, until+1)

		next, ok := c.Next(time.Unix(after, r.Int64N(1e9)))
		if i < len(want) && (!ok || next.Unix() != want[i]) {
			t.Errorf("%q in %s, %+v: Next(%d) = %v, want %s", expr, w.zone, dst, after, next, describe(want, i))
		}
		last, n, ok := c.Last(time.Unix(after, r.Int64N(1e9)), time.Unix(until, r.Int64N(1e9)))
		if n != int64(j-i) || ok != (j > i) || ok && last.Unix() != want[j-1] {
			t.Errorf("%q in %s, %+v: Last(%d, %d) = %v, %d, %v; want %s, %d", expr, w.zone, dst, after, until,
				last, n, ok, describe(want, j-1), j-i)
		}
	}
	return len(want)
}

func firstDifference(a, b []int64) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

func describe(times []int64, i int) string {
	if i < 0 || i >= len(times) {
		return "none"
	}
	return time.Unix(times[i], 0).UTC().Format(time.RFC3339)
}
