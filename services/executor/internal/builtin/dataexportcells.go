package builtin

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// maxColumns is how many columns a table may have.
const maxColumns = 1_000

// cell is a value in a table.
type cell struct {
	kind cellKind
	text string // what a CSV file has; for text, before it is made harmless
}

type cellKind int

const (
	cellEmpty  cellKind = iota
	cellText            // anything that people may have typed, and what has no other kind
	cellNumber          // what a spreadsheet can hold as a number without losing digits
	cellDigits          // a number with more digits than that
	cellBool
)

// spreadsheetDigits is the largest whole number of which spreadsheets show and
// keep every digit.
const spreadsheetDigits = 999_999_999_999_999

// columns are the columns of a table: paths into documents or, when all is set,
// the names of their own fields.
type columns struct {
	names []string
	paths [][]string
	all   bool
	index map[string]int // of names
}

// columnsOf returns the columns for the fields asked for.
func columnsOf(fields []string) columns {
	c := columns{names: fields, paths: make([][]string, len(fields))}
	for i, field := range fields {
		c.paths[i] = strings.Split(field, ".")
	}
	return c
}

// discover adds the fields of a document, in the order of their appearance.
func (c *columns) discover(document bson.Raw) error {
	elements, err := document.Elements()
	if err != nil {
		return err
	}
	if c.index == nil {
		c.all, c.index = true, map[string]int{}
	}
	for _, element := range elements {
		name := element.Key()
		if _, ok := c.index[name]; ok {
			continue
		}
		if len(c.names) == maxColumns {
			return template.Fail(template.CodeLimit, "the documents have more than %d different fields: name those wanted in fields", maxColumns)
		}
		c.index[name] = len(c.names)
		c.names = append(c.names, name)
	}
	return nil
}

// row fills cells, one for each column, from a document. Missed is whether the
// document has fields that are in no column although all were wanted.
func (c *columns) row(document bson.Raw, cells []cell) (missed bool, err error) {
	clear(cells)
	if !c.all {
		for i, path := range c.paths {
			if cells[i], err = cellAt(document, path); err != nil {
				return false, fmt.Errorf("field %q: %w", c.names[i], err)
			}
		}
		return false, nil
	}
	elements, err := document.Elements()
	if err != nil {
		return false, err
	}
	for _, element := range elements {
		i, ok := c.index[element.Key()]
		if !ok {
			missed = true
			continue
		}
		if cells[i], err = cellOf(element.Value()); err != nil {
			return missed, fmt.Errorf("field %q: %w", element.Key(), err)
		}
	}
	return missed, nil
}

// cellAt returns what a path leads to. As in MongoDB's own conditions a path
// goes through the elements of a list; then the cell has a list of what was
// found.
func cellAt(document bson.Raw, path []string) (cell, error) {
	var found []bson.RawValue
	root := bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: document}
	switch many, err := gather(root, path, &found); {
	case err != nil || len(found) == 0:
		return cell{}, err
	case !many:
		return cellOf(found[0])
	}
	parts := make([]string, len(found))
	for i, value := range found {
		var err error
		if parts[i], err = jsonOf(value); err != nil {
			return cell{}, err
		}
	}
	return cell{kind: cellText, text: "[" + strings.Join(parts, ",") + "]"}, nil
}

// gather collects what a path leads to, and tells whether it went through a list.
func gather(value bson.RawValue, path []string, found *[]bson.RawValue) (many bool, err error) {
	if len(path) == 0 {
		*found = append(*found, value)
		return false, nil
	}
	switch value.Type {
	case bson.TypeEmbeddedDocument:
		inner, err := bson.Raw(value.Value).LookupErr(path[0])
		if err != nil {
			return false, lookupFailure(err)
		}
		return gather(inner, path[1:], found)
	case bson.TypeArray:
		if _, err := strconv.ParseUint(path[0], 10, 31); err == nil {
			inner, err := bson.Raw(value.Value).LookupErr(path[0])
			if err != nil {
				return false, lookupFailure(err)
			}
			return gather(inner, path[1:], found)
		}
		elements, err := bson.Raw(value.Value).Values()
		if err != nil {
			return false, err
		}
		for _, element := range elements {
			if element.Type == bson.TypeEmbeddedDocument {
				if _, err := gather(element, path, found); err != nil {
					return true, err
				}
			}
		}
		return true, nil
	default:
		return false, nil
	}
}

// lookupFailure is nil for what is only missing.
func lookupFailure(err error) error {
	if errors.Is(err, bsoncore.ErrElementNotFound) {
		return nil
	}
	return err
}

// cellOf converts a value: numbers and booleans as they are, dates as RFC 3339 in
// UTC, ids in hexadecimal, UUIDs in their usual form, other binary data in
// base 64, documents and lists as relaxed extended JSON, nothing for null.
func cellOf(value bson.RawValue) (cell, error) {
	if err := value.Validate(); err != nil {
		return cell{}, err
	}
	text := func(s string) (cell, error) { return cell{kind: cellText, text: s}, nil }
	switch value.Type {
	case bson.TypeNull, bson.TypeUndefined:
		return cell{}, nil
	case bson.TypeString:
		return text(value.StringValue())
	case bson.TypeSymbol:
		return text(value.Symbol())
	case bson.TypeObjectID:
		return text(value.ObjectID().Hex())
	case bson.TypeDateTime:
		return text(time.UnixMilli(value.DateTime()).UTC().Format(time.RFC3339Nano))
	case bson.TypeBoolean:
		return cell{kind: cellBool, text: strconv.FormatBool(value.Boolean())}, nil
	case bson.TypeInt32:
		return cell{kind: cellNumber, text: strconv.Itoa(int(value.Int32()))}, nil
	case bson.TypeInt64:
		n := value.Int64()
		kind := cellNumber
		if n > spreadsheetDigits || n < -spreadsheetDigits {
			kind = cellDigits
		}
		return cell{kind: kind, text: strconv.FormatInt(n, 10)}, nil
	case bson.TypeDouble:
		f := value.Double()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return text(strconv.FormatFloat(f, 'g', -1, 64))
		}
		return cell{kind: cellNumber, text: strconv.FormatFloat(f, 'g', -1, 64)}, nil
	case bson.TypeDecimal128:
		d := value.Decimal128()
		if d.IsNaN() || d.IsInf() != 0 {
			return text(d.String())
		}
		return cell{kind: cellDigits, text: d.String()}, nil
	case bson.TypeBinary:
		const uuid = 4
		kind, data := value.Binary()
		if h := hex.EncodeToString(data); kind == uuid && len(data) == 16 {
			return text(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
		}
		return text(base64.StdEncoding.EncodeToString(data))
	default:
		s, err := jsonOf(value)
		if err != nil {
			return cell{}, err
		}
		return text(s)
	}
}

// jsonOf returns a value as relaxed extended JSON.
func jsonOf(value bson.RawValue) (string, error) {
	// Only documents can be encoded, so it is put into one and taken out again.
	encoded, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: value}}, false, false)
	if err != nil {
		return "", err
	}
	return string(encoded[len(`{"v":`) : len(encoded)-1]), nil
}

// formulaStarts are what spreadsheets take for the beginning of a formula, the
// full-width forms included.
const formulaStarts = "=+-@\t\r\n＝＋－＠"

// harmless keeps a spreadsheet from calculating a text that somebody typed into a
// form: it puts an apostrophe before one that begins like a formula.
func harmless(s string) string {
	if first, _ := utf8.DecodeRuneInString(s); s != "" && strings.ContainsRune(formulaStarts, first) {
		return "'" + s
	}
	return s
}

// projection returns what a server has to send for the fields: their paths, up to
// the first that counts elements of a list, which servers do not understand. A
// path within another one is left out, for servers refuse that.
func projection(fields []string) bson.D {
	if len(fields) == 0 {
		return nil
	}
	cut := make([]string, len(fields))
	for i, field := range fields {
		parts := strings.Split(field, ".")
		if n := slices.IndexFunc(parts, func(part string) bool { _, err := strconv.ParseUint(part, 10, 31); return err == nil }); n > 0 {
			parts = parts[:n]
		}
		cut[i] = strings.Join(parts, ".")
	}
	wanted := bson.D{}
	for i, field := range cut {
		covered := slices.ContainsFunc(cut, func(other string) bool { return strings.HasPrefix(field, other+".") })
		if !covered && !slices.Contains(cut[:i], field) {
			wanted = append(wanted, bson.E{Key: field, Value: 1})
		}
	}
	if !slices.Contains(cut, "_id") && !slices.ContainsFunc(cut, func(f string) bool { return strings.HasPrefix(f, "_id.") }) {
		wanted = append(wanted, bson.E{Key: "_id", Value: 0})
	}
	return wanted
}
