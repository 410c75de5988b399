package mongostore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	// sliceSeconds is the length of the time of settling that is counted as one.
	sliceSeconds = 20
	// overlapSeconds is for how long a record may appear after others that settled
	// later: writes that are under way at the same time become visible in any order.
	overlapSeconds = 15
	// rollUpAtOnce is how many records one step reads, and then on to the end of a
	// slice.
	rollUpAtOnce = 2_000
	// foldAfter is how old a roll-up is whose slices are added up for good; unless
	// they change once more.
	foldAfter = 2 * store.RollUpStep
	// foldAtOnce is how many are at once.
	foldAtOnce = 500
	// rollUpID is the document that tells how far the roll-ups are.
	rollUpID = "rollup"
)

// progress is how far the roll-ups are.
type progress struct {
	// Round numbers the steps. What an earlier one still writes is refused where a
	// later one has written, and only the latest may say how far it came.
	Round int64 `bson:"round"`
	// AtWork tells that the latest step is not over yet.
	AtWork bool `bson:"at_work,omitempty"`
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
	{Key: "job_id", Value: 1},
	{Key: "status", Value: 1},
	{Key: "started_at", Value: 1},
	{Key: "completed_at", Value: 1},
	{Key: "settled", Value: 1},
	{Key: "corrected", Value: 1},
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
func (s *Store) RollUp(ctx context.Context, now time.Time) (more bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		if more, err = s.rollUp(ctx); more || err != nil {
			return err
		}
		more, err = s.fold(ctx, now)
		return err
	})
	return more && err == nil, err
}

// rollUp counts some of what ended since the last step.
func (s *Store) rollUp(ctx context.Context) (more bool, err error) {
	for range tries {
		p, err := s.idleProgress(ctx)
		if err != nil {
			return false, err
		}
		if !p.Filled {
			if more, err := s.settleOld(ctx, p); more || err != nil {
				return more, err
			}
			continue
		}
		if done, err := s.upToDate(ctx, p); done || err != nil {
			return false, err
		}
		first, err := update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: p.Round}},
			set(bson.E{Key: "round", Value: p.Round + 1}, bson.E{Key: "at_work", Value: true}))
		if err != nil {
			return false, err
		}
		if first {
			p.Round++
			if more, err = s.step(ctx, p); err != nil {
				s.giveUp(ctx, p.Round)
			}
			return more, err
		}
	}
	return true, nil // others are at it
}

// A step waits for another's so often, each time longer, which makes five
// seconds. Then that one has died.
const (
	maxWaits = 14
	longWait = 500 * time.Millisecond
)

// idleProgress reads how far the roll-ups are when nobody is at work on them, or
// not for long any more.
func (s *Store) idleProgress(ctx context.Context) (p *progress, err error) {
	for n := range maxWaits {
		if p, err = s.progress(ctx); err != nil || !p.AtWork {
			return p, err
		}
		if err := pause(ctx, min(10*time.Millisecond<<n, longWait)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// giveUp tells that the step is over, so that nobody waits for it.
func (s *Store) giveUp(ctx context.Context, round int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longWait)
	defer cancel()
	if _, err := update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: round}}, unset("at_work")); err != nil {
		s.log.Debug("others will wait for a step that is over", zap.Error(err))
	}
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
		options.Find().SetSort(byID1).SetLimit(int64(s.rollUpAtOnce)).SetProjection(endFields))
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
	more = len(found) == s.rollUpAtOnce
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

// ends are what a step has read.
type ends struct {
	counted tally
	again   map[uint32]map[rollUpKey]bool // by slice: what is to be counted anew, for an end was corrected
	states  lastEnds
	sizes   map[uint32]int64 // how many settled in each slice
	last    *bson.Timestamp  // when the latest did
}

func (f *ends) add(e *end) {
	f.counted.add(e)
	f.states.add(e)
	f.sizes[sliceOf(*e.Settled)]++
	f.last = e.Settled
	for _, c := range e.Corrected {
		was := sliceOf(c.Settled)
		if f.again[was] == nil {
			f.again[was] = map[rollUpKey]bool{}
		}
		for _, k := range keysOf(e.JobID, c.CompletedAt) {
			f.again[was][k] = true
		}
	}
}

// step counts some slices from where the last step came to.
func (s *Store) step(ctx context.Context, p *progress) (more bool, err error) {
	f := ends{tally{}, map[uint32]map[rollUpKey]bool{}, lastEnds{map[string]lastEnd{}, map[string]bool{}}, map[uint32]int64{}, nil}
	fresh := 0
	err = s.eachEnd(ctx, settledFrom(p.begin()).filter, func(e *end) error {
		if fresh >= s.rollUpAtOnce && sliceOf(*e.Settled) != sliceOf(*f.last) {
			more = true
			return errStopped
		}
		if p.Counted == nil || e.Settled.After(*p.Counted) {
			fresh++
		}
		f.add(e)
		return nil
	})
	if err != nil && !errors.Is(err, errStopped) {
		return false, err
	}
	if err := s.countAgain(ctx, f.counted, f.again); err != nil {
		return false, err
	}
	ours, err := s.writeRollUps(ctx, p.Round, f.counted)
	if err != nil {
		return false, err
	}
	if !ours {
		// Two that write the same for the first time can be in each other's way;
		// then the later step begins afresh. The earlier one leaves it to that.
		latest, err := s.progress(ctx)
		if err != nil || latest.Round != p.Round {
			return false, err
		}
		s.giveUp(ctx, p.Round)
		return true, nil
	}
	if err := s.writeStates(ctx, p.Round, f.states); err != nil {
		return false, err
	}
	ours, err = s.finishStep(ctx, p.Round, &f)
	// Where a later step has begun, that one goes on.
	return more && ours, err
}

// finishStep keeps how far the step came, if it is the latest.
func (s *Store) finishStep(ctx context.Context, round int64, f *ends) (ours bool, err error) {
	next := progress{Counted: f.last}
	for slice, n := range f.sizes {
		if slice >= next.begin() {
			next.Again += n
		}
	}
	var sets bson.D
	if f.last != nil {
		sets = bson.D{{Key: "counted", Value: *f.last}, {Key: "again", Value: next.Again}}
	}
	return update(ctx, s.meta, bson.D{{Key: "_id", Value: rollUpID}, {Key: "round", Value: round}}, changes(sets, bson.D{{Key: "at_work", Value: ""}}))
}

// eachEnd calls f for what the filter chooses, in the order of settling.
func (s *Store) eachEnd(ctx context.Context, filter bson.D, f func(*end) error) error {
	return each(ctx, s.executions, filter, bson.D{{Key: "settled", Value: 1}}, f, options.Find().SetProjection(endFields))
}

// countAgain counts the keys of the slices from which records have gone, also
// while the others were read.
func (s *Store) countAgain(ctx context.Context, counted tally, again map[uint32]map[rollUpKey]bool) error {
	for slice, keys := range again {
		now := tally{}
		bounds := bson.D{{Key: "$gte", Value: bson.Timestamp{T: slice * sliceSeconds}}, {Key: "$lt", Value: bson.Timestamp{T: (slice + 1) * sliceSeconds}}}
		if err := s.eachEnd(ctx, bson.D{{Key: "settled", Value: bounds}}, func(e *end) error {
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
	step  int64 // how many of store.RollUpStep since 1970
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
	ID    string          `bson:"_id"`
	Round int64           `bson:"round"`
	From  bson.DateTime   `bson:"from"` // also open_from until it is folded
	Parts map[string]part `bson:"parts"`
	Sum   *part           `bson:"sum"` // of the parts, once it is folded
}

// part is what ended in one slice. All fields are always there: the stand-in for
// tests takes two documents for the same whose values are, in their order.
type part struct {
	Success   int   `bson:"success"`
	Failed    int   `bson:"failed"`
	TimedOut  int   `bson:"timed_out"`
	Cancelled int   `bson:"cancelled"`
	Skipped   int   `bson:"skipped"`
	Unknown   int   `bson:"unknown"`
	Timed     int   `bson:"timed"`
	Total     int64 `bson:"total_ms"`
	Longest   int64 `bson:"longest_ms"`
}

func (p *part) add(q part) {
	p.Success += q.Success
	p.Failed += q.Failed
	p.TimedOut += q.TimedOut
	p.Cancelled += q.Cancelled
	p.Skipped += q.Skipped
	p.Unknown += q.Unknown
	p.Timed += q.Timed
	p.Total += q.Total
	p.Longest = max(p.Longest, q.Longest)
}

// of is the count of the status, nil for one that is no end.
func (p *part) of(s job.Status) *int {
	switch s {
	case job.Success:
		return &p.Success
	case job.Failed:
		return &p.Failed
	case job.TimedOut:
		return &p.TimedOut
	case job.Cancelled:
		return &p.Cancelled
	case job.Skipped:
		return &p.Skipped
	case job.Unknown:
		return &p.Unknown
	default:
		return nil
	}
}

// tally is what was counted, by slice.
type tally map[rollUpKey]map[uint32]*part

func (t tally) part(k rollUpKey, slice uint32) *part {
	if t[k] == nil {
		t[k] = map[uint32]*part{}
	}
	if t[k][slice] == nil {
		t[k][slice] = &part{}
	}
	return t[k][slice]
}

func (t tally) add(e *end) {
	if !e.over() {
		return
	}
	for _, k := range keysOf(e.JobID, *e.CompletedAt) {
		p := t.part(k, sliceOf(*e.Settled))
		*p.of(e.Status)++
		if e.StartedAt != nil {
			ms := max(int64(*e.CompletedAt-*e.StartedAt), 0) // two clocks may have told
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
		from := bson.DateTime(k.step * store.RollUpStep.Milliseconds())
		sets := bson.D{{Key: "round", Value: round}, {Key: "job_id", Value: k.jobID}, {Key: "from", Value: from}, {Key: "open_from", Value: from}}
		unsets := bson.D{{Key: "sum", Value: ""}}
		for slice, p := range parts {
			field := "parts." + strconv.FormatUint(uint64(slice), 10)
			if *p != (part{}) {
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
	at    bson.DateTime
}

// lastEnds are those of several jobs; corrected ones may also have gone back.
type lastEnds struct {
	of        map[string]lastEnd
	corrected map[string]bool
}

func (l lastEnds) add(e *end) {
	if job.System(e.JobID) {
		return
	}
	if len(e.Corrected) > 0 {
		l.corrected[e.JobID] = true
	}
	if state, ok := job.StateAfter(e.Status); ok && e.over() && *e.CompletedAt >= l.of[e.JobID].at {
		l.of[e.JobID] = lastEnd{state, *e.CompletedAt}
	}
}

// stateDepth is how many of a job's latest records are looked at when it is found
// out that one of them ended in another way.
const stateDepth = 100

// writeStates keeps the states of jobs, where they are not of later ends, or were
// corrected in a later round.
func (s *Store) writeStates(ctx context.Context, round int64, l lastEnds) error {
	var writes []mongo.WriteModel
	write := func(id string, filter, sets, unsets bson.D) {
		filter = append(bson.D{{Key: "_id", Value: id}}, append(filter, upToOrAbsent("state_round", round))...)
		writes = append(writes, mongo.NewUpdateOneModel().SetFilter(filter).
			SetUpdate(changes(append(sets, bson.E{Key: "state_round", Value: round}), unsets)))
	}
	for id := range l.corrected {
		latest, err := s.latestEnd(ctx, id)
		if err != nil {
			return err
		}
		if latest.state == "" {
			write(id, nil, nil, bson.D{{Key: "state", Value: ""}, {Key: "state_at", Value: ""}})
			continue
		}
		l.of[id] = latest
		write(id, nil, bson.D{{Key: "state", Value: string(latest.state)}, {Key: "state_at", Value: latest.at}}, nil)
	}
	for id, e := range l.of {
		if !l.corrected[id] {
			write(id, bson.D{upToOrAbsent("state_at", e.at)}, bson.D{{Key: "state", Value: string(e.state)}, {Key: "state_at", Value: e.at}}, nil)
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := s.jobs.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false)); err != nil {
		return fmt.Errorf("change %s: %w", s.jobs.Name(), err)
	}
	return nil
}

// upToOrAbsent is the condition that a field is at most the value, if it is there.
func upToOrAbsent(field string, v any) bson.E {
	return bson.E{Key: field, Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$gt", Value: v}}}}}
}

// latestEnd finds out how the latest of a job's runs ended that tells its state.
func (s *Store) latestEnd(ctx context.Context, jobID string) (latest lastEnd, err error) {
	found, err := many[end](ctx, s.executions, historyFilter(store.ExecutionFilter{JobID: jobID}),
		options.Find().SetSort(historyOrder).SetLimit(stateDepth).SetProjection(endFields))
	l := lastEnds{of: map[string]lastEnd{}, corrected: map[string]bool{}}
	for _, e := range slices.Backward(found) {
		l.add(e)
	}
	return l.of[jobID], err
}

// fold adds up the slices of some roll-ups that will hardly change any more, so
// that a long time is read fast.
func (s *Store) fold(ctx context.Context, now time.Time) (more bool, err error) {
	found, err := many[rollUp](ctx, s.rollUps, bson.D{{Key: "open_from", Value: bson.D{{Key: "$lt", Value: date(now.Add(-foldAfter))}}}},
		options.Find().SetLimit(foldAtOnce))
	if err != nil || len(found) == 0 {
		return false, err
	}
	writes := make([]mongo.WriteModel, len(found))
	for i, d := range found {
		// If a step writes to it meanwhile, it stays as it is.
		writes[i] = mongo.NewUpdateOneModel().SetFilter(bson.D{{Key: "_id", Value: d.ID}, {Key: "round", Value: d.Round}}).
			SetUpdate(changes(bson.D{{Key: "sum", Value: d.sum()}}, bson.D{{Key: "open_from", Value: ""}}))
	}
	if _, err := s.rollUps.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false)); err != nil {
		return false, fmt.Errorf("change %s: %w", s.rollUps.Name(), err)
	}
	return len(found) == foldAtOnce, nil
}

// Statistics implements [store.Insight].
func (s *Store) Statistics(ctx context.Context, jobID string, from, until time.Time) (all []store.RollUp, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[rollUp](ctx, s.rollUps,
			bson.D{{Key: "job_id", Value: jobID}, {Key: "from", Value: bson.D{{Key: "$gte", Value: date(from)}, {Key: "$lt", Value: date(until)}}}},
			options.Find().SetSort(bson.D{{Key: "from", Value: 1}}).SetProjection(bson.D{{Key: "parts", Value: 0}}))
		if err != nil {
			return err
		}
		var open []string
		for _, d := range found {
			if d.Sum == nil {
				open = append(open, d.ID)
			}
		}
		parts := map[string]*rollUp{}
		if len(open) > 0 {
			whole, err := many[rollUp](ctx, s.rollUps, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: open}}}})
			if err != nil {
				return err
			}
			for _, d := range whole {
				parts[d.ID] = d
			}
		}
		for _, d := range found {
			if w := parts[d.ID]; w != nil {
				d = w
			}
			if r := d.decode(); len(r.Counts) > 0 {
				all = append(all, r)
			}
		}
		return nil
	})
	return all, err
}

func (d *rollUp) sum() (sum part) {
	if d.Sum != nil {
		return *d.Sum
	}
	for _, p := range d.Parts {
		sum.add(p)
	}
	return sum
}

func (d *rollUp) decode() store.RollUp {
	sum := d.sum()
	r := store.RollUp{
		From: fromDate(&d.From), Counts: map[job.Status]int{}, Timed: sum.Timed,
		Total: time.Duration(sum.Total) * time.Millisecond, Longest: time.Duration(sum.Longest) * time.Millisecond,
	}
	for _, status := range job.Statuses {
		if n := sum.of(status); n != nil && *n > 0 {
			r.Counts[status] = *n
		}
	}
	return r
}
