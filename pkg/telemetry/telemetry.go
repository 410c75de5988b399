// Package telemetry sets up what a process says about itself: structured logs
// on its standard error.
package telemetry

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger that writes to w, which must be safe for
// concurrent use if anything else writes to it. The format is "json" (one object
// a line, for machines) or "console" (for people); the level is debug, info,
// warn or error. Times are UTC, RFC 3339 with microseconds.
func NewLogger(w io.Writer, format, level string) (*zap.Logger, error) {
	var least zapcore.Level
	switch level {
	case "debug", "info", "warn", "error":
		if err := least.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("log level %q: %w", level, err)
		}
	default:
		return nil, fmt.Errorf("log level %q: must be debug, info, warn or error", level)
	}
	fields := zap.NewProductionEncoderConfig()
	fields.TimeKey, fields.MessageKey = "time", "message"
	fields.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z07:00")
	fields.EncodeDuration = zapcore.SecondsDurationEncoder
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(fields)
	case "console":
		fields.EncodeLevel = zapcore.CapitalLevelEncoder
		fields.EncodeDuration = zapcore.StringDurationEncoder
		encoder = zapcore.NewConsoleEncoder(fields)
	default:
		return nil, fmt.Errorf("log format %q: must be json or console", format)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), least)
	return zap.New(core, zap.WithClock(utcClock{zapcore.DefaultClock}), zap.AddStacktrace(zapcore.DPanicLevel)), nil
}

// utcClock keeps the machine's zone out of the logs.
type utcClock struct{ zapcore.Clock }

// Now returns the present time in UTC.
func (c utcClock) Now() time.Time { return c.Clock.Now().UTC() }
