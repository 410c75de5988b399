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

// zone is a time zone seen as a sequence of segments.
type zone struct{ loc *time.Location }

// segment is a stretch of time with one offset: local = unix + offset for unix
// times in [start, end).
type segment struct{ start, end, offset int64 }

// zones keeps what loadZone has read. Its size is bounded by the number of zone
// files, for only names that exist enter it, and each file has only one name here.
var zones sync.Map // string -> zone

var zoneName = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)

// loadZone returns the zone of an IANA name. The error is a clause without the
// name of the spec's field.
func loadZone(name string) (zone, error) {
	if z, ok := zones.Load(name); ok {
		return z.(zone), nil
	}
	unknown := fmt.Errorf("%.64q is not a known time zone; use an IANA name such as Europe/Berlin or UTC", name)
	// Local and its kin depend on the machine. The files below right/ count leap
	// seconds, those below posix/ are copies.
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "Local", "localtime", "posixrules", "right", "posix":
		return zone{}, unknown
	}
	if len(name) > 64 || !zoneName.MatchString(name) {
		return zone{}, unknown
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return zone{}, unknown // the cause speaks of files, which does not help
	}
	z, _ := zones.LoadOrStore(name, zone{loc})
	return z.(zone), nil
}

// at returns the segment that holds a unix time.
func (z zone) at(unix int64) segment {
	if z.loc == time.UTC {
		return segment{start: -forever, end: forever}
	}
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
	return seg
}

// reached returns how far the local clock had come when seg began: the first
// local second that it had not shown or jumped over by then.
func (z zone) reached(seg segment) int64 {
	local := -forever
	for s := seg; s.start > seg.start-reach; {
		s = z.at(s.start - 1)
		local = max(local, s.end+s.offset)
	}
	return local
}

// alsoShows counts the other instants near unix at which the clock shows the same
// local time, before and after it.
func (z zone) alsoShows(unix, local int64) (before, after int) {
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
