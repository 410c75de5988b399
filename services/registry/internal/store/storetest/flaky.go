package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Flaky wraps a store so that of its writes about one in eight is performed but
// answers that nobody knows, and one in eight is not performed and answers the
// same. Reads are passed on. The fates follow from the seed and the order of the
// calls alone, so that one caller sees the same each time. Close and Ready are
// passed on.
func Flaky(s store.Store, seed uint64) store.Store {
	return &flaky{Store: s, random: rand.New(rand.NewPCG(seed, 0x666c616b79))} //nolint:gosec // reproducible on purpose
}

type flaky struct {
	store.Store
	mu     sync.Mutex
	random *rand.Rand
}

// fate is what becomes of a write.
type fate int

const (
	fine fate = iota
	answerLost
	notDone
)

var errLost = errors.New("the answer was lost")

func (f *flaky) draw() fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.random.IntN(8) {
	case 0:
		return answerLost
	case 1:
		return notDone
	default:
		return fine
	}
}

// Do implements [store.Store]. Each operation has a fate of its own.
func (f *flaky) Do(ctx context.Context, now time.Time, ops []store.Op) []store.Answer {
	answers := make([]store.Answer, len(ops))
	var performed []store.Op
	var places []int
	fates := make([]fate, len(ops))
	for i, op := range ops {
		if fates[i] = f.draw(); fates[i] != notDone {
			performed, places = append(performed, op), append(places, i)
		}
	}
	for n, a := range f.Store.Do(ctx, now, performed) {
		answers[places[n]] = a
	}
	for i, fate := range fates {
		if fate != fine {
			answers[i] = store.Answer{Err: fmt.Errorf("%w: %w", job.ErrUnavailable, errLost)}
		}
	}
	return answers
}

// write lets one write meet its fate.
func (f *flaky) write(perform func() error) error {
	fate := f.draw()
	if fate == notDone {
		return fmt.Errorf("%w: %w", job.ErrUnavailable, errLost)
	}
	err := perform()
	if fate == answerLost {
		return fmt.Errorf("%w: %w", job.ErrUnavailable, errLost)
	}
	return err
}

func (f *flaky) CreateJob(ctx context.Context, c store.CreateJob) (*job.Job, bool, error) {
	var stored *job.Job
	var replayed bool
	err := f.write(func() (err error) {
		stored, replayed, err = f.Store.CreateJob(ctx, c)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

func (f *flaky) EditJob(ctx context.Context, e store.EditJob) (*job.Job, error) {
	return writeOne(f, func() (*job.Job, error) { return f.Store.EditJob(ctx, e) })
}

func (f *flaky) DeleteJob(ctx context.Context, id string, version int, now time.Time, a *store.Audit) (*job.Job, error) {
	return writeOne(f, func() (*job.Job, error) { return f.Store.DeleteJob(ctx, id, version, now, a) })
}

func (f *flaky) PutTemplates(ctx context.Context, ts []job.Template) error {
	return f.write(func() error { return f.Store.PutTemplates(ctx, ts) })
}

func (f *flaky) RunNow(ctx context.Context, r store.RunNow) (*job.Execution, bool, error) {
	var stored *job.Execution
	var replayed bool
	err := f.write(func() (err error) {
		stored, replayed, err = f.Store.RunNow(ctx, r)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return stored, replayed, nil
}

func (f *flaky) RequestCancel(ctx context.Context, c store.Cancel) (*job.Execution, error) {
	return writeOne(f, func() (*job.Execution, error) { return f.Store.RequestCancel(ctx, c) })
}

func (f *flaky) OpenSession(ctx context.Context, s store.Session, now time.Time) error {
	return f.write(func() error { return f.Store.OpenSession(ctx, s, now) })
}

func (f *flaky) DrainSession(ctx context.Context, id string, drain bool, a *store.Audit) (store.Session, error) {
	s, err := writeOne(f, func() (*store.Session, error) {
		s, err := f.Store.DrainSession(ctx, id, drain, a)
		return &s, err
	})
	if err != nil {
		return store.Session{}, err
	}
	return *s, nil
}

func (f *flaky) BeatReplica(ctx context.Context, r store.Replica, now time.Time) error {
	return f.write(func() error { return f.Store.BeatReplica(ctx, r, now) })
}

func (f *flaky) DropReplica(ctx context.Context, id string) error {
	return f.write(func() error { return f.Store.DropReplica(ctx, id) })
}

func (f *flaky) Mend(ctx context.Context, now time.Time) error {
	return f.write(func() error { return f.Store.Mend(ctx, now) })
}

func (f *flaky) AddUser(ctx context.Context, u store.User, a *store.Audit) error {
	return f.write(func() error { return f.Store.AddUser(ctx, u, a) })
}

func (f *flaky) AddToken(ctx context.Context, t store.Token, a *store.Audit) error {
	return f.write(func() error { return f.Store.AddToken(ctx, t, a) })
}

func (f *flaky) DeleteExpiredTokens(ctx context.Context, now time.Time) error {
	return f.write(func() error { return f.Store.DeleteExpiredTokens(ctx, now) })
}

func (f *flaky) ChangeUser(ctx context.Context, c store.ChangeUser) (store.User, error) {
	u, err := writeOne(f, func() (*store.User, error) {
		u, err := f.Store.ChangeUser(ctx, c)
		return &u, err
	})
	if err != nil {
		return store.User{}, err
	}
	return *u, nil
}

func (f *flaky) RemoveUser(ctx context.Context, name string, a *store.Audit) error {
	return f.write(func() error { return f.Store.RemoveUser(ctx, name, a) })
}

func (f *flaky) DeleteTokens(ctx context.Context, user string, hashes []string, a *store.Audit) error {
	return f.write(func() error { return f.Store.DeleteTokens(ctx, user, hashes, a) })
}

func (f *flaky) RollUp(ctx context.Context, now time.Time) (more bool, err error) {
	err = f.write(func() error {
		more, err = f.Store.RollUp(ctx, now)
		return err
	})
	return more && err == nil, err
}

func writeOne[T any](f *flaky, perform func() (*T, error)) (*T, error) {
	var result *T
	if err := f.write(func() (err error) {
		result, err = perform()
		return err
	}); err != nil {
		return nil, err
	}
	return result, nil
}

// runLossy tries what the model does not hold until its answer is known, and
// looks at what is there then.
func runLossy(t *testing.T, opener Opener, small bool) {
	seeds, names := 5, 20
	if small {
		seeds, names = 1, 6
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			s := begin(t, opener(t), small)
			plain := s.Store
			s.Store = Flaky(plain, seed)
			ctx, lost := t.Context(), 0
			try := func(perform func() error) (err error) {
				for err = perform(); errors.Is(err, job.ErrUnavailable); err = perform() {
					lost++
				}
				return err
			}
			do := func(op store.Op) (a store.Answer) {
				s.ok(try(func() error { a = s.Do(ctx, start, []store.Op{op})[0]; return a.Err }))
				return a
			}
			for n := range names {
				name := fmt.Sprint("n", n)
				s.ok(try(func() error { return s.PutTemplates(ctx, []job.Template{{Type: name, Version: 1}}) }))
				if err := try(func() error {
					return s.AddUser(ctx, store.User{Name: name, CreatedAt: at(0)}, audit(name, "user.create", at(0)))
				}); err != nil && !errors.Is(err, job.ErrUserExists) {
					t.Fatal(err)
				}
				s.ok(try(func() error {
					return s.AddToken(ctx, store.Token{Hash: name, User: name, CreatedAt: at(0), ExpiresAt: at(n)}, nil)
				}))
				s.ok(try(func() error { return s.OpenSession(ctx, newSession(name), at(0)) }))
				s.same(do(&store.Beat{Session: name, Count: 7}).Outcome, store.Done)
				for _, drain := range []bool{true, false, true} {
					s.ok(try(func() error {
						stands, err := s.DrainSession(ctx, name, drain, audit(name, "session.drain", at(0)))
						if err == nil {
							s.same(stands.Draining, drain)
						}
						return err
					}))
				}
				for count := range int64(2) {
					s.ok(try(func() error { return s.BeatReplica(ctx, store.Replica{ID: name, Count: count}, at(0)) }))
				}
				if n%2 == 0 {
					s.ok(try(func() error { return s.DropReplica(ctx, name) }))
				}
				s.ok(try(func() error { return s.Mend(ctx, at(0)) }))
				role, kept := "super_admin", store.Token{Hash: "x" + name, User: name, Kind: store.TokenPersonal, CreatedAt: at(0)}
				s.ok(try(func() error {
					stands, err := s.ChangeUser(ctx, store.ChangeUser{Name: name, Role: &role, Audit: audit(name, "user.update", at(0))})
					if err == nil {
						s.same(stands.Role, role)
					}
					return err
				}))
				s.ok(try(func() error { return s.AddToken(ctx, kept, audit(name, "token.create", at(0))) }))
				s.ok(try(func() error {
					return s.DeleteTokens(ctx, name, []string{kept.Hash}, audit(name, "token.delete", at(0)))
				}))
				s.ok(try(func() error { _, err := s.RollUp(ctx, at(0)); return err }))
				if n%2 == 1 {
					if err := try(func() error { return s.RemoveUser(ctx, fmt.Sprint("n", n-1), nil) }); err != nil && !errors.Is(err, job.ErrNotFound) {
						t.Fatal(err)
					}
				}
				if n%2 == 0 {
					s.same(do(&store.EndSession{Session: name, Count: 7}).Outcome, store.Done)
				} else {
					s.same(do(&store.EndSession{Session: name, Count: 6}).Outcome, store.Lost)
				}
			}
			s.ok(try(func() error { return s.DeleteExpiredTokens(ctx, at(names/2)) }))
			if lost == 0 {
				t.Fatal("no answer was lost")
			}
			s.Store = plain
			ts, err := s.Templates(ctx)
			s.ok(err)
			s.same(len(ts), names)
			live, err := s.Sessions(ctx)
			s.ok(err)
			s.same(len(live), names/2)
			replicas, err := s.Replicas(ctx)
			s.ok(err)
			s.same(len(replicas), names/2)
			s.same(replicas[0].Count, int64(1))
			for n := range names { // the user, each drain and change that changed something, the token's coming and going
				s.same(len(s.audits(fmt.Sprint("n", n))), 7)
			}
			users, err := s.Users(ctx)
			s.ok(err)
			s.same(len(users), names/2)
			for n := range names {
				_, _, err := s.TokenOwner(ctx, fmt.Sprint("n", n))
				if (err == nil) != (n >= names/2 && n%2 == 1) {
					t.Fatalf("token %d: %v", n, err)
				}
				tokens, err := s.Tokens(ctx, fmt.Sprint("n", n))
				s.ok(err)
				if (len(tokens) == 1) != (n >= names/2 && n%2 == 1) {
					t.Fatalf("tokens of %d: %d", n, len(tokens))
				}
			}
		})
	}
}
