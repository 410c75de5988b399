package mongostore

import (
	"context"
	"errors"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

var errNotYet = errors.New("not built yet")

// Recent implements [store.Insight].
func (s *Store) Recent(context.Context, []string, int) (map[string][]*job.Execution, error) {
	return nil, errNotYet
}

// Live implements [store.Insight].
func (s *Store) Live(context.Context, int, int) ([]*job.Execution, int, error) {
	return nil, 0, errNotYet
}

// Failures implements [store.Insight].
func (s *Store) Failures(context.Context, time.Time, int, int) ([]*job.Execution, int, error) {
	return nil, 0, errNotYet
}

// Pulse implements [store.Insight].
func (s *Store) Pulse(context.Context, time.Time) (store.Pulse, error) {
	return store.Pulse{}, errNotYet
}

// Statistics implements [store.Insight].
func (s *Store) Statistics(context.Context, string, time.Time, time.Time) ([]store.RollUp, error) {
	return nil, errNotYet
}

// RollUp implements [store.Insight].
func (s *Store) RollUp(context.Context, time.Time) (bool, error) { return false, errNotYet }

// Users implements [store.Access].
func (s *Store) Users(context.Context) ([]store.User, error) { return nil, errNotYet }

// ChangeUser implements [store.Access].
func (s *Store) ChangeUser(context.Context, store.ChangeUser) (store.User, error) {
	return store.User{}, errNotYet
}

// RemoveUser implements [store.Access].
func (s *Store) RemoveUser(context.Context, string, *store.Audit) error { return errNotYet }

// Tokens implements [store.Access].
func (s *Store) Tokens(context.Context, string) ([]store.Token, error) { return nil, errNotYet }

// DeleteTokens implements [store.Access].
func (s *Store) DeleteTokens(context.Context, string, []string, *store.Audit) error {
	return errNotYet
}
