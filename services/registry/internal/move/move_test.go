package move_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/move"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/sqlitestore"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store/storetest"
)

var now = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), t.TempDir(), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func nobody(context.Context) error { return nil }

func run(t *testing.T, from, to move.Store) ([]move.Count, error) {
	t.Helper()
	return move.Run(t.Context(), move.Move{From: from, To: to, Now: now, Settle: nobody, Progress: t.Output()})
}

func mustRun(t *testing.T, from, to move.Store) (copied, source int) {
	t.Helper()
	counts, err := run(t, from, to)
	if err != nil {
		t.Fatal(err)
	}
	if len(counts) != len(move.Kinds) {
		t.Fatalf("counts of %d kinds, want %d", len(counts), len(move.Kinds))
	}
	for i, c := range counts {
		if c.Kind != move.Kinds[i] || c.Before+c.Copied != c.Source || c.Source == 0 {
			t.Errorf("%+v: all is to be there afterwards, and something of every kind", c)
		}
		copied += c.Copied
		source += c.Source
	}
	return copied, source
}

// Whatever a store holds, the other one holds it afterwards and goes on as the
// first would have; and doing it again changes nothing.
func TestMoves(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			first, second, third := open(t), open(t), open(t)
			filled := storetest.Fill(t, first, seed, 400)
			copied, all := mustRun(t, first, second)
			if copied != all {
				t.Errorf("copied %d of %d to an empty store", copied, all)
			}
			if again, _ := mustRun(t, first, second); again != 0 {
				t.Errorf("copied %d the second time", again)
			}
			mustRun(t, second, third)
			filled.In(t, second, first)
			filled.In(t, third, first)
			filled.GoOn(t, third, 200)
			if _, err := run(t, first, third); !errors.Is(err, move.ErrDiffers) {
				t.Errorf("moved onto a store that went on: %v", err)
			}
		})
	}
}

// broken imports a part of the records it is given the n-th time, and fails.
type broken struct {
	move.Store
	left int
	part func(records int) int
}

var errBroken = errors.New("power cut")

func (b *broken) Import(ctx context.Context, records []move.Record) (int, error) {
	if b.left--; b.left >= 0 {
		return b.Store.Import(ctx, records)
	}
	if part := records[:b.part(len(records))]; len(part) > 0 {
		if _, err := b.Store.Import(ctx, part); err != nil {
			return 0, err
		}
	}
	return 0, errBroken
}

func TestInterruptedMovesContinue(t *testing.T) {
	from := open(t)
	filled := storetest.Fill(t, from, 1, 200)
	for name, part := range map[string]func(int) int{
		"before":  func(int) int { return 0 },
		"between": func(n int) int { return n / 2 },
		"after":   func(n int) int { return n },
	} {
		t.Run(name, func(t *testing.T) {
			for n := range len(move.Kinds) {
				to := open(t)
				if _, err := run(t, from, &broken{Store: to, left: n, part: part}); !errors.Is(err, errBroken) {
					t.Fatalf("import %d: %v", n, err)
				}
				mustRun(t, from, to)
				filled.In(t, to, from)
			}
		})
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	from, to := open(t), open(t)
	storetest.Fill(t, from, 1, 200)
	counts, err := move.Run(t.Context(), move.Move{From: from, To: to, DryRun: true, Settle: nobody, Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if c.Source == 0 || c.Before != 0 || c.Copied != 0 {
			t.Errorf("%+v", c)
		}
		for r, err := range to.Export(t.Context(), c.Kind) {
			t.Errorf("the target has %v (%v)", r, err)
		}
	}
}

// What the target has and the source has not, or not so, is named, and stays;
// nothing is added to it.
func TestDifferencesAreRefused(t *testing.T) {
	from := open(t)
	storetest.Fill(t, from, 1, 200)
	for name, test := range map[string]struct {
		change func(t *testing.T, to *sqlitestore.Store)
		want   []string
	}{
		"another user": {
			func(t *testing.T, to *sqlitestore.Store) {
				if err := to.AddUser(t.Context(), store.User{Name: "eve", Role: "admin", CreatedAt: now}, nil); err != nil {
					t.Fatal(err)
				}
			},
			[]string{`user "eve" is not in the source`},
		},
		"the same user, another role": {
			func(t *testing.T, to *sqlitestore.Store) {
				if err := to.AddUser(t.Context(), store.User{Name: "user1", Role: "user", PasswordHash: "hash", CreatedAt: now}, nil); err != nil {
					t.Fatal(err)
				}
			},
			[]string{`user "user1" differs in CreatedAt, Role`},
		},
		"many": {
			func(t *testing.T, to *sqlitestore.Store) {
				for n := range 8 {
					if err := to.AddToken(t.Context(), store.Token{Hash: fmt.Sprint("other", n), CreatedAt: now}, nil); err != nil {
						t.Fatal(err)
					}
				}
			},
			[]string{`token "other0" is not in the source`, `token "other4"`, "and 3 more"},
		},
		"a copy in use": {
			func(t *testing.T, to *sqlitestore.Store) {
				mustRun(t, from, to)
				page, _, err := to.Jobs(t.Context(), store.JobFilter{Limit: 1})
				if err != nil || len(page) == 0 {
					t.Fatal(page, err)
				}
				if _, err := to.DeleteJob(t.Context(), page[0].ID, 0, now, nil); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"job ", "differs in Deleted"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			to := open(t)
			test.change(t, to)
			before := everything(t, to)
			_, err := run(t, from, to)
			if !errors.Is(err, move.ErrDiffers) {
				t.Fatalf("got %v, want %v", err, move.ErrDiffers)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %s", err, want)
				}
			}
			if strings.Contains(err.Error(), "hash,") {
				t.Errorf("it tells a secret: %v", err)
			}
			if after := everything(t, to); !slices.Equal(after, before) {
				t.Errorf("the target was changed: %d records, before %d", len(after), len(before))
			}
		})
	}
}

func everything(t *testing.T, s move.Store) (all []string) {
	t.Helper()
	for _, kind := range move.Kinds {
		for r, err := range s.Export(t.Context(), kind) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %+v", kind, r))
		}
	}
	return all
}

// Registries that live are seen by their beats; what a dead one left behind is
// not in the way.
func TestLiveRegistriesAreRefused(t *testing.T) {
	beat := func(t *testing.T, s *sqlitestore.Store, n int64) {
		t.Helper()
		if err := s.BeatReplica(t.Context(), store.Replica{ID: "rep_1", Name: "registry-1", OpenedAt: now, Count: n}, now); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		settle func(t *testing.T, from, to *sqlitestore.Store)
		want   string
	}{
		"dead":   {func(*testing.T, *sqlitestore.Store, *sqlitestore.Store) {}, ""},
		"source": {func(t *testing.T, from, _ *sqlitestore.Store) { beat(t, from, 2) }, "registry-1 (rep_1) on the source"},
		"target": {func(t *testing.T, _, to *sqlitestore.Store) { beat(t, to, 1) }, "registry-1 (rep_1) on the target"},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := open(t), open(t)
			storetest.Fill(t, from, 1, 100)
			beat(t, from, 1)
			_, err := move.Run(t.Context(), move.Move{From: from, To: to, Now: now, Progress: io.Discard, Settle: func(context.Context) error {
				test.settle(t, from, to)
				return nil
			}})
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, move.ErrInUse) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %v with %q", err, move.ErrInUse, test.want)
			}
			if len(everything(t, to)) != 0 {
				t.Error("something was copied")
			}
		})
	}
	t.Run("it is started meanwhile", func(t *testing.T) {
		from, to := open(t), open(t)
		storetest.Fill(t, from, 1, 100)
		_, err := run(t, from, &told{Store: to, then: func() { beat(t, to, 1) }})
		if !errors.Is(err, move.ErrInUse) {
			t.Errorf("got %v, want %v", err, move.ErrInUse)
		}
	})
	t.Run("no patience", func(t *testing.T) {
		from, to := open(t), open(t)
		beat(t, from, 1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := move.Run(t.Context(), move.Move{From: from, To: to, Progress: io.Discard, Settle: func(context.Context) error { return ctx.Err() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// told does something after an import.
type told struct {
	move.Store
	then func()
}

func (s *told) Import(ctx context.Context, records []move.Record) (int, error) {
	n, err := s.Store.Import(ctx, records)
	s.then()
	return n, err
}

// A store that says it kept what it did not is found out.
func TestLossIsFound(t *testing.T) {
	from, to := open(t), open(t)
	storetest.Fill(t, from, 1, 100)
	_, err := run(t, from, &forgetful{Store: to})
	if !errors.Is(err, move.ErrNotEqual) || !strings.Contains(err.Error(), `user "user1" is not in the target`) {
		t.Errorf("got %v, want %v", err, move.ErrNotEqual)
	}
}

type forgetful struct{ move.Store }

func (s *forgetful) Import(ctx context.Context, records []move.Record) (int, error) {
	kept := slices.DeleteFunc(slices.Clone(records), func(r move.Record) bool { return r.Key() == "user1" })
	if _, err := s.Store.Import(ctx, kept); err != nil {
		return 0, err
	}
	return len(records), nil
}

// wrong is a store whose exports go wrong.
type wrong struct {
	move.Store
	kind    move.Kind
	records []move.Record
	err     error
}

func (s *wrong) Export(ctx context.Context, kind move.Kind) iter.Seq2[move.Record, error] {
	if kind != s.kind {
		return s.Store.Export(ctx, kind)
	}
	return func(yield func(move.Record, error) bool) {
		for _, r := range s.records {
			if !yield(r, nil) {
				return
			}
		}
		if s.err != nil {
			yield(nil, s.err)
		}
	}
}

func (s *wrong) Replicas(ctx context.Context) ([]store.Replica, error) {
	if s.kind == "" {
		return nil, s.err
	}
	return s.Store.Replicas(ctx)
}

func (s *wrong) Finish(ctx context.Context, at time.Time) error {
	if s.kind == "finish" {
		return s.err
	}
	return s.Store.Finish(ctx, at)
}

func TestTroubleIsTold(t *testing.T) {
	a, b := move.User{User: store.User{Name: "a"}}, move.User{User: store.User{Name: "b"}}
	for name, test := range map[string]struct {
		wrong wrong
		both  []string
	}{
		"out of order": {wrong{kind: move.Users, records: []move.Record{b, a}}, []string{`"a" comes after "b"`}},
		"twice":        {wrong{kind: move.Users, records: []move.Record{a, a}}, []string{`"a" comes after "a"`}},
		"read at once": {wrong{kind: move.Audits, err: errBroken}, []string{"read audits from the", "power cut"}},
		"read later":   {wrong{kind: move.Users, records: []move.Record{a}, err: errBroken}, []string{"read users from the", "power cut"}},
		"replicas":     {wrong{err: errBroken}, []string{"look for registries on the", "power cut"}},
	} {
		t.Run(name, func(t *testing.T) {
			for side, stores := range map[string][2]move.Store{
				"source": {&wrong{open(t), test.wrong.kind, test.wrong.records, test.wrong.err}, open(t)},
				"target": {open(t), &wrong{open(t), test.wrong.kind, test.wrong.records, test.wrong.err}},
			} {
				_, err := run(t, stores[0], stores[1])
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range append(test.both, side) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v\nlacks %q", err, want)
					}
				}
			}
		})
	}
	if _, err := run(t, &wrong{open(t), "finish", nil, errBroken}, open(t)); !errors.Is(err, errBroken) {
		t.Errorf("finish: %v", err)
	}
}
