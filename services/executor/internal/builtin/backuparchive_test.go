package builtin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// rawSource gives documents as a cursor would.
type rawSource struct{ documents []bson.Raw }

func (s *rawSource) next(context.Context) (bson.Raw, error) {
	if len(s.documents) == 0 {
		return nil, errEnd
	}
	first := s.documents[0]
	s.documents = s.documents[1:]
	return first, nil
}

func raw(t *testing.T, document any) bson.Raw {
	t.Helper()
	encoded, err := bson.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func ignoreProgress(int64) {}

// newArchive makes an archive of one collection for each list of documents,
// named c0, c1 and so on.
func newArchive(t *testing.T, collections ...[]bson.Raw) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := newBackupWriter(&out, backupManifest{Format: backupFormat, Version: backupVersion, Database: "shop", JobID: "job_test", ScheduledFor: origin})
	for i, documents := range collections {
		data, err := spool(t.Context(), &rawSource{documents}, 1<<30, ignoreProgress)
		if err != nil {
			t.Fatal(err)
		}
		err = archive.add(collectionMetadata{
			Options: bson.D{}, CollectionName: fmt.Sprint("c", i), Type: "collection",
			Indexes: []bson.D{{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}}},
		}, data)
		data.discard()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(data.file.Name()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a temporary file is left: %v", err)
		}
	}
	if err := archive.finish(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// everyType is a document with every BSON type that documents have.
func everyType(t *testing.T) bson.Raw {
	t.Helper()
	decimal, err := bson.ParseDecimal128("-12345678901234567890.123456789")
	if err != nil {
		t.Fatal(err)
	}
	return raw(t, bson.D{
		{Key: "_id", Value: bson.NewObjectIDFromTimestamp(origin)},
		{Key: "double", Value: math.NaN()},
		{Key: "infinite", Value: math.Inf(-1)},
		{Key: "text", Value: "Zürich \x00 🧹"},
		{Key: "document", Value: bson.D{{Key: "a.b", Value: bson.D{{Key: "$c", Value: nil}}}}},
		{Key: "array", Value: bson.A{bson.A{int32(1)}, int64(math.MaxInt64)}},
		{Key: "binary", Value: bson.Binary{Subtype: bson.TypeBinaryUUID, Data: bytes.Repeat([]byte{7}, 16)}},
		{Key: "bool", Value: true},
		{Key: "date", Value: bson.NewDateTimeFromTime(time.Date(1890, 1, 1, 0, 0, 0, int(time.Millisecond), time.UTC))},
		{Key: "regex", Value: bson.Regex{Pattern: "^a/b$", Options: "i"}},
		{Key: "code", Value: bson.JavaScript("f()")},
		{Key: "scoped", Value: bson.CodeWithScope{Code: "f()", Scope: bson.D{{Key: "x", Value: 1}}}},
		{Key: "symbol", Value: bson.Symbol("s")},
		{Key: "pointer", Value: bson.DBPointer{DB: "d", Pointer: bson.ObjectID{1}}},
		{Key: "undefined", Value: bson.Undefined{}},
		{Key: "timestamp", Value: bson.Timestamp{T: 1, I: 2}},
		{Key: "decimal", Value: decimal},
		{Key: "least", Value: bson.MinKey{}},
		{Key: "most", Value: bson.MaxKey{}},
	})
}

func numbered(t *testing.T, n int) []bson.Raw {
	t.Helper()
	documents := make([]bson.Raw, n)
	for i := range documents {
		documents[i] = raw(t, bson.D{{Key: "_id", Value: int32(i)}, {Key: "name", Value: fmt.Sprintf("user %d", i*7919)}})
	}
	return documents
}

// contents returns the files of an archive.
func contents(t *testing.T, archive []byte) (paths []string, files map[string][]byte) {
	t.Helper()
	files = map[string][]byte{}
	err := walkArchive(t.Context(), bytes.NewReader(archive), func(path string, content io.Reader) error {
		text, err := io.ReadAll(content)
		paths, files[path] = append(paths, path), text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths, files
}

func TestArchiveHoldsEveryTypeByteForByte(t *testing.T) {
	document := everyType(t)
	archive := newArchive(t, []bson.Raw{document, raw(t, bson.D{{Key: "_id", Value: "second"}})}, nil)
	verified, err := verifyBackup(t.Context(), bytes.NewReader(archive), ignoreProgress)
	if err != nil {
		t.Fatal(err)
	}
	if got := verified.manifest.documents(); got != 2 || len(verified.manifest.Collections) != 2 || verified.manifest.Collections[1].Documents != 0 {
		t.Errorf("manifest: %+v", verified.manifest)
	}
	paths, files := contents(t, archive)
	if want := []string{"shop/c0.metadata.json", "shop/c0.bson", "shop/c1.metadata.json", "shop/c1.bson", manifestName}; !slices.Equal(paths, want) {
		t.Errorf("files %q, want those of mongodump %q", paths, want)
	}
	if !bytes.HasPrefix(files["shop/c0.bson"], document) {
		t.Error("the document is not what it was")
	}
	if want := `{"options":{},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"collectionName":"c0","type":"collection"}`; string(files["shop/c0.metadata.json"]) != want {
		t.Errorf("metadata: %s\nwant %s", files["shop/c0.metadata.json"], want)
	}
}

func TestSameCollectionsMakeTheSameArchive(t *testing.T) {
	if !bytes.Equal(newArchive(t, numbered(t, 100)), newArchive(t, numbered(t, 100))) {
		t.Error("two archives of the same documents for the same time differ")
	}
}

func TestNamesOfCollectionsBecomeFilesLikeMongodumps(t *testing.T) {
	for name, want := range map[string]string{"users": "db/users", "a/../b": "db/a%2F..%2Fb", "ö x": "db/%C3%B6%20x", "..": "db/.."} {
		if got := backupPath("db", name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// refused fails the test unless the archive is refused as damaged.
func refused(t *testing.T, what string, archive []byte) {
	t.Helper()
	_, err := verifyBackup(t.Context(), bytes.NewReader(archive), ignoreProgress)
	if failure := template.AsError(err); failure == nil || failure.Code != codeDamaged || failure.Retryable || !strings.HasPrefix(failure.Message, "the archive is damaged: ") {
		t.Errorf("%s: got %+v", what, failure)
	}
}

func TestEveryCutIsNoticed(t *testing.T) {
	archive := newArchive(t, numbered(t, 500), []bson.Raw{everyType(t)})
	for length := 0; length < len(archive); length += 1 + len(archive)/200 {
		refused(t, fmt.Sprintf("%d of %d bytes", length, len(archive)), archive[:length])
	}
	refused(t, "without its last byte", archive[:len(archive)-1])
	refused(t, "with a byte more", append(slices.Clone(archive), 'x'))
}

func TestEveryFlippedByteIsNoticed(t *testing.T) {
	archive := newArchive(t, numbered(t, 500), []bson.Raw{everyType(t)})
	_, want := contents(t, archive)
	harmless := 0
	for at := 0; at < len(archive); at += 1 + len(archive)/300 {
		spoilt := slices.Clone(archive)
		spoilt[at] ^= 0x10
		if _, err := verifyBackup(t.Context(), bytes.NewReader(spoilt), ignoreProgress); err != nil {
			refused(t, fmt.Sprintf("byte %d of %d", at, len(archive)), spoilt)
			continue
		}
		// The compression has a time that nobody reads, and some unused bits.
		harmless++
		if _, got := contents(t, spoilt); !reflect.DeepEqual(got, want) {
			t.Errorf("byte %d of %d: the archive is accepted, but holds something else", at, len(archive))
		}
	}
	if harmless > 10 {
		t.Errorf("%d flipped bytes were not noticed", harmless)
	}
}

// repacked makes an archive of files as they are given.
func repacked(t *testing.T, headers []tar.Header, files [][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	archive := tar.NewWriter(gz)
	for i, header := range headers {
		header.Size = int64(len(files[i]))
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(files[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchiveThatIsNotWhatItsManifestSaysIsRefused(t *testing.T) {
	paths, files := contents(t, newArchive(t, numbered(t, 3), numbered(t, 2)))
	type parts struct {
		paths    []string
		files    map[string][]byte
		manifest backupManifest
		kind     byte
	}
	// consistent makes the manifest say what a file is, so that only its meaning is
	// wrong.
	consistent := func(p *parts, file *backupFile, content []byte) {
		sum := sha256.Sum256(content)
		p.files[file.Path] = content
		file.Bytes, file.SHA256 = int64(len(content)), hex.EncodeToString(sum[:])
	}
	for name, tc := range map[string]struct {
		spoil func(*parts)
		want  string
	}{
		"count":         {func(p *parts) { p.manifest.Collections[1].Documents = 3 }, `"shop/c1.bson" holds 2 documents, but the manifest says 3`},
		"checksum":      {func(p *parts) { p.manifest.Collections[0].Data.SHA256 = strings.Repeat("0", 64) }, `"shop/c0.bson" has`},
		"size":          {func(p *parts) { p.manifest.Collections[0].Metadata.Bytes++ }, `"shop/c0.metadata.json" has`},
		"format":        {func(p *parts) { p.manifest.Format = "other" }, `describes "other" of version 1`},
		"version":       {func(p *parts) { p.manifest.Version = 2 }, `of version 2`},
		"named twice":   {func(p *parts) { p.manifest.Collections[1] = p.manifest.Collections[0] }, `names "c0" twice`},
		"not named":     {func(p *parts) { p.manifest.Collections = p.manifest.Collections[:1] }, `the manifest does not name "shop/c1`},
		"another name":  {func(p *parts) { p.manifest.Collections[0].Name = "other" }, `describes "c0", but the manifest says "other"`},
		"file missing":  {func(p *parts) { p.paths = slices.Delete(p.paths, 1, 2) }, `"shop/c0.bson" is missing`},
		"no manifest":   {func(p *parts) { p.paths = p.paths[:4] }, "it has no manifest"},
		"file twice":    {func(p *parts) { p.paths = slices.Insert(p.paths, 0, p.paths[0]) }, "is there twice"},
		"foreign file":  {func(p *parts) { p.paths = slices.Insert(p.paths, 0, "../etc/passwd") }, "does not belong into a backup"},
		"after the end": {func(p *parts) { p.paths = append(p.paths, "shop/c2.bson") }, "comes after the manifest"},
		"link":          {func(p *parts) { p.kind = tar.TypeSymlink }, "is not a file"},
		"cut document": {func(p *parts) {
			file := &p.manifest.Collections[0].Data
			consistent(p, file, p.files[file.Path][:50])
		}, "a document is cut off"},
		"length cut off": {func(p *parts) {
			file := &p.manifest.Collections[0].Data
			consistent(p, file, append(slices.Clone(p.files[file.Path]), 1, 2))
		}, "cut off"},
		"no BSON": {func(p *parts) {
			consistent(p, &p.manifest.Collections[0].Data, []byte{12, 0, 0, 0, 99, 'a', 0, 1, 2, 3, 4, 0})
		}, "a document that is not BSON"},
		"no length": {func(p *parts) {
			consistent(p, &p.manifest.Collections[0].Data, []byte{255, 255, 255, 255, 0})
		}, "a document of 4294967295 bytes"},
		"no _id": {func(p *parts) {
			consistent(p, &p.manifest.Collections[0].Data, raw(t, bson.D{{Key: "a", Value: 1}}))
		}, "a document without _id"},
		"no metadata": {func(p *parts) {
			consistent(p, &p.manifest.Collections[0].Metadata, []byte("{"))
		}, `"shop/c0.metadata.json"`},
		"large metadata": {func(p *parts) {
			consistent(p, &p.manifest.Collections[0].Metadata, bytes.Repeat([]byte(" "), maxMetadata+1))
		}, "is larger than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &parts{paths: slices.Clone(paths), files: map[string][]byte{}, kind: tar.TypeReg}
			for path, content := range files {
				p.files[path] = content
			}
			if err := json.Unmarshal(files[manifestName], &p.manifest); err != nil {
				t.Fatal(err)
			}
			tc.spoil(p)
			var err error
			if p.files[manifestName], err = json.Marshal(p.manifest); err != nil {
				t.Fatal(err)
			}
			var headers []tar.Header
			var bodies [][]byte
			for _, path := range p.paths {
				header := tar.Header{Typeflag: p.kind, Name: path, Mode: 0o644}
				if p.kind == tar.TypeSymlink {
					header.Linkname = "/etc/passwd"
				} else {
					bodies = append(bodies, p.files[path])
				}
				headers = append(headers, header)
			}
			bodies = append(bodies, make([][]byte, len(headers)-len(bodies))...)
			archive := repacked(t, headers, bodies)
			refused(t, name, archive)
			if _, err := verifyBackup(t.Context(), bytes.NewReader(archive), ignoreProgress); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	refused(t, "manifest that is no JSON", repacked(t, []tar.Header{{Typeflag: tar.TypeReg, Name: manifestName}}, [][]byte{[]byte("{")}))
	refused(t, "no archive", []byte("PK"))
	padding := new(bytes.Buffer)
	gz := gzip.NewWriter(padding)
	if _, err := gz.Write(make([]byte, 2*maxPadding)); err != nil || gz.Close() != nil {
		t.Fatal(err)
	}
	refused(t, "endless padding", append(newArchive(t, numbered(t, 1)), padding.Bytes()...))
}

func TestSpoolIsBounded(t *testing.T) {
	documents := numbered(t, 2*batchSize+1)
	var size int64
	for _, document := range documents {
		size += int64(len(document))
	}
	var told []int64
	data, err := spool(t.Context(), &rawSource{documents}, size, func(n int64) { told = append(told, n) })
	if err != nil {
		t.Fatal(err)
	}
	data.discard()
	if data.bytes != size || data.documents != 2*batchSize+1 || !slices.Equal(told, []int64{batchSize, 2 * batchSize}) {
		t.Errorf("%d bytes, %d documents, progress %v", data.bytes, data.documents, told)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	if _, err := spool(t.Context(), &rawSource{documents}, size-1, ignoreProgress); !errors.Is(err, errTooLarge) {
		t.Errorf("a byte too many: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	t.Setenv("TMPDIR", dir+"/missing")
	if _, err := spool(t.Context(), &rawSource{documents}, size, ignoreProgress); template.AsError(err).Code != codeTemporary {
		t.Errorf("no temporary folder: %v", err)
	}
}

func TestVerifyingStopsWhenTheRunDoes(t *testing.T) {
	archive := newArchive(t, numbered(t, 2*batchSize))
	ctx, cancel := context.WithCancel(t.Context())
	var read int64
	_, err := verifyBackup(ctx, bytes.NewReader(archive), func(n int64) { read = n; cancel() })
	if failure := template.AsError(err); failure == nil || failure.Code != template.CodeCancelled || read != batchSize {
		t.Errorf("after %d documents: %v", read, failure)
	}
}
