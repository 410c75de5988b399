package builtin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// emailNotification sends a mail to each of some recipients. Each gets a message
// of its own, so that no recipient sees the others, a refusal concerns one alone,
// and another attempt goes only to those who were put off.
type emailNotification struct{}

func (emailNotification) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "email_notification",
		Version: 1,
		Name:    "Email Notification",
		Description: "Send an email to some recipients, each a message of its own. Subject, body and html are Go templates over .Data, .JobName, " +
			".ExecutionID, .ScheduledFor (in the job's zone), .Attempt, .JobID, .Organisation and .TriggeredBy, with the functions of Go's templates and " +
			"json, lower, trim and upper; what is missing from the data shows as nothing. Another attempt goes only to those whom the server put off " +
			"(4xx). A message may arrive twice when an executor dies while it sends; both have the same Message-ID then",
		Category:          "notification",
		Icon:              "📧",
		EstimatedDuration: "under 1 minute",
		ResourceUsage:     "low",
		RiskLevel:         "low",
		Idempotent:        true,
		Connections:       map[string]string{connectionParam: template.KindSMTP},
		Implied:           []string{connectionParam},
		Restricted:        []string{layoutParam},
	}
}

const (
	layoutParam        = "template"
	maxRecipients      = 100
	maxSubject         = 250     // characters, expanded
	maxMailText        = 1 << 20 // bytes of text and of HTML, expanded
	maxPreview         = 32 << 10
	mailAddressForm    = "^[a-zA-Z0-9.!#$%&'*+/=?^_\\x60{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$"
	oneLineForm        = "^[^\\r\\n]*$"
	codeMailRefused    = "recipients_refused"
	codeMailDeferred   = "recipients_deferred"
	layoutsSetting     = "layouts"
	domainsSetting     = "recipient_domains"
	authoritiesSetting = "certificate_authorities"
)

func mailAddressSchema(description string) map[string]any {
	return map[string]any{"type": "string", "description": description, "pattern": mailAddressForm, "maxLength": 254, "examples": []any{"ops@example.com"}}
}

func (emailNotification) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{"recipients", "subject", "body", template.DryRunParam},
		"required":             []any{"recipients", "subject", "body"},
		"properties": map[string]any{
			"recipients": map[string]any{
				"type":        "array",
				"description": "Mail addresses that get the message, each by itself",
				"items":       mailAddressSchema("A mail address without a name"),
				"minItems":    1,
				"maxItems":    maxRecipients,
				"uniqueItems": true,
				"examples":    []any{[]any{"ops@example.com", "dev@example.com"}},
			},
			"subject": map[string]any{
				"type":        "string",
				"description": fmt.Sprintf("Subject line, a Go template; at most %d characters once expanded, and never more than one line", maxSubject),
				"minLength":   1,
				"maxLength":   2000,
				"pattern":     oneLineForm,
				"examples":    []any{"{{ .JobName }}: {{ .Data.headline }}"},
			},
			"body": map[string]any{
				"type":        "string",
				"description": "Text of the message, a Go template",
				"minLength":   1,
				"maxLength":   100_000,
				"examples":    []any{"Due at {{ .ScheduledFor }}.\n{{ range .Data.items }}- {{ . }}\n{{ end }}"},
			},
			"html": map[string]any{
				"type":        "string",
				"description": "The message as HTML beside the text, a Go template that escapes what it shows",
				"minLength":   1,
				"maxLength":   100_000,
				"examples":    []any{"<p>Due at <b>{{ .ScheduledFor }}</b></p>"},
			},
			layoutParam: map[string]any{
				"type":        "string",
				"description": "Name of a layout that the message is put into",
				"examples":    []any{"company"},
			},
			"data": map[string]any{
				"type":        "object",
				"description": "Anything that the templates show as .Data",
				"examples":    []any{map[string]any{"headline": "all is well"}},
			},
			"reply_to": mailAddressSchema("Mail address that answers go to; the connection's own when absent"),
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Expand the templates and show the message, but connect to nobody",
				"default":     false,
			},
			connectionParam: map[string]any{
				"type":        "string",
				"description": "Name of the mail server's connection; needed only when the executor has several",
				"minLength":   1,
				"examples":    []any{"mail"},
			},
		},
	}
}

// SettingsSchema says what the executor's administrator decides.
func (emailNotification) SettingsSchema() map[string]any {
	part := func(description string) map[string]any {
		return map[string]any{"type": "string", "description": description, "minLength": 1, "maxLength": 128 << 10}
	}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			layoutsSetting: map[string]any{
				"type": "object",
				"description": "Layouts by name, which the parameter template picks. Their parts are Go templates like those of a job, " +
					"and see also its expanded .Subject and .Body; the .Body within html is the job's html, or its text as HTML",
				"default":       map[string]any{},
				"maxProperties": 50,
				"additionalProperties": map[string]any{
					"type":                 "object",
					"additionalProperties": false,
					"minProperties":        1,
					"properties": map[string]any{
						"subject": map[string]any{"type": "string", "description": "The subject line in place of the job's", "minLength": 1, "maxLength": 2000, "pattern": oneLineForm},
						"text":    part("The text in place of the job's"),
						"html":    part("The HTML in place of the job's"),
					},
				},
			},
			domainsSetting: map[string]any{
				"type":        "array",
				"description": "Domains that mail may go to, such as example.com (which does not include its subdomains); any when empty",
				"default":     []any{},
				"items":       map[string]any{"type": "string", "pattern": "^[a-z0-9-]+(\\.[a-z0-9-]+)*$", "maxLength": 253},
				"maxItems":    1000,
			},
			authoritiesSetting: map[string]any{
				"type":        "string",
				"description": "Certificates in PEM form whose holders are trusted, beside the system's, to vouch for mail servers",
				"minLength":   1,
			},
		},
	}
}

var layoutName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// mailLayout wraps messages. An empty part leaves the job's as it is.
type mailLayout struct{ subject, text, html string }

func layoutsOf(settings map[string]any) map[string]mailLayout {
	configured, _ := settings[layoutsSetting].(map[string]any)
	layouts := make(map[string]mailLayout, len(configured))
	for name, value := range configured {
		parts, _ := value.(map[string]any)
		var l mailLayout
		l.subject, _ = parts["subject"].(string)
		l.text, _ = parts["text"].(string)
		l.html, _ = parts["html"].(string)
		layouts[name] = l
	}
	return layouts
}

// ValidateSettings parses the layouts and the certificates.
func (emailNotification) ValidateSettings(settings map[string]any) error {
	var bad []template.FieldError
	layouts := layoutsOf(settings)
	for _, name := range slices.Sorted(maps.Keys(layouts)) {
		l := layouts[name]
		if !layoutName.MatchString(name) {
			bad = append(bad, template.FieldError{Field: layoutsSetting + "." + name, Message: "must have a name of at most 63 small letters, digits, - and _ that begins with a letter"})
		}
		bad = append(bad, badTemplates(layoutsSetting+"."+name+".", "text", l.subject, l.text, l.html)...)
	}
	if authorities, _ := settings[authoritiesSetting].(string); authorities != "" {
		if _, err := trustedBeside(authorities); err != nil {
			bad = append(bad, template.FieldError{Field: authoritiesSetting, Message: err.Error()})
		}
	}
	if len(bad) > 0 {
		return &template.ParamsError{Fields: bad}
	}
	return nil
}

// Restrict permits the names of the layouts.
func (emailNotification) Restrict(settings map[string]any) map[string][]string {
	return map[string][]string{layoutParam: slices.Sorted(maps.Keys(layoutsOf(settings)))}
}

// badTemplates names the templates that do not parse, behind a prefix.
func badTemplates(prefix, textName, subject, text, html string) []template.FieldError {
	var bad []template.FieldError
	note := func(name string, err error) {
		if err != nil {
			bad = append(bad, template.FieldError{Field: prefix + name, Message: err.Error()})
		}
	}
	_, err := parseBodyText(subject)
	note("subject", err)
	_, err = parseBodyText(text)
	note(textName, err)
	_, err = parseHTML(html)
	note("html", err)
	return bad
}

func (emailNotification) ResultSchema() map[string]any {
	addresses := func(description string) map[string]any {
		return map[string]any{"type": "array", "description": description, "items": map[string]any{"type": "string"}}
	}
	answers := func(description string) map[string]any {
		return map[string]any{"type": "array", "description": description, "items": map[string]any{
			"type":                 "object",
			"additionalProperties": false,
			"properties": map[string]any{
				"recipient": map[string]any{"type": "string", "description": "The mail address"},
				"code":      map[string]any{"type": "integer", "description": "The server's SMTP reply code; 0 when it gave none"},
				"answer":    map[string]any{"type": "string", "description": "What the server said, or what came in between"},
			},
		}}
	}
	preview := map[string]any{"type": "string", "description": "In a dry run: the expanded text, at most 32 KiB of it"}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message", "sent", "recipients"},
		"properties": map[string]any{
			"message":    map[string]any{"type": "string", "description": "What was sent, or would be"},
			"sent":       map[string]any{"type": "integer", "description": "Messages that the server accepted, in all attempts together"},
			"recipients": addresses("All recipients"),
			"accepted":   addresses("Recipients whose message the server accepted"),
			"refused":    answers("Recipients that the server refused for good"),
			"deferred":   answers("Recipients whose message the server did not take for the moment; another attempt goes to them alone"),
			"subject":    preview,
			"text":       preview,
			"html":       preview,
		},
	}
}

func (emailNotification) Examples() []template.Example {
	return []template.Example{
		{Title: "Tell two people", Params: map[string]any{
			"recipients": []any{"ops@example.com", "dev@example.com"},
			"subject":    "{{ .JobName }} of {{ .ScheduledFor.Format \"2 January\" }}",
			"body":       "The month is closed. Please look at the figures.",
		}},
		{Title: "Show what a message with data would look like, and send nothing", Params: map[string]any{
			"recipients": []any{"ops@example.com"},
			"subject":    "{{ .Data.shop }}: {{ len .Data.late }} late orders",
			"body":       "{{ range .Data.late }}{{ .id }} since {{ .since }}\n{{ else }}None.\n{{ end }}",
			"html":       "<ul>{{ range .Data.late }}<li><b>{{ .id }}</b> since {{ .since }}</li>{{ end }}</ul>",
			"data": map[string]any{"shop": "Berlin", "late": []any{
				map[string]any{"id": "A-17", "since": "Monday"}, map[string]any{"id": "A-21", "since": "Tuesday"},
			}},
			template.DryRunParam: true,
		}},
	}
}

func (emailNotification) ValidateParams(params map[string]any) error {
	subject, _ := params["subject"].(string)
	body, _ := params["body"].(string)
	html, _ := params["html"].(string)
	if bad := badTemplates("", "body", subject, body, html); len(bad) > 0 {
		return &template.ParamsError{Fields: bad}
	}
	return nil
}

func (emailNotification) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, template.AsError(err)
	}
	connection, err := run.Connection(connectionParam)
	if err != nil {
		return nil, err
	}
	authorities, _ := run.Settings[authoritiesSetting].(string)
	server, failure := mailServerOf(connection, authorities)
	if failure != nil {
		return nil, failure
	}
	m := mailingOf(run)
	if failure := m.permitted(run.Settings); failure != nil {
		return nil, failure
	}
	if m.draft, failure = mailDraftOf(ctx, run); failure != nil {
		return nil, failure
	}
	m.draft.from = server.from
	if dry, _ := run.Params[template.DryRunParam].(bool); dry {
		return m.preview(), nil
	}
	failure = m.deliver(ctx, server, run.Report)
	if failure == nil {
		failure = m.verdict()
	}
	if failure != nil {
		return m.result(), failure
	}
	return m.result(), nil
}

// mailDraft is the message as all recipients get it.
type mailDraft struct {
	subject, text, html string
	from, replyTo       *mail.Address // the latter may be nil
	execution           string
	attached            []mailAttachment
}

// mailAttachment is a file that goes with a message.
type mailAttachment struct {
	name, kind string // kind is its media type
	content    []byte
}

// mailView is what layouts see.
type mailView struct {
	view
	Subject string
	Body    any
}

// mailDraftOf expands the templates.
func mailDraftOf(ctx context.Context, run *template.Run) (*mailDraft, *template.Error) {
	data, _ := run.Params["data"].(map[string]any)
	v := viewOf(run, data)
	d := &mailDraft{execution: run.ExecutionID}
	if address, ok := run.Params["reply_to"].(string); ok {
		d.replyTo = &mail.Address{Address: address}
	}
	var failure *template.Error
	expand := func(render func(context.Context, string, any, int) (string, error), name, text string, v any) string {
		if failure != nil || text == "" {
			return ""
		}
		expanded, err := render(ctx, text, v, maxMailText)
		switch {
		case err != nil && ctx.Err() != nil:
			failure = template.AsError(ctx.Err())
		case err != nil:
			failure = template.Fail(template.CodeValidation, "%s: %w", name, err)
		}
		return expanded
	}
	param := func(name string) string { text, _ := run.Params[name].(string); return text }
	d.subject = expand(renderLenient, "subject", param("subject"), v)
	d.text = expand(renderLenient, "body", param("body"), v)
	d.html = expand(renderHTML, "html", param("html"), v)

	name := param(layoutParam)
	layout, known := layoutsOf(run.Settings)[name]
	if name != "" && !known && failure == nil {
		failure = template.Fail(template.CodeValidation, "%s: the executor has no layout %q", layoutParam, name)
	}
	at := layoutsSetting + "." + name + "."
	text, html := d.text, d.html
	if layout.text != "" {
		d.text = expand(renderLenient, at+"text", layout.text, mailView{v, d.subject, text})
	}
	if layout.html != "" {
		inner := htmltemplate.HTML(html) //nolint:gosec // html/template has escaped it
		if html == "" {
			inner = htmltemplate.HTML(strings.ReplaceAll(htmltemplate.HTMLEscapeString(text), "\n", "<br>\n")) //nolint:gosec // escaped here
		}
		d.html = expand(renderHTML, at+"html", layout.html, mailView{v, d.subject, inner})
	}
	if layout.subject != "" {
		d.subject = expand(renderLenient, at+"subject", layout.subject, mailView{v, d.subject, text})
	}
	if failure != nil {
		return nil, failure
	}
	d.subject = strings.Trim(d.subject, " ")
	if n := utf8.RuneCountInString(d.subject); n > maxSubject {
		return nil, template.Fail(template.CodeLimit, "subject: has %d characters once expanded: at most %d are permitted", n, maxSubject)
	}
	// A line's end would begin another header.
	if strings.IndexFunc(d.subject, unicode.IsControl) >= 0 || !utf8.ValidString(d.subject) {
		return nil, template.Fail(template.CodeValidation, "subject: has a line break or another control character once expanded: take it out of the data")
	}
	return d, nil
}

// message writes the message for one recipient.
func (d *mailDraft) message(to string) ([]byte, error) {
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m.SetAddrHeaderFromMailAddress(gomail.HeaderFrom, d.from)
	m.SetAddrHeaderFromMailAddress(gomail.HeaderTo, &mail.Address{Address: to})
	if d.replyTo != nil {
		m.SetAddrHeaderFromMailAddress(gomail.HeaderReplyTo, d.replyTo)
	}
	m.Subject(d.subject)
	m.SetMessageIDWithValue(d.messageID(to))
	m.SetGenHeader("Auto-Submitted", "auto-generated") // so that no absence is reported to us
	m.SetGenHeader("X-Almanac-Execution", d.execution)
	m.SetBodyString(gomail.TypeTextPlain, d.text)
	if d.html != "" {
		m.AddAlternativeString(gomail.TypeTextHTML, d.html)
	}
	for _, a := range d.attached {
		if err := m.AttachReader(a.name, bytes.NewReader(a.content), gomail.WithFileContentType(gomail.ContentType(a.kind))); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	_, err := m.WriteTo(&out)
	return out.Bytes(), err
}

// messageID is the same for all attempts, so that a server that gets the message
// again can tell.
func (d *mailDraft) messageID(to string) string {
	sum := sha256.Sum256([]byte(d.execution + "\n" + to))
	_, domain, _ := strings.Cut(d.from.Address, "@")
	execution := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '-'
	}, d.execution)
	return execution + "." + hex.EncodeToString(sum[:8]) + "@" + domain
}

// mailing is how far a message has come with each recipient.
type mailing struct {
	draft      *mailDraft
	recipients []string
	accepted   map[string]bool
	refused    map[string]mailAnswer
	deferred   map[string]mailAnswer
}

// mailingOf begins where the attempt before has ended.
func mailingOf(run *template.Run) *mailing {
	m := &mailing{accepted: map[string]bool{}, refused: map[string]mailAnswer{}, deferred: map[string]mailAnswer{}}
	listed, _ := run.Params["recipients"].([]any)
	for _, one := range listed {
		if address, ok := one.(string); ok {
			m.recipients = append(m.recipients, address)
		}
	}
	accepted, _ := run.Previous["accepted"].([]any)
	for _, one := range accepted {
		if address, ok := one.(string); ok && slices.Contains(m.recipients, address) {
			m.accepted[address] = true
		}
	}
	refused, _ := run.Previous["refused"].([]any)
	for _, one := range refused {
		said, _ := one.(map[string]any)
		address, _ := said["recipient"].(string)
		code, _ := said["code"].(float64)
		text, _ := said["answer"].(string)
		if slices.Contains(m.recipients, address) {
			m.refused[address] = mailAnswer{int(code), text}
		}
	}
	return m
}

// permitted refuses recipients in domains that the executor does not permit.
func (m *mailing) permitted(settings map[string]any) *template.Error {
	domains, _ := settings[domainsSetting].([]any)
	if len(domains) == 0 {
		return nil
	}
	for _, to := range m.recipients {
		_, domain, _ := strings.Cut(to, "@")
		if !slices.Contains(domains, any(strings.ToLower(domain))) {
			return template.Fail(template.CodeForbidden, "recipients: this executor sends no mail to %s: its settings permit other domains", domain)
		}
	}
	return nil
}

// waiting are those who were neither reached nor refused.
func (m *mailing) waiting() []string {
	var to []string
	for _, address := range m.recipients {
		if _, refused := m.refused[address]; !refused && !m.accepted[address] {
			to = append(to, address)
		}
	}
	return to
}

// deliver hands a message in for each of those waiting. The failure is that of
// the connection; what the server says of a recipient is kept. A server may end a
// connection after some messages; then another is opened, as long as each makes
// some headway.
func (m *mailing) deliver(ctx context.Context, server *mailServer, report template.Reporter) *template.Error {
	for waiting := m.waiting(); len(waiting) > 0; {
		session, err := server.open(ctx)
		if err != nil {
			return m.giveUp(waiting, server.answerOf(err), server.unreachable(ctx, err))
		}
		before := len(waiting)
		waiting, err = m.converse(session, server, waiting, report)
		session.quit()
		switch {
		case err != nil && ctx.Err() != nil:
			return m.giveUp(waiting, mailAnswer{text: "the run ended before"}, template.AsError(ctx.Err()))
		case err != nil && len(waiting) == before:
			return m.giveUp(waiting, server.answerOf(err), server.unreachable(ctx, err))
		}
	}
	return nil
}

func (m *mailing) giveUp(waiting []string, why mailAnswer, failure *template.Error) *template.Error {
	for _, to := range waiting {
		m.deferred[to] = why
	}
	return failure
}

// converse sends to those waiting and returns the ones for whom the connection
// did not last, with the reason.
func (m *mailing) converse(session *mailSession, server *mailServer, waiting []string, report template.Reporter) ([]string, error) {
	for len(waiting) > 0 {
		to := waiting[0]
		message, err := m.draft.message(to)
		if err != nil {
			return waiting, err
		}
		err = session.send(server.from.Address, to, message)
		if err == nil {
			waiting = waiting[1:]
			m.accepted[to] = true
			report.Log("INFO", "Sent to "+to)
		} else {
			said := server.answerOf(err)
			if said.ends() {
				return waiting, err
			}
			waiting = waiting[1:]
			if said.refuses() {
				m.refused[to] = said
				report.Log("ERROR", "Refused for "+to+": "+said.text)
			} else {
				m.deferred[to] = said
				report.Log("WARN", "Put off for "+to+": "+said.text)
			}
			if err := session.reset(); err != nil {
				return waiting, err
			}
		}
		report.Progress(int64(len(m.recipients)-len(waiting)), int64(len(m.recipients)), "Sending")
	}
	return nil, nil
}

// verdict is the failure when not everybody was reached.
func (m *mailing) verdict() *template.Error {
	switch {
	case len(m.deferred) > 0:
		return template.Retryable(codeMailDeferred, "the mail server did not take the message for the moment for %s", m.quote(m.deferred))
	case len(m.refused) > 0:
		return template.Fail(codeMailRefused, "the mail server refused the message for %s", m.quote(m.refused))
	}
	return nil
}

// quote names recipients with what the server said, the first few.
func (m *mailing) quote(answers map[string]mailAnswer) string {
	const most = 3
	var parts []string
	for _, to := range m.recipients {
		if said, ok := answers[to]; ok && len(parts) < most {
			parts = append(parts, to+" ("+said.text+")")
		}
	}
	text := strings.Join(parts, ", ")
	if more := len(answers) - len(parts); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (m *mailing) result() template.Result {
	accepted := []any{}
	for _, to := range m.recipients {
		if m.accepted[to] {
			accepted = append(accepted, to)
		}
	}
	message := fmt.Sprintf("Sent %d emails", len(accepted))
	if len(accepted) < len(m.recipients) {
		message = fmt.Sprintf("Sent %d of %d emails: %d refused, %d put off", len(accepted), len(m.recipients), len(m.refused), len(m.deferred))
	}
	return template.Result{
		"message": message, "sent": len(accepted), "recipients": mailTexts(m.recipients), "accepted": accepted,
		"refused": m.listed(m.refused), "deferred": m.listed(m.deferred),
	}
}

func (m *mailing) listed(answers map[string]mailAnswer) []any {
	list := []any{}
	for _, to := range m.recipients {
		if said, ok := answers[to]; ok {
			list = append(list, map[string]any{"recipient": to, "code": said.code, "answer": said.text})
		}
	}
	return list
}

// preview is the result of a dry run.
func (m *mailing) preview() template.Result {
	result := template.Result{
		"message": fmt.Sprintf("Would send %d emails", len(m.recipients)), "sent": 0, "recipients": mailTexts(m.recipients),
		"subject": m.draft.subject, "text": mailBeginning(m.draft.text),
	}
	if m.draft.html != "" {
		result["html"] = mailBeginning(m.draft.html)
	}
	return result
}

func mailBeginning(text string) string {
	if len(text) > maxPreview {
		return strings.ToValidUTF8(text[:maxPreview], "") + " ..."
	}
	return text
}

func mailTexts(texts []string) []any {
	all := make([]any, len(texts))
	for i, text := range texts {
		all[i] = text
	}
	return all
}
