package builtin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// newRun returns a run scheduled for origin on that connection, which may touch
// the collections that the tests use.
func newRun(params map[string]any, connection template.Connection) (*template.Run, *templatetest.Recorder) {
	run, recorder := templatetest.NewRun(params)
	run.ScheduledFor = origin
	templatetest.Connect(run, connectionParam, "main", connection)
	run.Allowed["collection"] = []string{"sessions", "tickets"}
	return run, recorder
}

func oldSessions(change map[string]any) map[string]any {
	params := map[string]any{"collection": "sessions", "condition": map[string]any{"lastActive": map[string]any{"$lt": "6 months ago"}}, "dryRun": false}
	for name, value := range change {
		params[name] = value
	}
	return params
}

// insertSessions inserts sessions that are just old enough, and just not.
func insertSessions(t *testing.T, db *mongo.Database, old, young int) {
	t.Helper()
	cutoff := time.Date(2025, 4, 19, 2, 0, 0, 0, time.UTC)
	var documents []any
	for i := range old + young {
		at := cutoff.Add(-time.Millisecond)
		if i >= old {
			at = cutoff
		}
		documents = append(documents, bson.D{{Key: "_id", Value: fmt.Sprintf("s%05d", i)}, {Key: "lastActive", Value: at}})
	}
	insert(t, db, "sessions", documents...)
}

func TestDatabaseCleanupPassesTheSuite(t *testing.T) {
	db, connection := newDatabase(t)
	insertSessions(t, db, 1, 1)
	templatetest.Run(t, databaseCleanup{}, templatetest.Options{
		Valid: []map[string]any{
			{"collection": "users", "condition": map[string]any{"lastActive": map[string]any{"$lt": "6 months ago"}}, "dryRun": false},
			oldSessions(map[string]any{"max_deletions": 1.0, "connection": "main"}),
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"condition": map[string]any{"a": 1.0}}, Field: "collection"},
			{Params: map[string]any{"collection": "users"}, Field: "condition"},
			{Params: oldSessions(map[string]any{"condition": map[string]any{}}), Field: "condition"},
			{Params: oldSessions(map[string]any{"condition": map[string]any{"a": map[string]any{"$lt": "6 fortnights ago"}}}), Field: "condition.a.$lt"},
			{Params: oldSessions(map[string]any{"dryRun": "no"}), Field: "dryRun"},
			{Params: oldSessions(map[string]any{"max_deletions": 0.0}), Field: "max_deletions"},
			{Params: oldSessions(map[string]any{"max_deletions": 10_000_001.0}), Field: "max_deletions"},
			{Params: oldSessions(map[string]any{"uri": "mongodb://x"}), Field: "uri"},
		},
		Succeed: []map[string]any{oldSessions(map[string]any{"dryRun": true}), oldSessions(nil)},
		Prepare: func(run *template.Run) {
			templatetest.Connect(run, connectionParam, "main", connection)
			run.Allowed["collection"] = []string{"sessions"}
		},
	})
}

func TestTicketCleanupPassesTheSuite(t *testing.T) {
	_, connection := newDatabase(t)
	templatetest.Run(t, ticketCleanup{}, templatetest.Options{
		Valid: []map[string]any{{}, {"status": "closed", "older_than": "1 year", "dryRun": false, "max_deletions": 5.0, "connection": "main"}},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"status": "open"}, Field: "status"},
			{Params: map[string]any{"older_than": "30 days ago"}, Field: "older_than"},
			{Params: map[string]any{"older_than": "0 days"}, Field: "older_than"},
			{Params: map[string]any{"collection": "users"}, Field: "collection"},
		},
		Succeed: []map[string]any{{}, {"dryRun": false}},
		Prepare: func(run *template.Run) {
			templatetest.Connect(run, connectionParam, "main", connection)
			run.Allowed["collection"] = []string{"tickets"}
		},
	})
}

// What the schema alone refuses, the registry refuses at saving.
func TestSchemasRefuseWhatNoRunCouldUse(t *testing.T) {
	for name, tc := range map[string]struct {
		tmpl   template.JobTemplate
		params map[string]any
		field  string
	}{
		"empty condition":  {databaseCleanup{}, oldSessions(map[string]any{"condition": map[string]any{}}), "condition"},
		"no age":           {ticketCleanup{}, map[string]any{"older_than": "soon"}, "older_than"},
		"age with ago":     {ticketCleanup{}, map[string]any{"older_than": "30 days ago"}, "older_than"},
		"age without unit": {ticketCleanup{}, map[string]any{"older_than": "30"}, "older_than"},
	} {
		t.Run(name, func(t *testing.T) {
			schema, err := template.CompileSchema(tc.tmpl.Schema())
			if err != nil {
				t.Fatal(err)
			}
			var refused *template.ParamsError
			if err := schema.Validate(tc.params); !errors.As(err, &refused) || len(refused.Fields) != 1 || refused.Fields[0].Field != tc.field {
				t.Errorf("got %v", err)
			}
			tc.params[tc.field] = map[string]any{"lastActive": nil}
			if tc.field == "older_than" {
				tc.params[tc.field] = "1 week"
			}
			if err := schema.Validate(tc.params); err != nil {
				t.Errorf("a good value is refused: %v", err)
			}
		})
	}
}

func TestTemplatesFormASet(t *testing.T) {
	set, err := template.NewSet(Templates()...)
	if err != nil {
		t.Fatal(err)
	}
	var types, given []string
	for _, c := range set.List() {
		types = append(types, c.Descriptor.Type)
	}
	for _, tmpl := range Templates() {
		given = append(given, tmpl.Descriptor().Type)
	}
	if !slices.Equal(types, given) || !slices.Contains(types, "database_cleanup") {
		t.Errorf("got %v, want them ordered by type: %v", given, types)
	}
}

func TestCleanupDeletesWhatTheDryRunCounted(t *testing.T) {
	db, connection := newDatabase(t)
	insertSessions(t, db, 2_345, 55)

	execute := func(params map[string]any) (template.Result, *templatetest.Recorder) {
		run, recorder := newRun(params, connection)
		result, err := databaseCleanup{}.Execute(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		return result, recorder
	}
	withoutDryRun := oldSessions(nil)
	delete(withoutDryRun, "dryRun")
	for _, params := range []map[string]any{oldSessions(map[string]any{"dryRun": true}), withoutDryRun} {
		result, _ := execute(params)
		if want := (template.Result{"message": "Would delete 2345 records (dry run)", "records_processed": int64(2345), "records_deleted": int64(0), "errors": int64(0)}); !reflect.DeepEqual(result, want) {
			t.Errorf("dry run: got %v", result)
		}
		if n := left(t, db, "sessions"); n != 2400 {
			t.Fatalf("a dry run left %d of 2400 documents", n)
		}
	}

	result, recorder := execute(oldSessions(nil))
	if want := (template.Result{"message": "Deleted 2345 records", "records_processed": int64(2345), "records_deleted": int64(2345), "errors": int64(0)}); !reflect.DeepEqual(result, want) {
		t.Errorf("real run: got %v", result)
	}
	if n := left(t, db, "sessions"); n != 55 {
		t.Errorf("%d documents are left, want the 55 young ones", n)
	}
	if want := []templatetest.Progress{
		{Done: 1000, Total: 2345, Message: "Deleted 1000 of 2345 records"},
		{Done: 2000, Total: 2345, Message: "Deleted 2000 of 2345 records"},
		{Done: 2345, Total: 2345, Message: "Deleted 2345 of 2345 records"},
	}; !slices.Equal(recorder.Steps(), want) {
		t.Errorf("progress: %v", recorder.Steps())
	}
	if want := []string{"INFO Starting cleanup of sessions (deleting)", "INFO 2345 documents match", "INFO Cleanup completed: Deleted 2345 records"}; !slices.Equal(recorder.Lines(), want) {
		t.Errorf("log: %q", recorder.Lines())
	}

	if result, _ := execute(oldSessions(nil)); result["records_deleted"] != int64(0) || result["message"] != "Deleted 0 records" {
		t.Errorf("the next run: %v", result)
	}
}

func TestCleanupRefusesMoreThanTheCap(t *testing.T) {
	db, connection := newDatabase(t)
	insertSessions(t, db, 11, 1)
	run, _ := newRun(oldSessions(map[string]any{"max_deletions": 10.0}), connection)
	result, err := databaseCleanup{}.Execute(t.Context(), run)
	failure := template.AsError(err)
	if failure == nil || failure.Code != template.CodeLimit || failure.Retryable || !strings.Contains(failure.Message, "11 documents of sessions match, more than max_deletions (10): nothing was deleted") {
		t.Errorf("got %+v", failure)
	}
	if result["records_deleted"] != int64(0) || left(t, db, "sessions") != 12 {
		t.Errorf("something was deleted: %v, %d left", result, left(t, db, "sessions"))
	}
	run, recorder := newRun(oldSessions(map[string]any{"max_deletions": 10.0, "dryRun": true}), connection)
	if _, err := (databaseCleanup{}).Execute(t.Context(), run); err != nil {
		t.Errorf("a dry run beyond the cap: %v", err)
	}
	if want := "WARN A real run would fail: 11 documents match and max_deletions is 10"; !slices.Contains(recorder.Lines(), want) {
		t.Errorf("log: %q", recorder.Lines())
	}
	run, _ = newRun(oldSessions(map[string]any{"max_deletions": 11.0}), connection)
	if result, err := (databaseCleanup{}).Execute(t.Context(), run); err != nil || result["records_deleted"] != int64(11) {
		t.Errorf("exactly the cap: %v, %v", result, err)
	}
}

func TestDocumentTouchedInBetweenSurvives(t *testing.T) {
	db, connection := newDatabase(t)
	insertSessions(t, db, 2, 1)
	c, err := cleanupOf(oldSessions(nil), origin, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	open, err := connect(t.Context(), connection)
	if err != nil {
		t.Fatal(err)
	}
	defer open.close(t.Context())
	// s00002 is as one that was found, then used again before its deletion.
	if n, err := c.deleteBatch(t.Context(), open, bson.A{"s00000", "s00001", "s00002"}); n != 2 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if n := left(t, db, "sessions"); n != 1 {
		t.Errorf("%d documents are left", n)
	}
}

func TestCleanupWarns(t *testing.T) {
	cutoff := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		documents []any
		want      string
	}{
		"text":       {[]any{bson.D{{Key: "lastActive", Value: "2020-01-01"}}, bson.D{{Key: "other", Value: 1}}}, "WARN The documents of sessions hold text in lastActive, not dates: comparing it with a time matches nothing"},
		"mixed":      {[]any{bson.D{{Key: "lastActive", Value: "2020-01-01"}}, bson.D{{Key: "lastActive", Value: cutoff}}}, "WARN Some documents of sessions hold text in lastActive, not a date: comparing it with a time never matches those"},
		"everything": {[]any{bson.D{{Key: "lastActive", Value: cutoff}}}, "WARN The condition matches every document of sessions"},
	} {
		t.Run(name, func(t *testing.T) {
			db, connection := newDatabase(t)
			insert(t, db, "sessions", tc.documents...)
			run, recorder := newRun(oldSessions(map[string]any{"dryRun": true}), connection)
			if _, err := (databaseCleanup{}).Execute(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			warnings := slices.DeleteFunc(recorder.Lines(), func(line string) bool { return !strings.HasPrefix(line, "WARN") })
			if !slices.Equal(warnings, []string{tc.want}) {
				t.Errorf("got %q, want %q", warnings, tc.want)
			}
		})
	}
}

func TestTicketCleanup(t *testing.T) {
	db, connection := newDatabase(t)
	ticket := func(status string, resolved any) any {
		return bson.D{{Key: "status", Value: status}, {Key: "resolvedAt", Value: resolved}}
	}
	month := origin.AddDate(0, 0, -30)
	insert(t, db, "tickets",
		ticket("resolved", month.Add(-time.Second)), ticket("resolved", month.Add(-time.Hour)), // due
		ticket("resolved", month), ticket("closed", month.Add(-time.Second)), ticket("open", nil), bson.D{{Key: "status", Value: "resolved"}})
	for _, tc := range []struct {
		params  map[string]any
		message string
		left    int64
	}{
		{map[string]any{}, "Would delete 2 records (dry run)", 6},
		{map[string]any{"status": "resolved", "older_than": "30 days", "dryRun": false}, "Deleted 2 records", 4},
		{map[string]any{"status": "closed", "dryRun": false}, "Deleted 1 records", 3},
		{map[string]any{"older_than": "1 week", "dryRun": false}, "Deleted 1 records", 2},
	} {
		run, _ := newRun(tc.params, connection)
		result, err := ticketCleanup{}.Execute(t.Context(), run)
		if err != nil || result["message"] != tc.message || left(t, db, "tickets") != tc.left {
			t.Errorf("%v: got %v, %v, %d left", tc.params, result, err, left(t, db, "tickets"))
		}
	}
}

func TestCleanupIsRefusedBeforeConnecting(t *testing.T) {
	nowhere := template.Connection{Kind: "mongodb", URI: "mongodb://nobody:hush@nowhere.invalid/app"}
	two := map[string]template.Connection{"main": nowhere, "archive": nowhere, "mail": {Kind: "smtp"}}
	for name, tc := range map[string]struct {
		tmpl        template.JobTemplate
		params      map[string]any
		connections map[string]template.Connection
		allowed     []string
		code, want  string
	}{
		"collection not allowed": {databaseCleanup{}, oldSessions(nil), two, []string{"tickets"}, "forbidden", `does not permit the template to touch the collection "sessions"`},
		"nothing allowed":        {databaseCleanup{}, oldSessions(nil), two, nil, "forbidden", "does not permit"},
		"tickets not allowed":    {ticketCleanup{}, map[string]any{}, two, []string{"sessions"}, "forbidden", `does not permit the template to touch the collection "tickets"`},
		"always true":            {databaseCleanup{}, oldSessions(map[string]any{"condition": map[string]any{}}), two, []string{"sessions"}, "validation", "condition: would match every document"},
		"no condition":           {databaseCleanup{}, map[string]any{"collection": "sessions"}, two, []string{"sessions"}, "validation", "condition: would match every document"},
		"bad age":                {ticketCleanup{}, map[string]any{"older_than": "soon"}, two, []string{"tickets"}, "validation", `older_than: must be "<n> <minutes`},
		"several connections":    {databaseCleanup{}, oldSessions(nil), two, []string{"sessions"}, "validation", "connection: is required, for there are several: give one of archive, main"},
		"unknown connection":     {databaseCleanup{}, oldSessions(map[string]any{"connection": "mail"}), two, []string{"sessions"}, "validation", "connection: must be one of \"archive\", \"main\""},
		"no connection":          {databaseCleanup{}, oldSessions(nil), nil, []string{"sessions"}, "validation", "connection: this executor permits no connection for it"},
		"no database":            {databaseCleanup{}, oldSessions(nil), map[string]template.Connection{"main": {Kind: "mongodb", URI: "mongodb://u:hush@h/"}}, []string{"sessions"}, "validation", `connection "main" names no database`},
		"bad URI":                {databaseCleanup{}, oldSessions(nil), map[string]template.Connection{"main": {Kind: "mongodb", URI: "mongodb://u:hush@h:x:y/db"}}, []string{"sessions"}, "connection", `connection "main": its URI is not a valid MongoDB URI`},
		"bad option":             {databaseCleanup{}, oldSessions(nil), map[string]template.Connection{"main": {Kind: "mongodb", URI: "mongodb://u:hush@h1,h2/db?directConnection=true"}}, []string{"sessions"}, "connection", `connection "main": `},
	} {
		t.Run(name, func(t *testing.T) {
			run, _ := templatetest.NewRun(tc.params)
			run.Allowed = map[string][]string{"collection": tc.allowed}
			for _, name := range slices.Sorted(maps.Keys(tc.connections)) {
				if tc.connections[name].Kind == template.KindMongoDB {
					templatetest.Connect(run, connectionParam, name, tc.connections[name])
				}
			}
			result, err := tc.tmpl.Execute(t.Context(), run)
			failure := template.AsError(err)
			if failure == nil || failure.Code != tc.code || failure.Retryable || !strings.Contains(failure.Message, tc.want) || result != nil {
				t.Errorf("got %v, %+v", result, failure)
			} else if strings.Contains(failure.Message, "hush") {
				t.Errorf("the message gives away the password: %s", failure.Message)
			}
		})
	}
}

func TestUnreachableServerIsRetryable(t *testing.T) {
	t.Parallel() // it waits out the search for a server
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	run, _ := newRun(oldSessions(nil), template.Connection{Kind: "mongodb", URI: "mongodb://nobody:hush@" + address + "/app"})
	result, err := databaseCleanup{}.Execute(t.Context(), run)
	failure := template.AsError(err)
	if failure == nil || failure.Code != template.CodeConnection || !failure.Retryable || !strings.Contains(failure.Message, `connection "main": no server answers: `) || !strings.Contains(failure.Message, "refused") || result != nil {
		t.Errorf("got %v, %+v", result, failure)
	} else if strings.Contains(failure.Message, "hush") {
		t.Errorf("the message gives away the password: %s", failure.Message)
	}
}

// interruptor calls a function at the first progress.
type interruptor struct {
	*templatetest.Recorder
	interrupt func()
}

func (i interruptor) Progress(done, total int64, message string) {
	i.Recorder.Progress(done, total, message)
	if len(i.Steps()) == 1 {
		i.interrupt()
	}
}

func TestInterruptedCleanupTellsWhatWasDone(t *testing.T) {
	for name, tc := range map[string]struct {
		code      string
		retryable bool
	}{
		"cancelled": {template.CodeCancelled, false},
		"cut off":   {template.CodeConnection, true},
	} {
		t.Run(name, func(t *testing.T) {
			db, connection := newDatabase(t)
			insertSessions(t, db, 1_500, 0)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			interrupt := cancel
			if tc.code == template.CodeConnection {
				through, uri := newRelay(t)
				connection.URI, interrupt = uri, through.cut
			}
			run, recorder := newRun(oldSessions(nil), connection)
			run.Report = interruptor{recorder, interrupt}
			result, err := databaseCleanup{}.Execute(ctx, run)
			failure := template.AsError(err)
			if failure == nil || failure.Code != tc.code || failure.Retryable != tc.retryable {
				t.Errorf("got %+v", failure)
			}
			if want := (template.Result{"message": "Deleted 1000 of 1500 records, then failed", "records_processed": int64(1000), "records_deleted": int64(1000), "errors": int64(1)}); !reflect.DeepEqual(result, want) {
				t.Errorf("got %v", result)
			}
			if n := left(t, db, "sessions"); n != 500 {
				t.Errorf("%d documents are left", n)
			}
			run, _ = newRun(oldSessions(nil), template.Connection{Kind: "mongodb", URI: server.uri, Database: db.Name()})
			if result, err := (databaseCleanup{}).Execute(t.Context(), run); err != nil || result["records_deleted"] != int64(500) {
				t.Errorf("the next attempt: %v, %v", result, err)
			}
		})
	}
}

func TestEveryCommandHasAServerTimeLimit(t *testing.T) {
	db, connection := newDatabase(t)
	insertSessions(t, db, 2, 1)
	through, uri := newRelay(t)
	connection.URI = uri
	run, _ := newRun(oldSessions(nil), connection)
	if _, err := (databaseCleanup{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	through.mu.Lock()
	defer through.mu.Unlock()
	var names []string
	for _, command := range through.commands {
		elements, err := command.Elements()
		if err != nil {
			t.Fatal(err)
		}
		name := elements[0].Key()
		if !slices.Contains([]string{"ping", "aggregate", "count", "find", "delete"}, name) {
			continue // monitoring and farewell
		}
		names = append(names, name)
		if limit, ok := command.Lookup("maxTimeMS").AsInt64OK(); !ok || limit <= 0 || limit > commandTime.Milliseconds() {
			t.Errorf("%s has the time limit %d", name, limit)
		}
	}
	if want := []string{"ping", "aggregate", "aggregate", "count", "find", "delete"}; !slices.Equal(names, want) {
		t.Errorf("commands: %v, want %v", names, want)
	}
}

func TestFailuresAreClassified(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithTimeout(context.Background(), 0)
	defer cancelLate()
	db := &database{connection: template.Connection{Name: "main", Kind: template.KindMongoDB, URI: "mongodb://u:hush@h/"}}
	for name, tc := range map[string]struct {
		ctx       context.Context
		err       error
		code      string
		retryable bool
		want      string
	}{
		"cancelled":         {ended, errors.New("x"), "cancelled", false, "the run was cancelled: could not delete a batch"},
		"run's time over":   {late, errors.New("x"), "timeout", true, "the run's time is over: could not delete a batch"},
		"not authorised":    {t.Context(), mongo.CommandError{Code: 13, Name: "Unauthorized", Message: "not authorized"}, "forbidden", false, `not authorized (connection "main" needs the permission)`},
		"server time limit": {t.Context(), mongo.CommandError{Code: 50, Name: "MaxTimeMSExpired", Message: "operation exceeded time limit"}, "timeout", true, "operation exceeded time limit (an index"},
		"our time limit":    {t.Context(), fmt.Errorf("read: %w", context.DeadlineExceeded), "timeout", true, "(an index that fits the condition helps)"},
		"network":           {t.Context(), mongo.CommandError{Message: "broken pipe", Labels: []string{"NetworkError"}}, "connection", true, "broken pipe"},
		"server error":      {t.Context(), mongo.CommandError{Code: 2, Name: "BadValue", Message: "unknown operator"}, "database", false, "could not delete a batch: (BadValue) unknown operator"},
		"failover":          {t.Context(), mongo.CommandError{Code: 10107, Name: "NotWritablePrimary", Message: "not primary", Labels: []string{"RetryableWriteError"}}, "database", true, "not primary"},
		"other":             {t.Context(), errors.New("cannot log in as u with hush at mongodb://u:hush@h/"), "connection", true, "cannot log in as u with *** at ***"},
	} {
		got := db.failure(tc.ctx, "delete a batch", tc.err)
		if got.Code != tc.code || got.Retryable != tc.retryable || !strings.Contains(got.Message, tc.want) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
