package standintest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func things(t *testing.T, uri string) *mongo.Collection {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(t.Context()) }) // says no goodbye: that context is over
	return client.Database("almanac_test_standintest").Collection("things")
}

func TestFaults(t *testing.T) {
	s := Start(t)
	c := things(t, s.URI)
	lost := s.Inject(t, Fault{Command: "insert", Collection: "things", Action: CutAfter, Skip: 1, Count: 1})
	for i := range 3 {
		if _, err := c.InsertOne(t.Context(), bson.D{{Key: "_id", Value: i}}); (err != nil) != (i == 1) || err != nil && !mongo.IsNetworkError(err) {
			t.Errorf("insert %d: %v", i, err)
		}
	}
	if n, err := c.CountDocuments(t.Context(), bson.D{}); err != nil || n != 3 {
		t.Errorf("%d are there (%v), want 3", n, err)
	}
	if n := lost.Fired(t); n != 1 {
		t.Errorf("it fired %d times, want 1", n)
	}
	lost.Remove(t)

	s.Inject(t, Fault{Command: "insert", Action: Refuse, Code: PrimarySteppedDown})
	s.Clear(t)
	held := s.Inject(t, Fault{Command: "insert", Action: DelayBefore, DelayMS: 3_600_000})
	done := make(chan error, 1)
	go func() {
		_, err := c.InsertOne(t.Context(), bson.D{{Key: "_id", Value: 3}})
		done <- err
	}()
	held.Await(t, 1)
	if n, err := c.CountDocuments(t.Context(), bson.D{}); err != nil || n != 3 {
		t.Errorf("%d are there (%v), want 3: the fourth is held back", n, err)
	}
	s.Clear(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestURI(t *testing.T) {
	t.Setenv(RealEnv, "mongodb://db.example:27017/?replicaSet=rs")
	if uri, isReal := URI(t); uri != "mongodb://db.example:27017/?replicaSet=rs" || !isReal {
		t.Errorf("got %s, %v", uri, isReal)
	}
	t.Setenv(RealEnv, "")
	uri, isReal := URI(t)
	if !strings.HasPrefix(uri, "mongodb://127.0.0.1:") || isReal {
		t.Errorf("got %s, %v", uri, isReal)
	}
	if err := things(t, uri).Database().Client().Ping(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// On a server that stays, a database has a name of its own and is gone after the
// test. (The server is a stand-in all the same.)
func TestDatabase(t *testing.T) {
	server := Start(t)
	if got, want := Database(t, server.URI, false, "app"), server.URI+"app"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	names := func() []string {
		names, err := things(t, server.URI).Database().Client().ListDatabaseNames(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "almanac_test_") })
	}
	t.Run("real", func(t *testing.T) {
		uri := Database(t, server.URI+"?appName=test", true, "app")
		if !strings.HasSuffix(uri, "_app?appName=test") {
			t.Errorf("got %s", uri)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(uri, server.URI), "?appName=test")
		if _, err := things(t, uri).Database().Client().Database(name).Collection("c").InsertOne(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, []string{name}) {
			t.Errorf("there are %v, want %s", got, name)
		}
	})
	if got := names(); len(got) != 0 {
		t.Errorf("%v are left", got)
	}
}

// The binary of a test run that was built with others is taken as it is; a missing workspace is told.
func TestTop(t *testing.T) {
	root, err := top()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "deploy", "standin", "go.mod")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if root, err := top(); err == nil {
		t.Errorf("found %s above a folder that is in no workspace", root)
	}
}
