// Package schedule says when a job runs. It is pure: it never reads the clock,
// and every time is an argument or an answer.
//
// A [Spec] is what a person writes and what is stored. [Canonical] checks it and
// brings it into its full form, [Compile] turns it into a [Schedule] that can be
// asked for its times. There are four types:
//
//   - cron: an expression in a time zone;
//   - interval: every so many seconds from an anchor, so that a restart or an
//     edit of another field does not shift the times;
//   - once: one instant;
//   - manual: never by itself.
//
// All fire times are whole seconds in UTC, between the years 1 and 9999.
//
// # Cron expressions
//
// Five fields, minute hour day-of-month month weekday, or six with seconds in
// front. A field is a list (1,15) of values, ranges (MON-FRI), stars and steps
// (*/15, 10-40/10, 5/15 for "from 5 on"); ? is the same as *. Months and weekdays
// have three-letter English names in any case. Sunday is 0 and 7, so FRI-SUN and
// 5-7 are ranges; other ranges that run backwards (22-2) are refused, and so are
// steps that could never be taken (*/60 in the minutes). @hourly, @daily or
// @midnight, @weekly, @monthly, @yearly or @annually stand for the usual
// expressions; @every 90s is stored as an interval. CRON_TZ=Zone or TZ=Zone in
// front of an expression is the same as the timezone field.
//
// Where both day-of-month and weekday are restricted, a day that satisfies
// either is enough, as in Vixie cron. A field that begins with a star does not
// count as restricted there, even */2: then both must hold.
//
// # Daylight saving time
//
// A time of day is due when the local clock first reaches it.
//
// In spring the clock jumps over some times (a gap). dst.gap says what becomes of
// them: run_after (the default) runs the job once at the first instant after the
// gap, however many of its times were jumped over, and that run is also the
// regular one if the job is due at that very instant; skip drops them.
//
// In autumn the clock goes back and passes some times again (an overlap).
// dst.overlap says how often they count: once (the default), at the first
// passage, or twice, at every passage.
//
// An expression whose hour field begins with a star (*/10 * * * *, 0 */2 * * *)
// describes a rhythm rather than a time of day, and neither word changes it: it
// runs whenever the local clock shows a matching time, so it goes on through the
// repeated hour, and nothing is made up after a gap.
//
// The same rules hold for every change of a zone's offset, whatever its cause or
// size: half an hour on Lord Howe Island, midnight in Cairo, the day that Samoa
// left out in 2011.
package schedule
