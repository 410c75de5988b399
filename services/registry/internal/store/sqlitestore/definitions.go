package sqlitestore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// CreateJob implements [store.Definitions].
func (s *Store) CreateJob(ctx context.Context, c store.CreateJob) (stored *job.Job, replayed bool, err error) {
	j := c.Job
	text, err := encodeDefinition(j)
	if err != nil {
		return nil, false, unavailable(err)
	}
	err = s.write(ctx, func(w *writer) error {
		stored, replayed = nil, false
		var fingerprint string
		known, err := w.one(`SELECT fingerprint FROM jobs WHERE id = ?`, args{j.ID}, func(r row) { fingerprint = r.text(0) })
		if err != nil {
			return err
		}
		if known {
			if fingerprint != c.Fingerprint {
				return job.ErrKeyReused
			}
			st, _, err := w.job(j.ID)
			if err != nil {
				return err
			}
			replayed = true
			stored = st.Job
			return err
		}
		if !j.Deleted {
			if err := w.nameFree(j.Name, 0); err != nil {
				return err
			}
		}
		if c.Limit > 0 && !j.Deleted {
			live, err := w.number(`SELECT count(*) FROM jobs WHERE deleted = 0`, nil)
			if err != nil {
				return err
			}
			if live >= int64(c.Limit) {
				return &job.LimitError{What: "jobs", Limit: c.Limit}
			}
		}
		w.defining = true
		key, err := w.insertJob(j, c.Fingerprint)
		if err != nil {
			return err
		}
		if _, err := w.exec(`INSERT INTO job_state (job, version, next_run_at) VALUES (?, ?, ?)`, args{key, j.Version, j.NextRunAt}); err != nil {
			return err
		}
		if err := w.keepVersion(key, j.Version, text); err != nil {
			return err
		}
		if err := w.audit(c.Audit); err != nil {
			return err
		}
		st, _, err := w.job(j.ID)
		stored = st.Job
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

// nameFree returns job.ErrNameTaken when a live job other than key has the name.
func (w *writer) nameFree(name string, key int64) error {
	taken, err := w.number(`SELECT count(*) FROM jobs WHERE name = ? AND deleted = 0 AND key <> ?`, args{name, key})
	if err == nil && taken > 0 {
		return job.ErrNameTaken
	}
	return err
}

// searched is what words are looked for in.
func searched(j *job.Job) string {
	return strings.ToLower(j.Name + "\n" + j.TemplateType + "\n" + j.Description)
}

// insertJob inserts what lists need of a new job, and returns its key.
func (w *writer) insertJob(j *job.Job, fingerprint string) (key int64, err error) {
	labels, err := encode(j.Labels)
	if err != nil {
		return 0, err
	}
	if _, err := w.exec(`INSERT INTO jobs (id, name, template, enabled, deleted, created_at, fingerprint, search, labels, updated_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		args{j.ID, j.Name, j.TemplateType, j.Enabled, j.Deleted, j.CreatedAt, fingerprint, searched(j), labels, j.UpdatedAt}); err != nil {
		return 0, err
	}
	return w.LastInsertRowID(), nil
}

func (w *writer) keepVersion(key int64, version int, text string) error {
	_, err := w.exec(`INSERT INTO job_versions (job, version, definition) VALUES (?, ?, ?)`, args{key, version, text})
	return err
}

// EditJob implements [store.Definitions].
func (s *Store) EditJob(ctx context.Context, e store.EditJob) (stored *job.Job, err error) {
	j := e.After
	if j.Version != e.Version+1 {
		return nil, unavailable(fmt.Errorf("edit job %s: version %d does not follow %d", j.ID, j.Version, e.Version))
	}
	text, err := encodeDefinition(j)
	if err != nil {
		return nil, unavailable(err)
	}
	labels, err := encode(j.Labels)
	if err != nil {
		return nil, unavailable(err)
	}
	err = s.write(ctx, func(w *writer) error {
		stored = nil
		st, ok, err := w.job(j.ID)
		switch {
		case err != nil:
			return err
		case !ok || st.Deleted:
			return job.ErrNotFound
		case st.Version == j.Version:
			same, err := w.number(`SELECT count(*) FROM job_versions WHERE job = ? AND version = ? AND definition = ?`, args{st.key, j.Version, text})
			if err != nil {
				return err
			}
			if same == 0 {
				return job.ErrVersion
			}
			stored = st.Job // this very edit, tried again
			return err
		case st.Version != e.Version:
			return job.ErrVersion
		case millis(st.NextRunAt) != millis(e.NextRunAt):
			return job.ErrConflict
		}
		if err := w.nameFree(j.Name, st.key); err != nil {
			return err
		}
		w.defining = true
		if err := w.keepVersion(st.key, j.Version, text); err != nil {
			return err
		}
		if _, err := w.exec(`UPDATE jobs SET name = ?, template = ?, enabled = ?, search = ?, labels = ?, updated_at = ? WHERE key = ?`,
			args{j.Name, j.TemplateType, j.Enabled, searched(j), labels, j.UpdatedAt, st.key}); err != nil {
			return err
		}
		if _, err := w.exec(`UPDATE job_state SET version = ?, next_run_at = ? WHERE job = ?`, args{j.Version, j.NextRunAt, st.key}); err != nil {
			return err
		}
		if err := w.audit(e.Audit); err != nil {
			return err
		}
		if st, _, err = w.job(j.ID); err != nil {
			return err
		}
		stored = st.Job
		return err
	})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// DeleteJob implements [store.Definitions].
func (s *Store) DeleteJob(ctx context.Context, id string, version int, now time.Time, a *store.Audit) (was *job.Job, err error) {
	err = s.write(ctx, func(w *writer) error {
		was = nil
		st, ok, err := w.job(id)
		switch {
		case err != nil:
			return err
		case !ok || st.Deleted:
			return job.ErrNotFound
		case version != 0 && st.Version != version:
			return job.ErrVersion
		}
		was = st.Job
		w.defining = true
		if _, err := w.exec(`UPDATE jobs SET deleted = 1 WHERE key = ?`, args{st.key}); err != nil {
			return err
		}
		if _, err := w.exec(`UPDATE job_state SET next_run_at = NULL WHERE job = ?`, args{st.key}); err != nil {
			return err
		}
		if st.live > 0 {
			// Texts sort after numbers, so this is all that waits, of any template.
			waiting, err := w.executions(`WHERE e.queue >= '' AND e.job = ? LIMIT ?`, args{st.key, st.live})
			if err != nil {
				return err
			}
			for _, rec := range waiting {
				to := rec.CancelledUnstarted(now)
				to.Reason = job.ReasonJobDeleted + ": the job was deleted while this run waited"
				if err := w.end(rec, to); err != nil {
					return err
				}
			}
		}
		return w.audit(a)
	})
	if err != nil {
		return nil, err
	}
	return was, nil
}

// end writes a transition of a record that was read in this transaction.
func (w *writer) end(rec record, to *job.Execution) error {
	st, err := encodeState(to)
	if err != nil {
		return err
	}
	n, err := w.writeRecord(place{rec.seq, rec.job, rec.Exclusive}, rec.state.status, rec.state.token, false, &st, to)
	if err == nil && n != 1 {
		err = fmt.Errorf("end %s: it changed within the transaction", rec.ID)
	}
	return err
}

// Job implements [store.Definitions].
func (s *Store) Job(ctx context.Context, id string) (j *job.Job, err error) {
	err = s.read(ctx, func(d *data) error {
		st, ok, err := d.job(id)
		if err != nil {
			return err
		}
		if !ok {
			return job.ErrNotFound
		}
		j = st.Job
		j.State = st.state
		return nil
	})
	return j, err
}

// Definition implements [store.Definitions].
func (s *Store) Definition(ctx context.Context, id string) (*job.Job, error) {
	if j := s.cache.definition(id); j != nil {
		return j, nil
	}
	edits := s.cache.beforeReading()
	var j *job.Job
	err := s.read(ctx, func(d *data) error {
		st, ok, err := d.job(id)
		if err != nil {
			return err
		}
		if !ok || st.Deleted {
			return job.ErrNotFound
		}
		version := int64(st.Version)
		if j, err = d.version(st.key, version); err == nil {
			s.cache.learnPresent(st.key, version, edits)
		}
		return err
	})
	return j, err
}

// Jobs implements [store.Definitions].
func (s *Store) Jobs(ctx context.Context, f store.JobFilter) (page []*job.Job, total int, err error) {
	from, a, err := listed(f)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	order, err := ordered(f.Sort)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	err = s.read(ctx, func(d *data) error {
		// All in one go: to choose them is what takes its time, not to count them.
		return d.each(`SELECT key `+from+` ORDER BY `+order, a, func(r row) error {
			if total++; total <= f.Offset || len(page) >= f.Limit {
				return nil
			}
			st, _, err := d.jobByKey(r.int(0))
			if err != nil {
				return err
			}
			st.State = st.state
			page = append(page, st.Job)
			return nil
		})
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// listed returns what follows SELECT to choose the jobs of the filter.
func listed(f store.JobFilter) (from string, a args, err error) {
	from = `FROM jobs WHERE deleted = 0`
	if len(f.States) > 0 || f.Sort.By == store.SortNextRun {
		from = `FROM jobs CROSS JOIN job_state ON job = key WHERE deleted = 0`
	}
	if len(f.TemplateTypes) > 0 {
		from += ` AND template IN (` + marks(len(f.TemplateTypes)) + `)`
		for _, t := range f.TemplateTypes {
			a = append(a, t)
		}
	}
	if f.Enabled != nil {
		from += ` AND enabled = ?`
		a = append(a, *f.Enabled)
	}
	for _, word := range f.Words {
		from += ` AND instr(search, ?) > 0`
		a = append(a, strings.ToLower(word))
	}
	for _, term := range f.Labels {
		text, err := encode(term.Key)
		if err != nil {
			return "", nil, err
		}
		text += `:`
		if term.Value != nil {
			value, err := encode(*term.Value)
			if err != nil {
				return "", nil, err
			}
			text += value
		}
		// Within the strings of a JSON text no quotation mark stands unescaped: what
		// begins so is a key.
		from += ` AND (instr(labels, ?) > 0 OR instr(labels, ?) > 0)`
		a = append(a, `{`+text, `,`+text)
	}
	if len(f.States) > 0 {
		var chosen []string
		for i, status := range statuses {
			if state, tells := job.StateAfter(status); tells && slices.Contains(f.States, state) {
				chosen = append(chosen, fmt.Sprintf("last_end = %d", i))
			}
		}
		if slices.Contains(f.States, job.StateNever) {
			chosen = append(chosen, "last_end IS NULL")
		}
		if len(chosen) == 0 {
			return "", nil, fmt.Errorf("list jobs: states %q are not known", f.States)
		}
		from += ` AND (` + strings.Join(chosen, ` OR `) + `)`
	}
	return from, a, nil
}

// ordered returns what follows ORDER BY.
func ordered(s store.JobSort) (string, error) {
	way := ``
	if s.Descending || s == (store.JobSort{}) {
		way = ` DESC`
	}
	switch s.By {
	case "", store.SortCreated:
		return `created_at` + way + `, id` + way, nil
	case store.SortName:
		return `name` + way + `, id` + way, nil
	case store.SortUpdated:
		return `updated_at` + way + `, id` + way, nil
	case store.SortNextRun:
		return `next_run_at IS NULL, next_run_at` + way + `, id` + way, nil
	default:
		return "", fmt.Errorf("list jobs: sort key %q is not known", s.By)
	}
}

// PutTemplates implements [store.Definitions].
func (s *Store) PutTemplates(ctx context.Context, ts []job.Template) error {
	bodies := make([]string, len(ts))
	for i, t := range ts {
		var err error
		if bodies[i], err = encode(t); err != nil {
			return unavailable(fmt.Errorf("template %s: %w", t.Type, err))
		}
	}
	return s.write(ctx, func(w *writer) error {
		for i, t := range ts {
			if _, err := w.exec(`INSERT INTO templates (type, version, body) VALUES (?, ?, ?)
				ON CONFLICT DO UPDATE SET version = excluded.version, body = excluded.body WHERE excluded.version >= version`,
				args{t.Type, t.Version, bodies[i]}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Templates implements [store.Definitions].
func (s *Store) Templates(ctx context.Context) (ts []job.Template, err error) {
	err = s.read(ctx, func(d *data) error {
		return d.each(`SELECT body FROM templates ORDER BY type`, nil, func(r row) error {
			var t job.Template
			if err := json.Unmarshal(r.bytes(0), &t); err != nil {
				return fmt.Errorf("decode template: %w", err)
			}
			ts = append(ts, t)
			return nil
		})
	})
	return ts, err
}
