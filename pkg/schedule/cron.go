package schedule

import (
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"
)

const (
	secondsPerDay = 24 * 60 * 60
	// searchMonths bounds the search for a matching day. The rarest date, a
	// 29 February on a given weekday, returns within 40 years.
	searchMonths = 50 * 12
)

// calendar is a parsed cron expression. It knows dates and times of day but no
// zone: its times are "local seconds", counted from 1970-01-01T00:00:00 as though
// every day had 86,400 of them. In all masks bit n stands for the value n.
type calendar struct {
	seconds, minutes uint64
	hours, days      uint32
	months           uint32
	// weekdays holds, for each weekday that the first of a month may be, the
	// days of that month that fall on a matching weekday.
	weekdays [7]uint32
	either   bool // a matching day of month or a matching weekday is enough
	rhythm   bool // the hour field begins with a star
	perDay   int64
	first    int64 // the earliest time of day, in seconds
	last     int64 // the latest
}

var macros = map[string]string{
	"@hourly":   "0 * * * *",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@weekly":   "0 0 * * 0",
	"@monthly":  "0 0 1 * *",
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
}

// field is one of the six fields of an expression. Each has a parser of its own,
// so that an error can say which field is wrong.
type field struct {
	name   string
	parser cron.Parser
	bits   func(*cron.SpecSchedule) uint64
	names  string // three letters for each name
	offset int    // the value of the first name
}

var fields = [6]field{
	{name: "second", parser: cron.MustNewParser(cron.Second), bits: func(s *cron.SpecSchedule) uint64 { return s.Second }},
	{name: "minute", parser: cron.MustNewParser(cron.Minute), bits: func(s *cron.SpecSchedule) uint64 { return s.Minute }},
	{name: "hour", parser: cron.MustNewParser(cron.Hour), bits: func(s *cron.SpecSchedule) uint64 { return s.Hour }},
	{name: "day-of-month", parser: cron.MustNewParser(cron.Dom), bits: func(s *cron.SpecSchedule) uint64 { return s.Dom }},
	{
		name: "month", parser: cron.MustNewParser(cron.Month), bits: func(s *cron.SpecSchedule) uint64 { return s.Month },
		names: "janfebmaraprmayjunjulaugsepoctnovdec", offset: 1,
	},
	{
		name: "weekday", parser: cron.MustNewParser(cron.Dow), bits: func(s *cron.SpecSchedule) uint64 { return s.Dow },
		names: "sunmontuewedthufrisat",
	},
}

// term is one entry of a field's list. The library accepts more than cron does
// (empty entries, signs, *-5, ranges that run backwards), so the shape is checked
// first.
var term = regexp.MustCompile(`^(?:[*?]|([a-z]{3}|[0-9]{1,4})(?:-([a-z]{3}|[0-9]{1,4}))?)(?:/[0-9]{1,4})?$`)

// parseCron reads an expression of five or six fields or a macro. The error is a
// clause without the name of the spec's field.
func parseCron(expression string) (*calendar, error) {
	if strings.HasPrefix(expression, "@") {
		expanded, ok := macros[strings.ToLower(expression)]
		if !ok {
			return nil, fmt.Errorf("%q is not known; use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually or @every with a duration", expression)
		}
		expression = expanded
	}
	words := strings.Fields(strings.ToLower(expression))
	switch len(words) {
	case 5:
		words = append([]string{"0"}, words...)
	case 6:
	default:
		return nil, fmt.Errorf("has %d fields; write 5 (minute hour day-of-month month weekday) or 6 with the second in front", len(words))
	}

	var masks [6]uint64
	var errs []string
	for i, word := range words {
		mask, err := fields[i].parse(word)
		if err != nil {
			errs = append(errs, fmt.Sprintf("%s field %q: %s", fields[i].name, word, err))
		}
		masks[i] = mask
	}
	if len(errs) > 0 {
		return nil, errors.New(strings.Join(errs, "; "))
	}

	c := &calendar{
		seconds: masks[0], minutes: masks[1], hours: uint32(masks[2]),
		days: uint32(masks[3]), months: uint32(masks[4]),
		either: !star(words[3]) && !star(words[5]),
		rhythm: star(words[2]),
	}
	for first := range c.weekdays {
		for day := 1; day <= 31; day++ {
			if masks[5]>>((first+day-1)%7)&1 != 0 {
				c.weekdays[first] |= 1 << day
			}
		}
	}
	c.perDay = int64(bits.OnesCount32(c.hours)) * int64(bits.OnesCount64(c.minutes)) * int64(bits.OnesCount64(c.seconds))
	c.first = timeOfDay(bits.TrailingZeros32(c.hours), lowest(c.minutes), lowest(c.seconds))
	c.last = timeOfDay(highest(uint64(c.hours)), highest(c.minutes), highest(c.seconds))
	return c, nil
}

// star reports whether a field counts as unrestricted, as Vixie cron sees it: by
// its first character.
func star(word string) bool { return word[0] == '*' || word[0] == '?' }

// parse returns the values of one lower-case field as a mask. (Lower case also
// because the library takes any capital H for its own hash syntax.)
func (f field) parse(word string) (uint64, error) {
	terms := strings.Split(word, ",")
	for i, t := range terms {
		m := term.FindStringSubmatch(t)
		if m == nil {
			return 0, fmt.Errorf("%q is not a value, a range, a star or one of these with a step", t)
		}
		low, high := m[1], m[2]
		if low == "" {
			continue
		}
		from, err := f.value(low)
		if err != nil {
			return 0, err
		}
		if high == "" {
			continue
		}
		to, err := f.value(high)
		if err != nil {
			return 0, err
		}
		if high == "sun" && from > 0 { // FRI-SUN: here Sunday ends the week
			terms[i], to = strings.Replace(t, "-sun", "-7", 1), 7
		}
		if from > to {
			return 0, fmt.Errorf("the range %q runs backwards; split it in two", t)
		}
	}
	parsed, err := f.parser.Parse(strings.Join(terms, ","))
	if err != nil {
		return 0, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return 0, fmt.Errorf("%q is not understood", word)
	}
	return f.bits(spec) &^ (1 << 63), nil // the library marks stars there
}

// value reads a number or a name of this field.
func (f field) value(word string) (int, error) {
	if n, err := strconv.Atoi(word); err == nil {
		return n, nil
	}
	if i := strings.Index(f.names, word); i >= 0 && i%3 == 0 {
		return i/3 + f.offset, nil
	}
	if f.names == "" {
		return 0, fmt.Errorf("%q is not a number", word)
	}
	return 0, fmt.Errorf("%q is neither a number nor a name such as %s", word, strings.ToUpper(f.names[:3]))
}

// month is a month of the proleptic Gregorian calendar.
type month struct {
	year   int
	month  time.Month
	first  int64 // days from 1970-01-01 to its first day
	length int
}

// monthOf returns the month that a day belongs to and the day of that month.
func monthOf(day int64) (month, int) {
	y, m, d := time.Unix(day*secondsPerDay, 0).UTC().Date()
	return month{y, m, day - int64(d) + 1, monthLength(y, m)}, d
}

func (m month) next() month {
	n := month{year: m.year, month: m.month + 1, first: m.first + int64(m.length)}
	if n.month > time.December {
		n.year, n.month = n.year+1, time.January
	}
	n.length = monthLength(n.year, n.month)
	return n
}

func (m month) previous() month {
	n := month{year: m.year, month: m.month - 1}
	if n.month < time.January {
		n.year, n.month = n.year-1, time.December
	}
	n.length = monthLength(n.year, n.month)
	n.first = m.first - int64(n.length)
	return n
}

func monthLength(year int, m time.Month) int {
	switch m {
	case time.February:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case time.April, time.June, time.September, time.November:
		return 30
	default:
		return 31
	}
}

// matching returns the days of m on which the schedule runs.
func (c *calendar) matching(m month) uint32 {
	if c.months>>m.month&1 == 0 {
		return 0
	}
	weekday := (m.first + 4) % 7 // 1970-01-01 was a Thursday
	if weekday < 0 {
		weekday += 7
	}
	mask := c.days & c.weekdays[weekday]
	if c.either {
		mask = c.days | c.weekdays[weekday]
	}
	return mask & (2<<m.length - 2)
}

// next returns the first match at or after local; false if there is none in the
// years that follow.
func (c *calendar) next(local int64) (int64, bool) {
	day, tod := split(local)
	m, d := monthOf(day)
	mask := c.matching(m)
	if mask>>d&1 != 0 {
		if t, ok := c.timeFrom(tod); ok {
			return day*secondsPerDay + t, true
		}
	}
	mask &= ^uint32(0) << (d + 1)
	for i := 0; mask == 0; i++ {
		if i == searchMonths {
			return 0, false
		}
		m = m.next()
		mask = c.matching(m)
	}
	return (m.first+int64(bits.TrailingZeros32(mask))-1)*secondsPerDay + c.first, true
}

// previous returns the last match at or before local, which must be there.
func (c *calendar) previous(local int64) int64 {
	day, tod := split(local)
	m, d := monthOf(day)
	mask := c.matching(m)
	if mask>>d&1 != 0 {
		if t, ok := c.timeUpTo(tod); ok {
			return day*secondsPerDay + t
		}
	}
	mask &= 1<<d - 1
	for mask == 0 {
		m = m.previous()
		mask = c.matching(m)
	}
	return (m.first+int64(highest(uint64(mask)))-1)*secondsPerDay + c.last
}

// matches reports whether the schedule runs at local.
func (c *calendar) matches(local int64) bool {
	day, tod := split(local)
	m, d := monthOf(day)
	return c.matching(m)>>d&1 != 0 && c.timesBefore(tod+1)-c.timesBefore(tod) == 1
}

// count returns the number of matches in [from, to), by multiplication.
func (c *calendar) count(from, to int64) int64 {
	if from >= to {
		return 0
	}
	day, tod := split(from)
	end, endTod := split(to)
	m, d := monthOf(day)
	mask := c.matching(m)
	var n int64
	if mask>>d&1 != 0 {
		n -= c.timesBefore(tod)
	}
	// All days from day up to, not including, end.
	mask &= ^uint32(0) << d
	for m.first+int64(m.length) <= end {
		n += int64(bits.OnesCount32(mask)) * c.perDay
		m = m.next()
		mask = c.matching(m)
	}
	d = int(end-m.first) + 1
	n += int64(bits.OnesCount32(mask&(1<<d-1))) * c.perDay
	if mask>>d&1 != 0 {
		n += c.timesBefore(endTod)
	}
	return n
}

// timeFrom returns the first matching time of day at or after tod.
func (c *calendar) timeFrom(tod int64) (int64, bool) {
	h, m, s := int(tod/3600), int(tod/60%60), int(tod%60)
	if c.hours>>h&1 != 0 {
		if c.minutes>>m&1 != 0 {
			if rest := c.seconds >> s << s; rest != 0 {
				return timeOfDay(h, m, lowest(rest)), true
			}
		}
		if rest := c.minutes >> (m + 1) << (m + 1); rest != 0 {
			return timeOfDay(h, lowest(rest), lowest(c.seconds)), true
		}
	}
	if rest := c.hours >> (h + 1) << (h + 1); rest != 0 {
		return timeOfDay(bits.TrailingZeros32(rest), lowest(c.minutes), lowest(c.seconds)), true
	}
	return 0, false
}

// timeUpTo returns the last matching time of day at or before tod.
func (c *calendar) timeUpTo(tod int64) (int64, bool) {
	h, m, s := int(tod/3600), int(tod/60%60), int(tod%60)
	if c.hours>>h&1 != 0 {
		if c.minutes>>m&1 != 0 {
			if rest := c.seconds & (2<<s - 1); rest != 0 {
				return timeOfDay(h, m, highest(rest)), true
			}
		}
		if rest := c.minutes & (1<<m - 1); rest != 0 {
			return timeOfDay(h, highest(rest), highest(c.seconds)), true
		}
	}
	if rest := c.hours & (1<<h - 1); rest != 0 {
		return timeOfDay(highest(uint64(rest)), highest(c.minutes), highest(c.seconds)), true
	}
	return 0, false
}

// timesBefore returns how many times of day match before tod, which may be the
// end of the day.
func (c *calendar) timesBefore(tod int64) int64 {
	h, m, s := int(tod/3600), int(tod/60%60), int(tod%60)
	minutes, seconds := int64(bits.OnesCount64(c.minutes)), int64(bits.OnesCount64(c.seconds))
	n := int64(bits.OnesCount32(c.hours&(1<<h-1))) * minutes * seconds
	if c.hours>>h&1 != 0 {
		n += int64(bits.OnesCount64(c.minutes&(1<<m-1))) * seconds
		if c.minutes>>m&1 != 0 {
			n += int64(bits.OnesCount64(c.seconds & (1<<s - 1)))
		}
	}
	return n
}

// split returns the day and the second within it.
func split(local int64) (day, tod int64) {
	day, tod = local/secondsPerDay, local%secondsPerDay
	if tod < 0 {
		day, tod = day-1, tod+secondsPerDay
	}
	return day, tod
}

func timeOfDay(h, m, s int) int64 { return int64(h)*3600 + int64(m)*60 + int64(s) }

func lowest(mask uint64) int  { return bits.TrailingZeros64(mask) }
func highest(mask uint64) int { return bits.Len64(mask) - 1 }
