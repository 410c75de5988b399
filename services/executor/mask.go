package executor

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// mask replaces the secrets of a run's connections in all that the run says. A
// template should not tell them; an error of a library that it passes on might,
// and so might the trace of a crash.
type mask struct {
	secrets []string
	report  template.Reporter
}

func newMask(connections map[string]template.Connection, report template.Reporter) *mask {
	m := &mask{report: report}
	for _, connection := range connections {
		m.secrets = append(m.secrets, connection.Secrets()...)
	}
	return m
}

// text replaces the longer secrets first within each connection, for a URI
// contains its password.
func (m *mask) text(s string) string {
	for _, secret := range m.secrets {
		s = strings.ReplaceAll(s, secret, "***")
	}
	return s
}

// Log passes a line on.
func (m *mask) Log(level, message string) { m.report.Log(level, m.text(message)) }

// Progress passes progress on.
func (m *mask) Progress(done, total int64, message string) {
	m.report.Progress(done, total, m.text(message))
}

// result masks a result in place.
func (m *mask) result(r *runner.Result) {
	if r == nil || len(m.secrets) == 0 {
		return
	}
	r.Error = m.text(r.Error)
	if len(r.Result) == 0 {
		return
	}
	// Numbers stay as they are written, and so does everything else.
	decoder := json.NewDecoder(bytes.NewReader(r.Result))
	decoder.UseNumber()
	var decoded any
	if decoder.Decode(&decoded) != nil {
		return // the registry will not have it either
	}
	masked, changed := m.value(decoded)
	if !changed {
		return
	}
	if encoded, err := json.Marshal(masked); err == nil {
		r.Result = encoded
	}
}

// value masks every text within a JSON value.
func (m *mask) value(v any) (masked any, changed bool) {
	switch v := v.(type) {
	case string:
		s := m.text(v)
		return s, s != v
	case []any:
		for i := range v {
			inner, did := m.value(v[i])
			v[i], changed = inner, changed || did
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			inner, did := m.value(value)
			name := m.text(key)
			out[name], changed = inner, changed || did || name != key
		}
		return out, changed
	}
	return v, changed
}
