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

const selectUsers = `SELECT name, role, password_hash, created_at FROM users `

func (r row) user() store.User {
	return store.User{Name: r.text(0), Role: r.text(1), PasswordHash: r.text(2), CreatedAt: r.time(3)}
}

func (d *data) user(name string) (u store.User, err error) {
	found, err := d.one(selectUsers+`WHERE name = ?`, args{name}, func(r row) { u = r.user() })
	if err == nil && !found {
		err = job.ErrNotFound
	}
	return u, err
}

// Users implements [store.Access].
func (s *Store) Users(ctx context.Context) (all []store.User, err error) {
	err = s.read(ctx, func(d *data) error {
		return d.each(selectUsers+`ORDER BY name`, nil, func(r row) error {
			all = append(all, r.user())
			return nil
		})
	})
	return all, err
}

// superAdmin is the role of those of whom one has to stay.
const superAdmin = "super_admin"

// ChangeUser implements [store.Access]. A repetition changes nothing and is not
// kept as an audit.
func (s *Store) ChangeUser(ctx context.Context, c store.ChangeUser) (stands store.User, err error) {
	err = s.write(ctx, func(w *writer) error {
		was, err := w.user(c.Name)
		if err != nil {
			return err
		}
		stands = was
		if c.Role != nil {
			stands.Role = *c.Role
		}
		if c.PasswordHash != nil {
			stands.PasswordHash = *c.PasswordHash
		}
		if stands == was {
			return nil
		}
		if stands.Role != superAdmin {
			if err := w.spare(was); err != nil {
				return err
			}
		}
		if _, err := w.exec(`UPDATE users SET role = ?, password_hash = ? WHERE name = ?`, args{stands.Role, stands.PasswordHash, c.Name}); err != nil {
			return err
		}
		return w.audit(c.Audit)
	})
	if err != nil {
		return store.User{}, err
	}
	return stands, nil
}

// spare returns job.ErrLastAdmin when the user is the only super admin.
func (w *writer) spare(u store.User) error {
	if u.Role != superAdmin {
		return nil
	}
	others, err := w.number(`SELECT count(*) FROM users WHERE role = ? AND name <> ?`, args{superAdmin, u.Name})
	if err == nil && others == 0 {
		return job.ErrLastAdmin
	}
	return err
}

// RemoveUser implements [store.Access].
func (s *Store) RemoveUser(ctx context.Context, name string, a *store.Audit) error {
	return s.write(ctx, func(w *writer) error {
		was, err := w.user(name)
		if err != nil {
			return err
		}
		if err := w.spare(was); err != nil {
			return err
		}
		for _, query := range []string{`DELETE FROM users WHERE name = ?`, `DELETE FROM tokens WHERE user = ?`} {
			if _, err := w.exec(query, args{name}); err != nil {
				return err
			}
		}
		return w.audit(a)
	})
}

// AddToken implements [store.Access].
func (s *Store) AddToken(ctx context.Context, t store.Token, a *store.Audit) error {
	return s.write(ctx, func(w *writer) error {
		n, err := w.insertToken(t)
		if n == 0 || err != nil {
			return err
		}
		return w.audit(a)
	})
}

// insertToken returns 0 when the token is there already.
func (w *writer) insertToken(t store.Token) (int, error) {
	return w.exec(`INSERT INTO tokens (hash, user, kind, name, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		args{t.Hash, t.User, t.Kind, t.Name, t.CreatedAt.UnixMilli(), t.ExpiresAt})
}

// tokens returns those that what follows the query chooses.
func (d *data) tokens(narrow string, a args) (all []store.Token, err error) {
	err = d.each(`SELECT hash, user, kind, name, created_at, expires_at FROM tokens `+narrow, a, func(r row) error {
		all = append(all, store.Token{Hash: r.text(0), User: r.text(1), Kind: r.text(2), Name: r.text(3), CreatedAt: r.time(4), ExpiresAt: r.time(5)})
		return nil
	})
	return all, err
}

const newestOfUser = `WHERE user = ? ORDER BY created_at DESC, hash DESC`

// Tokens implements [store.Access].
func (s *Store) Tokens(ctx context.Context, user string) (all []store.Token, err error) {
	err = s.read(ctx, func(d *data) error {
		all, err = d.tokens(newestOfUser, args{user})
		return err
	})
	return all, err
}

// DeleteTokens implements [store.Access]. Where none of them is there, the audit
// is not kept.
func (s *Store) DeleteTokens(ctx context.Context, user string, hashes []string, a *store.Audit) error {
	return s.write(ctx, func(w *writer) error {
		removed := 0
		for _, hash := range hashes {
			n, err := w.exec(`DELETE FROM tokens WHERE hash = ? AND user = ?`, args{hash, user})
			if err != nil {
				return err
			}
			removed += n
		}
		if removed == 0 {
			return nil
		}
		return w.audit(a)
	})
}

// TokenOwner implements [store.Access].
func (s *Store) TokenOwner(ctx context.Context, hash string) (t store.Token, u store.User, err error) {
	err = s.read(ctx, func(d *data) error {
		found, err := d.tokens(`WHERE hash = ?`, args{hash})
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return job.ErrNotFound
		}
		t = found[0]
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
