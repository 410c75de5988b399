package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// follower reads a watch over REST.
type follower struct {
	*rig
	response *http.Response
	lines    *bufio.Reader
}

// follow opens a watch of an execution as a role.
func (r *rig) follow(ctx context.Context, role access.Role, execution, query string) *follower {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+executionsPath+"/"+execution+"/events"+query, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.tokens[role])
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { res.Body.Close() })
	return &follower{rig: r, response: res, lines: bufio.NewReader(res.Body)}
}

// next waits for the next line; nil is the end.
func (f *follower) next() map[string]any {
	f.t.Helper()
	line, err := f.lines.ReadString('\n')
	if errors.Is(err, io.EOF) && line == "" {
		return nil
	}
	if err != nil {
		f.t.Fatalf("%q: %v", line, err)
	}
	return parse(f.t, line)
}

// event waits for the next event: its status ("" when the execution is not in it),
// its lines of log and whether it is the last.
func (f *follower) event() (status string, first float64, logs []string, over bool) {
	f.t.Helper()
	line := f.next()
	event, ok := line["result"].(map[string]any)
	if !ok {
		f.t.Fatalf("no event but %v", line)
	}
	if e, ok := event["execution"].(map[string]any); ok {
		status, _ = e["status"].(string)
	}
	all, _ := event["logs"].([]any)
	for _, l := range all {
		logs = append(logs, fmt.Sprint(l.(map[string]any)["message"]))
	}
	first, _ = event["first_line"].(float64)
	over, _ = event["over"].(bool)
	return status, first, logs, over
}

func (f *follower) expect(status string, first int, logs string, over bool) {
	f.t.Helper()
	gotStatus, gotFirst, gotLogs, gotOver := f.event()
	if gotStatus != status || gotFirst != float64(first) || strings.Join(gotLogs, ",") != logs || gotOver != over {
		f.t.Fatalf("event %q from %v: %q, over %t; want %q from %d: %q, over %t", gotStatus, gotFirst, gotLogs, gotOver, status, first, logs, over)
	}
}

// tick makes one watch look, and returns when it does.
func (r *rig) tick() { r.ticks <- r.Now() }

// write appends lines to the log of an execution.
func (r *rig) write(e *job.Execution, chunk int, lines ...string) {
	r.t.Helper()
	out := make([]job.LogLine, len(lines))
	for i, l := range lines {
		out[i] = job.LogLine{At: began, Level: "INFO", Message: l}
	}
	a := r.store.Do(r.t.Context(), r.Now(), []store.Op{&store.AppendLog{ID: e.ID, Token: e.Token, Number: chunk, Lines: out}})[0]
	if a.Outcome != store.Done {
		r.t.Fatal(a)
	}
}

func (r *rig) succeed(id string) {
	r.t.Helper()
	r.change(id, func(e *job.Execution) *job.Execution {
		return e.End(job.Outcome{Status: job.Success, CompletedAt: r.Now(), Result: json.RawMessage(`{"message": "done"}`)}, r.Now())
	})
}

func TestWatch(t *testing.T) {
	r := newRig(t)
	id := r.run(r.create("a job", ""))
	f := r.follow(t.Context(), access.Admin, id, "")
	if f.response.StatusCode != http.StatusOK || f.response.Header.Get("Content-Type") != "application/x-ndjson" || f.response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", f.response.StatusCode, f.response.Header)
	}
	f.expect("pending", 0, "", false)
	running := r.start(id)
	r.tick()
	f.expect("running", 0, "", false)
	r.tick() // nothing new: nothing sent
	r.write(running, 0, "one", "two")
	r.tick()
	f.expect("", 0, "one,two", false)
	r.dispatcher.set(func(d *dispatcher) {
		d.progress = map[string]dispatch.Progress{id: {Holding: dispatch.Holding{ID: id, Token: running.Token}, Done: 5, Total: 10, Message: "half"}}
	})
	r.tick()
	if got := f.next()["result"].(map[string]any)["execution"].(map[string]any)["progress"]; fmt.Sprint(got) != "map[done:5 message:half total:10]" {
		t.Errorf("progress %v", got)
	}
	r.succeed(id)
	r.tick()
	f.expect("success", 2, "", false)
	r.write(running, 1, "three") // it landed after the end
	r.tick()
	f.expect("", 2, "three", true)
	if line := f.next(); line != nil {
		t.Errorf("after the end: %v", line)
	}

	// Who comes late, or again, gets the rest.
	again := r.follow(t.Context(), access.Admin, id, "?from_line=2")
	again.expect("success", 2, "three", false)
	r.tick()
	again.expect("", 3, "", true)
}

// A long log comes in pieces, without a pause between them.
func TestWatchOfALongLog(t *testing.T) {
	r := newRig(t)
	id := r.run(r.create("a job", ""))
	running := r.start(id)
	for chunk := range 21 {
		lines := make([]string, 100)
		for i := range lines {
			lines[i] = fmt.Sprint(chunk*100 + i)
		}
		r.write(running, chunk, lines...)
	}
	r.succeed(id)
	f := r.follow(t.Context(), access.Admin, id, "?from_line=50")
	next, over := 50, false
	for step := 0; !over; step++ {
		if step == 3 {
			r.tick() // only the look after the end waits
		}
		var first float64
		var logs []string
		_, first, logs, over = f.event()
		if first != float64(next) || len(logs) > firstLogs {
			t.Fatalf("%d lines from %v, want them from %d", len(logs), first, next)
		}
		for i, l := range logs {
			if l != fmt.Sprint(next+i) {
				t.Fatalf("line %d is %q", next+i, l)
			}
		}
		next += len(logs)
	}
	if next != 2100 {
		t.Errorf("%d lines", next)
	}
}

// Silence would make a proxy close the connection, and a token that is good no
// more must not go on.
func TestQuietWatch(t *testing.T) {
	r := newRig(t)
	id := r.run(r.create("a job", ""))
	f := r.follow(t.Context(), access.Admin, id, "?from_line=7")
	f.expect("pending", 7, "", false)
	for range quietLooks {
		r.tick()
	}
	f.expect("", 7, "", false)
	tokens, err := r.store.Tokens(t.Context(), "a_admin")
	if err != nil || len(tokens) != 1 {
		t.Fatal(tokens, err)
	}
	if err := r.store.DeleteTokens(t.Context(), "a_admin", []string{tokens[0].Hash}, nil); err != nil {
		t.Fatal(err)
	}
	r.advance(time.Minute)
	for range trustedLooks - 1 {
		r.tick()
	}
	line := f.next()
	if failure, _ := line["error"].(map[string]any); failure["code"] != float64(codes.Unauthenticated) {
		t.Errorf("after its token was revoked: %v", line)
	}
	if line := f.next(); line != nil {
		t.Errorf("after the error: %v", line)
	}
}

func TestWatchIsRefused(t *testing.T) {
	r := newRig(t)
	for query, want := range map[string]struct {
		code   int
		reason string
	}{
		"exec_unknown/events":             {404, "NOT_FOUND"},
		"exec_unknown/events?from_line=x": {400, "INVALID_REQUEST"},
		"exec_unknown/events?from_line=-1": {
			400, "INVALID_REQUEST",
		},
	} {
		a := r.as(access.Admin, http.MethodGet, executionsPath+"/"+query, "")
		if a.code != want.code || a.reason() != want.reason || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v", query, a.code, a.text, a.header)
		}
	}
	if a := r.as(access.User, http.MethodGet, executionsPath+"/x/events", ""); a.code != 403 {
		t.Errorf("as user: %d", a.code)
	}
	stream, err := almanacv1.NewExecutionServiceClient(r.dial(r.tokens[access.Admin])).WatchExecution(t.Context(), &almanacv1.WatchExecutionRequest{ExecutionId: "x", FromLine: proto.Int32(-1)})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "from_line") {
		t.Errorf("over gRPC: %v", err)
	}
}

func TestWatchOverGRPC(t *testing.T) {
	r := newRig(t)
	id := r.run(r.create("a job", ""))
	stream, err := almanacv1.NewExecutionServiceClient(r.dial(r.tokens[access.Admin])).WatchExecution(t.Context(), &almanacv1.WatchExecutionRequest{ExecutionId: id})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.Execution.GetStatus() != "pending" || first.Over {
		t.Fatalf("%v, %v", first, err)
	}
	r.start(id)
	r.succeed(id)
	r.tick()
	if ended, err := stream.Recv(); err != nil || ended.Execution.GetStatus() != "success" || ended.Execution.Result == nil || ended.Over {
		t.Fatalf("%v, %v", ended, err)
	}
	r.tick()
	if last, err := stream.Recv(); err != nil || last.Execution != nil || !last.Over {
		t.Fatalf("%v, %v", last, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestWatchesAreLimited(t *testing.T) {
	r := newRig(t)
	id := r.run(r.create("a job", ""))
	ctx, leave := context.WithCancel(t.Context())
	for range watchesOfUser {
		r.follow(ctx, access.Admin, id, "").expect("pending", 0, "", false)
	}
	a := r.as(access.Admin, http.MethodGet, executionsPath+"/"+id+"/events", "")
	if a.code != 429 || a.reason() != "LIMIT_REACHED" || a.header.Get("Retry-After") != "1" {
		t.Errorf("one more: %d %s", a.code, a.text)
	}
	r.follow(t.Context(), access.SuperAdmin, id, "").expect("pending", 0, "", false) // others have room
	leave()
	for range watchesOfUser { // the registry noticed
		<-r.unwatched
	}

	var all watches
	for i := range watchesInAll {
		if _, err := all.enter(fmt.Sprint("user", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := all.enter("one more"); err == nil {
		t.Error("there is no limit in all")
	}
	var some watches
	out, err := some.enter("ada")
	if err != nil {
		t.Fatal(err)
	}
	if out(); len(some.open) != 0 || some.all != 0 {
		t.Errorf("who left is counted: %v, %d", some.open, some.all)
	}
}

func TestWatchEndsWithTheServer(t *testing.T) {
	r := newRig(t)
	f := r.follow(t.Context(), access.Admin, r.run(r.create("a job", "")), "")
	f.expect("pending", 0, "", false)
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	line := f.next()
	if failure, _ := line["error"].(map[string]any); failure["code"] != float64(codes.Unavailable) {
		t.Errorf("last line %v", line)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestWatchDuringAnOutage(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Store = outage{c.Store} })
	a := r.as(access.Admin, http.MethodGet, executionsPath+"/x/events", "")
	if a.code != 503 || a.reason() != "UNAVAILABLE" || a.header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", a.code, a.text)
	}
}

// endless is a response that remembers its deadlines.
type endless struct {
	http.ResponseWriter
	read, write []time.Time
}

func (e *endless) SetReadDeadline(at time.Time) error {
	e.read = append(e.read, at)
	return nil
}

func (e *endless) SetWriteDeadline(at time.Time) error {
	e.write = append(e.write, at)
	return nil
}

// The server's limits are for requests that come to an end.
func TestStreamsHaveNoDeadline(t *testing.T) {
	r := newRig(t)
	w := &endless{ResponseWriter: httptest.NewRecorder()}
	served := false
	r.server.serveStream(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }))
	if !served || len(w.read) != 1 || !w.read[0].IsZero() || len(w.write) != 1 || !w.write[0].IsZero() {
		t.Errorf("served %t, read by %v, written by %v", served, w.read, w.write)
	}
	plain := httptest.NewRecorder() // knows no deadlines
	r.server.serveStream(plain, httptest.NewRequest(http.MethodGet, "/", http.NoBody), http.NotFoundHandler())
	if plain.Code != http.StatusInternalServerError {
		t.Errorf("without control of deadlines: %d", plain.Code)
	}
}
