package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// set sets a fault over the control address.
func set(t *testing.T, s *Server, fault string) (path string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Control()+"/faults", strings.NewReader(fault))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct{ ID int }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %v", response.Status, err)
	}
	return "/faults/" + strconv.Itoa(answer.ID)
}

func call(t *testing.T, method, url string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s %s: %s", method, url, response.Status)
	}
	if into != nil {
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
}

// What the driver makes of each fault, and what the server has done by then.
func TestFaultsAsTheDriverSeesThem(t *testing.T) {
	c := config(t, t.TempDir())
	c.Control = "127.0.0.1:0"
	s, _ := start(t, c)
	things := connect(t, s).Database("app").Collection("things")
	isCut := func(err error) bool { return mongo.IsNetworkError(err) }
	hasCode := func(code int) func(error) bool {
		return func(err error) bool {
			var refused mongo.ServerError
			return errors.As(err, &refused) && refused.HasErrorCode(code)
		}
	}
	for name, test := range map[string]struct {
		fault string
		fails func(error) bool // nil for no error
		done  bool
	}{
		"cut before":   {`{"command": "insert", "collection": "things", "action": "cut_before", "count": 1}`, isCut, false},
		"cut after":    {`{"command": "insert", "collection": "things", "action": "cut_after", "count": 1}`, isCut, true},
		"stepped down": {`{"command": "insert", "collection": "things", "action": "refuse", "code": 189, "count": 1}`, hasCode(189), false},
		"ends":         {`{"command": "insert", "database": "app", "action": "refuse", "code": 91, "count": 1}`, hasCode(91), false},
		"delay before": {`{"command": "insert", "contains": "delay before", "action": "delay_before", "delay_ms": 30}`, nil, true},
		"delay after":  {`{"command": "insert", "contains": "delay after", "action": "delay_after", "delay_ms": 30}`, nil, true},
		"another's":    {`{"command": "insert", "collection": "others", "action": "cut_before"}`, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := set(t, s, test.fault)
			began := time.Now()
			_, err := things.InsertOne(t.Context(), bson.D{{Key: "_id", Value: name}})
			took := time.Since(began)
			if test.fails == nil && err != nil || test.fails != nil && !test.fails(err) {
				t.Errorf("got %v", err)
			}
			if strings.HasPrefix(name, "delay") && took < 30*time.Millisecond {
				t.Errorf("it took %v, want 30 ms and more", took)
			}
			want := int64(0)
			if test.done {
				want = 1
			}
			if n := count(t, things, bson.D{{Key: "_id", Value: name}}); n != want {
				t.Errorf("%d are there, want %d", n, want)
			}
			var counted struct{ Fired int }
			call(t, http.MethodGet, s.Control()+path, &counted)
			if want := map[bool]int{true: 0, false: 1}[name == "another's"]; counted.Fired != want {
				t.Errorf("it fired %d times, want %d", counted.Fired, want)
			}
			call(t, http.MethodDelete, s.Control()+path, nil)
		})
	}
}

// A server that is cut off answers nobody, not even a greeting, until it is back.
func TestCutOff(t *testing.T) {
	c := config(t, t.TempDir())
	c.Control = "127.0.0.1:0"
	s, _ := start(t, c)
	client := connect(t, s)
	if err := client.Ping(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	set(t, s, `{"command": "any", "action": "cut_before"}`)
	if _, err := client.Database("app").Collection("things").InsertOne(t.Context(), bson.D{{Key: "n", Value: 1}}); !mongo.IsNetworkError(err) {
		t.Errorf("got %v, want a network error", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := connect(t, s).Ping(short, nil); err == nil {
		t.Error("a new client was greeted")
	}
	call(t, http.MethodDelete, s.Control()+"/faults", nil)
	if err := client.Ping(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestControlAddress(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{"0.0.0.0:0", "loopback"},
		{"127.0.0.1:99999", "listen for control"},
	} {
		c := config(t, t.TempDir())
		c.Control = test.address
		if s, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want an error with %q", test.address, s, err, test.want)
		}
	}
	if s, _ := start(t, config(t, t.TempDir())); s.Control() != "" {
		t.Errorf("control at %q, though none was asked for", s.Control())
	}
}
