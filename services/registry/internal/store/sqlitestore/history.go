package sqlitestore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// quotaWindow is the time that the quota of manual runs looks back.
const quotaWindow = time.Hour

// RunNow implements [store.History].
func (s *Store) RunNow(ctx context.Context, r store.RunNow) (stored *job.Execution, replayed bool, err error) {
	e := r.Execution
	text, _, ok := cause(e.Trigger, e.Key)
	if !ok || text == "" {
		return nil, false, unavailable(fmt.Errorf("run %s: it is not a manual run", e.ID))
	}
	err = s.write(ctx, func(w *writer) (err error) {
		if stored, replayed, err = w.runNow(r, text); !refusal(err) {
			return err
		}
		// A refusal is for runs that are not there yet.
		p, known, lerr := w.locate(e.ID)
		if lerr != nil {
			return lerr
		}
		if !known {
			return err
		}
		stored, replayed, err = w.replay(p.seq)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

// runNow inserts a manual run with the cause, unless it is there. That it is new is
// what nearly all are, so nobody looks before: what was there already shows when
// nothing is inserted.
func (w *writer) runNow(r store.RunNow, text string) (stored *job.Execution, replayed bool, err error) {
	e := r.Execution
	key, slot, err := w.runnable(e.JobID)
	if err != nil {
		return nil, false, err
	}
	if e.Exclusive && slot != 0 {
		holder, err := w.execution(slot)
		if err != nil {
			return nil, false, err
		}
		return nil, false, &job.SlotHeldError{By: holder.ID}
	}
	if r.PerHour > 0 {
		if err := w.quota(e.TriggeredByUser, r.PerHour, r.Now); err != nil {
			return nil, false, err
		}
	}
	record, err := w.newRecord(e, key, e.ScheduledFor, text)
	if err != nil {
		return nil, false, err
	}
	n, err := w.insert([]newRecord{record})
	if err != nil {
		return nil, false, err
	}
	if n == 0 {
		w.seq--
		delete(w.places, e.ID)
		p, known, err := w.locate(e.ID)
		if err == nil && !known {
			err = fmt.Errorf("run %s: it was not inserted, and is not there", e.ID)
		}
		if err != nil {
			return nil, false, err
		}
		return w.replay(p.seq)
	}
	if r.PerHour > 0 {
		if err := w.countRun(e.TriggeredByUser, r.Now, record.seq); err != nil {
			return nil, false, err
		}
	}
	taken := int64(none)
	if e.Exclusive {
		taken = record.seq
	}
	if _, err := w.exec(`UPDATE job_state SET live = live + 1, slot = coalesce(slot, ?) WHERE job = ?`, args{taken, key}); err != nil {
		return nil, false, err
	}
	if err := w.audit(r.Audit); err != nil {
		return nil, false, err
	}
	return asKept(e), false, nil
}

// runnable returns the key of a job that may be run by hand, and the holder of its
// slot, 0 for none.
func (w *writer) runnable(id string) (key, slot int64, err error) {
	key, ok, err := w.jobKey(id)
	if err != nil {
		return 0, 0, err
	}
	if !ok {
		return 0, 0, job.ErrNotFound
	}
	gone := false
	if _, err := w.one(`SELECT slot, (SELECT deleted FROM jobs WHERE key = job) FROM job_state WHERE job = ?`, args{key},
		func(r row) { slot, gone = r.int(0), r.bool(1) }); err != nil {
		return 0, 0, err
	}
	if gone && !job.System(id) {
		return 0, 0, job.ErrNotFound
	}
	return key, slot, nil
}

// replay returns a run that was there already.
func (w *writer) replay(seq int64) (*job.Execution, bool, error) {
	rec, err := w.execution(seq)
	return rec.Execution, true, err
}

// asKept is a new record as it would be read again.
func asKept(e *job.Execution) *job.Execution {
	c := *e
	for _, t := range []*time.Time{&c.ScheduledFor, &c.CreatedAt, &c.WakeAt} {
		if !t.IsZero() {
			*t = t.UTC().Truncate(time.Millisecond)
		}
	}
	return &c
}

// quota returns a *job.LimitError when the user has used up the runs of the
// last hour.
func (w *writer) quota(user string, limit int, now time.Time) error {
	var times []int64
	if err := w.each(`SELECT at FROM manual_runs WHERE user = ? AND at > ? ORDER BY at`, args{user, now.Add(-quotaWindow)}, func(r row) error {
		times = append(times, r.int(0))
		return nil
	}); err != nil {
		return err
	}
	if n := len(times); n >= limit {
		return &job.LimitError{What: "manual runs an hour", Limit: limit, Until: fromMillis(times[n-limit]).Add(quotaWindow)}
	}
	return nil
}

// countRun counts a run against the user's quota, and forgets those of the user
// that do not count any more.
func (w *writer) countRun(user string, now time.Time, seq int64) error {
	if _, err := w.exec(`DELETE FROM manual_runs WHERE user = ? AND at <= ?`, args{user, now.Add(-quotaWindow)}); err != nil {
		return err
	}
	_, err := w.exec(`INSERT INTO manual_runs (user, at, execution) VALUES (?, ?, ?)`, args{user, now, seq})
	return err
}

// RequestCancel implements [store.History].
func (s *Store) RequestCancel(ctx context.Context, c store.Cancel) (stands *job.Execution, err error) {
	err = s.write(ctx, func(w *writer) error {
		stands = nil
		p, ok, err := w.locate(c.ID)
		if err != nil {
			return err
		}
		if !ok {
			return job.ErrNotFound
		}
		rec, err := w.execution(p.seq)
		switch {
		case err != nil:
			return err
		case rec.Status.Ended():
			return job.ErrEnded
		case rec.CancelRequested:
			stands = rec.Execution
			return nil
		case !rec.Leased() && rec.Status != job.Running:
			to := rec.CancelledUnstarted(c.Now)
			if c.Reason != "" {
				to.Reason = c.Reason
			}
			if err := w.end(rec, to); err != nil {
				return err
			}
		default:
			if _, err := w.exec(`UPDATE executions SET cancel = ? WHERE seq = ?`, args{c.Reason, p.seq}); err != nil {
				return err
			}
		}
		if err := w.audit(c.Audit); err != nil {
			return err
		}
		rec, err = w.execution(p.seq)
		stands = rec.Execution
		return err
	})
	if err != nil {
		return nil, err
	}
	return stands, nil
}

// Execution implements [store.History].
func (s *Store) Execution(ctx context.Context, id string) (e *job.Execution, err error) {
	err = s.read(ctx, func(d *data) error {
		p, ok, err := d.locate(id)
		if err != nil {
			return err
		}
		if !ok {
			return job.ErrNotFound
		}
		rec, err := d.execution(p.seq)
		e = rec.Execution
		return err
	})
	return e, err
}

// Executions implements [store.History].
func (s *Store) Executions(ctx context.Context, f store.ExecutionFilter) (page []*job.Execution, total int, err error) {
	err = s.read(ctx, func(d *data) error {
		key, ok, err := d.jobKey(f.JobID)
		if !ok || err != nil {
			return err
		}
		n, err := d.total(key, f.Statuses)
		if err != nil {
			return err
		}
		if total = int(n); total <= f.Offset {
			return nil
		}
		var found []record
		if len(f.Statuses) == 0 {
			// Not bare parameters beside ORDER BY and LIMIT: SQLite would prepare the
			// statement anew each time they are bound, to plan with the values.
			found, err = d.executions(`WHERE e.job = ? + 0 ORDER BY e.at DESC, e.cause DESC LIMIT ? + 0 OFFSET ? + 0`, args{key, f.Limit, f.Offset})
		} else {
			var query string
			var a args
			if query, a, err = byStatus(key, f); err != nil {
				return err
			}
			found, err = d.executions(`WHERE e.seq IN (`+query+`) ORDER BY e.at DESC, e.cause DESC`, a)
		}
		page = plain(found)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// total counts a job's records of the statuses, of all without any.
func (d *data) total(key int64, chosen []job.Status) (int64, error) {
	if len(chosen) == 0 {
		return d.number(`SELECT live + success + failed + timed_out + cancelled + skipped + unknown FROM job_state WHERE job = ?`, args{key})
	}
	sum, live := "0", args{}
	for i, s := range statuses {
		switch {
		case !slices.Contains(chosen, s):
		case i < success:
			live = append(live, i)
		default:
			sum += " + " + counter(int64(i))
		}
	}
	n, err := d.number(`SELECT `+sum+` FROM job_state WHERE job = ?`, args{key})
	if err != nil || len(live) == 0 {
		return n, err
	}
	count, err := d.number(`SELECT live FROM job_state WHERE job = ?`, args{key})
	if err != nil || count == 0 {
		return n, err
	}
	if len(live) < success { // only some of the live ones: look at each
		a := append(args{key, count}, live...)
		count, err = d.number(`SELECT count(*) FROM (SELECT status FROM executions WHERE queue IS NOT NULL AND status < 3 AND job = ? LIMIT ?)
			WHERE status IN (`+marks(len(live))+`)`, a)
	}
	return n + count, err
}

// byStatus returns a query for the numbers of a page of the records that have
// one of the statuses. Each status comes from the index that has it in order.
func byStatus(key int64, f store.ExecutionFilter) (string, args, error) {
	var query string
	var a args
	for _, s := range f.Statuses {
		n, err := statusNumber(s)
		if err != nil {
			return "", nil, err
		}
		from := `executions INDEXED BY executions_history WHERE job = ?`
		switch {
		case n < success: // among the live ones, which are few
			from = `executions INDEXED BY executions_live WHERE queue IS NOT NULL AND job = ?`
		case n > success:
			from = `executions INDEXED BY executions_other WHERE status > 3 AND job = ?`
		}
		if query != "" {
			query += ` UNION ALL `
		}
		query += `SELECT * FROM (SELECT seq, at, cause FROM ` + from + ` AND status = ? ORDER BY at DESC, cause DESC LIMIT ?)`
		a = append(a, key, n, f.Offset+f.Limit)
	}
	return `SELECT seq FROM (` + query + `) ORDER BY at DESC, cause DESC LIMIT ? OFFSET ?`, append(a, f.Limit, f.Offset), nil
}

// Logs implements [store.History].
func (s *Store) Logs(ctx context.Context, id string, offset, limit int) (lines []job.LogLine, total int, err error) {
	err = s.read(ctx, func(d *data) error {
		p, ok, err := d.locate(id)
		if !ok || err != nil {
			return err
		}
		n, err := d.number(`SELECT coalesce(sum(count), 0) FROM logs WHERE execution = ?`, args{p.seq})
		if err != nil {
			return err
		}
		total = int(n)
		type chunk struct{ token, number, skip int64 }
		var chunks []chunk
		at, end := int64(0), int64(offset)+int64(limit)
		if err := d.each(`SELECT token, number, count FROM logs WHERE execution = ? ORDER BY token, number`, args{p.seq}, func(r row) error {
			if next := at + r.int(2); next > int64(offset) && at < end {
				chunks = append(chunks, chunk{r.int(0), r.int(1), max(int64(offset)-at, 0)})
			}
			at += r.int(2)
			return nil
		}); err != nil {
			return err
		}
		for _, c := range chunks {
			var text []byte
			if _, err := d.one(`SELECT lines FROM logs WHERE execution = ? AND token = ? AND number = ?`, args{p.seq, c.token, c.number},
				func(r row) { text = r.bytes(0) }); err != nil {
				return err
			}
			more, err := decodeLines(text)
			if err != nil {
				return err
			}
			lines = append(lines, more[c.skip:]...)
		}
		lines = lines[:min(len(lines), limit)]
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return lines, total, nil
}

// Audits implements [store.History].
func (s *Store) Audits(ctx context.Context, f store.AuditFilter) (page []store.AuditEntry, total int, err error) {
	where, a := ``, args{}
	for _, c := range []struct{ column, is string }{{"object", f.Object}, {"user", f.User}, {"action", f.Action}} {
		if c.is != "" {
			where += ` AND ` + c.column + ` = ?`
			a = append(a, c.is)
		}
	}
	where = strings.Replace(where, ` AND`, ` WHERE`, 1)
	err = s.read(ctx, func(d *data) error {
		n, err := d.number(`SELECT count(*) FROM audits`+where, a)
		if err != nil {
			return err
		}
		total = int(n)
		return d.each(`SELECT object, number, at, user, address, action, before, after FROM audits`+where+` ORDER BY seq DESC LIMIT ? OFFSET ?`,
			append(a, f.Limit, f.Offset), func(r row) error {
				page = append(page, store.AuditEntry{ID: fmt.Sprintf("%s/%d", r.text(0), r.int(1)), Audit: store.Audit{
					Object: r.text(0), At: r.time(2), User: r.text(3), Address: r.text(4), Action: r.text(5), Before: r.bytes(6), After: r.bytes(7),
				}})
				return nil
			})
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}
