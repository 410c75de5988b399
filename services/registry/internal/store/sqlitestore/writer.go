package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"zombiezen.com/go/sqlite"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	// maxBatch is how many operations one transaction takes.
	maxBatch = 4096
	// maxUrgent of them may be urgent while others wait, so that these are
	// never starved.
	maxUrgent = maxBatch * 3 / 4
)

// task is something to write: operations of Do, each answered by itself, or one
// function.
type task struct {
	now     time.Time
	ops     []store.Op
	answers []store.Answer
	run     func(w *writer) error
	err     error // of run
	left    int   // operations not yet answered; the writer's
	done    chan struct{}
}

func (t *task) size() int {
	if t.run != nil {
		return 1
	}
	return len(t.ops)
}

// part is a range of a task's operations.
type part struct {
	*task
	from, to int
}

// queue gathers tasks for the writer. It is safe for concurrent use.
type queue struct {
	mu     sync.Mutex
	urgent []part
	others []part
	closed bool
	wake   chan struct{} // holds one when there may be something to take
}

// put adds a task; false when the store is closed.
func (q *queue) put(t *task, urgent bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	p := part{t, 0, t.size()}
	if urgent {
		q.urgent = append(q.urgent, p)
	} else {
		q.others = append(q.others, p)
	}
	q.signal()
	return true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close refuses what comes from now on; what is queued is still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// take returns what the next transaction holds; over tells that nothing will
// come any more.
func (q *queue) take(into []part) (batch []part, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := maxBatch
	if len(q.others) > 0 {
		room = maxUrgent
	}
	batch, q.urgent, room = fill(into, q.urgent, room)
	if len(q.others) > 0 {
		batch, q.others, _ = fill(batch, q.others, room+maxBatch-maxUrgent)
	}
	return batch, q.closed && len(batch) == 0
}

// fill moves parts with room operations at most from one list to the other,
// splitting the last.
func fill(batch, from []part, room int) (_, rest []part, left int) {
	n := 0
	for n < len(from) && room > 0 {
		p := from[n]
		if p.to-p.from > room {
			batch = append(batch, part{p.task, p.from, p.from + room})
			from[n].from += room
			room = 0
			break
		}
		batch = append(batch, p)
		room -= p.to - p.from
		n++
	}
	clear(from[:n]) // for the garbage collector
	if n == len(from) {
		return batch, from[:0], room
	}
	return batch, from[n:], room
}

// writer owns the only connection that writes.
type writer struct {
	data
	s *Store
	hot
	// seq is the number of the last execution.
	seq int64
	// places remembers where recent records are; only those of this
	// transaction or of committed ones.
	places map[string]place
	tally  map[[2]int64]*sqlite.Stmt
	// fired are inserted before anything else is done.
	fired    []newRecord
	lastFire time.Time // that lastKey belongs to
	lastKey  string
	ended    []byte // what this transaction has yet to append to the queue for RollUp
	noted    int    // ends in it
	batch    []part
	single   [1]part
}

const maxPlaces = 1 << 17

// Parameters of a record to insert; those of a plain one (newRecord.plain) come
// first.
const (
	insertParameters = 24
	plainParameters  = 16
)

// hot are the statements of the paths that every run takes.
type hot struct {
	begin, commit, rollback *sqlite.Stmt
	advance, change, lease  *sqlite.Stmt
	queueEnds               *sqlite.Stmt
	inserts, plainInserts   map[int]*sqlite.Stmt // by how many records
}

func newWriter(s *Store, c *conn) (*writer, error) {
	w := &writer{data: data{conn: c, cache: s.cache}, s: s, places: map[string]place{}, tally: map[[2]int64]*sqlite.Stmt{}}
	for _, h := range []struct {
		stmt **sqlite.Stmt
		text string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.commit, `COMMIT`},
		{&w.rollback, `ROLLBACK`},
		{&w.queueEnds, `INSERT INTO ended (ends) VALUES (?)`},
		{&w.advance, `UPDATE job_state SET next_run_at = ?1, slot = coalesce(slot, ?2), live = live + ?3, skipped = skipped + ?4
			WHERE job = ?5 AND version = ?6 AND next_run_at = ?7 AND (?2 IS NULL OR slot IS NULL)`},
		{&w.change, `UPDATE executions SET seat = ?20, (` + stateColumns + `) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, exclusive & ?9, ?10, ?11, ?12, ?13, ?14, ?15)
			WHERE seq = ?16 AND status = ?17 AND token = ?18 AND (?19 = 0 OR cancel IS NULL)`},
		// A change of what begins, without the columns of the indexes that only ends and
		// seats are in: SQLite opens all that an update might concern.
		{&w.lease, `UPDATE executions SET (token, session, stream, number, host, queue, wake_at, exclusive) = (?2, ?3, ?4, ?5, ?6, ?7, ?8, exclusive & ?9),
			own_attempt = 0, started_at = NULL, isolation = NULL, result = NULL, detail = NULL
			WHERE seq = ?10 AND status = ?1 AND token = ?11 AND (?12 = 0 OR cancel IS NULL) AND completed_at IS NULL AND seat IS NULL`},
	} {
		stmt, err := c.Prepare(h.text)
		if err != nil {
			return nil, err
		}
		*h.stmt = stmt
	}
	w.inserts, w.plainInserts = map[int]*sqlite.Stmt{}, map[int]*sqlite.Stmt{}
	const plain = leaseColumns + `, seq, job, at, cause, version, idempotent, created_at`
	for _, kind := range []struct {
		by         map[int]*sqlite.Stmt
		columns    string
		parameters int
	}{
		{w.inserts, plain + `, ` + pastColumns + `, frozen, triggered_by`, insertParameters},
		{w.plainInserts, plain, plainParameters},
	} {
		for _, n := range together {
			rows := strings.Repeat(`, (`+marks(kind.parameters)+`)`, n)[2:]
			stmt, err := c.Prepare(`INSERT INTO executions (` + kind.columns + `) VALUES ` + rows + ` ON CONFLICT DO NOTHING`)
			if err != nil {
				return nil, err
			}
			kind.by[n] = stmt
		}
	}
	var err error
	w.seq, err = w.lastSeq()
	return w, err
}

func (w *writer) lastSeq() (int64, error) {
	return w.number(`SELECT coalesce(max(seq), 0) FROM executions`, nil)
}

// loop writes until the queue is closed and empty. There is no timer: it commits
// what has gathered as soon as it is free.
func (w *writer) loop() {
	for {
		select {
		case pause := <-w.s.pause:
			<-pause
		default:
		}
		batch, over := w.s.queue.take(w.batch[:0])
		if over {
			return
		}
		if len(batch) == 0 {
			select {
			case <-w.s.queue.wake:
			case pause := <-w.s.pause:
				<-pause
			}
			continue
		}
		w.perform(batch)
		w.batch = batch
		clear(batch)
	}
}

// perform commits a batch and answers it. When one operation fails for a reason
// of its own, all are tried again one by one, so that it spoils only itself.
func (w *writer) perform(batch []part) {
	n := 0
	for _, p := range batch {
		n += p.to - p.from
	}
	err := w.attempt(batch)
	if err != nil && n > 1 && !storage(err) {
		for _, p := range batch {
			for i := p.from; i < p.to; i++ {
				w.single[0] = part{p.task, i, i + 1}
				w.finish(w.single[:], w.attempt(w.single[:]))
			}
		}
		return
	}
	w.finish(batch, err)
}

// finish answers the parts of a transaction that ended with err.
func (w *writer) finish(batch []part, err error) {
	n := 0
	for _, p := range batch {
		if err != nil {
			failure := unavailable(err)
			if p.run != nil {
				p.err = failure
			}
			for i := p.from; i < p.to && p.run == nil; i++ {
				p.answers[i] = store.Answer{Err: failure}
			}
		}
		n += p.to - p.from
		if p.left -= p.to - p.from; p.left == 0 {
			close(p.done)
		}
	}
	w.s.note(err)
	if err == nil {
		w.s.written(n)
	}
}

// attempt performs the batch in one transaction. On an error nothing of it
// happened.
func (w *writer) attempt(batch []part) (err error) {
	if _, err := w.step(w.begin); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	seq := w.seq
	w.fired, w.ended, w.noted = w.fired[:0], w.ended[:0], 0
	for _, p := range batch {
		if err = w.part(p); err != nil {
			break
		}
	}
	if err == nil {
		err = w.flushEnds()
	}
	if err == nil {
		if _, err = w.step(w.commit); err != nil {
			err = fmt.Errorf("commit: %w", err)
		}
	}
	if w.defining {
		w.cache.edited()
		w.defining = false
	}
	if err != nil {
		// SQLite may have rolled back already.
		if !w.AutocommitEnabled() {
			if _, rerr := w.step(w.rollback); rerr != nil {
				err = errors.Join(err, fmt.Errorf("roll back: %w", rerr))
			}
		}
		w.seq = seq
		clear(w.places)
	}
	return err
}

func (w *writer) part(p part) error {
	if p.run != nil {
		p.err = p.run(w)
		if p.err != nil && !refusal(p.err) {
			return p.err
		}
		return nil
	}
	for i := p.from; i < p.to; i++ {
		var err error
		p.answers[i] = store.Answer{}
		if f, ok := p.ops[i].(*store.Fire); ok {
			err = w.fire(f, &p.answers[i])
		} else if err = w.insertFired(); err == nil {
			p.answers[i], err = w.do(p.now, p.ops[i])
		}
		if err != nil {
			return err
		}
	}
	return w.insertFired()
}

func (w *writer) do(now time.Time, op store.Op) (store.Answer, error) {
	switch op := op.(type) {
	case *store.Change:
		return w.changeRecord(op)
	case *store.Beat:
		return w.beat(now, op)
	case *store.EndSession:
		return w.endSession(now, op)
	case *store.AppendLog:
		return w.appendLog(op)
	default:
		return store.Answer{}, fmt.Errorf("operation %T is not known", op)
	}
}

// urgent tells whether the operations hand out work: they go ahead of results.
func urgent(ops []store.Op) bool {
	for _, op := range ops {
		switch op := op.(type) {
		case *store.Fire:
			return true
		case *store.Change:
			if !op.Status.Ended() && op.To.Leased() && op.To.Token != op.Token {
				return true
			}
		}
	}
	return false
}

// Do implements [store.Store].
func (s *Store) Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer {
	if len(ops) == 0 {
		return nil
	}
	t := &task{now: now, ops: ops, answers: make([]store.Answer, len(ops)), left: len(ops), done: make(chan struct{})}
	if err := s.submit(ctx, t, urgent(ops)); err != nil {
		answers := make([]store.Answer, len(ops)) // the writer may still write to the others
		for i := range answers {
			answers[i].Err = err
		}
		return answers
	}
	return t.answers
}

// write runs f in a transaction of the writer. What f returns besides refusals
// rolls back and comes wrapped as unavailable. A refusing f has written nothing.
func (s *Store) write(ctx context.Context, f func(w *writer) error) error {
	return s.writeWhen(ctx, true, f)
}

// writeWhen is write, ahead of results when it is urgent, else after those that
// were there before.
func (s *Store) writeWhen(ctx context.Context, urgent bool, f func(w *writer) error) error {
	t := &task{run: f, left: 1, done: make(chan struct{})}
	if err := s.submit(ctx, t, urgent); err != nil {
		return err
	}
	return t.err
}

// submit waits until the task is done. On an error it may still be done later.
func (s *Store) submit(ctx context.Context, t *task, urgent bool) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	if !s.queue.put(t, urgent) {
		return unavailable(errClosed)
	}
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

var errClosed = errors.New("the store is closed")

func unavailable(err error) error {
	if errors.Is(err, job.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", job.ErrUnavailable, err)
}

// refusal tells whether an error is an answer: nothing went wrong, and nothing
// was written.
func refusal(err error) bool {
	var slot *job.SlotHeldError
	var limit *job.LimitError
	if errors.As(err, &slot) || errors.As(err, &limit) {
		return true
	}
	for _, known := range []error{
		job.ErrNotFound, job.ErrNameTaken, job.ErrVersion, job.ErrConflict, job.ErrEnded, job.ErrKeyReused, job.ErrUserExists, job.ErrLastAdmin,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// storage tells whether an error concerns the database rather than one
// operation.
func storage(err error) bool {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultConstraint, sqlite.ResultTooBig, sqlite.ResultMismatch, sqlite.ResultRange, sqlite.ResultError, sqlite.ResultOK:
		return false
	default:
		return true
	}
}

// note remembers whether the last transaction failed because of the database,
// and logs when that changes.
func (s *Store) note(err error) {
	if err != nil && !storage(err) {
		s.log.Error("An operation failed", zap.Error(err))
		return
	}
	s.mu.Lock()
	before := s.trouble
	s.trouble = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("The store takes no writes", zap.Error(err))
	case err == nil && before != nil:
		s.log.Info("The store takes writes again")
	}
}
