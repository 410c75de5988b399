// Package webhooks is a receiver of webhooks that keeps what it gets, for trying
// out the templates that send them.
package webhooks

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Values of Request.Signature.
const (
	SignatureValid   = "valid"
	SignatureInvalid = "invalid" // or too old
	SignatureAbsent  = "absent"
)

const (
	kept         = 1000 // requests; older ones are removed
	maxBodyBytes = 2 << 20
	tolerance    = 5 * time.Minute // between the clocks of both sides
	headerTime   = 10 * time.Second
	stopTime     = time.Second
)

// Request is what is kept of a request, one file each.
type Request struct {
	ReceivedAt time.Time `json:"received_at"`
	Method     string    `json:"method"`
	// Path includes the query.
	Path      string              `json:"path"`
	Headers   map[string][]string `json:"headers"`
	Body      json.RawMessage     `json:"body"` // a string unless it was JSON
	Signature string              `json:"signature"`
	// Status is what was answered.
	Status int `json:"status"`
}

// Receiver is an http.Handler that keeps every request, and answers with 200 but
// for:
//
//   - /status/503: this status, with the header Retry-After of the query's
//     retry_after;
//   - /fail-once: 500 to the first request with an Idempotency-Key;
//   - /redirect?to=...: 307 to there.
type Receiver struct {
	folder string
	secret string
	now    func() time.Time

	mu     sync.Mutex
	number int // of the latest request
	failed map[string]bool
}

// New returns a receiver that keeps requests in folder, which is made when missing,
// as 000001.json and so on, and checks signatures with secret. It goes on counting
// where an earlier one ended.
func New(folder, secret string, now func() time.Time) (*Receiver, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("webhook receiver: %w", err)
	}
	r := &Receiver{folder: folder, secret: secret, now: now, failed: map[string]bool{}}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("webhook receiver: %w", err)
	}
	for _, entry := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(entry.Name(), ".json")); err == nil {
			r.number = max(r.number, n)
		}
	}
	return r, nil
}

// Serve takes requests until ctx ends, and then those under way for a second.
func (r *Receiver) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: r, ReadHeaderTimeout: headerTime}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("webhook receiver: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err := server.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if why := <-ended; !errors.Is(why, http.ErrServerClosed) {
		err = errors.Join(err, why)
	}
	return err
}

// ServeHTTP keeps a request and answers it.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxBodyBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	now := r.now()
	got := Request{
		ReceivedAt: now.UTC(), Method: request.Method, Path: request.URL.RequestURI(), Headers: request.Header,
		Body: body, Signature: r.check(request.Header, body, now), Status: r.status(request),
	}
	if !json.Valid(body) {
		got.Body, _ = json.Marshal(string(body)) // a string always can
	}
	number, err := r.keep(got)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	query := request.URL.Query()
	if after := query.Get("retry_after"); after != "" {
		w.Header().Set("Retry-After", after)
	}
	if got.Status == http.StatusTemporaryRedirect {
		w.Header().Set("Location", query.Get("to"))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(got.Status)
	if got.Status != http.StatusNoContent && got.Status != http.StatusNotModified {
		fmt.Fprintf(w, "{\"received\": %d}\n", number)
	}
}

// status is what to answer.
func (r *Receiver) status(request *http.Request) int {
	word, wanted := strings.CutPrefix(request.URL.Path, "/status/")
	switch code, err := strconv.Atoi(word); {
	case wanted && err == nil && code >= 200 && code <= 599:
		return code
	case wanted:
		return http.StatusBadRequest
	}
	switch request.URL.Path {
	case "/redirect":
		return http.StatusTemporaryRedirect
	case "/fail-once":
		r.mu.Lock()
		defer r.mu.Unlock()
		key := request.Header.Get("Idempotency-Key")
		if !r.failed[key] {
			r.failed[key] = true
			return http.StatusInternalServerError
		}
	}
	return http.StatusOK
}

// check tells whether the signature is that of the body, and recent.
func (r *Receiver) check(header http.Header, body []byte, now time.Time) string {
	timestamp, signature := header.Get("X-Almanac-Timestamp"), header.Get("X-Almanac-Signature")
	if timestamp == "" && signature == "" {
		return SignatureAbsent
	}
	mac := hmac.New(sha256.New, []byte(r.secret))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > tolerance ||
		!hmac.Equal([]byte(signature), []byte("v1="+hex.EncodeToString(mac.Sum(nil)))) {
		return SignatureInvalid
	}
	return SignatureValid
}

// keep writes a request to its file, which appears complete, and returns its number.
func (r *Receiver) keep(got Request) (int, error) {
	content, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	path := r.file(r.number + 1)
	if err := os.WriteFile(path+".new", append(content, '\n'), 0o600); err != nil {
		return 0, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return 0, err
	}
	r.number++
	if err := os.Remove(r.file(r.number - kept)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	return r.number, nil
}

func (r *Receiver) file(number int) string {
	return filepath.Join(r.folder, fmt.Sprintf("%06d.json", number))
}

// Read returns what a folder holds, the oldest first.
func Read(folder string) ([]Request, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json")) // sorted
	if err != nil {
		return nil, err
	}
	all := make([]Request, len(files))
	for i, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(content, &all[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, nil
}
