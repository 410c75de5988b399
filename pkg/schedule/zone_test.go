package schedule

import (
	"testing"
	"time"
)

// TestChangesInQuickSuccession uses a zone that no government has thought of yet:
// three changes within a day.
func TestChangesInQuickSuccession(t *testing.T) {
	const hour = 3600
	z := &zone{loc: time.UTC, table: []segment{
		{start: -forever, end: 10 * hour, offset: 2 * hour},  // until 12:00
		{start: 10 * hour, end: 11 * hour, offset: 0},        // 10:00 to 11:00, seen before
		{start: 11 * hour, end: 12 * hour, offset: -hour},    // 10:00 to 11:00 again
		{start: 12 * hour, end: forever, offset: 1*hour + 1}, // from 13:00:01: 12:00 to 13:00:00 are lost
	}}
	for i, want := range []int64{-forever, 12 * hour, 12 * hour, 12 * hour} {
		if got := z.reached(z.table[i]); got != want {
			t.Errorf("before segment %d the clock had reached %d, want %d", i, got, want)
		}
	}

	cal, err := parseCron("30 10,12 * * *")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name         string
		every, after bool
		want         []int64
	}{
		{"once, made up", false, true, []int64{8*hour + 1800, 12 * hour}},
		{"once, dropped", false, false, []int64{8*hour + 1800}},
		{"each time", true, false, []int64{8*hour + 1800, 10*hour + 1800, 11*hour + 1800}},
	} {
		s := &Schedule{typ: Cron, cal: cal, zone: z, every: tc.every, after: tc.after}
		from := int64(0)
		for _, want := range tc.want {
			got, ok := s.nextUnix(from)
			if !ok || got != want {
				t.Errorf("%s: after %d comes %d, want %d", tc.name, from, got, want)
			}
			from = got + 1
		}
		last, n := s.lastCron(0, 13*hour)
		if n != int64(len(tc.want)) || last != tc.want[n-1] {
			t.Errorf("%s: the last of %d is %d, want %v", tc.name, n, last, tc.want)
		}
	}
}

// TestTable compares the table of each zone with the standard library, at the
// edges of the segments and in their midst.
func TestTable(t *testing.T) {
	for _, name := range []string{"America/New_York", "Africa/Casablanca", "Antarctica/Troll", "Asia/Kolkata", "Pacific/Apia", "Europe/Dublin"} {
		z, err := loadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, seg := range z.table {
			for _, unix := range []int64{max(seg.start, z.table[0].start), seg.start/2 + seg.end/2, seg.end - 1} {
				_, want := time.Unix(unix, 0).In(z.loc).Zone()
				if got := z.at(unix); got != seg || int64(want) != seg.offset {
					t.Errorf("%s: at %d %+v, want %+v with offset %d", name, unix, got, seg, want)
				}
			}
			if i > 0 && seg.start != z.table[i-1].end {
				t.Errorf("%s: the table has a hole before %+v", name, seg)
			}
		}
	}
}
