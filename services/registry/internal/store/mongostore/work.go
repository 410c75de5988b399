package mongostore

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// inShare adds the condition that a document belongs to the share.
func inShare(filter bson.D, share *job.Share) bson.D {
	buckets, all := share.Buckets()
	if all {
		return filter
	}
	return append(filter, bson.E{Key: "bucket", Value: bson.D{{Key: "$in", Value: buckets}}})
}

// DueJobs implements [store.Work].
func (s *Store) DueJobs(ctx context.Context, share *job.Share, until time.Time, after *job.Job, limit int) (due []*job.Job, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		bounds := bson.D{{Key: "$lte", Value: date(until)}}
		filter := bson.D{}
		if after != nil {
			at := date(after.NextRunAt)
			bounds = append(bounds, bson.E{Key: "$gte", Value: at})
			filter = append(filter, bson.E{Key: "$or", Value: bson.A{
				bson.D{{Key: "next_run_at", Value: bson.D{{Key: "$gt", Value: at}}}},
				bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after.ID}}}},
			}})
		}
		filter = inShare(append(bson.D{{Key: "next_run_at", Value: bounds}}, filter...), share)
		found, err := many[definedJob](ctx, s.jobs, filter,
			options.Find().SetSort(bson.D{{Key: "next_run_at", Value: 1}, {Key: "_id", Value: 1}}).SetLimit(int64(limit)))
		if err != nil {
			return err
		}
		due = make([]*job.Job, len(found))
		for i, d := range found {
			if due[i], err = d.decode(); err != nil {
				return err
			}
		}
		return nil
	})
	return due, err
}

// Queues implements [store.Work].
func (s *Store) Queues(ctx context.Context) (queues []job.Queue, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		// From one queue to the next by the index, however many wait in each.
		for last := ""; ; {
			next, err := one[struct {
				Queue string `bson:"queue"`
			}](ctx, s.executions, bson.D{{Key: "queue", Value: bson.D{{Key: "$gt", Value: last}}}},
				options.FindOne().SetSort(bson.D{{Key: "queue", Value: 1}}).SetProjection(bson.D{{Key: "queue", Value: 1}}))
			if err != nil || next == nil {
				return err
			}
			q, err := job.ParseQueue(next.Queue)
			if err != nil {
				return err
			}
			queues, last = append(queues, q), next.Queue
		}
	})
	return queues, err
}

// ordered reads a page of records by a field that is theirs alone, strictly
// after one value and before another, and returns those that may be relied on.
func (s *Store) ordered(ctx context.Context, filter bson.D, field, after, before string, share *job.Share, limit int) (page []*job.Execution, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for from := after; len(page) < limit; {
			bounds := bson.D{{Key: "$gt", Value: from}}
			if before != "" {
				bounds = append(bounds, bson.E{Key: "$lt", Value: before})
			}
			missing := limit - len(page)
			narrow := inShare(append(append(bson.D{}, filter...), bson.E{Key: field, Value: bounds}), share)
			found, err := many[execution](ctx, s.executions, narrow, options.Find().SetSort(bson.D{{Key: field, Value: 1}}).SetLimit(int64(missing)))
			if err != nil {
				return err
			}
			more := len(found) == missing
			if more {
				from = place(found[missing-1], field)
			}
			if found, err = s.reliable(ctx, found); err != nil {
				return err
			}
			for _, d := range found {
				e, err := d.decode()
				if err != nil {
					return err
				}
				page = append(page, e)
			}
			if !more {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// place is what the record has in one of the fields that order records.
func place(d *execution, field string) string {
	switch field {
	case wakeOrder:
		return d.State.WakeOrder
	case alarmOrder:
		return d.State.AlarmOrder
	default:
		return d.State.Held
	}
}

// The fields that order records.
const (
	wakeOrder  = "wake_order"
	alarmOrder = "alarm_order"
	held       = "held"
)

// Waiting implements [store.Work].
func (s *Store) Waiting(ctx context.Context, q job.Queue, share *job.Share, until time.Time, after *job.Execution, limit int) ([]*job.Execution, error) {
	from := ""
	if after != nil {
		from = order(after.WakeAt, after.ID)
	}
	return s.ordered(ctx, bson.D{{Key: "queue", Value: q.String()}}, wakeOrder, from, upTo(until), share, limit)
}

// Held implements [store.Work].
func (s *Store) Held(ctx context.Context, share *job.Share, after *job.Execution, limit int) ([]*job.Execution, error) {
	from := ""
	if after != nil {
		from = after.ID
	}
	return s.ordered(ctx, bson.D{}, held, from, "", share, limit)
}

// Overdue implements [store.Work].
func (s *Store) Overdue(ctx context.Context, share *job.Share, now time.Time, limit int) ([]*job.Execution, error) {
	return s.ordered(ctx, bson.D{}, alarmOrder, "", upTo(now), share, limit)
}

// Find implements [store.Work].
func (s *Store) Find(ctx context.Context, ids []string) (all []*job.Execution, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[execution](ctx, s.executions, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}})
		if err != nil {
			return err
		}
		if found, err = s.reliable(ctx, found); err != nil {
			return err
		}
		all = make([]*job.Execution, len(found))
		for i, d := range found {
			if all[i], err = d.decode(); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

const (
	// halfDoneAfter is how old a fire is at least that Mend takes for half done: a
	// living process is done with it long before.
	halfDoneAfter = 2 * patience
	// owesFor is how long a tombstone is looked at again: a run that was started by
	// hand meanwhile may appear only then.
	owesFor = time.Minute
	// abandonedAfter is how old a provisional job is that nobody works on.
	abandonedAfter = time.Minute
	// mendAtOnce is how many of each kind one Mend looks at.
	mendAtOnce = 500
)

// Mend implements [store.Work].
func (s *Store) Mend(ctx context.Context, now time.Time) error {
	return s.call(ctx, func(ctx context.Context) error {
		if err := s.settleFires(ctx, bson.D{
			{Key: "unconfirmed.job_id", Value: bson.D{{Key: "$gt", Value: ""}}},
			{Key: "created_at", Value: bson.D{{Key: "$lte", Value: date(now.Add(-halfDoneAfter))}}},
		}, mendAtOnce); err != nil {
			return err
		}
		tombstones, err := many[definedJob](ctx, s.jobs, bson.D{{Key: "owes", Value: true}}, options.Find().SetLimit(mendAtOnce))
		if err != nil {
			return err
		}
		for _, d := range tombstones {
			if err := s.cancelWaiting(ctx, d.ID, now); err != nil {
				return err
			}
			if d.DeletedAt.Time().Before(now.Add(-owesFor)) {
				if _, err := update(ctx, s.jobs, byID(d.ID), bson.D{{Key: "$unset", Value: bson.D{{Key: "owes", Value: ""}}}}); err != nil {
					return err
				}
			}
		}
		if _, err := s.jobs.DeleteMany(ctx, bson.D{{Key: "provisional", Value: bson.D{{Key: "$lt", Value: date(now.Add(-abandonedAfter))}}}}); err != nil {
			return fmt.Errorf("delete abandoned jobs: %w", err)
		}
		if err := s.insertAllOwed(ctx); err != nil {
			return err
		}
		if err := s.finishUsers(ctx); err != nil {
			return err
		}
		return s.copyOutAll(ctx)
	})
}
