package builtin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// newFolder returns a folder and the connection that makes it a bucket.
func newFolder(t *testing.T) (string, template.Connection) {
	t.Helper()
	folder := t.TempDir()
	return folder, template.Connection{Name: "files", Kind: template.KindBucket, URI: "file://" + folder}
}

// fakeS3 is as much of S3's protocol as a bucket needs: objects in one bucket,
// in one piece and in parts, with path-style addresses.
type fakeS3 struct {
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
	calls   []string // "METHOD key" of what changes something
	refuse  func(r *http.Request) (status int, code string)
}

const (
	s3Key    = "AKIDEXAMPLE"
	s3Secret = "s3cr3t/with+signs"
	s3Bucket = "exports"
)

// newS3 serves a bucket and returns the connection that leads there.
func newS3(t *testing.T) (*fakeS3, template.Connection) {
	t.Helper()
	s := &fakeS3{objects: map[string][]byte{}, uploads: map[string]map[int][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, template.Connection{
		Name: "s3", Kind: template.KindBucket,
		URI: "s3://" + s3Key + ":" + strings.NewReplacer("/", "%2F", "+", "%2B").Replace(s3Secret) + "@" + s3Bucket + "?region=eu-central-1&endpoint=" + server.URL,
	}
}

func (s *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, ok := strings.CutPrefix(r.URL.Path, "/"+s3Bucket)
	key = strings.TrimPrefix(key, "/")
	query := r.URL.Query()
	fail := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>The answer of the service</Message></Error>", code)
	}
	if !ok {
		fail(http.StatusNotFound, "NoSuchBucket")
		return
	}
	if !strings.Contains(r.Header.Get("Authorization"), "Credential="+s3Key+"/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/s3/") {
		fail(http.StatusForbidden, "InvalidAccessKeyId")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.calls = append(s.calls, r.Method+" "+key)
	}
	if s.refuse != nil {
		if status, code := s.refuse(r); status != 0 {
			fail(status, code)
			return
		}
	}
	upload := query.Get("uploadId")
	switch {
	case r.Method == http.MethodGet && key == "":
		s.list(w, query.Get("prefix"))
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		content, ok := s.objects[key]
		if !ok {
			fail(http.StatusNotFound, "NoSuchKey")
			return
		}
		http.ServeContent(w, r, key, time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC), bytes.NewReader(content))
	case r.Method == http.MethodPost && query.Has("uploads"):
		upload = strconv.Itoa(len(s.calls))
		s.uploads[upload] = map[int][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", upload)
	case r.Method == http.MethodPut && upload != "":
		part, err := strconv.Atoi(query.Get("partNumber"))
		if err != nil || s.uploads[upload] == nil {
			fail(http.StatusNotFound, "NoSuchUpload")
			return
		}
		s.uploads[upload][part] = body
		w.Header().Set("ETag", fmt.Sprintf("%q", query.Get("partNumber")))
	case r.Method == http.MethodPost && upload != "":
		var whole []byte
		for part := 1; s.uploads[upload][part] != nil; part++ {
			whole = append(whole, s.uploads[upload][part]...)
		}
		s.objects[key] = whole
		delete(s.uploads, upload)
		fmt.Fprint(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
	case r.Method == http.MethodDelete && upload != "":
		delete(s.uploads, upload)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[key] = body
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *fakeS3) list(w io.Writer, prefix string) {
	type content struct {
		Key          string
		LastModified string
		Size         int
	}
	var found struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []content
	}
	for key, value := range s.objects {
		if strings.HasPrefix(key, prefix) {
			found.Contents = append(found.Contents, content{key, "2025-10-19T02:00:00Z", len(value)})
		}
	}
	slices.SortFunc(found.Contents, func(a, b content) int { return cmp.Compare(a.Key, b.Key) })
	_ = xml.NewEncoder(w).Encode(found)
}

// get returns the content of an object, and whether there is one.
func (s *fakeS3) get(key string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.objects[key]
	return string(content), ok
}

func mustOpen(t *testing.T, connection template.Connection) *bucket {
	t.Helper()
	b, err := openBucket(t.Context(), connection)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

func write(t *testing.T, b *bucket, name string, content []byte) *object {
	t.Helper()
	o, err := b.create(t.Context(), name, "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	defer o.abandon()
	if _, err := o.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := o.publish(); err != nil {
		t.Fatal(err)
	}
	return o
}

func read(t *testing.T, b *bucket, name string) []byte {
	t.Helper()
	reader, err := b.open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// failed checks an error's code and whether another attempt is worth while, and
// returns its message.
func failed(t *testing.T, err error, code string, retryable bool) string {
	t.Helper()
	var failure *template.Error
	if !errors.As(err, &failure) || failure.Code != code || failure.Retryable != retryable {
		t.Fatalf("got %+v, want code %s and retryable %v", err, code, retryable)
	}
	return failure.Message
}

func TestBucketsKeepWhatIsWritten(t *testing.T) {
	_, files := newFolder(t)
	_, cloud := newS3(t)
	for _, connection := range []template.Connection{files, cloud} {
		t.Run(connection.Name, func(t *testing.T) {
			b := mustOpen(t, connection)
			large := bytes.Repeat([]byte("0123456789abcdef"), (3*partSize+100)/16)
			o := write(t, b, "a/b/large.bin", large)
			if o.bytes != int64(len(large)) || len(o.checksum()) != 64 {
				t.Errorf("%d bytes, checksum %s", o.bytes, o.checksum())
			}
			if got := read(t, b, "a/b/large.bin"); !bytes.Equal(got, large) {
				t.Errorf("%d bytes came back, which are not those written", len(got))
			}
			write(t, b, "a/b/large.bin", []byte("new"))
			write(t, b, "a/empty", nil)
			if got := read(t, b, "a/b/large.bin"); string(got) != "new" {
				t.Errorf("after overwriting: %.20q", got)
			}
			var names []string
			for iterator := b.List(&blob.ListOptions{Prefix: "a/"}); ; {
				entry, err := iterator.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, fmt.Sprint(entry.Key, " ", entry.Size))
			}
			if want := []string{"a/b/large.bin 3", "a/empty 0"}; !slices.Equal(names, want) {
				t.Errorf("listed %v, want %v", names, want)
			}
			_, err := b.open(t.Context(), "a/missing")
			failed(t, err, codeNotFound, false)
		})
	}
}

func TestNothingAppearsBeforeItIsPublished(t *testing.T) {
	folder, files := newFolder(t)
	s, cloud := newS3(t)
	for _, connection := range []template.Connection{files, cloud} {
		t.Run(connection.Name, func(t *testing.T) {
			b := mustOpen(t, connection)
			write(t, b, "kept.txt", []byte("old"))
			for name, end := range map[string]func(*object, context.CancelFunc) error{
				"abandoned": func(o *object, _ context.CancelFunc) error { o.abandon(); return nil },
				"cancelled": func(o *object, cancel context.CancelFunc) error { cancel(); return o.publish() },
			} {
				ctx, cancel := context.WithCancel(t.Context())
				o, err := b.create(ctx, "kept.txt", "text/plain")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := o.Write(bytes.Repeat([]byte("x"), 2*partSize+1)); err != nil {
					t.Fatal(err)
				}
				if err := end(o, cancel); err != nil {
					failed(t, err, template.CodeCancelled, false)
				} else if name == "cancelled" {
					t.Error("an object was published after its run was cancelled")
				}
				cancel()
				if got := read(t, b, "kept.txt"); string(got) != "old" {
					t.Errorf("%s: now it holds %.10q", name, got)
				}
			}
		})
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v), want kept.txt alone", entries, err)
	}
	if s.mu.Lock(); len(s.uploads) != 0 || slices.Contains(s.calls, "POST kept.txt") && !slices.Contains(s.calls, "DELETE kept.txt") {
		t.Errorf("unfinished uploads are left: %d of them; calls %v", len(s.uploads), s.calls)
	}
	s.mu.Unlock()
}

func TestLeftoversOfKilledRunsAreRemoved(t *testing.T) {
	folder, files := newFolder(t)
	b := mustOpen(t, files)
	old := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Mkdir(filepath.Join(folder, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Time{
		"a/data.csv.17f.tmp":  old, // of a killed attempt
		"a/other.csv.17f.tmp": old, // of another object
		"a/data.csv.gz":       old, // an object
	} {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	o, err := b.create(t.Context(), "a/data.csv", "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	defer o.abandon()
	// Another attempt is writing, later than this one began.
	if err := os.WriteFile(filepath.Join(folder, "a/data.csv.180.tmp"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.publish(); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(filepath.Join(folder, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := []string{"data.csv", "data.csv.180.tmp", "data.csv.gz", "other.csv.17f.tmp"}; !slices.Equal(names, want) {
		t.Errorf("left are %v, want %v", names, want)
	}
}

func TestObjectNames(t *testing.T) {
	for _, good := range []string{"a", "users.csv", "a/b/c.csv.gz", "2025-10-19T020000+0200.xlsx", "Übersicht/März.html", "a b/c", "a/b/"} {
		if problem := checkObjectName(good); problem != "" {
			t.Errorf("%q %s", good, problem)
		}
	}
	long := strings.Repeat("x", 201)
	for _, bad := range []string{
		"", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a/./b", ".hidden", "a/.b", `a\b`, "C:/a", "a\x00b", "a\nb", "a\u202eb",
		"a\xffb", " a", "a ", "a/b.", "a.tmp", "a.attrs", long, strings.Repeat("x/", 300), "a*b", "a?b", `a"b`, "a<b", "a|b",
	} {
		if problem := checkObjectName(bad); problem == "" {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestNamesCannotLeaveTheFolder(t *testing.T) {
	folder, files := newFolder(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(folder, "link")), os.Symlink(filepath.Join(outside, "secret"), filepath.Join(folder, "file"))); err != nil {
		t.Fatal(err)
	}
	b := mustOpen(t, files)
	for _, name := range []string{"../a", "link/a", "link/deep/a", "link/secret", "file"} {
		if o, err := b.create(t.Context(), name, "text/plain"); err == nil {
			o.abandon()
			t.Errorf("%s can be written", name)
		}
		if reader, err := b.open(t.Context(), name); err == nil {
			_ = reader.Close()
			t.Errorf("%s can be read", name)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside there are now %v (%v)", entries, err)
	}
}

func TestAnswersOfBuckets(t *testing.T) {
	s, cloud := newS3(t)
	attempt := func(connection template.Connection) error {
		b, err := openBucket(t.Context(), connection)
		if err != nil {
			return err
		}
		defer b.close()
		o, err := b.create(t.Context(), "a.txt", "text/plain")
		if err != nil {
			return err
		}
		defer o.abandon()
		if _, err := o.Write([]byte("x")); err != nil {
			return err
		}
		return o.publish()
	}
	changed := func(from, to string) template.Connection {
		c := cloud
		if c.URI = strings.Replace(c.URI, from, to, 1); c.URI == cloud.URI {
			t.Fatalf("%s is not in the URI", from)
		}
		return c
	}
	if err := attempt(cloud); err != nil {
		t.Fatal(err)
	}
	told := failed(t, attempt(changed(s3Key, "AKIDWRONG")), template.CodeForbidden, false)
	if !strings.Contains(told, "InvalidAccessKeyId: The answer of the service") {
		t.Errorf("the service's own answer is not told: %s", told)
	}
	failed(t, attempt(changed("@"+s3Bucket, "@nosuchbucket")), codeNotFound, false)
	s.mu.Lock()
	s.refuse = func(*http.Request) (int, string) { return http.StatusConflict, s3Secret }
	s.mu.Unlock()
	if told := failed(t, attempt(cloud), codeBucket, false); strings.Contains(told, s3Secret) || !strings.Contains(told, "***") {
		t.Errorf("the secret is told: %s", told)
	}
	for _, c := range []struct{ uri, about string }{
		{cloud.URI + "&region2=x", "region2"},
		{cloud.URI + "&path_style=perhaps", "path_style"},
		{"s3://k:s@b?endpoint=localhost:9000", "endpoint"},
		{"gs://bucket", "file:// or s3://"},
		{"file://", "absolute path"},
		{"s3://k:s%zz@b", "cannot be read"},
	} {
		if told := failed(t, attempt(template.Connection{Name: "c", Kind: template.KindBucket, URI: c.uri}), template.CodeValidation, false); !strings.Contains(told, c.about) {
			t.Errorf("%s: %s", c.uri, told)
		}
	}
}

func TestUnreachableBucket(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	b := mustOpen(t, template.Connection{Name: "gone", Kind: template.KindBucket, URI: "s3://key:verysecret@exports?endpoint=" + server.URL})
	told := failed(t, func() error { _, err := b.open(t.Context(), "a"); return err }(), template.CodeConnection, true)
	if !strings.Contains(told, "connection refused") || strings.Contains(told, "verysecret") {
		t.Error(told)
	}
	failed(t, func() error {
		_, err := openBucket(t.Context(), template.Connection{Name: "f", Kind: template.KindBucket, URI: "file:///nonexistent/folder"})
		return err
	}(), codeNotFound, false)
}

func TestFolderThatRefuses(t *testing.T) {
	if os.Getuid() == 0 {
		// Root may write anywhere; a file where a folder should be stops it, too.
		folder, files := newFolder(t)
		if err := os.WriteFile(filepath.Join(folder, "a"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := mustOpen(t, files).create(t.Context(), "a/b", "text/plain")
		failed(t, err, codeBucket, false)
		return
	}
	folder, files := newFolder(t)
	b := mustOpen(t, files)
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	_, err := b.create(t.Context(), "a/b", "text/plain")
	failed(t, err, template.CodeForbidden, false)
}
