package access

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// ErrOwnAccount says that somebody tried to do to themselves what only another
// super admin may.
var ErrOwnAccount = errors.New("nobody changes their own role or removes themselves: ask another super admin")

// FieldError says what is wrong with one field of a request. Message is a clause
// that follows the field's name.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return e.Field + " " + e.Message }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$`)

// described is a user in the audit log: without anything secret.
func described(u store.User) map[string]any {
	return map[string]any{"username": u.Name, "role": u.Role}
}

func with(m map[string]any, key string, value any) map[string]any {
	m[key] = value
	return m
}

// AddUser adds a user with a password. by and address are for the audit log.
// Errors: *FieldError (username, role, password), job.ErrUserExists,
// job.ErrUnavailable.
func (g *Guard) AddUser(ctx context.Context, name string, role Role, password, by, address string) (store.User, error) {
	switch {
	case !nameForm.MatchString(name):
		return store.User{}, &FieldError{"username", fmt.Sprintf("%q cannot be used: take up to 100 letters, digits and . _ @ -, beginning with a letter or digit", name)}
	case !slices.Contains(Roles, role):
		return store.User{}, &FieldError{"role", fmt.Sprintf("%q is not known: use super_admin, admin or user", role)}
	}
	if err := checkPassword("password", password); err != nil {
		return store.User{}, err
	}
	hash, err := g.newHash(ctx, password)
	if err != nil {
		return store.User{}, err
	}
	u := store.User{Name: name, Role: string(role), PasswordHash: hash, CreatedAt: g.now().UTC().Truncate(time.Millisecond)}
	a, err := g.audit(by, address, "user.add", name, nil, described(u))
	if err != nil {
		return store.User{}, err
	}
	if err := g.store.AddUser(ctx, u, a); err != nil {
		return store.User{}, fmt.Errorf("add user %s: %w", name, err)
	}
	return u, nil
}

// Users returns all users by name. Errors: job.ErrUnavailable.
func (g *Guard) Users(ctx context.Context) ([]store.User, error) {
	all, err := g.store.Users(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	return all, nil
}

// Update is a change of a user; nil leaves as it is.
type Update struct {
	Role     *Role
	Password *string
}

// UpdateUser changes a user for the caller, who is another one: one's own password
// is changed by ChangePassword, which asks for the current one. A new password
// ends the user's sessions. Errors: job.ErrNotFound, ErrOwnAccount,
// job.ErrLastAdmin, *FieldError (role, password), job.ErrUnavailable.
func (g *Guard) UpdateUser(ctx context.Context, id Identity, name string, update Update, address string) (store.User, error) {
	u, err := g.store.UserByName(ctx, name)
	if err != nil {
		return store.User{}, fmt.Errorf("user %s: %w", name, err)
	}
	change, after := store.ChangeUser{Name: name}, described(u)
	if update.Role != nil {
		switch {
		case !slices.Contains(Roles, *update.Role):
			return store.User{}, &FieldError{"role", fmt.Sprintf("%q is not known: use super_admin, admin or user", *update.Role)}
		case name == id.User && string(*update.Role) != u.Role:
			return store.User{}, ErrOwnAccount
		}
		role := string(*update.Role)
		change.Role, after["role"] = &role, role
	}
	if update.Password != nil {
		if name == id.User {
			return store.User{}, &FieldError{"password", "of your own is changed on your account's page or by POST /api/auth/password, which ask for the current one"}
		}
		if err := checkPassword("password", *update.Password); err != nil {
			return store.User{}, err
		}
		hash, err := g.newHash(ctx, *update.Password)
		if err != nil {
			return store.User{}, err
		}
		change.PasswordHash, after["password"] = &hash, "changed"
	}
	if change.Audit, err = g.audit(id.User, address, "user.update", name, described(u), after); err != nil {
		return store.User{}, err
	}
	if u, err = g.store.ChangeUser(ctx, change); err != nil {
		return store.User{}, fmt.Errorf("change user %s: %w", name, err)
	}
	g.forget(name)
	if update.Password != nil {
		if err := g.endSessions(ctx, name, ""); err != nil {
			return store.User{}, err
		}
	}
	return u, nil
}

// RemoveUser removes a user, who is not the caller, and all their tokens. Errors:
// job.ErrNotFound, ErrOwnAccount, job.ErrLastAdmin, job.ErrUnavailable.
func (g *Guard) RemoveUser(ctx context.Context, id Identity, name, address string) error {
	if name == id.User {
		return ErrOwnAccount
	}
	u, err := g.store.UserByName(ctx, name)
	if err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	a, err := g.audit(id.User, address, "user.remove", name, described(u), nil)
	if err != nil {
		return err
	}
	if err := g.store.RemoveUser(ctx, name, a); err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	g.forget(name)
	return nil
}
