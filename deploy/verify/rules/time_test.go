package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Reading and waiting on the real clock, as functions of package time.
var (
	reading = []string{"Now", "Since", "Until"}
	waiting = []string{"Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
)

// realTime lists the folders whose tests may use the real clock, and why.
var realTime = map[string]struct {
	functions []string
	reason    string
}{
	"deploy/":                             {slices.Concat(reading, waiting), "starts, measures and kills real processes"},
	"services/executor/internal/children": {reading, "measures how soon real child processes are killed"},
}

// TestTestsOwnNoTime keeps tests quick and sure: they wait on signals, or in
// the fake time of testing/synctest, and never on the real clock. (The linter
// looks after all other code.)
func TestTestsOwnNoTime(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		found, err := realTimeUses(name, path, nil)
		for _, use := range found {
			t.Errorf("%s: tests wait on signals or in the fake time of testing/synctest, which this file does not import", use)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// realTimeUses returns where a test file uses the real clock without leave.
// The source is that of the file at path when src is nil.
func realTimeUses(name, path string, src any) ([]string, error) {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, path, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	imported := map[string]bool{}
	for _, i := range file.Imports {
		imported[strings.Trim(i.Path.Value, `"`)] = true
	}
	if !imported["time"] || imported["testing/synctest"] {
		return nil, nil
	}
	forbidden := slices.Concat(reading, waiting)
	for folder, leave := range realTime {
		if strings.HasPrefix(name, folder) {
			forbidden = slices.DeleteFunc(forbidden, func(f string) bool { return slices.Contains(leave.functions, f) })
		}
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := selector.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(forbidden, selector.Sel.Name) {
			found = append(found, fmt.Sprintf("%s:%d: time.%s", name, positions.Position(n.Pos()).Line, selector.Sel.Name))
		}
		return true
	})
	return found, nil
}

func TestRealTimeUses(t *testing.T) {
	const sleeps = "package a\nimport \"time\"\nfunc f() {\n\ttime.Sleep(1)\n\t_ = time.Now()\n\t_ = time.UTC\n}\n"
	bubble := strings.Replace(sleeps, "import", "import \"testing/synctest\"\nimport", 1)
	for _, c := range []struct {
		name, src string
		want      []string
	}{
		{"pkg/a_test.go", sleeps, []string{"pkg/a_test.go:4: time.Sleep", "pkg/a_test.go:5: time.Now"}},
		{"pkg/a_test.go", bubble, nil},
		{"deploy/local/a_test.go", sleeps, nil},
		{"services/executor/internal/children/a_test.go", sleeps, []string{"services/executor/internal/children/a_test.go:4: time.Sleep"}},
	} {
		got, err := realTimeUses(c.name, c.name, c.src)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}
