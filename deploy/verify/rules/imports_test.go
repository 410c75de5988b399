package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ours begins the import path of every package of this repository.
const ours = "github.com/almanac-scheduler/almanac/"

const (
	grpc      = `^google\.golang\.org/grpc(/|$)`
	generated = `^` + ours + `proto/gen/`
	drivers   = `^(database/sql(/driver)?$|modernc\.org/sqlite|zombiezen\.com/go/sqlite|go\.mongodb\.org/mongo-driver)`
)

// rule says what some packages may not import directly.
type rule struct {
	// of matches the packages it is for; except, when set, those it is not for.
	of, except string
	// never matches what they may not import; but, when set, what they may
	// all the same.
	never, but string
	// tests says that their tests may not either.
	tests  bool
	reason string
}

var rules = []rule{
	{
		of: `pkg/schedule(/|$)`, never: `^` + ours, but: `^` + ours + `pkg/schedule(/|$)`,
		reason: "when a job is due is arithmetic on its own: everything may use it, so it uses nothing of ours",
	},
	{
		of: `pkg/`, never: `^` + ours + `(services|deploy)/`, tests: true,
		reason: "pkg is what other people's templates and clients import; it must not bring the services with it",
	},
	{
		of: `services/registry/internal/job$`, never: `^` + ours, but: `^` + ours + `pkg/schedule$`, tests: true,
		reason: "job is the vocabulary that all the others share, so it can depend on none of them",
	},
	{
		of: `services/registry/internal/dispatch(/|$)`, never: grpc + `|` + generated + `|` + drivers + `|^net/http$`, tests: true,
		reason: "decisions and the loop are simulated under a virtual clock; a stream or a driver inside could not be",
	},
	{
		of: `services/registry/internal/store$`, never: `^` + ours,
		but:    `^` + ours + `(pkg/schedule|services/registry/internal/job)$`,
		reason: "the interface speaks of jobs, not of those who store or call them",
	},
	{
		of: `services/registry/internal/store(/|$)`, never: grpc + `|` + generated + `|^net/http$`, tests: true,
		reason: "a store keeps what it is given; the protocol ends in api",
	},
	{
		of: ``, except: `services/registry$|services/registry/internal/store/sqlitestore|services/registry/internal/dispatch/sim`,
		never:  `^` + ours + `services/registry/internal/store/(sqlitestore|mongostore)$`,
		reason: "only the wiring knows which store is in use; the others see the interface",
	},
	{
		of: ``, except: `services/registry/internal/(store|standintest)(/|$)|deploy/(local|standin)(/|$)|services/executor(/|$)`,
		never: drivers, tests: true,
		reason: "a database's errors and types are translated inside its store (or, for the templates' own databases, inside the executor)",
	},
	{
		of: `services/executor/internal/builtin(/|$)`, never: `^` + ours, but: `^` + ours + `(pkg/template|services/executor/internal/builtin)(/|$)`, tests: true,
		reason: "the shipped templates are written as anybody's would be: against the SDK alone",
	},
	{
		of: `services/executor/internal/children(/|$)`, never: grpc + `|` + generated, tests: true,
		reason: "slots and child processes work without a registry, and are tested without one",
	},
	{
		of: ``, except: `pkg/rpc(/|$)|services/registry/internal/api(/|$)|services/executor/internal/session(/|$)|proto/|deploy/local(/|$)`,
		never:  grpc,
		reason: "the wire is known in one room of each service, so that it can change there",
	},
	{
		of: ``, except: `pkg/rpc(/|$)|services/registry/internal/api(/|$)|services/executor/internal/session(/|$)|proto/|deploy/local(/|$)`,
		never:  generated,
		reason: "messages are translated where they arrive; inside, the services speak their own types",
	},
	{
		of: `services/registry(/|$)`, never: `^` + ours + `services/executor(/|$)`, tests: true,
		reason: "the registry and the executor know each other by the protocol only, and are deployed apart",
	},
	{
		of: `services/executor(/|$)`, never: `^` + ours + `services/registry(/|$)`, tests: true,
		reason: "the registry and the executor know each other by the protocol only, and are deployed apart",
	},
	{
		of: `deploy/local(/|$)`, never: `^` + ours + `services/`, tests: true,
		reason: "whole-system tests judge the real binaries from outside",
	},
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// violation is one import that a rule forbids.
type violation struct{ importer, imported, reason string }

// check returns what p imports against r, a nil slice when p is free to.
func check(r rule, p listed) []violation {
	name := strings.TrimPrefix(p.ImportPath, ours)
	if !regexp.MustCompile(`^(`+r.of+`)`).MatchString(name) || r.except != "" && regexp.MustCompile(`^(`+r.except+`)`).MatchString(name) {
		return nil
	}
	imports := p.Imports
	if r.tests {
		imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
	}
	var found []violation
	for _, imported := range imports {
		if !regexp.MustCompile(r.never).MatchString(imported) || r.but != "" && regexp.MustCompile(r.but).MatchString(imported) {
			continue
		}
		found = append(found, violation{name, imported, r.reason})
	}
	return found
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		for _, r := range rules {
			for _, v := range check(r, p) {
				t.Errorf("%s imports %s\n\tbut %s", v.importer, v.imported, v.reason)
			}
		}
	}
}

// TestRulesBite shows for every rule an import that it finds: a mistyped
// pattern would let everything pass.
func TestRulesBite(t *testing.T) {
	const registry, executor = ours + "services/registry", ours + "services/executor"
	samples := [][2]string{
		{ours + "pkg/schedule", ours + "pkg/template"},
		{ours + "pkg/template", registry},
		{registry + "/internal/job", registry + "/internal/store"},
		{registry + "/internal/dispatch", "google.golang.org/grpc/codes"},
		{registry + "/internal/store", registry + "/internal/dispatch"},
		{registry + "/internal/store/storetest", "net/http"},
		{registry + "/internal/api", registry + "/internal/store/sqlitestore"},
		{registry + "/internal/api", "modernc.org/sqlite"},
		{executor + "/internal/builtin", ours + "pkg/rpc"},
		{executor + "/internal/children", "google.golang.org/grpc"},
		{registry + "/internal/access", "google.golang.org/grpc/metadata"},
		{registry + "/internal/access", ours + "proto/gen/almanac/v1"},
		{registry, executor},
		{executor, registry},
		{ours + "deploy/local/system", registry},
	}
	if len(samples) != len(rules) {
		t.Fatalf("%d samples for %d rules", len(samples), len(rules))
	}
	for i, s := range samples {
		p := listed{ImportPath: s[0], Imports: []string{"fmt", s[1]}}
		if got := check(rules[i], p); len(got) != 1 || got[0].imported != s[1] {
			t.Errorf("rule %d (%s): found %v in %v", i, rules[i].reason, got, p)
		}
		inTest := listed{ImportPath: s[0], Imports: []string{"fmt"}, XTestImports: []string{s[1]}}
		if got := check(rules[i], inTest); (len(got) == 1) != rules[i].tests {
			t.Errorf("rule %d (%s): found %v in tests %v", i, rules[i].reason, got, inTest)
		}
	}
}

// list asks the go command about every package of every module.
func list(t *testing.T) []listed {
	t.Helper()
	var all []listed
	for _, m := range modules(t) {
		if len(m.Tool) > 0 {
			continue // holds versions of tools, no code
		}
		cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
		cmd.Dir = m.dir
		cmd.Env = append(cmd.Environ(), "GOWORK=off")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", m.dir, explain(err))
		}
		for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
			var p listed
			err := decoder.Decode(&p)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", m.dir, err)
			}
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only: %v", len(all), all)
	}
	return all
}

// explain adds what a command wrote on standard error.
func explain(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}
