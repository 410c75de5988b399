package mongostore

import (
	"encoding/json"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// through writes JSON as it is kept and reads it back.
func through(t *testing.T, text string) (o object, back string) {
	t.Helper()
	o = toObject(json.RawMessage(text))
	raw, err := bson.Marshal(bson.D{{Key: "v", Value: o.document}, {Key: "text", Value: o.text}})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var read struct {
		V    any    `bson:"v"`
		Text string `bson:"text"`
	}
	if err := bson.Unmarshal(raw, &read); err != nil {
		t.Fatal(err)
	}
	result, err := object{read.V, read.Text}.json()
	if err != nil {
		t.Fatal(err)
	}
	return o, string(result)
}

func TestJSONComesBackToTheByte(t *testing.T) {
	for name, test := range map[string]struct {
		text     string
		document string // its keys and values, as the server sees them; empty for none
		beside   bool   // the text stands beside it
	}{
		"nothing":              {text: ``},
		"plain":                {text: `{"b":1,"a":[true,null,"x"],"c":{}}`, document: `{"b":1,"a":[true,null,"x"],"c":{}}`},
		"the order of keys":    {text: `{"z":1,"a":2}`, document: `{"z":1,"a":2}`},
		"operators and dots":   {text: `{"$lt":{"a.b":1},"$":2}`, document: `{"＄lt":{"a．b":1},"＄":2}`},
		"full-width already":   {text: `{"＄lt":1,"$lt":2,"a．b":3,"a.b":4,"＼＄":5,"＼":6}`, document: `{"＼＄lt":1,"＄lt":2,"a＼．b":3,"a．b":4,"＼＼＼＄":5,"＼＼":6}`},
		"integers":             {text: `{"max":9223372036854775807,"min":-9223372036854775808,"i":2147483648}`, document: `{"max":9223372036854775807,"min":-9223372036854775808,"i":2147483648}`},
		"beyond 64 bits":       {text: `{"n":12345678901234567890}`, document: `{"n":12345678901234567000}`, beside: true},
		"many digits":          {text: `{"n":0.1000000000000000055511151231257827}`, document: `{"n":0.1}`, beside: true},
		"fractions":            {text: `{"n":0.5,"m":-1.25}`, document: `{"n":0.5,"m":-1.25}`},
		"a whole fraction":     {text: `{"n":1.0}`, document: `{"n":1}`, beside: true},
		"an exponent":          {text: `{"n":1e3}`, document: `{"n":1000}`, beside: true},
		"beyond doubles":       {text: `{"n":1e999}`, beside: true},
		"an escape":            {text: `{"s":"\u003c"}`, document: `{"s":"<"}`, beside: true},
		"what HTML escapes":    {text: `{"s":"<&>"}`, document: `{"s":"<&>"}`},
		"white space":          {text: "{ \"a\" : 1 }", document: `{"a":1}`, beside: true},
		"a key twice":          {text: `{"a":1,"b":2,"a":3}`, document: `{"a":3,"b":2}`, beside: true},
		"an empty key":         {text: `{"":1}`, beside: true},
		"a zero in a key":      {text: `{"\u0000":1}`, beside: true},
		"no object":            {text: `[1]`, beside: true},
		"what is no JSON":      {text: `{"a":`, beside: true},
		"more than one":        {text: `{"a":1}{}`, beside: true},
		"deeper than a server": {text: strings.Repeat(`{"a":`, 120) + `1` + strings.Repeat(`}`, 120), beside: true},
	} {
		t.Run(name, func(t *testing.T) {
			o, back := through(t, test.text)
			if back != test.text {
				t.Errorf("it came back as %s", back)
			}
			if (o.text != "") != test.beside {
				t.Errorf("text beside it: %q", o.text)
			}
			seen := ""
			if d, ok := o.document.(bson.D); ok {
				raw, err := plainJSON(d)
				if err != nil {
					t.Fatal(err)
				}
				seen = raw
			}
			if seen != test.document {
				t.Errorf("the server sees %s, want %s", seen, test.document)
			}
		})
	}
}

// plainJSON renders a document with its keys as they are.
func plainJSON(d bson.D) (string, error) {
	var escape func(v any) any
	escape = func(v any) any {
		switch v := v.(type) {
		case bson.D:
			out := bson.D{}
			for _, e := range v {
				out = append(out, bson.E{Key: escapeKey(e.Key), Value: escape(e.Value)})
			}
			return out
		case bson.A:
			out := bson.A{}
			for _, e := range v {
				out = append(out, escape(e))
			}
			return out
		default:
			return v
		}
	}
	text, err := render(escape(d)) // which takes the escapes off again
	return string(text), err
}

func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"a":1}`, `{"＄":{"$":[1.5,-0,"\ud800"]}}`, `{"a":1e400}`, "{\"\xff\":0}", `{"＼＼．":null}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, back := through(t, text); back != text {
			t.Errorf("%q came back as %q", text, back)
		}
	})
}

func FuzzEscapeKey(f *testing.F) {
	for _, key := range []string{"", "a", "$a.b", "＄", "＼．", "＼＼$", "．.＄$＼"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		escaped := escapeKey(key)
		if strings.ContainsAny(escaped, "$.") {
			t.Errorf("%q holds what no key may hold", escaped)
		}
		if back := unescapeKey(escaped); back != key {
			t.Errorf("%q became %q became %q", key, escaped, back)
		}
	})
}

func TestWhatIsNoJSONInADocument(t *testing.T) {
	for _, v := range []any{bson.D{{Key: "a", Value: bson.DateTime(0)}}, bson.D{{Key: "a", Value: bson.A{bson.MinKey{}}}}} {
		if text, err := (object{document: v}).json(); err == nil {
			t.Errorf("%v is %s", v, text)
		}
	}
}

func TestLabels(t *testing.T) {
	for _, labels := range []map[string]string{nil, {}, {"a": "1", "x.y": "$z", "$": ""}} {
		back := fromLabels(toLabels(labels))
		if (back == nil) != (labels == nil) || len(back) != len(labels) {
			t.Errorf("%v came back as %v", labels, back)
		}
		for k, v := range labels {
			if back[k] != v {
				t.Errorf("%q came back as %q", v, back[k])
			}
		}
	}
}
