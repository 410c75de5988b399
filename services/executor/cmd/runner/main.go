// Command runner is the child process that holds the shipped templates and runs
// one attempt at a time. An executor starts it.
package main

import (
	"os"

	"github.com/almanac-scheduler/almanac/pkg/template/runner"
	"github.com/almanac-scheduler/almanac/services/executor/internal/builtin"
)

func main() { os.Exit(runner.Main(builtin.Templates()...)) }
