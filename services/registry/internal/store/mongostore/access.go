package mongostore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// superAdmin is the role that somebody has to have.
const superAdmin = "super_admin"

// user is a store.User as it is kept.
type user struct {
	Name         string        `bson:"_id"`
	Role         string        `bson:"role"`
	PasswordHash string        `bson:"password_hash"`
	CreatedAt    bson.DateTime `bson:"created_at"`
	// Leaving marks a super admin who is about to be one no more: nobody else
	// counts on this one.
	Leaving string `bson:"leaving,omitempty"`
	// Owes tells that the user is removed, or some tokens are, and that not all of
	// that may be gone yet.
	Owes    bool          `bson:"owes,omitempty"`
	Removed bool          `bson:"removed,omitempty"`
	Revoked []string      `bson:"revoked,omitempty"` // hashes
	Audits  int           `bson:"audits,omitempty"`
	Audit   *pendingAudit `bson:"audit,omitempty"`
}

func (d *user) decode() store.User {
	return store.User{Name: d.Name, Role: d.Role, PasswordHash: d.PasswordHash, CreatedAt: fromDate(&d.CreatedAt)}
}

// token is a store.Token as it is kept.
type token struct {
	Hash      string         `bson:"_id"`
	User      string         `bson:"user"`
	Kind      string         `bson:"kind,omitempty"`
	Name      string         `bson:"name"`
	CreatedAt bson.DateTime  `bson:"created_at"`
	ExpiresAt *bson.DateTime `bson:"expires_at,omitempty"`
	Audits    int            `bson:"audits,omitempty"`
	Audit     *pendingAudit  `bson:"audit,omitempty"`
}

func toToken(t *store.Token) token {
	return token{Hash: t.Hash, User: t.User, Kind: t.Kind, Name: t.Name, CreatedAt: date(t.CreatedAt), ExpiresAt: maybeDate(t.ExpiresAt)}
}

func (d *token) decode() store.Token {
	t := store.Token{Hash: d.Hash, User: d.User, Kind: d.Kind, Name: d.Name, CreatedAt: fromDate(&d.CreatedAt), ExpiresAt: fromDate(d.ExpiresAt)}
	if t.Kind == "" {
		t.Kind = store.TokenLogin
	}
	return t
}

// AddUser implements [store.Access].
func (s *Store) AddUser(ctx context.Context, u store.User, a *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		have, err := one[user](ctx, s.users, byID(u.Name))
		if err != nil {
			return err
		}
		if have != nil && have.Removed {
			if err := s.finishUser(ctx, have); err != nil {
				return err
			}
			have = nil
		}
		if have != nil {
			return job.ErrUserExists
		}
		// A token that was made while a user of this name was removed is nobody's.
		if err := s.deleteTokens(ctx, bson.D{{Key: "user", Value: u.Name}}); err != nil {
			return err
		}
		next, err := s.nextAudit(ctx, u.Name) // also after those of a user of this name who was removed
		if err != nil {
			return err
		}
		d := user{Name: u.Name, Role: u.Role, PasswordHash: u.PasswordHash, CreatedAt: date(u.CreatedAt), Audits: next - 1}
		if a != nil {
			d.Audits, d.Audit = next, toAudit(a, next)
		}
		fresh, err := insert(ctx, s.users, d)
		if err != nil {
			return err
		}
		if !fresh {
			return job.ErrUserExists
		}
		s.copyOutNew(ctx, s.users, u.Name, a, next-1)
		return nil
	})
}

// Users implements [store.Access].
func (s *Store) Users(ctx context.Context) (all []store.User, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		found, err := s.allUsers(ctx)
		for _, d := range found {
			all = append(all, d.decode())
		}
		return err
	})
	return all, err
}

// allUsers reads the users who were not removed.
func (s *Store) allUsers(ctx context.Context) ([]*user, error) {
	found, err := many[user](ctx, s.users, bson.D{}, options.Find().SetSort(byID1))
	return slices.DeleteFunc(found, func(d *user) bool { return d.Removed }), err
}

// UserByName implements [store.Access].
func (s *Store) UserByName(ctx context.Context, name string) (u store.User, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		d, err := s.user(ctx, name)
		if err == nil {
			u = d.decode()
		}
		return err
	})
	return u, err
}

// user reads a user, or returns job.ErrNotFound.
func (s *Store) user(ctx context.Context, name string) (*user, error) {
	d, err := one[user](ctx, s.users, byID(name))
	if err == nil && (d == nil || d.Removed) {
		err = job.ErrNotFound
	}
	return d, err
}

// ChangeUser implements [store.Access]. What changes nothing is not kept as an
// audit.
func (s *Store) ChangeUser(ctx context.Context, c store.ChangeUser) (stands store.User, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for range tries {
			d, err := s.user(ctx, c.Name)
			if err != nil {
				return err
			}
			var sets bson.D
			after := d.decode()
			if c.Role != nil && *c.Role != d.Role {
				sets, after.Role = append(sets, bson.E{Key: "role", Value: *c.Role}), *c.Role
			}
			if c.PasswordHash != nil && *c.PasswordHash != d.PasswordHash {
				sets, after.PasswordHash = append(sets, bson.E{Key: "password_hash", Value: *c.PasswordHash}), *c.PasswordHash
			}
			if len(sets) == 0 {
				stands = after
				return s.copyOut(ctx, s.users, d.Name, d.Audit)
			}
			if changed, err := s.changeUser(ctx, d, after.Role != superAdmin, sets, c.Audit); err != nil {
				return err
			} else if changed {
				stands = after
				return nil
			}
		}
		return errRestless
	})
	return stands, err
}

// RemoveUser implements [store.Access]. The user is gone with the first write;
// the document and the tokens follow.
func (s *Store) RemoveUser(ctx context.Context, name string, a *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		for range tries {
			d, err := s.user(ctx, name)
			if err != nil {
				return err
			}
			gone := bson.D{{Key: "removed", Value: true}, {Key: "owes", Value: true}}
			if removed, err := s.changeUser(ctx, d, true, gone, a); err != nil {
				return err
			} else if removed {
				s.finishUserNew(ctx, name)
				return nil
			}
		}
		return errRestless
	})
}

// changeUser changes a user as who was read, if that is how the user stands. A
// super admin goes, and is one no more, only if another stays.
func (s *Store) changeUser(ctx context.Context, d *user, goes bool, sets bson.D, a *store.Audit) (changed bool, err error) {
	if err := s.copyOut(ctx, s.users, d.Name, d.Audit); err != nil {
		return false, err
	}
	filter := bson.D{{Key: "_id", Value: d.Name}, {Key: "role", Value: d.Role}, absent("removed")}
	if goes && d.Role == superAdmin {
		mark, err := s.leave(ctx, d.Name)
		if err != nil {
			return false, err
		}
		filter = append(filter, bson.E{Key: "leaving", Value: mark})
	}
	filter, sets = audited(filter, sets, a, d.Audits)
	changed, err = update(ctx, s.users, filter, changes(sets, bson.D{{Key: "leaving", Value: ""}}))
	if changed {
		s.copyOutNew(ctx, s.users, d.Name, a, d.Audits)
	}
	return changed, err
}

// leave marks a super admin who is about to go, so that two who go at the same
// time cannot count on each other, and returns the mark: whoever still has it
// may go. Without another who stays it returns job.ErrLastAdmin.
//
// Of several who are about to go, the first by name takes the marks off the
// others, who begin afresh; the last try of any does, for marks of the dead.
func (s *Store) leave(ctx context.Context, name string) (mark string, err error) {
	mark = job.NewID("leaving_")
	own := bson.D{{Key: "_id", Value: name}, {Key: "leaving", Value: mark}}
	for try := range tries {
		if _, err := update(ctx, s.users, bson.D{{Key: "_id", Value: name}, {Key: "role", Value: superAdmin}}, set(bson.E{Key: "leaving", Value: mark})); err != nil {
			return "", err
		}
		all, err := s.allUsers(ctx)
		if err != nil {
			return "", err
		}
		others := slices.DeleteFunc(all, func(d *user) bool { return d.Role != superAdmin || d.Name == name })
		if slices.ContainsFunc(others, func(d *user) bool { return d.Leaving == "" }) {
			return mark, nil
		}
		if len(others) > 0 && (name < others[0].Name || try == tries-2) {
			for _, d := range others {
				if _, err := update(ctx, s.users, bson.D{{Key: "_id", Value: d.Name}, {Key: "leaving", Value: d.Leaving}}, unset("leaving")); err != nil {
					return "", err
				}
			}
			continue
		}
		if _, err := update(ctx, s.users, own, unset("leaving")); err != nil {
			return "", err
		}
		if len(others) == 0 {
			return "", job.ErrLastAdmin
		}
		if err := pause(ctx, time.Duration(try+1)*10*time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errRestless
}

func unset(field string) bson.D {
	return bson.D{{Key: "$unset", Value: bson.D{{Key: field, Value: ""}}}}
}

// finishUser deletes what is left of a user who was removed, or of tokens that
// were.
func (s *Store) finishUser(ctx context.Context, d *user) error {
	if err := s.copyOut(ctx, s.users, d.Name, d.Audit); err != nil {
		return err
	}
	if d.Removed {
		if err := s.deleteTokens(ctx, bson.D{{Key: "user", Value: d.Name}}); err != nil {
			return err
		}
		_, err := remove(ctx, s.users, bson.D{{Key: "_id", Value: d.Name}, {Key: "removed", Value: true}})
		return err
	}
	if len(d.Revoked) == 0 {
		return nil
	}
	if err := s.deleteTokens(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: d.Revoked}}}, {Key: "user", Value: d.Name}}); err != nil {
		return err
	}
	_, err := update(ctx, s.users, bson.D{{Key: "_id", Value: d.Name}, absent("removed"), {Key: "revoked", Value: d.Revoked}},
		changes(nil, bson.D{{Key: "owes", Value: ""}, {Key: "revoked", Value: ""}}))
	return err
}

// finishUserNew does it for what happened just now. An error is only logged:
// Mend goes on with it.
func (s *Store) finishUserNew(ctx context.Context, name string) {
	d, err := one[user](ctx, s.users, byID(name))
	if err == nil && d != nil {
		err = s.finishUser(ctx, d)
	}
	if err != nil {
		s.log.Warn("what was removed is not all gone yet", zap.String("user", name), zap.Error(err))
	}
}

// finishUsers does it for what processes that died left.
func (s *Store) finishUsers(ctx context.Context) error {
	found, err := many[user](ctx, s.users, bson.D{{Key: "owes", Value: true}}, options.Find().SetLimit(mendAtOnce))
	if err != nil {
		return err
	}
	for _, d := range found {
		if err := s.finishUser(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// deleteTokens deletes tokens after their audits were copied out.
func (s *Store) deleteTokens(ctx context.Context, filter bson.D) error {
	found, err := many[token](ctx, s.tokens, filter)
	if err != nil || len(found) == 0 {
		return err
	}
	for _, d := range found {
		if err := s.copyOut(ctx, s.tokens, d.Hash, d.Audit); err != nil {
			return err
		}
	}
	if _, err := s.tokens.DeleteMany(ctx, filter); err != nil {
		return fmt.Errorf("delete tokens: %w", err)
	}
	return nil
}

// AddToken implements [store.Access].
func (s *Store) AddToken(ctx context.Context, t store.Token, a *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		d := toToken(&t)
		if a != nil {
			n, err := s.nextAudit(ctx, a.Object)
			if err != nil {
				return err
			}
			d.Audits, d.Audit = n, toAudit(a, n)
		}
		fresh, err := insert(ctx, s.tokens, d)
		if err != nil {
			return err
		}
		if fresh {
			s.copyOutNew(ctx, s.tokens, t.Hash, a, d.Audits-1)
		}
		return nil
	})
}

// Tokens implements [store.Access].
func (s *Store) Tokens(ctx context.Context, user string) (all []store.Token, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		owner, err := s.user(ctx, user)
		if errors.Is(err, job.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found, err := many[token](ctx, s.tokens, bson.D{{Key: "user", Value: user}},
			options.Find().SetSort(bson.D{{Key: "created_at", Value: -1}, {Key: "_id", Value: -1}}))
		for _, d := range found {
			if !slices.Contains(owner.Revoked, d.Hash) {
				all = append(all, d.decode())
			}
		}
		return err
	})
	return all, err
}

// DeleteTokens implements [store.Access]. What deletes nothing is not kept as an
// audit. The tokens are of no use any more with the first write, and are deleted
// after it.
func (s *Store) DeleteTokens(ctx context.Context, user string, hashes []string, a *store.Audit) error {
	return s.call(ctx, func(ctx context.Context) error {
		theirs := bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: append([]string{}, hashes...)}}}, {Key: "user", Value: user}}
		for range tries {
			d, err := s.user(ctx, user)
			if errors.Is(err, job.ErrNotFound) { // nor has a user who is gone any tokens
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.finishUser(ctx, d); err != nil {
				return err
			}
			found, err := many[token](ctx, s.tokens, theirs)
			if err != nil || len(found) == 0 {
				return err
			}
			revoked := make([]string, len(found))
			for i, t := range found {
				revoked[i] = t.Hash
			}
			filter, sets := audited(bson.D{{Key: "_id", Value: user}, absent("removed"), absent("owes")},
				bson.D{{Key: "owes", Value: true}, {Key: "revoked", Value: revoked}}, a, d.Audits)
			matched, err := update(ctx, s.users, filter, bson.D{{Key: "$set", Value: sets}})
			if err != nil {
				return err
			}
			if matched {
				s.finishUserNew(ctx, user)
				return nil
			}
		}
		return errRestless
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
		owner, err := s.user(ctx, d.User)
		if err != nil {
			return err
		}
		if slices.Contains(owner.Revoked, hash) {
			return job.ErrNotFound
		}
		t, u = d.decode(), owner.decode()
		return nil
	})
	return t, u, err
}

// DeleteExpiredTokens implements [store.Access].
func (s *Store) DeleteExpiredTokens(ctx context.Context, now time.Time) error {
	return s.call(ctx, func(ctx context.Context) error {
		return s.deleteTokens(ctx, bson.D{{Key: "expires_at", Value: bson.D{{Key: "$lt", Value: date(now)}}}})
	})
}
