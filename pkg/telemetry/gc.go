package telemetry

import (
	"os"
	"runtime/debug"
)

// CollectLessOften lets the heap of a service grow to five times what lives
// before it is collected, where Go's default is twice. A scheduler's live heap is
// small and its garbage comes in bursts, just when many runs are due at once; the
// collector would take its share of the cores then. GOGC and GOMEMLIMIT keep
// their meaning: an operator who sets GOGC decides.
func CollectLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
