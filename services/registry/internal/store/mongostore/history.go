package mongostore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// RunNow implements [store.History].
func (s *Store) RunNow(ctx context.Context, r store.RunNow) (stored *job.Execution, replayed bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		e := r.Execution
		if e.Trigger == job.TriggerScheduler || e.Status != job.Pending {
			return fmt.Errorf("run %s: it is not a manual run that is about to begin", e.ID)
		}
		d := toExecution(e)
		if r.Audit != nil {
			d.Audits, d.Audit = 1, toAudit(r.Audit, 1)
		}
		for range tries {
			have, err := one[execution](ctx, s.executions, byID(e.ID))
			if err != nil {
				return err
			}
			if have != nil {
				if err := s.copyOut(ctx, s.executions, have.ID, have.Audit); err != nil {
					return err
				}
				replayed = true
				stored, err = have.decode()
				return err
			}
			if err := s.runnable(ctx, e); err != nil {
				return err
			}
			if r.PerHour > 0 {
				if err := s.countRun(ctx, r); err != nil {
					return err
				}
			}
			fresh, err := insert(ctx, s.executions, d)
			if err != nil {
				return err
			}
			if fresh {
				stored, err = s.afterInsert(ctx, r, d)
				return err
			}
			// It is there by now, or its slot or seat is taken: look again.
			if err := s.runnable(ctx, e); err != nil {
				s.uncountRun(ctx, r)
				return err
			}
		}
		return errRestless
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

// runnable returns why a manual run cannot be inserted: its job is gone, or its
// slot or its seat is taken by another.
func (s *Store) runnable(ctx context.Context, e *job.Execution) error {
	j, err := s.definedJob(ctx, e.JobID)
	if err != nil {
		return err
	}
	if !runs(j) {
		return job.ErrNotFound
	}
	if e.Exclusive {
		holder, err := s.holder(ctx, bson.D{{Key: "exclusive_key", Value: e.JobID}})
		if err != nil {
			return err
		}
		if holder != nil && holder.ID != e.ID {
			return &job.SlotHeldError{By: holder.ID}
		}
	}
	if e.Seat != 0 {
		holder, err := s.holder(ctx, bson.D{{Key: "seat_key", Value: seatKey(e)}})
		if err != nil {
			return err
		}
		if holder != nil && holder.ID != e.ID {
			return fmt.Errorf("run %s: seat %d is taken: %w", e.ID, e.Seat, job.ErrConflict)
		}
	}
	return nil
}

// runs tells whether the job can be run by hand: it lives, or is the system's.
func runs(j *definedJob) bool { return j != nil && (j.live() || job.System(j.ID)) }

// afterInsert makes sure that the job was not deleted meanwhile: its waiting
// records may have been cancelled before this one was there.
func (s *Store) afterInsert(ctx context.Context, r store.RunNow, d *execution) (*job.Execution, error) {
	j, err := s.definedJob(ctx, d.JobID)
	if err != nil {
		return nil, err
	}
	if !runs(j) {
		own := bson.D{{Key: "_id", Value: d.ID}, {Key: "status", Value: d.State.Status}, {Key: "token", Value: d.State.Token}}
		if gone, err := remove(ctx, s.executions, own); err != nil {
			return nil, err
		} else if gone {
			s.uncountRun(ctx, r)
			return nil, job.ErrNotFound
		}
	}
	s.copyOutNew(ctx, s.executions, d.ID, r.Audit, 0)
	stands, err := one[execution](ctx, s.executions, byID(d.ID))
	if err != nil {
		return nil, err
	}
	if stands == nil {
		return nil, errRestless
	}
	return stands.decode()
}

// quota is what a user ran by hand in the last hour. Every change of it is a
// compare-and-set on its revision.
type quota struct {
	User     string     `bson:"_id"`
	Revision int64      `bson:"revision"`
	Runs     []quotaRun `bson:"runs"`
}

type quotaRun struct {
	At        bson.DateTime `bson:"at"`
	Execution string        `bson:"execution_id"`
}

const (
	quotaWindow = time.Hour
	// quotaTries is how often a user's runs that are started at the same moment
	// make one of them begin afresh.
	quotaTries = 100
	// leftOver is how old a run is that was counted but never recorded, because
	// who started it died in between.
	leftOver = time.Minute
)

// countRun counts the run, once, or returns a *job.LimitError.
func (s *Store) countRun(ctx context.Context, r store.RunNow) error {
	user, id := r.Execution.TriggeredByUser, r.Execution.ID
	for range quotaTries {
		have, err := one[quota](ctx, s.quotas, byID(user))
		if err != nil {
			return err
		}
		var runs []quotaRun
		if have != nil {
			since := date(r.Now.Add(-quotaWindow))
			runs = slices.DeleteFunc(have.Runs, func(q quotaRun) bool { return q.At <= since })
		}
		if slices.ContainsFunc(runs, func(q quotaRun) bool { return q.Execution == id }) {
			return nil
		}
		if len(runs) >= r.PerHour {
			if runs, err = s.recorded(ctx, runs, r.Now); err != nil {
				return err
			}
		}
		if n := len(runs); n >= r.PerHour {
			slices.SortFunc(runs, func(a, b quotaRun) int { return int(a.At - b.At) })
			return &job.LimitError{What: "manual runs an hour", Limit: r.PerHour, Until: fromDate(&runs[n-r.PerHour].At).Add(quotaWindow)}
		}
		if done, err := s.putQuota(ctx, user, have, append(runs, quotaRun{date(r.Now), id})); err != nil || done {
			return err
		}
	}
	return errRestless
}

// recorded leaves out the runs that were counted a while ago and of which there
// is no record.
func (s *Store) recorded(ctx context.Context, runs []quotaRun, now time.Time) ([]quotaRun, error) {
	ids := make([]string, len(runs))
	for i, q := range runs {
		ids[i] = q.Execution
	}
	found, err := many[execution](ctx, s.executions, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, d := range found {
		there[d.ID] = true
	}
	old := date(now.Add(-leftOver))
	return slices.DeleteFunc(runs, func(q quotaRun) bool { return q.At < old && !there[q.Execution] }), nil
}

func (s *Store) putQuota(ctx context.Context, user string, have *quota, runs []quotaRun) (bool, error) {
	if have == nil {
		return insert(ctx, s.quotas, quota{User: user, Revision: 1, Runs: runs})
	}
	return update(ctx, s.quotas, bson.D{{Key: "_id", Value: user}, {Key: "revision", Value: have.Revision}},
		set(bson.E{Key: "revision", Value: have.Revision + 1}, bson.E{Key: "runs", Value: runs}))
}

// uncountRun takes back what countRun counted. If it fails, the run counts for
// another minute.
func (s *Store) uncountRun(ctx context.Context, r store.RunNow) {
	if r.PerHour == 0 {
		return
	}
	user, id := r.Execution.TriggeredByUser, r.Execution.ID
	for range quotaTries {
		have, err := one[quota](ctx, s.quotas, byID(user))
		if err != nil || have == nil {
			return
		}
		runs := slices.DeleteFunc(have.Runs, func(q quotaRun) bool { return q.Execution == id })
		if done, err := s.putQuota(ctx, user, have, runs); err != nil || done {
			return
		}
	}
}

// RequestCancel implements [store.History].
func (s *Store) RequestCancel(ctx context.Context, c store.Cancel) (stands *job.Execution, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for range tries {
			d, e, err := s.execution(ctx, c.ID)
			switch {
			case err != nil:
				return err
			case e.Status.Ended():
				return job.ErrEnded
			case e.CancelRequested:
				stands = e
				return s.copyOut(ctx, s.executions, c.ID, d.Audit)
			}
			if err := s.copyOut(ctx, s.executions, c.ID, d.Audit); err != nil {
				return err
			}
			filter := bson.D{{Key: "_id", Value: c.ID}, {Key: "status", Value: string(e.Status)}, {Key: "token", Value: e.Token}, absent("cancel_requested")}
			var matched bool
			if waits(e) {
				to := e.CancelledUnstarted(c.Now)
				if c.Reason != "" {
					to.Reason = c.Reason
				}
				matched, _, err = s.writeState(ctx, filter, nil, to, c.Audit, d.Audits, nil)
			} else {
				sets := bson.D{{Key: "cancel_requested", Value: true}}
				if c.Reason != "" {
					sets = append(sets, bson.E{Key: "cancel_reason", Value: c.Reason})
				}
				filter, sets = audited(filter, sets, c.Audit, d.Audits)
				matched, err = update(ctx, s.executions, filter, bson.D{{Key: "$set", Value: sets}})
			}
			if err != nil {
				return err
			}
			if matched {
				s.copyOutNew(ctx, s.executions, c.ID, c.Audit, d.Audits)
				_, stands, err = s.execution(ctx, c.ID)
				return err
			}
		}
		return errRestless
	})
	if err != nil {
		return nil, err
	}
	return stands, nil
}

// execution reads one that may be relied on, or returns job.ErrNotFound.
func (s *Store) execution(ctx context.Context, id string) (*execution, *job.Execution, error) {
	d, err := one[execution](ctx, s.executions, byID(id))
	if err != nil {
		return nil, nil, err
	}
	if d == nil {
		return nil, nil, job.ErrNotFound
	}
	d, good, err := s.resolve(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	if !good {
		return nil, nil, job.ErrNotFound
	}
	e, err := d.decode()
	return d, e, err
}

// Execution implements [store.History].
func (s *Store) Execution(ctx context.Context, id string) (e *job.Execution, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		_, e, err = s.execution(ctx, id)
		return err
	})
	return e, err
}

// historyFilter and historyOrder are what the indexes of the history serve.
func historyFilter(f store.ExecutionFilter) bson.D {
	filter := bson.D{{Key: "job_id", Value: f.JobID}}
	if len(f.Statuses) > 0 {
		filter = append(filter, bson.E{Key: "status", Value: bson.D{{Key: "$in", Value: f.Statuses}}})
	}
	return filter
}

var historyOrder = bson.D{{Key: "scheduled_for", Value: -1}, {Key: "_id", Value: -1}}

// Executions implements [store.History].
func (s *Store) Executions(ctx context.Context, f store.ExecutionFilter) (page []*job.Execution, total int, err error) {
	return s.executionPage(ctx, f.Offset, f.Limit, stretch{historyFilter(f), historyOrder})
}

// executionPage returns a page of a stretch of the executions, and how many it has.
func (s *Store) executionPage(ctx context.Context, offset, limit int, from stretch) (page []*job.Execution, total int, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, n, err := pageOf[execution](ctx, s.executions, offset, limit, from)
		if err != nil {
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

// Logs implements [store.History].
func (s *Store) Logs(ctx context.Context, id string, offset, limit int) (lines []job.LogLine, total int, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		// First how long each chunk is, then those that the page has a part in.
		heads, err := many[logChunk](ctx, s.logs, bson.D{{Key: "execution_id", Value: id}},
			options.Find().SetSort(bson.D{{Key: "token", Value: 1}, {Key: "number", Value: 1}}).SetProjection(bson.D{{Key: "count", Value: 1}}))
		if err != nil {
			return err
		}
		var ids []string
		first := 0 // line of the first chunk wanted
		for _, h := range heads {
			if total+h.Count > offset && total < offset+limit {
				if len(ids) == 0 {
					first = total
				}
				ids = append(ids, h.ID)
			}
			total += h.Count
		}
		if len(ids) == 0 {
			return nil
		}
		chunks, err := many[logChunk](ctx, s.logs, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}})
		if err != nil {
			return err
		}
		slices.SortFunc(chunks, func(a, b *logChunk) int { return slices.Index(ids, a.ID) - slices.Index(ids, b.ID) })
		for _, c := range chunks {
			for _, l := range c.Lines {
				lines = append(lines, job.LogLine{At: fromDate(l.At), Level: l.Level, Message: l.Message})
			}
		}
		lines = lines[min(offset-first, len(lines)):]
		lines = lines[:min(limit, len(lines))]
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return lines, total, nil
}

// Audits implements [store.History].
func (s *Store) Audits(ctx context.Context, f store.AuditFilter) (page []store.AuditEntry, total int, err error) {
	list := stretch{sort: bson.D{{Key: "at", Value: -1}, {Key: "object", Value: -1}, {Key: "n", Value: -1}}}
	for _, exact := range []struct{ field, value string }{{"object", f.Object}, {"user", f.User}, {"action", f.Action}} {
		if exact.value != "" {
			list.filter = append(list.filter, bson.E{Key: exact.field, Value: exact.value})
		}
	}
	switch {
	case f.Object != "":
		list.sort = bson.D{{Key: "n", Value: -1}}
	case len(list.filter) == 0: // all of them, but so that an index counts them
		list.filter = bson.D{{Key: "at", Value: bson.D{{Key: "$gte", Value: bson.DateTime(0)}}}}
	}
	err = s.call(ctx, func(ctx context.Context) error {
		found, n, err := pageOf[auditEntry](ctx, s.audits, f.Offset, f.Limit, list)
		if err != nil {
			return err
		}
		total = n
		for _, d := range found {
			page = append(page, d.decode())
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}
