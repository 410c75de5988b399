package mongostore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// object is free-form JSON as it is kept: as a document, for whoever queries the
// database, and beside it as text where the document alone would not give back
// the very same bytes (numbers beyond 64 bits, 1.0, escapes, white space).
type object struct {
	document any // bson.D or nil
	text     string
}

// maxDepth is how deep documents may be nested; deeper ones are kept as text.
// MongoDB takes 100 levels, of which the record has some itself.
const maxDepth = 80

func toObject(text json.RawMessage) object {
	if len(text) == 0 {
		return object{}
	}
	document, err := parse(text)
	if err != nil {
		return object{text: string(text)}
	}
	back, err := render(document)
	if err != nil || !bytes.Equal(back, text) {
		return object{document: document, text: string(text)}
	}
	return object{document: document}
}

func (o object) json() (json.RawMessage, error) {
	switch {
	case o.text != "":
		return json.RawMessage(o.text), nil
	case o.document == nil:
		return nil, nil
	default:
		return render(o.document)
	}
}

var errDocument = errors.New("this cannot be said as a document")

// parse turns JSON into a document, in the order of its keys.
func parse(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errDocument
	}
	if _, ok := v.(bson.D); !ok {
		return nil, errDocument
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDocument
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			list := bson.A{}
			for d.More() {
				v, err := parseValue(d, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		return parseObject(d, depth)
	case json.Number:
		if n, err := strconv.ParseInt(token.String(), 10, 64); err == nil {
			return n, nil
		}
		return token.Float64()
	default: // string, bool or nil
		return token, nil
	}
}

func parseObject(d *json.Decoder, depth int) (any, error) {
	document := bson.D{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok || key == "" || strings.ContainsRune(key, 0) {
			return nil, errDocument
		}
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		key = escapeKey(key)
		if at := slices.IndexFunc(document, func(e bson.E) bool { return e.Key == key }); at >= 0 {
			document[at].Value = v // the last one counts
			continue
		}
		document = append(document, bson.E{Key: key, Value: v})
	}
	_, err := d.Token()
	return document, err
}

// render turns a document into JSON.
func render(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := renderValue(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func renderValue(b *bytes.Buffer, v any) error {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bson.D:
		b.WriteByte('{')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := renderPlain(b, unescapeKey(e.Key)); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := renderValue(b, e.Value); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case bson.A:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := renderValue(b, e); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%w: %v", errDocument, v)
		}
		return renderPlain(b, v)
	case string, bool, int32, int64:
		return renderPlain(b, v)
	default:
		return fmt.Errorf("a value of type %T is no JSON", v)
	}
	return nil
}

func renderPlain(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the line's end
	return nil
}

// Keys of documents can hold neither "$" nor "." everywhere. Their full-width
// forms stand for them, and a full-width backslash before what was full-width
// from the start.
const fullWidth = "＄．＼"

var (
	escaper   = strings.NewReplacer("＄", "＼＄", "．", "＼．", "＼", "＼＼", "$", "＄", ".", "．")
	unescaper = strings.NewReplacer("＼＄", "＄", "＼．", "．", "＼＼", "＼", "＄", "$", "．", ".")
)

func escapeKey(key string) string {
	if !strings.ContainsAny(key, "$."+fullWidth) {
		return key
	}
	return escaper.Replace(key)
}

func unescapeKey(key string) string {
	if !strings.ContainsAny(key, fullWidth) {
		return key
	}
	return unescaper.Replace(key)
}

// toLabels keeps labels as a document, nil apart from empty.
func toLabels(labels map[string]string) any {
	if labels == nil {
		return nil
	}
	d := make(bson.D, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		d = append(d, bson.E{Key: escapeKey(k), Value: labels[k]})
	}
	return d
}

func fromLabels(v any) map[string]string {
	d, ok := v.(bson.D)
	if !ok {
		return nil
	}
	labels := make(map[string]string, len(d))
	for _, e := range d {
		labels[unescapeKey(e.Key)], _ = e.Value.(string)
	}
	return labels
}
