package schedule_test

import (
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/schedule"
)

var benchmarkSpecs = []struct {
	name string
	spec schedule.Spec
}{
	{"interval", schedule.Spec{IntervalSeconds: 60}},
	{"every-minute-UTC", schedule.Spec{Cron: "* * * * *"}},
	{"daily-UTC", schedule.Spec{Cron: "0 19 * * *"}},
	{"daily-Berlin", schedule.Spec{Cron: "30 2 * * *", Timezone: "Europe/Berlin"}},
	{"rhythm-New-York", schedule.Spec{Cron: "*/15 * * * *", Timezone: "America/New_York"}},
	{"yearly-Berlin", schedule.Spec{Cron: "@yearly", Timezone: "Europe/Berlin"}},
	{"leap-day-Berlin", schedule.Spec{Cron: "0 0 29 2 *", Timezone: "Europe/Berlin"}},
	{"never-Berlin", schedule.Spec{Cron: "0 0 30 2 *", Timezone: "Europe/Berlin"}},
}

func BenchmarkNext(b *testing.B) {
	for _, bm := range benchmarkSpecs {
		b.Run(bm.name, func(b *testing.B) {
			start := time.Date(2026, 5, 17, 11, 22, 33, 0, time.UTC)
			s, err := schedule.Compile(bm.spec, start)
			if err != nil {
				b.Fatal(err)
			}
			end := start.AddDate(3, 0, 0) // so that clock changes weigh as in life
			t := start
			b.ReportAllocs()
			for b.Loop() {
				next, ok := s.Next(t)
				if t = next; !ok || t.After(end) {
					t = start
				}
			}
		})
	}
}

func BenchmarkLastTenYears(b *testing.B) {
	for _, spec := range []schedule.Spec{
		{Cron: "* * * * * *"},
		{Cron: "* * * * * *", Timezone: "Europe/Berlin"},
		{Cron: "30 2 * * *", Timezone: "America/New_York"},
	} {
		b.Run(spec.Cron+"/"+spec.Timezone, func(b *testing.B) {
			until := time.Date(2026, 5, 17, 11, 22, 33, 0, time.UTC)
			s, err := schedule.Compile(spec, until)
			if err != nil {
				b.Fatal(err)
			}
			after := until.AddDate(-10, 0, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := s.Last(after, until); !ok {
					b.Fatal("no fire time in ten years")
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	spec := schedule.Spec{Cron: "*/15 8-18 * * MON-FRI", Timezone: "Europe/Berlin"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schedule.Compile(spec, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
