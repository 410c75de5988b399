package storetest

import (
	"fmt"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// newSession returns a session as it is when it is opened.
func newSession(id string) store.Session {
	return store.Session{
		ID: id, Host: "host of " + id, Version: "1.2.3", Labels: map[string]string{"zone": "north", "gpu": "a.b$c"}, Templates: []string{"noop", "other"},
		Slots: 8, OpenedAt: at(0).Add(7 * time.Millisecond), LastBeatAt: at(0),
	}
}

// session returns the live session, and fails without it.
func (s *suite) session(id string) store.Session {
	s.Helper()
	live, err := s.Sessions(s.Context())
	s.ok(err)
	for _, l := range live {
		if l.ID == id {
			return l
		}
	}
	s.Fatalf("session %s does not live", id)
	return store.Session{}
}

// doAt performs one operation at the time and returns what became of it.
func (s *suite) doAt(now time.Time, op store.Op) store.Outcome {
	s.Helper()
	return s.Do(s.Context(), now, []store.Op{op})[0].Outcome
}

var fleetTests = map[string]func(*suite){
	"open, beat, end": func(s *suite) {
		ctx := s.Context()
		a, b := newSession("sess_a"), newSession("sess_b")
		s.ok(s.OpenSession(ctx, b, at(0)))
		s.ok(s.OpenSession(ctx, a, at(0)))
		live, err := s.Sessions(ctx)
		s.ok(err)
		s.same(live, []store.Session{a, b})
		s.ok(s.OpenSession(ctx, store.Session{ID: "sess_b", Host: "other"}, at(0))) // lives already: nothing changes
		s.same(s.session("sess_b"), b)

		s.same(s.doAt(at(1), &store.Beat{Session: "sess_b", Count: 5, Running: 3}), store.Done)
		b.Count, b.Running, b.LastBeatAt = 5, 3, at(1)
		s.same(s.session("sess_b"), b)
		s.same(s.doAt(at(1), &store.Beat{Session: "sess_b", Count: 5, Running: 3}), store.Done)
		// What was said earlier comes later: nothing changes.
		s.same(s.doAt(at(2), &store.Beat{Session: "sess_b", Count: 3, Running: 1}), store.Done)
		s.same(s.session("sess_b"), b)
		s.same(s.doAt(at(3), &store.Beat{Session: "sess_b", Count: 6, Stopping: true}), store.Done)
		b.Count, b.Running, b.Stopping, b.LastBeatAt = 6, 0, true, at(3)
		s.same(s.session("sess_b"), b)
		s.same(s.session("sess_a"), a)

		s.lost(&store.EndSession{Session: "sess_b", Count: 5}) // it has beaten since
		s.done(&store.EndSession{Session: "sess_b", Count: 6})
		s.done(&store.EndSession{Session: "sess_b", Count: 6}) // gone already
		s.done(&store.EndSession{Session: "nobody", Count: 1})
		s.lost(&store.Beat{Session: "sess_b", Count: 7})
		s.lost(&store.Beat{Session: "sess_b", Count: 6})
		s.lost(&store.Beat{Session: "nobody", Count: 1})
		s.fails(s.OpenSession(ctx, b, at(1)), job.ErrConflict)
		live, err = s.Sessions(ctx)
		s.ok(err)
		s.same(live, []store.Session{a})
		// A day later it is forgotten.
		s.ok(s.OpenSession(ctx, newSession("sess_c"), at(24*60+1)))
		s.ok(s.OpenSession(ctx, newSession("sess_b"), at(24*60+1)))
		s.same(s.session("sess_b"), newSession("sess_b"))
	},
	"drain": func(s *suite) {
		ctx := s.Context()
		for _, id := range []string{"sess_a", "sess_b"} {
			s.ok(s.OpenSession(ctx, newSession(id), at(0)))
		}
		want := newSession("sess_a")
		for i, drain := range []bool{true, true, false, false, true} {
			a := audit("sess_a", map[bool]string{true: "session.drain", false: "session.resume"}[drain], at(i))
			got, err := s.DrainSession(ctx, "sess_a", drain, a)
			s.ok(err)
			want.Draining = drain
			s.same(got, want)
			s.same(s.session("sess_a"), want)
		}
		s.same(s.session("sess_b"), newSession("sess_b"))
		kept := s.audits("sess_a") // of what changed something, latest first
		s.same(len(kept), 3)
		for i, minutes := range []int{4, 2, 0} {
			s.same(kept[i].At, at(minutes))
			s.same(kept[i].Action, []string{"session.drain", "session.resume", "session.drain"}[i])
			s.same(kept[i].ID, fmt.Sprintf("sess_a/%d", 3-i))
		}
		// A beat leaves it, and it leaves the beat.
		s.same(s.doAt(at(7), &store.Beat{Session: "sess_a", Count: 2, Running: 1}), store.Done)
		want.Count, want.Running, want.LastBeatAt = 2, 1, at(7)
		s.same(s.session("sess_a"), want)
		got, err := s.DrainSession(ctx, "sess_a", false, nil)
		s.ok(err)
		want.Draining = false
		s.same(got, want)

		s.done(&store.EndSession{Session: "sess_a", Count: 2})
		for _, id := range []string{"sess_a", "nobody"} {
			_, err := s.DrainSession(ctx, id, true, audit(id, "session.drain", at(9)))
			s.fails(err, job.ErrNotFound)
		}
		s.same(len(s.audits("")), 3)
	},
	"replicas": func(s *suite) {
		ctx := s.Context()
		replicas := func(want ...store.Replica) {
			s.Helper()
			got, err := s.Replicas(ctx)
			s.ok(err)
			s.same(len(got), len(want))
			for i := range want {
				s.same(got[i], want[i])
			}
		}
		replicas()
		a := store.Replica{ID: "reg_a", Name: "a", Version: "1", OpenedAt: at(0).Add(3 * time.Millisecond), Count: 1}
		b := store.Replica{ID: "reg_b", Name: "b", Version: "2", OpenedAt: at(1), Count: 4}
		beat := func(r store.Replica, count int64, now time.Time) store.Replica {
			s.Helper()
			r.Count = count
			s.ok(s.BeatReplica(ctx, r, now))
			r.LastBeatAt = now
			return r
		}
		b = beat(b, 4, at(1))
		a = beat(a, 1, at(1))
		replicas(a, b)
		beat(b, 3, at(2)) // lower: nothing changes
		replicas(a, b)
		b = beat(b, 5, at(3))
		replicas(a, b)
		s.reopen()
		replicas(a, b)
		s.ok(s.DropReplica(ctx, "reg_a"))
		s.ok(s.DropReplica(ctx, "reg_a"))
		replicas(b)
		a = beat(a, 9, at(4)) // it lives after all
		replicas(a, b)
	},
}
