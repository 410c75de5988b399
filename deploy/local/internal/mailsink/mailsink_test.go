package mailsink

import (
	"context"
	"errors"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// serve runs a sink until the test ends, and returns a client of it.
func serve(t *testing.T, dir string) *smtp.Client {
	t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sink, err := New(dir, func() time.Time { at = at.Add(time.Second); return at })
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- sink.Serve(ctx, listener) }()
	client, err := smtp.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("after its end was asked for: %v", err)
		}
	})
	return client
}

func code(err error) int {
	var said *smtp.SMTPError
	var plain *textproto.Error
	switch {
	case errors.As(err, &said):
		return said.Code
	case errors.As(err, &plain):
		return plain.Code
	}
	return 0
}

func TestMessagesAreKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	client := serve(t, dir)
	for _, to := range [][]string{{"ann@example.com"}, {"bob@example.com", "../eve/x@example.com"}} {
		if err := client.SendMail("almanac@example.com", to, strings.NewReader("Subject: Hello\r\n\r\nGood morning\r\n.\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"20260102T030406.000000000Z-ann@example.com.eml":      "ann@example.com",
		"20260102T030407.000000000Z-bob@example.com.eml":      "bob@example.com",
		"20260102T030408.000000000Z-.._eve_x@example.com.eml": "../eve/x@example.com",
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if want := "Return-Path: <almanac@example.com>\r\nDelivered-To: " + want[entry.Name()] + "\r\nSubject: Hello\r\n\r\nGood morning\r\n.\r\n"; string(content) != want {
			t.Errorf("%s: %q, want %q", entry.Name(), content, want)
		}
	}
}

func TestSomeAreRefused(t *testing.T) {
	t.Parallel()
	client := serve(t, t.TempDir())
	if err := client.Mail("almanac@example.com", nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to   string
		code int
	}{
		{"nobody@example.com", 550},
		{"Nobody@example.com", 550},
		{"somebody@example.com", 0},
		{"refused-once@example.com", 451},
		{"refused-once@example.com", 0},
		{"refused-once@example.com", 451},
		{"refused-once+ann@example.com", 451},
		{"refused-once+ann@example.com", 0},
		{"nobody@example.com", 550},
	} {
		if got := code(client.Rcpt(c.to, nil)); got != c.code {
			t.Errorf("%s: %d, want %d", c.to, got, c.code)
		}
	}
}

// What cannot be kept is not accepted.
func TestNothingIsAcceptedThatCannotBeKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mail")
	client := serve(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	err := client.SendMail("almanac@example.com", []string{"ann@example.com"}, strings.NewReader("Subject: Hello\r\n\r\n"))
	if code(err) != 452 {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, time.Now); err == nil {
		t.Error("a file passes for a folder")
	}
}

func TestServeTellsWhyItCannot(t *testing.T) {
	t.Parallel()
	sink, err := New(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := sink.Serve(t.Context(), listener); err == nil {
		t.Error("it serves on a closed listener")
	}
}
