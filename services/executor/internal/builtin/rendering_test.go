package builtin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template/templatetest"
)

func TestRendering(t *testing.T) {
	run, _ := templatetest.NewRun(nil)
	run.JobName, run.Attempt = "Nightly <b>", 2
	run.Zone = time.FixedZone("", 7200)
	v := viewOf(run, map[string]any{
		"n": 1e6, "half": 0.5, "name": "Ann & Bob", "none": nil, "list": []any{"a", 2.0}, "inner": map[string]any{"x": "y"},
	})
	for name, c := range map[string]struct{ text, strict, lenient, html string }{
		"no template":      {"plain text", "plain text", "plain text", "plain text"},
		"only a comment":   {"{{/* nothing */}}", "", "", ""},
		"facts":            {"{{.JobName}} {{.Attempt}} {{.ScheduledFor}}", "Nightly <b> 2 2025-10-19T04:00:00+02:00", "Nightly <b> 2 2025-10-19T04:00:00+02:00", "Nightly &lt;b&gt; 2 2025-10-19T04:00:00&#43;02:00"},
		"time's methods":   {`{{.ScheduledFor.Format "2006"}}`, "2025", "2025", "2025"},
		"data":             {"{{.Data.n}} {{.Data.half}} {{.Data.name}} {{.Data.inner.x}}", "1000000 0.5 Ann & Bob y", "1000000 0.5 Ann & Bob y", "1000000 0.5 Ann &amp; Bob y"},
		"numbers compare":  {"{{if gt .Data.n 3}}more{{end}}", "more", "more", "more"},
		"loop":             {"{{range $i, $x := .Data.list}}{{$i}}{{$x}};{{else}}none{{end}}", "0a;12;", "0a;12;", "0a;12;"},
		"missing":          {"[{{.Data.absent}}]", "FAIL map has no entry for key", "[]", "[]"},
		"missing within":   {"[{{.Data.absent.x}}]", "FAIL map has no entry", "[]", "[]"},
		"missing loop":     {"{{range .Data.absent}}x{{else}}none{{end}}", "FAIL map has no entry", "none", "none"},
		"missing, nested":  {"{{if true}}{{with .Data}}{{range .list}}{{$.Data.absent}}{{end}}{{end}}{{end}}", "FAIL map has no entry", "", ""},
		"null":             {"[{{.Data.none}}]", "[<no value>]", "[]", "[]"},
		"functions":        {`{{upper "a"}}{{lower "B"}}{{trim " c "}}`, "Abc", "Abc", "Abc"},
		"json":             {`{{json .Data.inner}}`, `{"x":"y"}`, `{"x":"y"}`, "{&#34;x&#34;:&#34;y&#34;}"},
		"variable":         {`{{$x := "a"}}{{$x = "b"}}{{$x}}`, "b", "b", "b"},
		"part":             {`{{define "p"}}[{{.}}]{{end}}{{template "p" .Data.name}}`, "[Ann & Bob]", "[Ann & Bob]", "[Ann &amp; Bob]"},
		"no such field":    {"{{.Nothing}}", "FAIL can't evaluate field Nothing", "FAIL can't evaluate field Nothing", "FAIL can't evaluate field Nothing"},
		"no such function": {"{{env}}", `FAIL function "env" not defined`, `FAIL function "env" not defined`, `FAIL function "env" not defined`},
		"not closed":       {"{{if .Data}}", "FAIL unexpected EOF", "FAIL unexpected EOF", "FAIL unexpected EOF"},
		"attribute":        {`<a title="{{.Data.name}}" href="{{"javascript:x"}}">`, `<a title="Ann & Bob" href="javascript:x">`, `<a title="Ann & Bob" href="javascript:x">`, `<a title="Ann &amp; Bob" href="#ZgotmplZ">`},
		"endless loop":     {"{{range 9000000000}}{{end}}", "FAIL too many steps", "FAIL too many steps", "FAIL too many steps"},
		"endless part":     {`{{define "p"}}{{template "p"}}{{template "p"}}{{end}}{{template "p"}}`, "FAIL too many steps", "FAIL too many steps", "FAIL too many steps"},
		"parts that multiply": {
			`{{define "a"}}{{range 999}}{{template "b"}}{{end}}{{end}}{{define "b"}}{{range 999}}{{end}}{{range 999}}{{end}}{{end}}{{template "a"}}`,
			"FAIL too many steps", "FAIL too many steps", "FAIL too many steps",
		},
		"too long":         {"{{range 99}}xxxxxxxxxxxxxxxxxxxx{{end}}", "FAIL too long", "FAIL too long", "FAIL too long"},
		"too long at once": {strings.Repeat("x", 1001), "FAIL too long", "FAIL too long", "FAIL too long"},
	} {
		for mode, one := range map[string]struct {
			render func(context.Context, string, any, int) (string, error)
			want   string
		}{"strict": {renderBodyText, c.strict}, "lenient": {renderLenient, c.lenient}, "html": {renderHTML, c.html}} {
			got, err := one.render(t.Context(), c.text, v, 1000)
			if said, fails := strings.CutPrefix(one.want, "FAIL "); fails {
				if err == nil || !strings.Contains(err.Error(), said) || strings.Contains(err.Error(), "_step") || strings.Contains(err.Error(), "template: template") {
					t.Errorf("%s, %s: got %q, %v", name, mode, got, err)
				}
			} else if got != one.want || err != nil {
				t.Errorf("%s, %s: got %q, %v, want %q", name, mode, got, err, one.want)
			}
		}
	}
}

func TestRenderingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, render := range map[string]func(context.Context, string, any, int) (string, error){"strict": renderBodyText, "lenient": renderLenient, "html": renderHTML} {
		if got, err := render(ctx, "{{range 10}}{{end}}", nil, 100); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}
