package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func clock() time.Time { return time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC) }

// lines collects what is logged and closes serving when it says so.
type lines struct {
	mutex   sync.Mutex
	text    bytes.Buffer
	serving chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if bytes.Contains(p, []byte(`"msg":"serving"`)) {
		close(l.serving)
	}
	return l.text.Write(p)
}

func TestRun(t *testing.T) {
	folder := t.TempDir()
	ready := filepath.Join(folder, "ready")
	args := []string{"--listen", "127.0.0.1:0", "--data", folder, "--ready-file", ready, "--seed", "app"}
	for name, test := range map[string]struct {
		args []string
		at   time.Time
	}{
		"first start":  {args: append(args, "--seed-at", "2026-05-01T02:00:00+02:00"), at: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)},
		"seed at once": {args: []string{"--listen", "127.0.0.1:0", "--data", t.TempDir(), "--ready-file", ready, "--seed", "app"}, at: clock()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			stderr := &lines{serving: make(chan struct{})}
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, test.args, stderr, clock) }()
			select {
			case <-stderr.serving:
			case err := <-ended:
				t.Fatalf("ended: %v\n%s", err, stderr.text.String())
			}
			uri, err := os.ReadFile(ready)
			if err != nil {
				t.Fatal(err)
			}
			client, err := mongo.Connect(options.Client().ApplyURI(strings.TrimSpace(string(uri))))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Disconnect(context.Background()) }()
			var note struct{ At time.Time }
			if err := client.Database("app").Collection("sample_data").FindOne(t.Context(), bson.D{}).Decode(&note); err != nil || !note.At.Equal(test.at) {
				t.Errorf("sample data lead up to %v (%v), want %v", note.At, err, test.at)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	folder := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no data folder":  {args: nil, want: "--data is missing"},
		"an argument":     {args: []string{"--data", folder, "more"}, want: `"more"`},
		"no such flag":    {args: []string{"--date", folder}, want: "-date"},
		"no time":         {args: []string{"--data", folder, "--seed-at", "yesterday"}, want: `--seed-at "yesterday"`},
		"control for all": {args: []string{"--data", folder, "--listen", "127.0.0.1:0", "--control", ":0"}, want: "loopback"},
		"no such address": {args: []string{"--data", folder, "--listen", "127.0.0.1:99999"}, want: "99999"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if err := run(t.Context(), test.args, &stderr, clock); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var stderr bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &stderr, clock); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v, want %v", err, flag.ErrHelp)
	}
	for _, name := range []string{"-listen", "-data", "-ready-file", "-seed", "-seed-at", "-control"} {
		if !strings.Contains(stderr.String(), name+" ") {
			t.Errorf("it does not tell %s", name)
		}
	}
}

func TestToldToEndWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	if err := run(ctx, []string{"--listen", "127.0.0.1:0", "--data", t.TempDir(), "--seed", "app"}, &stderr, clock); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
