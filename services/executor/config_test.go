package executor

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

func TestFlagsOverEnvironmentOverFile(t *testing.T) {
	token := write(t, "token", "secret")
	path := write(t, "config.yaml", `
registries: [file:1, file:2]
labels: {zone: b}
bench_noop_max_concurrency: 3
name: from the file
slots: 1
grace: 10s
plaintext: true
connections:
  main: {kind: mongodb, uri_file: /run/secrets/uri, database: app}
allow:
  database_cleanup: {collection: [users, logs]}
templates:
  letter: {layouts: {plain: {file: /etc/plain}}, most: 3}
`)
	config, err := load(
		map[string]string{"config": path, "slots": "3", "labels": "zone=a,disk=ssd"},
		lookup(map[string]string{
			"ALMANAC_EXECUTOR_SLOTS": "2", "ALMANAC_EXECUTOR_NAME": "from the environment", "ALMANAC_EXECUTOR_TOKEN_FILE": token,
			"ALMANAC_EXECUTOR_BENCH_NOOP": "true", "ALMANAC_EXECUTOR_IN_PROCESS": "test_scheduler, other",
		}))
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Registries, want.Name, want.Slots, want.Grace, want.Plaintext = []string{"file:1", "file:2"}, "from the environment", 3, 10*time.Second, true
	want.Connections = map[string]Connection{"main": {Kind: "mongodb", URIFile: "/run/secrets/uri", Database: "app"}}
	want.Allow = map[string]map[string][]string{"database_cleanup": {"collection": {"users", "logs"}}}
	want.Templates = map[string]map[string]any{"letter": {"layouts": map[string]any{"plain": map[string]any{"file": "/etc/plain"}}, "most": 3}}
	want.Labels = map[string]string{"zone": "a", "disk": "ssd"}
	want.BenchNoopMaxConcurrency = 3
	want.TokenFile, want.BenchNoop, want.InProcess = token, true, []string{"test_scheduler", "other"}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("config %+v\nwant   %+v", config, want)
	}
}

func TestConfigFileByEnvironmentAndJSON(t *testing.T) {
	token := write(t, "token", "secret")
	path := write(t, "config.json", `{"registries": ["r:1"], "token_file": "`+token+`", "kill_grace": "1s"}`)
	config, err := load(nil, lookup(map[string]string{"ALMANAC_EXECUTOR_CONFIG": path}))
	if err != nil || config.KillGrace != time.Second {
		t.Errorf("config %+v, %v", config, err)
	}
}

func TestBadConfigNamesTheField(t *testing.T) {
	token := write(t, "token", "secret")
	for _, c := range []struct {
		name  string
		flags map[string]string
		env   map[string]string
		file  string
		want  string
	}{
		{name: "no registry", flags: map[string]string{"registries": ""}, want: "registries: is required"},
		{name: "no host", flags: map[string]string{"registries": "a:1,:1"}, want: `registries: ":1" must be host:port`},
		{name: "no port", flags: map[string]string{"registries": "here"}, want: `registries: "here" must be host:port`},
		{name: "no token", flags: map[string]string{"token-file": ""}, want: "token_file: is required"},
		{name: "token missing", flags: map[string]string{"token-file": token + "x"}, want: "token_file: token file: open"},
		{name: "plaintext and CA", flags: map[string]string{"plaintext": "true", "ca-file": "x"}, want: "plaintext: excludes"},
		{name: "slots", flags: map[string]string{"slots": "0"}, want: "slots: must be between 1 and 100000, but is 0"},
		{name: "slots a word", flags: map[string]string{"slots": "many"}, want: "--slots: must be a whole number"},
		{name: "grace", flags: map[string]string{"grace": "-1s"}, want: "grace: must be between 0s and 24h"},
		{name: "grace a number", env: map[string]string{"ALMANAC_EXECUTOR_GRACE": "30"}, want: "ALMANAC_EXECUTOR_GRACE: must be a duration"},
		{name: "switch", env: map[string]string{"ALMANAC_EXECUTOR_PLAINTEXT": "maybe"}, want: "ALMANAC_EXECUTOR_PLAINTEXT: must be true or false"},
		{name: "labels", flags: map[string]string{"labels": "zone"}, want: `--labels: "zone" must be key=value`},
		{name: "label twice", flags: map[string]string{"labels": "zone=a,disk=ssd,zone=b"}, want: `--labels: zone is given twice, as "a" and "b"`},
		{name: "label key", flags: map[string]string{"labels": "zo ne=a"}, want: `labels: the key "zo ne" must have 1 to 63 letters, digits and . _ / -`},
		{name: "label value", flags: map[string]string{"labels": "zone=a|b"}, want: `labels: the value "a|b" of zone must have`},
		{name: "empty label value", env: map[string]string{"ALMANAC_EXECUTOR_LABELS": "zone="}, want: `labels: the value "" of zone must have`},
		{name: "long label", file: "labels: {" + strings.Repeat("k", 64) + ": a}", want: "must have 1 to 63 letters"},
		{name: "noop limit", flags: map[string]string{"bench-noop-max-concurrency": "-1"}, want: "bench_noop_max_concurrency: must be between 0"},
		{name: "memory", flags: map[string]string{"memory-mb": "10"}, want: "memory_mb: must be 0 for unlimited, or between 64"},
		{name: "name", flags: map[string]string{"name": " "}, want: "name: must not be empty"},
		{name: "runner", flags: map[string]string{"runner": ""}, want: "runner: must name"},
		{name: "health", flags: map[string]string{"health-addr": "8080"}, want: `health_addr: "8080" must be host:port`},
		{name: "connection without kind", file: "connections: {main: {uri: x}}", want: "connections.main: needs a name and a kind"},
		{name: "connection with both", file: "connections: {main: {kind: mongodb, uri: x, uri_file: y}}", want: "connections.main: needs either"},
		{name: "connection with an odd name", file: "connections: {a b: {kind: mongodb, uri: x}}", want: "connections.a b: needs a name"},
		{name: "connection with an odd kind", file: "connections: {main: {kind: Mongo, uri: x}}", want: "connections.main: needs a name and a kind"},
		{name: "webhook with both", file: "connections: {main: {kind: webhook, uri: x, uri_file: y}}", want: "connections.main: needs either"},
		{name: "unknown field", file: "slot: 3", want: "field slot not found"},
		{name: "no file", flags: map[string]string{"config": "/nonexistent"}, want: "--config: open /nonexistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags := map[string]string{"registries": "localhost:9090", "token-file": token}
			if c.file != "" {
				flags["config"] = write(t, "config.yaml", c.file)
			}
			for name, value := range c.flags {
				flags[name] = value
			}
			if _, err := load(flags, lookup(c.env)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("load: %v, want %q", err, c.want)
			}
		})
	}
}

func TestHelpNamesEverything(t *testing.T) {
	command := Command()
	var help strings.Builder
	command.SetOut(&help)
	command.SetArgs([]string{"--help"})
	if err := command.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names(), "config") {
		if !strings.Contains(help.String(), "--"+name) {
			t.Errorf("the help lacks --%s", name)
		}
	}
	if !strings.Contains(help.String(), "ALMANAC_EXECUTOR_TOKEN_FILE") {
		t.Error("the help does not say how variables are named")
	}
}

func TestCommandRefuses(t *testing.T) {
	command := Command()
	command.SetErr(new(strings.Builder))
	command.SetArgs([]string{"--slots=0", "--plaintext"})
	if err := command.Execute(); err == nil || !strings.Contains(err.Error(), "slots: must be") {
		t.Errorf("Execute: %v", err)
	}
}

func TestOtherCommands(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"completion", "bash"}} {
		command := Command()
		var out strings.Builder
		command.SetOut(&out)
		command.SetArgs(args)
		if err := command.Execute(); err != nil || out.Len() == 0 {
			t.Errorf("%v: %v, printed %q", args, err, out.String())
		}
	}
}
