package builtin

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// server is the MongoDB that the tests of this package share: the one that
// ALMANAC_TEST_MONGODB_URI names, or the stand-in, started on first use from the
// binary that ALMANAC_STANDIN_BIN names or, without that, built from this repository.
var server sharedServer

type sharedServer struct {
	once sync.Once
	uri  string
	err  error
	stop func() error
}

func TestMain(m *testing.M) {
	if os.Getenv(runnerVariable) != "" { // see inChild
		os.Exit(runner.Main(Templates()...))
	}
	m.Run()
	if server.stop != nil {
		if err := server.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stand-in:", err)
		}
	}
}

func (s *sharedServer) start() {
	if s.uri = os.Getenv("ALMANAC_TEST_MONGODB_URI"); s.uri != "" {
		return
	}
	dir, err := os.MkdirTemp("", "almanac-standin-")
	if err != nil {
		s.err = err
		return
	}
	binary := os.Getenv("ALMANAC_STANDIN_BIN")
	if binary == "" {
		binary = filepath.Join(dir, "standin")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Dir = filepath.Join("..", "..", "..", "..", "deploy", "standin")
		build.Env = append(os.Environ(), "GOWORK=off")
		if output, err := build.CombinedOutput(); err != nil {
			s.err = errors.Join(fmt.Errorf("build the stand-in: %w\n%s", err, output), os.RemoveAll(dir))
			return
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, binary, "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "data"))
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 10 * time.Second
	reader, writer := io.Pipe()
	command.Stderr = writer
	if err := command.Start(); err != nil {
		cancel()
		s.err = errors.Join(err, os.RemoveAll(dir))
		return
	}
	serving, ended := make(chan string, 1), make(chan struct{})
	go func() { // ends with the process: stop waits for it
		defer close(ended)
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			var line struct{ Msg, URI string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				serving <- line.URI
			} else {
				fmt.Fprintln(os.Stderr, "stand-in:", lines.Text())
			}
		}
	}()
	s.stop = func() error {
		cancel()
		err := command.Wait()
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		_ = writer.Close()
		<-ended
		return errors.Join(err, os.RemoveAll(dir))
	}
	limit, stopLimit := context.WithTimeout(ctx, 30*time.Second)
	defer stopLimit()
	select {
	case s.uri = <-serving:
	case <-limit.Done():
		s.err = errors.New("the stand-in was not ready after 30 s")
	}
}

// newDatabase returns an empty database and the connection that leads there.
func newDatabase(t *testing.T) (*mongo.Database, template.Connection) {
	t.Helper()
	server.once.Do(server.start)
	if server.err != nil {
		t.Fatal(server.err)
	}
	client, err := mongo.Connect(options.Client().ApplyURI(server.uri))
	if err != nil {
		t.Fatal(err)
	}
	db := client.Database("almanac_test_" + bson.NewObjectID().Hex())
	t.Cleanup(func() {
		if err := db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := client.Disconnect(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return db, template.Connection{Kind: "mongodb", URI: server.uri, Database: db.Name()}
}

func insert(t *testing.T, db *mongo.Database, collection string, documents ...any) {
	t.Helper()
	if _, err := db.Collection(collection).InsertMany(t.Context(), documents); err != nil {
		t.Fatal(err)
	}
}

func left(t *testing.T, db *mongo.Database, collection string) int64 {
	t.Helper()
	n, err := db.Collection(collection).CountDocuments(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// relay passes connections through to the server until it is cut.
type relay struct {
	listener net.Listener
	mu       sync.Mutex
	open     []net.Conn
	commands []bson.Raw // sent to the server
	done     sync.WaitGroup
}

// newRelay returns a relay to the server and the URI that leads through it.
func newRelay(t *testing.T) (*relay, string) {
	t.Helper()
	parsed, err := connstring.Parse(server.uri)
	if err != nil {
		t.Fatal(err)
	}
	host := parsed.Hosts[0]
	r := &relay{}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.done.Go(func() {
		for {
			client, err := r.listener.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial("tcp", host)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, client, backend)
			r.mu.Unlock()
			r.done.Go(func() {
				_, _ = io.Copy(client, backend)
				_ = client.Close()
			})
			r.done.Go(func() {
				_ = r.forward(client, backend)
				_ = backend.Close()
			})
		}
	})
	t.Cleanup(func() {
		r.cut()
		r.done.Wait()
	})
	uri := strings.Replace(server.uri, host, r.listener.Addr().String(), 1)
	separator := "?"
	if strings.Contains(uri, "?") {
		separator = "&"
	}
	return r, uri + separator + "directConnection=true"
}

// forward passes a client's messages on and keeps the commands in them.
func (r *relay) forward(client io.Reader, backend io.Writer) error {
	const opMsg = 2013
	for {
		header := make([]byte, 16)
		if _, err := io.ReadFull(client, header); err != nil {
			return err
		}
		message := make([]byte, binary.LittleEndian.Uint32(header))
		copy(message, header)
		if _, err := io.ReadFull(client, message[16:]); err != nil {
			return err
		}
		// After the header come flags and sections: the command has kind 0.
		if binary.LittleEndian.Uint32(header[12:]) == opMsg && message[20] == 0 {
			command := message[21:]
			r.mu.Lock()
			r.commands = append(r.commands, bson.Raw(command[:binary.LittleEndian.Uint32(command)]))
			r.mu.Unlock()
		}
		if _, err := backend.Write(message); err != nil {
			return err
		}
	}
}

// cut ends all connections and accepts none any more.
func (r *relay) cut() {
	_ = r.listener.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, connection := range r.open {
		_ = connection.Close()
	}
}
