package mongostore

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// nextIs is the condition that a job stands at the time, or at none.
func nextIs(at *bson.DateTime) bson.E {
	if at == nil {
		return absent("next_run_at")
	}
	return bson.E{Key: "next_run_at", Value: *at}
}

// CreateJob implements [store.Definitions]. Without a limit it is one insert.
// With one the job is provisional at first; whoever finds at most as many
// counted jobs as are allowed, itself included, makes its own a real one. Of
// those that crowd in at the limit, the ones with higher ids step back.
func (s *Store) CreateJob(ctx context.Context, c store.CreateJob) (stored *job.Job, replayed bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for try := 0; ; try++ {
			have, err := s.definedJob(ctx, c.Job.ID)
			switch {
			case err != nil:
				return err
			case have != nil && have.Fingerprint != c.Fingerprint:
				return job.ErrKeyReused
			case have != nil && have.Provisional == nil:
				if err := s.copyOut(ctx, s.jobs, have.ID, have.Audit); err != nil {
					return err
				}
				replayed = true
				stored, err = s.complete(ctx, have)
				return err
			}
			if have == nil {
				if fresh, err := s.insertJob(ctx, c); err != nil {
					return err
				} else if !fresh {
					continue // it is there by now
				}
			}
			if c.Limit > 0 && !c.Job.Deleted {
				admitted, err := s.admit(ctx, c, try)
				if err != nil {
					return err
				}
				if !admitted {
					continue
				}
			}
			s.copyOutNew(ctx, s.jobs, c.Job.ID, c.Audit, 0)
			stands, err := s.definedJob(ctx, c.Job.ID)
			if err != nil {
				return err
			}
			if stands == nil {
				return errRestless
			}
			stored, err = s.complete(ctx, stands)
			return err
		}
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

// insertJob inserts the job, provisional if there is a limit. fresh is false
// when one of its id is there.
func (s *Store) insertJob(ctx context.Context, c store.CreateJob) (fresh bool, err error) {
	d := toJob(c.Job)
	d.Fingerprint = c.Fingerprint
	if c.Limit > 0 && !c.Job.Deleted {
		d.Provisional, d.NextRunAt = &d.CreatedAt, nil
	}
	if c.Audit != nil {
		d.Audits, d.Audit = 1, toAudit(c.Audit, 1)
	}
	if fresh, err = insert(ctx, s.jobs, d); err != nil || fresh {
		return fresh, err
	}
	have, err := s.definedJob(ctx, c.Job.ID)
	if err != nil || have != nil {
		return false, err
	}
	holder, err := one[definedJob](ctx, s.jobs, bson.D{{Key: "name_key", Value: c.Job.Name}})
	if err != nil || holder == nil {
		return false, err
	}
	return false, job.ErrNameTaken
}

// crowded is how often a job that finds others at the limit looks again.
const crowded = 40

// admit makes a provisional job a real one if the limit allows. It is not
// admitted when that has to be tried afresh.
func (s *Store) admit(ctx context.Context, c store.CreateJob, try int) (bool, error) {
	counted, err := s.countJobs(ctx, bson.D{{Key: "counted", Value: true}})
	if err != nil {
		return false, err
	}
	own := bson.D{{Key: "_id", Value: c.Job.ID}, {Key: "provisional", Value: bson.D{{Key: "$exists", Value: true}}}}
	if counted <= c.Limit {
		sets := bson.D(nil)
		if next := maybeDate(c.Job.NextRunAt); next != nil {
			sets = bson.D{{Key: "next_run_at", Value: *next}}
		}
		return update(ctx, s.jobs, own, changes(sets, bson.D{{Key: "provisional", Value: ""}}))
	}
	live, err := s.countJobs(ctx, bson.D{{Key: "counted", Value: true}, absent("provisional")})
	if err != nil {
		return false, err
	}
	if live >= c.Limit || try >= crowded {
		if _, err := remove(ctx, s.jobs, own); err != nil {
			return false, err
		}
		return false, &job.LimitError{What: "jobs", Limit: c.Limit}
	}
	others, err := many[definedJob](ctx, s.jobs, bson.D{{Key: "provisional", Value: bson.D{{Key: "$exists", Value: true}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return false, err
	}
	rank := slices.IndexFunc(others, func(d *definedJob) bool { return d.ID == c.Job.ID })
	if rank >= c.Limit-live {
		if _, err := remove(ctx, s.jobs, own); err != nil {
			return false, err
		}
	}
	return false, pause(ctx, time.Duration(try+1)*time.Millisecond)
}

// pause waits, to let others go first.
func pause(ctx context.Context, d time.Duration) error {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-short.Done()
	return ctx.Err()
}

func (s *Store) countJobs(ctx context.Context, filter bson.D) (int, error) {
	n, err := s.jobs.CountDocuments(ctx, filter)
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", s.jobs.Name(), err)
	}
	return int(n), nil
}

// complete returns the job with its last run.
func (s *Store) complete(ctx context.Context, d *definedJob) (*job.Job, error) {
	j, err := d.decode()
	if err != nil {
		return nil, err
	}
	last, err := one[execution](ctx, s.executions,
		bson.D{{Key: "job_id", Value: d.ID}, {Key: "last_started_at", Value: bson.D{{Key: "$gt", Value: bson.DateTime(0)}}}},
		options.FindOne().SetSort(bson.D{{Key: "last_started_at", Value: -1}}).SetProjection(bson.D{{Key: "last_started_at", Value: 1}}))
	if err != nil {
		return nil, err
	}
	if last != nil {
		j.LastRunAt = fromDate(last.LastStartedAt)
	}
	return j, nil
}

// EditJob implements [store.Definitions]. Fires that are half done are settled
// first, so that none is lost with the version it was decided for; see the
// package documentation.
func (s *Store) EditJob(ctx context.Context, e store.EditJob) (stored *job.Job, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		id := e.After.ID
		if e.After.Version != e.Version+1 {
			return fmt.Errorf("edit job %s: version %d does not follow %d", id, e.After.Version, e.Version)
		}
		after := toDefinition(e.After)
		next := maybeDate(e.After.NextRunAt)
		for range tries {
			have, err := s.definedJob(ctx, id)
			switch {
			case err != nil:
				return err
			case have == nil || !have.live():
				return job.ErrNotFound
			case have.Version == e.After.Version: // this very edit, tried again
				if same, err := sameDefinition(&have.Definition, &after); err != nil || !same {
					return cmpError(err, job.ErrVersion)
				}
				if err := s.copyOut(ctx, s.jobs, id, have.Audit); err != nil {
					return err
				}
				stored, err = s.complete(ctx, have)
				return err
			case have.Version != e.Version:
				return job.ErrVersion
			case !fromDate(have.NextRunAt).Equal(e.NextRunAt):
				return job.ErrConflict
			}
			if err := s.settleFiresOf(ctx, id); err != nil {
				return err
			}
			if err := s.copyOut(ctx, s.jobs, id, have.Audit); err != nil {
				return err
			}
			sets, unsets, err := replacement(after, optionalDefinition)
			if err != nil {
				return err
			}
			sets = append(sets, bson.E{Key: "version", Value: e.After.Version})
			if next != nil {
				sets = append(sets, bson.E{Key: "next_run_at", Value: *next})
			} else {
				unsets = append(unsets, bson.E{Key: "next_run_at", Value: ""})
			}
			if forgotten := e.After.Version - firedVersions; forgotten > 0 {
				unsets = append(unsets, bson.E{Key: "fired." + firedKey(forgotten), Value: ""})
			}
			filter, sets := audited(bson.D{{Key: "_id", Value: id}, {Key: "version", Value: e.Version}, nextIs(have.NextRunAt), absent("deleted_at")},
				sets, e.Audit, have.Audits)
			matched, err := update(ctx, s.jobs, filter, changes(sets, unsets))
			if duplicate(err) {
				return job.ErrNameTaken
			}
			if err != nil {
				return err
			}
			if matched {
				s.copyOutNew(ctx, s.jobs, id, e.Audit, have.Audits)
			}
			// Read again: as it stands now, or why it did not match.
		}
		return errRestless
	})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// cmpError is the first of the errors that is one.
func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func sameDefinition(a, b *definition) (bool, error) {
	x, err := bson.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("encode a definition: %w", err)
	}
	y, err := bson.Marshal(b)
	if err != nil {
		return false, fmt.Errorf("encode a definition: %w", err)
	}
	return bytes.Equal(x, y), nil
}

// DeleteJob implements [store.Definitions].
func (s *Store) DeleteJob(ctx context.Context, id string, version int, now time.Time, a *store.Audit) (was *job.Job, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for range tries {
			have, err := s.definedJob(ctx, id)
			switch {
			case err != nil:
				return err
			case have == nil || !have.live():
				return job.ErrNotFound
			case version != 0 && have.Version != version:
				return job.ErrVersion
			}
			if err := s.settleFiresOf(ctx, id); err != nil {
				return err
			}
			if err := s.copyOut(ctx, s.jobs, id, have.Audit); err != nil {
				return err
			}
			if was, err = s.complete(ctx, have); err != nil {
				return err
			}
			filter, sets := audited(bson.D{{Key: "_id", Value: id}, {Key: "version", Value: have.Version}, nextIs(have.NextRunAt), absent("deleted_at")},
				bson.D{{Key: "deleted_at", Value: date(now)}, {Key: "owes", Value: true}}, a, have.Audits)
			matched, err := update(ctx, s.jobs, filter, changes(sets, bson.D{{Key: "name_key", Value: ""}, {Key: "counted", Value: ""}, {Key: "next_run_at", Value: ""}}))
			if err != nil {
				return err
			}
			if !matched {
				continue
			}
			s.copyOutNew(ctx, s.jobs, id, a, have.Audits)
			if err := s.cancelWaiting(ctx, id, now); err != nil {
				s.log.Warn("not all waiting runs of a deleted job are cancelled yet", zap.String("id", id), zap.Error(err))
			}
			return nil
		}
		return errRestless
	})
	if err != nil {
		return nil, err
	}
	return was, nil
}

// cancelWaiting cancels what of a deleted job waits unleased.
func (s *Store) cancelWaiting(ctx context.Context, jobID string, now time.Time) error {
	found, err := many[execution](ctx, s.executions, bson.D{
		{Key: "job_id", Value: jobID},
		{Key: "status", Value: bson.D{{Key: "$in", Value: bson.A{string(job.Pending), string(job.Retrying)}}}},
		absent("session"),
	})
	if err != nil {
		return err
	}
	if found, err = s.reliable(ctx, found); err != nil {
		return err
	}
	for _, d := range found {
		e, err := d.decode()
		if err != nil {
			return err
		}
		if !waits(e) {
			continue
		}
		to := e.CancelledUnstarted(now)
		to.Reason = job.ReasonJobDeleted + ": the job was deleted while this run waited"
		// One that is leased at this moment goes on.
		if _, _, err := s.writeState(ctx, bson.D{{Key: "_id", Value: e.ID}, {Key: "status", Value: string(e.Status)}, {Key: "token", Value: e.Token}}, nil, to, nil, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// Job implements [store.Definitions].
func (s *Store) Job(ctx context.Context, id string) (j *job.Job, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		d, err := s.definedJob(ctx, id)
		if err != nil {
			return err
		}
		if d == nil || d.Provisional != nil {
			return job.ErrNotFound
		}
		if j, err = s.complete(ctx, d); err == nil {
			j.State = d.state()
		}
		return err
	})
	return j, err
}

// Definition implements [store.Definitions]. Another registry may have edited the job
// just now, so nothing is remembered.
func (s *Store) Definition(ctx context.Context, id string) (j *job.Job, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		d, err := s.definedJob(ctx, id)
		if err != nil {
			return err
		}
		if d == nil || d.Provisional != nil {
			return job.ErrNotFound
		}
		if j, err = d.decode(); err != nil {
			return err
		}
		if j.Deleted {
			return job.ErrNotFound
		}
		j.NextRunAt = time.Time{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

func (d *definedJob) state() job.State {
	if d.State == "" {
		return job.StateNever
	}
	return d.State
}

// Jobs implements [store.Definitions].
func (s *Store) Jobs(ctx context.Context, f store.JobFilter) (page []*job.Job, total int, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		list, err := jobList(f)
		if err != nil {
			return err
		}
		found, n, err := pageOf[definedJob](ctx, s.jobs, f.Offset, f.Limit, list...)
		if err != nil {
			return err
		}
		total, page = n, make([]*job.Job, len(found))
		failed := make([]error, len(found))
		var reading sync.WaitGroup
		for i, d := range found {
			reading.Go(func() {
				if page[i], failed[i] = s.complete(ctx, d); failed[i] == nil {
					page[i].State = d.state()
				}
			})
		}
		reading.Wait()
		return firstError(failed)
	})
	if err != nil {
		return nil, 0, err
	}
	return page, total, nil
}

// jobList is the query for a list of jobs. When they are in the order of their
// next runs there are two: those without one come last. Where nothing can match
// there is none.
func jobList(f store.JobFilter) ([]stretch, error) {
	filter := bson.D{{Key: "counted", Value: true}, absent("provisional")}
	if len(f.TemplateTypes) > 0 {
		filter = append(filter, bson.E{Key: "template_type", Value: bson.D{{Key: "$in", Value: f.TemplateTypes}}})
	}
	if f.Enabled != nil {
		filter = append(filter, bson.E{Key: "enabled", Value: *f.Enabled})
	}
	var all bson.A
	for _, word := range f.Words {
		if strings.ContainsRune(word, 0) { // nothing holds it, and no pattern can
			return nil, nil
		}
		pattern := bson.Regex{Pattern: regexp.QuoteMeta(word), Options: "i"}
		all = append(all, bson.D{{Key: "$or", Value: bson.A{
			bson.D{{Key: "name", Value: pattern}}, bson.D{{Key: "description", Value: pattern}}, bson.D{{Key: "template_type", Value: pattern}},
		}}})
	}
	for _, l := range f.Labels {
		if l.Key == "" || strings.ContainsRune(l.Key, 0) { // no document has such a key
			return nil, nil
		}
		field := "labels." + escapeKey(l.Key)
		if l.Value != nil {
			all = append(all, bson.D{{Key: field, Value: *l.Value}})
		} else {
			all = append(all, bson.D{present(field)})
		}
	}
	for _, state := range f.States {
		if state != job.StateOK && state != job.StateFailing && state != job.StateNever {
			return nil, fmt.Errorf("list jobs: no job is ever %q", state)
		}
	}
	if len(f.States) > 0 {
		states := bson.D{{Key: "state", Value: bson.D{{Key: "$in", Value: f.States}}}}
		if slices.Contains(f.States, job.StateNever) {
			states = bson.D{{Key: "$or", Value: bson.A{states, bson.D{absent("state")}}}}
		}
		all = append(all, states)
	}
	if len(all) > 0 {
		filter = append(filter, bson.E{Key: "$and", Value: all})
	}
	direction := 1
	if f.Sort.Descending || f.Sort.By == "" {
		direction = -1
	}
	ids := bson.E{Key: "_id", Value: direction}
	switch f.Sort.By {
	case store.SortName:
		return []stretch{{filter, bson.D{{Key: "name", Value: direction}, ids}}}, nil
	case store.SortUpdated:
		return []stretch{{filter, bson.D{{Key: "updated_at", Value: direction}, ids}}}, nil
	case store.SortNextRun:
		with := bson.D{{Key: "next_run_at", Value: bson.D{{Key: "$gt", Value: bson.DateTime(0)}}}}
		without := bson.D{{Key: "next_run_at", Value: nil}}
		return []stretch{
			{append(with, filter...), bson.D{{Key: "next_run_at", Value: direction}, ids}},
			{append(without, filter...), bson.D{ids}},
		}, nil
	case store.SortCreated, "":
		return []stretch{{filter, bson.D{{Key: "created_at", Value: direction}, ids}}}, nil
	default:
		return nil, fmt.Errorf("list jobs: they cannot be sorted by %q", f.Sort.By)
	}
}

func firstError(all []error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// template is a job.Template as it is kept.
type template struct {
	Type              string `bson:"_id"`
	Version           int    `bson:"version"`
	Name              string `bson:"name"`
	Description       string `bson:"description"`
	Category          string `bson:"category"`
	Icon              string `bson:"icon"`
	Schema            any    `bson:"parameters_schema"`
	SchemaJSON        string `bson:"parameters_schema_json,omitempty"`
	EstimatedDuration string `bson:"estimated_duration"`
	ResourceUsage     string `bson:"resource_usage"`
	RiskLevel         string `bson:"risk_level"`
	Idempotent        bool   `bson:"idempotent"`
	Destructive       bool   `bson:"destructive"`
	MaxConcurrency    int    `bson:"max_concurrency"`
}

func toTemplate(t *job.Template) template {
	schema := toObject(t.Schema)
	return template{
		Type: t.Type, Version: t.Version, Name: t.Name, Description: t.Description, Category: t.Category, Icon: t.Icon,
		Schema: schema.document, SchemaJSON: schema.text, EstimatedDuration: t.EstimatedDuration, ResourceUsage: t.ResourceUsage,
		RiskLevel: t.RiskLevel, Idempotent: t.Idempotent, Destructive: t.Destructive, MaxConcurrency: t.MaxConcurrency,
	}
}

// PutTemplates implements [store.Definitions].
func (s *Store) PutTemplates(ctx context.Context, ts []job.Template) error {
	return s.call(ctx, func(ctx context.Context) error {
		for i := range ts {
			if err := s.putTemplate(ctx, &ts[i]); err != nil {
				return fmt.Errorf("template %s: %w", ts[i].Type, err)
			}
		}
		return nil
	})
}

func (s *Store) putTemplate(ctx context.Context, t *job.Template) error {
	d := toTemplate(t)
	for range tries {
		r, err := s.templates.ReplaceOne(ctx, bson.D{{Key: "_id", Value: d.Type}, {Key: "version", Value: bson.D{{Key: "$lte", Value: d.Version}}}}, d)
		if err != nil {
			return fmt.Errorf("change %s: %w", s.templates.Name(), err)
		}
		if r.MatchedCount > 0 {
			return nil
		}
		if fresh, err := insert(ctx, s.templates, d); err != nil || fresh {
			return err
		}
		have, err := one[template](ctx, s.templates, byID(d.Type))
		if err != nil || have != nil && have.Version > d.Version {
			return err
		}
	}
	return errRestless
}

// Templates implements [store.Definitions].
func (s *Store) Templates(ctx context.Context) (ts []job.Template, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[template](ctx, s.templates, bson.D{}, options.Find().SetSort(byID1))
		if err != nil {
			return err
		}
		for _, d := range found {
			schema, err := object{d.Schema, d.SchemaJSON}.json()
			if err != nil {
				return fmt.Errorf("template %s: %w", d.Type, err)
			}
			ts = append(ts, job.Template{
				Type: d.Type, Version: d.Version, Name: d.Name, Description: d.Description, Category: d.Category, Icon: d.Icon,
				Schema: schema, EstimatedDuration: d.EstimatedDuration, ResourceUsage: d.ResourceUsage, RiskLevel: d.RiskLevel,
				Idempotent: d.Idempotent, Destructive: d.Destructive, MaxConcurrency: d.MaxConcurrency,
			})
		}
		return nil
	})
	return ts, err
}

// byID1 sorts by _id.
var byID1 = bson.D{{Key: "_id", Value: 1}}
