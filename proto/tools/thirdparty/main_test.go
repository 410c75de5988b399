package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestRunReplacesTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "third_party")
	stale := filepath.Join(dir, "old", "stale.proto")
	if err := os.MkdirAll(filepath.Dir(stale), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("a file of an earlier run is still there: %v", err)
	}
	// A root, and a file that only a root imports.
	for name, want := range map[string]string{
		"buf/validate/validate.proto": "message FieldRules {",
		"google/api/http.proto":       "message HttpRule {",
	} {
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, or no %q in it", name, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "google", "protobuf")); !os.IsNotExist(err) {
		t.Errorf("files that every compiler has were written: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"no directory":       nil,
		"two directories":    {"a", "b"},
		"a folder in a file": {filepath.Join(file, "below")},
		"an empty name":      {""},
	} {
		if err := run(args); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestClosureNamesWhatNoPackageDescribes(t *testing.T) {
	_, err := closure(protoregistry.GlobalFiles, []string{"no/such.proto"})
	if err == nil || !strings.Contains(err.Error(), "no/such.proto") {
		t.Errorf("got %v", err)
	}
}
