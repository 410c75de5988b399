package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const profile = `mode: atomic
github.com/almanac-scheduler/almanac/pkg/a/one.go:1.1,2.2 3 0
github.com/almanac-scheduler/almanac/pkg/a/one.go:3.1,4.2 1 7
github.com/almanac-scheduler/almanac/pkg/b/two.go:1.1,2.2 4 0
github.com/almanac-scheduler/almanac/pkg/c/three.go:1.1,2.2 0 0
github.com/almanac-scheduler/almanac/proto/gen/almanac/v1/job.pb.go:1.1,2.2 1000 0
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunPrintsPackagesAndTotal(t *testing.T) {
	var out strings.Builder
	if err := run([]string{write(t, "p", profile)}, &out); err != nil {
		t.Fatal(err)
	}
	want := "  25.0 %      4  pkg/a\n   0.0 %      4  pkg/b\ncoverage: 12.5 % of 8 statements\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestRunCountsAStatementThatAnyProfileCovers(t *testing.T) {
	other := "mode: atomic\ngithub.com/almanac-scheduler/almanac/pkg/a/one.go:1.1,2.2 3 1\n"
	for _, order := range [][]string{{profile, other}, {other, profile}} {
		var out strings.Builder
		if err := run([]string{"-total", write(t, "p", order[0]), write(t, "q", order[1])}, &out); err != nil {
			t.Fatal(err)
		}
		if want := "coverage: 50.0 % of 8 statements\n"; out.String() != want {
			t.Errorf("printed %q, want %q", out.String(), want)
		}
	}
}

func TestRunHoldsTheLine(t *testing.T) {
	name := write(t, "p", profile)
	if err := run([]string{"-at-least", "12.5", name}, &strings.Builder{}); err != nil {
		t.Errorf("at the line: %v", err)
	}
	if err := run([]string{"-at-least", "12.6", name}, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "12.5 % is below the 12.6 %") {
		t.Errorf("below the line: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no profile":        {nil, "name at least one"},
		"a missing profile": {[]string{filepath.Join(t.TempDir(), "none")}, "no such file"},
		"an empty profile":  {[]string{write(t, "p", "mode: set\n")}, "no statement of ours"},
		"no block":          {[]string{write(t, "p", "mode: set\nhello\n")}, "line 2 is no coverage block"},
		"no statements":     {[]string{write(t, "p", "a.go:1.1,2.2 x 1\n")}, "line 1: number of statements"},
		"a negative count":  {[]string{write(t, "p", "a.go:1.1,2.2 1 -1\n")}, "line 1: count"},
		"an unknown flag":   {[]string{"-such"}, "not defined: -such"},
	} {
		if err := run(c.args, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}
