package runner

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Bounds of what travels between an executor and a runner, in bytes of JSON.
const (
	MaxFrameBytes  = 4 << 20
	MaxResultBytes = 1 << 20
)

// Request is a frame from the executor; exactly one of the fields but Settings
// is set.
type Request struct {
	Setup    *Setup `json:"setup,omitempty"`
	Describe bool   `json:"describe,omitempty"`
	Run      *Run   `json:"run,omitempty"`
	Cancel   bool   `json:"cancel,omitempty"`
	// Settings go with Describe: what the executor's configuration says to each
	// template, by type.
	Settings map[string]map[string]any `json:"settings,omitempty"`
}

// Reply is a frame from the runner; exactly one field is set.
type Reply struct {
	Hello     *Hello        `json:"hello,omitempty"`
	Templates []Description `json:"templates,omitempty"`
	Log       *Line         `json:"log,omitempty"`
	Progress  *Progress     `json:"progress,omitempty"`
	Result    *Result       `json:"result,omitempty"`
}

// Setup is how the runner is to confine itself. What is zero is not limited.
type Setup struct {
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	CPUSeconds  int64 `json:"cpu_seconds,omitempty"` // of each run
	OpenFiles   int64 `json:"open_files,omitempty"`
	UID         int   `json:"uid,omitempty"` // the user and group to become, which only root can
	GID         int   `json:"gid,omitempty"`
	// Dir is the folder where runs may write. Without it the file system is not
	// restricted.
	Dir string `json:"dir,omitempty"`
	// Folders are others where runs may read and write. The user that the runner
	// becomes must be able to.
	Folders []string `json:"folders,omitempty"`
}

// Hello says what is in force, in words for the record of each run: always
// "process"; "rlimits", "user", "landlock" and "no_new_privs" as far as the
// system allows.
type Hello struct {
	Isolation []string `json:"isolation"`
}

// Description is what a runner says of one of its templates.
type Description struct {
	Descriptor template.Descriptor `json:"descriptor"`
	Schema     map[string]any      `json:"schema"`
	// Settings are the given ones with their defaults, Restricted the values to
	// which they restrict parameters, and BadSettings what is wrong with them.
	Settings    map[string]any        `json:"settings,omitempty"`
	Restricted  map[string][]string   `json:"restricted,omitempty"`
	BadSettings []template.FieldError `json:"bad_settings,omitempty"`
}

// Run asks for one attempt.
type Run struct {
	Template     string          `json:"template"`
	ExecutionID  string          `json:"execution_id"`
	JobID        string          `json:"job_id"`
	JobName      string          `json:"job_name"`
	Organisation string          `json:"organisation,omitempty"`
	TriggeredBy  string          `json:"triggered_by"`
	Attempt      int             `json:"attempt"`
	ScheduledFor time.Time       `json:"scheduled_for"`
	Timezone     string          `json:"timezone"` // IANA name; "" is UTC
	Params       json.RawMessage `json:"params,omitempty"`
	Previous     json.RawMessage `json:"previous,omitempty"` // JSON object or nothing
	Timeout      time.Duration   `json:"timeout,omitempty"`  // nanoseconds; 0 is none
	// Connections, Allowed and Settings are those of template.Run.
	Connections map[string]template.Connection `json:"connections,omitempty"`
	Allowed     map[string][]string            `json:"allowed,omitempty"`
	Settings    map[string]any                 `json:"settings,omitempty"`
}

// Line is one line of a run's log. It carries no time: the executor's clock
// stamps it on arrival.
type Line struct {
	Level   string `json:"level"` // DEBUG, INFO, WARN or ERROR
	Message string `json:"message"`
}

// Progress is how far a run says it is. Total is 0 when unknown.
type Progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total,omitempty"`
	Message string `json:"message,omitempty"`
}

// How an attempt can end in the runner's eyes.
const (
	StatusSuccess   = "success"
	StatusFailed    = "failed"
	StatusTimedOut  = "timed_out"
	StatusCancelled = "cancelled"
	// StatusCrashed is the executor's word for a runner that ended before the
	// attempt did.
	StatusCrashed = "crashed"
)

// ErrCancelled is the cause of an attempt's context that ended because somebody
// cancelled the run: the template is asked to stop, and killed when it does not.
// At any other cause the attempt is killed at once.
var ErrCancelled = errors.New("the run was cancelled")

// CodePanic is the error code of a template that panicked. Its process is not
// used again.
const CodePanic = "panic"

// Result is how an attempt ended.
type Result struct {
	Status    string          `json:"status"`
	Result    json.RawMessage `json:"result,omitempty"` // a JSON object, or nil
	Error     string          `json:"error,omitempty"`  // a sentence
	ErrorCode string          `json:"error_code,omitempty"`
	Retryable bool            `json:"retryable,omitempty"`
}

// WriteFrame writes one frame by a single Write. It fails when the frame would
// exceed MaxFrameBytes; nothing is written then.
func WriteFrame(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	if len(body) > MaxFrameBytes {
		return fmt.Errorf("frame of %d bytes: at most %d are permitted", len(body), MaxFrameBytes)
	}
	frame := make([]byte, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	copy(frame[4:], body)
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame. It returns io.EOF when the stream ends between two
// frames and another error when it ends inside one, or when the frame is larger
// than MaxFrameBytes or no JSON.
func ReadFrame(r io.Reader, message any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("frame: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxFrameBytes {
		return fmt.Errorf("frame of %d bytes: at most %d are permitted", n, MaxFrameBytes)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}
