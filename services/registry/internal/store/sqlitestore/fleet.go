package sqlitestore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// about is what a session says of itself once, as it is kept.
type about struct {
	Version   string            `json:"version,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Templates []string          `json:"templates,omitempty"`
	Slots     int               `json:"slots,omitempty"`
}

// OpenSession implements [store.Fleet].
func (s *Store) OpenSession(ctx context.Context, o store.Session, now time.Time) error {
	text, err := encode(about{o.Version, o.Labels, o.Templates, o.Slots})
	if err != nil {
		return unavailable(fmt.Errorf("session %s: %w", o.ID, err))
	}
	return s.write(ctx, func(w *writer) error {
		if _, err := w.exec(`DELETE FROM sessions WHERE ended_at < ?`, args{now.Add(-24 * time.Hour)}); err != nil {
			return err
		}
		n, err := w.exec(`INSERT INTO sessions (id, host, about, opened_at, count, running, stopping, last_beat_at, draining)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{o.ID, o.Host, text, o.OpenedAt, o.Count, o.Running, o.Stopping, o.LastBeatAt, o.Draining})
		if err != nil || n > 0 {
			return err
		}
		lives, err := w.sessionLives(o.ID)
		if err == nil && !lives {
			return job.ErrConflict
		}
		return err
	})
}

// Sessions implements [store.Fleet].
func (s *Store) Sessions(ctx context.Context) (live []store.Session, err error) {
	err = s.read(ctx, func(d *data) error {
		live, err = d.sessions(`ORDER BY id`, nil)
		return err
	})
	return live, err
}

// sessions returns the live ones that what follows the query chooses.
func (d *data) sessions(narrow string, a args) (live []store.Session, err error) {
	err = d.each(`SELECT id, host, about, opened_at, count, running, stopping, last_beat_at, draining FROM sessions WHERE ended_at IS NULL `+narrow, a, func(r row) error {
		var own about
		if err := json.Unmarshal(r.bytes(2), &own); err != nil {
			return fmt.Errorf("decode session %s: %w", r.text(0), err)
		}
		live = append(live, store.Session{
			ID: r.text(0), Host: r.text(1), Version: own.Version, Labels: own.Labels, Templates: own.Templates, Slots: own.Slots,
			OpenedAt: r.time(3), Count: r.int(4), Running: int(r.int(5)), Stopping: r.bool(6), LastBeatAt: r.time(7), Draining: r.bool(8),
		})
		return nil
	})
	return live, err
}

// DrainSession implements [store.Fleet]. A repetition changes nothing and is not
// kept as an audit.
func (s *Store) DrainSession(ctx context.Context, id string, drain bool, a *store.Audit) (stands store.Session, err error) {
	err = s.write(ctx, func(w *writer) error {
		n, err := w.exec(`UPDATE sessions SET draining = ?1 WHERE id = ?2 AND ended_at IS NULL AND draining <> ?1`, args{drain, id})
		if err != nil {
			return err
		}
		if n > 0 {
			if err := w.audit(a); err != nil {
				return err
			}
		}
		found, err := w.sessions(`AND id = ?`, args{id})
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return job.ErrNotFound
		}
		stands = found[0]
		return nil
	})
	return stands, err
}

// BeatReplica implements [store.Fleet].
func (s *Store) BeatReplica(ctx context.Context, r store.Replica, now time.Time) error {
	return s.write(ctx, func(w *writer) error {
		_, err := w.exec(`INSERT INTO replicas (id, name, version, opened_at, count, last_beat_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET count = excluded.count, last_beat_at = excluded.last_beat_at WHERE excluded.count > count`,
			args{r.ID, r.Name, r.Version, r.OpenedAt, r.Count, now})
		return err
	})
}

// Replicas implements [store.Fleet].
func (s *Store) Replicas(ctx context.Context) (all []store.Replica, err error) {
	err = s.read(ctx, func(d *data) error {
		return d.each(`SELECT id, name, version, opened_at, count, last_beat_at FROM replicas ORDER BY id`, nil, func(r row) error {
			all = append(all, store.Replica{ID: r.text(0), Name: r.text(1), Version: r.text(2), OpenedAt: r.time(3), Count: r.int(4), LastBeatAt: r.time(5)})
			return nil
		})
	})
	return all, err
}

// DropReplica implements [store.Fleet].
func (s *Store) DropReplica(ctx context.Context, id string) error {
	return s.write(ctx, func(w *writer) error {
		_, err := w.exec(`DELETE FROM replicas WHERE id = ?`, args{id})
		return err
	})
}
