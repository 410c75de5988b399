package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBench measures at a small scale, where only the counting matters.
func TestBench(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	measure := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "almanac-local"), append([]string{"bench", "--dir", dir}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := measure("--jobs", "60", "--seconds", "2", "--slots", "100")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		" cores, ", "fsync of 4 KiB: p50 ",
		"backlog: 60 no-op", "executor's start to all recorded",
		"burst: 60 no-op", "all recorded after",
		"steady: 60 no-op", " 120, each a success at its only attempt",
		"each-second: 60 no-op", "120 in 2 s, each a success at its only attempt",
		"children: 60 test_scheduler", " runs/s ",
		"run-now: 60 runs", "request to the template's first line", "p99 ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
	if strings.Count(out, " 60, each a success at its only attempt") != 3 {
		t.Errorf("not all records were read back:\n%s", out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--only", "weather"}, `no part "weather", but backlog, burst, steady, each-second, children, run-now`},
		{[]string{"--jobs", "-1"}, "must be positive"},
	} {
		if out, err := measure(c.args...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, out)
		}
	}
}
