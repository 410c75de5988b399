// Command registry keeps job definitions, decides when they run, and leases
// their runs to executors.
package main

import (
	"context"
	"os"

	"github.com/almanac-scheduler/almanac/pkg/telemetry"
	"github.com/almanac-scheduler/almanac/services/registry"
)

func main() {
	telemetry.CollectLessOften()
	if registry.Command().ExecuteContext(context.Background()) != nil {
		os.Exit(1)
	}
}
