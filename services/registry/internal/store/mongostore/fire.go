package mongostore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var lost = store.Answer{Outcome: store.Lost}

// fire inserts the record, unconfirmed, and advances the job by a
// compare-and-set. Everything else is found out only when one of the two meets
// something. The package documentation says why this is safe.
func (s *Store) fire(ctx context.Context, f *store.Fire) (store.Answer, error) {
	e := f.Execution
	if e.Trigger != job.TriggerScheduler || e.Key != job.FireKey(e.ScheduledFor) || !e.ScheduledFor.Equal(f.FireAt) {
		return store.Answer{}, fmt.Errorf("fire %s: the execution is not the scheduled one for %s", e.ID, f.FireAt)
	}
	if e.Status != job.Pending && e.Status != job.Skipped {
		return store.Answer{}, fmt.Errorf("fire %s: a record cannot begin as %s", e.ID, e.Status)
	}
	d := toExecution(e)
	d.Unconfirmed = &unconfirmed{JobID: e.JobID, Version: f.Version, FireAt: date(f.FireAt), Next: maybeDate(f.Next)}
	for range tries {
		fresh, err := insert(ctx, s.executions, d)
		if err != nil {
			return store.Answer{}, err
		}
		step := s.fireMet
		if fresh {
			step = s.fireInserted
		}
		if a, settled, err := step(ctx, f, d); settled || err != nil {
			return a, err
		}
	}
	return store.Answer{}, fmt.Errorf("fire %s: %w", e.ID, errRestless)
}

// fireInserted goes on after the record was inserted. It is not settled when the
// record became somebody else's business: then the fire begins afresh.
func (s *Store) fireInserted(ctx context.Context, f *store.Fire, d *execution) (a store.Answer, settled bool, err error) {
	u := d.Unconfirmed
	moved, err := s.advance(ctx, u)
	if err != nil {
		return store.Answer{}, false, err
	}
	if !moved {
		j, err := s.definedJob(ctx, u.JobID)
		if err != nil {
			return store.Answer{}, false, err
		}
		if j == nil || !j.passed(u.Version, u.FireAt) {
			return s.withdraw(ctx, j, d)
		}
	}
	if f.Execution.Status == job.Skipped {
		// Nothing else will ever be written to it. If this fails, Mend does it.
		s.confirmNew(ctx, d)
	}
	return store.Answer{Outcome: store.Done}, true, nil
}

// withdraw takes the caller's own record back, whose job is not as the fire
// wants it.
func (s *Store) withdraw(ctx context.Context, j *definedJob, d *execution) (a store.Answer, settled bool, err error) {
	filter := mine(d)
	if final := j == nil || j.DeletedAt != nil || j.Version > d.Unconfirmed.Version; !final {
		// The job may come to stand at this time yet; then somebody who found the
		// record may be about to advance the job for it.
		filter = append(filter, absent("unconfirmed.claimed"))
	}
	gone, err := remove(ctx, s.executions, filter)
	if err != nil || !gone {
		return store.Answer{}, false, err
	}
	a, err = lostTo(j)
	return a, true, err
}

// lostTo is the answer to a fire whose job has changed.
func lostTo(j *definedJob) (store.Answer, error) {
	if j == nil || !j.live() {
		return lost, nil
	}
	stands, err := j.decode()
	return store.Answer{Outcome: store.Lost, Job: stands}, err
}

// mine chooses the unconfirmed record exactly as this very fire inserted it.
func mine(d *execution) bson.D {
	filter := append(stillUnconfirmed(d), bson.E{Key: "token", Value: d.State.Token}, bson.E{Key: "created_at", Value: d.CreatedAt})
	if d.State.Session == "" {
		return append(filter, absent("session"))
	}
	return append(filter, bson.E{Key: "session", Value: d.State.Session}, bson.E{Key: "stream", Value: d.State.Stream}, bson.E{Key: "number", Value: d.State.Number})
}

// stillUnconfirmed chooses the record while it is unconfirmed as it was read.
func stillUnconfirmed(d *execution) bson.D {
	return bson.D{{Key: "_id", Value: d.ID}, {Key: "unconfirmed.version", Value: d.Unconfirmed.Version}, {Key: "unconfirmed.fire_at", Value: d.Unconfirmed.FireAt}}
}

// advance moves the job on if it stands where the record says.
func (s *Store) advance(ctx context.Context, u *unconfirmed) (bool, error) {
	return s.moveJob(ctx, u.JobID, u.Version, u.FireAt, u.Next)
}

func (s *Store) moveJob(ctx context.Context, id string, version int, from bson.DateTime, to *bson.DateTime) (bool, error) {
	sets, unsets := bson.D{{Key: "fired." + firedKey(version), Value: from}}, bson.D(nil)
	if to != nil {
		sets = append(sets, bson.E{Key: "next_run_at", Value: *to})
	} else {
		unsets = bson.D{{Key: "next_run_at", Value: ""}}
	}
	return update(ctx, s.jobs, bson.D{{Key: "_id", Value: id}, {Key: "version", Value: version}, {Key: "next_run_at", Value: from}}, changes(sets, unsets))
}

// confirm takes the mark off a record whose job was advanced for it.
func (s *Store) confirm(ctx context.Context, d *execution) error {
	u := changes(nil, bson.D{{Key: "unconfirmed", Value: ""}})
	if job.Status(d.State.Status).Ended() {
		u = append(u, settles)
	}
	_, err := update(ctx, s.executions, stillUnconfirmed(d), u)
	return err
}

func (s *Store) confirmNew(ctx context.Context, d *execution) {
	if err := s.confirm(ctx, d); err != nil {
		s.log.Warn("a record is not confirmed yet", zap.String("id", d.ID), zap.Error(err))
	}
}

// fireMet finds out why the record could not be inserted: it is there already,
// or its slot or seat is taken.
func (s *Store) fireMet(ctx context.Context, f *store.Fire, d *execution) (a store.Answer, settled bool, err error) {
	have, err := one[execution](ctx, s.executions, byID(d.ID))
	if err != nil {
		return store.Answer{}, false, err
	}
	if have == nil {
		return s.fireBlocked(ctx, f)
	}
	have, good, err := s.resolve(ctx, have)
	if err != nil || have == nil {
		return store.Answer{}, false, err
	}
	j, err := s.definedJob(ctx, d.JobID)
	if err != nil {
		return store.Answer{}, false, err
	}
	if !good {
		// It was recorded too early, and the job does not stand at its time yet.
		if !sameLease(have, d) {
			a, err = lostTo(j)
			return a, true, err
		}
		return s.withdraw(ctx, j, d)
	}
	stands, err := have.decode()
	if err != nil {
		return store.Answer{}, false, err
	}
	if j != nil && j.live() && j.NextRunAt != nil && *j.NextRunAt == date(f.FireAt) {
		if err := s.movePast(ctx, j, stands, f.FireAt); err != nil {
			return store.Answer{}, false, err
		}
	}
	if same, err := sameFire(stands, f.Execution); err != nil || same {
		return store.Answer{Outcome: store.Done}, err == nil, err
	}
	return store.Answer{Outcome: store.Lost, Execution: stands}, true, nil
}

func sameLease(a, b *execution) bool {
	return a.State.Session == b.State.Session && a.State.Stream == b.State.Stream && a.State.Number == b.State.Number && a.State.Token == b.State.Token
}

// sameFire tells whether the record is what an earlier try of the fire left.
func sameFire(stands, e *job.Execution) (bool, error) {
	if e.Leased() { // it may be running by now
		return stands.Session == e.Session && stands.Stream == e.Stream && stands.Number == e.Number && stands.Token == e.Token, nil
	}
	want, err := kept(e)
	return err == nil && sameState(stands, want), err
}

// movePast advances a job that stands at a time that is recorded already.
func (s *Store) movePast(ctx context.Context, d *definedJob, e *job.Execution, at time.Time) error {
	j, err := d.decode()
	if err != nil {
		return err
	}
	plan, err := j.Compile()
	if err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	covered := at
	if e.MissedUntil.After(covered) {
		covered = e.MissedUntil
	}
	next, _ := plan.Next(covered)
	// Whoever comes in between has moved it on as well.
	_, err = s.moveJob(ctx, d.ID, d.Version, date(at), maybeDate(next))
	return err
}

// fireBlocked says who has the slot or the seat.
func (s *Store) fireBlocked(ctx context.Context, f *store.Fire) (a store.Answer, settled bool, err error) {
	e := f.Execution
	j, err := s.definedJob(ctx, e.JobID)
	if err != nil {
		return store.Answer{}, false, err
	}
	if j == nil || !j.stands(f.Version, date(f.FireAt)) {
		a, err := lostTo(j)
		return a, err == nil, err
	}
	if e.Exclusive {
		holder, err := s.holder(ctx, bson.D{{Key: "exclusive_key", Value: e.JobID}})
		if err != nil || holder != nil {
			return store.Answer{Outcome: store.Lost, SlotBy: idOf(holder)}, err == nil, err
		}
	}
	if e.Seat != 0 {
		holder, err := s.holder(ctx, bson.D{{Key: "seat_key", Value: seatKey(e)}})
		if err != nil || holder != nil {
			return store.Answer{Outcome: store.Lost, SeatTaken: true}, err == nil, err
		}
	}
	return store.Answer{}, false, nil
}

func idOf(d *execution) string {
	if d == nil {
		return ""
	}
	return d.ID
}

// holder returns the record that has what is unique, nil when nobody rightly
// has.
func (s *Store) holder(ctx context.Context, filter bson.D) (*execution, error) {
	d, err := one[execution](ctx, s.executions, filter)
	if err != nil || d == nil {
		return nil, err
	}
	d, _, err = s.resolve(ctx, d)
	return d, err
}

// definedJob reads a job as it is kept, nil when there is none.
func (s *Store) definedJob(ctx context.Context, id string) (*definedJob, error) {
	return one[definedJob](ctx, s.jobs, byID(id))
}

// resolve finds out whether an unconfirmed record may be relied on, and does
// what its fire left undone. It returns the record as it stands then, nil when
// it is gone. good is false for one that was recorded before its job stands at
// its time: nobody may rely on it yet.
func (s *Store) resolve(ctx context.Context, d *execution) (stands *execution, good bool, err error) {
	for range tries {
		if d.Unconfirmed == nil {
			return d, true, nil
		}
		u := d.Unconfirmed
		j, err := s.definedJob(ctx, u.JobID)
		if err != nil {
			return nil, false, err
		}
		switch {
		case j != nil && j.passed(u.Version, u.FireAt):
			return d, true, nil
		case j != nil && j.stands(u.Version, u.FireAt):
			claimed, err := update(ctx, s.executions, stillUnconfirmed(d), set(bson.E{Key: "unconfirmed.claimed", Value: true}))
			if err != nil {
				return nil, false, err
			}
			if claimed {
				if _, err := s.advance(ctx, u); err != nil {
					return nil, false, err
				}
			}
		case j == nil || j.DeletedAt != nil || j.Version > u.Version:
			// The job can never be advanced for it any more.
			gone, err := remove(ctx, s.executions, mine(d))
			if err != nil || gone {
				return nil, false, err
			}
		default:
			return d, false, nil
		}
		again, err := one[execution](ctx, s.executions, byID(d.ID))
		if err != nil || again == nil {
			return nil, false, err
		}
		d = again
	}
	return nil, false, fmt.Errorf("settle %s: %w", d.ID, errRestless)
}

// reliable returns those of the records that may be relied on, as they stand.
// It asks for the jobs of all unconfirmed ones at once.
func (s *Store) reliable(ctx context.Context, found []*execution) ([]*execution, error) {
	var ids []string
	for _, d := range found {
		if d.Unconfirmed != nil && !slices.Contains(ids, d.Unconfirmed.JobID) {
			ids = append(ids, d.Unconfirmed.JobID)
		}
	}
	if len(ids) == 0 {
		return found, nil
	}
	list, err := many[definedJob](ctx, s.jobs, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		options.Find().SetProjection(bson.D{{Key: "fired", Value: 1}}))
	if err != nil {
		return nil, err
	}
	jobs := map[string]*definedJob{}
	for _, j := range list {
		jobs[j.ID] = j
	}
	good := found[:0]
	for _, d := range found {
		if u := d.Unconfirmed; u != nil {
			if j := jobs[u.JobID]; j == nil || !j.passed(u.Version, u.FireAt) {
				stands, ok, err := s.resolve(ctx, d)
				if err != nil {
					return nil, err
				}
				if !ok {
					continue
				}
				d = stands
			}
		}
		good = append(good, d)
	}
	return good, nil
}

// settleFires resolves and confirms the half-done fires that the filter chooses.
func (s *Store) settleFires(ctx context.Context, filter bson.D, limit int64) error {
	found, err := many[execution](ctx, s.executions, filter, options.Find().SetLimit(limit))
	if err != nil {
		return err
	}
	if found, err = s.reliable(ctx, found); err != nil {
		return err
	}
	for _, d := range found {
		if d.Unconfirmed != nil {
			if err := s.confirm(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleFiresOf does it for one job.
func (s *Store) settleFiresOf(ctx context.Context, jobID string) error {
	return s.settleFires(ctx, bson.D{{Key: "unconfirmed.job_id", Value: jobID}}, 0)
}
