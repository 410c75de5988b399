// Command executor runs attempts that a registry leases to it.
package main

import (
	"os"

	"github.com/almanac-scheduler/almanac/services/executor"
)

func main() {
	if executor.Command().Execute() != nil {
		os.Exit(1)
	}
}
