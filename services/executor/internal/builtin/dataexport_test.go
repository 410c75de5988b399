package builtin

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/xuri/excelize/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// exportRun returns a run of data_export from a database into a bucket, with the
// defaults filled in.
func exportRun(t *testing.T, source, destination template.Connection, params map[string]any) (*template.Run, *templatetest.Recorder) {
	t.Helper()
	compiled, err := template.Compile(dataExport{})
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.ValidateParams(params, nil); err != nil {
		t.Fatal(err)
	}
	run, recorder := templatetest.NewRun(compiled.Schema.WithDefaults(params))
	run.Settings, _, _ = compiled.Configure(nil)
	prepareExport(run, source, destination)
	return run, recorder
}

func prepareExport(run *template.Run, source, destination template.Connection) {
	run.JobName = "Nightly users"
	templatetest.Connect(run, connectionParam, "main", source)
	templatetest.Connect(run, destinationParam, "exports", destination)
	run.Allowed["collection"] = []string{"users", "typed", "odd", "empty"}
}

var (
	alice = bson.D{
		{Key: "_id", Value: mustID("64b7f0a1c2d3e4f5a6b7c8d9")},
		{Key: "name", Value: "Alice"},
		{Key: "lastActive", Value: bson.NewDateTimeFromTime(time.Date(2025, 10, 1, 8, 30, 0, 0, time.UTC))},
		{Key: "visits", Value: int32(12)},
		{Key: "address", Value: bson.D{{Key: "city", Value: "Rome"}, {Key: "zip", Value: "00100"}}},
		{Key: "tags", Value: bson.A{"a", "b"}},
	}
	bob = bson.D{
		{Key: "_id", Value: mustID("64b7f0a1c2d3e4f5a6b7c8da")},
		{Key: "name", Value: "=HYPERLINK(\"http://evil\")"},
		{Key: "lastActive", Value: bson.NewDateTimeFromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))},
		{Key: "visits", Value: int64(-3)},
		{Key: "balance", Value: 2.5},
		{Key: "active", Value: true},
	}
)

func mustID(hex string) bson.ObjectID {
	id, err := bson.ObjectIDFromHex(hex)
	if err != nil {
		panic(err)
	}
	return id
}

func TestDataExportSuite(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice, bob)
	_, destination := newFolder(t)
	minimal := map[string]any{"collection": "users", "format": "ndjson"}
	with := func(key string, value any) map[string]any {
		return map[string]any{"collection": "users", "format": "csv", key: value}
	}
	templatetest.Run(t, dataExport{}, templatetest.Options{
		Valid: []map[string]any{
			minimal, with("filter", map[string]any{}), with("filter", map[string]any{"lastActive": map[string]any{"$lt": "1 month ago"}}),
			with("fields", []any{"address.city"}), with("path", "a/{year}/{month}-{day}/{hour}{minute}-{execution_id}.{ext}"),
		},
		Succeed: []map[string]any{minimal, with("dryRun", true), with("limit", 1), {"collection": "users", "format": "xlsx"}},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"collection": "users"}, Field: "format"},
			{Params: map[string]any{"format": "csv"}, Field: "collection"},
			{Params: with("format", "pdf"), Field: "format"},
			{Params: with("filter", map[string]any{"a": map[string]any{"$where": "1"}}), Field: "filter.a.$where"},
			{Params: with("filter", map[string]any{"a": map[string]any{"$lt": "3 fortnights ago"}}), Field: "filter.a.$lt"},
			{Params: with("fields", []any{}), Field: "fields"},
			{Params: with("fields", []any{"a", "a"}), Field: "fields"},
			{Params: with("fields", []any{"a", "$b"}), Field: "fields.1"},
			{Params: with("fields", []any{"a..b"}), Field: "fields.0"},
			{Params: with("limit", 0), Field: "limit"},
			{Params: with("extended_json", "canonical"), Field: "extended_json"},
			{Params: map[string]any{"collection": "users", "format": "xlsx", "compression": "gzip"}, Field: "compression"},
			{Params: with("compression", "rar"), Field: "compression"},
			{Params: with("path", "../users.csv"), Field: "path"},
			{Params: with("path", "/users.csv"), Field: "path"},
			{Params: with("path", "users/"), Field: "path"},
			{Params: with("path", "users/{secret}.csv"), Field: "path"},
			{Params: with("path", "users/{date.csv"), Field: "path"},
		},
		Prepare:  func(run *template.Run) { prepareExport(run, source, destination) },
		Settings: []map[string]any{{}, {"max_documents": 5, "max_bytes": 1000}},
		InvalidSettings: []templatetest.Invalid{
			{Params: map[string]any{"max_documents": 0}, Field: "max_documents"},
			{Params: map[string]any{"layout": "x"}, Field: "layout"},
		},
	})
}

// exported runs an export and returns its result and the file.
func exported(t *testing.T, source template.Connection, params map[string]any) (template.Result, []byte, *templatetest.Recorder) {
	t.Helper()
	folder, destination := newFolder(t)
	run, recorder := exportRun(t, source, destination, params)
	result, err := dataExport{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(folder, fmt.Sprint(result["object"])))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(content); result["bytes"] != int64(len(content)) || result["sha256"] != hex.EncodeToString(sum[:]) {
		t.Errorf("the file has %d bytes, the result says %v", len(content), result)
	}
	return result, content, recorder
}

func TestExportAsCSV(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", bob, alice)
	result, content, recorder := exported(t, source, map[string]any{"collection": "users", "format": "csv"})
	want := strings.Join([]string{
		`_id,name,lastActive,visits,address,tags,balance,active`,
		`64b7f0a1c2d3e4f5a6b7c8d9,Alice,2025-10-01T08:30:00Z,12,"{""city"":""Rome"",""zip"":""00100""}","[""a"",""b""]",,`,
		`64b7f0a1c2d3e4f5a6b7c8da,"'=HYPERLINK(""http://evil"")",2024-01-01T00:00:00Z,-3,,,2.5,true`,
		``,
	}, "\n")
	if string(content) != want {
		t.Errorf("got\n%s\nwant\n%s", content, want)
	}
	if result["object"] != "nightly-users/2025-10-19T020000Z.csv" || result["records_processed"] != int64(2) || result["columns"] != 8 ||
		result["destination"] != "exports" || result["message"] != "Exported 2 documents to nightly-users/2025-10-19T020000Z.csv" {
		t.Errorf("result %v", result)
	}
	steps := recorder.Steps()
	if last := steps[len(steps)-1]; last.Done != 2 || last.Total != 2 {
		t.Errorf("the last progress is %+v", last)
	}

	_, content, _ = exported(t, source, map[string]any{
		"collection": "users", "format": "csv", "compression": "gzip", "limit": 5.0, "path": "{date}.{ext}",
		"fields": []any{"address.city", "tags.1", "_id", "address", "none"}, "filter": map[string]any{"lastActive": map[string]any{"$gte": "1 month ago"}},
	})
	unpacked, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if want := "address.city,tags.1,_id,address,none\nRome,b,64b7f0a1c2d3e4f5a6b7c8d9,\"{\"\"city\"\":\"\"Rome\"\",\"\"zip\"\":\"\"00100\"\"}\",\n"; string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestExportAsNDJSONIsReadBackEqual(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "typed", alice, bob)
	for _, params := range []map[string]any{
		{"extended_json": "canonical"},
		{"extended_json": "canonical", "compression": "zstd"},
	} {
		params["collection"], params["format"] = "typed", "ndjson"
		_, content, _ := exported(t, source, params)
		if params["compression"] == "zstd" {
			unpacked, err := zstd.NewReader(bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			defer unpacked.Close()
			if content, err = io.ReadAll(unpacked); err != nil {
				t.Fatal(err)
			}
		}
		var read []bson.D
		for line := range bytes.Lines(content) {
			var document bson.D
			if err := bson.UnmarshalExtJSON(line, true, &document); err != nil {
				t.Fatal(err)
			}
			read = append(read, document)
		}
		if want := []bson.D{alice, bob}; !reflect.DeepEqual(read, want) {
			t.Errorf("%v: read\n%v\nwant\n%v", params, read, want)
		}
	}
	_, content, _ := exported(t, source, map[string]any{"collection": "typed", "format": "ndjson", "fields": []any{"name", "address.city"}})
	if want := `{"name":"Alice","address":{"city":"Rome"}}` + "\n" + `{"name":"=HYPERLINK(\"http://evil\")"}` + "\n"; string(content) != want {
		t.Errorf("with fields: %s", content)
	}
}

func TestExportAsXLSX(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice, bob, bson.D{
		{Key: "_id", Value: mustID("64b7f0a1c2d3e4f5a6b7c8db")}, {Key: "name", Value: strings.Repeat("ä", maxCellText+1)}, {Key: "visits", Value: int64(math.MaxInt64)},
	})
	result, content, recorder := exported(t, source, map[string]any{"collection": "users", "format": "xlsx", "fields": []any{"name", "visits", "balance", "active"}})
	book, err := excelize.OpenReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	got, err := book.GetRows("Data")
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"name", "visits", "balance", "active"},
		{"Alice", "12"},
		{`'=HYPERLINK("http://evil")`, "-3", "2.5", "TRUE"},
		{strings.Repeat("ä", maxCellText), "9223372036854775807"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %.300v", got)
	}
	for at, want := range map[string]excelize.CellType{"B2": excelize.CellTypeUnset, "B3": excelize.CellTypeUnset, "A3": excelize.CellTypeInlineString, "D3": excelize.CellTypeBool, "B4": excelize.CellTypeInlineString} {
		if kind, err := book.GetCellType("Data", at); err != nil || kind != want {
			t.Errorf("%s has the type %v (%v), want %v", at, kind, err, want)
		}
		if formula, err := book.GetCellFormula("Data", at); err != nil || formula != "" {
			t.Errorf("%s has the formula %q (%v)", at, formula, err)
		}
	}
	if result["cells_cut"] != int64(1) || !slices.ContainsFunc(recorder.Lines(), func(l string) bool { return strings.HasPrefix(l, "WARN 1 texts were cut") }) {
		t.Errorf("nothing is said of the text that was cut: %v, %v", result, recorder.Lines())
	}
}

func TestDryRunOfExport(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice, bob)
	folder, destination := newFolder(t)
	for format, want := range map[string][]any{
		"csv":    {"name,visits", "Alice,12", `"'=HYPERLINK(""http://evil"")",-3`},
		"xlsx":   {"name,visits", "Alice,12", `"'=HYPERLINK(""http://evil"")",-3`},
		"ndjson": {`{"name":"Alice","visits":12}`, `{"name":"=HYPERLINK(\"http://evil\")","visits":-3}`},
	} {
		run, _ := exportRun(t, source, destination, map[string]any{"collection": "users", "format": format, "fields": []any{"name", "visits"}, "dryRun": true})
		result, err := dataExport{}.Execute(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(result["sample"], want) || result["records_processed"] != int64(2) || !strings.HasPrefix(fmt.Sprint(result["message"]), "Would export 2 documents to ") {
			t.Errorf("%s: %v", format, result)
		}
	}
	insert(t, db, "odd", bson.D{{Key: "text", Value: strings.Repeat("ä", sampleBytes)}}, bson.D{{Key: "text", Value: "not shown"}})
	run, _ := exportRun(t, source, destination, map[string]any{"collection": "odd", "format": "ndjson", "dryRun": true})
	result, err := dataExport{}.Execute(t.Context(), run)
	if sample, _ := result["sample"].([]any); err != nil || len(sample) != 1 || len(fmt.Sprint(sample[0])) > sampleBytes+4 {
		t.Errorf("the sample is not bounded: %d lines, %v", len(sample), err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
		t.Errorf("a dry run wrote %v (%v)", entries, err)
	}
}

func TestExportOfNothing(t *testing.T) {
	_, source := newDatabase(t)
	for format, size := range map[string]int{"csv": 0, "ndjson": 0, "xlsx": -1} {
		result, content, _ := exported(t, source, map[string]any{"collection": "empty", "format": format})
		if result["records_processed"] != int64(0) || size == 0 && len(content) != 0 || size < 0 && len(content) == 0 {
			t.Errorf("%s: %d bytes, %v", format, len(content), result)
		}
	}
	_, content, _ := exported(t, source, map[string]any{"collection": "empty", "format": "csv", "fields": []any{"a", "b"}})
	if string(content) != "a,b\n" {
		t.Errorf("%q", content)
	}
}

func TestRetryOfExportOverwrites(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice)
	s, destination := newS3(t)
	params := map[string]any{"collection": "users", "format": "csv", "fields": []any{"name"}}
	for attempt := range 2 {
		run, _ := exportRun(t, source, destination, params)
		run.Attempt = attempt + 1
		if _, err := (dataExport{}).Execute(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		if attempt == 0 {
			insert(t, db, "users", bob)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.objects) != 1 || string(s.objects["nightly-users/2025-10-19T020000Z.csv"]) != "name\nAlice\n\"'=HYPERLINK(\"\"http://evil\"\")\"\n" {
		t.Errorf("the bucket holds %q", s.objects)
	}
}

func TestExportRefuses(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice, bob)
	params := map[string]any{"collection": "users", "format": "csv"}
	for name, c := range map[string]struct {
		change func(*template.Run)
		code   string
		want   string
	}{
		"collection":  {func(r *template.Run) { r.Params["collection"] = "secrets" }, template.CodeForbidden, `"secrets"`},
		"documents":   {func(r *template.Run) { r.Settings["max_documents"] = 1.0 }, template.CodeLimit, "2 documents would be exported, more than the 1"},
		"bytes":       {func(r *template.Run) { r.Settings["max_bytes"] = 10.0 }, template.CodeLimit, "more than the 10 bytes"},
		"destination": {func(r *template.Run) { r.Params["destination"] = "elsewhere" }, template.CodeValidation, "destination"},
		"folder": {func(r *template.Run) {
			r.Connections["exports"] = template.Connection{Kind: template.KindBucket, URI: "file:///nonexistent/x"}
		}, codeNotFound, "no such file"},
		"cancelled": {nil, template.CodeCancelled, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			folder, destination := newFolder(t)
			run, _ := exportRun(t, source, destination, params)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.change == nil {
				cancel()
			} else {
				c.change(run)
			}
			_, err := dataExport{}.Execute(ctx, run)
			if told := failed(t, err, c.code, false); !strings.Contains(told, c.want) {
				t.Errorf("the error does not say %q: %s", c.want, told)
			}
			if left, err := filepath.Glob(filepath.Join(folder, "*", "*")); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v (%v)", left, err)
			}
		})
	}
}

func TestExportFailsWithTheBucketsAnswer(t *testing.T) {
	db, source := newDatabase(t)
	insert(t, db, "users", alice)
	_, destination := newS3(t)
	destination.URI = strings.Replace(destination.URI, s3Key, "AKIDWRONG", 1)
	run, _ := exportRun(t, source, destination, map[string]any{"collection": "users", "format": "csv"})
	result, err := dataExport{}.Execute(t.Context(), run)
	if told := failed(t, err, template.CodeForbidden, false); !strings.Contains(told, "InvalidAccessKeyId") {
		t.Error(told)
	}
	if result["message"] != "Published nothing: failed after 1 of 1 documents" || result["records_processed"] != int64(0) {
		t.Errorf("result %v", result)
	}
}

func TestCells(t *testing.T) {
	decimal, err := bson.ParseDecimal128("12345678901234567890.5")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		value any
		want  string
		kind  cellKind
	}{
		{nil, "", cellEmpty},
		{"text", "text", cellText},
		{"", "", cellText},
		{int32(-5), "-5", cellNumber},
		{int64(spreadsheetDigits), "999999999999999", cellNumber},
		{int64(spreadsheetDigits + 1), "1000000000000000", cellDigits},
		{-0.25, "-0.25", cellNumber},
		{1e300, "1e+300", cellNumber},
		{math.NaN(), "NaN", cellText},
		{math.Inf(-1), "-Inf", cellText},
		{decimal, "12345678901234567890.5", cellDigits},
		{false, "false", cellBool},
		{bson.DateTime(1), "1970-01-01T00:00:00.001Z", cellText},
		{mustID("64b7f0a1c2d3e4f5a6b7c8d9"), "64b7f0a1c2d3e4f5a6b7c8d9", cellText},
		{bson.Binary{Subtype: 4, Data: []byte("0123456789abcdef")}, "30313233-3435-3637-3839-616263646566", cellText},
		{bson.Binary{Data: []byte{0xff, 0xfe}}, "//4=", cellText},
		{bson.D{{Key: "a", Value: int64(1)}, {Key: "b", Value: "<&>"}}, `{"a":1,"b":"<&>"}`, cellText},
		{bson.A{int32(1), nil}, `[1,null]`, cellText},
		{bson.Regex{Pattern: "a", Options: "i"}, `{"$regularExpression":{"pattern":"a","options":"i"}}`, cellText},
		{bson.Timestamp{T: 1, I: 2}, `{"$timestamp":{"t":1,"i":2}}`, cellText},
		{bson.MinKey{}, `{"$minKey":1}`, cellText},
		{bson.Symbol("s"), "s", cellText},
	} {
		document, err := bson.Marshal(bson.D{{Key: "f", Value: c.value}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cellAt(document, []string{"f"}); err != nil || got.text != c.want || got.kind != c.kind {
			t.Errorf("%v: got %+v (%v), want %q of kind %d", c.value, got, err, c.want, c.kind)
		}
	}
}

func TestPathsIntoDocuments(t *testing.T) {
	document, err := bson.Marshal(bson.D{
		{Key: "a", Value: bson.D{{Key: "b", Value: bson.D{{Key: "c", Value: 1}}}}},
		{Key: "items", Value: bson.A{bson.D{{Key: "price", Value: 5}}, "loose", bson.D{{Key: "price", Value: "x\"y"}}, bson.D{{Key: "other", Value: 1}}}},
		{Key: "none", Value: bson.A{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"a.b.c": "1", "a.b": `{"c":1}`, "a.x": "", "a.b.c.d": "", "x": "", "items.price": `[5,"x\"y"]`, "items.0.price": "5", "items.1": "loose",
		"items.9": "", "items.missing": "", "none": "[]", "none.x": "",
	} {
		if got, err := cellAt(document, strings.Split(path, ".")); err != nil || got.text != want {
			t.Errorf("%s: got %q (%v), want %q", path, got.text, err, want)
		}
	}
	if _, err := cellAt(document[:len(document)-9], []string{"none"}); err == nil {
		t.Error("a damaged document is read as if it were whole")
	}
}

func TestHarmless(t *testing.T) {
	for _, s := range []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠a"} {
		if got := harmless(s); got != "'"+s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
	for _, s := range []string{"", "a", " =1", "'=1", "1-1", "ä=", "\xff="} {
		if got := harmless(s); got != s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}

func TestProjection(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   bson.D
	}{
		{nil, nil},
		{[]string{"_id", "a"}, bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: 1}}},
		{[]string{"a.b", "a", "a.c.d"}, bson.D{{Key: "a", Value: 1}, {Key: "_id", Value: 0}}},
		{[]string{"tags.1", "tags.2"}, bson.D{{Key: "tags", Value: 1}, {Key: "_id", Value: 0}}},
		{[]string{"_id.part"}, bson.D{{Key: "_id.part", Value: 1}}},
		{[]string{"a.b", "ab"}, bson.D{{Key: "a.b", Value: 1}, {Key: "ab", Value: 1}, {Key: "_id", Value: 0}}},
	} {
		if got := projection(c.fields); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.fields, got, c.want)
		}
	}
}

func TestColumnsFoundWhileReading(t *testing.T) {
	first, second := bson.Raw(mustMarshal(t, bson.D{{Key: "b", Value: 1}})), bson.Raw(mustMarshal(t, bson.D{{Key: "a.dot", Value: 2}, {Key: "b", Value: 3}}))
	late := bson.Raw(mustMarshal(t, bson.D{{Key: "late", Value: 1}}))
	found := columns{}
	for _, document := range []bson.Raw{first, second} {
		if err := found.discover(document); err != nil {
			t.Fatal(err)
		}
	}
	var text bytes.Buffer
	written, err := newRows(formatCSV, false, &found, &text)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []bson.Raw{first, second, late} {
		if err := written.write(document); err != nil {
			t.Fatal(err)
		}
	}
	if err := written.close(); err != nil {
		t.Fatal(err)
	}
	if want := "b,a.dot\n1,\n3,2\n,\n"; text.String() != want || written.remarks().missed != 1 {
		t.Errorf("got %q and %+v", text.String(), written.remarks())
	}
	many := columns{}
	var wide bson.D
	for i := range maxColumns + 1 {
		wide = append(wide, bson.E{Key: fmt.Sprint("f", i), Value: 1})
	}
	failed(t, many.discover(mustMarshal(t, wide)), template.CodeLimit, false)
}

func mustMarshal(t *testing.T, document bson.D) []byte {
	t.Helper()
	encoded, err := bson.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func TestRecordsOfOneEmptyFieldAreKept(t *testing.T) {
	wanted := columnsOf([]string{"a"})
	var text bytes.Buffer
	written, err := newRows(formatCSV, false, &wanted, &text)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{"x", "", nil, "y"} {
		if err := written.write(mustMarshal(t, bson.D{{Key: "a", Value: value}})); err != nil {
			t.Fatal(err)
		}
	}
	if err := written.close(); err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(&text).ReadAll()
	if want := [][]string{{"a"}, {"x"}, {""}, {""}, {"y"}}; err != nil || !reflect.DeepEqual(records, want) {
		t.Errorf("read %q (%v)", records, err)
	}
}

func TestWorkbookHoldsAnyText(t *testing.T) {
	texts := []string{"<&>\"'", "_x000D_ and _xZZ", "a\tb\nc\rd", " spaces ", "\x01\xff", "😀", ""}
	document := bson.D{}
	var names []string
	for i, text := range texts {
		names = append(names, columnLetters(i)+"<"+text)
		document = append(document, bson.E{Key: fmt.Sprint("f", i), Value: text})
	}
	wanted := columnsOf([]string{"f0", "f1", "f2", "f3", "f4", "f5", "f6"})
	wanted.names = names
	var out bytes.Buffer
	made, err := newXLSX(&wanted, &out)
	if err == nil {
		err = errors.Join(made.write(mustMarshal(t, document)), made.close())
	}
	if err != nil {
		t.Fatal(err)
	}
	book, err := excelize.OpenReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	got, err := book.GetRows("Data")
	if want := [][]string{
		{"A<<&>\"'", "B<_x000D_ and _xZZ", "C<a\tb\nc\rd", "D< spaces ", "E<\ufffd\ufffd", "F<😀", "G<"},
		{"<&>\"'", "_x000D_ and _xZZ", "a\tb\nc\rd", " spaces ", "\ufffd\ufffd", "😀"},
	}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q (%v)", got, err)
	}
	for i, want := range map[int]string{0: "A", 25: "Z", 26: "AA", 701: "ZZ", 702: "AAA"} {
		if got := columnLetters(i); got != want {
			t.Errorf("column %d is %s, want %s", i, got, want)
		}
	}
}

func TestSheetsAreContinued(t *testing.T) {
	wanted := columnsOf([]string{"a"})
	var out bytes.Buffer
	made, err := newXLSX(&wanted, &out)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if i > 0 {
			made.book.row = maxSheetRows // as after that many rows
		}
		if err := made.write(mustMarshal(t, bson.D{{Key: "a", Value: i}})); err != nil {
			t.Fatal(err)
		}
	}
	if err := made.close(); err != nil {
		t.Fatal(err)
	}
	book, err := excelize.OpenReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	for i, sheet := range []string{"Data", "Data 2", "Data 3"} {
		got, err := book.GetRows(sheet)
		if want := [][]string{{"a"}, {fmt.Sprint(i)}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v (%v)", sheet, got, err)
		}
	}
}

func TestObjectPath(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	run := &template.Run{JobID: "job_0123456789abcdef", JobName: "Nightly users", ExecutionID: "exec_1", Zone: berlin, ScheduledFor: time.Date(2025, 10, 26, 0, 30, 0, 0, time.UTC)}
	name := func(pattern any) string {
		t.Helper()
		params := map[string]any{}
		if pattern != nil {
			params["path"] = pattern
		}
		got, err := objectPath(params, run, "csv")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := name(nil); got != "nightly-users/2025-10-26T023000+0200.csv" {
		t.Error(got)
	}
	if got := name("{year}/{month}/{day}/{hour}{minute}-{time}-{date}-{job_id}-{execution_id}.{ext}"); got != "2025/10/26/0230-023000-2025-10-26-job_0123456789abcdef-exec_1.csv" {
		t.Error(got)
	}
	// Berlin's clocks show half past two twice.
	run.ScheduledFor = run.ScheduledFor.Add(time.Hour)
	if got := name(nil); got != "nightly-users/2025-10-26T023000+0100.csv" {
		t.Error(got)
	}
	for jobName, want := range map[string]string{
		"Users/EU: daily!": "users-eu--daily-89abcdef", "../../etc": "etc-89abcdef", "": "89abcdef", "Größe": "größe", "a-b_c": "a-b_c",
		strings.Repeat("ä", 50): strings.Repeat("ä", 30) + "-89abcdef",
	} {
		run.JobName = jobName
		if got := name("{job}"); got != want {
			t.Errorf("%q gives %q, want %q", jobName, got, want)
		}
	}
	run.JobID = "../x"
	var bad *template.ParamsError
	if _, err := objectPath(map[string]any{"path": "{job_id}"}, run, "csv"); !errors.As(err, &bad) {
		t.Errorf("an id that leaves the folder is accepted: %v", err)
	}
}

// BenchmarkRows writes documents as each format has them, uncompressed.
func BenchmarkRows(b *testing.B) {
	document, err := bson.Marshal(append(slices.Clone(alice), bson.E{Key: "note", Value: strings.Repeat("Some more text. ", 8)}))
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{formatCSV, formatNDJSON, formatXLSX} {
		b.Run(format, func(b *testing.B) {
			var wanted columns
			if err := wanted.discover(document); err != nil {
				b.Fatal(err)
			}
			written, err := newRows(format, false, &wanted, io.Discard)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := written.write(document); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
