package schedule_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

// FuzzCanonical decodes any JSON: it is refused field by field, or its canonical
// form is stable, survives JSON and compiles.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		`{"cron":"0 19 * * *"}`,
		`{"interval_seconds":60,"start":"2026-01-01T00:00:00.5+02:00"}`,
		`{"type":"cron","expression":"CRON_TZ=Asia/Tokyo */5 1-7/2,9 ? JAN MON-sun","dst":{"gap":"skip"}}`,
		`{"type":"once","run_at":"2026-01-01T00:00:00Z"}`,
		`{"type":"manual"}`,
		`{"cron":"@every 1h"}`,
		`{"cron":"@daily","timezone":"Europe/Berlin","dst":{"overlap":"twice"}}`,
		`{"cron":"TZ= * * * *","interval_seconds":-1}`,
		`{"run_at":"0000-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var spec schedule.Spec
		if json.Unmarshal(text, &spec) != nil {
			return
		}
		canonical, err := schedule.Canonical(spec)
		if err != nil {
			var fe *schedule.FieldError
			if !errors.As(err, &fe) || fe.Field == "" || fe.Message == "" {
				t.Fatalf("refused with %#v", err)
			}
			if _, err := schedule.Compile(spec, anchor); err == nil {
				t.Fatal("compiled although it has no canonical form")
			}
			return
		}
		again, err := schedule.Canonical(canonical)
		if err != nil || !reflect.DeepEqual(again, canonical) {
			t.Fatalf("the canonical form of %+v is %+v (%v)", canonical, again, err)
		}
		encoded, err := json.Marshal(canonical)
		if err != nil {
			t.Fatal(err)
		}
		var decoded schedule.Spec
		if err := json.Unmarshal(encoded, &decoded); err != nil || !reflect.DeepEqual(decoded, canonical) {
			t.Fatalf("%s is read as %+v (%v), want %+v", encoded, decoded, err, canonical)
		}
		if _, err := schedule.Compile(canonical, anchor); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzNext holds the properties of every schedule against any expression, zone and time.
func FuzzNext(f *testing.F) {
	f.Add("30 2 * * *", "Europe/Berlin", true, true, int64(1774700000))
	f.Add("*/7 0-3 29 2 */2", "Africa/Cairo", false, true, int64(2619216000)) // the end of a leap year
	f.Add("0 12 30 12 *", "Pacific/Apia", false, false, int64(1325152800))
	f.Add("* * * * * *", "Asia/Manila", true, false, int64(-3944621000))
	f.Add("@every 17s", "", false, false, int64(0))
	f.Add("0 0 30 2 *", "UTC", false, false, int64(253402300799))
	f.Fuzz(func(t *testing.T, expr, zone string, skip, twice bool, after int64) {
		spec := schedule.Spec{Cron: expr, Timezone: zone, DST: &schedule.DST{}}
		if skip {
			spec.DST.Gap = schedule.GapSkip
		}
		if twice {
			spec.DST.Overlap = schedule.OverlapTwice
		}
		if _, err := schedule.Canonical(spec); err != nil {
			spec.Timezone, spec.DST = "", nil // perhaps an interval
			if _, err := schedule.Canonical(spec); err != nil {
				return
			}
		}
		checkProperties(t, spec, time.Unix(after%(1<<38), 0)) // some 8,700 years either way
	})
}
