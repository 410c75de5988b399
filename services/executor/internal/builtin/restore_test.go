package builtin

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// restored restores and returns the result, which must be a success.
func restored(t *testing.T, params map[string]any, database, bucket template.Connection) template.Result {
	t.Helper()
	run, recorder := newBackupRun(t, restore{}, params, database, bucket)
	result, err := restore{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatalf("%v\n%q", err, recorder.Lines())
	}
	return result
}

// really is the parameters of a restore that does it.
func really(params map[string]any) map[string]any {
	all := map[string]any{"dryRun": false}
	maps.Copy(all, params)
	return all
}

// same fails the test unless two collections have the same documents, to the
// byte, and the same indexes.
func same(t *testing.T, wantDocuments map[string]string, wantIndexes []bson.D, db *mongo.Database, collection string) {
	t.Helper()
	documents, indexes := snapshot(t, db, collection)
	if !reflect.DeepEqual(documents, wantDocuments) {
		t.Errorf("%s has %d documents that differ from the %d of before", collection, len(documents), len(wantDocuments))
	}
	if !reflect.DeepEqual(indexes, wantIndexes) {
		t.Errorf("%s has the indexes %v, want %v", collection, indexes, wantIndexes)
	}
}

func TestRestorePassesTheSuite(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 3)
	_, folder := newFolder(t)
	backedUp(t, nil, database, folder)
	templatetest.Run(t, restore{}, templatetest.Options{
		Valid: []map[string]any{
			{},
			{"object": firstArchive, "collections": []any{"users"}, "rename": map[string]any{"users": "users_restored"}, "mode": "replace", "dryRun": false},
			{"prefix": "backups/job_test", "suffix": "_restored", "max_documents": 10.0, "connection": "main", "source": "archive"},
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"object": "../x.tar.gz"}, Field: "object"},
			{Params: map[string]any{"object": ""}, Field: "object"},
			{Params: map[string]any{"prefix": "/backups"}, Field: "prefix"},
			{Params: map[string]any{"collections": []any{"system.users"}}, Field: "collections"},
			{Params: map[string]any{"rename": map[string]any{}}, Field: "rename"},
			{Params: map[string]any{"rename": map[string]any{"users": "system.users"}}, Field: "rename.users"},
			{Params: map[string]any{"rename": map[string]any{"users": 1.0}}, Field: "rename.users"},
			{Params: map[string]any{"rename": map[string]any{"users": "x"}, "collections": []any{"tickets"}}, Field: "rename.users"},
			{Params: map[string]any{"rename": map[string]any{"users": "x"}, "suffix": "_x"}, Field: "suffix"},
			{Params: map[string]any{"suffix": "$"}, Field: "suffix"},
			{Params: map[string]any{"mode": "drop"}, Field: "mode"},
			{Params: map[string]any{"max_documents": 0.0}, Field: "max_documents"},
			{Params: map[string]any{"dryRun": "no"}, Field: "dryRun"},
		},
		Succeed:         []map[string]any{{}, {"dryRun": false}, {"dryRun": false, "mode": "overwrite"}, {"dryRun": false, "mode": "replace"}},
		Settings:        []map[string]any{{"max_archive_mb": 1.0}},
		InvalidSettings: []templatetest.Invalid{{Params: map[string]any{"max_archive_mb": 0.5}, Field: "max_archive_mb"}},
		Prepare:         func(run *template.Run) { connectBackup(run, database, folder) },
	})
}

func TestWhatWasDeletedComesBackEqual(t *testing.T) {
	// The stand-in looks through everything for each document that is overwritten.
	for mode, n := range map[string]int{modeKeep: 2_345, modeOverwrite: 100, modeReplace: 2_345} {
		t.Run(mode, func(t *testing.T) {
			all := int64(n) + 3
			db, database := newDatabase(t)
			shop(t, db, n)
			_, archives := newS3(t)
			users, usersIndexes := snapshot(t, db, "users")
			tickets, ticketsIndexes := snapshot(t, db, "tickets")
			if len(users) != n || len(usersIndexes) != 3 || len(tickets) != 3 {
				t.Fatalf("the shop has %d users, %d indexes, %d tickets", len(users), len(usersIndexes), len(tickets))
			}
			backup := backedUp(t, nil, database, archives)
			if err := db.Drop(t.Context()); err != nil {
				t.Fatal(err)
			}

			run, recorder := newBackupRun(t, restore{}, really(map[string]any{"mode": mode}), database, archives)
			result, err := restore{}.Execute(t.Context(), run)
			if err != nil {
				t.Fatal(err)
			}
			want := template.Result{
				"message": fmt.Sprintf("Restored 2 collections from %s: %d documents inserted, 0 replaced, 0 kept as they were", firstArchive, all),
				"object":  firstArchive, "sha256": backup["sha256"], "records_processed": all,
				"records_inserted": all, "records_replaced": int64(0), "records_kept": int64(0),
				"collections": []any{
					map[string]any{"from": "tickets", "to": "tickets", "documents": int64(3), "present": int64(0), "indexes": int64(0)},
					map[string]any{"from": "users", "to": "users", "documents": int64(n), "present": int64(0), "indexes": int64(2)},
				},
			}
			if !reflect.DeepEqual(result, want) {
				t.Errorf("result %v\nwant   %v", result, want)
			}
			same(t, users, usersIndexes, db, "users")
			same(t, tickets, ticketsIndexes, db, "tickets")
			steps := recorder.Steps()
			if last := steps[len(steps)-1]; last != (templatetest.Progress{Done: all, Total: all, Message: "Restoring users"}) || n == 2_345 && len(steps) != 6 {
				t.Errorf("progress %v", steps)
			}

			// Doing it again changes nothing.
			result = restored(t, really(map[string]any{"mode": mode}), database, archives)
			counts := map[string]any{modeKeep: result["records_kept"], modeOverwrite: result["records_replaced"], modeReplace: result["records_inserted"]}
			if counts[mode] != all || result["records_processed"] != all {
				t.Errorf("the second time: %v", result)
			}
			same(t, users, usersIndexes, db, "users")
			same(t, tickets, ticketsIndexes, db, "tickets")
			if names, err := db.ListCollectionNames(t.Context(), bson.D{}); err != nil || len(names) != 2 {
				t.Errorf("the database has %q, %v", names, err)
			}
		})
	}
}

// Where there are documents already, each mode does what its description says.
func TestModes(t *testing.T) {
	for mode, want := range map[string]struct {
		deleted, changed, added bool // as in the archive, for the document of that kind
		counts                  [3]int64
	}{
		modeKeep:      {deleted: true, changed: false, added: true, counts: [3]int64{1, 0, 3}},
		modeOverwrite: {deleted: true, changed: true, added: true, counts: [3]int64{1, 3, 0}},
		modeReplace:   {deleted: true, changed: true, added: false, counts: [3]int64{4, 0, 0}},
	} {
		t.Run(mode, func(t *testing.T) {
			db, database := newDatabase(t)
			shop(t, db, 4)
			_, archives := newFolder(t)
			before, indexes := snapshot(t, db, "users")
			backedUp(t, nil, database, archives)

			users := db.Collection("users")
			if _, err := users.DeleteOne(t.Context(), bson.D{{Key: "_id", Value: 1}}); err != nil {
				t.Fatal(err)
			}
			if _, err := users.ReplaceOne(t.Context(), bson.D{{Key: "_id", Value: 2}}, bson.D{{Key: "email", Value: "new"}}); err != nil {
				t.Fatal(err)
			}
			insert(t, db, "users", bson.D{{Key: "_id", Value: "added since"}})
			if err := users.Indexes().DropOne(t.Context(), "by id"); err != nil {
				t.Fatal(err)
			}

			result := restored(t, really(map[string]any{"mode": mode, "collections": []any{"users"}}), database, archives)
			if got := [3]int64{result["records_inserted"].(int64), result["records_replaced"].(int64), result["records_kept"].(int64)}; got != want.counts {
				t.Errorf("inserted, replaced, kept %v, want %v", got, want.counts)
			}
			after, indexesAfter := snapshot(t, db, "users")
			one, two, added := raw(t, bson.D{{Key: "_id", Value: int32(1)}}).Lookup("_id").String(), raw(t, bson.D{{Key: "_id", Value: int32(2)}}).Lookup("_id").String(), `"added since"`
			if _, ok := after[added]; ok != want.added {
				t.Errorf("the document added since is there: %v", ok)
			}
			if got := after[one] == before[one]; got != want.deleted {
				t.Errorf("the deleted document is back: %v", got)
			}
			if got := after[two] == before[two]; got != want.changed {
				t.Errorf("the changed document is as before: %v", got)
			}
			if !reflect.DeepEqual(indexesAfter, indexes) {
				t.Errorf("indexes %v, want %v", indexesAfter, indexes)
			}
		})
	}
}

func TestRestoreIntoOtherNames(t *testing.T) {
	for name, tc := range map[string]struct {
		params map[string]any
		want   map[string]string // by new name
	}{
		"suffix":       {map[string]any{"suffix": "_restored"}, map[string]string{"users_restored": "users", "tickets_restored": "tickets"}},
		"rename":       {map[string]any{"rename": map[string]any{"users": "users_restored"}, "collections": []any{"users"}}, map[string]string{"users_restored": "users"}},
		"swap":         {map[string]any{"rename": map[string]any{"users": "tickets", "tickets": "users"}, "mode": "replace"}, map[string]string{"tickets": "users", "users": "tickets"}},
		"one stays":    {map[string]any{"rename": map[string]any{"users": "users_restored"}}, map[string]string{"users_restored": "users", "tickets": "tickets"}},
		"into another": {map[string]any{"rename": map[string]any{"users": "tickets_restored"}, "collections": []any{"users"}}, map[string]string{"tickets_restored": "users"}},
	} {
		t.Run(name, func(t *testing.T) {
			db, database := newDatabase(t)
			shop(t, db, 5)
			_, archives := newFolder(t)
			backedUp(t, nil, database, archives)
			type state struct {
				documents map[string]string
				indexes   []bson.D
			}
			before := map[string]state{}
			for _, collection := range []string{"users", "tickets"} {
				documents, indexes := snapshot(t, db, collection)
				before[collection] = state{documents, indexes}
			}
			restored(t, really(tc.params), database, archives)
			for _, collection := range []string{"users", "tickets"} {
				if _, replaced := tc.want[collection]; !replaced {
					same(t, before[collection].documents, before[collection].indexes, db, collection)
				}
			}
			for to, from := range tc.want {
				same(t, before[from].documents, before[from].indexes, db, to)
			}
		})
	}
}

func TestRestoreIntoAnotherDatabase(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 5)
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	users, indexes := snapshot(t, db, "users")
	other, otherDatabase := newDatabase(t)
	restored(t, really(nil), otherDatabase, archives)
	same(t, users, indexes, other, "users")
}

func TestRestoreDryRunTouchesNothing(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 4)
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	if _, err := db.Collection("users").DeleteMany(t.Context(), bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: bson.A{1, 2}}}}}); err != nil {
		t.Fatal(err)
	}
	for name, params := range map[string]map[string]any{
		"default":  {"mode": "replace", "max_documents": 6.0},
		"explicit": {"mode": "replace", "max_documents": 6.0, "dryRun": true},
	} {
		t.Run(name, func(t *testing.T) {
			run, recorder := newBackupRun(t, restore{}, params, database, archives)
			if name == "default" {
				delete(run.Params, "dryRun") // what is missing is no permission
			}
			result, err := restore{}.Execute(t.Context(), run)
			if err != nil {
				t.Fatal(err)
			}
			if result["message"] != "Would restore 7 documents of 2 collections from "+firstArchive+" (dry run)" || result["records_processed"] != int64(7) || result["records_inserted"] != int64(0) {
				t.Errorf("result %v", result)
			}
			for _, want := range []string{
				"INFO Would restore 4 documents of users into users (replace), which has about 2",
				"WARN A real run would fail: there are 7 documents to restore and max_documents is 6",
			} {
				if !slices.Contains(recorder.Lines(), want) {
					t.Errorf("log %q, want %q", recorder.Lines(), want)
				}
			}
			if n := left(t, db, "users"); n != 2 {
				t.Errorf("%d users are left", n)
			}
		})
	}
}

func TestRestoreRefusesBeforeItTouchesAnything(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 4)
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	bucket := mustOpen(t, archives)
	good := read(t, bucket, firstArchive)
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	write(t, bucket, "damaged/cut.tar.gz", good[:len(good)*2/3])
	write(t, bucket, "damaged/flipped.tar.gz", flipped)
	write(t, bucket, "damaged/empty.tar.gz", nil)
	write(t, bucket, "others/job_a-20250101T000000Z.tar.gz", good)
	write(t, bucket, "others/job_b-20250101T000000Z.tar.gz", good)
	write(t, bucket, "none/empty.tar.gz", newArchive(t))
	write(t, bucket, "later/job_a-20251019T020001Z.tar.gz", good)
	users, indexes := snapshot(t, db, "users")

	for name, tc := range map[string]struct {
		params map[string]any
		change func(*template.Run)
		code   string
		want   string
	}{
		"cut":                {params: map[string]any{"object": "damaged/cut.tar.gz"}, code: codeDamaged, want: "damaged/cut.tar.gz: the archive is damaged: "},
		"flipped":            {params: map[string]any{"object": "damaged/flipped.tar.gz"}, code: codeDamaged, want: "nothing was touched"},
		"empty":              {params: map[string]any{"object": "damaged/empty.tar.gz"}, code: codeDamaged, want: "it is cut off"},
		"missing":            {params: map[string]any{"object": "backups/no.tar.gz"}, code: codeNotFound, want: "backups/no.tar.gz"},
		"no latest":          {params: map[string]any{"prefix": "damaged/"}, code: template.CodeValidation, want: `prefix: no archive begins with "damaged/" and was made until 2025-10-19T02:00:00Z`},
		"only later ones":    {params: map[string]any{"prefix": "later/"}, code: template.CodeValidation, want: "prefix: no archive"},
		"several jobs":       {params: map[string]any{"prefix": "others/"}, code: template.CodeValidation, want: "are of several jobs: give one of others/job_a-, others/job_b-"},
		"no collections":     {params: map[string]any{"object": "none/empty.tar.gz"}, code: template.CodeValidation, want: "the archive has no collections"},
		"not in the archive": {params: map[string]any{"collections": []any{"logs"}}, code: template.CodeValidation, want: `the archive has no collection "logs": it has tickets, users`},
		"rename of nothing":  {params: map[string]any{"rename": map[string]any{"logs": "users"}}, code: template.CodeValidation, want: `the archive has no collection "logs"`},
		"two become one":     {params: map[string]any{"rename": map[string]any{"users": "tickets"}}, code: template.CodeValidation, want: `"tickets" and "users" would both become "tickets"`},
		"new name forbidden": {params: map[string]any{"rename": map[string]any{"users": "secrets"}}, code: template.CodeForbidden, want: `"secrets"`},
		"suffix forbidden":   {params: map[string]any{"suffix": "_x"}, code: template.CodeForbidden, want: `"tickets_x"`},
		"old name forbidden": {change: func(r *template.Run) { r.Allowed[collectionParam] = []string{"tickets"} }, code: template.CodeForbidden, want: `"users"`},
		"too long a name":    {params: map[string]any{"suffix": strings.Repeat("x", 50)}, change: func(r *template.Run) { r.Params["suffix"] = strings.Repeat("x", 196) }, code: template.CodeValidation, want: "must have 1 to 200 bytes"},
		"too many documents": {params: map[string]any{"max_documents": 6.0}, code: template.CodeLimit, want: "have 7 documents, more than max_documents (6): nothing was touched"},
		"no bucket":          {change: func(r *template.Run) { r.Allowed[sourceParam] = nil }, code: template.CodeValidation, want: "source: "},
		"no database":        {change: func(r *template.Run) { r.Allowed[connectionParam] = nil }, code: template.CodeValidation, want: "connection: "},
		"no such bucket": {change: func(r *template.Run) {
			r.Connections["archive"] = template.Connection{Kind: "bucket", URI: "file:///nonexistent/folder"}
		}, code: codeNotFound, want: "/nonexistent"},
		"too large an archive": {change: func(r *template.Run) { r.Settings["max_archive_mb"] = 0.0 }, code: template.CodeLimit, want: "raise max_archive_mb"},
	} {
		t.Run(name, func(t *testing.T) {
			run, _ := newBackupRun(t, restore{}, really(map[string]any{"mode": "replace"}), database, archives)
			maps.Copy(run.Params, tc.params)
			if tc.change != nil {
				tc.change(run)
			}
			result, err := restore{}.Execute(t.Context(), run)
			if message := failed(t, err, tc.code, false); !strings.Contains(message, tc.want) {
				t.Errorf("got %q, want %q", message, tc.want)
			}
			if result != nil && result["message"] != "Restored nothing" {
				t.Errorf("result %v", result)
			}
			same(t, users, indexes, db, "users")
		})
	}
}

func TestLatestArchiveIsTheLastBeforeTheRun(t *testing.T) {
	names := []string{"b/j-20251019T020000Z.tar.gz", "b/j-20251019T020000.001Z.tar.gz", "b/j-20251018T020000Z.tar.gz", "b/j-20251020T020000Z.tar.gz", "b/readme.txt"}
	for want, at := range map[string]time.Time{
		names[0]: origin, names[1]: origin.Add(time.Second), names[2]: origin.Add(-1), names[3]: origin.AddDate(1, 0, 0),
	} {
		if got, err := latestBackup(names, "b/", at); got != want || err != nil {
			t.Errorf("at %v: %q, %v, want %q", at, got, err, want)
		}
	}
}

// A collection is replaced only when the new one is complete: here the archive's
// documents break a unique index, and later the server goes away.
func TestReplacingThatFailsLeavesTheOldCollection(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2*batchSize)
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	users, indexes := snapshot(t, db, "users")

	relay, uri := newRelay(t)
	cut := database
	cut.URI = uri
	run, _ := newBackupRun(t, restore{}, really(map[string]any{"mode": "replace", "collections": []any{"users"}}), cut, archives)
	run.Report = onProgress{run.Report, func() {}}
	run.Report = onMessage{run.Report, "Restoring users", relay.cut}
	result, err := restore{}.Execute(t.Context(), run)
	failed(t, err, template.CodeConnection, true)
	if result["message"] != "Restored 1000 of 2000 documents from "+firstArchive+", then failed" || result["records_processed"] != int64(1000) {
		t.Errorf("result %v", result)
	}
	same(t, users, indexes, db, "users")

	// The next attempt clears away what the first one left, and succeeds.
	run, _ = newBackupRun(t, restore{}, really(map[string]any{"mode": "replace", "collections": []any{"users"}}), database, archives)
	if _, err := (restore{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	same(t, users, indexes, db, "users")
	if names, err := db.ListCollectionNames(t.Context(), bson.D{}); err != nil || len(names) != 2 {
		t.Errorf("the database has %q, %v", names, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	run.Report = onMessage{run.Report, "Restoring users", cancel}
	_, err = restore{}.Execute(ctx, run)
	failed(t, err, template.CodeCancelled, false)
	same(t, users, indexes, db, "users")
	if names, err := db.ListCollectionNames(t.Context(), bson.D{}); err != nil || len(names) != 2 {
		t.Errorf("after cancelling, the database has %q, %v", names, err)
	}
}

// onMessage does something when a run's progress has that message.
type onMessage struct {
	template.Reporter
	message string
	do      func()
}

func (p onMessage) Progress(done, total int64, message string) {
	p.Reporter.Progress(done, total, message)
	if message == p.message {
		p.do()
	}
}

func TestOtherUniqueIndexesAreNotMistakenForTheId(t *testing.T) {
	for _, mode := range []string{modeKeep, modeOverwrite} {
		t.Run(mode, func(t *testing.T) {
			db, database := newDatabase(t)
			shop(t, db, 4)
			_, archives := newFolder(t)
			backedUp(t, map[string]any{"collections": []any{"users"}}, database, archives)
			if err := db.Collection("users").Drop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Collection("users").Indexes().CreateOne(t.Context(), mongo.IndexModel{Keys: bson.D{{Key: "email", Value: 1}}, Options: options.Index().SetUnique(true)}); err != nil {
				t.Fatal(err)
			}
			insert(t, db, "users", bson.D{{Key: "_id", Value: 1}, {Key: "email", Value: "u1@example.com"}}, bson.D{{Key: "_id", Value: "other"}, {Key: "email", Value: "u2@example.com"}})
			run, _ := newBackupRun(t, restore{}, really(map[string]any{"mode": mode}), database, archives)
			result, err := restore{}.Execute(t.Context(), run)
			message := failed(t, err, template.CodeDatabase, false)
			if mode == modeKeep && !strings.Contains(message, "1 documents have values in common with others although an index of users is unique") {
				t.Errorf("got %q", message)
			}
			if message, _ := result["message"].(string); !strings.Contains(message, ", then failed") {
				t.Errorf("result %v", result)
			}
		})
	}
}

func TestBucketThatFailsWhileRestoring(t *testing.T) {
	s3, archives := newS3(t)
	_, database := newDatabase(t)
	s3.refuse = func(*http.Request) (int, string) { return http.StatusForbidden, "AccessDenied" }
	for _, object := range []string{latest, firstArchive} {
		run, _ := newBackupRun(t, restore{}, map[string]any{"object": object}, database, archives)
		_, err := restore{}.Execute(t.Context(), run)
		if message := failed(t, err, template.CodeForbidden, false); !strings.Contains(message, "AccessDenied") || strings.Contains(message, s3Secret) {
			t.Errorf("%s: %q", object, message)
		}
	}
}

func TestRestoreLeavesNoTemporaryFiles(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 4)
	_, archives := newFolder(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	backedUp(t, nil, database, archives)
	restored(t, really(nil), database, archives)
	write(t, mustOpen(t, archives), "x.tar.gz", []byte("rubbish"))
	run, _ := newBackupRun(t, restore{}, map[string]any{"object": "x.tar.gz"}, database, archives)
	_, err := restore{}.Execute(t.Context(), run)
	failed(t, err, codeDamaged, false)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	t.Setenv("TMPDIR", dir+"/missing")
	_, err = restore{}.Execute(t.Context(), run)
	failed(t, err, codeTemporary, true)
}

func TestIndexesAreRebuiltWithoutWhatTheServerSays(t *testing.T) {
	indexes := []bson.D{
		{{Key: "v", Value: 2}, {Key: "key", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "name", Value: "_id_"}, {Key: "ns", Value: "a.b"}},
		{{Key: "v", Value: 2}, {Key: "key", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "name", Value: "mine"}, {Key: "clustered", Value: true}},
		{
			{Key: "v", Value: 2},
			{Key: "key", Value: bson.D{{Key: "b", Value: int32(1)}, {Key: "a", Value: -1.0}}},
			{Key: "name", Value: "x"},
			{Key: "ns", Value: "a.b"},
			{Key: "background", Value: true},
			{Key: "unique", Value: true},
			{Key: "expireAfterSeconds", Value: int32(60)},
			{Key: "partialFilterExpression", Value: bson.D{{Key: "v", Value: bson.D{{Key: "$gt", Value: 1}}}}},
		},
	}
	want := []bson.D{{
		{Key: "key", Value: bson.D{{Key: "b", Value: int32(1)}, {Key: "a", Value: -1.0}}},
		{Key: "name", Value: "x"},
		{Key: "unique", Value: true},
		{Key: "expireAfterSeconds", Value: int32(60)},
		{Key: "partialFilterExpression", Value: bson.D{{Key: "v", Value: bson.D{{Key: "$gt", Value: 1}}}}},
	}}
	before := fmt.Sprint(indexes)
	if got := secondary(indexes); !reflect.DeepEqual(got, want) || fmt.Sprint(indexes) != before {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestIdThatIsADocumentIsNoOperator(t *testing.T) {
	id := bson.D{{Key: "$in", Value: bson.A{1, 2}}}
	filter := raw(t, byID(raw(t, bson.D{{Key: "_id", Value: id}})))
	if want := raw(t, bson.D{{Key: "_id", Value: bson.D{{Key: "$eq", Value: id}}}}); !bytes.Equal(filter, want) {
		t.Errorf("got %v", filter)
	}
	if filter := raw(t, byID(raw(t, bson.D{{Key: "_id", Value: 7}}))); !bytes.Equal(filter, raw(t, bson.D{{Key: "_id", Value: 7}})) {
		t.Errorf("got %v", filter)
	}
}

func TestOptionsOfCollectionsComeBack(t *testing.T) {
	db, database := newDatabase(t)
	if err := db.CreateCollection(t.Context(), "users", options.CreateCollection().SetCapped(true).SetSizeInBytes(4096).SetMaxDocuments(100)); err != nil {
		t.Fatal(err)
	}
	insert(t, db, "users", bson.D{{Key: "_id", Value: 1}})
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	for _, mode := range []string{modeKeep, modeReplace} {
		restored(t, really(map[string]any{"mode": mode, "suffix": "_restored"}), database, archives)
		restored(t, really(map[string]any{"mode": mode, "suffix": "_restored"}), database, archives)
		specifications, err := db.ListCollectionSpecifications(t.Context(), bson.D{{Key: "name", Value: bson.D{{Key: "$in", Value: bson.A{"users", "users_restored"}}}}})
		if err != nil || len(specifications) != 2 {
			t.Fatalf("%v, %v", specifications, err)
		}
		if first, second := specifications[0].Options, specifications[1].Options; !bytes.Equal(first, second) || !first.Lookup("capped").Boolean() {
			t.Errorf("%s: the options are %v and %v", mode, first, second)
		}
	}
}

func TestRestoreWarnsOfIndexesThatDelete(t *testing.T) {
	var out bytes.Buffer
	archive := newBackupWriter(&out, backupManifest{Format: backupFormat, Version: backupVersion, Database: "shop", ScheduledFor: origin})
	data, err := spool(t.Context(), &rawSource{numbered(t, 1)}, 1<<20, ignoreProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer data.discard()
	metadata := collectionMetadata{CollectionName: "users", Type: "collection", Indexes: []bson.D{
		{{Key: "key", Value: bson.D{{Key: "seen", Value: int32(1)}}}, {Key: "name", Value: "seen_1"}, {Key: "expireAfterSeconds", Value: int32(3600)}},
	}}
	if err := archive.add(metadata, data); err != nil {
		t.Fatal(err)
	}
	if err := archive.finish(); err != nil {
		t.Fatal(err)
	}
	_, database := newDatabase(t)
	_, archives := newFolder(t)
	write(t, mustOpen(t, archives), firstArchive, out.Bytes())
	run, recorder := newBackupRun(t, restore{}, nil, database, archives)
	if _, err := (restore{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	want := "WARN The index seen_1 of users makes the server delete documents 3600 seconds after the time in them: old ones go soon after they are restored"
	if !slices.Contains(recorder.Lines(), want) {
		t.Errorf("log %q", recorder.Lines())
	}
}
