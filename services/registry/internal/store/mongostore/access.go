package mongostore

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// user is a store.User as it is kept.
type user struct {
	Name         string        `bson:"_id"`
	Role         string        `bson:"role"`
	PasswordHash string        `bson:"password_hash"`
	CreatedAt    bson.DateTime `bson:"created_at"`
	Audits       int           `bson:"audits,omitempty"`
	Audit        *pendingAudit `bson:"audit,omitempty"`
}

// token is a store.Token as it is kept.
type token struct {
	Hash      string         `bson:"_id"`
	User      string         `bson:"user"`
	Name      string         `bson:"name"`
	CreatedAt bson.DateTime  `bson:"created_at"`
	ExpiresAt *bson.DateTime `bson:"expires_at,omitempty"`
}

// AddUser implements [store.Access].
func (s *Store) AddUser(ctx context.Context, u store.User, a *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		d := user{Name: u.Name, Role: u.Role, PasswordHash: u.PasswordHash, CreatedAt: date(u.CreatedAt)}
		if a != nil {
			d.Audits, d.Audit = 1, toAudit(a, 1)
		}
		fresh, err := insert(ctx, s.users, d)
		if err != nil {
			return err
		}
		if !fresh {
			return job.ErrUserExists
		}
		s.copyOutNew(ctx, s.users, u.Name, a, 0)
		return nil
	})
}

// UserByName implements [store.Access].
func (s *Store) UserByName(ctx context.Context, name string) (u store.User, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		u, err = s.user(ctx, name)
		return err
	})
	return u, err
}

func (s *Store) user(ctx context.Context, name string) (store.User, error) {
	d, err := one[user](ctx, s.users, byID(name))
	if err != nil {
		return store.User{}, err
	}
	if d == nil {
		return store.User{}, job.ErrNotFound
	}
	return store.User{Name: d.Name, Role: d.Role, PasswordHash: d.PasswordHash, CreatedAt: fromDate(&d.CreatedAt)}, nil
}

// AddToken implements [store.Access].
func (s *Store) AddToken(ctx context.Context, t store.Token, _ *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := insert(ctx, s.tokens, token{Hash: t.Hash, User: t.User, Name: t.Name, CreatedAt: date(t.CreatedAt), ExpiresAt: maybeDate(t.ExpiresAt)})
		return err
	})
}

// TokenOwner implements [store.Access].
func (s *Store) TokenOwner(ctx context.Context, hash string) (t store.Token, u store.User, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		d, err := one[token](ctx, s.tokens, byID(hash))
		if err != nil {
			return err
		}
		if d == nil {
			return job.ErrNotFound
		}
		t = store.Token{Hash: d.Hash, User: d.User, Name: d.Name, CreatedAt: fromDate(&d.CreatedAt), ExpiresAt: fromDate(d.ExpiresAt)}
		u, err = s.user(ctx, d.User)
		return err
	})
	return t, u, err
}

// DeleteExpiredTokens implements [store.Access].
func (s *Store) DeleteExpiredTokens(ctx context.Context, now time.Time) error {
	return s.call(ctx, func(ctx context.Context) error {
		if _, err := s.tokens.DeleteMany(ctx, bson.D{{Key: "expires_at", Value: bson.D{{Key: "$lt", Value: date(now)}}}}); err != nil {
			return fmt.Errorf("delete expired tokens: %w", err)
		}
		return nil
	})
}
