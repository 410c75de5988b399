package schedule_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

func ExampleCanonical() {
	var spec schedule.Spec
	if err := json.Unmarshal([]byte(`{"cron": "CRON_TZ=Europe/Berlin 0 19 * * MON-FRI"}`), &spec); err != nil {
		fmt.Println(err)
		return
	}
	full, err := schedule.Canonical(spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _ := json.Marshal(full)
	fmt.Println(string(text))
	// Output:
	// {"type":"cron","expression":"0 19 * * MON-FRI","timezone":"Europe/Berlin","dst":{"gap":"run_after","overlap":"once"}}
}

func ExampleFieldError() {
	_, err := schedule.Canonical(schedule.Spec{Cron: "60 19 * * *", Timezone: "Europe/Bonn"})
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var field *schedule.FieldError
			if errors.As(e, &field) {
				fmt.Printf("%s %s\n", field.Field, field.Message)
			}
		}
	}
	// Output:
	// timezone "Europe/Bonn" is not a known time zone; use an IANA name such as Europe/Berlin or UTC
	// cron minute field "60": end of range (60) above maximum (59): "60"
}

func ExampleSchedule_Next() {
	created := time.Date(2026, 5, 1, 10, 0, 30, 0, time.UTC)
	s, err := schedule.Compile(schedule.Spec{IntervalSeconds: 3600}, created)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Next(created))
	fmt.Println(s.Next(created.Add(100 * time.Hour)))
	// Output:
	// 2026-05-01 11:00:30 +0000 UTC true
	// 2026-05-05 15:00:30 +0000 UTC true
}

func ExampleSchedule_Last() {
	s, err := schedule.Compile(schedule.Spec{Cron: "*/15 * * * *"}, time.Time{})
	if err != nil {
		fmt.Println(err)
		return
	}
	stopped := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	back := time.Date(2026, 5, 1, 12, 50, 0, 0, time.UTC)
	last, missed, _ := s.Last(stopped, back)
	fmt.Println(missed, "missed, the latest at", last.Format(time.TimeOnly))
	// Output:
	// 11 missed, the latest at 12:45:00
}

func ExampleSchedule_Upcoming() {
	s, err := schedule.Compile(schedule.Spec{Cron: "30 2 * * *", Timezone: "Europe/Berlin"}, time.Time{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, o := range s.Upcoming(time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC), 3) {
		fmt.Printf("%s %q\n", o.At.In(s.Location()).Format("Jan _2 15:04 MST"), o.Note)
	}
	// Output:
	// Mar 28 02:30 CET ""
	// Mar 29 03:00 CEST "02:30 does not exist on this day in Europe/Berlin (clocks go forward); runs right after the gap"
	// Mar 30 02:30 CEST ""
}
