package sqlitestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var _ move.Store = (*Store)(nil)

// Exists tells whether the folder holds a store. Open would make one.
func Exists(folder string) (bool, error) {
	_, err := os.Stat(filepath.Join(folder, databaseName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Finish implements [move.Store]. A transaction leaves nothing half done.
func (s *Store) Finish(context.Context, time.Time) error { return nil }

// errStopped ends an export whose reader wants no more.
var errStopped = errors.New("stopped")

// Export implements [move.Store]. It reads one snapshot.
func (s *Store) Export(ctx context.Context, kind move.Kind) iter.Seq2[move.Record, error] {
	return func(yield func(move.Record, error) bool) {
		err := s.read(ctx, func(d *data) error {
			err := d.export(kind, func(r move.Record) error {
				if !yield(r, nil) {
					return errStopped
				}
				return nil
			})
			if errors.Is(err, errStopped) {
				return nil
			}
			return err
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

func (d *data) export(kind move.Kind, yield func(move.Record) error) error {
	switch kind {
	case move.Templates:
		return d.each(`SELECT body FROM templates ORDER BY type`, nil, func(r row) error {
			var t move.Template
			if err := json.Unmarshal(r.bytes(0), &t.Template); err != nil {
				return fmt.Errorf("decode template: %w", err)
			}
			return yield(t)
		})
	case move.Users:
		return d.each(selectUsers+`ORDER BY name`, nil, func(r row) error { return yield(move.User{User: r.user()}) })
	case move.Tokens:
		all, err := d.tokens(`ORDER BY hash`, nil)
		for i := 0; i < len(all) && err == nil; i++ {
			err = yield(move.Token{Token: all[i]})
		}
		return err
	case move.Sessions:
		return d.each(`SELECT id, host, about, opened_at, count, running, stopping, last_beat_at, draining, ended_at FROM sessions ORDER BY id`, nil, func(r row) error {
			var own about
			if err := json.Unmarshal(r.bytes(2), &own); err != nil {
				return fmt.Errorf("decode session %s: %w", r.text(0), err)
			}
			return yield(move.Session{
				Session: store.Session{
					ID: r.text(0), Host: r.text(1), Version: own.Version, Labels: own.Labels, Templates: own.Templates, Slots: own.Slots,
					OpenedAt: r.time(3), Count: r.int(4), Running: int(r.int(5)), Stopping: r.bool(6), LastBeatAt: r.time(7), Draining: r.bool(8),
				},
				EndedAt: r.time(9),
			})
		})
	case move.Jobs:
		return d.each(`SELECT key, fingerprint FROM jobs ORDER BY id`, nil, func(r row) error {
			st, found, err := d.jobByKey(r.int(0))
			if err == nil && !found {
				err = fmt.Errorf("job %d has no state", r.int(0))
			}
			if err != nil {
				return err
			}
			return yield(move.Job{Job: *st.Job, Fingerprint: r.text(1)})
		})
	case move.Executions:
		return d.each(`SELECT key FROM jobs ORDER BY id`, nil, func(r row) error { return d.exportExecutions(r.int(0), yield) })
	case move.Quotas:
		return d.exportQuotas(yield)
	case move.Audits:
		return d.each(`SELECT object, number, at, user, address, action, before, after FROM audits ORDER BY at, object, number`, nil, func(r row) error {
			return yield(move.Audit{Number: int(r.int(1)), Audit: store.Audit{
				Object: r.text(0), At: r.time(2), User: r.text(3), Address: r.text(4), Action: r.text(5), Before: r.bytes(6), After: r.bytes(7),
			}})
		})
	default:
		return fmt.Errorf("records of the kind %q are not known", kind)
	}
}

// exportExecutions yields the records of a job in the order of their ids.
func (d *data) exportExecutions(key int64, yield func(move.Record) error) error {
	last, err := d.number(`SELECT last_run_at FROM job_state WHERE job = ?`, args{key})
	if err != nil {
		return err
	}
	return d.each(selectExecution+`WHERE e.job = ? ORDER BY CASE e.cause WHEN '' THEN 's_' ELSE e.cause END, e.at`, args{key}, func(r row) error {
		rec, err := d.scan(r)
		if err != nil {
			return err
		}
		e := move.Execution{Execution: *rec.Execution, LastStartedAt: rec.StartedAt}
		if e.StartedAt.IsZero() && e.Token > 0 && last > 0 {
			e.LastStartedAt = fromMillis(last) // a start that was taken back may have been the last
		}
		if err := d.each(`SELECT token, number, lines FROM logs WHERE execution = ? ORDER BY token, number`, args{rec.seq}, func(r row) error {
			lines, err := decodeLines(r.bytes(2))
			e.Logs = append(e.Logs, move.LogChunk{Token: r.int(0), Number: int(r.int(1)), Lines: lines})
			return err
		}); err != nil {
			return fmt.Errorf("log of %s: %w", e.ID, err)
		}
		return yield(e)
	})
}

func (d *data) exportQuotas(yield func(move.Record) error) error {
	return d.each(`SELECT DISTINCT user FROM manual_runs ORDER BY user`, nil, func(r row) error {
		q := move.Quota{User: r.text(0)}
		if err := d.each(`SELECT at, execution FROM manual_runs WHERE user = ? ORDER BY at, execution`, args{q.User}, func(r row) error {
			rec, err := d.execution(r.int(1))
			if err != nil {
				return err
			}
			q.Runs = append(q.Runs, move.ManualRun{At: r.time(0), Execution: rec.ID})
			return nil
		}); err != nil {
			return fmt.Errorf("manual runs of %s: %w", q.User, err)
		}
		q.Sort()
		return yield(q)
	})
}

// Import implements [move.Store]. All of the records go into one transaction.
func (s *Store) Import(ctx context.Context, records []move.Record) (inserted int, err error) {
	err = s.write(ctx, func(w *writer) error {
		inserted = 0
		for _, r := range records {
			n, err := w.importRecord(r)
			if err != nil {
				return fmt.Errorf("import %q: %w", r.Key(), err)
			}
			inserted += n
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return inserted, nil
}

func (w *writer) importRecord(r move.Record) (int, error) {
	switch r := r.(type) {
	case move.Template:
		body, err := encode(r.Template)
		if err != nil {
			return 0, err
		}
		return w.exec(`INSERT INTO templates (type, version, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, args{r.Type, r.Version, body})
	case move.User:
		return w.exec(`INSERT INTO users (name, role, password_hash, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{r.Name, r.Role, r.PasswordHash, r.CreatedAt.UnixMilli()})
	case move.Token:
		return w.insertToken(r.Token)
	case move.Session:
		text, err := encode(about{r.Version, r.Labels, r.Templates, r.Slots})
		if err != nil {
			return 0, err
		}
		return w.exec(`INSERT INTO sessions (id, host, about, opened_at, count, running, stopping, last_beat_at, draining, ended_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{r.ID, r.Host, text, r.OpenedAt, r.Count, r.Running, r.Stopping, r.LastBeatAt, r.Draining, r.EndedAt})
	case move.Job:
		return w.importJob(r)
	case move.Execution:
		return w.importExecution(r)
	case move.Quota:
		return w.importQuota(r)
	case move.Audit:
		return w.exec(`INSERT INTO audits (object, number, at, user, address, action, before, after) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{r.Object, r.Number, r.At, r.User, r.Address, r.Action, r.Before, r.After})
	default:
		return 0, fmt.Errorf("a record of the type %T is not known", r)
	}
}

func (w *writer) importJob(j move.Job) (int, error) {
	text, err := encodeDefinition(&j.Job)
	if err != nil {
		return 0, err
	}
	w.defining = true
	known, err := w.number(`SELECT count(*) FROM jobs WHERE id = ?`, args{j.ID})
	if known > 0 || err != nil {
		return 0, err
	}
	key, err := w.insertJob(&j.Job, j.Fingerprint)
	if err != nil {
		return 0, err
	}
	if err := w.keepVersion(key, j.Version, text); err != nil {
		return 0, err
	}
	last := int64(0)
	if !j.LastRunAt.IsZero() {
		last = millis(j.LastRunAt)
	}
	return w.exec(`INSERT INTO job_state (job, version, next_run_at, last_run_at) VALUES (?, ?, ?, ?)`, args{key, j.Version, j.NextRunAt, last})
}

func (w *writer) importExecution(e move.Execution) (int, error) {
	text, at, ok := cause(e.Trigger, e.Execution.Key)
	if !ok {
		return 0, errors.New("its key is not known")
	}
	if text != "" {
		at = millis(e.ScheduledFor)
	}
	key, ok, err := w.jobKey(e.JobID)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("its job %s is not there", e.JobID)
	}
	st, err := encodeState(&e.Execution)
	if err != nil {
		return 0, err
	}
	frozen, err := w.frozenText(key, &e.Execution)
	if err != nil {
		return 0, err
	}
	s, err := w.Prepare(`INSERT INTO executions (` + stateColumns + `, seq, job, at, cause, version, idempotent, frozen, triggered_by, created_at, cancel, seat)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`)
	if err != nil {
		return 0, err
	}
	bindState(s, 1, &st, &e.Execution)
	s.BindInt64(16, w.seq+1)
	s.BindInt64(17, key)
	s.BindInt64(18, at)
	s.BindText(19, text)
	s.BindInt64(20, int64(e.JobVersion))
	s.BindBool(21, e.Frozen.Idempotent)
	bindOptional(s, 22, frozen)
	bindOptional(s, 23, e.TriggeredByUser)
	s.BindInt64(24, e.CreatedAt.UnixMilli())
	bindCancel(s, 25, &e.Execution)
	bindOptional(s, 26, seatOf(&e.Execution))
	n, err := w.step(s)
	if n == 0 || err != nil {
		return 0, err
	}
	w.seq++
	if err := w.noteEnd(endOf(key, &st)); err != nil {
		return 0, err
	}
	slot := int64(none)
	if e.Exclusive {
		slot = w.seq
	}
	counted := counter(st.status)
	if _, err := w.exec(`UPDATE job_state SET `+counted+` = `+counted+` + 1, slot = coalesce(?, slot) WHERE job = ?`, args{slot, key}); err != nil {
		return 0, err
	}
	for _, chunk := range e.Logs {
		if err := w.importLog(w.seq, chunk); err != nil {
			return 0, err
		}
	}
	return 1, nil
}

func (w *writer) importLog(seq int64, chunk move.LogChunk) error {
	lines := make([]line, len(chunk.Lines))
	for i, l := range chunk.Lines {
		lines[i] = line{millis(l.At), l.Level, l.Message}
	}
	text, err := encode(lines)
	if err != nil {
		return err
	}
	_, err = w.exec(`INSERT INTO logs (execution, token, number, count, lines) VALUES (?, ?, ?, ?, ?)`,
		args{seq, chunk.Token, chunk.Number, len(lines), text})
	return err
}

// frozenText returns what the record was frozen with, empty when its job's
// version says the same. Versions before the present one are not moved.
func (w *writer) frozenText(key int64, e *job.Execution) (string, error) {
	known, err := w.number(`SELECT count(*) FROM job_versions WHERE job = ? AND version = ?`, args{key, e.JobVersion})
	if err != nil {
		return "", err
	}
	if known > 0 {
		def, err := w.version(key, int64(e.JobVersion))
		if err != nil {
			return "", err
		}
		if own := def.Freeze(e.Frozen.Idempotent); sameFrozen(&e.Frozen, &own) {
			return "", nil
		}
	}
	return encode(&e.Frozen)
}

// bindCancel binds the reason of a requested cancellation, NULL without one.
func bindCancel(s *sqlite.Stmt, i int, e *job.Execution) {
	if e.CancelRequested {
		s.BindText(i, e.CancelReason)
		return
	}
	s.BindNull(i)
}

func (w *writer) importQuota(q move.Quota) (int, error) {
	had, err := w.number(`SELECT count(*) FROM manual_runs WHERE user = ?`, args{q.User})
	if had > 0 || err != nil {
		return 0, err
	}
	for _, run := range q.Runs {
		p, ok, err := w.locate(run.Execution)
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, fmt.Errorf("execution %s is not there", run.Execution)
		}
		if _, err := w.exec(`INSERT INTO manual_runs (user, at, execution) VALUES (?, ?, ?)`, args{q.User, run.At, p.seq}); err != nil {
			return 0, err
		}
	}
	return 1, nil
}
