package telemetry

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestJSONLines(t *testing.T) {
	var out bytes.Buffer
	logger, err := NewLogger(&out, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	logger.Debug("not this")
	logger.Info("Job 'a' failed", zap.String("job_id", "job_1"), zap.Duration("duration", 1500*time.Millisecond))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1 {
		t.Fatalf("%d lines, want 1: %s", len(lines), out.String())
	}
	var line struct {
		Time     time.Time
		Level    string
		Message  string
		JobID    string `json:"job_id"`
		Duration float64
	}
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "info" || line.Message != "Job 'a' failed" || line.JobID != "job_1" || line.Duration != 1.5 {
		t.Errorf("logged %+v", line)
	}
	if line.Time.IsZero() || line.Time.Location() != time.UTC {
		t.Errorf("time %v, want one in UTC", line.Time)
	}
}

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	logger, err := NewLogger(&out, "console", "warn")
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("quiet")
	logger.Warn("loud")
	if got := out.String(); !strings.Contains(got, "WARN\tloud") || strings.Contains(got, "quiet") {
		t.Errorf("logged %q", got)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ format, level, want string }{
		{"xml", "info", `log format "xml": must be json or console`},
		{"json", "loud", `log level "loud": must be debug, info, warn or error`},
		{"json", "fatal", `log level "fatal": must be debug, info, warn or error`},
	} {
		if _, err := NewLogger(&bytes.Buffer{}, c.format, c.level); err == nil || err.Error() != c.want {
			t.Errorf("NewLogger(%s, %s) = %v, want %s", c.format, c.level, err, c.want)
		}
	}
}
