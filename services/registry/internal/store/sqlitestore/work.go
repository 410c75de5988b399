package sqlitestore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// marks returns n question marks for a list.
func marks(n int) string { return `?` + strings.Repeat(`, ?`, n-1) }

// DueJobs implements [store.Work].
func (s *Store) DueJobs(ctx context.Context, share *job.Share, until time.Time, after *job.Job, limit int) (due []*job.Job, err error) {
	err = s.read(ctx, func(d *data) error {
		at, key := int64(none+1), int64(0)
		if after != nil {
			at = millis(after.NextRunAt)
			if key, _, err = d.jobKey(after.ID); err != nil {
				return err
			}
		}
		if limit <= 0 {
			return nil
		}
		return d.each(`SELECT job, version, next_run_at FROM job_state WHERE next_run_at <= ? AND (next_run_at, job) > (?, ?) ORDER BY next_run_at, job`,
			args{until, at, key}, func(r row) error {
				shared, err := d.version(r.int(0), r.int(1))
				if err != nil || !share.Has(shared.ID) {
					return err
				}
				j := *shared
				j.NextRunAt = r.time(2)
				if due = append(due, &j); len(due) == limit {
					return errEnough
				}
				return nil
			})
	})
	return due, err
}

// seqOf returns the number of the record that a page ended with, 0 for nil.
func (d *data) seqOf(e *job.Execution) (int64, error) {
	if e == nil {
		return 0, nil
	}
	p, _, err := d.locate(e.ID)
	return p.seq, err
}

// selectQueues takes one step into the index for each queue, however long they
// are. Texts sort after the numbers of those that do not wait.
const selectQueues = `WITH RECURSIVE q(queue) AS (
	SELECT (SELECT queue FROM executions WHERE queue >= '' ORDER BY queue LIMIT 1)
	UNION ALL
	SELECT (SELECT e.queue FROM executions e WHERE e.queue > q.queue ORDER BY e.queue LIMIT 1) FROM q WHERE q.queue IS NOT NULL
	) SELECT queue FROM q WHERE queue IS NOT NULL`

// Queues implements [store.Work].
func (s *Store) Queues(ctx context.Context) (queues []job.Queue, err error) {
	err = s.read(ctx, func(d *data) error {
		return d.each(selectQueues, nil, func(r row) error {
			q, err := job.ParseQueue(r.text(0))
			queues = append(queues, q)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return queues, nil
}

// Waiting implements [store.Work].
func (s *Store) Waiting(ctx context.Context, q job.Queue, share *job.Share, until time.Time, after *job.Execution, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		at := int64(none + 1)
		if after != nil {
			at = millis(after.WakeAt)
		}
		seq, err := d.seqOf(after)
		if err != nil {
			return err
		}
		found, err := d.shared(share, limit, `WHERE e.queue = ? AND e.wake_at <= ? AND (e.wake_at, e.seq) > (?, ?) ORDER BY e.wake_at, e.seq`,
			args{q.String(), until, at, seq})
		d.cache.learnPlaces(found)
		page = plain(found)
		return err
	})
	return page, err
}

// Held implements [store.Work].
func (s *Store) Held(ctx context.Context, share *job.Share, after *job.Execution, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		seq, err := d.seqOf(after)
		if err != nil {
			return err
		}
		found, err := d.shared(share, limit, `WHERE e.seq IN (SELECT seq FROM executions WHERE queue = 0 AND session IS NOT NULL AND seq > ?) ORDER BY e.seq`,
			args{seq})
		page = plain(found)
		return err
	})
	return page, err
}

// Overdue implements [store.Work].
func (s *Store) Overdue(ctx context.Context, share *job.Share, now time.Time, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		found, err := d.shared(share, limit, `WHERE e.queue IN (0, 1) AND e.wake_at <= ? ORDER BY e.wake_at, e.seq`, args{now})
		page = plain(found)
		return err
	})
	return page, err
}

// Find implements [store.Work].
func (s *Store) Find(ctx context.Context, ids []string) (found []*job.Execution, err error) {
	if len(ids) > store.MaxFind {
		return nil, unavailable(fmt.Errorf("find %d executions: at most %d can be asked for at once", len(ids), store.MaxFind))
	}
	err = s.read(ctx, func(d *data) error {
		for _, id := range ids {
			p, ok, err := d.locate(id)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			rec, err := d.execution(p.seq)
			if err != nil {
				return err
			}
			found = append(found, rec.Execution)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Mend implements [store.Work]. A transaction leaves nothing half done.
func (s *Store) Mend(context.Context, time.Time) error { return nil }
