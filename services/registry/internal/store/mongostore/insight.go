package mongostore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// stretch is a query that an index answers in its order.
type stretch struct{ filter, sort bson.D }

// pageOf reads a page of what several stretches hold, one after the other, and
// counts all of it.
func pageOf[T any](ctx context.Context, c *mongo.Collection, offset, limit int, stretches ...stretch) (page []*T, total int, err error) {
	for _, part := range stretches {
		n, err := c.CountDocuments(ctx, part.filter)
		if err != nil {
			return nil, 0, fmt.Errorf("count %s: %w", c.Name(), err)
		}
		skip, missing := max(0, offset-total), limit-len(page)
		total += int(n)
		if missing <= 0 || skip >= int(n) {
			continue
		}
		found, err := many[T](ctx, c, part.filter, options.Find().SetSort(part.sort).SetSkip(int64(skip)).SetLimit(int64(missing)))
		if err != nil {
			return nil, 0, err
		}
		page = append(page, found...)
	}
	return page, total, nil
}

// decoded returns the records as the callers of the store know them.
func decoded(found []*execution) ([]*job.Execution, error) {
	if len(found) == 0 {
		return nil, nil
	}
	all := make([]*job.Execution, len(found))
	for i, d := range found {
		e, err := d.decode()
		if err != nil {
			return nil, err
		}
		all[i] = e
	}
	return all, nil
}

// mostRecent is of how many jobs one asks for recent runs at once.
const mostRecent = 100

// Recent implements [store.Insight].
func (s *Store) Recent(ctx context.Context, jobIDs []string, n int) (map[string][]*job.Execution, error) {
	pages, failed := make([][]*job.Execution, len(jobIDs)), make([]error, len(jobIDs))
	err := s.call(ctx, func(ctx context.Context) error {
		if len(jobIDs) > mostRecent {
			return fmt.Errorf("recent runs of %d jobs: they are asked for of at most %d", len(jobIDs), mostRecent)
		}
		if n <= 0 {
			return nil
		}
		var reading sync.WaitGroup
		for i, id := range jobIDs {
			reading.Go(func() {
				found, err := many[execution](ctx, s.executions, historyFilter(store.ExecutionFilter{JobID: id}),
					options.Find().SetSort(historyOrder).SetLimit(int64(n)))
				if err == nil {
					pages[i], err = decoded(found)
				}
				failed[i] = err
			})
		}
		reading.Wait()
		return firstError(failed)
	})
	if err != nil {
		return nil, err
	}
	recent := map[string][]*job.Execution{}
	for i, id := range jobIDs {
		if len(pages[i]) > 0 {
			recent[id] = pages[i]
		}
	}
	return recent, nil
}

// What is not over is either held or waits, and has the one field or the other.
var (
	isHeld    = stretch{bson.D{{Key: held, Value: bson.D{{Key: "$gt", Value: ""}}}}, bson.D{{Key: held, Value: 1}}}
	isWaiting = stretch{bson.D{{Key: wakeOrder, Value: bson.D{{Key: "$gt", Value: ""}}}}, bson.D{{Key: wakeOrder, Value: 1}}}
)

// Live implements [store.Insight].
func (s *Store) Live(ctx context.Context, offset, limit int) (page []*job.Execution, total int, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, n, err := pageOf[execution](ctx, s.executions, offset, limit, isHeld, isWaiting)
		if err != nil {
			return err
		}
		if found, err = s.reliable(ctx, found); err != nil {
			return err
		}
		total = n
		page, err = decoded(found)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// Failures implements [store.Insight].
func (s *Store) Failures(ctx context.Context, since time.Time, offset, limit int) (page []*job.Execution, total int, err error) {
	failures := stretch{
		bson.D{{Key: "failed_order", Value: bson.D{{Key: "$gte", Value: order(since, "")}}}},
		bson.D{{Key: "failed_order", Value: -1}},
	}
	return s.executionPage(ctx, offset, limit, failures)
}

// Pulse implements [store.Insight].
func (s *Store) Pulse(ctx context.Context, now time.Time) (p store.Pulse, err error) {
	live := bson.D{{Key: "counted", Value: true}, absent("provisional")}
	due := bson.D{{Key: wakeOrder, Value: bson.D{{Key: "$gt", Value: ""}, {Key: "$lt", Value: upTo(now)}}}}
	err = s.call(ctx, func(ctx context.Context) error {
		for _, count := range []struct {
			of     *mongo.Collection
			filter bson.D
			n      *int
		}{
			{s.jobs, live, &p.Jobs},
			{s.jobs, append(live[:len(live):len(live)], bson.E{Key: "enabled", Value: true}), &p.Enabled},
			{s.executions, isHeld.filter, &p.Held},
			{s.executions, isWaiting.filter, &p.Waiting},
			{s.executions, due, &p.Due},
		} {
			n, err := count.of.CountDocuments(ctx, count.filter)
			if err != nil {
				return fmt.Errorf("count %s: %w", count.of.Name(), err)
			}
			*count.n = int(n)
		}
		if p.Due == 0 {
			return nil
		}
		first, err := one[execution](ctx, s.executions, due, options.FindOne().SetSort(isWaiting.sort).SetProjection(bson.D{{Key: "wake_at", Value: 1}}))
		if err == nil && first != nil {
			p.DueSince = fromDate(first.State.WakeAt)
		}
		return err
	})
	if err != nil {
		return store.Pulse{}, err
	}
	return p, nil
}
