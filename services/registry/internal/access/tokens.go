package access

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// mostTokens is how many personal tokens a user may have.
const mostTokens = 50

// newToken completes a token with the hash of a new secret.
func newToken(t store.Token) (token store.Token, secret string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	secret = tokenPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random[:]))
	t.Hash = hashOf(secret)
	return t, secret
}

// TokenID is what a token is called where its secret must not be seen.
func TokenID(t store.Token) string { return t.Hash[:min(16, len(t.Hash))] }

// CreateToken makes a personal token for a user. A zero expires means never; name
// is for people; by and address are for the audit log. The secret cannot be had
// again. Errors: job.ErrNotFound (no such user), *job.LimitError,
// job.ErrUnavailable.
func (g *Guard) CreateToken(ctx context.Context, user, name string, expires time.Time, by, address string) (t store.Token, secret string, err error) {
	if _, err := g.store.UserByName(ctx, user); err != nil {
		return t, "", fmt.Errorf("user %s: %w", user, err)
	}
	there, err := g.Tokens(ctx, user)
	if err != nil {
		return t, "", err
	}
	there = slices.DeleteFunc(there, func(t store.Token) bool { return t.Kind != store.TokenPersonal })
	if len(there) >= mostTokens {
		return t, "", &job.LimitError{What: "personal tokens of a user", Limit: mostTokens}
	}
	t, secret = newToken(store.Token{User: user, Kind: store.TokenPersonal, Name: name, CreatedAt: g.now().UTC().Truncate(time.Millisecond), ExpiresAt: expires})
	a, err := g.audit(by, address, "token.create", user, nil, describedToken(t))
	if err != nil {
		return t, "", err
	}
	if err := g.store.AddToken(ctx, t, a); err != nil {
		return t, "", fmt.Errorf("keep the token: %w", err)
	}
	return t, secret, nil
}

// Tokens returns a user's tokens that have not expired, newest first. Errors:
// job.ErrUnavailable.
func (g *Guard) Tokens(ctx context.Context, user string) ([]store.Token, error) {
	all, err := g.store.Tokens(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("list the tokens of %s: %w", user, err)
	}
	now := g.now()
	return slices.DeleteFunc(all, func(t store.Token) bool { return expired(t, now) }), nil
}

// RevokeToken makes one of the caller's own tokens worthless, by its TokenID.
// Errors: job.ErrNotFound, job.ErrUnavailable.
func (g *Guard) RevokeToken(ctx context.Context, id Identity, tokenID, address string) error {
	all, err := g.Tokens(ctx, id.User)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(t store.Token) bool { return TokenID(t) == tokenID })
	if i < 0 {
		return job.ErrNotFound
	}
	return g.revoke(ctx, all[i], address)
}

// EndSession makes the token that the caller came with worthless. Errors:
// job.ErrUnavailable.
func (g *Guard) EndSession(ctx context.Context, id Identity, address string) error {
	return g.revoke(ctx, id.Token, address)
}

// revoke deletes a token. Sessions come and go; only what was made to last is
// worth an entry in the audit log.
func (g *Guard) revoke(ctx context.Context, t store.Token, address string) (err error) {
	var a *store.Audit
	if t.Kind == store.TokenPersonal {
		if a, err = g.audit(t.User, address, "token.revoke", t.User, describedToken(t), nil); err != nil {
			return err
		}
	}
	if err := g.store.DeleteTokens(ctx, t.User, []string{t.Hash}, a); err != nil {
		return fmt.Errorf("revoke the token: %w", err)
	}
	g.forget(t.User)
	return nil
}

func describedToken(t store.Token) map[string]any {
	out := map[string]any{"id": TokenID(t), "name": t.Name, "kind": t.Kind, "expires_at": nil}
	if !t.ExpiresAt.IsZero() {
		out["expires_at"] = t.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return out
}
