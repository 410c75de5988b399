package mongostore

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// session is a store.Session as it is kept.
type session struct {
	ID         string         `bson:"_id"`
	Host       string         `bson:"host"`
	Version    string         `bson:"version"`
	Labels     any            `bson:"labels"`
	Templates  []string       `bson:"templates"`
	Slots      int            `bson:"slots"`
	OpenedAt   *bson.DateTime `bson:"opened_at"`
	Count      int64          `bson:"count"`
	Running    int            `bson:"running"`
	Stopping   bool           `bson:"stopping"`
	LastBeatAt *bson.DateTime `bson:"last_beat_at"`
	Draining   bool           `bson:"draining"`
	EndedAt    *bson.DateTime `bson:"ended_at,omitempty"`
	Audits     int            `bson:"audits,omitempty"`
	Audit      *pendingAudit  `bson:"audit,omitempty"`
}

func toSession(o *store.Session) session {
	return session{
		ID: o.ID, Host: o.Host, Version: o.Version, Labels: toLabels(o.Labels), Templates: o.Templates, Slots: o.Slots,
		OpenedAt: maybeDate(o.OpenedAt), Count: o.Count, Running: o.Running, Stopping: o.Stopping,
		LastBeatAt: maybeDate(o.LastBeatAt), Draining: o.Draining,
	}
}

func (d *session) decode() store.Session {
	return store.Session{
		ID: d.ID, Host: d.Host, Version: d.Version, Labels: fromLabels(d.Labels), Templates: d.Templates, Slots: d.Slots,
		OpenedAt: fromDate(d.OpenedAt), Count: d.Count, Running: d.Running, Stopping: d.Stopping,
		LastBeatAt: fromDate(d.LastBeatAt), Draining: d.Draining,
	}
}

// forgetAfter is how long an ended session is remembered.
const forgetAfter = 24 * time.Hour

// OpenSession implements [store.Fleet].
func (s *Store) OpenSession(ctx context.Context, o store.Session, now time.Time) error {
	return s.call(ctx, func(ctx context.Context) error {
		if _, err := s.sessions.DeleteMany(ctx, bson.D{{Key: "ended_at", Value: bson.D{{Key: "$lt", Value: date(now.Add(-forgetAfter))}}}}); err != nil {
			return fmt.Errorf("forget ended sessions: %w", err)
		}
		fresh, err := insert(ctx, s.sessions, toSession(&o))
		if err != nil || fresh {
			return err
		}
		live, err := s.liveSession(ctx, o.ID)
		if err == nil && live == nil {
			return job.ErrConflict
		}
		return err
	})
}

// liveSession reads a session, nil when it ended or never was.
func (s *Store) liveSession(ctx context.Context, id string) (*session, error) {
	return one[session](ctx, s.sessions, append(byID(id), absent("ended_at")))
}

// Sessions implements [store.Fleet].
func (s *Store) Sessions(ctx context.Context) (live []store.Session, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[session](ctx, s.sessions, bson.D{absent("ended_at")}, options.Find().SetSort(byID1))
		for _, d := range found {
			live = append(live, d.decode())
		}
		return err
	})
	return live, err
}

// DrainSession implements [store.Fleet]. A repetition changes nothing and is not
// kept as an audit.
func (s *Store) DrainSession(ctx context.Context, id string, drain bool, a *store.Audit) (stands store.Session, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for range tries {
			have, err := s.liveSession(ctx, id)
			if err != nil {
				return err
			}
			if have == nil {
				return job.ErrNotFound
			}
			if err := s.copyOut(ctx, s.sessions, id, have.Audit); err != nil {
				return err
			}
			if have.Draining == drain {
				stands = have.decode()
				return nil
			}
			filter, sets := audited(append(byID(id), absent("ended_at"), bson.E{Key: "draining", Value: !drain}), bson.D{{Key: "draining", Value: drain}}, a, have.Audits)
			if _, err := update(ctx, s.sessions, filter, bson.D{{Key: "$set", Value: sets}}); err != nil {
				return err
			}
			// Read again, and copy the audit out.
		}
		return errRestless
	})
	return stands, err
}

// replica is a store.Replica as it is kept.
type replica struct {
	ID         string         `bson:"_id"`
	Name       string         `bson:"name"`
	Version    string         `bson:"version"`
	OpenedAt   *bson.DateTime `bson:"opened_at"`
	Count      int64          `bson:"count"`
	LastBeatAt bson.DateTime  `bson:"last_beat_at"`
}

// BeatReplica implements [store.Fleet].
func (s *Store) BeatReplica(ctx context.Context, r store.Replica, now time.Time) error {
	return s.call(ctx, func(ctx context.Context) error {
		for range tries {
			matched, err := update(ctx, s.replicas, bson.D{{Key: "_id", Value: r.ID}, {Key: "count", Value: bson.D{{Key: "$lt", Value: r.Count}}}},
				set(bson.E{Key: "count", Value: r.Count}, bson.E{Key: "last_beat_at", Value: date(now)}))
			if err != nil || matched {
				return err
			}
			fresh, err := insert(ctx, s.replicas, replica{r.ID, r.Name, r.Version, maybeDate(r.OpenedAt), r.Count, date(now)})
			if err != nil || fresh {
				return err
			}
			have, err := one[replica](ctx, s.replicas, byID(r.ID))
			if err != nil || have != nil && have.Count >= r.Count {
				return err
			}
		}
		return errRestless
	})
}

// Replicas implements [store.Fleet].
func (s *Store) Replicas(ctx context.Context) (all []store.Replica, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := many[replica](ctx, s.replicas, bson.D{}, options.Find().SetSort(byID1))
		for _, d := range found {
			all = append(all, store.Replica{
				ID: d.ID, Name: d.Name, Version: d.Version, OpenedAt: fromDate(d.OpenedAt), Count: d.Count, LastBeatAt: fromDate(&d.LastBeatAt),
			})
		}
		return err
	})
	return all, err
}

// DropReplica implements [store.Fleet].
func (s *Store) DropReplica(ctx context.Context, id string) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := remove(ctx, s.replicas, byID(id))
		return err
	})
}
