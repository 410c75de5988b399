package mongostore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	// sliceSeconds is the length of the time of settling that is counted as one.
	sliceSeconds = 60
	// overlapSeconds is for how long a record may appear after others that settled
	// later: writes that are under way at the same time become visible in any order.
	overlapSeconds = 30
	// rollUpAtOnce is how many records one step reads, and then on to the end of a
	// slice.
	rollUpAtOnce = 2_000
	// rollUpID is the document that tells how far the roll-ups are.
	rollUpID = "rollup"
)

// progress is how far the roll-ups are.
type progress struct {
	// Round numbers the steps. What an earlier one still writes is refused where a
	// later one has written, and only the latest may say how far it came.
	Round int64 `bson:"round"`
	// Filled tells that all records that were over before there were roll-ups are
	// settled; FilledTo is the id until which they are.
	Filled   bool   `bson:"filled,omitempty"`
	FilledTo string `bson:"filled_to,omitempty"`
	// Counted is when the latest record that was counted settled, and Again how
	// many the next step is to meet once more: it begins a little before.
	Counted *bson.Timestamp `bson:"counted,omitempty"`
	Again   int64           `bson:"again,omitempty"`
}

func sliceOf(t bson.Timestamp) uint32 { return t.T / sliceSeconds }

// begin is the slice at which the next step begins.
func (p *progress) begin() uint32 {
	if p.Counted == nil {
		return 0
	}
	return sliceOf(bson.Timestamp{T: p.Counted.T - min(p.Counted.T, overlapSeconds)})
}

// settledFrom chooses what settled in the slice or later, in its order.
func settledFrom(slice uint32) stretch {
	return stretch{
		bson.D{{Key: "settled", Value: bson.D{{Key: "$gte", Value: bson.Timestamp{T: slice * sliceSeconds}}}}},
		bson.D{{Key: "settled", Value: 1}},
	}
}

// end is of a record that is over what counts.
type end struct {
	ID          string          `bson:"_id"`
	JobID       string          `bson:"job_id"`
	Status      job.Status      `bson:"status"`
	StartedAt   *bson.DateTime  `bson:"started_at"`
	CompletedAt *bson.DateTime  `bson:"completed_at"`
	Settled     *bson.Timestamp `bson:"settled"`
	Corrected   []correction    `bson:"corrected"`
}

var endFields = bson.D{
	{Key: "job_id", Value: 1}, {Key: "status", Value: 1}, {Key: "started_at", Value: 1}, {Key: "completed_at", Value: 1},
	{Key: "settled", Value: 1}, {Key: "corrected", Value: 1},
}

func (e *end) over() bool { return e.Status.Ended() && e.CompletedAt != nil }

// correction is an end that a record had before: an unknown one that was
// resolved.
type correction struct {
	Settled     bson.Timestamp `bson:"settled"`
	CompletedAt bson.DateTime  `bson:"completed_at"`
}

// RollUp implements [store.Insight]. The package documentation says how ends are
// counted once.
func (s *Store) RollUp(ctx context.Context, _ time.Time) (more bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for range tries {
			p, err := s.progress(ctx)
			if err != nil {
				return err
			}
			if !p.Filled {
				if more, err = s.settleOld(ctx, p); more || err != nil {
					return err
				}
				continue
			}
			if done, err := s.upToDate(ctx, p); done || err != nil {
				return err
			}
			first, err := update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: p.Round}}, set(bson.E{Key: "round", Value: p.Round + 1}))
			if err != nil {
				return err
			}
			if first {
				p.Round++
				more, err = s.step(ctx, p)
				return err
			}
		}
		more = true // others are at it
		return nil
	})
	return more && err == nil, err
}

func (s *Store) progress(ctx context.Context) (*progress, error) {
	p, err := one[progress](ctx, s.meta, byID(rollUpID))
	if err != nil || p != nil {
		return p, err
	}
	_, err = insert(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: int64(0)}})
	return &progress{}, err
}

// settleOld settles some of the records that were over before there were
// roll-ups, as of their ends.
func (s *Store) settleOld(ctx context.Context, p *progress) (more bool, err error) {
	found, err := many[end](ctx, s.executions, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: p.FilledTo}}}},
		options.Find().SetSort(byID1).SetLimit(rollUpAtOnce).SetProjection(endFields))
	if err != nil {
		return false, err
	}
	var writes []mongo.WriteModel
	for _, e := range found {
		if !e.over() || e.Settled != nil {
			continue
		}
		sets := bson.D{{Key: "settled", Value: settledAt(*e.CompletedAt)}}
		if failed(e.Status) {
			sets = append(sets, bson.E{Key: "failed_order", Value: order(fromDate(e.CompletedAt), e.ID)})
		}
		writes = append(writes, mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: e.ID}, {Key: "status", Value: string(e.Status)}, absent("settled")}).SetUpdate(bson.D{{Key: "$set", Value: sets}}))
	}
	if len(writes) > 0 {
		if _, err := s.executions.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false)); err != nil {
			return false, fmt.Errorf("change %s: %w", s.executions.Name(), err)
		}
	}
	more = len(found) == rollUpAtOnce
	sets := set(bson.E{Key: "filled", Value: true})
	if more {
		sets = set(bson.E{Key: "filled_to", Value: found[len(found)-1].ID})
	}
	// Who is behind another goes back: what is settled stays so.
	_, err = update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, absent("filled")}, sets)
	return more, err
}

// settledAt stands for the time of settling of a record that was over before.
func settledAt(completed bson.DateTime) bson.Timestamp {
	return bson.Timestamp{T: uint32(min(max(completed.Time().Unix(), 0), 1<<32-1)), I: 1}
}

// upToDate tells whether nothing has settled since the last step: the latest is
// the one it was, and nothing has appeared behind it.
func (s *Store) upToDate(ctx context.Context, p *progress) (bool, error) {
	from := settledFrom(p.begin())
	latest, err := one[end](ctx, s.executions, from.filter, options.FindOne().SetSort(bson.D{{Key: "settled", Value: -1}}).SetProjection(endFields))
	if err != nil {
		return false, err
	}
	if latest == nil {
		return true, nil
	}
	if p.Counted == nil || !p.Counted.Equal(*latest.Settled) {
		return false, nil
	}
	n, err := s.executions.CountDocuments(ctx, from.filter)
	if err != nil {
		return false, fmt.Errorf("count %s: %w", s.executions.Name(), err)
	}
	return n == p.Again, nil
}

// step counts some slices from where the last step came to.
func (s *Store) step(ctx context.Context, p *progress) (more bool, err error) {
	counted := tally{}
	states := map[string]lastEnd{}
	again := map[uint32]map[rollUpKey]bool{} // where there were ends that were corrected
	sizes := map[uint32]int64{}
	var last *bson.Timestamp
	n := 0
	err = eachEnd(ctx, s.executions, settledFrom(p.begin()).filter, func(e *end) error {
		slice := sliceOf(*e.Settled)
		if n >= rollUpAtOnce && slice != sliceOf(*last) {
			more = true
			return errStopped
		}
		n++
		sizes[slice]++
		last = e.Settled
		counted.add(e)
		for _, c := range e.Corrected {
			was := sliceOf(c.Settled)
			if again[was] == nil {
				again[was] = map[rollUpKey]bool{}
			}
			for _, k := range keysOf(e.JobID, c.CompletedAt) {
				again[was][k] = true
			}
		}
		if l, ok := lastEndOf(e); ok && l.order > states[e.JobID].order {
			states[e.JobID] = l
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStopped) {
		return false, err
	}
	if err := s.countAgain(ctx, counted, again); err != nil {
		return false, err
	}
	if ours, err := s.writeRollUps(ctx, p.Round, counted); err != nil {
		return false, err
	} else if !ours {
		// Two that write the same for the first time can be in each other's way;
		// then the later step begins afresh. The earlier one leaves it to that.
		latest, err := s.progress(ctx)
		return err == nil && latest.Round == p.Round, err
	}
	if err := s.writeStates(ctx, states); err != nil {
		return false, err
	}
	if last == nil {
		return false, nil
	}
	next := progress{Counted: last}
	for slice, n := range sizes {
		if slice >= next.begin() {
			next.Again += n
		}
	}
	ours, err := update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: p.Round}},
		set(bson.E{Key: "counted", Value: *last}, bson.E{Key: "again", Value: next.Again}))
	// Where a later step has begun, that one goes on.
	return more && ours, err
}

// eachEnd calls f for what the filter chooses, in the order of settling.
func eachEnd(ctx context.Context, c *mongo.Collection, filter bson.D, f func(*end) error) error {
	return each(ctx, c, filter, bson.D{{Key: "settled", Value: 1}}, f, options.Find().SetProjection(endFields))
}

// countAgain counts the keys of the slices from which records have gone, also
// while the others were read.
func (s *Store) countAgain(ctx context.Context, counted tally, again map[uint32]map[rollUpKey]bool) error {
	for slice, keys := range again {
		now := tally{}
		bounds := bson.D{{Key: "$gte", Value: bson.Timestamp{T: slice * sliceSeconds}}, {Key: "$lt", Value: bson.Timestamp{T: (slice + 1) * sliceSeconds}}}
		if err := eachEnd(ctx, s.executions, bson.D{{Key: "settled", Value: bounds}}, func(e *end) error {
			now.add(e)
			return nil
		}); err != nil {
			return err
		}
		for k := range keys {
			*counted.part(k, slice) = *now.part(k, slice)
		}
	}
	return nil
}

// rollUpKey names a roll-up: of one job, or of all but the system's when JobID is
// empty, in a quarter of an hour.
type rollUpKey struct {
	jobID string
	step  int64 // of store.RollUpStep, since 1970
}

func keysOf(jobID string, completed bson.DateTime) []rollUpKey {
	ms := store.RollUpStep.Milliseconds()
	step := int64(completed) / ms
	if int64(completed)%ms < 0 {
		step--
	}
	keys := []rollUpKey{{jobID, step}}
	if !job.System(jobID) {
		keys = append(keys, rollUpKey{"", step})
	}
	return keys
}

// rollUp is a store.RollUp as it is kept: by slices of the time of settling, each
// of which can be counted again.
type rollUp struct {
	From  bson.DateTime    `bson:"from"`
	Parts map[string]*part `bson:"parts"`
}

type part struct {
	Counts  map[job.Status]int `bson:"counts"`
	Timed   int                `bson:"timed"`
	Total   int64              `bson:"total_ms"`
	Longest int64              `bson:"longest_ms"`
}

// tally is what was counted, by slice.
type tally map[rollUpKey]map[uint32]*part

func (t tally) part(k rollUpKey, slice uint32) *part {
	if t[k] == nil {
		t[k] = map[uint32]*part{}
	}
	if t[k][slice] == nil {
		t[k][slice] = &part{Counts: map[job.Status]int{}}
	}
	return t[k][slice]
}

func (t tally) add(e *end) {
	if !e.over() {
		return
	}
	for _, k := range keysOf(e.JobID, *e.CompletedAt) {
		p := t.part(k, sliceOf(*e.Settled))
		p.Counts[e.Status]++
		if e.StartedAt != nil {
			ms := int64(*e.CompletedAt - *e.StartedAt)
			p.Timed++
			p.Total += ms
			p.Longest = max(p.Longest, ms)
		}
	}
}

// writeRollUps writes what was counted in the round. ours is false when another
// has written there.
func (s *Store) writeRollUps(ctx context.Context, round int64, counted tally) (ours bool, err error) {
	if len(counted) == 0 {
		return true, nil
	}
	writes := make([]mongo.WriteModel, 0, len(counted))
	for k, parts := range counted {
		sets := bson.D{
			{Key: "round", Value: round}, {Key: "job_id", Value: k.jobID},
			{Key: "from", Value: bson.DateTime(k.step * store.RollUpStep.Milliseconds())},
		}
		var unsets bson.D
		for slice, p := range parts {
			field := "parts." + strconv.FormatUint(uint64(slice), 10)
			if len(p.Counts) > 0 {
				sets = append(sets, bson.E{Key: field, Value: p})
			} else {
				unsets = append(unsets, bson.E{Key: field, Value: ""})
			}
		}
		writes = append(writes, mongo.NewUpdateOneModel().SetUpsert(true).
			SetFilter(bson.D{{Key: "_id", Value: fmt.Sprintf("%s|%d", k.jobID, k.step)}, {Key: "round", Value: bson.D{{Key: "$lte", Value: round}}}}).
			SetUpdate(changes(sets, unsets)))
	}
	_, err = s.rollUps.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false))
	if b, ok := errors.AsType[mongo.BulkWriteException](err); ok && b.WriteConcernError == nil &&
		!slices.ContainsFunc(b.WriteErrors, func(w mongo.BulkWriteError) bool { return !duplicate(w) }) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("change %s: %w", s.rollUps.Name(), err)
	}
	return true, nil
}

// lastEnd is how a job's latest run ended.
type lastEnd struct {
	state job.State
	order string // by when it ended, then by when it settled
}

func lastEndOf(e *end) (lastEnd, bool) {
	state, ok := job.StateAfter(e.Status)
	if !ok || !e.over() || job.System(e.JobID) {
		return lastEnd{}, false
	}
	at := *e.CompletedAt
	for _, c := range e.Corrected {
		// What it was found to be stands where it was unknown, though it may have
		// ended some seconds before it was given up.
		at = max(at, c.CompletedAt)
	}
	return lastEnd{state, order(fromDate(&at), fmt.Sprintf("%010d.%010d", e.Settled.T, e.Settled.I))}, true
}

// writeStates keeps the states of jobs, where they are not of later ends.
func (s *Store) writeStates(ctx context.Context, states map[string]lastEnd) error {
	if len(states) == 0 {
		return nil
	}
	writes := make([]mongo.WriteModel, 0, len(states))
	for id, l := range states {
		writes = append(writes, mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: id}, {Key: "$or", Value: bson.A{
				bson.D{absent("state_order")}, bson.D{{Key: "state_order", Value: bson.D{{Key: "$lt", Value: l.order}}}},
			}}}).
			SetUpdate(set(bson.E{Key: "state", Value: string(l.state)}, bson.E{Key: "state_order", Value: l.order})))
	}
	if _, err := s.jobs.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false)); err != nil {
		return fmt.Errorf("change %s: %w", s.jobs.Name(), err)
	}
	return nil
}

// Statistics implements [store.Insight].
func (s *Store) Statistics(ctx context.Context, jobID string, from, until time.Time) (all []store.RollUp, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[rollUp](ctx, s.rollUps,
			bson.D{{Key: "job_id", Value: jobID}, {Key: "from", Value: bson.D{{Key: "$gte", Value: date(from)}, {Key: "$lt", Value: date(until)}}}},
			options.Find().SetSort(bson.D{{Key: "from", Value: 1}}))
		for _, d := range found {
			if r, any := d.decode(); any {
				all = append(all, r)
			}
		}
		return err
	})
	return all, err
}

func (d *rollUp) decode() (r store.RollUp, any bool) {
	r = store.RollUp{From: fromDate(&d.From), Counts: map[job.Status]int{}}
	for p := range maps.Values(d.Parts) {
		for status, n := range p.Counts {
			r.Counts[status] += n
		}
		r.Timed += p.Timed
		r.Total += time.Duration(p.Total) * time.Millisecond
		r.Longest = max(r.Longest, time.Duration(p.Longest)*time.Millisecond)
	}
	return r, len(r.Counts) > 0
}
