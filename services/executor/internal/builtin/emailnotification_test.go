package builtin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/mail"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// postOffice is a mail server in this process.
type postOffice struct {
	server  *smtp.Server
	address string

	// judge says what becomes of a recipient, given how often it was asked for.
	judge func(to string, time int) error
	// login is called with what a client says it is; nil offers no login.
	login func(user, password string) error
	// perConnection is how many messages a connection may carry; 0 is any number.
	perConnection int
	// enter is called when a session begins.
	enter func(*smtp.Conn)

	mu       sync.Mutex
	asked    map[string]int
	arrived  []arrival
	sessions int
}

type arrival struct {
	to  string
	raw []byte
}

// openPostOffice serves until the test ends. change may be nil.
func openPostOffice(t *testing.T, listen string, change func(*postOffice)) *postOffice {
	t.Helper()
	p := &postOffice{asked: map[string]int{}, judge: func(string, int) error { return nil }, enter: func(*smtp.Conn) {}}
	p.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		p.mu.Lock()
		p.sessions++
		p.mu.Unlock()
		p.enter(c)
		return &counter{office: p, conn: c}, nil
	}))
	p.server.Domain, p.server.AllowInsecureAuth = "mail.example.com", true
	p.server.ErrorLog = quietLog{}
	if change != nil {
		change(p)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(listener) }()
	t.Cleanup(func() {
		p.server.Close()
		if err := <-served; err != nil {
			t.Errorf("post office: %v", err)
		}
	})
	return p
}

type quietLog struct{}

func (quietLog) Printf(string, ...any) {}
func (quietLog) Println(...any)        {}

// counter is one session at the post office.
type counter struct {
	office *postOffice
	conn   *smtp.Conn
	to     []string
	taken  int
}

func (c *counter) AuthMechanisms() []string {
	if c.office.login == nil {
		return nil
	}
	return []string{sasl.Plain}
}

func (c *counter) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error { return c.office.login(user, password) }), nil
}

func (c *counter) Mail(string, *smtp.MailOptions) error {
	c.to = nil
	if c.office.perConnection > 0 && c.taken == c.office.perConnection {
		return &smtp.SMTPError{Code: 421, Message: "too many messages on one connection"}
	}
	return nil
}

func (c *counter) Rcpt(to string, _ *smtp.RcptOptions) error {
	c.office.mu.Lock()
	c.office.asked[to]++
	times := c.office.asked[to]
	c.office.mu.Unlock()
	err := c.office.judge(to, times)
	if errors.Is(err, io.EOF) {
		c.conn.Conn().Close()
		return err
	}
	c.to = append(c.to, to)
	return err
}

func (c *counter) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.taken++
	c.office.mu.Lock()
	defer c.office.mu.Unlock()
	for _, to := range c.to {
		c.office.arrived = append(c.office.arrived, arrival{to, raw})
	}
	return nil
}

func (c *counter) Reset()        { c.to = nil }
func (c *counter) Logout() error { return nil }

// letter is a message as its reader sees it.
type letter struct {
	header     mail.Header
	subject    string
	text, html string
}

func (a arrival) read(t *testing.T) letter {
	t.Helper()
	message, err := mail.ReadMessage(bytes.NewReader(a.raw))
	if err != nil {
		t.Fatal(err)
	}
	l := letter{header: message.Header}
	if l.subject, err = new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	take := func(kind, encoding string, r io.Reader) {
		if encoding == "quoted-printable" {
			r = quotedprintable.NewReader(r)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
		if strings.HasPrefix(kind, "text/html") {
			l.html = string(content)
		} else {
			l.text = string(content)
		}
	}
	if !strings.HasPrefix(kind, "multipart/") {
		take(kind, message.Header.Get("Content-Transfer-Encoding"), message.Body)
		return l
	}
	for parts := multipart.NewReader(message.Body, params["boundary"]); ; {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return l
		}
		if err != nil {
			t.Fatal(err)
		}
		take(part.Header.Get("Content-Type"), part.Header.Get("Content-Transfer-Encoding"), part)
	}
}

func (p *postOffice) letters() []arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.arrived)
}

func (p *postOffice) recipients() []string {
	var to []string
	for _, a := range p.letters() {
		to = append(to, a.to)
	}
	return to
}

func (p *postOffice) connection() template.Connection {
	return template.Connection{Kind: template.KindSMTP, URI: "smtp://" + p.address + "?tls=none", From: "Almanac <almanac@example.com>"}
}

// mailing returns parameters and a run at the post office.
func newMail(p template.Connection, params map[string]any) (*template.Run, *templatetest.Recorder) {
	full := map[string]any{"recipients": []any{"ann@example.com"}, "subject": "Hello", "body": "Good morning"}
	for name, value := range params {
		full[name] = value
	}
	run, recorder := templatetest.NewRun(full)
	templatetest.Connect(run, connectionParam, "mail", p)
	run.Settings = map[string]any{}
	return run, recorder
}

// again is the run as its next attempt sees it.
func again(t *testing.T, run *template.Run, result template.Result) *template.Run {
	t.Helper()
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	next := *run
	next.Attempt++
	next.Previous = nil
	if err := json.Unmarshal(text, &next.Previous); err != nil {
		t.Fatal(err)
	}
	return &next
}

func mailError(t *testing.T, err error, code string, retryable bool, says string) {
	t.Helper()
	failure := template.AsError(err)
	if failure == nil || failure.Code != code || failure.Retryable != retryable || !strings.Contains(failure.Message, says) {
		t.Errorf("got %+v, want %s, retryable %v, %q", failure, code, retryable, says)
	}
}

func TestEmailNotificationPassesTheSuite(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", nil)
	minimal := map[string]any{"recipients": []any{"ann@example.com"}, "subject": "S", "body": "B"}
	with := func(name string, value any) map[string]any {
		params := map[string]any{name: value}
		for key, v := range minimal {
			if _, ok := params[key]; !ok {
				params[key] = v
			}
		}
		return params
	}
	many := make([]any, maxRecipients+1)
	for i := range many {
		many[i] = fmt.Sprintf("r%d@example.com", i)
	}
	var invalid []templatetest.Invalid
	for _, c := range []struct {
		field string
		value any
		at    string
	}{
		{"recipients", []any{}, "recipients"},
		{"recipients", many, "recipients"},
		{"recipients", []any{"a@b", "a@b"}, "recipients"},
		{"recipients", []any{"Ann <ann@example.com>"}, "recipients.0"},
		{"recipients", []any{"ann@example.com\r\nBcc: eve@example.com"}, "recipients.0"},
		{"recipients", []any{"ann"}, "recipients.0"},
		{"reply_to", "ann@example.com\n", "reply_to"},
		{"subject", "", "subject"},
		{"subject", "S\r\nBcc: eve@example.com", "subject"},
		{"subject", "{{ .JobName", "subject"},
		{"body", "{{ if }}", "body"},
		{"body", "{{ env \"HOME\" }}", "body"},
		{"html", "{{ end }}", "html"},
		{"data", "text", "data"},
		{"dryRun", "yes", "dryRun"},
	} {
		invalid = append(invalid, templatetest.Invalid{Params: with(c.field, c.value), Field: c.at})
	}
	templatetest.Run(t, emailNotification{}, templatetest.Options{
		Valid:   []map[string]any{minimal, with("html", "<p>{{ .Data.x }}</p>"), with("recipients", many[:maxRecipients]), with("dryRun", true)},
		Invalid: invalid,
		Succeed: []map[string]any{minimal, with("dryRun", true), with("reply_to", "team@example.com"), with("data", map[string]any{"x": 1.0})},
		Prepare: func(run *template.Run) { templatetest.Connect(run, connectionParam, "mail", p.connection()) },
		Settings: []map[string]any{
			{"layouts": map[string]any{"company": map[string]any{"html": "<h1>{{ .Subject }}</h1>{{ .Body }}"}}, "recipient_domains": []any{"example.com"}},
			{"certificate_authorities": authorities(t)},
		},
		InvalidSettings: []templatetest.Invalid{
			{Params: map[string]any{"layouts": map[string]any{"Company!": map[string]any{"text": "x"}}}, Field: "layouts.Company!"},
			{Params: map[string]any{"layouts": map[string]any{"company": map[string]any{}}}, Field: "layouts.company"},
			{Params: map[string]any{"layouts": map[string]any{"company": map[string]any{"text": "{{ if }}"}}}, Field: "layouts.company.text"},
			{Params: map[string]any{"layouts": map[string]any{"company": map[string]any{"subject": "{{ end }}"}}}, Field: "layouts.company.subject"},
			{Params: map[string]any{"recipient_domains": []any{"@example.com"}}, Field: "recipient_domains.0"},
			{Params: map[string]any{"certificate_authorities": "none"}, Field: "certificate_authorities"},
		},
	})
}

func TestMailArrives(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", nil)
	run, recorder := newMail(p.connection(), map[string]any{
		"recipients": []any{"ann@example.com", "bob@example.com"},
		"subject":    "{{ .JobName }}: {{ .Data.headline }} äöü",
		"body":       "Due {{ .ScheduledFor }}, attempt {{ .Attempt }}.\n.\nEnd, " + strings.Repeat("long ", 300),
		"html":       "<p>{{ .Data.headline }}</p>",
		"data":       map[string]any{"headline": "5 < 6"},
		"reply_to":   "team@example.com",
	})
	run.JobName, run.Zone = "Nightly", time.FixedZone("", 7200)
	result, err := emailNotification{}.Execute(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	want := template.Result{
		"message": "Sent 2 emails", "sent": 2, "recipients": []any{"ann@example.com", "bob@example.com"}, "accepted": []any{"ann@example.com", "bob@example.com"},
		"refused": []any{}, "deferred": []any{},
	}
	if !reflect.DeepEqual(result, want) {
		t.Errorf("result %v", result)
	}
	if got := p.recipients(); !slices.Equal(got, []string{"ann@example.com", "bob@example.com"}) {
		t.Fatalf("arrived for %v", got)
	}
	ids := map[string]bool{}
	for _, a := range p.letters() {
		l := a.read(t)
		if l.subject != "Nightly: 5 < 6 äöü" || l.html != "<p>5 &lt; 6</p>" || !strings.HasPrefix(l.text, "Due 2025-10-19T04:00:00+02:00, attempt 1.\n.\nEnd, long long") {
			t.Errorf("got %+v", l)
		}
		for name, want := range map[string]string{
			"From": `"Almanac" <almanac@example.com>`, "To": "<" + a.to + ">", "Reply-To": "<team@example.com>",
			"Auto-Submitted": "auto-generated", "X-Almanac-Execution": "exec_test", "Cc": "", "Bcc": "",
		} {
			if got := l.header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if _, err := l.header.Date(); err != nil {
			t.Errorf("date: %v", err)
		}
		ids[l.header.Get("Message-Id")] = true
	}
	if len(ids) != 2 {
		t.Errorf("message ids %v", ids)
	}
	if want := []string{"INFO Sent to ann@example.com", "INFO Sent to bob@example.com"}; !slices.Equal(recorder.Lines(), want) {
		t.Errorf("log %q", recorder.Lines())
	}
	if steps := recorder.Steps(); len(steps) != 2 || steps[1] != (templatetest.Progress{Done: 2, Total: 2, Message: "Sending"}) {
		t.Errorf("progress %v", steps)
	}
	if p.sessions != 1 {
		t.Errorf("%d connections", p.sessions)
	}
}

// The mails that registries send when a run ends are written like this.
func TestMailOfARunThatEnded(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", nil)
	run, _ := newMail(p.connection(), map[string]any{
		"subject": "{{ .Data.job_name }}: {{ .Data.headline }}",
		"body": "{{ .Data.job_name }}: {{ .Data.headline }}.\n\nStatus: {{ .Data.status }}{{ if .Data.error_code }} ({{ .Data.error_code }}){{ end }}\n" +
			"{{ if .Data.reason }}Reason: {{ .Data.reason }}\n{{ end }}Attempts: {{ .Data.attempts }}\n{{ if .Data.logs }}\nLast log lines:\n" +
			"{{ range .Data.logs }}{{ .timestamp }} {{ .level }} {{ .message }}\n{{ end }}{{ end }}",
		"data": map[string]any{
			"job_name": "Nightly", "headline": "the run failed", "status": "failed", "error_code": "connection", "reason": "", "attempts": 4.0,
			"logs": []any{map[string]any{"timestamp": "2025-10-19T02:00:00Z", "level": "INFO", "message": "Hello <you>"}},
		},
	})
	if _, err := (emailNotification{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	l := p.letters()[0].read(t)
	const want = "Nightly: the run failed.\n\nStatus: failed (connection)\nAttempts: 4\n\nLast log lines:\n2025-10-19T02:00:00Z INFO Hello <you>\n"
	if l.subject != "Nightly: the run failed" || l.text != want || l.html != "" {
		t.Errorf("got %+v", l)
	}
}

func TestMailGoesAgainOnlyToThosePutOff(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		p.judge = func(to string, times int) error {
			switch {
			case to == "nobody@example.com":
				return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
			case to == "busy@example.com" && times == 1:
				return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "try again later"}
			}
			return nil
		}
	})
	run, recorder := newMail(p.connection(), map[string]any{"recipients": []any{"nobody@example.com", "ann@example.com", "busy@example.com", "bob@example.com"}})
	first, err := emailNotification{}.Execute(t.Context(), run)
	mailError(t, err, codeMailDeferred, true, "busy@example.com (451 4.7.1 try again later)")
	if first["sent"] != 2 || first["message"] != "Sent 2 of 4 emails: 1 refused, 1 put off" {
		t.Errorf("result %v", first)
	}
	if want := []any{map[string]any{"recipient": "busy@example.com", "code": 451, "answer": "451 4.7.1 try again later"}}; !reflect.DeepEqual(first["deferred"], want) {
		t.Errorf("deferred %v", first["deferred"])
	}
	if want := []string{
		"ERROR Refused for nobody@example.com: 550 5.1.1 no such mailbox", "INFO Sent to ann@example.com",
		"WARN Put off for busy@example.com: 451 4.7.1 try again later", "INFO Sent to bob@example.com",
	}; !slices.Equal(recorder.Lines(), want) {
		t.Errorf("log %q", recorder.Lines())
	}

	next := again(t, run, first)
	second, err := emailNotification{}.Execute(t.Context(), next)
	mailError(t, err, codeMailRefused, false, "nobody@example.com (550 5.1.1 no such mailbox)")
	if second["sent"] != 3 || len(second["deferred"].([]any)) != 0 || !reflect.DeepEqual(second["refused"], first["refused"]) {
		t.Errorf("result %v", second)
	}
	if want := map[string]int{"nobody@example.com": 1, "ann@example.com": 1, "busy@example.com": 2, "bob@example.com": 1}; !reflect.DeepEqual(p.asked, want) {
		t.Errorf("asked for %v", p.asked)
	}
	if got := p.recipients(); !slices.Equal(got, []string{"ann@example.com", "bob@example.com", "busy@example.com"}) {
		t.Errorf("arrived for %v", got)
	}
	// Once more, as after an executor that was lost: nothing is left to do.
	third, err := emailNotification{}.Execute(t.Context(), again(t, next, second))
	mailError(t, err, codeMailRefused, false, "nobody@example.com")
	if third["sent"] != 3 || p.sessions != 2 {
		t.Errorf("%d connections, %v", p.sessions, third)
	}
}

func TestMailHasTheSameIdentityInEachAttempt(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", nil)
	run, _ := newMail(p.connection(), nil)
	other := *run
	other.ExecutionID = "exec_other:<1>.."
	for _, r := range []*template.Run{run, run, &other} {
		if _, err := (emailNotification{}).Execute(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for _, a := range p.letters() {
		ids = append(ids, a.read(t).header.Get("Message-Id"))
	}
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] == ids[2] || !strings.HasPrefix(ids[0], "<exec_test.") || !strings.HasSuffix(ids[0], "@example.com>") || !strings.HasPrefix(ids[2], "<exec_other--1---.") {
		t.Errorf("message ids %v", ids)
	}
}

func TestMailNeedsSeveralConnections(t *testing.T) {
	many := []any{"a@example.com", "b@example.com", "c@example.com", "d@example.com", "e@example.com", "f@example.com"}
	p := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		p.perConnection = 2
		p.judge = func(to string, times int) error {
			if to == "c@example.com" && times == 1 {
				return &smtp.SMTPError{Code: 550, Message: "no"}
			}
			return nil
		}
	})
	run, _ := newMail(p.connection(), map[string]any{"recipients": many})
	result, err := emailNotification{}.Execute(t.Context(), run)
	mailError(t, err, codeMailRefused, false, "c@example.com")
	if result["sent"] != 5 || len(p.recipients()) != 5 || p.sessions != 3 {
		t.Errorf("%d connections, %v, %v", p.sessions, p.recipients(), result)
	}
}

func TestMailWhenTheConnectionBreaks(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		p.judge = func(to string, times int) error {
			if to == "b@example.com" && times <= 2 {
				return io.EOF // hangs up
			}
			return nil
		}
	})
	run, _ := newMail(p.connection(), map[string]any{"recipients": []any{"a@example.com", "b@example.com", "c@example.com"}})
	first, err := emailNotification{}.Execute(t.Context(), run)
	mailError(t, err, template.CodeConnection, true, "the mail server "+p.address)
	if first["sent"] != 1 || len(first["deferred"].([]any)) != 2 || p.sessions != 2 {
		t.Errorf("%d connections, %v", p.sessions, first)
	}
	second, err := emailNotification{}.Execute(t.Context(), again(t, run, first))
	if err != nil || second["sent"] != 3 || !slices.Equal(p.recipients(), []string{"a@example.com", "b@example.com", "c@example.com"}) {
		t.Errorf("got %v, %v; arrived for %v", second, err, p.recipients())
	}
}

func TestMailWithoutAServer(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := template.Connection{Kind: template.KindSMTP, URI: "smtp://" + listener.Addr().String() + "?tls=none", From: "a@b.c"}
	listener.Close()
	run, _ := newMail(closed, nil)
	result, err := emailNotification{}.Execute(t.Context(), run)
	mailError(t, err, template.CodeConnection, true, "connection refused")
	if result["sent"] != 0 || len(result["deferred"].([]any)) != 1 {
		t.Errorf("result %v", result)
	}
	// A dry run asks nobody.
	run, _ = newMail(closed, map[string]any{"dryRun": true, "html": "<p>" + strings.Repeat("x", maxPreview), "subject": "{{ .JobName }}"})
	result, err = emailNotification{}.Execute(t.Context(), run)
	if err != nil || result["message"] != "Would send 1 emails" || result["sent"] != 0 || result["subject"] != "Test" || result["text"] != "Good morning" ||
		len(result["html"].(string)) != maxPreview+len(" ...") {
		t.Errorf("dry run: %v, %v", result, err)
	}
}

// The server greets nobody: only the end of the run ends the wait.
func TestMailIsCancelled(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	run, _ := newMail(template.Connection{Kind: template.KindSMTP, URI: "smtp://" + listener.Addr().String() + "?tls=none", From: "a@b.c"}, nil)
	_, err = emailNotification{}.Execute(ctx, run)
	mailError(t, err, template.CodeCancelled, false, "cancelled")

	// The server takes one message and then thinks.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	p := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		p.judge = func(to string, _ int) error {
			if to == "b@example.com" {
				cancel()
				<-ctx.Done()
				return io.EOF
			}
			return nil
		}
	})
	run, _ = newMail(p.connection(), map[string]any{"recipients": []any{"a@example.com", "b@example.com"}})
	result, err := emailNotification{}.Execute(ctx, run)
	mailError(t, err, template.CodeCancelled, false, "cancelled")
	if result["sent"] != 1 || !reflect.DeepEqual(result["accepted"], []any{"a@example.com"}) {
		t.Errorf("result %v", result)
	}
}

// certificate is one that httptest makes, for 127.0.0.1.
func certificate(t *testing.T) (server tls.Certificate, authority string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0], string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func authorities(t *testing.T) string {
	_, authority := certificate(t)
	return authority
}

func TestMailIsEncryptedAndLogsIn(t *testing.T) {
	own, authority := certificate(t)
	encrypted := func(p *postOffice) {
		p.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{own}}
		p.server.AllowInsecureAuth = false
	}
	login := func(p *postOffice) {
		p.login = func(user, password string) error {
			if user != "almanac" || password != "p@ss:w/rd" {
				return smtp.ErrAuthFailed
			}
			return nil
		}
	}
	const good, wrong = "almanac:p%40ss%3Aw%2Frd@", "almanac:wr0ng-one@"
	for name, c := range map[string]struct {
		change            []func(*postOffice)
		listen            string
		who, security     string
		distrust, implied bool
		code, says        string // of the failure; none when empty
	}{
		"starttls":                        {change: []func(*postOffice){encrypted}, security: "?tls=starttls"},
		"starttls is the default":         {change: []func(*postOffice){encrypted}},
		"starttls and login":              {change: []func(*postOffice){encrypted, login}, who: good},
		"tls and login":                   {change: []func(*postOffice){encrypted, login}, who: good, security: "?tls=tls", implied: true},
		"none and login on loopback":      {change: []func(*postOffice){login}, who: good, security: "?tls=none"},
		"login in the open":               {change: []func(*postOffice){login}, listen: "127.0.0.2:0", who: good, security: "?tls=none", code: "connection", says: "unencrypted"},
		"wrong password":                  {change: []func(*postOffice){encrypted, login}, who: wrong, code: "connection", says: "535 5.7.8 Authentication failed"},
		"no login offered":                {change: []func(*postOffice){encrypted}, who: good, code: "connection", says: "does not support SMTP AUTH"},
		"no encryption offered":           {security: "?tls=starttls", code: "connection", says: "does not support STARTTLS"},
		"certificate is not trusted":      {change: []func(*postOffice){encrypted}, distrust: true, code: "connection", says: "certificate"},
		"certificate of tls, not trusted": {change: []func(*postOffice){encrypted}, security: "?tls=tls", implied: true, distrust: true, code: "connection", says: "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			listen := c.listen
			if listen == "" {
				listen = "127.0.0.1:0"
			}
			var p *postOffice
			if c.implied {
				p = openEncrypted(t, c.change)
			} else {
				p = openPostOffice(t, listen, func(p *postOffice) {
					for _, change := range c.change {
						change(p)
					}
				})
			}
			run, _ := newMail(template.Connection{Kind: template.KindSMTP, URI: "smtp://" + c.who + p.address + c.security, From: "almanac@example.com"}, nil)
			if !c.distrust {
				run.Settings[authoritiesSetting] = authority
			}
			_, err := emailNotification{}.Execute(t.Context(), run)
			if c.code == "" {
				if err != nil || len(p.letters()) != 1 {
					t.Errorf("got %v, %d letters", err, len(p.letters()))
				}
				return
			}
			mailError(t, err, c.code, false, c.says)
			if strings.Contains(err.Error(), "wr0ng") || len(p.letters()) != 0 {
				t.Errorf("got %v, %d letters", err, len(p.letters()))
			}
		})
	}
}

// openEncrypted is a post office behind a listener that encrypts from the start.
func openEncrypted(t *testing.T, changes []func(*postOffice)) *postOffice {
	t.Helper()
	p := openPostOffice(t, "127.0.0.1:0", func(p *postOffice) {
		for _, change := range changes {
			change(p)
		}
	})
	listener, err := tls.Listen("tcp", "127.0.0.1:0", p.server.TLSConfig)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(listener) }()
	t.Cleanup(func() {
		listener.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("post office: %v", err)
		}
	})
	p.address = listener.Addr().String()
	return p
}

func TestMailLayouts(t *testing.T) {
	settings := map[string]any{"layouts": map[string]any{
		"company": map[string]any{
			"subject": "[ACME] {{ .Subject }}", "text": "{{ .Body }}\n-- \n{{ .JobName }}", "html": "<h1>{{ .Subject }}</h1><div>{{ .Body }}</div>",
		},
		"footer": map[string]any{"text": "{{ .Body }}\nBye"},
	}}
	if got := (emailNotification{}).Restrict(settings); !reflect.DeepEqual(got, map[string][]string{"template": {"company", "footer"}}) {
		t.Errorf("permitted layouts %v", got)
	}
	p := openPostOffice(t, "127.0.0.1:0", nil)
	for name, c := range map[string]struct {
		params map[string]any
		want   letter
	}{
		"all parts": {
			map[string]any{"template": "company", "subject": "1 < 2", "html": "<i>{{ .Data.x }}</i>", "data": map[string]any{"x": "<&"}},
			letter{subject: "[ACME] 1 < 2", text: "Good morning\n-- \nTest", html: "<h1>1 &lt; 2</h1><div><i>&lt;&amp;</i></div>"},
		},
		"text as HTML": {
			map[string]any{"template": "company", "body": "a <b>\nc"},
			letter{subject: "[ACME] Hello", text: "a <b>\nc\n-- \nTest", html: "<h1>Hello</h1><div>a &lt;b&gt;<br>\nc</div>"},
		},
		"one part": {map[string]any{"template": "footer", "html": "<p>"}, letter{subject: "Hello", text: "Good morning\nBye", html: "<p>"}},
	} {
		run, _ := newMail(p.connection(), c.params)
		run.Settings = settings
		if _, err := (emailNotification{}).Execute(t.Context(), run); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		letters := p.letters()
		got := letters[len(letters)-1].read(t)
		if got.header = nil; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestMailIsRefusedBeforeItIsSent(t *testing.T) {
	p := openPostOffice(t, "127.0.0.1:0", nil)
	for name, c := range map[string]struct {
		params, settings map[string]any
		uri, from        string
		code, says       string
	}{
		"a header in the data": {
			params: map[string]any{"subject": "Hello {{ .Data.name }}", "data": map[string]any{"name": "x\r\nBcc: eve@example.com"}},
			code:   "validation", says: "subject: has a line break",
		},
		"a header in a template":  {params: map[string]any{"subject": `Hello {{ "\n" }}Bcc: eve@example.com`}, code: "validation", says: "subject: has a line break"},
		"a header in a layout":    {params: map[string]any{"template": "x"}, settings: map[string]any{"layouts": map[string]any{"x": map[string]any{"subject": "{{ .Subject }}{{ \"\\r\" }}"}}}, code: "validation", says: "subject: has a line break"},
		"a zero byte":             {params: map[string]any{"subject": `{{ "\x00" }}`}, code: "validation", says: "control character"},
		"no text":                 {params: map[string]any{"subject": `{{ "\xff" }}`}, code: "validation", says: "control character"},
		"a long subject":          {params: map[string]any{"subject": "{{ range 251 }}x{{ end }}"}, code: "limit", says: "251 characters"},
		"a long body":             {params: map[string]any{"body": "{{ range 2000 }}" + strings.Repeat("x", 1000) + "{{ end }}"}, code: "validation", says: "body: the template fails: the outcome is too long"},
		"an endless body":         {params: map[string]any{"body": "{{ range 9000000000 }}{{ end }}"}, code: "validation", says: "too many steps"},
		"no such field":           {params: map[string]any{"html": "{{ .Secret }}"}, code: "validation", says: "html: the template fails"},
		"no such layout":          {params: map[string]any{"template": "x"}, code: "validation", says: `no layout "x"`},
		"another domain":          {settings: map[string]any{"recipient_domains": []any{"example.org"}}, code: "forbidden", says: "no mail to example.com"},
		"a strange URI":           {uri: "http://mail", code: "connection", says: `"mail" must have a URI smtp://`},
		"a strange security":      {uri: "smtp://mail?tls=maybe", code: "connection", says: "tls="},
		"a strange port":          {uri: "smtp://mail:0", code: "connection", says: "port"},
		"no sender":               {from: "nobody", code: "connection", says: "from"},
		"authorities that are no": {settings: map[string]any{"certificate_authorities": "x"}, code: "connection", says: "PEM"},
	} {
		run, _ := newMail(p.connection(), c.params)
		connection := run.Connections["mail"]
		if c.uri != "" {
			connection.URI = c.uri
		}
		if c.from != "" {
			connection.From = c.from
		}
		run.Connections["mail"] = connection
		if c.settings != nil {
			run.Settings = c.settings
		}
		t.Run(name, func(t *testing.T) {
			_, err := emailNotification{}.Execute(t.Context(), run)
			mailError(t, err, c.code, false, c.says)
		})
	}
	if p.sessions != 0 {
		t.Errorf("%d connections", p.sessions)
	}
	run, _ := newMail(p.connection(), nil)
	run.Allowed = nil
	_, err := emailNotification{}.Execute(t.Context(), run)
	mailError(t, err, template.CodeValidation, false, "connection")

	run, _ = newMail(p.connection(), nil)
	run.Settings = map[string]any{"recipient_domains": []any{"example.com"}}
	run.Params["recipients"] = []any{"ann@EXAMPLE.com"}
	if _, err := (emailNotification{}).Execute(t.Context(), run); err != nil {
		t.Errorf("a permitted domain: %v", err)
	}
}

func TestMailServerDefaults(t *testing.T) {
	for uri, port := range map[string]int{"smtp://m?tls=none": 25, "smtp://m?tls=tls": 465, "smtp://m?tls=starttls": 587, "smtp://m": 587, "smtp://m:2525": 2525} {
		s, failure := mailServerOf(template.Connection{URI: uri, From: "a@b.c"}, "")
		if failure != nil || s.port != port {
			t.Errorf("%s: %+v, %v", uri, s, failure)
		}
	}
}

func TestLongAnswersAreShortened(t *testing.T) {
	long := strings.Repeat("ä", maxAnswer+1)
	if got := shortAnswer(long); got != long[:2*maxAnswer]+" ..." {
		t.Errorf("got %q", got)
	}
	m := &mailing{deferred: map[string]mailAnswer{}}
	for i := range 5 {
		to := fmt.Sprint(i)
		m.recipients = append(m.recipients, to)
		m.deferred[to] = mailAnswer{451, "no"}
	}
	mailError(t, m.verdict(), codeMailDeferred, true, "0 (no), 1 (no), 2 (no) and 2 more")
}
