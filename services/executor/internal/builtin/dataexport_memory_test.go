package builtin

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// runnerVariable makes the test binary serve as the runner, with the templates
// that a real one has.
const runnerVariable = "ALMANAC_TEST_AS_RUNNER"

// manyDocuments speaks as much of MongoDB's wire protocol as reading one
// collection needs, and makes the documents up: the stand-in could not keep so
// many within the time of a test.
type manyDocuments struct {
	listener net.Listener
	count    int64
	document []byte // with its _id, an int64, first
	done     sync.WaitGroup
}

// newManyDocuments serves count documents and returns the connection that leads
// to them.
func newManyDocuments(t *testing.T, count int64) template.Connection {
	t.Helper()
	m := &manyDocuments{count: count, document: mustMarshal(t, bson.D{
		{Key: "_id", Value: int64(0)},
		{Key: "name", Value: "Alice Example"},
		{Key: "email", Value: "alice@example.com"},
		{Key: "lastActive", Value: bson.NewDateTimeFromTime(time.Date(2025, 10, 1, 8, 30, 0, 0, time.UTC))},
		{Key: "visits", Value: int32(12)},
		{Key: "balance", Value: 1234.5},
		{Key: "active", Value: true},
		{Key: "address", Value: bson.D{{Key: "city", Value: "Rome"}, {Key: "zip", Value: "00100"}}},
		{Key: "tags", Value: bson.A{"a", "b", "c"}},
		{Key: "note", Value: strings.Repeat("Some more text. ", 8)},
	})}
	var err error
	if m.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	m.done.Go(func() {
		for {
			client, err := m.listener.Accept()
			if err != nil {
				return
			}
			m.done.Go(func() {
				defer client.Close()
				if err := m.serve(client); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					var broken *net.OpError
					if !errors.As(err, &broken) { // the child was killed or is done
						t.Error(err)
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = m.listener.Close()
		m.done.Wait()
	})
	return template.Connection{Kind: template.KindMongoDB, URI: "mongodb://" + m.listener.Addr().String() + "/?directConnection=true", Database: "big"}
}

func (m *manyDocuments) serve(client net.Conn) error {
	const opReply, opQuery, opMsg = 1, 2004, 2013
	in := bufio.NewReader(client)
	var sent int64
	for {
		header := make([]byte, 16)
		if _, err := io.ReadFull(in, header); err != nil {
			return err
		}
		body := make([]byte, binary.LittleEndian.Uint32(header)-16)
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		var command bson.Raw
		reply, kind := []byte{0, 0, 0, 0, 0}, uint32(opMsg) // no flags; a section with one document
		switch binary.LittleEndian.Uint32(header[12:]) {
		case opQuery: // the first greeting: flags, name, two numbers, and the command
			name := strings.IndexByte(string(body[4:]), 0)
			command = bson.Raw(body[4+name+1+8:])
			kind, reply = opReply, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0} // one document
		case opMsg:
			command = bson.Raw(body[5:])
		default:
			return fmt.Errorf("unexpected operation %d", binary.LittleEndian.Uint32(header[12:]))
		}
		answer, err := m.answer(command[:binary.LittleEndian.Uint32(command)], &sent)
		if err != nil {
			return err
		}
		reply = append(reply, answer...)
		message := binary.LittleEndian.AppendUint32(nil, uint32(16+len(reply)))
		message = append(message, 0, 0, 0, 0)
		message = append(message, header[4:8]...) // the request it answers
		message = binary.LittleEndian.AppendUint32(message, kind)
		if _, err := client.Write(append(message, reply...)); err != nil {
			return err
		}
	}
}

func (m *manyDocuments) answer(command bson.Raw, sent *int64) ([]byte, error) {
	elements, err := command.Elements()
	if err != nil {
		return nil, err
	}
	ok := bson.E{Key: "ok", Value: 1}
	switch name := elements[0].Key(); name {
	case "hello", "isMaster", "ismaster":
		return bson.Marshal(bson.D{
			{Key: "ismaster", Value: true},
			{Key: "helloOk", Value: true},
			{Key: "maxBsonObjectSize", Value: 16 << 20},
			{Key: "maxMessageSizeBytes", Value: 48_000_000},
			{Key: "maxWriteBatchSize", Value: 100_000},
			{Key: "maxWireVersion", Value: 21},
			ok,
		})
	case "count":
		return bson.Marshal(bson.D{{Key: "n", Value: m.count}, ok})
	case "listCollections":
		return bson.Marshal(bson.D{{Key: "cursor", Value: bson.D{
			{Key: "firstBatch", Value: bson.A{bson.D{{Key: "name", Value: "users"}, {Key: "type", Value: "collection"}}}},
			{Key: "id", Value: int64(0)},
			{Key: "ns", Value: "big.$cmd.listCollections"},
		}}, ok})
	case "listIndexes":
		return bson.Marshal(bson.D{{Key: "cursor", Value: bson.D{{Key: "firstBatch", Value: bson.A{}}, {Key: "id", Value: int64(0)}, {Key: "ns", Value: "big.users"}}}, ok})
	case "find", "getMore":
		if name == "find" {
			*sent = 0
		}
		batch, cursor := bson.A{}, int64(7)
		for len(batch) < batchSize && *sent < m.count {
			document := append([]byte(nil), m.document...)
			binary.LittleEndian.PutUint64(document[9:], uint64(*sent)) // after the length, the type and "_id"
			batch = append(batch, bson.Raw(document))
			*sent++
		}
		if *sent == m.count {
			cursor = 0
		}
		key := map[string]string{"find": "firstBatch", "getMore": "nextBatch"}[name]
		return bson.Marshal(bson.D{{Key: "cursor", Value: bson.D{{Key: key, Value: batch}, {Key: "id", Value: cursor}, {Key: "ns", Value: "big.users"}}}, ok})
	default: // ping, endSessions, killCursors
		return bson.Marshal(bson.D{ok})
	}
}

// inChild runs one attempt in a process of its own, confined as an executor does
// it, and returns its result and the most memory it had, in bytes.
func inChild(t *testing.T, run *runner.Run, folders ...string) (result *runner.Result, peak int64) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary)
	command.Env = []string{runnerVariable + "=1", "GOCOVERDIR=" + t.TempDir()}
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = command.Wait() // it kills itself when it is alone
	}()
	send := func(request runner.Request) {
		if err := runner.WriteFrame(in, request); err != nil {
			t.Fatal(err)
		}
	}
	send(runner.Request{Setup: &runner.Setup{MemoryBytes: 512 << 20, OpenFiles: 256, Dir: t.TempDir(), Folders: folders}})
	send(runner.Request{Run: run})
	for replies := bufio.NewReader(out); ; {
		var reply runner.Reply
		if err := runner.ReadFrame(replies, &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Result != nil {
			return reply.Result, peakMemory(t, command.Process.Pid)
		}
	}
}

// peakMemory returns the largest resident set that a process has had.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatal("the kernel does not tell the peak memory")
	return 0
}

// TestExportInConstantMemory exports a million documents of 390 bytes as CSV, and
// a tenth of them, for the sake of time, in the other formats: the child never
// has 100 MB. In short mode there are a tenth of all. With a million each format
// needs as much as with a tenth.
func TestExportInConstantMemory(t *testing.T) {
	const most = 100_000_000
	for _, c := range []struct {
		format, compression string
		count               int64
	}{{"csv", "gzip", 1_000_000}, {"ndjson", "zstd", 100_000}, {"xlsx", "none", 100_000}} {
		t.Run(c.format, func(t *testing.T) {
			count := c.count
			if testing.Short() {
				count /= 10
			}
			source := newManyDocuments(t, count)
			folder, destination := newFolder(t)
			given := map[string]any{"collection": "users", "format": c.format, "compression": c.compression, "path": "big"}
			if c.format == "csv" {
				given["fields"] = []string{"_id", "name", "email", "lastActive", "visits", "balance", "active", "address.city", "tags", "note"}
			}
			params, err := json.Marshal(given)
			if err != nil {
				t.Fatal(err)
			}
			result, peak := inChild(t, &runner.Run{
				Template: "data_export", ExecutionID: "exec_1", JobID: "job_1", JobName: "Big", Attempt: 1,
				ScheduledFor: time.Date(2025, 10, 19, 2, 0, 0, 0, time.UTC), Params: params,
				Connections: map[string]template.Connection{"main": source, "exports": destination},
				Allowed:     map[string][]string{"collection": {"users"}, connectionParam: {"main"}, destinationParam: {"exports"}},
				Settings:    map[string]any{"max_documents": 10_000_000, "max_bytes": 10_000_000_000},
			}, folder)
			if result.Status != runner.StatusSuccess {
				t.Fatalf("%+v", result)
			}
			t.Logf("%d documents as %s: %d MB of memory at most", count, c.format, peak/1_000_000)
			if peak > most {
				t.Errorf("the child had %d bytes of memory, more than %d", peak, int64(most))
			}
			var told struct {
				Records int64 `json:"records_processed"`
			}
			if err := json.Unmarshal(result.Result, &told); err != nil || told.Records != count {
				t.Errorf("exported %d documents (%v), want %d", told.Records, err, count)
			}
			if got := countRows(t, filepath.Join(folder, "big"), c.format); got != count {
				t.Errorf("the file has %d rows, want %d", got, count)
			}
		})
	}
}

// countRows counts the documents in a file.
func countRows(t *testing.T, path, format string) int64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	switch format {
	case "csv":
		unpacked, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		return countOf(t, unpacked, "\n") - 1
	case "xlsx":
		// As a stream: spreadsheet libraries would need minutes.
		book, err := zip.OpenReader(path)
		if err != nil {
			t.Fatal(err)
		}
		defer book.Close()
		sheet, err := book.Open("xl/worksheets/sheet1.xml")
		if err != nil {
			t.Fatal(err)
		}
		defer sheet.Close()
		return countOf(t, sheet, "<row ") - 1
	default:
		unpacked, err := zstd.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		defer unpacked.Close()
		return countOf(t, unpacked, "\n")
	}
}

// countOf counts how often a short text occurs.
func countOf(t *testing.T, r io.Reader, text string) (count int64) {
	t.Helper()
	buffer, kept := make([]byte, 1<<20), 0
	for {
		n, err := r.Read(buffer[kept:])
		window := buffer[:kept+n]
		count += int64(bytes.Count(window, []byte(text)))
		kept = copy(buffer, window[max(0, len(window)-len(text)+1):])
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
