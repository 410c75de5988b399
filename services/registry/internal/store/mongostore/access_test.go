package mongostore

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

func addUser(t *testing.T, s *Store, name, role string) {
	t.Helper()
	if err := s.AddUser(t.Context(), store.User{Name: name, Role: role, PasswordHash: "old", CreatedAt: noon}, auditOf(name, "user.create")); err != nil {
		t.Fatal(err)
	}
}

func addToken(t *testing.T, s *Store, hash, user string) {
	t.Helper()
	if err := s.AddToken(t.Context(), store.Token{Hash: hash, User: user, Kind: store.TokenPersonal, CreatedAt: noon}, auditOf(user, "token.create")); err != nil {
		t.Fatal(err)
	}
}

// auditsOf counts what was done to the object, by action.
func auditsOf(t *testing.T, s *Store, object string) map[string]int {
	t.Helper()
	page, _, err := s.Audits(t.Context(), store.AuditFilter{Object: object, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, a := range page {
		n[a.Action]++
	}
	return n
}

func superAdmins(t *testing.T, s *Store) (n int) {
	t.Helper()
	all, err := s.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		if u.Role == superAdmin {
			n++
		}
	}
	return n
}

// TestTheLastSuperAdmins has one of two super admins go before each command with
// which the other does.
func TestTheLastSuperAdmins(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	a, b := begin(t, uri, h.tune), begin(t, uri, nil)
	role := "admin"
	demote := func(s *Store, name string) error {
		_, err := s.ChangeUser(t.Context(), store.ChangeUser{Name: name, Role: &role, Audit: auditOf(name, "user.change")})
		return err
	}
	remove := func(s *Store, name string) error {
		return s.RemoveUser(t.Context(), name, auditOf(name, "user.remove"))
	}
	for n := 0; ; n++ {
		one, other := fmt.Sprint("one", n), fmt.Sprint("other", n)
		if n%2 == 1 {
			one, other = other, one // whoever is the first by name
		}
		addUser(t, b, one, superAdmin)
		addUser(t, b, other, superAdmin)
		goes := demote
		if n%4 > 1 {
			goes = remove
		}
		acted := false
		var second error
		h.arm(n, func() {
			acted = true
			second = goes(b, other)
		})
		first := goes(a, one)
		h.disarm()
		label := fmt.Sprintf("before command %d: %v and %v", n, first, second)
		left := superAdmins(t, b)
		switch {
		case !acted:
			if first != nil || left != 1 {
				t.Errorf("alone: %v, %d are left", first, left)
			}
			if err := demote(a, other); !errors.Is(err, job.ErrLastAdmin) {
				t.Errorf("the last one goes: %v", err)
			}
			if err := remove(a, other); !errors.Is(err, job.ErrLastAdmin) {
				t.Errorf("the last one is removed: %v", err)
			}
			if got := auditsOf(t, b, other); got["user.change"]+got["user.remove"] != 0 {
				t.Errorf("what did not happen was kept: %v", got)
			}
			return
		case left < 1 || left > 2:
			t.Errorf("%s: %d are left", label, left)
		case first == nil && second == nil:
			t.Errorf("%s: both went, and %d are left", label, left)
		}
		for _, err := range []error{first, second} {
			if err != nil && !errors.Is(err, job.ErrLastAdmin) {
				t.Error(label)
			}
		}
		// Nobody is marked for good.
		if marked, err := b.users.CountDocuments(t.Context(), bson.D{present("leaving")}); err != nil || marked != 0 {
			t.Errorf("%s: %d are marked (%v)", label, marked, err)
		}
		if _, err := b.users.DeleteMany(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheMarkOfTheDead is taken off by whoever goes next, from either side.
func TestTheMarkOfTheDead(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	for _, names := range [][2]string{{"anna", "zoe"}, {"zora", "alma"}} {
		dead, lives := names[0], names[1]
		addUser(t, s, dead, superAdmin)
		addUser(t, s, lives, superAdmin)
		if _, err := update(t.Context(), s.users, byID(dead), set(bson.E{Key: "leaving", Value: "leaving_x"})); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveUser(t.Context(), lives, nil); err != nil {
			t.Errorf("%s: %v", lives, err)
		}
		if superAdmins(t, s) != 1 {
			t.Errorf("after %s: %d are left", lives, superAdmins(t, s))
		}
		if _, err := s.users.DeleteMany(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUsersWhoAreHalfGone has whoever removes users and tokens die before any
// command. What was done counts at once, and Mend does the rest.
func TestUsersWhoAreHalfGone(t *testing.T) {
	uri := newDatabase(t, standintest.Start(t).URI)
	var h hooks
	dying, s := begin(t, uri, h.tune), begin(t, uri, nil)
	addUser(t, s, "root", superAdmin)
	for what, call := range map[string]func(ctx context.Context, name string) error{
		"user.remove": func(ctx context.Context, name string) error {
			return dying.RemoveUser(ctx, name, auditOf(name, "user.remove"))
		},
		"token.delete": func(ctx context.Context, name string) error {
			return dying.DeleteTokens(ctx, name, []string{name + "1", name + "2", "nothing"}, auditOf(name, "token.delete"))
		},
		"token.create": func(ctx context.Context, name string) error {
			return dying.AddToken(ctx, store.Token{Hash: name + "9", User: name, CreatedAt: minutes(1)}, auditOf(name, "token.create"))
		},
		"user.change": func(ctx context.Context, name string) error {
			hash := "new"
			u, err := dying.ChangeUser(ctx, store.ChangeUser{Name: name, PasswordHash: &hash, Audit: auditOf(name, "user.change")})
			if err == nil && u.PasswordHash != hash {
				err = fmt.Errorf("it is %+v", u)
			}
			return err
		},
	} {
		for n := 0; ; n++ {
			name := fmt.Sprintf("%s %d ", what, n)
			addUser(t, s, name, superAdmin)
			for i := range 3 {
				addToken(t, s, fmt.Sprint(name, i), name)
			}
			ctx, die := context.WithCancel(t.Context())
			died := false
			h.arm(n, func() { died = true; die() })
			err := call(ctx, name)
			h.disarm()
			die()
			if !died && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			// As it stands before anybody mends, and after.
			before := standsOf(t, s, name)
			if err == nil && !before.done(what) {
				t.Errorf("%s before command %d: it was done, and %+v", what, n, before)
			}
			if err := s.Mend(t.Context(), minutes(60)); err != nil {
				t.Fatal(err)
			}
			after := standsOf(t, s, name)
			if after.done(what) != before.done(what) {
				t.Errorf("%s before command %d: %+v, mended %+v", what, n, before, after)
			}
			want := map[string]int{"user.create": 1, "token.create": 3}
			if after.done(what) {
				want[what]++
			}
			if got := auditsOf(t, s, name); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s before command %d: audits %v, want %v", what, n, got, want)
			}
			for c, filter := range map[string]bson.D{"users": {{Key: "owes", Value: true}}, "removed": {{Key: "removed", Value: true}}} {
				if left, err := s.users.CountDocuments(t.Context(), filter); err != nil || left != 0 {
					t.Errorf("%s before command %d: %d %s are left (%v)", what, n, left, c, err)
				}
			}
			if !died {
				if !after.done(what) {
					t.Errorf("%s: %+v", what, after)
				}
				break
			}
		}
	}
}

// access is what somebody can do.
type standing struct {
	there    bool
	password string
	works    int // how many tokens do
	listed   int
}

func standsOf(t *testing.T, s *Store, name string) (a standing) {
	t.Helper()
	u, err := s.UserByName(t.Context(), name)
	if err != nil && !errors.Is(err, job.ErrNotFound) {
		t.Fatal(err)
	}
	a.there, a.password = err == nil, u.PasswordHash
	for i := range 10 {
		_, _, err := s.TokenOwner(t.Context(), fmt.Sprint(name, i))
		if err == nil {
			a.works++
		} else if !errors.Is(err, job.ErrNotFound) {
			t.Fatal(err)
		}
	}
	tokens, err := s.Tokens(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if a.listed = len(tokens); a.listed != a.works {
		t.Errorf("%s: %d tokens are listed, %d work", name, a.listed, a.works)
	}
	return a
}

func (a standing) done(what string) bool {
	switch what {
	case "user.remove":
		return a == standing{}
	case "token.delete":
		return a.works == 1
	case "token.create":
		return a.works == 4
	default:
		return a.password == "new"
	}
}

// TestUsersOfTheSameName come and go.
func TestUsersOfTheSameName(t *testing.T) {
	s := begin(t, newDatabase(t, standintest.Start(t).URI), nil)
	for n := range 3 {
		addUser(t, s, "ann", "admin")
		addToken(t, s, fmt.Sprint("t", n), "ann")
		if n == 1 { // whoever removes her dies after the first write
			if _, err := update(t.Context(), s.users, byID("ann"), set(bson.E{Key: "removed", Value: true}, bson.E{Key: "owes", Value: true})); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := s.RemoveUser(t.Context(), "ann", auditOf("ann", "user.remove")); err != nil {
			t.Fatal(err)
		}
	}
	// A token that was made while she was removed.
	addToken(t, s, "stray", "ann")
	addUser(t, s, "ann", "admin")
	if got := standsOf(t, s, "ann"); got.listed != 0 {
		t.Errorf("she has tokens of others: %+v", got)
	}
	if _, _, err := s.TokenOwner(t.Context(), "stray"); !errors.Is(err, job.ErrNotFound) {
		t.Error(err)
	}
	if got := auditsOf(t, s, "ann"); got["user.create"] != 4 || got["user.remove"] != 2 || got["token.create"] != 4 {
		t.Errorf("audits: %v", got)
	}
	// Twice is once.
	again := store.ChangeUser{Name: "ann", PasswordHash: new(string), Audit: auditOf("ann", "user.change")}
	for range 2 {
		if _, err := s.ChangeUser(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}
	if got := auditsOf(t, s, "ann"); got["user.change"] != 1 {
		t.Errorf("audits: %v", got)
	}
	if err := s.DeleteTokens(t.Context(), "nobody", []string{"stray"}, auditOf("nobody", "token.delete")); err != nil {
		t.Error(err)
	}
	if got := auditsOf(t, s, "nobody"); len(got) != 0 {
		t.Errorf("audits: %v", got)
	}
}
