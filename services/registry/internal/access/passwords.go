package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// ErrWrongPassword says that the current password, which a change of it asks
// for, is another one.
var ErrWrongPassword = errors.New("the current password is wrong")

const (
	loginLifetime = 12 * time.Hour
	leastPassword = 12   // characters
	mostPassword  = 1000 // bytes, as the API accepts
)

// hashing is one of the settings that OWASP recommends for argon2id: 19 MiB,
// two passes, one lane. It keeps a login at some tens of milliseconds.
var hashing = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Login is the answer to a password.
type Login struct {
	Token     string
	ExpiresAt time.Time
	User      string
	Role      Role
}

// LogIn exchanges a password for a token that is good for twelve hours. Unknown
// users and wrong passwords get the same answer after the same work. Errors:
// ErrBadLogin, *SlowDownError, job.ErrUnavailable.
func (g *Guard) LogIn(ctx context.Context, name, password, address string) (Login, error) {
	return g.logIn(ctx, name, password, address, store.TokenLogin)
}

// StartSession is LogIn for a browser: its token is good as a cookie too.
func (g *Guard) StartSession(ctx context.Context, name, password, address string) (Login, error) {
	return g.logIn(ctx, name, password, address, store.TokenSession)
}

func (g *Guard) logIn(ctx context.Context, name, password, address, kind string) (Login, error) {
	u, err := g.prove(ctx, name, password, address)
	if err != nil {
		return Login{}, err
	}
	now := g.now().UTC().Truncate(time.Millisecond) // as a store keeps it
	t, secret := newToken(store.Token{User: u.Name, Kind: kind, Name: kind, CreatedAt: now, ExpiresAt: now.Add(loginLifetime)})
	if err := g.store.AddToken(ctx, t, nil); err != nil {
		return Login{}, fmt.Errorf("keep the token: %w", err)
	}
	return Login{Token: secret, ExpiresAt: t.ExpiresAt, User: u.Name, Role: Role(u.Role)}, nil
}

// prove returns the user whose password it is. Errors: as of LogIn.
func (g *Guard) prove(ctx context.Context, name, password, address string) (store.User, error) {
	// Counted as a failure until it succeeds, so that many at once gain nothing.
	if wait := g.slow.attempt(name, address, g.now()); wait > 0 {
		return store.User{}, &SlowDownError{Wait: wait}
	}
	u, err := g.store.UserByName(ctx, name)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		return store.User{}, fmt.Errorf("look up the user: %w", err)
	}
	hash, known := u.PasswordHash, err == nil && u.PasswordHash != ""
	if !known {
		hash = g.dummy
	}
	match := false
	err = g.hashed(ctx, func() error {
		match, err = argon2id.ComparePasswordAndHash(password, hash)
		return err
	})
	if err != nil {
		return store.User{}, fmt.Errorf("compare the password of %s: %w", name, err)
	}
	if !match || !known {
		return store.User{}, ErrBadLogin
	}
	g.slow.succeeded(name, address)
	return u, nil
}

// hashed computes a hash when there is room: it takes memory, and a flood of
// logins must not take all of it.
func (g *Guard) hashed(ctx context.Context, compute func() error) error {
	select {
	case g.hashers <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.hashers }()
	return compute()
}

// checkPassword returns a *FieldError unless a password is good enough. field is
// its name in the request.
func checkPassword(field, password string) error {
	if utf8.RuneCountInString(password) < leastPassword || len(password) > mostPassword {
		return &FieldError{field, fmt.Sprintf("must have %d to %d characters", leastPassword, mostPassword)}
	}
	return nil
}

func (g *Guard) newHash(ctx context.Context, password string) (hash string, err error) {
	err = g.hashed(ctx, func() error {
		hash, err = argon2id.CreateHash(password, hashing)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return hash, nil
}

// ChangePassword gives the caller a new password. It ends all their sessions and
// logins but the one that the request came with; personal tokens stay. Errors:
// ErrWrongPassword, *FieldError (new_password), *SlowDownError, job.ErrUnavailable.
func (g *Guard) ChangePassword(ctx context.Context, id Identity, current, next, address string) error {
	if current == next {
		return &FieldError{"new_password", "must differ from the current one"}
	}
	if err := checkPassword("new_password", next); err != nil {
		return err
	}
	u, err := g.prove(ctx, id.User, current, address)
	if errors.Is(err, ErrBadLogin) {
		return ErrWrongPassword
	}
	if err != nil {
		return err
	}
	hash, err := g.newHash(ctx, next)
	if err != nil {
		return err
	}
	a, err := g.audit(id.User, address, "user.update", u.Name, described(u), with(described(u), "password", "changed"))
	if err != nil {
		return err
	}
	if _, err := g.store.ChangeUser(ctx, store.ChangeUser{Name: u.Name, PasswordHash: &hash, Audit: a}); err != nil {
		return fmt.Errorf("change the password of %s: %w", u.Name, err)
	}
	return g.endSessions(ctx, u.Name, id.Token.Hash)
}

// endSessions makes a user's tokens worthless, but for personal ones and the one
// with the hash keep.
func (g *Guard) endSessions(ctx context.Context, user, keep string) error {
	all, err := g.store.Tokens(ctx, user)
	if err != nil {
		return fmt.Errorf("find the sessions of %s: %w", user, err)
	}
	all = slices.DeleteFunc(all, func(t store.Token) bool { return t.Kind == store.TokenPersonal || t.Hash == keep })
	hashes := make([]string, len(all))
	for i, t := range all {
		hashes[i] = t.Hash
	}
	if err := g.store.DeleteTokens(ctx, user, hashes, nil); err != nil {
		return fmt.Errorf("end the sessions of %s: %w", user, err)
	}
	g.forget(user)
	return nil
}
