package rules

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is what a go.mod says.
type module struct {
	Module  struct{ Path string }
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Tool []struct{ Path string }

	// dir is where it is, absolute.
	dir string
}

// root is the top of the repository, two levels above this module.
const root = "../../.."

// modules reads every go.mod of the repository.
func modules(t *testing.T) []module {
	t.Helper()
	var all []module
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata"):
			return filepath.SkipDir
		case name != "go.mod":
			return nil
		}
		cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", path)
		out, err := cmd.Output()
		if err != nil {
			return explain(err)
		}
		var m module
		if err := json.Unmarshal(out, &m); err != nil {
			return err
		}
		m.dir, err = filepath.Abs(filepath.Dir(path))
		all = append(all, m)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// direct returns the modules that m itself asks for: what its code imports,
// and the tools it names.
func (m module) direct() map[string]string {
	wanted := map[string]string{}
	for _, r := range m.Require {
		isTool := false
		for _, tool := range m.Tool {
			isTool = isTool || tool.Path == r.Path || strings.HasPrefix(tool.Path, r.Path+"/")
		}
		if (!r.Indirect || isTool) && !strings.HasPrefix(r.Path, ours) {
			wanted[r.Path] = r.Version
		}
	}
	return wanted
}

func TestDependenciesHaveReasons(t *testing.T) {
	design, err := os.ReadFile(filepath.Join(root, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	users := map[string][]string{}
	for _, m := range modules(t) {
		for path := range m.direct() {
			users[path] = append(users[path], strings.TrimPrefix(m.Module.Path, ours))
		}
	}
	for path, version := range packages(t) {
		users[path] = append(users[path], "services/console")
		if strings.Trim(version, "0123456789.") != "" {
			t.Errorf("services/console asks for %s %s: name one version", path, version)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(users)) {
		if !reasoned(string(design), path) {
			t.Errorf("`%s` (%s): docs/design.md has no line that names it and says why it is needed", path, strings.Join(users[path], ", "))
		}
	}
}

// packages returns what the console asks for, with versions.
func packages(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "services", "console", "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Dependencies, DevDependencies map[string]string }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(file.Dependencies)
	maps.Copy(all, file.DevDependencies)
	if len(all) == 0 {
		t.Error("services/console asks for nothing: is this its package.json?")
	}
	return all
}

// reasoned reports whether a line of the document names the module, in
// backquotes, and says something about it.
func reasoned(document, module string) bool {
	for line := range strings.Lines(document) {
		if before, after, found := strings.Cut(line, "`"+module+"`"); found && len(strings.Fields(before+after)) >= 5 {
			return true
		}
	}
	return false
}

func TestReasoned(t *testing.T) {
	for document, want := range map[string]bool{
		"":                                    false,
		"| `a.b/c` | |\n":                     false,
		"| a.b/c | parses the expressions |":  false,
		"| `a.b/c/v2` | parses expressions |": false,
		"text\n| `a.b/c` | parses cron expressions |\nmore": true,
	} {
		if got := reasoned(document, "a.b/c"); got != want {
			t.Errorf("reasoned(%q) = %v", document, got)
		}
	}
}

// TestVersionsAgree keeps what containers build, module by module, the same as
// what the workspace tests. The stand-in is no part of the product and follows
// the database that it wraps; tools follow nobody.
func TestVersionsAgree(t *testing.T) {
	type use struct{ version, by string }
	first := map[string]use{}
	for _, m := range modules(t) {
		if len(m.Tool) > 0 || strings.HasSuffix(m.dir, "/deploy/standin") {
			continue
		}
		for path, version := range m.direct() {
			switch known, seen := first[path]; {
			case !seen:
				first[path] = use{version, m.Module.Path}
			case known.version != version:
				t.Errorf("%s requires %s %s, but %s requires %s", m.Module.Path, path, version, known.by, known.version)
			}
		}
	}
}
