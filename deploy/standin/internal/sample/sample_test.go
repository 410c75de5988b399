package sample

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

var now = time.Date(2026, 3, 31, 23, 59, 59, 123456789, time.FixedZone("", -5*3600))

// byName holds the collections as maps, for tests to look things up.
func byName(t *testing.T, seed uint64, at time.Time) map[string][]map[string]any {
	t.Helper()
	all := map[string][]map[string]any{}
	for _, c := range Generate(seed, at) {
		for _, d := range c.Documents {
			document := map[string]any{}
			for _, e := range d {
				if _, twice := document[e.Key]; twice {
					t.Fatalf("%s has %s twice", c.Name, e.Key)
				}
				document[e.Key] = e.Value
			}
			all[c.Name] = append(all[c.Name], document)
		}
	}
	return all
}

func TestSameSeedSameDocuments(t *testing.T) {
	first := Generate(1, now)
	if !reflect.DeepEqual(first, Generate(1, now.UTC())) {
		t.Error("the same seed and time gave other documents")
	}
	for i, other := range [][]Collection{Generate(2, now), Generate(1, now.Add(time.Hour))} {
		for j := range first {
			if reflect.DeepEqual(first[j], other[j]) {
				t.Errorf("%d: %s does not depend on it", i, first[j].Name)
			}
		}
	}
}

func TestShape(t *testing.T) {
	fields := map[string]string{
		"users":    "_id active createdAt email lastActive name role",
		"sessions": "_id ip lastActive userAgent userId",
		"logs":     "_id createdAt level message service",
		"messages": "_id body createdAt from to",
		"tickets":  "_id createdAt priority status title",
	}
	counts := map[string]int{"users": Users, "sessions": Sessions, "logs": Logs, "messages": Messages, "tickets": Tickets}
	for seed := range uint64(5) {
		collections := byName(t, seed, now)
		if len(collections) != len(counts) {
			t.Fatalf("%d collections, want %d", len(collections), len(counts))
		}
		ids := map[bson.ObjectID]bool{}
		for name, documents := range collections {
			if len(documents) != counts[name] {
				t.Errorf("%d %s, want %d", len(documents), name, counts[name])
			}
			var last bson.ObjectID
			for _, d := range documents {
				for field := range strings.FieldsSeq(fields[name]) {
					if _, has := d[field]; !has {
						t.Fatalf("%s lack %s: %v", name, field, d)
					}
				}
				for field, value := range d {
					if at, isTime := value.(time.Time); isTime {
						if at.After(now) || at.Before(now.Truncate(time.Millisecond).AddDate(-Years, 0, 0)) || at.Nanosecond()%1e6 != 0 || at.Location() != time.UTC {
							t.Fatalf("%s.%s is %v", name, field, at)
						}
					}
					if text, isText := value.(string); isText && (text == "" || strings.Contains(text, "%!")) {
						t.Fatalf("%s.%s is %q", name, field, text)
					}
				}
				id := d["_id"].(bson.ObjectID)
				if ids[id] || id.Hex() <= last.Hex() {
					t.Fatalf("%s: id %s is not new or not in order", name, id.Hex())
				}
				ids[id], last = true, id
			}
		}
	}
}

func TestDocumentsFitTogether(t *testing.T) {
	collections := byName(t, 3, now)
	users, mails := map[bson.ObjectID]map[string]any{}, map[any]map[string]any{}
	for _, user := range collections["users"] {
		users[user["_id"].(bson.ObjectID)] = user
		mails[user["email"]] = user
		if user["lastActive"].(time.Time).Before(user["createdAt"].(time.Time)) {
			t.Fatalf("active before it was there: %v", user)
		}
		if user["active"].(bool) && user["lastActive"].(time.Time).Before(now.AddDate(0, -6, -1)) {
			t.Fatalf("active, yet not for half a year: %v", user)
		}
	}
	if len(mails) != Users {
		t.Errorf("%d addresses for %d users", len(mails), Users)
	}
	for _, session := range collections["sessions"] {
		owner := users[session["userId"].(bson.ObjectID)]
		at := session["lastActive"].(time.Time)
		if owner == nil || at.Before(owner["createdAt"].(time.Time)) || at.After(owner["lastActive"].(time.Time)) {
			t.Fatalf("session %v of user %v", session, owner)
		}
	}
	for _, message := range collections["messages"] {
		from, to := mails[message["from"]], mails[message["to"]]
		if from == nil || to == nil || message["from"] == message["to"] {
			t.Fatalf("message from %v to %v", from, to)
		}
		if at := message["createdAt"].(time.Time); at.Before(from["createdAt"].(time.Time)) || at.Before(to["createdAt"].(time.Time)) {
			t.Fatalf("message before its people were there: %v", message)
		}
	}
	for _, ticket := range collections["tickets"] {
		resolved, has := ticket["resolvedAt"].(time.Time)
		switch status := ticket["status"]; status {
		case "open", "in_progress":
			if has {
				t.Fatalf("resolved, yet not: %v", ticket)
			}
		case "resolved", "closed":
			if !has || !resolved.After(ticket["createdAt"].(time.Time)) {
				t.Fatalf("resolved at no time after its beginning: %v", ticket)
			}
		default:
			t.Fatalf("status %q", status)
		}
	}
}

// There must be work for clean-up jobs, and something that they leave.
func TestGoodShareIsOld(t *testing.T) {
	before := func(field string, limit time.Time) func(map[string]any) bool {
		return func(d map[string]any) bool {
			at, has := d[field].(time.Time)
			return has && at.Before(limit)
		}
	}
	for seed := range uint64(5) {
		collections := byName(t, seed, now)
		for _, test := range []struct {
			what, name string
			old        func(map[string]any) bool
		}{
			{"sessions unused for 6 months", "sessions", before("lastActive", now.AddDate(0, -6, 0))},
			{"logs older than 90 days", "logs", before("createdAt", now.AddDate(0, 0, -90))},
			{"tickets resolved 30 days ago", "tickets", before("resolvedAt", now.AddDate(0, 0, -30))},
			{"messages older than a year", "messages", before("createdAt", now.AddDate(-1, 0, 0))},
			{"active users", "users", func(d map[string]any) bool { return d["active"].(bool) }},
			{"errors", "logs", func(d map[string]any) bool { return d["level"] != "INFO" }},
		} {
			var n int
			for _, d := range collections[test.name] {
				if test.old(d) {
					n++
				}
			}
			t.Logf("seed %d: %s: %d of %d", seed, test.what, n, len(collections[test.name]))
			if share := float64(n) / float64(len(collections[test.name])); share < 0.15 || share > 0.92 {
				t.Errorf("seed %d: %s: a share of %.2f", seed, test.what, share)
			}
		}
	}
}
