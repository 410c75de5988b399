package system

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestDemo runs the demo as `make demo` does.
func TestDemo(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "almanac-local"), "demo")
	folder := temporary(t)
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "FAIL") || !regexp.MustCompile(`\n[1-9][0-9] checks, all good, in `).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(folder, "almanac-demo-*")); err != nil || len(left) != 0 && !t.Failed() {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// TestDemoInterrupted stops it in the middle, as Ctrl-C does.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	folder := temporary(t)
	printed, err := os.Create(filepath.Join(folder, "printed"))
	if err != nil {
		t.Fatal(err)
	}
	defer printed.Close()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "almanac-local"), "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+folder)
	cmd.Stdout, cmd.Stderr = printed, printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	within(t, soon, func(context.Context) error {
		content, err := os.ReadFile(printed.Name())
		if err == nil && !strings.Contains(string(content), "  ok  ") {
			err = errors.New("it has not shown anything")
		}
		return err
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	within(t, soon, func(context.Context) error {
		select {
		case err := <-done:
			if err == nil {
				t.Error("it ended as if all had been shown")
			}
			return nil
		default:
			return errors.New("it goes on")
		}
	})
	if left, err := filepath.Glob(filepath.Join(folder, "almanac-demo-*")); err != nil || len(left) != 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// temporary returns a folder that runs can pass through, unlike that of t.TempDir.
func temporary(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "almanac-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	return folder
}
