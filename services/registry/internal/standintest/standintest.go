// Package standintest gives tests a MongoDB to talk to: a stand-in of its own for each test, whose
// faults the test sets, or the real server that ALMANAC_TEST_MONGODB_URI names.
package standintest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// The environment that decides.
const (
	// RealEnv names a real server's URI; its databases named almanac_test_* are written and dropped.
	RealEnv = "ALMANAC_TEST_MONGODB_URI"
	// BinaryEnv names the stand-in's binary. Without it the stand-in is built, once.
	BinaryEnv = "ALMANAC_STANDIN_BIN"
)

// URI is the real server's where there is one, else that of a stand-in that ends with the test.
func URI(t testing.TB) (uri string, isReal bool) {
	t.Helper()
	if uri := os.Getenv(RealEnv); uri != "" {
		return uri, true
	}
	return Start(t).URI, false
}

// Database returns the URI of an empty database of the server. On a real one it
// gets a name of its own, and is dropped after the test.
func Database(t testing.TB, server string, isReal bool, name string) (uri string) {
	t.Helper()
	if isReal {
		name = "almanac_test_" + strings.ToLower(rand.Text()[:8]) + "_" + name
	}
	base, query, found := strings.Cut(server, "?")
	uri = strings.TrimSuffix(base, "/") + "/" + name
	if found {
		uri += "?" + query
	}
	if isReal {
		t.Cleanup(func() {
			if err := drop(context.WithoutCancel(t.Context()), uri, name); err != nil {
				t.Errorf("drop %s: %v", name, err)
			}
		})
	}
	return uri
}

func drop(ctx context.Context, uri, name string) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		return err
	}
	return errors.Join(client.Database(name).Drop(ctx), client.Disconnect(ctx))
}

// Standin is a stand-in that runs, with a database folder of its own.
type Standin struct {
	// URI is what a client connects to.
	URI string

	control string // the URL of its faults
}

// Start starts a stand-in that ends with the test. It takes some 20 ms.
func Start(t testing.TB) *Standin {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal("build the stand-in: ", err)
	}
	// The clean-up ends it: t.Context ends before, when clients have yet to say goodbye.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data", t.TempDir())
	// It dies with the test binary, whatever ends that one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal("start the stand-in: ", err)
	}
	serving := make(chan Standin, 1)
	var said bytes.Buffer
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer close(serving)
		listen(stderr, &said, serving)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("the stand-in ended with %v\n%s", err, said.String())
		}
	})
	s, ok := <-serving
	if !ok {
		t.Fatalf("the stand-in did not start: %s", said.String())
	}
	return &s
}

// listen reads what the stand-in logs until it ends, and says once where it serves.
func listen(stderr io.Reader, said *bytes.Buffer, serving chan<- Standin) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.Write(append(lines.Bytes(), '\n'))
		var line struct{ Msg, URI, Control string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			serving <- Standin{URI: line.URI, control: line.Control}
		}
	}
}

// Fault says what happens to which of the messages that pass. Empty selectors select all. Of several
// faults that select a message the one that was set first acts.
type Fault struct {
	Command    string `json:"command"` // such as update, or "any"
	Database   string `json:"database,omitempty"`
	Collection string `json:"collection,omitempty"`
	Contains   string `json:"contains,omitempty"` // text somewhere in the message, such as an id

	Action  Action `json:"action"`
	DelayMS int    `json:"delay_ms,omitempty"` // how long, at most, the delaying actions take
	Code    int32  `json:"code,omitempty"`     // the server's error that Refuse answers with

	Skip        int     `json:"skip,omitempty"`        // so many of the selected messages pass at first
	Count       int     `json:"count,omitempty"`       // spent after so many times; 0 means never
	Probability float64 `json:"probability,omitempty"` // of acting on a selected message; 0 means always
	Seed        uint64  `json:"seed,omitempty"`
}

// Action is what a fault does.
type Action string

// The actions: before the server sees the message, or after it was carried out.
const (
	CutBefore   Action = "cut_before"
	CutAfter    Action = "cut_after" // it happened, but the answer is lost
	DelayBefore Action = "delay_before"
	DelayAfter  Action = "delay_after"
	Refuse      Action = "refuse"
)

// Codes that a server refuses with while its role changes or it ends.
const (
	PrimarySteppedDown = 189
	ShutdownInProgress = 91
)

// Injected is a fault that is set.
type Injected struct {
	standin *Standin
	id      int
}

// Inject sets a fault until it is removed.
func (s *Standin) Inject(t testing.TB, f Fault) *Injected {
	t.Helper()
	var set struct{ ID int }
	if err := s.call(t.Context(), http.MethodPost, "/faults", f, &set); err != nil {
		t.Fatal("set a fault: ", err)
	}
	return &Injected{s, set.ID}
}

// Clear removes all faults. Messages that are being delayed go on.
func (s *Standin) Clear(t testing.TB) {
	t.Helper()
	if err := s.call(t.Context(), http.MethodDelete, "/faults", nil, nil); err != nil {
		t.Fatal("clear the faults: ", err)
	}
}

// Fired is on how many messages the fault has acted.
func (i *Injected) Fired(t testing.TB) int {
	t.Helper()
	return i.Await(t, 0)
}

// Await waits until the fault has acted on n messages, and returns on how many it has. A delayed one
// counts as soon as its delay begins.
func (i *Injected) Await(t testing.TB, n int) int {
	t.Helper()
	var now struct{ Fired int }
	if err := i.standin.call(t.Context(), http.MethodGet, i.path()+"?fired="+strconv.Itoa(n), nil, &now); err != nil {
		t.Fatal("read a fault: ", err)
	}
	return now.Fired
}

// Remove takes the fault away. Messages that it delays go on.
func (i *Injected) Remove(t testing.TB) {
	t.Helper()
	if err := i.standin.call(t.Context(), http.MethodDelete, i.path(), nil, nil); err != nil {
		t.Fatal("remove a fault: ", err)
	}
}

func (i *Injected) path() string { return "/faults/" + strconv.Itoa(i.id) }

func (s *Standin) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, s.control+path, body)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= http.StatusMultipleChoices {
		text, err := io.ReadAll(response.Body)
		return errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text), err)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// built returns the stand-in's binary, and builds it first where nobody did.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	root, err := top()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, ".cache", "standintest")
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // holds a binary that anybody may build
		return "", err
	}
	// Tests of several packages may run at once; one builds, the others find it up to date.
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	path := filepath.Join(folder, "standin")
	build := exec.CommandContext(context.Background(), "make", "-C", root, "standin", "BIN=.cache/standintest")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, text)
	}
	return path, nil
})

// top is the folder with the workspace.
func top() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.work")); err == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("no folder above the test has a go.work")
		}
		folder = parent
	}
}
