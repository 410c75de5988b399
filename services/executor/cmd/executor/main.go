// Command executor runs attempts that a registry leases to it.
package main

import (
	"os"

	"github.com/almanac-scheduler/almanac/pkg/telemetry"
	"github.com/almanac-scheduler/almanac/services/executor"
)

func main() {
	telemetry.CollectLessOften()
	if executor.Command().Execute() != nil {
		os.Exit(1)
	}
}
