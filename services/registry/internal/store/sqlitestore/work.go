package sqlitestore

import (
	"context"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// marks returns n question marks for a list.
func marks(n int) string { return `?` + strings.Repeat(`, ?`, n-1) }

// DueJobs implements [store.Work].
func (s *Store) DueJobs(ctx context.Context, until time.Time, after *job.Job, limit int) (due []*job.Job, err error) {
	err = s.read(ctx, func(d *data) error {
		at, key := int64(none+1), int64(0)
		if after != nil {
			at = millis(after.NextRunAt)
			if key, _, err = d.jobKey(after.ID); err != nil {
				return err
			}
		}
		return d.each(`SELECT job, version, next_run_at FROM job_state WHERE next_run_at <= ? AND (next_run_at, job) > (?, ?) ORDER BY next_run_at, job LIMIT ?`,
			args{until, at, key, limit}, func(r row) error {
				shared, err := d.version(r.int(0), r.int(1))
				if err != nil {
					return err
				}
				j := *shared
				j.NextRunAt = r.time(2)
				due = append(due, &j)
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

// Waiting implements [store.Work].
func (s *Store) Waiting(ctx context.Context, templateType string, until time.Time, after *job.Execution, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		at := int64(none + 1)
		if after != nil {
			at = millis(after.WakeAt)
		}
		seq, err := d.seqOf(after)
		if err != nil {
			return err
		}
		found, err := d.executions(`WHERE e.queue = ? AND e.wake_at <= ? AND (e.wake_at, e.seq) > (?, ?) ORDER BY e.wake_at, e.seq LIMIT ?`,
			args{templateType, until, at, seq, limit})
		d.cache.learnPlaces(found)
		page = plain(found)
		return err
	})
	return page, err
}

// Held implements [store.Work].
func (s *Store) Held(ctx context.Context, after *job.Execution, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		seq, err := d.seqOf(after)
		if err != nil {
			return err
		}
		found, err := d.executions(`WHERE e.seq IN (SELECT seq FROM executions WHERE queue = 0 AND session IS NOT NULL AND seq > ? ORDER BY seq LIMIT ?) ORDER BY e.seq`,
			args{seq, limit})
		page = plain(found)
		return err
	})
	return page, err
}

// Overdue implements [store.Work].
func (s *Store) Overdue(ctx context.Context, now time.Time, limit int) (page []*job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		found, err := d.executions(`WHERE e.queue IN (0, 1) AND e.wake_at <= ? ORDER BY e.wake_at, e.seq LIMIT ?`, args{now, limit})
		page = plain(found)
		return err
	})
	return page, err
}

// OpenSession implements [store.Work].
func (s *Store) OpenSession(ctx context.Context, session store.Session, now time.Time) error {
	return s.write(ctx, func(w *writer) error {
		if _, err := w.exec(`DELETE FROM sessions WHERE ended_at < ?`, args{now.Add(-24 * time.Hour)}); err != nil {
			return err
		}
		n, err := w.exec(`INSERT INTO sessions (id, host, count) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, args{session.ID, session.Host, session.Count})
		if err != nil || n > 0 {
			return err
		}
		lives, err := w.number(`SELECT count(*) FROM sessions WHERE id = ? AND ended_at IS NULL`, args{session.ID})
		if err == nil && lives == 0 {
			return job.ErrConflict
		}
		return err
	})
}

// Sessions implements [store.Work].
func (s *Store) Sessions(ctx context.Context) (live []store.Session, err error) {
	err = s.read(ctx, func(d *data) error {
		return d.each(`SELECT id, host, count FROM sessions WHERE ended_at IS NULL ORDER BY id`, nil, func(r row) error {
			live = append(live, store.Session{ID: r.text(0), Host: r.text(1), Count: r.int(2)})
			return nil
		})
	})
	return live, err
}
