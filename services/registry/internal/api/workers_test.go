package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// connect opens a session, as an executor would.
func (r *rig) connect(s store.Session) {
	r.t.Helper()
	if err := r.store.OpenSession(r.t.Context(), s, r.Now()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) beat(b store.Beat) {
	r.t.Helper()
	if a := r.store.Do(r.t.Context(), r.Now(), []store.Op{&b})[0]; a.Outcome != store.Done {
		r.t.Fatalf("beat: %+v", a)
	}
}

// worker returns the worker of that id as the list shows it.
func (r *rig) worker(id string) map[string]any {
	r.t.Helper()
	a := r.as(access.Admin, http.MethodGet, workersPath, "")
	all, _ := a.body["workers"].([]any)
	at := slices.IndexFunc(all, func(w any) bool { return w.(map[string]any)["id"] == id })
	if a.code != http.StatusOK || at < 0 {
		r.t.Fatalf("no worker %s: %d %s", id, a.code, a.text)
	}
	return all[at].(map[string]any)
}

func TestWorkers(t *testing.T) {
	r := newRig(t)
	if a := r.root(http.StatusOK, http.MethodGet, workersPath, ""); !reflect.DeepEqual(a.body, map[string]any{"workers": []any{}}) {
		t.Errorf("none: %s", a.text)
	}
	for _, s := range []store.Session{
		{ID: "w3", Host: "b"},
		{ID: "w2", Host: "b", Version: "v1", Labels: map[string]string{"zone": "eu"}, Templates: []string{"database_cleanup", "test_scheduler"}, Slots: 8, OpenedAt: began},
		{ID: "w9", Host: "a"},
	} {
		r.connect(s)
	}
	r.advance(10 * time.Second)
	r.beat(store.Beat{Session: "w2", Count: 5, Running: 2})
	r.advance(1500 * time.Millisecond)
	a := r.root(http.StatusOK, http.MethodGet, workersPath, "")
	var ids []string
	for _, w := range a.body["workers"].([]any) {
		ids = append(ids, fmt.Sprint(w.(map[string]any)["id"]))
	}
	if want := []string{"w9", "w2", "w3"}; !slices.Equal(ids, want) {
		t.Errorf("order %v, want %v", ids, want)
	}
	want := map[string]any{
		"id": "w2", "host": "b", "version": "v1", "labels": map[string]any{"zone": "eu"}, "templates": []any{"database_cleanup", "test_scheduler"},
		"slots": 8.0, "running": 2.0, "load": 0.25, "status": "ready", "draining": false,
		"connected_at": "2026-11-23T12:00:00Z", "last_beat_at": "2026-11-23T12:00:10Z", "last_beat_age_seconds": 1.5,
	}
	if got := r.worker("w2"); !reflect.DeepEqual(got, want) {
		t.Errorf("worker\n%v\nwant\n%v", got, want)
	}
	if got := r.worker("w3"); got["load"] != 0.0 || got["slots"] != 0.0 {
		t.Errorf("a worker that tells nothing: %v", got)
	}
	r.beat(store.Beat{Session: "w2", Count: 6, Running: 1, Stopping: true})
	if got := r.worker("w2"); got["status"] != "stopping" || got["load"] != 0.125 || got["last_beat_age_seconds"] != 0.0 {
		t.Errorf("stopping: %v", got)
	}
	if a := r.store.Do(t.Context(), r.Now(), []store.Op{&store.EndSession{Session: "w2", Count: 6}})[0]; a.Outcome != store.Done {
		t.Fatalf("%+v", a)
	}
	r.root(http.StatusNotFound, http.MethodPost, workersPath+"/w2/drain", "")
}

func TestDrain(t *testing.T) {
	r := newRig(t)
	r.connect(store.Session{ID: "w1", Host: "a", Slots: 4})
	for _, c := range []struct {
		verb, message, status string
		draining              bool
	}{
		{"drain", "Worker draining", "draining", true},
		{"drain", "Worker draining", "draining", true}, // again: no other audit record
		{"resume", "Worker resumed", "ready", false},
		{"resume", "Worker resumed", "ready", false},
	} {
		a := r.root(http.StatusOK, http.MethodPost, workersPath+"/w1/"+c.verb, "")
		w, _ := a.body["worker"].(map[string]any)
		if a.body["message"] != c.message || w["status"] != c.status || w["draining"] != c.draining || w["id"] != "w1" {
			t.Errorf("%s: %s", c.verb, a.text)
		}
		if got := r.worker("w1"); !reflect.DeepEqual(got, w) {
			t.Errorf("after %s: %v, answered %v", c.verb, got, w)
		}
	}
	audit := r.root(http.StatusOK, http.MethodGet, "/api/admin/audit?object=w1", "").body
	entries, _ := audit["entries"].([]any)
	if audit["total"] != 2.0 || len(entries) != 2 {
		t.Fatalf("audited: %v", audit)
	}
	for i, action := range []string{"worker.resume", "worker.drain"} {
		e, _ := entries[i].(map[string]any)
		before, _ := e["before"].(map[string]any)
		after, _ := e["after"].(map[string]any)
		if e["action"] != action || e["user"] != "a_super_admin" || e["address"] != "127.0.0.1" || before["draining"] != (i == 0) || after["draining"] != (i == 1) {
			t.Errorf("entry %v", e)
		}
	}
	if a := r.as(access.Admin, http.MethodPost, workersPath+"/w1/drain", ""); a.code != http.StatusForbidden {
		t.Errorf("an admin drains: %d %s", a.code, a.text)
	}

	ctx := t.Context()
	root := almanacv1.NewWorkerServiceClient(r.dial(r.tokens[access.SuperAdmin]))
	drained, err := root.DrainWorker(ctx, &almanacv1.DrainWorkerRequest{Id: "w1"})
	if err != nil || drained.Worker.Status != "draining" {
		t.Errorf("over gRPC: %v, %v", drained, err)
	}
	if resumed, err := root.ResumeWorker(ctx, &almanacv1.ResumeWorkerRequest{Id: "w1"}); err != nil || resumed.Worker.Draining {
		t.Errorf("over gRPC: %v, %v", resumed, err)
	}
	if list, err := root.ListWorkers(ctx, &almanacv1.ListWorkersRequest{}); err != nil || len(list.Workers) != 1 {
		t.Errorf("over gRPC: %v, %v", list, err)
	}
	if _, err := root.DrainWorker(ctx, &almanacv1.DrainWorkerRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without an id: %v", err)
	}
}

// departing is a store whose workers leave, or that fails, between reading and
// writing.
type departing struct {
	Store
	err error
}

func (d departing) DrainSession(context.Context, string, bool, *store.Audit) (store.Session, error) {
	return store.Session{}, d.err
}

func TestDrainOfWhatIsGone(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{{job.ErrNotFound, http.StatusNotFound}, {job.ErrUnavailable, http.StatusServiceUnavailable}} {
		r := newRig(t, func(cfg *Config) { cfg.Store = departing{cfg.Store, c.err} })
		r.connect(store.Session{ID: "w1", Host: "a"})
		r.root(c.code, http.MethodPost, workersPath+"/w1/drain", "")
	}
}

func TestRegistries(t *testing.T) {
	r := newRig(t)
	if a := r.root(http.StatusOK, http.MethodGet, registriesPath, ""); !reflect.DeepEqual(a.body, map[string]any{"registries": []any{}}) {
		t.Errorf("none: %s", a.text)
	}
	for _, x := range []store.Replica{{ID: "r1", Name: "b", Version: "v2", OpenedAt: began, Count: 1}, {ID: "r3", Name: "a"}, {ID: "r2", Name: "b"}} {
		if err := r.store.BeatReplica(t.Context(), x, r.Now()); err != nil {
			t.Fatal(err)
		}
	}
	r.advance(2 * time.Second)
	a := r.as(access.Admin, http.MethodGet, registriesPath, "")
	all, _ := a.body["registries"].([]any)
	if len(all) != 3 || all[0].(map[string]any)["id"] != "r3" || all[2].(map[string]any)["id"] != "r2" {
		t.Fatalf("registries %s", a.text)
	}
	want := map[string]any{
		"id": "r1", "name": "b", "version": "v2", "connected_at": "2026-11-23T12:00:00Z", "last_beat_at": "2026-11-23T12:00:00Z", "last_beat_age_seconds": 2.0,
	}
	if !reflect.DeepEqual(all[1], want) {
		t.Errorf("registry %v, want %v", all[1], want)
	}
}
