package storetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Filled is what a store was filled with.
type Filled struct{ w *walk }

// Fill puts something of every kind into an empty store: the same for the same
// seed.
func Fill(t *testing.T, s store.Store, seed uint64, steps int) *Filled {
	t.Helper()
	w := &walk{
		suite: &suite{T: t, Store: s}, m: newModel(), now: start,
		random: rand.New(rand.NewPCG(seed, 2)), //nolint:gosec // reproducible on purpose
	}
	for n := range steps {
		w.now = w.now.Add(time.Duration(w.random.IntN(60_000)) * time.Millisecond)
		w.step()
		if e := w.some(); e != nil && n%5 == 0 {
			w.done(&store.AppendLog{ID: e.ID, Token: e.Token, Number: n, Lines: []job.LogLine{
				{At: w.now.Truncate(time.Millisecond), Level: "INFO", Message: fmt.Sprint("<line> ", n)}, {At: start, Message: "\u2028"},
			}})
		}
	}
	w.fillDeleted()
	w.fillFleet()
	w.fillAccess()
	return &Filled{w}
}

// In fails the test unless a store holds all of it, as original does, the one
// that was filled.
func (f *Filled) In(t *testing.T, s, original store.Store) {
	t.Helper()
	there := *f.w
	there.suite = &suite{T: t, Store: s}
	there.compare()
	there.sameReads(original)
}

// GoOn does more with a store that holds all of it, and fails the test unless
// that answers as the one that was filled would.
func (f *Filled) GoOn(t *testing.T, s store.Store, steps int) {
	t.Helper()
	f.w.suite = &suite{T: t, Store: s}
	for range steps {
		f.w.now = f.w.now.Add(time.Duration(f.w.random.IntN(60_000)) * time.Millisecond)
		f.w.step()
	}
	f.w.compare()
}

// fillDeleted sees to it that a job with a history is deleted.
func (w *walk) fillDeleted() {
	w.Helper()
	ids := slices.Sorted(maps.Keys(w.m.executions))
	i := slices.IndexFunc(ids, func(id string) bool { return w.m.live(w.m.executions[id].JobID) != nil })
	if i < 0 {
		return
	}
	for id := w.m.executions[ids[i]].JobID; w.m.live(id) != nil; {
		w.deleteJob(id) // now and then it names a wrong version
	}
}

func (w *walk) fillFleet() {
	w.Helper()
	for n := range 4 {
		id := fmt.Sprint("sess_", n)
		w.ok(w.OpenSession(w.Context(), store.Session{
			ID: id, Host: fmt.Sprint("executor-", n), Version: "v1.2.3", Labels: map[string]string{"zone": "north"}, Templates: []string{"noop"}, Slots: 4, OpenedAt: start,
		}, start))
		w.done(&store.Beat{Session: id, Count: int64(7 + n), Running: n, Stopping: n == 2})
	}
	_, err := w.DrainSession(w.Context(), "sess_1", true, audit("sess_1", "session.drain", w.now))
	w.ok(err)
	w.done(&store.EndSession{Session: "sess_3", Count: 10})
}

func (w *walk) fillAccess() {
	w.Helper()
	for n, role := range []string{"super_admin", "admin"} {
		name := fmt.Sprint("user", n)
		w.ok(w.AddUser(w.Context(), store.User{Name: name, Role: role, PasswordHash: "hash", CreatedAt: start}, audit(name, "user.create", w.now)))
		w.ok(w.AddToken(w.Context(), store.Token{Hash: fmt.Sprint("abc", n), User: name, Kind: store.TokenPersonal, Name: "cli", CreatedAt: start}, nil))
		w.ok(w.AddToken(w.Context(), store.Token{Hash: fmt.Sprint("def", n), User: name, Kind: store.TokenLogin, CreatedAt: start, ExpiresAt: at(n)}, nil))
	}
	w.ok(w.PutTemplates(w.Context(), []job.Template{
		{Type: "noop", Version: 3, Name: "No operation", Icon: "🧹", Schema: json.RawMessage(`{"type":"object","$defs":{"a.b":{"default":1.0}}}`), Idempotent: true, MaxConcurrency: 2},
		{Type: "other", Version: 1, Schema: json.RawMessage(`{}`), Destructive: true},
	}))
}

// sameReads fails unless both stores answer the reads that the model does not
// know alike.
func (w *walk) sameReads(o store.Store) {
	w.Helper()
	ctx := w.Context()
	for id := range w.m.executions {
		got, n, err := w.Logs(ctx, id, 0, 1000)
		w.ok(err)
		want, m, err := o.Logs(ctx, id, 0, 1000)
		w.ok(err)
		w.same(n, m)
		w.same(got, want)
	}
	sessions, err := w.Sessions(ctx)
	w.ok(err)
	wantSessions, err := o.Sessions(ctx)
	w.ok(err)
	w.same(sessions, wantSessions)
	templates, err := w.Templates(ctx)
	w.ok(err)
	wantTemplates, err := o.Templates(ctx)
	w.ok(err)
	w.same(templates, wantTemplates)
	for _, hash := range []string{"abc0", "abc1", "def0", "def1"} {
		token, user, err := w.TokenOwner(ctx, hash)
		w.ok(err)
		wantToken, wantUser, err := o.TokenOwner(ctx, hash)
		w.ok(err)
		w.same(token, wantToken)
		w.same(user, wantUser)
	}
	for id := range w.m.jobs {
		got := w.audits(id)
		want, _, err := o.Audits(ctx, store.AuditFilter{Object: id, Limit: 100})
		w.ok(err)
		w.same(got, want)
	}
}
