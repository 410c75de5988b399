package mongostore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// TestQueriesUseIndexes asks for everything that registries ask for again and
// again, and finds an index for each query: by its shape, and on a real server by
// what that explains.
func TestQueriesUseIndexes(t *testing.T) {
	server, stays := standintest.URI(t)
	uri := newDatabase(t, server)
	if stays {
		t.Cleanup(func() { drop(t, uri) })
	}
	var seen commands
	s := begin(t, uri, seen.tune)
	j := create(t, s)
	if a := perform(t.Context(), t, s, fireOf(j, "ann")); a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	e := fireOf(j, "ann").Execution
	yes := true
	share := job.NewShare(1, 2, job.Bucket(j.ID))
	ctx := t.Context()
	listBy := func(key store.SortKey) error {
		for _, descending := range []bool{false, true} {
			if _, _, err := s.Jobs(ctx, store.JobFilter{Sort: store.JobSort{By: key, Descending: descending}, Limit: 5}); err != nil {
				return err
			}
		}
		return nil
	}
	for name, ask := range map[string]func() error{
		"history page": func() error { _, _, err := s.Executions(ctx, store.ExecutionFilter{JobID: j.ID, Limit: 5}); return err },
		"history page by status": func() error {
			_, _, err := s.Executions(ctx, store.ExecutionFilter{JobID: j.ID, Statuses: []job.Status{job.Pending, job.Failed}, Limit: 5})
			return err
		},
		"job list": func() error { _, _, err := s.Jobs(ctx, store.JobFilter{Limit: 5}); return err },
		"job list, filtered": func() error {
			_, _, err := s.Jobs(ctx, store.JobFilter{TemplateTypes: []string{"noop"}, Enabled: &yes, Limit: 5})
			return err
		},
		"job list by words, labels and states": func() error {
			_, _, err := s.Jobs(ctx, store.JobFilter{
				Words: []string{"a.b"}, Labels: []store.LabelTerm{{Key: "x.y"}}, States: []job.State{job.StateNever}, Limit: 5,
			})
			return err
		},
		"job list by name":     func() error { return listBy(store.SortName) },
		"job list by edit":     func() error { return listBy(store.SortUpdated) },
		"job list by next run": func() error { return listBy(store.SortNextRun) },
		"recent":               func() error { _, err := s.Recent(ctx, []string{j.ID, "job_x"}, 5); return err },
		"live":                 func() error { _, _, err := s.Live(ctx, 0, 5); return err },
		"failures":             func() error { _, _, err := s.Failures(ctx, noon, 0, 5); return err },
		"pulse":                func() error { _, err := s.Pulse(ctx, noon); return err },
		"statistics":           func() error { _, err := s.Statistics(ctx, "", noon, minutes(60)); return err },
		"rolling up": func() error {
			(&history{t, s, 0}).corrected((&history{t, s, 0}).ended(j.ID, job.Unknown, 1, 1), job.Success, 1, 100)
			_, err := s.RollUp(ctx, minutes(60))
			return err
		},
		"rolling up nothing": func() error { _, err := s.RollUp(ctx, minutes(60)); return err },
		"users":              func() error { _, err := s.Users(ctx); return err },
		"changing a user": func() error {
			role := "user"
			for _, name := range []string{"ann", "bob"} {
				if err := s.AddUser(ctx, store.User{Name: name, Role: superAdmin}, auditOf(name, "x")); err != nil {
					return err
				}
			}
			_, err := s.ChangeUser(ctx, store.ChangeUser{Name: "ann", Role: &role, Audit: auditOf("ann", "x")})
			return err
		},
		"removing a user": func() error {
			if err := s.AddUser(ctx, store.User{Name: "cid"}, nil); err != nil {
				return err
			}
			return s.RemoveUser(ctx, "cid", auditOf("cid", "x"))
		},
		"tokens": func() error {
			if err := s.AddUser(ctx, store.User{Name: "dan"}, nil); err != nil {
				return err
			}
			if err := s.AddToken(ctx, store.Token{Hash: "h", User: "dan"}, auditOf("dan", "x")); err != nil {
				return err
			}
			if _, err := s.Tokens(ctx, "dan"); err != nil {
				return err
			}
			return s.DeleteTokens(ctx, "dan", []string{"h"}, auditOf("dan", "x"))
		},
		"audits of a user":         func() error { _, _, err := s.Audits(ctx, store.AuditFilter{User: "ann", Limit: 5}); return err },
		"audits of an action":      func() error { _, _, err := s.Audits(ctx, store.AuditFilter{Action: "x", Limit: 5}); return err },
		"job":                      func() error { _, err := s.Job(ctx, j.ID); return err },
		"due jobs":                 func() error { _, err := s.DueJobs(ctx, share, minutes(5), nil, 5); return err },
		"due jobs, next page":      func() error { _, err := s.DueJobs(ctx, nil, minutes(5), j, 5); return err },
		"queues":                   func() error { _, err := s.Queues(ctx); return err },
		"waiting":                  func() error { _, err := s.Waiting(ctx, e.Frozen.Queue(), share, minutes(5), e, 5); return err },
		"held":                     func() error { _, err := s.Held(ctx, share, e, 5); return err },
		"overdue":                  func() error { _, err := s.Overdue(ctx, share, minutes(5), 5); return err },
		"find":                     func() error { _, err := s.Find(ctx, []string{e.ID, "exec_x_m_y"}); return err },
		"logs":                     func() error { _, _, err := s.Logs(ctx, e.ID, 0, 5); return err },
		"audits":                   func() error { _, _, err := s.Audits(ctx, store.AuditFilter{Limit: 5}); return err },
		"audits of one":            func() error { _, _, err := s.Audits(ctx, store.AuditFilter{Object: j.ID, Limit: 5}); return err },
		"mending":                  func() error { return s.Mend(ctx, minutes(60)) },
		"half-done fires of a job": func() error { return s.settleFiresOf(ctx, j.ID) },
		"what waits of a job":      func() error { return s.cancelWaiting(ctx, j.ID, noon) },
		"who holds a slot": func() error {
			later := j.Clone()
			later.NextRunAt = minutes(1)
			if a := perform(ctx, t, s, fireOf(later, "bob")); a.SlotBy != e.ID {
				return fmt.Errorf("%+v", a)
			}
			return nil
		},
		"the limit of jobs": func() error { create(t, s); return nil },
		"expired tokens":    func() error { return s.DeleteExpiredTokens(ctx, noon) },
		"a job with a limit": func() error {
			_, _, err := s.CreateJob(ctx, store.CreateJob{Job: &job.Job{ID: "job_l", Name: "l", CreatedAt: noon, Version: 1}, Limit: 100})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen.take()
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			asked := 0
			for _, c := range seen.take() {
				q, ok := queryOf(c)
				if !ok {
					continue
				}
				asked++
				if problem := q.served(); problem != "" {
					t.Errorf("%s of %s with the filter %v in the order %v: %s", c.name, c.collection, q.filter, q.sort, problem)
				}
				if stays {
					explained(t, s, c)
				}
			}
			if asked == 0 {
				t.Error("it asked for nothing")
			}
		})
	}
}

// query is what a command chooses, and in which order.
type query struct {
	collection   string
	filter, sort bson.D
}

// queryOf returns the query of a command; the writes that insert have none.
func queryOf(c command) (query, bool) {
	field := func(d bson.D, key string) bson.D {
		for _, e := range d {
			if e.Key == key {
				switch v := e.Value.(type) {
				case bson.D:
					return v
				case bson.A:
					if len(v) > 0 {
						first, _ := v[0].(bson.D)
						return first
					}
				}
			}
		}
		return nil
	}
	q := query{collection: c.collection}
	switch c.name {
	case "find":
		q.filter, q.sort = field(c.body, "filter"), field(c.body, "sort")
	case "aggregate":
		q.filter = field(field(c.body, "pipeline"), "$match")
	case "update":
		q.filter = field(field(c.body, "updates"), "q")
	case "delete":
		q.filter = field(field(c.body, "deletes"), "q")
	default:
		return q, false
	}
	return q, true
}

// served returns why no index serves the query, "" when one does.
func (q query) served() string {
	fixed, bounded := map[string]bool{}, map[string]bool{}
	for _, e := range q.filter {
		d, ok := e.Value.(bson.D)
		switch {
		case !ok || len(d) > 0 && d[0].Key == "$in":
			fixed[e.Key] = true
		case len(d) > 0 && strings.HasPrefix(d[0].Key, "$") && d[0].Key != "$exists":
			bounded[e.Key] = true
		case len(d) == 1 && d[0].Key == "$exists" && d[0].Value == true:
			bounded[e.Key] = true // through a sparse index
		}
	}
	candidates := append([]index{{collection: q.collection, name: "_id_", keys: []string{"_id"}}}, indexes...)
	for _, i := range candidates {
		if i.collection != q.collection {
			continue
		}
		n := 0
		for n < len(i.keys) && fixed[strings.TrimPrefix(i.keys[n], "-")] {
			n++
		}
		if n == 0 && !bounded[strings.TrimPrefix(i.keys[0], "-")] && len(q.sort) == 0 {
			continue
		}
		if n == 0 && len(q.filter) > 0 && !bounded[strings.TrimPrefix(i.keys[0], "-")] {
			continue
		}
		if ordered(i.keys[n:], q.sort) {
			return ""
		}
	}
	return "no index serves it"
}

// ordered tells whether an index with these keys gives the order, forwards or
// backwards.
func ordered(keys []string, sort bson.D) bool {
	if len(sort) > len(keys) {
		return false
	}
	same, opposite := true, true
	for n, e := range sort {
		key, descends := strings.CutPrefix(keys[n], "-")
		if key != e.Key {
			return false
		}
		if down := fmt.Sprint(e.Value) == "-1"; down == descends {
			opposite = false
		} else {
			same = false
		}
	}
	return same || opposite
}

// explained asks a real server how it carries the command out.
func explained(t *testing.T, s *Store, c command) {
	t.Helper()
	command := slices.DeleteFunc(slices.Clone(c.body), func(e bson.E) bool {
		return strings.HasPrefix(e.Key, "$") || e.Key == "lsid" || e.Key == "txnNumber" || e.Key == "readConcern" || e.Key == "writeConcern" || e.Key == "maxTimeMS"
	})
	for i, e := range command {
		if all, ok := e.Value.(bson.A); ok && len(all) > 1 && (e.Key == "updates" || e.Key == "deletes") {
			command[i].Value = all[:1] // no more can be explained at once
		}
	}
	var plan bson.D
	if err := s.meta.Database().RunCommand(t.Context(), bson.D{{Key: "explain", Value: command}, {Key: "verbosity", Value: "queryPlanner"}}).Decode(&plan); err != nil {
		t.Errorf("explain %s: %v", c.name, err)
		return
	}
	all := winners(plan)
	if len(all) == 0 {
		t.Errorf("%s of %s: the server explains nothing: %v", c.name, c.collection, plan)
	}
	for _, winner := range all {
		raw, err := bson.MarshalExtJSON(bson.D{{Key: "plan", Value: winner}}, false, false)
		if err != nil {
			t.Errorf("explain %s: %v", c.name, err)
			return
		}
		text := strings.ReplaceAll(string(raw), " ", "")
		if strings.Contains(text, `"stage":"COLLSCAN"`) {
			t.Errorf("%s of %s scans the collection: %s", c.name, c.collection, text)
		}
		if strings.Contains(text, `"stage":"SORT"`) {
			t.Errorf("%s of %s sorts by itself: %s", c.name, c.collection, text)
		}
	}
}

// winners finds the plans that the server decided on.
func winners(v any) (found []any) {
	switch v := v.(type) {
	case bson.D:
		for _, e := range v {
			if e.Key == "winningPlan" {
				found = append(found, e.Value)
				continue
			}
			found = append(found, winners(e.Value)...)
		}
	case bson.A:
		for _, e := range v {
			found = append(found, winners(e)...)
		}
	}
	return found
}

// TestNoQueryShapeWithoutIndex shows that the check above finds what no index
// serves.
func TestNoQueryShapeWithoutIndex(t *testing.T) {
	for name, q := range map[string]query{
		"another field":       {executionsName, bson.D{{Key: "error", Value: "x"}}, nil},
		"the wrong order":     {executionsName, bson.D{{Key: "job_id", Value: "x"}}, bson.D{{Key: "created_at", Value: -1}}},
		"a mixed order":       {executionsName, bson.D{{Key: "job_id", Value: "x"}}, bson.D{{Key: "scheduled_for", Value: -1}, {Key: "_id", Value: 1}}},
		"only what is absent": {jobsName, bson.D{absent("provisional")}, nil},
		"everything":          {executionsName, bson.D{}, nil},
	} {
		if q.served() == "" {
			t.Errorf("%s: an index serves %v in the order %v", name, q.filter, q.sort)
		}
	}
}

func TestWinners(t *testing.T) {
	plan := bson.D{{Key: "stages", Value: bson.A{bson.D{{Key: "$cursor", Value: bson.D{
		{Key: "queryPlanner", Value: bson.D{{Key: "winningPlan", Value: "a"}, {Key: "rejectedPlans", Value: bson.A{"b"}}}},
	}}}}}, {Key: "queryPlanner", Value: bson.D{{Key: "winningPlan", Value: "c"}}}}
	if got := fmt.Sprint(winners(plan)); got != "[a c]" {
		t.Error(got)
	}
}
