package schedule_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

func TestCanonical(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{
			"cron, full",
			`{"type":"cron","expression":"0 19 * * *","timezone":"Europe/Berlin","dst":{"gap":"skip","overlap":"twice"}}`,
			`{"type":"cron","expression":"0 19 * * *","timezone":"Europe/Berlin","dst":{"gap":"skip","overlap":"twice"}}`,
		},
		{
			"cron, short",
			`{"cron":"0 19 * * *"}`,
			`{"type":"cron","expression":"0 19 * * *","timezone":"UTC","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{
			"short with its type",
			`{"type":"cron","cron":"@daily"}`,
			`{"type":"cron","expression":"@daily","timezone":"UTC","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{
			"expression alone",
			`{"expression":"0 0 * * MON-fri"}`,
			`{"type":"cron","expression":"0 0 * * MON-fri","timezone":"UTC","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{
			"one word of dst",
			`{"cron":"0 0 * * *","dst":{"overlap":"twice"}}`,
			`{"type":"cron","expression":"0 0 * * *","timezone":"UTC","dst":{"gap":"run_after","overlap":"twice"}}`,
		},
		{
			"zone in front",
			`{"cron":"CRON_TZ=Asia/Tokyo 0 6 * * ?"}`,
			`{"type":"cron","expression":"0 6 * * ?","timezone":"Asia/Tokyo","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{
			"zone in front and beside, the same",
			`{"cron":"TZ=Asia/Tokyo @Hourly","timezone":"Asia/Tokyo"}`,
			`{"type":"cron","expression":"@Hourly","timezone":"Asia/Tokyo","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{
			"spaces",
			`{"cron":"  0   19\t* * *\n"}`,
			`{"type":"cron","expression":"0 19 * * *","timezone":"UTC","dst":{"gap":"run_after","overlap":"once"}}`,
		},
		{"interval, short", `{"interval_seconds":60}`, `{"type":"interval","interval_seconds":60}`},
		{"interval, longest", `{"interval_seconds":315360000}`, `{"type":"interval","interval_seconds":315360000}`},
		{"every", `{"cron":"@every 1h30m"}`, `{"type":"interval","interval_seconds":5400}`},
		{"every, as expression of type cron", `{"type":"cron","expression":"@every 90s"}`, `{"type":"interval","interval_seconds":90}`},
		{
			"interval with start",
			`{"interval_seconds":60,"start":"2026-01-01T01:00:00.9+01:00"}`,
			`{"type":"interval","interval_seconds":60,"start":"2026-01-01T00:00:00Z"}`,
		},
		{"once", `{"run_at":"2026-01-01T00:00:00.5Z"}`, `{"type":"once","run_at":"2026-01-01T00:00:00Z"}`},
		{"manual", `{"type":"manual"}`, `{"type":"manual"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := schedule.Canonical(decode(t, tc.in))
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if string(text) != tc.want {
				t.Errorf("got  %s\nwant %s", text, tc.want)
			}
			again, err := schedule.Canonical(got)
			if err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("the canonical form of %+v is %+v (%v)", got, again, err)
			}
		})
	}
}

func TestCanonicalSharesNothing(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	in := schedule.Spec{Type: schedule.Once, RunAt: &at}
	out, err := schedule.Canonical(in)
	if err != nil {
		t.Fatal(err)
	}
	*out.RunAt = out.RunAt.Add(time.Hour)
	if at.Hour() != 0 {
		t.Error("changing the canonical spec changed the given one")
	}
}

func decode(t *testing.T, text string) schedule.Spec {
	t.Helper()
	var spec schedule.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string // for each field at fault its name and a part of the message
	}{
		{"nothing", `{}`, []string{"type: is required"}},
		{"unknown type", `{"type":"Cron","expression":"* * * * *"}`, []string{`type: "Cron" is not known`}},
		{"cron and interval", `{"cron":"* * * * *","interval_seconds":60}`, []string{"interval_seconds: cannot be combined"}},
		{"expression and interval", `{"type":"interval","expression":"* * * * *","interval_seconds":60}`, []string{"interval_seconds: cannot be combined"}},
		{"cron and expression", `{"cron":"* * * * *","expression":"* * * * *"}`, []string{"cron: is short for expression"}},
		{"cron without expression", `{"type":"cron"}`, []string{"expression: is required"}},
		{"zone without expression", `{"cron":"TZ=UTC"}`, []string{"cron: is required"}},
		{"empty zone in front", `{"cron":"TZ= * * * * *"}`, []string{"cron: has no time zone after TZ="}},
		{"expression with interval type", `{"type":"interval","interval_seconds":0,"expression":"@every 5m"}`, []string{"interval_seconds: is required", "expression: belongs to schedules of type cron; this one is of type interval"}},
		{"cron with once type", `{"type":"once","cron":"* * * * *","run_at":"2026-01-01T00:00:00Z"}`, []string{"cron: belongs to"}},
		{"too long", `{"cron":"` + strings.Repeat("1,", 127) + `1 * * * *"}`, []string{"cron: is 263 bytes long; at most 256"}},
		{"zones differ", `{"cron":"TZ=Asia/Tokyo * * * * *","timezone":"UTC"}`, []string{`timezone: is "UTC" but the expression says "TZ=Asia/Tokyo"`}},
		{"unknown zone", `{"cron":"* * * * *","timezone":"Europe/Bonn"}`, []string{`timezone: "Europe/Bonn" is not a known time zone`}},
		{"lower-case zone", `{"cron":"* * * * *","timezone":"europe/berlin"}`, []string{"timezone: "}},
		{"zone of the machine", `{"cron":"* * * * *","timezone":"Local"}`, []string{`timezone: "Local"`}},
		{"zone file of the machine", `{"cron":"* * * * *","timezone":"localtime"}`, []string{`timezone: "localtime"`}},
		{"zone with leap seconds", `{"cron":"* * * * *","timezone":"right/UTC"}`, []string{"timezone: "}},
		{"path as zone", `{"cron":"* * * * *","timezone":"../../etc/passwd"}`, []string{"timezone: "}},
		{"detour as zone", `{"cron":"* * * * *","timezone":"Europe//Berlin"}`, []string{"timezone: "}},
		{"directory as zone", `{"cron":"* * * * *","timezone":"America"}`, []string{"timezone: "}},
		{"endless zone", `{"cron":"* * * * *","timezone":"` + strings.Repeat("a", 1000) + `"}`, []string{"timezone: "}},
		{"gap word", `{"cron":"* * * * *","dst":{"gap":"run"}}`, []string{`dst.gap: "run" is not known; use run_after or skip`}},
		{"overlap word", `{"cron":"* * * * *","dst":{"overlap":"thrice"}}`, []string{`dst.overlap: "thrice" is not known; use once or twice`}},
		{"interval without seconds", `{"type":"interval"}`, []string{"interval_seconds: is required for a schedule of type interval, for example 3600"}},
		{"interval below zero", `{"interval_seconds":-60}`, []string{"interval_seconds: must be from 1"}},
		{"interval too long", `{"interval_seconds":315360001}`, []string{"interval_seconds: must be from 1"}},
		{"interval with a zone", `{"interval_seconds":60,"timezone":"UTC"}`, []string{"timezone: belongs to schedules of type cron; this one is of type interval"}},
		{"every without duration", `{"cron":"@every"}`, []string{"cron: needs a duration"}},
		{"every of odd length", `{"cron":"@every 1500ms"}`, []string{"cron: needs a duration of whole seconds"}},
		{"every of nothing", `{"expression":"@every 0s"}`, []string{"expression: must ask for 1s"}},
		{"every, backwards", `{"expression":"@every -5s"}`, []string{"expression: must ask for 1s"}},
		{"every with a zone", `{"cron":"TZ=Asia/Tokyo @every 5s"}`, []string{"timezone: belongs to"}},
		{"start of a cron", `{"cron":"* * * * *","start":"2026-01-01T00:00:00Z"}`, []string{"start: belongs to schedules of type interval"}},
		{"once without time", `{"type":"once"}`, []string{"run_at: is required"}},
		{"time before all", `{"run_at":"0001-01-01T00:00:00Z"}`, []string{"run_at: must lie between"}},
		{"time after all", `{"run_at":"9999-12-31T23:00:00-02:00"}`, []string{"run_at: must lie between"}},
		{"manual with everything", `{"type":"manual","interval_seconds":5,"run_at":"2026-01-01T00:00:00Z","dst":{}}`, []string{"dst: belongs", "interval_seconds: belongs", "run_at: belongs"}},
		{"several", `{"cron":"* * *","timezone":"X","dst":{"gap":"a","overlap":"b"}}`, []string{"timezone: ", "cron: has 3 fields", "dst.gap: ", "dst.overlap: "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := schedule.Canonical(decode(t, tc.in))
			got := fieldErrors(t, err)
			slices.Sort(got)
			slices.Sort(tc.want)
			if len(got) != len(tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tc.want[i]) {
					t.Errorf("got %q, want it to begin with %q", got[i], tc.want[i])
				}
			}
			if _, compiled := schedule.Compile(decode(t, tc.in), time.Time{}); compiled == nil || compiled.Error() != err.Error() {
				t.Errorf("Compile says %v, Canonical %v", compiled, err)
			}
		})
	}
}

// fieldErrors takes a refusal apart as a caller does that reports each field.
func fieldErrors(t *testing.T, err error) []string {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v (%T) is not a join of errors", err, err)
	}
	var out []string
	for _, e := range joined.Unwrap() {
		var fe *schedule.FieldError
		if !errors.As(e, &fe) {
			t.Fatalf("%v (%T) is not a field error", e, e)
		}
		out = append(out, fe.Error())
	}
	return out
}

func TestBadExpressions(t *testing.T) {
	for _, tc := range []struct{ expr, want string }{
		{"* * * *", "has 4 fields; write 5"},
		{"* * * * * * *", "has 7 fields"},
		{"60 * * * *", `minute field "60": `},
		{"* 24 * * *", `hour field "24": `},
		{"* * 0 * *", `day-of-month field "0": `},
		{"* * 32 * *", `day-of-month field "32": `},
		{"* * * 13 *", `month field "13": `},
		{"* * * 0 *", `month field "0": `},
		{"* * * * 8", `weekday field "8": `},
		{"60 * * * * *", `second field "60": `},
		{"61 25 * * *", `minute field "61": end of range (61) above maximum (59): "61"; hour field "25": `},
		{"0 0 31-1 * *", `day-of-month field "31-1": the range "31-1" runs backwards; split it in two`},
		{"0 22-2 * * *", "runs backwards"},
		{"0 0 * * SAT-MON", "runs backwards"},
		{"0 0 * * 6-0", "runs backwards"},
		{"0 0 * NOV-FEB *", "runs backwards"},
		{"*/0 * * * *", "step"},
		{"*/60 * * * *", "step (60) must be less than range size (60)"},
		{"*/100000 * * * *", "is not a value"},
		{"-1 * * * *", `"-1" is not a value`},
		{"+1 * * * *", `"+1" is not a value`},
		{"1,,2 * * * *", `"" is not a value`},
		{", * * * *", `"" is not a value`},
		{"1, * * * *", `"" is not a value`},
		{"*-5 * * * *", `"*-5" is not a value`},
		{"1-2-3 * * * *", "is not a value"},
		{"1/2/3 * * * *", "is not a value"},
		{"1- * * * *", "is not a value"},
		{"1/ * * * *", "is not a value"},
		{"5.5 * * * *", "is not a value"},
		{"٣ * * * *", "is not a value"},
		{"JAN * * * *", `"jan" is not a number`},
		{"0 0 * MON *", `"mon" is neither a number nor a name such as JAN`},
		{"0 0 * * FOO", `"foo" is neither a number nor a name such as SUN`},
		{"0 0 * * UNM", `"unm" is neither`},
		{"0 0 * * MON-FOO", `"foo" is neither`},
		{"0 0 * * MONDAY", "is not a value"},
		{"H H * * *", `"h" is not a value`},
		{"0 0 L * *", `"l" is not a value`},
		{"0 0 15W * *", "is not a value"},
		{"0 0 * * FRI#2", "is not a value"},
		{"@reboot", `"@reboot" is not known; use @hourly`},
		{"@daily 5", "is not known"},
		{"@", "is not known"},
		{"\x00 * * * *", "is not a value"},
	} {
		t.Run(tc.expr, func(t *testing.T) {
			_, err := schedule.Canonical(schedule.Spec{Expression: tc.expr})
			var fe *schedule.FieldError
			if !errors.As(err, &fe) || fe.Field != "expression" || !strings.Contains(fe.Message, tc.want) {
				t.Errorf("got %v, want the expression refused with %q", err, tc.want)
			}
		})
	}
}

// TestEqualExpressions checks the parser: both columns mean the same days and times.
func TestEqualExpressions(t *testing.T) {
	for _, tc := range []struct{ a, b string }{
		{"0 0 * * 7", "0 0 * * 0"},
		{"0 0 * * 7", "0 0 * * SUN"},
		{"0 0 * * 5-7", "0 0 * * 0,5,6"},
		{"0 0 * * FRI-SUN", "0 0 * * 0,5,6"},
		{"0 0 * * fri-sun/2", "0 0 * * 0,5"},
		{"0 0 * * SUN-SAT", "0 0 * * 0-6"},
		{"0 0 * * sun-sun", "0 0 * * 0"},
		{"0 0 * * 0-7", "0 0 * * 0-6"},
		{"0 0 * * 1-7/2", "0 0 * * 0,1,3,5"},
		{"0 0 * * 5/2", "0 0 * * 0,5"},
		{"0 0 1 * THU", "0 0 1 * 4"},
		{"0 0 ? * ?", "0 0 * * *"},
		{"? ? * * *", "* * * * *"},
		{"0 0 1 ? *", "0 0 1 * *"},
		{"30 0 0 1 1 *", "30 00 00 01 01 *"},
		{"0 1 2 3 4 *", "1 2 3 4 *"},
		{"5/15 * * * *", "5,20,35,50 * * * *"},
		{"10-40/10 * * * *", "10,20,30,40 * * * *"},
		{"1-5,10,20-30/5 3 * * *", "1,2,3,4,5,10,20,25,30 3 * * *"},
		{"0 */6 * * *", "0 0,6,12,18 * * *"},
		{"0 0 1 JAN,mar *", "0 0 1 1,3 *"},
		{"0 0 1 jan-Mar *", "0 0 1 1-3 *"},
		{"@hourly", "0 * * * *"},
		{"@daily", "0 0 * * *"},
		{"@midnight", "0 0 * * *"},
		{"@weekly", "0 0 * * 0"},
		{"@MONTHLY", "0 0 1 * *"},
		{"@yearly", "0 0 1 1 *"},
		{"@annually", "0 0 1 1 *"},
	} {
		t.Run(tc.a, func(t *testing.T) {
			after := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
			a, b := compile(t, schedule.Spec{Cron: tc.a}), compile(t, schedule.Spec{Cron: tc.b})
			if got, want := a.Upcoming(after, 100), b.Upcoming(after, 100); !slices.Equal(got, want) {
				t.Errorf("%q and %q differ:\n%v\n%v", tc.a, tc.b, got, want)
			}
		})
	}
}
