package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMakeBucket has a data folder in one that is closed to others, as that of
// t.TempDir is.
func TestMakeBucket(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "data")
	open, err := os.MkdirTemp("", "almanac-test-") //nolint:usetesting // others may pass through it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(open); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(open, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", open)
	made := func(dir string) string {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s := &System{config: Config{Dir: dir}}
		if err := s.makeBucket(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(s.BucketDir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Fatalf("%s: %v, %v", s.BucketDir, info, err)
		}
		return s.BucketDir
	}
	inside := filepath.Join(open, "data")
	if got := made(inside); got != filepath.Join(inside, "bucket") || got != made(inside) {
		t.Errorf("where it can be reached: %s", got)
	}
	first := made(dir)
	if os.Getuid() != 0 { // runs are our own
		if first != filepath.Join(dir, "bucket") {
			t.Errorf("the bucket is %s", first)
		}
		return
	}
	if filepath.Dir(first) != open || made(dir) != first {
		t.Errorf("where it cannot be reached: %s", first)
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if second := made(dir); second == first || filepath.Dir(second) != open {
		t.Errorf("after its removal: %s", second)
	}
	t.Setenv("TMPDIR", closed)
	if err := (&System{config: Config{Dir: t.TempDir()}}).makeBucket(); err == nil || !strings.Contains(err.Error(), "TMPDIR") || !strings.Contains(err.Error(), closed) {
		t.Errorf("nowhere at all: %v", err)
	}
}
