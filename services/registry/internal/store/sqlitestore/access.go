package sqlitestore

import (
	"context"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// AddUser implements [store.Access].
func (s *Store) AddUser(ctx context.Context, u store.User, a *store.Audit) error {
	return s.write(ctx, func(w *writer) error {
		n, err := w.exec(`INSERT INTO users (name, role, password_hash, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{u.Name, u.Role, u.PasswordHash, u.CreatedAt.UnixMilli()})
		if err != nil {
			return err
		}
		if n == 0 {
			return job.ErrUserExists
		}
		return w.audit(a)
	})
}

// UserByName implements [store.Access].
func (s *Store) UserByName(ctx context.Context, name string) (u store.User, err error) {
	err = s.read(ctx, func(d *data) error {
		u, err = d.user(name)
		return err
	})
	return u, err
}

func (d *data) user(name string) (u store.User, err error) {
	found, err := d.one(`SELECT name, role, password_hash, created_at FROM users WHERE name = ?`, args{name}, func(r row) {
		u = store.User{Name: r.text(0), Role: r.text(1), PasswordHash: r.text(2), CreatedAt: r.time(3)}
	})
	if err == nil && !found {
		err = job.ErrNotFound
	}
	return u, err
}

// AddToken implements [store.Access].
func (s *Store) AddToken(ctx context.Context, t store.Token, _ *store.Audit) error {
	return s.write(ctx, func(w *writer) error {
		_, err := w.exec(`INSERT INTO tokens (hash, user, name, created_at, expires_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			args{t.Hash, t.User, t.Name, t.CreatedAt.UnixMilli(), t.ExpiresAt})
		return err
	})
}

// TokenOwner implements [store.Access].
func (s *Store) TokenOwner(ctx context.Context, hash string) (t store.Token, u store.User, err error) {
	err = s.read(ctx, func(d *data) error {
		found, err := d.one(`SELECT hash, user, name, created_at, expires_at FROM tokens WHERE hash = ?`, args{hash}, func(r row) {
			t = store.Token{Hash: r.text(0), User: r.text(1), Name: r.text(2), CreatedAt: r.time(3), ExpiresAt: r.time(4)}
		})
		if err != nil {
			return err
		}
		if !found {
			return job.ErrNotFound
		}
		u, err = d.user(t.User)
		return err
	})
	return t, u, err
}

// DeleteExpiredTokens implements [store.Access].
func (s *Store) DeleteExpiredTokens(ctx context.Context, now time.Time) error {
	return s.write(ctx, func(w *writer) error {
		_, err := w.exec(`DELETE FROM tokens WHERE expires_at < ?`, args{now})
		return err
	})
}
