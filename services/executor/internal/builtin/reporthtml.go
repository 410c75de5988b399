package builtin

import (
	"html/template"
	"io"
	"strconv"
)

// html writes one page that loads nothing and runs nothing. A person prints it
// as it is.
func (r *report) html(w io.Writer) error {
	page, err := template.New("report").Funcs(template.FuncMap{"n": shortNumber}).Parse(reportPage)
	if err != nil {
		return err
	}
	return page.Execute(w, struct {
		*report
		Drawings []titledDrawing
		Ink      string
		Grid     string
	}{r, r.drawings(), colorInk, colorGrid})
}

type titledDrawing struct {
	Title string
	drawing
}

func (r *report) drawings() []titledDrawing {
	drawn := make([]titledDrawing, len(r.Charts))
	for i, c := range r.Charts {
		drawn[i] = titledDrawing{c.Title, c.draw()}
	}
	return drawn
}

// shortNumber writes a coordinate.
func shortNumber(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

const reportPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ .Title }}, {{ .About }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #24292f; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0; } h2 { margin: 1.6em 0 0.4em; font-size: 1.15em; } .about { color: #57606a; margin-top: 0.2em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13em, 1fr)); gap: 0.6em; margin: 1.2em 0; }
dl div { border: 1px solid #d0d7de; border-radius: 6px; padding: 0.5em 0.8em; }
dt { color: #57606a; font-size: 0.85em; } dd { margin: 0; font-size: 1.35em; }
table { border-collapse: collapse; width: 100%; font-size: 0.9em; }
th, td { text-align: left; padding: 0.3em 0.6em; border-bottom: 1px solid #d0d7de; vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } footer { color: #57606a; font-size: 0.85em; margin-top: 2em; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } h2, svg, dl div, tr { break-inside: avoid; break-after: auto; } h2 { break-after: avoid; } }
</style>
</head>
<body>
<h1>{{ .Title }}</h1>
<p class="about">{{ .About }}</p>
<dl>{{ range .Figures }}
<div><dt>{{ .Name }}</dt><dd>{{ or .Value.Text "–" }}</dd></div>{{ end }}
</dl>
{{ range .Drawings }}<h2>{{ .Title }}</h2>
<svg viewBox="0 0 {{ n .Width }} {{ n .Height }}" role="img" aria-label="{{ .Title }}" font-family="system-ui, sans-serif" font-size="11">
{{ range .Lines }}<line x1="{{ n .X1 }}" y1="{{ n .Y1 }}" x2="{{ n .X2 }}" y2="{{ n .Y2 }}" stroke="{{ $.Grid }}"/>
{{ end }}{{ range .Boxes }}<rect x="{{ n .X }}" y="{{ n .Y }}" width="{{ n .W }}" height="{{ n .H }}" fill="{{ .Color }}"><title>{{ .About }}</title></rect>
{{ end }}{{ range .Texts }}<text x="{{ n .X }}" y="{{ n .Y }}" text-anchor="{{ .Anchor }}" fill="{{ $.Ink }}">{{ .Text }}</text>
{{ end }}</svg>
{{ end }}{{ range .Tables }}<h2>{{ .Title }}</h2>
{{ if .Rows }}<table>
<thead><tr>{{ $table := . }}{{ range $i, $name := .Columns }}<th{{ if $table.Numeric $i }} class="number"{{ end }}>{{ $name }}</th>{{ end }}</tr></thead>
<tbody>{{ range .Rows }}
<tr>{{ range . }}<td{{ if .Numeric }} class="number"{{ end }}>{{ .Text }}</td>{{ end }}</tr>{{ end }}
</tbody>
</table>{{ else }}<p>{{ .None }}</p>{{ end }}
{{ end }}<footer>Made by the job “{{ .Job }}” for {{ .ScheduledFor }}.</footer>
</body>
</html>
`
