package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.uber.org/zap/zaptest"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/sample"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

func config(t *testing.T, folder string) Config {
	return Config{Listen: "127.0.0.1:0", DataDir: folder, SeedAt: now, Logger: zaptest.NewLogger(t)}
}

// start opens and serves until the returned stop is called, or the test ends.
func start(t *testing.T, config Config) (s *Server, stop func()) {
	t.Helper()
	s, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("serve:", err)
		}
		s.Close()
	})
	t.Cleanup(stop)
	return s, stop
}

func connect(t *testing.T, s *Server) *mongo.Client {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(s.URI()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disconnect(client) })
	return client
}

// disconnect does not say goodbye, for where the server has been stopped the driver would look for it
// for 30 s.
func disconnect(client *mongo.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = client.Disconnect(ctx)
}

func count(t *testing.T, collection *mongo.Collection, filter bson.D) int64 {
	t.Helper()
	n, err := collection.CountDocuments(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The reason for the proxy: FerretDB alone lets several of these win, and loses most increments.
func TestUpdatesAreAtomic(t *testing.T) {
	s, _ := start(t, config(t, t.TempDir()))
	const writers, rounds, increments = 8, 10, 60
	setUp := connect(t, s).Database("app").Collection("things")
	clients := make([]*mongo.Collection, writers)
	for i := range clients {
		clients[i] = connect(t, s).Database("app").Collection("things")
		if err := clients[i].Database().Client().Ping(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}

	for round := range rounds {
		id := fmt.Sprint("round ", round)
		if _, err := setUp.InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}, {Key: "owner", Value: ""}}); err != nil {
			t.Fatal(err)
		}
		won := make([]int64, writers)
		var group sync.WaitGroup
		for i, things := range clients {
			group.Go(func() {
				result, err := things.UpdateOne(t.Context(),
					bson.D{{Key: "_id", Value: id}, {Key: "owner", Value: ""}},
					bson.D{{Key: "$set", Value: bson.D{{Key: "owner", Value: fmt.Sprint(i)}}}})
				if err != nil {
					t.Error(err)
					return
				}
				won[i] = result.ModifiedCount
			})
		}
		group.Wait()
		var winner string
		for i, n := range won {
			if n > 0 {
				winner += fmt.Sprint(i)
			}
		}
		var thing struct{ Owner string }
		if err := setUp.FindOne(t.Context(), bson.D{{Key: "_id", Value: id}}).Decode(&thing); err != nil {
			t.Fatal(err)
		}
		if len(winner) != 1 || thing.Owner != winner {
			t.Errorf("round %d: won by %q, owned by %q", round, winner, thing.Owner)
		}
	}

	if _, err := setUp.InsertOne(t.Context(), bson.D{{Key: "_id", Value: "counter"}, {Key: "n", Value: 0}}); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, things := range clients {
		group.Go(func() {
			for range increments {
				_, err := things.UpdateByID(t.Context(), "counter", bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var counter struct{ N int }
	if err := setUp.FindOne(t.Context(), bson.D{{Key: "_id", Value: "counter"}}).Decode(&counter); err != nil {
		t.Fatal(err)
	}
	if counter.N != writers*increments {
		t.Errorf("%d increments arrived, want %d", counter.N, writers*increments)
	}
}

func TestDataStay(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a new one", "100% ours")
	first, stop := start(t, config(t, folder))
	if _, err := connect(t, first).Database("app").Collection("things").InsertOne(t.Context(), bson.D{{Key: "_id", Value: 1}}); err != nil {
		t.Fatal(err)
	}
	stop()
	second, _ := start(t, config(t, folder))
	if n := count(t, connect(t, second).Database("app").Collection("things"), bson.D{}); n != 1 {
		t.Errorf("%d documents after a restart, want 1", n)
	}
}

// The driver sends such a write with moreToCome; were FerretDB's answer to it passed on, the next
// answer would be the wrong one.
func TestUnacknowledgedWrites(t *testing.T) {
	s, _ := start(t, config(t, t.TempDir()))
	client, err := mongo.Connect(options.Client().ApplyURI(s.URI()).SetMaxPoolSize(1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Disconnect(context.Background()) }()
	unacknowledged := client.Database("app").Collection("things", options.Collection().SetWriteConcern(writeconcern.Unacknowledged()))
	for i := range 5 {
		if _, err := unacknowledged.InsertOne(t.Context(), bson.D{{Key: "_id", Value: i}}); err != nil {
			t.Fatal(err)
		}
		if n := count(t, client.Database("app").Collection("things"), bson.D{}); n != int64(i+1) {
			t.Errorf("%d documents, want %d", n, i+1)
		}
	}
}

func TestConnectionCutInTheMiddleOfAMessage(t *testing.T) {
	s, _ := start(t, config(t, t.TempDir()))
	things := connect(t, s).Database("app").Collection("things")
	if _, err := things.InsertOne(t.Context(), bson.D{{Key: "_id", Value: 1}}); err != nil {
		t.Fatal(err)
	}

	body, err := bson.Marshal(bson.D{
		{Key: "insert", Value: "things"},
		{Key: "$db", Value: "app"},
		{Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: 2}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	message := binary.LittleEndian.AppendUint32(nil, uint32(16+4+1+len(body)))
	for _, n := range []uint32{1, 0, 2013, 0} {
		message = binary.LittleEndian.AppendUint32(message, n)
	}
	message = append(append(message, 0), body...)

	for _, length := range []int{7, 16, 30, len(message) - 1} {
		c, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(message[:length]); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if n := count(t, things, bson.D{}); n != 1 {
			t.Fatalf("%d documents after a message cut at %d, want 1", n, length)
		}
	}

	// The same message whole is carried out: what was missing above was its end only.
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(message); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, things, bson.D{}); n != 2 {
		t.Errorf("%d documents, want 2", n)
	}
}

func TestReadyFile(t *testing.T) {
	c := config(t, t.TempDir())
	c.ReadyFile = filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(c.ReadyFile, []byte("mongodb://an.old.one/"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(c.ReadyFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old file is there before it serves: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	if err := connect(t, s).Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(c.ReadyFile); err != nil || string(got) != s.URI()+"\n" {
		t.Errorf("it holds %q (%v), want %q", got, err, s.URI())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(c.ReadyFile)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestReadyFileThatCannotBe(t *testing.T) {
	missing := config(t, t.TempDir())
	missing.ReadyFile = filepath.Join(t.TempDir(), "missing", "ready")
	s, err := Open(t.Context(), missing)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "ready file") {
		t.Errorf("got %v, want an error about the ready file", err)
	}

	folder := config(t, t.TempDir())
	folder.ReadyFile = t.TempDir()
	if err := os.WriteFile(filepath.Join(folder.ReadyFile, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), folder); err == nil || !strings.Contains(err.Error(), "ready file") {
		t.Errorf("got %v, want an error about the ready file", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	served := config(t, t.TempDir())
	served.ReadyFile = filepath.Join(t.TempDir(), "ready")
	s, stop := start(t, served)
	if err := connect(t, s).Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}

	if _, err := Open(t.Context(), served); !errors.Is(err, ErrDataInUse) {
		t.Errorf("a second one on the same folder: %v, want ErrDataInUse", err)
	}
	if _, err := os.Stat(served.ReadyFile); err != nil {
		t.Errorf("the second one took the first one's ready file: %v", err)
	}

	taken := config(t, t.TempDir())
	taken.Listen = s.listener.Addr().String()
	if _, err := Open(t.Context(), taken); err == nil || !strings.Contains(err.Error(), taken.Listen) {
		t.Errorf("an address in use: %v", err)
	}

	file := config(t, filepath.Join(t.TempDir(), "file"))
	if err := os.WriteFile(file.DataDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), "data folder") {
		t.Errorf("a file for a folder: %v", err)
	}

	// What was refused has let go of what it took, and so has what was closed.
	stop()
	start(t, served)
	start(t, config(t, taken.DataDir))
}

func TestSeed(t *testing.T) {
	c := config(t, t.TempDir())
	c.SeedDatabase = "app"
	first, stop := start(t, c)
	database := connect(t, first).Database("app")
	for _, collection := range sample.Generate(sampleSeed, now) {
		cursor, err := database.Collection(collection.Name).Find(t.Context(), bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
		if err != nil {
			t.Fatal(err)
		}
		var got []bson.Raw
		if err := cursor.All(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(collection.Documents) {
			t.Fatalf("%d %s, want %d", len(got), collection.Name, len(collection.Documents))
		}
		for i, document := range collection.Documents {
			want, err := bson.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != string(got[i]) {
				t.Fatalf("%s: %v, want %v", collection.Name, got[i], bson.Raw(want))
			}
		}
	}

	// What is deleted stays deleted, also when the reference time has moved on.
	if _, err := database.Collection("logs").DeleteMany(t.Context(), bson.D{}); err != nil {
		t.Fatal(err)
	}
	stop()
	c.SeedAt = now.AddDate(0, 1, 0)
	second, stop := start(t, c)
	database = connect(t, second).Database("app")
	if logs, users := count(t, database.Collection("logs"), bson.D{}), count(t, database.Collection("users"), bson.D{}); logs != 0 || users != sample.Users {
		t.Errorf("%d logs and %d users after a restart, want 0 and %d", logs, users, sample.Users)
	}

	// A start that was killed left the note without its end, and some documents missing.
	if _, err := database.Collection(noteCollection).UpdateByID(t.Context(), noteID, bson.D{{Key: "$set", Value: bson.D{{Key: "complete", Value: false}}}}); err != nil {
		t.Fatal(err)
	}
	stop()
	third, _ := start(t, c)
	database = connect(t, third).Database("app")
	if logs, users := count(t, database.Collection("logs"), bson.D{}), count(t, database.Collection("users"), bson.D{}); logs != sample.Logs || users != sample.Users {
		t.Errorf("%d logs and %d users after going on, want %d and %d", logs, users, sample.Logs, sample.Users)
	}
	if n := count(t, database.Collection("logs"), bson.D{{Key: "createdAt", Value: bson.D{{Key: "$gt", Value: now}}}}); n != 0 {
		t.Errorf("%d logs are of a later time than those before", n)
	}
}

func TestSeedInterruptedOrImpossible(t *testing.T) {
	c := config(t, t.TempDir())
	c.SeedDatabase = "app"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v, want %v", err, context.Canceled)
	}
	c.SeedDatabase = "no.such name"
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), c.SeedDatabase) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestOnlyDuplicates(t *testing.T) {
	duplicate := mongo.BulkWriteError{WriteError: mongo.WriteError{Code: 11000}}
	other := mongo.BulkWriteError{WriteError: mongo.WriteError{Code: 121}}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"duplicates":                  {err: mongo.BulkWriteException{WriteErrors: []mongo.BulkWriteError{duplicate, duplicate}}, want: true},
		"one of another kind":         {err: mongo.BulkWriteException{WriteErrors: []mongo.BulkWriteError{duplicate, other}}},
		"none named":                  {err: mongo.BulkWriteException{}},
		"and a failed write concern":  {err: mongo.BulkWriteException{WriteErrors: []mongo.BulkWriteError{duplicate}, WriteConcernError: &mongo.WriteConcernError{}}},
		"the connection broke":        {err: errors.New("connection reset")},
		"a cancelled context, joined": {err: errors.Join(context.Canceled)},
	} {
		if got := onlyDuplicates(test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What clean-up jobs ask of a MongoDB server works on the stand-in as on the real one.
func TestWhatCleanUpsUse(t *testing.T) {
	c := config(t, t.TempDir())
	c.SeedDatabase = "app"
	s, _ := start(t, c)
	client := connect(t, s)
	database := client.Database("app", options.Database().SetReadConcern(readconcern.Majority()).SetWriteConcern(writeconcern.Majority()))
	halfYear := now.AddDate(0, -6, 0)

	// document is one of the sample data, and each filter below is followed by its meaning in Go.
	type document map[string]any
	documents := map[string][]document{}
	for _, collection := range sample.Generate(sampleSeed, now) {
		for _, d := range collection.Documents {
			fields := document{}
			for _, e := range d {
				fields[e.Key] = e.Value
			}
			documents[collection.Name] = append(documents[collection.Name], fields)
		}
	}
	is := func(operator string, operand any) bson.D { return bson.D{{Key: operator, Value: operand}} }
	old := func(d document) bool { return d["lastActive"].(time.Time).Before(halfYear) }
	admin := func(d document) bool { return d["role"] == "admin" }
	editor := func(d document) bool { return d["role"] == "editor" }
	ada := func(d document) bool { return strings.HasPrefix(d["email"].(string), "ada.") }
	open := func(d document) bool { return d["resolvedAt"] == nil }
	not := func(f func(document) bool) func(document) bool { return func(d document) bool { return !f(d) } }
	for _, test := range []struct {
		collection string
		filter     bson.D
		means      func(document) bool
	}{
		{"sessions", is("lastActive", is("$lt", halfYear)), old},
		{"sessions", is("lastActive", is("$gte", halfYear)), not(old)},
		{"sessions", bson.D{{Key: "lastActive", Value: bson.D{{Key: "$gt", Value: halfYear}, {Key: "$lte", Value: now}}}}, not(old)},
		{"users", is("$and", bson.A{is("role", "admin"), is("lastActive", is("$lt", halfYear))}), func(d document) bool { return admin(d) && old(d) }},
		{"users", is("$or", bson.A{is("role", "admin"), is("role", is("$eq", "editor"))}), func(d document) bool { return admin(d) || editor(d) }},
		{"users", is("$nor", bson.A{is("role", "admin"), is("role", "editor")}), func(d document) bool { return !admin(d) && !editor(d) }},
		{"users", is("lastActive", is("$not", is("$lt", halfYear))), not(old)},
		{"users", is("role", is("$in", bson.A{"admin", "editor"})), func(d document) bool { return admin(d) || editor(d) }},
		{"users", is("role", is("$nin", bson.A{"admin", "editor"})), func(d document) bool { return !admin(d) && !editor(d) }},
		{"users", is("role", is("$ne", "admin")), not(admin)},
		{"users", is("email", is("$regex", `^ada\.`)), ada},
		{"users", is("email", bson.D{{Key: "$regex", Value: `^ADA\.`}, {Key: "$options", Value: "i"}}), ada},
		{"users", is("email", is("$not", bson.Regex{Pattern: `^ada\.`})), not(ada)},
		{"users", is("lastActive", is("$type", "date")), func(document) bool { return true }},
		{"users", is("lastActive", is("$type", bson.A{"string", "int"})), func(document) bool { return false }},
		{"users", is("lastActive", is("$lt", "2026-01-01")), func(document) bool { return false }},
		{"tickets", is("resolvedAt", is("$exists", false)), open},
		{"tickets", is("resolvedAt", is("$exists", true)), not(open)},
		{"tickets", is("resolvedAt", nil), open},
	} {
		var want int64
		for _, d := range documents[test.collection] {
			if test.means(d) {
				want++
			}
		}
		n, err := database.Collection(test.collection).CountDocuments(t.Context(), test.filter, options.Count().SetHint("_id_"))
		if err != nil || n != want {
			t.Errorf("%s %v: %d, %v; want %d", test.collection, test.filter, n, err, want)
		}
	}

	// In batches: the next 1,000 in the order of _id, deleted by it, until none is left. The deadline
	// makes the driver send maxTimeMS.
	sessions, condition := database.Collection("sessions"), is("lastActive", is("$lt", halfYear))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	matching := count(t, sessions, condition)
	var deleted int64
	for batches := 1; ; batches++ {
		cursor, err := sessions.Find(ctx, condition, options.Find().
			SetProjection(bson.D{{Key: "_id", Value: 1}}).SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(1000).SetBatchSize(400))
		if err != nil {
			t.Fatal(err)
		}
		var found []bson.D
		if err := cursor.All(ctx, &found); err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			if batches < 3 {
				t.Error("the sample data fit one batch")
			}
			break
		}
		ids := make(bson.A, len(found))
		for i, d := range found {
			if len(d) != 1 || d[0].Key != "_id" {
				t.Fatalf("found %v, want the _id only", d)
			}
			ids[i] = d[0].Value
		}
		result, err := sessions.DeleteMany(ctx, is("_id", is("$in", ids)), options.DeleteMany().SetHint("_id_"))
		if err != nil || result.DeletedCount != int64(len(ids)) {
			t.Fatalf("deleted %v of %d: %v", result, len(ids), err)
		}
		deleted += result.DeletedCount
	}
	if left := count(t, sessions, bson.D{}); deleted != matching || left != sample.Sessions-matching {
		t.Errorf("%d deleted of %d, %d left", deleted, matching, left)
	}

	// A server time limit: find obeys it, count and delete take it and do not.
	for _, command := range []bson.D{
		{{Key: "count", Value: "logs"}, {Key: "query", Value: bson.D{}}, {Key: "maxTimeMS", Value: 60000}},
		{{Key: "find", Value: "logs"}, {Key: "filter", Value: bson.D{}}, {Key: "maxTimeMS", Value: 60000}},
		{{Key: "delete", Value: "logs"}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: is("level", "none")}, {Key: "limit", Value: 0}}}}, {Key: "maxTimeMS", Value: 60000}},
	} {
		if err := client.Database("app").RunCommand(t.Context(), command).Err(); err != nil {
			t.Errorf("%v: %v", command, err)
		}
	}
}

// A cursor that waits for the next document in a capped collection lets the insert through that it
// waits for, and does not keep the server from ending.
func TestCursorThatWaits(t *testing.T) {
	s, stop := start(t, config(t, t.TempDir()))
	database := connect(t, s).Database("app")
	if err := database.CreateCollection(t.Context(), "events", options.CreateCollection().SetCapped(true).SetSizeInBytes(1<<20)); err != nil {
		t.Fatal(err)
	}
	insert := func(id int64) {
		t.Helper()
		if _, err := database.Collection("events").InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}}); err != nil {
			t.Fatal(err)
		}
	}
	insert(1)

	const patience, last = time.Minute, 3
	asked := make(chan struct{}, 10)
	watcher, err := mongo.Connect(options.Client().ApplyURI(s.URI()).SetMonitor(&event.CommandMonitor{
		Started: func(_ context.Context, e *event.CommandStartedEvent) {
			if e.CommandName == "getMore" {
				asked <- struct{}{}
			}
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	cursor, err := watcher.Database("app").Collection("events").Find(t.Context(), bson.D{},
		options.Find().SetCursorType(options.TailableAwait).SetMaxAwaitTime(patience).SetBatchSize(1))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan int64)
	go func() {
		defer close(seen)
		for cursor.Next(context.Background()) {
			seen <- cursor.Current.Lookup("_id").AsInt64()
		}
	}()
	began := time.Now()
	for id := int64(1); id <= last; id++ {
		if got := <-seen; got != id {
			t.Fatalf("saw %d, want %d", got, id)
		}
		<-asked // for the next one
		if id < last {
			insert(id + 1)
		}
	}
	if err := database.Client().Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	stop()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	if id, more := <-seen; more {
		t.Errorf("saw %d after the end", id)
	}
	disconnect(watcher)
}
