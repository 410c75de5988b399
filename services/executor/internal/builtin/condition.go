package builtin

import (
	"encoding/hex"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Bounds of a condition. They are far above what people write and far below
// what could trouble a server.
const (
	maxDepth    = 10    // objects and lists inside one another
	maxValues   = 5_000 // keys and list elements together
	maxBranches = 50    // of $and, $or, $nor
	maxList     = 1_000 // elements of $in, $nin, $all
	maxText     = 4_096 // bytes of a string
	maxPattern  = 256   // bytes of a $regex
	maxName     = 200   // bytes of a field's path
)

// logical and fieldOperators are all the operators a condition may use. What
// runs code, searches by index or hides from analysis ($where, $expr, $text,
// $jsonSchema, $comment, ...) is not among them.
var (
	logical        = []string{"$and", "$or", "$nor"}
	fieldOperators = []string{
		"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$not", "$exists", "$type", "$regex", "$options", "$size", "$all", "$elemMatch", "$mod",
	}
	typeNames = []string{
		"double", "string", "object", "array", "binData", "objectId", "bool", "date", "null", "regex", "int", "timestamp", "long", "decimal", "number",
	}
)

// conditionFormat marks parameters that are conditions, for forms that help to
// write them.
const conditionFormat = "condition"

// condition is a parsed condition, ready to be sent.
type condition struct {
	filter bson.D
	dates  []string // paths of the fields that are compared with a date, sorted
}

// parseCondition turns the JSON form of a MongoDB condition into a filter made
// of allowed operators only. Relative times count back from origin in zone. It
// refuses, as a *template.ParamsError, what is unknown, unbounded, or evidently
// true for every document. Keys are sorted, so that the same condition always
// gives the same filter.
func parseCondition(raw map[string]any, origin time.Time, zone *time.Location) (condition, error) {
	parsed, known, err := readCondition("condition", raw, origin, zone)
	if err == nil && known == always {
		err = template.BadParam("condition", `would match every document: compare a field, such as {"lastActive": {"$lt": "6 months ago"}}`)
	}
	if err != nil {
		return condition{}, err
	}
	return parsed, nil
}

// parseFilter does the same for a parameter that chooses what is read: it may be
// empty or match every document.
func parseFilter(param string, raw map[string]any, origin time.Time, zone *time.Location) (condition, error) {
	parsed, _, err := readCondition(param, raw, origin, zone)
	return parsed, err
}

func readCondition(param string, raw map[string]any, origin time.Time, zone *time.Location) (condition, truth, error) {
	p := parser{origin: origin, zone: zone, dates: map[string]bool{}}
	parsed, err := p.expression(at{path: param}, raw)
	if err != nil {
		return condition{}, some, err
	}
	return condition{filter: parsed.doc, dates: slices.Sorted(maps.Keys(p.dates))}, parsed.truth, nil
}

// truth says what is known about a clause without looking at any document.
type truth int

const (
	some   truth = iota // depends on the document
	always              // true for every document
	never               // true for none
)

func (t truth) not() truth {
	switch t {
	case always:
		return never
	case never:
		return always
	case some:
	}
	return some
}

// clause is a part of the filter, and what is known about it.
type clause struct {
	doc   bson.D
	truth truth
}

// allOf tells the truth of clauses that must hold together.
func allOf(clauses []clause) truth {
	if opposed(clauses) {
		return never
	}
	result := always
	for _, c := range clauses {
		if c.truth == never {
			return never
		}
		if c.truth == some {
			result = some
		}
	}
	return result
}

// anyOf tells the truth of clauses of which one must hold.
func anyOf(clauses []clause) truth {
	if opposed(clauses) {
		return always
	}
	denied := make([]clause, len(clauses))
	for i, c := range clauses {
		denied[i].truth = c.truth.not()
	}
	return allOf(denied).not()
}

// opposed reports whether one of the clauses is the negation of another.
func opposed(clauses []clause) bool {
	said, denied := map[string]bool{}, map[string]bool{}
	for _, c := range clauses {
		if len(c.doc) == 0 {
			continue
		}
		claim, denial := key(c.doc), key(negation(c.doc))
		if said[denial] || denied[claim] {
			return true
		}
		said[claim], denied[denial] = true, true
	}
	return false
}

// negation returns a filter that holds exactly where doc does not, in the form
// that makes negating twice give doc again wherever that is easy.
func negation(doc bson.D) bson.D {
	if len(doc) == 1 {
		field, value := doc[0].Key, doc[0].Value
		if branches, ok := value.(bson.A); ok && field == "$nor" {
			if inner, ok := branches[0].(bson.D); ok && len(branches) == 1 {
				return inner
			}
			return bson.D{{Key: "$or", Value: branches}}
		} else if ok && field == "$or" {
			return bson.D{{Key: "$nor", Value: branches}}
		}
		if operators, ok := value.(bson.D); ok && !strings.HasPrefix(field, "$") {
			return bson.D{{Key: field, Value: negatedOperators(operators)}}
		}
	}
	return bson.D{{Key: "$nor", Value: bson.A{doc}}}
}

func negatedOperators(operators bson.D) bson.D {
	if len(operators) == 1 {
		value := operators[0].Value
		switch operators[0].Key {
		case "$eq":
			return bson.D{{Key: "$ne", Value: value}}
		case "$ne":
			return bson.D{{Key: "$eq", Value: value}}
		case "$in":
			return bson.D{{Key: "$nin", Value: value}}
		case "$nin":
			return bson.D{{Key: "$in", Value: value}}
		case "$exists":
			return bson.D{{Key: "$exists", Value: value != true}}
		case "$not":
			if inner, ok := value.(bson.D); ok {
				return inner
			}
		}
	}
	return bson.D{{Key: "$not", Value: operators}}
}

// key makes filters comparable. What the parser builds always encodes.
func key(doc bson.D) string {
	encoded, err := bson.Marshal(doc)
	if err != nil {
		return err.Error()
	}
	return string(encoded)
}

// parser reads one condition.
type parser struct {
	origin time.Time
	zone   *time.Location
	values int             // how many were read
	dates  map[string]bool // see condition.dates
}

// at is a place in the condition.
type at struct {
	path  string // as shown to people: "condition.$or.0.lastActive"
	field string // the document field that surrounding $elemMatch lead to
	depth int
}

func (a at) in(name string) at {
	return at{path: a.path + "." + name, field: a.field, depth: a.depth + 1}
}

func (a at) bad(format string, args ...any) error {
	return template.BadParam(a.path, format, args...)
}

// enter counts n values at a place one level down.
func (p *parser) enter(a at, n int) error {
	p.values += n
	if a.depth > maxDepth {
		return a.bad("is nested too deep: at most %d levels are accepted", maxDepth)
	}
	if p.values > maxValues {
		return a.bad("makes the condition too large: at most %d values are accepted", maxValues)
	}
	return nil
}

// expression reads an object of fields and logical operators.
func (p *parser) expression(a at, raw map[string]any) (clause, error) {
	if err := p.enter(a, len(raw)); err != nil {
		return clause{}, err
	}
	doc := bson.D{}
	parts := make([]clause, 0, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		part, err := p.entry(a.in(name), name, raw[name])
		if err != nil {
			return clause{}, err
		}
		doc = append(doc, part.doc...)
		parts = append(parts, part)
	}
	return clause{doc, allOf(parts)}, nil
}

func (p *parser) entry(a at, name string, value any) (clause, error) {
	if slices.Contains(logical, name) {
		return p.branches(a, name, value)
	}
	if strings.HasPrefix(name, "$") {
		if slices.Contains(fieldOperators, name) {
			return clause{}, a.bad(`belongs under a field, such as {"lastActive": {"%s": ...}}`, name)
		}
		return clause{}, a.bad("is not an accepted operator: here %s and fields are", strings.Join(logical, ", "))
	}
	if problem := badName(name); problem != "" {
		return clause{}, a.bad("is not a field's path: %s", problem)
	}
	if a.field != "" {
		a.field += "."
	}
	a.field += name
	var operators clause
	var err error
	if object, ok := value.(map[string]any); ok && isOperators(object) {
		operators, err = p.operators(a, object)
	} else {
		operators, err = p.operator(a, "$eq", value)
	}
	return clause{bson.D{{Key: name, Value: operators.doc}}, operators.truth}, err
}

func badName(name string) string {
	switch {
	case len(name) > maxName:
		return "it has more than " + strconv.Itoa(maxName) + " bytes"
	case strings.ContainsRune(name, 0):
		return "it holds a zero character"
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return "it has an empty part"
		}
		if part[0] == '$' {
			return "a part of it begins with $"
		}
	}
	return ""
}

// isOperators reports whether an object is a set of operators rather than a
// value such as {"$date": ...}.
func isOperators(object map[string]any) bool {
	for name := range object {
		if strings.HasPrefix(name, "$") && name != "$date" && name != "$oid" {
			return true
		}
	}
	return false
}

// branches reads the list of a logical operator.
func (p *parser) branches(a at, name string, value any) (clause, error) {
	list, ok := value.([]any)
	if !ok || len(list) == 0 || len(list) > maxBranches {
		return clause{}, a.bad("must be a list of 1 to %d conditions", maxBranches)
	}
	if err := p.enter(a, len(list)); err != nil {
		return clause{}, err
	}
	array := make(bson.A, len(list))
	parts := make([]clause, len(list))
	for i, element := range list {
		place := a.in(strconv.Itoa(i))
		object, ok := element.(map[string]any)
		if !ok {
			return clause{}, place.bad(`must be a condition, such as {"status": "resolved"}`)
		}
		part, err := p.expression(place, object)
		if err != nil {
			return clause{}, err
		}
		array[i], parts[i] = part.doc, part
	}
	doc := bson.D{{Key: name, Value: array}}
	switch name {
	case "$and":
		return clause{doc, allOf(parts)}, nil
	case "$or":
		return clause{doc, anyOf(parts)}, nil
	default:
		return clause{doc, anyOf(parts).not()}, nil
	}
}

// operators reads an object of operators under a field.
func (p *parser) operators(a at, raw map[string]any) (clause, error) {
	if err := p.enter(a, len(raw)); err != nil {
		return clause{}, err
	}
	if len(raw) == 0 {
		return clause{}, a.bad(`must hold an operator, such as {"$exists": true}`)
	}
	doc := bson.D{}
	parts := make([]clause, 0, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		var part clause
		var err error
		place := a.in(name)
		switch name {
		case "$regex":
			part, err = p.regex(a, raw)
		case "$options":
			if _, ok := raw["$regex"]; !ok {
				err = place.bad("needs a $regex beside it")
			}
		default:
			part, err = p.operator(place, name, raw[name])
		}
		if err != nil {
			return clause{}, err
		}
		if part.doc != nil {
			doc = append(doc, part.doc...)
			parts = append(parts, part)
		}
	}
	return clause{doc, allOf(wrapped(a.field, parts))}, nil
}

// wrapped puts a field around operators, so that they compare like filters.
func wrapped(field string, parts []clause) []clause {
	out := make([]clause, len(parts))
	for i, part := range parts {
		out[i] = clause{bson.D{{Key: field, Value: part.doc}}, part.truth}
	}
	return out
}

// operator reads the operand of one operator; an equality without operator
// comes here as $eq.
func (p *parser) operator(a at, name string, value any) (clause, error) {
	made := func(operand any, t truth) (clause, error) {
		return clause{bson.D{{Key: name, Value: operand}}, t}, nil
	}
	isID := a.field == "_id"
	switch name {
	case "$eq", "$ne":
		operand, err := p.literal(a, value)
		if err != nil {
			return clause{}, err
		}
		p.noteDate(a, operand)
		t := some
		if isID && operand == nil { // every document has an _id
			t = never
		}
		if name == "$ne" {
			t = t.not()
		}
		return made(operand, t)
	case "$gt", "$gte", "$lt", "$lte":
		operand, err := p.ordered(a, value)
		if err != nil {
			return clause{}, err
		}
		p.noteDate(a, operand)
		if isID && (name[1] == 'g' && isLowest(operand) || name[1] == 'l' && isHighest(operand)) {
			return made(operand, always)
		}
		return made(operand, some)
	case "$in", "$nin", "$all":
		list, ok := value.([]any)
		if !ok || len(list) > maxList {
			return clause{}, a.bad("must be a list of at most %d values", maxList)
		}
		operand, err := p.list(a, list)
		if err != nil {
			return clause{}, err
		}
		for _, element := range operand {
			p.noteDate(a, element)
		}
		switch {
		case len(list) > 0:
			return made(operand, some)
		case name == "$nin":
			return made(operand, always)
		default:
			return made(operand, never)
		}
	case "$not":
		object, ok := value.(map[string]any)
		if !ok {
			return clause{}, a.bad(`must be an object of operators, such as {"$in": ["a", "b"]}`)
		}
		inner, err := p.operators(a, object)
		if err != nil {
			return clause{}, err
		}
		return made(inner.doc, inner.truth.not())
	case "$exists":
		exists, ok := value.(bool)
		switch {
		case !ok:
			return clause{}, a.bad("must be true or false")
		case isID && exists:
			return made(exists, always)
		case isID:
			return made(exists, never)
		}
		return made(exists, some)
	case "$type":
		operand, err := types(a, value)
		if err != nil {
			return clause{}, err
		}
		return made(operand, some)
	case "$size":
		size, ok := whole(value)
		if !ok || size < 0 || size > 1_000_000 {
			return clause{}, a.bad("must be a whole number from 0 to 1000000")
		}
		return made(size, some)
	case "$mod":
		list, _ := value.([]any)
		if len(list) == 2 {
			divisor, ok1 := whole(list[0])
			rest, ok2 := whole(list[1])
			if ok1 && ok2 && divisor != 0 {
				return made(bson.A{divisor, rest}, some)
			}
		}
		return clause{}, a.bad("must be [divisor, remainder], two whole numbers, the first not 0")
	case "$elemMatch":
		object, ok := value.(map[string]any)
		if !ok || len(object) == 0 {
			return clause{}, a.bad(`must be a condition on the elements, such as {"status": "old"} or {"$gt": 5}`)
		}
		read := p.expression
		if isOperators(object) && !slices.ContainsFunc(logical, func(l string) bool { _, ok := object[l]; return ok }) {
			read = p.operators
		}
		inner, err := read(a, object)
		if err != nil {
			return clause{}, err
		}
		t := some // an always true one still asks for an array
		if inner.truth == never {
			t = never
		}
		return made(inner.doc, t)
	}
	if !strings.HasPrefix(name, "$") {
		return clause{}, a.bad("stands beside an operator: write fields and operators in separate objects")
	}
	return clause{}, a.bad("is not an accepted operator: here %s are", strings.Join(fieldOperators, ", "))
}

// regex reads $regex and $options together. Only patterns without look-around
// and back references are accepted: those can be checked here, and they do not
// make the server's matcher run wild.
func (p *parser) regex(a at, raw map[string]any) (clause, error) {
	place := a.in("$regex")
	pattern, ok := raw["$regex"].(string)
	if !ok || len(pattern) > maxPattern || strings.ContainsRune(pattern, 0) {
		return clause{}, place.bad("must be a string of at most %d bytes", maxPattern)
	}
	if _, err := regexp.Compile(pattern); err != nil {
		return clause{}, place.bad("must be a regular expression without look-around or back references: %v", err)
	}
	doc := bson.D{{Key: "$regex", Value: pattern}}
	if value, ok := raw["$options"]; ok {
		options, ok := value.(string)
		if !ok || len(options) > 4 || strings.Trim(options, "imsx") != "" {
			return clause{}, a.in("$options").bad("may hold the letters i, m, s and x only")
		}
		doc = append(doc, bson.E{Key: "$options", Value: options})
	}
	t := some
	if a.field == "_id" && slices.Contains([]string{"", ".", ".*", ".+"}, strings.Trim(pattern, "^$")) {
		t = always
	}
	return clause{doc, t}, nil
}

func types(a at, value any) (any, error) {
	bad := func() (any, error) {
		return nil, a.bad("must be one of %s, or a list of these", strings.Join(typeNames, ", "))
	}
	if name, ok := value.(string); ok && slices.Contains(typeNames, name) {
		return name, nil
	}
	list, ok := value.([]any)
	if !ok || len(list) == 0 || len(list) > len(typeNames) {
		return bad()
	}
	for _, element := range list {
		if name, ok := element.(string); !ok || !slices.Contains(typeNames, name) {
			return bad()
		}
	}
	return bson.A(list), nil
}

// nearMiss finds what was most likely meant as a time relative to now.
var nearMiss = regexp.MustCompile(`(?i)^\s*(([-+]?[0-9]+\s*|an?\s+|one\s+|last\s+|past\s+)(second|minute|hour|day|week|fortnight|month|quarter|year|decade)s?\b|(now|today|yesterday|tomorrow)\b)|\bago\s*$`)

// ordered reads the operand of $gt, $gte, $lt or $lte: a value that has an
// order, or a time relative to the run.
func (p *parser) ordered(a at, value any) (any, error) {
	switch v := value.(type) {
	case string:
		relative, err := template.ParseRelative(v)
		if err == nil {
			return bson.NewDateTimeFromTime(relative.Before(p.origin, p.zone)), nil
		}
		if nearMiss.MatchString(v) {
			return nil, a.bad("%v", err)
		}
	case nil, bool, []any:
		return nil, a.bad("must be a number, a string or a time: null, true, false and lists have no order (use $eq, $in)")
	case map[string]any:
		if !isValue(v) {
			return nil, a.bad(`must be a number, a string or a time, such as "6 months ago" or {"$date": "2025-01-31T00:00:00Z"}`)
		}
	}
	return p.literal(a, value)
}

func isValue(object map[string]any) bool {
	_, isDate := object["$date"]
	_, isOID := object["$oid"]
	return isDate || isOID
}

// literal converts a JSON value. {"$date": "<RFC 3339>"} and {"$oid": "<24
// hexadecimal digits>"} stand for a date and an ObjectID.
func (p *parser) literal(a at, value any) (any, error) {
	switch v := value.(type) {
	case nil, bool:
		return v, nil
	case string:
		if len(v) > maxText {
			return nil, a.bad("is too long: a string may have at most %d bytes", maxText)
		}
		return v, nil
	case float64:
		if n, ok := whole(v); ok {
			return n, nil
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, a.bad("must be a finite number")
		}
		return v, nil
	case []any:
		if len(v) > maxList {
			return nil, a.bad("must be a list of at most %d values", maxList)
		}
		return p.list(a, v)
	case map[string]any:
		return p.object(a, v)
	}
	return nil, a.bad("must be a JSON value")
}

func (p *parser) list(a at, list []any) (bson.A, error) {
	if err := p.enter(a, len(list)); err != nil {
		return nil, err
	}
	out := make(bson.A, len(list))
	for i, element := range list {
		var err error
		if out[i], err = p.literal(a.in(strconv.Itoa(i)), element); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *parser) object(a at, object map[string]any) (any, error) {
	if err := p.enter(a, len(object)); err != nil {
		return nil, err
	}
	// The server compares embedded documents with the order of their keys,
	// which JSON does not have: with $ne the wrong order would match too much.
	if len(object) > 1 {
		return nil, a.bad(`cannot be compared as a whole, for its keys have no order here: compare its fields one by one, such as {"address.city": "Rome"}`)
	}
	for name, value := range object {
		text, isText := value.(string)
		switch name {
		case "$date":
			t, err := time.Parse(time.RFC3339, text)
			if !isText || err != nil {
				return nil, a.in(name).bad(`must be a time such as "2025-01-31T00:00:00Z"`)
			}
			return bson.NewDateTimeFromTime(t), nil
		case "$oid":
			var id bson.ObjectID
			if n, err := hex.Decode(id[:], []byte(text[:min(len(text), 24)])); err != nil || n != len(id) || len(text) != 24 {
				return nil, a.in(name).bad("must be 24 hexadecimal digits")
			}
			return id, nil
		}
		if problem := badName(name); problem != "" || strings.Contains(name, ".") {
			return nil, a.in(name).bad("is not accepted inside a value")
		}
		inner, err := p.literal(a.in(name), value)
		if err != nil {
			return nil, err
		}
		return bson.D{{Key: name, Value: inner}}, nil
	}
	return bson.D{}, nil
}

func (p *parser) noteDate(a at, operand any) {
	if _, ok := operand.(bson.DateTime); ok {
		p.dates[a.field] = true
	}
}

// whole returns a number without fraction that a float64 holds exactly.
func whole(value any) (int64, bool) {
	f, ok := value.(float64)
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

func isLowest(operand any) bool {
	return operand == "" || operand == bson.ObjectID{}
}

func isHighest(operand any) bool {
	var highest bson.ObjectID
	for i := range highest {
		highest[i] = 0xff
	}
	return operand == highest
}
