package webhooks

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const secret = "the-key"

var now = time.Unix(1_800_000_000, 0)

// start serves a receiver on a port of its own until stop is called or the test
// ends.
func start(t *testing.T, folder string) (r *Receiver, url string, stop func()) {
	t.Helper()
	r, err := New(folder, secret, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, "http://" + listener.Addr().String(), stop
}

// do sends a request and returns status, body and headers of the answer.
func do(t *testing.T, method, url, body string, headers map[string]string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request) // follows nothing
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

func signed(body string, at time.Time, key string) map[string]string {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s", timestamp, body)
	return map[string]string{"X-Almanac-Timestamp": timestamp, "X-Almanac-Signature": "v1=" + hex.EncodeToString(mac.Sum(nil))}
}

func TestReceiverKeepsRequests(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "webhooks")
	_, url, stop := start(t, folder)
	if status, body, _ := do(t, "PUT", url+"/hook?a=b", `{"a": [1]}`, map[string]string{"X-Team": "platform"}); status != 200 || body != "{\"received\": 1}\n" {
		t.Errorf("%d %q", status, body)
	}
	do(t, "POST", url, "no JSON \xff", nil)
	do(t, "GET", url+"/page", "", nil)
	got, err := Read(folder)
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	first := got[0]
	if first.Method != http.MethodPut || first.Path != "/hook?a=b" || first.Headers["X-Team"][0] != "platform" || strings.Join(strings.Fields(string(first.Body)), "") != `{"a":[1]}` ||
		first.Signature != SignatureAbsent || first.Status != 200 || !first.ReceivedAt.Equal(now) {
		t.Errorf("%+v", first)
	}
	if body := string(got[1].Body); body != `"no JSON \ufffd"` && body != "\"no JSON \uFFFD\"" {
		t.Errorf("%s", body)
	}
	if body := string(got[2].Body); body != `""` {
		t.Errorf("%s", body)
	}
	stop()
	next, url, _ := start(t, folder) // which goes on counting
	if _, body, _ := do(t, "POST", url, "{}", nil); body != "{\"received\": 4}\n" {
		t.Errorf("%q", body)
	}
	next.mu.Lock()
	next.number = kept + 1
	next.mu.Unlock()
	do(t, "POST", url, "{}", nil)
	if _, err := os.Stat(filepath.Join(folder, "000002.json")); !os.IsNotExist(err) {
		t.Errorf("the oldest is still there: %v", err)
	}
}

func TestReceiverAnswersAsAsked(t *testing.T) {
	_, url, _ := start(t, t.TempDir())
	for path, want := range map[string]int{"/status/503": 503, "/status/204": 204, "/status/99": 400, "/status/600": 400, "/status/x": 400, "/redirect?to=/x": 307, "/other": 200} {
		if status, _, _ := do(t, "POST", url+path, "{}", nil); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if _, _, header := do(t, "GET", url+"/status/429?retry_after=3", "", nil); header.Get("Retry-After") != "3" {
		t.Errorf("%v", header)
	}
	if _, _, header := do(t, "GET", url+"/redirect?to=http://169.254.169.254/", "", nil); header.Get("Location") != "http://169.254.169.254/" {
		t.Errorf("%v", header)
	}
	for _, c := range []struct {
		key    string
		status int
	}{{"a", 500}, {"a", 200}, {"b", 500}, {"a", 200}, {"b", 200}} {
		if status, _, _ := do(t, "POST", url+"/fail-once", "{}", map[string]string{"Idempotency-Key": c.key}); status != c.status {
			t.Errorf("%s: %d, want %d", c.key, status, c.status)
		}
	}
	if status, _, _ := do(t, "POST", url, strings.Repeat("x", maxBodyBytes+1), nil); status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d", status)
	}
}

func TestReceiverChecksSignatures(t *testing.T) {
	r := &Receiver{secret: secret}
	for _, c := range []struct {
		name   string
		header map[string]string
		want   string
	}{
		{"right", signed("{}", now, secret), SignatureValid},
		{"a little old", signed("{}", now.Add(-4*time.Minute), secret), SignatureValid},
		{"too old", signed("{}", now.Add(-6*time.Minute), secret), SignatureInvalid},
		{"of the future", signed("{}", now.Add(6*time.Minute), secret), SignatureInvalid},
		{"another key", signed("{}", now, "other"), SignatureInvalid},
		{"another body", signed("{} ", now, secret), SignatureInvalid},
		{"no signature", map[string]string{"X-Almanac-Timestamp": "1800000000"}, SignatureInvalid},
		{"no timestamp", map[string]string{"X-Almanac-Signature": signed("{}", now, secret)["X-Almanac-Signature"]}, SignatureInvalid},
		{"none", nil, SignatureAbsent},
	} {
		header := http.Header{}
		for name, value := range c.header {
			header.Set(name, value)
		}
		if got := r.check(header, []byte("{}"), now); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestReceiverFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "1.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(file, secret, nil); err == nil {
		t.Error("a file is no folder")
	}
	if _, err := Read(filepath.Dir(file)); err == nil {
		t.Error("half a file is read")
	}
	r, err := New(filepath.Dir(file), secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := r.Serve(t.Context(), listener); err == nil {
		t.Error("it serves on a closed listener")
	}
}
