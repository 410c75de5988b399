// Command reference prints docs/templates.md: what the shipped templates say of
// themselves, for people.
package main

import (
	"fmt"
	"os"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/services/executor/internal/builtin"
)

func main() {
	set, err := template.NewSet(builtin.Templates()...)
	if err == nil {
		var text string
		if text, err = document(set.List()); err == nil {
			_, err = os.Stdout.WriteString(text)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}
