package mongostore

import (
	"context"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// command is one that a store sent.
type command struct {
	name, collection string
	body             bson.D
}

// commands keeps what a store sends.
type commands struct {
	mu  sync.Mutex
	all []command
}

func (c *commands) tune(o *options.ClientOptions) {
	o.SetMonitor(&event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		var body bson.D
		if err := bson.Unmarshal(e.Command, &body); err != nil || len(body) == 0 {
			return
		}
		collection, _ := body[0].Value.(string)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, command{e.CommandName, collection, body})
	}})
}

// take returns what was sent since the last time.
func (c *commands) take() []command {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

func (c *commands) count(name string) (n int) {
	for _, one := range c.take() {
		if one.name == name {
			n++
		}
	}
	return n
}

// TestCommandsOfARun counts what a plain run costs.
func TestCommandsOfARun(t *testing.T) {
	server, stays := standintest.URI(t)
	uri := newDatabase(t, server)
	if stays {
		t.Cleanup(func() { drop(t, uri) })
	}
	var seen commands
	s := begin(t, uri, seen.tune)
	done := func(op store.Op) {
		t.Helper()
		if a := s.Do(t.Context(), noon, []store.Op{op})[0]; a.Outcome != store.Done {
			t.Fatalf("%T: %+v", op, a)
		}
	}
	tally := func(what string, want ...string) {
		t.Helper()
		var got []string
		for _, c := range seen.take() {
			got = append(got, c.name+" "+c.collection)
		}
		t.Logf("%s: %v", what, got)
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
			return
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
	}
	change := func(from, to *job.Execution) *store.Change {
		return &store.Change{Status: from.Status, Token: from.Token, To: to}
	}
	outcome := job.Outcome{Status: job.Success, StartedAt: noon, CompletedAt: minutes(1), Result: []byte(`{"message":"ok"}`)}

	f := fireOf(create(t, s), "ann")
	seen.take()
	done(f)
	run := f.Execution.Start(noon, noon, nil)
	done(change(f.Execution, run))
	done(change(run, run.End(outcome, minutes(1))))
	tally("a plain run, four writes", "insert job_executions", "update dynamic_jobs", "update job_executions", "update job_executions")

	f = fireOf(create(t, s), "ann")
	seen.take()
	done(f)
	done(change(f.Execution, f.Execution.End(outcome, minutes(1))))
	tally("a run whose result came first, three writes", "insert job_executions", "update dynamic_jobs", "update job_executions")

	f = skipOf(create(t, s))
	seen.take()
	done(f)
	tally("a skip, three writes", "insert job_executions", "update dynamic_jobs", "update job_executions")
}
