// Package mailsink is the mail server of the local system: it keeps every message
// as a file and delivers none.
package mailsink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Recipients that are treated like some in the world, whatever their domain.
const (
	// Nobody is refused for good.
	Nobody = "nobody"
	// RefusedOnce, or an address that begins with it, is put off at first and taken
	// when it is asked for again; then all over again.
	RefusedOnce = "refused-once"
)

// Suffix is that of the files, which mail programs can read.
const Suffix = ".eml"

const (
	maxMessageBytes = 10 << 20
	maxRecipients   = 100
	idleTime        = time.Minute
)

// Sink keeps messages in a folder.
type Sink struct {
	dir string
	now func() time.Time

	mu     sync.Mutex
	putOff map[string]bool
}

// New returns a sink that keeps messages in dir, which it makes when missing.
func New(dir string, now func() time.Time) (*Sink, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mail folder: %w", err)
	}
	return &Sink{dir: dir, now: now, putOff: map[string]bool{}}, nil
}

// Serve takes mail until ctx ends, which is no error, and closes the listener.
func (s *Sink) Serve(ctx context.Context, listener net.Listener) error {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{sink: s}, nil }))
	server.Domain = "localhost"
	server.MaxMessageBytes, server.MaxRecipients = maxMessageBytes, maxRecipients
	server.ReadTimeout, server.WriteTimeout = idleTime, idleTime
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close() // Serve returns, whatever it says
		listener.Close()   // which the server may not know yet
	})
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("mail sink: %w", err)
	}
	return nil
}

// judge says what becomes of a recipient.
func (s *Sink) judge(to string) error {
	local, _, _ := strings.Cut(strings.ToLower(to), "@")
	switch {
	case local == Nobody:
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody lives here"}
	case strings.HasPrefix(local, RefusedOnce):
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.putOff[to] = !s.putOff[to]; s.putOff[to] {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "come back later"}
		}
	}
	return nil
}

// keep writes a message as one file a recipient. Their names begin with the time,
// so that they sort by it, and appear only once they are complete.
func (s *Sink) keep(from, to string, message []byte) error {
	file, err := os.CreateTemp(s.dir, ".arriving-*")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "Return-Path: <%s>\r\nDelivered-To: %s\r\n%s", from, to, message)
	err = errors.Join(err, file.Close())
	if err == nil {
		name := s.now().UTC().Format("20060102T150405.000000000Z") + "-" + harmless(to) + Suffix
		err = os.Rename(file.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(file.Name()))
	}
	return err
}

// harmless returns an address as part of a file's name.
func harmless(address string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@.+-_", r) {
			return r
		}
		return '_'
	}, address)
}

// session is one conversation.
type session struct {
	sink *Sink
	from string
	to   []string
}

// Mail begins a message.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from, s.to = from, nil
	return nil
}

// Rcpt adds a recipient, or refuses it.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.sink.judge(to); err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

// Data keeps the message.
func (s *session) Data(r io.Reader) error {
	message, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for _, to := range s.to {
		if err := s.sink.keep(s.from, to, message); err != nil {
			return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "the message cannot be kept: " + err.Error()}
		}
	}
	return nil
}

// Reset forgets the message begun.
func (s *session) Reset() { s.from, s.to = "", nil }

// Logout ends the conversation.
func (s *session) Logout() error { return nil }
