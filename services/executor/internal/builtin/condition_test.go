package builtin

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

var origin = time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC)

func parsed(text string) (condition, error) {
	var raw map[string]any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return condition{}, err
	}
	return parseCondition(raw, origin, time.UTC)
}

// shown gives a filter as relaxed extended JSON.
func shown(t testing.TB, filter bson.D) string {
	t.Helper()
	text, err := bson.MarshalExtJSON(filter, false, false)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConditionBecomesFilter(t *testing.T) {
	for _, tc := range []struct{ condition, filter string }{
		{`{"status": "resolved"}`, `{"status":{"$eq":"resolved"}}`},
		{`{"b": 1, "a": 1.5, "c": true, "d": null}`, `{"a":{"$eq":1.5},"b":{"$eq":1},"c":{"$eq":true},"d":{"$eq":null}}`},
		{`{"lastActive": {"$lt": "6 months ago"}}`, `{"lastActive":{"$lt":{"$date":"2025-04-19T02:00:00Z"}}}`},
		{`{"n": {"$lte": "1 day ago", "$gt": 5}}`, `{"n":{"$gt":5,"$lte":{"$date":"2025-10-18T02:00:00Z"}}}`},
		{`{"at": {"$gte": {"$date": "2025-01-31T01:00:00+01:00"}}}`, `{"at":{"$gte":{"$date":"2025-01-31T00:00:00Z"}}}`},
		{`{"at": {"$date": "2025-01-31T00:00:00Z"}}`, `{"at":{"$eq":{"$date":"2025-01-31T00:00:00Z"}}}`},
		{`{"_id": {"$oid": "0123456789abcdef01234567"}}`, `{"_id":{"$eq":{"$oid":"0123456789abcdef01234567"}}}`},
		// Elsewhere than under an ordering operator it is plain text.
		{`{"label": "6 months ago"}`, `{"label":{"$eq":"6 months ago"}}`},
		{`{"label": {"$in": ["6 months ago", 2, null]}}`, `{"label":{"$in":["6 months ago",2,null]}}`},
		{`{"name": {"$lt": "monday club"}}`, `{"name":{"$lt":"monday club"}}`},
		{`{"a": {"$ne": 1}, "b": {"$nin": [1]}, "c": {"$all": ["x"]}}`, `{"a":{"$ne":1},"b":{"$nin":[1]},"c":{"$all":["x"]}}`},
		{`{"a": {"$exists": false}, "b": {"$type": "string"}, "c": {"$type": ["int", "long"]}, "d": {"$size": 0}, "e": {"$mod": [4, 1]}}`, `{"a":{"$exists":false},"b":{"$type":"string"},"c":{"$type":["int","long"]},"d":{"$size":0},"e":{"$mod":[4,1]}}`},
		{`{"a": {"$regex": "^x.*y$", "$options": "i"}}`, `{"a":{"$regex":"^x.*y$","$options":"i"}}`},
		{`{"a": {"$not": {"$gt": 5}}}`, `{"a":{"$not":{"$gt":5}}}`},
		{`{"$or": [{"a": 1}, {"$and": [{"b": 2}, {"$nor": [{"c": 3}]}]}]}`, `{"$or":[{"a":{"$eq":1}},{"$and":[{"b":{"$eq":2}},{"$nor":[{"c":{"$eq":3}}]}]}]}`},
		{`{"items": {"$elemMatch": {"at": {"$lt": "1 year ago"}, "n": 1}}}`, `{"items":{"$elemMatch":{"at":{"$lt":{"$date":"2024-10-19T02:00:00Z"}},"n":{"$eq":1}}}}`},
		{`{"items": {"$elemMatch": {"$gt": 1, "$lt": 5}}}`, `{"items":{"$elemMatch":{"$gt":1,"$lt":5}}}`},
		{`{"items": {"$elemMatch": {"$or": [{"a": 1}, {"b": 1}]}}}`, `{"items":{"$elemMatch":{"$or":[{"a":{"$eq":1}},{"b":{"$eq":1}}]}}}`},
		{`{"a.b": {"c": 1}, "d": {}, "e": [1, [2]]}`, `{"a.b":{"$eq":{"c":1}},"d":{"$eq":{}},"e":{"$eq":[1,[2]]}}`},
		{`{"big": 9007199254740992, "bigger": 1e300}`, `{"big":{"$eq":9007199254740992},"bigger":{"$eq":1E+300}}`},
		// What never matches is harmless.
		{`{"a": {"$in": []}}`, `{"a":{"$in":[]}}`},
		{`{"_id": {"$exists": false}}`, `{"_id":{"$exists":false}}`},
		{`{"$or": [{"a": {"$in": []}}, {"b": {"$all": []}}]}`, `{"$or":[{"a":{"$in":[]}},{"b":{"$all":[]}}]}`},
		// A part that is always true does not make the whole so.
		{`{"$and": [{}, {"a": 1}]}`, `{"$and":[{},{"a":{"$eq":1}}]}`},
		{`{"a": {"$nin": []}, "b": 1}`, `{"a":{"$nin":[]},"b":{"$eq":1}}`},
		{`{"items": {"$elemMatch": {"a": {"$nin": []}}}}`, `{"items":{"$elemMatch":{"a":{"$nin":[]}}}}`},
		// Both can hold for a document with a list in a.
		{`{"$nor": [{"a": {"$gt": 5, "$lt": 3}}]}`, `{"$nor":[{"a":{"$gt":5,"$lt":3}}]}`},
	} {
		got, err := parsed(tc.condition)
		if err != nil {
			t.Errorf("%s: %v", tc.condition, err)
			continue
		}
		if text := shown(t, got.filter); text != tc.filter {
			t.Errorf("%s:\n got %s\nwant %s", tc.condition, text, tc.filter)
		}
	}
}

func TestConditionIsRefused(t *testing.T) {
	nested := `{"a": 1}`
	for range 12 {
		nested = `{"$and": [` + nested + `]}`
	}
	branches := strings.TrimSuffix(strings.Repeat(`{"a": 1},`, 51), ",")
	numbers := strings.TrimSuffix(strings.Repeat("1,", 1001), ",")
	many := strings.TrimSuffix(strings.Repeat(`{"a": {"$in": [`+numbers[:len(numbers)-2]+`]}},`, 6), ",")
	for _, tc := range []struct{ condition, want string }{
		{`{"$where": "sleep(1)"}`, "condition.$where: is not an accepted operator: here $and, $or, $nor and fields are"},
		{`{"$expr": {"$gt": ["$a", "$b"]}}`, "condition.$expr: is not an accepted operator"},
		{`{"$text": {"$search": "x"}}`, "condition.$text: is not"},
		{`{"$jsonSchema": {}}`, "condition.$jsonSchema: is not"},
		{`{"$comment": "x", "a": 1}`, "condition.$comment: is not"},
		{`{"a": {"$where": "1"}}`, "condition.a.$where: is not an accepted operator: here $eq, $ne,"},
		{`{"a": {"$not": {"$function": {}}}}`, "condition.a.$not.$function: is not"},
		{`{"$or": [{"a": {"$near": [1, 2]}}]}`, "condition.$or.0.a.$near: is not"},
		{`{"$gt": 5}`, `condition.$gt: belongs under a field, such as {"lastActive": {"$gt": ...}}`},
		{`{"a": {"$gt": 1, "b": 2}}`, "condition.a.b: stands beside an operator"},
		{`{"a": {"$date": "2025-01-31T00:00:00Z", "$gt": 1}}`, "condition.a.$date: is not an accepted operator"},
		{`{"a": {"b": {"$gt": 1}}}`, "condition.a.b.$gt: is not accepted inside a value"},
		{`{"a": {"b.c": 1}}`, "condition.a.b.c: is not accepted inside a value"},
		{`{"a": {"x": 1, "y": 2}}`, "condition.a: cannot be compared as a whole"},
		{`{"": 1}`, "it has an empty part"},
		{`{"a..b": 1}`, "it has an empty part"},
		{`{"a.$b": 1}`, "a part of it begins with $"},
		{`{"a\u0000": 1}`, "it holds a zero character"},
		{`{"` + strings.Repeat("a", 201) + `": 1}`, "it has more than 200 bytes"},
		{`{"lastActive": {"$lt": "6 fortnights ago"}}`, `condition.lastActive.$lt: "6 fortnights ago" is not a relative time: write`},
		{`{"a": {"$lt": "6 month before"}}`, `condition.a.$lt: "6 month before" is not a relative time`},
		{`{"a": {"$not": {"$gte": "six months ago"}}}`, "condition.a.$not.$gte: "},
		{`{"a": {"$lt": "6 Months Ago"}}`, "is not a relative time"},
		{`{"a": {"$lt": "6months"}}`, "is not a relative time"},
		{`{"a": {"$lt": "-6 months"}}`, "is not a relative time"},
		{`{"a": {"$lt": "a week ago"}}`, "is not a relative time"},
		{`{"a": {"$lt": "yesterday"}}`, "is not a relative time"},
		{`{"a": {"$lt": "0 days ago"}}`, "is out of range"},
		{`{"a": {"$lt": "500 years ago"}}`, "is out of range"},
		{`{"a": {"$lt": null}}`, "condition.a.$lt: must be a number, a string or a time"},
		{`{"a": {"$lt": true}}`, "condition.a.$lt: must be a number, a string or a time"},
		{`{"a": {"$lt": [1]}}`, "condition.a.$lt: must be a number, a string or a time"},
		{`{"a": {"$lt": {"b": 1}}}`, "condition.a.$lt: must be a number, a string or a time"},
		{`{"a": {"$lt": {"$date": "31.1.2025"}}}`, "condition.a.$lt.$date: must be a time such as"},
		{`{"a": {"$date": 5}}`, "condition.a.$date: must be a time such as"},
		{`{"a": {"$oid": "xyz"}}`, "condition.a.$oid: must be 24 hexadecimal digits"},
		{`{"a": {"$oid": "0123456789abcdef0123456z"}}`, "condition.a.$oid: must be 24"},
		{`{"a": {"$oid": "0123456789abcdef012345678"}}`, "condition.a.$oid: must be 24"},
		{`{"a": {"$in": 5}}`, "condition.a.$in: must be a list of at most 1000 values"},
		{`{"a": {"$in": [` + numbers + `]}}`, "condition.a.$in: must be a list of at most 1000 values"},
		{`{"a": [` + numbers + `]}`, "condition.a: must be a list of at most 1000 values"},
		{`{"a": {"$in": [{"$gt": 1}]}}`, "condition.a.$in.0.$gt: is not accepted inside a value"},
		{`{"a": {"$not": 5}}`, "condition.a.$not: must be an object of operators"},
		{`{"a": {"$not": {}}}`, "condition.a.$not: must hold an operator"},
		{`{"a": {"$exists": 1}}`, "condition.a.$exists: must be true or false"},
		{`{"a": {"$type": "javascript"}}`, "condition.a.$type: must be one of double"},
		{`{"a": {"$type": []}}`, "condition.a.$type: must be one of"},
		{`{"a": {"$type": ["string", 2]}}`, "condition.a.$type: must be one of"},
		{`{"a": {"$size": -1}}`, "condition.a.$size: must be a whole number"},
		{`{"a": {"$mod": [0, 1]}}`, "condition.a.$mod: must be [divisor, remainder]"},
		{`{"a": {"$mod": 5}}`, "condition.a.$mod: must be [divisor, remainder]"},
		{`{"a": {"$elemMatch": {}}}`, "condition.a.$elemMatch: must be a condition on the elements"},
		{`{"a": {"$elemMatch": {"$gt": 1, "$where": "x"}}}`, "condition.a.$elemMatch.$where: is not"},
		{`{"a": {"$regex": "(a)\\1"}}`, "condition.a.$regex: must be a regular expression without look-around or back references"},
		{`{"a": {"$regex": "(?=a)"}}`, "condition.a.$regex: must be"},
		{`{"a": {"$regex": "` + strings.Repeat("a", 257) + `"}}`, "condition.a.$regex: must be a string of at most 256 bytes"},
		{`{"a": {"$regex": "a", "$options": "g"}}`, "condition.a.$options: may hold the letters i, m, s and x only"},
		{`{"a": {"$options": "i"}}`, "condition.a.$options: needs a $regex beside it"},
		{`{"$and": {"a": 1}}`, "condition.$and: must be a list of 1 to 50 conditions"},
		{`{"$and": []}`, "condition.$and: must be a list of 1 to 50 conditions"},
		{`{"$or": [` + branches + `]}`, "condition.$or: must be a list of 1 to 50 conditions"},
		{`{"$or": ["a"]}`, "condition.$or.0: must be a condition"},
		{`{"a": "` + strings.Repeat("x", 4097) + `"}`, "condition.a: is too long"},
		{nested, "is nested too deep: at most 10 levels"},
		{`{"$or": [` + many + `]}`, "makes the condition too large: at most 5000 values"},
	} {
		_, err := parsed(tc.condition)
		var invalid *template.ParamsError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.80s:\n got %v\nwant %s", tc.condition, err, tc.want)
		}
	}
	for _, value := range []any{struct{}{}, int64(1)} {
		if _, err := parseCondition(map[string]any{"a": value}, origin, nil); err == nil || !strings.Contains(err.Error(), "condition.a: must be a JSON value") {
			t.Errorf("%T: got %v", value, err)
		}
	}
}

func TestAlwaysTrueConditionIsRefused(t *testing.T) {
	for _, text := range []string{
		`{}`,
		`null`,
		`{"$and": [{}]}`,
		`{"$and": [{}, {"$or": [{"a": 1}, {}]}]}`,
		`{"$or": [{}, {"a": 1}]}`,
		`{"$or": [{"a": 1}, {"_id": {"$exists": true}}]}`,
		`{"_id": {"$exists": true}}`,
		`{"_id": {"$ne": null}}`,
		`{"_id": {"$not": {"$eq": null}}}`,
		`{"_id": {"$gt": ""}}`,
		`{"_id": {"$gte": {"$oid": "000000000000000000000000"}}}`,
		`{"_id": {"$lte": {"$oid": "ffffffffffffffffffffffff"}}}`,
		`{"_id": {"$regex": "^.*$"}}`,
		`{"x": {"$nin": []}}`,
		`{"x": {"$not": {"$in": []}}}`,
		`{"x": {"$not": {"$all": []}}}`,
		`{"x": {"$nin": []}, "y": {"$nin": []}}`,
		`{"$nor": [{"x": {"$in": []}}]}`,
		`{"$nor": [{"_id": {"$exists": false}}, {"y": {"$in": []}}]}`,
		`{"$nor": [{"x": {"$elemMatch": {"y": {"$in": []}}}}]}`,
		`{"$nor": [{"$and": [{"x": 1}, {"x": {"$ne": 1}}]}]}`,
		`{"$or": [{"x": {"$exists": true}}, {"x": {"$exists": false}}]}`,
		`{"$or": [{"x": 1}, {"x": {"$ne": 1}}]}`,
		`{"$or": [{"x": {"$ne": 1}}, {"y": 2}, {"x": 1}]}`,
		`{"$or": [{"x": {"$in": [1, 2]}}, {"x": {"$nin": [1, 2]}}]}`,
		`{"$or": [{"x": {"$gt": 1}}, {"x": {"$not": {"$gt": 1}}}]}`,
		`{"$or": [{"x": {"$not": {"$gt": 1, "$lt": 5}}}, {"x": {"$gt": 1, "$lt": 5}}]}`,
		`{"$or": [{"a": 1, "b": 2}, {"$nor": [{"a": 1, "b": 2}]}]}`,
		`{"$or": [{"$nor": [{"a": 1}, {"b": 2}]}, {"$or": [{"a": 1}, {"b": 2}]}]}`,
		`{"x": {"$not": {"$in": [1], "$nin": [1]}}}`,
	} {
		if _, err := parsed(text); err == nil || !strings.HasPrefix(err.Error(), "condition: would match every document") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestConditionKnowsItsDates(t *testing.T) {
	got, err := parsed(`{"$or": [{"z": {"$lt": "1 day ago"}}, {"a": {"$in": [{"$date": "2025-01-31T00:00:00Z"}]}}], "items": {"$elemMatch": {"at": {"$gt": "1 day ago"}}}, "n": {"$lt": 5}, "l": {"$elemMatch": {"$lt": "1 day ago"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "items.at", "l", "z"}; !reflect.DeepEqual(got.dates, want) {
		t.Errorf("got %v, want %v", got.dates, want)
	}
}

func TestRelativeTimesFollowTheZone(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCondition(map[string]any{"a": map[string]any{"$lt": "1 month ago"}}, time.Date(2025, 3, 30, 22, 30, 0, 0, time.UTC), berlin)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shown(t, c.filter), `{"a":{"$lt":{"$date":"2025-02-27T23:30:00Z"}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzCondition(f *testing.F) {
	for _, seed := range []string{
		`{"lastActive": {"$lt": "6 months ago"}}`,
		`{"$or": [{"a": {"$in": [1, null, {"$oid": "0123456789abcdef01234567"}]}}, {"$nor": [{"b": {"$not": {"$regex": "x", "$options": "i"}}}]}]}`,
		`{"a": {"$elemMatch": {"$gt": {"$date": "2025-01-31T00:00:00Z"}}}, "b": {"$type": ["int"]}, "c": {"$mod": [2, 0]}, "d": {"$size": 1}}`,
		`{"$where": "1", "a": {"$exists": true}, "_id": {"$ne": null}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parsed(text)
		if err != nil {
			return
		}
		if _, err := bson.Marshal(c.filter); err != nil {
			t.Errorf("the filter of %s cannot be sent: %v", text, err)
		}
		if len(c.filter) == 0 {
			t.Errorf("%s gives an empty filter", text)
		}
		onlyAllowed(t, text, c.filter)
		if again, err := parsed(text); err != nil || key(again.filter) != key(c.filter) {
			t.Errorf("%s gives another filter the second time: %v, %v", text, again.filter, err)
		}
	})
}

func onlyAllowed(t *testing.T, text string, v any) {
	switch v := v.(type) {
	case bson.D:
		for _, e := range v {
			if strings.HasPrefix(e.Key, "$") && !slices.Contains(logical, e.Key) && !slices.Contains(fieldOperators, e.Key) {
				t.Errorf("%s lets %s through", text, e.Key)
			}
			onlyAllowed(t, text, e.Value)
		}
	case bson.A:
		for _, element := range v {
			onlyAllowed(t, text, element)
		}
	case nil, bool, string, int64, float64, bson.DateTime, bson.ObjectID:
	default:
		t.Errorf("%s gives a value of type %T", text, v)
	}
}

// TestTruthIsSound compares the verdicts on random conditions with documents
// that are looked at one by one.
func TestTruthIsSound(t *testing.T) {
	atoms := []string{
		`{"x": 1}`, `{"x": {"$ne": 1}}`, `{"x": {"$exists": true}}`, `{"x": {"$exists": false}}`, `{"x": {"$in": []}}`, `{"x": {"$nin": []}}`, `{"x": {"$in": [1, 2]}}`, `{"x": {"$not": {"$in": [1, 2]}}}`, `{}`,
	}
	documents := []any{nil, 1.0, 2.0, 3.0} // nil: x is missing
	verdicts := map[truth]int{}
	var conditions []string
	for _, a := range atoms {
		conditions = append(conditions, a)
		for _, b := range atoms {
			for _, op := range logical {
				conditions = append(conditions, `{"`+op+`": [`+a+`, `+b+`]}`, `{"$nor": [{"`+op+`": [`+a+`, `+b+`]}]}`, `{"`+op+`": [{"$or": [`+a+`]}, `+b+`, `+a+`]}`)
			}
		}
	}
	for _, text := range conditions {
		var raw map[string]any
		if err := json.Unmarshal([]byte(text), &raw); err != nil {
			t.Fatal(err)
		}
		p := parser{origin: origin, zone: time.UTC, dates: map[string]bool{}}
		c, err := p.expression(at{path: "condition"}, raw)
		if err != nil {
			t.Fatal(err)
		}
		matches := 0
		for _, x := range documents {
			if holds(t, raw, x) {
				matches++
			}
		}
		verdicts[c.truth]++
		if c.truth == always && matches != len(documents) || c.truth == never && matches != 0 {
			t.Errorf("%s is called %d but matches %d of %d documents", text, c.truth, matches, len(documents))
		}
	}
	if verdicts[always] < 50 || verdicts[never] < 50 || verdicts[some] < 50 {
		t.Errorf("the examples are one-sided: %v", verdicts)
	}
}

// holds evaluates a condition on one field x, by the manual of the server.
func holds(t *testing.T, raw map[string]any, x any) bool {
	for name, value := range raw {
		result := false
		switch name {
		case "$and", "$or", "$nor":
			n := 0
			for _, inner := range value.([]any) {
				if holds(t, inner.(map[string]any), x) {
					n++
				}
			}
			result = map[string]bool{"$and": n == len(value.([]any)), "$or": n > 0, "$nor": n == 0}[name]
		case "x":
			operators, ok := value.(map[string]any)
			if !ok {
				operators = map[string]any{"$in": []any{value}}
			}
			result = true
			for op, operand := range operators {
				in := func(list any) bool { return slices.Contains(list.([]any), x) }
				switch op {
				case "$ne":
					result = result && x != operand
				case "$exists":
					result = result && (x != nil) == operand
				case "$in":
					result = result && in(operand)
				case "$nin":
					result = result && !in(operand)
				case "$not":
					result = result && !in(operand.(map[string]any)["$in"])
				default:
					t.Fatal("unknown operator " + strconv.Quote(op))
				}
			}
		}
		if !result {
			return false
		}
	}
	return true
}
