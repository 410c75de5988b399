package mongostore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Do implements [store.Store]. Operations on the same thing run in the order
// given, others at the same time. After one that is unknown those that follow on
// the same thing are not performed, and unknown too: they may rest on it.
func (s *Store) Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer {
	answers := make([]store.Answer, len(ops))
	leave, err := s.enter(ctx)
	if err != nil {
		for i := range answers {
			answers[i].Err = understood(err)
		}
		return answers
	}
	defer leave()
	var working sync.WaitGroup
	for _, places := range partition(ops) {
		working.Go(func() {
			var failed error
			for _, i := range places {
				if failed == nil {
					answers[i], failed = s.perform(ctx, now, ops[i])
				}
				if failed != nil {
					answers[i] = store.Answer{Err: failed}
				}
			}
		})
	}
	working.Wait()
	return answers
}

// partition returns, for each thing that the operations are about, which those
// are: a job that is fired with all its executions, else an execution, or a
// session.
func partition(ops []store.Op) [][]int {
	fired := map[string]bool{}
	for _, op := range ops {
		if f, ok := op.(*store.Fire); ok {
			fired[f.Execution.JobID] = true
		}
	}
	of := func(executionID string) string {
		if id, _, _, ok := job.ParseExecutionID(executionID); ok && fired[id] {
			return id
		}
		return executionID
	}
	groups := map[string]int{}
	var places [][]int
	for i, op := range ops {
		var key string
		switch op := op.(type) {
		case *store.Fire:
			key = op.Execution.JobID
		case *store.Change:
			key = of(op.To.ID)
		case *store.AppendLog:
			key = of(op.ID)
		case *store.Beat:
			key = op.Session
		case *store.EndSession:
			key = op.Session
		}
		g, ok := groups[key]
		if !ok {
			g = len(places)
			groups[key], places = g, append(places, nil)
		}
		places[g] = append(places[g], i)
	}
	return places
}

// perform does one operation when there is a connection for it. The error is why
// the answer is not known.
func (s *Store) perform(ctx context.Context, now time.Time, op store.Op) (a store.Answer, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return store.Answer{}, understood(ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch op := op.(type) {
	case *store.Fire:
		a, err = s.fire(ctx, op)
	case *store.Change:
		a, err = s.change(ctx, op)
	case *store.Beat:
		a, err = s.beat(ctx, now, op)
	case *store.EndSession:
		a, err = s.endSession(ctx, now, op)
	case *store.AppendLog:
		a, err = s.appendLog(ctx, op)
	default:
		err = fmt.Errorf("operation %T is not known", op)
	}
	if err != nil {
		return store.Answer{}, fmt.Errorf("%w: %w", job.ErrUnavailable, err)
	}
	return a, nil
}

// change is one update; it reads only when that finds nothing, or when an audit
// goes with it.
func (s *Store) change(ctx context.Context, c *store.Change) (store.Answer, error) {
	id := c.To.ID
	for range tries {
		had := 0
		var over *execution
		if c.Audit != nil || c.Status.Ended() {
			have, err := one[execution](ctx, s.executions, byID(id))
			if err != nil {
				return store.Answer{}, err
			}
			if have == nil {
				return lost, nil
			}
			if err := s.copyOut(ctx, s.executions, id, have.Audit); err != nil {
				return store.Answer{}, err
			}
			had = have.Audits
			if c.Status.Ended() {
				over = have
			}
		}
		filter := bson.D{{Key: "_id", Value: id}, {Key: "status", Value: string(c.Status)}, {Key: "token", Value: c.Token}}
		if c.Uncancelled {
			filter = append(filter, absent("cancel_requested"))
		}
		matched, seatTaken, err := s.writeState(ctx, filter, over, c.To, c.Audit, had, c.Follow)
		if err != nil {
			return store.Answer{}, err
		}
		if matched {
			s.insertOwedNew(ctx, id, c.Follow)
			s.copyOutNew(ctx, s.executions, id, c.Audit, had)
			return store.Answer{Outcome: store.Done}, nil
		}
		have, err := one[execution](ctx, s.executions, byID(id))
		if err != nil {
			return store.Answer{}, err
		}
		if have == nil {
			return lost, nil
		}
		if err := s.insertOwed(ctx, id, have.Owed); err != nil {
			return store.Answer{}, err
		}
		stands, err := have.decode()
		if err != nil {
			return store.Answer{}, err
		}
		want, err := kept(c.To)
		if err != nil {
			return store.Answer{}, err
		}
		if sameState(stands, want) {
			return store.Answer{Outcome: store.Done}, nil
		}
		if still := stands.Status == c.Status && stands.Token == c.Token && (!c.Uncancelled || !stands.CancelRequested); !still {
			return store.Answer{Outcome: store.Lost, Execution: stands}, nil
		} else if seatTaken {
			return store.Answer{Outcome: store.Lost, Execution: stands, SeatTaken: true}, nil
		}
		// Only another audit came in between, or something was owed still.
	}
	return store.Answer{}, fmt.Errorf("change %s: %w", id, errRestless)
}

// writeState is the compare-and-set of a record. It confirms the record: whoever
// changes one has made sure that it may be relied on. What follows is owed from
// then on; nothing else may be. over is the record as it was read, if it was
// over.
func (s *Store) writeState(
	ctx context.Context, filter bson.D, over *execution, to *job.Execution, a *store.Audit, had int, follow []*job.Execution,
) (matched, seatTaken bool, err error) {
	sets, unsets, err := replacement(toState(to), optional)
	if err != nil {
		return false, false, err
	}
	unsets = append(unsets, bson.E{Key: "unconfirmed", Value: ""})
	if !to.Exclusive {
		unsets = append(unsets, bson.E{Key: "exclusive_key", Value: ""})
	}
	filter, sets = audited(filter, sets, a, had)
	if len(follow) > 0 {
		filter = append(filter, absent("owing"))
		sets = append(sets, bson.E{Key: "owing", Value: follow[0].ID}, bson.E{Key: "owed", Value: toOwed(follow)})
	}
	u := changes(sets, unsets)
	if over == nil && to.Status.Ended() {
		u = append(u, settles)
	} else if over != nil && !countsTheSame(over, to) {
		u = append(u, settles)
		if over.Settled != nil && over.State.CompletedAt != nil {
			filter = append(filter, bson.E{Key: "settled", Value: *over.Settled})
			u = append(u, bson.E{Key: "$push", Value: bson.D{{Key: "corrected", Value: correction{*over.Settled, *over.State.CompletedAt}}}})
		}
	}
	if !to.StartedAt.IsZero() {
		u = append(u, bson.E{Key: "$max", Value: bson.D{{Key: "last_started_at", Value: date(to.StartedAt)}}})
	}
	matched, err = update(ctx, s.executions, filter, u)
	if duplicate(err) {
		return false, true, nil
	}
	return matched, false, err
}

// settles has the server note when a record ends, or its end is corrected. The
// time is a logical one, which only grows, whichever server writes it.
var settles = bson.E{Key: "$currentDate", Value: bson.D{{Key: "settled", Value: bson.D{{Key: "$type", Value: "timestamp"}}}}}

// countsTheSame tells whether an end counts as it did before.
func countsTheSame(over *execution, to *job.Execution) bool {
	a, b := over.State, toState(to)
	return a.Status == b.Status && equal(a.StartedAt, b.StartedAt) && equal(a.CompletedAt, b.CompletedAt)
}

func equal(a, b *bson.DateTime) bool { return a == b || a != nil && b != nil && *a == *b }

func toOwed(follow []*job.Execution) []*execution {
	owed := make([]*execution, len(follow))
	for i, e := range follow {
		owed[i] = toExecution(e)
	}
	return owed
}

// insertOwed inserts the executions that a record owes, each at most once, and
// takes the mark off.
func (s *Store) insertOwed(ctx context.Context, id string, owed []*execution) error {
	if len(owed) == 0 {
		return nil
	}
	for _, d := range owed {
		if _, err := insert(ctx, s.executions, d); err != nil {
			return err
		}
	}
	_, err := update(ctx, s.executions, bson.D{{Key: "_id", Value: id}, {Key: "owing", Value: owed[0].ID}},
		bson.D{{Key: "$unset", Value: bson.D{{Key: "owing", Value: ""}, {Key: "owed", Value: ""}}}})
	return err
}

// insertOwedNew does it for what a change called for just now. An error is only
// logged: what is owed is safe where it is, and Mend inserts it.
func (s *Store) insertOwedNew(ctx context.Context, id string, follow []*job.Execution) {
	if err := s.insertOwed(ctx, id, toOwed(follow)); err != nil {
		s.log.Warn("what follows an execution is not recorded yet", zap.String("id", id), zap.Error(err))
	}
}

// insertAllOwed inserts what processes that died left owing.
func (s *Store) insertAllOwed(ctx context.Context) error {
	found, err := many[execution](ctx, s.executions, bson.D{present("owing")}, options.Find().SetLimit(mendAtOnce))
	if err != nil {
		return err
	}
	for _, d := range found {
		if err := s.insertOwed(ctx, d.ID, d.Owed); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) beat(ctx context.Context, now time.Time, b *store.Beat) (store.Answer, error) {
	matched, err := update(ctx, s.sessions,
		bson.D{{Key: "_id", Value: b.Session}, absent("ended_at"), {Key: "count", Value: bson.D{{Key: "$lte", Value: b.Count}}}},
		set(bson.E{Key: "count", Value: b.Count}, bson.E{Key: "running", Value: b.Running}, bson.E{Key: "stopping", Value: b.Stopping},
			bson.E{Key: "last_beat_at", Value: date(now)}))
	if err != nil || matched {
		return store.Answer{Outcome: store.Done}, err
	}
	live, err := s.liveSession(ctx, b.Session)
	return doneIf(live != nil), err
}

func (s *Store) endSession(ctx context.Context, now time.Time, e *store.EndSession) (store.Answer, error) {
	matched, err := update(ctx, s.sessions, bson.D{{Key: "_id", Value: e.Session}, {Key: "count", Value: e.Count}, absent("ended_at")},
		set(bson.E{Key: "ended_at", Value: date(now)}))
	if err != nil || matched {
		return store.Answer{Outcome: store.Done}, err
	}
	live, err := s.liveSession(ctx, e.Session)
	return doneIf(live == nil), err
}

func doneIf(done bool) store.Answer {
	if done {
		return store.Answer{Outcome: store.Done}
	}
	return lost
}

// logChunk is a part of an attempt's log as it is kept.
type logChunk struct {
	ID          string    `bson:"_id"`
	ExecutionID string    `bson:"execution_id"`
	Token       int64     `bson:"token"`
	Number      int       `bson:"number"`
	Count       int       `bson:"count"` // of lines
	Lines       []logLine `bson:"lines"`
}

type logLine struct {
	At      *bson.DateTime `bson:"timestamp"`
	Level   string         `bson:"level"`
	Message string         `bson:"message"`
}

func toChunk(a *store.AppendLog) logChunk {
	c := logChunk{
		ID: fmt.Sprintf("%s/%d/%d", a.ID, a.Token, a.Number), ExecutionID: a.ID, Token: a.Token, Number: a.Number,
		Count: len(a.Lines), Lines: make([]logLine, len(a.Lines)),
	}
	for i, l := range a.Lines {
		c.Lines[i] = logLine{maybeDate(l.At), l.Level, l.Message}
	}
	return c
}

func (s *Store) appendLog(ctx context.Context, a *store.AppendLog) (store.Answer, error) {
	there, err := one[execution](ctx, s.executions, byID(a.ID), options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil || there == nil {
		return lost, err
	}
	_, err = insert(ctx, s.logs, toChunk(a))
	return doneIf(true), err
}
