package sqlitestore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// maxRecent is how many jobs Recent takes.
const maxRecent = 100

// Recent implements [store.Insight].
func (s *Store) Recent(ctx context.Context, jobIDs []string, n int) (map[string][]*job.Execution, error) {
	if len(jobIDs) > maxRecent {
		return nil, unavailable(fmt.Errorf("latest executions of %d jobs: at most %d can be asked for at once", len(jobIDs), maxRecent))
	}
	latest := make(map[string][]*job.Execution, len(jobIDs))
	err := s.read(ctx, func(d *data) error {
		for _, id := range jobIDs {
			key, ok, err := d.jobKey(id)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			found, err := d.executions(`WHERE e.job = ? + 0 ORDER BY e.at DESC, e.cause DESC LIMIT ? + 0`, args{key, max(n, 0)})
			if err != nil {
				return err
			}
			if len(found) > 0 {
				latest[id] = plain(found)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return latest, nil
}

const (
	countHeld   = `SELECT count(*) FROM executions WHERE queue = 0`
	selectFirst = `SELECT wake_at, seq FROM executions WHERE queue = ? ORDER BY wake_at, seq LIMIT ? + 0`
	// The statuses stand as in the index, which else is not used.
	whereFailed  = `WHERE (e.status = 4 OR e.status = 5 OR e.status = 8) AND e.completed_at >= ? + 0`
	latestFailed = ` ORDER BY e.completed_at DESC, e.seq DESC LIMIT ? + 0 OFFSET ? + 0`
)

// Live implements [store.Insight].
func (s *Store) Live(ctx context.Context, offset, limit int) (page []*job.Execution, total int, err error) {
	err = s.read(ctx, func(d *data) error {
		held, err := d.number(countHeld, nil)
		if err != nil {
			return err
		}
		waiting, err := d.number(`SELECT count(*) FROM executions WHERE queue >= ''`, nil)
		if err != nil {
			return err
		}
		total = int(held + waiting)
		found, err := d.executions(`WHERE e.seq IN (SELECT seq FROM executions WHERE queue = 0 ORDER BY seq LIMIT ? + 0 OFFSET ? + 0) ORDER BY e.seq`,
			args{limit, offset})
		if err != nil {
			return err
		}
		page = plain(found)
		if len(page) == limit {
			return nil
		}
		first, err := d.firstWaiting(max(offset-int(held), 0), limit-len(page))
		if err != nil {
			return err
		}
		for _, seq := range first {
			rec, err := d.execution(seq)
			if err != nil {
				return err
			}
			page = append(page, rec.Execution)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// firstWaiting returns which records of all queues wait, by WakeAt.
func (d *data) firstWaiting(offset, limit int) ([]int64, error) {
	var queues []string
	if err := d.each(selectQueues, nil, func(r row) error {
		queues = append(queues, r.text(0))
		return nil
	}); err != nil {
		return nil, err
	}
	type waiting struct{ wake, seq int64 }
	var first []waiting
	for _, q := range queues { // each has them in order
		if err := d.each(selectFirst, args{q, offset + limit}, func(r row) error {
			first = append(first, waiting{r.millis(0), r.int(1)})
			return nil
		}); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(first, func(a, b waiting) int { return cmp.Or(cmp.Compare(a.wake, b.wake), cmp.Compare(a.seq, b.seq)) })
	first = first[min(offset, len(first)):min(offset+limit, len(first))]
	seqs := make([]int64, len(first))
	for i, w := range first {
		seqs[i] = w.seq
	}
	return seqs, nil
}

// Failures implements [store.Insight].
func (s *Store) Failures(ctx context.Context, since time.Time, offset, limit int) (page []*job.Execution, total int, err error) {
	err = s.read(ctx, func(d *data) error {
		n, err := d.number(`SELECT count(*) FROM executions e `+whereFailed, args{since.UnixMilli()})
		if err != nil {
			return err
		}
		if total = int(n); total <= offset {
			return nil
		}
		found, err := d.executions(whereFailed+latestFailed, args{since.UnixMilli(), limit, offset})
		page = plain(found)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// Pulse implements [store.Insight].
func (s *Store) Pulse(ctx context.Context, now time.Time) (p store.Pulse, err error) {
	err = s.read(ctx, func(d *data) error {
		if _, err := d.one(`SELECT count(*), coalesce(sum(enabled), 0) FROM jobs WHERE deleted = 0`, nil, func(r row) {
			p.Jobs, p.Enabled = int(r.int(0)), int(r.int(1))
		}); err != nil {
			return err
		}
		if _, err := d.one(`SELECT count(*), coalesce(sum(wake_at <= ?), 0), min(wake_at) FROM executions WHERE queue >= ''`, args{now}, func(r row) {
			p.Waiting, p.Due = int(r.int(0)), int(r.int(1))
			if p.Due > 0 {
				p.DueSince = r.time(2)
			}
		}); err != nil {
			return err
		}
		held, err := d.number(countHeld, nil)
		p.Held = int(held)
		return err
	})
	if err != nil {
		return store.Pulse{}, err
	}
	return p, nil
}

// Statistics implements [store.Insight].
func (s *Store) Statistics(ctx context.Context, jobID string, from, until time.Time) (found []store.RollUp, err error) {
	err = s.read(ctx, func(d *data) error {
		key := allJobs
		if jobID != "" {
			of, ok, err := d.jobKey(jobID)
			if !ok || err != nil {
				return err
			}
			key = of
		}
		earliest, err := d.number(`SELECT min(block) FROM rollups`, nil)
		if err != nil {
			return err
		}
		latest, err := d.number(`SELECT max(block) FROM rollups`, nil)
		if err != nil {
			return err
		}
		first, end := max(stepFrom(from), earliest), min(stepFrom(until), latest+block)
		if first >= end {
			return nil
		}
		return d.each(`WITH RECURSIVE blocks(at) AS (SELECT ?1 - ?1 % ?3 UNION ALL SELECT at + ?3 FROM blocks WHERE at + ?3 < ?2)
			SELECT bucket, `+endColumns+`, timed, total, longest FROM blocks CROSS JOIN rollups ON block = at AND job = ?4 AND bucket >= ?1 AND bucket < ?2
			WHERE success + failed + timed_out + cancelled + skipped + unknown > 0 ORDER BY bucket`, args{first, end, block, key}, func(r row) error {
			u := store.RollUp{From: r.time(0), Counts: map[job.Status]int{}}
			for i, status := range statuses[success:] {
				if n := r.int(1 + i); n != 0 {
					u.Counts[status] = int(n)
				}
			}
			u.Timed = int(r.int(1 + endStatuses))
			u.Total, u.Longest = time.Duration(r.int(2+endStatuses))*time.Millisecond, time.Duration(r.int(3+endStatuses))*time.Millisecond
			found = append(found, u)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// stepFrom returns the first multiple of the step that is not before t, in
// milliseconds.
func stepFrom(t time.Time) int64 {
	at := t.Truncate(store.RollUpStep)
	if at.Before(t) {
		at = at.Add(store.RollUpStep)
	}
	return at.UnixMilli()
}
