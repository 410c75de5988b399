package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	maxBody  = 1 << 20 // bytes
	maxDepth = 64      // levels of nesting; templates ask for less
	maxWhole = 1 << 53 // the largest whole number up to which a float64 has all
)

// object is a JSON body that was found to be an object of bounded depth without
// repeated keys.
type object struct {
	text  []byte
	keys  []string        // of the top level, in their order
	nulls map[string]bool // those of them that are null
	spots []spot
}

// spot is where a value, or the key of a field, begins.
type spot struct {
	offset int
	path   string
}

// parseObject reads a body. An empty one counts as {}.
func parseObject(text []byte) (*object, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{}")
	}
	var probe json.RawMessage
	if err := json.Unmarshal(text, &probe); err != nil {
		return nil, invalid(kindMalformed, violations{{"", "the body is not valid JSON: " + err.Error()}})
	}
	if !utf8.Valid(text) {
		return nil, invalid(kindMalformed, violations{{"", "the body is not valid UTF-8"}})
	}
	o := &object{text: text, nulls: map[string]bool{}}
	w := &walker{object: o, decoder: json.NewDecoder(bytes.NewReader(text))}
	w.decoder.UseNumber()
	if first, _ := w.token(""); first != json.Delim('{') {
		return nil, invalid(kindMalformed, violations{{"", "the body must be a JSON object"}})
	}
	if err := w.members("", 1); err != nil {
		return nil, err
	}
	return o, nil
}

// walker reads a text that is known to be valid JSON.
type walker struct {
	*object
	decoder *json.Decoder
}

// token returns the next token, noting where it begins.
func (w *walker) token(path string) (json.Token, error) {
	from := int(w.decoder.InputOffset())
	for from < len(w.text) && strings.IndexByte(" \t\r\n,:", w.text[from]) >= 0 {
		from++
	}
	w.spots = append(w.spots, spot{from, path})
	t, err := w.decoder.Token()
	if err != nil { // a lone surrogate and the like pass one decoder and not the other
		return nil, invalid(kindMalformed, violations{{path, "is not valid JSON: " + err.Error()}})
	}
	return t, nil
}

func (w *walker) members(path string, depth int) error {
	seen := map[string]bool{}
	for w.decoder.More() {
		t, err := w.token(path)
		if err != nil {
			return err
		}
		key, _ := t.(string)
		inner := join(path, key)
		w.spots[len(w.spots)-1].path = inner
		if seen[key] {
			return invalid(kindMalformed, violations{{inner, "is given twice: give it once"}})
		}
		seen[key] = true
		null, err := w.value(inner, depth)
		if err != nil {
			return err
		}
		if path == "" {
			w.keys = append(w.keys, key)
			w.nulls[key] = null
		}
	}
	_, err := w.token(path) // the closing brace
	return err
}

func (w *walker) value(path string, depth int) (null bool, err error) {
	t, err := w.token(path)
	if err != nil {
		return false, err
	}
	if n, ok := t.(json.Number); ok && !exact(n) {
		return false, invalid(kindInvalid, violations{{path, fmt.Sprintf("is a whole number beyond ±%d and could not be kept exactly: give a smaller one, or text", maxWhole)}})
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t == nil, nil
	}
	if depth == maxDepth {
		return false, invalid(kindMalformed, violations{{path, fmt.Sprintf("is nested more than %d levels deep", maxDepth)}})
	}
	if open == '{' {
		return false, w.members(path, depth+1)
	}
	for i := 0; w.decoder.More(); i++ {
		if _, err := w.value(path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return false, err
		}
	}
	_, err = w.token(path) // the closing bracket
	return false, err
}

// exact tells whether a number stays the same as a float64, which is what numbers
// in free-form objects become. Fractions are approximate anyway.
func exact(n json.Number) bool {
	if strings.ContainsAny(string(n), ".eE") {
		return true
	}
	whole, err := n.Int64()
	return err == nil && whole >= -maxWhole && whole <= maxWhole
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// decode fills the message, naming the field that does not fit.
func (o *object) decode(m protoreflect.ProtoMessage) error {
	err := protojson.Unmarshal(o.text, m)
	if err == nil {
		return nil
	}
	field, message := o.locate(err)
	return invalid(kindInvalid, violations{{field, message}})
}

// protojson tells lines and columns for machines; these are its sentences.
var (
	positioned   = regexp.MustCompile(`^(?s).*?\(line (\d+):(\d+)\): (.*)$`)
	unknownField = regexp.MustCompile(`^unknown field "`)
	invalidValue = regexp.MustCompile(`^invalid value for (\w+) (?:field|type) `)
	invalidKnown = regexp.MustCompile(`^(?:invalid|unexpected token|.*) google\.protobuf\.(\w+)`)
)

// wanted says what to give instead, by protobuf type.
var wanted = map[string]string{
	"int32": "must be a whole number", "int64": "must be a whole number", "double": "must be a number",
	"bool": "must be true or false", "string": "must be a string",
	"Timestamp": `must be a time such as "2030-01-31T08:00:00Z"`, "Struct": "must be an object",
}

func (o *object) locate(err error) (field, message string) {
	m := positioned.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\u00a0", " "))
	if m == nil {
		return "", "the body does not fit: " + strings.TrimPrefix(err.Error(), "proto: ")
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	field, said := o.at(line, column), m[3]
	switch {
	case unknownField.MatchString(said):
		return field, "is not a known field: remove it or correct its name"
	case invalidValue.MatchString(said):
		if w, ok := wanted[invalidValue.FindStringSubmatch(said)[1]]; ok {
			return field, w
		}
	case invalidKnown.MatchString(said):
		if w, ok := wanted[invalidKnown.FindStringSubmatch(said)[1]]; ok {
			return field, w
		}
	case strings.HasPrefix(said, "unexpected token"):
		return field, "has the wrong type: " + said
	case strings.HasPrefix(said, "duplicate field"):
		return field, "is given twice, under two spellings: give it once"
	}
	return field, "cannot be used: " + said
}

// at returns the path of what begins at a line and column (in characters), both
// from 1, or last before it.
func (o *object) at(line, column int) string {
	offset := 0
	for ; line > 1; line-- {
		next := bytes.IndexByte(o.text[offset:], '\n')
		if next < 0 {
			break
		}
		offset += next + 1
	}
	for ; column > 1 && offset < len(o.text); column-- {
		_, size := utf8.DecodeRune(o.text[offset:])
		offset += size
	}
	i, found := slices.BinarySearchFunc(o.spots, offset, func(s spot, at int) int { return s.offset - at })
	if !found {
		i--
	}
	if i < 0 {
		return ""
	}
	return o.spots[i].path
}

// mask names the fields of the message that the body mentions, in the
// protocol's spelling. A version that is null asks for nothing.
func (o *object) mask(of protoreflect.MessageDescriptor) []string {
	var paths []string
	for _, key := range o.keys {
		f := of.Fields().ByName(protoreflect.Name(key))
		if f == nil {
			f = of.Fields().ByJSONName(key)
		}
		if f == nil || f.Name() == "version" && o.nulls[key] {
			continue
		}
		paths = append(paths, string(f.Name()))
	}
	return paths
}

// checkQuery refuses parameters that the route does not have and values that do
// not fit, before the gateway sees them.
func checkQuery(query url.Values, allowed map[string]protoreflect.FieldDescriptor) error {
	var bad violations
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := query[name]
		f, ok := allowed[name]
		switch {
		case !ok && len(allowed) == 0:
			bad.add(name, "is not a known query parameter: this route has none")
			continue
		case !ok:
			known := make([]string, 0, len(allowed))
			for k := range allowed {
				known = append(known, k)
			}
			slices.Sort(known)
			bad.add(name, "is not a known query parameter: known are %s", strings.Join(known, ", "))
			continue
		case len(values) > 1 && !f.IsList():
			bad.add(name, "is given twice: give it once")
			continue
		}
		for _, v := range values {
			switch f.Kind() {
			case protoreflect.Int32Kind:
				if _, err := strconv.ParseInt(v, 10, 32); err != nil {
					bad.add(name, "must be a whole number, not %q", v)
				}
			case protoreflect.BoolKind:
				if v != "true" && v != "false" {
					bad.add(name, "must be true or false, not %q", v)
				}
			case protoreflect.MessageKind: // a time: no other message is a parameter
				if at, err := time.Parse(time.RFC3339Nano, v); err != nil || timestamppb.New(at).CheckValid() != nil {
					bad.add(name, `must be a time such as "2030-01-31T12:00:00Z" (with an offset, write its + as %%2B)`)
				}
			default:
				if !utf8.ValidString(v) {
					bad.add(name, "is not valid UTF-8")
				}
			}
		}
	}
	return bad.err()
}
