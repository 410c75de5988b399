// Package access knows who makes a request and what they may do: users with
// passwords, opaque tokens of which only the hash is kept, the credential of the
// executors, and one table that says who may call what.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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
	tokenPrefix = "alm_"
	cacheFor    = 5 * time.Second // how long a token revoked elsewhere may go on
	cacheMost   = 10_000          // tokens
)

// Store is the part of the store that identities need; see store.Access.
type Store interface {
	AddUser(ctx context.Context, u store.User, a *store.Audit) error
	Users(ctx context.Context) ([]store.User, error)
	UserByName(ctx context.Context, name string) (store.User, error)
	ChangeUser(ctx context.Context, c store.ChangeUser) (store.User, error)
	RemoveUser(ctx context.Context, name string, a *store.Audit) error
	AddToken(ctx context.Context, t store.Token, a *store.Audit) error
	Tokens(ctx context.Context, user string) ([]store.Token, error)
	DeleteTokens(ctx context.Context, user string, hashes []string, a *store.Audit) error
	TokenOwner(ctx context.Context, hash string) (store.Token, store.User, error)
}

// Guard identifies those who make requests, and looks after users and their
// tokens. It is safe for concurrent use.
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
	epoch int               // of the cache: counts what was forgotten on purpose
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

// CheckSession is Check by a browser's cookie, in which only the token of a
// session is good: no other one can be planted there.
func (g *Guard) CheckSession(ctx context.Context, method, token string) (Identity, error) {
	if Public(method) {
		return Identity{}, nil
	}
	id, err := g.identify(ctx, token)
	switch {
	case err != nil:
		return Identity{}, err
	case id.Token.Kind != store.TokenSession:
		return Identity{}, ErrBadToken
	}
	return id, Authorize(id, method)
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func (g *Guard) identify(ctx context.Context, token string) (Identity, error) {
	sum := sha256.Sum256([]byte(token))
	if g.leasing && subtle.ConstantTimeCompare(sum[:], g.executor[:]) == 1 {
		return Identity{Executor: true}, nil
	}
	if !strings.HasPrefix(token, tokenPrefix) {
		return Identity{}, ErrBadToken
	}
	hash, now := hashOf(token), g.now()
	g.mu.Lock()
	known, ok := g.cache[hash]
	epoch := g.epoch
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
	case expired(t, now):
		return Identity{}, ErrBadToken
	}
	known = cached{id: Identity{User: u.Name, Role: Role(u.Role), Token: t}, until: now.Add(cacheFor)}
	if !t.ExpiresAt.IsZero() && t.ExpiresAt.Before(known.until) {
		known.until = t.ExpiresAt
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.epoch != epoch { // what was read may be what is to be forgotten
		return known.id, nil
	}
	if len(g.cache) >= cacheMost {
		clear(g.cache)
	}
	g.cache[hash] = known
	return known.id, nil
}

func expired(t store.Token, now time.Time) bool {
	return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt)
}

// forget makes the guard look up a user's tokens again.
func (g *Guard) forget(user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch++
	for hash, c := range g.cache {
		if c.id.User == user {
			delete(g.cache, hash)
		}
	}
}

// audit describes what the user by did to the object; before and after may be nil.
func (g *Guard) audit(by, address, action, object string, before, after map[string]any) (*store.Audit, error) {
	a := &store.Audit{At: g.now().UTC(), User: by, Address: address, Action: action, Object: object}
	for _, side := range []struct {
		to   *[]byte
		what map[string]any
	}{{&a.Before, before}, {&a.After, after}} {
		if side.what == nil {
			continue
		}
		text, err := json.Marshal(side.what)
		if err != nil {
			return nil, fmt.Errorf("describe %s of %s: %w", action, object, err)
		}
		*side.to = text
	}
	return a, nil
}
