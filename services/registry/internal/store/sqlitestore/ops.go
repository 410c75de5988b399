package sqlitestore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// fire advances the job by a compare-and-set and inserts the record. Everything
// else is found out only when one of the two meets something.
func (w *writer) fire(f *store.Fire) (store.Answer, error) {
	e := f.Execution
	if e.Trigger != job.TriggerScheduler || e.Key != job.FireKey(e.ScheduledFor) || !e.ScheduledFor.Equal(f.FireAt) {
		return store.Answer{}, fmt.Errorf("fire %s: the execution is not the scheduled one for %s", e.ID, f.FireAt)
	}
	key, ok, err := w.jobKey(e.JobID)
	if err != nil {
		return store.Answer{}, err
	}
	if !ok {
		return store.Answer{Outcome: store.Lost}, nil
	}
	st, err := encodeState(e)
	if err != nil {
		return store.Answer{}, err
	}
	if st.status >= success && st.status != skipped {
		return store.Answer{}, fmt.Errorf("fire %s: a record cannot begin as %s", e.ID, e.Status)
	}
	if e.Seat != 0 {
		return store.Answer{}, fmt.Errorf("fire %s: a record begins without a seat; a later change takes one", e.ID)
	}
	seq, live := w.seq+1, int64(1)
	if st.status == skipped {
		live = 0
	}
	s := w.advance
	bindInt(s, 1, millis(f.Next))
	if e.Exclusive {
		s.BindInt64(2, seq)
	} else {
		s.BindNull(2)
	}
	s.BindInt64(3, live)
	s.BindInt64(4, 1-live)
	s.BindInt64(5, key)
	s.BindInt64(6, int64(f.Version))
	s.BindInt64(7, millis(f.FireAt))
	n, err := w.step(s)
	if err != nil {
		return store.Answer{}, err
	}
	if n == 0 {
		return w.fireLost(f, key, &st)
	}
	if n, err = w.insertRecord(e, &st, key, e.ScheduledFor, ""); err != nil {
		return store.Answer{}, err
	}
	if n == 0 {
		if _, err := w.exec(`UPDATE job_state SET next_run_at = ?, slot = nullif(slot, ?), live = live - ?, skipped = skipped - ? WHERE job = ?`,
			args{f.FireAt, seq, live, 1 - live, key}); err != nil {
			return store.Answer{}, err
		}
		return w.fireLost(f, key, &st)
	}
	return store.Answer{Outcome: store.Done}, nil
}

// insertRecord inserts a record under the next number, or returns 0 when one of
// that identity is there.
func (w *writer) insertRecord(e *job.Execution, st *state, key int64, at time.Time, cause string) (int, error) {
	def, err := w.version(key, int64(e.JobVersion))
	if err != nil {
		return 0, fmt.Errorf("record %s: %w", e.ID, err)
	}
	frozen := ""
	if own := def.Freeze(e.Frozen.Idempotent); !sameFrozen(&e.Frozen, &own) {
		if frozen, err = encode(&e.Frozen); err != nil {
			return 0, fmt.Errorf("record %s: %w", e.ID, err)
		}
	}
	s := w.insert
	bindState(s, 1, st, e)
	s.BindInt64(16, w.seq+1)
	s.BindInt64(17, key)
	s.BindInt64(18, millis(at))
	s.BindText(19, cause)
	s.BindInt64(20, int64(e.JobVersion))
	s.BindBool(21, e.Frozen.Idempotent)
	bindOptional(s, 22, frozen)
	bindOptional(s, 23, e.TriggeredByUser)
	s.BindInt64(24, e.CreatedAt.UnixMilli())
	n, err := w.step(s)
	if err != nil || n == 0 {
		return 0, err
	}
	w.seq++
	w.remember(e.ID, place{w.seq, key, e.Exclusive})
	return n, nil
}

func (w *writer) remember(id string, p place) {
	if len(w.places) >= maxPlaces {
		clear(w.places)
	}
	w.places[id] = p
}

// fireLost finds out why a fire did not take effect.
func (w *writer) fireLost(f *store.Fire, key int64, st *state) (store.Answer, error) {
	j, _, err := w.jobByKey(key)
	if err != nil {
		return store.Answer{}, err
	}
	stands := !j.Deleted && j.NextRunAt.Equal(f.FireAt)
	p, ok, err := w.locate(f.Execution.ID)
	if err != nil {
		return store.Answer{}, err
	}
	if ok {
		rec, err := w.execution(p.seq)
		if err != nil {
			return store.Answer{}, err
		}
		if stands {
			if err := w.skipPast(j, rec.Execution, f); err != nil {
				return store.Answer{}, err
			}
		}
		if sameFire(rec, f.Execution, st) {
			return store.Answer{Outcome: store.Done}, nil
		}
		return store.Answer{Outcome: store.Lost, Execution: rec.Execution}, nil
	}
	switch {
	case j.Deleted:
		return store.Answer{Outcome: store.Lost}, nil
	case stands && j.Version == f.Version && f.Execution.Exclusive && j.slot != 0:
		holder, err := w.execution(j.slot)
		if err != nil {
			return store.Answer{}, err
		}
		return store.Answer{Outcome: store.Lost, SlotBy: holder.ID}, nil
	default:
		return store.Answer{Outcome: store.Lost, Job: j.Job}, nil
	}
}

// sameFire tells whether the record is what an earlier try of the fire left.
func sameFire(rec record, e *job.Execution, st *state) bool {
	if e.Leased() { // it may be running by now
		return rec.Session == e.Session && rec.Stream == e.Stream && rec.Number == e.Number && rec.Token == e.Token
	}
	return rec.state == *st
}

// skipPast advances a job that stands at a time that is recorded already.
func (w *writer) skipPast(j standing, e *job.Execution, f *store.Fire) error {
	covered := f.FireAt
	if e.MissedUntil.After(covered) {
		covered = e.MissedUntil
	}
	s, err := j.Compile()
	if err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	next, _ := s.Next(covered)
	_, err = w.exec(`UPDATE job_state SET next_run_at = ? WHERE job = ?`, args{next, j.key})
	return err
}

// place finds a record, in memory if it can.
func (w *writer) place(id string) (place, bool, error) {
	if p, ok := w.places[id]; ok {
		return p, true, nil
	}
	p, ok := w.cache.takePlace(id)
	if !ok {
		var err error
		if p, ok, err = w.locate(id); err != nil {
			return place{}, false, err
		}
	}
	if ok {
		w.remember(id, p)
	}
	return p, ok, nil
}

// changeRecord is one update; it reads only when that finds nothing.
func (w *writer) changeRecord(c *store.Change) (store.Answer, error) {
	from, err := statusNumber(c.Status)
	if err != nil {
		return store.Answer{}, err
	}
	st, err := encodeState(c.To)
	if err != nil {
		return store.Answer{}, err
	}
	p, ok, err := w.place(c.To.ID)
	if err != nil {
		return store.Answer{}, err
	}
	if !ok {
		return store.Answer{Outcome: store.Lost}, nil
	}
	n, taken := 0, false
	if c.To.Seat != 0 {
		if taken, err = w.seatTaken(p.seq, c.To); err != nil {
			return store.Answer{}, err
		}
	}
	if !taken {
		if n, err = w.writeRecord(p, from, c.Token, c.Uncancelled, &st, c.To); err != nil {
			return store.Answer{}, err
		}
	}
	if n == 0 {
		rec, err := w.execution(p.seq)
		if err != nil {
			return store.Answer{}, err
		}
		if rec.state == st {
			return store.Answer{Outcome: store.Done}, nil
		}
		matches := rec.state.status == from && rec.state.token == c.Token && !(c.Uncancelled && rec.CancelRequested)
		return store.Answer{Outcome: store.Lost, Execution: rec.Execution, SeatTaken: matches}, nil
	}
	return store.Answer{Outcome: store.Done}, w.audit(c.Audit)
}

// seatTaken tells whether another record than seq has the seat of e.
func (w *writer) seatTaken(seq int64, e *job.Execution) (bool, error) {
	n, err := w.number(`SELECT count(*) FROM executions WHERE seat = ? AND seq <> ?`, args{seatOf(e), seq})
	return n > 0, err
}

// writeRecord is the compare-and-set of a record, with what follows from it: the
// counts, and the slot that is given up.
func (w *writer) writeRecord(p place, from, token int64, uncancelled bool, st *state, e *job.Execution) (int, error) {
	s := w.change
	bindState(s, 1, st, e)
	s.BindInt64(16, p.seq)
	s.BindInt64(17, from)
	s.BindInt64(18, token)
	s.BindBool(19, uncancelled)
	bindOptional(s, 20, seatOf(e))
	n, err := w.step(s)
	if err != nil || n == 0 {
		return 0, err
	}
	release := int64(0)
	if p.exclusive && !e.Exclusive {
		release = p.seq
	}
	before, after := counter(from), counter(st.status)
	if before != after || release != 0 || from != st.status && !e.StartedAt.IsZero() {
		if err := w.count(p.job, from, st.status, release, st.startedAt); err != nil {
			return 0, err
		}
	}
	if e.WakeAt.IsZero() {
		delete(w.places, e.ID)
	} else {
		w.remember(e.ID, place{p.seq, p.job, p.exclusive && e.Exclusive})
	}
	return n, nil
}

// count moves a record of the job from one status to another in the counts, and
// frees the slot if the record release holds it, and keeps when a run last
// started.
func (w *writer) count(key, from, to, release, started int64) error {
	s := w.tally[[2]int64{from, to}]
	if s == nil {
		// Not a bare ?3 beside max: see audit.
		text := `UPDATE job_state SET slot = nullif(slot, ?2), last_run_at = max(last_run_at, ?3 + 0)`
		if before, after := counter(from), counter(to); before != after {
			text += fmt.Sprintf(", %[1]s = %[1]s - 1, %[2]s = %[2]s + 1", before, after)
		}
		var err error
		if s, err = w.Prepare(text + ` WHERE job = ?1`); err != nil {
			return err
		}
		w.tally[[2]int64{from, to}] = s
	}
	s.BindInt64(1, key)
	s.BindInt64(2, release)
	s.BindInt64(3, max(started, 0))
	_, err := w.step(s)
	return err
}

func (w *writer) audit(a *store.Audit) error {
	if a == nil {
		return nil
	}
	// Not a bare ?1 beside max: SQLite would prepare the statement anew each time
	// it is bound, to plan with the value.
	_, err := w.exec(`INSERT INTO audits (object, number, at, user, address, action, before, after)
		VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM audits WHERE object = ?1 || ''), ?2, ?3, ?4, ?5, ?6, ?7)`,
		args{a.Object, a.At, a.User, a.Address, a.Action, a.Before, a.After})
	return err
}

// beat keeps what the session says, unless it has said something later already.
func (w *writer) beat(now time.Time, b *store.Beat) (store.Answer, error) {
	n, err := w.exec(`UPDATE sessions SET count = ?1, running = ?2, stopping = ?3, last_beat_at = ?4 WHERE id = ?5 AND ended_at IS NULL AND count <= ?1`,
		args{b.Count, b.Running, b.Stopping, now, b.Session})
	if err != nil || n > 0 {
		return doneIf(true), err
	}
	lives, err := w.sessionLives(b.Session)
	return doneIf(lives), err
}

func (w *writer) sessionLives(id string) (bool, error) {
	n, err := w.number(`SELECT count(*) FROM sessions WHERE id = ? AND ended_at IS NULL`, args{id})
	return n > 0, err
}

func (w *writer) endSession(now time.Time, e *store.EndSession) (store.Answer, error) {
	n, err := w.exec(`UPDATE sessions SET ended_at = ? WHERE id = ? AND count = ? AND ended_at IS NULL`, args{now, e.Session, e.Count})
	if err != nil || n > 0 {
		return doneIf(true), err
	}
	lives, err := w.sessionLives(e.Session)
	return doneIf(!lives), err
}

func doneIf(done bool) store.Answer {
	if done {
		return store.Answer{Outcome: store.Done}
	}
	return store.Answer{Outcome: store.Lost}
}

// line is a log line as it is kept.
type line struct {
	At      int64  `json:"t"` // milliseconds
	Level   string `json:"l,omitempty"`
	Message string `json:"m"`
}

func (w *writer) appendLog(a *store.AppendLog) (store.Answer, error) {
	p, ok, err := w.place(a.ID)
	if err != nil {
		return store.Answer{}, err
	}
	if !ok {
		return store.Answer{Outcome: store.Lost}, nil
	}
	lines := make([]line, len(a.Lines))
	for i, l := range a.Lines {
		lines[i] = line{millis(l.At), l.Level, l.Message}
	}
	text, err := encode(lines)
	if err != nil {
		return store.Answer{}, err
	}
	_, err = w.exec(`INSERT INTO logs (execution, token, number, count, lines) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		args{p.seq, a.Token, a.Number, len(lines), text})
	return doneIf(true), err
}

func decodeLines(text []byte) ([]job.LogLine, error) {
	var lines []line
	if err := json.Unmarshal(text, &lines); err != nil {
		return nil, fmt.Errorf("decode log lines: %w", err)
	}
	out := make([]job.LogLine, len(lines))
	for i, l := range lines {
		out[i] = job.LogLine{At: fromMillis(l.At), Level: l.Level, Message: l.Message}
	}
	return out, nil
}
