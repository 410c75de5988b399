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
	err = s.write(ctx, func(w *writer) error {
		stored, replayed = nil, false
		p, known, err := w.locate(e.ID)
		if err != nil {
			return err
		}
		if known {
			rec, err := w.execution(p.seq)
			stored, replayed = rec.Execution, true
			return err
		}
		j, ok, err := w.job(e.JobID)
		switch {
		case err != nil:
			return err
		case !ok || j.Deleted && !job.System(e.JobID):
			return job.ErrNotFound
		case e.Exclusive && j.slot != 0:
			holder, err := w.execution(j.slot)
			if err != nil {
				return err
			}
			return &job.SlotHeldError{By: holder.ID}
		}
		record, err := w.newRecord(e, j.key, e.ScheduledFor, text)
		if err != nil {
			return err
		}
		if r.PerHour > 0 {
			if err := w.quota(e.TriggeredByUser, r.PerHour, r.Now); err != nil {
				return err
			}
			if _, err := w.exec(`INSERT INTO manual_runs (user, at, execution) VALUES (?, ?, ?)`, args{e.TriggeredByUser, r.Now, record.seq}); err != nil {
				return err
			}
		}
		slot := int64(none)
		if e.Exclusive {
			slot = record.seq
		}
		if _, err := w.exec(`UPDATE job_state SET live = live + 1, slot = coalesce(slot, ?) WHERE job = ?`, args{slot, j.key}); err != nil {
			return err
		}
		n, err := w.insert([]newRecord{record})
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("run %s: it appeared within the transaction", e.ID)
		}
		if err := w.audit(r.Audit); err != nil {
			return err
		}
		stored = asKept(e)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
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
	since := now.Add(-quotaWindow)
	var times []int64
	if err := w.each(`SELECT at FROM manual_runs WHERE user = ? AND at > ? ORDER BY at`, args{user, since}, func(r row) error {
		times = append(times, r.int(0))
		return nil
	}); err != nil {
		return err
	}
	if n := len(times); n >= limit {
		return &job.LimitError{What: "manual runs an hour", Limit: limit, Until: fromMillis(times[n-limit]).Add(quotaWindow)}
	}
	_, err := w.exec(`DELETE FROM manual_runs WHERE user = ? AND at <= ?`, args{user, since})
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
