package builtin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// How long a mail server may take: until it has let somebody in, and for each
// message, which it may look through for unwanted content.
const (
	mailLogin   = 30 * time.Second
	mailMessage = 2 * time.Minute
)

// mailServer is where mail is handed in, and from whom it comes.
type mailServer struct {
	host     string
	port     int
	security string // starttls, tls or none
	user     string // empty for none
	password string
	from     *mail.Address
	trusted  *x509.CertPool // nil is the system's
	redact   func(string) string
}

// mailServerOf reads a connection of the kind smtp. authorities are certificates
// in PEM that are trusted beside the system's, or empty.
func mailServerOf(c template.Connection, authorities string) (*mailServer, *template.Error) {
	bad := func(what string) (*mailServer, *template.Error) {
		return nil, template.Fail(template.CodeConnection, "the connection %q %s", c.Name, what)
	}
	u, err := url.Parse(c.URI)
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" {
		return bad("must have a URI smtp://user:password@host:port?tls=starttls, tls or none")
	}
	s := &mailServer{host: u.Hostname(), security: u.Query().Get("tls"), user: u.User.Username(), redact: c.Redact}
	s.password, _ = u.User.Password()
	if s.from, err = mail.ParseAddress(c.From); err != nil {
		return bad("must have a mail address as from")
	}
	switch s.security {
	case "none":
		s.port = 25
	case "tls":
		s.port = 465
	case "", "starttls":
		s.security, s.port = "starttls", 587
	default:
		return bad("must have tls=starttls, tls or none")
	}
	if port := u.Port(); port != "" {
		if s.port, err = strconv.Atoi(port); err != nil || s.port < 1 || s.port > 65535 {
			return bad("must have a port from 1 to 65535")
		}
	}
	if authorities != "" {
		if s.trusted, err = trustedBeside(authorities); err != nil {
			return nil, template.Fail(template.CodeConnection, "certificate_authorities: %w", err)
		}
	}
	return s, nil
}

// trustedBeside returns the system's certificate authorities and those given.
func trustedBeside(authorities string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any
	}
	if !pool.AppendCertsFromPEM([]byte(authorities)) {
		return nil, errors.New("must be certificates in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	return pool, nil
}

// mailSession is a conversation with a mail server, for one goroutine. It ends
// with the context that it was opened with.
type mailSession struct {
	client *smtp.Client
	close  func()
}

// open connects, encrypts and logs in.
func (s *mailServer) open(ctx context.Context) (*mailSession, error) {
	config := &tls.Config{ServerName: s.host, RootCAs: s.trusted, MinVersion: tls.VersionTLS12}
	session := &mailSession{close: func() {}}
	options := []gomail.Option{
		gomail.WithPort(s.port), gomail.WithTimeout(mailLogin), gomail.WithTLSConfig(config), gomail.WithoutSMTPUTF8(),
		gomail.WithTLSPolicy(gomail.TLSMandatory),
		gomail.WithDialContextFunc(func(dialing context.Context, network, address string) (net.Conn, error) {
			raw, err := new(net.Dialer).DialContext(dialing, network, address)
			if err != nil {
				return nil, err
			}
			// The library listens to no context once it is connected.
			stop := context.AfterFunc(ctx, func() { raw.Close() })
			session.close = func() { stop(); raw.Close() }
			if s.security != "tls" {
				return raw, nil
			}
			encrypted := tls.Client(raw, config)
			if err := encrypted.HandshakeContext(dialing); err != nil {
				return nil, err
			}
			return encrypted, nil
		}),
	}
	if s.security != "starttls" {
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if s.user != "" {
		// The ways that do not show the password come first; without encryption the
		// library uses the last two on loopback alone.
		options = append(options, gomail.WithUsername(s.user), gomail.WithPassword(s.password), gomail.WithOpportunisticSMTPAuth(
			gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthCramMD5, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	client, err := gomail.NewClient(s.host, options...)
	if err == nil {
		session.client, err = client.DialToSMTPClientWithContext(ctx)
	}
	if err != nil {
		session.close()
		return nil, err
	}
	return session, nil
}

// send hands one message in for one recipient. The error is a *textproto.Error
// when it is the server's answer.
func (m *mailSession) send(from, to string, message []byte) error {
	if err := m.client.UpdateDeadline(mailMessage); err != nil {
		return err
	}
	if err := m.client.Mail("<" + from + ">"); err != nil {
		return err
	}
	if err := m.client.Rcpt("<" + to + ">"); err != nil {
		return err
	}
	body, err := m.client.Data()
	if err != nil {
		return err
	}
	if _, err := body.Write(message); err != nil {
		return err
	}
	return body.Close()
}

// reset makes the session fit for the next message after one that was refused.
func (m *mailSession) reset() error { return m.client.Reset() }

// quit ends the session politely.
func (m *mailSession) quit() {
	if m.client.UpdateDeadline(farewellTime) == nil {
		_ = m.client.Quit() // everything has been answered
	}
	m.close()
}

// mailAnswer is what a server said, or what came in between.
type mailAnswer struct {
	code int // of SMTP; 0 when the server said nothing
	text string
}

// answerOf reads an error of send or open.
func (s *mailServer) answerOf(err error) mailAnswer {
	var said *textproto.Error
	if errors.As(err, &said) {
		return mailAnswer{said.Code, shortAnswer(s.redact(fmt.Sprintf("%d %s", said.Code, strings.Join(strings.Fields(said.Msg), " "))))}
	}
	return mailAnswer{0, shortAnswer(s.redact(err.Error()))}
}

func (a mailAnswer) refuses() bool { return a.code >= 500 }

// ends tells whether the server will hear no more on this connection.
func (a mailAnswer) ends() bool { return a.code == 0 || a.code == 421 }

const maxAnswer = 500 // characters

func shortAnswer(text string) string {
	if runes := []rune(text); len(runes) > maxAnswer {
		return string(runes[:maxAnswer]) + " ..."
	}
	return text
}

// unreachable is the failure of open. It may pass, unless the server refuses the
// login, has a certificate that is not trusted, or offers no encryption.
func (s *mailServer) unreachable(ctx context.Context, err error) *template.Error {
	if ctx.Err() != nil {
		return template.AsError(ctx.Err())
	}
	said := s.answerOf(err)
	failure := template.Retryable(template.CodeConnection, "the mail server %s: %s", net.JoinHostPort(s.host, strconv.Itoa(s.port)), said.text)
	var untrusted *tls.CertificateVerificationError
	if said.refuses() || errors.As(err, &untrusted) || errors.Is(err, smtp.ErrUnencrypted) || errors.Is(err, gomail.ErrNoSupportedAuthDiscovered) ||
		strings.Contains(err.Error(), "does not support STARTTLS") || strings.Contains(err.Error(), "does not support SMTP AUTH") {
		failure.Retryable = false
	}
	return failure
}
