// Package access knows who makes a request and what they may do: users with
// passwords, opaque tokens of which only the hash is kept, the credential of the
// executors, and one table that says who may call what.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Errors of identification.
var (
	ErrNoToken  = errors.New("a token is needed: send the header \"Authorization: Bearer <token>\"")
	ErrBadToken = errors.New("the token is not known or has expired: log in again")
	ErrBadLogin = errors.New("the username or the password is wrong")
)

const (
	tokenPrefix   = "alm_"
	loginLifetime = 12 * time.Hour
	cacheFor      = 5 * time.Second // how long a revoked token may go on
	cacheMost     = 10_000          // tokens
	leastPassword = 12              // characters
	mostPassword  = 1000            // bytes, as the API accepts
)

// hashing is one of the settings that OWASP recommends for argon2id: 19 MiB,
// two passes, one lane. It keeps a login at some tens of milliseconds.
var hashing = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// Store is the part of the store that identities need; see store.Access.
type Store interface {
	AddUser(ctx context.Context, u store.User, a *store.Audit) error
	UserByName(ctx context.Context, name string) (store.User, error)
	AddToken(ctx context.Context, t store.Token, a *store.Audit) error
	TokenOwner(ctx context.Context, hash string) (store.Token, store.User, error)
}

// Guard identifies those who make requests. It is safe for concurrent use.
type Guard struct {
	store    Store
	executor [sha256.Size]byte // hash of the executors' token
	leasing  bool              // there is such a token
	now      func() time.Time
	slow     *slowdown
	hashers  chan struct{} // one token for each password hash computed at a time
	dummy    string        // hash that a login of an unknown user is compared with

	mu    sync.Mutex
	cache map[string]cached // by token hash
}

type cached struct {
	id    Identity
	until time.Time
}

// New returns a guard. executorToken is the shared credential of the executors;
// while it is empty no executor is let in.
func New(s Store, executorToken string, now func() time.Time) (*Guard, error) {
	dummy, err := argon2id.CreateHash(rand.Text(), hashing)
	if err != nil {
		return nil, fmt.Errorf("hash a password: %w", err)
	}
	return &Guard{
		store: s, executor: sha256.Sum256([]byte(executorToken)), leasing: executorToken != "", now: now,
		slow: newSlowdown(), hashers: make(chan struct{}, 2), dummy: dummy, cache: map[string]cached{},
	}, nil
}

// Check identifies the caller of a method (its full gRPC name) by the value of
// the Authorization header and decides whether it may call it. Errors:
// ErrNoToken, ErrBadToken, *DeniedError, job.ErrUnavailable.
func (g *Guard) Check(ctx context.Context, method, authorization string) (Identity, error) {
	if Public(method) {
		return Identity{}, nil
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Identity{}, ErrNoToken
	}
	id, err := g.identify(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	return id, Authorize(id, method)
}

func (g *Guard) identify(ctx context.Context, token string) (Identity, error) {
	sum := sha256.Sum256([]byte(token))
	if g.leasing && subtle.ConstantTimeCompare(sum[:], g.executor[:]) == 1 {
		return Identity{Executor: true}, nil
	}
	if !strings.HasPrefix(token, tokenPrefix) {
		return Identity{}, ErrBadToken
	}
	hash, now := hex.EncodeToString(sum[:]), g.now()
	g.mu.Lock()
	known, ok := g.cache[hash]
	g.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.id, nil
	}
	t, u, err := g.store.TokenOwner(ctx, hash)
	switch {
	case errors.Is(err, job.ErrNotFound):
		return Identity{}, ErrBadToken
	case err != nil:
		return Identity{}, fmt.Errorf("look up the token: %w", err)
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return Identity{}, ErrBadToken
	}
	known = cached{id: Identity{User: u.Name, Role: Role(u.Role)}, until: now.Add(cacheFor)}
	if !t.ExpiresAt.IsZero() && t.ExpiresAt.Before(known.until) {
		known.until = t.ExpiresAt
	}
	g.mu.Lock()
	if len(g.cache) >= cacheMost {
		clear(g.cache)
	}
	g.cache[hash] = known
	g.mu.Unlock()
	return known.id, nil
}

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
	now := g.now()
	// Counted as a failure until it succeeds, so that many at once gain nothing.
	if wait := g.slow.attempt(name, address, now); wait > 0 {
		return Login{}, &SlowDownError{Wait: wait}
	}
	u, err := g.store.UserByName(ctx, name)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		return Login{}, fmt.Errorf("look up the user: %w", err)
	}
	hash, known := u.PasswordHash, err == nil && u.PasswordHash != ""
	if !known {
		hash = g.dummy
	}
	select { // a hash takes memory: a flood of logins must not take all of it
	case g.hashers <- struct{}{}:
	case <-ctx.Done():
		return Login{}, fmt.Errorf("log in: %w", ctx.Err())
	}
	match, err := argon2id.ComparePasswordAndHash(password, hash)
	<-g.hashers
	if err != nil {
		return Login{}, fmt.Errorf("compare the password of %s: %w", name, err)
	}
	if !match || !known {
		return Login{}, ErrBadLogin
	}
	g.slow.succeeded(name, address)
	token, err := g.IssueToken(ctx, u.Name, "login", now.Add(loginLifetime))
	if err != nil {
		return Login{}, err
	}
	return Login{Token: token, ExpiresAt: now.Add(loginLifetime), User: u.Name, Role: Role(u.Role)}, nil
}

// IssueToken makes a token for a user and keeps its hash. A zero expires means
// never; purpose is for people. Errors: job.ErrNotFound (no such user),
// job.ErrUnavailable.
func (g *Guard) IssueToken(ctx context.Context, user, purpose string, expires time.Time) (string, error) {
	if _, err := g.store.UserByName(ctx, user); err != nil {
		return "", fmt.Errorf("user %s: %w", user, err)
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	token := tokenPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret[:]))
	sum := sha256.Sum256([]byte(token))
	err := g.store.AddToken(ctx, store.Token{
		Hash: hex.EncodeToString(sum[:]), User: user, Name: purpose, CreatedAt: g.now().UTC(), ExpiresAt: expires,
	}, nil)
	if err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	return token, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$`)

// AddUser adds a user with a password. by and address are for the audit log.
// Errors: job.ErrUserExists, job.ErrUnavailable, or one that says what is wrong
// with the name, the role or the password.
func (g *Guard) AddUser(ctx context.Context, name string, role Role, password, by, address string) error {
	switch {
	case !nameForm.MatchString(name):
		return fmt.Errorf("username %q: use up to 100 letters, digits and . _ @ -, beginning with a letter or digit", name)
	case !slices.Contains(Roles, role):
		return fmt.Errorf("role %q: use super_admin, admin or user", role)
	case utf8.RuneCountInString(password) < leastPassword || len(password) > mostPassword:
		return fmt.Errorf("password: use %d to %d characters", leastPassword, mostPassword)
	}
	hash, err := argon2id.CreateHash(password, hashing)
	if err != nil {
		return fmt.Errorf("hash the password: %w", err)
	}
	now := g.now().UTC()
	after, err := json.Marshal(map[string]string{"username": name, "role": string(role)})
	if err != nil {
		return fmt.Errorf("describe the user: %w", err)
	}
	u := store.User{Name: name, Role: string(role), PasswordHash: hash, CreatedAt: now}
	a := &store.Audit{At: now, User: by, Address: address, Action: "user.add", Object: name, After: after}
	if err := g.store.AddUser(ctx, u, a); err != nil {
		return fmt.Errorf("add user %s: %w", name, err)
	}
	return nil
}
