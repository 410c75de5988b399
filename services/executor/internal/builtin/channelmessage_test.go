package builtin

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

// newChannelRun returns a run whose channel has that form and leads to a server.
func newChannelRun(server *receiver, format string, params map[string]any) (*template.Run, *templatetest.Recorder) {
	run, recorder := templatetest.NewRun(map[string]any{channelParam: "ops"})
	for name, value := range params {
		run.Params[name] = value
	}
	run.Settings = map[string]any{allowNetworksSetting: []any{"127.0.0.0/8"}}
	if format != "" {
		run.Settings["formats"] = map[string]any{"ops": format}
	}
	templatetest.Connect(run, channelParam, "ops", template.Connection{Kind: template.KindWebhook, URI: server.URL + "/services/T0/s3cret", Secret: "the-key"})
	return run, recorder
}

func TestChannelMessagePassesTheSuite(t *testing.T) {
	server := newReceiver(t, nil)
	templatetest.Run(t, channelMessage{}, templatetest.Options{
		Valid: []map[string]any{
			{"channel": "ops", "text": "Hello"},
			{"channel": "ops", "text": strings.Repeat("é", maxMessage), "data": map[string]any{"a": []any{1.0}}},
		},
		Invalid: []templatetest.Invalid{
			{Params: map[string]any{"text": "Hello"}, Field: "channel"},
			{Params: map[string]any{"channel": "ops"}, Field: "text"},
			{Params: map[string]any{"channel": "ops", "text": ""}, Field: "text"},
			{Params: map[string]any{"channel": "ops", "text": " \n"}, Field: "text"},
			{Params: map[string]any{"channel": "ops", "text": strings.Repeat("é", maxMessage+1)}, Field: "text"},
			{Params: map[string]any{"channel": "ops", "text": "Hello", "data": "x"}, Field: "data"},
		},
		Succeed: []map[string]any{
			{"channel": "ops", "text": "Hello", "data": map[string]any{"a": 1.0}},
			{"channel": "ops", "text": "Hello", "dryRun": true},
		},
		Prepare: func(run *template.Run) {
			run.Settings = loopback
			templatetest.Connect(run, channelParam, "ops", template.Connection{Kind: template.KindWebhook, URI: server.URL})
		},
		Settings: []map[string]any{{"formats": map[string]any{"ops": "slack", "games": "discord", "mine": "generic"}, allowNetworksSetting: []any{"10.0.0.0/8"}}},
		InvalidSettings: []templatetest.Invalid{
			{Params: map[string]any{"formats": map[string]any{"ops": "teams"}}, Field: "formats.ops"},
			{Params: map[string]any{allowNetworksSetting: []any{"everything"}}, Field: allowNetworksSetting + ".0"},
		},
	})
}

func TestChannelMessageForms(t *testing.T) {
	const text = `<!channel> "a" & b @everyone`
	for _, c := range []struct {
		format string
		data   any
		want   string
		signed bool
	}{
		{"", nil, `{"data":{},"execution_id":"exec_test","sent_at":"2025-10-19T02:00:00Z","text":"<!channel> \"a\" & b @everyone"}`, true},
		{formatGeneric, map[string]any{"job_name": "backup", "n": 2.0}, `{"data":{"job_name":"backup","n":2},"execution_id":"exec_test","sent_at":"2025-10-19T02:00:00Z","text":"<!channel> \"a\" & b @everyone"}`, true},
		{formatSlack, map[string]any{"a": 1.0}, `{"text":"&lt;!channel&gt; \"a\" &amp; b @everyone"}`, false},
		{formatDiscord, map[string]any{"a": 1.0}, `{"allowed_mentions":{"parse":[]},"content":"<!channel> \"a\" & b @everyone"}`, false},
	} {
		server := newReceiver(t, nil)
		params := map[string]any{"text": text}
		if c.data != nil {
			params["data"] = c.data
		}
		run, recorder := newChannelRun(server, c.format, params)
		result, err := channelMessage{}.Execute(t.Context(), run)
		if err != nil {
			t.Fatalf("%s: %v", c.format, err)
		}
		request := server.only(t)
		if request.method != "POST" || request.path != "/services/T0/s3cret" || request.body != c.want ||
			request.header.Get("Content-Type") != "application/json" || request.header.Get(idempotencyHeader) != "exec_test" {
			t.Errorf("%s: %+v", c.format, request)
		}
		if (request.header.Get(signatureHeader) != "") != c.signed {
			t.Errorf("%s: signature %q", c.format, request.header.Get(signatureHeader))
		}
		format := c.format
		if format == "" {
			format = formatGeneric
		}
		want := template.Result{"message": "Posted 28 characters to ops", "format": format, "status": 200, "answer": "ok"}
		if !reflect.DeepEqual(result, want) {
			t.Errorf("%s: result %v", c.format, result)
		}
		if lines := strings.Join(recorder.Lines(), "\n"); lines != "INFO Posted 28 characters to ops" {
			t.Errorf("%s: log %q", c.format, lines)
		}
	}
}

func TestChannelMessageCutsForDiscord(t *testing.T) {
	server := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	run, recorder := newChannelRun(server, formatDiscord, map[string]any{"text": strings.Repeat("🙂", 1001)})
	if _, err := (channelMessage{}).Execute(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	var sent struct{ Content string }
	if err := json.Unmarshal([]byte(server.only(t).body), &sent); err != nil || sent.Content != strings.Repeat("🙂", 999)+"…" {
		t.Errorf("%d characters, %v", utf8.RuneCountInString(sent.Content), err)
	}
	if lines := recorder.Lines(); len(lines) != 2 || lines[0] != "WARN The text is longer than discord takes: only its beginning is posted" {
		t.Errorf("log: %q", lines)
	}
}

// TestCutUnits tries texts of all widths around the limit.
func TestCutUnits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("aé€🙂")
	for range 5000 {
		text := make([]rune, random.IntN(14))
		for i := range text {
			text[i] = alphabet[random.IntN(len(alphabet))]
		}
		const most = 8
		got, cut := cutUnits(string(text), most)
		units := len(utf16.Encode([]rune(got)))
		kept, ellipsis := strings.CutSuffix(got, "…")
		switch {
		case cut != (len(utf16.Encode(text)) > most) || cut != ellipsis, units > most, cut && units < most-1,
			!strings.HasPrefix(string(text), kept), !cut && got != string(text), !utf8.ValidString(got):
			t.Fatalf("%q became %q, %v", string(text), got, cut)
		}
	}
}

func TestChannelMessageDryRun(t *testing.T) {
	server := newReceiver(t, nil)
	run, _ := newChannelRun(server, formatSlack, map[string]any{"text": "a <b> the-key", "dryRun": true})
	result, err := channelMessage{}.Execute(t.Context(), run)
	want := template.Result{"message": "Would post 13 characters to ops (dry run)", "format": "slack", "body": `{"text":"a &lt;b&gt; ***"}`}
	if err != nil || !reflect.DeepEqual(result, want) {
		t.Errorf("%v, %v", result, err)
	}
	if n := len(server.got()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestChannelMessageFails(t *testing.T) {
	for _, c := range []struct {
		status    int
		body      string
		code      string
		retryable bool
	}{
		{http.StatusNotFound, "no_service", codeUnexpectedStatus, false},
		{http.StatusTooManyRequests, "slow down", codeRateLimited, true},
		{http.StatusBadGateway, "", codeUnexpectedStatus, true},
		{http.StatusFound, "", codeUnexpectedStatus, false},
	} {
		server := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body+" "+r.URL.Path)
		})
		run, recorder := newChannelRun(server, formatSlack, map[string]any{"text": "Hello"})
		result, failure := mustFail(t, channelMessage{}, run)
		if failure.Code != c.code || failure.Retryable != c.retryable || !strings.Contains(failure.Message, c.body) || result["status"] != c.status {
			t.Errorf("%d: %v, %+v", c.status, result, failure)
		}
		told, err := json.Marshal([]any{result, failure.Message, recorder.Lines()})
		if err != nil || strings.Contains(string(told), "s3cret") {
			t.Errorf("%d: it tells the address: %s", c.status, told)
		}
		server.only(t)
	}
}

func TestChannelMessageRefuses(t *testing.T) {
	server := newReceiver(t, nil)
	run, _ := newChannelRun(server, "", map[string]any{"text": "Hello"})
	run.Settings = map[string]any{}
	if _, failure := mustFail(t, channelMessage{}, run); failure.Code != template.CodeForbidden || strings.Contains(failure.Message, "s3cret") {
		t.Errorf("an address inside: %+v", failure)
	}
	run, _ = newChannelRun(server, "", map[string]any{"text": "Hello"})
	run.Connections["ops"] = template.Connection{Kind: template.KindWebhook, Secret: "the-key"}
	if _, failure := mustFail(t, channelMessage{}, run); failure.Code != template.CodeValidation || !strings.Contains(failure.Message, "no address") {
		t.Errorf("no address: %+v", failure)
	}
	run, _ = newChannelRun(server, "", map[string]any{"text": "Hello", channelParam: "other"})
	if _, failure := mustFail(t, channelMessage{}, run); failure.Code != template.CodeValidation || !strings.Contains(failure.Message, `must be one of "ops"`) {
		t.Errorf("another channel: %+v", failure)
	}
	if n := len(server.got()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}
