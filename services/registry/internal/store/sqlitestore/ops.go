package sqlitestore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// newRecord is a record to insert, as it is kept.
type newRecord struct {
	*job.Execution
	state    state
	seq, job int64
	at       time.Time
	cause    string // empty for a scheduled run
	frozen   string // what it was frozen with, as far as its job's version does not say it

	fire   *store.Fire   // that it comes from, nil for a manual run
	answer *store.Answer // of the fire
}

// newRecord gives an execution the next number.
func (w *writer) newRecord(e *job.Execution, key int64, at time.Time, cause string) (newRecord, error) {
	r := newRecord{Execution: e, job: key, at: at, cause: cause}
	var err error
	if r.state, err = encodeState(e); err != nil {
		return newRecord{}, err
	}
	if r.state.status >= success && (r.state.status != skipped || cause != "") {
		return newRecord{}, fmt.Errorf("record %s: it cannot begin as %s", e.ID, e.Status)
	}
	if e.Seat != 0 {
		return newRecord{}, fmt.Errorf("record %s: it begins without a seat; a later change takes one", e.ID)
	}
	w.seq++
	r.seq = w.seq
	return r, nil
}

// live returns 1 for a record that is not over, else 0.
func (r *newRecord) live() int64 {
	if r.state.status == skipped {
		return 0
	}
	return 1
}

// fire advances the job by a compare-and-set; its record is inserted together
// with those of the fires that follow. Everything else is found out only when one
// of the two meets something.
func (w *writer) fire(f *store.Fire, answer *store.Answer) error {
	e := f.Execution
	if e.Trigger != job.TriggerScheduler || e.Key != w.fireKey(e.ScheduledFor) || !e.ScheduledFor.Equal(f.FireAt) {
		return fmt.Errorf("fire %s: the execution is not the scheduled one for %s", e.ID, f.FireAt)
	}
	key, ok, err := w.jobKey(e.JobID)
	if err != nil {
		return err
	}
	if !ok {
		answer.Outcome = store.Lost
		return nil
	}
	for i := range w.fired {
		if w.fired[i].job == key { // what this one meets depends on that record
			if err := w.insertFired(); err != nil {
				return err
			}
			break
		}
	}
	r, err := w.newRecord(e, key, e.ScheduledFor, "")
	if err != nil {
		return err
	}
	r.fire, r.answer = f, answer
	s := w.advance
	bindInt(s, 1, millis(f.Next))
	if e.Exclusive {
		s.BindInt64(2, r.seq)
	} else {
		s.BindNull(2)
	}
	s.BindInt64(3, r.live())
	s.BindInt64(4, 1-r.live())
	s.BindInt64(5, key)
	s.BindInt64(6, int64(f.Version))
	s.BindInt64(7, millis(f.FireAt))
	n, err := w.step(s)
	if err != nil {
		return err
	}
	if n == 0 {
		if err := w.insertFired(); err != nil {
			return err
		}
		*answer, err = w.fireLost(f, key, &r.state)
		return err
	}
	if w.fired = append(w.fired, r); len(w.fired) == together[0] {
		return w.insertFired()
	}
	return nil
}

// fireKey is [job.FireKey], which the fires of an instant share.
func (w *writer) fireKey(t time.Time) string {
	if w.lastKey == "" || !t.Equal(w.lastFire) {
		w.lastFire, w.lastKey = t, job.FireKey(t)
	}
	return w.lastKey
}

// insertFired inserts the records of the fires that have advanced their jobs, and
// answers these. A job whose record was there already is taken back.
func (w *writer) insertFired() error {
	for rest := w.fired; len(rest) > 0; {
		size := 1
		for _, size = range together {
			if size <= len(rest) {
				break
			}
		}
		group := rest[:size]
		rest = rest[size:]
		n, err := w.insert(group)
		if err != nil {
			return err
		}
		for i := range group {
			r := &group[i]
			r.answer.Outcome = store.Done
			inserted := int64(1)
			if n < size {
				if inserted, err = w.number(`SELECT count(*) FROM executions WHERE seq = ?`, args{r.seq}); err != nil {
					return err
				}
			}
			if inserted == 0 {
				if err := w.takeBack(r); err != nil {
					return err
				}
			} else if r.state.status == skipped {
				if err := w.noteEnd(endOf(r.job, &r.state)); err != nil {
					return err
				}
			}
		}
	}
	clear(w.fired)
	w.fired = w.fired[:0]
	return nil
}

// takeBack undoes the advance of a fire whose record is there already.
func (w *writer) takeBack(r *newRecord) (err error) {
	delete(w.places, r.ID)
	if _, err := w.exec(`UPDATE job_state SET next_run_at = ?, slot = nullif(slot, ?), live = live - ?, skipped = skipped - ? WHERE job = ?`,
		args{r.fire.FireAt, r.seq, r.live(), 1 - r.live(), r.job}); err != nil {
		return err
	}
	*r.answer, err = w.fireLost(r.fire, r.job, &r.state)
	return err
}

// together says how many records one statement can insert: to open the table and
// its indexes costs a third of an insertion.
var together = [...]int{16, 4, 1}

// insert inserts as many records as one of together, and returns how many of them
// were not there by their identity.
func (w *writer) insert(records []newRecord) (int, error) {
	plain := true
	for i := range records {
		r := &records[i]
		var err error
		if r.frozen, err = w.frozen(r); err != nil {
			return 0, fmt.Errorf("record %s: %w", r.ID, err)
		}
		plain = plain && r.plain()
		w.remember(r.ID, place{r.seq, r.job, r.Exclusive})
	}
	s, parameters := w.inserts[len(records)], insertParameters
	if plain {
		s, parameters = w.plainInserts[len(records)], plainParameters
	}
	for i := range records {
		r, p := &records[i], i*parameters
		bindLease(s, p+1, &r.state, r.Execution)
		s.BindInt64(p+10, r.seq)
		s.BindInt64(p+11, r.job)
		s.BindInt64(p+12, millis(r.at))
		s.BindText(p+13, r.cause)
		s.BindInt64(p+14, int64(r.JobVersion))
		s.BindBool(p+15, r.Frozen.Idempotent)
		s.BindInt64(p+16, r.CreatedAt.UnixMilli())
		if !plain {
			bindPast(s, p+17, &r.state)
			bindOptional(s, p+23, r.frozen)
			bindOptional(s, p+24, r.TriggeredByUser)
		}
	}
	return w.step(s)
}

// plain tells whether a record is like nearly all that fires insert: it never
// began, and says nothing that its job's version does not.
func (r *newRecord) plain() bool {
	return r.TriggeredByUser == "" && r.frozen == "" && r.state.neverBegan()
}

// frozen returns what the record was frozen with, or nothing if its job's version
// says the same.
func (w *writer) frozen(r *newRecord) (string, error) {
	def, err := w.version(r.job, int64(r.JobVersion))
	if err != nil {
		return "", err
	}
	if own := def.Freeze(r.Frozen.Idempotent); sameFrozen(&r.Frozen, &own) {
		return "", nil
	}
	return encode(&r.Frozen)
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
		matches := rec.state.status == from && rec.state.token == c.Token && (!c.Uncancelled || !rec.CancelRequested)
		return store.Answer{Outcome: store.Lost, Execution: rec.Execution, SeatTaken: matches}, nil
	}
	for _, e := range c.Follow {
		if err := w.follow(e); err != nil {
			return store.Answer{}, err
		}
	}
	return store.Answer{Outcome: store.Done}, w.audit(c.Audit)
}

// follow inserts an execution that another one calls for, unless it is there.
func (w *writer) follow(e *job.Execution) error {
	text, _, ok := cause(e.Trigger, e.Key)
	if !ok || text == "" || e.Status != job.Pending || e.Leased() || e.Exclusive {
		return fmt.Errorf("follow %s: it is no execution that follows another", e.ID)
	}
	if _, known, err := w.locate(e.ID); known || err != nil {
		return err
	}
	key, ok, err := w.jobKey(e.JobID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("follow %s: there is no job %s", e.ID, e.JobID)
	}
	r, err := w.newRecord(e, key, e.ScheduledFor, text)
	if err != nil {
		return err
	}
	if _, err := w.insert([]newRecord{r}); err != nil {
		return err
	}
	_, err = w.exec(`UPDATE job_state SET live = live + 1 WHERE job = ?`, args{key})
	return err
}

// seatTaken tells whether another record than seq has the seat of e.
func (w *writer) seatTaken(seq int64, e *job.Execution) (bool, error) {
	n, err := w.number(`SELECT count(*) FROM executions WHERE seat = ? AND seq <> ?`, args{seatOf(e), seq})
	return n > 0, err
}

// writeRecord is the compare-and-set of a record, with what follows from it: the
// counts, and the slot that is given up.
func (w *writer) writeRecord(p place, from, token int64, uncancelled bool, st *state, e *job.Execution) (int, error) {
	was := end{at: none}
	if from >= success {
		var err error
		if was, err = w.endKept(p); err != nil {
			return 0, err
		}
	}
	n, err := w.setState(p, from, token, uncancelled, st, e)
	if err != nil || n == 0 {
		return 0, err
	}
	if is := endOf(p.job, st); from < success {
		err = w.noteEnd(is)
	} else {
		err = w.noteCorrection(was, is)
	}
	if err != nil {
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

// setState is the compare-and-set itself.
func (w *writer) setState(p place, from, token int64, uncancelled bool, st *state, e *job.Execution) (int, error) {
	if st.status == from && from < success && e.Seat == 0 && st.neverBegan() {
		s := w.lease
		bindLease(s, 1, st, e)
		s.BindInt64(10, p.seq)
		s.BindInt64(11, token)
		s.BindBool(12, uncancelled)
		if n, err := w.step(s); err != nil || n > 0 {
			return n, err
		}
	}
	s := w.change
	bindState(s, 1, st, e)
	s.BindInt64(16, p.seq)
	s.BindInt64(17, from)
	s.BindInt64(18, token)
	s.BindBool(19, uncancelled)
	bindOptional(s, 20, seatOf(e))
	return w.step(s)
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
