package schedule

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the image that this runs in may have no zone files
)

const (
	forever = int64(1) << 60
	// reach is further than any clock was ever set forward or back, in seconds.
	// Offsets lie within 25 hours of UTC.
	reach = 3 * secondsPerDay
)

// zone is a time zone seen as a sequence of segments. It is immutable.
type zone struct {
	loc *time.Location
	// table holds the segments of this century without a break. The standard
	// library works out each answer anew where a zone goes by a rule, which costs
	// several times as much as all the rest of [Schedule.Next].
	table []segment
}

// utc needs no table: it has one segment.
var utc = &zone{loc: time.UTC, table: []segment{{start: -forever, end: forever}}}

// segment is a stretch of time with one offset: local = unix + offset for unix
// times in [start, end).
type segment struct{ start, end, offset int64 }

// zones keeps what loadZone has read. Its size is bounded by the number of zone
// files, for only names that exist enter it, and each file has only one name here.
var zones sync.Map // string -> *zone

var zoneName = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)

// loadZone returns the zone of an IANA name. The error is a clause without the
// name of the spec's field.
func loadZone(name string) (*zone, error) {
	if name == "UTC" {
		return utc, nil
	}
	if z, ok := zones.Load(name); ok {
		return z.(*zone), nil
	}
	unknown := fmt.Errorf("%.64q is not a known time zone; use an IANA name such as Europe/Berlin or UTC", name)
	// Local and its kin depend on the machine. The files below right/ count leap
	// seconds, those below posix/ are copies.
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "Local", "localtime", "posixrules", "right", "posix":
		return nil, unknown
	}
	if len(name) > 64 || !zoneName.MatchString(name) {
		return nil, unknown
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, unknown // the cause speaks of files, which does not help
	}
	z, _ := zones.LoadOrStore(name, newZone(loc))
	return z.(*zone), nil
}

func newZone(loc *time.Location) *zone {
	z := &zone{loc: loc}
	from := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	to := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	var table []segment
	for from < to {
		seg := z.lookup(from)
		if n := len(table); n > 0 && table[n-1].offset == seg.offset {
			table[n-1].end = seg.end // only the name of the time changes, or nothing
		} else {
			table = append(table, seg)
		}
		from = seg.end
	}
	z.table = table
	return z
}

// at returns the segment that holds a unix time.
func (z *zone) at(unix int64) segment {
	if unix < z.table[0].start || unix >= z.table[len(z.table)-1].end {
		return z.lookup(unix)
	}
	low, high := 0, len(z.table) // the segment lies in [low, high)
	for high-low > 1 {
		if middle := (low + high) / 2; z.table[middle].start <= unix {
			low = middle
		} else {
			high = middle
		}
	}
	return z.table[low]
}

// lookup is at without the table.
func (z *zone) lookup(unix int64) segment {
	t := time.Unix(unix, 0).In(z.loc)
	_, offset := t.Zone()
	seg := segment{start: -forever, end: forever, offset: int64(offset)}
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		seg.start = start.Unix()
	}
	if !end.IsZero() {
		seg.end = end.Unix()
	}
	// Where a zone goes by a rule, ZoneBounds cuts at the ends of the (UTC) years
	// too, which does no harm, but takes all years for 365 days long: on the last
	// day of a leap year the end that it gives has passed.
	if seg.end <= unix {
		day, _ := split(unix)
		seg.end = (day + 1) * secondsPerDay
	}
	return seg
}

// reached returns how far the local clock had come when seg began: the first
// local second that it had not shown or jumped over by then.
func (z *zone) reached(seg segment) int64 {
	local := -forever
	for s := seg; s.start > max(seg.start-reach, -forever); {
		s = z.at(s.start - 1)
		local = max(local, s.end+s.offset)
	}
	return local
}

// alsoShows counts the other instants near unix at which the clock shows the same
// local time, before and after it.
func (z *zone) alsoShows(unix, local int64) (before, after int) {
	for u := unix - reach; u < unix+reach; {
		seg := z.at(u)
		if t := local - seg.offset; t >= seg.start && t < seg.end {
			switch {
			case t < unix:
				before++
			case t > unix:
				after++
			}
		}
		u = seg.end
	}
	return before, after
}
