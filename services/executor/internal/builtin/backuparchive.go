package builtin

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// An archive is a compressed tar of what mongodump writes, so that mongorestore
// reads it once it is unpacked: <database>/<collection>.bson holds the documents
// one after the other, <database>/<collection>.metadata.json the options and
// indexes as canonical extended JSON. manifest.json, which mongorestore passes
// over, comes last: it says what everything before it must be, and its presence
// shows that nothing was cut off.

const (
	backupFormat  = "almanac-backup"
	backupVersion = 1
	manifestName  = "manifest.json"

	// maxDocument is what a server accepts: 16 MiB, and some room for its own use.
	maxDocument = 16<<20 + 16<<10
	maxMetadata = 4 << 20
	maxManifest = 16 << 20
	maxPadding  = 1 << 20 // of the tar; tar itself writes 10 KiB at most

	// codeDamaged is the error code of an archive that is not what it was.
	codeDamaged = "damaged"
)

type backupManifest struct {
	Format       string             `json:"format"`
	Version      int                `json:"version"`
	Database     string             `json:"database"`
	JobID        string             `json:"job_id"`
	JobName      string             `json:"job_name"`
	ExecutionID  string             `json:"execution_id"`
	ScheduledFor time.Time          `json:"scheduled_for"`
	Collections  []backupCollection `json:"collections"`
}

type backupCollection struct {
	Name      string     `json:"name"`
	Documents int64      `json:"documents"`
	Data      backupFile `json:"data"`
	Metadata  backupFile `json:"metadata"`
}

type backupFile struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// documents counts what is in all collections.
func (m backupManifest) documents() (total int64) {
	for _, c := range m.Collections {
		total += c.Documents
	}
	return total
}

// collectionMetadata is mongodump's metadata.json.
type collectionMetadata struct {
	Options        bson.D   `bson:"options"`
	Indexes        []bson.D `bson:"indexes"`
	UUID           string   `bson:"uuid,omitempty"`
	CollectionName string   `bson:"collectionName"`
	Type           string   `bson:"type"`
}

// backupPath is where mongodump puts a collection, without the file's ending.
func backupPath(database, collection string) string {
	return database + "/" + url.PathEscape(collection)
}

// errEnd is what a documentSource returns after the last document. It is not
// io.EOF, which is inside the error of a connection that was cut, too.
var errEnd = errors.New("no more documents")

// documentSource gives documents one by one, then errEnd. A document is valid
// until the next call.
type documentSource interface {
	next(ctx context.Context) (bson.Raw, error)
}

// spooled is a collection written to a temporary file, because a tar wants the
// size of a file before its content.
type spooled struct {
	file      *os.File
	documents int64
	bytes     int64
	sha256    string
}

// spool writes the documents to a temporary file of at most so many bytes. The
// caller removes it by discard. After every batch it calls progress.
func spool(ctx context.Context, source documentSource, most int64, progress func(documents int64)) (*spooled, error) {
	file, err := os.CreateTemp("", "backup-*.bson")
	if err != nil {
		return nil, template.Fail(codeTemporary, "could not make a temporary file: %w", err)
	}
	s := &spooled{file: file}
	if err := s.fill(ctx, source, most, progress); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

// codeTemporary is the error code of a run whose temporary folder failed it.
const codeTemporary = "temporary_storage"

var errTooLarge = errors.New("too large")

func (s *spooled) fill(ctx context.Context, source documentSource, most int64, progress func(documents int64)) error {
	hash := sha256.New()
	out := bufio.NewWriterSize(s.file, 1<<16)
	for {
		document, err := source.next(ctx)
		if errors.Is(err, errEnd) {
			break
		}
		if err != nil {
			return err
		}
		if s.bytes += int64(len(document)); s.bytes > most {
			return errTooLarge
		}
		hash.Write(document)
		if _, err := out.Write(document); err != nil {
			return temporaryFailure(err)
		}
		if s.documents++; s.documents%batchSize == 0 {
			progress(s.documents)
		}
	}
	if err := out.Flush(); err != nil {
		return temporaryFailure(err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return temporaryFailure(err)
	}
	s.sha256 = hex.EncodeToString(hash.Sum(nil))
	return nil
}

func temporaryFailure(err error) *template.Error {
	return template.Retryable(codeTemporary, "could not use a temporary file: %w", err)
}

func (s *spooled) discard() {
	_ = s.file.Close()
	_ = os.Remove(s.file.Name()) // the folder goes with the run anyway
}

// backupWriter writes an archive from beginning to end, in constant memory.
type backupWriter struct {
	gz       *gzip.Writer
	tar      *tar.Writer
	manifest backupManifest
}

func newBackupWriter(w io.Writer, manifest backupManifest) *backupWriter {
	gz := gzip.NewWriter(w)
	return &backupWriter{gz: gz, tar: tar.NewWriter(gz), manifest: manifest}
}

// add writes one collection.
func (w *backupWriter) add(metadata collectionMetadata, data *spooled) error {
	text, err := bson.MarshalExtJSON(metadata, true, false)
	if err != nil {
		return template.Fail(template.CodeInternal, "could not write the metadata of %s: %w", metadata.CollectionName, err)
	}
	sum := sha256.Sum256(text)
	path := backupPath(w.manifest.Database, metadata.CollectionName)
	collection := backupCollection{
		Name:      metadata.CollectionName,
		Documents: data.documents,
		Data:      backupFile{Path: path + ".bson", Bytes: data.bytes, SHA256: data.sha256},
		Metadata:  backupFile{Path: path + ".metadata.json", Bytes: int64(len(text)), SHA256: hex.EncodeToString(sum[:])},
	}
	if err := w.write(collection.Metadata.Path, collection.Metadata.Bytes, strings.NewReader(string(text))); err != nil {
		return err
	}
	if err := w.write(collection.Data.Path, collection.Data.Bytes, data.file); err != nil {
		return err
	}
	w.manifest.Collections = append(w.manifest.Collections, collection)
	return nil
}

// finish writes the manifest and ends the archive.
func (w *backupWriter) finish() error {
	text, err := json.MarshalIndent(w.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := w.write(manifestName, int64(len(text)), strings.NewReader(string(text))); err != nil {
		return err
	}
	return errors.Join(w.tar.Close(), w.gz.Close())
}

func (w *backupWriter) write(path string, size int64, content io.Reader) error {
	err := w.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: path, Size: size, Mode: 0o644,
		// Not the time of writing, so that a retry writes the same.
		ModTime: w.manifest.ScheduledFor.Truncate(time.Second),
	})
	if err == nil {
		_, err = io.Copy(w.tar, content)
	}
	return err
}

// documentReader reads what mongodump wrote, and checks that it is BSON.
type documentReader struct {
	from   *bufio.Reader
	buffer []byte
}

func newDocumentReader(r io.Reader) *documentReader {
	return &documentReader{from: bufio.NewReaderSize(r, 1<<16)}
}

// next returns the next document, valid until the next call, or errEnd.
func (r *documentReader) next(ctx context.Context) (bson.Raw, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var length [4]byte
	if _, err := io.ReadFull(r.from, length[:]); isEOF(err) {
		return nil, errEnd
	} else if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n < 5 || n > maxDocument {
		return nil, fmt.Errorf("a document of %d bytes", n)
	}
	if cap(r.buffer) < int(n) {
		r.buffer = make([]byte, n)
	}
	document := bson.Raw(r.buffer[:n])
	copy(document, length[:])
	switch _, err := io.ReadFull(r.from, document[4:]); {
	case isEOF(err), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("a document is cut off")
	case err != nil:
		return nil, err
	}
	if err := document.Validate(); err != nil {
		return nil, fmt.Errorf("a document that is not BSON: %w", err)
	}
	if _, err := document.LookupErr("_id"); err != nil {
		return nil, errors.New("a document without _id")
	}
	return document, nil
}

// isEOF reports the regular end of a stream, which io.EOF is only when nothing
// wraps it: the error of a connection that was cut may wrap it.
func isEOF(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// walkArchive calls each for every file in the archive, in order, and reads the
// archive to its very end. A *template.Error of each ends it as it is; every
// other error means that the archive is damaged, and so becomes one.
func walkArchive(ctx context.Context, archive io.Reader, each func(path string, content io.Reader) error) error {
	damaged := func(err error) error {
		var told *template.Error
		switch {
		case errors.As(err, &told):
			return told
		case ctx.Err() != nil:
			return template.AsError(ctx.Err())
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			err = errors.New("it is cut off")
		}
		return template.Fail(codeDamaged, "the archive is damaged: %w", err)
	}
	gz, err := gzip.NewReader(archive)
	if err != nil {
		return damaged(err)
	}
	files := tar.NewReader(gz)
	for {
		header, err := files.Next()
		if isEOF(err) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if header.Typeflag != tar.TypeReg {
			return damaged(fmt.Errorf("%q is not a file", header.Name))
		}
		if err := each(header.Name, files); err != nil {
			return damaged(fmt.Errorf("%q: %w", header.Name, err))
		}
	}
	// The checksum of the compression stands after the padding.
	switch _, err := io.CopyN(io.Discard, gz, maxPadding); {
	case err == nil:
		return damaged(errors.New("something comes after its end"))
	case !isEOF(err):
		return damaged(err)
	}
	return nil
}

// verifiedBackup is what is known of an archive that was read to its end and
// found to be what its manifest says.
type verifiedBackup struct {
	manifest backupManifest
	metadata map[string]collectionMetadata // by collection
}

// verifyBackup reads an archive and compares all that it holds with its
// manifest. After every batch it calls progress with the documents read so far.
func verifyBackup(ctx context.Context, archive io.Reader, progress func(documents int64)) (*verifiedBackup, error) {
	v := &archiveVerifier{progress: progress, files: map[string]backupFile{}, documents: map[string]int64{}, metadata: map[string]collectionMetadata{}}
	if err := walkArchive(ctx, archive, func(path string, content io.Reader) error { return v.file(ctx, path, content) }); err != nil {
		return nil, err
	}
	verified, err := v.compare()
	if err != nil {
		return nil, template.Fail(codeDamaged, "the archive is damaged: %w", err)
	}
	return verified, nil
}

type archiveVerifier struct {
	progress  func(int64)
	read      int64
	files     map[string]backupFile
	documents map[string]int64
	metadata  map[string]collectionMetadata
	manifest  *backupManifest
}

// file reads one file of the archive.
func (v *archiveVerifier) file(ctx context.Context, path string, content io.Reader) error {
	if v.manifest != nil {
		return errors.New("comes after the manifest")
	}
	if _, twice := v.files[path]; twice {
		return errors.New("is there twice")
	}
	hash := sha256.New()
	counted := &countingReader{from: io.TeeReader(content, hash)}
	var err error
	switch {
	case path == manifestName:
		err = v.readManifest(counted)
	case strings.HasSuffix(path, ".metadata.json"):
		v.metadata[path], err = readMetadata(counted)
	case strings.HasSuffix(path, ".bson"):
		v.documents[path], err = v.count(ctx, counted)
	default:
		err = errors.New("does not belong into a backup")
	}
	if err != nil {
		return err
	}
	if path != manifestName {
		v.files[path] = backupFile{Path: path, Bytes: counted.bytes, SHA256: hex.EncodeToString(hash.Sum(nil))}
	}
	return nil
}

func (v *archiveVerifier) readManifest(content io.Reader) error {
	text, err := readWhole(content, maxManifest)
	if err != nil {
		return err
	}
	var manifest backupManifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return err
	}
	if manifest.Format != backupFormat || manifest.Version != backupVersion {
		return fmt.Errorf("describes %q of version %d, not %q of version %d", manifest.Format, manifest.Version, backupFormat, backupVersion)
	}
	v.manifest = &manifest
	return nil
}

func readMetadata(content io.Reader) (metadata collectionMetadata, err error) {
	text, err := readWhole(content, maxMetadata)
	if err == nil {
		err = bson.UnmarshalExtJSON(text, false, &metadata)
	}
	return metadata, err
}

func readWhole(content io.Reader, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(content, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("is larger than %d MiB", most>>20)
	}
	return text, err
}

func (v *archiveVerifier) count(ctx context.Context, content io.Reader) (n int64, err error) {
	documents := newDocumentReader(content)
	for {
		if _, err := documents.next(ctx); errors.Is(err, errEnd) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
		if v.read++; v.read%batchSize == 0 {
			v.progress(v.read)
		}
	}
}

// compare holds what was read against the manifest.
func (v *archiveVerifier) compare() (*verifiedBackup, error) {
	if v.manifest == nil {
		return nil, errors.New("it has no manifest")
	}
	verified := &verifiedBackup{manifest: *v.manifest, metadata: map[string]collectionMetadata{}}
	for _, c := range v.manifest.Collections {
		if _, twice := verified.metadata[c.Name]; twice {
			return nil, fmt.Errorf("its manifest names %q twice", c.Name)
		}
		for _, want := range []backupFile{c.Data, c.Metadata} {
			got, ok := v.files[want.Path]
			switch {
			case !ok:
				return nil, fmt.Errorf("%q is missing", want.Path)
			case got != want:
				return nil, fmt.Errorf("%q has %d bytes with the SHA-256 %s, but the manifest says %d with %s", want.Path, got.Bytes, got.SHA256, want.Bytes, want.SHA256)
			}
			delete(v.files, want.Path)
		}
		if n, ok := v.documents[c.Data.Path]; !ok || n != c.Documents {
			return nil, fmt.Errorf("%q holds %d documents, but the manifest says %d", c.Data.Path, n, c.Documents)
		}
		metadata, ok := v.metadata[c.Metadata.Path]
		if !ok || metadata.CollectionName != c.Name {
			return nil, fmt.Errorf("%q describes %q, but the manifest says %q", c.Metadata.Path, metadata.CollectionName, c.Name)
		}
		verified.metadata[c.Name] = metadata
	}
	for path := range v.files {
		return nil, fmt.Errorf("the manifest does not name %q", path)
	}
	return verified, nil
}

// countingReader counts what is read through it.
type countingReader struct {
	from  io.Reader
	bytes int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.bytes += int64(n)
	return n, err
}
