package builtin

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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

// newBackupRun returns a run of backup or restore between a database and a
// bucket, with every parameter's default.
func newBackupRun(t *testing.T, tmpl template.JobTemplate, params map[string]any, database, bucket template.Connection) (*template.Run, *templatetest.Recorder) {
	t.Helper()
	compiled, err := template.Compile(tmpl)
	if err != nil {
		t.Fatal(err)
	}
	run, recorder := templatetest.NewRun(compiled.Schema.WithDefaults(params))
	run.ScheduledFor = origin
	if run.Settings, _, err = compiled.Configure(nil); err != nil {
		t.Fatal(err)
	}
	connectBackup(run, database, bucket)
	return run, recorder
}

func connectBackup(run *template.Run, database, bucket template.Connection) {
	templatetest.Connect(run, connectionParam, "main", database)
	templatetest.Connect(run, destinationParam, "archive", bucket)
	templatetest.Connect(run, sourceParam, "archive", bucket)
	run.Allowed[collectionParam] = []string{"users", "tickets", "users_restored", "tickets_restored"}
}

// bearable is a document with every BSON type that the stand-in bears.
func bearable(id any) bson.D {
	return bson.D{
		{Key: "_id", Value: id},
		{Key: "double", Value: 0.1},
		{Key: "whole", Value: 3.0},
		{Key: "text", Value: "Zürich 🧹 =1+1"},
		{Key: "document", Value: bson.D{{Key: "b", Value: bson.D{{Key: "c", Value: nil}}}, {Key: "a", Value: int32(1)}}},
		{Key: "array", Value: bson.A{int32(1), "two", bson.D{{Key: "three", Value: int64(3)}}}},
		{Key: "binary", Value: bson.Binary{Subtype: bson.TypeBinaryUUID, Data: bytes.Repeat([]byte{7}, 16)}},
		{Key: "id", Value: bson.ObjectID{1, 2, 3}},
		{Key: "bool", Value: true},
		{Key: "date", Value: bson.NewDateTimeFromTime(origin)},
		{Key: "regex", Value: bson.Regex{Pattern: "^a/b$", Options: "i"}},
		{Key: "int", Value: int32(-1)},
		{Key: "timestamp", Value: bson.Timestamp{T: 1, I: 2}},
		{Key: "long", Value: int64(1) << 60},
	}
}

// shop fills a database with two collections and an index: users with as many
// documents as asked for, and three tickets.
func shop(t *testing.T, db *mongo.Database, users int) {
	t.Helper()
	documents := []any{bearable("every type")}
	for i := 1; i < users; i++ {
		documents = append(documents, bson.D{{Key: "_id", Value: int32(i)}, {Key: "email", Value: fmt.Sprintf("u%d@example.com", i)}})
	}
	insert(t, db, "users", documents...)
	insert(t, db, "tickets", bearable(bson.ObjectID{9}), bearable(bson.D{{Key: "year", Value: int32(2025)}, {Key: "no", Value: int32(1)}}), bearable(bson.NewDateTimeFromTime(origin)))
	if _, err := db.Collection("users").Indexes().CreateMany(t.Context(), []mongo.IndexModel{
		{Keys: bson.D{{Key: "email", Value: int32(1)}, {Key: "date", Value: int32(-1)}}},
		{Keys: bson.D{{Key: "id", Value: int32(1)}}, Options: options.Index().SetName("by id")},
	}); err != nil {
		t.Fatal(err)
	}
}

// snapshot returns the documents by _id, and the indexes, of a collection.
func snapshot(t *testing.T, db *mongo.Database, collection string) (documents map[string]string, indexes []bson.D) {
	t.Helper()
	documents = map[string]string{}
	cursor, err := db.Collection(collection).Find(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	for cursor.Next(t.Context()) {
		id := cursor.Current.Lookup("_id")
		documents[id.String()] = string(cursor.Current)
	}
	if err := cursor.Err(); err != nil {
		t.Fatal(err)
	}
	if cursor, err = db.Collection(collection).Indexes().List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cursor.All(t.Context(), &indexes); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(indexes, func(a, b bson.D) int { return strings.Compare(fmt.Sprint(nameOf(a)), fmt.Sprint(nameOf(b))) })
	return documents, indexes
}

// backedUp backs up and returns the result, which must be a success.
func backedUp(t *testing.T, params map[string]any, database, bucket template.Connection) template.Result {
	t.Helper()
	run, recorder := newBackupRun(t, backup{}, params, database, bucket)
	result, err := backup{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatalf("%v\n%q", err, recorder.Lines())
	}
	return result
}

const firstArchive = "backups/job_test-20251019T020000Z.tar.gz"

func TestBackupPassesTheSuite(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 3)
	_, folder := newFolder(t)
	templatetest.Run(t, backup{}, templatetest.Options{
		Valid: []map[string]any{
			{},
			{"collections": []any{"users"}, "folder": "a/b/", "keep_last": 1.0, "keep_days": 1.0, "dryRun": true, "connection": "main", "destination": "archive"},
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"collections": []any{}}, Field: "collections"},
			{Params: map[string]any{"collections": []any{"users", "users"}}, Field: "collections"},
			{Params: map[string]any{"collections": []any{"system.users"}}, Field: "collections"},
			{Params: map[string]any{"collections": []any{"a$b"}}, Field: "collections"},
			{Params: map[string]any{"collections": []any{".a"}}, Field: "collections"},
			{Params: map[string]any{"collections": []any{strings.Repeat("ö", 101)}}, Field: "collections"},
			{Params: map[string]any{"folder": "../elsewhere"}, Field: "folder"},
			{Params: map[string]any{"folder": "/etc"}, Field: "folder"},
			{Params: map[string]any{"keep_last": 0.0}, Field: "keep_last"},
			{Params: map[string]any{"keep_days": 1.5}, Field: "keep_days"},
			{Params: map[string]any{"uri": "mongodb://x"}, Field: "uri"},
		},
		Succeed:         []map[string]any{{}, {"dryRun": true}, {"collections": []any{"users"}, "keep_last": 1.0}},
		Settings:        []map[string]any{{"max_collection_mb": 1.0}},
		InvalidSettings: []templatetest.Invalid{{Params: map[string]any{"max_collection_mb": 0.0}, Field: "max_collection_mb"}},
		Prepare:         func(run *template.Run) { connectBackup(run, database, folder) },
	})
}

func TestBackupWritesWhatItCounts(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2_500)
	for name, connect := range map[string]func() template.Connection{
		"folder": func() template.Connection { _, c := newFolder(t); return c },
		"S3":     func() template.Connection { _, c := newS3(t); return c },
	} {
		t.Run(name, func(t *testing.T) {
			archives := connect()
			run, recorder := newBackupRun(t, backup{}, map[string]any{"keep_last": 5.0}, database, archives)
			result, err := backup{}.Execute(t.Context(), run)
			if err != nil {
				t.Fatal(err)
			}
			content := read(t, mustOpen(t, archives), firstArchive)
			verified, err := verifyBackup(t.Context(), bytes.NewReader(content), ignoreProgress)
			if err != nil {
				t.Fatal(err)
			}
			m := verified.manifest
			if m.Database != db.Name() || m.JobID != "job_test" || m.ExecutionID != "exec_test" || !m.ScheduledFor.Equal(origin) || m.documents() != 2_503 {
				t.Errorf("manifest %+v", m)
			}
			want := template.Result{
				"message": "Backed up 2503 documents of 2 collections to " + firstArchive, "object": firstArchive, "verified": true,
				"bytes": int64(len(content)), "sha256": result["sha256"], "records_processed": int64(2503),
				"collections": []any{
					map[string]any{"name": "tickets", "documents": int64(3), "bytes": m.Collections[0].Data.Bytes},
					map[string]any{"name": "users", "documents": int64(2500), "bytes": m.Collections[1].Data.Bytes},
				},
				"skipped": []string{"tickets_restored", "users_restored"}, "removed": []string{},
			}
			if !reflect.DeepEqual(result, want) {
				t.Errorf("result %v\nwant   %v", result, want)
			}
			if want := []templatetest.Progress{
				{Done: 1003, Total: 2503, Message: "Reading users"},
				{Done: 2003, Total: 2503, Message: "Reading users"},
				{Done: 1000, Total: 2503, Message: "Verifying " + firstArchive},
				{Done: 2000, Total: 2503, Message: "Verifying " + firstArchive},
			}; !slices.Equal(recorder.Steps(), want) {
				t.Errorf("progress %v", recorder.Steps())
			}
			if want := fmt.Sprintf("WARN Left out: %q is permitted, but is not in the database %q", "users_restored", db.Name()); !slices.Contains(recorder.Lines(), want) {
				t.Errorf("log %q", recorder.Lines())
			}
		})
	}
}

func TestBackupDryRunWritesNothing(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 7)
	folder, archives := newFolder(t)
	bucket := mustOpen(t, archives)
	old := "backups/job_test-20251001T020000Z.tar.gz"
	write(t, bucket, old, []byte("old"))
	result := backedUp(t, map[string]any{"dryRun": true, "keep_days": 5.0, "collections": []any{"users"}}, database, archives)
	want := template.Result{
		"message": "Would back up about 7 documents of 1 collections to " + firstArchive + " and remove 1 older archives (dry run)",
		"object":  firstArchive, "verified": false, "records_processed": int64(7), "removed": []string{old}, "skipped": []string{},
	}
	if !reflect.DeepEqual(result, want) {
		t.Errorf("got %v", result)
	}
	if entries, err := os.ReadDir(filepath.Join(folder, "backups")); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
}

func TestRetryReplacesTheArchive(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2)
	_, archives := newFolder(t)
	backedUp(t, nil, database, archives)
	insert(t, db, "users", bson.D{{Key: "_id", Value: "another"}})
	if result := backedUp(t, nil, database, archives); result["records_processed"] != int64(6) {
		t.Errorf("got %v", result)
	}
	if names, err := listObjects(t.Context(), mustOpen(t, archives), ""); err != nil || !slices.Equal(names, []string{firstArchive}) {
		t.Errorf("the bucket has %q, %v", names, err)
	}
}

func TestBackupRefuses(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2)
	for name, tc := range map[string]struct {
		params map[string]any
		change func(*template.Run)
		code   string
		want   string
	}{
		"forbidden collection": {params: map[string]any{"collections": []any{"secrets"}}, code: template.CodeForbidden, want: `collections: this executor does not permit the template to touch the collection "secrets"`},
		"nothing permitted":    {change: func(r *template.Run) { r.Allowed[collectionParam] = nil }, code: template.CodeForbidden, want: "permits the template no collection"},
		"missing collection":   {params: map[string]any{"collections": []any{"users_restored"}}, code: template.CodeValidation, want: `collections: "users_restored" is not in the database`},
		"nothing there":        {change: func(r *template.Run) { r.Allowed[collectionParam] = []string{"none", "system.views"} }, code: template.CodeValidation, want: "there is nothing to back up"},
		"no database":          {change: func(r *template.Run) { r.Allowed[connectionParam] = nil }, code: template.CodeValidation, want: "connection: this executor permits no connection"},
		"no bucket":            {change: func(r *template.Run) { r.Allowed[destinationParam] = nil }, code: template.CodeValidation, want: "destination: this executor permits no connection"},
		"missing folder": {
			change: func(r *template.Run) {
				r.Connections["archive"] = template.Connection{Kind: template.KindBucket, URI: "file:///nonexistent/folder"}
			},
			code: codeNotFound, want: "/nonexistent/folder",
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder, archives := newFolder(t)
			run, _ := newBackupRun(t, backup{}, tc.params, database, archives)
			if tc.change != nil {
				tc.change(run)
			}
			_, err := backup{}.Execute(t.Context(), run)
			if message := failed(t, err, tc.code, false); !strings.Contains(message, tc.want) {
				t.Errorf("got %q", message)
			}
			if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
				t.Errorf("the bucket has %v, %v", entries, err)
			}
		})
	}
}

func TestBackupOfACollectionThatIsTooLargeLeavesNothing(t *testing.T) {
	db, database := newDatabase(t)
	large := strings.Repeat("x", 300<<10)
	for i := range 5 {
		insert(t, db, "users", bson.D{{Key: "_id", Value: i}, {Key: "text", Value: large}})
	}
	_, archives := newFolder(t)
	run, _ := newBackupRun(t, backup{}, map[string]any{"collections": []any{"users"}}, database, archives)
	run.Settings["max_collection_mb"] = 1.0
	_, err := backup{}.Execute(t.Context(), run)
	if message := failed(t, err, template.CodeLimit, false); !strings.Contains(message, "users is larger than the 1 MiB that this executor permits: raise max_collection_mb") {
		t.Errorf("got %q", message)
	}
	if names, err := listObjects(t.Context(), mustOpen(t, archives), ""); err != nil || len(names) > 0 {
		t.Errorf("the bucket has %q, %v", names, err)
	}
	run.Settings["max_collection_mb"] = 2.0
	if _, err := (backup{}).Execute(t.Context(), run); err != nil {
		t.Errorf("with more room: %v", err)
	}
}

func TestBackupThatCannotBeReadBackFailsAndGoes(t *testing.T) {
	for name, other := range map[string][]byte{"damaged": []byte("rubbish"), "another archive": newArchive(t, numbered(t, 2))} {
		t.Run(name, func(t *testing.T) {
			_, archives := newFolder(t)
			bucket := mustOpen(t, archives)
			write(t, bucket, firstArchive, other)
			run, _ := newBackupRun(t, backup{}, nil, template.Connection{}, archives)
			err := backup{}.verify(t.Context(), run, bucket, backupManifest{}, template.Result{"sha256": "other"})
			if message := failed(t, err, codeDamaged, true); !strings.HasPrefix(message, firstArchive+" was written, but reading it back failed: ") {
				t.Errorf("got %q", message)
			}
			if names, err := listObjects(t.Context(), bucket, ""); err != nil || len(names) > 0 {
				t.Errorf("the bucket has %q, %v", names, err)
			}
		})
	}
}

func TestBucketThatFailsWhileReadingBack(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2)
	s3, archives := newS3(t)
	refusing := false
	s3.refuse = func(r *http.Request) (int, string) {
		if refusing = refusing || r.Method == http.MethodPut; refusing && r.Method == http.MethodGet {
			return http.StatusForbidden, "AccessDenied"
		}
		return 0, ""
	}
	run, _ := newBackupRun(t, backup{}, nil, database, archives)
	_, err := backup{}.Execute(t.Context(), run)
	if message := failed(t, err, template.CodeForbidden, false); !strings.Contains(message, "AccessDenied: The answer of the service") {
		t.Errorf("got %q", message)
	}
	if _, there := s3.get(firstArchive); !there {
		t.Error("an archive that nobody could look at was removed")
	}
}

func TestOnlyArchivesThatNoRuleKeepsExpire(t *testing.T) {
	const prefix = "backups/job_a-"
	at := func(days int) string {
		return prefix + origin.AddDate(0, 0, -days).Format(backupTimeWhole) + backupEnding
	}
	all := []string{
		at(3), at(1), at(10), at(2), at(0), at(-1), // the one just written, and a later one
		"backups/job_a-note.txt", "backups/job_a-notatime.tar.gz", "backups/job_b-20200101T000000Z.tar.gz",
		"backups/job_a-x-20200101T000000Z.tar.gz", "backups/job_a-old/20200101T000000Z.tar.gz",
	}
	for name, tc := range map[string]struct {
		last, days int64
		want       []string
	}{
		"no rule":               {0, 0, []string{}},
		"the last one":          {1, 0, []string{at(10), at(3), at(2), at(1)}},
		"the last three":        {3, 0, []string{at(10), at(3)}},
		"more than there are":   {9, 0, []string{}},
		"a day":                 {0, 1, []string{at(10), at(3), at(2)}},
		"two days":              {0, 2, []string{at(10), at(3)}},
		"count keeps":           {4, 1, []string{at(10)}},
		"age keeps":             {1, 5, []string{at(10)}},
		"both keep all of them": {5, 1, []string{}},
	} {
		rules := keeping{at: origin, last: tc.last, days: tc.days}
		if got := rules.expired(all, prefix); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestRetentionRemovesEarlierArchivesOfTheJobOnly(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2)
	for name, archives := range map[string]func() template.Connection{
		"folder": func() template.Connection { _, c := newFolder(t); return c },
		"S3":     func() template.Connection { _, c := newS3(t); return c },
	} {
		t.Run(name, func(t *testing.T) {
			archives := archives()
			bucket := mustOpen(t, archives)
			foreign := "backups/job_other-20200101T000000Z.tar.gz"
			write(t, bucket, foreign, []byte("of another job"))
			for day := range 4 {
				run, _ := newBackupRun(t, backup{}, map[string]any{"keep_last": 2.0}, database, archives)
				run.ScheduledFor = origin.AddDate(0, 0, day)
				result, err := backup{}.Execute(t.Context(), run)
				if err != nil {
					t.Fatal(err)
				}
				if want := min(1, max(0, day-1)); len(result["removed"].([]string)) != want {
					t.Errorf("day %d: removed %q", day, result["removed"])
				}
			}
			want := []string{"backups/job_other-20200101T000000Z.tar.gz", "backups/job_test-20251021T020000Z.tar.gz", "backups/job_test-20251022T020000Z.tar.gz"}
			if names, err := listObjects(t.Context(), bucket, "backups/"); err != nil || !slices.Equal(names, want) {
				t.Errorf("the bucket has %q, %v", names, err)
			}
		})
	}
}

func TestRetryAfterRetentionFailedDoesNotWriteAgain(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 2)
	s3, archives := newS3(t)
	old := "backups/job_test-20200101T000000Z.tar.gz"
	write(t, mustOpen(t, archives), old, []byte("old"))
	refuse := true
	s3.refuse = func(r *http.Request) (int, string) {
		if refuse && r.Method == http.MethodDelete {
			return http.StatusInsufficientStorage, "Busy"
		}
		return 0, ""
	}
	run, _ := newBackupRun(t, backup{}, map[string]any{"keep_last": 1.0}, database, archives)
	result, err := backup{}.Execute(t.Context(), run)
	failed(t, err, codeBucket, true)
	if result["verified"] != true || result["object"] != firstArchive || len(result["removed"].([]string)) > 0 {
		t.Fatalf("result %v", result)
	}

	refuse = false
	s3.mu.Lock()
	s3.calls = nil
	s3.mu.Unlock()
	run.Attempt, run.Previous = 2, result
	if result, err = (backup{}).Execute(t.Context(), run); err != nil || !reflect.DeepEqual(result["removed"], []string{old}) {
		t.Errorf("got %v, %v", result, err)
	}
	if want := []string{"DELETE " + old}; !slices.Equal(s3.calls, want) {
		t.Errorf("the second attempt did %q", s3.calls)
	}
}

func TestNamesOfArchives(t *testing.T) {
	run, _ := templatetest.NewRun(map[string]any{"folder": "a/b/"})
	run.JobID = "job_1-2"
	for want, at := range map[string]time.Time{
		"a/b/job_1-2-20251019T020000Z.tar.gz":     origin,
		"a/b/job_1-2-20251019T020000.005Z.tar.gz": origin.Add(5 * time.Millisecond),
		"a/b/job_1-2-20251019T010000Z.tar.gz":     time.Date(2025, 10, 19, 3, 0, 0, 1, time.FixedZone("", 2*3600)),
	} {
		run.ScheduledFor = at
		name := backupName(run)
		prefix, parsed, ok := parseBackupName(name)
		if name != want || prefix != "a/b/job_1-2-" || !parsed.Equal(at.Truncate(time.Millisecond)) || !ok {
			t.Errorf("%v: %q, taken apart %q, %v, %v; want %q", at, name, prefix, parsed, ok, want)
		}
	}
	for _, name := range []string{"", "x", "a-b.tar.gz", "a-20251019T020000Z.tar", "20251019T020000Z.tar.gz", "a-2025-10-19.tar.gz"} {
		if _, _, ok := parseBackupName(name); ok {
			t.Errorf("%q is taken for an archive", name)
		}
	}
}

func TestBackupEndsWhenTheDatabaseDoes(t *testing.T) {
	db, database := newDatabase(t)
	shop(t, db, 3*batchSize)
	_, archives := newFolder(t)
	relay, uri := newRelay(t)
	database.URI = uri
	run, _ := newBackupRun(t, backup{}, map[string]any{"collections": []any{"users"}}, database, archives)
	run.Report = onProgress{run.Report, func() { relay.cut() }}
	_, err := backup{}.Execute(t.Context(), run)
	failed(t, err, template.CodeConnection, true)
	ctx, cancel := context.WithCancel(t.Context())
	run, _ = newBackupRun(t, backup{}, map[string]any{"collections": []any{"users"}}, template.Connection{Kind: "mongodb", URI: server.uri, Database: db.Name()}, archives)
	run.Report = onProgress{run.Report, cancel}
	_, err = backup{}.Execute(ctx, run)
	failed(t, err, template.CodeCancelled, false)
	if names, err := listObjects(t.Context(), mustOpen(t, archives), ""); err != nil || len(names) > 0 {
		t.Errorf("the bucket has %q, %v", names, err)
	}
}

// onProgress does something whenever a run tells how far it is.
type onProgress struct {
	template.Reporter
	do func()
}

func (p onProgress) Progress(done, total int64, message string) {
	p.Reporter.Progress(done, total, message)
	p.do()
}
