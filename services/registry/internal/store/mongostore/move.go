package mongostore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var _ move.Store = (*Store)(nil)

// Finish implements [move.Store].
func (s *Store) Finish(ctx context.Context, now time.Time) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return understood(err)
	}
	defer leave()
	return understood(s.finish(ctx, now))
}

func (s *Store) finish(ctx context.Context, now time.Time) error {
	// Whatever their age: nobody is still at work on them.
	unconfirmed := bson.D{{Key: "unconfirmed.job_id", Value: bson.D{{Key: "$gt", Value: ""}}}}
	for {
		left, err := s.executions.CountDocuments(ctx, unconfirmed)
		if err != nil {
			return fmt.Errorf("count %s: %w", s.executions.Name(), err)
		}
		if left == 0 {
			break
		}
		if err := s.settleFires(ctx, unconfirmed, mendAtOnce); err != nil {
			return err
		}
	}
	if _, err := s.jobs.DeleteMany(ctx, bson.D{present("provisional")}); err != nil {
		return fmt.Errorf("delete abandoned jobs: %w", err)
	}
	tombstones, err := many[definedJob](ctx, s.jobs, bson.D{{Key: "owes", Value: true}})
	if err != nil {
		return err
	}
	for _, d := range tombstones {
		if err := s.cancelWaiting(ctx, d.ID, now); err != nil {
			return err
		}
	}
	for left := int64(1); left > 0; {
		if err := s.insertAllOwed(ctx); err != nil {
			return err
		}
		if left, err = s.executions.CountDocuments(ctx, bson.D{present("owing")}); err != nil {
			return fmt.Errorf("count %s: %w", s.executions.Name(), err)
		}
	}
	for left := int64(1); left > 0; {
		if err := s.finishUsers(ctx); err != nil {
			return err
		}
		if left, err = s.users.CountDocuments(ctx, bson.D{{Key: "owes", Value: true}}); err != nil {
			return fmt.Errorf("count %s: %w", s.users.Name(), err)
		}
	}
	for left := int64(1); left > 0; {
		if err := s.copyOutAll(ctx); err != nil { // as many as it looks at
			return err
		}
		left = 0
		for _, c := range s.withAudits() {
			n, err := c.CountDocuments(ctx, bson.D{{Key: "audit.n", Value: bson.D{{Key: "$gt", Value: 0}}}})
			if err != nil {
				return fmt.Errorf("count %s: %w", c.Name(), err)
			}
			left += n
		}
	}
	return nil
}

func present(field string) bson.E {
	return bson.E{Key: field, Value: bson.D{{Key: "$exists", Value: true}}}
}

// errStopped ends an export whose reader wants no more.
var errStopped = errors.New("stopped")

// Export implements [move.Store].
func (s *Store) Export(ctx context.Context, kind move.Kind) iter.Seq2[move.Record, error] {
	return func(yield func(move.Record, error) bool) {
		leave, err := s.enter(ctx)
		if err == nil {
			defer leave()
			err = s.export(ctx, kind, func(r move.Record) error {
				if !yield(r, nil) {
					return errStopped
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, understood(err))
		}
	}
}

func (s *Store) export(ctx context.Context, kind move.Kind, yield func(move.Record) error) error {
	switch kind {
	case move.Templates:
		all, err := s.Templates(ctx)
		for i := range all {
			if err := yield(move.Template{Template: all[i]}); err != nil {
				return err
			}
		}
		return err
	case move.Users:
		return each(ctx, s.users, bson.D{}, byID1, func(d *user) error {
			if d.Removed {
				return nil
			}
			return yield(move.User{User: d.decode()})
		})
	case move.Tokens:
		return each(ctx, s.tokens, bson.D{}, byID1, func(d *token) error {
			return yield(move.Token{Token: d.decode()})
		})
	case move.Sessions:
		return each(ctx, s.sessions, bson.D{}, byID1, func(d *session) error {
			r := move.Session{Session: d.decode(), EndedAt: fromDate(d.EndedAt)}
			if len(r.Labels) == 0 { // not every store tells none from empty
				r.Labels = nil
			}
			if len(r.Templates) == 0 {
				r.Templates = nil
			}
			return yield(r)
		})
	case move.Jobs:
		return each(ctx, s.jobs, bson.D{absent("provisional")}, byID1, func(d *definedJob) error {
			j, err := s.complete(ctx, d)
			if err != nil {
				return err
			}
			return yield(move.Job{Job: *j, Fingerprint: d.Fingerprint})
		})
	case move.Executions:
		return each(ctx, s.jobs, bson.D{absent("provisional")}, byID1, func(d *definedJob) error { return s.exportExecutions(ctx, d.ID, yield) })
	case move.Quotas:
		return each(ctx, s.quotas, bson.D{}, byID1, func(d *quota) error { return s.exportQuota(ctx, d, yield) })
	case move.Audits:
		// The index of the page of all, backwards.
		return each(ctx, s.audits, bson.D{}, bson.D{{Key: "at", Value: 1}, {Key: "object", Value: 1}, {Key: "n", Value: 1}}, func(d *auditEntry) error {
			return yield(move.Audit{Number: d.Audit.N, Audit: d.decode().Audit})
		})
	default:
		return fmt.Errorf("records of the kind %q are not known", kind)
	}
}

// each calls f for every document that the filter chooses, in the order given.
func each[T any](ctx context.Context, c *mongo.Collection, filter, sort bson.D, f func(*T) error, o ...options.Lister[options.FindOptions]) (err error) {
	cursor, err := c.Find(ctx, filter, append(o, options.Find().SetSort(sort))...)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.Name(), err)
	}
	defer func() { err = errors.Join(err, cursor.Close(context.WithoutCancel(ctx))) }()
	for cursor.Next(ctx) {
		d := new(T)
		if err := cursor.Decode(d); err != nil {
			return fmt.Errorf("read %s: %w", c.Name(), err)
		}
		if err := f(d); err != nil {
			return err
		}
	}
	if err := cursor.Err(); err != nil {
		return fmt.Errorf("read %s: %w", c.Name(), err)
	}
	return nil
}

// exportAtOnce is for how many executions the logs are read together.
const exportAtOnce = 100

// exportExecutions yields the records of a job in the order of their ids. These
// begin alike, so that the index of _id has them side by side.
func (s *Store) exportExecutions(ctx context.Context, jobID string, yield func(move.Record) error) error {
	prefix := "exec_" + strings.TrimPrefix(jobID, "job_")
	filter := bson.D{
		{Key: "_id", Value: bson.D{{Key: "$gte", Value: prefix + "_"}, {Key: "$lt", Value: prefix + "`"}}}, // the sign after "_"
		{Key: "job_id", Value: jobID},
	}
	var batch []move.Execution
	flush := func() error {
		err := s.exportLogs(ctx, batch)
		for i := 0; i < len(batch) && err == nil; i++ {
			err = yield(batch[i])
		}
		batch = batch[:0]
		return err
	}
	if err := each(ctx, s.executions, filter, byID1, func(d *execution) error {
		e, err := d.decode()
		if err != nil {
			return err
		}
		if batch = append(batch, move.Execution{Execution: *e, LastStartedAt: fromDate(d.LastStartedAt)}); len(batch) < exportAtOnce {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	return flush()
}

// exportLogs adds their logs to the records.
func (s *Store) exportLogs(ctx context.Context, batch []move.Execution) error {
	if len(batch) == 0 {
		return nil
	}
	ids, places := make([]string, len(batch)), make(map[string]int, len(batch))
	for i := range batch {
		ids[i] = batch[i].ID
		places[ids[i]] = i
	}
	return each(ctx, s.logs, bson.D{{Key: "execution_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		bson.D{{Key: "execution_id", Value: 1}, {Key: "token", Value: 1}, {Key: "number", Value: 1}}, func(d *logChunk) error {
			chunk := move.LogChunk{Token: d.Token, Number: d.Number, Lines: make([]job.LogLine, len(d.Lines))}
			for i, l := range d.Lines {
				chunk.Lines[i] = job.LogLine{At: fromDate(l.At), Level: l.Level, Message: l.Message}
			}
			e := &batch[places[d.ExecutionID]]
			e.Logs = append(e.Logs, chunk)
			return nil
		})
}

// exportQuota yields the runs of which there is a record: one that was counted
// only, by a process that died, counts no more.
func (s *Store) exportQuota(ctx context.Context, d *quota, yield func(move.Record) error) error {
	farAhead := time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
	runs, err := s.recorded(ctx, d.Runs, farAhead)
	if err != nil || len(runs) == 0 {
		return err
	}
	q := move.Quota{User: d.User}
	for _, r := range runs {
		q.Runs = append(q.Runs, move.ManualRun{At: fromDate(&r.At), Execution: r.Execution})
	}
	q.Sort()
	return yield(q)
}

// Import implements [move.Store]. What a document rests on is written before it,
// so that the document is the proof that all of it is there.
func (s *Store) Import(ctx context.Context, records []move.Record) (inserted int, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, understood(err)
	}
	defer leave()
	into, documents, err := s.documents(ctx, records)
	if err == nil {
		inserted, err = insertAbsent(ctx, into, documents)
	}
	return inserted, understood(err)
}

// documents turns records of one kind into those that are to be inserted, having
// written what they rest on.
func (s *Store) documents(ctx context.Context, records []move.Record) (into *mongo.Collection, documents []any, err error) {
	var chunks []any
	audits := map[string]int{} // the highest number of each object
	for _, r := range records {
		switch r := r.(type) {
		case move.Template:
			into, documents = s.templates, append(documents, toTemplate(&r.Template))
		case move.User:
			into, documents = s.users, append(documents, user{Name: r.Name, Role: r.Role, PasswordHash: r.PasswordHash, CreatedAt: date(r.CreatedAt)})
		case move.Token:
			into, documents = s.tokens, append(documents, toToken(&r.Token))
		case move.Session:
			d := toSession(&r.Session)
			d.EndedAt = maybeDate(r.EndedAt)
			into, documents = s.sessions, append(documents, d)
		case move.Job:
			into, documents = s.jobs, append(documents, movedJob(r))
		case move.Execution:
			d := toExecution(&r.Execution)
			if r.Status.Ended() && !r.CompletedAt.IsZero() {
				settled := settledAt(date(r.CompletedAt))
				d.Settled = &settled
			}
			if r.LastStartedAt.After(r.StartedAt) {
				d.LastStartedAt = maybeDate(r.LastStartedAt)
			}
			into, documents = s.executions, append(documents, d)
			for _, c := range r.Logs {
				chunks = append(chunks, toChunk(&store.AppendLog{ID: r.ID, Token: c.Token, Number: c.Number, Lines: c.Lines}))
			}
		case move.Quota:
			d := quota{User: r.User, Revision: 1}
			for _, run := range r.Runs {
				d.Runs = append(d.Runs, quotaRun{date(run.At), run.Execution})
			}
			into, documents = s.quotas, append(documents, d)
		case move.Audit:
			audits[r.Object] = max(audits[r.Object], r.Number)
			into, documents = s.audits, append(documents, auditEntry{ID: fmt.Sprintf("%s/%d", r.Object, r.Number), Audit: *toAudit(&r.Audit, r.Number)})
		default:
			return nil, nil, fmt.Errorf("a record of the type %T is not known", r)
		}
	}
	if _, err := insertAbsent(ctx, s.logs, chunks); err != nil {
		return nil, nil, err
	}
	if into == s.executions {
		// What moves is settled as of its end, perhaps before what was counted.
		if _, err := update(ctx, s.meta, byID(rollUpID), bson.D{
			{Key: "$inc", Value: bson.D{{Key: "round", Value: int64(1)}}}, {Key: "$unset", Value: bson.D{{Key: "counted", Value: ""}}},
		}); err != nil {
			return nil, nil, err
		}
	}
	return into, documents, s.raiseAudits(ctx, audits)
}

// movedJob is a job as it is kept.
func movedJob(j move.Job) *definedJob {
	d := toJob(&j.Job)
	d.Fingerprint = j.Fingerprint
	return d
}

// insertAbsent inserts those documents whose ids are not there.
func insertAbsent(ctx context.Context, c *mongo.Collection, documents []any) (inserted int, err error) {
	if len(documents) == 0 {
		return 0, nil
	}
	_, err = c.InsertMany(ctx, documents, options.InsertMany().SetOrdered(false))
	met := 0
	if e, ok := errors.AsType[mongo.BulkWriteException](err); ok && e.WriteConcernError == nil {
		for _, w := range e.WriteErrors {
			if !mongo.IsDuplicateKeyError(w) {
				return 0, fmt.Errorf("insert into %s: %w", c.Name(), err)
			}
			met++
		}
		err = nil
	}
	if err != nil {
		return 0, fmt.Errorf("insert into %s: %w", c.Name(), err)
	}
	return len(documents) - met, nil
}

// raiseAudits makes the objects count on from their highest audits.
func (s *Store) raiseAudits(ctx context.Context, highest map[string]int) error {
	writes := map[*mongo.Collection][]mongo.WriteModel{}
	for object, n := range highest {
		homes := []*mongo.Collection{s.users, s.sessions} // their ids have no form of their own
		switch {
		case strings.HasPrefix(object, "job_"):
			homes = []*mongo.Collection{s.jobs}
		case strings.HasPrefix(object, "exec_"):
			homes = []*mongo.Collection{s.executions}
		}
		for _, home := range homes {
			writes[home] = append(writes[home], mongo.NewUpdateOneModel().SetFilter(byID(object)).
				SetUpdate(bson.D{{Key: "$max", Value: bson.D{{Key: "audits", Value: n}}}}))
		}
	}
	for home, models := range writes {
		if _, err := home.BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false)); err != nil {
			return fmt.Errorf("change %s: %w", home.Name(), err)
		}
	}
	return nil
}
