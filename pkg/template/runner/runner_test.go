package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// TestMain also plays a runner program, for the tests that need a process.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "serve") {
		os.Exit(Main(sample{}))
	}
	os.Exit(m.Run())
}

// sample does what its parameter says.
type sample struct{}

func (sample) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type: "sample", Version: 1, Name: "Sample", Description: "Does what it is told", Category: "test", Icon: "x", EstimatedDuration: "-",
		ResourceUsage: "low", RiskLevel: "low", Restricted: []string{"place"},
	}
}

func (sample) Schema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{
		"do": map[string]any{"type": "string"}, "place": map[string]any{"type": "string"},
	}}
}

func (sample) ValidateParams(params map[string]any) error {
	if params["do"] == "refuse" {
		return template.BadParam("do", "is refused")
	}
	return nil
}

var leftBehind = make(chan template.Reporter, 1)

func (sample) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	switch run.Params["do"] {
	case "tell":
		return template.Result{
			"message": "told", "zone": run.Zone.String(), "at": run.ScheduledFor, "job": run.JobName, "attempt": run.Attempt,
			"organisation": run.Organisation, "connections": len(run.Connections), "place": run.Params["place"], "previous": run.Previous["message"],
		}, nil
	case "wait":
		run.Report.Log("INFO", "waiting")
		<-ctx.Done()
		return template.Result{"message": "half"}, template.Retryable("connection", "interrupted: %w", ctx.Err())
	case "finish anyway":
		<-ctx.Done()
		return template.Result{"message": "done"}, nil
	case "panic":
		panic("boom")
	case "large":
		return template.Result{"message": strings.Repeat("x", MaxResultBytes)}, nil
	case "unfit":
		return template.Result{"message": func() {}}, nil
	case "error":
		return template.Result{"message": "some"}, errors.New("plain")
	case "talk":
		run.Report.Log("LOUD", strings.Repeat("y", maxLineBytes+1))
		run.Report.Progress(1, 2, strings.Repeat("z", maxLineBytes+1))
		leftBehind <- run.Report
	}
	return template.Result{"message": "done"}, nil
}

type silent struct{}

func (silent) Log(string, string)            {}
func (silent) Progress(int64, int64, string) {}

func compiled(t testing.TB) *template.Compiled {
	t.Helper()
	c, err := template.Compile(sample{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func params(do string) json.RawMessage { return json.RawMessage(`{"do":"` + do + `"}`) }

func TestExecute(t *testing.T) {
	c := compiled(t)
	for name, test := range map[string]struct {
		run  Run
		want Result
	}{
		"success":       {Run{Params: params("nothing")}, Result{Status: "success", Result: json.RawMessage(`{"message":"done"}`)}},
		"no parameters": {Run{}, Result{Status: "success", Result: json.RawMessage(`{"message":"done"}`)}},
		"no JSON":       {Run{Params: json.RawMessage("[1]")}, Result{Status: "failed", ErrorCode: "validation", Error: "JSON object"}},
		"schema":        {Run{Params: json.RawMessage(`{"other":1}`)}, Result{Status: "failed", ErrorCode: "validation", Error: "other"}},
		"own check":     {Run{Params: params("refuse")}, Result{Status: "failed", ErrorCode: "validation", Error: "do: is refused"}},
		"restricted": {
			Run{Params: json.RawMessage(`{"place":"there"}`), Allowed: map[string][]string{"place": {"here"}}},
			Result{Status: "failed", ErrorCode: "validation", Error: `must be one of "here"`},
		},
		"zone":  {Run{Params: params("nothing"), Timezone: "Mars/Phobos"}, Result{Status: "failed", ErrorCode: "validation", Error: "Mars/Phobos"}},
		"error": {Run{Params: params("error")}, Result{Status: "failed", ErrorCode: "internal", Error: "plain", Result: json.RawMessage(`{"message":"some"}`)}},
		"panic": {Run{Params: params("panic")}, Result{Status: "failed", ErrorCode: "panic", Error: "boom"}},
		"large": {Run{Params: params("large")}, Result{Status: "failed", ErrorCode: "limit", Error: "1024"}},
		"unfit": {Run{Params: params("unfit")}, Result{Status: "failed", ErrorCode: "internal", Error: "not JSON"}},
		"time-out": {
			Run{Params: params("wait"), Timeout: time.Millisecond},
			Result{Status: "timed_out", ErrorCode: "timeout", Error: "interrupted", Retryable: true, Result: json.RawMessage(`{"message":"half"}`)},
		},
		"success after the time-out": {Run{Params: params("finish anyway"), Timeout: time.Millisecond}, Result{Status: "success", Result: json.RawMessage(`{"message":"done"}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Execute(t.Context(), c, &test.run, silent{})
			if got.Status != test.want.Status || got.ErrorCode != test.want.ErrorCode || got.Retryable != test.want.Retryable ||
				!strings.Contains(got.Error, test.want.Error) || !bytes.Equal(got.Result, test.want.Result) {
				t.Errorf("result %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestExecuteHandsEverythingOver(t *testing.T) {
	at := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	want := `{"at":"2026-03-29T01:00:00Z","attempt":3,"connections":1,"job":"Nightly","message":"told","organisation":"org","place":"here","previous":"half","zone":"Europe/Berlin"}`
	for range 2 { // its zone is remembered
		got := Execute(t.Context(), compiled(t), &Run{
			Template: "sample", JobName: "Nightly", Organisation: "org", Attempt: 3, ScheduledFor: at, Timezone: "Europe/Berlin",
			Params: json.RawMessage(`{"do":"tell","place":"here"}`), Connections: map[string]template.Connection{"main": {}}, Allowed: map[string][]string{"place": {"here"}},
			Previous: json.RawMessage(`{"message":"half"}`),
		}, silent{})
		if string(got.Result) != want {
			t.Errorf("result %s, want %s", got.Result, want)
		}
	}
	if got := Execute(t.Context(), compiled(t), &Run{Params: json.RawMessage("{}"), Previous: json.RawMessage("[]")}, silent{}); got.ErrorCode != template.CodeInternal {
		t.Errorf("a previous result that is no object: %+v", got)
	}
}

// talk is a conversation with a runner in this process.
type talk struct {
	t    *testing.T
	in   io.WriteCloser
	out  io.Reader
	done chan error
}

func serve(t *testing.T) *talk {
	t.Helper()
	set, err := template.NewSet(sample{})
	if err != nil {
		t.Fatal(err)
	}
	childIn, in := io.Pipe()
	out, childOut := io.Pipe()
	c := &talk{t: t, in: in, out: out, done: make(chan error, 1)}
	var served sync.WaitGroup
	served.Go(func() {
		c.done <- Serve(t.Context(), childIn, childOut, set)
		_ = childOut.Close()
	})
	t.Cleanup(func() {
		_ = in.Close()
		_ = childIn.Close()
		_ = out.Close()
		served.Wait()
	})
	return c
}

func (c *talk) say(r Request) {
	c.t.Helper()
	if err := WriteFrame(c.in, r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *talk) hear() Reply {
	c.t.Helper()
	var r Reply
	if err := ReadFrame(c.out, &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func TestServe(t *testing.T) {
	c := serve(t)
	c.say(Request{Setup: &Setup{}})
	if h := c.hear().Hello; h == nil || !slices.Equal(h.Isolation, []string{"process"}) {
		t.Errorf("hello %v", h)
	}
	c.say(Request{Describe: true})
	if d := c.hear().Templates; len(d) != 1 || d[0].Descriptor.Type != "sample" || !slices.Equal(d[0].Descriptor.Restricted, []string{"place"}) || d[0].Schema["type"] != "object" {
		t.Errorf("described %v", d)
	}
	c.say(Request{Run: &Run{Template: "sample", Params: params("talk")}})
	if l := c.hear().Log; l == nil || l.Level != "INFO" || len(l.Message) != maxLineBytes+4 {
		t.Errorf("line %v", l)
	}
	if p := c.hear().Progress; p == nil || p.Done != 1 || p.Total != 2 || len(p.Message) != maxLineBytes+4 {
		t.Errorf("progress %v", p)
	}
	if r := c.hear().Result; r == nil || r.Status != StatusSuccess {
		t.Errorf("result %v", r)
	}
	(<-leftBehind).Log("INFO", "from beyond") // is not heard: the next frame is another run's
	c.say(Request{Cancel: true})              // too late, and ignored
	c.say(Request{Run: &Run{Template: "other"}})
	if r := c.hear().Result; r == nil || r.Status != StatusFailed || !strings.Contains(r.Error, `"other"`) {
		t.Errorf("result %v", r)
	}
	c.in.Close()
	if err := <-c.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeCancels(t *testing.T) {
	c := serve(t)
	c.say(Request{Run: &Run{Template: "sample", Params: params("wait")}})
	c.hear() // waiting
	c.say(Request{Cancel: true})
	if r := c.hear().Result; r == nil || r.Status != StatusCancelled || r.ErrorCode != "cancelled" || string(r.Result) != `{"message":"half"}` {
		t.Errorf("result %+v", r)
	}
}

func TestServeEnds(t *testing.T) {
	for name, test := range map[string]struct {
		upset func(*talk)
		want  string
	}{
		"executor gone during a run": {func(c *talk) {
			c.say(Request{Run: &Run{Template: "sample", Params: params("wait")}})
			c.hear()
			c.in.Close()
		}, "gone during a run"},
		"two runs": {func(c *talk) {
			c.say(Request{Run: &Run{Template: "sample", Params: params("wait")}})
			c.hear()
			c.say(Request{Run: &Run{Template: "sample"}})
		}, "only cancel"},
		"empty request": {func(c *talk) { c.say(Request{}) }, "none of"},
		"no JSON":       {func(c *talk) { _, _ = c.in.Write([]byte{0, 0, 0, 1, '{'}) }, "frame"},
		"huge frame":    {func(c *talk) { _, _ = c.in.Write([]byte{255, 0, 0, 0}) }, "at most"},
		"half a frame":  {func(c *talk) { _, _ = c.in.Write([]byte{0, 0, 0, 9, '{'}); c.in.Close() }, "unexpected EOF"},
		"half a length": {func(c *talk) { _, _ = c.in.Write([]byte{0, 0}); c.in.Close() }, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t)
			test.upset(c)
			if err := <-c.done; err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Serve: %v, want %q", err, test.want)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		set, err := template.NewSet(sample{})
		if err != nil {
			t.Fatal(err)
		}
		in, kept := io.Pipe()
		t.Cleanup(func() { _ = kept.Close() })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Serve(ctx, in, io.Discard, set); !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, strings.Repeat("x", MaxFrameBytes)); err == nil || b.Len() != 0 {
		t.Errorf("an oversized frame: %v, %d bytes written", err, b.Len())
	}
	if err := WriteFrame(&b, func() {}); err == nil {
		t.Error("a function was framed")
	}
	if err := WriteFrame(broken{}, 1); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken pipe: %v", err)
	}
	if err := ReadFrame(&b, new(int)); !errors.Is(err, io.EOF) {
		t.Errorf("an empty stream: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestMainServes runs this binary as a runner program in a process of its own,
// with limits that a test binary can live with.
func TestMainServes(t *testing.T) {
	command := exec.CommandContext(t.Context(), os.Args[0], "serve")
	command.Env = []string{}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		command.Env = []string{"GOCOVERDIR=" + dir}
	}
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	command.Stderr = &printed
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	c := &talk{t: t, in: in, out: out}
	c.say(Request{Setup: &Setup{OpenFiles: 100, CPUSeconds: 60, Dir: t.TempDir()}})
	if h := c.hear().Hello; h == nil || !slices.Contains(h.Isolation, "rlimits") {
		t.Errorf("hello %v", h)
	}
	c.say(Request{Run: &Run{Template: "sample", Params: params("nothing")}})
	if r := c.hear().Result; r == nil || r.Status != StatusSuccess {
		t.Errorf("result %v", r)
	}
	in.Close()
	if err := command.Wait(); err != nil {
		t.Errorf("the runner ended with %v: %s", err, printed.String())
	}
}

func TestMainRefuses(t *testing.T) {
	if code := Main(sample{}, sample{}); code != 1 {
		t.Errorf("code %d for two templates of one type", code)
	}
}

// BenchmarkExecute is what an attempt costs beside the template and the process.
func BenchmarkExecute(b *testing.B) {
	c := compiled(b)
	run := &Run{Template: "sample", Params: json.RawMessage("{}"), Timezone: "UTC", Timeout: time.Hour}
	b.ReportAllocs()
	for b.Loop() {
		if r := Execute(b.Context(), c, run, silent{}); r.Status != StatusSuccess {
			b.Fatal(r)
		}
	}
}

// fussy is a sample that refuses all settings but none.
type fussy struct{ sample }

func (fussy) SettingsSchema() map[string]any { return map[string]any{"type": "object"} }

func (fussy) ValidateSettings(settings map[string]any) error {
	switch {
	case settings["plain"] != nil:
		return errors.New("no")
	case len(settings) > 0:
		return template.BadParam("more", "is too much")
	}
	return nil
}

func TestDescribeTellsWhatIsWrongWithSettings(t *testing.T) {
	c, err := template.Compile(fussy{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		settings map[string]any
		want     []template.FieldError
	}{
		{nil, nil},
		{map[string]any{"more": 1}, []template.FieldError{{Field: "more", Message: "is too much"}}},
		{map[string]any{"plain": 1}, []template.FieldError{{Message: "no"}}},
	} {
		d := Describe(c, test.settings)
		if !slices.Equal(d.BadSettings, test.want) || d.Descriptor.Type != "sample" || d.Schema["type"] != "object" {
			t.Errorf("%v: described %+v, want %v", test.settings, d, test.want)
		}
	}
}
