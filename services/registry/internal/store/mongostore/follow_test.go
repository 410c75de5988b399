package mongostore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/standintest"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// Whoever dies between the end of a run and what follows it leaves it owed: it is
// recorded once, by whoever mends, and by a late one of those who had begun.
func TestFollowersSurviveADeath(t *testing.T) {
	server, isReal := standintest.URI(t)
	uri := newDatabase(t, server)
	if isReal {
		t.Cleanup(func() { drop(t, uri) })
	}
	var h hooks
	dying, mender := begin(t, uri, h.tune), begin(t, uri, nil)
	system := create(t, mender, func(j *job.Job) {
		j.ID, j.Deleted, j.Enabled, j.NextRunAt = job.NotificationsID, true, false, time.Time{}
	})
	for n := 0; ; n++ {
		j := create(t, mender)
		f := fireOf(j, "session")
		if a := perform(t.Context(), t, mender, f); a.Outcome != store.Done {
			t.Fatalf("fire: %+v", a)
		}
		e := f.Execution
		end := e.End(job.Outcome{Status: job.Failed, StartedAt: noon, CompletedAt: minutes(1), Error: "no luck", ErrorCode: "luck"}, minutes(1))
		c := &store.Change{Status: e.Status, Token: e.Token, To: end}
		var ids []string
		for i := range 2 {
			key := fmt.Sprintf("%s.failed.%d", e.ID, i)
			follower := &job.Execution{
				ID: job.ExecutionID(system.ID, job.TriggerNotification, key), JobID: system.ID, JobVersion: 1, Trigger: job.TriggerNotification, Key: key,
				ScheduledFor: minutes(1), CreatedAt: minutes(1), WakeAt: minutes(1), Status: job.Pending, Frozen: system.Freeze(true),
			}
			c.Follow = append(c.Follow, follower)
			ids = append(ids, follower.ID)
		}
		ctx, die := context.WithCancel(t.Context())
		h.arm(n, die)
		a := dying.Do(ctx, minutes(1), []store.Op{c})[0]
		commands := h.disarm()
		die()
		stands, err := mender.Execution(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if a.Outcome == store.Done && stands.Status != job.Failed {
			t.Fatalf("before command %d: done, and it is %s", n, stands.Status)
		}
		for range 2 {
			if err := mender.Mend(t.Context(), minutes(2)); err != nil {
				t.Fatal(err)
			}
		}
		found, err := mender.Find(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if stands.Status == job.Failed {
			want = 2
		}
		if len(found) != want {
			t.Errorf("death before command %d: it ended as %s, and %d follow", n, stands.Status, len(found))
		}
		// The change again, as whoever took over repeats it.
		if a := perform(t.Context(), t, mender, c); a.Outcome != store.Done {
			t.Errorf("death before command %d: repeated it is %+v", n, a)
		}
		if found, err = mender.Find(t.Context(), ids); err != nil || len(found) != 2 {
			t.Errorf("death before command %d: in the end %d follow, %v", n, len(found), err)
		}
		left, err := mender.executions.CountDocuments(t.Context(), map[string]any{"owing": map[string]any{"$exists": true}})
		if err != nil || left != 0 {
			t.Errorf("death before command %d: %d still owe, %v", n, left, err)
		}
		if commands <= n {
			if n < 4 {
				t.Errorf("a change with two followers took %d commands", commands)
			}
			return
		}
	}
}
