package builtin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	destinationParam = "destination"

	// codeBucket is the error code of what a bucket refuses or cannot do, codeNotFound
	// that of an object, or a bucket, that is not there.
	codeBucket   = "bucket"
	codeNotFound = "not_found"

	maxObjectName = 512     // bytes; file systems and S3 permit more as a whole
	maxNamePart   = 200     // bytes of one part; file systems permit 255, and a temporary name is longer
	partSize      = 8 << 20 // bytes of memory for each part on its way to S3, which takes 10,000 parts
	partsAtOnce   = 2       // on their way to S3
	defaultRegion = "us-east-1"
)

// bucket is an open destination. Its methods and those of the embedded bucket
// may be used concurrently; close it.
type bucket struct {
	*blob.Bucket
	connection template.Connection
	root       *os.Root // the folder, when it is one on this machine
}

// openBucket opens a connection of the kind "bucket". Nothing is asked of the
// other side yet, except that a folder must exist.
func openBucket(ctx context.Context, connection template.Connection) (*bucket, error) {
	b := &bucket{connection: connection}
	u, err := url.Parse(connection.URI)
	if err != nil {
		// The parser's error may quote the URI.
		return nil, b.misconfigured("its URI cannot be read")
	}
	switch u.Scheme {
	case "file":
		err = b.openFolder(connection.Folder())
	case "s3":
		err = b.openS3(ctx, u)
	default:
		err = b.misconfigured("its URI must begin with file:// or s3://")
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bucket) misconfigured(format string, args ...any) *template.Error {
	return template.Fail(template.CodeValidation, "connection %q: %s: correct it in the executor's configuration", b.connection.Name, fmt.Sprintf(format, args...))
}

// openFolder opens a folder as a bucket. Objects are written under a temporary
// name beside their own and then renamed, for only within one file system is a
// rename atomic. Nothing but the objects is written.
func (b *bucket) openFolder(folder string) error {
	if folder == "" {
		return b.misconfigured("its URI must be file:// and the absolute path of a folder")
	}
	root, err := os.OpenRoot(folder)
	if err == nil {
		b.root = root
		b.Bucket, err = fileblob.OpenBucket(folder, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
	}
	if err != nil {
		return b.failure(context.Background(), "open the folder", err)
	}
	return nil
}

// openS3 opens a bucket of S3 or of a service that speaks its protocol:
// s3://KEY:SECRET@bucket?region=...&endpoint=...&path_style=true. With an
// endpoint the path style is the default, which most such services expect.
func (b *bucket) openS3(ctx context.Context, u *url.URL) error {
	query := u.Query()
	for name := range query {
		if name != "region" && name != "endpoint" && name != "path_style" {
			return b.misconfigured("its URI has %q after the ?, but only region, endpoint and path_style are known", name)
		}
	}
	secret, _ := u.User.Password()
	endpoint := query.Get("endpoint")
	pathStyle := endpoint != ""
	if given := query.Get("path_style"); given != "" {
		var err error
		if pathStyle, err = strconv.ParseBool(given); err != nil {
			return b.misconfigured("path_style in its URI must be true or false")
		}
	}
	config := aws.Config{
		Region:      cmp.Or(query.Get("region"), defaultRegion),
		Credentials: credentials.NewStaticCredentialsProvider(u.User.Username(), secret, ""),
	}
	options := &s3blob.Options{}
	if endpoint != "" {
		if e, err := url.Parse(endpoint); err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" {
			return b.misconfigured("endpoint in its URI must be http(s)://host:port")
		}
		config.BaseEndpoint = aws.String(endpoint)
		// Services other than Amazon's own often refuse the newer checksums.
		config.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		config.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		options.RequestChecksumCalculation = config.RequestChecksumCalculation
	}
	client := s3.NewFromConfig(config, func(o *s3.Options) {
		o.UsePathStyle = pathStyle
		o.APIOptions = append(o.APIOptions, abortAlways)
	})
	opened, err := s3blob.OpenBucket(ctx, client, u.Host, options)
	if err != nil {
		return b.failure(ctx, "open the bucket", err)
	}
	b.Bucket = opened
	return nil
}

// abortAlways lets the client drop a half-sent object also when the run that sent
// it was cancelled: S3 keeps its parts, and wants them paid for, otherwise.
func abortAlways(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("AbortAlways",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			if _, ok := in.Parameters.(*s3.AbortMultipartUploadInput); ok {
				farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
				defer cancel()
				ctx = farewell
			}
			return next.HandleInitialize(ctx, in)
		}), middleware.Before)
}

func (b *bucket) close() {
	_ = b.Close() // nothing is owed: an object is published or it is not
	if b.root != nil {
		_ = b.root.Close()
	}
}

// checkObjectName says what is wrong with the name of an object, or with a
// prefix of names that ends in a slash; "" means nothing. A good name is a
// relative path that means the same everywhere: it stays in its folder, and no
// part of it is hidden, temporary, or empty.
func checkObjectName(name string) string {
	whole := strings.TrimSuffix(name, "/")
	switch {
	case whole == "":
		return "must not be empty"
	case len(name) > maxObjectName:
		return fmt.Sprintf("must have at most %d bytes", maxObjectName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(`\:*?"<>|`, r) }):
		return `must have no control characters and none of \ : * ? " < > |`
	case strings.HasPrefix(name, "/"):
		return `must be relative to the destination: drop the / at its beginning`
	}
	for part := range strings.SplitSeq(whole, "/") {
		switch {
		case part == "":
			return "must have no two slashes one after the other"
		case part[0] == '.':
			return `must have no part that begins with a dot, such as ".."`
		case len(part) > maxNamePart:
			return fmt.Sprintf("must have at most %d bytes between two slashes", maxNamePart)
		case strings.TrimSpace(part) != part || strings.HasSuffix(part, "."):
			return "must have no part that begins or ends with a space, or ends with a dot"
		case isTemporary(part), strings.HasSuffix(part, ".attrs"):
			return "must not end with .tmp or .attrs"
		}
	}
	return ""
}

// isTemporary reports whether that is the name of a file that is not an object
// yet: one that is being written, or was when its run was killed.
func isTemporary(name string) bool { return strings.HasSuffix(name, ".tmp") }

// within makes sure that the object is inside the folder, also when there are
// symbolic links in it, and makes its parents when they are wanted.
func (b *bucket) within(name string, parents bool) error {
	if problem := checkObjectName(name); problem != "" {
		return template.Fail(template.CodeValidation, "the object's name %q %s", name, problem)
	}
	if b.root == nil {
		return nil
	}
	if parent := path.Dir(name); parents && parent != "." {
		if err := b.root.MkdirAll(parent, 0o777); err != nil { // less the umask, as for any file of the bucket
			return err
		}
	}
	_, err := b.root.Stat(name)
	if parents && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// object is being written. It appears in the bucket, whole, when it is
// published. It is used by one goroutine.
type object struct {
	bucket *bucket
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	writer *blob.Writer
	file   *os.File  // what a folder has instead, until it is published
	began  time.Time // by the clock of the folder's file system

	bytes int64
	sum   hash.Hash
	ended bool
}

// create begins an object. Publish it, or abandon it; abandoning one that was
// published does nothing, so that it can be deferred.
func (b *bucket) create(ctx context.Context, name, contentType string) (*object, error) {
	if err := b.within(name, true); err != nil {
		return nil, b.failure(ctx, "write "+name, err)
	}
	o := &object{bucket: b, name: name, sum: sha256.New()}
	o.ctx, o.cancel = context.WithCancel(ctx)
	var err error
	o.writer, err = b.NewWriter(o.ctx, name, &blob.WriterOptions{
		ContentType: contentType, BufferSize: partSize, MaxConcurrency: partsAtOnce,
		BeforeWrite: func(as func(any) bool) error {
			if !as(&o.file) {
				o.file = nil
				return nil
			}
			info, err := o.file.Stat()
			if err == nil {
				o.began = info.ModTime()
			}
			return err
		},
	})
	if err != nil {
		o.cancel()
		return nil, b.failure(ctx, "write "+name, err)
	}
	return o, nil
}

// Write adds to the object. Its error is a *template.Error.
func (o *object) Write(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, o.bucket.failure(o.ctx, "write "+o.name, err)
	}
	n, err := o.writer.Write(p)
	o.bytes += int64(n)
	o.sum.Write(p[:n])
	if err != nil {
		return n, o.bucket.failure(o.ctx, "write "+o.name, err)
	}
	return n, nil
}

// checksum returns the SHA-256 of what was written so far, in hexadecimal.
func (o *object) checksum() string { return hex.EncodeToString(o.sum.Sum(nil)) }

// publish makes the object appear in place of any earlier one of that name. In a
// folder it is on the disk then.
func (o *object) publish() error {
	defer o.abandon()
	var err error
	if o.file != nil {
		err = o.file.Sync()
	}
	if err == nil {
		o.ended = true
		err = o.writer.Close()
	}
	if err == nil && o.file != nil {
		err = o.settle()
	}
	if err != nil {
		return o.bucket.failure(o.ctx, "write "+o.name, err)
	}
	return nil
}

// settle makes the rename last, and removes what killed attempts at the same
// object left behind: temporary files that nobody has touched since this one was
// begun.
func (o *object) settle() error {
	folder, err := o.bucket.root.Open(path.Dir(o.name))
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return err
	}
	for {
		entries, err := folder.ReadDir(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), path.Base(o.name)+".") || !isTemporary(entry.Name()) {
				continue
			}
			if info, err := entry.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().Before(o.began) {
				_ = o.bucket.root.Remove(path.Join(path.Dir(o.name), entry.Name())) // the next one tries again
			}
		}
	}
}

// abandon drops an object that was not published.
func (o *object) abandon() {
	o.cancel()
	if !o.ended {
		o.ended = true
		_ = o.writer.Close() // whose context has ended, so that nothing is published
	}
}

// open returns the content of an object. Its reads' errors are the bucket's own:
// pass them to failure. Close it.
func (b *bucket) open(ctx context.Context, name string) (*blob.Reader, error) {
	if err := b.within(name, false); err != nil {
		return nil, b.failure(ctx, "read "+name, err)
	}
	reader, err := b.NewReader(ctx, name, nil)
	if err != nil {
		return nil, b.failure(ctx, "read "+name, err)
	}
	return reader, nil
}

// failure says what an error of the bucket means for the run. Doing completes
// "could not ...". An error that is a *template.Error already is returned as it
// is.
func (b *bucket) failure(ctx context.Context, doing string, err error) *template.Error {
	var known *template.Error
	if errors.As(err, &known) {
		return known
	}
	if ctx.Err() != nil {
		return template.AsError(fmt.Errorf("could not %s: %w", doing, ctx.Err()))
	}
	says := func(retryable bool, code string) *template.Error {
		e := template.Fail(code, "connection %q: could not %s: %s", b.connection.Name, doing, b.connection.Redact(answer(err)))
		e.Retryable = retryable
		return e
	}
	var response *awshttp.ResponseError
	var api smithy.APIError
	status := 0
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	switch {
	case errors.Is(err, fs.ErrPermission), gcerrors.Code(err) == gcerrors.PermissionDenied, status == 401, status == 403:
		return says(false, template.CodeForbidden)
	case errors.Is(err, fs.ErrNotExist), gcerrors.Code(err) == gcerrors.NotFound:
		return says(false, codeNotFound)
	case b.root != nil || b.connection.Folder() != "":
		// A full disk may have room later; a name that is a folder stays one.
		return says(errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO), codeBucket)
	case errors.As(err, &api):
		return says(status == 429 || status >= 500, codeBucket)
	default:
		return says(true, template.CodeConnection)
	}
}

// answer leaves out of an error what the bucket's library says about itself.
func answer(err error) string {
	var api smithy.APIError
	var file *fs.PathError
	switch {
	case errors.As(err, &api) && api.ErrorMessage() != "":
		return api.ErrorCode() + ": " + api.ErrorMessage()
	case errors.As(err, &file):
		return file.Error()
	}
	return err.Error()
}
