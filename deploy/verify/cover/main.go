// Command cover sums up coverage profiles.
//
// The same statement appears in many profiles: in the one of its own package's
// tests, in those of packages that call it and in those of the real binaries.
// It counts as covered when any of them ran it. Generated code is left out.
//
// Usage: cover [-total] [-at-least percent] <profile>...
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// ours is cut from the printed names.
const ours = "github.com/almanac-scheduler/almanac/"

// generated is nobody's to test.
const generated = ours + "proto/gen/"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cover:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("cover", flag.ContinueOnError)
	total := flags.Bool("total", false, "print the total only")
	atLeast := flags.Float64("at-least", 0, "fail below this `percentage`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("name at least one coverage profile")
	}
	blocks := map[string]block{}
	for _, name := range flags.Args() {
		if err := readFile(name, blocks); err != nil {
			return err
		}
	}
	packages, sum := summarise(blocks)
	if sum.statements == 0 {
		return errors.New("the profiles name no statement of ours")
	}
	if !*total {
		for _, name := range slices.Sorted(maps.Keys(packages)) {
			if packages[name].statements == 0 {
				continue // declarations only
			}
			fmt.Fprintf(out, "%6.1f %%  %5d  %s\n", packages[name].percent(), packages[name].statements, strings.TrimPrefix(name, ours))
		}
	}
	fmt.Fprintf(out, "coverage: %.1f %% of %d statements\n", sum.percent(), sum.statements)
	if sum.percent() < *atLeast {
		return fmt.Errorf("%.1f %% is below the %g %% that this project holds; `make cover` shows where it is missing", sum.percent(), *atLeast)
	}
	return nil
}
